//! Posts that the log does not take: what they are answered, and which places are taken back with them.

use std::collections::{BTreeSet, VecDeque};

use banter_log::journal::{Journal, State};
use banter_log::record::message_bytes;
use banter_log::segment::Class;
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::ids::Sequence;

use super::queue::LogQueue;
use super::{Open, SEGMENT_WAIT_MS_MAX};
use crate::closing::unavailable;
use crate::logs::LogId;
use crate::parcel::{Answer, Down, Refusal};
use crate::rooms::Rooms;
use crate::turn::Turn;

/// When to try again what a full disk refused, in milliseconds.
const FULL_RETRY_AFTER_MS: u64 = 1_000;
/// When to try again what came while too much waited for the log, in milliseconds.
const WAITING_RETRY_AFTER_MS: u64 = 1_000;

/// What a post to a room of that class is answered while the log takes none.
pub(super) fn refusal_of(journal: &Journal, class: Class) -> Option<Refusal> {
    match journal.state(class) {
        State::Open => None,
        State::Full => Some(log_full("the log has no space left: reading goes on, and posts when there is some again")),
        State::Failed => Some(Refusal::new(
            ErrorCode::LogFailed,
            "the log could not be written: reading goes on, and posts when the server was started again",
        )),
    }
}

/// What a post with so many bytes of records is answered while it does not fit what is left of the log.
pub(super) fn refusal_of_size(journal: &Journal, class: Class, record_bytes: usize) -> Option<Refusal> {
    journal
        .lacks_space_for(class, record_bytes)
        .then(|| log_full("the log has little space left, and this does not fit: post it again, or a smaller one"))
}

fn log_full(message: &'static str) -> Refusal {
    Refusal {
        code: ErrorCode::LogFull,
        message: message.into(),
        retry_after_ms: Some(FULL_RETRY_AFTER_MS),
        scope: Some(Scope::Server),
        reason: None,
    }
}

/// What is answered above `log_waiting_bytes_max`.
pub(crate) fn log_is_full() -> Refusal {
    Refusal {
        code: ErrorCode::Overloaded,
        message: "log_waiting_bytes_max is reached: posts come faster than the log takes them".into(),
        retry_after_ms: Some(WAITING_RETRY_AFTER_MS),
        scope: Some(Scope::Server),
        reason: None,
    }
}

impl Answer {
    /// The answer where its room's newest message has that place, and what is open behind that is refused: what would acknowledge
    /// something of that is a refusal too.
    pub(super) fn known_at(self, head: Sequence, refusal: &Refusal) -> Answer {
        match &self {
            Answer::Posted { sequence, .. } if *sequence > head => Answer::PostRefused(refusal.clone()),
            // What a program took it remembers in a state that was refused, if it does at all.
            Answer::Taken { .. } => Answer::PostRefused(refusal.clone()),
            _ => self,
        }
    }
}

impl Rooms {
    /// What a post to a room of that log and class with a frame of that many bytes is answered while it cannot be taken.
    pub(crate) fn refusal_of_log(&self, log: LogId, class: Class, frame_bytes: usize) -> Option<Refusal> {
        let is_above =
            self.commits.waiting_bytes + message_bytes(frame_bytes) as u64 > self.limits.log_waiting_bytes_max;
        let of_log = |journal: &Journal| {
            let of_size = || refusal_of_size(journal, class, message_bytes(frame_bytes));
            refusal_of(journal, class).or_else(of_size)
        };
        self.logs.get(log).and_then(of_log).or_else(|| is_above.then(log_is_full))
    }

    /// What posts are answered that have waited too long for a segment; the wait begins here.
    pub(super) fn waited_too_long(&mut self, log: LogId, class: Class, turn: &Turn<'_>) -> Option<Refusal> {
        let now_ms = turn.now.monotonic_ms;
        let since_ms = *self.commits.logs[log.index()].waiting_since_ms.entry(class).or_insert(now_ms);
        let is_over = now_ms >= since_ms + SEGMENT_WAIT_MS_MAX;
        // In a cluster it is the engine that is waited for: its streams have a leader again within seconds, and space was not asked for.
        let refusal = || match self.commits.hold_ms {
            Some(_) => unavailable(),
            None => log_full("the disk takes long to make a segment of the log: post again"),
        };
        is_over.then(refusal)
    }

    pub(super) fn commit_failed(&mut self, log: LogId, turn: &mut Turn<'_>) {
        let class = self.commits.logs[log.index()].flight.class;
        let refusal = self.logs.get(log).and_then(|journal| refusal_of(journal, class));
        let refusal = refusal.unwrap_or_else(|| log_full("the log had no space for a moment: post again"));
        self.refuse_class(log, class, &refusal, turn);
    }

    /// Refuses every post that waits for the log in rooms of that class; the places, and what was to be answered of them, are
    /// taken back.
    pub(super) fn refuse_class(&mut self, log: LogId, class: Class, refusal: &Refusal, turn: &mut Turn<'_>) {
        let queue = &mut self.commits.logs[log.index()];
        queue.waiting_since_ms.remove(&class);
        let flight = if queue.flight.class == class { queue.flight.take() } else { VecDeque::new() };
        let rooms = queue.rooms.remove(&class).unwrap_or_default();
        for (slot, open) in flight {
            self.slots[slot].queue.in_flight -= 1;
            self.refuse(slot, open, refusal, turn);
        }
        for slot in rooms {
            self.refuse_queued(slot, refusal, turn);
        }
    }

    /// Refuses what was gathered, and all that is behind it in its rooms: those places are given again.
    pub(super) fn refuse_gathered(&mut self, log: LogId, refusal: &Refusal, turn: &mut Turn<'_>) {
        let gathered = self.commits.logs[log.index()].flight.take();
        let slots: BTreeSet<usize> = gathered.iter().map(|(slot, _)| *slot).collect();
        for (slot, open) in gathered {
            self.slots[slot].queue.in_flight -= 1;
            self.refuse(slot, open, refusal, turn);
        }
        let queue = &mut self.commits.logs[log.index()];
        let class = queue.flight.class;
        let rooms = queue.rooms.entry(class).or_default();
        rooms.retain(|slot| !slots.contains(slot));
        if rooms.is_empty() {
            queue.waiting_since_ms.remove(&class);
        }
        for slot in slots {
            self.refuse_queued(slot, refusal, turn);
        }
    }

    fn refuse_queued(&mut self, slot: usize, refusal: &Refusal, turn: &mut Turn<'_>) {
        for open in self.slots[slot].queue.take() {
            self.refuse(slot, open, refusal, turn);
        }
    }

    /// Refuses all that is open in rooms of that log, also where it does not wait for it.
    pub(crate) fn refuse_log(&mut self, log: LogId, refusal: &Refusal, turn: &mut Turn<'_>) {
        self.commits.set_due(log, None);
        let LogQueue { flight, rooms, .. } = std::mem::take(&mut self.commits.logs[log.index()]);
        for (slot, open) in flight.open {
            self.slots[slot].queue.in_flight -= 1;
            self.refuse(slot, open, refusal, turn);
        }
        for slot in rooms.into_values().flatten() {
            self.refuse_queued(slot, refusal, turn);
        }
        for (slot, open) in std::mem::take(&mut self.commits.unlogged) {
            // An answer may be of a room that is gone.
            let is_of_log = |&slot: &usize| self.slots.get(slot).is_some_and(|room| self.logs.id_of(room.id) == log);
            match slot.filter(is_of_log) {
                Some(slot) => {
                    self.slots[slot].queue.in_flight -= u32::from(open.is_record());
                    self.give_up(slot, open, refusal, turn);
                }
                None => self.commits.unlogged.push_back((slot, open)),
            }
        }
    }

    fn refuse(&mut self, slot: usize, open: Open, refusal: &Refusal, turn: &mut Turn<'_>) {
        self.no_longer_waits(&open);
        self.give_up(slot, open, refusal, turn);
    }

    fn give_up(&mut self, slot: usize, open: Open, refusal: &Refusal, turn: &mut Turn<'_>) {
        let (to, request, answer) = match open {
            Open::Post { record, request, decided, is_answered, .. } => {
                let room = &mut self.slots[slot];
                room.take_back();
                self.dedupe.forget_behind(slot, room.history.head());
                self.take_back_state(slot);
                if is_answered || decided.is_some_and(|decided| decided.is_own) {
                    return self.queue_if_idle(slot);
                }
                (record.author, request, Answer::PostRefused(refusal.clone()))
            }
            Open::State { .. } => {
                self.take_back_state(slot);
                return self.queue_if_idle(slot);
            }
            Open::Answer { to, request, answer, .. } => {
                (to, request, answer.known_at(self.slots[slot].history.head(), refusal))
            }
            Open::Told => return self.queue_if_idle(slot),
        };
        turn.lanes.send_answer(to.core, Down::Answer { to: to.connection, request, answer });
        self.queue_if_idle(slot);
    }
}
