//! What a revocation took, and what must hold of it.

use std::fmt;
use std::time::Duration;

use banter_loadgen::args::Wire;
use banter_loadgen::measure::Latencies;
use banter_loadgen::report::Quantiles;
use serde::Serialize;

/// What p99 from the answer to the closed socket should stay below, in microseconds.
const CLOSED_P99_US_MAX: f64 = 1e6;
/// What the live load's p99 meanwhile should be at most, divided by that before.
const LIVE_P99_RATIO_MAX: f64 = 1.5;

/// One revocation. Names end in their unit.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it, but for what is said")]
pub struct Revoked {
    pub named: usize,
    pub closed: usize,
    /// Those that were told `revoked` before.
    pub told: usize,
    /// From the request to the answer.
    pub answered_us: f64,
    /// From the answer to the closed socket; 0 for those that were closed before it came.
    pub closed_us: Quantiles,
    /// The live load's latencies, from the intended time of a post to each member that has it.
    pub live_before_us: Quantiles,
    pub live_meanwhile_us: Quantiles,
    pub live_p99_ratio: f64,
    /// Whether one who comes again is refused.
    pub came_again: bool,
}

impl Revoked {
    /// Works it out. The live load's latencies are those before, and those meanwhile.
    pub(super) fn new(
        named: usize,
        told: usize,
        answered: Duration,
        closed: &Latencies,
        (before, meanwhile): (&Latencies, &Latencies),
    ) -> Self {
        Revoked {
            named,
            closed: closed.len() as usize,
            told,
            answered_us: answered.as_secs_f64() * 1e6,
            closed_us: Quantiles::of(closed),
            live_p99_ratio: meanwhile.quantile_us(0.99) / before.quantile_us(0.99).max(f64::MIN_POSITIVE),
            live_before_us: Quantiles::of(before),
            live_meanwhile_us: Quantiles::of(meanwhile),
            came_again: false,
        }
    }

    fn faults(&self, what: &str) -> Vec<String> {
        let Revoked { named, closed, told, came_again, .. } = self;
        let mut faults = Vec::new();
        if closed != named || told != named {
            faults.push(format!("{what}: of {named} connections {closed} were closed, and {told} told `revoked`"));
        }
        if !came_again {
            faults.push(format!("{what}: one who came again was not refused"));
        }
        faults
    }

    fn missed(&self, what: &str) -> Vec<String> {
        let (p99_us, ratio) = (self.closed_us.p99, self.live_p99_ratio);
        let mut missed = Vec::new();
        if p99_us >= CLOSED_P99_US_MAX {
            missed.push(format!("{what}: p99 to the closed socket is {:.0} ms (aim: < 1 s)", p99_us / 1e3));
        }
        if ratio > LIVE_P99_RATIO_MAX {
            missed.push(format!("{what}: live p99 is {ratio:.2} x that before (aim: <= {LIVE_P99_RATIO_MAX} x)"));
        }
        missed
    }

    fn lines(&self, what: &str, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Revoked { named, closed, closed_us, live_before_us, live_meanwhile_us, live_p99_ratio, .. } = self;
        writeln!(out, "{what:<8}{closed} of {named} closed; 200 after {:.0} us", self.answered_us)?;
        let Quantiles { p50, p99, max, .. } = closed_us;
        writeln!(out, "        200 to closed: p50 {p50:.0} us, p99 {p99:.0} us, max {max:.0} us")?;
        let (before, meanwhile) = (live_before_us.p99, live_meanwhile_us.p99);
        writeln!(out, "        live p99: {before:.0} us before, {meanwhile:.0} us meanwhile: {live_p99_ratio:.2} x")
    }
}

/// The live load.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Live {
    pub members: u32,
    pub rate_posts_per_s: u64,
    /// Every member got every message once and in order.
    pub verified: bool,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it, but for what is said")]
pub struct Report {
    pub wire: Wire,
    pub connections: u32,
    pub live: Live,
    pub user: Revoked,
    pub range: Revoked,
    /// Connections that were ended and not revoked.
    pub others_ended: usize,
    /// Whether all holds that must.
    pub holds: bool,
    /// What does not.
    pub faults: Vec<String>,
    /// Aims that were missed; they fail nothing.
    pub missed: Vec<String>,
}

impl Report {
    /// Judges it.
    pub(super) fn new(
        wire: Wire,
        connections: u32,
        live: Live,
        others_ended: usize,
        user: Revoked,
        range: Revoked,
        described: &[String],
    ) -> Self {
        let mut faults = [user.faults("user"), range.faults("range")].concat();
        if others_ended > 0 {
            faults.push(format!("{others_ended} connections were ended that nobody revoked"));
        }
        if !live.verified {
            faults.push(format!("the live load was not delivered whole: {}", described.join("; ")));
        }
        let missed = [user.missed("user"), range.missed("range")].concat();
        Report { wire, connections, live, user, range, others_ended, holds: faults.is_empty(), faults, missed }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Live { members, rate_posts_per_s, .. } = self.live;
        writeln!(
            out,
            "{} connections ({}); live: {members} readers, {rate_posts_per_s} posts/s",
            self.connections,
            self.wire.name()
        )?;
        self.user.lines("user", out)?;
        self.range.lines("range", out)?;
        self.missed.iter().try_for_each(|missed| writeln!(out, "MISSED  {missed}"))?;
        self.faults.iter().try_for_each(|fault| writeln!(out, "FAULT   {fault}"))?;
        write!(out, "{}", if self.holds { "holds" } else { "DOES NOT HOLD" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies(us: u64) -> Latencies {
        let mut all = Latencies::default();
        (0..100).for_each(|_| all.record(Duration::from_micros(us)));
        all
    }

    fn revoked(live_us: u64) -> Revoked {
        let live = (&latencies(1_000), &latencies(live_us));
        Revoked { came_again: true, ..Revoked::new(100, 100, Duration::from_millis(2), &latencies(500), live) }
    }

    fn report(user: Revoked, others_ended: usize, verified: bool) -> Report {
        let live = Live { members: 4, rate_posts_per_s: 10, verified };
        Report::new(Wire::Json, 1_000, live, others_ended, user, revoked(1_000), &["a hole".to_owned()])
    }

    #[test]
    fn a_missed_aim_is_said_and_fails_nothing() {
        let slow = report(revoked(1_600), 0, true);
        assert!(slow.holds && slow.missed.len() == 1 && slow.missed[0].contains("1.60 x"), "{slow}");
        assert!(report(revoked(1_400), 0, true).missed.is_empty());
    }

    #[test]
    fn whoever_stays_is_not_told_comes_again_or_goes_unasked_fails_it() {
        let user = revoked(1_000);
        assert!(report(user.clone(), 0, true).holds);
        assert!(!report(Revoked { closed: 99, ..user.clone() }, 0, true).holds);
        assert!(!report(Revoked { told: 99, ..user.clone() }, 0, true).holds);
        assert!(!report(Revoked { came_again: false, ..user.clone() }, 0, true).holds);
        assert!(!report(user.clone(), 1, true).holds);
        assert!(report(user, 0, false).faults[0].contains("a hole"));
    }
}
