//! `banter-loadgen`: drives a Banter server, measures it, and checks what it delivers.

use std::process::ExitCode;

use banter_loadgen::args::Args;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The run could not be made: no connection, a refusal, a connection that was closed, a limit of this host.
const EXIT_NO_RUN: u8 = 3;
/// The run was made, and what was delivered is not what was posted.
const EXIT_NOT_VERIFIED: u8 = 1;

fn main() -> ExitCode {
    match banter_loadgen::run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_NOT_VERIFIED),
        Err(error) => {
            eprintln!("banter-loadgen: {error}");
            ExitCode::from(EXIT_NO_RUN)
        }
    }
}
