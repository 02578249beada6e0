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
