//! The toy's log: zeroed segments, a record a block, a sync a record, and the mistakes.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use banter_protocol::error_code::ErrorCode;
use serde::{Deserialize, Serialize};

use super::Mistake;

const SEGMENT_BYTES: usize = 2 << 20;
const BLOCK_BYTES: usize = 4_096;
/// The length and the checksum of a record.
const HEADER_BYTES: usize = 16;
/// What the mistake of that name loses: more than may be on its way to a client that gets killed off.
const NEWEST: usize = 40;
const ENOSPC: i32 = 28;

/// A message as it is kept.
#[derive(Clone, Serialize, Deserialize)]
pub struct Record {
    pub room: String,
    pub user: String,
    pub key: Option<String>,
    pub body: String,
}

/// The log, open at its end.
pub struct Log {
    folder: PathBuf,
    segment: Option<File>,
    next_segment: u64,
    at: usize,
    is_failed: bool,
    was_full: bool,
    mistake: Mistake,
}

impl Log {
    /// Reads what is there.
    pub fn open(data: &Path, mistake: Mistake) -> (Self, Vec<Record>) {
        let folder = data.join("log");
        fs::create_dir_all(&folder).expect("a data folder");
        for folder in [data.parent().expect("a folder"), data] {
            sync_folder(folder).expect("a folder can be synced");
        }
        let paths = segments_of(&folder);
        let mut records: Vec<Record> = paths.iter().flat_map(|path| records_of(path)).collect();
        if mistake == Mistake::LosesNewest {
            records.truncate(records.len().saturating_sub(NEWEST));
        }
        let next_segment = paths.len() as u64 + 1;
        let log = Log { folder, segment: None, next_segment, at: 0, is_failed: false, was_full: false, mistake };
        (log, records)
    }

    /// Reads a piece of each segment, as a server would that has its history there and nowhere else.
    pub fn read_through(&self) -> std::io::Result<()> {
        for path in segments_of(&self.folder) {
            let file = File::open(path)?;
            for offset in [0, 2 * BLOCK_BYTES as u64] {
                file.read_at(&mut [0; BLOCK_BYTES], offset)?;
            }
        }
        Ok(())
    }

    /// Makes a record durable.
    pub fn append(&mut self, record: &Record) -> Result<(), ErrorCode> {
        if self.is_failed {
            return Err(ErrorCode::LogFailed);
        }
        if self.was_full && self.mistake == Mistake::StaysFull {
            return Err(ErrorCode::LogFull);
        }
        let block = block_of(record);
        if self.segment.is_none() || self.at + block.len() > SEGMENT_BYTES {
            self.begin_segment().map_err(|error| {
                self.was_full = true;
                if error.raw_os_error() == Some(ENOSPC) { ErrorCode::LogFull } else { ErrorCode::LogFailed }
            })?;
        }
        self.commit(&block).map_err(|_| {
            self.is_failed = true;
            ErrorCode::LogFailed
        })?;
        self.at += block.len();
        Ok(())
    }

    fn begin_segment(&mut self) -> std::io::Result<()> {
        let path = self.folder.join(format!("segment-{:08}.log", self.next_segment));
        let draft = path.with_extension("new");
        let made = fs::write(&draft, vec![0; SEGMENT_BYTES]).and_then(|()| {
            File::open(&draft)?.sync_all()?;
            fs::rename(&draft, &path)
        });
        if made.is_err() {
            let _ = fs::remove_file(&draft);
        }
        made?;
        if self.mistake != Mistake::NoFolderSync {
            sync_folder(&self.folder)?;
        }
        self.segment = Some(OpenOptions::new().write(true).open(&path)?);
        (self.next_segment, self.at) = (self.next_segment + 1, 0);
        Ok(())
    }

    fn commit(&self, block: &[u8]) -> std::io::Result<()> {
        let segment = self.segment.as_ref().expect("a segment was begun");
        let written = segment.write_at(block, self.at as u64)?;
        if written < block.len() && self.mistake != Mistake::IgnoresShortWrite {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        match (self.mistake, segment) {
            (Mistake::NoSync, _) => Ok(()),
            (Mistake::IgnoresSyncError, segment) => segment.sync_data().or(Ok(())),
            (Mistake::RetriesSync, segment) => segment.sync_data().or_else(|_| segment.sync_data()),
            (_, segment) => segment.sync_data(),
        }
    }
}

fn segments_of(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).expect("a folder").flatten().map(|at| at.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
    paths.sort();
    paths
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn block_of(record: &Record) -> Vec<u8> {
    let bytes = serde_json::to_vec(record).expect("a record is JSON");
    let mut block = (bytes.len() as u64).to_le_bytes().to_vec();
    block.extend(checksum(&bytes).to_le_bytes());
    block.extend(bytes);
    block.resize(block.len().next_multiple_of(BLOCK_BYTES), 0);
    block
}

/// The records of a segment up to the first that does not check.
fn records_of(path: &Path) -> Vec<Record> {
    let bytes = fs::read(path).expect("a segment can be read");
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some(header) = bytes.get(at..at + HEADER_BYTES) {
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let length = word(0) as usize;
        let Some(record) = bytes.get(at + HEADER_BYTES..).and_then(|rest| rest.get(..length)) else { break };
        if length == 0 || checksum(record) != word(8) {
            break;
        }
        records.push(serde_json::from_slice(record).expect("what checks is a record"));
        at += (HEADER_BYTES + length).next_multiple_of(BLOCK_BYTES);
    }
    records
}
