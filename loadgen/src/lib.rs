//! The load generator of Banter: many members on one thread, their latencies, and the proof that each got everything.
//!
//! ```text
//!  args ─▶ opening ─▶ Fleet (epoll, sockets) ─bytes─▶ scan ─Seen─▶ Load ─▶ posts, verify, measure ─▶ report
//!                          ▲                                        │
//!                          └───────────── posts ◀── schedule ───────┘
//! ```
//!
//! Invariants: one thread; nothing is allocated for a delivery; a message is taken apart where it lies in the read
//! buffer. All unsafe code is in `sys`.

#![deny(unsafe_code)]

pub mod args;
pub mod body;
pub mod fanout;
pub mod fault;
pub mod fill;
pub mod fleet;
pub mod hostile;
pub mod identities;
pub mod idle;
pub mod load;
pub mod measure;
pub mod neighbours;
pub mod opening;
pub mod posts;
pub mod process;
pub mod progress;
pub mod report;
pub mod report_hostile;
pub mod report_resume;
pub mod resume;
pub mod scan;
pub mod scan_json;
pub mod schedule;
pub mod storm;
#[allow(unsafe_code, reason = "the one place for system calls")]
mod sys;
pub mod verify;
pub mod wire;

use args::{Args, Job};
use fault::LoadFault;

/// Does what the arguments say. True when everything was delivered as it must be.
///
/// # Errors
/// When the run could not be made.
pub fn run(args: &Args) -> Result<bool, LoadFault> {
    neighbours::check(&args.job)?;
    match &args.job {
        Job::Fanout(job) => fanout::run(&job.target, &job.plan()),
        Job::Pingpong(job) => fanout::run(&job.target, &job.plan()),
        Job::Idle(job) => idle::run(job),
        Job::Resume(job) => resume::run(job),
        Job::Hostile(job) => hostile::run(job),
    }
}
