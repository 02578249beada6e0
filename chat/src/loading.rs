//! Which rooms are in memory: made or brought from the log when they are asked for, forgotten when there are too many and
//! nobody reads them.

use std::collections::{BTreeMap, VecDeque};

use banter_log::erasure::Erasure;
use banter_log::key::KnownKey;
use banter_log::reading::{KeysRead, KeysWant};
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::ids::{RoomId, RoomName, Sequence};
use rustc_hash::FxHashMap;

use crate::dedupe::keys_within;
use crate::logs::{LogId, Reading};
use crate::pages::refuse_fetch;
use crate::parcel::{Down, JoinAsk, Refusal, SayAsk, Up};
use crate::room::Room;
use crate::rooms::Rooms;
use crate::turn::Turn;

/// When to try again to read a dedupe window that could not be read, in milliseconds.
const KEYS_RETRY_AFTER_MS: u64 = 1_000;
/// Keys that a turn takes from what was read, and that it forgets for their age: each is some microseconds.
const KEYS_A_TURN: usize = 512;
/// Old keys are forgotten at most so often, in milliseconds, but for those that one turn was too short for.
const EXPIRY_INTERVAL_MS: u64 = 1_000;

/// Dedupe windows on their way from the log into memory.
///
/// Invariant: a keyed post is judged only by a window that was read whole. Until it was, the post waits; if it could not be
/// read, the post is refused.
#[derive(Default)]
pub(crate) struct KeysLoading {
    /// Rooms whose window is being read. They are held.
    reading: FxHashMap<Reading, usize>,
    /// Rooms whose window was read, and the keys that are still to be taken, newest first. They are held.
    taking: VecDeque<(usize, Vec<KnownKey>)>,
    /// Rooms whose window could not be read, and when it may be tried again.
    unread: BTreeMap<usize, u64>,
    /// When old keys are forgotten next.
    expire_ms: u64,
    due_ms: Option<u64>,
}

impl KeysLoading {
    /// What a keyed post is answered while the room's window is not known.
    pub(crate) fn refusal_of(&self, slot: usize, monotonic_ms: u64) -> Option<Refusal> {
        let again_ms = self.unread.get(&slot)?;
        Some(Refusal {
            code: ErrorCode::Overloaded,
            message: "the log could not be read for the keys of this room: post again".into(),
            retry_after_ms: Some(again_ms.saturating_sub(monotonic_ms).max(1)),
            scope: Some(Scope::Server),
            reason: None,
        })
    }

    /// Whether keys wait to be taken in the next turn.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.taking.is_empty()
    }

    /// Keys of what is erased are not taken.
    pub(crate) fn erase(&mut self, slot: usize, erasure: &Erasure) {
        for (_, keys) in self.taking.iter_mut().filter(|(there, _)| *there == slot) {
            keys.retain(|key| !erasure.hides_key(&key.post));
        }
    }

    /// When there is more to do, by the monotonic clock.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due_ms
    }
}

impl Rooms {
    /// Brings a room that the log knows into memory, where what is asked needs that; for a backend's post any room.
    pub(crate) fn load_for(&mut self, parcel: &Up, id: RoomId) -> Option<usize> {
        let name = match parcel {
            Up::Join(ask) => &ask.room,
            Up::Fetch(ask) => &ask.room,
            Up::Say(ask) => &ask.room,
            _ => return None,
        };
        if !matches!(parcel, Up::Say(_)) {
            self.logs.of(id)?.catalog().room(id)?;
        }
        let slot = self.room_or_new(name).ok()?;
        self.queue_if_idle(slot);
        Some(slot)
    }

    /// Finds the room, or brings it from the log, or makes it; if need be in the place of one that nobody reads.
    pub(crate) fn room_or_new(&mut self, name: &RoomName) -> Result<usize, Refusal> {
        let id = RoomId::of(name.as_str());
        if let Some(&slot) = self.by_id.get(&id) {
            return Ok(slot);
        }
        self.must_be_open(id)?;
        if self.slots.len() >= self.rooms_max && !self.forget_idle_room() {
            return Err(too_many_rooms());
        }
        let policy = *self.policies.of(name.as_str());
        let level = policy.durability.level();
        let (epoch, head) = match self.logs.of(id).zip(level) {
            Some((journal, level)) => {
                let catalog = journal.catalog();
                (catalog.epoch_of(id, level, policy.class), catalog.room(id).map_or(Sequence(0), |room| room.head))
            }
            None => (self.epochs.take().ok_or_else(no_epoch)?, Sequence(0)),
        };
        let slot = self.slots.insert(Room::new(id, name.clone(), policy, epoch, head));
        self.by_id.insert(id, slot);
        if level.is_some() {
            self.load_keys(slot);
        }
        self.follow_programs(slot);
        Ok(slot)
    }

    /// Has the dedupe window of a room read, if the log holds something that is young enough for it.
    fn load_keys(&mut self, slot: usize) {
        let room = &mut self.slots[slot];
        let log = self.logs.id_of(room.id);
        let Some(journal) = self.logs.get_mut(log) else { return };
        let since_ms = self.clock.since_ms(self.limits.dedupe_window_ms);
        let id = room.id;
        if journal.catalog().is_younger(id, since_ms) {
            room.held.get_or_insert_default().readings += 1;
            let keys_per_author_max = self.limits.dedupe_keys_per_author_max;
            let keys_max = keys_within(self.limits.dedupe_bytes_per_core_max);
            let ticket = journal.read_keys(id, KeysWant { since_ms, keys_per_author_max, keys_max });
            self.loading.reading.insert(Reading { log, ticket }, slot);
            self.is_used(slot);
        }
    }

    /// A keyed post comes to a room whose window could not be read: it is read again, if it is time.
    pub(crate) fn load_keys_again(&mut self, slot: usize, turn: &Turn<'_>) {
        if self.loading.unread.get(&slot).is_some_and(|&again_ms| again_ms <= turn.now.monotonic_ms) {
            self.loading.unread.remove(&slot);
            self.load_keys(slot);
        }
    }

    /// The dedupe window of a room was read, or could not be.
    pub(crate) fn keys_read(&mut self, reading: Reading, read: Option<KeysRead>, turn: &mut Turn<'_>) {
        // A room is not forgotten while its window is loaded.
        let Some(slot) = self.loading.reading.remove(&reading) else { return };
        match read {
            Some(read) => {
                self.dedupe.left_out(read.left_out);
                self.loading.taking.push_back((slot, read.keys));
            }
            None => {
                self.loading.unread.insert(slot, turn.now.monotonic_ms + KEYS_RETRY_AFTER_MS);
                self.reading_is_done(slot, turn);
            }
        }
    }

    /// Takes some of the keys that were read, forgets some that are old, and says when there is more to do.
    pub(crate) fn tend_keys(&mut self, turn: &mut Turn<'_>) {
        self.take_keys(turn);
        let (now_ms, window_ms) = (turn.now.monotonic_ms, self.limits.dedupe_window_ms);
        if self.loading.expire_ms <= now_ms {
            let has_more = self.dedupe.expire(self.clock.since_ms(window_ms), KEYS_A_TURN);
            self.loading.expire_ms = if has_more { now_ms } else { now_ms + EXPIRY_INTERVAL_MS };
        }
        let leaves_ms = self.dedupe.oldest_ms().map(|ms| now_ms + self.clock.leaves_in_ms(ms, window_ms));
        let leaves_ms = if self.dedupe.has_leaving() { Some(now_ms) } else { leaves_ms };
        self.loading.due_ms = leaves_ms.map(|leaves_ms| leaves_ms.max(self.loading.expire_ms));
        turn.counters.dedupe_keys = self.dedupe.keys();
        turn.counters.dedupe_bytes = self.dedupe.bytes();
        turn.counters.dedupe_early_evictions = self.dedupe.early_evictions();
    }

    fn take_keys(&mut self, turn: &mut Turn<'_>) {
        // The next turn goes on with another room, so that one with many keys holds up no other.
        if self.loading.taking.len() > 1 {
            self.loading.taking.rotate_left(1);
        }
        for _ in 0..KEYS_A_TURN {
            let Some((slot, keys)) = self.loading.taking.front_mut() else { return };
            let slot = *slot;
            match keys.pop() {
                Some(key) => {
                    self.dedupe.remember(slot, key);
                    self.dedupe.is_history(slot, Sequence(key.post.sequence), key.clock_ms);
                }
                None => {
                    self.loading.taking.pop_front();
                    self.reading_is_done(slot, turn);
                }
            }
        }
    }

    /// What comes while the room is being loaded waits, and keeps its order. Above what may wait for the log only the
    /// refusal of a post waits, and what else would wait is refused.
    pub(crate) fn hold(&mut self, slot: Option<usize>, parcel: Up, turn: &mut Turn<'_>) {
        let Some(slot) = slot else { return };
        let (log, class) = (self.logs.id_of(self.slots[slot].id), self.slots[slot].policy.class);
        let parcel = match (self.refusal_of_log(log, class, held_bytes(&parcel) as usize), parcel) {
            (Some(refusal), Up::Post { room, author, request, .. }) => {
                Up::Refuse { room, author, request, refusal: Box::new(refusal) }
            }
            (Some(refusal), Up::Say(ask)) => {
                let SayAsk { author, request, .. } = *ask;
                Up::Refuse { room: self.slots[slot].id, author, request, refusal: Box::new(refusal) }
            }
            (Some(refusal), Up::Join(ask)) if refusal.code == ErrorCode::Overloaded => {
                let JoinAsk { reader, subscription, request, .. } = *ask;
                let parcel = Down::JoinRefused { to: reader.connection, subscription, request, refusal };
                return turn.lanes.send_answer(reader.core, parcel);
            }
            (Some(refusal), Up::Fetch(ask)) if refusal.code == ErrorCode::Overloaded => {
                return refuse_fetch(&ask, refusal, turn);
            }
            (_, parcel) => parcel,
        };
        self.commits.hold(held_bytes(&parcel));
        if let Some(held) = &mut self.slots[slot].held {
            held.parcels.push_back(parcel);
        }
    }

    /// One of a room's readings came to its end.
    pub(crate) fn reading_is_done(&mut self, slot: usize, turn: &mut Turn<'_>) {
        if let Some(held) = &mut self.slots[slot].held {
            held.readings = held.readings.saturating_sub(1);
        }
        self.take_held(slot, turn);
    }

    /// What waited for a room is taken, in its order, as far as the turn has units for its program.
    pub(crate) fn take_held(&mut self, slot: usize, turn: &mut Turn<'_>) {
        loop {
            // What waited over a swap of programs is decided by those that hold now, which may have a state read.
            self.follow_programs(slot);
            let Some(held) = self.slots[slot].held.as_mut().filter(|held| held.readings == 0) else { return };
            let Some(parcel) = held.parcels.pop_front() else { break };
            if self.is_spent_for(slot) {
                if let Some(held) = &mut self.slots[slot].held {
                    held.parcels.push_front(parcel);
                }
                return self.waits_on(slot);
            }
            self.commits.let_go(held_bytes(&parcel));
            let (id, _) = parcel.room_and_peer();
            self.take(parcel, self.by_id.get(&id).copied(), turn);
        }
        self.slots[slot].held = None;
        self.queue_if_idle(slot);
    }

    /// Forgets the room that has been without readers the longest; those that never had a message first.
    fn forget_idle_room(&mut self) -> bool {
        let Some(slot) = self.idle_blank.first().or(self.idle_kept.first()) else { return false };
        self.forget_room(slot);
        true
    }

    /// The room leaves memory. Nothing of it waits for anything.
    pub(crate) fn forget_room(&mut self, slot: usize) {
        self.is_used(slot);
        self.shares.set(&mut self.slots, slot, 0);
        self.dedupe.forget_room(slot);
        self.loading.unread.remove(&slot);
        self.forget_program(slot);
        let room = self.slots.remove(slot);
        self.by_id.remove(&room.id);
    }

    /// What is read of that log for windows comes no more. The rooms that waited for it.
    pub(crate) fn forget_keys_of(&mut self, log: LogId) -> Vec<usize> {
        let reading = self.loading.reading.extract_if(|reading, _| reading.log == log).map(|(_, slot)| slot);
        let mut slots: Vec<usize> = reading.collect();
        let is_of_log = |slot: usize| self.logs.id_of(self.slots[slot].id) == log;
        let mut taking = std::mem::take(&mut self.loading.taking);
        taking.retain(|&(slot, _)| {
            let goes = is_of_log(slot);
            slots.extend(goes.then_some(slot));
            !goes
        });
        self.loading.taking = taking;
        slots
    }

    /// A room that nobody reads, and of which nothing is under way, may be forgotten from now on. Called wherever either
    /// may have come to an end.
    pub(crate) fn queue_if_idle(&mut self, slot: usize) {
        let room = &self.slots[slot];
        if !room.is_idle() || room.is_busy() {
            return;
        }
        let list = if room.is_blank() { &mut self.idle_blank } else { &mut self.idle_kept };
        list.push(&mut self.slots, slot);
    }

    /// Gives the room's next place. It may be one that nobody reads, where a backend or a program says something: from here on it may
    /// not be forgotten, and it leaves its list while that is still the one that it was added to.
    pub(crate) fn next_place(&mut self, slot: usize) -> Sequence {
        self.is_used(slot);
        self.slots[slot].next_place()
    }

    /// The room is read, or something of it is under way: it may not be forgotten.
    pub(crate) fn is_used(&mut self, slot: usize) {
        // Ahead of its first message it left the list, so it is still in the one that it was added to.
        let list = if self.slots[slot].is_blank() { &mut self.idle_blank } else { &mut self.idle_kept };
        list.remove(&mut self.slots, slot);
    }
}

/// Bytes that a parcel that waits counts for.
pub(crate) fn held_bytes(parcel: &Up) -> u64 {
    const PARCEL_BYTES: u64 = 128;
    match parcel {
        Up::Post { body, .. } => PARCEL_BYTES + body.bytes.len() as u64,
        Up::Say(ask) => PARCEL_BYTES + ask.body.bytes.len() as u64,
        _ => PARCEL_BYTES,
    }
}

/// The server keeps more of them as soon as its disk lets it.
fn no_epoch() -> Refusal {
    Refusal {
        code: ErrorCode::Overloaded,
        message: "the server has no number for a new room's history now: try again".into(),
        retry_after_ms: Some(1_000),
        scope: Some(Scope::Server),
        reason: None,
    }
}

pub(crate) fn too_many_rooms() -> Refusal {
    Refusal {
        code: ErrorCode::Overloaded,
        message: "rooms_max is reached, and every room is being read".into(),
        retry_after_ms: Some(1_000),
        scope: Some(Scope::Server),
        reason: None,
    }
}
