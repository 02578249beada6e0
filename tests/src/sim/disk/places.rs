//! What lies on the simulated disk of each room, read by nothing but the blocks themselves: no index, no catalog.

use std::collections::{BTreeMap, BTreeSet};

use banter_log::index::Entry;
use banter_log::scan::Scan;
use banter_protocol::ids::RoomId;

use super::{SimDisk, SimSegment};

/// The places of each room, with the segments that they lie in, in the order in which they were written.
#[derive(Debug, Default)]
pub struct Places {
    of_rooms: BTreeMap<RoomId, Vec<(u64, u64)>>,
    /// The segments that were cut once, with their rooms: also one that was not removed, and was there again.
    cut: BTreeMap<u64, BTreeSet<RoomId>>,
}

impl SimDisk {
    /// What lies on it, for whoever reads what a seed does.
    pub fn tell(&self) {
        for (id, segment) in &self.segments {
            let mut rooms: BTreeMap<RoomId, (u64, u64, u64)> = BTreeMap::new();
            // A state has no place of its own.
            for entry in segment.entries().into_iter().filter(|entry| entry.kind.is_numbered()) {
                let (place, epoch) = (entry.sequence.0, entry.epoch.0);
                let of_room = rooms.entry(entry.room).or_insert((place, place, epoch));
                *of_room = (of_room.0.min(place), place, epoch);
            }
            let rooms = rooms.iter().map(|(room, (first, last, epoch))| {
                let name = (0..8).map(|number| format!("room-{number}")).find(|name| RoomId::of(name) == *room);
                format!("{} {first}-{last} under {epoch}", name.unwrap_or_default())
            });
            let class = segment.header.class;
            let what = (segment.is_sealed, segment.index.is_some(), segment.is_cut);
            println!(
                "      segment {id} of {} h {} B, run {}, sealed, indexed, cut {what:?}: {}",
                class.hours,
                class.bytes,
                segment.header.run,
                rooms.collect::<Vec<_>>().join(", ")
            );
        }
    }

    /// Whether a segment with something of that room is cut and not removed.
    pub fn has_cut_of(&self, room: RoomId) -> bool {
        self.segments.values().any(|segment| segment.is_cut && segment.entries().iter().any(|entry| entry.room == room))
    }

    /// All of what was written and is whole.
    pub fn places(&self) -> Places {
        let mut places = Places { cut: self.cut_once.clone(), ..Places::default() };
        for (&id, segment) in &self.segments {
            // A state has no place of its own.
            for entry in segment.entries().into_iter().filter(|entry| entry.kind.is_numbered()) {
                places.of_rooms.entry(entry.room).or_default().push((id, entry.sequence.0));
            }
        }
        places
    }
}

impl Places {
    /// The newest place of a room.
    pub fn head(&self, room: RoomId) -> Option<u64> {
        self.of_rooms.get(&room)?.last().map(|(_, place)| *place)
    }

    /// From where on a room is there up to that place, one place behind another. What lies before a segment that was removed
    /// and held something of the room is not the same history.
    pub fn first(&self, room: RoomId, head: u64, removed: &BTreeMap<u64, BTreeSet<RoomId>>) -> u64 {
        let (mut first, mut behind) = (head + 1, u64::MAX);
        for &(segment, place) in self.of_rooms.get(&room).into_iter().flatten().rev() {
            if place + 1 != first {
                continue; // It was refused, and given again.
            }
            // What was written while it was cut does not lead there.
            let lacks = |gone: &BTreeMap<u64, BTreeSet<RoomId>>| {
                gone.range(segment..behind).any(|(_, rooms)| rooms.contains(&room))
            };
            let is_other = segment < behind && [removed, &self.cut].into_iter().any(lacks);
            if first <= head && is_other {
                break;
            }
            (first, behind) = (place, segment);
        }
        first
    }
}

impl SimSegment {
    /// What its blocks hold, as far as they check.
    fn entries(&self) -> Vec<Entry> {
        let Ok(blocks) = Scan::new(&self.written) else { return Vec::new() };
        // What lies behind the end of a sealed one was refused.
        let end = if self.is_sealed { self.end_offset } else { u64::MAX };
        let blocks = blocks.take_while(|block| block.behind.offset <= end);
        let records = blocks.flat_map(|block| block.records().map_while(Result::ok).collect::<Vec<_>>());
        records.filter_map(|record| Some(Entry::read(&record, RoomId::of)?.0)).collect()
    }

    /// The rooms that it holds something of.
    pub(super) fn rooms(&self) -> BTreeSet<RoomId> {
        self.entries().into_iter().map(|entry| entry.room).collect()
    }
}
