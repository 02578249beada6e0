//! What a client and a server know beyond version 1's base: names on the wire, which `hello` and `welcome` carry, and bits
//! where a connection keeps what both know.

use crate::ids::{NameFault, check_feature_name};
use crate::request::Text;

/// Names that a `hello` may hold, and features that a server may know: each has a bit of [`Features`].
pub const FEATURES_MAX: usize = 64;
/// Longest name of a feature, in bytes of UTF-8.
pub const FEATURE_BYTES_MAX: usize = 64;

/// What this version knows. Nothing yet: whoever brings a feature adds its name at the end, and where it tells a kind of
/// change a line to `TELLS`. A name's place is its bit, on the server only.
pub const KNOWN: Known = Known::new(&[]);

/// The changes that readers are told as themselves, by their `what`, each with the feature that they must have agreed on.
/// Whoever did not is told a gap of one.
const TELLS: &[(u8, Features)] = &[];

/// A set of features that a connection agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// The base alone.
    pub const NONE: Features = Features(0);

    /// Whether all of those are in it.
    pub fn has(self, others: Features) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether a change of that kind is told as itself to whoever agreed on these.
    pub(crate) fn tell(self, what: u8) -> bool {
        TELLS.iter().any(|&(told, feature)| told == what && self.has(feature))
    }
}

/// The features that a server knows, each under the number of its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known(&'static [&'static str]);

impl Known {
    /// Those of that name.
    pub const fn new(names: &'static [&'static str]) -> Self {
        assert!(names.len() <= FEATURES_MAX, "a feature needs a bit");
        Known(names)
    }

    /// Those that the other side knows too. Names that are unknown here are passed over.
    pub fn agree(self, names: &FeatureNames<'_>) -> Features {
        let bit = |name: &str| self.0.iter().position(|known| *known == name).map_or(0, |place| 1 << place);
        Features(names.iter().fold(0, |bits, name| bits | bit(name)))
    }

    /// The names of those that were agreed on, each ended by a line feed.
    pub fn lines(self, agreed: Features) -> String {
        let is_agreed = |place: usize| agreed.0 & (1 << place) != 0;
        let names = self.0.iter().enumerate().filter(|&(place, _)| is_agreed(place));
        names.flat_map(|(_, name)| [name, "\n"]).collect()
    }
}

/// The names in a `hello`, within their limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureNames<'a>(Vec<Text<'a>>);

impl<'a> FeatureNames<'a> {
    /// The base alone.
    pub const NONE: FeatureNames<'static> = FeatureNames(Vec::new());

    /// Adds a name.
    ///
    /// # Errors
    /// When there are too many, or it is none.
    pub fn push(&mut self, name: Text<'a>) -> Result<(), FeaturesFault> {
        if self.0.len() == FEATURES_MAX {
            return Err(FeaturesFault::TooMany);
        }
        match check_feature_name(&name) {
            Err(NameFault::TooLong { bytes, .. }) => return Err(FeaturesFault::TooLong { bytes }),
            checked => checked.map_err(FeaturesFault::Name)?,
        };
        self.0.push(name);
        Ok(())
    }

    /// Reads names that are each ended by a line feed.
    ///
    /// # Errors
    /// As [`FeatureNames::push`].
    pub fn read_lines(lines: &'a str) -> Result<Self, FeaturesFault> {
        let mut names = FeatureNames::default();
        lines.split_terminator('\n').try_for_each(|name| names.push(name.into()))?;
        Ok(names)
    }

    /// The names, each ended by a line feed, which no name holds.
    pub fn lines(&self) -> String {
        self.iter().flat_map(|name| [name, "\n"]).collect()
    }

    /// The names, as they came.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }
}

/// Why the names in a `hello` are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeaturesFault {
    /// Too many names.
    #[error("`features` holds more names than features_max, {}", FEATURES_MAX)]
    TooMany,
    /// A name that is too long.
    #[error("`features`: a name of {bytes} bytes is above feature_bytes_max, {}", FEATURE_BYTES_MAX)]
    TooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// A text that is no name.
    #[error("`features`: a text in it is no name: {0}")]
    Name(NameFault),
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: Known = Known::new(&["edits", "roles", "reactions"]);

    fn names(names: &[&'static str]) -> FeatureNames<'static> {
        let mut all = FeatureNames::default();
        names.iter().for_each(|name| all.push((*name).into()).unwrap());
        all
    }

    #[test]
    fn what_both_know_is_agreed_whatever_the_order_and_however_often_it_is_said() {
        for (said, agreed) in [
            (&[][..], ""),
            (&["edits"][..], "edits\n"),
            (&["reactions", "edits"][..], "edits\nreactions\n"),
            (&["edits", "reactions", "edits", "edits"][..], "edits\nreactions\n"),
            (&["reactions", "roles", "edits"][..], "edits\nroles\nreactions\n"),
        ] {
            assert_eq!(THREE.lines(THREE.agree(&names(said))), agreed, "{said:?}");
        }
    }

    #[test]
    fn a_name_that_only_one_side_knows_is_passed_over() {
        assert_eq!(THREE.agree(&names(&["polls", "edit", "edits2", "EDITS", "edits "])), Features::NONE);
        assert_eq!(THREE.lines(THREE.agree(&names(&["polls", "roles", "later"]))), "roles\n");
        assert_eq!(Known::new(&[]).agree(&names(&["edits"])), Features::NONE);
    }

    #[test]
    fn the_last_of_as_many_features_as_there_may_be_has_a_bit_of_its_own() {
        const ALL: [&str; FEATURES_MAX] = {
            let mut all = ["other"; FEATURES_MAX];
            (all[0], all[FEATURES_MAX - 1]) = ("first", "last");
            all
        };
        let known = Known::new(&ALL);
        assert_eq!(known.lines(known.agree(&names(&["last"]))), "last\n");
        assert_eq!(known.lines(known.agree(&names(&["last", "first"]))), "first\nlast\n");
    }

    #[test]
    fn a_set_has_another_that_lies_in_it() {
        let [edits, roles, both] = [&["edits"][..], &["roles"], &["edits", "roles"]].map(|it| THREE.agree(&names(it)));
        assert!(both.has(edits) && both.has(roles) && both.has(both) && edits.has(Features::NONE));
        assert!(!edits.has(roles) && !edits.has(both) && !Features::NONE.has(edits));
    }

    #[test]
    fn no_change_is_told_as_itself_yet() {
        assert!((0..=u8::MAX).all(|what| !Features(u64::MAX).tell(what)));
    }

    #[test]
    fn names_have_limits_in_count_and_bytes_that_a_refusal_names() {
        let full = ["edits"; FEATURES_MAX];
        assert_eq!(names(&full).push("edits".into()), Err(FeaturesFault::TooMany));
        assert!(FeaturesFault::TooMany.to_string().contains("features_max, 64"));
        let mut one = FeatureNames::default();
        assert_eq!(one.push("ü".repeat(33).into()), Err(FeaturesFault::TooLong { bytes: 66 }));
        assert!(FeaturesFault::TooLong { bytes: 66 }.to_string().contains("feature_bytes_max, 64"));
        assert_eq!(one.push("".into()), Err(FeaturesFault::Name(NameFault::Empty)));
        assert_eq!(one.push("a\nb".into()), Err(FeaturesFault::Name(NameFault::ControlCharacter)));
        assert_eq!(one, FeatureNames::NONE, "what was refused is not in it");
        assert_eq!(one.push("ü".repeat(32).into()), Ok(()));
    }

    #[test]
    fn names_come_back_from_their_lines() {
        for lines in ["", "edits\n", "reactions\nedits\nedits\nsome thing, ü\n"] {
            assert_eq!(FeatureNames::read_lines(lines).unwrap().lines(), lines);
        }
        assert_eq!(FeatureNames::read_lines("a\nb"), Ok(names(&["a", "b"])), "the last end may be left out");
        for bad in ["\n", "a\n\nb\n", "a\r\n"] {
            assert!(FeatureNames::read_lines(bad).is_err(), "{bad:?}");
        }
        assert!(FeatureNames::read_lines(&"a\n".repeat(FEATURES_MAX)).is_ok());
        assert_eq!(FeatureNames::read_lines(&"a\n".repeat(FEATURES_MAX + 1)), Err(FeaturesFault::TooMany));
    }
}
