//! What a server is told to be: the configuration, its TOML form, and how file, flags and defaults become one.
//!
//! A flag beats the file, the file beats the default. What a source said is a [`Settings`], in which every value
//! remembers its [`Place`], so that a fault found after the merge can still say where the value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use banter_chat::limits::Limits;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a server listens unless told otherwise.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7878);
/// The data folder unless told otherwise; relative paths are seen from the working folder, also those in a file.
pub const DEFAULT_DATA: &str = "./banter-data";
/// What is logged unless told otherwise.
pub const DEFAULT_LOG: &str = "info";

/// The keys outside every table.
const TOP_KEYS: [&str; 7] = ["listen", "data", "cores", "durability", "log", "limits", "rooms"];

/// One limit: a key of `[limits]`, and with dashes a flag.
pub struct LimitKey {
    /// The key in `[limits]`, and the field of [`Limits`].
    pub name: &'static str,
    /// The unit, as a flag's help shows it.
    pub unit: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// The largest number its field holds.
    pub largest: u64,
    /// Reads it.
    pub read: fn(&Limits) -> u64,
    /// Sets it; false, and nothing set, above [`LimitKey::largest`].
    pub write: fn(&mut Limits, u64) -> bool,
}

/// Makes [`LIMITS`]. A field of `Limits` that is missing here does not compile: the pattern is exhaustive.
macro_rules! limit_table {
    ($($field:ident: $type:ty = $unit:literal, $about:literal;)*) => {
        /// Every limit, in the order in which help and configuration show them.
        pub const LIMITS: &[LimitKey] = &[$(LimitKey {
            name: stringify!($field),
            unit: $unit,
            about: $about,
            largest: <$type>::MAX as u64,
            read: |limits| limits.$field.into(),
            write: |limits, value| <$type>::try_from(value).map(|value| limits.$field = value).is_ok(),
        }),*];

        const _: fn(Limits) = |Limits { $($field: _),* }| ();
    };
}

limit_table! {
    frame_bytes_max: u32 = "BYTES", "one frame or message from a peer";
    connections_max: u32 = "COUNT", "connections of the server; 0 = as descriptors allow";
    rooms_max: u32 = "COUNT", "rooms of the server";
    rooms_per_connection_max: u32 = "COUNT", "rooms one connection may have joined";
    posts_per_second_max: u32 = "COUNT", "posts and signals a second of one connection; 0 = no limit";
    handshake_timeout_ms: u32 = "MS", "from accept to the end of the handshake";
    idle_timeout_ms: u32 = "MS", "silence until a peer is closed (pinged at half); 0 = never";
    outbox_bytes_max: u32 = "BYTES", "waiting for one connection before it falls behind";
    presence_members_max: u32 = "COUNT", "members above which presence tells counts only";
    presence_interval_ms: u32 = "MS", "between two counts-only presence events of a room";
    fetch_messages_max: u32 = "COUNT", "messages one fetch may ask for";
    history_messages_max: u32 = "COUNT", "messages a room in memory keeps; 0 = no limit of its own";
    history_bytes_per_core_max: u64 = "BYTES", "history one core keeps in memory over all its rooms";
    dedupe_keys_max: u32 = "COUNT", "newest keyed posts a room remembers the keys of";
    dedupe_window_ms: u32 = "MS", "that a key is remembered";
    log_segment_bytes: u32 = "BYTES", "one segment file of the log";
    log_commit_bytes_max: u32 = "BYTES", "messages one commit of a core's log takes";
    log_free_bytes_min: u64 = "BYTES", "the log leaves free on its disk; below: log_full";
    log_reads_max: u32 = "COUNT", "reads of the log one core has under way";
    retention_bytes: u64 = "BYTES", "the log, above which its oldest segments go; 0 = no limit";
    retention_hours: u32 = "HOURS", "after which a segment of the log goes; 0 = never";
    catch_up_bytes_per_turn_max: u32 = "BYTES", "history one turn hands to readers that catch up";
    run_bytes_max: u32 = "BYTES", "newest frames a room keeps to send, per core and form";
    run_bytes_per_core_max: u64 = "BYTES", "newest frames to send over all rooms of a core";
    lane_parcels_max: u32 = "COUNT", "parcels one lane between two cores holds";
    drain_timeout_ms: u32 = "MS", "a stopping server takes at most to deliver and close";
}

/// How safe a message is before it is acknowledged and shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// In this process's memory: gone when it ends.
    #[default]
    Memory,
    /// Handed to the kernel: survives the process.
    Written,
    /// On the disk: survives a power cut.
    Synced,
}

impl Durability {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Written => "written",
            Durability::Synced => "synced",
        }
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let levels = [Durability::Memory, Durability::Written, Durability::Synced];
        levels.into_iter().find(|level| level.name() == text).ok_or_else(|| MUST_DURABILITY.to_owned())
    }
}

const MUST_LISTEN: &str = "must be an IP address and a port, like \"127.0.0.1:7878\" or \"[::]:7878\"";
const MUST_DATA: &str = "must be the path of a folder, as a string";
const MUST_CORES: &str =
    "must be a count (2), a list of CPUs (\"0,1\"; of one CPU: \"0,\" or [0]), a range \"0-3\" or \"all\"";
const MUST_DURABILITY: &str = "must be \"memory\", \"written\" or \"synced\"";
const MUST_LOG: &str = "must be a log filter, like \"info\" or \"warn,banter_server=debug\"";

/// Which CPUs to run on, as a person says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CoreChoice {
    /// All that this process may run on.
    #[default]
    All,
    /// The first so many of these.
    Count(usize),
    /// Exactly these.
    List(Vec<usize>),
}

impl FromStr for CoreChoice {
    type Err = String;

    /// `all` · `2`: a count · `0,1`, `0,`, `[0]`, `0-3`, `0-1,4`: a list.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let must = || MUST_CORES.to_owned();
        if text == "all" {
            return Ok(CoreChoice::All);
        }
        let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if bracketed.is_none() && !text.contains([',', '-']) {
            return text.parse().map(CoreChoice::Count).map_err(|_| must());
        }
        let list = bracketed.unwrap_or(text).trim();
        let mut cpus = Vec::new();
        for part in list.strip_suffix(',').unwrap_or(list).split(',') {
            cpus.extend(cpu_range(part).ok_or_else(must)?);
        }
        Ok(CoreChoice::List(cpus))
    }
}

/// `3` or `0-3`. A number that no kernel gives a CPU is refused, so that a slip does not make a list of millions.
fn cpu_range(part: &str) -> Option<std::ops::RangeInclusive<usize>> {
    const CPUS_MAX: usize = 8_192;
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last && last < CPUS_MAX).then_some(first..=last)
}

impl CoreChoice {
    /// The CPUs that this choice means for a process that may run on `allowed`.
    fn resolve(&self, allowed: &[usize]) -> Result<Vec<usize>, String> {
        match self {
            CoreChoice::All => Ok(allowed.to_vec()),
            CoreChoice::Count(0) => Err("must be at least 1".to_owned()),
            CoreChoice::Count(count) => allowed.get(..*count).map(<[usize]>::to_vec).ok_or_else(|| {
                format!("asks for {count} CPUs, and this process may run on {}: {allowed:?}", allowed.len())
            }),
            CoreChoice::List(list) => check_list(list, allowed).map(|()| list.clone()),
        }
    }
}

/// An executor owns its CPU, so none may be named twice.
fn check_list(list: &[usize], allowed: &[usize]) -> Result<(), String> {
    if list.is_empty() {
        return Err("names no CPU".to_owned());
    }
    for (index, cpu) in list.iter().enumerate() {
        if list[..index].contains(cpu) {
            return Err(format!("names CPU {cpu} twice"));
        }
        if !allowed.contains(cpu) {
            return Err(format!(
                "names CPU {cpu}, and this process may run only on {allowed:?}, by taskset, cpuset or what is online"
            ));
        }
    }
    Ok(())
}

/// A configuration in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The data folder.
    pub data: PathBuf,
    /// The CPUs to run on, one executor each; never empty.
    pub cores: Vec<usize>,
    /// The level of every room.
    pub durability: Durability,
    /// The log filter, as `tracing_subscriber::EnvFilter` reads it.
    pub log: String,
    /// Every limit.
    pub limits: Limits,
}

impl Config {
    /// This configuration as a TOML file that gives it back.
    ///
    /// # Errors
    /// A data folder whose name is not UTF-8, which TOML cannot say.
    pub fn to_toml(&self) -> Result<String, ConfigFault> {
        let data = self.data.to_str().ok_or_else(|| ConfigFault::PathNotText(self.data.clone()))?;
        let text = |text: &str| toml::Value::from(text).to_string();
        let mut out = format!(
            "listen = \"{}\"\ndata = {}\ncores = {:?}\ndurability = \"{}\"\nlog = {}\n\n[limits]\n",
            self.listen,
            text(data),
            self.cores,
            self.durability.name(),
            text(&self.log),
        );
        for limit in LIMITS {
            out.push_str(&format!("{} = {}\n", limit.name, (limit.read)(&self.limits)));
        }
        Ok(out)
    }
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of a file, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A flag, with its dashes.
    Flag(String),
    /// Nowhere: it is the default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line } => write!(out, "{}:{line}", path.display()),
            Place::Flag(flag) => out.write_str(flag),
            Place::Default => out.write_str("the default"),
        }
    }
}

/// A value and where it was given.
#[derive(Clone, Debug)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where it was given.
    pub place: Place,
}

/// A configuration that does not hold, or that this version or this host cannot give.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFault {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {error}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{place}: not valid TOML: {what}")]
    Syntax {
        /// The file and the line.
        place: Place,
        /// What the parser says.
        what: String,
    },
    /// A key that means nothing.
    #[error("{place}: unknown key \"{key}\"{table}: {hint}", table = if *.in_limits { " in [limits]" } else { "" })]
    UnknownKey {
        /// The file and the line.
        place: Place,
        /// The key.
        key: String,
        /// Whether it stands in `[limits]`.
        in_limits: bool,
        /// The nearest known one.
        hint: String,
    },
    /// A value of another type or form than its key wants.
    #[error("{place}: {key} {must}, and is {found}")]
    WrongValue {
        /// The file and the line.
        place: Place,
        /// The key.
        key: String,
        /// What it must be: `must be …`.
        must: String,
        /// What stands there.
        found: String,
    },
    /// A limit outside its range, or two that contradict each other.
    #[error("[limits] {must} (from {place})")]
    Limit {
        /// The rule, with the limit's name and its value.
        must: String,
        /// Where the limit was given.
        place: Place,
    },
    /// CPUs that this process cannot have.
    #[error("cores {what} (from {place})")]
    Cores {
        /// What is wrong.
        what: String,
        /// Where the choice was given.
        place: Place,
    },
    /// A level that this version does not have.
    #[error("durability \"{}\" is not available in this version: only \"memory\" is (from {place})", .level.name())]
    DurabilityUnavailable {
        /// The level.
        level: Durability,
        /// Where it was given.
        place: Place,
    },
    /// `[[rooms]]`, which this version does not have.
    #[error("{0}: [[rooms]] is not available in this version: every room has the server's durability and [limits]")]
    RoomsUnavailable(Place),
    /// A path that TOML cannot say.
    #[error("cannot print the configuration: the data folder's name {0:?} is not UTF-8")]
    PathNotText(PathBuf),
}

/// What one source said.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `listen`.
    pub listen: Option<Given<SocketAddr>>,
    /// `data`.
    pub data: Option<Given<PathBuf>>,
    /// `cores`.
    pub cores: Option<Given<CoreChoice>>,
    /// `durability`.
    pub durability: Option<Given<Durability>>,
    /// `log`.
    pub log: Option<Given<String>>,
    /// `[limits]`, by name.
    pub limits: BTreeMap<&'static str, Given<u64>>,
}

impl Settings {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// The file is unreadable, no TOML, or says what this version does not know.
    pub fn read(path: &Path) -> Result<Settings, ConfigFault> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigFault::Unreadable { path: path.to_owned(), error })?;
        Document { path, text: &text }.settings()
    }

    /// These settings, and those of `lower` where these say nothing.
    #[must_use]
    pub fn over(self, lower: Settings) -> Settings {
        let mut limits = lower.limits;
        limits.extend(self.limits);
        Settings {
            listen: self.listen.or(lower.listen),
            data: self.data.or(lower.data),
            cores: self.cores.or(lower.cores),
            durability: self.durability.or(lower.durability),
            log: self.log.or(lower.log),
            limits,
        }
    }

    /// The configuration in effect for a process that may run on the CPUs `allowed`.
    ///
    /// # Errors
    /// A limit breaks a rule, a CPU is not to be had, or this version lacks what is asked.
    pub fn resolve(self, allowed: &[usize]) -> Result<Config, ConfigFault> {
        let limits = self.resolve_limits()?;
        let (choice, place) = take(self.cores, CoreChoice::All);
        let cores = choice.resolve(allowed).map_err(|what| ConfigFault::Cores { what, place })?;
        let (durability, place) = take(self.durability, Durability::Memory);
        if durability != Durability::Memory {
            return Err(ConfigFault::DurabilityUnavailable { level: durability, place });
        }
        Ok(Config {
            listen: take(self.listen, DEFAULT_LISTEN).0,
            data: take(self.data, DEFAULT_DATA.into()).0,
            cores,
            durability,
            log: take(self.log, DEFAULT_LOG.to_owned()).0,
            limits,
        })
    }

    fn resolve_limits(&self) -> Result<Limits, ConfigFault> {
        let place_of = |name| self.limits.get(name).map_or(Place::Default, |given| given.place.clone());
        let mut limits = Limits::default();
        for limit in LIMITS {
            if let Some(given) = self.limits.get(limit.name)
                && !(limit.write)(&mut limits, given.value)
            {
                let must = format!("{} must be at most {}, and is {}", limit.name, limit.largest, given.value);
                return Err(ConfigFault::Limit { must, place: given.place.clone() });
            }
        }
        limits.check().map_err(|fault| ConfigFault::Limit { place: place_of(fault.name), must: fault.must })?;
        Ok(limits)
    }
}

/// A value with its place, or the default.
fn take<T>(given: Option<Given<T>>, default: T) -> (T, Place) {
    given.map_or((default, Place::Default), |given| (given.value, given.place))
}

/// Reads an address, for file and flag alike.
///
/// # Errors
/// What it must be.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| MUST_LISTEN.to_owned())
}

/// Reads a log filter, for file and flag alike.
///
/// # Errors
/// What it must be.
pub fn parse_log(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err(MUST_LOG.to_owned()),
    }
}

/// A file that is being read.
struct Document<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Document<'_> {
    fn settings(&self) -> Result<Settings, ConfigFault> {
        let table = DeTable::parse(self.text).map_err(|error| ConfigFault::Syntax {
            place: self.place(&error.span().unwrap_or_default()),
            what: error.message().to_owned(),
        })?;
        let mut settings = Settings::default();
        for (key, value) in table.get_ref() {
            match key.get_ref().as_ref() {
                "listen" => settings.listen = Some(self.text_value("listen", value, MUST_LISTEN, parse_listen)?),
                "data" => settings.data = Some(self.text_value("data", value, MUST_DATA, parse_data)?),
                "cores" => settings.cores = Some(self.cores(value)?),
                "durability" => {
                    settings.durability = Some(self.text_value("durability", value, MUST_DURABILITY, str::parse)?);
                }
                "log" => settings.log = Some(self.text_value("log", value, MUST_LOG, parse_log)?),
                "limits" => settings.limits = self.limits(value)?,
                "rooms" => return Err(ConfigFault::RoomsUnavailable(self.place(&key.span()))),
                unknown => return Err(self.unknown_key(&key.span(), unknown, false)),
            }
        }
        Ok(settings)
    }

    fn limits(&self, value: &Spanned<DeValue<'_>>) -> Result<BTreeMap<&'static str, Given<u64>>, ConfigFault> {
        let table =
            value.get_ref().as_table().ok_or_else(|| self.wrong("limits", value, "must be a table: [limits]"))?;
        let mut limits = BTreeMap::new();
        for (key, value) in table {
            let limit = LIMITS
                .iter()
                .find(|limit| limit.name == key.get_ref().as_ref())
                .ok_or_else(|| self.unknown_key(&key.span(), key.get_ref(), true))?;
            let number = whole_number(value.get_ref()).filter(|number| *number <= limit.largest).ok_or_else(|| {
                self.wrong(limit.name, value, &format!("must be a whole number from 0 to {}", limit.largest))
            })?;
            limits.insert(limit.name, Given { value: number, place: self.place(&value.span()) });
        }
        Ok(limits)
    }

    fn cores(&self, value: &Spanned<DeValue<'_>>) -> Result<Given<CoreChoice>, ConfigFault> {
        let cpu = |value: &DeValue<'_>| whole_number(value).and_then(|number| usize::try_from(number).ok());
        let choice = match value.get_ref() {
            DeValue::String(text) => text.parse().ok(),
            DeValue::Array(list) => {
                list.iter().map(|item| cpu(item.get_ref())).collect::<Option<_>>().map(CoreChoice::List)
            }
            other => cpu(other).map(CoreChoice::Count),
        };
        let choice = choice.ok_or_else(|| self.wrong("cores", value, MUST_CORES))?;
        Ok(Given { value: choice, place: self.place(&value.span()) })
    }

    fn text_value<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        must: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Given<T>, ConfigFault> {
        let text = value.get_ref().as_str().ok_or_else(|| self.wrong(key, value, must))?;
        let parsed = parse(text).map_err(|must| self.wrong(key, value, &must))?;
        Ok(Given { value: parsed, place: self.place(&value.span()) })
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, must: &str) -> ConfigFault {
        const SHOWN_CHARS_MAX: usize = 40;
        let source = self.text.get(value.span()).unwrap_or_default().lines().next().unwrap_or_default();
        let found = match source.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &source[..end]),
            None => source.to_owned(),
        };
        ConfigFault::WrongValue { place: self.place(&value.span()), key: key.to_owned(), must: must.to_owned(), found }
    }

    fn unknown_key(&self, span: &Range<usize>, key: &str, in_limits: bool) -> ConfigFault {
        ConfigFault::UnknownKey { place: self.place(span), key: key.to_owned(), in_limits, hint: hint(key, in_limits) }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or_default();
        Place::File { path: self.path.to_owned(), line: 1 + before.matches('\n').count() }
    }
}

fn parse_data(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err(MUST_DATA.to_owned()) } else { Ok(text.into()) }
}

fn whole_number(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The known key that is nearest to an unknown one, also when it belongs to the other table.
fn hint(key: &str, in_limits: bool) -> String {
    // Below this two names have little in common, and a list helps more than a guess.
    const NEAR: f64 = 0.6;
    let limits = LIMITS.iter().map(|limit| (limit.name, true));
    let nearest = TOP_KEYS
        .iter()
        .map(|name| (*name, false))
        .chain(limits)
        .map(|(name, limit)| (strsim::normalized_damerau_levenshtein(key, name), limit == in_limits, name, limit))
        .filter(|candidate| candidate.0 >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    match nearest {
        Some((_, true, name, _)) => format!("did you mean \"{name}\"?"),
        Some((_, _, name, true)) => format!("did you mean \"{name}\" in [limits]?"),
        Some((_, _, name, false)) => format!("did you mean \"{name}\", outside [limits]?"),
        None if in_limits => "banter --help-limits lists the known ones".to_owned(),
        None => format!("the known ones are {}", TOP_KEYS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, ConfigFault> {
        Document { path: Path::new("banter.toml"), text }.settings()
    }

    fn config(text: &str) -> Result<Config, ConfigFault> {
        settings(text)?.resolve(&[0, 1, 4])
    }

    fn fault(text: &str) -> String {
        config(text).expect_err(text).to_string()
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = config("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7878");
        assert_eq!(config.data, PathBuf::from(DEFAULT_DATA));
        assert_eq!(config.cores, [0, 1, 4]);
        assert_eq!(config.durability, Durability::Memory);
        assert_eq!(config.log, DEFAULT_LOG);
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn every_limit_reads_back_what_was_written() {
        for (index, limit) in LIMITS.iter().enumerate() {
            let (mut limits, value) = (Limits::default(), 5_000_000 + index as u64);
            assert!((limit.write)(&mut limits, value));
            assert_eq!((limit.read)(&limits), value, "{}", limit.name);
            assert!(limit.largest == u64::MAX || !(limit.write)(&mut limits, limit.largest + 1));
        }
    }

    #[test]
    fn a_printed_configuration_gives_itself_back() {
        let text = "listen = '[::1]:0'\ndata = 'a \"b\"\\c'\ncores = [4]\nlog = 'warn,banter_server=debug'\n\
                    [limits]\nrooms_max = 7\nhistory_bytes_per_core_max = 0x1000_0000_0";
        let first = config(text).unwrap();
        assert_eq!(first.limits.rooms_max, 7);
        assert_eq!(config(&first.to_toml().unwrap()).unwrap(), first);
    }

    #[test]
    fn a_data_folder_that_toml_cannot_say_is_refused_in_print() {
        use std::os::unix::ffi::OsStringExt;
        let mut config = config("").unwrap();
        config.data = PathBuf::from(std::ffi::OsString::from_vec(vec![0xff]));
        assert!(matches!(config.to_toml(), Err(ConfigFault::PathNotText(_))));
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
        assert_eq!(
            fault("listen = '127.0.0.1:0'\n[limits]\nconections_max = 1"),
            "banter.toml:3: unknown key \"conections_max\" in [limits]: did you mean \"connections_max\"?"
        );
        assert_eq!(fault("lisen = 1"), "banter.toml:1: unknown key \"lisen\": did you mean \"listen\"?");
        assert!(fault("rooms_max = 1").ends_with("did you mean \"rooms_max\" in [limits]?"));
        assert!(fault("[limits]\nlisten = 1").ends_with("did you mean \"listen\", outside [limits]?"));
        assert!(fault("zzz = 1").contains("the known ones are listen, data"));
        assert!(fault("[limits]\nzzz = 1").contains("--help-limits"));
    }

    #[test]
    fn every_key_that_a_hint_may_name_is_known() {
        for key in TOP_KEYS {
            assert!(!matches!(settings(&format!("{key} = 1")), Err(ConfigFault::UnknownKey { .. })), "{key}");
        }
    }

    #[test]
    fn a_wrong_value_names_its_key_and_what_it_must_be() {
        assert_eq!(
            fault("[limits]\n\nrooms_max = \"64KiB\""),
            "banter.toml:3: rooms_max must be a whole number from 0 to 4294967295, and is \"64KiB\""
        );
        for (text, says) in [
            ("[limits]\nrooms_max = -1", "and is -1"),
            ("[limits]\nrooms_max = 4294967296", "from 0 to 4294967295, and is 4294967296"),
            ("[limits]\nrooms_max = 1.5", "must be a whole number"),
            ("limits = 3", "limits must be a table"),
            ("listen = 'localhost'", "listen must be an IP address and a port"),
            ("listen = 7878", "and is 7878"),
            ("data = ''", "data must be the path"),
            ("data = true", "data must be the path"),
            ("durability = 'disk'", "durability must be \"memory\", \"written\" or \"synced\", and is 'disk'"),
            ("log = 'banter=loud'", "log must be a log filter"),
            ("log = ''", "log must be a log filter"),
            ("cores = 1.5", "cores must be a count"),
            ("cores = [0, 'a']", "cores must be a count"),
            ("cores = -1", "cores must be a count"),
        ] {
            assert!(fault(text).contains(says), "{text}: {}", fault(text));
        }
        let long = fault(&format!("listen = '{}'", "é".repeat(100)));
        assert!(long.ends_with('…') && long.len() < 260, "{long}");
    }

    #[test]
    fn a_limit_outside_its_range_says_the_rule_and_its_place() {
        assert_eq!(
            fault("[limits]\nlane_parcels_max = 3"),
            "[limits] lane_parcels_max must be between 16 and 1048576, and is 3 (from banter.toml:2)"
        );
        let contradiction = fault("[limits]\nframe_bytes_max = 1048576");
        assert!(contradiction.contains("outbox_bytes_max") && contradiction.ends_with("(from the default)"));
    }

    #[test]
    fn broken_toml_names_its_line() {
        assert!(fault("listen = '127.0.0.1:0'\ncores = ").starts_with("banter.toml:2: not valid TOML: "));
        assert!(fault("cores = 1\ncores = 2").starts_with("banter.toml:2: not valid TOML: duplicate key"));
    }

    #[test]
    fn what_this_version_lacks_is_refused_by_name() {
        assert_eq!(
            fault("durability = \"synced\""),
            "durability \"synced\" is not available in this version: only \"memory\" is (from banter.toml:1)"
        );
        assert!(fault("durability = \"written\"").starts_with("durability \"written\" is not available"));
        assert!(fault("\n[[rooms]]\nmatch = 'a'").starts_with("banter.toml:2: [[rooms]] is not available"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let fault = Settings::read(Path::new("/nonexistent/banter.toml")).expect_err("no such file").to_string();
        assert!(fault.contains("cannot read the configuration /nonexistent/banter.toml: "), "{fault}");
    }

    #[test]
    fn cores_are_a_count_or_a_list() {
        let list = |cpus: &[usize]| Ok(CoreChoice::List(cpus.to_vec()));
        assert_eq!("all".parse(), Ok(CoreChoice::All));
        assert_eq!("2".parse(), Ok(CoreChoice::Count(2)));
        assert_eq!("0,1".parse(), list(&[0, 1]));
        assert_eq!(" 0, 1 ".parse(), list(&[0, 1]));
        assert_eq!("0,".parse(), list(&[0]));
        assert_eq!("[0]".parse(), list(&[0]));
        assert_eq!("[0, 1,]".parse(), list(&[0, 1]));
        assert_eq!("0-2,5".parse(), list(&[0, 1, 2, 5]));
        for text in ["", "two", ",", "0,,1", "[0", "[]", "3-1", "-1", "0-99999999999", "1 2"] {
            assert_eq!(text.parse::<CoreChoice>(), Err(MUST_CORES.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn cores_are_taken_from_those_this_process_may_run_on() {
        assert_eq!(config("cores = 2").unwrap().cores, [0, 1]);
        assert_eq!(config("cores = [4, 0]").unwrap().cores, [4, 0]);
        assert_eq!(config("cores = \"4,\"").unwrap().cores, [4]);
        for (text, says) in [
            ("cores = 0", "cores must be at least 1"),
            ("cores = 4", "cores asks for 4 CPUs, and this process may run on 3: [0, 1, 4] (from banter.toml:1)"),
            ("cores = [2]", "cores names CPU 2, and this process may run only on [0, 1, 4]"),
            ("cores = [1, 1]", "cores names CPU 1 twice"),
            ("cores = []", "cores names no CPU"),
        ] {
            assert!(fault(text).starts_with(says), "{}", fault(text));
        }
    }

    #[test]
    fn the_upper_source_wins_key_by_key() {
        let upper = settings("cores = 1\n[limits]\nrooms_max = 1").unwrap();
        let lower = settings("cores = 2\nlog = 'warn'\n[limits]\nrooms_max = 2\nlane_parcels_max = 32").unwrap();
        let config = upper.over(lower).resolve(&[0, 1]).unwrap();
        assert_eq!((config.cores, config.log.as_str()), (vec![0], "warn"));
        assert_eq!((config.limits.rooms_max, config.limits.lane_parcels_max), (1, 32));
    }
}
