//! The disk's floor: how fast one block after another becomes durable, and how fast files are read from end to end.
//!
//! ```text
//!  latency   zero-filled file ◀── pwrite of one aligned block, O_DIRECT ─▶ fdatasync ─▶ again, or when the rate says
//!  read      each file: told to leave the page cache ─▶ read from end to end, buffered, then O_DIRECT
//! ```
//!
//! What a server reaches is published as a ratio to these figures, measured in turns with it in the same folder. The
//! loop of `latency` is a log that commits one post at a time; a server with many posters must beat its rate and stay
//! near its latency.
//!
//! Invariants:
//! - The file is written and synced whole before anything is timed: no write of the loop grows it or makes an extent.
//! - No block is written twice in a round of the file, as in a log.

pub mod args;
pub mod block;
pub mod figures;
pub mod latency;
pub mod read;

use std::io;
use std::path::Path;

/// Adds what we were doing, and where, to an error of the host, for `map_err`.
pub(crate) fn doing<E: Into<io::Error>>(what: &str, path: &Path) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
    }
}
