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

/// A time as people read it, from seconds since 1970.
pub fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Years that begin in March end with the leap day: see "chrono-Compatible Low-Level Date Algorithms" (Hinnant).
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
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

    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix_s, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(unix_s), text);
        }
    }
}
