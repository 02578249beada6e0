//! Brings bytes of a segment, or of the index beside it, from the engine, as a file would give them.
//!
//! Of what was fetched already the next thing that is missing follows, so a fetch has no state but that.
//!
//! Invariants:
//! - A block is taken only as the stream's own entry at the sequence where it is known to lie: the segment and the place that it names
//!   are those that were asked for.
//! - Where a segment has no block it has zeros, as a file that was made ahead of need.

use std::borrow::Cow;
use std::collections::BTreeMap;

use banter_log::PAGE_BYTES;
use banter_log::reading::{FileRange, LogFile};
use banter_log::segment::SegmentHeader;
use bytes::Bytes;

use crate::cache::{EngineCache, Key};
use crate::engine::{ObjectKind, ObjectName};
use crate::entry::{Entry, Said, StreamId};
use crate::object::{Blocks, HEAD_BYTES, Head, PIECE_BYTES, pieces_of};

/// Bytes under way.
#[derive(Debug)]
pub struct Fetch {
    /// What was asked.
    pub range: FileRange,
    /// What came for it: the cache may have let go of it meanwhile.
    held: BTreeMap<Key, Bytes>,
    /// Asks without an answer.
    pub asked: u32,
    /// How often nothing came.
    pub failures: u32,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The bytes.
    Ready(Vec<u8>),
    /// These messages of the stream are needed, and what lies between them is not.
    Messages {
        /// The first.
        from: u64,
        /// The last.
        last: u64,
    },
    /// These pieces are needed.
    Pieces(Vec<ObjectName>),
    /// Something is not what it should be.
    Damaged,
}

/// What a fetch knows of its segment.
#[derive(Clone, Copy, Debug)]
pub struct SegmentAt<'a> {
    /// The stream.
    pub stream: StreamId,
    /// The segment.
    pub header: &'a SegmentHeader,
    /// Where its blocks lie; none: its object says it.
    pub blocks: Option<&'a Blocks>,
}

impl Fetch {
    /// Nothing came yet.
    pub fn new(range: FileRange) -> Self {
        Fetch { range, held: BTreeMap::new(), asked: 0, failures: 0 }
    }

    /// Something came.
    pub fn hold(&mut self, key: Key, bytes: Bytes) {
        self.held.insert(key, bytes);
    }

    /// Lets go of all that came, also of what the cache keeps of it: something of it is damaged.
    pub fn let_go(&mut self, at: SegmentAt<'_>, cache: &mut EngineCache) {
        let blocks = at.blocks.cloned().or_else(|| self.blocks_of_object(at, cache).ok()).unwrap_or_default();
        let partition = at.stream.partition;
        for &(_, sequence) in blocks.within(self.range.offset, self.range.bytes) {
            cache.forget(Key::Message(partition, sequence));
        }
        cache.forget_object(partition, ObjectKind::Index { segment: at.header.id });
        self.held.clear();
    }

    /// Goes on as far as it gets.
    pub fn step(&mut self, at: SegmentAt<'_>, cache: &mut EngineCache) -> Step {
        let step = match self.range.file {
            LogFile::Segment => self.segment_bytes(at, cache),
            LogFile::Index => self.index_bytes(at, cache),
        };
        step.map_or_else(|step| step, Step::Ready)
    }

    fn get(&self, key: Key, cache: &mut EngineCache) -> Option<Bytes> {
        self.held.get(&key).cloned().or_else(|| cache.get(key))
    }

    fn segment_bytes(&self, at: SegmentAt<'_>, cache: &mut EngineCache) -> Result<Vec<u8>, Step> {
        let blocks = match at.blocks {
            Some(blocks) => Cow::Borrowed(blocks),
            None => Cow::Owned(self.blocks_of_object(at, cache)?),
        };
        let FileRange { offset, bytes, .. } = self.range;
        let end = offset.saturating_add(bytes).min(at.header.file_bytes);
        let mut out = vec![0; end.saturating_sub(offset) as usize];
        if offset < PAGE_BYTES as u64 {
            put(&mut out, offset, 0, &at.header.write());
        }
        let within = blocks.within(offset, bytes);
        let key = |sequence| Key::Message(at.stream.partition, sequence);
        let missing: Vec<u64> = within
            .iter()
            .map(|&(_, sequence)| sequence)
            .filter(|&sequence| self.get(key(sequence), cache).is_none())
            .collect();
        if let (Some(&from), Some(&last)) = (missing.first(), missing.last()) {
            return Err(Step::Messages { from, last });
        }
        for &(block_at, sequence) in within {
            let message = self.get(key(sequence), cache).ok_or(Step::Damaged)?;
            match Entry::read(&message, at.stream).map(|entry| entry.said) {
                Ok(Said::Block { segment, offset: there, bytes }) if segment == at.header.id && there == block_at => {
                    put(&mut out, offset, block_at, &bytes);
                }
                _ => return Err(Step::Damaged),
            }
        }
        Ok(out)
    }

    fn index_bytes(&self, at: SegmentAt<'_>, cache: &mut EngineCache) -> Result<Vec<u8>, Step> {
        let head = self.head_of_object(at, cache)?;
        let FileRange { offset, bytes, .. } = self.range;
        let end = offset.saturating_add(bytes).min(head.index_bytes);
        let from = offset.min(end) as usize + head.index_at();
        self.object_bytes(at, from, end as usize + head.index_at(), cache)
    }

    fn head_of_object(&self, at: SegmentAt<'_>, cache: &mut EngineCache) -> Result<Head, Step> {
        let bytes = self.object_bytes(at, 0, HEAD_BYTES, cache)?;
        Head::read(&bytes, at.header).filter(|head| head.object_bytes().is_some()).ok_or(Step::Damaged)
    }

    fn blocks_of_object(&self, at: SegmentAt<'_>, cache: &mut EngineCache) -> Result<Blocks, Step> {
        let head = self.head_of_object(at, cache)?;
        let bytes = self.object_bytes(at, 0, head.index_at(), cache)?;
        head.read_blocks(&bytes).ok_or(Step::Damaged)
    }

    fn object_bytes(
        &self,
        at: SegmentAt<'_>,
        from: usize,
        to: usize,
        cache: &mut EngineCache,
    ) -> Result<Vec<u8>, Step> {
        let kind = ObjectKind::Index { segment: at.header.id };
        let pieces = pieces_of(at.stream.partition, kind, from, to);
        let missing: Vec<ObjectName> =
            pieces.clone().filter(|&name| self.get(Key::Piece(name), cache).is_none()).collect();
        if !missing.is_empty() {
            return Err(Step::Pieces(missing));
        }
        let mut out = Vec::with_capacity(to.saturating_sub(from));
        for name in pieces {
            let piece = self.get(Key::Piece(name), cache).ok_or(Step::Damaged)?;
            let start = name.piece as usize * PIECE_BYTES;
            let part = from.saturating_sub(start)..(to - start).min(piece.len());
            out.extend_from_slice(piece.get(part).ok_or(Step::Damaged)?);
        }
        if out.len() < to.saturating_sub(from) { Err(Step::Damaged) } else { Ok(out) }
    }
}

/// Puts what lies at a place of the segment into bytes that begin at another, as far as it is within them.
fn put(out: &mut [u8], start: u64, at: u64, bytes: &[u8]) {
    let skipped = start.saturating_sub(at).min(bytes.len() as u64) as usize;
    let into = at.saturating_sub(start).min(out.len() as u64) as usize;
    let count = (bytes.len() - skipped).min(out.len() - into);
    out[into..into + count].copy_from_slice(&bytes[skipped..skipped + count]);
}

#[cfg(test)]
mod tests {
    use banter_log::segment::Class;

    use super::*;
    use crate::engine::Partition;
    use crate::object;

    const STREAM: StreamId = StreamId { cluster: 1, partition: Partition(2) };
    const SEGMENT: SegmentHeader =
        SegmentHeader { id: 7, nonce: 99, core: 0, class: Class::SERVER, run: 3, made_unix_ms: 5, file_bytes: 1 << 20 };
    const PAGE: u64 = PAGE_BYTES as u64;

    fn range(file: LogFile, offset: u64, bytes: u64) -> FileRange {
        FileRange { segment: 7, file, offset, bytes }
    }

    fn block(segment: u64, offset: u64, fill: u8, bytes: usize) -> Bytes {
        let said = Said::Block { segment, offset, bytes: vec![fill; bytes].into() };
        Entry { term: 1, number: 1, said }.write(STREAM)
    }

    fn blocks() -> Blocks {
        Blocks(vec![(PAGE, 11), (2 * PAGE, 14), (4 * PAGE, 15)])
    }

    fn cache() -> EngineCache {
        EngineCache::new(1 << 20)
    }

    #[test]
    fn a_segments_bytes_are_those_of_its_blocks_and_zeros_beside_them() {
        let at = SegmentAt { stream: STREAM, header: &SEGMENT, blocks: Some(&blocks()) };
        let mut fetch = Fetch::new(range(LogFile::Segment, 0, 5 * PAGE));
        let mut cache = cache();
        assert_eq!(fetch.step(at, &mut cache), Step::Messages { from: 11, last: 15 });
        fetch.hold(Key::Message(Partition(2), 11), block(7, PAGE, 1, 100));
        cache.keep(Key::Message(Partition(2), 15), block(7, 4 * PAGE, 3, 200));
        assert_eq!(fetch.step(at, &mut cache), Step::Messages { from: 14, last: 14 });
        fetch.hold(Key::Message(Partition(2), 14), block(7, 2 * PAGE, 2, PAGE_BYTES + 50));
        let Step::Ready(bytes) = fetch.step(at, &mut cache) else { panic!("bytes") };
        let mut wanted = SEGMENT.write();
        for (fill, length, page) in [(1, 100, 1), (2, PAGE_BYTES + 50, 2), (3, 200, 4)] {
            wanted.resize(page * PAGE_BYTES, 0);
            wanted.extend(vec![fill; length]);
        }
        wanted.resize(5 * PAGE_BYTES, 0);
        assert!(bytes == wanted);
        let mut part = Fetch::new(range(LogFile::Segment, 3 * PAGE, PAGE));
        part.hold(Key::Message(Partition(2), 14), block(7, 2 * PAGE, 2, PAGE_BYTES + 50));
        let Step::Ready(bytes) = part.step(at, &mut cache) else { panic!("bytes") };
        assert_eq!((bytes.len(), bytes[49], bytes[50]), (PAGE_BYTES, 2, 0), "the end of a longer block");
        let mut behind = Fetch::new(range(LogFile::Segment, (1 << 20) - PAGE, 4 * PAGE));
        assert!(behind.step(at, &mut cache) == Step::Ready(vec![0; PAGE_BYTES]), "up to where the file would end");
    }

    #[test]
    fn another_message_at_the_place_of_a_block_is_damage() {
        let at = SegmentAt { stream: STREAM, header: &SEGMENT, blocks: Some(&blocks()) };
        for other in [block(8, PAGE, 1, 100), block(7, 2 * PAGE, 1, 100), Bytes::from_static(b"x")] {
            let mut fetch = Fetch::new(range(LogFile::Segment, PAGE, PAGE));
            fetch.hold(Key::Message(Partition(2), 11), other);
            assert_eq!(fetch.step(at, &mut cache()), Step::Damaged);
        }
    }

    #[test]
    fn an_index_and_where_the_blocks_lie_come_from_the_object_by_its_pieces() {
        let index: Vec<u8> = (0..PIECE_BYTES + 5_000).map(|at| (at % 251) as u8).collect();
        let pieces = object::write(&SEGMENT, &blocks(), &index);
        let at = SegmentAt { stream: STREAM, header: &SEGMENT, blocks: None };
        let name = |piece| ObjectName { partition: Partition(2), kind: ObjectKind::Index { segment: 7 }, piece };
        let mut fetch = Fetch::new(range(LogFile::Index, PIECE_BYTES as u64 - PAGE, 4 * PAGE));
        let mut cache = cache();
        assert_eq!(fetch.step(at, &mut cache), Step::Pieces(vec![name(0)]));
        fetch.hold(Key::Piece(name(0)), pieces[0].clone());
        assert_eq!(fetch.step(at, &mut cache), Step::Pieces(vec![name(1)]));
        fetch.hold(Key::Piece(name(1)), pieces[1].clone());
        assert_eq!(fetch.step(at, &mut cache), Step::Ready(index[PIECE_BYTES - PAGE_BYTES..].to_vec()));
        let mut fetch = Fetch::new(range(LogFile::Segment, 2 * PAGE, PAGE));
        fetch.hold(Key::Piece(name(0)), pieces[0].clone());
        assert_eq!(fetch.step(at, &mut cache), Step::Messages { from: 14, last: 14 });
        let mut short = Fetch::new(range(LogFile::Index, 0, PAGE));
        short.hold(Key::Piece(name(0)), pieces[0].slice(..100));
        assert_eq!(short.step(at, &mut cache), Step::Damaged);
    }
}
