//! Walks the segments that have no index on all CPUs at once, and writes each one's index as soon as it is walked: what a
//! start, or a restore, takes most of its time for.
//!
//! Invariants:
//! - No more indexes are in memory than there are threads.
//! - A start that is ended in the midst of it has lost the work on the segments that were being walked, and no other.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use banter_log::block::Proof;
use banter_log::index::IndexBuilder;
use banter_log::segment::SegmentHeader;

use super::folder::largest_of;
use super::hands::Hands;
use super::walk::{End, Walk, walk};
use super::{KnownSegment, RecoveryFault, disk};
use crate::storage::files::is_full;

/// How often a long recovery says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// A segment that is to be walked.
#[derive(Clone, Debug)]
pub(super) struct Unsealed {
    pub header: SegmentHeader,
    pub path: PathBuf,
    pub file_bytes: u64,
    /// It is damaged in any case: then it is sealed where it ends, and never removed.
    pub is_damaged: bool,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Walked {
    pub unsealed: Unsealed,
    pub end: End,
    /// What is in it, unless damage in it was not accepted, and the largest number there.
    pub sealed: Option<(KnownSegment, u64)>,
    /// Its index, where there was no space for it on the disk.
    pub unwritten: Option<IndexBuilder>,
}

impl Walked {
    /// Whether nothing is in it that anybody may have been told of: a file that goes.
    pub fn is_empty(&self) -> bool {
        let is_without_message = self.sealed.as_ref().is_none_or(|(known, _)| known.parts == 0);
        is_without_message && !self.unsealed.is_damaged && matches!(self.end, End::Clean { .. })
    }
}

/// How the sealing is to go.
pub(super) struct Sealing<'a> {
    pub folder: &'a Path,
    pub accept_corruption: bool,
    /// The run of which nothing that was written was lost since, if there is such a one.
    pub unlost_run: Option<u64>,
    pub hands: &'a dyn Hands,
    pub tally: &'a Tally,
}

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Tally {
    segments: AtomicUsize,
    bytes: AtomicU64,
    /// Indexes in memory now, and the most there were at once.
    held: AtomicUsize,
    pub held_max: AtomicUsize,
}

/// An index in memory.
struct Held<'a> {
    index: IndexBuilder,
    tally: &'a Tally,
}

impl Held<'_> {
    fn let_go(mut self) -> IndexBuilder {
        std::mem::take(&mut self.index)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.tally.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Walks and seals them all, one a thread at a time, in memory that each thread uses again. They come back in the order of
/// their ids.
pub(super) fn seal_all(sealing: &Sealing<'_>, unsealed: &[Unsealed]) -> Result<Vec<Walked>, RecoveryFault> {
    let threads = threads_for(unsealed.len());
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (done, walked) = mpsc::channel();
    let work = |done: Sender<Result<Walked, RecoveryFault>>| {
        let mut buffer = Vec::new();
        while !is_over.load(Ordering::Relaxed)
            && let Some(unsealed) = unsealed.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let result = seal(sealing, unsealed, &mut buffer);
            is_over.fetch_or(result.is_err(), Ordering::Relaxed);
            let _ = done.send(result);
        }
    };
    let mut all = std::thread::scope(|scope| {
        for _ in 0..threads {
            let done = done.clone();
            scope.spawn(|| work(done));
        }
        drop(done);
        collect(sealing.tally, unsealed, &walked)
    })?;
    all.sort_unstable_by_key(|walked| walked.unsealed.header.id);
    Ok(all)
}

/// Threads that walk so many segments.
pub(super) fn threads_for(segments: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(segments)
}

fn collect(
    tally: &Tally,
    unsealed: &[Unsealed],
    walked: &mpsc::Receiver<Result<Walked, RecoveryFault>>,
) -> Result<Vec<Walked>, RecoveryFault> {
    let bytes: u64 = unsealed.iter().map(|segment| segment.file_bytes).sum();
    let (mut all, mut pace) = (Vec::new(), Pace::new(Instant::now()));
    loop {
        match walked.recv_timeout(pace.left(Instant::now())) {
            Ok(walked) => all.push(walked?),
            Err(RecvTimeoutError::Disconnected) => return Ok(all),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if pace.is_due(Instant::now()) {
            tally.tell(unsealed.len(), bytes);
        }
    }
}

/// When it is said next how far it is, however often something comes in between.
pub(super) struct Pace {
    due: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Pace { due: now + PROGRESS_INTERVAL }
    }

    fn left(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// Whether it is to be said now; then it is due again an interval later.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due <= now;
        if is_due {
            *self = Pace::new(now);
        }
        is_due
    }
}

impl Tally {
    fn tell(&self, segments: usize, bytes: u64) {
        const MEGABYTE: u64 = 1_000_000;
        tracing::info!(
            "reading the log: {} of {segments} segments are read through and sealed, {} of {} MB",
            self.segments.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed) / MEGABYTE,
            bytes / MEGABYTE
        );
    }

    fn hold(&self, index: IndexBuilder) -> Held<'_> {
        self.held_max.fetch_max(self.held.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        Held { index, tally: self }
    }
}

fn seal(sealing: &Sealing<'_>, unsealed: &Unsealed, buffer: &mut Vec<u8>) -> Result<Walked, RecoveryFault> {
    let &Unsealed { header, ref path, file_bytes, .. } = unsealed;
    let file = File::open(path).map_err(disk("opening", path))?;
    let proof = if sealing.unlost_run == Some(header.run) { Proof::Written } else { Proof::Synced };
    let (index, end) = walk(sealing.hands, &file, Walk { header, file_bytes, proof }, buffer);
    let held = sealing.tally.hold(index);
    sealing.tally.segments.fetch_add(1, Ordering::Relaxed);
    sealing.tally.bytes.fetch_add(file_bytes, Ordering::Relaxed);
    let is_refused = matches!(end, End::Damaged { .. }) && !sealing.accept_corruption;
    let mut walked = Walked { unsealed: unsealed.clone(), end, sealed: None, unwritten: None };
    if is_refused {
        return Ok(walked);
    }
    // The padding of the last block may be missing; the next start must not take that for damage.
    let end_offset = walked.end.offset().min(file_bytes);
    let (newest_ms, parts) = (held.index.newest_ms(), held.index.len() as u32);
    let known = KnownSegment { header, file_bytes, end_offset, newest_ms, parts, is_chained: false };
    walked.sealed = Some((known, largest_of(&header, held.index.parts())));
    if !walked.is_empty() {
        let bytes = held.index.encode(&header, end_offset, false);
        if write(sealing, path, header.id, &bytes)? {
            walked.unwritten = Some(held.let_go());
        }
    }
    Ok(walked)
}

/// Writes the index; `true`: there is no space for it. Then it stays in memory, until the keeper has found
/// the space.
fn write(sealing: &Sealing<'_>, path: &Path, id: u64, bytes: &[u8]) -> Result<bool, RecoveryFault> {
    match sealing.hands.write_index(sealing.folder, id, bytes) {
        Ok(()) => Ok(false),
        Err(error) if is_full(&error) => Ok(true),
        Err(error) => Err(sealing_fault(path, error)),
    }
}

fn sealing_fault(path: &Path, error: io::Error) -> RecoveryFault {
    disk("writing the index of", path)(error)
}
