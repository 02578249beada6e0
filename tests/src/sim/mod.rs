//! The simulated world: the real shards of several cores, driven by a seed, with lanes that delay, sockets that stall,
//! clients that vanish, and a clock of its own.
//!
//! ```text
//!  Client ─request─▶ World ─Input─▶ Shard ─Outgoing─▶ Lane (delay, size) ─▶ Shard
//!  Client ◀─bytes── World ◀─Sending─ Shard
//!     └── what it saw ─▶ Truth: what must hold whatever the order was
//! ```
//!
//! `disk.rs` is the disk under the log, `crash.rs` how the server dies and comes back by its real recovery.
//! `world.rs` is the shell (it follows the server's pump turn by turn), with what must hold in `world/checks.rs` and what
//! happens to the server in `world/fate.rs`; `client.rs` what one connection asks and has to see, `wire.rs` the clients' own
//! reading of the bytes, `truth.rs` what all clients together have to agree on, `keys.rs` which posts may have two places,
//! `identity.rs` who the clients are and what each may do, where tokens are asked for (`world/access.rs`), `scripted.rs` the program
//! that a room has in some seeds, in half of them in Luau (`scripted.luau`), `profile.rs` the limits of a seed, `slots.rs` what
//! becomes of the ledger and the epoch file, `coverage.rs` what
//! happened, so that a test can see that it did.

pub mod client;
pub mod coverage;
pub mod crash;
pub mod disk;
pub mod identity;
pub mod keys;
pub mod profile;
pub mod scripted;
pub mod slots;
pub mod truth;
pub mod wire;
pub mod world;

use std::fmt;

use coverage::Coverage;
use world::World;

/// Letters of a fault that tell its kind.
const KIND_CHARS_MAX: usize = 60;

/// What one seed is run with.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where all chance comes from.
    pub seed: u64,
    /// Cores of the simulated server.
    pub cores: u16,
    /// Prints every request and event.
    pub verbose: bool,
}

impl Plan {
    /// That seed on so many cores.
    pub fn of(seed: u64, cores: u16) -> Self {
        Plan { seed, cores, verbose: false }
    }
}

/// Runs one seed to its end.
///
/// # Panics
/// When something that must hold does not.
pub fn run(plan: Plan) -> Coverage {
    let mut world = World::new(plan);
    world.live();
    world.come_to_rest();
    world.everybody_leaves();
    world.into_coverage()
}

/// What went wrong with a seed.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The seed.
    pub plan: Plan,
    /// The message of its panic.
    pub text: String,
}

impl Fault {
    /// What it has in common with others: its text without the numbers, and no more than a line of it.
    pub fn kind(&self) -> String {
        let mut kind = String::new();
        for letter in self.text.chars().take_while(|&letter| letter != '\n').take(KIND_CHARS_MAX) {
            match letter {
                '0'..='9' if kind.ends_with('N') => {}
                '0'..='9' => kind.push('N'),
                _ => kind.push(letter),
            }
        }
        kind
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, cores, .. } = self.plan;
        write!(
            out,
            "seed {seed} on {cores} cores: {}\nagain: cargo run --profile simulation -p banter-tests --bin sim -- --seed {seed} --cores {cores} --verbose",
            self.text
        )
    }
}

/// Runs one seed, and gives what went wrong.
///
/// # Errors
/// When something that must hold does not.
pub fn run_caught(plan: Plan) -> Result<Coverage, Fault> {
    std::panic::catch_unwind(|| run(plan)).map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
            .unwrap_or_default();
        Fault { plan, text }
    })
}
