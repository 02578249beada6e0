//! The wall clock: the one place where the server reads it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds by which a build for tests moves the clock, so that a test can start a server on one that was set wrong.
#[cfg(debug_assertions)]
const TEST_OFFSET_MS: &str = "BANTER_TEST_CLOCK_OFFSET_MS";

/// Milliseconds that the clock has to stand behind a start until a build for tests believes it, so that a test of what a
/// belief brings need not wait for it.
#[cfg(debug_assertions)]
const TEST_BELIEVED_MS: &str = "BANTER_TEST_CLOCK_BELIEVED_MS";

/// Milliseconds since 1970; 0 before that.
pub fn unix_ms() -> u64 {
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    unix_ms.saturating_add_signed(test_offset_ms())
}

/// Read once: each turn of a core asks for the time.
#[cfg(debug_assertions)]
fn test_offset_ms() -> i64 {
    static OFFSET_MS: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    let read = || std::env::var(TEST_OFFSET_MS).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    *OFFSET_MS.get_or_init(read)
}

#[cfg(not(debug_assertions))]
fn test_offset_ms() -> i64 {
    0
}

/// How long the clock has to stand behind a start until it is believed.
#[cfg(debug_assertions)]
pub fn believed_behind_ms(usual_ms: u64) -> u64 {
    std::env::var(TEST_BELIEVED_MS).ok().and_then(|text| text.parse().ok()).unwrap_or(usual_ms)
}

/// How long the clock has to stand behind a start until it is believed.
#[cfg(not(debug_assertions))]
pub fn believed_behind_ms(usual_ms: u64) -> u64 {
    usual_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_systems_where_nobody_moves_it() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let told = unix_ms();
        let behind = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!((before..=behind).contains(&told));
    }
}
