//! Which connections a user has on a core, for a program that asks: one walk over the core's connections, in slices, for all the
//! users who were asked about before it began. So a connection keeps nothing for it, and no turn is long.
//!
//! Invariants:
//! - Every ask is answered once, but when the server ends; at most [`LOOKUPS_MAX`] wait.
//! - Who is there from the ask to the answer is counted; who comes or goes meanwhile may be or not.
//! - An answer is bounded: [`CONNECTIONS_LISTED_MAX`] connections, and [`ROOMS_LISTED_MAX`] names of each.

use std::net::IpAddr;

use banter_access::proof::Proof;
use banter_protocol::ids::{RoomName, UserName};
use banter_protocol::wire::WireForm;
use rustc_hash::FxHashMap;

use crate::address::{ConnectionId, Now};
use crate::backend::Ticket;
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Asks about users that wait on a core at most.
pub const LOOKUPS_MAX: usize = 64;
/// Connections that one answer lists at most.
pub const CONNECTIONS_LISTED_MAX: usize = 100;
/// Rooms that are listed of each at most.
pub const ROOMS_LISTED_MAX: usize = 100;
/// Connections that a turn looks at, a room that is listed counted as one more.
const LOOKS_A_TURN: usize = 1_024;

/// The connections that a user has on one core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserState {
    /// All of them.
    pub count: u64,
    /// Some: those in the highest places of the core's table.
    pub connections: Vec<ConnectionState>,
}

/// A connection as its core has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionState {
    /// Its place.
    pub id: ConnectionId,
    /// What `welcome` called its session.
    pub session: String,
    /// Its wire form.
    pub form: WireForm,
    /// When it said who it is, in milliseconds since 1970.
    pub since_ms: u64,
    /// `sid` of its token: the login session that it belongs to.
    pub login_session: Option<Box<str>>,
    /// Rooms that it reads.
    pub rooms_count: usize,
    /// The first of them that it joined.
    pub rooms: Vec<RoomName>,
    /// Rooms of which it is behind, and catches up from the history.
    pub rooms_behind: u32,
    /// Bytes that wait for it, beside the newest messages of rooms, which all readers share.
    pub waiting_bytes: u64,
    /// Where it comes from; the shard does not know, the shell does.
    pub address: Option<IpAddr>,
}

/// What was asked about users and is not answered.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    waiting: FxHashMap<UserName, Vec<Ticket>>,
    walk: Option<Walk>,
    /// Asks that wait, or that the walk is for.
    count: usize,
}

/// A walk under way: everything below that place is still to be looked at.
#[derive(Debug)]
struct Walk {
    below: usize,
    found: FxHashMap<UserName, UserState>,
    tickets: Vec<(Ticket, UserName)>,
}

impl Lookups {
    /// Takes an ask. `false`: as many wait as may.
    pub(crate) fn ask(&mut self, ticket: Ticket, user: &UserName) -> bool {
        let has_space = self.count < LOOKUPS_MAX;
        if has_space {
            self.count += 1;
            self.waiting.entry(user.clone()).or_default().push(ticket);
        }
        has_space
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.count > 0
    }

    /// Goes on with the walk, as far as this turn may; the answers, where one has come to its end.
    pub(crate) fn walk(&mut self, sessions: &Sessions, turn: &mut Turn<'_>) -> Vec<(Ticket, UserState)> {
        let Some(mut walk) = self.walk.take().or_else(|| self.begin(sessions)) else { return Vec::new() };
        let mut looks = LOOKS_A_TURN;
        while looks > 0 && walk.below > 0 {
            walk.below -= 1;
            turn.counters.steps += 1;
            looks = looks.saturating_sub(1 + sessions.look_for_users(walk.below, &mut walk.found, turn.now));
        }
        if walk.below > 0 {
            self.walk = Some(walk);
            return Vec::new();
        }
        self.count -= walk.tickets.len();
        let Walk { found, tickets, .. } = walk;
        let state_of = |user: &UserName| found.get(user).cloned().unwrap_or_default();
        tickets.into_iter().map(|(ticket, user)| (ticket, state_of(&user))).collect()
    }

    fn begin(&mut self, sessions: &Sessions) -> Option<Walk> {
        if self.waiting.is_empty() {
            return None;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let found = waiting.keys().map(|user| (user.clone(), UserState::default())).collect();
        let tickets = waiting
            .into_iter()
            .flat_map(|(user, tickets)| tickets.into_iter().map(move |ticket| (ticket, user.clone())))
            .collect();
        Some(Walk { below: sessions.connections.len(), found, tickets })
    }
}

impl Sessions {
    /// Notes the connection in that place if it is of one of these users. Says how many names of rooms it listed.
    fn look_for_users(&self, slot: usize, users: &mut FxHashMap<UserName, UserState>, now: Now) -> usize {
        let session = &self.connections[slot];
        let user = session.user.as_ref().filter(|_| session.is_open());
        let Some(state) = user.and_then(|user| users.get_mut(user)) else { return 0 };
        state.count += 1;
        if state.connections.len() >= CONNECTIONS_LISTED_MAX {
            return 0;
        }
        let connection = self.connection_state(slot, now);
        let listed = connection.rooms.len();
        state.connections.push(connection);
        listed
    }

    fn connection_state(&self, slot: usize, now: Now) -> ConnectionState {
        let session = &self.connections[slot];
        let name_of = |&subscription: &u32| {
            let reading = &self.subscriptions[subscription as usize];
            self.rooms[reading.room as usize].name.clone()
        };
        let since_ms = now.monotonic_us.saturating_sub(session.since.us()) / 1_000;
        ConnectionState {
            id: self.id_of(slot),
            session: self.session_name(slot),
            form: session.form,
            since_ms: now.unix_ms.saturating_sub(since_ms),
            login_session: session.proof.as_deref().and_then(Proof::session).map(Into::into),
            rooms_count: session.subscriptions.len(),
            rooms: session.subscriptions.iter().take(ROOMS_LISTED_MAX).map(name_of).collect(),
            rooms_behind: session.behind,
            waiting_bytes: session.outbox.len() as u64 + u64::from(session.in_flight_bytes),
            address: None,
        }
    }
}
