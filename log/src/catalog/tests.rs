//! The catalog: what it knows of rooms behind parts, entries and cuts.

use super::*;

fn segment(id: u64, run: u64) -> SegmentHeader {
    SegmentHeader { id, nonce: id, core: 0, run, made_unix_ms: 0 }
}

fn part(room: u128, first: u64, last: u64) -> Part {
    Part {
        room: RoomId(room),
        epoch: Epoch(1),
        first: Sequence(first),
        last: Sequence(last),
        bytes: 100 * (last - first + 1),
        newest_ms: last,
        level: Level::Synced,
        details: Details::default(),
    }
}

fn bounds(catalog: &Catalog, room: u128) -> Option<(u64, u64)> {
    catalog.room(RoomId(room)).map(|room| (room.first().0, room.head().0))
}

fn entry(room: u128, sequence: u64) -> Entry {
    let level = Level::Written;
    let (epoch, sequence) = (Epoch(2), Sequence(sequence));
    Entry { room: RoomId(room), epoch, sequence, time_ms: sequence.0, level, record_bytes: 50, key: None }
}

#[test]
fn spans_follow_each_other_and_each_message_has_one() {
    let mut catalog = Catalog::default();
    catalog.add_part(&segment(1, 1), &part(1, 1, 10), Past::default());
    catalog.add_part(&segment(3, 1), &part(1, 11, 20), Past::default());
    for sequence in 21..=25 {
        catalog.add_entry(&segment(4, 2), &entry(1, sequence));
    }
    let room = catalog.room(RoomId(1)).unwrap();
    assert_eq!((room.first(), room.head(), room.epoch), (Sequence(1), Sequence(25), Epoch(2)));
    let of = |sequence| room.span_of(Sequence(sequence)).map(|span| span.segment);
    assert_eq!(
        [of(0), of(1), of(10), of(11), of(20), of(21), of(25), of(26)],
        [None, Some(1), Some(1), Some(3), Some(3), Some(4), Some(4), None]
    );
}

#[test]
fn a_place_that_was_refused_and_given_again_counts_as_given_last() {
    let mut catalog = Catalog::default();
    catalog.add_part(&segment(1, 1), &part(1, 1, 10), Past::default());
    catalog.add_part(&segment(2, 1), &part(1, 8, 12), Past::default());
    let room = catalog.room(RoomId(1)).unwrap();
    let spans: Vec<(u64, u64)> = room.spans.iter().map(|span| (span.first.0, span.last.0)).collect();
    assert_eq!(spans, [(1, 7), (8, 12)]);
    catalog.add_part(&segment(3, 1), &part(1, 1, 2), Past::default());
    assert_eq!(bounds(&catalog, 1), Some((1, 2)));
    assert_eq!(catalog.take_released(), [2, 1]);
}

#[test]
fn behind_a_hole_everything_before_it_is_out_of_reach() {
    let mut catalog = Catalog::default();
    assert_eq!(catalog.add_part(&segment(1, 1), &part(1, 1, 10), Past::default()), None);
    let hole = catalog.add_part(&segment(2, 1), &part(1, 12, 12), Past::default());
    assert_eq!(hole, Some(Hole { from: Sequence(11), to: Sequence(11), behind: 1 }));
    assert_eq!(bounds(&catalog, 1), Some((12, 12)));
    assert_eq!(catalog.take_released(), [1]);
}

#[test]
fn a_hole_that_was_given_up_is_none() {
    let hole_in = |past: Past<'_>| {
        let mut catalog = Catalog::default();
        catalog.add_part(&segment(1, 3), &part(1, 1, 10), past);
        catalog.add_part(&segment(4, 5), &part(1, 15, 20), past).is_some()
    };
    let hole = |breaks: &[Break]| hole_in(Past { breaks, dropped: &[] });
    let dropped = |range| !hole_in(Past { breaks: &[], dropped: &[range] });
    assert!(dropped((2, 2)) && dropped((1, 2)) && dropped((3, 9)) && !dropped((0, 1)) && !dropped((4, 4)));
    let there = |run, every_level| Break { run, epoch: Epoch(9), every_level };
    assert!(hole(&[]) && hole(&[there(3, false)]) && hole(&[there(2, true)]));
    assert!(!hole(&[there(3, true)]) && !hole(&[there(4, true)]));
}

#[test]
fn behind_what_a_power_cut_took_nothing_counts_and_what_is_whole_stays() {
    let breaks = [Break { run: 5, epoch: Epoch(50), every_level: false }];
    let past = Past { breaks: &breaks, dropped: &[] };
    let written = |first, last| Part { level: Level::Written, ..part(1, first, last) };
    let mut catalog = Catalog::default();
    catalog.add_part(&segment(1, 5), &written(1, 10), past);
    assert_eq!(catalog.add_part(&segment(2, 5), &written(15, 20), past), None);
    assert_eq!((bounds(&catalog, 1), catalog.needs(2)), (Some((1, 10)), false));
    assert_eq!(catalog.add_part(&segment(3, 6), &written(11, 12), past), None);
    assert_eq!(bounds(&catalog, 1), Some((1, 12)), "the next run went on from there");
    assert!(catalog.add_part(&segment(4, 6), &written(20, 21), past).is_some(), "that one was not cut off");
}

#[test]
fn a_cut_takes_the_oldest_and_releases_segments_that_nobody_needs() {
    let mut catalog = Catalog::default();
    for id in 1..=3 {
        catalog.add_part(&segment(id, 1), &part(1, id * 10 - 9, id * 10), Past::default());
    }
    catalog.add_part(&segment(1, 1), &part(2, 1, 5), Past::default());
    catalog.cut_room(RoomId(1), 2);
    assert_eq!((bounds(&catalog, 1), bounds(&catalog, 2)), (Some((21, 30)), Some((1, 5))));
    assert_eq!(catalog.take_released(), [2]);
    assert!(catalog.cut_segment(1));
    catalog.forget_cut(usize::MAX);
    assert_eq!((bounds(&catalog, 2), catalog.take_released()), (None, vec![1]));
    assert!(catalog.cut_segment(3));
    catalog.forget_cut(usize::MAX);
    assert!(catalog.is_empty() && !catalog.needs(3));
}

#[test]
fn what_is_damaged_is_given_up_and_its_files_stay() {
    let mut catalog = Catalog::default();
    (1..=3).for_each(|id| {
        assert_eq!(catalog.add_part(&segment(id, 1), &part(1, id * 10 - 9, id * 10), Past::default()), None)
    });
    catalog.give_up(RoomId(1), 2);
    assert_eq!((bounds(&catalog, 1), catalog.take_released()), (Some((21, 30)), vec![]));
    assert!(catalog.needs(1) && catalog.needs(2));
}

#[test]
fn what_is_kept_of_a_room_is_its_newest_in_whole_segments() {
    let room = || {
        let mut catalog = Catalog::default();
        for id in 1..=4 {
            catalog.add_part(&segment(id, 1), &part(1, id * 10 - 9, id * 10), Past::default());
        }
        catalog
    };
    let kept = |keeping| {
        let mut catalog = room();
        catalog.keep_of_room(RoomId(1), keeping);
        bounds(&catalog, 1).unwrap().0
    };
    let always = u64::MAX;
    assert_eq!(kept(Keeping { bytes: 0, since_ms: 0, at_least_since_ms: always }), 1);
    assert_eq!(kept(Keeping { bytes: 2_500, since_ms: 0, at_least_since_ms: always }), 21);
    assert_eq!(kept(Keeping { bytes: 1, since_ms: 0, at_least_since_ms: always }), 31, "the newest stays");
    assert_eq!(kept(Keeping { bytes: 0, since_ms: 15, at_least_since_ms: always }), 11);
    assert_eq!(kept(Keeping { bytes: 1, since_ms: 99, at_least_since_ms: 20 }), 11, "the window is kept");
    let mut catalog = room();
    catalog.begin(90_000);
    catalog.keep_of_room(RoomId(1), Keeping { bytes: 1, since_ms: 99, at_least_since_ms: 90_000 - 25 });
    assert_eq!(bounds(&catalog, 1).unwrap().0, 11, "as old as it was when its run ended");
}

#[test]
fn a_power_cut_gives_rooms_a_new_epoch_that_it_may_have_cut() {
    let breaks =
        [Break { run: 5, epoch: Epoch(50), every_level: false }, Break { run: 7, epoch: Epoch(70), every_level: true }];
    let epoch = |run, level| {
        let mut catalog = Catalog::default();
        catalog.add_part(&segment(1, run), &Part { level, ..part(1, 1, 2) }, Past { breaks: &breaks, dropped: &[] });
        catalog.room(RoomId(1)).unwrap().epoch.0
    };
    assert_eq!([epoch(8, Level::Written), epoch(7, Level::Synced), epoch(4, Level::Written)], [1, 70, 70]);
    let mut catalog = Catalog::default();
    catalog.add_part(
        &segment(1, 5),
        &Part { level: Level::Synced, ..part(1, 1, 2) },
        Past { breaks: &breaks[..1], dropped: &[] },
    );
    assert_eq!(catalog.room(RoomId(1)).unwrap().epoch, Epoch(1), "what is on the disk is safe");
}

#[test]
fn a_room_that_was_cut_whole_begins_anew_ahead_of_the_walk() {
    let mut catalog = Catalog::default();
    for id in 1..=2 {
        catalog.add_part(&segment(id, 1), &part(1, id * 10 - 9, id * 10), Past::default());
    }
    assert!(catalog.cut_segment(2));
    assert_eq!(bounds(&catalog, 1), None);
    for sequence in 1..=3 {
        catalog.add_entry(&segment(3, 1), &entry(1, sequence));
    }
    assert_eq!((bounds(&catalog, 1), catalog.take_released()), (Some((1, 3)), vec![]));
    assert_eq!(catalog.room(RoomId(1)).unwrap().span_of(Sequence(2)).map(|span| span.segment), Some(3));
    catalog.forget_cut(usize::MAX);
    assert_eq!((bounds(&catalog, 1), catalog.take_released()), (Some((1, 3)), vec![1, 2]));
}

#[test]
fn what_was_given_up_is_released_when_it_is_cut() {
    let mut catalog = Catalog::default();
    for id in 1..=3 {
        catalog.add_part(&segment(id, 1), &part(1, id * 10 - 9, id * 10), Past::default());
    }
    catalog.give_up(RoomId(1), 1);
    assert!(catalog.cut_segment(2));
    catalog.forget_cut(usize::MAX);
    assert_eq!((bounds(&catalog, 1), catalog.take_released()), (Some((21, 30)), vec![2, 1]));
}

#[test]
fn what_is_given_up_or_kept_ahead_of_the_walk_is_what_the_cut_left() {
    let cut = || {
        let mut catalog = Catalog::default();
        for id in 1..=4 {
            catalog.add_part(&segment(id, 1), &part(1, id * 10 - 9, id * 10), Past::default());
        }
        assert!(catalog.cut_segment(2));
        catalog
    };
    let mut given_up = cut();
    given_up.give_up(RoomId(1), 3);
    assert_eq!((bounds(&given_up, 1), given_up.take_released()), (Some((31, 40)), vec![1, 2]));
    let mut kept = cut();
    kept.keep_of_room(RoomId(1), Keeping { bytes: 1_500, since_ms: 0, at_least_since_ms: u64::MAX });
    assert_eq!((bounds(&kept, 1), kept.take_released()), (Some((31, 40)), vec![1, 2, 3]));
    for mut catalog in [given_up, kept] {
        catalog.forget_cut(usize::MAX);
        assert_eq!((bounds(&catalog, 1), catalog.take_released()), (Some((31, 40)), vec![]));
    }
}

#[test]
fn a_cut_in_the_midst_of_a_walk_has_a_walk_of_its_own() {
    let mut catalog = Catalog::default();
    for id in 1..=3 {
        for room in 1..=5 {
            catalog.add_part(&segment(id, 1), &part(room, id * 10 - 9, id * 10), Past::default());
        }
    }
    assert!(catalog.cut_segment(1));
    assert_eq!(catalog.forget_cut(7), 7);
    assert!(catalog.cut_segment(2));
    catalog.forget_cut(usize::MAX);
    assert!(!catalog.has_cut() && (1..=5).all(|room| bounds(&catalog, room) == Some((21, 30))));
    assert_eq!(catalog.take_released(), [1, 2]);
}

#[test]
fn what_was_given_up_is_as_young_as_it_was() {
    let mut catalog = Catalog::default();
    catalog.add_part(&segment(1, 1), &Part { newest_ms: 500, ..part(1, 1, 9) }, Past::default());
    catalog.begin(70_000);
    catalog.give_up(RoomId(1), 1);
    assert!(catalog.room(RoomId(1)).is_none());
    assert!(catalog.is_younger(RoomId(1), 70_000) && !catalog.is_younger(RoomId(1), 70_001));
    assert_eq!(catalog.given_up(RoomId(1)), Some(&GivenUp { segment: 1, clock_ms: 70_000 }));
}
