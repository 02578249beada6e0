//! Runs `rooms`, `giant`, and whatever searches for its saturation point: members who post by the clock.

use crate::args::{Pace, Plan, Saturation, Target};
use crate::fanout;
use crate::fault::LoadFault;
use crate::measure::{AllLatencies, Moment};
use crate::output;
use crate::run::Run;
use crate::sheet::{Maker, Sheet};
use crate::standing;

use super::saturate;

/// What each scenario answers.
pub fn question(job: &str) -> &'static str {
    match job {
        "rooms" => "What do many small rooms cost, where each member reads several?",
        "giant" => "How long does a large crowd take to be told one thing, from its first reader to its last?",
        "pingpong" => "How long does an echo take on a quiet server?",
        _ => "What does a delivery cost, and how long does it take, in rooms of this size at this pace?",
    }
}

/// Runs the plan. True when everything was delivered as it must be.
///
/// # Errors
/// When the run could not be made.
pub fn run(target: &Target, plan: &Plan, saturation: &Saturation) -> Result<bool, LoadFault> {
    let rooms = fanout::prepare(target, plan)?;
    let mut run = Run::open(target, plan, &rooms)?;
    if saturation.saturate {
        return saturate::run(target, plan, saturation, run);
    }
    let window = run.drive()?;
    run.load.finish();
    output::tell(target, &sheet(target, plan, &run, window))
}

/// The sheet of a run that is over.
pub fn sheet(target: &Target, plan: &Plan, run: &Run<'_>, window: Moment) -> Sheet {
    let latencies = &run.load.latencies;
    let limited = standing::limits_of(&window, latencies, None);
    let mut maker = Maker::new(target, plan.name, question(plan.name), limited);
    describe(&mut maker, plan);
    maker.window(&window);
    tell_latencies(&mut maker, plan, latencies);
    maker.samples(&run.sampler.samples);
    maker.load("members", &run.load);
    maker.finish()
}

/// What was run, in sentences.
pub fn describe(maker: &mut Maker, plan: &Plan) {
    let Plan { rooms, rooms_each, members, publishers, payload_bytes, .. } = plan;
    maker.shape(format!("{rooms} rooms x {members} members, {publishers} of whom post, {payload_bytes} bytes a body"));
    if *rooms_each > 1 {
        maker.shape(format!("{} connections, each reads {rooms_each} rooms", rooms * members / rooms_each));
    }
    maker.shape(match plan.pace {
        Pace::Open { posts_per_s } => {
            format!("open loop: {posts_per_s} posts/s by the clock, latency from the intended time")
        }
        Pace::Closed { outstanding, complete } => {
            let complete = fanout::describe(complete);
            format!("closed loop: {outstanding} outstanding a publisher; a post is complete when {complete}")
        }
    });
}

/// The latencies that the scenario is about, the most telling first.
pub fn tell_latencies(maker: &mut Maker, plan: &Plan, latencies: &AllLatencies) {
    if plan.name == "giant" {
        maker.latencies("first", "post to first reader", &latencies.first);
        maker.latencies("last", "post to last reader", &latencies.complete);
        maker.latencies("spread", "first to last reader", &latencies.spread);
        maker.latencies("delivered", "post to each reader", &latencies.delivered);
        maker.latencies("acknowledged", "post to ack", &latencies.acknowledged);
    } else {
        maker.all_latencies("", "", latencies);
        maker.latencies("echoed", "post to echo", &latencies.echoed);
    }
    maker.own_latencies("own_late", "own lateness", &latencies.late);
}
