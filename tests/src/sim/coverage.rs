//! What happened over the seeds, so that the test can see that it still reaches what it is there for.

use std::collections::BTreeMap;

/// How often each thing happened.
#[derive(Clone, Debug, Default)]
pub struct Coverage(pub BTreeMap<&'static str, u64>);

/// What a run of many seeds must have seen.
pub const WANTED: &[&str] = &[
    "batch lagged",
    "catch-up from a gap",
    "closed as idle",
    "connection paused",
    "cursor_ahead",
    "cut off while closing",
    "delivery",
    "disk full",
    "drained",
    "duplicate post",
    "duplicate of an earlier run",
    "echo spared",
    "fell behind",
    "fetch page",
    "goes on where it read",
    "index damaged",
    "index missing",
    "index of another segment",
    "key evicted for bytes",
    "key pushed out by its author",
    "key used again behind its window",
    "key_conflict",
    "killed",
    "left",
    "log_failed",
    "log_full",
    "log work over several turns",
    "members answer",
    "no space for a segment",
    "power cut",
    "power cut at risk",
    "power cut behind an acknowledgement",
    "presence counts only",
    "presence of a user",
    "rate_limited",
    "read from the log",
    "rejoin",
    "rejoin while joining",
    "resumed",
    "room forgotten",
    "rooms_per_connection_max",
    "segment cut",
    "segment dropped",
    "segment dropped before its index was written",
    "segment sealed",
    "signal",
    "signal dropped",
    "stalled",
    "started again behind a failure",
    "stopped in order",
    "sync failed",
    "written through",
    "vanished",
    "vanished with a send in flight",
    "waited for a lane",
    "wall clock stepped",
    "wall clock stepped at a restart",
    "write failed",
    "wrong_epoch",
];

impl Coverage {
    /// It happened.
    pub fn saw(&mut self, what: &'static str) {
        self.saw_times(what, 1);
    }

    /// It happened so many times.
    pub fn saw_times(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Coverage) {
        for (what, times) in &other.0 {
            self.saw_times(what, *times);
        }
    }

    /// What was wanted and never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        WANTED.iter().copied().filter(|what| self.0.get(what).is_none_or(|&times| times == 0)).collect()
    }
}
