//! A judge that never finds anything proves nothing: each fault, made by hand, is found, and nothing else is.

use super::*;
use serde_json::json;

const EPOCH: u64 = 7;

fn ledger() -> Ledger {
    Ledger::new(1, Bodies { seed: 0xabc, bytes_max: 900 })
}

fn post(id: u64, answer: Answer) -> Post {
    let (room, writer, keyed, repeated) = (0, id as usize % 2, id.is_multiple_of(3), false);
    Post { id, room, writer, keyed, answer, repeated, sent_at: Instant::now(), answered_at: None }
}

fn posted(id: u64, sequence: u64) -> Post {
    post(id, Answer::Posted(Place { epoch: EPOCH, sequence }))
}

fn message(ledger: &Ledger, id: u64, sequence: u64) -> Value {
    let mut message = json!({"sequence": sequence, "time_ms": 1, "user": writer_name(id as usize % 2), "body": ledger.bodies.text(id)});
    if id.is_multiple_of(3) {
        message["key"] = key_of(id).into();
    }
    message
}

/// Reads a history of these posts, and gives the faults that are found.
fn read(ledger: &mut Ledger, epoch: u64, ids: &[u64]) -> Vec<Fault> {
    let messages: Vec<Value> = ids.iter().zip(1..).map(|(&id, sequence)| message(ledger, id, sequence)).collect();
    while ledger.take_page(0, &json!({"epoch": epoch, "messages": messages})) {}
    ledger.check_head(0, ids.len() as u64);
    ledger.judge();
    ledger.faults().map(|(fault, _)| *fault).collect()
}

#[test]
fn a_history_that_holds_everything_has_no_fault() {
    let mut ledger = ledger();
    // 3 was never answered and landed, 5 was never answered and did not, 6 was refused.
    let refused = Answer::Refused("log_full".to_owned());
    let sent = vec![posted(1, 1), posted(2, 2), post(3, Answer::Missing), posted(4, 4), post(5, Answer::Missing)];
    ledger.record(sent);
    ledger.record(vec![post(6, refused)]);
    ledger.record_shown(vec![Shown { room: 0, place: Place { epoch: EPOCH, sequence: 1 }, id: 1 }]);
    assert_eq!(read(&mut ledger, EPOCH, &[1, 2, 3, 4]), []);
    ledger.read_again();
    assert_eq!(read(&mut ledger, EPOCH, &[1, 2, 3, 4]), []);
}

#[test]
fn what_was_promised_behind_a_fault_that_nobody_could_notice_is_excused_and_nothing_before() {
    let mut ledger = ledger();
    let answered = |id| Post { answered_at: Some(Instant::now()), ..posted(id, id) };
    let shown = |id| Shown { room: 0, place: Place { epoch: EPOCH, sequence: id }, id };
    let before = answered(1);
    let since = Instant::now();
    ledger.record(vec![before, answered(2)]);
    ledger.record_shown(vec![shown(1), shown(2)]);
    ledger.excuse(since);
    assert_eq!(read(&mut ledger, EPOCH, &[]), [Fault::Lost]);
}

#[test]
fn a_lost_end_is_found_also_where_it_was_read_before() {
    let mut ledger = ledger();
    ledger.record(vec![posted(1, 1), posted(2, 2)]);
    assert_eq!(read(&mut ledger, EPOCH, &[1, 2]), []);
    ledger.check_head(0, 1);
    assert_eq!(read(&mut ledger, EPOCH, &[1]), [Fault::Lost, Fault::Lost], "the head, and the post");
}

#[test]
fn a_post_that_is_not_there_is_lost_and_what_follows_it_moved() {
    let mut ledger = ledger();
    ledger.record(vec![posted(1, 1), posted(2, 2), posted(3, 3)]);
    assert_eq!(read(&mut ledger, EPOCH, &[1, 3]), [Fault::Lost, Fault::Reordered]);
}

#[test]
fn a_body_that_is_there_twice_is_repeated() {
    let mut ledger = ledger();
    ledger.record(vec![posted(1, 1), post(3, Answer::Missing)]);
    assert_eq!(read(&mut ledger, EPOCH, &[1, 3, 3]), [Fault::Repeated]);
}

#[test]
fn posts_of_a_writer_that_swapped_are_reordered_even_if_none_was_answered() {
    let mut ledger = ledger();
    ledger.record(vec![post(2, Answer::Missing), post(4, Answer::Missing)]);
    assert_eq!(read(&mut ledger, EPOCH, &[4, 2]), [Fault::Reordered]);
}

#[test]
fn a_message_that_was_shown_and_is_not_there_is_found() {
    let mut ledger = ledger();
    ledger.record(vec![post(1, Answer::Missing), post(2, Answer::Missing)]);
    ledger.record_shown(vec![Shown { room: 0, place: Place { epoch: EPOCH, sequence: 1 }, id: 1 }]);
    assert_eq!(read(&mut ledger, EPOCH, &[2]), [Fault::ShownAndLost]);
}

#[test]
fn a_new_epoch_loses_everything_that_was_acknowledged_in_the_old_one() {
    let mut ledger = ledger();
    ledger.record(vec![posted(1, 1)]);
    assert_eq!(read(&mut ledger, EPOCH, &[1]), []);
    assert_eq!(read(&mut ledger, EPOCH + 1, &[]), [Fault::Lost, Fault::EpochChanged]);
}

#[test]
fn other_bytes_and_other_names_are_found() {
    let mut ledger = ledger();
    ledger.record(vec![post(1, Answer::Missing), post(2, Answer::Missing)]);
    let mut other = message(&ledger, 1, 1);
    other["user"] = writer_name(0).into();
    ledger.take_page(0, &json!({"epoch": EPOCH, "messages": [other]}));
    let mut torn = message(&ledger, 2, 2);
    torn["body"] = format!("{}0", ledger.bodies.text(2)).into();
    ledger.take_page(0, &json!({"epoch": EPOCH, "messages": [torn]}));
    assert_eq!(ledger.count(Fault::Altered), 2);
}

#[test]
fn what_is_shown_twice_or_with_a_hole_is_found() {
    let mut ledger = ledger();
    let shown = |sequence| Shown { room: 0, place: Place { epoch: EPOCH, sequence }, id: sequence };
    ledger.record_shown(vec![shown(1), shown(1), shown(3)]);
    assert_eq!([ledger.count(Fault::Repeated), ledger.count(Fault::Reordered)], [1, 1]);
}

#[test]
fn bodies_tell_their_post_and_only_whole() {
    let bodies = Bodies { seed: 5, bytes_max: 2_000 };
    for id in 1..500 {
        let text = bodies.text(id);
        assert!(text.len() <= 2_000 && bodies.id(&text) == Some(id), "{text}");
        assert_eq!(bodies.id(&text[..text.len() - 1]), None);
    }
    assert_eq!(bodies.id(&Bodies { seed: 6, ..bodies }.text(1)), None);
}

#[test]
fn a_time_that_goes_back_is_out_of_order() {
    let mut ledger = ledger();
    ledger.record((1..=2).map(|id| posted(id, id)).collect());
    let mut messages = [message(&ledger, 1, 1), message(&ledger, 2, 2)];
    messages[0]["time_ms"] = 2.into();
    ledger.take_page(0, &json!({"epoch": EPOCH, "messages": messages}));
    assert_eq!(ledger.count(Fault::Reordered), 1);
}

#[test]
fn one_place_for_two_posts_is_found_in_acknowledgements_and_in_what_was_shown() {
    let mut ledger = ledger();
    ledger.record(vec![posted(1, 1), posted(2, 2)]);
    ledger.judge_owners();
    assert_eq!(ledger.count(Fault::TwoOwners), 0);
    ledger.record(vec![posted(3, 2)]);
    let place = Place { epoch: EPOCH, sequence: 1 };
    ledger.record_shown(vec![Shown { room: 0, place, id: 1 }]);
    ledger.record_shown(vec![Shown { room: 0, place, id: 2 }]);
    // Of another history it is another place.
    ledger.record_shown(vec![Shown { room: 0, place: Place { epoch: EPOCH + 1, sequence: 1 }, id: 3 }]);
    ledger.judge_owners();
    assert_eq!(ledger.count(Fault::TwoOwners), 2);
}
