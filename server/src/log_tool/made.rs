//! Segments made for tests.

use banter_log::block::{BlockPlace, BlockWriter};
use banter_log::record::{Author, Level, Record, RecordKind};
use banter_log::segment::SegmentHeader;
use banter_protocol::event::Message;
use banter_protocol::ids::{Epoch, RoomId, Sequence};
use banter_protocol::native::{read_message, write_message};
use banter_protocol::request::{Body, BodyFormat};

use crate::storage::recovery::index_of;

/// A message as a test says it.
#[derive(Clone, Copy)]
pub(crate) struct Post<'a> {
    pub room: &'a str,
    pub epoch: u64,
    pub sequence: u64,
    pub key: Option<&'a str>,
    pub format: BodyFormat,
    pub body: &'a [u8],
}

impl Post<'static> {
    /// One of the room "lobby" in epoch 1.
    pub(crate) fn at(sequence: u64) -> Self {
        Post { room: "lobby", epoch: 1, sequence, key: None, format: BodyFormat::Json, body: b"{\"n\": 1}" }
    }
}

impl Post<'_> {
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        let message = Message {
            epoch: Epoch(self.epoch),
            sequence: Sequence(self.sequence),
            time_ms: 1_700_000_000_000,
            room: self.room,
            user: "ann",
            key: self.key,
            body: Body { format: self.format, bytes: self.body },
        };
        write_message(&message, &mut frame);
        frame
    }
}

/// A segment in the making.
pub(crate) struct Made {
    bytes: Vec<u8>,
    place: BlockPlace,
}

/// Who posts in tests.
const AUTHOR: Author = Author { core: 1, slot: 2, generation: 3 };

impl Made {
    pub(crate) fn new(id: u64) -> Self {
        Made::of(SegmentHeader {
            id,
            nonce: 99,
            core: 1,
            class: banter_log::segment::Class::SERVER,
            run: 3,
            made_unix_ms: 5,
            file_bytes: 1,
        })
    }

    pub(crate) fn of(header: SegmentHeader) -> Self {
        Made { bytes: header.write(), place: BlockPlace::first_of(header) }
    }

    /// A block of these messages.
    pub(crate) fn block(&mut self, posts: &[Post<'_>]) -> &mut Self {
        self.frames(&posts.iter().map(Post::frame).collect::<Vec<_>>())
    }

    /// A block of these frames.
    pub(crate) fn frames(&mut self, frames: &[Vec<u8>]) -> &mut Self {
        self.place.synced = self.place.number;
        self.commit(Level::Synced, frames)
    }

    /// A block of these frames at that level, as a server writes it.
    pub(crate) fn commit(&mut self, level: Level, frames: &[Vec<u8>]) -> &mut Self {
        let mut block = BlockWriter::of(&self.place.segment);
        for frame in frames {
            // What is no message has no room either.
            let room = read_message(frame).map_or(RoomId(0), |message| RoomId::of(message.room));
            block.push(&Record::message(room, level, AUTHOR, frame));
        }
        let (bytes, behind) = block.finish(&self.place);
        self.bytes.extend_from_slice(&bytes);
        self.place = behind;
        if level == Level::Synced {
            self.place.synced = self.place.number;
        }
        self
    }

    /// The place behind its blocks.
    pub(crate) fn place(&self) -> BlockPlace {
        self.place
    }

    /// A block of records of these kinds with these frames.
    pub(crate) fn records<'f>(&mut self, records: impl Iterator<Item = (&'f Vec<u8>, RecordKind)>) -> &mut Self {
        let mut block = BlockWriter::of(&self.place.segment);
        for (frame, kind) in records {
            block.push(&Record { kind, ..Record::message(RoomId(0), Level::Synced, AUTHOR, frame) });
        }
        let (bytes, behind) = block.finish(&self.place);
        self.bytes.extend_from_slice(&bytes);
        self.place = behind;
        self
    }

    /// Where its blocks end.
    pub(crate) fn end_offset(&self) -> u64 {
        self.place.offset
    }

    /// Its index, and the time of its newest message.
    pub(crate) fn index(&self) -> (Vec<u8>, u64) {
        let (index, _) = index_of(&self.bytes).expect("a segment");
        (index.encode(&self.place.segment, self.place.offset, true), index.newest_ms())
    }

    /// The file, with zeros behind the blocks.
    pub(crate) fn file(&self) -> Vec<u8> {
        let mut file = self.bytes.clone();
        file.resize(file.len() + 8_192, 0);
        file
    }
}
