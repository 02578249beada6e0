//! Servers that start one after another, on wall clocks that are right or wrong, and what a last start makes of it.

use banter_log::segment::{Class, SegmentHeader};

use super::*;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
const YEAR_MS: u64 = 365 * DAY_MS;
/// Some day.
const DAY_ONE_MS: u64 = 1_700_000_000_000;

/// The log, and what time it really is.
struct History {
    true_ms: u64,
    segments: Vec<(SegmentHeader, u64)>,
}

impl History {
    fn new() -> Self {
        History { true_ms: DAY_ONE_MS, segments: Vec::new() }
    }

    fn start_ms(&self, off_ms: i64) -> u64 {
        let newest_ms = self.segments.iter().map(|(_, newest_ms)| *newest_ms).max();
        LogClock::start_behind(newest_ms, self.true_ms.saturating_add_signed(off_ms))
    }

    /// A server runs for so long, on a wall clock that is off by that much, and writes its last message at its end.
    fn run(&mut self, off_ms: i64, for_ms: u64) -> &mut Self {
        let made_unix_ms = self.start_ms(off_ms);
        let mut clock = LogClock::new(Some(made_unix_ms));
        for monotonic_ms in [0, for_ms] {
            let unix_ms = (self.true_ms + monotonic_ms).saturating_add_signed(off_ms);
            clock.advance(Now { monotonic_ms, unix_ms, ..Now::default() });
        }
        self.true_ms += for_ms;
        let id = self.segments.len() as u64 + 1;
        self.segments.push((SegmentHeader { run: id, made_unix_ms, ..of(id, 0, 0, 0).0 }, clock.time_ms()));
        self
    }

    /// No server runs for so long.
    fn away(&mut self, for_ms: u64) -> &mut Self {
        self.true_ms += for_ms;
        self
    }

    /// One more start.
    fn start(&self, off_ms: i64) -> Start {
        let unix_ms = self.true_ms.saturating_add_signed(off_ms);
        let ages = Ages::new(1_000, self.start_ms(off_ms), unix_ms, &self.segments);
        Start { ages, true_ms: self.true_ms, off_ms, elapsed_ms: 0, segments: self.segments.clone() }
    }
}

struct Start {
    ages: Ages,
    true_ms: u64,
    off_ms: i64,
    elapsed_ms: u64,
    segments: Vec<(SegmentHeader, u64)>,
}

impl Start {
    fn pass(&mut self, for_ms: u64) -> &mut Self {
        for _ in 0..for_ms / MINUTE_MS {
            self.elapsed_ms += MINUTE_MS;
            let unix_ms = (self.true_ms + self.elapsed_ms).saturating_add_signed(self.off_ms);
            self.ages.advance(self.elapsed_ms, unix_ms);
        }
        self
    }

    /// The ages of what each run wrote last, in whole hours.
    fn hours(&self) -> Vec<u64> {
        let ages = self.segments.iter().map(|(header, newest_ms)| self.ages.age_ms(header.run, *newest_ms));
        ages.map(|age_ms| age_ms / HOUR_MS).collect()
    }
}

#[test]
fn after_days_without_a_server_everything_is_that_much_older_but_not_in_the_first_minutes() {
    let mut history = History::new();
    history.run(0, HOUR_MS).away(DAY_MS).run(0, HOUR_MS).away(2 * DAY_MS);
    let mut start = history.start(0);
    assert_eq!(start.ages.moved(), None);
    assert_eq!(start.pass(BELIEVED_BEHIND_MS - MINUTE_MS).hours(), [1, 0], "what the runs themselves took");
    assert_eq!(start.pass(MINUTE_MS).hours(), [73, 48]);
    assert_eq!(start.pass(HOUR_MS).hours(), [74, 49]);
}

#[test]
fn a_clock_that_is_set_right_within_the_first_minutes_was_never_believed() {
    for off_ms in [100 * DAY_MS as i64, -100 * DAY_MS as i64] {
        let mut history = History::new();
        let mut start = history.run(0, HOUR_MS).away(3 * HOUR_MS).start(off_ms);
        start.pass(BELIEVED_BEHIND_MS / 2);
        start.off_ms = 0;
        assert_eq!(start.pass(BELIEVED_BEHIND_MS - MINUTE_MS).hours(), [0], "it has to stand anew");
        assert_eq!(start.pass(2 * MINUTE_MS).hours(), [3], "off by {off_ms}");
    }
}

#[test]
fn a_step_of_the_clock_makes_nothing_older_later_on() {
    let mut history = History::new();
    let mut start = history.run(0, HOUR_MS).away(3 * HOUR_MS).start(0);
    start.pass(HOUR_MS);
    start.off_ms = 100 * DAY_MS as i64;
    assert!(start.pass(10 * HOUR_MS).hours()[0] <= 3 + 12, "{:?}", start.hours());
}

#[test]
fn a_clock_ahead_by_years_neither_cuts_now_nor_once_it_is_right_again() {
    let mut history = History::new();
    let mut start = history.run(0, HOUR_MS).away(HOUR_MS).start(3 * YEAR_MS as i64);
    assert!(matches!(start.ages.moved(), Some(Moved::Ahead(ms)) if ms > 2 * YEAR_MS));
    assert_eq!(start.pass(2 * HOUR_MS).hours(), [2]);
    history.run(3 * YEAR_MS as i64, HOUR_MS).away(HOUR_MS);
    let mut start = history.start(0);
    assert!(matches!(start.ages.moved(), Some(Moved::Behind(ms)) if ms > 2 * YEAR_MS));
    let first = start.pass(2 * HOUR_MS).hours();
    assert!(first[0] <= 4 && first[1] == 1, "{first:?}: the clock of the log comes nearer by a tenth");
    history.run(0, HOUR_MS).away(HOUR_MS);
    assert!(history.start(0).pass(DAY_MS).hours().iter().all(|hours| (21..27).contains(hours)), "nothing is pinned");
}

#[test]
fn a_clock_that_starts_at_1970_and_is_right_at_the_next_start_cuts_nothing() {
    let behind_ms = -(DAY_ONE_MS as i64);
    let mut history = History::new();
    history.run(behind_ms, HOUR_MS).away(HOUR_MS);
    assert_eq!(history.start(0).pass(HOUR_MS).hours(), [1]);
    history.run(0, HOUR_MS).away(HOUR_MS);
    assert_eq!(history.start(0).pass(HOUR_MS).hours(), [3, 2], "nor the one after it");
    let mut history = History::new();
    let mut start = history.run(0, HOUR_MS).away(DAY_MS).start(behind_ms);
    assert!(matches!(start.ages.moved(), Some(Moved::Behind(_))));
    assert!((21..=24).contains(&start.pass(DAY_MS).hours()[0]), "it ages by what passes");
}

#[test]
fn what_was_ahead_by_days_for_minutes_makes_nothing_older_at_the_starts_behind_it() {
    let mut history = History::new();
    history.run(0, HOUR_MS).run(30 * DAY_MS as i64, 5 * MINUTE_MS).away(HOUR_MS);
    let hours = history.start(0).pass(HOUR_MS).hours();
    assert!(hours.iter().all(|&hours| hours <= 3), "{hours:?}");
}

#[test]
fn a_window_holds_what_was_in_it_when_the_last_run_ended() {
    let mut history = History::new();
    let mut start = history.run(0, HOUR_MS).away(9 * DAY_MS).start(0);
    let (header, newest_ms) = start.segments[0];
    assert!(start.ages.is_within(header.run, newest_ms, 300_000));
    start.pass(6 * MINUTE_MS);
    assert!(!start.ages.is_within(header.run, newest_ms, 300_000));
}

fn of(id: u64, core: u16, run: u64, newest_ms: u64) -> (SegmentHeader, u64) {
    let made_unix_ms = run.saturating_mul(100);
    (SegmentHeader { id, nonce: 1, core, class: Class::SERVER, run, made_unix_ms, file_bytes: 8_192 }, newest_ms)
}

#[test]
fn a_message_of_the_future_is_no_newer_than_what_was_written_behind_it() {
    let far_ms = u64::MAX - 7;
    let mut found = [of(1, 0, 1, far_ms), of(2, 1, 1, 190), of(3, 0, 1, 150), of(4, 1, 1, far_ms), of(5, 0, 2, far_ms)];
    settle(&mut found, 290);
    assert_eq!(found.map(|(_, newest_ms)| newest_ms), [150, 190, 150, 200, 290]);
    let mut found = [of(1, 0, 1, 150), of(2, 0, 1, 0), of(3, 0, 1, 190), of(4, 0, 2, 220)];
    let before = found;
    settle(&mut found, 290);
    assert_eq!(found, before, "what can be stays, and an empty one bounds nothing");
}

#[test]
fn times_that_no_clock_made_are_no_fault() {
    let segments = [of(1, 0, 1, u64::MAX), of(2, 0, 2, 1), of(3, 0, u64::MAX, 3)];
    for start_ms in [0, 5, u64::MAX] {
        let mut found = segments;
        settle(&mut found, start_ms);
        for segments in [segments, found] {
            let mut ages = Ages::new(7, start_ms, 0, &segments);
            ages.advance(BELIEVED_BEHIND_MS, u64::MAX);
            ages.advance(u64::MAX, 0);
            for (header, newest_ms) in segments {
                let _ = ages.age_ms(header.run, newest_ms);
            }
        }
    }
}
