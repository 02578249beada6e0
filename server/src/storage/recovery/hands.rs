//! What a recovery does to the disk that a test may have fail: readings, and the indexes that it writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::storage::files::write_index;

/// Readings of segments, and writings of indexes.
pub(super) trait Hands: Sync {
    /// Reads a piece of a segment. 0: the file ends there.
    fn read(&self, _segment: u64, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(bytes, offset)
    }

    /// Has the kernel forget what it holds of a file, so that it is read from the disk. A file system without such advice is
    /// read as it is.
    fn forget(&self, file: &File) {
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    }

    /// Writes a segment's index, whole or not at all.
    fn write_index(&self, folder: &Path, segment: u64, bytes: &[u8]) -> io::Result<()> {
        write_index(folder, segment, bytes)
    }
}

/// The disk as it is.
pub(super) struct Disk;

impl Hands for Disk {}
