//! Runs a fan-out: opens the rooms, posts at its pace, measures a window, drains, verifies, reports.

use std::time::Instant;

use crate::args::{Complete, Plan, Target};
use crate::fault::LoadFault;
use crate::neighbours::streams;
use crate::output::{WithSheet, write_page};
use crate::report::{FanoutReport, Outcome, print_json};
use crate::run::Run;
use crate::scenarios::posting;
use crate::{opening, process};

/// Runs the plan. True when everything was delivered as it must be.
///
/// # Errors
/// When the run could not be made.
pub fn run(target: &Target, plan: &Plan) -> Result<bool, LoadFault> {
    let rooms = prepare(target, plan)?;
    let opened_at = Instant::now();
    let mut run = Run::open(target, plan, &rooms)?;
    let setup = opened_at.elapsed();
    let window = run.drive()?;
    let verified = run.load.finish();
    let report = FanoutReport::new(Outcome { target, plan, setup, window, load: &run.load, verified });
    let sheet = posting::sheet(target, plan, &run, window);
    match target.json {
        true => print_json(&WithSheet { report: &report, limited: &sheet.limited, sheet: &sheet }),
        false => print!("{}", report.table(&sheet.limited)),
    }
    write_page(target, &sheet)?;
    Ok(verified)
}

/// Readies this process for a plan; the answer has the rooms' names.
///
/// # Errors
/// When the host does not allow it, or the plan is none.
pub fn prepare(target: &Target, plan: &Plan) -> Result<Vec<String>, LoadFault> {
    if plan.publishers > plan.members {
        return Err(LoadFault::TooManyPublishers { publishers: plan.publishers, members: plan.members });
    }
    streams::check(target.wire, plan)?;
    opening::prepare(target, plan.seating()?.connections())?;
    target.pid.map(process::cpu_of).transpose()?;
    Ok(room_names(&target.room_prefix, plan.rooms))
}

/// PREFIX-0, PREFIX-1 …
pub fn room_names(prefix: &str, rooms: u32) -> Vec<String> {
    (0..rooms).map(|room| format!("{prefix}-{room}")).collect()
}

/// When a post is complete, in words.
pub fn describe(complete: Complete) -> &'static str {
    match complete {
        Complete::All => "every member of its room has it",
        Complete::Echo => "its publisher has it back",
        Complete::Ack => "its publisher has the acknowledgement",
    }
}
