//! The folder that is being written, under a name of its own until it is whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::cluster_tool::ToolFault;
use crate::host::EpochFile;
use crate::storage::ledger::{LastRun, Ledger, LedgerFile, this_boot};
use crate::storage::{folder_of, segment_path};
use crate::wall_clock;

/// What the folder is called behind its own name, until it is whole.
const SUFFIX: &str = ".new";

/// Whether that folder is new or empty.
///
/// # Errors
/// It is not, or what an export left lies beside it.
pub(super) fn is_free(dir: &Path) -> Result<(), ToolFault> {
    let is_empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(fault(dir)(error)),
    };
    if !is_empty {
        let what = format!("{} is there already: name a folder that is new or empty", dir.display());
        return Err(ToolFault::Folder(what));
    }
    Ok(())
}

/// The folder.
pub(super) struct Draft {
    /// Where it is until it is whole.
    path: PathBuf,
    log: PathBuf,
    /// Nothing of it is to go any more.
    is_kept: bool,
}

impl Draft {
    /// Begins one for that name.
    pub(super) fn begin(dir: &Path) -> Result<Self, ToolFault> {
        let path = draft_of(dir)?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let what = format!(
                    "{} is there: an export writes there until it is whole, so another one is under way, or one was broken off; if none \
                     runs, remove that folder",
                    path.display()
                );
                return Err(ToolFault::Folder(what));
            }
            Err(error) => return Err(fault(&path)(error)),
        }
        let draft = Draft { log: folder_of(&path), path, is_kept: false };
        DirBuilder::new().mode(0o700).create(&draft.log).map_err(fault(&draft.log))?;
        Ok(draft)
    }

    /// Where it is until it is whole.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a segment, and makes it safe.
    pub(super) fn write_segment(&self, id: u64, bytes: &[u8]) -> Result<(), ToolFault> {
        let path = segment_path(&self.log, id);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(fault(&path))
    }

    /// Takes a segment back.
    pub(super) fn remove_segment(&self, id: u64) -> Result<(), ToolFault> {
        let path = segment_path(&self.log, id);
        fs::remove_file(&path).map_err(fault(&path))
    }

    /// Writes the files beside the segments: as behind a run that ended in order, above the largest number that was given.
    pub(super) fn end_run(&self, ledger: Ledger, largest: u64, newest_segment: u64) -> Result<(), ToolFault> {
        let host = |fault: crate::host::HostFault| ToolFault::Folder(fault.to_string());
        let run = EpochFile::open(&self.path).map_err(host)?.begin(largest, wall_clock::unix_ms()).map_err(host)?.run;
        let last = Some(LastRun { run, is_closed: true, boot: this_boot() });
        LedgerFile::make(&self.log, Ledger { last, newest_segment, ..ledger }).map_err(fault(&self.log))?;
        for folder in [&self.log, &self.path] {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(fault(folder))?;
        }
        Ok(())
    }

    /// It stays under the name that it has, for who looks what is wrong with it.
    pub(super) fn keep(mut self) -> PathBuf {
        self.is_kept = true;
        self.path.clone()
    }

    /// It is whole: it gets its name.
    pub(super) fn finish(mut self, dir: &Path) -> Result<(), ToolFault> {
        fs::rename(&self.path, dir).map_err(fault(dir))?;
        self.is_kept = true;
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match File::open(above).and_then(|above| above.sync_all()) {
            // The folder around it may be another user's.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(fault(above)(error)),
            _ => Ok(()),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            // One that stays is told by the next export.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn draft_of(dir: &Path) -> Result<PathBuf, ToolFault> {
    let Some(name) = dir.file_name() else {
        return Err(ToolFault::Folder(format!("{} has no name of its own: name a new folder", dir.display())));
    };
    let mut name = name.to_owned();
    name.push(SUFFIX);
    Ok(dir.with_file_name(name))
}

fn fault(path: &Path) -> impl FnOnce(io::Error) -> ToolFault + '_ {
    move |error| {
        ToolFault::Folder(format!(
            "cannot write to {}: {error}; see that the folder around it is there, that there is space (`df -h`), and a right to write",
            path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::TestFolder;

    #[test]
    fn a_folder_has_its_name_only_when_it_is_kept_and_one_that_is_not_leaves_nothing() {
        let folder = TestFolder::new("export-draft");
        fs::create_dir_all(&folder.0).unwrap();
        let dir = folder.0.join("data/");
        is_free(&dir).unwrap();
        let draft = Draft::begin(&dir).unwrap();
        draft.write_segment(1, b"x").unwrap();
        assert!(!dir.exists() && folder.0.join("data.new/log").is_dir());
        drop(draft);
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
        // An empty folder may stand there.
        fs::create_dir(&dir).unwrap();
        let draft = Draft::begin(&dir).unwrap();
        draft.write_segment(1, b"x").unwrap();
        draft.write_segment(2, b"x").unwrap();
        draft.remove_segment(1).unwrap();
        draft.end_run(Ledger::default(), 5, 2).unwrap();
        draft.finish(&dir).unwrap();
        assert!(segment_path(&dir.join("log"), 2).is_file() && !segment_path(&dir.join("log"), 1).exists());
        assert!(!folder.0.join("data.new").exists() && is_free(&dir).is_err());
    }

    #[test]
    fn the_remains_of_one_that_was_broken_off_are_told_and_left_alone() {
        let folder = TestFolder::new("export-remains");
        fs::create_dir_all(folder.0.join("data.new")).unwrap();
        let fault = Draft::begin(&folder.0.join("data")).err().unwrap();
        assert!(fault.to_string().contains("data.new is there") && fault.exit_code() == 78, "{fault}");
        assert!(folder.0.join("data.new").is_dir());
        assert!(Draft::begin(Path::new("/")).is_err());
    }
}
