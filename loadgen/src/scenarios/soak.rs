//! `soak`: a live load with readers who come and go and readers who scroll back, for long; and the trend of memory.

use std::time::Duration;

use crate::args::Soak;
use crate::fanout::room_names;
use crate::fault::LoadFault;
use crate::progress::describe;
use crate::run::Run;
use crate::sampler::{Sample, Sampler};
use crate::sheet::{Maker, Merging, Promise, Unit};
use crate::watch::{self, Phase, Turned};
use crate::{opening, output, process};

use super::churners::{Churners, Habit};
use super::fetchers::{Fetchers, Scroll};
use super::storm::live_shape;
use super::{churn, history};

/// Places of each room that are kept for checks: nobody reads so far behind.
const LEDGER_ROOM_PLACES: usize = 65_536;

/// Everything beside the live load.
struct Mix {
    churners: Option<Churners>,
    fetchers: Option<Fetchers>,
    lines: Sampler,
}

/// Runs the job. True when everybody got everything to the end.
///
/// # Errors
/// When the run could not be made.
pub fn run(job: &Soak) -> Result<bool, LoadFault> {
    let (target, plan) = (&job.target, job.live.plan("soak"));
    let beside = job.churners as usize + job.fetchers.max(job.history_rooms) as usize;
    opening::prepare(target, plan.rooms as usize * plan.members as usize + beside)?;
    target.pid.map(process::cpu_of).transpose()?;
    let fetchers = open_fetchers(job)?;
    let rooms = room_names(&target.room_prefix, plan.rooms);
    let mut live = Run::open_beside(target, &plan, &rooms)?;
    live.load.keep_ledger();
    live.sampler = Sampler::for_time(job.live.warmup + job.live.before + job.duration);
    let habit = Habit { count: job.churners as usize, joins_per_s: job.joins, reconnects: true };
    let churners = (habit.count > 0).then(|| Churners::new(&live, &rooms, job.live.payload, habit)).transpose()?;
    let mut mix = Mix { churners, fetchers, lines: Sampler::with_interval(job.interval) };

    watch::phase(&mut live, "warm-up", job.live.warmup, &mut watch::nothing)?;
    let before = watch::phase(&mut live, "before", job.live.before, &mut watch::nothing)?;
    mix.begin();
    let soak_from = live.started.elapsed();
    let soak = watch::phase(&mut live, "soak", job.duration, &mut |live| mix.turn(live))?;
    live.drain()?;
    mix.finish(&live)?;
    live.load.finish();
    let samples: Vec<Sample> =
        live.sampler.samples.iter().filter(|sample| sample.at_s >= soak_from.as_secs_f64()).copied().collect();
    output::tell(target, &sheet(job, [&before, &soak], &live, &mix, &samples).finish())
}

fn open_fetchers(job: &Soak) -> Result<Option<Fetchers>, LoadFault> {
    if job.fetchers == 0 {
        return Ok(None);
    }
    let scroll = Scroll {
        count: job.fetchers as usize,
        messages: job.messages,
        payload_bytes: job.live.payload,
        pages_per_s: job.pages,
        page_messages_max: job.page,
    };
    let rooms = room_names(&format!("{}-history", job.target.room_prefix), job.history_rooms);
    Fetchers::open(&job.target, rooms, scroll).map(Some)
}

impl Mix {
    fn begin(&mut self) {
        self.churners.iter_mut().for_each(Churners::begin);
        self.fetchers.iter_mut().for_each(Fetchers::begin);
        self.lines.forget_latencies();
    }

    fn turn(&mut self, live: &mut Run<'_>) -> Result<Turned, LoadFault> {
        let mut ready = 0;
        if let Some(churners) = &mut self.churners {
            ready += churners.turn(live)?;
            live.turn(Duration::ZERO)?;
        }
        if let Some(fetchers) = &mut self.fetchers {
            ready += fetchers.turn()?;
        }
        self.say_line(live)?;
        let is_broken = self.churners.as_ref().is_some_and(|all| !all.followers().verifier().broken.is_nothing())
            || self.fetchers.as_ref().is_some_and(|all| !all.verifier().broken.is_nothing());
        Ok(if is_broken { Turned::Over } else { Turned::On(ready) })
    }

    /// A line an interval, for people and for logs; what no reader can want any more is forgotten with it.
    fn say_line(&mut self, live: &mut Run<'_>) -> Result<(), LoadFault> {
        let now = live.started.elapsed();
        if !self.lines.is_due(now) {
            return Ok(());
        }
        let resident_bytes = live.target().pid.map(process::resident_bytes_of).transpose()?;
        self.lines.take(live.moment()?, &live.load.latencies.delivered, resident_bytes);
        if let Some(sample) = self.lines.samples.pop() {
            eprintln!("{:>9.1} s  {}", sample.at_s, describe(&sample));
        }
        live.load.ledger.iter_mut().for_each(|ledger| ledger.forget(LEDGER_ROOM_PLACES));
        Ok(())
    }

    fn finish(&mut self, live: &Run<'_>) -> Result<(), LoadFault> {
        self.churners.as_mut().map_or(Ok(()), |churners| churners.finish(live))?;
        self.fetchers.as_mut().map_or(Ok(()), Fetchers::finish)
    }
}

fn sheet(job: &Soak, phases: [&Phase; 2], live: &Run<'_>, mix: &Mix, samples: &[Sample]) -> Maker {
    let question =
        "Does the server stay as it is under a mixed load for a long time: its latency, its CPU, its memory?";
    let mut maker = watch::maker(&job.target, "soak", question, &phases);
    maker.shape(live_shape(&job.live));
    maker.shape(format!("{} readers come and go with their connections, {} joins/s", job.churners, job.joins));
    maker.shape(format!("{} readers scroll back, {} pages/s", job.fetchers, job.pages));
    let resident: Vec<(f64, f64)> =
        samples.iter().filter_map(|sample| Some((sample.at_s, sample.server_resident_bytes? as f64))).collect();
    if let [(_, first), .., (_, last)] = resident[..] {
        let (bytes, stands) = (Unit::Bytes, Promise::Stands);
        maker.figure("resident_first_bytes", "server memory at first", first, bytes, stands, Merging::Most);
        maker.figure("resident_last_bytes", "server memory at last", last, bytes, stands, Merging::Most);
        let trend = trend_a_second(&resident[resident.len() / 2..]) * 3600.0;
        let (label, unit) = ("its trend, second half", Unit::BytesPerHour);
        maker.figure("resident_trend_bytes_per_hour", label, trend, unit, stands, Merging::Most);
    }
    if let Some(churners) = &mix.churners {
        maker.latencies("joined", "connect to joined", &churners.joined);
        churn::tell(&mut maker, churners);
    }
    if let Some(fetchers) = &mix.fetchers {
        maker.latencies("page", "ask to page", fetchers.latencies());
        history::tell(&mut maker, fetchers);
    }
    maker.load("live members", &live.load);
    maker.samples(&live.sampler.samples);
    maker
}

/// The slope of the straight line nearest to the points: their unit a second.
fn trend_a_second(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (at, value) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - at).powi(2)).sum();
    let together: f64 = points.iter().map(|point| (point.0 - at) * (point.1 - value)).sum();
    if spread > 0.0 { together / spread } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trend_is_the_slope_whatever_the_noise_around_it() {
        let noisy: Vec<(f64, f64)> =
            (0..100).map(|at| (f64::from(at), 5.0 * f64::from(at) + f64::from(at % 2) * 10.0)).collect();
        assert!((trend_a_second(&noisy) - 5.0).abs() < 0.1);
        assert_eq!((trend_a_second(&[]), trend_a_second(&[(1.0, 2.0)])), (0.0, 0.0));
    }
}
