//! The command line of connections that say nothing.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::{Target, seconds};

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
    /// Processes that hold them, each with its own descriptors; as many as it takes if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub processes: Option<u32>,
    /// A part of another process's connections: the first one's number
    #[arg(long, hide = true)]
    pub part_from: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}
