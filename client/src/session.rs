//! The session: what a client knows and wants, with no socket, no clock and no randomness of its own.
//!
//! An adapter drives it. `now` is the time since any fixed start, and never goes back.
//!
//! ```text
//!  loop {  poll_link      → Connect: open a TCP connection to `address`, then handle_connected; Disconnect: drop it
//!          poll_transmit  → write these bytes
//!          poll_event     → give these to the user, before the next handle_bytes
//!          wait for bytes or poll_timeout, then handle_bytes, handle_timeout or handle_disconnected }
//! ```
//!
//! Invariants:
//! - Of the posts of a room that wait, at most `posts_in_flight_max` are with the server; the next goes out as answers
//!   come. So a cut costs no more than these again, and a link that carries them now and then carries any number.
//! - A room's posts are sent in the order of their tickets. One that the server refused for a moment is overtaken by
//!   those alone that were in flight with it, so by none where `posts_in_flight_max` is 1.
//! - A post keeps its key until it is acknowledged or refused for good, over any number of connections.
//! - A token is said to no server but one whose address the user gave, or one that was told by a server that has the token
//!   (`addresses.rs`).
//! - An ask is answered, refused, or told as unanswered, once.
//! - What only a later server says costs no connection: its events are passed over, its codes refuse one request. Only
//!   where that is `hello`, nothing can go on, and another connection is tried.
//! - Nothing but the user's own calls makes the session grow: posts are bounded by count and bytes, asks by count,
//!   signals by the outbox, and the events of one `handle_bytes` by its bytes.

mod asking;
mod incoming;
mod losing;
mod refusals;
mod renewing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::features::FeatureNames;
use banter_protocol::frame::{FrameReader, HEADER_BYTES, PREAMBLE};
use banter_protocol::ids::{NameFault, RequestId, RoomName};
use banter_protocol::native;
use banter_protocol::request::{Ask, Body, Request};

use crate::addresses::Addresses;
use crate::asks::Asks;
use crate::backoff::Random;
use crate::event::{Event, Why};
use crate::options::{Join, Options};
use crate::posts::{Post, PostRefusal, Posts, Ticket};
use crate::room::{Room, State};
use refusals::Refusal;

/// What the session wants of its adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Open a connection to [`Session::address`], and say [`Session::handle_connected`] or [`Session::handle_disconnected`].
    Connect,
    /// Drop the connection. No answer is needed.
    Disconnect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    /// There is none until then.
    Waiting {
        until: Duration,
    },
    /// The adapter is opening one.
    Connecting,
    /// `hello` is on its way.
    Greeting {
        since: Duration,
    },
    /// The server said welcome.
    Open {
        since: Duration,
    },
    Ended,
}

/// What a request's number stands for.
#[derive(Debug)]
enum Asked {
    Hello,
    Join(RoomName),
    Post(RoomName, Ticket),
    Leave,
    /// With the token that held before.
    Renew(Option<String>),
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    options: Options,
    random: Random,
    /// In front of every key: what tells this session's posts from those of the user's other sessions.
    key_prefix: String,
    link: LinkState,
    must_disconnect: bool,
    addresses: Addresses,
    /// The server said `closing`: no more posts here, and the next connection not before so long after the cut.
    advised_wait: Option<Duration>,
    /// The server said when to come back to itself; another one may be asked sooner.
    retry_here_after: Option<Duration>,
    heard_at: Duration,
    is_pinged: bool,
    /// The server's limit, from `welcome`: a post above it would cost the connection.
    server_frame_bytes_max: u64,
    reader: FrameReader,
    outbox: Vec<u8>,
    events: VecDeque<Event>,
    rooms: BTreeMap<RoomName, Room>,
    posts: Posts,
    asks: Asks,
    next_id: u64,
    asked: HashMap<u64, Asked>,
}

impl Session {
    /// A session that wants its first connection at once.
    pub fn new(options: Options) -> Self {
        let mut random = Random::new(options.seed);
        Session {
            key_prefix: format!("{:016x}-", random.next()),
            random,
            link: LinkState::Waiting { until: Duration::ZERO },
            must_disconnect: false,
            addresses: Addresses::new(&options),
            advised_wait: None,
            retry_here_after: None,
            heard_at: Duration::ZERO,
            is_pinged: false,
            server_frame_bytes_max: 0,
            reader: FrameReader::of_events(options.frame_bytes_max),
            outbox: Vec::new(),
            events: VecDeque::new(),
            rooms: BTreeMap::new(),
            posts: Posts::new(&options),
            asks: Asks::new(options.asks_in_flight_max),
            next_id: 1,
            asked: HashMap::new(),
            options,
        }
    }

    // What the user wants.

    /// Reads a room from now on, over every connection to come. Joining a joined room changes nothing.
    ///
    /// # Errors
    /// When the name breaks the rules of names.
    pub fn join(&mut self, room: &str, join: Join) -> Result<(), NameFault> {
        self.join_by(room, Room::new(join, None))
    }

    /// The same with a token for this room, which adds to what the session's own token lets it do there. When it ends, and
    /// nothing else lets the session read the room, that is told as [`Event::Removed`]: join again with another, from the cursor
    /// that is told.
    ///
    /// # Errors
    /// When the name breaks the rules of names.
    pub fn join_with_token(&mut self, room: &str, join: Join, token: String) -> Result<(), NameFault> {
        self.join_by(room, Room::new(join, Some(token)))
    }

    fn join_by(&mut self, name: &str, room: Room) -> Result<(), NameFault> {
        let name = RoomName::new(name)?;
        if !self.rooms.contains_key(&name) {
            self.rooms.insert(name.clone(), room);
            self.ask_to_join(&name);
        }
        Ok(())
    }

    /// Stops reading a room. Its posts that are not acknowledged yet are refused; the server may still have them.
    pub fn leave(&mut self, room: &str) {
        let Some((name, left)) = self.rooms.remove_entry(room) else { return };
        if matches!(self.link, LinkState::Open { .. }) && left.state != State::Wanted {
            let id = self.number(Asked::Leave);
            self.send(id, Ask::Leave { room: room.into() });
        }
        // The answer to a join under way is no answer to the next one.
        self.asked.retain(|_, asked| !matches!(asked, Asked::Join(asked) if *asked == name));
        let message = "the room was left before the acknowledgement came";
        self.refuse_posts_of(
            &name,
            &Refusal { code: Some(ErrorCode::NotJoined), message, retry_after: None, reason: None },
        );
    }

    /// Says something in a room. It is sent now, or when the room is joined, and again until it is acknowledged.
    ///
    /// # Errors
    /// When it was not taken: the limits of what may wait, or a room that is not joined.
    pub fn post(&mut self, room: &str, body: Body<'_>) -> Result<Ticket, PostRefusal> {
        if self.link == LinkState::Ended {
            return Err(PostRefusal::Ended);
        }
        let (name, _) = self.rooms.get_key_value(room).ok_or(PostRefusal::NotJoined)?;
        let name = name.clone();
        let ticket = self.posts.add(name.clone(), body)?;
        self.send_posts(&name);
        Ok(ticket)
    }

    /// Tells the members of a room something that is not kept. It is sent once, now or never.
    ///
    /// # Errors
    /// When it was not taken: no connection, a room that is not joined, or a full outbox.
    pub fn signal(&mut self, room: &str, body: Body<'_>) -> Result<(), PostRefusal> {
        let joined = self.rooms.get(room).ok_or(PostRefusal::NotJoined)?;
        if joined.state != State::Joined {
            return Err(PostRefusal::NotConnected);
        }
        let bytes_max = self.options.outbox_bytes_max;
        if self.outbox.len() + body.bytes.len() > bytes_max {
            return Err(PostRefusal::FullOfBytes { bytes_max });
        }
        // Only a refusal is answered, so nothing is kept for the number; it tells the refusal from that of the session.
        let id = self.next_id;
        self.next_id += 1;
        self.send(Some(id), Ask::Signal { room: room.into(), body });
        Ok(())
    }

    /// Ends the session: no connection any more, and nothing waits.
    pub fn end(&mut self) {
        if self.link != LinkState::Ended {
            self.lose_link(None, Why::Ended);
        }
    }

    /// Whether the session has ended for good.
    pub fn is_ended(&self) -> bool {
        self.link == LinkState::Ended
    }

    /// Posts that are not acknowledged yet.
    pub fn unacknowledged(&self) -> usize {
        self.posts.len()
    }

    /// The key that a post goes under: its message has it too.
    pub fn key_of(&self, ticket: Ticket) -> String {
        format!("{}{}", self.key_prefix, ticket.0)
    }

    /// How far a room was read.
    pub fn cursor(&self, room: &str) -> Option<banter_protocol::ids::Cursor> {
        self.rooms.get(room)?.cursor
    }

    // What the adapter asks and tells.

    /// What to do with the connection, if anything. `now` as everywhere.
    pub fn poll_link(&mut self, now: Duration) -> Option<Link> {
        if std::mem::take(&mut self.must_disconnect) {
            return Some(Link::Disconnect);
        }
        match self.link {
            LinkState::Waiting { until } if until <= now => {
                self.link = LinkState::Connecting;
                Some(Link::Connect)
            }
            _ => None,
        }
    }

    /// Moves the bytes that are to be written behind `out`. What is not written when a connection ends is dropped.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.outbox);
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Session::handle_timeout`], or to ask [`Session::poll_link`], at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let hold = self.rooms.values().filter_map(|room| room.hold_until).chain(self.asks.due()).min();
        match self.link {
            LinkState::Waiting { until } => Some(until),
            LinkState::Connecting | LinkState::Ended => None,
            LinkState::Greeting { since } => Some(since + self.addresses.patience()),
            LinkState::Open { .. } => {
                let silence = self.options.silence_timeout;
                let patience = if self.is_pinged { silence } else { silence / 2 };
                Some(hold.map_or(self.heard_at + patience, |hold| hold.min(self.heard_at + patience)))
            }
        }
    }

    /// The connection that was wanted is open.
    pub fn handle_connected(&mut self, now: Duration) {
        if self.link != LinkState::Connecting {
            self.must_disconnect = true; // The session has ended meanwhile.
            return;
        }
        self.link = LinkState::Greeting { since: now };
        self.heard_at = now;
        self.is_pinged = false;
        self.outbox.extend_from_slice(&PREAMBLE);
        let id = self.number(Asked::Hello);
        let options = self.options.clone();
        let mut features = FeatureNames::default();
        // One that is too much is none that the server could be told.
        let _ = options.features.iter().try_for_each(|name| features.push(name.as_str().into()));
        self.send(
            id,
            Ask::Hello { user: options.user.as_str().into(), token: options.token.map(Into::into), features },
        );
    }

    /// The time that [`Session::poll_timeout`] named has come, or another has; calling too often does no harm.
    pub fn handle_timeout(&mut self, now: Duration) {
        match self.link {
            LinkState::Greeting { since } if since + self.addresses.patience() <= now => {
                self.lose_link(Some(now), Why::NoWelcome);
            }
            LinkState::Open { .. } if self.heard_at + self.options.silence_timeout <= now => {
                self.lose_link(Some(now), Why::Silent);
            }
            LinkState::Open { .. } => {
                if !self.is_pinged && self.heard_at + self.options.silence_timeout / 2 <= now {
                    self.is_pinged = true;
                    self.send(None, Ask::Ping);
                }
                self.end_holds(now);
                self.ask_again(now);
            }
            _ => {}
        }
    }

    /// Rooms that the server asked to wait with go on.
    fn end_holds(&mut self, now: Duration) {
        let over = |room: &Room| room.hold_until.is_some_and(|until| until <= now);
        let names: Vec<RoomName> = self.rooms.iter().filter(|(_, room)| over(room)).map(|(n, _)| n.clone()).collect();
        for name in names {
            if let Some(room) = self.rooms.get_mut(&name) {
                room.hold_until = None;
            }
            self.ask_to_join(&name);
            self.send_posts(&name);
        }
    }

    // Sending.

    fn number(&mut self, asked: Asked) -> RequestId {
        let id = self.next_id;
        self.next_id += 1;
        self.asked.insert(id, asked);
        Some(id)
    }

    fn send(&mut self, id: RequestId, ask: Ask<'_>) {
        native::write_request(&Request { id, ask }, &mut self.outbox);
    }

    /// Joins a room that is wanted, when that is possible now.
    fn ask_to_join(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if !matches!(self.link, LinkState::Open { .. }) || room.state != State::Wanted || room.hold_until.is_some() {
            return;
        }
        room.state = State::Asked;
        // Echo always: with its own posts among the others a session can check that the sequence is dense.
        let (from, presence) = (room.join_from(), room.join.presence);
        let token = room.token.clone().map(Into::into);
        let id = self.number(Asked::Join(name.clone()));
        self.send(id, Ask::Join { room: name.as_str().into(), from, echo: true, presence, token });
    }

    /// Sends a room's posts that the connection does not have yet, as many as may be in flight, when that is possible.
    fn send_posts(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get(name) else { return };
        if room.state != State::Joined || room.hold_until.is_some() || self.advised_wait.is_some() {
            return;
        }
        while let Some(post) = self.posts.next_to_send(name) {
            let (ticket, start) = (post.ticket, self.outbox.len());
            write_post(name, post, self.next_id, self.key_of(ticket), &mut self.outbox);
            let payload_bytes = (self.outbox.len() - start - HEADER_BYTES) as u64;
            if self.server_frame_bytes_max != 0 && payload_bytes > self.server_frame_bytes_max {
                self.outbox.truncate(start);
                self.refuse_as_too_large(name, ticket);
                continue;
            }
            self.posts.mark_in_flight(name, ticket);
            self.number(Asked::Post(name.clone(), ticket));
        }
    }
}

fn write_post(room: &RoomName, post: &Post, id: u64, key: String, out: &mut Vec<u8>) {
    let ask = Ask::Post { room: room.as_str().into(), body: post.body.as_body(), key: Some(key.into()) };
    native::write_request(&Request { id: Some(id), ask }, out);
}
