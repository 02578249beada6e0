//! A disk in memory, mounted by FUSE, that loses power, fails and fills up when it is told to.
//!
//! It is served by a thread of this process, and unmounted when its handle is dropped.

mod file_system;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption};

use self::store::Store;
pub use self::store::{Aim, DiskFault, LogFiles, ReadFault};
use crate::janitor::Janitor;
use crate::seeded::Seeded;

/// How long a folder may stay in use by a process that was killed: the kernel ends its requests behind its back.
const BUSY_MAX: Duration = Duration::from_secs(10);
const BUSY_INTERVAL: Duration = Duration::from_millis(20);

/// The mounted disk.
pub struct FuseDisk {
    store: Arc<Mutex<Store>>,
    served: Option<BackgroundSession>,
    folder: PathBuf,
    _janitor: Janitor,
}

/// A disk that answers nothing as long as this is there.
pub struct Hang<'a> {
    _store: MutexGuard<'a, Store>,
}

impl FuseDisk {
    /// Mounts one over a folder. Faults happen to writes and syncs that they are aimed at.
    ///
    /// # Errors
    /// Where this machine has no FUSE, or this process may not use it.
    pub fn mount(folder: &Path, aim: Aim) -> io::Result<Self> {
        std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let janitor = Janitor::for_folder(folder)?;
        let store = Arc::new(Mutex::new(Store::new(aim)));
        let mut config = Config::default();
        config.mount_options.push(MountOption::FSName("banter-fuse-disk".to_owned()));
        let served = fuser::spawn_mount(file_system::FileSystem(Arc::clone(&store)), folder, &config)?;
        Ok(FuseDisk { store, served: Some(served), folder: folder.to_owned(), _janitor: janitor })
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no holder of the store panics")
    }

    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a folder in its root that a power cut does not take away.
    ///
    /// # Panics
    /// When it is there already.
    pub fn make_folder(&self, name: &str) -> PathBuf {
        let mut store = self.store();
        store.make(store::ROOT, name, true).expect("a new folder");
        store.sync_folder(store::ROOT).expect("the root is a folder");
        self.folder.join(name)
    }

    /// Lets a fault happen once, to the next write or sync that it fits.
    pub fn arm(&self, fault: DiskFault) {
        self.store().arm(fault);
    }

    /// The next write fails.
    pub fn fail_next_write_eio(&self) {
        self.arm(DiskFault::WriteEio);
    }

    /// The next sync fails, and what it was to make durable never will be.
    pub fn fail_next_fsync_eio(&self) {
        self.arm(DiskFault::FsyncEio);
    }

    /// The next write of two pages or more writes half and says so, and the first attempt at the rest fails.
    pub fn short_next_write(&self) {
        self.arm(DiskFault::ShortWrite);
    }

    /// Lets reads fail from now on, instead of those that failed until now.
    pub fn fail_reads(&self, fault: ReadFault) {
        self.store().fail_reads(Some(fault));
    }

    /// Lets every read do well again.
    pub fn mend_reads(&self) {
        self.store().fail_reads(None);
    }

    /// Answers nothing at all until what this gives is dropped: whoever reads, writes or syncs waits.
    pub fn hang(&self) -> Hang<'_> {
        Hang { _store: self.store() }
    }

    /// Reads that have failed since the disk was made.
    pub fn reads_failed(&self) -> u64 {
        self.store().reads_failed()
    }

    /// When the armed fault happened, if it has.
    pub fn fired(&self) -> Option<Instant> {
        self.store().fired()
    }

    /// Leaves space for that many bytes more.
    pub fn full_after(&self, bytes: u64) {
        self.store().full_after(Some(bytes));
    }

    /// Leaves all the space that is wanted.
    pub fn never_full(&self) {
        self.store().full_after(None);
    }

    /// Goes back to what is durable, and fails everything until [`FuseDisk::power_on`].
    pub fn power_cut(&self) {
        self.store().cut_power(None);
    }

    /// The same, but some sectors that nobody synced were written after all.
    pub fn power_cut_torn(&self, chance: &mut Seeded) {
        self.store().cut_power(Some(chance));
    }

    /// Turns the power on again. Files that were opened before the cut stay useless.
    pub fn power_on(&self) {
        self.store().power_on();
    }
}

impl Drop for FuseDisk {
    fn drop(&mut self) {
        // What still waits for an answer gets one, and is then no longer in use.
        if let Ok(mut store) = self.store.lock() {
            store.cut_power(None);
        }
        unmount(&self.folder);
        if let Some(served) = self.served.take() {
            let _ = served.join();
        }
    }
}

/// Unmounts a folder: at once, or when nobody uses it any more, or at last behind its users' backs.
pub fn unmount(folder: &Path) {
    let umount = |flags: &[&str]| {
        let done = Command::new("umount").args(flags).arg(folder).output();
        done.is_ok_and(|done| done.status.success())
    };
    let deadline = Instant::now() + BUSY_MAX;
    while !umount(&[]) {
        if Instant::now() >= deadline {
            eprintln!("{} is still in use, and is unmounted lazily", folder.display());
            let _ = umount(&["-l"]);
            return;
        }
        std::thread::sleep(BUSY_INTERVAL);
    }
}
