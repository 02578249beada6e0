//! Files of the log that no core waits for: made, filled with zeros, synced and put in their place, with plain calls.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banter_log::PAGE_BYTES;
use banter_log::segment::SegmentHeader;

use super::aligned::Aligned;
use super::sizing::Disk;
use super::{index_path, segment_path};

/// What a file is called until it is whole. Such files are swept away at start.
pub const DRAFT_SUFFIX: &str = ".new";
/// Names that are tried for a file that is put aside.
const PUT_ASIDE_MAX: usize = 10_000;
/// Bytes of zeros that one write brings.
const FILL_BYTES: usize = 256 * 1_024;

/// File systems whose direct writes with `RWF_DSYNC` are as safe as `fdatasync` when they end, by `statfs(2)`'s type:
/// ext2 to ext4 and XFS, whose direct I/O is the kernel's iomap, which flushes the disk's cache, or writes through it,
/// before it tells (`iomap_dio_complete`). Others may take no notice of the flag: FUSE leaves it to its server.
const SYNC_AS_THEY_WRITE: [rustix::fs::FsWord; 2] = [0xef53, 0x5846_5342];

/// A segment, open for appends.
#[derive(Debug)]
pub struct SegmentFile {
    /// Past the page cache.
    pub file: File,
    /// A write with `RWF_DSYNC` needs no `fdatasync` behind it.
    pub syncs_as_it_writes: bool,
}

impl SegmentFile {
    /// Opens a segment.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path)?;
        let syncs_as_it_writes = SYNC_AS_THEY_WRITE.contains(&rustix::fs::fstatfs(&file)?.f_type);
        Ok(SegmentFile { file, syncs_as_it_writes })
    }
}

/// Makes a segment: allocated, full of zeros behind its header, on the disk, and under its name. Zeros that were written
/// make a later sync a third cheaper than a file that was only allocated, and a tenth of one that grows.
///
/// `pause` is called behind each write with the time that it took, and may leave the disk alone for the sake of those who
/// commit meanwhile.
///
/// # Errors
/// What the kernel says, or that there is such a file; nothing is left behind.
pub fn make_segment(folder: &Path, header: &SegmentHeader, pause: &mut dyn FnMut(Duration)) -> io::Result<SegmentFile> {
    let path = segment_path(folder, header.id);
    if fs::exists(&path)? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let draft = draft_of(&path);
    let made = fill(&draft, header, pause)
        .and_then(|()| SegmentFile::open(&draft))
        .and_then(|file| put_in_place(folder, &draft, &path).map(|()| file));
    if made.is_err() {
        // Under its name, too: the folder may have it, and nobody will write to it.
        [draft, path].iter().for_each(|left| drop(fs::remove_file(left)));
    }
    made
}

/// The name that a file has until it is whole.
pub(super) fn draft_of(path: &Path) -> PathBuf {
    let mut draft = path.as_os_str().to_owned();
    draft.push(DRAFT_SUFFIX);
    draft.into()
}

fn fill(draft: &Path, header: &SegmentHeader, pause: &mut dyn FnMut(Duration)) -> io::Result<()> {
    let segment_bytes = header.file_bytes;
    let file = create_direct(draft)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, segment_bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    let mut buffer = Aligned::zeroed(FILL_BYTES);
    buffer.bytes_mut()[..PAGE_BYTES].copy_from_slice(&header.write());
    let mut offset = 0;
    while offset < segment_bytes {
        let began = Instant::now();
        let bytes = (segment_bytes - offset).min(FILL_BYTES as u64);
        file.write_all_at(&buffer.bytes_mut()[..bytes as usize], offset)?;
        if offset == 0 {
            buffer.bytes_mut()[..PAGE_BYTES].fill(0);
        }
        offset += bytes;
        pause(began.elapsed());
    }
    file.sync_all()
}

/// Whether files of that folder can be opened past the page cache.
///
/// # Errors
/// What the kernel says: `EINVAL` where the file system cannot.
pub fn try_direct(folder: &Path) -> io::Result<()> {
    let draft = draft_of(&folder.join("direct"));
    let tried = create_direct(&draft).map(drop);
    // One that stays is swept away at the next start.
    let _ = fs::remove_file(&draft);
    tried
}

/// A new file past the page cache: what is written here is not read again.
fn create_direct(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_DIRECT).open(path)
}

/// Writes a page of a sealed segment, past the page cache.
///
/// # Errors
/// What the kernel says.
pub fn write_page(folder: &Path, segment: u64, page: &[u8], offset: u64) -> io::Result<()> {
    SegmentFile::open(&segment_path(folder, segment))?.file.write_all_at(Aligned::copy_of(page).bytes(), offset)
}

/// Why a segment is not known to be on the disk.
#[derive(Debug)]
pub enum SyncFault {
    /// It could not be opened: that may be tried again.
    Unopened(io::Error),
    /// The sync failed. The kernel may have forgotten what it could not write, so that another one would succeed for nothing.
    Failed(io::Error),
}

/// Makes a segment safe against a power cut. Once: see [`SyncFault::Failed`].
///
/// # Errors
/// What the kernel says, and to what.
pub fn sync_segment(folder: &Path, segment: u64) -> Result<(), SyncFault> {
    match File::open(segment_path(folder, segment)) {
        Ok(file) => file.sync_data().map_err(SyncFault::Failed),
        // It will not come back.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SyncFault::Failed(error)),
        Err(error) => Err(SyncFault::Unopened(error)),
    }
}

/// Makes a segment safe and writes its index: an index never tells of blocks that a power cut can take.
///
/// # Errors
/// What the kernel says.
pub fn write_index(folder: &Path, segment: u64, bytes: &[u8]) -> io::Result<()> {
    sync_segment(folder, segment).map_err(|fault| match fault {
        SyncFault::Unopened(error) | SyncFault::Failed(error) => error,
    })?;
    put_index(folder, segment, bytes)
}

/// Writes the index of a segment that is on the disk, whole or not at all. May be tried again.
///
/// # Errors
/// What the kernel says.
pub fn put_index(folder: &Path, segment: u64, bytes: &[u8]) -> io::Result<()> {
    write_whole(folder, &index_path(folder, segment), bytes)
}

/// Writes a small file in one step: a power cut leaves the old one or the new one.
///
/// # Errors
/// What the kernel says; no draft is left behind, which would take space on a disk that has none.
pub fn write_whole(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = draft_of(path);
    let written = write_draft(&draft, bytes).and_then(|()| put_in_place(folder, &draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

fn write_draft(draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A draft that is on the disk becomes the file, and the folder remembers it.
pub(super) fn put_in_place(folder: &Path, draft: &Path, path: &Path) -> io::Result<()> {
    fs::rename(draft, path)?;
    File::open(folder)?.sync_all()
}

/// Renames a file to `*.damaged`, or to the next such name that is free. Says which.
///
/// # Errors
/// What the kernel says.
pub fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let names = (1_u64..).map(|number| {
        let mut name = OsString::from(path);
        name.push(".damaged");
        if number > 1 {
            name.push(format!(".{number}"));
        }
        PathBuf::from(name)
    });
    let is_free =
        |name: &PathBuf| fs::symlink_metadata(name).is_err_and(|fault| fault.kind() == io::ErrorKind::NotFound);
    let aside = names.take(PUT_ASIDE_MAX).find(is_free).ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(path, &aside)?;
    File::open(folder_of(path))?.sync_all()?;
    Ok(aside)
}

/// Whether there was no space for it.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The folder that a file lies in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes a segment and its index, and says so where it cannot.
pub fn remove_segment(folder: &Path, segment: u64) {
    if let Err(error) = unlink_segment(folder, segment) {
        let path = segment_path(folder, segment);
        tracing::warn!(%error, "cannot remove {}, which nobody needs any more", path.display());
    }
}

/// Removes a segment and its index; the index first, so that none is left alone. May be tried again.
///
/// # Errors
/// What the kernel says, but for a file that is not there.
pub fn unlink_segment(folder: &Path, segment: u64) -> io::Result<()> {
    for path in [index_path(folder, segment), segment_path(folder, segment)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What the folder's disk has.
///
/// # Errors
/// What the kernel says.
pub fn disk_of(folder: &Path) -> io::Result<Disk> {
    let stat = rustix::fs::statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Disk { free_bytes: bytes(stat.f_bavail), all_bytes: bytes(stat.f_blocks) })
}
