//! What a node that claimed a partition makes of its stream: the newest checkpoint, and behind it every entry that counts, up to its claim.
//!
//! ```text
//!  newest ─▶ checkpoint ─▶ walk: claim 40 │ segment 7 │ block │ block │ claim 90 (ours)
//!     └─ none: from the stream's beginning
//! ```
//!
//! Invariants:
//! - A block is believed behind its own sum, in the chain of its segment, and only where the void rule says that it counts.
//! - Nothing is guessed: where something is missing or does not check, the partition is not served, and why is said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use banter_log::block::{Block, BlockPlace};
use banter_log::catalog::{Catalog, Hole, Past};
use banter_log::index::{IndexBuilder, Part};
use banter_log::segment::SegmentHeader;
use banter_log::walked::WalkedRooms;
use banter_protocol::ids::Epoch;
use bytes::Bytes;

use crate::checkpoint::{Checkpoint, CoveredSegment, Newest};
use crate::engine::{Answer, Ask, Object, ObjectKind, ObjectName, Ticket, Unasked};
use crate::entry::{Said, StreamEpochs, StreamId, whole_block};
use crate::object::{Blocks, PIECE_BYTES};
use crate::store::{Stage as SegmentStage, StoredSegment};
use crate::terms::{Read, StreamFault, TermClaim, Terms};

/// The first pause behind an ask that brought nothing, in milliseconds; each further one is twice as long.
const PAUSE_MS: u64 = 20;
/// The longest pause, in milliseconds.
const PAUSE_MS_MAX: u64 = 500;
/// Messages of one read.
const READ_MESSAGES_MAX: u32 = 256;
/// Bytes of one read.
const READ_BYTES_MAX: u32 = 4 << 20;
/// How often it is looked again where a checkpoint is named that is not there, or what it needs of the stream is not: one of the
/// engine's servers may be late.
const LOST_MAX: u32 = 8;
/// Pieces of a checkpoint that are asked for at the same time: several partitions are read at once, and one server's outbox has to
/// hold what all of them ask.
const PIECES_ASKED_MAX: usize = 4;
/// Bytes of a checkpoint at most: above them it is none.
const CHECKPOINT_BYTES_MAX: u64 = 4 << 30;

/// Why a partition cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadFault {
    /// The stream is not what it should be.
    #[error(transparent)]
    Stream(#[from] StreamFault),
    /// A block does not check, or is not the next of its segment.
    #[error("message {0} of the stream: its block does not check, or is not the next of its segment")]
    Block(u64),
    /// A segment's header does not check.
    #[error("message {0} of the stream: the header of its segment does not check")]
    Segment(u64),
    /// A room lacks messages.
    #[error("messages {} to {} of a room are missing behind segment {}", .0.from.0, .0.to.0, .0.behind)]
    Hole(Hole),
    /// Segments began, and what epochs follow from was never said: whoever serves a partition says it first, and who imports into one last.
    #[error("an import into it was broken off, and it holds only a part of what was to be there")]
    Unfinished,
}

impl LoadFault {
    /// Whether it may be gone at another look: a server that is late lacks what the others have.
    pub fn may_pass(&self) -> bool {
        matches!(self, LoadFault::Stream(StreamFault::Missing { .. }))
    }
}

/// What follows.
#[derive(Debug)]
pub enum Out {
    /// The engine is to do that.
    Ask(Ask),
    /// All is known.
    Loaded(Box<Loaded>),
    /// The partition cannot be served.
    Broken(LoadFault),
    /// An owner that came later was here, as it seems.
    Doubt,
    /// [`Loading::wake`] is due in so many milliseconds.
    WakeIn(u64),
}

/// What is known of a partition up to a claim.
#[derive(Debug)]
pub struct Loaded {
    /// Where its rooms lie.
    pub catalog: Catalog,
    /// The same, as of the segments that the checkpoint covers.
    pub covered: Catalog,
    /// Indexes that no object is known to hold.
    pub indexes: BTreeMap<u64, Arc<IndexBuilder>>,
    /// Its segments.
    pub segments: BTreeMap<u64, StoredSegment>,
    /// The number of the next segment.
    pub next_segment: u64,
    /// What epochs follow from.
    pub epochs: StreamEpochs,
    /// The largest run or epoch that was given.
    pub number: u64,
    /// The version of what says which checkpoint is the newest; 0: nothing says it.
    pub newest_version: u64,
    /// The place of the checkpoint that was found.
    pub checkpoint: Option<Newest>,
    /// Messages of the stream that were read.
    pub walked: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Loading {
    stream: StreamId,
    /// What is read lies before it.
    claim: TermClaim,
    stage: Stage,
    tickets: u64,
    pause_ms: u64,
    terms: Terms,
    walked: u64,
    /// Of a partition of which nothing was ever said.
    first_epochs: StreamEpochs,
    epochs: StreamEpochs,
    number: u64,
    next_segment: u64,
    /// The version of what says which checkpoint is the newest.
    newest_version: u64,
    checkpoint: Option<Checkpoint>,
    found: Option<Newest>,
    /// How often what a checkpoint needs was not there.
    lost_count: u32,
    covered: BTreeSet<u64>,
    /// Segments that nobody sees any more.
    forgotten: BTreeSet<u64>,
    /// Segments whose beginning was not read, and the first of their blocks that was.
    unknown: BTreeMap<u64, u64>,
    walks: BTreeMap<u64, Walk>,
}

#[derive(Debug)]
enum Stage {
    /// Which checkpoint is the newest.
    Newest(Ticket),
    /// Its pieces.
    Pieces {
        newest: Newest,
        /// Of so many in all, those that were asked for.
        pieces: Vec<Option<Bytes>>,
        count: u32,
        asked: BTreeMap<Ticket, u32>,
    },
    Walking(Ticket),
    Pausing(Again),
    Ended,
}

#[derive(Clone, Copy, Debug)]
enum Again {
    Newest,
    Walk,
}

/// A segment that is walked.
#[derive(Debug)]
struct Walk {
    began: (u64, TermClaim),
    place: BlockPlace,
    rooms: WalkedRooms,
    blocks: Blocks,
}

impl Loading {
    /// Begins, for a node whose claim lies there; `epochs` are those of a partition of which nothing was ever said.
    pub fn new(stream: StreamId, claim: TermClaim, epochs: StreamEpochs, out: &mut Vec<Out>) -> Self {
        let mut loading = Loading::at(stream, claim, epochs);
        loading.ask_newest(out);
        loading
    }

    fn at(stream: StreamId, claim: TermClaim, epochs: StreamEpochs) -> Self {
        Loading {
            stream,
            claim,
            stage: Stage::Ended,
            tickets: 0,
            pause_ms: PAUSE_MS,
            terms: Terms::behind(0),
            walked: 0,
            first_epochs: epochs,
            epochs,
            number: epochs.largest(),
            next_segment: 1,
            newest_version: 0,
            checkpoint: None,
            found: None,
            lost_count: 0,
            covered: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            unknown: BTreeMap::new(),
            walks: BTreeMap::new(),
        }
    }

    /// How far the stream was read, and up to where it is read.
    pub fn progress(&self) -> (u64, u64) {
        (self.terms.through, self.claim.term)
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn ask_newest(&mut self, out: &mut Vec<Out>) {
        let ticket = self.ticket();
        self.stage = Stage::Newest(ticket);
        let name = ObjectName { partition: self.stream.partition, kind: ObjectKind::Newest, piece: 0 };
        out.push(Out::Ask(Ask::Get { ticket, name }));
    }

    /// The engine answered.
    pub fn engine(&mut self, answer: Answer, out: &mut Vec<Out>) {
        match (&mut self.stage, answer) {
            (Stage::Newest(asked), Answer::Object { ticket, object }) if *asked == ticket => {
                self.take_newest(object, out);
            }
            (Stage::Pieces { .. }, Answer::Object { ticket, object }) => self.take_piece(ticket, object, out),
            (Stage::Walking(asked), Answer::Read { ticket, messages }) if *asked == ticket => {
                self.take_read(messages.unwrap_or_default(), out);
            }
            _ => {}
        }
    }

    /// A pause is over.
    pub fn wake(&mut self, out: &mut Vec<Out>) {
        match self.stage {
            Stage::Pausing(Again::Newest) => self.ask_newest(out),
            Stage::Pausing(Again::Walk) => self.walk_on(out),
            _ => {}
        }
    }

    fn pause(&mut self, again: Again, out: &mut Vec<Out>) {
        self.stage = Stage::Pausing(again);
        out.push(Out::WakeIn(self.pause_ms));
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MS_MAX);
    }

    /// From what is named the newest by then.
    fn begin_anew(&mut self, out: &mut Vec<Out>) {
        out.push(Out::Doubt);
        let Loading { stream, claim, first_epochs, lost_count, tickets, pause_ms, .. } = *self;
        *self = Loading { lost_count, tickets, pause_ms, ..Loading::at(stream, claim, first_epochs) };
        self.pause(Again::Newest, out);
    }

    fn take_newest(&mut self, object: Result<Option<Object>, Unasked>, out: &mut Vec<Out>) {
        let Ok(object) = object else { return self.pause(Again::Newest, out) };
        self.newest_version = object.as_ref().map_or(0, |object| object.version);
        let newest = object.and_then(|object| Newest::read(&object.bytes));
        let newest = newest.filter(|newest| newest.bytes <= CHECKPOINT_BYTES_MAX);
        let Some(newest) = newest else { return self.walk_on(out) };
        let count = newest.bytes.div_ceil(PIECE_BYTES as u64) as u32;
        self.stage = Stage::Pieces { newest, pieces: Vec::new(), count, asked: BTreeMap::new() };
        self.ask_pieces(out);
    }

    fn ask_pieces(&mut self, out: &mut Vec<Out>) {
        let Loading { stage: Stage::Pieces { newest, pieces, count, asked }, tickets, stream, .. } = self else {
            return;
        };
        while asked.len() < PIECES_ASKED_MAX && pieces.len() < *count as usize {
            *tickets += 1;
            let (ticket, piece) = (Ticket(*tickets), pieces.len() as u32);
            asked.insert(ticket, piece);
            pieces.push(None);
            let kind = ObjectKind::Checkpoint { number: newest.number };
            out.push(Out::Ask(Ask::Get { ticket, name: ObjectName { partition: stream.partition, kind, piece } }));
        }
    }

    fn take_piece(&mut self, ticket: Ticket, object: Result<Option<Object>, Unasked>, out: &mut Vec<Out>) {
        let Stage::Pieces { pieces, asked, .. } = &mut self.stage else { return };
        let Some(piece) = asked.remove(&ticket) else { return };
        match object {
            Ok(Some(object)) => pieces[piece as usize] = Some(object.bytes),
            // A newer one took its place meanwhile, or it is lost.
            Ok(None) if self.lost_count < LOST_MAX => {
                self.lost_count += 1;
                return self.pause(Again::Newest, out);
            }
            Ok(None) => return self.walk_on(out),
            Err(Unasked) => return self.pause(Again::Newest, out),
        }
        self.ask_pieces(out);
        let Stage::Pieces { newest, pieces, asked, .. } = &mut self.stage else { return };
        if !asked.is_empty() {
            return;
        }
        let bytes = pieces.iter().flatten().fold(Vec::new(), |mut all, piece| {
            all.extend_from_slice(piece);
            all
        });
        let is_whole = bytes.len() as u64 == newest.bytes;
        let found = Checkpoint::read(&bytes, self.stream).filter(|_| is_whole);
        if let Some(Checkpoint { walk: Terms { through, .. }, .. }) = found
            && through >= self.claim.term
        {
            // An owner that came later put it, or the stream was made anew beside what was derived of it.
            self.lost_count += 1;
            if self.lost_count > LOST_MAX {
                return self.broken(StreamFault::Vanished { known: through }.into(), out);
            }
            out.push(Out::Doubt);
            return self.pause(Again::Newest, out);
        }
        if let Some(found) = found {
            self.terms = found.walk;
            (self.epochs, self.next_segment) = (found.epochs, self.next_segment.max(found.next_segment));
            self.number = self.number.max(found.number).max(found.epochs.largest());
            self.covered = found.segments.iter().map(|segment| segment.header.id).collect();
            self.found = Some(*newest);
            self.checkpoint = Some(found);
        }
        self.walk_on(out);
    }

    fn walk_on(&mut self, out: &mut Vec<Out>) {
        let wanted = self.claim.term - 1;
        if self.terms.through >= wanted {
            self.stage = Stage::Ended;
            out.push(match self.make() {
                Ok(loaded) => Out::Loaded(Box::new(loaded)),
                Err(fault) => Out::Broken(fault),
            });
            return;
        }
        let ticket = self.ticket();
        self.stage = Stage::Walking(ticket);
        let from = self.terms.through + 1;
        let messages_max = (wanted - self.terms.through).min(READ_MESSAGES_MAX.into()) as u32;
        let partition = self.stream.partition;
        out.push(Out::Ask(Ask::Read { partition, ticket, from, messages_max, bytes_max: READ_BYTES_MAX }));
    }

    fn take_read(&mut self, messages: Vec<(u64, Bytes)>, out: &mut Vec<Out>) {
        if messages.is_empty() {
            return self.pause(Again::Walk, out);
        }
        self.pause_ms = PAUSE_MS;
        for (sequence, message) in messages {
            // All before the claim was to be there.
            let taken = if sequence < self.claim.term {
                self.take(sequence, &message)
            } else if self.terms.through + 1 < self.claim.term {
                let (from, to) = (self.terms.through + 1, self.claim.term - 1);
                Err(StreamFault::Missing { from, to }.into())
            } else {
                break;
            };
            match taken {
                Ok(()) => {}
                // Behind a checkpoint of a while ago the stream may be purged.
                Err(LoadFault::Stream(StreamFault::Missing { .. })) if self.lost_count < LOST_MAX => {
                    self.lost_count += 1;
                    return self.begin_anew(out);
                }
                Err(fault) => return self.broken(fault, out),
            }
        }
        self.walk_on(out);
    }

    fn broken(&mut self, fault: LoadFault, out: &mut Vec<Out>) {
        self.stage = Stage::Ended;
        out.push(Out::Broken(fault));
    }

    fn take(&mut self, sequence: u64, message: &Bytes) -> Result<(), LoadFault> {
        self.walked += 1;
        let Read::Counts { said, .. } = self.terms.take(sequence, message, self.stream)? else { return Ok(()) };
        match said {
            Said::Segment(said) => {
                let header = Said::segment_header(&said).ok_or(LoadFault::Segment(sequence))?;
                self.begins(sequence, header);
            }
            Said::Block { segment, offset, bytes } => self.take_block(sequence, (segment, offset), &bytes)?,
            Said::Epochs(epochs) => {
                self.epochs = epochs;
                self.number = self.number.max(epochs.largest());
            }
            Said::Forget { epochs, segments } => {
                self.epochs = epochs;
                self.number = self.number.max(epochs.largest());
                for segment in segments {
                    self.walks.remove(&segment);
                    self.forgotten.insert(segment);
                }
            }
            Said::Claim { .. } | Said::Release { .. } | Said::Nothing => {}
        }
        Ok(())
    }

    fn begins(&mut self, sequence: u64, header: SegmentHeader) {
        self.next_segment = self.next_segment.max(header.id + 1);
        self.number = self.number.max(header.run);
        let Some(claim) = self.terms.claim.filter(|_| !self.covered.contains(&header.id)) else { return };
        let (place, rooms, blocks) = (BlockPlace::first_of(header), WalkedRooms::default(), Blocks::default());
        self.walks.insert(header.id, Walk { began: (sequence, claim), place, rooms, blocks });
    }

    fn take_block(&mut self, sequence: u64, at: (u64, u64), bytes: &[u8]) -> Result<(), LoadFault> {
        let (segment, offset) = at;
        // What is forgotten was sealed.
        if self.covered.contains(&segment) || self.forgotten.contains(&segment) {
            return Ok(());
        }
        let Some(walk) = self.walks.get_mut(&segment) else {
            // It began before the walk. If it is forgotten, that is said behind its last block.
            self.unknown.entry(segment).or_insert(sequence);
            return Ok(());
        };
        if walk.place.offset != offset {
            return Err(LoadFault::Block(sequence));
        }
        let whole = whole_block(bytes);
        let block = Block::read_in_chain(&whole, &walk.place).ok_or(LoadFault::Block(sequence))?;
        if !walk.rooms.take(&block) {
            return Err(LoadFault::Block(sequence));
        }
        walk.place = block.behind;
        walk.blocks.0.push((offset, sequence));
        Ok(())
    }

    /// Makes of the checkpoint and of what was walked what a journal begins with.
    fn make(&mut self) -> Result<Loaded, LoadFault> {
        if let Some((_, &sequence)) = self.unknown.iter().find(|(segment, _)| !self.forgotten.contains(segment)) {
            return Err(LoadFault::Block(sequence));
        }
        if self.epochs.levels == 0 && self.next_segment > 1 {
            return Err(LoadFault::Unfinished);
        }
        let mut checkpoint = self.checkpoint.take();
        if let Some(checkpoint) = &mut checkpoint {
            checkpoint.segments.retain(|segment| !self.forgotten.contains(&segment.header.id));
        }
        let covered_segments = checkpoint.as_ref().map_or(&[][..], |found| &found.segments);
        let walks = std::mem::take(&mut self.walks);
        // A segment that was had ready and never begun holds nothing.
        let walks: Vec<Walk> = walks.into_values().filter(|walk| !walk.rooms.index.is_empty()).collect();
        let headers = covered_segments.iter().map(|segment| &segment.header);
        let headers = headers.chain(walks.iter().map(|walk| &walk.place.segment));
        let (dropped, changed) = (Epoch(self.epochs.dropped), Epoch(self.epochs.lowered));
        let past = Past { oldest: Catalog::oldest_of(headers), dropped, changed, ..Past::default() };
        let mut catalog = catalog_of(checkpoint.as_ref(), &past);
        let covered = catalog_of(checkpoint.as_ref(), &past);
        let mut segments: BTreeMap<u64, StoredSegment> =
            covered_segments.iter().map(|segment| (segment.header.id, kept(segment))).collect();
        let mut indexes = BTreeMap::new();
        for walk in walks {
            let Walk { began, place, rooms, blocks } = walk;
            let (header, mut index) = (place.segment, rooms.index);
            add_walked(&mut catalog, &header, &mut index, &past)?;
            let (newest_ms, parts) = (index.newest_ms(), index.len() as u32);
            let (blocks, stage) = (Some(blocks), SegmentStage::Sealed);
            let (end_offset, is_forgotten) = (place.offset, false);
            let stored = StoredSegment { header, began, blocks, end_offset, newest_ms, parts, stage, is_forgotten };
            segments.insert(header.id, stored);
            indexes.insert(header.id, Arc::new(index));
        }
        catalog.set_epochs(self.epochs.of_catalog());
        let Loading { next_segment, epochs, number, walked, newest_version, found: checkpoint, .. } = *self;
        Ok(Loaded {
            catalog,
            covered,
            indexes,
            segments,
            next_segment,
            epochs,
            number,
            newest_version,
            checkpoint,
            walked,
        })
    }
}

/// The rooms of a checkpoint.
fn catalog_of(checkpoint: Option<&Checkpoint>, past: &Past<'_>) -> Catalog {
    let mut catalog = Catalog::default();
    let Some(checkpoint) = checkpoint else { return catalog };
    for segment in &checkpoint.segments {
        catalog.add_segment(segment.header, segment.parts, segment.newest_ms);
    }
    for room in &checkpoint.rooms {
        catalog.add_kept(room, past);
    }
    catalog
}

/// Adds the parts of a segment that was walked, and says to its index what is before them.
fn add_walked(
    catalog: &mut Catalog,
    header: &SegmentHeader,
    index: &mut IndexBuilder,
    past: &Past<'_>,
) -> Result<(), LoadFault> {
    catalog.add_segment(*header, index.len() as u32, index.newest_ms());
    let parts: Vec<Part> = index.parts().copied().collect();
    for mut part in parts {
        let added = catalog.add_any_part(header, &mut part, false, past);
        if let Some(hole) = added.hole {
            return Err(LoadFault::Hole(hole));
        }
        index.set_chain(part.room, part.chain);
    }
    Ok(())
}

fn kept(segment: &CoveredSegment) -> StoredSegment {
    let CoveredSegment { header, began, end_offset, newest_ms, parts } = *segment;
    let began = (began, TermClaim { term: 0, by: Default::default(), nonce: 0 });
    let (blocks, stage, is_forgotten) = (None, SegmentStage::Kept, false);
    StoredSegment { header, began, blocks, end_offset, newest_ms, parts, stage, is_forgotten }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Partition;
    use crate::entry::NodeId;

    fn pieces(out: &mut Vec<Out>) -> Vec<(Ticket, u32)> {
        let asked = out.drain(..).map(|follow| match follow {
            Out::Ask(Ask::Get { ticket, name }) => (ticket, name.piece),
            other => panic!("{other:?}"),
        });
        asked.collect()
    }

    #[test]
    fn of_a_large_checkpoint_a_few_pieces_are_asked_for_at_a_time_and_each_once() {
        let stream = StreamId { cluster: 3, partition: Partition(4) };
        let claim = TermClaim { term: 90, by: NodeId { name: 1, run: 2 }, nonce: 3 };
        let mut out = Vec::new();
        let mut loading = Loading::new(stream, claim, StreamEpochs::default(), &mut out);
        let newest = Newest { number: 7, bytes: 11 * PIECE_BYTES as u64 - 5 };
        let object = Object { version: 1, bytes: newest.write() };
        let ticket = pieces(&mut out)[0].0;
        loading.engine(Answer::Object { ticket, object: Ok(Some(object)) }, &mut out);
        let mut asked = pieces(&mut out);
        let mut seen = Vec::new();
        while seen.len() < 10 {
            assert!(asked.len() <= PIECES_ASKED_MAX);
            // The last of them comes first.
            let (ticket, piece) = asked.pop().expect("a piece is under way");
            seen.push(piece);
            let object = Object { version: 1, bytes: vec![0; PIECE_BYTES].into() };
            loading.engine(Answer::Object { ticket, object: Ok(Some(object)) }, &mut out);
            asked.extend(pieces(&mut out));
        }
        seen.extend(asked.iter().map(|(_, piece)| *piece));
        seen.sort_unstable();
        assert_eq!(seen, (0..11).collect::<Vec<_>>());
    }
}
