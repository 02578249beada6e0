//! What a core counts, for `/metrics`.

use banter_access::limit::LimitCounts;
use banter_protocol::error_code::ErrorCode;

/// Totals since the start of one core, but for the fields that say "now".
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Posts that got a place.
    pub posts: u64,
    /// Posts whose key was known.
    pub duplicate_posts: u64,
    /// Messages handed to a socket for a subscription.
    pub deliveries: u64,
    /// Times that a room's messages began to wait for company.
    pub waits: u64,
    /// The share of its time that the core is busy now, in thousandths.
    pub busy_permille: u64,
    /// Signals taken from members.
    pub signals: u64,
    /// Signals that readers lost that were behind, and that a full lane or a turn's budget lost.
    pub signals_dropped: u64,
    /// Presence events replaced by a count, since an outbox or lane was full.
    pub presence_dropped: u64,
    /// Times that a subscription fell behind.
    pub fell_behind: u64,
    /// Of these, since batches of its room were left out for want of room in a lane.
    pub fell_behind_by_lag: u64,
    /// Of these, since it did not take what was sent to it, and the run went on without it.
    pub fell_behind_by_run: u64,
    /// Gaps told to subscriptions.
    pub gaps: u64,
    /// Times that a lane was full and a room's batch was left out.
    pub batches_lagged: u64,
    /// Times that a connection stopped being read for a while.
    pub pauses: u64,
    /// Commits of the log.
    pub commits: u64,
    /// Bytes of records in them.
    pub committed_bytes: u64,
    /// Pages of history that were read from the log.
    pub log_pages: u64,
    /// Reads of the log that did not find what should be there.
    pub damaged_reads: u64,
    /// Keys that were forgotten within their window, for want of bytes.
    pub dedupe_early_evictions: u64,
    /// Refusals by code, at `code as usize`.
    pub refusals: [u64; ErrorCode::ALL.len() + 1],
    /// Refusals by limit.
    pub limits: LimitCounts,
    /// Rooms now.
    pub rooms: u64,
    /// Bytes of history now.
    pub history_bytes: u64,
    /// Remembered keys now.
    pub dedupe_keys: u64,
    /// Rough bytes of remembered keys now.
    pub dedupe_bytes: u64,
    /// Open connections now.
    pub connections: u64,
    /// Those of them that are guests now.
    pub guests: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// Subscriptions that are behind now.
    pub subscriptions_behind: u64,
    /// Bytes of runs now.
    pub run_bytes: u64,
    /// Posts that wait for a commit or are in one now.
    pub log_waiting_posts: u64,
    /// Bytes of their records.
    pub log_waiting_bytes: u64,
    /// Pages that were asked of this core's rooms and are not answered now.
    pub pages_waiting: u64,
    /// Answers that wait now for room in the lane to their connection's core.
    pub answers_waiting: u64,
    /// Bytes that wait now in the outboxes of connections.
    pub outbox_bytes: u64,
    /// Connections that are not read now.
    pub paused_connections: u64,
    /// Steps that were taken: what a turn does is bounded by what came in it and by named limits, and the simulated world
    /// holds it against that.
    pub steps: u64,
}

impl Counters {
    /// Counts a refusal.
    pub fn refused(&mut self, code: ErrorCode) {
        self.refusals[code as usize] += 1;
    }
}
