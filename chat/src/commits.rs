//! What becomes of posts that have a place: those of rooms in memory become history at once, those of logged rooms when
//! their commit has reached the room's level, and none of them where the log cannot take them.
//!
//! ```text
//!  post ─▶ its room's queue ─▶ gathered, a share of each room in turn ─▶ in flight ─▶ history, and answered
//! ```
//!
//! Invariants:
//! - One commit is in flight; what comes meanwhile is the next one. A commit is of rooms of one retention class; classes
//!   take turns.
//! - The answers to one connection's posts to one room come in the order of the posts: a room has one level, and what is
//!   open at that level is answered in order.
//! - When a commit fails, everything behind it is refused with it, and the places are given again. A post that does not fit
//!   what is left of a full disk takes only its own room's with it.
//! - Rooms take turns: one that is posted to faster than the log takes it makes only itself wait.
//! - What waits is bounded by `log_waiting_bytes_max`: above it posts are refused before they get a place, and with the
//!   answers that wait behind them there is at most twice as much. Rooms in memory wait for nothing here, whatever the
//!   disk does.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use banter_log::index::Entry;
use banter_log::journal::{Answer as DiskAnswer, Done, Journal, Reach};
use banter_log::key::KeyedPost;
use banter_log::record::{Author, Level, Record as LogRecord};
use banter_log::segment::Class;
use slab::Slab;

use crate::address::Peer;
use crate::parcel::{Answer, Down, Record};
use crate::policy::Durability;
use crate::room::Room;
use crate::rooms::Rooms;
use crate::turn::Turn;

mod open;
mod refusing;
mod states;

use open::behind;
pub use open::{Decided, Open, RoomQueue};
pub(crate) use refusing::log_is_full;
use refusing::{refusal_of, refusal_of_size};
use states::{States, stated};

/// Bytes that one room gives to a commit before it is the next room's turn; a larger record goes alone.
const SHARE_BYTES: usize = 8 * 1_024;
/// Quiet behind which the last block of a segment is proved, in milliseconds.
const QUIET_MS: u64 = 1_000;
/// How long posts wait for a segment before they are refused, in milliseconds.
const SEGMENT_WAIT_MS_MAX: u64 = 5_000;
/// Places that an empty queue keeps.
const PLACES_KEPT: usize = 64;

/// Posts that have a place, and answers that must keep their order among them.
#[derive(Debug, Default)]
pub struct Commits {
    /// What waits for no disk.
    unlogged: VecDeque<(Option<usize>, Open)>,
    /// Logged rooms whose queue holds something, in turn, by their retention class.
    rooms: BTreeMap<Class, VecDeque<usize>>,
    flight: Flight,
    waiting_posts: u64,
    waiting_bytes: u64,
    /// When something was committed last, in the turns' milliseconds.
    last_ms: u64,
    /// Classes that wait for a segment, and since when, in the turns' milliseconds.
    waiting_since_ms: BTreeMap<Class, u64>,
}

/// The commit in flight, or what was gathered for it.
#[derive(Debug, Default)]
struct Flight {
    open: VecDeque<(usize, Open)>,
    bytes: usize,
    /// Posts and states in it.
    records: usize,
    /// What rooms with a state say of it.
    states: States,
    class: Class,
    is_begun: bool,
    /// When it began, in the turns' microseconds.
    since_us: u64,
}

impl Commits {
    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.unlogged.is_empty() && !self.has_queued() && self.flight.open.is_empty()
    }

    fn has_queued(&self) -> bool {
        self.rooms.values().any(|rooms| !rooms.is_empty())
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
}

impl Flight {
    fn push(&mut self, slot: usize, open: Open) {
        self.bytes += open.bytes();
        self.records += usize::from(open.is_record());
        self.open.push_back((slot, open));
    }

    /// Whose turn it was is remembered.
    fn take(&mut self) -> VecDeque<(usize, Open)> {
        let class = self.class;
        std::mem::replace(self, Flight { class, ..Flight::default() }).open
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
        let room = &mut self.slots[slot];
        if room.queue.open.is_empty() {
            self.commits.rooms.entry(room.policy.class).or_default().push_back(slot);
        }
        room.queue.open.push_back(open);
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

    /// Begins the next commit of the log, if none is in flight. Once a turn, so that what came together goes together.
    pub fn begin_commit(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..self.commits.rooms.len() {
            let is_idle = self.journal.as_ref().is_some_and(|journal| !journal.is_committing());
            let Some(class) = self.next_class().filter(|_| is_idle && !self.commits.flight.is_begun) else { break };
            if let Some(refusal) = self.journal.as_ref().and_then(|journal| refusal_of(journal, class)) {
                self.refuse_class(class, &refusal, turn);
                continue;
            }
            loop {
                self.gather(class, turn);
                if self.commits.flight.records > 0 {
                    if self.begin_gathered(turn) {
                        break;
                    }
                    continue;
                }
                // Answers wait for no segment; what is behind them may.
                let is_empty = self.commits.flight.open.is_empty();
                self.complete_flight(turn);
                if is_empty {
                    break;
                }
            }
        }
        self.prove(turn);
    }

    /// The class whose turn it is among those that have something queued.
    fn next_class(&self) -> Option<Class> {
        let queued = |(class, rooms): (&Class, &VecDeque<usize>)| (!rooms.is_empty()).then_some(*class);
        let behind = (Bound::Excluded(self.commits.flight.class), Bound::Unbounded);
        let next = self.commits.rooms.range(behind).find_map(queued);
        next.or_else(|| self.commits.rooms.iter().find_map(queued))
    }

    /// Behind a while of quiet the last block is proved, so that damage to it is not taken for a crash's remains.
    fn prove(&mut self, turn: &Turn<'_>) {
        let is_quiet = turn.now.monotonic_ms >= self.commits.last_ms + QUIET_MS;
        if let Some(journal) = &mut self.journal
            && is_quiet
            && !self.commits.flight.is_begun
            && journal.has_unproved()
        {
            journal.prove();
        }
    }

    /// When a segment's last block is to be proved, or a commit has waited too long for a segment.
    pub(crate) fn commits_due(&self) -> Option<u64> {
        let journal = self.journal.as_ref()?;
        let is_quiet = !self.commits.flight.is_begun && !journal.is_committing() && journal.has_unproved();
        let prove_ms = is_quiet.then_some(self.commits.last_ms + QUIET_MS);
        let waits_ms = self.commits.waiting_since_ms.values().map(|since_ms| since_ms + SEGMENT_WAIT_MS_MAX);
        prove_ms.into_iter().chain(waits_ms).min()
    }

    /// Takes from the rooms' queues what one commit of that class holds.
    fn gather(&mut self, class: Class, turn: &mut Turn<'_>) {
        let Some(bytes_max) = self.journal.as_ref().map(|journal| journal.room(class)) else { return };
        self.commits.flight.class = class;
        let Some(mut rooms) = self.commits.rooms.get_mut(&class).map(std::mem::take) else { return };
        while let Some(slot) = rooms.pop_front() {
            let is_full = self.gather_share(slot, bytes_max, turn);
            let queue = &mut self.slots[slot].queue.open;
            if queue.is_empty() {
                if queue.capacity() > PLACES_KEPT {
                    *queue = VecDeque::new();
                }
            } else if is_full {
                rooms.push_front(slot);
                break;
            } else {
                rooms.push_back(slot);
            }
        }
        self.commits.rooms.insert(class, rooms);
    }

    /// Takes one room's share; whether the commit holds no more.
    fn gather_share(&mut self, slot: usize, bytes_max: usize, turn: &mut Turn<'_>) -> bool {
        let room = &mut self.slots[slot];
        let (queue, flight) = (&mut room.queue, &mut self.commits.flight);
        let (mut share, mut is_first) = (0, true);
        while let Some(open) = queue.open.front().filter(|open| share < SHARE_BYTES || open.is_behind()) {
            let bytes = open.bytes();
            // What a program said behind a post goes with it, and their room's state with both.
            if !open.is_behind() {
                let group = bytes + behind(&queue.open).map(Open::bytes).sum::<usize>();
                let state = flight.states.added_bytes(slot, &room.name, room.program.as_deref(), &queue.open);
                if flight.bytes > 0 && flight.bytes + flight.states.bytes() + group + state > bytes_max {
                    return true;
                }
            }
            if std::mem::take(&mut is_first) {
                flight.states.enter(slot, &room.name, room.program.as_deref());
            }
            share += bytes;
            turn.counters.steps += 1;
            queue.in_flight += 1;
            if let Some(open) = queue.open.pop_front() {
                flight.states.say(slot, &room.name, open.state());
                flight.push(slot, open);
            }
        }
        false
    }

    /// Begins what was gathered, or has it wait or refused. `false`: one room's was refused, and that of others may fit.
    fn begin_gathered(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(journal) = self.journal.as_mut() else { return true };
        let class = self.commits.flight.class;
        // Answers count as some bytes too: it may ask for a little more room than it takes.
        let bytes = self.commits.flight.bytes + self.commits.flight.states.said_bytes();
        let carried = self.commits.flight.states.carried(&self.slots);
        let Some(carried) = journal.make_room_with_states(class, bytes, carried) else {
            return self.has_no_room(class, turn);
        };
        self.commits.waiting_since_ms.remove(&class);
        let (slots, flight) = (&self.slots, &self.commits.flight);
        let wanted = reach_of(slots, flight, journal);
        let posts = flight.open.iter().filter_map(|(slot, open)| match open {
            Open::Post { record, time_ms, key, decided, .. } => {
                let room = &slots[*slot];
                let level = if room.policy.durability == Durability::Synced { Level::Synced } else { Level::Written };
                let sent_body_hash = decided.as_ref().and_then(|decided| decided.sent_body_hash);
                let (record, entry) = logged((record, sent_body_hash), level, (room.id, room.epoch), *time_ms, *key);
                Some((record, entry, room.name.as_str()))
            }
            Open::State { .. } | Open::Answer { .. } => None,
        });
        let is_begun = if flight.states.is_empty() {
            journal.commit(class, posts, wanted)
        } else {
            let (ahead, behind) =
                flight.states.records(slots, &flight.open, &carried, (self.clock.time_ms(), journal.catalog()));
            let states = |states| stated(states, slots);
            journal.commit(class, states(&ahead).chain(posts).chain(states(&behind)), wanted)
        };
        if is_begun {
            turn.counters.commits += 1;
            turn.counters.committed_bytes += flight.bytes as u64;
            (self.commits.flight.is_begun, self.commits.flight.since_us) = (true, turn.now.monotonic_us);
            self.commits.last_ms = turn.now.monotonic_ms;
        }
        true
    }

    /// What was gathered does not fit the segment, and there is no other: as much was gathered as fits, so this is one post.
    /// `false`: it was refused with what is behind it in its room, and others may fit.
    fn has_no_room(&mut self, class: Class, turn: &mut Turn<'_>) -> bool {
        let Some(journal) = &self.journal else { return true };
        if let Some(refusal) = refusal_of(journal, class) {
            self.refuse_class(class, &refusal, turn);
            return true;
        }
        let takes_smaller = journal.room(class) > 0;
        let refusal = refusal_of_size(journal, class, self.commits.flight.bytes + self.commits.flight.states.bytes());
        match refusal.or_else(|| self.waited_too_long(class, turn)) {
            Some(refusal) if takes_smaller => {
                self.refuse_gathered(&refusal, turn);
                return false;
            }
            Some(refusal) => self.refuse_class(class, &refusal, turn),
            None => self.put_back(),
        }
        true
    }

    /// What was gathered waits in its rooms' queues again, in its order, so that another class may go ahead.
    fn put_back(&mut self) {
        let class = self.commits.flight.class;
        let rooms = self.commits.rooms.entry(class).or_default();
        for (slot, open) in self.commits.flight.take().into_iter().rev() {
            let queue = &mut self.slots[slot].queue;
            queue.in_flight -= 1;
            if queue.open.is_empty() {
                rooms.push_front(slot);
            }
            queue.open.push_front(open);
        }
    }

    /// Takes what the disk did.
    pub fn disk(&mut self, answer: DiskAnswer, turn: &mut Turn<'_>) {
        if let DiskAnswer::Erase(erasure) = &answer {
            return self.erase(erasure);
        }
        let Some(journal) = &mut self.journal else { return };
        let mut done = Vec::new();
        journal.handle(answer, &mut done);
        self.take_done(done, turn);
    }

    /// Does the turn's slice of the log's long work, and begins the reads that wait for their turn.
    pub fn begin_reads(&mut self, turn: &mut Turn<'_>) {
        let Some(journal) = &mut self.journal else { return };
        turn.counters.steps += journal.work() as u64;
        let mut done = Vec::new();
        journal.begin_reads(&mut done);
        self.take_done(done, turn);
    }

    fn take_done(&mut self, done: Vec<Done>, turn: &mut Turn<'_>) {
        for done in done {
            match done {
                Done::Committed { is_last: true, .. } => self.complete_flight(turn),
                Done::Committed { .. } => self.complete_written(turn),
                Done::CommitFailed => self.commit_failed(turn),
                Done::Page { ticket, page } => self.page_read(ticket, page, turn),
                Done::Keys { ticket, keys } => {
                    if let Err(fault) = keys {
                        turn.counters.damaged_reads += 1;
                        self.pages.faults.push(fault);
                    }
                    self.keys_read(ticket, keys.ok(), turn);
                }
                Done::State { ticket, state } => {
                    if let Err(fault) = &state {
                        turn.counters.damaged_reads += 1;
                        self.pages.faults.push(*fault);
                    }
                    self.state_read(ticket, state, turn);
                }
            }
        }
    }

    fn complete_flight(&mut self, turn: &mut Turn<'_>) {
        if self.commits.flight.is_begun {
            turn.latencies.commit.record_us(turn.now.monotonic_us.saturating_sub(self.commits.flight.since_us));
        }
        self.states_are_said();
        for (slot, open) in self.commits.flight.take() {
            self.complete_logged(slot, open, turn);
        }
    }

    /// The commit is with the kernel, and on its way to the disk: what asked no more than that is done.
    fn complete_written(&mut self, turn: &mut Turn<'_>) {
        for (slot, open) in std::mem::take(&mut self.commits.flight.open) {
            if self.slots[slot].policy.durability == Durability::Synced {
                self.commits.flight.open.push_back((slot, open));
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
        self.commits.waiting_bytes -= open.waiting_bytes();
        self.commits.waiting_posts -= u64::from(matches!(open, Open::Post { .. }));
    }

    /// A post's level is reached: it is history, and is answered.
    fn complete(&mut self, slot: Option<usize>, open: Open, turn: &mut Turn<'_>) {
        let (to, request, answer) = match (open, slot) {
            (Open::Answer { to, request, answer, .. }, _) => (to, request, answer),
            (Open::Post { .. } | Open::State { .. }, None) => return,
            (Open::State { decided }, Some(slot)) => {
                self.complete_decided(slot, *decided, turn);
                return self.queue_if_idle(slot);
            }
            (Open::Post { record, request, time_ms, key, since_us, decided }, Some(slot)) => {
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
                (author, request, answer)
            }
        };
        turn.lanes.send_answer(to.core, Down::Answer { to: to.connection, request, answer });
    }
}

/// How far a commit is to get, and what is told of it.
fn reach_of(slots: &Slab<Room>, flight: &Flight, journal: &Journal) -> Reach {
    let (mut has_written, mut has_synced) = (false, false);
    for (slot, _) in flight.open.iter().filter(|(_, open)| open.is_record()) {
        let room = &slots[*slot];
        let is_synced = room.policy.durability == Durability::Synced;
        (has_synced, has_written) = (has_synced | is_synced, has_written | !is_synced);
        // The first message behind one that was safer is as safe as that before anybody is told of it: otherwise a power
        // cut could take all that says that the level went down, and its places would be given again.
        if !is_synced && journal.catalog().room(room.id).is_some_and(|known| known.level == Level::Synced) {
            return Reach::Synced;
        }
    }
    match (has_written, has_synced) {
        (_, false) => Reach::Written,
        (false, true) => Reach::Synced,
        (true, true) => Reach::WrittenThenSynced,
    }
}

fn logged<'r>(
    (record, sent_body_hash): (&'r Record, Option<u64>),
    level: Level,
    (room, epoch): (banter_protocol::ids::RoomId, banter_protocol::ids::Epoch),
    time_ms: u64,
    key: Option<KeyedPost>,
) -> (LogRecord<'r>, Entry) {
    let author = log_author(record.author);
    let log_record = LogRecord { sent_body_hash, ..LogRecord::message(room, level, author, &record.frame) };
    let (kind, record_bytes) = (log_record.kind, log_record.bytes() as u32);
    (log_record, Entry { kind, room, epoch, sequence: record.sequence, time_ms, level, record_bytes, key })
}

/// A connection as the log names it.
pub fn log_author(peer: Peer) -> Author {
    Author { core: peer.core.0, slot: peer.connection.slot, generation: peer.connection.generation }
}
