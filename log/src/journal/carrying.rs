//! The journal's part in carrying states: says which a commit takes along, and makes room for them with the rest of it.

use banter_protocol::ids::RoomId;

use super::Journal;
use crate::segment::Class;
use crate::state::STATE_BYTES_MAX;

impl Journal {
    /// Whether the segment that the next commit of that class goes into names no state of that room yet: then a state of the
    /// room goes ahead of its first record there, in the same block. Asked when there is room for the commit, since that may
    /// be in another segment than the one before.
    pub fn lacks_state(&self, class: Class, room: RoomId) -> bool {
        let active = self.lanes.get(&class).and_then(|lane| lane.active.as_ref());
        let part = active.and_then(|active| active.index.room(room));
        part.is_none_or(|there| there.part.state_offset == 0)
    }

    /// Bytes of those states' records that the segment which is written to lacks. What is asked of
    /// [`Journal::lacks_space_for`] is the commit with them.
    pub fn lacking_bytes(&self, class: Class, states: impl Iterator<Item = (RoomId, usize)>) -> usize {
        states.filter(|&(room, _)| self.lacks_state(class, room)).map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of a state's record at most, where a message's has so many at most: one message and its room's state fit one
    /// commit.
    pub fn state_bytes_max(&self, message_bytes_max: usize) -> usize {
        STATE_BYTES_MAX.min(self.commit_bytes_max.saturating_sub(message_bytes_max))
    }

    /// Makes room for a commit of so many bytes of records, as [`Journal::make_room`] does, and of what is to be carried with
    /// it. `states` are the states of the rooms in the commit, those that have one, each room once: which, and the bytes of
    /// its record. Returns the rooms whose states go ahead of the records. `None`: there is no other segment yet.
    ///
    /// Records and all of the states come to no more than [`Journal::commit_bytes_max`], also where few are carried: so any
    /// segment takes them.
    #[must_use = "the states of these rooms go ahead of the records"]
    pub fn make_room_with_states(
        &mut self,
        class: Class,
        record_bytes: usize,
        states: impl Iterator<Item = (RoomId, usize)> + Clone,
    ) -> Option<Vec<RoomId>> {
        let fits_here = self.fits_active(class, record_bytes + self.lacking_bytes(class, states.clone()));
        // In another segment all of them are to be said again.
        let in_next = || record_bytes + states.clone().map(|(_, bytes)| bytes).sum::<usize>();
        if !fits_here && !self.rotate(class, Self::bytes_for(in_next())) {
            return None;
        }
        Some(states.map(|(room, _)| room).filter(|&room| self.lacks_state(class, room)).collect())
    }
}
