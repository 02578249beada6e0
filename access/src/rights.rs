//! What a user may do in a room: a small set of named rights.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of rights. Its bits are the same on every core and in every version: a right is added at the end.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rights(u16);

/// Each right by its name, in the order in which they are told.
const NAMED: [(&str, Rights); 9] = [
    ("read", Rights::READ),
    ("write", Rights::WRITE),
    ("signal", Rights::SIGNAL),
    ("presence", Rights::PRESENCE),
    ("history", Rights::HISTORY),
    ("react", Rights::REACT),
    ("invite", Rights::INVITE),
    ("moderate", Rights::MODERATE),
    ("own", Rights::OWN),
];

/// The short forms, each for several rights.
const SHORT_FORMS: [(&str, Rights); 2] = [("member", Rights::MEMBER), ("moderator", Rights::MODERATOR)];

impl Rights {
    /// No right at all.
    pub const NONE: Rights = Rights(0);
    /// `read`: to join, to be sent messages as they come, to resume.
    pub const READ: Rights = Rights(1);
    /// `write`: to post messages.
    pub const WRITE: Rights = Rights(1 << 1);
    /// `signal`: to send what is not kept.
    pub const SIGNAL: Rights = Rights(1 << 2);
    /// `presence`: to ask who is there and to be told of who comes and goes.
    pub const PRESENCE: Rights = Rights(1 << 3);
    /// `history`: to be given messages from before, by `last` and `fetch`.
    pub const HISTORY: Rights = Rights(1 << 4);
    /// `react`: kept for reactions; nothing asks for it yet.
    pub const REACT: Rights = Rights(1 << 5);
    /// `invite`: kept for invitations; nothing asks for it yet.
    pub const INVITE: Rights = Rights(1 << 6);
    /// `moderate`: kept for moderation; nothing asks for it yet.
    pub const MODERATE: Rights = Rights(1 << 7);
    /// `own`: kept for owners of rooms; nothing asks for it yet.
    pub const OWN: Rights = Rights(1 << 8);

    /// `member`: read, write, signal, presence, history.
    pub const MEMBER: Rights = Rights(0b1_1111);
    /// `moderator`: what a member may, and moderate and invite.
    pub const MODERATOR: Rights = Rights(Self::MEMBER.0 | Self::MODERATE.0 | Self::INVITE.0);
    /// Every right that has a name.
    pub const ALL: Rights = Rights(0b1_1111_1111);

    /// The bits, as they cross cores and lie in a [`Proof`](crate::proof::Proof).
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The rights of those bits; bits without a name are left out.
    pub const fn from_bits(bits: u16) -> Self {
        Rights(bits & Self::ALL.0)
    }

    /// The right, or the rights of the short form, of that name.
    ///
    /// # Errors
    /// When there is none of that name; names are lower case.
    pub fn from_name(name: &str) -> Result<Self, UnknownRight> {
        let mut named = NAMED.iter().chain(&SHORT_FORMS);
        named.find(|(known, _)| *known == name).map(|&(_, rights)| rights).ok_or_else(|| UnknownRight::new(name))
    }

    /// Rights as people write them: names and short forms with commas between, like `read,write`, or `none`.
    ///
    /// # Errors
    /// At the first name that is not known; an empty one is none.
    pub fn parse(text: &str) -> Result<Self, UnknownRight> {
        if text == "none" {
            return Ok(Self::NONE);
        }
        let mut rights = Self::NONE;
        for name in text.split(',') {
            rights |= Self::from_name(name.trim())?;
        }
        Ok(rights)
    }

    /// These and those.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Rights(self.0 | other.0)
    }

    /// These without those.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Rights(self.0 & !other.0)
    }

    /// Whether all of those are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those of these that are of no use without `read`, where it is not among them: who has not joined can neither post nor
    /// signal.
    #[must_use]
    pub const fn idle(self) -> Self {
        let (joined, all) = (Self::WRITE.union(Self::SIGNAL), Self::ALL);
        if self.contains(Self::READ) { Self::NONE } else { self.minus(all.minus(joined)) }
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names, one a right and never a short form.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMED.iter().filter(move |(_, right)| self.contains(*right)).map(|&(name, _)| name)
    }
}

impl BitOr for Rights {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitOrAssign for Rights {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.union(other);
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return formatter.write_str("none");
        }
        for (index, name) in self.names().enumerate() {
            if index > 0 {
                formatter.write_str(",")?;
            }
            formatter.write_str(name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Rights({self})")
    }
}

/// Characters that are kept of a name that is not known.
const UNKNOWN_CHARACTERS_MAX: usize = 32;

/// A name that is no right's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no right {name:?}: the rights are read, write, signal, presence, history, react, invite, moderate, own, \
     and member and moderator stand for several"
)]
pub struct UnknownRight {
    /// Its first 32 characters.
    pub name: Box<str>,
}

impl UnknownRight {
    fn new(name: &str) -> Self {
        UnknownRight { name: name.chars().take(UNKNOWN_CHARACTERS_MAX).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_reads_writes_signals_sees_who_is_there_and_what_was() {
        assert_eq!(Rights::MEMBER.to_string(), "read,write,signal,presence,history");
        assert_eq!(Rights::MODERATOR.to_string(), "read,write,signal,presence,history,invite,moderate");
        assert_eq!(Rights::from_name("member"), Ok(Rights::MEMBER));
        assert_eq!(Rights::from_name("moderator"), Ok(Rights::MODERATOR));
        assert!(!Rights::MODERATOR.contains(Rights::OWN) && Rights::ALL.contains(Rights::MODERATOR));
    }

    #[test]
    fn every_name_is_one_bit_of_its_own_and_comes_back() {
        let mut seen = Rights::NONE;
        for (name, right) in NAMED {
            assert_eq!(right.bits().count_ones(), 1, "{name}");
            assert!(!seen.contains(right), "{name}");
            assert_eq!(Rights::from_name(name), Ok(right));
            assert_eq!(right.to_string(), name);
            seen |= right;
        }
        assert_eq!(seen, Rights::ALL);
    }

    #[test]
    fn the_bits_never_change() {
        assert_eq!(NAMED.map(|(_, right)| right.bits()), [1, 2, 4, 8, 16, 32, 64, 128, 256]);
        assert_eq!(Rights::from_bits(u16::MAX), Rights::ALL);
    }

    #[test]
    fn a_name_that_is_not_known_is_told() {
        for name in ["", "Read", "read ", "admin", "member,read", "none"] {
            let fault = Rights::from_name(name).unwrap_err();
            assert_eq!(&*fault.name, name);
            assert!(fault.to_string().contains(&format!("{name:?}")));
        }
        assert_eq!(Rights::from_name(&"ü".repeat(99)).unwrap_err().name.chars().count(), 32);
        assert_eq!(Rights::parse("read,,write").unwrap_err().name.len(), 0);
    }

    #[test]
    fn rights_are_read_as_they_are_told() {
        for bits in 0..=Rights::ALL.bits() {
            let rights = Rights::from_bits(bits);
            assert_eq!(Rights::parse(&rights.to_string()), Ok(rights));
        }
        assert_eq!(Rights::parse("member, own"), Ok(Rights::MEMBER | Rights::OWN));
        assert_eq!(format!("{:?}", Rights::READ), "Rights(read)");
    }

    #[test]
    fn minus_takes_away_and_contains_asks_for_all() {
        let rights = Rights::MEMBER.minus(Rights::WRITE);
        assert!(rights.contains(Rights::READ) && !rights.contains(Rights::WRITE));
        assert!(!rights.contains(Rights::READ | Rights::WRITE) && rights.contains(Rights::NONE));
        assert!(Rights::NONE.is_empty() && Rights::NONE.minus(Rights::ALL).is_empty());
    }
}
