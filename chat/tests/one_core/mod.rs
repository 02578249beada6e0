//! One core with its log and a disk in memory, driven turn by turn: what a client on it is told.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;

use banter_chat::access::Access;
use banter_chat::address::{ConnectionId, Core, Now, Placement};
use banter_chat::limits::Limits;
use banter_chat::logs::{LogConfig, LogId};
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::sessions::{Actions, Welcome};
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_log::catalog::{Catalog, Epochs, Past};
use banter_log::index::{Chain, Entry, HEADER_BYTES, IndexBuilder, IndexHeader, Opening, read_table};
use banter_log::journal::{Answer, Ask as DiskAsk, JournalParts, Reach};
use banter_log::reading::LogFile;
use banter_log::scan::Scan;
use banter_log::segment::{Class, SegmentHeader};
use banter_protocol::event::Event;
use banter_protocol::features::{FeatureNames, KNOWN};
use banter_protocol::frame::{Frame, Frames};
use banter_protocol::ids::{Epoch, RoomId};
use banter_protocol::native;
use banter_protocol::request::{Ask, Body, BodyFormat, JoinFrom, Request};
use banter_protocol::wire::WireForm;

pub const WALL_MS: u64 = 1_700_000_000_000;

/// A core and its disk.
pub struct Server {
    pub shard: Shard,
    pub disk: Disk,
    pub monotonic_ms: u64,
    pub unix_ms: u64,
    pub run: u64,
    pub room: &'static str,
    pub sent: Vec<ConnectionId>,
    pub heard: Vec<String>,
    /// The bodies of the pages that were heard.
    pub bodies: Vec<String>,
    /// The epoch of the last join.
    pub epoch: u64,
    pub policies: RoomPolicies,
    pub epochs: Epochs,
}

/// Files, and what goes wrong with them.
#[derive(Default)]
pub struct Disk {
    pub files: BTreeMap<u64, (SegmentHeader, Vec<u8>)>,
    pub indexes: BTreeMap<u64, Vec<u8>>,
    pub fails_reads: bool,
    pub is_full: bool,
    pub keeps_reads: bool,
    pub kept: Vec<DiskAsk>,
    pub next_id: u64,
    /// How far each block was to get.
    pub reaches: Vec<Reach>,
    /// A class that no segment is made for.
    pub withheld: Option<Class>,
    /// There is no space for a segment.
    pub has_no_space: bool,
}

pub const SEGMENT_BYTES: usize = 1 << 20;

impl Disk {
    pub fn perform(&mut self, ask: DiskAsk, run: u64, made_unix_ms: u64) -> Vec<Answer> {
        match ask {
            DiskAsk::Prepare { class, .. } if self.withheld == Some(class) => Vec::new(),
            DiskAsk::Prepare { class, .. } if self.has_no_space => vec![Answer::NoSpace { class }],
            DiskAsk::Prepare { class, .. } => {
                self.next_id += 1;
                let header = SegmentHeader {
                    id: self.next_id,
                    nonce: self.next_id,
                    core: 0,
                    class,
                    run,
                    made_unix_ms,
                    file_bytes: SEGMENT_BYTES as u64,
                };
                let mut file = header.write();
                file.resize(SEGMENT_BYTES, 0);
                self.files.insert(header.id, (header, file));
                vec![Answer::Segment(header)]
            }
            DiskAsk::Append { .. } if self.is_full => vec![Answer::AppendFailed { is_full: true }],
            DiskAsk::Append { segment, offset, block, wanted, .. } => {
                self.reaches.push(wanted);
                let (_, file) = self.files.get_mut(&segment.id).unwrap();
                file[offset as usize..offset as usize + block.len()].copy_from_slice(&block);
                match wanted {
                    Reach::Written => vec![Answer::Written],
                    Reach::Synced => vec![Answer::Synced],
                    Reach::WrittenThenSynced => vec![Answer::Written, Answer::Synced],
                }
            }
            DiskAsk::Seal { end, index, .. } => {
                self.indexes.insert(end.segment.id, index.encode(&end.segment, end.offset, true));
                vec![Answer::Indexed { segment: end.segment.id, parts: index.len() as u32 }]
            }
            DiskAsk::MendIndex { segment } => vec![self.mend(segment)],
            DiskAsk::Prove => vec![Answer::Proved],
            DiskAsk::Release { .. } | DiskAsk::LetGo { .. } => Vec::new(),
            DiskAsk::Read(range) => {
                let all = match range.file {
                    LogFile::Segment => Some(&self.files[&range.segment].1),
                    LogFile::Index => self.indexes.get(&range.segment),
                };
                let end = |all: &Vec<u8>| all.len().min((range.offset + range.bytes) as usize);
                let all = all.filter(|_| !self.fails_reads);
                let bytes = all.map(|all| all[(range.offset as usize).min(end(all))..end(all)].to_vec());
                vec![Answer::Read { range, bytes }]
            }
        }
    }

    /// Makes an index again from its blocks.
    pub fn mend(&mut self, segment: u64) -> Answer {
        let (header, file) = &self.files[&segment];
        let (mut index, mut scan) = (IndexBuilder::default(), Scan::new(file).unwrap());
        for (offset, record) in scan.by_ref().flat_map(|block| block.placed_records().collect::<Vec<_>>()) {
            let (entry, room) = Entry::read(&record.unwrap(), RoomId::of).unwrap();
            index.add(&entry, offset, || Opening { name: room.into(), chain: Chain::default() });
        }
        self.indexes.insert(segment, index.encode(header, scan.place().offset, true));
        Answer::Indexed { segment, parts: index.len() as u32 }
    }

    /// What the segments with an index hold, as a start finds it.
    pub fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::default();
        for (id, index) in &self.indexes {
            let header = &self.files[id].0;
            let there = IndexHeader::read(index, header).unwrap();
            catalog.add_segment(*header, there.parts, there.newest_ms);
            for part in read_table(&index[HEADER_BYTES..there.table_end() as usize], header.nonce) {
                assert_eq!(catalog.add_part(header, &part.unwrap(), &Past::default()), None);
            }
        }
        catalog
    }
}

impl Server {
    pub fn new(limits: Limits) -> Self {
        Self::on(Disk::default(), Catalog::default(), limits, 1, WALL_MS)
    }

    pub fn on(disk: Disk, catalog: Catalog, limits: Limits, run: u64, unix_ms: u64) -> Self {
        let policies = RoomPolicies::all(Durability::Synced);
        Self::with(disk, catalog, limits, (run, unix_ms), (policies, Epochs::default()))
    }

    /// With that for rooms by their names, and for epochs.
    pub fn with(
        disk: Disk,
        mut catalog: Catalog,
        limits: Limits,
        (run, unix_ms): (u64, u64),
        (policies, epochs): (RoomPolicies, Epochs),
    ) -> Self {
        catalog.set_epochs(epochs);
        catalog.begin(catalog.runs().newest_ms().unwrap_or(0).max(unix_ms));
        let journal = JournalParts {
            run,
            commit_bytes_max: 1 << 18,
            reads_max: 4,
            work_steps_max: 256,
            cache_bytes_max: 0,
            catalog,
            indexes: BTreeMap::new(),
        };
        let shard = Shard::new(ShardConfig {
            core: Core(0),
            placement: Placement::of_one_server(1),
            limits,
            welcome: Welcome { limits: String::new(), durability: "synced", features: KNOWN, run },
            access: Access::Open,
            first_epoch: Epoch(100 * run),
            epochs_end: Epoch(1 << 40),
            policies: policies.clone(),
            post_rates: PostRates::default(),
            logs: LogConfig::local(journal),
        });
        let (sent, heard) = (Vec::new(), Vec::new());
        let mut server = Server {
            shard,
            disk,
            monotonic_ms: 7,
            unix_ms,
            run,
            room: "lobby",
            sent,
            heard,
            bodies: Vec::new(),
            epoch: 0,
            policies,
            epochs,
        };
        server.open("ann");
        server
    }

    /// Ends in order, and starts again at that time of the wall clock.
    pub fn restart(mut self, unix_ms: u64) -> Self {
        self.rest();
        assert!(self.shard.seal_log());
        self.rest();
        let (catalog, limits) = (self.disk.catalog(), roomy());
        Self::with(self.disk, catalog, limits, (self.run + 1, unix_ms), (self.policies, self.epochs))
    }

    pub fn open(&mut self, user: &str) {
        let id = ConnectionId { slot: 0, generation: 1 };
        self.shard.handle(id, Input::Opened { form: WireForm::Native, preface: &[] });
        self.ask(0, Ask::Hello { user: user.into(), token: None, features: FeatureNames::NONE });
        self.rest();
        self.heard.clear();
    }

    pub fn ask(&mut self, request: u64, ask: Ask<'_>) {
        let id = ConnectionId { slot: 0, generation: 1 };
        assert!(self.shard.is_read(id));
        self.shard.handle(id, Input::Request(&Request { id: Some(request), ask }));
    }

    pub fn join(&mut self) {
        self.ask(
            1,
            Ask::Join { room: self.room.into(), from: JoinFrom::Now, echo: false, presence: false, token: None },
        );
    }

    /// Leaves the room for another one.
    pub fn move_to(&mut self, room: &'static str) {
        self.ask(1, Ask::Leave { room: self.room.into() });
        self.room = room;
        self.join();
        self.rest();
    }

    pub fn post(&mut self, request: u64, key: Option<&str>, body: &str) {
        let body = Body { format: BodyFormat::Json, bytes: body.as_bytes() };
        self.ask(request, Ask::Post { room: self.room.into(), body, key: key.map(Into::into) });
    }

    /// What a post with that key is answered.
    pub fn posted(&mut self, key: &str, body: &str) -> String {
        self.heard.clear();
        self.post(9, Some(key), body);
        self.rest();
        self.heard.join(", ")
    }

    /// So much passes, for the server and for the wall clock, in turns of a second.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 1_000 {
            (self.monotonic_ms, self.unix_ms) = (self.monotonic_ms + 1_000, self.unix_ms + 1_000);
            self.turn();
        }
    }

    pub fn turn(&mut self) {
        self.shard.begin_turn(Now { monotonic_ms: self.monotonic_ms, unix_ms: self.unix_ms, ..Now::default() }, []);
        for id in std::mem::take(&mut self.sent) {
            self.shard.handle(id, Input::Sent);
        }
        for ask in std::mem::take(&mut self.disk.kept) {
            self.perform(ask);
        }
        self.shard.finish_turn();
        for (_, ask) in self.shard.disk_asks() {
            self.perform(ask);
        }
        while let Some((id, sending)) = self.shard.next_send() {
            for frame in Frames(sending.bytes()) {
                let frame = frame.expect("whole frames");
                let told = told(frame, &mut self.epoch);
                self.bodies.extend(bodies(frame));
                self.heard.push(told);
            }
            self.sent.push(id);
        }
        *self.shard.actions_mut() = Actions::default();
    }

    pub fn perform(&mut self, ask: DiskAsk) {
        if self.disk.keeps_reads && matches!(ask, DiskAsk::Read(_)) {
            return self.disk.kept.push(ask);
        }
        for answer in self.disk.perform(ask, self.run, self.unix_ms) {
            self.shard.disk(LogId::LOCAL, answer);
        }
    }

    pub fn rest(&mut self) {
        (0..20).for_each(|_| self.turn());
    }
}

fn told(frame: &[u8], joined_epoch: &mut u64) -> String {
    let (frame, _) = Frame::read(frame, u32::MAX).expect("a frame");
    match native::read_event(frame).expect("an event") {
        Event::Joined { sequence, epoch, .. } => {
            *joined_epoch = epoch.0;
            format!("joined {}", sequence.0)
        }
        Event::Message(message) => format!("message {}", message.sequence.0),
        Event::Posted { sequence, duplicate, .. } => {
            format!("{} {}", if duplicate { "duplicate" } else { "posted" }, sequence.0)
        }
        Event::Error { code, scope, retry_after_ms, reason, .. } => {
            let told = format!("{} {:?} {:?}", code.as_str(), scope.map(|scope| scope.as_str()), retry_after_ms);
            reason.map_or(told.clone(), |reason| format!("{told} {reason}"))
        }
        Event::Signal { body, .. } => format!("signal {}", String::from_utf8_lossy(body.bytes)),
        Event::Taken { reply, .. } => format!("taken {}", String::from_utf8_lossy(reply.unwrap_or_default())),
        Event::Page { messages, .. } => format!("page of {}", Frames(messages).count()),
        other => format!("{other:?}"),
    }
}

/// What the messages of a page say.
fn bodies(frame: &[u8]) -> Vec<String> {
    let (frame, _) = Frame::read(frame, u32::MAX).expect("a frame");
    let Event::Page { messages, .. } = native::read_event(frame).expect("an event") else { return Vec::new() };
    let body = |frame| String::from_utf8_lossy(native::read_message(frame).expect("a message").body.bytes).into_owned();
    Frames(messages).flatten().map(body).collect()
}

pub fn roomy() -> Limits {
    Limits { outbox_bytes_max: 1 << 24, idle_timeout_ms: 0, ..Limits::default() }
}
