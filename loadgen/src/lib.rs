//! The load generator of Banter: many members on one thread, their latencies, and the proof that each got everything.
//!
//! ```text
//!  args ─▶ opening ─▶ Fleet (epoll, sockets) ─bytes─▶ scan ─Seen─▶ Load ─▶ posts, verify, measure ─▶ Sheet ─▶ table, JSON, page
//!                          ▲                                        │                                  ▲
//!                          └───────────── posts ◀── schedule ───────┘                               standing
//! ```
//!
//! `Run` is that load under way; `watch` serves one beside what a scenario is about, and `followers` are those who come, go,
//! stall and come back there.
//!
//! Invariants: a load is one thread (`run` and `idle` start processes of this program for more); nothing is allocated for
//! a delivery; a message is taken apart where it lies in the read buffer. All unsafe code is in `sys`.

#![deny(unsafe_code)]

pub mod args;
pub mod body;
pub mod children;
pub mod fanout;
pub mod fault;
pub mod fill;
pub mod fleet;
pub mod followers;
pub mod host;
pub mod hostile;
pub mod identities;
pub mod idle;
pub mod ledger;
pub mod load;
pub mod measure;
pub mod merging;
pub mod mix;
pub mod mixing;
pub mod neighbours;
pub mod opening;
pub mod output;
pub mod page;
pub mod picture;
pub mod posts;
pub mod process;
pub mod progress;
pub mod report;
pub mod report_hostile;
pub mod report_resume;
pub mod resume;
pub mod run;
pub mod sampler;
pub mod scan;
pub mod scan_json;
pub mod scenarios;
pub mod schedule;
pub mod seating;
pub mod seats;
pub mod sheet;
pub mod standing;
pub mod storm;
#[allow(unsafe_code, reason = "the one place for system calls")]
mod sys;
pub mod verify;
pub mod watch;
pub mod wire;

use args::{Args, Job};
use fault::LoadFault;
use scenarios::{churn, history, posting, soak, stalled};

/// Does what the arguments say. True when everything was delivered as it must be.
///
/// # Errors
/// When the run could not be made.
pub fn run(args: &Args) -> Result<bool, LoadFault> {
    neighbours::check(&args.job)?;
    match &args.job {
        Job::Fanout(job) if job.saturation.saturate => posting::run(&job.target, &job.plan(), &job.saturation),
        Job::Fanout(job) => fanout::run(&job.target, &job.plan()),
        Job::Pingpong(job) => fanout::run(&job.target, &job.plan()),
        Job::Rooms(job) => posting::run(&job.target, &job.plan(), &job.saturation),
        Job::Giant(job) => posting::run(&job.target, &job.plan(), &job.saturation),
        Job::Storm(job) => scenarios::storm::run(job),
        Job::Stalled(job) => stalled::run(job),
        Job::Churn(job) => churn::run(job),
        Job::History(job) => history::run(job),
        Job::Soak(job) => soak::run(job),
        Job::Idle(job) => idle::run(job),
        Job::Resume(job) => resume::run(job),
        Job::Run(job) => mixing::run(job),
        Job::Merge(job) => merging::run(job),
        Job::Hostile(job) => hostile::run(job),
    }
}
