//! WebSocket frames (RFC 6455) of one connection, sans-io: cuts and checks what comes in, writes what goes out.
//!
//! ```text
//!  a whole frame in the input:   unmasked where it lies, checked, borrowed        (copies and allocates nothing)
//!  a cut frame or a fragment:    unmasked ─▶ Kept (boxed; grows with what came) ─▶ borrowed when it is whole
//! ```
//!
//! Invariants:
//! - Every frame is judged from its header alone, before anything of it is kept: nothing is allocated by an announced
//!   length, and the bytes kept of a message never exceed `message_bytes_max`.
//! - A text that cannot become UTF-8 any more is refused at the byte that shows it, not at the end of the message.
//! - How the stream is cut into inputs changes neither what is read nor which fault is found.
//!
//! What is not here: extensions (a reserved bit is a fault), the opening handshake ([`crate::http`]), and the answers
//! to ping and close, which belong to the connection.

use std::io::Cursor;
use std::ops::Range;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// A control frame's payload is at most this long (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// A frame's header is at most this long: two bytes, a 64-bit length, a mask.
pub const HEADER_BYTES_MAX: usize = 14;
/// A close frame's reason is at most this long: what a control frame holds, less the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - CLOSE_CODE_BYTES;

const CLOSE_CODE_BYTES: usize = 2;

/// Which end of the connection reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer is a client: its frames must be masked.
    Server,
    /// The peer is a server: its frames must not be masked.
    Client,
}

/// What a frame that goes out, or a whole message that came in, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
    /// Asks for a pong with the same payload.
    Ping,
    /// Answers a ping, or just shows life.
    Pong,
    /// The last frame of its direction.
    Close,
}

impl FrameKind {
    fn is_control(self) -> bool {
        matches!(self, FrameKind::Ping | FrameKind::Pong | FrameKind::Close)
    }

    fn opcode(self) -> OpCode {
        match self {
            FrameKind::Text => OpCode::Data(Data::Text),
            FrameKind::Binary => OpCode::Data(Data::Binary),
            FrameKind::Ping => OpCode::Control(Control::Ping),
            FrameKind::Pong => OpCode::Control(Control::Pong),
            FrameKind::Close => OpCode::Control(Control::Close),
        }
    }
}

/// A whole message or control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// To be answered with a pong that carries the same bytes.
    Ping(&'a [u8]),
    /// The peer is there.
    Pong(&'a [u8]),
    /// The peer says nothing after this.
    Close {
        /// A code that may appear on the wire; `None` when the frame was empty.
        code: Option<u16>,
        /// For people; empty when there is none.
        reason: &'a str,
    },
}

/// How a peer broke the protocol. The connection is closed with [`WebSocketFault::close_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says in its message what it means")]
pub enum WebSocketFault {
    #[error("a client's frame must be masked")]
    Unmasked,
    #[error("a server's frame must not be masked")]
    Masked,
    #[error("a reserved bit is set and no extension was agreed on")]
    ReservedBits,
    #[error("the opcode is reserved")]
    ReservedOpcode,
    #[error("a control frame holds more than 125 bytes")]
    ControlTooLong,
    #[error("a control frame must not be fragmented")]
    ControlFragmented,
    #[error("a continuation frame continues no message")]
    UnexpectedContinuation,
    #[error("a new message starts before the fragmented one ended")]
    ExpectedContinuation,
    #[error("the payload length is not written in its shortest form, or has its top bit set")]
    BadLength,
    #[error("the text is not UTF-8")]
    NotUtf8,
    #[error("close code {0} must not be sent")]
    BadCloseCode(u16),
    #[error("a close frame holds a single byte")]
    BadCloseLength,
    #[error("a message of at least {bytes} bytes is above the limit of {bytes_max}")]
    MessageTooLarge { bytes: u64, bytes_max: u64 },
}

impl WebSocketFault {
    /// The close code that answers it (RFC 6455 section 7.4.1).
    pub fn close_code(&self) -> u16 {
        match self {
            WebSocketFault::NotUtf8 => 1007,
            WebSocketFault::MessageTooLarge { .. } => 1009,
            _ => 1002,
        }
    }
}

/// Reads the frames of one connection. Holds no buffer while no frame or message is partly here.
#[derive(Debug)]
pub struct WebSocketReader {
    message_bytes_max: u64,
    /// Boxed, because nearly every reader of an idle server has none.
    kept: Option<Box<Kept>>,
    role: Role,
}

/// What one `read` leaves for the next.
#[derive(Debug, Default)]
struct Kept {
    /// The first bytes of a header that was cut.
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: u8,
    /// What is still missing of a frame whose header is here.
    frame: Option<Frame>,
    /// What the message in `message` is; `None` while there is no such message.
    message_kind: Option<FrameKind>,
    message: Vec<u8>,
    /// So much of a text in `message` is UTF-8 and ends with a whole code point.
    utf8_bytes: usize,
    /// A cut control frame. Apart from `message`, since control frames come between fragments.
    control: Vec<u8>,
    /// Which of the two was handed out by the last call, and goes at the next.
    handed_out: Option<FrameKind>,
}

/// A frame from its header on: what has not been taken of it yet.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// A continuation has the kind of its message.
    kind: FrameKind,
    is_final: bool,
    /// Turned so that its first byte belongs to the next byte of payload.
    mask: [u8; 4],
    missing_bytes: u64,
}

/// Where the payload of something whole lies.
enum Place {
    Input(Range<usize>),
    Kept,
}

impl WebSocketReader {
    /// A reader of messages up to the limit, which counts the payload of all fragments.
    pub fn new(role: Role, message_bytes_max: u64) -> Self {
        WebSocketReader { message_bytes_max, kept: None, role }
    }

    /// Bytes that a message may have.
    pub fn message_bytes_max(&self) -> u64 {
        self.message_bytes_max
    }

    /// Reads at most one incoming from the front of `input`, and says how many bytes it took. With none, all of
    /// `input` was taken and more is needed. Payloads are unmasked where they lie.
    ///
    /// What was cut and is now whole is borrowed from the reader, and freed by the next call: a caller that reads on
    /// until it gets none, with an empty rest at last, leaves no buffer behind. So does [`WebSocketReader::release`].
    ///
    /// # Errors
    /// When the peer breaks the protocol. The stream means nothing from here on.
    pub fn read<'a>(&'a mut self, input: &'a mut [u8]) -> Result<(usize, Option<Incoming<'a>>), WebSocketFault> {
        self.release();
        let mut used = 0;
        let (kind, place) = loop {
            let Some((frame, header_bytes)) = self.next_frame(&input[used..])? else { return Ok((input.len(), None)) };
            let start = used + header_bytes;
            let payload_bytes = frame.missing_bytes.min((input.len() - start) as u64) as usize;
            used = start + payload_bytes;
            let payload = &mut input[start..used];
            unmask(payload, frame.mask);
            if frame.is_final && payload_bytes as u64 == frame.missing_bytes && !self.has_begun(frame.kind) {
                self.forget_frame();
                break (frame.kind, Place::Input(start..used));
            }
            if self.keep(frame, payload)? {
                break (frame.kind, Place::Kept);
            }
            if used == input.len() {
                return Ok((used, None));
            }
        };
        let payload = match (place, &self.kept) {
            (Place::Input(range), _) => &input[range],
            (Place::Kept, Some(kept)) if kind.is_control() => &kept.control,
            (Place::Kept, Some(kept)) => &kept.message,
            (Place::Kept, None) => &[],
        };
        Ok((used, Some(incoming(kind, payload)?)))
    }

    /// Frees the message that the last [`WebSocketReader::read`] handed out, if it was kept here.
    pub fn release(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        match kept.handed_out.take() {
            None => {}
            Some(kind) if kind.is_control() && kept.message_kind.is_some() => kept.control = Vec::new(),
            Some(_) => self.kept = None,
        }
    }

    /// Whether a frame or a message is partly here.
    pub fn is_partial(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.handed_out.is_none() || kept.message_kind.is_some())
    }

    /// The frame that is going on, or the one whose header is at the front of `input`, with the bytes that the header
    /// takes of `input`. `None` when the header is cut; its bytes are kept then.
    fn next_frame(&mut self, input: &[u8]) -> Result<Option<(Frame, usize)>, WebSocketFault> {
        let Some(kept) = &mut self.kept else { return self.read_header(input) };
        if let Some(frame) = kept.frame {
            return Ok(Some((frame, 0)));
        }
        if kept.header_bytes == 0 {
            return self.read_header(input);
        }
        let mut header = kept.header;
        let before = usize::from(std::mem::take(&mut kept.header_bytes));
        let added = input.len().min(HEADER_BYTES_MAX - before);
        header[before..before + added].copy_from_slice(&input[..added]);
        // The header is longer than what was kept of it, or it would not have been kept.
        let found = self.read_header(&header[..before + added])?;
        Ok(found.map(|(frame, header_bytes)| (frame, header_bytes.saturating_sub(before))))
    }

    fn read_header(&mut self, input: &[u8]) -> Result<Option<(Frame, usize)>, WebSocketFault> {
        let mut cursor = Cursor::new(input);
        // A reserved opcode is the only thing that this can find wrong with bytes in memory.
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| WebSocketFault::ReservedOpcode)?;
        let Some((header, payload_bytes)) = parsed else {
            self.keep_header(input);
            return Ok(None);
        };
        let header_bytes = cursor.position() as usize;
        // `len` is that of the shortest form; the top bit is judged first, since a length with it is of no form.
        if payload_bytes >> 63 != 0 || header_bytes != header.len(payload_bytes) {
            return Err(WebSocketFault::BadLength);
        }
        Ok(Some((self.judge(&header, payload_bytes)?, header_bytes)))
    }

    /// Keeps what there is of a cut header: fewer bytes than the longest header has.
    #[cold]
    fn keep_header(&mut self, input: &[u8]) {
        if input.is_empty() {
            return;
        }
        let kept = self.kept.get_or_insert_default();
        let bytes = input.len().min(HEADER_BYTES_MAX);
        kept.header[..bytes].copy_from_slice(&input[..bytes]);
        kept.header_bytes = bytes as u8;
    }

    /// Everything that a header can do wrong.
    fn judge(&self, header: &FrameHeader, payload_bytes: u64) -> Result<Frame, WebSocketFault> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(WebSocketFault::ReservedBits);
        }
        match self.role {
            Role::Server if header.mask.is_none() => return Err(WebSocketFault::Unmasked),
            Role::Client if header.mask.is_some() => return Err(WebSocketFault::Masked),
            _ => {}
        }
        let kind = match header.opcode {
            OpCode::Control(control) => judge_control(control, header.is_final, payload_bytes)?,
            OpCode::Data(data) => self.judge_data(data, payload_bytes)?,
        };
        let mask = header.mask.unwrap_or_default();
        Ok(Frame { kind, is_final: header.is_final, mask, missing_bytes: payload_bytes })
    }

    fn judge_data(&self, data: Data, payload_bytes: u64) -> Result<FrameKind, WebSocketFault> {
        let (message_kind, message_bytes) = match &self.kept {
            Some(kept) => (kept.message_kind, kept.message.len() as u64),
            None => (None, 0),
        };
        let kind = match (data, message_kind) {
            (Data::Reserved(_), _) => return Err(WebSocketFault::ReservedOpcode),
            (Data::Continue, None) => return Err(WebSocketFault::UnexpectedContinuation),
            (Data::Text | Data::Binary, Some(_)) => return Err(WebSocketFault::ExpectedContinuation),
            (Data::Continue, Some(kind)) => kind,
            (Data::Text, None) => FrameKind::Text,
            (Data::Binary, None) => FrameKind::Binary,
        };
        let bytes = message_bytes.saturating_add(payload_bytes);
        if bytes > self.message_bytes_max {
            return Err(WebSocketFault::MessageTooLarge { bytes, bytes_max: self.message_bytes_max });
        }
        Ok(kind)
    }

    /// Whether earlier bytes of what a frame of this kind belongs to are kept.
    fn has_begun(&self, kind: FrameKind) -> bool {
        let Some(kept) = &self.kept else { return false };
        if kind.is_control() { !kept.control.is_empty() } else { kept.message_kind.is_some() }
    }

    /// The frame ended and left nothing here.
    fn forget_frame(&mut self) {
        match &mut self.kept {
            Some(kept) if kept.message_kind.is_some() => kept.frame = None,
            kept => *kept = None,
        }
    }

    /// Keeps the next bytes of a frame. True when that makes its message, or the control frame, whole.
    #[cold]
    fn keep(&mut self, frame: Frame, payload: &[u8]) -> Result<bool, WebSocketFault> {
        let kept = self.kept.get_or_insert_default();
        let missing_bytes = frame.missing_bytes - payload.len() as u64;
        let mut mask = frame.mask;
        mask.rotate_left(payload.len() % 4);
        kept.frame = (missing_bytes > 0).then_some(Frame { mask, missing_bytes, ..frame });
        let is_whole = frame.is_final && missing_bytes == 0;
        if frame.kind.is_control() {
            kept.control.extend_from_slice(payload);
        } else if !payload.is_empty() || missing_bytes == 0 {
            kept.message_kind = Some(frame.kind);
            kept.message.extend_from_slice(payload);
            if frame.kind == FrameKind::Text && !is_whole {
                kept.check_utf8()?;
            }
        }
        if is_whole {
            kept.finish(frame.kind);
        }
        Ok(is_whole)
    }
}

impl Kept {
    /// Refuses a text whose bytes so far no bytes to come can make UTF-8.
    fn check_utf8(&mut self) -> Result<(), WebSocketFault> {
        match simdutf8::compat::from_utf8(&self.message[self.utf8_bytes..]) {
            Ok(text) => self.utf8_bytes += text.len(),
            Err(error) if error.error_len().is_none() => self.utf8_bytes += error.valid_up_to(),
            Err(_) => return Err(WebSocketFault::NotUtf8),
        }
        Ok(())
    }

    fn finish(&mut self, kind: FrameKind) {
        self.handed_out = Some(kind);
        if !kind.is_control() {
            self.message_kind = None;
        }
    }
}

fn judge_control(control: Control, is_final: bool, payload_bytes: u64) -> Result<FrameKind, WebSocketFault> {
    let kind = match control {
        Control::Close => FrameKind::Close,
        Control::Ping => FrameKind::Ping,
        Control::Pong => FrameKind::Pong,
        Control::Reserved(_) => return Err(WebSocketFault::ReservedOpcode),
    };
    if payload_bytes > CONTROL_BYTES_MAX as u64 {
        return Err(WebSocketFault::ControlTooLong);
    }
    if !is_final {
        return Err(WebSocketFault::ControlFragmented);
    }
    Ok(kind)
}

fn incoming(kind: FrameKind, payload: &[u8]) -> Result<Incoming<'_>, WebSocketFault> {
    Ok(match kind {
        FrameKind::Text => Incoming::Text(utf8(payload)?),
        FrameKind::Binary => Incoming::Binary(payload),
        FrameKind::Ping => Incoming::Ping(payload),
        FrameKind::Pong => Incoming::Pong(payload),
        FrameKind::Close => close(payload)?,
    })
}

fn utf8(bytes: &[u8]) -> Result<&str, WebSocketFault> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| WebSocketFault::NotUtf8)
}

fn close(payload: &[u8]) -> Result<Incoming<'_>, WebSocketFault> {
    match payload.split_first_chunk() {
        None if payload.is_empty() => Ok(Incoming::Close { code: None, reason: "" }),
        None => Err(WebSocketFault::BadCloseLength),
        Some((code, reason)) => {
            let code = u16::from_be_bytes(*code);
            if !may_be_sent(code) {
                return Err(WebSocketFault::BadCloseCode(code));
            }
            Ok(Incoming::Close { code: Some(code), reason: utf8(reason)? })
        }
    }
}

/// Whether a close frame may carry that code: those that IANA lists for the wire, and the ranges that libraries
/// (3000–3999) and applications (4000–4999) have to themselves.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// XORs the bytes with the mask, over and over. Eight bytes a step: the compiler makes vectors of that.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask;
    }
}

fn header_of(kind: FrameKind, mask: Option<[u8; 4]>) -> FrameHeader {
    FrameHeader { opcode: kind.opcode(), mask, ..FrameHeader::default() }
}

fn write_header(out: &mut Vec<u8>, header: &FrameHeader, payload_bytes: usize) {
    // Writing to a Vec does not fail.
    let _ = header.format(payload_bytes as u64, out);
}

/// Appends the header of a server's frame: final, unmasked, at most ten bytes.
pub fn write_frame_header(out: &mut Vec<u8>, kind: FrameKind, payload_len: usize) {
    write_header(out, &header_of(kind, None), payload_len);
}

/// Bytes of what [`write_frame_header`] appends for that payload.
pub fn frame_header_len(payload_len: usize) -> usize {
    header_of(FrameKind::Binary, None).len(payload_len as u64)
}

/// Appends a server's close frame. A reason above [`CLOSE_REASON_BYTES_MAX`] is cut at a code point's end.
pub fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)];
    write_frame_header(out, FrameKind::Close, CLOSE_CODE_BYTES + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends a client's frame: final, and its payload masked.
pub fn write_masked_frame(out: &mut Vec<u8>, kind: FrameKind, mask: [u8; 4], payload: &[u8]) {
    write_header(out, &header_of(kind, Some(mask)), payload.len());
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], mask);
}

#[cfg(test)]
mod tests;
