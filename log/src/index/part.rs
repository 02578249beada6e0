//! What a segment holds of one room, as a line of the table of its index, and how a line is found in it.
//!
//! ```text
//!  offset  size  field                                    offset  size  field
//!       0    16  room id                                      76     4  parts of the room in segments before
//!      16     8  epoch of its newest record                   80     4  where its newest state record lies; 0 = none
//!      24     8  first sequence                               84     4  marks
//!      32     8  last sequence                                88     8  where its name lies, and behind it marks and keys
//!      40     8  bytes of its records with a place            96     4  bytes of its keys' pieces
//!      48     8  time of its newest record, ms               100     4  keys
//!      56     8  segment of the room's part before; 0 = none 104     2  bytes of its name
//!      64     8  segment of a part far before; 0 = none      106     1  level of its newest record
//!      72     2  tag of the class of the segment before      107    17  reserved: 0
//!      74     2  reserved: 0
//!                                                            124     4  CRC-32C of the nonce and of the 124 bytes before
//! ```
//!
//! The lines are sorted by the room's id, which is a hash: so where a room's line lies can be guessed, and two or three
//! reads of a page find it in a table of any length.

use banter_protocol::ids::{Epoch, RoomId, Sequence};

use super::sum_with;
use crate::PAGE_BYTES;
use crate::bytes::{array, u16_at, u32_at, u64_at};
use crate::record::Level;
use crate::segment::SegmentHeader;

/// Bytes of a part in the table.
pub const PART_BYTES: usize = 128;
/// The part whose number in its room is a multiple of this has one far before it to jump to: that is how many a reader
/// passes at most one by one.
pub const JUMP_PARTS: u32 = 32;
const SUM_AT: usize = PART_BYTES - 4;
/// Guesses by the id before it is halved, for ids that somebody chose.
const GUESSES_MAX: u32 = 4;

/// What a segment holds of one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The room.
    pub room: RoomId,
    /// The epoch of its newest record there.
    pub epoch: Epoch,
    /// Its first place there; the one behind its last where none is.
    pub first: Sequence,
    /// Its last place there; all between are there too.
    pub last: Sequence,
    /// Bytes of its records that have a place.
    pub bytes: u64,
    /// The time of its newest record, milliseconds since 1970.
    pub newest_ms: u64,
    /// The level of its newest record.
    pub level: Level,
    /// The room's parts before it.
    pub chain: Chain,
    /// Where in the segment its newest state record lies; 0: none.
    pub state_offset: u32,
    /// Where its name, marks and keys lie.
    pub details: Details,
}

/// A room's parts before one, as far as they are named: where to go from a part to older messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The segment of the part before; 0: none.
    pub before: u64,
    /// The tag of that segment's retention class.
    pub before_tag: u16,
    /// The segment of a part far before; 0: none.
    pub far: u64,
    /// How many are before it.
    pub depth: u32,
}

/// Where a part's name, marks and keys lie in the index file, one behind another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Where its name starts.
    pub offset: u64,
    /// Bytes of its name.
    pub name_bytes: u16,
    /// Marks.
    pub marks: u32,
    /// Keys.
    pub keys: u32,
    /// Bytes of the pieces of its keys.
    pub keys_bytes: u32,
}

impl Details {
    /// Whether they say where something lies in a file: those of an index in memory do not.
    pub fn is_on_disk(&self) -> bool {
        self.offset >= super::HEADER_BYTES as u64
    }

    /// Where its marks start.
    pub fn marks_offset(&self) -> u64 {
        self.offset.saturating_add(self.name_bytes.into())
    }

    /// Where its keys start.
    pub fn keys_offset(&self) -> u64 {
        self.marks_offset().saturating_add(super::marks::pieces_bytes(self.marks))
    }

    /// Where it ends.
    pub fn end_offset(&self) -> u64 {
        self.keys_offset().saturating_add(self.keys_bytes.into())
    }
}

impl Part {
    /// What the room's next part says of those before it, where this one lies in that segment.
    pub fn chain_behind(&self, segment: &SegmentHeader) -> Chain {
        let far = if self.chain.depth.is_multiple_of(JUMP_PARTS) { segment.id } else { self.chain.far };
        Chain { before: segment.id, before_tag: segment.class.tag(), far, depth: self.chain.depth.saturating_add(1) }
    }

    /// Appends its line.
    pub fn write(&self, nonce: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.room.0.to_le_bytes());
        let Chain { before, before_tag, far, depth } = self.chain;
        let (first, last) = (self.first.0, self.last.0);
        for number in [self.epoch.0, first, last, self.bytes, self.newest_ms, before, far] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&u32::from(before_tag).to_le_bytes());
        let details = &self.details;
        for number in [depth, self.state_offset, details.marks] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&details.offset.to_le_bytes());
        out.extend_from_slice(&details.keys_bytes.to_le_bytes());
        out.extend_from_slice(&details.keys.to_le_bytes());
        out.extend_from_slice(&details.name_bytes.to_le_bytes());
        out.push(self.level as u8);
        out.resize(start + SUM_AT, 0);
        let sum = sum_with(nonce, &out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }

    /// Reads a line; `None` if it does not check.
    pub fn read(line: &[u8], nonce: u64) -> Option<Self> {
        let summed = line.get(..SUM_AT)?;
        if sum_with(nonce, summed) != u32_at(line, SUM_AT)? {
            return None;
        }
        let [level] = array(line, 106)?;
        let part = Part {
            room: id_of(line)?,
            epoch: Epoch(u64_at(line, 16)?),
            first: Sequence(u64_at(line, 24)?),
            last: Sequence(u64_at(line, 32)?),
            bytes: u64_at(line, 40)?,
            newest_ms: u64_at(line, 48)?,
            level: Level::from_number(level)?,
            chain: Chain {
                before: u64_at(line, 56)?,
                far: u64_at(line, 64)?,
                before_tag: u16_at(line, 72)?,
                depth: u32_at(line, 76)?,
            },
            state_offset: u32_at(line, 80)?,
            details: Details {
                offset: u64_at(line, 88)?,
                name_bytes: u16_at(line, 104)?,
                marks: u32_at(line, 84)?,
                keys: u32_at(line, 100)?,
                keys_bytes: u32_at(line, 96)?,
            },
        };
        part.details.is_on_disk().then_some(part)
    }
}

fn id_of(line: &[u8]) -> Option<RoomId> {
    array(line, 0).map(u128::from_le_bytes).map(RoomId)
}

/// Looks for a room's line in a table that is read page by page.
#[derive(Clone, Copy, Debug)]
pub struct PartSearch {
    room: RoomId,
    nonce: u64,
    low: u32,
    high: u32,
    /// The upper halves of the ids right before `low` and at `high`, or the least and the greatest that there are.
    ids: (u64, u64),
    guesses: u32,
}

/// What a page of the table said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Searched {
    /// The line.
    Found(Part),
    /// It lies elsewhere: another page is to be read.
    Elsewhere,
    /// The table has no line of that room.
    Absent,
    /// The page does not check.
    Damaged,
}

impl PartSearch {
    /// In a table of so many parts, of a segment of that nonce.
    pub fn new(room: RoomId, parts: u32, nonce: u64) -> Self {
        PartSearch { room, nonce, low: 0, high: parts, ids: (0, u64::MAX), guesses: 0 }
    }

    /// Where in the index file the page lies that is to be read next; `None`: there is no such line.
    pub fn page_offset(&self) -> Option<u64> {
        let lines = self.high.checked_sub(self.low).filter(|&lines| lines > 0)?;
        let ahead = if self.guesses < GUESSES_MAX {
            let (low, high) = self.ids;
            let ahead = u128::from(upper_half(self.room).saturating_sub(low)) * u128::from(lines);
            ((ahead / u128::from(high.saturating_sub(low).max(1))) as u32).min(lines - 1)
        } else {
            lines / 2
        };
        let line_offset = line_offset(self.low + ahead);
        Some(line_offset - line_offset % PAGE_BYTES as u64)
    }

    /// Takes the page of that offset, or what there is of it at the file's end.
    pub fn take(&mut self, page_offset: u64, page: &[u8]) -> Searched {
        let here = |number: u32| {
            let at = line_offset(number).checked_sub(page_offset)? as usize;
            page.get(at..at + PART_BYTES)
        };
        let first = self.low.max(number_at(page_offset));
        let behind = self.high.min(number_at(page_offset + PAGE_BYTES as u64));
        let Some(last) = behind.checked_sub(1).filter(|&last| last >= first) else { return Searched::Damaged };
        self.guesses += 1;
        let (mut low, mut high, mut ids) = (first, behind, self.ids);
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(part) = here(middle).and_then(|line| Part::read(line, self.nonce)) else {
                return Searched::Damaged;
            };
            match part.room.cmp(&self.room) {
                std::cmp::Ordering::Equal => return Searched::Found(part),
                std::cmp::Ordering::Less => (low, ids.0) = (middle + 1, upper_half(part.room)),
                std::cmp::Ordering::Greater => (high, ids.1) = (middle, upper_half(part.room)),
            }
        }
        if low == first && first > self.low {
            (self.high, self.ids.1) = (first, ids.1);
            Searched::Elsewhere
        } else if low > last && behind < self.high {
            (self.low, self.ids.0) = (behind, ids.0);
            Searched::Elsewhere
        } else {
            Searched::Absent
        }
    }
}

fn upper_half(room: RoomId) -> u64 {
    (room.0 >> 64) as u64
}

fn line_offset(number: u32) -> u64 {
    super::HEADER_BYTES as u64 + u64::from(number) * PART_BYTES as u64
}

/// The number of the first line that starts at or behind that place, which is one at which a line may start.
fn number_at(offset: u64) -> u32 {
    (offset.saturating_sub(super::HEADER_BYTES as u64) / PART_BYTES as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u64 = 77;

    pub(crate) fn part(room: RoomId) -> Part {
        Part {
            room,
            epoch: Epoch(4),
            first: Sequence(5),
            last: Sequence(9),
            bytes: 700,
            newest_ms: 1_000,
            level: Level::Written,
            chain: Chain { before: 3, before_tag: 9, far: 2, depth: 40 },
            state_offset: 8_192,
            details: Details { offset: 1 << 40, name_bytes: 5, marks: 600, keys: 7, keys_bytes: 300 },
        }
    }

    #[test]
    fn a_part_comes_back_and_every_flipped_bit_is_seen() {
        let part = part(RoomId(u128::MAX / 3));
        let mut line = Vec::new();
        part.write(NONCE, &mut line);
        assert_eq!((line.len(), Part::read(&line, NONCE)), (PART_BYTES, Some(part)));
        assert_eq!(Part::read(&line, NONCE + 1), None, "of another segment");
        for bit in 0..line.len() * 8 {
            let mut flipped = line.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Part::read(&flipped, NONCE), None, "bit {bit}");
        }
    }

    fn table(rooms: &[RoomId]) -> Vec<u8> {
        let mut table = vec![0; super::super::HEADER_BYTES];
        rooms.iter().for_each(|&room| part(room).write(NONCE, &mut table));
        table
    }

    /// Looks for a room, and says how many pages that took.
    fn search(table: &[u8], rooms: usize, room: RoomId) -> (Searched, u32) {
        let (mut search, mut pages) = (PartSearch::new(room, rooms as u32, NONCE), 0);
        while let Some(offset) = search.page_offset() {
            pages += 1;
            let end = table.len().min(offset as usize + PAGE_BYTES);
            match search.take(offset, &table[offset as usize..end]) {
                Searched::Elsewhere => {}
                other => return (other, pages),
            }
        }
        (Searched::Absent, pages)
    }

    #[test]
    fn every_room_of_a_table_is_found_in_few_pages_and_no_other_is() {
        for count in [0_usize, 1, 30, 31, 32, 33, 1_000, 20_000] {
            let mut rooms: Vec<RoomId> = (0..count).map(|number| RoomId::of(&format!("room {number}"))).collect();
            rooms.sort_unstable();
            let table = table(&rooms);
            let mut pages = 0;
            for &room in &rooms {
                let (found, read) = search(&table, count, room);
                assert!(matches!(found, Searched::Found(there) if there.room == room));
                pages += read;
            }
            assert!(pages as usize <= 4 * count, "{pages} pages for {count}");
            for number in 0..100 {
                let (found, _) = search(&table, count, RoomId::of(&format!("other {number}")));
                assert_eq!(found, Searched::Absent);
            }
        }
    }

    #[test]
    fn ids_that_somebody_chose_take_a_few_pages_more_and_not_all() {
        let rooms: Vec<RoomId> = (0..20_000).map(RoomId).collect();
        let table = table(&rooms);
        for room in [0, 1, 9_999, 19_999] {
            let (found, pages) = search(&table, rooms.len(), RoomId(room));
            assert!(matches!(found, Searched::Found(_)) && pages <= 16, "{pages} pages");
        }
        assert_eq!(search(&table, rooms.len(), RoomId(20_000)).0, Searched::Absent);
    }

    #[test]
    fn a_damaged_page_is_told_and_says_nothing() {
        let rooms: Vec<RoomId> = (0..64).map(|number| RoomId(number << 121)).collect();
        let mut table = table(&rooms);
        for byte in &mut table[super::super::HEADER_BYTES..] {
            *byte ^= 0x40;
        }
        assert_eq!(search(&table, rooms.len(), rooms[20]).0, Searched::Damaged);
        assert_eq!(search(&table[..200], rooms.len(), rooms[20]).0, Searched::Damaged, "the file was cut");
    }
}
