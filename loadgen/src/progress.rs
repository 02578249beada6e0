//! The bar on stderr, drawn only where a person can see it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::sampler::Sample;

/// Redraws a second: what a bar costs must not show in the figures.
const REDRAWS_PER_S: u8 = 5;

/// A bar for what is going on.
#[derive(Debug)]
pub struct Progress(ProgressBar, Option<Told>);

/// What a process that holds connections for another has told it on stdout.
#[derive(Debug)]
struct Told(Cell<Option<Instant>>);

/// Between two lines for the other process.
const TOLD_INTERVAL: Duration = Duration::from_millis(200);

impl Progress {
    /// For a process that opens connections for another, which it tells how many are joined.
    pub fn for_parent() -> Self {
        Progress(ProgressBar::hidden(), Some(Told(Cell::new(None))))
    }

    /// For opening that many connections.
    pub fn of_opening(connections: usize) -> Self {
        Self::new(connections as u64, "opening  {bar:40} {pos}/{len} joined")
    }

    /// For so many messages that are posted beforehand.
    pub fn of_filling(messages: u64) -> Self {
        Self::new(messages, "filling  {bar:40} {pos} acknowledged")
    }

    /// For a run of that length.
    pub fn of_run(length: Duration) -> Self {
        Self::new(length.as_millis() as u64, "{prefix:8} {bar:20} {msg}")
    }

    /// For the parts of a mix.
    pub fn of_parts(parts: usize) -> Self {
        Self::new(parts as u64, "running  {bar:20} {pos} of {len} processes have ended, {msg}")
    }

    /// So many have ended by then.
    pub fn ended(&self, parts: usize, at_s: f64) {
        self.0.set_position(parts as u64);
        self.0.set_message(format!("{at_s:.0} s"));
    }

    /// A line for the person, above the bar where there is one.
    pub fn say(&self, line: &str) {
        if self.0.is_hidden() { eprintln!("{line}") } else { self.0.println(line) }
    }

    fn new(length: u64, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_S));
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Progress(bar.with_style(style), None)
    }

    /// So many are joined.
    pub fn opened(&self, joined: usize) {
        self.0.set_position(joined as u64);
        if let Some(Told(at)) = &self.1
            && at.get().is_none_or(|at| at.elapsed() >= TOLD_INTERVAL)
        {
            println!("{joined}");
            at.set(Some(Instant::now()));
        }
    }

    /// All are joined.
    pub fn opened_all(&self, joined: usize) {
        self.0.set_position(joined as u64);
        if self.1.is_some() {
            println!("{joined}");
        }
    }

    /// The run has come so far; `sample` is its last whole interval.
    pub fn ran(&self, phase: &'static str, at: Duration, sample: Option<&Sample>) {
        if !self.0.is_hidden() {
            self.0.set_prefix(phase);
            self.0.set_message(sample.map_or(String::new(), describe));
            self.0.set_position(at.as_millis() as u64);
        }
    }

    /// It is over: the bar goes.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// An interval in one line.
pub fn describe(sample: &Sample) -> String {
    let mut line = format!("{:.0} posts/s, {:.0} deliveries/s", sample.posts_per_s, sample.deliveries_per_s);
    if let (Some(p50_us), Some(p99_us)) = (sample.p50_us, sample.p99_us) {
        line += &format!(", p50 {:.2} ms, p99 {:.2} ms", p50_us / 1e3, p99_us / 1e3);
    }
    if let Some(share) = sample.server_cpu_share {
        line += &format!(", server {:.0} % of a core", share * 100.0);
    }
    if let Some(bytes) = sample.server_resident_bytes {
        line += &format!(", {:.1} MiB", bytes as f64 / f64::from(1 << 20));
    }
    line
}
