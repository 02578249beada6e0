//! Who looks at a partition sees what counts up to a tail, asks for nothing that changes anything, and looks anew where an owner was
//! quicker.

use banter_cluster::engine::{Answer, Ask, Partition, Tail};
use banter_cluster::entry::{Entry, NodeId, Said, StreamEpochs, StreamId};
use banter_cluster::looking::{Looked, Looking, Out};
use banter_log::block::{BlockPlace, BlockWriter};
use banter_log::reading::{FileRange, LogFile};
use banter_log::record::{Author, Level, Record};
use banter_log::scan::Scan;
use banter_log::segment::{Class, SegmentHeader};
use banter_protocol::event::Message;
use banter_protocol::ids::{Epoch, RoomId, Sequence};
use banter_protocol::native::{read_message, write_message};
use banter_protocol::request::{Body, BodyFormat};
use bytes::Bytes;

const STREAM: StreamId = StreamId { cluster: 3, partition: Partition(4) };
const FIRST: StreamEpochs = StreamEpochs { blank: 70, lowered: 0, dropped: 0, levels: 0 };
const SAID: StreamEpochs = StreamEpochs { levels: 5, ..FIRST };

fn header(id: u64, run: u64) -> SegmentHeader {
    SegmentHeader { id, nonce: id * 7, core: 0, class: Class::SERVER, run, made_unix_ms: 9, file_bytes: 1 << 20 }
}

/// A block with that place of a room, and the place behind it.
fn block(place: &BlockPlace, sequence: u64) -> (Said, BlockPlace) {
    let mut frame = Vec::new();
    let body = Body { format: BodyFormat::Json, bytes: b"1" };
    let (epoch, at) = (Epoch(70), Sequence(sequence));
    write_message(
        &Message { epoch, sequence: at, time_ms: sequence, room: "r", user: "u", key: None, body },
        &mut frame,
    );
    let mut writer = BlockWriter::of(&place.segment);
    writer.push(&Record::message(RoomId::of("r"), Level::Synced, Author::NOBODY, &frame));
    let (bytes, behind) = writer.finish(place);
    (Said::block(place.segment.id, place.offset, bytes), behind)
}

/// A stream, as an engine keeps it.
#[derive(Default)]
struct Stream(Vec<Bytes>);

impl Stream {
    fn claim(&mut self, name: u64) -> u64 {
        self.say(0, 0, Said::Claim { by: NodeId { name, run: 1 }, nonce: 0 });
        self.0.len() as u64
    }

    fn say(&mut self, term: u64, number: u64, said: Said) {
        self.0.push(Entry { term, number, said }.write(STREAM));
    }

    /// What the engine answers whoever only looks; `last` is what it says of the end.
    fn answer(&self, ask: Ask, last: u64) -> Answer {
        match ask {
            Ask::Tail { ticket, .. } => Answer::Tail { ticket, tail: Some(Tail { first: 1, last, bytes: 0 }) },
            Ask::Read { ticket, from, messages_max, .. } => {
                let there = (1..).zip(&self.0).skip(from as usize - 1).take(messages_max as usize);
                Answer::Read { ticket, messages: Some(there.map(|(at, bytes)| (at, bytes.clone())).collect()) }
            }
            Ask::Get { ticket, .. } => Answer::Object { ticket, object: Ok(None) },
            ask => panic!("whoever looks does not ask that: {ask:?}"),
        }
    }

    /// Goes on until something comes that is no ask.
    fn drive(&self, looking: &mut Looking, mut out: Vec<Out>, last: u64) -> Out {
        while !out.is_empty() {
            for follow in std::mem::take(&mut out) {
                match follow {
                    Out::Ask(ask) => looking.engine(self.answer(ask, last), &mut out),
                    Out::WakeIn(_) => looking.wake(&mut out),
                    other => return other,
                }
            }
        }
        panic!("nothing comes");
    }

    fn look(&self, looking: &mut Looking, last: u64) -> Looked {
        let mut out = Vec::new();
        looking.look(&mut out);
        match self.drive(looking, out, last) {
            Out::Looked(looked) => *looked,
            other => panic!("{other:?}"),
        }
    }

    fn sequences(&self, looking: &mut Looking, looked: &Looked, index: usize) -> Vec<u64> {
        let segment = looked.segments[index];
        let range =
            FileRange { segment: segment.header.id, file: LogFile::Segment, offset: 0, bytes: segment.end_offset };
        let mut out = Vec::new();
        looking.read(range, &mut out);
        let Out::Bytes(_, Some(bytes)) = self.drive(looking, out, 0) else { panic!("bytes") };
        let blocks = Scan::new(&bytes).unwrap();
        let records = blocks.flat_map(|block| block.records().map(|record| record.unwrap().frame).collect::<Vec<_>>());
        records.map(|frame| read_message(frame).unwrap().sequence.0).collect()
    }
}

/// One owner with two messages, a second one with two, and between them what the first one said too late.
fn two_owners() -> Stream {
    let mut stream = Stream::default();
    let first = stream.claim(1);
    let (one, behind) = block(&BlockPlace::first_of(header(1, 71)), 1);
    let (two, behind) = block(&behind, 2);
    let (late, _) = block(&behind, 3);
    stream.say(first, 0, Said::Epochs(SAID));
    stream.say(first, 1, Said::segment(&header(1, 71)));
    stream.say(first, 2, one);
    stream.say(first, 3, two);
    let second = stream.claim(2);
    let (three, behind) = block(&BlockPlace::first_of(header(2, 72)), 3);
    let (four, _) = block(&behind, 4);
    stream.say(second, 0, Said::segment(&header(2, 72)));
    stream.say(second, 1, three);
    stream.say(first, 4, late);
    let again = stream.claim(2);
    stream.say(again, 0, four);
    stream
}

#[test]
fn what_counts_is_seen_and_nothing_is_asked_that_changes_anything() {
    let stream = two_owners();
    let mut looking = Looking::new(STREAM, FIRST);
    let looked = stream.look(&mut looking, stream.0.len() as u64);
    assert_eq!((looked.segments.len(), looked.rooms, looked.number), (2, 1, 72));
    assert_eq!((looked.epochs, looked.segments[1].newest_ms, looked.next_segment), (SAID, 4, 3));
    assert_eq!(stream.sequences(&mut looking, &looked, 0), [1, 2], "what came too late counts for nothing");
    assert_eq!(stream.sequences(&mut looking, &looked, 1), [3, 4]);
}

#[test]
fn what_lies_behind_the_tail_is_not_seen_and_is_at_the_next_look() {
    let stream = two_owners();
    let mut looking = Looking::new(STREAM, FIRST);
    let looked = stream.look(&mut looking, 4);
    assert_eq!((looked.through, looked.segments.len()), (4, 1));
    assert_eq!(stream.sequences(&mut looking, &looked, 0), [1]);
    let looked = stream.look(&mut looking, stream.0.len() as u64);
    assert_eq!(looked.segments.len(), 2);
    let nothing = stream.look(&mut looking, 0);
    assert_eq!((nothing.segments.len(), nothing.epochs, nothing.number), (0, FIRST, 70));
}

#[test]
fn a_segment_that_is_not_there_any_more_is_none() {
    let stream = two_owners();
    let mut looking = Looking::new(STREAM, FIRST);
    stream.look(&mut looking, 4);
    let mut out = Vec::new();
    looking.read(FileRange { segment: 9, file: LogFile::Segment, offset: 0, bytes: 1 }, &mut out);
    assert!(matches!(&out[..], [Out::Bytes(_, None)]));
}

#[test]
fn segments_that_nobody_said_the_epochs_of_are_the_remains_of_an_import() {
    let mut stream = Stream::default();
    let term = stream.claim(1);
    stream.say(term, 0, Said::segment(&header(1, 71)));
    let mut looking = Looking::new(STREAM, FIRST);
    let mut out = Vec::new();
    looking.look(&mut out);
    let Out::Broken(fault) = stream.drive(&mut looking, out, 2) else { panic!("broken") };
    assert!(fault.to_string().contains("import"), "{fault}");
}
