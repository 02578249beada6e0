//! The core of a room judges what comes up to it by the rights that come along, whatever the connection's core let through.

mod proved;

use banter_access::rights::Rights;
use banter_chat::address::{ConnectionId, Core, Now, Peer, Placement, SubscriptionId, core_of};
use banter_chat::limits::Limits;
use banter_chat::logs::LogConfig;
use banter_chat::parcel::{Answer, Down, FetchAsk, JoinAsk, OwnedBody, Up};
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::sessions::Welcome;
use banter_chat::shard::{Shard, ShardConfig};
use banter_protocol::error_code::ErrorCode;
use banter_protocol::features::KNOWN;
use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence, UserName};
use banter_protocol::request::{BodyFormat, FetchFrom, JoinFrom};
use proved::access;

const THERE: Core = Core(1);

/// The core of the rooms; the connections are on the other one.
struct Judge {
    shard: Shard,
    room: RoomName,
    now_ms: u64,
}

impl Judge {
    fn new() -> Self {
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            placement: Placement::of_one_server(2),
            limits: Limits::default(),
            welcome: Welcome { limits: String::new(), durability: "memory", features: KNOWN, run: 1 },
            access: access(&[]),
            first_epoch: Epoch(100),
            epochs_end: Epoch(1 << 40),
            policies: RoomPolicies::all(Durability::Memory),
            post_rates: PostRates::default(),
            logs: LogConfig::None,
        });
        let names = (0..).map(|number| format!("room-{number}"));
        let name = names.into_iter().find(|name| core_of(RoomId::of(name), 2) == Core(0)).expect("one of them");
        Judge { shard, room: RoomName::new(&name).expect("a name"), now_ms: 0 }
    }

    /// What goes down to the other core for these.
    fn take(&mut self, asks: Vec<Up>) -> Vec<Down> {
        self.now_ms += 1;
        let now = Now { monotonic_ms: self.now_ms, monotonic_us: self.now_ms * 1_000, unix_ms: self.now_ms };
        self.shard.begin_turn(now, [(THERE, 4_096, 4_096)]);
        asks.into_iter().for_each(|ask| self.shard.take_up(ask));
        self.shard.finish_turn();
        let down = std::mem::take(&mut self.shard.outgoing_mut().down);
        down.into_iter().map(|(_, parcel)| parcel).collect()
    }

    fn join(&self, slot: u32, rights: Rights, from: JoinFrom, presence: bool) -> Up {
        let (room, user) = (self.room.clone(), user());
        let subscription = SubscriptionId { slot, join: slot + 1 };
        let (request, read_already, echo) = (None, None, true);
        let reader = peer(slot);
        Up::Join(Box::new(JoinAsk {
            room,
            reader,
            subscription,
            request,
            user,
            rights,
            from,
            read_already,
            echo,
            presence,
        }))
    }

    fn post(&self, slot: u32, rights: Rights) -> Up {
        let (room, author, user) = (RoomId::of(self.room.as_str()), peer(slot), user());
        Up::Post { room, author, user, rights, request: None, key: None, body: body() }
    }

    fn fetch(&self, rights: Rights) -> Up {
        let (room, from) = (self.room.clone(), FetchFrom::After(Sequence(0)));
        let (user, least) = (None, Sequence(0));
        Up::Fetch(FetchAsk {
            room,
            asker: peer(0),
            rights,
            request: None,
            from,
            messages_max: 10,
            user,
            least,
            is_judged: false,
        })
    }
}

fn user() -> UserName {
    UserName::new("ann").expect("a name")
}

fn peer(slot: u32) -> Peer {
    Peer { core: THERE, connection: ConnectionId { slot, generation: 1 } }
}

fn body() -> OwnedBody {
    OwnedBody { format: BodyFormat::Json, bytes: "1".into() }
}

fn all_but(right: Rights) -> Rights {
    Rights::ALL.minus(right)
}

/// The code that an ask was refused with.
fn code(down: &[Down]) -> Option<ErrorCode> {
    down.iter().find_map(|parcel| match parcel {
        Down::JoinRefused { refusal, .. } => Some(refusal.code),
        Down::Answer {
            answer:
                Answer::Refused(refusal)
                | Answer::PostRefused(refusal)
                | Answer::MembersRefused(refusal)
                | Answer::FetchRefused(refusal),
            ..
        } => Some(refusal.code),
        _ => None,
    })
}

#[test]
fn a_join_without_its_rights_makes_no_reader_and_no_room() {
    for (right, from, presence) in [
        (Rights::READ, JoinFrom::Now, false),
        (Rights::HISTORY, JoinFrom::Last(1), false),
        (Rights::PRESENCE, JoinFrom::Now, true),
    ] {
        let mut judge = Judge::new();
        let join = judge.join(0, all_but(right), from, presence);
        assert_eq!(code(&judge.take(vec![join])), Some(ErrorCode::Forbidden), "{right}");
        assert_eq!(judge.shard.rooms().iter().count(), 0);
        let join = judge.join(0, Rights::READ | right, from, presence);
        assert_eq!(code(&judge.take(vec![join])), None, "{right}");
    }
}

#[test]
fn a_post_without_the_right_gets_no_place() {
    let mut judge = Judge::new();
    let join = judge.join(0, Rights::ALL, JoinFrom::Now, false);
    judge.take(vec![join]);
    let post = judge.post(0, all_but(Rights::WRITE));
    let down = judge.take(vec![post]);
    assert_eq!(code(&down), Some(ErrorCode::Forbidden));
    assert!(!down.iter().any(|parcel| matches!(parcel, Down::Messages { .. })));
    let post = judge.post(0, Rights::READ | Rights::WRITE);
    let down = judge.take(vec![post]);
    let place = down.iter().find_map(|parcel| match parcel {
        Down::Answer { answer: Answer::Posted { sequence, .. }, .. } => Some(*sequence),
        _ => None,
    });
    assert_eq!(place, Some(Sequence(1)), "the one before took none");
}

#[test]
fn pages_members_and_signals_take_their_rights_too() {
    let mut judge = Judge::new();
    let joins = vec![
        judge.join(0, Rights::ALL, JoinFrom::Now, false),
        judge.join(1, Rights::ALL, JoinFrom::Now, false),
        judge.post(0, Rights::ALL),
    ];
    judge.take(joins);
    let fetch = judge.fetch(all_but(Rights::HISTORY));
    assert_eq!(code(&judge.take(vec![fetch])), Some(ErrorCode::Forbidden));
    let fetch = judge.fetch(Rights::HISTORY);
    assert_eq!(code(&judge.take(vec![fetch])), None);
    let room = judge.room.clone();
    let members = |rights| Up::Members { room: room.clone(), asker: peer(0), rights, request: None };
    assert_eq!(code(&judge.take(vec![members(all_but(Rights::PRESENCE))])), Some(ErrorCode::Forbidden));
    assert_eq!(code(&judge.take(vec![members(Rights::PRESENCE)])), None);
    let id = RoomId::of(room.as_str());
    let signal = |rights| Up::Signal { room: id, author: peer(0), user: user(), rights, body: body() };
    let told = |down: Vec<Down>| down.iter().any(|parcel| matches!(parcel, Down::Signal { .. }));
    assert!(!told(judge.take(vec![signal(all_but(Rights::SIGNAL))])));
    assert!(told(judge.take(vec![signal(Rights::READ | Rights::SIGNAL)])));
}
