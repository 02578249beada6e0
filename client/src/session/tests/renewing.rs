//! Tokens that follow on others, and rooms that the server takes the session out of.

use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event as Said;

use super::fake::{Pair, body, options};
use crate::event::{Event, Refused, Why};
use crate::options::{Join, Options};

fn with_token() -> Options {
    Options { token: Some("first".to_owned()), ..options(1) }
}

#[test]
fn a_new_token_goes_to_the_server_and_to_every_later_hello() {
    let mut pair = Pair::joined(with_token(), "lobby");
    assert_eq!(pair.server.said_token.as_deref(), Some("first"));
    pair.session.renew("second".to_owned());
    pair.exchange();
    let renewed = Event::Renewed { expires_in: Duration::from_millis("second".len() as u64) };
    assert!(pair.events().contains(&renewed));
    pair.cut();
    pair.settle();
    assert_eq!(pair.server.said_token.as_deref(), Some("second"));
    // Also one that is given where there is no connection.
    pair.cut();
    pair.session.renew("third".to_owned());
    pair.settle();
    assert_eq!(pair.server.said_token.as_deref(), Some("third"));
}

#[test]
fn a_new_token_that_is_refused_is_forgotten_unless_that_passes() {
    for (code, said) in [(ErrorCode::Unauthorized, "first"), (ErrorCode::Unavailable, "second")] {
        let mut pair = Pair::joined(with_token(), "lobby");
        pair.server.refuse_next_ask = Some((code as u8, None));
        pair.session.renew("second".to_owned());
        pair.exchange();
        let is_told = |event: &Event| matches!(event, Event::Refused { what: Refused::Renew, code: Some(told), .. } if *told == code);
        assert!(pair.events().iter().any(is_told));
        pair.cut();
        pair.settle();
        assert_eq!(pair.server.said_token.as_deref(), Some(said));
    }
}

#[test]
fn that_a_token_ends_soon_is_told() {
    let mut pair = Pair::joined(with_token(), "lobby");
    pair.server.send(&Said::Expiring { in_ms: 60_000 });
    pair.exchange();
    assert!(pair.events().contains(&Event::Expiring { expires_in: Duration::from_secs(60) }));
}

#[test]
fn a_room_that_the_session_was_taken_out_of_is_read_on_no_later_connection() {
    let mut pair = Pair::joined(with_token(), "lobby");
    pair.drop_unsent();
    let ticket = pair.session.post("lobby", body(b"1")).unwrap();
    pair.server.send(&Said::Removed { room: "lobby", code: ErrorCode::Kicked });
    pair.server.send(&Said::Removed { room: "elsewhere", code: ErrorCode::Kicked });
    pair.send_down();
    let events = pair.events();
    let is_refused =
        |event: &Event| matches!(event, Event::Refused { what: Refused::Post(told), .. } if *told == ticket);
    assert!(events.iter().any(is_refused), "{events:?}");
    let removed: Vec<_> = events.iter().filter(|event| matches!(event, Event::Removed { .. })).collect();
    assert!(
        matches!(&removed[..], [Event::Removed { room, code: Some(ErrorCode::Kicked), cursor: Some(_) }] if room.as_str() == "lobby")
    );
    pair.cut();
    pair.settle();
    assert!(pair.session.cursor("lobby").is_none());
    assert!(!pair.events().iter().any(|event| matches!(event, Event::Joined { .. })));
}

#[test]
fn a_token_for_a_room_goes_along_with_every_join_of_it() {
    let mut pair = Pair::joined(with_token(), "lobby");
    assert_eq!(pair.server.said_room_token, None);
    pair.session.leave("lobby");
    pair.session.join_with_token("deal", Join::default(), "of the deal".to_owned()).unwrap();
    for _ in 0..2 {
        pair.settle();
        assert_eq!(pair.server.said_room_token.take().as_deref(), Some("of the deal"));
        pair.cut();
    }
}

#[test]
fn a_leave_that_comes_behind_the_removal_is_no_fault() {
    let mut pair = Pair::joined(with_token(), "lobby");
    pair.session.leave("lobby");
    pair.server.refuse_leaves = true;
    pair.exchange();
    assert!(!pair.events().iter().any(|event| matches!(event, Event::Refused { .. })));
}

#[test]
fn a_session_whose_token_was_revoked_or_whose_place_a_newer_one_took_ends() {
    for code in [ErrorCode::Revoked, ErrorCode::Replaced] {
        let mut pair = Pair::joined(with_token(), "lobby");
        pair.server.send(&Said::Error {
            id: None,
            code,
            message: "why",
            retry_after_ms: None,
            scope: None,
            reason: None,
        });
        pair.send_down();
        assert!(pair.session.is_ended(), "{code:?}");
        let events = pair.events();
        let is_told = |event: &Event| matches!(event, Event::Refused { what: Refused::Session, code: Some(told), .. } if *told == code);
        assert!(events.iter().any(is_told), "{events:?}");
        let is_over = |event: &Event| matches!(event, Event::Disconnected { why: Why::Refused, retry_in: None });
        assert!(events.iter().any(is_over), "{events:?}");
    }
}
