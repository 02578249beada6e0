//! Which keys a core knows: over restarts, over steps of the wall clock, and while its log cannot be read.

mod one_core;

use banter_chat::limits::Limits;
use banter_protocol::request::{Ask, FetchFrom};

use one_core::{Server, WALL_MS, roomy};

const HOUR_MS: u64 = 3_600_000;
const WINDOW_MS: u64 = 300_000;
/// Of a window, by the clock that is slewed by one part in ten.
const WINDOW_MS_MAX: u64 = WINDOW_MS * 11 / 9 + 1_000;

#[test]
fn restarts_forget_no_key_that_was_within_the_window_whatever_the_wall_clock_says() {
    for (first_ms, second_ms) in [(HOUR_MS, HOUR_MS), (HOUR_MS, 0), (0, 24 * HOUR_MS), (0, 0)] {
        let mut server = Server::new(roomy());
        server.join();
        assert_eq!(server.posted("k1", "1"), "joined 0, posted 1");
        server.pass(100_000);
        assert_eq!(server.posted("k2", "1"), "posted 2");
        let mut server = server.restart(WALL_MS - HOUR_MS + first_ms);
        server.join();
        assert_eq!(server.posted("k1", "1"), "joined 2, duplicate 1");
        server.pass(100_000);
        assert_eq!(server.posted("k3", "1"), "posted 3");
        let mut server = server.restart(WALL_MS - HOUR_MS + second_ms);
        server.join();
        assert_eq!(server.posted("k1", "1"), "joined 3, duplicate 1", "{first_ms} and {second_ms}");
        server.pass(WINDOW_MS_MAX - 200_000);
        assert_eq!(server.posted("k1", "1"), "posted 4", "the time in which a server ran counts");
        assert_eq!(server.posted("k3", "1"), "duplicate 3");
    }
}

#[test]
fn a_step_of_the_wall_clock_forgets_no_key_and_keeps_none_for_ever() {
    for unix_ms in [WALL_MS + 24 * HOUR_MS, WALL_MS - 24 * HOUR_MS, 0, u64::MAX / 2] {
        let mut server = Server::new(roomy());
        server.join();
        assert_eq!(server.posted("k", "1"), "joined 0, posted 1");
        server.unix_ms = unix_ms;
        server.pass(WINDOW_MS);
        assert_eq!(server.posted("k", "1"), "duplicate 1", "at {unix_ms}");
        server.pass(WINDOW_MS_MAX - WINDOW_MS);
        assert_eq!(server.posted("k", "1"), "posted 2", "at {unix_ms}");
    }
}

#[test]
fn the_time_in_which_the_machine_was_suspended_counts() {
    let mut server = Server::new(roomy());
    server.join();
    assert_eq!(server.posted("k", "1"), "joined 0, posted 1");
    server.shard.was_suspended(WINDOW_MS);
    assert_eq!(server.posted("k", "1"), "duplicate 1");
    server.shard.was_suspended(WINDOW_MS_MAX - WINDOW_MS);
    assert_eq!(server.posted("k", "1"), "posted 2");
}

#[test]
fn old_keys_leave_memory_without_another_post() {
    let mut server = Server::new(roomy());
    server.join();
    server.posted("k", "1");
    assert_eq!((server.shard.counters().dedupe_keys, server.shard.counters().dedupe_bytes > 0), (1, true));
    // Behind a while of quiet the log's last block is proved, and then nothing else is due.
    server.pass(2_000);
    let due_ms = server.shard.next_due().unwrap();
    assert!((WINDOW_MS..=WINDOW_MS * 11 / 10 + 2_000).contains(&due_ms), "a core that sleeps wakes for it: {due_ms}");
    server.pass(WINDOW_MS_MAX);
    assert_eq!((server.shard.counters().dedupe_keys, server.shard.counters().dedupe_bytes), (0, 0));
}

/// A server that was started again behind one post, with the key `k`.
fn restarted_behind_a_key() -> Server {
    let mut server = Server::new(roomy());
    server.join();
    assert_eq!(server.posted("k", "1"), "joined 0, posted 1");
    server.restart(WALL_MS)
}

#[test]
fn a_keyed_post_waits_for_the_window_of_its_room() {
    let mut server = restarted_behind_a_key();
    server.disk.keeps_reads = true;
    server.join();
    assert_eq!(server.posted("k", "1"), "");
    server.disk.keeps_reads = false;
    server.rest();
    assert_eq!(server.heard.join(", "), "joined 1, duplicate 1");
}

#[test]
fn a_window_that_cannot_be_read_is_no_empty_one() {
    let mut server = restarted_behind_a_key();
    server.disk.fails_reads = true;
    server.join();
    server.rest();
    assert_eq!(server.posted("k", "1"), "overloaded Some(\"server\") Some(1000)");
    assert_eq!(server.posted("new", "1"), "overloaded Some(\"server\") Some(1000)");
    server.post(2, None, "2");
    server.rest();
    assert_eq!(server.heard.pop().unwrap(), "posted 2", "what has no key goes on");
    server.monotonic_ms += 400;
    assert_eq!(server.posted("k", "1"), "overloaded Some(\"server\") Some(600)");
    server.monotonic_ms += 600;
    assert_eq!(server.posted("k", "1"), "overloaded Some(\"server\") Some(1000)", "it was tried again");
    server.disk.fails_reads = false;
    assert_eq!(server.posted("k", "1"), "overloaded Some(\"server\") Some(1000)", "and is not before it is time");
    server.monotonic_ms += 1_000;
    assert_eq!(server.posted("k", "1"), "duplicate 1");
    assert_eq!(server.posted("new", "1"), "posted 3");
}

#[test]
fn what_could_not_be_read_is_all_there_when_it_can() {
    let mut server = restarted_behind_a_key();
    server.disk.fails_reads = true;
    server.join();
    server.rest();
    let fetch =
        || Ask::Fetch { room: "lobby".into(), from: FetchFrom::Before(banter_protocol::ids::Sequence(2)), limit: None };
    server.ask(3, fetch());
    server.rest();
    assert_eq!(server.heard.pop().unwrap(), "overloaded Some(\"server\") Some(1000)");
    server.disk.fails_reads = false;
    server.monotonic_ms += 1_000;
    server.ask(4, fetch());
    server.rest();
    assert_eq!(server.heard.pop().unwrap(), "page of 1");
    assert_eq!(server.posted("k", "1"), "duplicate 1");
}

#[test]
fn a_body_is_compared_as_it_was_sent_also_when_it_is_read_from_the_log_without_an_index() {
    for has_index in [true, false] {
        let mut server = Server::new(roomy());
        server.join();
        let body = "{ \"a\": 1.0e0,\t\"a\" : \"\\u00e4\" }";
        assert_eq!(server.posted("k", body), "joined 0, posted 1");
        let mut server = server.restart(WALL_MS);
        if !has_index {
            server.disk.indexes.clear();
        }
        server.join();
        if !has_index {
            assert_eq!(server.posted("k", body), "joined 1, overloaded Some(\"server\") Some(1000)");
            server.monotonic_ms += 1_000;
        }
        assert!(server.posted("k", body).ends_with("duplicate 1"), "with an index: {has_index}");
        assert_eq!(server.posted("k", "{\"a\":1.0,\"a\":\"ä\"}"), "key_conflict None None");
    }
}

#[test]
fn the_key_of_a_post_that_was_refused_is_not_known() {
    let mut server = Server::new(roomy());
    server.join();
    server.rest();
    server.disk.is_full = true;
    assert_eq!(server.posted("k", "1"), "log_full Some(\"server\") Some(1000)");
    server.disk.is_full = false;
    assert_eq!(server.posted("k", "1"), "posted 1");
}

#[test]
fn a_room_in_the_place_of_a_forgotten_one_knows_none_of_its_keys() {
    for fails_reads in [false, true] {
        let limits = Limits { rooms_max: 1, dedupe_window_ms: 86_400_000, ..roomy() };
        let mut server = Server::new(limits);
        server.join();
        assert_eq!(server.posted("k", "1"), "joined 0, posted 1");
        if fails_reads {
            assert!(server.shard.seal_log());
            server.rest();
            let (catalog, run) = (server.disk.catalog(), server.run + 1);
            server = Server::on(server.disk, catalog, limits, run, WALL_MS);
            server.disk.fails_reads = true;
            server.join();
            server.rest();
        }
        server.move_to("other");
        assert_eq!(server.posted("k", "2"), "posted 1", "reads fail: {fails_reads}");
        let due_ms = server.shard.rooms().next_due().unwrap();
        assert!(fails_reads || due_ms <= server.monotonic_ms + 1_000, "its keys leave memory soon: {due_ms}");
        server.pass(2_000);
        assert_eq!(server.shard.counters().dedupe_keys, 1);
    }
}

#[test]
fn a_long_window_is_taken_some_keys_a_turn_and_what_comes_waits_for_all_of_it() {
    let limits = Limits { dedupe_keys_per_author_max: 10_000, ..roomy() };
    let mut server = Server::new(limits);
    server.join();
    for number in 0..2_000 {
        server.post(number, Some(&format!("key-{number}")), "1");
        server.turn();
    }
    server.rest();
    server.shard.seal_log();
    server.rest();
    let (catalog, run) = (server.disk.catalog(), server.run + 1);
    let mut server = Server::on(server.disk, catalog, limits, run, WALL_MS);
    server.join();
    let (mut turns, mut keys) = (0, 0);
    while server.heard.is_empty() {
        server.turn();
        let now = server.shard.counters().dedupe_keys;
        assert!(now - keys <= 512, "{keys} to {now} in a turn");
        (turns, keys) = (turns + 1, now);
        assert!(!server.heard.is_empty() || server.shard.is_busy() || keys == 0, "it does not sleep");
    }
    assert!(turns > 3 && keys == 2_000, "{keys} keys in {turns} turns");
    assert_eq!(server.posted("key-0", "1"), "duplicate 1");
}
