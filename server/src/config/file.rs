//! The configuration's file: what its TOML says, and on which line.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use banter_access::limit::Limit;
use banter_protocol::origin::AllowedOrigin;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::admin::{ADMIN_KEYS, API_KEY_KEYS};
use super::auth::AUTH_KEYS;
use super::cluster::CLUSTER_KEYS;
use super::cores::MUST_CORES;
use super::logging::{MUST_LOG, MUST_LOG_FORMAT, parse_log_format};
use super::programs::{GRANT_KEYS, PROGRAM_KEYS, PROGRAM_LIMITS};
use super::rooms::ROOM_KEYS;
use super::{
    ConfigFault, CoreChoice, Given, LIMITS, MUST_BOOLEAN, MUST_DATA, MUST_DRY_RUN, MUST_DURABILITY, MUST_LISTEN,
    MUST_ORIGINS, MUST_PROXIES, Place, Settings, Table, parse_durability, parse_listen, parse_log,
};

/// The keys outside every table.
const TOP_KEYS: [&str; 18] = [
    "listen",
    "data",
    "cores",
    "durability",
    "origins",
    "page",
    "proxy_protocol",
    "trusted_proxies",
    "limits_dry_run",
    "log",
    "log_format",
    "limits",
    "rooms",
    "auth",
    "admin",
    "cluster",
    "programs",
    "program_limits",
];

/// What the text of such a file says.
pub(super) fn settings(path: &Path, text: &str) -> Result<Settings, ConfigFault> {
    Document { path, text }.settings()
}

/// A file that is being read.
pub(super) struct Document<'a> {
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
        let mut origins_of_auth = None;
        for (key, value) in table.get_ref() {
            match key.get_ref().as_ref() {
                "listen" => settings.listen = Some(self.text_value("listen", value, MUST_LISTEN, parse_listen)?),
                "data" => settings.data = Some(self.text_value("data", value, MUST_DATA, parse_data)?),
                "cores" => settings.cores = Some(self.cores(value)?),
                "durability" => {
                    settings.durability =
                        Some(self.text_value("durability", value, MUST_DURABILITY, parse_durability)?);
                }
                "origins" => settings.origins = Some(self.origins(value)?),
                "page" => settings.page = Some(self.boolean("page", value)?),
                "proxy_protocol" => settings.proxy_protocol = Some(self.boolean("proxy_protocol", value)?),
                "trusted_proxies" => {
                    settings.trusted_proxies = Some(self.list("trusted_proxies", value, MUST_PROXIES, |text| {
                        text.parse().map_err(|fault| format!("{MUST_PROXIES}: {fault}"))
                    })?);
                }
                "limits_dry_run" => {
                    settings.limits_dry_run = Some(self.list("limits_dry_run", value, MUST_DRY_RUN, parse_dry_run)?);
                }
                "log" => settings.log = Some(self.text_value("log", value, MUST_LOG, parse_log)?),
                "log_format" => {
                    settings.log_format =
                        Some(self.text_value("log_format", value, MUST_LOG_FORMAT, parse_log_format)?);
                }
                "limits" => settings.limits = self.limits(value)?,
                "rooms" => settings.rooms = self.rooms(value)?,
                "auth" => (settings.auth, origins_of_auth) = (Some(self.auth(value)?), self.auth_origins(value)?),
                "admin" => settings.admin = Some(self.admin(value)?),
                "cluster" => settings.cluster = Some(self.cluster(value)?),
                "programs" => settings.programs = self.programs(value)?,
                "program_limits" => settings.program_limits = Some(self.program_limits(value)?),
                unknown => return Err(self.unknown_key(&key.span(), unknown, Table::Top)),
            }
        }
        if let (Some(_), Some(Given { place, .. })) = (&settings.origins, &origins_of_auth) {
            let what = "origins stands outside the tables and in [auth], and means the same: say it once".to_owned();
            return Err(ConfigFault::Table { place: place.clone(), what });
        }
        settings.origins = settings.origins.or(origins_of_auth);
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
                .ok_or_else(|| self.unknown_key(&key.span(), key.get_ref(), Table::Limits))?;
            limits.insert(limit.name, self.number(limit.name, value, limit.largest)?);
        }
        Ok(limits)
    }

    /// A whole number up to the largest.
    pub(super) fn number(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        largest: u64,
    ) -> Result<Given<u64>, ConfigFault> {
        let number = whole_number(value.get_ref()).filter(|number| *number <= largest);
        let number =
            number.ok_or_else(|| self.wrong(key, value, &format!("must be a whole number from 0 to {largest}")))?;
        Ok(Given { value: number, place: self.place(&value.span()) })
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

    pub(super) fn origins(&self, value: &Spanned<DeValue<'_>>) -> Result<Given<Vec<AllowedOrigin>>, ConfigFault> {
        self.list("origins", value, MUST_ORIGINS, str::parse)
    }

    /// A list of texts that `parse` takes.
    pub(super) fn list<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        must: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Given<Vec<T>>, ConfigFault> {
        let list = value.get_ref().as_array().ok_or_else(|| self.wrong(key, value, must))?;
        let items = list.iter().map(|item| self.text_value(key, item, must, &parse).map(|given| given.value));
        Ok(Given { value: items.collect::<Result<_, _>>()?, place: self.place(&value.span()) })
    }

    pub(super) fn boolean(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Given<bool>, ConfigFault> {
        let is_true = value.get_ref().as_bool().ok_or_else(|| self.wrong(key, value, MUST_BOOLEAN))?;
        Ok(Given { value: is_true, place: self.place(&value.span()) })
    }

    /// A text that `parse` takes.
    pub(super) fn text_value<T>(
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

    /// The fault of a value.
    pub(super) fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, must: &str) -> ConfigFault {
        const SHOWN_CHARS_MAX: usize = 40;
        let source = self.text.get(value.span()).unwrap_or_default().lines().next().unwrap_or_default();
        let found = match source.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &source[..end]),
            None => source.to_owned(),
        };
        ConfigFault::WrongValue { place: self.place(&value.span()), key: key.to_owned(), must: must.to_owned(), found }
    }

    /// The fault of a key.
    pub(super) fn unknown_key(&self, span: &Range<usize>, key: &str, table: Table) -> ConfigFault {
        ConfigFault::UnknownKey { place: self.place(span), key: key.to_owned(), table, hint: hint(key, table) }
    }

    /// Where the span starts.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or_default();
        Place::File { path: self.path.to_owned(), line: 1 + before.matches('\n').count() }
    }
}

fn parse_dry_run(text: &str) -> Result<Limit, String> {
    Limit::from_name(text).ok_or_else(|| {
        let names: Vec<&str> = Limit::ALL.iter().map(|limit| limit.name()).collect();
        format!("{MUST_DRY_RUN}; those are {}", names.join(", "))
    })
}

fn parse_data(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err(MUST_DATA.to_owned()) } else { Ok(text.into()) }
}

fn whole_number(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The known key that is nearest to an unknown one, also when it belongs to another table.
fn hint(key: &str, table: Table) -> String {
    // Below this two names have little in common, and a list helps more than a guess.
    const NEAR: f64 = 0.6;
    // Of equals the last wins: of keys in several other tables the one that holds for the whole server.
    let known = (PROGRAM_KEYS.iter().map(|name| (*name, Table::Programs)))
        .chain(GRANT_KEYS.iter().map(|name| (*name, Table::ProgramGrants)))
        .chain(PROGRAM_LIMITS.iter().map(|limit| (limit.name, Table::ProgramLimits)))
        .chain(ROOM_KEYS.iter().map(|name| (*name, Table::Rooms)))
        .chain(AUTH_KEYS.iter().map(|name| (*name, Table::Auth)))
        .chain(ADMIN_KEYS.iter().map(|name| (*name, Table::Admin)))
        .chain(CLUSTER_KEYS.iter().map(|name| (*name, Table::Cluster)))
        .chain(API_KEY_KEYS.iter().map(|name| (*name, Table::AdminKeys)))
        .chain(TOP_KEYS.iter().map(|name| (*name, Table::Top)))
        .chain(LIMITS.iter().map(|limit| (limit.name, Table::Limits)));
    let nearest = known
        .map(|(name, of)| (strsim::normalized_damerau_levenshtein(key, name), of == table, name, of))
        .filter(|candidate| candidate.0 >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    match (nearest, table) {
        (Some((_, true, name, _)), _) => format!("did you mean \"{name}\"?"),
        (Some((_, _, name, Table::Top)), _) => format!("did you mean \"{name}\", outside {}?", table.name()),
        (Some((_, _, name, of)), _) => format!("did you mean \"{name}\"{}?", of.inside()),
        (None, Table::Top) => format!("the known ones are {}", TOP_KEYS.join(", ")),
        (None, Table::Limits) => "banter --help-limits lists the known ones".to_owned(),
        (None, Table::Auth) => format!("the known ones are {}", AUTH_KEYS.join(", ")),
        (None, Table::Admin) => format!("the known ones are {}", ADMIN_KEYS.join(", ")),
        (None, Table::Cluster) => format!("the known ones are {}", CLUSTER_KEYS.join(", ")),
        (None, Table::AdminKeys) => format!("the known ones are {}", API_KEY_KEYS.join(", ")),
        (None, Table::Programs) => format!("the known ones are {}", PROGRAM_KEYS.join(", ")),
        (None, Table::ProgramGrants) => format!("the known ones are {}", GRANT_KEYS.join(", ")),
        (None, Table::ProgramLimits) => {
            let names: Vec<&str> = PROGRAM_LIMITS.iter().map(|limit| limit.name).collect();
            format!("the known ones are {}", names.join(", "))
        }
        (None, Table::Rooms) => format!("the known ones are {}", ROOM_KEYS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, fault, settings};
    use super::*;

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
        assert_eq!(
            fault("listen = '127.0.0.1:0'\n[limits]\nconections_max = 1"),
            "banter.toml:3: unknown key \"conections_max\" in [limits]: did you mean \"connections_max\"?"
        );
        assert_eq!(fault("lisen = 1"), "banter.toml:1: unknown key \"lisen\": did you mean \"listen\"?");
        assert!(fault("rooms_max = 1").ends_with("did you mean \"rooms_max\" in [limits]?"));
        assert!(fault("[limits]\nlisten = 1").ends_with("did you mean \"listen\", outside [limits]?"));
        assert!(fault("history_messages_max = 1").ends_with("did you mean \"history_messages_max\" in [limits]?"));
        assert!(fault("[limits]\ndurability = 1").ends_with("did you mean \"durability\", outside [limits]?"));
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
            ("log_format = 'xml'", "log_format must be \"text\" or \"json\", and is 'xml'"),
            ("origins = 'https://a'", "origins must be a list of origins"),
            ("origins = [1]", "origins must be a list of origins"),
            ("origins = ['*', 'a.example']", "origins must be \"*\" or an origin like"),
            ("origins = ['https://a/']", "without a path, and is 'https://a/'"),
            ("page = 'no'", "page must be true or false"),
            ("origins = ['*']\n[auth]\nmode = 'open'\norigins = ['*']", "say it once"),
            ("[auth]\nmode = 'token'\nsecret_file = 's'\ncookie = 'chat'", "needs origins"),
            ("[auth]\nmode = 'token'\nsecret_file = 's'\ncookie = 'chat'\norigins = ['*']", "needs origins"),
            ("[auth]\nmode = 'token'\nsecret_file = 's'\ncookie = 'a b'", "cookie must be the name of a cookie"),
            ("[auth]\nmode = 'open'\ncookie = 'chat'", "say mode = \"token\""),
            ("proxy_protocol = 1", "proxy_protocol must be true or false, and is 1"),
            ("proxy_protocol = true", "none is trusted: name them in trusted_proxies"),
            ("trusted_proxies = '10.0.0.0/8'", "trusted_proxies must be a list of addresses and ranges"),
            ("trusted_proxies = ['10.0.0.1/8']", "that range begins at 10.0.0.0"),
            ("trusted_proxies = ['proxy.example']", "trusted_proxies must be a list of addresses and ranges"),
            ("limits_dry_run = ['conections_max']", "limits_dry_run must be a list of limits that refuse somebody"),
            ("limits_dry_run = ['frame_bytes_max']", "those are connections_max, "),
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
    fn broken_toml_names_its_line() {
        assert!(fault("listen = '127.0.0.1:0'\ncores = ").starts_with("banter.toml:2: not valid TOML: "));
        assert!(fault("cores = 1\ncores = 2").starts_with("banter.toml:2: not valid TOML: duplicate key"));
    }

    #[test]
    fn the_configuration_that_is_shipped_for_nodes_of_a_cluster_holds() {
        let config = config(include_str!("../../../deploy/banter-cluster.toml")).expect("deploy/banter-cluster.toml");
        let cluster = config.cluster.expect("a cluster");
        assert_eq!((cluster.engine.len(), cluster.engine_monitoring.len(), cluster.unproved_engine), (3, 3, false));
        // What it has is what nobody would have to write, but for what is a choice.
        assert_eq!(cluster.dead_after_ms, crate::config::Cluster::default().dead_after_ms);
    }

    #[test]
    fn the_configuration_that_is_shipped_for_proxies_holds() {
        let config = config(include_str!("../../../deploy/banter.toml")).expect("deploy/banter.toml");
        assert_eq!((config.proxies.trusted.len(), config.origins.len()), (1, 1));
        assert_eq!((config.limits.connections_per_ip_max, config.has_idle_address_limits()), (1_000, false));
    }
}
