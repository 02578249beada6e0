//! The disk of one partition's journal: does what the journal asks by entries in the partition's stream and by objects beside it, and
//! answers as a disk would.
//!
//! ```text
//!  Ask::Prepare ─▶ an entry that a segment begins ──done──▶ Answer::Segment
//!  Ask::Append ──▶ an entry with the block ────────done──▶ Answer::Synced
//!  Ask::Seal ────▶ an object: where the blocks lie, the index ─kept─▶ Answer::Indexed
//!  Ask::Read ────▶ messages and pieces of objects ─▶ Answer::Read
//! ```
//!
//! Doubt about an append is no matter of it: what was pushed is done, or full, or the partition is lost and this goes with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use banter_log::PAGE_BYTES;
use banter_log::block::BlockPlace;
use banter_log::index::IndexBuilder;
use banter_log::journal::{Answer as DiskAnswer, Ask as DiskAsk, Reach};
use banter_log::reading::FileRange;
use banter_log::segment::{Class, SegmentHeader};

use crate::appends::Token;
use crate::cache::EngineCache;
use crate::engine::{Answer, Ask, ObjectKind, Ticket};
use crate::entry::{BLOCK_ENTRY_BYTES, Said, StreamId};
use crate::object::Blocks;
use crate::terms::TermClaim;

mod reading;
mod sealing;

use reading::Fetches;
use sealing::Sealings;

/// How long until what found no space is tried again, in milliseconds.
const SPACE_RETRY_MS: u64 = 1_000;
/// Bytes of a stream that posts may not use, so that a full partition can still change hands and forget what it need not keep: some
/// thousand claims and beginnings of segments.
pub const RESERVED_BYTES: u64 = 1 << 20;
/// Bytes that the engine counts for a message beside what we put into it: its subject and headers, and 34 of its own, rounded up.
const ENGINE_MESSAGE_BYTES: u64 = 128;

/// How a partition's stream is written.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Bytes of a segment: when so many were written another one begins.
    pub segment_bytes: u64,
    /// Bytes of a stream at most; 0: no limit is known.
    pub stream_bytes_max: u64,
    /// Chance, from which the nonces of segments come.
    pub seed: u64,
}

/// A segment of the stream.
#[derive(Clone, Debug)]
pub struct StoredSegment {
    /// Its header.
    pub header: SegmentHeader,
    /// The sequence at which it began, and the claim that this was behind.
    pub began: (u64, TermClaim),
    /// Where its blocks lie; none: its object says it.
    pub blocks: Option<Blocks>,
    /// Where they end.
    pub end_offset: u64,
    /// The time of its newest record, milliseconds since 1970; 0 while it is written.
    pub newest_ms: u64,
    /// Parts of its index.
    pub parts: u32,
    /// How far it is.
    pub stage: Stage,
    /// The stream says that nobody sees it any more.
    pub is_forgotten: bool,
}

/// How far a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is written.
    Written,
    /// Nothing more is written to it; its index is in memory.
    Sealed,
    /// Its object is kept.
    Kept,
}

/// What follows.
#[derive(Debug)]
pub enum Out {
    /// That is to be said in the stream.
    Push(Token, Said),
    /// The engine is to do that.
    Ask(Ask),
    /// The journal is told.
    Disk(DiskAnswer),
    /// A segment's object is kept.
    Kept {
        /// The segment.
        segment: u64,
        /// Its index.
        index: Arc<IndexBuilder>,
    },
    /// A segment is needed no more.
    Released {
        /// The segment.
        segment: u64,
        /// Bytes of it.
        bytes: u64,
    },
    /// An index is to be dropped where nobody waits.
    LetGo(Arc<IndexBuilder>),
    /// [`Store::wake`] is due in so many milliseconds.
    WakeIn(u64),
}

/// The machine.
#[derive(Debug)]
pub struct Store {
    stream: StreamId,
    config: StoreConfig,
    /// The run of the journal whose disk it is.
    run: u64,
    /// The claim in whose term is written.
    claim: TermClaim,
    segments: BTreeMap<u64, StoredSegment>,
    next_segment: u64,
    tokens: u64,
    tickets: u64,
    pushed: BTreeMap<Token, Pushed>,
    /// Classes for whose segment there was no space.
    unprepared: Vec<Class>,
    /// Proofs for which there was none.
    unproved: usize,
    fetches: Fetches,
    sealings: Sealings,
    /// Bytes of the stream, as far as this node knows.
    stream_bytes: u64,
    /// The last block found no space.
    is_refusing: bool,
    /// Too much waits for the engine already: no segment begins.
    is_held: bool,
    /// Objects that are being removed: nobody waits for that.
    removing: BTreeMap<Ticket, ObjectKind>,
}

#[derive(Debug)]
enum Pushed {
    Segment(SegmentHeader),
    Proof,
    Block { segment: u64, offset: u64, end_offset: u64, bytes: u64, wanted: Reach },
}

impl Store {
    /// Of segments that were found, all of them sealed.
    pub fn new(
        stream: StreamId,
        config: StoreConfig,
        run: u64,
        claim: TermClaim,
        segments: BTreeMap<u64, StoredSegment>,
        next_segment: u64,
    ) -> Self {
        Store {
            stream,
            config,
            run,
            claim,
            segments,
            next_segment,
            tokens: 0,
            tickets: 0,
            pushed: BTreeMap::new(),
            unprepared: Vec::new(),
            unproved: 0,
            fetches: Fetches::default(),
            sealings: Sealings::default(),
            stream_bytes: 0,
            is_refusing: false,
            is_held: false,
            removing: BTreeMap::new(),
        }
    }

    /// The stream holds so many bytes.
    pub fn set_stream_bytes(&mut self, bytes: u64) {
        self.stream_bytes = bytes;
        self.is_refusing &= self.is_tight();
    }

    /// Bytes of the stream, as far as this node knows.
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes
    }

    /// While it is held no segment begins: what is sealed is in memory until the engine has its index.
    pub fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// The node claimed the partition anew.
    pub fn claimed(&mut self, claim: TermClaim) {
        self.claim = claim;
    }

    /// The segments that are there.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &StoredSegment> {
        self.segments.values()
    }

    /// A segment.
    pub fn segment(&self, id: u64) -> Option<&StoredSegment> {
        self.segments.get(&id)
    }

    /// The stream says that nobody sees that segment any more.
    pub fn forget(&mut self, segment: u64) {
        if let Some(stored) = self.segments.get_mut(&segment) {
            stored.is_forgotten = true;
        }
    }

    /// The number of the next segment.
    pub fn next_segment(&self) -> u64 {
        self.next_segment
    }

    /// Does what the journal asks; `unix_ms` is the time for people.
    pub fn disk(&mut self, ask: DiskAsk, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        match ask {
            DiskAsk::Prepare { class, .. } => self.prepare(class, unix_ms, out),
            DiskAsk::Append { segment, offset, block, wanted, .. } => {
                self.append(segment.id, offset, block, wanted, out)
            }
            DiskAsk::Seal { end, index, newest_ms, .. } => self.seal(end, index, newest_ms, out),
            DiskAsk::Read(range) => self.read(range, cache, out),
            DiskAsk::MendIndex { segment } => self.mend_index(segment, cache, out),
            DiskAsk::Release { segment } => self.release(segment, cache, out),
            DiskAsk::Prove => self.prove(out),
            DiskAsk::LetGo { index } => out.push(Out::LetGo(index)),
        }
    }

    fn token(&mut self, pushed: Pushed) -> Token {
        self.tokens += 1;
        self.pushed.insert(Token(self.tokens), pushed);
        Token(self.tokens)
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Whether the stream takes no segment more.
    fn is_full(&self) -> bool {
        !self.has_space_for(PAGE_BYTES as u64)
    }

    /// Whether a segment waits for space, or the last block found none.
    pub fn lacks_space(&self) -> bool {
        self.is_refusing || !self.unprepared.is_empty()
    }

    /// Whether the stream takes less than another segment: a post may find no space from there on.
    pub fn is_tight(&self) -> bool {
        !self.has_space_for(self.config.segment_bytes)
    }

    fn has_space_for(&self, bytes: u64) -> bool {
        let max = self.config.stream_bytes_max;
        max == 0 || self.stream_bytes.saturating_add(bytes).saturating_add(RESERVED_BYTES) <= max
    }

    fn prepare(&mut self, class: Class, unix_ms: u64, out: &mut Vec<Out>) {
        if self.is_held || self.is_full() {
            return self.has_no_space(class, out);
        }
        let id = self.next_segment;
        self.next_segment += 1;
        let header = SegmentHeader {
            id,
            nonce: mixed(self.config.seed, id),
            core: 0,
            class,
            run: self.run,
            made_unix_ms: unix_ms,
            file_bytes: self.config.segment_bytes,
        };
        let said = Said::segment(&header);
        let token = self.token(Pushed::Segment(header));
        out.push(Out::Push(token, said));
    }

    fn prove(&mut self, out: &mut Vec<Out>) {
        let token = self.token(Pushed::Proof);
        out.push(Out::Push(token, Said::Nothing));
    }

    fn has_no_space(&mut self, class: Class, out: &mut Vec<Out>) {
        self.unprepared.push(class);
        out.push(Out::Disk(DiskAnswer::NoSpace { class }));
        out.push(Out::WakeIn(SPACE_RETRY_MS));
    }

    fn append(&mut self, segment: u64, offset: u64, block: Vec<u8>, wanted: Reach, out: &mut Vec<Out>) {
        let end_offset = offset + block.len() as u64;
        let said = Said::block(segment, offset, block);
        let bytes = match &said {
            Said::Block { bytes, .. } => (bytes.len() + BLOCK_ENTRY_BYTES) as u64 + ENGINE_MESSAGE_BYTES,
            _ => 0,
        };
        self.is_refusing = !self.has_space_for(bytes);
        if self.is_refusing {
            return out.push(Out::Disk(DiskAnswer::AppendFailed { is_full: true }));
        }
        let token = self.token(Pushed::Block { segment, offset, end_offset, bytes, wanted });
        out.push(Out::Push(token, said));
    }

    /// What was pushed lies there for good.
    pub fn done(&mut self, token: Token, sequence: u64, out: &mut Vec<Out>) {
        match self.pushed.remove(&token) {
            Some(Pushed::Segment(header)) => self.began(header, sequence, out),
            Some(Pushed::Proof) => out.push(Out::Disk(DiskAnswer::Proved)),
            Some(Pushed::Block { segment, offset, end_offset, bytes, wanted }) => {
                self.stream_bytes += bytes;
                if let Some(stored) = self.segments.get_mut(&segment) {
                    stored.blocks.get_or_insert_default().0.push((offset, sequence));
                    stored.end_offset = end_offset;
                }
                // A majority's disks have it: it is as safe as it can be, whatever was asked.
                if wanted.tells_written() {
                    out.push(Out::Disk(DiskAnswer::Written));
                }
                if wanted.syncs() {
                    out.push(Out::Disk(DiskAnswer::Synced));
                }
            }
            None => {}
        }
    }

    fn began(&mut self, header: SegmentHeader, sequence: u64, out: &mut Vec<Out>) {
        let stored = StoredSegment {
            header,
            began: (sequence, self.claim),
            blocks: Some(Blocks::default()),
            end_offset: PAGE_BYTES as u64,
            newest_ms: 0,
            parts: 0,
            stage: Stage::Written,
            is_forgotten: false,
        };
        self.segments.insert(header.id, stored);
        out.push(Out::Disk(DiskAnswer::Segment(header)));
    }

    /// The stream has no space for what was pushed.
    pub fn full(&mut self, token: Token, out: &mut Vec<Out>) {
        match self.pushed.remove(&token) {
            Some(Pushed::Segment(header)) => self.has_no_space(header.class, out),
            Some(Pushed::Block { .. }) => {
                self.is_refusing = true;
                out.push(Out::Disk(DiskAnswer::AppendFailed { is_full: true }));
            }
            // Whether the stream's leader looked at more than the space nobody knows.
            Some(Pushed::Proof) => {
                self.unproved += 1;
                out.push(Out::WakeIn(SPACE_RETRY_MS));
            }
            None => {}
        }
    }

    fn release(&mut self, segment: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        let Some(released) = self.segments.remove(&segment) else { return };
        let (kind, partition) = (ObjectKind::Index { segment }, self.stream.partition);
        cache.forget_object(partition, kind);
        self.sealings.forget(segment);
        let ticket = self.ticket();
        self.removing.insert(ticket, kind);
        out.push(Out::Ask(Ask::Remove { ticket, partition, kind }));
        out.push(Out::Released { segment, bytes: released.end_offset });
    }

    /// The engine answered.
    pub fn engine(&mut self, answer: Answer, cache: &mut EngineCache, out: &mut Vec<Out>) {
        match answer {
            Answer::Read { ticket, messages } => self.messages_came(ticket, messages, cache, out),
            Answer::Object { ticket, object } => self.piece_came(ticket, object, cache, out),
            // An object that could not be removed stays, and is found by nobody.
            Answer::Done { ticket, .. } if self.removing.remove(&ticket).is_some() => {}
            Answer::Done { ticket, is_done } => self.piece_was_put(ticket, is_done, cache, out),
            _ => {}
        }
    }

    /// A pause is over.
    pub fn wake(&mut self, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        for class in std::mem::take(&mut self.unprepared) {
            self.prepare(class, unix_ms, out);
        }
        for _ in 0..std::mem::take(&mut self.unproved) {
            self.prove(out);
        }
        self.put_again(out);
        self.fetch_again(cache, out);
    }

    fn read(&mut self, range: FileRange, cache: &mut EngineCache, out: &mut Vec<Out>) {
        let fetch = self.fetches.add(range);
        self.fetch_on(fetch, cache, out);
    }

    fn seal(&mut self, end: BlockPlace, index: Arc<IndexBuilder>, newest_ms: u64, out: &mut Vec<Out>) {
        let Some(stored) = self.segments.get_mut(&end.segment.id) else { return };
        (stored.end_offset, stored.newest_ms, stored.stage) = (end.offset, newest_ms, Stage::Sealed);
        stored.parts = index.len() as u32;
        if !index.is_empty() {
            self.keep_index(end.segment.id, index, out);
        }
    }
}

/// A number that follows from two, and looks like chance.
fn mixed(seed: u64, number: u64) -> u64 {
    // splitmix64.
    let mut mixed = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
