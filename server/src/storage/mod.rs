//! The log on the disk: a folder of segments, written and read by the cores, looked after by a thread of its own.
//!
//! ```text
//!  core: shard ─Ask─▶ disk ─▶ appends on the sockets' ring (net/append), reads on glommio's, both direct I/O
//!           ◀─Answer─┘   │ Prepare, Seal, Release, LetGo
//!                        ▼
//!  keeper (a thread): makes segments ahead of need, writes indexes, drops what is too old, checks what is sealed
//! ```
//!
//! `recovery` reads the folder at start, `ledger` remembers between starts what the segments do not say.
//! What is in the files is the business of `banter-log`.

pub mod ages;
pub mod aligned;
pub mod checkpoint;
pub mod disk;
pub mod erasing;
pub mod erasures;
pub mod feed;
pub mod files;
pub mod indexes;
pub mod keeper;
pub mod ledger;
mod owner;
pub mod recovery;
pub mod retention;
pub mod scrub;
pub mod sizing;
pub mod slots;

use std::path::{Path, PathBuf};

use banter_log::{index, segment};

/// The log's folder in the data folder.
pub fn folder_of(data: &Path) -> PathBuf {
    data.join("log")
}

/// The path of a segment.
pub fn segment_path(folder: &Path, id: u64) -> PathBuf {
    folder.join(segment::file_name(id))
}

/// The path of a segment's index.
pub fn index_path(folder: &Path, id: u64) -> PathBuf {
    folder.join(index::file_name(id))
}
