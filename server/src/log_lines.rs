//! Lines of the log for people: written by a thread of their own, and filtered by what may change while the server runs.

use std::io::IsTerminal as _;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::LogFormat;

/// Lines that wait to be written.
const LINES_MAX: usize = 10_000;

/// What is logged, for who changes it.
#[derive(Clone, Debug)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Goes by another filter from now on; one that is none changes nothing.
    pub fn set(&self, filter: &str) {
        // It fails where nobody logs any more.
        let _ = EnvFilter::try_new(filter).map(|filter| self.0.reload(filter));
    }

    /// One that nobody logs by.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        LogFilter(reload::Layer::new(EnvFilter::default()).1)
    }
}

/// The log of a server.
pub struct LogLines {
    /// Counts lines that could not be written.
    pub dropped: ErrorCounter,
    /// What is logged.
    pub filter: LogFilter,
    /// Its end waits until what was logged is written.
    _flushed_at_the_end: WorkerGuard,
}

/// Begins to log to stderr, for the whole process.
#[must_use]
pub fn begin(filter: &str, format: LogFormat) -> LogLines {
    // Lines are written by a thread of their own, and above its queue they are dropped: a stderr that takes nothing, a
    // stalled disk or a full pipe, must not stop a core.
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).lossy(true).finish(std::io::stderr());
    let dropped = writer.error_counter();
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info")));
    let lines = fmt::layer().with_writer(writer).with_target(false);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    LogLines { dropped, filter: LogFilter(handle), _flushed_at_the_end: guard }
}
