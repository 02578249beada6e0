//! A chat server in a few lines, honest or not, for runs of the real binary against it.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::{Event, Message};
use banter_protocol::http::write_upgrade_response;
use banter_protocol::ids::{Epoch, RequestId, Sequence};
use banter_protocol::ingress::{Incoming, Ingress};
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom};
use banter_protocol::websocket::FrameKind;
use banter_protocol::wire::{SUBPROTOCOL_JSON, SUBPROTOCOL_RKYV, WireForm};

/// What the server does wrong.
#[allow(dead_code, reason = "each of the tests that share this file has some of them")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// Message 5 of a room never reaches its last member.
    Drops,
    /// Message 5 reaches the last member twice.
    Repeats,
    /// Messages 5 and 6 reach the last member the other way round.
    Reorders,
    /// The last byte of message 5's filler is another one.
    Alters,
    /// Post 5 is delivered, and not acknowledged.
    ForgetsToAcknowledge,
    /// The connection of message 5's publisher is closed, with words.
    Closes,
    /// `hello` is refused.
    RefusesHello,
    /// The last member of a room is told a gap in place of message 5.
    Gaps,
    /// The connection of a room's last member is closed in place of message 5.
    ClosesReader,
    /// Who comes back behind a cursor is not told the first message behind it.
    Forgets,
    /// A page lacks its newest message.
    TearsPages,
    /// A page that ends before message 5 says that nothing is older.
    EndsHistory,
    /// Message 5 of a room reaches its last member in the name of the room before.
    Misplaces,
    /// A fourth connection is not accepted to the end: no welcome.
    Stalls,
}

/// What `welcome` tells.
const LIMITS: &str = "outbox_bytes_max 262144\nheld_bytes_max 262144\nframe_bytes_max 65536\n";
/// The message that the flaw shows at.
const FLAWED: u64 = 5;

#[derive(Default)]
struct Room {
    sequence: u64,
    members: Vec<usize>,
    held: Vec<u8>,
    /// The bodies of all messages; the first has sequence 1.
    history: Vec<Vec<u8>>,
}

struct Connection {
    stream: TcpStream,
    ingress: Ingress,
    form: WireForm,
    user: String,
    out: Vec<u8>,
    is_open: bool,
}

pub struct Server {
    listener: TcpListener,
    flaw: Flaw,
    connections: Vec<Connection>,
    rooms: HashMap<String, Room>,
}

/// What a request asks, owned.
enum Owned {
    Upgrade(String, Option<&'static str>),
    Hello(RequestId, String),
    Join(RequestId, String, JoinFrom, bool),
    Post(RequestId, String, Vec<u8>),
    Ping(RequestId),
    Fetch(RequestId, String, u64, u64),
    Members(RequestId, String),
    Leave(RequestId, String),
    Nothing,
}

impl Server {
    /// A server on a free port, on a thread of its own for as long as the test runs.
    pub fn start(flaw: Flaw) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server { listener, flaw, connections: Vec::new(), rooms: HashMap::new() };
        std::thread::spawn(move || {
            loop {
                server.turn();
            }
        });
        address
    }

    fn turn(&mut self) {
        let mut was_busy = false;
        if let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            stream.set_nodelay(true).unwrap();
            let (ingress, form) = (Ingress::new(65_536), WireForm::Native);
            self.connections.push(Connection {
                stream,
                ingress,
                form,
                user: String::new(),
                out: Vec::new(),
                is_open: true,
            });
            was_busy = true;
        }
        for number in 0..self.connections.len() {
            was_busy |= self.read(number);
        }
        self.connections.iter_mut().for_each(Connection::write);
        if !was_busy {
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    }

    fn read(&mut self, number: usize) -> bool {
        let mut buffer = [0; 65_536];
        let connection = &mut self.connections[number];
        let bytes = match connection.stream.read(&mut buffer) {
            Ok(bytes) if bytes > 0 && connection.is_open => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            _ => {
                connection.is_open = false;
                return false;
            }
        };
        let mut rest = &mut buffer[..bytes];
        while !rest.is_empty() {
            let (used, incoming) = self.connections[number].ingress.read(rest).unwrap();
            let owned = incoming.map_or(Owned::Nothing, own);
            rest = &mut rest[used..];
            self.answer(number, owned);
        }
        true
    }

    fn send(&mut self, number: usize, event: &Event<'_>) {
        let connection = &mut self.connections[number];
        connection.form.write_event(event, &mut connection.out);
    }

    fn answer(&mut self, number: usize, asked: Owned) {
        match asked {
            Owned::Upgrade(key, subprotocol) => {
                let connection = &mut self.connections[number];
                write_upgrade_response(&mut connection.out, &key, subprotocol);
                let is_rkyv = subprotocol == Some(SUBPROTOCOL_RKYV);
                connection.form = if is_rkyv { WireForm::WebSocketRkyv } else { WireForm::Json };
                connection.ingress.accept_websocket(connection.form);
            }
            Owned::Hello(..) | Owned::Join(..) if self.flaw == Flaw::Stalls && number == 3 => {}
            Owned::Hello(id, _) if self.flaw == Flaw::RefusesHello => {
                let (code, message) = (ErrorCode::Overloaded, "no place");
                self.send(number, &Event::Error { id, code, message, retry_after_ms: None, scope: None, reason: None });
            }
            Owned::Hello(id, user) => {
                self.connections[number].user = user.clone();
                // A ping in the middle of things must disturb nobody.
                let connection = &mut self.connections[number];
                connection.form.write_keep_alive(&mut connection.out);
                self.send(
                    number,
                    &Event::Welcome {
                        id,
                        session: "s",
                        user: &user,
                        durability: "memory",
                        features: "",
                        limits: LIMITS,
                        expires_in_ms: None,
                    },
                );
            }
            Owned::Join(id, room, from, echo) => self.join(number, id, &room, from, echo),
            Owned::Post(id, room, body) => self.post(number, id, &room, body),
            Owned::Ping(id) => self.send(number, &Event::Pong { id }),
            Owned::Fetch(id, room, before, limit) => self.fetch(number, id, &room, before, limit),
            Owned::Members(id, room) => {
                self.send(number, &Event::Members { id, room: &room, count: 1, users: "u\n" });
            }
            Owned::Leave(id, room) => {
                let members = &mut self.rooms.entry(room.clone()).or_default().members;
                members.retain(|member| *member != number);
                self.send(number, &Event::Left { id, room: &room });
            }
            Owned::Nothing => {}
        }
    }

    /// `echo: false` is taken for "no messages at all": who asks for it here is alone in its room.
    fn join(&mut self, number: usize, id: RequestId, name: &str, from: JoinFrom, echo: bool) {
        let room = self.rooms.entry(name.to_owned()).or_default();
        if echo {
            room.members.push(number);
        }
        let (head, members) = (room.sequence, room.members.len() as u64);
        let after = match from {
            JoinFrom::Now => head,
            JoinFrom::Last(count) => head - count,
            JoinFrom::After(cursor) => cursor.sequence.0,
        };
        let forgotten = u64::from(self.flaw == Flaw::Forgets && matches!(from, JoinFrom::After(_)));
        let after = (after + forgotten).min(head);
        let missed = room.history[after as usize..].to_vec();
        let (epoch, sequence, durability) = (Epoch(7), Sequence(head), "memory");
        self.send(number, &Event::Joined { id, room: name, epoch, sequence, members, durability });
        let form = self.connections[number].form;
        for (sequence, body) in (after + 1..).zip(missed) {
            let body = Body { format: BodyFormat::Json, bytes: &body };
            let message =
                Message { epoch, sequence: Sequence(sequence), time_ms: 1, room: name, user: "u", key: None, body };
            let mut bytes = Vec::new();
            form.write_event(&Event::Message(message), &mut bytes);
            let bytes = self.spoil(name, sequence, true, bytes);
            self.connections[number].out.extend(bytes);
        }
    }

    /// The newest messages below a place, ascending.
    fn fetch(&mut self, number: usize, id: RequestId, name: &str, before: u64, limit: u64) {
        let history = self.rooms.get(name).map_or(&[][..], |room| &room.history);
        let end = (before.saturating_sub(1) as usize).min(history.len());
        let first = end.saturating_sub(limit as usize);
        let end = if self.flaw == Flaw::TearsPages { end.saturating_sub(1).max(first) } else { end };
        let mut messages = Vec::new();
        for (sequence, body) in (first as u64 + 1..).zip(&history[first..end]) {
            let (epoch, sequence, body) =
                (Epoch(7), Sequence(sequence), Body { format: BodyFormat::Json, bytes: body });
            let message = Message { epoch, sequence, time_ms: 1, room: name, user: "u", key: None, body };
            WireForm::Native.write_event(&Event::Message(message), &mut messages);
        }
        let more = first > 0 && !(self.flaw == Flaw::EndsHistory && (end as u64) < FLAWED + limit);
        self.send(number, &Event::Page { id, room: name, epoch: Epoch(7), messages: &messages, more });
    }

    /// What comes to a room's last member in place of message 5, or ahead of it.
    fn trouble(&mut self, member: usize, name: &str) -> bool {
        match self.flaw {
            Flaw::Gaps => {
                let (from, to) = (Sequence(FLAWED), Sequence(FLAWED));
                self.send(member, &Event::Gap { room: name, epoch: Epoch(7), from, to });
            }
            Flaw::ClosesReader => {
                let connection = &mut self.connections[member];
                connection.write();
                connection.is_open = false;
                drop(connection.stream.shutdown(std::net::Shutdown::Both));
            }
            _ => return false,
        }
        true
    }

    fn post(&mut self, number: usize, id: RequestId, name: &str, mut body: Vec<u8>) {
        let room = self.rooms.get_mut(name).unwrap();
        room.members.retain(|member| self.connections[*member].is_open);
        room.sequence += 1;
        let (sequence, members) = (room.sequence, room.members.clone());
        if self.flaw == Flaw::Alters && sequence == FLAWED {
            let last = body.len() - 2;
            body[last] ^= 1;
        }
        let user = self.connections[number].user.clone();
        room.history.push(body.clone());
        let body = Body { format: BodyFormat::Json, bytes: &body };
        let (epoch, sequence_) = (Epoch(7), Sequence(sequence));
        let message = Message { epoch, sequence: sequence_, time_ms: 1, room: name, user: &user, key: None, body };
        for &member in &members {
            let form = self.connections[member].form;
            let mut bytes = Vec::new();
            let is_last = Some(&member) == members.last();
            if is_last && sequence == FLAWED && self.trouble(member, name) {
                continue;
            }
            let is_misplaced = is_last && sequence == FLAWED && self.flaw == Flaw::Misplaces;
            let before = name.replace('1', "0");
            let room = if is_misplaced { &*before } else { name };
            form.write_event(&Event::Message(Message { room, ..message }), &mut bytes);
            let bytes = self.spoil(name, sequence, is_last, bytes);
            self.connections[member].out.extend(bytes);
        }
        if self.flaw == Flaw::Closes && sequence == FLAWED {
            let (code, message) = (ErrorCode::TimedOut, "tired of you");
            self.send(
                number,
                &Event::Error { id: None, code, message, retry_after_ms: None, scope: None, reason: None },
            );
            let connection = &mut self.connections[number];
            connection.form.write_close(1008, "tired of you", &mut connection.out);
            connection.write();
            connection.is_open = false;
            drop(connection.stream.shutdown(std::net::Shutdown::Both));
        } else if self.flaw != Flaw::ForgetsToAcknowledge || sequence != FLAWED {
            let (sequence, time_ms, duplicate) = (sequence_, 1, false);
            self.send(number, &Event::Posted { id, room: name, epoch, sequence, time_ms, duplicate });
        }
    }

    /// What the last member of the room gets in place of a message.
    fn spoil(&mut self, room: &str, sequence: u64, is_last: bool, message: Vec<u8>) -> Vec<u8> {
        let held = &mut self.rooms.get_mut(room).unwrap().held;
        match (self.flaw, sequence) {
            _ if !is_last => message,
            (Flaw::Drops, FLAWED) => Vec::new(),
            (Flaw::Repeats, FLAWED) => message.repeat(2),
            (Flaw::Reorders, FLAWED) => {
                *held = message;
                Vec::new()
            }
            (Flaw::Reorders, _) => [message, std::mem::take(held)].concat(),
            _ => message,
        }
    }
}

impl Connection {
    fn write(&mut self) {
        while !self.out.is_empty() && self.is_open {
            match self.stream.write(&self.out) {
                Ok(bytes) => drop(self.out.drain(..bytes)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.is_open = false,
            }
        }
    }
}

fn own(incoming: Incoming<'_>) -> Owned {
    match incoming {
        Incoming::Http(request) => {
            let upgrade = request.upgrade.unwrap();
            let known = [SUBPROTOCOL_JSON, SUBPROTOCOL_RKYV];
            let asked = known.into_iter().find(|known| upgrade.subprotocols.iter().any(|asked| asked == *known));
            Owned::Upgrade(upgrade.key.to_owned(), asked)
        }
        Incoming::Request(request) => match request.ask {
            Ask::Hello { user, .. } => Owned::Hello(request.id, user.into_owned()),
            Ask::Join { room, from, echo, .. } => Owned::Join(request.id, room.into_owned(), from, echo),
            Ask::Post { room, body, .. } => Owned::Post(request.id, room.into_owned(), body.bytes.to_vec()),
            Ask::Ping => Owned::Ping(request.id),
            Ask::Fetch { room, from, limit } => {
                let before = if let FetchFrom::Before(sequence) = from { sequence.0 } else { 0 };
                Owned::Fetch(request.id, room.into_owned(), before, limit.unwrap_or(10))
            }
            Ask::Members { room } => Owned::Members(request.id, room.into_owned()),
            Ask::Leave { room } => Owned::Leave(request.id, room.into_owned()),
            Ask::Signal { .. } | Ask::Renew { .. } => Owned::Nothing,
        },
        Incoming::Proxied(_) | Incoming::NativeOpened | Incoming::Ping(_) | Incoming::Pong => Owned::Nothing,
        other => panic!("{other:?} {:?}", FrameKind::Text),
    }
}
