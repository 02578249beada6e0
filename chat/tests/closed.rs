//! What comes over a lane to a core that does not own the room: each ask has its answer, and none is an acknowledgement.

mod one_core;

use banter_access::rights::Rights;
use banter_chat::access::Access;
use banter_chat::address::{ConnectionId, Core, Now, Peer, Placement, SubscriptionId};
use banter_chat::backend::BACKEND;
use banter_chat::latencies::PageSource;
use banter_chat::logs::{LogConfig, LogId};
use banter_chat::parcel::{Answer, CatchUp, Down, FetchAsk, JoinAsk, OwnedBody, Refusal, SayAsk, Up};
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::sessions::Welcome;
use banter_chat::shard::{Shard, ShardConfig};
use banter_log::catalog::Catalog;
use banter_log::journal::JournalParts;
use banter_protocol::error_code::ErrorCode;
use banter_protocol::features::KNOWN;
use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence, UserName};
use banter_protocol::request::{FetchFrom, JoinFrom};

/// A reader on the other core.
const READER: Peer = Peer { core: Core(1), connection: ConnectionId { slot: 3, generation: 1 } };

struct Owner {
    shard: Shard,
    room: RoomName,
    log: LogId,
}

impl Owner {
    /// Of two cores the first, with the log of a partition open.
    fn new(durability: Durability) -> Self {
        let placement = Placement::in_cluster(2, 16).unwrap();
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            placement,
            limits: one_core::roomy(),
            welcome: Welcome { limits: String::new(), durability: "synced", features: KNOWN, run: 1 },
            access: Access::Open,
            first_epoch: Epoch(100),
            epochs_end: Epoch(1 << 40),
            policies: RoomPolicies::all(durability),
            post_rates: PostRates::default(),
            logs: LogConfig::Partitions { hold_ms: 2_000 },
        });
        let mut names = (0..).map(|number| format!("room-{number}"));
        let name = names.find(|name| placement.core_of(RoomId::of(name)) == Core(0)).unwrap();
        let log = LogId(placement.partition_of(RoomId::of(&name)));
        let mut owner = Owner { shard, room: RoomName::new(&name).unwrap(), log };
        owner.open();
        owner.begin_turn();
        owner
    }

    fn open(&mut self) {
        let parts = JournalParts {
            run: 1,
            commit_bytes_max: 1 << 18,
            reads_max: 4,
            work_steps_max: 256,
            cache_bytes_max: 0,
            catalog: Catalog::default(),
            indexes: Default::default(),
        };
        assert!(self.shard.open_log(self.log, parts));
    }

    /// So many rooms of another partition that the walk through those that leave memory takes more than a turn.
    fn fill(&mut self) {
        let placement = Placement::in_cluster(2, 16).unwrap();
        let other = LogId((self.log.0 + 2) % 16);
        let room = std::mem::replace(&mut self.log, other);
        self.open();
        self.log = room;
        let of_other = |name: &String| LogId(placement.partition_of(RoomId::of(name))) == other;
        for name in (0..).map(|number| format!("room-{number}")).filter(of_other).take(600) {
            let Up::Join(mut ask) = self.join() else { unreachable!() };
            ask.room = RoomName::new(&name).unwrap();
            self.shard.take_up(Up::Join(ask));
        }
        self.shard.finish_turn();
        self.shard.outgoing_mut().down.clear();
        self.begin_turn();
    }

    fn begin_turn(&mut self) {
        self.shard.begin_turn(Now { monotonic_ms: 9, monotonic_us: 9_000, unix_ms: 1_000 }, [(Core(1), 9_999, 9_999)]);
    }

    fn id(&self) -> RoomId {
        RoomId::of(self.room.as_str())
    }

    fn join(&self) -> Up {
        Up::Join(Box::new(JoinAsk {
            room: self.room.clone(),
            reader: READER,
            subscription: SubscriptionId { slot: 5, join: 1 },
            request: Some(1),
            user: UserName::new("ann").unwrap(),
            rights: Rights::ALL,
            from: JoinFrom::Now,
            read_already: None,
            echo: true,
            presence: true,
        }))
    }

    fn catch_up(&self) -> Up {
        let (reader, subscription) = (READER, SubscriptionId { slot: 5, join: 1 });
        Up::CatchUp(CatchUp {
            room: self.id(),
            reader,
            subscription,
            after: Sequence(0),
            echo: true,
            ticket: PageSource::Memory,
        })
    }

    fn fetch(&self) -> Up {
        Up::Fetch(FetchAsk {
            room: self.room.clone(),
            asker: READER,
            rights: Rights::ALL,
            request: Some(5),
            from: FetchFrom::After(Sequence(0)),
            messages_max: 9,
            user: Some(UserName::new("ann").unwrap()),
            least: Sequence(0),
            is_judged: false,
        })
    }

    /// Everything that can come, and what is answered besides a signal and a leave that nobody asked for.
    fn asks(&self) -> Vec<(Up, Option<u64>)> {
        let (room, user) = (self.id(), UserName::new("ann").unwrap());
        let (author, rights, body) = (READER, Rights::ALL, OwnedBody::json(bytes::Bytes::from_static(b"1")));
        let say = SayAsk {
            room: self.room.clone(),
            author,
            user: user.clone(),
            request: Some(3),
            key: None,
            body: body.clone(),
            hop: 0,
        };
        let refusal = Box::new(Refusal::new(ErrorCode::Forbidden, "no"));
        let leave = |asked| Up::Leave { room: self.room.clone(), leaver: READER, user: user.clone(), asked };
        let post =
            Up::Post { room, author, user: user.clone(), rights, request: Some(2), key: None, body: body.clone() };
        vec![
            (self.join(), Some(1)),
            (post, Some(2)),
            (Up::Say(Box::new(say)), Some(3)),
            (Up::Refuse { room, author, request: Some(4), refusal }, Some(4)),
            (self.fetch(), Some(5)),
            (Up::Members { room: self.room.clone(), asker: READER, rights, request: Some(6) }, Some(6)),
            (leave(Some(Some(7))), Some(7)),
            (leave(None), None),
            (Up::Signal { room, author, user: user.clone(), rights, body }, None),
        ]
    }

    /// What goes down to the other core: the request, and the code of the refusal.
    fn told(&mut self) -> Vec<(Option<u64>, Option<ErrorCode>)> {
        self.shard.finish_turn();
        let down = std::mem::take(&mut self.shard.outgoing_mut().down);
        self.begin_turn();
        let code = |parcel: Down| match parcel {
            Down::JoinRefused { request, refusal, .. } => Some((request, Some(refusal.code))),
            Down::CaughtUp { page, .. } => Some((None, page.is_unread.then_some(ErrorCode::Unavailable))),
            Down::Answer { request, answer, .. } => match answer {
                Answer::Refused(refusal)
                | Answer::PostRefused(refusal)
                | Answer::MembersRefused(refusal)
                | Answer::FetchRefused(refusal) => Some((request, Some(refusal.code))),
                _ => Some((request, None)),
            },
            Down::Presence { .. } => None,
            other => Some((None, panic_on(other))),
        };
        down.into_iter().filter_map(|(_, parcel)| code(parcel)).collect()
    }
}

fn panic_on<T>(parcel: Down) -> T {
    panic!("{parcel:?}")
}

#[test]
fn each_ask_about_a_room_without_an_owner_has_an_answer_of_its_own_kind() {
    for is_there in [false, true] {
        let mut owner = Owner::new(Durability::Synced);
        if is_there {
            let join = owner.join();
            owner.shard.take_up(join);
            owner.shard.finish_turn();
            owner.shard.outgoing_mut().down.clear();
            owner.begin_turn();
        }
        owner.shard.close_log(owner.log);
        for (ask, request) in owner.asks() {
            let what = format!("{ask:?}");
            owner.shard.take_up(ask);
            let told = owner.told();
            let Some(request) = request else {
                assert_eq!(told, [], "{what}");
                continue;
            };
            // A refusal of the connection's own core stays what it is.
            let code = if request == 4 { ErrorCode::Forbidden } else { ErrorCode::Unavailable };
            assert_eq!(told, [(Some(request), Some(code))], "{what}");
        }
        assert_eq!(owner.shard.rooms().iter().count(), 0);
    }
}

#[test]
fn who_catches_up_in_a_room_without_an_owner_is_to_ask_again_and_never_told_that_there_is_nothing() {
    let unread = [(None, Some(ErrorCode::Unavailable))];
    let mut owner = Owner::new(Durability::Synced);
    owner.fill();
    let (join, catch_up) = (owner.join(), owner.catch_up());
    owner.shard.take_up(join);
    owner.shard.finish_turn();
    owner.shard.outgoing_mut().down.clear();
    owner.begin_turn();
    // Its page waits for the turn's end while the log closes.
    owner.shard.take_up(catch_up);
    owner.shard.close_log(owner.log);
    assert_eq!(owner.told(), unread);
    owner.shard.take_up(owner.catch_up());
    assert_eq!(owner.told(), unread);
    // Opened again: the room is not there, and nobody left it.
    owner.open();
    owner.shard.take_up(owner.catch_up());
    assert_eq!(owner.told(), unread);
}

#[test]
fn a_page_that_waits_for_the_turns_end_is_refused_when_the_log_closes() {
    for durability in [Durability::Synced, Durability::Memory] {
        let mut owner = Owner::new(durability);
        owner.fill();
        let (join, fetch) = (owner.join(), owner.fetch());
        owner.shard.take_up(join);
        owner.shard.finish_turn();
        owner.shard.outgoing_mut().down.clear();
        owner.begin_turn();
        owner.shard.take_up(fetch);
        owner.shard.close_log(owner.log);
        assert_eq!(owner.told(), [(Some(5), Some(ErrorCode::Unavailable))]);
    }
}

#[test]
fn a_signal_that_has_no_owner_is_counted_as_dropped() {
    let mut owner = Owner::new(Durability::Memory);
    owner.shard.close_log(owner.log);
    let signal = Up::Signal {
        room: owner.id(),
        author: Peer { core: Core(0), connection: BACKEND },
        user: UserName::new("app").unwrap(),
        rights: Rights::ALL,
        body: OwnedBody::json(bytes::Bytes::from_static(b"1")),
    };
    owner.shard.take_up(signal);
    assert_eq!(owner.told(), []);
    assert_eq!(owner.shard.counters().signals_dropped, 1);
}
