//! Where the messages of a core's rooms lie: for each room the segments that hold it, oldest first, and its head.
//!
//! Invariant: the spans of a room follow each other without a hole, and the last of them ends at the room's head.

use std::collections::{BTreeMap, VecDeque};

use banter_protocol::ids::{Epoch, RoomId, Sequence};
use rustc_hash::FxHashMap;

use crate::index::{Details, Entry, Part};
use crate::record::Level;
use crate::runs::Runs;
use crate::segment::SegmentHeader;

/// The rooms of a core that have messages in the log. About 100 bytes a room, and 88 for each segment that holds it.
#[derive(Debug, Default)]
pub struct Catalog {
    rooms: FxHashMap<RoomId, RoomLog>,
    segments: BTreeMap<u64, SegmentUse>,
    /// Segments that no room needs any more, to be told.
    released: Vec<u64>,
    /// The starts of the server before this one.
    runs: Runs,
    /// What was given up of rooms, the newest of each.
    given_up: BTreeMap<RoomId, GivenUp>,
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
pub struct RoomLog {
    /// Its history's name. Older messages may carry another, from before a power cut; they are told under this one.
    pub epoch: Epoch,
    /// Its spans, oldest first; never empty.
    pub spans: VecDeque<Span>,
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

impl RoomLog {
    /// Its newest message.
    pub fn head(&self) -> Sequence {
        self.spans.back().map_or(Sequence(0), |span| span.last)
    }

    /// Its oldest message.
    pub fn first(&self) -> Sequence {
        self.spans.front().map_or(Sequence(1), |span| span.first)
    }

    /// The span that holds a message.
    pub fn span_of(&self, sequence: Sequence) -> Option<&Span> {
        let at = self.spans.partition_point(|span| span.last < sequence);
        self.spans.get(at).filter(|span| span.first <= sequence)
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
    pub fn room(&self, room: RoomId) -> Option<&RoomLog> {
        self.rooms.get(&room)
    }

    /// Rooms that are known.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// A segment that some room needs.
    pub fn segment(&self, id: u64) -> Option<&SegmentHeader> {
        self.segments.get(&id).map(|segment| &segment.header)
    }

    /// Whether some room needs the segment.
    pub fn needs(&self, id: u64) -> bool {
        self.segments.contains_key(&id)
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
        let known = self.rooms.entry(room).or_insert_with(|| RoomLog {
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
        // Places that were refused before anybody was shown them are given again; what was given last counts.
        while known.spans.back().is_some_and(|last| last.first >= span.first) {
            dropped.extend(known.spans.pop_back().map(|span| span.segment));
        }
        if let Some(last) = known.spans.back_mut() {
            last.last = last.last.min(span.first.previous());
        }
        known.spans.push_back(span);
        self.segments.entry(segment.id).or_insert(SegmentUse { header: segment, rooms: 0 }).rooms += 1;
        dropped.into_iter().for_each(|segment| self.release(segment));
    }

    /// A segment is sealed: its parts' marks and keys lie in its index file from now on.
    pub fn sealed(&mut self, segment: u64, parts: &[Part]) {
        for part in parts {
            let Some(room) = self.rooms.get_mut(&part.room) else { continue };
            if let Some(span) = room.spans.iter_mut().rev().find(|span| span.segment == segment) {
                span.details = Some(part.details);
            }
        }
    }

    /// Every room forgets what it has in a segment, and before it.
    pub fn cut_segment(&mut self, segment: u64) {
        let rooms: Vec<RoomId> =
            self.rooms.iter().filter(|(_, room)| holds(room, segment)).map(|(&id, _)| id).collect();
        for room in rooms {
            self.cut_room(room, segment);
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

    /// Every room.
    pub fn rooms(&self) -> impl Iterator<Item = (RoomId, &RoomLog)> {
        self.rooms.iter().map(|(&id, room)| (id, room))
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

fn holds(room: &RoomLog, segment: u64) -> bool {
    room.spans.iter().any(|span| span.segment == segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(id: u64, run: u64) -> SegmentHeader {
        SegmentHeader { id, nonce: id, core: 0, run, made_unix_ms: 0 }
    }

    fn part(room: u128, first: u64, last: u64) -> Part {
        Part {
            room: RoomId(room),
            epoch: Epoch(1),
            first: Sequence(first),
            last: Sequence(last),
            bytes: 100 * (last - first + 1),
            newest_ms: last,
            level: Level::Synced,
            details: Details::default(),
        }
    }

    fn bounds(catalog: &Catalog, room: u128) -> Option<(u64, u64)> {
        catalog.room(RoomId(room)).map(|room| (room.first().0, room.head().0))
    }

    fn entry(room: u128, sequence: u64) -> Entry {
        let level = Level::Written;
        let (epoch, sequence) = (Epoch(2), Sequence(sequence));
        Entry { room: RoomId(room), epoch, sequence, time_ms: sequence.0, level, record_bytes: 50, key: None }
    }

    #[test]
    fn spans_follow_each_other_and_each_message_has_one() {
        let mut catalog = Catalog::default();
        catalog.add_part(&segment(1, 1), &part(1, 1, 10), Past::default());
        catalog.add_part(&segment(3, 1), &part(1, 11, 20), Past::default());
        for sequence in 21..=25 {
            catalog.add_entry(&segment(4, 2), &entry(1, sequence));
        }
        let room = catalog.room(RoomId(1)).unwrap();
        assert_eq!((room.first(), room.head(), room.epoch), (Sequence(1), Sequence(25), Epoch(2)));
        let of = |sequence| room.span_of(Sequence(sequence)).map(|span| span.segment);
        assert_eq!(
            [of(0), of(1), of(10), of(11), of(20), of(21), of(25), of(26)],
            [None, Some(1), Some(1), Some(3), Some(3), Some(4), Some(4), None]
        );
    }

    #[test]
    fn a_place_that_was_refused_and_given_again_counts_as_given_last() {
        let mut catalog = Catalog::default();
        catalog.add_part(&segment(1, 1), &part(1, 1, 10), Past::default());
        catalog.add_part(&segment(2, 1), &part(1, 8, 12), Past::default());
        let room = catalog.room(RoomId(1)).unwrap();
        assert_eq!((room.spans[0].last, room.spans[1].first, room.head()), (Sequence(7), Sequence(8), Sequence(12)));
        catalog.add_part(&segment(3, 1), &part(1, 1, 2), Past::default());
        assert_eq!(bounds(&catalog, 1), Some((1, 2)));
        assert_eq!(catalog.take_released(), [2, 1]);
    }

    #[test]
    fn behind_a_hole_everything_before_it_is_out_of_reach() {
        let mut catalog = Catalog::default();
        assert_eq!(catalog.add_part(&segment(1, 1), &part(1, 1, 10), Past::default()), None);
        let hole = catalog.add_part(&segment(2, 1), &part(1, 12, 12), Past::default());
        assert_eq!(hole, Some(Hole { from: Sequence(11), to: Sequence(11), behind: 1 }));
        assert_eq!(bounds(&catalog, 1), Some((12, 12)));
        assert_eq!(catalog.take_released(), [1]);
    }

    #[test]
    fn a_hole_that_was_given_up_is_none() {
        let hole_in = |past: Past<'_>| {
            let mut catalog = Catalog::default();
            catalog.add_part(&segment(1, 3), &part(1, 1, 10), past);
            catalog.add_part(&segment(4, 5), &part(1, 15, 20), past).is_some()
        };
        let hole = |breaks: &[Break]| hole_in(Past { breaks, dropped: &[] });
        let dropped = |range| !hole_in(Past { breaks: &[], dropped: &[range] });
        assert!(dropped((2, 2)) && dropped((1, 2)) && dropped((3, 9)) && !dropped((0, 1)) && !dropped((4, 4)));
        let there = |run, every_level| Break { run, epoch: Epoch(9), every_level };
        assert!(hole(&[]) && hole(&[there(3, false)]) && hole(&[there(2, true)]));
        assert!(!hole(&[there(3, true)]) && !hole(&[there(4, true)]));
    }

    #[test]
    fn behind_what_a_power_cut_took_nothing_counts_and_what_is_whole_stays() {
        let breaks = [Break { run: 5, epoch: Epoch(50), every_level: false }];
        let past = Past { breaks: &breaks, dropped: &[] };
        let written = |first, last| Part { level: Level::Written, ..part(1, first, last) };
        let mut catalog = Catalog::default();
        catalog.add_part(&segment(1, 5), &written(1, 10), past);
        assert_eq!(catalog.add_part(&segment(2, 5), &written(15, 20), past), None);
        assert_eq!((bounds(&catalog, 1), catalog.needs(2)), (Some((1, 10)), false));
        assert_eq!(catalog.add_part(&segment(3, 6), &written(11, 12), past), None);
        assert_eq!(bounds(&catalog, 1), Some((1, 12)), "the next run went on from there");
        assert!(catalog.add_part(&segment(4, 6), &written(20, 21), past).is_some(), "that one was not cut off");
    }

    #[test]
    fn a_cut_takes_the_oldest_and_releases_segments_that_nobody_needs() {
        let mut catalog = Catalog::default();
        for id in 1..=3 {
            catalog.add_part(&segment(id, 1), &part(1, id * 10 - 9, id * 10), Past::default());
        }
        catalog.add_part(&segment(1, 1), &part(2, 1, 5), Past::default());
        catalog.cut_room(RoomId(1), 2);
        assert_eq!((bounds(&catalog, 1), bounds(&catalog, 2)), (Some((21, 30)), Some((1, 5))));
        assert_eq!(catalog.take_released(), [2]);
        catalog.cut_segment(1);
        assert_eq!((bounds(&catalog, 2), catalog.take_released()), (None, vec![1]));
        catalog.cut_segment(3);
        assert!(catalog.is_empty() && !catalog.needs(3));
    }

    #[test]
    fn what_is_damaged_is_given_up_and_its_files_stay() {
        let mut catalog = Catalog::default();
        (1..=3).for_each(|id| {
            assert_eq!(catalog.add_part(&segment(id, 1), &part(1, id * 10 - 9, id * 10), Past::default()), None)
        });
        catalog.give_up(RoomId(1), 2);
        assert_eq!((bounds(&catalog, 1), catalog.take_released()), (Some((21, 30)), vec![]));
        assert!(catalog.needs(1) && catalog.needs(2));
    }

    #[test]
    fn what_was_given_up_is_as_young_as_it_was() {
        let mut catalog = Catalog::default();
        catalog.add_part(&segment(1, 1), &Part { newest_ms: 500, ..part(1, 1, 9) }, Past::default());
        catalog.begin(70_000);
        catalog.give_up(RoomId(1), 1);
        assert!(catalog.room(RoomId(1)).is_none());
        assert!(catalog.is_younger(RoomId(1), 70_000) && !catalog.is_younger(RoomId(1), 70_001));
        assert_eq!(catalog.given_up(RoomId(1)), Some(&GivenUp { segment: 1, clock_ms: 70_000 }));
    }

    #[test]
    fn what_is_kept_of_a_room_is_its_newest_in_whole_segments() {
        let room = || {
            let mut catalog = Catalog::default();
            for id in 1..=4 {
                catalog.add_part(&segment(id, 1), &part(1, id * 10 - 9, id * 10), Past::default());
            }
            catalog
        };
        let kept = |keeping| {
            let mut catalog = room();
            catalog.keep_of_room(RoomId(1), keeping);
            bounds(&catalog, 1).unwrap().0
        };
        let always = u64::MAX;
        assert_eq!(kept(Keeping { bytes: 0, since_ms: 0, at_least_since_ms: always }), 1);
        assert_eq!(kept(Keeping { bytes: 2_500, since_ms: 0, at_least_since_ms: always }), 21);
        assert_eq!(kept(Keeping { bytes: 1, since_ms: 0, at_least_since_ms: always }), 31, "the newest stays");
        assert_eq!(kept(Keeping { bytes: 0, since_ms: 15, at_least_since_ms: always }), 11);
        assert_eq!(kept(Keeping { bytes: 1, since_ms: 99, at_least_since_ms: 20 }), 11, "the window is kept");
        let mut catalog = room();
        catalog.begin(90_000);
        catalog.keep_of_room(RoomId(1), Keeping { bytes: 1, since_ms: 99, at_least_since_ms: 90_000 - 25 });
        assert_eq!(bounds(&catalog, 1).unwrap().0, 11, "as old as it was when its run ended");
    }

    #[test]
    fn a_power_cut_gives_rooms_a_new_epoch_that_it_may_have_cut() {
        let breaks = [
            Break { run: 5, epoch: Epoch(50), every_level: false },
            Break { run: 7, epoch: Epoch(70), every_level: true },
        ];
        let epoch = |run, level| {
            let mut catalog = Catalog::default();
            catalog.add_part(
                &segment(1, run),
                &Part { level, ..part(1, 1, 2) },
                Past { breaks: &breaks, dropped: &[] },
            );
            catalog.room(RoomId(1)).unwrap().epoch.0
        };
        assert_eq!([epoch(8, Level::Written), epoch(7, Level::Synced), epoch(4, Level::Written)], [1, 70, 70]);
        let mut catalog = Catalog::default();
        catalog.add_part(
            &segment(1, 5),
            &Part { level: Level::Synced, ..part(1, 1, 2) },
            Past { breaks: &breaks[..1], dropped: &[] },
        );
        assert_eq!(catalog.room(RoomId(1)).unwrap().epoch, Epoch(1), "what is on the disk is safe");
    }
}
