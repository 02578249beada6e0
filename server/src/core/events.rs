//! What a core's log says of who comes, shows a token and goes, as events for machines: `log_format = "json"`.
//!
//! Invariants:
//! - Nothing of a token but what it proved stands in a line, and of one that proved nothing only why.
//! - What is like another (what happened, what came of it, the address, and the user where it is known) is a line at once and
//!   counted in a sum each [`SUM_MS`]: who comes without end fills no disk.
//! - Of a connection that has said who it is nothing is kept.

use std::collections::BTreeMap;
use std::net::IpAddr;

use banter_access::guest::is_guest;
use banter_access::proof::Proof;
use banter_chat::proving::{NotProved, Proved, Purpose};
use banter_chat::timers::Timers;
use banter_protocol::ids::UserName;
use banter_protocol::wire::WireForm;

use crate::core::doorway::shown;

/// Milliseconds from a line to the sum of what was like it.
pub const SUM_MS: u64 = 10_000;
/// What is summed at a time where no user is known; of what is beyond it only the number is told.
pub const SUMS_MAX: usize = 1_024;
/// The same where a user is known. A place of its own, so that strangers push no user's line aside.
pub const SUMS_OF_USERS_MAX: usize = 4_096;

/// An event at the level that its reader has: machines are told what people are told only where they look for it.
macro_rules! tell {
    ($is_for_machines:expr, $($line:tt)*) => {
        if $is_for_machines { tracing::info!($($line)*) } else { tracing::debug!($($line)*) }
    };
}

/// What is known of a `hello` that was refused.
pub struct Hello {
    proof: Option<(UserName, Option<String>)>,
    refused: &'static str,
    /// What the token lacks, as its bearer is told.
    why: Option<String>,
}

impl Hello {
    /// Of one that was judged; none where a token was for something else.
    #[must_use]
    pub fn of(proved: &Proved) -> Option<Self> {
        if !matches!(proved.proving.purpose, Purpose::Hello { .. }) {
            return None;
        }
        let named = |proof: &Proof| (proof.user().clone(), proof.session().map(str::to_owned));
        let refused = match &proved.verdict {
            // A revocation, or a name that is not the token's.
            Ok(_) | Err(NotProved::Refused(_)) => "refused",
            Err(NotProved::Expired(_)) => "expired",
            Err(NotProved::Unavailable) => "unavailable",
        };
        let why = match &proved.verdict {
            Err(NotProved::Refused(why) | NotProved::Expired(why)) => Some(why.clone()),
            Ok(_) | Err(NotProved::Unavailable) => None,
        };
        Some(Hello { proof: proved.verdict.as_deref().ok().map(named), refused, why })
    }

    /// Of one that showed no token, or one that nobody had to judge.
    #[must_use]
    pub fn without_proof() -> Self {
        Hello { proof: None, refused: "refused", why: None }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// The WebSocket close code; none: the peer went without a word.
    pub code: Option<u16>,
    /// Why, for people.
    pub reason: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Connect,
    Hello,
    Close,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Connect => "connect",
            What::Hello => "hello",
            What::Close => "close",
        }
    }
}

/// What makes two events alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    what: What,
    result: &'static str,
    code: Option<u16>,
    address: IpAddr,
    user: Option<UserName>,
}

/// The events of one core.
pub struct Events {
    is_for_machines: bool,
    /// How many came behind the first of each kind.
    sums: BTreeMap<Kind, u64>,
    sums_of_users: usize,
    due: Timers<Kind>,
    /// Since the last sum, of kinds that have no place.
    others: BTreeMap<What, u64>,
    /// The web pages that connections came from, by slot, until they have said who they are.
    origins: BTreeMap<u32, Box<str>>,
}

impl Events {
    /// For machines, or for people who look for it: then the level is `debug`.
    #[must_use]
    pub fn new(is_for_machines: bool) -> Self {
        Events {
            is_for_machines,
            sums: BTreeMap::new(),
            sums_of_users: 0,
            due: Timers::new(SUM_MS),
            others: BTreeMap::new(),
            origins: BTreeMap::new(),
        }
    }

    /// Whether anybody reads them. Where nobody does, nothing is kept and nothing is counted.
    #[must_use]
    pub fn is_told(&self) -> bool {
        if self.is_for_machines {
            tracing::enabled!(tracing::Level::INFO)
        } else {
            tracing::enabled!(tracing::Level::DEBUG)
        }
    }

    /// A connection upgrades, and says which page it comes from.
    pub fn comes_from(&mut self, slot: u32, origin: Option<&str>) {
        if origin.is_some() && self.is_told() {
            self.origins.insert(slot, shown(origin).into());
        }
    }

    /// The connection in that slot has said who it is, or is gone.
    pub fn forget(&mut self, slot: u32) {
        self.origins.remove(&slot);
    }

    /// A connection may say hello from now on.
    pub fn opened(&mut self, form: WireForm, address: IpAddr, now_ms: u64) {
        let kind = Kind { what: What::Connect, result: "opened", code: None, address, user: None };
        if self.is_told() && self.is_first(kind, now_ms) {
            let form = form_name(form);
            tell!(self.is_for_machines, event = "connect", result = "opened", form, %address, "a connection opened");
        }
    }

    /// A connection gets no further; `why` is the limit's name, or what else stands against it.
    pub fn turned_away(&mut self, why: &'static str, address: IpAddr, now_ms: u64) {
        let kind = Kind { what: What::Connect, result: why, code: None, address, user: None };
        if self.is_told() && self.is_first(kind, now_ms) {
            tell!(self.is_for_machines, event = "connect", result = why, %address, "a connection was turned away");
        }
    }

    /// The connection in that slot has said who it is. Guests of one address are alike: each of them has a name of its own.
    pub fn welcome(&mut self, slot: u32, user: &UserName, session: Option<&str>, address: IpAddr, now_ms: u64) {
        let named = named(user);
        let result = if named.is_some() { "welcome" } else { "guest" };
        let kind = Kind { what: What::Hello, result, code: None, address, user: named };
        if self.is_told() && self.is_first(kind, now_ms) {
            let (user, origin) = (user.as_str(), self.origins.get(&slot).map(|origin| &**origin));
            tell!(self.is_for_machines, event = "hello", result, user, session, %address, origin, "a user came in");
        }
    }

    /// A `hello` was refused.
    pub fn refused(&mut self, slot: u32, hello: &Hello, address: IpAddr, now_ms: u64) {
        let (user, session) = hello.proof.as_ref().map_or((None, None), |(user, sid)| (Some(user), sid.as_deref()));
        let result = hello.refused;
        let kind = Kind { what: What::Hello, result, code: None, address, user: user.cloned() };
        if self.is_told() && self.is_first(kind, now_ms) {
            let (user, origin) = (user.map(UserName::as_str), self.origins.get(&slot).map(|origin| &**origin));
            let why = hello.why.as_deref();
            tell!(self.is_for_machines, event = "hello", result, why, user, session, %address, origin, "nobody was let in");
        }
    }

    /// A connection that had opened ends.
    pub fn closed(&mut self, ended: Ended<'_>, user: Option<&UserName>, address: IpAddr, now_ms: u64) {
        let Ended { code, reason } = ended;
        let result = if code.is_some() { "closed" } else { "gone" };
        let kind = Kind { what: What::Close, result, code, address, user: user.and_then(named) };
        if self.is_told() && self.is_first(kind, now_ms) {
            let (user, reason) = (user.map(UserName::as_str), (!reason.is_empty()).then_some(reason));
            tell!(self.is_for_machines, event = "close", result, code, reason, user, %address, "a connection ended");
        }
    }

    /// Tells sums that are due.
    pub fn tick(&mut self, now_ms: u64) {
        while let Some((Kind { what, result, code, address, user }, more)) = self.take_due(now_ms) {
            let (event, user) = (what.name(), user.as_ref().map(UserName::as_str));
            tell!(self.is_for_machines, event, result, code, more, user, %address, "so many more of it");
        }
    }

    /// The core ends: tells what is left to tell.
    pub fn end(&mut self) {
        self.tick(u64::MAX);
    }

    /// When to tick at the latest.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.due.next_due()
    }

    /// Whether it gets a line of its own; otherwise it is counted.
    fn is_first(&mut self, kind: Kind, now_ms: u64) -> bool {
        if let Some(more) = self.sums.get_mut(&kind) {
            *more += 1;
            return false;
        }
        let is_of_user = kind.user.is_some();
        let (here, places) = match is_of_user {
            true => (self.sums_of_users, SUMS_OF_USERS_MAX),
            false => (self.sums.len() - self.sums_of_users, SUMS_MAX),
        };
        if here >= places {
            *self.others.entry(kind.what).or_default() += 1;
            return false;
        }
        self.sums_of_users += usize::from(is_of_user);
        self.sums.insert(kind.clone(), 0);
        self.due.set(kind, now_ms);
        true
    }

    /// The next sum that is due and not nothing.
    fn take_due(&mut self, now_ms: u64) -> Option<(Kind, u64)> {
        while let Some(kind) = self.due.take_due(now_ms) {
            let more = self.sums.remove(&kind).unwrap_or_default();
            self.sums_of_users -= usize::from(kind.user.is_some());
            for (what, more) in std::mem::take(&mut self.others) {
                let event = what.name();
                tell!(
                    self.is_for_machines,
                    event,
                    more,
                    "so many more, of more addresses and users than are told apart"
                );
            }
            if more > 0 {
                return Some((kind, more));
            }
        }
        None
    }
}

/// The user, unless it is a guest.
fn named(user: &UserName) -> Option<UserName> {
    (!is_guest(user.as_str())).then(|| user.clone())
}

fn form_name(form: WireForm) -> &'static str {
    match form {
        WireForm::Json => "json",
        WireForm::WebSocketRkyv => "rkyv",
        WireForm::Native => "native",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn refused(result: &'static str, address: IpAddr) -> Kind {
        Kind { what: What::Hello, result, code: None, address, user: None }
    }

    fn of_user(name: &str) -> Kind {
        Kind { user: Some(UserName::new(name).unwrap()), ..refused("welcome", HERE) }
    }

    #[test]
    fn one_reason_of_one_address_is_a_line_and_then_a_sum_each_ten_seconds() {
        let mut events = Events::new(true);
        let one = || refused("refused", HERE);
        assert!(events.is_first(one(), 0));
        assert!((1..=500).all(|now_ms| !events.is_first(one(), now_ms)));
        assert!(events.is_first(refused("expired", HERE), 600), "another reason is another line");
        assert_eq!((events.next_due(), events.take_due(SUM_MS - 1)), (Some(SUM_MS), None));
        assert_eq!(events.take_due(SUM_MS), Some((one(), 500)));
        assert!(events.is_first(one(), SUM_MS), "then it begins anew");
        // What came once has been told.
        assert_eq!(events.take_due(SUM_MS + 600), None);
        assert_eq!(events.next_due(), Some(2 * SUM_MS));
    }

    #[test]
    fn users_of_one_address_have_a_line_each_and_one_that_comes_again_and_again_is_summed() {
        let mut events = Events::new(true);
        assert!(["ann", "bob"].iter().all(|name| events.is_first(of_user(name), 0)));
        assert!((0..100).all(|_| !events.is_first(of_user("ann"), 1)));
        assert_eq!((events.take_due(SUM_MS), events.take_due(SUM_MS)), (Some((of_user("ann"), 100)), None));
        assert_eq!((events.sums.len(), events.sums_of_users), (0, 0));
    }

    #[test]
    fn guests_of_one_address_are_one_line_and_a_sum() {
        let mut events = Events::new(true);
        let guest = |number: u32| UserName::new(&format!("~g{number}")).unwrap();
        assert!(
            (0..100).all(|number| named(&guest(number)).is_none()) && named(&UserName::new("ann").unwrap()).is_some()
        );
        let kind = |result| Kind { user: named(&guest(1)), ..refused(result, HERE) };
        assert!(events.is_first(kind("guest"), 0) && !events.is_first(kind("guest"), 0));
    }

    #[test]
    fn more_than_are_told_apart_take_no_more_memory_are_counted_and_strangers_push_no_user_aside() {
        let mut events = Events::new(true);
        let address = |number: u32| IpAddr::V4(number.into());
        let lines = (0..5_000).filter(|&number| events.is_first(refused("refused", address(number)), 0)).count();
        assert_eq!(
            (lines, events.sums.len(), events.others[&What::Hello]),
            (SUMS_MAX, SUMS_MAX, 5_000 - SUMS_MAX as u64)
        );
        assert!(events.is_first(of_user("ann"), 0));
        let users = (0..5_000).filter(|number| events.is_first(of_user(&format!("user-{number}")), 0)).count();
        assert_eq!((users + 1, events.sums_of_users), (SUMS_OF_USERS_MAX, SUMS_OF_USERS_MAX));
        events.end();
        assert_eq!((events.sums.len(), events.sums_of_users, events.others.len(), events.next_due()), (0, 0, 0, None));
    }

    #[test]
    fn where_nobody_reads_them_nothing_is_kept() {
        // No subscriber is there that has the level on.
        let mut events = Events::new(false);
        events.comes_from(0, Some("https://a.com"));
        events.opened(WireForm::Json, HERE, 0);
        events.closed(Ended { code: None, reason: "" }, None, HERE, 0);
        assert!(events.origins.is_empty() && events.sums.is_empty() && events.next_due().is_none());
    }
}
