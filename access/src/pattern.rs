//! Patterns over room names, as they stand in tokens and beside rights in `[[rooms]]`.
//!
//! A pattern is a room's name, in which `{user}` (at most once) stands for the asker's own name and one `*` at the end
//! for any characters, also none: `lobby`, `team-7-*`, `inbox-{user}`, `files/{user}/*`, `*`.
//!
//! # Invariants
//!
//! - The asker's name is held against the room's name literally: a `*` or a `{user}` in it is only characters.
//! - By one pattern with `{user}`, no room is two users' own. Without a `*`, the room's name says what stands for
//!   `{user}`. With one, the name ends where the first character behind `{user}` stands, so a user whose own name
//!   holds that character has no room by that pattern: `files/{user}/*` gives nothing to `a/b`, whom it could not tell
//!   from `a`. So a `*` right behind `{user}` is refused.

use banter_protocol::ids::{NameFault, ROOM_BYTES_MAX, USER_BYTES_MAX, check_room_name};

/// Longest pattern, in bytes of UTF-8: that of a room's name.
pub const PATTERN_BYTES_MAX: usize = ROOM_BYTES_MAX;

const USER: &str = "{user}";

/// Why a pattern is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// It breaks a rule of room names.
    #[error("it must be a room's name of 1 to 128 bytes, with a * at its end for many: {0}")]
    Name(#[from] NameFault),
    /// A `*` that is not the last character.
    #[error("a * stands for any characters only at its end")]
    StarInside,
    /// A `{` that does not begin `{user}`.
    #[error("a {{ is only allowed as {{user}}, which stands for the asker's own name")]
    Brace,
    /// More than one `{user}`.
    #[error("{{user}} stands in it more than once")]
    UserTwice,
    /// `{user}*`.
    #[error(
        "a * right behind {{user}} would give ann the rooms of anna: put a character between them, like {{user}}/*"
    )]
    StarBehindUser,
}

/// A pattern that keeps the rules, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatternRef<'a>(&'a str);

impl<'a> PatternRef<'a> {
    /// Takes a text that keeps the rules.
    ///
    /// # Errors
    /// When it is empty, longer than 128 bytes, holds a control character, a `*` before its end, a `{` that does not
    /// begin `{user}`, two `{user}`, or `{user}*`.
    pub fn new(text: &'a str) -> Result<Self, PatternFault> {
        check_room_name(text)?;
        let name = text.strip_suffix('*').unwrap_or(text);
        if name.contains('*') {
            return Err(PatternFault::StarInside);
        }
        let mut parts = name.split(USER);
        if parts.any(|part| part.contains('{')) {
            return Err(PatternFault::Brace);
        }
        if name.split(USER).count() > 2 {
            return Err(PatternFault::UserTwice);
        }
        if name.len() < text.len() && name.ends_with(USER) {
            return Err(PatternFault::StarBehindUser);
        }
        Ok(PatternRef(text))
    }

    /// A text that [`PatternRef::new`] took before, and that was kept in between.
    pub(crate) fn kept(text: &'a str) -> Self {
        debug_assert!(Self::new(text).is_ok());
        PatternRef(text)
    }

    /// Its text.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether it names the room for the user. Allocates nothing and takes time in proportion to the lengths.
    pub fn matches(self, room: &str, user: &str) -> bool {
        let (name, open) = self.parts();
        let Some((before, after)) = name.split_once(USER) else {
            return if open { room.starts_with(name) } else { room == name };
        };
        let own = room.strip_prefix(before).and_then(|rest| rest.strip_prefix(user));
        let Some(rest) = own.and_then(|rest| rest.strip_prefix(after)) else { return false };
        if open { !user.is_empty() && ends_at(user, after) } else { !user.is_empty() && rest.is_empty() }
    }

    /// Whether it names the room for anybody at all.
    pub fn covers(self, room: &str) -> bool {
        let (name, open) = self.parts();
        let Some((before, after)) = name.split_once(USER) else { return self.matches(room, "") };
        let Some(rest) = room.strip_prefix(before) else { return false };
        let user_bytes = if open {
            let end = after.chars().next().and_then(|end| rest.find(end));
            end.filter(|&at| rest.get(at..).is_some_and(|behind| behind.starts_with(after)))
        } else {
            rest.strip_suffix(after).map(str::len)
        };
        user_bytes.is_some_and(|bytes| (1..=USER_BYTES_MAX).contains(&bytes))
    }

    /// Whether it names every room that the other one names, for the same user, as far as their texts tell.
    pub fn includes(self, other: PatternRef<'_>) -> bool {
        // A pattern that takes another's text as a name takes what stands for its `*` and its `{user}` too.
        self.0 == other.0 || (!self.0.contains(USER) && self.matches(other.0, ""))
    }

    /// What stands before a `*` at its end, and whether there is one.
    fn parts(self) -> (&'a str, bool) {
        self.0.strip_suffix('*').map_or((self.0, false), |name| (name, true))
    }
}

/// Whether what begins with the user's name and goes on with `after` says where the name ends.
fn ends_at(user: &str, after: &str) -> bool {
    after.chars().next().is_some_and(|end| !user.contains(end))
}

/// A pattern that keeps the rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Takes a text that keeps the rules.
    ///
    /// # Errors
    /// As [`PatternRef::new`].
    pub fn new(text: &str) -> Result<Self, PatternFault> {
        PatternRef::new(text).map(|pattern| Pattern(pattern.0.into()))
    }

    /// Borrowed.
    pub fn borrow(&self) -> PatternRef<'_> {
        PatternRef(&self.0)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As [`PatternRef::matches`].
    pub fn matches(&self, room: &str, user: &str) -> bool {
        self.borrow().matches(room, user)
    }

    /// As [`PatternRef::covers`].
    pub fn covers(&self, room: &str) -> bool {
        self.borrow().covers(room)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, room: &str, user: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(room, user)
    }

    #[test]
    fn a_name_is_itself_and_a_star_at_the_end_any_characters() {
        assert!(matches("lobby", "lobby", "ann") && matches("*", "lobby", "ann") && matches("team-*", "team-", "ann"));
        assert!(matches("team-*", "team-7", "ann") && matches("ü*", "über", "ann") && matches("a*", "a*", "ann"));
        assert!(!matches("lobby", "lobby2", "ann") && !matches("lobby", "Lobby", "ann"));
        assert!(!matches("team-*", "team", "ann") && !matches("lobby", "lobb", "ann"));
    }

    #[test]
    fn the_asker_has_his_own_room_and_nobody_elses() {
        assert!(matches("inbox-{user}", "inbox-ann", "ann") && matches("{user}", "ann", "ann"));
        assert!(matches("{user}-home", "ann-home", "ann") && matches("files/{user}/*", "files/ann/x/y", "ann"));
        for (room, user) in [("inbox-anna", "ann"), ("inbox-an", "ann"), ("inbox-", "ann"), ("inbox-{user}", "ann")] {
            assert!(!matches("inbox-{user}", room, user), "{room}");
        }
        assert!(!matches("files/{user}/*", "files/anna/x", "ann") && !matches("inbox-{user}", "inbox-", ""));
        assert!(!matches("files/{user}/*", "files//x", ""));
    }

    #[test]
    fn a_users_name_smuggles_nothing() {
        for user in ["*", "a*", "{user}", "{user}*", "**"] {
            assert!(!matches("inbox-{user}", "inbox-bob", user), "{user}");
            assert!(matches("inbox-{user}", &format!("inbox-{user}"), user), "{user}");
        }
        assert!(!matches("files/{user}/*", "files/a/b/x", "a/b"), "the room is that of a");
        assert!(matches("files/{user}/*", "files/a/b/x", "a"));
        // An end that overlaps itself tells no users apart either.
        assert!(matches("{user}--*", "a---x", "a") && !matches("{user}--*", "a---x", "a-"));
    }

    #[test]
    fn what_breaks_the_rules_is_refused_with_its_reason() {
        let fault = |text: &str| Pattern::new(text).unwrap_err();
        assert_eq!(fault(""), PatternFault::Name(NameFault::Empty));
        assert_eq!(fault(&"x".repeat(129)), PatternFault::Name(NameFault::TooLong { bytes: 129, bytes_max: 128 }));
        assert_eq!(fault("a\n"), PatternFault::Name(NameFault::ControlCharacter));
        for text in ["a*b", "*a", "**", "*-{user}", "a**"] {
            assert_eq!(fault(text), PatternFault::StarInside, "{text}");
        }
        for text in ["{room}", "a{", "{User}", "{user", "{{user}}", "{user}-{room}"] {
            assert_eq!(fault(text), PatternFault::Brace, "{text}");
        }
        assert_eq!(fault("{user}-{user}"), PatternFault::UserTwice);
        assert_eq!(fault("inbox-{user}*"), PatternFault::StarBehindUser);
        assert!(fault("inbox-{user}*").to_string().contains("{user}/*"));
        assert!(Pattern::new(&"x".repeat(128)).is_ok() && Pattern::new("a}").is_ok());
    }

    #[test]
    fn a_pattern_covers_what_it_could_name_for_anybody() {
        let covers = |pattern: &str, room: &str| Pattern::new(pattern).unwrap().covers(room);
        assert!(covers("inbox-{user}", "inbox-bob") && covers("files/{user}/*", "files/bob/x") && covers("*", "x"));
        assert!(!covers("inbox-{user}", "inbox-") && !covers("files/{user}/*", "files//x"));
        assert!(!covers("files/{user}/*", "files/bob") && !covers("{user}ab*", "xac") && !covers("lobby", "lobby2"));
        assert!(!covers("{user}", &"x".repeat(65)) && covers("{user}", &"x".repeat(64)) && !covers("a-{user}", "b-x"));
    }

    /// Every room of up to `rest_max` further characters that a pattern names, tried one by one.
    fn slow(pattern: &str, room: &str, user: &str) -> bool {
        let Some((name, "")) = pattern.split_once('*').or(Some((pattern, "\u{0}"))) else {
            return pattern.replace(USER, user) == room && !(pattern.contains(USER) && user.is_empty());
        };
        let owner_is_clear = match name.split_once(USER) {
            Some((_, after)) => !user.is_empty() && !user.contains(after.chars().next().unwrap()),
            None => true,
        };
        let filled = name.replace(USER, user);
        owner_is_clear && room.chars().count() >= filled.chars().count() && room.get(..filled.len()) == Some(&filled)
    }

    proptest! {
        #[test]
        fn matching_equals_the_slow_model(
            pattern in "[ab/]{0,3}(\\{user\\})?[ab/]{0,3}\\*?", room in "[ab/*]{0,7}", user in "[ab/*]{0,3}",
        ) {
            if let Ok(checked) = PatternRef::new(&pattern) {
                prop_assert_eq!(checked.matches(&room, &user), slow(&pattern, &room, &user));
            }
        }

        #[test]
        fn no_room_is_two_users_own(
            before in "[ab-]{0,2}", after in "[ab-]{0,3}", open: bool, user in "[ab-]{1,4}", rest in "[ab-]{0,4}",
        ) {
            let pattern = format!("{before}{{user}}{after}{}", if open { "*" } else { "" });
            let room = format!("{before}{user}{after}{}", if open { &rest } else { "" });
            if let Ok(checked) = PatternRef::new(&pattern) {
                let users = (0..room.len()).flat_map(|start| (start + 1..=room.len()).map(move |end| (start, end)));
                let mut users: Vec<&str> = users.map(|(start, end)| &room[start..end]).collect();
                users.sort_unstable();
                users.dedup();
                let owners: Vec<_> = users.into_iter().filter(|user| checked.matches(&room, user)).collect();
                prop_assert!(owners.len() <= 1, "{:?} own {:?} by {:?}", owners, room, pattern);
                prop_assert!(open || owners == [user]);
            }
        }

        #[test]
        fn what_matches_is_covered(
            pattern in "[ab/]{0,3}(\\{user\\})?[ab/]{0,3}\\*?", room in "[ab/*]{0,7}", user in "[ab/*]{1,3}",
        ) {
            if let Ok(checked) = PatternRef::new(&pattern) {
                prop_assert!(!checked.matches(&room, &user) || checked.covers(&room));
            }
        }

        #[test]
        fn any_text_is_judged_without_a_panic(pattern in ".*", room in ".*", user in ".*") {
            if let Ok(checked) = PatternRef::new(&pattern) {
                checked.matches(&room, &user);
                checked.covers(&room);
            }
        }
    }
}
