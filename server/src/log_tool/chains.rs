//! Whether what a log holds is all that it should hold: a sealed segment as much as its index says, and no segment missing in
//! the midst.
//!
//! A room's newest part in a segment names the segment of the part before it. The segments of a class go in the order in which
//! they were made, so one that is named, and is neither there nor older than the oldest of its class, was lost. Where nothing is
//! named, as in a copy that has no indexes, messages that are missing between two parts are judged as a start judges them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;

use banter_log::PAGE_BYTES;
use banter_log::catalog::{Catalog, Hole, Past};
use banter_log::index::{self, IndexHeader, Part};
use banter_log::scan::Ending;
use banter_log::segment::SegmentHeader;
use serde::Serialize;

use super::damage::Broken;
use super::folder::LogFolder;
use super::walk::Walk;
use crate::storage::index_path;
use crate::storage::indexes::read_parts;
use crate::storage::ledger::Ledger;
use crate::storage::recovery::index_of;

/// How many times longer than its segment an index is at most.
const INDEX_PARTS_MAX: u64 = 4;

/// What an index is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum IndexState {
    /// It is there, and checks.
    Whole,
    /// There is none: the segment is not sealed, or this is a copy.
    Missing,
    /// It does not check. The server makes it again.
    Damaged,
}

/// The segments so far, and what they have of each room.
pub(super) struct Chains {
    catalog: Catalog,
    past: Past<'static>,
    there: BTreeSet<u64>,
    /// Segments that are missing, and were when a start was told to go on.
    pub given_up: BTreeSet<u64>,
}

/// What rooms of a segment miss before it.
#[derive(Default)]
struct Misses {
    /// Rooms that name a segment that was lost.
    lost: BTreeMap<u64, u64>,
    /// Rooms that miss messages behind a segment, and those of the first of them.
    holes: BTreeMap<u64, (u64, Hole)>,
}

impl Chains {
    /// Of that folder, whose ledger says that.
    pub(super) fn new(folder: &LogFolder, ledger: &Ledger) -> Self {
        let headers: Vec<_> = folder.segments.iter().filter_map(|&id| header_of(folder, id)).collect();
        Chains {
            catalog: Catalog::default(),
            past: ledger.past(headers.iter()),
            there: folder.segments.iter().copied().collect(),
            given_up: BTreeSet::new(),
        }
    }

    /// Takes the next segment, of these bytes, and adds to what is broken in it.
    pub(super) fn see(&mut self, folder: &LogFolder, walk: &mut Walk, bytes: &[u8]) -> IndexState {
        let Some(header) = walk.header else { return IndexState::Missing };
        let (state, sealed) = index_in(folder, &header);
        if let (Some((index, _)), Some(Ending::Clean { offset } | Ending::Torn { offset, .. })) = (&sealed, walk.ending)
            && offset < index.end_offset
        {
            walk.damages.push(offset, Broken::IndexEnd { said: index.end_offset });
        }
        let (is_chained, newest_ms, parts) = match sealed {
            Some((index, parts)) => (index.is_chained, index.newest_ms, parts),
            None => match index_of(bytes) {
                Ok((index, _)) => (false, index.newest_ms(), index.parts().copied().collect()),
                Err(_) => return state,
            },
        };
        self.catalog.add_segment(header, parts.len() as u32, newest_ms);
        let misses = self.add(&header, is_chained, parts);
        for (missing, rooms) in misses.lost {
            walk.damages.push(0, Broken::Missing { missing, rooms });
        }
        for (behind, (rooms, hole)) in misses.holes {
            walk.damages.push(0, Broken::Hole { behind, rooms, from: hole.from.0, to: hole.to.0 });
        }
        state
    }

    /// Rooms that have something in them.
    #[cfg(feature = "cluster")]
    pub(super) fn rooms(&self) -> usize {
        self.catalog.len()
    }

    fn add(&mut self, header: &SegmentHeader, is_chained: bool, parts: Vec<Part>) -> Misses {
        let was_given_up = self.past.breaks.iter().any(|there| there.every_level && header.run <= there.run);
        let mut misses = Misses::default();
        for mut part in parts {
            let hole = self.catalog.add_any_part(header, &mut part, is_chained, &self.past).hole;
            let before = part.chain.before;
            let may_be_dropped = self.past.oldest.get(&part.chain.before_tag).is_none_or(|&oldest| oldest > before);
            let is_lost = before != 0 && !self.there.contains(&before) && !may_be_dropped;
            if is_lost && was_given_up {
                self.given_up.insert(before);
            } else if is_lost {
                *misses.lost.entry(before).or_default() += 1;
            } else if let Some(hole) = hole {
                misses.holes.entry(hole.behind).or_insert((0, hole)).0 += 1;
            }
        }
        misses
    }
}

fn header_of(folder: &LogFolder, id: u64) -> Option<SegmentHeader> {
    let mut page = [0; PAGE_BYTES];
    let path = folder.path_of(id);
    // To open a pipe is to wait for its other end.
    fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    File::open(path).and_then(|file| file.read_exact_at(&mut page, 0)).ok()?;
    SegmentHeader::read(&page).ok()
}

/// The index of a segment, and its table if that can be read.
fn index_in(folder: &LogFolder, header: &SegmentHeader) -> (IndexState, Option<(IndexHeader, Vec<Part>)>) {
    let path = index_path(&folder.path, header.id);
    let bytes = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (IndexState::Missing, None),
        Ok(found)
            if found.is_file() && found.len() <= header.file_bytes.max(1 << 20).saturating_mul(INDEX_PARTS_MAX) =>
        {
            fs::read(&path).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    let is_whole = index::is_whole(&bytes, header);
    (if is_whole { IndexState::Whole } else { IndexState::Damaged }, read_parts(&folder.path, header))
}

#[cfg(test)]
mod tests;
