//! The programs that the configuration names: read, compiled and tried on a thread that is no core, and made into an engine a core.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aws_lc_rs::digest::{Context, SHA256};
use banter_chat::address::Core;
use banter_chat::program::{Engine, FaultKind};
use banter_chat::programming::{Noted, ProgramNote};
use banter_chat::programs::{ProgramLimits, ProgramRule, ProgramSet, Programs};
use banter_programs::{CompileFault, Compiled, LuauEngine, Source};
use flume::Sender;

use crate::config::{Config, ProgramEntry};
use crate::core::rare_line::RareLine;

/// Bytes of a file with words.
const WORDS_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a program's text.
const TEXT_BYTES_MAX: u64 = 256 << 10;
/// Programs and kinds of faults whose next line is told apart; of what is beyond them the first line is the last.
const FAULT_LINES_MAX: usize = 64 * FaultKind::ALL.len();

/// Why the programs of a configuration cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsFault {
    /// A file cannot be read.
    #[error("cannot read {path}, which [[programs]] \"{program}\" names: {error}", path = .path.display())]
    Unreadable {
        /// The program.
        program: String,
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is longer than it may be.
    #[error("{path}, which [[programs]] \"{program}\" names, is longer than {bytes_max} bytes", path = .path.display())]
    TooLong {
        /// The program.
        program: String,
        /// The file.
        path: PathBuf,
        /// Bytes that it may have.
        bytes_max: u64,
    },
    /// It is no program.
    #[error("{0}")]
    Compile(#[from] Box<CompileFault>),
    /// There is no randomness for its dice.
    #[error("the generator of random numbers failed")]
    Random,
}

/// Compiled programs, and which rooms have them.
#[derive(Clone, Debug, Default)]
pub struct ProgramBook {
    compiled: Vec<Compiled>,
    programs: Programs,
    limits: ProgramLimits,
}

impl ProgramBook {
    /// Reads and compiles what the configuration names.
    ///
    /// # Errors
    /// A file cannot be read, or is no program.
    pub fn load(config: &Config) -> Result<Self, ProgramsFault> {
        let (mut compiled, mut rules) = (Vec::new(), Vec::new());
        for entry in &config.programs {
            let (program, rule) = load(entry)?;
            compiled.push(program);
            rules.push(rule);
        }
        Ok(ProgramBook { compiled, programs: Programs::new(rules), limits: config.program_limits })
    }

    /// Whether no room has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.compiled.is_empty()
    }

    /// Whether rooms have the same programs by the other one, and the same limits hold.
    #[must_use]
    pub fn is_like(&self, other: &ProgramBook) -> bool {
        self.programs == other.programs && self.limits == other.limits
    }

    /// The programs whose text, words or configuration the other one has not.
    #[must_use]
    pub fn new_since(&self, other: &ProgramBook) -> Vec<String> {
        let was = |rule: &&ProgramRule| !other.programs.rules().contains(rule);
        self.programs.rules().iter().filter(was).map(|rule| rule.name.to_string()).collect()
    }

    /// An engine of its own for a core: making it takes some milliseconds, which no turn has to.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn set(&self) -> Result<ProgramSet, ProgramsFault> {
        let mut seed = [0; 8];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| ProgramsFault::Random)?;
        Ok(ProgramSet {
            programs: self.programs.clone(),
            engine: Box::new(LuauEngine::new(&self.compiled)),
            limits: self.limits,
            seed: u64::from_le_bytes(seed),
        })
    }
}

/// One of them.
///
/// # Errors
/// A file cannot be read, or is no program.
pub fn load(entry: &ProgramEntry) -> Result<(Compiled, ProgramRule), ProgramsFault> {
    let mut digest = Context::new(&SHA256);
    let text = read(entry, &entry.file, TEXT_BYTES_MAX)?;
    digest.update(text.as_bytes());
    let mut words = BTreeMap::new();
    for (name, path) in &entry.words {
        let list = read(entry, path, WORDS_BYTES_MAX)?;
        digest.update(list.as_bytes());
        let lines = list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        words.insert(name.clone(), lines.map(str::to_owned).collect());
    }
    let config: BTreeMap<String, serde_json::Value> =
        entry.config.iter().map(|(key, value)| (key.clone(), json_of(value))).collect();
    digest.update(format!("{config:?}").as_bytes());
    let name = entry.file.display().to_string();
    let source = Source { name, text, words, config };
    let compiled = Compiled::new(&source).map_err(Box::new)?;
    let digest = digest.finish();
    let first = digest.as_ref().first_chunk::<8>().copied().unwrap_or_default();
    let rule = ProgramRule {
        pattern: entry.pattern.clone(),
        name: entry.name.as_str().into(),
        digest: u64::from_be_bytes(first),
        on_fault: entry.on_fault,
        user: entry.user.clone(),
        post_to: entry.post_to.clone(),
    };
    Ok((compiled, rule))
}

fn read(entry: &ProgramEntry, path: &Path, bytes_max: u64) -> Result<String, ProgramsFault> {
    let (program, path) = (entry.name.clone(), path.to_owned());
    match std::fs::metadata(&path).and_then(|about| Ok((about.len(), std::fs::read_to_string(&path)?))) {
        Ok((bytes, _)) if bytes > bytes_max => Err(ProgramsFault::TooLong { program, path, bytes_max }),
        Ok((_, text)) => Ok(text),
        Err(error) => Err(ProgramsFault::Unreadable { program, path, error }),
    }
}

/// A value of the configuration as a program finds it.
fn json_of(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Array(list) => list.iter().map(json_of).collect(),
        toml::Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), json_of(value))).collect(),
        // The configuration takes none.
        toml::Value::Datetime(date) => date.to_string().into(),
    }
}

/// Other programs for a core, and where the engine that it had goes: ending it takes its time.
pub struct NewPrograms {
    /// The programs.
    pub set: ProgramSet,
    /// Who ends the engine.
    pub retired: Sender<Retired>,
}

/// An engine that no room calls any more.
pub struct Retired {
    /// The core that had it; it goes by the new one.
    pub core: Core,
    /// The engine, where it had one.
    pub engine: Option<Box<dyn Engine>>,
}

impl std::fmt::Debug for NewPrograms {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "NewPrograms({:?})", self.set.programs)
    }
}

/// Says what programs say, and of their faults the first of a kind and then how many there were.
#[derive(Default)]
pub struct ProgramLines {
    faults: BTreeMap<(Box<str>, FaultKind), RareLine>,
}

impl ProgramLines {
    fn due(&mut self, program: &str, kind: FaultKind, now: Instant) -> Option<u64> {
        let key = (program.into(), kind);
        if self.faults.len() >= FAULT_LINES_MAX && !self.faults.contains_key(&key) {
            return None;
        }
        self.faults.entry(key).or_default().due(now)
    }

    /// Says it.
    pub fn say(&mut self, note: &ProgramNote, now: Instant) {
        let ProgramNote { program, room, head, what } = note;
        let (room, head) = (room.as_str(), head.0);
        match what {
            Noted::Said(text) => tracing::info!(event = "program", program, room, head, "{text}"),
            Noted::Suspended(for_ms) => {
                let Some(untold) = self.due(program, FaultKind::Suspended, now) else { return };
                let for_s = for_ms / 1_000;
                tracing::warn!(
                    event = "program",
                    program,
                    room,
                    head,
                    untold,
                    "it failed too often here, and is not called for {for_s} s"
                );
            }
            Noted::Failed(fault) => {
                if let Some(untold) = self.due(program, fault.kind, now) {
                    let kind = fault.kind.name();
                    tracing::warn!(
                        event = "program",
                        program,
                        room,
                        head,
                        kind,
                        untold,
                        "it failed: {}",
                        fault.message
                    );
                }
            }
        }
    }
}
