//! How many connections a user has on the whole server: each user has a home core, by its name, which knows all of them while
//! `connections_per_user_max` is set, and ends the oldest where there is one more than may be.
//!
//! ```text
//!  core of a connection ─Up::Home─▶ Homes of its user's core ─Down::Replaced─▶ core of the user's oldest connection
//! ```
//!
//! Why the oldest: a phone that lost its link comes back while the server still holds its old connection, and would be locked out
//! behind its own ghost.
//!
//! Invariants:
//! - Without a limit nothing is kept and nothing is sent. What was told while there was one is taken back by a walk, and what was
//!   there before it is told by one (`orders.rs`).
//! - A home is told of each connection once, and once that it went, in that order, since the lane keeps it. So it knows no more
//!   connections than there are. One that it has ended it has forgotten: that it went changes nothing.
//! - Behind a connection that comes, its user has the newest `connections_per_user_max` and no other. Those that a walk finds
//!   end nobody by themselves, since a reload closes nobody: the user's next connection does, whichever of the two comes first.
//! - Where the limit only counts nobody is ended, and each connection that would have ended one counts once.

use std::collections::{BTreeSet, VecDeque};

use banter_access::limit::{DryRun, Limit};
use rustc_hash::FxHashMap;

use crate::address::{Peer, UserId};
use crate::limits::Limits;
use crate::parcel::{Down, HomeNews, Moved, Up};
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Connections that one turn of a core tells to go, beside one for each that comes: a user may have had any number of them when
/// the limit came, or was lowered.
const TOLD_TO_GO_A_TURN: usize = 256;

/// A connection as its user's home knows it. The oldest is the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrival {
    since_us: u64,
    connection: Peer,
}

/// The connections of a user, of which most have one.
#[derive(Debug)]
enum Arrivals {
    One(Arrival),
    Many(BTreeSet<Arrival>),
}

impl Arrivals {
    fn len(&self) -> usize {
        match self {
            Arrivals::One(_) => 1,
            Arrivals::Many(all) => all.len(),
        }
    }

    fn add(&mut self, arrival: Arrival) {
        match self {
            Arrivals::One(one) => *self = Arrivals::Many(BTreeSet::from([*one, arrival])),
            Arrivals::Many(all) => {
                all.insert(arrival);
            }
        }
    }

    fn oldest(&self) -> Option<Arrival> {
        match self {
            Arrivals::One(one) => Some(*one),
            Arrivals::Many(all) => all.first().copied(),
        }
    }

    /// Takes it out of several. `false`: it was the last, and stays.
    fn remove(&mut self, arrival: Arrival) -> bool {
        match self {
            Arrivals::One(one) => *one != arrival,
            Arrivals::Many(all) => {
                all.remove(&arrival);
                if all.len() == 1
                    && let Some(&one) = all.first()
                {
                    *self = Arrivals::One(one);
                }
                true
            }
        }
    }
}

/// A user's home.
#[derive(Debug)]
struct Home {
    arrivals: Arrivals,
    /// A connection of the user came since it is known here: the limit holds for all of them.
    is_bounded: bool,
    /// It stands in the list of those that have too many.
    is_crowded: bool,
}

/// The users whose home is this core, as far as they have connections.
#[derive(Debug, Default)]
pub struct Homes {
    connections_per_user_max: u32,
    dry_run: DryRun,
    users: FxHashMap<UserId, Home>,
    /// Users who have more than they may, and of whom this turn has ended enough.
    crowded: VecDeque<UserId>,
}

impl Homes {
    /// Nobody is there.
    pub fn new(limits: &Limits) -> Self {
        let mut homes = Homes::default();
        homes.set_limits(limits);
        homes
    }

    /// Goes by another limit: nobody is ended by it before the user's next connection comes.
    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.connections_per_user_max = limits.connections_per_user_max;
        self.dry_run = limits.dry_run;
    }

    /// Takes what is for homes; gives back what is a room's.
    pub(crate) fn take_up(&mut self, parcel: Up, turn: &mut Turn<'_>) -> Option<Up> {
        let Up::Home(news) = parcel else { return Some(parcel) };
        turn.counters.steps += 1;
        let arrival = Arrival { since_us: news.since_us, connection: news.connection };
        match news.moved {
            Moved::Came => self.came(news.user, arrival, true, turn),
            Moved::WasThere => self.came(news.user, arrival, false, turn),
            Moved::Went => self.went(news.user, arrival),
        }
        None
    }

    fn came(&mut self, user: UserId, arrival: Arrival, is_new: bool, turn: &mut Turn<'_>) {
        use std::collections::hash_map::Entry;
        let home = match self.users.entry(user) {
            Entry::Vacant(place) => {
                let arrivals = Arrivals::One(arrival);
                place.insert(Home { arrivals, is_bounded: false, is_crowded: false })
            }
            Entry::Occupied(place) => {
                let home = place.into_mut();
                home.arrivals.add(arrival);
                home
            }
        };
        home.is_bounded |= is_new;
        if !home.is_bounded || home.is_crowded {
            return;
        }
        if self.end_oldest(user, turn) && self.has_too_many(user) {
            self.crowded.push_back(user);
            self.users.entry(user).and_modify(|home| home.is_crowded = true);
        }
    }

    fn went(&mut self, user: UserId, arrival: Arrival) {
        let Some(home) = self.users.get_mut(&user) else { return };
        if !home.arrivals.remove(arrival) {
            self.users.remove(&user);
            if self.users.is_empty() {
                // A limit that is there no more leaves nothing behind.
                self.users = FxHashMap::default();
            }
        }
    }

    fn has_too_many(&self, user: UserId) -> bool {
        let connections_max = self.connections_per_user_max as usize;
        connections_max != 0 && self.users.get(&user).is_some_and(|home| home.arrivals.len() > connections_max)
    }

    /// Ends the user's oldest connection if there are too many. Says whether it did.
    fn end_oldest(&mut self, user: UserId, turn: &mut Turn<'_>) -> bool {
        if !self.has_too_many(user) || !turn.counters.limits.refuses(Limit::ConnectionsPerUser, self.dry_run) {
            return false;
        }
        let Some(home) = self.users.get_mut(&user) else { return false };
        let Some(oldest) = home.arrivals.oldest() else { return false };
        // It is not the last one, since a limit leaves one at least.
        home.arrivals.remove(oldest);
        let Peer { core, connection } = oldest.connection;
        turn.lanes.send_answer(core, Down::Replaced { to: connection });
        true
    }

    /// Goes on with users who have more than one connection too many.
    pub(crate) fn tend(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..TOLD_TO_GO_A_TURN {
            let Some(&user) = self.crowded.front() else { return };
            turn.counters.steps += 1;
            if !self.end_oldest(user, turn) {
                self.crowded.pop_front();
                self.users.entry(user).and_modify(|home| home.is_crowded = false);
            }
        }
    }

    /// Whether there is more to do in the next turn.
    pub(crate) fn is_busy(&self) -> bool {
        !self.crowded.is_empty()
    }

    /// Connections that are known here, for checks from outside.
    pub fn connections_count(&self) -> usize {
        self.users.values().map(|home| home.arrivals.len()).sum()
    }
}

impl Sessions {
    /// It is known who the connection is.
    pub(crate) fn come_home(&mut self, slot: usize, turn: &mut Turn<'_>) {
        if self.limits.connections_per_user_max != 0 {
            self.tell_home(slot, Moved::Came, turn);
        }
    }

    /// The connection ends.
    pub(crate) fn leave_home(&mut self, slot: usize, turn: &mut Turn<'_>) {
        if self.connections[slot].is_at_home {
            self.tell_home(slot, Moved::Went, turn);
        }
    }

    /// Looks whether the connection's home knows of it as it should, by the limit that is set now.
    pub(crate) fn follow_limit(&mut self, slot: usize, turn: &mut Turn<'_>) {
        let session = &self.connections[slot];
        match (self.limits.connections_per_user_max != 0, session.is_at_home) {
            (true, false) if session.is_open() => self.tell_home(slot, Moved::WasThere, turn),
            (false, true) => self.tell_home(slot, Moved::Went, turn),
            _ => {}
        }
    }

    fn tell_home(&mut self, slot: usize, moved: Moved, turn: &mut Turn<'_>) {
        let connection = self.peer_of(slot);
        let session = &mut self.connections[slot];
        let Some(user) = session.user.as_ref().map(UserId::of) else { return };
        session.is_at_home = moved != Moved::Went;
        let news = HomeNews { user, connection, since_us: session.since.us(), moved };
        self.send_up_to(slot, self.placement.home_of(user), Up::Home(news), turn);
    }
}
