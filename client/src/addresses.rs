//! Where the servers are: the addresses that the user gave, those that a server told of, and which of them is next, and when.
//!
//! ```text
//!  order:  told (the owner first), then given
//!  next:   the first in that order whose wait is over, so at once one that was not tried yet; else the one whose wait ends first
//! ```
//!
//! Invariants:
//! - **A token goes to no address that was neither given by the user nor told by a server that has the token already.**
//!   [`Addresses::tell`] hears only what comes on a connection on which `hello` was said, and every connection goes to one of
//!   these addresses. How a told address is reached is the adapter's, the same for all: told is where, never how.
//! - Told addresses are at most [`NODES_MAX`]; each list takes the place of the one before, and none that of what was given.
//! - Each address has a wait of its own, which doubles with each failure, so that a round without luck is followed by a later
//!   one, up to `reconnect_max`. Nobody is asked again before the time that it named itself.
//! - While a cluster may be changing its owner ([`SEARCH`]), nobody waits longer than [`SEARCH_WAIT_MAX`] and what the
//!   address itself asked for, so the new owner is found about a second after it serves. With one address nothing of that holds.

use std::time::Duration;

use banter_protocol::event::{NODE_BYTES_MAX, NODES_MAX};

use crate::backoff::{Backoff, Random};
use crate::options::Options;

/// How long after a loss the waits stay short where there are several addresses: a cluster has another owner within 3 s, and
/// three times that where its engine is slow.
const SEARCH: Duration = Duration::from_secs(10);
/// The ceiling of the waits until then.
const SEARCH_WAIT_MAX: Duration = Duration::from_secs(1);

/// An address that failed, or lost its connection.
#[derive(Debug)]
struct Tried {
    address: String,
    backoff: Backoff,
    /// Not before then.
    due: Duration,
    /// The part of it that the server there asked for.
    asked: Duration,
}

/// How a connection was lost, or did not come about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    pub(crate) now: Duration,
    /// For how long the server had welcomed the session; none: it had not.
    pub(crate) held: Option<Duration>,
    /// What it asked to wait before coming back to whatever server.
    pub(crate) wait: Duration,
    /// What it asked to wait before coming back to itself.
    pub(crate) wait_here: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// Never empty: an adapter that knows its only server by itself gives none, which is an address without a name.
    given: Vec<String>,
    told: Vec<String>,
    /// Where the connection goes, or the next one.
    at: String,
    tried: Vec<Tried>,
    searching_since: Option<Duration>,
    /// Attempts that did not wait for the one before: servers that tell of others without end are no way around the waits.
    in_a_row: usize,
    reconnect_first: Duration,
    reconnect_max: Duration,
    attempt_timeout: Duration,
    welcome_timeout: Duration,
}

impl Addresses {
    pub(crate) fn new(options: &Options) -> Self {
        let mut given = Vec::new();
        options.addresses.iter().filter(|it| !it.is_empty()).for_each(|address| push_new(&mut given, address));
        if given.is_empty() {
            given.push(String::new());
        }
        Addresses {
            at: given[0].clone(),
            given,
            told: Vec::new(),
            tried: Vec::new(),
            searching_since: None,
            in_a_row: 0,
            reconnect_first: options.reconnect_first,
            reconnect_max: options.reconnect_max,
            attempt_timeout: options.attempt_timeout,
            welcome_timeout: options.welcome_timeout,
        }
    }

    /// Where to connect; none: to the adapter's own server.
    pub(crate) fn at(&self) -> Option<&str> {
        Some(self.at.as_str()).filter(|at| !at.is_empty())
    }

    /// What servers told.
    pub(crate) fn told(&self) -> &[String] {
        &self.told
    }

    /// All, in the order in which they are tried.
    fn all(&self) -> impl Iterator<Item = &String> {
        self.told.iter().chain(self.given.iter().filter(|given| !self.told.contains(given)))
    }

    fn is_several(&self) -> bool {
        self.all().nth(1).is_some()
    }

    /// How long to wait for the connection, and again for its welcome. Short where another address may have the answer; longer
    /// with each failure, for the way may be slow.
    pub(crate) fn patience(&self) -> Duration {
        if !self.is_several() {
            return self.welcome_timeout;
        }
        let tried = self.tried.iter().find(|tried| tried.address == self.at);
        let ceiling = tried.map_or(Duration::ZERO, |tried| tried.backoff.ceiling());
        ceiling.max(self.attempt_timeout).min(self.welcome_timeout)
    }

    /// The server there, which has the session's token, tells of these: the owner first.
    pub(crate) fn tell(&mut self, nodes: &str) {
        self.told.clear();
        nodes.lines().filter(|line| is_address(line)).for_each(|line| push_new(&mut self.told, line));
        self.told.truncate(NODES_MAX);
        let (told, given, at) = (&self.told, &self.given, &self.at);
        self.tried.retain(|it| it.address == *at || told.contains(&it.address) || given.contains(&it.address));
        // That it did not serve a moment ago is older than this; when to ask it again is its own word.
        let owner = self.told.first().filter(|owner| *owner != at);
        if let Some(tried) = owner.and_then(|owner| self.tried.iter_mut().find(|tried| tried.address == *owner)) {
            tried.due = tried.asked;
        }
    }

    /// The connection is lost, or there was none: chooses where the next one goes, and says when.
    pub(crate) fn lose(&mut self, lost: &Lost, random: &mut Random) -> Duration {
        let has_held_long = lost.held.is_some_and(|held| held >= self.long());
        if has_held_long {
            self.tried.clear();
            (self.searching_since, self.in_a_row) = (None, 0);
        }
        // Those who were cut off together do not come back together.
        let spread = random.up_to(self.reconnect_first);
        let earliest = lost.now + if lost.held.is_some() { lost.wait + spread } else { Duration::ZERO };
        let ceiling_max = self.search_wait_max(lost.now);
        let wait_here = if lost.wait_here.is_zero() { lost.wait_here } else { lost.wait_here + spread };
        let tried = self.tried_here();
        let wait = tried.backoff.fail(random, ceiling_max);
        tried.asked = lost.now + wait_here;
        // What held so long and asked for nothing is the first that comes into question.
        let is_trusted = has_held_long && wait_here.is_zero();
        tried.due = if is_trusted { earliest } else { earliest.max(lost.now + wait).max(tried.asked) };
        self.choose(lost.now, earliest, random)
    }

    /// What wipes the failures out. In a cluster a second takeover may follow soon on the first.
    fn long(&self) -> Duration {
        if self.is_several() { self.reconnect_max.min(SEARCH) } else { self.reconnect_max }
    }

    /// The ceiling of waits now; none: as far as they have grown.
    fn search_wait_max(&mut self, now: Duration) -> Option<Duration> {
        let since = *self.searching_since.get_or_insert(now);
        (self.is_several() && now.saturating_sub(since) < SEARCH).then_some(SEARCH_WAIT_MAX)
    }

    fn tried_here(&mut self) -> &mut Tried {
        let found = self.tried.iter().position(|tried| tried.address == self.at);
        let index = found.unwrap_or_else(|| {
            let backoff = Backoff::new(self.reconnect_first, self.reconnect_max);
            let address = self.at.clone();
            self.tried.push(Tried { address, backoff, due: Duration::ZERO, asked: Duration::ZERO });
            self.tried.len() - 1
        });
        &mut self.tried[index]
    }

    fn due(&self, address: &str) -> Duration {
        let tried = self.tried.iter().find(|tried| tried.address == *address);
        tried.map_or(Duration::ZERO, |tried| tried.due)
    }

    fn choose(&mut self, now: Duration, mut earliest: Duration, random: &mut Random) -> Duration {
        self.in_a_row += 1;
        if self.in_a_row > NODES_MAX + self.given.len() {
            earliest = earliest.max(now + random.up_to(SEARCH_WAIT_MAX));
        }
        let first = self.all().find(|address| self.due(address) <= earliest);
        let chosen = first.or_else(|| self.all().min_by_key(|address| self.due(address))).cloned();
        self.at = chosen.unwrap_or_default();
        let due = self.due(&self.at).max(earliest);
        if due > now {
            self.in_a_row = 0;
        }
        due
    }
}

fn push_new(list: &mut Vec<String>, address: &str) {
    if !list.iter().any(|known| known == address) {
        list.push(address.to_owned());
    }
}

/// Whether it is a host and a port, and nothing that would be read as more.
fn is_address(text: &str) -> bool {
    let is_port =
        |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let has_port = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && is_port(port));
    let is_odd = |char: char| char.is_whitespace() || char.is_control() || "/@?#\\".contains(char);
    has_port && text.len() <= NODE_BYTES_MAX && !text.contains(is_odd)
}

#[cfg(test)]
mod tests;
