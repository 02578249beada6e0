//! The data folder: made if missing, and locked, so that no two servers write to one, and nobody reads what one writes.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{HostCause, HostFault, path_fault};
use crate::storage::files::is_full;

/// The file that is locked; it holds the pid of who locked it, which is for people: the lock itself is the kernel's.
const LOCK: &str = "lock";

/// How long a start waits for what a server that was killed a moment ago still has, the folder or the port: until the kernel
/// has ended what was under way in its rings.
pub const KILLED_WAIT_MAX: Duration = Duration::from_secs(2);
/// Between two tries.
pub const KILLED_PAUSE: Duration = Duration::from_millis(50);

/// Makes the folder and locks it for as long as the file that comes back is open.
pub(super) fn claim(data: &Path) -> Result<File, HostFault> {
    // What people said is for the server's user alone; a folder that is there keeps the rights it has.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .map_err(|error| path_fault(HostCause::Folder, "making the data folder", data, &error))?;
    let path = data.join(LOCK);
    let fault = |doing| move |error| path_fault(HostCause::Folder, doing, data, &error);
    let mut lock = open(&path, true).map_err(fault("opening the lock in the data folder"))?;
    let until = Instant::now() + KILLED_WAIT_MAX;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(KILLED_PAUSE),
            Err(TryLockError::WouldBlock) => return Err(in_use(data, &mut lock)),
            Err(TryLockError::Error(error)) => return Err(fault("locking the data folder")(error)),
        }
    }
    match write_pid(&mut lock) {
        // The pid is for people, who go without where the disk is full: the lock itself is the kernel's.
        Err(error) if !is_full(&error) => Err(fault("writing to the lock in the data folder")(error)),
        _ => Ok(lock),
    }
}

/// Locks a data folder that is there, for somebody who only reads it. A missing lock is made if `make`, and if this
/// process's user owns the folder: a lock made by another would keep the server out. `None`: there is no lock.
///
/// # Errors
/// A server, or another reader, has the folder; or its lock cannot be read.
pub fn claim_to_read(data: &Path, make: bool) -> Result<Option<File>, HostFault> {
    let path = data.join(LOCK);
    let fault = |doing| move |error| path_fault(HostCause::Folder, doing, data, &error);
    let opened = match open(&path, make && is_own(data)) {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            File::open(&path)
        }
        opened => opened,
    };
    let mut lock = match opened {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault("opening the lock in the data folder")(error)),
    };
    match lock.try_lock() {
        // The pid is for people, and where nothing can be written they go without.
        Ok(()) => drop(write_pid(&mut lock)),
        Err(TryLockError::WouldBlock) => return Err(in_use_by_server(data, &mut lock)),
        Err(TryLockError::Error(error)) => return Err(fault("locking the data folder")(error)),
    }
    Ok(Some(lock))
}

/// Whether this process's user owns the folder.
fn is_own(folder: &Path) -> bool {
    let owner = |path: &Path| path.metadata().map(|found| found.uid()).ok();
    owner(folder).is_some_and(|uid| owner(Path::new("/proc/self")) == Some(uid))
}

fn open(path: &Path, make: bool) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(make).truncate(false).open(path)
}

fn write_pid(lock: &mut File) -> std::io::Result<()> {
    lock.rewind()?;
    // Over what is there, which takes no space.
    writeln!(lock, "{}", std::process::id())?;
    let bytes = lock.stream_position()?;
    lock.set_len(bytes)
}

fn in_use(data: &Path, lock: &mut File) -> HostFault {
    let (who, stop) = holder(data, lock);
    HostFault {
        cause: HostCause::FolderInUse,
        doing: format!("locking the data folder {}", data.display()),
        found: format!("{who} has it locked: two servers must not write to one folder"),
        fix: format!("stop that one ({stop}), or give this one a folder of its own with --data DIR"),
    }
}

fn in_use_by_server(data: &Path, lock: &mut File) -> HostFault {
    let (who, stop) = holder(data, lock);
    HostFault {
        cause: HostCause::FolderInUse,
        doing: format!("locking the data folder {}", data.display()),
        found: format!("{who} has it locked: a server writes to it, or another `banter log` reads it"),
        fix: format!("stop that one ({stop}), or read a copy of the folder"),
    }
}

/// Who has the lock, and how to end them.
fn holder(data: &Path, lock: &mut File) -> (String, String) {
    let mut text = String::new();
    // A holder that has not written its pid yet is still a holder.
    let pid = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok());
    match pid {
        Some(pid) => (format!("process {pid}"), format!("`kill {pid}`")),
        None => ("another process".to_owned(), format!("`fuser {}` names it", data.join(LOCK).display())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::TestFolder;
    use super::*;

    #[test]
    fn a_folder_that_its_holder_leaves_in_a_moment_is_waited_for() {
        let folder = TestFolder::new("folder-left");
        let held = claim(&folder.0).unwrap();
        let leaving = std::thread::spawn(move || {
            std::thread::sleep(KILLED_PAUSE);
            drop(held);
        });
        assert!(claim(&folder.0).is_ok());
        leaving.join().unwrap();
    }

    #[test]
    fn a_missing_folder_is_made_with_its_parents_and_for_its_user_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = TestFolder::new("made");
        let data = folder.0.join("a/b");
        let _lock = claim(&data).unwrap();
        assert_eq!(data.metadata().unwrap().permissions().mode() & 0o077, 0);
        assert_eq!(std::fs::read_to_string(data.join(LOCK)).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_second_server_is_refused_and_told_who_has_the_folder() {
        let folder = TestFolder::new("second");
        let first = claim(&folder.0).unwrap();
        let fault = claim(&folder.0).unwrap_err();
        assert_eq!(fault.cause, HostCause::FolderInUse);
        assert!(fault.doing.ends_with(&folder.0.display().to_string()));
        assert!(fault.found.contains(&format!("process {} has it locked", std::process::id())), "{fault}");
        drop(first);
        assert!(claim(&folder.0).is_ok());
    }

    #[test]
    fn a_reader_is_refused_while_a_server_has_the_folder_and_a_server_while_a_reader_has_it() {
        let folder = TestFolder::new("reader");
        assert!(claim_to_read(&folder.0, false).unwrap().is_none() && !folder.0.join(LOCK).exists());
        let server = claim(&folder.0).unwrap();
        let fault = claim_to_read(&folder.0, true).unwrap_err();
        assert_eq!(fault.cause, HostCause::FolderInUse);
        assert!(fault.found.contains(&format!("process {}", std::process::id())), "{fault}");
        assert!(fault.fix.contains("read a copy") && !fault.fix.contains("--data"), "{fault}");
        drop(server);
        let reader = claim_to_read(&folder.0, false).unwrap();
        assert!(reader.is_some() && claim(&folder.0).is_err());
    }

    #[test]
    fn a_lock_that_cannot_be_written_is_held_all_the_same() {
        let folder = TestFolder::new("read-only");
        let path = folder.0.join(LOCK);
        std::fs::write(&path, "").unwrap();
        // Root may write anyway; then this is the plain way once more.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        let reader = claim_to_read(&folder.0, true).unwrap();
        assert!(reader.is_some() && claim_to_read(&folder.0, true).is_err());
    }

    #[test]
    fn a_holder_without_a_pid_is_still_a_holder() {
        let folder = TestFolder::new("no-pid");
        let first = claim(&folder.0).unwrap();
        first.set_len(0).unwrap();
        let fault = claim(&folder.0).unwrap_err();
        assert!(fault.found.starts_with("another process has it locked") && fault.fix.contains("fuser"), "{fault}");
    }

    #[test]
    fn a_longer_pid_of_a_former_holder_leaves_no_digits() {
        let folder = TestFolder::new("former");
        std::fs::write(folder.0.join(LOCK), "99999999999999\n").unwrap();
        let _lock = claim(&folder.0).unwrap();
        assert_eq!(std::fs::read_to_string(folder.0.join(LOCK)).unwrap().trim(), std::process::id().to_string());
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_is_a_clear_fault() {
        let folder = TestFolder::new("file");
        let path = folder.0.join("data");
        std::fs::write(&path, "").unwrap();
        for data in [path.clone(), path.join("below")] {
            let fault = claim(&data).unwrap_err();
            assert_eq!(fault.cause, HostCause::Folder);
            assert!(
                fault.doing.contains(&data.display().to_string()) && fault.fix.contains("something else stands"),
                "{fault}"
            );
        }
    }

    #[test]
    fn a_folder_in_the_place_of_the_lock_is_a_clear_fault() {
        let folder = TestFolder::new("lock-folder");
        std::fs::create_dir(folder.0.join(LOCK)).unwrap();
        assert_eq!(claim(&folder.0).unwrap_err().cause, HostCause::Folder);
    }
}
