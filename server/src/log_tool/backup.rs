//! Copies the log of a data folder, also while a server writes to it.
//!
//! Why no lock: a segment is written from its start to its end and never changed behind that, and its tail checks itself.
//! Why the newest first: what is copied later was written longer, so every segment in the copy holds all that was
//! acknowledged before the first message of the next one, and no room has a hole. Indexes are derived, and left out: one
//! that is younger than its segment's copy would tell of blocks that are not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use banter_log::scan::Ending;
use banter_log::segment::file_name;

use super::LogFault;
use super::folder::segments_of;
use super::progress::Progress;
use crate::host;
use crate::storage::recovery::index_of;

/// Files beside the segments that a server reads at start: in the data folder, and in the log's.
const BESIDE: [&str; 2] = ["epoch", "log/ledger"];

/// Copies `dir` to `to`, which it makes. Says how much.
///
/// # Errors
/// Something cannot be read or written, or `to` holds something.
pub(super) fn run(dir: &Path, to: &Path) -> Result<bool, LogFault> {
    let (log, ids) = segments_of(dir)?;
    // Held to the end, so that no server begins to write meanwhile.
    let lock = host::claim_to_read(dir, true);
    let is_running = lock.is_err();
    let target = to.join("log");
    fs::create_dir_all(&target).map_err(unwritable(to))?;
    if fs::read_dir(&target).map_err(unwritable(to))?.next().is_some() {
        return Err(LogFault::NotEmpty(target));
    }
    let mut progress = Progress::new(ids.len());
    let (mut copied, mut bytes) = (0, 0);
    for (done, &id) in ids.iter().rev().enumerate() {
        progress.tell(done, 0);
        let name = file_name(id);
        if let Some(more) = copy_segment(&log.join(&name), &target.join(&name), to)? {
            (copied, bytes) = (copied + 1, bytes + more);
        }
    }
    progress.clear();
    for name in BESIDE {
        copy(&dir.join(name), &to.join(name), to)?;
    }
    if is_running {
        break_epochs(&to.join("log/ledger")).map_err(unwritable(to))?;
    }
    for folder in [&target, to] {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritable(to))?;
    }
    println!("copied {copied} segments, {bytes} bytes, to {}: check it with `banter log check`", to.display());
    Ok(true)
}

fn unwritable(to: &Path) -> impl FnOnce(io::Error) -> LogFault + '_ {
    move |error| LogFault::Unwritable { path: to.to_owned(), error }
}

/// Copies a segment. One that was written to meanwhile may have been read ahead of a block and behind the next: then its
/// copy looks damaged, and is made again.
fn copy_segment(from: &Path, path: &PathBuf, to: &Path) -> Result<Option<u64>, LogFault> {
    const TRIES_MAX: usize = 20;
    for _ in 1..TRIES_MAX {
        let copied = copy(from, path, to)?;
        if copied.is_none() || from.with_extension("index").exists() {
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

/// The server goes on, and what it tells its clients from now on is not in the copy: a server on the copy must not go on
/// under the same epochs.
fn break_epochs(ledger: &Path) -> io::Result<()> {
    let text = fs::read_to_string(ledger)?;
    let run = text.lines().find_map(|line| line.strip_prefix("run ")?.split(' ').next()).unwrap_or("0");
    // Above every epoch that the server can have given by now: see `host::next_epoch_base`.
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let mut file = OpenOptions::new().append(true).open(ledger)?;
    writeln!(file, "break {run} {} all", host::epoch_by_clock(unix_ms))?;
    file.sync_all()
}

/// Copies a file and makes it safe; `None`: it is gone, since retention dropped it, and everything before it goes too.
fn copy(from: &Path, path: &PathBuf, to: &Path) -> Result<Option<u64>, LogFault> {
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
