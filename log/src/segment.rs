//! A segment file's name and its header, which says whose it is and which format it has.
//!
//! ```text
//!  offset  size  field
//!       0     8  magic "BANTERLG"
//!       8     2  format version: 2
//!      10     2  core that writes it
//!      12     4  hours that its retention class lives; 0 = as `[limits]` says
//!      16     8  segment id: grows with every segment of the folder
//!      24     8  nonce: chance, so that no peer can write bytes that look like a block of this segment
//!      32     8  run: which start of the server writes it
//!      40     8  made at, milliseconds since 1970
//!      48     8  bytes of the file, as it was made: a shorter one has lost its end
//!      56     8  bytes that its retention class keeps; 0 = as `[limits]` says
//!      64     4  CRC-32C of the 64 bytes before
//!      68        zeros to 4 KiB
//! ```

use thiserror::Error;

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::{FORMAT_VERSION, PAGE_BYTES};

const MAGIC: &[u8; 8] = b"BANTERLG";
const SUMMED_BYTES: usize = 64;

/// The format that came before the first release, which nothing reads.
const FIRST_FORMAT_VERSION: u16 = 1;

/// A retention class: rooms whose messages live equally long lie in the same files, so that whole files go. What it leaves open
/// is as `[limits]` says, where 0 is no limit; the server's own class leaves open both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    /// Hours that messages are kept; 0 = as `[limits]` says.
    pub hours: u32,
    /// Bytes of the class's files that are kept; 0 = as `[limits]` says, of this class's files alone.
    pub bytes: u64,
}

impl Class {
    /// The server's own.
    pub const SERVER: Class = Class { hours: 0, bytes: 0 };

    /// A short form of it, for where another is taken for it only if both lost segments.
    pub fn tag(self) -> u16 {
        let sum = crc32c::crc32c_append(crc32c::crc32c(&self.hours.to_le_bytes()), &self.bytes.to_le_bytes());
        (sum ^ (sum >> 16)) as u16
    }
}

/// Who writes a segment, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Grows with every segment of the folder.
    pub id: u64,
    /// Chance.
    pub nonce: u64,
    /// The core that writes it.
    pub core: u16,
    /// How long what it holds lives.
    pub class: Class,
    /// Which start of the server writes it.
    pub run: u64,
    /// Milliseconds since 1970.
    pub made_unix_ms: u64,
    /// Bytes of the file, as it was made.
    pub file_bytes: u64,
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
    /// Another Banter wrote it.
    #[error("its format is {0}, and this build reads 2: use the Banter that wrote it")]
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
        page.extend_from_slice(&self.class.hours.to_le_bytes());
        page.extend_from_slice(&self.id.to_le_bytes());
        page.extend_from_slice(&self.nonce.to_le_bytes());
        page.extend_from_slice(&self.run.to_le_bytes());
        page.extend_from_slice(&self.made_unix_ms.to_le_bytes());
        page.extend_from_slice(&self.file_bytes.to_le_bytes());
        page.extend_from_slice(&self.class.bytes.to_le_bytes());
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
        let version = u16_at(page, 8).ok_or(SegmentFault::Short)?;
        // A header of the first format has its sum elsewhere. It is not damaged, so that no flag may put it aside; a later
        // format keeps the sum at its place.
        if version == FIRST_FORMAT_VERSION {
            return Err(SegmentFault::Version(version));
        }
        if u32_at(page, SUMMED_BYTES) != Some(crc32c::crc32c(summed)) {
            return Err(SegmentFault::Sum);
        }
        if version != FORMAT_VERSION {
            return Err(SegmentFault::Version(version));
        }
        let number = |at| u64_at(page, at).ok_or(SegmentFault::Short);
        Ok(SegmentHeader {
            id: number(16)?,
            nonce: number(24)?,
            core: u16_at(page, 10).ok_or(SegmentFault::Short)?,
            class: Class { hours: u32_at(page, 12).ok_or(SegmentFault::Short)?, bytes: number(56)? },
            run: number(32)?,
            made_unix_ms: number(40)?,
            file_bytes: number(48)?,
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

    pub(crate) const HEADER: SegmentHeader = SegmentHeader {
        id: 7,
        nonce: 0x1234_5678_9abc_def0,
        core: 3,
        class: Class { hours: 24, bytes: 1 << 33 },
        run: 9,
        made_unix_ms: 1_700_000_000_000,
        file_bytes: 1 << 20,
    };

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
        page[8] = 3;
        let sum = crc32c::crc32c(&page[..SUMMED_BYTES]);
        page[SUMMED_BYTES..SUMMED_BYTES + 4].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(SegmentHeader::read(&page), Err(SegmentFault::Version(3)));
        page[8] = 1;
        assert_eq!(SegmentHeader::read(&page), Err(SegmentFault::Version(1)), "it kept its sum elsewhere");
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
