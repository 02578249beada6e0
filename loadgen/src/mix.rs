//! A mix in TOML: what runs at the same time. Each part becomes command lines of this program.

use clap::Parser;
use serde::Deserialize;
use toml::{Table, Value};

use crate::args::{Args, Job, Mixed};

/// Processes that a mix may have.
pub const PROCESSES_MAX: usize = 64;

/// Why a mix cannot be run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant says in its message what it means")]
pub enum MixFault {
    #[error("it is no mix: {0}")]
    Toml(String),
    #[error("it has no [[part]]")]
    NoParts,
    #[error("{0} processes are too many: {PROCESSES_MAX} at most")]
    TooMany(usize),
    #[error("two parts are called {0}: give one of them another `name`")]
    SameName(String),
    #[error("part {name}: {key} cannot be given here")]
    NotHere { name: String, key: String },
    #[error("part {name}: {key} must be a text, a number, true or false, or a list of these")]
    NoFlag { name: String, key: String },
    #[error("part {name}: {why}")]
    Part { name: String, why: String },
}

#[derive(Deserialize)]
struct File {
    #[serde(default, rename = "part")]
    parts: Vec<FilePart>,
    #[serde(flatten)]
    flags: Table,
}

#[derive(Deserialize)]
struct FilePart {
    scenario: String,
    name: Option<String>,
    processes: Option<u32>,
    #[serde(default)]
    after_s: f64,
    #[serde(flatten)]
    flags: Table,
}

/// One process of a part.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// The part's name.
    pub name: String,
    /// Seconds after the mix begins.
    pub after_s: f64,
    /// This program's arguments.
    pub words: Vec<String>,
}

/// Flags that are the mix's own to give.
const OWN: [&str; 4] = ["json", "report", "name", "part-from"];

/// The processes that a mix asks for; each command line is one that this program takes.
///
/// # Errors
/// When it asks for what there is not.
pub fn read(text: &str, job: &Mixed) -> Result<Vec<Process>, MixFault> {
    let file: File = toml::from_str(text).map_err(|error| MixFault::Toml(error.to_string().trim().into()))?;
    if file.parts.is_empty() {
        return Err(MixFault::NoParts);
    }
    let count: usize = file.parts.iter().map(|part| part.processes.unwrap_or(1).max(1) as usize).sum();
    if count > PROCESSES_MAX {
        return Err(MixFault::TooMany(count));
    }
    let mut processes: Vec<Process> = Vec::new();
    for part in &file.parts {
        let name = part.name.as_ref().unwrap_or(&part.scenario);
        if processes.iter().any(|process| process.name == *name) {
            return Err(MixFault::SameName(name.clone()));
        }
        processes.extend(processes_of(part, name, &file.flags, job)?);
    }
    Ok(processes)
}

fn processes_of(part: &FilePart, name: &str, defaults: &Table, job: &Mixed) -> Result<Vec<Process>, MixFault> {
    let mut flags = defaults.clone();
    flags.extend(part.flags.clone());
    if let Some(server) = job.server {
        flags.insert("server".into(), server.to_string().into());
    }
    if let Some(pid) = job.pid {
        flags.insert("pid".into(), i64::from(pid).into());
    }
    let after_s = part.after_s;
    if !(0.0..=1e6).contains(&after_s) {
        return Err(MixFault::Part { name: name.into(), why: format!("after_s = {after_s} is no delay") });
    }
    let count = part.processes.unwrap_or(1).max(1);
    (0..count)
        .map(|number| Ok(Process { name: name.into(), after_s, words: words(part, name, &flags, number)? }))
        .collect()
}

fn words(part: &FilePart, name: &str, flags: &Table, number: u32) -> Result<Vec<String>, MixFault> {
    let mut words = vec![part.scenario.clone()];
    for (key, value) in flags {
        let key = key.replace('_', "-");
        if OWN.contains(&key.as_str()) {
            return Err(MixFault::NotHere { name: name.into(), key });
        }
        if key != "room-prefix" {
            words.extend(flag(&key, value).ok_or(MixFault::NoFlag { name: name.into(), key })?);
        }
    }
    // Parts, and the processes of one, must not meet in a room: each would take the other's posts for foreign.
    let prefix = flags.get("room_prefix").or(flags.get("room-prefix")).and_then(Value::as_str).unwrap_or("load");
    words.extend([format!("--room-prefix={prefix}-{name}-{number}"), format!("--name={name}"), "--json".into()]);
    check(&words, name)?;
    Ok(words)
}

/// What a flag is on a command line; `None`: no flag has such a value.
fn flag(key: &str, value: &Value) -> Option<Vec<String>> {
    Some(match value {
        Value::Boolean(true) => vec![format!("--{key}")],
        Value::Boolean(false) => Vec::new(),
        Value::Array(values) => {
            vec![format!("--{key}={}", values.iter().map(plain).collect::<Option<Vec<_>>>()?.join(","))]
        }
        value => vec![format!("--{key}={}", plain(value)?)],
    })
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

fn check(words: &[String], name: &str) -> Result<(), MixFault> {
    let fault = |why: String| MixFault::Part { name: name.into(), why };
    let line = std::iter::once("banter-loadgen").chain(words.iter().map(String::as_str));
    match Args::try_parse_from(line) {
        Ok(Args { job: Job::Run(_) | Job::Merge(_) }) => Err(fault(format!("{} is no scenario", words[0]))),
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            Err(fault(text.lines().next().unwrap_or_default().trim_start_matches("error: ").into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Output;

    fn read_with(text: &str, server: Option<&str>) -> Result<Vec<Process>, MixFault> {
        let server = server.map(|address| address.parse().unwrap());
        read(text, &Mixed { file: "mix.toml".into(), server, pid: None, output: Output::default() })
    }

    #[test]
    fn a_part_has_the_flags_of_the_head_and_its_own_and_rooms_of_its_own() {
        let text = "server = '127.0.0.1:9'\nduration = 1.5\n[[part]]\nscenario = 'fanout'\nname = 'chat'\nprocesses = 2\n\
                    rate = 100\nkeyed = true\n[[part]]\nscenario = 'giant'\nafter_s = 2\nduration = 3\nkeyed = false\n";
        let processes = read_with(text, Some("127.0.0.1:10")).unwrap();
        let names: Vec<&str> = processes.iter().map(|process| process.name.as_str()).collect();
        assert_eq!(names, ["chat", "chat", "giant"]);
        let has = |number: usize, word: &str| processes[number].words.iter().any(|found| found == word);
        assert!(
            has(0, "--duration=1.5") && has(0, "--rate=100") && has(0, "--keyed") && has(0, "--server=127.0.0.1:10")
        );
        assert!(has(0, "--room-prefix=load-chat-0") && has(1, "--room-prefix=load-chat-1"));
        assert!(has(2, "--duration=3") && !has(2, "--keyed") && processes[2].after_s == 2.0);
    }

    #[test]
    fn what_is_wrong_is_said_of_the_part_before_anything_runs() {
        for (text, words) in [
            ("part = 1", "no mix"),
            ("server = '127.0.0.1:9'", "no [[part]]"),
            ("[[part]]\nscenario = 'fanout'\nmembres = 3", "part fanout: unexpected argument '--membres'"),
            ("[[part]]\nscenario = 'run'\nname = 'x'", "part x"),
            ("[[part]]\nscenario = 'dance'", "part dance: unrecognized subcommand"),
            ("[[part]]\nscenario = 'fanout'\njson = true", "json cannot be given here"),
            ("[[part]]\nscenario = 'fanout'\nrate = {}", "rate must be"),
            ("[[part]]\nscenario = 'fanout'\nprocesses = 65", "too many"),
            ("[[part]]\nscenario = 'fanout'\nafter_s = -1", "no delay"),
            ("[[part]]\nscenario = 'fanout'\n[[part]]\nscenario = 'fanout'", "two parts are called fanout"),
        ] {
            let fault = read_with(text, None).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
    }

    #[test]
    fn the_example_is_a_mix() {
        assert!(read_with(include_str!("../mix.toml"), None).unwrap().len() > 2);
    }
}
