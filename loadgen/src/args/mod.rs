//! The command line: what to load, how hard, for how long. A file for each family of scenarios.

pub mod beside;
pub mod fanout;
pub mod hostile;
pub mod idle;
pub mod mixes;
pub mod resume;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::body::PAYLOAD_BYTES_MIN;

pub use beside::{Churn, History, Live, Soak, Stalled, Storm};
pub use fanout::{Complete, Fanout, Giant, Pace, Pingpong, Plan, Rooms, Saturation, Time};
pub use hostile::Hostile;
pub use idle::Idle;
pub use mixes::{Merge, Mixed, Output};
pub use resume::{By, Resume};

/// Connections to open a second, unless told otherwise.
const SETUP_RATE: u32 = 5000;
/// What the names of rooms begin with, unless told otherwise.
const ROOM_PREFIX: &str = "load";

/// Loads a Banter server from one core, measures it, and verifies that every member got every message once, in order.
///
/// Exit code: 0 all verified, 1 not verified, 2 wrong arguments, 3 the run could not be made.
#[derive(Debug, Parser)]
#[command(name = "banter-loadgen", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub job: Job,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// Rooms of members, some of whom post; everybody reads
    Fanout(Fanout),
    /// One post in flight over all: the latency of an echo
    Pingpong(Pingpong),
    /// Many small rooms, several of them for each member
    Rooms(Rooms),
    /// One large room: from a post to its first reader and to its last
    Giant(Giant),
    /// All clients lose their connections and come back where they were
    Storm(Storm),
    /// Readers that stop reading: what the others feel, and what they get in the end
    Stalled(Stalled),
    /// Readers that come and go beside a live load
    Churn(Churn),
    /// Readers that scroll back beside a live load
    History(History),
    /// A long mix, and the trend of the server's memory
    Soak(Soak),
    /// Joined connections that say nothing: the server's memory for each
    Idle(Idle),
    /// Many clients come back at once and are owed messages, beside a live load
    Resume(Resume),
    /// Several scenarios at the same time, as a TOML file says
    Run(Mixed),
    /// Adds up the figures of several processes or machines
    Merge(Merge),
    /// Hostile connections of every kind: what honest ones feel of them, and what memory they cost
    Hostile(Hostile),
}

/// How frames travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wire {
    /// JSON in WebSocket text frames (banter.json.v1)
    Json,
    /// Native frames on TCP
    Native,
    /// Native frames in WebSocket binary frames (banter.rkyv.v1)
    WsRkyv,
    /// Another server: NATS core
    Nats,
    /// Another server: Redis pub/sub (RESP3)
    Redis,
    /// Another server: MQTT 3.1.1, QoS 0
    Mqtt,
    /// Another server: WebSocket, /room/NAME joins, a binary message posts
    Plain,
}

/// The server, and how to measure it.
#[derive(Clone, Debug, ClapArgs)]
pub struct Target {
    /// The server's address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7878")]
    pub server: SocketAddr,
    /// How frames travel
    #[arg(long, value_enum, default_value_t = Wire::Json)]
    pub wire: Wire,
    /// The server's process: measures its CPU time and memory
    #[arg(long)]
    pub pid: Option<u32>,
    /// Pin this load to a CPU (pin the server to another)
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Connections to open a second, at most
    #[arg(long, value_name = "N", default_value_t = SETUP_RATE, value_parser = clap::value_parser!(u32).range(1..))]
    pub setup_rate: u32,
    /// Room names are PREFIX-0, PREFIX-1 …
    #[arg(long, value_name = "PREFIX", default_value = ROOM_PREFIX, value_parser = room_prefix)]
    pub room_prefix: String,
    /// Give each post a key, as a client does that may have to repeat it
    #[arg(long)]
    pub keyed: bool,
    /// Say hello with a token, of each connection its own, signed with this secret (HS256)
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Users that share the connections of a crowd; as many as connections if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub users: Option<u32>,
    /// Print the figures as JSON on stdout instead of the table
    #[arg(long)]
    pub json: bool,
    /// Write a page that shows the run: one HTML file
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// What the page and the JSON are to say beside the figures: a commit, circumstances
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// The run's name in a mix
    #[arg(long, hide = true)]
    pub name: Option<String>,
}

impl Target {
    /// That server, and otherwise as the command line has it where it says nothing.
    pub fn of(server: SocketAddr) -> Self {
        Target {
            server,
            wire: Wire::Json,
            pid: None,
            cpu: None,
            setup_rate: SETUP_RATE,
            room_prefix: ROOM_PREFIX.into(),
            keyed: false,
            secret_file: None,
            users: None,
            json: false,
            report: None,
            note: None,
            name: None,
        }
    }
}
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds, as 2 or 0.5".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Characters that need no escaping in JSON, so that rooms are found by their bytes.
fn room_prefix(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || text.len() > 100 || !text.bytes().all(is_plain) {
        return Err("1 to 100 letters, digits, '-', '_' or '.'".into());
    }
    Ok(text.to_owned())
}

pub(super) fn payload_bytes(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|_| "a number of bytes".to_owned())?;
    if bytes < PAYLOAD_BYTES_MIN {
        return Err(format!("at least {PAYLOAD_BYTES_MIN}: two quotes and the number of the post"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_its_help_fits_a_screen() {
        Args::command().debug_assert();
        for job in [
            "fanout", "pingpong", "idle", "resume", "hostile", "rooms", "giant", "storm", "stalled", "churn",
            "history", "soak", "run", "merge",
        ] {
            let mut command = Args::command();
            let help = command.find_subcommand_mut(job).unwrap().render_help().to_string();
            assert!(help.lines().count() <= 40, "{job}: {} lines", help.lines().count());
        }
    }

    #[test]
    fn the_jobs_of_the_published_figures_can_be_said() {
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        let Job::Fanout(job) = parse("x fanout --rooms 1000 --members 5 --publishers 5 --outstanding 1").unwrap().job
        else {
            panic!()
        };
        let plan = job.plan();
        assert_eq!((plan.rooms, plan.members, plan.publishers), (1000, 5, 5));
        assert_eq!(plan.pace, Pace::Closed { outstanding: 1, complete: Complete::All });
        assert!(parse("x fanout --rate 100 --outstanding 2").is_err());
        assert!(parse("x fanout --payload 17").is_err());
        assert!(parse("x fanout --duration -1").is_err());
        assert!(parse("x resume --clients 10000 --rooms 100 --messages 1000 --keyed").is_ok());
        assert!(parse("x resume --clients 10000 --rooms 100 --messages 10 --rehearse --secret-file s").is_ok());
        assert!(parse("x idle --connections 19000 --users 190 --secret-file s").is_ok());
        assert!(parse("x idle --users 0").is_err());
        assert!(parse("x idle --connections 19000 --rooms 190 --pid 1 --wire native").is_ok());
    }
}
