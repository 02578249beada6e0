//! Rewrites a segment without what is to be erased, and leaves everything else where it is.
//!
//! ```text
//!  before  [ block: | record | to be erased   | record | ][ block ]…
//!  after   [ block: | record | tombstone of the same length | record | ][ block ]…       sums and chain anew
//! ```
//!
//! Layout and nonce stay, so that every mark and offset of the index stays right, and who reads a block from the old file and
//! the next from the new one reads both rightly. What is not erased keeps its bytes.
//!
//! Behind a block that does not check the next one is looked for: it is rewritten too, with the chain that it had. What lies
//! between is no message to anybody, and is left as it is, since that it is damaged must stay to be seen.

use banter_protocol::native::{Kept, Tombstone, read_kept, write_erased};

use crate::PAGE_BYTES;
use crate::block::{Block, BlockPlace, sum_again};
use crate::record::{Author, PREFIX_BYTES, Record, RecordKind};
use crate::segment::{SegmentFault, SegmentHeader};

/// What was done to a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Messages that were erased.
    pub messages: u64,
    /// Bytes between blocks that do not check: what was to be erased there may still be.
    pub unread_bytes: u64,
}

/// Erases what `hides` says in the bytes of a segment. `end_offset` is where its blocks end, as its index says.
///
/// # Errors
/// When it is none of ours.
pub fn rewrite(
    bytes: &mut [u8],
    end_offset: Option<u64>,
    mut hides: impl FnMut(&Kept<'_>) -> bool,
) -> Result<Rewritten, SegmentFault> {
    let mut rewrite = Rewrite::new(bytes, end_offset)?;
    while rewrite.step(bytes, u64::MAX, &mut hides) {}
    Ok(rewrite.done())
}

/// A segment's bytes on their way: what takes long is done in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite {
    place: BlockPlace,
    /// The sum that the block before has now.
    previous_sum: u32,
    /// Up to there lies what was written once.
    end_offset: u64,
    done: Rewritten,
}

impl Rewrite {
    /// Of these bytes. Where no index says where the blocks end, anything but zeros may be one.
    ///
    /// # Errors
    /// When it is none of ours.
    pub fn new(bytes: &[u8], end_offset: Option<u64>) -> Result<Self, SegmentFault> {
        let header = SegmentHeader::read(bytes.get(..PAGE_BYTES).unwrap_or(bytes))?;
        let written = || bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at as u64 + 1);
        let end_offset = end_offset.unwrap_or_else(written);
        Ok(Rewrite { place: BlockPlace::first_of(header), previous_sum: 0, end_offset, done: Rewritten::default() })
    }

    /// What was done until now.
    pub fn done(&self) -> Rewritten {
        self.done
    }

    /// Goes on through about so many bytes; `false`: all is done. What lies behind the last block, and behind where blocks end,
    /// becomes zeros.
    pub fn step(&mut self, bytes: &mut [u8], bytes_max: u64, mut hides: impl FnMut(&Kept<'_>) -> bool) -> bool {
        let until = self.place.offset.saturating_add(bytes_max);
        while self.place.offset < until {
            if !self.block(bytes, &mut hides) {
                self.end(bytes);
                return false;
            }
        }
        true
    }

    /// `false`: there is no other.
    fn block(&mut self, bytes: &mut [u8], hides: &mut impl FnMut(&Kept<'_>) -> bool) -> bool {
        let place = self.place;
        let Some(behind) = Block::read(bytes, &place).map(|block| block.behind) else {
            let Some(next) = next_block(bytes, &place) else { return false };
            self.done.unread_bytes += next.offset - place.offset;
            (self.place, self.previous_sum) = (next, next.previous_sum);
            return true;
        };
        let (start, end) = (place.offset as usize, (behind.offset as usize).min(bytes.len()));
        let Some(block) = bytes.get_mut(start..end) else { return false };
        let erased = erase_in(block, &place, hides);
        self.done.messages += erased;
        if erased > 0 || self.previous_sum != place.previous_sum {
            let Some(sum) = sum_again(block, self.previous_sum) else { return false };
            self.previous_sum = sum;
        } else {
            self.previous_sum = behind.previous_sum;
        }
        self.place = behind;
        true
    }

    fn end(&mut self, bytes: &mut [u8]) {
        let end_offset = self.end_offset.min(bytes.len() as u64);
        // What was written there does not check: it may have been acknowledged, and stays to be seen as damaged.
        self.done.unread_bytes += end_offset.saturating_sub(self.place.offset);
        if let Some(rest) = bytes.get_mut(self.place.offset.max(end_offset) as usize..) {
            rest.fill(0);
        }
    }
}

/// The place of the next block that checks, behind one that does not.
fn next_block(bytes: &[u8], place: &BlockPlace) -> Option<BlockPlace> {
    let mut pages = (place.offset..bytes.len() as u64).step_by(PAGE_BYTES);
    pages.find_map(|offset| BlockPlace::found_at(bytes.get(offset as usize..)?, &place.segment, offset))
}

/// Puts tombstones in the place of a block's records; how many.
fn erase_in(block: &mut [u8], place: &BlockPlace, hides: &mut impl FnMut(&Kept<'_>) -> bool) -> u64 {
    let mut tombstones = Vec::new();
    let Ok(read) = Block::read_alone(block, &place.segment, place.offset) else { return 0 };
    for (offset, record) in read.placed_records() {
        // One of a later build's kind ends the reading: it says nothing of where the next one starts.
        let Ok(record) = record else { break };
        if let Some(tombstone) = tombstone_of(&record, place.segment.nonce, hides) {
            tombstones.push(((offset - place.offset) as usize, tombstone));
        }
    }
    let mut erased = 0;
    for (at, tombstone) in tombstones {
        if let Some(record) = block.get_mut(at..at + tombstone.len()) {
            record.copy_from_slice(&tombstone);
            erased += 1;
        }
    }
    erased
}

/// What comes in the place of a record; `None`: it stays.
fn tombstone_of(record: &Record<'_>, nonce: u64, hides: &mut impl FnMut(&Kept<'_>) -> bool) -> Option<Vec<u8>> {
    if !matches!(record.kind, RecordKind::Message | RecordKind::Viewed | RecordKind::Change) {
        return None;
    }
    let kept = read_kept(record.frame).ok().filter(|kept| hides(kept))?;
    let (room, epoch, sequence, time_ms) = (kept.room(), kept.epoch(), kept.sequence(), kept.time_ms());
    let (mut frame, mut written) = (Vec::new(), Vec::new());
    let tombstone = Tombstone { room, epoch, sequence, time_ms };
    // The place of the hash is the frame's now.
    if !write_erased(&tombstone, record.bytes() - PREFIX_BYTES, &mut frame) {
        return None;
    }
    let (kind, author, sent_body_hash) = (RecordKind::Tombstone, Author::NOBODY, None);
    Record { kind, author, sent_body_hash, frame: &frame, ..*record }.write(nonce, &mut written);
    Some(written)
}
