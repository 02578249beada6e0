//! Walks a segment without an index from its first block to where it ends, in pieces, so that none is ever whole in memory.
//!
//! What the disk cannot read is damage at that place, and no reason to give up all that lies before it.
//!
//! Invariant: where the blocks end is judged by bytes that were read twice, the second time past the page cache, since a start
//! makes its judgement durable: what lies behind is never read again.

use std::fs::File;
use std::io;

use banter_log::PAGE_BYTES;
use banter_log::block::{Block, BlockFault, BlockPlace, Proof};
use banter_log::index::IndexBuilder;
use banter_log::scan::{EndJudge, Ending, Scan};
use banter_log::segment::{SegmentFault, SegmentHeader};
use banter_log::walked::WalkedRooms;

use super::hands::Hands;

/// Bytes that are read at once. A block that is longer is read whole.
const PIECE_BYTES: usize = 1 << 20;

/// How a segment's blocks end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With zeros, or with the file.
    Clean { offset: u64 },
    /// With the remains of a commit that did not finish.
    Torn { offset: u64, bytes: u64 },
    /// With something that was whole once, or may have been.
    Damaged { offset: u64, what: String },
}

impl End {
    fn of(ending: Ending) -> Self {
        match ending {
            Ending::Clean { offset } => End::Clean { offset },
            Ending::Torn { offset, bytes } => End::Torn { offset, bytes },
            Ending::Corrupt { offset, later } => {
                End::Damaged { offset, what: format!("a block does not check, and a later one at {later} does") }
            }
        }
    }

    /// Where the blocks end.
    pub fn offset(&self) -> u64 {
        match *self {
            End::Clean { offset } | End::Torn { offset, .. } | End::Damaged { offset, .. } => offset,
        }
    }
}

/// A segment's file that is to be walked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pub header: SegmentHeader,
    pub file_bytes: u64,
    /// What a later block says of those before it.
    pub proof: Proof,
}

/// Walks a segment's file: the index that its blocks make, and how they end. `buffer` is used again for the next one.
pub(super) fn walk(hands: &dyn Hands, file: &File, walk: Walk, buffer: &mut Vec<u8>) -> (IndexBuilder, End) {
    let Walk { header, file_bytes, proof } = walk;
    let mut pieces = Pieces { hands, file, segment: header.id, file_bytes, start: 0, window: buffer, unread: None };
    pieces.window.clear();
    let mut rooms = WalkedRooms::default();
    let (mut place, mut doubted) = (BlockPlace::first_of(header), None);
    let end = loop {
        match next_block(&mut pieces, &mut rooms, &place) {
            Next::Behind(behind) => place = behind,
            Next::NoMessage(end) => break end,
            Next::Nothing | Next::Unread(_) if doubted != Some(place.offset) => {
                doubted = Some(place.offset);
                pieces.let_go();
            }
            Next::Nothing => break ending_again(&mut pieces, place, proof),
            Next::Unread(unread) => break unread.end_at(place.offset),
        }
    };
    (rooms.index, end)
}

/// What lies at a place.
enum Next {
    /// A block, whose messages were taken; the next one lies there.
    Behind(BlockPlace),
    /// No block that checks.
    Nothing,
    /// What cannot be read.
    Unread(Unread),
    /// A block that checks, which is why it is not read again, and what is in it is none of this format.
    NoMessage(End),
}

/// Takes the block at that place.
fn next_block(pieces: &mut Pieces<'_>, rooms: &mut WalkedRooms, place: &BlockPlace) -> Next {
    let bytes = match block_at(pieces, place) {
        Ok(bytes) => bytes,
        Err(unread) => return Next::Unread(unread),
    };
    let Some(block) = Block::read_in_chain(bytes, place) else { return Next::Nothing };
    if rooms.take(&block) {
        return Next::Behind(block.behind);
    }
    let what = "a block checks, and what is in it is no message of this format".to_owned();
    Next::NoMessage(End::Damaged { offset: place.offset, what })
}

fn block_at<'p>(pieces: &'p mut Pieces<'_>, place: &BlockPlace) -> Result<&'p [u8], Unread> {
    let first = pieces.at(place.offset, PAGE_BYTES)?;
    let bytes = match Block::read_alone(first, &place.segment, place.offset) {
        Err(BlockFault::Longer(bytes)) => bytes,
        _ => PAGE_BYTES,
    };
    pieces.at(place.offset, bytes)
}

/// How the segment ends, also where the disk reads that at the second try only.
fn ending_again(pieces: &mut Pieces<'_>, place: BlockPlace, proof: Proof) -> End {
    let again = ending(pieces, place, proof).or_else(|_| {
        pieces.let_go();
        ending(pieces, place, proof)
    });
    again.unwrap_or_else(|unread| unread.end_at(place.offset))
}

/// How the segment ends, behind its last block. What is proven by a later block was on the disk once.
fn ending(pieces: &mut Pieces<'_>, place: BlockPlace, proof: Proof) -> Result<End, Unread> {
    let (mut at, mut judge) = (place.offset, EndJudge::new(place, proof));
    loop {
        let piece = pieces.at(at, PIECE_BYTES)?;
        let ending = if piece.is_empty() { Some(judge.end()) } else { judge.take(at, piece) };
        if let Some(ending) = ending {
            return Ok(End::of(ending));
        }
        at += piece.len() as u64;
    }
}

/// A part of a file that cannot be read.
struct Unread {
    offset: u64,
    error: io::Error,
}

impl Unread {
    fn end_at(self, offset: u64) -> End {
        End::Damaged { offset, what: format!("it cannot be read at {}: {}", self.offset, self.error) }
    }
}

/// A segment's file, of which a piece is in memory.
struct Pieces<'a> {
    hands: &'a dyn Hands,
    file: &'a File,
    segment: u64,
    file_bytes: u64,
    start: u64,
    window: &'a mut Vec<u8>,
    /// Why the window ends ahead of what was asked.
    unread: Option<Unread>,
}

impl Pieces<'_> {
    /// So many bytes from there on, or fewer, where the file ends.
    fn at(&mut self, offset: u64, bytes: usize) -> Result<&[u8], Unread> {
        let bytes = (bytes as u64).min(self.file_bytes.saturating_sub(offset)) as usize;
        if self.held(offset).is_none_or(|held| held.len() < bytes) {
            self.fill(offset, bytes);
        }
        if self.held(offset).is_none_or(|held| held.len() < bytes)
            && let Some(unread) = self.unread.take()
        {
            return Err(unread);
        }
        let held = self.held(offset).unwrap_or(&[]);
        Ok(&held[..bytes.min(held.len())])
    }

    /// Lets go of all that is held: what is asked from now on comes from the disk.
    fn let_go(&mut self) {
        self.window.clear();
        self.hands.forget(self.file);
    }

    fn held(&self, offset: u64) -> Option<&[u8]> {
        self.window.get(usize::try_from(offset.checked_sub(self.start)?).ok()?..)
    }

    fn fill(&mut self, offset: u64, bytes: usize) {
        let wanted = (bytes.max(PIECE_BYTES) as u64).min(self.file_bytes.saturating_sub(offset)) as usize;
        (self.start, self.unread) = (offset, None);
        self.window.resize(wanted, 0);
        let read = match self.read(offset, 0..wanted) {
            Ok(read) => read,
            Err(_) => self.fill_by_pages(offset, wanted),
        };
        self.window.truncate(read);
    }

    /// Reads up to the page that cannot be read.
    fn fill_by_pages(&mut self, offset: u64, wanted: usize) -> usize {
        let mut read = 0;
        while read < wanted {
            match self.read(offset + read as u64, read..wanted.min(read + PAGE_BYTES)) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) => {
                    self.unread = Some(Unread { offset: offset + read as u64, error });
                    break;
                }
            }
        }
        read
    }

    /// Reads into a part of the window, up to the end of the file.
    fn read(&mut self, offset: u64, part: std::ops::Range<usize>) -> io::Result<usize> {
        let into = &mut self.window[part];
        let mut read = 0;
        while read < into.len() {
            match self.hands.read(self.segment, self.file, &mut into[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}

/// The index that a segment's blocks make, and how they end, where the whole of it is in memory. A block that checks and
/// holds what is no message of this format ends them, as damage.
///
/// # Errors
/// It is no segment.
pub fn index_of(bytes: &[u8]) -> Result<(IndexBuilder, Ending), SegmentFault> {
    let mut scan = Scan::new(bytes)?;
    let mut rooms = WalkedRooms::default();
    loop {
        let offset = scan.place().offset;
        let Some(block) = scan.next() else { break };
        if !rooms.take(&block) {
            return Ok((rooms.index, Ending::Corrupt { offset, later: block.behind.offset }));
        }
    }
    Ok((rooms.index, scan.ending()))
}

#[cfg(test)]
mod tests;
