//! `banter cluster`: makes a cluster's streams, has the engine prove itself, and says how the cluster is and what to do about it.
//!
//! ```text
//!  arguments ─▶ whom (flags over [cluster] of a file) ─▶ Connection ─▶ init   streams made, or found as they are
//!                                                        │        ├─▶ check  the gate's faults, as a start sees them
//!                                                        │        └─▶ status look (servers, streams, beats) ─▶ findings ─▶ shown
//!                                                        └ on this thread's own runtime
//! ```
//!
//! `findings` decides what is wrong, of values alone; `look` is who asks. Nothing here needs a node that runs, or its data folder.

mod bytes;
mod check;
mod export;
mod findings;
mod import;
mod init;
mod look;
mod looks;
mod shown;
mod status;
mod whom;

use std::io;
use std::process::ExitCode;

use banter_engine::EngineFault;
use banter_engine::streams::StreamsFault;
use clap::{Args, Subcommand};

use self::export::ExportLine;
use self::import::ImportLine;
use self::init::InitLine;
use self::status::StatusLine;
use self::whom::Whom;
use crate::config::ConfigFault;
use crate::host::EXIT_CONFIG;
use crate::log_tool::LogFault;

/// The exit code where something needs a person.
const EXIT_WRONG: u8 = 1;
/// The exit code where nothing can be looked at.
const EXIT_BLIND: u8 = 2;

/// Which cluster, and what to do.
#[derive(Clone, Debug, Args)]
pub struct ClusterLine {
    #[command(flatten)]
    whom: Whom,
    #[command(subcommand)]
    task: ClusterTask,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
enum ClusterTask {
    /// Make the streams of a cluster; what is there already stays as it is
    #[command(after_help = "It may be run again at any time: behind one that was broken off it goes on with the same \
                            cluster.\nExit code: 0 they are there, 1 they cannot be made, 2 wrong arguments or no NATS \
                            server answers,\n78 the configuration.")]
    Init(InitLine),
    /// Say how servers, nodes and partitions are, what is wrong and what to do
    #[command(
        after_help = "Exit code: 0 all is well, 1 something needs a person, 2 wrong arguments or no NATS server \
                            answers,\n78 the configuration."
    )]
    Status(StatusLine),
    /// Have the NATS servers prove that they keep what they acknowledge, as a node does when it starts
    #[command(
        after_help = "Exit code: 0 proved, 1 not, and each fault is a line with its cure, 2 wrong arguments or no \
                            NATS server\nanswers, 78 the configuration."
    )]
    Check {
        /// Say it as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Take the data folder of a stopped server into a cluster that is empty and has no node running
    #[command(
        after_help = "Rooms keep their epochs, sequences and keys. The folder stays as it is; never start a server on it \
                            again.\nExit code: 0 imported, 1 not, 2 wrong arguments or no NATS server answers, 78 the \
                            configuration,\nor the folder cannot be read or is in use."
    )]
    Import(ImportLine),
    /// Write a data folder of what the cluster holds, for a backup or a server of its own; nodes may serve meanwhile
    #[command(
        after_help = "It holds what was acknowledged when it began, and is checked as `banter log check` does. Rooms \
                            keep their epochs,\nsequences and keys.\nExit code: 0 written, 1 not, 2 wrong arguments or no \
                            NATS server answers, 78 the configuration,\nor the folder."
    )]
    Export(ExportLine),
}

/// Why it is not done, and how to mend that.
#[derive(Debug, thiserror::Error)]
enum ToolFault {
    #[error(transparent)]
    Config(#[from] ConfigFault),
    #[error("{0}")]
    Unsaid(String),
    #[error(transparent)]
    Engine(#[from] EngineFault),
    #[error(transparent)]
    Streams(#[from] StreamsFault),
    #[error("{0}")]
    NotMade(String),
    #[error("{0}")]
    Folder(String),
    #[error(transparent)]
    Log(#[from] LogFault),
    #[error("the runtime of this command cannot be made: {0}; leave it more file descriptors (ulimit -n)")]
    Runtime(io::Error),
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl ToolFault {
    fn exit_code(&self) -> u8 {
        match self {
            ToolFault::Config(_) | ToolFault::Unsaid(_) | ToolFault::Folder(_) => EXIT_CONFIG,
            ToolFault::Log(fault) => fault.exit_code(),
            ToolFault::Engine(
                EngineFault::Unreachable { .. }
                | EngineFault::Refused { .. }
                | EngineFault::Tls { .. }
                | EngineFault::Closed,
            )
            | ToolFault::Runtime(_) => EXIT_BLIND,
            ToolFault::Engine(_) => EXIT_CONFIG,
            ToolFault::Streams(_) | ToolFault::NotMade(_) | ToolFault::Stdout(_) => EXIT_WRONG,
        }
    }
}

/// Does it, and says what came of it.
pub fn run(line: &ClusterLine) -> ExitCode {
    match done(line) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_WRONG),
        // Who has closed the pipe has read enough.
        Err(ToolFault::Stdout(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("banter: {fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}

/// Whether all is well.
fn done(line: &ClusterLine) -> Result<bool, ToolFault> {
    let engine = line.whom.engine()?;
    // Nothing in here waits for a second thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ToolFault::Runtime)?;
    runtime.block_on(async {
        match &line.task {
            ClusterTask::Init(task) => init::run(&engine, task).await,
            ClusterTask::Status(task) => status::run(&engine, task).await,
            ClusterTask::Check { json } => check::run(&engine, *json).await,
            ClusterTask::Export(task) => export::run(&engine, task).await,
            ClusterTask::Import(task) => import::run(&engine, task).await,
        }
    })
}

/// Writes it to stdout.
fn say(text: &str) -> Result<(), ToolFault> {
    use std::io::Write as _;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ToolFault::Stdout)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        line: ClusterLine,
    }

    fn line(args: &[&str]) -> Result<ClusterLine, clap::Error> {
        Line::try_parse_from([&["cluster"], args].concat()).map(|line| line.line)
    }

    #[test]
    fn every_task_is_in_the_help() {
        let help = line(&["--help"]).unwrap_err().to_string();
        for (name, is_there) in [("init", true), ("status", true), ("check", true), ("import", true), ("export", true)]
        {
            assert_eq!(help.contains(&format!("\n  {name}")), is_there, "{name}: {help}");
        }
    }

    #[test]
    fn partitions_are_a_power_of_two_and_few_copies_are_for_trials() {
        assert!(line(&["init", "--partitions", "64"]).is_ok());
        for args in
            [&["init", "--partitions", "63"][..], &["init", "--partitions", "512"], &["init", "--replicas", "2"]]
        {
            assert!(line(args).is_err(), "{args:?}");
        }
        assert!(line(&["init", "--replicas", "1"]).is_err());
        assert!(line(&["init", "--replicas", "1", "--unproved"]).is_ok());
    }
}
