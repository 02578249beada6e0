//! Ranges of addresses that are revoked, and how far a core has looked for those of them who are there.
//!
//! Invariants:
//! - A turn looks at as many connections as `WALK_LOOKUPS_A_TURN` allow, so that no revocation makes a turn long, however
//!   many connections there are.
//! - What is revoked while a walk goes on has a walk of its own behind it, so that a stream of revocations keeps none from its end.

use std::net::IpAddr;
use std::ops::Range;

use banter_access::revocation::{Revocation, Revocations, RevocationsFull, Subject};

/// Lookups of one turn: a connection takes one for each length of prefix that is revoked, some 100 ns each.
const WALK_LOOKUPS_A_TURN: usize = 4_096;

/// What is revoked, and how far those who are there were looked at.
#[derive(Debug, Default)]
pub struct Blocked {
    ranges: Revocations,
    /// The slot that is looked at next.
    walk_from: Option<u32>,
    /// Something was revoked since the walk began.
    must_walk_again: bool,
}

impl Blocked {
    /// Whether who comes from there is revoked at that second since 1970.
    pub fn holds(&self, address: IpAddr, now_seconds: u64) -> bool {
        !self.ranges.is_empty() && self.ranges.is_address_revoked(address, now_seconds)
    }

    /// Whether there is still somebody to be looked at.
    pub fn is_walking(&self) -> bool {
        self.walk_from.is_some()
    }

    /// A range is revoked. Says whether that is new.
    ///
    /// # Errors
    /// When there are as many revocations as there may be.
    pub fn add(&mut self, revocation: &Revocation, now_seconds: u64) -> Result<bool, RevocationsFull> {
        let is_new = self.ranges.add(revocation, now_seconds)?;
        if is_new {
            self.must_walk_again = self.walk_from.is_some();
            self.walk_from.get_or_insert(0);
        }
        Ok(is_new)
    }

    /// The slots that this turn looks at, of so many.
    pub fn next_slots(&mut self, slots: u32) -> Option<Range<u32>> {
        let from = self.walk_from?;
        let looked_at = (WALK_LOOKUPS_A_TURN / self.ranges.prefix_lengths().max(1)).max(1) as u32;
        Some(from..slots.min(from.saturating_add(looked_at)))
    }

    /// All slots ahead of that one, of so many, were looked at.
    pub fn looked(&mut self, until: u32, slots: u32) {
        self.walk_from = Some(until).filter(|until| *until < slots);
        if self.walk_from.is_none() && std::mem::take(&mut self.must_walk_again) {
            self.walk_from = Some(0);
        }
    }

    /// Takes back every revocation of exactly that range, and says how many there were.
    pub fn lift(&mut self, subject: &Subject) -> usize {
        self.ranges.lift(subject)
    }
}

#[cfg(test)]
mod tests {
    use banter_access::address::Cidr;

    use super::*;

    const YEAR_2100: u64 = 4_102_444_800;

    fn revocation(range: &str) -> Revocation {
        let range: Cidr = range.parse().expect(range);
        Revocation::new(Subject::Address(range), None, YEAR_2100).expect("a revocation")
    }

    #[test]
    fn a_stream_of_revocations_keeps_no_walk_from_its_end_and_each_has_a_whole_one_behind_it() {
        let mut blocked = Blocked::default();
        let slots = 3 * WALK_LOOKUPS_A_TURN as u32;
        blocked.add(&revocation("192.0.2.0/24"), 0).expect("room");
        let (mut ended_walks, mut looked_at) = (0, 0);
        for third in 0..30_u8 {
            blocked.add(&revocation(&format!("198.51.100.{third}")), 0).expect("room");
            let range = blocked.next_slots(slots).expect("a walk");
            ended_walks += u32::from(range.end == slots);
            looked_at += range.len();
            blocked.looked(range.end, slots);
            assert!(blocked.is_walking(), "what was revoked meanwhile is still to be looked for");
        }
        assert!(ended_walks >= 4, "{ended_walks} walks of {looked_at} slots");
        let mut left = 0;
        while let Some(range) = blocked.next_slots(slots) {
            left += range.len() as u32;
            blocked.looked(range.end, slots);
        }
        assert!(left >= slots, "a whole walk behind the last one");
    }

    #[test]
    fn what_is_known_already_begins_no_walk() {
        let mut blocked = Blocked::default();
        assert_eq!(blocked.add(&revocation("192.0.2.0/24"), 0), Ok(true));
        blocked.looked(8, 8);
        assert_eq!((blocked.add(&revocation("192.0.2.0/24"), 0), blocked.is_walking()), (Ok(false), false));
    }
}
