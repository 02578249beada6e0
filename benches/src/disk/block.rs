//! Memory that O_DIRECT takes, and files that it is told of.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, Mode, OFlags};

use super::doing;

/// What O_DIRECT wants addresses, offsets and lengths to be multiples of, on every disk in use.
pub const ALIGNMENT_BYTES: usize = 4096;
/// Bytes that are filled at a time.
const FILL_BYTES: usize = 1 << 20;

/// Bytes that begin at a page.
#[derive(Debug)]
pub struct Block {
    memory: Vec<u8>,
    first: usize,
    bytes: usize,
}

impl Block {
    /// So many, all zero.
    pub fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + ALIGNMENT_BYTES];
        let first = memory.as_ptr().align_offset(ALIGNMENT_BYTES);
        Block { memory, first, bytes }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.first..][..self.bytes]
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.first..][..self.bytes]
    }
}

/// What a file of our own is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeros, as a log's segment is made ahead.
    Zeros,
    /// What no disk can know beforehand or squeeze: for reading.
    Noise,
}

impl Content {
    fn write(self, block: &mut [u8], seed: u64) {
        if self == Content::Zeros {
            return;
        }
        let mut state = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        for word in block.chunks_exact_mut(8) {
            // xorshift64: never zero, and fast enough to leave the disk the slower one.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
    }
}

/// A file of our own, gone when it is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A file in that folder, filled and synced, so that its extents are made and written.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn new(folder: &Path, bytes: u64, content: Content) -> io::Result<Self> {
        let path = folder.join(format!("disk-floor-{}.tmp", std::process::id()));
        let file = File::create_new(&path).map_err(doing("making", &path))?;
        let scratch = Scratch(path);
        let mut block = Block::new(FILL_BYTES);
        for offset in (0..bytes).step_by(FILL_BYTES) {
            content.write(block.bytes_mut(), offset);
            let length = (bytes - offset).min(FILL_BYTES as u64) as usize;
            file.write_all_at(&block.bytes()[..length], offset).map_err(doing("filling", &scratch.0))?;
        }
        file.sync_all().map_err(doing("syncing", &scratch.0))?;
        Ok(scratch)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whoever reads of a leftover in the folder knows it by its name.
        drop(fs::remove_file(&self.0));
    }
}

/// Opens a file, around the page cache where asked to.
///
/// # Errors
/// When it cannot be opened, or its file system knows no O_DIRECT.
pub fn open(path: &Path, access: OFlags, is_direct: bool) -> io::Result<File> {
    let direct = if is_direct { OFlags::DIRECT } else { OFlags::empty() };
    let opened = rustix::fs::open(path, access | direct | OFlags::CLOEXEC, Mode::empty());
    Ok(opened.map_err(doing("opening", path))?.into())
}

/// Lets a file leave the page cache. Only what is written back can leave, so it is synced before.
///
/// # Errors
/// When the file cannot be opened or synced.
pub fn forget(path: &Path) -> io::Result<()> {
    let file = open(path, OFlags::RDONLY, false)?;
    rustix::fs::fdatasync(&file).map_err(doing("syncing", path))?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(doing("forgetting", path))
}

/// The regular files of a folder and of those below it, by name.
///
/// # Errors
/// When a folder cannot be read.
pub fn files_of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(doing("reading", folder))? {
        let entry = entry.map_err(doing("reading", folder))?;
        let kind = entry.file_type().map_err(doing("looking at", &entry.path()))?;
        if kind.is_dir() {
            files.extend(files_of(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_begins_at_a_page_and_has_its_size() {
        for bytes in [4096, 8192, 1 << 20] {
            let mut block = Block::new(bytes);
            assert_eq!((block.bytes().len(), block.bytes().as_ptr().align_offset(ALIGNMENT_BYTES)), (bytes, 0));
            block.bytes_mut().fill(7);
            assert!(block.bytes().iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn a_scratch_file_is_there_whole_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(folder.path(), (2 << 20) + 5, Content::Noise).unwrap();
        assert_eq!(fs::metadata(scratch.path()).unwrap().len(), (2 << 20) + 5);
        assert_eq!(files_of(folder.path()).unwrap(), [scratch.path()]);
        forget(scratch.path()).unwrap();
        drop(scratch);
        assert!(files_of(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn what_failed_and_where_is_said() {
        let error = Scratch::new(Path::new("/nowhere"), 1, Content::Zeros).unwrap_err().to_string();
        assert!(error.starts_with("making /nowhere/disk-floor-"), "{error}");
    }
}
