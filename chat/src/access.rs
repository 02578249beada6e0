//! Who a connection is and what it may do: judged tokens, the rights that they and the configuration give, and their end.
//!
//! Where the server asks for a token, `hello` only hands it out ([`Proving`]), since its check takes longer than a turn should;
//! the connection is not read until the verdict is back ([`Proved`]). What it may do in a room is looked up when it joins, and
//! kept with its reading of the room.
//!
//! Invariants:
//! - Without a proof nothing is asked of a room, and no right is there that neither the token nor the configuration gives.
//! - A connection is closed when its token has ended and `grace_ms` is over; from the end on it may only leave and read on.

use std::collections::BTreeSet;
use std::fmt;

use banter_access::grants::{RoomDefaults, Sources};
use banter_access::proof::Proof;
use banter_access::rights::Rights;
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::features::Features;
use banter_protocol::ids::RequestId;

use crate::address::ConnectionId;
use crate::parcel::Refusal;
use crate::rates::Kind;
use crate::session::Stage;
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Tokens that a connection may show at most that are refused: with the last one it is closed.
pub const REFUSED_TOKENS_MAX: u8 = 3;
/// The WebSocket close code of who has no token that holds, or whose token has ended: come back with another.
pub const CLOSE_UNAUTHORIZED: u16 = 4_401;
/// Connections that one turn ends since their tokens have ended: each leaves all of its rooms.
const ENDS_A_TURN: usize = 64;
/// When to try again where nothing can check a token just now, in milliseconds.
const UNAVAILABLE_RETRY_AFTER_MS: u64 = 1_000;

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
}

/// A `hello` whose token is to be judged.
#[derive(Clone, PartialEq, Eq)]
pub struct Proving {
    /// The connection.
    pub connection: ConnectionId,
    /// The client's number for it.
    pub request: RequestId,
    /// The name that it says; empty: the token's.
    pub user: Box<str>,
    /// The token.
    pub token: Box<str>,
    /// What both sides know.
    pub agreed: Features,
}

/// Without the token, so that it can stand in a log.
impl fmt::Debug for Proving {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Proving").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// What became of it.
#[derive(Debug)]
pub struct Proved {
    /// What was asked.
    pub proving: Proving,
    /// The proof, or why there is none.
    pub verdict: Result<Box<Proof>, NotProved>,
}

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotProved {
    /// It is refused; for people, and without anything of the token.
    Refused(String),
    /// It would prove it, and has ended.
    Expired(String),
    /// Nothing could check it.
    Unavailable,
}

/// When the tokens of connections end, the first first.
#[derive(Debug, Default)]
pub struct Ends(BTreeSet<(u64, ConnectionId)>);

impl Ends {
    /// The next connection whose time is over, in milliseconds since 1970.
    fn take_due(&mut self, unix_ms: u64) -> Option<ConnectionId> {
        let &(end_ms, connection) = self.0.first().filter(|(end_ms, _)| *end_ms <= unix_ms)?;
        self.0.remove(&(end_ms, connection));
        Some(connection)
    }
}

impl Sessions {
    /// A `hello` where tokens are asked for: the connection waits for the verdict.
    pub(crate) fn begin_proving(&mut self, slot: usize, proving: Proving, turn: &mut Turn<'_>) {
        self.connections[slot].stage = Stage::Proving;
        self.pause(slot, turn);
        self.actions.prove.push(proving);
    }

    /// Takes the verdict on a token.
    pub fn proved(&mut self, proved: Proved, turn: &mut Turn<'_>) {
        let Proved { proving, verdict } = proved;
        let Some(slot) = self.slot_of(proving.connection) else { return };
        if self.connections[slot].stage != Stage::Proving {
            return;
        }
        self.connections[slot].stage = Stage::Opened;
        let unix_ms = turn.now.unix_ms;
        let is_other = |proof: &Proof| !proving.user.is_empty() && *proving.user != *proof.user().as_str();
        match verdict {
            Ok(proof) if is_other(&proof) => {
                let refusal = Refusal::new(ErrorCode::Unauthorized, "`user` is not the one that the token names");
                self.refuse_token(slot, proving.request, &refusal, turn);
            }
            Ok(proof) => {
                let ends_ms = proof.expires_seconds().saturating_mul(1_000);
                self.greet(
                    slot,
                    proving.request,
                    proof.user().clone(),
                    proving.agreed,
                    Some(ends_ms.saturating_sub(unix_ms)),
                );
                let end = (ends_ms.saturating_add(self.grace_ms()), proving.connection);
                self.ends.0.insert(end);
                self.connections[slot].proof = Some(proof);
            }
            Err(NotProved::Unavailable) => self.refuse(slot, proving.request, &NotProved::Unavailable.refusal(), turn),
            Err(not_proved) => self.refuse_token(slot, proving.request, &not_proved.refusal(), turn),
        }
        self.resume_if_light(slot);
    }

    /// Tells why a token was not taken, and ends the connection with the last one that it may show.
    pub(crate) fn refuse_token(&mut self, slot: usize, request: RequestId, refusal: &Refusal, turn: &mut Turn<'_>) {
        self.refuse(slot, request, refusal, turn);
        let session = &mut self.connections[slot];
        session.tokens_refused += 1;
        if session.tokens_refused >= REFUSED_TOKENS_MAX {
            let id = self.id_of(slot);
            self.close(id, None, CLOSE_UNAUTHORIZED, "no token that holds", turn);
        }
    }

    fn grace_ms(&self) -> u64 {
        match &self.access {
            Access::Open => 0,
            Access::Token(access) => access.leeway_seconds.saturating_mul(1_000).saturating_add(access.grace_ms),
        }
    }

    /// The connection is gone: nobody waits for its token's end.
    pub(crate) fn forget_end(&mut self, slot: usize) {
        if let Some(proof) = &self.connections[slot].proof {
            let ends_ms = proof.expires_seconds().saturating_mul(1_000).saturating_add(self.grace_ms());
            let id = self.id_of(slot);
            self.ends.0.remove(&(ends_ms, id));
        }
    }

    /// Ends connections whose tokens have ended long enough ago.
    pub(crate) fn end_expired(&mut self, turn: &mut Turn<'_>) {
        // Many tokens may end in the same second; the others' turn comes with the next.
        for _ in 0..ENDS_A_TURN {
            let Some(id) = self.ends.take_due(turn.now.unix_ms) else { return };
            turn.counters.steps += 1;
            let error = Some((ErrorCode::Expired, "the token has ended: come back with a new one"));
            self.close(id, error, CLOSE_UNAUTHORIZED, "expired", turn);
        }
    }

    /// When the next token's end is to be looked at, in milliseconds of the turn's clock.
    pub(crate) fn next_end(&self) -> Option<u64> {
        let &(end_ms, _) = self.ends.0.first()?;
        Some(self.now.monotonic_ms + end_ms.saturating_sub(self.now.unix_ms))
    }

    /// Refuses whatever asks something anew with a token that has ended.
    pub(crate) fn refuse_if_expired(&self, slot: usize, turn: &Turn<'_>) -> Result<(), Refusal> {
        let Access::Token(access) = &self.access else { return Ok(()) };
        let proof = self.connections[slot].proof.as_deref();
        if proof.is_none_or(|proof| proof.is_expired(turn.now.unix_ms / 1_000, access.leeway_seconds)) {
            return Err(Refusal::new(ErrorCode::Expired, "the token has ended: come back with a new one"));
        }
        Ok(())
    }

    /// What the connection may do in a room.
    pub(crate) fn rights_in(&self, slot: usize, room: &str) -> Rights {
        let Access::Token(access) = &self.access else { return Rights::ALL };
        let Some(proof) = self.connections[slot].proof.as_deref() else { return Rights::NONE };
        let room_default = access.defaults.rights(room, proof.user().as_str());
        Sources { token: proof.rights(room), room_default, ..Sources::default() }.effective()
    }

    /// How many requests of a kind a connection may send a second, and the name of what says so; 0 = no limit.
    pub(crate) fn rate_of(&self, slot: usize, kind: Kind) -> (&'static str, u32) {
        let (name, rate) = kind.limit(&self.limits);
        let of_token = self.connections[slot].proof.as_deref().and_then(Proof::posts_per_second).map(u32::from);
        match of_token {
            Some(posts) if kind == Kind::Post && (rate == 0 || posts < rate) => {
                ("posts_per_second of the token", posts)
            }
            _ => (name, rate),
        }
    }
}

impl NotProved {
    fn refusal(&self) -> Refusal {
        match self {
            NotProved::Refused(why) => Refusal::new(ErrorCode::Unauthorized, why.clone()),
            NotProved::Expired(why) => Refusal::new(ErrorCode::Expired, why.clone()),
            NotProved::Unavailable => Refusal {
                code: ErrorCode::Unavailable,
                message: "no token can be checked just now".into(),
                retry_after_ms: Some(UNAVAILABLE_RETRY_AFTER_MS),
                scope: Some(Scope::Server),
            },
        }
    }
}

/// That the rights hold what an ask needs.
pub(crate) fn must_have(rights: Rights, needed: Rights) -> Result<(), Refusal> {
    if rights.contains(needed) {
        return Ok(());
    }
    let lacking = needed.minus(rights);
    let message = format!("this takes `{lacking}` in this room, which neither your token nor the server gives you");
    Err(Refusal::new(ErrorCode::Forbidden, message))
}
