//! The epoch floor: numbers for new histories that no earlier start of this data folder can have given.
//!
//! A start takes a base, and every history that begins during its life gets a number from there on. Bases come from the
//! clock, and the newest is kept in the file `epoch`, so that a clock that was set back gives nothing twice.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::{HostCause, HostFault, path_fault};

/// Epochs are below this: they travel as numbers of JSON, which JavaScript keeps exactly only up to here.
pub const EPOCH_MAX: u64 = 1 << 53;

/// Numbers a start may give before the next one's base can meet them, were the clock to stand still.
const EPOCHS_PER_START: u64 = 1 << 20;
/// Numbers a millisecond of the clock is worth, as a shift: a server that lives T ms may give 2,048 × T, and the
/// clock reaches [`EPOCH_MAX`] in the year 2109.
const MILLISECOND_SHIFT: u32 = 11;

const FILE: &str = "epoch";
const DRAFT: &str = "epoch.new";
const PREFIX: &str = "epoch ";

/// Takes the base for this start, at `unix_ms` by the clock, and keeps it durably. The caller holds the folder's lock.
///
/// # Errors
/// The kept one is unreadable, the new one cannot be kept, or the clock is beyond what epochs can say.
pub fn next_epoch_base(data: &Path, unix_ms: u64) -> Result<u64, HostFault> {
    let stored = read(data)?;
    let base = base_after(stored, unix_ms).ok_or_else(|| exhausted(data, stored, unix_ms))?;
    keep(data, base).map_err(|error| path_fault(HostCause::Epoch, "keeping the epoch floor in", data, &error))?;
    Ok(base)
}

/// A number above all that a server can have given until then, if its clock was right.
pub fn epoch_by_clock(unix_ms: u64) -> u64 {
    (unix_ms << MILLISECOND_SHIFT).min(EPOCH_MAX - 1)
}

/// Above every number that the clock and the kept base stand for; none if it would leave no room below [`EPOCH_MAX`].
fn base_after(stored: Option<u64>, unix_ms: u64) -> Option<u64> {
    let by_clock = unix_ms.checked_mul(1 << MILLISECOND_SHIFT)?;
    let by_file = stored.map_or(Some(0), |stored| stored.checked_add(EPOCHS_PER_START))?;
    Some(by_clock.max(by_file)).filter(|base| *base < EPOCH_MAX - EPOCHS_PER_START)
}

fn read(data: &Path) -> Result<Option<u64>, HostFault> {
    let path = data.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes).map(Some).ok_or_else(|| corrupt(&path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(path_fault(HostCause::Epoch, "reading the epoch floor", &path, &error)),
    }
}

/// `epoch N` and the end of the line, without which a number may have lost its last digits.
fn parse(bytes: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(bytes).ok()?.strip_prefix(PREFIX)?.strip_suffix('\n')?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|epoch| is_plain && *epoch < EPOCH_MAX)
}

/// The new file takes the old one's place in one step, and the folder is synced: a power cut leaves the one or the
/// other.
fn keep(data: &Path, base: u64) -> io::Result<()> {
    let draft = data.join(DRAFT);
    let mut file = File::create(&draft)?;
    writeln!(file, "{PREFIX}{base}")?;
    file.sync_all()?;
    fs::rename(&draft, data.join(FILE))?;
    File::open(data)?.sync_all()
}

fn corrupt(path: &Path) -> HostFault {
    let path = path.display();
    HostFault {
        cause: HostCause::Epoch,
        doing: format!("reading the epoch floor {path}"),
        found: format!("it is corrupt: not the line \"{PREFIX}N\" with N below 2^53"),
        fix: format!(
            "see that the clock is right (`date`), then `mv {path} {path}.corrupt` and start again: the floor then \
             comes from the clock, and is new as long as the clock was not set back since the last start"
        ),
    }
}

fn exhausted(data: &Path, stored: Option<u64>, unix_ms: u64) -> HostFault {
    let path = data.join(FILE);
    let path = path.display();
    let (found, fix) = match base_after(None, unix_ms) {
        None => (
            format!("the clock says {unix_ms} ms after 1970, beyond the year 2109"),
            "set the clock (`timedatectl set-ntp true`) and start again".to_owned(),
        ),
        Some(_) => (
            format!("{path} holds {}, taken while the clock was far ahead", stored.unwrap_or_default()),
            format!(
                "see that the clock is right (`date`), then `mv {path} {path}.ahead` and start again: epochs then come \
                 from the clock, and lie far below those of that time"
            ),
        ),
    };
    HostFault { cause: HostCause::Epoch, doing: "taking the epoch floor for this start".to_owned(), found, fix }
}

#[cfg(test)]
mod tests {
    use super::super::TestFolder;
    use super::*;

    const NOW_MS: u64 = 1_780_000_000_000;

    #[test]
    fn a_first_start_takes_its_base_from_the_clock_and_keeps_it() {
        let folder = TestFolder::new("epoch-first");
        let base = next_epoch_base(&folder.0, NOW_MS).unwrap();
        assert_eq!(base, NOW_MS << 11);
        assert_eq!(fs::read_to_string(folder.0.join(FILE)).unwrap(), format!("epoch {base}\n"));
        assert!(!folder.0.join(DRAFT).exists());
    }

    #[test]
    fn a_clock_that_was_set_back_gives_nothing_twice() {
        let folder = TestFolder::new("epoch-back");
        let first = next_epoch_base(&folder.0, NOW_MS).unwrap();
        assert_eq!(next_epoch_base(&folder.0, 5).unwrap(), first + EPOCHS_PER_START);
        assert_eq!(next_epoch_base(&folder.0, NOW_MS).unwrap(), first + 2 * EPOCHS_PER_START);
        assert_eq!(next_epoch_base(&folder.0, NOW_MS + 1_000_000).unwrap(), (NOW_MS + 1_000_000) << 11);
    }

    #[test]
    fn bases_stay_below_what_json_can_say() {
        assert_eq!(base_after(None, (1 << 42) - 1_024), Some(EPOCH_MAX - (1_024 << 11)));
        assert_eq!(base_after(None, 1 << 42), None);
        assert_eq!(base_after(None, u64::MAX), None);
        assert_eq!(base_after(Some(EPOCH_MAX - 1), NOW_MS), None);
        assert_eq!(base_after(Some(u64::MAX), NOW_MS), None);
    }

    #[test]
    fn a_clock_beyond_the_years_is_refused_and_nothing_is_kept() {
        let folder = TestFolder::new("epoch-clock");
        let fault = next_epoch_base(&folder.0, 1 << 42).unwrap_err();
        assert!(fault.found.contains("beyond the year 2109") && fault.fix.contains("timedatectl"), "{fault}");
        assert!(!folder.0.join(FILE).exists());
    }

    #[test]
    fn a_floor_from_a_clock_far_ahead_is_refused() {
        let folder = TestFolder::new("epoch-ahead");
        fs::write(folder.0.join(FILE), format!("epoch {}\n", EPOCH_MAX - 1)).unwrap();
        let fault = next_epoch_base(&folder.0, NOW_MS).unwrap_err();
        assert!(fault.found.contains("clock was far ahead"), "{fault}");
    }

    #[test]
    fn a_corrupt_floor_is_refused_and_says_how_to_mend_it() {
        let folder = TestFolder::new("epoch-corrupt");
        let path = folder.0.join(FILE);
        for bytes in [
            &b""[..],
            b"epoch \n",
            b"epoch 12",
            b"12\n",
            b"epoch +12\n",
            b"epoch 12\n\n",
            b"epoch 9007199254740992\n",
            b"epoch 99999999999999999999\n",
            b"epoch \xff\n",
        ] {
            fs::write(&path, bytes).unwrap();
            let fault = next_epoch_base(&folder.0, NOW_MS).unwrap_err();
            assert_eq!(fault.cause, HostCause::Epoch);
            assert!(
                fault.found.contains("corrupt") && fault.fix.contains(&format!("mv {}", path.display())),
                "{fault}"
            );
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_draft_left_by_a_crash_is_no_obstacle() {
        let folder = TestFolder::new("epoch-draft");
        fs::write(folder.0.join(DRAFT), "epoch 999999999999999999999").unwrap();
        assert_eq!(next_epoch_base(&folder.0, NOW_MS).unwrap(), NOW_MS << 11);
    }

    #[test]
    fn a_folder_that_is_gone_is_a_clear_fault() {
        let fault = next_epoch_base(Path::new("/nonexistent/banter"), NOW_MS).unwrap_err();
        assert_eq!(fault.cause, HostCause::Epoch);
        assert!(fault.doing.contains("/nonexistent/banter"), "{fault}");
    }
}
