//! What a server answered, for people at a terminal.

use std::fmt::Write as _;

use serde_json::Value;

use super::CtlTask;
use crate::wall_clock;

/// Characters of a room's name ahead of the numbers; a longer one moves them.
const ROOM_WIDTH: usize = 32;
/// Characters of a program's name, the same way.
const PROGRAM_WIDTH: usize = 16;
/// Characters of what a line of the status is about.
const LABEL_WIDTH: usize = 13;

/// An answer that is one thing.
pub fn answer(task: &CtlTask, answer: &Value) -> String {
    match task {
        CtlTask::Status => status(answer),
        CtlTask::Room { .. } => fields(answer),
        CtlTask::User { .. } => user(answer),
        CtlTask::Kick { room, user } => {
            format!(
                "{} does not read {} any more, if it did, and may join again\n",
                plain(user.as_str()),
                plain(room.as_str())
            )
        }
        CtlTask::Disconnect { user } => {
            format!("whatever {} has open is being closed, and may come again\n", plain(user.as_str()))
        }
        CtlTask::Revoke { .. } => format!("revoked: {}\n", revocation(answer)),
        CtlTask::Lift { .. } => format!("{} taken back\n", count(answer["lifted"].as_u64(), "revocation")),
        CtlTask::Reload => reload(answer),
        CtlTask::LoadProgram { program } => loaded(program, answer),
        CtlTask::Drain => "the server turns newcomers away, delivers what was acknowledged, and ends\n".to_owned(),
        CtlTask::LogLevel { .. } => log_level(answer),
        CtlTask::Rooms { .. } | CtlTask::Members { .. } | CtlTask::Revocations | CtlTask::DearestRooms => String::new(),
    }
}

/// One part of a list; the first has a head where there are columns.
pub fn list(task: &CtlTask, entries: &[Value], is_first: bool) -> String {
    match task {
        CtlTask::Rooms { .. } => {
            let head = is_first && !entries.is_empty();
            let head = if head {
                room_line("ROOM", ["HEAD", "KEPT", "READERS", "MEMBERS", "LEVEL", "CORE"].map(str::to_owned))
            } else {
                String::new()
            };
            head + &entries.iter().map(room).collect::<String>()
        }
        CtlTask::Members { .. } => entries.iter().map(|user| format!("{}\n", told(user))).collect(),
        CtlTask::DearestRooms if entries.is_empty() => String::new(),
        CtlTask::DearestRooms => {
            let head = ["CALLS", "UNITS", "UNITS/S", "BUDGET", "FAULTS", "SUSPENDED"].map(str::to_owned);
            dear_line("PROGRAM", "ROOM", head) + &entries.iter().map(dear_room).collect::<String>()
        }
        _ => entries.iter().map(|entry| format!("{}\n", revocation(entry))).collect(),
    }
}

/// A list in which nothing is.
pub fn nothing(task: &CtlTask) -> String {
    match task {
        CtlTask::Rooms { prefix } if prefix.is_empty() => "no room is in memory".to_owned(),
        CtlTask::Rooms { prefix } => format!("no room in memory has a name that begins with {}", plain(prefix)),
        CtlTask::Members { room } => format!("nobody reads {}", plain(room.as_str())),
        CtlTask::DearestRooms => "no room has called a program in the last ten seconds".to_owned(),
        _ => "nothing is revoked".to_owned(),
    }
}

/// A text without what a terminal would take for a command.
pub fn plain(text: &str) -> String {
    let escaped = |character: char| match character.is_control() {
        true => character.escape_unicode().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// A text of several lines, the same way.
pub fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// A value in one line; nothing where there is none.
fn told(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain(text),
        Value::Array(values) => values.iter().map(told).collect::<Vec<_>>().join(", "),
        other => plain(&other.to_string()),
    }
}

fn status(status: &Value) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: &str| {
        let _ = writeln!(out, "{label:LABEL_WIDTH$}{text}");
    };
    let commit = status["commit"].as_str().map(|commit| format!(" ({})", plain(commit))).unwrap_or_default();
    let (version, up) = (told(&status["version"]), duration(status["uptime_seconds"].as_u64().unwrap_or_default()));
    let stands_by = status["state"] == "serving" && status["cluster"]["state"] == "stands_by";
    let state = if stands_by { "standing by; runs".to_owned() } else { told(&status["state"]) };
    line("state", &format!("{state} since {} ({up}); banter {version}{commit}", moment(&status["started"])));
    let troubles = status["troubles"].as_array().map_or(&[][..], Vec::as_slice);
    if troubles.is_empty() {
        line("troubles", "none");
    }
    troubles.iter().for_each(|trouble| line("trouble", &told(trouble)));
    let numbers = |of: &Value| {
        let number = |key: &str, what: &str| count(of[key].as_u64(), what);
        format!(
            "{}, {}, {}",
            number("connections", "connection"),
            number("rooms", "room"),
            number("subscriptions", "reading")
        )
    };
    line("now", &numbers(status));
    line(
        "since then",
        &format!("{}, {} to readers", count(status["posts"].as_u64(), "post"), told(&status["deliveries"])),
    );
    if status["cluster"].is_object() {
        line("cluster", &cluster(&status["cluster"]));
    } else {
        line("log", &log(&status["log"]));
    }
    line("limited", &limited(&status["limited"]));
    line("tokens", &tokens(&status["tokens"]));
    line(
        "revoked",
        &status["revocations"]
            .as_u64()
            .map_or("not known: the disk did not answer".to_owned(), |revoked| revoked.to_string()),
    );
    let config = &status["config"];
    let file = config["file"].as_str().map_or("no file".to_owned(), plain);
    line("config", &format!("{file}; logged: {}", told(&config["log"])));
    each(&config["would_take_effect"]).for_each(|change| line("  by reload", &change));
    each(&config["needs_restart"]).for_each(|change| line("  by restart", &change));
    for core in status["cores"].as_array().into_iter().flatten() {
        let answers = core["answers"].as_bool().unwrap_or_default();
        let text = if answers {
            format!("{}, log {}", numbers(core), told(&core["log"]))
        } else {
            "does not answer".to_owned()
        };
        line(&format!("core {}", told(&core["core"])), &text);
    }
    out
}

fn log(log: &Value) -> String {
    let (state, durability) = (told(&log["state"]), told(&log["durability"]));
    if state == "none" {
        return format!("none: {durability}");
    }
    let free = log["free_bytes"].as_u64().map_or("not known".to_owned(), bytes);
    let files = count(log["segments"].as_u64(), "file");
    format!(
        "{state}, {durability}; {files} of {}; free on its disk: {free}",
        bytes(log["bytes"].as_u64().unwrap_or_default())
    )
}

fn cluster(cluster: &Value) -> String {
    let does = if cluster["state"] == "serves" { "serves" } else { "stands by" };
    let (name, node) = (told(&cluster["name"]), told(&cluster["node"]));
    let [open, partitions] = ["open", "partitions"].map(|key| told(&cluster[key]));
    format!(
        "{name}, node {node} {does}; {open} of {partitions} partitions open here; nodes: {}",
        told(&cluster["nodes"])
    )
}

fn limited(limited: &Value) -> String {
    let named = limited.as_object().into_iter().flatten().filter(|(_, times)| times.as_u64() != Some(0));
    let named: Vec<String> = named.map(|(scope, times)| format!("{} {}", plain(scope), told(times))).collect();
    if named.is_empty() { "nobody".to_owned() } else { named.join(", ") }
}

fn tokens(tokens: &Value) -> String {
    if tokens.is_null() {
        return "not asked for: users are who they say".to_owned();
    }
    let keys = count(tokens["keys"].as_u64(), "key");
    let jwks = &tokens["jwks"];
    if jwks.is_null() {
        return keys;
    }
    let fetched = if jwks["fetched"].is_null() {
        "never fetched".to_owned()
    } else {
        format!("fetched {}", moment(&jwks["fetched"]))
    };
    format!("{keys}; of {}: {}, {fetched}", told(&jwks["url"]), told(&jwks["keys"]))
}

fn room(room: &Value) -> String {
    let columns = ["head", "messages", "readers", "members", "durability", "core"].map(|key| told(&room[key]));
    room_line(&told(&room["room"]), columns)
}

fn room_line(name: &str, columns: [String; 6]) -> String {
    let [head, kept, readers, members, level, core] = columns;
    format!("{name:ROOM_WIDTH$} {head:>10} {kept:>10} {readers:>8} {members:>8}  {level:8} {core:>4}\n")
}

fn dear_room(room: &Value) -> String {
    let number = |key: &str| room[key].as_u64();
    let budget = match (number("units_per_second"), number("units_per_second_max")) {
        (Some(_), Some(0)) => "no limit".to_owned(),
        (Some(units), Some(max)) => format!("{} %", units.saturating_mul(100) / max),
        _ => String::new(),
    };
    let suspended = match number("suspended_ms") {
        Some(0) | None => String::new(),
        Some(ms) => duration(ms.div_ceil(1_000)),
    };
    let [calls, units, per_second, faults] =
        ["calls", "units", "units_per_second", "faults"].map(|key| told(&room[key]));
    dear_line(&told(&room["program"]), &told(&room["room"]), [calls, units, per_second, budget, faults, suspended])
}

fn dear_line(program: &str, room: &str, columns: [String; 6]) -> String {
    let [calls, units, per_second, budget, faults, suspended] = columns;
    format!(
        "{program:PROGRAM_WIDTH$} {room:ROOM_WIDTH$} {calls:>8} {units:>10} {per_second:>9} {budget:>8} {faults:>7} {suspended:>9}\n"
    )
}

/// Every field in a line of its own.
fn fields(value: &Value) -> String {
    let fields = value.as_object().into_iter().flatten();
    fields.map(|(key, value)| format!("{:LABEL_WIDTH$} {}\n", plain(key), told(value))).collect()
}

/// The connections as the server tells them, whatever that is.
fn user(user: &Value) -> String {
    let connections = user["connections"].as_array().map_or(&[][..], Vec::as_slice);
    if connections.is_empty() {
        return format!("{} has no connection here\n", told(&user["user"]));
    }
    let field = |(key, value): (&String, &Value)| format!("{} {}", plain(key), told(value));
    let line = |connection: &Value| match connection.as_object() {
        Some(fields) => fields.iter().map(field).collect::<Vec<_>>().join("; ") + "\n",
        None => told(connection) + "\n",
    };
    let more = if user["more"].as_bool() == Some(true) { "and more\n" } else { "" };
    connections.iter().map(line).collect::<String>() + more
}

fn revocation(revocation: &Value) -> String {
    let named = ["user", "session", "token", "address"]
        .into_iter()
        .find_map(|key| Some(format!("{key} {}", plain(revocation[key].as_str()?))));
    let issued = if revocation["issued_before"].is_null() {
        String::new()
    } else {
        format!(", made until {}", moment(&revocation["issued_before"]))
    };
    format!("{}{issued}; until {}", named.unwrap_or_default(), moment(&revocation["until"]))
}

fn reload(reload: &Value) -> String {
    let mut out = changes(reload);
    if out.is_empty() {
        out.push_str("reloaded; nothing differs but, where they did, the files of keys\n");
    }
    out + &hanging(reload)
}

/// What came of reading a program again, and all else with it.
fn loaded(program: &str, reload: &Value) -> String {
    let mut out = changes(reload);
    let is_new = |new: &Value| new.as_str() == Some(program);
    if !reload["programs"].as_array().is_some_and(|programs| programs.iter().any(is_new)) {
        let _ = writeln!(out, "{} is as it was: its text, words and config are the same", plain(program));
    }
    out + &hanging(reload)
}

fn changes(reload: &Value) -> String {
    let programs = reload["programs"].as_array().into_iter().flatten();
    let programs = programs.map(|program| format!("new program    {}\n", told(program)));
    let now = each(&reload["takes_effect"]).map(|change| format!("holds now      {change}\n"));
    let later = each(&reload["needs_restart"]).map(|change| format!("needs restart  {change}\n"));
    programs.chain(now).chain(later).collect()
}

fn hanging(reload: &Value) -> String {
    let mut out = String::new();
    for core in reload["silent_cores"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "core {} hangs, and takes it once it does no longer", told(core));
    }
    out
}

/// Changes, a line each.
fn each(changes: &Value) -> impl Iterator<Item = String> {
    let value = |value: &Value| if value.is_null() { "nothing".to_owned() } else { told(value) };
    let line = move |change: &Value| {
        format!("{}: {} -> {}", told(&change["key"]), value(&change["from"]), value(&change["to"]))
    };
    changes.as_array().map_or(&[][..], Vec::as_slice).iter().map(line)
}

fn log_level(level: &Value) -> String {
    let (filter, configured) = (told(&level["filter"]), told(&level["configured"]));
    if filter == configured {
        return format!("{filter}\n");
    }
    format!("{filter}\nuntil a reload, which has it be what the configuration says: {configured}\n")
}

fn count(number: Option<u64>, what: &str) -> String {
    match number {
        Some(1) => format!("1 {what}"),
        Some(number) => format!("{number} {what}s"),
        None => format!("no known number of {what}s"),
    }
}

fn moment(seconds: &Value) -> String {
    seconds.as_u64().map_or_else(|| told(seconds), wall_clock::utc)
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} KB", bytes / 1_000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_says_each_thing_in_a_line_and_troubles_first() {
        let text = status(&json!({
            "version": "0.1.0", "state": "serving", "started": 1_000, "uptime_seconds": 180, "troubles": ["core 1 does not answer"],
            "connections": 1, "rooms": 2, "subscriptions": 3, "posts": 4, "deliveries": 5,
            "cores": [{"core": 0, "answers": true, "connections": 1, "rooms": 2, "subscriptions": 3, "log": "open"}, {"core": 1, "answers": false}],
            "log": {"durability": "synced", "state": "open", "segments": 2, "bytes": 20_000_000, "free_bytes": null},
            "limited": {"ip": 3, "room": 0}, "tokens": {"keys": 1}, "revocations": null,
            "config": {"file": "/etc/b.toml", "log": "info", "would_take_effect": [{"key": "log", "from": null, "to": "\"warn\""}], "needs_restart": []},
        }));
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in [
            (0, "state        serving since 1970-01-01T00:16:40Z (3 min); banter 0.1.0"),
            (1, "trouble      core 1 does not answer"),
            (2, "now          1 connection, 2 rooms, 3 readings"),
            (4, "log          open, synced; 2 files of 20 MB; free on its disk: not known"),
            (5, "limited      ip 3"),
            (6, "tokens       1 key"),
            (9, "  by reload  log: nothing -> \"warn\""),
            (11, "core 1       does not answer"),
        ] {
            assert_eq!(lines[at], line, "{text}");
        }
    }

    #[test]
    fn what_is_missing_in_an_answer_of_another_version_is_left_out_and_nothing_panics() {
        let standby = status(&json!({"state": "serving", "started": 1_000, "cluster": {"state": "stands_by"}}));
        assert!(standby.starts_with("state        standing by; runs since"), "{standby}");
        for nothing in [json!({}), json!(null), json!([1]), json!({"cores": 7, "config": []})] {
            assert!(status(&nothing).contains("state"));
            let _ = (
                user(&nothing),
                fields(&nothing),
                room(&nothing),
                revocation(&nothing),
                reload(&nothing),
                log_level(&nothing),
                dear_room(&nothing),
                loaded("a", &nothing),
            );
        }
    }

    #[test]
    fn what_a_reload_made_new_is_told_and_a_program_that_is_as_it_was_too() {
        let none = json!({"takes_effect": [], "needs_restart": [], "silent_cores": [], "programs": []});
        assert_eq!(loaded("dice", &none), "dice is as it was: its text, words and config are the same\n");
        let both = json!({"takes_effect": [{"key": "log", "from": null, "to": "\"warn\""}], "programs": ["dice", "poll"], "silent_cores": [3]});
        let told = "new program    dice\nnew program    poll\nholds now      log: nothing -> \"warn\"\n";
        let hangs = "core 3 hangs, and takes it once it does no longer\n";
        assert_eq!((loaded("dice", &both), reload(&both)), (format!("{told}{hangs}"), format!("{told}{hangs}")));
        assert!(loaded("other", &both).contains("other is as it was"));
        assert!(reload(&none).starts_with("reloaded; nothing differs"));
    }

    #[test]
    fn a_dear_room_is_a_line_and_its_budget_a_share() {
        let room = |units: u64, max: u64, suspended_ms: u64| {
            let line = dear_room(
                &json!({"program": "dice", "room": "game-7", "core": 1, "calls": 12, "units": 10 * units, "units_per_second": units,
                        "units_per_second_max": max, "faults": 3, "suspended_ms": suspended_ms}),
            );
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(room(4_000, 8_000, 0), "dice game-7 12 40000 4000 50 % 3");
        assert_eq!(room(4_000, 0, 59_001), "dice game-7 12 40000 4000 no limit 3 60 s");
        let task = CtlTask::DearestRooms;
        assert_eq!((list(&task, &[], true), list(&task, &[json!({})], true).lines().count()), (String::new(), 2));
    }

    #[test]
    fn connections_are_told_by_whatever_fields_they_have() {
        let told = user(
            &json!({"user": "ann", "connections": [{"core": 1, "form": "json", "rooms": ["a", "b"]}], "more": true}),
        );
        assert_eq!(told, "core 1; form json; rooms a, b\nand more\n");
        assert_eq!(user(&json!({"user": "ann", "connections": [], "more": false})), "ann has no connection here\n");
    }

    #[test]
    fn a_terminal_gets_no_orders() {
        assert_eq!(told(&json!("a\u{9b}31m\n")), "a\\u{9b}31m\\u{a}");
    }
}
