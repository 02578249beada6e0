//! Index files as a whole: reads their tables, looks whether they are right, and makes them again from their segments.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use banter_log::index::{self, HEADER_BYTES, IndexBuilder, IndexHeader, Part, read_table};
use banter_log::scan::Ending;
use banter_log::segment::SegmentHeader;
use banter_protocol::ids::RoomId;

use super::files::put_index;
use super::recovery::index_of;
use super::{index_path, segment_path};

/// Reads the table of a segment's index, all of which is there; `None` if there is none, or not of this segment, or it is
/// damaged.
pub fn read_parts(folder: &Path, segment: &SegmentHeader) -> Option<(IndexHeader, Vec<Part>)> {
    let file = File::open(index_path(folder, segment.id)).ok()?;
    let file_bytes = file.metadata().ok()?.len();
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).ok()?;
    let header = IndexHeader::read(&header, segment)?;
    // A header that promises more than the file has is none; checked before anything is allocated.
    let table_end = Some(header.table_end()).filter(|&end| end <= file_bytes)?;
    let mut table = vec![0; (table_end - HEADER_BYTES as u64) as usize];
    file.read_exact_at(&mut table, HEADER_BYTES as u64).ok()?;
    let parts = read_table(&table, segment.nonce).collect::<Option<Vec<_>>>()?;
    // Nor is one whose marks and keys are cut off: its readers would find it damaged again and again.
    let is_there = |part: &Part| part.details.end_offset() <= file_bytes;
    parts.iter().all(is_there).then_some((header, parts))
}

/// What an index that was looked at was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// It was right; it has so many parts.
    WasRight(u32),
    /// It was not, and was made again, with so many parts.
    MadeAgain(u32),
    /// It was not, and the segment is not whole either.
    Not,
}

/// Makes the index of a whole segment again if it is missing or damaged. Reads both into memory: a segment is as long as it
/// was made, and a file that is longer than an index of it can be is none. `older` are the segments before it, the newest
/// first: what its rooms have there is in none of its own blocks.
///
/// # Errors
/// What the kernel says.
pub fn mend_index(
    folder: &Path,
    segment: &SegmentHeader,
    end_offset: u64,
    older: impl Iterator<Item = SegmentHeader>,
) -> io::Result<Mended> {
    let file = read_index(folder, segment.id, end_offset)?;
    if index::is_whole(&file, segment) {
        return Ok(IndexHeader::read(&file, segment).map_or(Mended::Not, |header| Mended::WasRight(header.parts)));
    }
    let before = read_parts(folder, segment);
    let mut bytes = fs::read(segment_path(folder, segment.id))?;
    // What lies behind was refused: half a block, or a whole one whose places were given again.
    bytes.truncate(usize::try_from(end_offset).unwrap_or(usize::MAX));
    let Ok((mut index, ending)) = index_of(&bytes) else { return Ok(Mended::Not) };
    let (Ending::Clean { offset } | Ending::Torn { offset, .. } | Ending::Corrupt { offset, .. }) = ending;
    if offset < end_offset {
        // It was whole a moment ago. An index of a part of it would hide the rest.
        return Ok(Mended::Not);
    }
    match before.filter(|(header, _)| header.is_chained) {
        Some((_, parts)) => parts.iter().for_each(|part| {
            index.set_chain(part.room, part.chain);
            index.end_at(part.room, part.last);
        }),
        None => chain(folder, &mut index, older),
    }
    put_index(folder, segment.id, &index.encode(segment, end_offset, true))?;
    Ok(Mended::MadeAgain(index.len() as u32))
}

/// Finds what the rooms of an index have before it: in most cases in the few segments right before.
fn chain(folder: &Path, index: &mut IndexBuilder, older: impl Iterator<Item = SegmentHeader>) {
    let mut wanted: BTreeSet<RoomId> = index.parts().map(|part| part.room).collect();
    for header in older {
        if wanted.is_empty() {
            return;
        }
        for part in read_parts(folder, &header).into_iter().flat_map(|(_, parts)| parts) {
            if wanted.remove(&part.room) {
                index.set_chain(part.room, part.chain_behind(&header));
            }
        }
    }
}

/// How many times longer than its segment an index is at most.
const INDEX_PARTS_MAX: u64 = 4;

/// The bytes of an index file; none where there is no file, or what cannot be one.
fn read_index(folder: &Path, segment: u64, end_offset: u64) -> io::Result<Vec<u8>> {
    let path = index_path(folder, segment);
    match fs::metadata(&path) {
        Ok(found) if found.len() > end_offset.saturating_mul(INDEX_PARTS_MAX) => Ok(Vec::new()),
        Ok(_) => fs::read(&path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
