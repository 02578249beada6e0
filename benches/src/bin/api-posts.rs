//! Measures posts through the interface for backends: how many a second, and what each takes of the server's CPU.

use std::process::ExitCode;

use banter_benches::posting::{self, Args};
use banter_benches::print;
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    match posting::run(&args).and_then(|report| Ok(print(&report, args.json)?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("api-posts: {error}");
            ExitCode::FAILURE
        }
    }
}
