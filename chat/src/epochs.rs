//! The epochs that a core may give: its share of the server's numbers, up to where the server has kept that they may have
//! been given.
//!
//! Invariant: none is given at or above the end, since the next start may begin there.

use banter_protocol::ids::Epoch;

/// A core's epochs. Cores count in turn, so that no two of them give the same one.
#[derive(Clone, Debug)]
pub struct Epochs {
    next: u64,
    step: u64,
    end: u64,
    /// From here on more are wanted.
    half: u64,
    has_asked: bool,
}

impl Epochs {
    /// From `first` on, each `step` above the one before, and all below `end`.
    pub fn new(first: Epoch, step: u64, end: Epoch) -> Self {
        let mut epochs = Epochs { next: first.0, step, end: first.0, half: 0, has_asked: false };
        epochs.extend(end);
        epochs
    }

    /// Others than before: from `first` on and below `end`.
    pub fn begin(&mut self, first: Epoch, end: Epoch) {
        *self = Epochs::new(first, self.step, end);
    }

    /// The next one; `None`: until there are more.
    pub fn take(&mut self) -> Option<Epoch> {
        let epoch = self.next;
        if epoch >= self.end {
            return None;
        }
        self.next = epoch.saturating_add(self.step);
        Some(Epoch(epoch))
    }

    /// The server has kept that all below `end` may be given.
    pub fn extend(&mut self, end: Epoch) {
        if end.0 > self.end {
            self.end = end.0;
            self.half = self.next + end.0.saturating_sub(self.next) / 2;
            self.has_asked = false;
        }
    }

    /// Whether the server is to be asked for more: once, when half of them are given.
    pub fn asks_for_more(&mut self) -> bool {
        let asks = self.next >= self.half && !self.has_asked;
        self.has_asked |= asks;
        asks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(epochs: &mut Epochs) -> Vec<u64> {
        std::iter::from_fn(|| epochs.take()).map(|epoch| epoch.0).collect()
    }

    #[test]
    fn none_is_given_beyond_the_end_until_it_moves() {
        let mut epochs = Epochs::new(Epoch(101), 3, Epoch(110));
        assert_eq!(taken(&mut epochs), [101, 104, 107]);
        assert_eq!(epochs.take(), None);
        epochs.extend(Epoch(120));
        assert_eq!(taken(&mut epochs), [110, 113, 116, 119]);
    }

    #[test]
    fn others_begin_where_they_are_told_to_whatever_was_given_before() {
        let mut epochs = Epochs::new(Epoch(101), 3, Epoch(110));
        epochs.take();
        epochs.begin(Epoch(50), Epoch(54));
        assert_eq!(taken(&mut epochs), [50, 53]);
    }

    #[test]
    fn more_are_asked_for_once_when_half_are_given_and_again_behind_an_extension() {
        let mut epochs = Epochs::new(Epoch(0), 1, Epoch(10));
        let mut asked_at = Vec::new();
        for number in 0..10 {
            if epochs.asks_for_more() {
                asked_at.push(number);
            }
            epochs.take().unwrap();
        }
        assert_eq!(asked_at, [5]);
        epochs.extend(Epoch(30));
        assert!(!epochs.asks_for_more(), "there are twenty more");
        assert_eq!((0..10).filter_map(|_| epochs.take()).count(), 10);
        assert!(epochs.asks_for_more());
        epochs.extend(Epoch(20));
        assert!(!epochs.asks_for_more(), "an end that is no later is none, and it is asked already");
    }
}
