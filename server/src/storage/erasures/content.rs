//! The records of the list of erasures as bytes.

use banter_log::erasure::Bound;
use banter_protocol::ids::{Epoch, RoomName, Sequence, UserName};

use super::{Ended, RECORD_BYTES, Wanted};
use crate::storage::slots::FileIdentity;

const MAGIC: &[u8; 4] = b"ERAS";
const FORMAT: u8 = 2;
const SUM_AT: usize = 8;
/// Bytes ahead of the content.
pub(super) const HEADER_BYTES: usize = 12;
const ASKED: u8 = 1;
const BOUND: u8 = 2;
const DONE: u8 = 3;
const FINISHED: u8 = 4;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Something is to be erased.
    Asked { number: u64, at_ms: u64, wanted: Wanted },
    /// A folder has begun with it: it reaches up to there, and no segment behind that one holds any of it.
    Bound { number: u64, folder: FileIdentity, bound: Bound, through_segment: u64 },
    /// Nothing of it is left in a folder.
    Done { number: u64, folder: FileIdentity, ended: Ended },
    /// All that is to be kept of one that is done in a folder: the record of an ask, and what was done.
    Finished { number: u64, at_ms: u64, wanted: Wanted, folder: FileIdentity, ended: Ended },
}

/// The record.
pub(super) fn encode(said: &Said) -> Vec<u8> {
    let mut content = Vec::new();
    let kind = match said {
        Said::Asked { number, at_ms, wanted } => {
            put_asked(&mut content, *number, *at_ms, wanted);
            ASKED
        }
        Said::Bound { number, folder, bound, through_segment } => {
            put(&mut content, &[*number, folder.inode, folder.born_ns]);
            put(&mut content, &[bound.epoch.0, bound.last.0, bound.newest_ms, *through_segment]);
            BOUND
        }
        Said::Done { number, folder, ended } => {
            put(&mut content, &[*number, folder.inode, folder.born_ns, ended.messages, ended.unread_bytes]);
            DONE
        }
        Said::Finished { number, at_ms, wanted, folder, ended } => {
            put_asked(&mut content, *number, *at_ms, wanted);
            put(&mut content, &[folder.inode, folder.born_ns, ended.messages, ended.unread_bytes]);
            FINISHED
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
            let (at_ms, wanted) = fields.asked()?;
            Some(Said::Asked { number, at_ms, wanted })
        }
        BOUND => {
            let (folder, bound) = (fields.folder()?, fields.bound()?);
            Some(Said::Bound { number, folder, bound, through_segment: fields.number()? })
        }
        DONE => Some(Said::Done { number, folder: fields.folder()?, ended: fields.ended()? }),
        FINISHED => {
            let (at_ms, wanted) = fields.asked()?;
            Some(Said::Finished { number, at_ms, wanted, folder: fields.folder()?, ended: fields.ended()? })
        }
        _ => None,
    }
}

fn put(content: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| content.extend_from_slice(&number.to_le_bytes()));
}

fn put_asked(content: &mut Vec<u8>, number: u64, at_ms: u64, wanted: &Wanted) {
    let Wanted { room, user, first, last, bound } = wanted;
    put(content, &[number, at_ms, first.0, last.0, bound.epoch.0, bound.last.0, bound.newest_ms]);
    for name in [room.as_str(), user.as_ref().map_or("", UserName::as_str)] {
        content.push(name.len() as u8);
        content.extend_from_slice(name.as_bytes());
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

    fn asked(&mut self) -> Option<(u64, Wanted)> {
        let (at_ms, first, last) = (self.number()?, Sequence(self.number()?), Sequence(self.number()?));
        let bound = self.bound()?;
        let room = RoomName::new(self.text()?).ok()?;
        let user = match self.text()? {
            "" => None,
            user => Some(UserName::new(user).ok()?),
        };
        Some((at_ms, Wanted { room, user, first, last, bound }))
    }

    fn bound(&mut self) -> Option<Bound> {
        let (epoch, last) = (Epoch(self.number()?), Sequence(self.number()?));
        Some(Bound { epoch, last, newest_ms: self.number()? })
    }

    fn ended(&mut self) -> Option<Ended> {
        Some(Ended { messages: self.number()?, unread_bytes: self.number()? })
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
