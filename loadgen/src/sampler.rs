//! What happened interval by interval: the curves over time, and the line that a person watches.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::measure::{Latencies, Moment};

/// The shortest interval.
const INTERVAL_MIN: Duration = Duration::from_millis(250);
/// Intervals that a run is cut into, where none is the shortest.
const INTERVALS: u32 = 240;
/// Intervals that are kept; of a run that takes longer than was planned the rest is not.
pub const SAMPLES_MAX: usize = 2000;

/// One interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its end, from the run's start, in seconds.
    pub at_s: f64,
    /// Posts sent a second.
    pub posts_per_s: f64,
    /// Messages that reached a member a second.
    pub deliveries_per_s: f64,
    /// Deliveries of measured posts stay below it by half, in microseconds.
    pub p50_us: Option<f64>,
    /// 99 of 100 do.
    pub p99_us: Option<f64>,
    /// The server's CPU time as a share of a core.
    pub server_cpu_share: Option<f64>,
    /// The server's resident memory at its end.
    pub server_resident_bytes: Option<u64>,
    /// This process's CPU time as a share of a core.
    pub own_cpu_share: f64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Sampler {
    interval: Duration,
    next_at: Duration,
    last: Option<Moment>,
    last_latencies: Latencies,
    /// The intervals so far.
    pub samples: Vec<Sample>,
}

impl Sampler {
    /// For a run that takes about so long.
    pub fn for_time(time: Duration) -> Self {
        Self::with_interval((time / INTERVALS).max(INTERVAL_MIN))
    }

    /// With intervals of that length.
    pub fn with_interval(interval: Duration) -> Self {
        let last_latencies = Latencies::default();
        Sampler { interval, next_at: Duration::ZERO, last: None, last_latencies, samples: Vec::new() }
    }

    /// Whether an interval is over.
    pub fn is_due(&self, now: Duration) -> bool {
        now >= self.next_at
    }

    /// The interval ends at that moment, or the first begins; `delivered` is what was measured since latencies were last forgotten.
    pub fn take(&mut self, moment: Moment, delivered: &Latencies, resident_bytes: Option<u64>) {
        let next_at = moment.at + self.interval;
        let Some(earlier) = self.last else {
            (self.last, self.next_at) = (Some(moment), next_at);
            return;
        };
        let (window, latencies) = (moment.since(&earlier), delivered.since(&self.last_latencies));
        let seconds = window.at.as_secs_f64().max(f64::MIN_POSITIVE);
        let quantile = |share| (!latencies.is_empty()).then(|| latencies.quantile_us(share));
        let sample = Sample {
            at_s: moment.at.as_secs_f64(),
            posts_per_s: window.totals.posts as f64 / seconds,
            deliveries_per_s: window.totals.deliveries as f64 / seconds,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            server_cpu_share: window.server_cpu.map(|cpu| cpu.as_secs_f64() / seconds),
            server_resident_bytes: resident_bytes,
            own_cpu_share: window.own_cpu.as_secs_f64() / seconds,
        };
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(sample);
        }
        (self.last, self.last_latencies, self.next_at) = (Some(moment), delivered.clone(), next_at);
    }

    /// The latencies begin anew.
    pub fn forget_latencies(&mut self) {
        self.last_latencies = Latencies::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Totals;

    #[test]
    fn an_interval_is_what_happened_since_the_last() {
        let mut sampler = Sampler::for_time(Duration::from_secs(10));
        assert!(sampler.is_due(Duration::ZERO), "the first begins at once");
        let moment = |at: u64, cpu: u64| Moment {
            at: Duration::from_secs(at),
            server_cpu: Some(Duration::from_secs(cpu)),
            totals: Totals { deliveries: at * at * 100, ..Totals::default() },
            ..Moment::default()
        };
        let mut latencies = Latencies::default();
        sampler.take(moment(0, 50), &latencies, None);
        assert!(!sampler.is_due(Duration::from_millis(249)) && sampler.is_due(Duration::from_millis(250)));
        sampler.take(moment(1, 50), &latencies, None);
        latencies.record(Duration::from_millis(5));
        sampler.take(moment(3, 51), &latencies, Some(7));
        let [first, second] = sampler.samples[..] else { panic!() };
        assert_eq!((first.deliveries_per_s, first.server_cpu_share, first.p99_us), (100.0, Some(0.0), None));
        assert_eq!((second.deliveries_per_s, second.server_cpu_share), (400.0, Some(0.5)));
        assert_eq!(second.server_resident_bytes, Some(7));
        assert!((second.p50_us.unwrap() - 5000.0).abs() < 10.0);
        assert!(!sampler.is_due(Duration::from_millis(3249)));
    }
}
