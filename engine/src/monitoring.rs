//! What a server's monitoring address tells of it: its `/varz`.

use std::time::Duration;

use serde::Deserialize;

use crate::limits::{MONITORING_BYTES_MAX, MONITORING_MAX};
use crate::streams::Peer;

/// Why a server's monitoring address says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MonitoringFault {
    /// It is no address.
    #[error("engine_monitoring {url} is no address ({why}): write http://host:8222")]
    Address {
        /// The address.
        url: String,
        /// Why.
        why: String,
    },
    /// Nothing answers there.
    #[error(
        "{url} does not answer ({why}): start that server, and let it be watched from here (http: HOST:8222 in its configuration)"
    )]
    Silent {
        /// The address.
        url: String,
        /// Why.
        why: String,
    },
    /// Something else answers there.
    #[error("{url}/varz is not a NATS server's ({why}): mend the address")]
    Foreign {
        /// The address.
        url: String,
        /// Why.
        why: String,
    },
}

/// A server, as it tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// Its id, new with each of its starts.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The name of its cluster; empty: it is alone.
    pub cluster: String,
    /// Bytes of a message at most.
    pub payload_bytes_max: u64,
    /// Its JetStream; none: it is off. With all of its disks full a server turns it off by itself until it is started again.
    pub jetstream: Option<JetStreamState>,
}

/// A server's JetStream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JetStreamState {
    /// Whether each message is on its disk before it is acknowledged.
    pub is_always_synced: bool,
    /// Bytes on its disk.
    pub stored_bytes: u64,
    /// Bytes on its disk at most.
    pub stored_bytes_max: u64,
    /// Of them, those that its streams may grow to: a stream's size is set aside when it is made.
    pub reserved_bytes: u64,
    /// What it knows of the servers that share JetStream; none: it is alone.
    pub meta: Option<Meta>,
}

/// The servers that share JetStream, as one of them knows them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Meta {
    /// Who leads them.
    #[serde(default)]
    pub leader: String,
    /// The others, as seen from here: only the leader sees them truly.
    #[serde(default)]
    pub replicas: Vec<Peer>,
    /// How many they are, with those that are gone and were never taken out.
    #[serde(default)]
    pub cluster_size: usize,
}

#[derive(Deserialize)]
struct Varz {
    server_id: String,
    #[serde(default)]
    server_name: String,
    version: String,
    max_payload: u64,
    #[serde(default)]
    cluster: ClusterVarz,
    #[serde(default)]
    jetstream: JetStreamVarz,
}

#[derive(Default, Deserialize)]
struct ClusterVarz {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
struct JetStreamVarz {
    config: Option<ConfigVarz>,
    stats: Option<StatsVarz>,
    meta: Option<Meta>,
}

/// `sync_interval` stands there as two minutes even under `always`: only `sync_always` tells it, and is left out where it is not so.
#[derive(Deserialize)]
struct ConfigVarz {
    #[serde(default)]
    sync_always: bool,
    #[serde(default)]
    max_storage: u64,
}

#[derive(Deserialize)]
struct StatsVarz {
    #[serde(default)]
    storage: u64,
    #[serde(default)]
    reserved_storage: u64,
}

impl From<Varz> for ServerState {
    fn from(read: Varz) -> Self {
        let JetStreamVarz { config, stats, meta } = read.jetstream;
        let (stored_bytes, reserved_bytes) = stats.map_or((0, 0), |stats| (stats.storage, stats.reserved_storage));
        let jetstream = config.map(|config| JetStreamState {
            is_always_synced: config.sync_always,
            stored_bytes,
            stored_bytes_max: config.max_storage,
            reserved_bytes,
            meta: meta.filter(|meta| meta.cluster_size > 0),
        });
        ServerState {
            id: read.server_id,
            name: read.server_name,
            version: read.version,
            cluster: read.cluster.name,
            payload_bytes_max: read.max_payload,
            jetstream,
        }
    }
}

/// Asks a server for its state.
pub(crate) async fn server(url: &str) -> Result<ServerState, MonitoringFault> {
    let base = url.trim_end_matches('/');
    let told = tokio::time::timeout(MONITORING_MAX + Duration::from_millis(100), told(base)).await;
    let json = told.unwrap_or_else(|_| Err(silent(base, format!("nothing within {} s", MONITORING_MAX.as_secs()))))?;
    let read: Result<Varz, _> = serde_json::from_slice(&json);
    let read = read.map_err(|error| MonitoringFault::Foreign { url: base.to_owned(), why: error.to_string() })?;
    Ok(read.into())
}

async fn told(base: &str) -> Result<Vec<u8>, MonitoringFault> {
    let address = |why: String| MonitoringFault::Address { url: base.to_owned(), why };
    let url = reqwest::Url::parse(&format!("{base}/varz")).map_err(|error| address(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(address("it is neither http:// nor https://".to_owned()));
    }
    let client =
        reqwest::Client::builder().timeout(MONITORING_MAX).redirect(reqwest::redirect::Policy::none()).no_proxy();
    let client = client.build().map_err(|error| silent(base, chain(&error)))?;
    let mut response = client.get(url).send().await.map_err(|error| silent(base, chain(&error)))?;
    let foreign = |why: String| MonitoringFault::Foreign { url: base.to_owned(), why };
    if !response.status().is_success() {
        return Err(foreign(format!("HTTP {}", response.status())));
    }
    let mut json = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| silent(base, chain(&error)))? {
        if json.len() + piece.len() > MONITORING_BYTES_MAX {
            return Err(foreign(format!("it is longer than {MONITORING_BYTES_MAX} bytes")));
        }
        json.extend_from_slice(&piece);
    }
    Ok(json)
}

fn silent(url: &str, why: String) -> MonitoringFault {
    MonitoringFault::Silent { url: url.to_owned(), why }
}

/// The innermost reason: the outer ones only say that something was sent.
fn chain(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_minutes_beside_always_are_always_and_a_server_without_jetstream_has_none() {
        let read = |jetstream: &str| -> ServerState {
            let json = format!(
                r#"{{"server_id":"N","server_name":"s0","version":"2.15.1","max_payload":1048576,"cluster":{{}},"jetstream":{jetstream}}}"#
            );
            serde_json::from_str::<Varz>(&json).unwrap().into()
        };
        let always = read(
            r#"{"config":{"sync_interval":120000000000,"sync_always":true},"stats":{"storage":5,"reserved_storage":9}}"#,
        );
        let jetstream = always.jetstream.unwrap();
        assert!(
            jetstream.is_always_synced
                && jetstream.stored_bytes == 5
                && jetstream.reserved_bytes == 9
                && jetstream.meta.is_none()
        );
        assert!(!read(r#"{"config":{"sync_interval":120000000000}}"#).jetstream.unwrap().is_always_synced);
        assert_eq!(read("{}").jetstream, None);
    }
}
