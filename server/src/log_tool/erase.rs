//! Erases messages: writes down what is to go, and does it where no server runs on the folder; one that runs does it itself.
//!
//! What is written down says up to where the room goes by then, as its files say it: so whatever happens before a server has
//! begun with it, nothing is concerned that is posted later.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banter_log::erasure::{Bound, Erasure};
use banter_protocol::ids::{RoomName, Sequence, UserName};
use clap::Args;
use serde::Serialize;

use super::folder::{LogFolder, segments_in};
use super::progress::Progress;
use super::{LogFault, parse_room};
use crate::host::HostCause;
use crate::storage::erasing::{Rewriting, bound_of, concerning};
use crate::storage::erasures::{AskFault, Binding, Ended, ErasureFile, Listed, Wanted};
use crate::storage::ledger::LedgerFile;
use crate::storage::slots::SlotsFault;
use crate::token_tool::parse_seconds;
use crate::wall_clock::unix_ms;

/// Between two looks at the list.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two looks whether the folder is free by now.
const FOLDER_PAUSE: Duration = Duration::from_secs(1);

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
    /// How long a server that runs is waited for: 90s, 15m
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "60s")]
    pub timeout: u64,
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
    /// The erasure's number in the list; none: nothing was asked.
    number: Option<u64>,
    /// Whether readers are told nothing of it any more.
    hidden: bool,
    /// Whether nothing of it is left in the files.
    done: bool,
    /// Messages that were erased.
    messages: u64,
    /// Bytes that do not check, and may hold some of it.
    unread_bytes: u64,
}

impl Report {
    fn of(number: u64, listed: Option<&Listed>) -> Self {
        let done = listed.and_then(|listed| listed.done);
        let Ended { messages, unread_bytes } = done.unwrap_or_default();
        let hidden = done.is_some() || listed.is_some_and(|listed| listed.through_segment.is_some());
        Report { number: Some(number), hidden, done: done.is_some(), messages, unread_bytes }
    }
}

/// Why less was erased than was asked.
#[derive(Debug, thiserror::Error)]
pub enum NotErased {
    /// The log holds no such room.
    #[error(
        "the log holds no message of a room {room:?}: nothing was erased in it{in_memory}\n  to mend it: see how the room is \
         written (`banter log rooms`, on a copy while a server runs); of a backup that holds it erase after it was restored",
        in_memory = if *.is_running { " (a server that has the room in memory only was told)" } else { "" }
    )]
    NoRoom {
        /// The room.
        room: String,
        /// Whether a server was told all the same.
        is_running: bool,
    },
    /// It is in the files still.
    #[error(
        "erasure {number} is written down and {hidden}, and not done after {seconds} s: whoever has the folder goes on with it, or \
         the next start\n  to see how far it is: banter_erasures_pending, and what the server says; do not ask again",
        hidden = if *.is_hidden { "hidden from readers" } else { "not known to be hidden from readers yet" }
    )]
    NotYet {
        /// Its number.
        number: u64,
        /// Whether readers are told nothing of it any more.
        is_hidden: bool,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// Erases. Says how much.
///
/// # Errors
/// Something cannot be read or written, there are too many erasures, or less was erased than was asked.
pub(super) fn run(task: &EraseTask) -> Result<bool, LogFault> {
    let (log, _) = segments_in(&task.dir)?;
    let list = open(&log)?;
    let folder = free_folder(&task.dir)?;
    // Anew: a server that has the folder goes on.
    let (_, segments) = segments_in(&task.dir)?;
    let bound = bound_of(&log, &segments, &task.room).map_err(|error| LogFault::Unreadable { path: log, error })?;
    let no_room = NotErased::NoRoom { room: task.room.as_str().to_owned(), is_running: folder.is_none() };
    if folder.is_some() && bound.is_none() {
        let report = Report { number: None, hidden: false, done: false, messages: 0, unread_bytes: 0 };
        tell(task, &report)?;
        return Err(LogFault::NotErased(no_room));
    }
    let number = list.ask(&wanted(task, bound.unwrap_or(Bound::NOTHING)), unix_ms()).map_err(|fault| match fault {
        AskFault::Disk(error) => LogFault::Unwritable { path: list.path().to_owned(), error },
        other => LogFault::Erasures(other),
    })?;
    let report = match &folder {
        Some(folder) => erase(folder, &list, number)?,
        None => wait(&task.dir, &list, number, task.timeout)?,
    };
    tell(task, &report)?;
    match (&report, bound) {
        (Report { done: false, hidden, .. }, _) => {
            Err(LogFault::NotErased(NotErased::NotYet { number, is_hidden: *hidden, seconds: task.timeout }))
        }
        (_, None) => Err(LogFault::NotErased(no_room)),
        _ => Ok(report.unread_bytes == 0),
    }
}

fn open(log: &Path) -> Result<ErasureFile, LogFault> {
    let unreadable = |error| LogFault::Unreadable { path: log.join("ledger"), error };
    let found = LedgerFile::open(log).map_err(|fault| match fault {
        SlotsFault::Disk(error) => unreadable(error),
        later @ SlotsFault::Later { .. } => unreadable(std::io::Error::other(later)),
    })?;
    Ok(ErasureFile::of(log, found.identity().map_err(unreadable)?))
}

fn wanted(task: &EraseTask, bound: Bound) -> Wanted {
    let (first, last) = task.sequence.unwrap_or((Sequence(1), Sequence(u64::MAX)));
    Wanted { room: task.room.clone(), user: task.user.clone(), first, last, bound }
}

/// Does all that waits, since nobody runs who could.
fn erase(folder: &LogFolder, list: &ErasureFile, number: u64) -> Result<Report, LogFault> {
    let unwritable = |path: PathBuf| move |error| LogFault::Unwritable { path, error };
    let read = || list.read().map_err(|error| LogFault::Unreadable { path: list.path().to_owned(), error });
    bind(folder, list, read()?.pending())?;
    let pending: Vec<Listed> = read()?.pending().cloned().collect();
    let mut ended: BTreeMap<u64, Ended> = pending.iter().map(|it| (it.erasure.number, Ended::default())).collect();
    let mut progress = Progress::new(folder.segments.len());
    for (done, &segment) in folder.segments.iter().enumerate() {
        progress.tell(done, ended.values().map(|ended| ended.messages).sum());
        let concerned: Vec<Erasure> = concerning(&folder.path, segment, pending.iter()).into_iter().cloned().collect();
        if concerned.is_empty() {
            continue;
        }
        let rewritten = Rewriting::begin(&folder.path, segment, concerned).and_then(Rewriting::finish);
        for (number, more) in rewritten.map_err(unwritable(folder.path_of(segment)))? {
            let ended = ended.entry(number).or_default();
            ended.messages += more.messages;
            ended.unread_bytes += more.unread_bytes;
        }
    }
    progress.clear();
    let all: Vec<(u64, Ended)> = ended.into_iter().collect();
    list.end(&all).map_err(unwritable(list.path().to_owned()))?;
    Ok(Report::of(number, read()?.get(number)))
}

/// Says of all that nobody has begun with in this folder up to where it reaches: what is posted later is not concerned, here or
/// in a copy.
fn bind<'l>(folder: &LogFolder, list: &ErasureFile, pending: impl Iterator<Item = &'l Listed>) -> Result<(), LogFault> {
    let through_segment = folder.segments.last().copied().unwrap_or(0);
    let mut bindings = Vec::new();
    let mut bounds: BTreeMap<&str, Bound> = BTreeMap::new();
    for listed in pending.filter(|listed| listed.through_segment.is_none()) {
        let Erasure { number, ref room, bound, .. } = listed.erasure;
        let there = match bounds.get(room.as_str()) {
            Some(&there) => there,
            None => {
                let found = bound_of(&folder.path, &folder.segments, room);
                let found = found.map_err(|error| LogFault::Unreadable { path: folder.path.clone(), error })?;
                *bounds.entry(room.as_str()).or_insert(found.unwrap_or(Bound::UNKNOWN))
            }
        };
        bindings.push(Binding { number, bound: bound.within(there), through_segment });
    }
    list.bind(&bindings).map_err(|error| LogFault::Unwritable { path: list.path().to_owned(), error })
}

/// The folder, unless a server or another command has it.
fn free_folder(dir: &Path) -> Result<Option<LogFolder>, LogFault> {
    match LogFolder::open(dir) {
        Ok(folder) => Ok(Some(folder)),
        Err(LogFault::Host(fault)) if fault.cause == HostCause::FolderInUse => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Waits until whoever has the folder has done it, or leaves the folder without.
fn wait(dir: &Path, list: &ErasureFile, number: u64, seconds: u64) -> Result<Report, LogFault> {
    // What no clock can say is without an end.
    let until = Instant::now().checked_add(Duration::from_secs(seconds));
    let mut look_at = Instant::now() + FOLDER_PAUSE;
    loop {
        let read = list.read().map_err(|error| LogFault::Unreadable { path: list.path().to_owned(), error })?;
        let report = Report::of(number, read.get(number));
        if report.done || until.is_some_and(|until| Instant::now() >= until) {
            return Ok(report);
        }
        if look_at <= Instant::now() {
            if let Some(folder) = free_folder(dir)? {
                return erase(&folder, list, number);
            }
            look_at = Instant::now() + FOLDER_PAUSE;
        }
        std::thread::sleep(PAUSE);
    }
}

fn tell(task: &EraseTask, report: &Report) -> Result<(), LogFault> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let &Report { number, done, messages, unread_bytes, .. } = report;
    if task.json {
        let text = serde_json::to_string(report).map_err(std::io::Error::other)?;
        writeln!(out, "{text}")?;
    } else if let Some(number) = number.filter(|_| done) {
        writeln!(out, "erased {messages} messages of room {:?} (erasure {number})", task.room.as_str())?;
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
