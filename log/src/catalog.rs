//! Which rooms a core has in the log: one entry a room, which says where its newest part lies; what is older is found from
//! there, part by part, in the indexes of the segments.
//!
//! Invariants:
//! - An entry's places `first` to `head` are dense, and its newest part ends at `head`.
//! - What lies in a segment that was cut is seen by nobody from then on. Its rooms are told one by one afterwards
//!   ([`Catalog::forget_cut`]), and the segment is released behind the last of them.
//! - Nothing but retention, damage that was proved, or erasure takes anything away: a read that failed does not.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use banter_protocol::ids::{Epoch, RoomId, Sequence};

use crate::checkpoint::KeptRoom;
use crate::erasure::{Erasure, Erasures};
use crate::index::{Chain, Entry, JUMP_PARTS, Part};
use crate::record::Level;
use crate::runs::Runs;
use crate::segment::{Class, SegmentHeader};

/// The rooms of a core that have something in the log: 72 bytes a room, and what the tree around them takes.
#[derive(Debug, Default)]
pub struct Catalog {
    /// A tree, and no hash table: all of them can be looked at in slices while they come and go, and none is moved when
    /// they grow many.
    rooms: BTreeMap<RoomId, KnownRoom>,
    segments: BTreeMap<u64, KnownSegment>,
    cutting: VecDeque<Cutting>,
    /// Segments that were forgotten, to be told.
    released: Vec<u64>,
    /// Rooms that were looked at: what the calls until now have cost.
    steps: u64,
    /// The starts of the server before this one.
    runs: Runs,
    epochs: Epochs,
    /// What is to be erased, and is on the disk still.
    erasures: Erasures,
}

/// Epochs that follow from what is durable, so that one that was told is kept without a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// Of a room that has nothing in the log and is `synced`. Raised whenever something may have been there.
    pub blank_synced: Epoch,
    /// Of one that is `written`: a power cut raises it too.
    pub blank_written: Epoch,
    /// Of a room whose newest record is safer than what it is to be from now on: the least.
    pub lowered: Epoch,
}

/// One room in the log.
#[derive(Clone, Copy, Debug)]
struct KnownRoom {
    epoch: Epoch,
    head: Sequence,
    first: Sequence,
    /// The segment of its newest part.
    newest: u64,
    /// The segment of its newest part whose number is a multiple of [`JUMP_PARTS`].
    far: u64,
    /// The time of its newest record, milliseconds since 1970.
    newest_ms: u64,
    /// The number of its newest part.
    depth: u32,
    /// The level of its newest record.
    level: Level,
}

const _: () = assert!(size_of::<KnownRoom>() + size_of::<RoomId>() <= 72, "what is said of it above");

/// What is known of a room in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomLog {
    /// Its history's name. Older records may carry another, from before a power cut; they are told under this one.
    pub epoch: Epoch,
    /// Its newest place.
    pub head: Sequence,
    /// Its oldest place that is there.
    pub first: Sequence,
    /// The level of its newest record.
    pub level: Level,
    /// The segment of its newest part.
    pub newest_segment: u64,
}

#[derive(Clone, Copy, Debug)]
struct KnownSegment {
    header: SegmentHeader,
    /// Parts in the table of its index.
    parts: u32,
    is_cut: bool,
}

/// A segment whose rooms are to be told that it goes.
#[derive(Debug)]
struct Cutting {
    segment: u64,
    rooms: CutRooms,
}

/// The rooms of this core that a segment holds, each with its last place there.
#[derive(Debug)]
pub enum CutRooms {
    /// As its index says.
    Known(std::vec::IntoIter<(RoomId, Sequence)>),
    /// Its index cannot be read: all rooms are looked at, from there.
    Unknown(Bound<RoomId>),
}

/// Messages of a room that should lie between two segments, and do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The first that is missing.
    pub from: Sequence,
    /// The last that is missing.
    pub to: Sequence,
    /// The segment before them.
    pub behind: u64,
}

/// When a history that was written under the server's earlier starts was cut below what may have been shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// It concerns what was written by this start and those before it.
    pub run: u64,
    /// Rooms it concerns go on under this epoch.
    pub epoch: Epoch,
    /// Whether it concerns every room, or only those whose newest message was not made safe against a power cut.
    pub every_level: bool,
}

/// What happened to a log before this start, as far as its parts do not say it.
#[derive(Clone, Debug, Default)]
pub struct Past<'a> {
    /// Where histories broke.
    pub breaks: &'a [Break],
    /// The oldest segment of each class that is there, by the class's tag: retention takes the oldest of a class first.
    pub oldest: BTreeMap<u16, u64>,
}

impl Past<'_> {
    /// The epoch under which a room goes on whose newest record was written by that start at that level.
    fn epoch_behind(&self, run: u64, level: Level) -> Option<Epoch> {
        let concerns = |there: &&Break| run <= there.run && (there.every_level || level == Level::Written);
        self.breaks.iter().filter(concerns).map(|there| there.epoch).max()
    }

    /// Whether what is missing between two parts, the first written by `run` in segment `behind`, was dropped or given up.
    /// `chain` is what the second says of the part before it.
    fn explains(&self, run: u64, behind: u64, chain: &Chain) -> bool {
        let was_given_up = self.breaks.iter().any(|there| there.every_level && run <= there.run);
        let was_dropped = match chain.before {
            // Nothing is named: something of some class may have gone since.
            0 => self.oldest.values().any(|&oldest| oldest > behind),
            before => before > behind && self.oldest.get(&chain.before_tag).is_none_or(|&oldest| oldest > before),
        };
        was_given_up || was_dropped
    }

    /// Whether a power cut may have taken messages of that level from what that run wrote, and left later ones.
    fn may_have_taken(&self, run: u64, level: Level) -> bool {
        level == Level::Written && self.breaks.iter().any(|there| run <= there.run)
    }
}

impl Catalog {
    /// What is known of a room.
    pub fn room(&self, room: RoomId) -> Option<RoomLog> {
        let known = self.rooms.get(&room).filter(|known| self.segment(known.newest).is_some())?;
        let KnownRoom { epoch, head, first, level, newest, .. } = *known;
        Some(RoomLog { epoch, head, first, level, newest_segment: newest })
    }

    /// The epoch of a room that is joined: as the log knows it, or as follows from what else is durable.
    pub fn epoch_of(&self, room: RoomId, level: Level, class: Class) -> Epoch {
        let is_of_class = |room: &RoomLog| self.segment(room.newest_segment).is_some_and(|it| it.class == class);
        match self.room(room) {
            // Newer parts of it may have gone with their class, ahead of this one.
            Some(room) if !is_of_class(&room) => room.epoch.max(self.epochs.blank_synced).max(self.epochs.lowered),
            Some(room) if room.level > level => room.epoch.max(self.epochs.lowered),
            Some(room) => room.epoch,
            None if level == Level::Written => self.epochs.blank_written,
            None => self.epochs.blank_synced,
        }
    }

    /// What epochs follow from. Said at the start.
    pub fn set_epochs(&mut self, epochs: Epochs) {
        self.epochs = epochs;
    }

    /// Something goes: rooms that have nothing in the log from now on go by that epoch, or a later one.
    pub fn raise_blank(&mut self, epoch: Epoch) {
        let Epochs { blank_synced, blank_written, .. } = &mut self.epochs;
        (*blank_synced, *blank_written) = ((*blank_synced).max(epoch), (*blank_written).max(epoch));
    }

    /// Nobody sees from now on what that erasure is about. What comes later is not concerned: it ends at the room's head.
    /// Says it as it is known now.
    pub fn hide(&mut self, erasure: &Erasure) -> Erasure {
        let room = erasure.room_id();
        let head = self.room(room).map_or(Sequence(0), |known| known.head);
        let there = self.erasures.get(room, erasure.number);
        let last = there.map_or(erasure.last.min(head), |there| there.last.min(erasure.last));
        let known = Erasure { last, ..erasure.clone() };
        self.erasures.add(known.clone());
        known
    }

    /// What that erasure is about is not on the disk any more.
    pub fn end_erasure(&mut self, room: RoomId, number: u64) {
        self.erasures.end(room, number);
    }

    /// What is to be erased, and is on the disk still.
    pub fn erasures(&self) -> &Erasures {
        &self.erasures
    }

    /// Rooms that are known, with those that were cut and are not forgotten yet.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// A segment that is there and not cut.
    pub fn segment(&self, id: u64) -> Option<&SegmentHeader> {
        self.segments.get(&id).filter(|segment| !segment.is_cut).map(|segment| &segment.header)
    }

    /// Parts in the table of a segment's index.
    pub fn parts_of(&self, id: u64) -> Option<u32> {
        self.segments.get(&id).map(|segment| segment.parts)
    }

    /// Rooms that were looked at until now: a measure of work that needs no clock.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Adds a sealed segment, with the time of its newest record; before its parts.
    pub fn add_segment(&mut self, header: SegmentHeader, parts: u32, newest_ms: u64) {
        self.segments.insert(header.id, KnownSegment { header, parts, is_cut: false });
        self.runs.add(&header, newest_ms);
    }

    /// A segment begins to be written, or its index is on the disk and has so many parts.
    pub fn has_parts(&mut self, header: &SegmentHeader, parts: u32) {
        let segment = KnownSegment { header: *header, parts, is_cut: false };
        self.segments.entry(header.id).or_insert(segment).parts = parts;
    }

    /// A segment that holds nothing goes.
    pub fn forget_segment(&mut self, id: u64) {
        self.segments.remove(&id);
    }

    /// What a part of a room says of those before it, if it begins now.
    pub fn chain_of(&self, room: RoomId) -> Chain {
        let known = self.rooms.get(&room).filter(|known| self.segment(known.newest).is_some());
        let Some(known) = known else { return Chain::default() };
        let before_tag = self.segments.get(&known.newest).map_or(0, |segment| segment.header.class.tag());
        Chain { before: known.newest, before_tag, far: known.far, depth: known.depth.saturating_add(1) }
    }

    /// Adds a room as a checkpoint has it; behind every segment that the checkpoint covers. `false`: its newest part is in a
    /// segment that is not there any more, and so is all of it.
    pub fn add_kept(&mut self, kept: &KeptRoom, past: &Past<'_>) -> bool {
        let Some(run) = self.segment(kept.newest).map(|segment| segment.run) else { return false };
        self.steps += 1;
        let KeptRoom { room, epoch, head, first, newest, far, newest_ms, depth, level } = *kept;
        let epoch = past.epoch_behind(run, level).map_or(epoch, |behind| behind.max(epoch));
        self.rooms.insert(room, KnownRoom { epoch, head, first, newest, far, newest_ms, depth, level });
        true
    }

    /// Takes the first room out, as a checkpoint has it.
    pub fn take_kept(&mut self) -> Option<KeptRoom> {
        let (room, known) = self.rooms.pop_first()?;
        let KnownRoom { epoch, head, first, newest, far, newest_ms, depth, level } = known;
        Some(KeptRoom { room, epoch, head, first, newest, far, newest_ms, depth, level })
    }

    /// Adds what a sealed segment holds of a room; segments come in the order of their ids. Says what is missing before
    /// it, unless that was dropped, or given up under a break.
    pub fn add_part(&mut self, segment: &SegmentHeader, part: &Part, past: &Past<'_>) -> Option<Hole> {
        let known = self.rooms.get(&part.room).copied();
        let is_hole = known.is_some_and(|known| part.first > known.head.next());
        let hole = known.filter(|_| is_hole).and_then(|known| self.unexplained(&known, part, past));
        if hole.is_some() && past.may_have_taken(segment.run, part.level) {
            // What lies behind was not safe either; the room goes on from what is whole, under its new epoch.
            return None;
        }
        self.steps += 1;
        let epoch = past.epoch_behind(segment.run, part.level).unwrap_or(part.epoch);
        let first = known.filter(|known| !is_hole && known.first < part.first).map_or(part.first, |known| known.first);
        let depth = part.chain.depth;
        self.rooms.insert(
            part.room,
            KnownRoom {
                epoch,
                head: part.last,
                first,
                newest: segment.id,
                far: if depth.is_multiple_of(JUMP_PARTS) { segment.id } else { part.chain.far },
                newest_ms: part.newest_ms,
                depth,
                level: part.level,
            },
        );
        hole
    }

    fn unexplained(&self, known: &KnownRoom, part: &Part, past: &Past<'_>) -> Option<Hole> {
        let run = self.segments.get(&known.newest).map_or(0, |segment| segment.header.run);
        let hole = Hole { from: known.head.next(), to: part.first.previous(), behind: known.newest };
        (!past.explains(run, known.newest, &part.chain)).then_some(hole)
    }

    /// Adds a record of the segment that is being written.
    pub fn add_entry(&mut self, segment: &SegmentHeader, entry: &Entry) {
        self.steps += 1;
        let chain = self.chain_of(entry.room);
        if chain.before == 0 {
            // It was cut whole, if it was there, and begins anew: what it was before is gone.
            self.rooms.remove(&entry.room);
            self.erasures.forget_room(entry.room);
        }
        let first = if entry.kind.is_numbered() { entry.sequence } else { entry.sequence.next() };
        let room = self.rooms.entry(entry.room).or_insert(KnownRoom {
            epoch: entry.epoch,
            head: first.previous(),
            first,
            newest: 0,
            far: 0,
            newest_ms: 0,
            depth: 0,
            level: entry.level,
        });
        if room.newest != segment.id {
            (room.newest, room.depth) = (segment.id, chain.depth);
            room.far = if chain.depth.is_multiple_of(JUMP_PARTS) { segment.id } else { chain.far };
        }
        if entry.kind.is_numbered() {
            let is_next = entry.sequence == room.head.next() && room.epoch <= entry.epoch;
            if !is_next || room.first > entry.sequence {
                room.first = entry.sequence;
            }
            room.head = entry.sequence;
        }
        (room.epoch, room.level) = (entry.epoch, entry.level);
        room.newest_ms = room.newest_ms.max(entry.time_ms);
    }

    /// What a room has before that place was proved to be damaged: it is out of reach.
    pub fn lose_before(&mut self, room: RoomId, first: Sequence) {
        if let Some(room) = self.rooms.get_mut(&room) {
            room.first = room.first.max(first.min(room.head.next()));
        }
    }

    /// Nobody sees that segment from now on, and its rooms are told by [`Catalog::forget_cut`]. `false`: it is not known
    /// here, and nothing is to be done.
    pub fn cut_segment(&mut self, segment: u64, rooms: CutRooms) -> bool {
        let Some(known) = self.segments.get_mut(&segment) else { return false };
        if !std::mem::replace(&mut known.is_cut, true) {
            self.cutting.push_back(Cutting { segment, rooms });
        }
        true
    }

    /// Whether something that was cut is to be forgotten.
    pub fn has_cut(&self) -> bool {
        !self.cutting.is_empty()
    }

    /// Forgets some of what was cut, a room at each step. Returns the steps that were taken.
    pub fn forget_cut(&mut self, steps_max: usize) -> usize {
        let mut steps = 0;
        while steps < steps_max
            && let Some(cutting) = self.cutting.front_mut()
        {
            steps += 1;
            let segment = cutting.segment;
            let room = match &mut cutting.rooms {
                CutRooms::Known(rooms) => rooms.next(),
                CutRooms::Unknown(behind) => {
                    let next = self.rooms.range((*behind, Bound::Unbounded)).next().map(|(&id, _)| id);
                    next.inspect(|&id| *behind = Bound::Excluded(id)).map(|id| (id, Sequence(0)))
                }
            };
            match room {
                Some((id, last)) => self.forget_part(id, segment, last),
                None => self.end_cut(segment),
            }
        }
        self.steps += steps as u64;
        steps
    }

    fn forget_part(&mut self, id: RoomId, segment: u64, last: Sequence) {
        let Some(room) = self.rooms.get_mut(&id) else { return };
        if room.newest == segment {
            self.rooms.remove(&id);
        } else if room.depth >= JUMP_PARTS || room.far <= segment {
            // Otherwise its first part is younger: it was cut whole before, and began anew.
            room.first = room.first.max(last.next().min(room.head.next()));
        }
    }

    fn end_cut(&mut self, segment: u64) {
        self.cutting.pop_front();
        self.segments.remove(&segment);
        self.released.push(segment);
    }

    /// The run begins, at that time of its clock, milliseconds since 1970. Every earlier segment was added.
    pub fn begin(&mut self, start_ms: u64) {
        self.runs.begin(start_ms);
    }

    /// The starts of the server before this one.
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// A time that stands in a segment, on the clock of this run.
    pub fn clock_ms(&self, segment: u64, logged_ms: u64) -> u64 {
        self.segments.get(&segment).map_or(logged_ms, |known| self.runs.clock_ms(known.header.run, logged_ms))
    }

    /// Whether a room has a record that is no older than that, on the clock of this run.
    pub fn is_younger(&self, id: RoomId, since_ms: u64) -> bool {
        let known = self.rooms.get(&id).filter(|known| self.segment(known.newest).is_some());
        known.is_some_and(|known| self.clock_ms(known.newest, known.newest_ms) >= since_ms)
    }

    /// Segments that were forgotten since the last time.
    pub fn take_released(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.released)
    }

    /// The oldest segment of each class, by the class's tag.
    pub fn oldest_of<'s>(segments: impl Iterator<Item = &'s SegmentHeader>) -> BTreeMap<u16, u64> {
        let mut oldest = BTreeMap::new();
        for segment in segments {
            let id = oldest.entry(Class::tag(segment.class)).or_insert(segment.id);
            *id = segment.id.min(*id);
        }
        oldest
    }
}

#[cfg(test)]
mod tests;
