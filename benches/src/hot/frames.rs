//! What bytes cost on their way in and out: a post that is read, a message that is written.

use std::hint::black_box;

use banter_protocol::event::Message;
use banter_protocol::features::Features;
use banter_protocol::frame::PREAMBLE;
use banter_protocol::ids::{Epoch, Sequence};
use banter_protocol::ingress::{Incoming, Ingress};
use banter_protocol::native;
use banter_protocol::request::{Ask, Body, BodyFormat, Request};
use banter_protocol::websocket::{FrameKind, write_masked_frame};
use banter_protocol::wire::WireForm;

use super::{Call, Scenario};

/// Of 128 bytes, as an application's are.
pub(super) const BODY: &str = r#"{"id":"01HZX4M1T8","user":{"name":"Ann","color":"teal"},"text":"what a fine day it is, is it not?","reply":null,"tags":["a", 1]}"#;
const FRAME_BYTES_MAX: u32 = 64 << 10;
const MASK: [u8; 4] = [0x12, 0x34, 0xfe, 0x55];

pub(super) const SCENARIOS: [Scenario; 5] = [
    Scenario {
        question: "frames",
        name: "decode-native",
        operation: "a post of 128 bytes read from its native frame",
        operations: 1,
        calls: 1_000,
        begin: decode_native,
    },
    Scenario {
        question: "frames",
        name: "decode-json",
        operation: "the same from its masked WebSocket frame of JSON",
        operations: 1,
        calls: 1_000,
        begin: decode_json,
    },
    Scenario {
        question: "frames",
        name: "encode-native",
        operation: "a message written as the frame that is kept",
        operations: 1,
        calls: 1_000,
        begin: encode_native,
    },
    Scenario {
        question: "frames",
        name: "json-to-frame",
        operation: "a post read from JSON and written as the frame that is kept",
        operations: 1,
        calls: 1_000,
        begin: json_to_frame,
    },
    Scenario {
        question: "frames",
        name: "frame-to-json",
        operation: "that frame written as a WebSocket frame of JSON",
        operations: 1,
        calls: 1_000,
        begin: frame_to_json,
    },
];

/// A post as its client sends it; without a key, or with one that is counted up by `key`.
pub(super) fn post(form: WireForm, room: &str, key: Option<u64>) -> Vec<u8> {
    let (body, key) =
        (Body { format: BodyFormat::Json, bytes: BODY.as_bytes() }, key.map(|key| format!("key-{key:08}")));
    if form == WireForm::Json {
        let key = key.map_or(String::new(), |key| format!(r#","key":"{key}""#));
        let json = format!(r#"{{"type":"post","id":7,"room":"{room}","body":{BODY}{key}}}"#);
        return masked(FrameKind::Text, json.as_bytes());
    }
    let (mut frame, key) = (Vec::new(), key.map(Into::into));
    native::write_request(&Request { id: Some(7), ask: Ask::Post { room: room.into(), body, key } }, &mut frame);
    if form.is_websocket() { masked(FrameKind::Binary, &frame) } else { frame }
}

/// A wish for so many messages before a place, as a client sends it in JSON.
pub(super) fn fetch(room: &str, before: u64, limit: u64) -> Vec<u8> {
    let json = format!(r#"{{"type":"fetch","id":7,"room":"{room}","before":{before},"limit":{limit}}}"#);
    masked(FrameKind::Text, json.as_bytes())
}

fn masked(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_masked_frame(&mut bytes, kind, MASK, payload);
    bytes
}

pub(super) fn message() -> Message<'static> {
    Message {
        epoch: Epoch(1),
        sequence: Sequence(1_000),
        time_ms: super::disk::UNIX_MS,
        room: "lobby",
        user: "ann",
        key: None,
        body: Body { format: BodyFormat::Json, bytes: BODY.as_bytes() },
    }
}

/// Decides whether reading a native post is still cheap beside the send that it leads to, with all its checks.
fn decode_native() -> Call {
    let mut reader = Reader::new(WireForm::Native);
    Box::new(move || reader.read(|body| _ = black_box(body)))
}

/// Decides whether a parser of our own for the few fields of a post would be worth its code over serde_json.
fn decode_json() -> Call {
    let mut reader = Reader::new(WireForm::Json);
    Box::new(move || reader.read(|body| _ = black_box(body)))
}

/// Decides what a JSON client costs beyond a native one, until the room's core has a frame of its post.
fn json_to_frame() -> Call {
    let (mut reader, mut out) = (Reader::new(WireForm::Json), Vec::with_capacity(1 << 10));
    Box::new(move || {
        reader.read(|body| {
            out.clear();
            native::write_message(black_box(&Message { body, ..message() }), &mut out);
            black_box(&out);
        });
    })
}

/// Reads one post again and again, with a copy of its bytes to where they are unmasked.
struct Reader {
    ingress: Ingress,
    bytes: Vec<u8>,
    received: Vec<u8>,
}

impl Reader {
    fn new(form: WireForm) -> Self {
        let (ingress, bytes) = (open(form), post(form, "lobby", None));
        Reader { ingress, received: bytes.clone(), bytes }
    }

    fn read(&mut self, take: impl FnOnce(Body<'_>)) {
        self.received.copy_from_slice(black_box(&self.bytes));
        match self.ingress.read(&mut self.received).expect("good bytes") {
            (used, Some(Incoming::Request(Request { ask: Ask::Post { body, .. }, .. }))) => {
                assert_eq!(used, self.bytes.len());
                take(body);
            }
            other => panic!("no post: {other:?}"),
        }
        self.ingress.release();
    }
}

/// What reads the bytes of a client whose form is known.
pub(super) fn open(form: WireForm) -> Ingress {
    let mut ingress = Ingress::new(FRAME_BYTES_MAX);
    if form.is_websocket() {
        ingress.accept_websocket(form);
    } else {
        assert!(matches!(ingress.read(&mut PREAMBLE.clone()), Ok((_, Some(Incoming::NativeOpened)))));
    }
    ingress
}

/// Decides whether the one form of wire, memory and disk still costs less to write than a second one would to keep.
fn encode_native() -> Call {
    let mut out = Vec::with_capacity(1 << 10);
    Box::new(move || {
        out.clear();
        native::write_message(black_box(&message()), &mut out);
        black_box(&out);
    })
}

/// Decides whether a room may leave JSON to each core with readers, or its own core should send it along.
fn frame_to_json() -> Call {
    let (mut frame, mut out) = (Vec::new(), Vec::with_capacity(1 << 10));
    native::write_message(&message(), &mut frame);
    Box::new(move || {
        out.clear();
        WireForm::Json.write_kept(black_box(&frame), None, Features::NONE, &mut out).expect("a message");
        black_box(&out);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_is_as_long_as_the_tables_say() {
        assert_eq!(BODY.len(), 128);
        assert!(serde_json::from_str::<serde_json::Value>(BODY).is_ok());
    }
}
