//! The session against a fake server, both pure: cuts, lost answers, lost histories, limits.

mod asking;
mod cluster;
mod fake;
mod in_flight;
mod later_server;
mod nodes;
mod renewing;

use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event as Said;
use banter_protocol::ids::{Epoch, Sequence};
use banter_protocol::request::{Body, BodyFormat, JoinFrom};

use super::{Link, Session};
use crate::event::{Event, Refused, Why};
use crate::options::{Join, Options, WhenLost};
use crate::posts::PostRefusal;
use fake::{Pair, bodies, body, options};

fn from_the_start() -> Join {
    Join { from: JoinFrom::Last(1000), when_lost: WhenLost::Last(1000), ..Join::default() }
}

#[test]
fn a_cut_at_every_byte_of_the_stream_loses_and_repeats_nothing() {
    let whole = {
        let mut pair = Pair::new(options(1));
        pair.session.join("lobby", from_the_start()).unwrap();
        (0..5).for_each(|_| pair.server.say("lobby", "ann"));
        pair.connect();
        pair.exchange();
        pair.bytes_down
    };
    assert!(whole > 300);
    for cut in 0..whole {
        let mut pair = Pair::new(options(1));
        pair.session.join("lobby", from_the_start()).unwrap();
        (0..5).for_each(|_| pair.server.say("lobby", "ann"));
        pair.connect();
        pair.send_up();
        pair.send_down_up_to(cut);
        pair.cut();
        (0..5).for_each(|_| pair.server.say("lobby", "ann"));
        pair.settle();
        let read: Vec<u64> = bodies(&pair.events()).iter().map(|(sequence, _)| *sequence).collect();
        assert_eq!(read, (1..=10).collect::<Vec<_>>(), "cut at {cut}");
    }
}

#[test]
fn bytes_that_come_one_at_a_time_mean_the_same() {
    let mut pair = Pair::new(options(1));
    pair.session.join("lobby", from_the_start()).unwrap();
    (0..3).for_each(|_| pair.server.say("lobby", "ann"));
    pair.connect();
    pair.send_up();
    for byte in pair.server_bytes() {
        pair.session.handle_bytes(pair.now, &[byte]);
    }
    pair.send_up();
    pair.send_down();
    assert_eq!(bodies(&pair.events()).len(), 3);
}

#[test]
fn a_post_whose_answer_was_lost_is_sent_again_under_its_key_and_stored_once() {
    let mut pair = Pair::joined(options(1), "lobby");
    let ticket = pair.session.post("lobby", body(b"\"once\"")).unwrap();
    pair.send_up();
    assert_eq!(pair.server.stored("lobby"), 1);
    pair.cut(); // With the answer on its way.
    pair.settle();
    assert_eq!(pair.server.stored("lobby"), 1);
    let events = pair.events();
    let posted: Vec<_> =
        events.iter().filter_map(|e| if let Event::Posted(posted) = e { Some(posted) } else { None }).collect();
    assert_eq!(posted.len(), 1);
    assert_eq!((posted[0].ticket, posted[0].cursor.sequence, posted[0].duplicate), (ticket, Sequence(1), true));
    assert_eq!(bodies(&events), [(1, "\"once\"".into())]);
    assert_eq!(pair.session.unacknowledged(), 0);
}

#[test]
fn posts_that_never_arrived_are_sent_again_in_order() {
    let mut pair = Pair::joined(options(1), "lobby");
    for text in ["1", "2", "3"] {
        pair.session.post("lobby", body(text.as_bytes())).unwrap();
    }
    pair.drop_unsent();
    pair.cut();
    pair.session.post("lobby", body(b"4")).unwrap();
    pair.settle();
    let read: Vec<_> = bodies(&pair.events()).into_iter().map(|(_, body)| body).collect();
    assert_eq!(read, ["1", "2", "3", "4"]);
    assert_eq!(pair.server.stored("lobby"), 4);
}

#[test]
fn a_post_is_recognised_by_its_key_from_its_ticket_on() {
    let mut pair = Pair::joined(options(1), "lobby");
    let ticket = pair.session.post("lobby", body(b"1")).unwrap();
    let key = pair.session.key_of(ticket);
    pair.exchange();
    pair.server.say("lobby", "ann");
    pair.exchange();
    let events = pair.events();
    let keys: Vec<_> =
        events.iter().filter_map(|e| if let Event::Message(m) = e { Some(&m.key) } else { None }).collect();
    assert_eq!(keys, [&Some(key.clone()), &None]);
    assert!(events.iter().any(|e| matches!(e, Event::Posted(posted) if posted.key == key)), "{events:?}");
}

#[test]
fn two_sessions_of_a_user_do_not_share_keys() {
    let keys = |seed| {
        let mut pair = Pair::joined(options(seed), "lobby");
        (0..3).for_each(|_| assert!(pair.session.post("lobby", body(b"1")).is_ok()));
        pair.send_up();
        pair.server.keys("lobby")
    };
    let (first, again, other) = (keys(1), keys(1), keys(2));
    assert_eq!(first.len(), 3);
    assert_eq!(first, again);
    assert!(first.is_disjoint(&other));
}

#[test]
fn a_gap_is_told_and_counts_as_read() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.say("lobby", "ann");
    pair.settle();
    pair.cut();
    (0..9).for_each(|_| pair.server.say("lobby", "ann"));
    pair.server.forget_below("lobby", 6);
    pair.settle();
    let events = pair.events();
    let gap = events.iter().find(|event| matches!(event, Event::Gap { .. }));
    let Some(Event::Gap { from, to, .. }) = gap else { panic!("{events:?}") };
    assert_eq!((from.0, to.0), (2, 5));
    let read: Vec<u64> = bodies(&events).iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(read, [1, 6, 7, 8, 9, 10]);
}

#[test]
fn a_lost_history_is_told_and_read_as_configured() {
    for (when_lost, expected) in [(WhenLost::Now, vec![]), (WhenLost::Last(2), vec![2, 3])] {
        let mut pair = Pair::new(options(1));
        pair.session.join("lobby", Join { when_lost, ..Join::default() }).unwrap();
        pair.settle();
        pair.server.say("lobby", "ann");
        pair.settle();
        pair.events();
        pair.cut();
        pair.server.lose_history("lobby", Epoch(9));
        (0..3).for_each(|_| pair.server.say("lobby", "ann"));
        pair.settle();
        let events = pair.events();
        let lost = events.iter().any(|event| {
            matches!(event, Event::HistoryLost { cursor, code: ErrorCode::WrongEpoch, .. }
                if (cursor.epoch, cursor.sequence) == (Epoch(1), Sequence(1)))
        });
        assert!(lost, "{events:?}");
        assert_eq!(bodies(&events).iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), expected);
        pair.server.say("lobby", "ann");
        pair.settle();
        assert_eq!(bodies(&pair.events()), [(4, "\"4\"".into())]);
    }
}

#[test]
fn a_cursor_ahead_of_the_head_is_told_too() {
    let mut pair = Pair::joined(options(1), "lobby");
    (0..3).for_each(|_| pair.server.say("lobby", "ann"));
    pair.settle();
    pair.events();
    pair.cut();
    pair.server.lose_history("lobby", Epoch(1));
    pair.settle();
    assert!(pair.events().iter().any(|e| matches!(e, Event::HistoryLost { code: ErrorCode::CursorAhead, .. })));
}

#[test]
fn full_is_a_value_and_an_acknowledgement_makes_room() {
    let mut limited = options(1);
    (limited.posts_unacknowledged_max, limited.posts_unacknowledged_bytes_max) = (2, 10);
    let mut pair = Pair::joined(limited, "lobby");
    pair.session.post("lobby", body(b"1234567")).unwrap();
    let too_many_bytes = Err(PostRefusal::FullOfBytes { bytes_max: 10 });
    assert_eq!(pair.session.post("lobby", body(b"1234")), too_many_bytes);
    pair.session.post("lobby", body(b"123")).unwrap();
    assert_eq!(pair.session.post("lobby", body(b"")), Err(PostRefusal::FullOfPosts { posts_max: 2 }));
    pair.settle();
    assert!(pair.session.post("lobby", body(b"1234567890")).is_ok());
    assert_eq!(pair.session.post("elsewhere", body(b"1")), Err(PostRefusal::NotJoined));
}

#[test]
fn a_passing_refusal_holds_the_post_back_and_a_lasting_one_is_told() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.refuse_next_post = Some((ErrorCode::RateLimited as u8, Some(700)));
    pair.session.post("lobby", body(b"1")).unwrap();
    pair.exchange();
    assert_eq!(pair.server.stored("lobby"), 0);
    let wake = pair.session.poll_timeout().unwrap() - pair.now;
    assert!(wake >= Duration::from_millis(700) && wake <= Duration::from_millis(900), "{wake:?}");
    pair.session.post("lobby", body(b"2")).unwrap();
    pair.exchange();
    assert_eq!(pair.server.stored("lobby"), 0, "a later post must not overtake it");
    pair.pass(wake);
    assert_eq!(bodies(&pair.events()), [(1, "1".into()), (2, "2".into())]);

    pair.server.refuse_next_post = Some((ErrorCode::Forbidden as u8, None));
    let ticket = pair.session.post("lobby", body(b"3")).unwrap();
    pair.exchange();
    let refused = Refused::Post(ticket);
    assert!(pair.events().iter().any(|e| matches!(e, Event::Refused { what, .. } if *what == refused)));
    assert_eq!(pair.session.unacknowledged(), 0);
}

#[test]
fn a_join_that_is_refused_for_a_moment_is_asked_again_after_its_time_and_its_posts_with_it() {
    for code in [ErrorCode::RateLimited, ErrorCode::Overloaded] {
        let mut pair = Pair::joined(options(1), "lobby");
        pair.server.refuse_next_join = Some((code as u8, Some(700)));
        pair.session.join("other", Join::default()).unwrap();
        pair.session.post("other", body(b"1")).unwrap();
        pair.exchange();
        pair.pass(Duration::from_millis(699));
        assert_eq!((pair.server.stored("other"), pair.events()), (0, vec![]), "{code:?}");
        pair.pass(Duration::from_millis(1) + options(1).reconnect_first);
        assert_eq!(bodies(&pair.events()), [(1, "1".into())], "{code:?}");
    }
}

#[test]
fn a_post_above_the_servers_limit_is_refused_here_for_it_would_cost_the_connection_again_and_again() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.session.post("lobby", body(&[b'1'; 5000])).unwrap();
    pair.exchange();
    let told = pair.events();
    assert!(told.iter().any(|e| matches!(e, Event::Refused { code: Some(ErrorCode::FrameTooLarge), .. })), "{told:?}");
    assert_eq!(pair.server.stored("lobby"), 0);
}

#[test]
fn closing_says_when_to_come_back_and_is_obeyed() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.send(&Said::Closing { code: ErrorCode::Draining, reconnect_after_ms: 3000 });
    pair.exchange();
    pair.session.post("lobby", body(b"1")).unwrap();
    pair.exchange();
    assert_eq!(pair.server.stored("lobby"), 0, "a closing server would refuse it");
    pair.events();
    pair.cut();
    let Some(Event::Disconnected { retry_in: Some(wait), .. }) = pair.events().pop() else { panic!() };
    assert!(wait >= Duration::from_secs(3) && wait <= Duration::from_secs(3) + options(1).reconnect_first * 2);
    assert_eq!(pair.session.poll_link(pair.now + wait - Duration::from_nanos(1)), None);
    pair.settle();
    assert_eq!(pair.server.stored("lobby"), 1);
}

#[test]
fn waits_grow_stay_under_their_ceiling_and_differ_between_seeds() {
    let waits = |seed| -> Vec<Duration> {
        let mut session = Session::new(options(seed));
        let mut now = Duration::ZERO;
        (0..12)
            .map(|_| {
                assert_eq!(session.poll_link(now), Some(Link::Connect));
                session.handle_disconnected(now, "connection refused");
                let Some(Event::Disconnected { retry_in: Some(wait), .. }) = session.poll_event() else { panic!() };
                now += wait;
                wait
            })
            .collect()
    };
    let settings = options(0);
    for seed in 0..200 {
        for (failures, wait) in waits(seed).into_iter().enumerate() {
            assert!(wait <= (settings.reconnect_first * (1 << failures)).min(settings.reconnect_max));
        }
    }
    assert_ne!(waits(1), waits(2));
    assert!((0..200).map(|seed| waits(seed)[11]).max().unwrap() > settings.reconnect_max * 9 / 10);
}

#[test]
fn a_hole_from_the_server_costs_the_connection_and_a_repeat_is_dropped() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.say("lobby", "ann");
    pair.server.say_again("lobby", 1);
    pair.exchange();
    assert_eq!(bodies(&pair.events()).len(), 1);
    pair.server.say_to_nobody("lobby", "ann");
    pair.server.say("lobby", "ann");
    pair.exchange();
    assert_eq!(pair.session.poll_link(pair.now), Some(Link::Disconnect));
    let events = pair.events();
    assert!(
        matches!(&events[..], [Event::Disconnected { why: Why::OutOfOrder { sequence: 3, .. }, .. }]),
        "{events:?}"
    );
    pair.cut();
    pair.settle();
    assert_eq!(bodies(&pair.events()).iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn ones_own_posts_can_be_hidden_and_still_count() {
    let mut pair = Pair::new(options(1));
    pair.session.join("lobby", Join { echo: false, ..Join::default() }).unwrap();
    pair.settle();
    pair.session.post("lobby", body(b"1")).unwrap();
    pair.exchange();
    pair.server.say("lobby", "me"); // The same user, another session.
    pair.exchange();
    assert_eq!(bodies(&pair.events()), [(2, "\"2\"".into())]);
    assert_eq!(pair.session.cursor("lobby").unwrap().sequence, Sequence(2));
}

#[test]
fn a_keep_alive_is_answered_and_a_silent_server_is_asked_then_left() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.server.send(&Said::KeepAlive);
    pair.exchange();
    assert_eq!(pair.server.pings, 1);
    let silence = options(1).silence_timeout;
    pair.now += silence / 2;
    pair.session.handle_timeout(pair.now);
    pair.send_up();
    assert_eq!(pair.server.pings, 2);
    pair.now += silence / 2;
    pair.session.handle_timeout(pair.now);
    assert_eq!(pair.session.poll_link(pair.now), Some(Link::Disconnect));
    assert!(matches!(pair.events().pop(), Some(Event::Disconnected { why: Why::Silent, .. })));
}

#[test]
fn a_server_that_never_says_welcome_is_left_and_one_that_says_no_ends_the_session() {
    let mut session = Session::new(options(1));
    assert_eq!(session.poll_link(Duration::ZERO), Some(Link::Connect));
    session.handle_connected(Duration::ZERO);
    let deadline = session.poll_timeout().unwrap();
    session.handle_timeout(deadline);
    assert!(matches!(session.poll_event(), Some(Event::Disconnected { why: Why::NoWelcome, retry_in: Some(_) })));

    let mut pair = Pair::new(options(1));
    pair.server.refuse_hello = Some(ErrorCode::Unauthorized as u8);
    pair.session.join("lobby", Join::default()).unwrap();
    pair.connect();
    pair.exchange();
    let events = pair.events();
    assert!(matches!(
        &events[..],
        [
            Event::Refused { what: Refused::Session, code: Some(ErrorCode::Unauthorized), .. },
            Event::Disconnected { why: Why::Refused, retry_in: None }
        ]
    ));
    assert!(pair.session.is_ended());
    assert_eq!(pair.session.post("lobby", body(b"1")), Err(PostRefusal::Ended));
}

#[test]
fn leaving_refuses_what_was_not_acknowledged_and_joining_again_starts_anew() {
    let mut pair = Pair::joined(options(1), "lobby");
    let ticket = pair.session.post("lobby", body(b"1")).unwrap();
    pair.session.leave("lobby");
    pair.session.join("lobby", Join::default()).unwrap();
    pair.exchange();
    let events = pair.events();
    assert!(
        events.iter().any(|e| matches!(e, Event::Refused { what: Refused::Post(refused), .. } if *refused == ticket))
    );
    assert!(bodies(&events).is_empty(), "the message belongs to the time before: {events:?}");
    pair.server.say("lobby", "ann");
    pair.exchange();
    assert_eq!(bodies(&pair.events()), [(2, "\"2\"".into())]);
}

#[test]
fn broken_bytes_cost_the_connection_not_the_session() {
    let mut pair = Pair::joined(options(1), "lobby");
    pair.session.handle_bytes(pair.now, &[0xFF; 32]);
    assert!(matches!(pair.events().pop(), Some(Event::Disconnected { why: Why::Bytes(_), retry_in: Some(_) })));
    pair.session.handle_bytes(pair.now, &[0xFF; 32]);
    pair.cut();
    pair.settle();
    assert!(pair.events().iter().any(|event| matches!(event, Event::Joined { .. })));
}

#[test]
fn a_signal_goes_out_now_or_not_at_all() {
    let mut pair = Pair::new(Options { outbox_bytes_max: 100, ..options(1) });
    let signal = Body { format: BodyFormat::Json, bytes: b"\"typing\"" };
    assert_eq!(pair.session.signal("lobby", signal), Err(PostRefusal::NotJoined));
    pair.session.join("lobby", Join::default()).unwrap();
    assert_eq!(pair.session.signal("lobby", signal), Err(PostRefusal::NotConnected));
    pair.settle();
    assert_eq!(pair.session.signal("lobby", signal), Ok(()));
    let large = Body { format: BodyFormat::Bytes, bytes: &[0; 101] };
    assert_eq!(pair.session.signal("lobby", large), Err(PostRefusal::FullOfBytes { bytes_max: 100 }));
    pair.send_up();
    assert_eq!(pair.server.signals, 1);
}
