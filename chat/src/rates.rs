//! How many requests of each kind a connection may still send: a token bucket for each, which holds a second's worth.

use banter_access::limit::Limit;

use crate::limits::Limits;

/// A kind of request that has a rate of its own. `leave` and `ping` have none: the one needs a join before it, and the
/// other costs less than its refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `post`.
    Post,
    /// `signal`.
    Signal,
    /// `join`.
    Join,
    /// `fetch`.
    Fetch,
    /// `members`.
    Members,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Post, Kind::Signal, Kind::Join, Kind::Fetch, Kind::Members];

    /// What the limit is a second; 0 = none.
    pub fn limit(self, limits: &Limits) -> u32 {
        match self {
            Kind::Post => limits.posts_per_second_max,
            Kind::Signal => limits.signals_per_second_max,
            Kind::Join => limits.joins_per_second_max,
            Kind::Fetch => limits.fetches_per_second_max,
            Kind::Members => limits.members_per_second_max,
        }
    }
}

impl From<Kind> for Limit {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Post => Limit::Posts,
            Kind::Signal => Limit::Signals,
            Kind::Join => Limit::Joins,
            Kind::Fetch => Limit::Fetches,
            Kind::Members => Limit::Members,
        }
    }
}

/// A token, in the unit of a bucket's level.
const TOKEN: u64 = 1_000;

/// The buckets of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Thousandths of a request.
    levels: [u32; Kind::ALL.len()],
    /// When they were filled last; wraps after 49 days, at which a bucket is at worst not filled.
    filled_ms: u32,
}

impl Rates {
    /// Buckets that hold a whole second's worth.
    pub fn full(now_ms: u64) -> Self {
        Rates { levels: [u32::MAX; Kind::ALL.len()], filled_ms: now_ms as u32 }
    }

    /// Takes one request of a kind whose rate that is, or says in how many milliseconds there is one. `rates` says that of
    /// every kind.
    ///
    /// # Errors
    /// The milliseconds.
    pub fn take(&mut self, kind: Kind, rates: impl Fn(Kind) -> u32, now_ms: u64) -> Result<(), u64> {
        let rate = rates(kind);
        if rate == 0 {
            return Ok(());
        }
        self.fill(rates, now_ms as u32);
        let level = &mut self.levels[kind as usize];
        match u64::from(*level).checked_sub(TOKEN) {
            Some(left) => {
                *level = left as u32;
                Ok(())
            }
            None => Err((TOKEN - u64::from(*level)).div_ceil(rate.into())),
        }
    }

    fn fill(&mut self, rates: impl Fn(Kind) -> u32, now_ms: u32) {
        let elapsed_ms = u64::from(now_ms.wrapping_sub(self.filled_ms));
        self.filled_ms = now_ms;
        for (level, kind) in self.levels.iter_mut().zip(Kind::ALL) {
            let rate = u64::from(rates(kind));
            let full = (rate * TOKEN).min(u32::MAX.into());
            *level = (u64::from(*level) + elapsed_ms * rate).min(full) as u32;
        }
    }
}

/// How many signals a room still takes: one such bucket. Full at first, since nothing was taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoomRate {
    /// Thousandths of a signal that were taken and have not grown again.
    taken: u32,
    filled_ms: u32,
}

impl RoomRate {
    /// Takes one, and says whether there was one; 0 a second = no limit.
    #[must_use]
    pub fn take(&mut self, per_second_max: u32, now_ms: u64) -> bool {
        if per_second_max == 0 {
            return true;
        }
        let elapsed_ms = u64::from((now_ms as u32).wrapping_sub(self.filled_ms));
        self.filled_ms = now_ms as u32;
        let taken = u64::from(self.taken).saturating_sub(elapsed_ms * u64::from(per_second_max));
        let full = u64::from(per_second_max) * TOKEN;
        let is_there = taken + TOKEN <= full;
        self.taken = (taken + if is_there { TOKEN } else { 0 }).min(u32::MAX.into()) as u32;
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> impl Fn(Kind) -> u32 {
        let limits = Limits {
            posts_per_second_max: 0,
            signals_per_second_max: 10,
            joins_per_second_max: 3,
            ..Limits::default()
        };
        move |kind: Kind| kind.limit(&limits)
    }

    #[test]
    fn a_bucket_allows_a_second_at_once_and_then_the_rate() {
        let (mut rates, limits) = (Rates::full(5_000), limits());
        let mut take = |now_ms| rates.take(Kind::Signal, &limits, now_ms);
        for _ in 0..10 {
            assert_eq!(take(5_000), Ok(()));
        }
        assert_eq!(take(5_000), Err(100));
        assert_eq!(take(5_040), Err(60));
        assert_eq!(take(5_100), Ok(()));
        assert_eq!(take(5_100), Err(100));
        assert_eq!(take(u64::from(u32::MAX) + 10_000), Ok(()), "also when the clock's low half went round");
    }

    #[test]
    fn a_room_takes_a_second_of_signals_at_once_and_then_the_rate() {
        let mut rate = RoomRate::default();
        assert_eq!((0..100).filter(|_| rate.take(10, 7_000)).count(), 10);
        assert_eq!((0..100).filter(|_| rate.take(10, 7_250)).count(), 2);
        assert_eq!((0..100).filter(|_| rate.take(10, 60_000)).count(), 10);
        assert_eq!((0..100).filter(|_| rate.take(0, 60_000)).count(), 100, "0 is none");
    }

    #[test]
    fn each_kind_has_a_bucket_of_its_own_and_0_is_none() {
        let (mut rates, limits) = (Rates::full(0), limits());
        for kind in [Kind::Join, Kind::Signal] {
            while rates.take(kind, &limits, 0).is_ok() {}
        }
        assert_eq!((rates.take(Kind::Join, &limits, 0), rates.take(Kind::Signal, &limits, 0)), (Err(334), Err(100)));
        for kind in [Kind::Fetch, Kind::Members] {
            assert_eq!(rates.take(kind, &limits, 0), Ok(()));
        }
        (0..100_000).for_each(|_| assert_eq!(rates.take(Kind::Post, &limits, 0), Ok(())));
    }
}
