//! A lane between two simulated cores, which delays what it carries.

use std::collections::VecDeque;

/// What is under way, and the turn in which it comes.
pub(super) struct Lane<T> {
    parcels: VecDeque<(u64, T)>,
}

pub(super) fn lanes<T>(cores: u16) -> Vec<Vec<Lane<T>>> {
    (0..cores).map(|_| (0..cores).map(|_| Lane { parcels: VecDeque::new() }).collect()).collect()
}

impl<T> Lane<T> {
    /// A lane keeps its order: nothing arrives before what was put in earlier.
    pub(super) fn put(&mut self, parcel: T, due: u64, size: usize) {
        assert!(self.parcels.len() < size, "a parcel was sent into a full lane");
        let due = due.max(self.parcels.back().map_or(0, |(due, _)| *due));
        self.parcels.push_back((due, parcel));
    }

    pub(super) fn len(&self) -> usize {
        self.parcels.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    pub(super) fn has_some(&self, turn: u64) -> bool {
        self.parcels.front().is_some_and(|(due, _)| *due <= turn)
    }

    pub(super) fn take(&mut self, turn: u64) -> Option<T> {
        match self.parcels.front() {
            Some((due, _)) if *due <= turn => self.parcels.pop_front().map(|(_, parcel)| parcel),
            _ => None,
        }
    }
}
