//! Erases messages: writes down what is to go, and does it where no server runs on the folder; one that runs does it itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banter_protocol::ids::{RoomName, Sequence, UserName};
use clap::Args;
use serde::Serialize;

use super::folder::{LogFolder, segments_of};
use super::progress::Progress;
use super::{LogFault, parse_room};
use crate::host::HostCause;
use crate::storage::erasing::{Counts, Rewriting, concerning};
use crate::storage::erasures::{AskFault, ErasureFile, Listed, Wanted};
use crate::storage::ledger::LedgerFile;
use crate::storage::slots::SlotsFault;
use crate::wall_clock::unix_ms;

/// How long a server is waited for.
const WAIT: Duration = Duration::from_secs(60);
/// Between two looks at the list.
const PAUSE: Duration = Duration::from_millis(50);

/// What to erase.
#[derive(Args, Clone, Debug)]
pub struct EraseTask {
    /// Data folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The room
    #[arg(long, value_name = "NAME", value_parser = parse_room)]
    pub room: RoomName,
    /// Only what this user said
    #[arg(long, value_name = "NAME", value_parser = parse_user)]
    pub user: Option<UserName>,
    /// Only these places: A-B, or one; without it all up to now
    #[arg(long, value_name = "A-B", value_parser = parse_places)]
    pub sequence: Option<(Sequence, Sequence)>,
    /// Say it as one JSON object
    #[arg(long)]
    pub json: bool,
}

fn parse_user(text: &str) -> Result<UserName, String> {
    UserName::new(text).map_err(|fault| format!("no user can have this name: {fault}"))
}

fn parse_places(text: &str) -> Result<(Sequence, Sequence), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u64>().ok().filter(|&number| number > 0).map(Sequence);
    let places = number(first).zip(number(last)).filter(|(first, last)| first <= last);
    places.ok_or_else(|| "must be a place (7), or two (7-9), the smaller first; places begin at 1".to_owned())
}

/// What was done, as JSON.
#[derive(Debug, Serialize)]
struct Report {
    /// The erasure's number in the list.
    number: u64,
    /// Whether nothing of it is left in the files.
    done: bool,
    /// Messages that were erased.
    messages: u64,
    /// Bytes that do not check, and may hold some of it.
    unread_bytes: u64,
}

/// Erases. Says how much.
///
/// # Errors
/// Something cannot be read or written, or there are too many erasures.
pub(super) fn run(task: &EraseTask) -> Result<bool, LogFault> {
    let (log, _) = segments_of(&task.dir)?;
    let list = open(&log)?;
    let folder = match LogFolder::open(&task.dir) {
        Ok(folder) => Some(folder),
        Err(LogFault::Host(fault)) if fault.cause == HostCause::FolderInUse => None,
        Err(fault) => return Err(fault),
    };
    let number = list.ask(&wanted(task), unix_ms()).map_err(|fault| match fault {
        AskFault::Disk(error) => LogFault::Unwritable { path: list.path().to_owned(), error },
        other => LogFault::Erasures(other),
    })?;
    let report = match &folder {
        Some(folder) => erase(folder, &list, number)?,
        None => wait(&list, number)?,
    };
    tell(task, &report)?;
    Ok(report.unread_bytes == 0)
}

fn open(log: &Path) -> Result<ErasureFile, LogFault> {
    let unreadable = |error| LogFault::Unreadable { path: log.join("ledger"), error };
    let found = LedgerFile::open(log).map_err(|fault| match fault {
        SlotsFault::Disk(error) => unreadable(error),
        later @ SlotsFault::Later { .. } => unreadable(std::io::Error::other(later)),
    })?;
    Ok(ErasureFile::of(log, found.identity().map_err(unreadable)?))
}

fn wanted(task: &EraseTask) -> Wanted {
    let (first, last) = task.sequence.unwrap_or((Sequence(1), Sequence(u64::MAX)));
    Wanted { room: task.room.clone(), user: task.user.clone(), first, last }
}

/// Does all that waits, since nobody runs who could.
fn erase(folder: &LogFolder, list: &ErasureFile, number: u64) -> Result<Report, LogFault> {
    let unwritable = |path: PathBuf| move |error| LogFault::Unwritable { path, error };
    let listed = list.read().map_err(unwritable(list.path().to_owned()))?;
    let pending: Vec<Listed> = listed.pending().cloned().collect();
    let (mut counts, mut unread_bytes) = (Counts::new(), 0);
    let mut progress = Progress::new(folder.segments.len());
    for (done, &segment) in folder.segments.iter().enumerate() {
        progress.tell(done, counts.values().sum());
        let concerned: Vec<_> =
            concerning(&folder.path, segment, &pending).into_iter().map(|listed| &listed.erasure).collect();
        if concerned.is_empty() {
            continue;
        }
        let path = folder.path_of(segment);
        let begun = Rewriting::begin(&folder.path, segment, &concerned);
        let Some(rewriting) = begun.map_err(unwritable(path.clone()))? else { continue };
        rewriting.counts.iter().for_each(|(&number, &more)| *counts.entry(number).or_default() += more);
        unread_bytes += rewriting.unread_bytes;
        rewriting.finish().map_err(unwritable(path))?;
    }
    progress.clear();
    for listed in &pending {
        let number = listed.erasure.number;
        let messages = counts.get(&number).copied().unwrap_or(0);
        list.end(number, messages).map_err(unwritable(list.path().to_owned()))?;
    }
    Ok(Report { number, done: true, messages: counts.get(&number).copied().unwrap_or(0), unread_bytes })
}

/// Waits until the server has done it.
fn wait(list: &ErasureFile, number: u64) -> Result<Report, LogFault> {
    let until = Instant::now() + WAIT;
    loop {
        let read = list.read().map_err(|error| LogFault::Unreadable { path: list.path().to_owned(), error })?;
        let done = read.get(number).and_then(|listed| listed.done);
        if done.is_some() || Instant::now() >= until {
            return Ok(Report { number, done: done.is_some(), messages: done.unwrap_or(0), unread_bytes: 0 });
        }
        std::thread::sleep(PAUSE);
    }
}

fn tell(task: &EraseTask, report: &Report) -> Result<(), LogFault> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let &Report { number, done, messages, unread_bytes } = report;
    if task.json {
        let text = serde_json::to_string(report).map_err(std::io::Error::other)?;
        writeln!(out, "{text}")?;
    } else if done {
        writeln!(out, "erased {messages} messages of room {:?} (erasure {number})", task.room.as_str())?;
    } else {
        writeln!(
            out,
            "erasure {number} is written down and hidden from readers, and the files are not rewritten yet: \
             whoever has the folder goes on with it, or the next start (banter_erasures_pending)"
        )?;
    }
    if unread_bytes > 0 {
        eprintln!(
            "banter: {unread_bytes} bytes of the log do not check, and may hold some of it: see `banter log check {}`",
            task.dir.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_one_or_two_in_order() {
        assert_eq!(parse_places("7"), Ok((Sequence(7), Sequence(7))));
        assert_eq!(parse_places("7-9"), Ok((Sequence(7), Sequence(9))));
        for wrong in ["", "0", "9-7", "a", "1-", "-1", "1-2-3", "0-4"] {
            assert!(parse_places(wrong).is_err(), "{wrong}");
        }
    }
}
