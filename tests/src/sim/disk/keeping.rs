//! What the keeper does on the simulated disk: which segments go, and which indexes are made again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use banter_chat::address::Core;
use banter_log::index::Part;
use banter_log::journal::Answer;
use banter_log::segment::Class;
use banter_server::storage::indexes::{Mended, mend_index};
use banter_server::storage::retention::{Held, Plan, Rules, plan};
use banter_server::storage::{index_path, segment_path};

use super::{Act, SEGMENT_BYTES, SimDisk, SimSegment};
use crate::seeded::Seeded;
use crate::sim::coverage::Coverage;
use crate::sim::crash::Folder;

impl SimDisk {
    /// So long after the start, by the wall clock as it is.
    pub fn keep_time(&mut self, elapsed_ms: u64, unix_ms: u64) {
        if let Some(ages) = &mut self.ages {
            ages.advance(elapsed_ms, unix_ms);
        }
    }

    /// What the keeper would drop now.
    pub fn plan(&self, rules: Rules) -> Plan {
        let held = self.segments.values().filter(|there| !there.is_cut).map(|there| Held {
            header: there.header,
            file_bytes: SEGMENT_BYTES as u64,
            newest_ms: there.is_sealed.then_some(there.newest_ms),
        });
        plan(held, rules, self.ages.as_ref().expect("a server runs"))
    }

    /// The oldest segment of some class that is not cut yet, if it is sealed and holds a message.
    pub fn oldest_of_a_class(&self, chance: &mut Seeded) -> Option<u64> {
        let mut oldest: BTreeMap<Class, u64> = BTreeMap::new();
        for segment in self.segments.values().filter(|segment| !segment.is_cut) {
            oldest.entry(segment.header.class).or_insert(segment.header.id);
        }
        let classes: Vec<Class> = oldest.into_keys().collect();
        self.oldest_of(*classes.get(chance.below(classes.len()))?)
    }

    /// The same of that class.
    pub fn oldest_of(&self, class: Class) -> Option<u64> {
        let mut segments = self.segments.values().filter(|it| it.header.class == class && !it.is_cut);
        segments.next().filter(|it| it.is_sealed && it.newest_ms > 0).map(|it| it.header.id)
    }

    /// The class of some segment.
    pub fn some_class(&self, chance: &mut Seeded) -> Option<Class> {
        self.segments.values().nth(chance.below(self.segments.len())).map(|segment| segment.header.class)
    }

    /// What is written of that class, with the cores that do.
    pub fn written_of(&self, class: Class) -> Vec<(Core, u64)> {
        let written = self.segments.values().filter(|it| it.header.class == class && !it.is_sealed);
        written.map(|segment| (segment.core(), segment.header.id)).collect()
    }

    /// A segment is to be forgotten: by these cores. Its rooms are as its index says, in memory or on the disk, where that
    /// can be read.
    pub fn cut(&mut self, id: u64, chance: &mut Seeded, seen: &mut Coverage) -> (Vec<Core>, Option<Vec<Part>>) {
        let is_unread = self.happens(self.faults.read_once_in, chance);
        let in_memory = self.pending.iter().flatten().find_map(|(_, act)| match act {
            Act::WriteIndex(end, _, index) if end.segment.id == id => Some(index.parts().copied().collect()),
            _ => None,
        });
        let segment = self.segments.get_mut(&id).expect("a segment that is to be cut");
        segment.is_cut = true;
        self.cut_once.insert(id, segment.rooms());
        let parts = in_memory.or_else(|| segment.parts().filter(|_| !is_unread));
        seen.saw_times("segment cut whose index cannot be read", u64::from(parts.is_none()));
        (segment.needed_by.iter().copied().collect(), parts)
    }

    /// Segments that nobody needs go, the oldest of a class first; one without a record explains nothing, and goes at once.
    pub fn drop_free(&mut self, seen: &mut Coverage) {
        let mut held_back = BTreeSet::new();
        let mut free = Vec::new();
        for segment in self.segments.values() {
            let is_free = segment.is_sealed && segment.needed_by.is_empty();
            if is_free && (segment.newest_ms == 0 || !held_back.contains(&segment.header.class)) {
                free.push(segment.header.id);
            } else {
                held_back.insert(segment.header.class);
            }
        }
        for id in free {
            let rooms = self.segments.remove(&id).map(|there| there.rooms());
            self.removed.insert(id, rooms.unwrap_or_default());
            seen.saw("segment dropped");
        }
    }

    /// A core found an index wrong: what the cores are told of it.
    pub(super) fn mend_for(
        &mut self,
        core: usize,
        id: u64,
        chance: &mut Seeded,
        seen: &mut Coverage,
    ) -> Vec<(usize, Answer)> {
        let mended = self.mend_index(id, chance, seen);
        let needed_by = self.segments.get(&id).map(|there| there.needed_by.clone()).unwrap_or_default();
        let answer = match mended {
            Some(Mended::WasRight(parts) | Mended::MadeAgain(parts)) => Answer::Indexed { segment: id, parts },
            not => Answer::NotIndexed { segment: id, is_damaged: not == Some(Mended::Not) },
        };
        let mut answers = Vec::new();
        if let Some(Mended::MadeAgain(parts)) = mended {
            let others = needed_by.into_iter().map(Core::index);
            answers.extend(others.map(|other| (other, Answer::Indexed { segment: id, parts })));
        }
        answers.push((core, answer));
        answers
    }

    /// Makes an index again, by the server's own hands, in a folder of its own. What the disk cannot read meanwhile is a
    /// folder there. `None`: it could not be done now, or the segment is not known.
    fn mend_index(&mut self, id: u64, chance: &mut Seeded, seen: &mut Coverage) -> Option<Mended> {
        let (header, end_offset) =
            self.segments.get(&id).filter(|it| it.index.is_some()).map(|it| (it.header, it.end_offset))?;
        let folder = Folder::new();
        fs::create_dir_all(folder.data()).ok()?;
        let mut older = Vec::new();
        for (&other, there) in self.segments.range(..id).filter(|(_, there)| !there.is_cut) {
            older.push(there.header);
            let fails = self.happens(self.faults.read_once_in, chance);
            seen.saw_times("table of an older segment unreadable", u64::from(fails));
            put(&index_path(folder.data(), other), there.index.as_deref(), fails);
        }
        let there = &self.segments[&id];
        let fails = |chance: &mut Seeded| self.happens(self.faults.read_once_in, chance);
        put(&segment_path(folder.data(), id), Some(&there.written), fails(chance));
        put(&index_path(folder.data(), id), there.index.as_deref(), fails(chance));
        let mended = mend_index(folder.data(), &header, end_offset, older.into_iter().rev()).ok()?;
        let there = self.segments.get_mut(&id)?;
        if let Mended::MadeAgain(_) = mended {
            there.index = Some(fs::read(index_path(folder.data(), id)).expect("an index that was made again"));
            seen.saw("index made again");
        }
        Some(mended)
    }

    /// A segment that is written, or is to be next, and its core.
    pub fn written_one(&self, chance: &mut Seeded) -> Option<(Core, u64)> {
        let written: Vec<_> = self.segments.values().filter(|segment| !segment.is_sealed).collect();
        let segment = written.get(chance.below(written.len()))?;
        Some((segment.core(), segment.header.id))
    }
}

/// A file, or what cannot be read.
fn put(path: &Path, bytes: Option<&[u8]>, is_unreadable: bool) {
    match bytes {
        _ if is_unreadable => fs::create_dir(path).expect("a folder"),
        Some(bytes) => fs::write(path, bytes).expect("a file"),
        None => {}
    }
}

impl SimSegment {
    /// Who writes it.
    pub fn core(&self) -> Core {
        Core(self.header.core)
    }
}
