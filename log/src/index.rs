//! What a segment holds by room: made while the segment is written, kept beside it when it is full, made again by a scan
//! when it is missing or wrong. Derived, so never evidence about the log.
//!
//! ```text
//!  file     [ header 64 B ][ table: a part a room, by id ][ marks and keys of the first room ][ of the second ]…
//!
//!  header                                           part
//!  offset  size  field                              offset  size  field
//!       0     8  magic "BANTERIX"                        0    16  room id
//!       8     2  format version: 1                      16     8  epoch of its newest message
//!      10     2  core                                   24     8  first sequence
//!      12     4  parts                                  32     8  last sequence
//!      16     8  segment id                             40     8  bytes of its records
//!      24     8  nonce of the segment                   48     8  time of its newest message, ms
//!      32     8  where the segment's blocks end         56     4  level of its newest message
//!      40     8  time of the newest message, ms         60     4  marks
//!      48     4  CRC-32C of the table                   64     4  keys
//!      52     4  CRC-32C of the 52 bytes before         68     4  CRC-32C of its marks and keys
//!      56     8  reserved: 0                            72     8  offset of its marks; its keys follow
//!
//!  mark     [ sequence 8 ][ page 4 ]                a block with that message starts at that page of the segment
//!  key      [ sequence 8 ][ time 8 ][ fingerprint 16 ][ body 8 ]
//! ```

use std::collections::BTreeMap;

use banter_protocol::event::Message;
use banter_protocol::ids::{Epoch, RoomId, Sequence};

use crate::bytes::{array, u16_at, u32_at, u64_at};
use crate::key::{Fingerprint, KeyedPost};
use crate::record::Level;
use crate::segment::SegmentHeader;
use crate::{FORMAT_VERSION, PAGE_BYTES};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a part in the table.
pub const PART_BYTES: usize = 80;
/// Bytes of a mark.
pub const MARK_BYTES: usize = 12;
/// Bytes of a key.
pub const KEY_BYTES: usize = 40;
/// Bytes of the log between two marks of a room, at least: what a reader may have to read in vain. So an index has at
/// most one mark a message, and for a busy room one in so many bytes.
pub const MARK_STRIDE_BYTES: u64 = 64 * 1_024;

const MAGIC: &[u8; 8] = b"BANTERIX";
const SUMMED_BYTES: usize = 52;

/// Where a message of a room lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The first message of the room in the block, or one before it.
    pub sequence: u64,
    /// Where the block starts in the segment.
    pub offset: u64,
}

/// What a segment holds of one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The room.
    pub room: RoomId,
    /// The epoch of its newest message there.
    pub epoch: Epoch,
    /// Its first message there.
    pub first: Sequence,
    /// Its last message there; all between are there too.
    pub last: Sequence,
    /// Bytes of its records.
    pub bytes: u64,
    /// The time of its newest message, milliseconds since 1970.
    pub newest_ms: u64,
    /// The level of its newest message.
    pub level: Level,
    /// Where its marks and keys lie.
    pub details: Details,
}

/// Where a part's marks and keys lie in the index file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Where its marks start; its keys follow them.
    pub offset: u64,
    /// Marks.
    pub marks: u32,
    /// Keys.
    pub keys: u32,
    sum: u32,
}

impl Details {
    /// Bytes of marks and keys together.
    pub fn bytes(&self) -> usize {
        self.marks as usize * MARK_BYTES + self.keys as usize * KEY_BYTES
    }

    /// Reads them; `None` if those bytes are not what the table promised.
    pub fn read(&self, bytes: &[u8]) -> Option<(Vec<Mark>, Vec<KeyedPost>)> {
        let bytes = bytes.get(..self.bytes())?;
        if crc32c::crc32c(bytes) != self.sum {
            return None;
        }
        let (marks, keys) = bytes.split_at(self.marks as usize * MARK_BYTES);
        let marks = marks.chunks_exact(MARK_BYTES).map(read_mark).collect::<Option<_>>()?;
        let keys = keys.chunks_exact(KEY_BYTES).map(read_key).collect::<Option<_>>()?;
        Some((marks, keys))
    }
}

fn read_mark(bytes: &[u8]) -> Option<Mark> {
    Some(Mark { sequence: u64_at(bytes, 0)?, offset: u64::from(u32_at(bytes, 8)?) * PAGE_BYTES as u64 })
}

fn read_key(bytes: &[u8]) -> Option<KeyedPost> {
    Some(KeyedPost {
        sequence: u64_at(bytes, 0)?,
        time_ms: u64_at(bytes, 8)?,
        fingerprint: Fingerprint(u128::from_le_bytes(array(bytes, 16)?)),
        body: u64_at(bytes, 32)?,
    })
}

/// One message, as the index takes it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The room.
    pub room: RoomId,
    /// The room's history.
    pub epoch: Epoch,
    /// The message's place.
    pub sequence: Sequence,
    /// Its time, milliseconds since 1970.
    pub time_ms: u64,
    /// The room's level.
    pub level: Level,
    /// Bytes of its record.
    pub record_bytes: u32,
    /// Its key.
    pub key: Option<KeyedPost>,
}

impl Entry {
    /// Of a message that was read.
    pub fn of(message: &Message<'_>, level: Level, record_bytes: usize) -> Self {
        Self::in_room(RoomId::of(message.room), message, level, record_bytes)
    }

    /// Of a message of a room whose id is known.
    pub fn in_room(room: RoomId, message: &Message<'_>, level: Level, record_bytes: usize) -> Self {
        Entry {
            room,
            epoch: message.epoch,
            sequence: message.sequence,
            time_ms: message.time_ms,
            level,
            record_bytes: record_bytes as u32,
            key: KeyedPost::of(message),
        }
    }
}

/// The index of a segment in the making. Its size is bounded by the segment's. A tree, and no hash table: that one takes
/// 20 ms to move 100,000 rooms when it grows, in the midst of a turn.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    rooms: BTreeMap<RoomId, PartBuilder>,
    newest_ms: u64,
}

/// One room's part in the making.
#[derive(Debug)]
pub struct PartBuilder {
    /// What the table will say.
    pub part: Part,
    /// Its marks, ascending.
    pub marks: Vec<Mark>,
    /// Its keyed posts, ascending.
    pub keys: Vec<KeyedPost>,
}

impl IndexBuilder {
    /// Adds a message of the block at that offset.
    pub fn add(&mut self, entry: &Entry, block_offset: u64) {
        let room = self.rooms.entry(entry.room).or_insert_with(|| PartBuilder::starting_with(entry));
        room.add(entry, block_offset);
        self.newest_ms = self.newest_ms.max(entry.time_ms);
    }

    /// A room's part.
    pub fn room(&self, room: RoomId) -> Option<&PartBuilder> {
        self.rooms.get(&room)
    }

    /// Every part, by room id.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.rooms.values().map(|room| &room.part)
    }

    /// The time of the newest message, milliseconds since 1970; 0 if there is none.
    pub fn newest_ms(&self) -> u64 {
        self.newest_ms
    }

    /// The file's bytes, and the parts with their places in it.
    pub fn encode(&self, segment: &SegmentHeader, end_offset: u64) -> (Vec<u8>, Vec<Part>) {
        let details_start = HEADER_BYTES + self.rooms.len() * PART_BYTES;
        let (mut table, mut details) = (Vec::with_capacity(self.rooms.len() * PART_BYTES), Vec::new());
        let mut parts = Vec::with_capacity(self.rooms.len());
        for room in self.rooms.values() {
            let offset = (details_start + details.len()) as u64;
            let part = Part { details: room.write_details(offset, &mut details), ..room.part };
            write_part(&part, &mut table);
            parts.push(part);
        }
        let mut file = Vec::with_capacity(details_start + details.len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        file.extend_from_slice(&segment.core.to_le_bytes());
        file.extend_from_slice(&(parts.len() as u32).to_le_bytes());
        for number in [segment.id, segment.nonce, end_offset, self.newest_ms] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        file.extend_from_slice(&crc32c::crc32c(&table).to_le_bytes());
        file.extend_from_slice(&crc32c::crc32c(&file).to_le_bytes());
        file.resize(HEADER_BYTES, 0);
        file.extend_from_slice(&table);
        file.extend_from_slice(&details);
        (file, parts)
    }
}

impl PartBuilder {
    fn starting_with(entry: &Entry) -> Self {
        let part = Part {
            room: entry.room,
            epoch: entry.epoch,
            first: entry.sequence,
            last: entry.sequence.previous(),
            bytes: 0,
            newest_ms: 0,
            level: entry.level,
            details: Details::default(),
        };
        PartBuilder { part, marks: Vec::new(), keys: Vec::new() }
    }

    fn add(&mut self, entry: &Entry, block_offset: u64) {
        if entry.sequence != self.part.last.next() {
            // No writer leaves a hole in a segment or gives a place twice in it. Where that is found all the same,
            // what is before it is out of reach: a part is dense.
            *self = PartBuilder::starting_with(entry);
        }
        let is_far = |mark: &Mark| block_offset >= mark.offset + MARK_STRIDE_BYTES;
        if self.marks.last().is_none_or(is_far) {
            self.marks.push(Mark { sequence: entry.sequence.0, offset: block_offset });
        }
        self.keys.extend(entry.key);
        let part = &mut self.part;
        part.last = entry.sequence;
        part.bytes += u64::from(entry.record_bytes);
        (part.epoch, part.level) = (entry.epoch, entry.level);
        part.newest_ms = part.newest_ms.max(entry.time_ms);
    }

    fn write_details(&self, offset: u64, out: &mut Vec<u8>) -> Details {
        let start = out.len();
        for mark in &self.marks {
            out.extend_from_slice(&mark.sequence.to_le_bytes());
            out.extend_from_slice(&((mark.offset / PAGE_BYTES as u64) as u32).to_le_bytes());
        }
        for key in &self.keys {
            out.extend_from_slice(&key.sequence.to_le_bytes());
            out.extend_from_slice(&key.time_ms.to_le_bytes());
            out.extend_from_slice(&key.fingerprint.0.to_le_bytes());
            out.extend_from_slice(&key.body.to_le_bytes());
        }
        let sum = crc32c::crc32c(&out[start..]);
        Details { offset, marks: self.marks.len() as u32, keys: self.keys.len() as u32, sum }
    }
}

fn write_part(part: &Part, out: &mut Vec<u8>) {
    out.extend_from_slice(&part.room.0.to_le_bytes());
    for number in [part.epoch.0, part.first.0, part.last.0, part.bytes, part.newest_ms] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let details = &part.details;
    for number in [part.level as u32, details.marks, details.keys, details.sum] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&details.offset.to_le_bytes());
}

fn read_part(bytes: &[u8]) -> Option<Part> {
    Some(Part {
        room: RoomId(u128::from_le_bytes(array(bytes, 0)?)),
        epoch: Epoch(u64_at(bytes, 16)?),
        first: Sequence(u64_at(bytes, 24)?),
        last: Sequence(u64_at(bytes, 32)?),
        bytes: u64_at(bytes, 40)?,
        newest_ms: u64_at(bytes, 48)?,
        level: Level::from_number(u8::try_from(u32_at(bytes, 56)?).ok()?)?,
        details: Details {
            marks: u32_at(bytes, 60)?,
            keys: u32_at(bytes, 64)?,
            sum: u32_at(bytes, 68)?,
            offset: u64_at(bytes, 72)?,
        },
    })
}

/// What an index file says without its marks and keys, which stay in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexTable {
    /// Where the segment's blocks end.
    pub end_offset: u64,
    /// The time of the newest message, milliseconds since 1970.
    pub newest_ms: u64,
    /// The parts, by room id.
    pub parts: Vec<Part>,
}

impl IndexTable {
    /// Bytes at the start of the file that [`IndexTable::read`] needs, by its header; `None` if it is no index of that
    /// segment.
    pub fn bytes_needed(header: &[u8], segment: &SegmentHeader) -> Option<usize> {
        let is_ours = header.starts_with(MAGIC)
            && u16_at(header, 8)? == FORMAT_VERSION
            && u16_at(header, 10)? == segment.core
            && u64_at(header, 16)? == segment.id
            && u64_at(header, 24)? == segment.nonce
            && crc32c::crc32c(header.get(..SUMMED_BYTES)?) == u32_at(header, SUMMED_BYTES)?;
        let parts = u32_at(header, 12)? as usize;
        is_ours.then_some(HEADER_BYTES + parts * PART_BYTES)
    }

    /// Reads the start of an index file; `None` if it is damaged, or the index of another segment.
    pub fn read(bytes: &[u8], segment: &SegmentHeader) -> Option<Self> {
        let needed = Self::bytes_needed(bytes, segment)?;
        let table = bytes.get(HEADER_BYTES..needed)?;
        if crc32c::crc32c(table) != u32_at(bytes, 48)? {
            return None;
        }
        let parts = table.chunks_exact(PART_BYTES).map(read_part).collect::<Option<_>>()?;
        Some(IndexTable { end_offset: u64_at(bytes, 32)?, newest_ms: u64_at(bytes, 40)?, parts })
    }
}

/// The name of the index beside a segment's file.
pub fn file_name(id: u64) -> String {
    format!("segment-{id:016x}.index")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: SegmentHeader = SegmentHeader { id: 7, nonce: 99, core: 1, run: 3, made_unix_ms: 5 };

    fn entry(room: u128, sequence: u64) -> Entry {
        let key = sequence.is_multiple_of(2).then_some(KeyedPost {
            sequence,
            time_ms: 10 * sequence,
            fingerprint: Fingerprint(u128::from(sequence) << 70),
            body: sequence * 3,
        });
        Entry {
            room: RoomId(room),
            epoch: Epoch(4),
            sequence: Sequence(sequence),
            time_ms: 10 * sequence,
            level: Level::Synced,
            record_bytes: 100,
            key,
        }
    }

    fn built() -> IndexBuilder {
        let mut index = IndexBuilder::default();
        for sequence in 1..=40u64 {
            index.add(&entry(u128::from(sequence % 3), 1 + sequence / 3), 4_096 + sequence * 16 * 1_024);
        }
        index
    }

    #[test]
    fn an_index_comes_back_as_it_was_written() {
        let index = built();
        let (file, parts) = index.encode(&SEGMENT, 777);
        assert_eq!(IndexTable::bytes_needed(&file, &SEGMENT), Some(HEADER_BYTES + 3 * PART_BYTES));
        let table = IndexTable::read(&file, &SEGMENT).unwrap();
        assert_eq!((table.end_offset, table.newest_ms, &table.parts), (777, 140, &parts));
        for part in &table.parts {
            let room = index.room(part.room).unwrap();
            let (marks, keys) = part.details.read(&file[part.details.offset as usize..]).unwrap();
            assert_eq!((&marks, &keys), (&room.marks, &room.keys));
            assert!(marks.len() > 2 && marks.len() < 14 && !keys.is_empty(), "{marks:?}");
            assert_eq!(
                (part.first, part.bytes),
                (Sequence(if part.room.0 == 0 { 2 } else { 1 }), 100 * (1 + part.last.0 - part.first.0))
            );
        }
    }

    #[test]
    fn every_flipped_bit_of_an_index_is_seen() {
        let (file, parts) = built().encode(&SEGMENT, 777);
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let table = IndexTable::read(&flipped, &SEGMENT);
            let reserved = SUMMED_BYTES + 4..HEADER_BYTES;
            if bit / 8 < HEADER_BYTES + parts.len() * PART_BYTES && !reserved.contains(&(bit / 8)) {
                assert_eq!(table, None, "bit {bit}");
            } else if !reserved.contains(&(bit / 8)) {
                let whole = |part: &Part| part.details.read(&flipped[part.details.offset as usize..]).is_some();
                assert_eq!(parts.iter().filter(|part| whole(part)).count(), parts.len() - 1, "bit {bit}");
            }
        }
        for length in 0..file.len() {
            assert!(IndexTable::read(&file[..length], &SEGMENT).is_none() || length >= HEADER_BYTES + 3 * PART_BYTES);
        }
    }

    #[test]
    fn the_index_of_another_segment_is_none() {
        let (file, _) = built().encode(&SEGMENT, 777);
        for other in [
            SegmentHeader { id: 8, ..SEGMENT },
            SegmentHeader { nonce: 1, ..SEGMENT },
            SegmentHeader { core: 0, ..SEGMENT },
        ] {
            assert_eq!(IndexTable::read(&file, &other), None);
        }
    }

    #[test]
    fn behind_a_hole_everything_before_it_is_out_of_reach() {
        for next in [5, 9] {
            let mut index = IndexBuilder::default();
            (1..=6).for_each(|sequence| index.add(&entry(1, sequence), 4_096));
            index.add(&entry(1, next), 1 << 20);
            let room = index.room(RoomId(1)).unwrap();
            assert_eq!((room.part.first, room.part.last), (Sequence(next), Sequence(next)));
            assert_eq!(room.marks, [Mark { sequence: next, offset: 1 << 20 }]);
        }
    }
}
