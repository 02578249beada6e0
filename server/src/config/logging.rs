//! What is logged, and for whom: the filter and the format, as file, flag and operator say them.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

pub(super) const MUST_LOG_FORMAT: &str = "must be \"text\" or \"json\"";
pub(super) const MUST_LOG: &str = "must be a log filter, like \"info\" or \"warn,banter_server=debug\"";

/// For whom the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// People: a line of text each.
    #[default]
    Text,
    /// Machines: a JSON object a line, and events of who shows tokens.
    Json,
}

impl LogFormat {
    /// Its name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// Reads for whom it is.
///
/// # Errors
/// What it must be.
pub(super) fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    let formats = [LogFormat::Text, LogFormat::Json];
    formats.into_iter().find(|format| format.name() == text).ok_or_else(|| MUST_LOG_FORMAT.to_owned())
}

/// Reads a log filter, for file, flag and operator alike.
///
/// # Errors
/// What it must be, and what is wrong.
pub fn parse_log(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err(MUST_LOG.to_owned());
    }
    // One word alone is a level or a target. A misspelt level would be a target that nobody has, and end the log.
    if let Some(word) = text.split(',').map(str::trim).find(|word| is_misspelt(word)) {
        return Err(format!(
            "{MUST_LOG}: {word} is no level (off, error, warn, info, debug, trace); of a target say {word}=debug"
        ));
    }
    match log_filter(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(fault) => {
            let part = text.split(',').find(|part| log_filter(part).is_err());
            Err(format!("{MUST_LOG}: {}: {fault}", part.unwrap_or(text).trim()))
        }
    }
}

/// The filter that a text says. Values of fields are compared as they are: as patterns, a short one could take all of the memory.
/// What the engine's library would say of itself is said by us, so of that only errors are told, unless the text names it.
///
/// # Errors
/// It is none.
pub fn log_filter(text: &str) -> Result<EnvFilter, ParseError> {
    const LIBRARY: &str = "async_nats";
    let filter = EnvFilter::builder().with_regex(false).parse(text)?;
    let is_wider = filter.max_level_hint().is_none_or(|level| level > LevelFilter::ERROR);
    if !is_wider || text.contains(LIBRARY) {
        return Ok(filter);
    }
    Ok(filter.add_directive(format!("{LIBRARY}=error").parse()?))
}

fn is_misspelt(word: &str) -> bool {
    let is_plain = word.chars().all(|character| character.is_alphanumeric() || character == '_');
    !word.is_empty() && is_plain && word.parse::<LevelFilter>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_library_is_quiet_unless_it_is_named() {
        let filter = |text: &str| log_filter(text).unwrap().to_string();
        assert!(filter("info").contains("async_nats=error"));
        assert!(!filter("info,async_nats=debug").contains("async_nats=error"));
        assert!(!filter("error").contains("async_nats") && !filter("off").contains("async_nats"));
    }

    #[test]
    fn a_filter_of_few_bytes_takes_little_however_it_is_written() {
        let greedy = format!("[turn{{f=(a|b)*a{}}}]=trace", "(a|b)".repeat(40));
        assert_eq!(parse_log(&greedy).as_deref(), Ok(&*greedy), "compared as it is");
    }

    #[test]
    fn a_filter_is_a_level_or_says_levels_of_targets() {
        for filter in
            ["info", "WARN", "off", "0", "info,banter=debug", "banter_server::core=trace,error", "[turn]=trace"]
        {
            assert_eq!(parse_log(filter).as_deref(), Ok(filter));
        }
        for (filter, says) in [
            ("", "must be a log filter"),
            (" ", "must be a log filter"),
            // It would be the filter of a target that nobody has, and nothing else would be logged.
            ("inof", "inof is no level (off, error, warn, info, debug, trace); of a target say inof=debug"),
            ("info,banter", "of a target say banter=debug"),
            ("info, banter=loud", ": banter=loud: "),
        ] {
            let fault = parse_log(filter).expect_err(filter);
            assert!(fault.contains(says), "{filter}: {fault}");
        }
    }
}
