//! The figures of a resume storm: what the live load felt of it, how long it took, what was checked.

use std::time::Duration;

use serde::Serialize;

use crate::args::{By, Resume, Wire};
use crate::load::Load;
use crate::measure::{AllLatencies, Latencies, Moment};
use crate::report::{Quantiles, Table, proof, ratio};
use crate::sheet::{Maker, Merging, Promise, Sheet, Unit};
use crate::standing;
use crate::storm::Storm;
use crate::verify::Broken;

/// What the report is made of.
pub struct ResumeOutcome<'a> {
    /// What was asked for.
    pub job: &'a Resume,
    /// How long the filling took.
    pub fill: Duration,
    /// The live load's latencies before the storm.
    pub quiet: &'a AllLatencies,
    /// The live load, with its latencies during the storm.
    pub live: &'a Load,
    /// The storm.
    pub storm: &'a Storm<'a>,
    /// What happened while it lasted.
    pub window: Moment,
    /// How long each look away from the live load's sockets was.
    pub looks_away: &'a Latencies,
    /// Whether all checks held.
    pub verified: bool,
}

/// The figures of a storm. Names end in their unit.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the figures' own")]
pub struct ResumeReport {
    pub job: &'static str,
    pub server: String,
    pub wire: Wire,
    pub has_tokens: bool,
    pub users: Option<u32>,
    pub clients: u32,
    pub rooms: u32,
    pub messages: u64,
    pub payload_bytes: usize,
    pub keyed: bool,
    pub by: By,
    pub live_rooms: u32,
    pub live_members: u32,
    pub live_rate_posts_per_s: u64,
    pub cpu: Option<usize>,
    pub server_pid: Option<u32>,
    pub fill_s: f64,
    pub filled_posts_per_s: f64,
    pub storm_s: f64,
    pub deliveries: u64,
    pub deliveries_per_s: f64,
    pub server_cpu_s: Option<f64>,
    pub server_cpu_share: Option<f64>,
    pub server_cpu_us_per_delivery: Option<f64>,
    pub own_cpu_share: f64,
    pub server_disturbed_share: Option<f64>,
    pub own_disturbed_share: Option<f64>,
    pub was_own_bottleneck: bool,
    pub was_disturbed: bool,
    pub resumed_us: Quantiles,
    pub live_before_us: LiveQuantiles,
    pub live_during_us: LiveQuantiles,
    pub delivered_p50_ratio: f64,
    pub delivered_p99_ratio: f64,
    pub acknowledged_p50_ratio: f64,
    pub acknowledged_p99_ratio: f64,
    pub own_look_away_us: Quantiles,
    pub verification: ResumeVerification,
}

/// Latencies of the live load in microseconds, from the intended time of the post.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "as in AllLatencies")]
pub struct LiveQuantiles {
    pub acknowledged: Quantiles,
    pub delivered: Quantiles,
}

impl LiveQuantiles {
    fn of(latencies: &AllLatencies) -> Self {
        LiveQuantiles {
            acknowledged: Quantiles::of(&latencies.acknowledged),
            delivered: Quantiles::of(&latencies.delivered),
        }
    }
}

/// What was checked of those who came back, and of the live members from the start to the end.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ResumeVerification {
    pub verified: bool,
    pub clients: u32,
    pub clients_done: usize,
    pub deliveries_expected: u64,
    pub deliveries: u64,
    pub broken: Broken,
    pub live_deliveries_expected: u64,
    pub live_deliveries: u64,
    pub live_broken: Broken,
    pub described: Vec<String>,
}

impl ResumeVerification {
    fn of(outcome: &ResumeOutcome<'_>) -> Self {
        let ResumeOutcome { job, live, storm, .. } = outcome;
        let described = storm.verifier.described.iter();
        let live_described = live.verifier.described.iter().map(|text| format!("live: {text}"));
        ResumeVerification {
            verified: outcome.verified,
            clients: job.clients,
            clients_done: storm.done(),
            deliveries_expected: storm.deliveries_expected(),
            deliveries: storm.deliveries,
            broken: storm.verifier.broken.clone(),
            live_deliveries_expected: live.deliveries_expected(),
            live_deliveries: live.totals.deliveries,
            live_broken: live.verifier.broken.clone(),
            described: described.cloned().chain(live_described).collect(),
        }
    }
}

/// The same as a sheet.
pub fn sheet(outcome: &ResumeOutcome<'_>) -> Sheet {
    let ResumeOutcome { job, quiet, live, storm, window, looks_away, .. } = *outcome;
    let limited = standing::limits_of(&window, &live.latencies, Some(looks_away));
    let question = "How long do many clients take to come back to what they missed, and what do the others feel of it?";
    let mut maker = Maker::new(&job.target, "resume", question, limited);
    let Resume { clients, rooms, messages, live_rooms, live_members, live_rate, .. } = job;
    maker.shape(format!("{clients} clients come back to {rooms} rooms, each has missed {messages} messages"));
    maker.shape(format!("live: {live_rooms} rooms x {live_members} members, {live_rate} posts/s by the clock"));
    maker.window(&window);
    let seconds = window.at.as_secs_f64();
    let (promise, sum) = (Promise::AtLeast, Merging::Sum);
    let replayed_per_s = ratio(storm.deliveries as f64, seconds);
    maker.figure("storm_s", "storm", seconds, Unit::Seconds, Promise::AtMost, Merging::Most);
    maker.figure("replayed_per_s", "messages made up for", replayed_per_s, Unit::PerSecond, promise, sum);
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let now = ratio(live.latencies.delivered.quantile_us(share), quiet.delivered.quantile_us(share));
        let (figure, label) = (format!("delivered_{name}_ratio"), format!("live {name}, during / before"));
        maker.figure(&figure, &label, now, Unit::Times, Promise::Withheld, Merging::Nothing);
    }
    maker.latencies("resumed", "storm to all missed read", &storm.resumed);
    maker.all_latencies("before_", "before: ", quiet);
    maker.all_latencies("during_", "during: ", &live.latencies);
    maker.check("messages that were missed, once and in order", storm.deliveries_expected(), storm.deliveries);
    maker.verifier("clients", &storm.verifier);
    maker.load("live members", live);
    if !outcome.verified {
        maker.unverified();
    }
    maker.finish()
}

impl ResumeReport {
    /// Works the figures out.
    pub fn new(outcome: &ResumeOutcome<'_>) -> Self {
        let ResumeOutcome { job, fill, quiet, live, storm, window, looks_away, .. } = *outcome;
        let (seconds, deliveries) = (window.at.as_secs_f64(), storm.deliveries as f64);
        let server_cpu_s = window.server_cpu.map(|cpu| cpu.as_secs_f64());
        let share = |time: Duration| ratio(time.as_secs_f64(), seconds);
        let (before, during) = (LiveQuantiles::of(quiet), LiveQuantiles::of(&live.latencies));
        ResumeReport {
            job: "resume",
            server: job.target.server.to_string(),
            wire: job.target.wire,
            has_tokens: job.target.secret_file.is_some(),
            users: job.target.users,
            clients: job.clients,
            rooms: job.rooms,
            messages: job.messages,
            payload_bytes: job.payload,
            keyed: job.target.keyed,
            by: job.by,
            live_rooms: job.live_rooms,
            live_members: job.live_members,
            live_rate_posts_per_s: job.live_rate,
            cpu: job.target.cpu,
            server_pid: job.target.pid,
            fill_s: fill.as_secs_f64(),
            filled_posts_per_s: ratio(job.messages as f64 * f64::from(job.rooms), fill.as_secs_f64()),
            storm_s: seconds,
            deliveries: storm.deliveries,
            deliveries_per_s: ratio(deliveries, seconds),
            server_cpu_s,
            server_cpu_share: window.server_cpu.map(share),
            server_cpu_us_per_delivery: server_cpu_s.map(|cpu| ratio(cpu * 1e6, deliveries)),
            own_cpu_share: share(window.own_cpu),
            server_disturbed_share: window.server_disturbed().map(share),
            own_disturbed_share: window.own_disturbed().map(share),
            was_own_bottleneck: window.was_own_bottleneck(),
            was_disturbed: window.was_disturbed(),
            resumed_us: Quantiles::of(&storm.resumed),
            delivered_p50_ratio: ratio(during.delivered.p50, before.delivered.p50),
            delivered_p99_ratio: ratio(during.delivered.p99, before.delivered.p99),
            acknowledged_p50_ratio: ratio(during.acknowledged.p50, before.acknowledged.p50),
            acknowledged_p99_ratio: ratio(during.acknowledged.p99, before.acknowledged.p99),
            live_before_us: before,
            live_during_us: during,
            own_look_away_us: Quantiles::of(looks_away),
            verification: ResumeVerification::of(outcome),
        }
    }

    /// As a table, with why its figures are not the server's alone.
    pub fn table(&self, limited: &[String]) -> String {
        let mut table = self.table_of_figures(!limited.is_empty());
        limited.iter().for_each(|reason| table.line("LIMITED", reason.clone()));
        table.0
    }

    fn table_of_figures(&self, is_limited: bool) -> Table {
        let mut table = Table::default();
        self.say_what(&mut table);
        self.say_how_long(&mut table);
        table.heading("latency, us", &["p50", "p90", "p99", "p99.9", "max", "count"]);
        let at_most = if is_limited { "<= " } else { "" };
        let mut quantiles = |name: &str, found| table.quantiles(&format!("{at_most}{name}"), found);
        quantiles("member, before", &self.live_before_us.delivered);
        quantiles("member, during", &self.live_during_us.delivered);
        quantiles("ack, before", &self.live_before_us.acknowledged);
        quantiles("ack, during", &self.live_during_us.acknowledged);
        quantiles("storm to resumed", &self.resumed_us);
        table.quantiles("own looks away", &self.own_look_away_us);
        let measured = format!(
            "p50 {:.2}, p99 {:.2} to members; p50 {:.2}, p99 {:.2} of acknowledgements",
            self.delivered_p50_ratio,
            self.delivered_p99_ratio,
            self.acknowledged_p50_ratio,
            self.acknowledged_p99_ratio
        );
        let withheld = "withheld: the load generator was the bottleneck".to_owned();
        table.line("during / before", if is_limited { withheld } else { measured });
        self.say_verified(&mut table);
        table
    }

    fn say_what(&self, table: &mut Table) {
        let kind = if self.keyed { "keyed messages" } else { "messages" };
        let Self { clients, rooms, messages, payload_bytes, live_rooms, live_members, .. } = self;
        table.line("job", format!("resume, {} to {}{}", self.wire.name(), self.server, proof(self.has_tokens)));
        table.line(
            "",
            format!("{clients} clients of {rooms} rooms, each {messages} {kind} of {payload_bytes} bytes behind"),
        );
        let rate = self.live_rate_posts_per_s;
        table.line("", format!("live: {live_rooms} rooms x {live_members} members, {rate} posts/s in all"));
        table.line("filled", format!("in {:.2} s ({:.0} posts/s)", self.fill_s, self.filled_posts_per_s));
    }

    fn say_how_long(&self, table: &mut Table) {
        let Self { storm_s, deliveries, deliveries_per_s, .. } = self;
        table.line("storm", format!("{storm_s:.2} s, {deliveries} messages ({deliveries_per_s:.0}/s)"));
        if let (Some(us), Some(share)) = (self.server_cpu_us_per_delivery, self.server_cpu_share) {
            let share = share * 100.0;
            table.line("server CPU", format!("{us:.3} us a message of the storm, {share:.1} % of a core"));
        }
        table.line("own CPU", format!("{:.1} % of a core", self.own_cpu_share * 100.0));
    }

    fn say_verified(&self, table: &mut Table) {
        let ResumeVerification { verified, clients, clients_done, deliveries, deliveries_expected, .. } =
            self.verification;
        table.line(
            if verified { "verified" } else { "NOT VERIFIED" },
            format!(
                "{clients_done} of {clients} clients, {deliveries} of {deliveries_expected} messages, once and in order"
            ),
        );
        let ResumeVerification { live_deliveries, live_deliveries_expected, .. } = self.verification;
        table.line("", format!("live: {live_deliveries} of {live_deliveries_expected} deliveries, once and in order"));
        self.verification.described.iter().for_each(|fault| table.line("", fault.clone()));
        if self.was_disturbed {
            table.line("CAUTION", "other programs took more than 5 % of the CPUs while the storm lasted".into());
        }
    }
}
