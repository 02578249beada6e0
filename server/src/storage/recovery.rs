//! Reads the log's folder at start: what every sealed segment holds is in its index; a segment without one was being
//! written when the server ended, and is walked, sealed, and written to no more.
//!
//! The time it takes is that of the segments without an index, and of the others' tables. A later run may have another
//! number of cores: each is given what it needs of every segment.

mod ahead;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banter_chat::address::core_of;
use banter_chat::clock::LogClock;
use banter_log::PAGE_BYTES;
use banter_log::catalog::{Break, Catalog};
use banter_log::index::{self, IndexTable, Part};
use banter_log::scan::Ending;
use banter_log::segment::{SegmentFault, SegmentHeader, id_of_file};
use banter_protocol::ids::Epoch;

pub use ahead::index_of;
use ahead::{Walked, WalkedById, walk, walk_all};

use super::files::{DRAFT_SUFFIX, remove_segment, write_index};
use super::ledger::{Ledger, this_boot};
use super::{index_path, segment_path};

/// How often a long recovery says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// How a folder is opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The log's folder.
    pub folder: &'a Path,
    /// How many cores there are now.
    pub cores: u16,
    /// This start's number, above all earlier ones.
    pub run: u64,
    /// The epoch of histories that turn out to be broken.
    pub break_epoch: Epoch,
    /// Go on over damage.
    pub accept_corruption: bool,
}

/// What was found.
#[derive(Debug)]
pub struct Recovered {
    /// What each core needs to know.
    pub catalogs: Vec<Catalog>,
    /// Every segment, by id.
    pub segments: Vec<KnownSegment>,
    /// The ledger of this run, already in the folder.
    pub ledger: Ledger,
    /// Segments that had to be walked, and their bytes.
    pub walked: (usize, u64),
}

impl Recovered {
    /// Begins the run: puts every core on one clock, which starts behind the largest time of the whole log, whatever the
    /// wall clock says. Says where, in milliseconds since 1970.
    pub fn begin(&mut self, unix_ms: u64) -> u64 {
        let newest_ms = self.catalogs.iter().filter_map(|catalog| catalog.runs().newest_ms()).max();
        let start_ms = LogClock::start_behind(newest_ms, unix_ms);
        self.catalogs.iter_mut().for_each(|catalog| catalog.begin(start_ms));
        start_ms
    }
}

/// A sealed segment.
#[derive(Clone, Debug)]
pub struct KnownSegment {
    /// Its header.
    pub header: SegmentHeader,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Where its blocks end.
    pub end_offset: u64,
    /// The time of its newest message, milliseconds since 1970.
    pub newest_ms: u64,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryFault {
    /// A call failed.
    #[error("{doing} {path}: {error}\n  to mend it: see whether the disk and its mount are well (`dmesg`, `df -h`)", path = .path.display())]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// Nothing can be opened past the page cache.
    #[error(
        "the file system of {path} has no direct I/O, which the log is written with: {error}\n  to mend it: put the data \
         folder on another one (ext4, XFS and Btrfs have it) with --data DIR, or keep no log with --durability memory", path = .path.display()
    )]
    NoDirect {
        /// The log's folder.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// A file that is named like a segment is none.
    #[error("{path}: {fault}\n  to mend it: {fix}", path = .path.display(), fix = foreign_fix(.fault))]
    NoSegment {
        /// The file.
        path: PathBuf,
        /// Why it is none.
        fault: SegmentFault,
    },
    /// Damage ahead of whole blocks, or a segment that is shorter than it was.
    #[error(
        "{path} is damaged at offset {offset}: {what}\n  to mend it: restore the folder from a copy, or start once with \
         --accept-corruption, which keeps the file, gives up {lost}, and begins new epochs, so that no client takes a \
         history with a hole for a whole one. `banter log check` shows all of it", path = .path.display()
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where it is damaged.
        offset: u64,
        /// How it shows.
        what: String,
        /// What starting over it gives up.
        lost: String,
    },
}

fn foreign_fix(fault: &SegmentFault) -> &'static str {
    match fault {
        SegmentFault::Version(_) => {
            "start the Banter that wrote it, or give this one a folder of its own with --data DIR"
        }
        SegmentFault::Magic | SegmentFault::Short => {
            "move the file away if it is not Banter's. If it was, it is damaged: restore it from a copy, or start once \
             with --accept-corruption"
        }
        SegmentFault::Sum => "restore it from a copy, or start once with --accept-corruption, which puts it aside",
    }
}

fn disk<'p>(doing: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> RecoveryFault + 'p {
    move |error| RecoveryFault::Disk { doing, path: path.to_owned(), error }
}

/// Reads the folder, seals what was being written, and opens the ledger of this run.
///
/// # Errors
/// When the disk fails, or holds what is no log of this server or damaged.
pub fn recover(opening: &Opening<'_>) -> Result<Recovered, RecoveryFault> {
    let folder = opening.folder;
    make_folder(folder).map_err(disk("making the log's folder", folder))?;
    let ledger = Ledger::read(folder).map_err(disk("reading the ledger of", folder))?;
    let mut walk = Walk {
        opening,
        paths: Vec::new(),
        found: Vec::new(),
        walked: (0, 0),
        ahead: WalkedById::new(),
        dropped: false,
        began: Instant::now(),
        told: Instant::now(),
    };
    walk.list()?;
    walk.walk_unsealed();
    for at in 0..walk.paths.len() {
        walk.take(at)?;
    }
    walk.finish(ledger.unwrap_or_default())
}

/// Makes the log's folder, and has the folders above it remember it: without that a power cut in the first run takes all.
fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for above in folder.ancestors().skip(1).take(2) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match File::open(above).and_then(|above| above.sync_all()) {
            // The folder around the data folder may be another user's; what could be known of it is.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

struct Walk<'a> {
    opening: &'a Opening<'a>,
    paths: Vec<(u64, PathBuf)>,
    found: Vec<(KnownSegment, Vec<Part>)>,
    walked: (usize, u64),
    /// Segments without an index, already walked.
    ahead: WalkedById,
    /// Something was given up, as was accepted.
    dropped: bool,
    began: Instant,
    told: Instant,
}

impl Walk<'_> {
    /// The segments by id. Files that were not finished go.
    fn list(&mut self) -> Result<(), RecoveryFault> {
        let folder = self.opening.folder;
        let fault = || disk("listing", folder);
        for entry in fs::read_dir(folder).map_err(fault())? {
            let path = entry.map_err(fault())?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if let Some(id) = id_of_file(name) {
                self.paths.push((id, path));
            } else if name.ends_with(DRAFT_SUFFIX) {
                fs::remove_file(&path).map_err(disk("removing the draft", &path))?;
            }
        }
        self.paths.sort_unstable();
        Ok(())
    }

    /// Walks what has no index, ahead of its turn. Whatever is wrong with a segment is told in its turn.
    fn walk_unsealed(&mut self) {
        let is_unsealed = |(id, path): &&(u64, PathBuf)| {
            let header = File::open(path).ok().and_then(|file| read_header(&file).ok());
            header.is_some_and(|header| read_table(&index_path(self.opening.folder, *id), &header).is_none())
        };
        let unsealed: Vec<_> = self.paths.iter().filter(is_unsealed).cloned().collect();
        if !unsealed.is_empty() {
            tracing::info!("reading the log: {} segments were not sealed, and are read through", unsealed.len());
            self.ahead = walk_all(&unsealed);
        }
    }

    fn take(&mut self, at: usize) -> Result<(), RecoveryFault> {
        let (id, path) = self.paths[at].clone();
        self.tell_progress(at);
        let file = File::open(&path).map_err(disk("opening", &path))?;
        let file_bytes = file.metadata().map_err(disk("reading", &path))?.len();
        let header = match read_header(&file) {
            Ok(header) if header.id == id => header,
            Ok(_) => return self.no_segment(path, SegmentFault::Sum),
            Err(fault) => return self.no_segment(path, fault),
        };
        let table = read_table(&index_path(self.opening.folder, id), &header);
        let was_sealed = table.is_some();
        if let Some(IndexTable { end_offset, newest_ms, parts }) = table {
            if end_offset <= file_bytes {
                self.found.push((KnownSegment { header, file_bytes, end_offset, newest_ms }, parts));
                return Ok(());
            }
            // Once accepted, what is left of it makes an index that the next start finds right.
            self.accept(RecoveryFault::Corrupt {
                path: path.clone(),
                offset: file_bytes,
                what: format!("it has {file_bytes} bytes, and its blocks ended at {end_offset}"),
                lost: "what lay behind that".to_owned(),
            })?;
        }
        let walked = self.ahead.remove(&id).unwrap_or_else(|| walk(&path, &mut Vec::new()));
        let walked = walked.map_err(disk("reading", &path))?;
        self.walk_segment(path, header, walked, was_sealed)
    }

    fn tell_progress(&mut self, at: usize) {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            tracing::info!("reading the log: {at} of {} segments", self.paths.len());
        }
    }

    /// Damage: the end of it, unless the person who starts the server has accepted it.
    fn accept(&mut self, fault: RecoveryFault) -> Result<(), RecoveryFault> {
        if !self.opening.accept_corruption {
            return Err(fault);
        }
        tracing::warn!("going on over damage, as was accepted: {fault}");
        self.dropped = true;
        Ok(())
    }

    fn no_segment(&mut self, path: PathBuf, fault: SegmentFault) -> Result<(), RecoveryFault> {
        let is_later = matches!(fault, SegmentFault::Version(_));
        let fault = RecoveryFault::NoSegment { path: path.clone(), fault };
        if is_later {
            return Err(fault);
        }
        self.accept(fault)?;
        let mut aside = path.clone().into_os_string();
        aside.push(".damaged");
        fs::rename(&path, &aside).map_err(disk("putting aside", &path))
    }

    /// A segment without an index: its records make one, up to where it ends.
    fn walk_segment(
        &mut self,
        path: PathBuf,
        header: SegmentHeader,
        walked: Walked,
        was_sealed: bool,
    ) -> Result<(), RecoveryFault> {
        let folder = self.opening.folder;
        let Walked { file_bytes, found } = walked;
        self.walked = (self.walked.0 + 1, self.walked.1 + file_bytes);
        let (index, ending) = found.map_err(|fault| RecoveryFault::NoSegment { path: path.clone(), fault })?;
        let end_offset = match ending {
            Ending::Clean { offset } => offset,
            Ending::Torn { offset, bytes } => {
                tracing::warn!(
                    "{}: cut {bytes} bytes at offset {offset}, the remains of a commit that did not finish: nobody was \
                     told of it",
                    path.display()
                );
                offset
            }
            Ending::Corrupt { offset, later } => {
                self.accept(RecoveryFault::Corrupt {
                    path: path.clone(),
                    offset,
                    what: format!("a block does not check, and a later one at {later} does"),
                    lost: "the messages behind that in this file".to_owned(),
                })?;
                offset
            }
        };
        let is_damaged = was_sealed || matches!(ending, Ending::Corrupt { .. });
        if index.parts().next().is_none() && !is_damaged {
            remove_segment(folder, header.id);
            return Ok(());
        }
        // The padding of the last block may be missing; the next start must not take that for damage.
        let end_offset = end_offset.min(file_bytes);
        let (index_bytes, parts) = index.encode(&header, end_offset);
        write_index(folder, header.id, &index_bytes).map_err(disk("sealing", &path))?;
        let newest_ms = index.newest_ms();
        self.found.push((KnownSegment { header, file_bytes, end_offset, newest_ms }, parts));
        Ok(())
    }

    /// What each core needs of each segment. A room whose messages do not follow each other lacks a segment.
    fn catalogs(&mut self, ledger: &mut Ledger) -> Result<Vec<Catalog>, RecoveryFault> {
        let Opening { folder, cores, .. } = *self.opening;
        let mut catalogs: Vec<Catalog> = (0..cores).map(|_| Catalog::default()).collect();
        let mut holes = Vec::new();
        for (segment, parts) in &self.found {
            for part in parts {
                let catalog = &mut catalogs[core_of(part.room, cores).index()];
                holes.extend(catalog.add_part(&segment.header, part, ledger.past()));
            }
        }
        let Some(first) = holes.first() else { return Ok(catalogs) };
        self.accept(RecoveryFault::Corrupt {
            path: segment_path(folder, first.behind),
            offset: 0,
            what: format!(
                "behind it, messages of {} rooms are missing (of one of them {} to {}): a segment is gone, or the folder \
                 is a copy that was not made by `banter log backup`",
                holes.len(),
                first.from.0,
                first.to.0
            ),
            lost: "what these rooms have before that".to_owned(),
        })?;
        self.dropped = false;
        ledger.breaks.push(self.break_of_all());
        self.catalogs(ledger)
    }

    fn break_of_all(&self) -> Break {
        Break { run: self.opening.run.saturating_sub(1), epoch: self.opening.break_epoch, every_level: true }
    }

    fn finish(mut self, mut ledger: Ledger) -> Result<Recovered, RecoveryFault> {
        let Opening { folder, run, break_epoch, .. } = *self.opening;
        let runs = || self.found.iter().map(|(segment, _)| segment.header.run);
        if let Some(found) = ledger.begin(run, &this_boot(), break_epoch, runs().max()) {
            tracing::warn!(
                "the machine went down under run {}: rooms whose durability is `written` go on under a new epoch",
                found.run
            );
        }
        if self.dropped {
            ledger.breaks.push(self.break_of_all());
        }
        let oldest_id = self.found.first().map_or(u64::MAX, |(segment, _)| segment.header.id);
        ledger.prune(runs().min().unwrap_or(u64::MAX), oldest_id);
        let mut catalogs = self.catalogs(&mut ledger)?;
        // What lies before a hole is out of reach, and stays for those who may mend it, until retention takes it.
        catalogs.iter_mut().for_each(|catalog| drop(catalog.take_released()));
        ledger.write(folder).map_err(disk("writing the ledger of", folder))?;
        let (rooms, segments) = (catalogs.iter().map(Catalog::len).sum::<usize>(), self.found.len());
        tracing::info!(
            "the log holds {rooms} rooms in {segments} segments; {} of them ({} MB) were read through, in {:.2} s",
            self.walked.0,
            self.walked.1 / 1_000_000,
            self.began.elapsed().as_secs_f64()
        );
        let segments = self.found.into_iter().map(|(segment, _)| segment).collect();
        Ok(Recovered { catalogs, segments, ledger, walked: self.walked })
    }
}

fn read_header(file: &File) -> Result<SegmentHeader, SegmentFault> {
    let mut page = vec![0; PAGE_BYTES];
    match file.read_exact_at(&mut page, 0) {
        Ok(()) => SegmentHeader::read(&page),
        Err(_) => Err(SegmentFault::Short),
    }
}

/// The table of a segment's index; `None` if there is none, or not of this segment.
fn read_table(path: &Path, header: &SegmentHeader) -> Option<IndexTable> {
    let file = File::open(path).ok()?;
    let mut bytes = vec![0; index::HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let needed = IndexTable::bytes_needed(&bytes, header)?;
    let file_bytes = file.metadata().ok()?.len();
    // A header that promises more than the file has is none; checked before anything is allocated.
    if needed as u64 > file_bytes {
        return None;
    }
    bytes.resize(needed, 0);
    file.read_exact_at(&mut bytes, 0).ok()?;
    // Nor is one whose marks and keys are cut off: its readers would be told of a loss that is none.
    let is_there = |part: &Part| part.details.offset + part.details.bytes() as u64 <= file_bytes;
    IndexTable::read(&bytes, header).filter(|table| table.parts.iter().all(is_there))
}

#[cfg(test)]
mod tests;
