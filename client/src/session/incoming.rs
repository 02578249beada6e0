//! What the session makes of the server's bytes.

use std::time::Duration;

use banter_protocol::event::{Event as Said, Message as SaidMessage};
use banter_protocol::frame::FrameReader;
use banter_protocol::ids::{Cursor, Epoch, FeatureName, RequestId, RoomName, Sequence};
use banter_protocol::native::{self, Heard};
use banter_protocol::request::Ask;

use super::refusals::Refusal;
use super::{Asked, LinkState, Session};
use crate::event::{Event, Message, Posted, Why};
use crate::room::{Place, State};

/// Why handling stops: the connection is lost from here on.
pub(super) type Lost = Why;

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
                    match frame.map(native::read_heard).transpose() {
                        Ok(None) => Ok(()),
                        Ok(Some(heard)) => self.handle_heard(now, heard),
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

    fn handle_heard(&mut self, now: Duration, heard: Heard<'_>) -> Result<(), Lost> {
        match heard {
            Heard::Event(event) => return self.handle_event(now, event),
            Heard::Refusal { id, message, retry_after_ms } => {
                return self.handle_refusal(now, id, &Refusal::new(None, message, retry_after_ms));
            }
            Heard::Removed { room } => self.handle_removed(room, None),
            Heard::Closing { reconnect_after_ms } => self.handle_closing(reconnect_after_ms),
        }
        Ok(())
    }

    fn handle_event(&mut self, now: Duration, event: Said<'_>) -> Result<(), Lost> {
        match event {
            Said::Welcome { session, durability, features, limits, expires_in_ms, .. } => {
                self.handle_welcome(now, (session, durability), features, limits, expires_in_ms);
            }
            Said::Joined { id, epoch, sequence, members, durability, .. } => {
                return self.handle_joined(id, Cursor { epoch, sequence }, members, durability);
            }
            Said::Posted { id, epoch, sequence, time_ms, duplicate, .. } => {
                self.handle_posted(id, Cursor { epoch, sequence }, time_ms, duplicate);
            }
            // Behind `hello` on this connection, for nothing is heard before it: this server has the token.
            Said::Nodes { nodes } => self.addresses.tell(nodes),
            Said::Taken { id, reply, .. } => self.handle_taken(id, reply),
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
            Said::Closing { reconnect_after_ms, .. } => self.handle_closing(reconnect_after_ms),
            Said::Error { id, code, message, retry_after_ms, reason, .. } => {
                let refusal = Refusal::new(Some(code), message, retry_after_ms).because(reason);
                return self.handle_refusal(now, id, &refusal);
            }
            Said::Page { id, epoch, messages, more, .. } => return self.handle_page(id, epoch, messages, more),
            Said::Members { id, count, users, .. } => self.handle_members(id, count, users),
            Said::KeepAlive => self.send(None, Ask::Ping),
            Said::Renewed { id, expires_in_ms } => self.handle_renewed(id, expires_in_ms),
            Said::Expiring { in_ms } => {
                self.events.push_back(Event::Expiring { expires_in: Duration::from_millis(in_ms) });
            }
            Said::Removed { room, code } => self.handle_removed(room, Some(code)),
            Said::Left { id, .. } => drop(id.and_then(|id| self.asked.remove(&id))),
            Said::Pong { .. } => {}
        }
        Ok(())
    }

    fn handle_welcome(
        &mut self,
        now: Duration,
        (session, durability): (&str, &str),
        features: &str,
        limits: &str,
        expires_in_ms: Option<u64>,
    ) {
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
        self.follow_limits(&limits);
        let (session, durability) = (session.to_owned(), durability.to_owned());
        let is_agreed = |name: &&FeatureName| features.lines().any(|agreed| agreed == name.as_str());
        let features = self.options.features.iter().filter(is_agreed).cloned().collect();
        let expires_in = expires_in_ms.map(Duration::from_millis);
        self.events.push_back(Event::Connected { session, limits, durability, features, expires_in });
        let names: Vec<_> = self.rooms.keys().cloned().collect();
        names.iter().for_each(|name| self.ask_to_join(name));
    }

    fn follow_limits(&mut self, limits: &[(String, u64)]) {
        let limit = |wanted| limits.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
        self.server_frame_bytes_max = limit("frame_bytes_max").unwrap_or(0);
        // A key that later ones have pushed out of the server's window makes no repeated post harmless.
        let keys_max = limit("dedupe_keys_per_author_max").map_or(usize::MAX, |keys_max| keys_max as usize);
        self.posts.set_in_flight_max(self.options.posts_in_flight_max.min(keys_max));
    }

    fn handle_closing(&mut self, reconnect_after_ms: u64) {
        self.advised_wait = Some(Duration::from_millis(reconnect_after_ms));
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
        let Some(Asked::Post(room, ticket)) = id.and_then(|id| self.asked.remove(&id)) else { return };
        if !self.posts.remove(&room, ticket) {
            return; // The room was left meanwhile.
        }
        self.send_posts(&room);
        let key = self.key_of(ticket);
        self.events.push_back(Event::Posted(Posted { ticket, room, key, cursor, time_ms, duplicate }));
    }

    fn handle_taken(&mut self, id: RequestId, reply: Option<&[u8]>) {
        let Some(Asked::Post(room, ticket)) = id.and_then(|id| self.asked.remove(&id)) else { return };
        if !self.posts.remove(&room, ticket) {
            return; // The room was left meanwhile.
        }
        self.send_posts(&room);
        self.events.push_back(Event::Taken { ticket, room, reply: reply.map(<[u8]>::to_vec) });
    }

    fn handle_message(&mut self, message: &SaidMessage<'_>) -> Result<(), Lost> {
        let is_own = message.user == self.options.user.as_str()
            && message.key.is_some_and(|key| key.starts_with(&self.key_prefix));
        if !self.step(message.room, message.epoch, message.sequence, message.sequence)? {
            return Ok(());
        }
        let Some((name, room)) = self.rooms.get_key_value(message.room) else { return Ok(()) };
        if room.join.echo || !is_own {
            self.events.push_back(Event::Message(message_of(name.clone(), message)));
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
}

/// A message, owned.
pub(super) fn message_of(room: RoomName, said: &SaidMessage<'_>) -> Message {
    Message {
        room,
        cursor: Cursor { epoch: said.epoch, sequence: said.sequence },
        time_ms: said.time_ms,
        user: said.user.to_owned(),
        key: said.key.map(str::to_owned),
        body: said.body.into(),
    }
}
