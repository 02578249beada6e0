//! What a configuration that is read again changes in the one in effect, and what of it waits for a restart.
//!
//! Invariant: what [`Changes::takes_effect`] names is in the configuration that [`merge`] gives, and what
//! [`Changes::needs_restart`] names is there as it was.

use std::fmt;

use banter_access::api_key::{ApiKey, write_digest};
use banter_access::grants::{RoomDefault, RoomDefaults};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_chat::limits::Limits;
use banter_chat::policy::{RoomPattern, RoomPolicies, RoomPolicy};

use super::programs::PROGRAM_LIMITS;
use super::{Admin, Auth, Config, LIMITS, ProgramEntry};

/// Limits that are looked at each time they are needed, so that another value holds from there. All others were built into
/// something when the server started: a table, a queue of deadlines, a file.
pub const LIVE_LIMITS: [&str; 23] = [
    "connections_max",
    "connections_unproved_max",
    "guests_max",
    "connections_per_ip_max",
    "connections_per_user_max",
    "connects_per_second_per_ip_max",
    "auth_failures_per_minute_per_ip_max",
    "rooms_max",
    "rooms_per_connection_max",
    "posts_per_second_max",
    "guest_posts_per_second_max",
    "signals_per_second_max",
    "signals_per_room_per_second_max",
    "joins_per_second_max",
    "fetches_per_second_max",
    "members_per_second_max",
    "requests_per_turn_max",
    "presence_members_max",
    "sends_per_turn_max",
    "delivery_delay_ms_max",
    "idle_spin_us_max",
    "fetch_messages_max",
    "drain_timeout_ms",
];
/// Characters of a value that a change shows.
const SHOWN_CHARS_MAX: usize = 200;

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its key, with the table's name ahead of it: `limits.rooms_max`.
    pub key: String,
    /// What holds until then, as the file would say it, shortened; none: the file would not say it.
    pub from: Option<String>,
    /// What was read, the same way.
    pub to: Option<String>,
}

impl Change {
    /// From one text to another.
    pub fn of_texts(key: &str, from: &str, to: &str) -> Self {
        let (from, to) = (text(from), text(to));
        Change { key: key.to_owned(), from: from.shown(&to), to: to.shown(&from) }
    }
}

/// On one line.
impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(out, "{}: {} -> {}", self.key, told(&self.from), told(&self.to))
    }
}

/// Everything that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What holds from now on.
    pub takes_effect: Vec<Change>,
    /// What was read, and is not done before the server is started anew.
    pub needs_restart: Vec<Change>,
}

/// When a value that was read holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    Restart,
}

/// A value as it is compared and shown: as the file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// The file does not say it.
    Nothing,
    /// One value.
    One(String),
    /// A list, an entry each.
    List(Vec<String>),
}

struct Row {
    key: String,
    when: When,
    value: Value,
}

/// The configuration that holds behind a reload, and what it changes.
#[must_use]
pub fn merge(old: &Config, read: Config) -> (Config, Changes) {
    let changes = compare(old, &read);
    let merged = Config {
        origins: read.origins,
        has_page: read.has_page,
        proxies: read.proxies,
        log: read.log,
        post_rates: read.post_rates,
        delivery_delays: read.delivery_delays,
        programs: read.programs,
        program_limits: read.program_limits,
        limits: live_limits(&old.limits, &read.limits),
        admin: live_admin(old.admin.as_ref(), read.admin),
        ..live_access(old, read.auth, read.room_rights)
    };
    (merged, changes)
}

/// No limit that is live is bounded by one that waits, so they hold together.
fn live_limits(old: &Limits, read: &Limits) -> Limits {
    let mut limits = Limits { dry_run: read.dry_run, ..*old };
    for limit in LIMITS.iter().filter(|limit| LIVE_LIMITS.contains(&limit.name)) {
        (limit.write)(&mut limits, (limit.read)(read));
    }
    limits
}

/// Who comes in and what users may do; whether tokens are asked for at all, and whose keys are fetched, is said at the start alone.
fn live_access(old: &Config, auth: Auth, room_rights: RoomDefaults) -> Config {
    if old.auth.is_like(&auth) { Config { auth, room_rights, ..old.clone() } } else { old.clone() }
}

/// Who may ask; where it listens is said at the start alone.
fn live_admin(old: Option<&Admin>, read: Option<Admin>) -> Option<Admin> {
    let old = old?;
    // Without the table nobody has a key any more, though the doors stay until a restart.
    let Some(Admin { keys, api_requests_per_second_max, .. }) = read else {
        return Some(Admin { keys: Vec::new(), ..old.clone() });
    };
    Some(Admin { keys, api_requests_per_second_max, ..old.clone() })
}

fn compare(old: &Config, read: &Config) -> Changes {
    let (old_rows, mut changes) = (rows(old), Changes::default());
    let (is_same_mode, is_like) = (old.auth.mode() == read.auth.mode(), old.auth.is_like(&read.auth));
    for row in rows(read) {
        let from = old_rows.iter().find(|old| old.key == row.key).map_or(&Value::Nothing, |old| &old.value);
        let is_of_rights = matches!(&*row.key, "rooms.users" | "rooms.guests");
        let is_of_tokens = is_of_rights || (row.key.starts_with("auth.") && row.key != "auth.mode");
        let is_of_admin = row.key.starts_with("admin.");
        let has_same_admin = old.admin.is_some() == read.admin.is_some();
        // What tokens must say and what they give means nothing where they are not asked for.
        let counts = (is_same_mode || !is_of_tokens) && (has_same_admin || !is_of_admin);
        if *from != row.value && counts {
            let change = Change { key: row.key, from: from.shown(&row.value), to: row.value.shown(from) };
            match row.when {
                // Another address is another issuer, so that all of it waits.
                When::Now if is_like || !is_of_tokens => changes.takes_effect.push(change),
                When::Now | When::Restart => changes.needs_restart.push(change),
            }
        }
    }
    if let Some(admin) = old.admin.as_ref().filter(|admin| read.admin.is_none() && !admin.keys.is_empty()) {
        let from = Value::List(api_keys(&admin.keys)).shown(&Value::Nothing);
        changes.takes_effect.push(Change { key: "admin.keys".to_owned(), from, to: None });
    }
    changes
}

/// Every value. A field that is missing here does not compile: the pattern is exhaustive.
fn rows(config: &Config) -> Vec<Row> {
    let Config {
        listen,
        data,
        cores,
        durability,
        origins,
        has_page,
        proxies,
        log,
        log_format,
        limits,
        rooms,
        auth,
        admin,
        cluster,
        room_rights,
        post_rates,
        delivery_delays,
        programs,
        program_limits,
        accept_corruption: _,
    } = config;
    let row = |key: &str, when, value: Value| Row { key: key.to_owned(), when, value };
    let one = |value: &dyn ToString| Value::One(value.to_string());
    let list = |texts: &mut dyn Iterator<Item = String>| Value::List(texts.map(|text| format!("{text:?}")).collect());
    let mut rows = vec![
        row("listen", When::Restart, text(&listen.to_string())),
        row("data", When::Restart, text(&data.display().to_string())),
        row("cores", When::Restart, Value::One(format!("{cores:?}"))),
        row("durability", When::Restart, text(durability.name())),
        row("origins", When::Now, list(&mut origins.iter().map(ToString::to_string))),
        row("page", When::Now, one(has_page)),
        row("proxy_protocol", When::Now, one(&proxies.say_header)),
        row("trusted_proxies", When::Now, list(&mut proxies.trusted.iter().map(ToString::to_string))),
        row("limits_dry_run", When::Now, list(&mut limits.dry_run.iter().map(|limit| limit.name().to_owned()))),
        row("log", When::Now, text(log)),
        row("log_format", When::Restart, text(log_format.name())),
        row("rooms", When::Restart, Value::List(policies(rooms))),
        row("rooms.users", When::Now, Value::List(rights(room_rights, "users", |given| given.users))),
        row("rooms.guests", When::Now, Value::List(rights(room_rights, "guests", |given| given.guests))),
        row("rooms.posts_per_second_max", When::Now, Value::List(numbers("posts_per_second_max", post_rates.rules()))),
        row(
            "rooms.delivery_delay_ms_max",
            When::Now,
            Value::List(numbers("delivery_delay_ms_max", delivery_delays.rules())),
        ),
    ];
    rows.extend(LIMITS.iter().map(|limit| {
        let when = if LIVE_LIMITS.contains(&limit.name) { When::Now } else { When::Restart };
        row(&format!("limits.{}", limit.name), when, one(&(limit.read)(limits)))
    }));
    rows.extend(auth.entries().into_iter().map(|(key, value)| {
        let when = if matches!(key, "mode" | "jwks_url") { When::Restart } else { When::Now };
        row(&format!("auth.{key}"), when, value.map_or(Value::Nothing, Value::One))
    }));
    rows.push(row("programs", When::Now, Value::List(programs.iter().map(ProgramEntry::shown).collect())));
    rows.extend(
        PROGRAM_LIMITS
            .iter()
            .map(|limit| row(&format!("program_limits.{}", limit.name), When::Now, one(&(limit.read)(program_limits)))),
    );
    // All of it was built into something when the node started.
    let cluster = cluster.as_ref().map_or(Value::Nothing, |cluster| text(cluster.to_toml().trim()));
    rows.push(row("cluster", When::Restart, cluster));
    let there = admin.as_ref().map_or(Value::Nothing, |_| one(&"[admin]"));
    rows.push(row("admin", When::Restart, there));
    rows.extend(admin.iter().flat_map(|admin| {
        let Admin { listen, socket, api_requests_per_second_max, keys } = admin;
        let listen = listen.map_or(Value::Nothing, |listen| text(&listen.to_string()));
        let socket = socket.as_ref().map_or(Value::Nothing, |socket| text(&socket.display().to_string()));
        [
            row("admin.listen", When::Restart, listen),
            row("admin.socket", When::Restart, socket),
            row("admin.api_requests_per_second_max", When::Now, one(api_requests_per_second_max)),
            row("admin.keys", When::Now, Value::List(api_keys(keys))),
        ]
    }));
    rows
}

fn text(text: &str) -> Value {
    Value::One(format!("{text:?}"))
}

/// An entry each. Those at the end that say what holds without them are none: an entry may be there for its rights alone.
fn policies(rooms: &RoomPolicies) -> Vec<String> {
    let entry = |name: &str, policy: &RoomPolicy| {
        let RoomPolicy { durability, history_messages_max, class } = policy;
        format!(
            "{{ match = {name:?}, durability = {:?}, history_messages_max = {history_messages_max}, retention_hours = {}, \
             retention_bytes = {} }}",
            durability.name(),
            class.hours,
            class.bytes
        )
    };
    let told = rooms.rules.iter().rposition(|(_, policy)| *policy != rooms.otherwise).map_or(0, |last| last + 1);
    rooms.rules[..told].iter().map(|(pattern, policy)| entry(pattern.as_str(), policy)).collect()
}

/// An entry a key, known by the beginning of its digest.
fn api_keys(keys: &[ApiKey]) -> Vec<String> {
    let entry = |key: &ApiKey| {
        let rooms: Vec<&str> = key.rooms.iter().map(Pattern::as_str).collect();
        let rights: Vec<&str> = key.rights.names().collect();
        let digest = write_digest(&key.digest);
        let begin = digest.get(..8).unwrap_or_default();
        format!("{{ name = {:?}, sha256 = \"{begin}…\", rights = {rights:?}, rooms = {rooms:?} }}", key.name)
    };
    keys.iter().map(entry).collect()
}

/// An entry each.
fn numbers(key: &str, rules: &[(RoomPattern, u32)]) -> Vec<String> {
    let entry =
        |(pattern, number): &(RoomPattern, u32)| format!("{{ match = {:?}, {key} = {number} }}", pattern.as_str());
    rules.iter().map(entry).collect()
}

/// An entry each, up to the last one that gives some: one that gives none keeps its rooms from those behind it.
fn rights(defaults: &RoomDefaults, key: &str, of: fn(&RoomDefault) -> Rights) -> Vec<String> {
    let entry = |name: &str, given: &RoomDefault| {
        let names: Vec<&str> = of(given).names().collect();
        format!("{{ match = {name:?}, {key} = {names:?} }}")
    };
    let told = defaults.entries.iter().rposition(|(_, given)| !of(given).is_empty()).map_or(0, |last| last + 1);
    defaults.entries[..told].iter().map(|(pattern, given)| entry(pattern.as_str(), given)).collect()
}

impl Value {
    /// For people, beside the other one that it differs from. Of a list that is long only what the other has not.
    fn shown(&self, other: &Value) -> Option<String> {
        match self {
            Value::Nothing => None,
            Value::One(text) => Some(shortened(text)),
            Value::List(entries) => {
                let whole = format!("[{}]", entries.join(", "));
                let others = if let Value::List(others) = other { others.as_slice() } else { &[] };
                let own: Vec<&str> =
                    entries.iter().filter(|entry| !others.contains(entry)).map(String::as_str).collect();
                let is_short = whole.chars().count() <= SHOWN_CHARS_MAX;
                // All of them are there in both where only the order differs.
                let is_whole =
                    is_short || own.len() == entries.len() || (own.is_empty() && entries.len() == others.len());
                let part = || ["…"].into_iter().chain(own.iter().copied()).collect::<Vec<_>>().join(", ");
                Some(shortened(&if is_whole { whole } else { format!("[{}]", part()) }))
            }
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
