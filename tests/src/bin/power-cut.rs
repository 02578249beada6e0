//! Cuts the power of an ext4 that the server writes to under load, and checks that nothing acknowledged is gone.

use std::process::ExitCode;

use banter_tests::loop_disk::LoopDisk;
use banter_tests::power_cut::run;
use banter_tests::seeded;
use banter_tests::trial::Setup;
use clap::Parser;

/// Each round: load, the file system stopped without a flush, kill, mount, restart, and a check of all that was promised.
#[derive(Parser)]
struct Args {
    /// Cuts
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Cores of the server
    #[arg(long, default_value_t = 1)]
    cores: usize,
    /// Chance; another each time without
    #[arg(long)]
    seed: Option<u64>,
    /// The server's durability; with memory everything is lost, and that is to be found
    #[arg(long, default_value = "synced")]
    durability: String,
    /// The disk's size in MiB
    #[arg(long, default_value_t = 4_096)]
    disk_mib: u64,
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
    let mut disk = match LoopDisk::make(args.disk_mib) {
        Ok(disk) => disk,
        Err(error) => {
            println!("SKIPPED: no ext4 on a loop device here: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let mut setup = Setup::new(&args.durability, seed);
    setup.cores = args.cores;
    setup.flags.extend(args.flags);
    run(setup, args.rounds, &mut disk, |round| eprintln!("{round} of {}", args.rounds)).tell(args.json)
}
