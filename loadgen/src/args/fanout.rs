//! The command lines of rooms whose members read and post, and the plan that they come to.

use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use super::{Target, payload_bytes, seconds};
use crate::fault::LoadFault;
use crate::seating::Seating;

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
    pub saturation: Saturation,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub time: Time,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// A search for the rate that the server still bears.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Saturation {
    /// Search the rate at which p99 or the backlog breaks its bound, from --rate on, in steps of --duration
    #[arg(long, requires = "rate")]
    pub saturate: bool,
    /// The bound of p99, post to member, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub p99_ms_max: u64,
    /// The bound of the backlog: seconds of posts that may be under way
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub backlog_max: Duration,
}

/// Members who read several rooms each, meet others in each of them, and post in all by the clock: the cost of many small
/// rooms. --publishers of a room's members post there. Latency counts from the time at which a post was meant to be sent.
#[derive(Debug, ClapArgs)]
pub struct Rooms {
    /// Rooms; a multiple of --rooms-each
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Members of each room
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Rooms that each connection reads
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms_each: u32,
    /// Members of each room that post; all if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: Option<u32>,
    /// A body's bytes on the wire: a JSON text with its quotes
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = payload_bytes)]
    pub payload: usize,
    /// Posts a second in total, room after room
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub saturation: Saturation,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub time: Time,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// One room. A post is timed from when it was meant to be sent to its first reader, to its last, and to each: how long
/// a large crowd takes to be told one thing.
#[derive(Debug, ClapArgs)]
pub struct Giant {
    /// Members of the room
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub members: u32,
    /// Members that post
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// A body's bytes on the wire: a JSON text with its quotes
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = payload_bytes)]
    pub payload: usize,
    /// Posts a second
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub saturation: Saturation,
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
/// What a fan-out does, whichever command asked for it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The command's name.
    pub name: &'static str,
    /// Rooms.
    pub rooms: u32,
    /// Rooms that each connection reads.
    pub rooms_each: u32,
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
impl Plan {
    /// Who sits where.
    ///
    /// # Errors
    /// When the rooms cannot be spread so.
    pub fn seating(&self) -> Result<Seating, LoadFault> {
        Seating::new(self.rooms as usize, self.members as usize, self.rooms_each as usize)
    }
}

impl Fanout {
    /// The plan.
    pub fn plan(&self) -> Plan {
        let closed = Pace::Closed { outstanding: self.outstanding, complete: self.complete };
        Plan {
            name: "fanout",
            rooms: self.rooms,
            rooms_each: 1,
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
            rooms_each: 1,
            members: self.members,
            publishers: 1,
            payload_bytes: self.payload,
            pace: Pace::Closed { outstanding: 1, complete: Complete::Echo },
            time: self.time,
        }
    }
}

impl Rooms {
    /// The plan.
    pub fn plan(&self) -> Plan {
        Plan {
            name: "rooms",
            rooms: self.rooms,
            rooms_each: self.rooms_each,
            members: self.members,
            publishers: self.publishers.unwrap_or(self.members),
            payload_bytes: self.payload,
            pace: Pace::Open { posts_per_s: self.rate },
            time: self.time,
        }
    }
}

impl Giant {
    /// The plan.
    pub fn plan(&self) -> Plan {
        Plan {
            name: "giant",
            rooms: 1,
            rooms_each: 1,
            members: self.members,
            publishers: self.publishers,
            payload_bytes: self.payload,
            pace: Pace::Open { posts_per_s: self.rate },
            time: self.time,
        }
    }
}
