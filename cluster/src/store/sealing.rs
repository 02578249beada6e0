//! Keeps the objects of sealed segments, a piece at a time, until the engine has them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use banter_log::index::IndexBuilder;
use banter_log::journal::Answer as DiskAnswer;
use banter_log::reading::{FileRange, LogFile};
use bytes::Bytes;

use super::{Out, Stage, Store};
use crate::cache::EngineCache;
use crate::engine::{Ask, ObjectKind, ObjectName, Ticket};
use crate::object;

/// How long until a piece is put again that may not be kept, in milliseconds.
const PUT_RETRY_MS: u64 = 500;

/// The objects on their way.
#[derive(Debug, Default)]
pub(super) struct Sealings {
    sealings: BTreeMap<u64, Sealing>,
    /// Whose piece is being put.
    asked: BTreeMap<Ticket, u64>,
    /// Bytes of all their pieces.
    bytes: u64,
}

#[derive(Debug)]
struct Sealing {
    index: Arc<IndexBuilder>,
    /// Pieces that are not kept yet, and the number of the first.
    pieces: VecDeque<Bytes>,
    piece: u32,
    is_asked: bool,
}

impl Sealings {
    /// A segment goes.
    pub fn forget(&mut self, segment: u64) {
        if let Some(sealing) = self.sealings.remove(&segment) {
            self.bytes -= sealing.bytes();
        }
    }
}

impl Sealing {
    fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl Store {
    /// Makes the object of a sealed segment, which takes as long as it has rooms, and puts it.
    pub fn keep_index(&mut self, segment: u64, index: Arc<IndexBuilder>, out: &mut Vec<Out>) {
        let Some(stored) = self.segments.get(&segment) else { return };
        let blocks = stored.blocks.clone().unwrap_or_default();
        let file = index.encode(&stored.header, stored.end_offset, true);
        let pieces = object::write(&stored.header, &blocks, &file).into();
        let sealing = Sealing { index, pieces, piece: 0, is_asked: false };
        self.sealings.bytes += sealing.bytes();
        self.sealings.sealings.insert(segment, sealing);
        self.put_next(segment, out);
    }

    /// Bytes of objects that the engine has not taken yet.
    pub fn unkept_bytes(&self) -> u64 {
        self.sealings.bytes
    }

    fn put_next(&mut self, segment: u64, out: &mut Vec<Out>) {
        let ticket = self.ticket();
        let partition = self.stream.partition;
        let Some(sealing) = self.sealings.sealings.get_mut(&segment) else { return };
        let Some(bytes) = sealing.pieces.front().cloned() else { return };
        sealing.is_asked = true;
        let name = ObjectName { partition, kind: ObjectKind::Index { segment }, piece: sealing.piece };
        self.sealings.asked.insert(ticket, segment);
        out.push(Out::Ask(Ask::Put { ticket, name, expected: None, bytes }));
    }

    pub(super) fn piece_was_put(&mut self, ticket: Ticket, is_done: bool, cache: &mut EngineCache, out: &mut Vec<Out>) {
        let Some(segment) = self.sealings.asked.remove(&ticket) else { return };
        let Some(sealing) = self.sealings.sealings.get_mut(&segment) else { return };
        sealing.is_asked = false;
        if !is_done {
            return out.push(Out::WakeIn(PUT_RETRY_MS));
        }
        self.sealings.bytes -= sealing.pieces.pop_front().map_or(0, |piece| piece.len() as u64);
        sealing.piece += 1;
        if !sealing.pieces.is_empty() {
            return self.put_next(segment, out);
        }
        let Some(Sealing { index, .. }) = self.sealings.sealings.remove(&segment) else { return };
        cache.forget_object(self.stream.partition, ObjectKind::Index { segment });
        if let Some(stored) = self.segments.get_mut(&segment) {
            (stored.stage, stored.parts, stored.blocks) = (Stage::Kept, index.len() as u32, None);
        }
        out.push(Out::Disk(DiskAnswer::Indexed { segment, parts: index.len() as u32 }));
        out.push(Out::Kept { segment, index });
        // Others may have found no space, or no leader.
        self.put_again(out);
    }

    /// One of those that wait: where one is refused all would be.
    pub(super) fn put_again(&mut self, out: &mut Vec<Out>) {
        if let Some((&segment, _)) = self.sealings.sealings.iter().find(|(_, sealing)| !sealing.is_asked) {
            self.put_next(segment, out);
        }
    }

    /// The index of a kept segment is not what it should be: it is asked for anew.
    pub(super) fn mend_index(&mut self, segment: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        cache.forget_object(self.stream.partition, ObjectKind::Index { segment });
        let bytes = u64::MAX;
        let fetch = self.fetches.add(FileRange { segment, file: LogFile::Index, offset: 0, bytes });
        self.fetches.is_mending(fetch);
        self.fetch_on(fetch, cache, out);
    }
}
