//! Posts to a running server until its data folder has a size.

use std::process::ExitCode;

use banter_benches::history::{self, Args, Made};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    match history::make(&args) {
        Ok(made) => {
            print(&made, args.json);
            if made.is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("make-history: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(made: &Made, as_json: bool) {
    let Made { posts, folder_bytes, seconds, is_whole } = made;
    match serde_json::to_string(made) {
        Ok(text) if as_json => println!("{text}"),
        _ => {
            let end = if *is_whole { "" } else { "; that is not what was asked for" };
            println!("{posts} posts in {seconds:.1} s; the folder has {} MiB{end}", folder_bytes >> 20);
        }
    }
}
