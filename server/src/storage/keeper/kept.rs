//! The segments of the folder as the keeper knows them, and which of them may be removed.
//!
//! Invariant: the segments of a class that hold messages are removed in the order of their ids, so that what a later start
//! finds missing of a class is what it had first. One without a message explains nothing, and goes when nobody has it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use banter_chat::address::Core;
use banter_log::segment::{Class, SegmentHeader};

use super::super::recovery::KnownSegment;
use super::super::retention::Held;

/// What writes to a segment: a core, for one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Writer {
    pub core: Core,
    pub class: Class,
}

/// One segment.
#[derive(Debug)]
pub(super) struct Kept {
    pub header: SegmentHeader,
    pub file_bytes: u64,
    /// What is known of it once it is sealed.
    pub sealed: Option<Sealed>,
    needed_by: Vec<Core>,
    /// The cores were told to forget it.
    pub is_cut: bool,
    /// The last core that needed it needs it no more.
    is_released: bool,
}

/// What is known of a sealed segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub end_offset: u64,
    /// The time of its newest message; 0: it has none.
    pub newest_ms: u64,
}

impl Kept {
    /// One that was just made.
    pub fn made(header: SegmentHeader) -> Self {
        let needed_by = vec![Core(header.core)];
        Kept { header, file_bytes: header.file_bytes, sealed: None, needed_by, is_cut: false, is_released: false }
    }

    /// One that a start found.
    pub fn found(known: &KnownSegment, needed_by: Vec<Core>) -> Self {
        let sealed = Some(Sealed { end_offset: known.end_offset, newest_ms: known.newest_ms });
        let KnownSegment { header, file_bytes, .. } = *known;
        Kept { header, file_bytes, sealed, needed_by, is_cut: false, is_released: false }
    }

    /// What writes to it, or did.
    pub fn writer(&self) -> Writer {
        Writer { core: Core(self.header.core), class: self.header.class }
    }

    /// The cores that have not forgotten it.
    pub fn needed_by(&self) -> &[Core] {
        &self.needed_by
    }

    fn held(&self) -> Held {
        let newest_ms = self.sealed.map(|sealed| sealed.newest_ms);
        Held { header: self.header, file_bytes: self.file_bytes, newest_ms }
    }

    fn is_free(&self) -> bool {
        self.sealed.is_some() && self.needed_by.is_empty() && (self.is_cut || self.is_released)
    }

    fn is_empty(&self) -> bool {
        self.sealed.is_some_and(|sealed| sealed.newest_ms == 0)
    }
}

/// All of them, by id.
#[derive(Debug, Default)]
pub(super) struct KeptSegments {
    segments: BTreeMap<u64, Kept>,
    /// Of each writer, how many it writes to, or will.
    stock: BTreeMap<Writer, usize>,
}

impl KeptSegments {
    /// Adds one.
    pub fn add(&mut self, kept: Kept) {
        if kept.sealed.is_none() {
            *self.stock.entry(kept.writer()).or_default() += 1;
        }
        self.segments.insert(kept.header.id, kept);
    }

    /// One of them.
    pub fn get(&self, id: u64) -> Option<&Kept> {
        self.segments.get(&id)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Kept> {
        self.segments.values()
    }

    /// Those that are sealed, not cut, and lie before it, the newest first: one that is written to now holds no room of an
    /// older one, since a room has one writer in a run.
    pub fn before(&self, id: u64) -> impl Iterator<Item = SegmentHeader> {
        let counts = |kept: &&Kept| !kept.is_cut && kept.sealed.is_some();
        self.segments.range(..id).rev().map(|(_, kept)| kept).filter(counts).map(|kept| kept.header)
    }

    /// The first behind that id.
    pub fn behind(&self, id: u64) -> Option<&Kept> {
        self.segments.range((Bound::Excluded(id), Bound::Unbounded)).next().map(|(_, kept)| kept)
    }

    /// The first sealed one behind that id.
    pub fn sealed_behind(&self, id: u64) -> Option<(SegmentHeader, Sealed)> {
        let behind = self.segments.range((Bound::Excluded(id), Bound::Unbounded));
        behind.map(|(_, kept)| kept).find_map(|kept| Some((kept.header, kept.sealed?)))
    }

    /// How many segments a writer has, that which it writes to among them.
    pub fn stock(&self, writer: Writer) -> usize {
        self.stock.get(&writer).copied().unwrap_or(0)
    }

    /// What is not cut yet.
    pub fn held(&self) -> impl Iterator<Item = Held> {
        self.segments.values().filter(|kept| !kept.is_cut).map(Kept::held)
    }

    /// Nothing more is written to it.
    pub fn seal(&mut self, id: u64, sealed: Sealed) {
        let Some(kept) = self.segments.get_mut(&id) else { return };
        if kept.sealed.replace(sealed).is_none()
            && let Some(stock) = self.stock.get_mut(&kept.writer())
        {
            *stock = stock.saturating_sub(1);
        }
    }

    /// A proof was written behind its blocks.
    pub fn end_at(&mut self, id: u64, end_offset: u64) {
        if let Some(sealed) = self.segments.get_mut(&id).and_then(|kept| kept.sealed.as_mut()) {
            sealed.end_offset = end_offset;
        }
    }

    /// It is to be forgotten: by which cores.
    pub fn cut(&mut self, id: u64) -> Vec<Core> {
        let Some(kept) = self.segments.get_mut(&id) else { return Vec::new() };
        kept.is_cut = true;
        kept.needed_by.clone()
    }

    /// How many are cut that some core has not forgotten yet.
    pub fn being_forgotten(&self) -> usize {
        self.segments.values().filter(|kept| kept.is_cut && !kept.needed_by.is_empty()).count()
    }

    /// A core needs it no more.
    pub fn release(&mut self, id: u64, core: Core) {
        let Some(kept) = self.segments.get_mut(&id) else { return };
        let needed = kept.needed_by.len();
        kept.needed_by.retain(|&other| other != core);
        kept.is_released |= needed > 0 && kept.needed_by.is_empty();
    }

    /// What may be removed, in the order in which it has to be.
    pub fn free(&self) -> Vec<(u64, Class)> {
        let (mut free, mut held_back) = (Vec::new(), BTreeSet::new());
        for kept in self.segments.values() {
            let class = kept.header.class;
            if kept.is_free() && (kept.is_empty() || !held_back.contains(&class)) {
                free.push((kept.header.id, class));
            } else {
                held_back.insert(class);
            }
        }
        free
    }

    /// It was removed.
    pub fn remove(&mut self, id: u64) {
        self.segments.remove(&id);
    }
}
