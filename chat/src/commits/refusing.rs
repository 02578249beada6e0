//! Posts that the log does not take: what they are answered, and which places are taken back with them.

use std::collections::BTreeSet;

use banter_log::journal::{Journal, State};
use banter_log::record::message_bytes;
use banter_log::segment::Class;
use banter_protocol::error_code::{ErrorCode, Scope};

use super::{Open, SEGMENT_WAIT_MS_MAX};
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
        State::Full => {
            Some(log_full("the disk of the log is full: reading goes on, and posts when there is space again"))
        }
        State::Failed => Some(Refusal::new(
            ErrorCode::LogFailed,
            "the log could not be written: reading goes on, and posts when the server was started again",
        )),
    }
}

/// What a post with so many bytes of records is answered while it does not fit what is left of the log.
pub(super) fn refusal_of_size(journal: &Journal, class: Class, record_bytes: usize) -> Option<Refusal> {
    journal.lacks_space_for(class, record_bytes).then(|| {
        log_full(
            "the disk of the log is full, and this does not fit what is left of it: post it again, or a smaller one",
        )
    })
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
        message: "log_waiting_bytes_max is reached: posts come faster than the disk of the log takes them".into(),
        retry_after_ms: Some(WAITING_RETRY_AFTER_MS),
        scope: Some(Scope::Server),
        reason: None,
    }
}

impl Rooms {
    /// What a post to a room of that class with a frame of that many bytes is answered while it cannot be taken.
    pub(crate) fn refusal_of_log(&self, class: Class, frame_bytes: usize) -> Option<Refusal> {
        let is_above =
            self.commits.waiting_bytes + message_bytes(frame_bytes) as u64 > self.limits.log_waiting_bytes_max;
        let of_log = |journal: &Journal| {
            let of_size = || refusal_of_size(journal, class, message_bytes(frame_bytes));
            refusal_of(journal, class).or_else(of_size)
        };
        self.journal.as_ref().and_then(of_log).or_else(|| is_above.then(log_is_full))
    }

    /// What posts are answered that have waited too long for a segment; the wait begins here.
    pub(super) fn waited_too_long(&mut self, class: Class, turn: &Turn<'_>) -> Option<Refusal> {
        let now_ms = turn.now.monotonic_ms;
        let since_ms = *self.commits.waiting_since_ms.entry(class).or_insert(now_ms);
        let is_over = now_ms >= since_ms + SEGMENT_WAIT_MS_MAX;
        is_over.then(|| log_full("the disk takes long to make a segment of the log: post again"))
    }

    pub(super) fn commit_failed(&mut self, turn: &mut Turn<'_>) {
        let class = self.commits.flight.class;
        let refusal = self.journal.as_ref().and_then(|journal| refusal_of(journal, class));
        let refusal = refusal.unwrap_or_else(|| log_full("the disk of the log was full for a moment: post again"));
        self.refuse_class(class, &refusal, turn);
    }

    /// Refuses every post that waits for the log in rooms of that class; the places, and what was to be answered of them, are
    /// taken back.
    pub(super) fn refuse_class(&mut self, class: Class, refusal: &Refusal, turn: &mut Turn<'_>) {
        self.commits.waiting_since_ms.remove(&class);
        if self.commits.flight.class == class {
            for (slot, open) in self.commits.flight.take() {
                self.slots[slot].queue.in_flight -= 1;
                self.refuse(slot, open, refusal, turn);
            }
        }
        for slot in self.commits.rooms.remove(&class).unwrap_or_default() {
            for open in std::mem::take(&mut self.slots[slot].queue.open) {
                self.refuse(slot, open, refusal, turn);
            }
        }
    }

    /// Refuses what was gathered, and all that is behind it in its rooms: those places are given again.
    pub(super) fn refuse_gathered(&mut self, refusal: &Refusal, turn: &mut Turn<'_>) {
        let class = self.commits.flight.class;
        let gathered = self.commits.flight.take();
        let slots: BTreeSet<usize> = gathered.iter().map(|(slot, _)| *slot).collect();
        for (slot, open) in gathered {
            self.slots[slot].queue.in_flight -= 1;
            self.refuse(slot, open, refusal, turn);
        }
        let rooms = self.commits.rooms.entry(class).or_default();
        rooms.retain(|slot| !slots.contains(slot));
        if rooms.is_empty() {
            self.commits.waiting_since_ms.remove(&class);
        }
        for slot in slots {
            for open in std::mem::take(&mut self.slots[slot].queue.open) {
                self.refuse(slot, open, refusal, turn);
            }
        }
    }

    fn refuse(&mut self, slot: usize, open: Open, refusal: &Refusal, turn: &mut Turn<'_>) {
        self.no_longer_waits(&open);
        let (to, request, answer) = match open {
            Open::Post { record, request, decided, .. } => {
                let room = &mut self.slots[slot];
                room.take_back();
                self.dedupe.forget_behind(slot, room.history.head());
                self.take_back_state(slot);
                if decided.is_some_and(|decided| decided.is_own) {
                    return self.queue_if_idle(slot);
                }
                (record.author, request, Answer::PostRefused(refusal.clone()))
            }
            Open::State { .. } => {
                self.take_back_state(slot);
                return self.queue_if_idle(slot);
            }
            Open::Answer { to, request, answer } => {
                let head = self.slots[slot].history.head();
                // What a program took it remembers in a state that was refused, if it does at all.
                let is_of_refused = matches!(&answer, Answer::Posted { sequence, .. } if *sequence > head)
                    || matches!(&answer, Answer::Taken { .. });
                (to, request, if is_of_refused { Answer::PostRefused(refusal.clone()) } else { answer })
            }
        };
        turn.lanes.send_answer(to.core, Down::Answer { to: to.connection, request, answer });
        self.queue_if_idle(slot);
    }
}
