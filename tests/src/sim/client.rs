//! One client: what it asks by chance, and what it has to be answered and sent, as docs/protocol.md promises it.

use std::collections::{BTreeMap, HashMap, HashSet};

use banter_chat::address::{ConnectionId, Core};
use banter_protocol::error_code::ErrorCode;
use banter_protocol::features::FeatureNames;
use banter_protocol::ids::{Cursor, Epoch, Sequence};
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};
use banter_protocol::wire::WireForm;

use super::coverage::Coverage;
use super::profile::{BLANK_EPOCHS_LAST, Profile};
use super::truth::{Truth, Voice};
use super::wire::{Ear, Heard, Placed, Said};
use crate::seeded::Seeded;

/// A client of the simulated world; its connection comes and goes.
pub struct Client {
    /// Its number.
    pub number: usize,
    /// Its user; two clients may share one.
    pub user: String,
    /// Connections it had.
    pub connections: u32,
    /// The one it has.
    pub connection: Option<Connection>,
    /// Where it was in each room.
    pub cursors: HashMap<String, (u64, u64)>,
    /// Events that it was sent, but for the question whether it is there.
    pub heard: u64,
    posts: u64,
    last_keyed: Option<LastKeyed>,
}

/// A keyed post that a client makes again once it has another connection, as one does that missed the answer.
struct LastKeyed {
    room: String,
    key: String,
    body: Vec<u8>,
    /// The connection that it was asked on.
    connection: u32,
    asked_ms: u64,
}

/// One connection as its client knows it.
pub struct Connection {
    /// Its core.
    pub core: Core,
    /// Its place there.
    pub id: ConnectionId,
    /// Its form.
    pub form: WireForm,
    /// Requests without an answer.
    pub asked: BTreeMap<u64, Asked>,
    /// Rooms that it reads, as the last `joined` and `left` said.
    pub readings: HashMap<String, Reading>,
    /// It takes nothing for now.
    pub is_stalled: bool,
    /// The server said that it stops.
    pub is_closing: bool,
    /// The server took it for gone.
    pub is_timed_out: bool,
    /// It said who it is.
    pub greeted: bool,
    /// The page that it heard last.
    pub last_page: Option<HeardPage>,
    ear: Ear,
    next_id: u64,
    posted: HashMap<String, u64>,
    delivered: HashSet<(String, u64, u64)>,
}

/// What a page held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeardPage {
    /// Its first and its last message.
    pub places: Option<(u64, u64)>,
    /// Whether there is more in that direction.
    pub more: bool,
}

/// A request under way.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are those of the request")]
pub enum Asked {
    Hello,
    /// `goes_on`: it read the room, and had asked for no other start and no end of it.
    Join {
        room: String,
        from: JoinFrom,
        echo: bool,
        presence: bool,
        goes_on: bool,
    },
    Post {
        room: String,
        key: Option<String>,
        body: Vec<u8>,
        asked_ms: u64,
    },
    Fetch {
        room: String,
        from: FetchFrom,
        limit: Option<u64>,
    },
    Members {
        room: String,
    },
    Leave {
        room: String,
    },
    Ping,
}

/// A room as one connection reads it.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Its history.
    pub epoch: u64,
    /// The newest place that it has, or does not want; `Err`: the first place must be behind this, and up to `.1`.
    pub position: Result<u64, (u64, u64)>,
    /// Whether it gets its own posts.
    pub echo: bool,
    /// Whether it hears who comes and goes.
    pub presence: bool,
    /// Members, as it was told last.
    pub members: u64,
}

/// A request that owns its parts.
#[derive(Debug)]
pub struct Wish {
    id: Option<u64>,
    ask: Ask<'static>,
    body: Option<(BodyFormat, Vec<u8>)>,
}

impl Wish {
    /// As the shard takes it.
    pub fn with_request<R>(&self, take: impl FnOnce(&Request<'_>) -> R) -> R {
        let body = self.body.as_ref().map(|(format, bytes)| Body { format: *format, bytes });
        let ask = match (&self.ask, body) {
            (Ask::Post { room, key, .. }, Some(body)) => Ask::Post { room: room.clone(), body, key: key.clone() },
            (Ask::Signal { room, .. }, Some(body)) => Ask::Signal { room: room.clone(), body },
            (ask, _) => ask.clone(),
        };
        take(&Request { id: self.id, ask })
    }
}

const NO_BODY: Body<'static> = Body { format: BodyFormat::Json, bytes: b"" };

impl Client {
    /// A client that was never connected.
    pub fn new(number: usize, user: String) -> Self {
        Client {
            number,
            user,
            connections: 0,
            connection: None,
            cursors: HashMap::new(),
            heard: 0,
            posts: 0,
            last_keyed: None,
        }
    }

    fn voice(&self) -> Voice {
        (self.number, self.connections)
    }

    /// It has a connection now.
    pub fn connect(&mut self, core: Core, id: ConnectionId, form: WireForm) {
        self.connections += 1;
        self.connection = Some(Connection {
            core,
            id,
            form,
            asked: BTreeMap::new(),
            readings: HashMap::new(),
            is_stalled: false,
            is_closing: false,
            is_timed_out: false,
            last_page: None,
            ear: Ear::new(form),
            next_id: 1,
            greeted: false,
            posted: HashMap::new(),
            delivered: HashSet::new(),
        });
    }

    /// What it asks next, by chance.
    pub fn wish(
        &mut self,
        chance: &mut Seeded,
        profile: &Profile,
        truth: &mut Truth,
        seen: &mut Coverage,
    ) -> Option<Wish> {
        let voice = self.voice();
        let rooms: Vec<String> = (0..profile.rooms).map(|room| format!("room-{room}")).collect();
        let mut room = chance.pick(&rooms).clone();
        let connection = self.connection.as_mut()?;
        if !connection.greeted {
            connection.greeted = true;
            let ask = Ask::Hello { user: self.user.clone().into(), token: None, features: FeatureNames::NONE };
            return Some(connection.ask(Asked::Hello, ask, None));
        }
        let is_of_another_connection =
            |last: &mut LastKeyed| profile.repeats_keys && last.connection < self.connections;
        if let Some(last) = self.last_keyed.take_if(is_of_another_connection) {
            if connection.readings.contains_key(&last.room) {
                seen.saw("keyed post made again on another connection");
                let is_behind_a_start = last.asked_ms < truth.keys.gone_ms();
                seen.saw_times("keyed post made again behind a start", u64::from(is_behind_a_start));
                return Some(self.post_with_key(last.room, last.key, last.body, truth));
            }
            room.clone_from(&last.room);
            let is_joining = connection.asked.values().any(|asked| matches!(asked, Asked::Join { .. }));
            self.last_keyed = Some(last);
            if !is_joining && chance.once_in(2) {
                return Some(self.wish_join(room, chance, seen));
            }
        }
        let reads = connection.readings.contains_key(&room);
        let is_joining =
            connection.asked.values().any(|asked| matches!(asked, Asked::Join { room: other, .. } if *other == room));
        match chance.below(20) {
            0..=3 if !reads || chance.once_in(6) => {
                seen.saw_times("rejoin", u64::from(reads));
                seen.saw_times("rejoin while joining", u64::from(is_joining));
                Some(self.wish_join(room, chance, seen))
            }
            0..=11 => Some(self.wish_post(room, chance, profile, truth)),
            12 | 13 => Some(self.wish_fetch(room, chance)),
            14 => {
                let body = format!("\"signal of {voice:?}\"").into_bytes();
                let ask = Ask::Signal { room: room.into(), body: NO_BODY };
                Some(Wish { id: None, ask, body: Some((BodyFormat::Json, body)) })
            }
            15 | 16 => {
                let ask = Ask::Members { room: room.clone().into() };
                Some(connection.ask(Asked::Members { room }, ask, None))
            }
            17 if reads => {
                let ask = Ask::Leave { room: room.clone().into() };
                Some(connection.ask(Asked::Leave { room }, ask, None))
            }
            _ => Some(connection.ask(Asked::Ping, Ask::Ping, None)),
        }
    }

    fn wish_join(&mut self, room: String, chance: &mut Seeded, seen: &mut Coverage) -> Wish {
        let cursor = self.cursors.get(&room).copied();
        let from = match (chance.below(8), cursor) {
            (0, _) => JoinFrom::Now,
            (1 | 2, _) => JoinFrom::Last(chance.below(30) as u64),
            (3, Some((epoch, sequence))) if chance.once_in(4) => {
                JoinFrom::After(Cursor { epoch: Epoch(epoch), sequence: Sequence(sequence + 1_000_000) })
            }
            (3, _) if chance.once_in(4) => JoinFrom::After(Cursor { epoch: Epoch(1), sequence: Sequence(0) }),
            (_, Some((epoch, sequence))) => {
                seen.saw("resumed");
                JoinFrom::After(Cursor { epoch: Epoch(epoch), sequence: Sequence(sequence) })
            }
            (_, None) => JoinFrom::Last(1_000_000),
        };
        let (echo, presence) = (!chance.once_in(3), chance.once_in(2));
        let ask = Ask::Join { room: room.clone().into(), from, echo, presence, token: None };
        let connection = self.connection.as_mut().expect("it is connected");
        let is_asked_about = |asked: &Asked| matches!(asked, Asked::Join { room: other, .. } | Asked::Leave { room: other } if *other == room);
        let goes_on = connection.readings.contains_key(&room) && !connection.asked.values().any(is_asked_about);
        connection.ask(Asked::Join { room, from, echo, presence, goes_on }, ask, None)
    }

    fn wish_post(&mut self, room: String, chance: &mut Seeded, profile: &Profile, truth: &mut Truth) -> Wish {
        self.posts += 1;
        let now_ms = truth.now_ms;
        let connection = self.connection.as_mut().expect("it is connected");
        let is_raw = connection.form != WireForm::Json && chance.once_in(4);
        // A key comes again with the same body, soon or later, and seldom with another.
        let number = if chance.once_in(4) { chance.below(1 + self.posts as usize / 3) as u64 } else { self.posts / 3 };
        let key = chance.once_in(3).then(|| format!("key-{number}"));
        let text = match &key {
            Some(key) if chance.once_in(8) => format!("{} another {key}", self.number),
            Some(key) => format!("{} keyed {key}", self.user),
            None => format!("{} says {} {}", self.number, self.posts, "x".repeat(chance.below(profile.body_bytes_max))),
        };
        let (format, body) =
            if is_raw && key.is_none() { (BodyFormat::Bytes, text) } else { (BodyFormat::Json, format!("\"{text}\"")) };
        let body = body.into_bytes();
        if let Some(key) = key {
            return self.post_with_key(room, key, body, truth);
        }
        let ask = Ask::Post { room: room.clone().into(), body: NO_BODY, key: None };
        connection.ask(Asked::Post { room, key: None, body: body.clone(), asked_ms: now_ms }, ask, Some((format, body)))
    }

    fn post_with_key(&mut self, room: String, key: String, body: Vec<u8>, truth: &mut Truth) -> Wish {
        let asked_ms = truth.now_ms;
        truth.keys.asked(&room, &self.user, &key, asked_ms);
        self.last_keyed = Some(LastKeyed {
            room: room.clone(),
            key: key.clone(),
            body: body.clone(),
            connection: self.connections,
            asked_ms,
        });
        let connection = self.connection.as_mut().expect("it is connected");
        let ask = Ask::Post { room: room.clone().into(), body: NO_BODY, key: Some(key.clone().into()) };
        connection.ask(
            Asked::Post { room, key: Some(key), body: body.clone(), asked_ms },
            ask,
            Some((BodyFormat::Json, body)),
        )
    }

    fn wish_fetch(&mut self, room: String, chance: &mut Seeded) -> Wish {
        let sequence = Sequence(if chance.once_in(6) { u64::MAX } else { chance.below(60) as u64 });
        let from = if chance.once_in(2) { FetchFrom::Before(sequence) } else { FetchFrom::After(sequence) };
        let limit = chance.once_in(2).then(|| 1 + chance.below(20) as u64);
        self.fetch(room, from, limit)
    }

    /// Asks for a part of a history.
    pub fn fetch(&mut self, room: String, from: FetchFrom, limit: Option<u64>) -> Wish {
        let connection = self.connection.as_mut().expect("it is connected");
        let ask = Ask::Fetch { room: room.clone().into(), from, limit };
        connection.ask(Asked::Fetch { room, from, limit }, ask, None)
    }

    /// The connection is gone.
    pub fn vanish(&mut self) {
        self.connection = None;
    }

    /// Bytes came. `true`: the server wants to know whether the client is there.
    pub fn hear(
        &mut self,
        bytes: &[u8],
        profile: &Profile,
        truth: &mut Truth,
        seen: &mut Coverage,
        verbose: bool,
    ) -> bool {
        let voice = self.voice();
        let Some(connection) = self.connection.as_mut() else { return false };
        let (mut is_ended, mut is_asked) = (false, false);
        for heard in connection.ear.hear(bytes) {
            if verbose {
                println!("    client {} hears {heard:?}", self.number);
            }
            assert!(!is_ended, "nothing comes behind the close: {heard:?}");
            is_asked |= heard == Heard::KeepAlive;
            self.heard += u64::from(heard != Heard::KeepAlive);
            let mut hearing =
                Hearing { user: &self.user, voice, connection, cursors: &mut self.cursors, profile, truth, seen };
            is_ended = hearing.take(heard);
        }
        is_asked
    }
}

impl Connection {
    fn ask(&mut self, asked: Asked, ask: Ask<'static>, body: Option<(BodyFormat, Vec<u8>)>) -> Wish {
        let id = self.next_id;
        self.next_id += 1;
        self.asked.insert(id, asked);
        Wish { id: Some(id), ask, body }
    }
}

/// One event, with everything that it is checked against.
struct Hearing<'h> {
    user: &'h str,
    voice: Voice,
    connection: &'h mut Connection,
    cursors: &'h mut HashMap<String, (u64, u64)>,
    profile: &'h Profile,
    truth: &'h mut Truth,
    seen: &'h mut Coverage,
}

impl Hearing<'_> {
    fn answered(&mut self, id: Option<u64>) -> Asked {
        let id = id.expect("an answer names its request");
        self.connection.asked.remove(&id).unwrap_or_else(|| panic!("request {id} was answered twice, or never asked"))
    }

    fn take(&mut self, heard: Heard) -> bool {
        match heard {
            Heard::Welcome { id } => assert!(matches!(self.answered(id), Asked::Hello)),
            Heard::Pong { id } => assert!(matches!(self.answered(id), Asked::Ping)),
            Heard::Joined { id, room, epoch, sequence, members } => self.joined(id, room, epoch, sequence, members),
            Heard::Left { id, room } => {
                let Asked::Leave { room: asked } = self.answered(id) else { panic!("`left` answers a leave") };
                assert_eq!(asked, room);
                self.connection.readings.remove(&room).expect("it read the room");
                // Who joins afresh may ask for everything again.
                self.connection.delivered.retain(|(other, _, _)| *other != room);
                self.seen.saw("left");
            }
            Heard::Posted { id, room, epoch, sequence, duplicate } => self.posted(id, room, epoch, sequence, duplicate),
            Heard::Page { id, room, epoch, messages, more } => self.page(id, &room, epoch, &messages, more),
            Heard::Members { id, room, count, users } => {
                let Asked::Members { room: asked } = self.answered(id) else { panic!("`members` answers its ask") };
                assert!(asked == room && users.len() as u64 == count.min(100) && users.is_sorted());
                self.seen.saw("members answer");
            }
            Heard::Message(said) => self.message(&said),
            Heard::Gap { room, epoch, from, to } => self.gap(&room, epoch, from, to),
            Heard::Signal { room, body, .. } => {
                assert!(self.connection.readings.contains_key(&room), "a signal of a room that it does not read");
                let own = format!("\"signal of {:?}\"", self.voice).into_bytes();
                assert_ne!(body, own, "a signal comes back to its sender");
                self.seen.saw("signal");
            }
            Heard::Presence { room, user, count } => {
                let reading =
                    self.connection.readings.get_mut(&room).expect("presence of a room that it does not read");
                assert!(reading.presence, "presence was not asked for");
                reading.members = count;
                self.seen.saw(if user.is_some() { "presence of a user" } else { "presence counts only" });
            }
            Heard::Error { id: Some(id), code, retry_after_ms } => {
                self.refused(id, code);
                let is_of_log = code == ErrorCode::LogFull || code == ErrorCode::Overloaded;
                assert!(!is_of_log || retry_after_ms.is_some(), "{code:?} says when to come again");
            }
            Heard::Error { id: None, code: ErrorCode::TimedOut, .. } => {
                self.connection.is_timed_out = true;
                self.seen.saw("closed as idle");
            }
            // A signal has no number.
            Heard::Error { id: None, code: ErrorCode::NotJoined | ErrorCode::RateLimited, .. } => {}
            Heard::Error { id: None, code, .. } => panic!("{code:?} without a request"),
            Heard::Closing => self.connection.is_closing = true,
            Heard::KeepAlive => {}
            Heard::Close => return true,
        }
        false
    }

    fn joined(&mut self, id: Option<u64>, room: String, epoch: u64, head: u64, members: u64) {
        let Asked::Join { room: asked, from, echo, presence, goes_on } = self.answered(id) else {
            panic!("`joined` answers a join")
        };
        assert_eq!(asked, room);
        assert!(members > 0, "the one who joins is counted");
        self.truth.joined(&room, epoch);
        if head == 0 {
            // A place in a room without messages is a place to come back to.
            self.cursors.insert(room.clone(), (epoch, 0));
        }
        let position = match from {
            JoinFrom::Now => Ok(head),
            JoinFrom::Last(0) => Ok(head),
            JoinFrom::Last(count) if self.is_whole(&room) => Ok(head.saturating_sub(count)),
            JoinFrom::Last(count) => Err((head.saturating_sub(count), head)),
            JoinFrom::After(cursor) => {
                assert!(cursor.epoch.0 == epoch && cursor.sequence.0 <= head, "such a cursor is refused");
                Ok(cursor.sequence.0)
            }
        };
        // Who joins again goes on behind what it got. Of joins that overtake their answers the last counts: what it moves
        // over may have been delivered or not, and comes once at most.
        let before = self.connection.readings.get(&room).filter(|before| before.epoch == epoch);
        let position = match before.map(|before| before.position) {
            None => position,
            Some(Ok(read)) if goes_on && self.connection.readings[&room].echo => {
                self.seen.saw("goes on where it read");
                match from {
                    JoinFrom::After(cursor) => Ok(read.max(cursor.sequence.0)),
                    JoinFrom::Now | JoinFrom::Last(_) => Ok(read),
                }
            }
            Some(before) => {
                let (low, high) = position.map_or_else(|span| span, |position| (position, position));
                let read_low = before.unwrap_or_else(|(low, _)| low);
                // Where an earlier answer was not there yet, it goes on behind what it got before that one.
                let low = if goes_on { low.min(read_low) } else { 0 };
                // Own posts that the reading before did not want have moved it on unseen.
                let read = before.ok().filter(|_| self.connection.readings[&room].echo).unwrap_or(head);
                Err((low, high.max(read)))
            }
        };
        self.connection.readings.insert(room, Reading { epoch, position, echo, presence, members });
    }

    fn posted(&mut self, id: Option<u64>, room: String, epoch: u64, sequence: u64, duplicate: bool) {
        let number = id.unwrap_or_default();
        let Asked::Post { room: asked, key, body, asked_ms } = self.answered(id) else {
            panic!("`posted` answers a post")
        };
        assert_eq!(asked, room);
        let last = self.connection.posted.entry(room.clone()).or_default();
        assert!(*last < number, "posts are answered in the order they were sent");
        *last = number;
        let place = (room, epoch, sequence);
        if duplicate {
            let key = key.expect("only a keyed post is a repeated one");
            let (room, epoch, sequence) = (&place.0, epoch, sequence);
            let is_earlier = self.truth.keys.is_of_earlier_run(room, epoch, sequence);
            self.seen.saw_times("duplicate of an earlier run", u64::from(is_earlier));
            self.truth.repeated((room, epoch, sequence), (self.user, &key), &body);
            self.seen.saw("duplicate post");
        } else {
            self.truth.acknowledged(place, self.voice, self.user, key.as_deref(), (&body, asked_ms));
        }
    }

    fn page(&mut self, id: Option<u64>, room: &str, epoch: u64, messages: &[Placed], more: bool) {
        let Asked::Fetch { room: asked, from, limit } = self.answered(id) else { panic!("`page` answers a fetch") };
        assert_eq!(asked, room);
        assert!(messages.len() as u64 <= limit.unwrap_or(u64::MAX).min(self.profile.limits.fetch_messages_max.into()));
        let place = |placed: &Placed| placed.place().2;
        for (placed, next) in messages.iter().zip(&messages[messages.len().min(1)..]) {
            assert_eq!(place(placed) + 1, place(next), "a page is dense and ascending");
        }
        let places = messages.first().map(place).zip(messages.last().map(place));
        if let Some((first, last)) = places {
            match from {
                FetchFrom::After(after) if self.is_whole(room) => assert_eq!(first, after.0 + 1),
                FetchFrom::After(after) => assert!(first > after.0),
                FetchFrom::Before(before) => assert!(last < before.0),
            }
        } else {
            assert!(!more, "an empty page is the end");
        }
        for placed in messages {
            let (of_room, of_epoch, sequence) = placed.place();
            assert_eq!((of_room, of_epoch), (room, epoch));
            match placed {
                Placed::Said(said) => self.truth.saw(said),
                Placed::Nothing { .. } => {
                    self.truth.lacks(room, epoch, sequence);
                    self.seen.saw("gap in a page");
                }
            }
        }
        self.connection.last_page = Some(HeardPage { places, more });
        self.seen.saw("fetch page");
    }

    /// Whether all that a room ever had is there from its first message on. Of what is only written a power cut may take what
    /// is before, and leave what is behind it.
    fn is_whole(&self, room: &str) -> bool {
        self.profile.history_is_whole && (self.profile.is_synced(room) || !self.truth.power_went)
    }

    fn message(&mut self, said: &Said) {
        self.truth.saw(said);
        self.seen.saw("delivery");
        let reading = self.connection.readings.get_mut(&said.room).expect("a message of a room that it does not read");
        assert_eq!(said.epoch, reading.epoch, "a message of another history");
        let start = match reading.position {
            Ok(position) => position,
            // What was left of the history, or what was not read before, starts anywhere up to `high`.
            Err((low, high)) => {
                assert!(said.sequence > low, "{} comes, and what is behind {low} was asked for", said.sequence);
                (said.sequence - 1).min(high)
            }
        };
        assert!(said.sequence > start, "{} comes behind {start}", said.sequence);
        let is_new = self.connection.delivered.insert((said.room.clone(), said.epoch, said.sequence));
        assert!(is_new, "{} was delivered twice", said.sequence);
        if reading.echo {
            assert_eq!(said.sequence, start + 1, "a hole behind {start}");
        } else {
            self.truth.spared(&said.room, said.epoch, start + 1..said.sequence, self.voice);
            self.truth.unspared(&said.room, said.epoch, said.sequence, self.voice);
            self.seen.saw_times("echo spared", said.sequence - start - 1);
        }
        reading.position = Ok(said.sequence);
        self.cursors.insert(said.room.clone(), (said.epoch, said.sequence));
    }

    fn gap(&mut self, room: &str, epoch: u64, from: u64, to: u64) {
        self.truth.gap(room, epoch, to);
        let reading = self.connection.readings.get_mut(room).expect("a gap of a room that it does not read");
        assert!(epoch == reading.epoch && from <= to);
        match reading.position {
            Ok(position) if reading.echo => assert_eq!(from, position + 1, "a gap starts behind what was read"),
            Ok(position) => {
                assert!(from > position);
                self.truth.spared(room, epoch, position + 1..from, self.voice);
            }
            Err((low, _)) => assert!(from > low),
        }
        reading.position = Ok(to);
        self.cursors.insert(room.to_owned(), (epoch, to));
        self.seen.saw("catch-up from a gap");
    }

    fn refused(&mut self, id: u64, code: ErrorCode) {
        let asked = self.answered(Some(id));
        match (code, &asked) {
            (ErrorCode::NotJoined, Asked::Post { .. } | Asked::Leave { .. }) => {}
            (ErrorCode::RateLimited, Asked::Post { .. }) => self.seen.saw("rate_limited"),
            (ErrorCode::Overloaded, Asked::Join { .. }) => self.seen.saw("rooms_per_connection_max"),
            (ErrorCode::KeyConflict, Asked::Post { key: Some(_), .. }) => self.seen.saw("key_conflict"),
            (ErrorCode::WrongEpoch, Asked::Join { room, from: JoinFrom::After(cursor), .. }) => {
                // What the log keeps for good goes on under one epoch.
                let is_kept = self.profile.keeps(room);
                let is_blank = cursor.sequence.0 == 0;
                let may_change = is_blank && !(BLANK_EPOCHS_LAST && self.truth.is_lasting(room, cursor.epoch.0));
                assert!(!is_kept || may_change || cursor.sequence.0 >= 1_000_000, "{room}: {cursor:?}");
                self.cursors.remove(room);
                self.seen.saw("wrong_epoch");
            }
            (ErrorCode::CursorAhead, Asked::Join { from: JoinFrom::After(cursor), .. }) => {
                assert!(cursor.sequence.0 >= 1_000_000, "a cursor that the server gave is never ahead");
                self.seen.saw("cursor_ahead");
            }
            (ErrorCode::LogFull, Asked::Post { .. }) => self.seen.saw("log_full"),
            (ErrorCode::LogFailed, Asked::Post { .. }) => self.seen.saw("log_failed"),
            (ErrorCode::Overloaded, Asked::Fetch { .. }) => {}
            // The window of the room could not be read.
            (ErrorCode::Overloaded, Asked::Post { key: Some(_), .. }) if self.profile.reads_fail() => {
                self.seen.saw("keyed post refused for a read that failed");
            }
            (ErrorCode::Draining, Asked::Post { .. } | Asked::Join { .. }) => {}
            _ => panic!("{asked:?} was refused with {code:?}"),
        }
    }
}
