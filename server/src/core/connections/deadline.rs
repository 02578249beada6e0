//! A deadline for something that many connections begin and few are slow with: one look at a time is set for each that is
//! under way, a quarter of the timeout ahead, so that beginning and ending it costs nothing.
//!
//! Invariant: what went on less than the timeout ago is never late, and what stands still is found late after five
//! quarters of it at most.

use banter_chat::address::ConnectionId;
use banter_chat::timers::Timers;

/// The deadline, for all connections of a core.
#[derive(Debug)]
pub struct Deadline {
    timeout_ms: u32,
    looks: Timers<ConnectionId>,
}

/// Where one connection stands with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnderWay {
    /// When it began or last went on: the low half of the clock, which lasts for 49 days.
    since_ms: u32,
    is_going: bool,
    /// A look at it is set.
    is_watched: bool,
}

impl Deadline {
    /// With that timeout in milliseconds; 0 = none.
    pub fn new(timeout_ms: u32) -> Self {
        Deadline { timeout_ms, looks: Timers::new(u64::from(timeout_ms) / 4) }
    }

    /// It is under way from now on, if it was not before.
    pub fn begin(&mut self, under_way: &mut UnderWay, id: ConnectionId, now_ms: u64) {
        if self.timeout_ms == 0 || under_way.is_going {
            return;
        }
        (under_way.is_going, under_way.since_ms) = (true, now_ms as u32);
        if !under_way.is_watched {
            under_way.is_watched = true;
            self.looks.set(id, now_ms);
        }
    }

    /// Takes a connection that is to be looked at: see [`Deadline::is_late`].
    pub fn take_due(&mut self, now_ms: u64) -> Option<ConnectionId> {
        self.looks.take_due(now_ms)
    }

    /// Whether one that was taken is late. If not, and it is still under way, it will be looked at again.
    pub fn is_late(&mut self, under_way: &mut UnderWay, id: ConnectionId, now_ms: u64) -> bool {
        let is_late = under_way.is_going && (now_ms as u32).wrapping_sub(under_way.since_ms) >= self.timeout_ms;
        under_way.is_watched = under_way.is_going && !is_late;
        if under_way.is_watched {
            self.looks.set(id, now_ms);
        }
        is_late
    }

    /// When somebody is to be looked at, in milliseconds on the caller's clock.
    pub fn next_due(&self) -> Option<u64> {
        self.looks.next_due()
    }
}

impl UnderWay {
    /// It went on.
    pub fn goes_on(&mut self, now_ms: u64) {
        self.since_ms = now_ms as u32;
    }

    /// It is over.
    pub fn end(&mut self) {
        self.is_going = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ConnectionId = ConnectionId { slot: 3, generation: 7 };

    /// Looks when it is due until that time; says when it was late.
    fn late_at(deadline: &mut Deadline, under_way: &mut UnderWay, until_ms: u64) -> Option<u64> {
        while let Some(due_ms) = deadline.next_due().filter(|&due_ms| due_ms <= until_ms) {
            while let Some(id) = deadline.take_due(due_ms) {
                if deadline.is_late(under_way, id, due_ms) {
                    return Some(due_ms);
                }
            }
        }
        None
    }

    #[test]
    fn what_stands_still_is_late_and_what_goes_on_is_not() {
        let (mut deadline, mut under_way) = (Deadline::new(1_000), UnderWay::default());
        deadline.begin(&mut under_way, ID, 100);
        for now_ms in (500..5_000).step_by(500) {
            assert_eq!(late_at(&mut deadline, &mut under_way, now_ms), None);
            deadline.begin(&mut under_way, ID, now_ms);
            under_way.goes_on(now_ms);
        }
        let late_ms = late_at(&mut deadline, &mut under_way, 10_000).unwrap();
        assert!((5_500..=5_750).contains(&late_ms), "{late_ms}");
        assert_eq!(deadline.next_due(), None);
    }

    #[test]
    fn however_often_it_begins_and_ends_one_look_is_set() {
        let (mut deadline, mut under_way) = (Deadline::new(1_000), UnderWay::default());
        for now_ms in 0..200 {
            deadline.begin(&mut under_way, ID, now_ms);
            under_way.end();
        }
        assert_eq!((deadline.take_due(250), deadline.take_due(10_000)), (Some(ID), None));
        assert!(!deadline.is_late(&mut under_way, ID, 250));
        assert_eq!(deadline.next_due(), None, "and none for what is over");
        // From a second beginning the time counts anew.
        deadline.begin(&mut under_way, ID, 2_000);
        assert_eq!(late_at(&mut deadline, &mut under_way, 2_999), None);
        assert_eq!(late_at(&mut deadline, &mut under_way, 3_000), Some(3_000));
    }

    #[test]
    fn a_begin_while_it_is_under_way_gives_no_more_time() {
        let (mut deadline, mut under_way) = (Deadline::new(1_000), UnderWay::default());
        (0..1_000).step_by(100).for_each(|now_ms| deadline.begin(&mut under_way, ID, now_ms));
        assert_eq!(late_at(&mut deadline, &mut under_way, 1_000), Some(1_000));
    }

    #[test]
    fn a_timeout_of_0_is_none() {
        let (mut deadline, mut under_way) = (Deadline::new(0), UnderWay::default());
        deadline.begin(&mut under_way, ID, 0);
        assert_eq!(deadline.next_due(), None);
    }
}
