//! When the earlier starts of the server wrote: puts the times of what they wrote on the clock of this one.
//!
//! ```text
//!  as it was logged   ──[run 1]────────────────[run 2]──────────────[run 3, since start_ms ──▶
//!  on this clock                       [run 1][run 2][run 3 ──▶
//! ```
//!
//! Invariant: on the clock of this run every run ends where the next one begins. So no message grows older while no server
//! runs, nor by a wall clock that was wrong at a start: what was within a window when a server stopped is within it when
//! the next one begins, over any number of starts.

use std::collections::BTreeMap;

use crate::segment::SegmentHeader;

/// The starts of the server that a log was written by, before this one. One entry a start that left a segment.
#[derive(Debug, Default)]
pub struct Runs {
    earlier: BTreeMap<u64, Run>,
    start_ms: Option<u64>,
}

#[derive(Debug)]
struct Run {
    /// When its first segment was made.
    made_ms: u64,
    /// The time of its newest message.
    newest_ms: u64,
    /// From its newest message to the start of this run, without the time in which later runs wrote.
    stood_still_ms: u64,
}

impl Runs {
    /// Adds a segment of an earlier start, or a part of it, by the time of the newest message there.
    pub fn add(&mut self, segment: &SegmentHeader, newest_ms: u64) {
        let made_ms = segment.made_unix_ms;
        let run = self.earlier.entry(segment.run).or_insert(Run { made_ms, newest_ms, stood_still_ms: 0 });
        run.made_ms = run.made_ms.min(made_ms);
        run.newest_ms = run.newest_ms.max(newest_ms);
    }

    /// The time of the newest message, milliseconds since 1970; `None` if there is none.
    pub fn newest_ms(&self) -> Option<u64> {
        self.earlier.values().map(|run| run.newest_ms).max()
    }

    /// This run begins, at that time of its clock.
    pub fn begin(&mut self, start_ms: u64) {
        self.start_ms = Some(start_ms);
        let (mut next_start_ms, mut stood_still_ms) = (start_ms, 0_u64);
        for run in self.earlier.values_mut().rev() {
            stood_still_ms = stood_still_ms.saturating_add(next_start_ms.saturating_sub(run.newest_ms));
            run.stood_still_ms = stood_still_ms;
            next_start_ms = run.made_ms.min(run.newest_ms);
        }
    }

    /// When this run began; `None` if it was not said.
    pub fn start_ms(&self) -> Option<u64> {
        self.start_ms
    }

    /// A time that `run` wrote, on the clock of this run.
    pub fn clock_ms(&self, run: u64, logged_ms: u64) -> u64 {
        logged_ms.saturating_add(self.earlier.get(&run).map_or(0, |run| run.stood_still_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(runs: &mut Runs, run: u64, made_unix_ms: u64, newest_ms: u64) {
        runs.add(
            &SegmentHeader {
                id: run,
                nonce: 1,
                core: 0,
                class: crate::segment::Class::SERVER,
                run,
                made_unix_ms,
                file_bytes: 1,
            },
            newest_ms,
        );
    }

    /// Runs 1 and 2 of 10 and 100 ms, with a long pause before each of the three.
    fn runs() -> Runs {
        let mut runs = Runs::default();
        add(&mut runs, 1, 1_000, 1_004);
        add(&mut runs, 1, 1_005, 1_010);
        add(&mut runs, 2, 50_000, 50_100);
        add(&mut runs, 2, 50_090, 50_095);
        runs.begin(900_000);
        runs
    }

    #[test]
    fn the_time_between_two_starts_makes_nothing_older_over_any_number_of_them() {
        let runs = runs();
        assert_eq!((runs.newest_ms(), runs.start_ms()), (Some(50_100), Some(900_000)));
        assert_eq!(runs.clock_ms(2, 50_100), 900_000, "run 2 ends where this one begins");
        assert_eq!(runs.clock_ms(2, 50_000), 899_900);
        assert_eq!(runs.clock_ms(1, 1_010), 899_900, "run 1 ends where run 2 begins");
        assert_eq!(runs.clock_ms(1, 1_000), 899_890);
        assert_eq!(runs.clock_ms(3, 900_005), 900_005, "this run is on its own clock");
    }

    #[test]
    fn times_that_no_clock_made_are_no_fault() {
        let mut runs = Runs::default();
        add(&mut runs, 1, u64::MAX, 7);
        add(&mut runs, 2, 0, u64::MAX);
        add(&mut runs, 3, 9, 3);
        runs.begin(5);
        assert_eq!(runs.clock_ms(2, u64::MAX), u64::MAX);
        assert_eq!(runs.clock_ms(1, 7), 9);
        assert_eq!(runs.clock_ms(3, 3), 5);
    }
}
