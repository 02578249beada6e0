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
    Past { oldest: of.iter().map(|&(class, id)| (class.tag(), id)).collect(), ..Past::default() }
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

/// Something was dropped under that epoch, and the configuration changed last at that run.
fn dropped(dropped: u64, changed: u64) -> Past<'static> {
    Past { dropped: Epoch(dropped), changed: Epoch(changed), ..oldest(&[(Class::SERVER, 1)]) }
}

#[test]
fn a_part_that_names_none_before_it_is_explained_where_its_room_may_have_been_of_a_class_that_lost_segments() {
    let is_hole = |past| has_hole(Chain::default(), &past);
    assert!(!is_hole(dropped(5, 4)), "of another class in between, all of which may be gone");
    assert!(is_hole(dropped(5, 3)), "of one class since, whose oldest is there");
    assert!(is_hole(dropped(3, 4)), "nothing was dropped since");
    assert!(is_hole(oldest(&[(Class::SERVER, 1), (OTHER, 2)])), "nor is that told by where another class begins");
}

#[test]
fn a_hole_that_was_given_up_under_a_break_is_none() {
    let there = |run, every_level| Break { run, epoch: Epoch(9), every_level };
    let hole = |breaks: &[Break]| {
        has_hole(behind(3, Class::SERVER), &Past { breaks: breaks.into(), ..oldest(&[(Class::SERVER, 1)]) })
    };
    assert!(hole(&[]) && hole(&[there(3, false)]) && hole(&[there(2, true)]));
    assert!(!hole(&[there(3, true)]) && !hole(&[there(4, true)]));
}

#[test]
fn behind_what_a_power_cut_took_nothing_counts_and_what_is_whole_stays() {
    let breaks = [Break { run: 5, epoch: Epoch(50), every_level: false }];
    let past = Past { breaks: (&breaks).into(), ..oldest(&[(Class::SERVER, 1)]) };
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
fn what_one_start_left_out_behind_a_power_cut_a_later_one_leaves_out_that_knows_of_another_break() {
    let cut = Break { run: 5, epoch: Epoch(50), every_level: false };
    let past = |breaks: &'static [Break]| Past { breaks: breaks.into(), ..oldest(&[(Class::SERVER, 1)]) };
    let written = |first, last| Part { level: Level::Written, chain: behind(1, Class::SERVER), ..part(1, first, last) };
    let mut catalog = Catalog::default();
    add_as(&mut catalog, segment(1, 5), written(1, 10), &past(&[]));
    catalog.add_segment(segment(2, 5), 1, 0);
    let breaks: &'static [Break] = Box::leak(Box::new([cut, Break { run: 7, epoch: Epoch(70), every_level: true }]));
    let added = catalog.add_any_part(&segment(2, 5), &mut written(15, 20), true, &past(&breaks[..1]));
    assert_eq!(
        added,
        Added { given_again: Some((2, Sequence(14))), ..Added::default() },
        "its table says so from now on"
    );
    add_as(&mut catalog, segment(2, 5), written(15, 14), &past(breaks));
    add_as(&mut catalog, segment(3, 6), written(11, 12), &past(breaks));
    assert_eq!(bounds(&catalog, 1), Some((1, 12)));
}

#[test]
fn a_power_cut_gives_rooms_a_new_epoch_that_it_may_have_cut() {
    let breaks =
        [Break { run: 5, epoch: Epoch(50), every_level: false }, Break { run: 7, epoch: Epoch(70), every_level: true }];
    let epoch = |run, level, breaks: &[Break]| {
        let mut catalog = Catalog::default();
        let past = Past { breaks: breaks.into(), ..Past::default() };
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
    assert_eq!((bounds(&catalog, 1), catalog.chain_of(RoomId(1))), (Some((401, 410)), chain), "and is the first of it");
}

/// Adds a part that was made from its segment alone, and says what is missing before it.
fn add_walked(catalog: &mut Catalog, segment: SegmentHeader, mut part: Part, past: &Past<'_>) -> (Added, Chain) {
    catalog.add_segment(segment, 1, part.newest_ms);
    let added = catalog.add_any_part(&segment, &mut part, false, past);
    (added, part.chain)
}

#[test]
fn a_part_behind_what_another_class_lost_is_no_damage_and_leads_to_nothing_before() {
    // Segment 2 had 11 to 20, and went with its class.
    for class in [Class::SERVER, OTHER] {
        let mut catalog = tens(1);
        let (added, chain) = add_walked(&mut catalog, segment_in(5, 3, class), part(1, 21, 30), &dropped(4, 3));
        assert_eq!((added, chain), (Added::default(), Chain::default()), "{class:?}");
        assert_eq!((bounds(&catalog, 1), catalog.chain_of(RoomId(1)).far), (Some((21, 30)), 5));
    }
    let hole = Hole { from: Sequence(11), to: Sequence(20), behind: 1 };
    let lost = add_walked(&mut tens(1), segment(5, 3), part(1, 21, 30), &Past::default()).0;
    assert_eq!(lost.hole, Some(hole), "without a reason it is one");
}

#[test]
fn a_room_that_began_anew_leads_to_nothing_of_its_life_before_and_one_that_gave_places_again_does() {
    let with = |epoch| Part { epoch: Epoch(epoch), ..part(1, 8, 15) };
    let mut anew = tens(1);
    let (added, chain) = add_walked(&mut anew, segment(5, 1), with(2), &Past::default());
    assert_eq!((added, chain, bounds(&anew, 1)), (Added::default(), Chain::default(), Some((8, 15))));
    let mut again = tens(1);
    let (added, chain) = add_walked(&mut again, segment(5, 1), with(1), &Past::default());
    assert_eq!((added.given_again, chain.before, bounds(&again, 1)), (Some((1, Sequence(7))), 1, Some((1, 15))));
    // The next start is told by the chain.
    for (before, first) in [(0, 8), (3, 8), (1, 1)] {
        let mut catalog = tens(1);
        let chain = if before == 0 { Chain::default() } else { behind(before, OTHER) };
        add_as(&mut catalog, segment(5, 1), Part { chain, ..with(2) }, &Past::default());
        assert_eq!(bounds(&catalog, 1), Some((first, 15)), "behind {before}");
    }
}

#[test]
fn a_room_goes_on_over_a_part_that_was_refused_whole() {
    let mut catalog = tens(1);
    // Its writer knew nothing of 2: the block was refused, and its places given again in 3.
    add_walked(&mut catalog, segment(2, 1), part(1, 11, 13), &Past::default());
    let chain = behind(1, Class::SERVER);
    add_as(&mut catalog, segment(3, 1), Part { chain, ..part(1, 11, 20) }, &Past::default());
    assert_eq!(bounds(&catalog, 1), Some((1, 20)));
    let mut trimmed = tens(1);
    add(&mut trimmed, segment(2, 1), Part { last: Sequence(4), ..part(1, 11, 10) });
    assert_eq!(bounds(&trimmed, 1), Some((1, 10)), "nothing of it counts, and nothing before it goes");
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

/// Places 1 to 10 of room 1 in segment 1 of the server's class, and 11 to 20 in segment 2 of another, written by runs 1
/// and 2; this is run 3, which began behind a drop under 25.
fn two_classes() -> Catalog {
    let mut catalog = tens(1);
    let there = Part { epoch: Epoch(2), chain: behind(1, Class::SERVER), ..part(1, 11, 20) };
    assert_eq!(add_as(&mut catalog, segment_in(2, 2, OTHER), there, &Past::default()), None);
    catalog.set_epochs(Epochs {
        blank_synced: Epoch(25),
        blank_written: Epoch(25),
        lowered: Epoch(2),
        dropped: Epoch(25),
    });
    catalog.raise_blank(Epoch(31));
    catalog
}

#[test]
fn a_room_whose_newest_part_goes_with_its_class_is_what_the_next_start_finds_of_it() {
    for told in [false, true] {
        let mut catalog = two_classes();
        assert_eq!((bounds(&catalog, 1), catalog.epoch_of(RoomId(1), Level::Synced, OTHER)), (Some((1, 20)), Epoch(2)));
        cut(&mut catalog, 2, &[(1, 20)]);
        if told {
            catalog.forget_cut(usize::MAX);
        }
        let left = (bounds(&catalog, 1), catalog.room(RoomId(1)).unwrap().newest_segment);
        assert_eq!(left, (Some((1, 10)), 1), "told: {told}");
        let epochs = [OTHER, Class::SERVER].map(|class| catalog.epoch_of(RoomId(1), Level::Synced, class));
        assert_eq!(epochs, [Epoch(31); 2], "11 to 20 were given under 2");
        // It goes on there, in whichever class it is.
        catalog.has_parts(&segment_in(4, 3, OTHER), 0);
        let next = Entry { epoch: Epoch(31), ..entry(1, 11) };
        assert_eq!(catalog.chain_for(&next), Chain { far: 1, ..behind(1, Class::SERVER) });
        catalog.add_entry(&segment_in(4, 3, OTHER), &next);
        catalog.forget_cut(usize::MAX);
        assert_eq!((bounds(&catalog, 1), catalog.take_released()), (Some((1, 11)), vec![2]));
        cut(&mut catalog, 4, &[(1, 11)]);
        assert_eq!(bounds(&catalog, 1), Some((1, 10)), "once more");
        cut(&mut catalog, 1, &[(1, 10)]);
        catalog.forget_cut(usize::MAX);
        assert_eq!((bounds(&catalog, 1), catalog.elsewhere.len()), (None, 0), "and then nothing is left");
    }
}

#[test]
fn a_checkpoint_says_where_a_room_ended_in_each_class() {
    let (kept, past) = (two_classes().take_kept(), Past::default());
    assert_eq!(kept.iter().map(|kept| kept.newest).collect::<Vec<_>>(), [1, 2]);
    for newest_is_there in [true, false] {
        let mut catalog = Catalog::default();
        catalog.add_segment(segment(1, 1), 1, 0);
        if newest_is_there {
            catalog.add_segment(segment_in(2, 2, OTHER), 1, 0);
        }
        let added: Vec<_> = kept.iter().map(|kept| catalog.add_kept(kept, &past)).collect();
        assert_eq!(added, [true, newest_is_there]);
        if newest_is_there {
            assert_eq!(bounds(&catalog, 1), Some((1, 20)));
            cut(&mut catalog, 2, &[(1, 20)]);
            catalog.forget_cut(usize::MAX);
        }
        assert_eq!((bounds(&catalog, 1), catalog.room(RoomId(1)).unwrap().newest_segment), (Some((1, 10)), 1));
    }
}

#[test]
fn a_room_in_memory_goes_on_above_what_went_and_leads_to_nothing_before() {
    let mut catalog = two_classes();
    cut(&mut catalog, 2, &[(1, 20)]);
    catalog.has_parts(&segment_in(4, 3, OTHER), 0);
    for sequence in 21..=22 {
        assert_eq!(catalog.chain_for(&entry(1, sequence)).before, if sequence == 21 { 0 } else { 4 });
        catalog.add_entry(&segment_in(4, 3, OTHER), &entry(1, sequence));
    }
    assert_eq!(bounds(&catalog, 1), Some((21, 22)));
}

#[test]
fn a_room_is_left_in_the_newest_of_its_classes_that_is_there() {
    const THIRD: Class = Class { hours: 1, bytes: 1 };
    let mut catalog = two_classes();
    add(&mut catalog, segment_in(3, 3, THIRD), part(1, 21, 30));
    add(&mut catalog, segment_in(4, 3, OTHER), part(1, 31, 40));
    assert_eq!(catalog.elsewhere[&RoomId(1)].iter().map(|left| left.newest).collect::<Vec<_>>(), [1, 3]);
    cut(&mut catalog, 4, &[(1, 40)]);
    assert_eq!(bounds(&catalog, 1), Some((1, 30)));
    catalog.lose_before(RoomId(1), Sequence(5));
    cut(&mut catalog, 2, &[(1, 20)]);
    catalog.forget_cut(usize::MAX);
    assert_eq!(bounds(&catalog, 1), Some((21, 30)), "behind what went in the midst");
    catalog.cut_segment(3, CutRooms::Unknown(Bound::Unbounded));
    assert_eq!(bounds(&catalog, 1), Some((1, 10)));
}

#[test]
fn a_room_that_may_have_been_of_another_class_begins_no_epoch_again_that_it_had_there() {
    // Room 1 ended in run 1, room 2 was written to since the configuration changed at run 4.
    let epochs = |dropped| {
        let mut catalog = tens(1);
        add(&mut catalog, segment(9, 4), part(2, 1, 5));
        let (blank_synced, blank_written) = (Epoch(9), Epoch(9));
        catalog.set_epochs(Epochs { blank_synced, blank_written, lowered: Epoch(4), dropped: Epoch(dropped) });
        [1, 2].map(|room| catalog.epoch_of(RoomId(room), Level::Synced, Class::SERVER).0)
    };
    assert_eq!(epochs(1), [1, 1], "nothing was dropped: it was nowhere else");
    assert_eq!(epochs(3), [4, 1], "what it got in run 3, say, may be gone");
    assert_eq!(epochs(7), [7, 1], "or what it was told since");
}

#[test]
fn a_room_goes_on_from_the_class_that_it_left_where_nothing_of_what_came_between_counts() {
    // Class A has 1 to 2; class B has what a power cut left of a later part, whose own index said that nothing of it counts and
    // is lost; then the room went on behind 2.
    let past = dropped(5, 5);
    for is_chained in [false, true] {
        let mut catalog = Catalog::default();
        add_walked(&mut catalog, segment(1, 1), part(1, 1, 2), &past);
        add_walked(&mut catalog, segment_in(2, 2, OTHER), part(1, 44, 51), &past);
        assert_eq!(bounds(&catalog, 1), Some((44, 51)));
        let mut next = Part { chain: behind(1, Class::SERVER), ..part(1, 3, 17) };
        catalog.add_segment(segment(3, 3), 1, 17);
        let added = catalog.add_any_part(&segment(3, 3), &mut next, is_chained, &past);
        assert_eq!((bounds(&catalog, 1), next.chain.before), (Some((1, 17)), 1), "chained: {is_chained}");
        assert_eq!(added.given_again, Some((2, Sequence(2))), "nothing of that part counts");
    }
}

#[test]
fn a_room_goes_on_from_before_a_hole_where_nothing_of_what_a_power_cut_left_behind_it_counts() {
    // A start left out 15 to 22 behind the hole and wrote from 11 on. Then its ledger was lost, so that every hole may have been
    // given up, and the indexes that said what it left out.
    let breaks = [Break { run: 6, epoch: Epoch(60), every_level: true }];
    let past = Past { breaks: (&breaks).into(), ..oldest(&[(Class::SERVER, 1)]) };
    let written = |first, last| Part { level: Level::Written, ..part(1, first, last) };
    // Or wrote that after the loss, and under a new epoch, for its level had gone down.
    for (is_chained, run, epoch) in [(true, 6, 1), (false, 6, 1), (true, 7, 70), (false, 7, 70)] {
        let mut catalog = Catalog::default();
        add_walked(&mut catalog, segment(1, 5), written(1, 10), &past);
        add_walked(&mut catalog, segment(2, 5), written(15, 20), &past);
        add_walked(&mut catalog, segment(3, 5), written(21, 22), &past);
        assert_eq!(bounds(&catalog, 1), Some((15, 22)), "as far as is known until then");
        let chain = behind(1, Class::SERVER);
        let mut next = Part { chain, epoch: Epoch(epoch), ..part(1, 11, 17) };
        catalog.add_segment(segment(4, run), 1, 17);
        let added = catalog.add_any_part(&segment(4, run), &mut next, is_chained, &past);
        let expected = Added { given_again: Some((3, Sequence(10))), left_behind: Some(1), ..Added::default() };
        assert_eq!((added, next.chain.before), (expected, 1), "chained: {is_chained}, run {run}");
        assert_eq!(bounds(&catalog, 1), Some((1, 17)), "chained: {is_chained}, run {run}");
        catalog.begin(0);
        assert!(catalog.before_holes.is_empty());
    }
    let mut catalog = Catalog::default();
    add_walked(&mut catalog, segment(1, 5), written(1, 10), &past);
    add_walked(&mut catalog, segment(2, 5), written(15, 20), &past);
    let chain = Chain { before: 2, ..behind(1, Class::SERVER) };
    add_as(&mut catalog, segment(4, 6), Part { chain, ..part(1, 18, 22) }, &past);
    assert_eq!(bounds(&catalog, 1), Some((15, 22)), "where its writer counted what lies behind the hole, that counts");
}
