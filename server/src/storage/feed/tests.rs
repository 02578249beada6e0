//! Feeds over segments that were made for it: what is told, in which order, and what is said of what is not there.

mod faults;

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use banter_log::journal::SegmentEnd;
use banter_log::segment::Class;
use banter_protocol::ids::{RoomName, Sequence};
use serde_json::{Value, json};

use super::super::erasures::Wanted;
use super::super::index_path;
use super::*;
use crate::host::TestFolder;
use crate::log_tool::made::{Made, Post};

const IDENTITY: FileIdentity = FileIdentity { inode: 7, born_ns: 9 };
/// The run of the server that the feeds are of.
const NOW: u64 = 9;
const PAGE: u64 = PAGE_BYTES as u64;

/// A log's folder.
struct House {
    folder: TestFolder,
    keeper: Arc<KeeperState>,
    known: Vec<KnownSegment>,
}

fn made(id: u64, run: u64, core: u16) -> Made {
    let class = Class::SERVER;
    Made::of(SegmentHeader { id, nonce: 99 + id, core, class, run, made_unix_ms: 5, file_bytes: 1 })
}

impl House {
    fn new(name: &str) -> Self {
        House { folder: TestFolder::new(&format!("feed-{name}")), keeper: Arc::default(), known: Vec::new() }
    }

    fn path(&self, id: u64) -> PathBuf {
        segment_path(&self.folder.0, id)
    }

    /// Puts a segment there.
    fn put(&self, made: &Made) -> SegmentEnd {
        let header = made.place().segment;
        fs::write(self.path(header.id), made.file()).unwrap();
        SegmentEnd { segment: header.id, end_offset: made.end_offset(), is_sealed: false }
    }

    /// Puts one there that the start finds.
    fn found(&mut self, made: &Made) {
        self.put(made);
        let (header, end_offset) = (made.place().segment, made.end_offset());
        let file_bytes = made.file().len() as u64;
        self.known.push(KnownSegment { header, file_bytes, end_offset, newest_ms: 5, parts: 1, is_chained: true });
    }

    fn index(&self, id: u64, made: &Made) {
        fs::write(index_path(&self.folder.0, id), made.index().0).unwrap();
    }

    fn drop_segment(&self, made: &Made) {
        let header = made.place().segment;
        locked(&self.keeper.dropped).insert((header.core, header.class), (header.run, header.id));
        fs::remove_file(self.path(header.id)).unwrap();
    }

    /// A server on it, at whose start that stood in the ledger.
    fn log(&self, blank: u64) -> Arc<FeedLog> {
        let (folder, segments, keeper) = (&*self.folder.0, &*self.known, self.keeper.clone());
        FeedLog::new(FeedLogParts { folder, identity: IDENTITY, run: NOW, blank, segments, keeper }).into()
    }
}

/// What one core says.
fn frontier(ends: &[SegmentEnd]) -> Frontier {
    let places = LogPlaces { version: 1, ends: ends.to_vec() };
    // The segments are of core 0 or 1, and each core looks for its own.
    Arc::new(vec![Arc::new(places.clone()), Arc::new(places)])
}

fn open(log: &Arc<FeedLog>, origin: Origin, frontier: &Frontier) -> FeedReader {
    FeedReader::open(log.clone(), origin, frontier, Instant::now()).unwrap()
}

/// All that a feed tells by now.
fn told_of(reader: &mut FeedReader, frontier: &Frontier, covers: &dyn Fn(&str) -> bool) -> Vec<Value> {
    let (mut lines, mut steps) = (Vec::new(), 0);
    loop {
        let stepped = reader.step(frontier, covers, Instant::now()).unwrap();
        lines.extend_from_slice(&stepped.lines);
        steps += 1;
        assert!(steps < 10_000, "it comes to an end");
        if stepped.is_idle {
            let lines = std::str::from_utf8(&lines).unwrap().lines();
            return lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        }
    }
}

fn told(reader: &mut FeedReader, frontier: &Frontier) -> Vec<Value> {
    told_of(reader, frontier, &|_| true)
}

fn cursor_of(line: &Value) -> Origin {
    Origin::Cursor(Cursor::decode(line["cursor"].as_str().unwrap()).unwrap())
}

/// Room and place of messages, and what is said of the rest.
fn short(lines: &[Value]) -> Vec<String> {
    let short = |line: &Value| match line["reason"].as_str() {
        Some(reason) => format!("{reason} {}", line["core"]),
        None if line["type"] == "gap" => format!("gap {} {}", line["from"], line["to"]),
        None => format!("{} {}", line["room"].as_str().unwrap(), line["sequence"]),
    };
    lines.iter().map(short).collect()
}

fn at(room: &str, sequence: u64) -> Post<'_> {
    Post { room, ..Post::at(sequence) }
}

/// Two runs before this one, of two cores and one, and what this one wrote.
fn three_runs(name: &str) -> (House, Frontier) {
    let mut house = House::new(name);
    house.found(made(1, 3, 0).block(&[at("a", 1), at("b", 1)]).block(&[at("a", 2)]));
    house.found(made(2, 3, 1).block(&[at("c", 1)]));
    house.found(made(3, 3, 0).block(&[at("b", 2)]).block(&[at("a", 3)]));
    house.found(made(5, 6, 0).block(&[at("c", 2), at("a", 4)]));
    let of_zero = house.put(made(7, NOW, 0).block(&[at("a", 5)]).block(&[at("a", 6), at("a", 7)]));
    let of_one = house.put(made(8, NOW, 1).block(&[at("c", 3)]));
    (house, frontier(&[of_zero, of_one]))
}

#[test]
fn each_rooms_messages_are_told_in_order_over_runs_with_other_numbers_of_cores() {
    let (house, frontier) = three_runs("order");
    let lines = told(&mut open(&house.log(0), Origin::Oldest, &frontier), &frontier);
    let of_room = |room: &str| -> Vec<u64> {
        lines.iter().filter(|line| line["room"] == room).map(|line| line["sequence"].as_u64().unwrap()).collect()
    };
    assert_eq!((of_room("a"), of_room("b"), of_room("c")), ((1..=7).collect(), vec![1, 2], vec![1, 2, 3]));
    let (first, expected) = (&lines[0], json!({"n": 1}));
    assert_eq!((&first["type"], &first["user"], &first["body"]), (&json!("message"), &json!("ann"), &expected));
    let some = told_of(&mut open(&house.log(0), Origin::Oldest, &frontier), &frontier, &|room| room == "b");
    assert_eq!(short(&some), ["b 1", "b 2"]);
}

#[test]
fn behind_any_cursor_comes_what_was_not_told_and_nothing_else_also_on_another_start() {
    let (mut house, frontier) = three_runs("cursor");
    let lines = told(&mut open(&house.log(0), Origin::Oldest, &frontier), &frontier);
    for at in 0..lines.len() {
        let rest = told(&mut open(&house.log(0), cursor_of(&lines[at]), &frontier), &frontier);
        // Lanes of a run are read in turn, so that only each lane's order holds.
        let sorted = |lines: &[Value]| {
            let mut short = short(lines);
            short.sort_unstable();
            short
        };
        assert_eq!(sorted(&rest), sorted(&lines[at + 1..]), "behind line {at}");
    }
    // The next start has what this one wrote as another run's.
    for (id, run) in [(7, 0), (8, 1)] {
        let header = SegmentHeader::read(&fs::read(house.path(id)).unwrap()).unwrap();
        let end_offset = frontier[run].ends[run].end_offset;
        house.known.push(KnownSegment { header, file_bytes: 1, end_offset, newest_ms: 5, parts: 1, is_chained: true });
    }
    let (folder, segments, keeper) = (&*house.folder.0, &*house.known, house.keeper.clone());
    let parts = FeedLogParts { folder, identity: IDENTITY, run: NOW + 4, blank: 0, segments, keeper };
    let (log, nothing) = (Arc::new(FeedLog::new(parts)), Frontier::default());
    let rest = told(&mut open(&log, cursor_of(&lines[8]), &nothing), &nothing);
    assert_eq!(rest.len(), lines.len() - 9);
}

#[test]
fn nothing_is_told_that_is_not_committed_and_what_is_comes_when_it_is() {
    let house = House::new("frontier");
    let mut segment = made(1, NOW, 0);
    house.put(segment.block(&[at("a", 1)]));
    let first = segment.end_offset();
    house.put(segment.block(&[at("a", 2)]).block(&[at("a", 3)]));
    let until = |end_offset| frontier(&[SegmentEnd { segment: 1, end_offset, is_sealed: false }]);
    let log = house.log(0);
    let mut reader = open(&log, Origin::Oldest, &until(PAGE));
    assert_eq!(short(&told(&mut reader, &until(PAGE))), [""; 0]);
    assert_eq!(short(&told(&mut reader, &until(first))), ["a 1"]);
    assert_eq!(short(&told(&mut reader, &until(segment.end_offset()))), ["a 2", "a 3"]);
    // From now on: nothing that was there.
    let mut from_now = open(&log, Origin::Now, &until(first));
    assert_eq!(short(&told(&mut from_now, &until(first))), [""; 0]);
    assert_eq!(short(&told(&mut from_now, &until(segment.end_offset()))), ["a 2", "a 3"]);
}

#[test]
fn the_next_segment_of_a_lane_follows_whether_the_last_one_has_its_index_or_not() {
    for has_index in [false, true] {
        let house = House::new(&format!("next-{has_index}"));
        let mut first = made(1, NOW, 0);
        let mut sealed = house.put(first.block(&[at("a", 1)]).block(&[at("a", 2)]));
        sealed.is_sealed = true;
        let log = house.log(0);
        let mut reader = open(&log, Origin::Oldest, &frontier(&[]));
        let second = house.put(made(4, NOW, 0).block(&[at("a", 3)]));
        let ends = if has_index { vec![second] } else { vec![sealed, second] };
        if has_index {
            house.index(1, &first);
        }
        assert_eq!(short(&told(&mut reader, &frontier(&ends))), ["a 1", "a 2", "a 3"]);
    }
}

#[test]
fn what_was_dropped_unread_is_a_gap_and_the_feed_goes_on_with_the_oldest() {
    let house = House::new("dropped");
    let (mut first, mut second) = (made(1, NOW, 0), made(2, NOW, 0));
    let ends = [house.put(first.block(&[at("a", 1)]).block(&[at("a", 2)])), house.put(second.block(&[at("a", 3)]))];
    let both = frontier(&[SegmentEnd { is_sealed: true, ..ends[0] }, ends[1]]);
    let log = house.log(0);
    let lines = told(&mut open(&log, Origin::Oldest, &both), &both);
    assert_eq!(short(&lines), ["a 1", "a 2", "a 3"]);
    let mut reader = open(&log, cursor_of(&lines[0]), &both);
    house.drop_segment(&first);
    let rest = told(&mut reader, &both);
    assert_eq!(short(&rest), ["dropped 0", "a 3"]);
    assert_eq!(short(&told(&mut open(&log, cursor_of(&rest[0]), &both), &both)), ["a 3"], "it is told once");
    // Who had read it misses nothing.
    assert_eq!(short(&told(&mut open(&log, cursor_of(&lines[2]), &both), &both)), [""; 0]);
    // Another start: what was dropped before it is told where nothing older shows that it was not.
    let other = House { keeper: Arc::default(), ..house };
    assert_eq!(short(&told(&mut open(&other.log(50), cursor_of(&lines[0]), &both), &both)), ["dropped 0", "a 3"]);
    assert_eq!(short(&told(&mut open(&other.log(0), cursor_of(&lines[0]), &both), &both)), ["a 3"]);
}

#[test]
fn what_is_erased_is_a_gap_of_one_as_soon_as_the_list_says_so_and_the_cursors_hold() {
    let (house, frontier) = three_runs("erased");
    let log = house.log(0);
    let lines = told(&mut open(&log, Origin::Oldest, &frontier), &frontier);
    let bound = banter_log::erasure::Bound { last: Sequence(6), ..banter_log::erasure::Bound::UNKNOWN };
    let room = RoomName::new("a").unwrap();
    let wanted = Wanted { room, user: None, first: Sequence(2), last: Sequence(u64::MAX), bound };
    let list = ErasureFile::of(&house.folder.0, IDENTITY);
    let number = list.ask(&wanted, 1).unwrap();
    for is_done in [false, true] {
        let again = told(&mut open(&log, Origin::Oldest, &frontier), &frontier);
        assert_eq!(again.len(), lines.len());
        for (now, was) in again.iter().zip(&lines) {
            assert_eq!(now["cursor"], was["cursor"]);
            let place = was["sequence"].as_u64().unwrap();
            if was["room"] == "a" && (2..=6).contains(&place) {
                assert_eq!((&now["type"], &now["from"], &now["to"]), (&json!("gap"), &json!(place), &json!(place)));
                assert_eq!((&now["user"], &now["body"]), (&Value::Null, &Value::Null));
            } else {
                assert_eq!(now, was);
            }
        }
        if !is_done {
            list.end(&[(number, super::super::erasures::Ended::default())]).unwrap();
        }
    }
}

#[test]
fn a_block_that_does_not_check_is_a_gap_and_what_follows_is_told() {
    let mut house = House::new("damaged");
    house.found(made(1, 3, 0).block(&[at("a", 1)]).block(&[at("a", 2)]).block(&[at("a", 3)]));
    house.found(made(2, 3, 0).block(&[at("a", 4)]));
    let mut file = fs::OpenOptions::new().write(true).open(house.path(1)).unwrap();
    file.seek(SeekFrom::Start(2 * PAGE + 100)).unwrap();
    file.write_all(b"damage").unwrap();
    let nothing = frontier(&[]);
    let log = house.log(0);
    let lines = told(&mut open(&log, Origin::Oldest, &nothing), &nothing);
    assert_eq!(short(&lines), ["a 1", "damaged 0", "a 3", "a 4"]);
    assert_eq!((&lines[1]["segment"], &lines[1]["offset"]), (&json!(1), &json!(2 * PAGE)));
    // A file that lost its end.
    fs::OpenOptions::new().write(true).open(house.path(2)).unwrap().set_len(PAGE).unwrap();
    let lines = told(&mut open(&log, cursor_of(&lines[2]), &nothing), &nothing);
    assert_eq!(short(&lines), ["damaged 0"]);
}

#[test]
fn a_message_whose_commit_was_refused_is_not_told_though_it_lies_whole_at_the_end() {
    use banter_log::record::Level;
    let mut house = House::new("refused");
    let mut segment = made(1, 3, 0);
    segment.commit(Level::Written, &[at("a", 1).frame()]).commit(Level::Written, &[at("a", 2).frame()]);
    let indexed = segment.index().0;
    segment.commit(Level::Written, &[at("a", 3).frame(), at("b", 1).frame()]);
    house.found(&segment);
    house.found(made(2, 3, 0).block(&[Post { body: b"\"again\"", ..at("a", 3) }]));
    let nothing = frontier(&[]);
    // As the keeper writes it, and as a start trims it.
    fs::write(index_path(&house.folder.0, 1), &indexed).unwrap();
    let lines = told(&mut open(&house.log(0), Origin::Oldest, &nothing), &nothing);
    assert_eq!(short(&lines), ["a 1", "a 2", "a 3"]);
    assert_eq!(lines[2]["body"], "again");
    // Without such an index it may have been acknowledged.
    fs::remove_file(index_path(&house.folder.0, 1)).unwrap();
    let lines = told(&mut open(&house.log(0), Origin::Oldest, &nothing), &nothing);
    assert_eq!(short(&lines), ["a 1", "a 2", "a 3", "b 1", "a 3"]);
}

#[test]
fn a_line_is_a_line_whatever_the_body_holds_and_a_block_of_any_length_is_read() {
    let mut house = House::new("bodies");
    let large = format!("{{\r\n \"text\" :\n\"{}\"}}", "x".repeat(2 * PIECE_BYTES as usize));
    let posts = [Post { body: large.as_bytes(), ..at("a", 1) }, Post { body: b"[\n1\r]", ..at("a", 2) }];
    house.found(made(1, 3, 0).block(&[at("b", 1)]).block(&posts).block(&[at("b", 2)]));
    let nothing = frontier(&[]);
    let log = house.log(0);
    let lines = told(&mut open(&log, Origin::Oldest, &nothing), &nothing);
    assert_eq!(short(&lines), ["b 1", "a 1", "a 2", "b 2"]);
    assert_eq!(lines[2]["body"], json!([1]));
    let rest = told(&mut open(&log, cursor_of(&lines[1]), &nothing), &nothing);
    assert_eq!(short(&rest), ["a 2", "b 2"], "from the midst of a block");
}

#[test]
fn a_cursor_of_another_log_or_of_a_later_run_is_refused_and_one_that_lies_beyond_the_end_is_at_the_end() {
    let (house, frontier) = three_runs("other");
    let log = house.log(0);
    let lines = told(&mut open(&log, Origin::Oldest, &frontier), &frontier);
    let Origin::Cursor(cursor) = cursor_of(&lines[2]) else { panic!("a cursor") };
    let mut later = cursor.clone();
    later.position.run = NOW + 1;
    for wrong in [Cursor { log: 1, ..cursor.clone() }, later] {
        let opened = FeedReader::open(log.clone(), Origin::Cursor(wrong), &frontier, Instant::now());
        assert!(matches!(opened, Err(OpenFault::OtherLog)));
    }
    // As whoever makes up cursors may say it.
    for (offset, record) in [(1 << 40, 0), (PAGE, 77), (3 * PAGE, 1)] {
        let mut beyond = cursor.clone();
        beyond.position.lanes.values_mut().for_each(|place| (place.offset, place.record) = (offset, record));
        let rest = told(&mut open(&log, Origin::Cursor(beyond), &frontier), &frontier);
        assert!(rest.len() >= 6, "the later runs are told: {:?}", short(&rest));
    }
}
