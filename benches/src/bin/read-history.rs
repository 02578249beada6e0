//! Reads rooms back from a server's log, and says what that cost it of its disk.

use std::process::ExitCode;

use banter_benches::print;
use banter_benches::reading::{self, Args};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    match reading::run(&args).and_then(|cost| print(&cost, args.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("read-history: {error}");
            ExitCode::FAILURE
        }
    }
}
