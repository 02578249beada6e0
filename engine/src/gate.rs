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

mod alike;
mod fault;

use banter_cluster::engine::Partition;

use crate::connection::Connection;
use crate::health::{self, Health};
use crate::monitoring::{JetStreamState, ServerState};
use crate::names::Names;
use crate::stream_config::StreamConfig;
use crate::streams::Description;

pub use fault::GateFault;

use alike::{Alike, Behind};

/// From this one on, proposals are fenced by the leader's term; before it, an append of a deposed leader may be taken.
pub(crate) const VERSION_MIN: (u64, u64) = (2, 15);
/// Copies of each stream at least: with three, one server may be lost with its disk.
pub(crate) const REPLICAS_MIN: u8 = 3;
/// Bytes of a message around what we append: the header with the expected sequence, 64 with the longest number.
const HEADER_BYTES_MAX: u64 = 128;

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
    // Where all have it turned off, nobody knows how many they are.
    let is_alone = servers.iter().all(|(_, server)| server.jetstream.is_some());
    let size = metas().map(|(_, meta)| meta.cluster_size).max().or(is_alone.then_some(1));
    if let Some(size) = size
        && (health.servers.len() < size || (all_told && servers.len() != size))
    {
        faults.push(GateFault::ServerCount { named: servers.len(), servers: size });
    }
    match metas().find(|(server, meta)| meta.leader == server.name) {
        Some((_, meta)) => meta.replicas.iter().for_each(|peer| behind.on_peer(peer, "JetStream")),
        // One that cannot be looked at, or was not named, may lead, and is told of already.
        None if all_told && size == Some(servers.len()) && servers.len() > 1 => faults.push(GateFault::NoLeader),
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
            None => alike.on_absent(names.stream(partition)),
            Some(stream) => alike.on_stream(stream, behind, |shape| {
                StreamConfig::partition(names, partition, description.founding, shape)
            }),
        }
    }
    faults.extend(alike.faults());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterName;
    use crate::monitoring::{Meta, MonitoringFault};
    use crate::stream_config::{Founding, Shape};
    use crate::streams::{Peer, StreamState};

    const FOUNDING: Founding = Founding { cluster_id: 1, partitions: 16, blank_epoch: 2 };
    const SHAPE: Shape = Shape { replicas: 3, stream_bytes_max: 1 << 20, index_bytes_max: 1 << 20 };

    fn peer(name: &str) -> Peer {
        Peer { name: name.to_owned(), current: true, offline: false, lag: 0, active: 1 }
    }

    fn server(number: usize) -> ServerState {
        let meta = Meta {
            leader: "s0".to_owned(),
            replicas: [1, 2].map(|peer_of| peer(&format!("s{peer_of}"))).into(),
            cluster_size: 3,
        };
        ServerState {
            id: format!("N{number}"),
            name: format!("s{number}"),
            version: "2.15.1".to_owned(),
            cluster: "chat".to_owned(),
            payload_bytes_max: 1 << 20,
            jetstream: Some(JetStreamState {
                is_always_synced: true,
                stored_bytes: 0,
                stored_bytes_max: 1,
                reserved_bytes: 0,
                meta: Some(meta),
            }),
        }
    }

    fn names() -> Names {
        Names::new(ClusterName::new("c").unwrap())
    }

    fn well() -> Health {
        let stream = |config| StreamState {
            config,
            messages: 0,
            bytes: 0,
            last: 0,
            leader: Some("s1".to_owned()),
            peers: vec![peer("s0"), peer("s2")],
        };
        let partitions = (0..FOUNDING.partitions)
            .map(|number| Some(stream(StreamConfig::partition(&names(), Partition(number), FOUNDING, SHAPE))));
        Health {
            servers: (0..3).map(|number| (format!("http://s{number}:8222"), Ok(server(number)))).collect(),
            connected_to: "N2".to_owned(),
            streams: Ok(Description {
                founding: FOUNDING,
                index: stream(StreamConfig::index(&names(), FOUNDING, SHAPE)),
                partitions: partitions.collect(),
            }),
        }
    }

    /// What is told of an engine that is well but for that.
    fn told(change: impl FnOnce(&mut Health)) -> String {
        let mut health = well();
        change(&mut health);
        let faults = judge(&names(), &health, 256 << 10);
        faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    fn of(health: &mut Health, number: usize) -> &mut ServerState {
        health.servers[number].1.as_mut().unwrap()
    }

    fn jetstream(health: &mut Health, number: usize) -> &mut JetStreamState {
        of(health, number).jetstream.as_mut().unwrap()
    }

    fn streams(health: &mut Health) -> &mut Description {
        health.streams.as_mut().unwrap()
    }

    #[test]
    fn an_engine_that_is_well_has_no_fault() {
        assert_eq!(told(|_| ()), "");
        assert_eq!(told(|health| of(health, 1).version = "2.16.0-RC.1".to_owned()), "");
        assert_eq!(told(|health| of(health, 1).version = "3.0.0".to_owned()), "");
        // Only the leader's view of the others counts.
        assert_eq!(told(|health| jetstream(health, 1).meta.as_mut().unwrap().replicas[0].current = false), "");
    }

    #[test]
    fn each_thing_that_is_wrong_is_told_alone_with_its_cure() {
        for version in ["2.14.9", "1.99", "", "new"] {
            let told = told(|health| of(health, 1).version = version.to_owned());
            assert!(told.starts_with("server s1 has version") && told.ends_with("update nats-server"), "{told}");
        }
        let told_of_sync = told(|health| jetstream(health, 2).is_always_synced = false);
        assert!(
            told_of_sync.contains("s2") && told_of_sync.contains("`jetstream { sync_interval: always }`"),
            "{told_of_sync}"
        );
        let told_of_off = told(|health| of(health, 2).jetstream = None);
        assert!(
            told_of_off.starts_with("server s2 has JetStream turned off") && told_of_off.contains("make room"),
            "{told_of_off}"
        );
        let told_of_payload = told(|health| of(health, 0).payload_bytes_max = 256 << 10);
        assert!(told_of_payload.contains("262144 bytes and we need 262272"), "{told_of_payload}");
        let told_of_cluster = told(|health| of(health, 2).cluster = "other".to_owned());
        assert!(told_of_cluster.contains("NATS cluster \"other\" and not of \"chat\""), "{told_of_cluster}");
        let told_of_elsewhere = told(|health| health.connected_to = "N9".to_owned());
        assert!(told_of_elsewhere.contains("none of engine_monitoring"), "{told_of_elsewhere}");
        let told_of_count = told(|health| drop(health.servers.remove(0)));
        assert!(told_of_count.starts_with("engine_monitoring names 2 servers and JetStream has 3"), "{told_of_count}");
        assert!(!told_of_count.contains("no leader"), "the one that is not named leads: {told_of_count}");
        let told_of_leader =
            told(|health| (0..3).for_each(|number| jetstream(health, number).meta.as_mut().unwrap().leader.clear()));
        assert!(told_of_leader.starts_with("JetStream has no leader"), "{told_of_leader}");
    }

    #[test]
    fn of_many_streams_with_one_fault_the_first_is_named() {
        let told_of_peer = told(|health| {
            streams(health).partitions.iter_mut().flatten().for_each(|stream| stream.peers[1].offline = true);
        });
        assert!(
            told_of_peer.starts_with("server s2 is gone for BANTER_c_000, BANTER_c_001, 14 more: start it"),
            "{told_of_peer}"
        );
        let told_of_silence = told(|health| streams(health).index.peers[0].active = 6_000_000_000);
        assert!(told_of_silence.starts_with("server s0 is gone for BANTER_c_index"), "{told_of_silence}");
        let told_of_lag = told(|health| jetstream(health, 0).meta.as_mut().unwrap().replicas[0].current = false);
        assert!(told_of_lag.starts_with("server s1 is behind for JetStream"), "{told_of_lag}");
        let told_of_lag_of = |lag| {
            told(|health| {
                let peer = &mut streams(health).index.peers[0];
                (peer.current, peer.lag) = (false, lag);
            })
        };
        assert_eq!(told_of_lag_of(1), "", "what is on its way");
        assert!(told_of_lag_of(17).starts_with("server s0 is behind for BANTER_c_index"));
        let told_of_absence = told(|health| {
            let partitions = &mut streams(health).partitions;
            partitions[3] = None;
            partitions[4].as_mut().unwrap().leader = None;
            partitions[5].as_mut().unwrap().peers.pop();
        });
        assert!(
            told_of_absence.starts_with("3 of the cluster's streams are missing or have no leader, first BANTER_c_003"),
            "{told_of_absence}"
        );
        let told_of_delete = told(|health| {
            streams(health).partitions.iter_mut().flatten().for_each(|stream| stream.config.deny_delete = false);
        });
        assert!(
            told_of_delete
                .starts_with("stream BANTER_c_000 has deny_delete = false and should have true, as 16 in all"),
            "{told_of_delete}"
        );
    }

    #[test]
    fn an_engine_that_is_gone_has_no_fault_that_is_not_one() {
        let mut health = well();
        for (url, told) in &mut health.servers {
            *told = Err(MonitoringFault::Silent { url: url.clone(), why: "connection refused".to_owned() });
        }
        assert_eq!(judge(&names(), &health, 1).len(), 3);
        // As when all disks were full.
        let told_of_disks = told(|health| (0..3).for_each(|number| of(health, number).jetstream = None));
        assert_eq!(told_of_disks.lines().count(), 3, "{told_of_disks}");
    }
}
