//! Which keyed posts of a room are known: a window over its newest keyed posts, so that a repeated post is told from a
//! new one.

use std::collections::VecDeque;

use banter_protocol::ids::{PostKey, Sequence, UserName};
use rustc_hash::FxHashMap;

/// The first 128 bits of BLAKE3 over user and key. At that width a collision is not a case to handle.
type Fingerprint = u128;

/// What a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownPost {
    /// The first post's place.
    pub sequence: Sequence,
    /// Its time.
    pub time_ms: u64,
    /// The first 64 bits of BLAKE3 over its body.
    body: u64,
}

/// The window.
#[derive(Debug, Default)]
pub struct Dedupe {
    known: FxHashMap<Fingerprint, KnownPost>,
    order: VecDeque<Fingerprint>,
}

/// What the window says of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The key is new.
    New,
    /// The same post was taken before.
    Duplicate(KnownPost),
    /// The key was used for another body.
    Conflict,
}

impl Dedupe {
    /// Judges a post and does not remember it.
    pub fn judge(&self, user: &UserName, key: &PostKey, body: &[u8]) -> Verdict {
        match self.known.get(&fingerprint(user, key)) {
            None => Verdict::New,
            Some(known) if known.body == body_hash(body) => Verdict::Duplicate(*known),
            Some(_) => Verdict::Conflict,
        }
    }

    /// Remembers a post, and forgets the oldest above the limit.
    pub fn remember(
        &mut self,
        user: &UserName,
        key: &PostKey,
        body: &[u8],
        sequence: Sequence,
        time_ms: u64,
        keys_max: u32,
    ) {
        let fingerprint = fingerprint(user, key);
        if self.known.insert(fingerprint, KnownPost { sequence, time_ms, body: body_hash(body) }).is_none() {
            self.order.push_back(fingerprint);
        }
        while self.order.len() > keys_max as usize {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// Keys remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

fn fingerprint(user: &UserName, key: &PostKey) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    // No name holds a control character, so the line feed keeps the two apart.
    hasher.update(user.as_str().as_bytes()).update(b"\n").update(key.as_str().as_bytes());
    let digest = hasher.finalize();
    digest.as_bytes()[..16].iter().fold(0, |number, &byte| (number << 8) | u128::from(byte))
}

fn body_hash(body: &[u8]) -> u64 {
    blake3::hash(body).as_bytes()[..8].iter().fold(0, |number, &byte| (number << 8) | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    fn key(text: &str) -> PostKey {
        PostKey::new(text).unwrap()
    }

    #[test]
    fn a_key_belongs_to_its_user_and_its_body() {
        let mut dedupe = Dedupe::default();
        assert_eq!(dedupe.judge(&user("ann"), &key("k"), b"1"), Verdict::New);
        dedupe.remember(&user("ann"), &key("k"), b"1", Sequence(7), 70, 10);
        let Verdict::Duplicate(known) = dedupe.judge(&user("ann"), &key("k"), b"1") else { panic!() };
        assert_eq!((known.sequence, known.time_ms), (Sequence(7), 70));
        assert_eq!(dedupe.judge(&user("ann"), &key("k"), b"2"), Verdict::Conflict);
        assert_eq!(dedupe.judge(&user("bob"), &key("k"), b"1"), Verdict::New);
        assert_eq!(dedupe.judge(&user("an"), &key("nk"), b"1"), Verdict::New);
    }

    #[test]
    fn the_window_holds_the_newest_keys_and_no_more() {
        let mut dedupe = Dedupe::default();
        for place in 1..=5u64 {
            dedupe.remember(&user("ann"), &key(&place.to_string()), b"", Sequence(place), 0, 3);
        }
        assert_eq!((dedupe.len(), dedupe.known.len()), (3, 3));
        assert_eq!(dedupe.judge(&user("ann"), &key("2"), b""), Verdict::New);
        assert!(matches!(dedupe.judge(&user("ann"), &key("3"), b""), Verdict::Duplicate(_)));
    }
}
