//! What the log costs by itself: a block of a commit that is made, and one that is walked at a start.

use std::hint::black_box;

use banter_log::PAGE_BYTES;
use banter_log::block::{BlockPlace, BlockWriter};
use banter_log::record::{Author, Level, Record};
use banter_log::segment::{Class, SegmentHeader};
use banter_protocol::event::Message;
use banter_protocol::ids::{RoomId, Sequence};
use banter_protocol::native::write_message;
use banter_server::storage::recovery::index_of;

use super::disk::segment_header;
use super::frames::message;
use super::{Call, Scenario};

/// Records of a block: what a busy core gathers while one commit is on its way.
const BLOCK_RECORDS: u64 = 64;
/// Blocks of the segment that is walked.
const BLOCKS: u64 = 64;

pub(super) const SCENARIOS: [Scenario; 2] = [
    Scenario {
        question: "commits",
        name: "commit-record",
        operation: "a record of a block of 64, with its part of the block's sum",
        operations: BLOCK_RECORDS,
        calls: 100,
        begin: commit_record,
    },
    Scenario {
        question: "recovery",
        name: "recovery-record",
        operation: "a record of a segment without an index that is walked at a start",
        operations: BLOCK_RECORDS * BLOCKS,
        calls: 4,
        begin: recovery_record,
    },
];

/// Decides whether the sums of a record and of its block are worth their price, and how long a busy core takes for a commit.
fn commit_record() -> Call {
    let segment = segment_header(1, Class::SERVER);
    let (frame, room) = (frame(1), RoomId::of("lobby"));
    let place = BlockPlace::first_of(segment);
    Box::new(move || {
        let block = block(&segment, |block| {
            for _ in 0..BLOCK_RECORDS {
                block.push(&Record::message(room, Level::Synced, Author::NOBODY, black_box(&frame)));
            }
        });
        black_box(block.finish(&place));
    })
}

/// Decides how large a segment may be, since each core may have left one that a start behind a crash walks whole.
fn recovery_record() -> Call {
    let file = segment_file();
    Box::new(move || {
        let (index, _) = index_of(black_box(&file)).expect("a segment");
        assert_eq!(index.len(), 1);
        black_box(index);
    })
}

fn segment_file() -> Vec<u8> {
    let segment = segment_header(1, Class::SERVER);
    let (room, mut file) = (RoomId::of("lobby"), segment.write());
    file.resize(PAGE_BYTES, 0);
    let mut place = BlockPlace::first_of(segment);
    for number in 0..BLOCKS {
        let block = block(&segment, |block| {
            for record in 0..BLOCK_RECORDS {
                let frame = frame(number * BLOCK_RECORDS + record + 1);
                block.push(&Record::message(room, Level::Synced, Author::NOBODY, &frame));
            }
        });
        let (bytes, behind) = block.finish(&place);
        file.extend_from_slice(&bytes);
        place = behind;
    }
    file
}

fn block(segment: &SegmentHeader, fill: impl FnOnce(&mut BlockWriter)) -> BlockWriter {
    let mut block = BlockWriter::of(segment);
    fill(&mut block);
    block
}

fn frame(sequence: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    write_message(&Message { sequence: Sequence(sequence), ..message() }, &mut frame);
    frame
}
