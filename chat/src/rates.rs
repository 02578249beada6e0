//! How many requests of each kind a connection may still send: a token bucket for each, which holds a second's worth.

use banter_access::limit::Limit;

use crate::limits::Limits;

/// A kind of request that has a rate of its own. `leave` and `ping` have none: the one needs a join before it, and the
/// other costs less than its refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `post`.
    Post,
    /// `post` of a guest, which takes one of both.
    GuestPost,
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
    const ALL: [Kind; 6] = [Kind::Post, Kind::GuestPost, Kind::Signal, Kind::Join, Kind::Fetch, Kind::Members];

    /// What the limit is a second; 0 = none.
    pub fn limit(self, limits: &Limits) -> u32 {
        match self {
            Kind::Post => limits.posts_per_second_max,
            Kind::GuestPost => limits.guest_posts_per_second_max,
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
            Kind::GuestPost => Limit::GuestPosts,
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

/// How many signals or posts a room still takes: one such bucket. Full at first, since nothing was taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoomRate {
    /// Thousandths of one that were taken and have not grown again.
    taken: u32,
    filled_ms: u32,
}

impl RoomRate {
    /// Takes one, or says in how many milliseconds there is one; 0 a second = no limit.
    ///
    /// # Errors
    /// The milliseconds.
    pub fn take(&mut self, per_second_max: u32, now_ms: u64) -> Result<(), u64> {
        if per_second_max == 0 {
            return Ok(());
        }
        let elapsed_ms = u64::from((now_ms as u32).wrapping_sub(self.filled_ms));
        self.filled_ms = now_ms as u32;
        let full = u64::from(per_second_max) * TOKEN;
        // No more than a full bucket's, also where the limit was larger when it was taken.
        let taken = u64::from(self.taken).min(full).saturating_sub(elapsed_ms * u64::from(per_second_max));
        let lacking = (taken + TOKEN).saturating_sub(full);
        self.taken = (taken + if lacking == 0 { TOKEN } else { 0 }).min(u32::MAX.into()) as u32;
        if lacking == 0 { Ok(()) } else { Err(lacking.div_ceil(per_second_max.into())) }
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
    fn a_room_takes_a_second_at_once_and_then_the_rate() {
        let mut rate = RoomRate::default();
        assert_eq!((0..100).filter(|_| rate.take(10, 7_000).is_ok()).count(), 10);
        assert_eq!((0..100).filter(|_| rate.take(10, 7_250).is_ok()).count(), 2);
        assert_eq!((rate.take(10, 7_250), rate.take(10, 7_299)), (Err(50), Err(1)));
        assert_eq!(rate.take(10, 7_300), Ok(()), "who waits as told is taken");
        assert_eq!((0..100).filter(|_| rate.take(10, 60_000).is_ok()).count(), 10);
        assert_eq!((0..100).filter(|_| rate.take(0, 60_000).is_ok()).count(), 100, "0 is none");
    }

    #[test]
    fn a_limit_that_was_lowered_refuses_for_no_longer_than_the_new_one_does() {
        let mut rate = RoomRate::default();
        assert_eq!((0..20_000).filter(|_| rate.take(10_000, 7_000).is_ok()).count(), 10_000);
        assert_eq!(rate.take(1, 7_000), Err(1_000));
        assert_eq!((rate.take(1, 8_000), rate.take(1, 8_000)), (Ok(()), Err(1_000)));
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
