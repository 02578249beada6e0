//! Builds what each core needs to know of the log, from what was found in each segment: one table after another, so that no
//! more than one is in memory.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use banter_chat::address::core_of;
use banter_log::catalog::{Catalog, Hole, Past};
use banter_log::checkpoint::FILE_NAME;
use banter_log::index::{HEADER_BYTES, IndexBuilder, IndexHeader, Part};
use banter_protocol::ids::{RoomId, Sequence};

use super::{KnownSegment, RecoveryFault, disk};
use crate::storage::checkpoint::Checkpoint;
use crate::storage::index_path;
use crate::storage::indexes::read_parts;
use crate::storage::ledger::Ledger;

/// Indexes that are in memory alone, by their segments.
pub(super) type Unwritten = BTreeMap<u64, Arc<IndexBuilder>>;

/// The catalogs of so many cores, and what rooms miss between two segments. Indexes that were made from their segments alone
/// are told what their rooms have before them.
pub(super) fn catalogs(
    folder: &Path,
    found: &mut [KnownSegment],
    unwritten: &mut Unwritten,
    cores: u16,
    ledger: &Ledger,
    checkpoint: Option<&Checkpoint>,
) -> Result<(Vec<Catalog>, Vec<Hole>), RecoveryFault> {
    let past = ledger.past(found.iter().map(|segment| &segment.header));
    let mut catalogs: Vec<Catalog> = (0..cores).map(|_| Catalog::default()).collect();
    let (mut holes, mut given_again) = (Vec::new(), GivenAgain::new());
    let ids: Vec<u64> = found.iter().map(|segment| segment.header.id).collect();
    if let Some(checkpoint) = checkpoint {
        take_kept(folder, checkpoint, found, &mut catalogs, &past)?;
    }
    for segment in found.iter_mut().filter(|segment| !checkpoint.is_some_and(|it| it.covers(segment.header.id))) {
        let mut parts = parts_of(folder, segment, unwritten)?;
        let (header, newest_ms) = (segment.header, segment.newest_ms);
        catalogs.iter_mut().for_each(|catalog| catalog.add_segment(header, segment.parts, newest_ms));
        for part in &mut parts {
            let Some(catalog) = catalogs.get_mut(core_of(part.room, cores).index()) else { continue };
            let added = catalog.add_any_part(&header, part, segment.is_chained, &past);
            if let Some((before, last)) = added.given_again {
                let first = added.left_behind.unwrap_or(before);
                let ids = &ids[ids.partition_point(|&id| id < first)..];
                for &id in ids.iter().take_while(|&&id| id <= before) {
                    given_again.entry(id).or_default().insert(part.room, last);
                }
            }
            holes.extend(added.hole);
        }
        if !segment.is_chained {
            chain(folder, segment, &parts, unwritten);
        }
    }
    for segment in found.iter() {
        if let Some(rooms) = given_again.get(&segment.header.id) {
            end_parts(folder, segment, rooms, unwritten);
        }
    }
    Ok((catalogs, holes))
}

/// Takes what the checkpoint has, in place of the tables that it covers.
fn take_kept(
    folder: &Path,
    checkpoint: &Checkpoint,
    found: &[KnownSegment],
    catalogs: &mut [Catalog],
    past: &Past<'_>,
) -> Result<(), RecoveryFault> {
    for segment in found.iter().filter(|segment| checkpoint.covers(segment.header.id)) {
        let add = |catalog: &mut Catalog| catalog.add_segment(segment.header, segment.parts, segment.newest_ms);
        catalogs.iter_mut().for_each(add);
    }
    let cores = catalogs.len() as u16;
    let taken = checkpoint.rooms(|kept| {
        if let Some(catalog) = catalogs.get_mut(core_of(kept.room, cores).index()) {
            catalog.add_kept(kept, past);
        }
    });
    taken.map_err(disk("reading again", &folder.join(FILE_NAME)))
}

/// Rooms of which a segment holds places that were refused, and given again in a later one: what counts in it ends there.
type GivenAgain = BTreeMap<u64, BTreeMap<RoomId, Sequence>>;

/// Writes down where parts end of which the last places were given again, so that whoever drops them knows what goes.
/// A part all of which was given again ends where it begins.
fn end_parts(folder: &Path, segment: &KnownSegment, rooms: &BTreeMap<RoomId, Sequence>, unwritten: &mut Unwritten) {
    let id = segment.header.id;
    let Ok(mut parts) = parts_of(folder, segment, unwritten) else { return };
    let ends = |part: &Part| rooms.get(&part.room).map(|&last| last.max(part.first.previous()).min(part.last));
    if let Some(index) = unwritten.get_mut(&id).and_then(Arc::get_mut) {
        return parts.iter().for_each(|part| ends(part).into_iter().for_each(|last| index.end_at(part.room, last)));
    }
    let mut is_changed = false;
    for part in &mut parts {
        let last = ends(part).unwrap_or(part.last);
        is_changed |= last != part.last;
        part.last = last;
    }
    if !is_changed {
        return;
    }
    if let Err(error) = write_table(folder, segment, &parts) {
        let path = index_path(folder, id);
        tracing::warn!(%error, "cannot write to {}: the next start does", path.display());
    }
}

/// A table that was right a moment ago, and is not now, ends the start: its rooms would begin anew below their heads.
fn parts_of(folder: &Path, segment: &KnownSegment, unwritten: &Unwritten) -> Result<Vec<Part>, RecoveryFault> {
    if let Some(index) = unwritten.get(&segment.header.id) {
        return Ok(index.parts().copied().collect());
    }
    let parts = read_parts(folder, &segment.header).map(|(_, parts)| parts);
    let parts = parts.filter(|parts| parts.len() == segment.parts as usize);
    parts.ok_or_else(|| {
        let error = io::Error::other("its table is another one than it was a moment ago");
        disk("reading again", &index_path(folder, segment.header.id))(error)
    })
}

/// Writes down what the parts are behind. Where that fails the next start does it.
fn chain(folder: &Path, segment: &mut KnownSegment, parts: &[Part], unwritten: &mut Unwritten) {
    let id = segment.header.id;
    if let Some(index) = unwritten.get_mut(&id).and_then(Arc::get_mut) {
        parts.iter().for_each(|part| index.set_chain(part.room, part.chain));
        segment.is_chained = true;
        return;
    }
    segment.is_chained = true;
    match write_table(folder, segment, parts) {
        Ok(()) => {}
        Err(error) => {
            segment.is_chained = false;
            let path = index_path(folder, id);
            tracing::warn!(%error, "cannot write to {}: older messages of its rooms are found more slowly", path.display());
        }
    }
}

/// In place, which takes no space; the header says last that it is done.
fn write_table(folder: &Path, segment: &KnownSegment, parts: &[Part]) -> io::Result<()> {
    let KnownSegment { header, end_offset, newest_ms, parts: parts_count, is_chained, .. } = *segment;
    let file = OpenOptions::new().write(true).open(index_path(folder, header.id))?;
    let mut table = Vec::with_capacity(parts.len() * banter_log::index::PART_BYTES);
    parts.iter().for_each(|part| part.write(header.nonce, &mut table));
    file.write_all_at(&table, HEADER_BYTES as u64)?;
    file.sync_data()?;
    let index = IndexHeader { parts: parts_count, end_offset, newest_ms, is_chained };
    file.write_all_at(&index.write(&header), 0)?;
    file.sync_data()
}
