//! How many posts a second each room takes, by its name.
//!
//! What holds may change while rooms are there, and no room is looked for then: each finds out at its next post. A room without
//! a limit keeps no bucket.
//!
//! Invariant: a room whose version is that of the rates goes by them.

use std::sync::Arc;

use banter_access::limit::{DryRun, Limit, LimitCounts};
use banter_protocol::error_code::{ErrorCode, Scope};

use crate::parcel::Refusal;
use crate::policy::RoomPattern;
use crate::rates::RoomRate;
use crate::room::Room;

/// What the entries of `[[rooms]]` say: the first pattern that matches wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostRates(Arc<[(RoomPattern, u32)]>);

impl PostRates {
    /// Of patterns in the order of the configuration, each with how many a second; 0 = no limit.
    pub fn new(mut rules: Vec<(RoomPattern, u32)>) -> Self {
        // Behind the last one that limits anything there is no limit anyway.
        let last = rules.iter().rposition(|(_, rate)| *rate != 0).map_or(0, |last| last + 1);
        rules.truncate(last);
        PostRates(rules.into())
    }

    /// How many posts a second the room of that name takes; 0 = no limit.
    pub fn of(&self, room: &str) -> u32 {
        self.0.iter().find(|(pattern, _)| pattern.matches(room)).map_or(0, |(_, rate)| *rate)
    }

    /// Every pattern up to the last one that limits anything.
    pub fn rules(&self) -> &[(RoomPattern, u32)] {
        &self.0
    }
}

/// The bucket of a room that has a limit.
#[derive(Clone, Copy, Debug)]
pub struct PostBucket {
    per_second_max: u32,
    rate: RoomRate,
}

/// The rates that hold on a core.
#[derive(Debug)]
pub(crate) struct RoomPostRates {
    rates: PostRates,
    /// Goes up with each change. It comes again after 65,536 of them: then a room without a post in all that time goes by old ones.
    version: u16,
}

impl RoomPostRates {
    pub(crate) fn new(rates: PostRates) -> Self {
        // A room that is new has seen none.
        RoomPostRates { rates, version: 1 }
    }

    /// Others from here on.
    pub(crate) fn set(&mut self, rates: PostRates) {
        if self.rates != rates {
            self.rates = rates;
            self.version = self.version.checked_add(1).unwrap_or(1);
        }
    }

    /// A room takes one more post.
    ///
    /// # Errors
    /// When it has taken as many as it may.
    pub(crate) fn take(
        &self,
        room: &mut Room,
        now_ms: u64,
        (counts, dry_run): (&mut LimitCounts, DryRun),
    ) -> Result<(), Refusal> {
        if room.post_rates_version != self.version {
            room.post_rates_version = self.version;
            follow(&mut room.post_bucket, self.rates.of(room.name.as_str()));
        }
        let Some(bucket) = &mut room.post_bucket else { return Ok(()) };
        match bucket.rate.take(bucket.per_second_max, now_ms) {
            Err(retry_after_ms) if counts.refuses(Limit::RoomPosts, dry_run) => Err(Refusal {
                code: ErrorCode::RateLimited,
                message: format!("posts_per_second_max of the room is {}", bucket.per_second_max).into(),
                retry_after_ms: Some(retry_after_ms),
                scope: Some(Scope::Room),
                reason: None,
            }),
            _ => Ok(()),
        }
    }
}

/// What was taken counts on under another rate.
fn follow(bucket: &mut Option<Box<PostBucket>>, per_second_max: u32) {
    match bucket {
        _ if per_second_max == 0 => *bucket = None,
        Some(bucket) => bucket.per_second_max = per_second_max,
        None => *bucket = Some(Box::new(PostBucket { per_second_max, rate: RoomRate::default() })),
    }
}

#[cfg(test)]
mod tests {
    use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};

    use super::*;
    use crate::policy::{Durability, RoomPolicies};

    fn room(name: &str) -> Room {
        let policy = RoomPolicies::all(Durability::Memory).otherwise;
        Room::new(RoomId::of(name), RoomName::new(name).unwrap(), policy, Epoch(5), Sequence(0))
    }

    fn rates(rules: &[(&str, u32)]) -> PostRates {
        PostRates::new(rules.iter().map(|&(pattern, rate)| (RoomPattern::new(pattern), rate)).collect())
    }

    fn taken(rates: &RoomPostRates, room: &mut Room, now_ms: u64) -> Result<(), u64> {
        let counting = (&mut LimitCounts::default(), DryRun::default());
        rates.take(room, now_ms, counting).map_err(|refusal| refusal.retry_after_ms.unwrap_or(0))
    }

    #[test]
    fn the_first_pattern_that_matches_says_how_many_and_where_none_does_there_is_no_limit() {
        let rates = rates(&[("game-final", 0), ("game-*", 3), ("*-eu", 0)]);
        assert_eq!(["game-1", "game-final", "game-eu", "lobby"].map(|room| rates.of(room)), [3, 0, 3, 0]);
        assert_eq!(rates.rules().len(), 2, "what limits nothing at the end is left out");
        assert_eq!(self::rates(&[("a", 0)]), PostRates::default());
    }

    #[test]
    fn a_room_takes_a_second_of_posts_at_once_and_then_the_rate_and_says_when() {
        let rates = RoomPostRates::new(rates(&[("game-*", 2)]));
        let (mut game, mut lobby) = (room("game-1"), room("lobby"));
        let posts = [0, 0, 0, 500, 500].map(|now_ms| taken(&rates, &mut game, now_ms));
        assert_eq!(posts, [Ok(()), Ok(()), Err(500), Ok(()), Err(500)]);
        assert!((0..1_000).all(|_| taken(&rates, &mut lobby, 0).is_ok()));
        assert!(lobby.post_bucket.is_none(), "no limit, no bucket");
    }

    #[test]
    fn a_change_holds_for_a_room_that_is_there_from_its_next_post_on() {
        let mut core = RoomPostRates::new(PostRates::default());
        let mut game = room("game-1");
        assert!((0..10).all(|_| taken(&core, &mut game, 0).is_ok()));
        core.set(rates(&[("*", 1)]));
        assert_eq!([0, 0].map(|now_ms| taken(&core, &mut game, now_ms)), [Ok(()), Err(1_000)]);
        core.set(rates(&[("*", 4)]));
        assert_eq!([0; 4].map(|now_ms| taken(&core, &mut game, now_ms)), [Ok(()), Ok(()), Ok(()), Err(250)]);
        core.set(PostRates::default());
        assert!((0..10).all(|_| taken(&core, &mut game, 0).is_ok()) && game.post_bucket.is_none());
    }

    #[test]
    fn a_limit_that_only_counts_lets_every_post_through() {
        let rates = RoomPostRates::new(rates(&[("*", 1)]));
        let (mut game, mut counts) = (room("game-1"), LimitCounts::default());
        let dry_run = DryRun::default().with(Limit::RoomPosts);
        assert!((0..5).all(|_| rates.take(&mut game, 0, (&mut counts, dry_run)).is_ok()));
        assert_eq!((counts.only_counted(Limit::RoomPosts), counts.refused(Limit::RoomPosts)), (4, 0));
    }
}
