//! A server of a few hundred lines that makes a mistake on purpose, for the judges to find.

use std::path::PathBuf;

use banter_tests::toy::{Mistake, serve};
use clap::Parser;

/// Takes the flags that the judges start a server with, and heeds two of them.
#[derive(Parser)]
struct Args {
    /// The data folder
    #[arg(long)]
    data: PathBuf,
    /// What it does wrong
    #[arg(long, value_enum, default_value = "none")]
    mistake: Mistake,
    #[arg(long, hide = true)]
    listen: Option<String>,
    #[arg(long, hide = true)]
    cores: Option<String>,
    #[arg(long, hide = true)]
    durability: Option<String>,
    #[arg(long, hide = true)]
    log: Option<String>,
    #[arg(long, hide = true)]
    history_messages_max: Option<u64>,
    #[arg(long, hide = true)]
    history_bytes_per_core_max: Option<u64>,
    #[arg(long, hide = true)]
    frame_bytes_max: Option<u64>,
    #[arg(long, hide = true)]
    log_segment_bytes: Option<u64>,
    #[arg(long, hide = true)]
    log_commit_bytes_max: Option<u64>,
    #[arg(long, hide = true)]
    log_free_bytes_min: Option<u64>,
}

fn main() {
    let args = Args::parse();
    serve(&args.data, args.mistake);
}
