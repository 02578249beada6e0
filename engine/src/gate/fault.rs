//! What keeps an engine from being proved, each with its cure.

use super::{REPLICAS_MIN, VERSION_MIN};
use crate::monitoring::MonitoringFault;
use crate::stream_config::Difference;

/// Why the engine is not proved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateFault {
    /// A server cannot be looked at.
    #[error(transparent)]
    Monitoring(#[from] MonitoringFault),
    /// Two addresses lead to one server.
    #[error("engine_monitoring {url} and {other} lead to one server, {server}: name each server once")]
    SameServer {
        /// The address.
        url: String,
        /// The other.
        other: String,
        /// The server.
        server: String,
    },
    /// Some servers are not looked at.
    #[error(
        "engine_monitoring names {named} servers and JetStream has {servers}: name each of them, as http://host:8222"
    )]
    ServerCount {
        /// Different servers that were named.
        named: usize,
        /// How many there are.
        servers: usize,
    },
    /// It is a server of elsewhere.
    #[error("the server at {url} is of NATS cluster {found:?} and not of {wanted:?}: name the servers of one cluster")]
    OtherCluster {
        /// The address.
        url: String,
        /// Its cluster.
        found: String,
        /// The others'.
        wanted: String,
    },
    /// We are connected to none of them.
    #[error(
        "the server that we are connected to is none of engine_monitoring: name the servers of one cluster in both"
    )]
    Elsewhere,
    /// It is older than what was tried.
    #[error("server {server} has version {version}, and {}.{} is the first one whose appends are safe: update nats-server", VERSION_MIN.0, VERSION_MIN.1)]
    Version {
        /// The server.
        server: String,
        /// Its version.
        version: String,
    },
    /// It keeps nothing.
    #[error(
        "server {server} has JetStream turned off: add `jetstream {{ … }}` to its configuration; if it is there, its disk was full or \
         failed, so make room and start the server again"
    )]
    JetStreamOff {
        /// The server.
        server: String,
    },
    /// It acknowledges what is not on its disk.
    #[error(
        "server {server} acknowledges messages before they are on its disk, and loses them with its power: set `jetstream {{ \
         sync_interval: always }}` and start it again"
    )]
    NotSynced {
        /// The server.
        server: String,
    },
    /// Our messages do not fit.
    #[error(
        "server {server} takes messages of {found} bytes and we need {wanted}: raise its max_payload, or lower append_bytes_max"
    )]
    Payload {
        /// The server.
        server: String,
        /// What it takes.
        found: u64,
        /// What we need.
        wanted: u64,
    },
    /// Nobody leads.
    #[error("JetStream has no leader: start more than half of its servers, and wait until they have found each other")]
    NoLeader,
    /// A server is gone or behind.
    #[error(
        "server {server} is {} for {}: start it, and wait until it has caught up; never take a server out (peer-remove) while another is down",
        if *.is_offline { "gone" } else { "behind" }, .of.join(", ")
    )]
    Peer {
        /// The server.
        server: String,
        /// Whether it is gone.
        is_offline: bool,
        /// For what: JetStream itself, or so many streams.
        of: Vec<String>,
    },
    /// The streams are not there.
    #[error("{0}")]
    Streams(String),
    /// A stream is told of by nobody.
    #[error(
        "{streams} of the cluster's streams are missing or have no leader, first {first}: start the servers; if it was never there, run `banter cluster init` again"
    )]
    NoStream {
        /// The first one.
        first: String,
        /// How many.
        streams: usize,
    },
    /// A stream has too few copies.
    #[error(
        "stream {first} has {replicas} replicas, as have {streams} in all, and needs {REPLICAS_MIN}: `nats stream edit {first} --replicas {REPLICAS_MIN}`"
    )]
    Replicas {
        /// The first one.
        first: String,
        /// How many copies.
        replicas: u8,
        /// How many streams.
        streams: usize,
    },
    /// A stream is not as we make it.
    #[error(
        "stream {first} has {} = {} and should have {}, as {streams} in all: `nats stream edit {first}`, or make a new cluster",
        .difference.key, .difference.found, .difference.wanted
    )]
    Differs {
        /// The first one.
        first: String,
        /// What of it.
        difference: Difference,
        /// How many streams.
        streams: usize,
    },
}
