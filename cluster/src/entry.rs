//! A message of a partition's stream as bytes: whose term it is of, which place its author meant it for, and what it says.
//!
//! ```text
//!  offset  size  field
//!       0     4  magic "BNCL"
//!       4     2  format version: 1
//!       6     1  kind: 1 claim, 2 segment, 3 block, 4 epochs, 5 release, 6 nothing, 7 forget
//!       7     1  reserved: 0
//!       8     8  cluster
//!      16     8  term: the sequence of the claim that it stands behind; of a claim: 0
//!      24     8  number in the term, from 0; of a claim: 0
//!      32     2  partition
//!      34     2  reserved: 0
//!      36     4  CRC-32C of the 36 bytes before and of what follows
//!      40        what it says
//!
//!  claim    [ node 8 ][ run 8 ][ nonce 8 ]
//!  segment  [ the first 68 bytes of a segment's header ]
//!  block    [ segment 8 ][ offset 8 ][ the block, without the zeros at its end that fill its last page ]
//!  epochs   [ blank 8 ][ lowered 8 ][ dropped 8 ][ levels 8 ]
//!  release  [ node 8, or 0 ]
//!  forget   [ epochs, as above ][ segment 8 ]…
//! ```
//!
//! Blocks and headers of segments are those of `banter-log`: a stream holds what a file would, so that what reads and checks the one
//! reads and checks the other.

use banter_log::PAGE_BYTES;
use banter_log::block::HEADER_BYTES as BLOCK_HEADER_BYTES;
use banter_log::catalog::Epochs;
use banter_log::segment::SegmentHeader;
use banter_protocol::ids::Epoch;
use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::engine::Partition;

/// The format that this build writes, and the only one it reads.
pub const FORMAT_VERSION: u16 = 1;
/// Bytes ahead of what an entry says.
pub const HEADER_BYTES: usize = 40;
/// Bytes of an entry with a block, beside the block's own.
pub const BLOCK_ENTRY_BYTES: usize = HEADER_BYTES + 16;
const MAGIC: &[u8; 4] = b"BNCL";
const SUM_AT: usize = 36;
/// Bytes of a segment's header that say something.
const SEGMENT_BYTES: usize = 68;

/// A node's identity: drawn anew at each start, so that a node is never taken for what it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId {
    /// A hash of its name.
    pub name: u64,
    /// Which start of it, by chance.
    pub run: u64,
}

/// What the epochs of a partition's rooms follow from. In a stream nothing is lost by a power cut, so one blank epoch serves all levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamEpochs {
    /// Of a room that has nothing in the log.
    pub blank: u64,
    /// As in [`Epochs`].
    pub lowered: u64,
    /// As in [`Epochs`].
    pub dropped: u64,
    /// Which rooms have which level and class, as a hash; 0: it was never said.
    pub levels: u64,
}

impl StreamEpochs {
    /// As a catalog takes it.
    pub fn of_catalog(&self) -> Epochs {
        let (blank, lowered, dropped) = (Epoch(self.blank), Epoch(self.lowered), Epoch(self.dropped));
        Epochs { blank_synced: blank, blank_written: blank, lowered, dropped }
    }

    fn write(&self, out: &mut BytesMut) {
        let StreamEpochs { blank, lowered, dropped, levels } = *self;
        [blank, lowered, dropped, levels].into_iter().for_each(|number| out.put_u64_le(number));
    }

    /// The largest number that was given.
    pub fn largest(&self) -> u64 {
        self.blank.max(self.lowered).max(self.dropped)
    }
}

/// Which stream an entry is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId {
    /// The cluster, by chance.
    pub cluster: u64,
    /// The partition.
    pub partition: Partition,
}

/// An entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The sequence of the claim that it stands behind; of a claim: 0.
    pub term: u64,
    /// Which of the entries behind the claim it is, from 0; of a claim: 0.
    pub number: u64,
    /// What it says.
    pub said: Said,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    /// A node owns the partition from here on.
    Claim {
        /// Which.
        by: NodeId,
        /// Which of its wishes to own the partition, by chance.
        nonce: u64,
    },
    /// A segment begins.
    Segment(Box<[u8; SEGMENT_BYTES]>),
    /// A block of a segment.
    Block {
        /// The segment.
        segment: u64,
        /// Where in it.
        offset: u64,
        /// The block, without the zeros that fill its last page.
        bytes: Bytes,
    },
    /// What the epochs of rooms follow from, from here on.
    Epochs(StreamEpochs),
    /// Segments are too old, and nobody sees them from here on.
    Forget {
        /// What epochs follow from, from here on.
        epochs: StreamEpochs,
        /// The segments.
        segments: Vec<u64>,
    },
    /// The owner gives the partition up.
    Release {
        /// To that node, by the hash of its name; 0: to any.
        to: u64,
    },
    /// Nothing: that it lies here proves that its author owned the partition when it came.
    Nothing,
}

/// Why bytes are no entry of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryFault {
    /// They are something else.
    #[error("it is no entry of a Banter partition")]
    Magic,
    /// A later Banter wrote it.
    #[error("its format is {0}, and this build reads 1: use the Banter that wrote it")]
    Version(u16),
    /// They do not check.
    #[error("it does not check")]
    Sum,
    /// It is of another cluster or partition.
    #[error("it is an entry of another cluster or partition")]
    Foreign,
    /// It checks, and says nothing that this format knows.
    #[error("it says nothing that this format knows")]
    Content,
}

impl Said {
    /// A segment begins that has this header.
    pub fn segment(header: &SegmentHeader) -> Self {
        let mut said = Box::new([0; SEGMENT_BYTES]);
        said.copy_from_slice(&header.write()[..SEGMENT_BYTES]);
        Said::Segment(said)
    }

    /// The header of the segment that begins.
    pub fn segment_header(said: &[u8; SEGMENT_BYTES]) -> Option<SegmentHeader> {
        let mut page = [0; PAGE_BYTES];
        page[..SEGMENT_BYTES].copy_from_slice(said);
        SegmentHeader::read(&page).ok()
    }

    /// A block as a journal writes it: whole pages.
    pub fn block(segment: u64, offset: u64, mut block: Vec<u8>) -> Self {
        block.truncate(banter_log::block::used_bytes(&block));
        Said::Block { segment, offset, bytes: block.into() }
    }

    fn kind(&self) -> u8 {
        match self {
            Said::Claim { .. } => 1,
            Said::Segment(_) => 2,
            Said::Block { .. } => 3,
            Said::Epochs(_) => 4,
            Said::Release { .. } => 5,
            Said::Nothing => 6,
            Said::Forget { .. } => 7,
        }
    }

    fn write(&self, out: &mut BytesMut) {
        match self {
            Said::Claim { by, nonce } => {
                [by.name, by.run, *nonce].into_iter().for_each(|number| out.put_u64_le(number))
            }
            Said::Segment(header) => out.put_slice(&header[..]),
            Said::Block { segment, offset, bytes } => {
                out.put_u64_le(*segment);
                out.put_u64_le(*offset);
                out.put_slice(bytes);
            }
            Said::Epochs(epochs) => epochs.write(out),
            Said::Forget { epochs, segments } => {
                epochs.write(out);
                segments.iter().for_each(|segment| out.put_u64_le(*segment));
            }
            Said::Release { to } => out.put_u64_le(*to),
            Said::Nothing => {}
        }
    }

    fn read(kind: u8, bytes: &Bytes) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let epochs = || {
            let (blank, lowered, dropped, levels) = (number(0)?, number(8)?, number(16)?, number(24)?);
            Some(StreamEpochs { blank, lowered, dropped, levels })
        };
        Some(match (kind, bytes.len()) {
            (1, 24) => Said::Claim { by: NodeId { name: number(0)?, run: number(8)? }, nonce: number(16)? },
            (2, SEGMENT_BYTES) => Said::Segment(Box::new(bytes[..].try_into().ok()?)),
            (3, BLOCK_MIN..) => Said::Block { segment: number(0)?, offset: number(8)?, bytes: bytes.slice(16..) },
            (4, EPOCHS_BYTES) => Said::Epochs(epochs()?),
            (7, EPOCHS_BYTES..) if bytes.len().is_multiple_of(8) => Said::Forget {
                epochs: epochs()?,
                segments: (EPOCHS_BYTES..bytes.len()).step_by(8).map(number).collect::<Option<_>>()?,
            },
            (5, 8) => Said::Release { to: number(0)? },
            (6, 0) => Said::Nothing,
            _ => return None,
        })
    }
}

/// Bytes of what epochs follow from.
const EPOCHS_BYTES: usize = 32;
/// Bytes that an entry with a block says at least.
const BLOCK_MIN: usize = 16 + BLOCK_HEADER_BYTES;

/// A block as a journal reads it: with the zeros that fill its last page.
pub fn whole_block(bytes: &[u8]) -> Vec<u8> {
    let mut block = bytes.to_vec();
    block.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
    block
}

impl Entry {
    /// The message.
    pub fn write(&self, stream: StreamId) -> Bytes {
        let body_bytes = match &self.said {
            Said::Block { bytes, .. } => 16 + bytes.len(),
            _ => SEGMENT_BYTES,
        };
        let mut out = BytesMut::with_capacity(HEADER_BYTES + body_bytes);
        out.put_slice(MAGIC);
        out.put_u16_le(FORMAT_VERSION);
        out.put_u8(self.said.kind());
        out.put_u8(0);
        out.put_u64_le(stream.cluster);
        out.put_u64_le(self.term);
        out.put_u64_le(self.number);
        out.put_u16_le(stream.partition.0);
        out.put_u16_le(0);
        out.put_u32_le(0);
        self.said.write(&mut out);
        let sum = sum_of(&out);
        out[SUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        out.freeze()
    }

    /// Reads a message of that stream.
    ///
    /// # Errors
    /// When it is none of ours, or damaged.
    pub fn read(message: &Bytes, stream: StreamId) -> Result<Self, EntryFault> {
        let array = |at: usize| message.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let header = message.get(..HEADER_BYTES).filter(|header| header.starts_with(MAGIC)).ok_or(EntryFault::Magic)?;
        if sum_of(message).to_le_bytes() != header[SUM_AT..] {
            return Err(EntryFault::Sum);
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version != FORMAT_VERSION {
            return Err(EntryFault::Version(version));
        }
        let partition = Partition(u16::from_le_bytes([header[32], header[33]]));
        if array(8) != Some(stream.cluster) || partition != stream.partition {
            return Err(EntryFault::Foreign);
        }
        let said = Said::read(header[6], &message.slice(HEADER_BYTES..)).ok_or(EntryFault::Content)?;
        Ok(Entry { term: array(16).ok_or(EntryFault::Magic)?, number: array(24).ok_or(EntryFault::Magic)?, said })
    }
}

/// The sum of a message: that of all of it but the sum's own place.
fn sum_of(message: &[u8]) -> u32 {
    let (header, body) = message.split_at(HEADER_BYTES.min(message.len()));
    crc32c::crc32c_append(crc32c::crc32c(&header[..SUM_AT.min(header.len())]), body)
}

#[cfg(test)]
mod tests {
    use banter_log::segment::Class;

    use super::*;

    const STREAM: StreamId = StreamId { cluster: 0x1122_3344_5566_7788, partition: Partition(7) };

    fn entries() -> Vec<Entry> {
        let header = SegmentHeader {
            id: 9,
            nonce: 5,
            core: 0,
            class: Class { hours: 4, bytes: 5 },
            run: 77,
            made_unix_ms: 1_700_000_000_000,
            file_bytes: 1 << 22,
        };
        let block = Bytes::from((0..200_u8).collect::<Vec<_>>());
        let said = [
            Said::Claim { by: NodeId { name: 1, run: 2 }, nonce: 3 },
            Said::segment(&header),
            Said::Block { segment: 9, offset: 4_096, bytes: block },
            Said::Epochs(StreamEpochs { blank: 7, lowered: 8, dropped: 9, levels: 10 }),
            Said::Release { to: 4 },
            Said::Nothing,
            Said::Forget {
                epochs: StreamEpochs { blank: 7, lowered: 8, dropped: 9, levels: 10 },
                segments: vec![3, 4],
            },
        ];
        said.into_iter().enumerate().map(|(number, said)| Entry { term: 40, number: number as u64, said }).collect()
    }

    #[test]
    fn entries_come_back_as_they_were_written_and_every_flipped_bit_is_seen() {
        for entry in entries() {
            let bytes = entry.write(STREAM);
            assert_eq!(Entry::read(&bytes, STREAM), Ok(entry.clone()));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Entry::read(&flipped.into(), STREAM).is_err(), "{entry:?} bit {bit}");
            }
            for length in 0..bytes.len() {
                assert!(Entry::read(&bytes.slice(..length), STREAM).is_err(), "{entry:?} {length}");
            }
        }
    }

    #[test]
    fn a_segments_header_comes_back() {
        let Said::Segment(said) = &entries()[1].said else { panic!("a segment") };
        assert_eq!(Said::segment_header(said).map(|header| (header.id, header.file_bytes)), Some((9, 1 << 22)));
        assert_eq!(Said::segment_header(&[0; SEGMENT_BYTES]), None);
    }

    #[test]
    fn foreign_and_later_entries_are_told_apart() {
        let bytes = entries()[5].write(STREAM);
        let other = StreamId { partition: Partition(8), ..STREAM };
        assert_eq!(Entry::read(&bytes, other), Err(EntryFault::Foreign));
        assert_eq!(Entry::read(&bytes, StreamId { cluster: 1, ..STREAM }), Err(EntryFault::Foreign));
        let mut later = bytes.to_vec();
        later[4] = 2;
        let sum = sum_of(&later);
        later[SUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Entry::read(&later.into(), STREAM), Err(EntryFault::Version(2)));
        assert_eq!(Entry::read(&Bytes::from_static(b"hello"), STREAM), Err(EntryFault::Magic));
    }
}
