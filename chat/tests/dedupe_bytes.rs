//! What a remembered key takes of memory, as the kernel counts it. Alone in its program, so that nothing else grows.

use std::fs;

use banter_chat::dedupe::{Dedupe, KEY_BYTES};
use banter_log::key::{Fingerprint, KeyedPost, KnownKey};
use banter_protocol::ids::Sequence;

const KEYS: u64 = 300_000;
const PAGE_BYTES: u64 = 4_096;

fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").expect("Linux says what a process takes");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number of pages") * PAGE_BYTES
}

/// That many keys of that many users, who post in turn.
fn filled(users: u64) -> Dedupe {
    let mut dedupe = Dedupe::new(256, u64::MAX);
    for sequence in 1..=KEYS {
        let fingerprint = Fingerprint::of(&format!("user {}", sequence % users), &sequence.to_string());
        let post = KeyedPost { sequence, time_ms: sequence, fingerprint, body: sequence as u32 };
        dedupe.remember(0, KnownKey { post, clock_ms: sequence });
        dedupe.is_history(0, Sequence(sequence), sequence);
    }
    dedupe
}

#[test]
fn a_key_takes_about_the_bytes_that_are_counted_for_it() {
    let mut all = Vec::new();
    for users in [KEYS / 250, KEYS / 20, KEYS] {
        let before = resident_bytes();
        all.push(filled(users));
        let dedupe = &all[all.len() - 1];
        assert_eq!((dedupe.keys(), dedupe.bytes()), (KEYS, KEYS * KEY_BYTES));
        let taken = (resident_bytes() - before) / KEYS;
        println!("{taken} bytes a key of {users} users");
        assert!((KEY_BYTES * 8 / 10..=KEY_BYTES * 13 / 10).contains(&taken), "{taken} bytes a key of {users} users");
    }
}
