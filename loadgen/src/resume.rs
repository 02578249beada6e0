//! Runs a resume storm: fills rooms, runs a live load alone, then beside clients that come back all at once.
//!
//! ```text
//!  fill [─▶ rehearsal] ─▶ live load: warm-up ─▶ before ─▶ settle ─▶ during ──────────────────────▶ drain ─▶ verify, report
//!                                                                     storm: connect, join, replay
//! ```
//!
//! The live load has sockets of its own, which are looked at between any two reads of the storm: what its members wait
//! for is then the server and not this program. How long it looked away each time is reported beside the latencies.

use std::time::{Duration, Instant};

use crate::args::{Plan, Resume};
use crate::fault::LoadFault;
use crate::fill::{self, Filling};
use crate::fleet::Fleet;
use crate::identities::{CLIENTS, Identities};
use crate::measure::{AllLatencies, Latencies, Moment};
use crate::opening::{self, Joined};
use crate::output::{WithSheet, write_page};
use crate::process;
use crate::progress::Progress;
use crate::report::print_json;
use crate::report_resume::{self, ResumeOutcome, ResumeReport};
use crate::run::Run;
use crate::storm::{Missed, Storm};

/// Posts of each room under way while rooms are filled.
const FILL_OUTSTANDING: u64 = 100;
/// Between the measured time before the storm and the storm: what was posted before then is delivered by then.
const SETTLE: Duration = Duration::from_millis(300);
/// The longest wait for the live load's sockets while nothing of the storm is ready.
const LOOK_MAX: Duration = Duration::from_micros(100);
/// Quiet for so long after everything has come: nothing comes twice.
const AFTERMATH: Duration = Duration::from_millis(100);
/// The longest wait while there is no storm.
const TURN_MAX: Duration = Duration::from_millis(20);

/// Runs the job. True when everything was delivered as it must be, to the live members and to those who came back.
///
/// # Errors
/// When the run could not be made.
pub fn run(job: &Resume) -> Result<bool, LoadFault> {
    if !job.clients.is_multiple_of(job.rooms) {
        return Err(LoadFault::UnevenClients { clients: job.clients, rooms: job.rooms });
    }
    let (target, plan) = (&job.target, job.live_plan());
    let live_members = plan.rooms as usize * plan.members as usize;
    opening::prepare(target, live_members + job.clients.max(job.rooms) as usize)?;
    target.pid.map(process::cpu_of).transpose()?;

    let rooms: Vec<String> = (0..job.rooms).map(|room| format!("{}-{room}", target.room_prefix)).collect();
    let filled_at = Instant::now();
    let before = fill_rooms(job, &rooms)?;
    let fill = filled_at.elapsed();

    let missed =
        Missed { rooms: &rooms, before: &before, messages: job.messages, payload_bytes: job.payload, by: job.by };
    let clients = Identities::of(target, CLIENTS, job.clients as usize)?;
    let is_rehearsed = !job.rehearse || rehearse(job, missed, clients.clone())?;

    let live_rooms: Vec<String> = (0..plan.rooms).map(|room| format!("{}-live-{room}", target.room_prefix)).collect();
    let mut live = Run::open(target, &plan, &live_rooms)?;
    let quiet = run_alone(&mut live, &plan)?;
    let (mut storm, window, looks_away) = run_storm(&mut live, job, missed, clients)?;
    let verified = storm.finish() & live.load.finish() & is_rehearsed;
    let samples = std::mem::take(&mut live.sampler.samples);
    let (live, storm) = (&live.load, &storm);
    let looks_away = &looks_away;
    let outcome = ResumeOutcome { job, fill, quiet: &quiet, live, storm, window, looks_away, verified };
    let (report, mut sheet) = (ResumeReport::new(&outcome), report_resume::sheet(&outcome));
    sheet.samples = samples;
    match target.json {
        true => print_json(&WithSheet { report: &report, limited: &sheet.limited, sheet: &sheet }),
        false => print!("{}", report.table(&sheet.limited)),
    }
    write_page(target, &sheet)?;
    Ok(verified)
}

/// Posts what will have been missed. The posters leave.
fn fill_rooms(job: &Resume, rooms: &[String]) -> Result<Vec<Joined>, LoadFault> {
    let outstanding = FILL_OUTSTANDING;
    let filling = Filling { rooms, messages: job.messages, payload_bytes: job.payload, outstanding };
    fill::fill(&job.target, filling, &mut |_| true)
}

/// The clients come once, with nobody there, and go again. True when each got what it had missed.
fn rehearse(job: &Resume, missed: Missed<'_>, clients: Identities) -> Result<bool, LoadFault> {
    let mut fleet = Fleet::with_small_turns(job.target.wire, job.target.server)?.known_as(clients);
    let started = Instant::now();
    let mut storm = Storm::new(missed, job.clients as usize, started);
    let progress = Progress::of_opening(job.clients as usize);
    while !storm.is_over() && storm.verifier.broken.is_nothing() && started.elapsed() < job.storm_max {
        storm.turn(&mut fleet, job.opening as usize)?;
        progress.opened(storm.done());
    }
    progress.finish();
    Ok(storm.finish())
}

/// The live load without a storm: its latencies.
fn run_alone(live: &mut Run<'_>, plan: &Plan) -> Result<AllLatencies, LoadFault> {
    let end = plan.time.warmup + plan.time.duration + SETTLE;
    let progress = Progress::of_run(end);
    loop {
        let now = live.started.elapsed();
        if now >= end {
            break;
        }
        live.post_what_is_due(now)?;
        live.look(&progress, "alone")?;
        live.turn((end - now).min(TURN_MAX))?;
    }
    progress.finish();
    Ok(live.take_latencies())
}

/// The live load beside the storm: the storm, what happened while it lasted, and how long each look away from the live
/// load's sockets was.
fn run_storm<'a>(
    live: &mut Run<'_>,
    job: &Resume,
    missed: Missed<'a>,
    clients: Identities,
) -> Result<(Storm<'a>, Moment, Latencies), LoadFault> {
    let mut fleet = Fleet::with_small_turns(job.target.wire, job.target.server)?.known_as(clients);
    let mut looks_away = Latencies::default();
    let before = live.moment()?;
    live.load.measure(before.at..Duration::MAX);
    let started = Instant::now();
    let mut storm = Storm::new(missed, job.clients as usize, started);
    let progress = Progress::of_opening(job.clients as usize);
    let (mut looked_at, mut patience) = (started, Duration::ZERO);
    // A broken promise ends the storm at once: the rest of it would prove nothing.
    while !storm.is_over() && storm.verifier.broken.is_nothing() && started.elapsed() < job.storm_max {
        live.post_what_is_due(live.started.elapsed())?;
        looks_away.record(looked_at.elapsed());
        live.turn(patience)?;
        looked_at = Instant::now();
        let ready = storm.turn(&mut fleet, job.opening as usize)?;
        patience = if ready == 0 { LOOK_MAX } else { Duration::ZERO };
        progress.opened(storm.done());
    }
    progress.finish();
    let window = live.moment()?.since(&before);
    live.load.measure(Duration::ZERO..Duration::ZERO);
    let quiet_at = Instant::now() + AFTERMATH;
    while Instant::now() < quiet_at {
        live.turn(LOOK_MAX)?;
        storm.turn(&mut fleet, job.opening as usize)?;
    }
    live.drain()?;
    Ok((storm, window, looks_away))
}
