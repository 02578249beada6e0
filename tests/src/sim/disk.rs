//! The simulated disk under the log: takes its time, fails and fills up by chance, and keeps apart what was written and
//! what was synced, so that a power cut can take the one and tear it.

mod keeping;
mod places;
mod rotting;
mod segment;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use banter_chat::address::Core;
use banter_log::PAGE_BYTES;
use banter_log::block::{BlockPlace, BlockWriter};
use banter_log::index::IndexBuilder;
use banter_log::journal::{Answer, Ask, Reach};
use banter_log::reading::{FileRange, LogFile};
use banter_log::segment::{Class, SegmentHeader};
use banter_protocol::ids::RoomId;
use banter_server::storage::ages::{Ages, settle};
use banter_server::storage::recovery::KnownSegment;

pub use self::places::Places;
use self::segment::SECTOR_BYTES;
pub use self::segment::{SimSegment, flip};
use super::coverage::Coverage;
use crate::seeded::Seeded;

/// Bytes of a segment: a few commits.
pub const SEGMENT_BYTES: usize = 24 * 4_096;
/// How long a wall clock has to stand until the keeper believes it, in milliseconds.
const BELIEVED_BEHIND_MS: u64 = 2_000;
/// How often an index is tried to be written at most.
const INDEX_TRIES_MAX: usize = 4;
/// Turns behind a wrong bit without another one.
const READS_RIGHT_TURNS: u64 = 200;
/// Turns for which a disk fails every read at most.
const READS_FAIL_TURNS_MAX: usize = 40;

/// The disk of all cores.
pub struct SimDisk {
    /// Segments by id.
    pub segments: BTreeMap<u64, SimSegment>,
    run: u64,
    /// Where the clock of the run starts.
    start_ms: u64,
    /// How old what lies on it is.
    ages: Option<Ages>,
    next_id: u64,
    pending: Vec<VecDeque<(u64, Act)>>,
    faults: Faults,
    /// A write or a sync failed in this run.
    pub has_failed: bool,
    /// Every read fails until that turn.
    fails_reads_until: u64,
    /// Until that turn every read brings what lies on the disk: whoever read a wrong bit has read again by then.
    reads_right_until: u64,
    /// Segments that rotted, with those that are gone meanwhile.
    pub rotten: BTreeSet<u64>,
    /// Segments that were not sealed, and rotted since a server was there.
    damaged_unsealed: BTreeSet<u64>,
    /// Segments that were dropped, and the rooms that they held.
    pub removed: BTreeMap<u64, BTreeSet<RoomId>>,
    /// Segments that were ever cut, with the rooms that they held something of.
    cut_once: BTreeMap<u64, BTreeSet<RoomId>>,
    /// No further fault: everything comes to rest.
    pub is_kind: bool,
    /// It takes no time.
    pub is_quick: bool,
}

/// What may go wrong, each once in so many; 0 = never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A write or a sync fails.
    pub append_once_in: usize,
    /// There is no space for a block.
    pub full_once_in: usize,
    /// There is no space for a segment.
    pub no_space_once_in: usize,
    /// Turns that anything takes at most.
    pub delay_max: usize,
    /// Turns that a sync takes beside, at most.
    pub sync_delay_max: usize,
    /// A read fails.
    pub read_once_in: usize,
    /// A read brings a bit that is not what lies on the disk.
    pub flip_once_in: usize,
    /// A bit of a sealed segment is no longer what was written.
    pub rot_once_in: usize,
    /// A bit of a segment that is not sealed turns, each time that a server ends.
    pub rot_unsealed_once_in: usize,
    /// A start finds an index missing, damaged, or that of another segment.
    pub index_once_in: usize,
    /// A sync makes durable its own block only, where the journal says that this is enough: the disk writes it through
    /// its cache.
    pub writes_through: bool,
}

enum Act {
    Ask(Ask),
    Sync(u64, Synced),
    Answer(Answer),
    WriteIndex(BlockPlace, bool, Arc<IndexBuilder>),
}

/// What a sync makes durable.
enum Synced {
    /// All of the segment, as a flush of the disk's cache does.
    All,
    /// That much from there, as a write through the cache does.
    Block(usize, usize),
}

fn is_for_keeper(ask: &Ask) -> bool {
    matches!(ask, Ask::Prepare { .. } | Ask::Seal { .. } | Ask::Release { .. } | Ask::LetGo { .. })
}

impl Act {
    fn name(&self) -> &'static str {
        match self {
            Act::Ask(Ask::Prepare { .. }) => "prepare",
            Act::Ask(Ask::Append { .. }) => "append",
            Act::Ask(Ask::Seal { .. }) => "seal",
            Act::Ask(Ask::Read(_)) => "read",
            Act::Ask(Ask::MendIndex { .. }) => "mend index",
            Act::Ask(Ask::Release { .. }) => "release",
            Act::Ask(Ask::LetGo { .. }) => "let go",
            Act::Ask(Ask::Prove) => "prove",
            Act::Sync(..) => "sync",
            Act::Answer(_) => "answer",
            Act::WriteIndex(..) => "index",
        }
    }
}

impl SimDisk {
    /// An empty one.
    pub fn new(faults: Faults) -> Self {
        SimDisk {
            segments: BTreeMap::new(),
            run: 0,
            start_ms: 0,
            ages: None,
            next_id: 1,
            pending: Vec::new(),
            faults,
            has_failed: false,
            fails_reads_until: 0,
            reads_right_until: 0,
            rotten: BTreeSet::new(),
            damaged_unsealed: BTreeSet::new(),
            removed: BTreeMap::new(),
            cut_once: BTreeMap::new(),
            is_kind: false,
            is_quick: false,
        }
    }

    /// A server starts on it, at that time of its clock and of the wall's: nothing is under way.
    pub fn begin(
        &mut self,
        (run, start_ms, unix_ms): (u64, u64, u64),
        cores: u16,
        needed_by: impl Fn(u64) -> BTreeSet<Core>,
    ) {
        (self.run, self.start_ms, self.has_failed) = (run, start_ms, false);
        self.damaged_unsealed.clear();
        let mut newest: Vec<_> = self.segments.values().map(|there| (there.header, there.newest_ms)).collect();
        settle(&mut newest, start_ms);
        self.segments.values_mut().zip(&newest).for_each(|(there, (_, newest_ms))| there.newest_ms = *newest_ms);
        self.ages = Some(Ages::new(run, start_ms, unix_ms, &newest).believing_behind(BELIEVED_BEHIND_MS));
        self.pending = (0..cores).map(|_| VecDeque::new()).collect();
        for (&id, segment) in &mut self.segments {
            segment.needed_by = needed_by(id);
        }
        self.next_id = self.segments.keys().last().map_or(1, |id| id + 1).max(self.next_id);
    }

    /// A segment that was found at a start.
    pub fn add_found(&mut self, known: &KnownSegment, bytes: Vec<u8>, index: Vec<u8>) {
        let KnownSegment { header, end_offset, newest_ms, .. } = *known;
        let found = SimSegment::new(header, bytes, Some(index), BTreeSet::new());
        self.segments.insert(header.id, SimSegment { end_offset, newest_ms, ..found });
    }

    /// Takes what a core asks.
    pub fn ask(&mut self, core: usize, asks: Vec<Ask>, turn: u64, chance: &mut Seeded) {
        for ask in asks {
            let clock_ms = self.ages.as_ref().map_or(0, Ages::now_ms);
            if let Ask::Seal { end, newest_ms, .. } = &ask
                && let Some(sealed) = self.segments.get_mut(&end.segment.id)
            {
                (sealed.is_sealed, sealed.end_offset, sealed.newest_ms) =
                    (true, end.offset, (*newest_ms).min(clock_ms));
            }
            let mut due = turn + self.delay(self.faults.delay_max, chance);
            if is_for_keeper(&ask) {
                // A queue to one thread keeps its order.
                let before =
                    self.pending[core].iter().filter(|(_, act)| matches!(act, Act::Ask(ask) if is_for_keeper(ask)));
                due = due.max(before.map(|(due, _)| *due).max().unwrap_or(0));
            }
            self.pending[core].push_back((due, Act::Ask(ask)));
        }
    }

    /// Whether a core is to take a turn for it.
    pub fn is_due(&self, core: usize, turn: u64) -> bool {
        self.pending[core].iter().any(|(due, _)| *due <= turn)
    }

    /// What is under way, for a fault's message.
    pub fn describe(&self) -> String {
        let acts = self.pending.iter().flatten().map(|(due, act)| format!("{} at {due}", act.name()));
        format!("the disk has {:?}", acts.collect::<Vec<_>>())
    }

    /// Whether a write or a sync failed since the server started.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.pending.iter().all(VecDeque::is_empty)
    }

    /// Does what is due, and gives the answers.
    pub fn work(&mut self, core: usize, turn: u64, chance: &mut Seeded, seen: &mut Coverage) -> Vec<Answer> {
        let mut answers = Vec::new();
        let (due, later): (Vec<_>, Vec<_>) = self.pending[core].drain(..).partition(|(due, _)| *due <= turn);
        self.pending[core] = later.into();
        for (_, act) in due {
            let after = turn + self.delay(self.faults.delay_max, chance);
            match act {
                Act::Ask(ask) => self.take(core, ask, after, &mut answers, chance, seen),
                Act::Sync(segment, synced) => self.sync(segment, &synced, &mut answers, chance, seen),
                Act::Answer(answer) => answers.push(answer),
                Act::WriteIndex(end, is_provable, index) => {
                    let parts = self.write_index(&end, is_provable, &index, seen);
                    drop(index);
                    let answer = Answer::Indexed { segment: end.segment.id, parts };
                    self.pending[core].push_back((after, Act::Answer(answer)));
                }
            }
        }
        answers
    }

    /// Proves the last blocks of a segment and writes its index, if it is still there: how many parts that has, or none.
    fn write_index(&mut self, end: &BlockPlace, is_provable: bool, index: &IndexBuilder, seen: &mut Coverage) -> u32 {
        let Some(there) = self.segments.get_mut(&end.segment.id) else {
            seen.saw("segment dropped before its index was written");
            return 0;
        };
        there.make_safe();
        if is_provable && end.offset + PAGE_BYTES as u64 <= end.segment.file_bytes {
            let proved = BlockPlace { synced: end.number, ..*end };
            let (block, _) = BlockWriter::of(&end.segment).finish(&proved);
            there.write(end.offset, &block);
            there.make_safe();
        } else if !index.is_empty() && end.offset + PAGE_BYTES as u64 <= end.segment.file_bytes {
            there.write(end.offset, &[0; PAGE_BYTES]);
            there.make_safe();
        }
        there.index = Some(index.encode(&end.segment, end.offset, true));
        index.len() as u32
    }

    fn delay(&self, most: usize, chance: &mut Seeded) -> u64 {
        if self.is_quick { 0 } else { chance.below(most + 1) as u64 }
    }

    fn happens(&self, once_in: usize, chance: &mut Seeded) -> bool {
        once_in != 0 && !self.is_kind && chance.once_in(once_in)
    }

    fn take(
        &mut self,
        core: usize,
        ask: Ask,
        after: u64,
        answers: &mut Vec<Answer>,
        chance: &mut Seeded,
        seen: &mut Coverage,
    ) {
        match ask {
            Ask::Prepare { class, is_urgent } if self.happens(self.faults.no_space_once_in, chance) => {
                seen.saw("no space for a segment");
                answers.push(Answer::NoSpace { class });
                self.pending[core].push_back((after + 20, Act::Ask(Ask::Prepare { class, is_urgent })));
            }
            Ask::Prepare { class, .. } => {
                let nonce = self.next_id * 7_919;
                seen.saw_times("segment of a class of its own", u64::from(class != Class::SERVER));
                let (core_number, made_unix_ms) = (core as u16, self.start_ms);
                let header = SegmentHeader {
                    id: self.next_id,
                    nonce,
                    core: core_number,
                    class,
                    run: self.run,
                    made_unix_ms,
                    file_bytes: SEGMENT_BYTES as u64,
                };
                self.next_id += 1;
                let mut written = header.write();
                written.resize(SEGMENT_BYTES, 0);
                let needed_by = [Core(core as u16)].into();
                self.segments.insert(header.id, SimSegment::new(header, written, None, needed_by));
                // The keeper's letters come in the order in which it wrote them: a core writes to them by their ids.
                let before =
                    self.pending[core].iter().filter(|(_, act)| matches!(act, Act::Answer(Answer::Segment(_))));
                let due = before.map(|(due, _)| *due).fold(after, u64::max);
                self.pending[core].push_back((due, Act::Answer(Answer::Segment(header))));
            }
            Ask::Append { segment, offset, block, wanted, is_behind_synced } => {
                let wanted = (wanted, is_behind_synced);
                self.append(core, segment.id, (offset, &block), wanted, after, answers, chance, seen);
            }
            Ask::Seal { end, is_provable, index, .. } => {
                // Where it cannot be written it is tried again: others are sealed meanwhile, and this one may be dropped.
                let tries = chance.below(INDEX_TRIES_MAX) as u64;
                let written = after + tries * self.faults.delay_max as u64;
                self.pending[core].push_back((written, Act::WriteIndex(end, is_provable, index)));
                seen.saw("segment sealed");
            }
            Ask::Prove => answers.push(Answer::Proved),
            Ask::LetGo { index } => {
                assert_eq!(Arc::strong_count(&index), 1, "the last one is not the core's");
            }
            Ask::Read(range) => {
                // `None`: it was cut and released while the read was on its way.
                let bytes = self.read(&range);
                let bytes = bytes.and_then(|bytes| self.spoil_read(bytes, after, chance, seen));
                answers.push(Answer::Read { range, bytes });
                seen.saw("read from the log");
            }
            Ask::MendIndex { segment } => {
                for (to, answer) in self.mend_for(core, segment, chance, seen) {
                    self.pending[to].push_back((after, Act::Answer(answer)));
                }
                seen.saw("index mended");
            }
            Ask::Release { segment } => {
                let Some(there) = self.segments.get_mut(&segment) else { return };
                there.needed_by.remove(&Core(core as u16));
                self.drop_free(seen);
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a write, and all that chance may do to it")]
    fn append(
        &mut self,
        core: usize,
        segment: u64,
        (offset, block): (u64, &[u8]),
        (wanted, is_behind_synced): (Reach, bool),
        after: u64,
        answers: &mut Vec<Answer>,
        chance: &mut Seeded,
        seen: &mut Coverage,
    ) {
        let is_full = self.happens(self.faults.full_once_in, chance);
        let fails = is_full || self.happens(self.faults.append_once_in, chance);
        let there = self.segments.get_mut(&segment).expect("a segment that was made");
        assert_eq!(offset as usize % PAGE_BYTES, 0, "direct I/O");
        let target = &mut there.written[offset as usize..offset as usize + block.len()];
        assert!(target.iter().all(|&byte| byte == 0), "what was written is never written again");
        if !fails {
            target.copy_from_slice(block);
            there.is_at_risk = true;
            if wanted.tells_written() {
                answers.push(Answer::Written);
            }
            if wanted.syncs() {
                let may_write_through = wanted == Reach::Synced && is_behind_synced;
                let synced = if may_write_through && self.faults.writes_through {
                    seen.saw("written through");
                    Synced::Block(offset as usize, block.len())
                } else {
                    Synced::All
                };
                let after = after + self.delay(self.faults.sync_delay_max, chance);
                self.pending[core].push_back((after, Act::Sync(segment, synced)));
            }
            return;
        }
        // A part of it may have come to the disk, or all.
        let part = chance.below(block.len() / SECTOR_BYTES + 1) * SECTOR_BYTES;
        target[..part].copy_from_slice(&block[..part]);
        self.has_failed |= !is_full;
        answers.push(Answer::AppendFailed { is_full });
        seen.saw(if is_full { "disk full" } else { "write failed" });
    }

    fn sync(
        &mut self,
        segment: u64,
        synced: &Synced,
        answers: &mut Vec<Answer>,
        chance: &mut Seeded,
        seen: &mut Coverage,
    ) {
        let fails = self.happens(self.faults.append_once_in, chance);
        let there = self.segments.get_mut(&segment).expect("a segment that was made");
        let (from, bytes) = match *synced {
            Synced::All => (0, there.written.len()),
            Synced::Block(from, bytes) => (from, bytes),
        };
        if fails {
            let ends = |bytes: &[u8]| bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            let end = ends(&there.written).next_multiple_of(SECTOR_BYTES);
            let unsafe_from = there.synced.iter().zip(&there.written).position(|(synced, written)| synced != written);
            there.never_safe.extend(unsafe_from.map(|from| (from / SECTOR_BYTES * SECTOR_BYTES, end)));
            self.has_failed = true;
            answers.push(Answer::AppendFailed { is_full: false });
            seen.saw("sync failed");
        } else {
            there.sync(from, bytes);
            answers.push(Answer::Synced);
        }
    }

    fn read(&self, range: &FileRange) -> Option<Vec<u8>> {
        let there = self.segments.get(&range.segment)?;
        let all = match range.file {
            LogFile::Segment => &there.written,
            LogFile::Index => there.index.as_ref()?,
        };
        let (offset, bytes) = (range.offset as usize, range.bytes as usize);
        Some(all[offset.min(all.len())..offset.saturating_add(bytes).min(all.len())].to_vec())
    }

    /// What a read brings of what lies on the disk.
    fn spoil_read(
        &mut self,
        mut bytes: Vec<u8>,
        turn: u64,
        chance: &mut Seeded,
        seen: &mut Coverage,
    ) -> Option<Vec<u8>> {
        if self.happens(self.faults.read_once_in, chance) || (turn < self.fails_reads_until && !self.is_kind) {
            if chance.once_in(4) {
                self.fails_reads_until = turn + chance.below(READS_FAIL_TURNS_MAX) as u64;
            }
            seen.saw("read failed");
            return None;
        }
        if turn >= self.reads_right_until && !bytes.is_empty() && self.happens(self.faults.flip_once_in, chance) {
            self.reads_right_until = turn + READS_RIGHT_TURNS;
            flip(&mut bytes, chance);
            seen.saw("read brought a wrong bit");
        }
        Some(bytes)
    }

    /// What a start finds of a segment's index, which is no evidence and may be anything.
    pub fn index_found(&self, id: u64, chance: &mut Seeded, seen: &mut Coverage) -> Option<Vec<u8>> {
        let there = self.segments.get(&id)?;
        let mut index = there.index.clone()?;
        if self.rotten.contains(&id) || !self.happens(self.faults.index_once_in, chance) {
            return Some(index);
        }
        match chance.below(4) {
            0 => {
                seen.saw("index missing");
                return None;
            }
            1 => flip(&mut index, chance),
            2 => index.truncate(chance.below(index.len())),
            _ => {
                seen.saw("index of another segment");
                let others: Vec<_> = self.segments.values().filter_map(|other| other.index.as_ref()).collect();
                return Some((*chance.pick(&others)).clone());
            }
        }
        seen.saw("index damaged");
        Some(index)
    }

    /// The server is gone: of what it had handed to the kernel something may be done, and nobody is told.
    pub fn end(&mut self, chance: &mut Seeded) {
        for (_, act) in self.pending.iter_mut().flat_map(|pending| pending.drain(..)) {
            let Act::Ask(Ask::Append { segment, offset, block, .. }) = act else { continue };
            let Some(there) = self.segments.get_mut(&segment.id).filter(|_| chance.once_in(2)) else { continue };
            let part = chance.below(block.len() / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let part = if chance.once_in(2) { block.len() } else { part };
            there.written[offset as usize..offset as usize + part].copy_from_slice(&block[..part]);
        }
    }

    /// Whether something was written that is not safe yet.
    pub fn is_at_risk(&self) -> bool {
        self.segments.values().any(|segment| segment.is_at_risk)
    }

    /// The power goes.
    pub fn cut_power(&mut self, chance: &mut Seeded) {
        self.segments.values_mut().for_each(|segment| segment.cut_power(chance));
    }
}
