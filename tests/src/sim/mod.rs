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
//! `world.rs` is the shell, with what must hold in `world/checks.rs` (it follows the server's pump turn by turn), `client.rs` what one connection asks and has to
//! see, `wire.rs` the clients' own reading of the bytes, `truth.rs` what all clients together have to agree on, `keys.rs`
//! which posts may have two places,
//! `profile.rs` the limits of a seed, `coverage.rs` what happened, so that a test can see that it did.

pub mod client;
pub mod coverage;
pub mod crash;
pub mod disk;
pub mod keys;
pub mod profile;
pub mod truth;
pub mod wire;
pub mod world;

use coverage::Coverage;
use world::World;

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

/// Runs one seed, and gives what went wrong as text.
///
/// # Errors
/// The message of the panic, with the command that repeats it.
pub fn run_caught(plan: Plan) -> Result<Coverage, String> {
    std::panic::catch_unwind(|| run(plan)).map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
            .unwrap_or_default();
        let Plan { seed, cores, .. } = plan;
        format!(
            "seed {seed} on {cores} cores: {text}\nagain: cargo run --profile simulation -p banter-tests --bin sim -- --seed {seed} --cores {cores} --verbose"
        )
    })
}
