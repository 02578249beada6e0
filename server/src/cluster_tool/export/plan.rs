//! In which order and under which numbers a folder has what the partitions hold: of what was seen of them, and nothing else.
//!
//! Each partition counts its segments, runs and epochs by itself, and a folder has one count of each:
//!
//! - **Ids** go by time, so that retention takes the oldest of a class first, whatever partition they came from; of a partition they
//!   keep their order.
//! - **Runs** are those times in which something was written without a pause: what is of one time in all partitions is of one run, so
//!   that no key grows older by a time in which nobody served. They lie above every number that was given.
//! - **Epochs** of rooms stay. That of rooms without a message is the largest of all partitions: no room had it while it had messages
//!   that are gone.
//! - Whether a room may have been of another class is judged by which runs came before the last change of the configuration, as each
//!   partition says it. Where none ever changed, nothing that was dropped concerns a room that is there.

use std::collections::BTreeMap;

use banter_cluster::looking::Looked;
use banter_log::segment::SegmentHeader;
use banter_protocol::ids::Epoch;

use crate::storage::ledger::{Ledger, Levels};

/// Numbers that may be given while the export is under way.
const GIVEN_MEANWHILE: u64 = 1 << 20;

/// A segment of the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// Whose it is.
    pub partition: u16,
    /// Its number there.
    pub source: u64,
    /// Where its blocks end.
    pub end_offset: u64,
    /// Its header in the folder, but for how long the file is.
    pub header: SegmentHeader,
}

/// What a folder is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Its segments, by their ids.
    pub segments: Vec<Planned>,
    /// Behind the runs that came before the configuration changed last; 0: it never changed.
    changed: u64,
    /// Behind all runs: the largest number.
    pub largest: u64,
}

/// A run of a partition: when its first segment was made, and its newest record.
#[derive(Clone, Copy)]
struct Run {
    made_ms: u64,
    newest_ms: u64,
    is_before: bool,
}

/// Of what was seen of each partition, by their numbers.
pub(super) fn of(looked: &[Looked]) -> Plan {
    let (runs, changed, largest) = runs(looked);
    let mut segments = Vec::new();
    for (partition, seen) in (0..).zip(looked) {
        let mut at_ms = 0;
        for segment in &seen.segments {
            at_ms = segment.newest_ms.max(at_ms);
            segments.push((at_ms, partition, *segment));
        }
    }
    segments.sort_by_key(|(at_ms, partition, segment)| (*at_ms, *partition, segment.header.id));
    let planned = (1..).zip(segments).map(|(id, (_, partition, segment))| {
        let run = runs.get(&(partition, segment.header.run)).copied().unwrap_or(largest);
        let header = SegmentHeader { id, run, core: 0, ..segment.header };
        Planned { partition, source: segment.header.id, end_offset: segment.end_offset, header }
    });
    Plan { segments: planned.collect(), changed, largest }
}

/// The folder's run of each partition's, behind which of them the configuration changed, and a number above all.
fn runs(looked: &[Looked]) -> (BTreeMap<(u16, u64), u64>, u64, u64) {
    let mut found: BTreeMap<(u16, u64), Run> = BTreeMap::new();
    for (partition, seen) in (0..).zip(looked) {
        for segment in &seen.segments {
            let SegmentHeader { run, made_unix_ms: made_ms, .. } = segment.header;
            let newest_ms = segment.newest_ms.max(made_ms);
            let new = Run { made_ms, newest_ms, is_before: run < seen.epochs.lowered };
            let run = found.entry((partition, run)).or_insert(new);
            (run.made_ms, run.newest_ms) = (run.made_ms.min(made_ms), run.newest_ms.max(newest_ms));
        }
    }
    let mut sorted: Vec<_> = found.into_iter().collect();
    sorted.sort_by_key(|(_, run)| (!run.is_before, run.made_ms));
    let mut number =
        looked.iter().map(|seen| seen.number.max(seen.epochs.largest())).max().unwrap_or(0) + GIVEN_MEANWHILE;
    let has_changed = looked.iter().any(|seen| seen.epochs.lowered > 0);
    let (mut runs, mut open) = (BTreeMap::new(), None::<Run>);
    let mut changed = 0;
    for (key, run) in sorted {
        if has_changed && !run.is_before && changed == 0 {
            (number, open) = (number + 1, None);
            changed = number;
        }
        match &mut open {
            Some(before) if run.made_ms <= before.newest_ms => before.newest_ms = before.newest_ms.max(run.newest_ms),
            _ => (number, open) = (number + 1, Some(run)),
        }
        runs.insert(key, number);
    }
    if has_changed && changed == 0 {
        number += 1;
        changed = number;
    }
    (runs, changed, number + 1)
}

impl Plan {
    /// What the folder's ledger says, but for its last run.
    pub(super) fn ledger(&self, looked: &[Looked], blank_epoch: u64) -> Ledger {
        let blank = looked.iter().map(|seen| seen.epochs.blank).max().unwrap_or(blank_epoch);
        let has_dropped = looked.iter().any(|seen| seen.epochs.dropped > 0);
        let mut said = looked.iter().map(|seen| seen.epochs.levels).filter(|levels| *levels != 0);
        let hash = said.next().filter(|first| said.all(|other| other == *first)).unwrap_or(0);
        Ledger {
            blank: Epoch(blank),
            dropped: Epoch(if has_dropped && self.changed > 0 { self.largest } else { 0 }),
            levels: Levels { hash, epoch: Epoch(self.changed) },
            ..Ledger::default()
        }
    }
}

/// What a partition says by now beside what it held; `false`: its configuration changed meanwhile.
#[must_use]
pub(super) fn follow(looked: &mut Looked, now: &Looked) -> bool {
    let is_same = (looked.epochs.lowered, looked.epochs.levels) == (now.epochs.lowered, now.epochs.levels);
    looked.epochs.blank = looked.epochs.blank.max(now.epochs.blank);
    looked.epochs.dropped = looked.epochs.dropped.max(now.epochs.dropped);
    looked.number = looked.number.max(now.number);
    is_same
}

#[cfg(test)]
mod tests {
    use banter_cluster::entry::StreamEpochs;
    use banter_cluster::looking::LookedSegment;
    use banter_log::segment::Class;

    use super::*;

    fn segment(id: u64, run: u64, made_unix_ms: u64, newest_ms: u64) -> LookedSegment {
        let header =
            SegmentHeader { id, nonce: id * 7, core: 0, class: Class::SERVER, run, made_unix_ms, file_bytes: 1 << 20 };
        LookedSegment { header, end_offset: 8_192, newest_ms }
    }

    fn looked(segments: &[LookedSegment], epochs: StreamEpochs, number: u64) -> Looked {
        Looked { through: 9, segments: segments.to_vec(), rooms: 1, epochs, number, next_segment: 1 }
    }

    fn blank(blank: u64) -> StreamEpochs {
        StreamEpochs { blank, ..StreamEpochs::default() }
    }

    fn order(plan: &Plan) -> Vec<(u16, u64)> {
        plan.segments.iter().map(|planned| (planned.partition, planned.source)).collect()
    }

    fn run_of(plan: &Plan, partition: u16, source: u64) -> u64 {
        let found = plan.segments.iter().find(|planned| (planned.partition, planned.source) == (partition, source));
        found.unwrap().header.run
    }

    #[test]
    fn ids_go_by_time_over_all_partitions_and_by_number_within_one() {
        let one = looked(&[segment(1, 5, 10, 20), segment(2, 5, 20, 90), segment(3, 5, 30, 40)], blank(4), 5);
        let two = looked(&[segment(1, 5, 10, 15), segment(2, 5, 40, 50)], blank(4), 5);
        let plan = of(&[one, two]);
        assert_eq!(order(&plan), [(1, 1), (0, 1), (1, 2), (0, 2), (0, 3)]);
        let ids: Vec<u64> = plan.segments.iter().map(|planned| planned.header.id).collect();
        assert_eq!((ids, plan.segments[1].header.nonce), (vec![1, 2, 3, 4, 5], 7));
    }

    #[test]
    fn what_was_written_in_one_time_is_one_run_whatever_its_partition_counted() {
        // The first forgot much in between, so that its second run has a large number.
        let one = looked(&[segment(1, 5, 0, 100), segment(2, 90, 1_000, 1_001)], blank(4), 90);
        let two =
            looked(&[segment(1, 5, 10, 90), segment(2, 6, 1_000, 2_000), segment(3, 7, 5_000, 6_000)], blank(4), 7);
        let plan = of(&[one, two]);
        let runs = [(0, 1), (1, 1), (0, 2), (1, 2), (1, 3)].map(|(partition, source)| run_of(&plan, partition, source));
        let first = 90 + GIVEN_MEANWHILE + 1;
        assert_eq!(runs, [first, first, first + 1, first + 1, first + 2]);
        assert_eq!(plan.largest, first + 3);
    }

    #[test]
    fn where_the_configuration_never_changed_nothing_that_was_dropped_concerns_a_room_that_is_there() {
        let seen = [
            looked(&[segment(4, 5, 0, 1)], StreamEpochs { blank: 8, dropped: 8, lowered: 0, levels: 3 }, 8),
            looked(&[], StreamEpochs { levels: 3, ..blank(4) }, 4),
        ];
        let ledger = of(&seen).ledger(&seen, 1);
        assert_eq!((ledger.blank, ledger.dropped), (Epoch(8), Epoch(0)));
        assert_eq!(ledger.levels, Levels { hash: 3, epoch: Epoch(0) });
    }

    #[test]
    fn runs_from_before_a_change_of_the_configuration_lie_before_it_and_what_was_dropped_behind_all() {
        let epochs = StreamEpochs { blank: 9, dropped: 9, lowered: 7, levels: 3 };
        let seen = [
            looked(&[segment(1, 5, 0, 10), segment(2, 8, 20, 30)], epochs, 9),
            looked(&[segment(1, 3, 0, 25)], StreamEpochs { lowered: 4, ..epochs }, 9),
        ];
        let plan = of(&seen);
        let ledger = plan.ledger(&seen, 1);
        let changed = ledger.levels.epoch.0;
        assert!(run_of(&plan, 0, 1) < changed && run_of(&plan, 1, 1) < changed && changed < run_of(&plan, 0, 2));
        assert!(ledger.dropped.0 > run_of(&plan, 0, 2) && ledger.dropped.0 == plan.largest);
        // All of it from before.
        let seen = [looked(&[segment(1, 5, 0, 10)], epochs, 9)];
        let plan = of(&seen);
        assert!(run_of(&plan, 0, 1) < plan.ledger(&seen, 1).levels.epoch.0);
    }

    #[test]
    fn an_empty_cluster_is_a_folder_whose_rooms_have_the_epoch_that_they_had() {
        let seen = [looked(&[], blank(77), 77), looked(&[], blank(77), 77)];
        let plan = of(&seen);
        assert_eq!((plan.segments.len(), plan.ledger(&seen, 77).blank), (0, Epoch(77)));
    }

    #[test]
    fn levels_that_partitions_do_not_agree_on_are_not_known() {
        let of_levels = |levels| looked(&[], StreamEpochs { levels, ..blank(4) }, 4);
        let hash = |seen: &[Looked]| of(seen).ledger(seen, 1).levels.hash;
        assert_eq!(hash(&[of_levels(5), of_levels(0), of_levels(5)]), 5);
        assert_eq!(hash(&[of_levels(5), of_levels(6)]), 0);
    }

    #[test]
    fn a_later_look_raises_what_epochs_follow_from_and_tells_of_another_configuration() {
        let mut first = looked(&[segment(1, 5, 0, 1)], blank(8), 8);
        assert!(follow(&mut first, &looked(&[], StreamEpochs { blank: 11, dropped: 11, ..blank(0) }, 11)));
        assert_eq!((first.epochs.blank, first.epochs.dropped, first.number, first.segments.len()), (11, 11, 11, 1));
        assert!(!follow(&mut first, &looked(&[], StreamEpochs { lowered: 12, ..blank(11) }, 12)));
    }
}
