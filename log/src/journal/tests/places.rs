//! Up to where the journal says that its segments are committed.

use super::*;
use crate::journal::SegmentEnd;

impl Rig {
    /// What changed since `version`; the ends.
    fn ends(&self, version: &mut u64) -> (bool, Vec<SegmentEnd>) {
        let places = self.journal.places();
        assert_eq!(places.version, self.journal.places_version());
        (std::mem::replace(version, places.version) != places.version, places.ends)
    }
}

fn end(segment: u64, pages: u64, is_sealed: bool) -> SegmentEnd {
    SegmentEnd { segment, end_offset: pages * PAGE, is_sealed }
}

#[test]
fn an_end_is_told_behind_the_whole_commit_also_where_some_of_it_was_shown_before() {
    let (mut rig, mut version) = (Rig::new(1 << 20), 0);
    assert_eq!(rig.ends(&mut version), (false, vec![]));
    rig.post(1..=1);
    assert_eq!(rig.ends(&mut version), (true, vec![end(1, 2, false)]));
    let other = Post { room: "other", ..Post::at(1) };
    assert!(rig.begin_mixed(&[(Post::at(2), Level::Synced), (other, Level::Written)], Reach::WrittenThenSynced));
    rig.asks();
    rig.answer(Answer::Written);
    assert_eq!(rig.ends(&mut version), (false, vec![end(1, 2, false)]), "the room that is synced is not there yet");
    rig.answer(Answer::Synced);
    assert_eq!(rig.ends(&mut version), (true, vec![end(1, 3, false)]));
    assert!(rig.begin(&[Post { sequence: 2, ..other }], false));
    rig.asks();
    rig.answer(Answer::Written);
    assert_eq!(rig.ends(&mut version), (true, vec![end(1, 4, false)]));
}

#[test]
fn a_sealed_segment_is_told_until_its_index_is_on_the_disk() {
    let (mut rig, mut version) = (Rig::new(TWO_POSTS), 0);
    rig.writes_indexes = false;
    rig.post(1..=3);
    assert_eq!(rig.ends(&mut version).1, [end(1, 3, true), end(2, 2, false)]);
    while rig.write_index() {}
    assert_eq!(rig.ends(&mut version).1, [end(2, 2, false)]);
    // An index that is made again is none of those.
    rig.answer(Answer::Indexed { segment: 2, parts: 1 });
    assert_eq!(rig.ends(&mut version).1, [end(2, 2, false)]);
}

#[test]
fn what_a_commit_left_that_failed_is_behind_the_end() {
    for (is_full, is_written) in [(true, false), (true, true), (false, false), (false, true)] {
        let (mut rig, mut version) = (Rig::new(1 << 20), 0);
        rig.writes_indexes = false;
        rig.post(1..=1);
        rig.ends(&mut version);
        assert!(rig.begin_post(2));
        if is_written {
            rig.answer(Answer::Written);
        }
        rig.answer(Answer::AppendFailed { is_full });
        assert_eq!(rig.ends(&mut version), (is_full, vec![end(1, 2, is_full)]), "{is_full} {is_written}");
    }
}
