//! What a room keeps for its program: its state, how much it may still take, what it took lately, and how often it failed.

use bytes::Bytes;

use crate::program::{ClassName, ProgramId};
use crate::room_state::RoomState;

/// Faults at which a room's program is suspended; one is forgiven each [`FORGIVEN_MS`].
const FAULTS_MAX: u8 = 5;
/// Milliseconds in which one fault is forgiven.
const FORGIVEN_MS: u64 = 60_000;
/// Milliseconds of the first suspension; each one that follows is twice as long.
const SUSPENDED_MS: u64 = 60_000;
/// Milliseconds of the longest; one that begins as long behind the end of the last is a first one again.
const SUSPENDED_MS_MAX: u64 = 3_600_000;
/// Seconds that are remembered of what a room's program took, beside the one that goes on.
pub const USAGE_SECONDS: u64 = 10;

/// A room with a program, or one that had one.
#[derive(Debug, Default)]
pub struct RoomProgram {
    /// Its program; none: there is none for it any more, and its state waits.
    pub program: Option<ProgramId>,
    /// Which text that was, so that another one starts without faults.
    pub digest: u64,
    /// What it remembers, with what waits for a commit.
    pub state: RoomState,
    /// What of that is committed, as bytes; empty: nothing ever was.
    pub committed: Bytes,
    /// The state has to go with the room's next commit: the log may have one that was refused.
    pub is_unsaid: bool,
    /// The state could not be read, and nothing is decided without it.
    pub unread: Option<Unread>,
    /// `state` and `committed` are what the log has: it was read, or there is nothing to read.
    pub is_known: bool,
    /// When its first timer comes due, as the core's list has it.
    pub timer_ms: Option<u64>,
    /// The classes that its readers are of, or were, and how many each has.
    pub classes: Vec<(ClassName, u32)>,
    /// How often it failed.
    pub faults: Faults,
    /// How much it may still take.
    pub units: Units,
    /// What it took lately.
    pub usage: Usage,
    /// Its place in the core's list of rooms like it.
    pub place: u32,
    /// What it counts for among the rooms of its program.
    pub tallied: Tallied,
}

/// What a room counts for: kept, so that just that is taken away when it is something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tallied {
    /// For which program.
    pub program: Option<ProgramId>,
    /// Of which set of programs.
    pub version: u16,
    /// As one that is suspended until then; none: it is not.
    pub suspended_until_ms: Option<u64>,
    /// With so many bytes of committed state.
    pub state_bytes: u32,
}

/// A state that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread {
    /// When it is read again, in the turns' milliseconds.
    pub again_ms: u64,
    /// What was read does not check: to read it again brings nothing but where its file was restored.
    pub is_damaged: bool,
}

impl RoomProgram {
    /// The state is committed.
    pub fn commit(&mut self, state: Bytes) {
        self.committed = state;
        self.is_unsaid = false;
    }

    /// What was not committed never was. What the log has of it may be on the disk all the same.
    pub fn take_back(&mut self) {
        // As long as it is not known nothing was called, and there is nothing to say in the place of what the log has.
        if !self.is_known {
            return;
        }
        self.state = RoomState::decode(&self.committed).unwrap_or_default();
        self.is_unsaid = true;
    }
}

/// How often a room's program failed lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    points: u8,
    /// When the last one was forgiven, or came.
    since_ms: u64,
    suspended_until_ms: u64,
    /// How long the last suspension was.
    suspended_ms: u64,
}

impl Faults {
    /// Whether the program is not called now.
    pub fn is_suspended(&self, now_ms: u64) -> bool {
        now_ms < self.suspended_until_ms
    }

    /// Until when it is not called; none: it is.
    pub fn suspended_until(&self, now_ms: u64) -> Option<u64> {
        Some(self.suspended_until_ms).filter(|_| self.is_suspended(now_ms))
    }

    /// It failed. How long it is suspended for that, if it is.
    pub fn add(&mut self, now_ms: u64) -> Option<u64> {
        // Time that forgives one forgives no other, and what is left of a minute counts on.
        let forgiven = now_ms.saturating_sub(self.since_ms) / FORGIVEN_MS;
        (self.points, self.since_ms) = match u8::try_from(forgiven) {
            Ok(forgiven) if forgiven < self.points => {
                (self.points - forgiven, self.since_ms + u64::from(forgiven) * FORGIVEN_MS)
            }
            _ => (0, now_ms),
        };
        self.points += 1;
        if self.points < FAULTS_MAX {
            return None;
        }
        Some(self.suspend(now_ms))
    }

    /// It is not called for a while.
    pub fn suspend(&mut self, now_ms: u64) -> u64 {
        self.points = 0;
        if now_ms >= self.suspended_until_ms + SUSPENDED_MS_MAX {
            self.suspended_ms = 0;
        }
        self.suspended_ms = (self.suspended_ms * 2).clamp(SUSPENDED_MS, SUSPENDED_MS_MAX);
        self.suspended_until_ms = now_ms + self.suspended_ms;
        self.suspended_ms
    }
}

/// The units of a second that a room may still take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// Below 0: taken ahead.
    left: i64,
    at_ms: u64,
}

impl Units {
    /// Whether it may take some now, of so many a second; otherwise when again, in milliseconds.
    ///
    /// # Errors
    /// It has taken all of a second.
    pub fn look(&mut self, per_second_max: u32, now_ms: u64) -> Result<(), u64> {
        if per_second_max == 0 {
            return Ok(());
        }
        let per_second = i64::from(per_second_max);
        let since_ms = now_ms.saturating_sub(self.at_ms).min(i64::from(u32::MAX) as u64) as i64;
        let regained = per_second * since_ms / 1_000;
        if regained > 0 || self.at_ms == 0 {
            let left = if self.at_ms == 0 { per_second } else { self.left + regained };
            (self.left, self.at_ms) = (left.min(per_second), now_ms.max(1));
        }
        if self.left > 0 {
            Ok(())
        } else {
            Err((((1 - self.left) * 1_000) as u64).div_ceil(u64::from(per_second_max)).max(1))
        }
    }

    /// It took so many.
    pub fn take(&mut self, units: u32) {
        self.left -= i64::from(units);
    }
}

/// What calls took. A number that is full stays so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Calls.
    pub calls: u32,
    /// Units.
    pub units: u32,
    /// Calls that came to no verdict.
    pub faults: u32,
}

impl Used {
    fn with(self, other: Used) -> Used {
        Used {
            calls: self.calls.saturating_add(other.calls),
            units: self.units.saturating_add(other.units),
            faults: self.faults.saturating_add(other.faults),
        }
    }
}

/// What a room's program took lately, second by second: exact, and as old as somebody asks who asks within [`USAGE_SECONDS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The second `at_s`, and those before it, each at its number modulo their count.
    seconds: [Used; USAGE_SECONDS as usize + 1],
    at_s: u64,
}

impl Usage {
    /// A call took so many units, and may have failed.
    pub fn add(&mut self, now_ms: u64, units: u32, has_failed: bool) {
        let now_s = now_ms / 1_000;
        let first_s = (self.at_s + 1).max(now_s.saturating_sub(USAGE_SECONDS));
        (first_s..=now_s).for_each(|second| self.seconds[cell_of(second)] = Used::default());
        self.at_s = self.at_s.max(now_s);
        let used = &mut self.seconds[cell_of(self.at_s)];
        *used = used.with(Used { calls: 1, units, faults: has_failed.into() });
    }

    /// What the calls of this second took, and of the [`USAGE_SECONDS`] before it.
    pub fn lately(&self, now_ms: u64) -> Used {
        let first_s = (now_ms / 1_000).max(self.at_s).saturating_sub(USAGE_SECONDS);
        (first_s..=self.at_s).map(|second| self.seconds[cell_of(second)]).fold(Used::default(), Used::with)
    }
}

fn cell_of(second: u64) -> usize {
    (second % (USAGE_SECONDS + 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_faults_suspend_longer_each_time_and_time_forgives() {
        let mut faults = Faults::default();
        assert!((0..4).all(|_| faults.add(1_000).is_none()) && !faults.is_suspended(1_000));
        assert_eq!(faults.add(1_000), Some(60_000));
        assert!(faults.is_suspended(60_999) && !faults.is_suspended(61_000));
        let next: Vec<_> = (0..10).filter_map(|_| faults.add(70_000)).collect();
        assert_eq!(next, [120_000, 240_000]);
        let mut seldom = Faults::default();
        assert!((0..100).all(|minute| seldom.add(minute * FORGIVEN_MS).is_none()), "one a minute is forgiven");
        let mut close = Faults::default();
        assert!(
            (0..100).all(|fault| close.add(fault * (FORGIVEN_MS - 1_000)).is_none()),
            "what is left of a minute counts on"
        );
        let mut quiet = Faults::default();
        let suspensions = [0, 60_000, 180_000 + SUSPENDED_MS_MAX].map(|now_ms| quiet.suspend(now_ms));
        assert_eq!(suspensions, [60_000, 120_000, 60_000], "an hour of peace begins anew");
        let long = (0..20).map(|_| faults.suspend(0)).max();
        assert_eq!(long, Some(SUSPENDED_MS_MAX));
    }

    #[test]
    fn a_room_takes_a_second_of_units_at_once_and_then_by_the_rate() {
        let mut units = Units::default();
        assert_eq!(units.look(1_000, 5), Ok(()));
        units.take(2_000);
        assert_eq!(units.look(1_000, 5), Err(1_001), "what was too much is owed");
        assert_eq!((units.look(1_000, 1_005), units.look(1_000, 1_006)), (Err(1), Ok(())));
        units.take(5_000);
        assert_eq!((units.look(0, 1_006), units.look(1_000, 9_000)), (Ok(()), Ok(())));
        assert_eq!(units.left, 1_000, "no more than a second's");
    }

    #[test]
    fn what_a_room_took_is_known_for_ten_seconds_and_then_forgotten() {
        let mut usage = Usage::default();
        assert_eq!(usage.lately(1_000_000), Used::default());
        for second in 0..30 {
            usage.add(1_000_000 + second * 1_000, 7, second % 2 == 0);
            usage.add(1_000_999 + second * 1_000, 1, false);
            let seconds = (second as u32 + 1).min(USAGE_SECONDS as u32 + 1);
            let used = usage.lately(1_000_999 + second * 1_000);
            assert_eq!((used.calls, used.units), (2 * seconds, 8 * seconds), "{second}");
        }
        // The last second was the 29th, and behind it nothing came.
        for (passed, calls) in [(1, 20), (5, 12), (10, 2), (11, 0), (100, 0)] {
            assert_eq!(usage.lately(1_029_000 + passed * 1_000).calls, calls, "{passed}");
        }
        usage.add(1_033_000, 5, true);
        assert_eq!(usage.lately(1_033_000).calls, 7 * 2 + 1, "the seconds between have none");
        usage.add(9_000_000, u32::MAX, true);
        usage.add(9_000_000, u32::MAX, true);
        assert_eq!(usage.lately(9_000_000), Used { calls: 2, units: u32::MAX, faults: 2 });
    }

    #[test]
    fn what_is_taken_back_is_what_was_committed_and_is_to_be_said_again() {
        let mut room = RoomProgram { is_known: true, ..RoomProgram::default() };
        let of_version = |version| {
            let mut state = RoomState::default();
            state.version = version;
            state
        };
        let first = of_version(3);
        room.commit(first.encode().into());
        room.state = of_version(4);
        room.take_back();
        assert_eq!((&room.state, room.is_unsaid), (&first, true));
        let mut unknown = RoomProgram::default();
        unknown.take_back();
        assert!(!unknown.is_unsaid, "what could not be read is not said to be nothing");
    }
}
