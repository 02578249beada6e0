//! An index without the keys of what was erased. All else stays as it is: layout and places of the segment do.

use crate::index::{HEADER_BYTES, IndexHeader, PART_BYTES, Part, keys, read_table};
use crate::key::KeyedPost;
use crate::segment::SegmentHeader;

/// The bytes of an index file without the keys that `hides` says. What of it does not check is left as it is. `None`: its header
/// or its table does not check, or is cut off, so that nobody reads keys by it.
pub fn without_keys(
    file: &[u8],
    segment: &SegmentHeader,
    mut hides: impl FnMut(&Part, &KeyedPost) -> bool,
) -> Option<Vec<u8>> {
    let header = IndexHeader::read(file, segment)?;
    let table = file.get(HEADER_BYTES..usize::try_from(header.table_end()).ok()?)?;
    let (mut lines, mut details) = (file[..HEADER_BYTES].to_vec(), Vec::new());
    let details_start = HEADER_BYTES + header.parts as usize * PART_BYTES;
    for part in read_table(table, segment.nonce) {
        let mut part = part?;
        let piece = |from: u64, to: u64| file.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?);
        let (keys_start, keys_end) = (part.details.keys_offset(), part.details.end_offset());
        let (name_and_marks, key_pieces) = (piece(part.details.offset, keys_start)?, piece(keys_start, keys_end)?);
        part.details.offset = (details_start + details.len()) as u64;
        details.extend_from_slice(name_and_marks);
        match read_all(key_pieces, segment.nonce) {
            Some(all) if all.iter().any(|post| hides(&part, post)) => {
                let left: Vec<KeyedPost> = all.into_iter().filter(|post| !hides(&part, post)).collect();
                part.details.keys = left.len() as u32;
                part.details.keys_bytes = keys::write(&left, segment.nonce, &mut details);
            }
            _ => details.extend_from_slice(key_pieces),
        }
        part.write(segment.nonce, &mut lines);
    }
    lines.extend_from_slice(&details);
    Some(lines)
}

/// A part's keys, the oldest first; `None` if a piece does not check.
fn read_all(mut pieces: &[u8], nonce: u64) -> Option<Vec<KeyedPost>> {
    let mut all = Vec::new();
    while !pieces.is_empty() {
        let (newest_first, length) = keys::read(pieces, nonce)?;
        all.extend(newest_first);
        pieces = pieces.get(length..)?;
    }
    all.reverse();
    Some(all)
}
