//! What the session makes of refusals: which pass by themselves and are tried again, and which are told.

use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::ids::{RequestId, RoomName};

use super::incoming::Lost;
use super::{Asked, Session};
use crate::asks::AskId;
use crate::event::{Event, Refused, Why};
use crate::posts::Ticket;
use crate::room::{Room, State};

/// What an `error` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal<'a> {
    /// None: one that only a later server knows.
    pub(super) code: Option<ErrorCode>,
    /// For people.
    pub(super) message: &'a str,
    /// When to try again, where that helps.
    pub(super) retry_after: Option<Duration>,
    /// A program's word for why.
    pub(super) reason: Option<&'a str>,
}

impl<'a> Refusal<'a> {
    pub(super) fn new(code: Option<ErrorCode>, message: &'a str, retry_after_ms: Option<u64>) -> Self {
        Refusal { code, message, retry_after: retry_after_ms.map(Duration::from_millis), reason: None }
    }

    /// With a program's word for why.
    pub(super) fn because(self, reason: Option<&'a str>) -> Self {
        Refusal { reason, ..self }
    }

    /// Whether it passes by itself, so that asking again makes sense.
    pub(super) fn passes(&self) -> bool {
        use ErrorCode::{Draining, LogFailed, LogFull, Overloaded, RateLimited, Unavailable};
        match self.code {
            Some(code) => matches!(code, RateLimited | Overloaded | LogFull | LogFailed | Draining | Unavailable),
            // The server says when to ask again, whatever it is about.
            None => self.retry_after.is_some(),
        }
    }
}

impl Session {
    pub(super) fn handle_refusal(&mut self, now: Duration, id: RequestId, refusal: &Refusal<'_>) -> Result<(), Lost> {
        let Some(id) = id else {
            // The node serves no longer, and sends everybody away.
            if refusal.code == Some(ErrorCode::Unavailable) {
                return Err(self.go_elsewhere(refusal));
            }
            // It concerns the stream, which the server closes next.
            self.tell_refused(Refused::Session, refusal);
            // The next connection's `hello` would show what does not hold any more, or would end the user's next one, which comes
            // back and ends this one.
            let is_final = matches!(refusal.code, Some(ErrorCode::Revoked | ErrorCode::Replaced));
            return if is_final { Err(Why::Refused) } else { Ok(()) };
        };
        match self.asked.remove(&id) {
            Some(Asked::Hello) => return Err(self.refuse_hello(refusal)),
            Some(Asked::Join(name)) => self.handle_join_refused(now, name, refusal),
            Some(Asked::Post(name, ticket)) => self.handle_post_refused(now, &name, ticket, refusal),
            Some(Asked::Renew(before)) => self.handle_renewal_refused(before, refusal),
            Some(Asked::Leave) => {} // The server had taken the session out of the room already.
            None if self.put_off_ask(now, AskId(id), refusal) => {}
            None if self.asks.remove(AskId(id)) => self.tell_refused(Refused::Ask(AskId(id)), refusal),
            None => self.tell_refused(Refused::Other, refusal),
        }
        Ok(())
    }

    /// Nothing can be done on this connection. A code that is unknown does not say that the next will be refused too.
    fn refuse_hello(&mut self, refusal: &Refusal<'_>) -> Lost {
        if !refusal.passes() {
            self.tell_refused(Refused::Session, refusal);
            if refusal.code.is_some() {
                return Why::Refused;
            }
        }
        self.go_elsewhere(refusal)
    }

    /// This connection is worth nothing; the server may say when the next one to it is.
    fn go_elsewhere(&mut self, refusal: &Refusal<'_>) -> Lost {
        self.retry_here_after = refusal.retry_after;
        let code = refusal.code.map_or("refused", ErrorCode::as_str);
        Why::Closed(format!("{code}: {}", refusal.message))
    }

    fn handle_join_refused(&mut self, now: Duration, name: RoomName, refusal: &Refusal<'_>) {
        match refusal.code {
            Some(code @ (ErrorCode::WrongEpoch | ErrorCode::CursorAhead)) => {
                match self.rooms.get_mut(&name).and_then(Room::lose_history) {
                    Some(cursor) => {
                        self.events.push_back(Event::HistoryLost { room: name.clone(), cursor, code });
                        self.ask_to_join(&name);
                    }
                    None => self.refuse_join(name, refusal), // No cursor was sent: a puzzling server.
                }
            }
            _ if refusal.passes() => {
                if let Some(room) = self.rooms.get_mut(&name) {
                    room.state = State::Wanted;
                }
                self.hold(now, &name, refusal);
            }
            _ => self.refuse_join(name, refusal),
        }
    }

    fn handle_post_refused(&mut self, now: Duration, name: &RoomName, ticket: Ticket, refusal: &Refusal<'_>) {
        if !refusal.passes() {
            self.refuse_post(name, ticket, refusal);
            return self.send_posts(name);
        }
        if !self.posts.take_back(name, ticket) {
            return; // The room was left meanwhile.
        }
        self.hold(now, name, refusal);
        if refusal.code == Some(ErrorCode::LogFailed) && self.posts.postpone(name, ticket) {
            let (room, message) = (name.clone(), refusal.message.to_owned());
            self.events.push_back(Event::Postponed { ticket, room, message });
        }
    }

    /// The server cannot take it now: the room waits, so that no younger post overtakes it.
    fn hold(&mut self, now: Duration, name: &RoomName, refusal: &Refusal<'_>) {
        let least = match refusal.code {
            Some(ErrorCode::LogFailed) => self.options.log_failed_retry,
            _ => Duration::ZERO,
        };
        let jitter = self.random.up_to(self.options.reconnect_first);
        let until = now + refusal.retry_after.unwrap_or_default().max(least) + jitter;
        if let Some(room) = self.rooms.get_mut(name) {
            room.hold_until = Some(room.hold_until.map_or(until, |known| known.max(until)));
        }
    }

    fn refuse_join(&mut self, name: RoomName, refusal: &Refusal<'_>) {
        self.rooms.remove(&name);
        self.refuse_posts_of(&name, refusal);
        self.tell_refused(Refused::Join(name), refusal);
    }

    fn refuse_post(&mut self, name: &RoomName, ticket: Ticket, refusal: &Refusal<'_>) {
        if self.posts.remove(name, ticket) {
            self.tell_refused(Refused::Post(ticket), refusal);
        }
    }

    pub(super) fn refuse_posts_of(&mut self, name: &RoomName, refusal: &Refusal<'_>) {
        for ticket in self.posts.tickets_of(name) {
            self.refuse_post(name, ticket, refusal);
        }
    }

    /// The server would close the connection over it, and over the next one again.
    pub(super) fn refuse_as_too_large(&mut self, name: &RoomName, ticket: Ticket) {
        let message = format!("a post may have {} bytes (frame_bytes_max)", self.server_frame_bytes_max);
        self.refuse_post(name, ticket, &Refusal::new(Some(ErrorCode::FrameTooLarge), &message, None));
    }

    pub(super) fn tell_refused(&mut self, what: Refused, refusal: &Refusal<'_>) {
        let Refusal { code, message, retry_after, reason } = *refusal;
        let (message, reason) = (message.to_owned(), reason.map(str::to_owned));
        self.events.push_back(Event::Refused { what, code, message, retry_after, reason });
    }
}
