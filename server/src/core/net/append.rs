//! One append to the log on the ring: a block, written past the page cache and made safe, step by step.
//!
//! ```text
//!  Write ─▶ Synced                 in one step, where a write is known to sync all that there is to sync
//!  Write ─▶ (Written) ─▶ Sync ─▶ Synced
//!  Write ─▶ Written
//! ```

use std::io;
use std::os::fd::AsRawFd as _;
use std::rc::Rc;

use banter_log::journal::Reach;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};

use crate::storage::aligned::Aligned;
use crate::storage::files::SegmentFile;

/// The smallest sector of any disk. A short write ends at one of the disk's own, which is a multiple of it.
const SECTOR_BYTES: usize = 512;

/// A block on its way.
pub struct Append {
    file: Rc<SegmentFile>,
    block: Aligned,
    offset: u64,
    reach: Reach,
    syncs_in_one_step: bool,
    written_bytes: usize,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Write the rest, and sync it if that is one step.
    Write,
    Sync,
    Over,
}

/// How far it got.
#[derive(Debug)]
pub enum Appended {
    /// The kernel has all of it.
    Written,
    /// It is on the disk.
    Synced,
    /// A write or the sync failed: what the file holds from the block's start on is not known.
    Failed(io::Error),
}

impl Append {
    /// Of a block for that place in the file; both are multiples of a page. Where not all before it is on the disk, its
    /// own sync is not enough: a disk that writes through its cache (FUA) brings this block to the disk and no other, and
    /// a block behind one that is missing is lost too.
    pub fn new(file: Rc<SegmentFile>, block: &[u8], offset: u64, reach: Reach, is_behind_synced: bool) -> Self {
        let syncs_in_one_step = reach == Reach::Synced && file.syncs_as_it_writes && is_behind_synced;
        let block = Aligned::copy_of(block);
        Append { file, block, offset, reach, syncs_in_one_step, written_bytes: 0, step: Step::Write }
    }

    /// What to do next; `None`: it is over. What the entry points to lives as long as `self`.
    pub fn entry(&self) -> Option<squeue::Entry> {
        let file = Fd(self.file.file.as_raw_fd());
        match self.step {
            Step::Write => {
                let rest = &self.block.bytes()[self.written_bytes..];
                let flags = if self.syncs_in_one_step { libc::RWF_DSYNC } else { 0 };
                let write = opcode::Write::new(file, rest.as_ptr(), rest.len() as u32)
                    .offset(self.offset + self.written_bytes as u64)
                    .rw_flags(flags);
                Some(write.build())
            }
            Step::Sync => Some(opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build()),
            Step::Over => None,
        }
    }

    /// Takes the result of the entry.
    pub fn complete(&mut self, result: i32) -> Option<Appended> {
        match self.step {
            Step::Write => self.wrote(result),
            Step::Sync => {
                self.step = Step::Over;
                Some(match io_result(result) {
                    Ok(_) => Appended::Synced,
                    // Whatever it is, and never again: the kernel may have dropped what it could not write.
                    Err(error) => Appended::Failed(io::Error::other(format!("fdatasync: {error}"))),
                })
            }
            Step::Over => None,
        }
    }

    fn wrote(&mut self, result: i32) -> Option<Appended> {
        let rest = self.block.bytes().len() - self.written_bytes;
        let bytes = match io_result(result) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return None,
            Err(error) => return self.fail(error),
        };
        // Direct I/O goes on at a sector only: what lies beyond is written again, the same bytes.
        let whole = bytes - bytes % SECTOR_BYTES;
        if whole == 0 {
            let what = format!("a write of {rest} bytes took {bytes}");
            return self.fail(io::Error::new(io::ErrorKind::WriteZero, what));
        }
        self.written_bytes += whole;
        if whole < rest {
            // No failure by itself: the rest is written, which then says what is wrong.
            return None;
        }
        match self.reach {
            Reach::Written => {
                self.step = Step::Over;
                Some(Appended::Written)
            }
            Reach::WrittenThenSynced => {
                self.step = Step::Sync;
                Some(Appended::Written)
            }
            Reach::Synced if self.syncs_in_one_step => {
                self.step = Step::Over;
                Some(Appended::Synced)
            }
            Reach::Synced => {
                self.step = Step::Sync;
                None
            }
        }
    }

    fn fail(&mut self, error: io::Error) -> Option<Appended> {
        self.step = Step::Over;
        Some(Appended::Failed(error))
    }
}

fn io_result(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

#[cfg(test)]
mod tests {
    use banter_log::PAGE_BYTES;

    use super::*;

    const BYTES: usize = 3 * PAGE_BYTES;

    fn append(reach: Reach, syncs_as_it_writes: bool) -> Append {
        let file = SegmentFile { file: tempfile::tempfile().unwrap(), syncs_as_it_writes };
        Append::new(Rc::new(file), &[7; BYTES], 8 * PAGE_BYTES as u64, reach, true)
    }

    /// What is told of these results, and whether it is over after each.
    fn told(append: &mut Append, results: &[i32]) -> Vec<(String, bool)> {
        let step = |&result: &i32| (format!("{:?}", append.complete(result)), append.entry().is_none());
        results.iter().map(step).collect()
    }

    fn is(told: &[(String, bool)], wanted: &[(&str, bool)]) {
        let told: Vec<(&str, bool)> = told.iter().map(|(what, over)| (what.as_str(), *over)).collect();
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_block_gets_as_far_as_is_wanted_and_each_wanted_step_is_told() {
        let all = BYTES as i32;
        is(&told(&mut append(Reach::Written, true), &[all]), &[("Some(Written)", true)]);
        is(&told(&mut append(Reach::Synced, true), &[all]), &[("Some(Synced)", true)]);
        is(&told(&mut append(Reach::Synced, false), &[all, 0]), &[("None", false), ("Some(Synced)", true)]);
        for one_step in [true, false] {
            let mut append = append(Reach::WrittenThenSynced, one_step);
            is(&told(&mut append, &[all, 0]), &[("Some(Written)", false), ("Some(Synced)", true)]);
        }
    }

    #[test]
    fn behind_a_block_that_was_only_written_a_synced_one_syncs_all_of_the_file() {
        let file = Rc::new(SegmentFile { file: tempfile::tempfile().unwrap(), syncs_as_it_writes: true });
        for is_behind_synced in [true, false] {
            let mut append = Append::new(file.clone(), &[7; BYTES], 0, Reach::Synced, is_behind_synced);
            append.complete(BYTES as i32);
            assert_eq!(append.entry().is_none(), is_behind_synced, "whether its write is all");
        }
    }

    #[test]
    fn a_short_write_goes_on_at_a_sector_and_is_told_when_all_is_there() {
        let mut append = append(Reach::Synced, true);
        is(&told(&mut append, &[2_048 + 100]), &[("None", false)]);
        assert_eq!(append.written_bytes, 2_048);
        let rest = (BYTES - 2_048) as i32;
        is(&told(&mut append, &[-libc::EINTR, rest]), &[("None", false), ("Some(Synced)", true)]);
    }

    #[test]
    fn a_write_that_takes_less_than_a_sector_or_fails_ends_it() {
        for result in [0, 100, -libc::EIO, -libc::ENOSPC] {
            let mut append = append(Reach::Synced, true);
            let Some(Appended::Failed(error)) = append.complete(result) else { panic!("{result}") };
            assert!(append.entry().is_none() && append.complete(BYTES as i32).is_none());
            assert_eq!(error.kind() == io::ErrorKind::StorageFull, result == -libc::ENOSPC);
        }
    }

    #[test]
    fn a_sync_that_fails_is_never_tried_again_and_never_a_full_disk() {
        for result in [-libc::EIO, -libc::ENOSPC, -libc::EINTR] {
            for reach in [Reach::Synced, Reach::WrittenThenSynced] {
                let mut append = append(reach, false);
                append.complete(BYTES as i32);
                let Some(Appended::Failed(error)) = append.complete(result) else { panic!("{result}") };
                assert!(append.entry().is_none() && error.to_string().starts_with("fdatasync: "));
                assert_eq!(error.kind(), io::ErrorKind::Other);
            }
        }
    }
}
