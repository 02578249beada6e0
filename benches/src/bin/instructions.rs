//! Runs one scenario of the hot machines and nothing else: `scripts/instructions.sh` has callgrind count it.

use std::process::ExitCode;

use banter_benches::hot::{Call, Scenario, scenario, scenarios};
use clap::Parser;

// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs a scenario of the hot machines as often as is counted; without a name it lists them: name, calls, operations, and what one
/// operation is
#[derive(Debug, Parser)]
#[command(name = "instructions", version)]
struct Args {
    /// Which
    scenario: Option<String>,
}

fn main() -> ExitCode {
    let Some(name) = Args::parse().scenario else {
        for Scenario { name, calls, operations, operation, .. } in scenarios() {
            println!("{name}\t{calls}\t{}\t{operation}", calls * operations);
        }
        return ExitCode::SUCCESS;
    };
    let Some(scenario) = scenario(&name) else {
        eprintln!("instructions: there is no scenario {name}");
        return ExitCode::FAILURE;
    };
    let mut call = (scenario.begin)();
    counted_calls(&mut call, scenario.calls);
    ExitCode::SUCCESS
}

/// What the script has counted goes by this name.
#[inline(never)]
fn counted_calls(call: &mut Call, calls: u64) {
    (0..calls).for_each(|_| call());
}
