//! The list of what was to be erased, which outlives it: what a backup brings back is erased again.
//!
//! ```text
//!  file    [ record 512 B ][ record 512 B ]…[ zeros ]       each has a place of its own, and is never changed
//!
//!  offset  size  field
//!       0     4  magic "ERAS"
//!       4     2  bytes of the content
//!       6     1  what it says: 1 = asked, 2 = bound, 3 = done, 4 = finished
//!       7     1  format: 2
//!       8     4  CRC-32C of the 8 bytes before and of the content
//!      12     n  content, then zeros
//! ```
//!
//! Invariants:
//! - Each record is appended under a lock of the file, since a tool may ask while a server runs, and is on the disk before
//!   anything follows from it.
//! - The disk writes a record whole or not: only one that the file ends in the midst of was torn, and is written over. Any other
//!   that does not check is damage, which is said, and the next goes behind it.
//! - An ask brings the zeros that its *bound* and its *done* are written over: what was accepted needs no more space.
//! - Up to where an erasure reaches is kept of every folder that said it: what came behind any of these was said later, in this
//!   folder or in one that was copied from it.
//!
//! *Bound* says up to where an erasure reaches, once a folder has begun with it; *done*, that nothing of it is left there. The
//! files' part in both is about the folder that they name, by its ledger's file: of a copy nothing is done. *Finished* is what an
//! ask and its *done* become when the list is full.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use banter_log::erasure::{Bound, Erasure};
use banter_protocol::ids::{ROOM_BYTES_MAX, RoomName, Sequence, USER_BYTES_MAX, UserName};

use super::files::{folder_of, put_in_place};
use super::owner::{draft_like, own_as};
use super::slots::FileIdentity;

mod compact;
mod content;

use content::{Said, decode, encode};

/// The list's file in the log's folder.
pub const FILE: &str = "erasures";
/// Bytes of a record: a sector, which the disk writes whole or not.
pub const RECORD_BYTES: usize = 512;
/// Erasures that may be asked for and not be done: a server holds each against every page of its room.
pub const PENDING_MAX: usize = 1_024;
/// Records of a list above which it is written anew, shorter, and nothing is asked if it cannot be: 32 MiB. It is read at each
/// start. The first start on a copy adds to each that is not done there what was kept free for it, or twice as much.
pub const RECORDS_MAX: u64 = 65_536;

/// How long the list's lock is waited for, by who asks and by the keeper, which has other things to do and comes again.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);
const KEEPER_LOCK_WAIT_MAX: Duration = Duration::from_millis(20);
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Records that follow an ask: *bound* and *done*.
const RECORDS_OWED: u64 = 2;

/// What tells that a list was added to: which file, how long, and when it was written last.
type Stamp = (u64, u64, Option<SystemTime>);

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
    /// What is known of what there is by then.
    pub bound: Bound,
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
    /// What was done, once nothing is left in this folder.
    pub done: Option<Ended>,
}

/// What was made of an erasure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Messages that were erased.
    pub messages: u64,
    /// Bytes that do not check, and may hold some of it.
    pub unread_bytes: u64,
}

/// What a folder says of an erasure when it begins with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The erasure.
    pub number: u64,
    /// Up to where it reaches.
    pub bound: Bound,
    /// No later segment holds anything of it.
    pub through_segment: u64,
}

/// What a list says to a folder.
#[derive(Clone, Debug, Default)]
pub struct List {
    all: BTreeMap<u64, Listed>,
    /// Where the next record goes.
    end: u64,
    /// Bytes of the file.
    bytes: u64,
    /// The largest number that any record names.
    newest: u64,
    /// Records that do not check.
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
        let mut list = List { bytes: bytes.len() as u64, ..List::default() };
        for (at, record) in bytes.chunks(RECORD_BYTES).enumerate() {
            if record.iter().all(|&byte| byte == 0) || record.len() < RECORD_BYTES {
                continue;
            }
            // What is zeros ahead of something was something.
            list.damaged += at as u64 - list.end / RECORD_BYTES as u64;
            list.end = (at as u64 + 1) * RECORD_BYTES as u64;
            match decode(record) {
                Some(said) => list.take(said, folder),
                None => list.damaged += 1,
            }
        }
        list
    }

    /// The number of the next one: above any that a damaged record may have had.
    fn next_number(&self) -> u64 {
        self.newest.saturating_add(self.damaged).saturating_add(1)
    }

    /// Bytes that are to be kept free for what is not done.
    fn owed_bytes(&self) -> u64 {
        let owed = |listed: &Listed| RECORDS_OWED - u64::from(listed.through_segment.is_some());
        self.pending().map(owed).sum::<u64>() * RECORD_BYTES as u64
    }

    fn take(&mut self, said: Said, folder: FileIdentity) {
        match said {
            Said::Asked { number, at_ms, wanted } => self.take_asked(number, at_ms, wanted, None),
            Said::Finished { number, at_ms, wanted, folder: of, ended } => {
                self.take_asked(number, at_ms, wanted, (of == folder).then_some(ended));
            }
            Said::Bound { number, folder: of, bound, through_segment } => {
                self.newest = self.newest.max(number);
                let Some(listed) = self.all.get_mut(&number) else { return };
                listed.erasure.bound = listed.erasure.bound.within(bound);
                if of == folder {
                    listed.through_segment = Some(through_segment);
                }
            }
            Said::Done { number, folder: of, ended } => {
                self.newest = self.newest.max(number);
                if let Some(listed) = self.all.get_mut(&number).filter(|_| of == folder) {
                    listed.done = Some(ended);
                }
            }
        }
    }

    fn take_asked(&mut self, number: u64, at_ms: u64, wanted: Wanted, done: Option<Ended>) {
        let Wanted { room, user, first, last, bound } = wanted;
        let erasure = Erasure { number, room, user, first, last, bound };
        self.newest = self.newest.max(number);
        self.all.insert(number, Listed { erasure, at_ms, through_segment: None, done });
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
        "the list of erasures has {RECORDS_MAX} records, as many as it may, and cannot be made shorter\n  to mend it: when all are \
         done and no older backup is to be restored any more, remove the file `log/erasures` while no server runs"
    )]
    ListFull,
}

/// The file of the list, and what was read of it last.
#[derive(Debug)]
pub struct ErasureFile {
    path: PathBuf,
    folder: FileIdentity,
    known: Mutex<Option<(Stamp, Arc<List>)>>,
}

impl ErasureFile {
    /// The list of a log's folder, whose ledger's file is that one.
    pub fn of(log: &Path, folder: FileIdentity) -> Self {
        ErasureFile { path: log.join(FILE), folder, known: Mutex::new(None) }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says. It is read anew if it was written to.
    ///
    /// # Errors
    /// What the kernel says; a list that is not there says nothing.
    pub fn read(&self) -> io::Result<Arc<List>> {
        match File::open(&self.path) {
            Ok(file) => self.read_open(&file).map(|(_, list)| list),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Arc::default()),
            Err(error) => Err(error),
        }
    }

    fn read_open(&self, file: &File) -> io::Result<(Stamp, Arc<List>)> {
        let stamp = stamp_of(file)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, list)) = known.as_ref().filter(|(there, _)| *there == stamp) {
            return Ok((stamp, list.clone()));
        }
        let mut bytes = vec![0; usize::try_from(stamp.1).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        let list = Arc::new(List::read(&bytes, self.folder));
        *known = Some((stamp, list.clone()));
        Ok((stamp, list))
    }

    /// Adds an erasure, and the room for what will be said of it; its number.
    ///
    /// # Errors
    /// What the kernel says, or that there are too many.
    pub fn ask(&self, wanted: &Wanted, at_ms: u64) -> Result<u64, AskFault> {
        let (mut file, mut list) = self.open(LOCK_WAIT_MAX)?;
        if list.pending().count() >= PENDING_MAX {
            return Err(AskFault::TooMany);
        }
        let records = |list: &List| (list.end + list.owed_bytes()) / RECORD_BYTES as u64 + 1 + RECORDS_OWED;
        if records(&list) > RECORDS_MAX {
            self.compact(&file, &list)?;
            drop(file);
            (file, list) = self.open(LOCK_WAIT_MAX)?;
        }
        if records(&list) > RECORDS_MAX {
            return Err(AskFault::ListFull);
        }
        let number = list.next_number();
        let owed_bytes = list.owed_bytes() + (1 + RECORDS_OWED) * RECORD_BYTES as u64;
        // Each makes it longer, which tells more surely than any time that there is a new one.
        let bytes = (list.end + owed_bytes).max((list.bytes + 1).next_multiple_of(RECORD_BYTES as u64));
        file.write_all_at(&vec![0; (bytes - list.end) as usize], list.end)?;
        self.append(&file, list, &[Said::Asked { number, at_ms, wanted: wanted.clone() }])?;
        Ok(number)
    }

    /// Says up to where erasures reach in this folder.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bind(&self, bindings: &[Binding]) -> io::Result<()> {
        let folder = self.folder;
        let said = |&Binding { number, bound, through_segment }: &Binding| Said::Bound {
            number,
            folder,
            bound,
            through_segment,
        };
        self.add(bindings.iter().map(said).collect())
    }

    /// Says that nothing of erasures is left in this folder.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn end(&self, ended: &[(u64, Ended)]) -> io::Result<()> {
        let folder = self.folder;
        self.add(ended.iter().map(|&(number, ended)| Said::Done { number, folder, ended }).collect())
    }

    fn add(&self, said: Vec<Said>) -> io::Result<()> {
        if said.is_empty() {
            return Ok(());
        }
        let (file, list) = self.open(KEEPER_LOCK_WAIT_MAX)?;
        self.append(&file, list, &said)
    }

    /// Behind what is there, over one that was torn.
    fn append(&self, file: &File, list: Arc<List>, said: &[Said]) -> io::Result<()> {
        let bytes: Vec<u8> = said.iter().flat_map(encode).collect();
        // Until it is written nobody knows what is there.
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        file.write_all_at(&bytes, list.end)?;
        file.sync_data()?;
        let stamp = stamp_of(file)?;
        let mut list = Arc::unwrap_or_clone(list);
        (list.end, list.bytes) = (list.end + bytes.len() as u64, stamp.1);
        said.iter().for_each(|said| list.take(said.clone(), self.folder));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((stamp, Arc::new(list)));
        Ok(())
    }

    /// Locked until the file is closed.
    fn open(&self, wait: Duration) -> io::Result<(File, Arc<List>)> {
        loop {
            let is_new = !self.path.exists();
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
            lock(&file, wait)?;
            // Another may lie in its place by now.
            if std::fs::metadata(&self.path).ok().map(|there| there.ino()) != Some(file.metadata()?.ino()) {
                continue;
            }
            if is_new {
                own_as(&file, &self.path, folder_of(&self.path))?;
                File::open(folder_of(&self.path))?.sync_all()?;
            }
            let (_, list) = self.read_open(&file)?;
            return Ok((file, list));
        }
    }

    /// Writes the list anew with what is to be kept of it; `_locked` is the old file.
    fn compact(&self, _locked: &File, list: &List) -> io::Result<()> {
        let (folder, draft_path) = (folder_of(&self.path), super::files::draft_of(&self.path));
        let written = draft_like(&self.path).and_then(|draft| {
            let bytes: Vec<u8> = compact::kept(list, self.folder).iter().flat_map(encode).collect();
            draft.write_all_at(&bytes, 0)?;
            draft.sync_all()?;
            put_in_place(folder, &draft_path, &self.path)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&draft_path);
        }
        written
    }
}

fn stamp_of(file: &File) -> io::Result<Stamp> {
    let found = file.metadata()?;
    Ok((found.ino(), found.len(), found.modified().ok()))
}

/// Locks the list. Who holds it does so for one write: a process that was stopped in the midst of it stops nobody else.
fn lock(file: &File, wait: Duration) -> io::Result<()> {
    let until = Instant::now() + wait;
    loop {
        match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOCK_PAUSE),
            locked => return Ok(locked?),
        }
    }
}

const _: () = assert!(content::HEADER_BYTES + 2 + ROOM_BYTES_MAX + USER_BYTES_MAX + 11 * 8 <= RECORD_BYTES);

#[cfg(test)]
mod tests;
