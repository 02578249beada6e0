//! Measures the least CPU that one send to each of many loopback sockets costs: the floor under a delivery.

use std::fs;
use std::io;
use std::process::ExitCode;

use banter_benches::floor::args::Args;
use banter_benches::floor::figures::Report;
use banter_benches::floor::{drain, sender};
use clap::{CommandFactory, Parser, error::ErrorKind};

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(reason) = args.check() {
        Args::command().error(ErrorKind::ArgumentConflict, reason).exit();
    }
    let done = match args.drain {
        Some(sender) => drain::run(&args, sender),
        None => measure(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> io::Result<()> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_string();
    let report = Report::new(args, kernel, sender::run(args)?);
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}
