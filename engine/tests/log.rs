//! The streams of the partitions: what is appended lands once, in order, and is read back.

mod servers;

use banter_cluster::engine::{Answer, Ask, Partition, Tail, Ticket};
use bytes::Bytes;
use servers::{Asker, Servers};

const PARTITION: Partition = Partition(7);

#[tokio::test]
async fn what_is_appended_lands_once_and_in_order() {
    let Some(servers) = Servers::start() else { return };
    let mut asker = Asker::with_streams(&servers, "log").await;
    an_append_lands_and_another_with_the_same_expectation_is_refused(&mut asker).await;
    appends_that_do_not_wait_for_each_other_keep_their_order(&mut asker).await;
}

async fn an_append_lands_and_another_with_the_same_expectation_is_refused(asker: &mut Asker) {
    assert_eq!(asker.append(PARTITION, 0, "a").await, Answer::Appended { ticket: Ticket(1), sequence: 1 });
    assert_eq!(asker.append(PARTITION, 0, "b").await, Answer::Refused { ticket: Ticket(2), last: 1 });
    assert_eq!(asker.append(PARTITION, 9, "b").await, Answer::Refused { ticket: Ticket(3), last: 1 });
    let tail = asker.ask(|ticket| Ask::Tail { partition: PARTITION, ticket }).await;
    let Answer::Tail { tail: Some(Tail { first: 1, last: 1, bytes }), .. } = tail else { panic!("{tail:?}") };
    assert!(bytes > 0);
    let empty = asker.ask(|ticket| Ask::Tail { partition: Partition(8), ticket }).await;
    assert_eq!(empty, Answer::Tail { ticket: Ticket(5), tail: Some(Tail { first: 1, last: 0, bytes: 0 }) });
    assert_eq!(asker.read(PARTITION, 1, 8, 1 << 20).await, Some(vec![(1, Bytes::from_static(b"a"))]));
}

async fn appends_that_do_not_wait_for_each_other_keep_their_order(asker: &mut Asker) {
    let partitions = [Partition(1), Partition(2), Partition(3)];
    for expected in 0..200 {
        for partition in partitions {
            asker.send_append(partition, expected, expected.to_string());
        }
    }
    for _ in 0..3 * 200 {
        let answer = asker.next().await;
        assert!(matches!(answer, Answer::Appended { .. }), "{answer:?}");
    }
    for partition in partitions {
        let messages = asker.read(partition, 1, 200, 1 << 20).await.unwrap();
        let wanted: Vec<_> = (0..200_u64).map(|expected| (expected + 1, Bytes::from(expected.to_string()))).collect();
        assert_eq!(messages, wanted);
    }
}
