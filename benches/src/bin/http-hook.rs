//! Measures what a hook over HTTP takes at least, beside which programs in the server are to be seen.

use std::process::ExitCode;

use banter_benches::hooking::{self, Args};
use banter_benches::print;
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    match hooking::run(&args).and_then(|report| print(&report, args.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("http-hook: {error}");
            ExitCode::FAILURE
        }
    }
}
