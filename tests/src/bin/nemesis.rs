//! Loads a whole cluster, has one fault after another happen to it, and checks that nothing that it promised is gone.

use std::process::ExitCode;
use std::time::Duration;

use banter_tests::nemesis::faults::{Kind, NAMES};
use banter_tests::nemesis::{Length, Options, engine_servers, run};
use banter_tests::seeded;
use clap::Parser;

/// Starts three NATS servers and two nodes on hosts of their own, loads them, and breaks them, singly and in pairs.
#[derive(Parser)]
struct Args {
    /// How long new faults come
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Each fault once, in the order of --faults, and no pairs, instead of --minutes
    #[arg(long)]
    once: bool,
    /// Chance; another each time without
    #[arg(long)]
    seed: Option<u64>,
    /// What may happen [default: everything that --list lists]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    faults: Vec<Kind>,
    /// List the faults
    #[arg(long)]
    list: bool,
    /// Posts of all writers together
    #[arg(long, default_value_t = 400)]
    posts_per_second: u32,
    /// Banter nodes
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Keep the logs, configurations and data of all servers, also where nothing is found
    #[arg(long)]
    keep: bool,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        NAMES.iter().for_each(|(_, name, what)| println!("{name:<20} {what}"));
        return ExitCode::SUCCESS;
    }
    let seed = args.seed.unwrap_or_else(seeded::any_seed);
    eprintln!("seed {seed}");
    let faults = if args.faults.is_empty() { Kind::all().collect() } else { args.faults };
    let time = Duration::from_secs_f64(args.minutes * 60.0);
    let length = if args.once { Length::EachOnce } else { Length::Time(time) };
    let (nodes, posts_per_second) = (args.nodes, args.posts_per_second);
    let outcome = engine_servers::binary().and_then(|binary| {
        run(Options { seed, length, faults, posts_per_second, nodes, binary, keeps: args.keep, tells: true })
    });
    match outcome {
        Ok(mut outcome) => outcome.tell(args.json),
        Err(why) => {
            eprintln!("nothing was tried: {why}");
            ExitCode::FAILURE
        }
    }
}
