//! Deadlines of one and the same distance: a queue, since what was set first is due first.

use std::collections::VecDeque;

/// Items that are due a fixed time after they were set. Setting and taking cost the same for any number of items;
/// an item that is no longer needed is told apart by its owner when it comes due.
#[derive(Debug)]
pub struct Timers<T> {
    queue: VecDeque<(u64, T)>,
    distance_ms: u64,
}

impl<T> Timers<T> {
    /// With that distance in milliseconds.
    pub fn new(distance_ms: u64) -> Self {
        Timers { queue: VecDeque::new(), distance_ms }
    }

    /// Sets an item.
    pub fn set(&mut self, item: T, now_ms: u64) {
        self.queue.push_back((now_ms + self.distance_ms, item));
    }

    /// Takes the next item that is due.
    pub fn take_due(&mut self, now_ms: u64) -> Option<T> {
        match self.queue.front() {
            Some((due, _)) if *due <= now_ms => self.queue.pop_front().map(|(_, item)| item),
            _ => None,
        }
    }

    /// When the next item is due, in milliseconds on the caller's clock.
    pub fn next_due(&self) -> Option<u64> {
        self.queue.front().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_due_in_order_and_not_early() {
        let mut timers = Timers::new(100);
        timers.set('a', 0);
        timers.set('b', 50);
        assert_eq!(timers.next_due(), Some(100));
        assert_eq!(timers.take_due(99), None);
        assert_eq!(timers.take_due(149), Some('a'));
        assert_eq!(timers.take_due(149), None);
        assert_eq!(timers.take_due(150), Some('b'));
        assert_eq!(timers.next_due(), None);
    }
}
