//! A sheet as a table for people at a terminal.

use super::{Curve, Figure, Sheet, Standing, Step, Unit};

/// Bytes of a mebibyte.
const MEBIBYTE: f64 = 1_048_576.0;

impl Sheet {
    /// The table.
    pub fn table(&self) -> String {
        let mut table = Table::default();
        let (job, wire, server) = (&self.name, &self.wire, &self.server);
        table.line("job", &format!("{job}, {wire} to {server}"));
        self.shape.iter().for_each(|sentence| table.line("", sentence));
        self.figures.iter().for_each(|figure| table.line(&figure.label, &figure.words()));
        table.steps(&self.steps);
        table.curves(&self.latencies);
        table.verdict(self);
        self.limited.iter().for_each(|reason| table.line("LIMITED", reason));
        self.cautions.iter().for_each(|caution| table.line("CAUTION", caution));
        table.0
    }
}

impl Figure {
    /// As people read it, with its unit.
    pub fn words(&self) -> String {
        match self.value {
            Some(value) => format!("{}{}", self.is.words(), self.unit.words(value)),
            None if self.is == Standing::Withheld => "withheld: the load generator was the bottleneck".to_owned(),
            None => "not measured".to_owned(),
        }
    }
}

impl Unit {
    /// A value as people read it.
    pub fn words(self, value: f64) -> String {
        match self {
            Unit::Count => format!("{value:.0}"),
            Unit::PerSecond => format!("{value:.0}/s"),
            Unit::Seconds => format!("{value:.3} s"),
            Unit::Microseconds if value.abs() >= 1000.0 => format!("{:.2} ms", value / 1e3),
            Unit::Microseconds => format!("{value:.3} us"),
            Unit::Bytes if value.abs() >= MEBIBYTE => format!("{:.1} MiB", value / MEBIBYTE),
            Unit::Bytes => format!("{value:.0} bytes"),
            Unit::BytesPerHour => format!("{:.2} MiB an hour", value / MEBIBYTE),
            Unit::Share => format!("{:.1} %", value * 100.0),
            Unit::Times => format!("{value:.2} x"),
        }
    }
}

/// Lines with their names in a column of their own.
#[derive(Default)]
struct Table(String);

impl Table {
    fn line(&mut self, name: &str, text: &str) {
        self.0.push_str(&format!("{name:<34}{text}\n"));
    }

    fn curves(&mut self, curves: &[Curve]) {
        if curves.is_empty() {
            return;
        }
        self.row("latency, us", ["p50", "p90", "p99", "p99.9", "max", "count"].map(String::from));
        for curve in curves {
            let Curve { p50, p90, p99, p999, max, .. } = *curve;
            let mut cells = [p50, p90, p99, p999, max, 0.0].map(|us| format!("{us:.1}"));
            cells[5] = curve.count.to_string();
            let name = format!("{}{}", if curve.is == Standing::Exact { "" } else { "<= " }, curve.label);
            self.row(&name, cells);
        }
    }

    fn row(&mut self, name: &str, cells: [String; 6]) {
        let cells: String = cells.iter().map(|cell| format!("{cell:>11}")).collect();
        self.line(name, &cells);
    }

    fn steps(&mut self, steps: &[Step]) {
        if steps.is_empty() {
            return;
        }
        self.row("posts/s offered", ["sent/s", "deliveries/s", "p50 us", "p99 us", "server", "own"].map(String::from));
        for step in steps {
            let share = |share: f64| format!("{:.0} %", share * 100.0);
            let server = step.server_cpu_share.map_or("-".into(), share);
            let figures = [step.posts_per_s, step.deliveries_per_s, step.p50_us, step.p99_us];
            let [sent, deliveries, p50, p99] = figures.map(|figure| format!("{figure:.0}"));
            let name = format!("{:.0}", step.offered_posts_per_s);
            self.row(&name, [sent, deliveries, p50, p99, server, share(step.own_cpu_share)]);
            step.broke.iter().chain(&step.limited).for_each(|text| self.line("", text));
        }
    }

    fn verdict(&mut self, sheet: &Sheet) {
        let verdict = &sheet.verification;
        let mut word = if verdict.verified { "verified" } else { "NOT VERIFIED" };
        for check in &verdict.checks {
            self.line(word, &format!("{} of {} {}", check.found, check.expected, check.what));
            word = "";
        }
        verdict.described.iter().for_each(|fault| {
            self.line(word, fault);
            word = "";
        });
        if !verdict.verified {
            self.line("", &format!("{:?}", verdict.broken));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sheet::{Check, Merging, Verdict};

    #[test]
    fn a_figure_says_its_unit_and_what_it_is_worth() {
        let figure = |value, unit, is| Figure { value, unit, is, merging: Merging::Sum, ..Figure::default() }.words();
        assert_eq!(figure(Some(1234.5), Unit::PerSecond, Standing::AtLeast), "at least 1234/s");
        assert_eq!(figure(Some(2_097_152.0), Unit::Bytes, Standing::Exact), "2.0 MiB");
        assert_eq!(figure(Some(1500.0), Unit::Microseconds, Standing::AtMost), "at most 1.50 ms");
        assert!(figure(None, Unit::Times, Standing::Withheld).starts_with("withheld: "));
        assert_eq!(figure(None, Unit::Times, Standing::Exact), "not measured");
    }

    #[test]
    fn the_table_says_whether_all_came_and_why_not_to_believe_it() {
        let checks = vec![Check { what: "deliveries".into(), expected: 9, found: 8 }];
        let described = vec!["member 3 missed one".into()];
        let verification = Verdict { checks, described, ..Verdict::default() };
        let limited = vec!["the load generator was late".into()];
        let table = Sheet { verification, limited, ..Sheet::default() }.table();
        for words in ["NOT VERIFIED", "8 of 9 deliveries", "member 3 missed one", "LIMITED", "was late"] {
            assert!(table.contains(words), "{words}: {table}");
        }
    }
}
