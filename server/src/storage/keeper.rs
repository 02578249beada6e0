//! The thread that looks after the log's folder: makes segments ahead of need, seals full ones, drops what is too old,
//! and, when nothing else is to be done, checks what is sealed.
//!
//! No core ever waits for it but for want of a segment; a core that has none comes ahead of all else, also in the midst of
//! another's segment. A segment goes when every core has said that it needs it no more.
//!
//! No answer of the file system ends it: what may be tried again is, and what may not (a sync) is remembered.

mod checking;
mod checkpointing;
mod dropping;
mod erasing;
mod kept;
mod making;
mod queue;
mod sealing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use banter_chat::address::Core;
use banter_chat::erasing::Begun;
use banter_chat::limits::Limits;
use banter_log::block::BlockPlace;
use banter_log::index::IndexBuilder;
use banter_log::segment::Class;
use flume::{Receiver, RecvTimeoutError};

use super::ages::{AWAY_MS_MAX, Ages, BELIEVED_BEHIND_MS, Moved, settle};
use super::checkpoint::head_of;
use super::erasures::{AskFault, ErasureFile, Wanted};
use super::feed::Dropped;
use super::files::remove_segment;
use super::ledger::LedgerFile;
use super::recovery::KnownSegment;
use super::sizing::Sizing;
use crate::control::{CoreLink, ToCore};
use crate::wall_clock::{believed_behind_ms, unix_ms};
use checking::Checking;
use checkpointing::Checkpointing;
use erasing::Erasing;
use kept::{Kept, KeptSegments, Writer};
use queue::{Job, Queue, Wish};
use sealing::Sealing;

/// How long until what could not be done is tried again: an index that could not be written, a file that could not be
/// removed.
const RETRY: Duration = Duration::from_secs(1);
/// How often what is too old is looked for, beside each time that a segment was sealed.
const RETENTION_INTERVAL: Duration = Duration::from_secs(10);

/// To the keeper.
#[derive(Debug)]
pub enum ToKeeper {
    /// A core wants a segment of that class.
    Prepare {
        /// The core.
        core: Core,
        /// The class.
        class: Class,
        /// Posts wait for it.
        is_urgent: bool,
    },
    /// A core writes no more to a segment.
    Seal {
        /// The segment, and where its blocks end.
        end: BlockPlace,
        /// Whether a proof is to be written there.
        is_provable: bool,
        /// Its index.
        index: Arc<IndexBuilder>,
        /// The time of its newest message, milliseconds since 1970.
        newest_ms: u64,
    },
    /// A core found the index of a sealed segment wrong.
    MendIndex {
        /// The core.
        core: Core,
        /// The segment.
        segment: u64,
    },
    /// A core needs a segment no more.
    Release {
        /// The core.
        core: Core,
        /// The segment.
        segment: u64,
    },
    /// Something is to be erased: its number is answered, once it is hidden and up to where it reaches is written down.
    Erase {
        /// What.
        wanted: Wanted,
        /// Who is answered.
        answer: flume::Sender<Result<u64, AskFault>>,
    },
    /// A core hides what is to be erased.
    Begun(Begun),
    /// A core needs an index no more, and does not want to wait until it is freed.
    LetGo {
        /// The index.
        index: Arc<IndexBuilder>,
    },
    /// A write or sync of a core failed: nobody knows what the disk has of what was only written before.
    AppendFailed,
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
    /// Erasures that are hidden, and on the disk still.
    pub erasures_pending: AtomicU64,
    /// The epoch that rooms without messages go by: raised before anything is dropped.
    pub blank: AtomicU64,
    /// The newest segments with messages that this run dropped, by core and class. One that is missing is in here already.
    pub dropped: Mutex<Dropped>,
}

/// What a keeper is made of.
pub struct KeeperParts {
    /// The log's folder.
    pub folder: PathBuf,
    /// The server's limits.
    pub limits: Limits,
    /// Retention classes that rooms are of.
    pub classes: usize,
    /// This start's number.
    pub run: u64,
    /// Where its clocks start, milliseconds since 1970.
    pub start_ms: u64,
    /// The ends to the cores.
    pub cores: Vec<CoreLink>,
    /// What is in the folder.
    pub segments: Vec<KnownSegment>,
    /// Indexes that are to be written as soon as there is space.
    pub unwritten: BTreeMap<u64, Arc<IndexBuilder>>,
    /// This run's ledger.
    pub ledger: LedgerFile,
    /// What the cores ask, and when they have ended.
    pub inbox: Receiver<ToKeeper>,
    /// What the metrics are told.
    pub state: Arc<KeeperState>,
}

/// The keeper.
pub struct Keeper {
    folder: PathBuf,
    limits: Limits,
    sizing: Sizing,
    run: u64,
    /// A wall clock that steps makes no segment older.
    ages: Ages,
    /// When this start was, by a clock that also counts while the machine is suspended.
    started_ms: u64,
    cores: Vec<CoreLink>,
    inbox: Receiver<ToKeeper>,
    queue: Queue<Chore>,
    started: Instant,
    /// When each writer sealed a segment last, and how long that had lasted.
    sealed_at: BTreeMap<Writer, (Instant, Duration)>,
    segments: KeptSegments,
    next_id: u64,
    /// Those who want a segment and could not have one.
    wanting: Vec<Wish>,
    /// Indexes that are not on the disk yet.
    sealings: BTreeMap<u64, Sealing>,
    /// Something of this run could not be made safe: the next start takes its end for a power cut.
    is_unsafe: bool,
    retry_at: Option<Instant>,
    retention_at: Instant,
    ledger: LedgerFile,
    checking: Checking,
    checkpointing: Checkpointing,
    erasing: Erasing,
    /// The cores have ended; whether all that they had is on the disk.
    ended: Option<bool>,
    state: Arc<KeeperState>,
}

/// What nobody waits for.
#[derive(Debug)]
enum Chore {
    /// Make a sealed segment safe, and write its index.
    Seal(u64),
    /// Make an index again that a core found wrong.
    Mend(Core, u64),
    /// Free what a core would take long for.
    Free(Arc<IndexBuilder>),
    /// Remove what nobody needs any more.
    Drop,
}

/// Milliseconds since the machine started, also those in which it was suspended.
fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Says at a start that the wall clock was moved, while there is time to set it right.
fn tell_moved(ages: &Ages, limits: &Limits) {
    const HOUR_MS: f64 = 3_600_000.0;
    let counts = if limits.retention_hours == 0 { "" } else { ", retention_hours counts only what passes from now on" };
    match ages.moved() {
        Some(Moved::Behind(ms)) => tracing::warn!(
            "the clock of this machine is {:.1} hours behind the newest message of the log: times of messages go on from \
             there{counts}; if the clock is wrong, set it",
            ms as f64 / HOUR_MS
        ),
        Some(Moved::Ahead(ms)) => tracing::warn!(
            "the clock of this machine is {:.1} hours ahead of the newest message of the log, more than the {} that a \
             server is believed to have been away{counts}; if the clock is wrong, set it within {} minutes and start anew",
            ms as f64 / HOUR_MS,
            AWAY_MS_MAX / 3_600_000,
            BELIEVED_BEHIND_MS / 60_000
        ),
        None => {}
    }
}

impl Keeper {
    /// With what is in the folder.
    pub fn new(parts: KeeperParts) -> Self {
        let KeeperParts { folder, limits, classes, run, start_ms, cores, segments, unwritten, ledger, inbox, state } =
            parts;
        let mut segments = segments;
        let mut newest: Vec<_> = segments.iter().map(|known| (known.header, known.newest_ms)).collect();
        settle(&mut newest, start_ms);
        segments.iter_mut().zip(&newest).for_each(|(known, (_, newest_ms))| known.newest_ms = *newest_ms);
        let ages =
            Ages::new(run, start_ms, unix_ms(), &newest).believing_behind(believed_behind_ms(BELIEVED_BEHIND_MS));
        tell_moved(&ages, &limits);
        let next_id = newest.iter().map(|(header, _)| header.id.saturating_add(1)).max().unwrap_or(1);
        let checkpointing = Checkpointing::new(head_of(&folder), &segments, Instant::now());
        let mut kept = KeptSegments::default();
        let all: Vec<Core> = (0..cores.len()).map(|core| Core(core as u16)).collect();
        let mut sealings = BTreeMap::new();
        for (segment, index) in unwritten {
            let end = segments.iter().find(|known| known.header.id == segment);
            let end = end.map(|known| BlockPlace { offset: known.end_offset, ..BlockPlace::first_of(known.header) });
            sealings.extend(end.map(|end| (segment, Sealing::found(end, all.clone(), index))));
        }
        segments.into_iter().for_each(|known| kept.add(Kept::found(&known, all.clone())));
        let now = Instant::now();
        let list = ErasureFile::of(&folder, ledger.ledger().identity);
        let keeper = Keeper {
            folder,
            sizing: Sizing::new(&limits, cores.len(), classes),
            limits,
            run,
            ages,
            started_ms: boot_ms(),
            cores,
            inbox,
            queue: Queue::default(),
            started: now,
            sealed_at: BTreeMap::new(),
            segments: kept,
            next_id,
            wanting: Vec::new(),
            retry_at: (!sealings.is_empty()).then_some(now),
            sealings,
            is_unsafe: false,
            retention_at: now,
            ledger,
            checking: Checking::new(now),
            checkpointing,
            erasing: Erasing::new(list, now),
            ended: None,
            state,
        };
        keeper.tell_size();
        keeper
    }

    /// Works until the cores have ended and what they asked is done.
    pub fn run(mut self) {
        while self.ended.is_none() {
            match self.inbox.recv_timeout(self.patience()) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {
                    if !self.checkpoint_step() {
                        self.check_step();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.do_due();
            self.erase_step();
            self.tell_state();
        }
        self.stop();
    }

    /// How long to wait for a message.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        let due = [Some(self.retention_at), self.retry_at, Some(self.erasing.due_at(now))].into_iter().flatten().min();
        let idle = due.map_or(RETENTION_INTERVAL, |due| due.saturating_duration_since(now));
        let idle = self.checkpointing.patience(now).map_or(idle, |patience| patience.min(idle));
        idle.min(self.checking.patience(now)).max(checking::PAUSE)
    }

    /// Takes a message, and does all that is to be done.
    fn take(&mut self, message: ToKeeper) {
        self.accept(message);
        self.work();
    }

    /// Does all that is to be done, and what comes meanwhile.
    fn work(&mut self) {
        loop {
            while let Ok(message) = self.inbox.try_recv() {
                self.accept(message);
            }
            let Some(job) = self.queue.next(|writer| self.segments.stock(writer)) else { return };
            match job {
                Job::Make(wish) => self.make(wish),
                Job::Chore(Chore::Seal(segment)) => self.seal(segment),
                Job::Chore(Chore::Mend(core, segment)) => self.mend_for(core, segment),
                Job::Chore(Chore::Drop) => self.drop_free(),
                Job::Chore(Chore::Free(index)) => drop(index),
            }
        }
    }

    /// Takes note of a message: what takes long waits in the queue.
    fn accept(&mut self, message: ToKeeper) {
        match message {
            ToKeeper::Prepare { core, class, is_urgent } => self.wish(Writer { core, class }, is_urgent),
            ToKeeper::Seal { end, is_provable, index, newest_ms } => {
                self.begin_sealing(end, is_provable, index, newest_ms);
            }
            ToKeeper::MendIndex { core, segment } => self.queue.chore(Chore::Mend(core, segment)),
            ToKeeper::Release { core, segment } => {
                self.segments.release(segment, core);
                self.queue.chore(Chore::Drop);
            }
            ToKeeper::Erase { wanted, answer } => self.ask_to_erase(&wanted, answer),
            ToKeeper::Begun(begun) => self.has_begun_erasing(begun),
            ToKeeper::LetGo { index } => self.queue.chore(Chore::Free(index)),
            ToKeeper::AppendFailed => self.has_failed(),
            ToKeeper::Stop { is_whole } => {
                self.ended = Some(is_whole);
                self.queue.end_wishes();
            }
        }
    }

    fn do_due(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            let wanting = std::mem::take(&mut self.wanting);
            // Behind the end of the cores nobody wants one.
            if self.ended.is_none() {
                wanting.into_iter().for_each(|wish| self.queue.wish(wish));
            }
            self.sealings.keys().for_each(|&segment| self.queue.chore(Chore::Seal(segment)));
            self.queue.chore(Chore::Drop);
        }
        if self.retention_at <= now {
            self.retention_at = now + RETENTION_INTERVAL;
            self.cut_old();
        }
        if self.erasing.look_at() <= now {
            self.look_at_erasures();
        }
        self.work();
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

    /// The log's time, milliseconds since 1970.
    fn clock_ms(&mut self) -> u64 {
        self.ages.advance(boot_ms().saturating_sub(self.started_ms), unix_ms());
        self.ages.now_ms()
    }

    fn tell_state(&self) {
        let bytes = self.segments.all().map(|kept| kept.file_bytes).fold(0, u64::saturating_add);
        self.state.log_bytes.store(bytes, Ordering::Relaxed);
        self.state.segments.store(self.segments.all().count() as u64, Ordering::Relaxed);
    }

    /// Segments that were made and not used go, and the ledger says that the run is over.
    fn stop(mut self) {
        // Once more what could not be done: a start without an index takes longer.
        let unsealed: Vec<u64> = self.sealings.keys().copied().collect();
        unsealed.into_iter().for_each(|segment| self.seal(segment));
        let is_whole = self.ended == Some(true) && !self.is_unsafe && self.sealings.values().all(Sealing::is_safe);
        if is_whole {
            let unused = self.segments.all().filter(|kept| kept.sealed.is_none());
            unused.for_each(|kept| remove_segment(&self.folder, kept.header.id));
        }
        if self.ended != Some(true) {
            // A core that failed ends so.
            self.is_unsafe = true;
        }
        self.tell_unsafe();
        let has_record = |kept: &&Kept| !kept.is_cut && kept.sealed.is_some_and(|sealed| sealed.newest_ms > 0);
        let newest = self.segments.all().filter(has_record).map(|kept| kept.header.id).max();
        if let Err(error) = self.ledger.end(is_whole, newest.unwrap_or(0)) {
            tracing::error!(%error, "cannot write the log's ledger: the next start takes this end for a power cut");
        }
    }
}

#[cfg(test)]
mod tests;
