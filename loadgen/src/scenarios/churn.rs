//! `churn`: readers join and leave the rooms of a live load, at a rate.

use crate::args::Churn;
use crate::fanout::room_names;
use crate::fault::LoadFault;
use crate::measure::Latencies;
use crate::run::Run;
use crate::sheet::{Maker, Merging, Promise, Unit};
use crate::watch::{self, Phase, Turned};
use crate::{opening, output, process};

use super::churners::{Churners, Habit};
use super::storm::live_shape;

/// Churn that is not measured, before that which is: half of the churners are there then.
const LEAD_SHARE: f64 = 0.2;

/// Runs the job. True when everybody got everything while they were there.
///
/// # Errors
/// When the run could not be made.
pub fn run(job: &Churn) -> Result<bool, LoadFault> {
    let (target, plan) = (&job.target, job.live.plan("churn"));
    let live_members = plan.rooms as usize * plan.members as usize;
    opening::prepare(target, live_members + job.churners as usize)?;
    target.pid.map(process::cpu_of).transpose()?;
    let rooms = room_names(&target.room_prefix, plan.rooms);
    let mut live = Run::open_beside(target, &plan, &rooms)?;
    live.load.keep_ledger();
    let habit = Habit { count: job.churners as usize, joins_per_s: job.joins, reconnects: job.reconnect };
    let mut churners = Churners::new(&live, &rooms, job.live.payload, habit)?;
    live.skip_to(live.started.elapsed());

    watch::phase(&mut live, "warm-up", job.live.warmup, &mut watch::nothing)?;
    let before = watch::phase(&mut live, "before", job.live.before, &mut watch::nothing)?;
    churners.begin();
    let lead = job.duration.mul_f64(LEAD_SHARE);
    watch::phase(&mut live, "lead", lead, &mut |live| churners.turn(live).map(Turned::On))?;
    churners.joined = Latencies::default();
    let (joins_before, mut joins) = (churners.joins, 0);
    let during = watch::phase(&mut live, "churn", job.duration, &mut |live| {
        let ready = churners.turn(live)?;
        if live.load.is_measured(live.started.elapsed()) {
            joins = churners.joins - joins_before;
        }
        Ok(Turned::On(ready))
    })?;
    live.drain()?;
    churners.finish(&live)?;
    live.load.finish();
    output::tell(target, &sheet(job, [&before, &during], &live, &churners, joins).finish())
}

fn sheet(job: &Churn, phases: [&Phase; 2], live: &Run<'_>, churners: &Churners, joins: u64) -> Maker {
    let question = "What does it cost the members of a room that others come and go all the time?";
    let mut maker = watch::maker(&job.target, "churn", question, &phases);
    let (count, rate) = (job.churners, job.joins);
    let how = if job.reconnect { "with a new connection each time" } else { "on connections that stay" };
    maker.shape(format!("{count} readers come and go in the live rooms, {rate} joins/s by the clock, {how}"));
    maker.shape(live_shape(&job.live));
    let seconds = phases[1].window.at.as_secs_f64();
    maker.figure("joins_per_s", "joins", joins as f64 / seconds, Unit::PerSecond, Promise::AtLeast, Merging::Sum);
    maker.latencies("joined", "join to joined", &churners.joined);
    tell(&mut maker, churners);
    maker.load("live members", &live.load);
    maker.samples(&live.sampler.samples);
    maker
}

/// What was checked of them.
pub fn tell(maker: &mut Maker, churners: &Churners) {
    maker.check("joins answered", churners.begun, churners.joins);
    maker.check("stays that ended with everything read", churners.ending, churners.stays);
    maker.verifier("those who come and go", churners.followers().verifier());
}
