//! When the clients of a stopping server are told to come back: spread over a time that follows their number.
//!
//! Invariant: of one core's clients no more come back in a second than [`RECONNECTS_PER_SECOND`], up to the number at
//! which [`SPREAD_MS_MAX`] is reached.

/// Milliseconds that a server is given to start again before anybody comes back.
const RECONNECT_AFTER_MS_MIN: u64 = 500;
/// Connections a second that one core of a server which has just started takes in comfort, each with its joins and what
/// it missed: about half of what it was measured to (10,000 at once with 1,000 messages each were through in 2.6 s).
const RECONNECTS_PER_SECOND: u64 = 2_000;
/// The shortest spread, in milliseconds: also a few clients need not come in one moment.
const SPREAD_MS_MIN: u64 = 500;
/// The longest spread, in milliseconds: nobody is sent away for longer, however many there are.
const SPREAD_MS_MAX: u64 = 30_000;

/// Milliseconds after which the client at that slot is to come back, where its core has so many connections.
pub(crate) fn reconnect_after_ms(slot: usize, connections: usize) -> u64 {
    let spread_ms = (connections as u64 * 1_000 / RECONNECTS_PER_SECOND).clamp(SPREAD_MS_MIN, SPREAD_MS_MAX);
    // Knuth's multiplicative hash spreads neighbouring slots; its factor is a prime above every spread, so that slots
    // which follow each other meet every millisecond before any a second time.
    RECONNECT_AFTER_MS_MIN + (slot as u64).wrapping_mul(2_654_435_761) % spread_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(connections: usize) -> Vec<u64> {
        let mut told: Vec<u64> = (0..connections).map(|slot| reconnect_after_ms(slot, connections)).collect();
        told.sort_unstable();
        told
    }

    #[test]
    fn few_clients_come_back_within_a_second_and_each_at_another_time() {
        for connections in [1, 10, 100] {
            let mut told = told(connections);
            assert!(told[0] >= 500 && told[connections - 1] < 1_000, "{told:?}");
            told.dedup();
            assert_eq!(told.len(), connections);
        }
    }

    #[test]
    fn no_second_brings_more_than_a_core_takes_in_comfort() {
        for connections in [1_000, 1_999, 10_000, 60_000] {
            let told = told(connections);
            let within_a_second = |first: &u64| told.iter().filter(|at| (*first..first + 1_000).contains(at)).count();
            let most = told.iter().step_by(97).map(within_a_second).max().unwrap_or_default();
            assert!(most as u64 <= RECONNECTS_PER_SECOND + RECONNECTS_PER_SECOND / 100, "{connections}: {most}");
        }
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_the_longest_spread() {
        let told = told(200_000);
        assert!(told[199_999] < RECONNECT_AFTER_MS_MIN + SPREAD_MS_MAX && told[199_999] > 29_000);
    }
}
