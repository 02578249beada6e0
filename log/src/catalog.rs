//! Which rooms a core has in the log: one entry a room, which says where its newest part lies; what is older is found from
//! there, part by part, in the indexes of the segments.
//!
//! Invariants:
//! - An entry's places `first` to `head` are dense, and its newest part ends at `head`. No chain leads over a hole, nor from
//!   one life of a room to the one before: a part behind either names none before it.
//! - What a cut leaves of a room is what the next start finds of it, also where that lies in another class. So a room begins
//!   anew only where nothing of it is left.
//! - What lies in a segment that was cut is seen by nobody from then on. Its rooms are told one by one afterwards
//!   ([`Catalog::forget_cut`]), and the segment is released behind the last of them.
//! - Nothing but retention, damage that was proved, or erasure takes anything away: a read that failed does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use banter_protocol::ids::{Epoch, RoomId, Sequence};

use crate::checkpoint::KeptRoom;
use crate::erasure::{self, Erasure, Erasures};
use crate::index::{Chain, Entry, JUMP_PARTS, Part};
use crate::record::Level;
use crate::runs::Runs;
use crate::segment::{Class, SegmentHeader};

mod known;
mod past;

pub use past::{Break, Hole, Past};

use known::{Joint, KnownRoom};

/// The rooms of a core that have something in the log: 72 bytes a room, and what the tree around them takes.
#[derive(Debug, Default)]
pub struct Catalog {
    /// A tree, and no hash table: all of them can be looked at in slices while they come and go, and none is moved when
    /// they grow many.
    rooms: BTreeMap<RoomId, KnownRoom>,
    /// Of rooms that came to another class: where they ended in each of the others, the newest last.
    elsewhere: BTreeMap<RoomId, Vec<KnownRoom>>,
    /// Of rooms that lack places ahead of parts that a power cut may have left: where they ended before each hole, the newest
    /// last. No more than there are such parts, and of no use once all of them were added.
    before_holes: BTreeMap<RoomId, Vec<KnownRoom>>,
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
    /// The run at whose start levels and classes of the configuration changed last: the least of a room whose newest record
    /// is safer than what it is to be from now on, or which may have been of another class since.
    pub lowered: Epoch,
    /// Under which something was dropped last before this start, if anything was: above every epoch that was given until
    /// then to a room with something in the log. What is dropped in this run concerns no room that a part of it still shows.
    pub dropped: Epoch,
}

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
    /// It is cut, and rooms that have nothing left have gone by that epoch since.
    cut_under: Option<Epoch>,
}

/// A segment whose rooms are to be told that it goes.
#[derive(Debug)]
struct Cutting {
    segment: u64,
    rooms: CutRooms,
    /// Rooms that went on meanwhile from what lies before it: they need it no more.
    ahead: BTreeSet<RoomId>,
}

/// The rooms of this core that a segment holds, each with its last place there.
#[derive(Debug)]
pub enum CutRooms {
    /// As its index says.
    Known(std::vec::IntoIter<(RoomId, Sequence)>),
    /// Its index cannot be read: all rooms are looked at, from there.
    Unknown(Bound<RoomId>),
}

/// What became of a part that was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// What is missing before it.
    pub hole: Option<Hole>,
    /// It gives places again, which were refused: the segment that had them, and the last of its places that counts. Or
    /// nothing of it counts: then that segment is its own.
    pub given_again: Option<(u64, Sequence)>,
    /// It goes on from that segment, and gives again all that its room has between that and the one in `given_again`.
    pub left_behind: Option<u64>,
}

impl Catalog {
    /// What is known of a room.
    pub fn room(&self, room: RoomId) -> Option<RoomLog> {
        let KnownRoom { epoch, head, first, level, newest, .. } = self.known(room)?;
        Some(RoomLog { epoch, head, first, level, newest_segment: newest })
    }

    /// A room by the newest of its parts that is not cut.
    fn known(&self, id: RoomId) -> Option<KnownRoom> {
        let room = self.rooms.get(&id);
        if let Some(room) = room.filter(|room| self.segment(room.newest).is_some()) {
            return Some(*room);
        }
        let left = self.elsewhere.get(&id)?.iter().rfind(|left| self.segment(left.newest).is_some())?;
        // It had places behind those, under epochs that it must not go by again.
        let cut_under = room.and_then(|room| self.segments.get(&room.newest)?.cut_under);
        Some(KnownRoom { epoch: left.epoch.max(cut_under.unwrap_or_default()), ..*left })
    }

    /// The epoch of a room that is joined: as the log knows it, or as follows from what else is durable.
    pub fn epoch_of(&self, room: RoomId, level: Level, class: Class) -> Epoch {
        let Epochs { blank_synced, blank_written, lowered, dropped } = self.epochs;
        let Some(room) = self.room(room) else {
            return if level == Level::Written { blank_written } else { blank_synced };
        };
        let segment = self.segment(room.newest_segment);
        // Newer parts of it may have gone with their class, ahead of this one: of that class before this start, or of one
        // that the room was of before the configuration changed last.
        let is_elsewhere = segment.is_none_or(|segment| segment.class != class);
        let may_have_been = segment.is_none_or(|segment| segment.run < lowered.0);
        if room.epoch < dropped && (is_elsewhere || may_have_been) {
            dropped.max(lowered)
        } else if room.level > level {
            room.epoch.max(lowered)
        } else {
            room.epoch
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
        let there = self.erasures.get(room, erasure.number).map(|there| there.bound);
        let bound = erasure.bound.within(there.unwrap_or_else(|| self.bound_of(room)));
        let known = Erasure { bound, ..erasure.clone() };
        self.erasures.add(known.clone());
        known
    }

    /// What is there of a room by now. A room that is not there has a later epoch than it had, once it begins.
    fn bound_of(&self, room: RoomId) -> erasure::Bound {
        match self.rooms.get(&room).filter(|known| self.segment(known.newest).is_some()) {
            Some(&KnownRoom { epoch, head: last, newest_ms, .. }) => erasure::Bound { epoch, last, newest_ms },
            None => {
                let blank = self.epochs.blank_synced.min(self.epochs.blank_written);
                let epoch = Epoch(blank.0.saturating_sub(1));
                erasure::Bound { epoch, ..erasure::Bound::UNKNOWN }
            }
        }
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
        self.segments.get(&id).filter(|segment| segment.cut_under.is_none()).map(|segment| &segment.header)
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
        self.segments.insert(header.id, KnownSegment { header, parts, cut_under: None });
        self.runs.add(&header, newest_ms);
    }

    /// A segment begins to be written, or its index is on the disk and has so many parts.
    pub fn has_parts(&mut self, header: &SegmentHeader, parts: u32) {
        let segment = KnownSegment { header: *header, parts, cut_under: None };
        self.segments.entry(header.id).or_insert(segment).parts = parts;
    }

    /// A segment that holds nothing goes.
    pub fn forget_segment(&mut self, id: u64) {
        self.segments.remove(&id);
    }

    /// What a part says of those before it that goes on behind what is known of its room.
    pub fn chain_of(&self, room: RoomId) -> Chain {
        self.known(room).map_or_else(Chain::default, |known| self.chain_behind(&known))
    }

    /// What the part says that begins with that record. One that does not follow what is left of its room names none.
    pub fn chain_for(&self, entry: &Entry) -> Chain {
        let known = self.known(entry.room).filter(|known| known.is_followed_by(entry));
        known.map_or_else(Chain::default, |known| self.chain_behind(&known))
    }

    fn chain_behind(&self, known: &KnownRoom) -> Chain {
        let before_tag = self.segments.get(&known.newest).map_or(0, |segment| segment.header.class.tag());
        Chain { before: known.newest, before_tag, far: known.far, depth: known.depth.saturating_add(1) }
    }

    /// Adds a room as a checkpoint has it, behind every segment that the checkpoint covers; one that came to another class is
    /// added for each class, in the order of the segments. `false`: it ended there in a segment that is not there any more.
    pub fn add_kept(&mut self, kept: &KeptRoom, past: &Past<'_>) -> bool {
        let Some(&SegmentHeader { run, class, .. }) = self.segment(kept.newest) else { return false };
        self.steps += 1;
        let KeptRoom { room, epoch, head, first, newest, far, newest_ms, depth, level } = *kept;
        let epoch = past.epoch_behind(run, level).map_or(epoch, |behind| behind.max(epoch));
        self.put(room, KnownRoom { epoch, head, first, newest, far, newest_ms, depth, level }, class);
        true
    }

    /// Takes the first room out, as a checkpoint has it.
    pub fn take_kept(&mut self) -> Vec<KeptRoom> {
        let Some((room, newest)) = self.rooms.pop_first() else { return Vec::new() };
        self.before_holes.remove(&room);
        let mut kept = self.elsewhere.remove(&room).unwrap_or_default();
        kept.push(newest);
        kept.into_iter().map(|known| known.kept(room)).collect()
    }

    /// Every room, as a checkpoint has it.
    pub fn kept(&self) -> impl Iterator<Item = KeptRoom> {
        self.rooms.iter().flat_map(|(&room, newest)| {
            let left = self.elsewhere.get(&room).into_iter().flatten();
            left.chain([newest]).map(move |known| known.kept(room))
        })
    }

    /// Adds what a sealed segment holds of a room, as its index names what is before; segments come in the order of their
    /// ids. Says what is missing before it, unless that was dropped, or given up under a break.
    pub fn add_part(&mut self, segment: &SegmentHeader, part: &Part, past: &Past<'_>) -> Option<Hole> {
        self.add_any_part(segment, &mut { *part }, true, past).hole
    }

    /// Adds a part, also one that was made from its segment alone and names none before it: that is said of it here.
    pub fn add_any_part(
        &mut self,
        segment: &SegmentHeader,
        part: &mut Part,
        is_chained: bool,
        past: &Past<'_>,
    ) -> Added {
        let known = self.rooms.get(&part.room).copied();
        let epoch = past.epoch_behind(segment.run, part.level).unwrap_or(part.epoch);
        if !is_chained {
            part.chain = Chain::default();
        }
        let left = known.and_then(|known| self.left_before(part, &known, is_chained));
        let joint = match known {
            Some(_) if left.is_some() => Joint::GoesOn,
            Some(known) => known.joint_to(part, is_chained, epoch),
            None => Joint::Begins,
        };
        let lacking = known.filter(|_| joint == Joint::Lacks);
        let hole = lacking.and_then(|known| self.unexplained(&known, segment.run, part, past));
        let is_left_out = hole.is_some() || part.last < part.first;
        let before_hole = lacking.filter(|_| past.may_have_taken(segment.run, part.level));
        if before_hole.is_some() && is_left_out {
            // What lies behind was not safe either; the room goes on from what is whole, under its new epoch. It is written
            // down that nothing of it counts: a later start, which may know of more breaks, makes the same of it.
            let is_known = part.last < part.first;
            let given_again = (!is_known).then_some((segment.id, part.first.previous()));
            return Added { given_again, ..Added::default() };
        }
        // An earlier start may have left it out all the same, and its index, which said so, be lost: then what was written after
        // that start goes on from before the hole.
        if let Some(before) = before_hole {
            self.before_holes.entry(part.room).or_default().push(before);
        }
        let before = known.filter(|_| joint == Joint::GoesOn);
        let goes_on_from = left.or(before);
        if let Some(there) = goes_on_from.filter(|_| !is_chained) {
            part.chain = self.chain_behind(&there);
        }
        self.insert_part(segment, part, epoch, goes_on_from.map_or(part.first, |there| there.first.min(part.first)));
        let given_again = before.filter(|before| part.first <= before.head);
        let given_again = given_again.map(|before| (before.newest, part.first.previous()));
        Added { hole, given_again, left_behind: left.map(|left| left.newest) }
    }

    /// Where a room ended in a class that it left, or before a hole, if a part goes on from there: it names that, or begins where
    /// that ends and before all that is known of the room since, of which nothing counts then.
    fn left_before(&self, part: &Part, known: &KnownRoom, is_chained: bool) -> Option<KnownRoom> {
        let goes_on = |left: &&KnownRoom| match is_chained {
            true => left.newest == part.chain.before && left.head >= part.first.previous(),
            false => part.first <= known.first && left.head == part.first.previous(),
        };
        let there = [&self.elsewhere, &self.before_holes].map(|rooms| rooms.get(&part.room));
        there.into_iter().flatten().find_map(|left| left.iter().rev().find(goes_on)).copied()
    }

    fn insert_part(&mut self, segment: &SegmentHeader, part: &Part, epoch: Epoch, first: Sequence) {
        self.steps += 1;
        let depth = part.chain.depth;
        let room = KnownRoom {
            epoch,
            // Of a part all of which was given again nothing counts, and no place of others is taken back for it.
            head: part.last.max(part.first.previous()),
            first,
            newest: segment.id,
            far: if depth.is_multiple_of(JUMP_PARTS) { segment.id } else { part.chain.far },
            newest_ms: part.newest_ms,
            depth,
            level: part.level,
        };
        self.put(part.room, room, segment.class);
    }

    /// Where a room ends from now on, in a segment of that class.
    fn put(&mut self, id: RoomId, room: KnownRoom, class: Class) {
        let before = self.rooms.insert(id, room);
        if let Some(before) = before.filter(|before| before.newest != room.newest) {
            self.leave_class(id, before, class);
        }
    }

    /// A room goes on in a segment of that class: where it ended in another one is remembered.
    fn leave_class(&mut self, id: RoomId, before: KnownRoom, class: Class) {
        let class_of = |room: &KnownRoom| {
            self.segments.get(&room.newest).filter(|it| it.cut_under.is_none()).map(|it| it.header.class)
        };
        let is_other = class_of(&before).is_some_and(|there| there != class);
        if !is_other && !self.elsewhere.contains_key(&id) {
            return;
        }
        let left = self.elsewhere.entry(id).or_default();
        left.retain(|left| class_of(left).is_some_and(|there| there != class));
        left.extend(Some(before).filter(|_| is_other));
    }

    fn unexplained(&self, known: &KnownRoom, run: u64, part: &Part, past: &Past<'_>) -> Option<Hole> {
        let first_run = self.segments.get(&known.newest).map_or(0, |segment| segment.header.run);
        let hole = Hole { from: known.head.next(), to: part.first.previous(), behind: known.newest };
        (!past.explains((first_run, known.newest), run, &part.chain)).then_some(hole)
    }

    /// Adds a record of the segment that is being written.
    pub fn add_entry(&mut self, segment: &SegmentHeader, entry: &Entry) {
        self.steps += 1;
        let known = self.known(entry.room);
        if known.is_none() {
            // It was cut whole, if it was there, and begins anew: what it was before is gone.
            self.erasures.forget_room(entry.room);
        }
        let followed = known.filter(|known| known.is_followed_by(entry));
        let chain = followed.map_or_else(Chain::default, |known| self.chain_behind(&known));
        let mut room =
            followed.or(known.filter(|known| known.newest == segment.id)).unwrap_or(KnownRoom::before(entry));
        if room.newest != segment.id {
            if followed.is_some_and(|left| self.rooms.get(&entry.room).is_none_or(|cut| cut.newest != left.newest)) {
                let behind = self.cutting.iter_mut().filter(|cutting| cutting.segment > chain.before);
                behind.for_each(|cutting| _ = cutting.ahead.insert(entry.room));
            }
            (room.newest, room.depth) = (segment.id, chain.depth);
            room.far = if chain.depth.is_multiple_of(JUMP_PARTS) { segment.id } else { chain.far };
        }
        if entry.kind.is_numbered() {
            if followed.is_none() || room.first > entry.sequence {
                room.first = entry.sequence;
            }
            room.head = entry.sequence;
        }
        (room.epoch, room.level) = (entry.epoch, entry.level);
        room.newest_ms = room.newest_ms.max(entry.time_ms);
        self.put(entry.room, room, segment.class);
    }

    /// What a room has before that place was proved to be damaged: it is out of reach.
    pub fn lose_before(&mut self, room: RoomId, first: Sequence) {
        let is_there = |room: &&mut KnownRoom| self.segments.get(&room.newest).is_some_and(|it| it.cut_under.is_none());
        let left = self.elsewhere.get_mut(&room).into_iter().flatten().rev();
        if let Some(known) = self.rooms.get_mut(&room).into_iter().chain(left).find(is_there) {
            known.lose_to(first);
        }
    }

    /// Nobody sees that segment from now on, and its rooms are told by [`Catalog::forget_cut`]. `false`: it is not known
    /// here, and nothing is to be done.
    pub fn cut_segment(&mut self, segment: u64, rooms: CutRooms) -> bool {
        let Some(known) = self.segments.get_mut(&segment) else { return false };
        if known.cut_under.replace(self.epochs.blank_synced).is_none() {
            self.cutting.push_back(Cutting { segment, rooms, ahead: BTreeSet::new() });
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
            let is_ahead = room.is_some_and(|(id, _)| cutting.ahead.remove(&id));
            match room {
                Some((id, last)) if !is_ahead => self.forget_part(id, segment, last),
                Some((id, _)) => self.forget_left(id, segment),
                None => self.end_cut(segment),
            }
        }
        self.steps += steps as u64;
        steps
    }

    /// A room does not end in that segment any more, in none of the classes that it left.
    fn forget_left(&mut self, id: RoomId, segment: u64) {
        let Some(left) = self.elsewhere.get_mut(&id) else { return };
        left.retain(|left| left.newest != segment);
        if left.is_empty() {
            self.elsewhere.remove(&id);
        }
    }

    fn forget_part(&mut self, id: RoomId, segment: u64, last: Sequence) {
        let is_newest = self.rooms.get(&id).is_some_and(|room| room.newest == segment);
        if is_newest {
            self.rooms.remove(&id);
        } else if let Some(room) = self.rooms.get_mut(&id) {
            room.lose_part(segment, last);
        }
        self.forget_left(id, segment);
        let Some(left) = self.elsewhere.get_mut(&id) else { return };
        let cut_under = self.segments.get(&segment).and_then(|segment| segment.cut_under);
        for left in left.iter_mut() {
            left.lose_part(segment, last);
            if is_newest {
                left.epoch = left.epoch.max(cut_under.unwrap_or_default());
            }
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
        self.before_holes.clear();
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
        self.known(id).is_some_and(|known| self.clock_ms(known.newest, known.newest_ms) >= since_ms)
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
