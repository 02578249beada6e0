//! What a connection asks and is answered: checks each request, sends it to the core of its room, and writes the answer.

use std::sync::Arc;

use banter_access::guest::PROGRAM_PREFIX;
use banter_access::limit::Limit;
use banter_access::proof::Proof;
use banter_access::rights::Rights;
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::event::Event;
use banter_protocol::fault::RequestFault;
use banter_protocol::features::{FeatureNames, Features};
use banter_protocol::ids::{Cursor, PostKey, RequestId, RoomId, RoomName, Sequence, UserName, check_room_name};
use banter_protocol::native::as_viewed;
use banter_protocol::request::{Ask, Body, FetchFrom, Request};
use bytes::Bytes;

use crate::access::{Access, must_have};
use crate::address::{ConnectionId, SubscriptionId};
use crate::audience::Class;
use crate::guests::has_no_token;
use crate::local_room::LocalRoom;
use crate::parcel::{Answer, FetchAsk, JoinAsk, OwnedBody, Refusal, Up};
use crate::program::ClassName;
use crate::proving::{JoinWish, Purpose, must_be_short};
use crate::rates::Kind;
use crate::session::{Moment, ReadState, Stage, Subscription};
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Bytes that an answer to a post or a leave needs at most: a room's name, escaped, and some numbers.
const SMALL_ANSWER_BYTES: u32 = 512;
/// Bytes that an answer to `members` needs at most: 100 names, escaped.
const MEMBERS_ANSWER_BYTES: u32 = 16 * 1_024;
/// Readings of a connection that are looked through one by one; more have a table.
const SUBSCRIPTIONS_LISTED_MAX: usize = 8;
/// When to try again what a limit of the server refused.
const OVERLOADED_RETRY_AFTER_MS: u64 = 1_000;

impl Sessions {
    /// Takes a request. The caller has seen that the connection is read ([`Sessions::is_read`]).
    pub fn request(&mut self, connection: ConnectionId, request: &Request<'_>, turn: &mut Turn<'_>) {
        let Some(slot) = self.slot_of(connection) else { return };
        if self.is_sent_away(slot, request.id, turn) {
            return;
        }
        let stage = self.connections[slot].stage;
        let result = match (&request.ask, stage) {
            (Ask::Hello { user, token, features }, Stage::Opened) => {
                self.hello(slot, request.id, (user, token.as_deref()), features, turn)
            }
            (Ask::Hello { .. }, Stage::Greeted) => Err(bad_request("`hello` comes once")),
            (ask, Stage::Greeted) => self.ask(slot, request.id, ask, turn),
            (_, Stage::Opened) => Err(bad_request("`hello` comes first")),
            _ => return,
        };
        if let Err(refusal) = result {
            self.refuse(slot, request.id, &refusal, turn);
        }
        self.pause_if_heavy(slot, turn);
    }

    /// Answers a text or frame that was whole and no request.
    pub fn bad_request(&mut self, connection: ConnectionId, fault: RequestFault, turn: &mut Turn<'_>) {
        let Some(slot) = self.slot_of(connection) else { return };
        if !self.is_sent_away(slot, fault.id, turn) && self.connections[slot].is_open() {
            self.refuse(slot, fault.id, &Refusal::new(ErrorCode::BadRequest, fault.message), turn);
            self.pause_if_heavy(slot, turn);
        }
    }

    fn ask(&mut self, slot: usize, id: RequestId, ask: &Ask<'_>, turn: &mut Turn<'_>) -> Result<(), Refusal> {
        match ask {
            Ask::Hello { .. } => Ok(()),
            Ask::Post { room, body, key } => match self.post(slot, id, room, *body, key.as_deref(), turn) {
                Err(refusal) => self.refuse_post(slot, id, room, refusal, turn),
                posted => posted,
            },
            Ask::Signal { room, body } => self.signal(slot, room, *body, turn),
            Ask::Join { room, from, echo, presence, token } => {
                let wish = JoinWish { room: room_name(room)?, from: *from, echo: *echo, presence: *presence };
                self.refuse_if_draining()?;
                self.take_token(slot, Kind::Join, turn)?;
                match token {
                    None => self.join(slot, id, &wish, None, turn),
                    Some(token) => self.prove_room(slot, id, token, wish, turn),
                }
            }
            Ask::Fetch { room, from, limit } => self.fetch(slot, id, room, *from, *limit, turn),
            Ask::Members { room } => {
                let room = room_name(room)?;
                self.take_token(slot, Kind::Members, turn)?;
                self.refuse_if_expired(slot, turn)?;
                let rights = self.rights_in(slot, room.as_str());
                must_have(rights, Rights::PRESENCE)?;
                let asker = self.peer_of(slot);
                self.connections[slot].reserved_bytes += MEMBERS_ANSWER_BYTES;
                self.send_up(slot, &room, turn, |room| Up::Members { room, asker, rights, request: id });
                Ok(())
            }
            Ask::Leave { room } => {
                let subscription = self.joined(slot, room)?;
                self.connections[slot].reserved_bytes += SMALL_ANSWER_BYTES;
                self.leave(slot, subscription, Some(id), turn);
                Ok(())
            }
            Ask::Renew { token } => self.renew(slot, id, token, turn),
            Ask::Ping => {
                self.connections[slot].write(&Event::Pong { id });
                self.mark_ready(slot);
                Ok(())
            }
        }
    }

    fn hello(
        &mut self,
        slot: usize,
        request: RequestId,
        (user, token): (&str, Option<&str>),
        features: &FeatureNames<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let agreed = self.welcome.features.agree(features);
        let guests = match &self.access {
            Access::Open => {
                let user = UserName::new(user).map_err(|fault| bad_request(format!("`user`: {fault}")))?;
                if user.as_str().starts_with(PROGRAM_PREFIX) {
                    return Err(bad_request("`user`: a name that begins with @ is a program's"));
                }
                self.greet(slot, request, user, (agreed, None), turn);
                return Ok(());
            }
            Access::Token(access) => access.guests,
        };
        if let Some(seed) = guests.filter(|_| token.is_none() && user.is_empty()) {
            return self.hello_of_guest(slot, request, seed, agreed, turn);
        }
        match must_prove(user, token, guests.is_some()) {
            Ok(token) => self.begin_proving(slot, request, token, Purpose::Hello { user: user.into(), agreed }, turn),
            Err(refusal) => self.refuse_token(slot, request, &refusal, turn),
        }
        Ok(())
    }

    /// A `join` with a token of its own waits for the verdict on it.
    fn prove_room(
        &mut self,
        slot: usize,
        request: RequestId,
        token: &str,
        wish: JoinWish,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        if self.access == Access::Open {
            return Err(bad_request(
                "this server asks for no token, and every room is everybody's: `join` without one",
            ));
        }
        self.refuse_if_expired(slot, turn)?;
        if self.is_guest(slot) {
            return Err(has_no_token());
        }
        match must_be_short(token) {
            Ok(()) => self.begin_proving(slot, request, token, Purpose::Join(Box::new(wish)), turn),
            Err(refusal) => self.refuse_token(slot, request, &refusal, turn),
        }
        Ok(())
    }

    fn renew(&mut self, slot: usize, request: RequestId, token: &str, turn: &mut Turn<'_>) -> Result<(), Refusal> {
        if self.access == Access::Open {
            return Err(bad_request("this server asks for no token, so there is none to renew"));
        }
        if self.is_guest(slot) {
            return Err(has_no_token());
        }
        // A signature is checked for it: as costly as a join, and as often at most.
        self.take_token(slot, Kind::Join, turn)?;
        match must_be_short(token) {
            Ok(()) => self.begin_proving(slot, request, token, Purpose::Renew, turn),
            Err(refusal) => self.refuse_token(slot, request, &refusal, turn),
        }
        Ok(())
    }

    /// It is known who the connection is.
    pub(crate) fn greet(
        &mut self,
        slot: usize,
        id: RequestId,
        user: UserName,
        (agreed, expires_in_ms): (Features, Option<u64>),
        turn: &mut Turn<'_>,
    ) {
        let name = self.session_name(slot);
        let session = &mut self.connections[slot];
        session.stage = Stage::Greeted;
        session.since = Moment::at_us(turn.now.monotonic_us);
        session.agreed = agreed;
        session.write(&Event::Welcome {
            id,
            session: &name,
            user: user.as_str(),
            durability: self.welcome.durability,
            features: &self.welcome.features.lines(session.agreed),
            limits: &self.welcome.limits,
            expires_in_ms,
        });
        session.user = Some(user);
        self.tell_nodes(slot);
        self.mark_ready(slot);
        self.come_home(slot, turn);
    }

    /// What `welcome` calls the connection's session.
    pub(crate) fn session_name(&self, slot: usize) -> String {
        format!("{:x}-{:x}-{:x}-{:x}", self.welcome.run, self.own.0, slot, self.connections[slot].generation)
    }

    /// The connection's reading of a room.
    fn joined(&self, slot: usize, room: &str) -> Result<u32, Refusal> {
        self.subscription_of(slot, room).ok_or_else(|| match check_room_name(room) {
            Ok(_) => Refusal::new(ErrorCode::NotJoined, "join the room first"),
            Err(fault) => Refusal::new(ErrorCode::RoomNameInvalid, format!("`room`: {fault}")),
        })
    }

    pub(crate) fn subscription_of(&self, slot: usize, room: &str) -> Option<u32> {
        let session = &self.connections[slot];
        if let Some(by_room) = &session.by_room {
            return by_room.get(self.room_by_id.get(&RoomId::of(room))?).copied();
        }
        let is_of_room = |subscription: &u32| {
            let reading = &self.subscriptions[*subscription as usize];
            self.rooms[reading.room as usize].name.as_str() == room
        };
        session.subscriptions.iter().copied().find(is_of_room)
    }

    /// The connection's reading of a room of this core.
    pub(crate) fn subscription_in(&self, slot: usize, room: u32) -> Option<u32> {
        let session = &self.connections[slot];
        if let Some(by_room) = &session.by_room {
            return by_room.get(&room).copied();
        }
        let is_of_room = |subscription: &u32| self.subscriptions[*subscription as usize].room == room;
        session.subscriptions.iter().copied().find(is_of_room)
    }

    fn take_token(&mut self, slot: usize, kind: Kind, turn: &mut Turn<'_>) -> Result<(), Refusal> {
        let (name, rate) = self.rate_of(slot, kind);
        let (_, posts_rate) = self.rate_of(slot, Kind::Post);
        let rates = |kind: Kind| if kind == Kind::Post { posts_rate } else { kind.limit(&self.limits) };
        match self.connections[slot].rates.take(kind, rates, turn.now.monotonic_ms) {
            Err(retry_after_ms) if turn.counters.limits.refuses(kind.into(), self.limits.dry_run) => Err(Refusal {
                code: ErrorCode::RateLimited,
                message: format!("{name} is {rate}").into(),
                retry_after_ms: Some(retry_after_ms),
                scope: Some(Scope::Connection),
                reason: None,
            }),
            _ => Ok(()),
        }
    }

    /// A refusal waits for the answers to the posts before it, and so goes the way that they go.
    fn refuse_post(
        &mut self,
        slot: usize,
        id: RequestId,
        room: &str,
        refusal: Refusal,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        if self.connections[slot].posts_open == 0 || check_room_name(room).is_err() {
            return Err(refusal);
        }
        let (room, author) = (RoomId::of(room), self.peer_of(slot));
        self.opens_post(slot);
        let parcel = Up::Refuse { room, author, request: id, refusal: Box::new(refusal) };
        self.send_up_to(slot, self.placement.core_of(room), parcel, turn);
        Ok(())
    }

    fn opens_post(&mut self, slot: usize) {
        self.connections[slot].reserved_bytes += SMALL_ANSWER_BYTES;
        self.connections[slot].posts_open += 1;
    }

    fn post(
        &mut self,
        slot: usize,
        id: RequestId,
        room: &str,
        body: Body<'_>,
        key: Option<&str>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let subscription = self.joined(slot, room)?;
        self.refuse_if_draining()?;
        let key = key.map(PostKey::new).transpose().map_err(|fault| bad_request(format!("`key`: {fault}")))?;
        if self.is_guest(slot) {
            self.take_token(slot, Kind::GuestPost, turn)?;
        }
        self.take_token(slot, Kind::Post, turn)?;
        self.refuse_if_expired(slot, turn)?;
        let rights = self.subscriptions[subscription as usize].rights;
        must_have(rights, Rights::WRITE)?;
        let author = self.peer_of(slot);
        let Some(user) = self.connections[slot].user.clone() else { return Ok(()) };
        let room = &self.rooms[self.subscriptions[subscription as usize].room as usize];
        let (owner, room) = (room.owner, room.id);
        self.opens_post(slot);
        let parcel = Up::Post { room, author, user, rights, request: id, key, body: owned(body) };
        self.send_up_to(slot, owner, parcel, turn);
        Ok(())
    }

    fn signal(&mut self, slot: usize, room: &str, body: Body<'_>, turn: &mut Turn<'_>) -> Result<(), Refusal> {
        let subscription = self.joined(slot, room)?;
        self.take_token(slot, Kind::Signal, turn)?;
        self.refuse_if_expired(slot, turn)?;
        let rights = self.subscriptions[subscription as usize].rights;
        must_have(rights, Rights::SIGNAL)?;
        let author = self.peer_of(slot);
        let Some(user) = self.connections[slot].user.clone() else { return Ok(()) };
        let room = &self.rooms[self.subscriptions[subscription as usize].room as usize];
        let (owner, room) = (room.owner, room.id);
        self.send_up_to(slot, owner, Up::Signal { room, author, user, rights, body: owned(body) }, turn);
        Ok(())
    }

    fn fetch(
        &mut self,
        slot: usize,
        id: RequestId,
        room: &str,
        from: FetchFrom,
        limit: Option<u64>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let room = room_name(room)?;
        self.take_token(slot, Kind::Fetch, turn)?;
        self.refuse_if_expired(slot, turn)?;
        let rights = self.rights_in(slot, room.as_str());
        must_have(rights, Rights::HISTORY)?;
        let messages_max = match limit {
            Some(0) => return Err(bad_request("`limit` must be at least 1")),
            Some(limit) => limit.min(self.limits.fetch_messages_max.into()) as u32,
            None => self.limits.fetch_messages_max,
        };
        // Places that no message will ever have need no arithmetic of their own.
        let from = match from {
            FetchFrom::After(after) => FetchFrom::After(after.min(Sequence(u64::MAX - 1))),
            before => before,
        };
        let asker = self.peer_of(slot);
        self.connections[slot].reserved_bytes += self.page_answer_bytes();
        let (user, least, is_judged) = (self.connections[slot].user.clone(), Sequence(0), false);
        let ask =
            |room| Up::Fetch(FetchAsk { room, asker, rights, request: id, from, messages_max, user, least, is_judged });
        self.send_up(slot, &room, turn, ask);
        Ok(())
    }

    /// Joins a room by what the connection may do there, and by what the token for the room gives that came along.
    pub(crate) fn join(
        &mut self,
        slot: usize,
        id: RequestId,
        wish: &JoinWish,
        room_token: Option<Arc<Proof>>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        self.refuse_if_draining()?;
        self.refuse_if_expired(slot, turn)?;
        let room = &wish.room;
        // A token for the room takes the place of the one before it.
        let rights = match &room_token {
            Some(proof) => self.rights_with(slot, room.as_str(), proof.rights(room.as_str())),
            None => self.rights_in(slot, room.as_str()),
        };
        must_have(rights, wish.needs())?;
        self.joins = self.joins.wrapping_add(1);
        let subscription = match self.subscription_of(slot, room.as_str()) {
            Some(subscription) => {
                self.stop_reading(subscription, turn);
                subscription
            }
            None => self.subscribe(slot, room, turn)?,
        };
        if let Some(proof) = room_token {
            self.room_tokens.set(subscription, proof);
        }
        let reading = &mut self.subscriptions[subscription as usize];
        reading.join = self.joins;
        reading.rights = rights;
        reading.ended_by = None;
        reading.state = ReadState::Joining;
        let epoch = self.rooms[reading.room as usize].epoch;
        let read_already = reading.is_placed.then_some(Cursor { epoch, sequence: reading.sequence });
        let session = &mut self.connections[slot];
        session.spares_own |= !wish.echo;
        let Some(user) = session.user.clone() else { return Ok(()) };
        let reader = self.peer_of(slot);
        let subscription = SubscriptionId { slot: subscription, join: self.joins };
        self.connections[slot].reserved_bytes += self.page_answer_bytes();
        let (from, echo, presence) = (wish.from, wish.echo, wish.presence);
        self.send_up(slot, room, turn, |room| {
            let ask =
                JoinAsk { room, reader, subscription, request: id, user, rights, from, read_already, echo, presence };
            Up::Join(Box::new(ask))
        });
        Ok(())
    }

    /// A new reading of a room that the connection does not read yet.
    fn subscribe(&mut self, slot: usize, name: &RoomName, turn: &mut Turn<'_>) -> Result<u32, Refusal> {
        let is_full = self.connections[slot].subscriptions.len() >= self.limits.rooms_per_connection_max as usize;
        if is_full && turn.counters.limits.refuses(Limit::Rooms, self.limits.dry_run) {
            return Err(Refusal {
                code: ErrorCode::Overloaded,
                message: "rooms_per_connection_max is reached: leave a room first".into(),
                retry_after_ms: Some(OVERLOADED_RETRY_AFTER_MS),
                scope: Some(Scope::Connection),
                reason: None,
            });
        }
        let id = RoomId::of(name.as_str());
        let (rooms, placement) = (&mut self.rooms, self.placement);
        let room = *self
            .room_by_id
            .entry(id)
            .or_insert_with(|| rooms.insert(LocalRoom::new(id, name.clone(), placement.core_of(id))) as u32);
        let place = self.rooms[room as usize].subscriptions.len() as u32;
        let subscription = self.subscriptions.insert(Subscription {
            connection: slot as u32,
            room,
            place,
            join: self.joins,
            first_join: self.joins,
            state: ReadState::Joining,
            is_placed: false,
            echo: true,
            presence: false,
            told: 0,
            is_pending: false,
            ended_by: None,
            class: Class::NONE,
            rights: Rights::NONE,
            position: 0,
            sequence: Sequence(0),
            skips: None,
        }) as u32;
        turn.counters.subscriptions += 1;
        self.rooms[room as usize].subscriptions.push(subscription);
        if self.rooms[room as usize].is_dirty {
            self.rooms[room as usize].round.grow();
        }
        self.add_subscription(slot, room, subscription);
        Ok(subscription)
    }

    /// Enters a reading into its connection's list, and where that is long into its table.
    fn add_subscription(&mut self, slot: usize, room: u32, subscription: u32) {
        let session = &mut self.connections[slot];
        session.subscriptions.push(subscription);
        if let Some(by_room) = &mut session.by_room {
            by_room.insert(room, subscription);
        } else if session.subscriptions.len() > SUBSCRIPTIONS_LISTED_MAX {
            let subscriptions = &self.subscriptions;
            let entry = |&subscription: &u32| (subscriptions[subscription as usize].room, subscription);
            session.by_room = Some(Box::new(session.subscriptions.iter().map(entry).collect()));
        }
    }

    fn refuse_if_draining(&self) -> Result<(), Refusal> {
        if self.is_draining() {
            let message = "the server is stopping: come back when `closing` says";
            return Err(Refusal::new(ErrorCode::Draining, message));
        }
        Ok(())
    }

    /// Writes an answer.
    pub(crate) fn answer(&mut self, to: ConnectionId, id: RequestId, answer: Answer, turn: &mut Turn<'_>) {
        let Some(slot) = self.slot_of(to) else { return };
        let reserved = match &answer {
            Answer::Page { .. } | Answer::FetchRefused(_) => self.page_answer_bytes(),
            Answer::Members { .. } | Answer::MembersRefused(_) => MEMBERS_ANSWER_BYTES,
            Answer::Posted { .. }
            | Answer::Taken { .. }
            | Answer::PostRefused(_)
            | Answer::Left { .. }
            | Answer::Refused(_) => SMALL_ANSWER_BYTES,
        };
        self.release(slot, reserved);
        let answer = self.judge_answer(slot, answer);
        let class = match &answer {
            Answer::Page { room, .. } => self.class_in(slot, room.as_str()),
            _ => None,
        };
        let session = &mut self.connections[slot];
        session.posts_open -=
            u32::from(matches!(answer, Answer::Posted { .. } | Answer::Taken { .. } | Answer::PostRefused(_)));
        if !session.is_open() {
            return;
        }
        match answer {
            Answer::Posted { room, epoch, sequence, time_ms, duplicate } => {
                session.write(&Event::Posted { id, room: room.as_str(), epoch, sequence, time_ms, duplicate });
            }
            Answer::Taken { room, reply } => {
                session.write(&Event::Taken { id, room: room.as_str(), reply: reply.as_deref() });
            }
            Answer::Page { room, epoch, messages, more } => {
                let messages = as_viewed(&messages, class.as_ref().map(ClassName::as_str)).unwrap_or_default();
                session.write(&Event::Page { id, room: room.as_str(), epoch, messages: &messages, more });
            }
            Answer::Members { room, count, users } => {
                session.write(&Event::Members { id, room: room.as_str(), count, users: &users });
            }
            Answer::Left { room } => session.write(&Event::Left { id, room: room.as_str() }),
            Answer::Refused(refusal)
            | Answer::PostRefused(refusal)
            | Answer::MembersRefused(refusal)
            | Answer::FetchRefused(refusal) => {
                self.refuse(slot, id, &refusal, turn);
            }
        }
        self.mark_ready(slot);
        self.resume_if_light(slot);
    }

    /// The class that the connection reads the room as, where it reads it.
    fn class_in(&self, slot: usize, room: &str) -> Option<ClassName> {
        let reading = &self.subscriptions[self.subscription_of(slot, room)? as usize];
        self.rooms[reading.room as usize].class_name(reading.class).cloned()
    }

    /// A right that ended while a page or a list was on its way stops it.
    fn judge_answer(&self, slot: usize, answer: Answer) -> Answer {
        let (room, needed) = match &answer {
            Answer::Page { room, .. } => (room, Rights::HISTORY),
            Answer::Members { room, .. } => (room, Rights::PRESENCE),
            _ => return answer,
        };
        match must_have(self.rights_in(slot, room.as_str()), needed) {
            Ok(()) => answer,
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    /// An answer came: its room in the outbox is free again.
    pub(crate) fn release(&mut self, slot: usize, reserved_bytes: u32) {
        let session = &mut self.connections[slot];
        debug_assert!(session.reserved_bytes >= reserved_bytes);
        session.reserved_bytes = session.reserved_bytes.saturating_sub(reserved_bytes);
    }

    fn pause_if_heavy(&mut self, slot: usize, turn: &mut Turn<'_>) {
        let half = u64::from(self.limits.outbox_bytes_max / 2);
        if self.connections[slot].waiting_bytes() > half {
            self.pause(slot, turn);
        }
    }
}

fn room_name(room: &str) -> Result<RoomName, Refusal> {
    RoomName::new(room).map_err(|fault| Refusal::new(ErrorCode::RoomNameInvalid, format!("`room`: {fault}")))
}

/// The token of a `hello` that is worth judging.
fn must_prove<'t>(user: &str, token: Option<&'t str>, takes_guests: bool) -> Result<&'t str, Refusal> {
    let Some(token) = token else {
        let message = match takes_guests {
            false => "this server asks for a `token`",
            true => "only a `token` makes you that user: leave `user` out to come in as a guest",
        };
        return Err(Refusal::new(ErrorCode::Unauthorized, message));
    };
    must_be_short(token)?;
    if !user.is_empty() {
        UserName::new(user).map_err(|fault| bad_request(format!("`user`: {fault}")))?;
    }
    Ok(token)
}

fn bad_request(message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(ErrorCode::BadRequest, message)
}

fn owned(body: Body<'_>) -> OwnedBody {
    OwnedBody { format: body.format, bytes: Bytes::copy_from_slice(body.bytes) }
}
