//! An address that answers, hangs, lies and goes away, on a clock that the test moves.

use super::*;
use crate::mint::SigningKey;

const HOUR_MS: u64 = 60 * 60 * 1_000;

/// A set of one key, which differs by its name.
fn set(kid: &str) -> String {
    const DER: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let key = SigningKey::from_pkcs8(&[&DER[..], &[7; 32]].concat()).expect("Ed25519").with_kid(kid);
    format!("{{\"keys\":[{}]}}", key.public_jwk().expect("a key").expect("a public one"))
}

/// One that was fetched at 0.
fn fetched(max_age_ms: Option<u64>) -> Jwks {
    let mut jwks = Jwks::new(0);
    assert_eq!(jwks.tick(0), Due { fetch: true, changed: false });
    assert_eq!(jwks.fetched(&set("a"), max_age_ms, 0), Ok(true));
    jwks
}

#[test]
fn a_set_is_fetched_at_once_and_once_at_a_time() {
    let mut jwks = Jwks::new(5);
    assert_eq!((jwks.next_due(), jwks.text()), (Some(5), None));
    assert!(jwks.tick(5).fetch);
    assert_eq!((jwks.tick(6).fetch, jwks.next_due()), (false, None));
    assert_eq!(jwks.unknown_kid(100_000), UnknownKid::UnderWay);
    assert!(!jwks.tick(100_000).fetch);
    assert_eq!(jwks.fetched(&set("a"), None, 100_000), Ok(true));
    assert_eq!(jwks.text(), Some(&*set("a")));
}

#[test]
fn it_is_fetched_again_when_the_address_says_so_within_bounds() {
    for (max_age_ms, due_ms) in
        [(None, HOUR_MS), (Some(0), MAX_AGE_MS_MIN), (Some(2 * HOUR_MS), 2 * HOUR_MS), (Some(u64::MAX), MAX_AGE_MS_MAX)]
    {
        let mut jwks = fetched(max_age_ms);
        assert_eq!(jwks.next_due(), Some(due_ms));
        assert!(!jwks.tick(due_ms - 1).fetch);
        assert!(jwks.tick(due_ms).fetch);
    }
}

#[test]
fn the_same_set_again_changes_nothing_and_holds_anew() {
    let mut jwks = fetched(None);
    assert!(jwks.tick(HOUR_MS).fetch);
    assert_eq!(jwks.fetched(&set("a"), None, HOUR_MS), Ok(false));
    assert!(jwks.tick(2 * HOUR_MS).fetch);
    assert_eq!(jwks.fetched(&set("b"), None, 2 * HOUR_MS), Ok(true));
    assert!(!jwks.tick(HELD_MS_MAX).changed, "it holds from when it was fetched last");
}

#[test]
fn an_address_that_went_away_is_asked_less_often_and_what_it_said_holds_for_a_day() {
    let mut jwks = fetched(None);
    let (mut now_ms, mut waits) = (HOUR_MS, Vec::new());
    while now_ms < HELD_MS_MAX - RETRY_MS_MAX {
        assert!(jwks.tick(now_ms).fetch);
        jwks.failed(now_ms);
        assert!(jwks.text().is_some());
        let due_ms = jwks.next_due().expect("a try");
        waits.push(due_ms - now_ms);
        now_ms = due_ms;
    }
    assert_eq!(waits[..8], [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    assert!(!jwks.tick(HELD_MS_MAX - 1).changed);
    jwks.failed(HELD_MS_MAX - 1);
    assert_eq!(jwks.next_due(), Some(HELD_MS_MAX));
    assert!(jwks.tick(HELD_MS_MAX).changed);
    assert_eq!(jwks.text(), None);
    // It comes back as if nothing had been.
    assert_eq!(jwks.fetched(&set("a"), None, HELD_MS_MAX), Ok(true));
    assert!(jwks.tick(HELD_MS_MAX + HOUR_MS).fetch);
    jwks.failed(HELD_MS_MAX + HOUR_MS);
    assert_eq!(jwks.next_due(), Some(HELD_MS_MAX + HOUR_MS + RETRY_MS_MIN));
}

#[test]
fn a_fetch_that_hangs_does_not_keep_old_keys_alive() {
    let mut jwks = fetched(None);
    assert!(jwks.tick(HOUR_MS).fetch);
    assert_eq!(jwks.next_due(), Some(HELD_MS_MAX));
    assert_eq!(jwks.tick(HELD_MS_MAX), Due { fetch: false, changed: true });
}

#[test]
fn an_unknown_kid_fetches_once_in_half_a_minute_whatever_it_says() {
    let mut jwks = fetched(None);
    assert_eq!(jwks.unknown_kid(UNKNOWN_KID_INTERVAL_MS - 1), UnknownKid::Refuse);
    assert_eq!(jwks.unknown_kid(UNKNOWN_KID_INTERVAL_MS), UnknownKid::Fetch);
    assert!(jwks.tick(UNKNOWN_KID_INTERVAL_MS).fetch);
    jwks.fetched(&set("b"), None, UNKNOWN_KID_INTERVAL_MS + 50).expect("a set");
    let fetches = (UNKNOWN_KID_INTERVAL_MS + 50..10 * UNKNOWN_KID_INTERVAL_MS).step_by(10).filter(|&now_ms| {
        let is_due = jwks.unknown_kid(now_ms) == UnknownKid::Fetch && jwks.tick(now_ms).fetch;
        if is_due {
            jwks.failed(now_ms);
        }
        is_due
    });
    assert_eq!(fetches.count(), 8, "from one to ten half minutes");
}

#[test]
fn what_is_no_set_or_has_no_usable_key_takes_nothing_away() {
    let mut jwks = fetched(None);
    for (text, fault) in [
        ("<html>", KeyFault::Form),
        ("{}", KeyFault::Form),
        ("{\"keys\":[]}", KeyFault::NoneUsable),
        // A secret never comes from an address.
        (
            "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}]}",
            KeyFault::NoneUsable,
        ),
    ] {
        assert_eq!(jwks.fetched(text, None, HOUR_MS), Err(fault), "{text}");
        jwks.failed(HOUR_MS);
        assert_eq!(jwks.text(), Some(&*set("a")));
    }
    assert_eq!(jwks.next_due(), Some(HOUR_MS + 8 * RETRY_MS_MIN), "each of them was a failure");
}

#[test]
fn what_an_earlier_run_fetched_holds_for_what_is_left_of_its_day() {
    for (age_ms, until_ms) in
        [(0, Some(HELD_MS_MAX)), (23 * HOUR_MS, Some(HOUR_MS)), (HELD_MS_MAX, None), (u64::MAX, None)]
    {
        let mut jwks = Jwks::new(0);
        jwks.keep(&set("a"), age_ms, 0).expect("a set");
        assert_eq!(jwks.text().is_some(), until_ms.is_some(), "{age_ms}");
        assert!(jwks.tick(0).fetch, "it is fetched anew all the same");
        jwks.failed(0);
        if let Some(until_ms) = until_ms {
            assert!(!jwks.tick(until_ms - 1).changed && jwks.tick(until_ms).changed, "{age_ms}");
        }
    }
    assert_eq!(Jwks::new(0).keep("{}", 0, 0), Err(KeyFault::Form));
}

#[test]
fn max_age_is_found_among_other_words() {
    for (text, age_ms) in [
        ("", None),
        ("public, max-age=3600", Some(3_600_000)),
        ("MAX-AGE=\"5\" , must-revalidate", Some(5_000)),
        ("s-maxage=7", None),
        ("max-age=x", None),
        ("max-age=-1", None),
        ("max-age=18446744073709551615", Some(u64::MAX)),
        ("no-store, max-age=9", Some(0)),
        ("no-cache", Some(0)),
    ] {
        assert_eq!(max_age_ms(text), age_ms, "{text}");
    }
}
