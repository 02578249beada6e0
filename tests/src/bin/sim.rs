//! Runs the simulated world over many seeds, or one of them again, telling everything.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use banter_tests::sim::coverage::Coverage;
use banter_tests::sim::{Fault, Plan, run_caught};
use clap::Parser;

/// Seeds between two words of how far it is, where these are lines of a file.
const SEEDS_A_LINE: u64 = 5_000;

/// Drives the real shards with chance from a seed, and checks what must hold in every order.
#[derive(Parser)]
struct Args {
    /// Seeds to run
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Cores of the simulated server at its first start; all of 1, 2 and 3 without
    #[arg(long)]
    cores: Option<u16>,
    /// Run this seed alone
    #[arg(long)]
    seed: Option<u64>,
    /// Print every event
    #[arg(long)]
    verbose: bool,
}

/// What the seeds came to.
#[derive(Default)]
struct Found {
    coverage: Coverage,
    /// The smallest seed in which each thing happened.
    first_seen: BTreeMap<&'static str, u64>,
    faults: Vec<Fault>,
}

impl Found {
    fn add(&mut self, seen: &Coverage, first_seen: impl Iterator<Item = (&'static str, u64)>) {
        self.coverage.add(seen);
        for (what, seed) in first_seen {
            let first = self.first_seen.entry(what).or_insert(seed);
            *first = seed.min(*first);
        }
    }
}

/// How far the seeds are, for whoever waits.
struct Progress {
    seeds: u64,
    done: AtomicU64,
    failed: AtomicU64,
    started: Instant,
}

impl Progress {
    fn one_more(&self, has_failed: bool) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let failed = self.failed.fetch_add(has_failed.into(), Ordering::Relaxed) + u64::from(has_failed);
        let is_terminal = std::io::stderr().is_terminal();
        let stride = if is_terminal { 100 } else { SEEDS_A_LINE };
        if done.is_multiple_of(stride) {
            let (start, end) = if is_terminal { ("\r", "") } else { ("", "\n") };
            let seconds = self.started.elapsed().as_secs();
            let _ =
                write!(std::io::stderr(), "{start}{done} of {} seeds in {seconds} s, {failed} failed{end}", self.seeds);
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (from, seeds) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let started = Instant::now();
    let progress = Progress { seeds, done: AtomicU64::new(0), failed: AtomicU64::new(0), started };
    let found = run_all(&args, from..from + seeds, &progress);
    for (what, times) in &found.coverage.0 {
        println!("{times:>10}  {what:<56} first in seed {}", found.first_seen.get(what).copied().unwrap_or_default());
    }
    tell_kinds(&found.faults);
    println!("\n{seeds} seeds in {:.1} s, {} failed", started.elapsed().as_secs_f64(), found.faults.len());
    if found.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_all(args: &Args, seeds: std::ops::Range<u64>, progress: &Progress) -> Found {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut found = Found::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return found;
            }
            let cores = args.cores.unwrap_or((seed % 3) as u16 + 1);
            let result = run_caught(Plan { seed, cores, verbose: args.verbose });
            progress.one_more(result.is_err());
            match result {
                Ok(seen) => {
                    found.add(&seen, seen.0.iter().filter(|(_, times)| **times > 0).map(|(&what, _)| (what, seed)))
                }
                Err(fault) => {
                    // Told at once: a long run may be ended before it tells what it found.
                    let _ = writeln!(std::io::stderr(), "seed {seed} failed");
                    found.faults.push(fault);
                }
            }
        }
    };
    // A fault is told once, below; its panic need not be told too.
    if args.seed.is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(progress.seeds as usize);
    let mut all = Found::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for found in threads.into_iter().filter_map(|thread| thread.join().ok()) {
            all.add(&found.coverage, found.first_seen.into_iter());
            all.faults.extend(found.faults);
        }
    });
    all
}

/// The smallest seed of each kind, the most common kind first.
fn tell_kinds(faults: &[Fault]) {
    let mut kinds: BTreeMap<String, (usize, &Fault)> = BTreeMap::new();
    for fault in faults {
        let (times, smallest) = kinds.entry(fault.kind()).or_insert((0, fault));
        *times += 1;
        if fault.plan.seed < smallest.plan.seed {
            *smallest = fault;
        }
    }
    let mut kinds: Vec<_> = kinds.into_values().collect();
    kinds.sort_by_key(|(times, fault)| (std::cmp::Reverse(*times), fault.plan.seed));
    for (times, fault) in kinds.iter().take(10) {
        println!("\n{times} times: {fault}");
    }
}
