//! `banter log`: checks a log, lists its rooms, writes its messages out, copies it, or erases in it.
//!
//! ```text
//!  folder (which files, the lock) ─▶ walk (one segment's blocks, records, messages) ─▶ order ─▶ check ─▶ report
//!                                                                                  │        └─▶ dump  ▲
//!                                                                                  └─▶ rooms          └─ chains, beside
//! ```
//!
//! `backup` copies, and needs no lock for that, unless the copy is to go on alone. `erase` writes down what is to go, and does it
//! itself where no server runs. The others only read; the folder's lock, which it holds meanwhile, is the one file that it may make. Memory holds one
//! segment at a time. What is found broken is damage, and the reading goes on; what keeps it from reading is a
//! [`LogFault`], and ends it.

mod backup;
mod beside;
mod chains;
mod check;
mod damage;
mod dump;
mod erase;
mod folder;
#[cfg(test)]
pub(crate) mod made;
mod order;
mod progress;
mod report;
mod rooms;
mod walk;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use banter_protocol::ids::RoomName;
use clap::Subcommand;

use self::backup::Means;
#[cfg(feature = "cluster")]
pub(crate) use self::check::quietly as check_quietly;
pub use self::erase::{EraseTask, NotErased};
#[cfg(feature = "cluster")]
pub(crate) use self::folder::LogFolder;
#[cfg(feature = "cluster")]
pub(crate) use self::progress::Progress;
use crate::host::{EXIT_CONFIG, HostFault};
use crate::storage::erasures::AskFault;

/// The exit code of a log that is damaged.
pub const EXIT_DAMAGED: u8 = 1;
/// The process's exit code when what was named is not in the log, as `sysexits.h` has it (`EX_NOINPUT`).
pub const EXIT_NO_ROOM: u8 = 66;
/// The process's exit code when it is not done yet (`EX_TEMPFAIL`).
pub const EXIT_NOT_YET: u8 = 75;

/// What to do with a log.
#[derive(Clone, Debug, Subcommand)]
pub enum LogTask {
    /// Check a log: every segment, block, message and index, and the files beside them
    #[command(after_help = "Exit code: 0 all right (a torn tail is), 1 damaged, or a segment is missing, 2 wrong \
                            arguments,\n78 the folder cannot be read or is in use.")]
    Check {
        /// Data folder, or the folder `log` in it
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Say it as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Copy the log of a data folder, also of a running server's
    #[command(after_help = "The copy is a data folder: start a server on it with --data TO. Its rooms then begin \
                            new epochs,\nsince the folder may go on.\nExit code: 0 copied, 2 wrong arguments, 78 a \
                            folder cannot be read or written, or with --move\nis in use.")]
    Backup {
        /// Data folder
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Where the copy goes; made if needed, and empty
        #[arg(value_name = "TO")]
        to: PathBuf,
        /// The copy goes on, and DIR never again: rooms keep their epochs; no server may run
        #[arg(long = "move")]
        is_move: bool,
    },
    /// List the rooms of a log: messages, first and last sequence, epoch, bytes, newest time
    #[command(after_help = "Exit code: 0 all read, 1 the log is damaged and what can be read is listed, 2 wrong \
                            arguments,\n78 the folder cannot be read or is in use.")]
    Rooms {
        /// Data folder, or the folder `log` in it
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Say it as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Erase messages for good, also in the log of a running server
    #[command(
        after_help = "What is erased is a gap to readers at once, and gone from the files when this ends. It is \
                            kept in a list\n(log/erasures), so that it is done again behind a restore.\nExit code: 0 \
                            erased, 1 erased but for what is damaged, 2 wrong arguments, 66 the log holds no\nsuch room, \
                            75 written down and not done yet: the server goes on with it, 78 the folder cannot be\nread or \
                            written."
    )]
    Erase(EraseTask),
    /// Write the messages of a log to stdout, one JSON object a line, in the order of the log
    #[command(after_help = "A body that is no JSON, or has line breaks, is written as body_base64.\nExit code: 0 all \
                            written, 1 the log is damaged and what can be read was written, 2 wrong arguments,\n78 the \
                            folder cannot be read or is in use.")]
    Dump {
        /// Data folder, or the folder `log` in it
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Only the messages of this room
        #[arg(long, value_name = "NAME", value_parser = parse_room)]
        room: Option<RoomName>,
    },
}

fn parse_room(text: &str) -> Result<RoomName, String> {
    RoomName::new(text).map_err(|fault| format!("no room can have this name: {fault}"))
}

/// What keeps a log from being read.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    /// The folder is in use.
    #[error(transparent)]
    Host(#[from] HostFault),
    /// A folder or a file cannot be opened.
    #[error("cannot read {path}: {error}\n  to mend it: {fix}", path = .path.display(), fix = fix_of(error))]
    Unreadable {
        /// What cannot be opened.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no log.
    #[error(
        "there is no log in {path}: it holds neither a folder `log` nor a file segment-*.log\n  to mend it: name the \
         server's data folder (--data; rooms in memory leave no log)", path = .0.display()
    )]
    NoLog(PathBuf),
    /// The copy's folder holds something.
    #[error("{path} is there already\n  to mend it: name a folder that is new or empty", path = .0.display())]
    NotEmpty(PathBuf),
    /// A folder that is to be moved has no lock, and may get none.
    #[error(
        "{path} cannot be locked, and a server might start on it meanwhile\n  to mend it: run this as the server's user \
         (sudo -u USER), to whom the folder belongs", path = .0.display()
    )]
    NotLocked(PathBuf),
    /// The copy cannot be written.
    #[error("cannot write to {path}: {error}\n  to mend it: see that there is space (`df -h`) and a right to write", path = .path.display())]
    Unwritable {
        /// The copy's folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Nothing more can be asked to be erased.
    #[error("{0}")]
    Erasures(AskFault),
    /// Less was erased than was asked.
    #[error("{0}")]
    NotErased(NotErased),
    /// What was found cannot be told.
    #[error("cannot write to stdout: {0}")]
    Output(#[from] io::Error),
}

fn fix_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "name a folder that is there: the server's data folder, or the folder `log` in it",
        io::ErrorKind::PermissionDenied => "run this as the server's user (sudo -u USER), who may read there",
        io::ErrorKind::NotADirectory => "name the folder, not a file in it",
        io::ErrorKind::OutOfMemory => "leave more memory to this process: a segment is read as a whole",
        _ => "see whether the disk and its mount are well (`dmesg`)",
    }
}

impl LogFault {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            LogFault::Host(_)
            | LogFault::Unreadable { .. }
            | LogFault::Unwritable { .. }
            | LogFault::NotEmpty(_)
            | LogFault::NotLocked(_)
            | LogFault::Erasures(_)
            | LogFault::NoLog(_) => EXIT_CONFIG,
            LogFault::NotErased(NotErased::NoRoom { .. }) => EXIT_NO_ROOM,
            LogFault::NotErased(NotErased::NotYet { .. }) => EXIT_NOT_YET,
            LogFault::Output(_) => EXIT_DAMAGED,
        }
    }
}

/// Does it, and says on stderr why it could not.
#[must_use]
pub fn run(task: &LogTask) -> ExitCode {
    let done = match task {
        LogTask::Check { dir, json } => check::run(dir, *json),
        LogTask::Backup { dir, to, is_move: false } => backup::run(dir, to, Means::Backup),
        LogTask::Backup { dir, to, is_move: true } => backup::run(dir, to, Means::Move),
        LogTask::Rooms { dir, json } => rooms::run(dir, *json),
        LogTask::Erase(task) => erase::run(task),
        LogTask::Dump { dir, room } => dump::run(dir, room.as_ref()),
    };
    match done {
        Ok(is_whole) => ExitCode::from(if is_whole { 0 } else { EXIT_DAMAGED }),
        // Who has closed the pipe has read enough.
        Err(LogFault::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("banter: {fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}
