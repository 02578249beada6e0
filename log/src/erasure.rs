//! What is to be erased of a room: which of its places, and whose.
//!
//! Invariants:
//! - An erased place stays a place. What lies there is a tombstone ([`rewrite`]), and what readers are told is a gap of one
//!   ([`Erasures::shown`]), also before anything was written.
//! - What was acknowledged behind an ask is not concerned by it, whatever became of the log since: a message goes only if all
//!   that is known of the [`Bound`] says that it was there.

use std::borrow::Cow;
use std::collections::BTreeMap;

use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence, UserName};
use banter_protocol::native::{Kept, read_kept, write_kept};

use crate::key::{Fingerprint, KeyedPost};

mod keys;
mod rewrite;

pub use keys::without_keys;
pub use rewrite::{Rewrite, Rewritten, rewrite};

/// Up to where an erasure reaches: what lies behind it in any of these was said later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The room's history by then. What it began anew since has a later one.
    pub epoch: Epoch,
    /// The last place by then.
    pub last: Sequence,
    /// The time of the newest message by then, as it stands in the log, milliseconds since 1970: it tells what was said on a copy
    /// of the log, which may give the same places and epochs.
    pub newest_ms: u64,
}

impl Bound {
    /// Nothing is known.
    pub const UNKNOWN: Bound = Bound { epoch: Epoch(u64::MAX), last: Sequence(u64::MAX), newest_ms: u64::MAX };
    /// Nothing was there.
    pub const NOTHING: Bound = Bound { epoch: Epoch(0), last: Sequence(0), newest_ms: 0 };

    /// What is within both.
    #[must_use]
    pub fn within(self, other: Bound) -> Bound {
        Bound {
            epoch: self.epoch.min(other.epoch),
            last: self.last.min(other.last),
            newest_ms: self.newest_ms.min(other.newest_ms),
        }
    }
}

/// An erasure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Tells it from the others.
    pub number: u64,
    /// The room.
    pub room: RoomName,
    /// Only what this user said; `None`: what anybody did.
    pub user: Option<UserName>,
    /// The first place.
    pub first: Sequence,
    /// The last place, as it was asked.
    pub last: Sequence,
    /// Up to where it reaches, as far as that is known.
    pub bound: Bound,
}

impl Erasure {
    /// The room.
    pub fn room_id(&self) -> RoomId {
        RoomId::of(self.room.as_str())
    }

    /// The last of its places that was there.
    pub fn end(&self) -> Sequence {
        self.last.min(self.bound.last)
    }

    /// Whether a place is one of its places.
    pub fn spans(&self, sequence: Sequence) -> bool {
        (self.first..=self.end()).contains(&sequence)
    }

    /// Whether that is to be erased. What is erased already is not.
    pub fn hides(&self, kept: &Kept<'_>) -> bool {
        let user = match kept {
            Kept::Message(message, _) => message.user,
            Kept::Change(change) => change.user,
            Kept::Erased { .. } => return false,
        };
        self.spans(kept.sequence())
            && kept.epoch() <= self.bound.epoch
            && kept.time_ms() <= self.bound.newest_ms
            && kept.room() == self.room.as_str()
            && self.user.as_ref().is_none_or(|there| there.as_str() == user)
    }

    /// Whether the key of that post goes with it.
    pub fn hides_key(&self, post: &KeyedPost) -> bool {
        self.keys().holds(post)
    }

    /// What it says of keys: for many of them.
    pub fn keys(&self) -> ErasedKeys<'_> {
        let author = self.user.as_ref().map(|user| Fingerprint::of(user.as_str(), "").author());
        ErasedKeys { erasure: self, room: self.room_id(), author }
    }

    /// The frame as readers are told it: of what is to be erased a gap of one, of anything else the frame itself.
    pub fn shown<'f>(&self, frame: &'f [u8]) -> Cow<'f, [u8]> {
        match read_kept(frame) {
            Ok(kept) if self.hides(&kept) => Cow::Owned(gap_of(&kept)),
            _ => Cow::Borrowed(frame),
        }
    }
}

/// The keys that go with an erasure.
#[derive(Clone, Copy, Debug)]
pub struct ErasedKeys<'e> {
    erasure: &'e Erasure,
    author: Option<u64>,
    /// Whose they are.
    pub room: RoomId,
}

impl ErasedKeys<'_> {
    /// Whether that one of the room does. A key has no epoch: its time tells it from one of a room that began anew.
    pub fn holds(&self, post: &KeyedPost) -> bool {
        self.erasure.spans(Sequence(post.sequence))
            && post.time_ms <= self.erasure.bound.newest_ms
            && self.author.is_none_or(|author| author == post.fingerprint.author())
    }
}

/// What readers are told of an erased place.
pub fn gap_of(kept: &Kept<'_>) -> Vec<u8> {
    let mut gap = Vec::new();
    write_kept(&Kept::Erased { room: kept.room(), epoch: kept.epoch(), sequence: kept.sequence() }, &mut gap);
    gap
}

/// The erasures of a core's rooms that are not on the disk yet.
#[derive(Debug, Default)]
pub struct Erasures {
    rooms: BTreeMap<RoomId, Vec<Erasure>>,
}

impl Erasures {
    /// Adds one; one of the same number, which is known better now, goes.
    pub fn add(&mut self, erasure: Erasure) {
        let of_room = self.rooms.entry(erasure.room_id()).or_default();
        of_room.retain(|there| there.number != erasure.number);
        of_room.push(erasure);
    }

    /// One of them.
    pub fn get(&self, room: RoomId, number: u64) -> Option<&Erasure> {
        self.of(room).iter().find(|there| there.number == number)
    }

    /// Those of a room.
    pub fn of(&self, room: RoomId) -> &[Erasure] {
        self.rooms.get(&room).map_or(&[], Vec::as_slice)
    }

    /// It is on the disk.
    pub fn end(&mut self, room: RoomId, number: u64) {
        if let Some(of_room) = self.rooms.get_mut(&room) {
            of_room.retain(|there| there.number != number);
            if of_room.is_empty() {
                self.rooms.remove(&room);
            }
        }
    }

    /// The room begins anew, and what is at those places now is something else.
    pub fn forget_room(&mut self, room: RoomId) {
        self.rooms.remove(&room);
    }

    /// What readers are told of what lies in a room: a gap where it is to be erased, or was.
    pub fn shown<'k>(&self, room: RoomId, kept: Kept<'k>) -> Kept<'k> {
        if self.of(room).iter().any(|there| there.hides(&kept)) {
            return Kept::Erased { room: kept.room(), epoch: kept.epoch(), sequence: kept.sequence() };
        }
        kept
    }
}

#[cfg(test)]
mod tests;
