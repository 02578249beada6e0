//! Runs the simulated world over many seeds, or one of them again, telling everything.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use banter_tests::sim::coverage::Coverage;
use banter_tests::sim::{Plan, run_caught};
use clap::Parser;

/// Drives the real shards with chance from a seed, and checks what must hold in every order.
#[derive(Parser)]
struct Args {
    /// Seeds to run
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Cores of the simulated server; all of 1, 2 and 3 without
    #[arg(long)]
    cores: Option<u16>,
    /// Run this seed alone
    #[arg(long)]
    seed: Option<u64>,
    /// Print every event
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (from, seeds) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let (next, done) = (AtomicU64::new(from), AtomicU64::new(0));
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(seeds as usize);
    let results: Vec<(Coverage, Vec<String>)> = std::thread::scope(|scope| {
        let work = || {
            let (mut coverage, mut faults) = (Coverage::default(), Vec::new());
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= from + seeds {
                    return (coverage, faults);
                }
                let cores = args.cores.unwrap_or((seed % 3) as u16 + 1);
                match run_caught(Plan { seed, cores, verbose: args.verbose }) {
                    Ok(seen) => coverage.add(&seen),
                    Err(fault) => faults.push(fault),
                }
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                if done % 1_000 == 0 && std::io::stderr().is_terminal() {
                    let _ = write!(std::io::stderr(), "\r{done} of {seeds} seeds");
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let mut coverage = Coverage::default();
    results.iter().for_each(|(seen, _)| coverage.add(seen));
    let faults: Vec<&String> = results.iter().flat_map(|(_, faults)| faults).collect();
    for (what, times) in &coverage.0 {
        println!("{times:>10}  {what}");
    }
    for fault in faults.iter().take(10) {
        println!("\n{fault}");
    }
    println!("\n{seeds} seeds in {:.1} s, {} failed", started.elapsed().as_secs_f64(), faults.len());
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
