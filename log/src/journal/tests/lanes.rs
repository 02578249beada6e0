//! Each retention class has segments of its own.

use banter_protocol::native::read_kept;

use super::*;
use crate::scan::Scan;

const SHORT: Class = Class { hours: 1, bytes: 0 };
const LONG: Class = Class { hours: 0, bytes: 1 << 40 };

#[test]
fn each_class_writes_to_segments_of_its_own_and_a_room_is_read_over_them() {
    let mut rig = Rig::new(TWO_POSTS);
    let classes = [Class::SERVER, SHORT, LONG];
    for sequence in 1..=12 {
        rig.commit_in(classes[sequence as usize % 3], &[Post::at(sequence)]);
    }
    let mut posts = 0;
    for (&id, file) in &rig.files {
        for record in Scan::new(file).unwrap().flat_map(|block| block.records()) {
            let sequence = read_kept(record.unwrap().frame).unwrap().sequence().0;
            assert_eq!(rig.header(id).class, classes[sequence as usize % 3]);
            posts += 1;
        }
    }
    assert_eq!((posts, rig.head("lobby")), (12, Some(12)));
}

#[test]
fn a_class_asks_for_its_first_segment_when_it_is_first_posted_to() {
    let mut rig = Rig::new(TWO_POSTS);
    assert!(!rig.journal.is_idle(SHORT) && rig.journal.state(SHORT) == State::Open);
    assert!(!rig.journal.make_room(SHORT, 100));
    let asks = rig.asks();
    assert!(
        asks.iter().all(|ask| matches!(ask, Ask::Prepare { class: SHORT, is_urgent: _ })) && !asks.is_empty(),
        "{asks:?}"
    );
    assert!(matches!(asks[0], Ask::Prepare { is_urgent: true, .. }), "posts wait for it");
    assert!(!rig.journal.make_room(SHORT, 100));
    assert_eq!(rig.asks().len(), 0, "once");
    rig.make_segment_in(SHORT);
    assert!(rig.journal.is_idle(SHORT) && rig.is_idle());
}

#[test]
fn a_class_without_space_refuses_its_own_posts_and_no_others() {
    let mut rig = Rig::new(1 << 20);
    rig.makes_segments = false;
    assert!(!rig.journal.make_room(SHORT, 100));
    rig.answer(Answer::NoSpace { class: SHORT });
    assert_eq!(
        (rig.journal.state(SHORT), rig.state(), rig.journal.state(LONG)),
        (State::Full, State::Open, State::Open)
    );
    rig.post(1..=1);
    rig.make_segment_in(SHORT);
    assert_eq!(rig.journal.state(SHORT), State::Open);
    rig.commit_in(SHORT, &[Post { room: "other", ..Post::at(1) }]);
    assert_eq!(rig.page(want_in("other", 1, 1)).unwrap().count, 1);
}

#[test]
fn an_end_seals_the_segments_of_all_classes() {
    let mut rig = Rig::new(1 << 20);
    rig.post(1..=1);
    rig.commit_in(SHORT, &[Post { room: "other", ..Post::at(1) }]);
    rig.asks();
    assert!(rig.journal.end());
    let said = rig.said();
    assert_eq!(said.iter().filter(|said| said.starts_with("seal")).count(), 2, "{said:?}");
}

#[test]
fn the_segment_that_is_written_to_is_not_cut() {
    let mut rig = Rig::new(1 << 20);
    rig.post(1..=2);
    rig.cut(1);
    assert!(!rig.journal.has_work() && rig.asks().is_empty());
    rig.post(3..=3);
    assert_eq!(rig.page(want(1, 3)).unwrap().messages, frames(1..=3));
}
