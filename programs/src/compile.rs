//! A program before it is run: its text compiled once, tried once, and ready for each core.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::thread;

use banter_chat::program::{Hook, Hooks, ProgramFacts};
use serde_json::Value;

use crate::arguments::printable;
use crate::ask::{Asked, Buffers};
use crate::vm::{self, Bytecode, Global, Vm, VmFault, VmLimits};
use crate::words::Words;

/// Bytes of a program's text at most.
pub const TEXT_BYTES_MAX: usize = 256 * 1_024;
/// What the chunk of a program may take when it is loaded.
pub const LOAD_UNITS_MAX: u32 = 1_000_000;
/// Bytes that the chunk of a program may have when it is loaded.
pub const LOAD_BYTES_MAX: u64 = 4 * 1_024 * 1_024;
const LOAD_WATCH_US: u32 = 1_000_000;
/// Bytes of the stack that a text is compiled on: Luau's parser goes 1,000 levels deep.
const COMPILE_STACK_BYTES: usize = 32 * 1_024 * 1_024;
const VERSION_MAX: f64 = 4_294_967_295.0;
const MESSAGE_BYTES_MAX: usize = 1_024;

/// What a program is made of.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// What faults call it: the name of its file.
    pub name: String,
    /// Its text, in Luau.
    pub text: String,
    /// The entries of each word list that it may use, by the name of its grant.
    pub words: BTreeMap<String, Vec<String>>,
    /// What it reads as `config.NAME`.
    pub config: BTreeMap<String, Value>,
}

/// What a program was given by its operator.
#[derive(Debug)]
pub struct Grants {
    pub words: Vec<(String, Words)>,
    /// JSON.
    pub config: Box<[u8]>,
}

/// A program that was compiled and tried: cheap to clone, and the same for each core.
#[derive(Clone)]
pub struct Compiled(Arc<Parts>);

struct Parts {
    name: String,
    bytecode: Bytecode,
    grants: Grants,
    facts: ProgramFacts,
}

impl fmt::Debug for Compiled {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Compiled({} {} bytes)", self.0.name, self.0.bytecode.bytes())
    }
}

impl Compiled {
    /// Compiles a program, runs its chunk within [`LOAD_UNITS_MAX`] and [`LOAD_BYTES_MAX`], and looks for its hooks.
    ///
    /// # Errors
    /// Its text is no program, its chunk fails, or it has no hook.
    pub fn new(source: &Source) -> Result<Self, CompileFault> {
        if source.text.len() > TEXT_BYTES_MAX {
            let bytes = source.text.len();
            return Err(CompileFault::whole(
                source,
                format!("it has {bytes} bytes, and a program has {TEXT_BYTES_MAX} at most"),
            ));
        }
        let mut words = Vec::new();
        for (name, entries) in &source.words {
            let list = Words::new(entries.iter().map(String::as_str))
                .map_err(|none| CompileFault::whole(source, format!("the words `{name}`: {none}")))?;
            words.push((name.clone(), list));
        }
        let config = serde_json::to_vec(&source.config)
            .map_err(|fault| CompileFault::whole(source, format!("its config: {fault}")))?;
        let grants = Grants { words, config: config.into() };
        let bytecode = compile_aside(source)?;
        let parts = Parts { name: source.name.clone(), bytecode, grants, facts: ProgramFacts::default() };
        let mut vm = parts.load().map_err(|fault| fault.in_source(source))?;
        let facts = facts(&mut vm).map_err(|message| CompileFault::whole(source, message))?;
        Ok(Compiled(Arc::new(Parts { facts, ..parts })))
    }

    /// What is known of it.
    pub fn facts(&self) -> ProgramFacts {
        self.0.facts
    }

    /// What faults call it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn grants(&self) -> &Grants {
        &self.0.grants
    }

    /// A machine of its own with the program in it.
    pub(crate) fn machine(&self) -> Result<Vm, CompileFault> {
        let mut vm = self
            .0
            .load()
            .map_err(|fault| fault.in_source(&Source { name: self.0.name.clone(), ..Source::default() }))?;
        Hook::ALL.into_iter().filter(|hook| self.0.facts.hooks.has(*hook)).for_each(|hook| vm.find_hook(hook));
        Ok(vm)
    }
}

fn compile_aside(source: &Source) -> Result<Bytecode, CompileFault> {
    let compiled = thread::scope(|scope| {
        let thread = thread::Builder::new().name("compile".into()).stack_size(COMPILE_STACK_BYTES);
        thread.spawn_scoped(scope, || vm::compile(source.text.as_bytes())).map(thread::ScopedJoinHandle::join)
    });
    match compiled {
        Ok(Ok(Ok(bytecode))) => Ok(bytecode),
        Ok(Ok(Err(error))) => {
            Err(CompileFault::at(source, error.line as usize, error.column as usize, lower_first(&error.message)))
        }
        Ok(Err(_)) => Err(CompileFault::whole(source, "the compiler failed".into())),
        Err(fault) => Err(CompileFault::whole(source, format!("no thread to compile it on: {fault}"))),
    }
}

fn lower_first(message: &str) -> String {
    let mut characters = message.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

/// Why a chunk did not run.
struct LoadFault {
    line: usize,
    message: String,
}

impl LoadFault {
    fn in_source(self, source: &Source) -> CompileFault {
        CompileFault::at(source, self.line, 0, self.message)
    }
}

impl Parts {
    fn load(&self) -> Result<Vm, LoadFault> {
        let mut buffers = Buffers::default();
        let mut host = Asked::new(&self.grants, None, &mut buffers);
        let mut vm = Vm::new(&mut host);
        let limits = VmLimits { units: LOAD_UNITS_MAX, watch_us: LOAD_WATCH_US, bytes: LOAD_BYTES_MAX, is_large: 0 };
        let (run, lasting) = vm.load(&mut host, &format!("={}", self.name), &self.bytecode, limits);
        let text = printable(run.message, MESSAGE_BYTES_MAX);
        match (run.fault, lasting) {
            (None, _) => Ok(vm),
            (Some(_), Some(line)) => {
                let name = if text.is_empty() {
                    "a local that outlives the call".into()
                } else {
                    format!("the global `{text}`")
                };
                let message = format!("a function assigns {name}: keep it with state.set");
                Err(LoadFault { line: line as usize, message })
            }
            (Some(fault), None) => {
                let (line, text) = split_place(&self.name, &text);
                let message = match fault {
                    VmFault::Cpu => format!("the chunk takes more than {LOAD_UNITS_MAX} units"),
                    VmFault::Memory => format!("the chunk takes more than {LOAD_BYTES_MAX} bytes"),
                    VmFault::Host | VmFault::Failed => text.to_owned(),
                };
                Err(LoadFault { line, message })
            }
        }
    }
}

/// The line that an error begins with behind the program's name, and the rest; 0: it has none.
fn split_place<'m>(name: &str, message: &'m str) -> (usize, &'m str) {
    let placed = message.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')?.split_once(": "));
    placed.and_then(|(line, rest)| Some((line.parse().ok()?, rest))).unwrap_or((0, message))
}

fn facts(vm: &mut Vm) -> Result<ProgramFacts, String> {
    let mut hooks = Hooks::default();
    let names = Hook::ALL.map(Hook::name).join(", ");
    for hook in Hook::ALL {
        match vm.global(hook.name()) {
            Some(Global::Function) => hooks = hooks.with(hook),
            Some(_) => return Err(format!("`{}` is a hook, and is to be a function", hook.name())),
            None => {}
        }
    }
    let functions: Vec<String> =
        vm.globals().into_iter().filter(|(_, is_function)| *is_function).map(|(name, _)| name).collect();
    for name in functions.iter().filter(|name| !is_known(name)) {
        let lower = name.to_ascii_lowercase();
        if let Some(hook) = Hook::ALL.into_iter().find(|hook| strsim::damerau_levenshtein(hook.name(), &lower) <= 1) {
            return Err(format!("`{name}` is no hook: is it to be `{}`? There are {names}", hook.name()));
        }
    }
    if hooks == Hooks::default() {
        return Err(format!("it has no hook: a program is functions among {names}"));
    }
    let version = match vm.global("version") {
        None => 1.0,
        Some(Global::Number(version)) if version.fract() == 0.0 && (1.0..=VERSION_MAX).contains(&version) => version,
        Some(_) => return Err(format!("`version` is a whole number from 1 to {VERSION_MAX}")),
    };
    Ok(ProgramFacts { hooks, version: version as u32 })
}

/// Whether a global is a hook or of the library.
fn is_known(name: &str) -> bool {
    name.contains('.') || crate::library::GLOBALS.contains(&name) || Hook::ALL.iter().any(|hook| hook.name() == name)
}

/// Why a text is no program: prints as a compiler does, with the line and a caret under its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileFault {
    /// The program's name.
    pub name: String,
    /// From 1; 0: of the whole.
    pub line: usize,
    /// From 1, in bytes; 0: not known.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    source_line: String,
}

impl CompileFault {
    fn whole(source: &Source, message: String) -> Self {
        CompileFault::at(source, 0, 0, message)
    }

    fn at(source: &Source, line: usize, column: usize, message: String) -> Self {
        const LINE_BYTES_MAX: usize = 160;
        let text = line.checked_sub(1).and_then(|line| source.text.lines().nth(line)).unwrap_or_default();
        let source_line = printable(text.replace('\t', " ").as_bytes(), LINE_BYTES_MAX);
        CompileFault { name: source.name.clone(), line, column, message, source_line }
    }
}

impl fmt::Display for CompileFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, line, column, message, source_line } = self;
        match (line, column) {
            (0, _) => write!(out, "{name}: {message}")?,
            (line, 0) => write!(out, "{name}:{line}: {message}")?,
            (line, column) => write!(out, "{name}:{line}:{column}: {message}")?,
        }
        if source_line.is_empty() {
            return Ok(());
        }
        write!(out, "\n  {source_line}")?;
        if *column > 0 && *column <= source_line.len() + 1 {
            write!(out, "\n  {}^", " ".repeat(column - 1))?;
        }
        Ok(())
    }
}

impl std::error::Error for CompileFault {}
