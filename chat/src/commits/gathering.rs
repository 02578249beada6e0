//! What goes in the next commit of a log: a share of each room in turn, with what a program said behind it and the states of
//! their rooms, as much as the segment takes.

use std::collections::VecDeque;

use banter_log::index::Entry;
use banter_log::journal::{Journal, Reach};
use banter_log::key::KeyedPost;
use banter_log::record::{Level, Record as LogRecord};
use banter_log::segment::Class;
use banter_protocol::ids::{Epoch, RoomId};
use slab::Slab;

use super::log_author;
use super::open::{Open, behind};
use super::queue::Flight;
use super::refusing::{refusal_of, refusal_of_size};
use super::states::stated;
use crate::logs::LogId;
use crate::parcel::Record;
use crate::policy::Durability;
use crate::room::Room;
use crate::rooms::Rooms;
use crate::turn::Turn;

/// Bytes that one room gives to a commit before it is the next room's turn; a larger record goes alone.
const SHARE_BYTES: usize = 8 * 1_024;
/// Places that an empty queue keeps.
const PLACES_KEPT: usize = 64;

impl Rooms {
    /// Takes from the rooms' queues what one commit of that class holds.
    pub(super) fn gather(&mut self, log: LogId, class: Class, turn: &mut Turn<'_>) {
        let Some(bytes_max) = self.logs.get(log).map(|journal| journal.room(class)) else { return };
        let queue = &mut self.commits.logs[log.index()];
        queue.flight.class = class;
        let Some(mut rooms) = queue.rooms.get_mut(&class).map(std::mem::take) else { return };
        while let Some(slot) = rooms.pop_front() {
            let is_full = self.gather_share(log, slot, bytes_max, turn);
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
        self.commits.logs[log.index()].rooms.insert(class, rooms);
    }

    /// Takes one room's share; whether the commit holds no more.
    fn gather_share(&mut self, log: LogId, slot: usize, bytes_max: usize, turn: &mut Turn<'_>) -> bool {
        let room = &mut self.slots[slot];
        let (queue, flight) = (&mut room.queue, &mut self.commits.logs[log.index()].flight);
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
            if let Some(open) = queue.pop() {
                flight.states.say(slot, &room.name, open.state());
                flight.push(slot, open);
            }
        }
        false
    }

    /// Begins what was gathered, or has it wait or refused. `false`: one room's was refused, and that of others may fit.
    pub(super) fn begin_gathered(&mut self, log: LogId, turn: &mut Turn<'_>) -> bool {
        let Some(journal) = self.logs.get_mut(log) else { return true };
        let queue = &mut self.commits.logs[log.index()];
        let class = queue.flight.class;
        // Answers count as some bytes too: it may ask for a little more room than it takes.
        let bytes = queue.flight.bytes + queue.flight.states.said_bytes();
        let carried = queue.flight.states.carried(&self.slots);
        let Some(carried) = journal.make_room_with_states(class, bytes, carried) else {
            return self.has_no_room(log, class, turn);
        };
        queue.waiting_since_ms.remove(&class);
        let (slots, flight) = (&self.slots, &queue.flight);
        let wanted = reach_of(slots, flight, journal);
        let posts = flight.open.iter().filter_map(|(slot, open)| match open {
            Open::Post { record, time_ms, key, decided, .. } => {
                let room = &slots[*slot];
                let level = if room.policy.durability == Durability::Synced { Level::Synced } else { Level::Written };
                let sent_body_hash = decided.as_ref().and_then(|decided| decided.sent_body_hash);
                let (record, entry) = logged((record, sent_body_hash), level, (room.id, room.epoch), *time_ms, *key);
                Some((record, entry, room.name.as_str()))
            }
            Open::State { .. } | Open::Answer { .. } | Open::Told => None,
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
            (queue.flight.is_begun, queue.flight.since_us) = (true, turn.now.monotonic_us);
            queue.last_ms = turn.now.monotonic_ms;
        }
        true
    }

    /// What was gathered does not fit the segment, and there is no other: as much was gathered as fits, so this is one post.
    /// `false`: it was refused with what is behind it in its room, and others may fit.
    fn has_no_room(&mut self, log: LogId, class: Class, turn: &mut Turn<'_>) -> bool {
        let Some(journal) = self.logs.get(log) else { return true };
        if let Some(refusal) = refusal_of(journal, class) {
            self.refuse_class(log, class, &refusal, turn);
            return true;
        }
        let takes_smaller = journal.room(class) > 0;
        let flight = &self.commits.logs[log.index()].flight;
        let refusal = refusal_of_size(journal, class, flight.bytes + flight.states.bytes());
        match refusal.or_else(|| self.waited_too_long(log, class, turn)) {
            Some(refusal) if takes_smaller => {
                self.refuse_gathered(log, &refusal, turn);
                return false;
            }
            Some(refusal) => self.refuse_class(log, class, &refusal, turn),
            None => self.put_back(log),
        }
        true
    }

    /// What was gathered waits in its rooms' queues again, in its order, so that another class may go ahead.
    fn put_back(&mut self, log: LogId) {
        let waiting = &mut self.commits.logs[log.index()];
        let rooms = waiting.rooms.entry(waiting.flight.class).or_default();
        for (slot, open) in waiting.flight.take().into_iter().rev() {
            let queue = &mut self.slots[slot].queue;
            queue.in_flight -= 1;
            if queue.open.is_empty() {
                rooms.push_front(slot);
            }
            queue.put_back(open);
        }
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
    (room, epoch): (RoomId, Epoch),
    time_ms: u64,
    key: Option<KeyedPost>,
) -> (LogRecord<'r>, Entry) {
    let author = log_author(record.author);
    let log_record = LogRecord { sent_body_hash, ..LogRecord::message(room, level, author, &record.frame) };
    let (kind, record_bytes) = (log_record.kind, log_record.bytes() as u32);
    (log_record, Entry { kind, room, epoch, sequence: record.sequence, time_ms, level, record_bytes, key })
}
