//! How long a segment is made: as long as it may be on a roomy disk, shorter on a small or nearly full one, so that posts
//! are taken for as long as there is room for any.

use banter_chat::limits::Limits;
use banter_log::PAGE_BYTES;
use banter_log::block::block_bytes;

/// What a segment's length is a multiple of, but for the largest.
const STEP_BYTES: u64 = 64 * 1_024;
/// No segment is shorter, unless `log_segment_bytes` says so: each takes a sync of the folder and an index.
const SEGMENT_BYTES_MIN: u64 = 256 * 1_024;
/// Into so many segments for each core and class what is free is divided: the one that is written, two ahead, and one more
/// that the next is made of when the first is full.
const SEGMENTS_FREE: u64 = 4;
/// On a disk below this `log_free_bytes_min` is at most its part in [`RESERVE_PARTS`]: its default would be all of it.
const SMALL_DISK_BYTES: u64 = 512 * 1_024 * 1_024;
const RESERVE_PARTS: u64 = 8;

/// What a disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that are free for this user.
    pub free_bytes: u64,
    /// All its bytes.
    pub all_bytes: u64,
}

/// By what a segment's length is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Sizing {
    bytes_max: u64,
    bytes_min: u64,
    free_bytes_min: u64,
    shares: u64,
}

impl Sizing {
    /// For so many cores, each with a segment for each of so many classes.
    pub fn new(limits: &Limits, cores: usize, classes: usize) -> Self {
        let bytes_max = u64::from(limits.log_segment_bytes);
        // The header, the largest commit, and the proof behind it.
        let one_commit = block_bytes(limits.log_commit_bytes_max as usize) as u64 + 2 * PAGE_BYTES as u64;
        let bytes_min = one_commit.next_multiple_of(STEP_BYTES).max(SEGMENT_BYTES_MIN).min(bytes_max);
        let shares = (cores.max(1) * classes.max(1)) as u64 * SEGMENTS_FREE;
        Sizing { bytes_max, bytes_min, free_bytes_min: limits.log_free_bytes_min, shares }
    }

    /// What stays free on a disk.
    pub fn reserve_bytes(&self, disk: Disk) -> u64 {
        if disk.all_bytes < SMALL_DISK_BYTES {
            self.free_bytes_min.min(disk.all_bytes / RESERVE_PARTS)
        } else {
            self.free_bytes_min
        }
    }

    /// Bytes of the next segment; `None`: there is no room for the smallest.
    pub fn segment_bytes(&self, disk: Disk) -> Option<u64> {
        let usable_bytes = disk.free_bytes.checked_sub(self.reserve_bytes(disk))?;
        let share_bytes = usable_bytes / self.shares / STEP_BYTES * STEP_BYTES;
        (usable_bytes >= self.bytes_min).then(|| share_bytes.clamp(self.bytes_min, self.bytes_max))
    }

    /// The shortest that one is made.
    pub fn bytes_min(&self) -> u64 {
        self.bytes_min
    }

    /// The longest.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn disk(free_mib: u64, all_mib: u64) -> Disk {
        Disk { free_bytes: free_mib * MIB, all_bytes: all_mib * MIB }
    }

    fn of(cores: usize, classes: usize) -> Sizing {
        Sizing::new(&Limits::default(), cores, classes)
    }

    /// Segments that are made one after another until there is no room, on a disk with so much free.
    fn made(sizing: Sizing, mut disk: Disk) -> Vec<u64> {
        let make = || {
            let bytes = sizing.segment_bytes(disk)?;
            disk.free_bytes -= bytes;
            Some(bytes)
        };
        std::iter::from_fn(make).collect()
    }

    #[test]
    fn a_roomy_disk_has_segments_as_long_as_they_may_be() {
        assert_eq!(of(16, 2).segment_bytes(disk(100_000, 200_000)), Some(64 * MIB));
        let odd = Limits { log_segment_bytes: 4 * MIB as u32 + 4_096, ..Limits::default() };
        assert_eq!(Sizing::new(&odd, 1, 1).segment_bytes(disk(900, 9_000)), Some(4 * MIB + 4_096));
    }

    #[test]
    fn every_core_of_a_small_disk_gets_what_it_writes_to_and_one_ahead() {
        for (cores, disk, most) in [(1, disk(18, 32), 4), (2, disk(18, 32), 2), (16, disk(1_024, 1_024), 15)] {
            let segments = made(of(cores, 1), disk);
            assert!(segments.len() >= 2 * cores, "{cores} cores: {segments:?}");
            assert!(segments[0] / MIB <= most, "{cores} cores: {segments:?}");
        }
    }

    #[test]
    fn each_segment_takes_the_largest_commit_and_a_full_disk_has_none() {
        let sizing = of(2, 1);
        let limits = Limits::default();
        let commit = block_bytes(limits.log_commit_bytes_max as usize) as u64;
        for free_kib in (0..64 * 1_024).step_by(100) {
            let disk = Disk { free_bytes: free_kib * 1_024, all_bytes: 4_096 * MIB };
            let left = disk.free_bytes.saturating_sub(limits.log_free_bytes_min);
            let small = Sizing { free_bytes_min: MIB, ..sizing }.segment_bytes(disk);
            assert!(small.is_none_or(|bytes| bytes + MIB <= disk.free_bytes && bytes >= 4_096 + commit));
            assert!(sizing.segment_bytes(disk).is_none() || left >= sizing.bytes_min());
        }
        assert!(made(of(2, 1), disk(18, 32)).iter().sum::<u64>() > 12 * MIB, "what is there is used");
    }

    #[test]
    fn what_is_to_stay_free_stays_free_but_for_an_eighth_of_a_small_disk() {
        let limits = Limits { log_free_bytes_min: 300 * MIB, ..Limits::default() };
        let sizing = Sizing::new(&limits, 1, 1);
        assert_eq!(sizing.reserve_bytes(disk(0, 600)), 300 * MIB);
        assert_eq!(sizing.reserve_bytes(disk(0, 400)), 50 * MIB);
        let none = Sizing::new(&Limits { log_free_bytes_min: 0, ..limits }, 1, 1);
        assert_eq!(none.reserve_bytes(disk(0, 32)), 0);
    }

    #[test]
    fn a_segment_is_never_longer_than_it_may_be_however_small_that_is() {
        let tiny = Limits { log_segment_bytes: 40_960, log_commit_bytes_max: 8_192, ..Limits::default() };
        assert_eq!(Sizing::new(&tiny, 2, 1).segment_bytes(disk(900, 9_000)), Some(40_960));
    }
}
