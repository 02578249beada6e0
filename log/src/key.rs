//! What the log remembers of a keyed post, so that a repeated one is told from a new one without reading its message.

use banter_protocol::event::Message;

/// A keyed post as the index and the dedupe window know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedPost {
    /// Its place.
    pub sequence: u64,
    /// Its time, milliseconds since 1970.
    pub time_ms: u64,
    /// User and key.
    pub fingerprint: Fingerprint,
    /// What stands for its body as the client sent it: [`body_hash`].
    pub body: u32,
}

/// A keyed post, with its time on the clock of this run, by which it grows old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// As it was posted.
    pub post: KeyedPost,
    /// Its time on the clock of this run ([`crate::runs::Runs`]), milliseconds since 1970.
    pub clock_ms: u64,
}

/// A user and a key of theirs: the first 64 bits of BLAKE3 over the user, which name the author, and the first 64 over
/// user and key.
///
/// 64 bits are enough for the key: it can be taken for another only where the author is the same, and a room remembers no
/// more than `dedupe_keys_per_author_max` of an author, so that with 256 of them a new key meets one by chance once in
/// 2^56 posts. They are enough for the author: two users who share those 64 bits share the number of keys that are
/// remembered, and each other's keys only where these 64 bits are the same too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub u128);

impl Fingerprint {
    /// Of a user's key.
    pub fn of(user: &str, key: &str) -> Self {
        let author = first_bytes(&blake3::hash(user.as_bytes()), 8);
        let mut hasher = blake3::Hasher::new();
        // No name holds a control character, so the line feed keeps the two apart.
        hasher.update(user.as_bytes()).update(b"\n").update(key.as_bytes());
        Fingerprint(author << 64 | first_bytes(&hasher.finalize(), 8))
    }

    /// What stands for the user.
    pub fn author(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

/// What stands for a body: its bytes as the client sent them, so that it is the same when it is made again from the log.
/// 32 bits are enough: they are looked at only where the same author used the same key.
pub fn body_hash(body: &[u8]) -> u32 {
    first_bytes(&blake3::hash(body), 4) as u32
}

impl KeyedPost {
    /// Of a message, if it has a key, and of the hash of the body that was sent, if that was another.
    pub fn of(message: &Message<'_>, sent_body_hash: Option<u64>) -> Option<Self> {
        Some(KeyedPost {
            sequence: message.sequence.0,
            time_ms: message.time_ms,
            fingerprint: Fingerprint::of(message.user, message.key?),
            body: sent_body_hash.map_or_else(|| body_hash(message.body.bytes), |hash| hash as u32),
        })
    }
}

fn first_bytes(digest: &blake3::Hash, bytes: usize) -> u128 {
    digest.as_bytes()[..bytes].iter().fold(0, |number, &byte| (number << 8) | u128::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_user_share_their_author_and_nothing_else() {
        let (one, two) = (Fingerprint::of("ann", "k1"), Fingerprint::of("ann", "k2"));
        assert_eq!(one.author(), two.author());
        assert_ne!(one, two);
        assert_ne!(one.author(), Fingerprint::of("bob", "k1").author());
        assert_ne!(Fingerprint::of("an", "nk").0 as u64, Fingerprint::of("ann", "k").0 as u64);
    }
}
