//! How far the log of a core is committed, for who reads its files from outside.
//!
//! Invariant: up to an end that is told, all that lies in the segment has reached the level of its room. A commit of rooms of both
//! levels counts when it is on the disk, so that no place within a block is ever told.

use std::collections::BTreeMap;

use super::Journal;
use crate::block::BlockPlace;

/// Up to where a segment of this run is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEnd {
    /// The segment.
    pub segment: u64,
    /// Where the last block ends whose commit came to a good end.
    pub end_offset: u64,
    /// Nothing is written to it any more.
    pub is_sealed: bool,
}

/// Where a core's log is. Of its sealed segments those that have no index on the disk yet: the others' say where they end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPlaces {
    /// Grows with each change of the ends.
    pub version: u64,
    /// Segments with something in them, by their ids.
    pub ends: Vec<SegmentEnd>,
}

/// What a journal remembers of it: an entry for each class that it writes, and for each index on its way.
#[derive(Debug, Default)]
pub(super) struct Places {
    version: u64,
    ends: BTreeMap<u64, SegmentEnd>,
}

impl Places {
    /// A commit came to a good end, behind which that is the next place.
    pub(super) fn reached(&mut self, behind: &BlockPlace) {
        let (segment, end_offset) = (behind.segment.id, behind.offset);
        self.version += 1;
        self.ends.insert(segment, SegmentEnd { segment, end_offset, is_sealed: false });
    }

    /// A segment is written to no more. What the last commit left there without a good end does not count.
    pub(super) fn sealed(&mut self, segment: u64) {
        if let Some(end) = self.ends.get_mut(&segment) {
            end.is_sealed = true;
            self.version += 1;
        }
    }

    /// Its index is on the disk, or it is gone.
    pub(super) fn indexed(&mut self, segment: u64) {
        if self.ends.get(&segment).is_some_and(|end| end.is_sealed) {
            self.ends.remove(&segment);
        }
    }
}

impl Journal {
    /// Changes whenever [`Journal::places`] says something new.
    pub fn places_version(&self) -> u64 {
        self.places.version
    }

    /// Up to where the segments of this run are committed.
    pub fn places(&self) -> LogPlaces {
        LogPlaces { version: self.places.version, ends: self.places.ends.values().copied().collect() }
    }
}
