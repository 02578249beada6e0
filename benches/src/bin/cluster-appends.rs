//! Measures bare appends to the engine of a cluster.

use std::process::ExitCode;

use banter_benches::appending::{self, Args};
use banter_benches::print;
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    match appending::run(&args).and_then(|report| print(&report, args.json).map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster-appends: {error}");
            ExitCode::FAILURE
        }
    }
}
