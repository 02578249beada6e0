//! What becomes of posts that have a place: those of rooms in memory become history at once, those of logged rooms when
//! their commit has reached the room's level, and none of them where the log cannot take them.
//!
//! Invariants:
//! - One commit is in flight; what comes meanwhile is the next one.
//! - The answers to one connection's posts to one room come in the order of the posts: a room has one level, and what is
//!   open at that level is answered in order.
//! - When a commit fails, everything behind it is refused with it, and the places are given again.

use std::collections::VecDeque;

use banter_log::index::Entry;
use banter_log::journal::{Answer as DiskAnswer, Done, Journal, Reach, State};
use banter_log::key::KeyedPost;
use banter_log::record::{Author, Level, PREFIX_BYTES, Record as LogRecord};
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::ids::{RequestId, RoomId};

use crate::address::Peer;
use crate::loading::keeping;
use crate::parcel::{Answer, Down, Record, Refusal};
use crate::policy::Durability;
use crate::rooms::Rooms;
use crate::turn::Turn;

/// When to try again what a full disk refused, in milliseconds.
const FULL_RETRY_AFTER_MS: u64 = 1_000;

/// Posts that have a place, and answers that must keep their order among them.
#[derive(Debug, Default)]
pub struct Commits {
    /// Of rooms in memory.
    unlogged: VecDeque<Open>,
    /// Of logged rooms, for the next commit.
    queued: VecDeque<Open>,
    /// In the commit in flight.
    flight: VecDeque<Open>,
}

/// What waits for its room's level.
#[derive(Debug)]
pub enum Open {
    /// A post.
    Post {
        /// Its room, which stays while it is open.
        slot: usize,
        /// The message.
        record: Record,
        /// The client's number.
        request: RequestId,
        /// The message's time, milliseconds since 1970.
        time_ms: u64,
        /// Its key.
        key: Option<KeyedPost>,
    },
    /// An answer.
    Answer {
        /// Who gets it.
        to: Peer,
        /// The room.
        room: RoomId,
        /// The client's number.
        request: RequestId,
        /// What is answered.
        answer: Answer,
    },
}

impl Commits {
    /// Adds what is open.
    pub fn push(&mut self, is_logged: bool, open: Open) {
        if is_logged { self.queued.push_back(open) } else { self.unlogged.push_back(open) }
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.unlogged.is_empty() && self.queued.is_empty() && self.flight.is_empty()
    }
}

/// What a post to a logged room is answered while the log takes none.
pub fn refusal_of(journal: &Journal) -> Option<Refusal> {
    match journal.state() {
        State::Open => None,
        State::Full => Some(Refusal {
            code: ErrorCode::LogFull,
            message: "the disk of the log is full: reading goes on, and posts when there is space again".into(),
            retry_after_ms: Some(FULL_RETRY_AFTER_MS),
            scope: Some(Scope::Server),
        }),
        State::Failed => Some(Refusal::new(
            ErrorCode::LogFailed,
            "the log could not be written: reading goes on, and posts when the server was started again",
        )),
    }
}

impl Rooms {
    /// Makes the open posts of rooms in memory history, and sends the answers that wait for nothing.
    pub fn commit(&mut self, turn: &mut Turn<'_>) {
        while let Some(open) = self.commits.unlogged.pop_front() {
            self.complete(open, turn);
        }
        while self.commits.flight.is_empty()
            && matches!(self.commits.queued.front(), Some(Open::Answer { .. }))
            && let Some(open) = self.commits.queued.pop_front()
        {
            self.complete(open, turn);
        }
    }

    /// Begins the next commit of the log, if none is in flight. Once a turn, so that what came together goes together.
    pub fn begin_commit(&mut self, turn: &mut Turn<'_>) {
        let Some(journal) = &mut self.journal else { return };
        if !self.commits.flight.is_empty() || self.commits.queued.is_empty() {
            return;
        }
        if let Some(refusal) = refusal_of(journal) {
            let refused = std::mem::take(&mut self.commits.queued);
            return self.refuse_open(refused, &refusal, turn);
        }
        if !journal.is_idle() {
            return;
        }
        let (mut count, mut bytes, mut has_written, mut has_synced) = (0, 0, false, false);
        for open in &self.commits.queued {
            if let Open::Post { slot, record, .. } = open {
                let record_bytes = PREFIX_BYTES + record.frame.len();
                if bytes > 0 && bytes + record_bytes > journal.commit_bytes_max() {
                    break;
                }
                bytes += record_bytes;
                let is_synced = self.slots[*slot].policy.durability == Durability::Synced;
                (has_synced, has_written) = (has_synced | is_synced, has_written | !is_synced);
            }
            count += 1;
        }
        let slots = &self.slots;
        let posts = self.commits.queued.iter().take(count).filter_map(|open| match open {
            Open::Post { slot, record, time_ms, key, .. } => {
                let room = &slots[*slot];
                let level = if room.policy.durability == Durability::Synced { Level::Synced } else { Level::Written };
                Some(logged(record, level, (room.id, room.epoch), *time_ms, *key))
            }
            Open::Answer { .. } => None,
        });
        let wanted = match (has_written, has_synced) {
            (_, false) => Reach::Written,
            (false, true) => Reach::Synced,
            (true, true) => Reach::WrittenThenSynced,
        };
        if journal.commit(posts, wanted) {
            self.commits.flight.extend(self.commits.queued.drain(..count));
            turn.counters.commits += 1;
            turn.counters.committed_bytes += bytes as u64;
        }
    }

    /// Takes what the disk did.
    pub fn disk(&mut self, answer: DiskAnswer, turn: &mut Turn<'_>) {
        let Some(journal) = &mut self.journal else { return };
        let mut done = Vec::new();
        journal.handle(answer, &mut done);
        self.take_done(done, turn);
    }

    /// Begins the reads that wait for their turn.
    pub fn begin_reads(&mut self, turn: &mut Turn<'_>) {
        let Some(journal) = &mut self.journal else { return };
        let mut done = Vec::new();
        journal.begin_reads(&mut done);
        self.take_done(done, turn);
    }

    fn take_done(&mut self, done: Vec<Done>, turn: &mut Turn<'_>) {
        for done in done {
            match done {
                Done::Committed { is_last: true, .. } => {
                    for open in std::mem::take(&mut self.commits.flight) {
                        self.complete(open, turn);
                    }
                }
                Done::Committed { .. } => self.complete_written(turn),
                Done::CommitFailed => self.commit_failed(turn),
                Done::Page { ticket, page } => self.page_read(ticket, page, turn),
                Done::Keys { ticket, keys } => {
                    if let Err(segment) = keys {
                        turn.counters.damaged_reads += 1;
                        self.pages.damaged.push(segment);
                    }
                    self.keys_read(ticket, keys.ok(), turn);
                }
            }
        }
    }

    /// The commit is with the kernel, and on its way to the disk: what asked no more than that is done.
    fn complete_written(&mut self, turn: &mut Turn<'_>) {
        for open in std::mem::take(&mut self.commits.flight) {
            let slot = match &open {
                Open::Post { slot, .. } => Some(*slot),
                Open::Answer { room, .. } => self.by_id.get(room).copied(),
            };
            let level = slot.map(|slot| self.slots[slot].policy.durability);
            if level == Some(Durability::Synced) {
                self.commits.flight.push_back(open);
            } else {
                self.complete(open, turn);
            }
        }
    }

    fn commit_failed(&mut self, turn: &mut Turn<'_>) {
        let mut refused = std::mem::take(&mut self.commits.flight);
        refused.append(&mut self.commits.queued);
        let refusal = self.journal.as_ref().and_then(refusal_of).unwrap_or_else(|| Refusal {
            code: ErrorCode::LogFull,
            message: "the disk of the log was full for a moment: post again".into(),
            retry_after_ms: Some(FULL_RETRY_AFTER_MS),
            scope: Some(Scope::Server),
        });
        self.refuse_open(refused, &refusal, turn);
    }

    /// Refuses posts that have a place; the places, and what was to be answered of them, are taken back.
    fn refuse_open(&mut self, refused: VecDeque<Open>, refusal: &Refusal, turn: &mut Turn<'_>) {
        for open in refused {
            let (to, request, answer) = match open {
                Open::Post { slot, record, request, .. } => {
                    let room = &mut self.slots[slot];
                    room.take_back();
                    self.dedupe.forget_behind(slot, room.history.head());
                    (record.author, request, Answer::Refused(refusal.clone()))
                }
                Open::Answer { to, room, request, answer } => {
                    let head = self.by_id.get(&room).map(|&slot| self.slots[slot].history.head());
                    let is_of_refused = matches!(&answer, Answer::Posted { sequence, .. } if Some(*sequence) > head);
                    (to, request, if is_of_refused { Answer::Refused(refusal.clone()) } else { answer })
                }
            };
            turn.lanes.send_answer(to.core, Down::Answer { to: to.connection, request, answer }, true);
        }
    }

    /// A post's level is reached: it is history, and is answered.
    fn complete(&mut self, open: Open, turn: &mut Turn<'_>) {
        let (to, request, answer) = match open {
            Open::Answer { to, request, answer, .. } => (to, request, answer),
            Open::Post { slot, record, request, time_ms, key } => {
                let room = &mut self.slots[slot];
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
                self.keep(slot, record);
                self.keep_of_log(slot);
                (author, request, answer)
            }
        };
        turn.lanes.send_answer(to.core, Down::Answer { to: to.connection, request, answer }, true);
    }

    /// Lets the log forget what the room's policy says, when the room has come to a new segment.
    fn keep_of_log(&mut self, slot: usize) {
        let room = &mut self.slots[slot];
        if room.policy.retention_bytes == 0 && room.policy.retention_hours == 0 {
            return;
        }
        let Some(journal) = &mut self.journal else { return };
        let newest = journal.catalog().room(room.id).and_then(|log| log.spans.back()).map_or(0, |span| span.segment);
        if std::mem::replace(&mut room.kept_segment, newest) != newest {
            journal.catalog_mut().keep_of_room(room.id, keeping(&room.policy, &self.limits, &self.clock));
        }
    }
}

fn logged<'r>(
    record: &'r Record,
    level: Level,
    (room, epoch): (RoomId, banter_protocol::ids::Epoch),
    time_ms: u64,
    key: Option<KeyedPost>,
) -> (LogRecord<'r>, Entry) {
    let author = log_author(record.author);
    let log_record = LogRecord { level, author, frame: &record.frame };
    let record_bytes = log_record.bytes() as u32;
    (log_record, Entry { room, epoch, sequence: record.sequence, time_ms, level, record_bytes, key })
}

/// A connection as the log names it.
pub fn log_author(peer: Peer) -> Author {
    Author { core: peer.core.0, slot: peer.connection.slot, generation: peer.connection.generation }
}
