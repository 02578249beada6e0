//! What a connection may do: the rights that its token and the configuration give, and their end.
//!
//! What it may do in a room is looked up when it joins, kept with its reading of the room, and looked up again when its token or
//! the configuration changes (`removing.rs`). How a token is judged: `proving.rs`.
//!
//! Invariants:
//! - Without a proof only guests (`guests.rs`) ask anything of a room, and no right is there that neither the token nor the
//!   configuration gives.
//! - A connection is told once of each token that it ends soon.
//! - A connection is closed when its token has ended and `grace_ms` is over; from the end on it may only leave and read on.

use std::collections::BTreeSet;

use banter_access::grants::{RoomDefaults, Sources};
use banter_access::guest::GuestSeed;
use banter_access::limit::Limit;
use banter_access::proof::Proof;
use banter_access::rights::Rights;
use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event;

use crate::address::ConnectionId;
use crate::parcel::Refusal;
use crate::rates::Kind;
use crate::sessions::Sessions;
use crate::turn::{ENDS_A_TURN, Turn};

/// The WebSocket close code of who has no token that holds, or whose token has ended: come back with another.
pub const CLOSE_UNAUTHORIZED: u16 = 4_401;
/// How long before its token's end a connection is told, in milliseconds.
const EXPIRING_MS: u64 = 60_000;

/// Whether connections prove who they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Access {
    /// A user is who it says, and every room is everybody's.
    #[default]
    Open,
    /// A user is who its token says, and has the rights that the token and these give.
    Token(TokenAccess),
}

/// What holds where tokens are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenAccess {
    /// What the configuration gives by names of rooms.
    pub defaults: RoomDefaults,
    /// By how much clocks may differ, in seconds.
    pub leeway_seconds: u64,
    /// Milliseconds from the end of a token to that of its connection.
    pub grace_ms: u64,
    /// What the names of guests are made from; none: nobody comes in without a token, and guests who are there have no right.
    pub guests: Option<GuestSeed>,
}

/// When the tokens of connections end, in milliseconds since 1970, the first first.
///
/// Invariant: a connection with a proof stands in one of the two, and no other does.
#[derive(Debug, Default)]
pub struct Ends {
    /// When each is to be told that its token ends soon.
    untold: BTreeSet<(u64, ConnectionId)>,
    /// When the token of each that was told ends.
    told: BTreeSet<(u64, ConnectionId)>,
}

impl Ends {
    /// The connection goes by that proof from here on.
    pub(crate) fn set(&mut self, proof: &Proof, connection: ConnectionId) {
        self.untold.insert((expiring_ms(proof), connection));
    }

    fn remove(&mut self, proof: &Proof, connection: ConnectionId) {
        if !self.untold.remove(&(expiring_ms(proof), connection)) {
            self.told.remove(&(ends_ms(proof), connection));
        }
    }
}

/// Takes the first whose time is over.
fn take_due(dues: &mut BTreeSet<(u64, ConnectionId)>, unix_ms: u64) -> Option<ConnectionId> {
    let &(due_ms, connection) = dues.first().filter(|(due_ms, _)| *due_ms <= unix_ms)?;
    dues.remove(&(due_ms, connection));
    Some(connection)
}

/// When the token ends, without leeway, in milliseconds since 1970.
pub(crate) fn ends_ms(proof: &Proof) -> u64 {
    proof.expires_seconds().saturating_mul(1_000)
}

/// When a connection is told that its token ends soon: [`EXPIRING_MS`] before, or behind half of its lifetime, whichever is
/// later. So short tokens are not renewed as soon as they came.
fn expiring_ms(proof: &Proof) -> u64 {
    let half_ms = (ends_ms(proof) + proof.issued_seconds().saturating_mul(1_000)) / 2;
    ends_ms(proof).saturating_sub(EXPIRING_MS).max(half_ms)
}

impl Sessions {
    fn grace_ms(&self) -> u64 {
        match &self.access {
            Access::Open => 0,
            Access::Token(access) => access.leeway_seconds.saturating_mul(1_000).saturating_add(access.grace_ms),
        }
    }

    /// Nobody waits for the end of the connection's token any more.
    pub(crate) fn forget_end(&mut self, slot: usize) {
        if let Some(proof) = &self.connections[slot].proof {
            self.ends.remove(proof, self.id_of(slot));
        }
    }

    /// Tells connections whose tokens end soon, and ends those whose tokens have ended long enough ago.
    pub(crate) fn end_expired(&mut self, turn: &mut Turn<'_>) {
        let (unix_ms, grace_ms) = (turn.now.unix_ms, self.grace_ms());
        // Many tokens may end in the same second; the others' turn comes with the next.
        for _ in 0..ENDS_A_TURN {
            if let Some(id) = take_due(&mut self.ends.untold, unix_ms) {
                self.tell_expiring(id, unix_ms);
            } else if let Some(id) = take_due(&mut self.ends.told, unix_ms.saturating_sub(grace_ms)) {
                let error = Some((ErrorCode::Expired, "the token has ended: come back with a new one"));
                self.close(id, error, CLOSE_UNAUTHORIZED, "expired", turn);
            } else {
                return;
            }
            turn.counters.steps += 1;
        }
    }

    fn tell_expiring(&mut self, id: ConnectionId, unix_ms: u64) {
        let Some(slot) = self.slot_of(id) else { return };
        let Some(ends_ms) = self.connections[slot].proof.as_deref().map(ends_ms) else { return };
        self.ends.told.insert((ends_ms, id));
        if self.connections[slot].is_open() {
            self.connections[slot].write(&Event::Expiring { in_ms: ends_ms.saturating_sub(unix_ms) });
            self.mark_ready(slot);
        }
    }

    /// When the next token's end is to be told or looked at, in milliseconds of the turn's clock.
    pub(crate) fn next_end(&self) -> Option<u64> {
        let untold = self.ends.untold.first().map(|(due_ms, _)| *due_ms);
        let told = self.ends.told.first().map(|(ends_ms, _)| ends_ms.saturating_add(self.grace_ms()));
        let due_ms = untold.into_iter().chain(told).chain(self.next_room_end_ms()).min()?;
        Some(self.now.monotonic_ms + due_ms.saturating_sub(self.now.unix_ms))
    }

    /// Refuses whatever asks something anew with a token that has ended.
    pub(crate) fn refuse_if_expired(&self, slot: usize, turn: &Turn<'_>) -> Result<(), Refusal> {
        let Access::Token(access) = &self.access else { return Ok(()) };
        if self.is_guest(slot) {
            return Ok(());
        }
        let proof = self.connections[slot].proof.as_deref();
        if proof.is_none_or(|proof| proof.is_expired(turn.now.unix_ms / 1_000, access.leeway_seconds)) {
            return Err(Refusal::new(ErrorCode::Expired, "the token has ended: come back with a new one"));
        }
        Ok(())
    }

    /// What the connection may do in a room.
    pub(crate) fn rights_in(&self, slot: usize, room: &str) -> Rights {
        self.rights_with(slot, room, self.room_token_rights(slot, room))
    }

    /// The same, if the token for the room gave that.
    pub(crate) fn rights_with(&self, slot: usize, room: &str, room_token: Rights) -> Rights {
        let Access::Token(access) = &self.access else { return Rights::ALL };
        let Some(proof) = self.connections[slot].proof.as_deref() else { return self.guest_rights(slot, room) };
        let room_default = access.defaults.rights(room, proof.user().as_str());
        Sources { token: proof.rights(room), room_default, room_token, ..Sources::default() }.effective()
    }

    /// How many requests of a kind a connection may send a second, and the name of what says so; 0 = no limit.
    pub(crate) fn rate_of(&self, slot: usize, kind: Kind) -> (&'static str, u32) {
        let (name, rate) = (Limit::from(kind).name(), kind.limit(&self.limits));
        let of_token = self.connections[slot].proof.as_deref().and_then(Proof::posts_per_second).map(u32::from);
        match of_token {
            Some(posts) if kind == Kind::Post && (rate == 0 || posts < rate) => {
                ("posts_per_second of the token", posts)
            }
            _ => (name, rate),
        }
    }
}

/// That the rights hold what an ask needs.
pub(crate) fn must_have(rights: Rights, needed: Rights) -> Result<(), Refusal> {
    if rights.contains(needed) {
        return Ok(());
    }
    Err(lacks(needed.minus(rights)))
}

/// That a right is missing.
pub(crate) fn lacks(lacking: Rights) -> Refusal {
    let message = format!("this takes `{lacking}` in this room, which neither a token nor the configuration gives you");
    Refusal::new(ErrorCode::Forbidden, message)
}
