//! Posts in flight: how many, in which order, and how they wait for a log that failed.

use std::time::Duration;

use banter_protocol::error_code::ErrorCode;

use super::fake::{Pair, bodies, body, options};
use crate::backoff::Random;
use crate::event::{Event, Refused};
use crate::options::{Join, Options};
use crate::posts::Ticket;

fn post_numbers(pair: &mut Pair, numbers: std::ops::Range<u32>) -> Vec<Ticket> {
    numbers.map(|number| pair.session.post("lobby", body(number.to_string().as_bytes())).unwrap()).collect()
}

/// What the room holds, as one who joined it saw it.
fn numbers(events: &[Event]) -> Vec<u32> {
    bodies(events).iter().map(|(_, body)| body.parse().unwrap()).collect()
}

fn postponed(events: &[Event]) -> Vec<Ticket> {
    events.iter().filter_map(|e| if let Event::Postponed { ticket, .. } = e { Some(*ticket) } else { None }).collect()
}

#[test]
fn four_hundred_posts_get_over_a_link_that_breaks_every_few_kilobytes() {
    let mut pair = Pair::joined(options(1), "lobby");
    post_numbers(&mut pair, 0..400);
    let mut lengths = Random::new(1);
    let mut connections = 0;
    let mut events = Vec::new();
    while pair.session.unacknowledged() > 0 {
        connections += 1;
        assert!(connections < 1000, "{} are left", pair.session.unacknowledged());
        pair.connect();
        if !pair.exchange_up_to(2_000 + (lengths.next() % 4_000) as usize) {
            pair.cut();
        }
        events.extend(pair.events());
    }
    pair.settle();
    events.extend(pair.events());
    assert!(connections > 10, "the link broke only {connections} times");
    assert_eq!(numbers(&events), (0..400).collect::<Vec<_>>());
}

#[test]
fn no_more_posts_of_a_room_are_in_flight_than_the_limit_and_each_answer_lets_one_out() {
    let mut pair = Pair::joined(Options { posts_in_flight_max: 3, ..options(1) }, "lobby");
    pair.session.join("other", Join::default()).unwrap();
    pair.settle();
    post_numbers(&mut pair, 0..10);
    pair.session.post("other", body(b"1")).unwrap();
    pair.send_up();
    assert_eq!((pair.server.stored("lobby"), pair.server.stored("other")), (3, 1), "each room has its own");
    let answers = pair.server_bytes();
    pair.send_up();
    assert_eq!(pair.server.stored("lobby"), 3, "no answer came yet");
    pair.session.handle_bytes(pair.now, &answers);
    pair.send_up();
    assert_eq!(pair.server.stored("lobby"), 6);
    pair.exchange();
    assert_eq!(numbers(&pair.events()).len(), 11);
}

#[test]
fn a_lasting_refusal_lets_the_next_post_out_too() {
    let mut pair = Pair::joined(Options { posts_in_flight_max: 1, ..options(1) }, "lobby");
    pair.server.refuse_next_post = Some((ErrorCode::Forbidden as u8, None));
    post_numbers(&mut pair, 0..3);
    pair.exchange();
    assert_eq!(numbers(&pair.events()), [1, 2]);
}

#[test]
fn a_limit_of_none_in_flight_is_taken_as_one() {
    let mut pair = Pair::joined(Options { posts_in_flight_max: 0, ..options(1) }, "lobby");
    post_numbers(&mut pair, 0..2);
    pair.send_up();
    assert_eq!(pair.server.stored("lobby"), 1);
}

#[test]
fn a_server_that_remembers_fewer_keys_gets_fewer_posts_at_a_time() {
    let mut pair = Pair::new(options(1));
    pair.server.keys_max = 4;
    pair.session.join("lobby", Join::default()).unwrap();
    pair.settle();
    post_numbers(&mut pair, 0..10);
    pair.send_up();
    assert_eq!(pair.server.stored("lobby"), 4);
}

#[test]
fn a_post_that_was_refused_for_a_moment_is_overtaken_by_those_in_flight_alone() {
    for (posts_in_flight_max, expected) in [(3, [1, 2, 0, 3, 4]), (1, [0, 1, 2, 3, 4])] {
        let mut pair = Pair::joined(Options { posts_in_flight_max, ..options(1) }, "lobby");
        pair.server.refuse_next_post = Some((ErrorCode::Overloaded as u8, Some(500)));
        post_numbers(&mut pair, 0..5);
        pair.exchange();
        assert_eq!(pair.server.stored("lobby"), posts_in_flight_max - 1, "the others wait with it");
        pair.pass(Duration::from_millis(499));
        assert_eq!(pair.server.stored("lobby"), posts_in_flight_max - 1);
        pair.pass(Duration::from_millis(301));
        assert_eq!(numbers(&pair.events()), expected, "{posts_in_flight_max} in flight");
    }
}

#[test]
fn a_cut_in_the_midst_of_refusals_leaves_no_place_in_flight_taken() {
    let mut pair = Pair::joined(Options { posts_in_flight_max: 2, ..options(1) }, "lobby");
    post_numbers(&mut pair, 0..6);
    pair.server.refuse_next_post = Some((ErrorCode::RateLimited as u8, Some(10)));
    pair.exchange();
    pair.drop_unsent();
    pair.cut();
    pair.settle();
    assert_eq!(pair.session.unacknowledged(), 0);
    let mut seen = numbers(&pair.events());
    seen.sort_unstable();
    assert_eq!(seen, (0..6).collect::<Vec<_>>());
}

#[test]
fn a_failed_log_keeps_the_post_and_its_key_tells_it_once_and_is_tried_again_after_the_time() {
    let mut pair = Pair::joined(options(1), "lobby");
    let retry = options(1).log_failed_retry;
    pair.server.is_log_broken = true;
    let tickets = post_numbers(&mut pair, 0..2);
    let keys: Vec<String> = tickets.iter().map(|ticket| pair.session.key_of(*ticket)).collect();
    pair.exchange();
    let events = pair.events();
    assert_eq!(postponed(&events), tickets);
    assert!(!events.iter().any(|e| matches!(e, Event::Refused { what: Refused::Post(_), .. })), "{events:?}");

    // Two steps, for the server must be heard in between.
    pair.pass(retry / 2);
    pair.pass(retry / 2 - Duration::from_millis(1));
    assert_eq!(pair.server.refused_keys, keys, "not tried before");
    pair.pass(Duration::from_millis(1) + options(1).reconnect_first);
    assert_eq!(pair.server.refused_keys, [&keys[..], &keys[..]].concat(), "tried again under the same keys");
    assert!(postponed(&pair.events()).is_empty(), "told once");

    pair.server.is_log_broken = false;
    pair.pass(retry / 2);
    pair.pass(retry / 2 + options(1).reconnect_first);
    assert_eq!(numbers(&pair.events()), [0, 1]);
    assert!(pair.server.keys("lobby").iter().eq(&keys));
}

#[test]
fn a_failed_log_is_tried_again_with_the_next_connection() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.is_log_broken = true;
    post_numbers(&mut pair, 0..2);
    pair.exchange();
    pair.server.is_log_broken = false;
    pair.cut();
    let before = pair.now;
    pair.settle();
    assert_eq!(numbers(&pair.events()), [0, 1]);
    assert!(pair.now - before <= options(1).reconnect_first);
}
