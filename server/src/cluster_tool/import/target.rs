//! What is said in a partition's stream of the records that it gets: segments of its own, in which each room's records lie in their
//! order, and blocks that one message takes.
//!
//! What one segment of the folder holds of a partition is never cut in two: a room's state is said once in each segment, and a part of it
//! that lost its beginning to retention would lose it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use banter_cluster::entry::Said;
use banter_log::PAGE_BYTES;
use banter_log::block::{BlockPlace, BlockWriter, block_bytes};
use banter_log::record::Record;
use banter_log::segment::{Class, SegmentHeader};
use banter_protocol::ids::RoomId;

/// Bytes of a segment that takes what several of the folder hold: as many as a node makes one.
const SEGMENT_BYTES: u64 = 4 << 20;

/// A record on its way.
pub(super) struct Moved<'a> {
    pub record: Record<'a>,
    /// Its frame, where that is another one now.
    pub frame: Option<Vec<u8>>,
    pub room: RoomId,
}

impl Moved<'_> {
    fn record(&self) -> Record<'_> {
        Record { frame: self.frame.as_deref().unwrap_or(self.record.frame), ..self.record }
    }
}

/// A partition that is written.
pub(super) struct Target {
    next_segment: u64,
    /// Bytes of records that one message takes.
    body_bytes_max: usize,
    /// The segment of each class that is written, and the folder's run that it is of.
    open: BTreeMap<Class, BlockPlace>,
    /// The segment in which each room ends.
    ends: HashMap<RoomId, u64>,
}

impl Target {
    /// Of a partition whose next segment has that number.
    pub(super) fn new(next_segment: u64, body_bytes_max: usize) -> Self {
        Target { next_segment, body_bytes_max, open: BTreeMap::new(), ends: HashMap::new() }
    }

    /// What is said of these records, all that a segment of the folder has of the partition; `nonce` by chance.
    pub(super) fn add(&mut self, source: &SegmentHeader, records: &[Moved<'_>], nonce: u64) -> Vec<Said> {
        if records.is_empty() {
            return Vec::new();
        }
        let bodies = self.bodies(records);
        let bytes: u64 = bodies.iter().map(|body| block_bytes(bytes_of(body)) as u64).sum();
        let rooms: BTreeSet<RoomId> = records.iter().map(|moved| moved.room).collect();
        let mut said = Vec::new();
        let mut place = match self.place(source, &rooms, bytes) {
            Some(place) => place,
            None => {
                let header = self.header(source, bytes, nonce);
                said.push(Said::segment(&header));
                BlockPlace::first_of(header)
            }
        };
        for body in bodies {
            let mut writer = BlockWriter::of(&place.segment);
            for moved in body {
                writer.push(&moved.record());
            }
            let (block, behind) = writer.finish(&BlockPlace { synced: place.number, ..place });
            said.push(Said::block(place.segment.id, place.offset, block));
            place = behind;
        }
        self.ends.extend(rooms.into_iter().map(|room| (room, place.segment.id)));
        self.open.insert(source.class, place);
        said
    }

    /// Whose number says that all up to it were given: a segment that holds nothing.
    pub(super) fn carrier(&mut self, run: u64, made_unix_ms: u64, nonce: u64) -> Said {
        let source =
            SegmentHeader { id: 0, nonce, core: 0, class: Class::SERVER, run, made_unix_ms, file_bytes: SEGMENT_BYTES };
        Said::segment(&self.header(&source, 0, nonce))
    }

    /// The records, cut as messages take them.
    fn bodies<'m, 'a>(&self, records: &'m [Moved<'a>]) -> Vec<&'m [Moved<'a>]> {
        let (mut bodies, mut from, mut bytes) = (Vec::new(), 0, 0);
        for (at, moved) in records.iter().enumerate() {
            let more = moved.record().bytes();
            if at > from && bytes + more > self.body_bytes_max {
                bodies.push(&records[from..at]);
                (from, bytes) = (at, 0);
            }
            bytes += more;
        }
        bodies.push(&records[from..]);
        bodies
    }

    /// The place in the open segment of that class, if all of it fits there, and no room of it has gone on in a later one.
    fn place(&self, source: &SegmentHeader, rooms: &BTreeSet<RoomId>, bytes: u64) -> Option<BlockPlace> {
        let place = self.open.get(&source.class)?;
        let fits = place.segment.run == source.run && place.offset + bytes <= place.segment.file_bytes;
        let has_gone_on = |room| self.ends.get(room).is_some_and(|end| *end > place.segment.id);
        (fits && !rooms.iter().any(has_gone_on)).then_some(*place)
    }

    fn header(&mut self, source: &SegmentHeader, bytes: u64, nonce: u64) -> SegmentHeader {
        let id = self.next_segment;
        self.next_segment += 1;
        SegmentHeader { id, nonce, core: 0, file_bytes: SEGMENT_BYTES.max(PAGE_BYTES as u64 + bytes), ..*source }
    }
}

fn bytes_of(body: &[Moved<'_>]) -> usize {
    body.iter().map(|moved| moved.record().bytes()).sum()
}

#[cfg(test)]
mod tests {
    use banter_cluster::entry::whole_block;
    use banter_log::block::Block;
    use banter_log::record::{Author, Level};

    use super::*;
    use crate::log_tool::made::Post;

    const SOURCE: SegmentHeader =
        SegmentHeader { id: 9, nonce: 1, core: 3, class: Class::SERVER, run: 5, made_unix_ms: 7, file_bytes: 1 << 30 };

    fn frames(sequences: &[u64]) -> Vec<Vec<u8>> {
        sequences.iter().map(|&sequence| Post::at(sequence).frame()).collect()
    }

    fn moved(frames: &[Vec<u8>], room: u128) -> Vec<Moved<'_>> {
        let record = |frame| Record::message(RoomId(room), Level::Synced, Author::NOBODY, frame);
        frames.iter().map(|frame| Moved { record: record(frame), frame: None, room: RoomId(room) }).collect()
    }

    /// Segments that begin, and records of each block.
    fn shown(said: &[Said]) -> String {
        let mut places: BTreeMap<u64, BlockPlace> = BTreeMap::new();
        let mut shown = Vec::new();
        for said in said {
            match said {
                Said::Segment(said) => {
                    let header = Said::segment_header(said).unwrap();
                    shown.push(format!("segment {} of run {}", header.id, header.run));
                    places.insert(header.id, BlockPlace::first_of(header));
                }
                Said::Block { segment, offset, bytes } => {
                    let place = places[segment];
                    assert_eq!(*offset, place.offset);
                    let whole = whole_block(bytes);
                    let block = Block::read_in_chain(&whole, &place).unwrap();
                    shown.push(format!("{} in {segment}", block.records().count()));
                    places.insert(*segment, block.behind);
                }
                other => panic!("{other:?}"),
            }
        }
        shown.join(", ")
    }

    #[test]
    fn records_go_behind_those_of_their_class_and_run_in_blocks_that_one_message_takes() {
        let frames = frames(&[1, 2, 3]);
        let records = moved(&frames, 1);
        let mut target = Target::new(4, 2 * records[0].record().bytes());
        let mut said = target.add(&SOURCE, &records, 11);
        said.extend(target.add(&SegmentHeader { id: 10, ..SOURCE }, &moved(&frames, 2)[..1], 12));
        said.extend(target.add(&SegmentHeader { id: 11, run: 6, ..SOURCE }, &records[..1], 13));
        said.extend(target.add(
            &SegmentHeader { class: Class { hours: 1, bytes: 0 }, ..SOURCE },
            &moved(&frames, 3),
            14,
        ));
        assert_eq!(target.add(&SOURCE, &[], 15), []);
        said.push(target.carrier(77, 1, 16));
        assert_eq!(
            shown(&said),
            "segment 4 of run 5, 2 in 4, 1 in 4, 1 in 4, segment 5 of run 6, 1 in 5, segment 6 of run 5, 2 in 6, 1 in 6, \
             segment 7 of run 77"
        );
    }

    #[test]
    fn a_room_that_comes_back_to_a_class_goes_on_in_a_later_segment() {
        let frames = frames(&[1]);
        let records = moved(&frames, 1);
        let (mut target, other) =
            (Target::new(1, 4_096), SegmentHeader { class: Class { hours: 1, bytes: 0 }, ..SOURCE });
        let said: Vec<Said> =
            [SOURCE, other, SOURCE].iter().flat_map(|source| target.add(source, &records, 1)).collect();
        assert_eq!(shown(&said), "segment 1 of run 5, 1 in 1, segment 2 of run 5, 1 in 2, segment 3 of run 5, 1 in 3");
    }

    #[test]
    fn what_is_longer_than_a_segment_is_one_all_the_same() {
        let body = vec![b'1'; 60_000];
        let frames: Vec<Vec<u8>> = (1..=80).map(|at| Post { body: &body, ..Post::at(at) }.frame()).collect();
        let mut target = Target::new(1, 128 << 10);
        let said = target.add(&SOURCE, &moved(&frames, 1), 1);
        let Said::Segment(header) = &said[0] else { panic!("a segment") };
        let header = Said::segment_header(header).unwrap();
        assert!(header.file_bytes > SEGMENT_BYTES && said.len() == 41, "{}", said.len());
        let Some(Said::Block { offset, bytes, .. }) = said.last() else { panic!("a block") };
        assert_eq!(offset + bytes.len().next_multiple_of(PAGE_BYTES) as u64, header.file_bytes);
    }
}
