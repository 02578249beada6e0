//! The list of what was to be erased, which outlives it: what a backup brings back is erased again.
//!
//! ```text
//!  file    [ record 512 B ][ record 512 B ]…       each has a place of its own, and is never changed
//!
//!  offset  size  field
//!       0     4  magic "ERAS"
//!       4     2  bytes of the content
//!       6     1  what it says: 1 = asked, 2 = bound, 3 = done
//!       7     1  format: 1
//!       8     4  CRC-32C of the 8 bytes before and of the content
//!      12     n  content, then zeros
//! ```
//!
//! Records of one length are found behind one that is damaged, and a torn one is the last: the next is written over it.
//! Each is appended under a lock of the file, since a tool may ask while a server runs, and is on the disk before anything
//! follows from it.
//!
//! *Bound* says up to where an erasure reaches, once a folder has begun with it; *done*, that nothing of it is left there. Both
//! name the folder by its ledger's file: of a copy nothing is known, and all is done again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use banter_log::erasure::Erasure;
use banter_protocol::ids::{ROOM_BYTES_MAX, RoomName, Sequence, USER_BYTES_MAX, UserName};

use super::slots::FileIdentity;

mod content;

use content::{Said, decode, encode};

/// The list's file in the log's folder.
pub const FILE: &str = "erasures";
/// Bytes of a record: a sector, which the disk writes whole or not.
pub const RECORD_BYTES: usize = 512;
/// Erasures that may be asked for and not be done: a server holds each against every page of its room.
pub const PENDING_MAX: usize = 1_024;
/// Records of a list: 32 MiB. It is read at each start.
pub const RECORDS_MAX: u64 = 65_536;

/// How long the list's lock is waited for.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// What tells that a list was added to; none where there is none.
pub type Stamp = Option<(u64, Option<SystemTime>)>;

/// What is to be erased, as it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The room.
    pub room: RoomName,
    /// Only what this user said.
    pub user: Option<UserName>,
    /// The first place.
    pub first: Sequence,
    /// The last; `Sequence(u64::MAX)`: whatever there is by then.
    pub last: Sequence,
}

/// An erasure of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What is to go; up to where it reaches as far as that is known.
    pub erasure: Erasure,
    /// When it was asked, milliseconds since 1970.
    pub at_ms: u64,
    /// No later segment holds anything of it; `None`: nobody has begun with it in this folder.
    pub through_segment: Option<u64>,
    /// How many messages were erased, once nothing is left.
    pub done: Option<u64>,
}

/// What a list says to a folder.
#[derive(Debug, Default)]
pub struct List {
    all: BTreeMap<u64, Listed>,
    /// Where the next record goes.
    end: u64,
    /// Records that do not check, and are not the last.
    pub damaged: u64,
}

impl List {
    /// All of them, by number.
    pub fn all(&self) -> impl Iterator<Item = &Listed> {
        self.all.values()
    }

    /// Those that are not done.
    pub fn pending(&self) -> impl Iterator<Item = &Listed> {
        self.all().filter(|listed| listed.done.is_none())
    }

    /// One of them.
    pub fn get(&self, number: u64) -> Option<&Listed> {
        self.all.get(&number)
    }

    /// Reads a list's bytes, as they concern the folder of that identity.
    fn read(bytes: &[u8], folder: FileIdentity) -> Self {
        let mut list = List::default();
        let mut numbers = 0;
        for (at, record) in bytes.chunks(RECORD_BYTES).enumerate() {
            let Some(said) = decode(record) else {
                list.damaged += 1;
                continue;
            };
            (numbers, list.end) = (at as u64 + 1, (at as u64 + 1) * RECORD_BYTES as u64);
            list.take(said, folder);
        }
        // What does not check behind the last that does was torn.
        list.damaged -= (bytes.len().div_ceil(RECORD_BYTES) as u64).saturating_sub(numbers);
        list
    }

    fn take(&mut self, said: Said, folder: FileIdentity) {
        match said {
            Said::Asked { number, at_ms, wanted: Wanted { room, user, first, last } } => {
                let erasure = Erasure { number, room, user, first, last };
                self.all.insert(number, Listed { erasure, at_ms, through_segment: None, done: None });
            }
            Said::Bound { number, folder: of, last, through_segment } => {
                if let Some(listed) = self.all.get_mut(&number).filter(|_| of == folder) {
                    listed.erasure.last = listed.erasure.last.min(last);
                    listed.through_segment = Some(through_segment);
                }
            }
            Said::Done { number, folder: of, messages } => {
                if let Some(listed) = self.all.get_mut(&number).filter(|_| of == folder) {
                    listed.done = Some(messages);
                }
            }
        }
    }
}

/// Why an erasure cannot be asked for.
#[derive(Debug, thiserror::Error)]
pub enum AskFault {
    /// The kernel.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// Too many are not done.
    #[error(
        "{PENDING_MAX} erasures wait to be done already\n  to mend it: start a server on the folder, see that its disk has space \
         (`df -h`), and ask again when banter_erasures_pending is lower"
    )]
    TooMany,
    /// The list is full.
    #[error(
        "the list of erasures has {RECORDS_MAX} records, as many as it may\n  to mend it: when all are done and no older backup \
         is to be restored any more, remove the file `log/erasures` while no server runs"
    )]
    ListFull,
}

/// The file of the list.
#[derive(Clone, Debug)]
pub struct ErasureFile {
    path: PathBuf,
    folder: FileIdentity,
}

impl ErasureFile {
    /// The list of a log's folder, whose ledger's file is that one.
    pub fn of(log: &Path, folder: FileIdentity) -> Self {
        ErasureFile { path: log.join(FILE), folder }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is, and when it was written last: another one when something was asked.
    pub fn stamp(&self) -> Stamp {
        self.path.metadata().ok().map(|found| (found.len(), found.modified().ok()))
    }

    /// What it says.
    ///
    /// # Errors
    /// What the kernel says; a list that is not there says nothing.
    pub fn read(&self) -> io::Result<List> {
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(List::read(&bytes, self.folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(List::default()),
            Err(error) => Err(error),
        }
    }

    /// Adds an erasure; its number.
    ///
    /// # Errors
    /// What the kernel says, or that there are too many.
    pub fn ask(&self, wanted: &Wanted, at_ms: u64) -> Result<u64, AskFault> {
        let (file, list) = self.open()?;
        if list.pending().count() >= PENDING_MAX {
            return Err(AskFault::TooMany);
        }
        if list.end / RECORD_BYTES as u64 >= RECORDS_MAX {
            return Err(AskFault::ListFull);
        }
        let number = list.all.last_key_value().map_or(1, |(&last, _)| last.saturating_add(1));
        append(&file, &list, &Said::Asked { number, at_ms, wanted: wanted.clone() })?;
        Ok(number)
    }

    /// Says up to where an erasure reaches in this folder.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bind(&self, number: u64, last: Sequence, through_segment: u64) -> io::Result<()> {
        let (file, list) = self.open()?;
        append(&file, &list, &Said::Bound { number, folder: self.folder, last, through_segment })
    }

    /// Says that nothing of an erasure is left in this folder.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn end(&self, number: u64, messages: u64) -> io::Result<()> {
        let (file, list) = self.open()?;
        append(&file, &list, &Said::Done { number, folder: self.folder, messages })
    }

    /// Locked until the file is closed.
    fn open(&self) -> io::Result<(File, List)> {
        let is_new = !self.path.exists();
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        lock(&file)?;
        if is_new {
            File::open(super::files::folder_of(&self.path))?.sync_all()?;
        }
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        let list = List::read(&bytes, self.folder);
        Ok((file, list))
    }
}

/// Locks the list. Who holds it does so for one write: a process that was stopped in the midst of it stops nobody else.
fn lock(file: &File) -> io::Result<()> {
    let until = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOCK_PAUSE),
            locked => return Ok(locked?),
        }
    }
}

/// Where the whole ones end, over a torn one.
fn append(file: &File, list: &List, said: &Said) -> io::Result<()> {
    file.write_all_at(&encode(said), list.end)?;
    file.sync_data()
}

const _: () = assert!(content::HEADER_BYTES + 2 + ROOM_BYTES_MAX + USER_BYTES_MAX + 4 * 8 <= RECORD_BYTES);

#[cfg(test)]
mod tests;
