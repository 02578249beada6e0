//! Which rooms are in memory: made or brought from the log when they are asked for, forgotten when there are too many and
//! nobody reads them.

use banter_log::catalog::Keeping;
use banter_log::key::KeyedPost;
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};

use crate::limits::Limits;
use crate::parcel::{Refusal, Up};
use crate::policy::RoomPolicy;
use crate::room::Room;
use crate::rooms::Rooms;
use crate::turn::Turn;

impl Rooms {
    /// Brings a room that the log knows into memory, where what is asked needs that.
    pub(crate) fn load_for(&mut self, parcel: &Up, id: RoomId, turn: &mut Turn<'_>) -> Option<usize> {
        let name = match parcel {
            Up::Join(ask) => &ask.room,
            Up::Fetch(ask) => &ask.room,
            _ => return None,
        };
        self.journal.as_ref()?.catalog().room(id)?;
        let slot = self.room_or_new(name, turn.now.unix_ms).ok()?;
        self.queue_if_idle(slot);
        Some(slot)
    }

    /// Finds the room, or brings it from the log, or makes it; if need be in the place of one that nobody reads.
    pub(crate) fn room_or_new(&mut self, name: &RoomName, unix_ms: u64) -> Result<usize, Refusal> {
        let id = RoomId::of(name.as_str());
        if let Some(&slot) = self.by_id.get(&id) {
            return Ok(slot);
        }
        if self.slots.len() >= self.rooms_max && !self.forget_idle_room() {
            return Err(too_many_rooms());
        }
        let policy = *self.policies.of(name.as_str());
        let known = match &mut self.journal {
            Some(journal) if policy.durability.is_logged() => {
                journal.catalog_mut().keep_of_room(id, keeping(&policy, &self.limits, unix_ms));
                journal.catalog().room(id).map(|room| (room.epoch, room.head()))
            }
            _ => None,
        };
        let (epoch, head) = known.unwrap_or_else(|| {
            let epoch = self.next_epoch;
            self.next_epoch = Epoch(epoch.0 + self.epoch_step);
            (epoch, Sequence(0))
        });
        let slot = self.slots.insert(Room::new(id, name.clone(), policy, epoch, head));
        self.by_id.insert(id, slot);
        if known.is_some() {
            self.load_keys(slot, unix_ms);
        }
        Ok(slot)
    }

    /// Has the dedupe window of a room read, if the log holds something that is young enough for it.
    fn load_keys(&mut self, slot: usize, unix_ms: u64) {
        let Some(journal) = &mut self.journal else { return };
        let room = &mut self.slots[slot];
        let since_ms = unix_ms.saturating_sub(self.limits.dedupe_window_ms.into());
        let newest = journal.catalog().room(room.id).and_then(|log| log.spans.back());
        if newest.is_some_and(|span| span.newest_ms >= since_ms) {
            room.held = Some(Box::default());
            let ticket = journal.read_keys(room.id, since_ms, self.limits.dedupe_keys_per_author_max as usize);
            self.loading.insert(ticket, room.id);
        }
    }

    /// The dedupe window of a room was read: what waited for it is taken.
    pub(crate) fn loaded(&mut self, ticket: u32, keys: &[KeyedPost], turn: &mut Turn<'_>) {
        let Some(id) = self.loading.remove(&ticket) else { return };
        let Some(&slot) = self.by_id.get(&id) else { return };
        let since_ms = turn.now.unix_ms.saturating_sub(self.limits.dedupe_window_ms.into());
        for &key in keys {
            self.slots[slot].remember(key);
            self.slots[slot].key_is_history(self.limits.dedupe_keys_per_author_max, since_ms);
        }
        for parcel in self.slots[slot].held.take().into_iter().flat_map(|held| *held) {
            let (id, _) = parcel.room_and_peer();
            self.take(parcel, self.by_id.get(&id).copied(), turn);
        }
        self.queue_if_idle(slot);
    }

    /// Forgets the room that has been without readers the longest; those that never had a message first.
    fn forget_idle_room(&mut self) -> bool {
        let Some(slot) = self.idle_blank.first().or(self.idle_kept.first()) else { return false };
        self.is_used(slot);
        self.shares.set(&mut self.slots, slot, 0);
        let room = self.slots.remove(slot);
        self.by_id.remove(&room.id);
        true
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

    /// The room is read, or something of it is under way: it may not be forgotten.
    pub(crate) fn is_used(&mut self, slot: usize) {
        // A room that nobody reads gets no first message, so it is still in the list that it was added to.
        let list = if self.slots[slot].is_blank() { &mut self.idle_blank } else { &mut self.idle_kept };
        list.remove(&mut self.slots, slot);
    }
}

pub(crate) fn too_many_rooms() -> Refusal {
    Refusal {
        code: ErrorCode::Overloaded,
        message: "rooms_max is reached, and every room is being read".into(),
        retry_after_ms: Some(1_000),
        scope: Some(Scope::Server),
    }
}

/// How much the log keeps of a room.
pub(crate) fn keeping(policy: &RoomPolicy, limits: &Limits, unix_ms: u64) -> Keeping {
    const HOUR_MS: u64 = 3_600_000;
    let kept_ms = u64::from(policy.retention_hours) * HOUR_MS;
    Keeping {
        bytes: policy.retention_bytes,
        since_ms: if kept_ms == 0 { 0 } else { unix_ms.saturating_sub(kept_ms) },
        at_least_since_ms: unix_ms.saturating_sub(limits.dedupe_window_ms.into()),
    }
}
