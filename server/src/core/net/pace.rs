//! How many connections a core takes, and when: so many a millisecond, whatever its turns are like.
//!
//! Invariant: in any time a core takes at most [`ACCEPTS_A_MS`] connections for each millisecond of it, and what
//! [`SAVED_MS_MAX`] allow; and it takes as many, if they are there, also where a turn is tens of milliseconds long.

/// Connections that a core takes in a millisecond. Each comes with several requests, some 20 µs of work, behind which a
/// live post waits, since the kernel hands them over in their order: so a crowd has a fifth of a core, and five hundred
/// are there within 50 ms.
pub const ACCEPTS_A_MS: u64 = 10;
/// Milliseconds of which accepts are saved up: the length of a turn that fans out to thousands. A crowd that meets a core
/// at rest delays it once by what they allow, some milliseconds.
pub const SAVED_MS_MAX: u64 = 20;
/// Accepts in flight while there is no crowd.
pub const ACCEPTS_AT_REST: u32 = 2;

const ACCEPT_US: u64 = 1_000 / ACCEPTS_A_MS;

/// The pace of one core.
#[derive(Debug)]
pub struct AcceptPace {
    saved_us: u64,
    at_us: u64,
}

impl Default for AcceptPace {
    fn default() -> Self {
        AcceptPace { saved_us: u64::from(ACCEPTS_AT_REST) * ACCEPT_US, at_us: 0 }
    }
}

impl AcceptPace {
    /// How many more accepts to begin, where so many are in flight, on a clock of microseconds. All of them being used is
    /// what shows a crowd.
    pub fn more(&mut self, in_flight: u32, now_us: u64) -> u32 {
        let grown_us = now_us.saturating_sub(self.at_us);
        self.at_us = now_us.max(self.at_us);
        self.saved_us = (self.saved_us + grown_us).min(SAVED_MS_MAX * 1_000);
        let allowed = (self.saved_us / ACCEPT_US) as u32;
        let more = if in_flight == 0 { allowed } else { allowed.min(ACCEPTS_AT_REST.saturating_sub(in_flight)) };
        self.saved_us -= u64::from(more) * ACCEPT_US;
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of a crowd without end are taken in that time, with turns of that length.
    fn taken(pace: &mut AcceptPace, from_us: u64, for_us: u64, turn_us: u64) -> u64 {
        let turns = (from_us..from_us + for_us).step_by(turn_us as usize);
        turns.map(|now_us| u64::from(pace.more(0, now_us))).sum()
    }

    #[test]
    fn a_crowd_is_taken_at_the_same_pace_whether_turns_are_short_or_long() {
        const SECOND_US: u64 = 1_000_000;
        for turn_us in [20, 100, 1_000, 3_000, 20_000] {
            let mut pace = AcceptPace::default();
            taken(&mut pace, 0, SECOND_US, turn_us);
            let taken = taken(&mut pace, SECOND_US, SECOND_US, turn_us);
            assert!((9_800..=10_000).contains(&taken), "{taken} with turns of {turn_us} µs");
        }
    }

    #[test]
    fn five_hundred_are_taken_in_tens_of_milliseconds_where_a_turn_is_as_long() {
        let mut pace = AcceptPace::default();
        assert!(taken(&mut pace, 36_000, 3 * 36_000, 36_000) >= 500);
    }

    #[test]
    fn a_crowd_that_meets_a_core_at_rest_is_taken_by_what_was_saved_and_no_more() {
        let mut pace = AcceptPace::default();
        assert_eq!(pace.more(0, 60_000_000), (SAVED_MS_MAX * ACCEPTS_A_MS) as u32);
        assert_eq!(pace.more(0, 60_000_050), 0);
        assert_eq!(pace.more(0, 60_000_100), 1);
    }

    #[test]
    fn at_rest_a_few_are_in_flight() {
        let mut pace = AcceptPace::default();
        assert_eq!(pace.more(0, 0), ACCEPTS_AT_REST);
        assert_eq!((pace.more(1, 1_000_000), pace.more(2, 2_000_000), pace.more(200, 3_000_000)), (1, 0, 0));
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_earns_nothing() {
        let mut pace = AcceptPace::default();
        pace.more(0, 5_000_000);
        assert_eq!((pace.more(0, 4_000_000), pace.more(0, 5_000_000)), (0, 0));
    }
}
