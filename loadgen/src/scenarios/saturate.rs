//! Searches the rate that the server still bears: doubles it until a bound breaks, then halves the distance.
//!
//! Each step posts by the clock on the same connections. A rate is borne while the 99th percentile from the intended time
//! and the posts under way stay within their bounds. Where this program itself is the bottleneck, the search ends, and what
//! was borne until then is told as "at least".

use std::time::Duration;

use crate::args::{Plan, Saturation, Target};
use crate::fault::LoadFault;
use crate::measure::{AllLatencies, Moment};
use crate::output;
use crate::progress::Progress;
use crate::run::Run;
use crate::sheet::{Maker, Merging, Promise, Step, Unit};
use crate::standing;

use super::posting;

/// The search ends when the borne and the unborne rate are as near as this.
const PRECISION: f64 = 1.05;
/// Steps at most.
const STEPS_MAX: usize = 24;
/// A step's beginning that is not measured, as a share of it.
const LEAD_SHARE: f64 = 0.2;
/// The longest wait for sockets.
const TURN_MAX: Duration = Duration::from_millis(20);

/// Rates of which one is borne and the other is not.
#[derive(Clone, Copy, Debug, Default)]
struct Bracket {
    borne: Option<u64>,
    unborne: Option<u64>,
}

impl Bracket {
    /// The next rate to try; none: the search is over.
    fn next(self, first: u64) -> Option<u64> {
        match (self.borne, self.unborne) {
            (None, None) => Some(first),
            (Some(borne), None) => borne.checked_mul(2),
            (None, Some(unborne)) => Some(unborne / 2).filter(|&rate| rate > 0),
            (Some(borne), Some(unborne)) => {
                let middle = ((borne as f64) * (unborne as f64)).sqrt().round() as u64;
                let is_near = unborne as f64 <= borne as f64 * PRECISION;
                (!is_near && borne < middle && middle < unborne).then_some(middle)
            }
        }
    }
}

/// The best step so far: its place among the steps, and what was measured in it.
struct Best {
    step: usize,
    latencies: AllLatencies,
    window: Moment,
}

/// Searches, and tells. True when everything was delivered as it must be.
///
/// # Errors
/// When the run could not be made.
pub fn run(target: &Target, plan: &Plan, bounds: &Saturation, mut run: Run<'_>) -> Result<bool, LoadFault> {
    let crate::args::Pace::Open { posts_per_s: first } = plan.pace else { return Err(LoadFault::NoRate) };
    let (mut bracket, mut steps, mut best): (Bracket, Vec<Step>, Option<Best>) = Default::default();
    while let Some(rate) = bracket.next(first).filter(|_| steps.len() < STEPS_MAX) {
        let (step, latencies, window) = one_step(&mut run, plan, bounds, rate)?;
        let (is_borne, is_limited) = (step.broke.is_none(), !step.limited.is_empty());
        steps.push(step);
        if is_borne {
            bracket.borne = Some(rate);
            best = Some(Best { step: steps.len() - 1, latencies, window });
        } else {
            bracket.unborne = Some(rate);
        }
        // What is still under way would be counted against the next step; and a broken promise proves nothing more.
        let is_stuck = run.load.under_way() > 0 || !run.load.verifier.broken.is_nothing();
        if is_stuck || !is_borne && is_limited {
            break;
        }
    }
    run.load.finish();
    output::tell(target, &sheet(target, plan, bounds, &run, &steps, best).finish())
}

fn one_step(
    run: &mut Run<'_>,
    plan: &Plan,
    bounds: &Saturation,
    rate: u64,
) -> Result<(Step, AllLatencies, Moment), LoadFault> {
    run.take_latencies();
    run.post_at(rate);
    let start = run.started.elapsed() + plan.time.duration.mul_f64(LEAD_SHARE);
    let end = start + plan.time.duration;
    run.load.measure(start..end);
    let backlog_max = (rate as f64 * bounds.backlog_max.as_secs_f64()).max(1.0) as usize;
    serve(run, start, "lead", backlog_max)?;
    let before = run.moment()?;
    serve(run, end, "step", backlog_max)?;
    let window = run.moment()?.since(&before);
    let under_way = run.load.under_way();
    run.drain()?;
    let latencies = run.take_latencies();
    let limited = standing::limits_of(&window, &latencies, None);
    let mut step = figures(rate, &window, &latencies, limited);
    step.broke = broken_bound(bounds, &step, under_way, backlog_max).or_else(|| {
        let left = run.load.under_way();
        (left > 0).then(|| format!("{left} posts had not arrived when the drain ended"))
    });
    Ok((step, latencies, window))
}

/// Posts and reads until then, or until the backlog is over its bound.
fn serve(run: &mut Run<'_>, end: Duration, name: &'static str, backlog_max: usize) -> Result<(), LoadFault> {
    let progress = Progress::of_run(end);
    while run.started.elapsed() < end && run.load.under_way() <= backlog_max && run.load.verifier.broken.is_nothing() {
        let now = run.started.elapsed();
        run.post_what_is_due(now)?;
        run.look(&progress, name)?;
        run.turn(end.saturating_sub(now).min(TURN_MAX))?;
    }
    progress.finish();
    Ok(())
}

fn figures(rate: u64, window: &Moment, latencies: &AllLatencies, limited: Vec<String>) -> Step {
    let seconds = window.at.as_secs_f64().max(f64::MIN_POSITIVE);
    Step {
        offered_posts_per_s: rate as f64,
        posts_per_s: window.totals.posts as f64 / seconds,
        deliveries_per_s: window.totals.deliveries as f64 / seconds,
        p50_us: latencies.delivered.quantile_us(0.5),
        p99_us: latencies.delivered.quantile_us(0.99),
        server_cpu_share: window.server_cpu.map(|cpu| cpu.as_secs_f64() / seconds),
        own_cpu_share: window.own_cpu.as_secs_f64() / seconds,
        broke: None,
        limited,
    }
}

fn broken_bound(bounds: &Saturation, step: &Step, under_way: usize, backlog_max: usize) -> Option<String> {
    let (p99_ms, p99_ms_max) = (step.p99_us / 1e3, bounds.p99_ms_max);
    if under_way > backlog_max {
        let seconds = bounds.backlog_max.as_secs_f64();
        return Some(format!("backlog: {under_way} posts under way, more than {seconds} s of them"));
    }
    (p99_ms > p99_ms_max as f64).then(|| format!("p99 of {p99_ms:.1} ms, where {p99_ms_max} ms is the bound"))
}

fn sheet(
    target: &Target,
    plan: &Plan,
    bounds: &Saturation,
    run: &Run<'_>,
    steps: &[Step],
    best: Option<Best>,
) -> Maker {
    // The server's knee is known where a step broke that this program did not hold back.
    let is_known = steps.iter().any(|step| step.broke.is_some() && step.limited.is_empty());
    let reasons = steps.iter().filter(|step| step.broke.is_some()).flat_map(|step| step.limited.clone());
    let mut limited: Vec<String> = if is_known { Vec::new() } else { reasons.collect() };
    if !is_known && limited.is_empty() {
        limited.push("the search ended before any bound broke".into());
    }
    let mut maker = Maker::new(target, plan.name, "Which rate does the server still bear?", limited);
    posting::describe(&mut maker, plan);
    let (p99_ms, backlog) = (bounds.p99_ms_max, bounds.backlog_max.as_secs_f64());
    maker.shape(format!("borne: p99, post to member, up to {p99_ms} ms, and {backlog} s of posts under way at most"));
    if let Some(best) = best {
        let knee = &steps[best.step];
        let mut rate = |name: &str, label: &str, value| {
            maker.figure(name, label, value, Unit::PerSecond, Promise::AtLeast, Merging::Nothing);
        };
        rate("saturation_posts_per_s", "knee, posts offered", knee.offered_posts_per_s);
        rate("saturation_deliveries_per_s", "knee, deliveries", knee.deliveries_per_s);
        maker.window(&best.window);
        posting::tell_latencies(&mut maker, plan, &best.latencies);
    } else {
        maker.caution("no rate was borne".into());
    }
    maker.steps(steps);
    maker.samples(&run.sampler.samples);
    maker.load("members", &run.load);
    maker
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_doubles_and_then_closes_in_on_the_knee() {
        let knee = 13_370;
        let (mut bracket, mut tried) = (Bracket::default(), Vec::new());
        while let Some(rate) = bracket.next(100) {
            tried.push(rate);
            if rate <= knee { bracket.borne = Some(rate) } else { bracket.unborne = Some(rate) }
        }
        assert_eq!(tried[..3], [100, 200, 400]);
        let found = bracket.borne.unwrap();
        assert!(found <= knee && knee as f64 <= found as f64 * PRECISION, "{tried:?}");
        assert!(tried.len() < STEPS_MAX);
    }

    #[test]
    fn a_first_rate_that_is_not_borne_is_halved_and_nothing_is_below_one() {
        let mut bracket = Bracket { borne: None, unborne: Some(100) };
        assert_eq!(bracket.next(100), Some(50));
        bracket.unborne = Some(1);
        assert_eq!(bracket.next(100), None);
        assert_eq!(Bracket { borne: Some(4), unborne: Some(5) }.next(1), None, "no whole number lies between them");
    }

    #[test]
    fn the_bounds_are_those_that_were_named() {
        let bounds = Saturation { saturate: true, p99_ms_max: 50, backlog_max: Duration::from_secs(1) };
        let step = |p99_ms: f64| Step { p99_us: p99_ms * 1e3, ..Step::default() };
        assert_eq!(broken_bound(&bounds, &step(50.0), 10, 10), None);
        assert!(broken_bound(&bounds, &step(50.1), 10, 10).unwrap().contains("p99"));
        assert!(broken_bound(&bounds, &step(1.0), 11, 10).unwrap().contains("backlog"));
    }
}
