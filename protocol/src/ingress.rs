//! From the bytes of one connection to requests: tells HTTP from the native form, and cuts and reads what follows.

use crate::fault::{PeerFault, RequestFault};
use crate::frame::{Frame, FrameReader, PREAMBLE};
use crate::http::{HEAD_BYTES_MAX, Head, HttpFault, HttpRequest, parse_head};
use crate::request::Request;
use crate::websocket::{self, Role, WebSocketReader};
use crate::wire::WireForm;
use crate::{json, native};

/// What the bytes of a connection turned out to hold.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// A whole HTTP head. The caller answers it, or calls [`Ingress::accept_websocket`].
    Http(HttpRequest<'a>),
    /// The native preamble: frames follow.
    NativeOpened,
    /// A request.
    Request(Request<'a>),
    /// A whole text or frame that is no request.
    BadRequest(RequestFault),
    /// The peer asks whether the server is there: answer with the same bytes.
    Ping(&'a [u8]),
    /// The peer is there.
    Pong,
    /// The peer ends the WebSocket with this code, if it gave one.
    Close(Option<u16>),
}

/// Reads one connection's bytes. Holds no buffer between two whole requests, once it was asked again and had nothing.
#[derive(Debug)]
pub struct Ingress {
    state: State,
    frame_bytes_max: u32,
}

#[derive(Debug)]
enum State {
    Opening(Opening),
    WebSocket(WebSocketReader, WireForm),
    Native(FrameReader),
}

/// Nothing is decided.
#[derive(Debug, Default)]
struct Opening {
    /// What came so far, at most [`HEAD_BYTES_MAX`].
    kept: Vec<u8>,
    /// The head in `kept` was handed out, and goes at the next call.
    handed_out: bool,
}

impl Ingress {
    /// For a new connection.
    pub fn new(frame_bytes_max: u32) -> Self {
        Ingress { state: State::Opening(Opening::default()), frame_bytes_max }
    }

    /// Whether the connection's form is known: before that it may do nothing, and not for long.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Opening(_))
    }

    /// From here on the bytes are WebSocket frames.
    pub fn accept_websocket(&mut self, form: WireForm) {
        let reader = WebSocketReader::new(Role::Server, self.frame_bytes_max.into());
        self.state = State::WebSocket(reader, form);
    }

    /// Reads at most one thing from the front of `input`, and says how many bytes it took. With nothing, all of
    /// `input` was taken. WebSocket payloads are unmasked where they lie. Call it until it gives nothing, also when
    /// no input is left: that lets go of the buffer behind what it gave last.
    ///
    /// # Errors
    /// When the bytes break the stream. Nothing more may be read from it.
    pub fn read<'a>(&'a mut self, input: &'a mut [u8]) -> Result<(usize, Option<Incoming<'a>>), PeerFault> {
        if let State::Opening(opening) = &mut self.state {
            if opening.handed_out {
                *opening = Opening::default();
            }
            let first = opening.kept.first().or(input.first()).copied();
            match first {
                None => return Ok((0, None)),
                Some(first) if first == PREAMBLE[0] => return self.read_preamble(input),
                Some(first) if first.is_ascii_uppercase() => {}
                Some(_) => return Err(PeerFault::UnknownProtocol),
            }
        }
        match &mut self.state {
            State::Opening(opening) => read_head(opening, input),
            State::WebSocket(reader, form) => {
                let (used, incoming) = reader.read(input)?;
                Ok((used, incoming.map(|incoming| read_websocket(incoming, *form, self.frame_bytes_max)).transpose()?))
            }
            State::Native(reader) => {
                let (used, frame) = reader.read(input)?;
                Ok((used, frame.map(read_frame)))
            }
        }
    }

    fn read_preamble(&mut self, input: &[u8]) -> Result<(usize, Option<Incoming<'_>>), PeerFault> {
        let State::Opening(Opening { kept, .. }) = &mut self.state else { return Ok((0, None)) };
        let taken = input.len().min(PREAMBLE.len() - kept.len());
        kept.extend_from_slice(&input[..taken]);
        let (magic, version) = PREAMBLE.split_at(PREAMBLE.len() - 1);
        if !magic.starts_with(&kept[..kept.len().min(magic.len())]) {
            return Err(PeerFault::UnknownProtocol);
        }
        match kept.get(magic.len()) {
            None => Ok((taken, None)),
            Some(found) if [*found] != version => Err(PeerFault::PreambleVersion(*found)),
            Some(_) => {
                self.state = State::Native(FrameReader::new(self.frame_bytes_max));
                Ok((taken, Some(Incoming::NativeOpened)))
            }
        }
    }
}

fn read_head<'a>(opening: &'a mut Opening, input: &[u8]) -> Result<(usize, Option<Incoming<'a>>), PeerFault> {
    let Opening { kept, handed_out } = opening;
    let before = kept.len();
    let taken = input.len().min(HEAD_BYTES_MAX - before);
    kept.extend_from_slice(&input[..taken]);
    match parse_head(kept)? {
        Head::Complete { consumed, request } => {
            *handed_out = true;
            Ok((consumed.saturating_sub(before), Some(Incoming::Http(request))))
        }
        Head::Partial if kept.len() >= HEAD_BYTES_MAX => Err(HttpFault::HeadTooLarge.into()),
        Head::Partial => Ok((taken, None)),
    }
}

fn read_websocket<'a>(
    incoming: websocket::Incoming<'a>,
    form: WireForm,
    frame_bytes_max: u32,
) -> Result<Incoming<'a>, PeerFault> {
    Ok(match incoming {
        websocket::Incoming::Text(text) if form == WireForm::Json => match json::read_request(text) {
            Ok(request) => Incoming::Request(request),
            Err(fault) => Incoming::BadRequest(fault),
        },
        websocket::Incoming::Binary(bytes) if form == WireForm::WebSocketRkyv => {
            match Frame::read(bytes, frame_bytes_max)? {
                (frame, used) if used == bytes.len() => read_frame(frame),
                _ => Incoming::BadRequest(no_request("a binary message must hold one frame and nothing behind it")),
            }
        }
        websocket::Incoming::Text(_) => Incoming::BadRequest(no_request("this subprotocol takes binary messages")),
        websocket::Incoming::Binary(_) => Incoming::BadRequest(no_request("this subprotocol takes text messages")),
        websocket::Incoming::Ping(payload) => Incoming::Ping(payload),
        websocket::Incoming::Pong(_) => Incoming::Pong,
        websocket::Incoming::Close { code, .. } => Incoming::Close(code),
    })
}

fn read_frame(frame: Frame<'_>) -> Incoming<'_> {
    match native::read_request(frame) {
        Ok(request) => Incoming::Request(request),
        Err(fault) => Incoming::BadRequest(fault),
    }
}

fn no_request(message: &str) -> RequestFault {
    RequestFault::new(None, message)
}
