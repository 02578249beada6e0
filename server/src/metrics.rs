//! What the cores count, in Prometheus' text format.

mod histograms;
mod programs;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use banter_access::limit::{Limit, LimitCounts};
use banter_chat::counters::Counters;
use banter_chat::histogram::Histogram;
use banter_chat::latencies::Latencies;
use banter_chat::programming::{ProgramCounts, SuspendedRoom};
use banter_chat::programs::ProgramRule;
use banter_log::journal::State;
use banter_protocol::error_code::ErrorCode;
use tracing_appender::non_blocking::ErrorCounter;

use crate::cluster::{ClusterSeen, ClusterView};
use crate::control::feeds::FeedState;
use crate::control::jwks::JwksDesk;
use crate::storage::keeper::KeeperState;

/// What one core reports.
#[derive(Clone, Debug, Default)]
pub struct CoreReport {
    /// What its machines count.
    pub counters: Counters,
    /// How long things take in its machines.
    pub latencies: Latencies,
    /// What its shell counts.
    pub shell: ShellCounters,
    /// How long its turns take.
    pub turns: Histogram,
    /// Parcels that lie in the lanes to other cores.
    pub lane_parcels: u64,
    /// Whether its log takes posts; none where it has no log.
    pub log_state: Option<State>,
    /// Bytes of the log's files that it has read.
    pub log_read_bytes: u64,
    /// What its programs did.
    pub programs: Vec<(ProgramRule, ProgramCounts)>,
    /// Rooms in which one is suspended, some of them.
    pub suspended: Vec<SuspendedRoom>,
}

/// What is known of the server beside its cores.
#[derive(Clone)]
pub struct ServerState {
    /// What its log's keeper tells.
    pub keeper: Arc<KeeperState>,
    /// What its feeds tell.
    pub feeds: Arc<FeedState>,
    /// Counts the lines of the log for people that could not be written.
    pub log_lines: ErrorCounter,
    /// When it was started, in seconds since 1970.
    pub started_unix_s: u64,
    /// The keys of an address, where nobody can come in before some were fetched.
    pub jwks_awaited: Option<JwksDesk>,
    /// What this node of a cluster is doing, where it is of one.
    pub cluster: Option<ClusterView>,
}

/// What the shell of a core counts since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShellCounters {
    /// Turns of the pump.
    pub turns: u64,
    /// Times that the core slept until there was something to do.
    pub sleeps: u64,
    /// Times that it looked for something to do ahead of that.
    pub looks: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes handed to sends.
    pub bytes_sent: u64,
    /// Sends.
    pub sends: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused, since `connections_max` was reached.
    pub refused_connections: u64,
    /// Arrivals refused by limit.
    pub limits: LimitCounts,
    /// Connections refused or ended since their addresses were revoked.
    pub revoked_connections: u64,
    /// WebSockets refused to web pages of foreign origins.
    pub refused_origins: u64,
    /// Times that no connection could be accepted.
    pub accept_failures: u64,
    /// Connections that broke the stream before they were open, or took too long.
    pub failed_handshakes: u64,
    /// Bytes of connections that are not read, now.
    pub held_bytes: u64,
    /// Connections closed since the kernel brought more of them than may be held.
    pub held_overflows: u64,
    /// Connections closed since they took nothing of what waited for them.
    pub late_sends: u64,
    /// Connections closed since a message of theirs did not become whole.
    pub late_messages: u64,
}

/// A metric: its name, kind and help, and how a core's value is read.
type Metric = (&'static str, &'static str, &'static str, fn(&CoreReport) -> u64);

const METRICS: &[Metric] = &[
    ("banter_connections", "gauge", "Open connections.", |core| core.counters.connections),
    ("banter_guests", "gauge", "Open connections that are guests.", |core| core.counters.guests),
    ("banter_rooms", "gauge", "Rooms that the core owns.", |core| core.counters.rooms),
    ("banter_subscriptions", "gauge", "Subscriptions.", |core| core.counters.subscriptions),
    ("banter_subscriptions_behind", "gauge", "Subscriptions that catch up through the history.", |core| {
        core.counters.subscriptions_behind
    }),
    ("banter_posts_total", "counter", "Posts that got a place.", |core| core.counters.posts),
    ("banter_duplicate_posts_total", "counter", "Posts whose key was known.", |core| core.counters.duplicate_posts),
    ("banter_deliveries_total", "counter", "Messages sent, for each subscription.", |core| core.counters.deliveries),
    ("banter_delivery_waits_total", "counter", "Times that messages of a room began to wait for company.", |core| {
        core.counters.waits
    }),
    ("banter_busy_permille", "gauge", "Share of its time that the core is busy, in thousandths.", |core| {
        core.counters.busy_permille
    }),
    ("banter_signals_total", "counter", "Signals taken.", |core| core.counters.signals),
    ("banter_signals_dropped_total", "counter", "Signals lost to a full outbox or lane.", |core| {
        core.counters.signals_dropped
    }),
    ("banter_presence_dropped_total", "counter", "Presence events replaced by a count.", |core| {
        core.counters.presence_dropped
    }),
    ("banter_fell_behind_total", "counter", "Times that a subscription fell behind.", |core| core.counters.fell_behind),
    ("banter_fell_behind_by_lag_total", "counter", "Of these, since batches were left out for a full lane.", |core| {
        core.counters.fell_behind_by_lag
    }),
    ("banter_fell_behind_by_run_total", "counter", "Of these, since the reader did not take what was sent.", |core| {
        core.counters.fell_behind_by_run
    }),
    ("banter_gaps_total", "counter", "Gaps told to subscriptions.", |core| core.counters.gaps),
    ("banter_lagged_batches_total", "counter", "Batches left out since a lane was full.", |core| {
        core.counters.batches_lagged
    }),
    ("banter_pauses_total", "counter", "Times that a connection was not read for a while.", |core| {
        core.counters.pauses
    }),
    ("banter_history_bytes", "gauge", "Bytes of history.", |core| core.counters.history_bytes),
    ("banter_dedupe_keys", "gauge", "Keys of posts that are remembered.", |core| core.counters.dedupe_keys),
    ("banter_dedupe_bytes", "gauge", "Rough bytes of remembered keys.", |core| core.counters.dedupe_bytes),
    (
        "banter_dedupe_early_evictions_total",
        "counter",
        "Keys forgotten within their window, for want of bytes.",
        |core| core.counters.dedupe_early_evictions,
    ),
    ("banter_run_bytes", "gauge", "Bytes of frames that are ready to be sent.", |core| core.counters.run_bytes),
    ("banter_outbox_bytes", "gauge", "Bytes that wait for connections.", |core| core.counters.outbox_bytes),
    ("banter_paused_connections", "gauge", "Connections that are not read.", |core| core.counters.paused_connections),
    ("banter_pages_waiting", "gauge", "Pages of history that were asked for and not answered yet.", |core| {
        core.counters.pages_waiting
    }),
    ("banter_answers_waiting", "gauge", "Answers that wait for room in a lane.", |core| core.counters.answers_waiting),
    ("banter_log_state", "gauge", "The core's log: 0 none, 1 open, 2 full, 3 failed.", log_state),
    ("banter_log_waiting_posts", "gauge", "Posts that wait for a commit or are in one.", |core| {
        core.counters.log_waiting_posts
    }),
    ("banter_log_waiting_bytes", "gauge", "Bytes of the records of such posts.", |core| {
        core.counters.log_waiting_bytes
    }),
    ("banter_commits_total", "counter", "Commits of the log.", |core| core.counters.commits),
    ("banter_committed_bytes_total", "counter", "Bytes of records in commits.", |core| core.counters.committed_bytes),
    ("banter_log_pages_total", "counter", "Pages of history read from the log.", |core| core.counters.log_pages),
    ("banter_log_read_bytes_total", "counter", "Bytes of segments and indexes read for pages and keys.", |core| {
        core.log_read_bytes
    }),
    ("banter_damaged_reads_total", "counter", "Reads of the log that did not find what should be there.", |core| {
        core.counters.damaged_reads
    }),
    ("banter_lane_parcels", "gauge", "Parcels on their way to other cores.", |core| core.lane_parcels),
    ("banter_turns_total", "counter", "Turns of the pump.", |core| core.shell.turns),
    ("banter_sleeps_total", "counter", "Times that the core slept until there was something to do.", |core| {
        core.shell.sleeps
    }),
    ("banter_looks_total", "counter", "Times that the core looked for something to do ahead of a sleep.", |core| {
        core.shell.looks
    }),
    ("banter_bytes_received_total", "counter", "Bytes received.", |core| core.shell.bytes_received),
    ("banter_bytes_sent_total", "counter", "Bytes sent.", |core| core.shell.bytes_sent),
    ("banter_sends_total", "counter", "Sends.", |core| core.shell.sends),
    ("banter_accepted_total", "counter", "Connections accepted.", |core| core.shell.accepted),
    ("banter_refused_connections_total", "counter", "Connections above connections_max.", |core| {
        core.shell.refused_connections
    }),
    ("banter_revoked_addresses_total", "counter", "Connections of revoked addresses, refused or ended.", |core| {
        core.shell.revoked_connections
    }),
    ("banter_refused_origins_total", "counter", "WebSockets refused to web pages of foreign origins.", |core| {
        core.shell.refused_origins
    }),
    ("banter_accept_failures_total", "counter", "Failed accepts.", |core| core.shell.accept_failures),
    ("banter_failed_handshakes_total", "counter", "Connections that never opened.", |core| {
        core.shell.failed_handshakes
    }),
    ("banter_held_bytes", "gauge", "Bytes of connections that are not read.", |core| core.shell.held_bytes),
    ("banter_held_overflows_total", "counter", "Connections closed above held_bytes_max.", |core| {
        core.shell.held_overflows
    }),
    ("banter_late_sends_total", "counter", "Connections closed above send_timeout_ms.", |core| core.shell.late_sends),
    ("banter_late_messages_total", "counter", "Connections closed above message_timeout_ms.", |core| {
        core.shell.late_messages
    }),
];

fn log_state(core: &CoreReport) -> u64 {
    match core.log_state {
        None => 0,
        Some(State::Open) => 1,
        Some(State::Full) => 2,
        Some(State::Failed) => 3,
    }
}

/// A part of a core's memory: its name, and how its bytes are read.
type MemoryPart = (&'static str, fn(&CoreReport) -> u64);

/// What grows with what clients do, but for the connections themselves. Each part has a limit.
const MEMORY_PARTS: [MemoryPart; 5] = [
    ("history", |core| core.counters.history_bytes),
    ("runs", |core| core.counters.run_bytes),
    ("dedupe", |core| core.counters.dedupe_bytes),
    ("held", |core| core.shell.held_bytes),
    ("outbox", |core| core.counters.outbox_bytes),
];

/// A metric of the log's keeper: its name, kind and help, and where its value stands.
type LogMetric = (&'static str, &'static str, &'static str, fn(&KeeperState) -> &AtomicU64);

const LOG_METRICS: &[LogMetric] = &[
    ("banter_log_bytes", "gauge", "Bytes of the log's segments.", |keeper| &keeper.log_bytes),
    ("banter_log_segments", "gauge", "Segments of the log.", |keeper| &keeper.segments),
    ("banter_log_full", "gauge", "1 while there is too little space for a segment.", |keeper| &keeper.is_full),
    ("banter_erasures_pending", "gauge", "Erasures that are hidden, and on the disk still.", |keeper| {
        &keeper.erasures_pending
    }),
    (
        "banter_log_checked_seconds",
        "gauge",
        "When all sealed segments had been checked, since 1970; 0 = not yet.",
        |keeper| &keeper.scrub_finished_s,
    ),
    ("banter_log_damaged_segments_total", "counter", "Segments that were found damaged by the check.", |keeper| {
        &keeper.scrub_faults
    }),
];

/// The whole text. A core that did not say what it counts is told by `banter_core_up` alone.
pub fn render(cores: &[Option<Box<CoreReport>>], server: &ServerState) -> String {
    let mut text = String::new();
    render_server(&mut text, server);
    head(&mut text, "banter_core_up", "gauge", "1 where the core said in time what it counts.");
    for (index, core) in cores.iter().enumerate() {
        let _ = writeln!(text, "banter_core_up{{core=\"{index}\"}} {}", u8::from(core.is_some()));
    }
    for (name, kind, help, read) in METRICS {
        head(&mut text, name, kind, help);
        for (index, core) in known(cores) {
            let _ = writeln!(text, "{name}{{core=\"{index}\"}} {}", read(core));
        }
    }
    render_refusals(&mut text, cores);
    let refused = ("banter_limited_total", "Times that a limit refused somebody.");
    render_limits(&mut text, cores, refused, LimitCounts::refused);
    let dry = ("banter_limited_dry_run_total", "Times that a limit in limits_dry_run would have.");
    render_limits(&mut text, cores, dry, LimitCounts::only_counted);
    render_memory(&mut text, cores);
    programs::render(&mut text, known(cores));
    histograms::render(&mut text, known(cores));
    text
}

/// What is true of the server as a whole.
fn render_server(text: &mut String, server: &ServerState) {
    head(text, "banter_build_info", "gauge", "Which program this is.");
    let _ = writeln!(text, "banter_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    head(text, "banter_start_time_seconds", "gauge", "When it was started, since 1970.");
    let _ = writeln!(text, "banter_start_time_seconds {}", server.started_unix_s);
    head(text, "banter_log_lines_dropped_total", "counter", "Lines of the log that stderr did not take in time.");
    let _ = writeln!(text, "banter_log_lines_dropped_total {}", server.log_lines.dropped_lines());
    let FeedState { open, messages, .. } = &*server.feeds;
    head(text, "banter_feeds", "gauge", "Feeds that backends read.");
    let _ = writeln!(text, "banter_feeds {}", open.load(Ordering::Relaxed));
    head(text, "banter_feed_messages_total", "counter", "Messages that feeds told.");
    let _ = writeln!(text, "banter_feed_messages_total {}", messages.load(Ordering::Relaxed));
    if let Some(cluster) = &server.cluster {
        render_cluster(text, &cluster.seen());
    }
    for (name, kind, help, read) in LOG_METRICS {
        head(text, name, kind, help);
        let _ = writeln!(text, "{name} {}", read(&server.keeper).load(Ordering::Relaxed));
    }
}

/// What is true of a node of a cluster.
fn render_cluster(text: &mut String, seen: &ClusterSeen) {
    head(
        text,
        "banter_cluster_serving",
        "gauge",
        "Whether this node of the cluster serves: 1, or 0 while it stands by.",
    );
    let _ = writeln!(text, "banter_cluster_serving {}", u8::from(seen.is_serving));
    let name = "banter_cluster_partitions";
    head(text, name, "gauge", "Partitions of the cluster, by what this node does with them.");
    let (doubtful, broken) = (seen.doubtful.len(), seen.broken.len());
    let open = usize::from(seen.open).saturating_sub(doubtful);
    let elsewhere = usize::from(seen.partitions).saturating_sub(open + doubtful + broken);
    for (state, count) in [("open", open), ("doubtful", doubtful), ("broken", broken), ("elsewhere", elsewhere)] {
        let _ = writeln!(text, "{name}{{state=\"{state}\"}} {count}");
    }
    head(
        text,
        "banter_cluster_full",
        "gauge",
        "Partitions of the cluster that find no space: their posts are refused.",
    );
    let _ = writeln!(text, "banter_cluster_full {}", seen.full.len());
    let help = "What keeps the cluster's engine from being proved, looked at once a minute: 0, if it is proved.";
    head(text, "banter_cluster_engine_faults", "gauge", help);
    let _ = writeln!(text, "banter_cluster_engine_faults {}", seen.unproved.len());
}

fn render_refusals(text: &mut String, cores: &[Option<Box<CoreReport>>]) {
    let name = "banter_refusals_total";
    head(text, name, "counter", "Refusals, by the code that the client was told.");
    for (index, core) in known(cores) {
        for code in ErrorCode::ALL {
            let count = core.counters.refusals[code as usize];
            let _ = writeln!(text, "{name}{{core=\"{index}\",code=\"{}\"}} {count}", code.as_str());
        }
    }
}

/// How often each limit did something.
type LimitCount = fn(&LimitCounts, Limit) -> u64;

/// A metric with a line for each limit.
fn render_limits(text: &mut String, cores: &[Option<Box<CoreReport>>], (name, help): (&str, &str), read: LimitCount) {
    head(text, name, "counter", help);
    for (index, core) in known(cores) {
        for &limit in Limit::ALL {
            let count = read(&core.counters.limits, limit) + read(&core.shell.limits, limit);
            let (scope, key) = (limit.scope().as_str(), limit.name());
            let _ = writeln!(text, "{name}{{core=\"{index}\",scope=\"{scope}\",limit=\"{key}\"}} {count}");
        }
    }
}

fn render_memory(text: &mut String, cores: &[Option<Box<CoreReport>>]) {
    let name = "banter_memory_bytes";
    head(text, name, "gauge", "Bytes of memory, by what they are for.");
    for (index, core) in known(cores) {
        for (part, read) in MEMORY_PARTS {
            let _ = writeln!(text, "{name}{{core=\"{index}\",part=\"{part}\"}} {}", read(core));
        }
    }
}

/// The cores that said what they count.
fn known(cores: &[Option<Box<CoreReport>>]) -> impl Iterator<Item = (usize, &CoreReport)> + Clone {
    cores.iter().enumerate().filter_map(|(index, core)| Some((index, core.as_deref()?)))
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use tracing_appender::non_blocking::NonBlockingBuilder;

    use super::*;

    fn server_state() -> ServerState {
        let log_lines = NonBlockingBuilder::default().finish(std::io::sink()).0.error_counter();
        let (keeper, feeds) = (Arc::default(), Arc::default());
        let cluster = Some(ClusterView::new("chat", "n0", 16));
        ServerState { keeper, feeds, log_lines, started_unix_s: 1_790_000_000, jwks_awaited: None, cluster }
    }

    #[test]
    fn every_core_and_every_code_has_a_line() {
        let mut second = Box::<CoreReport>::default();
        second.counters.posts = 7;
        second.counters.refused(ErrorCode::RateLimited);
        let text = render(&[Some(Box::default()), Some(second)], &server_state());
        assert!(text.contains("banter_posts_total{core=\"0\"} 0\nbanter_posts_total{core=\"1\"} 7\n"));
        assert!(text.contains("banter_refusals_total{core=\"1\",code=\"rate_limited\"} 1\n"));
        assert!(text.lines().all(|line| line.starts_with('#') || line.split(' ').count() == 2));
    }

    /// The name of each sample, without labels.
    fn names(text: &str) -> Vec<&str> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| &line[..line.find(['{', ' ']).expect("a name")]).collect()
    }

    #[test]
    fn a_core_that_did_not_answer_is_told_and_has_no_other_line() {
        let text = render(&[Some(Box::default()), None], &server_state());
        assert!(text.contains("banter_core_up{core=\"0\"} 1\nbanter_core_up{core=\"1\"} 0\n"), "{text}");
        assert_eq!(text.matches("core=\"1\"").count(), 1);
    }

    #[test]
    fn every_sample_follows_the_head_of_its_family_and_no_family_comes_twice() {
        let text = render(&[Some(Box::default())], &server_state());
        let mut families = Vec::new();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# TYPE ") {
                families.push(head.split_once(' ').expect("a name and a kind"));
            } else if !line.starts_with('#') {
                let (family, kind) = families.last().expect("a head");
                let rest = names(line)[0].strip_prefix(family).expect(line);
                let suffixes: &[&str] = if *kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffixes.contains(&rest), "{line}");
                assert_eq!(*kind == "counter", family.ends_with("_total"), "{line}");
            }
        }
        let distinct: std::collections::BTreeSet<_> = families.iter().map(|(name, _)| name).collect();
        assert_eq!(distinct.len(), families.len());
    }

    #[test]
    fn every_metric_is_in_the_documentation() {
        let text = render(&[Some(Box::default())], &server_state());
        let documentation = include_str!("../../docs/operations.md");
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().expect("a name");
            assert!(documentation.contains(&format!("`{name}")), "{name} is missing in docs/operations.md");
        }
        let documented = documentation.split('`').filter(|word| word.starts_with("banter_"));
        for name in documented.map(|word| word.split('{').next().expect("a name")) {
            assert!(text.contains(&format!("# TYPE {name} ")), "docs/operations.md names {name}, and there is none");
        }
    }

    #[test]
    fn a_node_of_a_cluster_tells_what_it_does_and_a_server_without_one_nothing() {
        let mut server = server_state();
        let view = server.cluster.clone().expect("a node");
        view.say(|seen| (seen.is_serving, seen.open, seen.doubtful, seen.broken) = (true, 15, vec![3, 4], vec![7]));
        let text = render(&[], &server);
        for line in ["serving 1", "partitions{state=\"open\"} 13", "partitions{state=\"doubtful\"} 2"] {
            assert!(text.contains(&format!("banter_cluster_{line}\n")), "{line}: {text}");
        }
        assert!(text.contains("{state=\"broken\"} 1\n") && text.contains("{state=\"elsewhere\"} 0\n"), "{text}");
        server.cluster = None;
        assert!(!render(&[], &server).contains("banter_cluster"));
    }

    #[test]
    fn the_state_of_a_log_is_a_number() {
        for (log_state, number) in [(None, 0), (Some(State::Open), 1), (Some(State::Full), 2), (Some(State::Failed), 3)]
        {
            let core = Some(Box::new(CoreReport { log_state, ..CoreReport::default() }));
            let text = render(&[core], &server_state());
            assert!(text.contains(&format!("banter_log_state{{core=\"0\"}} {number}\n")), "{log_state:?}");
        }
    }
}
