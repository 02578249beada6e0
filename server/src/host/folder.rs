//! The data folder: made if missing, and locked, so that no two servers write to one.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::{HostCause, HostFault, path_fault};

/// The file that is locked; it holds the pid of who locked it, which is for people: the lock itself is the kernel's.
const LOCK: &str = "lock";

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
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(fault("opening the lock in the data folder"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(data, &mut lock)),
        Err(TryLockError::Error(error)) => return Err(fault("locking the data folder")(error)),
    }
    write_pid(&mut lock).map_err(fault("writing to the lock in the data folder"))?;
    Ok(lock)
}

fn write_pid(lock: &mut File) -> std::io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

fn in_use(data: &Path, lock: &mut File) -> HostFault {
    let mut text = String::new();
    // A holder that has not written its pid yet is still a holder.
    let pid = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok());
    let (who, stop) = match pid {
        Some(pid) => (format!("process {pid}"), format!("`kill {pid}`")),
        None => ("another process".to_owned(), format!("`fuser {}` names it", data.join(LOCK).display())),
    };
    HostFault {
        cause: HostCause::FolderInUse,
        doing: format!("locking the data folder {}", data.display()),
        found: format!("{who} has it locked: two servers must not write to one folder"),
        fix: format!("stop that one ({stop}), or give this one a folder of its own with --data DIR"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::TestFolder;
    use super::*;

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
