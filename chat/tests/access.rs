//! A connection that has to prove who it is: what waits for the verdict, what it changes, and when it ends.

mod proved;

use std::sync::Arc;

use banter_access::proof::Proof;
use banter_access::rights::Rights;
use banter_chat::address::ConnectionId;
use banter_chat::proving::NotProved;
use banter_chat::shard::Input;
use banter_protocol::request::Ask;
use banter_protocol::wire::WireForm;
use proved::{GRACE_MS, LEEWAY_S, Server, access, join};

const ANN: ConnectionId = ConnectionId { slot: 0, generation: 1 };

/// The proof of a token that holds for so many seconds from the start.
fn proof(user: &str, seconds: u64) -> Arc<Proof> {
    proved::proof(user, seconds, &[("lobby", Rights::READ | Rights::WRITE)])
}

/// With one connection that has said nothing yet.
fn server() -> Server {
    let mut server = Server::new(access(&[]));
    assert_eq!(server.open(0), ANN);
    server
}

#[test]
fn a_connection_waits_for_its_verdict_and_is_read_again_behind_it() {
    let mut server = server();
    let proving = server.hello(ANN, "");
    assert_eq!((&*proving.token, proving.connection), ("t", ANN));
    assert!(!server.is_read(ANN), "what it sends meanwhile waits");
    assert_eq!(server.proved(proving, Ok(proof("ann", 60))), ["welcome ann 59998"]);
    assert!(server.is_read(ANN));
    assert_eq!(server.ask(ANN, join("lobby")), ["joined lobby"]);
    assert_eq!(server.ask(ANN, join("staff")), ["forbidden"]);
}

#[test]
fn a_verdict_that_comes_too_late_or_twice_is_nobodys() {
    let mut first = server();
    let proving = first.hello(ANN, "");
    first.turn(1, |shard| shard.handle(ANN, Input::Closed));
    let next = ConnectionId { generation: 2, ..ANN };
    first.turn(1, |shard| shard.handle(next, Input::Opened { form: WireForm::Native, preface: &[] }));
    assert!(first.proved(proving, Ok(proof("ann", 60))).is_empty());
    assert!(first.shard.sessions().session(next).unwrap().user.is_none());

    let mut server = server();
    let proving = server.hello(ANN, "");
    server.proved(proving.clone(), Ok(proof("ann", 60)));
    assert!(server.proved(proving, Ok(proof("eve", 60))).is_empty());
    assert_eq!(server.shard.sessions().session(ANN).unwrap().user.as_ref().unwrap().as_str(), "ann");
}

#[test]
fn another_name_than_the_tokens_is_refused_and_what_could_not_be_judged_is_no_try() {
    let mut server = server();
    for _ in 0..5 {
        let proving = server.hello(ANN, "");
        assert_eq!(server.proved(proving, Err(NotProved::Unavailable)), ["unavailable"]);
    }
    for times in 1..=3 {
        let proving = server.hello(ANN, "bob");
        assert_eq!(server.proved(proving, Ok(proof("ann", 60))), ["unauthorized"]);
        assert_eq!(server.is_open(ANN), times < 3);
    }
}

#[test]
fn a_token_that_ends_is_told_once_then_asks_nothing_and_its_connection_ends_behind_the_grace() {
    for (seconds, expiring_ms) in [(60, 30_000), (100, 50_000), (3_600, 3_540_000)] {
        let mut server = server();
        let proving = server.hello(ANN, "");
        server.proved(proving, Ok(proof("ann", seconds)));
        assert_eq!(server.ask(ANN, join("lobby")), ["joined lobby"]);
        assert_eq!(server.shard.next_due(), Some(expiring_ms), "and nothing wakes it before");
        server.turn(expiring_ms - 1 - server.now_ms, |_| {});
        assert!(server.hear(ANN).is_empty());
        server.turn(1, |_| {});
        assert_eq!(server.hear(ANN), [format!("expiring {}", seconds * 1_000 - expiring_ms)]);
        let ends_ms = (seconds + LEEWAY_S) * 1_000 + GRACE_MS;
        assert_eq!(server.shard.next_due(), Some(ends_ms));
        server.turn((seconds + LEEWAY_S) * 1_000 - 1 - server.now_ms, |_| {});
        assert_eq!(server.ask(ANN, join("lobby")), ["expired"]);
        assert_eq!(server.ask(ANN, Ask::Leave { room: "lobby".into() }), ["left lobby"]);
        server.turn(ends_ms - 1 - server.now_ms, |_| {});
        assert!(server.hear(ANN).is_empty() && server.is_read(ANN));
        server.turn(1, |_| {});
        assert_eq!(server.hear(ANN), ["closed expired"]);
        assert!(!server.is_read(ANN));
    }
}

#[test]
fn nobody_waits_for_the_end_of_a_token_whose_connection_is_gone() {
    for is_told in [false, true] {
        let mut server = server();
        let proving = server.hello(ANN, "");
        server.proved(proving, Ok(proof("ann", 60)));
        if is_told {
            server.turn(40_000, |_| {});
            assert_eq!(server.hear(ANN).len(), 1);
        }
        assert!(server.shard.next_due().is_some());
        server.turn(1, |shard| shard.handle(ANN, Input::Closed));
        assert_eq!(server.shard.next_due(), None);
    }
}
