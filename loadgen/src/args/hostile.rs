//! The command line of hostile connections.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::{Target, seconds};
use crate::hostile::kinds::Kind;

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
