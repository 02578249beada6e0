//! The journal's part in erasing: hides at once what is to go, and lets go of what was read of files that were rewritten.

use super::Journal;
use crate::erasure::Erasure;
use crate::reading::{FileRange, LogFile};

impl Journal {
    /// Nobody sees from now on what that erasure is about, as far as it is in the log: it ends at the room's head. Says it as
    /// it is known now, and the segment that is being written, if it holds something of it.
    pub fn erase(&mut self, erasure: &Erasure) -> (Erasure, Option<u64>) {
        let known = self.catalog.hide(erasure);
        self.readings.iter_mut().for_each(|(_, reading)| reading.erase(&known));
        let room = known.room_id();
        let active = self.lanes.values().filter_map(|lane| lane.active.as_ref());
        let concerned = active
            .into_iter()
            .find(|active| active.index.room(room).is_some_and(|there| there.part.first <= known.end()));
        let segment = concerned.map(|active| active.place.segment.id);
        (known, segment)
    }

    /// Other files lie in the place of a segment's own, of the same layout: what was read of the old ones, or is being, is not
    /// believed any more. Erased frames that readings hold were replaced when that was asked.
    pub(super) fn rewritten(&mut self, segment: u64) {
        for file in [LogFile::Segment, LogFile::Index] {
            self.cache.get_mut().forget(segment, file);
        }
        let is_of_it = |range: &&FileRange| range.segment == segment;
        self.replaced.extend(self.reading.keys().filter(is_of_it));
        self.readings.iter_mut().for_each(|(_, reading)| reading.begin_anew());
    }
}
