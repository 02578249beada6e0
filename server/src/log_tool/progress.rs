//! How far a long reading is, on a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// A reading that takes no longer says nothing.
const QUIET: Duration = Duration::from_secs(2);
/// Between two times that it says something.
const INTERVAL: Duration = Duration::from_millis(200);
/// Back to the start of the line, and away with what stands there.
const CLEAR: &str = "\r\x1b[K";

/// The line of a terminal that says how far it is.
#[derive(Debug)]
pub(crate) struct Progress {
    is_on: bool,
    is_shown: bool,
    next: Instant,
    count: usize,
    what: &'static str,
}

impl Progress {
    /// Of a reading of so many segments.
    pub(crate) fn new(segments: usize) -> Self {
        Progress::of(segments, "segments")
    }

    /// Of so many of something.
    pub(crate) fn of(count: usize, what: &'static str) -> Self {
        let is_on = std::io::stderr().is_terminal();
        Progress { is_on, is_shown: false, next: Instant::now() + QUIET, count, what }
    }

    /// Says it, if it is time.
    pub(crate) fn tell(&mut self, read: usize, records: u64) {
        if self.is_on && Instant::now() >= self.next {
            let messages = if records > 0 { format!(", {records} messages") } else { String::new() };
            let text = format!("{CLEAR}{read} of {} {}{messages}", self.count, self.what);
            // A terminal that has gone is no reason to end.
            let _ = std::io::stderr().write_all(text.as_bytes());
            self.is_shown = true;
            self.next = Instant::now() + INTERVAL;
        }
    }

    /// Takes the line away, so that others can stand there.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = std::io::stderr().write_all(CLEAR.as_bytes());
        }
    }
}
