//! What a core keeps in memory of one room in the log, and how parts and records lie to that.

use banter_protocol::ids::{Epoch, RoomId, Sequence};

use crate::checkpoint::KeptRoom;
use crate::index::{Entry, JUMP_PARTS, Part};
use crate::record::Level;

/// One room in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownRoom {
    pub epoch: Epoch,
    pub head: Sequence,
    pub first: Sequence,
    /// The segment of its newest part.
    pub newest: u64,
    /// The segment of its newest part whose number is a multiple of [`JUMP_PARTS`].
    pub far: u64,
    /// The time of its newest record, milliseconds since 1970.
    pub newest_ms: u64,
    /// The number of its newest part.
    pub depth: u32,
    /// The level of its newest record.
    pub level: Level,
}

const _: () = assert!(size_of::<KnownRoom>() + size_of::<RoomId>() <= 72, "what is said of it in `catalog.rs`");

/// How a part lies to what is known of its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    /// It follows, or gives again what was refused.
    GoesOn,
    /// What is known is another life of the room, or something that went lay between.
    Begins,
    /// Places between them are not there.
    Lacks,
}

impl KnownRoom {
    /// One of which nothing is known before that record.
    pub fn before(entry: &Entry) -> Self {
        let first = if entry.kind.is_numbered() { entry.sequence } else { entry.sequence.next() };
        let (epoch, level) = (entry.epoch, entry.level);
        KnownRoom { epoch, head: first.previous(), first, newest: 0, far: 0, newest_ms: 0, depth: 0, level }
    }

    /// As a checkpoint has it.
    pub fn kept(&self, room: RoomId) -> KeptRoom {
        let KnownRoom { epoch, head, first, newest, far, newest_ms, depth, level } = *self;
        KeptRoom { room, epoch, head, first, newest, far, newest_ms, depth, level }
    }

    /// Whether that record is the room's next.
    pub fn is_followed_by(&self, entry: &Entry) -> bool {
        let next = if entry.kind.is_numbered() { self.head.next() } else { self.head };
        entry.sequence == next && self.epoch <= entry.epoch
    }

    /// How a part in a later segment lies to this, which goes on under `epoch`.
    pub fn joint_to(&self, part: &Part, is_chained: bool, epoch: Epoch) -> Joint {
        // A writer names what it goes on from. It does not know a part all of which was refused, which may lie between.
        let names_another = is_chained && (part.chain.before == 0 || part.chain.before > self.newest);
        // Where nobody named it: places that were refused are given again in the same run, under the same epoch.
        let is_anew = !is_chained && epoch > self.epoch && part.first <= self.head;
        if part.first > self.head.next() {
            Joint::Lacks
        } else if names_another || is_anew {
            Joint::Begins
        } else {
            Joint::GoesOn
        }
    }

    /// What it has before that place is out of reach.
    pub fn lose_to(&mut self, first: Sequence) {
        self.first = self.first.max(first.min(self.head.next()));
    }

    /// Its part in that segment, which is not its newest, goes; it ended there.
    pub fn lose_part(&mut self, segment: u64, last: Sequence) {
        // Otherwise its first part is younger: it was cut whole before, and began anew.
        if self.newest > segment && (self.depth >= JUMP_PARTS || self.far <= segment) {
            self.lose_to(last.next());
        }
    }
}
