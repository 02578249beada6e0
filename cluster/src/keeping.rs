//! Keeps a partition's checkpoint: when so much was written since the last one that reading it would take longer than writing another,
//! one is put, then named the newest, then the one before goes.
//!
//! Invariants:
//! - A room's parts are covered in the order of its segments: of each class no segment before one that is not.
//! - What is the newest is named only in the place of what this node knows to be there, and never in the place of what an owner
//!   named that came later: so one who lost the partition without having heard so takes nothing back.
//! - What a checkpoint needs of the stream is purged only behind a newer one that is named ([`Keeping::purge_to`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use banter_log::catalog::{Catalog, Past};
use banter_log::index::Part;
use banter_log::segment::Class;
use banter_protocol::ids::Epoch;
use bytes::Bytes;

use crate::checkpoint::{Checkpoint, CoveredSegment, Newest};
use crate::engine::{Answer, Ask, Object, ObjectKind, ObjectName, Partition, Ticket};
use crate::entry::{StreamEpochs, StreamId};
use crate::object;
use crate::store::{Stage as SegmentStage, Store, StoredSegment};
use crate::terms::Terms;

/// A checkpoint is worth writing when so many times its bytes of segments came since the last one.
const TIMES_ITS_BYTES: u64 = 4;
/// Or when so many segments did: each is a table more to read.
const SEGMENTS_MAX: usize = 16;
/// Bits of a checkpoint's number that say which of its owner's it is.
const MADE_BITS: u32 = 24;
/// How long until what failed is tried again, in milliseconds.
const RETRY_MS: u64 = 2_000;

/// What follows.
#[derive(Debug)]
pub enum Out {
    /// The engine is to do that.
    Ask(Ask),
    /// Another node has claimed the partition, as it seems.
    Doubt,
    /// [`Keeping::wake`] is due in so many milliseconds.
    WakeIn(u64),
}

/// What a checkpoint says beside rooms and segments.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Where a reader stands who knows all.
    pub terms: Terms,
    /// Whether the partition is known to be this node's: in doubt nobody knows what of the stream counts.
    pub is_certain: bool,
    /// The largest run or epoch that was given.
    pub number: u64,
    /// What epochs follow from, as the stream says it.
    pub epochs: StreamEpochs,
}

/// The machine.
#[derive(Debug)]
pub struct Keeping {
    stream: StreamId,
    /// The rooms, as of the covered segments.
    catalog: Catalog,
    covered: BTreeSet<u64>,
    /// Parts of segments that are kept, and come behind one that is not.
    behind: BTreeMap<u64, Vec<Part>>,
    since: Since,
    last_bytes: u64,
    newest: Option<Newest>,
    newest_version: u64,
    /// The stream is needed from there on, by the checkpoint that is named.
    needed_from: u64,
    purged_to: u64,
    /// The first term of this owner, and checkpoints that it made.
    term: u64,
    made: u64,
    tickets: u64,
    stage: Stage,
}

/// What came and went since the last checkpoint that is named: segments that it does not cover, and those that it covers and are gone,
/// which it keeps in the stream.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    segments: usize,
    bytes: u64,
}

impl Since {
    fn add(&mut self, bytes: u64) {
        (self.segments, self.bytes) = (self.segments + 1, self.bytes + bytes);
    }
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// Its pieces are being put.
    Putting {
        newest: Newest,
        needed_from: u64,
        since: Since,
        pieces: VecDeque<Bytes>,
        piece: u32,
        ticket: Ticket,
    },
    /// It is being named.
    Naming {
        newest: Newest,
        needed_from: u64,
        since: Since,
        ticket: Ticket,
    },
    /// Another was named: which version is there now.
    Looking(Ticket),
    /// What failed is tried again.
    Pausing,
    /// Another node has claimed the partition since.
    Outlived,
}

impl Keeping {
    /// As a load found it; the segments that its checkpoint covers are those that are kept.
    pub fn new(
        stream: StreamId,
        term: u64,
        catalog: Catalog,
        store: &Store,
        (found, newest_version): (Option<Newest>, u64),
    ) -> Self {
        let is_kept = |segment: &&StoredSegment| segment.stage == SegmentStage::Kept;
        let covered = store.segments().filter(is_kept).map(|segment| segment.header.id).collect();
        Keeping {
            stream,
            catalog,
            covered,
            behind: BTreeMap::new(),
            since: Since::default(),
            last_bytes: found.map_or(0, |found| found.bytes),
            newest: found,
            newest_version,
            needed_from: 0,
            purged_to: 0,
            term,
            made: 0,
            tickets: 0,
            stage: Stage::Idle,
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn name(&self, kind: ObjectKind, piece: u32) -> ObjectName {
        ObjectName { partition: self.stream.partition, kind, piece }
    }

    /// A segment's object is kept, and its index says that.
    pub fn kept(&mut self, segment: u64, parts: Vec<Part>, store: &Store, standing: &Standing, out: &mut Vec<Out>) {
        self.behind.insert(segment, parts);
        self.cover(store, standing);
        self.begin_if_due(store, standing, out);
    }

    /// Covers what is kept, of each class up to the first that is not.
    fn cover(&mut self, store: &Store, standing: &Standing) {
        let headers = store.segments().map(|segment| &segment.header);
        let (dropped, changed) = (Epoch(standing.epochs.dropped), Epoch(standing.epochs.lowered));
        let past = Past { oldest: Catalog::oldest_of(headers), dropped, changed, ..Past::default() };
        let mut stopped: BTreeSet<Class> = BTreeSet::new();
        for segment in store.segments() {
            if self.covered.contains(&segment.header.id) {
                continue;
            }
            let (id, class) = (segment.header.id, segment.header.class);
            let parts = self.behind.get(&id).filter(|_| !stopped.contains(&class));
            let Some(parts) = parts else {
                stopped.insert(class);
                continue;
            };
            self.catalog.add_segment(segment.header, segment.parts, segment.newest_ms);
            for part in parts {
                self.catalog.add_any_part(&segment.header, &mut part.clone(), true, &past);
            }
            self.covered.insert(id);
            self.behind.remove(&id);
            self.since.add(segment.end_offset);
        }
    }

    /// Puts a checkpoint, if one is due.
    pub fn begin_if_due(&mut self, store: &Store, standing: &Standing, out: &mut Vec<Out>) {
        let Since { segments, bytes } = self.since;
        let is_worth_it = segments >= SEGMENTS_MAX || bytes >= TIMES_ITS_BYTES * self.last_bytes;
        // Also what an owner before this one forgot makes room only behind a checkpoint.
        let makes_room = || store.is_tight() && needs_from(store, standing) > self.needed_from;
        if !matches!(self.stage, Stage::Idle) || !((segments > 0 && is_worth_it) || makes_room()) {
            return;
        }
        if standing.is_certain { self.begin(store, standing, out) } else { self.pause(out) }
    }

    /// Puts a checkpoint of what is covered now.
    pub fn begin(&mut self, store: &Store, standing: &Standing, out: &mut Vec<Out>) {
        let there = || store.segments().filter(|segment| !segment.is_forgotten);
        let uncovered = there().filter(|segment| !self.covered.contains(&segment.header.id));
        let first = uncovered.map(|segment| segment.began).min_by_key(|(sequence, _)| *sequence);
        let walk = first.map_or(standing.terms, |(began, claim)| Terms {
            through: began - 1,
            claim: Some(claim),
            is_alive: true,
        });
        let segments: Vec<CoveredSegment> =
            there().filter(|segment| self.covered.contains(&segment.header.id)).map(covered).collect();
        let is_there = |id| store.segment(id).is_some_and(|segment| !segment.is_forgotten);
        let rooms = self.catalog.kept().filter(|room| is_there(room.newest)).collect();
        let (number, epochs, next_segment) = (standing.number, standing.epochs, store.next_segment());
        let checkpoint = Checkpoint { walk, number, next_segment, epochs, segments, rooms };
        let bytes = checkpoint.write(self.stream);
        self.made += 1;
        // No two owners have the same term, and a name is used once: what is named stays what it is while it is read.
        let newest = Newest { number: self.term << MADE_BITS | self.made, bytes: bytes.len() as u64 };
        let needed_from = needs_from(store, standing);
        let (pieces, ticket) = (object::cut(bytes).into(), self.ticket());
        self.stage = Stage::Putting { newest, needed_from, since: self.since, pieces, piece: 0, ticket };
        self.put(out);
    }

    fn put(&mut self, out: &mut Vec<Out>) {
        let Stage::Putting { newest, pieces, piece, ticket, .. } = &self.stage else { return };
        let name = self.name(ObjectKind::Checkpoint { number: newest.number }, *piece);
        let Some(bytes) = pieces.front().cloned() else { return };
        out.push(Out::Ask(Ask::Put { ticket: *ticket, name, expected: None, bytes }));
    }

    /// The engine answered.
    pub fn engine(&mut self, answer: Answer, out: &mut Vec<Out>) {
        match (&mut self.stage, answer) {
            (Stage::Putting { ticket: asked, .. }, Answer::Done { ticket, is_done }) if *asked == ticket => {
                if is_done {
                    self.was_put(out)
                } else {
                    self.pause(out)
                }
            }
            (Stage::Naming { ticket: asked, .. }, Answer::Done { ticket, is_done }) if *asked == ticket => {
                if is_done {
                    self.was_named(out)
                } else {
                    self.look_for_newest(out)
                }
            }
            (Stage::Looking(asked), Answer::Object { ticket, object }) if *asked == ticket => {
                if let Ok(object) = object {
                    self.looked(object, out);
                } else {
                    self.pause(out);
                }
            }
            _ => {}
        }
    }

    /// What is named the newest now. One of an owner that came later is never replaced by what this one knows.
    fn looked(&mut self, object: Option<Object>, out: &mut Vec<Out>) {
        let newest = object.as_ref().and_then(|object| Newest::read(&object.bytes));
        if newest.is_some_and(|newest| newest.number >> MADE_BITS > self.term) {
            self.stage = Stage::Outlived;
            return out.push(Out::Doubt);
        }
        self.newest_version = object.map_or(0, |Object { version, .. }| version);
        self.pause(out);
    }

    fn was_put(&mut self, out: &mut Vec<Out>) {
        let next = self.ticket();
        let Stage::Putting { newest, needed_from, since, pieces, piece, ticket } = &mut self.stage else { return };
        pieces.pop_front();
        (*piece, *ticket) = (*piece + 1, next);
        if !pieces.is_empty() {
            return self.put(out);
        }
        let (newest, needed_from, since) = (*newest, *needed_from, *since);
        self.stage = Stage::Naming { newest, needed_from, since, ticket: next };
        let (name, expected) = (self.name(ObjectKind::Newest, 0), Some(self.newest_version));
        out.push(Out::Ask(Ask::Put { ticket: next, name, expected, bytes: newest.write() }));
    }

    fn was_named(&mut self, out: &mut Vec<Out>) {
        let Stage::Naming { newest, needed_from, since, .. } = self.stage else { return };
        if let Some(before) = self.newest.filter(|before| before.number != newest.number) {
            let (ticket, partition) = (self.ticket(), self.stream.partition);
            let kind = ObjectKind::Checkpoint { number: before.number };
            out.push(Out::Ask(Ask::Remove { ticket, partition, kind }));
        }
        (self.newest, self.last_bytes, self.needed_from) = (Some(newest), newest.bytes, needed_from);
        self.since = Since { segments: self.since.segments - since.segments, bytes: self.since.bytes - since.bytes };
        // Which version it has is asked: the next one takes its place.
        self.look_for_newest(out);
    }

    fn look_for_newest(&mut self, out: &mut Vec<Out>) {
        let (ticket, name) = (self.ticket(), self.name(ObjectKind::Newest, 0));
        self.stage = Stage::Looking(ticket);
        out.push(Out::Ask(Ask::Get { ticket, name }));
    }

    fn pause(&mut self, out: &mut Vec<Out>) {
        self.stage = Stage::Pausing;
        out.push(Out::WakeIn(RETRY_MS));
    }

    /// A pause is over.
    pub fn wake(&mut self, store: &Store, standing: &Standing, out: &mut Vec<Out>) {
        if matches!(self.stage, Stage::Pausing) {
            self.stage = Stage::Idle;
            self.begin_if_due(store, standing, out);
        }
    }

    /// The stream is not needed before that: by the checkpoint, nor by a segment that is there. None: nothing more goes.
    pub fn purge_to(&mut self, store: &Store) -> Option<u64> {
        let oldest = store.segments().map(|segment| segment.began.0).min().unwrap_or(u64::MAX);
        let first = self.needed_from.min(oldest);
        (first > self.purged_to && first != u64::MAX).then(|| self.purged_to = first)?;
        Some(first)
    }

    /// A segment of so many bytes goes. Only behind another checkpoint goes what the named one needs of it.
    pub fn released(&mut self, segment: u64, bytes: u64, store: &Store, standing: &Standing, out: &mut Vec<Out>) {
        self.behind.remove(&segment);
        if self.covered.remove(&segment) {
            self.since.add(bytes);
        }
        self.catalog.forget_segment(segment);
        self.begin_if_due(store, standing, out);
    }

    /// The partition.
    pub fn partition(&self) -> Partition {
        self.stream.partition
    }
}

/// From where on a checkpoint of what is there now needs the stream: what lies before it is forgotten.
fn needs_from(store: &Store, standing: &Standing) -> u64 {
    let there = store.segments().filter(|segment| !segment.is_forgotten);
    there.map(|segment| segment.began.0).min().unwrap_or(standing.terms.through + 1)
}

fn covered(segment: &StoredSegment) -> CoveredSegment {
    let StoredSegment { header, began, end_offset, newest_ms, parts, .. } = segment;
    CoveredSegment { header: *header, began: began.0, end_offset: *end_offset, newest_ms: *newest_ms, parts: *parts }
}
