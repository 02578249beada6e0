//! How far a feed has read: a run of the server, and a place for each lane that run wrote.
//!
//! ```text
//!  run 7   core 0, class A   [segment 3][segment 6]           read to their ends before anything of run 9
//!          core 1, class A   [segment 4]
//!  run 9   core 0, class A   [segment 8]───▶ grows
//! ```
//!
//! Invariants:
//! - A room is of one core and one class in a run, and the segments of a lane ascend. So lanes side by side and runs one behind the
//!   other give each room's messages in their order, whatever number of cores each run had.
//! - What of a run is no lane here is unread; runs before it are read, and those behind it are not.

use std::collections::{BTreeMap, BTreeSet};

use banter_log::PAGE_BYTES;
use banter_log::segment::{Class, SegmentHeader};

/// Who writes segments one behind the other: a core, for a retention class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane {
    /// The core.
    pub core: u16,
    /// The class.
    pub class: Class,
}

impl Lane {
    /// The one that a segment is of.
    pub fn of(header: &SegmentHeader) -> Self {
        Lane { core: header.core, class: header.class }
    }
}

/// How far a lane is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub segment: u64,
    /// Where the block starts; 0: the segment is gone, and nothing of it comes any more.
    pub offset: u64,
    /// Records of that block that were read.
    pub record: u32,
}

impl Place {
    /// Records of a segment that was read to its end, behind which nothing is written.
    const ALL_RECORDS: u32 = u32::MAX;

    /// The begin of a segment.
    pub fn first_of(segment: u64) -> Self {
        Place { segment, offset: PAGE_BYTES as u64, record: 0 }
    }

    /// In a segment that is not there.
    pub fn gone(segment: u64) -> Self {
        Place { segment, offset: 0, record: 0 }
    }

    /// The end of a segment.
    pub fn done(self) -> Self {
        Place { record: Self::ALL_RECORDS, ..self }
    }

    /// Whether nothing of the segment comes any more.
    pub fn is_over(self) -> bool {
        self.offset == 0 || self.record == Self::ALL_RECORDS
    }
}

/// How far a feed has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The run.
    pub run: u64,
    /// The places in its lanes.
    pub lanes: BTreeMap<Lane, Place>,
}

/// A segment that lies in the folder.
#[derive(Clone, Copy, Debug)]
pub struct Charted {
    /// Its header.
    pub header: SegmentHeader,
    /// Where its blocks end, if it was sealed before this run.
    pub end_offset: Option<u64>,
}

/// The segments of a folder.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// By their ids.
    pub segments: BTreeMap<u64, Charted>,
    /// Those of this run whose headers could not be read: of which lane they are nobody knows, so no lane goes past one.
    pub unread: BTreeSet<u64>,
}

impl Chart {
    /// A segment of that lane in that run.
    pub fn find(&self, run: u64, lane: Lane, segment: u64) -> Option<&Charted> {
        self.segments.get(&segment).filter(|charted| charted.header.run == run && Lane::of(&charted.header) == lane)
    }

    /// The segments of a lane in a run, ascending.
    pub fn of_lane(&self, run: u64, lane: Lane) -> impl DoubleEndedIterator<Item = u64> {
        let is_of_it = move |charted: &&Charted| charted.header.run == run && Lane::of(&charted.header) == lane;
        self.segments.values().filter(is_of_it).map(|charted| charted.header.id)
    }

    /// The one of a lane behind another; none also where one between them may be of the lane.
    pub fn next_in(&self, run: u64, lane: Lane, behind: u64) -> Option<u64> {
        let from = behind.saturating_add(1);
        let mut later = self.segments.range(from..);
        let (&next, _) = later.find(|(_, there)| there.header.run == run && Lane::of(&there.header) == lane)?;
        self.unread.range(from..next).next().is_none().then_some(next)
    }

    /// The first run behind that one.
    pub fn next_run(&self, run: u64) -> Option<u64> {
        self.segments.values().map(|charted| charted.header.run).filter(|&there| there > run).min()
    }

    /// The lanes of a run, each at the first segment that is known.
    pub fn lanes_of(&self, run: u64) -> BTreeMap<Lane, Place> {
        let of_run = self.segments.values().rev().filter(|charted| charted.header.run == run);
        of_run.map(|charted| (Lane::of(&charted.header), Place::first_of(charted.header.id))).collect()
    }

    /// The lanes of a run, each at its begin, but for those that may begin with one that is unread.
    pub fn begins_of(&self, run: u64) -> BTreeMap<Lane, Place> {
        let first_unread = self.unread.first().copied().unwrap_or(u64::MAX);
        let mut lanes = self.lanes_of(run);
        lanes.retain(|_, place| place.segment < first_unread);
        lanes
    }

    /// The cores and the classes of all that is there.
    pub fn writers(&self) -> (BTreeSet<u16>, BTreeSet<Class>) {
        self.segments.values().map(|charted| (charted.header.core, charted.header.class)).unzip()
    }

    /// Lanes that a run may have had, by what is there: cores times classes.
    pub fn lanes_max(&self) -> usize {
        let (cores, classes) = self.writers();
        cores.len().saturating_mul(classes.len())
    }

    /// Whether a segment of the class is there that is older. Retention takes a class's segments in their order, so one that is
    /// gone behind it held nothing.
    pub fn has_older(&self, class: Class, segment: u64) -> bool {
        self.segments.range(..segment).any(|(_, charted)| charted.header.class == class)
    }

    /// The first segment of each class.
    pub fn firsts(&self) -> BTreeMap<Class, SegmentHeader> {
        self.segments.values().rev().map(|charted| (charted.header.class, charted.header)).collect()
    }
}

/// The newest segments that this server dropped, by their lanes: the run, and the id.
pub type Dropped = BTreeMap<(u16, Class), (u64, u64)>;

/// What is known of what was dropped.
#[derive(Clone, Copy, Debug)]
pub struct Drops<'a> {
    /// By this server.
    pub here: &'a Dropped,
    /// Something was dropped behind the position by another server on this folder: nobody knows what.
    pub any_before: bool,
}

impl Position {
    /// Goes by what lies in the folder now. The cores whose lanes lost something that was not read.
    pub fn settle(&mut self, chart: &Chart, drops: Drops<'_>, told: &mut Dropped) -> Vec<u16> {
        let mut lost = self.lost_here(chart, drops.here, told);
        if drops.any_before {
            let listed: Vec<Class> = self.lanes.keys().map(|lane| lane.class).collect();
            let unlisted = chart.firsts().into_iter().filter(|(class, _)| !listed.contains(class));
            lost.extend(unlisted.map(|(_, header)| header.core));
        }
        for (&lane, place) in &mut self.lanes {
            if place.offset == 0 || chart.find(self.run, lane, place.segment).is_some() {
                continue;
            }
            if drops.any_before && !chart.has_older(lane.class, place.segment) {
                lost.push(lane.core);
            }
            *place = Place::gone(place.segment);
        }
        for (lane, place) in chart.begins_of(self.run) {
            self.lanes.entry(lane).or_insert(place);
        }
        lost.sort_unstable();
        lost.dedup();
        lost
    }

    /// Leaves out lanes of cores or classes of which nothing is there, nor was dropped by this server: nothing of them comes any more,
    /// and a lane whose first segment comes later begins with it. So a cursor has no more lanes than cores times classes, whoever
    /// made it up.
    pub fn leave_out_strangers(&mut self, chart: &Chart, dropped: &Dropped) {
        let (mut cores, mut classes) = chart.writers();
        for &(core, class) in dropped.keys() {
            cores.insert(core);
            classes.insert(class);
        }
        self.lanes.retain(|lane, _| cores.contains(&lane.core) && classes.contains(&lane.class));
    }

    fn lost_here(&self, chart: &Chart, dropped: &Dropped, told: &mut Dropped) -> Vec<u16> {
        let mut lost = Vec::new();
        for (&(core, class), &(run, segment)) in dropped {
            let lane = Lane { core, class };
            let is_unread = match self.lanes.get(&lane).filter(|_| run == self.run) {
                // What is gone was told, and what was read to its end is no loss.
                Some(place) if place.is_over() => segment > place.segment,
                Some(place) => segment >= place.segment && chart.find(run, lane, place.segment).is_none(),
                None => run >= self.run,
            };
            if is_unread && told.insert((core, class), (run, segment)) != Some((run, segment)) {
                lost.push(core);
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Class = Class::SERVER;
    const B: Class = Class { hours: 1, bytes: 0 };

    /// Segments by id, run, core and class.
    fn chart(segments: &[(u64, u64, u16, Class)]) -> Chart {
        let charted = |&(id, run, core, class): &(u64, u64, u16, Class)| {
            let header = SegmentHeader { id, nonce: id, core, class, run, made_unix_ms: 1, file_bytes: 1 << 16 };
            (id, Charted { header, end_offset: None })
        };
        Chart { segments: segments.iter().map(charted).collect(), unread: BTreeSet::new() }
    }

    fn at(run: u64, lanes: &[(u16, Class, Place)]) -> Position {
        Position { run, lanes: lanes.iter().map(|&(core, class, place)| (Lane { core, class }, place)).collect() }
    }

    /// What is lost, told once and told again.
    fn lost(position: &mut Position, chart: &Chart, here: &Dropped, any_before: bool) -> Vec<u16> {
        let mut told = Dropped::new();
        let first = position.settle(chart, Drops { here, any_before }, &mut told);
        assert_eq!(position.settle(chart, Drops { here, any_before: false }, &mut told), [0; 0], "it is told once");
        first
    }

    #[test]
    fn a_run_begins_with_the_first_segment_of_each_of_its_lanes() {
        let chart = chart(&[(3, 7, 0, A), (4, 7, 1, A), (6, 7, 0, A), (8, 9, 0, A)]);
        let begins = chart.begins_of(7);
        let expected = at(7, &[(0, A, Place::first_of(3)), (1, A, Place::first_of(4))]).lanes;
        assert_eq!(begins, expected);
        assert_eq!(chart.next_in(7, Lane { core: 0, class: A }, 3), Some(6));
        assert_eq!(chart.next_in(7, Lane { core: 0, class: A }, 6), None, "segment 8 is another run's");
        assert_eq!((chart.next_run(7), chart.next_run(9)), (Some(9), None));
    }

    #[test]
    fn what_this_server_dropped_unread_is_lost_and_what_was_read_or_never_used_is_not() {
        let there = chart(&[(9, 7, 0, A), (10, 7, 1, A)]);
        let dropped = Dropped::from([((0, A), (7, 5))]);
        for (place, is_lost) in [
            (Place::first_of(5), true),
            (Place::first_of(4), true),
            (Place::first_of(5).done(), false),
            (Place::first_of(4).done(), true),
            // One that was made ahead, and taken away before it was used.
            (Place::first_of(6), false),
            (Place::first_of(9), false),
        ] {
            let mut position = at(7, &[(0, A, place), (1, A, Place::first_of(10))]);
            let expected: &[u16] = if is_lost { &[0] } else { &[] };
            assert_eq!(lost(&mut position, &there, &dropped, false), expected, "{place:?}");
        }
        // A lane that began and was dropped while nobody looked, also one of a later run.
        for run in [7, 8] {
            let dropped = Dropped::from([((3, B), (run, 8))]);
            assert_eq!(lost(&mut at(7, &[(0, A, Place::first_of(9))]), &there, &dropped, false), [3]);
        }
        let dropped = Dropped::from([((3, B), (6, 2))]);
        assert_eq!(lost(&mut at(7, &[(0, A, Place::first_of(9))]), &there, &dropped, false), [0; 0], "it was read");
    }

    #[test]
    fn behind_another_server_that_dropped_something_only_an_older_segment_says_that_nothing_is_lost() {
        let mut position = at(7, &[(0, A, Place::first_of(5))]);
        assert_eq!(lost(&mut position.clone(), &chart(&[(4, 6, 1, A), (9, 9, 0, A)]), &Dropped::new(), true), [0; 0]);
        assert_eq!(lost(&mut position.clone(), &chart(&[(9, 9, 0, A)]), &Dropped::new(), true), [0]);
        assert_eq!(lost(&mut position.clone(), &chart(&[(9, 9, 0, A)]), &Dropped::new(), false), [0; 0]);
        // Of a class that it does not name nobody knows.
        let with_other = chart(&[(4, 6, 1, A), (9, 9, 2, B)]);
        assert_eq!(lost(&mut position, &with_other, &Dropped::new(), true), [2]);
        assert_eq!(position.lanes[&Lane { core: 0, class: A }], Place::gone(5));
    }

    #[test]
    fn no_lane_goes_past_a_segment_that_may_be_its_own() {
        let mut chart = chart(&[(3, 7, 0, A), (6, 7, 0, A), (8, 7, 1, A), (9, 7, 0, A)]);
        chart.unread = [7].into();
        let lane = Lane { core: 0, class: A };
        assert_eq!((chart.next_in(7, lane, 3), chart.next_in(7, lane, 6)), (Some(6), None));
        assert_eq!(
            chart.begins_of(7),
            at(7, &[(0, A, Place::first_of(3))]).lanes,
            "core 1 may have begun with segment 7"
        );
        chart.unread.clear();
        assert_eq!((chart.next_in(7, lane, 6), chart.begins_of(7).len()), (Some(9), 2));
    }

    #[test]
    fn lanes_of_which_nothing_is_or_was_there_are_left_out_and_the_others_stay() {
        let there = chart(&[(9, 7, 0, A), (10, 5, 1, B)]);
        let gone = Place::gone(1);
        let (known, strange) = ([(0, A), (1, A), (0, B), (1, B), (2, A)], [(3, A), (0, Class { hours: 2, bytes: 0 })]);
        let lanes: Vec<_> = known.iter().chain(&strange).map(|&(core, class)| (core, class, gone)).collect();
        let mut position = at(7, &lanes);
        // Core 2 wrote what this server dropped.
        position.leave_out_strangers(&there, &Dropped::from([((2, A), (7, 5))]));
        assert_eq!(position, at(7, &lanes[..known.len()]));
        assert_eq!(there.lanes_max(), 4);
    }

    #[test]
    fn a_lane_that_comes_is_read_from_its_begin_and_none_is_read_again_whose_segment_went() {
        let there = chart(&[(3, 7, 0, A), (4, 7, 1, B), (8, 7, 1, B)]);
        let mut position = at(7, &[(0, A, Place::first_of(5))]);
        assert_eq!(lost(&mut position, &there, &Dropped::new(), false), [0; 0]);
        assert_eq!(position.lanes[&Lane { core: 0, class: A }], Place::gone(5), "and not segment 3 again");
        assert_eq!(position.lanes[&Lane { core: 1, class: B }], Place::first_of(4));
    }
}
