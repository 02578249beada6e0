//! A machine of a cluster with one core, 16 partitions and a disk in memory for each, driven turn by turn.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use banter_chat::access::Access;
use banter_chat::address::{ConnectionId, Core, Now, Placement};
use banter_chat::limits::Limits;
use banter_chat::logs::{LogConfig, LogId};
use banter_chat::policy::{RoomPattern, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::program::{
    Call, Effect, Engine, Event as HeardOf, Fault, Hook, Hooks, ProgramFacts, ProgramId, Verdict,
};
use banter_chat::programs::{OnFault, ProgramLimits, ProgramRule, ProgramSet, Programs};
use banter_chat::sessions::{Actions, Welcome};
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_log::catalog::Catalog;
use banter_log::journal::{Answer, Ask as DiskAsk, JournalParts};
use banter_protocol::event::{Event, Message};
use banter_protocol::features::{FeatureNames, KNOWN};
use banter_protocol::frame::{Frame, Frames};
use banter_protocol::ids::{Epoch, RoomId, UserName};
use banter_protocol::native;
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};
use banter_protocol::wire::WireForm;

use crate::one_core::{Disk, WALL_MS, roomy};

pub const HOLD_MS: u32 = 2_000;
pub const PARTITIONS: u16 = 16;

/// A name of a room in that partition; another for each number.
pub fn room_in(partition: u16, number: usize) -> String {
    let placement = Placement::in_cluster(1, PARTITIONS).unwrap();
    let names = (0..).map(|tried| format!("room-{tried}"));
    let mut of_partition = names.filter(|name| placement.partition_of(RoomId::of(name)) == partition);
    of_partition.nth(number).unwrap()
}

/// The machine.
pub struct Node {
    pub shard: Shard,
    pub disks: BTreeMap<LogId, Disk>,
    /// Logs whose appends nobody answers, and the asks.
    pub stalled: BTreeSet<LogId>,
    /// Logs whose reads nobody answers.
    pub unread: BTreeSet<LogId>,
    /// Logs that get no segment.
    pub unprepared: BTreeSet<LogId>,
    pub kept: Vec<(LogId, DiskAsk)>,
    pub now_ms: u64,
    pub unix_ms: u64,
    pub sent: Vec<ConnectionId>,
    /// What each connection was told.
    pub heard: BTreeMap<u32, Vec<String>>,
    /// Who was ended: slot, code and reason.
    pub ended: Vec<(u32, u16, String)>,
    pub run: u64,
    /// What each place of each room holds, as it was told: never two things.
    pub places: BTreeMap<(String, u64, u64), String>,
    /// The times of what was posted.
    pub times_ms: Vec<u64>,
}

impl Node {
    /// With all logs closed.
    pub fn new(policies: RoomPolicies) -> Self {
        Self::with(policies, roomy())
    }

    pub fn with(policies: RoomPolicies, limits: Limits) -> Self {
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            placement: Placement::in_cluster(1, PARTITIONS).unwrap(),
            limits,
            welcome: Welcome { limits: String::new(), durability: "synced", features: KNOWN, run: 1 },
            access: Access::Open,
            first_epoch: Epoch(100),
            epochs_end: Epoch(1 << 40),
            policies: policies.in_cluster(),
            post_rates: PostRates::default(),
            logs: LogConfig::Partitions { hold_ms: HOLD_MS },
        });
        Node {
            shard,
            disks: BTreeMap::new(),
            stalled: BTreeSet::new(),
            unread: BTreeSet::new(),
            unprepared: BTreeSet::new(),
            kept: Vec::new(),
            now_ms: 10,
            unix_ms: WALL_MS,
            sent: Vec::new(),
            heard: BTreeMap::new(),
            ended: Vec::new(),
            run: 1,
            places: BTreeMap::new(),
            times_ms: Vec::new(),
        }
    }

    /// Opens the log of a partition on what its disk has, which is sealed by then.
    pub fn open_log(&mut self, partition: u16) -> bool {
        let log = LogId(partition);
        let mut catalog = self.disks.entry(log).or_default().catalog();
        catalog.begin(catalog.runs().newest_ms().unwrap_or(0).max(self.unix_ms));
        self.open_log_on(partition, catalog)
    }

    pub fn open_log_on(&mut self, partition: u16, catalog: Catalog) -> bool {
        let parts = JournalParts {
            run: self.run,
            commit_bytes_max: 1 << 18,
            reads_max: 4,
            work_steps_max: 256,
            cache_bytes_max: 0,
            catalog,
            indexes: BTreeMap::new(),
        };
        self.shard.open_log(LogId(partition), parts)
    }

    /// Ends a log, seals what it wrote to its disk, and forgets what it asked; whether it was open.
    pub fn close_log(&mut self, partition: u16) -> bool {
        let log = LogId(partition);
        let Some(mut journal) = self.shard.close_log(log) else { return false };
        self.kept.retain(|(of, _)| *of != log);
        self.run += 1;
        // What is in flight is of no interest: the next owner reads what was stored.
        if journal.is_committing() {
            journal.handle(Answer::AppendFailed { is_full: true }, &mut Vec::new());
        }
        journal.end();
        let disk = self.disks.entry(log).or_default();
        for ask in std::mem::take(journal.asks_mut()) {
            if matches!(ask, DiskAsk::Seal { .. }) {
                disk.perform(ask, self.run, self.unix_ms);
            }
        }
        true
    }

    pub fn connect(&mut self, slot: u32, user: &str) {
        self.shard.handle(id(slot), Input::Opened { form: WireForm::Native, preface: &[] });
        self.ask(slot, 0, Ask::Hello { user: user.into(), token: None, features: FeatureNames::NONE });
    }

    /// Connects, and joins these rooms.
    pub fn reader(&mut self, slot: u32, user: &str, rooms: &[&str]) {
        self.connect(slot, user);
        for room in rooms {
            self.join(slot, room);
            self.rest();
        }
        self.hear(slot);
    }

    pub fn ask(&mut self, slot: u32, request: u64, ask: Ask<'_>) {
        assert!(self.shard.is_read(id(slot)), "{slot} is read");
        self.shard.handle(id(slot), Input::Request(&Request { id: Some(request), ask }));
    }

    pub fn join(&mut self, slot: u32, room: &str) {
        let ask = Ask::Join { room: room.into(), from: JoinFrom::Now, echo: true, presence: false, token: None };
        self.ask(slot, 1, ask);
    }

    pub fn post(&mut self, slot: u32, request: u64, room: &str, key: Option<&str>) {
        self.say(slot, request, room, key, "\"said\"");
    }

    pub fn say(&mut self, slot: u32, request: u64, room: &str, key: Option<&str>, body: &str) {
        let body = Body { format: BodyFormat::Json, bytes: body.as_bytes() };
        self.ask(slot, request, Ask::Post { room: room.into(), body, key: key.map(Into::into) });
    }

    pub fn fetch(&mut self, slot: u32, request: u64, room: &str) {
        let from = FetchFrom::After(banter_protocol::ids::Sequence(0));
        self.ask(slot, request, Ask::Fetch { room: room.into(), from, limit: None });
    }

    pub fn begin_turn(&mut self) {
        let (monotonic_ms, unix_ms) = (self.now_ms, self.unix_ms);
        self.shard.begin_turn(Now { monotonic_ms, monotonic_us: monotonic_ms * 1_000, unix_ms }, []);
        for id in std::mem::take(&mut self.sent) {
            self.shard.handle(id, Input::Sent);
        }
    }

    pub fn turn(&mut self) {
        self.begin_turn();
        self.shard.finish_turn();
        for (log, ask) in self.shard.disk_asks() {
            self.perform(log, ask);
        }
        while let Some((id, sending)) = self.shard.next_send() {
            let frames = Frames(sending.bytes()).map(|frame| told(frame.expect("whole frames")));
            for (place, body) in Frames(sending.bytes()).flatten().flat_map(places_of) {
                let before = self.places.insert(place.clone(), body.clone());
                assert!(before.as_ref().is_none_or(|before| *before == body), "{place:?}: {before:?} and {body}");
            }
            self.times_ms.extend(Frames(sending.bytes()).flatten().filter_map(time_of));
            self.heard.entry(id.slot).or_default().extend(frames);
            self.sent.push(id);
        }
        let actions = std::mem::take(self.shard.actions_mut());
        let Actions { finish, closing, .. } = actions;
        self.ended.extend(closing.into_iter().map(|it| (it.connection.slot, it.code, it.reason.into_string())));
        finish.into_iter().for_each(|id| self.shard.handle(id, Input::Closed));
    }

    pub fn perform(&mut self, log: LogId, ask: DiskAsk) {
        let is_kept = match ask {
            DiskAsk::Append { .. } | DiskAsk::Prove => self.stalled.contains(&log),
            DiskAsk::Read(_) => self.unread.contains(&log),
            DiskAsk::Prepare { .. } => self.unprepared.contains(&log),
            _ => false,
        };
        if is_kept {
            return self.kept.push((log, ask));
        }
        for answer in self.disks.entry(log).or_default().perform(ask, self.run, self.unix_ms) {
            self.shard.disk(log, answer);
        }
    }

    /// The log's disk goes on.
    pub fn resume(&mut self, partition: u16) {
        let log = LogId(partition);
        self.stalled.remove(&log);
        self.unread.remove(&log);
        self.unprepared.remove(&log);
        let (of_log, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.kept).into_iter().partition(|(of, _)| *of == log);
        self.kept = others;
        for (log, ask) in of_log {
            self.perform(log, ask);
        }
    }

    pub fn rest(&mut self) {
        (0..20).for_each(|_| self.turn());
    }

    /// So much passes, in steps of 100 milliseconds.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            (self.now_ms, self.unix_ms) = (self.now_ms + 100, self.unix_ms + 100);
            self.turn();
            let mut left = 5_000;
            while self.shard.is_busy() {
                left -= 1;
                if left == 0 {
                    let rooms = self.shard.rooms();
                    let (pages, keys, untold) =
                        (rooms.has_pages_waiting(), rooms.has_keys_waiting(), rooms.has_untold());
                    let (work, sessions) = (rooms.logs().has_work(), self.shard.sessions().is_busy());
                    panic!("it never rests: {pages} {keys} {untold} {work} {sessions}");
                }
                self.turn();
            }
        }
    }

    pub fn hear(&mut self, slot: u32) -> Vec<String> {
        self.heard.remove(&slot).unwrap_or_default()
    }
}

/// A program of every room: counts the posts in the room's state, takes each fifth, speaks behind each seventh, and ticks a second
/// behind each.
pub struct Counter {
    pub ticks: Arc<AtomicU64>,
}

impl Engine for Counter {
    fn facts(&self, _: ProgramId) -> ProgramFacts {
        ProgramFacts { hooks: Hooks::default().with(Hook::Post).with(Hook::Tick), version: 1 }
    }

    fn call(&mut self, _: ProgramId, call: Call<'_, '_>) -> Result<Verdict, Fault> {
        call.spent.units = 1;
        if let HeardOf::Tick { .. } = call.event {
            self.ticks.fetch_add(1, Ordering::Relaxed);
            return Ok(Verdict::Pass);
        }
        let before = call.state.get("posts").and_then(|json| std::str::from_utf8(json).ok()?.parse().ok());
        let posts = before.unwrap_or(0) + 1;
        call.state.set("posts", posts.to_string().as_bytes(), None).expect("it is small");
        call.state.set_timer("tick", 1_000).expect("it is one");
        if posts % 7 == 0 {
            call.effects.push(Effect::Post(format!("\"own {posts}\"").into_bytes())).expect("it is one");
        }
        Ok(if posts % 5 == 0 { Verdict::Take { reply: None } } else { Verdict::Pass })
    }

    fn rest(&mut self) -> bool {
        false
    }
}

/// The program in every room, and how often it ticked.
pub fn counter(units_per_turn_max: u32) -> (ProgramSet, Arc<AtomicU64>) {
    let rule = ProgramRule {
        pattern: RoomPattern::new("*"),
        name: "counter".into(),
        digest: 1,
        on_fault: OnFault::Refuse,
        user: UserName::new("@counter").unwrap(),
        post_to: Vec::new(),
    };
    let ticks = Arc::<AtomicU64>::default();
    let engine = Box::new(Counter { ticks: ticks.clone() });
    let limits = ProgramLimits { units_per_turn_max, ..ProgramLimits::default() };
    (ProgramSet { programs: Programs::new(vec![rule]), engine, limits, seed: 7 }, ticks)
}

pub fn id(slot: u32) -> ConnectionId {
    ConnectionId { slot, generation: 1 }
}

/// The messages of an event: room, epoch and sequence, and the body.
fn places_of(frame: &[u8]) -> Vec<((String, u64, u64), String)> {
    let place = |message: Message<'_>| {
        let body = String::from_utf8_lossy(message.body.bytes).into_owned();
        ((message.room.to_owned(), message.epoch.0, message.sequence.0), body)
    };
    let (frame, _) = Frame::read(frame, u32::MAX).expect("a frame");
    match native::read_event(frame).expect("an event") {
        Event::Message(message) => vec![place(message)],
        Event::Page { messages, .. } => {
            Frames(messages).flatten().filter_map(|it| native::read_message(it).ok()).map(place).collect()
        }
        _ => Vec::new(),
    }
}

fn time_of(frame: &[u8]) -> Option<u64> {
    match native::read_event(Frame::read(frame, u32::MAX).ok()?.0).ok()? {
        Event::Posted { time_ms, .. } => Some(time_ms),
        _ => None,
    }
}

pub fn told(frame: &[u8]) -> String {
    let (frame, _) = Frame::read(frame, u32::MAX).expect("a frame");
    let request = |id: Option<u64>| id.map_or("-".into(), |id| id.to_string());
    match native::read_event(frame).expect("an event") {
        Event::Welcome { .. } => "welcome".into(),
        Event::Nodes { nodes } => format!("nodes {}", nodes.lines().collect::<Vec<_>>().join(" ")),
        Event::Joined { sequence, durability, .. } => format!("joined {} {durability}", sequence.0),
        Event::Message(message) => format!("message {}", message.sequence.0),
        Event::Posted { id, sequence, duplicate, .. } => {
            format!("{} {} {}", request(id), if duplicate { "duplicate" } else { "posted" }, sequence.0)
        }
        Event::Error { id, code, retry_after_ms, .. } => {
            let again = retry_after_ms.map_or(String::new(), |ms| format!(" {ms}"));
            format!("{} {}{again}", request(id), code.as_str())
        }
        Event::Page { id, messages, .. } => format!("{} page of {}", request(id), Frames(messages).count()),
        Event::Taken { id, .. } => format!("{} taken", request(id)),
        Event::Members { id, count, .. } => format!("{} members {count}", request(id)),
        other => format!("{other:?}"),
    }
}
