//! A page of a room: its records from the mark before the first of them on, leaping over what is of other rooms.

use std::borrow::Cow;
use std::collections::VecDeque;

use banter_protocol::ids::{RoomId, Sequence};
use banter_protocol::native::{Kept, read_kept, write_kept};

use super::find::{Place, WayBack, doubtful_index};
use super::{
    FileRange, LOOKS_MAX, LogFile, PageRead, PageWant, READ_BYTES, READ_BYTES_FREE, READ_BYTES_MIN, Shelf, Step,
};
use crate::PAGE_BYTES;
use crate::block;
use crate::bytes::u16_at;
use crate::erasure::{Bound, Erasure, Erasures};
use crate::index::Mark;
use crate::index::marks::{MARK_LEAP_BYTES, MarkPiece, MarkSearch};
use crate::record::{Record, RecordFault, RecordKind, room_tag};

mod cost;

use cost::{allowed_bytes, is_near, mean_bytes, near_bytes, own_share};

/// Marks of an index in memory that are looked at in one go.
const MARKS_AHEAD_MAX: usize = 64;
/// Bytes that a part with few messages costs once it was found: a piece of marks, and a page of records.
const PART_READ_BYTES: u64 = 2 * PAGE_BYTES as u64;

/// A page being read.
#[derive(Debug)]
pub(super) struct PageReading {
    want: PageWant,
    room: RoomId,
    /// The run whose authors mean something.
    run: u64,
    next: Sequence,
    /// Each with its place.
    frames: VecDeque<(Sequence, Vec<u8>)>,
    bytes: usize,
    /// Bytes that were read from the disk for it, from the first part on that holds some of it.
    read_bytes: u64,
    /// A part was found that holds some of it.
    is_found: bool,
    /// Where a page that ends with its last message ends is known.
    is_placed: bool,
    /// Where it begins is known too.
    is_measured: bool,
    way: WayBack,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Find,
    Marks(Place, MarkSearch),
    Records(Place, Records),
}

/// In the midst of a part's records.
#[derive(Debug)]
struct Records {
    piece: MarkPiece,
    here: Position,
    /// Bytes that are needed from there, as a record that was cut said.
    bytes_min: u64,
}

impl PageReading {
    pub(super) fn new(want: PageWant, run: u64) -> Self {
        PageReading {
            room: RoomId::of(want.room.as_str()),
            next: want.first,
            is_placed: !want.newest,
            is_measured: !want.newest,
            want,
            run,
            frames: VecDeque::new(),
            bytes: 0,
            read_bytes: 0,
            is_found: false,
            way: WayBack::new(),
            stage: Stage::Find,
        }
    }

    pub(super) fn begin_anew(&mut self) {
        (self.way, self.stage) = (WayBack::new(), Stage::Find);
    }

    /// What was read already is to be erased, too. It stands here under the room's epoch now, and may have been said under one
    /// before; its place and its time tell.
    pub(super) fn erase(&mut self, erasure: &Erasure) {
        let bound = Bound { epoch: Bound::UNKNOWN.epoch, ..erasure.bound };
        let erasure = Erasure { bound, ..erasure.clone() };
        for (_, frame) in &mut self.frames {
            if let Cow::Owned(gap) = erasure.shown(frame) {
                self.bytes = self.bytes - frame.len() + gap.len();
                *frame = gap;
            }
        }
    }

    pub(super) fn go(&mut self, shelf: Shelf<'_>) -> Step {
        if self.is_found {
            let fresh_bytes = shelf.fresh.map_or(0, |(range, _)| range.bytes);
            self.read_bytes = self.read_bytes.saturating_add(fresh_bytes);
        }
        loop {
            if self.next > self.want.last || self.is_full() {
                return self.finish();
            }
            let went = match &mut self.stage {
                Stage::Find => self.find(shelf),
                Stage::Marks(place, search) => {
                    let (place, mut search) = (*place, *search);
                    let went = self.marks(place, &mut search, shelf);
                    if let Stage::Marks(_, there) = &mut self.stage {
                        *there = search;
                    }
                    went
                }
                Stage::Records(..) => self.records(shelf),
            };
            match went {
                Ok(()) => {}
                Err(Step::Read(range)) if self.ends_before(range) => return self.finish(),
                Err(Step::Read(range)) if self.begins_behind(range) => {}
                Err(step) => return step,
            }
        }
    }

    /// Whether the page ends rather than that these bytes are read for it, too.
    fn ends_before(&self, range: FileRange) -> bool {
        !self.want.newest
            && self.next > self.want.first
            && self.read_bytes.saturating_add(range.bytes) > allowed_bytes(self.bytes as u64)
    }

    /// A page of the newest begins with the part that was found last, rather than that these bytes are read to find one before
    /// it, if what all of them take, with marks and records, would be too much.
    fn begins_behind(&mut self, range: FileRange) -> bool {
        let Some(place) = self.way.at().filter(|_| self.goes_back_for_more()) else { return false };
        let parts = self.way.ahead().filter(|ahead| ahead.part.first <= self.want.last).chain([place]);
        let (count, bytes) =
            parts.fold((0, 0), |(count, bytes), place| (count + 1, place.part.bytes.saturating_add(bytes)));
        let still_due = range.bytes.saturating_add((count + 1) * PART_READ_BYTES);
        let is_far = self.read_bytes.saturating_add(still_due) > allowed_bytes(bytes.min(self.want.bytes_max as u64));
        if is_far {
            let first = place.part.first;
            self.way.stay();
            self.begin_at(first);
        }
        is_far
    }

    /// Whether it looks for older messages than those of the part with the last one.
    fn goes_back_for_more(&self) -> bool {
        self.want.newest && self.is_measured && self.frames.is_empty() && matches!(self.stage, Stage::Find)
    }

    fn is_full(&self) -> bool {
        let want = &self.want;
        !want.newest && (self.frames.len() >= want.messages_max as usize || self.bytes >= want.bytes_max)
    }

    fn finish(&mut self) -> Step {
        let mut messages = Vec::with_capacity(self.bytes);
        self.frames.iter().for_each(|(_, frame)| messages.extend_from_slice(frame));
        let (count, first) = (self.frames.len() as u32, self.want.first);
        Step::Page(PageRead { messages, count, first, through: self.next.previous() })
    }

    /// Finds the part that holds the next message.
    fn find(&mut self, shelf: Shelf<'_>) -> Result<(), Step> {
        let target = if self.is_placed { self.next } else { self.want.last };
        // Where each part on the way is part of the page, nothing is passed over.
        let may_jump = !self.goes_back_for_more();
        let found = self.way.go(self.room, shelf, (target, may_jump), |place| place.part.first <= target)?;
        if let Some(place) = found.filter(|place| place.last < target)
            && let Some(behind) = self.way.behind().filter(|behind| behind.part.first > target)
        {
            // What lies between the two is in a segment that was damaged, index and all.
            let (segment, first) = (place.segment, behind.part.first);
            return Err(Step::Damaged { segment, first });
        }
        let Some(place) = found.filter(|place| place.last >= self.next) else {
            // Cut away since the page was asked for; what was read until here is right.
            self.want.last = self.next.previous();
            return Ok(());
        };
        if !self.is_placed {
            if place.part.first > place.last {
                // A state is all that it holds: the page ends before it, if there is anything before.
                if place.part.first > target {
                    self.begin_at(place.part.first);
                }
                self.want.last = place.last;
                return Ok(());
            }
            self.is_placed = true;
            self.want.last = self.want.last.min(place.last);
            return self.begin_part(place, shelf);
        }
        if place.part.first > self.next {
            if !self.frames.is_empty() || self.next > self.want.first {
                self.want.last = self.next.previous();
                return Ok(());
            }
            self.begin_at(place.part.first);
            if self.next > place.last {
                // A state is all that is left of the room.
                self.want.last = place.last;
                return Ok(());
            }
        }
        self.begin_part(place, shelf)
    }

    /// What cannot be read is far before: it goes on without.
    pub(super) fn leave_jump(&mut self) -> bool {
        matches!(self.stage, Stage::Find) && self.way.leave_jump()
    }

    /// The first message behind the segment whose index is being read.
    pub(super) fn behind_index(&self) -> Sequence {
        match &self.stage {
            Stage::Marks(place, _) | Stage::Records(place, _) => place.last.next(),
            Stage::Find => self.way.at().map_or(self.want.last.next(), |behind| behind.part.first),
        }
    }

    fn begin_at(&mut self, first: Sequence) {
        (self.want.first, self.next) = (first, first);
    }

    /// Where to begin so that a page full ends at its last message, by what the marks before that say is to be read, with
    /// room for error. A page may then hold fewer messages than it could.
    fn begin_of_newest(&self, place: &Place, piece: &MarkPiece) -> Sequence {
        let wanted = u64::from(self.want.messages_max).max(1);
        let fewest = Sequence(self.want.last.0.saturating_sub(wanted - 1)).max(self.want.first);
        let free = (READ_BYTES_FREE / 2).saturating_sub(self.read_bytes);
        let bytes_max = (self.want.bytes_max as u64).saturating_mul(2).saturating_add(free);
        let ahead = piece.marks.partition_point(|mark| mark.sequence <= self.want.last.0);
        let mut marks = piece.marks.get(..ahead).unwrap_or(&[]).iter().rev();
        let Some(mut begin) = marks.next() else { return fewest };
        let (own_share, mut bytes) = (own_share(place, piece), 0);
        for mark in marks {
            // Far marks have others' records between them, but for the room's share, and those are leapt over.
            let gap = begin.offset.saturating_sub(mark.offset);
            let own_bytes = (gap as f64 * own_share) as u64 + 2 * PAGE_BYTES as u64;
            bytes += if is_near((mark.sequence, mark.offset), begin) { gap } else { gap.min(own_bytes) };
            if bytes > bytes_max {
                return Sequence(begin.sequence).max(fewest);
            }
            begin = mark;
        }
        let is_all = begin.sequence <= place.part.first.0;
        if is_all { fewest } else { Sequence(begin.sequence).max(fewest) }
    }

    fn begin_part(&mut self, place: Place, shelf: Shelf<'_>) -> Result<(), Step> {
        self.is_found = true;
        let Some(index) = shelf.index_of(place.segment) else {
            if !place.part.details.is_on_disk() {
                // It was found in memory, and its index is on the disk by now.
                return self.leave_part();
            }
            let places = (place.part.first.0, place.part.last.0);
            let search = MarkSearch::new(self.sought().0, places, place.part.details.marks);
            self.stage = Stage::Marks(place, search);
            return Ok(());
        };
        let marks = index.room(self.room).map_or(&[][..], |room| &room.marks);
        let at = marks.partition_point(|mark| mark.sequence <= self.sought().0).saturating_sub(1);
        let at = if self.is_measured { at } else { at.saturating_sub(MARKS_AHEAD_MAX - 1) };
        let some = marks.get(at..).unwrap_or(&[]);
        let next = some.get(MARKS_AHEAD_MAX).map_or(u64::MAX, |mark| mark.sequence);
        let piece = MarkPiece { marks: some.iter().take(MARKS_AHEAD_MAX).copied().collect(), next };
        self.begin_records(place, piece)
    }

    fn marks(&mut self, place: Place, search: &mut MarkSearch, shelf: Shelf<'_>) -> Result<(), Step> {
        let Some(header) = shelf.segment(place.segment) else { return self.leave_part() };
        let details = place.part.details;
        let start = details.marks_offset();
        let Some(offset) = search.piece_offset() else { return Err(doubtful_index(place.segment, start)) };
        let start = start.saturating_add(offset);
        let end = start.saturating_add(PAGE_BYTES as u64).min(details.keys_offset());
        let bytes = shelf.bytes(place.segment, LogFile::Index, start..end.max(start))?;
        let Some(piece) = MarkPiece::read(&bytes, header.nonce) else {
            return Err(doubtful_index(place.segment, start));
        };
        if search.is_in(&piece) { self.begin_records(place, piece) } else { Ok(()) }
    }

    /// The place whose mark is looked for.
    fn sought(&self) -> Sequence {
        if self.is_measured { self.next } else { self.want.last }
    }

    fn begin_records(&mut self, place: Place, piece: MarkPiece) -> Result<(), Step> {
        if !self.is_measured {
            self.is_measured = true;
            self.begin_at(self.begin_of_newest(&place, &piece));
            self.stage = Stage::Find;
            return Ok(());
        }
        let Some(mark) = mark_before(&piece, self.next) else {
            return Err(doubtful_index(place.segment, place.part.details.marks_offset()));
        };
        self.stage = Stage::Records(
            place,
            Records { piece, here: Position { at: mark.offset, own_end: mark.offset }, bytes_min: 0 },
        );
        Ok(())
    }

    /// That part was cut meanwhile.
    fn leave_part(&mut self) -> Result<(), Step> {
        self.begin_anew();
        Ok(())
    }

    /// Goes on with the part behind.
    fn next_part(&mut self, shelf: Shelf<'_>) -> Result<(), Step> {
        match self.way.take_ahead(self.next) {
            Some(place) => self.begin_part(place, shelf),
            None => self.leave_part(),
        }
    }

    fn records(&mut self, shelf: Shelf<'_>) -> Result<(), Step> {
        let Stage::Records(place, records) = &mut self.stage else { return Ok(()) };
        let place = *place;
        let Some(&header) = shelf.segment(place.segment) else { return self.leave_part() };
        if self.next > place.last {
            return self.next_part(shelf);
        }
        if self.next.0 >= records.piece.next && records.piece.next != u64::MAX {
            return self.begin_part(place, shelf);
        }
        let mark = mark_before(&records.piece, self.next).filter(|mark| mark.sequence == self.next.0);
        if let Some(mark) = mark.filter(|mark| mark.offset > records.here.at) {
            (records.here, records.bytes_min) = (records.here.at_mark(mark.offset), 0);
        }
        let (here, bytes_min) = (records.here, records.bytes_min);
        let at = here.at;
        let bytes = self.plan(&place, at).max(bytes_min);
        let end = shelf.end_of(&header, self.room);
        if at >= end || at.saturating_add(bytes_min) > end {
            return Err(self.doubtful(&place));
        }
        let end = at.saturating_add(bytes).min(end);
        let chunk = shelf.bytes(place.segment, LogFile::Segment, at..end)?;
        let run = Run { nonce: header.nonce, run: header.run, erasures: shelf.catalog.erasures() };
        let walked = self.walk(&chunk, here, &place, run);
        let Stage::Records(_, records) = &mut self.stage else { return Ok(()) };
        match walked {
            Walked::Through(through) if through.at > at => (records.here, records.bytes_min) = (through, 0),
            Walked::Longer(through, bytes) if through.at > at || bytes > bytes_min => {
                (records.here, records.bytes_min) = (through, bytes);
            }
            Walked::Later => return Err(Step::Later { segment: place.segment }),
            _ => return Err(self.doubtful(&place)),
        }
        Ok(())
    }

    /// The next message is not where it should be. It is looked for once more from its mark on: what was passed over may
    /// have been read wrong.
    fn doubtful(&mut self, place: &Place) -> Step {
        let (segment, first, next) = (place.segment, self.behind(place), self.next);
        if let Stage::Records(_, records) = &mut self.stage
            && let Some(mark) = mark_before(&records.piece, next)
        {
            (records.here, records.bytes_min) = (Position { at: mark.offset, own_end: mark.offset }, 0);
        }
        Step::Doubtful { segment, file: LogFile::Segment, at: next.0, first }
    }

    /// The first message behind damage that may be there: the next that is marked.
    fn behind(&self, place: &Place) -> Sequence {
        let Stage::Records(_, records) = &self.stage else { return self.next.next() };
        let behind = records.piece.marks.iter().find(|mark| mark.sequence > self.next.0).map(|mark| mark.sequence);
        let behind = behind.unwrap_or(records.piece.next).min(place.last.next().0);
        Sequence(behind.max(self.next.next().0))
    }

    /// How many bytes to read from there: what the page still takes, or up to where the next leap is worth it.
    fn plan(&self, place: &Place, at: u64) -> u64 {
        let Stage::Records(_, records) = &self.stage else { return READ_BYTES_MIN };
        let (want, mean) = (&self.want, mean_bytes(place));
        let last = place.last.min(want.last).0;
        let fitting = if want.newest {
            u64::MAX
        } else {
            let bytes_left = want.bytes_max.saturating_sub(self.bytes) as u64;
            (u64::from(want.messages_max) - self.frames.len() as u64).min((bytes_left / mean).saturating_add(1))
        };
        let target = last.min(self.next.0.saturating_add(fitting - 1));
        let bytes_of =
            |messages: u64| messages.saturating_mul(mean.saturating_add(mean / 8)).saturating_add(READ_BYTES_MIN / 2);
        let own_bytes = bytes_of((target - self.next.0).saturating_add(1));
        let marks = &records.piece.marks;
        let behind = marks.iter().find(|mark| mark.sequence > target);
        let all_bytes = behind.map_or(own_bytes, |mark| mark.offset.saturating_sub(at));
        let near = near_bytes(marks, self.next.0, at, target);
        let bytes = if all_bytes <= own_bytes.saturating_mul(2) {
            all_bytes
        } else if near > 0 {
            near
        } else {
            let leap = marks.iter().find(|mark| mark.sequence > self.next.0);
            leap.map_or(own_bytes, |leap| bytes_of(leap.sequence - self.next.0).min(leap.offset.saturating_sub(at)))
        };
        // A read begins and ends with a page of the disk.
        let left = allowed_bytes(self.bytes as u64).saturating_sub(self.read_bytes.saturating_add(PAGE_BYTES as u64));
        let most = if want.newest { READ_BYTES } else { left.clamp(READ_BYTES_MIN, READ_BYTES) };
        bytes.clamp(READ_BYTES_MIN, most)
    }

    /// Takes the room's records of these bytes, from there on, leaping where a mark says so.
    fn walk(&mut self, chunk: &[u8], from: Position, place: &Place, segment: Run<'_>) -> Walked {
        let (mut here, tag) = (from, room_tag(self.room));
        let mut leap = self.next_mark();
        loop {
            if self.next > place.last.min(self.want.last) || self.is_full() {
                return Walked::Through(here);
            }
            if leap.is_some_and(|mark| mark.sequence == self.next.0) {
                let Some(offset) = leap.and_then(|mark| mark.offset) else { return Walked::Through(here) };
                here = here.at_mark(offset);
                leap = self.next_mark();
            }
            // Any record of the room that is farther from the one before it has a mark.
            if here.at >= here.own_end.saturating_add(MARK_LEAP_BYTES) {
                return Walked::Damaged;
            }
            let Some(rest) = chunk.get((here.at - from.at) as usize..).filter(|rest| !rest.is_empty()) else {
                return Walked::Through(here);
            };
            let page_end = (here.at + 1).next_multiple_of(PAGE_BYTES as u64);
            let ahead = match rest.first() {
                Some(&letter) if page_end - here.at == PAGE_BYTES as u64 && letter == block::MAGIC[0] => {
                    block::HEADER_BYTES as u64
                }
                // The end of a block; the next begins with a page.
                Some(0) if page_end - here.at < PAGE_BYTES as u64 => page_end - here.at,
                _ => match self.record(rest, tag, segment) {
                    Looked::Other(bytes) => bytes,
                    Looked::Own(bytes) => {
                        here.own_end = here.at + bytes;
                        bytes
                    }
                    Looked::Longer(bytes) => {
                        let is_over = |mark: NextMark| mark.offset.is_some_and(|offset| here.at + bytes > offset);
                        let is_damaged = leap.is_some_and(is_over);
                        return if is_damaged { Walked::Damaged } else { Walked::Longer(here, bytes) };
                    }
                    Looked::Damaged => return Walked::Damaged,
                    Looked::Later => return Walked::Later,
                },
            };
            here.at += ahead;
        }
    }

    /// Looks at the record that starts with these bytes, and takes it if it is the room's next.
    fn record(&mut self, rest: &[u8], tag: u16, segment: Run<'_>) -> Looked {
        match Record::bytes_of(rest) {
            Ok(bytes) if u16_at(rest, 2) != Some(tag) => return Looked::Other(bytes as u64),
            Ok(_) => {}
            Err(RecordFault::Longer(bytes)) => return Looked::Longer(bytes as u64),
            Err(_) => return Looked::Damaged,
        }
        match Record::read(rest, segment.nonce) {
            Ok(record) if self.take(&record, segment) => Looked::Own(record.bytes() as u64),
            Ok(_) | Err(RecordFault::Damaged) => Looked::Damaged,
            Err(RecordFault::Longer(bytes)) => Looked::Longer(bytes as u64),
            Err(RecordFault::Kind(_)) => Looked::Later,
        }
    }

    fn next_mark(&self) -> Option<NextMark> {
        let Stage::Records(_, records) = &self.stage else { return None };
        let next = records.piece.marks.iter().find(|mark| mark.sequence > self.next.0);
        let next = next.map(|mark| NextMark { sequence: mark.sequence, offset: Some(mark.offset) });
        let in_next_piece = NextMark { sequence: records.piece.next, offset: None };
        next.or((records.piece.next != u64::MAX).then_some(in_next_piece))
    }

    /// Takes a record if it is the room's next; `false`: it is not what should be there.
    fn take(&mut self, record: &Record<'_>, segment: Run<'_>) -> bool {
        if record.kind == RecordKind::State {
            return true;
        }
        let Ok(kept) = read_kept(record.frame) else { return false };
        if kept.room() != self.want.room.as_str() || kept.sequence() < self.next {
            return true;
        }
        if kept.sequence() != self.next {
            return false;
        }
        let want = &self.want;
        if segment.run != self.run || want.spare != Some(record.author) {
            let full =
                self.frames.len() >= want.messages_max as usize || self.bytes + record.frame.len() > want.bytes_max;
            if full && !want.newest && !self.frames.is_empty() {
                // Nothing more fits: the page ends before this message.
                self.want.last = self.next.previous();
                return true;
            }
            let shown = segment.erasures.shown(self.room, kept);
            let frame = if shown.epoch() == want.epoch && !matches!(shown, Kept::Erased { .. }) {
                record.frame.to_vec()
            } else {
                // A tombstone is as long as the message was, which is nobody's business.
                let mut frame = Vec::with_capacity(record.frame.len());
                write_kept(&shown.under(want.epoch), &mut frame);
                frame
            };
            self.push(frame);
        }
        self.next = self.next.next();
        if self.want.spare.is_some() && self.next.0 - self.want.first.0 >= LOOKS_MAX {
            self.want.last = self.next.previous();
        }
        true
    }

    fn push(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len();
        self.frames.push_back((self.next, frame));
        while self.want.newest
            && self.frames.len() > 1
            && (self.frames.len() > self.want.messages_max as usize || self.bytes > self.want.bytes_max)
        {
            let Some((sequence, frame)) = self.frames.pop_front() else { return };
            self.bytes -= frame.len();
            self.want.first = sequence.next();
        }
    }
}

/// What a walk is to know of the segment, and of what is not to be shown.
#[derive(Clone, Copy)]
struct Run<'a> {
    nonce: u64,
    /// The run that wrote it.
    run: u64,
    erasures: &'a Erasures,
}

/// Where a walk is in a segment.
#[derive(Clone, Copy, Debug)]
struct Position {
    /// Where the next record starts that was not looked at.
    at: u64,
    /// Where the room's last record ended that was looked at. The next one starts near it, or is marked.
    own_end: u64,
}

impl Position {
    /// Where a mark leads; never back.
    fn at_mark(self, offset: u64) -> Self {
        let at = self.at.max(offset);
        Position { at, own_end: at }
    }
}

/// The next place that is marked.
#[derive(Clone, Copy)]
struct NextMark {
    sequence: u64,
    /// Where its record starts; `None`: the next piece says it.
    offset: Option<u64>,
}

/// How a walk over some bytes ended.
enum Walked {
    /// It is to go on there.
    Through(Position),
    /// It is to go on there with so many bytes.
    Longer(Position, u64),
    /// What is there is not what should be there.
    Damaged,
    /// A record of a later build.
    Later,
}

/// What some bytes are, and how many.
enum Looked {
    /// A record of another room.
    Other(u64),
    /// One of this room.
    Own(u64),
    /// One that is not all there.
    Longer(u64),
    /// None, or one that should not be there.
    Damaged,
    /// One of a later build.
    Later,
}

fn mark_before(piece: &MarkPiece, sequence: Sequence) -> Option<Mark> {
    let behind = piece.marks.partition_point(|mark| mark.sequence <= sequence.0);
    behind.checked_sub(1).and_then(|at| piece.marks.get(at)).copied()
}
