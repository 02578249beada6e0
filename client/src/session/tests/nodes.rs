//! A cluster: one node serves, the others stand by, and another takes over.

use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event as Said;
use banter_protocol::ids::Sequence;
use banter_protocol::request::FetchFrom;

use super::cluster::{Cluster, Host};
use super::fake::{Pair, bodies, body, options};
use super::from_the_start;
use crate::event::{Event, Refused};
use crate::options::{Join, Options};

const SECOND: Duration = Duration::from_secs(1);

fn given(seed: u64, addresses: &[&str]) -> Options {
    let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
    Options { addresses, token: Some("t0ken".to_owned()), ..options(seed) }
}

/// A session that was given `addresses` and has joined a room at the first, which serves; `nodes` is what that one tells.
fn joined(addresses: &[&str], servers: &[&str], nodes: &str) -> Cluster {
    let mut cluster = Cluster::new(given(1, addresses), servers);
    cluster.server(servers[0]).nodes = nodes.to_owned();
    cluster.session.join("lobby", from_the_start()).unwrap();
    cluster.run(SECOND);
    cluster.events();
    cluster.attempts.clear();
    cluster
}

fn count(events: &[Event], is: impl Fn(&Event) -> bool) -> usize {
    events.iter().filter(|event| is(event)).count()
}

fn joins(events: &[Event]) -> usize {
    count(events, |event| matches!(event, Event::Joined { .. }))
}

#[test]
fn a_node_that_stands_by_is_left_for_the_one_that_it_names_at_once() {
    let mut cluster = Cluster::new(given(1, &["b:1"]), &["a:1", "b:1"]);
    cluster.session.join("lobby", Join::default()).unwrap();
    cluster.run(Duration::ZERO);
    assert_eq!(cluster.where_to(), ["b:1", "a:1"]);
    let events = cluster.events();
    assert_eq!(joins(&events), 1, "{events:?}");
    assert_eq!(count(&events, |event| matches!(event, Event::Refused { .. })), 0, "{events:?}");
    assert_eq!(cluster.session.nodes(), ["a:1"]);
}

#[test]
fn a_node_that_stands_by_and_names_none_is_left_for_the_next_that_was_given() {
    let mut cluster = Cluster::new(given(1, &["b:1", "a:1"]), &["a:1", "b:1"]);
    cluster.server("b:1").stands_by = Some(String::new());
    cluster.run(Duration::ZERO);
    assert_eq!(cluster.where_to(), ["b:1", "a:1"]);
}

#[test]
fn what_the_server_told_is_tried_ahead_of_what_was_given() {
    let mut cluster = joined(&["a:1", "d:1"], &["a:1", "b:1", "c:1"], "c:1\nb:1\n");
    cluster.take_over("a:1", "c:1");
    cluster.set_host("a:1", Host::Down);
    cluster.run(SECOND);
    assert_eq!(cluster.where_to(), ["c:1"], "c, which no one gave, and neither a nor d");
    assert_eq!(joins(&cluster.events()), 1);
}

#[test]
fn one_that_is_sent_away_amid_its_life_goes_on_elsewhere_where_it_was() {
    let mut cluster = joined(&["a:1"], &["a:1", "b:1"], "a:1\nb:1\n");
    (0..3).for_each(|_| cluster.server("a:1").say("lobby", "ann"));
    cluster.run(Duration::ZERO);
    assert_eq!(bodies(&cluster.events()).len(), 3);

    (0..2).for_each(|_| cluster.server("a:1").say_to_nobody("lobby", "ann"));
    cluster.take_over("a:1", "b:1");
    cluster.server("a:1").send_away(None);
    cluster.run(SECOND);
    assert_eq!(cluster.where_to(), ["b:1"]);
    let events = cluster.events();
    assert_eq!(bodies(&events), [(4, "\"4\"".into()), (5, "\"5\"".into())]);
    assert_eq!((joins(&events), count(&events, |e| matches!(e, Event::Refused { .. }))), (1, 0), "{events:?}");
}

#[test]
fn a_post_to_a_node_that_serves_no_longer_is_posted_to_the_one_that_does() {
    let mut cluster = joined(&["a:1"], &["a:1", "b:1"], "a:1\nb:1\n");
    cluster.take_over("a:1", "b:1");
    let ticket = cluster.session.post("lobby", body(b"1")).unwrap();
    let key = cluster.session.key_of(ticket);
    cluster.run(SECOND);
    let events = cluster.events();
    assert_eq!(count(&events, |e| matches!(e, Event::Posted(posted) if posted.ticket == ticket)), 1, "{events:?}");
    assert_eq!(count(&events, |e| matches!(e, Event::Refused { .. })), 0, "{events:?}");
    assert!(cluster.server("b:1").keys("lobby").iter().eq([&key]));
}

#[test]
fn a_post_whose_outcome_nobody_knows_is_posted_again_under_its_key_and_acknowledged_once() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.lose_answers = 2;
    let ticket = pair.session.post("lobby", body(b"1")).unwrap();
    let key = pair.session.key_of(ticket);
    pair.exchange();
    pair.pass(SECOND - Duration::from_millis(1));
    assert_eq!(pair.server.refused_keys, [&*key], "not before its time");
    pair.pass(Duration::from_millis(1) + options(1).reconnect_first);
    assert_eq!(pair.server.refused_keys, [&*key, &*key]);
    // And on the next connection.
    pair.cut();
    pair.settle();
    let events = pair.events();
    let posted: Vec<_> =
        events.iter().filter_map(|e| if let Event::Posted(posted) = e { Some(posted) } else { None }).collect();
    assert_eq!(posted.len(), 1, "{events:?}");
    assert_eq!((posted[0].ticket, posted[0].cursor.sequence, posted[0].duplicate), (ticket, Sequence(1), true));
    assert_eq!(bodies(&events), [(1, "1".into())]);
    assert_eq!(count(&events, |e| matches!(e, Event::Refused { .. } | Event::Postponed { .. })), 0, "{events:?}");
}

#[test]
fn posts_amid_a_takeover_are_stored_once_each_and_in_order() {
    let mut cluster = joined(&["a:1", "b:1"], &["a:1", "b:1"], "a:1\nb:1\n");
    cluster.server("a:1").lose_answers = 2;
    for number in 0..40 {
        cluster.session.post("lobby", body(number.to_string().as_bytes())).unwrap();
    }
    cluster.run(Duration::ZERO);
    cluster.set_host("a:1", Host::Down);
    cluster.run(3 * SECOND);
    cluster.take_over("a:1", "b:1");
    cluster.run(3 * SECOND);
    let events = cluster.events();
    assert_eq!(count(&events, |event| matches!(event, Event::Posted(_))), 40);
    let posted: Vec<_> = (0..40).map(|number| (number + 1, number.to_string())).collect();
    assert_eq!(bodies(&events), posted);
    assert_eq!(cluster.server("b:1").keys("lobby").len(), 40);
}

#[test]
fn a_join_and_asks_that_nobody_can_answer_now_are_asked_again_and_the_user_hears_the_answers_alone() {
    let mut pair = Pair::joined(options(1), "lobby");
    let refusal = Some((ErrorCode::Unavailable as u8, Some(1_000)));
    pair.server.refuse_next_join = refusal;
    pair.session.join("other", Join::default()).unwrap();
    pair.server.refuse_next_ask = refusal;
    let page = pair.session.fetch("lobby", FetchFrom::After(Sequence(0)), None).unwrap();
    let members = pair.session.members("lobby").unwrap();
    pair.exchange();
    let events = pair.events();
    assert!(matches!(&events[..], [Event::Members(told)] if told.ask == members), "{events:?}");
    pair.pass(SECOND - Duration::from_millis(1));
    assert_eq!(pair.events(), []);
    assert!(pair.session.poll_timeout().unwrap() <= pair.now + Duration::from_millis(1) + options(1).reconnect_first);
    pair.pass(Duration::from_millis(1) + options(1).reconnect_first);
    let events = pair.events();
    assert_eq!(joins(&events), 1, "{events:?}");
    assert!(events.iter().any(|event| matches!(event, Event::Page(told) if told.ask == page)), "{events:?}");
    assert_eq!(events.len(), 2, "{events:?}");
}

#[test]
fn an_ask_that_waits_is_told_as_unanswered_where_the_connection_goes_first() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.refuse_next_ask = Some((ErrorCode::Unavailable as u8, Some(1_000)));
    let ask = pair.session.members("lobby").unwrap();
    pair.exchange();
    pair.cut();
    assert_eq!(pair.events()[0], Event::Unanswered(ask));
    pair.settle();
    pair.pass(2 * SECOND);
    assert_eq!(count(&pair.events(), |event| matches!(event, Event::Members(_))), 0);
}

#[test]
fn a_takeover_of_three_seconds_is_found_within_about_one_more() {
    let mut found = Vec::new();
    for seed in 0..200 {
        let mut cluster = Cluster::new(given(seed, &["a:1", "b:1", "c:1"]), &["a:1", "b:1", "c:1"]);
        cluster.server("a:1").nodes = "a:1\nb:1\nc:1\n".to_owned();
        cluster.session.join("lobby", Join::default()).unwrap();
        cluster.run(20 * SECOND);
        assert_eq!(joins(&cluster.events()), 1);

        cluster.set_host("a:1", Host::Down);
        ["b:1", "c:1"].iter().for_each(|node| cluster.server(node).stands_by = Some("b:1\nc:1\n".to_owned()));
        let served_at = cluster.now + 3 * SECOND;
        cluster.run_until(served_at);
        let tries = cluster.attempts.len();
        assert!(tries <= 25, "{tries} attempts while nobody serves");
        cluster.take_over("a:1", "b:1");
        cluster.run(10 * SECOND);
        assert_eq!(joins(&cluster.events()), 1, "seed {seed}");
        found.push(cluster.attempts.last().unwrap().1 - served_at);
    }
    let (longest, mean) = (found.iter().max().unwrap(), found.iter().sum::<Duration>() / 200);
    assert!(*longest <= Duration::from_millis(1_250) && mean <= Duration::from_millis(700), "{longest:?}, {mean:?}");
}

#[test]
fn a_host_that_answers_nothing_keeps_the_session_from_the_next_for_a_second() {
    let mut cluster = Cluster::new(given(1, &["a:1", "b:1"]), &["b:1", "a:1"]);
    cluster.set_host("a:1", Host::Frozen);
    cluster.session.join("lobby", Join::default()).unwrap();
    cluster.run(options(1).attempt_timeout);
    assert_eq!(joins(&cluster.events()), 1);
    assert_eq!(cluster.attempts.last(), Some(&("b:1".to_owned(), options(1).attempt_timeout)));
}

#[test]
fn where_all_are_down_the_attempts_become_rare_and_never_stop() {
    let mut cluster = Cluster::new(given(1, &["a:1", "b:1"]), &["a:1", "b:1"]);
    ["a:1", "b:1"].iter().for_each(|address| cluster.set_host(address, Host::Down));
    cluster.run(600 * SECOND);
    let of = |from: u64, to: u64| {
        let is_in = |at: &Duration| (from..to).contains(&at.as_secs());
        cluster.attempts.iter().filter(|(_, at)| is_in(at)).count()
    };
    assert!(of(0, 10) <= 100, "{}", of(0, 10));
    // Each waits 15 seconds in the mean: 20 attempts of each.
    assert!((20..=60).contains(&of(300, 600)), "{}", of(300, 600));
    let gaps: Vec<Duration> = cluster.attempts.windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
    assert!(gaps.iter().max().unwrap() <= &options(1).reconnect_max);

    cluster.set_host("b:1", Host::Up);
    cluster.server("b:1").stands_by = None;
    cluster.run(options(1).reconnect_max);
    assert!(cluster.events().iter().any(|event| matches!(event, Event::Connected { .. })));
}

#[test]
fn a_closing_server_says_when_to_come_to_whatever_node_and_one_that_stops_already_only_of_itself() {
    let mut cluster = joined(&["a:1"], &["a:1", "b:1"], "b:1\na:1\n");
    cluster.take_over("a:1", "b:1");
    cluster.server("a:1").send(&Said::Closing { code: ErrorCode::Draining, reconnect_after_ms: 3_000 });
    cluster.run(Duration::ZERO);
    cluster.set_host("a:1", Host::Down);
    cluster.run(3 * SECOND - Duration::from_millis(1));
    assert_eq!(cluster.where_to(), [""; 0]);
    cluster.run(SECOND);
    assert_eq!(cluster.where_to(), ["b:1"]);

    let mut cluster = Cluster::new(given(1, &["a:1", "b:1"]), &["b:1", "a:1"]);
    cluster.server("a:1").is_closing = true;
    cluster.server("a:1").send(&Said::Closing { code: ErrorCode::Draining, reconnect_after_ms: 30_000 });
    cluster.run(Duration::ZERO);
    assert_eq!(cluster.where_to(), ["a:1", "b:1"]);
}

#[test]
fn a_token_goes_to_no_address_but_those_given_and_those_told_by_one_that_has_it() {
    let servers = ["a:1", "b:1", "c:1", "evil:1"];
    let mut cluster = Cluster::new(given(1, &["a:1", "b:1"]), &servers);
    // What comes before the session has said its token to whom it comes from is not heard, nor is anything of one that is left.
    let mut told = Vec::new();
    banter_protocol::native::write_event(&Said::Nodes { nodes: "evil:1\n" }, &mut told);
    cluster.session.handle_bytes(Duration::ZERO, &told);
    assert!(cluster.session.nodes().is_empty());
    cluster.server("a:1").nodes = "c:1\n".to_owned();
    cluster.run(SECOND);
    cluster.set_host("a:1", Host::Down);
    cluster.session.handle_bytes(cluster.now, &told);
    cluster.take_over("a:1", "c:1");
    cluster.run(30 * SECOND);
    assert_eq!(cluster.where_to(), ["a:1", "c:1"]);
    for (address, tokens) in [("a:1", 1), ("b:1", 0), ("c:1", 1), ("evil:1", 0)] {
        assert_eq!(cluster.server(address).said_tokens.len(), tokens, "{address}");
    }
    assert_eq!(cluster.session.nodes(), ["c:1"]);
}

#[test]
fn a_session_without_addresses_comes_back_to_its_adapters_own_server() {
    let mut pair = Pair::joined(options(1), "lobby");
    assert_eq!(pair.session.address(), None);
    pair.cut();
    assert_eq!(pair.session.address(), None);
    pair.settle();
    assert_eq!(joins(&pair.events()), 1);
    assert!(pair.events().iter().all(|event| !matches!(event, Event::Refused { what: Refused::Session, .. })));
}
