//! What becomes of posts that have a place: those of rooms in memory become history at once, those of logged rooms when
//! their commit has reached the room's level, and none of them where the log cannot take them.
//!
//! ```text
//!  post ─▶ its room's queue ─▶ gathered, a share of each room in turn ─▶ in flight ─▶ history, and answered
//! ```
//!
//! Invariants:
//! - A log has one commit in flight; what comes meanwhile is its next one. Logs wait for each other in nothing. A commit is of
//!   rooms of one retention class; classes take turns.
//! - The answers to one connection's posts to one room come in the order of the posts: a room has one level, and what is
//!   open at that level is answered in order.
//! - When a commit fails, everything behind it in its log is refused with it, and the places are given again. A post that does not fit
//!   what is left of a full disk takes only its own room's with it.
//! - Rooms take turns: one that is posted to faster than the log takes it makes only itself wait.
//! - What waits is bounded by `log_waiting_bytes_max`: above it posts are refused before they get a place, and with the
//!   answers that wait behind them there is at most twice as much. Rooms in memory wait for nothing here, whatever the
//!   disk does.

use std::collections::{BTreeSet, VecDeque};

use banter_log::journal::{Answer as DiskAnswer, Done, Journal};
use banter_log::record::Author;

use crate::address::Peer;
use crate::logs::{LogId, Reading};
use crate::parcel::{Answer, Down};
use crate::policy::Durability;
use crate::rooms::Rooms;
use crate::turn::Turn;

mod gathering;
mod holding;
mod open;
mod queue;
mod refusing;
mod states;

pub use open::{Decided, Open, RoomQueue};
use queue::LogQueue;
pub(crate) use refusing::log_is_full;
use refusing::refusal_of;

/// Quiet behind which the last block of a segment is proved, in milliseconds.
const QUIET_MS: u64 = 1_000;
/// How long posts wait for a segment before they are refused, in milliseconds.
const SEGMENT_WAIT_MS_MAX: u64 = 5_000;

/// Posts that have a place, and answers that must keep their order among them.
#[derive(Debug)]
pub struct Commits {
    /// What waits for no disk.
    unlogged: VecDeque<(Option<usize>, Open)>,
    /// What waits for each log, by its number.
    logs: Vec<LogQueue>,
    /// What waits for any of them.
    queued: usize,
    waiting_posts: u64,
    waiting_bytes: u64,
    /// Logs that are to be looked at, and when, in the turns' milliseconds.
    dues: BTreeSet<(u64, LogId)>,
    /// Milliseconds that somebody waits for a commit at most; none: as long as it takes.
    hold_ms: Option<u64>,
}

impl Commits {
    /// Nothing open, for so many logs, whose commits take as long as they take or are waited for so long at most.
    pub fn new(logs: usize, hold_ms: Option<u64>) -> Self {
        Commits {
            unlogged: VecDeque::new(),
            // A logged room without a log waits for ever.
            logs: (0..logs.max(1)).map(|_| LogQueue::default()).collect(),
            queued: 0,
            waiting_posts: 0,
            waiting_bytes: 0,
            dues: BTreeSet::new(),
            hold_ms,
        }
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.unlogged.is_empty() && self.queued == 0
    }

    /// So many bytes wait for a room's keys to be read, and count with those that wait for a commit.
    pub(crate) fn hold(&mut self, bytes: u64) {
        self.waiting_bytes += bytes;
    }

    /// Whether more waits than that.
    pub(crate) fn is_above(&self, bytes_max: u64) -> bool {
        self.waiting_bytes > bytes_max
    }

    /// They are taken.
    pub(crate) fn let_go(&mut self, bytes: u64) {
        self.waiting_bytes -= bytes;
    }

    /// Whether there is something to answer that waits for nothing.
    pub(crate) fn has_unlogged(&self) -> bool {
        !self.unlogged.is_empty()
    }

    /// Posts that wait for the log, and the bytes of what waits.
    pub fn waiting(&self) -> (u64, u64) {
        (self.waiting_posts, self.waiting_bytes)
    }

    /// A log is to be looked at then.
    fn set_due(&mut self, log: LogId, due_ms: Option<u64>) {
        let before_ms = std::mem::replace(&mut self.logs[log.index()].due_ms, due_ms);
        if before_ms != due_ms {
            before_ms.map(|before_ms| self.dues.remove(&(before_ms, log)));
            self.dues.extend(due_ms.map(|due_ms| (due_ms, log)));
        }
    }
}

impl Rooms {
    /// Adds what is open of a room. Where nothing of a room waits for the log, an answer does not either.
    pub(crate) fn open(&mut self, slot: Option<usize>, open: Open) {
        let (is_post, is_record) = (matches!(open, Open::Post { .. }), open.is_record());
        let logged = slot.filter(|&slot| self.slots[slot].policy.durability.is_logged());
        if let (Some(slot), Open::State { .. }) = (slot, &open) {
            // It is forgotten no sooner than it has its state.
            self.is_used(slot);
        }
        let Some(slot) = logged.filter(|&slot| is_record || !self.slots[slot].queue.is_empty()) else {
            if let Some(slot) = slot.filter(|_| is_record) {
                self.slots[slot].queue.in_flight += 1;
            }
            return self.commits.unlogged.push_back((slot, open));
        };
        if !is_record && self.commits.waiting_bytes > 2 * self.limits.log_waiting_bytes_max {
            // Only who asks again and again over ever new connections gets here: the order is given up, not the bound. What would
            // acknowledge something that waits yet is refused.
            return self.commits.unlogged.push_back((Some(slot), open.without_acknowledgement()));
        }
        self.commits.waiting_bytes += open.waiting_bytes();
        self.commits.waiting_posts += u64::from(is_post);
        self.commits.queued += 1;
        let room = &mut self.slots[slot];
        let log = self.logs.id_of(room.id);
        if room.queue.open.is_empty() {
            self.commits.logs[log.index()].rooms.entry(room.policy.class).or_default().push_back(slot);
        }
        if let Some(since_ms) = self.commits.hold_ms.and_then(|_| open.waits_since_ms()) {
            self.commits.logs[log.index()].arrived(since_ms, slot);
        }
        room.queue.open.push_back(open);
        self.logs.wake(log);
    }

    /// Makes the open posts of rooms in memory history, and sends the answers that wait for nothing.
    pub fn commit(&mut self, turn: &mut Turn<'_>) {
        while let Some((slot, open)) = self.commits.unlogged.pop_front() {
            if let Some(slot) = slot.filter(|_| open.is_record()) {
                self.slots[slot].queue.in_flight -= 1;
            }
            self.complete(slot, open, turn);
        }
    }

    /// Begins the next commit of each log in which none is in flight. Once a turn, so that what came together goes together.
    pub fn begin_commit(&mut self, turn: &mut Turn<'_>) {
        while let Some(&(due_ms, log)) = self.commits.dues.first().filter(|due| due.0 <= turn.now.monotonic_ms) {
            self.commits.dues.remove(&(due_ms, log));
            self.commits.logs[log.index()].due_ms = None;
            self.logs.wake(log);
        }
        let mut looked_at = 0;
        while let Some(&log) = self.logs.awake().get(looked_at) {
            self.tend_held(log, turn);
            self.begin_commit_of(log, turn);
            self.forget_arrivals(log);
            self.prove(log, turn);
            self.commits.set_due(log, self.due_of(log));
            looked_at += 1;
        }
    }

    fn begin_commit_of(&mut self, log: LogId, turn: &mut Turn<'_>) {
        for _ in 0..self.commits.logs[log.index()].rooms.len() {
            let is_idle = self.logs.get(log).is_some_and(|journal| !journal.is_committing());
            let queue = &self.commits.logs[log.index()];
            let Some(class) = queue.next_class().filter(|_| is_idle && !queue.flight.is_begun) else { break };
            if let Some(refusal) = self.logs.get(log).and_then(|journal| refusal_of(journal, class)) {
                self.refuse_class(log, class, &refusal, turn);
                continue;
            }
            loop {
                self.gather(log, class, turn);
                let flight = &self.commits.logs[log.index()].flight;
                if flight.records > 0 {
                    if self.begin_gathered(log, turn) {
                        break;
                    }
                    continue;
                }
                // Answers wait for no segment; what is behind them may.
                let is_empty = flight.open.is_empty();
                self.complete_flight(log, turn);
                if is_empty {
                    break;
                }
            }
        }
    }

    /// Behind a while of quiet the last block is proved, so that damage to it is not taken for a crash's remains.
    fn prove(&mut self, log: LogId, turn: &Turn<'_>) {
        let queue = &self.commits.logs[log.index()];
        let is_quiet = turn.now.monotonic_ms >= queue.last_ms + QUIET_MS && !queue.flight.is_begun;
        if is_quiet && self.logs.get(log).is_some_and(Journal::has_unproved) {
            self.logs.get_mut(log).into_iter().for_each(Journal::prove);
        }
    }

    /// When the first log has something due.
    pub(crate) fn commits_due(&self) -> Option<u64> {
        // Those that are awake may have changed since they were looked at.
        let awake = self.logs.awake();
        let asleep = self.commits.dues.iter().find(|(_, log)| !awake.contains(log)).map(|&(due_ms, _)| due_ms);
        awake.iter().filter_map(|&log| self.due_of(log)).chain(asleep).min()
    }

    /// When a segment's last block is to be proved, a commit has waited too long for a segment, or somebody for a commit.
    fn due_of(&self, log: LogId) -> Option<u64> {
        let (journal, queue) = (self.logs.get(log)?, &self.commits.logs[log.index()]);
        let is_quiet = !queue.flight.is_begun && !journal.is_committing() && journal.has_unproved();
        let prove_ms = is_quiet.then_some(queue.last_ms + QUIET_MS);
        let waits_ms = queue.waiting_since_ms.values().map(|since_ms| since_ms + SEGMENT_WAIT_MS_MAX);
        prove_ms.into_iter().chain(waits_ms).chain(self.held_due(log)).min()
    }

    /// Takes what the disk did.
    pub fn disk(&mut self, log: LogId, answer: DiskAnswer, turn: &mut Turn<'_>) {
        if let DiskAnswer::Erase(erasure) = &answer {
            return self.erase(log, erasure);
        }
        let Some(journal) = self.logs.get_mut(log) else { return };
        let mut done = Vec::new();
        journal.handle(answer, &mut done);
        self.take_done(log, done, turn);
    }

    /// Does the turn's slice of the logs' long work, and begins the reads that wait for their turn.
    pub fn begin_reads(&mut self, turn: &mut Turn<'_>) {
        let mut looked_at = 0;
        while let Some(&log) = self.logs.awake().get(looked_at) {
            looked_at += 1;
            let Some(journal) = self.logs.get_mut(log) else { continue };
            turn.counters.steps += journal.work() as u64;
            let mut done = Vec::new();
            journal.begin_reads(&mut done);
            self.take_done(log, done, turn);
        }
    }

    fn take_done(&mut self, log: LogId, done: Vec<Done>, turn: &mut Turn<'_>) {
        for done in done {
            match done {
                Done::Committed { is_last: true, .. } => self.complete_flight(log, turn),
                Done::Committed { .. } => self.complete_written(log, turn),
                Done::CommitFailed => self.commit_failed(log, turn),
                Done::Page { ticket, page } => self.page_read(Reading { log, ticket }, page, turn),
                Done::Proved => self.proved(log, turn),
                Done::Keys { ticket, keys } => {
                    if let Err(fault) = keys {
                        turn.counters.damaged_reads += 1;
                        self.pages.faults.push((log, fault));
                    }
                    self.keys_read(Reading { log, ticket }, keys.ok(), turn);
                }
                Done::State { ticket, state } => {
                    if let Err(fault) = &state {
                        turn.counters.damaged_reads += 1;
                        self.pages.faults.push((log, *fault));
                    }
                    self.state_read(Reading { log, ticket }, state, turn);
                }
            }
        }
    }

    fn complete_flight(&mut self, log: LogId, turn: &mut Turn<'_>) {
        self.states_are_said(log);
        let flight = &mut self.commits.logs[log.index()].flight;
        if flight.is_begun {
            turn.latencies.commit.record_us(turn.now.monotonic_us.saturating_sub(flight.since_us));
        }
        for (slot, open) in flight.take() {
            self.complete_logged(slot, open, turn);
        }
    }

    /// The commit is with the kernel, and on its way to the disk: what asked no more than that is done.
    fn complete_written(&mut self, log: LogId, turn: &mut Turn<'_>) {
        for (slot, open) in std::mem::take(&mut self.commits.logs[log.index()].flight.open) {
            if self.slots[slot].policy.durability == Durability::Synced {
                self.commits.logs[log.index()].flight.open.push_back((slot, open));
            } else {
                self.complete_logged(slot, open, turn);
            }
        }
    }

    fn complete_logged(&mut self, slot: usize, open: Open, turn: &mut Turn<'_>) {
        self.slots[slot].queue.in_flight -= 1;
        self.no_longer_waits(&open);
        self.complete(Some(slot), open, turn);
        self.queue_if_idle(slot);
    }

    /// What becomes of it is known.
    fn no_longer_waits(&mut self, open: &Open) {
        self.commits.queued -= 1;
        self.commits.waiting_bytes -= open.waiting_bytes();
        self.commits.waiting_posts -= u64::from(matches!(open, Open::Post { .. }));
    }

    /// A post's level is reached: it is history, and is answered.
    fn complete(&mut self, slot: Option<usize>, open: Open, turn: &mut Turn<'_>) {
        let (to, request, answer) = match (open, slot) {
            (Open::Answer { to, request, answer, .. }, _) => (to, request, answer),
            (Open::Post { .. } | Open::State { .. }, None) | (Open::Told, _) => return,
            (Open::State { decided }, Some(slot)) => {
                self.complete_decided(slot, *decided, turn);
                return self.queue_if_idle(slot);
            }
            (Open::Post { record, request, time_ms, key, since_us, decided, is_answered }, Some(slot)) => {
                let room = &mut self.slots[slot];
                let latency = &mut turn.latencies.post[room.policy.durability as usize];
                latency.record_us(turn.now.monotonic_us.saturating_sub(since_us));
                if key.is_some() {
                    self.dedupe.is_history(slot, record.sequence, self.clock.time_ms());
                }
                let answer = Answer::Posted {
                    room: room.name.clone(),
                    epoch: room.epoch,
                    sequence: record.sequence,
                    time_ms,
                    duplicate: false,
                };
                turn.counters.posts += 1;
                let author = record.author;
                if room.fresh.is_empty() {
                    self.dirty.push(slot);
                }
                room.fresh.push(record.clone());
                self.keep(slot, record, turn);
                if let Some(decided) = decided {
                    let is_own = decided.is_own;
                    self.complete_decided(slot, *decided, turn);
                    if is_own {
                        return;
                    }
                }
                if is_answered {
                    return;
                }
                (author, request, answer)
            }
        };
        turn.lanes.send_answer(to.core, Down::Answer { to: to.connection, request, answer });
    }
}

/// A connection as the log names it.
pub fn log_author(peer: Peer) -> Author {
    Author { core: peer.core.0, slot: peer.connection.slot, generation: peer.connection.generation }
}
