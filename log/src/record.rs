//! A record: something of a room as the log keeps it, which is its native frame behind a short prefix.
//!
//! ```text
//!  offset  size  field
//!       0     1  kind: 1 = message, 2 = change, 3 = state, 4 = tombstone, 5 = message with views
//!       1     1  level of its room (1 = written, 2 = synced), and 16 if a hash follows the prefix
//!       2     2  the lowest 16 bits of the room's id
//!       4     4  CRC-32C of the segment's nonce and of all of the record but these 4 bytes
//!       8     4  connection that posted it: core in the upper 12 bits, slot in the lower 20
//!      12     4  generation of that connection
//!      16     8  hash of the body as the client sent it, where that is not the body of the frame
//!       …     n  the native frame, which says its own length
//! ```
//!
//! The connection is there for `echo: false` of one that is still open: it means something in the run that wrote it only.
//! The sum makes a record believable by itself, so that nobody has to read a whole block for one of its messages.

use banter_protocol::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use banter_protocol::ids::RoomId;
use banter_protocol::native::is_viewed;

use crate::bytes::{array, u16_at, u32_at, u64_at};

/// Bytes ahead of the frame, and of the hash.
pub const PREFIX_BYTES: usize = 16;
/// Bytes of the hash of a body as it was sent.
pub const SENT_HASH_BYTES: usize = 8;
const HAS_SENT_HASH: u8 = 16;
const SUM_AT: usize = 4;
const SLOT_BITS: u32 = 20;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// What a person said, in its place.
    Message = 1,
    /// Something else that has a place of its own: an edit, a deletion, a role.
    Change = 2,
    /// State of a room, which has no place: the newest counts.
    State = 3,
    /// A place whose message was erased.
    Tombstone = 4,
    /// What a person said, in its place, with other bodies for classes of readers.
    Viewed = 5,
}

impl RecordKind {
    /// The kind of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(RecordKind::Message),
            2 => Some(RecordKind::Change),
            3 => Some(RecordKind::State),
            4 => Some(RecordKind::Tombstone),
            5 => Some(RecordKind::Viewed),
            _ => None,
        }
    }

    /// What the frame of such a record is.
    pub fn frame_kind(self) -> FrameKind {
        match self {
            RecordKind::Message => FrameKind::Message,
            RecordKind::Change => FrameKind::Change,
            RecordKind::State => FrameKind::State,
            RecordKind::Tombstone => FrameKind::Gap,
            RecordKind::Viewed => FrameKind::Viewed,
        }
    }

    /// Whether it has a place in its room.
    pub fn is_numbered(self) -> bool {
        self != RecordKind::State
    }
}

/// When a message of a room is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// When the kernel has it.
    Written = 1,
    /// When the disk has it.
    Synced = 2,
}

impl Level {
    /// The level of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Level::Written),
            2 => Some(Level::Synced),
            _ => None,
        }
    }
}

/// The connection that posted a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    /// Its core; below 4,096.
    pub core: u16,
    /// Its slot there; below 2^20, as many as a core has sockets.
    pub slot: u32,
    /// Which of the slot's connections.
    pub generation: u32,
}

impl Author {
    /// Nobody: what the server itself wrote.
    pub const NOBODY: Author = Author { core: 0xfff, slot: (1 << SLOT_BITS) - 1, generation: u32::MAX };

    fn packed(self) -> u32 {
        let fits = u32::from(self.core) < 1 << (32 - SLOT_BITS) && self.slot < 1 << SLOT_BITS;
        if fits { u32::from(self.core) << SLOT_BITS | self.slot } else { u32::MAX }
    }

    fn unpacked(packed: u32, generation: u32) -> Self {
        Author { core: (packed >> SLOT_BITS) as u16, slot: packed & ((1 << SLOT_BITS) - 1), generation }
    }
}

/// Something of a room in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// The room's level.
    pub level: Level,
    /// What tells most records of other rooms apart without reading their frames: [`room_tag`].
    pub room_tag: u16,
    /// Who posted it.
    pub author: Author,
    /// What stands for the body as the client sent it, where the frame has another.
    pub sent_body_hash: Option<u64>,
    /// The native frame with its header.
    pub frame: &'a [u8],
}

/// The short form of a room's id in a record.
pub fn room_tag(room: RoomId) -> u16 {
    room.0 as u16
}

/// Bytes of a message's record with a frame of that many bytes.
pub const fn message_bytes(frame_bytes: usize) -> usize {
    PREFIX_BYTES + frame_bytes
}

impl<'a> Record<'a> {
    /// A message, with views or without.
    pub fn message(room: RoomId, level: Level, author: Author, frame: &'a [u8]) -> Self {
        let kind = if is_viewed(frame) { RecordKind::Viewed } else { RecordKind::Message };
        let room_tag = room_tag(room);
        Record { kind, level, room_tag, author, sent_body_hash: None, frame }
    }

    /// Bytes that it takes in a block.
    pub fn bytes(&self) -> usize {
        PREFIX_BYTES + self.sent_body_hash.map_or(0, |_| SENT_HASH_BYTES) + self.frame.len()
    }

    /// Appends it, for a segment of that nonce.
    pub fn write(&self, nonce: u64, out: &mut Vec<u8>) {
        let start = out.len();
        let flags = if self.sent_body_hash.is_some() { HAS_SENT_HASH } else { 0 };
        out.extend_from_slice(&[self.kind as u8, self.level as u8 | flags]);
        out.extend_from_slice(&self.room_tag.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.author.packed().to_le_bytes());
        out.extend_from_slice(&self.author.generation.to_le_bytes());
        if let Some(hash) = self.sent_body_hash {
            out.extend_from_slice(&hash.to_le_bytes());
        }
        out.extend_from_slice(self.frame);
        let sum = sum_of(&out[start..], nonce);
        out[start + SUM_AT..start + SUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads the record that starts with these bytes, of a segment of that nonce.
    ///
    /// # Errors
    /// It goes on behind them, does not check, or is of a kind that only a later build knows.
    pub fn read(bytes: &'a [u8], nonce: u64) -> Result<Self, RecordFault> {
        let length = Self::bytes_of(bytes)?;
        let whole = bytes.get(..length).ok_or(RecordFault::Longer(length))?;
        if u32_at(whole, SUM_AT) != Some(sum_of(whole, nonce)) {
            return Err(RecordFault::Damaged);
        }
        // What checks was written so: a kind that is not known here is no damage.
        let kind = RecordKind::from_number(whole[0]).ok_or(RecordFault::Kind(whole[0]))?;
        Self::read_fields(whole, kind).ok_or(RecordFault::Damaged)
    }

    fn read_fields(whole: &'a [u8], kind: RecordKind) -> Option<Self> {
        let flags = whole[1];
        let level = Level::from_number(flags & !HAS_SENT_HASH)?;
        let has_hash = flags & HAS_SENT_HASH != 0;
        let sent_body_hash = if has_hash { Some(u64_at(whole, PREFIX_BYTES)?) } else { None };
        let frame = whole.get(PREFIX_BYTES + if has_hash { SENT_HASH_BYTES } else { 0 }..)?;
        let header = FrameHeader::read(array(frame, 0)?, u32::MAX).ok()?;
        if header.kind != kind.frame_kind() {
            return None;
        }
        let author = Author::unpacked(u32_at(whole, 8)?, u32_at(whole, 12)?);
        Some(Record { kind, level, room_tag: u16_at(whole, 2)?, author, sent_body_hash, frame })
    }

    /// Bytes of the record that starts with these: believed only when its sum was looked at.
    ///
    /// # Errors
    /// They are too few to say, or no record starts so.
    pub fn bytes_of(bytes: &[u8]) -> Result<usize, RecordFault> {
        let flags = *bytes.get(1).ok_or(RecordFault::Longer(PREFIX_BYTES + HEADER_BYTES))?;
        let ahead = PREFIX_BYTES + if flags & HAS_SENT_HASH != 0 { SENT_HASH_BYTES } else { 0 };
        let payload_bytes = u32_at(bytes, ahead).ok_or(RecordFault::Longer(ahead + HEADER_BYTES))?;
        if bytes[0] == 0 {
            return Err(RecordFault::Damaged);
        }
        Ok(ahead + HEADER_BYTES + payload_bytes as usize)
    }
}

fn sum_of(record: &[u8], nonce: u64) -> u32 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&nonce.to_le_bytes()), &record[..SUM_AT]);
    crc32c::crc32c_append(sum, &record[SUM_AT + 4..])
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// It has that many bytes, which are not all there.
    #[error("the record goes on: it has {0} bytes")]
    Longer(usize),
    /// They do not check.
    #[error("the record does not check")]
    Damaged,
    /// It checks, and is of a kind that this build does not know.
    #[error("the record is of kind {0}, which this build does not know: use the Banter that wrote it")]
    Kind(u8),
}

/// A block's records. Ends with `Err` at the first that is none.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    nonce: u64,
}

impl<'a> Records<'a> {
    /// Of the body of a block of a segment of that nonce.
    pub fn of(body: &'a [u8], nonce: u64) -> Self {
        Records { rest: body, nonce }
    }

    /// The bytes that are still to be read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = Record::read(self.rest, self.nonce).map_err(|fault| match fault {
            RecordFault::Longer(_) => RecordFault::Damaged,
            fault => fault,
        });
        self.rest = record.map_or(&[][..], |record| &self.rest[record.bytes()..]);
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use banter_protocol::event::Message;
    use banter_protocol::ids::{Epoch, Sequence};
    use banter_protocol::native::{Kept, write_kept, write_message};
    use banter_protocol::request::{Body, BodyFormat};

    use super::*;

    const NONCE: u64 = 0x1234_5678_9abc_def0;

    fn frame(text: &str) -> Vec<u8> {
        let mut frame = Vec::new();
        let body = Body { format: BodyFormat::Json, bytes: text.as_bytes() };
        let (epoch, sequence) = (Epoch(1), Sequence(1));
        let message = Message { epoch, sequence, time_ms: 0, room: "r", user: "u", key: None, body };
        write_message(&message, &mut frame);
        frame
    }

    fn author() -> Author {
        Author { core: 1, slot: 70_000, generation: 9 }
    }

    fn tombstone() -> Vec<u8> {
        let mut frame = Vec::new();
        write_kept(&Kept::Erased { room: "r", epoch: Epoch(1), sequence: Sequence(2) }, &mut frame);
        frame
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let (one, two, gone) = (frame("1"), frame("\"two\""), tombstone());
        let message = Record::message(RoomId(0x1_2345), Level::Synced, author(), &one);
        let changed = Record { level: Level::Written, sent_body_hash: Some(77), frame: &two, ..message };
        let erased = Record { kind: RecordKind::Tombstone, author: Author::NOBODY, frame: &gone, ..message };
        let mut body = Vec::new();
        for record in [message, changed, erased] {
            let before = body.len();
            record.write(NONCE, &mut body);
            assert_eq!(body.len() - before, record.bytes());
        }
        assert_eq!(message.room_tag, 0x2345);
        let read: Vec<_> = Records::of(&body, NONCE).collect();
        assert_eq!(read, [Ok(message), Ok(changed), Ok(erased)]);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_record_is_seen() {
        let frame = frame("12");
        let record = Record { sent_body_hash: Some(5), ..Record::message(RoomId(1), Level::Synced, author(), &frame) };
        let mut whole = Vec::new();
        record.write(NONCE, &mut whole);
        assert_eq!(Record::read(&whole, NONCE), Ok(record));
        assert_eq!(Record::read(&whole, NONCE + 1), Err(RecordFault::Damaged), "of another segment");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::read(&flipped, NONCE).is_err(), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(matches!(Record::read(&whole[..length], NONCE), Err(RecordFault::Longer(long)) if long > length));
        }
    }

    #[test]
    fn a_kind_of_a_later_build_is_told_from_damage() {
        let frame = frame("1");
        let mut whole = Vec::new();
        Record::message(RoomId(1), Level::Synced, author(), &frame).write(NONCE, &mut whole);
        whole[0] = 9;
        let sum = sum_of(&whole, NONCE);
        whole[SUM_AT..SUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Record::read(&whole, NONCE), Err(RecordFault::Kind(9)));
        whole[0] = RecordKind::Tombstone as u8;
        let sum = sum_of(&whole, NONCE);
        whole[SUM_AT..SUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Record::read(&whole, NONCE), Err(RecordFault::Damaged), "its frame is no tombstone");
    }

    #[test]
    fn a_connection_that_does_not_fit_is_nobody() {
        let frame = frame("1");
        let mut whole = Vec::new();
        let far = Author { core: 5_000, slot: 3, generation: 9 };
        Record::message(RoomId(1), Level::Synced, far, &frame).write(NONCE, &mut whole);
        let read = Record::read(&whole, NONCE).unwrap();
        assert_eq!((read.author.core, read.author.slot), (Author::NOBODY.core, Author::NOBODY.slot));
    }
}
