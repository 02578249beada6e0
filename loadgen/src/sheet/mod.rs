//! The sheet of a run: every figure with its unit and what it is worth, histograms, curves over time, host, verdict.
//!
//! It is what `--json` prints, what `merge` adds up and what a page is drawn from. A figure that this program itself may
//! have held back is told as "at least" or "at most", or withheld, in each of these alike.

mod making;
pub mod merging;
mod table;

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::measure::Latencies;
use crate::sampler::Sample;
use crate::verify::Broken;

pub use making::{Maker, Promise};

/// The form that this program writes and reads.
pub const SHEET_FORMAT: u32 = 1;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sheet {
    /// [`SHEET_FORMAT`].
    pub sheet_format: u32,
    /// The scenario.
    pub job: String,
    /// Its name in a mix, or the scenario's.
    pub name: String,
    /// What it answers.
    pub question: String,
    /// The command that made it.
    pub command: String,
    /// This program's version.
    pub loadgen_version: String,
    /// When it was made, in milliseconds since 1970.
    pub made_at_unix_ms: u64,
    /// What its maker wants to be known: a commit, circumstances.
    pub note: Option<String>,
    /// Where the load ran.
    pub host: Host,
    /// The server's address.
    pub server: String,
    /// The command that the server was started with, where its process is known.
    pub server_command: Option<String>,
    /// The wire form.
    pub wire: String,
    /// What was run, in sentences.
    pub shape: Vec<String>,
    /// Processes whose figures these are.
    pub processes: u32,
    /// The measured time.
    pub window_s: f64,
    /// Why the figures are not the server's alone; empty: they are.
    pub limited: Vec<String>,
    /// What else a reader should know before believing them.
    pub cautions: Vec<String>,
    /// The figures, the most telling first.
    pub figures: Vec<Figure>,
    /// The latencies.
    pub latencies: Vec<Curve>,
    /// The steps of a search for the saturation point.
    pub steps: Vec<Step>,
    /// What happened over time.
    pub samples: Vec<Sample>,
    /// What was checked.
    pub verification: Verdict,
}

/// What a figure is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is what was measured.
    #[default]
    Exact,
    /// The server's own is this or more.
    AtLeast,
    /// The server's own is this or less.
    AtMost,
    /// It would say nothing of the server.
    Withheld,
}

impl Standing {
    /// In front of a figure.
    pub fn words(self) -> &'static str {
        match self {
            Standing::Exact => "",
            Standing::AtLeast => "at least ",
            Standing::AtMost => "at most ",
            Standing::Withheld => "withheld",
        }
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Unit {
    #[default]
    Count,
    PerSecond,
    Seconds,
    Microseconds,
    Bytes,
    BytesPerHour,
    /// A share of a core or of a whole; 1 is all of it.
    Share,
    /// How many times as much.
    Times,
}

/// How figures of several processes become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merging {
    /// They add up.
    Sum,
    /// The greatest stands for all, as where all looked at one server.
    Most,
    /// They say nothing together.
    #[default]
    Nothing,
}

/// One figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// For machines; ends in its unit where it has one.
    pub name: String,
    /// For people.
    pub label: String,
    /// None: withheld.
    pub value: Option<f64>,
    /// What it counts.
    pub unit: Unit,
    /// What it is worth.
    pub is: Standing,
    /// How it merges.
    pub merging: Merging,
}

/// The latencies of one kind, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Curve {
    pub name: String,
    pub label: String,
    pub is: Standing,
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    /// Nanoseconds; HdrHistogram V2 in base64.
    pub histogram: String,
}

impl Curve {
    /// Of a histogram.
    pub fn of(name: &str, label: &str, is: Standing, latencies: &Latencies) -> Self {
        let at = |share| latencies.quantile_us(share);
        Curve {
            name: name.into(),
            label: label.into(),
            is,
            count: latencies.len(),
            mean: latencies.mean_us(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: latencies.max_us(),
            histogram: latencies.encode(),
        }
    }
}

/// One step of a search for the saturation point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Step {
    pub offered_posts_per_s: f64,
    pub posts_per_s: f64,
    pub deliveries_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub server_cpu_share: Option<f64>,
    pub own_cpu_share: f64,
    /// Which bound it broke; none: it kept all.
    pub broke: Option<String>,
    /// Why it says nothing of the server.
    pub limited: Vec<String>,
}

/// What was checked, over the whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether every promise was kept.
    pub verified: bool,
    /// What was counted against what was due.
    pub checks: Vec<Check>,
    /// How often each promise was broken, over all checks.
    pub broken: Broken,
    /// The first faults, for people.
    pub described: Vec<String>,
}

/// What was counted against what was due.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// As much was due.
    pub expected: u64,
    /// As much came.
    pub found: u64,
}

impl Sheet {
    /// A figure by its name.
    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}
