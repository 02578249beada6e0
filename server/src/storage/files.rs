//! Files of the log that no core waits for: made, filled with zeros, synced and put in their place, with plain calls.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use banter_log::PAGE_BYTES;
use banter_log::segment::SegmentHeader;

use super::aligned::Aligned;
use super::{index_path, segment_path};

/// What a file is called until it is whole. Such files are swept away at start.
pub const DRAFT_SUFFIX: &str = ".new";
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
/// A `gentle` one leaves the disk alone for as long as each write took, for the sake of those who commit meanwhile.
///
/// # Errors
/// What the kernel says; nothing is left behind.
pub fn make_segment(
    folder: &Path,
    header: &SegmentHeader,
    segment_bytes: u64,
    gentle: bool,
) -> io::Result<SegmentFile> {
    let path = segment_path(folder, header.id);
    let draft = draft_of(&path);
    let made = fill(&draft, header, segment_bytes, gentle)
        .and_then(|()| SegmentFile::open(&draft))
        .and_then(|file| put_in_place(folder, &draft, &path).map(|()| file));
    if made.is_err() {
        let _ = fs::remove_file(&draft);
    }
    made
}

fn draft_of(path: &Path) -> std::path::PathBuf {
    let mut draft = path.as_os_str().to_owned();
    draft.push(DRAFT_SUFFIX);
    draft.into()
}

fn fill(draft: &Path, header: &SegmentHeader, segment_bytes: u64, gentle: bool) -> io::Result<()> {
    let file = create_direct(draft)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, segment_bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
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
        if gentle {
            std::thread::sleep(began.elapsed().min(Duration::from_millis(20)));
        }
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

/// Writes a segment's index, whole or not at all; the segment itself is made safe first, so that an index never tells of
/// blocks that a power cut can take.
///
/// # Errors
/// What the kernel says.
pub fn write_index(folder: &Path, segment: u64, bytes: &[u8]) -> io::Result<()> {
    File::open(segment_path(folder, segment))?.sync_data()?;
    write_whole(folder, &index_path(folder, segment), bytes)
}

/// Writes a small file in one step: a power cut leaves the old one or the new one.
///
/// # Errors
/// What the kernel says.
pub fn write_whole(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = draft_of(path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    put_in_place(folder, &draft, path)
}

fn put_in_place(folder: &Path, draft: &Path, path: &Path) -> io::Result<()> {
    fs::rename(draft, path)?;
    File::open(folder)?.sync_all()
}

/// Removes a segment and its index; the index first, so that none is left alone.
pub fn remove_segment(folder: &Path, segment: u64) {
    for path in [index_path(folder, segment), segment_path(folder, segment)] {
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "cannot remove {}, which nobody needs any more", path.display());
        }
    }
}

/// Bytes free for this user on the folder's disk.
///
/// # Errors
/// What the kernel says.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
