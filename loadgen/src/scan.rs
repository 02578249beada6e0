//! From the bytes of one connection to what a load generator wants to know of them, without copying.
//!
//! [`cut`] finds the next whole frame in a buffer, [`read`] says what it is. A caller that has half a frame keeps the
//! bytes and comes back with more: nothing is remembered here.

use banter_protocol::event::Event;
use banter_protocol::frame::{Frame, FrameHeader, HEADER_BYTES};
use banter_protocol::native;

use crate::args::Wire;
use crate::neighbours::{self, Neighbour, Said};
use crate::page::PageBytes;
use crate::scan_json;

/// The largest frame that is taken from a server.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// A whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw<'a> {
    /// A JSON text.
    Json(&'a [u8]),
    /// A native frame.
    Native(Frame<'a>),
    /// What a server that is not Banter says.
    Neighbour(Said<'a>),
    /// A WebSocket ping, to be answered with the same bytes.
    Ping(&'a [u8]),
    /// A WebSocket pong.
    Pong,
    /// The end, with the payload of the close frame.
    Close(&'a [u8]),
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen<'a> {
    /// A message of the room.
    Message {
        /// Its place; 0 where the server numbers nothing.
        sequence: u64,
        /// Its body as it was posted.
        body: &'a [u8],
    },
    /// A message of one of several rooms that the connection reads.
    MessageOf {
        /// The room's number.
        room: u32,
        /// Its place.
        sequence: u64,
        /// Its body as it was posted.
        body: &'a [u8],
    },
    /// The answer to `fetch`.
    Page {
        /// The request's number.
        id: u64,
        /// The messages, not taken apart.
        messages: PageBytes<'a>,
        /// Whether the history holds more in that direction.
        more: bool,
    },
    /// The answer to `leave`.
    Left {
        /// The request's number.
        id: u64,
    },
    /// An acknowledgement.
    Posted {
        /// The request's number: the post's slot.
        id: u64,
        /// The message's place.
        sequence: u64,
    },
    /// The answer to a `ping`.
    Pong {
        /// The request's number.
        id: u64,
    },
    /// The HTTP answer that opens a WebSocket.
    Upgraded,
    /// The answer to `hello`.
    Welcome,
    /// The answer to `join`.
    Joined {
        /// The room's history.
        epoch: u64,
        /// Its head.
        sequence: u64,
    },
    /// The server wants a sign of life.
    Ping(&'a [u8]),
    /// Some messages will not come.
    Gap {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A refusal, or the announcement of the end.
    Refused {
        /// Its code.
        code: String,
        /// Why.
        message: String,
    },
    /// The WebSocket is closed.
    Close {
        /// Why.
        why: String,
    },
    /// The connection is gone. Only a fleet that was told to says so: [`Fleet::telling_ends`](crate::fleet::Fleet::telling_ends).
    Ended,
    /// Nothing that matters.
    Other,
}

/// Bytes that mean nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanFault(pub String);

fn fault<T>(what: impl Into<String>) -> Result<T, ScanFault> {
    Err(ScanFault(what.into()))
}

/// The frame at the front of `bytes`, and how many bytes it takes; `None` when it is not whole yet.
///
/// # Errors
/// When no more bytes could make it a frame.
#[inline]
pub fn cut(wire: Wire, bytes: &[u8]) -> Result<Option<(Raw<'_>, usize)>, ScanFault> {
    match wire.neighbour() {
        None if wire == Wire::Native => Ok(cut_native(bytes)?.map(|(frame, used)| (Raw::Native(frame), used))),
        None | Some(Neighbour::Plain) => cut_websocket(wire, bytes),
        Some(neighbour) => Ok(neighbour.cut(bytes)?.map(|(said, used)| (Raw::Neighbour(said), used))),
    }
}

#[inline]
fn cut_websocket(wire: Wire, bytes: &[u8]) -> Result<Option<(Raw<'_>, usize)>, ScanFault> {
    const FINAL: u8 = 0x80;
    let [first, second, ..] = *bytes else { return Ok(None) };
    let (header_bytes, payload_bytes) = match second {
        0..=125 => (2, usize::from(second)),
        126 => match bytes.get(2..4) {
            Some(length) => (4, usize::from(u16::from_be_bytes([length[0], length[1]]))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|length| length.first_chunk()) {
            Some(length) => (10, usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX)),
            None => return Ok(None),
        },
        _ => return fault("the server sent a masked frame"),
    };
    if payload_bytes > FRAME_BYTES_MAX {
        return fault(format!("the server sent a frame of {payload_bytes} bytes"));
    }
    let end = header_bytes + payload_bytes;
    let Some(payload) = bytes.get(header_bytes..end) else { return Ok(None) };
    let raw = match (first, wire) {
        (0x81, Wire::Json) => Raw::Json(payload),
        (0x82, Wire::WsRkyv) => match cut_native(payload)? {
            Some((frame, used)) if used == payload_bytes => Raw::Native(frame),
            _ => return fault("a binary message is not one native frame"),
        },
        (0x82, Wire::Plain) => Raw::Neighbour(Said::Message(payload)),
        (0x88, _) => Raw::Close(payload),
        (0x89, _) => Raw::Ping(payload),
        (0x8A, _) => Raw::Pong,
        (first, _) if first & FINAL == 0 => return fault("the server sent a fragment, which is not expected of it"),
        _ => return fault(format!("the server sent a WebSocket frame that begins with {first:#04x}")),
    };
    Ok(Some((raw, end)))
}

#[inline]
fn cut_native(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, ScanFault> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    match FrameHeader::read(*header, FRAME_BYTES_MAX as u32) {
        Err(error) => fault(error.to_string()),
        Ok(header) => {
            let end = header.frame_bytes();
            let frame = bytes.get(HEADER_BYTES..end).map(|payload| Frame { kind: header.kind, payload });
            Ok(frame.map(|frame| (frame, end)))
        }
    }
}

/// What a frame says. The texts are those that every frame of its connection begins with.
///
/// # Errors
/// When it says nothing that can be read.
#[inline]
pub fn read<'a>(raw: Raw<'a>, openings: &scan_json::Openings) -> Result<Seen<'a>, ScanFault> {
    Ok(match raw {
        Raw::Json(text) => return scan_json::read(text, openings),
        Raw::Native(frame) => match native::read_event(frame) {
            Ok(Event::Message(message)) if !openings.is_history(message.epoch.0) => {
                return fault("a message of another history of the room than when it was joined");
            }
            Ok(Event::Message(message)) => match openings.room_of_many(message.room, message.epoch.0) {
                Some(room) => Seen::MessageOf { room: room?, sequence: message.sequence.0, body: message.body.bytes },
                None => of_event(&Event::Message(message)),
            },
            Ok(event) => of_event(&event),
            Err(error) => return fault(error.to_string()),
        },
        Raw::Neighbour(said) => neighbours::seen(said),
        Raw::Ping(payload) => Seen::Ping(payload),
        Raw::Pong => Seen::Other,
        Raw::Close(payload) => Seen::Close { why: describe_close(payload) },
    })
}

#[inline]
fn of_event<'a>(event: &Event<'a>) -> Seen<'a> {
    match *event {
        Event::Message(ref message) => Seen::Message { sequence: message.sequence.0, body: message.body.bytes },
        Event::Posted { id: Some(id), sequence, .. } => Seen::Posted { id, sequence: sequence.0 },
        Event::Pong { id: Some(id) } => Seen::Pong { id },
        Event::Left { id: Some(id), .. } => Seen::Left { id },
        Event::Page { id: Some(id), messages, more, .. } => {
            Seen::Page { id, messages: PageBytes::Native(messages), more }
        }
        Event::Welcome { .. } => Seen::Welcome,
        Event::Joined { epoch, sequence, .. } => Seen::Joined { epoch: epoch.0, sequence: sequence.0 },
        Event::Gap { from, to, .. } => Seen::Gap { from: from.0, to: to.0 },
        Event::KeepAlive => Seen::Ping(&[]),
        Event::Error { code, message, .. } => Seen::Refused { code: code.as_str().into(), message: message.into() },
        Event::Taken { .. } => {
            Seen::Refused { code: "taken".into(), message: "a program of the room kept the post".into() }
        }
        Event::Closing { code, .. } => {
            Seen::Refused { code: code.as_str().into(), message: "the server is closing".into() }
        }
        _ => Seen::Other,
    }
}

fn describe_close(payload: &[u8]) -> String {
    match payload {
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            format!("closed with code {code} {:?}", String::from_utf8_lossy(reason))
        }
        _ => "closed without a code".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banter_protocol::event::Message;
    use banter_protocol::ids::{Epoch, Sequence};
    use banter_protocol::request::{Body, BodyFormat};
    use banter_protocol::wire::WireForm;
    use scan_json::Openings;

    fn events() -> Vec<Event<'static>> {
        let body = Body { format: BodyFormat::Json, bytes: b"\"0123456789\"" };
        let message = |sequence| {
            Event::Message(Message {
                epoch: Epoch(77),
                sequence: Sequence(sequence),
                time_ms: 1_700_000_000_000,
                room: "load-3",
                user: "u1",
                key: None,
                body,
            })
        };
        vec![
            Event::Joined {
                id: Some(2),
                room: "load-3",
                epoch: Epoch(77),
                sequence: Sequence(9),
                members: 4,
                durability: "memory",
            },
            message(10),
            Event::Posted {
                id: Some(12),
                room: "load-3",
                epoch: Epoch(77),
                sequence: Sequence(10),
                time_ms: 5,
                duplicate: false,
            },
            message(1_234_567_890),
            Event::Gap { room: "load-3", epoch: Epoch(77), from: Sequence(4), to: Sequence(6) },
            Event::Pong { id: Some(13) },
        ]
    }

    fn expected() -> Vec<String> {
        let body = b"\"0123456789\"".as_slice();
        [
            Seen::Joined { epoch: 77, sequence: 9 },
            Seen::Message { sequence: 10, body },
            Seen::Posted { id: 12, sequence: 10 },
            Seen::Message { sequence: 1_234_567_890, body },
            Seen::Gap { from: 4, to: 6 },
            Seen::Pong { id: 13 },
        ]
        .iter()
        .map(|seen| format!("{seen:?}"))
        .collect()
    }

    const FORMS: [(Wire, WireForm); 3] =
        [(Wire::Json, WireForm::Json), (Wire::Native, WireForm::Native), (Wire::WsRkyv, WireForm::WebSocketRkyv)];

    #[test]
    fn a_stream_that_comes_in_any_two_parts_says_the_same() {
        for (wire, form) in FORMS {
            let mut stream = Vec::new();
            events().iter().for_each(|event| form.write_event(event, &mut stream));
            form.write_keep_alive(&mut stream);
            let openings = Openings::new("load-3", 77, 12);
            for cut_at in 0..=stream.len() {
                let mut seen = Vec::new();
                let mut kept = Vec::new();
                for part in [&stream[..cut_at], &stream[cut_at..]] {
                    kept.extend_from_slice(part);
                    let mut used = 0;
                    while let Some((raw, bytes)) = cut(wire, &kept[used..]).unwrap() {
                        seen.push(format!("{:?}", read(raw, &openings).unwrap()));
                        used += bytes;
                    }
                    kept.drain(..used);
                }
                assert!(kept.is_empty());
                assert_eq!(seen.pop(), Some(format!("{:?}", Seen::Ping(&[]))), "{wire:?} cut at {cut_at}");
                assert_eq!(seen, expected(), "{wire:?} cut at {cut_at}");
            }
        }
    }

    #[test]
    fn every_length_of_a_websocket_header_is_read() {
        for payload_bytes in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let mut bytes = Vec::new();
            let kind = banter_protocol::websocket::FrameKind::Text;
            banter_protocol::websocket::write_frame_header(&mut bytes, kind, payload_bytes);
            bytes.resize(bytes.len() + payload_bytes, b'x');
            assert_eq!(cut(Wire::Json, &bytes[..bytes.len() - 1]), Ok(None));
            let Ok(Some((Raw::Json(payload), used))) = cut(Wire::Json, &bytes) else { panic!() };
            assert_eq!((payload.len(), used), (payload_bytes, bytes.len()));
            bytes[0] = 0x82;
            let expected = Raw::Neighbour(Said::Message(&bytes[bytes.len() - payload_bytes..]));
            assert_eq!(cut(Wire::Plain, &bytes), Ok(Some((expected, bytes.len()))));
        }
    }

    #[test]
    fn bytes_that_can_be_no_frame_are_faults() {
        assert!(cut(Wire::Json, &[0x81, 0x85]).is_err(), "masked");
        assert!(cut(Wire::Json, &[0x01, 0x00]).is_err(), "a fragment");
        assert!(cut(Wire::Json, &[0x82, 0x00]).is_err(), "binary where text is due");
        assert!(cut(Wire::Json, &[0x81, 127, 0xFF, 0, 0, 0, 0, 0, 0, 0]).is_err(), "far too large");
        assert!(cut(Wire::Plain, &[0x81, 0x00]).is_err(), "text where binary is due");
        assert!(cut(Wire::Native, &[0xFF; 8]).is_err());
        assert!(cut(Wire::WsRkyv, &[0x82, 0x01, 0x00]).is_err(), "no whole native frame in it");
    }

    #[test]
    fn refusals_and_closes_keep_their_words() {
        let code = banter_protocol::error_code::ErrorCode::Overloaded;
        let error = Event::Error {
            id: None,
            code,
            message: "too \"many\"",
            retry_after_ms: Some(5),
            scope: None,
            reason: None,
        };
        for (wire, form) in FORMS {
            let mut bytes = Vec::new();
            form.write_event(&error, &mut bytes);
            let (raw, _) = cut(wire, &bytes).unwrap().unwrap();
            let expected = Seen::Refused { code: "overloaded".into(), message: "too \"many\"".into() };
            assert_eq!(read(raw, &Openings::default()), Ok(expected));
        }
        let mut bytes = Vec::new();
        WireForm::Json.write_close(1009, "large", &mut bytes);
        let (raw, _) = cut(Wire::Json, &bytes).unwrap().unwrap();
        assert_eq!(describe_close(b""), "closed without a code");
        let Ok(Seen::Close { why }) = read(raw, &Openings::default()) else { panic!() };
        assert_eq!(why, "closed with code 1009 \"large\"");
    }
}
