//! One client: what it asks by chance, and what it has to be answered and sent, as docs/protocol.md promises it.

mod hearing;

use std::collections::{BTreeMap, HashMap, HashSet};

use banter_chat::address::{ConnectionId, Core};
use banter_protocol::features::FeatureNames;
use banter_protocol::ids::{Cursor, Epoch, Sequence};
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};
use banter_protocol::wire::WireForm;

use super::coverage::Coverage;
use super::identity::{Must, Standing};
use super::profile::Profile;
use super::truth::{Truth, Voice};
use super::wire::{Ear, Heard};
use crate::seeded::Seeded;
use hearing::Hearing;

/// A client of the simulated world; its connection comes and goes.
pub struct Client {
    /// Its number.
    pub number: usize,
    /// Its user; two clients may share one. That of a guest's connection is the server's, and nobody else's.
    pub user: String,
    /// Its user where it is no guest.
    own_user: String,
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
    /// The server knows who it is.
    pub welcomed: bool,
    /// It said so as a guest.
    pub is_guest: bool,
    /// It was told that its token ends soon.
    pub is_expiring: bool,
    /// What requests have to be answered as far as rights go, and when they were handed in.
    pub handed: HashMap<u64, (Must, u64)>,
    /// When the join of each room that was answered last was handed in, or its token's verdict.
    pub joined_at: HashMap<String, u64>,
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
    Renew,
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

    /// The same, with a token for the room, if it is a join.
    #[must_use]
    pub fn with_room_token(self, for_room: impl FnOnce(&str) -> Option<String>) -> Self {
        match self.ask {
            Ask::Join { room, from, echo, presence, .. } => {
                let token = for_room(&room).map(Into::into);
                Wish { ask: Ask::Join { room, from, echo, presence, token }, ..self }
            }
            ask => Wish { ask, ..self },
        }
    }

    /// Its number.
    pub fn id(&self) -> Option<u64> {
        self.id
    }
}

const NO_BODY: Body<'static> = Body { format: BodyFormat::Json, bytes: b"" };

impl Client {
    /// A client that was never connected.
    pub fn new(number: usize, user: String) -> Self {
        Client {
            number,
            own_user: user.clone(),
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
        self.user.clone_from(&self.own_user);
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
            welcomed: false,
            is_guest: false,
            is_expiring: false,
            handed: HashMap::new(),
            joined_at: HashMap::new(),
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

    /// Says who it is, by a token.
    pub fn hello_with(&mut self, token: String) -> Option<Wish> {
        let connection = self.connection.as_mut()?;
        connection.greeted = true;
        let ask = Ask::Hello { user: "".into(), token: Some(token.into()), features: FeatureNames::NONE };
        Some(connection.ask(Asked::Hello, ask, None))
    }

    /// Comes in as a guest.
    pub fn hello_as_guest(&mut self) -> Option<Wish> {
        let connection = self.connection.as_mut()?;
        (connection.greeted, connection.is_guest) = (true, true);
        let ask = Ask::Hello { user: "".into(), token: None, features: FeatureNames::NONE };
        Some(connection.ask(Asked::Hello, ask, None))
    }

    /// Whether it is a guest that does not know its name yet.
    pub fn awaits_its_name(&self) -> bool {
        self.connection.as_ref().is_some_and(|there| there.is_guest && !there.welcomed)
    }

    /// Goes on with another token.
    pub fn renew_with(&mut self, token: String) -> Option<Wish> {
        Some(self.connection.as_mut()?.ask(Asked::Renew, Ask::Renew { token: token.into() }, None))
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
        truth.asked(&room, &body);
        let ask = Ask::Post { room: room.clone().into(), body: NO_BODY, key: None };
        connection.ask(Asked::Post { room, key: None, body: body.clone(), asked_ms: now_ms }, ask, Some((format, body)))
    }

    fn post_with_key(&mut self, room: String, key: String, body: Vec<u8>, truth: &mut Truth) -> Wish {
        let asked_ms = truth.now_ms;
        truth.keys.asked(&room, &self.user, &key, asked_ms);
        truth.asked(&room, &body);
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
        (truth, seen): (&mut Truth, &mut Coverage),
        standing: Option<&Standing>,
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
            if let (Heard::Welcome { user, .. }, true) = (&heard, connection.is_guest) {
                assert!(user.starts_with("~g"), "a guest is called {user}");
                self.user.clone_from(user);
            }
            let (user, cursors) = (&self.user, &mut self.cursors);
            let mut hearing = Hearing { user, voice, connection, cursors, profile, truth, seen, standing };
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
