//! Cursors that seem wrong, in a cluster: a machine that lost a partition without having heard so would refuse a good one. So before
//! a cursor is refused, the machine proves that it owned the partition when the cursor came.
//!
//! ```text
//!  join ─cursor ahead, or of another epoch─▶ waits ─▶ Ask::Prove ─▶ Answer::Proved ─▶ judged again, and refused now
//!                                              └── the partition is lost ─▶ `unavailable`: another machine knows
//! ```
//!
//! Invariant: what proves a cursor wrong was asked for behind it. What comes while a proof is under way waits for the next one.

use std::collections::BTreeMap;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::ids::RoomId;

use crate::address::Peer;
use crate::closing::unavailable;
use crate::logs::LogId;
use crate::parcel::{Down, JoinAsk, Refusal};
use crate::rooms::Rooms;
use crate::turn::Turn;

/// Joins of a core that wait for a proof at most; above them who comes is told to come again.
const WAITING_MAX: usize = 4_096;

/// The joins that wait.
#[derive(Debug, Default)]
pub(crate) struct Proofs {
    logs: BTreeMap<LogId, Waiting>,
    count: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    /// For the proof that is under way.
    asked: Vec<JoinAsk>,
    /// For the next one.
    next: Vec<JoinAsk>,
}

impl Rooms {
    /// Has a join wait that is refused for its cursor, where another machine may know better. Given back, it is refused now.
    pub(crate) fn prove_first(
        &mut self,
        ask: JoinAsk,
        refusal: Refusal,
        turn: &mut Turn<'_>,
    ) -> Option<(JoinAsk, Refusal)> {
        let log = self.logs.id_of(RoomId::of(ask.room.as_str()));
        let is_of_cursor = matches!(refusal.code, ErrorCode::CursorAhead | ErrorCode::WrongEpoch);
        if self.is_proved || !is_of_cursor || !self.logs.is_partition(log) || self.logs.get(log).is_none() {
            return Some((ask, refusal));
        }
        if self.proofs.count >= WAITING_MAX {
            return Some((ask, unavailable()));
        }
        turn.counters.steps += 1;
        self.proofs.count += 1;
        let waiting = self.proofs.logs.entry(log).or_default();
        waiting.next.push(ask);
        if waiting.asked.is_empty() {
            self.ask_proof(log);
        }
        None
    }

    fn ask_proof(&mut self, log: LogId) {
        let Some(waiting) = self.proofs.logs.get_mut(&log) else { return };
        waiting.asked = std::mem::take(&mut waiting.next);
        if waiting.asked.is_empty() {
            self.proofs.logs.remove(&log);
        } else if let Some(journal) = self.logs.get_mut(log) {
            journal.ask_proof();
        }
    }

    /// The partition was this machine's behind all that waits for that.
    pub(crate) fn proved(&mut self, log: LogId, turn: &mut Turn<'_>) {
        let Some(waiting) = self.proofs.logs.get_mut(&log) else { return };
        let asked = std::mem::take(&mut waiting.asked);
        self.proofs.count -= asked.len();
        self.is_proved = true;
        for ask in asked {
            self.join(ask, turn);
        }
        self.is_proved = false;
        self.ask_proof(log);
    }

    /// The partition is lost: another machine knows whether the cursors are good.
    pub(crate) fn refuse_unproved(&mut self, log: LogId, turn: &mut Turn<'_>) {
        let Some(Waiting { asked, next }) = self.proofs.logs.remove(&log) else { return };
        self.proofs.count -= asked.len() + next.len();
        asked.into_iter().chain(next).for_each(|ask| refuse_join(&ask, unavailable(), turn));
    }

    /// Who leaves a room does not come in behind that.
    pub(crate) fn leaves_unproved(&mut self, room: RoomId, leaver: Peer, turn: &mut Turn<'_>) {
        let Some(waiting) = self.proofs.logs.get_mut(&self.logs.id_of(room)) else { return };
        let is_of = |ask: &mut JoinAsk| ask.reader == leaver && RoomId::of(ask.room.as_str()) == room;
        let left: Vec<JoinAsk> =
            waiting.asked.extract_if(.., is_of).chain(waiting.next.extract_if(.., is_of)).collect();
        self.proofs.count -= left.len();
        left.iter().for_each(|ask| refuse_join(ask, unavailable(), turn));
    }
}

/// A join is answered that lets nobody in.
pub(crate) fn refuse_join(ask: &JoinAsk, refusal: Refusal, turn: &mut Turn<'_>) {
    let (to, subscription, request) = (ask.reader.connection, ask.subscription, ask.request);
    turn.lanes.send_answer(ask.reader.core, Down::JoinRefused { to, subscription, request, refusal });
}
