//! The clock of a core's turns, which does not see that the server itself stood still.
//!
//! Invariant: between two turns it goes on by what elapsed, but not beyond the time that the core meant to wake at and
//! [`SLACK_MS`]. So no timer comes due for a time in which the core could not have heard the peer that it judges; and
//! the turn that finds a stall reads what waits in the sockets before it judges any (`Pump::turn`).

/// Milliseconds that a core may wake late, or a turn take, without its being a stall: a busy machine's scheduler, a room
/// of ten thousand. Half of the shortest quarter of an `idle_timeout_ms`.
pub const SLACK_MS: u64 = 125;

/// The clock.
#[derive(Debug, Default)]
pub struct TurnClock {
    now_ms: u64,
    /// What the host's clock said at the last turn.
    elapsed_ms: u64,
    sleep: Sleep,
}

/// What the core was about to do behind its last turn.
#[derive(Clone, Copy, Debug, Default)]
enum Sleep {
    /// The next turn at once.
    #[default]
    None,
    Until(u64),
    /// Nothing is due.
    Endless,
}

/// The time of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Milliseconds on this clock.
    pub now_ms: u64,
    /// The server stood still before this turn.
    pub was_stalled: bool,
}

impl TurnClock {
    /// A turn begins, so many milliseconds after the start by a clock that never goes back.
    pub fn tick(&mut self, elapsed_ms: u64) -> Tick {
        let exact_ms = self.now_ms + elapsed_ms.saturating_sub(self.elapsed_ms);
        let latest_ms = match std::mem::take(&mut self.sleep) {
            Sleep::None => self.now_ms + SLACK_MS,
            Sleep::Until(due_ms) => due_ms.max(self.now_ms) + SLACK_MS,
            Sleep::Endless => exact_ms,
        };
        self.elapsed_ms = elapsed_ms;
        self.now_ms = exact_ms.min(latest_ms);
        Tick { now_ms: self.now_ms, was_stalled: exact_ms > latest_ms }
    }

    /// The core sleeps until that time on this clock, if nothing happens before.
    pub fn sleeps_until(&mut self, due_ms: Option<u64>) {
        self.sleep = due_ms.map_or(Sleep::Endless, Sleep::Until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(now_ms: u64, was_stalled: bool) -> Tick {
        Tick { now_ms, was_stalled }
    }

    fn at(now_ms: u64) -> TurnClock {
        let mut clock = TurnClock::default();
        clock.sleeps_until(None);
        assert_eq!(clock.tick(now_ms), tick(now_ms, false));
        clock
    }

    #[test]
    fn turns_and_sleeps_that_end_in_time_take_the_time_that_they_took() {
        let mut clock = TurnClock::default();
        assert_eq!(clock.tick(7), tick(7, false));
        assert_eq!(clock.tick(7 + SLACK_MS), tick(7 + SLACK_MS, false));
        clock.sleeps_until(Some(60_000));
        assert_eq!(clock.tick(30_000), tick(30_000, false));
        clock.sleeps_until(Some(60_000));
        assert_eq!(clock.tick(60_000 + SLACK_MS), tick(60_000 + SLACK_MS, false));
        clock.sleeps_until(None);
        assert_eq!(clock.tick(9_000_000), tick(9_000_000, false));
    }

    #[test]
    fn a_stall_in_a_sleep_brings_no_timer_due_but_those_that_it_meant_to_wake_for() {
        let mut clock = at(1_000);
        clock.sleeps_until(Some(1_250));
        assert_eq!(clock.tick(50_000), tick(1_250 + SLACK_MS, true));
        assert_eq!(clock.tick(50_010), tick(1_260 + SLACK_MS, false), "and goes on from there");
    }

    #[test]
    fn a_stall_in_a_turn_is_a_stall_too() {
        let mut clock = at(1_000);
        assert_eq!(clock.tick(9_000), tick(1_000 + SLACK_MS, true));
        // In a sleep for something that was due already.
        clock.sleeps_until(Some(500));
        assert_eq!(clock.tick(9_000 + SLACK_MS + 1), tick(1_000 + 2 * SLACK_MS, true));
    }

    #[test]
    fn it_never_goes_back() {
        let mut clock = at(1_000);
        assert_eq!(clock.tick(900), tick(1_000, false));
    }
}
