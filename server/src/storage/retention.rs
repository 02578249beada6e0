//! Which segments of the log go, as a decision over values: nothing is read, written or removed here.
//!
//! Invariants:
//! - The segments of a class go strictly in the order in which they were made. So what is missing of a class is what it had
//!   first, and one that is missing in the midst was lost.
//! - Nothing goes that has a message within the dedupe window, and nothing behind it.
//! - What is being written does not go. Where it stands in the way of others, its core is asked to leave it for the next,
//!   and it is, too, before what it holds grows much older than its class keeps. Where there is no next one, as on a full
//!   disk, only what would go at once is left.

use std::collections::BTreeMap;

use banter_log::segment::{Class, SegmentHeader};

use super::ages::Ages;

const HOUR_MS: u64 = 3_600_000;
/// A segment is written for at most this part of the hours that its class keeps: what came first in it lives that much
/// longer than it should.
const WRITTEN_PARTS: u64 = 4;

/// A segment, as far as this asks.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its header.
    pub header: SegmentHeader,
    /// Bytes of its file, as it is.
    pub file_bytes: u64,
    /// The time of its newest message; `None` while it is written.
    pub newest_ms: Option<u64>,
}

/// What holds for all.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What the server's own class keeps.
    pub server: Class,
    /// The dedupe window.
    pub window_ms: u32,
}

/// What is to be done, by ids; oldest first in each class.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Segments that the cores are to forget.
    pub cut: Vec<u64>,
    /// Segments that are written, and are to be left for the next.
    pub leave: Vec<Leave>,
}

/// A segment that is to be left; when, only its core can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// The segment.
    pub segment: u64,
    /// If its first message is at most of that time, milliseconds since 1970; the largest number: in any case.
    pub first_ms: u64,
    /// Also where there is no next one, if its newest message is at most of that time: then it goes at once.
    pub newest_ms: u64,
}

/// What goes of these segments, which come by their ids and are not cut yet.
pub fn plan(held: impl Iterator<Item = Held>, rules: Rules, ages: &Ages) -> Plan {
    let mut classes: BTreeMap<Class, Vec<Held>> = BTreeMap::new();
    held.for_each(|segment| classes.entry(segment.header.class).or_default().push(segment));
    let mut plan = Plan::default();
    for (class, held) in classes {
        let kept = kept_of(class, rules.server);
        Judge { kept, window_ms: rules.window_ms, ages }.judge(&held, &mut plan);
    }
    plan
}

/// What a class keeps: where it names no limit the server's holds, for its files alone.
fn kept_of(class: Class, server: Class) -> Class {
    let hours = if class.hours == 0 { server.hours } else { class.hours };
    let bytes = if class.bytes == 0 { server.bytes } else { class.bytes };
    Class { hours, bytes }
}

struct Judge<'a> {
    kept: Class,
    window_ms: u32,
    ages: &'a Ages,
}

impl Judge<'_> {
    fn judge(&self, held: &[Held], plan: &mut Plan) {
        let mut bytes = held.iter().map(|segment| segment.file_bytes).fold(0, u64::saturating_add);
        // Those that are written, how many of them stand before one that is to go, and whether what comes now may go.
        let (mut written, mut in_the_way_count, mut may_go) = (Vec::new(), 0, true);
        for segment in held {
            let Some(newest_ms) = segment.newest_ms else {
                written.push(self.leave(segment, bytes));
                continue;
            };
            may_go &= self.goes(segment.header.run, newest_ms, bytes);
            if may_go {
                bytes = bytes.saturating_sub(segment.file_bytes);
                in_the_way_count = written.len();
                if in_the_way_count == 0 {
                    plan.cut.push(segment.header.id);
                }
            }
        }
        written.iter_mut().take(in_the_way_count).for_each(|leave| leave.first_ms = u64::MAX);
        plan.leave.extend(written.into_iter().filter(|leave| leave.first_ms != 0));
    }

    /// When a segment is to be left of whose class there are so many bytes with it: once it was written for long since its
    /// first message. None can have one of the time 0, which stands for never.
    fn leave(&self, segment: &Held, bytes: u64) -> Leave {
        let before = |ms: u64| self.ages.now_ms().saturating_sub(ms).saturating_sub(1);
        let long_ago_ms = before(self.hours_ms() / WRITTEN_PARTS);
        let may_be_long = self.kept.hours != 0 && segment.header.made_unix_ms <= long_ago_ms;
        let is_above = self.kept.bytes != 0 && bytes > self.kept.bytes;
        let due_ms = if is_above { u64::MAX } else { u64::from(self.kept.hours != 0) * before(self.hours_ms()) };
        Leave {
            segment: segment.header.id,
            first_ms: u64::from(may_be_long) * long_ago_ms,
            newest_ms: due_ms.min(before(self.window_ms.into())),
        }
    }

    fn goes(&self, run: u64, newest_ms: u64, bytes: u64) -> bool {
        let is_above = self.kept.bytes != 0 && bytes > self.kept.bytes;
        let is_old = || self.kept.hours != 0 && self.ages.age_ms(run, newest_ms) > self.hours_ms();
        (is_above || is_old()) && !self.ages.is_within(run, newest_ms, self.window_ms)
    }

    fn hours_ms(&self) -> u64 {
        u64::from(self.kept.hours) * HOUR_MS
    }
}

#[cfg(test)]
mod tests;
