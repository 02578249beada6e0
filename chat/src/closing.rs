//! A log that comes to a core, or leaves it with all of its rooms: whoever waits for something of them is told that nobody here
//! knows what becomes of it.
//!
//! ```text
//!  close_log ─▶ closed to every parcel ─▶ all that waits is answered `unavailable` ─▶ its rooms leave memory, some a turn
//! ```
//!
//! Invariants:
//! - Of a room whose log is closed nothing is acknowledged but what was history by then, and no room is made.
//! - What is answered at once is bounded by what may wait: `log_waiting_bytes_max`, the pages that are read, one turn's asks. How
//!   many rooms there are counts for nothing.
//! - A log is opened only when no room of it is left from before.

use banter_log::journal::{Journal, JournalParts};
use banter_protocol::error_code::ErrorCode;
use banter_protocol::ids::RoomId;

use crate::loading::held_bytes;
use crate::logs::LogId;
use crate::pages::refuse_fetch;
use crate::parcel::{Answer, Down, Refusal, Up};
use crate::proofs::refuse_join;
use crate::rooms::Rooms;
use crate::turn::Turn;

/// When to try again what has no owner, or what nobody knows the outcome of, in milliseconds.
const UNAVAILABLE_RETRY_AFTER_MS: u64 = 1_000;
/// Places of the table of rooms that a turn looks at for rooms whose log is closed.
const PLACES_A_TURN: usize = 512;

/// Rooms that are still to leave memory.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// From which place on the table is to be looked at.
    next: Option<usize>,
}

impl Closing {
    /// Whether there is more to do.
    pub(crate) fn has_some(&self) -> bool {
        self.next.is_some()
    }
}

impl Rooms {
    /// Opens a log that is closed. `false`: it is none of this core's, or open.
    pub(crate) fn open_log(&mut self, log: LogId, parts: JournalParts) -> bool {
        if !self.logs.is_partition(log) || self.logs.get(log).is_some() {
            return false;
        }
        while self.closing.has_some() {
            self.forget_closed(usize::MAX);
        }
        self.clock.raise(parts.catalog.runs().start_ms().unwrap_or(0));
        self.logs.put(log, parts);
        true
    }

    /// Closes a log; none: it was none of this core's, or closed.
    pub(crate) fn close_log(&mut self, log: LogId, turn: &mut Turn<'_>) -> Option<Box<Journal>> {
        let journal = if self.logs.is_partition(log) { self.logs.take(log)? } else { return None };
        self.refuse_log(log, &unavailable(), turn);
        self.refuse_unproved(log, turn);
        self.refuse_pages_of(log, turn);
        let mut held = self.forget_keys_of(log);
        held.extend(self.forget_states_of(log));
        for slot in held {
            self.refuse_held(slot, turn);
        }
        self.closing.next = Some(0);
        Some(journal)
    }

    /// Whether the room at that place has no owner here any more, and leaves memory.
    pub(crate) fn is_closed(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|room| self.logs.is_closed_to(room.id))
    }

    /// What is asked of a room whose log is closed.
    pub(crate) fn take_closed(&mut self, parcel: Up, turn: &mut Turn<'_>) {
        let refusal = unavailable();
        let (to, request, answer) = match parcel {
            Up::Join(ask) => return refuse_join(&ask, refusal, turn),
            Up::Post { author, request, .. } => (author, request, Answer::PostRefused(refusal)),
            Up::Say(ask) => (ask.author, ask.request, Answer::PostRefused(refusal)),
            Up::Refuse { author, request, refusal, .. } => (author, request, Answer::PostRefused(*refusal)),
            Up::Members { asker, request, .. } => (asker, request, Answer::MembersRefused(refusal)),
            Up::Leave { leaver, asked: Some(request), .. } => (leaver, request, Answer::Refused(refusal)),
            Up::Fetch(ask) => return refuse_fetch(&ask, refusal, turn),
            Up::CatchUp(ask) => return self.send_unread(ask, turn),
            Up::Signal { .. } => {
                turn.counters.signals_dropped += 1;
                return;
            }
            // Nobody waits for an answer; the homes took what is about no room.
            Up::Leave { asked: None, .. } | Up::Home(_) => return,
        };
        turn.lanes.send_answer(to.core, Down::Answer { to: to.connection, request, answer });
    }

    /// What waited for the room to be read from its log.
    fn refuse_held(&mut self, slot: usize, turn: &mut Turn<'_>) {
        let Some(held) = self.slots.get_mut(slot).and_then(|room| room.held.take()) else { return };
        for parcel in held.parcels {
            self.commits.let_go(held_bytes(&parcel));
            self.take_closed(parcel, turn);
        }
    }

    /// Some rooms whose logs are closed leave memory. Called where no room has fresh messages, so that none is kept from its readers.
    pub(crate) fn tend_closing(&mut self, turn: &mut Turn<'_>) {
        turn.counters.steps += self.forget_closed(PLACES_A_TURN) as u64;
    }

    fn forget_closed(&mut self, places_max: usize) -> usize {
        let Some(from) = self.closing.next.take() else { return 0 };
        let end = from.saturating_add(places_max).min(self.slots.capacity());
        for slot in from..end {
            if self.is_closed(slot) {
                if !self.slots[slot].fresh.is_empty() {
                    self.dirty.retain(|&dirty| dirty != slot);
                }
                self.forget_room(slot);
            }
        }
        self.closing.next = (end < self.slots.capacity()).then_some(end);
        end - from
    }

    /// The room, where its log is open.
    pub(crate) fn must_be_open(&self, room: RoomId) -> Result<(), Refusal> {
        if self.logs.is_closed_to(room) { Err(unavailable()) } else { Ok(()) }
    }
}

/// What is answered by whoever does not know whether it was done, and does not own the room now.
pub(crate) fn unavailable() -> Refusal {
    Refusal {
        code: ErrorCode::Unavailable,
        message:
            "nobody here knows what becomes of this: a post may be in the history, post it again with the same key"
                .into(),
        retry_after_ms: Some(UNAVAILABLE_RETRY_AFTER_MS),
        scope: None,
        reason: None,
    }
}
