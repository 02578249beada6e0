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
    /// The first 64 bits of BLAKE3 over its body.
    pub body: u64,
}

/// The first 128 bits of BLAKE3 over user and key. At that width a collision is not a case to handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub u128);

impl Fingerprint {
    /// Of a user's key.
    pub fn of(user: &str, key: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        // No name holds a control character, so the line feed keeps the two apart.
        hasher.update(user.as_bytes()).update(b"\n").update(key.as_bytes());
        Fingerprint(first_bytes(&hasher.finalize(), 16))
    }
}

/// What stands for a body.
pub fn body_hash(body: &[u8]) -> u64 {
    first_bytes(&blake3::hash(body), 8) as u64
}

impl KeyedPost {
    /// Of a message, if it has a key.
    pub fn of(message: &Message<'_>) -> Option<Self> {
        Some(KeyedPost {
            sequence: message.sequence.0,
            time_ms: message.time_ms,
            fingerprint: Fingerprint::of(message.user, message.key?),
            body: body_hash(message.body.bytes),
        })
    }
}

fn first_bytes(digest: &blake3::Hash, bytes: usize) -> u128 {
    digest.as_bytes()[..bytes].iter().fold(0, |number, &byte| (number << 8) | u128::from(byte))
}
