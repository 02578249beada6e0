//! What a client and a server both know beyond the protocol's base: told in `welcome` in each form, and kept by the
//! connection for as long as it is there.

use banter_chat::access::Access;
use banter_chat::address::{ConnectionId, Core, Now, Placement};
use banter_chat::limits::Limits;
use banter_chat::logs::LogConfig;
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::sessions::{Actions, Welcome};
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event;
use banter_protocol::features::{FeatureNames, Features, KNOWN, Known};
use banter_protocol::ids::Epoch;
use banter_protocol::request::{Ask, Request};
use banter_protocol::wire::WireForm;

const TWO: Known = Known::new(&["edits", "roles"]);
const FIRST: ConnectionId = ConnectionId { slot: 0, generation: 1 };
const SECOND: ConnectionId = ConnectionId { slot: 1, generation: 1 };

struct Server {
    shard: Shard,
}

impl Server {
    fn knowing(features: Known) -> Self {
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            placement: Placement::of_one_server(1),
            limits: Limits { idle_timeout_ms: 0, ..Limits::default() },
            welcome: Welcome { limits: "a_max 1\n".to_owned(), durability: "memory", features, run: 7 },
            access: Access::Open,
            first_epoch: Epoch(100),
            epochs_end: Epoch(1 << 40),
            policies: RoomPolicies::all(Durability::Memory),
            post_rates: PostRates::default(),
            logs: LogConfig::None,
        });
        Server { shard }
    }

    fn open(&mut self, client: ConnectionId, form: WireForm) {
        self.shard.handle(client, Input::Opened { form, preface: &[] });
    }

    /// What comes behind a `hello` with these features.
    fn hello(&mut self, client: ConnectionId, user: &str, lines: &str) -> Vec<u8> {
        let features = FeatureNames::read_lines(lines).unwrap();
        let ask = Ask::Hello { user: user.into(), token: None, features };
        self.shard.begin_turn(Now { monotonic_ms: 7, ..Now::default() }, []);
        self.shard.handle(client, Input::Request(&Request { id: Some(1), ask }));
        self.shard.finish_turn();
        let mut heard = Vec::new();
        while let Some((_, sending)) = self.shard.next_send() {
            heard.extend_from_slice(sending.bytes());
        }
        self.shard.handle(client, Input::Sent);
        *self.shard.actions_mut() = Actions::default();
        heard
    }

    fn agreed(&self, client: ConnectionId) -> Features {
        self.shard.sessions().session(client).unwrap().agreed
    }
}

fn written(form: WireForm, event: &Event<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    form.write_event(event, &mut bytes);
    bytes
}

fn welcome(form: WireForm, features: &str) -> Vec<u8> {
    let (id, session, user, durability, limits) = (Some(1), "7-0-0-1", "ann", "memory", "a_max 1\n");
    written(form, &Event::Welcome { id, session, user, durability, features, limits, expires_in_ms: None })
}

fn set(lines: &str) -> Features {
    TWO.agree(&FeatureNames::read_lines(lines).unwrap())
}

#[test]
fn a_welcome_tells_what_both_know_and_the_connection_keeps_it() {
    for form in WireForm::ALL {
        for (said, agreed) in
            [("", ""), ("polls\n", ""), ("edits\n", "edits\n"), ("roles\npolls\nedits\nroles\n", "edits\nroles\n")]
        {
            let mut server = Server::knowing(TWO);
            server.open(FIRST, form);
            assert_eq!(server.agreed(FIRST), Features::NONE, "nothing was said yet");
            assert!(server.hello(FIRST, "ann", said) == welcome(form, agreed), "{form:?}: {said:?}");
            assert_eq!(server.agreed(FIRST), set(agreed));
        }
    }
}

#[test]
fn a_server_of_this_version_agrees_on_nothing() {
    for form in WireForm::ALL {
        let mut server = Server::knowing(KNOWN);
        server.open(FIRST, form);
        assert!(server.hello(FIRST, "ann", "edits\nroles\nchanges\n") == welcome(form, ""), "{form:?}");
        assert_eq!(server.agreed(FIRST), Features::NONE);
    }
}

#[test]
fn what_a_connection_agreed_on_holds_for_it_alone_and_not_for_the_next_in_its_place() {
    let mut server = Server::knowing(TWO);
    server.open(FIRST, WireForm::Native);
    server.open(SECOND, WireForm::Native);
    server.hello(FIRST, "ann", "edits\n");
    server.hello(SECOND, "bob", "roles\n");
    assert_eq!((server.agreed(FIRST), server.agreed(SECOND)), (set("edits\n"), set("roles\n")));

    server.shard.handle(FIRST, Input::Closed);
    let next = ConnectionId { generation: 2, ..FIRST };
    server.open(next, WireForm::Native);
    assert_eq!(server.agreed(next), Features::NONE);
    server.hello(next, "ann", "");
    assert_eq!((server.agreed(next), server.agreed(SECOND)), (Features::NONE, set("roles\n")));
}

#[test]
fn a_hello_that_is_refused_changes_nothing() {
    let refusal = |message| {
        let (id, code) = (Some(1), ErrorCode::BadRequest);
        written(WireForm::Native, &Event::Error { id, code, message, retry_after_ms: None, scope: None, reason: None })
    };
    let mut server = Server::knowing(TWO);
    server.open(FIRST, WireForm::Native);
    assert!(server.hello(FIRST, "", "edits\n") == refusal("`user`: it is empty"));
    assert_eq!(server.agreed(FIRST), Features::NONE);
    server.hello(FIRST, "ann", "roles\n");
    assert!(server.hello(FIRST, "ann", "edits\nroles\n") == refusal("`hello` comes once"));
    assert_eq!(server.agreed(FIRST), set("roles\n"));
}
