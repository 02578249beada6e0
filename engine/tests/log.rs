//! The streams of the partitions: what is appended lands once, in order, and is read back.

mod servers;

use banter_cluster::engine::{Answer, Ask, Partition, Tail, Ticket};
use banter_engine::Shape;
use bytes::Bytes;
use servers::{Asker, SHAPE, Servers};

const PARTITION: Partition = Partition(7);

#[tokio::test]
async fn an_append_lands_and_another_with_the_same_expectation_is_refused_with_the_real_last() {
    let Some(servers) = Servers::shared() else { return };
    let mut asker = Asker::with_streams(servers, "landing").await;
    assert_eq!(asker.append(PARTITION, 0, "a").await, Answer::Appended { ticket: Ticket(1), sequence: 1 });
    assert_eq!(asker.append(PARTITION, 0, "b").await, Answer::Refused { ticket: Ticket(2), last: 1 });
    assert_eq!(asker.append(PARTITION, 9, "b").await, Answer::Refused { ticket: Ticket(3), last: 1 });
    let tail = asker.ask(|ticket| Ask::Tail { partition: PARTITION, ticket }).await;
    let Answer::Tail { tail: Some(Tail { first: 1, last: 1, bytes }), .. } = tail else { panic!("{tail:?}") };
    assert!(bytes > 0);
    let empty = asker.ask(|ticket| Ask::Tail { partition: Partition(8), ticket }).await;
    assert_eq!(empty, Answer::Tail { ticket: Ticket(5), tail: Some(Tail { first: 1, last: 0, bytes: 0 }) });
    let unknown = asker.ask(|ticket| Ask::Tail { partition: Partition(99), ticket }).await;
    assert_eq!(unknown, Answer::Tail { ticket: Ticket(6), tail: None });
    assert_eq!(asker.append(Partition(99), 0, "nowhere").await, Answer::Silent { ticket: Ticket(7) });
}

#[tokio::test]
async fn appends_that_do_not_wait_for_each_other_keep_their_order() {
    let Some(servers) = Servers::shared() else { return };
    let mut asker = Asker::with_streams(servers, "order").await;
    let partitions = [Partition(1), Partition(2), Partition(3)];
    // Four of a partition under way, as an owner has them.
    let mut appended = [0_u64; 3];
    for expected in 0..4 {
        for partition in partitions {
            asker.send_append(partition, expected, expected.to_string());
        }
    }
    let mut sent = [4_u64; 3];
    let mut owners: Vec<_> = (0..12).map(|ticket| ticket % 3).collect();
    while appended != [100; 3] {
        let Answer::Appended { ticket, sequence } = asker.next().await else { panic!("an append did not land") };
        let index = owners[usize::try_from(ticket.0).unwrap() - 1];
        appended[index] += 1;
        assert_eq!(sequence, appended[index]);
        if sent[index] < 100 {
            asker.send_append(partitions[index], sent[index], sent[index].to_string());
            owners.push(index);
            sent[index] += 1;
        }
    }
    for partition in partitions {
        let wanted: Vec<_> = (0..100_u64).map(|expected| (expected + 1, Bytes::from(expected.to_string()))).collect();
        // Any of the servers may answer, and one may be late, but never wrong.
        servers::until(async || {
            let messages = asker.read(partition, 1, 200, 1 << 20).await.unwrap();
            assert!(wanted.starts_with(&messages));
            messages.len() == wanted.len()
        })
        .await;
    }
}

#[tokio::test]
async fn a_read_gives_what_is_stored_within_its_bounds() {
    let Some(servers) = Servers::shared() else { return };
    let mut asker = Asker::with_streams(servers, "reading").await;
    assert_eq!(asker.read(PARTITION, 1, 8, 1 << 20).await, Some(Vec::new()), "an empty stream");
    for expected in 0..10 {
        asker.append(PARTITION, expected, vec![u8::try_from(expected).unwrap(); 1_000]).await;
    }
    let sequences = |messages: Option<Vec<(u64, Bytes)>>| -> Vec<u64> {
        messages.unwrap().into_iter().map(|(sequence, _)| sequence).collect()
    };
    servers::until_current(&asker, PARTITION, 10).await;
    assert_eq!(sequences(asker.read(PARTITION, 1, 3, 1 << 20).await), [1, 2, 3]);
    assert_eq!(sequences(asker.read(PARTITION, 4, 1, 1 << 20).await), [4]);
    assert_eq!(sequences(asker.read(PARTITION, 8, 100, 1 << 20).await), [8, 9, 10]);
    assert_eq!(sequences(asker.read(PARTITION, 1, 100, 10).await), [1], "a first one that is longer");
    assert_eq!(
        sequences(asker.read(PARTITION, 1, 100, 2_500).await),
        [1, 2, 3],
        "the one that reaches the bound is the last"
    );
    assert_eq!(sequences(asker.read(PARTITION, 11, 100, 1 << 20).await), [0; 0], "behind the tail");
    let purged = asker.ask(|ticket| Ask::Purge { partition: PARTITION, ticket, first: 6 }).await;
    assert!(matches!(purged, Answer::Done { is_done: true, .. }), "{purged:?}");
    let tail = asker.ask(|ticket| Ask::Tail { partition: PARTITION, ticket }).await;
    assert!(matches!(tail, Answer::Tail { tail: Some(Tail { first: 6, last: 10, .. }), .. }), "{tail:?}");
    let beyond = asker.ask(|ticket| Ask::Purge { partition: PARTITION, ticket, first: 12 }).await;
    assert!(matches!(beyond, Answer::Done { is_done: false, .. }), "{beyond:?}");
    assert_eq!(asker.append(PARTITION, 10, "on").await, Answer::Appended { ticket: asker.newest(), sequence: 11 });
    // Any of the servers may answer, and one that is late still has what was purged.
    let read = sequences(asker.read(PARTITION, 6, 100, 1 << 20).await);
    assert!([6, 7, 8, 9, 10, 11].starts_with(&read) && read.len() >= 5, "{read:?}");
    servers::until(async || sequences(asker.read(PARTITION, 1, 100, 1 << 20).await) == [6, 7, 8, 9, 10, 11]).await;
}

#[tokio::test]
async fn many_reads_at_once_are_all_answered() {
    let Some(servers) = Servers::shared() else { return };
    let mut asker = Asker::with_streams(servers, "reads").await;
    for expected in 0..8 {
        asker.append(PARTITION, expected, vec![b'x'; 60_000]).await;
    }
    for _ in 0..100 {
        let ticket = asker.ticket();
        asker.engine.ask(Ask::Read { partition: PARTITION, ticket, from: 1, messages_max: 7, bytes_max: 1 << 20 });
    }
    let mut given = 0;
    for _ in 0..100 {
        let Answer::Read { messages: Some(messages), .. } = asker.next().await else { panic!("no answer to a read") };
        assert!(messages.len() <= 7);
        assert!(
            messages.iter().zip(1..).all(|((sequence, bytes), wanted)| *sequence == wanted && bytes.len() == 60_000)
        );
        given += messages.len();
    }
    // One of the three servers may be late.
    assert!(given >= 300, "{given}");
}

#[tokio::test]
async fn a_full_stream_and_a_message_that_is_too_long_are_refused_for_certain() {
    let Some(servers) = Servers::shared() else { return };
    let shape = Shape { stream_bytes_max: 20_000, ..SHAPE };
    let mut asker = Asker::with_streams_of(servers, "full", shape).await;
    let mut last = 0;
    let full = loop {
        match asker.append(PARTITION, last, vec![b'x'; 5_000]).await {
            Answer::Appended { sequence, .. } => last = sequence,
            other => break other,
        }
    };
    assert_eq!((last, full), (3, Answer::Full { ticket: asker.newest() }));
    let too_long = asker.append(Partition(1), 0, vec![b'x'; 2 << 20]).await;
    assert_eq!(too_long, Answer::Full { ticket: asker.newest() });
    assert_eq!(asker.append(Partition(1), 0, "on").await, Answer::Appended { ticket: asker.newest(), sequence: 1 });
    asker.ask(|ticket| Ask::Purge { partition: PARTITION, ticket, first: 3 }).await;
    assert_eq!(asker.append(PARTITION, 3, "on").await, Answer::Appended { ticket: asker.newest(), sequence: 4 });
}
