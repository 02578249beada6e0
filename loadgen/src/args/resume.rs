//! The command line of clients that come back to a history.

use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use super::fanout::{Pace, Plan, Time};
use super::{Target, payload_bytes, seconds};

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
/// How a client that comes back says where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// By its cursor
    After,
    /// By the number of messages that it wants
    Last,
}
impl Resume {
    /// The plan of the live load; the storm sets its end.
    pub fn live_plan(&self) -> Plan {
        const DRAIN: Duration = Duration::from_secs(10);
        Plan {
            name: "resume",
            rooms: self.live_rooms,
            rooms_each: 1,
            members: self.live_members,
            publishers: 1,
            payload_bytes: self.payload,
            pace: Pace::Open { posts_per_s: self.live_rate },
            time: Time { duration: self.before, warmup: self.warmup, drain: DRAIN },
        }
    }
}
