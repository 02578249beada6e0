//! The command line of `revocation`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use banter_loadgen::args::{Pace, Plan, Target, Time};
use clap::{Parser, Subcommand};

/// A body's bytes of the live load.
const PAYLOAD_BYTES: usize = 128;
/// What is under way at the end may take so long.
const DRAIN: Duration = Duration::from_secs(10);

/// How long it is from the answer of the interface for backends until the last connection that was revoked is closed.
#[derive(Debug, Parser)]
#[command(name = "revocation", version)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub job: Job,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// Holds connections beside a live load, revokes one user and then a range of addresses, and times how they close
    Measure(Measure),
    /// Shows a token that was revoked to a server: it must not be let in
    Refused(Refused),
}

/// Holds --connections, of which --victims are one user's and --ranged come from 127.1.0.0/16; a live load runs beside them.
/// After --before seconds of it the user is revoked, and after as many more the range. Exit code: 0 all that must hold holds,
/// 1 something does not, 3 it could not be run.
#[derive(Debug, clap::Args)]
pub struct Measure {
    /// Where the interface for backends listens
    #[arg(long, value_name = "ADDR")]
    pub api: SocketAddr,
    /// The file with a key of it that has the right to operate
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,
    /// Connections in all
    #[arg(long, value_name = "N", default_value_t = 19_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub connections: u32,
    /// Connections of the user that is revoked
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub victims: u32,
    /// Connections from the addresses that are revoked
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub ranged: u32,
    /// Rooms that all but the live load are spread over
    #[arg(long, value_name = "N", default_value_t = 190, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Readers of the live room, one of whom posts
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    pub live_members: u32,
    /// Posts a second into it
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub live_rate: u64,
    /// Seconds of the live load that are measured before each revocation
    #[arg(long, value_name = "S", default_value_t = 5)]
    pub before: u64,
    /// Seconds that are measured from a revocation on, at least
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub meanwhile: u64,
    /// Seconds after which a connection that is still open counts as one that stayed
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub closed_max: u64,
    /// Keeps a token of the user that is revoked here, to be shown again
    #[arg(long, value_name = "FILE")]
    pub token_out: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// Exit code: 0 it was refused as revoked, 1 it was not, 3 nobody answered.
#[derive(Debug, clap::Args)]
pub struct Refused {
    /// The file with the token, as `measure` kept it
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

impl Measure {
    /// The plan of the live load; nothing of it is measured unless that is said.
    pub(super) fn live_plan(&self) -> Plan {
        Plan {
            name: "revocation",
            rooms: 1,
            rooms_each: 1,
            members: self.live_members,
            publishers: 1,
            payload_bytes: PAYLOAD_BYTES,
            pace: Pace::Open { posts_per_s: self.live_rate },
            time: Time { duration: Duration::ZERO, warmup: Duration::ZERO, drain: DRAIN },
        }
    }

    /// Connections that nothing is revoked of and that say nothing.
    pub(super) fn bystanders(&self) -> Option<u32> {
        self.connections.checked_sub(self.victims)?.checked_sub(self.ranged)?.checked_sub(self.live_members)
    }
}
