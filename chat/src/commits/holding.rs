//! Posts of a partition that wait too long for their commit: who waits is told once that nobody knows what becomes of them, and they
//! become history all the same when their commit is done after all.
//!
//! ```text
//!  post ─▶ its room's queue, noted in `arrivals` ─(hold_ms)─▶ told, stays in the queue
//!               └─▶ in flight, of which the oldest is known ─(hold_ms)─▶ told, stays in flight
//! ```
//!
//! Invariants:
//! - Whoever is told is not answered a second time. The answers to one connection's posts to one room keep their order: a flight is
//!   looked at ahead of the queues, and what is told of a queue are its first ones.
//! - A turn looks at one flight of each log that has something due, and tells [`TOLD_A_TURN`] of each log's queues.

use banter_protocol::ids::Sequence;

use super::open::Open;
use crate::address::Peer;
use crate::closing::unavailable;
use crate::logs::LogId;
use crate::parcel::{Answer, Down};
use crate::rooms::Rooms;
use crate::turn::Turn;

/// Posts and answers in the queues of a log that one turn tells.
const TOLD_A_TURN: usize = 256;

/// An answer, and whose it is.
type Told = (Peer, banter_protocol::ids::RequestId, Answer);

impl Open {
    /// Since when somebody waits for it, in the turns' milliseconds; none: nobody does.
    pub(super) fn waits_since_ms(&self) -> Option<u64> {
        match self {
            Open::Post { is_answered: false, since_us, .. } | Open::Answer { since_us, .. } => Some(since_us / 1_000),
            Open::Post { .. } | Open::State { .. } | Open::Told => None,
        }
    }

    /// What whoever waits for it is told once while its commit is not done. What is known for sure, in a room with that head, is said.
    fn tell(&mut self, head: Sequence) -> Option<Told> {
        match self {
            Open::Post { is_answered, record, request, decided, .. } => {
                *is_answered = true;
                let is_own = decided.as_ref().is_some_and(|decided| decided.is_own);
                (!is_own).then(|| (record.author, *request, Answer::PostRefused(unavailable())))
            }
            Open::Answer { .. } => match std::mem::replace(self, Open::Told) {
                Open::Answer { to, request, answer, .. } => Some((to, request, answer.known_at(head, &unavailable()))),
                _ => None,
            },
            Open::State { .. } | Open::Told => None,
        }
    }
}

impl Rooms {
    /// Tells those who have waited for that log for so long.
    pub(super) fn tend_held(&mut self, log: LogId, turn: &mut Turn<'_>) {
        let now_ms = turn.now.monotonic_ms;
        let Some(until_ms) = self.commits.hold_ms.and_then(|hold_ms| now_ms.checked_sub(hold_ms)) else { return };
        self.tell_flight(log, until_ms, turn);
        let mut left = TOLD_A_TURN;
        while let Some(&(at_ms, slot)) = self.commits.logs[log.index()].arrivals.front()
            && at_ms <= until_ms
            && self.tell_queue(slot, until_ms, &mut left, turn)
        {
            self.commits.logs[log.index()].arrivals.pop_front();
        }
    }

    fn tell_flight(&mut self, log: LogId, until_ms: u64, turn: &mut Turn<'_>) {
        let flight = &mut self.commits.logs[log.index()].flight;
        if flight.waits_since_ms.is_none_or(|since_ms| since_ms > until_ms) {
            return;
        }
        for (slot, open) in &mut flight.open {
            turn.counters.steps += 1;
            if open.waits_since_ms().is_some_and(|since_ms| since_ms <= until_ms) {
                let told = open.tell(self.slots[*slot].history.head());
                send(told, turn);
            }
        }
        flight.waits_since_ms = flight.open.iter().filter_map(|(_, open)| open.waits_since_ms()).min();
    }

    /// `false`: there are more than this turn tells.
    fn tell_queue(&mut self, slot: usize, until_ms: u64, left: &mut usize, turn: &mut Turn<'_>) -> bool {
        // It may be gone, and all of it done.
        let Some(room) = self.slots.get_mut(slot) else { return true };
        let head = room.history.head();
        while let Some(open) = room.queue.open.get_mut(room.queue.told as usize) {
            let waits_since_ms = open.waits_since_ms();
            if waits_since_ms.is_some_and(|since_ms| since_ms > until_ms) {
                return true;
            }
            if *left == 0 {
                return false;
            }
            *left -= 1;
            turn.counters.steps += 1;
            if waits_since_ms.is_some() {
                send(open.tell(head), turn);
            }
            room.queue.told += 1;
        }
        true
    }

    /// What nobody waits for in the queues any more need not be looked at.
    pub(super) fn forget_arrivals(&mut self, log: LogId) {
        let (slots, queue) = (&self.slots, &mut self.commits.logs[log.index()]);
        let waits = |&(at_ms, slot): &(u64, usize)| {
            let waiting = slots.get(slot).map(|room| &room.queue);
            let first = waiting.and_then(|queue| queue.open.get(queue.told as usize));
            first.is_some_and(|open| open.waits_since_ms().is_none_or(|since_ms| since_ms <= at_ms))
        };
        while queue.arrivals.front().is_some_and(|arrival| !waits(arrival)) {
            queue.arrivals.pop_front();
        }
    }

    /// When somebody has waited for that log for too long.
    pub(super) fn held_due(&self, log: LogId) -> Option<u64> {
        let queue = &self.commits.logs[log.index()];
        let queued_ms = queue.arrivals.front().map(|&(at_ms, _)| at_ms);
        let since_ms = queue.flight.waits_since_ms.into_iter().chain(queued_ms).min()?;
        Some(since_ms + self.commits.hold_ms?)
    }
}

fn send(told: Option<Told>, turn: &mut Turn<'_>) {
    if let Some((to, request, answer)) = told {
        turn.lanes.send_answer(to.core, Down::Answer { to: to.connection, request, answer });
    }
}
