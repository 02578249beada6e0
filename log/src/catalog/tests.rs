//! The catalog: what it knows of rooms behind parts, entries and cuts.

use super::*;
use crate::index::Details;
use crate::record::RecordKind;

const OTHER: Class = Class { hours: 24, bytes: 0 };

fn segment(id: u64, run: u64) -> SegmentHeader {
    segment_in(id, run, Class::SERVER)
}

fn segment_in(id: u64, run: u64, class: Class) -> SegmentHeader {
    SegmentHeader { id, nonce: id, core: 0, class, run, made_unix_ms: 0, file_bytes: 1 << 20 }
}

fn part(room: u128, first: u64, last: u64) -> Part {
    Part {
        room: RoomId(room),
        epoch: Epoch(1),
        first: Sequence(first),
        last: Sequence(last),
        bytes: 100 * (last + 1 - first),
        newest_ms: last,
        level: Level::Synced,
        chain: Chain::default(),
        state_offset: 0,
        details: Details::default(),
    }
}

fn behind(segment: u64, class: Class) -> Chain {
    Chain { before: segment, before_tag: class.tag(), far: 0, depth: 1 }
}

/// Adds a segment and what it has of a room, with the chain that it would have been written with.
fn add(catalog: &mut Catalog, segment: SegmentHeader, part: Part) -> Option<Hole> {
    let chain = catalog.chain_of(part.room);
    add_as(catalog, segment, Part { chain, ..part }, &Past::default())
}

fn add_as(catalog: &mut Catalog, segment: SegmentHeader, part: Part, past: &Past<'_>) -> Option<Hole> {
    catalog.add_segment(segment, 1, part.newest_ms);
    catalog.add_part(&segment, &part, past)
}

/// Segments 1, 2 … with ten places each of room 1.
fn tens(segments: u64) -> Catalog {
    let mut catalog = Catalog::default();
    for id in 1..=segments {
        assert_eq!(add(&mut catalog, segment(id, 1), part(1, id * 10 - 9, id * 10)), None);
    }
    catalog
}

fn bounds(catalog: &Catalog, room: u128) -> Option<(u64, u64)> {
    catalog.room(RoomId(room)).map(|room| (room.first.0, room.head.0))
}

fn entry(room: u128, sequence: u64) -> Entry {
    let (kind, level, epoch, sequence) = (RecordKind::Message, Level::Written, Epoch(2), Sequence(sequence));
    Entry { kind, room: RoomId(room), epoch, sequence, time_ms: sequence.0, level, record_bytes: 50, key: None }
}

fn cut(catalog: &mut Catalog, segment: u64, rooms: &[(u128, u64)]) -> bool {
    let rooms: Vec<_> = rooms.iter().map(|&(room, last)| (RoomId(room), Sequence(last))).collect();
    catalog.cut_segment(segment, CutRooms::Known(rooms.into_iter()))
}

#[test]
fn a_room_goes_on_from_part_to_part_and_on_in_the_segment_that_is_written() {
    let mut catalog = tens(2);
    catalog.has_parts(&segment(4, 2), 0);
    for sequence in 21..=25 {
        catalog.add_entry(&segment(4, 2), &entry(1, sequence));
    }
    let room = catalog.room(RoomId(1)).unwrap();
    let expected =
        RoomLog { epoch: Epoch(2), head: Sequence(25), first: Sequence(1), level: Level::Written, newest_segment: 4 };
    assert_eq!((room, catalog.len()), (expected, 1));
    assert_eq!(catalog.chain_of(RoomId(1)), Chain { before: 4, before_tag: Class::SERVER.tag(), far: 1, depth: 3 });
}

#[test]
fn a_place_that_was_refused_and_given_again_counts_as_given_last() {
    let mut catalog = Catalog::default();
    add(&mut catalog, segment(1, 1), part(1, 1, 10));
    add(&mut catalog, segment(2, 1), part(1, 8, 12));
    assert_eq!(bounds(&catalog, 1), Some((1, 12)));
    add(&mut catalog, segment(3, 1), part(1, 1, 2));
    assert_eq!(bounds(&catalog, 1), Some((1, 2)));
}

#[test]
fn a_state_has_no_place_and_makes_no_hole() {
    let mut catalog = tens(1);
    add(&mut catalog, segment(2, 1), part(1, 11, 10));
    assert_eq!((bounds(&catalog, 1), catalog.room(RoomId(1)).unwrap().newest_segment), (Some((1, 10)), 2));
    catalog.has_parts(&segment(3, 1), 0);
    catalog.add_entry(&segment(3, 1), &Entry { kind: RecordKind::State, ..entry(1, 10) });
    assert_eq!(bounds(&catalog, 1), Some((1, 10)));
    assert_eq!(add(&mut catalog, segment(4, 1), part(1, 11, 12)), None);
    assert_eq!(bounds(&catalog, 1), Some((1, 12)));
    let mut fresh = Catalog::default();
    fresh.has_parts(&segment(5, 1), 0);
    fresh.add_entry(&segment(5, 1), &Entry { kind: RecordKind::State, ..entry(7, 0) });
    assert_eq!(bounds(&fresh, 7), Some((1, 0)), "a room with a state and no message");
    fresh.add_entry(&segment(5, 1), &entry(7, 1));
    assert_eq!(bounds(&fresh, 7), Some((1, 1)));
}

#[test]
fn behind_a_hole_everything_before_it_is_out_of_reach() {
    let mut catalog = tens(1);
    let hole = add(&mut catalog, segment(2, 1), part(1, 12, 12));
    assert_eq!(hole, Some(Hole { from: Sequence(11), to: Sequence(11), behind: 1 }));
    assert_eq!(bounds(&catalog, 1), Some((12, 12)));
}

/// Whether a hole is told of a room with places 1 to 10 in segment 1 of the server's class, which run 3 wrote, and 15 to
/// 20 in segment 6.
fn has_hole(chain: Chain, past: &Past<'_>) -> bool {
    let mut catalog = Catalog::default();
    add_as(&mut catalog, segment(1, 3), part(1, 1, 10), past);
    add_as(&mut catalog, segment(6, 5), Part { chain, ..part(1, 15, 20) }, past).is_some()
}

fn oldest(of: &[(Class, u64)]) -> Past<'static> {
    Past { breaks: &[], oldest: of.iter().map(|&(class, id)| (class.tag(), id)).collect() }
}

#[test]
fn what_is_missing_is_explained_by_a_class_whose_oldest_segment_is_younger_than_the_one_that_is_named() {
    let server_from_1 = [(Class::SERVER, 1), (OTHER, 5)];
    let is_hole = |before, class, there: &[(Class, u64)]| has_hole(behind(before, class), &oldest(there));
    assert!(is_hole(3, Class::SERVER, &server_from_1), "its class has older ones: 3 was lost");
    assert!(!is_hole(3, OTHER, &server_from_1), "that class begins with 5: retention took 3");
    assert!(is_hole(5, OTHER, &server_from_1), "5 is there, and the room's part in it is not");
    assert!(!is_hole(3, OTHER, &[(Class::SERVER, 1)]), "none of that class is left");
    assert!(is_hole(1, Class::SERVER, &server_from_1), "the part before is there, and ends too early");
}

#[test]
fn a_part_that_names_none_before_it_is_explained_by_any_class_that_lost_its_oldest() {
    assert!(has_hole(Chain::default(), &oldest(&[(Class::SERVER, 1)])));
    assert!(!has_hole(Chain::default(), &oldest(&[(Class::SERVER, 1), (OTHER, 2)])));
}

#[test]
fn a_hole_that_was_given_up_under_a_break_is_none() {
    let there = |run, every_level| Break { run, epoch: Epoch(9), every_level };
    let hole = |breaks: &[Break]| {
        has_hole(behind(3, Class::SERVER), &Past { breaks, oldest: [(Class::SERVER.tag(), 1)].into() })
    };
    assert!(hole(&[]) && hole(&[there(3, false)]) && hole(&[there(2, true)]));
    assert!(!hole(&[there(3, true)]) && !hole(&[there(4, true)]));
}

#[test]
fn behind_what_a_power_cut_took_nothing_counts_and_what_is_whole_stays() {
    let breaks = [Break { run: 5, epoch: Epoch(50), every_level: false }];
    let past = Past { breaks: &breaks, oldest: [(Class::SERVER.tag(), 1)].into() };
    let written = |first, last| Part { level: Level::Written, chain: behind(1, Class::SERVER), ..part(1, first, last) };
    let mut catalog = Catalog::default();
    add_as(&mut catalog, segment(1, 5), written(1, 10), &past);
    assert_eq!(add_as(&mut catalog, segment(2, 5), written(15, 20), &past), None);
    assert_eq!((bounds(&catalog, 1), catalog.room(RoomId(1)).unwrap().newest_segment), (Some((1, 10)), 1));
    assert_eq!(add_as(&mut catalog, segment(3, 6), written(11, 12), &past), None);
    assert_eq!(bounds(&catalog, 1), Some((1, 12)), "the next run went on from there");
    assert!(add_as(&mut catalog, segment(4, 6), written(20, 21), &past).is_some(), "that one was not cut off");
}

#[test]
fn a_power_cut_gives_rooms_a_new_epoch_that_it_may_have_cut() {
    let breaks =
        [Break { run: 5, epoch: Epoch(50), every_level: false }, Break { run: 7, epoch: Epoch(70), every_level: true }];
    let epoch = |run, level, breaks: &[Break]| {
        let mut catalog = Catalog::default();
        let past = Past { breaks, ..Past::default() };
        add_as(&mut catalog, segment(1, run), Part { level, ..part(1, 1, 2) }, &past);
        catalog.room(RoomId(1)).unwrap().epoch.0
    };
    let of = |run, level| epoch(run, level, &breaks);
    assert_eq!([of(8, Level::Written), of(7, Level::Synced), of(4, Level::Written)], [1, 70, 70]);
    assert_eq!(epoch(5, Level::Synced, &breaks[..1]), 1, "what is on the disk is safe");
}

#[test]
fn what_was_proved_to_be_damaged_is_out_of_reach_and_nothing_else_is() {
    let mut catalog = tens(3);
    add(&mut catalog, segment(3, 1), part(2, 1, 5));
    for (lost, first) in [(12, 12), (5, 12), (31, 31), (99, 31)] {
        catalog.lose_before(RoomId(1), Sequence(lost));
        assert_eq!((bounds(&catalog, 1), bounds(&catalog, 2)), (Some((first, 30)), Some((1, 5))), "{lost}");
    }
    catalog.add_entry(&segment(3, 1), &entry(1, 31));
    assert_eq!((bounds(&catalog, 1), catalog.take_released()), (Some((31, 31)), vec![]));
    catalog.lose_before(RoomId(77), Sequence(3));
    assert_eq!(bounds(&catalog, 77), None);
}

#[test]
fn a_chain_counts_its_parts_and_names_the_newest_one_in_32() {
    let mut catalog = Catalog::default();
    let mut far = 0;
    for depth in 0..200_u32 {
        let id = u64::from(depth) * 3 + 10;
        let chain = catalog.chain_of(RoomId(1));
        let expected =
            Chain { before: if depth > 0 { id - 3 } else { 0 }, before_tag: Class::SERVER.tag(), far, depth };
        assert_eq!(chain, if depth > 0 { expected } else { Chain::default() });
        let place = u64::from(depth) + 1;
        // Written now, or read at the start: the arithmetic is the same.
        if depth.is_multiple_of(3) {
            catalog.has_parts(&segment(id, 1), 0);
            catalog.add_entry(&segment(id, 1), &entry(1, place));
        } else {
            add(&mut catalog, segment(id, 1), part(1, place, place));
        }
        far = if depth.is_multiple_of(JUMP_PARTS) { id } else { far };
    }
    assert_eq!(bounds(&catalog, 1), Some((1, 200)));
}

#[test]
fn a_part_that_names_none_before_it_begins_a_chain_of_its_own() {
    let mut catalog = tens(40);
    add_as(&mut catalog, segment(50, 1), part(1, 401, 410), &Past::default());
    let chain = Chain { before: 50, before_tag: Class::SERVER.tag(), far: 50, depth: 1 };
    assert_eq!((bounds(&catalog, 1), catalog.chain_of(RoomId(1))), (Some((1, 410)), chain));
}

#[test]
fn a_cut_is_seen_at_once_by_rooms_that_end_there_and_by_the_others_when_they_are_told() {
    let mut catalog = tens(3);
    catalog.add_part(&segment(1, 1), &part(2, 1, 5), &Past::default());
    assert!(cut(&mut catalog, 1, &[(1, 10), (2, 5)]));
    assert_eq!((bounds(&catalog, 1), bounds(&catalog, 2)), (Some((1, 30)), None));
    assert!(catalog.segment(1).is_none() && catalog.segment(2).is_some());
    assert_eq!(catalog.forget_cut(usize::MAX), 3, "each room, and the end");
    assert_eq!((bounds(&catalog, 1), catalog.len()), (Some((11, 30)), 1));
    assert_eq!(catalog.take_released(), [1]);
    assert!(!cut(&mut catalog, 1, &[]) && !cut(&mut catalog, 77, &[]), "not known here");
}

#[test]
fn a_cut_whose_rooms_are_not_known_looks_at_all_and_forgets_those_that_end_there() {
    let mut catalog = tens(3);
    for room in 2..=9 {
        catalog.add_part(&segment(1, 1), &part(room, 1, 5), &Past::default());
    }
    assert!(catalog.cut_segment(1, CutRooms::Unknown(Bound::Unbounded)));
    let mut slices = 0;
    while catalog.has_cut() {
        assert!((1..=2).contains(&catalog.forget_cut(2)));
        slices += 1;
    }
    assert_eq!((slices, catalog.len(), bounds(&catalog, 1)), (5, 1, Some((1, 30))));
    assert_eq!(catalog.take_released(), [1]);
}

#[test]
fn a_room_that_was_cut_whole_begins_anew_ahead_of_the_walk() {
    for rooms in [CutRooms::Unknown(Bound::Unbounded), CutRooms::Known(vec![(RoomId(1), Sequence(20))].into_iter())] {
        let mut catalog = tens(2);
        assert!(catalog.cut_segment(2, rooms));
        assert_eq!(bounds(&catalog, 1), None);
        catalog.has_parts(&segment(3, 1), 0);
        for sequence in 1..=3 {
            catalog.add_entry(&segment(3, 1), &entry(1, sequence));
        }
        catalog.forget_cut(usize::MAX);
        assert_eq!((bounds(&catalog, 1), catalog.take_released()), (Some((1, 3)), vec![2]));
        assert_eq!(catalog.chain_of(RoomId(1)).depth, 1, "and its chain begins there");
    }
}

#[test]
fn a_cut_in_the_midst_of_a_walk_has_a_walk_of_its_own() {
    let mut catalog = Catalog::default();
    for id in 1..=3 {
        for room in 1..=5 {
            add(&mut catalog, segment(id, 1), part(room, id * 10 - 9, id * 10));
        }
    }
    let rooms = |last| [(1, last), (2, last), (3, last), (4, last), (5, last)];
    assert!(cut(&mut catalog, 1, &rooms(10)));
    assert_eq!(catalog.forget_cut(4), 4);
    assert!(cut(&mut catalog, 2, &rooms(20)));
    assert!(cut(&mut catalog, 2, &rooms(20)), "asked twice, and done once");
    catalog.forget_cut(usize::MAX);
    assert!(!catalog.has_cut() && (1..=5).all(|room| bounds(&catalog, room) == Some((21, 30))));
    assert_eq!(catalog.take_released(), [1, 2]);
}

#[test]
fn a_room_is_as_young_as_its_newest_record_on_the_clock_of_this_run() {
    let mut catalog = Catalog::default();
    add(&mut catalog, segment(1, 1), Part { newest_ms: 500, ..part(1, 1, 9) });
    catalog.begin(70_000);
    assert!(catalog.is_younger(RoomId(1), 70_000) && !catalog.is_younger(RoomId(1), 70_001));
    assert!(!catalog.is_younger(RoomId(2), 0));
    cut(&mut catalog, 1, &[(1, 9)]);
    assert!(!catalog.is_younger(RoomId(1), 0));
}

#[test]
fn the_oldest_of_each_class_is_told_by_its_tag() {
    let segments = [segment(5, 1), segment_in(3, 1, OTHER), segment(4, 1), segment_in(9, 1, OTHER)];
    let expected = [(Class::SERVER.tag(), 4), (OTHER.tag(), 3)].into();
    assert_eq!(Catalog::oldest_of(segments.iter()), expected);
}
