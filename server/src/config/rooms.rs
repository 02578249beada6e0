//! `[[rooms]]`: what holds for rooms by their names, as the file says it.
//!
//! The first entry whose pattern matches a room's name wins. What an entry leaves out comes from the server's own
//! values, which are known only when file and flags are one: so an entry is a [`RoomRule`] first, then a [`RoomPolicy`].

use banter_access::grants::{RoomDefault, RoomDefaults};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_chat::pacing::{DELIVERY_DELAY_MS_LARGEST, DeliveryDelays};
use banter_chat::policy::{Durability, RoomPattern, RoomPolicies, RoomPolicy};
use banter_chat::post_rates::PostRates;
use banter_log::segment::Class;
use banter_protocol::ids::RoomName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::auth::Auth;
use super::file::Document;
use super::{Config, ConfigFault, MUST_DURABILITY, Place, Table, parse_durability};

/// Entries of `[[rooms]]` at most: a room that appears is held against each of them in turn.
pub const ROOM_RULES_MAX: usize = 1_000;
/// As `Limits::check` has it for the server's own value.
const HISTORY_MESSAGES_LARGEST: u64 = 1 << 30;

/// The keys of an entry.
pub(super) const ROOM_KEYS: [&str; 9] = [
    "match",
    "durability",
    "history_messages_max",
    "retention_bytes",
    "retention_hours",
    "users",
    "guests",
    "posts_per_second_max",
    "delivery_delay_ms_max",
];

const MUST_RIGHTS: &str = "must be a list of rights, like [\"member\"] or [\"read\", \"history\"]";
/// Stands for the asker's own name in a token's patterns. Here it would be a name like any other.
const OWN_NAME: &str = "{user}";
const MUST_ROOMS: &str = "must be tables, each under its own [[rooms]]";
const MUST_MATCH: &str = "must be a room name of 1 to 128 bytes, in which * stands for any characters, like \"game-*\"";

/// An entry of `[[rooms]]`.
#[derive(Clone, Debug)]
pub struct RoomRule {
    /// Which rooms it is for.
    pub pattern: RoomPattern,
    /// Where it starts.
    pub place: Place,
    /// `durability`.
    pub durability: Option<Durability>,
    /// `history_messages_max`.
    pub history_messages_max: Option<u32>,
    /// `retention_bytes`.
    pub retention_bytes: Option<u64>,
    /// `retention_hours`.
    pub retention_hours: Option<u32>,
    /// `users`: what users may do there, whatever their tokens say.
    pub users: Option<Rights>,
    /// `guests`: what they may do there.
    pub guests: Option<Rights>,
    /// `posts_per_second_max`; 0 = no limit.
    pub posts_per_second_max: u32,
    /// `delivery_delay_ms_max`; 0 = never.
    pub delivery_delay_ms_max: Option<u32>,
}

impl RoomRule {
    fn gives_rights(&self) -> bool {
        self.users.is_some() || self.guests.is_some()
    }

    fn policy(&self, otherwise: &RoomPolicy) -> RoomPolicy {
        RoomPolicy {
            durability: self.durability.unwrap_or(otherwise.durability),
            history_messages_max: self.history_messages_max.unwrap_or(otherwise.history_messages_max),
            class: Class {
                hours: self.retention_hours.unwrap_or(otherwise.class.hours),
                bytes: self.retention_bytes.unwrap_or(otherwise.class.bytes),
            },
        }
    }
}

/// The rules as they hold, over what holds where none of them matches.
pub(super) fn policies(rules: &[RoomRule], otherwise: RoomPolicy) -> RoomPolicies {
    let rules = rules.iter().map(|rule| (rule.pattern.clone(), rule.policy(&otherwise))).collect();
    RoomPolicies { rules, otherwise }
}

/// How many posts a second rooms take.
pub(super) fn post_rates(rules: &[RoomRule]) -> PostRates {
    PostRates::new(rules.iter().map(|rule| (rule.pattern.clone(), rule.posts_per_second_max)).collect())
}

/// How long deliveries of rooms may wait for company, over what holds where no entry says it.
pub(super) fn delivery_delays(rules: &[RoomRule], otherwise_ms: u32) -> DeliveryDelays {
    let delay_ms = |rule: &RoomRule| rule.delivery_delay_ms_max.unwrap_or(otherwise_ms);
    let rules = rules.iter().map(|rule| (rule.pattern.clone(), delay_ms(rule))).collect();
    DeliveryDelays::new(rules, otherwise_ms)
}

/// A policy of that configuration as the entry that says it.
pub(super) fn entry(pattern: &RoomPattern, policy: &RoomPolicy, config: &Config) -> String {
    let Config { room_rights: rights, post_rates, delivery_delays, .. } = config;
    let given = rights.entries.iter().find(|(given, _)| given.as_str() == pattern.as_str());
    let given = given.map(|(_, given)| *given).unwrap_or_default();
    let list = |key: &str, rights: Rights| {
        let names: Vec<String> = rights.names().map(|name| format!("\"{name}\"")).collect();
        if names.is_empty() { String::new() } else { format!("{key} = [{}]\n", names.join(", ")) }
    };
    let (users, guests) = (list("users", given.users), list("guests", given.guests));
    let rate = post_rates.rules().iter().find(|(rated, _)| rated == pattern).map_or(0, |(_, rate)| *rate);
    let delay_ms = delivery_delays.of_pattern(pattern);
    format!(
        "\n[[rooms]]\nmatch = {}\ndurability = \"{}\"\nhistory_messages_max = {}\nretention_bytes = {}\n\
         retention_hours = {}\nposts_per_second_max = {rate}\ndelivery_delay_ms_max = {delay_ms}\n{users}{guests}",
        toml::Value::from(pattern.as_str()),
        policy.durability.name(),
        policy.history_messages_max,
        policy.class.bytes,
        policy.class.hours,
    )
}

impl Document<'_> {
    /// The entries of `[[rooms]]`.
    pub(super) fn rooms(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<RoomRule>, ConfigFault> {
        let entries = value.get_ref().as_array().ok_or_else(|| self.wrong("rooms", value, MUST_ROOMS))?;
        let mut rules: Vec<RoomRule> = Vec::new();
        for entry in entries.iter() {
            let place = self.place(&entry.span());
            if rules.len() == ROOM_RULES_MAX {
                let what = format!(
                    "[[rooms]] has {} entries, and at most {ROOM_RULES_MAX} are allowed: use * to say what holds for many",
                    entries.len()
                );
                return Err(ConfigFault::Table { place, what });
            }
            let table = entry.get_ref().as_table().ok_or_else(|| self.wrong("rooms", entry, MUST_ROOMS))?;
            let rule = self.room(table, place)?;
            check_reachable(&rules, &rule)?;
            rules.push(rule);
        }
        Ok(rules)
    }

    fn room(&self, table: &DeTable<'_>, place: Place) -> Result<RoomRule, ConfigFault> {
        let small = |key, value, largest| self.number(key, value, largest).map(|given| given.value as u32);
        let mut pattern = None;
        let mut rule = RoomRule {
            pattern: RoomPattern::new(""),
            place,
            durability: None,
            history_messages_max: None,
            retention_bytes: None,
            retention_hours: None,
            users: None,
            guests: None,
            posts_per_second_max: 0,
            delivery_delay_ms_max: None,
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "match" => pattern = Some(self.text_value("match", value, MUST_MATCH, parse_pattern)?.value),
                "durability" => {
                    let given = self.text_value("durability", value, MUST_DURABILITY, parse_durability)?;
                    rule.durability = Some(given.value);
                }
                "history_messages_max" => {
                    rule.history_messages_max = Some(small("history_messages_max", value, HISTORY_MESSAGES_LARGEST)?);
                }
                "retention_bytes" => {
                    rule.retention_bytes = Some(self.number("retention_bytes", value, u64::MAX)?.value);
                }
                "retention_hours" => rule.retention_hours = Some(small("retention_hours", value, u32::MAX.into())?),
                "users" => rule.users = Some(self.rights("users", value)?),
                "guests" => rule.guests = Some(self.rights("guests", value)?),
                "posts_per_second_max" => {
                    rule.posts_per_second_max = small("posts_per_second_max", value, u32::MAX.into())?;
                }
                "delivery_delay_ms_max" => {
                    let given = small("delivery_delay_ms_max", value, DELIVERY_DELAY_MS_LARGEST.into())?;
                    rule.delivery_delay_ms_max = Some(given);
                }
                unknown => return Err(self.unknown_key(&key.span(), unknown, Table::Rooms)),
            }
        }
        let what =
            || "an entry of [[rooms]] has no match: say which rooms it is for, like match = \"game-*\"".to_owned();
        rule.pattern = pattern.ok_or_else(|| ConfigFault::Table { place: rule.place.clone(), what: what() })?;
        Ok(rule)
    }
}

impl Document<'_> {
    fn rights(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Rights, ConfigFault> {
        let list = value.get_ref().as_array().ok_or_else(|| self.wrong(key, value, MUST_RIGHTS))?;
        let mut rights = Rights::NONE;
        for item in list.iter() {
            let parse = |text: &str| Rights::from_name(text).map_err(|unknown| format!("{MUST_RIGHTS}: {unknown}"));
            rights |= self.text_value(key, item, MUST_RIGHTS, parse)?.value;
        }
        Ok(rights)
    }
}

/// What the entries let users do who have proved who they are, and guests; where none says so, nothing.
pub(super) fn rights(rules: &[RoomRule], auth: &Auth) -> Result<RoomDefaults, ConfigFault> {
    let giving = rules.iter().filter(|rule| rule.gives_rights()).count();
    if *auth == Auth::Open {
        return match rules.iter().find(|rule| rule.gives_rights()) {
            None => Ok(RoomDefaults { entries: Vec::new(), otherwise: RoomDefault::PUBLIC }),
            Some(rule) => {
                let what = "`users` and `guests` say what those may do who prove who they are and those who do not: say \
                            mode = \"token\" in [auth]";
                Err(ConfigFault::Table { place: rule.place.clone(), what: what.to_owned() })
            }
        };
    }
    let (mut entries, mut seen) = (Vec::new(), 0);
    for rule in rules {
        // Behind the last one that gives something nothing is left to be kept from anybody.
        if seen == giving {
            break;
        }
        seen += usize::from(rule.gives_rights());
        let pattern = Pattern::new(rule.pattern.as_str()).ok().filter(|pattern| !pattern.as_str().contains(OWN_NAME));
        let pattern = pattern.ok_or_else(|| {
            let what = format!(
                "match = \"{}\" stands at or before an entry with `users` or `guests`: there a pattern is a name, or a \
                 beginning with one * at its end",
                rule.pattern.as_str()
            );
            ConfigFault::Table { place: rule.place.clone(), what }
        })?;
        let [users, guests] = [rule.users, rule.guests].map(Option::unwrap_or_default);
        entries.push((pattern, RoomDefault { users, guests }));
    }
    Ok(RoomDefaults { entries, otherwise: RoomDefault::CLOSED })
}

/// What is said there and does nothing, for people.
pub(super) fn warnings(rights: &RoomDefaults, takes_guests: bool) -> Vec<String> {
    let warning = |pattern: &Pattern, key: &str, rights: Rights| {
        let idle = rights.idle();
        (!idle.is_empty()).then(|| {
            format!(
                "[[rooms]] match = \"{}\": `{key}` gives {idle} and not read, which is of no use to who may not join: say \"read\" \
                 there too, unless tokens give it",
                pattern.as_str()
            )
        })
    };
    let without_guests = |pattern: &Pattern, rights: Rights| {
        (!takes_guests && !rights.is_empty()).then(|| {
            format!(
                "[[rooms]] match = \"{}\": `guests` gives rights, and nobody comes in as a guest: say guests = true in [auth], or \
                 leave it out",
                pattern.as_str()
            )
        })
    };
    let each = |(pattern, given): &(Pattern, RoomDefault)| {
        let idle = [warning(pattern, "users", given.users), warning(pattern, "guests", given.guests)];
        idle.into_iter().chain([without_guests(pattern, given.guests)])
    };
    rights.entries.iter().flat_map(each).flatten().collect()
}

/// A pattern keeps the rules of a room's name: one that breaks them matches no room.
fn parse_pattern(text: &str) -> Result<RoomPattern, String> {
    RoomName::new(text).map(|name| RoomPattern::new(name.as_str())).map_err(|_| MUST_MATCH.to_owned())
}

/// An entry behind one that takes all of its rooms can never match. A pattern that matches another's text takes all
/// that the other does: only its own `*` can have matched the other's.
fn check_reachable(earlier: &[RoomRule], rule: &RoomRule) -> Result<(), ConfigFault> {
    let Some(first) = earlier.iter().find(|first| first.pattern.matches(rule.pattern.as_str())) else { return Ok(()) };
    let what = format!(
        "match = \"{}\" can never match: \"{}\" ({}) stands before it and takes all of its rooms; put it first, or \
         remove it",
        rule.pattern.as_str(),
        first.pattern.as_str(),
        first.place,
    );
    Err(ConfigFault::Table { place: rule.place.clone(), what })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, fault};
    use super::*;

    #[test]
    fn what_an_entry_leaves_out_comes_from_the_server() {
        let text = "durability = 'written'\n[limits]\nhistory_messages_max = 9\nretention_bytes = 7\n\
                    [[rooms]]\nmatch = 'game-*'\ndurability = 'memory'\nhistory_messages_max = 100\n\
                    [[rooms]]\nmatch = 'audit'\nretention_bytes = 5\nretention_hours = 6\n";
        let rooms = config(text).unwrap().rooms;
        let policy = |durability, history_messages_max, retention_bytes, retention_hours| RoomPolicy {
            durability,
            history_messages_max,
            class: Class { hours: retention_hours, bytes: retention_bytes },
        };
        assert_eq!(*rooms.of("game-7"), policy(Durability::Memory, 100, 0, 0));
        assert_eq!(*rooms.of("audit"), policy(Durability::Written, 9, 5, 6));
        assert_eq!(*rooms.of("lobby"), policy(Durability::Written, 9, 0, 0));
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
        assert_eq!(
            fault("[[rooms]]\nmatch = 'a'\n\ndurabilty = 'memory'"),
            "banter.toml:4: unknown key \"durabilty\" in [[rooms]]: did you mean \"durability\"?"
        );
        assert!(fault("[[rooms]]\nlisten = 'a'").ends_with("did you mean \"listen\", outside [[rooms]]?"));
        assert!(fault("[[rooms]]\nrooms_max = 1").ends_with("did you mean \"rooms_max\" in [limits]?"));
        assert!(fault("[[rooms]]\nretention_hour = 1").ends_with("did you mean \"retention_hours\"?"));
        assert!(fault("[[rooms]]\nzzz = 1").ends_with(
            "the known ones are match, durability, history_messages_max, \
             retention_bytes, retention_hours, users, guests, posts_per_second_max, delivery_delay_ms_max"
        ));
        assert!(fault("match = 'a'").ends_with("did you mean \"match\" in [[rooms]]?"));
    }

    #[test]
    fn a_wrong_value_names_its_key_and_what_it_must_be() {
        assert_eq!(
            fault("[[rooms]]\nmatch = 'a'\nretention_hours = '1d'"),
            "banter.toml:3: retention_hours must be a whole number from 0 to 4294967295, and is '1d'"
        );
        let long = format!("[[rooms]]\nmatch = '{}'", "x".repeat(129));
        for (text, says) in [
            ("rooms = 3", "banter.toml:1: rooms must be tables, each under its own [[rooms]]"),
            ("rooms = ['a']", "banter.toml:1: rooms must be tables"),
            ("\n[rooms]\nmatch = 'a'", "banter.toml:2: rooms must be tables"),
            ("[[rooms]]\nmatch = ''", "banter.toml:2: match must be a room name of 1 to 128 bytes"),
            ("[[rooms]]\nmatch = 7", "match must be a room name"),
            ("[[rooms]]\nmatch = \"a\\n\"", "match must be a room name"),
            (&long, "match must be a room name"),
            (
                "[[rooms]]\nmatch = 'a'\ndurability = 'disk'",
                "banter.toml:3: durability must be \"memory\", \"written\"",
            ),
            ("[[rooms]]\nmatch = 'a'\nhistory_messages_max = 1073741825", "from 0 to 1073741824"),
            ("[[rooms]]\nmatch = 'a'\nretention_bytes = -1", "retention_bytes must be a whole number"),
        ] {
            assert!(fault(text).contains(says), "{text}: {}", fault(text));
        }
    }

    #[test]
    fn an_entry_without_a_pattern_is_refused_where_it_starts() {
        let text = fault("cores = 1\n[[rooms]]\nmatch = 'a'\n[[rooms]]\ndurability = 'memory'");
        assert!(text.starts_with("banter.toml:4: an entry of [[rooms]] has no match"), "{text}");
    }

    #[test]
    fn an_entry_that_can_never_match_is_refused() {
        let entries = |patterns: &[&str]| {
            patterns.iter().map(|pattern| format!("[[rooms]]\nmatch = '{pattern}'\n")).collect::<String>()
        };
        assert_eq!(
            fault(&entries(&["*", "game-*"])),
            "banter.toml:3: match = \"game-*\" can never match: \"*\" (banter.toml:1) stands before it and takes all of \
             its rooms; put it first, or remove it"
        );
        for patterns in [["**", "a"], ["a", "a"], ["game-*", "game-7"], ["game-*", "game-*-eu"], ["*", "*"]] {
            assert!(fault(&entries(&patterns)).contains("can never match"), "{patterns:?}");
        }
        for patterns in [["game-7", "game-*"], ["a*", "*a"], ["game-*", "*"], ["*-eu", "game-*"], ["a", "*"]] {
            assert_eq!(config(&entries(&patterns)).unwrap().rooms.rules.len(), 2, "{patterns:?}");
        }
    }

    #[test]
    fn a_right_that_is_of_no_use_without_read_is_told() {
        let warnings = |users: &str| {
            let token = "[auth]\nmode = 'token'\nsecret_file = 's'\n";
            config(&format!("{token}[[rooms]]\nmatch = 'lobby'\nusers = [{users}]")).unwrap().warnings()
        };
        let told = warnings("'write', 'history'");
        assert!(told.len() == 1 && told[0].contains("match = \"lobby\": `users` gives write and not read"), "{told:?}");
        for users in ["'read', 'write'", "'member'", "'history', 'presence'", ""] {
            assert!(warnings(users).is_empty(), "{users}");
        }
        assert!(config("").unwrap().warnings().is_empty());
    }

    #[test]
    fn rights_of_guests_where_none_come_in_are_told() {
        let warnings = |guests: bool, given: &str| {
            let token = format!("[auth]\nmode = 'token'\nsecret_file = 's'\nguests = {guests}\n");
            config(&format!("{token}[[rooms]]\nmatch = 'lobby'\nguests = [{given}]")).unwrap().warnings()
        };
        let told = warnings(false, "'read'");
        assert!(told.len() == 1 && told[0].contains("say guests = true in [auth]"), "{told:?}");
        assert!(warnings(true, "'read'").is_empty() && warnings(false, "").is_empty());
    }

    #[test]
    fn what_users_may_do_is_for_tokens_and_first_entries_keep_their_rooms() {
        let token = "[auth]\nmode = 'token'\nsecret_file = 's'\n";
        let text = format!("{token}[[rooms]]\nmatch = 'staff-*'\n[[rooms]]\nmatch = '*'\nusers = ['read', 'member']");
        let rights = config(&text).unwrap().room_rights;
        assert_eq!((rights.rights("lobby", "ann"), rights.rights("staff-1", "ann")), (Rights::MEMBER, Rights::NONE));
        assert_eq!(config(token).unwrap().room_rights.rights("lobby", "ann"), Rights::NONE);
        for (text, says) in [
            ("[[rooms]]\nmatch = 'a'\nusers = ['read']".to_owned(), "say mode = \"token\" in [auth]"),
            (format!("{token}[[rooms]]\nmatch = 'a'\nusers = 'read'"), "must be a list of rights"),
            (format!("{token}[[rooms]]\nmatch = 'a'\nusers = ['admin']"), "admin"),
            (format!("{token}[[rooms]]\nmatch = '*-x'\n[[rooms]]\nmatch = 'a'\nusers = ['read']"), "one * at its end"),
            (format!("{token}[[rooms]]\nmatch = 'in-{{user}}'\nusers = ['read']"), "one * at its end"),
        ] {
            assert!(fault(&text).contains(says), "{text}: {}", fault(&text));
        }
        let behind = format!("{token}[[rooms]]\nmatch = 'a'\nusers = ['read']\n[[rooms]]\nmatch = '*-x'");
        assert_eq!(config(&behind).unwrap().room_rights.rights("a", "ann"), Rights::READ);
    }

    #[test]
    fn what_guests_may_do_is_said_beside_what_users_may_and_each_has_its_own() {
        let token = "[auth]\nmode = 'token'\nsecret_file = 's'\n";
        let text = format!(
            "{token}[[rooms]]\nmatch = 'staff'\nusers = ['member']\n[[rooms]]\nmatch = 'door'\nguests = ['read', 'write']\n\
             [[rooms]]\nmatch = '*'\nusers = ['member']\nguests = ['read']"
        );
        // Without `guests = true`, too: one key in [auth] keeps all of them out, and what rooms say may stay as it is.
        let rights = config(&text).unwrap().room_rights;
        let of = |room: &str| (rights.rights(room, "ann"), rights.rights(room, "~gabc"));
        assert_eq!(of("staff"), (Rights::MEMBER, Rights::NONE));
        assert_eq!(of("door"), (Rights::NONE, Rights::READ | Rights::WRITE));
        assert_eq!(of("lobby"), (Rights::MEMBER, Rights::READ));
        for (text, says) in [
            ("[[rooms]]\nmatch = 'a'\nguests = ['read']".to_owned(), "say mode = \"token\" in [auth]"),
            (format!("{token}[[rooms]]\nmatch = 'a'\nguests = 'read'"), "guests must be a list of rights"),
            (format!("{token}[[rooms]]\nmatch = 'a'\nguests = ['owner']"), "owner"),
            (format!("{token}[[rooms]]\nmatch = '*-x'\n[[rooms]]\nmatch = 'a'\nguests = ['read']"), "one * at its end"),
        ] {
            assert!(fault(&text).contains(says), "{text}: {}", fault(&text));
        }
    }

    #[test]
    fn the_first_entry_that_matches_says_how_many_posts_a_room_takes() {
        let text = "[[rooms]]\nmatch = 'game-final'\n[[rooms]]\nmatch = 'game-*'\nposts_per_second_max = 50";
        let rates = config(text).unwrap().post_rates;
        assert_eq!(["game-1", "game-final", "lobby"].map(|room| rates.of(room)), [50, 0, 0]);
        assert!(
            fault("[[rooms]]\nmatch = 'a'\nposts_per_second_max = -1")
                .contains("posts_per_second_max must be a whole number")
        );
        assert!(fault("[[rooms]]\nposts_per_second = 1").ends_with("did you mean \"posts_per_second_max\"?"));
    }

    #[test]
    fn entries_are_counted() {
        let entries = |count: usize| (0..count).map(|n| format!("[[rooms]]\nmatch = 'r{n}'\n")).collect::<String>();
        assert_eq!(config(&entries(ROOM_RULES_MAX)).unwrap().rooms.rules.len(), ROOM_RULES_MAX);
        let text = fault(&entries(ROOM_RULES_MAX + 1));
        assert!(text.starts_with("banter.toml:2001: [[rooms]] has 1001 entries, and at most 1000"), "{text}");
    }
}
