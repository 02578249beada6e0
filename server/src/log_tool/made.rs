//! Segments made for tests.

use banter_log::block::{BlockPlace, BlockWriter};
use banter_log::record::{Author, Level, Record};
use banter_log::segment::SegmentHeader;
use banter_protocol::event::Message;
use banter_protocol::ids::{Epoch, Sequence};
use banter_protocol::native::write_message;
use banter_protocol::request::{Body, BodyFormat};

/// A message as a test says it.
#[derive(Clone, Copy)]
pub(super) struct Post<'a> {
    pub room: &'a str,
    pub epoch: u64,
    pub sequence: u64,
    pub key: Option<&'a str>,
    pub format: BodyFormat,
    pub body: &'a [u8],
}

impl Post<'static> {
    /// One of the room "lobby" in epoch 1.
    pub(super) fn at(sequence: u64) -> Self {
        Post { room: "lobby", epoch: 1, sequence, key: None, format: BodyFormat::Json, body: b"{\"n\": 1}" }
    }
}

impl Post<'_> {
    pub(super) fn frame(&self) -> Vec<u8> {
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
pub(super) struct Made {
    bytes: Vec<u8>,
    place: BlockPlace,
}

impl Made {
    pub(super) fn new(id: u64) -> Self {
        let header = SegmentHeader { id, nonce: 99, core: 1, run: 3, made_unix_ms: 5 };
        Made { bytes: header.write(), place: BlockPlace::first_of(header) }
    }

    /// A block of these messages.
    pub(super) fn block(&mut self, posts: &[Post<'_>]) -> &mut Self {
        self.frames(&posts.iter().map(Post::frame).collect::<Vec<_>>())
    }

    /// A block of these frames.
    pub(super) fn frames(&mut self, frames: &[Vec<u8>]) -> &mut Self {
        let mut block = BlockWriter::default();
        let author = Author { core: 1, slot: 2, generation: 3 };
        frames.iter().for_each(|frame| block.push(&Record { level: Level::Synced, author, frame }));
        self.place.synced = self.place.number;
        let (bytes, behind) = block.finish(&self.place);
        self.bytes.extend_from_slice(&bytes);
        self.place = behind;
        self
    }

    /// The file, with zeros behind the blocks.
    pub(super) fn file(&self) -> Vec<u8> {
        let mut file = self.bytes.clone();
        file.resize(file.len() + 8_192, 0);
        file
    }
}
