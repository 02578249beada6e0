//! Feeds over disks that fail in places, folders that are listed in part, and cursors that somebody made up.

use std::cell::Cell;

use super::super::position::{Lane, Place};
use super::super::reader::LOOK_INTERVAL;
use super::*;

/// Writes over what lies there.
fn damage(house: &House, id: u64, offset: u64) {
    let mut file = fs::OpenOptions::new().write(true).open(house.path(id)).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(b"damage").unwrap();
}

/// Puts there what can be opened, and not read.
fn make_unreadable(house: &House, id: u64) {
    let _ = fs::remove_file(house.path(id));
    fs::create_dir(house.path(id)).unwrap();
}

fn mend(house: &House, made: &Made) {
    let id = made.place().segment.id;
    fs::remove_dir(house.path(id)).unwrap();
    house.put(made);
}

/// What is told until there is nothing more by then, and what could not be read.
fn told_at(reader: &mut FeedReader, frontier: &Frontier, now: Instant) -> (Vec<String>, bool) {
    let (mut lines, mut has_failed) = (Vec::new(), false);
    for _ in 0..1_000 {
        let stepped = reader.step(frontier, &|_| true, now).unwrap();
        lines.extend_from_slice(&stepped.lines);
        has_failed |= stepped.failure.is_some();
        if stepped.is_idle {
            let lines = std::str::from_utf8(&lines).unwrap().lines();
            let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
            return (short(&lines), has_failed);
        }
    }
    panic!("it comes to an end");
}

/// A cursor with that in its place.
fn made_up(log: &FeedLog, run: u64, lanes: impl Iterator<Item = (u16, Place)>) -> Origin {
    let lanes = lanes.map(|(core, place)| (Lane { core, class: Class::SERVER }, place)).collect();
    Origin::Cursor(Cursor { log: log.id, drops: 0, position: super::super::position::Position { run, lanes } })
}

#[test]
fn damage_in_two_lanes_is_a_gap_in_each_and_what_follows_is_told() {
    let mut house = House::new("damaged-both");
    house.found(made(1, 3, 0).block(&[at("a", 1)]).block(&[at("a", 2)]).block(&[at("a", 3)]));
    house.found(made(2, 3, 1).block(&[at("c", 1)]).block(&[at("c", 2)]).block(&[at("c", 3)]));
    (1..=2).for_each(|id| damage(&house, id, 2 * PAGE + 100));
    let nothing = frontier(&[]);
    let mut lines = short(&told(&mut open(&house.log(0), Origin::Oldest, &nothing), &nothing));
    lines.sort_unstable();
    assert_eq!(lines, ["a 1", "a 3", "c 1", "c 3", "damaged 0", "damaged 1"]);
}

#[test]
fn a_damaged_block_is_passed_while_another_lane_has_ever_more_to_tell() {
    let mut house = House::new("damaged-busy");
    house.found(made(1, 3, 0).block(&[at("a", 1)]).block(&[at("a", 2)]));
    damage(&house, 1, PAGE + 100);
    // Each block is a step.
    let (mut busy, large) = (made(2, 3, 1), format!("\"{}\"", "x".repeat(70_000)));
    for place in 1..=20 {
        busy.block(&[Post { body: large.as_bytes(), ..at("c", place) }]);
    }
    house.found(&busy);
    let nothing = frontier(&[]);
    let lines = short(&told(&mut open(&house.log(0), Origin::Oldest, &nothing), &nothing));
    let place = |wanted: &str| lines.iter().position(|line| line == wanted).unwrap();
    assert!(place("a 2") < place("c 6"), "{lines:?}");
}

#[test]
fn a_lane_that_cannot_be_read_waits_and_the_others_go_on_but_for_what_comes_behind_its_run() {
    let mut house = House::new("unreadable");
    let mut first = made(1, 3, 0);
    house.found(first.block(&[at("a", 1)]));
    house.found(made(2, 3, 1).block(&[at("c", 1)]));
    house.found(made(3, 3, 1).block(&[at("c", 2)]));
    let end = house.put(made(4, NOW, 0).block(&[at("a", 2)]));
    let frontier = frontier(&[end]);
    let log = house.log(0);
    make_unreadable(&house, 1);
    let (mut reader, now) = (open(&log, Origin::Oldest, &frontier), Instant::now());
    assert_eq!(told_at(&mut reader, &frontier, now), (vec!["c 1".to_owned(), "c 2".to_owned()], true));
    let again_at = reader.step(&frontier, &|_| true, now).unwrap().again_at;
    assert_eq!(again_at, Some(now + READ_RETRY));
    // It is not tried at each step, but once a second.
    mend(&house, &first);
    assert_eq!(told_at(&mut reader, &frontier, now + READ_RETRY / 2), (Vec::new(), false));
    let expected = vec!["a 1".to_owned(), "a 2".to_owned()];
    assert_eq!(told_at(&mut reader, &frontier, now + READ_RETRY), (expected, false));
}

#[test]
fn a_segment_whose_first_page_cannot_be_read_is_not_passed_by_and_the_rest_goes_on() {
    let house = House::new("unread-header");
    let (mut first, mut other, mut unread) = (made(1, NOW, 0), made(2, NOW, 1), made(4, NOW, 0));
    let sealed = |end: SegmentEnd| SegmentEnd { is_sealed: true, ..end };
    let of_first = sealed(house.put(first.block(&[at("a", 1)])));
    house.put(other.block(&[at("c", 1)]));
    let log = house.log(0);
    let of_other = house.put(other.block(&[at("c", 2)]));
    let of_unread = sealed(house.put(unread.block(&[at("a", 2)])));
    let of_last = house.put(made(5, NOW, 0).block(&[at("a", 3)]));
    make_unreadable(&house, 4);
    let frontier = frontier(&[of_first, of_other, of_unread, of_last]);
    let mut reader = open(&log, Origin::Oldest, &frontier);
    let now = Instant::now();
    let (mut lines, _) = told_at(&mut reader, &frontier, now);
    lines.sort_unstable();
    assert_eq!(lines, ["a 1", "c 1", "c 2"]);
    mend(&house, &unread);
    assert_eq!(told_at(&mut reader, &frontier, now + READ_RETRY).0, ["a 2", "a 3"]);
}

#[test]
fn a_busy_feed_looks_what_lies_there_as_often_as_a_quiet_one() {
    let house = House::new("busy-looks");
    let (mut busy, mut quiet) = (made(1, NOW, 0), made(2, NOW, 1));
    house.put(quiet.block(&[at("c", 1)]));
    let until = |busy: &Made| frontier(&[house.put(busy)]);
    let ends = until(busy.block(&[at("a", 1)]));
    let mut reader = open(&house.log(0), Origin::Oldest, &ends);
    let now = Instant::now();
    assert_eq!(told_at(&mut reader, &ends, now).0, ["a 1"]);
    house.drop_segment(&quiet);
    let mut told_in_a_step = |ends: &Frontier, now| {
        let lines = reader.step(ends, &|_| true, now).unwrap().lines;
        String::from_utf8(lines).unwrap().matches("\"dropped\"").count()
    };
    assert_eq!(told_in_a_step(&until(busy.block(&[at("a", 2)])), now), 0);
    assert_eq!(told_in_a_step(&until(busy.block(&[at("a", 3)])), now + LOOK_INTERVAL), 1);
}

#[test]
fn what_a_list_of_the_folder_misses_is_there_as_long_as_its_file_is() {
    let (house, _) = three_runs("listed");
    let log = house.log(0);
    let ids = |chart: Arc<Chart>| chart.segments.keys().copied().collect::<Vec<_>>();
    // One that came, and was renamed over while the folder was listed, is in the next list.
    let lists = Cell::new(0);
    let first_without_7 = || {
        lists.set(lists.get() + 1);
        Ok([1, 2, 3, 5, 7, 8].into_iter().filter(|&id| id != 7 || lists.get() > 1).collect())
    };
    assert_eq!(ids(log.look_through(first_without_7).unwrap()), [1, 2, 3, 5, 7, 8]);
    let some = || Ok([1, 8].into());
    assert_eq!(ids(log.look_through(some).unwrap()), [1, 2, 3, 5, 7, 8]);
    fs::remove_file(house.path(3)).unwrap();
    assert_eq!(ids(log.look_through(some).unwrap()), [1, 2, 5, 7, 8]);
}

#[test]
fn a_made_up_cursor_with_more_lanes_than_can_be_is_refused_and_fewer_stand_in_no_line() {
    let (house, frontier) = three_runs("lanes");
    let log = house.log(0);
    let with = |count: u16| made_up(&log, 3, (0..count).map(|core| (core, Place::gone(1))));
    let opened = FeedReader::open(log.clone(), with(7_000), &frontier, Instant::now());
    assert!(matches!(opened, Err(OpenFault::Lanes { lanes: 7_000, .. })));
    let lines = told(&mut open(&log, with(1_000), &frontier), &frontier);
    assert!(lines.len() >= 4, "{lines:?}");
    let longest = lines.iter().map(|line| line["cursor"].as_str().unwrap().len()).max().unwrap();
    assert!(longest < 100, "{longest} bytes");
}

#[test]
fn a_block_whose_lines_are_longer_than_itself_is_told_by_pieces() {
    let mut house = House::new("pieces");
    let posts: Vec<_> = (1..=3_000).map(|place| Post { body: b"1", ..at("a", place) }).collect();
    let mut segment = made(1, 3, 0);
    house.found(segment.block(&posts).block(&[at("a", 3_001)]));
    let (nothing, log) = (frontier(&[]), house.log(0));
    let mut reader = open(&log, Origin::Oldest, &nothing);
    let (mut text, mut longest) = (String::new(), 0);
    loop {
        let stepped = reader.step(&nothing, &|_| true, Instant::now()).unwrap();
        if stepped.is_idle {
            break;
        }
        longest = longest.max(stepped.lines.len());
        text.push_str(std::str::from_utf8(&stepped.lines).unwrap());
    }
    let block_bytes = (segment.end_offset() - 2 * PAGE) as usize;
    assert!(text.len() > block_bytes + 16 * 1_024 && longest < block_bytes + 1_024, "{longest} of {}", text.len());
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let places: Vec<u64> = lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
    assert_eq!(places, (1..=3_001).collect::<Vec<_>>());
}

#[test]
fn what_a_made_up_cursor_calls_a_block_is_no_damage_to_the_server_and_damage_is_logged_once() {
    let mut house = House::new("made-up");
    let large = format!("\"{}\"", "x".repeat(5 * PAGE as usize));
    let posts = [Post { body: large.as_bytes(), ..at("a", 1) }];
    house.found(made(1, 3, 0).block(&posts).block(&[at("a", 2)]).block(&[at("a", 3)]));
    let (nothing, log) = (frontier(&[]), house.log(0));
    let midst = Place { segment: 1, offset: 3 * PAGE, record: 0 };
    let lines = short(&told(&mut open(&log, made_up(&log, 3, [(0, midst)].into_iter()), &nothing), &nothing));
    assert_eq!(lines, ["damaged 0", "a 2", "a 3"]);
    assert!(locked(&log.damages).is_empty(), "it is told to that feed alone");
    // What a feed comes to by itself is damage, also where its cursor names the begin of a segment.
    let whole = told(&mut open(&log, Origin::Oldest, &nothing), &nothing);
    let Origin::Cursor(cursor) = cursor_of(&whole[0]) else { panic!("a cursor") };
    let begin = cursor.position.lanes.values().next().unwrap().offset;
    assert_eq!(begin, PAGE);
    damage(&house, 1, PAGE + 100);
    told(&mut open(&log, made_up(&log, 3, [(0, Place::first_of(1))].into_iter()), &nothing), &nothing);
    assert_eq!(*locked(&log.damages), [(1, PAGE)].into());
    assert!(!log.is_new_damage(1, PAGE), "once");
    fs::remove_file(house.path(1)).unwrap();
    log.look().unwrap();
    assert!(locked(&log.damages).is_empty(), "a segment that is gone is forgotten");
    assert_eq!((0..2 * DAMAGES_MAX as u64).filter(|&offset| log.is_new_damage(2, offset)).count(), DAMAGES_MAX);
}
