//! A block: the records of one commit, behind a header that ties it to its segment and to the block before it.
//!
//! ```text
//!  offset  size  field
//!       0     4  magic "BLCK"
//!       4     2  format version: 2
//!       6     2  core
//!       8     8  segment id
//!      16     8  nonce of the segment
//!      24     4  block number in the segment, from 0
//!      28     4  body bytes
//!      32     4  records
//!      36     4  sum of the block before: its header's; 0 for the first
//!      40     4  CRC-32C of the body
//!      44     4  blocks before this one that were known to be on the disk when it was written
//!      48     4  CRC-32C of the 48 bytes before
//!      52    12  reserved: 0
//!      64     n  body: records, then zeros to 4 KiB
//! ```
//!
//! A block without records is a *proof*: it says that those before it were on the disk, where nothing else follows that
//! would say so.

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::record::{Record, RecordFault, Records};
use crate::segment::SegmentHeader;
use crate::{FORMAT_VERSION, PAGE_BYTES};

/// Bytes of a block's header.
pub const HEADER_BYTES: usize = 64;
pub(crate) const MAGIC: &[u8; 4] = b"BLCK";
const SYNCED_AT: usize = 44;
const SUMMED_BYTES: usize = 48;

/// Where the next block of a segment goes, and what it has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    /// The segment.
    pub segment: SegmentHeader,
    /// The block's number.
    pub number: u32,
    /// The sum of the block before.
    pub previous_sum: u32,
    /// Blocks before it that are known to be on the disk. Where a commit need not be synced, a power cut may leave a
    /// later block and take an earlier one; only up to here is that damage.
    pub synced: u32,
    /// Where it starts in the file; a multiple of [`PAGE_BYTES`].
    pub offset: u64,
}

impl BlockPlace {
    /// The first block of a segment.
    pub fn first_of(segment: SegmentHeader) -> Self {
        BlockPlace { segment, number: 0, previous_sum: 0, synced: 0, offset: PAGE_BYTES as u64 }
    }

    /// The place of the block that these bytes start with, wherever it lies; `None` where there is no such block.
    pub fn found_at(bytes: &[u8], segment: &SegmentHeader, offset: u64) -> Option<Self> {
        Block::read_alone(bytes, segment, offset).ok()?;
        let (number, previous_sum, synced) = (u32_at(bytes, 24)?, u32_at(bytes, 36)?, u32_at(bytes, SYNCED_AT)?);
        Some(BlockPlace { segment: *segment, number, previous_sum, synced, offset })
    }

    /// The place behind a block of that many bytes, padding included.
    fn behind(&self, block_bytes: usize, sum: u32) -> Self {
        BlockPlace {
            segment: self.segment,
            number: self.number + 1,
            previous_sum: sum,
            synced: self.synced,
            offset: self.offset + block_bytes as u64,
        }
    }
}

/// Bytes of the block that holds a body of that many bytes.
pub fn block_bytes(body_bytes: usize) -> usize {
    (HEADER_BYTES + body_bytes).next_multiple_of(PAGE_BYTES)
}

/// Bytes of a block that say something: without the zeros that fill its last page. Of what is no block all.
pub fn used_bytes(block: &[u8]) -> usize {
    let body_bytes = u32_at(block, 28).filter(|_| block.starts_with(MAGIC));
    body_bytes.map_or(block.len(), |body_bytes| block.len().min(HEADER_BYTES + body_bytes as usize))
}

/// A block in the making.
#[derive(Debug)]
pub struct BlockWriter {
    bytes: Vec<u8>,
    records: u32,
    nonce: u64,
}

impl BlockWriter {
    /// An empty one, for that segment.
    pub fn of(segment: &SegmentHeader) -> Self {
        Self::with_room(segment, 0)
    }

    /// An empty one with room for records of so many bytes: it allocates once.
    pub fn with_room(segment: &SegmentHeader, body_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(block_bytes(body_bytes));
        bytes.resize(HEADER_BYTES, 0);
        BlockWriter { bytes, records: 0, nonce: segment.nonce }
    }

    /// Adds a record, and says where in the block it starts.
    pub fn push(&mut self, record: &Record<'_>) -> usize {
        let at = self.bytes.len();
        record.write(self.nonce, &mut self.bytes);
        self.records += 1;
        at
    }

    /// Records in it.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Bytes of its records.
    pub fn body_bytes(&self) -> usize {
        self.bytes.len() - HEADER_BYTES
    }

    /// The block's bytes for that place of its segment, and the place behind it.
    pub fn finish(mut self, place: &BlockPlace) -> (Vec<u8>, BlockPlace) {
        let body_bytes = self.body_bytes();
        let body_sum = crc32c::crc32c(&self.bytes[HEADER_BYTES..]);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        header.extend_from_slice(&place.segment.core.to_le_bytes());
        header.extend_from_slice(&place.segment.id.to_le_bytes());
        header.extend_from_slice(&place.segment.nonce.to_le_bytes());
        header.extend_from_slice(&place.number.to_le_bytes());
        header.extend_from_slice(&(body_bytes as u32).to_le_bytes());
        header.extend_from_slice(&self.records.to_le_bytes());
        header.extend_from_slice(&place.previous_sum.to_le_bytes());
        header.extend_from_slice(&body_sum.to_le_bytes());
        header.extend_from_slice(&place.synced.to_le_bytes());
        let sum = crc32c::crc32c(&header);
        header.extend_from_slice(&sum.to_le_bytes());
        header.resize(HEADER_BYTES, 0);
        self.bytes[..HEADER_BYTES].copy_from_slice(&header);
        self.bytes.resize(block_bytes(body_bytes), 0);
        let behind = place.behind(self.bytes.len(), sum);
        (self.bytes, behind)
    }
}

/// A block that checks.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The place behind it.
    pub behind: BlockPlace,
    /// Records in it.
    pub records: u32,
    /// Blocks before it that were known to be on the disk when it was written.
    pub synced: u32,
    body: &'a [u8],
    nonce: u64,
}

impl<'a> Block<'a> {
    /// Reads the block at a place of a segment's bytes; `None` where there is no such block.
    pub fn read(segment_bytes: &'a [u8], place: &BlockPlace) -> Option<Self> {
        let start = usize::try_from(place.offset).ok()?;
        Self::read_in_chain(segment_bytes.get(start..)?, place)
    }

    /// Reads the block of that place, which starts with these bytes.
    pub fn read_in_chain(bytes: &'a [u8], place: &BlockPlace) -> Option<Self> {
        let sum = checked_sum(bytes, &place.segment)?;
        if u32_at(bytes, 24)? != place.number || u32_at(bytes, 36)? != place.previous_sum {
            return None;
        }
        let body_bytes = u32_at(bytes, 28)? as usize;
        let body = bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(body_bytes)?)?;
        if crc32c::crc32c(body) != u32_at(bytes, 40)? {
            return None;
        }
        let behind = place.behind(block_bytes(body_bytes), sum);
        let (records, synced) = (u32_at(bytes, 32)?, u32_at(bytes, SYNCED_AT)?);
        Some(Block { behind, records, synced, body, nonce: place.segment.nonce })
    }

    /// Reads a block of a segment that starts with these bytes, wherever in the segment it lies.
    pub fn read_alone(bytes: &'a [u8], segment: &SegmentHeader, offset: u64) -> Result<Self, BlockFault> {
        let sum = checked_sum(bytes, segment).ok_or(BlockFault::Damaged)?;
        let number_at = |at| u32_at(bytes, at).ok_or(BlockFault::Damaged);
        let body_bytes = number_at(28)? as usize;
        let body = bytes.get(HEADER_BYTES..HEADER_BYTES.saturating_add(body_bytes));
        let body = body.ok_or(BlockFault::Longer(block_bytes(body_bytes)))?;
        if crc32c::crc32c(body) != number_at(40)? {
            return Err(BlockFault::Damaged);
        }
        let (number, previous_sum, synced) = (number_at(24)?, number_at(36)?, number_at(SYNCED_AT)?);
        let place = BlockPlace { segment: *segment, number, previous_sum, synced, offset };
        let behind = place.behind(block_bytes(body_bytes), sum);
        Ok(Block { behind, records: number_at(32)?, synced, body, nonce: segment.nonce })
    }

    /// Its records.
    pub fn records(&self) -> Records<'a> {
        Records::of(self.body, self.nonce)
    }

    /// Its records, each with the place in the segment at which it starts.
    pub fn placed_records(&self) -> impl Iterator<Item = (u64, Result<Record<'a>, RecordFault>)> {
        let mut records = self.records();
        let body_at = self.behind.offset - block_bytes(self.body.len()) as u64 + HEADER_BYTES as u64;
        let body_bytes = self.body.len();
        std::iter::from_fn(move || {
            let at = body_at + (body_bytes - records.rest().len()) as u64;
            records.next().map(|record| (at, record))
        })
    }
}

/// Makes the sums of a block anew whose records were changed in place, or which follows on another one now. Its own sum;
/// `None`: it is no whole block.
pub fn sum_again(block: &mut [u8], previous_sum: u32) -> Option<u32> {
    let body_bytes = u32_at(block, 28)? as usize;
    let body_sum = crc32c::crc32c(block.get(HEADER_BYTES..HEADER_BYTES.checked_add(body_bytes)?)?);
    block.get_mut(36..40)?.copy_from_slice(&previous_sum.to_le_bytes());
    block.get_mut(40..44)?.copy_from_slice(&body_sum.to_le_bytes());
    let sum = crc32c::crc32c(block.get(..SUMMED_BYTES)?);
    block.get_mut(SUMMED_BYTES..SUMMED_BYTES + 4)?.copy_from_slice(&sum.to_le_bytes());
    Some(sum)
}

/// Why bytes are no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// It has that many bytes, which are not all there.
    #[error("the block goes on: it has {0} bytes")]
    Longer(usize),
    /// They do not check.
    #[error("the block does not check")]
    Damaged,
}

/// What a later block of a segment says of those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    /// Only what it names was on the disk: the machine may have gone down since, and taken an earlier one.
    #[default]
    Synced,
    /// All of them were written whole, since one append is in flight: nothing that was written was lost since.
    Written,
}

impl Proof {
    /// Whether these bytes, of a later page, start with a block that says so of the block of that place.
    pub fn is_given_by(self, bytes: &[u8], place: &BlockPlace) -> bool {
        let is_later = || {
            checked_sum(bytes, &place.segment).is_some() && u32_at(bytes, 24).is_some_and(|later| later > place.number)
        };
        is_proof_of(bytes, place) || (self == Proof::Written && is_later())
    }
}

/// Whether the header of a block of that segment lies at the start of these bytes that was written when the block of
/// that place was on the disk already.
pub fn is_proof_of(bytes: &[u8], place: &BlockPlace) -> bool {
    checked_sum(bytes, &place.segment).is_some() && u32_at(bytes, SYNCED_AT).is_some_and(|synced| synced > place.number)
}

/// The header's sum, if there is a header of that segment.
fn checked_sum(bytes: &[u8], segment: &SegmentHeader) -> Option<u32> {
    let sum = u32_at(bytes, SUMMED_BYTES)?;
    let is_ours = bytes.starts_with(MAGIC)
        && u16_at(bytes, 4)? == FORMAT_VERSION
        && u16_at(bytes, 6)? == segment.core
        && u64_at(bytes, 8)? == segment.id
        && u64_at(bytes, 16)? == segment.nonce
        && bytes.get(SUMMED_BYTES + 4..HEADER_BYTES)?.iter().all(|&byte| byte == 0)
        && crc32c::crc32c(&bytes[..SUMMED_BYTES]) == sum;
    is_ours.then_some(sum)
}
