//! The cores' histograms as classic Prometheus histograms: cumulative buckets at powers of two, in seconds.
//!
//! The cells are finer than the buckets: 26 lines a histogram are enough for an alert, and a scrape stays small.

use std::fmt::Write as _;

use banter_chat::histogram::Histogram;
use banter_chat::latencies::PageSource;
use banter_chat::policy::Durability;

use super::{CoreReport, head};

/// A histogram of a core with the labels that tell it from others of its name, each behind a comma.
type Labelled<'r> = (String, &'r Histogram);
/// The name, the help, and how a core's histograms are read.
type Family = (&'static str, &'static str, fn(&CoreReport) -> Vec<Labelled<'_>>);

pub(super) const FAMILIES: &[Family] = &[
    ("banter_turn_seconds", "Turns of the pump, with the sends where another turn follows at once.", |core| {
        alone(&core.turns)
    }),
    ("banter_post_seconds", "From a post's place to its answer, by the room's level.", |core| {
        let levels = Durability::ALL.iter().zip(&core.latencies.post);
        levels.map(|(level, histogram)| (format!(",level=\"{}\"", level.name()), histogram)).collect()
    }),
    ("banter_commit_seconds", "From a commit's write to the word that it has reached its level.", |core| {
        alone(&core.latencies.commit)
    }),
    ("banter_fan_out_seconds", "From history to the send to the last live reader of a core.", |core| {
        alone(&core.latencies.fan_out)
    }),
    ("banter_page_seconds", "From the ask for a page to its answer, by where it came from.", |core| {
        let sources = PageSource::ALL.iter().zip(&core.latencies.page);
        sources.map(|(source, histogram)| (format!(",source=\"{}\"", source.name()), histogram)).collect()
    }),
    ("banter_lane_wait_seconds", "That parcels waited for room in a lane to another core.", |core| {
        alone(&core.latencies.lane_wait)
    }),
];

fn alone(histogram: &Histogram) -> Vec<Labelled<'_>> {
    vec![(String::new(), histogram)]
}

/// Appends all of them, for the cores that said what they count.
pub(super) fn render<'r>(text: &mut String, cores: impl Iterator<Item = (usize, &'r CoreReport)> + Clone) {
    for (name, help, read) in FAMILIES {
        head(text, name, "histogram", help);
        for (index, core) in cores.clone() {
            for (labels, histogram) in read(core) {
                write_histogram(text, name, &format!("core=\"{index}\"{labels}"), histogram);
            }
        }
    }
}

fn write_histogram(text: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    for (bound_us, below) in histogram.below_powers_of_two() {
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{}\"}} {below}", seconds(bound_us));
    }
    let count = histogram.count();
    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum{{{labels}}} {}", seconds(histogram.sum_us()));
    let _ = writeln!(text, "{name}_count{{{labels}}} {count}");
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_end_with_the_count() {
        let mut histogram = Histogram::default();
        [1, 5, 5, 1_000_000, u64::from(u32::MAX)].into_iter().for_each(|us| histogram.record_us(us));
        let mut text = String::new();
        write_histogram(&mut text, "h", "core=\"0\"", &histogram);
        for line in [
            "h_bucket{core=\"0\",le=\"0.000004\"} 1",
            "h_bucket{core=\"0\",le=\"0.000008\"} 3",
            "h_bucket{core=\"0\",le=\"0.524288\"} 3",
            "h_bucket{core=\"0\",le=\"1.048576\"} 4",
            "h_bucket{core=\"0\",le=\"134.217728\"} 4",
            "h_bucket{core=\"0\",le=\"+Inf\"} 5",
            "h_sum{core=\"0\"} 4295.967306",
            "h_count{core=\"0\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert_eq!(text.lines().count(), 26 + 3);
    }

    #[test]
    fn each_level_and_each_source_has_its_own() {
        let mut core = CoreReport::default();
        core.latencies.post[Durability::Written as usize].record_us(1);
        core.latencies.page[PageSource::Log as usize].record_us(1);
        let mut text = String::new();
        render(&mut text, [(3, &core)].into_iter());
        for line in [
            "banter_post_seconds_count{core=\"3\",level=\"memory\"} 0",
            "banter_post_seconds_count{core=\"3\",level=\"written\"} 1",
            "banter_page_seconds_count{core=\"3\",source=\"memory\"} 0",
            "banter_page_seconds_count{core=\"3\",source=\"log\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
    }
}
