//! Which rooms' programs took the most lately, for an operator who asks: one walk over the core's rooms with programs, in slices, for all
//! who asked before it began. So no order is kept of them, and a call pays for nothing but an addition.
//!
//! Invariants:
//! - Every ask is answered once, but when the server ends; at most [`ASKS_MAX`] wait.
//! - An answer has [`DEAREST_MAX`] rooms at most, each once, the dearest first, and none that called nothing.

use banter_protocol::ids::RoomName;

use crate::backend::Ticket;
use crate::room_program::{USAGE_SECONDS, Used};
use crate::rooms::Rooms;
use crate::turn::Turn;

/// Rooms that one answer lists at most.
pub const DEAREST_MAX: usize = 20;
/// Asks that wait on a core at most.
pub const ASKS_MAX: usize = 64;
/// Rooms that a turn looks at.
const LOOKS_A_TURN: usize = 1_024;

/// A room, and what its program took in the last [`USAGE_SECONDS`] and the second that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DearRoom {
    /// The program's name.
    pub program: Box<str>,
    /// The room.
    pub room: RoomName,
    /// What its calls took.
    pub used: Used,
    /// Units a second, of that time.
    pub units_per_second: u64,
    /// Units a second that it may take; 0: there is no limit.
    pub units_per_second_max: u32,
    /// For how many milliseconds yet it is not called; 0: it is.
    pub suspended_ms: u64,
}

/// Asks that are not answered.
#[derive(Debug, Default)]
pub(crate) struct Dearest {
    waiting: Vec<Ticket>,
    walk: Option<Walk>,
}

/// A walk under way: everything below that place is still to be looked at.
#[derive(Debug)]
struct Walk {
    below: usize,
    /// Units, and whose, the most first.
    found: Vec<(u32, usize)>,
    tickets: Vec<Ticket>,
}

impl Walk {
    fn look_at(&mut self, slot: usize, units: u32) {
        // Where a room was forgotten, the last of the list has its place, and may be looked at twice.
        if self.found.iter().any(|&(_, found)| found == slot) {
            return;
        }
        let at = self.found.partition_point(|&(found, _)| found >= units);
        if at < DEAREST_MAX {
            self.found.insert(at, (units, slot));
            self.found.truncate(DEAREST_MAX);
        }
    }
}

impl Dearest {
    /// Takes an ask. `false`: as many wait as may.
    pub(crate) fn ask(&mut self, ticket: Ticket) -> bool {
        let walked = self.walk.as_ref().map_or(0, |walk| walk.tickets.len());
        let has_space = self.waiting.len() + walked < ASKS_MAX;
        if has_space {
            self.waiting.push(ticket);
        }
        has_space
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.walk.is_some() || !self.waiting.is_empty()
    }

    /// Goes on with the walk, as far as this turn may; the answers, where it has come to its end.
    pub(crate) fn walk(&mut self, rooms: &Rooms, turn: &mut Turn<'_>) -> Vec<(Ticket, Vec<DearRoom>)> {
        let Some(mut walk) = self.walk.take().or_else(|| self.begin(rooms)) else { return Vec::new() };
        for _ in 0..LOOKS_A_TURN {
            let Some(at) = walk.below.checked_sub(1) else { break };
            walk.below = at;
            turn.counters.steps += 1;
            // Rooms may have been forgotten since.
            let Some(&slot) = rooms.programming.programmed.get(at) else { continue };
            if let Some(used) = rooms.used_lately(slot, turn.now.monotonic_ms) {
                walk.look_at(slot, used.units);
            }
        }
        if walk.below > 0 {
            self.walk = Some(walk);
            return Vec::new();
        }
        let dear: Vec<DearRoom> =
            walk.found.iter().filter_map(|&(_, slot)| rooms.dear_room(slot, turn.now.monotonic_ms)).collect();
        walk.tickets.into_iter().map(|ticket| (ticket, dear.clone())).collect()
    }

    fn begin(&mut self, rooms: &Rooms) -> Option<Walk> {
        if self.waiting.is_empty() {
            return None;
        }
        let tickets = std::mem::take(&mut self.waiting);
        Some(Walk { below: rooms.programming.programmed.len(), found: Vec::new(), tickets })
    }
}

impl Rooms {
    /// What the program of the room in that place took lately; none: there is no room with one, or it called nothing.
    fn used_lately(&self, slot: usize, now_ms: u64) -> Option<Used> {
        let room = self.slots.get(slot).filter(|room| room.program_version == self.programming.version)?;
        let kept = room.program.as_deref().filter(|kept| kept.program.is_some())?;
        Some(kept.usage.lately(now_ms)).filter(|used| used.calls > 0)
    }

    fn dear_room(&self, slot: usize, now_ms: u64) -> Option<DearRoom> {
        let used = self.used_lately(slot, now_ms)?;
        let room = self.slots.get(slot)?;
        let kept = room.program.as_deref()?;
        let span_ms = USAGE_SECONDS * 1_000 + now_ms % 1_000;
        Some(DearRoom {
            program: self.programming.name_of(kept.program?),
            room: room.name.clone(),
            used,
            units_per_second: u64::from(used.units) * 1_000 / span_ms,
            units_per_second_max: self.programming.limits.units_per_second_max,
            suspended_ms: kept.faults.suspended_until(now_ms).map_or(0, |until_ms| until_ms - now_ms),
        })
    }
}
