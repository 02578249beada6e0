//! Lets the server's disk fail, fill up and lose power under load, and checks that nothing acknowledged is gone.

use std::process::ExitCode;

use banter_tests::disk_faults::{ROUNDS_OF_ALL, run};
use banter_tests::trial::Setup;
use banter_tests::trouble_disk::{FileSystem, TroubleDisk};
use banter_tests::{failing_reads, seeded};
use clap::Parser;

/// Each round: load, one trouble with the disk, a power cut, a restart, and a check of all that was promised.
#[derive(Parser)]
struct Args {
    /// Troubles
    #[arg(long, default_value_t = ROUNDS_OF_ALL)]
    rounds: usize,
    /// What the server's data folder is on
    #[arg(long, value_enum, default_value_t = FileSystem::Fuse)]
    file_system: FileSystem,
    /// Let reads fail instead, while clients read deep history
    #[arg(long, conflicts_with = "file_system")]
    failing_reads: bool,
    /// Chance; another each time without
    #[arg(long)]
    seed: Option<u64>,
    /// The server's durability
    #[arg(long, default_value = "synced")]
    durability: String,
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
    let mut disk = match TroubleDisk::make(args.file_system, args.rounds) {
        Ok(disk) => disk,
        Err(error) => {
            println!("SKIPPED: this machine cannot: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let mut setup = Setup::new(&args.durability, seed);
    setup.flags.extend(args.flags);
    let rounds = args.rounds;
    let report = if args.failing_reads {
        failing_reads::run(setup, rounds, &mut disk, |round, way| eprintln!("{round} of {rounds}: {way} fail"))
    } else {
        run(setup, rounds, &mut disk, |round, trouble| eprintln!("{round} of {rounds}: {trouble}"))
    };
    report.tell(args.json)
}
