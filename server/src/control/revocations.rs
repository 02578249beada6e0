//! The revocations of a server in its data folder: a line each, on the disk before anybody is told that it holds.
//!
//! Invariants:
//! - What was acknowledged is found by the next start: a line is synced before it counts.
//! - A start never passes over a damaged line: whoever it named would be let in again. Only the last one, which may have been torn
//!   before anybody was told of it, is cut off, and the log says so.
//! - The file does not grow for ever: with `LINES_BEHIND_MAX` lines that hold no longer it is written anew.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use banter_access::revocation::{
    DamagedLine, RECORD_BYTES_MAX, Record, Revocation, Revocations, RevocationsFull, Subject, read_file,
};

/// Its name in the data folder.
pub const FILE_NAME: &str = "revocations";
/// Lines that hold no longer and may still lie in the file.
const LINES_BEHIND_MAX: usize = 10_000;

/// Why revocations cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum RevocationsFault {
    /// The file system refuses.
    #[error("{doing} {path}: {error}", path = .path.display())]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// A line is damaged.
    #[error(
        "{path}, line {line}: {fault}; a server that passed over it might let in whom it names: restore the file from a copy, or \
         take the line out if you know whom it named",
        path = .path.display(), line = .damaged.line, fault = .damaged.fault
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line.
        damaged: DamagedLine,
    },
    /// There are as many as there may be.
    #[error("{0}")]
    Full(#[from] RevocationsFull),
}

/// What is revoked, and the file that says so.
#[derive(Debug)]
pub struct RevocationsFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    lines: usize,
    all: Revocations,
}

impl RevocationsFile {
    /// Reads the file of a data folder; what has ended at that second since 1970 holds no longer.
    ///
    /// # Errors
    /// It cannot be read or written, or a line in it is damaged.
    pub fn open(data: &Path, now_seconds: u64) -> Result<Self, RevocationsFault> {
        let path = data.join(FILE_NAME);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(|error| fault("reading", &path, error))?,
        };
        let records = read_file(&bytes).map_err(|damaged| RevocationsFault::Damaged { path: path.clone(), damaged })?;
        let torn_bytes = bytes.len() - records.good_bytes;
        if torn_bytes > 0 {
            tracing::warn!(torn_bytes, "{}: the last line is not whole, and was cut off", path.display());
        }
        let mut all = Revocations::default();
        for record in &records.records {
            match record {
                Record::Revoke(revocation) => drop(all.add(revocation, now_seconds)?),
                Record::Lift(subject) => drop(all.lift(subject)),
            }
        }
        let lines = records.records.len();
        // What has ended stays there for a while: by a clock that is wrong at this start it may not have.
        let (file, bytes) = if lines > all.len() + LINES_BEHIND_MAX {
            write_anew(&path, &all)?
        } else {
            open_at(&path, records.good_bytes as u64).map_err(|error| fault("opening", &path, error))?
        };
        let lines = lines.min(all.len() + LINES_BEHIND_MAX);
        Ok(RevocationsFile { path, file, bytes, lines, all })
    }

    /// What is revoked.
    pub fn all(&self) -> &Revocations {
        &self.all
    }

    /// Adds one, and returns when it is on the disk; `false`: another one says as much.
    ///
    /// # Errors
    /// There are too many, or the disk refuses; then nothing has changed.
    pub fn add(&mut self, revocation: &Revocation, now_seconds: u64) -> Result<bool, RevocationsFault> {
        // Only what changes something takes place in the file.
        if self.all.includes(revocation) {
            return Ok(false);
        }
        let mut after = None;
        if self.all.len() >= self.all.revocations_max() {
            // Only a trial tells whether it takes the place of another one.
            let mut trial = self.all.clone();
            trial.add(revocation, now_seconds)?;
            after = Some(trial);
        }
        self.append(&Record::Revoke(revocation.clone()))?;
        match after {
            Some(after) => {
                self.all = after;
                Ok(true)
            }
            None => Ok(self.all.add(revocation, now_seconds)?),
        }
    }

    /// Takes back what is revoked of exactly that subject, and returns how many there were when that is on the disk.
    ///
    /// # Errors
    /// The disk refuses; then nothing has changed.
    pub fn lift(&mut self, subject: &Subject) -> Result<usize, RevocationsFault> {
        if !self.all.has(subject) {
            return Ok(0);
        }
        self.append(&Record::Lift(subject.clone()))?;
        Ok(self.all.lift(subject))
    }

    fn append(&mut self, record: &Record) -> Result<(), RevocationsFault> {
        if self.lines >= self.all.len() + LINES_BEHIND_MAX {
            (self.file, self.bytes) = write_anew(&self.path, &self.all)?;
            self.lines = self.all.len();
        }
        let line = record.encode();
        debug_assert!(line.len() <= RECORD_BYTES_MAX, "what is written can be read");
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What lies there of it must not stand before the next line.
            if self.file.set_len(self.bytes).is_err() {
                self.lines = usize::MAX;
            }
            return Err(fault("writing", &self.path, error));
        }
        self.bytes += line.len() as u64;
        self.lines += 1;
        Ok(())
    }
}

/// Opens the file, made if need be, and cuts off what is behind its good bytes.
fn open_at(path: &Path, good_bytes: u64) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    file.set_len(good_bytes)?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
    Ok((file, good_bytes))
}

/// Writes what holds to a file beside it, and puts that in its place.
fn write_anew(path: &Path, all: &Revocations) -> Result<(File, u64), RevocationsFault> {
    let beside = path.with_extension("new");
    let lines: String = all.iter().map(|revocation| Record::Revoke(revocation).encode()).collect();
    let write = || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&beside)?;
        file.write_all(lines.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
        OpenOptions::new().append(true).open(path)
    };
    write().map(|file| (file, lines.len() as u64)).map_err(|error| fault("writing", path, error))
}

fn fault(doing: &'static str, path: &Path, error: io::Error) -> RevocationsFault {
    RevocationsFault::Disk { doing, path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use banter_protocol::ids::UserName;

    use super::*;

    const NOW_S: u64 = 1_000;

    fn user(name: &str) -> Subject {
        Subject::User(UserName::new(name).unwrap())
    }

    fn revocation(name: &str, until_seconds: u64) -> Revocation {
        Revocation::new(user(name), None, until_seconds).unwrap()
    }

    fn names(file: &RevocationsFile) -> Vec<String> {
        file.all().iter().map(|revocation| format!("{:?}", revocation.subject())).collect()
    }

    #[test]
    fn what_was_added_is_there_at_the_next_start_and_what_has_ended_or_was_lifted_is_not() {
        let data = tempfile::tempdir().unwrap();
        let mut file = RevocationsFile::open(data.path(), NOW_S).unwrap();
        for (name, until) in [("ann", 2_000), ("bob", 1_500), ("cid", 2_000)] {
            assert!(file.add(&revocation(name, until), NOW_S).unwrap());
        }
        assert!(!file.add(&revocation("ann", 1_900), NOW_S).unwrap(), "another one says as much");
        assert_eq!(file.lift(&user("cid")).unwrap(), 1);
        let file = RevocationsFile::open(data.path(), 1_600).unwrap();
        assert_eq!(names(&file), [format!("{:?}", user("ann"))]);
        let by_a_clock_far_ahead = RevocationsFile::open(data.path(), 1_000_000).unwrap();
        assert!(by_a_clock_far_ahead.all().is_empty());
        let file = RevocationsFile::open(data.path(), NOW_S).unwrap();
        assert_eq!(names(&file).len(), 2, "what has not ended by the right clock holds again");
    }

    #[test]
    fn a_last_line_that_was_torn_is_cut_off_and_a_damaged_one_refuses_the_start() {
        let data = tempfile::tempdir().unwrap();
        let mut file = RevocationsFile::open(data.path(), NOW_S).unwrap();
        file.add(&revocation("ann", 2_000), NOW_S).unwrap();
        file.add(&revocation("bob", 2_000), NOW_S).unwrap();
        let path = data.path().join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let mut file = RevocationsFile::open(data.path(), NOW_S).unwrap();
        assert_eq!(names(&file).len(), 1);
        file.add(&revocation("cid", 2_000), NOW_S).unwrap();
        assert_eq!(names(&RevocationsFile::open(data.path(), NOW_S).unwrap()).len(), 2);
        let mut damaged = whole;
        damaged[12] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let fault = RevocationsFile::open(data.path(), NOW_S).unwrap_err().to_string();
        assert!(fault.contains("line 1") && fault.contains("restore the file"), "{fault}");
    }

    #[test]
    fn the_file_is_written_anew_when_most_of_it_holds_no_longer() {
        let data = tempfile::tempdir().unwrap();
        let mut file = RevocationsFile::open(data.path(), NOW_S).unwrap();
        file.lines = LINES_BEHIND_MAX;
        file.add(&revocation("ann", 2_000), NOW_S).unwrap();
        assert_eq!((file.lines, file.all().len()), (1, 1));
        assert_eq!(names(&RevocationsFile::open(data.path(), NOW_S).unwrap()).len(), 1);
    }
}
