//! The keys of the backend's interface: which program may do what, known by a digest alone.
//!
//! Invariants:
//! - A key itself is never kept: only its SHA-256 is, which is enough to know it again and not to make it. A key is random
//!   and long, so that its digest needs no salt and no stretching.
//! - Every key is compared, in constant time, so that an answer's time tells nothing of them.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use crate::pattern::Pattern;

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;
/// Keys at a time, so that comparing them all stays cheap.
pub const API_KEYS_MAX: usize = 64;
/// Longest key that is looked at, in bytes.
pub const API_KEY_BYTES_MAX: usize = 256;
/// Characters of a key's name at most.
pub const API_KEY_NAME_CHARS_MAX: usize = 64;

/// What a program may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApiRights(u8);

/// Each by its name, in the order in which they are told.
const NAMED: [(&str, ApiRights); 4] = [
    ("post", ApiRights::POST),
    ("read", ApiRights::READ),
    ("moderate", ApiRights::MODERATE),
    ("operate", ApiRights::OPERATE),
];

impl ApiRights {
    /// Nothing.
    pub const NONE: ApiRights = ApiRights(0);
    /// `post`: to say something in a room, as any user.
    pub const POST: ApiRights = ApiRights(1);
    /// `read`: histories, rooms and members.
    pub const READ: ApiRights = ApiRights(1 << 1);
    /// `moderate`: to take users out of rooms.
    pub const MODERATE: ApiRights = ApiRights(1 << 2);
    /// `operate`: revocations, connections of users, reload, drain, metrics.
    pub const OPERATE: ApiRights = ApiRights(1 << 3);
    /// Everything.
    pub const ALL: ApiRights = ApiRights(0b1111);

    /// The right of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMED.iter().find(|(known, _)| *known == name).map(|&(_, rights)| rights)
    }

    /// Whether all of those are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        ApiRights(self.0 | other.0)
    }

    /// The names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMED.iter().filter(move |(_, right)| self.contains(*right)).map(|&(name, _)| name)
    }
}

/// A key as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// What people call it; stands in log lines.
    pub name: String,
    /// SHA-256 of the key's text.
    pub digest: [u8; DIGEST_BYTES],
    /// What it may do.
    pub rights: ApiRights,
    /// In which rooms; `*` is all of them.
    pub rooms: Vec<Pattern>,
}

impl ApiKey {
    /// Whether it is for that room.
    pub fn covers(&self, room: &str) -> bool {
        self.rooms.iter().any(|pattern| pattern.matches(room, ""))
    }

    /// Whether it is for every room there could be: what asks about users and not about one room needs that.
    pub fn covers_all(&self) -> bool {
        self.rooms.iter().any(|pattern| pattern.as_str() == "*")
    }
}

/// The digest by which a key is known.
pub fn digest_of(key: &str) -> [u8; DIGEST_BYTES] {
    let mut bytes = [0; DIGEST_BYTES];
    bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    bytes
}

/// Which of the keys that is, by its place; none: it is no key.
pub fn find(keys: &[ApiKey], text: &str) -> Option<usize> {
    if text.len() > API_KEY_BYTES_MAX {
        return None;
    }
    let digest = digest_of(text);
    let is_it = |key: &ApiKey| verify_slices_are_equal(&key.digest, &digest).is_ok();
    // All of them, also behind the one that it is.
    keys.iter().enumerate().fold(None, |found, (index, key)| if is_it(key) { Some(index) } else { found })
}

/// A digest as 64 hexadecimal digits say it.
pub fn parse_digest(text: &str) -> Option<[u8; DIGEST_BYTES]> {
    let mut digest = [0; DIGEST_BYTES];
    if text.len() != 2 * DIGEST_BYTES || !text.is_ascii() {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(digest)
}

/// A digest as hexadecimal digits.
pub fn write_digest(digest: &[u8; DIGEST_BYTES]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, text: &str, rooms: &[&str]) -> ApiKey {
        let rooms = rooms.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect();
        ApiKey { name: name.into(), digest: digest_of(text), rights: ApiRights::POST, rooms }
    }

    #[test]
    fn a_key_is_known_by_its_digest_and_no_other_text_is_it() {
        let keys = [key("shop", "secret-1", &["*"]), key("game", "secret-2", &["game-*"])];
        assert_eq!((find(&keys, "secret-1"), find(&keys, "secret-2")), (Some(0), Some(1)));
        for wrong in ["", "secret-", "secret-3", &write_digest(&keys[0].digest), &"x".repeat(300)] {
            assert_eq!(find(&keys, wrong), None, "{wrong}");
        }
        assert_eq!(find(&[], "secret-1"), None);
    }

    #[test]
    fn a_digest_is_what_sha256sum_says() {
        // printf abc | sha256sum
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(write_digest(&digest_of("abc")), abc);
        assert_eq!(parse_digest(abc), Some(digest_of("abc")));
        for wrong in ["", "ba78", &format!("{abc}0"), &abc.replace('b', "g"), &abc.replacen("ba", "+1", 1)] {
            assert_eq!(parse_digest(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_is_for_its_rooms_alone() {
        let game = key("game", "x", &["game-*", "lobby"]);
        assert!(game.covers("game-7") && game.covers("lobby") && !game.covers("staff") && !game.covers_all());
        assert!(key("all", "x", &["*"]).covers_all());
    }
}
