//! Objects by name, and what nodes tell each other.

mod servers;

use banter_cluster::engine::{Answer, Ask, Object, ObjectKind, ObjectName, Partition};
use bytes::Bytes;
use servers::{Asker, Servers};

const PARTITION: Partition = Partition(3);

fn name(kind: ObjectKind, piece: u32) -> ObjectName {
    ObjectName { partition: PARTITION, kind, piece }
}

async fn put(asker: &mut Asker, name: ObjectName, bytes: &'static str) {
    let answer = asker
        .ask(|ticket| Ask::Put { ticket, name, expected: None, bytes: Bytes::from_static(bytes.as_bytes()) })
        .await;
    assert!(matches!(answer, Answer::Done { is_done: true, .. }), "{answer:?}");
}

/// Any of the servers may answer, and one may be late.
async fn is_soon(asker: &mut Asker, name: ObjectName, wanted: Option<&'static str>) {
    let wanted = Ok(wanted.map(|text| Bytes::from_static(text.as_bytes())));
    servers::until(async || {
        let answer = asker.ask(|ticket| Ask::Get { ticket, name }).await;
        matches!(answer, Answer::Object { object, .. } if object.clone().map(|object| object.map(|object| object.bytes)) == wanted)
    })
    .await;
}

#[tokio::test]
async fn the_newest_object_of_a_name_is_kept_until_all_its_pieces_are_removed() {
    let Some(servers) = Servers::shared() else { return };
    let mut asker = Asker::with_streams(servers, "objects").await;
    let index = ObjectKind::Index { segment: 9 };
    is_soon(&mut asker, name(index, 0), None).await;
    put(&mut asker, name(index, 0), "old").await;
    put(&mut asker, name(index, 0), "new").await;
    put(&mut asker, name(index, 1), "more").await;
    put(&mut asker, name(ObjectKind::Index { segment: 10 }, 0), "next").await;
    put(&mut asker, name(ObjectKind::Checkpoint { number: 9 }, 0), "checkpoint").await;
    put(&mut asker, name(ObjectKind::Newest, 0), "9").await;
    is_soon(&mut asker, name(index, 0), Some("new")).await;
    is_soon(&mut asker, name(index, 1), Some("more")).await;
    let removed = asker.ask(|ticket| Ask::Remove { ticket, partition: PARTITION, kind: index }).await;
    assert!(matches!(removed, Answer::Done { is_done: true, .. }), "{removed:?}");
    is_soon(&mut asker, name(index, 0), None).await;
    is_soon(&mut asker, name(index, 1), None).await;
    is_soon(&mut asker, name(ObjectKind::Index { segment: 10 }, 0), Some("next")).await;
    is_soon(&mut asker, name(ObjectKind::Checkpoint { number: 9 }, 0), Some("checkpoint")).await;
    is_soon(&mut asker, name(ObjectKind::Newest, 0), Some("9")).await;
    // What is not there is removed too.
    let removed = asker.ask(|ticket| Ask::Remove { ticket, partition: PARTITION, kind: index }).await;
    assert!(matches!(removed, Answer::Done { is_done: true, .. }), "{removed:?}");
}

#[tokio::test]
async fn an_object_is_put_only_in_the_place_of_the_one_that_is_expected() {
    let Some(servers) = Servers::shared() else { return };
    let mut asker = Asker::with_streams(servers, "expected").await;
    let name = name(ObjectKind::Newest, 0);
    let put = async |asker: &mut Asker, expected: u64, bytes: &'static [u8]| {
        let bytes = Bytes::from_static(bytes);
        let answer = asker.ask(|ticket| Ask::Put { ticket, name, expected: Some(expected), bytes }).await;
        matches!(answer, Answer::Done { is_done: true, .. })
    };
    assert!(put(&mut asker, 0, b"one").await);
    is_soon(&mut asker, name, Some("one")).await;
    let Answer::Object { object: Ok(Some(Object { version, .. })), .. } =
        asker.ask(|ticket| Ask::Get { ticket, name }).await
    else {
        panic!("an object")
    };
    assert!(!put(&mut asker, 0, b"two").await && !put(&mut asker, version + 1, b"two").await);
    assert!(put(&mut asker, version, b"three").await);
    assert!(!put(&mut asker, version, b"four").await);
    is_soon(&mut asker, name, Some("three")).await;
}

#[tokio::test]
async fn a_beat_reaches_every_node_of_its_cluster_and_no_other() {
    let Some(servers) = Servers::shared() else { return };
    let teller = Asker::connect(servers.config("beats")).await;
    let listener = Asker::connect(servers.config("beats")).await;
    let stranger = Asker::connect(servers.config("others")).await;
    let beat = |bytes: &'static str| Ask::Beat { bytes: Bytes::from_static(bytes.as_bytes()) };
    // Subscriptions take a moment to be known to all servers.
    servers::until(async || {
        teller.engine.ask(beat("here"));
        tokio::time::sleep(servers::POLL).await;
        !listener.is_quiet()
    })
    .await;
    teller.engine.ask(beat("last"));
    for asker in [&teller, &listener] {
        let mut heard = asker.next().await;
        while heard == (Answer::Beat { bytes: Bytes::from_static(b"here") }) {
            heard = asker.next().await;
        }
        assert_eq!(heard, Answer::Beat { bytes: Bytes::from_static(b"last") });
    }
    assert!(stranger.is_quiet());
}
