//! The small files beside the segments, as a check finds them: the ledger, the epoch file, the list of erasures. They are only
//! read: what makes them anew is a start.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::host::EpochFile;
use crate::storage::erasures::ErasureFile;
use crate::storage::ledger::{self, Ledger, LedgerFile};
use crate::storage::segment_path;
use crate::storage::slots::{FileIdentity, Seen, SlotsFault};

const ACCEPT: &str = "bring back the file as it was, or start the server: every room then goes on under a new epoch";

/// What lies beside the segments.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// The files that there is something to say of.
    pub files: Vec<FileReport>,
    /// What the ledger says, as far as it can be read.
    pub ledger: Ledger,
}

/// A file that is not as it should be, or could be.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct FileReport {
    pub file: PathBuf,
    pub is_damaged: bool,
    pub what: String,
    pub fix: &'static str,
}

impl Beside {
    /// Of a log's folder that has segments, or has none.
    pub(super) fn read(log: &Path, has_segments: bool) -> Self {
        let mut beside = Beside::default();
        beside.read_ledger(log, has_segments);
        if let Some(data) = log.parent() {
            beside.read_epoch(data);
        }
        beside.read_erasures(log);
        beside
    }

    fn read_ledger(&mut self, log: &Path, has_segments: bool) {
        let seen = LedgerFile::look(log).map(|(seen, ledger)| {
            self.ledger = ledger;
            seen
        });
        let newest = segment_path(log, self.ledger.newest_segment);
        if self.ledger.newest_segment != 0 && newest.symlink_metadata().is_err() {
            let what = "it is gone, and was there when the server stopped".to_owned();
            self.say(
                newest,
                true,
                what,
                "bring it back, or start once with --accept-corruption, which gives up its messages",
            );
        }
        let path = log.join(ledger::FILE);
        if matches!(seen, Ok(Seen::Nothing)) && has_segments {
            self.say(path, false, "it is missing: every room goes on under a new epoch".to_owned(), ACCEPT);
        } else {
            self.say_seen(path, seen, "nobody knows how the last run ended", ACCEPT);
        }
    }

    fn read_epoch(&mut self, data: &Path) {
        let fix = "start the server: epochs go on above all that the log shows; if the log is empty, see that the clock is right \
                   (`date`), and move this file out of the folder first";
        self.say_seen(EpochFile::path_in(data), EpochFile::look(data), "it does not say which epochs were given", fix);
    }

    fn read_erasures(&mut self, log: &Path) {
        let file = ErasureFile::of(log, FileIdentity::default());
        let what = match file.read() {
            Ok(list) if list.damaged == 0 => return,
            Ok(list) => {
                format!("{} of its records do not check: what they asked to be erased is not known", list.damaged)
            }
            Err(error) => format!("it cannot be read: {error}"),
        };
        self.say(file.path().to_owned(), true, what, "ask again for what was to be erased (`banter log erase`)");
    }

    fn say_seen(&mut self, path: PathBuf, seen: Result<Seen, SlotsFault>, so: &str, fix: &'static str) {
        match seen {
            Ok(Seen::Nothing | Seen::Whole { is_torn: false, .. }) => {}
            Ok(Seen::Whole { .. }) => {
                let what = "one of its two slots does not check, and the other counts, which is all right".to_owned();
                self.say(path, false, what, "nothing: the next write goes over it");
            }
            Ok(Seen::Lost) => {
                self.say(path, true, format!("neither of its slots checks, or one is missing: {so}"), fix)
            }
            Err(SlotsFault::Disk(error)) => self.say(path, true, format!("it cannot be read ({error}): {so}"), fix),
            Err(later @ SlotsFault::Later { .. }) => {
                self.say(path, true, later.to_string(), "read this folder with the Banter that wrote it");
            }
        }
    }

    fn say(&mut self, file: PathBuf, is_damaged: bool, what: String, fix: &'static str) {
        self.files.push(FileReport { file, is_damaged, what, fix });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use banter_protocol::ids::Epoch;

    use super::*;
    use crate::host::TestFolder;
    use crate::storage::erasures::Ended;
    use crate::storage::slots::SLOT_BYTES;

    /// Where a slot's sum, counter and content are: see docs/log.md.
    const SUM_AT: usize = 12;
    const COUNTER_AT: usize = 16;
    const CONTENT_AT: usize = 24;

    /// A data folder with a ledger that was written twice, and an epoch file.
    fn folder(name: &str) -> (TestFolder, PathBuf) {
        let folder = TestFolder::new(name);
        let log = folder.0.join("log");
        fs::create_dir(&log).unwrap();
        let mut ledger = LedgerFile::make(&log, Ledger::default()).unwrap();
        ledger.raise_blank(Epoch(5)).unwrap();
        EpochFile::open(&folder.0).unwrap().begin(7, 1_700_000_000_000).unwrap();
        (folder, log)
    }

    fn said(log: &Path) -> Vec<(String, bool, String)> {
        let name = |report: &FileReport| report.file.file_name().unwrap().to_str().unwrap().to_owned();
        let files = Beside::read(log, true).files;
        files.iter().map(|report| (name(report), report.is_damaged, report.what.clone())).collect()
    }

    fn flip(path: &Path, at: usize) {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn whole_files_are_not_worth_a_word() {
        let (_folder, log) = folder("beside-whole");
        assert_eq!(said(&log), []);
    }

    #[test]
    fn one_slot_that_does_not_check_is_all_right_and_two_are_not() {
        let (folder, log) = folder("beside-slots");
        flip(&log.join("ledger"), 60);
        let said_of_one = said(&log);
        assert!(said_of_one.len() == 1 && !said_of_one[0].1 && said_of_one[0].2.contains("the other counts"));
        flip(&log.join("ledger"), SLOT_BYTES + 60);
        [0, SLOT_BYTES].into_iter().for_each(|slot| flip(&folder.0.join("epoch"), slot + CONTENT_AT));
        let said_of_both = said(&log);
        let names: Vec<_> = said_of_both.iter().map(|(name, is_damaged, _)| (name.as_str(), *is_damaged)).collect();
        assert_eq!(names, [("ledger", true), ("epoch", true)], "{said_of_both:?}");
        assert!(said_of_both.iter().all(|(.., what)| what.contains("neither of its slots checks, or one is missing")));
    }

    #[test]
    fn files_of_a_later_format_and_a_damaged_list_of_erasures_are_damage_and_a_missing_ledger_is_said() {
        let (folder, log) = folder("beside-later");
        let mut slot = fs::read(folder.0.join("epoch")).unwrap();
        slot[8] = 2;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&slot[..SUM_AT]), &slot[COUNTER_AT..CONTENT_AT + 8]);
        slot[SUM_AT..COUNTER_AT].copy_from_slice(&sum.to_le_bytes());
        fs::write(folder.0.join("epoch"), slot).unwrap();
        fs::remove_file(log.join("ledger")).unwrap();
        let list = ErasureFile::of(&log, FileIdentity::default());
        (1..=2).for_each(|number| list.end(&[(number, Ended::default())]).unwrap());
        flip(list.path(), 20);
        let said: Vec<_> =
            said(&log).into_iter().map(|(name, is_damaged, what)| format!("{name} {is_damaged}: {what}")).collect();
        assert_eq!(
            said,
            [
                "ledger false: it is missing: every room goes on under a new epoch",
                "epoch true: its format is 2, and this build reads 1: use the Banter that wrote it",
                "erasures true: 1 of its records do not check: what they asked to be erased is not known"
            ]
        );
    }
}
