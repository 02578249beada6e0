//! No clustered start unless the engine proves itself: each thing that is wrong is refused, with its cure.

mod servers;

use banter_engine::gate::{GateFault, prove};
use banter_engine::monitoring::MonitoringFault;
use banter_engine::streams::{self, Progress};
use banter_engine::{Connection, Shape};
use bytes::Bytes;
use servers::{FOUNDING, Odd, SHAPE, Servers, USUAL};

const APPEND_BYTES_MAX: u64 = 256 << 10;

async fn founded(servers: &Servers, cluster: &str, shape: Shape) -> Connection {
    let connection = Connection::open(&servers.config(cluster)).await.unwrap();
    streams::init(&connection, FOUNDING, shape, |_: Progress| ()).await.unwrap();
    connection
}

async fn faults(connection: &Connection, monitoring: &[String]) -> Vec<GateFault> {
    prove(connection, monitoring, APPEND_BYTES_MAX).await.1
}

/// Peers take a moment to be current.
async fn until_proved(connection: &Connection, monitoring: &[String]) {
    servers::until(async || faults(connection, monitoring).await.is_empty()).await;
}

#[tokio::test]
async fn a_proved_engine_has_no_fault_until_a_server_or_an_address_is_missing() {
    let Some(servers) = Servers::start() else { return };
    let connection = founded(&servers, "proved", SHAPE).await;
    let all = servers.monitoring();
    until_proved(&connection, &all).await;
    let (health, _) = prove(&connection, &all, APPEND_BYTES_MAX).await;
    for (_, server) in &health.servers {
        let server = server.as_ref().unwrap();
        let jetstream = server.jetstream.as_ref().unwrap();
        assert_eq!((&*server.version, &*server.cluster, jetstream.is_always_synced), ("2.15.1", "tests", true));
    }
    assert_eq!(health.streams.unwrap().founding, FOUNDING);

    let found = faults(&connection, &all[..2]).await;
    assert!(found.contains(&GateFault::ServerCount { named: 2, servers: 3 }), "{found:?}");
    let found = faults(&connection, &[all[0].clone(), all[1].clone(), all[1].clone() + "/"]).await;
    assert!(matches!(&found[0], GateFault::SameServer { server, .. } if server == "s1"), "{found:?}");
    let found = faults(&connection, &[all[0].clone(), all[1].clone(), "nonsense".to_owned()]).await;
    assert!(matches!(&found[0], GateFault::Monitoring(MonitoringFault::Address { .. })), "{found:?}");
    assert_eq!(found.len(), 1, "{found:?}");

    let connected = servers.index_of(&connection.server_name());
    let stopped = (connected + 1) % 3;
    servers.signal(stopped, "-STOP");
    let found = faults(&connection, &all).await;
    let told = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(
        told.contains(&format!("{} does not answer", all[stopped])) && told.contains("start that server"),
        "{told}"
    );
    // And the leaders of the streams miss it, sooner or later.
    servers::until(async || {
        let found = faults(&connection, &all).await;
        found.iter().any(|fault| {
            matches!(fault, GateFault::Peer { server, .. } if servers.index_of(server) == stopped)
                && fault.to_string().contains("start it")
        })
    })
    .await;
}

#[tokio::test]
async fn lazy_small_and_single_engines_are_refused_each_with_its_cure() {
    let lazy = Odd { sync: "2m", ..USUAL };
    let small = Odd { max_payload_bytes: 100_000, ..USUAL };
    let Some(servers) = Servers::start_with(&[USUAL, lazy, small]) else { return };
    let connection = founded(&servers, "refused", Shape { replicas: 1, ..SHAPE }).await;
    let found = faults(&connection, &servers.monitoring()).await;
    let told = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for cure in [
        "server s1 acknowledges messages before they are on its disk",
        "sync_interval: always",
        "server s2 takes messages of 100000 bytes and we need 262272: raise its max_payload",
        "stream BANTER_refused_index has 1 replicas, as have 17 in all, and needs 3",
        "nats stream edit BANTER_refused_index --replicas 3",
    ] {
        assert!(told.contains(cure), "no {cure:?} in\n{told}");
    }
    assert_eq!(found.len(), 3, "{told}");

    // A stream that somebody changed.
    let mut config = streams::describe(&connection).await.unwrap().index.config;
    config.allow_direct = false;
    config.max_bytes = -1;
    servers::request(&servers, "STREAM.UPDATE.BANTER_refused_index", Bytes::from(serde_json::to_vec(&config).unwrap()))
        .await;
    let found = faults(&connection, &servers.monitoring()).await;
    let told = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(told.contains("BANTER_refused_index has allow_direct = false and should have true"), "{told}");
    assert!(told.contains("max_bytes = -1"), "{told}");
}
