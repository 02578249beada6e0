//! Erasing in memory: what is to go is hidden at once, and goes in slices; its keys too.
//!
//! Whoever was sent a message has it. Who reads live and was not yet gets it no more: the newest frames of its room are
//! forgotten ([`crate::sessions::Sessions::forget_frames`]), and such readers come back by pages.

use std::collections::VecDeque;
use std::sync::Arc;

use banter_log::erasure::{Bound, Erasure};
use banter_protocol::ids::{RoomId, Sequence};

use crate::history::gap_instead;
use crate::logs::LogId;
use crate::rooms::Rooms;
use crate::turn::Turn;

/// Messages, and as many keys, that a turn looks at.
const PLACES_A_TURN: usize = 256;

/// What a core makes of an erasure that it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The erasure.
    pub number: u64,
    /// Up to where it reaches.
    pub bound: Bound,
    /// The segment that is being written, if it holds some of it.
    pub segment: Option<u64>,
}

/// Erasures under way in memory.
#[derive(Debug, Default)]
pub(crate) struct Erasing {
    tasks: VecDeque<Task>,
    begun: Vec<Begun>,
}

#[derive(Debug)]
struct Task {
    room: RoomId,
    erasure: Arc<Erasure>,
    /// Where to go on among the messages, and among the keys; `None`: there it is done.
    messages: Option<Sequence>,
    keys: Option<Sequence>,
}

impl Erasing {
    /// Whether there is more to do.
    pub fn has_some(&self) -> bool {
        !self.tasks.is_empty()
    }
}

impl Rooms {
    /// Something of a room of this core is to be erased: nobody is told it from now on.
    pub(crate) fn erase(&mut self, log: LogId, erasure: &Erasure) {
        let Some(journal) = self.logs.get_mut(log) else { return };
        let id = erasure.room_id();
        let was_known = journal.catalog().erasures().get(id, erasure.number).is_some();
        let (known, segment) = journal.erase(erasure);
        let is_logged = journal.catalog().room(id).is_some();
        self.erasing.begun.push(Begun { number: known.number, bound: known.bound, segment });
        // What was asked before this start was hidden ahead of everything that came into memory.
        let Some(&slot) = self.by_id.get(&id).filter(|_| !was_known) else { return };
        let room = &mut self.slots[slot];
        // Memory may hold what the log has dropped, or never had.
        let in_memory = Bound { last: room.history.head(), ..Bound::UNKNOWN };
        let bound = if is_logged { known.bound } else { in_memory };
        let erasure = Arc::new(Erasure { bound, ..known });
        room.history.hide(erasure.clone());
        for record in &mut room.fresh {
            if let Some(gap) = gap_instead(record, &erasure) {
                record.frame = gap.into();
            }
        }
        self.loading.erase(slot, &erasure);
        let start = Some(Sequence(0));
        self.erasing.tasks.push_back(Task { room: room.id, erasure, messages: start, keys: start });
    }

    /// Does the turn's slice of it.
    pub(crate) fn tend_erasing(&mut self, turn: &mut Turn<'_>) {
        let Some(mut task) = self.erasing.tasks.pop_front() else { return };
        // A room that was forgotten meanwhile comes back without it.
        let Some(&slot) = self.by_id.get(&task.room) else { return };
        turn.counters.steps += PLACES_A_TURN as u64;
        let history = &mut self.slots[slot].history;
        task.messages = task.messages.and_then(|from| history.erase(&task.erasure, from, PLACES_A_TURN));
        task.keys = task.keys.and_then(|from| self.dedupe.erase(slot, &task.erasure, from, PLACES_A_TURN));
        self.share_history(slot);
        if task.messages.is_some() || task.keys.is_some() {
            self.erasing.tasks.push_back(task);
        }
    }

    /// What was made of the erasures that were told since the last time.
    pub fn take_begun(&mut self) -> Vec<Begun> {
        std::mem::take(&mut self.erasing.begun)
    }
}
