//! The charts of a sheet: latencies by percentile, the search for the knee, and what happened over time.

use super::axis::{Axis, Scale};
use super::chart::{Chart, Line};
use crate::sampler::Sample;
use crate::sheet::merging::decode;
use crate::sheet::{Curve, Sheet, Standing};

/// All charts that the sheet has something for.
pub(super) fn of(sheet: &Sheet) -> String {
    [latencies(sheet), steps(sheet), rates(sheet), delays(sheet), cpu(sheet), memory(sheet)].concat()
}

/// The chart has what tells most; the table below it has all.
fn is_shown(curve: &Curve) -> bool {
    !["own_late", "_acknowledged", "_complete"].iter().any(|left_out| curve.name.ends_with(left_out))
}

fn latencies(sheet: &Sheet) -> String {
    let lines: Vec<Line> = sheet.latencies.iter().filter(|curve| is_shown(curve)).map(latency_line).collect();
    let points = || lines.iter().flat_map(|line| &line.points);
    let across = Axis::of(Scale::Percentiles, points().map(|point| point.0));
    let up = Axis::of(Scale::Logarithmic, points().map(|point| point.1));
    let chart = Chart {
        title: "Latency by percentile",
        reading: "At 99 % on the lower axis, the height is the time below which 99 of 100 stay. Each step to the right is \
                  ten times as rare. Both axes are logarithmic; a curve that stays flat to the right has no bad surprises.",
        across: ("share of all that stay below", across),
        up: ("ms", up),
        lines,
    };
    chart.draw() + &quantiles(&sheet.latencies)
}

fn latency_line(curve: &Curve) -> Line {
    let points = decode(curve).map(|latencies| latencies.curve_us()).unwrap_or_default();
    // The last is of all, which has no place on the axis: it is drawn where one of so many lies.
    let rarest = 1.0 - 1.0 / curve.count.max(2) as f64;
    let points = points.into_iter().map(|(share, us)| (share.min(rarest), (us / 1e3).max(1e-6))).collect();
    Line { name: name_of(curve), points, is_marked: false }
}

fn name_of(curve: &Curve) -> String {
    if curve.is == Standing::Exact { curve.label.clone() } else { format!("{} (at most)", curve.label) }
}

/// The same in numbers.
fn quantiles(curves: &[Curve]) -> String {
    if curves.is_empty() {
        return String::new();
    }
    let row = |curve: &Curve| {
        let Curve { p50, p90, p99, p999, max, count, .. } = *curve;
        let cells: String = [p50, p90, p99, p999, max].iter().map(|us| format!("<td>{:.3}</td>", us / 1e3)).collect();
        format!("<tr><th>{}</th>{cells}<td>{count}</td></tr>", super::escape(&name_of(curve)))
    };
    let rows: String = curves.iter().map(row).collect();
    let head =
        ["latency, ms", "p50", "p90", "p99", "p99.9", "max", "count"].map(|name| format!("<th>{name}</th>")).concat();
    format!("<div class=\"wide\"><table class=\"quantiles\"><thead><tr>{head}</tr></thead>{rows}</table></div>")
}

fn steps(sheet: &Sheet) -> String {
    let mut steps = sheet.steps.clone();
    steps.sort_by(|one, other| one.offered_posts_per_s.total_cmp(&other.offered_posts_per_s));
    // A step of which nothing measured arrived has no latency.
    steps.retain(|step| step.p99_us > 0.0);
    let line = |name: &str, of: fn(&crate::sheet::Step) -> f64| Line {
        name: name.into(),
        points: steps.iter().map(|step| (step.offered_posts_per_s, of(step) / 1e3)).collect(),
        is_marked: true,
    };
    let lines = vec![line("p99", |step| step.p99_us), line("p50", |step| step.p50_us)];
    let rates = || steps.iter().map(|step| step.offered_posts_per_s);
    let heights = lines.iter().flat_map(|line| &line.points).map(|point| point.1);
    let up = Axis::of(Scale::Logarithmic, heights);
    let chart = Chart {
        title: "Latency against the offered rate",
        reading: "Each point is one step of the search, on the same connections. Where the curve turns upwards the server \
                  is saturated: what is offered beyond that waits in queues.",
        across: ("posts/s offered", Axis::of(Scale::Logarithmic, rates())),
        up: ("ms", up),
        lines,
    };
    chart.draw()
}

fn over_time(sheet: &Sheet, title: &str, reading: &str, unit: &str, scale: Scale, lines: Vec<Line>) -> String {
    let lines: Vec<Line> = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
    let last = sheet.samples.last().map_or(1.0, |sample| sample.at_s);
    let up = Axis::of(scale, lines.iter().flat_map(|line| &line.points).map(|point| point.1));
    Chart { title, reading, across: ("seconds from the start", Axis::between(0.0, last)), up: (unit, up), lines }.draw()
}

fn line_of(sheet: &Sheet, name: &str, of: impl Fn(&Sample) -> Option<f64>) -> Line {
    let point = |sample: &Sample| Some((sample.at_s, of(sample)?));
    Line { name: name.into(), points: sheet.samples.iter().filter_map(point).collect(), is_marked: false }
}

fn rates(sheet: &Sheet) -> String {
    let lines = vec![
        line_of(sheet, "deliveries/s", |sample| Some(sample.deliveries_per_s)),
        line_of(sheet, "posts/s", |sample| Some(sample.posts_per_s)),
    ];
    let reading = "Messages that reached a member, and messages that were posted, interval by interval.";
    over_time(sheet, "Throughput", reading, "a second", Scale::Linear, lines)
}

fn delays(sheet: &Sheet) -> String {
    let lines = vec![
        line_of(sheet, "p99", |sample| sample.p99_us.map(|us| us / 1e3)),
        line_of(sheet, "p50", |sample| sample.p50_us.map(|us| us / 1e3)),
    ];
    let reading =
        "From the intended time of a post to a member, of what arrived in each interval; gaps were not measured.";
    over_time(sheet, "Latency over time", reading, "ms", Scale::Logarithmic, lines)
}

fn cpu(sheet: &Sheet) -> String {
    let lines = vec![
        line_of(sheet, "server", |sample| sample.server_cpu_share.map(|share| share * 100.0)),
        line_of(sheet, "load generator", |sample| Some(sample.own_cpu_share * 100.0)),
    ];
    let reading = "100 % is one core. Where the load generator is full, the figures are its own and not the server's.";
    over_time(sheet, "CPU", reading, "% of a core", Scale::Linear, lines)
}

fn memory(sheet: &Sheet) -> String {
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let line = line_of(sheet, "server, resident", |sample| sample.server_resident_bytes.map(mebibytes));
    over_time(
        sheet,
        "Memory",
        "What of the server is resident at the end of each interval.",
        "MiB",
        Scale::Linear,
        vec![line],
    )
}
