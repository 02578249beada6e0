//! What the session does about its token, and about rooms that the server takes it out of.

use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::ids::RequestId;
use banter_protocol::request::Ask;

use super::refusals::Refusal;
use super::{Asked, LinkState, Session};
use crate::event::{Event, Refused};
use crate::room::State;

impl Session {
    /// Goes on with another token of the same user: on this connection, if there is one, and with every later `hello`.
    /// [`Event::Renewed`] answers it, or [`Event::Refused`] with [`Refused::Renew`]: then the token before it is the one that
    /// holds, unless the refusal says when to try again.
    pub fn renew(&mut self, token: String) {
        let before = self.options.token.replace(token.clone());
        if matches!(self.link, LinkState::Open { .. }) {
            let id = self.number(Asked::Renew(before));
            self.send(id, Ask::Renew { token: token.into() });
        }
    }

    pub(super) fn handle_renewed(&mut self, id: RequestId, expires_in_ms: u64) {
        if let Some(Asked::Renew(_)) = id.and_then(|id| self.asked.remove(&id)) {
            self.events.push_back(Event::Renewed { expires_in: Duration::from_millis(expires_in_ms) });
        }
    }

    pub(super) fn handle_renewal_refused(&mut self, before: Option<String>, refusal: &Refusal<'_>) {
        if !refusal.passes() {
            self.options.token = before;
        }
        self.tell_refused(Refused::Renew, refusal);
    }

    /// The server reads the room to this session no longer.
    pub(super) fn handle_removed(&mut self, room: &str, code: Option<ErrorCode>) {
        // A room that is asked for anew since then has its own answer to come.
        if self.rooms.get(room).is_none_or(|room| room.state != State::Joined) {
            return;
        }
        let Some((name, removed)) = self.rooms.remove_entry(room) else { return };
        let message = "the server ended the reading of the room before the acknowledgement came";
        self.refuse_posts_of(&name, &Refusal { code, message, retry_after: None, reason: None });
        self.events.push_back(Event::Removed { room: name, code, cursor: removed.cursor });
    }
}
