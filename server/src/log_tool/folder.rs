//! The log's folder: where it lies, its lock, which segments it holds, and their bytes.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use banter_log::segment::{file_name, id_of_file};

use super::LogFault;
use super::damage::Broken;
use crate::host;

/// The folder of the log in the data folder.
const LOG: &str = "log";
/// As `Limits::check` has it for `log_segment_bytes`: what is larger is no segment, and is not read into memory.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// A log that nobody writes to while this is there.
#[derive(Debug)]
pub(crate) struct LogFolder {
    /// Where the segments lie.
    pub path: PathBuf,
    /// Their ids, ascending.
    pub segments: Vec<u64>,
    /// Files that are named much like segments, and are none.
    pub ignored: Vec<String>,
    _lock: Option<File>,
}

/// Where a log lies.
struct Location {
    log: PathBuf,
    /// The data folder around it, if there is one.
    data: Option<PathBuf>,
    /// Whether it was the data folder that was named. Around a log that was named itself may lie anything.
    is_data_named: bool,
}

impl LogFolder {
    /// The log of a data folder, or the one in that very folder.
    ///
    /// # Errors
    /// There is none, it cannot be read, or a server is running on it.
    pub(crate) fn open(dir: &Path) -> Result<LogFolder, LogFault> {
        let Location { log, data, is_data_named } = locate(dir)?;
        let lock = match data {
            Some(data) => host::claim_to_read(&data, is_data_named)?,
            None => None,
        };
        let (segments, ignored) = list(&log)?;
        Ok(LogFolder { path: log, segments, ignored, _lock: lock })
    }

    /// Where a segment lies.
    pub(super) fn path_of(&self, id: u64) -> PathBuf {
        self.path.join(file_name(id))
    }

    /// All bytes of a segment that is known to be whole.
    ///
    /// # Errors
    /// It cannot be read, after all.
    #[cfg(feature = "cluster")]
    pub(crate) fn bytes_of(&self, id: u64) -> Result<Vec<u8>, LogFault> {
        let mut buffer = Vec::new();
        let broken = |broken: Broken| LogFault::Unreadable {
            path: self.path_of(id),
            error: io::Error::other(broken.to_string()),
        };
        self.read(id, &mut buffer)?.map_err(broken)?;
        Ok(buffer)
    }

    /// Reads a segment into the buffer. What comes inside is damage; the buffer then holds what could be read.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn read(&self, id: u64, buffer: &mut Vec<u8>) -> Result<Result<(), Broken>, LogFault> {
        let path = self.path_of(id);
        let fault = |error| LogFault::Unreadable { path: path.clone(), error };
        buffer.clear();
        // Asked before it is opened: to open a pipe is to wait for its other end.
        let found = fs::metadata(&path).map_err(fault)?;
        if !found.is_file() {
            return Ok(Err(Broken::NoFile));
        }
        if found.len() > SEGMENT_BYTES_MAX {
            return Ok(Err(Broken::TooLarge { bytes: found.len(), bytes_max: SEGMENT_BYTES_MAX }));
        }
        let file = File::open(&path).map_err(fault)?;
        buffer.try_reserve_exact(found.len() as usize).map_err(|error| fault(error.into()))?;
        Ok(file.take(SEGMENT_BYTES_MAX).read_to_end(buffer).map(drop).map_err(Broken::Read))
    }
}

/// The log's folder in a data folder, and the ids of its segments, ascending, without a lock: for a copy.
pub(super) fn segments_of(data: &Path) -> Result<(PathBuf, Vec<u64>), LogFault> {
    let log = data.join(LOG);
    if !log.is_dir() {
        return Err(LogFault::NoLog(data.to_owned()));
    }
    let (segments, _) = list(&log)?;
    Ok((log, segments))
}

/// The same of a folder that may be the one of the log itself.
pub(super) fn segments_in(dir: &Path) -> Result<(PathBuf, Vec<u64>), LogFault> {
    let Location { log, .. } = locate(dir)?;
    let (segments, _) = list(&log)?;
    Ok((log, segments))
}

fn locate(dir: &Path) -> Result<Location, LogFault> {
    let log = dir.join(LOG);
    let fault = |path: &Path, error| LogFault::Unreadable { path: path.to_owned(), error };
    match fs::metadata(&log) {
        Ok(found) if found.is_dir() => {
            return Ok(Location { log, data: Some(dir.to_owned()), is_data_named: true });
        }
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(fault(&log, error));
        }
        _ => {}
    }
    let (segments, _) = list(dir)?;
    let named = if dir.file_name().is_some() { std::path::absolute(dir) } else { fs::canonicalize(dir) };
    let named = named.map_err(|error| fault(dir, error))?;
    if segments.is_empty() && !named.ends_with(LOG) {
        return Err(LogFault::NoLog(dir.to_owned()));
    }
    Ok(Location { log: dir.to_owned(), data: named.parent().map(Path::to_owned), is_data_named: false })
}

/// The segments of a folder by their ids, and what is only named much like one.
fn list(log: &Path) -> Result<(Vec<u64>, Vec<String>), LogFault> {
    let names = || -> io::Result<Vec<String>> {
        fs::read_dir(log)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let names = names().map_err(|error| LogFault::Unreadable { path: log.to_owned(), error })?;
    let (mut segments, mut ignored) = (Vec::new(), Vec::new());
    for name in names {
        match id_of_file(&name) {
            // A number has more than one way to be written, and only one is the name of its file.
            Some(id) if file_name(id) == name => segments.push(id),
            _ if name.starts_with("segment-") && name.ends_with(".log") => ignored.push(name),
            _ => {}
        }
    }
    segments.sort_unstable();
    ignored.sort_unstable();
    Ok((segments, ignored))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::TestFolder;

    fn log_with(name: &str, files: &[&str]) -> TestFolder {
        let folder = TestFolder::new(name);
        fs::create_dir(folder.0.join(LOG)).unwrap();
        files.iter().for_each(|file| fs::write(folder.0.join(LOG).join(file), file).unwrap());
        folder
    }

    #[test]
    fn segments_are_found_in_order_from_the_data_folder_and_from_its_log() {
        let files = [file_name(16), file_name(2), file_name(3)];
        let folder = log_with("found", &files.each_ref().map(String::as_str));
        for dir in [folder.0.clone(), folder.0.join(LOG)] {
            let log = LogFolder::open(&dir).unwrap();
            assert_eq!((&*log.segments, &log.path), (&[2, 3, 16][..], &folder.0.join(LOG)));
        }
    }

    #[test]
    fn what_is_only_named_like_a_segment_is_told() {
        let names = ["segment-1.log", "segment-00000000000000AB.log", "segment-0000000000000001.index", "notes.txt"];
        let folder = log_with("ignored", &names);
        let log = LogFolder::open(&folder.0).unwrap();
        assert_eq!(log.ignored, ["segment-00000000000000AB.log", "segment-1.log"]);
        assert!(log.segments.is_empty());
    }

    #[test]
    fn a_log_of_its_own_gets_no_lock_in_the_folder_above() {
        let folder = TestFolder::new("copy");
        let copy = folder.0.join("copy");
        fs::create_dir(&copy).unwrap();
        fs::write(copy.join(file_name(1)), "").unwrap();
        LogFolder::open(&copy).unwrap();
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_in_use_is_refused_from_both_sides() {
        let folder = log_with("in-use", &[]);
        let _server = host::claim_to_read(&folder.0, true).unwrap();
        for dir in [folder.0.clone(), folder.0.join(LOG)] {
            let fault = LogFolder::open(&dir).unwrap_err();
            assert!(matches!(fault, LogFault::Host(_)) && fault.exit_code() == 78, "{fault}");
        }
    }

    #[test]
    fn a_folder_without_a_log_and_one_that_is_not_there_are_told_apart() {
        let folder = TestFolder::new("without");
        assert!(matches!(LogFolder::open(&folder.0), Err(LogFault::NoLog(_))));
        fs::write(folder.0.join("file"), "").unwrap();
        for name in ["missing", "file"] {
            let fault = LogFolder::open(&folder.0.join(name)).unwrap_err();
            assert!(matches!(fault, LogFault::Unreadable { .. }) && fault.exit_code() == 78, "{fault}");
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_is_damage_and_is_not_read() {
        let (folder, mut buffer) = (log_with("no-file", &[]), vec![1]);
        fs::create_dir(folder.0.join(LOG).join(file_name(1))).unwrap();
        File::create(folder.0.join(LOG).join(file_name(2))).unwrap().set_len(SEGMENT_BYTES_MAX + 1).unwrap();
        let log = LogFolder::open(&folder.0).unwrap();
        assert!(matches!(log.read(1, &mut buffer).unwrap(), Err(Broken::NoFile)));
        assert!(matches!(log.read(2, &mut buffer).unwrap(), Err(Broken::TooLarge { .. })) && buffer.is_empty());
    }
}
