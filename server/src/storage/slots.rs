//! A small file that must never be wrong: two slots of a page each, written in place, one after the other.
//!
//! The newer whole one counts. A write goes over the older one and is synced, and then over the other: so one that a power
//! cut tears leaves what counted before; and it needs no free byte, so what a full disk must not keep from being said can be
//! said.
//!
//! Invariant: behind a write that ended both slots hold the same, so that one that rots leaves the other, and never what
//! counted once and does not any more. Two that differ are the remains of a write. No write shortens the file: where a slot
//! is missing, all of it is lost.
//!
//! ```text
//!  offset  size  field
//!       0     8  magic: what kind of file
//!       8     2  format of the content
//!      10     2  bytes of the content
//!      12     4  CRC-32C of the fields before and of all behind, up to the content's end
//!      16     8  counter: the slot with the higher one is the newer
//!      24     n  content, then anything up to 4 KiB
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::time::UNIX_EPOCH;

use super::files::{draft_of, folder_of, is_full, put_aside, put_in_place};

/// Bytes of a slot: a page, so that no write touches the other slot's.
pub const SLOT_BYTES: usize = 4_096;
/// How often a slot is read that the disk fails to read.
pub(super) const READS_MAX: u32 = 4;
/// How long until it is read again.
pub(super) const READ_PAUSE: Duration = Duration::from_millis(20);
/// Bytes of content at most.
pub const CONTENT_BYTES_MAX: usize = SLOT_BYTES - HEADER_BYTES;

const HEADER_BYTES: usize = 24;
const SUM_AT: usize = 12;
const COUNTER_AT: usize = 16;
const SLOTS: usize = 2;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotsKind {
    /// The first bytes of each slot.
    pub magic: [u8; 8],
    /// The format of its content.
    pub format: u16,
}

/// Which file it is, and not what is in it: a copy has another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileIdentity {
    /// Its inode.
    pub inode: u64,
    /// When it was made, nanoseconds since 1970; 0 where the file system does not say.
    pub born_ns: u64,
}

/// What lies where the file should be.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A file of which no slot is whole. Writing to it makes it whole.
    Lost(Slots),
    /// A file, and its newest whole content.
    Whole(Slots, Vec<u8>),
}

/// What a file is like, to whoever only looks.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing lies there.
    Nothing,
    /// No slot is whole, or one is missing.
    Lost,
    /// Its newest whole content.
    Whole {
        /// What it says.
        content: Vec<u8>,
        /// The other slot does not check.
        is_torn: bool,
    },
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SlotsFault {
    /// The kernel.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// A later Banter wrote it.
    #[error("its format is {format}, and this build reads {known}: use the Banter that wrote it")]
    Later {
        /// Its format.
        format: u16,
        /// The one of this build.
        known: u16,
    },
}

/// The file, open for writing.
#[derive(Debug)]
pub struct Slots {
    kind: SlotsKind,
    path: PathBuf,
    file: File,
    /// The newest whole one, if any is.
    newest: Option<Newest>,
}

#[derive(Clone, Copy, Debug)]
struct Newest {
    slot: usize,
    counter: u64,
}

impl Slots {
    /// Opens the file and reads what counts in it. Where the disk cannot read one of the slots, also when it is asked again,
    /// nobody knows which is the newest: then all of it is lost. So it is where one is missing.
    ///
    /// # Errors
    /// What the kernel says, or that a later Banter wrote it.
    pub fn open(path: &Path, kind: SlotsKind) -> Result<Found, SlotsFault> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error.into()),
        };
        let newest = match newest_of(&file, kind) {
            Err(SlotsFault::Disk(error)) => {
                tracing::warn!(%error, "{} cannot be read: it counts as lost", path.display());
                None
            }
            newest => newest?,
        };
        let at = newest.as_ref().map(|counting| counting.newest);
        let slots = Slots { kind, path: path.to_owned(), file, newest: at };
        Ok(match newest {
            Some(counting) => Found::Whole(slots, counting.content),
            None => Found::Lost(slots),
        })
    }

    /// Looks at a file, and changes nothing.
    ///
    /// # Errors
    /// What the kernel says, or that a later Banter wrote it.
    pub fn look(path: &Path, kind: SlotsKind) -> Result<Seen, SlotsFault> {
        let newest = File::open(path).map_err(SlotsFault::from).and_then(|file| newest_of(&file, kind));
        match newest {
            Ok(None) => Ok(Seen::Lost),
            Ok(Some(Counting { content, is_torn, .. })) => Ok(Seen::Whole { content, is_torn }),
            Err(SlotsFault::Disk(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Seen::Nothing),
            Err(SlotsFault::Disk(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Seen::Lost),
            Err(fault) => Err(fault),
        }
    }

    /// Makes the file, in one step, in the place of one that may be there. The content may say whose it is.
    ///
    /// # Errors
    /// What the kernel says; then nothing has changed.
    pub fn make(path: &Path, kind: SlotsKind, content: impl FnOnce(FileIdentity) -> Vec<u8>) -> io::Result<Self> {
        let made = Self::draft(path, kind, content);
        let made = made.and_then(|slots| put_in_place(folder_of(path), &draft_of(path), path).map(|()| slots));
        if made.is_err() {
            let _ = fs::remove_file(draft_of(path));
        }
        made
    }

    /// Makes a lost file anew, and keeps what it was beside it ([`put_aside`]); where there is no space for two, the new
    /// content is written over it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn renew(mut self, content: impl Fn(FileIdentity) -> Vec<u8>) -> io::Result<Self> {
        match Self::draft(&self.path, self.kind, &content) {
            Ok(slots) => {
                let aside = put_aside(&self.path)?;
                put_in_place(folder_of(&self.path), &draft_of(&self.path), &self.path)?;
                tracing::warn!("{} was made anew; what it was is kept as {}", self.path.display(), aside.display());
                Ok(slots)
            }
            Err(error) if is_full(&error) => {
                let _ = fs::remove_file(draft_of(&self.path));
                self.write(&content(self.identity()?))?;
                Ok(self)
            }
            Err(error) => Err(error),
        }
    }

    /// The file under its draft's name, on the disk.
    fn draft(path: &Path, kind: SlotsKind, content: impl FnOnce(FileIdentity) -> Vec<u8>) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(draft_of(path))?;
        // Zeros that were written: room that was only promised would be made at a later write, which may find none.
        file.write_all_at(&[0; SLOTS * SLOT_BYTES], 0)?;
        let mut slots = Slots { kind, path: path.to_owned(), file, newest: None };
        slots.write(&content(slots.identity()?))?;
        slots.file.sync_all()?;
        Ok(slots)
    }

    /// Writes over the older slot and then over the other, and waits until each is on the disk. Where the first fails, what
    /// counted still does; where the second does, the new content counts, and the next write begins with that slot.
    ///
    /// # Errors
    /// What the kernel says of the first, or that the content is too long.
    pub fn write(&mut self, content: &[u8]) -> io::Result<()> {
        let next = match self.newest {
            Some(newest) => Newest { slot: (newest.slot + 1) % SLOTS, counter: newest.counter.saturating_add(1) },
            None => Newest { slot: 0, counter: 1 },
        };
        let bytes = encode(self.kind, next.counter, content).ok_or(io::ErrorKind::FileTooLarge)?;
        self.write_slot(next.slot, &bytes)?;
        self.newest = Some(next);
        if let Err(error) = self.write_slot((next.slot + 1) % SLOTS, &bytes) {
            tracing::warn!(%error, "{} holds what counts only once: see to the disk (`dmesg`)", self.path.display());
        }
        Ok(())
    }

    fn write_slot(&self, slot: usize, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, (slot * SLOT_BYTES) as u64)?;
        self.file.sync_data()
    }

    /// Which file this is.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn identity(&self) -> io::Result<FileIdentity> {
        let found = self.file.metadata()?;
        let born = found.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Ok(FileIdentity { inode: found.ino(), born_ns: born.map_or(0, |since| since.as_nanos() as u64) })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The slot that counts.
struct Counting {
    newest: Newest,
    content: Vec<u8>,
    is_torn: bool,
}

fn newest_of(file: &File, kind: SlotsKind) -> Result<Option<Counting>, SlotsFault> {
    let mut counts: Option<Counting> = None;
    let mut is_torn = false;
    for slot in 0..SLOTS {
        let Some((counter, content)) = read_slot(file, kind, slot)? else {
            is_torn = true;
            continue;
        };
        if counts.as_ref().is_none_or(|there| counter > there.newest.counter) {
            counts = Some(Counting { newest: Newest { slot, counter }, content, is_torn: false });
        }
    }
    Ok(counts.map(|counting| Counting { is_torn, ..counting }))
}

fn read_slot(file: &File, kind: SlotsKind, slot: usize) -> Result<Option<(u64, Vec<u8>)>, SlotsFault> {
    let mut bytes = [0; SLOT_BYTES];
    for tries_left in (0..READS_MAX).rev() {
        match file.read_exact_at(&mut bytes, (slot * SLOT_BYTES) as u64) {
            Ok(()) => return decode(kind, &bytes),
            // The file ends before it, which no torn write makes it do.
            Err(error) if tries_left == 0 || error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(SlotsFault::Disk(error));
            }
            Err(_) => std::thread::sleep(READ_PAUSE),
        }
    }
    Ok(None)
}

fn encode(kind: SlotsKind, counter: u64, content: &[u8]) -> Option<Vec<u8>> {
    let content_bytes = u16::try_from(content.len()).ok().filter(|&bytes| bytes as usize <= CONTENT_BYTES_MAX)?;
    let mut slot = Vec::with_capacity(SLOT_BYTES);
    slot.extend_from_slice(&kind.magic);
    slot.extend_from_slice(&kind.format.to_le_bytes());
    slot.extend_from_slice(&content_bytes.to_le_bytes());
    slot.extend_from_slice(&[0; 4]);
    slot.extend_from_slice(&counter.to_le_bytes());
    slot.extend_from_slice(content);
    let sum = sum_of(&slot);
    slot[SUM_AT..COUNTER_AT].copy_from_slice(&sum.to_le_bytes());
    slot.resize(SLOT_BYTES, 0);
    Some(slot)
}

/// The counter and the content of a slot, if it is whole.
fn decode(kind: SlotsKind, slot: &[u8]) -> Result<Option<(u64, Vec<u8>)>, SlotsFault> {
    let Some((format, counter, content)) = whole(kind, slot) else { return Ok(None) };
    if format != kind.format {
        return Err(SlotsFault::Later { format, known: kind.format });
    }
    Ok(Some((counter, content.to_vec())))
}

fn whole(kind: SlotsKind, slot: &[u8]) -> Option<(u16, u64, &[u8])> {
    let content_bytes = usize::from(u16::from_le_bytes(array(slot, 10)?));
    let summed = slot.get(..HEADER_BYTES + content_bytes)?;
    let is_whole = slot.starts_with(&kind.magic) && sum_of(summed).to_le_bytes() == array(slot, SUM_AT)?;
    let (format, counter) = (u16::from_le_bytes(array(slot, 8)?), u64::from_le_bytes(array(slot, COUNTER_AT)?));
    is_whole.then(|| (format, counter, &summed[HEADER_BYTES..]))
}

fn sum_of(slot: &[u8]) -> u32 {
    let (before, behind) = slot.split_at(SUM_AT.min(slot.len()));
    crc32c::crc32c_append(crc32c::crc32c(before), behind.get(COUNTER_AT - SUM_AT..).unwrap_or(&[]))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests;
