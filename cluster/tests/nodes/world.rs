//! The world that nodes live in: their real journals, an engine in memory, a load that posts and reads, and what is known to be true.

use std::collections::BTreeMap;

use banter_cluster::engine::{Answer as EngineAnswer, Partition};
use banter_cluster::entry::{NodeId, StreamEpochs};
use banter_cluster::members::{NodeState, name_hash};
use banter_cluster::node::{Input, Node, NodeConfig, Note, Now, Out};
use banter_cluster::partition::{self, JournalLimits, PartitionConfig};
use banter_cluster::store::{Stage, StoreConfig};
use banter_log::index::Entry;
use banter_log::journal::{Done, Journal, Reach, State};
use banter_log::reading::PageWant;
use banter_log::record::{Author, Level, Record};
use banter_log::segment::Class;
use banter_protocol::event::Message;
use banter_protocol::frame::Frames;
use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};
use banter_protocol::native::{read_message, write_message};
use banter_protocol::request::{Body, BodyFormat};

use crate::common::chance::Chance;
use crate::common::engine::{Engine, Faults};

pub const PARTITIONS: u16 = 4;
const ROOMS: usize = 12;
const UNIX_MS: u64 = 1_700_000_000_000;

fn room_name(room: usize) -> String {
    format!("room-{room}")
}

fn partition_of(room: usize) -> u16 {
    ((RoomId::of(&room_name(room)).0 >> 120) as u16) % PARTITIONS
}

/// What is known to have happened, by who asks and by nobody else.
#[derive(Debug, Default)]
pub struct Truth {
    /// What was ever read or acknowledged of a place.
    places: BTreeMap<(usize, u64, u64), String>,
    /// The last place of a room that was acknowledged.
    acknowledged: BTreeMap<usize, (u64, u64)>,
    pub acknowledged_count: u64,
    /// Something was too old, and forgotten.
    pub has_forgotten: bool,
}

impl Truth {
    fn is_at(&mut self, room: usize, epoch: u64, sequence: u64, body: &str) {
        let there = self.places.entry((room, epoch, sequence)).or_insert_with(|| body.to_owned());
        assert_eq!(there, body, "two messages of room {room} at {epoch}/{sequence}");
    }

    fn acknowledge(&mut self, room: usize, epoch: u64, sequence: u64, body: &str) {
        self.is_at(room, epoch, sequence, body);
        self.acknowledged_count += 1;
        let last = self.acknowledged.entry(room).or_insert((epoch, 0));
        // One of which nothing is left begins anew, under a later epoch.
        assert!(epoch == last.0 || (epoch > last.0 && self.has_forgotten), "room {room} goes on under its epoch");
        *last = if epoch == last.0 { (epoch, last.1.max(sequence)) } else { (epoch, sequence) };
    }
}

/// A room at a node.
#[derive(Debug)]
struct Open {
    room: usize,
    epoch: Epoch,
    head: u64,
}

#[derive(Debug)]
pub struct PartitionAt {
    pub journal: Journal,
    rooms: Vec<Open>,
    /// What is in the commit in flight: room, place, body.
    flight: Vec<(usize, u64, String)>,
    /// Pages that are read: the room, from there.
    pages: BTreeMap<u32, (usize, u64)>,
}

pub struct Machine {
    pub node: Option<Node>,
    id: Option<NodeId>,
    pub partitions: BTreeMap<u16, PartitionAt>,
    is_serving: bool,
    /// It does nothing until then, and hears all of it at once.
    stopped_until_ms: u64,
    missed: Vec<EngineAnswer>,
    runs: u64,
    skew_ms: u64,
}

pub struct World {
    pub engine: Engine,
    stream_bytes_max: u64,
    pub machines: Vec<Machine>,
    pub truth: Truth,
    pub chance: Chance,
    pub serves: u64,
    notes: Vec<String>,
    posts: u64,
    forgets: bool,
    /// Disks of the engine have bits that are others.
    pub flips: bool,
    /// Partitions that a node would not serve.
    pub broken: u64,
}

impl World {
    pub fn new(seed: u64, nodes: usize, stream_bytes_max: u64) -> Self {
        let mut chance = Chance::new(seed);
        let machines = (0..nodes).map(|_| Machine {
            node: None,
            id: None,
            partitions: BTreeMap::new(),
            is_serving: false,
            stopped_until_ms: 0,
            missed: Vec::new(),
            runs: 0,
            skew_ms: chance.within(0, 600_000),
        });
        let machines = machines.collect();
        let mut world = World {
            engine: Engine::new(seed, PARTITIONS, nodes, stream_bytes_max),
            stream_bytes_max,
            machines,
            truth: Truth::default(),
            chance,
            serves: 0,
            notes: Vec::new(),
            posts: 0,
            forgets: seed % 3 == 2,
            flips: false,
            broken: 0,
        };
        (0..nodes).for_each(|node| world.start(node));
        world
    }

    fn now(&self, machine: usize) -> Now {
        Now { monotonic_ms: self.engine.now_ms, unix_ms: UNIX_MS + self.machines[machine].skew_ms + self.engine.now_ms }
    }

    pub fn start(&mut self, machine: usize) {
        let (now, seed) = (self.now(machine), self.chance.number());
        let at = &mut self.machines[machine];
        at.runs += 1;
        let name = format!("node-{machine}");
        let by = NodeId { name: name_hash(&name), run: seed };
        let partition = PartitionConfig {
            by,
            appends_in_flight_max: 4,
            store: StoreConfig { segment_bytes: 64 << 10, stream_bytes_max: self.stream_bytes_max, seed },
            epochs: StreamEpochs { blank: 1_000_000, ..StreamEpochs::default() },
            levels: 7,
            journal: JournalLimits {
                commit_bytes_max: 32 << 10,
                reads_max: 4,
                work_steps_max: 64,
                cache_bytes_max: 64 << 10,
            },
        };
        let config = NodeConfig {
            cluster: 9,
            addresses: vec![format!("{name}:7171")],
            name,
            version: "test".to_owned(),
            partitions: PARTITIONS,
            partition,
            dead_after_ms: 2_000,
            engine_cache_bytes: 256 << 10,
            unkept_bytes_max: 256 << 10,
        };
        (at.node, at.id) = (Some(Node::new(config, now)), Some(by));
    }

    pub fn crash(&mut self, machine: usize) {
        self.engine.forget(machine);
        let at = &mut self.machines[machine];
        (at.node, at.is_serving, at.stopped_until_ms) = (None, false, 0);
        at.partitions.clear();
        at.missed.clear();
    }

    pub fn tell(&mut self, machine: usize, input: Input) {
        let now = self.now(machine);
        let mut out = Vec::new();
        if let Some(node) = &mut self.machines[machine].node {
            node.handle(input, now, &mut out);
        }
        for out in out {
            match out {
                Out::Ask(ask) => self.engine.ask(machine, ask),
                Out::Opened(partition, parts) => {
                    let journal = Journal::new(*parts);
                    let rooms = (0..ROOMS).filter(|&room| partition_of(room) == partition.0);
                    let is_owner = self.engine.newest_claim(partition) == self.machines[machine].id;
                    let rooms = rooms.map(|room| self.open_room(room, &journal, is_owner)).collect();
                    let (flight, pages) = (Vec::new(), BTreeMap::new());
                    let opened = PartitionAt { journal, rooms, flight, pages };
                    self.machines[machine].partitions.insert(partition.0, opened);
                    self.ask_disk(machine, partition.0);
                }
                Out::Disk(partition, answer) => {
                    let mut done = Vec::new();
                    if let Some(at) = self.machines[machine].partitions.get_mut(&partition.0) {
                        at.journal.handle(answer, &mut done);
                    }
                    self.take_done(machine, partition.0, done);
                    self.ask_disk(machine, partition.0);
                }
                Out::Closed(partition) => drop(self.machines[machine].partitions.remove(&partition.0)),
                Out::Serve => {
                    self.machines[machine].is_serving = true;
                    self.serves += 1;
                }
                Out::StandBy => self.machines[machine].is_serving = false,
                Out::Note(Note::Broken { partition, fault }) => {
                    assert!(self.flips, "{partition:?} is broken: {fault}");
                    self.broken += 1;
                }
                Out::Note(note) => self.notes.push(format!("{} node {machine}: {note:?}", self.engine.now_ms)),
                Out::Nodes(_) | Out::LetGo(_) | Out::Drained => {}
            }
        }
    }

    /// What an owner finds of a room is no less than what was acknowledged.
    fn open_room(&self, room: usize, journal: &Journal, is_owner: bool) -> Open {
        let id = RoomId::of(&room_name(room));
        let known = journal.catalog().room(id);
        let epoch = journal.catalog().epoch_of(id, Level::Synced, Class::SERVER);
        let head = known.map_or(0, |known| known.head.0);
        if let Some(&(acknowledged_epoch, acknowledged)) = self.truth.acknowledged.get(&room) {
            if epoch.0 != acknowledged_epoch && self.truth.has_forgotten {
                assert!(epoch.0 > acknowledged_epoch || !is_owner, "an epoch that it had");
                return Open { room, epoch, head };
            }
            assert_eq!(epoch.0, acknowledged_epoch);
            // One that does not know yet that it has lost the partition finds it as it was.
            assert!(
                head >= acknowledged || !is_owner,
                "room {room} ends at {head}, and {acknowledged} was acknowledged"
            );
            assert!(known.is_none_or(|known| known.first.0 == 1) || self.truth.has_forgotten, "nothing of it went");
        }
        Open { room, epoch, head }
    }

    fn ask_disk(&mut self, machine: usize, partition: u16) {
        let Some(at) = self.machines[machine].partitions.get_mut(&partition) else { return };
        for ask in std::mem::take(at.journal.asks_mut()) {
            self.tell(machine, Input::Disk(Partition(partition), ask));
        }
    }

    fn take_done(&mut self, machine: usize, partition: u16, done: Vec<Done>) {
        for done in done {
            let Some(at) = self.machines[machine].partitions.get_mut(&partition) else { return };
            match done {
                Done::Committed { .. } => {
                    for (room, sequence, body) in std::mem::take(&mut at.flight) {
                        let open = at.rooms.iter().find(|open| open.room == room).expect("a room of the partition");
                        self.truth.acknowledge(room, open.epoch.0, sequence, &body);
                    }
                }
                Done::CommitFailed => {
                    for (room, _, _) in std::mem::take(&mut at.flight) {
                        let head =
                            at.journal.catalog().room(RoomId::of(&room_name(room))).map_or(0, |known| known.head.0);
                        at.rooms.iter_mut().filter(|open| open.room == room).for_each(|open| open.head = head);
                    }
                }
                Done::Page { ticket, page } => {
                    let (room, from) = at.pages.remove(&ticket).expect("a page that was asked for");
                    let page = match page {
                        Ok(page) => page,
                        Err(fault) => {
                            self.notes.push(format!(
                                "{} node {machine}: room {room} from {from}: {fault:?}",
                                self.engine.now_ms
                            ));
                            continue;
                        }
                    };
                    // What it began with may have been forgotten meanwhile.
                    let from = if self.truth.has_forgotten { from.max(page.first.0) } else { from };
                    for (next, frame) in (from..).zip(Frames(&page.messages)) {
                        let message = read_message(frame.expect("a frame")).expect("a message");
                        assert_eq!(message.sequence.0, next, "a page is dense");
                        let body = std::str::from_utf8(message.body.bytes).expect("text");
                        self.truth.is_at(room, message.epoch.0, message.sequence.0, body);
                    }
                }
                Done::Keys { .. } | Done::State { .. } | Done::Proved => {}
            }
        }
    }

    /// Posts to some rooms of a partition, as many as a commit takes.
    fn post(&mut self, machine: usize, partition: u16) {
        let (time_ms, count) = (self.now(machine).unix_ms, self.chance.within(1, 6));
        let sizes: Vec<usize> = (0..count).map(|_| self.chance.within(1, 3_000) as usize).collect();
        let Some(at) = self.machines[machine].partitions.get_mut(&partition) else { return };
        if !at.journal.is_idle(Class::SERVER) || at.rooms.is_empty() || at.journal.state(Class::SERVER) != State::Open {
            return;
        }
        let mut frames = Vec::new();
        for (number, size) in sizes.into_iter().enumerate() {
            let rooms = at.rooms.len();
            let open = &mut at.rooms[(self.posts as usize + number) % rooms];
            open.head += 1;
            let body = format!("{} {}", self.posts + number as u64, ".".repeat(size));
            let name = room_name(open.room);
            let message = Message {
                epoch: open.epoch,
                sequence: Sequence(open.head),
                time_ms,
                room: &name,
                user: "ann",
                key: None,
                body: Body { format: BodyFormat::Bytes, bytes: body.as_bytes() },
            };
            let mut frame = Vec::new();
            write_message(&message, &mut frame);
            at.flight.push((open.room, open.head, body));
            frames.push((RoomId::of(&name), open.epoch, open.head, frame, name));
        }
        self.posts += frames.len() as u64;
        let author = Author { core: 0, slot: 1, generation: 1 };
        let records = frames.iter().map(|(room, epoch, sequence, frame, name)| {
            let record = Record::message(*room, Level::Synced, author, frame);
            let (kind, record_bytes) = (record.kind, record.bytes() as u32);
            let (epoch, sequence, level) = (*epoch, Sequence(*sequence), Level::Synced);
            let entry = Entry { kind, room: *room, epoch, sequence, time_ms, level, record_bytes, key: None };
            (record, entry, name.as_str())
        });
        if !at.journal.commit(Class::SERVER, records, Reach::Synced) {
            for (room, _, _) in std::mem::take(&mut at.flight) {
                let open = at.rooms.iter_mut().find(|open| open.room == room).expect("a room of the partition");
                open.head -= 1;
            }
        }
        self.ask_disk(machine, partition);
    }

    /// Reads a room from a place on.
    fn read(&mut self, machine: usize, room: usize, from: u64) {
        let partition = partition_of(room);
        let Some(at) = self.machines[machine].partitions.get_mut(&partition) else { return };
        let Some(open) = at.rooms.iter().find(|open| open.room == room) else { return };
        let known = at.journal.catalog().room(RoomId::of(&room_name(room)));
        let (first, head) = known.map_or((1, 0), |known| (known.first.0, known.head.0));
        let from = from.max(first);
        if from > head {
            return;
        }
        let want = PageWant {
            room: RoomName::new(&room_name(room)).expect("a name"),
            epoch: open.epoch,
            first: Sequence(from),
            last: Sequence(head),
            messages_max: 50,
            bytes_max: 100_000,
            newest: false,
            spare: None,
        };
        let ticket = at.journal.read_page(want);
        at.pages.insert(ticket, (room, from));
        self.begin_reads(machine, partition);
    }

    fn begin_reads(&mut self, machine: usize, partition: u16) {
        let mut done = Vec::new();
        if let Some(at) = self.machines[machine].partitions.get_mut(&partition) {
            at.journal.work();
            at.journal.begin_reads(&mut done);
        }
        self.take_done(machine, partition, done);
        self.ask_disk(machine, partition);
    }

    /// It stands still for so long.
    pub fn stop(&mut self, machine: usize, for_ms: u64) {
        self.machines[machine].stopped_until_ms = self.engine.now_ms + for_ms;
    }

    fn is_stopped(&self, machine: usize) -> bool {
        self.machines[machine].stopped_until_ms > self.engine.now_ms
    }

    /// A millisecond passes.
    pub fn step(&mut self) {
        self.engine.now_ms += 1;
        for (machine, answer) in self.engine.step() {
            if self.is_stopped(machine) {
                self.machines[machine].missed.push(answer)
            } else {
                self.tell(machine, Input::Engine(answer))
            }
        }
        for machine in 0..self.machines.len() {
            if self.is_stopped(machine) {
                continue;
            }
            for answer in std::mem::take(&mut self.machines[machine].missed) {
                self.tell(machine, Input::Engine(answer));
            }
            let due = self.machines[machine].node.as_ref().is_some_and(|node| node.next_due() <= self.engine.now_ms);
            if due {
                self.tell(machine, Input::Tick);
            }
            let partitions: Vec<u16> = self.machines[machine].partitions.keys().copied().collect();
            for partition in partitions {
                self.begin_reads(machine, partition);
            }
        }
    }

    pub fn work(&mut self) {
        for machine in 0..self.machines.len() {
            if self.is_stopped(machine) || !self.machines[machine].is_serving {
                continue;
            }
            if self.chance.is_per_mille(300) {
                let partition = self.chance.within(0, u64::from(PARTITIONS) - 1) as u16;
                self.post(machine, partition);
            }
            if self.forgets && self.chance.is_per_mille(2) {
                let partition = self.chance.within(0, u64::from(PARTITIONS) - 1) as u16;
                self.forget(machine, partition);
            }
            if self.chance.is_per_mille(20) {
                let (room, from) = (self.chance.within(0, ROOMS as u64 - 1) as usize, self.chance.within(1, 60));
                self.read(machine, room, from);
            }
        }
    }

    /// Some of the oldest segments are too old.
    fn forget(&mut self, machine: usize, partition: u16) {
        let Some(node) = &self.machines[machine].node else { return };
        let sealed = node.segments(Partition(partition)).take_while(|segment| segment.stage == Stage::Kept);
        let sealed: Vec<u64> = sealed.map(|segment| segment.header.id).collect();
        let count = self.chance.within(1, 3) as usize;
        let segments: Vec<u64> = sealed.into_iter().take(count).collect();
        if !segments.is_empty() {
            self.truth.has_forgotten = true;
            self.tell(machine, Input::Forget(Partition(partition), segments));
        }
    }

    pub fn harm(&mut self) {
        let machine = self.chance.within(0, self.machines.len() as u64 - 1) as usize;
        match self.chance.within(0, 6) {
            0 => self.crash(machine),
            1 => {
                let for_ms = self.chance.within(50, 7_000);
                self.stop(machine, for_ms);
            }
            2 | 3 => {
                let (stream, for_ms) =
                    (self.chance.within(0, u64::from(PARTITIONS) - 1), self.chance.within(50, 5_000));
                self.engine.change_leader(stream as usize, for_ms);
            }
            4 => {
                let (asks, answers) = [(true, true), (true, false), (false, true)][self.chance.within(0, 2) as usize];
                self.engine.cut(machine, asks, answers);
            }
            5 => {
                let per_mille = self.chance.within(0, 60);
                self.engine.faults = Faults {
                    lost_answer: per_mille,
                    late_append: per_mille / 2,
                    stale: 3 * per_mille,
                    nothing: per_mille,
                    flipped: if self.flips { per_mille / 10 } else { 0 },
                };
            }
            _ => self.heal(machine),
        }
    }

    fn heal(&mut self, machine: usize) {
        self.engine.cut(machine, false, false);
        if self.machines[machine].node.is_none() {
            self.start(machine);
        }
    }

    fn heal_all(&mut self) {
        self.engine.faults = Faults::NONE;
        for machine in 0..self.machines.len() {
            self.machines[machine].stopped_until_ms = 0;
            // What was damaged is mended, and an operator starts anew whoever has seen it damaged.
            let is_broken = |node: &Node| node.partitions().any(|state| state == partition::State::Broken);
            if self.machines[machine].node.as_ref().is_some_and(is_broken) {
                self.crash(machine);
            }
            self.heal(machine);
        }
    }

    pub fn owners(&self) -> Vec<usize> {
        let is_serving = |node: &Node| node.state() == NodeState::Serving;
        (0..self.machines.len()).filter(|&at| self.machines[at].node.as_ref().is_some_and(is_serving)).collect()
    }

    fn has_one_owner(&self) -> bool {
        let states = self.machines.iter().filter_map(|machine| machine.node.as_ref().map(Node::state));
        let others = states.filter(|state| *state != NodeState::Standby).count();
        others == 1 && self.owners().len() == 1
    }

    /// It comes to rest: one owner, who shows all that was ever acknowledged.
    pub fn comes_to_rest(&mut self) {
        let until_ms = self.engine.now_ms + 90_000;
        self.heal_all();
        while !self.rests() || !self.shows_all() {
            self.heal_all();
            assert!(self.engine.now_ms < until_ms, "it does not come to rest: {}", self.told());
        }
    }

    /// What every node does, and what they noted last.
    pub fn told(&self) -> String {
        let nodes = self.machines.iter().flat_map(|machine| &machine.node);
        let seen: Vec<_> = nodes.map(|node| (node.state(), node.partitions().collect::<Vec<_>>())).collect();
        format!("{seen:?} {:#?}", self.last_notes())
    }

    fn last_notes(&self) -> Vec<&String> {
        self.notes.iter().rev().take(20).collect()
    }

    /// For three seconds there was one owner, within ten.
    fn rests(&mut self) -> bool {
        let (until_ms, mut calm_ms) = (self.engine.now_ms + 10_000, 0);
        while calm_ms < 3_000 && self.engine.now_ms < until_ms {
            self.step();
            calm_ms = if self.has_one_owner() { calm_ms + 1 } else { 0 };
        }
        calm_ms >= 3_000
    }

    /// `false`: another owns the partitions by now.
    fn shows_all(&mut self) -> bool {
        let owner = self.owners()[0];
        (0..ROOMS).all(|room| self.shows(owner, room))
    }

    fn shows(&mut self, owner: usize, room: usize) -> bool {
        let Some(&(epoch, acknowledged)) = self.truth.acknowledged.get(&room) else { return true };
        if !self.machines[owner].partitions.contains_key(&partition_of(room)) {
            return false;
        }
        let mut shown = Truth { has_forgotten: self.truth.has_forgotten, ..Truth::default() };
        let known = self.known(owner, room);
        if known.is_none() || known.is_some_and(|(there, ..)| there != epoch) {
            assert!(self.truth.has_forgotten, "nothing of room {room} is left");
            return true;
        }
        let mut first = known.map_or(1, |(_, first)| first);
        assert!(first == 1 || self.truth.has_forgotten);
        let mut next = first;
        while next <= acknowledged {
            let empty = Truth { has_forgotten: self.truth.has_forgotten, ..Truth::default() };
            let before = std::mem::replace(&mut self.truth, empty);
            let is_read = self.reads_page(owner, room, next);
            shown.places.extend(std::mem::replace(&mut self.truth, before).places);
            if !is_read {
                return false;
            }
            let is_shown = |sequence: &u64| shown.places.contains_key(&(room, epoch, *sequence));
            // How much of it was forgotten a node learns by reading.
            if self.truth.has_forgotten && next == first && !is_shown(&next) {
                let of_room = shown.places.keys().filter(|(there, at, _)| (*there, *at) == (room, epoch));
                let shown = of_room.map(|(_, _, sequence)| *sequence).find(|sequence| *sequence > next);
                (first, next) = (shown.unwrap_or(first), shown.unwrap_or(next));
            }
            let behind = (next..).find(|sequence| !is_shown(sequence)).unwrap_or(next);
            if behind == next {
                assert!(
                    self.truth.has_forgotten,
                    "room {room}: nothing from {next} on, of {acknowledged}: {:#?}",
                    self.last_notes()
                );
                // Some of it was forgotten while it was read: it is read anew.
                return false;
            }
            next = behind;
        }
        for sequence in first..=acknowledged {
            let place = (room, epoch, sequence);
            let known = self.truth.places.get(&place);
            assert!(known.is_none_or(|known| *known == shown.places[&place]), "{place:?} is another message now");
        }
        true
    }

    /// The epoch of a room, and its first place.
    fn known(&self, owner: usize, room: usize) -> Option<(u64, u64)> {
        let at = self.machines[owner].partitions.get(&partition_of(room))?;
        let known = at.journal.catalog().room(RoomId::of(&room_name(room)))?;
        Some((known.epoch.0, known.first.0))
    }

    fn reads_page(&mut self, owner: usize, room: usize, from: u64) -> bool {
        self.read(owner, room, from);
        let until_ms = self.engine.now_ms + 5_000;
        loop {
            let Some(there) = self.machines[owner].partitions.get(&partition_of(room)) else { return false };
            if !there.pages.values().any(|(there, _)| *there == room) {
                return true;
            }
            assert!(self.engine.now_ms < until_ms, "a page of room {room} does not come");
            self.step();
        }
    }
}
