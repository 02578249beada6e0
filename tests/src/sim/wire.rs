//! The clients' own reading of what the server sends, in any of the three forms; JSON by a library that the server
//! does not write with.

use std::borrow::Cow;

use super::scripted::as_sent;
use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event;
use banter_protocol::frame::{Frame, FrameReader, Frames};
use banter_protocol::native;
use banter_protocol::request::BodyFormat;
use banter_protocol::websocket::{Incoming, Role, WebSocketReader};
use banter_protocol::wire::WireForm;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A message as a client has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The room.
    pub room: String,
    /// Its history.
    pub epoch: u64,
    /// The place.
    pub sequence: u64,
    /// Its time, milliseconds since 1970.
    pub time_ms: u64,
    /// Who said it.
    pub user: String,
    /// With which key.
    pub key: Option<String>,
    /// Whether the body is JSON.
    pub is_json: bool,
    /// What was said; where a program of the room edited it, as it was sent.
    pub body: Vec<u8>,
    /// The number that the program gave it.
    pub number: Option<u64>,
    /// The class whose view it is.
    pub class: Option<&'static str>,
}

impl Said {
    /// As it was sent.
    fn undone(mut self) -> Self {
        if let Some((number, body, class)) = self.is_json.then(|| as_sent(&self.body)).flatten() {
            (self.number, self.body, self.class) = (Some(number), body, class);
        }
        self
    }

    /// As it is whoever it is shown to.
    pub fn to_anybody(&self) -> Cow<'_, Said> {
        match self.class {
            None => Cow::Borrowed(self),
            Some(_) => Cow::Owned(Said { class: None, ..self.clone() }),
        }
    }
}

/// What a page has in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// A message.
    Said(Said),
    /// No message: a gap of one.
    Nothing {
        /// The room.
        room: String,
        /// Its history.
        epoch: u64,
        /// The place.
        sequence: u64,
    },
}

impl Placed {
    /// Which place that is: of which room, of which history, and where in it.
    pub fn place(&self) -> (&str, u64, u64) {
        match self {
            Placed::Said(said) => (&said.room, said.epoch, said.sequence),
            Placed::Nothing { room, epoch, sequence } => (room, *epoch, *sequence),
        }
    }

    /// Of what stands in a page.
    fn of(heard: Heard) -> Self {
        match heard {
            Heard::Message(said) => Placed::Said(said),
            Heard::Gap { room, epoch, from, to } if from == to => Placed::Nothing { room, epoch, sequence: from },
            other => panic!("{other:?} in a page"),
        }
    }
}

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the protocol")]
pub enum Heard {
    Welcome { id: Option<u64>, user: String },
    Joined { id: Option<u64>, room: String, epoch: u64, sequence: u64, members: u64 },
    Posted { id: Option<u64>, room: String, epoch: u64, sequence: u64, duplicate: bool },
    Page { id: Option<u64>, room: String, epoch: u64, messages: Vec<Placed>, more: bool },
    Members { id: Option<u64>, room: String, count: u64, users: Vec<String> },
    Left { id: Option<u64>, room: String },
    Taken { id: Option<u64>, room: String },
    Pong { id: Option<u64> },
    Message(Said),
    Signal { room: String, user: String, body: Vec<u8> },
    Presence { room: String, user: Option<String>, count: u64 },
    Gap { room: String, epoch: u64, from: u64, to: u64 },
    Renewed { id: Option<u64> },
    Expiring,
    Removed { room: String, code: ErrorCode },
    Closing,
    Error { id: Option<u64>, code: ErrorCode, retry_after_ms: Option<u64> },
    KeepAlive,
    Close,
}

/// Cuts what one connection is sent into events.
pub enum Ear {
    /// JSON or native frames in WebSocket frames.
    WebSocket(WebSocketReader),
    /// Native frames.
    Native(FrameReader),
}

impl Ear {
    /// For a connection of that form.
    pub fn new(form: WireForm) -> Self {
        if form.is_websocket() {
            Ear::WebSocket(WebSocketReader::new(Role::Client, 1 << 30))
        } else {
            Ear::Native(FrameReader::new(u32::MAX))
        }
    }

    /// What those bytes say.
    ///
    /// # Panics
    /// When the server broke the protocol.
    pub fn hear(&mut self, bytes: &[u8]) -> Vec<Heard> {
        let mut bytes = bytes.to_vec();
        let mut rest = &mut bytes[..];
        let mut heard = Vec::new();
        while !rest.is_empty() {
            let used = match self {
                Ear::WebSocket(reader) => {
                    let (used, incoming) = reader.read(rest).expect("the server's WebSocket frames are right");
                    heard.extend(incoming.and_then(from_websocket));
                    used
                }
                Ear::Native(reader) => {
                    let (used, frame) = reader.read(rest).expect("the server's frames are right");
                    heard.extend(frame.map(from_frame));
                    used
                }
            };
            rest = &mut rest[used..];
        }
        heard
    }
}

fn from_websocket(incoming: Incoming<'_>) -> Option<Heard> {
    match incoming {
        Incoming::Text(text) => Some(from_json(text)),
        Incoming::Binary(bytes) => {
            let (frame, used) = Frame::read(bytes, u32::MAX).expect("a frame in a binary message");
            assert_eq!(used, bytes.len(), "one frame in a binary message");
            Some(from_frame(frame))
        }
        Incoming::Ping(_) => Some(Heard::KeepAlive),
        Incoming::Pong(_) => None,
        Incoming::Close { .. } => Some(Heard::Close),
    }
}

fn said(message: &banter_protocol::event::Message<'_>) -> Said {
    Said {
        room: message.room.to_owned(),
        epoch: message.epoch.0,
        sequence: message.sequence.0,
        time_ms: message.time_ms,
        user: message.user.to_owned(),
        key: message.key.map(str::to_owned),
        is_json: message.body.format == BodyFormat::Json,
        body: message.body.bytes.to_vec(),
        number: None,
        class: None,
    }
    .undone()
}

fn from_frame(frame: Frame<'_>) -> Heard {
    match native::read_event(frame).expect("the server's events are right") {
        Event::Welcome { id, user, .. } => Heard::Welcome { id, user: user.to_owned() },
        Event::Joined { id, room, epoch, sequence, members, .. } => {
            Heard::Joined { id, room: room.to_owned(), epoch: epoch.0, sequence: sequence.0, members }
        }
        Event::Posted { id, room, epoch, sequence, duplicate, .. } => {
            Heard::Posted { id, room: room.to_owned(), epoch: epoch.0, sequence: sequence.0, duplicate }
        }
        Event::Page { id, room, epoch, messages, more } => {
            let placed = |frame: Result<&[u8], _>| {
                let (frame, _) = Frame::read(frame.unwrap(), u32::MAX).expect("a frame in a page");
                Placed::of(from_frame(frame))
            };
            let messages = Frames(messages).map(placed).collect();
            Heard::Page { id, room: room.to_owned(), epoch: epoch.0, messages, more }
        }
        Event::Members { id, room, count, users } => {
            Heard::Members { id, room: room.to_owned(), count, users: users.lines().map(str::to_owned).collect() }
        }
        Event::Taken { id, room, reply: None } => Heard::Taken { id, room: room.to_owned() },
        Event::Taken { .. } => panic!("no program replies"),
        Event::Nodes { .. } => panic!("a server of its own has no other nodes"),
        Event::Left { id, room } => Heard::Left { id, room: room.to_owned() },
        Event::Pong { id } => Heard::Pong { id },
        Event::Message(message) => Heard::Message(said(&message)),
        Event::Signal { room, user, body } => {
            Heard::Signal { room: room.to_owned(), user: user.to_owned(), body: body.bytes.to_vec() }
        }
        Event::Presence { room, change, count } => {
            Heard::Presence { room: room.to_owned(), user: change.map(|(user, _)| user.to_owned()), count }
        }
        Event::Gap { room, epoch, from, to } => {
            Heard::Gap { room: room.to_owned(), epoch: epoch.0, from: from.0, to: to.0 }
        }
        Event::Closing { .. } => Heard::Closing,
        Event::Error { id, code, retry_after_ms, .. } => Heard::Error { id, code, retry_after_ms },
        Event::Renewed { id, .. } => Heard::Renewed { id },
        Event::Expiring { .. } => Heard::Expiring,
        Event::Removed { room, code } => Heard::Removed { room: room.to_owned(), code },
        Event::KeepAlive => Heard::KeepAlive,
    }
}

/// Any JSON event: the fields of all of them.
#[derive(Deserialize)]
struct Fields<'a> {
    r#type: &'a str,
    id: Option<u64>,
    room: Option<String>,
    epoch: Option<u64>,
    sequence: Option<u64>,
    time_ms: Option<u64>,
    members: Option<u64>,
    count: Option<u64>,
    users: Option<Vec<String>>,
    user: Option<String>,
    key: Option<String>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    body_base64: Option<String>,
    duplicate: Option<bool>,
    more: Option<bool>,
    from: Option<u64>,
    to: Option<u64>,
    first_available: Option<u64>,
    code: Option<String>,
    retry_after_ms: Option<u64>,
    #[serde(borrow)]
    messages: Option<Vec<&'a RawValue>>,
}

impl Fields<'_> {
    fn body(&self) -> (bool, Vec<u8>) {
        match (&self.body, &self.body_base64) {
            (Some(body), None) => (true, body.get().as_bytes().to_vec()),
            (None, Some(text)) => (false, STANDARD.decode(text).expect("base64")),
            _ => panic!("a message has one body"),
        }
    }

    fn said(self) -> Said {
        let (is_json, body) = self.body();
        let (room, user) = (self.room.unwrap(), self.user.unwrap());
        let (epoch, sequence, time_ms) = (self.epoch.unwrap(), self.sequence.unwrap(), self.time_ms.unwrap());
        Said { room, epoch, sequence, time_ms, user, key: self.key, is_json, body, number: None, class: None }.undone()
    }
}

fn from_json(text: &str) -> Heard {
    let fields: Fields<'_> = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let (id, room) = (fields.id, fields.room.clone().unwrap_or_default());
    match fields.r#type {
        "welcome" => Heard::Welcome { id, user: fields.user.unwrap() },
        "joined" => {
            let (epoch, sequence) = (fields.epoch.unwrap(), fields.sequence.unwrap());
            Heard::Joined { id, room, epoch, sequence, members: fields.members.unwrap() }
        }
        "posted" => {
            let (epoch, sequence) = (fields.epoch.unwrap(), fields.sequence.unwrap());
            Heard::Posted { id, room, epoch, sequence, duplicate: fields.duplicate.unwrap() }
        }
        "page" => {
            let epoch = fields.epoch.unwrap();
            let messages = fields.messages.unwrap().into_iter().map(|raw| Placed::of(from_json(raw.get())));
            Heard::Page { id, room, epoch, messages: messages.collect(), more: fields.more.unwrap() }
        }
        "members" => Heard::Members { id, room, count: fields.count.unwrap(), users: fields.users.unwrap() },
        "left" => Heard::Left { id, room },
        "taken" => Heard::Taken { id, room },
        "pong" => Heard::Pong { id },
        "message" => Heard::Message(fields.said()),
        "signal" => Heard::Signal { room, body: fields.body().1, user: fields.user.unwrap() },
        "presence" => Heard::Presence { room, user: fields.user, count: fields.count.unwrap() },
        "gap" => {
            let (from, to) = (fields.from.unwrap(), fields.to.unwrap());
            assert_eq!(fields.first_available, Some(to + 1));
            Heard::Gap { room, epoch: fields.epoch.unwrap(), from, to }
        }
        "renewed" => Heard::Renewed { id },
        "expiring" => Heard::Expiring,
        "removed" => Heard::Removed { room, code: ErrorCode::from_name(&fields.code.unwrap()).expect("a known code") },
        "closing" => Heard::Closing,
        "error" => {
            let code = ErrorCode::from_name(&fields.code.unwrap()).expect("a known code");
            Heard::Error { id, code, retry_after_ms: fields.retry_after_ms }
        }
        other => panic!("unknown event {other}"),
    }
}
