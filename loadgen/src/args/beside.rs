//! The command lines of what happens beside a live load: storms, stalls, comings and goings, scroll-back, long mixes.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::fanout::{Pace, Plan, Time};
use super::{Target, payload_bytes, seconds};

/// What is under way may take so long at the end, unless told otherwise.
const DRAIN: Duration = Duration::from_secs(10);

/// The live load: rooms of members, one of whom posts, by the clock.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Live {
    /// Rooms of the live load
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Members of each, one of whom posts
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Posts a second of the live load in total
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// A body's bytes on the wire: a JSON text with its quotes
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = payload_bytes)]
    pub payload: usize,
    /// Seconds of live load that are measured alone
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    pub before: Duration,
    /// Seconds of live load before that
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    pub warmup: Duration,
}

impl Live {
    /// The plan of the live load, of a scenario of that name.
    pub fn plan(&self, name: &'static str) -> Plan {
        Plan {
            name,
            rooms: self.rooms,
            rooms_each: 1,
            members: self.members,
            publishers: 1,
            payload_bytes: self.payload,
            pace: Pace::Open { posts_per_s: self.rate },
            time: Time { duration: self.before, warmup: self.warmup, drain: DRAIN },
        }
    }
}

/// Clients read rooms in which somebody posts. All their connections are dropped at once; --away later they come back,
/// each behind its own cursor, at once or spread over --jitter. How long until each, and all, have what they missed; every
/// client must get every message once, in order, across the storm; and a live load beside it is compared with before.
#[derive(Debug, ClapArgs)]
pub struct Storm {
    /// Clients; a multiple of --client-rooms
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub clients: u32,
    /// Rooms that they read
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub client_rooms: u32,
    /// Posts a second in these rooms in total, also while the clients are away
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub client_rate: u64,
    /// Seconds between the drop and the first who comes back
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub away: Duration,
    /// Seconds over which they come back, each at a time of its own; 0: all at once
    #[arg(long, value_name = "S", default_value = "0", value_parser = seconds)]
    pub jitter: Duration,
    /// Clients that may be between connecting and joined
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub opening: u32,
    /// Seconds that the storm may take
    #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
    pub storm_max: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub live: Live,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// Some readers of the live rooms stop reading their sockets for --stall, and then read on. What the honest members feel
/// before, meanwhile and while the others catch up; and that these get everything in order then, or are told a gap.
#[derive(Debug, ClapArgs)]
pub struct Stalled {
    /// Readers that stop, spread over the live rooms
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub stalled: u32,
    /// Seconds that they do not read
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub stall: Duration,
    /// Bytes that the kernel may buffer for each of them: few, so that the server feels it soon
    #[arg(long, value_name = "BYTES", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    pub receive_bytes: u32,
    /// Seconds that catching up may take
    #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
    pub catch_up_max: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub live: Live,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// Readers join the live rooms, stay, leave and join again, at a rate, by the clock. How long a join takes from when it
/// was meant to be, and what the members feel of it. Who leaves must first have everything that stood in the room by then.
#[derive(Debug, ClapArgs)]
pub struct Churn {
    /// Readers that come and go
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub churners: u32,
    /// Joins a second in total, and as many leaves
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub joins: u64,
    /// Connect anew for each join, and end the connection to leave
    #[arg(long, action = clap::ArgAction::SetTrue)]
    pub reconnect: bool,
    /// Seconds that are measured beside them
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub duration: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub live: Live,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// Rooms are filled; then readers scroll back through them page by page, from the newest message to the first and again, at
/// a rate, by the clock. How long a page takes from when it was meant to be asked for, and what the live members feel of
/// it. Every page must hold the messages that stand there, once and in order, and end where its `more` says.
#[derive(Debug, ClapArgs)]
pub struct History {
    /// Rooms with a history
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub history_rooms: u32,
    /// Messages of each
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub messages: u64,
    /// Readers that scroll back
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub fetchers: u32,
    /// Pages a second in total
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub pages: u64,
    /// Messages of a page at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub page: u64,
    /// Seconds that are measured beside them
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub duration: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub live: Live,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// A live load with readers who come and go, connection and all, and readers who scroll back, for as long as you like. A
/// line an interval on stderr; at the end the trend of the server's memory over the second half (--pid).
#[derive(Debug, ClapArgs)]
pub struct Soak {
    /// Seconds
    #[arg(long, value_name = "S", default_value = "3600", value_parser = seconds)]
    pub duration: Duration,
    /// Seconds between two lines
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub interval: Duration,
    /// Readers that come and go
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub churners: u32,
    /// Joins a second in total, and as many leaves
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub joins: u64,
    /// Rooms with a history
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub history_rooms: u32,
    /// Messages of each
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub messages: u64,
    /// Readers that scroll back
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub fetchers: u32,
    /// Pages a second in total
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub pages: u64,
    /// Messages of a page at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub page: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub live: Live,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}
