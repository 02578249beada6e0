//! Lines of the log for people: written by a thread of their own, and filtered by what may change while the server runs.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{LogFormat, log_filter, parse_log};

/// Lines that wait to be written.
const LINES_MAX: usize = 10_000;

/// What is logged, for who changes it. Clones are the same.
///
/// The configuration says it, and an operator may say otherwise for a while: until the configuration is read again.
#[derive(Clone, Debug)]
pub struct LogFilter(Arc<Filtered>);

#[derive(Debug)]
struct Filtered {
    handle: reload::Handle<EnvFilter, Registry>,
    texts: Mutex<FilterTexts>,
}

/// What is logged, and what the configuration says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterTexts {
    /// What holds.
    pub now: String,
    /// What the configuration says.
    pub configured: String,
}

impl LogFilter {
    fn new(handle: reload::Handle<EnvFilter, Registry>, filter: &str) -> Self {
        let texts = FilterTexts { now: filter.to_owned(), configured: filter.to_owned() };
        LogFilter(Arc::new(Filtered { handle, texts: Mutex::new(texts) }))
    }

    /// What holds, and what the configuration says.
    #[must_use]
    pub fn texts(&self) -> FilterTexts {
        self.lock().clone()
    }

    /// Goes by another filter, until the configuration is read again.
    ///
    /// # Errors
    /// It is none, and why; nothing changes then.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let filter = parse_log(filter)?;
        self.put(&filter);
        self.lock().now = filter;
        Ok(())
    }

    /// Goes by what the configuration says from now on. Says which filter of an operator's ends with that.
    pub fn configure(&self, filter: &str) -> Option<String> {
        self.put(filter);
        let mut texts = self.lock();
        let before =
            std::mem::replace(&mut *texts, FilterTexts { now: filter.to_owned(), configured: filter.to_owned() });
        (before.now != before.configured && before.now != filter).then_some(before.now)
    }

    fn put(&self, filter: &str) {
        // It fails where nobody logs any more.
        let _ = log_filter(filter).map(|filter| self.0.handle.reload(filter));
    }

    fn lock(&self) -> MutexGuard<'_, FilterTexts> {
        self.0.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that nobody logs by.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        LogFilter::new(reload::Layer::new(EnvFilter::default()).1, "info")
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
    let (layer, handle) = reload::Layer::new(log_filter(filter).unwrap_or_else(|_| EnvFilter::new("info")));
    let lines = fmt::layer().with_writer(writer).with_target(false);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(layer).with(lines).init();
    LogLines { dropped, filter: LogFilter::new(handle, filter), _flushed_at_the_end: guard }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_filter_holds_until_the_configuration_is_read_again() {
        let filter = LogFilter::idle();
        filter.set("warn,banter=debug").unwrap();
        let texts =
            |now: &str, configured: &str| FilterTexts { now: now.to_owned(), configured: configured.to_owned() };
        assert_eq!(filter.texts(), texts("warn,banter=debug", "info"));
        assert_eq!(filter.configure("info").as_deref(), Some("warn,banter=debug"));
        assert_eq!((filter.texts(), filter.configure("error")), (texts("info", "info"), None));
        // What it says anyway is nothing that ends.
        filter.set("debug").unwrap();
        assert_eq!(filter.configure("debug"), None);
    }

    #[test]
    fn a_filter_that_is_none_changes_nothing_and_says_why() {
        let filter = LogFilter::idle();
        for (text, says) in [("", "like \"info\""), ("banter=loud", "banter=loud"), ("inof", "inof=debug")] {
            let fault = filter.set(text).expect_err(text);
            assert!(fault.contains(says), "{text}: {fault}");
        }
        assert_eq!(filter.texts().now, "info");
    }
}
