//! The thread that looks after the log's folder: makes segments ahead of need, seals full ones, drops what is too old,
//! and, when nothing else is to be done, checks what is sealed.
//!
//! No core ever waits for it but for want of a segment. A segment goes when every core has said that it needs it no more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use banter_chat::address::{Core, Now};
use banter_chat::clock::LogClock;
use banter_chat::limits::Limits;
use banter_log::index::{IndexBuilder, Part};
use banter_log::journal::Answer;
use banter_log::runs::Runs;
use banter_log::segment::SegmentHeader;
use flume::{Receiver, RecvTimeoutError};

use super::files::{free_bytes, make_segment, remove_segment, write_index};
use super::ledger::Ledger;
use super::recovery::KnownSegment;
use super::scrub::{Scrub, Verdict, mend_index};
use super::{index_path, segment_path};
use crate::control::{CoreLink, ToCore};

/// How long until a segment is tried again that found no space.
const SPACE_RETRY: Duration = Duration::from_millis(500);
/// How long until the next try to write an index that could not be written.
const SEAL_RETRY: Duration = Duration::from_secs(1);
/// How often what is too old is looked for, beside each time that a segment was sealed.
const RETENTION_INTERVAL: Duration = Duration::from_secs(10);
/// How long the keeper waits for work before it checks a block of what is sealed: so its reading stays far below what a
/// disk does, and stops when there is work.
const SCRUB_PAUSE: Duration = Duration::from_millis(5);
/// Time between two rounds of checking.
const SCRUB_INTERVAL: Duration = Duration::from_secs(3_600);

/// To the keeper.
#[derive(Debug)]
pub enum ToKeeper {
    /// A core wants its next segment.
    Prepare(Core),
    /// A core writes no more to a segment.
    Seal {
        /// The core.
        core: Core,
        /// The segment.
        segment: SegmentHeader,
        /// Its index.
        index: Arc<IndexBuilder>,
        /// The time of its newest message, milliseconds since 1970.
        newest_ms: u64,
        /// Where its blocks end.
        end_offset: u64,
    },
    /// A core needs a segment no more.
    Release {
        /// The core.
        core: Core,
        /// The segment.
        segment: u64,
    },
    /// A core needs an index no more, and does not want to wait until it is freed.
    LetGo {
        /// The index.
        index: Arc<IndexBuilder>,
        /// Its parts.
        parts: Vec<Part>,
    },
    /// Every core has ended.
    Stop {
        /// Whether what they had is all on the disk.
        is_whole: bool,
    },
}

/// What the keeper knows, for the metrics.
#[derive(Debug, Default)]
pub struct KeeperState {
    /// Bytes of all segments.
    pub log_bytes: AtomicU64,
    /// Segments.
    pub segments: AtomicU64,
    /// When the last round of checking ended, seconds since 1970; 0 = none has.
    pub scrub_finished_s: AtomicU64,
    /// Segments that were found damaged.
    pub scrub_faults: AtomicU64,
    /// 1 while there is too little space for a segment.
    pub is_full: AtomicU64,
}

/// What a keeper is made of.
pub struct KeeperParts {
    /// The log's folder.
    pub folder: PathBuf,
    /// The server's limits.
    pub limits: Limits,
    /// This start's number.
    pub run: u64,
    /// Where its clocks start, milliseconds since 1970.
    pub start_ms: u64,
    /// The ends to the cores.
    pub cores: Vec<CoreLink>,
    /// What is in the folder, and which cores need it.
    pub segments: Vec<(KnownSegment, Vec<Core>)>,
    /// This run's ledger.
    pub ledger: Ledger,
    /// What the metrics are told.
    pub state: Arc<KeeperState>,
}

/// The keeper.
pub struct Keeper {
    folder: PathBuf,
    limits: Limits,
    run: u64,
    /// As the cores have it: a wall clock that steps makes no segment older.
    clock: LogClock,
    started: Instant,
    /// The starts before this one.
    runs: Runs,
    cores: Vec<CoreLink>,
    segments: BTreeMap<u64, Kept>,
    next_id: u64,
    /// Cores that want a segment and could not have one.
    wanting: Vec<Core>,
    /// Indexes that could not be written yet.
    unsealed: Vec<(Core, u64, Arc<IndexBuilder>)>,
    /// Segments that nobody needs and that could not be told to the ledger yet.
    unremoved: Vec<u64>,
    retry_at: Option<Instant>,
    retention_at: Instant,
    ledger: Ledger,
    scrub: Scrubbing,
    state: Arc<KeeperState>,
}

struct Kept {
    header: SegmentHeader,
    file_bytes: u64,
    /// What is known of it once it is sealed.
    sealed: Option<Sealed>,
    needed_by: Vec<Core>,
    /// The cores were told to forget it.
    is_cut: bool,
}

#[derive(Clone, Copy)]
struct Sealed {
    end_offset: u64,
    newest_ms: u64,
}

/// A round of checking.
struct Scrubbing {
    at: Option<(u64, Scrub)>,
    last_id: u64,
    next_round: Instant,
    /// Segments that were told of already.
    damaged: BTreeSet<u64>,
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Keeper {
    /// With what is in the folder.
    pub fn new(parts: KeeperParts) -> Self {
        let KeeperParts { folder, limits, run, start_ms, cores, segments, ledger, state } = parts;
        let mut runs = Runs::default();
        let earlier = segments.iter().filter(|(known, _)| known.header.run < run);
        earlier.for_each(|(known, _)| runs.add(&known.header, known.newest_ms));
        runs.begin(start_ms);
        let mut clock = LogClock::new(Some(start_ms));
        clock.advance(Now { unix_ms: unix_ms(), ..Now::default() });
        let next_id = segments.iter().map(|(known, _)| known.header.id + 1).max().unwrap_or(1);
        let segments = segments.into_iter().map(|(known, needed_by)| {
            let sealed = Some(Sealed { end_offset: known.end_offset, newest_ms: known.newest_ms });
            let kept = Kept { header: known.header, file_bytes: known.file_bytes, sealed, needed_by, is_cut: false };
            (known.header.id, kept)
        });
        let now = Instant::now();
        Keeper {
            folder,
            limits,
            run,
            clock,
            started: now,
            runs,
            cores,
            segments: segments.collect(),
            next_id,
            wanting: Vec::new(),
            unsealed: Vec::new(),
            unremoved: Vec::new(),
            retry_at: None,
            retention_at: now,
            ledger,
            scrub: Scrubbing { at: None, last_id: 0, next_round: now, damaged: BTreeSet::new() },
            state,
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self, inbox: &Receiver<ToKeeper>) {
        loop {
            match inbox.recv_timeout(self.patience()) {
                Ok(ToKeeper::Stop { is_whole }) => return self.stop(is_whole),
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => self.scrub_step(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.do_due();
            self.tell_state();
        }
    }

    /// How long to wait for a message.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        if self.scrub.at.is_some() || self.scrub.next_round <= now {
            return SCRUB_PAUSE;
        }
        let due = [Some(self.retention_at), self.retry_at, Some(self.scrub.next_round)].into_iter().flatten().min();
        due.map_or(RETENTION_INTERVAL, |due| due.saturating_duration_since(now).max(SCRUB_PAUSE))
    }

    fn take(&mut self, message: ToKeeper) {
        match message {
            ToKeeper::Prepare(core) => self.prepare(core),
            ToKeeper::Seal { core, segment, index, newest_ms, end_offset } => {
                if let Some(kept) = self.segments.get_mut(&segment.id) {
                    kept.sealed = Some(Sealed { end_offset, newest_ms });
                }
                self.seal(core, segment.id, index);
                self.retention_at = Instant::now();
            }
            ToKeeper::Release { core, segment } => self.release(core, segment),
            ToKeeper::LetGo { .. } | ToKeeper::Stop { .. } => {}
        }
    }

    fn do_due(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            for core in std::mem::take(&mut self.wanting) {
                self.prepare(core);
            }
            for (core, segment, index) in std::mem::take(&mut self.unsealed) {
                self.seal(core, segment, index);
            }
            for segment in std::mem::take(&mut self.unremoved) {
                self.remove(segment);
            }
        }
        if self.retention_at <= now {
            self.retention_at = now + RETENTION_INTERVAL;
            self.cut_old();
        }
    }

    fn retry_in(&mut self, pause: Duration) {
        let at = Instant::now() + pause;
        self.retry_at = Some(self.retry_at.map_or(at, |before| before.min(at)));
    }

    fn send(&self, core: Core, message: ToCore) {
        if let Some(link) = self.cores.get(core.index()) {
            link.send(message);
        }
    }

    fn clock_ms(&mut self) -> u64 {
        let monotonic_ms = self.started.elapsed().as_millis() as u64;
        self.clock.advance(Now { monotonic_ms, unix_ms: unix_ms(), ..Now::default() });
        self.clock.time_ms()
    }

    fn prepare(&mut self, core: Core) {
        let bytes = u64::from(self.limits.log_segment_bytes);
        let is_first = !self.segments.values().any(|kept| kept.sealed.is_none() && kept.header.core == core.0);
        let is_low = free_bytes(&self.folder).is_ok_and(|free| free < bytes + self.limits.log_free_bytes_min);
        let made_unix_ms = self.clock_ms();
        let header = SegmentHeader { id: self.next_id, nonce: nonce(), core: core.0, run: self.run, made_unix_ms };
        let made = if is_low {
            Err(std::io::ErrorKind::StorageFull.into())
        } else {
            make_segment(&self.folder, &header, bytes, !is_first)
        };
        match made {
            Ok(file) => {
                self.next_id += 1;
                let kept = Kept { header, file_bytes: bytes, sealed: None, needed_by: vec![core], is_cut: false };
                self.segments.insert(header.id, kept);
                if self.state.is_full.swap(0, Ordering::Relaxed) != 0 {
                    tracing::info!("there is space for the log again");
                }
                self.send(core, ToCore::LogSegment(header, file));
            }
            Err(error) => {
                if self.state.is_full.swap(1, Ordering::Relaxed) == 0 {
                    tracing::error!(
                        "no segment of {bytes} bytes can be made in {} beside the {} bytes that stay free: {error}; when \
                         the present one is full, posts are refused with log_full until there is space: free some, \
                         or set retention_bytes",
                        self.folder.display(),
                        self.limits.log_free_bytes_min
                    );
                }
                self.wanting.push(core);
                self.send(core, ToCore::Log(Answer::NoSpace));
                self.retry_in(SPACE_RETRY);
            }
        }
    }

    /// Encodes an index and writes it: as long as that takes, its readers are served from the core's memory.
    fn seal(&mut self, core: Core, segment: u64, index: Arc<IndexBuilder>) {
        let known = self.segments.get(&segment).and_then(|kept| Some((kept.header, kept.sealed?)));
        let Some((header, sealed)) = known else { return self.tell_indexed(core, segment, Vec::new()) };
        let (file, parts) = index.encode(&header, sealed.end_offset);
        match write_index(&self.folder, segment, &file) {
            Ok(()) => self.tell_indexed(core, segment, parts),
            Err(error) => {
                let path = segment_path(&self.folder, segment);
                tracing::warn!(%error, "cannot write the index of {}: trying again; a start without it takes longer", path.display());
                self.unsealed.push((core, segment, index));
                self.retry_in(SEAL_RETRY);
            }
        }
    }

    /// Told once of each sealed segment, so that its core lets go of the index; without parts where the segment is gone.
    fn tell_indexed(&self, core: Core, segment: u64, parts: Vec<Part>) {
        self.send(core, ToCore::Log(Answer::Indexed { segment, parts }));
    }

    fn release(&mut self, core: Core, segment: u64) {
        let Some(kept) = self.segments.get_mut(&segment) else { return };
        kept.needed_by.retain(|&other| other != core);
        if kept.needed_by.is_empty() && kept.sealed.is_some() {
            self.remove(segment);
        }
    }

    fn remove(&mut self, segment: u64) {
        if self.scrub.at.as_ref().is_some_and(|(id, _)| *id == segment) {
            self.scrub.at = None;
        }
        let Some(kept) = self.segments.remove(&segment) else { return };
        // Told first: a start that finds it gone has to know why. What cannot be told stays.
        if let Err(error) = self.tell_ledger(segment) {
            tracing::warn!(%error, "cannot write the log's ledger: a segment that nobody needs stays a little longer");
            self.segments.insert(segment, kept);
            self.unremoved.push(segment);
            return self.retry_in(SEAL_RETRY);
        }
        self.scrub.damaged.remove(&segment);
        for (core, ..) in self.unsealed.extract_if(.., |(_, id, _)| *id == segment).collect::<Vec<_>>() {
            self.tell_indexed(core, segment, Vec::new());
        }
        remove_segment(&self.folder, segment);
    }

    fn tell_ledger(&mut self, dropped: u64) -> std::io::Result<()> {
        let segments = &self.segments;
        self.ledger.drop_segment(dropped, |from, to| segments.range(from..to).next().is_some());
        let oldest_run = segments.values().map(|kept| kept.header.run).min().unwrap_or(self.run);
        self.ledger.prune(oldest_run, segments.keys().next().copied().unwrap_or(u64::MAX));
        self.ledger.write(&self.folder)
    }

    /// Has the oldest segments forgotten, above what is to be kept: never one that is being written, and never one with
    /// a message whose key is still to be known.
    fn cut_old(&mut self) {
        const HOUR_MS: u64 = 3_600_000;
        let now_ms = self.clock_ms();
        let window_ms = self.clock.since_ms(self.limits.dedupe_window_ms);
        let hours_ms = u64::from(self.limits.retention_hours) * HOUR_MS;
        let since_ms = if hours_ms == 0 { 0 } else { now_ms.saturating_sub(hours_ms) };
        let mut bytes: u64 = self.segments.values().filter(|kept| !kept.is_cut).map(|kept| kept.file_bytes).sum();
        let bytes_max = self.limits.retention_bytes;
        let mut cut = Vec::new();
        for (&id, kept) in self.segments.iter().filter(|(_, kept)| !kept.is_cut) {
            let Some(sealed) = kept.sealed else { continue };
            let is_above = bytes_max != 0 && bytes > bytes_max;
            let is_known = self.runs.clock_ms(kept.header.run, sealed.newest_ms) >= window_ms;
            if is_known || !(is_above || sealed.newest_ms < since_ms) {
                // In the order in which they were made: a room must not lose what lies in the midst of it.
                break;
            }
            bytes -= kept.file_bytes;
            cut.push(id);
        }
        for segment in cut {
            self.cut(segment);
        }
    }

    fn cut(&mut self, segment: u64) {
        let Some(kept) = self.segments.get_mut(&segment) else { return };
        kept.is_cut = true;
        tracing::info!("the log forgets {}", segment_path(&self.folder, segment).display());
        let needed_by = kept.needed_by.clone();
        if needed_by.is_empty() {
            return self.remove(segment);
        }
        for core in needed_by {
            self.send(core, ToCore::Log(Answer::Cut { segment }));
        }
    }

    fn tell_state(&self) {
        let bytes = self.segments.values().map(|kept| kept.file_bytes).sum();
        self.state.log_bytes.store(bytes, Ordering::Relaxed);
        self.state.segments.store(self.segments.len() as u64, Ordering::Relaxed);
    }

    /// Checks one more block of what is sealed.
    fn scrub_step(&mut self) {
        if self.scrub.at.is_none() && !self.next_to_scrub() {
            return;
        }
        let Some((segment, scrub)) = &mut self.scrub.at else { return };
        let segment = *segment;
        match scrub.step() {
            Ok(Ok(_)) => {}
            Ok(Err(Verdict::Whole)) => {
                self.scrub.at = None;
                self.scrub_index(segment);
            }
            Ok(Err(Verdict::Damaged(offset))) => {
                self.scrub_fault(segment, &format!("the block at offset {offset} does not check"))
            }
            Err(error) => self.scrub_fault(segment, &error.to_string()),
        }
    }

    /// Readers do without an index that is damaged, and read a whole segment instead.
    fn scrub_index(&mut self, segment: u64) {
        let Some(Kept { header, sealed: Some(sealed), .. }) = self.segments.get(&segment) else { return };
        if self.unsealed.iter().any(|(_, id, _)| *id == segment) {
            return;
        }
        let path = index_path(&self.folder, segment);
        match mend_index(&self.folder, header, sealed.end_offset) {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!("{} was damaged, and was made again from its segment; see to the disk", path.display())
            }
            Err(error) => {
                tracing::warn!(%error, "{} cannot be checked or made again: trying again later", path.display())
            }
        }
    }

    fn scrub_fault(&mut self, segment: u64, what: &str) {
        self.scrub.at = None;
        if !self.scrub.damaged.insert(segment) {
            return;
        }
        self.state.scrub_faults.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            "{} is damaged: {what}. Its readers are told of a gap; see to the disk (`dmesg`), and restore the file from a copy",
            segment_path(&self.folder, segment).display()
        );
    }

    /// The next segment of this round; `false`: the round is over, or not due.
    fn next_to_scrub(&mut self) -> bool {
        if self.scrub.last_id == 0 && self.scrub.next_round > Instant::now() {
            return false;
        }
        let after = self.scrub.last_id + 1;
        let next = self.segments.range(after..).find_map(|(&id, kept)| Some((id, kept.header, kept.sealed?)));
        let Some((id, header, sealed)) = next else {
            self.scrub.last_id = 0;
            self.scrub.next_round = Instant::now() + SCRUB_INTERVAL;
            self.state.scrub_finished_s.store(unix_ms() / 1_000, Ordering::Relaxed);
            tracing::debug!("every sealed segment of the log was checked");
            return false;
        };
        self.scrub.last_id = id;
        match Scrub::new(&self.folder, header, sealed.end_offset) {
            Ok(scrub) => self.scrub.at = Some((id, scrub)),
            Err(error) => self.scrub_fault(id, &error.to_string()),
        }
        true
    }

    /// Segments that were made and not used go, and the ledger says that the run is over.
    fn stop(mut self, is_whole: bool) {
        let unused: Vec<u64> =
            self.segments.iter().filter(|(_, kept)| kept.sealed.is_none()).map(|(&id, _)| id).collect();
        if is_whole {
            unused.iter().for_each(|&id| remove_segment(&self.folder, id));
        }
        if let Some(last) = &mut self.ledger.last {
            last.is_closed = is_whole;
        }
        if let Err(error) = self.ledger.write(&self.folder) {
            tracing::error!(%error, "cannot write the log's ledger: the next start takes this end for a power cut");
        }
    }
}

/// Chance, so that nobody can post bytes that look like a block of a segment.
fn nonce() -> u64 {
    let mut bytes = [0; 8];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match read {
        Ok(8) => u64::from_le_bytes(bytes),
        // Never seen since Linux 3.17; the clock's nanoseconds are no secret, and still differ from segment to segment.
        _ => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64),
    }
}

#[cfg(test)]
mod tests;
