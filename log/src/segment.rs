//! A segment file's name and its header, which says whose it is and which format it has.
//!
//! ```text
//!  offset  size  field
//!       0     8  magic "BANTERLG"
//!       8     2  format version: 1
//!      10     2  core that writes it
//!      12     4  reserved: 0
//!      16     8  segment id: grows with every segment of the folder
//!      24     8  nonce: chance, so that no peer can write bytes that look like a block of this segment
//!      32     8  run: which start of the server writes it
//!      40     8  made at, milliseconds since 1970
//!      48     4  CRC-32C of the 48 bytes before
//!      52        zeros to 4 KiB
//! ```

use thiserror::Error;

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::{FORMAT_VERSION, PAGE_BYTES};

const MAGIC: &[u8; 8] = b"BANTERLG";
const SUMMED_BYTES: usize = 48;

/// Who writes a segment, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Grows with every segment of the folder.
    pub id: u64,
    /// Chance.
    pub nonce: u64,
    /// The core that writes it.
    pub core: u16,
    /// Which start of the server writes it.
    pub run: u64,
    /// Milliseconds since 1970.
    pub made_unix_ms: u64,
}

/// Why a file is no segment of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SegmentFault {
    /// It ends before the header does.
    #[error("the file ends before its header does")]
    Short,
    /// It is another kind of file.
    #[error("it is not a Banter log segment")]
    Magic,
    /// A later Banter wrote it.
    #[error("its format is {0}, and this build reads 1: use the Banter that wrote it")]
    Version(u16),
    /// Its header was damaged.
    #[error("its header does not check")]
    Sum,
}

impl SegmentHeader {
    /// The first page of the file.
    pub fn write(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE_BYTES);
        page.extend_from_slice(MAGIC);
        page.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        page.extend_from_slice(&self.core.to_le_bytes());
        page.extend_from_slice(&[0; 4]);
        page.extend_from_slice(&self.id.to_le_bytes());
        page.extend_from_slice(&self.nonce.to_le_bytes());
        page.extend_from_slice(&self.run.to_le_bytes());
        page.extend_from_slice(&self.made_unix_ms.to_le_bytes());
        let sum = crc32c::crc32c(&page);
        page.extend_from_slice(&sum.to_le_bytes());
        page.resize(PAGE_BYTES, 0);
        page
    }

    /// Reads the first page of a file.
    ///
    /// # Errors
    /// When it is none of ours, or damaged.
    pub fn read(page: &[u8]) -> Result<Self, SegmentFault> {
        let summed = page.get(..SUMMED_BYTES).filter(|_| page.len() >= PAGE_BYTES).ok_or(SegmentFault::Short)?;
        if !summed.starts_with(MAGIC) {
            return Err(SegmentFault::Magic);
        }
        if u32_at(page, SUMMED_BYTES) != Some(crc32c::crc32c(summed)) {
            return Err(SegmentFault::Sum);
        }
        let version = u16_at(page, 8).ok_or(SegmentFault::Short)?;
        if version != FORMAT_VERSION {
            return Err(SegmentFault::Version(version));
        }
        let number = |at| u64_at(page, at).ok_or(SegmentFault::Short);
        Ok(SegmentHeader {
            id: number(16)?,
            nonce: number(24)?,
            core: u16_at(page, 10).ok_or(SegmentFault::Short)?,
            run: number(32)?,
            made_unix_ms: number(40)?,
        })
    }
}

/// The name of a segment's file. Names sort as the segments were made.
pub fn file_name(id: u64) -> String {
    format!("segment-{id:016x}.log")
}

/// The segment that a file of that name holds, if it is such a name.
pub fn id_of_file(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".log")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const HEADER: SegmentHeader =
        SegmentHeader { id: 7, nonce: 0x1234_5678_9abc_def0, core: 3, run: 9, made_unix_ms: 1_700_000_000_000 };

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        assert_eq!(SegmentHeader::read(&HEADER.write()), Ok(HEADER));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let page = HEADER.write();
        for bit in 0..(SUMMED_BYTES + 4) * 8 {
            let mut flipped = page.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::read(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn foreign_short_and_later_files_are_told_apart() {
        let mut page = HEADER.write();
        assert_eq!(SegmentHeader::read(&page[..PAGE_BYTES - 1]), Err(SegmentFault::Short));
        assert_eq!(SegmentHeader::read(&[0; PAGE_BYTES]), Err(SegmentFault::Magic));
        page[8] = 2;
        let sum = crc32c::crc32c(&page[..SUMMED_BYTES]);
        page[SUMMED_BYTES..SUMMED_BYTES + 4].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(SegmentHeader::read(&page), Err(SegmentFault::Version(2)));
    }

    #[test]
    fn names_come_back_and_others_are_none() {
        assert_eq!(id_of_file(&file_name(0xab)), Some(0xab));
        assert!(file_name(9) < file_name(10) && file_name(0xf) < file_name(0x10));
        for name in ["segment-ab.log", "segment-00000000000000ab.index", "x", "segment-00000000000000zz.log"] {
            assert_eq!(id_of_file(name), None, "{name}");
        }
    }
}
