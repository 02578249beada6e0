//! Which keyed posts of a core's rooms are known, so that a repeated post is told from a new one.
//!
//! The window: the newest `dedupe_keys_per_author_max` keyed posts of each user in a room that are no older than
//! `dedupe_window_ms`, under `dedupe_bytes_per_core_max` over all rooms of the core.
//!
//! Invariants:
//! - An author's keys are pushed out by newer ones of the same author in the same room, by their age, and, above the bytes of
//!   the core, as the oldest of the core; by nothing else.
//! - A post that may still be refused is known whatever its age, and pushes nobody out until it is history.
//! - Nothing here is done for all keys or all rooms at once, and no table is ever copied into a larger one.

use std::collections::{BTreeMap, BTreeSet};

use banter_log::erasure::Erasure;
use banter_log::key::{Fingerprint, KeyedPost, KnownKey};
use banter_protocol::ids::Sequence;

/// Rough bytes that a key takes. Nodes of a B-tree have place for 11 and hold 6 where what comes is ascending, and 7 or 8
/// on average otherwise: 48 bytes by fingerprint take 70, 24 by place 46, 16 by author and place 29; an author takes 24 more,
/// shared by all of the author's keys, and what lies above the leaves another tenth.
pub const KEY_BYTES: u64 = 168;

/// The windows of a core's rooms.
#[derive(Debug)]
pub struct Dedupe {
    keys_per_author_max: u32,
    history_keys_max: usize,
    /// By the room's slot.
    rooms: BTreeMap<usize, RoomKeys>,
    /// When the oldest key of each room became history, and the room.
    oldest: BTreeSet<(u64, usize)>,
    /// Of rooms that were forgotten: they go bit by bit.
    leaving: Vec<RoomKeys>,
    /// Keys in memory.
    keys: usize,
    /// Those of them whose posts are history, without those that are leaving.
    history_keys: usize,
    early_evictions: u64,
}

/// The window of a room.
#[derive(Debug, Default)]
struct RoomKeys {
    known: BTreeMap<Fingerprint, Known>,
    /// All of them by place. Those behind `history` may still be refused.
    places: BTreeMap<u64, Fingerprint>,
    /// Author and place of those that are history.
    by_author: BTreeSet<(u64, u64)>,
    /// How many of them each author has.
    authors: BTreeMap<u64, u32>,
    /// The newest place that is history.
    history: u64,
    /// As the room stands in [`Dedupe::oldest`].
    listed_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    sequence: u64,
    body: u32,
    time_ms: u64,
    clock_ms: u64,
}

/// What the window says of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The key is new, or was forgotten.
    New,
    /// The same post was taken before.
    Duplicate(KeyedPost),
    /// The key was used for another body.
    Conflict,
}

impl Dedupe {
    /// Empty windows. Of keys whose posts are history they hold `bytes_max` bytes.
    pub fn new(keys_per_author_max: u32, bytes_max: u64) -> Self {
        Dedupe {
            keys_per_author_max,
            history_keys_max: keys_within(bytes_max),
            rooms: BTreeMap::new(),
            oldest: BTreeSet::new(),
            leaving: Vec::new(),
            keys: 0,
            history_keys: 0,
            early_evictions: 0,
        }
    }

    /// Judges a post and does not remember it. Keys of posts before `since_ms` are forgotten, if these are history.
    pub fn judge(&self, slot: usize, fingerprint: Fingerprint, body: u32, since_ms: u64) -> Verdict {
        let Some(room) = self.rooms.get(&slot) else { return Verdict::New };
        let is_within = |known: &&Known| known.clock_ms >= since_ms || known.sequence > room.history;
        match room.known.get(&fingerprint).filter(is_within) {
            None => Verdict::New,
            Some(known) if known.body == body => {
                let (sequence, time_ms) = (known.sequence, known.time_ms);
                Verdict::Duplicate(KeyedPost { sequence, time_ms, fingerprint, body })
            }
            Some(_) => Verdict::Conflict,
        }
    }

    /// Remembers a post that may still be refused.
    pub fn remember(&mut self, slot: usize, key: KnownKey) {
        let KnownKey { post: KeyedPost { sequence, time_ms, fingerprint, body }, clock_ms } = key;
        let room = self.rooms.entry(slot).or_default();
        if let Some(&Known { sequence, .. }) = room.known.get(&fingerprint) {
            // It is used again since it was forgotten.
            self.forget(slot, sequence);
        }
        let room = self.rooms.entry(slot).or_default();
        room.known.insert(fingerprint, Known { sequence, body, time_ms, clock_ms });
        room.places.insert(sequence, fingerprint);
        self.keys += 1;
    }

    /// A post that could be refused is history, as of that time: from now on its key grows old, and may push out another.
    pub fn is_history(&mut self, slot: usize, sequence: Sequence, clock_ms: u64) {
        let Some(room) = self.rooms.get_mut(&slot) else { return };
        room.history = room.history.max(sequence.0);
        let Some(author) = room.make_history(sequence.0, clock_ms) else { return };
        self.history_keys += 1;
        if room.authors.get(&author).is_some_and(|&keys| keys > self.keys_per_author_max)
            && let Some(oldest) = room.oldest_of(author)
        {
            self.forget(slot, oldest);
        }
        self.list(slot);
        while self.history_keys > self.history_keys_max && self.forget_oldest() {
            self.early_evictions += 1;
        }
    }

    /// Forgets what was remembered of posts behind that place, which were refused after all.
    pub fn forget_behind(&mut self, slot: usize, head: Sequence) {
        while let Some(room) = self.rooms.get(&slot)
            && let Some((&sequence, _)) = room.places.last_key_value()
            && sequence > head.0
        {
            self.forget(slot, sequence);
        }
    }

    /// Forgets the keys of what is erased in a room, among so many from that place on. Where to go on; `None`: no key of it is
    /// here any more.
    pub fn erase(&mut self, slot: usize, erasure: &Erasure, from: Sequence, keys_max: usize) -> Option<Sequence> {
        let room = self.rooms.get(&slot)?;
        let (first, last) = (from.max(erasure.first).0, erasure.end().0);
        // Of places that were not given yet nothing is known, and a range does not go back.
        let range = (first <= last).then(|| room.places.range(first..=last));
        let all = range.into_iter().flatten().take(keys_max);
        let all: Vec<(u64, Fingerprint)> = all.map(|(&sequence, &fingerprint)| (sequence, fingerprint)).collect();
        let next = all.last().map(|&(sequence, _)| Sequence(sequence).next()).filter(|_| all.len() == keys_max);
        let is_erased = |&&(sequence, fingerprint): &&(u64, Fingerprint)| {
            erasure.hides_key(&KeyedPost { sequence, time_ms: 0, fingerprint, body: 0 })
        };
        for &(sequence, _) in all.iter().filter(is_erased) {
            self.forget(slot, sequence);
        }
        next
    }

    /// Forgets a room.
    pub fn forget_room(&mut self, slot: usize) {
        let Some(room) = self.rooms.remove(&slot) else { return };
        if let Some(listed_ms) = room.listed_ms {
            self.oldest.remove(&(listed_ms, slot));
        }
        self.history_keys -= room.by_author.len();
        self.leaving.push(room);
    }

    /// Forgets keys that are older than `since_ms`, and some of forgotten rooms: so many in all. Whether there are more.
    pub fn expire(&mut self, since_ms: u64, keys_max: usize) -> bool {
        for _ in 0..keys_max {
            let is_old = self.oldest_ms().is_some_and(|oldest_ms| oldest_ms < since_ms);
            let has_gone = (is_old && self.forget_oldest()) || self.forget_of_leaving();
            if !has_gone {
                return false;
            }
        }
        true
    }

    /// Whether keys of forgotten rooms are still in memory.
    pub fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// The time of the oldest key that may go, milliseconds since 1970.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.oldest.first().map(|&(oldest_ms, _)| oldest_ms)
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(&(_, slot)) = self.oldest.first() else { return false };
        let oldest = self.rooms.get(&slot).and_then(|room| room.places.first_key_value());
        let Some((&sequence, _)) = oldest else { return false };
        self.forget(slot, sequence);
        true
    }

    fn forget_of_leaving(&mut self) -> bool {
        let Some(room) = self.leaving.last_mut() else { return false };
        self.keys -= usize::from(room.places.pop_first().is_some());
        room.known.pop_first();
        room.by_author.pop_first();
        room.authors.pop_first();
        if room.places.is_empty() {
            self.leaving.pop();
        }
        true
    }

    fn forget(&mut self, slot: usize, sequence: u64) {
        let Some(room) = self.rooms.get_mut(&slot) else { return };
        let Some(fingerprint) = room.places.remove(&sequence) else { return };
        room.known.remove(&fingerprint);
        self.keys -= 1;
        self.history_keys -= usize::from(room.forget_of_author(fingerprint.author(), sequence));
        self.list(slot);
        if self.rooms.get(&slot).is_some_and(|room| room.places.is_empty()) {
            self.rooms.remove(&slot);
        }
    }

    /// Keeps a room's entry among the oldest right.
    fn list(&mut self, slot: usize) {
        let Some(room) = self.rooms.get_mut(&slot) else { return };
        let oldest_ms = room.oldest_ms();
        let listed_ms = std::mem::replace(&mut room.listed_ms, oldest_ms);
        if listed_ms == oldest_ms {
            return;
        }
        if let Some(listed_ms) = listed_ms {
            self.oldest.remove(&(listed_ms, slot));
        }
        self.oldest.extend(oldest_ms.map(|oldest_ms| (oldest_ms, slot)));
    }

    /// Keys in memory.
    pub fn keys(&self) -> u64 {
        self.keys as u64
    }

    /// Rough bytes of them.
    pub fn bytes(&self) -> u64 {
        self.keys() * KEY_BYTES
    }

    /// Keys that went within their window, for want of bytes.
    pub fn early_evictions(&self) -> u64 {
        self.early_evictions
    }

    /// Keys that were left out when a window was read, for want of bytes.
    pub fn left_out(&mut self, keys: u64) {
        self.early_evictions += keys;
    }
}

impl RoomKeys {
    /// The author of a key that becomes history; `None` if it is none.
    fn make_history(&mut self, sequence: u64, clock_ms: u64) -> Option<u64> {
        let fingerprint = self.places.get(&sequence)?;
        let author = fingerprint.author();
        if !self.by_author.insert((author, sequence)) {
            return None;
        }
        self.known.get_mut(fingerprint)?.clock_ms = clock_ms;
        *self.authors.entry(author).or_default() += 1;
        Some(author)
    }

    fn oldest_of(&self, author: u64) -> Option<u64> {
        self.by_author.range((author, 0)..).next().map(|&(_, sequence)| sequence)
    }

    /// `false`: it was not history.
    fn forget_of_author(&mut self, author: u64, sequence: u64) -> bool {
        let was_history = self.by_author.remove(&(author, sequence));
        if was_history && let Some(keys) = self.authors.get_mut(&author) {
            *keys -= 1;
            if *keys == 0 {
                self.authors.remove(&author);
            }
        }
        was_history
    }

    fn oldest_ms(&self) -> Option<u64> {
        let (&sequence, fingerprint) = self.places.first_key_value()?;
        let known = self.known.get(fingerprint).filter(|_| sequence <= self.history)?;
        Some(known.clock_ms)
    }
}

/// How many keys there is place for.
pub fn keys_within(bytes: u64) -> usize {
    usize::try_from(bytes / KEY_BYTES).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
