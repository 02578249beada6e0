//! Which of the three wire forms a connection reads, and the one place that writes for each of them.

use std::borrow::Cow;

use crate::event::Event;
use crate::fault::PeerFault;
use crate::features::Features;
use crate::native::{as_told, as_viewed, read_kept};
use crate::websocket::{FrameKind, frame_header_len, write_close, write_frame_header};
use crate::{json, native};

/// The WebSocket subprotocol of the JSON form, the default.
pub const SUBPROTOCOL_JSON: &str = "banter.json.v1";
/// The WebSocket subprotocol of the native form.
pub const SUBPROTOCOL_RKYV: &str = "banter.rkyv.v1";

/// How a connection's frames look on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireForm {
    /// JSON in WebSocket text frames.
    Json,
    /// Native frames in WebSocket binary frames, one each.
    WebSocketRkyv,
    /// Native frames on TCP.
    Native,
}

impl WireForm {
    /// Every form, in the order of its index.
    pub const ALL: [WireForm; 3] = [WireForm::Json, WireForm::WebSocketRkyv, WireForm::Native];

    /// Its place in [`WireForm::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Whether its frames travel in WebSocket frames.
    pub fn is_websocket(self) -> bool {
        self != WireForm::Native
    }

    /// Appends an event as this form has it, for a reader who knows the base alone.
    pub fn write_event(self, event: &Event<'_>, out: &mut Vec<u8>) {
        self.write_event_to(event, Features::NONE, out);
    }

    /// Appends an event as this form has it, for a reader who agreed on these features.
    pub fn write_event_to(self, event: &Event<'_>, agreed: Features, out: &mut Vec<u8>) {
        match self {
            WireForm::Json => in_websocket_frame(FrameKind::Text, out, |out| json::write_event_to(event, agreed, out)),
            WireForm::WebSocketRkyv => {
                in_websocket_frame(FrameKind::Binary, out, |out| native::write_event_to(event, agreed, out));
            }
            WireForm::Native => native::write_event_to(event, agreed, out),
        }
    }

    /// Appends what has a place in a history, given the frame that the room's core encoded, for a reader of that class who agreed
    /// on these features: what none of them tells is a gap of one.
    ///
    /// # Errors
    /// When the form needs another frame of it, and it is not valid.
    pub fn write_kept(
        self,
        frame: &[u8],
        class: Option<&str>,
        agreed: Features,
        out: &mut Vec<u8>,
    ) -> Result<(), PeerFault> {
        // Without a class the next step says what the body is.
        let shown = if class.is_some() { as_viewed(frame, class)? } else { Cow::Borrowed(frame) };
        let told = as_told(&shown, agreed)?;
        match self {
            WireForm::Json => {
                let kept = read_kept(&told)?;
                in_websocket_frame(FrameKind::Text, out, |out| json::write_kept(&kept, out));
            }
            WireForm::WebSocketRkyv => {
                write_frame_header(out, FrameKind::Binary, told.len());
                out.extend_from_slice(&told);
            }
            WireForm::Native => out.extend_from_slice(&told),
        }
        Ok(())
    }

    /// Appends what ends a connection of this form; nothing on TCP, where the error ahead of it says why.
    pub fn write_close(self, code: u16, reason: &str, out: &mut Vec<u8>) {
        if self.is_websocket() {
            write_close(out, code, reason);
        }
    }

    /// Appends what asks a silent peer whether it is there.
    pub fn write_keep_alive(self, out: &mut Vec<u8>) {
        if self.is_websocket() {
            write_frame_header(out, FrameKind::Ping, 0);
        } else {
            native::write_event(&Event::KeepAlive, out);
        }
    }
}

/// Bytes of the header that most events need; another length moves the payload.
const HEADER_BYTES_USUAL: usize = 4;

/// Appends a WebSocket frame around what `write` appends.
fn in_websocket_frame(kind: FrameKind, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let usual = start + HEADER_BYTES_USUAL;
    out.resize(usual, 0);
    write(out);
    let payload_bytes = out.len() - usual;
    let header = start + frame_header_len(payload_bytes);
    if header != usual {
        out.resize(header.max(usual) + payload_bytes, 0);
        out.copy_within(usual..usual + payload_bytes, header);
        out.truncate(header + payload_bytes);
    }
    // The header is written behind the frame and moved to its front, so that it needs no buffer of its own.
    let end = out.len();
    write_frame_header(out, kind, payload_bytes);
    out.copy_within(end.., start);
    out.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_code::ErrorCode;
    use crate::event::Message;
    use crate::frame::Frame;
    use crate::ids::{Epoch, Sequence};
    use crate::native::{Change, Kept, State};
    use crate::request::{Body, BodyFormat};
    use crate::websocket::{Incoming, Role, WebSocketReader};

    const AHEAD: &[u8] = b"what was there before";

    /// The payload of the one WebSocket frame behind `AHEAD`, as a client reads it.
    fn payload(mut out: Vec<u8>, form: WireForm) -> Vec<u8> {
        assert!(out.starts_with(AHEAD));
        let frame = &mut out[AHEAD.len()..];
        let length = frame.len();
        let mut reader = WebSocketReader::new(Role::Client, 1 << 20);
        match reader.read(frame).unwrap() {
            (used, Some(Incoming::Text(text))) if form == WireForm::Json && used == length => text.as_bytes().to_vec(),
            (used, Some(Incoming::Binary(bytes))) if form == WireForm::WebSocketRkyv && used == length => {
                bytes.to_vec()
            }
            (used, incoming) => panic!("{incoming:?} from {used} of {length} bytes"),
        }
    }

    fn message(body: &[u8]) -> Message<'_> {
        let body = Body { format: BodyFormat::Bytes, bytes: body };
        let (epoch, sequence) = (Epoch(1), Sequence(2));
        Message { epoch, sequence, time_ms: 3, room: "r", user: "u", key: None, body }
    }

    #[test]
    fn a_frame_goes_around_a_payload_of_any_length_without_moving_what_was_there() {
        for (header, lengths) in [(2, 0..=125), (4, 126..=200), (4, 65_530..=65_535), (10, 65_536..=65_540)] {
            for length in lengths {
                let written: Vec<u8> = (0..length).map(|at| b'a' + (at % 26) as u8).collect();
                for (kind, form) in [(FrameKind::Text, WireForm::Json), (FrameKind::Binary, WireForm::WebSocketRkyv)] {
                    let mut out = AHEAD.to_vec();
                    in_websocket_frame(kind, &mut out, |out| out.extend_from_slice(&written));
                    assert_eq!(out.len(), AHEAD.len() + header + length);
                    assert!(payload(out, form) == written, "{length} bytes");
                }
            }
        }
    }

    #[test]
    fn an_event_is_the_same_in_a_websocket_frame_and_without() {
        let long = "m".repeat(70_000);
        for text in ["", &long[..150], &long] {
            let event = Event::Error {
                id: None,
                code: ErrorCode::Overloaded,
                message: text,
                retry_after_ms: Some(1),
                scope: None,
                reason: None,
            };
            let (mut as_json, mut as_native) = (Vec::new(), AHEAD.to_vec());
            json::write_event(&event, &mut as_json);
            WireForm::Native.write_event(&event, &mut as_native);
            for (form, expected) in
                [(WireForm::Json, &as_json[..]), (WireForm::WebSocketRkyv, &as_native[AHEAD.len()..])]
            {
                let mut out = AHEAD.to_vec();
                form.write_event(&event, &mut out);
                assert!(payload(out, form) == expected);
            }
            let (frame, _) = Frame::read(&as_native[AHEAD.len()..], u32::MAX).unwrap();
            assert_eq!(native::read_event(frame), Ok(event));
        }
    }

    #[test]
    fn a_message_is_the_same_from_its_frame_as_from_its_fields() {
        for length in [0, 1, 40, 100, 300, 48_000, 66_000] {
            let body = vec![0xfe; length];
            let message = message(&body);
            let mut frame = Vec::new();
            native::write_message(&message, &mut frame);
            for form in WireForm::ALL {
                let (mut from_frame, mut from_fields) = (AHEAD.to_vec(), AHEAD.to_vec());
                form.write_kept(&frame, None, Features::NONE, &mut from_frame).unwrap();
                form.write_event(&Event::Message(message), &mut from_fields);
                assert!(from_frame == from_fields, "{form:?} of {length} bytes");
            }
        }
    }

    #[test]
    fn what_is_no_message_is_a_gap_of_one_in_every_form() {
        let (epoch, sequence, room, user) = (Epoch(1), Sequence(2), "r", "u");
        let change = Change { epoch, sequence, time_ms: 3, room, user, target: Sequence(1), what: 1, body: b"b" };
        for kept in [Kept::Change(change), Kept::Erased { room, epoch, sequence }] {
            let mut frame = Vec::new();
            native::write_kept(&kept, &mut frame);
            for form in WireForm::ALL {
                let (mut from_frame, mut as_gap) = (AHEAD.to_vec(), AHEAD.to_vec());
                form.write_kept(&frame, None, Features::NONE, &mut from_frame).unwrap();
                form.write_event(&kept.as_gap(), &mut as_gap);
                assert!(from_frame == as_gap, "{form:?} of {kept:?}");
            }
        }
    }

    #[test]
    fn a_state_is_written_in_no_form() {
        let mut frame = Vec::new();
        native::write_state(
            &State { epoch: Epoch(1), sequence: Sequence(2), time_ms: 3, room: "r", body: b"b" },
            &mut frame,
        );
        for form in WireForm::ALL {
            let mut out = AHEAD.to_vec();
            assert_eq!(
                (form.write_kept(&frame, None, Features::NONE, &mut out), &out[..]),
                (Err(PeerFault::Archive), AHEAD),
                "{form:?}"
            );
        }
    }

    #[test]
    fn json_cannot_be_made_of_a_frame_that_is_no_message() {
        let mut pong = Vec::new();
        native::write_event(&Event::Pong { id: None }, &mut pong);
        let mut out = AHEAD.to_vec();
        assert_eq!(WireForm::Json.write_kept(&pong, None, Features::NONE, &mut out), Err(PeerFault::Archive));
        assert_eq!(out, AHEAD);
    }

    #[test]
    fn only_a_websocket_has_a_close_and_a_ping_of_its_own() {
        for form in WireForm::ALL {
            assert_eq!(WireForm::ALL[form.index()], form);
            let (mut close, mut keep_alive) = (Vec::new(), Vec::new());
            form.write_close(1001, "draining", &mut close);
            form.write_keep_alive(&mut keep_alive);
            let mut reader = WebSocketReader::new(Role::Client, 125);
            if form.is_websocket() {
                let (_, ping) = reader.read(&mut keep_alive).unwrap();
                assert!(matches!(ping, Some(Incoming::Ping(b""))), "{ping:?}");
                let (_, end) = reader.read(&mut close).unwrap();
                assert!(matches!(end, Some(Incoming::Close { code: Some(1001), reason: "draining" })), "{end:?}");
            } else {
                assert!(close.is_empty());
                let (frame, _) = Frame::read(&keep_alive, u32::MAX).unwrap();
                assert_eq!(native::read_event(frame), Ok(Event::KeepAlive));
            }
        }
    }
}
