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
mod findings;
mod init;
mod look;
mod shown;
mod status;
mod whom;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use banter_engine::EngineFault;
use banter_engine::streams::StreamsFault;
use clap::{Args, Subcommand};

use self::init::InitLine;
use self::status::StatusLine;
use self::whom::Whom;
use crate::config::ConfigFault;
use crate::host::EXIT_CONFIG;

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
    /// Not built yet.
    #[command(hide = true)]
    Import {
        /// The data folder.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Not built yet.
    #[command(hide = true)]
    Export {
        /// The data folder.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
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
    NotYet(String),
    #[error("the runtime of this command cannot be made: {0}; leave it more file descriptors (ulimit -n)")]
    Runtime(io::Error),
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl ToolFault {
    fn exit_code(&self) -> u8 {
        match self {
            ToolFault::Config(_) | ToolFault::Unsaid(_) => EXIT_CONFIG,
            ToolFault::Engine(
                EngineFault::Unreachable { .. }
                | EngineFault::Refused { .. }
                | EngineFault::Tls { .. }
                | EngineFault::Closed,
            )
            | ToolFault::Runtime(_) => EXIT_BLIND,
            ToolFault::Engine(_) => EXIT_CONFIG,
            ToolFault::Streams(_) | ToolFault::NotMade(_) | ToolFault::NotYet(_) | ToolFault::Stdout(_) => EXIT_WRONG,
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
    if let ClusterTask::Import { .. } | ClusterTask::Export { .. } = line.task {
        let what = "this version takes no data folder in and gives none out; for backups of a cluster see docs/cluster.md \
                    (`nats stream backup` of each stream)";
        return Err(ToolFault::NotYet(what.to_owned()));
    }
    let engine = line.whom.engine()?;
    // Nothing in here waits for a second thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ToolFault::Runtime)?;
    runtime.block_on(async {
        match &line.task {
            ClusterTask::Init(task) => init::run(&engine, task).await,
            ClusterTask::Status(task) => status::run(&engine, task).await,
            ClusterTask::Check { json } => check::run(&engine, *json).await,
            ClusterTask::Import { .. } | ClusterTask::Export { .. } => Ok(true),
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
    fn what_does_nothing_yet_says_so_and_is_in_no_help() {
        let help = line(&["--help"]).unwrap_err().to_string();
        for (name, is_there) in
            [("init", true), ("status", true), ("check", true), ("import", false), ("export", false)]
        {
            assert_eq!(help.contains(&format!("\n  {name}")), is_there, "{name}: {help}");
        }
        let fault = done(&line(&["export", "dir"]).unwrap()).unwrap_err();
        assert!(fault.to_string().contains("nats stream backup") && fault.exit_code() == EXIT_WRONG, "{fault}");
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
