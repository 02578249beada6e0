//! Reads the log's folder at start: what every sealed segment holds is in its index; a segment without one was being
//! written when the server ended, and is walked, sealed, and written to no more.
//!
//! ```text
//!  folder: headers, tables ─▶ sealing: walk what has no index ─▶ the run's number, above all that was seen
//!                                          ─▶ directory: a catalog for each core ─▶ ledger
//! ```
//!
//! The time it takes is that of the segments without an index, and of the others' tables. A later run may have another
//! number of cores: each is given what it needs of every segment.

mod directory;
mod fault;
mod folder;
mod hands;
mod sealing;
mod walk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use banter_chat::address::core_of;
use banter_chat::clock::LogClock;
use banter_log::catalog::{Catalog, Epochs};
use banter_log::index::IndexBuilder;
use banter_log::segment::{SegmentFault, SegmentHeader};

pub use fault::RecoveryFault;
pub use walk::index_of;

use directory::Unwritten;
use fault::disk;
use folder::{Inspected, inspect, list, look, make_folder};
use hands::{Disk, Hands};
use sealing::{Sealing, Tally, Unsealed, Walked, seal_all};
use walk::End;

use super::checkpoint::Checkpoint;
use super::erasures::ErasureFile;
use super::files::{put_aside, remove_segment};
use super::ledger::{self, Blank, Ledger, LedgerFile, Start, this_boot};
use super::segment_path;
use super::slots::{FileIdentity, SlotsFault};
use crate::host::HostFault;

/// How a folder is opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The log's folder.
    pub folder: &'a Path,
    /// How many cores there are now.
    pub cores: u16,
    /// Which rooms have which durability, as a hash.
    pub levels_hash: u64,
    /// Go on over damage.
    pub accept_corruption: bool,
}

/// Takes the run's number, which is above the given one, and keeps that it is taken.
pub type TakeRun<'a> = dyn FnMut(u64) -> Result<u64, HostFault> + 'a;

/// What was found.
#[derive(Debug)]
pub struct Recovered {
    /// This run's number. Histories that turned out to be broken go on under the epoch of that number.
    pub run: u64,
    /// What each core needs to know.
    pub catalogs: Vec<Catalog>,
    /// Every segment, by id.
    pub segments: Vec<KnownSegment>,
    /// The ledger of this run, already in the folder.
    pub ledger: LedgerFile,
    /// Indexes that are in memory alone, since there is no space for them.
    pub unwritten: BTreeMap<u64, Arc<IndexBuilder>>,
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
    /// Rooms in it.
    pub parts: u32,
    /// Whether its index says what they have before it.
    pub is_chained: bool,
}

/// Reads the folder, seals what was being written, and opens the ledger of this run.
///
/// # Errors
/// When the disk fails, or holds what is no log of this server or damaged.
pub fn recover(opening: &Opening<'_>, take_run: &mut TakeRun<'_>) -> Result<Recovered, RecoveryFault> {
    recover_with(opening, take_run, &Disk, &Tally::default())
}

/// The largest number that a log's folder shows, for a start that makes no use of the log.
pub fn largest_number(folder: &Path) -> u64 {
    let of_ledger = LedgerFile::open(folder).map_or(0, |found| found.ledger().largest());
    folder::largest_number(folder, &Disk).max(of_ledger)
}

fn recover_with(
    opening: &Opening<'_>,
    take_run: &mut TakeRun<'_>,
    hands: &dyn Hands,
    tally: &Tally,
) -> Result<Recovered, RecoveryFault> {
    let folder = opening.folder;
    make_folder(folder).map_err(disk("making the log's folder", folder))?;
    let found = open_ledger(folder)?;
    let ledger = found.ledger();
    let mut recovery = Recovery {
        opening,
        hands,
        found: Vec::new(),
        unwritten: Unwritten::new(),
        unsealed: Vec::new(),
        checkpoint: None,
        walked: (0, 0),
        largest: ledger.largest(),
        newest_run: None,
        dropped: false,
        began: Instant::now(),
    };
    let segments = list(folder)?;
    recovery.miss_newest(&segments, &ledger)?;
    let mut covered = recovery.covered(&segments);
    for segment in &segments {
        match covered.remove(&segment.0) {
            Some(known) => {
                let run = known.header.run;
                recovery.add(known, run);
            }
            None => recovery.inspect(segment)?,
        }
    }
    recovery.seal(tally, found.unlost_run(this_boot()))?;
    let run = take_run(recovery.largest)?;
    recovery.finish(run, found, ledger)
}

fn open_ledger(folder: &Path) -> Result<ledger::Found, RecoveryFault> {
    LedgerFile::open(folder).map_err(|fault| match fault {
        SlotsFault::Disk(error) => disk("opening the ledger of", folder)(error),
        later @ SlotsFault::Later { .. } => RecoveryFault::Ledger { path: folder.to_owned(), fault: later.to_string() },
    })
}

/// A folder that is being read.
struct Recovery<'a> {
    opening: &'a Opening<'a>,
    hands: &'a dyn Hands,
    found: Vec<KnownSegment>,
    unwritten: Unwritten,
    unsealed: Vec<Unsealed>,
    /// What need not be read of the tables.
    checkpoint: Option<Checkpoint>,
    walked: (usize, u64),
    /// The largest number that was seen.
    largest: u64,
    newest_run: Option<u64>,
    /// Something was given up, as was accepted.
    dropped: bool,
    began: Instant,
}

impl Recovery<'_> {
    /// The segments that the folder's checkpoint covers, if all of them are as they were. One that says what is not so goes,
    /// and so does one beside damage that is accepted.
    fn covered(&mut self, segments: &[(u64, PathBuf)]) -> BTreeMap<u64, KnownSegment> {
        let folder = self.opening.folder;
        let found = Checkpoint::open(folder).filter(|_| !self.opening.accept_corruption);
        let found = found.filter(|it| it.is_of(|id| segments.binary_search_by_key(&id, |(id, _)| *id).is_ok()));
        let known = found.as_ref().and_then(|checkpoint| {
            let covered = checkpoint.head().covered.iter().filter_map(|covered| {
                let at = segments.binary_search_by_key(&covered.id, |(id, _)| *id).ok()?;
                Some((covered, segments.get(at)?))
            });
            covered.map(|(covered, segment)| Some((covered.id, look(folder, segment, covered, self.hands)?))).collect()
        });
        let Some(known) = known else {
            Checkpoint::remove(folder);
            return BTreeMap::new();
        };
        self.largest = self.largest.max(found.as_ref().map_or(0, |checkpoint| checkpoint.head().largest_epoch));
        self.checkpoint = found;
        known
    }

    fn inspect(&mut self, segment: &(u64, PathBuf)) -> Result<(), RecoveryFault> {
        let path = &segment.1;
        match inspect(self.opening.folder, segment, self.hands)? {
            Inspected::Sealed(known, largest) => self.add(known, largest),
            Inspected::Unsealed(unsealed) => self.unsealed.push(unsealed),
            Inspected::Shorter(unsealed) => {
                // Once accepted, what is left of it makes an index that the next start finds right.
                let (there, made) = (unsealed.file_bytes, unsealed.header.file_bytes);
                self.accept(RecoveryFault::Corrupt {
                    path: path.clone(),
                    offset: there,
                    what: format!("it has {there} bytes, and was made with {made}"),
                    lost: "what lay behind that".to_owned(),
                })?;
                self.unsealed.push(unsealed);
            }
            Inspected::NoSegment(fault) => return self.no_segment(path, fault),
            Inspected::Unreadable(error) => {
                self.accept(RecoveryFault::Corrupt {
                    path: path.clone(),
                    offset: 0,
                    what: format!("its header cannot be read: {error}"),
                    lost: "all that is in it".to_owned(),
                })?;
                put_aside(path).map_err(disk("putting aside", path))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, known: KnownSegment, largest: u64) {
        self.saw(&known.header, largest);
        self.found.push(known);
    }

    fn saw(&mut self, header: &SegmentHeader, largest: u64) {
        self.largest = self.largest.max(largest);
        self.newest_run = self.newest_run.max(Some(header.run));
    }

    fn no_segment(&mut self, path: &Path, fault: SegmentFault) -> Result<(), RecoveryFault> {
        let is_of_another = matches!(fault, SegmentFault::Version(_));
        let fault = RecoveryFault::NoSegment { path: path.to_owned(), fault };
        if is_of_another {
            return Err(fault);
        }
        self.accept(fault)?;
        put_aside(path).map(drop).map_err(disk("putting aside", path))
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

    /// Nothing goes between two runs: what the ledger saw at the end of the last one is there, or was lost. No later part
    /// would name it.
    fn miss_newest(&mut self, segments: &[(u64, PathBuf)], ledger: &Ledger) -> Result<(), RecoveryFault> {
        let newest = ledger.newest_segment;
        if newest == 0 || segments.iter().any(|(id, _)| *id == newest) {
            return Ok(());
        }
        self.accept(RecoveryFault::Corrupt {
            path: segment_path(self.opening.folder, newest),
            offset: 0,
            what: "it is gone, and was there when the server stopped".to_owned(),
            lost: "its messages".to_owned(),
        })
    }

    /// Walks what has no index. What is wrong with a segment is told in the order of their ids.
    fn seal(&mut self, tally: &Tally, unlost_run: Option<u64>) -> Result<(), RecoveryFault> {
        let unsealed = std::mem::take(&mut self.unsealed);
        if unsealed.is_empty() {
            return Ok(());
        }
        tracing::info!("reading the log: {} segments were not sealed, and are read through", unsealed.len());
        let &Opening { folder, accept_corruption, .. } = self.opening;
        let walked = seal_all(&Sealing { folder, accept_corruption, unlost_run, hands: self.hands, tally }, &unsealed)?;
        let lacking = walked.iter().filter(|walked| walked.unwritten.is_some()).count();
        if lacking > 0 {
            tracing::warn!(
                "there is no space for the indexes of {lacking} segments: they stay in memory until there is; free some \
                 space (`df -h {}`)",
                folder.display()
            );
        }
        walked.into_iter().try_for_each(|walked| self.take_walked(walked))?;
        self.found.sort_unstable_by_key(|known| known.header.id);
        Ok(())
    }

    fn take_walked(&mut self, walked: Walked) -> Result<(), RecoveryFault> {
        let is_empty = walked.is_empty();
        let Walked { unsealed: Unsealed { header, path, file_bytes, .. }, end, sealed, unwritten } = walked;
        self.walked = (self.walked.0 + 1, self.walked.1 + file_bytes);
        self.judge(&path, end)?;
        let Some((known, largest)) = sealed else { return Ok(()) };
        self.unwritten.extend(unwritten.map(|index| (header.id, Arc::new(index))));
        if is_empty {
            // Zeros, and proofs perhaps. What is torn stays as long as its class does: nobody knows what it was.
            self.saw(&header, largest);
            remove_segment(self.opening.folder, header.id);
        } else {
            self.add(known, largest);
        }
        Ok(())
    }

    fn judge(&mut self, path: &Path, end: End) -> Result<(), RecoveryFault> {
        match end {
            End::Clean { .. } => Ok(()),
            End::Torn { offset, bytes } => {
                let told = if self.dropped {
                    "in a file that was damaged, it may have been acknowledged"
                } else {
                    "nobody was told of it in rooms that are `synced`"
                };
                tracing::warn!(
                    "{}: cut {bytes} bytes at offset {offset}, what is left of a commit that did not finish: {told}",
                    path.display()
                );
                Ok(())
            }
            End::Damaged { offset, what } => self.accept(RecoveryFault::Corrupt {
                path: path.to_owned(),
                offset,
                what,
                lost: "the messages behind that in this file, and all that is before them of rooms that go on in a later file"
                    .to_owned(),
            }),
        }
    }

    /// What each core needs of each segment. A room whose messages do not follow each other lacks a segment.
    fn catalogs(&mut self, run: u64, ledger: &mut Ledger) -> Result<Vec<Catalog>, RecoveryFault> {
        let Opening { folder, cores, .. } = *self.opening;
        let of_checkpoint = self.checkpoint.as_ref();
        let (catalogs, holes) =
            directory::catalogs(folder, &mut self.found, &mut self.unwritten, cores, ledger, of_checkpoint)?;
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
        ledger.break_all(run);
        Ok(directory::catalogs(folder, &mut self.found, &mut self.unwritten, cores, ledger, None)?.0)
    }

    fn finish(mut self, run: u64, found: ledger::Found, mut ledger: Ledger) -> Result<Recovered, RecoveryFault> {
        let Opening { folder, levels_hash, .. } = *self.opening;
        let identity = found.identity().map_err(disk("reading the ledger of", folder))?;
        let start = Start { run, boot: this_boot(), levels_hash, newest_run: self.newest_run, identity };
        if let Some(doubt) = ledger.begin(&start) {
            tracing::warn!("{doubt}");
        }
        if self.dropped {
            ledger.break_all(run);
        }
        let mut catalogs = self.catalogs(run, &mut ledger)?;
        let Blank { synced: blank_synced, written: blank_written } = ledger.blank();
        let (lowered, dropped) = (ledger.levels.epoch, ledger.dropped);
        let epochs = Epochs { blank_synced, blank_written, lowered, dropped };
        catalogs.iter_mut().for_each(|catalog| catalog.set_epochs(epochs));
        let ledger = found.write(folder, ledger).map_err(disk("writing the ledger of", folder))?;
        hide_erased(folder, ledger.ledger().identity, &mut catalogs)?;
        let rooms = catalogs.iter().map(Catalog::len).sum::<usize>();
        tracing::info!(
            "the log holds {rooms} rooms in {} segments; {} of them ({} MB) were read through, in {:.2} s",
            self.found.len(),
            self.walked.0,
            self.walked.1 / 1_000_000,
            self.began.elapsed().as_secs_f64()
        );
        let Recovery { found: segments, unwritten, walked, .. } = self;
        Ok(Recovered { run, catalogs, segments, ledger, unwritten, walked })
    }
}

/// What is to be erased and is in the log still is shown to nobody from the start on.
fn hide_erased(folder: &Path, identity: FileIdentity, catalogs: &mut [Catalog]) -> Result<(), RecoveryFault> {
    let file = ErasureFile::of(folder, identity);
    let list = file.read().map_err(disk("reading the list of erasures of", folder))?;
    if list.damaged > 0 {
        tracing::error!(
            "{} records of {} are damaged: what they asked to be erased is not known; ask for it again (`banter log erase`)",
            list.damaged,
            file.path().display()
        );
    }
    for listed in list.pending() {
        let core = core_of(listed.erasure.room_id(), catalogs.len() as u16);
        if let Some(catalog) = catalogs.get_mut(core.index()) {
            catalog.hide(&listed.erasure);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
