//! The names and numbers that every part of Banter agrees on, each a type of its own.

use std::fmt;
use std::sync::Arc;

use crate::features::FEATURE_BYTES_MAX;

/// Longest user name, in bytes of UTF-8.
pub const USER_BYTES_MAX: usize = 64;
/// Longest room name, in bytes of UTF-8.
pub const ROOM_BYTES_MAX: usize = 128;
/// Longest client key of a post, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 64;
/// Largest number that a JSON client written in JavaScript reads exactly (2^53 - 1); ids and epochs stay below it.
pub const JSON_INTEGER_MAX: u64 = (1 << 53) - 1;

/// The first 128 bits of BLAKE3 of a room's name: what placement, lanes and the log know a room by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId(pub u128);

impl RoomId {
    /// The id of the room of that name.
    pub fn of(name: &str) -> Self {
        let digest = blake3::hash(name.as_bytes());
        let mut first = [0; 16];
        first.copy_from_slice(&digest.as_bytes()[..16]);
        RoomId(u128::from_le_bytes(first))
    }
}

impl fmt::Debug for RoomId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RoomId({:032x})", self.0)
    }
}

/// Which history of a room a sequence belongs to; opaque to clients, below 2^53.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// A place in a room: dense, the first message is 1, an empty room's head is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The place behind this one; the largest number, which only a peer's cursor can hold, stays where it is.
    #[must_use]
    pub fn next(self) -> Self {
        Sequence(self.0.saturating_add(1))
    }

    /// The place before this one; 0 has none before it and stays 0.
    #[must_use]
    pub fn previous(self) -> Self {
        Sequence(self.0.saturating_sub(1))
    }
}

/// How far somebody has read a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The history it belongs to.
    pub epoch: Epoch,
    /// The last message that was read.
    pub sequence: Sequence,
}

/// A request's number, chosen by the client and echoed in the answer.
pub type RequestId = Option<u64>;

/// Why a name or a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// Longer than its limit.
    #[error("it has {bytes} bytes, and at most {bytes_max} are allowed")]
    TooLong {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A control character (Unicode category Cc) in it.
    #[error("it holds a control character")]
    ControlCharacter,
}

fn check_name(name: &str, bytes_max: usize) -> Result<&str, NameFault> {
    if name.is_empty() {
        return Err(NameFault::Empty);
    }
    if name.len() > bytes_max {
        return Err(NameFault::TooLong { bytes: name.len(), bytes_max });
    }
    // Ascii first: `char::is_control` over decoded characters costs five times as much, and names are mostly ASCII.
    let control = if name.is_ascii() {
        name.bytes().any(|byte| byte.is_ascii_control())
    } else {
        name.chars().any(char::is_control)
    };
    if control { Err(NameFault::ControlCharacter) } else { Ok(name) }
}

macro_rules! name_type {
    ($(#[$meta:meta])* $name:ident, $bytes_max:expr) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text that keeps the rules.
            ///
            /// # Errors
            /// When it is empty, too long, or holds a control character.
            pub fn new(text: &str) -> Result<Self, NameFault> {
                check_name(text, $bytes_max).map(|text| $name(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:?}", &*self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// A room's name: 1 to 128 bytes of UTF-8 without control characters.
    RoomName, ROOM_BYTES_MAX
}
name_type! {
    /// A user's name: 1 to 64 bytes of UTF-8 without control characters.
    UserName, USER_BYTES_MAX
}
name_type! {
    /// A feature's name: 1 to 64 bytes of UTF-8 without control characters.
    FeatureName, FEATURE_BYTES_MAX
}
name_type! {
    /// A client's key of a post: 1 to 64 bytes of UTF-8 without control characters.
    PostKey, KEY_BYTES_MAX
}

/// Checks a feature's name without taking it.
///
/// # Errors
/// As [`FeatureName::new`].
pub fn check_feature_name(name: &str) -> Result<&str, NameFault> {
    check_name(name, FEATURE_BYTES_MAX)
}

/// Checks a room name without taking it.
///
/// # Errors
/// As [`RoomName::new`].
pub fn check_room_name(name: &str) -> Result<&str, NameFault> {
    check_name(name, ROOM_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_limits_in_bytes_and_no_control_characters() {
        assert_eq!(RoomName::new(""), Err(NameFault::Empty));
        assert!(RoomName::new(&"r".repeat(128)).is_ok());
        assert_eq!(RoomName::new(&"r".repeat(129)), Err(NameFault::TooLong { bytes: 129, bytes_max: 128 }));
        assert!(UserName::new(&"ü".repeat(32)).is_ok());
        assert_eq!(UserName::new(&"ü".repeat(33)), Err(NameFault::TooLong { bytes: 66, bytes_max: 64 }));
        for bad in ["a\nb", "\u{0}", "a\u{7f}", "ü\u{85}"] {
            assert_eq!(RoomName::new(bad), Err(NameFault::ControlCharacter), "{bad:?}");
        }
        assert!(PostKey::new("a b/c").is_ok());
    }

    #[test]
    fn a_room_id_never_changes() {
        // The log and placement stand on it: the first half of BLAKE3("lobby"), read as a little-endian number.
        assert_eq!(format!("{:?}", RoomId::of("lobby")), "RoomId(695eb6551872403a9c978112923a833b)");
        assert_ne!(RoomId::of("lobby"), RoomId::of("lobby "));
    }

    #[test]
    fn the_sequence_before_the_first_is_zero() {
        assert_eq!(Sequence(0).previous(), Sequence(0));
        assert_eq!(Sequence(7).previous().next(), Sequence(7));
        assert_eq!(Sequence(u64::MAX).next(), Sequence(u64::MAX));
    }
}
