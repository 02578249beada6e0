//! What is ordered from outside about connections that are there: revocations, disconnects, kicks, new rights for everybody,
//! another limit for each user.
//!
//! An order is one walk over the connections, or over what they read, in slices of `LOOKS_A_TURN`. So a connection keeps
//! nothing for it, and no turn is long. Orders of one kind that come while a walk is under way share the next one.
//!
//! Invariants:
//! - Who is there when an order comes is looked at behind it: walks go from the last place to the first, and where a reading
//!   goes, the last of its room takes its place, which was looked at already, or is still to come as it was.
//! - A newcomer was judged by revocations and rights when it came. One who comes back in the midst of a walk that disconnects
//!   its user may be disconnected once more.
//! - What waits is bounded: [`ORDERS_WAITING_MAX`], of revocations by how many there may be, and of connections that are replaced by
//!   how many there were.

use std::collections::VecDeque;

use banter_access::proof::Proof;
use banter_access::revocation::{Revocation, Revocations, RevocationsFull, Subject};
use banter_protocol::error_code::ErrorCode;
use banter_protocol::ids::{RequestId, RoomId, UserName};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::access::Access;
use crate::address::ConnectionId;
use crate::limits::Limits;
use crate::parcel::Refusal;
use crate::sessions::Sessions;
use crate::turn::{ENDS_A_TURN, Turn};

/// Connections and readings that a turn looks at for orders. One look is up to a microsecond.
const LOOKS_A_TURN: usize = 1_024;
/// Looks that a turn has fewer for each connection that it ended.
const CONNECTION_LOOKS: usize = LOOKS_A_TURN / ENDS_A_TURN;
/// The same for each reading: one takes a microsecond or two, with the frame that says so and the parcel to the room.
const READING_LOOKS: usize = 4;
/// Disconnects and kicks that wait for their walk at most.
pub const ORDERS_WAITING_MAX: usize = 65_536;
/// The WebSocket close code of who was revoked: do not come back with this token.
pub const CLOSE_REVOKED: u16 = 4_403;
/// The WebSocket close code of whom somebody else has disconnected: come back after a random wait.
pub const CLOSE_KICKED: u16 = 4_405;
/// The WebSocket close code of whose place a newer connection of the same user took: do not come back by yourself.
pub const CLOSE_REPLACED: u16 = 4_409;

/// What a connection is told that somebody else ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parting {
    /// The code of its `error`.
    pub code: ErrorCode,
    /// For people.
    pub message: &'static str,
    /// The WebSocket close code.
    pub close_code: u16,
}

impl Parting {
    /// Its token holds no longer.
    pub const REVOKED: Parting = Parting {
        code: ErrorCode::Revoked,
        message: "the token was revoked: do not come back with it",
        close_code: CLOSE_REVOKED,
    };
    /// It may come back.
    pub const KICKED: Parting = Parting {
        code: ErrorCode::Kicked,
        message: "the connection was ended by the server's operator or its backend",
        close_code: CLOSE_KICKED,
    };

    /// Its user has as many connections as may be, and they are newer.
    pub const REPLACED: Parting = Parting {
        code: ErrorCode::Replaced,
        message: "connections_per_user_max is reached, and a newer connection of this user took the place: do not come back by \
                  yourself",
        close_code: CLOSE_REPLACED,
    };

    pub(crate) fn refusal(self) -> Refusal {
        Refusal::new(self.code, self.message)
    }
}

/// As many orders wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{ORDERS_WAITING_MAX} disconnects and kicks wait on this core: try again")]
pub struct OrdersFull;

/// A walk that waits for the one under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Revoked,
    RevokedInRooms,
    Rights,
    Homes,
    Disconnects,
    Kicks(RoomId),
}

/// A walk under way: everything below that place is still to be looked at.
struct Walk {
    below: usize,
    over: Over,
}

/// Over what a walk goes, and for what.
enum Over {
    /// Connections whose tokens may be revoked.
    Revoked,
    /// Readings whose own tokens may be.
    RevokedInRooms,
    /// All readings: the rights that everybody has may be others.
    Rights,
    /// All connections: their users' homes are to know of them, or no longer.
    Homes,
    /// Connections of these users.
    Disconnects(FxHashMap<UserName, Parting>),
    /// The readings of a room, of these users.
    Kicks(RoomId, FxHashSet<UserName>),
}

/// The orders of a core.
#[derive(Default)]
pub(crate) struct Orders {
    revocations: Revocations,
    /// Each once.
    waiting: VecDeque<Waiting>,
    has_revoked: bool,
    has_rights: bool,
    has_homes: bool,
    disconnects: FxHashMap<UserName, Parting>,
    kicks: FxHashMap<RoomId, FxHashSet<UserName>>,
    /// Disconnects and kicks that wait.
    count: usize,
    walk: Option<Walk>,
    /// Connections that have to make room for newer ones of their users; each is told once.
    replaced: VecDeque<ConnectionId>,
}

impl Orders {
    pub(crate) fn is_busy(&self) -> bool {
        self.walk.is_some() || !self.waiting.is_empty() || !self.replaced.is_empty()
    }

    pub(crate) fn replace(&mut self, connection: ConnectionId) {
        self.replaced.push_back(connection);
    }

    fn check_space(&self) -> Result<(), OrdersFull> {
        if self.count < ORDERS_WAITING_MAX { Ok(()) } else { Err(OrdersFull) }
    }
}

impl Sessions {
    /// A revocation was told: it holds from here on, and those that it names are ended in this turn and the next ones.
    pub(crate) fn revoke(&mut self, revocation: &Revocation, now_seconds: u64) -> Result<bool, RevocationsFull> {
        let is_new = self.orders.revocations.add(revocation, now_seconds)?;
        if is_new && !std::mem::replace(&mut self.orders.has_revoked, true) {
            // Ahead of kicks, of which a crowd may wait.
            self.orders.waiting.push_front(Waiting::Revoked);
        }
        Ok(is_new)
    }

    pub(crate) fn lift(&mut self, subject: &Subject) -> usize {
        self.orders.revocations.lift(subject)
    }

    /// The revocations that were told.
    pub fn revocations(&self) -> &Revocations {
        &self.orders.revocations
    }

    pub(crate) fn is_revoked(&self, proof: &Proof, turn: &Turn<'_>) -> bool {
        self.orders.revocations.judge(proof, turn.now.unix_ms / 1_000).is_some()
    }

    pub(crate) fn disconnect(&mut self, user: &UserName, parting: Parting) -> Result<(), OrdersFull> {
        let orders = &mut self.orders;
        orders.check_space()?;
        if orders.disconnects.is_empty() {
            orders.waiting.push_back(Waiting::Disconnects);
        }
        orders.count += usize::from(orders.disconnects.insert(user.clone(), parting).is_none());
        Ok(())
    }

    pub(crate) fn kick(&mut self, room: RoomId, user: &UserName) -> Result<(), OrdersFull> {
        let orders = &mut self.orders;
        orders.check_space()?;
        let users = orders.kicks.entry(room).or_default();
        if users.is_empty() {
            orders.waiting.push_back(Waiting::Kicks(room));
        }
        orders.count += usize::from(users.insert(user.clone()));
        Ok(())
    }

    /// The configuration gives others rights from here on.
    pub(crate) fn set_access(&mut self, access: Access) -> bool {
        if matches!(self.access, Access::Open) != matches!(access, Access::Open) {
            return false;
        }
        self.access = access;
        if !std::mem::replace(&mut self.orders.has_rights, true) {
            self.orders.waiting.push_back(Waiting::Rights);
        }
        true
    }

    /// Goes by other limits from here on, and tells newcomers these.
    pub(crate) fn set_limits(&mut self, limits: Limits, told: String) {
        let is_set = |limits: &Limits| limits.connections_per_user_max != 0;
        if is_set(&limits) != is_set(&self.limits) && !std::mem::replace(&mut self.orders.has_homes, true) {
            self.orders.waiting.push_back(Waiting::Homes);
        }
        self.limits = limits;
        self.welcome.limits = told;
    }

    /// Goes on with what was ordered, as far as this turn may.
    pub(crate) fn follow_orders(&mut self, turn: &mut Turn<'_>) {
        let mut looks = LOOKS_A_TURN;
        // A crowd of one user leaves half of each turn to the walks, of which one may be a revocation's.
        let for_walks =
            if self.orders.walk.is_some() || !self.orders.waiting.is_empty() { LOOKS_A_TURN / 2 } else { 0 };
        while looks > for_walks
            && let Some(id) = self.orders.replaced.pop_front()
        {
            turn.counters.steps += 1;
            let ended = self.slot_of(id).map_or(0, |slot| self.part_from(slot, Parting::REPLACED, turn));
            looks = looks.saturating_sub(1 + ended);
        }
        while looks > 0
            && let Some(mut walk) = self.orders.walk.take().or_else(|| self.begin_walk())
        {
            while looks > 0 && walk.below > 0 {
                walk.below -= 1;
                turn.counters.steps += 1;
                looks = looks.saturating_sub(1 + self.look_for(&walk, turn));
            }
            if walk.below > 0 {
                self.orders.walk = Some(walk);
            }
        }
    }

    fn begin_walk(&mut self) -> Option<Walk> {
        let orders = &mut self.orders;
        let (below, over) = match orders.waiting.pop_front()? {
            Waiting::Revoked => {
                orders.has_revoked = false;
                if !self.room_tokens.is_empty() {
                    orders.waiting.push_front(Waiting::RevokedInRooms);
                }
                (self.connections.len(), Over::Revoked)
            }
            Waiting::RevokedInRooms => (self.subscriptions.capacity(), Over::RevokedInRooms),
            Waiting::Rights => {
                orders.has_rights = false;
                (self.subscriptions.capacity(), Over::Rights)
            }
            Waiting::Homes => {
                orders.has_homes = false;
                (self.connections.len(), Over::Homes)
            }
            Waiting::Disconnects => {
                let users = std::mem::take(&mut orders.disconnects);
                orders.count -= users.len();
                (self.connections.len(), Over::Disconnects(users))
            }
            Waiting::Kicks(room) => {
                let users = orders.kicks.remove(&room).unwrap_or_default();
                orders.count -= users.len();
                let here = self.room_by_id.get(&room).map(|&here| self.rooms[here as usize].subscriptions.len());
                (here.unwrap_or(0), Over::Kicks(room, users))
            }
        };
        Some(Walk { below, over })
    }

    /// Looks at the walk's place, and says how many more looks it took to end what stood there.
    fn look_for(&mut self, walk: &Walk, turn: &mut Turn<'_>) -> usize {
        match &walk.over {
            Over::Revoked => self.end_if_revoked(walk.below, turn),
            Over::RevokedInRooms => self.end_room_token_if_revoked(walk.below as u32, turn),
            Over::Rights => {
                let is_ended = self.subscriptions.contains(walk.below)
                    && self.judge_reading(walk.below as u32, ErrorCode::Forbidden, turn);
                READING_LOOKS * usize::from(is_ended)
            }
            Over::Homes => {
                self.follow_limit(walk.below, turn);
                0
            }
            Over::Disconnects(users) => {
                let user = self.connections[walk.below].user.as_ref();
                let parting = user.and_then(|user| users.get(user)).copied();
                parting.map_or(0, |parting| self.part_from(walk.below, parting, turn))
            }
            Over::Kicks(room, users) => self.kick_if_of(*room, users, walk.below, turn),
        }
    }

    fn end_if_revoked(&mut self, slot: usize, turn: &mut Turn<'_>) -> usize {
        let session = &self.connections[slot];
        let is_revoked = match (session.proof.as_deref(), &session.user) {
            (Some(proof), _) => self.is_revoked(proof, turn),
            (None, Some(user)) if self.is_guest(slot) => {
                self.orders.revocations.is_user_revoked(user.as_str(), turn.now.unix_ms / 1_000)
            }
            (None, _) => false,
        };
        if is_revoked { self.part_from(slot, Parting::REVOKED, turn) } else { 0 }
    }

    fn end_room_token_if_revoked(&mut self, subscription: u32, turn: &mut Turn<'_>) -> usize {
        let is_revoked = self.room_tokens.of(subscription).is_some_and(|proof| self.is_revoked(proof, turn));
        READING_LOOKS * usize::from(is_revoked && self.end_room_token(subscription, ErrorCode::Revoked, turn))
    }

    fn kick_if_of(&mut self, room: RoomId, users: &FxHashSet<UserName>, at: usize, turn: &mut Turn<'_>) -> usize {
        let Some(&here) = self.room_by_id.get(&room) else { return 0 };
        let Some(&subscription) = self.rooms[here as usize].subscriptions.get(at) else { return 0 };
        let slot = self.subscriptions[subscription as usize].connection as usize;
        if !self.connections[slot].user.as_ref().is_some_and(|user| users.contains(user)) {
            return 0;
        }
        self.end_reading(subscription, ErrorCode::Kicked, turn);
        READING_LOOKS
    }

    /// Ends a connection, and says what that takes, in looks.
    fn part_from(&mut self, slot: usize, parting: Parting, turn: &mut Turn<'_>) -> usize {
        let readings = self.connections[slot].subscriptions.len();
        let error = Some((parting.code, parting.message));
        self.close(self.id_of(slot), error, parting.close_code, parting.code.as_str(), turn);
        CONNECTION_LOOKS + READING_LOOKS * readings
    }

    /// Ends a connection with the answer to its request.
    pub(crate) fn part(&mut self, slot: usize, request: RequestId, parting: Parting, turn: &mut Turn<'_>) {
        self.refuse(slot, request, &parting.refusal(), turn);
        self.close(self.id_of(slot), None, parting.close_code, parting.code.as_str(), turn);
    }
}
