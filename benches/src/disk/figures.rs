//! The figures of the disk: quantiles of one block's way to it, bytes a second from it, and how people read them.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::args;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// Latencies in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, 3);
        Latencies(histogram.expect("the bounds are constants that hdrhistogram takes"))
    }
}

impl Latencies {
    /// One more.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_nanos() as u64);
    }

    /// In a few numbers.
    pub fn quantiles(&self) -> Quantiles {
        let at = |share| self.0.value_at_quantile(share) as f64 / 1e3;
        Quantiles {
            count: self.0.len(),
            mean: self.0.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max() as f64 / 1e3,
        }
    }
}

/// One histogram in a few numbers, in microseconds; named as the load generator names its own.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl fmt::Display for Quantiles {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, p999, max, .. } = self;
        write!(out, "p50 {p50:.1}, p99 {p99:.1}, p99.9 {p999:.1}, max {max:.1} us")
    }
}

/// What `latency` measured.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the figures' own")]
pub struct LatencyReport {
    pub program: &'static str,
    pub question: &'static str,
    pub folder: String,
    pub file_mib: u64,
    pub block_bytes: usize,
    /// Null: back to back.
    pub rate_blocks_per_s: Option<u64>,
    pub blocks: u64,
    pub seconds: f64,
    pub blocks_per_s: f64,
    /// From when the block was meant to be written until it was durable.
    pub durable_us: Quantiles,
    /// The write alone, from when it was begun.
    pub write_us: Quantiles,
    /// The fdatasync alone.
    pub sync_us: Quantiles,
}

impl fmt::Display for LatencyReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { block_bytes, blocks_per_s, durable_us, write_us, sync_us, .. } = self;
        let pace = self.rate_blocks_per_s.map_or("back to back".into(), |rate| format!("{rate}/s wanted"));
        writeln!(out, "{block_bytes} B write + fdatasync, {pace}: {blocks_per_s:.0}/s; {durable_us}")?;
        writeln!(out, "  write      {write_us}")?;
        write!(out, "  fdatasync  {sync_us}")
    }
}

/// One way of reading.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rate {
    /// Bytes read.
    pub bytes: u64,
    /// Time on the wall.
    pub seconds: f64,
    /// Megabytes (10^6) a second.
    pub mb_per_s: f64,
}

impl Rate {
    /// So many bytes in so long.
    pub fn new(bytes: u64, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        Rate { bytes, seconds, mb_per_s: if seconds > 0.0 { bytes as f64 / 1e6 / seconds } else { 0.0 } }
    }
}

/// What `read` measured.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the figures' own")]
pub struct ReadReport {
    pub program: &'static str,
    pub question: &'static str,
    pub folder: String,
    pub files: usize,
    pub block_bytes: usize,
    /// Through the page cache, after the files were told to leave it.
    pub cold: Rate,
    /// Around it.
    pub direct: Rate,
}

impl ReadReport {
    /// Puts what was measured beside what was asked for.
    pub fn new(args: &args::Read, files: usize, cold: Rate, direct: Rate) -> Self {
        let (folder, block_bytes) = (args.folder.display().to_string(), args.block_bytes);
        ReadReport { program: "disk-floor", question: "read", folder, files, block_bytes, cold, direct }
    }
}

impl fmt::Display for ReadReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, block_bytes, cold, direct, .. } = self;
        let mib = cold.bytes >> 20;
        write!(out, "{mib} MiB of {files} files, {block_bytes} B a read: ")?;
        write!(out, "{:.0} MB/s cold, {:.0} MB/s O_DIRECT", cold.mb_per_s, direct.mb_per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut latencies = Latencies::default();
        (1..=100).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let found = latencies.quantiles();
        assert_eq!(found.count, 100);
        for (value, expected) in [(found.p50, 50_000.0), (found.p99, 99_000.0), (found.max, 100_000.0)] {
            assert!((value - expected).abs() < expected * 0.001, "{value} is not {expected}");
        }
    }

    #[test]
    fn a_rate_of_no_time_is_none() {
        assert_eq!(Rate::new(5, Duration::ZERO).mb_per_s, 0.0);
        assert_eq!(Rate::new(3_000_000, Duration::from_secs(2)).mb_per_s, 1.5);
    }
}
