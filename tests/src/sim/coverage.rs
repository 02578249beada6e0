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
    "closed as revoked",
    "connection paused",
    "cursor_ahead",
    "cut off while closing",
    "damage found by a reader",
    "delivery",
    "disconnected",
    "disk full",
    "drained",
    "duplicate of an earlier run",
    "duplicate post",
    "echo spared",
    "epoch file damaged",
    "epoch file missing",
    "fell behind",
    "fetch page",
    "followed block rotten",
    "goes on where it read",
    "guest came in",
    "guest refused for a right",
    "guest revoked or disconnected",
    "hello refused",
    "hours passed",
    "hours without a server",
    "index damaged",
    "index made again",
    "index mended",
    "index missing",
    "index of another segment",
    "join refused for a right",
    "key evicted for bytes",
    "key pushed out by its author",
    "key used again behind its window",
    "key_conflict",
    "keyed post refused for a read that failed",
    "kicked out of a room",
    "killed",
    "ledger damaged",
    "ledger missing",
    "ledger of a copy",
    "left",
    "log work over several turns",
    "log_failed",
    "log_full",
    "members answer",
    "more epochs",
    "newest slot of the epoch file torn or rotten",
    "newest slot of the ledger rotten",
    "newest slot of the ledger torn",
    "no space for a segment",
    "older slot of the epoch file rotten",
    "older slot of the epoch file torn",
    "older slot of the ledger rotten",
    "older slot of the ledger torn",
    "page or members refused for a right",
    "post of a guest",
    "post refused for a right",
    "power cut",
    "power cut at risk",
    "power cut behind an acknowledgement",
    "presence counts only",
    "presence of a user",
    "proved block of an unsealed segment rotten",
    "rate_limited",
    "read brought a wrong bit",
    "read came to nothing",
    "read failed",
    "read from the log",
    "rejoin",
    "rejoin while joining",
    "removed for a right",
    "renewal refused",
    "replaced by a newer connection",
    "resumed",
    "rights of everybody changed",
    "room came back to a class",
    "room changed its class",
    "room changed its level",
    "room forgotten",
    "room took no more posts",
    "rooms_per_connection_max",
    "segment cut",
    "segment cut by the plan",
    "segment cut whose index cannot be read",
    "segment dropped",
    "segment dropped before its index was written",
    "segment left",
    "segment left by the plan",
    "segment of a class of its own",
    "segment rotten",
    "segment sealed",
    "signal",
    "signal dropped",
    "stalled",
    "start refused",
    "started again behind a failure",
    "stopped in order",
    "sync failed",
    "table of an older segment unreadable",
    "token for a room ended",
    "token for a room was revoked",
    "token or session revoked",
    "token renewed",
    "token that nothing could judge",
    "told that its token ends soon",
    "user revoked",
    "vanished",
    "vanished with a send in flight",
    "waited for a lane",
    "wall clock stepped",
    "wall clock stepped at a restart",
    "what a start found was held against the disk",
    "what is told was held against the disk",
    "write failed",
    "written through",
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
