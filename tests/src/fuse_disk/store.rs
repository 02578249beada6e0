//! The files of a disk that may lose its power, each in two copies: as it is now, and as it would be found again.
//!
//! Strict where real file systems are lenient: an entry of a folder is found again only once that folder was synced,
//! the bytes and the length of a file only once that file was. What a failed sync should have made durable no later sync
//! makes durable, as on ext4. Nothing here knows FUSE, but for the numbers of errors.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Instant;

use fuser::Errno;

use crate::seeded::Seeded;

/// The root folder's number.
pub const ROOT: u64 = 1;
/// What is dirty is known by pages of that many bytes.
const PAGE_BYTES: usize = 4_096;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// A disk that is never full.
const ROOMY_BYTES: u64 = 1 << 40;

/// What may go wrong next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// The next write fails, and nothing of it is there.
    WriteEio,
    /// The next sync fails, and what it was to make durable never will be.
    FsyncEio,
    /// The next write of two pages or more writes half and says so, and the write behind it fails. (Half of a page may
    /// hold all that matters.)
    ///
    /// Without that failure io_uring would complete the write by itself, as it does for every regular file, so that
    /// nobody would see it; and, over FUSE with direct I/O, complete it at the wrong place: the kernel (6.18) leaves the
    /// position of an asynchronous write as it was. With it io_uring gives up, and tells the short count.
    ShortWrite,
}

/// Which writes and syncs a fault may happen to.
#[derive(Clone, Copy)]
pub enum Aim {
    /// Those of a file whose name is accepted.
    Files(fn(&str) -> bool),
    /// Writes of bytes that are accepted, and syncs that are to make durable such writes and nothing else. What a file
    /// system in a file writes for itself, a journal for one, is then left alone.
    Writes(fn(&[u8]) -> bool),
}

/// Which reads fail, with EIO.
#[derive(Clone, Copy, Debug)]
pub struct ReadFault {
    /// Of these files.
    pub files: LogFiles,
    /// Those that take in the page at that place of the file; without one, any.
    pub offset: Option<usize>,
    /// One in so many of them, by chance.
    pub one_in: usize,
    /// How many at most; without one, until they are mended.
    pub times: Option<u64>,
}

impl ReadFault {
    /// Every read of these files, until they are mended.
    pub fn of(files: LogFiles) -> Self {
        ReadFault { files, offset: None, one_in: 1, times: None }
    }
}

/// Files of a server's data folder, by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFiles {
    /// Segments that have their name already.
    Segments,
    /// Their indexes.
    Indexes,
    /// The ledger.
    Ledger,
    /// The epoch floor.
    Epoch,
    /// Segments, and their indexes.
    Sealed,
}

impl LogFiles {
    fn have(self, name: &str) -> bool {
        let ends_with = |ending| name.starts_with("segment-") && name.ends_with(ending);
        match self {
            LogFiles::Segments => ends_with(".log"),
            LogFiles::Indexes => ends_with(".index"),
            LogFiles::Ledger => name == "ledger",
            LogFiles::Epoch => name == "epoch",
            LogFiles::Sealed => ends_with(".log") || ends_with(".index"),
        }
    }
}

/// A file or a folder.
pub enum Node {
    /// Bytes.
    File {
        /// As a reader sees them.
        now: Vec<u8>,
        /// As they are found after a power cut.
        durable: Vec<u8>,
        /// The pages in which they differ, and which a sync would copy; whether a write at which faults are aimed
        /// wrote them last.
        dirty: BTreeMap<usize, bool>,
        /// The name that it has now.
        name: String,
    },
    /// Entries.
    Folder {
        /// As a reader sees them.
        now: BTreeMap<String, u64>,
        /// As they are found after a power cut.
        durable: BTreeMap<String, u64>,
    },
}

impl Node {
    fn folder() -> Self {
        Node::Folder { now: BTreeMap::new(), durable: BTreeMap::new() }
    }
}

/// The disk.
pub struct Store {
    nodes: BTreeMap<u64, Node>,
    next_number: u64,
    capacity_bytes: u64,
    aim: Aim,
    armed: Option<DiskFault>,
    read_fault: Option<ReadFault>,
    reads_failed: u64,
    /// Which of the reads fail.
    chance: Seeded,
    /// The file of which half of a write is missing, until somebody tries to write the rest.
    cut_short: Option<u64>,
    fired: Option<Instant>,
    /// Counts power cuts: a file that was opened before one is of no use behind it.
    generation: u64,
    is_on: bool,
}

type Done<T = ()> = Result<T, Errno>;

impl Store {
    /// An empty one.
    pub fn new(aim: Aim) -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::folder())]);
        let (armed, cut_short, fired, generation) = (None, None, None, 0);
        let (next_number, capacity_bytes, is_on) = (ROOT + 1, ROOMY_BYTES, true);
        let (read_fault, reads_failed, chance) = (None, 0, Seeded::new(1));
        Store {
            nodes,
            next_number,
            capacity_bytes,
            aim,
            armed,
            read_fault,
            reads_failed,
            chance,
            cut_short,
            fired,
            generation,
            is_on,
        }
    }

    /// Lets a fault happen once.
    pub fn arm(&mut self, fault: DiskFault) {
        (self.armed, self.fired) = (Some(fault), None);
    }

    /// Lets reads fail; none without a fault.
    pub fn fail_reads(&mut self, fault: Option<ReadFault>) {
        self.read_fault = fault;
    }

    /// Reads that have failed.
    pub fn reads_failed(&self) -> u64 {
        self.reads_failed
    }

    /// When the armed fault happened, if it has.
    pub fn fired(&self) -> Option<Instant> {
        self.fired
    }

    /// Bytes of all files that have an entry.
    pub fn used_bytes(&self) -> u64 {
        let now = self.reachable(|node| match node {
            Node::Folder { now, .. } => Some(now),
            Node::File { .. } => None,
        });
        let bytes =
            |number| if let Some(Node::File { now, .. }) = self.nodes.get(number) { now.len() as u64 } else { 0 };
        now.iter().map(bytes).sum()
    }

    /// Bytes that there is space for.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Leaves space for that many bytes more; all that is wanted without a number.
    pub fn full_after(&mut self, bytes: Option<u64>) {
        self.capacity_bytes = bytes.map_or(ROOMY_BYTES, |bytes| self.used_bytes() + bytes);
    }

    /// Whether there is power.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// What a file that is opened now is known by.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Goes back to what is durable. With chance some sectors that were not synced are durable after all, in any
    /// selection, as a disk with a cache does it. Everything fails until the power is on again.
    pub fn cut_power(&mut self, mut torn: Option<&mut Seeded>) {
        self.generation += 1;
        (self.is_on, self.armed, self.cut_short, self.read_fault) = (false, None, None, None);
        let kept = self.reachable(|node| match node {
            Node::Folder { durable, .. } => Some(durable),
            Node::File { .. } => None,
        });
        self.nodes.retain(|number, _| kept.contains(number));
        for node in self.nodes.values_mut() {
            match node {
                Node::Folder { now, durable } => now.clone_from(durable),
                Node::File { now, durable, dirty, .. } => {
                    if let Some(chance) = torn.as_deref_mut() {
                        keep_some(now, durable, dirty, chance);
                    }
                    dirty.clear();
                    now.clone_from(durable);
                }
            }
        }
    }

    /// Turns the power on again.
    pub fn power_on(&mut self) {
        self.is_on = true;
    }

    /// All that can be found from the root by such entries.
    fn reachable(&self, entries: impl Fn(&Node) -> Option<&BTreeMap<String, u64>>) -> BTreeSet<u64> {
        let (mut found, mut open) = (BTreeSet::from([ROOT]), vec![ROOT]);
        while let Some(number) = open.pop() {
            if let Some(entries) = self.nodes.get(&number).and_then(&entries) {
                open.extend(entries.values().filter(|&&entry| found.insert(entry)));
            }
        }
        found
    }

    /// A file or folder.
    pub fn node(&self, number: u64) -> Done<&Node> {
        self.nodes.get(&number).ok_or(Errno::ENOENT)
    }

    /// The entries of a folder.
    pub fn entries(&self, folder: u64) -> Done<&BTreeMap<String, u64>> {
        match self.node(folder)? {
            Node::Folder { now, .. } => Ok(now),
            Node::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    fn entries_mut(&mut self, folder: u64) -> Done<&mut BTreeMap<String, u64>> {
        match self.nodes.get_mut(&folder) {
            Some(Node::Folder { now, .. }) => Ok(now),
            Some(Node::File { .. }) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    /// The entry of that name.
    pub fn find(&self, folder: u64, name: &str) -> Done<u64> {
        self.entries(folder)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// Makes a file or a folder.
    pub fn make(&mut self, folder: u64, name: &str, is_folder: bool) -> Done<u64> {
        let number = self.next_number;
        let entries = self.entries_mut(folder)?;
        if entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        entries.insert(name.to_owned(), number);
        self.next_number += 1;
        let (now, durable, dirty, name) = (Vec::new(), Vec::new(), BTreeMap::new(), name.to_owned());
        let node = if is_folder { Node::folder() } else { Node::File { now, durable, dirty, name } };
        self.nodes.insert(number, node);
        Ok(number)
    }

    /// Takes an entry away. It may still be durable, and is then found again.
    pub fn remove(&mut self, folder: u64, name: &str) -> Done {
        let number = self.find(folder, name)?;
        if let Node::Folder { now, .. } = self.node(number)?
            && !now.is_empty()
        {
            return Err(Errno::ENOTEMPTY);
        }
        // Whoever has it open goes on with it; the next power cut clears up.
        self.entries_mut(folder)?.remove(name);
        Ok(())
    }

    /// Moves an entry, over another one if need be.
    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str)) -> Done {
        let number = self.find(from.0, from.1)?;
        if self.find(to.0, to.1).is_ok_and(|over| over != number) {
            self.remove(to.0, to.1)?;
        }
        self.entries_mut(from.0)?.remove(from.1);
        self.entries_mut(to.0)?.insert(to.1.to_owned(), number);
        if let Some(Node::File { name, .. }) = self.nodes.get_mut(&number) {
            to.1.clone_into(name);
        }
        Ok(())
    }

    /// Makes the entries of a folder durable.
    pub fn sync_folder(&mut self, folder: u64) -> Done {
        match self.nodes.get_mut(&folder) {
            Some(Node::Folder { now, durable }) => durable.clone_from(now),
            _ => return Err(Errno::ENOTDIR),
        }
        Ok(())
    }

    /// Bytes of a file, for a reader, who may be told that they cannot be read.
    pub fn read_or_fail(&mut self, file: u64, from: usize, length: usize) -> Done<&[u8]> {
        if self.read_fails(file, from..from.saturating_add(length)) {
            self.reads_failed += 1;
            return Err(Errno::EIO);
        }
        self.read(file, from, length)
    }

    fn read_fails(&mut self, file: u64, range: Range<usize>) -> bool {
        let Some(Node::File { name, now, .. }) = self.nodes.get(&file) else { return false };
        let Some(fault) = &mut self.read_fault else { return false };
        // A read behind the end brings nothing that could have been lost.
        let range = range.start.min(now.len())..range.end.min(now.len());
        let is_at = |offset: usize| {
            let page = offset / PAGE_BYTES * PAGE_BYTES;
            range.start < page + PAGE_BYTES && range.end > page
        };
        let is_aimed_at = fault.files.have(name) && !range.is_empty() && fault.offset.is_none_or(is_at);
        if !is_aimed_at || fault.times == Some(0) || !self.chance.once_in(fault.one_in) {
            return false;
        }
        fault.times = fault.times.map(|times| times - 1);
        true
    }

    /// Bytes of a file.
    pub fn read(&self, file: u64, from: usize, length: usize) -> Done<&[u8]> {
        match self.node(file)? {
            Node::File { now, .. } => Ok(&now[from.min(now.len())..from.saturating_add(length).min(now.len())]),
            Node::Folder { .. } => Err(Errno::EISDIR),
        }
    }

    /// Writes bytes into a file, and says how many.
    pub fn write(&mut self, file: u64, from: usize, mut bytes: &[u8]) -> Done<usize> {
        let is_aimed_at = self.is_aimed_at(file, bytes);
        let is_rest = self.cut_short.take_if(|short| *short == file).is_some();
        if is_rest || is_aimed_at && self.fires(DiskFault::WriteEio) {
            return Err(Errno::EIO);
        }
        if bytes.len() >= 2 * PAGE_BYTES && is_aimed_at && self.fires(DiskFault::ShortWrite) {
            bytes = &bytes[..bytes.len() / 2 / SECTOR_BYTES * SECTOR_BYTES];
            self.cut_short = Some(file);
        }
        let to = from + bytes.len();
        self.grow(file, to)?;
        let Some(Node::File { now, dirty, .. }) = self.nodes.get_mut(&file) else { return Err(Errno::EISDIR) };
        now[from..to].copy_from_slice(bytes);
        dirty.extend((from / PAGE_BYTES..to.div_ceil(PAGE_BYTES)).map(|page| (page, is_aimed_at)));
        Ok(bytes.len())
    }

    /// Makes a file at least that long.
    pub fn grow(&mut self, file: u64, length: usize) -> Done {
        let more = length.saturating_sub(self.read(file, 0, usize::MAX)?.len());
        if more > 0 && self.used_bytes() + more as u64 > self.capacity_bytes {
            return Err(Errno::ENOSPC);
        }
        if let Some(Node::File { now, .. }) = self.nodes.get_mut(&file) {
            now.resize(now.len() + more, 0);
        }
        Ok(())
    }

    /// Makes a file exactly that long.
    pub fn set_length(&mut self, file: u64, length: usize) -> Done {
        self.grow(file, length)?;
        if let Some(Node::File { now, dirty, .. }) = self.nodes.get_mut(&file) {
            // What is cut off is to be zero if the file grows again, and not as it was.
            dirty.extend((length / PAGE_BYTES..now.len().div_ceil(PAGE_BYTES)).map(|page| (page, false)));
            now.truncate(length);
        }
        Ok(())
    }

    /// Makes what was written to a file durable, and its length.
    pub fn sync(&mut self, file: u64) -> Done {
        let fails = self.is_sync_aimed_at(file) && self.fires(DiskFault::FsyncEio);
        let Some(Node::File { now, durable, dirty, .. }) = self.nodes.get_mut(&file) else { return Ok(()) };
        let pages = std::mem::take(dirty);
        if fails {
            return Err(Errno::EIO);
        }
        durable.resize(now.len(), 0);
        for page in pages.into_keys() {
            copy(now, durable, page * PAGE_BYTES, PAGE_BYTES);
        }
        Ok(())
    }

    fn is_aimed_at(&self, file: u64, bytes: &[u8]) -> bool {
        match (self.aim, self.nodes.get(&file)) {
            (Aim::Files(is_one), Some(Node::File { name, .. })) => is_one(name),
            (Aim::Writes(is_one), Some(Node::File { .. })) => is_one(bytes),
            _ => false,
        }
    }

    fn is_sync_aimed_at(&self, file: u64) -> bool {
        match (self.aim, self.nodes.get(&file)) {
            (Aim::Files(is_one), Some(Node::File { name, .. })) => is_one(name),
            (Aim::Writes(_), Some(Node::File { dirty, .. })) => !dirty.is_empty() && dirty.values().all(|&aimed| aimed),
            _ => false,
        }
    }

    fn fires(&mut self, fault: DiskFault) -> bool {
        let fires = self.armed == Some(fault);
        if fires {
            (self.armed, self.fired) = (None, Some(Instant::now()));
        }
        fires
    }
}

fn copy(from: &[u8], to: &mut [u8], at: usize, length: usize) {
    let end = (at + length).min(from.len()).min(to.len());
    if at < end {
        to[at..end].copy_from_slice(&from[at..end]);
    }
}

/// Some sectors that nobody synced have reached the disk. Its length is durable as it was.
fn keep_some(now: &[u8], durable: &mut [u8], dirty: &BTreeMap<usize, bool>, chance: &mut Seeded) {
    for sector in dirty.keys().flat_map(|page| (0..PAGE_BYTES / SECTOR_BYTES).map(move |at| (page, at))) {
        if chance.once_in(2) {
            copy(now, durable, sector.0 * PAGE_BYTES + sector.1 * SECTOR_BYTES, SECTOR_BYTES);
        }
    }
}
