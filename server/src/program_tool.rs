//! `banter program`: checks a program as the server would, tries it on messages, and writes out what an editor wants to know; has a
//! running server read one again, and says where programs are dear.
//!
//! ```text
//!  FILE ─▶ compiled and tried as at a start ─▶ each line of the log ─Event─▶ the engine ─▶ a line: verdict, effects, units
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use banter_access::guest::PROGRAM_PREFIX;
use banter_chat::parcel::OwnedBody;
use banter_chat::policy::RoomPattern;
use banter_chat::program::{
    Budget, Call, Effect, Effects, Engine, Event, Fault, Hook, ProgramFacts, ProgramId, RoomFacts, Spent, Verdict,
};
use banter_chat::programs::{OnFault, ProgramLimits};
use banter_chat::room_state::{RoomState, StateDraft};
use banter_programs::{Compiled, LuauEngine, type_definitions};
use banter_protocol::ids::{Epoch, Sequence, UserName};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::config::{Config, ConfigFault, ProgramEntry, Settings};
use crate::ctl_tool::{self, Whom};
use crate::host::EXIT_CONFIG;
use crate::programs::{ProgramsFault, load};

/// The exit code of a fault, and of a difference.
const EXIT_DIFFERS: u8 = 1;
/// Bytes of a body as `frame_bytes_max` leaves them by default.
const BODY_BYTES_MAX: usize = 64 * 1_024 - 512;

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum ProgramTask {
    /// Compile and try a program as the server does at a start
    Check {
        #[command(flatten)]
        /// Which program.
        which: Which,
    },
    /// Run it over messages, and say what it does with each
    #[command(
        after_help = "A line of the log is one of `banter log dump`, or {\"event\":\"join\"|\"leave\"|\"signal\"|\"tick\",\"room\":…,\n\
                      \"user\":…,\"time_ms\":…,\"name\":…,\"body\":…}. Timers fire by the times of the lines.\n\
                      Exit code: 0 all well, 1 it failed, or a line is not as expected, 2 wrong arguments, 78 a file cannot be had."
    )]
    Test {
        #[command(flatten)]
        /// Which program.
        which: Which,
        /// Messages, one JSON object a line [default: stdin]
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        /// What its random numbers come from
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// Compare with these lines, and print only what differs
        #[arg(long, value_name = "FILE")]
        expect: Option<PathBuf>,
    },
    /// Write out the types that an editor completes programs by (luau-lsp)
    Types,
    /// Have a running server read a program's file again, as a reload does
    #[command(
        after_help = "A file with a mistake changes nothing, and it is said where that is. With it whatever else a reload \
                            reads is read.\n\
                            Exit code: 0 done, 1 refused, 2 wrong arguments, 69 no server answers, 77 not allowed, 78 the \
                            configuration."
    )]
    Load {
        /// Its name: as a rule its file's, without the ending
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        /// Which server.
        whom: Whom,
    },
    /// Say in which rooms of a running server programs took the most in 10 s
    #[command(
        after_help = "BUDGET: units a second as a share of units_per_second_max in [program_limits]. SUSPENDED: for how \
                            long yet.\n\
                            Exit code: as of `banter program load`."
    )]
    Top {
        #[command(flatten)]
        /// Which server.
        whom: Whom,
    },
}

/// Which program.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Its file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The server's configuration, whose [[programs]] gives that file words, config and limits
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
enum ToolFault {
    #[error(transparent)]
    Config(#[from] ConfigFault),
    #[error(transparent)]
    Program(#[from] ProgramsFault),
    #[error("{config} has no entry of [[programs]] with file = \"{file}\"", config = .config.display(), file = .file.display())]
    NoEntry { config: PathBuf, file: PathBuf },
    #[error("cannot read {path}: {error}", path = .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("line {line} of the log: {why}")]
    Line { line: usize, why: String },
    #[error("cannot write what it does: {0}")]
    Stdout(io::Error),
}

impl ToolFault {
    fn exit_code(&self) -> u8 {
        match self {
            ToolFault::Config(_) | ToolFault::NoEntry { .. } | ToolFault::Unreadable { .. } => EXIT_CONFIG,
            ToolFault::Program(ProgramsFault::Unreadable { .. }) => EXIT_CONFIG,
            ToolFault::Program(_) | ToolFault::Line { .. } | ToolFault::Stdout(_) => EXIT_DIFFERS,
        }
    }
}

/// Does it, and says what came of it.
pub fn run(task: &ProgramTask) -> ExitCode {
    let done = match task {
        ProgramTask::Load { name, whom } => return ctl_tool::load_program(whom, name),
        ProgramTask::Top { whom } => return ctl_tool::dearest_rooms(whom),
        ProgramTask::Types => write_types(),
        ProgramTask::Check { which } => check(which),
        ProgramTask::Test { which, log, seed, expect } => test(which, log.as_deref(), *seed, expect.as_deref()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_DIFFERS),
        // Who has closed the pipe has read enough.
        Err(ToolFault::Stdout(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("banter: {fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}

fn write_types() -> Result<bool, ToolFault> {
    io::stdout().write_all(type_definitions().as_bytes()).map_err(ToolFault::Stdout)?;
    Ok(true)
}

fn check(which: &Which) -> Result<bool, ToolFault> {
    let (entry, _) = which.entry()?;
    let (compiled, _) = load(&entry)?;
    let ProgramFacts { hooks, version } = compiled.facts();
    let hooks: Vec<&str> = Hook::ALL.into_iter().filter(|hook| hooks.has(*hook)).map(Hook::name).collect();
    let file = entry.file.display();
    println!("{file}: it holds; hooks: {}; version of its state: {version}", hooks.join(", "));
    Ok(true)
}

impl Which {
    /// The program as the configuration gives it, or alone.
    fn entry(&self) -> Result<(ProgramEntry, ProgramLimits), ToolFault> {
        let Some(config) = &self.config else {
            let user =
                UserName::new("@program").map_err(|fault| ToolFault::Line { line: 0, why: fault.to_string() })?;
            let entry = ProgramEntry {
                pattern: RoomPattern::new("*"),
                file: self.file.clone(),
                name: "program".to_owned(),
                on_fault: OnFault::Refuse,
                user,
                words: BTreeMap::new(),
                post_to: Vec::new(),
                config: toml::Table::new(),
            };
            return Ok((entry, ProgramLimits::default()));
        };
        let Config { programs, program_limits, .. } = Settings::read(config)?.resolve(&ANY_CPU)?;
        let is_same = |other: &Path| match (other.canonicalize(), self.file.canonicalize()) {
            (Ok(other), Ok(file)) => other == file,
            _ => other == self.file,
        };
        let entry = programs.into_iter().find(|entry| is_same(&entry.file));
        let no_entry = || ToolFault::NoEntry { config: config.clone(), file: self.file.clone() };
        Ok((entry.ok_or_else(no_entry)?, program_limits))
    }
}

/// It may be another machine's configuration, with more CPUs than this one.
const ANY_CPU: [usize; CPUS] = {
    let (mut cpus, mut cpu) = ([0; CPUS], 0);
    while cpu < CPUS {
        cpus[cpu] = cpu;
        cpu += 1;
    }
    cpus
};
const CPUS: usize = 1_024;

/// A line of the log.
#[derive(Deserialize)]
struct Line<'l> {
    /// What has a place in the log and is no message.
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    event: Option<String>,
    room: String,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    sequence: u64,
    #[serde(default)]
    time_ms: u64,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(borrow, default)]
    body: Option<&'l RawValue>,
}

/// A room as the lines make it.
#[derive(Default)]
struct Room {
    state: RoomState,
    members: BTreeMap<String, u32>,
    head: u64,
}

/// A program that is tried.
struct Trial {
    engine: LuauEngine,
    facts: ProgramFacts,
    limits: ProgramLimits,
    post_to: Vec<RoomPattern>,
    rooms: BTreeMap<String, Room>,
    seed: u64,
    units: Vec<u32>,
    has_failed: bool,
}

fn test(which: &Which, log: Option<&Path>, seed: u64, expect: Option<&Path>) -> Result<bool, ToolFault> {
    let (entry, limits) = which.entry()?;
    let (compiled, rule) = load(&entry)?;
    let mut trial = Trial::new(&compiled, limits, rule.post_to, seed);
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error| ToolFault::Unreadable { path, error }
    };
    let lines: Box<dyn io::BufRead> = match log {
        Some(path) => Box::new(BufReader::new(File::open(path).map_err(unreadable(path))?)),
        None => Box::new(io::stdin().lock()),
    };
    let expected = expect.map(|path| std::fs::read_to_string(path).map_err(unreadable(path))).transpose()?;
    let mut expected = expected.as_deref().map(|text| text.lines());
    let (mut out, mut differs) = (BufWriter::new(io::stdout().lock()), false);
    for (index, line) in lines.lines().enumerate() {
        let line = line.map_err(unreadable(log.unwrap_or(Path::new("stdin"))))?;
        if line.trim().is_empty() {
            continue;
        }
        let told = trial.take(&line).map_err(|why| ToolFault::Line { line: index + 1, why })?;
        for told in told {
            let told = told.to_string();
            match &mut expected {
                None => writeln!(out, "{told}").map_err(ToolFault::Stdout)?,
                Some(expected) => {
                    let wanted = expected.next();
                    if wanted != Some(&told) {
                        differs = true;
                        let wanted = wanted.unwrap_or("nothing");
                        writeln!(out, "line {}:\n  expected {wanted}\n  and it is {told}", index + 1)
                            .map_err(ToolFault::Stdout)?;
                    }
                }
            }
        }
    }
    if let Some(left) = expected.as_mut().and_then(Iterator::next) {
        differs = true;
        writeln!(out, "behind the last line:\n  expected {left}\n  and there is nothing").map_err(ToolFault::Stdout)?;
    }
    out.flush().map_err(ToolFault::Stdout)?;
    trial.summary();
    Ok(!differs && !trial.has_failed)
}

impl Trial {
    fn new(compiled: &Compiled, limits: ProgramLimits, post_to: Vec<RoomPattern>, seed: u64) -> Self {
        let engine = LuauEngine::new(std::slice::from_ref(compiled));
        let (rooms, units, facts) = (BTreeMap::new(), Vec::new(), compiled.facts());
        Trial { engine, facts, limits, post_to, rooms, seed, units, has_failed: false }
    }

    /// What the program does with a line, and with the timers that are due before it.
    fn take(&mut self, line: &str) -> Result<Vec<Value>, String> {
        let Line { kind, event, room, user, sequence, time_ms, key, name, body } =
            serde_json::from_str(line).map_err(|fault| fault.to_string())?;
        // What was erased, and what programs said themselves, no program is asked about.
        let is_own = event.is_none() && user.as_ref().is_some_and(|user| user.starts_with(PROGRAM_PREFIX));
        if kind.is_some() || is_own {
            return Ok(Vec::new());
        }
        let user = user.map(|user| UserName::new(&user).map_err(|fault| format!("`user`: {fault}"))).transpose()?;
        let mut told = Vec::new();
        while let Some(due) = self.rooms.get_mut(&room).and_then(|there| there.state.take_due(time_ms)) {
            told.push(self.call(&room, &Event::Tick { name: &due }, time_ms));
        }
        let there = self.rooms.entry(room.clone()).or_default();
        there.head = there.head.max(sequence.saturating_sub(1));
        let body = OwnedBody::json(body.map_or_else(|| "null".to_owned(), |body| body.get().to_owned()).into());
        let user_or = |what: &str| user.as_ref().ok_or_else(|| format!("a {what} needs `user`"));
        let event = match event.as_deref() {
            None | Some("post") => Event::Post { user: user_or("message")?, key: key.as_deref(), hop: 0, body: &body },
            Some("join") => Event::Join { user: user_or("join")? },
            Some("leave") => Event::Leave { user: user_or("leave")? },
            Some("signal") => Event::Signal { user: user_or("signal")?, body: &body },
            Some("tick") => Event::Tick { name: name.as_deref().ok_or("a tick needs `name`")? },
            Some("fetch") => Event::Fetch { user: user.as_ref() },
            Some(unknown) => return Err(format!("`event` is unknown: {unknown:?}")),
        };
        if let Event::Leave { user } = &event {
            there.members.remove(user.as_str());
        }
        if self.facts.hooks.has(event.hook()) {
            told.push(self.call(&room, &event, time_ms));
        } else {
            told.push(json!({"event": event.hook().name(), "verdict": "not asked"}));
        }
        let there = self.rooms.entry(room).or_default();
        if let Event::Join { user } = &event {
            there.members.insert(user.as_str().to_owned(), 1);
        }
        Ok(told)
    }

    fn call(&mut self, room: &str, event: &Event<'_>, now_ms: u64) -> Value {
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let there = self.rooms.entry(room.to_owned()).or_default();
        if there.state.version == 0 {
            there.state.version = self.facts.version;
        }
        let has = |user: &str| there.members.contains_key(user);
        let facts = RoomFacts {
            name: room,
            epoch: Epoch(1),
            head: Sequence(there.head),
            members: there.members.len() as u64,
            now_ms,
            seed: self.seed,
            has: &has,
        };
        let budget = Budget {
            units: self.limits.units_per_call_max,
            bytes: self.limits.call_bytes_max,
            // A trial is the same on every machine.
            watch_us: None,
        };
        let mut state = StateDraft::new(&there.state, self.limits.state_bytes_max as usize, now_ms);
        let (mut effects, mut spent) = (Effects::new(BODY_BYTES_MAX, &self.post_to), Spent::default());
        let (state_in, effects_in, spent_in) = (&mut state, &mut effects, &mut spent);
        let call = Call { event, room: facts, state: state_in, effects: effects_in, budget, spent: spent_in };
        let verdict = self.engine.call(ProgramId(0), call);
        let (changes, effects) = (state.into_changes(), effects.take());
        self.engine.rest();
        self.units.push(spent.units);
        let mut told = Map::new();
        told.insert("event".into(), event.hook().name().into());
        match verdict {
            Ok(verdict) => {
                let own = effects.iter().filter(|effect| matches!(effect, Effect::Post(_))).count() as u64;
                let is_said = matches!((event, &verdict), (Event::Post { .. }, Verdict::Pass | Verdict::Edit(_)));
                there.head += own + u64::from(is_said);
                if !changes.is_empty() {
                    there.state.apply(changes);
                    told.insert("state".into(), there.state.bytes().into());
                }
                say_verdict(&verdict, &mut told);
                if !effects.is_empty() {
                    told.insert("effects".into(), effects.iter().map(effect_of).collect());
                }
            }
            Err(Fault { kind, message }) => {
                self.has_failed = true;
                told.insert("verdict".into(), "fault".into());
                told.insert("fault".into(), kind.name().into());
                told.insert("message".into(), message.into());
            }
        }
        told.insert("units".into(), spent.units.into());
        Value::Object(told)
    }

    fn summary(&mut self) {
        self.units.sort_unstable();
        let (calls, max) = (self.units.len(), self.units.last().copied().unwrap_or_default());
        let at = |part: usize| self.units.get(calls * part / 100).copied().unwrap_or(max);
        let (median, high) = (at(50), at(99));
        let limit = self.limits.units_per_call_max;
        eprintln!("{calls} calls; units of a call: median {median}, p99 {high}, most {max}, of {limit}");
    }
}

fn say_verdict(verdict: &Verdict, told: &mut Map<String, Value>) {
    let name = match verdict {
        Verdict::Pass => "pass",
        Verdict::Edit(body) => {
            told.insert("body".into(), value_of(body));
            "edit"
        }
        Verdict::Refuse { reason, message, retry_after_ms } => {
            told.insert("reason".into(), (&**reason).into());
            if let Some(message) = message {
                told.insert("message".into(), (&**message).into());
            }
            if let Some(retry_after_ms) = retry_after_ms {
                told.insert("retry_after_ms".into(), (*retry_after_ms).into());
            }
            "refuse"
        }
        Verdict::Take { reply } => {
            if let Some(reply) = reply {
                told.insert("reply".into(), value_of(reply));
            }
            "take"
        }
        Verdict::Route(room) => {
            told.insert("room".into(), room.as_str().into());
            "route"
        }
        Verdict::Admit { from, class } => {
            if from.0 > 0 {
                told.insert("from".into(), from.0.into());
            }
            if let Some(class) = class {
                told.insert("class".into(), class.as_str().into());
            }
            "admit"
        }
    };
    told.insert("verdict".into(), name.into());
}

fn value_of(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or_else(|_| String::from_utf8_lossy(json).into_owned().into())
}

fn effect_of(effect: &Effect) -> Value {
    match effect {
        Effect::Post(body) => json!({"post": value_of(body)}),
        Effect::PostTo(room, body) => json!({"post_to": room.as_str(), "body": value_of(body)}),
        Effect::Whisper(user, body) => json!({"whisper": user.as_str(), "body": value_of(body)}),
        Effect::Signal(body) => json!({"signal": value_of(body)}),
        Effect::View(class, body) => json!({"view": class.as_str(), "body": value_of(body)}),
        Effect::Log(text) => json!({"log": &**text}),
    }
}
