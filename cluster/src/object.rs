//! What is kept of a sealed segment beside its stream: where its blocks lie, and its index, as one object that is cut in pieces.
//!
//! ```text
//!  object   [ head 40 B ][ blocks, 12 B each ][ index ]          in pieces of 256 KiB
//!  head     offset  size  field                            block    offset  size  field
//!                0     4  magic "BNIX"                                   0     4  the page of the segment where it starts
//!                4     2  format version: 1                              4     8  its sequence in the stream
//!                6     2  reserved: 0
//!                8     8  segment
//!               16     8  nonce of the segment
//!               24     4  blocks
//!               28     8  bytes of the index
//!               36     4  CRC-32C of the 36 bytes before and of the blocks
//! ```
//!
//! Derived, so never evidence: what is missing or wrong is made again from the stream. The index has sums of its own.

use banter_log::PAGE_BYTES;
use banter_log::segment::SegmentHeader;
use bytes::Bytes;

use crate::engine::{ObjectKind, ObjectName, Partition};

/// Bytes of a piece; the last one has fewer.
pub const PIECE_BYTES: usize = 256 * 1_024;
/// Bytes of the head.
pub const HEAD_BYTES: usize = 40;
/// Bytes of a block's line.
const BLOCK_BYTES: usize = 12;
const MAGIC: &[u8; 4] = b"BNIX";
const FORMAT_VERSION: u16 = 1;
const SUM_AT: usize = 36;
/// How many times longer than its segment an index is never: some four times is the most that the shortest posts make.
const INDEX_TIMES_MAX: u64 = 16;

/// Where a segment's blocks lie: the offset of each in the segment, and its sequence in the stream, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks(pub Vec<(u64, u64)>);

impl Blocks {
    /// The blocks that hold something of that range of the segment.
    pub fn within(&self, offset: u64, bytes: u64) -> &[(u64, u64)] {
        let end = self.0.partition_point(|&(at, _)| at < offset.saturating_add(bytes));
        let start = self.0.partition_point(|&(at, _)| at <= offset).saturating_sub(1);
        self.0.get(start..end).unwrap_or(&[])
    }
}

/// What the head of an object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Blocks of the segment.
    pub blocks: u32,
    /// Bytes of its index.
    pub index_bytes: u64,
}

impl Head {
    /// Reads the head of the object of that segment. One that promises more blocks than it has pages, or an index that is longer than
    /// any can be, is none: nothing is asked for by its word.
    pub fn read(bytes: &[u8], segment: &SegmentHeader) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let is_ours = bytes.starts_with(MAGIC)
            && bytes.get(4..6)? == FORMAT_VERSION.to_le_bytes()
            && number(8)? == segment.id
            && number(16)? == segment.nonce;
        let blocks = u32::from_le_bytes(bytes.get(24..28)?.try_into().ok()?);
        let index_bytes = number(28)?;
        let is_possible = u64::from(blocks) <= segment.file_bytes / PAGE_BYTES as u64
            && index_bytes <= segment.file_bytes.saturating_mul(INDEX_TIMES_MAX);
        (is_ours && is_possible && bytes.len() >= HEAD_BYTES).then_some(Head { blocks, index_bytes })
    }

    /// Where its index begins in the object.
    pub fn index_at(&self) -> usize {
        HEAD_BYTES + self.blocks as usize * BLOCK_BYTES
    }

    /// Bytes of the object; none: no object has so many.
    pub fn object_bytes(&self) -> Option<usize> {
        usize::try_from(self.index_bytes).ok()?.checked_add(self.index_at())
    }

    /// Reads where the blocks lie, of all bytes ahead of the index; `None` if they do not check.
    pub fn read_blocks(&self, bytes: &[u8]) -> Option<Blocks> {
        let lines = bytes.get(HEAD_BYTES..self.index_at())?;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..SUM_AT]), lines);
        if bytes.get(SUM_AT..HEAD_BYTES)? != sum.to_le_bytes() {
            return None;
        }
        let line = |line: &[u8]| {
            let page = u32::from_le_bytes(line.get(..4)?.try_into().ok()?);
            Some((u64::from(page) * PAGE_BYTES as u64, u64::from_le_bytes(line.get(4..)?.try_into().ok()?)))
        };
        lines.chunks_exact(BLOCK_BYTES).map(line).collect::<Option<Vec<_>>>().map(Blocks)
    }
}

/// The pieces of a segment's object.
pub fn write(segment: &SegmentHeader, blocks: &Blocks, index: &[u8]) -> Vec<Bytes> {
    let mut head = Vec::with_capacity(HEAD_BYTES + blocks.0.len() * BLOCK_BYTES + index.len());
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    head.extend_from_slice(&[0; 2]);
    head.extend_from_slice(&segment.id.to_le_bytes());
    head.extend_from_slice(&segment.nonce.to_le_bytes());
    head.extend_from_slice(&(blocks.0.len() as u32).to_le_bytes());
    head.extend_from_slice(&(index.len() as u64).to_le_bytes());
    let mut lines = Vec::with_capacity(blocks.0.len() * BLOCK_BYTES);
    for &(offset, sequence) in &blocks.0 {
        lines.extend_from_slice(&((offset / PAGE_BYTES as u64) as u32).to_le_bytes());
        lines.extend_from_slice(&sequence.to_le_bytes());
    }
    let sum = crc32c::crc32c_append(crc32c::crc32c(&head), &lines);
    head.extend_from_slice(&sum.to_le_bytes());
    head.extend_from_slice(&lines);
    head.extend_from_slice(index);
    cut(head.into())
}

/// An object's pieces; an empty one is one piece.
pub fn cut(object: Bytes) -> Vec<Bytes> {
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut rest = object;
    loop {
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        pieces.push(piece);
        if rest.is_empty() {
            return pieces;
        }
    }
}

/// The names of pieces that hold those bytes of an object.
pub fn pieces_of(
    partition: Partition,
    kind: ObjectKind,
    from: usize,
    to: usize,
) -> impl Iterator<Item = ObjectName> + Clone {
    let pieces = from / PIECE_BYTES..to.div_ceil(PIECE_BYTES);
    pieces.map(move |piece| ObjectName { partition, kind, piece: piece as u32 })
}

#[cfg(test)]
mod tests {
    use banter_log::segment::Class;

    use super::*;

    const SEGMENT: SegmentHeader =
        SegmentHeader { id: 7, nonce: 99, core: 1, class: Class::SERVER, run: 3, made_unix_ms: 5, file_bytes: 1 << 20 };

    fn blocks() -> Blocks {
        Blocks((0..100).map(|number| (4_096 * (1 + 2 * number), 40 + 3 * number)).collect())
    }

    #[test]
    fn an_object_comes_back_and_every_flipped_bit_of_head_and_blocks_is_seen() {
        let index = vec![3; 600_000];
        let pieces = write(&SEGMENT, &blocks(), &index);
        assert_eq!(pieces.len(), 3);
        let object = pieces.concat();
        let head = Head::read(&object, &SEGMENT).unwrap();
        assert_eq!(head, Head { blocks: 100, index_bytes: 600_000 });
        assert_eq!((head.object_bytes(), head.read_blocks(&object)), (Some(object.len()), Some(blocks())));
        assert_eq!(&object[head.index_at()..], &index);
        for bit in 0..head.index_at() * 8 {
            let mut flipped = object.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = Head::read(&flipped, &SEGMENT).and_then(|head| head.read_blocks(&flipped));
            assert_eq!(read, None, "bit {bit}");
        }
        assert_eq!(Head::read(&object, &SegmentHeader { nonce: 98, ..SEGMENT }), None);
        for length in 0..head.index_at() {
            assert_eq!(
                Head::read(&object[..length], &SEGMENT).and_then(|head| head.read_blocks(&object[..length])),
                None
            );
        }
    }

    #[test]
    fn a_head_that_promises_what_cannot_be_is_none() {
        let object = write(&SEGMENT, &blocks(), &[3; 100]).concat();
        assert!(Head::read(&object, &SEGMENT).is_some());
        let with = |at: usize, number: &[u8]| {
            let mut other = object.clone();
            other[at..at + number.len()].copy_from_slice(number);
            Head::read(&other, &SEGMENT)
        };
        assert_eq!(with(24, &u32::MAX.to_le_bytes()), None);
        assert_eq!(with(28, &(INDEX_TIMES_MAX * SEGMENT.file_bytes + 1).to_le_bytes()), None);
        assert!(with(28, &(INDEX_TIMES_MAX * SEGMENT.file_bytes).to_le_bytes()).is_some());
    }

    #[test]
    fn a_range_finds_the_blocks_that_hold_some_of_it() {
        let blocks = Blocks(vec![(4_096, 1), (8_192, 2), (20_480, 3)]);
        assert_eq!(blocks.within(0, 4_096), &[]);
        assert_eq!(blocks.within(4_096, 4_096), &[(4_096, 1)]);
        assert_eq!(blocks.within(12_288, 4_096), &[(8_192, 2)], "a block may be longer than a page");
        assert_eq!(blocks.within(12_288, 8_193), &[(8_192, 2), (20_480, 3)]);
        assert_eq!(blocks.within(40_960, u64::MAX), &[(20_480, 3)]);
    }

    #[test]
    fn pieces_are_found_by_the_bytes_that_are_wanted() {
        let kind = ObjectKind::Index { segment: 1 };
        let pieces = |from, to| pieces_of(Partition(0), kind, from, to).map(|name| name.piece).collect::<Vec<_>>();
        assert_eq!(pieces(0, 40), [0]);
        assert_eq!(pieces(PIECE_BYTES - 1, PIECE_BYTES + 1), [0, 1]);
        assert_eq!(pieces(PIECE_BYTES, 2 * PIECE_BYTES), [1]);
        assert_eq!(cut(Bytes::new()).len(), 1);
    }
}
