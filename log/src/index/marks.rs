//! Marks: at which places of a segment a room's records lie, so that a reader begins near what it wants and leaps over
//! what is of other rooms.
//!
//! ```text
//!  piece   [ header 24 ][ mark 8 ][ mark 8 ]…              at most 4 KiB; all but the last of a part are full
//!  header  [ first sequence 8 ][ of the next piece 8 ][ marks 2 ][ 0 2 ][ sum 4 ]
//!  mark    [ sequence 4, counted from the first ][ where its record starts 4 ]
//! ```

use super::sum_with;
use crate::PAGE_BYTES;
use crate::bytes::{u16_at, u32_at, u64_at};

/// Bytes of a mark.
pub const MARK_BYTES: usize = 8;
const HEADER_BYTES: usize = 24;
const SUM_AT: usize = 20;
/// Marks of a piece at most.
pub const PIECE_MARKS: u32 = ((PAGE_BYTES - HEADER_BYTES) / MARK_BYTES) as u32;
/// Bytes of the log between two marks of a room at most, where all of them are its own records.
pub const MARK_STRIDE_BYTES: u64 = 16 * 1_024;
/// Bytes of other rooms ahead of a record that make it worth a mark: whoever leaps over them saves a page of the disk.
pub const MARK_LEAP_BYTES: u64 = PAGE_BYTES as u64;

/// Where a record of a room lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its place.
    pub sequence: u64,
    /// Where it starts in the segment.
    pub offset: u64,
}

/// Bytes of the pieces of so many marks.
pub fn pieces_bytes(marks: u32) -> u64 {
    let pieces = marks.div_ceil(PIECE_MARKS);
    u64::from(pieces) * HEADER_BYTES as u64 + u64::from(marks) * MARK_BYTES as u64
}

/// Appends the pieces of marks, which ascend.
pub fn write(marks: &[Mark], nonce: u64, out: &mut Vec<u8>) {
    let mut pieces = marks.chunks(PIECE_MARKS as usize).peekable();
    while let Some(piece) = pieces.next() {
        let start = out.len();
        let first = piece.first().map_or(0, |mark| mark.sequence);
        let next = pieces.peek().and_then(|next| next.first()).map_or(u64::MAX, |mark| mark.sequence);
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&next.to_le_bytes());
        out.extend_from_slice(&(piece.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for mark in piece {
            out.extend_from_slice(&((mark.sequence - first) as u32).to_le_bytes());
            out.extend_from_slice(&(mark.offset as u32).to_le_bytes());
        }
        let sum = sum_of(&out[start..], nonce);
        out[start + SUM_AT..start + HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    }
}

fn sum_of(piece: &[u8], nonce: u64) -> u32 {
    crc32c::crc32c_append(sum_with(nonce, &piece[..SUM_AT]), &piece[HEADER_BYTES..])
}

/// A piece that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkPiece {
    /// Its marks, ascending; never empty.
    pub marks: Vec<Mark>,
    /// The first sequence of the piece behind it; `u64::MAX`: it is the last.
    pub next: u64,
}

impl MarkPiece {
    /// Reads the piece that starts with these bytes; `None` if it does not check.
    pub fn read(bytes: &[u8], nonce: u64) -> Option<Self> {
        let (first, next) = (u64_at(bytes, 0)?, u64_at(bytes, 8)?);
        let count = u16_at(bytes, 16)?;
        let piece = bytes.get(..HEADER_BYTES + usize::from(count) * MARK_BYTES).filter(|_| count > 0)?;
        if sum_of(piece, nonce) != u32_at(piece, SUM_AT)? {
            return None;
        }
        let mark = |bytes: &[u8]| {
            let sequence = first.checked_add(u32_at(bytes, 0)?.into())?;
            Some(Mark { sequence, offset: u32_at(bytes, 4)?.into() })
        };
        let marks = piece[HEADER_BYTES..].chunks_exact(MARK_BYTES).map(mark).collect::<Option<_>>()?;
        Some(MarkPiece { marks, next })
    }
}

/// Looks for the piece with the last mark at or before a place.
#[derive(Clone, Copy, Debug)]
pub struct MarkSearch {
    sequence: u64,
    first: u64,
    last: u64,
    low: u32,
    high: u32,
    piece: u32,
}

impl MarkSearch {
    /// Among that many marks of a part with the places `first` to `last`.
    pub fn new(sequence: u64, (first, last): (u64, u64), marks: u32) -> Self {
        let (low, high) = (0, marks.div_ceil(PIECE_MARKS));
        let mut search = MarkSearch { sequence, first, last, low, high, piece: 0 };
        search.piece = search.guess();
        search
    }

    fn guess(&self) -> u32 {
        let places = u128::from(self.last.saturating_sub(self.first)) + 1;
        let ahead = u128::from(self.sequence.saturating_sub(self.first));
        let guess = ahead * u128::from(self.high - self.low) / places;
        self.low + (guess as u32).min((self.high - self.low).saturating_sub(1))
    }

    /// Where the piece to be read starts, counted from the first; `None`: there is no such mark.
    pub fn piece_offset(&self) -> Option<u64> {
        (self.low < self.high).then_some(u64::from(self.piece) * PAGE_BYTES as u64)
    }

    /// Whether that is the piece; if not, the next is to be read.
    pub fn is_in(&mut self, piece: &MarkPiece) -> bool {
        let (first, last) = (piece.marks.first().map_or(0, |mark| mark.sequence), piece.next);
        if self.sequence < first && self.piece > self.low {
            self.high = self.piece;
            self.last = first.saturating_sub(1);
        } else if self.sequence >= last && self.piece + 1 < self.high {
            self.low = self.piece + 1;
            self.first = last;
        } else {
            return true;
        }
        // Halved every second time, for places that lie unevenly.
        let middle = self.low + (self.high - self.low) / 2;
        self.piece = if self.piece.is_multiple_of(2) { self.guess() } else { middle.min(self.high - 1) };
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u64 = 5;

    fn marks(count: u64, step: fn(u64) -> u64) -> Vec<Mark> {
        (0..count).map(|number| Mark { sequence: 100 + step(number), offset: 4_096 + number * 300 }).collect()
    }

    fn find(file: &[u8], marks: &[Mark], sequence: u64) -> (Option<Mark>, u32) {
        let range = (marks[0].sequence, marks[marks.len() - 1].sequence + 50);
        let (mut search, mut reads) = (MarkSearch::new(sequence, range, marks.len() as u32), 0);
        while let Some(offset) = search.piece_offset() {
            reads += 1;
            let piece = MarkPiece::read(&file[offset as usize..], NONCE).unwrap();
            if search.is_in(&piece) {
                let behind = piece.marks.partition_point(|mark| mark.sequence <= sequence);
                return (behind.checked_sub(1).map(|at| piece.marks[at]), reads);
            }
        }
        (None, reads)
    }

    #[test]
    fn the_mark_at_or_before_a_place_is_found_in_few_reads_however_the_places_lie() {
        for step in [|number| number, |number| number * 7, |number| number * number / 9 + number] {
            for count in [1, 508, 509, 510, 1_018, 20_000] {
                let marks = marks(count, step);
                let mut file = Vec::new();
                write(&marks, NONCE, &mut file);
                assert_eq!(file.len() as u64, pieces_bytes(count as u32));
                for at in (0..marks.len()).step_by(1 + marks.len() / 200) {
                    let next = marks.get(at + 1).map_or(marks[at].sequence + 3, |next| next.sequence);
                    for sequence in [marks[at].sequence, next - 1] {
                        let (found, reads) = find(&file, &marks, sequence);
                        assert_eq!(found, Some(marks[at]), "{count} {sequence}");
                        assert!(reads <= 14, "{reads} reads of {count}");
                    }
                }
                assert_eq!(find(&file, &marks, 3).0, None, "before all of them");
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_piece_is_seen() {
        let marks = marks(9, |number| number * 3);
        let mut file = Vec::new();
        write(&marks, NONCE, &mut file);
        assert_eq!(MarkPiece::read(&file, NONCE), Some(MarkPiece { marks, next: u64::MAX }));
        assert_eq!(MarkPiece::read(&file, NONCE + 1), None);
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(MarkPiece::read(&flipped, NONCE), None, "bit {bit}");
        }
        for length in 0..file.len() {
            assert_eq!(MarkPiece::read(&file[..length], NONCE), None);
        }
    }
}
