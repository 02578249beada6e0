//! What waits for one log: rooms that have something for it, and the commit that is in flight.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use banter_log::segment::Class;

use super::open::Open;
use super::states::States;

/// The queue of a log.
#[derive(Debug, Default)]
pub(super) struct LogQueue {
    /// Rooms whose queue holds something, in turn, by their retention class.
    pub(super) rooms: BTreeMap<Class, VecDeque<usize>>,
    pub(super) flight: Flight,
    /// When something was committed last, in the turns' milliseconds.
    pub(super) last_ms: u64,
    /// Classes that wait for a segment, and since when, in the turns' milliseconds.
    pub(super) waiting_since_ms: BTreeMap<Class, u64>,
    /// When something came to the queue of which room, where it waits for so long at most: hints, in order.
    pub(super) arrivals: VecDeque<(u64, usize)>,
    /// As it stands among the core's logs with something due.
    pub(super) due_ms: Option<u64>,
}

/// The commit in flight, or what was gathered for it.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub(super) open: VecDeque<(usize, Open)>,
    pub(super) bytes: usize,
    /// Posts and states in it.
    pub(super) records: usize,
    /// What rooms with a state say of it.
    pub(super) states: States,
    pub(super) class: Class,
    pub(super) is_begun: bool,
    /// Since when somebody waits for something of it, in the turns' milliseconds.
    pub(super) waits_since_ms: Option<u64>,
    /// When it began, in the turns' microseconds.
    pub(super) since_us: u64,
}

impl LogQueue {
    /// Something came to the queue of a room, for which somebody waits.
    pub(super) fn arrived(&mut self, at_ms: u64, slot: usize) {
        if self.arrivals.back() != Some(&(at_ms, slot)) {
            self.arrivals.push_back((at_ms, slot));
        }
    }

    /// The class whose turn it is among those that have something queued.
    pub(super) fn next_class(&self) -> Option<Class> {
        let queued = |(class, rooms): (&Class, &VecDeque<usize>)| (!rooms.is_empty()).then_some(*class);
        let behind = (Bound::Excluded(self.flight.class), Bound::Unbounded);
        let next = self.rooms.range(behind).find_map(queued);
        next.or_else(|| self.rooms.iter().find_map(queued))
    }
}

impl Flight {
    pub(super) fn push(&mut self, slot: usize, open: Open) {
        self.bytes += open.bytes();
        self.records += usize::from(open.is_record());
        self.waits_since_ms = self.waits_since_ms.into_iter().chain(open.waits_since_ms()).min();
        self.open.push_back((slot, open));
    }

    /// Whose turn it was is remembered.
    pub(super) fn take(&mut self) -> VecDeque<(usize, Open)> {
        let class = self.class;
        std::mem::replace(self, Flight { class, ..Flight::default() }).open
    }
}
