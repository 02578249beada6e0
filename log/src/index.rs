//! What a segment holds by room: made while the segment is written, kept beside it when it is full, made again by a scan
//! when it is missing or wrong. Derived, so never evidence about the log.
//!
//! ```text
//!  file     [ header 128 B ][ table: a part a room, by id ][ name, marks, keys of the first room ][ of the second ]…
//!
//!  header   offset  size  field
//!                0     8  magic "BANTERIX"
//!                8     2  format version: 2
//!               10     2  core
//!               12     4  parts
//!               16     8  segment id
//!               24     8  nonce of the segment
//!               32     8  where the segment's blocks end
//!               40     8  time of the newest record, ms
//!               48     1  1 = the parts name those before them
//!               49    75  reserved: 0
//!              124     4  CRC-32C of the 124 bytes before
//! ```
//!
//! Each piece has a sum of its own, so that nobody reads more than is asked: a line of the table ([`part`]), a piece of
//! marks ([`marks`]), a piece of keys ([`keys`]). A name is proved by the room's id.

use std::collections::BTreeMap;

use banter_protocol::ids::{Epoch, RoomId, Sequence};
use banter_protocol::native::{Kept, erased_ms, read_kept, read_state};

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::key::KeyedPost;
use crate::record::{Level, Record, RecordKind};
use crate::segment::SegmentHeader;
use crate::{FORMAT_VERSION, PAGE_BYTES};

pub mod keys;
pub mod marks;
pub mod part;

pub use marks::Mark;
pub use part::{Chain, Details, JUMP_PARTS, PART_BYTES, Part};

/// Bytes of the header: as many as of a part, so that no part lies across two pages.
pub const HEADER_BYTES: usize = PART_BYTES;
const _: () = assert!(PAGE_BYTES.is_multiple_of(PART_BYTES));
const MAGIC: &[u8; 8] = b"BANTERIX";
const SUM_AT: usize = HEADER_BYTES - 4;

/// The sum of a piece of a segment's index: of another segment's it is another one.
fn sum_with(nonce: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&nonce.to_le_bytes()), bytes)
}

/// One record, as the index takes it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What it is.
    pub kind: RecordKind,
    /// The room.
    pub room: RoomId,
    /// The room's history.
    pub epoch: Epoch,
    /// Its place; of a state the newest place of the room when it was written.
    pub sequence: Sequence,
    /// Its time, milliseconds since 1970.
    pub time_ms: u64,
    /// The room's level.
    pub level: Level,
    /// Bytes of it.
    pub record_bytes: u32,
    /// Its key.
    pub key: Option<KeyedPost>,
}

impl Entry {
    /// Of a record that was read, and the name of its room; `id_of` may know the room's id already. `None`: its frame does
    /// not check.
    pub fn read<'a>(record: &Record<'a>, id_of: impl FnOnce(&str) -> RoomId) -> Option<(Self, &'a str)> {
        let (kind, level, record_bytes) = (record.kind, record.level, record.bytes() as u32);
        if kind == RecordKind::State {
            let state = read_state(record.frame).ok()?;
            let room = id_of(state.room);
            let (epoch, sequence, time_ms) = (state.epoch, state.sequence, state.time_ms);
            return Some((Entry { kind, room, epoch, sequence, time_ms, level, record_bytes, key: None }, state.room));
        }
        let kept = read_kept(record.frame).ok()?;
        let key = match &kept {
            Kept::Message(message, _) => KeyedPost::of(message, record.sent_body_hash),
            Kept::Change(_) | Kept::Erased { .. } => None,
        };
        let (room, epoch, sequence) = (id_of(kept.room()), kept.epoch(), kept.sequence());
        // A file that had its newest messages erased grows no older by it.
        let time_ms = erased_ms(record.frame).unwrap_or_else(|| kept.time_ms());
        Some((Entry { kind, room, epoch, sequence, time_ms, level, record_bytes, key }, kept.room()))
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
    /// The room's name.
    pub name: Box<str>,
    /// Its marks, ascending.
    pub marks: Vec<Mark>,
    /// Its keyed posts, ascending.
    pub keys: Vec<KeyedPost>,
    /// Where the record of its last place ends.
    end_offset: u64,
    /// Where the record of its newest state ends.
    state_end: u64,
}

/// What is to be known of a room when its part begins.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// The room's name.
    pub name: Box<str>,
    /// Its parts before.
    pub chain: Chain,
}

impl IndexBuilder {
    /// Whether the room has a part.
    pub fn has(&self, room: RoomId) -> bool {
        self.rooms.contains_key(&room)
    }

    /// Adds the record that starts there; `opening` is asked where it is the first of its room.
    pub fn add(&mut self, entry: &Entry, offset: u64, opening: impl FnOnce() -> Opening) {
        let room = self.rooms.entry(entry.room).or_insert_with(|| PartBuilder::starting_with(entry, opening()));
        room.add(entry, offset);
        self.newest_ms = self.newest_ms.max(entry.time_ms);
    }

    /// A room's part.
    pub fn room(&self, room: RoomId) -> Option<&PartBuilder> {
        self.rooms.get(&room)
    }

    /// Says what the last place of a room's part is: those behind it were given again in a later segment.
    pub fn end_at(&mut self, room: RoomId, last: Sequence) {
        if let Some(room) = self.rooms.get_mut(&room) {
            room.part.last = room.part.last.min(last);
        }
    }

    /// Says what a room's part is behind.
    pub fn set_chain(&mut self, room: RoomId, chain: Chain) {
        if let Some(room) = self.rooms.get_mut(&room) {
            room.part.chain = chain;
        }
    }

    /// Every part, by room id.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.rooms.values().map(|room| &room.part)
    }

    /// Rooms in it.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether no room is.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// The time of the newest record, milliseconds since 1970; 0 if there is none.
    pub fn newest_ms(&self) -> u64 {
        self.newest_ms
    }

    /// The file's bytes. `is_chained`: the parts name those before them.
    pub fn encode(&self, segment: &SegmentHeader, end_offset: u64, is_chained: bool) -> Vec<u8> {
        let nonce = segment.nonce;
        let parts = self.rooms.len() as u32;
        let header = IndexHeader { parts, end_offset, newest_ms: self.newest_ms, is_chained };
        let mut file = header.write(segment);
        let details_start = HEADER_BYTES + self.rooms.len() * PART_BYTES;
        let mut details = Vec::new();
        for room in self.rooms.values() {
            let offset = (details_start + details.len()) as u64;
            let part = Part { details: room.write_details(offset, nonce, &mut details), ..room.part };
            part.write(nonce, &mut file);
        }
        file.extend_from_slice(&details);
        file
    }
}

impl PartBuilder {
    /// Where the record of its last place ends.
    pub fn end_offset(&self) -> u64 {
        self.end_offset
    }

    /// Where the record of its newest state ends; 0: it has none.
    pub fn state_end(&self) -> u64 {
        self.state_end
    }

    fn starting_with(entry: &Entry, opening: Opening) -> Self {
        let mut room = PartBuilder {
            part: Part {
                room: entry.room,
                epoch: entry.epoch,
                first: entry.sequence,
                last: entry.sequence.previous(),
                bytes: 0,
                newest_ms: 0,
                level: entry.level,
                chain: opening.chain,
                state_offset: 0,
                details: Details::default(),
            },
            name: opening.name,
            marks: Vec::new(),
            keys: Vec::new(),
            end_offset: 0,
            state_end: 0,
        };
        room.begin_at(entry);
        room
    }

    /// No writer leaves a hole in a segment or gives a place twice in it. Where that is found all the same, what is before
    /// it is out of reach: a part is dense.
    fn begin_at(&mut self, entry: &Entry) {
        let first = if entry.kind.is_numbered() { entry.sequence } else { entry.sequence.next() };
        (self.part.first, self.part.last, self.part.bytes) = (first, first.previous(), 0);
        (self.marks, self.keys) = (Vec::new(), Vec::new());
    }

    fn add(&mut self, entry: &Entry, offset: u64) {
        if entry.kind.is_numbered() {
            self.add_place(entry, offset);
            // How long its messages are says how much a page takes: a state says nothing of that.
            self.part.bytes += u64::from(entry.record_bytes);
        } else {
            self.part.state_offset = offset as u32;
            self.state_end = offset + u64::from(entry.record_bytes);
        }
        self.keys.extend(entry.key);
        let part = &mut self.part;
        (part.epoch, part.level) = (entry.epoch, entry.level);
        part.newest_ms = part.newest_ms.max(entry.time_ms);
    }

    fn add_place(&mut self, entry: &Entry, offset: u64) {
        if entry.sequence != self.part.last.next() {
            self.begin_at(entry);
        }
        let is_far = |mark: &Mark| {
            offset >= mark.offset + marks::MARK_STRIDE_BYTES || offset >= self.end_offset + marks::MARK_LEAP_BYTES
        };
        if self.marks.last().is_none_or(is_far) {
            self.marks.push(Mark { sequence: entry.sequence.0, offset });
        }
        self.part.last = entry.sequence;
        self.end_offset = offset + u64::from(entry.record_bytes);
    }

    fn write_details(&self, offset: u64, nonce: u64, out: &mut Vec<u8>) -> Details {
        out.extend_from_slice(self.name.as_bytes());
        marks::write(&self.marks, nonce, out);
        let keys_bytes = keys::write(&self.keys, nonce, out);
        let (marks, keys) = (self.marks.len() as u32, self.keys.len() as u32);
        Details { offset, name_bytes: self.name.len() as u16, marks, keys, keys_bytes }
    }
}

/// What an index file says ahead of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexHeader {
    /// Parts in the table.
    pub parts: u32,
    /// Where the segment's blocks end.
    pub end_offset: u64,
    /// The time of the newest record, milliseconds since 1970.
    pub newest_ms: u64,
    /// Whether the parts name those before them: one that was made from its segment alone does not.
    pub is_chained: bool,
}

impl IndexHeader {
    /// The header's bytes.
    pub fn write(&self, segment: &SegmentHeader) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        header.extend_from_slice(&segment.core.to_le_bytes());
        header.extend_from_slice(&self.parts.to_le_bytes());
        for number in [segment.id, segment.nonce, self.end_offset, self.newest_ms] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.push(u8::from(self.is_chained));
        header.resize(SUM_AT, 0);
        let sum = crc32c::crc32c(&header);
        header.extend_from_slice(&sum.to_le_bytes());
        header
    }

    /// Reads the start of an index file; `None` if it is damaged, or the index of another segment.
    pub fn read(bytes: &[u8], segment: &SegmentHeader) -> Option<Self> {
        let summed = bytes.get(..SUM_AT)?;
        let is_ours = summed.starts_with(MAGIC)
            && u16_at(bytes, 8)? == FORMAT_VERSION
            && u16_at(bytes, 10)? == segment.core
            && u64_at(bytes, 16)? == segment.id
            && u64_at(bytes, 24)? == segment.nonce
            && crc32c::crc32c(summed) == u32_at(bytes, SUM_AT)?;
        is_ours.then_some(IndexHeader {
            parts: u32_at(bytes, 12)?,
            end_offset: u64_at(bytes, 32)?,
            newest_ms: u64_at(bytes, 40)?,
            is_chained: bytes[48] != 0,
        })
    }

    /// Bytes of the file that header and table take.
    pub fn table_end(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.parts) * PART_BYTES as u64
    }
}

/// Reads the lines of a table, header left out; `None` for one that does not check.
pub fn read_table(table: &[u8], nonce: u64) -> impl Iterator<Item = Option<Part>> {
    table.chunks_exact(PART_BYTES).map(move |line| Part::read(line, nonce))
}

/// Whether every piece of a whole index file checks, and belongs to that segment.
pub fn is_whole(file: &[u8], segment: &SegmentHeader) -> bool {
    let Some(header) = IndexHeader::read(file, segment) else { return false };
    let Some(table) = file.get(HEADER_BYTES..header.table_end() as usize) else { return false };
    read_table(table, segment.nonce).all(|part| part.is_some_and(|part| has_details(file, &part, segment.nonce)))
}

fn has_details(file: &[u8], part: &Part, nonce: u64) -> bool {
    let details = &part.details;
    let piece = |from: u64, to: u64| file.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?);
    let name = piece(details.offset, details.marks_offset()).and_then(|name| std::str::from_utf8(name).ok());
    if name.is_none_or(|name| RoomId::of(name) != part.room) {
        return false;
    }
    let Some(all_marks) = piece(details.marks_offset(), details.keys_offset()) else { return false };
    let Some(mut rest) = piece(details.keys_offset(), details.end_offset()) else { return false };
    while !rest.is_empty() {
        let Some((_, length)) = keys::read(rest, nonce) else { return false };
        rest = &rest[length..];
    }
    all_marks.chunks(PAGE_BYTES).all(|piece| marks::MarkPiece::read(piece, nonce).is_some())
}

/// The name of the index beside a segment's file.
pub fn file_name(id: u64) -> String {
    format!("segment-{id:016x}.index")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Fingerprint;
    use crate::segment::Class;

    const SEGMENT: SegmentHeader =
        SegmentHeader { id: 7, nonce: 99, core: 1, class: Class::SERVER, run: 3, made_unix_ms: 5, file_bytes: 1 << 20 };

    fn name(room: u64) -> String {
        format!("room {room}")
    }

    fn entry(room: u64, sequence: u64) -> Entry {
        let key = sequence.is_multiple_of(2).then_some(KeyedPost {
            sequence,
            time_ms: 10 * sequence,
            fingerprint: Fingerprint(u128::from(sequence) << 70),
            body: sequence as u32 * 3,
        });
        Entry {
            kind: RecordKind::Message,
            room: RoomId::of(&name(room)),
            epoch: Epoch(4),
            sequence: Sequence(sequence),
            time_ms: 10 * sequence,
            level: Level::Synced,
            record_bytes: 100,
            key,
        }
    }

    fn opening(room: u64) -> Opening {
        let chain = Chain { before: room + 1, before_tag: 4, far: 0, depth: 1 };
        Opening { name: name(room).into(), chain }
    }

    fn built() -> IndexBuilder {
        let mut index = IndexBuilder::default();
        for sequence in 1..=40u64 {
            let room = sequence % 3;
            index.add(&entry(room, 1 + sequence / 3), 4_096 + sequence * 8 * 1_024, || opening(room));
        }
        index
    }

    fn parts_of(file: &[u8]) -> Vec<Part> {
        let header = IndexHeader::read(file, &SEGMENT).unwrap();
        let table = &file[HEADER_BYTES..header.table_end() as usize];
        read_table(table, SEGMENT.nonce).map(Option::unwrap).collect()
    }

    #[test]
    fn an_index_comes_back_as_it_was_written() {
        let index = built();
        let file = index.encode(&SEGMENT, 777, true);
        let header = IndexHeader { parts: 3, end_offset: 777, newest_ms: 140, is_chained: true };
        assert_eq!(IndexHeader::read(&file, &SEGMENT), Some(header));
        assert!(is_whole(&file, &SEGMENT));
        for part in parts_of(&file) {
            let room = index.room(part.room).unwrap();
            let details = part.details;
            assert_eq!(Part { details: Details::default(), ..part }, room.part);
            let at = |offset: u64| &file[offset as usize..];
            assert_eq!(&at(details.offset)[..usize::from(details.name_bytes)], room.name.as_bytes());
            let marks = marks::MarkPiece::read(at(details.marks_offset()), SEGMENT.nonce).unwrap().marks;
            assert!(marks == room.marks && marks.len() > 2, "{marks:?}");
            let (mut keys, length) = keys::read(at(details.keys_offset()), SEGMENT.nonce).unwrap();
            keys.reverse();
            assert_eq!((keys, length as u32), (room.keys.clone(), details.keys_bytes));
        }
    }

    #[test]
    fn every_flipped_bit_of_an_index_is_seen() {
        let file = built().encode(&SEGMENT, 777, true);
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_whole(&flipped, &SEGMENT), "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(!is_whole(&file[..length], &SEGMENT));
        }
    }

    #[test]
    fn the_index_of_another_segment_is_none() {
        let file = built().encode(&SEGMENT, 777, true);
        for other in [
            SegmentHeader { id: 8, ..SEGMENT },
            SegmentHeader { nonce: 1, ..SEGMENT },
            SegmentHeader { core: 0, ..SEGMENT },
        ] {
            assert_eq!(IndexHeader::read(&file, &other), None);
        }
    }

    #[test]
    fn behind_a_hole_everything_before_it_is_out_of_reach() {
        for next in [5, 9] {
            let mut index = IndexBuilder::default();
            (1..=6).for_each(|sequence| index.add(&entry(1, sequence), 4_096, || opening(1)));
            index.add(&entry(1, next), 1 << 20, || opening(1));
            let room = index.room(entry(1, 1).room).unwrap();
            assert_eq!((room.part.first, room.part.last), (Sequence(next), Sequence(next)));
            assert_eq!(room.marks, [Mark { sequence: next, offset: 1 << 20 }]);
            assert_eq!(room.part.chain, opening(1).chain, "what was in earlier segments is said all the same");
        }
    }

    #[test]
    fn a_record_behind_a_page_of_others_has_a_mark_of_its_own_and_a_busy_room_few() {
        let mut index = IndexBuilder::default();
        for sequence in 1..=1_000 {
            index.add(&entry(1, sequence), sequence * 100, || opening(1));
        }
        let marks = &index.room(entry(1, 1).room).unwrap().marks;
        assert_eq!(marks.len() as u64, 1 + 99_900 / marks::MARK_STRIDE_BYTES);
        for sequence in 1_001..=1_010 {
            index.add(&entry(1, sequence), sequence * 10_000, || opening(1));
        }
        assert_eq!(index.room(entry(1, 1).room).unwrap().marks.len() as u64, 11 + 99_900 / marks::MARK_STRIDE_BYTES);
    }

    #[test]
    fn a_state_has_no_place_and_is_known_by_where_it_lies() {
        let state = |sequence| Entry { kind: RecordKind::State, ..entry(1, sequence) };
        let mut index = IndexBuilder::default();
        index.add(&state(8), 5_000, || opening(1));
        let room = |index: &IndexBuilder| index.room(entry(1, 1).room).unwrap().part;
        assert_eq!(
            (room(&index).first, room(&index).last, room(&index).state_offset),
            (Sequence(9), Sequence(8), 5_000)
        );
        index.add(&entry(1, 9), 6_000, || opening(1));
        index.add(&state(9), 7_000, || opening(1));
        assert_eq!(
            (room(&index).first, room(&index).last, room(&index).state_offset),
            (Sequence(9), Sequence(9), 7_000)
        );
        index.add(&entry(1, 10), 11_000, || opening(1));
        let marks = &index.room(entry(1, 1).room).unwrap().marks;
        assert_eq!(marks.len(), 2, "near the state, and far from the message before: {marks:?}");
    }
}
