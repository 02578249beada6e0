//! An ext4 of its own in a file, mounted over a loop device for as long as its handle lives.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::fuse_disk::unmount;
use crate::janitor::Janitor;
use crate::sys::shut_down_file_system;

/// What its file is called.
const IMAGE: &str = "disk.ext4";

/// The disk.
pub struct LoopDisk {
    image: PathBuf,
    folder: PathBuf,
    is_mounted: bool,
    _janitor: Janitor,
    /// Goes last, when nothing is mounted in it.
    _holder: TempDir,
}

impl LoopDisk {
    /// Makes one of that size, and mounts it.
    ///
    /// # Errors
    /// Why this machine or this user cannot.
    pub fn make(mebibytes: u64) -> Result<Self, String> {
        let holder = TempDir::new().map_err(|error| error.to_string())?;
        let image = holder.path().join(IMAGE);
        Self::make_in(holder, image, mebibytes)
    }

    /// Makes one whose file lies in a folder of another disk, where it is durable, and mounts it elsewhere. It is to go
    /// before that disk does.
    ///
    /// # Errors
    /// Why this machine or this user cannot.
    pub fn make_on(disk: &Path, mebibytes: u64) -> Result<Self, String> {
        let holder = TempDir::new().map_err(|error| error.to_string())?;
        let made = Self::make_in(holder, disk.join(IMAGE), mebibytes)?;
        run(Command::new("sync").arg(&made.image).arg(disk))?;
        Ok(made)
    }

    fn make_in(holder: TempDir, image: PathBuf, mebibytes: u64) -> Result<Self, String> {
        let folder = holder.path().join("disk");
        fs::create_dir(&folder).map_err(|error| error.to_string())?;
        // Blocks as large disks have them, and none kept back for root, who the server is here. Nothing is left for
        // the kernel to fill in later.
        let options = ["-q", "-F", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run(Command::new("mkfs.ext4").args(options).arg(&image).arg(format!("{mebibytes}M")))?;
        let janitor = Janitor::for_folder(&folder).map_err(|error| error.to_string())?;
        let mut disk = LoopDisk { image, folder, is_mounted: false, _janitor: janitor, _holder: holder };
        disk.try_mount()?;
        Ok(disk)
    }

    fn try_mount(&mut self) -> Result<(), String> {
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(&self.image).arg(&self.folder))?;
        self.is_mounted = true;
        Ok(())
    }

    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops it as a power cut would; everything on it fails from now on.
    ///
    /// # Panics
    /// When the kernel cannot.
    pub fn shut_down(&self) {
        let folder = File::open(&self.folder).expect("it is mounted");
        shut_down_file_system(&folder).expect("ext4 can be shut down by root");
    }

    /// Unmounts it, and mounts it again, which replays its journal; then looks whether it is sound.
    ///
    /// # Panics
    /// When it is not.
    pub fn mount_again(&mut self) {
        self.unmount();
        self.try_mount().expect("the journal is replayed");
        self.unmount();
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(&self.image)).expect("a sound file system");
        self.try_mount().expect("it is mounted again");
    }

    /// Whether it still takes a change of a folder: it does not once its journal failed. Nothing is synced by this.
    pub fn is_whole(&self) -> bool {
        let probe = self.folder.join("probe");
        run(Command::new("mkdir").arg(&probe)).and_then(|()| run(Command::new("rmdir").arg(&probe))).is_ok()
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.is_mounted) {
            unmount(&self.folder);
        }
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = || String::from_utf8_lossy(&[done.stdout.clone(), done.stderr.clone()].concat()).into_owned();
    if done.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said())) }
}
