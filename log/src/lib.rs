//! The room log as bytes: what a segment file holds, how a commit is written, and what a damaged file still says.
//!
//! ```text
//!  segment  [ header 4 KiB ][ block ][ block ]…[ block ][ zeros ………… ]      made ahead of need, full of zeros
//!  block    [ header 64 B ][ record ][ record ]…[ padding to 4 KiB ]       one commit; without a record, a proof
//!  record   [ prefix 16 B ][ native frame ]                                one message
//! ```
//!
//! No file, clock or runtime in here: bytes in, bytes and verdicts out. Numbers are little-endian, sums are CRC-32C.
//!
//! Invariants:
//! - A block that was written whole is never written again; what is acknowledged lies in such a block. Only what is erased has
//!   its segment replaced, by one of the same layout ([`erasure`]).
//! - A block names its segment, its place, and the sum of the block before it, so stale bytes of a file that was used
//!   before, and blocks that were moved, are no blocks.
//! - Bytes are trusted behind two checks: the record's or the block's sum, then rkyv's own
//!   ([`banter_protocol::native::read_kept`]).

#![forbid(unsafe_code)]

pub mod block;
pub mod cache;
pub mod catalog;
pub mod checkpoint;
pub mod erasure;
pub mod index;
pub mod indexing;
pub mod journal;
pub mod key;
pub mod reading;
pub mod record;
#[cfg(test)]
mod rig;
pub mod runs;
pub mod scan;
pub mod segment;
pub mod state;
pub mod walked;

/// Everything in a segment starts at a multiple of this: what direct I/O asks of every disk.
pub const PAGE_BYTES: usize = 4_096;

/// The format that this build writes, and the only one it reads.
pub const FORMAT_VERSION: u16 = 2;

/// Fixed-place numbers in a header.
pub(crate) mod bytes {
    /// The bytes at that place.
    pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
        bytes.get(at..at + N)?.try_into().ok()
    }

    /// A number of two bytes.
    pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
        array(bytes, at).map(u16::from_le_bytes)
    }

    /// A number of four bytes.
    pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
        array(bytes, at).map(u32::from_le_bytes)
    }

    /// A number of eight bytes.
    pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
        array(bytes, at).map(u64::from_le_bytes)
    }
}
