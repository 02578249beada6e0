//! The engine of a core: a machine for each program, and what comes of their calls.

use banter_chat::program::{
    Call, ClassName, EffectFault, Engine, Event, Fault, FaultKind, Hook, ProgramFacts, ProgramId, Spent, Verdict,
};
use banter_protocol::ids::Sequence;

use crate::arguments::printable;
use crate::ask::{Asked, Buffers};
use crate::compile::{CompileFault, Compiled};
use crate::vm::{Beside, Nodes, Part, Run, Vm, VmFault, VmLimits};

/// Bytes of a fault's message at most.
pub const FAULT_BYTES_MAX: usize = 1_024;
/// Garbage that a machine is left with: less is not worth a round.
const GARBAGE_BYTES_MIN: usize = 128 * 1_024;
/// Garbage that is collected ahead of a call, where nobody rests: so a machine never grows beyond what one call adds to that.
const GARBAGE_BYTES_MAX: usize = 2 * 1_024 * 1_024;
/// The largest place that a number of Luau holds exactly: 2^53.
const PLACE_MAX: f64 = 9_007_199_254_740_992.0;
/// Work of one step of a round: about 20 µs.
const STEP_KIB: u32 = 64;
/// A body of so many bytes is read for some microseconds in one ask, so that the clocks are looked at ahead of it.
const LARGE_BODY_BYTES: usize = 4 * 1_024;

/// Runs the programs of one core, each in a machine of its own.
///
/// What comes of a call depends on its program, what it reads and its budget alone: nothing that a program makes outlives a call
/// but what it gave to the state.
pub struct LuauEngine {
    programs: Vec<Slot>,
    buffers: Buffers,
    /// Whose turn it is to be rested.
    next: usize,
}

struct Slot {
    compiled: Compiled,
    /// None: it ran out of memory, and a new one is due.
    vm: Option<Vm>,
    /// Bytes that were there behind the last round of collection.
    kept_bytes: usize,
    is_collecting: bool,
}

impl Slot {
    fn new(compiled: Compiled) -> Self {
        let mut slot = Slot { compiled, vm: None, kept_bytes: 0, is_collecting: false };
        // The chunk ran when it was compiled, and does the same again; if it could not, each call would say why.
        let _ = slot.machine();
        slot
    }

    fn machine(&mut self) -> Result<&mut Vm, CompileFault> {
        if self.vm.is_none() {
            let vm = self.compiled.machine()?;
            (self.kept_bytes, self.is_collecting) = (vm.bytes(), false);
            self.vm = Some(vm);
        }
        Ok(self.vm.as_mut().expect("made above"))
    }

    fn garbage_bytes(&self) -> usize {
        self.vm.as_ref().map_or(0, |vm| vm.bytes().saturating_sub(self.kept_bytes))
    }

    /// One step of collection; whether there is more.
    fn collect(&mut self) -> bool {
        let Some(vm) = &mut self.vm else { return false };
        self.is_collecting = vm.step(STEP_KIB);
        if !self.is_collecting {
            self.kept_bytes = vm.bytes();
        }
        self.is_collecting
    }
}

impl LuauEngine {
    /// With a machine for each of those, in the order of their [`ProgramId`].
    pub fn new(programs: &[Compiled]) -> Self {
        let programs = programs.iter().cloned().map(Slot::new).collect();
        LuauEngine { programs, buffers: Buffers::default(), next: 0 }
    }

    /// Bytes that all its machines have of the system.
    pub fn allocated_bytes(&self) -> usize {
        self.programs.iter().filter_map(|slot| slot.vm.as_ref()).map(Vm::allocated_bytes).sum()
    }
}

impl Engine for LuauEngine {
    fn facts(&self, program: ProgramId) -> ProgramFacts {
        self.programs.get(usize::from(program.0)).map(|slot| slot.compiled.facts()).unwrap_or_default()
    }

    fn call(&mut self, program: ProgramId, call: Call<'_, '_>) -> Result<Verdict, Fault> {
        let hook = call.event.hook();
        let Some(slot) = self.programs.get_mut(usize::from(program.0)) else {
            return Err(Fault::new(FaultKind::Error, "there is no such program"));
        };
        if !slot.compiled.facts().hooks.has(hook) {
            return Ok(Verdict::Pass);
        }
        if slot.garbage_bytes() > GARBAGE_BYTES_MAX {
            while slot.collect() {}
        }
        slot.machine().map_err(|fault| Fault::new(FaultKind::Error, fault.to_string()))?;
        let Slot { compiled, vm, .. } = slot;
        let vm = vm.as_mut().expect("made above");
        let (ended, is_out_of_memory) = run(compiled, vm, call, &mut self.buffers);
        if is_out_of_memory {
            slot.vm = None;
        }
        ended
    }

    fn rest(&mut self) -> bool {
        let due = |slot: &Slot| slot.vm.is_none() || slot.is_collecting || slot.garbage_bytes() > GARBAGE_BYTES_MIN;
        let count = self.programs.len();
        for number in (self.next..count).chain(0..self.next) {
            let slot = &mut self.programs[number];
            if !due(slot) {
                continue;
            }
            self.next = number;
            if slot.vm.is_none() {
                let _ = slot.machine();
            } else {
                slot.collect();
            }
            return self.programs.iter().any(due);
        }
        false
    }
}

/// One call; beside what came of it, whether its machine ran out of memory.
fn run(compiled: &Compiled, vm: &mut Vm, call: Call<'_, '_>, buffers: &mut Buffers) -> (Result<Verdict, Fault>, bool) {
    let hook = call.event.hook();
    let budget = call.budget;
    let event = call.event;
    let beside = match event {
        Event::Tick { name } => Beside::Text(name),
        Event::Upgrade { from } => Beside::Number(f64::from(*from)),
        _ => Beside::Event,
    };
    let is_large = match event {
        Event::Post { body, .. } | Event::Signal { body, .. } => body.bytes.len() >= LARGE_BODY_BYTES,
        _ => false,
    };
    let limits = VmLimits {
        units: budget.units,
        watch_us: budget.watch_us.unwrap_or(0),
        bytes: u64::from(budget.bytes),
        is_large: u32::from(is_large),
    };
    let mut asked = Asked::new(compiled.grants(), Some(call), buffers);
    let (run, returned) = vm.call(&mut asked, hook, beside, limits, returned);
    if let Some(call) = &mut asked.call {
        *call.spent = Spent { units: run.units, is_over_time: run.is_over_time };
    }
    let is_out_of_memory = run.fault == Some(VmFault::Memory);
    let ended = match run.fault {
        None => verdict(&mut asked, hook, run.verdict, returned),
        Some(fault) => Err(fault_of(fault, &run, &mut asked, limits)),
    };
    (ended, is_out_of_memory)
}

fn fault_of(fault: VmFault, run: &Run<'_>, asked: &mut Asked<'_, '_, '_>, limits: VmLimits) -> Fault {
    let (kind, message) = match (fault, asked.fault.take()) {
        (VmFault::Host, Some((kind, message))) => (kind, message),
        (VmFault::Cpu, _) if run.is_over_time => {
            (FaultKind::Cpu, format!("more than {} µs of the CPU", limits.watch_us))
        }
        (VmFault::Cpu, _) => (FaultKind::Cpu, format!("more than {} units", limits.units)),
        (VmFault::Memory, _) => (FaultKind::Memory, format!("more than {} bytes", limits.bytes)),
        (VmFault::Host | VmFault::Failed, _) => (FaultKind::Error, printable(run.message, FAULT_BYTES_MAX)),
    };
    if run.trace.is_empty() {
        return Fault::new(kind, message);
    }
    let message = format!("{message} [{}]", printable(run.trace, FAULT_BYTES_MAX));
    Fault::new(kind, printable(message.as_bytes(), FAULT_BYTES_MAX))
}

/// What a hook gave back that is no verdict.
enum Returned {
    Nothing,
    /// `from`, `class`, both or neither.
    Admission {
        from: Option<f64>,
        class: Option<Box<str>>,
    },
    Other(&'static str),
}

fn returned(nodes: &Nodes<'_>) -> Returned {
    match nodes.first().map(|node| node.part()) {
        None | Some(Part::Nil) => Returned::Nothing,
        Some(Part::Table) => admission(nodes.iter().skip(1).map(|node| node.part()))
            .unwrap_or(Returned::Other("a table that is not of `from`, a place, and `class`, a text,")),
        Some(Part::Text(_)) => Returned::Other("a text"),
        Some(Part::Number(_)) => Returned::Other("a number"),
        Some(_) => Returned::Other("no verdict"),
    }
}

/// What a table says that has nothing but `from` and `class`.
fn admission<'n>(mut parts: impl Iterator<Item = Part<'n>>) -> Option<Returned> {
    let (mut from, mut class) = (None, None);
    loop {
        match (parts.next()?, parts.next()) {
            (Part::Text(b"from"), Some(Part::Number(place))) => from = Some(place),
            (Part::Text(b"class"), Some(Part::Text(name))) => class = Some(std::str::from_utf8(name).ok()?.into()),
            // Also of neither: `{ class = nil }` is a table without anything.
            (Part::End, _) => return Some(Returned::Admission { from, class }),
            _ => return None,
        }
    }
}

fn verdict(
    asked: &mut Asked<'_, '_, '_>,
    hook: Hook,
    number: Option<u32>,
    returned: Returned,
) -> Result<Verdict, Fault> {
    let error = |text: String| Err(Fault::new(FaultKind::Error, text));
    let name = hook.name();
    if let Some(number) = number {
        let verdict = asked.verdicts.get(number as usize).cloned();
        let is_allowed = match verdict {
            Some(Verdict::Refuse { .. }) => matches!(hook, Hook::Post | Hook::Join | Hook::Signal | Hook::Fetch),
            _ => hook == Hook::Post,
        };
        return match verdict {
            Some(verdict) if is_allowed => Ok(verdict),
            _ => error(format!("{name} gives no such verdict back")),
        };
    }
    match returned {
        Returned::Nothing => edit(asked),
        Returned::Admission { class: Some(_), .. } if hook != Hook::Join => {
            error(format!("{name} gives no `class` back"))
        }
        Returned::Admission { .. } if !matches!(hook, Hook::Join | Hook::Fetch) => {
            error(format!("{name} gives no `from` back"))
        }
        Returned::Admission { from, class } => {
            let from = from.unwrap_or_default();
            let is_place = from.fract() == 0.0 && (0.0..=PLACE_MAX).contains(&from);
            if !is_place {
                return error("`from` is a place, 0 or more".into());
            }
            match class.map(|name| ClassName::new(&name)).transpose() {
                Ok(class) => Ok(Verdict::Admit { from: Sequence(from as u64), class }),
                Err(fault) => error(format!("`class`: {fault}")),
            }
        }
        Returned::Other(what) => error(format!("{name} gave {what} back: it returns nothing, or a verdict")),
    }
}

fn edit(asked: &mut Asked<'_, '_, '_>) -> Result<Verdict, Fault> {
    let Some(edited) = asked.edited.take() else { return Ok(Verdict::Pass) };
    let Some(call) = &asked.call else { return Ok(Verdict::Pass) };
    if edited.len() > call.effects.body_bytes_max() {
        let fault = EffectFault::TooLarge(call.effects.body_bytes_max());
        return Err(Fault::new(FaultKind::Effects, format!("edited: {fault}")));
    }
    match call.event {
        Event::Post { body, .. } if body.bytes[..] == edited[..] => Ok(Verdict::Pass),
        _ => Ok(Verdict::Edit(edited)),
    }
}
