//! What the cores count, in Prometheus' text format.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use banter_chat::counters::Counters;
use banter_protocol::error_code::ErrorCode;

use crate::storage::keeper::KeeperState;

/// What one core reports.
#[derive(Clone, Debug, Default)]
pub struct CoreReport {
    /// What its machines count.
    pub counters: Counters,
    /// What its shell counts.
    pub shell: ShellCounters,
    /// Parcels that lie in the lanes to other cores.
    pub lane_parcels: u64,
}

/// What the shell of a core counts since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShellCounters {
    /// Turns of the pump.
    pub turns: u64,
    /// Times that the core waited for something to do.
    pub sleeps: u64,
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
    /// Times that no connection could be accepted.
    pub accept_failures: u64,
    /// Connections that broke the stream before they were open, or took too long.
    pub failed_handshakes: u64,
}

/// A metric: its name, kind and help, and how a core's value is read.
type Metric = (&'static str, &'static str, &'static str, fn(&CoreReport) -> u64);

const METRICS: &[Metric] = &[
    ("banter_connections", "gauge", "Open connections.", |core| core.counters.connections),
    ("banter_rooms", "gauge", "Rooms that the core owns.", |core| core.counters.rooms),
    ("banter_subscriptions", "gauge", "Subscriptions.", |core| core.counters.subscriptions),
    ("banter_subscriptions_behind", "gauge", "Subscriptions that catch up through the history.", |core| {
        core.counters.subscriptions_behind
    }),
    ("banter_posts_total", "counter", "Posts that got a place.", |core| core.counters.posts),
    ("banter_duplicate_posts_total", "counter", "Posts whose key was known.", |core| core.counters.duplicate_posts),
    ("banter_deliveries_total", "counter", "Messages sent, for each subscription.", |core| core.counters.deliveries),
    ("banter_signals_total", "counter", "Signals taken.", |core| core.counters.signals),
    ("banter_signals_dropped_total", "counter", "Signals lost to a full outbox or lane.", |core| {
        core.counters.signals_dropped
    }),
    ("banter_presence_dropped_total", "counter", "Presence events replaced by a count.", |core| {
        core.counters.presence_dropped
    }),
    ("banter_fell_behind_total", "counter", "Times that a subscription fell behind.", |core| core.counters.fell_behind),
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
    ("banter_commits_total", "counter", "Commits of the log.", |core| core.counters.commits),
    ("banter_committed_bytes_total", "counter", "Bytes of records in commits.", |core| core.counters.committed_bytes),
    ("banter_log_pages_total", "counter", "Pages of history read from the log.", |core| core.counters.log_pages),
    ("banter_damaged_reads_total", "counter", "Reads of the log that did not find what should be there.", |core| {
        core.counters.damaged_reads
    }),
    ("banter_lane_parcels", "gauge", "Parcels on their way to other cores.", |core| core.lane_parcels),
    ("banter_turns_total", "counter", "Turns of the pump.", |core| core.shell.turns),
    ("banter_sleeps_total", "counter", "Times that the core waited for something to do.", |core| core.shell.sleeps),
    ("banter_bytes_received_total", "counter", "Bytes received.", |core| core.shell.bytes_received),
    ("banter_bytes_sent_total", "counter", "Bytes sent.", |core| core.shell.bytes_sent),
    ("banter_sends_total", "counter", "Sends.", |core| core.shell.sends),
    ("banter_accepted_total", "counter", "Connections accepted.", |core| core.shell.accepted),
    ("banter_refused_connections_total", "counter", "Connections above connections_max.", |core| {
        core.shell.refused_connections
    }),
    ("banter_accept_failures_total", "counter", "Failed accepts.", |core| core.shell.accept_failures),
    ("banter_failed_handshakes_total", "counter", "Connections that never opened.", |core| {
        core.shell.failed_handshakes
    }),
];

/// A metric of the log's keeper: its name, kind and help, and where its value stands.
type LogMetric = (&'static str, &'static str, &'static str, fn(&KeeperState) -> &AtomicU64);

const LOG_METRICS: &[LogMetric] = &[
    ("banter_log_bytes", "gauge", "Bytes of the log's segments.", |keeper| &keeper.log_bytes),
    ("banter_log_segments", "gauge", "Segments of the log.", |keeper| &keeper.segments),
    ("banter_log_full", "gauge", "1 while there is too little space for a segment.", |keeper| &keeper.is_full),
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

/// The whole text.
pub fn render(cores: &[CoreReport], keeper: &KeeperState) -> String {
    let mut text = String::new();
    for (name, kind, help, read) in METRICS {
        head(&mut text, name, kind, help);
        for (index, core) in cores.iter().enumerate() {
            let _ = writeln!(text, "{name}{{core=\"{index}\"}} {}", read(core));
        }
    }
    for (name, kind, help, read) in LOG_METRICS {
        head(&mut text, name, kind, help);
        let _ = writeln!(text, "{name} {}", read(keeper).load(Ordering::Relaxed));
    }
    let name = "banter_refusals_total";
    head(&mut text, name, "counter", "Refusals, by the code that the client was told.");
    for (index, core) in cores.iter().enumerate() {
        for code in ErrorCode::ALL {
            let count = core.counters.refusals[code as usize];
            let _ = writeln!(text, "{name}{{core=\"{index}\",code=\"{}\"}} {count}", code.as_str());
        }
    }
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_core_and_every_code_has_a_line() {
        let mut cores = vec![CoreReport::default(), CoreReport::default()];
        cores[1].counters.posts = 7;
        cores[1].counters.refused(ErrorCode::RateLimited);
        let text = render(&cores, &KeeperState::default());
        assert!(text.contains("banter_posts_total{core=\"0\"} 0\nbanter_posts_total{core=\"1\"} 7\n"));
        assert!(text.contains("banter_refusals_total{core=\"1\",code=\"rate_limited\"} 1\n"));
        assert!(text.lines().all(|line| line.starts_with('#') || line.split(' ').count() == 2));
    }
}
