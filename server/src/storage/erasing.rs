//! Erases in a sealed segment's files: another segment of the same layout is written beside the old one and renamed over it.
//!
//! ```text
//!  read, rewrite in memory ─▶ draft, by pieces ─▶ sync ─▶ index without the keys, renamed over ─▶ segment renamed over
//! ```
//!
//! A crash behind any step leaves for each of the two files the old one or the new one, which are right beside each other in any
//! mixture: the layout is the same. The index goes first, so that a segment that was rewritten has one without the keys. That
//! all of it is done is said by the list ([`super::erasures`]) and by nothing else.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use banter_log::PAGE_BYTES;
use banter_log::erasure::{Erasure, rewrite};
use banter_log::index::part::{PartSearch, Searched};
use banter_log::index::{HEADER_BYTES, IndexHeader};
use banter_log::scan::Ending;
use banter_log::segment::SegmentHeader;
use banter_protocol::native::Kept;

use super::erasures::Listed;
use super::files::{draft_of, put_in_place, put_index};
use super::indexes::read_parts;
use super::recovery::index_of;
use super::{index_path, segment_path};

/// Bytes that are written at a time; what presses more comes between two of them.
const PIECE_BYTES: usize = 1 << 20;
/// As `Limits::check` has it for `log_segment_bytes`: what is larger is no segment, and is not read into memory.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Messages that were erased, by the erasure's number.
pub type Counts = BTreeMap<u64, u64>;

/// Those erasures that a segment may hold something of, as its index says; all that may reach it where that cannot be read.
pub fn concerning<'l>(folder: &Path, segment: u64, pending: &'l [Listed]) -> Vec<&'l Listed> {
    let reaching = pending.iter().filter(|listed| listed.through_segment.is_none_or(|through| segment <= through));
    let Some(index) = IndexFile::open(folder, segment) else { return reaching.collect() };
    reaching.filter(|listed| index.may_hold(&listed.erasure)).collect()
}

/// An index that is searched where it lies.
struct IndexFile {
    file: File,
    nonce: u64,
    parts: u32,
}

impl IndexFile {
    fn open(folder: &Path, segment: u64) -> Option<Self> {
        let mut page = vec![0; PAGE_BYTES];
        File::open(segment_path(folder, segment)).ok()?.read_exact_at(&mut page, 0).ok()?;
        let segment_header = SegmentHeader::read(&page).ok()?;
        let file = File::open(index_path(folder, segment)).ok()?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).ok()?;
        let parts = IndexHeader::read(&header, &segment_header)?.parts;
        Some(IndexFile { file, nonce: segment_header.nonce, parts })
    }

    fn may_hold(&self, erasure: &Erasure) -> bool {
        let mut search = PartSearch::new(erasure.room_id(), self.parts, self.nonce);
        while let Some(offset) = search.page_offset() {
            let mut page = vec![0; PAGE_BYTES];
            let Ok(read) = self.file.read_at(&mut page, offset) else { return true };
            page.truncate(read);
            match search.take(offset, &page) {
                Searched::Found(part) => return part.first <= erasure.last && erasure.first <= part.last,
                Searched::Elsewhere => {}
                Searched::Absent => return false,
                Searched::Damaged => return true,
            }
        }
        false
    }
}

/// A segment on its way to be rewritten.
#[derive(Debug)]
pub struct Rewriting {
    folder: PathBuf,
    header: SegmentHeader,
    bytes: Vec<u8>,
    draft: File,
    written: usize,
    /// What is erased in it.
    pub counts: Counts,
    /// Bytes that do not check, and may hold what was to be erased.
    pub unread_bytes: u64,
    is_in_place: bool,
}

impl Rewriting {
    /// Reads a segment, and begins its draft; `None`: it holds nothing of that.
    ///
    /// # Errors
    /// What the kernel says, or that it is no segment.
    pub fn begin(folder: &Path, segment: u64, erasures: &[&Erasure]) -> io::Result<Option<Self>> {
        let path = segment_path(folder, segment);
        let mut bytes = read_segment(&path)?;
        let mut erased = erase(&mut bytes, erasures)?;
        if erased.1 > 0 {
            // It may have been read wrong, and would be written so.
            bytes = read_segment(&path)?;
            erased = erase(&mut bytes, erasures)?;
        }
        let (counts, unread_bytes) = erased;
        if counts.is_empty() {
            return Ok(None);
        }
        let header = SegmentHeader::read(&bytes).map_err(io::Error::other)?;
        let mut options = OpenOptions::new();
        let draft = options.write(true).create(true).truncate(true).mode(0o600).open(draft_of(&path))?;
        let folder = folder.to_owned();
        Ok(Some(Rewriting { folder, header, bytes, draft, written: 0, counts, unread_bytes, is_in_place: false }))
    }

    /// The segment.
    pub fn segment(&self) -> u64 {
        self.header.id
    }

    /// Writes the next piece; `false`: all of it is written.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn step(&mut self) -> io::Result<bool> {
        let piece = self.bytes.get(self.written..).unwrap_or(&[]);
        let piece = &piece[..piece.len().min(PIECE_BYTES)];
        self.draft.write_all(piece)?;
        self.written += piece.len();
        Ok(self.written < self.bytes.len())
    }

    /// Makes it safe, and puts it in the place of the old one, behind an index that has no key of what is gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn finish(mut self) -> io::Result<()> {
        while self.step()? {}
        self.draft.sync_all()?;
        self.renew_index()?;
        let path = segment_path(&self.folder, self.header.id);
        put_in_place(&self.folder, &draft_of(&path), &path)?;
        self.is_in_place = true;
        Ok(())
    }

    /// An index that is missing or damaged is made again by others, and one of a segment that is not whole says more than
    /// could be made of it: such ones stay, and may hold keys of what is gone.
    fn renew_index(&self) -> io::Result<()> {
        let Some((before, parts)) = read_parts(&self.folder, &self.header) else { return Ok(()) };
        let Ok((mut index, ending)) = index_of(&self.bytes) else { return Ok(()) };
        let (Ending::Clean { offset } | Ending::Torn { offset, .. } | Ending::Corrupt { offset, .. }) = ending;
        if offset < before.end_offset || index.len() != parts.len() {
            return Ok(());
        }
        parts.iter().for_each(|part| {
            index.set_chain(part.room, part.chain);
            index.end_at(part.room, part.last);
        });
        put_index(&self.folder, self.header.id, &index.encode(&self.header, before.end_offset, before.is_chained))
    }
}

impl Drop for Rewriting {
    fn drop(&mut self) {
        if !self.is_in_place {
            // One that stays is swept away at the next start.
            let _ = fs::remove_file(draft_of(&segment_path(&self.folder, self.header.id)));
        }
    }
}

fn read_segment(path: &Path) -> io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    if !found.is_file() || found.len() > SEGMENT_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no segment"));
    }
    fs::read(path)
}

fn erase(bytes: &mut [u8], erasures: &[&Erasure]) -> io::Result<(Counts, u64)> {
    let mut counts = Counts::new();
    let hides = |kept: &Kept<'_>| {
        let by = erasures.iter().find(|erasure| erasure.hides(kept));
        by.map(|erasure| *counts.entry(erasure.number).or_default() += 1).is_some()
    };
    let done = rewrite(bytes, hides).map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
    Ok((counts, done.unread_bytes))
}

#[cfg(test)]
mod tests;
