//! When the keys of an address (JWKS) are fetched, and for how long those that were fetched hold: times in, decisions out.
//!
//! Invariants:
//! - One fetch is under way at a time, and an unknown `kid` begins none within 30 s of the last begin: who makes up names makes
//!   no load for anybody.
//! - What was fetched holds for a day at most from then on, whatever the address says, and whether it answers or not.
//! - A fetch that failed, or that brought no key, takes nothing away before that.

use crate::keys::{KeyFault, Keys};

/// A fetched set is fetched again after so long at least, in milliseconds, whatever its `max-age` says.
pub const MAX_AGE_MS_MIN: u64 = 5 * 60 * 1_000;
/// And after so long at most.
pub const MAX_AGE_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Where the address says nothing, in milliseconds.
pub const MAX_AGE_MS_DEFAULT: u64 = 60 * 60 * 1_000;
/// How long a set holds that cannot be fetched again, in milliseconds.
pub const HELD_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Between the begins of two fetches of which an unknown `kid` wants the second, in milliseconds.
pub const UNKNOWN_KID_INTERVAL_MS: u64 = 30 * 1_000;
/// From a failure to the next try, in milliseconds; it doubles with each.
pub const RETRY_MS_MIN: u64 = 1_000;
/// At most so long.
pub const RETRY_MS_MAX: u64 = 60 * 1_000;

const _: () = assert!(MAX_AGE_MS_MAX <= HELD_MS_MAX, "a set does not end before it is due again");
const _: () = assert!(RETRY_MS_MAX < MAX_AGE_MS_MIN, "a failure is mended sooner than a set is renewed");

/// A set that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    text: Box<str>,
    until_ms: u64,
}

/// What to do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Fetch the address: [`Jwks::fetched`] or [`Jwks::failed`] is told what came of it.
    pub fetch: bool,
    /// The keys are others than before: none, since they held for long enough.
    pub changed: bool,
}

/// What an unknown `kid` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownKid {
    /// A fetch is due at once, which may bring it.
    Fetch,
    /// One is under way, which may bring it.
    UnderWay,
    /// The set was fetched a moment ago: the key is none of the address's.
    Refuse,
}

/// The keys of an address. Times are milliseconds of a clock that never goes back.
#[derive(Clone, Debug)]
pub struct Jwks {
    held: Option<Held>,
    is_fetching: bool,
    due_ms: u64,
    begun_ms: Option<u64>,
    failures: u32,
}

impl Jwks {
    /// With nothing.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Jwks { held: None, is_fetching: false, due_ms: now_ms, begun_ms: None, failures: 0 }
    }

    /// With a set that an earlier run fetched so long ago. It is fetched anew at once, and holds until then, if it still does.
    ///
    /// # Errors
    /// It is none.
    pub fn keep(&mut self, text: &str, age_ms: u64, now_ms: u64) -> Result<(), KeyFault> {
        Keys::new().add_jwks(text)?;
        let until_ms = now_ms.saturating_add(HELD_MS_MAX.saturating_sub(age_ms));
        self.held = (until_ms > now_ms).then(|| Held { text: text.into(), until_ms });
        Ok(())
    }

    /// The set that holds.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.held.as_ref().map(|held| &*held.text)
    }

    /// What is due by now.
    pub fn tick(&mut self, now_ms: u64) -> Due {
        let changed = self.held.take_if(|held| held.until_ms <= now_ms).is_some();
        let fetch = !self.is_fetching && self.due_ms <= now_ms;
        if fetch {
            (self.is_fetching, self.begun_ms) = (true, Some(now_ms));
        }
        Due { fetch, changed }
    }

    /// When to tick at the latest; none while nothing but a fetch is waited for.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        let fetch = (!self.is_fetching).then_some(self.due_ms);
        fetch.into_iter().chain(self.held.as_ref().map(|held| held.until_ms)).min()
    }

    /// A token came whose `kid` no key has. [`UnknownKid::Fetch`] is done by the next tick.
    pub fn unknown_kid(&mut self, now_ms: u64) -> UnknownKid {
        if self.is_fetching {
            return UnknownKid::UnderWay;
        }
        if self.begun_ms.is_some_and(|begun_ms| now_ms < begun_ms + UNKNOWN_KID_INTERVAL_MS) {
            return UnknownKid::Refuse;
        }
        self.due_ms = self.due_ms.min(now_ms);
        UnknownKid::Fetch
    }

    /// The address answered with that text, which it calls good for so long. Says whether the keys are others than before.
    ///
    /// # Errors
    /// It is no set, or none of its keys can be used: that is a fetch which failed, and [`Jwks::failed`] is to be told.
    pub fn fetched(&mut self, text: &str, max_age_ms: Option<u64>, now_ms: u64) -> Result<bool, KeyFault> {
        Keys::new().add_jwks(text)?;
        let age_ms = max_age_ms.unwrap_or(MAX_AGE_MS_DEFAULT).clamp(MAX_AGE_MS_MIN, MAX_AGE_MS_MAX);
        (self.is_fetching, self.failures, self.due_ms) = (false, 0, now_ms + age_ms);
        let is_same = self.text() == Some(text);
        self.held = Some(Held { text: text.into(), until_ms: now_ms + HELD_MS_MAX });
        Ok(!is_same)
    }

    /// The address did not answer, or not with a set.
    pub fn failed(&mut self, now_ms: u64) {
        let retry_ms = RETRY_MS_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_MS_MAX);
        (self.is_fetching, self.due_ms) = (false, now_ms + retry_ms);
        self.failures = self.failures.saturating_add(1);
    }
}

/// The `max-age` of a Cache-Control header (RFC 9111, 5.2.2.1), in milliseconds; `no-store` and `no-cache` are 0.
#[must_use]
pub fn max_age_ms(cache_control: &str) -> Option<u64> {
    let mut age_ms = None;
    for directive in cache_control.split(',').map(str::trim) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(0);
        }
        if name.eq_ignore_ascii_case("max-age") {
            age_ms = value.trim_matches('"').parse().ok().map(|seconds: u64| seconds.saturating_mul(1_000));
        }
    }
    age_ms
}

#[cfg(test)]
mod tests;
