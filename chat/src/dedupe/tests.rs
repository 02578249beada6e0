//! What pushes a key out of the window, and what does not.

use banter_log::key::body_hash;

use super::*;

const ROOM: usize = 3;
const PLENTY: u64 = 1 << 30;

fn post(user: &str, key: &str, body: &[u8], sequence: u64) -> KeyedPost {
    KeyedPost { sequence, time_ms: sequence * 10, fingerprint: Fingerprint::of(user, key), body: body_hash(body) }
}

fn keep_in(dedupe: &mut Dedupe, slot: usize, post: KeyedPost) {
    dedupe.remember(slot, KnownKey { post, clock_ms: post.time_ms });
    dedupe.is_history(slot, Sequence(post.sequence), post.time_ms);
    check(dedupe);
}

fn keep(dedupe: &mut Dedupe, post: KeyedPost) {
    keep_in(dedupe, ROOM, post);
}

fn judge(dedupe: &Dedupe, user: &str, key: &str, body: &[u8], since_ms: u64) -> Verdict {
    dedupe.judge(ROOM, Fingerprint::of(user, key), body_hash(body), since_ms)
}

fn knows(dedupe: &Dedupe, user: &str, key: &str) -> bool {
    judge(dedupe, user, key, b"", 0) != Verdict::New
}

/// The tables say the same.
fn check(dedupe: &Dedupe) {
    let (mut keys, mut history_keys, mut oldest) = (0, 0, BTreeSet::new());
    for (&slot, room) in &dedupe.rooms {
        assert!(!room.places.is_empty() && room.known.len() == room.places.len());
        assert!(room.places.iter().all(|(sequence, key)| room.known[key].sequence == *sequence));
        let authors: u32 = room.authors.values().sum();
        assert_eq!(authors as usize, room.by_author.len());
        assert!(room.authors.values().all(|&of_author| (1..=dedupe.keys_per_author_max).contains(&of_author)));
        assert_eq!(room.by_author.len(), room.places.range(..=room.history).count());
        (keys, history_keys) = (keys + room.places.len(), history_keys + room.by_author.len());
        oldest.extend(room.oldest_ms().map(|oldest_ms| (oldest_ms, slot)));
    }
    let leaving: usize = dedupe.leaving.iter().map(|room| room.places.len()).sum();
    assert_eq!((dedupe.keys, dedupe.history_keys), (keys + leaving, history_keys));
    assert_eq!(dedupe.oldest, oldest);
}

#[test]
fn a_key_belongs_to_its_user_and_its_body() {
    let mut dedupe = Dedupe::new(10, PLENTY);
    assert_eq!(judge(&dedupe, "ann", "k", b"1", 0), Verdict::New);
    let first = post("ann", "k", b"1", 7);
    keep(&mut dedupe, first);
    assert_eq!(judge(&dedupe, "ann", "k", b"1", 0), Verdict::Duplicate(first));
    assert_eq!(judge(&dedupe, "ann", "k", b"2", 0), Verdict::Conflict);
    assert_eq!(judge(&dedupe, "bob", "k", b"1", 0), Verdict::New);
    assert_eq!(judge(&dedupe, "an", "nk", b"1", 0), Verdict::New);
    assert_eq!(dedupe.judge(ROOM + 1, first.fingerprint, first.body, 0), Verdict::New, "another room");
}

#[test]
fn a_busy_author_pushes_out_nobody_elses_keys() {
    let mut dedupe = Dedupe::new(3, PLENTY);
    keep(&mut dedupe, post("bob", "first", b"", 1));
    (2..=500u64).for_each(|place| keep(&mut dedupe, post("ann", &place.to_string(), b"", place)));
    assert!(knows(&dedupe, "bob", "first"));
    let known: Vec<u64> = (2..=500).filter(|place| knows(&dedupe, "ann", &place.to_string())).collect();
    assert_eq!((known, dedupe.keys()), (vec![498, 499, 500], 4), "and of ann's the newest are known");
}

#[test]
fn keys_grow_old_and_may_then_be_used_again() {
    let mut dedupe = Dedupe::new(3, PLENTY);
    keep(&mut dedupe, post("ann", "k", b"1", 1));
    assert!(matches!(judge(&dedupe, "ann", "k", b"1", 10), Verdict::Duplicate(_)));
    assert_eq!(judge(&dedupe, "ann", "k", b"1", 11), Verdict::New);
    keep(&mut dedupe, post("ann", "k", b"2", 2));
    keep(&mut dedupe, post("ann", "l", b"2", 3));
    assert!(matches!(judge(&dedupe, "ann", "k", b"2", 11), Verdict::Duplicate(known) if known.sequence == 2));
    assert_eq!(dedupe.keys(), 2);
}

#[test]
fn old_keys_go_without_another_post_and_so_many_at_a_time() {
    let mut dedupe = Dedupe::new(99, PLENTY);
    for slot in [5, 1, 9] {
        (1..=10u64).for_each(|place| keep_in(&mut dedupe, slot, post("ann", &place.to_string(), b"", place)));
    }
    assert!(!dedupe.expire(10, 100), "nothing is old");
    assert_eq!((dedupe.keys(), dedupe.oldest_ms()), (30, Some(10)));
    assert!(dedupe.expire(51, 4));
    assert_eq!(dedupe.keys(), 26);
    assert!(!dedupe.expire(51, 100));
    check(&dedupe);
    assert_eq!((dedupe.keys(), dedupe.oldest_ms()), (15, Some(60)));
    assert!(!dedupe.expire(u64::MAX, 100));
    assert_eq!((dedupe.keys(), dedupe.rooms.len(), dedupe.oldest_ms()), (0, 0, None));
}

#[test]
fn above_the_bytes_of_the_core_its_oldest_keys_go_and_are_counted() {
    let mut dedupe = Dedupe::new(99, 10 * KEY_BYTES + KEY_BYTES - 1);
    (1..=9u64).for_each(|place| keep_in(&mut dedupe, 1, post("ann", &place.to_string(), b"", 100 + place)));
    keep(&mut dedupe, post("bob", "old", b"", 1));
    assert_eq!((dedupe.keys(), dedupe.bytes(), dedupe.early_evictions()), (10, 10 * KEY_BYTES, 0));
    (10..=12u64).for_each(|place| keep_in(&mut dedupe, 1, post("ann", &place.to_string(), b"", 100 + place)));
    assert!(!knows(&dedupe, "bob", "old"), "the oldest of the core, though another room grew");
    assert_eq!((dedupe.keys(), dedupe.early_evictions(), dedupe.oldest_ms()), (10, 3, Some(1_030)));
}

#[test]
fn refused_posts_are_forgotten_and_have_pushed_nobody_out() {
    let mut dedupe = Dedupe::new(2, 2 * KEY_BYTES);
    (1..=2u64).for_each(|place| keep(&mut dedupe, post("ann", &place.to_string(), b"", place)));
    for place in 3..=9u64 {
        let post = post("ann", &place.to_string(), b"", place);
        dedupe.remember(ROOM, KnownKey { post, clock_ms: post.time_ms });
        check(&dedupe);
    }
    dedupe.forget_behind(ROOM, Sequence(2));
    check(&dedupe);
    assert_eq!((dedupe.keys(), dedupe.early_evictions()), (2, 0));
    assert!(!knows(&dedupe, "ann", "3") && knows(&dedupe, "ann", "1"));
    keep(&mut dedupe, post("ann", "3", b"", 3));
    assert!(dedupe.keys() == 2 && !knows(&dedupe, "ann", "1"));
}

#[test]
fn a_post_is_known_while_it_may_be_refused_and_grows_old_from_when_it_no_longer_may() {
    let mut dedupe = Dedupe::new(2, PLENTY);
    let open = post("ann", "k", b"", 4);
    dedupe.remember(ROOM, KnownKey { post: open, clock_ms: open.time_ms });
    assert!(!dedupe.expire(5_000, 10));
    assert_eq!(judge(&dedupe, "ann", "k", b"", 5_000), Verdict::Duplicate(open), "the disk took its time");
    dedupe.is_history(ROOM, Sequence(4), 5_000);
    assert_eq!(judge(&dedupe, "ann", "k", b"", 5_000), Verdict::Duplicate(open));
    assert_eq!(judge(&dedupe, "ann", "k", b"", 5_001), Verdict::New);
}

#[test]
fn the_keys_of_a_forgotten_room_are_unknown_at_once_and_go_bit_by_bit() {
    let mut dedupe = Dedupe::new(99, 10 * KEY_BYTES);
    (1..=10u64).for_each(|place| keep(&mut dedupe, post("ann", &place.to_string(), b"", place)));
    dedupe.forget_room(ROOM);
    dedupe.forget_room(ROOM);
    check(&dedupe);
    assert!(!knows(&dedupe, "ann", "5") && dedupe.oldest_ms().is_none());
    assert!(dedupe.expire(0, 4));
    assert_eq!(dedupe.keys(), 6);
    keep(&mut dedupe, post("ann", "5", b"", 1));
    assert_eq!(dedupe.early_evictions(), 0, "what is leaving pushes nobody out");
    assert!(!dedupe.expire(0, 100));
    assert_eq!(dedupe.keys(), 1);
}
