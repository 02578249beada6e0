//! The command line: what to load, how hard, for how long.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::body::PAYLOAD_BYTES_MIN;
use crate::hostile::kinds::Kind;

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
    /// Joined connections that say nothing: the server's memory for each
    Idle(Idle),
    /// Many clients come back at once and are owed messages, beside a live load
    Resume(Resume),
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

/// When a post stops being outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Complete {
    /// Every member of its room has it
    All,
    /// Its publisher has it back from the room
    Echo,
    /// Its publisher has the acknowledgement
    Ack,
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
        }
    }
}

/// A closed loop keeps --outstanding posts a publisher under way: a post is outstanding until it is complete, and the
/// next takes its place at once. With --complete all (the default, and what the broadcast benchmarks of uWebSockets
/// and Bun do) that is when every member of the room has it, so that one send carries at most outstanding × publishers
/// frames, whoever is served first. With --rate posts follow the clock instead, whatever the server does. Latency
/// counts from the time at which a post was meant to be sent.
#[derive(Debug, ClapArgs)]
pub struct Fanout {
    /// Rooms
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Members (connections) of each room
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Members of each room that post
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// A body's bytes on the wire: a JSON text with its quotes
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = payload_bytes)]
    pub payload: usize,
    /// Closed loop: posts of each publisher under way
    #[arg(long, value_name = "K", default_value_t = 1, conflicts_with = "rate",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub outstanding: u32,
    /// When a post of the closed loop stops being outstanding
    #[arg(long, value_enum, default_value_t = Complete::All, conflicts_with = "rate")]
    pub complete: Complete,
    /// Open loop: posts a second in total, taken in turn
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub time: Time,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// How long.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Time {
    /// Seconds that are measured
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub duration: Duration,
    /// Seconds of load before that
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    pub warmup: Duration,
    /// Seconds that what is under way may take after that
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub drain: Duration,
}

/// One post is under way at a time, and counts as complete when its publisher has it back.
#[derive(Debug, ClapArgs)]
pub struct Pingpong {
    /// Members of the one room
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// A body's bytes on the wire: a JSON text with its quotes
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = payload_bytes)]
    pub payload: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub time: Time,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// Opens joined connections and holds them. The growth of the server's resident memory, divided by the connections, is
/// the figure; kernel memory (sockets, slab) is told apart.
#[derive(Debug, ClapArgs)]
pub struct Idle {
    /// Connections
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Rooms to spread them over
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Seconds to hold them before memory is read
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    pub hold: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// First posts --messages to each of --rooms. Then a small live load runs in rooms of its own, alone for --before, and
/// on while --clients connect all at once and join behind a cursor from before those messages. The live load's
/// latencies before and during that storm are compared, and every client must get every missed message once, in order.
#[derive(Debug, ClapArgs)]
pub struct Resume {
    /// Clients that come back; a multiple of --rooms
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub clients: u32,
    /// Rooms that they come back to
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rooms: u32,
    /// Messages that each has missed
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub messages: u64,
    /// A body's bytes on the wire: a JSON text with its quotes
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = payload_bytes)]
    pub payload: usize,
    /// How a client says where it was
    #[arg(long, value_enum, default_value_t = By::After)]
    pub by: By,
    /// Clients that may be between connecting and joined
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub opening: u32,
    /// Seconds that the storm may take
    #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
    pub storm_max: Duration,
    /// Rooms of the live load
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub live_rooms: u32,
    /// Members of each, one of whom posts
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub live_members: u32,
    /// Posts a second of the live load in total
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub live_rate: u64,
    /// Seconds of live load that are measured before the storm
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    pub before: Duration,
    /// Seconds of live load before that
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    pub warmup: Duration,
    /// Let the clients come once before all this, and go: a server that remembers tokens knows theirs then
    #[arg(long)]
    pub rehearse: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// A pair of honest clients and one that pings are measured alone and then beside --attackers of a kind, kind by kind; so
/// the ratios are of the same run. Then --memory connections of all kinds attack at once, and the growth of the server's
/// memory is compared with the sum of its limits. The server must be this user's and on one core of its own (--pid,
/// --cores); hostile connections speak JSON over WebSocket, the others --wire.
#[derive(Debug, ClapArgs)]
pub struct Hostile {
    /// Kinds, in this order; all if none is named
    #[arg(long = "kind", value_enum, value_delimiter = ',', value_name = "KIND,…")]
    pub kinds: Vec<Kind>,
    /// Hostile connections of a kind
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub attackers: u32,
    /// Things that they say in all a second, or connections that they begin, at most
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub attack_rate: u64,
    /// Members of the room that signals go to
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub crowd: u32,
    /// Members of the large room; fewer where the descriptors are fewer
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub large_room: u32,
    /// Messages that there are to fetch
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub messages: u64,
    /// Honest posts a second, and as many pings
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Hostile connections of all kinds whose memory is measured; 0 for none
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub memory: u32,
    /// Seconds that these attack: until what the server keeps of them is full
    #[arg(long, value_name = "S", default_value = "15", value_parser = seconds)]
    pub memory_duration: Duration,
    /// Cores of the server, for the sum of its limits
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub cores: u32,
    /// Seconds of an attack before it is measured, and of quiet behind it
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub lead: Duration,
    /// Seconds that are measured alone, and again beside each kind
    #[arg(long, value_name = "S", default_value = "3", value_parser = seconds)]
    pub duration: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// How a client that comes back says where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// By its cursor
    After,
    /// By the number of messages that it wants
    Last,
}

/// What a fan-out does, whichever command asked for it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The command's name.
    pub name: &'static str,
    /// Rooms.
    pub rooms: u32,
    /// Members of each.
    pub members: u32,
    /// Members of each that post.
    pub publishers: u32,
    /// A body's bytes.
    pub payload_bytes: usize,
    /// What starts a post.
    pub pace: Pace,
    /// How long.
    pub time: Time,
}

/// What starts a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The completion of the one before.
    Closed {
        /// Posts of each publisher under way.
        outstanding: u32,
        /// When one is complete.
        complete: Complete,
    },
    /// The clock.
    Open {
        /// Posts a second in total.
        posts_per_s: u64,
    },
}

impl Fanout {
    /// The plan.
    pub fn plan(&self) -> Plan {
        let closed = Pace::Closed { outstanding: self.outstanding, complete: self.complete };
        Plan {
            name: "fanout",
            rooms: self.rooms,
            members: self.members,
            publishers: self.publishers,
            payload_bytes: self.payload,
            pace: self.rate.map_or(closed, |posts_per_s| Pace::Open { posts_per_s }),
            time: self.time,
        }
    }
}

impl Pingpong {
    /// The plan.
    pub fn plan(&self) -> Plan {
        Plan {
            name: "pingpong",
            rooms: 1,
            members: self.members,
            publishers: 1,
            payload_bytes: self.payload,
            pace: Pace::Closed { outstanding: 1, complete: Complete::Echo },
            time: self.time,
        }
    }
}

impl Resume {
    /// The plan of the live load; the storm sets its end.
    pub fn live_plan(&self) -> Plan {
        const DRAIN: Duration = Duration::from_secs(10);
        Plan {
            name: "resume",
            rooms: self.live_rooms,
            members: self.live_members,
            publishers: 1,
            payload_bytes: self.payload,
            pace: Pace::Open { posts_per_s: self.live_rate },
            time: Time { duration: self.before, warmup: self.warmup, drain: DRAIN },
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
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

fn payload_bytes(text: &str) -> Result<usize, String> {
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
        for job in ["fanout", "pingpong", "idle", "resume", "hostile"] {
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
