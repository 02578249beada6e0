//! The disk that troubles happen to: the FUSE disk itself, or an ext4 on a loop device whose file lies on that disk.
//!
//! A loop device flushes by an fsync of its file. So what an ext4 there never flushed down to its device is not durable,
//! and a power cut takes it.
//!
//! This process is the FUSE disk. Nothing here waits for the ext4 in this process itself: killed in such a wait, it could
//! neither answer nor end. Other programs do it.

use std::path::PathBuf;

use clap::ValueEnum;
use tempfile::TempDir;

use crate::fuse_disk::{Aim, FuseDisk};
use crate::loop_disk::LoopDisk;

/// The ext4's size, and what each round adds: twice of what the log grows by. All of it is in memory, twice.
const EXT4_MIB: u64 = 128;
const EXT4_MIB_PER_ROUND: u64 = 8;
/// The data folder's name.
const DATA: &str = "data";
/// How a block of the log begins.
const LOG_BLOCK: &[u8] = b"BLCK";

/// What the server's data folder is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileSystem {
    /// The FUSE disk, where the server writes, and then syncs the file
    Fuse,
    /// An ext4 over that disk, where the server syncs as it writes
    Ext4,
}

/// The disk.
pub struct TroubleDisk {
    /// Goes first: it lies on the other.
    ext4: Option<LoopDisk>,
    fuse: FuseDisk,
    /// Goes last, when nothing is mounted on it.
    _folder: TempDir,
}

impl TroubleDisk {
    /// Makes one with space for that many rounds.
    ///
    /// # Errors
    /// Why this machine or this user cannot.
    pub fn make(file_system: FileSystem, rounds: usize) -> Result<Self, String> {
        let aim = match file_system {
            // One that is being made ahead has another name, and holds nothing yet.
            FileSystem::Fuse => Aim::Files(|name| name.starts_with("segment-") && name.ends_with(".log")),
            FileSystem::Ext4 => Aim::Writes(|bytes| bytes.starts_with(LOG_BLOCK)),
        };
        let folder = TempDir::new().map_err(|error| error.to_string())?;
        let fuse = FuseDisk::mount(folder.path(), aim).map_err(|error| format!("no FUSE: {error}"))?;
        let mut disk = TroubleDisk { ext4: None, fuse, _folder: folder };
        if file_system == FileSystem::Ext4 {
            let made = LoopDisk::make_on(disk.fuse.folder(), EXT4_MIB + rounds as u64 * EXT4_MIB_PER_ROUND);
            disk.ext4 = Some(made.map_err(|error| format!("no ext4 on a loop device: {error}"))?);
        } else {
            disk.fuse.make_folder(DATA);
        }
        Ok(disk)
    }

    /// What the server's data folder is on.
    pub fn file_system(&self) -> FileSystem {
        if self.ext4.is_some() { FileSystem::Ext4 } else { FileSystem::Fuse }
    }

    /// The server's data folder.
    pub fn data(&self) -> PathBuf {
        self.ext4.as_ref().map_or(self.fuse.folder(), LoopDisk::folder).join(DATA)
    }

    /// The disk at the bottom, which is made to fail, and whose power is cut.
    pub fn fuse(&self) -> &FuseDisk {
        &self.fuse
    }

    /// Whether a fault left the file system itself alone.
    pub fn is_whole(&self) -> bool {
        self.ext4.as_ref().is_none_or(LoopDisk::is_whole)
    }

    /// Turns the power on again after a cut, once the server is gone.
    ///
    /// # Panics
    /// When the ext4 is no longer a sound one.
    pub fn power_on(&mut self) {
        self.fuse.power_on();
        if let Some(ext4) = &mut self.ext4 {
            // The old loop device opened its file before the cut, and so gets nothing more onto the disk: there is
            // no need to stop this ext4 before it is unmounted.
            ext4.mount_again();
        }
    }
}
