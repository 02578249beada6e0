//! The rights that hold for a user in a room, from all that gives some and all that takes some.
//!
//! Whatever gives rights is united, and marks are taken away at the end. No source and no pattern can take away what
//! another gives, so the order in which they are looked at, or stand in a token, never matters.

use crate::guest::is_guest;
use crate::pattern::{Pattern, PatternRef};
use crate::proof::Proof;
use crate::rights::Rights;

/// What gives and takes rights in one room, each from its own place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// What the user's token gives there: [`Proof::rights`].
    pub token: Rights,
    /// What the configuration gives there: [`RoomDefaults::rights`].
    pub room_default: Rights,
    /// What a token for that room gives there: [`room_token_rights`].
    pub room_token: Rights,
    /// What marks, such as a mute, take away there.
    pub marks: Rights,
}

impl Sources {
    /// The rights that hold: (token ∪ default ∪ room token) − marks.
    pub fn effective(self) -> Rights {
        (self.token | self.room_default | self.room_token).minus(self.marks)
    }
}

/// A token for a room is another user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token of the room is another user's than that of the connection")]
pub struct OtherUser;

/// What a token that came with a `join` gives in that room. It holds until [`Proof::expires_seconds`] of that token.
///
/// # Errors
/// When it is another user's.
pub fn room_token_rights(user: &str, room: &str, proof: &Proof) -> Result<Rights, OtherUser> {
    if proof.user().as_str() == user { Ok(proof.rights(room)) } else { Err(OtherUser) }
}

/// Of a token's grants those that give what is of no use without `read`, while none gives `read` there; each with what is of
/// no use. The configuration may give it.
pub fn idle_grants<'a>(grants: &[(PatternRef<'a>, Rights)]) -> Vec<(PatternRef<'a>, Rights)> {
    let reads = |pattern: &PatternRef<'a>| {
        let mut readable = grants.iter().filter(|(_, rights)| rights.contains(Rights::READ));
        readable.any(|(wider, _)| wider.includes(*pattern))
    };
    let idle = grants.iter().map(|(pattern, rights)| (*pattern, rights.idle()));
    idle.filter(|(pattern, idle)| !idle.is_empty() && !reads(pattern)).collect()
}

/// What the configuration gives everybody in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomDefault {
    /// Users: who came with a token, or says his name in open mode.
    pub users: Rights,
    /// Guests.
    pub guests: Rights,
}

impl RoomDefault {
    /// Nothing to anybody: what holds in token mode where nothing is said, so that no room is open by omission.
    pub const CLOSED: RoomDefault = RoomDefault { users: Rights::NONE, guests: Rights::NONE };
    /// What a member may, to everybody: what holds in open mode where nothing is said.
    pub const PUBLIC: RoomDefault = RoomDefault { users: Rights::MEMBER, guests: Rights::MEMBER };

    /// What it gives that user; guests are known by their names.
    pub fn of(self, user: &str) -> Rights {
        if is_guest(user) { self.guests } else { self.users }
    }
}

/// What `[[rooms]]` gives by names of rooms: the first entry that covers a room is the one that holds there, as for
/// everything else that `[[rooms]]` says, so that an entry can close what a wider one behind it opens.
///
/// An entry with `{user}` covers such a room for everybody and gives rights to the one whose own it is: the others are
/// not passed on to a wider entry behind it, so that `inbox-{user}` before `*` opens no inbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomDefaults {
    /// The entries in the order of the file.
    pub entries: Vec<(Pattern, RoomDefault)>,
    /// What holds where none of them covers the room.
    pub otherwise: RoomDefault,
}

impl RoomDefaults {
    /// What the user has in the room by the configuration.
    pub fn rights(&self, room: &str, user: &str) -> Rights {
        match self.entries.iter().find(|(pattern, _)| pattern.covers(room)) {
            Some((pattern, given)) if pattern.matches(room, user) => given.of(user),
            Some(_) => Rights::NONE,
            None => self.otherwise.of(user),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proof::tests::proof;

    #[test]
    fn what_is_given_is_united_and_marks_are_taken_at_the_end() {
        let sources =
            Sources { token: Rights::READ, room_default: Rights::WRITE, room_token: Rights::OWN, marks: Rights::WRITE };
        assert_eq!(sources.effective(), Rights::READ | Rights::OWN);
        assert_eq!(Sources::default().effective(), Rights::NONE);
        assert_eq!(Sources { marks: Rights::ALL, ..sources }.effective(), Rights::NONE);
    }

    #[test]
    fn what_is_of_no_use_without_read_is_found_where_nothing_gives_read() {
        let grant = |text, rights| (PatternRef::new(text).unwrap(), rights);
        let found = |grants: &[(PatternRef<'static>, Rights)]| {
            idle_grants(grants)
                .iter()
                .map(|(pattern, rights)| format!("{} {rights}", pattern.as_str()))
                .collect::<Vec<_>>()
        };
        let write = Rights::WRITE | Rights::HISTORY;
        assert_eq!(found(&[grant("lobby", write), grant("news", Rights::MEMBER)]), ["lobby write"]);
        assert_eq!(
            found(&[grant("team-*", write | Rights::SIGNAL), grant("team-7", Rights::READ)]),
            ["team-* write,signal"]
        );
        for wider in ["lobby", "lob*", "*"] {
            assert!(found(&[grant("lobby", write), grant(wider, Rights::READ)]).is_empty(), "{wider}");
        }
        assert!(found(&[grant("inbox-{user}", write), grant("inbox-*", Rights::READ)]).is_empty());
        assert_eq!(found(&[grant("inbox-*", write), grant("inbox-{user}", Rights::READ)]), ["inbox-* write"]);
        assert!(
            found(&[grant("lobby", Rights::PRESENCE | Rights::HISTORY)]).is_empty(),
            "for these nobody has to join"
        );
    }

    #[test]
    fn a_rooms_token_is_only_for_its_user() {
        let ann = proof("ann", &[("deal-7", Rights::MEMBER)]);
        assert_eq!(room_token_rights("ann", "deal-7", &ann), Ok(Rights::MEMBER));
        assert_eq!(room_token_rights("ann", "deal-8", &ann), Ok(Rights::NONE));
        assert_eq!(room_token_rights("bob", "deal-7", &ann), Err(OtherUser));
    }

    fn defaults(entries: &[(&str, Rights, Rights)], otherwise: RoomDefault) -> RoomDefaults {
        let entry = |&(pattern, users, guests): &(&str, Rights, Rights)| {
            (Pattern::new(pattern).unwrap(), RoomDefault { users, guests })
        };
        RoomDefaults { entries: entries.iter().map(entry).collect(), otherwise }
    }

    #[test]
    fn the_first_entry_that_covers_a_room_holds_there() {
        let given = defaults(
            &[("staff-*", Rights::NONE, Rights::NONE), ("*", Rights::MEMBER, Rights::READ)],
            RoomDefault::CLOSED,
        );
        assert_eq!(given.rights("staff-1", "ann"), Rights::NONE);
        assert_eq!(given.rights("lobby", "ann"), Rights::MEMBER);
        assert_eq!(given.rights("lobby", "~gabc"), Rights::READ);
    }

    #[test]
    fn nobody_comes_into_anothers_room_by_a_wider_entry() {
        let given = defaults(
            &[("inbox-{user}", Rights::MEMBER, Rights::NONE), ("*", Rights::MEMBER, Rights::READ)],
            RoomDefault::CLOSED,
        );
        assert_eq!(given.rights("inbox-ann", "ann"), Rights::MEMBER);
        assert_eq!(given.rights("inbox-ann", "bob"), Rights::NONE);
        assert_eq!(given.rights("inbox-ann", "*"), Rights::NONE);
        assert_eq!(given.rights("inbox-ann", "~gabc"), Rights::NONE);
    }

    #[test]
    fn where_nothing_is_said_a_room_is_closed_or_public_as_a_whole() {
        assert_eq!(defaults(&[], RoomDefault::CLOSED).rights("lobby", "ann"), Rights::NONE);
        assert_eq!(defaults(&[], RoomDefault::PUBLIC).rights("lobby", "~g"), Rights::MEMBER);
    }

    proptest! {
        #[test]
        fn the_order_of_sources_never_matters(token: u16, room_default: u16, room_token: u16, marks: u16) {
            let [token, room_default, room_token, marks] =
                [token, room_default, room_token, marks].map(Rights::from_bits);
            let sources = Sources { token, room_default, room_token, marks };
            let effective = sources.effective();
            for other in [
                Sources { token: room_default, room_default: room_token, room_token: token, marks },
                Sources { token: room_token, room_default: token, room_token: room_default, marks },
                Sources { token: token | room_default, room_default: Rights::NONE, room_token, marks },
            ] {
                prop_assert_eq!(other.effective(), effective);
            }
            prop_assert!(effective.minus(Rights::ALL.minus(marks)).is_empty(), "a mark is taken from every source");
        }

        #[test]
        fn the_order_of_a_tokens_patterns_never_matters(
            grants in prop::collection::vec(("[ab]{0,2}\\*?", 0_u16..512), 0..8), room in "[ab]{1,3}", turn in 0_usize..8,
        ) {
            let mut grants: Vec<(&str, Rights)> = grants.iter()
                .filter(|(pattern, _)| Pattern::new(pattern).is_ok())
                .map(|(pattern, bits)| (&**pattern, Rights::from_bits(*bits))).collect();
            let before = proof("ann", &grants).rights(&room);
            let by = turn % grants.len().max(1);
            grants.rotate_left(by);
            prop_assert_eq!(proof("ann", &grants).rights(&room), before);
            grants.reverse();
            prop_assert_eq!(proof("ann", &grants).rights(&room), before);
        }
    }
}
