//! Measures what the disk under a folder does by itself: the floor that the log is judged beside.

use std::io;
use std::process::ExitCode;

use banter_benches::disk::args::{Args, Question};
use banter_benches::disk::{block, latency, read};
use banter_benches::floor::sys;
use banter_benches::print;
use clap::Parser;

fn main() -> ExitCode {
    match answer(&Args::parse().question) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("disk-floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn answer(question: &Question) -> io::Result<()> {
    match question {
        Question::Latency(args) => {
            args.cpu.map(sys::pin_to_cpu).transpose()?;
            print(&latency::run(args)?, args.json)
        }
        Question::Read(args) => {
            args.cpu.map(sys::pin_to_cpu).transpose()?;
            print(&read::run(args)?, args.json)
        }
        Question::Forget(args) => block::files_of(&args.folder)?.iter().try_for_each(|path| block::forget(path)),
    }
}
