//! An engine in memory, as it was measured: a leader for each stream that checks an append against what it has proposed, commits behind a
//! delay, and may go and leave some of it without a word; replicas that answer reads of a while ago; appends that land late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use banter_cluster::engine::{Answer, Ask, Object, ObjectName, Partition, Tail, Ticket, Unasked};
use banter_cluster::entry::{Entry, NodeId, Said, StreamId};
use bytes::Bytes;

use super::chance::Chance;

/// How long whoever asks waits for an answer, in milliseconds.
const PATIENCE_MS: u64 = 500;

/// What may go wrong, each so many times of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// An answer to an append is lost.
    pub lost_answer: u64,
    /// An append is late by seconds, and its answer lost.
    pub late_append: u64,
    /// A tail or a read is of a while ago.
    pub stale: u64,
    /// A read or an object brings nothing.
    pub nothing: u64,
    /// A message that is read, or an object, has a bit that is another.
    pub flipped: u64,
}

impl Faults {
    /// None.
    pub const NONE: Faults = Faults { lost_answer: 0, late_append: 0, stale: 0, nothing: 0, flipped: 0 };
}

/// A stream.
#[derive(Debug, Default)]
struct Stream {
    first: u64,
    messages: BTreeMap<u64, Bytes>,
    last: u64,
    proposed: VecDeque<Proposed>,
    /// There is no leader until then.
    leaderless_until_ms: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Proposed {
    commit_ms: u64,
    bytes: Bytes,
    from: usize,
    ticket: Ticket,
    is_heard: bool,
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    pub now_ms: u64,
    pub faults: Faults,
    pub chance: Chance,
    /// Messages that a server lacks, for now.
    pub hidden: BTreeSet<(Partition, u64)>,
    /// Whether there is space for objects.
    pub takes_objects: bool,
    streams: Vec<Stream>,
    objects: BTreeMap<ObjectName, Object>,
    /// What was there before, as a server has it that is late.
    objects_before: BTreeMap<ObjectName, Option<Object>>,
    versions: u64,
    /// What comes to the engine, by when.
    coming: BTreeMap<(u64, u64), (usize, Ask)>,
    /// What comes to nodes, by when.
    going: BTreeMap<(u64, u64), (usize, Answer)>,
    /// Appends without an answer, and until when it is waited for.
    waiting: BTreeMap<(usize, Ticket), u64>,
    /// When what a node sent last comes: a connection keeps its order.
    last_ms: Vec<u64>,
    /// Nodes whose asks are lost, and whose answers are.
    cut: Vec<(bool, bool)>,
    count: u64,
    stream_bytes_max: u64,
}

impl Engine {
    /// One with so many streams for so many nodes.
    pub fn new(seed: u64, streams: u16, nodes: usize, stream_bytes_max: u64) -> Self {
        Engine {
            now_ms: 0,
            faults: Faults::NONE,
            chance: Chance::new(seed),
            hidden: BTreeSet::new(),
            takes_objects: true,
            streams: (0..streams).map(|_| Stream { first: 1, ..Stream::default() }).collect(),
            objects: BTreeMap::new(),
            objects_before: BTreeMap::new(),
            versions: 0,
            coming: BTreeMap::new(),
            going: BTreeMap::new(),
            waiting: BTreeMap::new(),
            last_ms: vec![0; nodes],
            cut: vec![(false, false); nodes],
            count: 0,
            stream_bytes_max,
        }
    }

    /// A node asks.
    pub fn ask(&mut self, node: usize, ask: Ask) {
        let is_late = matches!(ask, Ask::Append { .. }) && self.chance.is_per_mille(self.faults.late_append);
        let delay_ms = if is_late { self.chance.within(400, 6_000) } else { self.chance.within(0, 2) };
        let mut due_ms = self.now_ms + delay_ms;
        if !is_late {
            due_ms = due_ms.max(self.last_ms[node]);
            self.last_ms[node] = due_ms;
        }
        if let Ask::Append { ticket, .. } = &ask {
            self.waiting.insert((node, *ticket), self.now_ms + PATIENCE_MS);
        }
        if self.cut[node].0 {
            self.say_nothing(node, &ask, PATIENCE_MS);
            return;
        }
        self.count += 1;
        self.coming.insert((due_ms, self.count), (node, ask));
    }

    /// What a node hears that asks in vain; of an append it is told when its patience ends.
    fn say_nothing(&mut self, node: usize, ask: &Ask, behind_ms: u64) {
        let answer = match *ask {
            Ask::Append { .. } | Ask::Beat { .. } => return,
            Ask::Tail { ticket, .. } => Answer::Tail { ticket, tail: None },
            Ask::Read { ticket, .. } => Answer::Read { ticket, messages: None },
            Ask::Get { ticket, .. } => Answer::Object { ticket, object: Err(Unasked) },
            Ask::Purge { ticket, .. } | Ask::Put { ticket, .. } | Ask::Remove { ticket, .. } => {
                Answer::Done { ticket, is_done: false }
            }
        };
        self.go(node, answer, behind_ms);
    }

    fn go(&mut self, node: usize, answer: Answer, behind_ms: u64) {
        self.count += 1;
        self.going.insert((self.now_ms + behind_ms, self.count), (node, answer));
    }

    /// A node ended: what it sent may land yet, and nobody waits for it.
    pub fn forget(&mut self, node: usize) {
        self.waiting.retain(|(there, _), _| *there != node);
        self.going.retain(|_, (there, _)| *there != node);
    }

    /// Cuts a node off, in one or both directions.
    pub fn cut(&mut self, node: usize, asks: bool, answers: bool) {
        self.cut[node] = (asks, answers);
    }

    /// The leader of a stream goes; some of what it had proposed is kept, and nobody is told.
    pub fn change_leader(&mut self, stream: usize, for_ms: u64) {
        let kept = self.chance.within(0, self.streams[stream].proposed.len() as u64) as usize;
        let proposed: Vec<Proposed> = std::mem::take(&mut self.streams[stream].proposed).into();
        for proposed in proposed.into_iter().take(kept) {
            self.streams[stream].commit(proposed.bytes);
        }
        self.streams[stream].leaderless_until_ms = self.now_ms + for_ms;
    }

    /// Whose the newest claim of a stream is.
    pub fn newest_claim(&self, partition: Partition) -> Option<NodeId> {
        let claims = self.streams[partition.index()].messages.values().rev();
        claims.map(said_by).find_map(|said| if let Said::Claim { by, .. } = said { Some(by) } else { None })
    }

    /// All that a stream holds is purged, by hand.
    pub fn purge_all(&mut self, partition: Partition) {
        let first = self.streams[partition.index()].last + 1;
        self.streams[partition.index()].purge(first);
    }

    /// A stream is removed and made anew.
    pub fn make_anew(&mut self, partition: Partition) {
        self.streams[partition.index()] = Stream { first: 1, ..Stream::default() };
    }

    /// The last sequence of a stream.
    pub fn last(&self, partition: Partition) -> u64 {
        self.streams[partition.index()].last
    }

    /// What a stream holds.
    pub fn bytes(&self, partition: Partition) -> u64 {
        self.streams[partition.index()].bytes
    }

    /// Does what is due, and says what nodes hear.
    pub fn step(&mut self) -> Vec<(usize, Answer)> {
        let mut heard = Vec::new();
        while let Some((&key, _)) = self.coming.first_key_value().filter(|((due_ms, _), _)| *due_ms <= self.now_ms) {
            let Some((node, ask)) = self.coming.remove(&key) else { break };
            self.take(node, ask);
        }
        for stream in 0..self.streams.len() {
            self.commit(stream);
        }
        while let Some((&key, _)) = self.going.first_key_value().filter(|((due_ms, _), _)| *due_ms <= self.now_ms) {
            let Some((node, answer)) = self.going.remove(&key) else { break };
            self.hear(node, answer, &mut heard);
        }
        let late: Vec<(usize, Ticket)> =
            self.waiting.iter().filter(|(_, until_ms)| **until_ms <= self.now_ms).map(|(key, _)| *key).collect();
        for (node, ticket) in late {
            self.waiting.remove(&(node, ticket));
            heard.push((node, Answer::Silent { ticket }));
        }
        heard
    }

    fn hear(&mut self, node: usize, answer: Answer, heard: &mut Vec<(usize, Answer)>) {
        let is_lost = self.cut[node].1;
        match &answer {
            Answer::Appended { ticket, .. } | Answer::Refused { ticket, .. } | Answer::Full { ticket } => {
                let is_waited_for = !is_lost && self.waiting.remove(&(node, *ticket)).is_some();
                if !is_waited_for {
                    return;
                }
            }
            Answer::Beat { .. } if is_lost => return,
            // Nobody waits for ever.
            Answer::Tail { ticket, .. } if is_lost => {
                return heard.push((node, Answer::Tail { ticket: *ticket, tail: None }));
            }
            Answer::Read { ticket, .. } if is_lost => {
                return heard.push((node, Answer::Read { ticket: *ticket, messages: None }));
            }
            Answer::Object { ticket, .. } if is_lost => {
                return heard.push((node, Answer::Object { ticket: *ticket, object: Err(Unasked) }));
            }
            Answer::Done { ticket, .. } if is_lost => {
                return heard.push((node, Answer::Done { ticket: *ticket, is_done: false }));
            }
            _ => {}
        }
        heard.push((node, answer));
    }

    fn commit(&mut self, at: usize) {
        let now_ms = self.now_ms;
        if self.streams[at].leaderless_until_ms > now_ms {
            return;
        }
        while self.streams[at].proposed.front().is_some_and(|proposed| proposed.commit_ms <= now_ms) {
            let Some(Proposed { bytes, from, ticket, is_heard, .. }) = self.streams[at].proposed.pop_front() else {
                break;
            };
            let sequence = self.streams[at].commit(bytes);
            if is_heard && !self.chance.is_per_mille(self.faults.lost_answer) {
                let behind_ms = self.chance.within(0, 1);
                self.go(from, Answer::Appended { ticket, sequence }, behind_ms);
            }
        }
    }

    fn take(&mut self, node: usize, ask: Ask) {
        let is_leaderless = |engine: &Engine, at: usize| engine.streams[at].leaderless_until_ms > engine.now_ms;
        match ask {
            Ask::Append { partition, ticket, expected, bytes } => {
                let at = partition.index();
                if !is_leaderless(self, at) {
                    self.append(at, (node, ticket), expected, bytes);
                }
            }
            Ask::Tail { partition, ticket } if !is_leaderless(self, partition.index()) => {
                let is_stale = self.chance.is_per_mille(self.faults.stale);
                let back = if is_stale { self.chance.within(0, 5) } else { 0 };
                let stream = &self.streams[partition.index()];
                let last = stream.last.saturating_sub(back).max(stream.first.saturating_sub(1));
                let tail = Tail { first: stream.first, last, bytes: stream.bytes };
                self.go(node, Answer::Tail { ticket, tail: Some(tail) }, 1);
            }
            Ask::Read { partition, ticket, from, messages_max, bytes_max } => {
                if self.chance.is_per_mille(self.faults.nothing) {
                    return self.go(node, Answer::Read { ticket, messages: None }, 20);
                }
                let is_stale = self.chance.is_per_mille(self.faults.stale);
                let back = if is_stale { self.chance.within(0, 5) } else { 0 };
                let stream = &self.streams[partition.index()];
                let to = stream.last.saturating_sub(back);
                let mut bytes = 0;
                let there = stream.messages.range(from..).take_while(|(at, _)| **at <= to);
                let there = there.filter(|(at, _)| !self.hidden.contains(&(partition, **at)));
                let messages = there
                    .take(messages_max as usize)
                    .take_while(|(_, message)| {
                        let fits = bytes == 0 || bytes + message.len() <= bytes_max as usize;
                        bytes += message.len();
                        fits
                    })
                    .map(|(&at, message)| (at, message.clone()))
                    .collect::<Vec<_>>();
                let messages = messages.into_iter().map(|(at, message)| (at, self.as_on_disk(message))).collect();
                self.go(node, Answer::Read { ticket, messages: Some(messages) }, 1);
            }
            Ask::Purge { partition, ticket, first } if !is_leaderless(self, partition.index()) => {
                self.streams[partition.index()].purge(first);
                self.go(node, Answer::Done { ticket, is_done: true }, 1);
            }
            Ask::Put { ticket, name, expected, bytes } => {
                let there = self.objects.get(&name).map_or(0, |object| object.version);
                let is_done = self.takes_objects && expected.is_none_or(|expected| expected == there);
                if is_done {
                    self.versions += 1;
                    let before = self.objects.insert(name, Object { version: self.versions, bytes });
                    self.objects_before.insert(name, before);
                }
                let is_told = !self.chance.is_per_mille(self.faults.lost_answer);
                self.go(node, Answer::Done { ticket, is_done: is_done && is_told }, 1);
            }
            Ask::Get { ticket, name } => {
                let fails = self.chance.is_per_mille(self.faults.nothing);
                let is_stale = self.chance.is_per_mille(self.faults.stale);
                let before = self.objects_before.get(&name).filter(|_| is_stale);
                let there = before.map_or_else(|| self.objects.get(&name).cloned(), Clone::clone);
                let there = there.map(|object| Object { bytes: self.as_on_disk(object.bytes), ..object });
                let object = if fails { Err(Unasked) } else { Ok(there) };
                self.go(node, Answer::Object { ticket, object }, 1);
            }
            Ask::Remove { ticket, partition, kind } => {
                let is_gone = |name: &ObjectName| (name.partition, name.kind) == (partition, kind);
                for (name, object) in self.objects.extract_if(.., |name, _| is_gone(name)) {
                    self.objects_before.insert(name, Some(object));
                }
                self.go(node, Answer::Done { ticket, is_done: true }, 1);
            }
            Ask::Beat { bytes } => {
                for node in 0..self.cut.len() {
                    self.go(node, Answer::Beat { bytes: bytes.clone() }, 1);
                }
            }
            ask => self.say_nothing(node, &ask, PATIENCE_MS),
        }
    }

    /// As the disk of the server that answers has it.
    fn as_on_disk(&mut self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() || !self.chance.is_per_mille(self.faults.flipped) {
            return bytes;
        }
        let (at, bit) = (self.chance.within(0, bytes.len() as u64 - 1) as usize, self.chance.within(0, 7));
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << bit;
        flipped.into()
    }

    fn append(&mut self, at: usize, (node, ticket): (usize, Ticket), expected: u64, bytes: Bytes) {
        let stream = &mut self.streams[at];
        let last = stream.last + stream.proposed.len() as u64;
        if expected != last {
            return self.go(node, Answer::Refused { ticket, last }, 1);
        }
        if stream.bytes + bytes.len() as u64 > self.stream_bytes_max {
            return self.go(node, Answer::Full { ticket }, 1);
        }
        let commit_ms = self.now_ms + self.chance.within(1, 4);
        // They are committed in their order.
        let commit_ms = self.streams[at].proposed.back().map_or(commit_ms, |before| before.commit_ms.max(commit_ms));
        let is_heard = self.waiting.contains_key(&(node, ticket));
        self.streams[at].proposed.push_back(Proposed { commit_ms, bytes, from: node, ticket, is_heard });
    }
}

/// What a message says, whatever its stream.
fn said_by(message: &Bytes) -> Said {
    let number = |at: usize| u64::from_le_bytes(message[at..at + 8].try_into().expect("eight bytes"));
    let partition = Partition(u16::from_le_bytes([message[32], message[33]]));
    Entry::read(message, StreamId { cluster: number(8), partition }).expect("an entry").said
}

impl Stream {
    fn commit(&mut self, bytes: Bytes) -> u64 {
        self.last += 1;
        self.bytes += bytes.len() as u64;
        self.messages.insert(self.last, bytes);
        self.last
    }

    fn purge(&mut self, first: u64) {
        let kept = self.messages.split_off(&first);
        let gone = std::mem::replace(&mut self.messages, kept);
        self.bytes -= gone.values().map(|message| message.len() as u64).sum::<u64>();
        self.first = self.first.max(first.min(self.last + 1));
    }
}
