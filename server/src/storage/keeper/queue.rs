//! What the keeper has to do, the most pressing first: a writer that has no segment waits for nothing else.

use std::collections::VecDeque;
use std::time::Duration;

use super::kept::Writer;

/// How much a wish presses, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pressure {
    /// Posts wait, or the writer has no segment.
    Waits,
    /// It fills the last that it has, and wants more than one.
    RunsOut,
    /// It has only the one that it writes to.
    HasOne,
    /// It has one ahead: anything else comes first.
    None,
}

/// A core's wish for a segment of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Who writes to it.
    pub writer: Writer,
    /// Posts wait for it.
    pub is_urgent: bool,
    /// How long the writer's last one lasted; `None`: it has filled none yet.
    pub lasted: Option<Duration>,
}

/// What the keeper does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Job<C> {
    /// Make a segment.
    Make(Wish),
    /// Anything else, in the order in which it came.
    Chore(C),
}

/// The queue. As long as the writers have wishes and sealed segments; they ask no more than that.
#[derive(Debug)]
pub(super) struct Queue<C> {
    wishes: VecDeque<Wish>,
    chores: VecDeque<C>,
}

impl<C> Default for Queue<C> {
    fn default() -> Self {
        Queue { wishes: VecDeque::new(), chores: VecDeque::new() }
    }
}

impl<C> Queue<C> {
    /// A core wants a segment.
    pub fn wish(&mut self, wish: Wish) {
        self.wishes.push_back(wish);
    }

    /// Something is to be done.
    pub fn chore(&mut self, chore: C) {
        self.chores.push_back(chore);
    }

    /// Nobody wants a segment any more.
    pub fn end_wishes(&mut self) {
        self.wishes.clear();
    }

    /// Whether somebody waits for a segment; `stock` says how many a writer has, and `making` who gets the one that is
    /// being made.
    pub fn is_pressing(&self, stock: impl Fn(Writer) -> usize, making: Option<Writer>) -> bool {
        self.wishes.iter().any(|wish| self.pressure(wish, stock(wish.writer), making) <= Pressure::RunsOut)
    }

    /// What to do next. Of the writers the one that has the least.
    pub fn next(&mut self, stock: impl Fn(Writer) -> usize) -> Option<Job<C>> {
        let of = |wish: &Wish| (self.pressure(wish, stock(wish.writer), None), stock(wish.writer));
        let most = self.wishes.iter().map(of).enumerate().min_by_key(|&(at, pressure)| (pressure, at));
        if let Some((at, _)) = most.filter(|(_, (pressure, _))| *pressure < Pressure::None || self.chores.is_empty()) {
            return self.wishes.remove(at).map(Job::Make);
        }
        self.chores.pop_front().map(Job::Chore)
    }

    fn pressure(&self, wish: &Wish, stock: usize, making: Option<Writer>) -> Pressure {
        let wishes = self.wishes.iter().map(|other| other.writer).chain(making);
        match stock {
            _ if wish.is_urgent => Pressure::Waits,
            0 => Pressure::Waits,
            1 if wishes.filter(|&other| other == wish.writer).count() > 1 => Pressure::RunsOut,
            1 => Pressure::HasOne,
            _ => Pressure::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use banter_chat::address::Core;
    use banter_log::segment::Class;

    use super::*;

    fn writer(core: u16) -> Writer {
        Writer { core: Core(core), class: Class::SERVER }
    }

    fn wish(core: u16) -> Wish {
        Wish { writer: writer(core), is_urgent: false, lasted: None }
    }

    /// What is done, with that many segments of each core at the beginning.
    fn done(queue: &mut Queue<char>, mut stock: [usize; 3]) -> String {
        let mut done = String::new();
        while let Some(job) = queue.next(|writer| stock[writer.core.index()]) {
            match job {
                Job::Make(wish) => {
                    stock[wish.writer.core.index()] += 1;
                    done.push_str(&wish.writer.core.0.to_string());
                }
                Job::Chore(name) => done.push(name),
            }
        }
        done
    }

    fn queue(cores: &[u16]) -> Queue<char> {
        let mut queue = Queue::default();
        cores.iter().for_each(|&core| queue.wish(wish(core)));
        "ab".chars().for_each(|name| queue.chore(name));
        queue
    }

    #[test]
    fn a_writer_without_a_segment_comes_ahead_of_all_and_one_with_enough_behind_all() {
        assert_eq!(done(&mut queue(&[0, 1, 2]), [2, 1, 0]), "21ab0");
        assert_eq!(done(&mut queue(&[0, 0, 1, 1, 2, 2]), [0, 0, 0]), "012012ab");
        assert_eq!(done(&mut queue(&[0, 0, 1, 1]), [2, 2, 2]), "ab0101");
    }

    #[test]
    fn posts_that_wait_come_ahead_of_all() {
        let mut queue = queue(&[0, 1]);
        queue.wish(Wish { is_urgent: true, ..wish(2) });
        assert_eq!(done(&mut queue, [1, 0, 5]), "120ab");
    }

    #[test]
    fn a_second_wish_of_a_writer_with_one_left_presses() {
        assert_eq!(done(&mut queue(&[1, 0, 0]), [1, 1, 1]), "01ab0");
        let one = queue(&[0]);
        assert!(!one.is_pressing(|_| 1, Some(writer(1))) && one.is_pressing(|_| 1, Some(writer(0))));
        assert!(!one.is_pressing(|_| 2, Some(writer(0))));
    }

    #[test]
    fn only_a_writer_without_any_presses_and_nobody_once_the_cores_have_ended() {
        assert!(queue(&[0]).is_pressing(|_| 0, None) && !queue(&[0, 1]).is_pressing(|_| 1, None));
        let mut queue = queue(&[0]);
        queue.end_wishes();
        assert!(!queue.is_pressing(|_| 0, None));
        assert_eq!(done(&mut queue, [0, 0, 0]), "ab");
    }
}
