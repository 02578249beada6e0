//! Where every room is in each of its epochs, over all segments: nothing goes back, and no place is given twice.
//!
//! But for one case. A commit that found no space is refused, and its places are given again; its block may lie whole at
//! the end of its segment all the same. It can be told from one that was acknowledged:
//!
//! - A core has one commit in flight, so a block that holds messages is written only behind one whose commit came to a good
//!   end. Behind a commit that found no space nothing is written to its segment, and what is given again goes to a later one.
//! - A block that holds none is written behind any, and proves those that it says were on the disk (`synced`).
//!
//! So of each segment only the last block that holds messages may have been refused, and only if no later one proves it.
//! Its places may come again in a later segment: what comes last counts, as a start of the server has it. Every other place
//! that comes again, or behind a later one, is damage. A room has one core in each run, so no other core of the same run
//! gives a place again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use banter_protocol::ids::{Epoch, RoomId, Sequence};

use super::damage::Broken;
use super::walk::Found;

/// Where the rooms are.
#[derive(Debug, Default)]
pub(super) struct Order {
    rooms: HashMap<(RoomId, Epoch), At>,
    /// Sequences that are missing between others.
    pub missing: u64,
    /// Messages whose places were given again, since they were refused.
    pub refused: u64,
}

/// Where a room is.
#[derive(Debug)]
struct At {
    last: Sequence,
    unproven: Option<Unproven>,
}

/// The newest messages of a room, which may have been refused.
#[derive(Clone, Copy, Debug)]
struct Unproven {
    first: Sequence,
    segment: u64,
    run: u64,
    core: u16,
}

/// What a message is to those before it.
#[derive(Debug)]
pub(super) enum Step {
    /// It comes behind them.
    Next,
    /// It takes the first of these places, all of which were refused.
    Again(Refused),
    /// It cannot be there.
    Broken(Broken),
}

/// Places of a room that were refused in that segment: from this one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub segment: u64,
    pub from: Sequence,
}

impl Order {
    /// Takes the next message of the log.
    pub(super) fn see(&mut self, found: &Found<'_>) -> Step {
        let (sequence, epoch, segment) = (found.kept.sequence(), found.kept.epoch(), found.segment);
        let unproven = Unproven { first: sequence, segment: segment.id, run: segment.run, core: segment.core };
        let unproven = found.is_unproven.then_some(unproven);
        let at = match self.rooms.entry((RoomId::of(found.kept.room()), epoch)) {
            // What lies ahead of a room's first message went with the segments that are no longer kept.
            Entry::Vacant(vacant) => {
                vacant.insert(At { last: sequence, unproven });
                return Step::Next;
            }
            Entry::Occupied(at) => at.into_mut(),
        };
        if sequence > at.last {
            self.missing = self.missing.saturating_add(sequence.0 - at.last.0 - 1);
            at.last = sequence;
            let is_same_block = |before: &&Unproven| before.segment == segment.id && unproven.is_some();
            at.unproven = at.unproven.as_ref().filter(is_same_block).copied().or(unproven);
            return Step::Next;
        }
        let Some(before) = at.unproven.filter(|before| before.may_give_way_to(found)) else {
            return Step::Broken(Broken::Order {
                room: found.kept.room().into(),
                epoch: epoch.0,
                before: at.last.0,
                sequence: sequence.0,
            });
        };
        self.refused = self.refused.saturating_add((at.last.0 - sequence.0).saturating_add(1));
        *at = At { last: sequence, unproven };
        Step::Again(Refused { segment: before.segment, from: sequence })
    }
}

impl Unproven {
    fn may_give_way_to(&self, found: &Found<'_>) -> bool {
        let other = found.segment;
        let is_of_its_core = other.run != self.run || other.core == self.core;
        found.kept.sequence() >= self.first && other.id > self.segment && is_of_its_core
    }
}
