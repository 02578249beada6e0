//! Revocations: which users, sessions, tokens and addresses may not be here any more, and how they lie in a file.
//!
//! # Invariants
//!
//! - Adding one never makes another weaker, so the order in which they come never matters. Of one subject those are kept
//!   that another neither outlasts nor outreaches.
//! - There are at most [`REVOCATIONS_MAX`]; above that, new ones are refused and the old hold.
//! - Looking up costs O(log n) for a proof, and as many times that as there are lengths of prefixes, at most 129, for an
//!   address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use banter_protocol::ids::UserName;

use crate::address::Cidr;
use crate::claims::{TIME_SECONDS_MAX, is_id};
use crate::proof::Proof;

mod record;

pub use record::{DamagedLine, RECORD_BYTES_MAX, Record, RecordFault, Records, read_file};

/// Most revocations at a time; each takes 210 to 240 bytes, its name beside it.
pub const REVOCATIONS_MAX: usize = 100_000;
/// Revocations that have ended and that adding one forgets on its way.
const FORGOTTEN_BY_ADDING: usize = 2;

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Every token of a user.
    User(UserName),
    /// Every token of a login session (`sid`).
    Session(Arc<str>),
    /// One token (`jti`).
    Token(Arc<str>),
    /// Everybody from a range of addresses.
    Address(Cidr),
}

/// Why a revocation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationFault {
    /// A session or token that cannot be one.
    #[error("a session or a token is named by 1 to 255 bytes without control characters")]
    Id,
    /// A time beyond the year 9999.
    #[error("a time is beyond the year 9999: times are seconds since 1970, not milliseconds")]
    BeyondTime,
    /// An address, and when tokens were made.
    #[error("addresses are judged before any token is seen, so issued_before does not go with them")]
    AddressIssued,
}

/// A revocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revocation {
    subject: Subject,
    span: Span,
}

/// For which tokens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Span {
    until_seconds: u64,
    /// `u64::MAX`: all, whenever they were made.
    issued_before_seconds: u64,
}

const ALL_ISSUED: u64 = u64::MAX;

impl Span {
    fn holds(self, issued_seconds: u64, now_seconds: u64) -> bool {
        now_seconds < self.until_seconds && issued_seconds <= self.issued_before_seconds
    }

    /// Whether whatever that one revokes, this one does too.
    fn includes(self, other: Span) -> bool {
        self.until_seconds >= other.until_seconds && self.issued_before_seconds >= other.issued_before_seconds
    }
}

impl Subject {
    /// That it can be one.
    ///
    /// # Errors
    /// When a session or token is no id.
    pub fn check(&self) -> Result<(), RevocationFault> {
        match self {
            Subject::Session(id) | Subject::Token(id) if !is_id(id) => Err(RevocationFault::Id),
            _ => Ok(()),
        }
    }
}

/// For lines of a log: what stands where an id should may be a whole token.
impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::User(user) => write!(out, "the user {:?}", user.as_str()),
            Subject::Session(_) => out.write_str("a session"),
            Subject::Token(_) => out.write_str("a token"),
            Subject::Address(range) => write!(out, "the addresses {range}"),
        }
    }
}

impl Revocation {
    /// Of a subject: for its tokens whose `iat` is that second or an earlier one, or for all of them, until that second
    /// since 1970, at which it ends. A token that is made in the very second of its user's revocation is refused with
    /// the others: its maker waits for the next.
    ///
    /// # Errors
    /// When a session or token is no id, a time is beyond the year 9999, or an address comes with `issued_before`.
    pub fn new(
        subject: Subject,
        issued_before_seconds: Option<u64>,
        until_seconds: u64,
    ) -> Result<Self, RevocationFault> {
        subject.check()?;
        if matches!(subject, Subject::Address(_)) && issued_before_seconds.is_some() {
            return Err(RevocationFault::AddressIssued);
        }
        if until_seconds.max(issued_before_seconds.unwrap_or(0)) > TIME_SECONDS_MAX {
            return Err(RevocationFault::BeyondTime);
        }
        let issued_before_seconds = issued_before_seconds.unwrap_or(ALL_ISSUED);
        Ok(Revocation { subject, span: Span { until_seconds, issued_before_seconds } })
    }

    /// What it revokes.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The last second in which a token that it revokes was made; none: whenever it was.
    pub fn issued_before_seconds(&self) -> Option<u64> {
        (self.span.issued_before_seconds != ALL_ISSUED).then_some(self.span.issued_before_seconds)
    }

    /// The second since 1970 at which it ends.
    pub fn until_seconds(&self) -> u64 {
        self.span.until_seconds
    }

    /// Whether it ends the connection that came from the address with the proof: what a walk over connections asks, of
    /// one revocation, as [`Revocations`] is asked by one connection.
    pub fn ends(&self, proof: Option<&Proof>, address: IpAddr, now_seconds: u64) -> bool {
        let issued_seconds = proof.map_or(0, Proof::issued_seconds);
        let is_named = match (&self.subject, proof) {
            (Subject::Address(range), _) => range.contains(address),
            (Subject::User(user), Some(proof)) => user == proof.user(),
            (Subject::Session(session), Some(proof)) => Some(&**session) == proof.session(),
            (Subject::Token(token), Some(proof)) => Some(&**token) == proof.token_id(),
            (_, None) => false,
        };
        is_named && self.span.holds(issued_seconds, now_seconds)
    }
}

/// By what a proof is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RevokedBy {
    /// Its user.
    User,
    /// Its session.
    Session,
    /// Its own id.
    Token,
}

/// There are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {revocations_max} revocations, and no more are kept: lift some, or wait until some have ended")]
pub struct RevocationsFull {
    /// How many there may be.
    pub revocations_max: usize,
}

/// Those of one kind of subject.
type Spans<Name> = BTreeMap<Name, Vec<Span>>;

/// All revocations of a server.
#[derive(Clone, Debug)]
pub struct Revocations {
    revocations_max: usize,
    users: Spans<UserName>,
    sessions: Spans<Arc<str>>,
    tokens: Spans<Arc<str>>,
    addresses: Spans<Cidr>,
    /// How many ranges of each length there are.
    prefixes: BTreeMap<u8, usize>,
    /// Each once, the first to end first.
    ends: BTreeSet<(u64, Subject)>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self::new(REVOCATIONS_MAX)
    }
}

impl Revocations {
    /// None, and at most so many.
    pub fn new(revocations_max: usize) -> Self {
        Revocations {
            revocations_max,
            users: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tokens: BTreeMap::new(),
            addresses: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            ends: BTreeSet::new(),
        }
    }

    /// How many there are, ended ones that were not forgotten yet among them.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many there may be.
    pub fn revocations_max(&self) -> usize {
        self.revocations_max
    }

    /// Adds one. Says whether anything is different now: not if it has ended, or if another one includes it.
    ///
    /// # Errors
    /// When there are as many as there may be, and it takes the place of none.
    pub fn add(&mut self, revocation: &Revocation, now_seconds: u64) -> Result<bool, RevocationsFull> {
        self.forget_ended(now_seconds, FORGOTTEN_BY_ADDING);
        let Revocation { subject, span } = revocation;
        let kept = self.spans(subject);
        if span.until_seconds <= now_seconds || kept.iter().any(|kept| kept.includes(*span)) {
            return Ok(false);
        }
        let replaced: Vec<Span> = kept.iter().copied().filter(|&kept| span.includes(kept)).collect();
        if replaced.is_empty() && self.ends.len() >= self.revocations_max {
            return Err(RevocationsFull { revocations_max: self.revocations_max });
        }
        for replaced in replaced {
            self.remove(subject, replaced);
        }
        self.insert(subject, *span);
        Ok(true)
    }

    /// Whether whatever that one revokes is revoked already.
    pub fn includes(&self, revocation: &Revocation) -> bool {
        self.spans(&revocation.subject).iter().any(|kept| kept.includes(revocation.span))
    }

    /// Whether anything is revoked of exactly that subject.
    pub fn has(&self, subject: &Subject) -> bool {
        !self.spans(subject).is_empty()
    }

    /// Takes back every revocation of exactly that subject, and says how many there were.
    pub fn lift(&mut self, subject: &Subject) -> usize {
        let spans = self.spans(subject).to_vec();
        for &span in &spans {
            self.remove(subject, span);
        }
        spans.len()
    }

    /// Forgets revocations that have ended, at most so many, and says how many: fewer than that if there are no more.
    pub fn forget_ended(&mut self, now_seconds: u64, steps_max: usize) -> usize {
        for step in 0..steps_max {
            let Some((until_seconds, subject)) = self.ends.first() else { return step };
            if *until_seconds > now_seconds {
                return step;
            }
            let (until_seconds, subject) = (*until_seconds, subject.clone());
            let span = self.spans(&subject).iter().copied().find(|span| span.until_seconds == until_seconds);
            match span {
                Some(span) => self.remove(&subject, span),
                None => drop(self.ends.pop_first()),
            }
        }
        steps_max
    }

    /// By what the proof is revoked at that second since 1970, if it is.
    pub fn judge(&self, proof: &Proof, now_seconds: u64) -> Option<RevokedBy> {
        let holds = |spans: Option<&Vec<Span>>| {
            // The first that has not ended is the one that reaches furthest of those.
            let first = spans
                .and_then(|spans| spans.get(spans.partition_point(|span| span.until_seconds <= now_seconds)).copied());
            first.is_some_and(|span| span.holds(proof.issued_seconds(), now_seconds))
        };
        if holds(self.users.get(proof.user().as_str())) {
            Some(RevokedBy::User)
        } else if holds(proof.session().and_then(|session| self.sessions.get(session))) {
            Some(RevokedBy::Session)
        } else if holds(proof.token_id().and_then(|token| self.tokens.get(token))) {
            Some(RevokedBy::Token)
        } else {
            None
        }
    }

    /// Whether a user is revoked at that second since 1970, whatever it showed and when: what a guest is judged by, who showed
    /// nothing.
    pub fn is_user_revoked(&self, user: &str, now_seconds: u64) -> bool {
        self.users.get(user).is_some_and(|spans| spans.iter().any(|span| now_seconds < span.until_seconds))
    }

    /// How many lengths of prefixes there are: a lookup of an address takes one step for each.
    pub fn prefix_lengths(&self) -> usize {
        self.prefixes.len()
    }

    /// Whether the address is revoked at that second since 1970.
    pub fn is_address_revoked(&self, address: IpAddr, now_seconds: u64) -> bool {
        let ranges = self.prefixes.keys().filter_map(|&prefix_bits| Cidr::holding(address, prefix_bits));
        let mut spans = ranges.filter_map(|range| self.addresses.get(&range)).flatten();
        spans.any(|span| now_seconds < span.until_seconds)
    }

    /// All of them, the first to end first.
    pub fn iter(&self) -> impl Iterator<Item = Revocation> {
        self.ends.iter().filter_map(|(until_seconds, subject)| {
            let span = self.spans(subject).iter().copied().find(|span| span.until_seconds == *until_seconds)?;
            Some(Revocation { subject: subject.clone(), span })
        })
    }

    fn spans(&self, subject: &Subject) -> &[Span] {
        let spans = match subject {
            Subject::User(user) => self.users.get(user),
            Subject::Session(session) => self.sessions.get(session),
            Subject::Token(token) => self.tokens.get(token),
            Subject::Address(range) => self.addresses.get(range),
        };
        spans.map_or(&[], Vec::as_slice)
    }

    fn insert(&mut self, subject: &Subject, span: Span) {
        self.ends.insert((span.until_seconds, subject.clone()));
        match subject {
            Subject::User(user) => insert(&mut self.users, user, span),
            Subject::Session(session) => insert(&mut self.sessions, session, span),
            Subject::Token(token) => insert(&mut self.tokens, token, span),
            Subject::Address(range) => {
                insert(&mut self.addresses, range, span);
                *self.prefixes.entry(range.prefix_bits()).or_default() += 1;
            }
        }
    }

    fn remove(&mut self, subject: &Subject, span: Span) {
        self.ends.remove(&(span.until_seconds, subject.clone()));
        match subject {
            Subject::User(user) => remove(&mut self.users, user, span),
            Subject::Session(session) => remove(&mut self.sessions, session, span),
            Subject::Token(token) => remove(&mut self.tokens, token, span),
            Subject::Address(range) => {
                remove(&mut self.addresses, range, span);
                let count = self.prefixes.entry(range.prefix_bits()).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.prefixes.remove(&range.prefix_bits());
                }
            }
        }
    }
}

/// Keeps them by their ends. None includes another, so who ends later reaches less far.
fn insert<Name: Ord + Clone>(all: &mut Spans<Name>, name: &Name, span: Span) {
    let spans = all.entry(name.clone()).or_insert_with(|| Vec::with_capacity(1));
    let at = spans.partition_point(|kept| kept.until_seconds < span.until_seconds);
    spans.insert(at, span);
}

fn remove<Name: Ord>(all: &mut Spans<Name>, name: &Name, span: Span) {
    let Some(spans) = all.get_mut(name) else { return };
    spans.retain(|kept| *kept != span);
    if spans.is_empty() {
        all.remove(name);
    }
}

#[cfg(test)]
mod tests;
