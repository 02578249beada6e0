//! A server in a few lines, and the pair of it and a session with virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::{Event as Said, Message};
use banter_protocol::frame::{FrameReader, PREAMBLE};
use banter_protocol::ids::{Epoch, RequestId, Sequence, UserName};
use banter_protocol::native;
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom};

use crate::event::Event;
use crate::options::{Join, Options};
use crate::session::{Link, Session};

const FRAME_BYTES_MAX: u32 = 4096;

pub fn options(seed: u64) -> Options {
    Options::new(UserName::new("me").unwrap(), seed)
}

pub fn body(json: &[u8]) -> Body<'_> {
    Body { format: BodyFormat::Json, bytes: json }
}

/// Sequence and body of every message.
pub fn bodies(events: &[Event]) -> Vec<(u64, String)> {
    let of = |event: &Event| match event {
        Event::Message(m) => Some((m.cursor.sequence.0, String::from_utf8(m.body.bytes.clone()).unwrap())),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

struct Stored {
    user: String,
    key: String,
    body: Vec<u8>,
}

#[derive(Default)]
struct FakeRoom {
    epoch: u64,
    /// Messages below this place are gone.
    first: usize,
    stored: Vec<Stored>,
    has_reader: bool,
}

/// One connection's server; its rooms outlive the connection.
#[derive(Default)]
pub struct Server {
    rooms: BTreeMap<String, FakeRoom>,
    reader: Option<FrameReader>,
    pub out: Vec<u8>,
    /// The features of the last `hello`, and what is answered to it: names, each ended by a line feed.
    pub said_features: String,
    /// The token of the last hello.
    pub said_token: Option<String>,
    /// The token of the last join.
    pub said_room_token: Option<String>,
    /// A leave is answered `not_joined`.
    pub refuse_leaves: bool,
    pub agreed: &'static str,
    /// The number of a code and `retry_after_ms`; the same of the other kinds of request.
    pub refuse_next_post: Option<(u8, Option<u64>)>,
    pub refuse_next_join: Option<(u8, Option<u64>)>,
    pub refuse_next_ask: Option<(u8, Option<u64>)>,
    pub refuse_hello: Option<u8>,
    /// It stands by: everybody is told of these nodes, each ended by a line feed, and to go elsewhere. None: it serves.
    pub stands_by: Option<String>,
    /// What is told behind `welcome`.
    pub nodes: String,
    /// The next posts get into the history, so many of them, and nobody knows.
    pub lose_answers: usize,
    /// It closes the connection behind what it said.
    pub is_closing: bool,
    /// What those said who came: their tokens.
    pub said_tokens: Vec<Option<String>>,
    /// Every post is refused with `log_failed`.
    pub is_log_broken: bool,
    /// Pages and lists of members are not answered.
    pub is_mute: bool,
    /// What `welcome` says of the dedupe window.
    pub keys_max: u64,
    /// The keys of posts that were refused.
    pub refused_keys: Vec<String>,
    pub pings: usize,
    pub signals: usize,
}

impl Server {
    fn room(&mut self, room: &str) -> &mut FakeRoom {
        self.rooms.entry(room.into()).or_insert_with(|| FakeRoom { epoch: 1, ..FakeRoom::default() })
    }

    pub fn send(&mut self, event: &Said<'_>) {
        native::write_event(event, &mut self.out);
    }

    /// An event whose last byte, its code, state or format, is another number.
    pub fn send_with_number(&mut self, event: &Said<'_>, number: u8) {
        self.send(event);
        *self.out.last_mut().unwrap() = number;
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub fn refuse(&mut self, id: RequestId, number: u8, retry_after_ms: Option<u64>) {
        let code = ErrorCode::BadFrame;
        self.send_with_number(
            &Said::Error { id, code, message: "no", retry_after_ms, scope: None, reason: None },
            number,
        );
    }

    pub fn stored(&mut self, room: &str) -> usize {
        self.room(room).stored.len()
    }

    pub fn keys(&mut self, room: &str) -> BTreeSet<String> {
        self.room(room).stored.iter().map(|stored| stored.key.clone()).collect()
    }

    pub fn forget_below(&mut self, room: &str, sequence: usize) {
        self.room(room).first = sequence - 1;
    }

    pub fn lose_history(&mut self, room: &str, epoch: Epoch) {
        *self.room(room) = FakeRoom { epoch: epoch.0, ..FakeRoom::default() };
    }

    pub fn say(&mut self, room: &str, user: &str) {
        self.say_to_nobody(room, user);
        let head = self.stored(room);
        if self.room(room).has_reader {
            self.say_again(room, head);
        }
    }

    pub fn say_to_nobody(&mut self, room: &str, user: &str) {
        let body = format!("\"{}\"", self.stored(room) + 1).into_bytes();
        self.room(room).stored.push(Stored { user: user.into(), key: String::new(), body });
    }

    pub fn say_again(&mut self, room: &str, sequence: usize) {
        let frame = self.message_frame(room, sequence);
        self.send_bytes(&frame);
    }

    pub fn message_frame(&self, room: &str, sequence: usize) -> Vec<u8> {
        let found = self.rooms.get(room).unwrap();
        let stored = &found.stored[sequence - 1];
        let message = Message {
            epoch: Epoch(found.epoch),
            sequence: Sequence(sequence as u64),
            time_ms: 1,
            room,
            user: &stored.user,
            key: Some(stored.key.as_str()).filter(|key| !key.is_empty()),
            body: body(&stored.body),
        };
        let mut frame = Vec::new();
        native::write_message(&message, &mut frame);
        frame
    }

    /// The rooms, with their histories: to where another takes over.
    pub fn give_rooms_to(&mut self, other: &mut Server) {
        other.rooms = std::mem::take(&mut self.rooms);
    }

    pub fn disconnect(&mut self) {
        self.is_closing = false;
        self.reader = None;
        self.out.clear();
        self.rooms.values_mut().for_each(|room| room.has_reader = false);
    }

    pub fn read(&mut self, mut bytes: &[u8]) {
        let mut reader = self.reader.take().unwrap_or_else(|| {
            bytes = bytes.strip_prefix(&PREAMBLE).expect("the preamble comes first");
            FrameReader::new(FRAME_BYTES_MAX)
        });
        while !bytes.is_empty() {
            let (used, frame) = reader.read(bytes).unwrap();
            bytes = &bytes[used..];
            if let Some(frame) = frame {
                let request = native::read_request(frame).unwrap();
                self.answer(request.id, &request.ask);
            }
        }
        self.reader = Some(reader);
    }

    /// As a node that stands by answers, or one that serves no longer.
    pub fn send_away(&mut self, id: RequestId) {
        let nodes = self.stands_by.clone().unwrap_or_default();
        self.send(&Said::Nodes { nodes: &nodes });
        self.refuse(id, ErrorCode::Unavailable as u8, Some(1_000));
        self.is_closing = true;
    }

    fn answer(&mut self, id: RequestId, ask: &Ask<'_>) {
        if let Ask::Hello { token, .. } = ask {
            self.said_tokens.push(token.as_deref().map(str::to_owned));
        }
        match ask {
            _ if self.stands_by.is_some() => self.send_away(id),
            Ask::Hello { user, features, token } => match self.refuse_hello {
                Some(number) => self.refuse(id, number, None),
                None => {
                    let limits = self.limits();
                    let (limits, durability, agreed) = (&*limits, "memory", self.agreed);
                    self.said_features = features.lines();
                    self.said_token = token.as_deref().map(str::to_owned);
                    self.send(&Said::Welcome {
                        id,
                        session: "s1",
                        user,
                        durability,
                        features: agreed,
                        limits,
                        expires_in_ms: None,
                    });
                    let nodes = self.nodes.clone();
                    if !nodes.is_empty() {
                        self.send(&Said::Nodes { nodes: &nodes });
                    }
                }
            },
            Ask::Join { room, from, token, .. } => {
                self.said_room_token = token.as_deref().map(str::to_owned);
                self.join(id, room, *from);
            }
            Ask::Post { room, body, key } => self.post(id, room, *body, key.as_deref().unwrap()),
            Ask::Leave { .. } if self.refuse_leaves => self.refuse(id, ErrorCode::NotJoined as u8, None),
            Ask::Leave { room } => {
                self.room(room).has_reader = false;
                self.send(&Said::Left { id, room });
            }
            Ask::Ping => {
                self.pings += 1;
                self.send(&Said::Pong { id });
            }
            Ask::Renew { token } => match self.refuse_next_ask.take() {
                Some((number, retry_after_ms)) => self.refuse(id, number, retry_after_ms),
                None => self.send(&Said::Renewed { id, expires_in_ms: token.len() as u64 }),
            },
            Ask::Signal { .. } => self.signals += 1,
            Ask::Fetch { .. } | Ask::Members { .. } if self.is_mute => {}
            Ask::Fetch { room, from, limit } => self.fetch(id, room, *from, *limit),
            Ask::Members { room } => match self.refuse_next_ask.take() {
                Some((number, retry_after_ms)) => self.refuse(id, number, retry_after_ms),
                None => self.send(&Said::Members { id, room, count: 2, users: "me\nzoë\n" }),
            },
        }
    }

    fn limits(&self) -> String {
        let keys = match self.keys_max {
            0 => String::new(),
            keys_max => format!("dedupe_keys_per_author_max {keys_max}\n"),
        };
        format!("connections_max 0\nframe_bytes_max {FRAME_BYTES_MAX}\n{keys}")
    }

    fn fetch(&mut self, id: RequestId, name: &str, from: FetchFrom, limit: Option<u64>) {
        if let Some((number, retry_after_ms)) = self.refuse_next_ask.take() {
            return self.refuse(id, number, retry_after_ms);
        }
        let head = self.stored(name);
        let limit = limit.unwrap_or(100) as usize;
        let (places, more) = match from {
            FetchFrom::After(read) => {
                let end = head.min(read.0 as usize + limit);
                (read.0 as usize + 1..=end, end < head)
            }
            FetchFrom::Before(next) => {
                let start = (next.0 as usize).saturating_sub(limit).max(1);
                (start..=head.min(next.0 as usize - 1), start > 1)
            }
        };
        let messages: Vec<u8> = places.flat_map(|place| self.message_frame(name, place)).collect();
        let epoch = Epoch(self.room(name).epoch);
        self.send(&Said::Page { id, room: name, epoch, messages: &messages, more });
    }

    fn join(&mut self, id: RequestId, name: &str, from: JoinFrom) {
        if let Some((number, retry_after_ms)) = self.refuse_next_join.take() {
            return self.refuse(id, number, retry_after_ms);
        }
        let room = self.room(name);
        let (epoch, head, first) = (Epoch(room.epoch), room.stored.len(), room.first);
        let refused = match from {
            JoinFrom::After(cursor) if cursor.epoch != epoch => Some(ErrorCode::WrongEpoch),
            JoinFrom::After(cursor) if cursor.sequence.0 > head as u64 => Some(ErrorCode::CursorAhead),
            _ => None,
        };
        if let Some(code) = refused {
            return self.refuse(id, code as u8, None);
        }
        room.has_reader = true;
        let read = match from {
            JoinFrom::Now => head,
            JoinFrom::Last(count) => head.saturating_sub(count as usize).max(first),
            JoinFrom::After(cursor) => cursor.sequence.0 as usize,
        };
        let sequence = Sequence(head as u64);
        self.send(&Said::Joined { id, room: name, epoch, sequence, members: 1, durability: "memory" });
        if read < first {
            let (from, to) = (Sequence(read as u64 + 1), Sequence(first as u64));
            self.send(&Said::Gap { room: name, epoch, from, to });
        }
        (read.max(first)..head).for_each(|index| self.say_again(name, index + 1));
    }

    fn post(&mut self, id: RequestId, name: &str, body: Body<'_>, key: &str) {
        let broken = self.is_log_broken.then_some((ErrorCode::LogFailed as u8, None));
        if let Some((number, retry_after_ms)) = self.refuse_next_post.take().or(broken) {
            self.refused_keys.push(key.into());
            return self.refuse(id, number, retry_after_ms);
        }
        let room = self.room(name);
        let epoch = Epoch(room.epoch);
        let known = room.stored.iter().position(|stored| stored.key == key);
        if known.is_none() {
            room.stored.push(Stored { user: "me".into(), key: key.into(), body: body.bytes.into() });
        }
        let sequence = known.map_or(room.stored.len(), |index| index + 1);
        let duplicate = known.is_some();
        if !duplicate && room.has_reader {
            self.say_again(name, sequence);
        }
        if self.lose_answers > 0 {
            self.lose_answers -= 1;
            self.refused_keys.push(key.into());
            return self.refuse(id, ErrorCode::Unavailable as u8, Some(1_000));
        }
        let sequence = Sequence(sequence as u64);
        self.send(&Said::Posted { id, room: name, epoch, sequence, time_ms: 1, duplicate });
    }
}

/// A session and its server, and the time.
pub struct Pair {
    pub session: Session,
    pub server: Server,
    pub now: Duration,
    /// Bytes that reached the session.
    pub bytes_down: usize,
    is_connected: bool,
}

impl Pair {
    pub fn new(options: Options) -> Self {
        let (session, server) = (Session::new(options), Server::default());
        Pair { session, server, now: Duration::ZERO, bytes_down: 0, is_connected: false }
    }

    /// A pair that has joined a room, with the events so far taken.
    pub fn joined(options: Options, room: &str) -> Self {
        let mut pair = Pair::new(options);
        pair.session.join(room, Join::default()).unwrap();
        pair.settle();
        pair.events();
        pair
    }

    /// Lets the time pass until the session wants a connection, and gives it one.
    pub fn connect(&mut self) {
        while !self.is_connected {
            match self.session.poll_link(self.now) {
                Some(Link::Connect) => {
                    self.session.handle_connected(self.now);
                    self.is_connected = true;
                }
                Some(Link::Disconnect) => self.server.disconnect(),
                None => self.now = self.session.poll_timeout().expect("it wants to connect some time"),
            }
        }
    }

    pub fn send_up(&mut self) {
        let mut bytes = Vec::new();
        self.session.poll_transmit(&mut bytes);
        if !bytes.is_empty() {
            self.server.read(&bytes);
        }
    }

    /// What the session wanted to send is lost on its way.
    pub fn drop_unsent(&mut self) {
        self.session.poll_transmit(&mut Vec::new());
    }

    pub fn server_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.server.out)
    }

    pub fn send_down(&mut self) {
        self.send_down_up_to(usize::MAX);
    }

    /// Goes on until `bytes_max` bytes have come, with requests going the other way meanwhile.
    pub fn send_down_up_to(&mut self, mut bytes_max: usize) {
        loop {
            let bytes = self.server_bytes();
            let taken = bytes.len().min(bytes_max);
            bytes_max -= taken;
            if taken == 0 {
                return;
            }
            self.bytes_down += taken;
            self.session.handle_bytes(self.now, &bytes[..taken]);
            self.send_up();
        }
    }

    /// Both ways, until nothing is under way.
    pub fn exchange(&mut self) {
        self.send_up();
        self.send_down();
    }

    /// Both ways over a link that breaks once it has carried so many bytes one way. All that the session wants to send
    /// is carried ahead of any answer, as where a round trip takes longer than the link holds. False: it broke.
    pub fn exchange_up_to(&mut self, bytes_max: usize) -> bool {
        let (mut up_left, mut down_left) = (bytes_max, bytes_max);
        loop {
            let mut up = Vec::new();
            self.session.poll_transmit(&mut up);
            if !up.is_empty() {
                self.server.read(&up[..up.len().min(up_left)]);
            }
            let down = self.server_bytes();
            if up.len() > up_left || (up.is_empty() && down.is_empty()) {
                return up.len() <= up_left;
            }
            up_left -= up.len();
            self.session.handle_bytes(self.now, &down[..down.len().min(down_left)]);
            if down.len() > down_left {
                return false;
            }
            down_left -= down.len();
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.handle_timeout(self.now);
        self.exchange();
    }

    /// The connection breaks, and what was on its way is lost.
    pub fn cut(&mut self) {
        self.is_connected = false;
        self.server.disconnect();
        self.session.handle_disconnected(self.now, "cut");
    }

    /// Connects if need be, and exchanges until nothing is under way.
    pub fn settle(&mut self) {
        self.connect();
        self.exchange();
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }
}
