//! Which of the three wire forms a connection reads, and the one place that writes for each of them.

use crate::event::{Event, Message};
use crate::fault::PeerFault;
use crate::native::read_message;
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

    /// Appends an event as this form has it.
    pub fn write_event(self, event: &Event<'_>, out: &mut Vec<u8>) {
        match self {
            WireForm::Json => in_websocket_frame(FrameKind::Text, out, |out| json::write_event(event, out)),
            WireForm::WebSocketRkyv => {
                in_websocket_frame(FrameKind::Binary, out, |out| native::write_event(event, out));
            }
            WireForm::Native => native::write_event(event, out),
        }
    }

    /// Appends a message, given the frame that the room's core encoded.
    ///
    /// # Errors
    /// When the JSON form is asked for and the frame is no valid message.
    pub fn write_message(self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), PeerFault> {
        match self {
            WireForm::Json => {
                let message: Message<'_> = read_message(frame)?;
                in_websocket_frame(FrameKind::Text, out, |out| json::write_message(&message, out));
            }
            WireForm::WebSocketRkyv => {
                write_frame_header(out, FrameKind::Binary, frame.len());
                out.extend_from_slice(frame);
            }
            WireForm::Native => out.extend_from_slice(frame),
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
