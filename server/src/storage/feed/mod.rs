//! The log as a stream: every committed message of all cores, read from the files by who is no core.
//!
//! ```text
//!  cores ─LogPlaces (how far each is committed)─▶ reader ◀─pread─ segments, page cache
//!                                                   │ ◀─ erasures (what is told to nobody)
//!                                                   ▼ lines of JSON, each with the cursor behind it
//! ```
//!
//! Invariants:
//! - Nothing is told that did not reach its room's level: of a segment that is written only what its core says, of a sealed one what
//!   its index or the start says, and of a last block that nothing proves only what the index knows.
//! - What is to be erased is looked up behind each read, in the whole list: so no file that was opened before it was rewritten
//!   tells it.
//! - What cannot be told any more, since it was dropped or is damaged, is a line of its own. What cannot be read now is read again,
//!   and keeps nobody waiting but who has to come behind it.
//! - A step reads [`PIECE_BYTES`] or one block, and tells not much more than that, so that what a feed holds is bounded; no file is open between two of them.

mod cursor;
mod position;
mod reader;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use banter_log::PAGE_BYTES;
use banter_log::journal::LogPlaces;
use banter_log::segment::{SegmentHeader, id_of_file};
use banter_protocol::native::Kept;

use super::erasures::{ErasureFile, List};
use super::keeper::KeeperState;
use super::recovery::KnownSegment;
use super::segment_path;
use super::slots::FileIdentity;
use crate::core::rare_line::RareLine;

pub use cursor::{Cursor, CursorFault};
pub use position::Dropped;
pub use reader::{FeedReader, OpenFault, Origin, PIECE_BYTES, READ_RETRY, Stepped};

use position::{Chart, Charted};

/// Damaged places that the server remembers to have logged.
const DAMAGES_MAX: usize = 1_024;

/// How far each core's log is committed.
pub type Frontier = Arc<Vec<Arc<LogPlaces>>>;

/// What of the log all feeds share.
#[derive(Debug)]
pub struct FeedLog {
    folder: PathBuf,
    id: u64,
    run: u64,
    /// What tells of drops, as this server found it.
    drops_at_start: u64,
    keeper: Arc<KeeperState>,
    erasures: ErasureFile,
    hidden: Mutex<Option<Arc<Hidden>>>,
    /// As it was found last, so that headers are read once.
    chart: Mutex<Arc<Chart>>,
    /// The newest segment that the start found: what this run writes lies behind it.
    newest_at_start: u64,
    unread_line: Mutex<RareLine>,
    /// Segments and offsets that the log calls damaged.
    damages: Mutex<BTreeSet<(u64, u64)>>,
}

/// What a log is, to who reads it as a stream.
pub struct FeedLogParts<'a> {
    /// Its folder.
    pub folder: &'a Path,
    /// Its ledger's file, which a copy of the folder does not have.
    pub identity: FileIdentity,
    /// This start's number.
    pub run: u64,
    /// The epoch that rooms without messages go by at this start: it is raised before anything is dropped.
    pub blank: u64,
    /// What the start found.
    pub segments: &'a [KnownSegment],
    /// What the keeper tells.
    pub keeper: Arc<KeeperState>,
}

/// Which messages are told to nobody.
#[derive(Debug, Default)]
struct Hidden {
    list: Arc<List>,
    /// Numbers of erasures, by the room's name.
    rooms: HashMap<Box<str>, Vec<u64>>,
}

impl Hidden {
    fn of(list: Arc<List>) -> Self {
        let mut rooms: HashMap<Box<str>, Vec<u64>> = HashMap::new();
        for listed in list.all() {
            rooms.entry(listed.erasure.room.as_str().into()).or_default().push(listed.erasure.number);
        }
        Hidden { list, rooms }
    }

    /// What is told of it: also of what is done, since it may have been read from the file as it was before.
    fn shown<'k>(&self, kept: Kept<'k>) -> Kept<'k> {
        let numbers = self.rooms.get(kept.room()).map_or(&[][..], Vec::as_slice);
        let mut erasures = numbers.iter().filter_map(|&number| self.list.get(number));
        if erasures.any(|listed| listed.erasure.hides(&kept)) {
            return Kept::Erased { room: kept.room(), epoch: kept.epoch(), sequence: kept.sequence() };
        }
        kept
    }
}

impl FeedLog {
    /// Of that log.
    pub fn new(parts: FeedLogParts<'_>) -> Self {
        let FeedLogParts { folder, identity, run, blank, segments, keeper } = parts;
        let charted = |known: &KnownSegment| Charted { header: known.header, end_offset: Some(known.end_offset) };
        let segments: BTreeMap<_, _> = segments.iter().map(|known| (known.header.id, charted(known))).collect();
        let newest_at_start = segments.last_key_value().map_or(0, |(&id, _)| id);
        let chart = Chart { segments, unread: BTreeSet::new() };
        FeedLog {
            folder: folder.to_owned(),
            id: id_of(identity),
            run,
            drops_at_start: blank,
            keeper,
            erasures: ErasureFile::of(folder, identity),
            hidden: Mutex::default(),
            chart: Mutex::new(chart.into()),
            newest_at_start,
            unread_line: Mutex::default(),
            damages: Mutex::default(),
        }
    }

    fn drops(&self) -> u64 {
        self.keeper.blank.load(Ordering::Acquire).max(self.drops_at_start)
    }

    /// Looks which segments there are. Only of those that came the headers are read.
    fn look(&self) -> io::Result<Arc<Chart>> {
        self.look_through(|| {
            let names = fs::read_dir(&self.folder)?.map(|entry| Ok(id_of_file(&entry?.file_name().to_string_lossy())));
            names.filter_map(io::Result::transpose).collect()
        })
    }

    /// As [`FeedLog::look`], with what lists the folder. A file that another is renamed over meanwhile may be in no list at all.
    fn look_through(&self, list: impl Fn() -> io::Result<BTreeSet<u64>>) -> io::Result<Arc<Chart>> {
        let mut last = locked(&self.chart);
        let mut ids = list()?;
        if ids.iter().any(|id| !last.segments.contains_key(id)) {
            // One that came and is not listed would be passed by for one behind it that is.
            ids.extend(list()?);
        }
        let is_still_there = |id: &u64| segment_path(&self.folder, *id).try_exists().unwrap_or(true);
        let unlisted: Vec<u64> = last.segments.keys().filter(|&id| !ids.contains(id)).copied().collect();
        ids.extend(unlisted.into_iter().filter(is_still_there));
        let mut chart = Chart::default();
        for id in ids {
            let known = last.segments.get(&id).copied();
            match known.map_or_else(|| self.read_header(id), |known| Ok(Some(known))) {
                Ok(charted) => chart.segments.extend(charted.map(|charted| (id, charted))),
                // It was dropped meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    self.warn_unread(id, &error);
                    // Of another run the start knew all there are.
                    chart.unread.extend(Some(id).filter(|&id| id > self.newest_at_start));
                }
            }
        }
        locked(&self.damages).retain(|(segment, _)| chart.segments.contains_key(segment));
        *last = Arc::new(chart);
        Ok(last.clone())
    }

    fn warn_unread(&self, segment: u64, error: &io::Error) {
        if let Some(untold) = locked(&self.unread_line).due(Instant::now()) {
            tracing::warn!(
                segment,
                %error,
                untold,
                "a segment's first page cannot be read for feeds: it is tried again, and what may come behind it waits"
            );
        }
    }

    /// Whether that place was not called damaged before; none is any more once [`DAMAGES_MAX`] were.
    fn is_new_damage(&self, segment: u64, offset: u64) -> bool {
        let mut damages = locked(&self.damages);
        damages.len() < DAMAGES_MAX && damages.insert((segment, offset))
    }

    /// None where somebody put something else there.
    fn read_header(&self, id: u64) -> io::Result<Option<Charted>> {
        let mut page = vec![0; PAGE_BYTES];
        match File::open(segment_path(&self.folder, id))?.read_exact_at(&mut page, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let header = SegmentHeader::read(&page).ok().filter(|header| header.id == id);
        // Of another run the start knew all there are.
        let header = header.filter(|header| header.run == self.run);
        Ok(header.map(|header| Charted { header, end_offset: None }))
    }

    /// What is told to nobody from now on.
    fn hidden(&self) -> io::Result<Arc<Hidden>> {
        let list = self.erasures.read()?;
        let mut hidden = locked(&self.hidden);
        match hidden.as_ref().filter(|known| Arc::ptr_eq(&known.list, &list)) {
            Some(known) => Ok(known.clone()),
            None => Ok(hidden.insert(Arc::new(Hidden::of(list))).clone()),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A short form of which log it is. A copy has another.
fn id_of(FileIdentity { inode, born_ns }: FileIdentity) -> u64 {
    let hash = blake3::hash(&[inode.to_le_bytes(), born_ns.to_le_bytes()].concat());
    hash.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests;
