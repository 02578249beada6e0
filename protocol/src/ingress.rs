//! From the bytes of one connection to requests: tells HTTP from the native form, and cuts and reads what follows.
//!
//! Invariant: a PROXY header is read where it was said to come, and nowhere else.

use std::net::IpAddr;

use crate::fault::{PeerFault, RequestFault};
use crate::frame::{Frame, FrameReader, PREAMBLE};
use crate::http::{HEAD_BYTES_MAX, Head, HttpFault, HttpRequest, parse_head};
use crate::proxy::{PROXY_BYTES_MAX, ProxyFault, ProxyHeader, is_proxy_line, parse_proxy_header};
use crate::request::Request;
use crate::websocket::{self, Role, WebSocketReader};
use crate::wire::WireForm;
use crate::{json, native};

/// What the bytes of a connection turned out to hold.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// A proxy's header: whom the connection is for, where the proxy says so. What the client sent follows.
    Proxied(Option<IpAddr>),
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
}

#[derive(Debug)]
enum State {
    /// Boxed, since it is over soon and the others are small.
    Opening(Box<Opening>),
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
    frame_bytes_max: u32,
    /// A PROXY header comes first.
    is_proxied: bool,
}

impl Ingress {
    /// For a new connection.
    pub fn new(frame_bytes_max: u32) -> Self {
        let opening = Opening { frame_bytes_max, ..Opening::default() };
        Ingress { state: State::Opening(Box::new(opening)) }
    }

    /// For a new connection that begins with a PROXY header.
    pub fn behind_proxy(frame_bytes_max: u32) -> Self {
        let opening = Opening { frame_bytes_max, is_proxied: true, ..Opening::default() };
        Ingress { state: State::Opening(Box::new(opening)) }
    }

    /// Whether the connection's form is known: before that it may do nothing, and not for long.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Opening(_))
    }

    /// From here on the bytes are WebSocket frames. Behind a head; a connection whose form is known keeps it.
    pub fn accept_websocket(&mut self, form: WireForm) {
        if let State::Opening(opening) = &self.state {
            let reader = WebSocketReader::new(Role::Server, opening.frame_bytes_max.into());
            self.state = State::WebSocket(reader, form);
        }
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
                (opening.kept, opening.handed_out) = (Vec::new(), false);
            }
            let first = opening.kept.first().or(input.first()).copied();
            match first {
                None => return Ok((0, None)),
                Some(_) if opening.is_proxied => return read_proxy_header(opening, input),
                Some(first) if first == PREAMBLE[0] => return self.read_preamble(input),
                Some(first) if first.is_ascii_uppercase() => {}
                // Nothing but the second version of the header begins so.
                Some(b'\r') => return Err(ProxyFault::Unexpected.into()),
                Some(_) => return Err(PeerFault::UnknownProtocol),
            }
        }
        match &mut self.state {
            State::Opening(opening) => read_head(opening, input),
            State::WebSocket(reader, form) => {
                let frame_bytes_max = reader.message_bytes_max() as u32;
                let (used, incoming) = reader.read(input)?;
                Ok((used, incoming.map(|incoming| read_websocket(incoming, *form, frame_bytes_max)).transpose()?))
            }
            State::Native(reader) => {
                let (used, frame) = reader.read(input)?;
                Ok((used, frame.map(read_frame)))
            }
        }
    }

    /// Whether a message has begun and is not whole.
    pub fn is_partial(&self) -> bool {
        match &self.state {
            State::Opening(opening) => !opening.handed_out && !opening.kept.is_empty(),
            State::WebSocket(reader, _) => reader.is_partial(),
            State::Native(reader) => reader.is_partial(),
        }
    }

    /// Frees what the last [`Ingress::read`] handed out, so that a connection at rest holds no buffer.
    pub fn release(&mut self) {
        match &mut self.state {
            State::Opening(_) => {}
            State::WebSocket(reader, _) => reader.release(),
            State::Native(reader) => reader.release(),
        }
    }

    fn read_preamble(&mut self, input: &[u8]) -> Result<(usize, Option<Incoming<'_>>), PeerFault> {
        let State::Opening(opening) = &mut self.state else { return Ok((0, None)) };
        let kept = &mut opening.kept;
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
                self.state = State::Native(FrameReader::new(opening.frame_bytes_max));
                Ok((taken, Some(Incoming::NativeOpened)))
            }
        }
    }
}

fn read_proxy_header<'a>(opening: &mut Opening, input: &[u8]) -> Result<(usize, Option<Incoming<'a>>), PeerFault> {
    let kept = &mut opening.kept;
    let before = kept.len();
    let taken = input.len().min(PROXY_BYTES_MAX - before);
    kept.extend_from_slice(&input[..taken]);
    match parse_proxy_header(kept)? {
        ProxyHeader::Partial if kept.len() >= PROXY_BYTES_MAX => Err(ProxyFault::TooLarge.into()),
        ProxyHeader::Partial => Ok((taken, None)),
        ProxyHeader::Complete { consumed, source } => {
            (opening.kept, opening.is_proxied) = (Vec::new(), false);
            Ok((consumed.saturating_sub(before), Some(Incoming::Proxied(source))))
        }
    }
}

fn read_head<'a>(opening: &'a mut Opening, input: &[u8]) -> Result<(usize, Option<Incoming<'a>>), PeerFault> {
    let Opening { kept, handed_out, .. } = opening;
    let before = kept.len();
    let taken = input.len().min(HEAD_BYTES_MAX - before);
    kept.extend_from_slice(&input[..taken]);
    if is_proxy_line(kept) {
        return Err(ProxyFault::Unexpected.into());
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::HEADER_BYTES;
    use crate::request::Ask;
    use crate::websocket::WebSocketFault;

    const FRAME_BYTES_MAX: u32 = 300;
    const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    /// What a connection's bytes hold when they come in these parts; a head is answered by an upgrade to `form`.
    fn seen_in_parts(parts: &[&[u8]], form: WireForm) -> (Vec<String>, Option<PeerFault>) {
        let mut ingress = Ingress::new(FRAME_BYTES_MAX);
        let mut seen = Vec::new();
        for part in parts {
            let mut part = part.to_vec();
            let mut at = 0;
            loop {
                let left = part.len() - at;
                let (used, incoming) = match ingress.read(&mut part[at..]) {
                    Ok(read) => read,
                    Err(fault) => return (seen, Some(fault)),
                };
                assert!(used <= left);
                at += used;
                let Some(incoming) = incoming else {
                    assert_eq!(used, left, "with nothing, all was taken");
                    break;
                };
                let is_head = matches!(incoming, Incoming::Http(_));
                seen.push(format!("{incoming:?}"));
                if is_head {
                    ingress.accept_websocket(form);
                }
            }
        }
        (seen, None)
    }

    /// The same, cut at every point, in single bytes, and at every pair of points a step apart.
    fn seen(stream: &[u8], form: WireForm) -> (Vec<String>, Option<PeerFault>) {
        let whole = seen_in_parts(&[stream], form);
        for cut in 0..=stream.len() {
            let (first, rest) = stream.split_at(cut);
            assert_eq!(seen_in_parts(&[first, rest], form), whole, "cut at {cut}");
            let (second, rest) = rest.split_at(rest.len().min(1 + cut % 17));
            assert_eq!(seen_in_parts(&[first, second, b"", rest], form), whole, "cut at {cut} and behind it");
        }
        assert_eq!(seen_in_parts(&stream.chunks(1).collect::<Vec<_>>(), form), whole, "in single bytes");
        whole
    }

    /// A masked frame, as a client sends it.
    fn client_frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x12, 0x00, 0xfe, 0x55];
        let mut frame = vec![first_byte];
        match payload.len() {
            length @ ..126 => frame.push(0x80 | length as u8),
            length => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn text(text: &str) -> Vec<u8> {
        client_frame(0x81, text.as_bytes())
    }

    fn post(bytes: &[u8]) -> Request<'_> {
        let body = crate::request::Body { format: crate::request::BodyFormat::Bytes, bytes };
        Request { id: Some(1), ask: Ask::Post { room: "lobby".into(), body, key: None } }
    }

    fn native_frame(request: &Request<'_>) -> Vec<u8> {
        let mut frame = Vec::new();
        native::write_request(request, &mut frame);
        frame
    }

    fn ping() -> Vec<u8> {
        native_frame(&Request { id: None, ask: Ask::Ping })
    }

    #[test]
    fn the_first_byte_tells_the_protocol() {
        for first in 0..=255u8 {
            let mut ingress = Ingress::new(FRAME_BYTES_MAX);
            let read = ingress.read(&mut [first]).map(|(used, incoming)| (used, incoming.is_some()));
            if first == PREAMBLE[0] || first.is_ascii_uppercase() {
                assert_eq!(read, Ok((1, false)), "{first:#x}");
            } else if first == b'\r' {
                assert_eq!(read, Err(ProxyFault::Unexpected.into()));
            } else {
                assert_eq!(read, Err(PeerFault::UnknownProtocol), "{first:#x}");
            }
            assert!(!ingress.is_open());
        }
        assert!(matches!(Ingress::new(0).read(&mut []), Ok((0, None))));
    }

    #[test]
    fn a_preamble_opens_and_what_is_pipelined_behind_it_is_read() {
        let stream = [&PREAMBLE[..], &native_frame(&post(b"\0\xff")), &ping()].concat();
        let (seen, fault) = seen(&stream, WireForm::Json);
        let expected = [Incoming::NativeOpened, Incoming::Request(post(b"\0\xff"))].map(|one| format!("{one:?}"));
        assert_eq!((&seen[..2], seen.len(), fault), (&expected[..], 3, None));
    }

    /// What a connection behind a proxy holds, in single bytes and at every cut.
    fn seen_behind_proxy(stream: &[u8]) -> (Vec<String>, Option<PeerFault>) {
        let in_parts = |parts: &[&[u8]]| {
            let (mut ingress, mut seen) = (Ingress::behind_proxy(FRAME_BYTES_MAX), Vec::new());
            for part in parts {
                let (mut part, mut at) = (part.to_vec(), 0);
                loop {
                    match ingress.read(&mut part[at..]) {
                        Ok((used, Some(incoming))) => {
                            at += used;
                            seen.push(format!("{incoming:?}"));
                        }
                        Ok((_, None)) => break,
                        Err(fault) => return (seen, Some(fault)),
                    }
                }
            }
            (seen, None)
        };
        let whole = in_parts(&[stream]);
        for cut in 0..=stream.len() {
            assert_eq!(in_parts(&[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
        }
        assert_eq!(in_parts(&stream.chunks(1).collect::<Vec<_>>()), whole);
        whole
    }

    #[test]
    fn behind_a_proxy_its_header_comes_first_and_what_the_client_sent_is_read_behind_it() {
        const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n";
        let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\xdc\x04\x01\xbb";
        for header in [LINE, binary] {
            let (seen, fault) = seen_behind_proxy(&[header, &PREAMBLE, &ping()].concat());
            assert_eq!(
                (&seen[..2], seen.len(), fault),
                (&["Proxied(Some(192.0.2.7))", "NativeOpened"].map(String::from)[..], 3, None)
            );
            let (seen, fault) = seen_behind_proxy(&[header, UPGRADE].concat());
            assert!(seen.len() == 2 && seen[1].starts_with("Http") && fault.is_none(), "{seen:?} {fault:?}");
            // One header and no more.
            let (seen, fault) = seen_behind_proxy(&[header, header].concat());
            assert_eq!((seen.len(), fault), (1, Some(ProxyFault::Unexpected.into())));
        }
        for stream in [UPGRADE, &PREAMBLE[..], b"\x16\x03\x01"] {
            assert_eq!(seen_behind_proxy(stream), (vec![], Some(ProxyFault::Missing.into())));
        }
    }

    #[test]
    fn a_header_of_a_proxy_is_refused_where_none_was_said_to_come() {
        let (seen, fault) = seen(b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\nGET / HTTP/1.1\r\n", WireForm::Json);
        assert_eq!((seen.len(), fault), (0, Some(ProxyFault::Unexpected.into())));
    }

    #[test]
    fn a_preamble_is_refused_at_its_first_wrong_byte() {
        for at in 0..PREAMBLE.len() {
            let mut bytes = PREAMBLE;
            bytes[at] ^= 0x55;
            let expected =
                if at + 1 == PREAMBLE.len() { PeerFault::PreambleVersion(0x54) } else { PeerFault::UnknownProtocol };
            assert_eq!(seen(&bytes, WireForm::Json), (vec![], Some(expected.clone())));
            // Not only when all of it is there.
            assert_eq!(seen(&bytes[..=at], WireForm::Json).1, Some(expected));
        }
        // A connection that "repairs" line ends.
        assert_eq!(seen(b"\xbaNTR\n\x00\x01", WireForm::Json).1, Some(PeerFault::UnknownProtocol));
    }

    #[test]
    fn an_upgrade_opens_and_what_is_pipelined_behind_it_is_read() {
        let stream = [
            UPGRADE,
            &text(r#"{"type":"hello","user":"ann"}"#),
            &client_frame(0x01, br#"{"type":"post","id":1,"#),
            &client_frame(0x89, b"are you there"),
            &client_frame(0x00, br#""room":"lobby","#),
            &client_frame(0x80, "\"body\":\"ü\"}".as_bytes()),
            &client_frame(0x8a, b""),
            &text("no JSON"),
            &client_frame(0x82, b"{}"),
            &client_frame(0x88, &[0x03, 0xe8]),
        ]
        .concat();
        let (seen, fault) = seen(&stream, WireForm::Json);
        assert_eq!(fault, None);
        let starts = ["Http", "Request", "Ping", "Request", "Pong", "BadRequest", "BadRequest", "Close(Some(1000))"];
        assert_eq!(seen.len(), starts.len());
        for (seen, start) in seen.iter().zip(starts) {
            assert!(seen.starts_with(start), "{seen} should be {start}");
        }
    }

    #[test]
    fn a_native_frame_in_a_websocket_message_is_whole_and_alone() {
        let good = native_frame(&post(b"\xff"));
        let stream =
            [UPGRADE, &client_frame(0x82, &good), &client_frame(0x82, &[&good[..], b"x"].concat()), &text("{}")]
                .concat();
        let (seen, fault) = seen(&stream, WireForm::WebSocketRkyv);
        assert_eq!((seen.len(), fault), (4, None));
        assert_eq!(seen[1], format!("{:?}", Incoming::Request(post(b"\xff"))));
        assert!(seen[2].starts_with("BadRequest") && seen[3].starts_with("BadRequest"), "{seen:?}");

        let torn = [UPGRADE, &client_frame(0x82, &good[..good.len() - 1])].concat();
        assert_eq!(self::seen(&torn, WireForm::WebSocketRkyv).1, Some(PeerFault::FrameTruncated));
    }

    #[test]
    fn what_is_too_large_is_refused_from_its_header() {
        let mut head = native_frame(&post(&[0; 400]));
        head.truncate(HEADER_BYTES);
        let bytes = u64::from(u32::from_le_bytes(head[..4].try_into().unwrap()));
        let fault = PeerFault::FrameTooLarge { bytes, bytes_max: FRAME_BYTES_MAX.into() };
        assert_eq!(seen(&[&PREAMBLE[..], &head].concat(), WireForm::Json).1, Some(fault));

        let message = client_frame(0x81, &[b' '; 301]);
        let (_, fault) = seen(&[UPGRADE, &message[..8]].concat(), WireForm::Json);
        assert!(matches!(fault, Some(PeerFault::WebSocket(WebSocketFault::MessageTooLarge { .. }))), "{fault:?}");
    }

    #[test]
    fn a_head_has_8_kib_and_no_more() {
        let head = |length: usize| {
            let (start, end) = ("GET / HTTP/1.1\r\nHost: h\r\nx: ", "\r\n\r\n");
            [start, &"a".repeat(length - start.len() - end.len()), end].concat().into_bytes()
        };
        for (length, is_fine) in [(HEAD_BYTES_MAX, true), (HEAD_BYTES_MAX + 1, false), (HEAD_BYTES_MAX * 4, false)] {
            let bytes = head(length);
            for part in [bytes.len(), 1_000, HEAD_BYTES_MAX, HEAD_BYTES_MAX - 1] {
                let (seen, fault) = seen_in_parts(&bytes.chunks(part).collect::<Vec<_>>(), WireForm::Json);
                let expected = (!is_fine).then_some(PeerFault::Http(HttpFault::HeadTooLarge));
                assert_eq!((seen.len(), fault), (usize::from(is_fine), expected), "{length} in parts of {part}");
            }
        }
    }

    #[test]
    fn a_second_head_is_read_behind_the_first() {
        let stream = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n";
        for cut in 0..stream.len() {
            let mut ingress = Ingress::new(FRAME_BYTES_MAX);
            let mut heads = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                let mut part = part.to_vec();
                let mut at = 0;
                while let (used, Some(incoming)) = ingress.read(&mut part[at..]).unwrap() {
                    at += used;
                    heads.push(format!("{incoming:?}"));
                }
            }
            assert_eq!(heads.len(), 2, "cut at {cut}");
            assert!(heads[0].contains("/a") && heads[1].contains("/b"), "{heads:?}");
        }
    }

    #[test]
    fn a_message_is_partial_from_its_first_byte_to_its_last_whatever_comes_between() {
        let fragments = [client_frame(0x01, b"{"), client_frame(0x89, b"ping"), client_frame(0x80, b"}")].concat();
        for (opening, message) in [(UPGRADE, fragments), (&PREAMBLE[..], ping())] {
            let mut ingress = Ingress::new(FRAME_BYTES_MAX);
            for byte in &mut opening.to_vec() {
                let opened = ingress.read(std::slice::from_mut(byte)).unwrap().1.is_some();
                assert!(opened || ingress.is_partial());
                if opened && opening == UPGRADE {
                    ingress.accept_websocket(WireForm::Json);
                }
            }
            assert!(!ingress.is_partial());
            for index in 0..message.len() {
                ingress.read(&mut [message[index]]).unwrap();
                ingress.release();
                assert_eq!(ingress.is_partial(), index + 1 < message.len(), "behind byte {index}");
            }
        }
    }

    #[test]
    fn nothing_is_kept_between_two_requests() {
        let mut ingress = Ingress::new(FRAME_BYTES_MAX);
        let mut stream = [&PREAMBLE[..], &ping()].concat();
        for part in stream.chunks_mut(3) {
            let mut at = 0;
            while let (used, Some(_)) = ingress.read(&mut part[at..]).unwrap() {
                at += used;
            }
        }
        let State::Native(reader) = &ingress.state else { panic!("{ingress:?}") };
        assert!(!reader.is_partial() && ingress.is_open());
        assert!(format!("{reader:?}").contains("partial: None"), "{reader:?}");
        // The README's figure of bytes an idle connection stands on it.
        assert!(size_of::<Ingress>() <= 32, "{}", size_of::<Ingress>());
    }
}
