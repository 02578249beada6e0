//! Pages and lists of members: each ask is answered, refused, or told as unanswered.

use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event as Said;
use banter_protocol::ids::{Epoch, NameFault, Sequence};
use banter_protocol::native;
use banter_protocol::request::FetchFrom;

use super::fake::{Pair, body, options};
use crate::asks::{AskId, AskRefusal};
use crate::event::{Event, Members, Page, Refused, Why};
use crate::options::Options;

const FROM_THE_START: FetchFrom = FetchFrom::After(Sequence(0));

fn pages(pair: &mut Pair) -> Vec<Page> {
    pair.events().into_iter().filter_map(|e| if let Event::Page(page) = e { Some(page) } else { None }).collect()
}

fn places(page: &Page) -> Vec<u64> {
    page.messages.iter().map(|message| message.cursor.sequence.0).collect()
}

#[test]
fn pages_go_forth_and_back_through_the_history_of_a_room_that_is_not_joined() {
    let mut pair = Pair::joined(options(1), "lobby");
    (0..5).for_each(|_| pair.server.say("other", "ann"));
    let forth = pair.session.fetch("other", FROM_THE_START, Some(2)).unwrap();
    let back = pair.session.fetch("other", FetchFrom::Before(Sequence(6)), None).unwrap();
    pair.exchange();
    let pages = pages(&mut pair);
    assert_eq!(pages.iter().map(|page| (page.ask, page.more)).collect::<Vec<_>>(), [(forth, true), (back, false)]);
    assert_eq!((places(&pages[0]), places(&pages[1])), (vec![1, 2], vec![1, 2, 3, 4, 5]));
    assert_eq!((pages[0].room.as_str(), pages[0].epoch), ("other", Epoch(1)));
    assert_eq!((&*pages[0].messages[0].user, &pages[0].messages[0].key), ("ann", &None));
}

#[test]
fn a_page_tells_the_keys_of_ones_own_posts_and_moves_no_cursor() {
    let mut pair = Pair::joined(options(1), "lobby");
    let ticket = pair.session.post("lobby", body(b"1")).unwrap();
    pair.exchange();
    let read = pair.session.cursor("lobby");
    pair.session.fetch("lobby", FROM_THE_START, None).unwrap();
    pair.exchange();
    let pages = pages(&mut pair);
    assert_eq!(pages[0].messages[0].key, Some(pair.session.key_of(ticket)));
    assert_eq!(pair.session.cursor("lobby"), read);
}

#[test]
fn members_are_told_by_name() {
    let mut pair = Pair::joined(options(1), "lobby");
    let ask = pair.session.members("lobby").unwrap();
    pair.exchange();
    let users = vec!["me".to_owned(), "zoë".to_owned()];
    let Some(Event::Members(members)) = pair.events().pop() else { panic!() };
    assert_eq!(members, Members { ask, room: members.room.clone(), count: 2, users });
    assert_eq!(members.room.as_str(), "lobby");
}

#[test]
fn asks_are_bounded_and_an_answer_makes_room() {
    let mut pair = Pair::joined(Options { asks_in_flight_max: 2, ..options(1) }, "lobby");
    pair.session.members("lobby").unwrap();
    pair.session.fetch("lobby", FROM_THE_START, None).unwrap();
    assert_eq!(pair.session.members("lobby"), Err(AskRefusal::FullOfAsks { asks_max: 2 }));
    pair.exchange();
    assert!(pair.session.members("lobby").is_ok() && pair.session.members("lobby").is_ok());
    pair.server.refuse_next_ask = Some((ErrorCode::Forbidden as u8, None));
    pair.exchange();
    assert!(pair.session.members("lobby").is_ok() && pair.session.members("lobby").is_ok(), "a refusal answers too");
}

#[test]
fn an_ask_is_taken_only_when_there_is_a_connection_and_a_name() {
    let mut pair = Pair::new(options(1));
    assert_eq!(pair.session.members("lobby"), Err(AskRefusal::NotConnected));
    pair.connect();
    assert_eq!(pair.session.members("lobby"), Err(AskRefusal::NotConnected), "not welcome yet");
    pair.exchange();
    assert_eq!(pair.session.fetch("", FROM_THE_START, None), Err(AskRefusal::Name(NameFault::Empty)));
    assert!(pair.session.members("lobby").is_ok());
    pair.session.end();
    assert_eq!(pair.session.members("lobby"), Err(AskRefusal::Ended));
}

#[test]
fn a_refusal_is_told_with_the_time_to_ask_again() {
    let mut pair = Pair::joined(options(1), "lobby");
    for code in [ErrorCode::RateLimited, ErrorCode::Overloaded] {
        pair.server.refuse_next_ask = Some((code as u8, Some(250)));
        let ask = pair.session.fetch("lobby", FROM_THE_START, None).unwrap();
        pair.exchange();
        let retry_after = Some(Duration::from_millis(250));
        let refused = Event::Refused {
            what: Refused::Ask(ask),
            code: Some(code),
            message: "no".into(),
            retry_after,
            reason: None,
        };
        assert_eq!(pair.events(), [refused]);
    }
}

#[test]
fn what_a_cut_left_unanswered_is_told_and_not_asked_again() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.is_mute = true;
    let asked = [pair.session.members("lobby").unwrap(), pair.session.fetch("lobby", FROM_THE_START, None).unwrap()];
    pair.exchange();
    pair.cut();
    let events = pair.events();
    assert_eq!(events[..2], asked.map(Event::Unanswered), "{events:?}");
    assert!(matches!(events[2..], [Event::Disconnected { .. }]));
    pair.server.is_mute = false;
    pair.settle();
    assert!(pages(&mut pair).is_empty());
    assert!(pair.session.members("lobby").is_ok());
    // The end of the session is such a cut too.
    pair.session.end();
    assert!(pair.events().iter().any(|event| matches!(event, Event::Unanswered(_))));
}

#[test]
fn an_answer_that_nobody_waits_for_is_dropped() {
    let mut pair = Pair::joined(options(1), "lobby");
    for id in [None, Some(1 << 40)] {
        pair.server.send(&Said::Page { id, room: "lobby", epoch: Epoch(1), messages: &[], more: false });
        pair.server.send(&Said::Members { id, room: "lobby", count: 1, users: "" });
    }
    pair.exchange();
    assert_eq!(pair.events(), []);
}

/// A page of these bytes as the answer to an ask, and what became of it.
fn page_of(bytes: impl Fn(&Pair) -> Vec<u8>) -> (AskId, Vec<Event>) {
    let mut pair = Pair::joined(options(1), "lobby");
    (0..2).for_each(|_| pair.server.say_to_nobody("lobby", "ann"));
    pair.server.is_mute = true;
    let ask = pair.session.fetch("lobby", FROM_THE_START, None).unwrap();
    pair.exchange();
    let messages = bytes(&pair);
    pair.server.send(&Said::Page { id: Some(ask.0), room: "lobby", epoch: Epoch(1), messages: &messages, more: false });
    pair.exchange();
    (ask, pair.events())
}

#[test]
fn a_page_that_cannot_be_read_costs_the_connection_and_its_ask_is_told() {
    let torn = |pair: &Pair| pair.server.message_frame("lobby", 1).split_last().unwrap().1.to_vec();
    let no_message = |_: &Pair| {
        let mut bytes = Vec::new();
        native::write_event(&Said::KeepAlive, &mut bytes);
        bytes
    };
    for (ask, events) in [page_of(torn), page_of(no_message)] {
        let expected = Event::Unanswered(ask);
        assert!(
            matches!(&events[..], [unanswered, Event::Disconnected { why: Why::Bytes(_), .. }] if *unanswered == expected),
            "{events:?}"
        );
    }
}

#[test]
fn what_a_later_server_puts_between_the_messages_of_a_page_is_passed_over() {
    let (_, events) = page_of(|pair| {
        let between = [1, 0, 0, 0, 99, 1, 0, 0, 7];
        [&pair.server.message_frame("lobby", 1)[..], &between, &pair.server.message_frame("lobby", 2)].concat()
    });
    let [Event::Page(page)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(places(page), [1, 2]);
}

#[test]
fn places_of_a_page_without_a_message_are_told_as_gaps_and_also_a_page_of_nothing_else_says_how_far_it_goes() {
    let gap = |from, to| {
        let mut bytes = Vec::new();
        let (from, to) = (Sequence(from), Sequence(to));
        native::write_event(&Said::Gap { room: "lobby", epoch: Epoch(1), from, to }, &mut bytes);
        bytes
    };
    let (_, events) =
        page_of(|pair| [&pair.server.message_frame("lobby", 1)[..], &gap(2, 2), &gap(3, u64::MAX)].concat());
    let [Event::Page(page)] = &events[..] else { panic!("{events:?}") };
    let expected = [Sequence(2)..=Sequence(2), Sequence(3)..=Sequence(u64::MAX)];
    assert_eq!((places(page), &page.gaps[..]), (vec![1], &expected[..]));
    let (_, events) = page_of(|_| gap(1, 2));
    let [Event::Page(page)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((places(page), &page.gaps[..]), (vec![], &[Sequence(1)..=Sequence(2)][..]));
}
