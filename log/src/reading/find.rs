//! Finds a room's part in a segment, and the part that holds a place: from the newest part back, with jumps.

use std::collections::VecDeque;

use banter_protocol::ids::{RoomId, Sequence};

use super::{LogFile, Shelf, Step};
use crate::PAGE_BYTES;
use crate::index::Part;
use crate::index::part::{PartSearch, Searched};

/// Parts on the way back that are remembered, so that a page goes on in the part behind.
const AHEAD_MAX: usize = 64;

/// Looks for a room's part in the index of one segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartLook {
    pub segment: u64,
    search: Option<PartSearch>,
}

/// What became of a look.
pub(super) enum Looked {
    Found(Part),
    /// The segment is not there any more, or has nothing of the room.
    Gone,
}

impl PartLook {
    pub(super) fn new(segment: u64) -> Self {
        PartLook { segment, search: None }
    }

    pub(super) fn go(&mut self, room: RoomId, shelf: Shelf<'_>) -> Result<Looked, Step> {
        let Some(header) = shelf.segment(self.segment) else { return Ok(Looked::Gone) };
        if let Some(index) = shelf.index_of(self.segment) {
            return Ok(index.room(room).map_or(Looked::Gone, |room| Looked::Found(room.part)));
        }
        let parts = shelf.catalog.parts_of(self.segment).unwrap_or(0);
        let search = self.search.get_or_insert_with(|| PartSearch::new(room, parts, header.nonce));
        while let Some(offset) = search.page_offset() {
            let page = shelf.bytes(self.segment, LogFile::Index, offset..offset + PAGE_BYTES as u64)?;
            match search.take(offset, &page) {
                Searched::Found(part) => return Ok(Looked::Found(part)),
                Searched::Elsewhere => {}
                Searched::Absent => return Ok(Looked::Gone),
                Searched::Damaged => {
                    self.search = None;
                    return Err(doubtful_index(self.segment, offset));
                }
            }
        }
        Ok(Looked::Gone)
    }
}

/// The bytes at that place of an index did not check.
pub(super) fn doubtful_index(segment: u64, at: u64) -> Step {
    Step::Doubtful { segment, file: LogFile::Index, at, first: Sequence(0) }
}

/// On the way back from a room's newest part to the one that holds a place.
#[derive(Clone, Debug)]
pub(super) struct WayBack {
    look: Option<PartLook>,
    /// The part that was looked at last, and the last of its places that counts.
    at: Option<Place>,
    /// A part far before is being looked at.
    is_far: bool,
    /// A part that turned out to be too far before, so that nobody looks at it again.
    too_far: u64,
    /// Where the jump to the present part began: what lies right behind it was not looked at.
    jumped_from: Option<Place>,
    /// The parts behind, the nearest last.
    ahead: VecDeque<Place>,
}

/// A part, and the last of its places that counts: what a later part gave again is that one's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub segment: u64,
    pub part: Part,
    pub last: Sequence,
}

impl WayBack {
    pub(super) fn new() -> Self {
        WayBack { look: None, at: None, is_far: false, too_far: 0, jumped_from: None, ahead: VecDeque::new() }
    }

    /// Goes back until `is_found` says so of a part, or there is none before: then the oldest that is there.
    pub(super) fn go(
        &mut self,
        room: RoomId,
        shelf: Shelf<'_>,
        (target, may_jump): (Sequence, bool),
        is_found: impl Fn(&Place) -> bool,
    ) -> Result<Option<Place>, Step> {
        loop {
            if let Some(place) = self.at.filter(|place| self.look.is_none() && is_found(place)) {
                return Ok(Some(place));
            }
            let look = match &mut self.look {
                Some(look) => look,
                None => match self.next_segment(room, shelf, may_jump) {
                    Some(segment) => self.look.insert(PartLook::new(segment)),
                    None if self.step_back() => continue,
                    None => return Ok(self.at),
                },
            };
            let segment = look.segment;
            let looked = look.go(room, shelf)?;
            self.look = None;
            self.take(segment, looked, target);
        }
    }

    /// The segment to look into next: far before if that may still be behind the place, otherwise the one before.
    fn next_segment(&mut self, room: RoomId, shelf: Shelf<'_>, may_jump: bool) -> Option<u64> {
        let Some(place) = self.at else { return shelf.catalog.room(room).map(|room| room.newest_segment) };
        let chain = place.part.chain;
        self.is_far = may_jump && chain.far != 0 && chain.far != chain.before && chain.far != self.too_far;
        let next = if self.is_far { chain.far } else { chain.before };
        (next != 0 && next < place.segment).then_some(next)
    }

    /// A jump leads nowhere, since what is far before cannot be read: the way goes on part by part, and asks nothing of it.
    /// `false`: it was no jump.
    pub(super) fn leave_jump(&mut self) -> bool {
        let is_jump = self.is_far && self.look.is_some();
        if let Some(place) = self.at.filter(|_| is_jump) {
            (self.too_far, self.look, self.is_far) = (place.part.chain.far, None, false);
        }
        is_jump
    }

    /// The oldest part was found by a jump, and so nobody knows what a part behind it gave again: it is come to once more,
    /// part by part. `false`: it was not.
    fn step_back(&mut self) -> bool {
        let Some(from) = self.jumped_from.take() else { return false };
        self.too_far = self.at.map_or(0, |place| place.segment);
        self.at = Some(from);
        true
    }

    fn take(&mut self, segment: u64, looked: Looked, target: Sequence) {
        match (looked, self.at) {
            (Looked::Found(part), Some(_)) if self.is_far => {
                if part.first > target {
                    // Its successor is not known: what it may have given again is asked only of parts on the way.
                    self.ahead.clear();
                    self.jumped_from = self.at;
                    self.at = Some(Place { segment, part, last: part.last });
                } else {
                    self.too_far = segment;
                }
            }
            (Looked::Found(part), before) => {
                let given_again = |there: Place| there.part.first.previous().min(there.last);
                let last = before.map_or(part.last, |there| part.last.min(given_again(there)));
                self.jumped_from = None;
                if let Some(before) = before {
                    self.ahead.push_back(before);
                    if self.ahead.len() > AHEAD_MAX {
                        self.ahead.pop_front();
                    }
                }
                self.at = Some(Place { segment, part, last });
            }
            (Looked::Gone, Some(place)) if self.is_far => self.too_far = place.part.chain.far,
            (Looked::Gone, Some(place)) => {
                // Nothing is before it any more.
                let chain = crate::index::Chain { before: 0, far: 0, ..place.part.chain };
                self.at = Some(Place { part: Part { chain, ..place.part }, ..place });
            }
            (Looked::Gone, None) => {}
        }
    }

    /// The part right behind the one that was looked at last, if it was on the way.
    pub(super) fn behind(&self) -> Option<&Place> {
        self.ahead.back()
    }

    /// No part before the present one is looked for.
    pub(super) fn stay(&mut self) {
        self.look = None;
    }

    /// The parts on the way that are remembered.
    pub(super) fn ahead(&self) -> impl Iterator<Item = &Place> {
        self.ahead.iter()
    }

    /// The part that was looked at last.
    pub(super) fn at(&self) -> Option<&Place> {
        self.at.as_ref()
    }

    /// The part that holds that place, which is behind the present one, if it was on the way.
    pub(super) fn take_ahead(&mut self, next: Sequence) -> Option<Place> {
        while let Some(place) = self.ahead.pop_back() {
            if place.last >= next {
                return (place.part.first <= next).then_some(place);
            }
        }
        None
    }
}
