//! Index files as a whole: reads their tables, looks whether they are right, and makes them again from their segments.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use banter_log::index::{self, HEADER_BYTES, IndexBuilder, IndexHeader, Part, read_table};
use banter_log::scan::Ending;
use banter_log::segment::SegmentHeader;
use banter_protocol::ids::{RoomId, Sequence};

use super::files::put_index;
use super::recovery::index_of;
use super::{index_path, segment_path};

/// Reads the table of a segment's index, all of which is there; `None` if there is none, or not of this segment, or it is
/// damaged or cannot be read.
pub fn read_parts(folder: &Path, segment: &SegmentHeader) -> Option<(IndexHeader, Vec<Part>)> {
    table_of(folder, segment).ok().flatten()
}

/// The same, where it matters that a read which failed says nothing about what is there.
fn table_of(folder: &Path, segment: &SegmentHeader) -> io::Result<Option<(IndexHeader, Vec<Part>)>> {
    let file = match File::open(index_path(folder, segment.id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let file_bytes = file.metadata()?.len();
    let mut header = [0; HEADER_BYTES];
    if file_bytes < HEADER_BYTES as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut header, 0)?;
    // A header that promises more than the file has is none; checked before anything is allocated.
    let header = IndexHeader::read(&header, segment).filter(|header| header.table_end() <= file_bytes);
    let Some(header) = header else { return Ok(None) };
    let mut table = vec![0; (header.table_end() - HEADER_BYTES as u64) as usize];
    file.read_exact_at(&mut table, HEADER_BYTES as u64)?;
    // Nor is one whose marks and keys are cut off: its readers would find it damaged again and again.
    let is_there = |part: &Part| part.details.end_offset() <= file_bytes;
    let parts = read_table(&table, segment.nonce).collect::<Option<Vec<_>>>();
    Ok(parts.filter(|parts| parts.iter().all(is_there)).map(|parts| (header, parts)))
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
    /// It was not, and what its rooms have before it is not known until the index of that segment is right.
    Behind(u64),
}

/// Makes the index of a whole segment again if it is missing or damaged. Reads both into memory: a segment is as long as it
/// was made, and a file that is longer than an index of it can be is none. `older` are the segments before it that count, the
/// newest first: what its rooms have there is in none of its own blocks.
///
/// Invariant: an index is written with what lies before it as it is. A table that cannot be read, or does not check, ends the
/// mending; if it were passed over, what it holds would be out of reach for good.
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
        None => {
            if let Some(unknown) = chain(folder, &mut index, older)? {
                return Ok(Mended::Behind(unknown));
            }
        }
    }
    put_index(folder, segment.id, &index.encode(segment, end_offset, true))?;
    Ok(Mended::MadeAgain(index.len() as u32))
}

/// Finds what the rooms of an index have before it: in most cases in the few segments right before. Says of which segment
/// the index has to be made first.
fn chain(
    folder: &Path,
    index: &mut IndexBuilder,
    older: impl Iterator<Item = SegmentHeader>,
) -> io::Result<Option<u64>> {
    // Nothing is before a room's first message.
    let mut wanted: BTreeSet<RoomId> =
        index.parts().filter(|part| part.first > Sequence(1)).map(|part| part.room).collect();
    for header in older {
        if wanted.is_empty() {
            return Ok(None);
        }
        let Some((_, parts)) = table_of(folder, &header)? else { return Ok(Some(header.id)) };
        for part in parts {
            if wanted.remove(&part.room) {
                index.set_chain(part.room, part.chain_behind(&header));
            }
        }
    }
    Ok(None)
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
