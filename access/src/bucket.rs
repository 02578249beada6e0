//! Token buckets by address, in a table of bounded size that nobody can empty for others.
//!
//! A bucket is one number: when it will be full again (the generic cell rate algorithm of ITU-T I.371, whose virtual
//! scheduling form this is). A bucket that is full says no more than one that is not in the table.
//!
//! # Invariants
//!
//! - Only a full bucket is put out of the table, so that putting it out gives nobody a token. Who comes from many
//!   addresses to reset others' buckets resets none.
//! - When no bucket is full and the table is, sources that are not in it share one bucket, until there is room again.
//!   Who fills the table so narrows what newcomers have together, at the price of as many addresses as it holds; who is
//!   in it keeps what he has.
//! - A step costs O(log n) and puts out at most two buckets, so that a turn is never stalled by a full table.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use crate::address::Source;

const MICROSECONDS: u64 = 1_000;

/// How fast a bucket fills, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that a full bucket holds, and that come in `in_ms`.
    pub tokens: NonZeroU32,
    /// The time in which an empty bucket fills, in milliseconds.
    pub in_ms: NonZeroU32,
}

impl Rate {
    /// So many in a second, and as many at once.
    pub fn in_a_second(tokens: NonZeroU32) -> Self {
        Rate { tokens, in_ms: NonZeroU32::MIN.saturating_add(999) }
    }

    /// So many in a minute, and as many at once.
    pub fn in_a_minute(tokens: NonZeroU32) -> Self {
        Rate { tokens, in_ms: NonZeroU32::MIN.saturating_add(59_999) }
    }

    /// The time in which one token comes, in microseconds, rounded up so that never more than the rate is given.
    fn token_us(self) -> u64 {
        (u64::from(self.in_ms.get()) * MICROSECONDS).div_ceil(u64::from(self.tokens.get()))
    }

    /// The time in which an empty bucket fills.
    fn bucket_us(self) -> u64 {
        self.token_us() * u64::from(self.tokens.get())
    }
}

/// Why no token was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// After how many milliseconds as many would be there, if nobody else took them; at least 1. Asked for more than a
    /// bucket holds, the time until it is full, though it will be refused then too.
    pub retry_after_ms: u64,
    /// Whether it is the bucket that newcomers share while the table is full.
    pub shared: bool,
}

/// The buckets of all sources.
#[derive(Clone, Debug)]
pub struct Buckets {
    rate: Rate,
    sources_max: usize,
    /// When each one's bucket is full, in microseconds. Never one that was full when it was last looked at.
    full_at: BTreeMap<Source, u64>,
    /// The same, the first to be full first.
    by_time: BTreeSet<(u64, Source)>,
    shared_full_at: u64,
}

impl Buckets {
    /// Of one rate, for at most so many sources at a time (each about 90 bytes while its bucket is not full).
    pub fn new(rate: Rate, sources_max: usize) -> Self {
        Buckets { rate, sources_max, full_at: BTreeMap::new(), by_time: BTreeSet::new(), shared_full_at: 0 }
    }

    /// Another rate from now on: what was taken counts by the time that it took to come, at most a whole bucket.
    pub fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }

    /// Takes tokens from the source's bucket, all or none.
    ///
    /// # Errors
    /// When there are not as many; then it is left as it was.
    pub fn take(&mut self, source: Source, tokens: u32, now_ms: u64) -> Result<(), Wait> {
        let now = now_ms.saturating_mul(MICROSECONDS);
        self.put_out_full(now);
        let shared = self.is_shared(source);
        let full_at = self.taken(self.full_at(source, now), tokens, now, shared)?;
        if shared {
            self.shared_full_at = full_at;
        } else if full_at > now {
            self.set(source, full_at);
        }
        Ok(())
    }

    /// Whether the source could take as many now; takes none.
    ///
    /// # Errors
    /// As [`Buckets::take`].
    pub fn ask(&self, source: Source, tokens: u32, now_ms: u64) -> Result<(), Wait> {
        let now = now_ms.saturating_mul(MICROSECONDS);
        let shared = self.is_shared(source) && self.by_time.first().is_some_and(|&(full_at, _)| full_at > now);
        let full_at = if shared { self.shared_full_at } else { self.full_at.get(&source).copied().unwrap_or(0) };
        self.taken(full_at.max(now), tokens, now, shared).map(|_| ())
    }

    /// Sources that have a bucket which was not full when it was last looked at.
    pub fn len(&self) -> usize {
        self.full_at.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.full_at.is_empty()
    }

    fn is_shared(&self, source: Source) -> bool {
        self.full_at.len() >= self.sources_max && !self.full_at.contains_key(&source)
    }

    fn full_at(&self, source: Source, now: u64) -> u64 {
        let full_at =
            if self.is_shared(source) { self.shared_full_at } else { self.full_at.get(&source).copied().unwrap_or(0) };
        full_at.max(now)
    }

    /// When a bucket that is full at `full_at` is full again behind taking.
    fn taken(&self, full_at: u64, tokens: u32, now: u64, shared: bool) -> Result<u64, Wait> {
        let latest = now.saturating_add(self.rate.bucket_us());
        // A clock that went back, or a rate that was made faster, must not lock anybody out for longer than a bucket.
        let full_at = full_at.min(latest);
        let wanted = full_at.saturating_add(self.rate.token_us().saturating_mul(tokens.into()));
        if wanted <= latest {
            return Ok(wanted);
        }
        let never = tokens > self.rate.tokens.get();
        let wait_us = if never { full_at - now } else { wanted - latest };
        Err(Wait { retry_after_ms: wait_us.div_ceil(MICROSECONDS).max(1), shared })
    }

    fn set(&mut self, source: Source, full_at: u64) {
        if let Some(before) = self.full_at.insert(source, full_at) {
            self.by_time.remove(&(before, source));
        }
        self.by_time.insert((full_at, source));
    }

    /// Puts out two buckets that are full: one more than a step brings, so that the table shrinks by itself.
    fn put_out_full(&mut self, now: u64) {
        for _ in 0..2 {
            match self.by_time.first() {
                Some(&(full_at, source)) if full_at <= now => {
                    self.by_time.pop_first();
                    self.full_at.remove(&source);
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn rate(tokens: u32, in_ms: u32) -> Rate {
        Rate { tokens: tokens.try_into().unwrap(), in_ms: in_ms.try_into().unwrap() }
    }

    const ANN: Source = Source::V4(1);
    const BOB: Source = Source::V4(2);

    #[test]
    fn a_bucket_gives_what_it_holds_and_then_what_comes() {
        let mut buckets = Buckets::new(rate(2, 1_000), 10);
        assert_eq!(buckets.take(ANN, 1, 5_000), Ok(()));
        assert_eq!(buckets.take(ANN, 1, 5_000), Ok(()));
        assert_eq!(buckets.take(ANN, 1, 5_000), Err(Wait { retry_after_ms: 500, shared: false }));
        assert_eq!(buckets.take(ANN, 1, 5_499), Err(Wait { retry_after_ms: 1, shared: false }));
        assert_eq!(buckets.take(BOB, 2, 5_499), Ok(()), "another's is his own");
        assert_eq!(buckets.take(ANN, 1, 5_500), Ok(()));
        assert_eq!(buckets.take(ANN, 2, 6_500), Ok(()));
    }

    #[test]
    fn asking_takes_nothing_and_a_refusal_neither() {
        let mut buckets = Buckets::new(rate(1, 60_000), 10);
        for _ in 0..3 {
            assert_eq!(buckets.ask(ANN, 1, 0), Ok(()));
        }
        assert_eq!(buckets.take(ANN, 1, 0), Ok(()));
        for _ in 0..3 {
            assert_eq!(buckets.ask(ANN, 1, 1), Err(Wait { retry_after_ms: 59_999, shared: false }));
            assert!(buckets.take(ANN, 1, 1).is_err());
        }
        assert_eq!(buckets.take(ANN, 1, 60_000), Ok(()));
    }

    #[test]
    fn more_than_a_bucket_holds_is_never_given_and_nothing_is_always() {
        let mut buckets = Buckets::new(rate(3, 3_000), 10);
        assert!(buckets.take(ANN, 4, 0).is_err() && buckets.take(ANN, u32::MAX, 0).is_err());
        assert_eq!(buckets.take(ANN, 0, 0), Ok(()));
        assert!(buckets.is_empty());
    }

    #[test]
    fn who_fills_the_table_resets_nobodys_bucket() {
        let mut buckets = Buckets::new(rate(1, 1_000), 100);
        assert_eq!(buckets.take(ANN, 1, 0), Ok(()));
        for attacker in 0..10_000 {
            let _ = buckets.take(Source::V6(attacker), 1, 1);
        }
        assert_eq!(buckets.len(), 100);
        assert!(buckets.take(ANN, 1, 999).is_err(), "still spent");
        assert_eq!(buckets.take(ANN, 1, 1_000), Ok(()));
    }

    #[test]
    fn newcomers_to_a_full_table_share_one_bucket_until_there_is_room() {
        let mut buckets = Buckets::new(rate(2, 1_000), 1);
        assert_eq!(buckets.take(ANN, 2, 0), Ok(()));
        assert_eq!(buckets.take(BOB, 1, 0), Ok(()));
        assert_eq!(buckets.take(Source::V4(3), 1, 0), Ok(()));
        assert_eq!(buckets.take(Source::V4(4), 1, 0), Err(Wait { retry_after_ms: 500, shared: true }));
        assert_eq!(buckets.ask(Source::V4(4), 1, 0), Err(Wait { retry_after_ms: 500, shared: true }));
        assert_eq!(buckets.ask(Source::V4(4), 1, 1_000), Ok(()), "ann's is full then");
        assert_eq!(buckets.take(BOB, 2, 1_000), Ok(()), "bob has ann's place");
        assert_eq!(buckets.len(), 1);
    }

    #[test]
    fn full_buckets_leave_the_table_by_themselves() {
        let mut buckets = Buckets::new(rate(1, 1_000), 1_000);
        for source in 0..1_000 {
            assert_eq!(buckets.take(Source::V4(source), 1, 0), Ok(()));
        }
        for step in 0..600 {
            let _ = buckets.take(ANN, 1, 2_000 + step);
        }
        assert!(buckets.len() <= 1, "{}", buckets.len());
    }

    #[test]
    fn a_clock_that_goes_back_locks_nobody_out_for_longer_than_a_bucket() {
        let mut buckets = Buckets::new(rate(1, 1_000), 10);
        assert_eq!(buckets.take(ANN, 1, 1_000_000_000), Ok(()));
        assert!(buckets.take(ANN, 1, 0).unwrap_err().retry_after_ms <= 1_000);
    }

    #[test]
    fn absurd_rates_and_times_do_no_harm() {
        for given in [rate(1, u32::MAX), rate(u32::MAX, 1), rate(u32::MAX, u32::MAX)] {
            let mut buckets = Buckets::new(given, 0);
            for now_ms in [0, u64::MAX, 7] {
                let _ = buckets.take(ANN, u32::MAX, now_ms);
                let _ = buckets.ask(ANN, 1, now_ms);
            }
        }
        let mut buckets = Buckets::new(Rate::in_a_minute(NonZeroU32::MIN), 1);
        assert_eq!(buckets.take(ANN, 1, 0), Ok(()));
        buckets.set_rate(Rate::in_a_second(NonZeroU32::MIN));
        assert_eq!(buckets.ask(ANN, 1, 0), Err(Wait { retry_after_ms: 1_000, shared: false }));
    }

    proptest! {
        #[test]
        fn no_source_is_given_more_than_its_rate(
            tokens in 1_u32..20, in_ms in 1_u32..5_000, steps in prop::collection::vec((0_u32..4, 0_u64..300), 1..200),
        ) {
            let mut buckets = Buckets::new(rate(tokens, in_ms), 2);
            let (mut now_ms, mut given) = (1_000_u64, HashMap::<u32, u64>::new());
            for (source, later_ms) in steps {
                now_ms += later_ms;
                if buckets.take(Source::V4(source), 1, now_ms).is_ok() {
                    *given.entry(source).or_default() += 1;
                }
                prop_assert!(buckets.len() <= 2 && buckets.by_time.len() == buckets.len());
            }
            // A source may have had a share of the common bucket before it had its own: two buckets and what came in
            // both.
            let come = (now_ms - 1_000) * u64::from(tokens) / u64::from(in_ms);
            prop_assert!(given.values().all(|&count| count <= 2 * (u64::from(tokens) + come + 1)));
        }

        #[test]
        fn who_waits_as_told_is_given(tokens in 1_u32..50, in_ms in 1_u32..100_000, taken in 0_u32..60) {
            let mut buckets = Buckets::new(rate(tokens, in_ms), 2);
            for _ in 0..taken {
                let _ = buckets.take(ANN, 1, 77);
            }
            if let Err(wait) = buckets.take(ANN, 1, 77) {
                prop_assert_eq!(buckets.ask(ANN, 1, 77), Err(wait));
                prop_assert!(buckets.take(ANN, 1, 77 + wait.retry_after_ms).is_ok());
            }
        }
    }

    /// What a full table costs: `cargo test --release -p banter-access --lib cost -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures"]
    fn the_cost_of_a_full_table() {
        let resident_bytes = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
        };
        let (before, mut buckets) = (resident_bytes(), Buckets::new(rate(2, 1_000_000), 100_000));
        for source in 0..100_000_u64 {
            assert_eq!(buckets.take(Source::V6(source.wrapping_mul(0x9e37_79b9_7f4a_7c15)), 1, source), Ok(()));
        }
        let bytes = (resident_bytes() - before) / 100_000;
        let begun = std::time::Instant::now();
        for source in 0..100_000_u64 {
            let source = Source::V6(source.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            std::hint::black_box(buckets.take(source, 1, 100_000)).unwrap();
        }
        println!("{bytes} bytes a source; a take in a full table {} ns", begun.elapsed().as_nanos() / 100_000);
    }
}
