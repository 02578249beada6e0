//! A core that asks for tokens, with connections that prove who they are: what is judged is judged by the test.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use banter_access::grants::{RoomDefault, RoomDefaults};
use banter_access::guest::{GUEST_SEED_BYTES, GuestSeed};
use banter_access::keys::Keys;
use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::proof::Proof;
use banter_access::rights::Rights;
use banter_access::token::{Rules, judge};
use banter_chat::access::{Access, TokenAccess};
use banter_chat::address::{ConnectionId, Core, Now, Placement};
use banter_chat::limits::Limits;
use banter_chat::logs::LogConfig;
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::proving::{NotProved, Proved, Proving};
use banter_chat::sessions::{Actions, Welcome};
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_protocol::event::Event;
use banter_protocol::features::{FeatureNames, KNOWN};
use banter_protocol::frame::{Frame, Frames};
use banter_protocol::ids::{Epoch, Sequence};
use banter_protocol::native;
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};
use banter_protocol::wire::WireForm;

pub const START_S: u64 = 1_000_000;
pub const LEEWAY_S: u64 = 5;
pub const GRACE_MS: u64 = 2_000;
const SECRET: &[u8] = b"a secret of thirty-two bytes, or more";

/// The claims of a token that is made at the start and holds for so many seconds.
pub fn claims(user: &str, seconds: u64, rooms: &[(&str, Rights)]) -> ClaimsToMint {
    let rooms = rooms.iter().map(|&(pattern, rights)| (Pattern::new(pattern).unwrap(), rights)).collect();
    ClaimsToMint { rooms, ..ClaimsToMint::new(user, START_S, START_S + seconds) }
}

/// What a token with these claims proves.
pub fn proof_of(claims: &ClaimsToMint) -> Arc<Proof> {
    let token = mint(&SigningKey::from_secret(SECRET).unwrap(), claims).unwrap();
    let mut keys = Keys::new();
    keys.add_secret(SECRET, None).unwrap();
    Arc::new(judge(&token, &keys, &Rules::default(), claims.issued_seconds).unwrap())
}

pub fn proof(user: &str, seconds: u64, rooms: &[(&str, Rights)]) -> Arc<Proof> {
    proof_of(&claims(user, seconds, rooms))
}

/// Tokens are asked for, and the configuration gives that to users in rooms of these names.
pub fn access(rooms: &[(&str, Rights)]) -> Access {
    let of_users: Vec<_> = rooms.iter().map(|&(pattern, users)| (pattern, users, Rights::NONE)).collect();
    Access::Token(token_access(&of_users, None))
}

/// The same with guests, and what it gives users and guests.
pub fn access_with_guests(rooms: &[(&str, Rights, Rights)]) -> Access {
    Access::Token(token_access(rooms, Some(GuestSeed::new([7; GUEST_SEED_BYTES]))))
}

fn token_access(rooms: &[(&str, Rights, Rights)], guests: Option<GuestSeed>) -> TokenAccess {
    let default = |&(pattern, users, guests): &(&str, Rights, Rights)| {
        (Pattern::new(pattern).unwrap(), RoomDefault { users, guests })
    };
    let defaults = RoomDefaults { entries: rooms.iter().map(default).collect(), otherwise: RoomDefault::CLOSED };
    TokenAccess { defaults, leeway_seconds: LEEWAY_S, grace_ms: GRACE_MS, guests }
}

pub struct Server {
    pub shard: Shard,
    pub now_ms: u64,
    heard: BTreeMap<u32, Vec<String>>,
}

impl Server {
    pub fn new(access: Access) -> Self {
        Self::limited(access, Limits::default())
    }

    /// With these limits, but for those that would come in every test's way.
    pub fn limited(access: Access, limits: Limits) -> Self {
        let limits = Limits { idle_timeout_ms: 0, joins_per_second_max: 0, ..limits };
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            placement: Placement::of_one_server(1),
            limits,
            welcome: Welcome { limits: String::new(), durability: "memory", features: KNOWN, run: 1 },
            access,
            first_epoch: Epoch(100),
            epochs_end: Epoch(1 << 40),
            policies: RoomPolicies::all(Durability::Memory),
            post_rates: PostRates::default(),
            logs: LogConfig::None,
        });
        Server { shard, now_ms: 0, heard: BTreeMap::new() }
    }

    /// A turn that much later, and what the shell is to do behind it.
    pub fn turn(&mut self, later_ms: u64, act: impl FnOnce(&mut Shard)) -> Actions {
        self.now_ms += later_ms;
        let unix_ms = START_S * 1_000 + self.now_ms;
        self.shard.begin_turn(Now { monotonic_ms: self.now_ms, monotonic_us: self.now_ms * 1_000, unix_ms }, []);
        act(&mut self.shard);
        self.shard.finish_turn();
        while let Some((id, sending)) = self.shard.next_send() {
            let heard = self.heard.entry(id.slot).or_default();
            heard.extend(Frames(sending.bytes()).map(|frame| told(frame.expect("a frame"))));
            drop(sending);
            self.shard.handle(id, Input::Sent);
        }
        std::mem::take(self.shard.actions_mut())
    }

    /// Turns until nothing is left to do.
    pub fn rest(&mut self) {
        while {
            self.turn(1, |_| {});
            self.shard.is_busy()
        } {}
    }

    /// What a connection was sent since the last time.
    pub fn hear(&mut self, id: ConnectionId) -> Vec<String> {
        self.heard.remove(&id.slot).unwrap_or_default()
    }

    pub fn open(&mut self, slot: u32) -> ConnectionId {
        let id = ConnectionId { slot, generation: 1 };
        self.turn(0, |shard| shard.handle(id, Input::Opened { form: WireForm::Native, preface: &[] }));
        id
    }

    /// Asks, with the number 7, and gives what the connection hears in this turn.
    pub fn ask(&mut self, id: ConnectionId, ask: Ask<'_>) -> Vec<String> {
        self.turn(1, |shard| shard.handle(id, request(ask)));
        self.hear(id)
    }

    /// Says hello as somebody without a token, or with an empty name as nobody; what the connection hears.
    pub fn hello_without_token(&mut self, id: ConnectionId, user: &str) -> Vec<String> {
        self.ask(id, Ask::Hello { user: user.to_owned().into(), token: None, features: FeatureNames::NONE })
    }

    /// Opens a connection that is a guest; with its name.
    pub fn come_in_as_guest(&mut self, slot: u32) -> (ConnectionId, String) {
        let id = self.open(slot);
        let heard = self.hello_without_token(id, "");
        let name = heard[0].strip_prefix("welcome ").and_then(|rest| rest.strip_suffix(" 0"));
        (id, name.unwrap_or_else(|| panic!("{heard:?}")).to_owned())
    }

    /// Says hello with a token; the token to be judged.
    pub fn hello(&mut self, id: ConnectionId, user: &str) -> Proving {
        let hello = Ask::Hello { user: user.to_owned().into(), token: Some("t".into()), features: FeatureNames::NONE };
        self.turn(1, |shard| shard.handle(id, request(hello))).prove.pop().expect("a token to judge")
    }

    pub fn renew(&mut self, id: ConnectionId) -> Proving {
        let renew = Ask::Renew { token: "t2".into() };
        self.turn(1, |shard| shard.handle(id, request(renew))).prove.pop().expect("a token to judge")
    }

    /// A verdict, and what the connection hears.
    pub fn proved(&mut self, proving: Proving, verdict: Result<Arc<Proof>, NotProved>) -> Vec<String> {
        let id = proving.connection;
        self.turn(1, |shard| shard.proved(Proved { proving, verdict }));
        self.hear(id)
    }

    /// Opens a connection that is who that proof says.
    pub fn come_in(&mut self, slot: u32, proof: Arc<Proof>) -> ConnectionId {
        let id = self.open(slot);
        let proving = self.hello(id, "");
        let heard = self.proved(proving, Ok(proof));
        assert!(heard[0].starts_with("welcome"), "{heard:?}");
        id
    }

    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.shard.sessions().session(id).is_some_and(|session| session.is_open())
    }

    pub fn is_read(&self, id: ConnectionId) -> bool {
        self.shard.sessions().is_read(id)
    }
}

pub fn request(ask: Ask<'_>) -> Input<'static> {
    let ask: Ask<'static> = owned(ask);
    Input::Request(Box::leak(Box::new(Request { id: Some(7), ask })))
}

fn owned(ask: Ask<'_>) -> Ask<'static> {
    let mut bytes = Vec::new();
    native::write_request(&Request { id: None, ask }, &mut bytes);
    let (frame, _) = Frame::read(bytes.leak(), u32::MAX).expect("a frame");
    native::read_request(frame).expect("a request").ask
}

pub fn join(room: &str) -> Ask<'_> {
    Ask::Join { room: room.into(), from: JoinFrom::Now, echo: true, presence: false, token: None }
}

pub fn post(room: &str) -> Ask<'_> {
    Ask::Post { room: room.into(), body: Body { format: BodyFormat::Json, bytes: b"1" }, key: None }
}

pub fn fetch(room: &str) -> Ask<'_> {
    Ask::Fetch { room: room.into(), from: FetchFrom::After(Sequence(0)), limit: None }
}

/// An event in short.
pub fn told(frame: &[u8]) -> String {
    let (frame, _) = Frame::read(frame, u32::MAX).expect("a frame");
    match native::read_event(frame).expect("an event") {
        Event::Welcome { user, expires_in_ms, .. } => format!("welcome {user} {}", expires_in_ms.unwrap_or(0)),
        Event::Joined { room, .. } => format!("joined {room}"),
        Event::Left { room, .. } => format!("left {room}"),
        Event::Posted { sequence, .. } => format!("posted {}", sequence.0),
        Event::Error { id, code, .. } => format!("{}{}", if id.is_some() { "" } else { "closed " }, code.as_str()),
        Event::Message(message) => format!("message {} {}", message.room, message.sequence.0),
        Event::Page { messages, .. } => format!("page of {}", Frames(messages).count()),
        Event::Members { users, .. } => format!("members {}", users.lines().collect::<Vec<_>>().join(" ")),
        Event::Renewed { expires_in_ms, .. } => format!("renewed {expires_in_ms}"),
        Event::Expiring { in_ms } => format!("expiring {in_ms}"),
        Event::Removed { room, code } => format!("removed {room} {}", code.as_str()),
        Event::Presence { change, count, .. } => match change {
            Some((user, state)) => format!("presence {user} {} {count}", state.as_str()),
            None => format!("presence {count}"),
        },
        other => format!("{other:?}"),
    }
}
