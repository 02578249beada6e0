//! What a member says to Banter, in each of the three wire forms.

use banter_protocol::features::FeatureNames;
use banter_protocol::frame::PREAMBLE;
use banter_protocol::ids::{Cursor, Sequence};
use banter_protocol::native;
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};
use banter_protocol::websocket::{FrameKind, write_masked_frame};
use banter_protocol::wire::{SUBPROTOCOL_JSON, SUBPROTOCOL_RKYV};
use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::args::Wire;

/// RFC 6455's own example of a key; the answer to it is known, so nothing need be computed.
pub(crate) const UPGRADE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const UPGRADE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A client must mask; against a server that one has started oneself any mask will do.
pub(crate) const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
/// Characters of a post's key: hex digits, so that messages with one are as long as each other.
pub const KEY_CHARACTERS: usize = 16;
/// An HTTP answer that is longer than this is none to an upgrade.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// Who a member says it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Its user.
    pub user: &'a str,
    /// What proves that, where the server asks for proof.
    pub token: Option<&'a str>,
}

/// How a member joins.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The room.
    pub room: &'a str,
    /// Where its reading starts.
    pub from: JoinFrom,
    /// Whether it wants its own posts back.
    pub echo: bool,
}

impl<'a> Entry<'a> {
    /// From now on, and everything.
    pub fn now(room: &'a str) -> Self {
        Entry { room, from: JoinFrom::Now, echo: true }
    }
}

/// The field of a JSON `join` that says where to start.
struct Place(JoinFrom);

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            JoinFrom::Now => Ok(()),
            JoinFrom::Last(count) => write!(out, r#","last":{count}"#),
            JoinFrom::After(Cursor { epoch, sequence }) => {
                write!(out, r#","after":{{"epoch":{},"sequence":{}}}"#, epoch.0, sequence.0)
            }
        }
    }
}

/// The JSON text of a `hello`.
pub(crate) fn hello_text(Identity { user, token }: Identity<'_>) -> String {
    let token = token.map(|token| format!(r#","token":"{token}""#)).unwrap_or_default();
    format!(r#"{{"type":"hello","id":1,"user":"{user}"{token}}}"#)
}

/// Writes requests. The buffers are kept, so that a post allocates nothing.
#[derive(Debug)]
pub struct Writer {
    wire: Wire,
    text: Vec<u8>,
    keys: Option<Keys>,
}

/// Keys for posts: no two runs share one, and no two posts of a run.
#[derive(Debug)]
struct Keys {
    next: u64,
    text: String,
}

impl Keys {
    fn new() -> Self {
        let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        Keys { next: run << 32, text: String::with_capacity(KEY_CHARACTERS) }
    }

    fn next(&mut self) -> &str {
        self.text.clear();
        // Writing to a string cannot fail.
        let _ = fmt::Write::write_fmt(&mut self.text, format_args!("{:016x}", self.next));
        self.next = self.next.wrapping_add(1);
        &self.text
    }
}

impl Writer {
    /// For that form. A neighbour is told everything by [`Neighbour`](crate::neighbours::Neighbour) instead.
    pub fn new(wire: Wire) -> Self {
        Writer { wire, text: Vec::new(), keys: None }
    }

    /// Gives each post a key of its own.
    pub fn keyed(self) -> Self {
        Writer { keys: Some(Keys::new()), ..self }
    }

    /// Appends what opens a connection: the upgrade request or the preamble.
    pub fn open(&self, server: SocketAddr, out: &mut Vec<u8>) {
        match self.subprotocol() {
            None => out.extend_from_slice(&PREAMBLE),
            Some(subprotocol) => out.extend_from_slice(
                format!(
                    "GET /ws HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Key: {UPGRADE_KEY}\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
                )
                .as_bytes(),
            ),
        }
    }

    fn subprotocol(&self) -> Option<&'static str> {
        match self.wire {
            Wire::Json => Some(SUBPROTOCOL_JSON),
            Wire::WsRkyv => Some(SUBPROTOCOL_RKYV),
            _ => None,
        }
    }

    /// Reads the answer to the upgrade request: how many bytes it has, `None` when it is not whole.
    ///
    /// # Errors
    /// Why it opens no WebSocket.
    pub fn read_upgrade(&self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let head_bytes = match response.parse(bytes).map_err(|error| format!("the answer is no HTTP: {error}"))? {
            httparse::Status::Complete(head_bytes) => head_bytes,
            httparse::Status::Partial if bytes.len() > ANSWER_BYTES_MAX => return Err("the answer is too long".into()),
            httparse::Status::Partial => return Ok(None),
        };
        if response.code != Some(101) {
            let body = String::from_utf8_lossy(&bytes[head_bytes..]);
            let code = response.code.unwrap_or_default();
            return Err(format!("HTTP {code} {}: {}", response.reason.unwrap_or(""), body.trim()));
        }
        let header = |name: &str| {
            let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8_lossy(header.value).trim().to_owned())
        };
        if header("sec-websocket-accept").as_deref() != Some(UPGRADE_ACCEPT) {
            return Err("Sec-WebSocket-Accept does not answer the key".into());
        }
        if header("sec-websocket-protocol").as_deref() != self.subprotocol() {
            return Err(format!("it did not confirm the subprotocol {}", self.subprotocol().unwrap_or("")));
        }
        Ok(Some(head_bytes))
    }

    /// Appends `hello` and, right behind it, `join`.
    pub fn hello_and_join(&mut self, identity: Identity<'_>, entry: Entry<'_>, out: &mut Vec<u8>) {
        match self.wire {
            Wire::Json => self.json(format_args!("{}", hello_text(identity)), out),
            _ => {
                let (user, token) = (identity.user.into(), identity.token.map(Into::into));
                let ask = Ask::Hello { user, token, features: FeatureNames::NONE };
                self.native(&Request { id: Some(1), ask }, out);
            }
        }
        self.join(entry, out);
    }

    /// Appends a `join` of one more room.
    pub fn join(&mut self, entry: Entry<'_>, out: &mut Vec<u8>) {
        let Entry { room, from, echo } = entry;
        match self.wire {
            Wire::Json => {
                let from = Place(from);
                self.json(format_args!(r#"{{"type":"join","id":2,"room":"{room}"{from},"echo":{echo}}}"#), out);
            }
            _ => {
                let join = Ask::Join { room: room.into(), from, echo, presence: false, token: None };
                self.native(&Request { id: Some(2), ask: join }, out);
            }
        }
    }

    /// Appends a `leave`.
    pub fn leave(&mut self, room: &str, out: &mut Vec<u8>) {
        match self.wire {
            Wire::Json => self.json(format_args!(r#"{{"type":"leave","id":3,"room":"{room}"}}"#), out),
            _ => {
                self.native(&Request { id: Some(3), ask: Ask::Leave { room: room.into() } }, out);
            }
        }
    }

    /// Appends a `fetch` of the newest messages before a sequence.
    pub fn fetch_before(&mut self, id: u64, room: &str, before: u64, limit: u64, out: &mut Vec<u8>) {
        match self.wire {
            Wire::Json => self.json(
                format_args!(r#"{{"type":"fetch","id":{id},"room":"{room}","before":{before},"limit":{limit}}}"#),
                out,
            ),
            _ => {
                let from = FetchFrom::Before(Sequence(before));
                let ask = Ask::Fetch { room: room.into(), from, limit: Some(limit) };
                self.native(&Request { id: Some(id), ask }, out);
            }
        }
    }

    /// Appends a post whose number is its slot.
    pub fn post(&mut self, room: &str, slot: u32, body: &[u8], out: &mut Vec<u8>) {
        if self.wire == Wire::Json {
            self.text.clear();
            // Writing to a vector cannot fail.
            let _ = write!(self.text, r#"{{"type":"post","id":{slot},"room":"{room}","body":"#);
            self.text.extend_from_slice(body);
            if let Some(keys) = &mut self.keys {
                let _ = write!(self.text, r#","key":"{}""#, keys.next());
            }
            self.text.push(b'}');
            write_masked_frame(out, FrameKind::Text, MASK, &self.text);
        } else {
            let body = Body { format: BodyFormat::Json, bytes: body };
            let mut keys = self.keys.take();
            let ask = Ask::Post { room: room.into(), body, key: keys.as_mut().map(|keys| keys.next().into()) };
            self.native(&Request { id: Some(slot.into()), ask }, out);
            self.keys = keys;
        }
    }

    /// Appends a `ping`.
    pub fn ping(&mut self, id: u64, out: &mut Vec<u8>) {
        match self.wire {
            Wire::Json => self.json(format_args!(r#"{{"type":"ping","id":{id}}}"#), out),
            _ => self.native(&Request { id: Some(id), ask: Ask::Ping }, out),
        }
    }

    /// Appends a sign of life.
    pub fn pong(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        match self.wire {
            Wire::Native => self.native(&Request { id: None, ask: Ask::Ping }, out),
            _ => write_masked_frame(out, FrameKind::Pong, MASK, payload),
        }
    }

    fn json(&mut self, text: std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
        write_masked_frame(out, FrameKind::Text, MASK, text.to_string().as_bytes());
    }

    fn native(&mut self, request: &Request<'_>, out: &mut Vec<u8>) {
        if self.wire == Wire::Native {
            return native::write_request(request, out);
        }
        self.text.clear();
        native::write_request(request, &mut self.text);
        write_masked_frame(out, FrameKind::Binary, MASK, &self.text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banter_protocol::ids::{Epoch, Sequence};
    use banter_protocol::ingress::{Incoming, Ingress};
    use banter_protocol::wire::WireForm;

    const U1: Identity<'static> = Identity { user: "u1", token: Some("a.b.c") };

    /// What a server reads of these bytes.
    fn requests(form: WireForm, mut bytes: Vec<u8>) -> Vec<String> {
        let mut ingress = Ingress::new(65_536);
        if form.is_websocket() {
            ingress.accept_websocket(form);
        } else {
            bytes.splice(..0, PREAMBLE);
        }
        let mut rest = &mut bytes[..];
        let mut read = Vec::new();
        while !rest.is_empty() {
            let (used, incoming) = ingress.read(rest).unwrap();
            match incoming {
                Some(Incoming::Request(request)) => read.push(format!("{request:?}")),
                Some(Incoming::Proxied(_) | Incoming::NativeOpened | Incoming::Pong) | None => {}
                other => panic!("{other:?}"),
            }
            rest = &mut rest[used..];
        }
        read
    }

    #[test]
    fn a_server_reads_the_same_requests_in_every_form() {
        let after = JoinFrom::After(Cursor { epoch: Epoch(1 << 60), sequence: Sequence(9) });
        for from in [JoinFrom::Now, JoinFrom::Last(50), after] {
            reads_the_same(from);
        }
    }

    fn reads_the_same(from: JoinFrom) {
        let forms =
            [(Wire::Json, WireForm::Json), (Wire::Native, WireForm::Native), (Wire::WsRkyv, WireForm::WebSocketRkyv)];
        let read: Vec<_> = forms
            .map(|(wire, form)| {
                let mut writer = Writer::new(wire);
                let mut bytes = Vec::new();
                writer.hello_and_join(U1, Entry { room: "load-0", from, echo: false }, &mut bytes);
                writer.post("load-0", 7, b"\"body\"", &mut bytes);
                writer.ping(8, &mut bytes);
                if form.is_websocket() {
                    writer.pong(b"x", &mut bytes);
                }
                requests(form, bytes)
            })
            .into();
        assert_eq!(read[0].len(), 4);
        assert!(read[0][0].contains(r#"token: Some("a.b.c")"#), "{:?}", read[0]);
        assert!(read[0][1].contains(&format!("from: {from:?}, echo: false")), "{:?}", read[0]);
        assert!(read[0][2].contains("id: Some(7)"), "{:?}", read[0]);
        assert!(read[0][3].contains("id: Some(8)"), "{:?}", read[0]);
        assert_eq!(read[0], read[1]);
        assert_eq!(read[1], read[2]);
    }

    #[test]
    fn keys_are_as_long_as_each_other_and_no_post_shares_one() {
        for (wire, form) in [(Wire::Json, WireForm::Json), (Wire::Native, WireForm::Native)] {
            let (mut writer, mut bytes) = (Writer::new(wire).keyed(), Vec::new());
            writer.hello_and_join(U1, Entry::now("load-0"), &mut bytes);
            writer.post("load-0", 7, b"0", &mut bytes);
            writer.post("load-0", 7, b"0", &mut bytes);
            let read = requests(form, bytes);
            let keys: Vec<&str> = read[2..].iter().filter_map(|post| post.split("key: Some(").nth(1)).collect();
            assert!(keys.len() == 2 && keys[0] != keys[1] && keys[0].len() == keys[1].len(), "{read:?}");
        }
    }

    #[test]
    fn an_upgrade_is_asked_for_and_its_answer_checked() {
        let writer = Writer::new(Wire::Json);
        let mut asked = Vec::new();
        writer.open("127.0.0.1:7878".parse().unwrap(), &mut asked);
        let mut ingress = Ingress::new(1024);
        let (_, Some(Incoming::Http(request))) = ingress.read(&mut asked).unwrap() else { panic!() };
        let upgrade = request.upgrade.as_ref().unwrap();
        let mut answer = Vec::new();
        banter_protocol::http::write_upgrade_response(&mut answer, upgrade.key, Some(SUBPROTOCOL_JSON));
        assert_eq!(writer.read_upgrade(&answer), Ok(Some(answer.len())));
        for end in 0..answer.len() {
            assert_eq!(writer.read_upgrade(&answer[..end]), Ok(None), "cut at {end}");
        }
        assert!(Writer::new(Wire::WsRkyv).read_upgrade(&answer).unwrap_err().contains("subprotocol"));
        let refused = b"HTTP/1.1 503 Service Unavailable\r\n\r\nfull";
        assert_eq!(writer.read_upgrade(refused), Err("HTTP 503 Service Unavailable: full".into()));
    }
}
