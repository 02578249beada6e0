//! Tokens on their way: what waits for a verdict, and what a verdict changes.
//!
//! Where the server asks for a token, `hello` only hands it out ([`Proving`]), since its check takes longer than a turn should;
//! the connection is not read until the verdict is back ([`Proved`]). So it is with a token that renews the first one, and with
//! one for a single room; all that the connection reads goes on meanwhile.
//!
//! Invariants:
//! - A connection has at most one token that is being judged.
//! - A verdict is judged by every revocation that was told until then: none slips in while its token is judged.
//! - A token that does not hold, or is another user's, changes nothing of what the one before it gives.

use std::fmt;
use std::sync::Arc;

use banter_access::proof::Proof;
use banter_access::rights::Rights;
use banter_access::token::{self, TOKEN_BYTES_MAX};
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::event::Event;
use banter_protocol::features::Features;
use banter_protocol::ids::{RequestId, RoomName};
use banter_protocol::request::JoinFrom;

use crate::access::CLOSE_UNAUTHORIZED;
use crate::address::ConnectionId;
use crate::orders::Parting;
use crate::parcel::Refusal;
use crate::session::Stage;
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Tokens that a connection may show at most that are refused, since the last that held: with the last one it is closed.
pub const REFUSED_TOKENS_MAX: u8 = 3;
/// When to try again where nothing can check a token just now, in milliseconds.
const UNAVAILABLE_RETRY_AFTER_MS: u64 = 1_000;

/// A token that is to be judged, and for what.
#[derive(Clone, PartialEq, Eq)]
pub struct Proving {
    /// The connection.
    pub connection: ConnectionId,
    /// The client's number for the request that brought it.
    pub request: RequestId,
    /// The token.
    pub token: Box<str>,
    /// What it is to prove.
    pub purpose: Purpose,
}

/// What a token is to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Who the connection is.
    Hello {
        /// The name that it says; empty: the token's.
        user: Box<str>,
        /// What both sides know.
        agreed: Features,
    },
    /// That it is still the same.
    Renew,
    /// What it may do in one room.
    Join(Box<JoinWish>),
}

/// What a `join` asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinWish {
    /// The room.
    pub room: RoomName,
    /// Where to start.
    pub from: JoinFrom,
    /// Whether the connection wants its own posts.
    pub echo: bool,
    /// Whether it wants to hear who comes and goes.
    pub presence: bool,
}

impl JoinWish {
    /// The rights that it takes.
    pub(crate) fn needs(&self) -> Rights {
        join_needs(self.from, self.presence)
    }
}

/// The rights that it takes to read a room from a place on.
pub(crate) fn join_needs(from: JoinFrom, presence: bool) -> Rights {
    let history = if matches!(from, JoinFrom::Last(1..)) { Rights::HISTORY } else { Rights::NONE };
    let presence = if presence { Rights::PRESENCE } else { Rights::NONE };
    Rights::READ | history | presence
}

impl Purpose {
    /// Where a connection stands while its token is judged, and where behind that.
    fn stages(&self) -> (Stage, Stage) {
        match self {
            Purpose::Hello { .. } => (Stage::Proving, Stage::Opened),
            Purpose::Renew | Purpose::Join(_) => (Stage::Reproving, Stage::Greeted),
        }
    }
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
    pub verdict: Result<Arc<Proof>, NotProved>,
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
                reason: None,
            },
        }
    }
}

/// That what waits to be judged is bounded by what a token may be.
pub(crate) fn must_be_short(token: &str) -> Result<(), Refusal> {
    if token.len() <= TOKEN_BYTES_MAX {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::Unauthorized, token::Refusal::TooLong.to_string()))
}

impl Sessions {
    /// Hands a token out: the connection waits for the verdict.
    pub(crate) fn begin_proving(
        &mut self,
        slot: usize,
        request: RequestId,
        token: &str,
        purpose: Purpose,
        turn: &mut Turn<'_>,
    ) {
        (self.connections[slot].stage, _) = purpose.stages();
        self.pause(slot, turn);
        let (connection, token) = (self.id_of(slot), token.into());
        self.actions.prove.push(Proving { connection, request, token, purpose });
    }

    /// Takes the verdict on a token.
    pub fn proved(&mut self, proved: Proved, turn: &mut Turn<'_>) {
        let Proved { proving, verdict } = proved;
        let Some(slot) = self.slot_of(proving.connection) else { return };
        let (awaited, behind) = proving.purpose.stages();
        if self.connections[slot].stage != awaited {
            return;
        }
        self.connections[slot].stage = behind;
        match verdict {
            Ok(proof) => self.take_proof(slot, proving, proof, turn),
            Err(NotProved::Unavailable) => self.refuse(slot, proving.request, &NotProved::Unavailable.refusal(), turn),
            Err(not_proved) => self.refuse_token(slot, proving.request, &not_proved.refusal(), turn),
        }
        self.resume_if_light(slot);
    }

    fn take_proof(&mut self, slot: usize, proving: Proving, proof: Arc<Proof>, turn: &mut Turn<'_>) {
        let (request, is_revoked) = (proving.request, self.is_revoked(&proof, turn));
        match proving.purpose {
            // What the connection itself goes by may hold all the same.
            Purpose::Join(_) if is_revoked => self.refuse_token(slot, request, &Parting::REVOKED.refusal(), turn),
            Purpose::Join(wish) => self.take_room_token(slot, request, &wish, proof, turn),
            _ if is_revoked => self.part(slot, request, Parting::REVOKED, turn),
            Purpose::Hello { user, agreed } => self.take_hello(slot, request, (&user, agreed), proof, turn),
            Purpose::Renew => self.take_renewal(slot, request, proof, turn),
        }
    }

    fn take_room_token(
        &mut self,
        slot: usize,
        request: RequestId,
        wish: &JoinWish,
        proof: Arc<Proof>,
        turn: &mut Turn<'_>,
    ) {
        if self.connections[slot].user.as_ref() != Some(proof.user()) {
            return self.refuse_token(slot, request, &other_user(), turn);
        }
        self.connections[slot].tokens_refused = 0;
        if let Err(refusal) = self.join(slot, request, wish, Some(proof), turn) {
            self.refuse(slot, request, &refusal, turn);
        }
    }

    fn take_hello(
        &mut self,
        slot: usize,
        request: RequestId,
        (user, agreed): (&str, Features),
        proof: Arc<Proof>,
        turn: &mut Turn<'_>,
    ) {
        if !user.is_empty() && *user != *proof.user().as_str() {
            let refusal = Refusal::new(ErrorCode::Unauthorized, "`user` is not the one that the token names");
            return self.refuse_token(slot, request, &refusal, turn);
        }
        let (user, expires_in_ms) = (proof.user().clone(), expires_in_ms(&proof, turn));
        self.greet(slot, request, user, (agreed, Some(expires_in_ms)), turn);
        self.keep_proof(slot, proof);
    }

    /// From here on the new token's rights hold, and what was read by the old one's alone is read no longer.
    fn take_renewal(&mut self, slot: usize, request: RequestId, proof: Arc<Proof>, turn: &mut Turn<'_>) {
        if self.connections[slot].user.as_ref() != Some(proof.user()) {
            return self.refuse_token(slot, request, &other_user(), turn);
        }
        let expires_in_ms = expires_in_ms(&proof, turn);
        self.forget_end(slot);
        self.keep_proof(slot, proof);
        self.connections[slot].write(&Event::Renewed { id: request, expires_in_ms });
        self.mark_ready(slot);
        self.judge_readings(slot, turn);
    }

    fn keep_proof(&mut self, slot: usize, proof: Arc<Proof>) {
        let id = self.id_of(slot);
        self.ends.set(&proof, id);
        let session = &mut self.connections[slot];
        session.proof = Some(proof);
        session.tokens_refused = 0;
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
}

fn other_user() -> Refusal {
    Refusal::new(ErrorCode::Forbidden, "the token is another user's than the connection: nothing has changed")
}

fn expires_in_ms(proof: &Proof, turn: &Turn<'_>) -> u64 {
    proof.expires_seconds().saturating_mul(1_000).saturating_sub(turn.now.unix_ms)
}
