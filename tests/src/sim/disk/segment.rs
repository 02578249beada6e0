//! A segment of the simulated disk: what was written, what is safe, and what a power cut or rot makes of it.

use std::collections::BTreeSet;

use banter_chat::address::Core;
use banter_log::PAGE_BYTES;
use banter_log::block::Block;
use banter_log::index::{HEADER_BYTES, IndexHeader, Part, read_table};
use banter_log::scan::Scan;
use banter_log::segment::SegmentHeader;

use crate::seeded::Seeded;

/// The disk's own unit: what a power cut leaves whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// A block of a segment.
pub(super) struct BlockAt {
    /// Where it starts.
    pub(super) start: usize,
    /// Bytes of its records.
    pub(super) body_bytes: usize,
    /// Blocks before it that were known to be on the disk when it was written.
    pub(super) synced: u32,
}

/// A segment's files.
pub struct SimSegment {
    pub(super) header: SegmentHeader,
    /// As reads find it.
    pub written: Vec<u8>,
    /// As a power cut leaves it, at least.
    pub synced: Vec<u8>,
    /// The index, once it is on the disk.
    pub index: Option<Vec<u8>>,
    pub(super) is_sealed: bool,
    /// Where its blocks end, once it is sealed.
    pub(super) end_offset: u64,
    /// The time of its newest message, once it is sealed; 0: it has none.
    pub(super) newest_ms: u64,
    /// The cores were told to forget it.
    pub(super) is_cut: bool,
    /// A sector of it is not what was written: what is read there is proven damage.
    pub(super) is_rotten: bool,
    /// Something was written since the last sync began to be told.
    pub(super) is_at_risk: bool,
    /// What a failed sync was to make safe: no later one does.
    pub(super) never_safe: Vec<(usize, usize)>,
    pub(super) needed_by: BTreeSet<Core>,
}

impl SimSegment {
    pub(super) fn new(
        header: SegmentHeader,
        written: Vec<u8>,
        index: Option<Vec<u8>>,
        needed_by: BTreeSet<Core>,
    ) -> Self {
        let (synced, is_sealed) = (written.clone(), index.is_some());
        let never_safe = Vec::new();
        let (is_rotten, is_at_risk, is_cut, end_offset, newest_ms) = (false, false, false, 0, 0);
        SimSegment {
            header,
            written,
            synced,
            index,
            is_sealed,
            end_offset,
            newest_ms,
            is_cut,
            is_rotten,
            is_at_risk,
            never_safe,
            needed_by,
        }
    }

    /// Writes to it.
    pub(super) fn write(&mut self, offset: u64, block: &[u8]) {
        let at = offset as usize;
        self.written[at..at + block.len()].copy_from_slice(block);
    }

    /// All of it is on the disk.
    pub(super) fn make_safe(&mut self) {
        self.sync(0, self.written.len());
    }

    /// What its index says of rooms; `None`: it cannot be read.
    pub(super) fn parts(&self) -> Option<Vec<Part>> {
        let index = self.index.as_ref()?;
        let header = IndexHeader::read(index.get(..HEADER_BYTES)?, &self.header)?;
        let table = index.get(HEADER_BYTES..usize::try_from(header.table_end()).ok()?)?;
        read_table(table, self.header.nonce).collect()
    }

    /// A sync of that much from there is done.
    pub(super) fn sync(&mut self, from: usize, bytes: usize) {
        let lost: Vec<_> = self.never_safe.iter().map(|&(from, end)| (from, self.synced[from..end].to_vec())).collect();
        self.synced[from..from + bytes].copy_from_slice(&self.written[from..from + bytes]);
        for (from, bytes) in lost {
            self.synced[from..from + bytes.len()].copy_from_slice(&bytes);
        }
        self.is_at_risk = false;
    }

    /// The power goes: of the sectors that were not synced some are there, and some are not.
    pub(super) fn cut_power(&mut self, chance: &mut Seeded) {
        let sectors = self.synced.chunks(SECTOR_BYTES).zip(self.written.chunks(SECTOR_BYTES));
        let unsafe_ones: Vec<usize> =
            sectors.enumerate().filter(|(_, (synced, written))| synced != written).map(|(at, _)| at).collect();
        let count = unsafe_ones.len();
        let tear = *chance.pick(&Tear::ALL);
        let prefix = chance.below(count + 1);
        for (number, at) in unsafe_ones.into_iter().enumerate() {
            let is_there = match tear {
                Tear::AllGone => false,
                Tear::ByChance => chance.once_in(2),
                Tear::LastGone => number + 1 < count,
                Tear::OnlyLast => number + 1 == count,
                Tear::Prefix => number < prefix,
            };
            if is_there {
                let sector = at * SECTOR_BYTES..(at + 1) * SECTOR_BYTES;
                self.synced[sector.clone()].copy_from_slice(&self.written[sector]);
            }
        }
        self.written.clone_from(&self.synced);
    }

    /// Its blocks, as far as they check.
    pub(super) fn blocks(&self) -> Vec<BlockAt> {
        let Ok(scan) = Scan::new(&self.written) else { return Vec::new() };
        let mut start = scan.place().offset as usize;
        let place = |block: Block<'_>| {
            let body_bytes = block.records().rest().len();
            let at = BlockAt { start, body_bytes, synced: block.synced };
            start = block.behind.offset as usize;
            at
        };
        scan.map(place).collect()
    }

    /// A bit of what was written is another one from now on.
    pub(super) fn rot(&mut self, chance: &mut Seeded) {
        let blocks = self.written.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if let Some(blocks) = self.written.get_mut(PAGE_BYTES..blocks) {
            flip(blocks, chance);
            self.synced.clone_from(&self.written);
            self.is_rotten = true;
        }
    }
}

/// Turns a bit.
pub fn flip(bytes: &mut [u8], chance: &mut Seeded) {
    let bit = chance.below(8);
    let at = chance.below(bytes.len());
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << bit;
    }
}

/// What a power cut leaves of the sectors that were not synced.
#[derive(Clone, Copy)]
enum Tear {
    AllGone,
    ByChance,
    LastGone,
    OnlyLast,
    Prefix,
}

impl Tear {
    const ALL: [Tear; 5] = [Tear::AllGone, Tear::ByChance, Tear::LastGone, Tear::OnlyLast, Tear::Prefix];
}
