//! Deadlines of one and the same distance: a queue, since what was set first is due first.

use std::collections::VecDeque;

/// Items of a block. A queue of one piece would keep the length that it once had, and double it to grow: a quarter of what
/// an idle connection costs.
const BLOCK_ITEMS: usize = 256;

/// Items that are due a fixed time after they were set. Setting and taking cost the same for any number of items;
/// an item that is no longer needed is told apart by its owner when it comes due.
#[derive(Debug)]
pub struct Timers<T> {
    /// None of them is empty.
    blocks: VecDeque<VecDeque<(u64, T)>>,
    distance_ms: u64,
}

impl<T> Timers<T> {
    /// With that distance in milliseconds.
    pub fn new(distance_ms: u64) -> Self {
        Timers { blocks: VecDeque::new(), distance_ms }
    }

    /// Sets an item.
    pub fn set(&mut self, item: T, now_ms: u64) {
        let due = (now_ms + self.distance_ms, item);
        match self.blocks.back_mut() {
            Some(block) if block.len() < BLOCK_ITEMS => block.push_back(due),
            _ => {
                let mut block = VecDeque::with_capacity(BLOCK_ITEMS);
                block.push_back(due);
                self.blocks.push_back(block);
            }
        }
    }

    /// Takes the next item that is due.
    pub fn take_due(&mut self, now_ms: u64) -> Option<T> {
        let block = self.blocks.front_mut()?;
        if block.front().is_none_or(|(due, _)| *due > now_ms) {
            return None;
        }
        let (_, item) = block.pop_front()?;
        if block.is_empty() {
            self.blocks.pop_front();
        }
        Some(item)
    }

    /// When the next item is due, in milliseconds on the caller's clock.
    pub fn next_due(&self) -> Option<u64> {
        self.blocks.front().and_then(VecDeque::front).map(|(due, _)| *due)
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

    #[test]
    fn many_items_keep_their_order_and_leave_nothing_behind() {
        let mut timers = Timers::new(10);
        let many = 3 * BLOCK_ITEMS as u64;
        for now_ms in 0..many {
            timers.set(now_ms, now_ms);
            if now_ms % 3 == 0 {
                assert_eq!(timers.take_due(u64::MAX), Some(now_ms / 3));
            }
        }
        assert_eq!(timers.next_due(), Some(many / 3 + 10));
        for item in many / 3..many {
            assert_eq!(timers.take_due(u64::MAX), Some(item));
        }
        assert!(timers.blocks.is_empty() && timers.take_due(u64::MAX).is_none());
    }
}
