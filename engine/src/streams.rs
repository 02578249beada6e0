//! The streams of a cluster: made once by `banter cluster init`, and read back.
//!
//! The stream of the objects is made first: its metadata say what the cluster is, so that a making that was broken off goes on with
//! the same cluster when it is asked for again.

use std::collections::BTreeMap;

use banter_cluster::engine::Partition;
use serde::Deserialize;

use crate::connection::{ApiFault, Connection};
use crate::limits::{OFFLINE_PAUSE, OFFLINE_TRIES};
use crate::names::Names;
use crate::stream_config::{Difference, Founding, PARTITIONS_MAX, Shape, StreamConfig, is_partition_count};

/// What a new stream is refused with where its servers have no room.
const NO_ROOM_ON_SERVERS: [u64; 2] = [10_005, 10_047];
const NO_CLUSTER: u64 = 10_074;
/// How long a server that keeps a stream may say nothing to the stream's leader.
const PEER_SILENT_MAX_NANOSECONDS: u64 = 5_000_000_000;
/// Entries that may be on their way to a server: a node has four appends of a partition in flight, and an acknowledgement waits for two
/// servers of three, so that the third is some rounds behind.
const PEER_LAG_MAX: u64 = 16;
/// Pages of the list of streams that are asked for at most: 256 streams are on each.
const PAGES_MAX: usize = 8;

/// Why the streams are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum StreamsFault {
    /// So many partitions there cannot be.
    #[error("{0} partitions: use a power of two from 16 to 256")]
    Partitions(u16),
    /// So many servers cannot keep a stream.
    #[error("{0} replicas: use 3, or 5 where two servers may be down")]
    Replicas(u8),
    /// A stream has no limit, and would fill its servers' disks.
    #[error("a stream of 0 bytes: give every stream a size")]
    NoBytes,
    /// There is no such cluster.
    #[error("the engine holds no streams of cluster {cluster:?}: run `banter cluster init`, or mend the name")]
    Missing {
        /// The cluster.
        cluster: String,
    },
    /// What says what the cluster is, and holds its checkpoints, is not there, and partitions are.
    #[error(
        "stream {stream} is missing, and {partition} is there: where a NATS server was just started, wait until it is led again; else it \
         is lost: restore it from a backup (`nats stream restore`), or remove the cluster's streams and import an export"
    )]
    IndexLost {
        /// The stream.
        stream: String,
        /// A stream that is there.
        partition: String,
    },
    /// A stream is not there, and the cluster was in use: made anew it would give places in rooms a second time.
    #[error(
        "stream {stream} is missing, and the cluster was in use: where a NATS server was just started, wait until it is led again; else it is \
         lost: restore it from a backup (`nats stream restore`), or make the cluster anew and import an export"
    )]
    Lost {
        /// The stream.
        stream: String,
    },
    /// Some of its streams are there, and others are not.
    #[error(
        "stream {stream} is missing: run `banter cluster init` again, if it was never there; else restore it from a backup"
    )]
    MissingStream {
        /// The stream.
        stream: String,
    },
    /// A stream is not as it should be.
    #[error(
        "stream {stream} has {} = {} and should have {}: change it with `nats stream edit {stream}`, or give this cluster another name",
        .difference.key, .difference.found, .difference.wanted
    )]
    Differs {
        /// The stream.
        stream: String,
        /// What of it.
        difference: Difference,
    },
    /// The servers have no room for it.
    #[error(
        "no room for stream {stream}: {what}; each copy needs a server of its own, and all streams together reserve their sizes on each: start \
         as many servers as copies are asked for, choose smaller streams, or raise jetstream.max_file_store of the servers"
    )]
    NoRoom {
        /// The stream.
        stream: String,
        /// What JetStream says.
        what: String,
    },
    /// It is one server alone.
    #[error(
        "stream {stream} cannot have {replicas} replicas: {what}; start three NATS servers as one cluster (cluster.routes)"
    )]
    NoCluster {
        /// The stream.
        stream: String,
        /// How many.
        replicas: u8,
        /// What JetStream says.
        what: String,
    },
    /// JetStream did not do it.
    #[error("{doing}: {fault}")]
    Api {
        /// What we were about.
        doing: String,
        /// Why.
        fault: ApiFault,
    },
}

/// What is told of each stream while they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The stream.
    pub stream: String,
    /// Whether it was made now; else it was there.
    pub is_new: bool,
    /// Streams that are ready, with this one.
    pub ready: usize,
    /// Streams in all.
    pub streams: usize,
}

/// A server that keeps a stream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Peer {
    /// The server's name.
    pub name: String,
    /// Whether it has all that the stream's leader has, as that one sees it.
    #[serde(default)]
    pub current: bool,
    /// Whether it is gone, as the leader sees it.
    #[serde(default)]
    pub offline: bool,
    /// How many of the leader's entries it lacks.
    #[serde(default)]
    pub lag: u64,
    /// How long ago the leader last heard of it, in nanoseconds. A leader calls a server that stopped current for ten more seconds.
    #[serde(default)]
    pub active: u64,
}

impl Peer {
    /// Whether it lacks more than what is on its way to it. One that is heard, and lacks a few entries of a stream that is being
    /// written, is as good as current: of three servers the slowest one is seen so at many a look under load.
    pub fn is_behind(&self) -> bool {
        !self.current && !(1..=PEER_LAG_MAX).contains(&self.lag)
    }

    /// Whether it is there, and has what it should have.
    pub fn is_well(&self) -> bool {
        !self.offline && !self.is_silent() && !self.is_behind()
    }

    /// Whether it has missed several of its signs of life, of which each second brings one.
    pub fn is_silent(&self) -> bool {
        self.active > PEER_SILENT_MAX_NANOSECONDS
    }
}

/// A stream, as its leader tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamState {
    /// How it is configured.
    pub config: StreamConfig,
    /// Messages that it holds.
    pub messages: u64,
    /// Bytes that it holds, on each server.
    pub bytes: u64,
    /// Its last sequence.
    pub last: u64,
    /// The server that leads it; none: nobody does, or the server is alone.
    pub leader: Option<String>,
    /// The other servers that keep it.
    pub peers: Vec<Peer>,
}

/// All streams of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// What was chosen when it was made.
    pub founding: Founding,
    /// The stream of the objects.
    pub index: StreamState,
    /// The partitions' streams, by their numbers; none: nobody told of it.
    pub partitions: Vec<Option<StreamState>>,
}

/// Makes the streams that are not there, and tells of each. What the cluster is stays as it was first made: only a new one takes the
/// cluster id and the blank epoch that are given here.
///
/// # Errors
/// What is asked for cannot be, a stream that is there differs, or JetStream does not make one.
pub async fn init(
    connection: &Connection,
    founding: Founding,
    shape: Shape,
    mut on_progress: impl FnMut(Progress),
) -> Result<Founding, StreamsFault> {
    check(founding, shape)?;
    let mut found = list(connection).await?;
    let founding = match index_of(&found, &connection.names)? {
        Some(index) => founded(index)?.with_partitions_of(founding, index)?,
        None => founding,
    };
    let index = StreamConfig::index(&connection.names, founding, shape);
    let partitions = (0..founding.partitions)
        .map(|number| StreamConfig::partition(&connection.names, Partition(number), founding, shape));
    let wanted: Vec<_> = std::iter::once(index).chain(partitions).collect();
    // No node starts before all are there, so none was ever written to if the making was broken off.
    if found.values().any(|stream| stream.last > 0)
        && let Some(lost) = wanted.iter().find(|config| !found.contains_key(&config.name))
    {
        return Err(StreamsFault::Lost { stream: lost.name.clone() });
    }
    for (index, config) in wanted.iter().enumerate() {
        let is_new = match found.remove(&config.name) {
            Some(state) => same(&state.config, config).map(|()| false)?,
            None => make(connection, config).await.map(|()| true)?,
        };
        on_progress(Progress { stream: config.name.clone(), is_new, ready: index + 1, streams: wanted.len() });
    }
    Ok(founding)
}

/// Reads back what the cluster is, and how its streams are.
///
/// # Errors
/// It was never made, or JetStream does not answer.
pub async fn describe(connection: &Connection) -> Result<Description, StreamsFault> {
    let mut found = list(connection).await?;
    let Some(index) = index_of(&found, &connection.names)?.cloned() else {
        return Err(StreamsFault::Missing { cluster: connection.names.cluster().to_owned() });
    };
    let founding = founded(&index)?;
    let numbers = 0..founding.partitions;
    let partitions = numbers.map(|number| found.remove(&connection.names.stream(Partition(number)))).collect();
    Ok(Description { founding, index, partitions })
}

fn check(founding: Founding, shape: Shape) -> Result<(), StreamsFault> {
    if !is_partition_count(founding.partitions) {
        return Err(StreamsFault::Partitions(founding.partitions));
    }
    if ![1, 3, 5].contains(&shape.replicas) {
        return Err(StreamsFault::Replicas(shape.replicas));
    }
    if shape.stream_bytes_max == 0 || shape.index_bytes_max == 0 {
        return Err(StreamsFault::NoBytes);
    }
    Ok(())
}

/// The stream of the objects; none: nothing of the cluster is there. It is made before all others, so where it alone is missing a new
/// one would be of another cluster, whose nodes could read none of what is kept.
fn index_of<'a>(
    found: &'a BTreeMap<String, StreamState>,
    names: &Names,
) -> Result<Option<&'a StreamState>, StreamsFault> {
    let stream = names.index_stream();
    if let Some(index) = found.get(&stream) {
        return Ok(Some(index));
    }
    let partition = (0..PARTITIONS_MAX).map(|number| names.stream(Partition(number)));
    match partition.into_iter().find(|name| found.contains_key(name)) {
        Some(partition) => Err(StreamsFault::IndexLost { stream, partition }),
        None => Ok(None),
    }
}

fn founded(index: &StreamState) -> Result<Founding, StreamsFault> {
    Founding::of(&index.config.metadata)
        .map_err(|difference| StreamsFault::Differs { stream: index.config.name.clone(), difference })
}

impl Founding {
    /// What is there, if it has as many partitions as are asked for: their number can never be changed.
    fn with_partitions_of(self, asked: Founding, index: &StreamState) -> Result<Self, StreamsFault> {
        if self.partitions == asked.partitions {
            return Ok(self);
        }
        let (found, wanted) = (self.partitions.to_string(), asked.partitions.to_string());
        let difference = Difference { key: "metadata.banter.partitions".to_owned(), found, wanted };
        Err(StreamsFault::Differs { stream: index.config.name.clone(), difference })
    }
}

fn same(found: &StreamConfig, wanted: &StreamConfig) -> Result<(), StreamsFault> {
    match found.differences(wanted).into_iter().next() {
        Some(difference) => Err(StreamsFault::Differs { stream: wanted.name.clone(), difference }),
        None => Ok(()),
    }
}

/// As it comes from JetStream.
#[derive(Deserialize)]
struct Info {
    config: StreamConfig,
    state: Held,
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
struct Held {
    messages: u64,
    bytes: u64,
    last_seq: u64,
}

#[derive(Deserialize)]
struct Cluster {
    leader: Option<String>,
    #[serde(default)]
    replicas: Vec<Peer>,
}

impl From<Info> for StreamState {
    fn from(info: Info) -> Self {
        let Held { messages, bytes, last_seq: last } = info.state;
        let (leader, peers) = info.cluster.map_or((None, Vec::new()), |cluster| (cluster.leader, cluster.replicas));
        let leader = leader.filter(|name| !name.is_empty());
        StreamState { config: info.config, messages, bytes, last, leader, peers }
    }
}

/// A page of the list of streams.
#[derive(Deserialize)]
struct Page {
    total: usize,
    #[serde(default)]
    streams: Option<Vec<Info>>,
}

/// All streams of this cluster, by their names. Each is told by its leader, and one that has none is missing.
async fn list(connection: &Connection) -> Result<BTreeMap<String, StreamState>, StreamsFault> {
    let mut found = BTreeMap::new();
    let mut offset = 0;
    for _ in 0..PAGES_MAX {
        let body = format!(r#"{{"offset":{offset},"subject":"banter.{}.>"}}"#, connection.names.cluster());
        let page: Page = connection
            .api("STREAM.LIST", body.into())
            .await
            .map_err(|fault| StreamsFault::Api { doing: "listing the streams".to_owned(), fault })?;
        let streams = page.streams.unwrap_or_default();
        offset += streams.len();
        let is_last = streams.is_empty() || offset >= page.total;
        found.extend(streams.into_iter().map(|info| (info.config.name.clone(), StreamState::from(info))));
        if is_last {
            break;
        }
    }
    Ok(found)
}

async fn make(connection: &Connection, config: &StreamConfig) -> Result<(), StreamsFault> {
    let stream = config.name.clone();
    let doing = format!("making stream {stream}");
    let body = match serde_json::to_vec(config) {
        Ok(body) => body,
        Err(error) => return Err(StreamsFault::Api { doing, fault: ApiFault::Unread(error.to_string()) }),
    };
    let mut made = create(connection, &stream, &body).await;
    for _ in 1..OFFLINE_TRIES {
        if !made.as_ref().is_err_and(is_offline) {
            break;
        }
        tokio::time::sleep(OFFLINE_PAUSE).await;
        made = create(connection, &stream, &body).await;
    }
    match made {
        Ok(info) => same(&info.config, config),
        Err(ApiFault::Refused { code: NO_CLUSTER, what }) => {
            Err(StreamsFault::NoCluster { stream, replicas: config.num_replicas, what })
        }
        Err(fault) => Err(refused(doing, &config.name, fault)),
    }
}

async fn create(connection: &Connection, stream: &str, body: &[u8]) -> Result<Info, ApiFault> {
    connection.api::<Info>(&format!("STREAM.CREATE.{stream}"), body.to_vec().into()).await
}

/// Whether a server that JetStream takes for offline is in the way, in its words: it has no code of its own for that.
fn is_offline(fault: &ApiFault) -> bool {
    matches!(fault, ApiFault::Refused { what, .. } if what.contains("offline"))
}

/// Why a stream is not made, or not changed.
pub(crate) fn refused(doing: String, stream: &str, fault: ApiFault) -> StreamsFault {
    match fault {
        ApiFault::Refused { code, what } if NO_ROOM_ON_SERVERS.contains(&code) => {
            StreamsFault::NoRoom { stream: stream.to_owned(), what }
        }
        fault => StreamsFault::Api { doing, fault },
    }
}
