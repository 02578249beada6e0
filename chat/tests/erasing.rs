//! What is erased is told to nobody from then on: not to who joins, not to who lags behind, and its key is new again.

use std::collections::BTreeMap;
use std::sync::Arc;

use banter_chat::access::Access;
use banter_chat::address::{ConnectionId, Core, Now, Placement};
use banter_chat::erasing::Begun;
use banter_chat::limits::Limits;
use banter_chat::logs::{LogConfig, LogId};
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::sessions::{Actions, Welcome};
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_log::catalog::Catalog;
use banter_log::erasure::{Bound, Erasure};
use banter_log::journal::{Answer, Ask as DiskAsk, JournalParts};
use banter_log::segment::{Class, SegmentHeader};
use banter_protocol::event::Event;
use banter_protocol::features::{FeatureNames, KNOWN};
use banter_protocol::frame::{Frame, Frames};
use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence, UserName};
use banter_protocol::native;
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};
use banter_protocol::wire::WireForm;

const SEGMENT_BYTES: usize = 1 << 20;

/// A core, its disk, and connections that take what they are sent, or do not.
struct Server {
    shard: Shard,
    file: Vec<u8>,
    now_ms: u64,
    sent: Vec<ConnectionId>,
    /// Connections that take nothing.
    stopped: Vec<u32>,
    heard: BTreeMap<u32, Vec<String>>,
    /// Appends that are not on the disk yet.
    is_slow: bool,
    appends: usize,
}

impl Server {
    fn new(durability: Durability) -> Self {
        let journal = JournalParts {
            run: 1,
            commit_bytes_max: 1 << 18,
            reads_max: 4,
            work_steps_max: 256,
            cache_bytes_max: 1 << 20,
            catalog: Catalog::default(),
            indexes: BTreeMap::new(),
        };
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            placement: Placement::of_one_server(1),
            limits: Limits { idle_timeout_ms: 0, ..Limits::default() },
            welcome: Welcome { limits: String::new(), durability: "synced", features: KNOWN, run: 1 },
            access: Access::Open,
            first_epoch: Epoch(100),
            epochs_end: Epoch(1 << 40),
            policies: RoomPolicies::all(durability),
            post_rates: PostRates::default(),
            logs: LogConfig::local(journal),
        });
        let (sent, stopped, heard) = (Vec::new(), Vec::new(), BTreeMap::new());
        Server { shard, file: Vec::new(), now_ms: 7, sent, stopped, heard, is_slow: false, appends: 0 }
    }

    /// A member of "lobby" who hears all, its own too.
    fn member(&mut self, slot: u32, user: &str) {
        let id = ConnectionId { slot, generation: 1 };
        self.shard.handle(id, Input::Opened { form: WireForm::Native, preface: &[] });
        self.ask(slot, Ask::Hello { user: user.into(), token: None, features: FeatureNames::NONE });
        self.ask(
            slot,
            Ask::Join { room: "lobby".into(), from: JoinFrom::Now, echo: true, presence: false, token: None },
        );
        self.rest();
        self.heard.clear();
    }

    fn ask(&mut self, slot: u32, ask: Ask<'_>) {
        self.shard.handle(ConnectionId { slot, generation: 1 }, Input::Request(&Request { id: Some(1), ask }));
    }

    fn post(&mut self, slot: u32, key: Option<&str>, text: &str) {
        let body = Body { format: BodyFormat::Json, bytes: text.as_bytes() };
        self.ask(slot, Ask::Post { room: "lobby".into(), body, key: key.map(Into::into) });
        self.rest();
    }

    fn turn(&mut self) {
        self.now_ms += 1;
        self.shard.begin_turn(Now { monotonic_ms: self.now_ms, unix_ms: 1_700_000_000_000, ..Now::default() }, []);
        for id in std::mem::take(&mut self.sent) {
            if self.stopped.contains(&id.slot) {
                self.sent.push(id);
            } else {
                self.shard.handle(id, Input::Sent);
            }
        }
        self.finish_turn();
    }

    fn finish_turn(&mut self) {
        self.shard.finish_turn();
        for (_, ask) in self.shard.disk_asks() {
            self.perform(ask);
        }
        while let Some((id, sending)) = self.shard.next_send() {
            let heard = self.heard.entry(id.slot).or_default();
            heard.extend(Frames(sending.bytes()).flat_map(|frame| told(frame.expect("whole frames"))));
            self.sent.push(id);
        }
        *self.shard.actions_mut() = Actions::default();
    }

    fn perform(&mut self, ask: DiskAsk) {
        match ask {
            DiskAsk::Prepare { .. } if self.file.is_empty() => {
                let (id, file_bytes) = (1, SEGMENT_BYTES as u64);
                let header =
                    SegmentHeader { id, nonce: 5, core: 0, class: Class::SERVER, run: 1, made_unix_ms: 0, file_bytes };
                self.file = header.write();
                self.file.resize(SEGMENT_BYTES, 0);
                self.shard.disk(LogId::LOCAL, Answer::Segment(header));
            }
            DiskAsk::Append { offset, block, .. } => {
                self.file[offset as usize..offset as usize + block.len()].copy_from_slice(&block);
                self.appends += 1;
                if !self.is_slow {
                    self.shard.disk(LogId::LOCAL, Answer::Synced);
                }
            }
            DiskAsk::Read(range) => {
                let bytes = self.file[range.offset as usize..(range.offset + range.bytes) as usize].to_vec();
                self.shard.disk(LogId::LOCAL, Answer::Read { range, bytes: Some(bytes) });
            }
            _ => {}
        }
    }

    fn rest(&mut self) {
        (0..20).for_each(|_| self.turn());
    }

    fn hear(&mut self, slot: u32) -> Vec<String> {
        self.heard.remove(&slot).unwrap_or_default()
    }

    /// As the keeper tells it.
    fn erase(&mut self, user: Option<&str>, first: u64, last: u64) -> Vec<Begun> {
        let (room, user) = (RoomName::new("lobby").unwrap(), user.map(|user| UserName::new(user).unwrap()));
        let erasure =
            Erasure { number: 1, room, user, first: Sequence(first), last: Sequence(last), bound: Bound::UNKNOWN };
        self.shard.disk(LogId::LOCAL, Answer::Erase(Arc::new(erasure)));
        self.shard.disk(LogId::LOCAL, Answer::ForgetFrames { room: RoomId::of("lobby") });
        self.shard.take_begun()
    }
}

fn told(frame: &[u8]) -> Vec<String> {
    let (frame, _) = Frame::read(frame, u32::MAX).expect("a frame");
    match native::read_event(frame).expect("an event") {
        Event::Message(message) => vec![format!("{} {}", message.sequence.0, text_of(message.body.bytes))],
        Event::Gap { from, to, .. } => vec![format!("gap {}-{}", from.0, to.0)],
        Event::Posted { sequence, duplicate, .. } => {
            vec![format!("{} {}", if duplicate { "duplicate" } else { "posted" }, sequence.0)]
        }
        Event::Page { messages, .. } => Frames(messages).flat_map(|frame| told(frame.expect("whole frames"))).collect(),
        Event::Joined { sequence, .. } => vec![format!("joined {}", sequence.0)],
        _ => Vec::new(),
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn who_joins_or_fetches_is_told_a_gap_in_logged_rooms_and_in_those_in_memory() {
    for durability in [Durability::Synced, Durability::Memory] {
        let mut server = Server::new(durability);
        server.member(0, "ann");
        server.member(1, "eve");
        for number in 1..=4 {
            server.post(number % 2, None, &number.to_string());
        }
        let is_logged = durability == Durability::Synced;
        let begun = server.erase(Some("eve"), 1, u64::MAX);
        // When the newest was said; the room has the epoch of rooms that had nothing in the log.
        let newest_ms = begun[0].bound.newest_ms;
        assert!(
            !is_logged || (1_700_000_000_000..1_700_000_000_000 + server.now_ms).contains(&newest_ms),
            "{newest_ms}"
        );
        let in_log = Bound { epoch: Epoch(0), last: Sequence(4), newest_ms };
        let bound = if is_logged { in_log } else { Bound { epoch: Epoch(0), ..Bound::UNKNOWN } };
        assert_eq!(begun, [Begun { number: 1, bound, segment: is_logged.then_some(1) }]);
        server.post(1, None, "5");
        server.heard.clear();
        for rests in [false, true] {
            if rests {
                server.rest();
            }
            server.ask(0, Ask::Fetch { room: "lobby".into(), from: FetchFrom::After(Sequence(0)), limit: None });
            server.rest();
            assert_eq!(
                server.hear(0),
                ["gap 1-1", "2 2", "gap 3-3", "4 4", "5 5"],
                "what comes later is not concerned"
            );
            server.ask(0, Ask::Fetch { room: "lobby".into(), from: FetchFrom::Before(Sequence(4)), limit: Some(2) });
            server.rest();
            assert_eq!(server.hear(0), ["2 2", "gap 3-3"]);
        }
        server.ask(0, Ask::Leave { room: "lobby".into() });
        server.ask(
            0,
            Ask::Join { room: "lobby".into(), from: JoinFrom::Last(3), echo: true, presence: false, token: None },
        );
        server.rest();
        assert_eq!(server.hear(0), ["joined 5", "gap 3-3", "4 4", "5 5"]);
    }
}

#[test]
fn who_reads_live_and_lags_is_told_a_gap_and_who_has_all_goes_on() {
    let mut server = Server::new(Durability::Synced);
    for (slot, user) in [(0, "ann"), (1, "bob"), (2, "eve")] {
        server.member(slot, user);
    }
    server.post(2, None, "1");
    server.stopped.push(1);
    for text in ["2", "3"] {
        server.post(2, None, text);
    }
    server.heard.clear();
    server.erase(None, 2, 3);
    server.rest();
    assert_eq!(server.shard.counters().subscriptions_behind, 0, "nobody who has all is sent back");
    server.stopped.clear();
    server.rest();
    let heard = server.hear(1);
    assert!(heard.ends_with(&["gap 3-3".to_owned()]) && !heard.contains(&"3 3".to_owned()), "{heard:?}");
    server.post(2, None, "4");
    assert_eq!((server.hear(0), server.hear(1)), (vec!["4 4".to_owned()], vec!["4 4".to_owned()]));
}

#[test]
fn a_message_that_is_on_its_way_to_its_readers_is_erased_and_one_that_is_committed_later_is_not() {
    let mut server = Server::new(Durability::Synced);
    server.member(0, "ann");
    server.member(1, "eve");
    server.is_slow = true;
    server.post(1, None, "1");
    // It is history, and goes out with the end of the turn.
    server.shard.begin_turn(Now { monotonic_ms: server.now_ms, unix_ms: 1_700_000_000_000, ..Now::default() }, []);
    server.shard.disk(LogId::LOCAL, Answer::Synced);
    assert_eq!(server.erase(None, 1, u64::MAX)[0].bound.last, Sequence(1));
    server.finish_turn();
    server.rest();
    assert_eq!(server.hear(0), ["gap 1-1"]);
    server.post(1, None, "2");
    assert_eq!(
        server.erase(None, 1, u64::MAX)[0].bound.last,
        Sequence(1),
        "it is in a commit, and nobody was told of it"
    );
    server.shard.disk(LogId::LOCAL, Answer::Synced);
    server.rest();
    assert_eq!(server.hear(0), ["2 2"]);
}

#[test]
fn what_is_ahead_of_a_room_is_erased_for_nothing_and_its_keys_stay() {
    let mut server = Server::new(Durability::Synced);
    server.member(0, "ann");
    server.post(0, Some("k"), "1");
    server.heard.clear();
    for (first, last) in [(2, 2), (1_000, 2_000), (5, u64::MAX)] {
        server.erase(None, first, last);
        server.rest();
    }
    server.post(0, Some("k"), "1");
    assert_eq!(server.hear(0), ["duplicate 1"]);
}

#[test]
fn the_key_of_what_is_erased_is_new_again_and_others_are_known() {
    let mut server = Server::new(Durability::Synced);
    server.member(0, "ann");
    server.member(1, "eve");
    server.post(0, Some("k"), "1");
    server.post(1, Some("k"), "1");
    server.post(1, Some("later"), "1");
    server.erase(Some("eve"), 1, 2);
    server.rest();
    server.heard.clear();
    server.post(1, Some("k"), "1");
    server.post(1, Some("later"), "1");
    server.post(0, Some("k"), "1");
    assert_eq!(
        server.hear(1).iter().filter(|told| told.contains("posted") || told.contains("dup")).collect::<Vec<_>>(),
        ["posted 4", "duplicate 3"]
    );
    assert!(server.hear(0).contains(&"duplicate 1".to_owned()));
    assert_eq!(server.shard.counters().dedupe_keys, 3);
    assert!(server.appends >= 4);
}
