//! When the posts of an open loop are meant to be sent, without drift.

use std::time::Duration;

const NANOSECONDS_PER_S: u128 = 1_000_000_000;

/// Evenly spaced posts. Each time is computed from the post's number, so no rounding adds up.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    posts_per_s: u64,
    next: u64,
}

impl Schedule {
    /// A schedule that starts with post 0 at time nothing.
    pub fn new(posts_per_s: u64) -> Self {
        Schedule { posts_per_s: posts_per_s.max(1), next: 0 }
    }

    /// When the next post is meant to be sent, from the start on.
    pub fn next_at(&self) -> Duration {
        let nanoseconds = u128::from(self.next) * NANOSECONDS_PER_S / u128::from(self.posts_per_s);
        Duration::from_nanos(nanoseconds as u64)
    }

    /// Leaves out what was meant to be sent before that time.
    pub fn skip_to(&mut self, now: Duration) {
        let passed = (now.as_nanos() * u128::from(self.posts_per_s)).div_ceil(NANOSECONDS_PER_S);
        self.next = self.next.max(passed as u64);
    }

    /// The next post that is due, with its number and the time at which it was meant to be sent, however late it is.
    pub fn take_due(&mut self, now: Duration) -> Option<(u64, Duration)> {
        let at = self.next_at();
        if at > now {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some((number, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_divides_no_second_does_not_drift() {
        for posts_per_s in [1, 3, 7, 999, 1_000_003, 40_000_000] {
            let mut schedule = Schedule::new(posts_per_s);
            schedule.next = posts_per_s * 3600;
            assert_eq!(schedule.next_at(), Duration::from_secs(3600));
        }
    }

    #[test]
    fn a_second_holds_as_many_posts_as_the_rate_says() {
        let mut schedule = Schedule::new(333);
        let mut before = Duration::ZERO;
        let mut taken = 0;
        while let Some((number, at)) = schedule.take_due(Duration::from_nanos(999_999_999)) {
            assert_eq!(number, taken);
            assert!(at >= before && at - before <= Duration::from_nanos(3_003_004), "evenly");
            (before, taken) = (at, taken + 1);
        }
        assert_eq!(taken, 333);
        assert_eq!(schedule.next_at(), Duration::from_secs(1));
    }

    #[test]
    fn what_is_skipped_is_not_made_up_for_and_nothing_comes_twice() {
        let mut schedule = Schedule::new(10);
        schedule.skip_to(Duration::from_millis(150));
        assert_eq!(schedule.take_due(Duration::from_millis(250)), Some((2, Duration::from_millis(200))));
        schedule.skip_to(Duration::from_millis(200));
        assert_eq!(schedule.next_at(), Duration::from_millis(300));
        schedule.skip_to(Duration::from_millis(300));
        assert_eq!(schedule.next_at(), Duration::from_millis(300), "what is meant for now is not left out");
    }

    #[test]
    fn a_late_generator_keeps_the_intended_times() {
        let mut schedule = Schedule::new(10);
        assert_eq!(schedule.take_due(Duration::ZERO), Some((0, Duration::ZERO)));
        assert_eq!(schedule.take_due(Duration::from_millis(99)), None);
        let late = Duration::from_secs(5);
        assert_eq!(schedule.take_due(late), Some((1, Duration::from_millis(100))));
        assert_eq!(schedule.take_due(late), Some((2, Duration::from_millis(200))));
    }
}
