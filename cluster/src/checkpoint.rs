//! What is known of every room of a partition as of a place in its stream, as one object: a node that takes the partition over reads
//! that, and the stream from there on. Derived, so never evidence: without it the stream is read from its beginning.
//!
//! ```text
//!  [ magic "BNCK" 4 ][ format version 1: 2 ][ partition 2 ][ cluster 8 ]
//!  [ through 8 ][ claim 8 ][ its node 8 ][ its run 8 ][ its nonce 8 ]  where the reader of the stream stands; claim 0: there is none
//!  [ number 8 ][ next segment 8 ]                                 the largest run or epoch that was given
//!  [ blank 8 ][ lowered 8 ][ dropped 8 ][ levels 8 ]              what epochs follow from
//!  [ segments 4 ][ each: header 68, began 8, end 8, newest_ms 8, parts 4 ][ rooms 8 ][ CRC-32C of all before 4 ]
//!  [ piece of rooms ]…                                            as in a checkpoint of the local log
//! ```
//!
//! A second object says which checkpoint is the newest: `[ number 8 ][ bytes 8 ][ CRC-32C 4 ]`.

use banter_log::PAGE_BYTES;
use banter_log::checkpoint::{Covered, Head, KeptRoom, PIECE_HEAD_BYTES, PIECE_ROOMS, Pieces};
use banter_log::segment::SegmentHeader;
use bytes::Bytes;

use crate::entry::{NodeId, StreamEpochs, StreamId};
use crate::terms::{TermClaim, Terms};

const MAGIC: &[u8; 4] = b"BNCK";
const FORMAT_VERSION: u16 = 1;
/// Bytes ahead of the segments.
const HEAD_BYTES: usize = 4 + 2 + 2 + 8 + 5 * 8 + 2 * 8 + 4 * 8 + 4;
/// Bytes of a segment's header that say something.
const HEADER_BYTES: usize = 68;
/// Bytes of a segment.
const SEGMENT_BYTES: usize = HEADER_BYTES + 8 + 8 + 8 + 4;

/// A sealed segment that a checkpoint covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoveredSegment {
    /// Its header.
    pub header: SegmentHeader,
    /// The sequence at which it began.
    pub began: u64,
    /// Where its blocks end.
    pub end_offset: u64,
    /// The time of its newest record, milliseconds since 1970.
    pub newest_ms: u64,
    /// Parts of its index.
    pub parts: u32,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where the reader of the stream goes on.
    pub walk: Terms,
    /// The largest run or epoch that was given.
    pub number: u64,
    /// The number of the next segment, at least.
    pub next_segment: u64,
    /// What epochs follow from.
    pub epochs: StreamEpochs,
    /// The segments that it covers, by their ids.
    pub segments: Vec<CoveredSegment>,
    /// The rooms that they hold, by their ids.
    pub rooms: Vec<KeptRoom>,
}

impl Checkpoint {
    /// The object.
    pub fn write(&self, stream: StreamId) -> Bytes {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.segments.len() * SEGMENT_BYTES + self.rooms.len() * 74 + 64);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&stream.partition.0.to_le_bytes());
        let claim = self.walk.claim.filter(|_| self.walk.is_alive);
        let (term, by, nonce) = claim.map_or_else(Default::default, |claim| (claim.term, claim.by, claim.nonce));
        let StreamEpochs { blank, lowered, dropped, levels } = self.epochs;
        let (number, next_segment) = (self.number, self.next_segment);
        let numbers = [
            stream.cluster,
            self.walk.through,
            term,
            by.name,
            by.run,
            nonce,
            number,
            next_segment,
            blank,
            lowered,
            dropped,
            levels,
        ];
        numbers.into_iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        out.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        for segment in &self.segments {
            out.extend_from_slice(&segment.header.write()[..HEADER_BYTES]);
            for number in [segment.began, segment.end_offset, segment.newest_ms] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&segment.parts.to_le_bytes());
        }
        out.extend_from_slice(&(self.rooms.len() as u64).to_le_bytes());
        let sum = crc32c::crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        let mut pieces = Pieces::of(&sealed_by(&self.segments));
        self.rooms.chunks(PIECE_ROOMS).for_each(|rooms| pieces.write(rooms, &mut out));
        out.into()
    }

    /// Reads an object; `None` if it does not check, or is of another stream.
    pub fn read(bytes: &[u8], stream: StreamId) -> Option<Self> {
        let mut at = Cursor { bytes, at: 0 };
        let is_ours = at.take(4)? == MAGIC
            && at.take(2)? == FORMAT_VERSION.to_le_bytes()
            && at.take(2)? == stream.partition.0.to_le_bytes()
            && at.number()? == stream.cluster;
        if !is_ours {
            return None;
        }
        let (through, term) = (at.number()?, at.number()?);
        let by = NodeId { name: at.number()?, run: at.number()? };
        let nonce = at.number()?;
        let claim = (term != 0).then_some(TermClaim { term, by, nonce });
        let walk = Terms { through, claim, is_alive: claim.is_some() };
        let (number, next_segment) = (at.number()?, at.number()?);
        let (blank, lowered, dropped, levels) = (at.number()?, at.number()?, at.number()?, at.number()?);
        let epochs = StreamEpochs { blank, lowered, dropped, levels };
        let count = at.short()?;
        let segments = (0..count).map(|_| at.segment()).collect::<Option<Vec<_>>>()?;
        let rooms_count = at.number()?;
        let summed = bytes.get(..at.at)?;
        if at.short()? != crc32c::crc32c(summed) {
            return None;
        }
        let rooms = at.rooms(Pieces::of(&sealed_by(&segments)), rooms_count)?;
        Some(Checkpoint { walk, number, next_segment, epochs, segments, rooms })
    }
}

/// What the pieces of rooms are summed with.
fn sealed_by(segments: &[CoveredSegment]) -> Head {
    let covered = |segment: &CoveredSegment| {
        let SegmentHeader { id, nonce, class, .. } = segment.header;
        Covered { id, nonce, end_offset: segment.end_offset, class_tag: class.tag() }
    };
    Head { covered: segments.iter().map(covered).collect(), ..Head::default() }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn short(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn segment(&mut self) -> Option<CoveredSegment> {
        let mut page = [0; PAGE_BYTES];
        page[..HEADER_BYTES].copy_from_slice(self.take(HEADER_BYTES)?);
        let header = SegmentHeader::read(&page).ok()?;
        let (began, end_offset, newest_ms) = (self.number()?, self.number()?, self.number()?);
        Some(CoveredSegment { header, began, end_offset, newest_ms, parts: self.short()? })
    }

    fn rooms(&mut self, mut pieces: Pieces, count: u64) -> Option<Vec<KeptRoom>> {
        let mut rooms = Vec::new();
        while self.at < self.bytes.len() {
            let start = self.bytes.get(self.at..self.at + PIECE_HEAD_BYTES)?;
            let piece = self.take(Pieces::bytes_behind(start)?)?;
            rooms.extend(pieces.read(piece)?);
        }
        (rooms.len() as u64 == count).then_some(rooms)
    }
}

/// Which checkpoint is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// Its number, by which it is named.
    pub number: u64,
    /// Its bytes.
    pub bytes: u64,
}

impl Newest {
    /// The object that says so.
    pub fn write(&self) -> Bytes {
        let mut out = Vec::with_capacity(20);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        let sum = crc32c::crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out.into()
    }

    /// Reads it; `None` if it does not check.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut at = Cursor { bytes, at: 0 };
        let newest = Newest { number: at.number()?, bytes: at.number()? };
        (at.short()? == crc32c::crc32c(&bytes[..16]) && at.at == bytes.len()).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use banter_log::record::Level;
    use banter_log::segment::Class;
    use banter_protocol::ids::{Epoch, RoomId, Sequence};

    use super::*;
    use crate::engine::Partition;

    const STREAM: StreamId = StreamId { cluster: 3, partition: Partition(4) };

    fn checkpoint() -> Checkpoint {
        let header = |id| SegmentHeader {
            id,
            nonce: id * 7,
            core: 0,
            class: Class::SERVER,
            run: 9,
            made_unix_ms: 5,
            file_bytes: 1 << 20,
        };
        let segment =
            |id| CoveredSegment { header: header(id), began: id + 10, end_offset: 8_192, newest_ms: 55, parts: 2 };
        let room = |number: u128| KeptRoom {
            room: RoomId(number),
            epoch: Epoch(5),
            head: Sequence(20),
            first: Sequence(2),
            newest: 4,
            far: 1,
            newest_ms: 77,
            depth: 3,
            level: Level::Synced,
        };
        let by = NodeId { name: 1, run: 2 };
        Checkpoint {
            walk: Terms { through: 40, claim: Some(TermClaim { term: 30, by, nonce: 4 }), is_alive: true },
            number: 1_000,
            next_segment: 6,
            epochs: StreamEpochs { blank: 1_000, lowered: 900, dropped: 800, levels: 3 },
            segments: (1..=3).map(segment).collect(),
            rooms: (1..=1_000).map(room).collect(),
        }
    }

    #[test]
    fn a_checkpoint_comes_back_and_every_flipped_bit_is_seen() {
        let small = Checkpoint { rooms: checkpoint().rooms[..3].to_vec(), ..checkpoint() };
        for checkpoint in [checkpoint(), small.clone()] {
            assert_eq!(Checkpoint::read(&checkpoint.write(STREAM), STREAM), Some(checkpoint));
        }
        let bytes = small.write(STREAM);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Checkpoint::read(&flipped, STREAM), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Checkpoint::read(&bytes[..length], STREAM), None, "{length}");
        }
        assert_eq!(Checkpoint::read(&bytes, StreamId { cluster: 4, ..STREAM }), None);
    }

    #[test]
    fn the_newest_is_named_and_a_torn_name_is_none() {
        let newest = Newest { number: 7, bytes: 1 << 20 };
        let bytes = newest.write();
        assert_eq!(Newest::read(&bytes), Some(newest));
        for length in 0..bytes.len() {
            assert_eq!(Newest::read(&bytes[..length]), None);
        }
    }
}
