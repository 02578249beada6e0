//! The toy's connections: any wire form in, any wire form out.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use banter_protocol::event::Event;
use banter_protocol::frame::{Frame, FrameReader, PREAMBLE};
use banter_protocol::request::{Ask, JoinFrom, Request};
use banter_protocol::{json, native};
use tungstenite::Message;
use tungstenite::handshake::server::{Request as Upgrade, Response};

use super::log::Record;
use super::{Member, World};
use crate::wire_client::Form;

const FRAME_BYTES_MAX: u32 = 1 << 20;

/// Where a connection's events go.
pub struct Out {
    stream: Mutex<TcpStream>,
    form: Form,
}

impl Out {
    /// Sends an event; a connection that is gone is told by its reader.
    pub fn send(&self, event: &Event<'_>) {
        let mut payload = Vec::new();
        match self.form {
            Form::Json => json::write_event(event, &mut payload),
            Form::Rkyv | Form::Native => native::write_event(event, &mut payload),
        }
        let mut bytes = if self.form == Form::Native { Vec::new() } else { websocket_header(self.form, payload.len()) };
        bytes.extend(payload);
        let _ = self.stream.lock().expect("no sender panics").write_all(&bytes);
    }
}

fn websocket_header(form: Form, length: usize) -> Vec<u8> {
    let opcode = if form == Form::Json { 0x81 } else { 0x82 };
    match length {
        0..126 => vec![opcode, length as u8],
        126..65_536 => [&[opcode, 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[opcode, 127][..], &(length as u64).to_be_bytes()].concat(),
    }
}

/// Serves a connection to its end.
pub fn serve(stream: TcpStream, world: &Mutex<World>) {
    let mut first = [0];
    if stream.peek(&mut first).ok() != Some(1) {
        return;
    }
    let _ = stream.set_nodelay(true);
    if first[0] == PREAMBLE[0] { serve_native(stream, world) } else { serve_websocket(stream, world) }
}

fn serve_native(mut stream: TcpStream, world: &Mutex<World>) {
    let mut peer = Peer::new(&stream, Form::Native, world);
    let (mut preamble, mut buffer) = ([0; PREAMBLE.len()], vec![0; 64 << 10]);
    if stream.read_exact(&mut preamble).is_err() {
        return;
    }
    let mut reader = FrameReader::new(FRAME_BYTES_MAX);
    while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
        let mut at = 0;
        while at < bytes {
            let (used, frame) = reader.read(&buffer[at..bytes]).expect("a frame");
            at += used;
            if let Some(frame) = frame {
                peer.take(native::read_request(frame).expect("a request"));
            }
        }
    }
}

fn serve_websocket(stream: TcpStream, world: &Mutex<World>) {
    let mut form = Form::Json;
    // The error's size is the library's choice.
    #[allow(clippy::result_large_err)]
    let confirm = |request: &Upgrade, mut response: Response| {
        if let Some(asked) = request.headers().get("sec-websocket-protocol") {
            form = Form::Rkyv;
            response.headers_mut().insert("sec-websocket-protocol", asked.clone());
        }
        Ok(response)
    };
    let out = stream.try_clone().expect("a descriptor");
    let Ok(mut socket) = tungstenite::accept_hdr(stream, confirm) else { return };
    let mut peer = Peer::new(&out, form, world);
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => peer.take(json::read_request(text.as_str()).expect("a request")),
            Ok(Message::Binary(bytes)) => {
                let (frame, _) = Frame::read(&bytes, FRAME_BYTES_MAX).expect("a frame");
                peer.take(native::read_request(frame).expect("a request"));
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

struct Peer<'a> {
    out: Arc<Out>,
    user: String,
    world: &'a Mutex<World>,
}

impl<'a> Peer<'a> {
    fn new(stream: &TcpStream, form: Form, world: &'a Mutex<World>) -> Self {
        let stream = Mutex::new(stream.try_clone().expect("a descriptor"));
        Peer { out: Arc::new(Out { stream, form }), user: String::new(), world }
    }

    fn take(&mut self, request: Request<'_>) {
        let (id, out) = (request.id, &self.out);
        let mut world = self.world.lock().expect("no connection panics");
        match request.ask {
            Ask::Hello { user, .. } => {
                self.user = user.into_owned();
                out.send(&Event::Welcome {
                    id,
                    session: "toy-0",
                    user: &self.user,
                    durability: "synced",
                    features: "",
                    limits: "",
                    expires_in_ms: None,
                });
            }
            Ask::Join { room, echo, from, .. } => {
                let member = Member { out: Arc::clone(out), user: self.user.clone(), echo };
                let after = match from {
                    JoinFrom::After(cursor) => Some(cursor.sequence.0),
                    _ => None,
                };
                world.join(id, &room, member, after);
            }
            Ask::Post { room, body, key } => {
                let body = String::from_utf8(body.bytes.to_vec()).expect("JSON is UTF-8");
                let (room, user, key) = (room.into_owned(), self.user.clone(), key.map(|key| key.into_owned()));
                world.post(id, Record { room, user, key, body }, out);
            }
            Ask::Fetch { room, from, limit } => world.fetch(id, &room, from, limit, out),
            Ask::Signal { room, body } => world.signal(&room, &self.user, body.bytes, out),
            Ask::Members { room } => world.tell_members(id, &room, out),
            Ask::Leave { room } => out.send(&Event::Left { id, room: &room }),
            Ask::Renew { .. } => {} // It asks for no token.
            Ask::Ping => out.send(&Event::Pong { id }),
        }
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        if let Ok(mut world) = self.world.lock() {
            world.forget(&self.out);
        }
    }
}
