//! Adds the sheets of several processes, or machines, up to one: histograms and rates add, verdicts are all or nothing.

use super::{Curve, Figure, Merging, Sheet, Standing};
use crate::measure::Latencies;
use crate::sampler::Sample;

/// The figure that follows from two others.
const CPU_A_DELIVERY: &str = "server_cpu_us_per_delivery";

/// Why sheets do not add up.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant says in its message what it means")]
pub enum MergeFault {
    #[error("there is nothing to merge")]
    Nothing,
    #[error("a run of {one} and one of {other} do not add up: merge runs of one scenario")]
    OtherJob { one: String, other: String },
    #[error("the histogram of {curve} cannot be read: {why}")]
    Histogram { curve: String, why: String },
}

/// The sum.
///
/// # Errors
/// When they are of different scenarios, or a histogram cannot be read.
pub fn merge(sheets: &[Sheet]) -> Result<Sheet, MergeFault> {
    let (first, rest) = sheets.split_first().ok_or(MergeFault::Nothing)?;
    if rest.is_empty() {
        return Ok(first.clone());
    }
    let mut sum = first.clone();
    sum.figures.retain(|figure| figure.merging != Merging::Nothing);
    for sheet in rest {
        add(&mut sum, sheet)?;
    }
    sum.steps.clear();
    sum.samples = add_samples(sheets);
    // Where one did not tell it, the server had others to serve as well.
    if sheets.iter().all(|sheet| sheet.figure(CPU_A_DELIVERY).is_some()) {
        derive(&mut sum);
    }
    Ok(sum)
}

fn add(sum: &mut Sheet, sheet: &Sheet) -> Result<(), MergeFault> {
    if sum.job != sheet.job {
        return Err(MergeFault::OtherJob { one: sum.job.clone(), other: sheet.job.clone() });
    }
    sum.processes += sheet.processes;
    sum.window_s = sum.window_s.max(sheet.window_s);
    append_new(&mut sum.shape, &sheet.shape);
    append_new(&mut sum.limited, &sheet.limited);
    append_new(&mut sum.cautions, &sheet.cautions);
    if sum.host != sheet.host {
        append_new(&mut sum.cautions, &[format!("a part of the load ran on {}", sheet.host.describe())]);
    }
    add_figures(&mut sum.figures, &sheet.figures);
    for curve in &sheet.latencies {
        add_curve(&mut sum.latencies, curve)?;
    }
    let (verdict, other) = (&mut sum.verification, &sheet.verification);
    verdict.verified &= other.verified;
    verdict.broken.add(&other.broken);
    append_new(&mut verdict.described, &other.described);
    for check in &other.checks {
        match verdict.checks.iter_mut().find(|found| found.what == check.what) {
            Some(found) => {
                found.expected += check.expected;
                found.found += check.found;
            }
            None => verdict.checks.push(check.clone()),
        }
    }
    Ok(())
}

fn append_new(to: &mut Vec<String>, from: &[String]) {
    for text in from {
        if !to.contains(text) {
            to.push(text.clone());
        }
    }
}

/// A figure that one of them does not have is of none.
fn add_figures(to: &mut Vec<Figure>, from: &[Figure]) {
    to.retain_mut(|figure| {
        let Some(other) = from.iter().find(|other| other.name == figure.name) else { return false };
        figure.value = figure.value.zip(other.value).map(|(one, other)| match figure.merging {
            Merging::Sum => one + other,
            Merging::Most | Merging::Nothing => one.max(other),
        });
        figure.is = weaker(figure.is, other.is);
        true
    });
}

fn weaker(one: Standing, other: Standing) -> Standing {
    match (one, other) {
        (Standing::Withheld, _) | (_, Standing::Withheld) => Standing::Withheld,
        (Standing::Exact, other) => other,
        (one, _) => one,
    }
}

fn add_curve(to: &mut Vec<Curve>, curve: &Curve) -> Result<(), MergeFault> {
    let Some(place) = to.iter_mut().find(|found| found.name == curve.name) else {
        to.push(curve.clone());
        return Ok(());
    };
    let mut sum = decode(place)?;
    sum.add(&decode(curve)?);
    *place = Curve::of(&curve.name, &curve.label, weaker(place.is, curve.is), &sum);
    Ok(())
}

/// The histogram of a curve.
///
/// # Errors
/// When it is none.
pub fn decode(curve: &Curve) -> Result<Latencies, MergeFault> {
    Latencies::decode(&curve.histogram).map_err(|why| MergeFault::Histogram { curve: curve.name.clone(), why })
}

/// Interval by interval from each start; they end with the shortest. Quantiles do not add up, so the worst stands.
fn add_samples(sheets: &[Sheet]) -> Vec<Sample> {
    let shortest = sheets.iter().map(|sheet| sheet.samples.len()).min().unwrap_or(0);
    (0..shortest)
        .map(|index| sheets.iter().map(|sheet| sheet.samples[index]).reduce(add_sample).unwrap_or_default())
        .collect()
}

fn add_sample(one: Sample, other: Sample) -> Sample {
    let most = |one: Option<f64>, other: Option<f64>| one.into_iter().chain(other).reduce(f64::max);
    Sample {
        at_s: one.at_s.max(other.at_s),
        posts_per_s: one.posts_per_s + other.posts_per_s,
        deliveries_per_s: one.deliveries_per_s + other.deliveries_per_s,
        p50_us: most(one.p50_us, other.p50_us),
        p99_us: most(one.p99_us, other.p99_us),
        server_cpu_share: most(one.server_cpu_share, other.server_cpu_share),
        server_resident_bytes: one.server_resident_bytes.max(other.server_resident_bytes),
        own_cpu_share: one.own_cpu_share + other.own_cpu_share,
    }
}

/// What follows from figures that were added.
fn derive(sum: &mut Sheet) {
    let value = |name: &str| sum.figure(name).and_then(|figure| figure.value);
    if let Some((share, deliveries_per_s)) = value("server_cpu_share").zip(value("deliveries_per_s")) {
        sum.figures.push(Figure {
            name: CPU_A_DELIVERY.into(),
            label: "server CPU a delivery".into(),
            value: Some(share * 1e6 / deliveries_per_s).filter(|value| value.is_finite()),
            unit: super::Unit::Microseconds,
            is: Standing::Exact,
            merging: Merging::Nothing,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::args::Target;
    use crate::sheet::{Maker, Promise, Unit};

    fn sheet(job: &str, rate: f64, us: u64, found: u64) -> Sheet {
        let mut maker = Maker::new(&Target::of("127.0.0.1:9".parse().unwrap()), job, "How?", Vec::new());
        maker.figure("deliveries_per_s", "deliveries", rate, Unit::PerSecond, Promise::AtLeast, Merging::Sum);
        maker.figure("server_cpu_share", "server CPU", rate / 1000.0, Unit::Share, Promise::AtLeast, Merging::Most);
        maker.figure(CPU_A_DELIVERY, "CPU", 1000.0, Unit::Microseconds, Promise::Stands, Merging::Nothing);
        maker.figure("p99_ratio", "ratio", 2.0, Unit::Times, Promise::AtLeast, Merging::Nothing);
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_micros(us));
        maker.latencies("delivered", "post to member", &latencies);
        maker.check("deliveries", 5, found);
        maker.samples(&[Sample { deliveries_per_s: rate, ..Sample::default() }]);
        maker.finish()
    }

    #[test]
    fn rates_and_histograms_add_and_one_fault_fails_all() {
        let merged = merge(&[sheet("fanout", 100.0, 10, 5), sheet("fanout", 200.0, 1000, 5)]).unwrap();
        let value = |name: &str| merged.figure(name).and_then(|figure| figure.value);
        assert_eq!((value("deliveries_per_s"), value("server_cpu_share")), (Some(300.0), Some(0.2)));
        assert_eq!(value("p99_ratio"), None);
        assert!((value("server_cpu_us_per_delivery").unwrap() - 666.67).abs() < 0.1);
        assert_eq!((merged.latencies[0].count, merged.processes), (2, 2));
        assert!(merged.latencies[0].max > 999.0 && merged.latencies[0].p50 < 11.0);
        assert_eq!((merged.verification.checks[0].expected, merged.verification.verified), (10, true));
        assert_eq!(merged.samples[0].deliveries_per_s, 300.0);
        let failed = merge(&[sheet("fanout", 1.0, 1, 5), sheet("fanout", 1.0, 1, 4)]).unwrap();
        assert!(!failed.verification.verified);
    }

    #[test]
    fn one_alone_stays_as_it_is_and_a_server_with_others_to_serve_has_no_cost_a_delivery() {
        let one = sheet("fanout", 100.0, 10, 5);
        assert_eq!(merge(std::slice::from_ref(&one)), Ok(one.clone()));
        let mut part = one.clone();
        part.figures.retain(|figure| figure.name != CPU_A_DELIVERY);
        assert_eq!(merge(&[one, part]).unwrap().figure(CPU_A_DELIVERY), None);
    }

    #[test]
    fn what_one_withholds_the_sum_withholds() {
        let mut held = sheet("fanout", 100.0, 10, 5);
        (held.figures[0].value, held.figures[0].is) = (None, Standing::Withheld);
        let merged = merge(&[sheet("fanout", 100.0, 10, 5), held]).unwrap();
        assert_eq!((merged.figures[0].value, merged.figures[0].is), (None, Standing::Withheld));
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        assert_eq!(merge(&[]), Err(MergeFault::Nothing));
        assert!(matches!(
            merge(&[sheet("fanout", 1.0, 1, 5), sheet("giant", 1.0, 1, 5)]),
            Err(MergeFault::OtherJob { .. })
        ));
        let mut bad = sheet("fanout", 1.0, 1, 5);
        bad.latencies[0].histogram = "?".into();
        assert!(matches!(merge(&[sheet("fanout", 1.0, 1, 5), bad]), Err(MergeFault::Histogram { .. })));
    }
}
