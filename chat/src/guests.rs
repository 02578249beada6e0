//! Guests: connections that showed no token and have a name of the server's, where it lets them in.
//!
//! Invariants:
//! - A guest has no proof, and so no right that the configuration does not give guests, and none once they are not let in any
//!   more.
//! - What it is called was made for this connection: nobody else is called so, and it is called so by nothing that it says. It
//!   takes no token, since it would become somebody else.
//! - It costs what a connection with a proof costs, without the proof.

use banter_access::guest::{GuestSeed, is_guest};
use banter_access::limit::Limit;
use banter_access::rights::Rights;
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::features::Features;
use banter_protocol::ids::RequestId;

use crate::access::Access;
use crate::parcel::Refusal;
use crate::sessions::Sessions;
use crate::turn::Turn;

/// The WebSocket close code of whom a full server does not take: come back later.
const CLOSE_FULL: u16 = 1_013;
/// When a guest that found no place is to try again, in milliseconds: nobody knows when one goes.
const FULL_RETRY_AFTER_MS: u64 = 5_000;

impl Sessions {
    /// Whether the connection came in as a guest.
    pub(crate) fn is_guest(&self, slot: usize) -> bool {
        let session = &self.connections[slot];
        session.proof.is_none() && session.user.is_some() && matches!(self.access, Access::Token(_))
    }

    /// What a connection without a proof may do in a room.
    pub(crate) fn guest_rights(&self, slot: usize, room: &str) -> Rights {
        let Access::Token(access) = &self.access else { return Rights::NONE };
        let user = self.connections[slot].user.as_ref().filter(|user| is_guest(user.as_str()));
        match user {
            Some(user) if access.guests.is_some() => access.defaults.rights(room, user.as_str()),
            _ => Rights::NONE,
        }
    }

    /// A `hello` that names nobody and shows nothing.
    pub(crate) fn hello_of_guest(
        &mut self,
        slot: usize,
        request: RequestId,
        seed: GuestSeed,
        agreed: Features,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        // This core's share, rounded up.
        let guests_max = self.limits.guests_max.div_ceil(self.placement.cores().into());
        let is_full = guests_max != 0 && self.guests >= guests_max;
        if is_full && turn.counters.limits.refuses(Limit::Guests, self.limits.dry_run) {
            self.refuse(slot, request, &full(), turn);
            self.close(self.id_of(slot), None, CLOSE_FULL, "guests_max is reached", turn);
            return Ok(());
        }
        let (core, place) = (u128::from(self.own.0), slot as u128);
        let number = core << 64 | place << 32 | u128::from(self.connections[slot].generation);
        let named = seed.name(number);
        let user = named.map_err(|fault| Refusal::new(ErrorCode::Unavailable, fault.to_string()))?;
        self.greet(slot, request, user, (agreed, None), turn);
        self.guests += 1;
        Ok(())
    }

    /// A connection is no more.
    pub(crate) fn forget_guest(&mut self, slot: usize) {
        if self.is_guest(slot) {
            self.guests = self.guests.saturating_sub(1);
        }
    }
}

/// What a guest is told that shows a token behind its `hello`.
pub(crate) fn has_no_token() -> Refusal {
    let message = "a guest goes by no token, which would make it somebody else: come back, and say `hello` with it";
    Refusal::new(ErrorCode::Forbidden, message)
}

fn full() -> Refusal {
    Refusal {
        code: ErrorCode::Overloaded,
        message: "guests_max is reached: come back later, or with a token".into(),
        retry_after_ms: Some(FULL_RETRY_AFTER_MS),
        scope: Some(Scope::Server),
        reason: None,
    }
}
