//! Ends those who are there and whose addresses are revoked.
//!
//! Invariants:
//! - A connection from a revoked address is ended by the walk that begins with its revocation, or it came behind that and was
//!   judged: none slips in between. One that was judged is told why as soon as it says how, and the walk leaves it to that.
//! - A turn ends at most [`ENDS_A_TURN`].

use banter_access::revocation::{Revocation, RevocationsFull, Subject};
use banter_chat::orders::CLOSE_REVOKED;
use banter_chat::shard::{Input, Shard};
use banter_chat::turn::ENDS_A_TURN;
use banter_protocol::error_code::ErrorCode;

use super::{Connections, Stage};
use crate::core::http;
use crate::core::net::Net;

impl Connections {
    /// A range of addresses was revoked: who comes from there is refused from here on, and who is there is ended in this turn and
    /// the next ones. Says whether it is new. What revokes something else is none of this table's, and changes nothing.
    ///
    /// # Errors
    /// When there are as many revocations as there may be.
    pub fn revoke(&mut self, revocation: &Revocation) -> Result<bool, RevocationsFull> {
        match revocation.subject() {
            Subject::Address(_) => self.arrivals.revoke(revocation),
            Subject::User(_) | Subject::Session(_) | Subject::Token(_) => Ok(false),
        }
    }

    /// Takes back every revocation of exactly that range, and says how many there were. Who was ended by it may come back.
    pub fn lift(&mut self, subject: &Subject) -> usize {
        self.arrivals.blocked_mut().lift(subject)
    }

    /// Looks at the next of those who are there, and ends them whose address is revoked.
    pub(super) fn end_blocked(&mut self, shard: &mut Shard, net: &mut Net) {
        let slots = self.table.len() as u32;
        let Some(range) = self.arrivals.blocked_mut().next_slots(slots) else { return };
        let (mut until, mut ends_left) = (range.start, ENDS_A_TURN);
        for slot in range {
            if ends_left == 0 {
                break;
            }
            until = slot + 1;
            if self.is_blocked(slot) {
                ends_left -= 1;
                self.end_revoked(slot, shard, net);
            }
        }
        self.arrivals.blocked_mut().looked(until, slots);
    }

    fn is_blocked(&self, slot: u32) -> bool {
        let ends = matches!(self.stage(slot), Stage::Free | Stage::LastWords | Stage::Lingering | Stage::Closing);
        let is_turned_away = self.arrivals.unwelcome(slot).is_some();
        !ends && !is_turned_away && self.arrivals.is_blocked(self.address_of(slot))
    }

    fn end_revoked(&mut self, slot: u32, shard: &mut Shard, net: &mut Net) {
        self.counters.revoked_connections += 1;
        if self.stage(slot) != Stage::Open {
            return self.close(slot, net);
        }
        let error = Some((ErrorCode::Revoked, http::REVOKED));
        shard.handle(self.id(slot), Input::Close { error, close_code: CLOSE_REVOKED, reason: "revoked" });
    }
}
