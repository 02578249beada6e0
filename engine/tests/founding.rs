//! A cluster's streams: made once, found again, and refused where they differ.

mod servers;

use banter_engine::streams::{self, Progress, StreamsFault};
use banter_engine::{Connection, Founding, Shape, growing};
use servers::{FOUNDING, Odd, SHAPE, Servers, USUAL};

async fn init(
    connection: &Connection,
    founding: Founding,
    shape: Shape,
) -> Result<(Founding, Vec<Progress>), StreamsFault> {
    let mut told = Vec::new();
    let founded = streams::init(connection, founding, shape, |progress| told.push(progress)).await?;
    Ok((founded, told))
}

#[tokio::test]
async fn streams_are_made_once_and_what_differs_is_named() {
    let Some(servers) = Servers::shared() else { return };
    let connection = Connection::open(&servers.config("founding")).await.unwrap();
    let missing = streams::describe(&connection).await.unwrap_err();
    assert!(missing.to_string().contains("banter cluster init"), "{missing}");

    let (founded, told) = init(&connection, FOUNDING, SHAPE).await.unwrap();
    assert_eq!(founded, FOUNDING);
    assert!(told.iter().all(|progress| progress.is_new && progress.streams == 17));
    assert_eq!(told.last().map(|progress| progress.ready), Some(17));

    let described = streams::describe(&connection).await.unwrap();
    assert_eq!(described.founding, FOUNDING);
    let streams: Vec<_> = described.partitions.iter().flatten().collect();
    assert_eq!(streams.len(), 16);
    assert!(streams.iter().all(|stream| stream.peers.len() == 2 && stream.leader.is_some()));

    // Another time it has other numbers at hand, and takes those that are there.
    let again = Founding { cluster_id: 5, blank_epoch: 6, ..FOUNDING };
    let (founded, told) = init(&connection, again, SHAPE).await.unwrap();
    assert_eq!(founded, FOUNDING);
    assert!(told.len() == 17 && told.iter().all(|progress| !progress.is_new));

    let differs = async |founding, shape| init(&connection, founding, shape).await.unwrap_err().to_string();
    let told = differs(Founding { partitions: 32, ..FOUNDING }, SHAPE).await;
    assert!(told.contains("banter.partitions = 16 and should have 32"), "{told}");
    let told = differs(FOUNDING, Shape { stream_bytes_max: 1 << 20, ..SHAPE }).await;
    assert!(told.contains("stream BANTER_founding_000 has max_bytes = 8388608 and should have 1048576"), "{told}");
    assert!(told.contains("nats stream edit"), "{told}");
    for partitions in [0, 1, 15, 17, 512] {
        let fault = init(&connection, Founding { partitions, ..FOUNDING }, SHAPE).await.unwrap_err();
        assert!(matches!(fault, StreamsFault::Partitions(_)), "{fault}");
    }
}

#[tokio::test]
async fn a_lost_stream_of_the_indexes_is_told_and_no_other_cluster_is_made_over_the_partitions() {
    let Some(servers) = Servers::shared() else { return };
    let connection = Connection::open(&servers.config("lost")).await.unwrap();
    init(&connection, FOUNDING, SHAPE).await.unwrap();
    servers::request(servers, "STREAM.DELETE.BANTER_lost_index", "".into()).await;
    for fault in [
        streams::describe(&connection).await.unwrap_err(),
        init(&connection, Founding { cluster_id: 5, ..FOUNDING }, SHAPE).await.unwrap_err(),
    ] {
        assert!(matches!(fault, StreamsFault::IndexLost { .. }), "{fault}");
        for says in ["BANTER_lost_index is missing", "BANTER_lost_000 is there", "restore it from a backup"] {
            assert!(fault.to_string().contains(says), "{says}: {fault}");
        }
    }
}

#[tokio::test]
async fn a_lost_partition_is_made_anew_only_where_no_node_ever_wrote() {
    let Some(servers) = Servers::shared() else { return };
    let connection = Connection::open(&servers.config("gone")).await.unwrap();
    init(&connection, FOUNDING, SHAPE).await.unwrap();
    servers::request(servers, "STREAM.DELETE.BANTER_gone_003", "".into()).await;
    let told = init(&connection, FOUNDING, SHAPE).await.unwrap().1;
    assert_eq!(told.iter().filter(|progress| progress.is_new).count(), 1, "a making that was broken off goes on");
    servers::publish(servers, "banter.gone.log.004", "a claim").await;
    servers::request(servers, "STREAM.DELETE.BANTER_gone_003", "".into()).await;
    let fault = init(&connection, FOUNDING, SHAPE).await.unwrap_err();
    assert!(matches!(&fault, StreamsFault::Lost { stream } if stream == "BANTER_gone_003"), "{fault}");
}

#[tokio::test]
async fn streams_grow_in_place_never_shrink_and_keep_what_an_operator_chose() {
    let Some(servers) = Servers::shared() else { return };
    let connection = Connection::open(&servers.config("growing")).await.unwrap();
    init(&connection, FOUNDING, SHAPE).await.unwrap();
    let described = async || streams::describe(&connection).await.unwrap();
    // What this program does not know of a stream's configuration is an operator's.
    let odd = described().await.partitions[3].clone().unwrap().config;
    let mut body = serde_json::to_value(&odd).unwrap();
    body["description"] = "ours".into();
    servers::request(servers, &format!("STREAM.UPDATE.{}", odd.name), body.to_string().into()).await;

    let larger = Shape { stream_bytes_max: 16 << 20, ..SHAPE };
    let mut grown = 0;
    growing::grow(&connection, &described().await, larger, |progress| grown += usize::from(progress.is_new))
        .await
        .unwrap();
    assert_eq!(grown, 16);
    let told = init(&connection, FOUNDING, larger).await.unwrap().1;
    assert!(told.iter().all(|progress| !progress.is_new));
    let info = servers::request(servers, &format!("STREAM.INFO.{}", odd.name), "".into()).await;
    assert_eq!(info["config"]["description"], "ours");

    growing::grow(&connection, &described().await, SHAPE, |progress| assert!(!progress.is_new)).await.unwrap();
    let sizes = described().await.partitions.into_iter().flatten().map(|stream| stream.config.max_bytes);
    assert!(sizes.into_iter().all(|size| size == 16 << 20));
    let none = Shape { stream_bytes_max: 1 << 50, ..SHAPE };
    let fault = growing::grow(&connection, &described().await, none, |_| ()).await.unwrap_err();
    assert!(matches!(fault, StreamsFault::NoRoom { .. }), "{fault}");
}

#[tokio::test]
async fn streams_that_do_not_fit_on_the_servers_are_refused_with_the_cure() {
    let Some(servers) = Servers::shared() else { return };
    let connection = Connection::open(&servers.config("large")).await.unwrap();
    let fault = init(&connection, FOUNDING, Shape { stream_bytes_max: 1 << 40, ..SHAPE }).await.unwrap_err();
    assert!(matches!(fault, StreamsFault::NoRoom { .. }), "{fault}");
    assert!(fault.to_string().contains("max_file_store"), "{fault}");
}

#[tokio::test]
async fn a_server_alone_cannot_keep_three_copies_and_a_user_is_asked_for() {
    const USERS: &str = "authorization { user: ann, password: \"p@ss\" }";
    let Some(servers) = Servers::start_with(&[Odd { more: USERS.to_owned(), ..USUAL }]) else { return };
    let mut config = servers.config("alone");
    let refused = Connection::open(&config).await.unwrap_err();
    assert!(matches!(refused, banter_engine::EngineFault::Refused { .. }), "{refused}");
    config.servers = vec![format!("nats://ann:p%40ss@127.0.0.1:{}", servers.all[0].port)];
    let connection = Connection::open(&config).await.unwrap();
    let fault = init(&connection, FOUNDING, SHAPE).await.unwrap_err();
    assert!(matches!(fault, StreamsFault::NoCluster { .. }), "{fault}");
    assert!(fault.to_string().contains("three NATS servers"), "{fault}");
    init(&connection, FOUNDING, Shape { replicas: 1, ..SHAPE }).await.unwrap();
}
