//! Measures how soon a revocation closes connections, and shows a revoked token to a server again.

use std::process::ExitCode;

use banter_benches::print;
use banter_benches::revoking::{self, Args, ComingAgain, Fault, Job};
use clap::Parser;

/// It could not be run.
const EXIT_NO_RUN: u8 = 3;

fn main() -> ExitCode {
    match run(&Args::parse().job) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("revocation: {error}");
            ExitCode::from(EXIT_NO_RUN)
        }
    }
}

fn run(job: &Job) -> Result<bool, Fault> {
    match job {
        Job::Measure(args) => {
            let report = revoking::measure(args)?;
            print(&report, args.target.json)?;
            Ok(report.holds)
        }
        Job::Refused(args) => {
            let answer = revoking::refused(args)?;
            let is_revoked = answer == ComingAgain::Refused("revoked".to_owned());
            if !is_revoked {
                eprintln!("revocation: the revoked token was not refused as revoked: {answer:?}");
            }
            Ok(is_revoked)
        }
    }
}
