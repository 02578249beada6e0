//! A server of a later version: what this session does not know costs it nothing else.

use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::{Event as Said, PresenceState};
use banter_protocol::ids::{Epoch, FeatureName, Sequence};
use banter_protocol::request::BodyFormat;

use super::fake::{Pair, bodies, body, options};
use crate::event::{Event, Refused};
use crate::options::{Join, Options};

/// A code that this version does not name.
const UNKNOWN_CODE: u8 = 200;

/// The refusals that were told, of one kind each; the connection must have stayed.
fn refusals(pair: &mut Pair) -> Vec<(Refused, Option<ErrorCode>, String)> {
    let refusal = |event: Event| match event {
        Event::Refused { what, code, message, .. } => Some((what, code, message)),
        Event::Disconnected { why, .. } => panic!("{why}"),
        _ => None,
    };
    pair.events().into_iter().filter_map(refusal).collect()
}

#[test]
fn an_event_of_an_unknown_kind_is_passed_over() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.say("lobby", "ann");
    pair.server.send_bytes(&[5, 0, 0, 0, 99, 1, 0, 0, b'l', b'a', b't', b'e', b'r']);
    pair.server.say("lobby", "ann");
    pair.exchange();
    assert_eq!(bodies(&pair.events()).len(), 2);
}

#[test]
fn features_that_both_know_are_told_and_those_that_only_the_server_knows_are_passed_over() {
    let [edits, polls, roles] = ["edits", "polls", "roles"].map(|name| FeatureName::new(name).unwrap());
    let mut pair = Pair::new(Options { features: vec![edits.clone(), polls, roles.clone()], ..options(1) });
    pair.server.agreed = "roles\nlater\nedits\n";
    pair.settle();
    let agreed = |pair: &mut Pair| {
        let told = |event| if let Event::Connected { features, .. } = event { Some(features) } else { None };
        pair.events().into_iter().filter_map(told).collect::<Vec<_>>()
    };
    assert_eq!(agreed(&mut pair), [[edits, roles]]);
    assert_eq!(pair.server.said_features, "edits\npolls\nroles\n");

    pair.server.agreed = ""; // Another server, which knows less.
    pair.cut();
    pair.settle();
    assert_eq!(agreed(&mut pair), [vec![]], "each connection agrees anew");
}

#[test]
fn a_session_says_no_more_features_than_a_hello_may_hold() {
    let features = (0..100).map(|number| FeatureName::new(&format!("f{number}")).unwrap()).collect();
    let mut pair = Pair::new(Options { features, ..options(1) });
    pair.settle();
    assert!(pair.events().iter().any(|event| matches!(event, Event::Connected { .. })));
    assert_eq!(pair.server.said_features.lines().count(), 64);
}

#[test]
fn unknown_numbers_in_events_take_nothing_else_from_them() {
    let mut pair = Pair::joined(options(1), "lobby");
    let change = Some(("ann", PresenceState::Joined));
    pair.server.send_with_number(&Said::Presence { room: "lobby", change, count: 7 }, 3);
    pair.server.send_with_number(&Said::Signal { room: "lobby", user: "ann", body: body(b"1") }, 2);
    pair.server.say("lobby", "ann");
    pair.exchange();
    let events = pair.events();
    assert!(matches!(&events[0], Event::Presence { change: None, count: 7, .. }), "{events:?}");
    assert!(matches!(&events[1], Event::Signal { body, .. } if body.format == BodyFormat::Bytes), "{events:?}");
    assert!(matches!(&events[2], Event::Message(_)), "{events:?}");

    pair.server.send_with_number(&Said::Closing { code: ErrorCode::Draining, reconnect_after_ms: 3000 }, UNKNOWN_CODE);
    pair.exchange();
    pair.cut();
    let Some(Event::Disconnected { retry_in: Some(wait), .. }) = pair.events().pop() else { panic!() };
    assert!(wait >= Duration::from_secs(3), "whatever the reason, the time holds");
}

#[test]
fn an_unknown_code_refuses_the_post_with_its_text_and_nothing_else() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.refuse_next_post = Some((UNKNOWN_CODE, None));
    let ticket = pair.session.post("lobby", body(b"1")).unwrap();
    pair.session.post("lobby", body(b"2")).unwrap();
    pair.exchange();
    assert_eq!(refusals(&mut pair), [(Refused::Post(ticket), None, "no".into())]);
    assert_eq!((pair.server.stored("lobby"), pair.session.unacknowledged()), (1, 0));
}

#[test]
fn an_unknown_code_that_says_when_to_try_again_is_tried_again() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.refuse_next_post = Some((UNKNOWN_CODE, Some(700)));
    pair.session.post("lobby", body(b"1")).unwrap();
    pair.exchange();
    assert_eq!((pair.server.stored("lobby"), refusals(&mut pair)), (0, vec![]));
    pair.pass(Duration::from_millis(900));
    assert_eq!(pair.server.stored("lobby"), 1);
}

#[test]
fn an_unknown_code_refuses_the_join_and_nothing_else() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.refuse_next_join = Some((UNKNOWN_CODE, None));
    pair.session.join("other", Join::default()).unwrap();
    pair.exchange();
    let told = refusals(&mut pair);
    assert!(matches!(&told[..], [(Refused::Join(room), None, _)] if room.as_str() == "other"), "{told:?}");
    pair.server.say("lobby", "ann");
    pair.exchange();
    assert_eq!(bodies(&pair.events()).len(), 1);
}

#[test]
fn an_unknown_code_about_nothing_that_was_asked_is_told_and_the_connection_stays() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.refuse(None, UNKNOWN_CODE, None);
    pair.server.refuse(Some(1 << 40), UNKNOWN_CODE, None);
    pair.exchange();
    let told: Vec<Refused> = refusals(&mut pair).into_iter().map(|(what, ..)| what).collect();
    assert_eq!(told, [Refused::Session, Refused::Other]);
}

#[test]
fn an_unknown_code_for_hello_is_told_and_the_next_connection_asks_again() {
    let mut pair = Pair::new(options(1));
    pair.session.join("lobby", Join::default()).unwrap();
    pair.server.refuse_hello = Some(UNKNOWN_CODE);
    pair.settle();
    let events = pair.events();
    assert!(
        matches!(
            &events[..],
            [Event::Refused { what: Refused::Session, code: None, .. }, Event::Disconnected { retry_in: Some(_), .. }]
        ),
        "{events:?}"
    );
    pair.server.refuse_hello = None;
    pair.cut();
    pair.settle();
    assert!(pair.events().iter().any(|event| matches!(event, Event::Joined { .. })));
}

#[test]
fn a_place_that_holds_no_message_for_this_version_is_a_gap_of_one_and_the_messages_around_it_are_let_through() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.say("lobby", "ann");
    let (epoch, place) = (Epoch(1), Sequence(2));
    pair.server.say_to_nobody("lobby", "ann");
    (0..2).for_each(|_| pair.server.send(&Said::Gap { room: "lobby", epoch, from: place, to: place }));
    pair.server.say("lobby", "ann");
    pair.exchange();
    let events = pair.events();
    let is_gap = |event: &&Event| matches!(event, Event::Gap { from, to, .. } if (*from, *to) == (place, place));
    assert_eq!(events.iter().filter(is_gap).count(), 1, "{events:?}");
    let read: Vec<u64> = bodies(&events).iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!((read, pair.session.cursor("lobby").map(|it| it.sequence)), (vec![1, 3], Some(Sequence(3))));
    assert!(!events.iter().any(|event| matches!(event, Event::Disconnected { .. })), "{events:?}");
}
