//! The checkpoint: what is known of every room as of some sealed segments, in one file, so that a start reads that, and the
//! tables of the segments that came since. Derived, so never evidence about the log: without it a start reads every table.
//!
//! ```text
//!  file     [ head ][ covered segments, 32 B each ][ sum 4 ][ piece ][ piece ]…
//!  head     offset  size  field                           covered  offset  size  field
//!                0     8  magic "BANTERCP"                              0     8  id
//!                8     2  format version: 2                             8     8  nonce
//!               10     2  reserved: 0                                  16     8  where its blocks end
//!               12     4  covered segments                             24     2  tag of its class
//!               16     8  lines                                        26     6  reserved: 0
//!               24     8  the largest epoch of a room
//!  piece    [ lines in it 4 ][ sum 4 ][ lines, 72 B each ]              all but the last are full
//! ```
//!
//! A room has a line by its newest part, and, if it came to another class, one ahead of it for each class that it left, by
//! its newest part there. Lines are by the rooms' ids, and then by their segments.
//!
//! A piece's sum is that of its number, of the head's sum and of its rooms: pieces of another file are none of this one.

use banter_protocol::ids::{Epoch, RoomId, Sequence};

use crate::FORMAT_VERSION;
use crate::bytes::{array, u16_at, u32_at, u64_at};
use crate::record::Level;

/// What the file is called in the log's folder.
pub const FILE_NAME: &str = "checkpoint";
/// Bytes of the head, without the covered segments.
pub const HEAD_BYTES: usize = 32;
/// Bytes of a covered segment.
pub const COVERED_BYTES: usize = 32;
/// Bytes of a line.
pub const ROOM_BYTES: usize = 72;
/// Lines of a piece at most.
pub const PIECE_ROOMS: usize = 450;
/// Bytes ahead of a piece's lines.
pub const PIECE_HEAD_BYTES: usize = 8;
const MAGIC: &[u8; 8] = b"BANTERCP";

/// A room, as its newest part says it, or its newest part in a class that it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptRoom {
    /// The room.
    pub room: RoomId,
    /// The epoch of its newest record.
    pub epoch: Epoch,
    /// Its newest place.
    pub head: Sequence,
    /// Its oldest place that was there; some of it may have been dropped since.
    pub first: Sequence,
    /// The segment of its newest part.
    pub newest: u64,
    /// The segment of a part far before; 0 = none.
    pub far: u64,
    /// The time of its newest record, milliseconds since 1970.
    pub newest_ms: u64,
    /// The number of its newest part.
    pub depth: u32,
    /// The level of its newest record.
    pub level: Level,
}

/// A sealed segment whose parts are in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Its id.
    pub id: u64,
    /// Its nonce.
    pub nonce: u64,
    /// Where its blocks end.
    pub end_offset: u64,
    /// The tag of its class.
    pub class_tag: u16,
}

/// What the checkpoint is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Lines of its rooms.
    pub rooms: u64,
    /// The largest epoch among them.
    pub largest_epoch: u64,
    /// The segments, by id.
    pub covered: Vec<Covered>,
}

impl Head {
    /// Bytes of the head of so many segments, with its sum.
    pub fn bytes_of(covered: u32) -> u64 {
        HEAD_BYTES as u64 + u64::from(covered) * COVERED_BYTES as u64 + 4
    }

    /// How many bytes the head has that starts with these; `None`: it is none.
    pub fn bytes_behind(start: &[u8]) -> Option<u64> {
        let is_ours = start.starts_with(MAGIC) && u16_at(start, 8)? == FORMAT_VERSION;
        is_ours.then_some(Self::bytes_of(u32_at(start, 12)?))
    }

    /// The head, with its sum.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.covered.len() * COVERED_BYTES + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(self.covered.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.rooms.to_le_bytes());
        out.extend_from_slice(&self.largest_epoch.to_le_bytes());
        for covered in &self.covered {
            for number in [covered.id, covered.nonce, covered.end_offset, u64::from(covered.class_tag)] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        let sum = crc32c::crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a head, all of it; `None` if it does not check.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let summed = bytes.get(..bytes.len().checked_sub(4)?)?;
        if Self::bytes_behind(bytes)? != bytes.len() as u64 || u32_at(bytes, summed.len())? != crc32c::crc32c(summed) {
            return None;
        }
        let covered = summed.get(HEAD_BYTES..)?.chunks_exact(COVERED_BYTES).map(|line| {
            let (id, nonce, end_offset) = (u64_at(line, 0)?, u64_at(line, 8)?, u64_at(line, 16)?);
            Some(Covered { id, nonce, end_offset, class_tag: u16_at(line, 24)? })
        });
        let (rooms, largest_epoch) = (u64_at(bytes, 16)?, u64_at(bytes, 24)?);
        Some(Head { rooms, largest_epoch, covered: covered.collect::<Option<_>>()? })
    }

    /// What the pieces of this file are summed with: all of the head that is known before they are.
    fn seal(&self) -> u32 {
        let mut head = Head { rooms: 0, largest_epoch: 0, covered: Vec::new() }.write();
        self.covered.iter().for_each(|covered| {
            head.extend_from_slice(&covered.id.to_le_bytes());
            head.extend_from_slice(&covered.nonce.to_le_bytes());
        });
        crc32c::crc32c(&head)
    }
}

/// Writes and reads the pieces of one file, one behind another.
#[derive(Clone, Debug)]
pub struct Pieces {
    seal: u32,
    number: u64,
    last: Option<(RoomId, u64)>,
}

impl Pieces {
    /// Those of the file with that head.
    pub fn of(head: &Head) -> Self {
        Pieces { seal: head.seal(), number: 0, last: None }
    }

    /// Appends the next piece.
    pub fn write(&mut self, rooms: &[KeptRoom], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&(rooms.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for room in rooms {
            out.extend_from_slice(&room.room.0.to_le_bytes());
            let KeptRoom { epoch, head, first, newest, far, newest_ms, depth, level, .. } = *room;
            for number in [epoch.0, head.0, first.0, newest, far, newest_ms] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&depth.to_le_bytes());
            out.extend_from_slice(&[level as u8, 0, 0, 0]);
        }
        let sum = self.sum_of(&out[start + PIECE_HEAD_BYTES..]);
        out[start + 4..start + PIECE_HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
        self.number += 1;
    }

    /// Bytes of the piece that starts with these, and lines in it; `None`: none starts so.
    pub fn bytes_behind(start: &[u8]) -> Option<usize> {
        let rooms = u32_at(start, 0)? as usize;
        (1..=PIECE_ROOMS).contains(&rooms).then_some(PIECE_HEAD_BYTES + rooms * ROOM_BYTES)
    }

    /// Reads the next piece, all of it; `None` if it does not check, or is not behind the one before.
    pub fn read(&mut self, piece: &[u8]) -> Option<Vec<KeptRoom>> {
        let rooms = piece.get(PIECE_HEAD_BYTES..)?;
        if Self::bytes_behind(piece)? != piece.len() || u32_at(piece, 4)? != self.sum_of(rooms) {
            return None;
        }
        self.number += 1;
        let rooms = rooms.chunks_exact(ROOM_BYTES).map(room_of).collect::<Option<Vec<_>>>()?;
        let ascend = rooms
            .iter()
            .map(|room| (room.room, room.newest))
            .all(|room| self.last.replace(room).is_none_or(|before| before < room));
        ascend.then_some(rooms)
    }

    fn sum_of(&self, rooms: &[u8]) -> u32 {
        let sum = crc32c::crc32c_append(crc32c::crc32c(&self.seal.to_le_bytes()), &self.number.to_le_bytes());
        crc32c::crc32c_append(sum, rooms)
    }
}

fn room_of(line: &[u8]) -> Option<KeptRoom> {
    Some(KeptRoom {
        room: array(line, 0).map(u128::from_le_bytes).map(RoomId)?,
        epoch: Epoch(u64_at(line, 16)?),
        head: Sequence(u64_at(line, 24)?),
        first: Sequence(u64_at(line, 32)?),
        newest: u64_at(line, 40)?,
        far: u64_at(line, 48)?,
        newest_ms: u64_at(line, 56)?,
        depth: u32_at(line, 64)?,
        level: Level::from_number(*line.get(68)?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let covered = |id| Covered { id, nonce: id * 7, end_offset: 4_096 * id, class_tag: 3 };
        Head { rooms: 3, largest_epoch: 9, covered: (1..=4).map(covered).collect() }
    }

    fn room(number: u128) -> KeptRoom {
        KeptRoom {
            room: RoomId(number),
            epoch: Epoch(5),
            head: Sequence(20),
            first: Sequence(2),
            newest: 4,
            far: 1,
            newest_ms: 77,
            depth: 3,
            level: Level::Written,
        }
    }

    #[test]
    fn what_was_written_comes_back_and_every_flipped_bit_is_seen() {
        let bytes = head().write();
        assert_eq!((Head::read(&bytes), Head::bytes_behind(&bytes)), (Some(head()), Some(bytes.len() as u64)));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::read(&flipped), None, "bit {bit}");
        }
        let (mut piece, rooms) = (Vec::new(), [room(1), room(2), room(9)]);
        Pieces::of(&head()).write(&rooms, &mut piece);
        assert_eq!(Pieces::bytes_behind(&piece), Some(piece.len()));
        assert_eq!(Pieces::of(&head()).read(&piece).as_deref(), Some(&rooms[..]));
        for bit in 0..piece.len() * 8 {
            let mut flipped = piece.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Pieces::of(&head()).read(&flipped), None, "bit {bit}");
        }
        for length in 0..piece.len() {
            assert_eq!(Pieces::of(&head()).read(&piece[..length]), None);
        }
    }

    #[test]
    fn a_piece_is_that_of_its_file_and_its_place_and_rooms_ascend() {
        let mut other = head();
        other.covered[0].nonce += 1;
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let mut pieces = Pieces::of(&head());
        pieces.write(&[room(1), room(5)], &mut first);
        pieces.write(&[room(5)], &mut second);
        assert_eq!(Pieces::of(&other).read(&first), None);
        assert_eq!(Pieces::of(&head()).read(&second), None, "it is the second");
        let mut pieces = Pieces::of(&head());
        assert!(pieces.read(&first).is_some() && pieces.read(&second).is_none(), "the same room twice");
        let mut later = head();
        (later.rooms, later.largest_epoch) = (7, 8);
        assert!(Pieces::of(&later).read(&first).is_some(), "what is known only at the end is not in it");
    }
}
