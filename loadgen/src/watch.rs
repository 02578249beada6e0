//! Serves a live load beside something else, phase by phase: what its members feel of each, from the intended time.
//!
//! The live sockets are looked at between any two steps of the other, so that what the members wait for is the server and
//! not this program. How long it looked away is kept, and judged like its lateness.

use std::time::{Duration, Instant};

use crate::args::Target;
use crate::fault::LoadFault;
use crate::measure::{AllLatencies, Latencies, Moment};
use crate::progress::Progress;
use crate::run::Run;
use crate::sheet::{Maker, Merging, Promise, Unit};
use crate::standing;

/// The longest wait for the live sockets while nothing else is ready.
const LOOK_MAX: Duration = Duration::from_micros(100);
/// What was posted in a phase may arrive so long behind it.
const SETTLE_MAX: Duration = Duration::from_millis(300);

/// What a step beside the live load came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// It goes on; so many sockets were ready.
    On(usize),
    /// It is over.
    Over,
}

/// What the live members felt in one phase.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// The latencies of posts that were meant to be sent in it.
    pub latencies: AllLatencies,
    /// What happened in it.
    pub window: Moment,
    /// How long each look away from the live sockets was.
    pub looks_away: Latencies,
}

/// Steps that are taken between two looks at the live sockets.
pub type Step<'s, 'a> = dyn FnMut(&mut Run<'a>) -> Result<Turned, LoadFault> + 's;

/// Nothing beside the live load.
///
/// # Errors
/// Never.
pub fn nothing(_live: &mut Run<'_>) -> Result<Turned, LoadFault> {
    Ok(Turned::On(0))
}

/// Runs the live load for so long, or until the step says that it is over, and measures it.
///
/// # Errors
/// When a connection is gone or refused something.
pub fn phase<'a>(
    live: &mut Run<'a>,
    name: &'static str,
    time: Duration,
    step: &mut Step<'_, 'a>,
) -> Result<Phase, LoadFault> {
    let before = live.moment()?;
    let end = before.at.saturating_add(time);
    live.load.measure(before.at..end);
    let mut looks_away = Latencies::default();
    serve(live, name, end, step, &mut looks_away)?;
    let window = live.moment()?.since(&before);
    live.load.measure(Duration::ZERO..Duration::ZERO);
    settle(live, step)?;
    Ok(Phase { name, latencies: live.take_latencies(), window, looks_away })
}

fn serve<'a>(
    live: &mut Run<'a>,
    name: &'static str,
    end: Duration,
    step: &mut Step<'_, 'a>,
    looks_away: &mut Latencies,
) -> Result<(), LoadFault> {
    let progress = Progress::of_run(end);
    let (mut looked_at, mut patience) = (Instant::now(), Duration::ZERO);
    // A broken promise ends the phase at once: the rest of it would prove nothing.
    while live.started.elapsed() < end && live.load.verifier.broken.is_nothing() {
        looks_away.record(looked_at.elapsed());
        live.post_what_is_due(live.started.elapsed())?;
        live.turn(patience)?;
        looked_at = Instant::now();
        patience = match step(live)? {
            Turned::Over => break,
            Turned::On(0) => LOOK_MAX,
            Turned::On(_) => Duration::ZERO,
        };
        live.look(&progress, name)?;
    }
    progress.finish();
    Ok(())
}

/// The load goes on, and nothing of it is measured, until what was measured has arrived.
fn settle<'a>(live: &mut Run<'a>, step: &mut Step<'_, 'a>) -> Result<(), LoadFault> {
    let until = Instant::now() + SETTLE_MAX;
    while Instant::now() < until && live.load.verifier.broken.is_nothing() {
        live.post_what_is_due(live.started.elapsed())?;
        live.turn(LOOK_MAX)?;
        step(live)?;
    }
    Ok(())
}

/// Why figures of these phases are not the server's alone.
pub fn limits_of(phases: &[&Phase]) -> Vec<String> {
    let of = |phase: &&Phase| {
        let limits = standing::limits_of(&phase.window, &phase.latencies, Some(&phase.looks_away));
        let name = phase.name;
        limits.into_iter().map(move |reason| format!("{name}: {reason}")).collect::<Vec<_>>()
    };
    phases.iter().flat_map(of).collect()
}

/// A sheet with what the live members felt of each phase, and how the later ones compare with the first. The window is
/// the second's.
pub fn maker(target: &Target, job: &str, question: &str, phases: &[&Phase]) -> Maker {
    let mut maker = Maker::new(target, job, question, limits_of(phases));
    if let [first, second, ..] = phases {
        maker.window(&second.window);
        for phase in &phases[1..] {
            ratios(&mut maker, first, phase);
        }
    }
    for phase in phases {
        maker.all_latencies(&format!("{}_", phase.name), &format!("{}: ", phase.name), &phase.latencies);
        maker.own_latencies(
            &format!("{}_own_late", phase.name),
            &format!("{}: own lateness", phase.name),
            &phase.latencies.late,
        );
    }
    maker
}

fn ratios(maker: &mut Maker, first: &Phase, phase: &Phase) {
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let [before, now] = [first, phase].map(|phase| phase.latencies.delivered.quantile_us(share));
        let label = format!("live {name}, {} / {}", phase.name, first.name);
        let name = format!("{}_delivered_{name}_ratio", phase.name);
        maker.figure(&name, &label, now / before, Unit::Times, Promise::Withheld, Merging::Nothing);
    }
}
