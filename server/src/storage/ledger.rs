//! What the log's folder remembers between starts and its segments do not say: whether the last run ended in order, on
//! which boot of the machine it ran, and where histories broke.
//!
//! ```text
//!  banter-log 1
//!  run 3645440000000 open 3f2a…            the last start, `open` or `closed`, and the machine's boot
//!  break 3645430000000 3645440000000 written
//!  dropped 12 14                           segments that retention took from between others that are there
//! ```

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use banter_log::catalog::{Break, Past};
use banter_protocol::ids::Epoch;

use super::files::write_whole;

const FILE: &str = "ledger";
const FIRST_LINE: &str = "banter-log 1";
/// The machine's boot: another one since the last run means that memory was lost in between.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The last run.
    pub last: Option<LastRun>,
    /// Where histories broke, oldest first.
    pub breaks: Vec<Break>,
    /// Segments that retention took, as ranges from the first id to the last, ascending.
    pub dropped: Vec<(u64, u64)>,
}

/// The last start of the server on this folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// Its number.
    pub run: u64,
    /// Whether it ended in order, with everything on the disk.
    pub is_closed: bool,
    /// The machine's boot.
    pub boot: String,
}

/// The boot that this machine is in; empty where it does not say.
pub fn this_boot() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

impl Ledger {
    /// Reads the folder's.
    ///
    /// # Errors
    /// What the kernel says, or that it is none.
    pub fn read(folder: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(folder.join(FILE)) {
            Ok(text) => parse(&text).map(Some).ok_or_else(|| io::Error::other("it is damaged, or of a later version")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        write_whole(folder, &folder.join(FILE), self.text().as_bytes())
    }

    fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        if let Some(last) = &self.last {
            let state = if last.is_closed { "closed" } else { "open" };
            let _ = writeln!(text, "run {} {state} {}", last.run, last.boot);
        }
        for there in &self.breaks {
            let levels = if there.every_level { "all" } else { "written" };
            let _ = writeln!(text, "break {} {} {levels}", there.run, there.epoch.0);
        }
        for (first, last) in &self.dropped {
            let _ = writeln!(text, "dropped {first} {last}");
        }
        text
    }

    /// A run begins on a folder whose newest segment was written by `newest_run`: whether a power cut may have taken
    /// what was not synced, as a break under that epoch.
    pub fn begin(&mut self, run: u64, boot: &str, epoch: Epoch, newest_run: Option<u64>) -> Option<Break> {
        let was_cut = match &self.last {
            Some(last) => (!last.is_closed && last.boot != boot).then_some(last.run),
            // A folder with segments and without a ledger: nobody knows.
            None => newest_run,
        };
        let found = was_cut.map(|run| Break { run, epoch, every_level: false });
        self.breaks.extend(found);
        self.last = Some(LastRun { run, is_closed: false, boot: boot.to_owned() });
        found
    }

    /// Forgets breaks that no segment is old enough for, and what was dropped before every segment.
    pub fn prune(&mut self, oldest_run: u64, oldest_id: u64) {
        self.breaks.retain(|there| there.run >= oldest_run);
        self.dropped.retain(|&(_, last)| last > oldest_id);
    }

    /// A segment is dropped. Ranges with no segment between them become one, so that there are no more of them than
    /// segments; `is_there` says whether there is one between two ids.
    pub fn drop_segment(&mut self, id: u64, is_there: impl Fn(u64, u64) -> bool) {
        self.dropped.push((id, id));
        self.dropped.sort_unstable();
        self.dropped.dedup_by(|later, earlier| {
            let joins = !is_there(earlier.1, later.0);
            if joins {
                earlier.1 = earlier.1.max(later.1);
            }
            joins
        });
    }

    /// What the catalog needs to know of it.
    pub fn past(&self) -> Past<'_> {
        Past { breaks: &self.breaks, dropped: &self.dropped }
    }
}

fn parse(text: &str) -> Option<Ledger> {
    let mut ledger = Ledger::default();
    let mut lines = text.strip_suffix('\n')?.lines();
    if lines.next()? != FIRST_LINE {
        return None;
    }
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["run", run, state @ ("open" | "closed"), boot] => {
                let last = LastRun { run: run.parse().ok()?, is_closed: state == "closed", boot: boot.to_owned() };
                ledger.last = Some(last);
            }
            ["break", run, epoch, levels @ ("all" | "written")] => ledger.breaks.push(Break {
                run: run.parse().ok()?,
                epoch: Epoch(epoch.parse().ok()?),
                every_level: levels == "all",
            }),
            ["dropped", first, last] => ledger.dropped.push((first.parse().ok()?, last.parse().ok()?)),
            _ => return None,
        }
    }
    Some(ledger)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger {
            last: Some(LastRun { run: 7, is_closed: true, boot: "b-1".to_owned() }),
            breaks: vec![
                Break { run: 3, epoch: Epoch(40), every_level: false },
                Break { run: 5, epoch: Epoch(60), every_level: true },
            ],
            dropped: vec![(4, 9), (12, 12)],
        }
    }

    #[test]
    fn dropped_segments_become_ranges_between_those_that_are_there() {
        let mut ledger = Ledger::default();
        let there = [2, 7, 11];
        let is_there = |from, to| there.iter().any(|id| (from..to).contains(id));
        for id in [5, 3, 8, 4, 10, 6, 8] {
            ledger.drop_segment(id, is_there);
        }
        assert_eq!(ledger.dropped, [(3, 6), (8, 10)]);
        ledger.prune(0, 7);
        assert_eq!(ledger.dropped, [(8, 10)]);
    }

    #[test]
    fn a_ledger_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Ledger::read(folder.path()).unwrap(), None);
        ledger().write(folder.path()).unwrap();
        assert_eq!(Ledger::read(folder.path()).unwrap(), Some(ledger()));
        Ledger::default().write(folder.path()).unwrap();
        assert_eq!(Ledger::read(folder.path()).unwrap(), Some(Ledger::default()));
    }

    #[test]
    fn what_is_no_ledger_is_refused() {
        for text in ["", "banter-log 1", "banter-log 2\n", "banter-log 1\nrun x open b\n", "banter-log 1\nrun 1 open\n"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
        let whole = ledger().text();
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_none_or(|cut| cut != ledger()));
        }
    }

    #[test]
    fn only_another_boot_behind_an_open_run_means_a_power_cut() {
        let begin = |is_closed, boot| {
            let mut ledger = ledger();
            ledger.last = Some(LastRun { run: 7, is_closed, boot: "b-1".to_owned() });
            ledger.begin(9, boot, Epoch(90), Some(7)).map(|there| (there.run, there.every_level))
        };
        assert_eq!(begin(true, "b-1"), None);
        assert_eq!(begin(true, "b-2"), None);
        assert_eq!(begin(false, "b-1"), None, "the process died, and the kernel did not");
        assert_eq!(begin(false, "b-2"), Some((7, false)));
        assert_eq!(Ledger::default().begin(9, "b", Epoch(1), None), None);
        assert!(Ledger::default().begin(9, "b", Epoch(1), Some(4)).is_some_and(|there| there.run == 4));
    }
}
