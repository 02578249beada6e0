//! The simulated disk under the log: takes its time, fails and fills up by chance, and keeps apart what was written and
//! what was synced, so that a power cut can take the one and tear it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use banter_chat::address::Core;
use banter_log::PAGE_BYTES;
use banter_log::index::{IndexBuilder, Part};
use banter_log::journal::{Answer, Ask, Reach};
use banter_log::reading::LogFile;
use banter_log::segment::SegmentHeader;

use super::coverage::Coverage;
use crate::seeded::Seeded;

/// The disk's own unit: what a power cut leaves whole or not at all.
const SECTOR_BYTES: usize = 512;
/// How often an index is tried to be written at most.
const INDEX_TRIES_MAX: usize = 4;

/// The disk of all cores.
pub struct SimDisk {
    /// Segments by id.
    pub segments: BTreeMap<u64, SimSegment>,
    /// What the ledger says of breaks, and of what was dropped.
    pub ledger_past: String,
    run: u64,
    /// Where the clock of the run starts.
    start_ms: u64,
    segment_bytes: usize,
    next_id: u64,
    pending: Vec<VecDeque<(u64, Act)>>,
    faults: Faults,
    /// No further fault: everything comes to rest.
    pub is_kind: bool,
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
    /// A sync makes durable its own block only, where the journal says that this is enough: the disk writes it through
    /// its cache.
    pub writes_through: bool,
}

/// A segment's files.
pub struct SimSegment {
    header: SegmentHeader,
    /// As reads find it.
    pub written: Vec<u8>,
    /// As a power cut leaves it, at least.
    pub synced: Vec<u8>,
    /// The index, once it is on the disk.
    pub index: Option<Vec<u8>>,
    is_sealed: bool,
    needed_by: BTreeSet<Core>,
}

enum Act {
    Ask(Ask),
    Sync(u64, Synced),
    Answer(Answer),
    WriteIndex(SegmentHeader, Arc<IndexBuilder>, u64),
}

/// What a sync makes durable.
enum Synced {
    /// All of the segment, as a flush of the disk's cache does.
    All,
    /// That much from there, as a write through the cache does.
    Block(usize, usize),
}

fn is_for_keeper(ask: &Ask) -> bool {
    matches!(ask, Ask::Prepare | Ask::Seal { .. } | Ask::Release { .. } | Ask::LetGo { .. })
}

impl Act {
    fn name(&self) -> &'static str {
        match self {
            Act::Ask(Ask::Prepare) => "prepare",
            Act::Ask(Ask::Append { .. }) => "append",
            Act::Ask(Ask::Seal { .. }) => "seal",
            Act::Ask(Ask::Read { .. }) => "read",
            Act::Ask(Ask::Release { .. }) => "release",
            Act::Ask(Ask::LetGo { .. }) => "let go",
            Act::Sync(..) => "sync",
            Act::Answer(_) => "answer",
            Act::WriteIndex(..) => "index",
        }
    }
}

impl SimDisk {
    /// An empty one.
    pub fn new(cores: u16, segment_bytes: usize, faults: Faults) -> Self {
        SimDisk {
            segments: BTreeMap::new(),
            ledger_past: String::new(),
            run: 0,
            start_ms: 0,
            segment_bytes,
            next_id: 1,
            pending: (0..cores).map(|_| VecDeque::new()).collect(),
            faults,
            is_kind: false,
        }
    }

    /// A server starts on it, at that time of its clock: nothing is under way.
    pub fn begin(&mut self, run: u64, start_ms: u64, needed_by: impl Fn(u64) -> BTreeSet<Core>) {
        (self.run, self.start_ms) = (run, start_ms);
        self.pending.iter_mut().for_each(VecDeque::clear);
        for (&id, segment) in &mut self.segments {
            segment.needed_by = needed_by(id);
        }
        self.segments.retain(|_, segment| !segment.needed_by.is_empty());
        self.next_id = self.segments.keys().last().map_or(1, |id| id + 1).max(self.next_id);
    }

    /// A segment that was found at a start.
    pub fn add_found(&mut self, header: SegmentHeader, bytes: Vec<u8>, index: Vec<u8>) {
        let needed_by = BTreeSet::new();
        let (written, synced) = (bytes.clone(), bytes);
        let found = SimSegment { header, written, synced, index: Some(index), is_sealed: true, needed_by };
        self.segments.insert(header.id, found);
    }

    /// Takes what a core asks.
    pub fn ask(&mut self, core: usize, asks: Vec<Ask>, turn: u64, chance: &mut Seeded) {
        for ask in asks {
            if let Ask::Seal { segment, .. } = &ask
                && let Some(sealed) = self.segments.get_mut(&segment.id)
            {
                sealed.is_sealed = true;
            }
            let mut due = turn + chance.below(self.faults.delay_max + 1) as u64;
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
            let after = turn + chance.below(self.faults.delay_max + 1) as u64;
            match act {
                Act::Ask(ask) => self.take(core, ask, after, &mut answers, chance, seen),
                Act::Sync(segment, synced) => self.sync(segment, &synced, &mut answers, chance, seen),
                Act::Answer(answer) => answers.push(answer),
                Act::WriteIndex(segment, index, end_offset) => {
                    let parts = self.write_index(&segment, &index, end_offset, seen);
                    let answer = Answer::Indexed { segment: segment.id, parts };
                    self.pending[core].push_back((after, Act::Answer(answer)));
                }
            }
        }
        answers
    }

    /// Writes an index, if its segment is still there: what it says, or nothing.
    fn write_index(
        &mut self,
        segment: &SegmentHeader,
        index: &IndexBuilder,
        end_offset: u64,
        seen: &mut Coverage,
    ) -> Vec<Part> {
        let Some(there) = self.segments.get_mut(&segment.id) else {
            seen.saw("segment dropped before its index was written");
            return Vec::new();
        };
        let (file, parts) = index.encode(segment, end_offset);
        there.synced.clone_from(&there.written);
        there.index = Some(file);
        parts
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
            Ask::Prepare if self.happens(self.faults.no_space_once_in, chance) => {
                seen.saw("no space for a segment");
                answers.push(Answer::NoSpace);
                self.pending[core].push_back((after + 20, Act::Ask(Ask::Prepare)));
            }
            Ask::Prepare => {
                let nonce = self.next_id * 7_919;
                let (core_number, made_unix_ms) = (core as u16, self.start_ms);
                let header = SegmentHeader { id: self.next_id, nonce, core: core_number, run: self.run, made_unix_ms };
                self.next_id += 1;
                let mut written = header.write();
                written.resize(self.segment_bytes, 0);
                let synced = written.clone();
                let needed_by = [Core(core as u16)].into();
                let made = SimSegment { header, written, synced, index: None, is_sealed: false, needed_by };
                self.segments.insert(header.id, made);
                self.pending[core].push_back((after, Act::Answer(Answer::Segment(header))));
            }
            Ask::Append { segment, offset, block, wanted, is_behind_synced } => {
                let wanted = (wanted, is_behind_synced);
                self.append(core, segment.id, (offset, &block), wanted, after, answers, chance, seen);
            }
            Ask::Seal { segment, index, end_offset, .. } => {
                // Where it cannot be written it is tried again: others are sealed meanwhile, and this one may be dropped.
                let tries = chance.below(INDEX_TRIES_MAX) as u64;
                let written = after + tries * self.faults.delay_max as u64;
                self.pending[core].push_back((written, Act::WriteIndex(segment, index, end_offset)));
                seen.saw("segment sealed");
            }
            Ask::LetGo { index, .. } => {
                assert_eq!(Arc::strong_count(&index), 1, "the last one is not the core's");
            }
            Ask::Read { ticket, segment, file, offset, bytes } => {
                // `None`: it was cut and released while the read was on its way.
                let bytes = self.read(segment, file, offset as usize, bytes);
                answers.push(Answer::Read { ticket, bytes });
                seen.saw("read from the log");
            }
            Ask::Release { segment } => {
                let Some(there) = self.segments.get_mut(&segment) else { return };
                there.needed_by.remove(&Core(core as u16));
                if there.needed_by.is_empty() {
                    self.segments.remove(&segment);
                    self.ledger_past.push_str(&format!("dropped {segment} {segment}\n"));
                    seen.saw("segment dropped");
                }
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
                self.pending[core].push_back((after, Act::Sync(segment, synced)));
            }
            return;
        }
        // A part of it may have come to the disk, or all.
        let part = chance.below(block.len() / SECTOR_BYTES + 1) * SECTOR_BYTES;
        target[..part].copy_from_slice(&block[..part]);
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
        if fails {
            answers.push(Answer::AppendFailed { is_full: false });
            seen.saw("sync failed");
        } else {
            let (from, bytes) = match *synced {
                Synced::All => (0, there.written.len()),
                Synced::Block(from, bytes) => (from, bytes),
            };
            there.synced[from..from + bytes].copy_from_slice(&there.written[from..from + bytes]);
            answers.push(Answer::Synced);
        }
    }

    fn read(&self, segment: u64, file: LogFile, offset: usize, bytes: usize) -> Option<Vec<u8>> {
        let there = self.segments.get(&segment)?;
        let all = match file {
            LogFile::Segment => &there.written,
            LogFile::Index => there.index.as_ref()?,
        };
        Some(all[offset.min(all.len())..(offset + bytes).min(all.len())].to_vec())
    }

    /// The power goes: of what was not synced, each sector is there or not, in no order.
    pub fn cut_power(&mut self, chance: &mut Seeded) {
        for segment in self.segments.values_mut() {
            let sectors = segment.synced.chunks_mut(SECTOR_BYTES).zip(segment.written.chunks(SECTOR_BYTES));
            for (synced, written) in sectors {
                if synced != written && chance.once_in(2) {
                    synced.copy_from_slice(written);
                }
            }
            segment.written.clone_from(&segment.synced);
        }
    }

    /// The oldest sealed segment, to be forgotten.
    pub fn oldest_sealed(&self) -> Option<u64> {
        self.segments.values().find(|segment| segment.is_sealed).map(|segment| segment.header.id)
    }
}
