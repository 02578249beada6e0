//! Which keys a core knows: over restarts, over steps of the wall clock, and while its log cannot be read.

use std::collections::BTreeMap;

use banter_chat::address::{ConnectionId, Core, Now};
use banter_chat::limits::Limits;
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::sessions::{Actions, Welcome};
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_log::catalog::{Catalog, Past};
use banter_log::index::IndexTable;
use banter_log::journal::{Answer, Ask as DiskAsk, JournalParts};
use banter_log::reading::LogFile;
use banter_log::segment::SegmentHeader;
use banter_protocol::event::Event;
use banter_protocol::frame::{Frame, Frames};
use banter_protocol::ids::Epoch;
use banter_protocol::native;
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};
use banter_protocol::wire::WireForm;

const WALL_MS: u64 = 1_700_000_000_000;
const HOUR_MS: u64 = 3_600_000;
const WINDOW_MS: u64 = 300_000;
/// Of a window, by the clock that is slewed by one part in ten.
const WINDOW_MS_MAX: u64 = WINDOW_MS * 11 / 9 + 1_000;

/// A core and its disk.
struct Server {
    shard: Shard,
    disk: Disk,
    monotonic_ms: u64,
    unix_ms: u64,
    run: u64,
    room: &'static str,
    sent: Vec<ConnectionId>,
    heard: Vec<String>,
}

/// Files, and what goes wrong with them.
#[derive(Default)]
struct Disk {
    files: BTreeMap<u64, (SegmentHeader, Vec<u8>)>,
    indexes: BTreeMap<u64, Vec<u8>>,
    fails_reads: bool,
    is_full: bool,
    keeps_reads: bool,
    kept: Vec<DiskAsk>,
    next_id: u64,
}

const SEGMENT_BYTES: usize = 1 << 20;

impl Disk {
    fn perform(&mut self, ask: DiskAsk, run: u64, made_unix_ms: u64) -> Vec<Answer> {
        match ask {
            DiskAsk::Prepare => {
                self.next_id += 1;
                let header = SegmentHeader { id: self.next_id, nonce: self.next_id, core: 0, run, made_unix_ms };
                let mut file = header.write();
                file.resize(SEGMENT_BYTES, 0);
                self.files.insert(header.id, (header, file));
                vec![Answer::Segment(header)]
            }
            DiskAsk::Append { .. } if self.is_full => vec![Answer::AppendFailed { is_full: true }],
            DiskAsk::Append { segment, offset, block, .. } => {
                let (_, file) = self.files.get_mut(&segment.id).unwrap();
                file[offset as usize..offset as usize + block.len()].copy_from_slice(&block);
                vec![Answer::Synced]
            }
            DiskAsk::Seal { segment, index, end_offset, .. } => {
                let (file, parts) = index.encode(&segment, end_offset);
                self.indexes.insert(segment.id, file);
                vec![Answer::Indexed { segment: segment.id, parts }]
            }
            DiskAsk::Release { .. } | DiskAsk::LetGo { .. } => Vec::new(),
            DiskAsk::Read { ticket, segment, file, offset, bytes } => {
                let all = match file {
                    LogFile::Segment => Some(&self.files[&segment].1),
                    LogFile::Index => self.indexes.get(&segment),
                };
                let all = all.filter(|_| !self.fails_reads);
                let bytes = all.map(|all| all[offset as usize..all.len().min(offset as usize + bytes)].to_vec());
                vec![Answer::Read { ticket, bytes }]
            }
        }
    }

    /// What the segments with an index hold, as a start finds it.
    fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::default();
        for (id, index) in &self.indexes {
            let header = &self.files[id].0;
            for part in IndexTable::read(index, header).unwrap().parts {
                assert_eq!(catalog.add_part(header, &part, Past::default()), None);
            }
        }
        catalog
    }
}

impl Server {
    fn new(limits: Limits) -> Self {
        Self::on(Disk::default(), Catalog::default(), limits, 1, WALL_MS)
    }

    fn on(disk: Disk, mut catalog: Catalog, limits: Limits, run: u64, unix_ms: u64) -> Self {
        catalog.begin(catalog.runs().newest_ms().unwrap_or(0).max(unix_ms));
        let journal = JournalParts {
            run,
            segment_bytes: SEGMENT_BYTES as u64,
            commit_bytes_max: 1 << 18,
            reads_max: 4,
            work_steps_max: 256,
            catalog,
        };
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            cores: 1,
            limits,
            welcome: Welcome { limits: String::new(), durability: "synced", run },
            first_epoch: Epoch(100 * run),
            policies: RoomPolicies::all(Durability::Synced),
            journal: Some(journal),
        });
        let (sent, heard) = (Vec::new(), Vec::new());
        let mut server = Server { shard, disk, monotonic_ms: 7, unix_ms, run, room: "lobby", sent, heard };
        server.open("ann");
        server
    }

    /// Ends in order, and starts again at that time of the wall clock.
    fn restart(mut self, unix_ms: u64) -> Self {
        self.rest();
        assert!(self.shard.seal_log());
        self.rest();
        let (catalog, limits) = (self.disk.catalog(), roomy());
        Self::on(self.disk, catalog, limits, self.run + 1, unix_ms)
    }

    fn open(&mut self, user: &str) {
        let id = ConnectionId { slot: 0, generation: 1 };
        self.shard.handle(id, Input::Opened { form: WireForm::Native, preface: &[] });
        self.ask(0, Ask::Hello { user: user.into(), token: None });
        self.rest();
        self.heard.clear();
    }

    fn ask(&mut self, request: u64, ask: Ask<'_>) {
        let id = ConnectionId { slot: 0, generation: 1 };
        assert!(self.shard.is_read(id));
        self.shard.handle(id, Input::Request(&Request { id: Some(request), ask }));
    }

    fn join(&mut self) {
        self.ask(1, Ask::Join { room: self.room.into(), from: JoinFrom::Now, echo: false, presence: false });
    }

    /// Leaves the room for another one.
    fn move_to(&mut self, room: &'static str) {
        self.ask(1, Ask::Leave { room: self.room.into() });
        self.room = room;
        self.join();
        self.rest();
    }

    fn post(&mut self, request: u64, key: Option<&str>, body: &str) {
        let body = Body { format: BodyFormat::Json, bytes: body.as_bytes() };
        self.ask(request, Ask::Post { room: self.room.into(), body, key: key.map(Into::into) });
    }

    /// What a post with that key is answered.
    fn posted(&mut self, key: &str, body: &str) -> String {
        self.heard.clear();
        self.post(9, Some(key), body);
        self.rest();
        self.heard.join(", ")
    }

    /// So much passes, for the server and for the wall clock, in turns of a second.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 1_000 {
            (self.monotonic_ms, self.unix_ms) = (self.monotonic_ms + 1_000, self.unix_ms + 1_000);
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.shard.begin_turn(Now { monotonic_ms: self.monotonic_ms, unix_ms: self.unix_ms, ..Now::default() }, []);
        for id in std::mem::take(&mut self.sent) {
            self.shard.handle(id, Input::Sent);
        }
        for ask in std::mem::take(&mut self.disk.kept) {
            self.perform(ask);
        }
        self.shard.finish_turn();
        for ask in self.shard.disk_asks() {
            self.perform(ask);
        }
        while let Some((id, sending)) = self.shard.next_send() {
            self.heard.extend(Frames(sending.bytes()).map(|frame| told(frame.expect("whole frames"))));
            self.sent.push(id);
        }
        *self.shard.actions_mut() = Actions::default();
    }

    fn perform(&mut self, ask: DiskAsk) {
        if self.disk.keeps_reads && matches!(ask, DiskAsk::Read { .. }) {
            return self.disk.kept.push(ask);
        }
        for answer in self.disk.perform(ask, self.run, self.unix_ms) {
            self.shard.disk(answer);
        }
    }

    fn rest(&mut self) {
        (0..20).for_each(|_| self.turn());
    }
}

fn told(frame: &[u8]) -> String {
    let (frame, _) = Frame::read(frame, u32::MAX).expect("a frame");
    match native::read_event(frame).expect("an event") {
        Event::Joined { sequence, .. } => format!("joined {}", sequence.0),
        Event::Posted { sequence, duplicate, .. } => {
            format!("{} {}", if duplicate { "duplicate" } else { "posted" }, sequence.0)
        }
        Event::Error { code, scope, retry_after_ms, .. } => {
            format!("{} {:?} {:?}", code.as_str(), scope.map(|scope| scope.as_str()), retry_after_ms)
        }
        Event::Page { messages, .. } => format!("page of {}", Frames(messages).count()),
        other => format!("{other:?}"),
    }
}

fn roomy() -> Limits {
    Limits { outbox_bytes_max: 1 << 24, idle_timeout_ms: 0, ..Limits::default() }
}

#[test]
fn restarts_forget_no_key_that_was_within_the_window_whatever_the_wall_clock_says() {
    for (first_ms, second_ms) in [(HOUR_MS, HOUR_MS), (HOUR_MS, 0), (0, 24 * HOUR_MS), (0, 0)] {
        let mut server = Server::new(roomy());
        server.join();
        assert_eq!(server.posted("k1", "1"), "joined 0, posted 1");
        server.pass(100_000);
        assert_eq!(server.posted("k2", "1"), "posted 2");
        let mut server = server.restart(WALL_MS - HOUR_MS + first_ms);
        server.join();
        assert_eq!(server.posted("k1", "1"), "joined 2, duplicate 1");
        server.pass(100_000);
        assert_eq!(server.posted("k3", "1"), "posted 3");
        let mut server = server.restart(WALL_MS - HOUR_MS + second_ms);
        server.join();
        assert_eq!(server.posted("k1", "1"), "joined 3, duplicate 1", "{first_ms} and {second_ms}");
        server.pass(WINDOW_MS_MAX - 200_000);
        assert_eq!(server.posted("k1", "1"), "posted 4", "the time in which a server ran counts");
        assert_eq!(server.posted("k3", "1"), "duplicate 3");
    }
}

#[test]
fn a_step_of_the_wall_clock_forgets_no_key_and_keeps_none_for_ever() {
    for unix_ms in [WALL_MS + 24 * HOUR_MS, WALL_MS - 24 * HOUR_MS, 0, u64::MAX / 2] {
        let mut server = Server::new(roomy());
        server.join();
        assert_eq!(server.posted("k", "1"), "joined 0, posted 1");
        server.unix_ms = unix_ms;
        server.pass(WINDOW_MS);
        assert_eq!(server.posted("k", "1"), "duplicate 1", "at {unix_ms}");
        server.pass(WINDOW_MS_MAX - WINDOW_MS);
        assert_eq!(server.posted("k", "1"), "posted 2", "at {unix_ms}");
    }
}

#[test]
fn the_time_in_which_the_machine_was_suspended_counts() {
    let mut server = Server::new(roomy());
    server.join();
    assert_eq!(server.posted("k", "1"), "joined 0, posted 1");
    server.shard.was_suspended(WINDOW_MS);
    assert_eq!(server.posted("k", "1"), "duplicate 1");
    server.shard.was_suspended(WINDOW_MS_MAX - WINDOW_MS);
    assert_eq!(server.posted("k", "1"), "posted 2");
}

#[test]
fn old_keys_leave_memory_without_another_post() {
    let mut server = Server::new(roomy());
    server.join();
    server.posted("k", "1");
    assert_eq!((server.shard.counters().dedupe_keys, server.shard.counters().dedupe_bytes > 0), (1, true));
    let due_ms = server.shard.next_due().unwrap();
    assert!((WINDOW_MS..=WINDOW_MS * 11 / 10).contains(&due_ms), "a core that sleeps wakes for it: {due_ms}");
    server.pass(WINDOW_MS_MAX);
    assert_eq!((server.shard.counters().dedupe_keys, server.shard.counters().dedupe_bytes), (0, 0));
}

/// A server that was started again behind one post, with the key `k`.
fn restarted_behind_a_key() -> Server {
    let mut server = Server::new(roomy());
    server.join();
    assert_eq!(server.posted("k", "1"), "joined 0, posted 1");
    server.restart(WALL_MS)
}

#[test]
fn a_keyed_post_waits_for_the_window_of_its_room() {
    let mut server = restarted_behind_a_key();
    server.disk.keeps_reads = true;
    server.join();
    assert_eq!(server.posted("k", "1"), "");
    server.disk.keeps_reads = false;
    server.rest();
    assert_eq!(server.heard.join(", "), "joined 1, duplicate 1");
}

#[test]
fn a_window_that_cannot_be_read_is_no_empty_one() {
    let mut server = restarted_behind_a_key();
    server.disk.fails_reads = true;
    server.join();
    server.rest();
    assert_eq!(server.posted("k", "1"), "overloaded Some(\"server\") Some(1000)");
    assert_eq!(server.posted("new", "1"), "overloaded Some(\"server\") Some(1000)");
    server.post(2, None, "2");
    server.rest();
    assert_eq!(server.heard.pop().unwrap(), "posted 2", "what has no key goes on");
    server.monotonic_ms += 400;
    assert_eq!(server.posted("k", "1"), "overloaded Some(\"server\") Some(600)");
    server.monotonic_ms += 600;
    assert_eq!(server.posted("k", "1"), "overloaded Some(\"server\") Some(1000)", "it was tried again");
    server.disk.fails_reads = false;
    assert_eq!(server.posted("k", "1"), "overloaded Some(\"server\") Some(1000)", "and is not before it is time");
    server.monotonic_ms += 1_000;
    assert_eq!(server.posted("k", "1"), "duplicate 1");
    assert_eq!(server.posted("new", "1"), "posted 3");
}

#[test]
fn a_window_of_which_a_part_was_given_up_is_not_taken_for_whole() {
    let mut server = restarted_behind_a_key();
    server.disk.fails_reads = true;
    server.join();
    server.rest();
    // The history goes on behind what cannot be read, and the log with it.
    server.ask(
        3,
        Ask::Fetch { room: "lobby".into(), from: FetchFrom::Before(banter_protocol::ids::Sequence(2)), limit: None },
    );
    server.rest();
    assert_eq!(server.heard.pop().unwrap(), "page of 0");
    server.disk.fails_reads = false;
    server.monotonic_ms += 1_000;
    assert_eq!(server.posted("k", "1"), "overloaded Some(\"server\") Some(1000)");
    server.pass(WINDOW_MS_MAX);
    assert_eq!(server.posted("k", "1"), "posted 2", "by now it would have been forgotten");
}

#[test]
fn a_body_is_compared_as_it_was_sent_also_when_it_is_read_from_the_log_without_an_index() {
    for has_index in [true, false] {
        let mut server = Server::new(roomy());
        server.join();
        let body = "{ \"a\": 1.0e0,\t\"a\" : \"\\u00e4\" }";
        assert_eq!(server.posted("k", body), "joined 0, posted 1");
        let mut server = server.restart(WALL_MS);
        if !has_index {
            server.disk.indexes.clear();
        }
        server.join();
        assert_eq!(server.posted("k", body), "joined 1, duplicate 1");
        assert_eq!(server.posted("k", "{\"a\":1.0,\"a\":\"ä\"}"), "key_conflict None None");
    }
}

#[test]
fn the_key_of_a_post_that_was_refused_is_not_known() {
    let mut server = Server::new(roomy());
    server.join();
    server.rest();
    server.disk.is_full = true;
    assert_eq!(server.posted("k", "1"), "log_full Some(\"server\") Some(1000)");
    server.disk.is_full = false;
    assert_eq!(server.posted("k", "1"), "posted 1");
}

#[test]
fn a_room_in_the_place_of_a_forgotten_one_knows_none_of_its_keys() {
    for fails_reads in [false, true] {
        let limits = Limits { rooms_max: 1, dedupe_window_ms: 86_400_000, ..roomy() };
        let mut server = Server::new(limits);
        server.join();
        assert_eq!(server.posted("k", "1"), "joined 0, posted 1");
        if fails_reads {
            assert!(server.shard.seal_log());
            server.rest();
            let (catalog, run) = (server.disk.catalog(), server.run + 1);
            server = Server::on(server.disk, catalog, limits, run, WALL_MS);
            server.disk.fails_reads = true;
            server.join();
            server.rest();
        }
        server.move_to("other");
        assert_eq!(server.posted("k", "2"), "posted 1", "reads fail: {fails_reads}");
        let due_ms = server.shard.rooms().next_due().unwrap();
        assert!(fails_reads || due_ms <= server.monotonic_ms + 1_000, "its keys leave memory soon: {due_ms}");
        server.pass(2_000);
        assert_eq!(server.shard.counters().dedupe_keys, 1);
    }
}

#[test]
fn a_long_window_is_taken_some_keys_a_turn_and_what_comes_waits_for_all_of_it() {
    let limits = Limits { dedupe_keys_per_author_max: 10_000, ..roomy() };
    let mut server = Server::new(limits);
    server.join();
    for number in 0..2_000 {
        server.post(number, Some(&format!("key-{number}")), "1");
        server.turn();
    }
    server.rest();
    server.shard.seal_log();
    server.rest();
    let (catalog, run) = (server.disk.catalog(), server.run + 1);
    let mut server = Server::on(server.disk, catalog, limits, run, WALL_MS);
    server.join();
    let (mut turns, mut keys) = (0, 0);
    while server.heard.is_empty() {
        server.turn();
        let now = server.shard.counters().dedupe_keys;
        assert!(now - keys <= 512, "{keys} to {now} in a turn");
        (turns, keys) = (turns + 1, now);
        assert!(!server.heard.is_empty() || server.shard.is_busy() || keys == 0, "it does not sleep");
    }
    assert!(turns > 3 && keys == 2_000, "{keys} keys in {turns} turns");
    assert_eq!(server.posted("key-0", "1"), "duplicate 1");
}
