//! What a core's log says of those who show tokens, and of guests, as events for machines: `log_format = "json"`.
//!
//! Invariants:
//! - Nothing of a token but what it proved stands in a line, and of one that proved nothing only why.
//! - One reason from one address is a line at once and a sum each [`SUM_MS`]: who is refused without end fills no disk.

use std::collections::BTreeMap;
use std::net::IpAddr;

use banter_access::proof::Proof;
use banter_chat::proving::{NotProved, Proved, Purpose};
use banter_chat::timers::Timers;

/// Milliseconds from a line to the sum of what was like it.
pub const SUM_MS: u64 = 10_000;
/// Addresses and reasons that are summed at a time; of those beyond them only the number is told.
pub const SUMS_MAX: usize = 1_024;

/// What is known of a `hello` before its verdict is taken.
pub struct Hello {
    proof: Option<(String, Option<String>)>,
    refused: &'static str,
}

impl Hello {
    /// Of one that was judged; none where a token was for something else.
    #[must_use]
    pub fn of(proved: &Proved) -> Option<Self> {
        if !matches!(proved.proving.purpose, Purpose::Hello { .. }) {
            return None;
        }
        let named = |proof: &Proof| (proof.user().as_str().to_owned(), proof.session().map(str::to_owned));
        let refused = match &proved.verdict {
            // A revocation, or a name that is not the token's.
            Ok(_) | Err(NotProved::Refused(_)) => "refused",
            Err(NotProved::Expired(_)) => "expired",
            Err(NotProved::Unavailable) => "unavailable",
        };
        Some(Hello { proof: proved.verdict.as_deref().ok().map(named), refused })
    }
}

/// The events of one core.
pub struct Events {
    sums: BTreeMap<(IpAddr, &'static str), u64>,
    due: Timers<(IpAddr, &'static str)>,
    /// Since the last sum, of addresses that have no place.
    others: u64,
}

impl Default for Events {
    fn default() -> Self {
        Events { sums: BTreeMap::new(), due: Timers::new(SUM_MS), others: 0 }
    }
}

impl Events {
    /// A `hello` was answered.
    pub fn hello(&mut self, hello: &Hello, is_welcome: bool, address: IpAddr, now_ms: u64) {
        let (user, session) = hello.proof.as_ref().map_or((None, None), |(user, sid)| (Some(user), sid.as_ref()));
        let (user, session) = (user.map(String::as_str), session.map(String::as_str));
        if is_welcome {
            tracing::info!(event = "hello", result = "welcome", user, session, %address, "a token was taken");
        } else if self.is_first((address, hello.refused), now_ms) {
            let result = hello.refused;
            tracing::info!(event = "hello", result, user, session, %address, "a token was not taken");
        }
    }

    /// Somebody came in as a guest.
    pub fn guest(&self, user: &str, address: IpAddr) {
        tracing::info!(event = "hello", result = "guest", user, %address, "a guest came in");
    }

    /// Tells sums that are due.
    pub fn tick(&mut self, now_ms: u64) {
        while let Some((address, result, more)) = self.take_due(now_ms) {
            tracing::info!(event = "hello", result, more, %address, "tokens were not taken");
        }
    }

    /// When to tick at the latest.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.due.next_due()
    }

    /// Whether it gets a line of its own; otherwise it is counted.
    fn is_first(&mut self, key: (IpAddr, &'static str), now_ms: u64) -> bool {
        if let Some(more) = self.sums.get_mut(&key) {
            *more += 1;
            return false;
        }
        if self.sums.len() >= SUMS_MAX {
            self.others += 1;
            return false;
        }
        self.sums.insert(key, 0);
        self.due.set(key, now_ms);
        true
    }

    /// The next sum that is due and not nothing.
    fn take_due(&mut self, now_ms: u64) -> Option<(IpAddr, &'static str, u64)> {
        while let Some(key) = self.due.take_due(now_ms) {
            let more = self.sums.remove(&key).unwrap_or_default();
            let others = std::mem::take(&mut self.others);
            if others > 0 {
                tracing::info!(
                    event = "hello",
                    more = others,
                    "tokens were not taken, of more addresses than are told apart"
                );
            }
            if more > 0 {
                return Some((key.0, key.1, more));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn one_reason_of_one_address_is_a_line_and_then_a_sum_each_ten_seconds() {
        let mut events = Events::default();
        assert!(events.is_first((ANN, "refused"), 0));
        assert!((1..=500).all(|now_ms| !events.is_first((ANN, "refused"), now_ms)));
        assert!(events.is_first((ANN, "expired"), 600), "another reason is another line");
        assert_eq!((events.next_due(), events.take_due(SUM_MS - 1)), (Some(SUM_MS), None));
        assert_eq!(events.take_due(SUM_MS), Some((ANN, "refused", 500)));
        assert!(events.is_first((ANN, "refused"), SUM_MS), "then it begins anew");
        // What came once has been told.
        assert_eq!(events.take_due(SUM_MS + 600), None);
        assert_eq!(events.next_due(), Some(2 * SUM_MS));
    }

    #[test]
    fn more_addresses_than_are_told_apart_take_no_more_memory_and_are_counted() {
        let mut events = Events::default();
        let address = |number: u32| IpAddr::V4(number.into());
        let lines = (0..5_000).filter(|&number| events.is_first((address(number), "refused"), 0)).count();
        assert_eq!((lines, events.sums.len(), events.others), (SUMS_MAX, SUMS_MAX, 5_000 - SUMS_MAX as u64));
        assert_eq!(events.take_due(SUM_MS), None);
        assert_eq!((events.sums.len(), events.others, events.next_due()), (0, 0, None));
    }
}
