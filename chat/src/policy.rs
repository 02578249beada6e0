//! What holds for a room by its name: how safe its messages are before they are acknowledged, and how much of them is kept.

use std::collections::BTreeSet;

use banter_log::record::Level;
use banter_log::segment::Class;

/// How safe a message is before it is acknowledged and shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// In this process's memory: gone when it ends.
    Memory,
    /// Handed to the kernel: survives the process.
    Written,
    /// On the disk: survives a power cut.
    #[default]
    Synced,
}

impl Durability {
    /// Every level, the weakest first.
    pub const ALL: [Durability; 3] = [Durability::Memory, Durability::Written, Durability::Synced];

    /// Its name in the configuration and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Written => "written",
            Durability::Synced => "synced",
        }
    }

    /// The level of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Whether its messages go to the log.
    pub fn is_logged(self) -> bool {
        self.level().is_some()
    }

    /// Its level in the log; none if they go to none.
    pub fn level(self) -> Option<Level> {
        match self {
            Durability::Memory => None,
            Durability::Written => Some(Level::Written),
            Durability::Synced => Some(Level::Synced),
        }
    }
}

/// What holds for a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomPolicy {
    /// When its messages are acknowledged and shown.
    pub durability: Durability,
    /// Messages that it keeps at most, where its durability is `memory`; 0 = as many as memory for history allows.
    pub history_messages_max: u32,
    /// How long the log keeps its messages: with those of all rooms of the same class, in files of their own.
    pub class: Class,
}

/// A pattern over room names: `*` stands for any characters, also none, everything else for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomPattern(Box<str>);

impl RoomPattern {
    /// Of its text.
    pub fn new(text: &str) -> Self {
        RoomPattern(text.into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the room's name is one of those. Takes time in proportion to both lengths, never more.
    pub fn matches(&self, room: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), room.as_bytes());
        let (mut at, mut read) = (0, 0);
        // Where the last `*` stands, and how much of the name it has taken.
        let mut star: Option<(usize, usize)> = None;
        while read < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, read));
                    at += 1;
                }
                Some(&byte) if byte == name[read] => {
                    at += 1;
                    read += 1;
                }
                _ => {
                    let Some((star_at, taken)) = star else { return false };
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    read = taken + 1;
                }
            }
        }
        pattern[at..].iter().all(|&byte| byte == b'*')
    }
}

/// The policies of a server: the first pattern that matches wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomPolicies {
    /// Patterns in the order of the configuration.
    pub rules: Vec<(RoomPattern, RoomPolicy)>,
    /// What holds where none of them matches.
    pub otherwise: RoomPolicy,
}

impl RoomPolicies {
    /// The same where the log is a cluster's: there is none that is only handed to a kernel, so that `written` is `synced`.
    #[must_use]
    pub fn in_cluster(mut self) -> Self {
        for policy in self.rules.iter_mut().map(|(_, policy)| policy).chain([&mut self.otherwise]) {
            if policy.durability == Durability::Written {
                policy.durability = Durability::Synced;
            }
        }
        self
    }

    /// One level for every room, and nothing else said.
    pub fn all(durability: Durability) -> Self {
        let otherwise = RoomPolicy { durability, history_messages_max: 0, class: Class::SERVER };
        RoomPolicies { rules: Vec::new(), otherwise }
    }

    /// What holds for the room of that name.
    pub fn of(&self, room: &str) -> &RoomPolicy {
        let matching = self.rules.iter().find(|(pattern, _)| pattern.matches(room));
        matching.map_or(&self.otherwise, |(_, policy)| policy)
    }

    /// The retention classes of rooms that go to the log.
    pub fn classes(&self) -> BTreeSet<Class> {
        let policies = self.rules.iter().map(|(_, policy)| policy).chain([&self.otherwise]);
        policies.filter(|policy| policy.durability.is_logged()).map(|policy| policy.class).collect()
    }

    /// Whether any room goes to the log.
    pub fn has_logged(&self) -> bool {
        self.rules.iter().map(|(_, policy)| policy).chain([&self.otherwise]).any(|policy| policy.durability.is_logged())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_everything_else_for_itself() {
        let matches = |pattern: &str, room: &str| RoomPattern::new(pattern).matches(room);
        assert!(matches("game-*", "game-7") && matches("game-*", "game-") && matches("*", "") && matches("**", "x"));
        assert!(matches("*-eu-*", "lobby-eu-3") && matches("a*b*c", "a-b-b-c") && matches("lobby", "lobby"));
        assert!(!matches("game-*", "games") && !matches("lobby", "lobby2") && !matches("*x", "xy"));
        assert!(!matches("", "a") && !matches("a?c", "abc") && matches("ü*", "über"));
    }

    #[test]
    fn a_hostile_pattern_takes_no_longer_than_its_length_times_the_names() {
        assert!(!RoomPattern::new(&("*a".repeat(40) + "b")).matches(&"a".repeat(128)));
    }

    #[test]
    fn in_a_cluster_what_is_written_is_synced_and_memory_stays_memory() {
        for (before, after) in [
            (Durability::Written, Durability::Synced),
            (Durability::Synced, Durability::Synced),
            (Durability::Memory, Durability::Memory),
        ] {
            let mut policies = RoomPolicies::all(before);
            policies.rules.push((RoomPattern::new("a"), policies.otherwise));
            let policies = policies.in_cluster();
            assert_eq!((policies.of("a").durability, policies.of("b").durability), (after, after));
        }
    }

    #[test]
    fn the_first_pattern_that_matches_wins() {
        let policy = |durability| RoomPolicy { durability, ..RoomPolicies::all(Durability::Synced).otherwise };
        let policies = RoomPolicies {
            rules: vec![
                (RoomPattern::new("game-final"), policy(Durability::Written)),
                (RoomPattern::new("game-*"), policy(Durability::Memory)),
            ],
            otherwise: policy(Durability::Synced),
        };
        assert_eq!(policies.of("game-final").durability, Durability::Written);
        assert_eq!(policies.of("game-1").durability, Durability::Memory);
        assert_eq!(policies.of("lobby").durability, Durability::Synced);
        assert!(policies.has_logged() && !RoomPolicies::all(Durability::Memory).has_logged());
    }
}
