//! What a server is told to be: the configuration, its TOML form, and how file, flags and defaults become one.
//!
//! A flag beats the file, the file beats the default. What a source said is a [`Settings`], in which every value
//! remembers its [`Place`], so that a fault found after the merge can still say where the value came from.
//!
//! `file` reads the TOML, `rooms` its `[[rooms]]`, `programs` its `[[programs]]`, `cores` says which CPUs are meant, `fault` says what can be wrong, `changes`
//! what a file that is read again changes.

mod admin;
mod auth;
mod changes;
mod cluster;
mod cores;
mod fault;
mod file;
mod logging;
mod programs;
mod rooms;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use banter_access::address::Cidr;
use banter_access::gate::Proxies;
use banter_access::grants::RoomDefaults;
use banter_access::guest::GuestSeed;
use banter_access::limit::{DryRun, Limit};
use banter_chat::access::{Access, TokenAccess};
use banter_chat::limits::Limits;
use banter_chat::pacing::DeliveryDelays;
use banter_chat::policy::{Durability, RoomPolicies, RoomPolicy};
use banter_chat::post_rates::PostRates;
use banter_chat::programs::ProgramLimits;
use banter_log::segment::Class;
use banter_protocol::origin::{AllowedOrigin, OriginRule};

use crate::core::connections::Entrance;
use crate::core::doorway::UpgradeRule;

pub use admin::Admin;
pub use auth::{Auth, LIFETIME_HOURS_LARGEST, TokenAuth};
pub use changes::{Change, Changes, LIVE_LIMITS, merge};
pub use cluster::Cluster;
pub use cores::CoreChoice;
pub use fault::{ConfigFault, Place, Table};
pub use logging::{LogFormat, log_filter, parse_log};
pub use programs::{PROGRAM_LIMITS, ProgramEntry};
pub use rooms::{ROOM_RULES_MAX, RoomRule};

/// Where a server listens unless told otherwise.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7878);
/// The data folder unless told otherwise; relative paths are seen from the working folder, also those in a file.
pub const DEFAULT_DATA: &str = "./banter-data";
/// What is logged unless told otherwise.
pub const DEFAULT_LOG: &str = "info";

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

        const _: fn(Limits) = |Limits { $($field: _,)* dry_run: _ }| ();
    };
}

limit_table! {
    frame_bytes_max: u32 = "BYTES", "one frame or message from a peer";
    connections_max: u32 = "COUNT", "connections of the server; 0 = as descriptors allow";
    connections_unproved_max: u32 = "COUNT", "of them not said yet who they are; 0 = no limit";
    guests_max: u32 = "COUNT", "of them guests; 0 = no limit";
    connections_per_ip_max: u32 = "COUNT", "connections of an address, or IPv6 /64; 0 = no limit";
    connections_per_user_max: u32 = "COUNT", "connections of a user; the oldest goes; 0 = no limit";
    connects_per_second_per_ip_max: u32 = "COUNT", "new ones a second of one address; 0 = no limit";
    auth_failures_per_minute_per_ip_max: u32 = "COUNT", "refused tokens shut an address out; 0 = no limit";
    rooms_max: u32 = "COUNT", "rooms of the server";
    rooms_per_connection_max: u32 = "COUNT", "rooms one connection may have joined";
    posts_per_second_max: u32 = "COUNT", "posts a second of one connection; 0 = no limit";
    guest_posts_per_second_max: u32 = "COUNT", "posts a second of a guest; 0 = no limit";
    signals_per_second_max: u32 = "COUNT", "signals a second of one connection; 0 = no limit";
    signals_per_room_per_second_max: u32 = "COUNT", "signals a second a room passes on; 0 = no limit";
    joins_per_second_max: u32 = "COUNT", "joins a second of one connection; 0 = no limit";
    fetches_per_second_max: u32 = "COUNT", "fetches a second of one connection; 0 = no limit";
    members_per_second_max: u32 = "COUNT", "member lists a second of a connection; 0 = no limit";
    requests_per_turn_max: u32 = "COUNT", "requests of one connection one turn takes";
    handshake_timeout_ms: u32 = "MS", "from accept to the end of the handshake";
    idle_timeout_ms: u32 = "MS", "silence that ends a peer (pinged at half); 0 = never";
    send_timeout_ms: u32 = "MS", "bytes wait for a peer that takes none; 0 = for ever";
    message_timeout_ms: u32 = "MS", "a message's first byte to its last; 0 = for ever";
    held_bytes_max: u32 = "BYTES", "that came from one connection while it is not read";
    outbox_bytes_max: u32 = "BYTES", "waiting for one connection before it falls behind";
    presence_members_max: u32 = "COUNT", "members above which presence tells counts only";
    presence_interval_ms: u32 = "MS", "between two counts-only presence events of a room";
    presence_delay_ms_max: u32 = "MS", "comings and goings wait to be told together";
    sends_per_turn_max: u32 = "COUNT", "sends one turn of a core begins";
    delivery_delay_ms_max: u32 = "MS", "messages wait for company under pressure; 0 = never";
    idle_spin_us_max: u32 = "US", "a core looks for work ahead of a sleep; 0 = never";
    fetch_messages_max: u32 = "COUNT", "messages one fetch may ask for";
    history_messages_max: u32 = "COUNT", "messages a room in memory keeps; 0 = no own limit";
    history_bytes_per_core_max: u64 = "BYTES", "history one core keeps in memory over all its rooms";
    dedupe_keys_per_author_max: u32 = "COUNT", "newest keyed posts of a user a room remembers";
    dedupe_bytes_per_core_max: u64 = "BYTES", "remembered keys over all rooms of a core";
    dedupe_window_ms: u32 = "MS", "that a key is remembered";
    log_segment_bytes: u32 = "BYTES", "one segment file of the log";
    log_commit_bytes_max: u32 = "BYTES", "messages one commit of a core's log takes";
    log_waiting_bytes_max: u64 = "BYTES", "messages of one core that wait for a commit";
    log_free_bytes_min: u64 = "BYTES", "the log leaves free on its disk; below: log_full";
    log_reads_max: u32 = "COUNT", "reads of the log one core has under way";
    log_cache_bytes_per_core_max: u64 = "BYTES", "pages of the log a core keeps for the next reader";
    retention_bytes: u64 = "BYTES", "log above which its oldest segments go; 0 = no limit";
    retention_hours: u32 = "HOURS", "after which a segment of the log goes; 0 = never";
    catch_up_bytes_per_turn_max: u32 = "BYTES", "history one turn hands to readers that catch up";
    run_bytes_max: u32 = "BYTES", "newest frames a room keeps to send, by core and form";
    run_bytes_per_core_max: u64 = "BYTES", "newest frames to send over all rooms of a core";
    lane_parcels_max: u32 = "COUNT", "parcels one lane between two cores holds";
    drain_timeout_ms: u32 = "MS", "a stopping server takes at most to deliver and close";
}

/// Every limit with its value, as `welcome` tells them.
#[must_use]
pub fn told_limits(limits: &Limits) -> String {
    LIMITS.iter().map(|limit| format!("{} {}\n", limit.name, (limit.read)(limits))).collect()
}

const MUST_LISTEN: &str = "must be an IP address and a port, like \"127.0.0.1:7878\" or \"[::]:7878\"";
const MUST_DATA: &str = "must be the path of a folder, as a string";
const MUST_DURABILITY: &str = "must be \"memory\", \"written\" or \"synced\"";
const MUST_ORIGINS: &str = "must be a list of origins, like [\"https://chat.example.com\"]";
const MUST_PROXIES: &str = "must be a list of addresses and ranges, like [\"10.0.0.0/8\", \"2001:db8::7\"]";
const MUST_DRY_RUN: &str = "must be a list of limits that refuse somebody, like [\"connections_per_ip_max\"]";
const MUST_BOOLEAN: &str = "must be true or false";

/// A configuration in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The data folder.
    pub data: PathBuf,
    /// The CPUs to run on, one executor each; never empty.
    pub cores: Vec<usize>,
    /// The level of rooms that no entry of `[[rooms]]` matches.
    pub durability: Durability,
    /// Origins of web pages, beside the server's own, that may open a WebSocket.
    pub origins: Vec<AllowedOrigin>,
    /// Whether the chat page is served.
    pub has_page: bool,
    /// Which proxies speak for others.
    pub proxies: Proxies,
    /// The log filter, as `tracing_subscriber::EnvFilter` reads it.
    pub log: String,
    /// For whom the log is.
    pub log_format: LogFormat,
    /// Every limit.
    pub limits: Limits,
    /// What holds for a room by its name: the entries of `[[rooms]]`, and otherwise the values above.
    pub rooms: RoomPolicies,
    /// Whether connections prove who they are.
    pub auth: Auth,
    /// The backend's interface, if there is one.
    pub admin: Option<Admin>,
    /// Which cluster it is a node of, if it is of one.
    pub cluster: Option<Cluster>,
    /// What `[[rooms]]` lets users do who have proved who they are.
    pub room_rights: RoomDefaults,
    /// How many posts a second rooms take, by the entries of `[[rooms]]`.
    pub post_rates: PostRates,
    /// How long deliveries of rooms may wait for company.
    pub delivery_delays: DeliveryDelays,
    /// Which rooms have a program.
    pub programs: Vec<ProgramEntry>,
    /// What programs may take.
    pub program_limits: ProgramLimits,
    /// Whether damage in the log is dropped, and new epochs begin. For one start, so no file can say it.
    pub accept_corruption: bool,
}

impl Config {
    /// This configuration as a TOML file that gives it back, but for what is for one start.
    ///
    /// # Errors
    /// A data folder whose name is not UTF-8, which TOML cannot say.
    pub fn to_toml(&self) -> Result<String, ConfigFault> {
        let data = self.data.to_str().ok_or_else(|| ConfigFault::PathNotText(self.data.clone()))?;
        let text = |text: &str| toml::Value::from(text).to_string();
        let mut out = format!(
            "listen = \"{}\"\ndata = {}\ncores = {:?}\ndurability = \"{}\"\norigins = {:?}\n\
             page = {}\nproxy_protocol = {}\ntrusted_proxies = {:?}\nlimits_dry_run = {:?}\nlog = {}\nlog_format = \"{}\"\n\n[limits]\n",
            self.listen,
            text(data),
            self.cores,
            self.durability.name(),
            // Origins hold nothing that TOML and Rust write in two ways, nor do ranges and names of limits.
            self.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            self.has_page,
            self.proxies.say_header,
            self.proxies.trusted.iter().map(ToString::to_string).collect::<Vec<_>>(),
            self.limits.dry_run.iter().map(Limit::name).collect::<Vec<_>>(),
            text(&self.log),
            self.log_format.name(),
        );
        for limit in LIMITS {
            out.push_str(&format!("{} = {}\n", limit.name, (limit.read)(&self.limits)));
        }
        out.push_str(&self.auth.to_toml());
        out.extend(self.admin.as_ref().map(Admin::to_toml));
        out.extend(self.cluster.as_ref().map(Cluster::to_toml));
        for (pattern, policy) in &self.rooms.rules {
            out.push_str(&rooms::entry(pattern, policy, self));
        }
        out.push_str(&programs::limits_to_toml(&self.program_limits));
        out.extend(self.programs.iter().map(ProgramEntry::to_toml));
        Ok(out)
    }

    /// Whether connections prove who they are, as the cores have it; the names of guests are made from the seed.
    #[must_use]
    pub fn access(&self, guest_seed: GuestSeed) -> Access {
        match &self.auth {
            Auth::Open => Access::Open,
            Auth::Token(auth) => Access::Token(TokenAccess {
                defaults: self.room_rights.clone(),
                leeway_seconds: auth.rules.leeway_seconds,
                grace_ms: auth.grace_ms,
                guests: auth.guests.then_some(guest_seed),
            }),
        }
    }

    /// Who is let in.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        let (cookie, takes_guests) = match &self.auth {
            Auth::Open => (None, false),
            Auth::Token(auth) => (auth.cookie.as_deref().map(Into::into), auth.guests),
        };
        let (origins, takes_tokens) = (self.origin_rule(), self.auth != Auth::Open);
        Entrance {
            upgrades: UpgradeRule {
                origins,
                takes_tokens,
                takes_guests,
                cookie,
                has_no_page: !self.has_page,
                has_no_metrics: self.admin.is_some(),
            },
            proxies: self.proxies.clone(),
            cores: self.cores.len() as u16,
        }
    }

    /// What holds and does not do what it seems to, for people.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let takes_guests = matches!(&self.auth, Auth::Token(auth) if auth.guests);
        let mut warnings = rooms::warnings(&self.room_rights, takes_guests);
        warnings.extend(self.admin.iter().flat_map(admin::warnings));
        warnings
    }

    /// Whether limits by address are set, and every visitor may be one address: that of a proxy on this machine.
    #[must_use]
    pub fn has_idle_address_limits(&self) -> bool {
        let Limits { connections_per_ip_max, connects_per_second_per_ip_max, .. } = self.limits;
        let is_set = connections_per_ip_max != 0 || connects_per_second_per_ip_max != 0 || self.auth != Auth::Open;
        is_set && self.listen.ip().is_loopback() && self.proxies.trusted.is_empty()
    }

    /// Which web pages may open a WebSocket.
    #[must_use]
    pub fn origin_rule(&self) -> OriginRule {
        OriginRule { allowed: self.origins.clone(), is_loopback_only: self.listen.ip().is_loopback() }
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
    /// `origins`.
    pub origins: Option<Given<Vec<AllowedOrigin>>>,
    /// `page`. No flag says it, nor the three below.
    pub page: Option<Given<bool>>,
    /// `proxy_protocol`.
    pub proxy_protocol: Option<Given<bool>>,
    /// `trusted_proxies`.
    pub trusted_proxies: Option<Given<Vec<Cidr>>>,
    /// `limits_dry_run`.
    pub limits_dry_run: Option<Given<Vec<Limit>>>,
    /// `log`.
    pub log: Option<Given<String>>,
    /// `log_format`. No flag says it.
    pub log_format: Option<Given<LogFormat>>,
    /// `[limits]`, by name.
    pub limits: BTreeMap<&'static str, Given<u64>>,
    /// `[[rooms]]`, in the order of the file. No flag says one.
    pub rooms: Vec<RoomRule>,
    /// `[auth]`. No flag says one.
    pub auth: Option<Given<Auth>>,
    /// `[admin]`. No flag says one.
    pub admin: Option<Given<Admin>>,
    /// `[cluster]`. No flag says one.
    pub cluster: Option<Given<Cluster>>,
    /// `[[programs]]`, in the order of the file. No flag says one.
    pub programs: Vec<ProgramEntry>,
    /// `[program_limits]`. No flag says one.
    pub program_limits: Option<Given<ProgramLimits>>,
    /// `--accept-corruption`. No file says it.
    pub accept_corruption: bool,
    /// `--open`. No file says it.
    pub is_open: bool,
}

impl Settings {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// The file is unreadable, no TOML, or says what this version does not know.
    pub fn read(path: &Path) -> Result<Settings, ConfigFault> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigFault::Unreadable { path: path.to_owned(), error })?;
        file::settings(path, &text)
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
            origins: self.origins.or(lower.origins),
            page: self.page.or(lower.page),
            proxy_protocol: self.proxy_protocol.or(lower.proxy_protocol),
            trusted_proxies: self.trusted_proxies.or(lower.trusted_proxies),
            limits_dry_run: self.limits_dry_run.or(lower.limits_dry_run),
            log: self.log.or(lower.log),
            log_format: self.log_format.or(lower.log_format),
            limits,
            auth: self.auth.or(lower.auth),
            admin: self.admin.or(lower.admin),
            cluster: self.cluster.or(lower.cluster),
            rooms: if self.rooms.is_empty() { lower.rooms } else { self.rooms },
            programs: if self.programs.is_empty() { lower.programs } else { self.programs },
            program_limits: self.program_limits.or(lower.program_limits),
            accept_corruption: self.accept_corruption || lower.accept_corruption,
            is_open: self.is_open || lower.is_open,
        }
    }

    /// The configuration in effect for a process that may run on the CPUs `allowed`.
    ///
    /// # Errors
    /// A limit breaks a rule, or a CPU is not to be had.
    pub fn resolve(self, allowed: &[usize]) -> Result<Config, ConfigFault> {
        let limits = self.resolve_limits()?;
        let (choice, place) = take(self.cores, CoreChoice::All);
        let cores = choice.resolve(allowed).map_err(|what| ConfigFault::Cores { what, place })?;
        let durability = take(self.durability, Durability::default()).0;
        let (auth, auth_place) = take(self.auth, Auth::Open);
        // 0 is what the server keeps, whatever that is.
        let otherwise =
            RoomPolicy { durability, history_messages_max: limits.history_messages_max, class: Class::SERVER };
        let origins = take(self.origins, Vec::new()).0;
        auth::check_cookie(&auth, &origins, auth_place)?;
        let (listen, place) = take(self.listen, DEFAULT_LISTEN);
        if auth == Auth::Open && !listen.ip().is_loopback() && !self.is_open {
            return Err(ConfigFault::Open { listen, place });
        }
        if let Some(Given { value, place }) = &self.cluster
            && value.addresses.is_empty()
            && listen.ip().is_unspecified()
        {
            let what = format!(
                "[cluster] cannot tell clients where this node is, which listens on {listen}: say addresses = [\"chat-1.example.com:7878\"]"
            );
            return Err(ConfigFault::Table { place: place.clone(), what });
        }
        Ok(Config {
            listen,
            data: take(self.data, DEFAULT_DATA.into()).0,
            cores,
            durability,
            origins,
            has_page: take(self.page, true).0,
            proxies: proxies(self.proxy_protocol, self.trusted_proxies)?,
            log: take(self.log, DEFAULT_LOG.to_owned()).0,
            log_format: take(self.log_format, LogFormat::default()).0,
            limits,
            rooms: rooms::policies(&self.rooms, otherwise),
            room_rights: rooms::rights(&self.rooms, &auth)?,
            post_rates: rooms::post_rates(&self.rooms),
            delivery_delays: rooms::delivery_delays(&self.rooms, limits.delivery_delay_ms_max),
            auth,
            admin: self.admin.map(|admin| admin.value),
            cluster: self.cluster.map(|cluster| cluster.value),
            programs: self.programs,
            program_limits: take(self.program_limits, ProgramLimits::default()).0,
            accept_corruption: self.accept_corruption,
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
        let dry_run = self.limits_dry_run.iter().flat_map(|given| given.value.iter().copied());
        limits.dry_run = dry_run.fold(DryRun::default(), DryRun::with);
        limits.check().map_err(|fault| ConfigFault::Limit { place: place_of(fault.name), must: fault.must })?;
        Ok(limits)
    }
}

/// Which proxies speak for others: a header that nobody may say is a mistake.
fn proxies(say_header: Option<Given<bool>>, trusted: Option<Given<Vec<Cidr>>>) -> Result<Proxies, ConfigFault> {
    let (say_header, place) = take(say_header, false);
    let (trusted, _) = take(trusted, Vec::new());
    if say_header && trusted.is_empty() {
        let must =
            "proxy_protocol asks proxies for a header, and none is trusted: name them in trusted_proxies".to_owned();
        return Err(ConfigFault::Limit { must, place });
    }
    Ok(Proxies { trusted: trusted.into(), say_header })
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

/// Reads a level, for file and flag alike.
///
/// # Errors
/// What it must be.
pub fn parse_durability(text: &str) -> Result<Durability, String> {
    Durability::from_name(text).ok_or_else(|| MUST_DURABILITY.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn settings(text: &str) -> Result<Settings, ConfigFault> {
        file::settings(Path::new("banter.toml"), text)
    }

    pub(super) fn config(text: &str) -> Result<Config, ConfigFault> {
        settings(text)?.resolve(&[0, 1, 4])
    }

    pub(super) fn fault(text: &str) -> String {
        config(text).expect_err(text).to_string()
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = config("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7878");
        assert_eq!(config.data, PathBuf::from(DEFAULT_DATA));
        assert_eq!(config.cores, [0, 1, 4]);
        assert_eq!(config.durability, Durability::Synced);
        assert_eq!(config.rooms, RoomPolicies::all(Durability::Synced));
        assert!(!config.accept_corruption && config.origins.is_empty());
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
                    durability = 'written'\norigins = ['https://A.example:443', '*']\n[limits]\nrooms_max = 7\nhistory_bytes_per_core_max = 0x1000_0000_0\n\
                    [[rooms]]\nmatch = 'a\"\\*'\ndurability = 'memory'\n\
                    [[rooms]]\nmatch = '*é'\nretention_bytes = 18446744073709551615\nretention_hours = 4294967295";
        let first = config(text).unwrap();
        assert_eq!(first.origins.iter().map(ToString::to_string).collect::<Vec<_>>(), ["https://a.example", "*"]);
        assert_eq!((first.limits.rooms_max, first.rooms.rules.len()), (7, 2));
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
    fn a_limit_outside_its_range_says_the_rule_and_its_place() {
        assert_eq!(
            fault("[limits]\nlane_parcels_max = 3"),
            "[limits] lane_parcels_max must be between 16 and 1048576, and is 3 (from banter.toml:2)"
        );
        let contradiction = fault("[limits]\nframe_bytes_max = 1048576");
        assert!(contradiction.contains("outbox_bytes_max") && contradiction.ends_with("(from the default)"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let fault = Settings::read(Path::new("/nonexistent/banter.toml")).expect_err("no such file").to_string();
        assert!(fault.contains("cannot read the configuration /nonexistent/banter.toml: "), "{fault}");
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
