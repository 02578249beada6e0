//! What the log's folder remembers between starts and its segments do not say: how the last run ended and on which boot of
//! the machine, where histories broke, and which epochs rooms without a message go by.
//!
//! ```text
//!  offset  size  field
//!       0     8  number of the last run; 0 = there was none
//!       8     1  whether it ended in order
//!       9     1  whether a copy was marked as moved, and goes on as the folder that it was made from
//!      10     6  reserved: 0
//!      16    16  the machine's boot in that run; 0 = unknown
//!      32    16  break of `written` rooms: run, epoch; 0 = none
//!      48    16  break of all rooms: run, epoch; 0 = none
//!      64     8  epoch of logged rooms that have no message in the log
//!      72     8  hash of which rooms have which durability
//!      80     8  epoch of the run in which that hash changed last
//!      88     8  this file's own inode
//!      96     8  when this file was made, nanoseconds since 1970
//!     104     8  epoch under which something was dropped last; 0 = nothing ever was
//!     112     8  newest segment with a record, where the last run ended in order; 0 = none, or not known
//! ```
//!
//! Of each level one break is enough: a newer one has a higher run and a higher epoch, so it says all that an older one does.

use std::fs;
use std::io;
use std::path::Path;

use banter_log::catalog::{Break, Catalog, Past};
use banter_log::segment::SegmentHeader;
use banter_protocol::ids::Epoch;

use super::slots::{self, FileIdentity, Seen, Slots, SlotsFault, SlotsKind};

/// What the file is called in the log's folder.
pub const FILE: &str = "ledger";
const KIND: SlotsKind = SlotsKind { magic: *b"BANTERLD", format: 1 };
const CONTENT_BYTES: usize = 120;
/// The machine's boot: another one since the last run means that memory was lost in between.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The machine's boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(pub u128);

/// The boot that this machine is in; `None` where it does not say.
pub fn this_boot() -> Option<BootId> {
    boot_of(&fs::read_to_string(BOOT_ID).ok()?)
}

fn boot_of(text: &str) -> Option<BootId> {
    let digits: String = text.trim().chars().filter(|&letter| letter != '-').collect();
    let number = (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok())??;
    (number != 0).then_some(BootId(number))
}

/// What the ledger says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The last run.
    pub last: Option<LastRun>,
    /// The newest break of rooms whose newest message was not made safe against a power cut.
    pub written_break: Option<Break>,
    /// The newest break of every room.
    pub all_break: Option<Break>,
    /// The epoch that logged rooms without a message in the log go by, but for breaks that came later.
    pub blank: Epoch,
    /// The epoch under which something was dropped last: above every run until then.
    pub dropped: Epoch,
    /// The newest segment with a record, where the last run ended in order; 0: none, or it is not known.
    pub newest_segment: u64,
    /// Which rooms have which durability.
    pub levels: Levels,
    /// The file that it lies in.
    pub identity: FileIdentity,
    /// The folder is a copy that goes on in the place of what it was made from.
    pub is_moved: bool,
}

/// The last start of the server on this folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// Its number.
    pub run: u64,
    /// Whether it ended in order, with everything on the disk.
    pub is_closed: bool,
    /// The machine's boot. One that is not known is no other's.
    pub boot: Option<BootId>,
}

/// Which rooms have which durability, and since when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// A hash of the configuration's levels.
    pub hash: u64,
    /// The number of the run in which it changed.
    pub epoch: Epoch,
}

/// The epochs of logged rooms that have no message in the log, by their level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blank {
    /// Of rooms in `synced`.
    pub synced: Epoch,
    /// Of rooms in `written`.
    pub written: Epoch,
}

/// A start, as the ledger is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Its number, which is also the epoch of what breaks at it.
    pub run: u64,
    /// The machine's boot.
    pub boot: Option<BootId>,
    /// Which rooms have which durability.
    pub levels_hash: u64,
    /// The newest run that a segment of the folder is of.
    pub newest_run: Option<u64>,
    /// The ledger's file.
    pub identity: FileIdentity,
}

/// Why what was shown before this start may not be in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// There are segments and no ledger.
    #[error(
        "the log's ledger is missing or damaged, so that nobody knows how the last run ended: every room goes on under a new epoch"
    )]
    Lost,
    /// It is older than the segments beside it.
    #[error("the log's ledger is older than its segments (run {0}): every room goes on under a new epoch")]
    Older(u64),
    /// The file is another one than the one that was written.
    #[error(
        "the data folder is a copy (`banter log backup --move` marks one that is to go on in the place of the original): every room goes on under a new epoch"
    )]
    Copied,
    /// The last run did not end in order, and the machine was started since.
    #[error("the machine went down under run {0}: rooms whose durability is `written` go on under a new epoch")]
    WentDown(u64),
}

impl Ledger {
    /// A run begins: says what is in doubt of the time before it, and breaks what that concerns.
    pub fn begin(&mut self, start: &Start) -> Option<Doubt> {
        let (epoch, is_new) = (Epoch(start.run), self.last.is_none());
        let doubt = self.doubt_at(start);
        match doubt {
            Some(Doubt::WentDown(run)) => self.add_break(Break { run, epoch, every_level: false }),
            Some(_) => self.break_all(start.run),
            None => {}
        }
        if is_new {
            self.blank = epoch;
        }
        if is_new || self.levels.hash != start.levels_hash {
            // A room that is safer now, and of which a power cut left nothing, is not told by an epoch that it had.
            let of_cut = self.written_break.map_or(Epoch(0), |there| there.epoch);
            self.blank = self.blank.max(of_cut);
            self.levels = Levels { hash: start.levels_hash, epoch };
        }
        self.last = Some(LastRun { run: start.run, is_closed: false, boot: start.boot });
        (self.is_moved, self.newest_segment) = (false, 0);
        doubt
    }

    fn doubt_at(&self, start: &Start) -> Option<Doubt> {
        let Some(last) = self.last else { return start.newest_run.map(|_| Doubt::Lost) };
        if start.newest_run.is_some_and(|newest| newest > last.run) {
            return Some(Doubt::Older(last.run));
        }
        if start.identity != self.identity && !self.is_moved {
            return Some(Doubt::Copied);
        }
        let is_same_boot = matches!((last.boot, start.boot), (Some(last), Some(this)) if last == this);
        (!last.is_closed && !is_same_boot).then_some(Doubt::WentDown(last.run))
    }

    /// Every room goes on under a new epoch: the number of the run that finds out.
    pub fn break_all(&mut self, run: u64) {
        self.add_break(Break { run: run.saturating_sub(1), epoch: Epoch(run), every_level: true });
    }

    fn add_break(&mut self, new: Break) {
        let of_level = if new.every_level { &mut self.all_break } else { &mut self.written_break };
        let before = of_level.unwrap_or(new);
        *of_level = Some(Break { run: before.run.max(new.run), epoch: before.epoch.max(new.epoch), ..new });
        if new.every_level {
            self.blank = self.blank.max(new.epoch);
        }
    }

    /// Where histories broke.
    pub fn breaks(&self) -> Vec<Break> {
        self.written_break.into_iter().chain(self.all_break).collect()
    }

    /// What happened to a log with these segments.
    pub fn past<'s>(&self, segments: impl Iterator<Item = &'s SegmentHeader>) -> Past<'static> {
        let (breaks, oldest) = (self.breaks().into(), Catalog::oldest_of(segments));
        Past { breaks, oldest, dropped: self.dropped, changed: self.levels.epoch }
    }

    /// The epochs of logged rooms that have no message in the log. A room may have lost what it was shown of: so it goes by
    /// a break that concerns its level, too.
    pub fn blank(&self) -> Blank {
        let epoch_of = |there: Option<Break>| there.map_or(Epoch(0), |there| there.epoch);
        let synced = self.blank.max(epoch_of(self.all_break));
        Blank { synced, written: synced.max(epoch_of(self.written_break)) }
    }

    /// The largest number that it shows.
    pub fn largest(&self) -> u64 {
        let breaks = self.breaks();
        let of_breaks = breaks.iter().flat_map(|there| [there.run, there.epoch.0]);
        let others = [self.last.map_or(0, |last| last.run), self.blank.0, self.levels.epoch.0];
        of_breaks.chain(others).max().unwrap_or(0)
    }

    fn encode(&self) -> Vec<u8> {
        let last = self.last.unwrap_or(LastRun { run: 0, is_closed: false, boot: None });
        let mut content = Vec::with_capacity(CONTENT_BYTES);
        content.extend_from_slice(&last.run.to_le_bytes());
        content.extend_from_slice(&[last.is_closed.into(), self.is_moved.into(), 0, 0, 0, 0, 0, 0]);
        content.extend_from_slice(&last.boot.map_or(0, |boot| boot.0).to_le_bytes());
        let breaks = [self.written_break, self.all_break];
        let breaks = breaks.into_iter().flat_map(|there| there.map_or([0, 0], |there| [there.run, there.epoch.0]));
        let FileIdentity { inode, born_ns } = self.identity;
        let rest =
            [self.blank.0, self.levels.hash, self.levels.epoch.0, inode, born_ns, self.dropped.0, self.newest_segment];
        breaks.chain(rest).for_each(|number| content.extend_from_slice(&number.to_le_bytes()));
        content
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let content: &[u8; CONTENT_BYTES] = content.try_into().ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(content.get(at..at + 8)?.try_into().ok()?));
        let break_at = |at, every_level| {
            let there = Break { run: number(at)?, epoch: Epoch(number(at + 8)?), every_level };
            Some((there.epoch.0 != 0).then_some(there))
        };
        let boot = u128::from_le_bytes(content.get(16..32)?.try_into().ok()?);
        let boot = (boot != 0).then_some(BootId(boot));
        let run = number(0)?;
        Some(Ledger {
            last: (run != 0).then_some(LastRun { run, is_closed: content[8] == 1, boot }),
            written_break: break_at(32, false)?,
            all_break: break_at(48, true)?,
            blank: Epoch(number(64)?),
            levels: Levels { hash: number(72)?, epoch: Epoch(number(80)?) },
            identity: FileIdentity { inode: number(88)?, born_ns: number(96)? },
            dropped: Epoch(number(104)?),
            newest_segment: number(112)?,
            is_moved: content[9] == 1,
        })
    }
}

/// What lies in a folder.
#[derive(Debug)]
pub enum Found {
    /// No ledger.
    Nothing,
    /// A damaged one.
    Lost(Slots),
    /// A whole one.
    Whole(LedgerFile),
}

impl Found {
    /// What it says; nothing if it is lost.
    pub fn ledger(&self) -> Ledger {
        match self {
            Found::Whole(file) => file.ledger.clone(),
            Found::Nothing | Found::Lost(_) => Ledger::default(),
        }
    }

    /// Which file it is.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn identity(&self) -> io::Result<FileIdentity> {
        match self {
            Found::Whole(file) => file.slots.identity(),
            Found::Nothing | Found::Lost(_) => Ok(FileIdentity::default()),
        }
    }

    /// The run of which nothing that was written can have been lost since: it was the last one, on this boot of the machine
    /// or with all on the disk, and in this folder.
    pub fn unlost_run(&self, boot: Option<BootId>) -> Option<u64> {
        let ledger = self.ledger();
        let last = ledger.last.filter(|_| self.identity().is_ok_and(|identity| identity == ledger.identity))?;
        let is_same_boot = matches!((last.boot, boot), (Some(last), Some(this)) if last == this);
        (last.is_closed || is_same_boot).then_some(last.run)
    }

    /// Writes what it says from now on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn write(self, folder: &Path, ledger: Ledger) -> io::Result<LedgerFile> {
        let content = |identity| Ledger { identity, ..ledger.clone() }.encode();
        let slots = match self {
            Found::Nothing => Slots::make(&folder.join(FILE), KIND, content)?,
            Found::Lost(slots) => slots.renew(content)?,
            Found::Whole(mut file) => {
                file.slots.write(&content(file.slots.identity()?))?;
                file.slots
            }
        };
        let identity = slots.identity()?;
        Ok(LedgerFile { slots, ledger: Ledger { identity, ..ledger } })
    }
}

/// The ledger and its file.
#[derive(Debug)]
pub struct LedgerFile {
    slots: Slots,
    ledger: Ledger,
}

impl LedgerFile {
    /// Opens the folder's.
    ///
    /// # Errors
    /// What the kernel says, or that a later Banter wrote it.
    pub fn open(folder: &Path) -> Result<Found, SlotsFault> {
        Ok(match Slots::open(&folder.join(FILE), KIND)? {
            slots::Found::Nothing => Found::Nothing,
            slots::Found::Lost(slots) => Found::Lost(slots),
            slots::Found::Whole(slots, content) => match Ledger::decode(&content) {
                Some(ledger) => Found::Whole(LedgerFile { slots, ledger }),
                None => Found::Lost(slots),
            },
        })
    }

    /// What is there, and what it says, for whoever only looks.
    ///
    /// # Errors
    /// What the kernel says, or that a later Banter wrote it.
    pub fn look(folder: &Path) -> Result<(Seen, Ledger), SlotsFault> {
        Ok(match Slots::look(&folder.join(FILE), KIND)? {
            Seen::Whole { content, is_torn } => match Ledger::decode(&content) {
                Some(ledger) => (Seen::Whole { content, is_torn }, ledger),
                None => (Seen::Lost, Ledger::default()),
            },
            other => (other, Ledger::default()),
        })
    }

    /// Makes the folder's, in the place of one that may be there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn make(folder: &Path, ledger: Ledger) -> io::Result<Self> {
        Found::Nothing.write(folder, ledger)
    }

    /// What it says.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Rooms without a message in the log go by this epoch from now on. Said before anything is dropped: a room that loses
    /// its last message must not begin again under an epoch that it had.
    ///
    /// # Errors
    /// What the kernel says; then nothing has changed.
    pub fn raise_blank(&mut self, epoch: Epoch) -> io::Result<()> {
        self.change(|ledger| {
            ledger.blank = ledger.blank.max(epoch);
            ledger.dropped = ledger.dropped.max(epoch);
        })
    }

    /// What was written is not known to be on the disk, though the machine did not go down: a sync of it failed. From now on
    /// the end of this run is taken for a power cut, whatever it is.
    ///
    /// # Errors
    /// What the kernel says; then nothing has changed.
    pub fn forget_boot(&mut self) -> io::Result<()> {
        self.change(|ledger| ledger.last = ledger.last.map(|last| LastRun { boot: None, ..last }))
    }

    /// The run is over. Where all of it is on the disk, its newest segment with a record is to be there at the next start.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn end(&mut self, is_whole: bool, newest_segment: u64) -> io::Result<()> {
        self.change(|ledger| {
            ledger.last = ledger.last.map(|last| LastRun { is_closed: is_whole, ..last });
            ledger.newest_segment = if is_whole { newest_segment } else { 0 };
        })
    }

    fn change(&mut self, change: impl FnOnce(&mut Ledger)) -> io::Result<()> {
        let mut ledger = self.ledger.clone();
        change(&mut ledger);
        self.slots.write(&ledger.encode())?;
        self.ledger = ledger;
        Ok(())
    }
}

/// Marks a copy of a log's folder: the next start on it goes on as the folder that it was made from. False: it has no whole
/// ledger, and goes on under new epochs.
///
/// # Errors
/// What the kernel says, or that a later Banter wrote it.
pub fn mark_moved(folder: &Path) -> io::Result<bool> {
    match LedgerFile::open(folder) {
        Ok(Found::Whole(mut file)) => file.change(|ledger| ledger.is_moved = true).map(|()| true),
        Ok(Found::Nothing | Found::Lost(_)) => Ok(false),
        Err(SlotsFault::Disk(error)) => Err(error),
        Err(later @ SlotsFault::Later { .. }) => Err(io::Error::other(later)),
    }
}

#[cfg(test)]
mod tests;
