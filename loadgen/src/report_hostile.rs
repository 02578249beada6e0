//! The figures of hostile connections: what the honest felt of each kind, and what memory they cost.

use std::time::Duration;

use serde::Serialize;

use crate::args::{Hostile, Wire};
use crate::hostile::attack::Deeds;
use crate::hostile::limits::{Bound, Part};
use crate::hostile::{Felt, Outcome, Trial};
use crate::report::{Quantiles, Table, proof, ratio};
use crate::sheet::{Maker, Merging, Promise, Sheet, Unit};
use crate::standing;

/// An honest client may feel an attack, but no more than so many times what it feels alone.
const RATIO_MAX: f64 = 2.0;

/// The figures. Names end in their unit.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the figures' own")]
pub struct HostileReport {
    pub job: &'static str,
    pub server: String,
    pub wire: Wire,
    pub has_tokens: bool,
    pub users: Option<u32>,
    pub cpu: Option<usize>,
    pub server_pid: Option<u32>,
    pub rate_posts_per_s: u64,
    pub attack_rate_per_s: u64,
    pub large_room_members_asked: u32,
    pub duration_s: f64,
    pub kinds: Vec<KindReport>,
    pub memory: Option<MemoryReport>,
    pub verification: HostileVerification,
}

/// One kind.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the figures' own")]
pub struct KindReport {
    pub kind: &'static str,
    pub attackers: usize,
    pub members: u32,
    pub alone_us: FeltQuantiles,
    pub beside_us: FeltQuantiles,
    pub message_p50_ratio: f64,
    pub message_p99_ratio: f64,
    pub ping_p50_ratio: f64,
    pub ping_p99_ratio: f64,
    pub is_ping_p99_within: bool,
    pub server_cpu_share: Option<f64>,
    pub own_cpu_share: f64,
    pub server_disturbed_share: Option<f64>,
    pub own_disturbed_share: Option<f64>,
    pub was_own_bottleneck: bool,
    pub was_disturbed: bool,
    pub own_look_away_us: Quantiles,
    pub resident_before_bytes: Option<u64>,
    pub resident_largest_bytes: Option<u64>,
    pub resident_bytes_per_attacker: Option<f64>,
    pub deeds: Deeds,
}

/// Latencies of the honest in microseconds, from the intended time.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "as in Felt")]
pub struct FeltQuantiles {
    pub message: Quantiles,
    pub ping: Quantiles,
}

impl FeltQuantiles {
    fn of(felt: &Felt) -> Self {
        FeltQuantiles { message: Quantiles::of(&felt.message), ping: Quantiles::of(&felt.ping) }
    }
}

/// What many hostile connections of mixed kinds cost.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct MemoryReport {
    pub attack: KindReport,
    pub resident_growth_bytes: Option<u64>,
    pub bound: Bound,
    pub is_within_connections: Option<bool>,
    pub is_within: Option<bool>,
}

/// What was checked of the honest, and of who was there besides.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct HostileVerification {
    pub verified: bool,
    pub described: Vec<String>,
}

impl KindReport {
    fn of(trial: &Trial) -> Self {
        let Trial { window, alone_window, .. } = trial;
        let share = |time: Duration| ratio(time.as_secs_f64(), window.at.as_secs_f64());
        let (alone, beside) = (FeltQuantiles::of(&trial.alone), FeltQuantiles::of(&trial.beside));
        let growth = grown(trial);
        let ping_p99_ratio = ratio(beside.ping.p99, alone.ping.p99);
        KindReport {
            kind: trial.name,
            attackers: trial.attackers,
            members: trial.members,
            message_p50_ratio: ratio(beside.message.p50, alone.message.p50),
            message_p99_ratio: ratio(beside.message.p99, alone.message.p99),
            ping_p50_ratio: ratio(beside.ping.p50, alone.ping.p50),
            ping_p99_ratio,
            is_ping_p99_within: ping_p99_ratio <= RATIO_MAX,
            alone_us: alone,
            beside_us: beside,
            server_cpu_share: window.server_cpu.map(share),
            own_cpu_share: share(window.own_cpu),
            server_disturbed_share: window.server_disturbed().map(share),
            own_disturbed_share: window.own_disturbed().map(share),
            was_own_bottleneck: window.was_own_bottleneck(),
            was_disturbed: window.was_disturbed() || alone_window.was_disturbed(),
            own_look_away_us: Quantiles::of(&trial.looks_away),
            resident_before_bytes: trial.resident_bytes.map(|(before, _)| before),
            resident_largest_bytes: trial.resident_bytes.map(|(_, largest)| largest),
            resident_bytes_per_attacker: growth.map(|bytes| ratio(bytes as f64, trial.attackers as f64)),
            deeds: trial.deeds,
        }
    }
}

fn grown(trial: &Trial) -> Option<u64> {
    trial.resident_bytes.map(|(before, largest)| largest.saturating_sub(before))
}

impl MemoryReport {
    fn of(trial: &Trial, bound: &Bound) -> Self {
        let growth = grown(trial);
        MemoryReport {
            attack: KindReport::of(trial),
            resident_growth_bytes: growth,
            bound: bound.clone(),
            is_within_connections: growth.map(|bytes| bytes <= bound.connections_bytes),
            is_within: growth.map(|bytes| bytes <= bound.sum_bytes),
        }
    }
}

/// The same as a sheet.
pub fn sheet(outcome: &Outcome<'_>) -> Sheet {
    let trials: Vec<&Trial> = outcome.trials.iter().chain(outcome.memory.as_ref().map(|(trial, _)| trial)).collect();
    let question = "What do honest clients feel of hostile ones on their core?";
    let mut maker = Maker::new(&outcome.job.target, "hostile", question, trials.iter().flat_map(limits).collect());
    let Hostile { attackers, rate, .. } = outcome.job;
    maker.shape(format!("{attackers} hostile connections of a kind, beside a pair of honest ones with {rate} posts/s"));
    for trial in &trials {
        for (what, alone, beside) in
            [("ping", &trial.alone.ping, &trial.beside.ping), ("message", &trial.alone.message, &trial.beside.message)]
        {
            let (name, label) = (trial.name, format!("{}: {what} p99, beside / alone", trial.name));
            let times = ratio(beside.quantile_us(0.99), alone.quantile_us(0.99));
            let figure = format!("{name}_{what}_p99_ratio");
            maker.figure(&figure, &label, times, Unit::Times, Promise::Withheld, Merging::Nothing);
        }
        maker.latencies(&format!("{}_ping", trial.name), &format!("{}: ping", trial.name), &trial.beside.ping);
    }
    outcome.described.iter().for_each(|text| maker.fault(text.clone()));
    if !outcome.verified {
        maker.unverified();
    }
    maker.finish()
}

fn limits(trial: &&Trial) -> Vec<String> {
    let name = trial.name;
    standing::full_core(&trial.window).into_iter().map(|reason| format!("{name}: {reason}")).collect()
}

impl HostileReport {
    /// Works the figures out.
    pub fn new(outcome: &Outcome<'_>) -> Self {
        let Outcome { job, trials, memory, verified, described } = outcome;
        HostileReport {
            job: "hostile",
            server: job.target.server.to_string(),
            wire: job.target.wire,
            has_tokens: job.target.secret_file.is_some(),
            users: job.target.users,
            cpu: job.target.cpu,
            server_pid: job.target.pid,
            rate_posts_per_s: job.rate,
            attack_rate_per_s: job.attack_rate,
            large_room_members_asked: job.large_room,
            duration_s: job.duration.as_secs_f64(),
            kinds: trials.iter().map(KindReport::of).collect(),
            memory: memory.as_ref().map(|(trial, bound)| MemoryReport::of(trial, bound)),
            verification: HostileVerification { verified: *verified, described: described.clone() },
        }
    }

    /// As a table.
    pub fn table(&self) -> String {
        let mut table = Table::default();
        table.line("job", format!("hostile, {} to {}{}", self.wire.name(), self.server, proof(self.has_tokens)));
        let (rate, attack_rate) = (self.rate_posts_per_s, self.attack_rate_per_s);
        table.line("", format!("honest: {rate} posts/s to one other, {rate} pings/s; attacks: {attack_rate} acts/s"));
        self.say_kinds(&mut table);
        if let Some(memory) = &self.memory {
            say_memory(memory, &mut table);
        }
        let word = if self.verification.verified { "verified" } else { "NOT VERIFIED" };
        table.line(word, "every honest member got every message, once and in order".into());
        self.verification.described.iter().for_each(|text| table.line("", text.clone()));
        table.0
    }

    /// Latencies in microseconds: what was felt alone, beside the attack, and how many times that is.
    fn say_kinds(&self, table: &mut Table) {
        table.heading("message, us", &["p50 alone", "p50", "ratio", "p99 alone", "p99", "ratio", "look p99"]);
        for kind in &self.kinds {
            let looks = kind.own_look_away_us.p99;
            table.line(
                kind.kind,
                format!(
                    "{}{looks:>12.1}",
                    felt(&kind.alone_us.message, &kind.beside_us.message, kind.was_own_bottleneck)
                ),
            );
        }
        table.heading("ping, us", &["p50 alone", "p50", "ratio", "p99 alone", "p99", "ratio", "p99 within"]);
        for kind in &self.kinds {
            let word = match (kind.was_own_bottleneck, kind.is_ping_p99_within) {
                (true, _) => "withheld",
                (false, true) => "yes",
                (false, false) => "NO",
            };
            table.line(
                kind.kind,
                format!("{}{word:>12}", felt(&kind.alone_us.ping, &kind.beside_us.ping, kind.was_own_bottleneck)),
            );
        }
        table.heading("cost", &["server CPU", "own CPU", "RSS, MiB", "largest", "B/attacker", "attackers", "members"]);
        self.kinds.iter().for_each(|kind| say_cost(kind, table));
        table.heading("deeds", &["acts", "connects", "answers", "refusals", "ended", "MB out", "MB in"]);
        self.kinds.iter().for_each(|kind| say_deeds(kind, table));
        self.kinds.iter().for_each(|kind| self.say_cautions(kind, table));
    }

    fn say_cautions(&self, kind: &KindReport, table: &mut Table) {
        if kind.kind == "large-room" && kind.members < self.large_room_members_asked {
            let (members, asked) = (kind.members, self.large_room_members_asked);
            table.line("CAUTION", format!("large-room: {members} of {asked} members, for want of descriptors"));
        }
        if kind.was_own_bottleneck {
            table.line("LIMITED", format!("{}: this load generator was busier than the server", kind.kind));
        }
        if kind.was_disturbed {
            table.line("CAUTION", format!("{}: other programs took more than 5 % of the CPUs", kind.kind));
        }
    }
}

/// The ratios are withheld where this program was busier than the server.
fn felt(alone: &Quantiles, beside: &Quantiles, is_withheld: bool) -> String {
    let times = |alone: f64, beside: f64| match is_withheld {
        true => "withheld".to_owned(),
        false => format!("{:.2}", ratio(beside, alone)),
    };
    let three = |alone: f64, beside: f64| format!("{alone:>12.1}{beside:>12.1}{:>12}", times(alone, beside));
    format!("{}{}", three(alone.p50, beside.p50), three(alone.p99, beside.p99))
}

fn mebibytes(bytes: Option<u64>) -> f64 {
    bytes.unwrap_or_default() as f64 / f64::from(1 << 20)
}

fn say_cost(kind: &KindReport, table: &mut Table) {
    let share = |share: f64| format!("{:.0} %", share * 100.0);
    let (server, own) = (kind.server_cpu_share.map_or_else(|| "-".into(), share), share(kind.own_cpu_share));
    let (before, largest) = (mebibytes(kind.resident_before_bytes), mebibytes(kind.resident_largest_bytes));
    let each = kind.resident_bytes_per_attacker.unwrap_or_default();
    let KindReport { attackers, members, .. } = kind;
    let text = format!("{server:>12}{own:>12}{before:>12.1}{largest:>12.1}{each:>12.0}{attackers:>12}{members:>12}");
    table.line(kind.kind, text);
}

fn say_deeds(kind: &KindReport, table: &mut Table) {
    let Deeds { connects, acts, bytes_out, bytes_in, answers, refusals, ended } = kind.deeds;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let (out, read) = (megabytes(bytes_out), megabytes(bytes_in));
    let text = format!("{acts:>12}{connects:>12}{answers:>12}{refusals:>12}{ended:>12}{out:>12.1}{read:>12.1}");
    table.line(kind.kind, text);
}

fn say_memory(memory: &MemoryReport, table: &mut Table) {
    let MemoryReport { attack, bound, .. } = memory;
    let mib = |bytes: u64| format!("{:.1} MiB", mebibytes(Some(bytes)));
    let parts = |parts: &[Part]| {
        let part = |part: &Part| format!("{} ({})", part.bytes, part.name);
        parts.iter().map(part).collect::<Vec<_>>().join(" + ")
    };
    table.line("memory", format!("{} hostile connections of mixed kinds at once", attack.attackers));
    let (before, largest) = (attack.resident_before_bytes, attack.resident_largest_bytes);
    let (before, largest) = (mebibytes(before), mebibytes(largest));
    let growth = mib(memory.resident_growth_bytes.unwrap_or_default());
    table.line("resident", format!("{before:.1} -> {largest:.1} MiB at most: {growth} more"));
    table.line("a connection", format!("{} = {}", bound.connection_bytes, parts(&bound.connection_parts)));
    table.line("a core", format!("{} = {}", bound.cores_bytes / bound.cores.max(1), parts(&bound.core_parts)));
    let (connections, cores) = (mib(bound.connections_bytes), mib(bound.cores_bytes));
    let sum = format!("{} connections {connections} + {} cores {cores}", bound.connections, bound.cores);
    table.line("bound", format!("{sum} = {}", mib(bound.sum_bytes)));
    let word = |is_within: Option<bool>| is_within.map_or("not measured", |is| if is { "yes" } else { "NO" });
    let (within, alone) = (word(memory.is_within), word(memory.is_within_connections));
    table.line("within", format!("{within}; within that of the connections alone: {alone}"));
    table.line("deeds", format!("{:?}", attack.deeds));
}
