//! The records of the list of erasures as bytes.

use banter_protocol::ids::{RoomName, Sequence, UserName};

use super::{RECORD_BYTES, Wanted};
use crate::storage::slots::FileIdentity;

const MAGIC: &[u8; 4] = b"ERAS";
const FORMAT: u8 = 1;
const SUM_AT: usize = 8;
/// Bytes ahead of the content.
pub(super) const HEADER_BYTES: usize = 12;
const ASKED: u8 = 1;
const BOUND: u8 = 2;
const DONE: u8 = 3;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Something is to be erased.
    Asked { number: u64, at_ms: u64, wanted: Wanted },
    /// A folder has begun with it: it reaches up to that place, and no segment behind that one holds any of it.
    Bound { number: u64, folder: FileIdentity, last: Sequence, through_segment: u64 },
    /// Nothing of it is left in a folder, and so many messages were erased.
    Done { number: u64, folder: FileIdentity, messages: u64 },
}

/// The record.
pub(super) fn encode(said: &Said) -> Vec<u8> {
    let mut content = Vec::new();
    let mut put = |numbers: &[u64]| numbers.iter().for_each(|number| content.extend_from_slice(&number.to_le_bytes()));
    let kind = match said {
        Said::Asked { number, at_ms, wanted: Wanted { room, user, first, last } } => {
            put(&[*number, *at_ms, first.0, last.0]);
            for name in [room.as_str(), user.as_ref().map_or("", UserName::as_str)] {
                content.push(name.len() as u8);
                content.extend_from_slice(name.as_bytes());
            }
            ASKED
        }
        Said::Bound { number, folder, last, through_segment } => {
            put(&[*number, folder.inode, folder.born_ns, last.0, *through_segment]);
            BOUND
        }
        Said::Done { number, folder, messages } => {
            put(&[*number, folder.inode, folder.born_ns, *messages]);
            DONE
        }
    };
    let mut record = Vec::with_capacity(RECORD_BYTES);
    record.extend_from_slice(MAGIC);
    record.extend_from_slice(&(content.len() as u16).to_le_bytes());
    record.extend_from_slice(&[kind, FORMAT, 0, 0, 0, 0]);
    record.extend_from_slice(&content);
    let sum = sum_of(&record);
    record[SUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    record.resize(RECORD_BYTES, 0);
    record
}

/// What a record says; `None` if it does not check.
pub(super) fn decode(record: &[u8]) -> Option<Said> {
    let content_bytes = usize::from(u16::from_le_bytes(array(record, 4)?));
    let summed = record.get(..HEADER_BYTES + content_bytes).filter(|_| record.len() == RECORD_BYTES)?;
    let is_whole = summed.starts_with(MAGIC)
        && summed.get(7) == Some(&FORMAT)
        && sum_of(summed).to_le_bytes() == array(record, SUM_AT)?
        && record.get(summed.len()..)?.iter().all(|&byte| byte == 0);
    let kind = summed.get(6).copied().filter(|_| is_whole)?;
    let mut fields = Fields(&summed[HEADER_BYTES..]);
    let number = fields.number()?;
    match kind {
        ASKED => {
            let (at_ms, first, last) = (fields.number()?, Sequence(fields.number()?), Sequence(fields.number()?));
            let room = RoomName::new(fields.text()?).ok()?;
            let user = match fields.text()? {
                "" => None,
                user => Some(UserName::new(user).ok()?),
            };
            Some(Said::Asked { number, at_ms, wanted: Wanted { room, user, first, last } })
        }
        BOUND => {
            let (folder, last) = (fields.folder()?, Sequence(fields.number()?));
            Some(Said::Bound { number, folder, last, through_segment: fields.number()? })
        }
        DONE => Some(Said::Done { number, folder: fields.folder()?, messages: fields.number()? }),
        _ => None,
    }
}

/// What is still to be read of a content.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.bytes(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn folder(&mut self) -> Option<FileIdentity> {
        Some(FileIdentity { inode: self.number()?, born_ns: self.number()? })
    }

    fn text(&mut self) -> Option<&'a str> {
        let bytes = self.bytes(1)?[0];
        std::str::from_utf8(self.bytes(bytes.into())?).ok()
    }
}

fn sum_of(record: &[u8]) -> u32 {
    let (before, behind) = record.split_at(SUM_AT.min(record.len()));
    crc32c::crc32c_append(crc32c::crc32c(before), behind.get(HEADER_BYTES - SUM_AT..).unwrap_or(&[]))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
