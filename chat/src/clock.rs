//! The clock of a core's log: the wall clock for people, without its jumps.
//!
//! Invariants:
//! - It never goes back, and never jumps but to what a log says that comes to the core ([`LogClock::raise`]): from one turn to the next it goes on by the time that passed, also while the
//!   machine was suspended, give or take one part in [`SLEW_PARTS`], by which it comes nearer to the wall clock.
//! - It starts at no less than the largest time in the log, so no message is older than the one before it.
//!
//! Message times and dedupe windows go by it, and what a room's retention keeps. [`banter_log::runs`] puts the times of
//! earlier starts on it.

use crate::address::Now;

/// One part in so many of the time that passes is the most by which the clock comes nearer to the wall clock. A step of the
/// wall clock by an hour is made up for in ten hours, and nobody sees a second that is not about one.
pub const SLEW_PARTS: u64 = 10;

/// The clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogClock {
    /// Where it starts, if that was said.
    start_ms: Option<u64>,
    /// It starts at no less.
    least_ms: u64,
    /// Its time, and the monotonic time then; none before it was read first.
    at: Option<(u64, u64)>,
    /// Monotonic milliseconds that were not enough for one of slew.
    unslewed_ms: u64,
}

impl LogClock {
    /// A clock that starts at that time when it is read first; without one, at the wall clock's.
    pub fn new(start_ms: Option<u64>) -> Self {
        LogClock { start_ms, least_ms: 0, at: None, unslewed_ms: 0 }
    }

    /// Where a clock starts: behind the largest time in the log, whatever the wall clock says.
    pub fn start_behind(newest_ms: Option<u64>, unix_ms: u64) -> u64 {
        newest_ms.unwrap_or(0).max(unix_ms)
    }

    /// Goes on to now.
    pub fn advance(&mut self, now: Now) {
        let Some((time_ms, read_ms)) = self.at else {
            self.at = Some((self.start_ms.unwrap_or(now.unix_ms).max(self.least_ms), now.monotonic_ms));
            return;
        };
        let elapsed_ms = now.monotonic_ms.saturating_sub(read_ms);
        let unslewed_ms = self.unslewed_ms.saturating_add(elapsed_ms);
        let slew_ms_max = unslewed_ms / SLEW_PARTS;
        self.unslewed_ms = unslewed_ms % SLEW_PARTS;
        let steady_ms = time_ms.saturating_add(elapsed_ms);
        let slowest_ms = steady_ms.saturating_sub(slew_ms_max).max(time_ms);
        let slewed_ms = now.unix_ms.clamp(slowest_ms, steady_ms.saturating_add(slew_ms_max));
        self.at = Some((slewed_ms, read_ms.max(now.monotonic_ms)));
    }

    /// Is at no less than that from here on: a log came to which times were given up to there. Of its invariants that it never
    /// jumps does not hold here.
    pub fn raise(&mut self, least_ms: u64) {
        self.least_ms = self.least_ms.max(least_ms);
        self.at = self.at.map(|(time_ms, read_ms)| (time_ms.max(least_ms), read_ms));
    }

    /// So much passed that the monotonic time leaves out.
    pub fn pass(&mut self, ms: u64) {
        self.at = self.at.map(|(time_ms, read_ms)| (time_ms.saturating_add(ms), read_ms));
    }

    /// Its time, milliseconds since 1970; 0 before it was read first.
    pub fn time_ms(&self) -> u64 {
        self.at.map_or(0, |(time_ms, _)| time_ms)
    }

    /// What is no older than this is within a window of that length, milliseconds since 1970. Where the clock runs fast it
    /// passes more than the window while the window passes: nothing leaves it early.
    pub fn since_ms(&self, window_ms: u32) -> u64 {
        self.time_ms().saturating_sub(longest_ms(window_ms))
    }

    /// In how many milliseconds at the earliest something of that time leaves a window of that length.
    pub fn leaves_in_ms(&self, at_ms: u64, window_ms: u32) -> u64 {
        let left_ms = at_ms.saturating_add(longest_ms(window_ms)).saturating_sub(self.time_ms()).saturating_add(1);
        left_ms - left_ms / (SLEW_PARTS + 1)
    }
}

/// What the clock passes at most while a window passes.
fn longest_ms(window_ms: u32) -> u64 {
    u64::from(window_ms) + u64::from(window_ms).div_ceil(SLEW_PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL_MS: u64 = 1_700_000_000_000;

    fn started(start_ms: Option<u64>, unix_ms: u64) -> LogClock {
        let mut clock = LogClock::new(start_ms);
        clock.advance(Now { monotonic_ms: 50, unix_ms, ..Now::default() });
        clock
    }

    /// Turns of that length until so much has passed; the wall clock is off by that much.
    fn run(clock: &mut LogClock, from_ms: u64, for_ms: u64, turn_ms: u64, off_ms: i64) {
        for monotonic_ms in (from_ms..=from_ms + for_ms).step_by(turn_ms as usize) {
            let before_ms = clock.time_ms();
            let unix_ms = (WALL_MS + monotonic_ms).saturating_add_signed(off_ms);
            clock.advance(Now { monotonic_ms: 50 + monotonic_ms, unix_ms, ..Now::default() });
            let passed_ms = clock.time_ms().checked_sub(before_ms).expect("it never goes back");
            assert!(passed_ms <= turn_ms + turn_ms / SLEW_PARTS + 1, "{passed_ms} ms in a turn of {turn_ms}");
        }
    }

    #[test]
    fn it_starts_behind_the_log_and_at_the_wall_clock() {
        assert_eq!(LogClock::start_behind(Some(7), 9), 9);
        assert_eq!(LogClock::start_behind(Some(9), 7), 9);
        assert_eq!(LogClock::start_behind(None, 7), 7);
        assert_eq!(started(Some(5), 9).time_ms(), 5, "where it was told to");
        assert_eq!(started(None, 9).time_ms(), 9);
    }

    #[test]
    fn it_is_raised_to_what_a_log_says_that_comes_later_and_never_put_back() {
        for mut clock in [started(None, 1_000), LogClock::new(None)] {
            clock.raise(5_000);
            clock.raise(3_000);
            clock.advance(Now { monotonic_ms: 60, unix_ms: 1_000, ..Now::default() });
            assert!(clock.time_ms() >= 5_000, "{clock:?}");
        }
        let mut ahead = started(Some(9_000), 1_000);
        ahead.raise(5_000);
        assert_eq!(ahead.time_ms(), 9_000);
    }

    #[test]
    fn a_step_of_the_wall_clock_is_made_up_for_by_a_tenth_of_the_time_that_passes() {
        for off_ms in [400_000, -400_000] {
            for turn_ms in [1, 7, 60, 5_000] {
                let mut clock = started(None, WALL_MS);
                run(&mut clock, 0, 1_000_000, turn_ms, off_ms);
                let moved_ms = clock.time_ms().abs_diff(WALL_MS + 1_000_000);
                assert!(moved_ms.abs_diff(100_000) <= turn_ms + 10, "{moved_ms} in turns of {turn_ms}, by {off_ms}");
                run(&mut clock, 1_000_000, 3_500_000, turn_ms, off_ms);
                let behind_ms = clock.time_ms().abs_diff((WALL_MS + 4_500_000).saturating_add_signed(off_ms));
                assert!(behind_ms <= turn_ms, "it has come to the wall clock but for {behind_ms}");
            }
        }
    }

    #[test]
    fn what_is_younger_than_a_window_is_in_it_however_the_wall_clock_steps() {
        for off_ms in [400_000, -400_000, 0] {
            let mut clock = started(None, WALL_MS);
            run(&mut clock, 0, 10_000, 10, 0);
            let posted_ms = clock.time_ms();
            run(&mut clock, 10_000, 300_000, 10, off_ms);
            assert!(posted_ms >= clock.since_ms(300_000), "off by {off_ms}");
            run(&mut clock, 310_000, 67_000, 10, off_ms);
            assert!(posted_ms < clock.since_ms(300_000), "off by {off_ms}");
        }
    }

    #[test]
    fn nothing_leaves_a_window_before_it_is_said_to() {
        let mut clock = started(None, WALL_MS);
        for window_ms in [1_000, 300_000] {
            for off_ms in [400_000_i64, -400_000] {
                let (posted_ms, mut passed_ms) = (clock.time_ms(), 0);
                let mut monotonic_ms = clock.at.unwrap().1;
                loop {
                    let leaves_ms = clock.leaves_in_ms(posted_ms, window_ms);
                    monotonic_ms += leaves_ms;
                    passed_ms += leaves_ms;
                    let unix_ms = (WALL_MS + monotonic_ms).saturating_add_signed(off_ms);
                    clock.advance(Now { monotonic_ms: monotonic_ms - 1, unix_ms, ..Now::default() });
                    assert!(posted_ms >= clock.since_ms(window_ms), "{leaves_ms}");
                    clock.advance(Now { monotonic_ms, unix_ms, ..Now::default() });
                    if posted_ms < clock.since_ms(window_ms) {
                        break;
                    }
                }
                assert!(passed_ms < 2 * u64::from(window_ms), "{passed_ms}");
            }
        }
    }

    #[test]
    fn times_at_the_end_of_time_are_no_fault() {
        let mut clock = started(Some(u64::MAX), 0);
        clock.advance(Now { monotonic_ms: u64::MAX, unix_ms: 0, ..Now::default() });
        assert_eq!(clock.time_ms(), u64::MAX, "there is nothing behind, and no way back");
        clock.advance(Now { monotonic_ms: 3, unix_ms: u64::MAX, ..Now::default() });
        assert!(clock.since_ms(u32::MAX) > 0 && clock.leaves_in_ms(u64::MAX, u32::MAX) > 0);
        assert_eq!(LogClock::default().since_ms(1), 0);
    }
}
