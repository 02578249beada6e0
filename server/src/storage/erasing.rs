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
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use banter_log::PAGE_BYTES;
use banter_log::erasure::{Bound, ErasedKeys, Erasure, Rewrite, without_keys};
use banter_log::index::part::{PartSearch, Searched};
use banter_log::index::{HEADER_BYTES, IndexHeader, Part};
use banter_log::segment::SegmentHeader;
use banter_protocol::ids::{RoomId, RoomName};
use banter_protocol::native::Kept;

use super::erasures::{Ended, Listed};
use super::files::{draft_of, put_in_place};
use super::owner::draft_like;
use super::{index_path, segment_path};

/// Bytes that are read or written at a time; what presses more comes between two of them.
const PIECE_BYTES: usize = 1 << 20;
/// Bytes that are summed and searched at a time.
const REWRITE_BYTES: u64 = 4 << 20;
/// Pieces of a draft behind which it is synced, so that the sync at its end is short.
const PIECES_A_SYNC: usize = 8;
/// As `Limits::check` has it for `log_segment_bytes`: what is larger is no segment, and is not read into memory.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// How many times longer than its segment an index is at most.
const INDEX_PARTS_MAX: u64 = 4;

/// What was erased, by the erasure's number.
pub type Counts = BTreeMap<u64, Ended>;

/// Those erasures that a segment may hold something of, as its index says; all that may reach it where that cannot be read.
pub fn concerning<'l>(folder: &Path, segment: u64, pending: impl Iterator<Item = &'l Listed>) -> Vec<&'l Erasure> {
    let reaching = pending.filter(|listed| listed.through_segment.is_none_or(|through| segment <= through));
    let reaching = reaching.map(|listed| &listed.erasure);
    let Some(index) = IndexFile::open(folder, segment) else { return reaching.collect() };
    let mut looks: BTreeMap<RoomId, Look> = BTreeMap::new();
    let may_hold = |erasure: &&Erasure| {
        let room = erasure.room_id();
        let look = *looks.entry(room).or_insert_with(|| index.look_for(room));
        match look {
            Look::Holds(part) => part.first <= erasure.end() && erasure.first <= part.last,
            Look::HoldsNone => false,
            Look::Unknown => true,
        }
    };
    reaching.filter(may_hold).collect()
}

/// What an index says of a room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    Holds(Part),
    HoldsNone,
    Unknown,
}

/// An index that is searched where it lies.
pub(super) struct IndexFile {
    file: File,
    nonce: u64,
    pub(super) header: IndexHeader,
}

impl IndexFile {
    /// That of a segment, if both are there and belong together.
    pub(super) fn open(folder: &Path, segment: u64) -> Option<Self> {
        let mut page = vec![0; PAGE_BYTES];
        File::open(segment_path(folder, segment)).ok()?.read_exact_at(&mut page, 0).ok()?;
        let segment_header = SegmentHeader::read(&page).ok()?;
        let file = File::open(index_path(folder, segment)).ok()?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).ok()?;
        let header = IndexHeader::read(&header, &segment_header)?;
        Some(IndexFile { file, nonce: segment_header.nonce, header })
    }

    /// What it says of a room.
    pub(super) fn look_for(&self, room: RoomId) -> Look {
        let mut search = PartSearch::new(room, self.header.parts, self.nonce);
        while let Some(offset) = search.page_offset() {
            let mut page = vec![0; PAGE_BYTES];
            let Ok(read) = self.file.read_at(&mut page, offset) else { return Look::Unknown };
            page.truncate(read);
            match search.take(offset, &page) {
                Searched::Found(part) => return Look::Holds(part),
                Searched::Elsewhere => {}
                Searched::Absent => return Look::HoldsNone,
                Searched::Damaged => return Look::Unknown,
            }
        }
        Look::HoldsNone
    }
}

/// Up to where a room goes by now in the log of a folder, which may be written to meanwhile: then it is no less than it was when
/// `segments`, all that there are, were listed, the oldest first. `None`: it is not there.
///
/// # Errors
/// What the kernel says of what would have to be read.
pub fn bound_of(folder: &Path, segments: &[u64], room: &RoomName) -> io::Result<Option<Bound>> {
    let id = RoomId::of(room.as_str());
    // The newest of a room lies in the segment with the largest id.
    for &segment in segments.iter().rev() {
        let look = IndexFile::open(folder, segment).map_or(Look::Unknown, |index| index.look_for(id));
        let bound = match look {
            Look::Holds(part) => Some(Bound { epoch: part.epoch, last: part.last, newest_ms: part.newest_ms }),
            Look::HoldsNone => None,
            Look::Unknown => match newest_in(folder, segment, room.as_str()) {
                // Retention took it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                newest => newest?,
            },
        };
        if bound.is_some() {
            return Ok(bound);
        }
    }
    Ok(None)
}

/// The same of one segment, by what lies in it.
fn newest_in(folder: &Path, segment: u64, room: &str) -> io::Result<Option<Bound>> {
    let file = File::open(segment_path(folder, segment))?;
    let mut first = vec![0; PAGE_BYTES];
    // Those that were made ahead hold nothing.
    if file.read_exact_at(&mut first, PAGE_BYTES as u64).is_err() || first.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let mut bytes = read_segment(&file)?;
    let mut newest: Option<Bound> = None;
    let mut see = |kept: &Kept<'_>| {
        if kept.room() == room {
            let seen = Bound { epoch: kept.epoch(), last: kept.sequence(), newest_ms: kept.time_ms() };
            let newest_ms = newest.map_or(0, |there| there.newest_ms).max(seen.newest_ms);
            let is_newer = newest.is_none_or(|there| (seen.epoch, seen.last) > (there.epoch, there.last));
            newest = Some(Bound { newest_ms, ..if is_newer { seen } else { newest.unwrap_or(seen) } });
        }
        false
    };
    banter_log::erasure::rewrite(&mut bytes, None, &mut see).map_err(not_a_segment)?;
    Ok(newest)
}

/// A segment on its way to be rewritten.
#[derive(Debug)]
pub struct Rewriting {
    folder: PathBuf,
    segment: u64,
    erasures: Vec<Erasure>,
    /// Where its blocks end, as the index says.
    end_offset: Option<u64>,
    file: File,
    bytes: Vec<u8>,
    stage: Stage,
    /// It may have been read wrong, and would be written so: it was read once more.
    is_read_again: bool,
    counts: Counts,
    unread_bytes: u64,
    is_in_place: bool,
}

#[derive(Debug)]
enum Stage {
    /// So much was read.
    Reading(usize),
    Rewriting(Rewrite),
    /// So much was written to the draft.
    Writing(File, usize),
    /// The draft is whole; what holds nothing of it has none.
    Written(Option<File>),
}

impl Rewriting {
    /// Begins to read a segment.
    ///
    /// # Errors
    /// What the kernel says, or that it is no segment.
    pub fn begin(folder: &Path, segment: u64, erasures: Vec<Erasure>) -> io::Result<Self> {
        let file = open_segment(&segment_path(folder, segment))?;
        let end_offset = IndexFile::open(folder, segment).map(|index| index.header.end_offset);
        Ok(Rewriting {
            folder: folder.to_owned(),
            segment,
            erasures,
            end_offset,
            file,
            bytes: Vec::new(),
            stage: Stage::Reading(0),
            is_read_again: false,
            counts: Counts::new(),
            unread_bytes: 0,
            is_in_place: false,
        })
    }

    /// The segment.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// The erasures that it is done for.
    pub fn erasures(&self) -> impl Iterator<Item = u64> {
        self.erasures.iter().map(|erasure| erasure.number)
    }

    /// What is erased in it; bytes that do not check may hold some of each.
    pub fn ended(&self) -> Counts {
        let unread_bytes = self.unread_bytes;
        let messages = |number| self.counts.get(&number).map_or(0, |ended| ended.messages);
        self.erasures().map(|number| (number, Ended { messages: messages(number), unread_bytes })).collect()
    }

    /// Whether it holds something that is to go. Known behind the last step.
    pub fn is_needed(&self) -> bool {
        !self.counts.is_empty()
    }

    /// Does the next piece; `false`: it is to be finished.
    ///
    /// # Errors
    /// What the kernel says, or that it is no segment.
    pub fn step(&mut self) -> io::Result<bool> {
        match &mut self.stage {
            Stage::Reading(at) => {
                let start = *at;
                let read = read_piece(&self.file, &mut self.bytes, start)?;
                self.stage = match read {
                    0 => Stage::Rewriting(Rewrite::new(&self.bytes, self.end_offset).map_err(not_a_segment)?),
                    read => Stage::Reading(start + read),
                };
                Ok(true)
            }
            Stage::Rewriting(rewrite) => {
                let (erasures, counts) = (&self.erasures, &mut self.counts);
                let hides = |kept: &Kept<'_>| {
                    let by = erasures.iter().find(|erasure| erasure.hides(kept));
                    by.map(|erasure| counts.entry(erasure.number).or_default().messages += 1).is_some()
                };
                if !rewrite.step(&mut self.bytes, REWRITE_BYTES, hides) {
                    self.unread_bytes = rewrite.done().unread_bytes;
                    self.is_rewritten()?;
                }
                Ok(true)
            }
            Stage::Writing(draft, at) => {
                let piece = self.bytes.get(*at..).unwrap_or(&[]);
                let piece = &piece[..piece.len().min(PIECE_BYTES)];
                draft.write_all(piece)?;
                *at += piece.len();
                if (*at / PIECE_BYTES).is_multiple_of(PIECES_A_SYNC) {
                    draft.sync_data()?;
                }
                if *at >= self.bytes.len() {
                    self.stage = Stage::Written(Some(draft.try_clone()?));
                }
                Ok(true)
            }
            Stage::Written(_) => Ok(false),
        }
    }

    fn is_rewritten(&mut self) -> io::Result<()> {
        self.stage = if self.unread_bytes > 0 && !std::mem::replace(&mut self.is_read_again, true) {
            self.counts.clear();
            self.bytes.clear();
            Stage::Reading(0)
        } else if self.counts.is_empty() {
            Stage::Written(None)
        } else {
            Stage::Writing(draft_like(&segment_path(&self.folder, self.segment))?, 0)
        };
        Ok(())
    }

    /// Makes it safe, and puts it in the place of the old one, behind an index that has no key of what is gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn finish(mut self) -> io::Result<Counts> {
        while self.step()? {}
        let Stage::Written(draft) = &self.stage else { return Ok(self.ended()) };
        if let Some(draft) = draft {
            draft.sync_all()?;
        }
        // Also where no message is found: one of a damaged block may have a key.
        self.renew_index()?;
        if draft.is_some() {
            let path = segment_path(&self.folder, self.segment);
            put_in_place(&self.folder, &draft_of(&path), &path)?;
        }
        self.is_in_place = true;
        Ok(self.ended())
    }

    /// The index as it is, without keys of what is gone. One that is missing, or of which nobody can read a key, is made again by
    /// others, from what the segment is by then.
    fn renew_index(&self) -> io::Result<()> {
        let path = index_path(&self.folder, self.segment);
        let Ok(header) = SegmentHeader::read(self.bytes.get(..PAGE_BYTES).unwrap_or(&[])) else { return Ok(()) };
        let file = match fs::metadata(&path) {
            Ok(found) if found.len() <= self.bytes.len() as u64 * INDEX_PARTS_MAX => fs::read(&path)?,
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let keys: Vec<ErasedKeys<'_>> = self.erasures.iter().map(Erasure::keys).collect();
        let hides = |part: &Part, post: &_| keys.iter().any(|keys| keys.room == part.room && keys.holds(post));
        match without_keys(&file, &header, hides) {
            Some(without) if without != file => self.put_index(&path, &without),
            _ => Ok(()),
        }
    }

    fn put_index(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let written = draft_like(path).and_then(|mut draft| {
            draft.write_all(bytes)?;
            draft.sync_all()?;
            put_in_place(&self.folder, &draft_of(path), path)
        });
        if written.is_err() {
            let _ = fs::remove_file(draft_of(path));
        }
        written
    }
}

impl Drop for Rewriting {
    fn drop(&mut self) {
        if !self.is_in_place && matches!(self.stage, Stage::Writing(..) | Stage::Written(Some(_))) {
            // One that stays is swept away at the next start.
            let _ = fs::remove_file(draft_of(&segment_path(&self.folder, self.segment)));
        }
    }
}

fn open_segment(path: &Path) -> io::Result<File> {
    // Asked before it is opened: to open a pipe is to wait for its other end.
    let found = fs::metadata(path)?;
    if !found.is_file() || found.len() > SEGMENT_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no segment"));
    }
    File::open(path)
}

fn read_segment(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let at = bytes.len();
        if read_piece(file, &mut bytes, at)? == 0 {
            return Ok(bytes);
        }
    }
}

/// Reads on from there; how much, 0: that was the end.
fn read_piece(file: &File, bytes: &mut Vec<u8>, at: usize) -> io::Result<usize> {
    if at as u64 >= SEGMENT_BYTES_MAX {
        return Ok(0);
    }
    bytes.resize(at + PIECE_BYTES, 0);
    let read = file.read_at(&mut bytes[at..], at as u64);
    bytes.truncate(at + *read.as_ref().unwrap_or(&0));
    read
}

fn not_a_segment(fault: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

#[cfg(test)]
mod tests;
