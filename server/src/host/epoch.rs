//! The epoch file: up to which number this data folder's server may have given epochs.
//!
//! A start takes its numbers above that, above the clock, and above every number that anything else in the folder shows; and
//! it gives none before the file says so. So a clock that was set back, and a file that was lost, give nothing twice.

use std::io;
use std::path::{Path, PathBuf};

use super::{HostCause, HostFault, path_fault};
use crate::storage::slots::{Found, Seen, Slots, SlotsFault, SlotsKind};

/// Epochs are below this: they travel as numbers of JSON, which JavaScript keeps exactly only up to here.
pub const EPOCH_MAX: u64 = 1 << 53;

/// Numbers that are kept as given at a start, and each time that a core has used half of its own.
const EPOCHS_PER_START: u64 = 1 << 20;
/// Numbers a millisecond of the clock is worth, as a shift: a server whose file was lost is above what it gave before, if it
/// gave no more than 2,048 a millisecond.
const MILLISECOND_SHIFT: u32 = 11;
/// The clock counts only up to here, some day in the year 2092. One that is far ahead then leaves room for 2^30 starts.
const BY_CLOCK_MAX: u64 = EPOCH_MAX - (1 << 50);

const FILE: &str = "epoch";
const KIND: SlotsKind = SlotsKind { magic: *b"BANTEREP", format: 1 };

/// The epoch file, open.
#[derive(Debug)]
pub struct EpochFile {
    found: Kept,
    /// All that may have been given is below.
    end: u64,
    path: PathBuf,
}

#[derive(Debug)]
enum Kept {
    Nothing,
    Lost,
    Whole(Slots),
}

/// Numbers that a run may give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// The first: the run's own.
    pub run: u64,
    /// Behind the last.
    pub end: u64,
}

impl EpochFile {
    /// Opens the folder's. The caller holds the folder's lock.
    ///
    /// # Errors
    /// It cannot be opened, or a later Banter wrote it.
    pub fn open(data: &Path) -> Result<Self, HostFault> {
        let path = Self::path_in(data);
        let (found, end) = match Slots::open(&path, KIND) {
            Ok(Found::Nothing) => (Kept::Nothing, 0),
            Ok(Found::Lost(_)) => (Kept::Lost, 0),
            Ok(Found::Whole(slots, content)) => match decode(&content) {
                Some(end) => (Kept::Whole(slots), end),
                None => (Kept::Lost, 0),
            },
            Err(SlotsFault::Disk(error)) => {
                return Err(path_fault(HostCause::Epoch, "opening the epoch file", &path, &error));
            }
            Err(later @ SlotsFault::Later { .. }) => return Err(of_later(&path, &later)),
        };
        Ok(EpochFile { found, end, path })
    }

    /// Where that of a data folder lies.
    pub fn path_in(data: &Path) -> PathBuf {
        data.join(FILE)
    }

    /// What is there, for whoever only looks.
    ///
    /// # Errors
    /// What the kernel says, or that a later Banter wrote it.
    pub fn look(data: &Path) -> Result<Seen, SlotsFault> {
        let seen = Slots::look(&Self::path_in(data), KIND)?;
        let is_odd = matches!(&seen, Seen::Whole { content, .. } if decode(content).is_none());
        Ok(if is_odd { Seen::Lost } else { seen })
    }

    /// Whether it says nothing, so that only the clock and the rest of the folder do.
    pub fn is_lost(&self) -> bool {
        !matches!(self.found, Kept::Whole(_))
    }

    /// Takes the numbers of this start, at `unix_ms` by the clock, and keeps that durably. `seen` is the largest that the
    /// rest of the folder shows; 0 where it shows none. Where this file is lost, the last run may have given those that it
    /// took at its start to rooms of which the folder shows nothing: they are left out.
    ///
    /// # Errors
    /// It is damaged, and nothing else in the folder shows a number; or it cannot be kept.
    pub fn begin(&mut self, seen: u64, unix_ms: u64) -> Result<Reserved, HostFault> {
        self.judge(seen)?;
        let unseen = if self.is_lost() && seen > 0 { EPOCHS_PER_START } else { 0 };
        let run = epoch_by_clock(unix_ms).max(self.end).max(seen.saturating_add(1 + unseen));
        let end =
            run.checked_add(EPOCHS_PER_START).filter(|&end| end <= EPOCH_MAX).ok_or_else(|| self.exhausted(run))?;
        self.keep(end)
            .map_err(|error| path_fault(HostCause::Epoch, "keeping the epochs' end in", &self.path, &error))?;
        Ok(Reserved { run, end })
    }

    /// Keeps that more may be given. Says the new end.
    ///
    /// # Errors
    /// What the kernel says; then the old end holds.
    pub fn extend(&mut self) -> io::Result<u64> {
        let end = self.end + EPOCHS_PER_START;
        if end > EPOCH_MAX {
            return Err(io::Error::other("epochs have come to 2^53"));
        }
        self.keep(end)?;
        Ok(end)
    }

    fn judge(&self, seen: u64) -> Result<(), HostFault> {
        let path = self.path.display();
        match (&self.found, seen) {
            (Kept::Lost, 0) => Err(self.damaged()),
            (Kept::Lost, _) => {
                tracing::warn!("{path} is damaged: epochs go on above the clock, and above all that the log shows");
                Ok(())
            }
            (Kept::Nothing, 1..) => {
                tracing::warn!("{path} is missing: epochs go on above the clock, and above all that the log shows");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn keep(&mut self, end: u64) -> io::Result<()> {
        let content = end.to_le_bytes();
        if let Kept::Whole(slots) = &mut self.found {
            slots.write(&content)?;
        } else {
            // Where that fails nothing is whole, and another try begins as this one did.
            let slots = match Slots::open(&self.path, KIND).map_err(io::Error::other)? {
                Found::Nothing => Slots::make(&self.path, KIND, |_| content.to_vec())?,
                Found::Lost(slots) | Found::Whole(slots, _) => slots.renew(|_| content.to_vec())?,
            };
            self.found = Kept::Whole(slots);
        }
        self.end = end;
        Ok(())
    }

    fn damaged(&self) -> HostFault {
        let path = self.path.display();
        HostFault {
            cause: HostCause::Epoch,
            doing: format!("reading the epoch file {path}"),
            found: "it is damaged, and nothing else in the folder shows which epochs were given".to_owned(),
            fix: format!(
                "see that the clock is right (`date`), then `mv {path} {path}.damaged` and start again: epochs then come \
                 from the clock, and are new as long as the clock was not set back since the last start"
            ),
        }
    }

    fn exhausted(&self, run: u64) -> HostFault {
        HostFault {
            cause: HostCause::Epoch,
            doing: "taking the epochs of this start".to_owned(),
            found: format!(
                "{} and the log beside it show that they are used up to {run}, and 2^53 is the end",
                self.path.display()
            ),
            fix: "give the server a new folder with --data DIR, or restore this one from an older copy".to_owned(),
        }
    }
}

/// A number above all that a server can have given until then, if its clock was right.
pub fn epoch_by_clock(unix_ms: u64) -> u64 {
    unix_ms.saturating_mul(1 << MILLISECOND_SHIFT).min(BY_CLOCK_MAX)
}

fn decode(content: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(content.try_into().ok()?)).filter(|&end| end <= EPOCH_MAX)
}

fn of_later(path: &Path, fault: &SlotsFault) -> HostFault {
    HostFault {
        cause: HostCause::Epoch,
        doing: format!("reading the epoch file {}", path.display()),
        found: fault.to_string(),
        fix: "start the Banter that wrote it, or give this one a folder of its own with --data DIR".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::TestFolder;
    use super::*;

    const NOW_MS: u64 = 1_780_000_000_000;
    const NOW: u64 = NOW_MS << MILLISECOND_SHIFT;

    fn begin(folder: &TestFolder, seen: u64, unix_ms: u64) -> Result<Reserved, HostFault> {
        EpochFile::open(&folder.0)?.begin(seen, unix_ms)
    }

    fn run(folder: &TestFolder, seen: u64, unix_ms: u64) -> u64 {
        let Reserved { run, end } = begin(folder, seen, unix_ms).unwrap();
        assert_eq!(end, run + EPOCHS_PER_START);
        run
    }

    #[test]
    fn a_first_start_takes_its_numbers_from_the_clock_and_keeps_them() {
        let folder = TestFolder::new("epoch-first");
        assert_eq!(run(&folder, 0, NOW_MS), NOW);
        assert_eq!(EpochFile::open(&folder.0).unwrap().end, NOW + EPOCHS_PER_START);
    }

    #[test]
    fn a_clock_that_was_set_back_gives_nothing_twice() {
        let folder = TestFolder::new("epoch-back");
        let first = run(&folder, 0, NOW_MS);
        assert_eq!(run(&folder, 0, 5), first + EPOCHS_PER_START);
        assert_eq!(run(&folder, 0, NOW_MS), first + 2 * EPOCHS_PER_START);
        assert_eq!(run(&folder, 0, NOW_MS + 1_000_000), (NOW_MS + 1_000_000) << MILLISECOND_SHIFT);
    }

    #[test]
    fn more_are_given_only_behind_what_the_file_says_and_the_next_start_lies_above() {
        let folder = TestFolder::new("epoch-extend");
        let mut file = EpochFile::open(&folder.0).unwrap();
        let first = file.begin(0, NOW_MS).unwrap();
        assert_eq!(file.extend().unwrap(), first.end + EPOCHS_PER_START);
        assert_eq!(file.extend().unwrap(), first.end + 2 * EPOCHS_PER_START);
        assert_eq!(run(&folder, 0, NOW_MS), first.end + 2 * EPOCHS_PER_START);
    }

    #[test]
    fn numbers_lie_above_all_that_the_folder_shows_whatever_of_it_is_missing() {
        let folder = TestFolder::new("epoch-seen");
        let seen = NOW + (7 << 30);
        assert_eq!(run(&folder, seen, NOW_MS), seen + 1 + EPOCHS_PER_START, "without a file");
        let end = seen + 1 + 2 * EPOCHS_PER_START;
        assert_eq!(run(&folder, seen, NOW_MS), end, "the file is above");
        fs::rename(folder.0.join(FILE), folder.0.join("epoch.away")).unwrap();
        let above = seen + 5 + EPOCHS_PER_START;
        assert_eq!(
            run(&folder, seen + 5, 5),
            above + 1,
            "moved away, and the clock set back: its rooms had numbers too"
        );
    }

    #[test]
    fn a_damaged_file_is_no_obstacle_where_the_log_shows_numbers_and_is_kept_aside() {
        let folder = TestFolder::new("epoch-damaged");
        let path = folder.0.join(FILE);
        for (count, bytes) in [&b""[..], b"epoch 12\n", &[0; 8_192], &[0xff; 9_000]].into_iter().enumerate() {
            fs::write(&path, bytes).unwrap();
            let fault = begin(&folder, 0, NOW_MS).unwrap_err();
            assert!(fault.cause == HostCause::Epoch && fault.found.contains("damaged"), "{fault}");
            assert!(fault.fix.contains(&format!("mv {}", path.display())), "{fault}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "and is left alone");
            assert_eq!(run(&folder, NOW, NOW_MS), NOW + 1 + EPOCHS_PER_START);
            assert!(!EpochFile::open(&folder.0).unwrap().is_lost());
            let aside = if count == 0 { "epoch.damaged".to_owned() } else { format!("epoch.damaged.{}", count + 1) };
            assert_eq!(fs::read(folder.0.join(aside)).unwrap(), bytes);
        }
    }

    #[test]
    fn a_clock_far_ahead_leaves_room_for_a_life_of_starts() {
        let folder = TestFolder::new("epoch-ahead");
        for unix_ms in [1 << 42, 1 << 50, u64::MAX] {
            let ahead = run(&folder, 0, unix_ms);
            assert!((BY_CLOCK_MAX..BY_CLOCK_MAX + 10 * EPOCHS_PER_START).contains(&ahead), "{ahead}");
        }
        // The clock is right again.
        let next = run(&folder, 0, NOW_MS);
        assert!((EPOCH_MAX - next) / EPOCHS_PER_START > 1_000_000_000);
    }

    #[test]
    fn at_the_end_of_all_numbers_a_start_is_refused_and_nothing_is_kept() {
        let folder = TestFolder::new("epoch-end");
        for seen in [EPOCH_MAX - 2 * EPOCHS_PER_START, EPOCH_MAX, u64::MAX] {
            let fault = begin(&folder, seen, NOW_MS).unwrap_err();
            assert!(fault.found.contains("2^53") && fault.fix.contains("--data DIR"), "{fault}");
            assert!(!folder.0.join(FILE).exists());
        }
        let mut file = EpochFile::open(&folder.0).unwrap();
        file.begin(EPOCH_MAX - 2 * EPOCHS_PER_START - 1, NOW_MS).unwrap();
        assert!(file.extend().is_err());
    }

    #[test]
    fn a_later_format_and_a_folder_that_is_gone_are_clear_faults() {
        let folder = TestFolder::new("epoch-later");
        let later = SlotsKind { format: 2, ..KIND };
        Slots::make(&folder.0.join(FILE), later, |_| vec![1; 30]).unwrap();
        let fault = begin(&folder, NOW, NOW_MS).unwrap_err();
        assert!(fault.found.contains("its format is 2") && fault.fix.contains("--data DIR"), "{fault}");
        let mut gone = EpochFile::open(Path::new("/nonexistent/banter")).unwrap();
        let fault = gone.begin(0, NOW_MS).unwrap_err();
        assert!(fault.cause == HostCause::Epoch && fault.doing.contains("/nonexistent/banter"), "{fault}");
    }
}
