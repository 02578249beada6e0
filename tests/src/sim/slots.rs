//! The ledger and the epoch file as files of the simulated disk: what a crash, a worn disk or a person leaves of them.
//!
//! Both are real files, written by the server's own hands, so that what lies in their slots is what it wrote, and when. What
//! a power cut changes beside is the machine's boot, which the ledger holds.

use std::fs;
use std::path::{Path, PathBuf};

use super::disk::flip;
use crate::seeded::Seeded;

/// Bytes of a slot.
const SLOT_BYTES: usize = 4_096;
/// Where a slot's content starts.
const CONTENT_AT: usize = 24;
/// Where the ledger's content says the machine's boot.
const BOOT: std::ops::Range<usize> = CONTENT_AT + 16..CONTENT_AT + 32;

/// What became of such a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is as it was.
    AsItWas,
    /// A slot of it is not, and what the file says is.
    Torn,
    /// Nobody knows what it said.
    Lost,
}

/// How the newest slot, or the older one, comes to harm.
const HARMS: [fn(&mut [u8], &mut Seeded); 3] = [
    // The power went in the midst of a write.
    |slot, chance| {
        let torn = 1 + chance.below(slot.len());
        slot[..torn].fill(9);
    },
    // A sector was not written.
    |slot, _| slot.fill(0),
    // A bit is another one.
    flip,
];

/// A file of two slots.
pub struct SlotFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl SlotFile {
    /// Reads it.
    pub fn open(folder: &Path, name: &str) -> Self {
        let path = folder.join(name);
        let bytes = fs::read(&path).expect("a file of slots");
        assert_eq!(bytes.len(), 2 * SLOT_BYTES);
        SlotFile { path, bytes }
    }

    /// Writes it in place, so that it is the same file.
    pub fn write(&self) {
        fs::write(&self.path, &self.bytes).expect("a file");
    }

    /// The machine was started anew: the ledger's boot is another one.
    pub fn start_machine(&mut self) {
        for slot in self.bytes.chunks_mut(SLOT_BYTES) {
            if is_whole(slot) {
                slot[BOOT].fill(0);
                let sum = sum_of(slot);
                slot[12..16].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }

    /// One of its slots comes to harm: the newest one, or the other.
    pub fn harm(&mut self, newest: bool, chance: &mut Seeded) {
        let (first, second) = self.bytes.split_at_mut(SLOT_BYTES);
        let first_is_newest = counter(first) > counter(second);
        let slot = if first_is_newest == newest { first } else { second };
        harm(slot, chance);
    }

    /// Both slots come to harm.
    pub fn lose(&mut self, chance: &mut Seeded) {
        for slot in self.bytes.chunks_mut(SLOT_BYTES) {
            harm(slot, chance);
        }
    }

    /// Somebody removes it.
    pub fn remove(&self) {
        fs::remove_file(&self.path).expect("a file");
    }

    /// It is a copy, which is another file.
    pub fn copy(&self) {
        let copy = self.path.with_extension("copy");
        fs::copy(&self.path, &copy).expect("a file");
        fs::rename(&copy, &self.path).expect("a file");
    }
}

/// Another one than it was; one that was none before stays so.
fn harm(slot: &mut [u8], chance: &mut Seeded) {
    if is_whole(slot) {
        let bytes = content_end(slot);
        chance.pick(&HARMS)(&mut slot[..bytes], chance);
    }
}

fn is_whole(slot: &[u8]) -> bool {
    content_end(slot) <= SLOT_BYTES && slot.starts_with(b"BANTER") && slot[12..16] == sum_of(slot).to_le_bytes()
}

/// What says which slot is the newer; 0 of one that is not whole.
fn counter(slot: &[u8]) -> u64 {
    if is_whole(slot) { u64::from_le_bytes(slot[16..24].try_into().expect("eight bytes")) } else { 0 }
}

fn content_end(slot: &[u8]) -> usize {
    CONTENT_AT + usize::from(u16::from_le_bytes([slot[10], slot[11]]))
}

/// CRC-32C, a bit at a time: the file is small, and this is no code of the server's.
fn sum_of(slot: &[u8]) -> u32 {
    const CASTAGNOLI: u32 = 0x82f6_3b78;
    let mut sum = u32::MAX;
    for byte in slot[..12].iter().chain(&slot[16..content_end(slot)]) {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ CASTAGNOLI } else { sum >> 1 };
        }
    }
    !sum
}
