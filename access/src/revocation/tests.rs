//! Revocations against a slow model, in any order, at their limits, and as lines of a file.

use proptest::prelude::*;

use super::*;
use crate::proof::tests::claims;

fn user(name: &str) -> Subject {
    Subject::User(UserName::new(name).unwrap())
}

fn session(id: &str) -> Subject {
    Subject::Session(id.into())
}

fn token(id: &str) -> Subject {
    Subject::Token(id.into())
}

fn address(range: &str) -> Subject {
    Subject::Address(range.parse().unwrap())
}

fn revocation(subject: Subject, issued_before_seconds: Option<u64>, until_seconds: u64) -> Revocation {
    Revocation::new(subject, issued_before_seconds, until_seconds).unwrap()
}

fn proof(name: &str, issued_seconds: u64) -> Proof {
    let mut claims = claims(name, &[]);
    claims.issued_seconds = issued_seconds;
    claims.session = Some(format!("s-{name}").into());
    claims.token_id = Some(format!("t-{name}").into());
    Proof::new(claims).unwrap()
}

fn of(list: &[Revocation]) -> Revocations {
    let mut revocations = Revocations::default();
    for revocation in list {
        assert_eq!(revocations.add(revocation, 0), Ok(true), "{revocation:?}");
    }
    revocations
}

#[test]
fn a_proof_is_revoked_by_its_user_its_session_and_its_own_id() {
    let ann = proof("ann", 100);
    for (subject, by) in [
        (user("ann"), Some(RevokedBy::User)),
        (session("s-ann"), Some(RevokedBy::Session)),
        (token("t-ann"), Some(RevokedBy::Token)),
        (user("anna"), None),
        (session("t-ann"), None),
        (token("s-ann"), None),
        (user("s-ann"), None),
    ] {
        assert_eq!(of(&[revocation(subject.clone(), None, 1_000)]).judge(&ann, 500), by, "{subject:?}");
    }
    assert_eq!(Revocations::default().judge(&ann, 500), None);
}

#[test]
fn a_token_that_was_made_later_is_fine() {
    let revocations = of(&[revocation(user("ann"), Some(100), 1_000)]);
    assert_eq!(revocations.judge(&proof("ann", 99), 500), Some(RevokedBy::User));
    assert_eq!(revocations.judge(&proof("ann", 100), 500), Some(RevokedBy::User), "in that very second");
    assert_eq!(revocations.judge(&proof("ann", 101), 500), None);
}

#[test]
fn a_revocation_ends_at_its_end() {
    let revocations = of(&[revocation(user("ann"), None, 1_000), revocation(address("10.0.0.0/8"), None, 1_000)]);
    let there = "10.1.2.3".parse().unwrap();
    assert!(revocations.judge(&proof("ann", 0), 999).is_some() && revocations.is_address_revoked(there, 999));
    assert!(revocations.judge(&proof("ann", 0), 1_000).is_none() && !revocations.is_address_revoked(there, 1_000));
}

#[test]
fn who_showed_no_token_is_revoked_by_name_whenever_it_came_and_until_the_end() {
    let set = of(&[revocation(user("~gabc"), Some(500), 2_000), revocation(token("~gdef"), None, 2_000)]);
    assert!(set.is_user_revoked("~gabc", 1_999) && !set.is_user_revoked("~gabc", 2_000));
    assert!(!set.is_user_revoked("~gdef", 1_000) && !set.is_user_revoked("~gab", 1_000));
}

#[test]
fn an_address_is_revoked_by_any_range_that_holds_it() {
    let revocations = of(&[
        revocation(address("10.0.0.0/8"), None, 1_000),
        revocation(address("192.0.2.7"), None, 1_000),
        revocation(address("2001:db8::/32"), None, 1_000),
    ]);
    for (text, revoked) in [
        ("10.9.9.9", true),
        ("::ffff:10.9.9.9", true),
        ("11.0.0.0", false),
        ("192.0.2.7", true),
        ("192.0.2.8", false),
        ("2001:db8::1", true),
        ("2001:db9::1", false),
        ("::1", false),
    ] {
        assert_eq!(revocations.is_address_revoked(text.parse().unwrap(), 500), revoked, "{text}");
    }
    let all = of(&[revocation(address("0.0.0.0/0"), None, 1_000)]);
    assert!(
        all.is_address_revoked("9.9.9.9".parse().unwrap(), 0) && !all.is_address_revoked("::1".parse().unwrap(), 0)
    );
}

#[test]
fn a_later_one_never_makes_an_earlier_one_weaker() {
    let (forever, until_then) = (revocation(user("ann"), Some(100), 9_000), revocation(user("ann"), None, 1_000));
    for order in [[&forever, &until_then], [&until_then, &forever]] {
        let mut revocations = Revocations::default();
        for revocation in order {
            assert_eq!(revocations.add(revocation, 0), Ok(true));
        }
        assert_eq!(revocations.len(), 2);
        assert!(
            revocations.judge(&proof("ann", 500), 999).is_some()
                && revocations.judge(&proof("ann", 500), 1_000).is_none()
        );
        assert!(revocations.judge(&proof("ann", 100), 8_999).is_some());
        assert_eq!(revocations.add(&revocation(user("ann"), Some(50), 900), 0), Ok(false), "is included");
        assert_eq!(revocations.add(&revocation(user("ann"), None, 9_000), 0), Ok(true), "includes both");
        assert_eq!(revocations.len(), 1);
    }
}

#[test]
fn what_is_lifted_is_gone() {
    let mut revocations = of(&[
        revocation(user("ann"), None, 1_000),
        revocation(user("ann"), Some(5), 2_000),
        revocation(address("10.0.0.0/8"), None, 1_000),
    ]);
    assert_eq!((revocations.lift(&user("ann")), revocations.lift(&user("ann"))), (2, 0));
    assert_eq!(revocations.judge(&proof("ann", 0), 0), None);
    assert_eq!(revocations.lift(&address("10.0.0.0/9")), 0, "exactly that range");
    assert_eq!(revocations.lift(&address("10.0.0.0/8")), 1);
    assert!(revocations.is_empty() && revocations.prefixes.is_empty() && revocations.users.is_empty());
}

#[test]
fn when_full_new_ones_are_refused_and_the_old_hold() {
    let mut revocations = Revocations::new(2);
    assert_eq!(revocations.add(&revocation(user("a"), Some(5), 1_000), 0), Ok(true));
    assert_eq!(revocations.add(&revocation(user("b"), None, 1_000), 0), Ok(true));
    let full = revocations.add(&revocation(user("c"), None, 1_000), 0);
    assert_eq!(full, Err(RevocationsFull { revocations_max: 2 }));
    assert!(revocations.judge(&proof("a", 1), 0).is_some() && revocations.judge(&proof("c", 1), 0).is_none());
    assert_eq!(revocations.add(&revocation(user("a"), None, 2_000), 0), Ok(true), "takes the place of its own");
    assert_eq!(revocations.add(&revocation(user("a"), None, 2_000), 0), Ok(false));
    assert_eq!(revocations.add(&revocation(user("c"), None, 2_000), 1_000), Ok(true), "one has ended");
    assert_eq!(revocations.len(), 2);
}

#[test]
fn ended_ones_are_forgotten_in_slices() {
    let mut revocations = Revocations::default();
    for id in 0..10 {
        assert_eq!(revocations.add(&revocation(session(&id.to_string()), None, 100 + id), 0), Ok(true));
    }
    assert_eq!(revocations.forget_ended(99, 100), 0);
    assert_eq!(revocations.forget_ended(105, 4), 4);
    assert_eq!(revocations.forget_ended(105, 4), 2);
    assert_eq!(revocations.len(), 4);
    assert_eq!(revocations.add(&revocation(user("late"), None, 105), 105), Ok(false), "has ended before it began");
    assert_eq!(revocations.forget_ended(u64::MAX, usize::MAX), 4);
    assert!(revocations.sessions.is_empty());
}

#[test]
fn what_can_be_no_revocation_is_refused() {
    let fault = |subject, issued, until| Revocation::new(subject, issued, until).unwrap_err();
    for id in ["", "a\n", &"i".repeat(256)] {
        assert_eq!(fault(session(id), None, 1), RevocationFault::Id);
        assert_eq!(fault(token(id), None, 1), RevocationFault::Id);
    }
    assert_eq!(fault(user("ann"), None, 1_800_000_000_000), RevocationFault::BeyondTime);
    assert_eq!(fault(user("ann"), Some(u64::MAX), 1), RevocationFault::BeyondTime);
    assert_eq!(fault(address("::1"), Some(1), 1), RevocationFault::AddressIssued);
    let kept = revocation(user("ann"), Some(7), 9);
    assert_eq!((kept.issued_before_seconds(), kept.until_seconds(), kept.subject()), (Some(7), 9, &user("ann")));
}

#[test]
fn records_are_lines_that_never_change() {
    let line = Record::Revoke(revocation(user("ann"), Some(1_700_000_000), 1_700_086_400)).encode();
    let text = r#"{"format":1,"issued_before_seconds":1700000000,"revoke":{"user":"ann"},"until_seconds":1700086400}"#;
    assert_eq!(line, format!("{:08x} {text}\n", crc32c::crc32c(text.as_bytes())));
    let line = Record::Lift(address("192.0.2.0/24")).encode();
    assert!(line.ends_with(" {\"format\":1,\"lift\":{\"address\":\"192.0.2.0/24\"}}\n"), "{line}");
}

#[test]
fn the_longest_record_fits_its_line() {
    for text in ["\"", "\\", "ü"] {
        let id = text.repeat(255 / text.len());
        let line = Record::Revoke(revocation(token(&id), Some(TIME_SECONDS_MAX), TIME_SECONDS_MAX)).encode();
        assert!(line.len() <= RECORD_BYTES_MAX, "{}", line.len());
        assert!(Record::decode(line.trim_end().as_bytes()).is_ok());
    }
}

fn summed(text: &str) -> String {
    format!("{:08x} {text}", crc32c::crc32c(text.as_bytes()))
}

#[test]
fn a_line_that_is_no_record_is_refused_with_its_reason() {
    let fault = |line: &str| Record::decode(line.as_bytes()).unwrap_err();
    for line in ["", "00000000", "00000000 {}", "0 {}"] {
        assert_eq!(fault(line), RecordFault::Sum, "{line}");
    }
    let long = summed(&format!(r#"{{"format":1,"x":"{}"}}"#, "x".repeat(1_024)));
    assert_eq!(fault(&long), RecordFault::Sum);
    assert_eq!(fault(&summed(r#"{"format":2,"anything":[]}"#)), RecordFault::Format);
    for text in [
        "",
        "{}",
        r#"{"format":1}"#,
        r#"{"format":0,"lift":{"user":"a"}}"#,
        r#"{"format":"1","lift":{"user":"a"}}"#,
        r#"{"format":1,"lift":{"user":""}}"#,
        r#"{"format":1,"lift":{"user":"a","session":"b"}}"#,
        r#"{"format":1,"lift":{"room":"a"}}"#,
        r#"{"format":1,"lift":{"address":"10.0.0.1/8"}}"#,
        r#"{"format":1,"lift":{"user":"a"},"until_seconds":7}"#,
        r#"{"format":1,"lift":{"user":"a"},"more":7}"#,
        r#"{"format":1,"lift":{"user":"a"},"revoke":{"user":"a"},"until_seconds":7}"#,
        r#"{"format":1,"revoke":{"user":"a"}}"#,
        r#"{"format":1,"revoke":{"user":"a"},"until_seconds":"7"}"#,
        r#"{"format":1,"revoke":{"user":"a"},"until_seconds":7.0}"#,
        r#"{"format":1,"revoke":{"address":"::1"},"issued_before_seconds":1,"until_seconds":7}"#,
        r#"{"format":1,"revoke":"ann","until_seconds":7}"#,
    ] {
        assert_eq!(fault(&summed(text)), RecordFault::Content, "{text}");
    }
}

#[test]
fn a_file_ends_where_its_last_line_was_torn() {
    let lines = [
        Record::Revoke(revocation(user("ann"), None, 9)).encode(),
        Record::Lift(user("ann")).encode(),
        Record::Revoke(revocation(session("s"), None, 9)).encode(),
    ];
    let file = lines.concat();
    let whole = read_file(file.as_bytes()).unwrap();
    assert_eq!((whole.records.len(), whole.good_bytes), (3, file.len()));
    for cut in 0..file.len() {
        let records = read_file(&file.as_bytes()[..cut]).unwrap();
        assert!(
            records.good_bytes <= cut && lines.concat().as_bytes()[..records.good_bytes].ends_with(b"\n")
                || cut < lines[0].len()
        );
        assert_eq!(records.records, whole.records[..records.records.len()]);
    }
    let mut damaged = file.clone().into_bytes();
    damaged[3] ^= 1;
    assert_eq!(read_file(&damaged), Err(DamagedLine { line: 1, fault: RecordFault::Sum }));
    let later = format!("{}{}\n", lines[0], summed(r#"{"format":2}"#));
    assert_eq!(read_file(later.as_bytes()), Err(DamagedLine { line: 2, fault: RecordFault::Format }), "not torn");
    let mut newest = file.clone().into_bytes();
    let at = newest.len() - 5;
    newest[at] ^= 1;
    assert!(read_file(&newest).is_err(), "a line with its end was acknowledged");
    newest[at] = 0;
    assert!(read_file(&newest).unwrap().good_bytes < newest.len(), "a part of it was never written");
    assert_eq!(read_file(b""), Ok(Records { records: vec![], good_bytes: 0 }));
}

fn subjects() -> impl Strategy<Value = Subject> {
    let range = prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "::/0", "2001:db8::/32"]);
    prop_oneof![
        "[ab]".prop_map(|name| user(&name)),
        "s-[ab]".prop_map(|id| session(&id)),
        "t-[ab]".prop_map(|id| token(&id)),
        range.prop_map(address),
    ]
}

fn revocations() -> impl Strategy<Value = Revocation> {
    (subjects(), prop::option::of(0_u64..20), 1_u64..20).prop_map(|(subject, issued, until)| {
        let issued = if matches!(subject, Subject::Address(_)) { None } else { issued };
        revocation(subject, issued, until)
    })
}

proptest! {
    #[test]
    fn the_set_equals_a_list_that_is_looked_through(
        list in prop::collection::vec(revocations(), 0..20), now in 0_u64..20, issued in 0_u64..20, turn in 0_usize..20,
    ) {
        let mut set = Revocations::default();
        for revocation in &list {
            set.add(revocation, 0).unwrap();
        }
        let mut turned = list.clone();
        turned.rotate_left(turn % list.len().max(1));
        let mut other = Revocations::default();
        for revocation in turned.iter().rev() {
            other.add(revocation, 0).unwrap();
        }
        set.forget_ended(now, 3);
        for name in ["a", "b"] {
            for place in ["10.1.2.3", "10.9.9.9", "2001:db8::1", "9.9.9.9"] {
                let (proof, place) = (proof(name, issued), place.parse().unwrap());
                let slow = list.iter().any(|revocation| revocation.ends(Some(&proof), place, now));
                let fast = |set: &Revocations| set.judge(&proof, now).is_some() || set.is_address_revoked(place, now);
                prop_assert_eq!(fast(&set), slow);
                prop_assert_eq!(fast(&other), slow, "whatever the order");
                let slow = list.iter().any(|revocation| revocation.ends(None, place, now));
                prop_assert_eq!(set.is_address_revoked(place, now), slow);
            }
        }
        // What is told of the set makes the same set.
        let again = of(&set.iter().collect::<Vec<_>>());
        prop_assert_eq!(again.ends, set.ends);
    }

    #[test]
    fn a_record_comes_back_and_a_changed_one_never_as_another(
        revocation in revocations(), lift: bool, at in 0_usize..200, bit in 0_u8..8,
    ) {
        let record = if lift { Record::Lift(revocation.subject().clone()) } else { Record::Revoke(revocation) };
        let line = record.encode();
        let mut bytes = line.trim_end().as_bytes().to_vec();
        prop_assert_eq!(Record::decode(&bytes), Ok(record));
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(Record::decode(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_decoded_without_a_panic(bytes: Vec<u8>, text in ".*") {
        let _ = Record::decode(&bytes);
        let _ = Record::decode(summed(&text).as_bytes());
        let _ = read_file(&bytes);
        let _ = read_file(format!("{}\n", summed(&text)).as_bytes());
    }
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

/// What a full table costs: `cargo test --release -p banter-access --lib cost -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn the_cost_of_a_full_table() {
    type Numbered = fn(usize) -> Subject;
    let kinds: [(&str, Numbered); 2] = [
        ("sessions of 36 bytes", |n| session(&format!("2f1d3a5c-7b9e-4d21-8c43-{n:012}"))),
        ("IPv4 addresses", |n| address(&std::net::Ipv4Addr::from_bits(n as u32 * 977).to_string())),
    ];
    for (kind, subject) in kinds {
        let before = resident_bytes();
        let list: Vec<_> =
            (0..REVOCATIONS_MAX).map(|n| revocation(subject(n), None, 1_000 + n as u64 % 86_400)).collect();
        let (listed, mut revocations) = (resident_bytes(), Revocations::default());
        for revocation in &list {
            assert_eq!(revocations.add(revocation, 0), Ok(true));
        }
        let bytes = (resident_bytes() - before) / REVOCATIONS_MAX as u64;
        let own = (resident_bytes() - listed) / REVOCATIONS_MAX as u64;
        let (proof, place) = (proof("ann", 500), "10.1.2.3".parse().unwrap());
        let begun = std::time::Instant::now();
        for now in 0..100_000 {
            std::hint::black_box(revocations.judge(std::hint::black_box(&proof), now));
            std::hint::black_box(revocations.is_address_revoked(place, now));
        }
        let took = begun.elapsed().as_secs_f64() * 1e9 / 1e5;
        // Kept, so that the next is not given the same memory.
        std::mem::forget((list, revocations));
        println!("{kind}: {own} bytes each, {bytes} with the names; a proof and an address judged in {took:.0} ns");
    }
}
