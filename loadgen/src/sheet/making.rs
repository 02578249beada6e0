//! Fills a sheet in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Check, Curve, Figure, Merging, SHEET_FORMAT, Sheet, Standing, Step, Unit, Verdict};
use crate::args::Target;
use crate::host::{Host, command_of};
use crate::load::Load;
use crate::measure::{AllLatencies, Latencies, Moment};
use crate::sampler::Sample;
use crate::verify::Verifier;

/// What becomes of a figure where this program was the bottleneck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It stands: it is of this program, or of what was done.
    Stands,
    /// The server's own is this or more.
    AtLeast,
    /// The server's own is this or less.
    AtMost,
    /// It would say nothing.
    Withheld,
}

/// A sheet that is being filled in.
#[derive(Clone, Debug)]
pub struct Maker {
    sheet: Sheet,
    /// The server has other parts of a mix to serve as well: what it uses is not for this one's deliveries alone.
    is_part: bool,
}

impl Maker {
    /// Of a run that is over now. `limited` is why its figures are not the server's alone.
    pub fn new(target: &Target, job: &str, question: &str, limited: Vec<String>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let words: Vec<String> = std::env::args().collect();
        let sheet = Sheet {
            sheet_format: SHEET_FORMAT,
            job: job.into(),
            name: target.name.clone().unwrap_or_else(|| job.into()),
            question: question.into(),
            command: words.join(" "),
            loadgen_version: env!("CARGO_PKG_VERSION").into(),
            made_at_unix_ms: now.as_millis() as u64,
            note: target.note.clone(),
            host: Host::here(),
            server: target.server.to_string(),
            server_command: target.pid.map(command_of),
            wire: target.wire.name().into(),
            processes: 1,
            limited,
            verification: Verdict { verified: true, ..Verdict::default() },
            ..Sheet::default()
        };
        Maker { sheet, is_part: target.name.is_some() }
    }

    /// What was run, one more sentence.
    pub fn shape(&mut self, sentence: String) {
        self.sheet.shape.push(sentence);
    }

    /// What a reader should know.
    pub fn caution(&mut self, text: String) {
        self.sheet.cautions.push(text);
    }

    /// One more figure.
    pub fn figure(&mut self, name: &str, label: &str, value: f64, unit: Unit, promise: Promise, merging: Merging) {
        let is = self.standing(promise);
        let value = (is != Standing::Withheld && value.is_finite()).then_some(value);
        self.sheet.figures.push(Figure { name: name.into(), label: label.into(), value, unit, is, merging });
    }

    fn standing(&self, promise: Promise) -> Standing {
        match promise {
            _ if self.sheet.limited.is_empty() => Standing::Exact,
            Promise::Stands => Standing::Exact,
            Promise::AtLeast => Standing::AtLeast,
            Promise::AtMost => Standing::AtMost,
            Promise::Withheld => Standing::Withheld,
        }
    }

    /// The latencies of one kind, if there are any: of the server where this program kept up, at most so otherwise.
    pub fn latencies(&mut self, name: &str, label: &str, latencies: &Latencies) {
        let is = self.standing(Promise::AtMost);
        self.curve(Curve::of(name, label, is, latencies));
    }

    /// How long this program itself took for something.
    pub fn own_latencies(&mut self, name: &str, label: &str, latencies: &Latencies) {
        self.curve(Curve::of(name, label, Standing::Exact, latencies));
    }

    fn curve(&mut self, curve: Curve) {
        if curve.count > 0 {
            self.sheet.latencies.push(curve);
        }
    }

    /// The latencies of a load; the names begin with `prefix`.
    pub fn all_latencies(&mut self, prefix: &str, label: &str, all: &AllLatencies) {
        let mut put = |name: &str, what: &str, latencies: &Latencies| {
            self.latencies(&format!("{prefix}{name}"), &format!("{label}{what}"), latencies);
        };
        put("delivered", "post to member", &all.delivered);
        put("acknowledged", "post to ack", &all.acknowledged);
        put("complete", "post to last member", &all.complete);
    }

    /// What happened in the measured time: rates, CPU, cautions.
    pub fn window(&mut self, window: &Moment) {
        self.sheet.window_s = window.at.as_secs_f64();
        let (seconds, totals) = (self.sheet.window_s.max(f64::MIN_POSITIVE), window.totals);
        let (deliveries, share) = (totals.deliveries as f64, |time: Duration| time.as_secs_f64() / seconds);
        let (per_s, stands) = (Unit::PerSecond, Promise::Stands);
        let rate = |count: u64| count as f64 / seconds;
        self.figure("posts_per_s", "posts", rate(totals.posts), per_s, Promise::AtLeast, Merging::Sum);
        self.figure("deliveries_per_s", "deliveries", deliveries / seconds, per_s, Promise::AtLeast, Merging::Sum);
        if let Some(cpu) = window.server_cpu {
            self.figure("server_cpu_share", "server CPU", share(cpu), Unit::Share, Promise::AtLeast, Merging::Most);
            if !self.is_part {
                let (us, label) = (cpu.as_secs_f64() * 1e6 / deliveries, "server CPU a delivery");
                self.figure("server_cpu_us_per_delivery", label, us, Unit::Microseconds, stands, Merging::Nothing);
            }
        }
        self.figure("own_cpu_share", "own CPU", share(window.own_cpu), Unit::Share, stands, Merging::Sum);
        if window.was_disturbed() {
            let (server, own) = (window.server_disturbed(), window.own_disturbed());
            let percent = |time: Option<Duration>| share(time.unwrap_or_default()) * 100.0;
            let (server, own) = (percent(server), percent(own));
            self.caution(format!(
                "other programs took the CPUs: the server's for {server:.0} % of the window, this one's for {own:.0} %"
            ));
        }
    }

    /// What happened over time.
    pub fn samples(&mut self, samples: &[Sample]) {
        self.sheet.samples.extend_from_slice(samples);
    }

    /// The steps of a search.
    pub fn steps(&mut self, steps: &[Step]) {
        self.sheet.steps.extend_from_slice(steps);
    }

    /// What was due, and what came: the run is verified only where they are the same.
    pub fn check(&mut self, what: &str, expected: u64, found: u64) {
        self.sheet.verification.verified &= expected == found;
        self.sheet.verification.checks.push(Check { what: what.into(), expected, found });
    }

    /// What a verifier found.
    pub fn verifier(&mut self, whose: &str, verifier: &Verifier) {
        let verdict = &mut self.sheet.verification;
        verdict.verified &= verifier.broken.is_nothing();
        verdict.broken.add(&verifier.broken);
        verdict.described.extend(verifier.described.iter().map(|text| format!("{whose}: {text}")));
    }

    /// What a load was owed, and what its verifier found. The load is finished.
    pub fn load(&mut self, whose: &str, load: &Load) {
        let what = format!("deliveries to {whose}, once and in order");
        self.check(&what, load.deliveries_expected(), load.totals.deliveries);
        self.verifier(whose, &load.verifier);
    }

    /// Something else was not as it must be, and was told.
    pub fn unverified(&mut self) {
        self.sheet.verification.verified = false;
    }

    /// Something that no verifier tells.
    pub fn fault(&mut self, text: String) {
        self.sheet.verification.verified = false;
        self.sheet.verification.described.push(text);
    }

    /// The sheet.
    pub fn finish(self) -> Sheet {
        self.sheet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker(limited: Vec<String>) -> Maker {
        Maker::new(&Target::of("127.0.0.1:9".parse().unwrap()), "fanout", "How?", limited)
    }

    fn window() -> Moment {
        let mut window = Moment { at: Duration::from_secs(2), own_cpu: Duration::from_secs(1), ..Moment::default() };
        window.totals.deliveries = 200;
        window.server_cpu = Some(Duration::from_millis(500));
        window
    }

    #[test]
    fn a_figure_of_a_run_that_was_held_back_is_told_as_such_or_not_at_all() {
        let mut free = maker(Vec::new());
        free.window(&window());
        free.figure("x", "x", 3.0, Unit::Times, Promise::Withheld, Merging::Nothing);
        let free = free.finish();
        assert!(free.figures.iter().all(|figure| figure.is == Standing::Exact && figure.value.is_some()));
        assert_eq!(free.figure("deliveries_per_s").unwrap().value, Some(100.0));

        let mut held = maker(vec!["too slow".into()]);
        held.window(&window());
        held.figure("x", "x", 3.0, Unit::Times, Promise::Withheld, Merging::Nothing);
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_millis(1));
        held.latencies("delivered", "post to member", &latencies);
        held.own_latencies("late", "own lateness", &latencies);
        let held = held.finish();
        let is = |name: &str| held.figure(name).unwrap().is;
        assert_eq!((is("deliveries_per_s"), is("own_cpu_share")), (Standing::AtLeast, Standing::Exact));
        assert_eq!(held.figure("x").unwrap().value, None);
        assert_eq!((held.latencies[0].is, held.latencies[1].is), (Standing::AtMost, Standing::Exact));
    }

    #[test]
    fn what_came_and_was_not_due_fails_the_run_as_what_was_due_and_did_not_come() {
        for (expected, found) in [(1, 0), (0, 1)] {
            let mut maker = maker(Vec::new());
            maker.check("messages", expected, found);
            assert!(!maker.finish().verification.verified);
        }
        let mut maker = maker(Vec::new());
        maker.check("messages", 1, 1);
        assert!(maker.sheet.verification.verified);
        maker.fault("something".into());
        assert!(!maker.finish().verification.verified);
    }
}
