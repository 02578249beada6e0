//! A record: a message as the log keeps it, which is its native frame behind a short prefix.
//!
//! ```text
//!  offset  size  field
//!       0     1  kind: 1 = message
//!       1     1  level that it was acknowledged at: 1 = written, 2 = synced
//!       2     2  core of the connection that posted it
//!       4     4  slot of that connection
//!       8     4  generation of that connection
//!      12     4  reserved: 0
//!      16     n  the native frame, which says its own length
//! ```
//!
//! The connection is there for `echo: false` of one that is still open: it means something in the run that wrote it only.

use banter_protocol::frame::{FrameHeader, FrameKind, HEADER_BYTES};

use crate::bytes::{array, u16_at, u32_at};

/// Bytes ahead of the frame.
pub const PREFIX_BYTES: usize = 16;
const MESSAGE: u8 = 1;

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
    /// Its core.
    pub core: u16,
    /// Its slot there.
    pub slot: u32,
    /// Which of the slot's connections.
    pub generation: u32,
}

/// A message of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The room's level.
    pub level: Level,
    /// Who posted it.
    pub author: Author,
    /// The native frame with its header.
    pub frame: &'a [u8],
}

impl Record<'_> {
    /// Bytes that it takes in a block.
    pub fn bytes(&self) -> usize {
        PREFIX_BYTES + self.frame.len()
    }

    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[MESSAGE, self.level as u8]);
        out.extend_from_slice(&self.author.core.to_le_bytes());
        out.extend_from_slice(&self.author.slot.to_le_bytes());
        out.extend_from_slice(&self.author.generation.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.frame);
    }
}

/// A block's records. Ends with `Err` at the first that is none, which a block that checks never holds.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

/// A record that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record inside a block that checks is none of this format")]
pub struct RecordFault;

impl<'a> Records<'a> {
    /// Of a block's body.
    pub fn of(body: &'a [u8]) -> Self {
        Records { rest: body }
    }

    /// The bytes that are still to be read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn read(&mut self) -> Option<Record<'a>> {
        let bytes = self.rest;
        let [kind, level] = array(bytes, 0)?;
        let level = Level::from_number(level).filter(|_| kind == MESSAGE)?;
        let author = Author { core: u16_at(bytes, 2)?, slot: u32_at(bytes, 4)?, generation: u32_at(bytes, 8)? };
        let header = FrameHeader::read(array(bytes, PREFIX_BYTES)?, u32::MAX).ok()?;
        if header.kind != FrameKind::Message {
            return None;
        }
        let end = PREFIX_BYTES + HEADER_BYTES + header.payload_bytes as usize;
        let frame = bytes.get(PREFIX_BYTES..end)?;
        self.rest = &bytes[end..];
        Some(Record { level, author, frame })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.read().ok_or(RecordFault);
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use banter_protocol::event::Message;
    use banter_protocol::ids::{Epoch, Sequence};
    use banter_protocol::native::write_message;
    use banter_protocol::request::Body;

    use super::*;

    fn frame(text: &str) -> Vec<u8> {
        let mut frame = Vec::new();
        let body = Body { format: banter_protocol::request::BodyFormat::Json, bytes: text.as_bytes() };
        let message =
            Message { epoch: Epoch(1), sequence: Sequence(2), time_ms: 3, room: "r", user: "u", key: None, body };
        write_message(&message, &mut frame);
        frame
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let (one, two) = (frame("1"), frame("\"two\""));
        let author = Author { core: 1, slot: 2, generation: 3 };
        let records = [
            Record { level: Level::Synced, author, frame: &one },
            Record { level: Level::Written, author, frame: &two },
        ];
        let mut body = Vec::new();
        records.iter().for_each(|record| record.write(&mut body));
        assert_eq!(body.len(), records.iter().map(Record::bytes).sum::<usize>());
        let read: Vec<_> = Records::of(&body).map(|record| record.unwrap()).collect();
        assert_eq!(read, records);
    }

    #[test]
    fn a_cut_or_unknown_record_ends_the_reading_with_a_fault() {
        let frame = frame("1");
        let mut body = Vec::new();
        let author = Author { core: 0, slot: 0, generation: 0 };
        Record { level: Level::Synced, author, frame: &frame }.write(&mut body);
        for length in 1..body.len() {
            let read: Vec<_> = Records::of(&body[..length]).collect();
            assert_eq!(read, [Err(RecordFault)], "{length}");
        }
        body[0] = 9;
        assert_eq!(Records::of(&body).collect::<Vec<_>>(), [Err(RecordFault)]);
    }
}
