//! Makes history for the jobs that start on one: posts to a running server, or writes the files of its data folder.

use std::process::ExitCode;

use banter_benches::history::{self, Args};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match history::run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("make-history: {error}");
            ExitCode::FAILURE
        }
    }
}
