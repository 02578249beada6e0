//! Copies the log of a data folder, also while a server writes to it.
//!
//! Why no lock: a segment is written from its start to its end and never changed behind that, and its tail checks itself.
//! A server may run, start and stop meanwhile: whatever it tells its clients behind the copy is not in it, and so a server on
//! the copy never goes on under the same epochs. Only who says that the copy alone goes on ([`Means::Move`]) keeps them, and
//! then the lock is held to the end: a server that started on the old folder would be the other one.
//!
//! Why the newest first: what is copied later was written longer, so every segment in the copy holds all that was
//! acknowledged before the first message of the next one, and no room has a hole. Indexes are derived, and left out: one
//! that is younger than its segment's copy would tell of blocks that are not there.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use banter_log::scan::Ending;
use banter_log::segment::file_name;

use super::LogFault;
use super::folder::segments_of;
use super::progress::Progress;
use crate::host::{self, HostFault};
use crate::storage::ledger::mark_moved;
use crate::storage::recovery::index_of;

/// Files beside the segments that a server reads at start: in the data folder, and in the log's.
///
/// The list of erasures behind the segments: what was erased while these were copied is erased again on the copy.
const BESIDE: [&str; 3] = ["epoch", "log/ledger", "log/erasures"];

/// What the copy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// To have it: the folder goes on.
    Backup,
    /// To go on with it, and with the folder no more.
    Move,
}

/// The lock, or that there is none.
type Claimed = Result<Option<File>, HostFault>;

/// Copies `dir` to `to`, which it makes. Says how much.
///
/// # Errors
/// Something cannot be read or written, `to` holds something, or what is to be moved is in use.
pub(super) fn run(dir: &Path, to: &Path, means: Means) -> Result<bool, LogFault> {
    run_with(dir, to, means, &|dir| host::claim_to_read(dir, true))
}

/// With that for the lock.
fn run_with(dir: &Path, to: &Path, means: Means, claim: &dyn Fn(&Path) -> Claimed) -> Result<bool, LogFault> {
    if !dir.join("log").is_dir() {
        return Err(LogFault::NoLog(dir.to_owned()));
    }
    // Ahead of the list: what a server writes behind it is in no copy.
    let _lock = match means {
        Means::Backup => None,
        Means::Move => Some(claim(dir)?.ok_or_else(|| LogFault::NotLocked(dir.to_owned()))?),
    };
    let (log, ids) = segments_of(dir)?;
    let target = to.join("log");
    fs::create_dir_all(&target).map_err(unwritable(to))?;
    is_free(to, &target)?;
    let mut progress = Progress::new(ids.len());
    let (mut copied, mut bytes) = (0, 0);
    for (done, &id) in ids.iter().rev().enumerate() {
        progress.tell(done, 0);
        let name = file_name(id);
        if let Some(more) = copy_segment(&log.join(&name), &target.join(&name), to, copy)? {
            (copied, bytes) = (copied + 1, bytes + more);
        }
    }
    progress.clear();
    for name in BESIDE {
        copy(&dir.join(name), &to.join(name), to)?;
    }
    if means == Means::Move {
        mark_moved(&target).map_err(unwritable(to))?;
    }
    for folder in [&target, to] {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritable(to))?;
    }
    let epochs = match means {
        Means::Backup => "a server on it begins new epochs",
        Means::Move => "a server on it keeps the epochs, so start none on the old folder",
    };
    println!("copied {copied} segments, {bytes} bytes, to {}; {epochs}", to.display());
    println!("check it with `banter log check {}`", to.display());
    Ok(true)
}

/// Whether nothing of a server's is in the copy's folder. A `log` in it that is empty may have been made for this.
fn is_free(to: &Path, target: &Path) -> Result<(), LogFault> {
    if fs::read_dir(target).map_err(unwritable(to))?.next().is_some() {
        return Err(LogFault::NotEmpty(target.to_owned()));
    }
    let there = BESIDE.iter().map(|name| to.join(name)).find(|path| path.symlink_metadata().is_ok());
    there.map_or(Ok(()), |path| Err(LogFault::NotEmpty(path)))
}

fn unwritable(to: &Path) -> impl FnOnce(io::Error) -> LogFault + '_ {
    move |error| LogFault::Unwritable { path: to.to_owned(), error }
}

/// Copies a segment. One that was written to meanwhile may have been read ahead of a block and behind the next: then its
/// copy looks damaged, and is made again.
fn copy_segment(
    from: &Path,
    path: &Path,
    to: &Path,
    mut copy: impl FnMut(&Path, &Path, &Path) -> Result<Option<u64>, LogFault>,
) -> Result<Option<u64>, LogFault> {
    const TRIES_MAX: usize = 20;
    for _ in 1..TRIES_MAX {
        // Asked before: one that is sealed behind the copy was written to while it was made.
        let is_sealed = from.with_extension("index").exists();
        let copied = copy(from, path, to)?;
        if copied.is_none() || is_sealed {
            return Ok(copied);
        }
        let bytes = fs::read(path).map_err(unwritable(to))?;
        if !matches!(index_of(&bytes), Ok((_, Ending::Corrupt { .. }))) {
            return Ok(copied);
        }
        fs::remove_file(path).map_err(unwritable(to))?;
    }
    // It is damaged indeed: a start on the copy says so.
    copy(from, path, to)
}

/// Copies a file and makes it safe; `None`: it is gone, since retention dropped it, and everything before it goes too.
fn copy(from: &Path, path: &Path, to: &Path) -> Result<Option<u64>, LogFault> {
    let mut source = match File::open(from) {
        Ok(source) => source,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LogFault::Unreadable { path: from.to_owned(), error }),
    };
    let mut write = || -> io::Result<u64> {
        let mut target = File::create_new(path)?;
        let bytes = io::copy(&mut source, &mut target)?;
        target.sync_all()?;
        Ok(bytes)
    };
    write().map(Some).map_err(unwritable(to))
}

#[cfg(test)]
mod tests {
    use super::super::made::{Made, Post};
    use super::*;
    use crate::host::TestFolder;
    use crate::storage::ledger::{Ledger, LedgerFile};

    /// A segment of three blocks, of which the second is damaged, or not.
    fn segment(is_damaged: bool) -> Vec<u8> {
        let mut made = Made::new(1);
        made.block(&[Post::at(1)]).block(&[Post::at(2)]).block(&[Post::at(3)]);
        let mut file = made.file();
        file[8_192 + 100] ^= u8::from(is_damaged);
        file
    }

    /// Copies a segment whose first copies were read ahead of a block and behind the next, which `happens` meanwhile.
    fn copied(name: &str, wrong: usize, is_sealed: bool, happens: impl Fn(&Path)) -> (usize, Vec<u8>) {
        let folder = TestFolder::new(name);
        let [from, path] = ["segment-1.log", "copy"].map(|name| folder.0.join(name));
        let index = from.with_extension("index");
        if is_sealed {
            fs::write(&index, "").unwrap();
        }
        let mut times = 0;
        let copy = |_: &Path, path: &Path, _: &Path| {
            times += 1;
            happens(&index);
            fs::write(path, segment(times <= wrong)).unwrap();
            Ok(Some(1))
        };
        assert_eq!(copy_segment(&from, &path, &folder.0, copy).unwrap(), Some(1));
        (times, fs::read(path).unwrap())
    }

    #[test]
    fn a_segment_that_was_written_to_meanwhile_is_copied_again() {
        assert_eq!(copied("again", 2, false, |_| {}), (3, segment(false)));
    }

    #[test]
    fn a_segment_that_is_sealed_while_it_is_copied_is_copied_again() {
        let (times, file) = copied("sealing", 1, false, |index| fs::write(index, "").unwrap());
        assert_eq!((times, file), (2, segment(false)));
    }

    #[test]
    fn damage_of_a_sealed_segment_is_copied_once_as_it_is() {
        assert_eq!(copied("sealed", 99, true, |_| {}), (1, segment(true)));
        let (times, file) = copied("unsealed", 99, false, |_| {});
        assert!(times == 20 && file == segment(true), "and that of one without an index at last");
    }

    /// A data folder with one segment.
    fn data(name: &str) -> (TestFolder, std::path::PathBuf) {
        let folder = TestFolder::new(name);
        let log = folder.0.join("data/log");
        fs::create_dir_all(&log).unwrap();
        fs::write(log.join(file_name(1)), segment(false)).unwrap();
        let to = folder.0.join("copy");
        (folder, to)
    }

    #[test]
    fn a_backup_needs_no_lock_and_takes_none() {
        let (folder, to) = data("lock-free");
        let dir = folder.0.join("data");
        assert!(run(&dir, &to, Means::Backup).unwrap());
        assert!(!dir.join("lock").exists());
        let _server = host::claim_to_read(&dir, true).unwrap();
        assert!(run(&dir, &folder.0.join("second"), Means::Backup).unwrap());
    }

    #[test]
    fn a_folder_that_is_in_use_is_not_moved_and_nothing_is_made() {
        let (folder, to) = data("in-use");
        let dir = folder.0.join("data");
        let server = host::claim_to_read(&dir, true).unwrap();
        let fault = run(&dir, &to, Means::Move).unwrap_err();
        assert!(fault.exit_code() == 78 && !to.exists(), "{fault}");
        drop(server);
        assert!(run(&dir, &to, Means::Move).unwrap());
    }

    #[test]
    fn a_folder_that_has_no_lock_is_not_moved_and_nothing_is_made() {
        let (folder, to) = data("not-locked");
        let dir = folder.0.join("data");
        let fault = run_with(&dir, &to, Means::Move, &|_| Ok(None)).unwrap_err();
        assert!(matches!(fault, LogFault::NotLocked(_)) && fault.exit_code() == 78 && !to.exists(), "{fault}");
    }

    #[test]
    fn what_a_server_wrote_until_the_lock_was_had_is_moved() {
        let (folder, to) = data("listed");
        let dir = folder.0.join("data");
        let claim = |dir: &Path| {
            fs::write(dir.join("log").join(file_name(2)), segment(false)).unwrap();
            host::claim_to_read(dir, true)
        };
        assert!(run_with(&dir, &to, Means::Move, &claim).unwrap());
        assert!(to.join("log").join(file_name(2)).exists());
    }

    #[test]
    fn a_copy_into_a_folder_with_something_of_a_server_is_refused_before_anything_is_copied() {
        let (folder, to) = data("there");
        let dir = folder.0.join("data");
        fs::create_dir(&to).unwrap();
        fs::write(to.join("epoch"), "").unwrap();
        let fault = run(&dir, &to, Means::Backup).unwrap_err();
        assert!(matches!(&fault, LogFault::NotEmpty(path) if path.ends_with("epoch")), "{fault}");
        assert_eq!(fs::read_dir(to.join("log")).unwrap().count(), 0);
        fs::remove_file(to.join("epoch")).unwrap();
        assert!(run(&dir, &to, Means::Backup).unwrap());
    }

    #[test]
    fn only_a_copy_that_is_moved_goes_on_as_the_folder() {
        let (folder, to) = data("epochs");
        let (dir, moved) = (folder.0.join("data"), folder.0.join("moved"));
        LedgerFile::make(&dir.join("log"), Ledger::default()).unwrap();
        fs::write(dir.join("log/erasures"), "what was erased").unwrap();
        run(&dir, &to, Means::Backup).unwrap();
        run(&dir, &moved, Means::Move).unwrap();
        for (to, is_moved) in [(&to, false), (&moved, true)] {
            assert_eq!(fs::read(to.join("log/erasures")).unwrap(), b"what was erased");
            let found = LedgerFile::open(&to.join("log")).unwrap();
            // The file is another one than the ledger says: a start that is not told better breaks every epoch.
            let is_own = found.identity().unwrap() == found.ledger().identity;
            assert_eq!((is_own, found.ledger().is_moved), (false, is_moved));
        }
    }
}
