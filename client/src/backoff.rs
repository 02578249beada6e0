//! How long to wait before the next attempt: exponential, with full jitter, from a seed.

use std::time::Duration;

/// A small seeded generator (SplitMix64). It spreads clients out in time; it is no source of secrets.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Anything from nothing up to `longest`, all equally likely.
    pub(crate) fn up_to(&mut self, longest: Duration) -> Duration {
        let range = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX - 1) + 1;
        // The high half of the product is below `range`, and its bias is below one in 2^64 / range.
        Duration::from_nanos(((u128::from(self.next()) * u128::from(range)) >> 64) as u64)
    }
}

/// Counts failed attempts, and says how long to wait after each.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Backoff { first: first.min(max), max, failures: 0 }
    }

    /// The longest wait after the failures so far.
    pub(crate) fn ceiling(&self) -> Duration {
        self.first.saturating_mul(1 << self.failures.min(31)).min(self.max)
    }

    /// One more failure: how long to wait. All of the wait is random ("full jitter"), for clients that were cut off
    /// together must not come back together. The ceiling does not go beyond `ceiling_max`, for now.
    pub(crate) fn fail(&mut self, random: &mut Random, ceiling_max: Option<Duration>) -> Duration {
        let ceiling = self.ceiling();
        if ceiling_max.is_none_or(|ceiling_max| ceiling * 2 <= ceiling_max) {
            self.failures = self.failures.saturating_add(1);
        }
        random.up_to(ceiling_max.map_or(ceiling, |ceiling_max| ceiling.min(ceiling_max)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_stays_under_a_ceiling_that_doubles_and_ends() {
        let mut random = Random::new(7);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for ceiling_ms in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            assert_eq!(backoff.ceiling(), Duration::from_millis(ceiling_ms));
            assert!(backoff.fail(&mut random, None) <= Duration::from_millis(ceiling_ms));
        }
        (0..100).for_each(|_| assert!(backoff.fail(&mut random, None) <= Duration::from_secs(5)));
        assert_eq!(backoff.ceiling(), Duration::from_secs(5), "a shift too far would have panicked");
    }

    #[test]
    fn a_ceiling_that_is_held_down_for_now_grows_on_from_there() {
        let mut random = Random::new(7);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let held = Some(Duration::from_secs(1));
        (0..50).for_each(|_| assert!(backoff.fail(&mut random, held) <= Duration::from_millis(800)));
        backoff.fail(&mut random, None);
        assert_eq!(backoff.ceiling(), Duration::from_millis(1600));
        assert!((0..50).all(|_| backoff.fail(&mut random, held) <= Duration::from_secs(1)));
    }

    #[test]
    fn waits_use_the_whole_range_and_come_from_the_seed() {
        let longest = Duration::from_secs(1);
        let draw = |seed| -> Vec<Duration> {
            let mut random = Random::new(seed);
            (0..1000).map(|_| random.up_to(longest)).collect()
        };
        let waits = draw(1);
        assert_eq!(waits, draw(1));
        assert_ne!(waits, draw(2));
        assert!(waits.iter().all(|wait| *wait <= longest));
        assert!(waits.iter().any(|wait| *wait < longest / 20) && waits.iter().any(|wait| *wait > longest * 19 / 20));
        let mean = waits.iter().sum::<Duration>() / 1000;
        assert!(mean > longest * 45 / 100 && mean < longest * 55 / 100, "{mean:?}");
        assert_eq!(Random::new(3).up_to(Duration::ZERO), Duration::ZERO);
    }
}
