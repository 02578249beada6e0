//! Checks a segment block by block as it lies on the disk, in small reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use banter_log::block::{Block, BlockFault, BlockPlace};
use banter_log::segment::SegmentHeader;
use banter_log::{PAGE_BYTES, block};

use super::segment_path;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every block checks.
    Whole,
    /// The block at that offset does not.
    Damaged(u64),
}

/// A segment that is being checked.
pub struct Scrub {
    file: File,
    place: BlockPlace,
    end_offset: u64,
    buffer: Vec<u8>,
}

impl Scrub {
    /// Of a sealed segment, whose blocks end at `end_offset`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(folder: &Path, segment: SegmentHeader, end_offset: u64) -> io::Result<Self> {
        let file = File::open(segment_path(folder, segment.id))?;
        // From the disk, and not from the page cache. A file system without such advice is read as it is.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let mut page = vec![0; PAGE_BYTES];
        file.read_exact_at(&mut page, 0)?;
        // A header that changed makes the first block one of another segment.
        let segment = SegmentHeader::read(&page).unwrap_or(SegmentHeader { nonce: !segment.nonce, ..segment });
        Ok(Scrub { file, place: BlockPlace::first_of(segment), end_offset, buffer: Vec::new() })
    }

    /// Checks the next block: how many bytes it had, or the end.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn step(&mut self) -> io::Result<Result<u64, Verdict>> {
        if self.place.offset >= self.end_offset {
            return Ok(Err(Verdict::Whole));
        }
        let offset = self.place.offset;
        let mut bytes = block::HEADER_BYTES;
        loop {
            self.buffer.resize(bytes.min((self.end_offset - offset) as usize), 0);
            match self.file.read_exact_at(&mut self.buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(Err(Verdict::Damaged(offset)));
                }
                read => read?,
            }
            match Block::read_alone(&self.buffer, &self.place.segment, offset) {
                Err(BlockFault::Longer(longer)) if longer > bytes => bytes = longer,
                Err(_) => return Ok(Err(Verdict::Damaged(offset))),
                Ok(_) => break,
            }
        }
        // Once more with its place in the chain.
        let Some(block) = Block::read_in_chain(&self.buffer, &self.place) else {
            return Ok(Err(Verdict::Damaged(offset)));
        };
        let behind = block.behind;
        let read = behind.offset - offset;
        self.place = behind;
        Ok(Ok(read))
    }
}
