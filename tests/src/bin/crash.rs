//! Kills the server under load, over and over, and checks that nothing that it promised is gone.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use banter_tests::crash::Run;
use banter_tests::seeded;
use banter_tests::trial::Setup;
use clap::Parser;

/// Starts the server, checks all that it acknowledged and showed, loads it, and kills it with SIGKILL: cycle for cycle.
#[derive(Parser)]
struct Args {
    /// Kills
    #[arg(long, default_value_t = 500)]
    cycles: usize,
    /// Cores of the server
    #[arg(long, default_value_t = 1)]
    cores: usize,
    /// Another number of cores at each start, up to --cores
    #[arg(long)]
    vary_cores: bool,
    /// The server's wall clock jumps by up to so many years at each start, with retention on; needs a build for tests,
    /// without --release
    #[arg(long, default_value_t = 0, value_name = "YEARS")]
    clock_jumps: u32,
    /// Chance; another each time without
    #[arg(long)]
    seed: Option<u64>,
    /// The server's durability; with memory only the judge is tried, and nothing is killed
    #[arg(long, default_value = "synced")]
    durability: String,
    /// Keep the data in this folder, which has to be empty
    #[arg(long)]
    data: Option<PathBuf>,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
    /// More flags of the server
    #[arg(last = true)]
    flags: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(seeded::any_seed);
    eprintln!("seed {seed}");
    let mut setup = Setup::new(&args.durability, seed);
    setup.cores = args.cores;
    setup.flags.extend(args.flags);
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let data = args.data.unwrap_or_else(|| folder.path().join("data"));
    let started = Instant::now();
    let run = Run { cycles: args.cycles, vary_cores: args.vary_cores, clock_years_max: args.clock_jumps, setup };
    let report = run.run(&data, |cycle, _| {
        if std::io::stderr().is_terminal() {
            let _ =
                write!(std::io::stderr(), "\r{cycle} of {}, {:.0} s ", args.cycles, started.elapsed().as_secs_f64());
        }
    });
    report.tell(args.json)
}
