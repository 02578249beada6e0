//! How old a segment is: by the log's own clock, and, of the time in which no server ran, by the wall clock's word where
//! that can be believed.
//!
//! ```text
//!  as it was logged   ──[run 1]────────────[run 2]───────────[run 3, this one ──▶
//!  surely passed            └─▶          └─▶     └─▶        └─────────▶     what the runs themselves took
//!  said to have passed      └──── away ───▶       └── away ──▶              what lies between: the wall clock's word
//! ```
//!
//! Invariants:
//! - A segment is at least as old as servers ran since its newest message: no clock can take that back, so none pins it.
//! - Time in which no server ran makes it older only as far as the wall clock says so twice: between the runs, and from
//!   the message to now. So a clock that was wrong at one start, ahead or behind, and is right again cuts nothing.
//! - Of this start the wall clock is asked once it has stood for [`BELIEVED_BEHIND_MS`], and not again: a step makes nothing
//!   older. More than [`AWAY_MS_MAX`] between two runs is a wrong clock.

use std::collections::BTreeMap;

use banter_chat::address::Now;
use banter_chat::clock::LogClock;
use banter_log::runs::Runs;
use banter_log::segment::SegmentHeader;

/// How long the wall clock has to stand at a start before its word counts: a machine that starts with a wrong one has it
/// set by then, or somebody has read what the start says of it.
pub const BELIEVED_BEHIND_MS: u64 = 10 * 60_000;
/// A wall clock that differs from itself by more than this has been set.
const STEP_MS: u64 = 60_000;
/// No server is away for longer than this between two starts: a clock that says so is wrong.
pub const AWAY_MS_MAX: u64 = 366 * 86_400_000;

/// What the log holds of one earlier start.
#[derive(Clone, Copy, Debug)]
struct Written {
    made_ms: u64,
    newest_ms: u64,
}

/// The clocks by which segments age. Entries: one for each earlier start that left a segment.
#[derive(Debug)]
pub struct Ages {
    run: u64,
    runs: Runs,
    clock: LogClock,
    /// Of each earlier run: how long no server ran between it and the last earlier one, as the clocks of then say.
    away_ms: BTreeMap<u64, u64>,
    /// The time of the newest message before this run.
    newest_ms: Option<u64>,
    wall: Wall,
}

/// What the wall clock says of when this start was.
#[derive(Clone, Copy, Debug)]
struct Wall {
    started_ms: u64,
    /// How long after the start it was last set.
    stands_since_ms: u64,
    elapsed_ms: u64,
    /// How long it has to stand until it is believed.
    believed_behind_ms: u64,
    is_believed: bool,
}

/// How a wall clock stands to the newest message of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Behind it, by so many milliseconds: it was set back, or that of an earlier start was ahead.
    Behind(u64),
    /// So far ahead of it that no server was away for so long.
    Ahead(u64),
}

impl Ages {
    /// At a start whose clocks begin at `start_ms`, when the wall clock says `unix_ms`; `earlier` are the segments of the
    /// starts before, with the times of their newest messages, 0 where there is none.
    pub fn new(run: u64, start_ms: u64, unix_ms: u64, earlier: &[(SegmentHeader, u64)]) -> Self {
        let mut runs = Runs::default();
        let mut written: BTreeMap<u64, Written> = BTreeMap::new();
        // One without a message says nothing of when it was written.
        for (header, newest_ms) in earlier.iter().filter(|(header, newest_ms)| header.run < run && *newest_ms != 0) {
            runs.add(header, *newest_ms);
            let made_ms = header.made_unix_ms;
            let there = written.entry(header.run).or_insert(Written { made_ms, newest_ms: *newest_ms });
            *there = Written { made_ms: there.made_ms.min(made_ms), newest_ms: there.newest_ms.max(*newest_ms) };
        }
        runs.begin(start_ms);
        let mut clock = LogClock::new(Some(start_ms));
        clock.advance(Now { unix_ms, ..Now::default() });
        let newest_ms = written.values().next_back().map(|last| last.newest_ms);
        let (started_ms, believed_behind_ms) = (unix_ms, BELIEVED_BEHIND_MS);
        let wall = Wall { started_ms, stands_since_ms: 0, elapsed_ms: 0, believed_behind_ms, is_believed: false };
        Ages { run, runs, clock, away_ms: away_between(&written), newest_ms, wall }
    }

    /// The same, but the wall clock is believed behind that time.
    #[must_use]
    pub fn believing_behind(self, believed_behind_ms: u64) -> Self {
        Ages { wall: Wall { believed_behind_ms, ..self.wall }, ..self }
    }

    /// Whether the wall clock of this start is one that was moved.
    pub fn moved(&self) -> Option<Moved> {
        let (newest_ms, unix_ms) = (self.newest_ms?, self.wall.started_ms);
        let behind_ms = newest_ms.saturating_sub(unix_ms);
        let ahead_ms = unix_ms.saturating_sub(newest_ms);
        let behind = (behind_ms > STEP_MS).then_some(Moved::Behind(behind_ms));
        behind.or((ahead_ms > AWAY_MS_MAX).then_some(Moved::Ahead(ahead_ms)))
    }

    /// Goes on to so long after the start, by a clock that also counts while the machine is suspended.
    pub fn advance(&mut self, elapsed_ms: u64, unix_ms: u64) {
        self.clock.advance(Now { monotonic_ms: elapsed_ms, unix_ms, ..Now::default() });
        self.wall.advance(elapsed_ms, unix_ms);
    }

    /// The log's time, milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.clock.time_ms()
    }

    /// Whether something of that time, of that run, may still be within a window of that length.
    pub fn is_within(&self, run: u64, newest_ms: u64, window_ms: u32) -> bool {
        self.runs.clock_ms(run, newest_ms) >= self.clock.since_ms(window_ms)
    }

    /// How old something of that time is, of that run.
    pub fn age_ms(&self, run: u64, newest_ms: u64) -> u64 {
        let passed_ms = self.now_ms().saturating_sub(self.runs.clock_ms(run, newest_ms));
        passed_ms.max(self.said_age_ms(run, newest_ms, passed_ms).unwrap_or(0))
    }

    /// The same by the wall clock's word; `None` where that is not asked.
    fn said_age_ms(&self, run: u64, newest_ms: u64, passed_ms: u64) -> Option<u64> {
        if !self.wall.is_believed || run >= self.run {
            return None;
        }
        let away_ms = away_of(self.newest_ms?, self.wall.started_ms);
        let between_ms = self.away_ms.get(&run).copied().unwrap_or(0);
        let by_runs_ms = passed_ms.saturating_add(between_ms).saturating_add(away_ms);
        let wall_ms = self.wall.started_ms.saturating_add(self.wall.elapsed_ms);
        Some(by_runs_ms.min(wall_ms.saturating_sub(newest_ms)))
    }
}

/// How long no server ran, from one time to another. What cannot be is not counted.
fn away_of(newest_ms: u64, next_ms: u64) -> u64 {
    let away_ms = next_ms.saturating_sub(newest_ms);
    if away_ms > AWAY_MS_MAX { 0 } else { away_ms }
}

fn away_between(written: &BTreeMap<u64, Written>) -> BTreeMap<u64, u64> {
    let (mut away_ms, mut next_ms, mut sum_ms) = (BTreeMap::new(), None, 0_u64);
    for (&run, there) in written.iter().rev() {
        sum_ms = sum_ms.saturating_add(next_ms.map_or(0, |next_ms| away_of(there.newest_ms, next_ms)));
        away_ms.insert(run, sum_ms);
        next_ms = Some(there.made_ms);
    }
    away_ms
}

impl Wall {
    fn advance(&mut self, elapsed_ms: u64, unix_ms: u64) {
        self.elapsed_ms = elapsed_ms;
        if self.is_believed {
            return;
        }
        let started_ms = unix_ms.saturating_sub(elapsed_ms);
        if started_ms.abs_diff(self.started_ms) > STEP_MS {
            (self.started_ms, self.stands_since_ms) = (started_ms, elapsed_ms);
        }
        self.is_believed = elapsed_ms.saturating_sub(self.stands_since_ms) >= self.believed_behind_ms;
    }
}

/// Takes times back that cannot be: a core's segments of one run and class are written one after another, so none is newer than
/// the next, nor than the start of a later run or of this one. A message that is stamped in the future so holds nothing.
/// Segments by id, with the times of their newest messages, 0 where there is none.
pub fn settle(segments: &mut [(SegmentHeader, u64)], start_ms: u64) {
    let ends_ms = ends_of_runs(segments, start_ms);
    let mut next_ms = BTreeMap::new();
    for (header, newest_ms) in segments.iter_mut().rev().filter(|(_, newest_ms)| *newest_ms != 0) {
        let end_ms = ends_ms.get(&header.run).copied().unwrap_or(start_ms);
        let bound_ms = next_ms.entry((header.run, header.core, header.class)).or_insert(end_ms);
        *bound_ms = (*newest_ms).min(*bound_ms).max(1);
        *newest_ms = *bound_ms;
    }
}

/// When each run was over at the latest: when the first segment of a later one was made.
fn ends_of_runs(segments: &[(SegmentHeader, u64)], start_ms: u64) -> BTreeMap<u64, u64> {
    let mut made_ms: BTreeMap<u64, u64> = BTreeMap::new();
    for (header, _) in segments {
        let first_ms = made_ms.entry(header.run).or_insert(header.made_unix_ms);
        *first_ms = (*first_ms).min(header.made_unix_ms);
    }
    let mut end_ms = start_ms;
    made_ms.values_mut().rev().for_each(|made_ms| end_ms = end_ms.min(std::mem::replace(made_ms, end_ms)));
    made_ms
}

#[cfg(test)]
mod tests;
