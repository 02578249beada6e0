//! What a core does for each message, as scenarios without sockets: timed by the bench `hot`, counted by the program
//! `instructions`, and held to a number of allocations by the test `allocations`.
//!
//! The machines are the server's own. What is not here is what the kernel does for them, and the server's handling of its ring.

use std::fmt;

pub mod cores;
pub mod disk;
mod frames;
pub mod lanes;
mod log;
pub mod rooms;

/// Something that a core does again and again.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// The question that it belongs to.
    pub question: &'static str,
    /// Its name, another than that of every other one.
    pub name: &'static str,
    /// What one operation is.
    pub operation: &'static str,
    /// Operations that one call does.
    pub operations: u64,
    /// Calls that are counted: what comes seldom in them comes several times.
    pub calls: u64,
    /// Makes what does them: each call does the same again, from the first one on.
    pub begin: fn() -> Call,
}

/// What does the operations of a scenario once.
pub type Call = Box<dyn FnMut()>;

impl fmt::Debug for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.question, self.name)
    }
}

/// All of them, by question.
pub fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    [&frames::SCENARIOS[..], &rooms::SCENARIOS, &lanes::SCENARIOS, &log::SCENARIOS].into_iter().flatten()
}

/// The scenario of that name.
pub fn scenario(name: &str) -> Option<&'static Scenario> {
    scenarios().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_does_what_it_says_again_and_again() {
        for scenario in scenarios() {
            let mut call = (scenario.begin)();
            (0..3).for_each(|_| call());
        }
    }

    #[test]
    fn the_table_of_instructions_and_the_readme_know_every_scenario() {
        let (readme, table) = (include_str!("../README.md"), include_str!("../instructions.txt"));
        for scenario in scenarios() {
            let Scenario { name, operation, .. } = scenario;
            assert!(readme.contains(&format!("| `{name}` |")), "{name} is missing in benches/README.md");
            let is_line = |line: &str| line.starts_with(&format!("{name} ")) && line.ends_with(operation);
            assert!(table.lines().any(is_line), "{name}: write the table with scripts/instructions.sh");
        }
    }
}
