//! `[[programs]]` and `[program_limits]`: which rooms have a program, what it is given, and what programs may take.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use banter_chat::policy::RoomPattern;
use banter_chat::programs::{OnFault, ProgramLimits, Programs};
use banter_protocol::ids::{RoomName, UserName};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::Document;
use super::{ConfigFault, Given, Place, Table};

/// The keys of an entry of `[[programs]]`.
pub(super) const PROGRAM_KEYS: [&str; 7] = ["match", "file", "name", "on_fault", "user", "grants", "config"];
/// The keys of `grants`.
pub(super) const GRANT_KEYS: [&str; 2] = ["words", "post_to"];
/// Characters of a program's name at most.
const NAME_CHARS_MAX: usize = 64;

const MUST_PROGRAMS: &str = "must be tables, each under its own [[programs]]";
const MUST_MATCH: &str = "must be a room name of 1 to 128 bytes, in which * stands for any characters, like \"game-*\"";
const MUST_FILE: &str = "must be the path of a Luau file, as a string";
const MUST_NAME: &str = "must be a name of 1 to 64 letters, digits, - and _";
const MUST_ON_FAULT: &str = "must be \"refuse\" or \"pass\"";
const MUST_USER: &str = "must be a name that begins with @, like \"@game\": nobody else comes in under such a name";
const MUST_GRANTS: &str = "must be a table, like { words = { bad = \"bad.txt\" }, post_to = [\"lobby\"] }";
const MUST_CONFIG: &str = "must be a table of texts, numbers, truths, lists and tables";

/// What one limit of programs is called, its unit, and what it is, for people.
pub struct ProgramLimitKey {
    /// Its name in `[program_limits]`.
    pub name: &'static str,
    /// Reads it.
    pub read: fn(&ProgramLimits) -> u32,
    /// Sets it.
    write: fn(&mut ProgramLimits, u32),
}

macro_rules! program_limits {
    ($($field:ident),* $(,)?) => {
        /// Every limit of programs.
        pub const PROGRAM_LIMITS: &[ProgramLimitKey] = &[$(ProgramLimitKey {
            name: stringify!($field),
            read: |limits| limits.$field,
            write: |limits, value| limits.$field = value,
        }),*];

        // A field that is missing here does not compile: the pattern is exhaustive.
        const _: fn(ProgramLimits) = |ProgramLimits { $($field: _),* }| ();
    };
}

program_limits! {
    units_per_call_max,
    watch_us,
    body_bytes_max,
    call_bytes_max,
    state_bytes_max,
    units_per_second_max,
    units_per_turn_max,
}

/// An entry of `[[programs]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramEntry {
    /// The rooms that have it.
    pub pattern: RoomPattern,
    /// Its text.
    pub file: PathBuf,
    /// What metrics and log lines call it.
    pub name: String,
    /// What is done where it fails.
    pub on_fault: OnFault,
    /// Who its own posts are from.
    pub user: UserName,
    /// Files with a word a line, by what the program calls them.
    pub words: BTreeMap<String, PathBuf>,
    /// Rooms that it may post to beside its own.
    pub post_to: Vec<RoomPattern>,
    /// What it finds in `config`.
    pub config: toml::Table,
}

// What a file says is equal to itself: no number of TOML that means anything is not.
impl Eq for ProgramEntry {}

impl ProgramEntry {
    /// As the file says it.
    pub(super) fn to_toml(&self) -> String {
        let text = |text: &str| toml::Value::from(text).to_string();
        let path = |path: &Path| text(&path.to_string_lossy());
        let on_fault = on_fault_name(self.on_fault);
        let mut out = format!(
            "\n[[programs]]\nmatch = {}\nfile = {}\nname = {}\non_fault = \"{on_fault}\"\nuser = {}\n",
            text(self.pattern.as_str()),
            path(&self.file),
            text(&self.name),
            text(self.user.as_str()),
        );
        let words: Vec<String> =
            self.words.iter().map(|(name, file)| format!("{} = {}", text(name), path(file))).collect();
        let post_to: Vec<String> = self.post_to.iter().map(|pattern| text(pattern.as_str())).collect();
        out.push_str(&format!(
            "grants = {{ words = {{ {} }}, post_to = [{}] }}\n",
            words.join(", "),
            post_to.join(", ")
        ));
        out.push_str(&format!("config = {}\n", toml::Value::Table(self.config.clone())));
        out
    }

    /// For people, on one line.
    pub(super) fn shown(&self) -> String {
        let (file, on_fault) = (self.file.display(), on_fault_name(self.on_fault));
        format!("{{ match = {:?}, file = \"{file}\", on_fault = \"{on_fault}\" }}", self.pattern.as_str())
    }
}

fn on_fault_name(on_fault: OnFault) -> &'static str {
    match on_fault {
        OnFault::Refuse => "refuse",
        OnFault::Pass => "pass",
    }
}

impl Document<'_> {
    /// The entries of `[[programs]]`.
    pub(super) fn programs(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<ProgramEntry>, ConfigFault> {
        let entries = value.get_ref().as_array().ok_or_else(|| self.wrong("programs", value, MUST_PROGRAMS))?;
        let mut programs: Vec<ProgramEntry> = Vec::new();
        for entry in entries.iter() {
            let table = entry.get_ref().as_table().ok_or_else(|| self.wrong("programs", entry, MUST_PROGRAMS))?;
            let place = self.place(&entry.span());
            let fault = |what: String| ConfigFault::Table { place: place.clone(), what };
            if programs.len() == Programs::MAX {
                return Err(fault(format!("[[programs]] has more than {} entries", Programs::MAX)));
            }
            let program = self.program(table, &place)?;
            if programs.iter().any(|other| other.name == program.name) {
                return Err(fault(format!(
                    "two entries of [[programs]] are called \"{}\": give one a `name`",
                    program.name
                )));
            }
            if let Some(first) = programs.iter().find(|first| first.pattern.matches(program.pattern.as_str())) {
                return Err(fault(format!(
                    "match = \"{}\" can never match: \"{}\" stands before it and takes all of its rooms; put it first, or remove it",
                    program.pattern.as_str(),
                    first.pattern.as_str()
                )));
            }
            programs.push(program);
        }
        Ok(programs)
    }

    fn program(&self, table: &DeTable<'_>, place: &Place) -> Result<ProgramEntry, ConfigFault> {
        let (mut pattern, mut file, mut name, mut on_fault, mut user) = (None, None, None, None, None);
        let (mut words, mut post_to, mut config) = (BTreeMap::new(), Vec::new(), toml::Table::new());
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "match" => pattern = Some(self.text_value("match", value, MUST_MATCH, parse_pattern)?.value),
                "file" => file = Some(self.text_value("file", value, MUST_FILE, parse_file)?.value),
                "name" => name = Some(self.text_value("name", value, MUST_NAME, parse_name)?.value),
                "on_fault" => on_fault = Some(self.text_value("on_fault", value, MUST_ON_FAULT, parse_on_fault)?.value),
                "user" => user = Some(self.text_value("user", value, MUST_USER, parse_user)?.value),
                "grants" => (words, post_to) = self.grants(value)?,
                "config" => config = self.program_config(value)?,
                unknown => return Err(self.unknown_key(&key.span(), unknown, Table::Programs)),
            }
        }
        let lacks = |what: &str| {
            let what = format!("an entry of [[programs]] has no {what}");
            move || ConfigFault::Table { place: place.clone(), what }
        };
        let pattern = pattern.ok_or_else(lacks("match: say which rooms it is for, like match = \"game-*\""))?;
        let file: PathBuf = file.ok_or_else(lacks("file: say where its text is, like file = \"game.luau\""))?;
        let on_fault = on_fault.ok_or_else(lacks(
            "on_fault: say what becomes of a post that it fails to decide of, \"refuse\" or \"pass\"; nobody else can",
        ))?;
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = match name {
            Some(name) => name,
            None => {
                parse_name(&stem).map_err(|_| lacks("name, and its file's cannot stand for one: say name = \"…\"")())?
            }
        };
        let user = match user {
            Some(user) => user,
            None => parse_user(&format!("@{name}")).map_err(|_| lacks("user: say user = \"@…\"")())?,
        };
        Ok(ProgramEntry { pattern, file, name, on_fault, user, words, post_to, config })
    }

    #[allow(clippy::type_complexity, reason = "the two parts of one table")]
    fn grants(
        &self,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(BTreeMap<String, PathBuf>, Vec<RoomPattern>), ConfigFault> {
        let table = value.get_ref().as_table().ok_or_else(|| self.wrong("grants", value, MUST_GRANTS))?;
        let (mut words, mut post_to) = (BTreeMap::new(), Vec::new());
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "words" => {
                    let files = value.get_ref().as_table().ok_or_else(|| self.wrong("words", value, MUST_GRANTS))?;
                    for (name, file) in files {
                        let file = self.text_value("words", file, MUST_FILE, parse_file)?.value;
                        words.insert(name.get_ref().to_string(), file);
                    }
                }
                "post_to" => {
                    let list = value.get_ref().as_array().ok_or_else(|| self.wrong("post_to", value, MUST_GRANTS))?;
                    for item in list.iter() {
                        post_to.push(self.text_value("post_to", item, MUST_MATCH, parse_pattern)?.value);
                    }
                }
                unknown => return Err(self.unknown_key(&key.span(), unknown, Table::ProgramGrants)),
            }
        }
        Ok((words, post_to))
    }

    fn program_config(&self, value: &Spanned<DeValue<'_>>) -> Result<toml::Table, ConfigFault> {
        let source = value.get_ref().as_table().ok_or_else(|| self.wrong("config", value, MUST_CONFIG))?;
        let owned = source.iter().map(|(key, value)| {
            let one = owned(value.get_ref()).ok_or_else(|| self.wrong(key.get_ref(), value, MUST_CONFIG))?;
            Ok((key.get_ref().to_string(), one))
        });
        owned.collect()
    }

    /// `[program_limits]`.
    pub(super) fn program_limits(&self, value: &Spanned<DeValue<'_>>) -> Result<Given<ProgramLimits>, ConfigFault> {
        let must = "must be a table: [program_limits]";
        let table = value.get_ref().as_table().ok_or_else(|| self.wrong("program_limits", value, must))?;
        let (mut limits, mut places) = (ProgramLimits::default(), BTreeMap::new());
        for (key, value) in table {
            let limit = PROGRAM_LIMITS.iter().find(|limit| limit.name == key.get_ref().as_ref());
            let limit = limit.ok_or_else(|| self.unknown_key(&key.span(), key.get_ref(), Table::ProgramLimits))?;
            let given = self.number(limit.name, value, u32::MAX.into())?;
            (limit.write)(&mut limits, given.value as u32);
            places.insert(limit.name, given.place);
        }
        let place = self.place(&value.span());
        limits.check().map_err(|fault| ConfigFault::Table {
            place: places.remove(fault.name).unwrap_or_else(|| place.clone()),
            what: format!("[program_limits] {}", fault.must),
        })?;
        Ok(Given { value: limits, place })
    }
}

/// `[program_limits]` as the file says it.
pub(super) fn limits_to_toml(limits: &ProgramLimits) -> String {
    let lines = PROGRAM_LIMITS.iter().map(|limit| format!("{} = {}\n", limit.name, (limit.read)(limits)));
    format!("\n[program_limits]\n{}", lines.collect::<String>())
}

/// A value without where it stands. None: it is a date, or a number that TOML can say and nothing here can hold.
fn owned(value: &DeValue<'_>) -> Option<toml::Value> {
    Some(match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(number) => toml::Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()?),
        DeValue::Float(number) => {
            toml::Value::Float(number.as_str().parse().ok().filter(|number: &f64| number.is_finite())?)
        }
        DeValue::Boolean(truth) => toml::Value::Boolean(*truth),
        DeValue::Datetime(_) => return None,
        DeValue::Array(list) => {
            toml::Value::Array(list.iter().map(|item| owned(item.get_ref())).collect::<Option<_>>()?)
        }
        DeValue::Table(table) => toml::Value::Table(
            table
                .iter()
                .map(|(key, value)| Some((key.get_ref().to_string(), owned(value.get_ref())?)))
                .collect::<Option<_>>()?,
        ),
    })
}

fn parse_pattern(text: &str) -> Result<RoomPattern, String> {
    RoomName::new(text).map(|name| RoomPattern::new(name.as_str())).map_err(|_| MUST_MATCH.to_owned())
}

fn parse_file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err(MUST_FILE.to_owned()) } else { Ok(text.into()) }
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    let is_right = (1..=NAME_CHARS_MAX).contains(&text.len()) && text.chars().all(is_name);
    if is_right { Ok(text.to_owned()) } else { Err(MUST_NAME.to_owned()) }
}

fn parse_on_fault(text: &str) -> Result<OnFault, String> {
    match text {
        "refuse" => Ok(OnFault::Refuse),
        "pass" => Ok(OnFault::Pass),
        _ => Err(MUST_ON_FAULT.to_owned()),
    }
}

fn parse_user(text: &str) -> Result<UserName, String> {
    let user = UserName::new(text).ok().filter(|user| user.as_str().starts_with('@'));
    user.ok_or_else(|| MUST_USER.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, fault};
    use super::*;

    fn entry(more: &str) -> String {
        format!("[[programs]]\nmatch = 'game-*'\nfile = 'game.luau'\non_fault = 'refuse'\n{more}")
    }

    #[test]
    fn an_entry_says_which_rooms_have_which_program_and_what_it_is_given() {
        let text = entry(
            "user = '@dealer'\ngrants = { words = { bad = 'bad.txt' }, post_to = ['lobby'] }\n\
             config = { every_ms = 5_000, names = ['a', 'b'], deep = { is = true, half = 0.5 } }\n\
             [[programs]]\nmatch = '*'\nfile = 'x/slow-mode.luau'\non_fault = 'pass'\n[program_limits]\nwatch_us = 0",
        );
        let first = config(&text).unwrap();
        let [game, slow] = &first.programs[..] else { panic!("two") };
        assert_eq!((game.name.as_str(), game.user.as_str()), ("game", "@dealer"));
        assert_eq!(
            (&game.words["bad"], game.config["every_ms"].as_integer()),
            (&PathBuf::from("bad.txt"), Some(5_000))
        );
        assert_eq!((slow.name.as_str(), slow.user.as_str(), slow.on_fault), ("slow-mode", "@slow-mode", OnFault::Pass));
        assert_eq!(first.program_limits.watch_us, 0);
        assert_eq!(config(&first.to_toml().unwrap()).unwrap(), first, "a printed configuration gives itself back");
    }

    #[test]
    fn what_is_missing_or_means_nothing_is_told_with_how_to_mend_it() {
        for (text, says) in [
            ("[[programs]]\nfile = 'a'\non_fault = 'pass'".to_owned(), "has no match"),
            ("[[programs]]\nmatch = 'a'\non_fault = 'pass'".to_owned(), "has no file"),
            ("[[programs]]\nmatch = 'a'\nfile = 'a'".to_owned(), "has no on_fault"),
            (entry("on_faults = 1"), "unknown key \"on_faults\" in [[programs]]: did you mean \"on_fault\"?"),
            (entry("user = 'game'"), "user must be a name that begins with @"),
            (entry("grants = { word = {} }"), "unknown key \"word\" in grants"),
            (entry("config = { at = 2020-01-01 }"), "at must be a table of texts"),
            (entry(&entry("").replace("game-*", "lobby")), "two entries of [[programs]] are called \"game\""),
            (entry(&entry("name = 'other'").replace("game-*", "game-7")), "\"game-7\" can never match"),
            (entry("[program_limits]\nunits_per_call_max = 1"), "units_per_call_max must be between 100"),
            (entry("[program_limits]\nunits = 1"), "unknown key \"units\" in [program_limits]"),
        ] {
            assert!(fault(&text).contains(says), "{text}: {}", fault(&text));
        }
    }
}
