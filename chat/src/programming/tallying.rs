//! What the rooms of each program come to, for the operator: in how many it is suspended, and how many bytes they remember.
//!
//! ```text
//!  program, state or suspension of a room changes ─▶ tally ─▶ ProgramCounts, and the list of suspended rooms
//! ```
//!
//! Invariants:
//! - A room keeps what it counts for (`Tallied`), and that is taken away before it counts for something else: so the sums are exact, and
//!   known without looking the rooms through.
//! - Behind other programs the sums begin at 0, and rooms that had one follow in slices, whether they are asked something or not. One whose
//!   state could not be read follows when it is asked: it has none, and failed nowhere.
//! - A suspension that is over counts no longer in the turn that begins behind its end, but where more than [`ENDS_A_TURN`] end together.

use banter_protocol::ids::RoomName;

use super::Programming;
use crate::room_program::Tallied;
use crate::rooms::Rooms;

/// Suspended rooms that a core lists by name at most.
pub const SUSPENDED_LISTED_MAX: usize = 100;
/// Suspensions that one turn takes from the list when they are over.
const ENDS_A_TURN: usize = 256;
/// Rooms that follow other programs in one turn. One takes up to a microsecond, with many patterns.
const FOLLOWED_A_TURN: usize = 1_024;

/// A room that does not call its program now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspendedRoom {
    /// The program's name.
    pub program: Box<str>,
    /// The room.
    pub room: RoomName,
    /// For how many milliseconds yet.
    pub left_ms: u64,
}

impl Programming {
    fn add_tally(&mut self, slot: usize, tallied: Tallied) {
        if let Some(until_ms) = tallied.suspended_until_ms {
            self.suspended.insert((until_ms, slot));
        }
        let Some(counts) = tallied.program.and_then(|program| self.counts.get_mut(usize::from(program.0))) else {
            return;
        };
        counts.suspended_rooms += u64::from(tallied.suspended_until_ms.is_some());
        counts.state_bytes += u64::from(tallied.state_bytes);
    }

    fn take_tally(&mut self, slot: usize, tallied: Tallied) {
        if let Some(until_ms) = tallied.suspended_until_ms {
            self.suspended.remove(&(until_ms, slot));
        }
        // What counted under other programs went with them.
        let program = tallied.program.filter(|_| tallied.version == self.version);
        let Some(counts) = program.and_then(|program| self.counts.get_mut(usize::from(program.0))) else { return };
        counts.suspended_rooms = counts.suspended_rooms.saturating_sub(tallied.suspended_until_ms.is_some().into());
        counts.state_bytes = counts.state_bytes.saturating_sub(tallied.state_bytes.into());
    }
}

impl Rooms {
    /// The room counts for what it is now. Called wherever its program, its committed state or its suspension is another.
    pub(crate) fn tally(&mut self, slot: usize) {
        let (room, programming) = (&mut self.slots[slot], &mut self.programming);
        let Some(kept) = room.program.as_deref_mut() else { return };
        // It is of other programs still, and counts when it follows.
        if room.program_version != programming.version {
            return;
        }
        let until_ms = kept.faults.suspended_until(programming.now_ms).filter(|_| kept.program.is_some());
        let tallied = Tallied {
            program: kept.program,
            version: programming.version,
            suspended_until_ms: until_ms,
            state_bytes: kept.committed.len() as u32,
        };
        let before = std::mem::replace(&mut kept.tallied, tallied);
        if before != tallied {
            programming.take_tally(slot, before);
            programming.add_tally(slot, tallied);
        }
    }

    /// The room is forgotten, and counts for nothing.
    pub(super) fn forget_tally(&mut self, slot: usize) {
        let Some(kept) = self.slots[slot].program.as_deref_mut() else { return };
        let (place, tallied) = (kept.place as usize, std::mem::take(&mut kept.tallied));
        let programming = &mut self.programming;
        programming.take_tally(slot, tallied);
        programming.programmed.swap_remove(place);
        programming.to_follow = programming.to_follow.min(programming.programmed.len());
        // The last one has its place; who follows twice does no harm.
        if let Some(&moved) = programming.programmed.get(place)
            && let Some(kept) = self.slots[moved].program.as_deref_mut()
        {
            kept.place = place as u32;
        }
    }

    /// Rooms go by the programs that hold now, some of them: also those that nobody asks anything.
    pub(super) fn follow_some(&mut self) {
        for _ in 0..FOLLOWED_A_TURN {
            let Some(at) = self.programming.to_follow.checked_sub(1) else { return };
            self.programming.to_follow = at;
            let Some(&slot) = self.programming.programmed.get(at) else { continue };
            // It would be read again for that, and many of them at once.
            if self.slots[slot].program.as_deref().is_some_and(|kept| kept.unread.is_none()) {
                self.follow_programs(slot);
            }
        }
    }

    /// Rooms whose suspension is over count as such no longer.
    pub(crate) fn let_suspensions_end(&mut self) {
        for _ in 0..ENDS_A_TURN {
            let first = self.programming.suspended.first().copied();
            let Some((until_ms, slot)) = first.filter(|&(until_ms, _)| until_ms <= self.programming.now_ms) else {
                return;
            };
            self.tally(slot);
            // One that is still of other programs was not tallied.
            self.programming.suspended.remove(&(until_ms, slot));
        }
    }

    /// Rooms that do not call their programs now, those first that will the soonest; [`SUSPENDED_LISTED_MAX`] at most.
    pub fn suspended_rooms(&self) -> Vec<SuspendedRoom> {
        let now_ms = self.programming.now_ms;
        let listed = self.programming.suspended.iter().take(SUSPENDED_LISTED_MAX);
        let told = |&(until_ms, slot): &(u64, usize)| {
            let room = self.slots.get(slot).filter(|room| room.program_version == self.programming.version)?;
            let program = self.programming.name_of(room.program.as_deref()?.program?);
            let left_ms = until_ms.checked_sub(now_ms).filter(|&left_ms| left_ms > 0)?;
            Some(SuspendedRoom { program, room: room.name.clone(), left_ms })
        };
        listed.filter_map(told).collect()
    }
}
