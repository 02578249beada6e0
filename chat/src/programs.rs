//! Which program a room has, by its name, and what its operator said of it.

use std::sync::Arc;

use banter_protocol::ids::UserName;

use crate::limits::LimitFault;
use crate::policy::RoomPattern;
use crate::program::{Engine, ProgramId};
use crate::room_state::ROOM_STATE_BYTES_MAX;

/// What is done with what a program should have decided, and could not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFault {
    /// It is refused.
    Refuse,
    /// It is done as if there were no program.
    Pass,
}

/// A program in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramRule {
    /// The rooms that have it.
    pub pattern: RoomPattern,
    /// What metrics and log lines call it.
    pub name: Box<str>,
    /// The first 8 bytes of the SHA-256 of its text, its words and its configuration: another digest is another program.
    pub digest: u64,
    /// What is done where it fails.
    pub on_fault: OnFault,
    /// Who its own posts are from.
    pub user: UserName,
    /// Rooms that it may post to beside its own.
    pub post_to: Vec<RoomPattern>,
}

/// The programs in force: the first pattern that matches wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programs(Arc<[ProgramRule]>);

impl Programs {
    /// Programs at most.
    pub const MAX: usize = 64;

    /// In the order of the configuration.
    pub fn new(rules: Vec<ProgramRule>) -> Self {
        Programs(rules.into())
    }

    /// The program of the room of that name.
    pub fn of(&self, room: &str) -> Option<ProgramId> {
        self.0.iter().position(|rule| rule.pattern.matches(room)).map(|at| ProgramId(at as u16))
    }

    /// What the operator said of it.
    pub fn rule(&self, program: ProgramId) -> Option<&ProgramRule> {
        self.0.get(usize::from(program.0))
    }

    /// All of them, in their order.
    pub fn rules(&self) -> &[ProgramRule] {
        &self.0
    }
}

/// A program as it was when it decided something: by the time that this counts there may be others in its place.
#[derive(Clone, Debug)]
pub struct By {
    programs: Programs,
    program: ProgramId,
}

impl By {
    /// The program.
    pub fn rule(&self) -> Option<&ProgramRule> {
        self.programs.rule(self.program)
    }
}

impl Programs {
    /// Who decides by that program.
    pub fn by(&self, program: ProgramId) -> By {
        By { programs: self.clone(), program }
    }
}

/// What programs may take. `0` means "none" where the field says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramLimits {
    /// Units of one call: a step of a loop is one, and what walks its argument costs by its length.
    pub units_per_call_max: u32,
    /// Microseconds of the core's CPU time that one call may take, for what is charged too little; 0 = it is not looked at.
    pub watch_us: u32,
    /// Bytes of a body that a program is asked about; what is larger is refused, and is no fault of the program's; 0 = as large as a
    /// frame may be.
    pub body_bytes_max: u32,
    /// Bytes that one call may have at a time, beside what its program has for good.
    pub call_bytes_max: u32,
    /// Bytes of a room's state: keys and values, with 14 for each.
    pub state_bytes_max: u32,
    /// Units a second of one room, with a burst of one second's worth; 0 = none.
    pub units_per_second_max: u32,
    /// Units of one turn of a core; what would call a program then waits for the next.
    pub units_per_turn_max: u32,
}

impl Default for ProgramLimits {
    fn default() -> Self {
        ProgramLimits {
            units_per_call_max: 10_000,
            watch_us: 1_000,
            body_bytes_max: 4_096,
            call_bytes_max: 256 * 1_024,
            state_bytes_max: 4_096,
            units_per_second_max: 500_000,
            units_per_turn_max: 250_000,
        }
    }
}

impl ProgramLimits {
    /// Says which limit is outside its range.
    ///
    /// # Errors
    /// The first limit that breaks a rule, with the rule.
    pub fn check(&self) -> Result<(), LimitFault> {
        let rules: [(&'static str, u32, u32, u32); 7] = [
            ("units_per_call_max", self.units_per_call_max, 100, 10_000_000),
            ("watch_us", self.watch_us, 0, 1_000_000),
            ("body_bytes_max", self.body_bytes_max, 0, 64 * 1_024 * 1_024),
            ("call_bytes_max", self.call_bytes_max, 16 * 1_024, 64 * 1_024 * 1_024),
            ("state_bytes_max", self.state_bytes_max, 64, ROOM_STATE_BYTES_MAX as u32),
            ("units_per_second_max", self.units_per_second_max, 0, 1_000_000_000),
            ("units_per_turn_max", self.units_per_turn_max, self.units_per_call_max, 1_000_000_000),
        ];
        match rules.into_iter().find(|&(_, value, low, high)| !(low..=high).contains(&value)) {
            Some((name, value, low, high)) => {
                Err(LimitFault { name, must: format!("{name} must be between {low} and {high}, and is {value}") })
            }
            None => Ok(()),
        }
    }
}

/// The programs of a core, and who runs them.
pub struct ProgramSet {
    /// Which rooms have which.
    pub programs: Programs,
    /// Who runs them: [`ProgramId`] names the same there.
    pub engine: Box<dyn Engine>,
    /// What they may take.
    pub limits: ProgramLimits,
    /// What random numbers come from: random itself, and nobody's to guess.
    pub seed: u64,
}
