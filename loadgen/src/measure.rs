//! Counters and histograms of a run, and the difference between two moments of it.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};

use crate::fleet::Traffic;
use crate::standing::OWN_CPU_SHARE_MAX;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(120);
/// Points of a curve for each halving of the distance to 100 %.
const CURVE_TICKS_PER_HALF: u32 = 8;
/// Significant digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// Latencies in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u32>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, LATENCY_DIGITS);
        Latencies(histogram.expect("the bounds are constants that hdrhistogram takes"))
    }
}

impl Latencies {
    /// One more.
    #[inline]
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_nanos() as u64);
    }

    /// How many.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The latency that this share of all stays at or below, in microseconds.
    pub fn quantile_us(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }

    /// The longest, in microseconds.
    pub fn max_us(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    /// All of another's too.
    pub fn add(&mut self, other: &Latencies) {
        // Both have the same bounds, so that every value of one has its place in the other.
        let _ = self.0.add(&other.0);
    }

    /// What came since an earlier moment of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Latencies) -> Latencies {
        let mut since = self.clone();
        // What was counted earlier is counted still, so that nothing falls below none.
        let _ = since.0.subtract(&earlier.0);
        since
    }

    /// As HdrHistogram's V2 form in base64, without compression: any of its libraries reads it.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::new();
        // Writing to a vector cannot fail, and a count of u32 fits its form.
        let _ = V2Serializer::new().serialize(&self.0, &mut bytes);
        BASE64_STANDARD.encode(bytes)
    }

    /// What [`Latencies::encode`] wrote, or another program in that form whose values fit.
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(text: &str) -> Result<Self, String> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|error| error.to_string())?;
        let found: Histogram<u32> =
            Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(|error| format!("{error:?}"))?;
        let mut latencies = Latencies::default();
        latencies.0.add(&found).map_err(|error| error.to_string())?;
        Ok(latencies)
    }

    /// Points of the curve: a share, and the microseconds that it stays at or below, as finely as the histogram can say.
    pub fn curve_us(&self) -> Vec<(f64, f64)> {
        let points = self.0.iter_quantiles(CURVE_TICKS_PER_HALF);
        points.map(|point| (point.quantile(), point.value_iterated_to() as f64 / 1e3)).collect()
    }

    /// The mean, in microseconds.
    pub fn mean_us(&self) -> f64 {
        self.0.mean() / 1e3
    }
}

/// The latencies of a run: of posts that were meant to be sent within the measured window, from that moment on.
#[derive(Clone, Debug, Default)]
pub struct AllLatencies {
    /// Until the publisher has the acknowledgement.
    pub acknowledged: Latencies,
    /// Until a member has it: one for each member.
    pub delivered: Latencies,
    /// Until the publisher has it back.
    pub echoed: Latencies,
    /// Until the last member has it.
    pub complete: Latencies,
    /// Until the first member has it.
    pub first: Latencies,
    /// From the first member who has it to the last.
    pub spread: Latencies,
    /// Until this program has sent it: how late it was itself. Open loops only.
    pub late: Latencies,
}

/// What was counted from the start on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Posts that were sent.
    pub posts: u64,
    /// Acknowledgements.
    pub acknowledged: u64,
    /// Messages that reached a member.
    pub deliveries: u64,
    /// What went through the sockets.
    pub traffic: Traffic,
}

/// A moment of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// From the start.
    pub at: Duration,
    /// What was counted.
    pub totals: Totals,
    /// The server's CPU time.
    pub server_cpu: Option<Duration>,
    /// How long the server's threads had to wait for a CPU.
    pub server_waited: Option<Duration>,
    /// CPU time of the kernel's softirq threads beside the server's.
    pub server_softirq: Option<Duration>,
    /// This process's CPU time.
    pub own_cpu: Duration,
    /// How long this process had to wait for a CPU.
    pub own_waited: Option<Duration>,
    /// CPU time of the kernel's softirq threads beside this process's.
    pub own_softirq: Option<Duration>,
}

impl Moment {
    /// What happened between an earlier moment and this one.
    #[must_use]
    pub fn since(&self, earlier: &Moment) -> Moment {
        let (now, then) = (&self.totals, &earlier.totals);
        let traffic = Traffic {
            bytes_in: now.traffic.bytes_in - then.traffic.bytes_in,
            reads: now.traffic.reads - then.traffic.reads,
            frames: now.traffic.frames - then.traffic.frames,
            bytes_out: now.traffic.bytes_out - then.traffic.bytes_out,
        };
        let elapsed =
            |now: Option<Duration>, then: Option<Duration>| now.zip(then).map(|(now, then)| now.saturating_sub(then));
        Moment {
            at: self.at - earlier.at,
            totals: Totals {
                posts: now.posts - then.posts,
                acknowledged: now.acknowledged - then.acknowledged,
                deliveries: now.deliveries - then.deliveries,
                traffic,
            },
            server_cpu: elapsed(self.server_cpu, earlier.server_cpu),
            server_waited: elapsed(self.server_waited, earlier.server_waited),
            server_softirq: elapsed(self.server_softirq, earlier.server_softirq),
            own_cpu: self.own_cpu - earlier.own_cpu,
            own_waited: elapsed(self.own_waited, earlier.own_waited),
            own_softirq: elapsed(self.own_softirq, earlier.own_softirq),
        }
    }

    /// How long other programs kept the server from its CPUs. What the kernel's softirq threads took was work of this
    /// load.
    pub fn server_disturbed(&self) -> Option<Duration> {
        self.server_waited.map(|waited| waited.saturating_sub(self.server_softirq.unwrap_or_default()))
    }

    /// How long other programs kept this process from its CPU.
    pub fn own_disturbed(&self) -> Option<Duration> {
        self.own_waited.map(|waited| waited.saturating_sub(self.own_softirq.unwrap_or_default()))
    }

    /// Whether other programs took so much of the CPUs that the figures say something of them.
    pub fn was_disturbed(&self) -> bool {
        const MUCH: f64 = 0.05;
        let disturbed = self.server_disturbed().into_iter().chain(self.own_disturbed()).max();
        disturbed.is_some_and(|time| time.as_secs_f64() > MUCH * self.at.as_secs_f64())
    }

    /// Whether this process may have been what held the server back: its core was full, and fuller than the server's.
    pub fn was_own_bottleneck(&self) -> bool {
        let own = self.own_cpu.as_secs_f64() / self.at.as_secs_f64().max(f64::MIN_POSITIVE);
        own > OWN_CPU_SHARE_MAX && self.server_cpu.is_none_or(|server| self.own_cpu > server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at: u64, own: u64, server: Option<u64>) -> Moment {
        Moment {
            at: Duration::from_secs(at),
            own_cpu: Duration::from_secs(own),
            server_cpu: server.map(Duration::from_secs),
            server_waited: Some(Duration::from_secs(own / 10)),
            own_waited: Some(Duration::from_secs(at / 100)),
            server_softirq: server.map(|_| Duration::from_secs(own / 20)),
            own_softirq: None,
            totals: Totals { deliveries: at * 100, ..Totals::default() },
        }
    }

    #[test]
    fn a_window_is_what_happened_in_it() {
        let window = moment(30, 25, Some(29)).since(&moment(10, 6, Some(10)));
        assert_eq!((window.at, window.own_cpu), (Duration::from_secs(20), Duration::from_secs(19)));
        assert_eq!(window.server_cpu, Some(Duration::from_secs(19)));
        assert_eq!(window.totals.deliveries, 2000);
    }

    #[test]
    fn a_full_load_core_is_the_bottleneck_unless_the_server_is_fuller() {
        assert!(moment(100, 95, Some(60)).was_own_bottleneck());
        assert!(!moment(100, 95, Some(99)).was_own_bottleneck());
        assert!(!moment(100, 80, Some(60)).was_own_bottleneck());
        assert!(moment(100, 95, None).was_own_bottleneck());
        assert!(!moment(0, 0, None).was_own_bottleneck());
    }

    #[test]
    fn a_window_is_disturbed_when_others_took_a_twentieth_of_it() {
        assert!(moment(100, 95, None).was_disturbed());
        assert!(!moment(100, 49, None).was_disturbed());
        assert!(!moment(100, 95, Some(90)).was_disturbed(), "half of it was for the softirq threads");
        assert!(!Moment { server_waited: None, own_waited: None, ..moment(100, 95, None) }.was_disturbed());
    }

    #[test]
    fn what_was_written_is_read_and_adds_up() {
        let (mut one, mut other) = (Latencies::default(), Latencies::default());
        (1..=100).for_each(|us| one.record(Duration::from_micros(us)));
        (101..=200).for_each(|us| other.record(Duration::from_micros(us)));
        let mut sum = Latencies::decode(&one.encode()).unwrap();
        sum.add(&Latencies::decode(&other.encode()).unwrap());
        assert_eq!((sum.len(), sum.quantile_us(0.5).round()), (200, 100.0));
        assert_eq!(sum.since(&one).len(), 100);
        assert!((sum.since(&one).quantile_us(0.0) - 101.0).abs() < 0.2);
        let curve = sum.curve_us();
        assert!(curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
        assert_eq!(curve.last().unwrap().0, 1.0);
        assert!(Latencies::decode("not base64").is_err() && Latencies::decode("AAAA").is_err());
    }

    #[test]
    fn latencies_keep_three_digits_and_do_not_overflow() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|us| latencies.record(Duration::from_micros(us)));
        assert!((latencies.quantile_us(0.5) - 500.0).abs() < 1.0);
        assert!((latencies.max_us() - 1000.0).abs() < 1.1);
        latencies.record(Duration::from_secs(1000));
        assert_eq!(latencies.len(), 1001);
    }
}
