//! What the session makes of the server's bytes.

use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::{Event as Said, Message as SaidMessage};
use banter_protocol::frame::FrameReader;
use banter_protocol::ids::{Cursor, Epoch, RequestId, RoomName, Sequence};
use banter_protocol::native;
use banter_protocol::request::Ask;

use super::{Asked, LinkState, Session};
use crate::event::{Event, Message, Posted, Refused, Why};
use crate::posts::Ticket;
use crate::room::{Place, Room, State};

/// Why handling stops: the connection is lost from here on.
type Lost = Why;

impl Session {
    /// Bytes came.
    pub fn handle_bytes(&mut self, now: Duration, mut bytes: &[u8]) {
        if !matches!(self.link, LinkState::Greeting { .. } | LinkState::Open { .. }) {
            return; // They were on their way when the connection was given up.
        }
        self.heard_at = now;
        self.is_pinged = false;
        // Taken out, for a frame is borrowed from it while the session changes.
        let mut reader = std::mem::replace(&mut self.reader, FrameReader::new(0));
        while !bytes.is_empty() {
            let handled = match reader.read(bytes) {
                Ok((used, frame)) => {
                    bytes = &bytes[used..];
                    match frame.map(native::read_event).transpose() {
                        Ok(None) => Ok(()),
                        Ok(Some(event)) => self.handle_event(now, event),
                        Err(fault) => Err(Why::Bytes(fault)),
                    }
                }
                Err(fault) => Err(Why::Bytes(fault)),
            };
            if let Err(why) = handled {
                let again = (why != Why::Refused).then_some(now);
                return self.lose_link(again, why);
            }
        }
        self.reader = reader;
    }

    fn handle_event(&mut self, now: Duration, event: Said<'_>) -> Result<(), Lost> {
        match event {
            Said::Welcome { session, limits, durability, .. } => self.handle_welcome(now, session, limits, durability),
            Said::Joined { id, epoch, sequence, members, durability, .. } => {
                return self.handle_joined(id, Cursor { epoch, sequence }, members, durability);
            }
            Said::Posted { id, epoch, sequence, time_ms, duplicate, .. } => {
                self.handle_posted(id, Cursor { epoch, sequence }, time_ms, duplicate);
            }
            Said::Message(message) => return self.handle_message(&message),
            Said::Gap { room, epoch, from, to } => return self.handle_gap(room, epoch, from, to),
            Said::Signal { room, user, body } => {
                if let Some((name, _)) = self.rooms.get_key_value(room) {
                    let (room, user) = (name.clone(), user.to_owned());
                    self.events.push_back(Event::Signal { room, user, body: body.into() });
                }
            }
            Said::Presence { room, change, count } => {
                if let Some((name, _)) = self.rooms.get_key_value(room) {
                    let change = change.map(|(user, state)| (user.to_owned(), state));
                    self.events.push_back(Event::Presence { room: name.clone(), change, count });
                }
            }
            Said::Closing { reconnect_after_ms, .. } => {
                self.advised_wait = Some(Duration::from_millis(reconnect_after_ms));
            }
            Said::Error { id, code, message, retry_after_ms, .. } => {
                return self.handle_error(now, id, code, message, retry_after_ms.map(Duration::from_millis));
            }
            Said::KeepAlive => self.send(None, Ask::Ping),
            // Answers to what this session does not ask, or needs no answer to.
            Said::Page { .. } | Said::Members { .. } | Said::Left { .. } | Said::Pong { .. } => {}
        }
        Ok(())
    }

    fn handle_welcome(&mut self, now: Duration, session: &str, limits: &str, durability: &str) {
        if !matches!(self.link, LinkState::Greeting { .. }) {
            return;
        }
        self.link = LinkState::Open { since: now };
        self.asked.retain(|_, asked| !matches!(asked, Asked::Hello));
        let limits: Vec<(String, u64)> = limits
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect();
        let frame_bytes_max = limits.iter().find(|(name, _)| name == "frame_bytes_max");
        self.server_frame_bytes_max = frame_bytes_max.map_or(0, |(_, value)| *value);
        let (session, durability) = (session.to_owned(), durability.to_owned());
        self.events.push_back(Event::Connected { session, limits, durability });
        let names: Vec<_> = self.rooms.keys().cloned().collect();
        names.iter().for_each(|name| self.ask_to_join(name));
    }

    fn handle_joined(&mut self, id: RequestId, head: Cursor, members: u64, durability: &str) -> Result<(), Lost> {
        let Some(Asked::Join(name)) = id.and_then(|id| self.asked.remove(&id)) else { return Ok(()) };
        let Some(room) = self.rooms.get_mut(&name) else { return Ok(()) };
        if room.state != State::Asked {
            return Ok(());
        }
        let cursor = room.cursor;
        if !room.joined(head) {
            return Err(Why::OutOfOrder { room: name, epoch: head.epoch.0, sequence: head.sequence.0, cursor });
        }
        let durability = durability.to_owned();
        self.events.push_back(Event::Joined { room: name.clone(), head, members, durability });
        self.send_posts(&name);
        Ok(())
    }

    fn handle_posted(&mut self, id: RequestId, cursor: Cursor, time_ms: u64, duplicate: bool) {
        let Some(Asked::Post(ticket)) = id.and_then(|id| self.asked.remove(&id)) else { return };
        if let Some(post) = self.posts.remove(ticket) {
            self.events.push_back(Event::Posted(Posted { ticket, room: post.room, cursor, time_ms, duplicate }));
        }
    }

    fn handle_message(&mut self, message: &SaidMessage<'_>) -> Result<(), Lost> {
        let is_own = message.user == self.options.user.as_str()
            && message.key.is_some_and(|key| key.starts_with(&self.key_prefix));
        if !self.step(message.room, message.epoch, message.sequence, message.sequence)? {
            return Ok(());
        }
        let Some((name, room)) = self.rooms.get_key_value(message.room) else { return Ok(()) };
        if room.join.echo || !is_own {
            self.events.push_back(Event::Message(Message {
                room: name.clone(),
                cursor: Cursor { epoch: message.epoch, sequence: message.sequence },
                time_ms: message.time_ms,
                user: message.user.to_owned(),
                body: message.body.into(),
            }));
        }
        Ok(())
    }

    fn handle_gap(&mut self, room: &str, epoch: Epoch, from: Sequence, to: Sequence) -> Result<(), Lost> {
        let read_up_to = self.rooms.get(room).and_then(|room| room.cursor).map(|cursor| cursor.sequence.next());
        if self.step(room, epoch, from, to)?
            && let Some((name, _)) = self.rooms.get_key_value(room)
        {
            let from = read_up_to.map_or(from, |read| from.max(read));
            self.events.push_back(Event::Gap { room: name.clone(), epoch, from, to });
        }
        Ok(())
    }

    /// Moves a room's cursor over a message or a gap. False: it was there before, or nobody reads the room.
    fn step(&mut self, room: &str, epoch: Epoch, from: Sequence, to: Sequence) -> Result<bool, Lost> {
        let Some(found) = self.rooms.get_mut(room) else { return Ok(false) };
        if found.state != State::Joined {
            return Ok(false); // Of a subscription that was left before the room was joined again.
        }
        let place = if from == to { found.message(epoch, to) } else { found.gap(epoch, from, to) };
        let cursor = found.cursor;
        match (place, self.rooms.get_key_value(room)) {
            (Place::Next, _) => Ok(true),
            (Place::Hole, Some((name, _))) => {
                Err(Why::OutOfOrder { room: name.clone(), epoch: epoch.0, sequence: from.0, cursor })
            }
            _ => Ok(false),
        }
    }

    fn handle_error(
        &mut self,
        now: Duration,
        id: RequestId,
        code: ErrorCode,
        message: &str,
        retry_after: Option<Duration>,
    ) -> Result<(), Lost> {
        let passes = passes(code);
        let asked = id.and_then(|id| self.asked.remove(&id));
        match asked {
            Some(Asked::Hello) if !passes => {
                self.refused(Refused::Session, code, message);
                return Err(Why::Refused);
            }
            Some(Asked::Hello) => {
                self.advised_wait = retry_after;
                return Err(Why::Closed(format!("{}: {message}", code.as_str())));
            }
            Some(Asked::Join(name)) if matches!(code, ErrorCode::WrongEpoch | ErrorCode::CursorAhead) => {
                match self.rooms.get_mut(&name).and_then(Room::lose_history) {
                    Some(cursor) => {
                        self.events.push_back(Event::HistoryLost { room: name.clone(), cursor, code });
                        self.ask_to_join(&name);
                    }
                    None => self.refuse_join(name, code, message), // No cursor was sent: a puzzling server.
                }
            }
            Some(Asked::Join(name)) if passes => {
                let until = now + retry_after.unwrap_or_default() + self.jitter();
                if let Some(room) = self.rooms.get_mut(&name) {
                    room.state = State::Wanted;
                    room.hold_until = Some(until);
                }
            }
            Some(Asked::Join(name)) => self.refuse_join(name, code, message),
            Some(Asked::Post(ticket)) if passes => self.hold_post(now, ticket, retry_after),
            Some(Asked::Post(ticket)) => self.refuse_post(ticket, code, message.to_owned()),
            // No number: it concerns the stream, which the server closes next.
            None => self.refused(if id.is_none() { Refused::Session } else { Refused::Other }, code, message),
        }
        Ok(())
    }

    /// The server cannot take a post now: it stays, and its room waits.
    fn hold_post(&mut self, now: Duration, ticket: Ticket, retry_after: Option<Duration>) {
        let jitter = self.jitter();
        let Some(post) = self.posts.post_mut(ticket) else { return };
        post.is_sent = false;
        if let Some(room) = self.rooms.get_mut(&post.room) {
            let until = now + retry_after.unwrap_or_default() + jitter;
            room.hold_until = Some(room.hold_until.map_or(until, |known| known.max(until)));
        }
    }

    fn jitter(&mut self) -> Duration {
        self.random.up_to(self.options.reconnect_first)
    }

    fn refuse_join(&mut self, name: RoomName, code: ErrorCode, message: &str) {
        self.rooms.remove(&name);
        self.refuse_posts_of(&name, code, message);
        self.refused(Refused::Join(name), code, message);
    }

    fn refused(&mut self, what: Refused, code: ErrorCode, message: &str) {
        self.events.push_back(Event::Refused { what, code, message: message.to_owned() });
    }
}

/// Whether a refusal passes by itself, so that asking again makes sense.
fn passes(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::RateLimited | ErrorCode::Overloaded | ErrorCode::LogFull | ErrorCode::Draining)
}
