//! A connection that has to prove who it is: what waits for the verdict, what it changes, and when it ends.

use banter_access::grants::{RoomDefault, RoomDefaults};
use banter_access::keys::Keys;
use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::proof::Proof;
use banter_access::rights::Rights;
use banter_access::token::{Rules, judge};
use banter_chat::access::{Access, NotProved, Proved, Proving, TokenAccess};
use banter_chat::address::{ConnectionId, Core, Now};
use banter_chat::limits::Limits;
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::sessions::{Actions, Welcome};
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_protocol::features::{FeatureNames, KNOWN};
use banter_protocol::ids::Epoch;
use banter_protocol::request::{Ask, JoinFrom, Request};
use banter_protocol::wire::WireForm;

const ANN: ConnectionId = ConnectionId { slot: 0, generation: 1 };
const START_S: u64 = 1_000_000;
const LEEWAY_S: u64 = 5;
const GRACE_MS: u64 = 2_000;
const SECRET: &[u8] = b"a secret of thirty-two bytes, or more";

struct Server {
    shard: Shard,
    now_ms: u64,
}

/// The proof of a token that holds for so many seconds from the start.
fn proof(user: &str, seconds: u64) -> Box<Proof> {
    let rooms = vec![(Pattern::new("lobby").unwrap(), Rights::READ | Rights::WRITE)];
    let claims = ClaimsToMint { rooms, ..ClaimsToMint::new(user, START_S, START_S + seconds) };
    let token = mint(&SigningKey::from_secret(SECRET).unwrap(), &claims).unwrap();
    let mut keys = Keys::new();
    keys.add_secret(SECRET, None).unwrap();
    Box::new(judge(&token, &keys, &Rules::default(), START_S).unwrap())
}

impl Server {
    fn new() -> Self {
        let defaults = RoomDefaults { entries: Vec::new(), otherwise: RoomDefault::CLOSED };
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            cores: 1,
            limits: Limits { idle_timeout_ms: 0, ..Limits::default() },
            welcome: Welcome { limits: String::new(), durability: "memory", features: KNOWN, run: 1 },
            access: Access::Token(TokenAccess { defaults, leeway_seconds: LEEWAY_S, grace_ms: GRACE_MS }),
            first_epoch: Epoch(100),
            epochs_end: Epoch(1 << 40),
            policies: RoomPolicies::all(Durability::Memory),
            journal: None,
        });
        let mut server = Server { shard, now_ms: 0 };
        server.turn(0, |shard| shard.handle(ANN, Input::Opened { form: WireForm::Json, preface: &[] }));
        server
    }

    /// A turn that much later: what was sent, and what the shell is to do.
    fn turn(&mut self, later_ms: u64, act: impl FnOnce(&mut Shard)) -> (String, Actions) {
        self.now_ms += later_ms;
        let unix_ms = START_S * 1_000 + self.now_ms;
        self.shard.begin_turn(Now { monotonic_ms: self.now_ms, monotonic_us: self.now_ms * 1_000, unix_ms }, []);
        act(&mut self.shard);
        self.shard.finish_turn();
        let mut sent = Vec::new();
        while let Some((id, sending)) = self.shard.next_send() {
            sent.extend_from_slice(sending.bytes());
            drop(sending);
            self.shard.handle(id, Input::Sent);
        }
        (String::from_utf8_lossy(&sent).into_owned(), std::mem::take(self.shard.actions_mut()))
    }

    fn ask(&mut self, ask: Ask<'_>) -> (String, Actions) {
        self.turn(1, |shard| shard.handle(ANN, Input::Request(&Request { id: Some(7), ask })))
    }

    fn hello(&mut self, user: &str) -> Vec<Proving> {
        let hello = Ask::Hello { user: user.to_owned().into(), token: Some("t".into()), features: FeatureNames::NONE };
        self.ask(hello).1.prove
    }

    fn proved(&mut self, proving: Proving, verdict: Result<Box<Proof>, NotProved>) -> (String, Actions) {
        self.turn(1, |shard| shard.proved(Proved { proving, verdict }))
    }

    fn is_read(&self) -> bool {
        self.shard.sessions().is_read(ANN)
    }
}

fn join(room: &str) -> Ask<'_> {
    Ask::Join { room: room.into(), from: JoinFrom::Now, echo: true, presence: false }
}

#[test]
fn a_connection_waits_for_its_verdict_and_is_read_again_behind_it() {
    let mut server = Server::new();
    let proving = server.hello("").pop().unwrap();
    assert_eq!((&*proving.token, proving.connection), ("t", ANN));
    assert!(!server.is_read(), "what it sends meanwhile waits");
    let (sent, actions) = server.proved(proving, Ok(proof("ann", 60)));
    assert!(
        sent.contains("welcome") && sent.contains("\"user\":\"ann\"") && sent.contains("\"expires_in_ms\":59"),
        "{sent}"
    );
    assert!(server.is_read() && actions.resume == [ANN]);
    assert!(server.ask(join("lobby")).0.contains("joined"));
    assert!(server.ask(join("staff")).0.contains("forbidden"));
}

#[test]
fn a_verdict_that_comes_too_late_or_twice_is_nobodys() {
    let mut server = Server::new();
    let proving = server.hello("").pop().unwrap();
    server.turn(1, |shard| shard.handle(ANN, Input::Closed));
    let next = ConnectionId { generation: 2, ..ANN };
    server.turn(1, |shard| shard.handle(next, Input::Opened { form: WireForm::Json, preface: &[] }));
    let (sent, _) = server.proved(proving.clone(), Ok(proof("ann", 60)));
    assert!(sent.is_empty() && server.shard.sessions().session(next).unwrap().user.is_none(), "{sent}");

    let mut server = Server::new();
    let proving = server.hello("").pop().unwrap();
    server.proved(proving.clone(), Ok(proof("ann", 60)));
    let (sent, _) = server.proved(proving, Ok(proof("eve", 60)));
    assert!(sent.is_empty(), "{sent}");
    assert_eq!(server.shard.sessions().session(ANN).unwrap().user.as_ref().unwrap().as_str(), "ann");
}

#[test]
fn another_name_than_the_tokens_is_refused_and_what_could_not_be_judged_is_no_try() {
    let mut server = Server::new();
    for _ in 0..5 {
        let proving = server.hello("").pop().unwrap();
        let (sent, _) = server.proved(proving, Err(NotProved::Unavailable));
        assert!(sent.contains("unavailable") && sent.contains("retry_after_ms"), "{sent}");
    }
    for times in 1..=3 {
        let proving = server.hello("bob").pop().unwrap();
        let (sent, _) = server.proved(proving, Ok(proof("ann", 60)));
        assert!(sent.contains("unauthorized"), "{sent}");
        assert_eq!(server.shard.sessions().session(ANN).unwrap().is_open(), times < 3);
    }
}

#[test]
fn a_token_that_ends_asks_nothing_and_its_connection_ends_behind_the_grace() {
    let mut server = Server::new();
    let proving = server.hello("").pop().unwrap();
    server.proved(proving, Ok(proof("ann", 60)));
    assert!(server.ask(join("lobby")).0.contains("joined"));
    let ends_ms = (60 + LEEWAY_S) * 1_000 + GRACE_MS;
    assert_eq!(server.shard.next_due(), Some(ends_ms), "and nothing wakes it before");
    server.turn((60 + LEEWAY_S) * 1_000 - 1 - server.now_ms, |_| {});
    assert!(server.ask(join("lobby")).0.contains("expired"));
    assert!(server.ask(Ask::Leave { room: "lobby".into() }).0.contains("left"));
    let (sent, _) = server.turn(ends_ms - 1 - server.now_ms, |_| {});
    assert!(sent.is_empty() && server.is_read());
    let (sent, _) = server.turn(1, |_| {});
    assert!(sent.contains("expired") && !server.is_read(), "{sent}");
}

#[test]
fn nobody_waits_for_the_end_of_a_token_whose_connection_is_gone() {
    let mut server = Server::new();
    let proving = server.hello("").pop().unwrap();
    server.proved(proving, Ok(proof("ann", 60)));
    assert!(server.shard.next_due().is_some());
    server.turn(1, |shard| shard.handle(ANN, Input::Closed));
    assert_eq!(server.shard.next_due(), None);
}
