//! Walks a segment from its first block to where it ends, and says how it ends: clean, torn, or corrupt.
//!
//! A commit is in flight alone, and each block says up to which one everything was on the disk when it was written. So
//! bytes that do not check are the torn tail of what was not synced, unless a later block says that they were on the disk:
//! then something that was once whole has been damaged. Where nothing that was written was lost since, any later block says
//! that of all before it ([`Proof`]).
//!
//! Invariant: torn or corrupt is judged here and nowhere else ([`EndJudge`]), of a file in memory and of one in pieces.

use crate::PAGE_BYTES;
use crate::block::{Block, BlockPlace, Proof};
use crate::segment::{SegmentFault, SegmentHeader};

/// Blocks of a segment, one after another.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    bytes: &'a [u8],
    place: BlockPlace,
}

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With zeros, or with the file.
    Clean {
        /// Where the blocks end.
        offset: u64,
    },
    /// With the remains of a commit that did not finish.
    Torn {
        /// Where the blocks end.
        offset: u64,
        /// Bytes from there to the last that is not zero.
        bytes: u64,
    },
    /// With bytes that do not check, and a valid block behind them.
    Corrupt {
        /// Where the blocks end.
        offset: u64,
        /// Where the later block starts.
        later: u64,
    },
}

impl<'a> Scan<'a> {
    /// Over a segment's bytes, header page included.
    ///
    /// # Errors
    /// When the header is none of ours.
    pub fn new(bytes: &'a [u8]) -> Result<Self, SegmentFault> {
        let header = SegmentHeader::read(bytes.get(..PAGE_BYTES).unwrap_or(bytes))?;
        Ok(Scan { bytes, place: BlockPlace::first_of(header) })
    }

    /// The segment's header.
    pub fn header(&self) -> &SegmentHeader {
        &self.place.segment
    }

    /// Where the next block starts, or would.
    pub fn place(&self) -> &BlockPlace {
        &self.place
    }

    /// How the segment ends. Asked when the blocks are all read.
    pub fn ending(&self) -> Ending {
        let rest = self.bytes.get(self.place.offset as usize..).unwrap_or(&[]);
        let mut judge = EndJudge::new(self.place, Proof::Synced);
        judge.take(self.place.offset, rest).unwrap_or_else(|| judge.end())
    }
}

/// Judges how a segment ends, by what lies behind its last block.
#[derive(Clone, Copy, Debug)]
pub struct EndJudge {
    place: BlockPlace,
    proof: Proof,
    behind_last: Option<u64>,
}

impl EndJudge {
    /// Behind the last block that checks: `place` is where the next one would start.
    pub fn new(place: BlockPlace, proof: Proof) -> Self {
        EndJudge { place, proof, behind_last: None }
    }

    /// Takes the next bytes, which start at a page. Says the ending, if what comes behind them makes it no other.
    pub fn take(&mut self, at: u64, bytes: &[u8]) -> Option<Ending> {
        for (page, bytes) in bytes.chunks(PAGE_BYTES).enumerate() {
            let page = at + (page * PAGE_BYTES) as u64;
            if page != self.place.offset && self.proof.is_given_by(bytes, &self.place) {
                return Some(Ending::Corrupt { offset: self.place.offset, later: page });
            }
            let last = bytes.iter().rposition(|&byte| byte != 0);
            self.behind_last = last.map(|last| page + last as u64 + 1).or(self.behind_last);
        }
        None
    }

    /// The ending, behind all bytes.
    pub fn end(&self) -> Ending {
        let offset = self.place.offset;
        match self.behind_last {
            Some(behind_last) => Ending::Torn { offset, bytes: behind_last - offset },
            None => Ending::Clean { offset },
        }
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Block<'a>;

    fn next(&mut self) -> Option<Block<'a>> {
        let block = Block::read(self.bytes, &self.place)?;
        self.place = block.behind;
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use banter_protocol::event::Message;
    use banter_protocol::ids::{Epoch, RoomId, Sequence};
    use banter_protocol::native::{read_message, write_message};
    use banter_protocol::request::{Body, BodyFormat};

    use super::*;
    use crate::block::BlockWriter;
    use crate::record::{Author, Level, Record};
    use crate::segment::Class;

    const SEGMENT: SegmentHeader =
        SegmentHeader { id: 7, nonce: 99, core: 1, class: Class::SERVER, run: 3, made_unix_ms: 5, file_bytes: 1 << 20 };

    fn frame(sequence: u64) -> Vec<u8> {
        let text = format!("\"{}\"", "x".repeat(sequence as usize * 37 % 900));
        let body = Body { format: BodyFormat::Json, bytes: text.as_bytes() };
        let mut frame = Vec::new();
        let message = Message {
            epoch: Epoch(1),
            sequence: Sequence(sequence),
            time_ms: 0,
            room: "room",
            user: "ann",
            key: None,
            body,
        };
        write_message(&message, &mut frame);
        frame
    }

    /// A segment with blocks of 1, 2, 3 … records; where each block ends.
    fn segment(blocks: u64, bytes: usize) -> (Vec<u8>, Vec<u64>) {
        let mut file = SEGMENT.write();
        let mut place = BlockPlace::first_of(SEGMENT);
        let (mut ends, mut sequence) = (Vec::new(), 0);
        for number in 0..blocks {
            let mut block = BlockWriter::of(&SEGMENT);
            for _ in 0..=number {
                sequence += 1;
                let author = Author { core: 1, slot: 2, generation: 3 };
                block.push(&Record::message(RoomId(1), Level::Synced, author, &frame(sequence)));
            }
            place.synced = place.number;
            let (bytes, behind) = block.finish(&place);
            file.extend_from_slice(&bytes);
            place = behind;
            ends.push(place.offset);
        }
        assert!(file.len() <= bytes);
        file.resize(bytes, 0);
        (file, ends)
    }

    fn sequences(scan: &mut Scan<'_>) -> Vec<u64> {
        let mut sequences = Vec::new();
        for block in scan {
            for record in block.records() {
                sequences.push(read_message(record.unwrap().frame).unwrap().sequence.0);
            }
        }
        sequences
    }

    #[test]
    fn a_whole_segment_is_read_to_its_clean_end() {
        let (file, ends) = segment(5, 64 * 1_024);
        let mut scan = Scan::new(&file).unwrap();
        assert_eq!(sequences(&mut scan), (1..=15).collect::<Vec<_>>());
        assert_eq!(scan.ending(), Ending::Clean { offset: *ends.last().unwrap() });
    }

    #[test]
    fn every_truncation_leaves_a_prefix_of_whole_blocks() {
        let (file, ends) = segment(5, 48 * 1_024);
        for length in PAGE_BYTES..file.len() {
            let mut scan = Scan::new(&file[..length]).unwrap();
            let whole = sequences(&mut scan);
            // A block is whole when its records are there: its padding may be missing.
            let blocks = ends.iter().filter(|&&end| end <= length as u64).count() as u64;
            let least = blocks * (blocks + 1) / 2;
            assert!(whole.len() as u64 >= least, "{length}");
            assert_eq!(whole, (1..=whole.len() as u64).collect::<Vec<_>>());
            assert!(!matches!(scan.ending(), Ending::Corrupt { .. }), "{length}");
        }
    }

    #[test]
    fn every_flipped_bit_is_seen_or_harmless() {
        let (file, ends) = segment(4, 32 * 1_024);
        let all: Vec<u64> = (1..=10).collect();
        for bit in PAGE_BYTES * 8..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut scan = Scan::new(&flipped).unwrap();
            let read = sequences(&mut scan);
            assert_eq!(read, all[..read.len()], "bit {bit}: never a wrong message");
            let hit = (bit / 8) as u64;
            let blocks_before = ends.iter().filter(|&&end| end <= hit).count() as u64;
            assert!(read.len() as u64 >= blocks_before * (blocks_before + 1) / 2, "bit {bit}: nothing before it goes");
            if read.len() < all.len() {
                let is_last = hit >= ends[ends.len() - 2];
                assert_eq!(matches!(scan.ending(), Ending::Corrupt { .. }), !is_last, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_torn_tail_is_told_from_corruption() {
        let (mut file, ends) = segment(3, 48 * 1_024);
        let last_start = ends[1] as usize;
        // The last commit lost its second half.
        file[last_start + 200..].fill(0);
        let mut scan = Scan::new(&file).unwrap();
        assert_eq!(sequences(&mut scan), [1, 2, 3]);
        assert!(matches!(scan.ending(), Ending::Torn { offset, bytes: 150..=200 } if offset == ends[1]));
        // The middle one was damaged.
        let (mut file, ends) = segment(3, 48 * 1_024);
        file[ends[0] as usize + 100] ^= 1;
        let mut scan = Scan::new(&file).unwrap();
        assert_eq!(sequences(&mut scan), [1]);
        assert_eq!(scan.ending(), Ending::Corrupt { offset: ends[0], later: ends[1] });
    }

    #[test]
    fn stale_bytes_of_a_recycled_file_are_no_blocks() {
        let (old, ends) = segment(4, 48 * 1_024);
        let new = SegmentHeader { id: 8, nonce: 100, ..SEGMENT };
        let mut file = old.clone();
        file[..PAGE_BYTES].copy_from_slice(&new.write());
        let mut scan = Scan::new(&file).unwrap();
        assert_eq!(sequences(&mut scan), [0; 0]);
        assert!(matches!(scan.ending(), Ending::Torn { offset, .. } if offset == PAGE_BYTES as u64));
        // A valid block of the same segment in another place is none either.
        let mut moved = old.clone();
        let (from, to) = (ends[0] as usize, PAGE_BYTES);
        moved.copy_within(from..from + PAGE_BYTES, to);
        assert_eq!(sequences(&mut Scan::new(&moved).unwrap()), [0; 0]);
    }

    /// Appends a block without records, and says where it ends.
    fn prove(file: &mut [u8], place: &BlockPlace) -> u64 {
        let (proof, behind) = BlockWriter::of(&SEGMENT).finish(&BlockPlace { synced: place.number, ..*place });
        let start = place.offset as usize;
        file[start..start + proof.len()].copy_from_slice(&proof);
        behind.offset
    }

    #[test]
    fn behind_a_proof_damage_of_the_last_records_is_no_torn_end() {
        let (mut file, ends) = segment(3, 48 * 1_024);
        let mut scan = Scan::new(&file).unwrap();
        scan.by_ref().for_each(drop);
        let place = *scan.place();
        let end = prove(&mut file, &place);
        let mut whole = Scan::new(&file).unwrap();
        assert_eq!(sequences(&mut whole), [1, 2, 3, 4, 5, 6]);
        assert_eq!(whole.ending(), Ending::Clean { offset: end });
        let last = ends[1] as usize;
        let body_bytes = crate::bytes::u32_at(&file, last + 28).unwrap() as usize;
        for bit in last * 8..(last + crate::block::HEADER_BYTES + body_bytes) * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut scan = Scan::new(&flipped).unwrap();
            assert_eq!(sequences(&mut scan), [1, 2, 3], "bit {bit}");
            assert_eq!(scan.ending(), Ending::Corrupt { offset: ends[1], later: ends[2] }, "bit {bit}");
        }
        // What was not synced when the proof was written is not proved by it.
        let (mut file, ends) = segment(3, 48 * 1_024);
        let (proof, _) = BlockWriter::of(&SEGMENT).finish(&BlockPlace { synced: 2, ..place });
        file[ends[2] as usize..ends[2] as usize + proof.len()].copy_from_slice(&proof);
        file[ends[1] as usize + 100] ^= 1;
        let mut scan = Scan::new(&file).unwrap();
        assert_eq!(sequences(&mut scan), [1, 2, 3]);
        assert!(matches!(scan.ending(), Ending::Torn { .. }));
    }

    #[test]
    fn where_nothing_that_was_written_was_lost_any_later_block_proves_those_before_it() {
        let mut file = SEGMENT.write();
        let mut place = BlockPlace::first_of(SEGMENT);
        for sequence in 1..=3 {
            let mut block = BlockWriter::of(&SEGMENT);
            let author = Author { core: 1, slot: 2, generation: 3 };
            block.push(&Record::message(RoomId(1), Level::Written, author, &frame(sequence)));
            let (bytes, behind) = block.finish(&place);
            file.extend_from_slice(&bytes);
            place = behind;
        }
        let page = PAGE_BYTES as u64;
        for (damaged, later) in [(1, Some(2)), (2, Some(3)), (3, None)] {
            let mut file = file.clone();
            file[damaged * PAGE_BYTES + 100] ^= 1;
            let mut scan = Scan::new(&file).unwrap();
            scan.by_ref().for_each(drop);
            let judge = |proof| {
                let mut judge = EndJudge::new(*scan.place(), proof);
                // In pieces, as a start has it.
                let pieces = file.chunks(PAGE_BYTES).enumerate().skip(damaged);
                let found = pieces.into_iter().find_map(|(number, bytes)| judge.take(number as u64 * page, bytes));
                found.unwrap_or_else(|| judge.end())
            };
            assert_eq!(judge(Proof::Synced), scan.ending());
            assert!(matches!(judge(Proof::Synced), Ending::Torn { .. }), "no block says that one before it was synced");
            match later {
                Some(later) => {
                    let corrupt = Ending::Corrupt { offset: damaged as u64 * page, later: later * page };
                    assert_eq!(judge(Proof::Written), corrupt);
                }
                None => assert_eq!(judge(Proof::Written), scan.ending(), "it may be the one that was in flight"),
            }
        }
    }
}
