//! Where the messages of a core's rooms lie: for each room the segments that hold it, oldest first, and its head.
//!
//! Invariants:
//! - The spans of a room follow each other without a hole, and the last of them ends at the room's head. Their segments
//!   ascend.
//! - What lies in the segment of the last cut, or before it, is seen by nobody from the cut on. It is forgotten afterwards,
//!   some rooms at a time ([`Catalog::forget_cut`]), and its segments are released behind the last of these rooms.

mod room_log;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use banter_protocol::ids::{Epoch, RoomId, Sequence};

use crate::index::{Details, Entry, Part};
use crate::record::Level;
use crate::runs::Runs;
use crate::segment::SegmentHeader;

pub use room_log::{RoomLog, Spans};

/// The rooms of a core that have messages in the log. About 100 bytes a room, and 88 for each segment that holds it.
#[derive(Debug, Default)]
pub struct Catalog {
    /// A tree, and no hash table: all of them can be looked at in slices while they come and go, and none is moved when
    /// they grow many.
    rooms: BTreeMap<RoomId, KnownRoom>,
    segments: BTreeMap<u64, SegmentUse>,
    /// Segments that no room needs any more, to be told.
    released: Vec<u64>,
    /// What lies in this segment or before it is cut.
    cut_through: u64,
    walk: Option<Walk>,
    /// Rooms, spans and segments that were looked at: what the calls until now have cost.
    steps: u64,
    /// The starts of the server before this one.
    runs: Runs,
    /// What was given up of rooms, the newest of each.
    given_up: BTreeMap<RoomId, GivenUp>,
}

/// All rooms are looked at once, by their ids.
#[derive(Clone, Copy, Debug)]
struct Walk {
    /// The cut that it began for.
    through: u64,
    /// Where the rooms begin that are left.
    behind: Bound<RoomId>,
}

/// The newest messages of a room that could not be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The segment that holds them.
    pub segment: u64,
    /// The time of the newest, on the clock of this run.
    pub clock_ms: u64,
}

/// A segment that some room needs.
#[derive(Clone, Copy, Debug)]
struct SegmentUse {
    header: SegmentHeader,
    rooms: u32,
}

/// One room in the log.
#[derive(Clone, Debug)]
struct KnownRoom {
    epoch: Epoch,
    /// Oldest first; never empty. Those that are cut and not forgotten yet lie at the front.
    spans: VecDeque<Span>,
    /// The level of its newest message.
    level: Level,
    /// The start of the server that wrote its newest message.
    run: u64,
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

/// What one segment holds of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The segment.
    pub segment: u64,
    /// The first message there.
    pub first: Sequence,
    /// The last message there.
    pub last: Sequence,
    /// Bytes of its records.
    pub bytes: u64,
    /// The time of the newest, milliseconds since 1970.
    pub newest_ms: u64,
    /// Where its marks and keys lie in the segment's index file; `None` while the segment is being written.
    pub details: Option<Details>,
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

/// What happened to a log before this start, as far as its segments do not say it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past<'a> {
    /// Where histories broke.
    pub breaks: &'a [Break],
    /// Segments that were dropped in order, as ranges from the first id to the last.
    pub dropped: &'a [(u64, u64)],
}

impl Past<'_> {
    /// The epoch under which a room goes on whose newest message was written by that start at that level.
    fn epoch_behind(&self, run: u64, level: Level) -> Option<Epoch> {
        let concerns = |there: &&Break| run <= there.run && (there.every_level || level == Level::Written);
        self.breaks.iter().filter(concerns).map(|there| there.epoch).max()
    }

    /// Whether what is missing between two segments, the first written by `run`, was dropped or given up.
    fn explains(&self, run: u64, behind: u64, before: u64) -> bool {
        self.dropped.iter().any(|&(first, last)| first < before && last > behind)
            || self.breaks.iter().any(|there| there.every_level && run <= there.run)
    }

    /// Whether a power cut may have taken messages of that level from what that run wrote, and left later ones.
    fn may_have_taken(&self, run: u64, level: Level) -> bool {
        level == Level::Written && self.breaks.iter().any(|there| run <= there.run)
    }
}

impl KnownRoom {
    fn head(&self) -> Sequence {
        self.spans.back().map_or(Sequence(0), |span| span.last)
    }
}

/// How much of a room the log keeps; 0 = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Bytes.
    pub bytes: u64,
    /// Only what is younger than this time, milliseconds since 1970.
    pub since_ms: u64,
    /// And always what is younger than this one, on the clock of this run.
    pub at_least_since_ms: u64,
}

impl Catalog {
    /// What is known of a room.
    pub fn room(&self, room: RoomId) -> Option<RoomLog<'_>> {
        let known = self.rooms.get(&room)?;
        Some(RoomLog { epoch: known.epoch, spans: Spans::behind(self.cut_through, &known.spans)? })
    }

    /// Rooms that are known, with those that were cut and are not forgotten yet.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// A segment that some room needs.
    pub fn segment(&self, id: u64) -> Option<&SegmentHeader> {
        self.segments.get(&id).filter(|_| id > self.cut_through).map(|segment| &segment.header)
    }

    /// Whether some room needs the segment.
    pub fn needs(&self, id: u64) -> bool {
        self.segment(id).is_some()
    }

    /// Rooms, spans and segments that were looked at until now: a measure of work that needs no clock.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Adds what a sealed segment holds of a room; segments come in the order of their ids. Says what is missing before
    /// it, unless that was given up under a break.
    pub fn add_part(&mut self, segment: &SegmentHeader, part: &Part, past: Past<'_>) -> Option<Hole> {
        let hole = self.hole_before(segment, part, past);
        if hole.is_some() && past.may_have_taken(segment.run, part.level) {
            // What lies behind was not safe either; the room goes on from what is whole, under its new epoch.
            return None;
        }
        let span = Span {
            segment: segment.id,
            first: part.first,
            last: part.last,
            bytes: part.bytes,
            newest_ms: part.newest_ms,
            details: Some(part.details),
        };
        self.add_span(part.room, span, *segment);
        self.runs.add(segment, part.newest_ms);
        let epoch = past.epoch_behind(segment.run, part.level).unwrap_or(part.epoch);
        if let Some(room) = self.rooms.get_mut(&part.room) {
            (room.epoch, room.level, room.run) = (epoch, part.level, segment.run);
        }
        hole
    }

    fn hole_before(&self, segment: &SegmentHeader, part: &Part, past: Past<'_>) -> Option<Hole> {
        let known = self.rooms.get(&part.room)?;
        let behind = known.spans.back()?.segment;
        let is_hole = part.first > known.head().next() && !past.explains(known.run, behind, segment.id);
        is_hole.then(|| Hole { from: known.head().next(), to: part.first.previous(), behind })
    }

    /// Adds a message of the segment that is being written.
    pub fn add_entry(&mut self, segment: &SegmentHeader, entry: &Entry) {
        let is_next = |span: &&mut Span| span.segment == segment.id && span.last.next() == entry.sequence;
        let bytes = u64::from(entry.record_bytes);
        self.steps += 1;
        if let Some(room) = self.rooms.get_mut(&entry.room) {
            (room.epoch, room.level, room.run) = (entry.epoch, entry.level, segment.run);
            if let Some(span) = room.spans.back_mut().filter(is_next) {
                (span.last, span.bytes) = (entry.sequence, span.bytes + bytes);
                span.newest_ms = span.newest_ms.max(entry.time_ms);
                return;
            }
        }
        let (first, last) = (entry.sequence, entry.sequence);
        let span = Span { segment: segment.id, first, last, bytes, newest_ms: entry.time_ms, details: None };
        self.add_span(entry.room, span, *segment);
        if let Some(room) = self.rooms.get_mut(&entry.room) {
            (room.epoch, room.level, room.run) = (entry.epoch, entry.level, segment.run);
        }
    }

    fn add_span(&mut self, room: RoomId, span: Span, segment: SegmentHeader) {
        self.steps += 1;
        let cut_through = self.cut_through;
        let known = self.rooms.entry(room).or_insert_with(|| KnownRoom {
            epoch: Epoch(0),
            spans: VecDeque::new(),
            level: Level::Synced,
            run: segment.run,
        });
        let mut dropped = Vec::new();
        if !known.spans.is_empty() && span.first > known.head().next() {
            // A hole: what is before it is out of reach.
            dropped.extend(known.spans.drain(..).map(|span| span.segment));
        }
        // Places that were refused before anybody was shown them are given again; what was given last counts. A room
        // that was cut whole may begin anew; what it was before is left to the walk.
        while known.spans.back().is_some_and(|last| last.segment > cut_through && last.first >= span.first) {
            dropped.extend(known.spans.pop_back().map(|span| span.segment));
        }
        if let Some(last) = known.spans.back_mut() {
            last.last = last.last.min(span.first.previous());
        }
        known.spans.push_back(span);
        self.segments.entry(segment.id).or_insert(SegmentUse { header: segment, rooms: 0 }).rooms += 1;
        dropped.into_iter().for_each(|segment| self.release(segment));
    }

    /// A sealed segment's index is on the disk: from now on a room's marks and keys lie there.
    pub fn part_is_indexed(&mut self, segment: u64, part: &Part) {
        self.steps += 1;
        let Some(room) = self.rooms.get_mut(&part.room) else { return };
        let behind = room.spans.partition_point(|span| span.segment <= segment);
        let span = behind.checked_sub(1).and_then(|at| room.spans.get_mut(at));
        if let Some(span) = span.filter(|span| span.segment == segment) {
            span.details = Some(part.details);
        }
    }

    /// Every room forgets what it has in a segment, and before it: segments are cut in the order of their ids. Nobody sees
    /// it from now on, and [`Catalog::forget_cut`] does it. `false`: no room needs that segment, and nothing is to be done.
    pub fn cut_segment(&mut self, segment: u64) -> bool {
        if !self.segments.contains_key(&segment) {
            return false;
        }
        self.cut_through = self.cut_through.max(segment);
        if self.walk.is_none() {
            self.begin_walk();
        }
        true
    }

    fn begin_walk(&mut self) {
        self.walk = Some(Walk { through: self.cut_through, behind: Bound::Unbounded });
    }

    /// Whether something that was cut is to be forgotten.
    pub fn has_cut(&self) -> bool {
        self.walk.is_some()
    }

    /// Forgets some of what was cut: at each step one span of a room, a room that has no more of them, or a segment.
    /// Returns the steps that were taken.
    pub fn forget_cut(&mut self, steps_max: usize) -> usize {
        let mut steps = 0;
        while let Some(walk) = self.walk.filter(|_| steps < steps_max) {
            steps += 1;
            let room = self.rooms.range((walk.behind, Bound::Unbounded)).next().map(|(&id, _)| id);
            match room {
                Some(id) if self.forget_span(id) => {}
                Some(id) => self.walk = Some(Walk { behind: Bound::Excluded(id), ..walk }),
                None => self.end_walk(walk.through),
            }
        }
        self.steps += steps as u64;
        steps
    }

    /// Forgets the oldest span of a room if it was cut; whether it was.
    fn forget_span(&mut self, id: RoomId) -> bool {
        let Some(room) = self.rooms.get_mut(&id) else { return false };
        let Some(segment) = room.spans.front().map(|span| span.segment).filter(|&segment| segment <= self.cut_through)
        else {
            return false;
        };
        room.spans.pop_front();
        if room.spans.is_empty() {
            self.rooms.remove(&id);
        }
        self.release(segment);
        true
    }

    /// No room holds anything of the cut: its segments go, those too that were given up, and perhaps there was another.
    fn end_walk(&mut self, through: u64) {
        if let Some(entry) = self.segments.first_entry().filter(|entry| *entry.key() <= through) {
            self.released.push(entry.remove_entry().0);
        } else if self.cut_through > through {
            self.begin_walk();
        } else {
            self.walk = None;
        }
    }

    /// A room forgets what it has in a segment, and before it.
    pub fn cut_room(&mut self, id: RoomId, segment: u64) {
        let cut = self.take_spans(id, segment);
        cut.into_iter().for_each(|span| self.release(span.segment));
    }

    /// A segment does not hold what it should of a room: the room goes on behind it. The files stay for those who may
    /// mend them, until retention takes them.
    pub fn give_up(&mut self, id: RoomId, segment: u64) {
        if let Some(newest) = self.take_spans(id, segment).last() {
            let clock_ms = self.clock_ms(newest.segment, newest.newest_ms);
            self.given_up.insert(id, GivenUp { segment, clock_ms });
        }
    }

    /// What was given up of a room last: its keys are not known any more, which is not to say that there are none.
    pub fn given_up(&self, id: RoomId) -> Option<&GivenUp> {
        self.given_up.get(&id)
    }

    fn take_spans(&mut self, id: RoomId, segment: u64) -> Vec<Span> {
        // What was cut before is released, whatever becomes of the rest.
        while self.forget_span(id) {
            self.steps += 1;
        }
        let Some(room) = self.rooms.get_mut(&id).filter(|room| holds(room, segment)) else { return Vec::new() };
        let mut cut = Vec::new();
        while let Some(span) = room.spans.pop_front() {
            cut.push(span);
            if span.segment == segment {
                break;
            }
        }
        if room.spans.is_empty() {
            self.rooms.remove(&id);
        }
        cut
    }

    /// A room forgets its oldest spans above what is to be kept of it; the newest stays.
    pub fn keep_of_room(&mut self, id: RoomId, keeping: Keeping) {
        if keeping.bytes == 0 && keeping.since_ms == 0 {
            return;
        }
        let Some(room) = self.rooms.get(&id) else { return };
        let mut bytes: u64 = room.spans.iter().map(|span| span.bytes).sum();
        let mut last_cut = None;
        for span in room.spans.iter().take(room.spans.len() - 1) {
            let is_above = (keeping.bytes != 0 && bytes > keeping.bytes) || span.newest_ms < keeping.since_ms;
            if !is_above || self.clock_ms(span.segment, span.newest_ms) >= keeping.at_least_since_ms {
                break;
            }
            bytes -= span.bytes;
            last_cut = Some(span.segment);
        }
        if let Some(segment) = last_cut {
            self.cut_room(id, segment);
        }
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
        self.segment(segment).map_or(logged_ms, |header| self.runs.clock_ms(header.run, logged_ms))
    }

    /// Whether a room has, or had before it was given up, a message that is no older than that, on the clock of this run.
    pub fn is_younger(&self, id: RoomId, since_ms: u64) -> bool {
        let newest = self.room(id).and_then(|room| room.spans.back());
        let newest_ms = newest.map(|span| self.clock_ms(span.segment, span.newest_ms));
        let given_up_ms = self.given_up(id).map(|gone| gone.clock_ms);
        newest_ms.max(given_up_ms).is_some_and(|ms| ms >= since_ms)
    }

    fn release(&mut self, id: u64) {
        let Some(segment) = self.segments.get_mut(&id) else { return };
        segment.rooms -= 1;
        if segment.rooms == 0 {
            self.segments.remove(&id);
            self.released.push(id);
        }
    }

    /// Segments that no room of this core needs since the last time.
    pub fn take_released(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.released)
    }
}

fn holds(room: &KnownRoom, segment: u64) -> bool {
    room.spans.iter().any(|span| span.segment == segment)
}

#[cfg(test)]
mod tests;
