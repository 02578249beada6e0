//! Measures what the verdict over a token takes, by algorithm.

use std::process::ExitCode;

use banter_benches::judging::{self, Args};
use banter_benches::print;
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = judging::run(&args).and_then(|report| print(&report, args.json).map_err(|error| error.to_string()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("access-judge: {error}");
            ExitCode::FAILURE
        }
    }
}
