//! Why a log's folder cannot be used, and how each is mended.

use std::io;
use std::path::{Path, PathBuf};

use banter_log::segment::SegmentFault;

use crate::host::HostFault;

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryFault {
    /// A call failed.
    #[error("{doing} {path}: {error}\n  to mend it: {fix}", path = .path.display(), fix = disk_fix(.error))]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// Nothing can be opened past the page cache.
    #[error(
        "the file system of {path} has no direct I/O, which the log is written with: {error}\n  to mend it: put the data \
         folder on another one (ext4, XFS and Btrfs have it) with --data DIR, or keep no log with --durability memory", path = .path.display()
    )]
    NoDirect {
        /// The log's folder.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// What is named like a segment is no file at all.
    #[error("{path} is named like a segment, and is no file: it is a folder, a pipe or a device\n  to mend it: move it away", path = .path.display())]
    NoFile {
        /// What it is named.
        path: PathBuf,
    },
    /// A file that is named like a segment is none.
    #[error("{path}: {fault}\n  to mend it: {fix}", path = .path.display(), fix = foreign_fix(.fault))]
    NoSegment {
        /// The file.
        path: PathBuf,
        /// Why it is none.
        fault: SegmentFault,
    },
    /// A later Banter wrote the ledger.
    #[error(
        "the ledger of {path}: {fault}\n  to mend it: start the Banter that wrote it, or give this one a folder of its own \
         with --data DIR", path = .path.display()
    )]
    Ledger {
        /// The log's folder.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// Damage ahead of whole blocks, or a segment that is shorter than it was.
    #[error(
        "{path} is damaged at offset {offset}: {what}\n  to mend it: restore the folder from a copy, or start once with \
         --accept-corruption, which keeps the file, gives up {lost}, and begins new epochs, so that no client takes a \
         history with a hole for a whole one. `banter log check` shows all of it", path = .path.display()
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where it is damaged.
        offset: u64,
        /// How it shows.
        what: String,
        /// What starting over it gives up.
        lost: String,
    },
    /// The epochs of the run cannot be taken.
    #[error(transparent)]
    Host(#[from] HostFault),
}

fn foreign_fix(fault: &SegmentFault) -> &'static str {
    match fault {
        SegmentFault::Version(_) => {
            "start the Banter that wrote it, or give this one a folder of its own with --data DIR"
        }
        SegmentFault::Magic | SegmentFault::Short => {
            "move the file away if it is not Banter's. If it was, it is damaged: restore it from a copy, and ask again for what \
             was erased since then (`banter log erase`), or start once \
             with --accept-corruption"
        }
        SegmentFault::Sum => {
            "restore it from a copy, and ask again for what was erased since then (`banter log erase`), or start once with \
             --accept-corruption, which puts it aside"
        }
    }
}

fn disk_fix(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "give the server's user the right to read and write it (`chown`, `chmod`)",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space (`df -h`)",
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount it writable (in a container a volume; in a systemd unit ReadWritePaths= or StateDirectory=)"
        }
        _ => "see whether the disk and its mount are well (`dmesg`, `df -h`)",
    }
}

pub(super) fn disk<'p>(doing: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> RecoveryFault + 'p {
    move |error| RecoveryFault::Disk { doing, path: path.to_owned(), error }
}
