//! The proof before a clustered start: without it, nobody is told that a majority's disks have a message.
//!
//! What has to be shown, and by whom it is believed:
//!
//! | what | by |
//! |---|---|
//! | each server of the cluster is looked at | as many different ids as JetStream has servers, in one cluster, ours among them |
//! | its version, its sync, its longest message | its own `/varz` |
//! | no server is gone or behind | the meta leader's view, and each stream's leader's |
//! | three copies of each stream, made as we make them | each stream's leader |
//!
//! All that is wrong is told at once.

use std::collections::BTreeMap;

use banter_cluster::engine::Partition;

use crate::connection::Connection;
use crate::health::{self, Health};
use crate::monitoring::{JetStreamState, MonitoringFault, ServerState};
use crate::names::Names;
use crate::stream_config::{Difference, Shape, StreamConfig};
use crate::streams::{Description, Peer, StreamState};

/// From this one on, proposals are fenced by the leader's term; before it, an append of a deposed leader may be taken.
const VERSION_MIN: (u64, u64) = (2, 15);
/// Copies of each stream at least: with three, one server may be lost with its disk.
const REPLICAS_MIN: u8 = 3;
/// Bytes of a message around what we append: the header with the expected sequence, 64 with the longest number.
const HEADER_BYTES_MAX: u64 = 128;

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

/// Looks at the engine, and says what keeps it from being proved: nothing, if it is. `append_bytes_max` is the longest message that is
/// to be appended. The health tells what the cluster is, also where it is not proved.
pub async fn prove(connection: &Connection, monitoring: &[String], append_bytes_max: u64) -> (Health, Vec<GateFault>) {
    let health = health::look(connection, monitoring).await;
    let faults = judge(connection.names(), &health, append_bytes_max);
    (health, faults)
}

/// What keeps an engine of that health from being proved.
pub fn judge(names: &Names, health: &Health, append_bytes_max: u64) -> Vec<GateFault> {
    let mut faults = Vec::new();
    let mut behind = Behind::default();
    let servers = distinct_servers(health, &mut faults);
    judge_cluster(health, &servers, &mut faults, &mut behind);
    for (_, server) in &servers {
        judge_server(server, append_bytes_max, &mut faults);
    }
    match &health.streams {
        Ok(description) => judge_streams(names, description, &mut faults, &mut behind),
        Err(fault) => faults.push(GateFault::Streams(fault.to_string())),
    }
    faults.extend(behind.faults());
    faults
}

/// The servers that told of themselves, each once.
fn distinct_servers<'a>(health: &'a Health, faults: &mut Vec<GateFault>) -> Vec<(&'a str, &'a ServerState)> {
    let mut servers: Vec<(&str, &ServerState)> = Vec::new();
    for (url, told) in &health.servers {
        match told {
            Err(fault) => faults.push(fault.clone().into()),
            Ok(server) => match servers.iter().find(|(_, known)| known.id == server.id) {
                Some((other, _)) => {
                    let (url, other, server) = (url.clone(), (*other).to_owned(), server.name.clone());
                    faults.push(GateFault::SameServer { url, other, server });
                }
                None => servers.push((url, server)),
            },
        }
    }
    servers
}

fn judge_cluster(health: &Health, servers: &[(&str, &ServerState)], faults: &mut Vec<GateFault>, behind: &mut Behind) {
    if let Some((_, first)) = servers.first() {
        for (url, server) in servers {
            if server.cluster != first.cluster {
                let (found, wanted) = (server.cluster.clone(), first.cluster.clone());
                faults.push(GateFault::OtherCluster { url: (*url).to_owned(), found, wanted });
            }
        }
    }
    // Who cannot be reached may be the one that we are connected to.
    let all_told = servers.len() == health.servers.len();
    if all_told && !servers.iter().any(|(_, server)| server.id == health.connected_to) {
        faults.push(GateFault::Elsewhere);
    }
    let metas = || servers.iter().filter_map(|(_, server)| Some((server, server.jetstream.as_ref()?.meta.as_ref()?)));
    let size = metas().map(|(_, meta)| meta.cluster_size).max().unwrap_or(1);
    if health.servers.len() < size || (all_told && servers.len() != size) {
        faults.push(GateFault::ServerCount { named: servers.len(), servers: size });
    }
    match metas().find(|(server, meta)| meta.leader == server.name) {
        Some((_, meta)) => meta.replicas.iter().for_each(|peer| behind.on_peer(peer, "JetStream")),
        // One that cannot be looked at may lead, and is told of already.
        None if all_told && size > 1 => faults.push(GateFault::NoLeader),
        None => {}
    }
}

fn judge_server(state: &ServerState, append_bytes_max: u64, faults: &mut Vec<GateFault>) {
    let server = || state.name.clone();
    if version(&state.version).is_none_or(|version| version < VERSION_MIN) {
        faults.push(GateFault::Version { server: server(), version: state.version.clone() });
    }
    let wanted = append_bytes_max.saturating_add(HEADER_BYTES_MAX);
    if state.payload_bytes_max < wanted {
        faults.push(GateFault::Payload { server: server(), found: state.payload_bytes_max, wanted });
    }
    match &state.jetstream {
        None => faults.push(GateFault::JetStreamOff { server: server() }),
        Some(JetStreamState { is_always_synced: false, .. }) => faults.push(GateFault::NotSynced { server: server() }),
        Some(_) => {}
    }
}

/// `2.15.1` and `v2.15.0-dev` alike.
fn version(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn judge_streams(names: &Names, description: &Description, faults: &mut Vec<GateFault>, behind: &mut Behind) {
    let mut alike = Alike::default();
    alike.on_stream(&description.index, behind, |shape| StreamConfig::index(names, description.founding, shape));
    for (number, stream) in (0..).zip(&description.partitions) {
        let partition = Partition(number);
        match stream {
            None => alike.absent.push(names.stream(partition)),
            Some(stream) => alike.on_stream(stream, behind, |shape| {
                StreamConfig::partition(names, partition, description.founding, shape)
            }),
        }
    }
    faults.extend(alike.faults());
}

/// What is wrong with streams: of many that are alike, the first is named.
#[derive(Default)]
struct Alike {
    absent: Vec<String>,
    replicas: BTreeMap<u8, Vec<String>>,
    differences: Vec<(Difference, Vec<String>)>,
}

impl Alike {
    fn on_stream(&mut self, stream: &StreamState, behind: &mut Behind, made: impl FnOnce(Shape) -> StreamConfig) {
        let config = &stream.config;
        if config.num_replicas < REPLICAS_MIN {
            self.replicas.entry(config.num_replicas).or_default().push(config.name.clone());
        }
        // How large it is, and how many keep it, is chosen by whoever makes it; that it has an end at all is not.
        let bytes_max = u64::try_from(config.max_bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(1);
        let shape = Shape { replicas: config.num_replicas, stream_bytes_max: bytes_max, index_bytes_max: bytes_max };
        for difference in config.differences(&made(shape)) {
            self.on_difference(difference, &config.name);
        }
        let is_led = stream.leader.is_some() || config.num_replicas == 1;
        if !is_led || stream.peers.len() + 1 < usize::from(config.num_replicas) {
            self.absent.push(config.name.clone());
        }
        stream.peers.iter().for_each(|peer| behind.on_peer(peer, &config.name));
    }

    fn on_difference(&mut self, difference: Difference, stream: &str) {
        // The subjects differ from stream to stream, so theirs are named one by one.
        match self.differences.iter_mut().find(|(known, _)| *known == difference) {
            Some((_, streams)) => streams.push(stream.to_owned()),
            None => self.differences.push((difference, vec![stream.to_owned()])),
        }
    }

    fn faults(self) -> Vec<GateFault> {
        let mut faults = Vec::new();
        if let Some(first) = self.absent.first() {
            faults.push(GateFault::NoStream { first: first.clone(), streams: self.absent.len() });
        }
        for (replicas, streams) in self.replicas {
            let first = streams.first().cloned().unwrap_or_default();
            faults.push(GateFault::Replicas { first, replicas, streams: streams.len() });
        }
        for (difference, streams) in self.differences {
            let first = streams.first().cloned().unwrap_or_default();
            faults.push(GateFault::Differs { first, difference, streams: streams.len() });
        }
        faults
    }
}

/// Servers that are gone or behind, and for what.
#[derive(Default)]
struct Behind {
    servers: BTreeMap<(String, bool), Vec<String>>,
}

impl Behind {
    fn on_peer(&mut self, peer: &Peer, of: &str) {
        if peer.offline || !peer.current || peer.is_silent() {
            let gone = peer.offline || peer.is_silent();
            self.servers.entry((peer.name.clone(), gone)).or_default().push(of.to_owned());
        }
    }

    fn faults(self) -> impl Iterator<Item = GateFault> {
        self.servers.into_iter().map(|((server, is_offline), mut of)| {
            if of.len() > 3 {
                let more = of.len() - 2;
                of.truncate(2);
                of.push(format!("{more} more"));
            }
            GateFault::Peer { server, is_offline, of }
        })
    }
}
