//! The figures of a run: one structure, printed as JSON for machines or as a table for people.

use std::time::Duration;

use serde::Serialize;

use crate::args::{Complete, Idle, Pace, Plan, Target, Wire};
use crate::fanout::describe;
use crate::load::Load;
use crate::measure::{Latencies, Moment};
use crate::process::{Growth, Memory};
use crate::sheet::{Maker, Merging, Promise, Sheet, Unit};
use crate::verify::Broken;

/// What a report is made of.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The server.
    pub target: &'a Target,
    /// What was asked for.
    pub plan: &'a Plan,
    /// How long opening took.
    pub setup: Duration,
    /// What happened in the measured window.
    pub window: Moment,
    /// What was counted and checked.
    pub load: &'a Load,
    /// Whether all checks held.
    pub verified: bool,
}

/// How a job's line says that its connections prove who they are.
pub(crate) fn proof(has_tokens: bool) -> &'static str {
    if has_tokens { ", with tokens" } else { "" }
}

/// The figures of a fan-out. Names end in their unit.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the figures' own")]
pub struct FanoutReport {
    pub job: &'static str,
    pub server: String,
    pub wire: Wire,
    pub has_tokens: bool,
    pub users: Option<u32>,
    pub rooms: u32,
    pub members: u32,
    pub publishers: u32,
    pub payload_bytes: usize,
    pub outstanding: Option<u32>,
    pub complete: Option<Complete>,
    pub rate_posts_per_s: Option<u64>,
    pub warmup_s: f64,
    pub cpu: Option<usize>,
    pub server_pid: Option<u32>,
    pub setup_s: f64,
    pub window_s: f64,
    pub posts: u64,
    pub posts_per_s: f64,
    pub acknowledged: u64,
    pub deliveries: u64,
    pub deliveries_per_s: f64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub bytes_in_per_s: f64,
    pub reads: u64,
    pub frames: u64,
    pub frames_per_read: f64,
    pub server_cpu_s: Option<f64>,
    pub server_cpu_share: Option<f64>,
    pub server_cpu_us_per_delivery: Option<f64>,
    pub deliveries_per_server_cpu_s: Option<f64>,
    pub server_softirq_cpu_us_per_delivery: Option<f64>,
    pub server_disturbed_share: Option<f64>,
    pub own_cpu_s: f64,
    pub own_cpu_share: f64,
    pub own_cpu_us_per_delivery: f64,
    pub own_disturbed_share: Option<f64>,
    pub was_own_bottleneck: bool,
    pub was_disturbed: bool,
    pub latency_us: LatencyReport,
    pub verification: Verification,
}

/// Latencies in microseconds, from the intended time of the post.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "as in AllLatencies")]
pub struct LatencyReport {
    pub acknowledged: Quantiles,
    pub delivered: Quantiles,
    pub echoed: Quantiles,
    pub complete: Quantiles,
}

/// One histogram in a few numbers.
#[derive(Clone, Debug, Serialize)]
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

impl Quantiles {
    /// Of a histogram.
    pub fn of(latencies: &Latencies) -> Self {
        let at = |share| latencies.quantile_us(share);
        Quantiles {
            count: latencies.len(),
            mean: latencies.mean_us(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: latencies.max_us(),
        }
    }
}

/// What was checked over the whole run, warm-up and drain included.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Verification {
    pub verified: bool,
    pub members: u64,
    pub posts: u64,
    pub acknowledged: u64,
    pub deliveries_expected: u64,
    pub deliveries: u64,
    pub broken: Broken,
    pub described: Vec<String>,
}

pub(crate) fn ratio(dividend: f64, divisor: f64) -> f64 {
    if divisor > 0.0 { dividend / divisor } else { 0.0 }
}

impl FanoutReport {
    /// Works the figures out.
    pub fn new(outcome: Outcome<'_>) -> Self {
        let Outcome { target, plan, setup, window, load, verified } = outcome;
        let (seconds, totals) = (window.at.as_secs_f64(), window.totals);
        let deliveries = totals.deliveries as f64;
        let server_cpu_s = window.server_cpu.map(|cpu| cpu.as_secs_f64());
        let own_cpu_s = window.own_cpu.as_secs_f64();
        let share_of_window = |time: Duration| ratio(time.as_secs_f64(), seconds);
        let (outstanding, complete, rate_posts_per_s) = match plan.pace {
            Pace::Closed { outstanding, complete } => (Some(outstanding), Some(complete), None),
            Pace::Open { posts_per_s } => (None, None, Some(posts_per_s)),
        };
        FanoutReport {
            job: plan.name,
            server: target.server.to_string(),
            wire: target.wire,
            has_tokens: target.secret_file.is_some(),
            users: target.users,
            rooms: plan.rooms,
            members: plan.members,
            publishers: plan.publishers,
            payload_bytes: plan.payload_bytes,
            outstanding,
            complete,
            rate_posts_per_s,
            warmup_s: plan.time.warmup.as_secs_f64(),
            cpu: target.cpu,
            server_pid: target.pid,
            setup_s: setup.as_secs_f64(),
            window_s: seconds,
            posts: totals.posts,
            posts_per_s: ratio(totals.posts as f64, seconds),
            acknowledged: totals.acknowledged,
            deliveries: totals.deliveries,
            deliveries_per_s: ratio(deliveries, seconds),
            bytes_in: totals.traffic.bytes_in,
            bytes_out: totals.traffic.bytes_out,
            bytes_in_per_s: ratio(totals.traffic.bytes_in as f64, seconds),
            reads: totals.traffic.reads,
            frames: totals.traffic.frames,
            frames_per_read: ratio(totals.traffic.frames as f64, totals.traffic.reads as f64),
            server_cpu_s,
            server_cpu_share: server_cpu_s.map(|cpu| ratio(cpu, seconds)),
            server_cpu_us_per_delivery: server_cpu_s.map(|cpu| ratio(cpu * 1e6, deliveries)),
            deliveries_per_server_cpu_s: server_cpu_s.map(|cpu| ratio(deliveries, cpu)),
            server_softirq_cpu_us_per_delivery: window
                .server_softirq
                .map(|cpu| ratio(cpu.as_secs_f64() * 1e6, deliveries)),
            server_disturbed_share: window.server_disturbed().map(share_of_window),
            own_cpu_s,
            own_cpu_share: ratio(own_cpu_s, seconds),
            own_cpu_us_per_delivery: ratio(own_cpu_s * 1e6, deliveries),
            own_disturbed_share: window.own_disturbed().map(share_of_window),
            was_own_bottleneck: window.was_own_bottleneck(),
            was_disturbed: window.was_disturbed(),
            latency_us: LatencyReport {
                acknowledged: Quantiles::of(&load.latencies.acknowledged),
                delivered: Quantiles::of(&load.latencies.delivered),
                echoed: Quantiles::of(&load.latencies.echoed),
                complete: Quantiles::of(&load.latencies.complete),
            },
            verification: Verification {
                verified,
                members: u64::from(plan.rooms) * u64::from(plan.members),
                posts: load.totals.posts,
                acknowledged: load.totals.acknowledged,
                deliveries_expected: load.deliveries_expected(),
                deliveries: load.totals.deliveries,
                broken: load.verifier.broken.clone(),
                described: load.verifier.described.clone(),
            },
        }
    }

    /// As a table; `limited` is why the figures are not the server's alone.
    pub fn table(&self, limited: &[String]) -> String {
        let (at_least, at_most) = if limited.is_empty() { ("", "") } else { ("at least ", "<= ") };
        let mut table = Table::default();
        let pace = match (self.outstanding, self.complete, self.rate_posts_per_s) {
            (Some(outstanding), Some(complete), _) => {
                format!("{outstanding} outstanding a publisher; a post is complete when {}", describe(complete))
            }
            (_, _, rate) => format!("{} posts/s", rate.unwrap_or_default()),
        };
        let (rooms, members, publishers) = (self.rooms, self.members, self.publishers);
        table.line("job", format!("{}, {} to {}{}", self.job, self.wire.name(), self.server, proof(self.has_tokens)));
        table.line(
            "",
            format!("{rooms} rooms x {members} members, {publishers} publishers each, {} bytes", self.payload_bytes),
        );
        table.line("", pace);
        table.line(
            "window",
            format!("{:.2} s (set-up {:.2} s, warm-up {:.2} s)", self.window_s, self.setup_s, self.warmup_s),
        );
        table.line(
            "posts",
            format!("{} ({at_least}{:.0}/s), {} acknowledged", self.posts, self.posts_per_s, self.acknowledged),
        );
        table.line("deliveries", format!("{} ({at_least}{:.0}/s)", self.deliveries, self.deliveries_per_s));
        let megabytes = self.bytes_in_per_s / 1e6;
        table.line("read", format!("{megabytes:.1} MB/s, {:.1} frames a read", self.frames_per_read));
        if let (Some(us), Some(share), Some(per_s)) =
            (self.server_cpu_us_per_delivery, self.server_cpu_share, self.deliveries_per_server_cpu_s)
        {
            let share = share * 100.0;
            table.line(
                "server CPU",
                format!("{us:.3} us a delivery, {per_s:.0} deliveries a CPU second, {share:.1} % of a core"),
            );
        }
        if let Some(us) = self.server_softirq_cpu_us_per_delivery {
            table.line("", format!("{us:.3} us a delivery on top, in the kernel's softirq threads of its cores"));
        }
        let share = self.own_cpu_share * 100.0;
        table.line("own CPU", format!("{:.3} us a delivery, {share:.1} % of a core", self.own_cpu_us_per_delivery));
        table.heading("latency, us", &["p50", "p90", "p99", "p99.9", "max", "count"]);
        table.quantiles(&format!("{at_most}post to ack"), &self.latency_us.acknowledged);
        table.quantiles(&format!("{at_most}post to echo"), &self.latency_us.echoed);
        table.quantiles(&format!("{at_most}post to member"), &self.latency_us.delivered);
        table.quantiles(&format!("{at_most}post to all"), &self.latency_us.complete);
        let Verification { verified, deliveries, deliveries_expected, members, .. } = self.verification;
        let word = if verified { "verified" } else { "NOT VERIFIED" };
        table.line(
            word,
            format!("{deliveries} of {deliveries_expected} deliveries to {members} members, once and in order"),
        );
        self.verification.described.iter().for_each(|fault| table.line("", fault.clone()));
        if !verified {
            table.line("", format!("{:?}", self.verification.broken));
        }
        limited.iter().for_each(|reason| table.line("LIMITED", reason.clone()));
        if self.was_disturbed {
            let percent = |share: Option<f64>| share.unwrap_or_default() * 100.0;
            let (server, own) = (percent(self.server_disturbed_share), percent(self.own_disturbed_share));
            let text = format!(
                "other programs took the CPUs: the server's for {server:.0} % of the window, this one's for {own:.0} %"
            );
            table.line("CAUTION", text);
        }
        table.0
    }
}

/// The figures of idle connections. Names end in their unit.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the figures' own")]
pub struct IdleReport {
    pub job: &'static str,
    pub server: String,
    pub wire: Wire,
    pub has_tokens: bool,
    pub users: Option<u32>,
    pub connections: u32,
    pub processes: u32,
    pub rooms: u32,
    pub hold_s: f64,
    pub setup_s: f64,
    pub server_pid: Option<u32>,
    pub before_bytes: Option<Memory>,
    pub after_bytes: Option<Memory>,
    pub growth_bytes: Option<Growth>,
    pub resident_bytes_per_connection: Option<f64>,
    pub anonymous_bytes_per_connection: Option<f64>,
    pub kernel_slab_bytes_per_connection: Option<f64>,
    pub kernel_tcp_bytes_per_connection: Option<f64>,
}

impl IdleReport {
    /// Works the figures out of the memory before and after.
    pub fn new(job: &Idle, processes: u32, setup: Duration, memory: Option<(Memory, Memory)>) -> Self {
        let growth = memory.map(|(before, after)| after.growth_since(&before));
        let per_connection =
            |grown: fn(&Growth) -> i64| growth.map(|all| grown(&all) as f64 / f64::from(job.connections));
        IdleReport {
            job: "idle",
            server: job.target.server.to_string(),
            wire: job.target.wire,
            has_tokens: job.target.secret_file.is_some(),
            users: job.target.users,
            connections: job.connections,
            processes,
            rooms: job.rooms,
            hold_s: job.hold.as_secs_f64(),
            setup_s: setup.as_secs_f64(),
            server_pid: job.target.pid,
            before_bytes: memory.map(|(before, _)| before),
            after_bytes: memory.map(|(_, after)| after),
            growth_bytes: growth,
            resident_bytes_per_connection: per_connection(|grown| grown.resident),
            anonymous_bytes_per_connection: per_connection(|grown| grown.anonymous),
            kernel_slab_bytes_per_connection: per_connection(|grown| grown.kernel_slab),
            kernel_tcp_bytes_per_connection: per_connection(|grown| grown.kernel_tcp),
        }
    }

    /// As a sheet.
    pub fn sheet(&self, target: &Target) -> Sheet {
        let question = "What does a joined connection that says nothing cost in memory?";
        let mut maker = Maker::new(target, "idle", question, Vec::new());
        let (connections, rooms) = (self.connections, self.rooms);
        maker.shape(format!("{connections} connections in {rooms} rooms, of {} processes", self.processes));
        for (name, label, bytes) in [
            ("resident_bytes_per_connection", "server, resident", self.resident_bytes_per_connection),
            ("anonymous_bytes_per_connection", "of it anonymous", self.anonymous_bytes_per_connection),
            ("kernel_slab_bytes_per_connection", "kernel slab, both ends", self.kernel_slab_bytes_per_connection),
            ("kernel_tcp_bytes_per_connection", "kernel TCP, both ends", self.kernel_tcp_bytes_per_connection),
        ] {
            if let Some(bytes) = bytes {
                let label = format!("{label}, a connection");
                maker.figure(name, &label, bytes, Unit::Bytes, Promise::Stands, Merging::Nothing);
            }
        }
        maker.figure("setup_s", "set-up", self.setup_s, Unit::Seconds, Promise::Stands, Merging::Most);
        maker.check("connections that stayed", connections.into(), connections.into());
        maker.finish()
    }

    /// As a table.
    pub fn table(&self) -> String {
        let mut table = Table::default();
        table.line("job", format!("idle, {} to {}{}", self.wire.name(), self.server, proof(self.has_tokens)));
        table.line("", format!("{} connections in {} rooms, all joined and held", self.connections, self.rooms));
        if self.processes > 1 {
            table.line("", format!("{} processes hold them, each from addresses of its own", self.processes));
        }
        table.line("set-up", format!("{:.2} s", self.setup_s));
        let (Some(before), Some(after)) = (self.before_bytes, self.after_bytes) else {
            table.line("memory", "not measured: no --pid".into());
            return table.0;
        };
        let figure = |bytes: Option<f64>, now: u64, then: u64| {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            format!("{:.0} bytes a connection ({:.1} -> {:.1} MiB)", bytes.unwrap_or_default(), mib(then), mib(now))
        };
        table.line("resident", figure(self.resident_bytes_per_connection, after.resident, before.resident));
        table.line("of it anon.", figure(self.anonymous_bytes_per_connection, after.anonymous, before.anonymous));
        table.line("kernel slab", figure(self.kernel_slab_bytes_per_connection, after.kernel_slab, before.kernel_slab));
        table.line("kernel TCP", figure(self.kernel_tcp_bytes_per_connection, after.kernel_tcp, before.kernel_tcp));
        table.line("", "kernel memory is the whole host's: both ends of each connection, and whatever else ran".into());
        table.0
    }
}

impl Wire {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Wire::Json => "json",
            Wire::Native => "native",
            Wire::WsRkyv => "ws-rkyv",
            Wire::Nats => "nats",
            Wire::Redis => "redis",
            Wire::Mqtt => "mqtt",
            Wire::Plain => "plain",
        }
    }
}

pub(crate) fn print_json(report: &impl Serialize) {
    match serde_json::to_string_pretty(report) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("banter-loadgen: the report cannot be written: {error}"),
    }
}

/// Lines with their names in a column of their own.
#[derive(Default)]
pub(crate) struct Table(pub(crate) String);

impl Table {
    pub(crate) fn line(&mut self, name: &str, text: String) {
        self.0.push_str(&format!("{name:<18}{text}\n"));
    }

    pub(crate) fn heading(&mut self, name: &str, columns: &[&str]) {
        let columns: String = columns.iter().map(|column| format!("{column:>12}")).collect();
        self.line(name, columns);
    }

    pub(crate) fn quantiles(&mut self, name: &str, found: &Quantiles) {
        let Quantiles { count, p50, p90, p99, p999, max, .. } = found;
        self.line(name, format!("{p50:>12.1}{p90:>12.1}{p99:>12.1}{p999:>12.1}{max:>12.1}{count:>12}"));
    }
}
