//! A peer that sends any bytes it likes, whole or cut, and sees the very bytes that come back.
//!
//! Everything here panics when the server does not do as it should, since that is a test that fails.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use banter_protocol::frame::{Frame, PREAMBLE};
use banter_protocol::websocket::{self, FrameKind};
use banter_protocol::{json, native};
use serde_json::Value;

use crate::server_process::PATIENCE;

/// The head that asks for a WebSocket with JSON.
pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: banter.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const MASK: [u8; 4] = [0x12, 0x00, 0xfe, 0x55];

/// A socket.
pub struct RawPeer {
    stream: TcpStream,
}

/// A frame that the server sent over WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerFrame {
    /// 1 text, 2 binary, 8 close, 9 ping, 10 pong.
    pub opcode: u8,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl RawPeer {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_nodelay(true).expect("a socket takes no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        RawPeer { stream }
    }

    /// Connects, and is upgraded to a WebSocket.
    pub fn websocket(address: SocketAddr) -> Self {
        let mut peer = Self::connect(address);
        peer.upgrade(UPGRADE);
        peer
    }

    /// Asks for a WebSocket with that head.
    pub fn upgrade(&mut self, head: &str) {
        self.send(head.as_bytes());
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("a head");
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    }

    /// Connects, and sends the native preamble.
    pub fn native(address: SocketAddr) -> Self {
        let mut peer = Self::connect(address);
        peer.send(&PREAMBLE);
        peer
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes bytes");
    }

    /// Sends bytes to a server that may have closed already.
    pub fn send_anyway(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends a request as a native frame.
    pub fn send_native(&mut self, request: &str) {
        self.send(&native_frame(request));
    }

    /// Ends its own side.
    pub fn end(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("the connection is there");
    }

    /// Closes with a reset instead of an end.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("a socket takes linger");
    }

    /// Something of what comes.
    pub fn read_some(&mut self) {
        assert!(self.stream.read(&mut [0; 4_096]).is_ok_and(|bytes| bytes > 0), "the server says something");
    }

    /// Everything that comes until the server ends the connection, in order or by a reset.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the server does not end the connection: {error}, behind {bytes:02x?}"),
        }
        bytes
    }

    /// The same as WebSocket frames.
    pub fn frames_to_end(&mut self) -> Vec<ServerFrame> {
        server_frames(&self.read_to_end())
    }

    /// The code of the `error` event and the close code, which the server ends a WebSocket with.
    pub fn refusal(&mut self) -> (String, u16) {
        let frames = self.frames_to_end();
        let [.., error, close] = &frames[..] else { panic!("an error and a close: {frames:?}") };
        assert_eq!((error.opcode, close.opcode), (1, 8), "{frames:?}");
        let event: Value = serde_json::from_slice(&error.payload).expect("JSON");
        let code = event["code"].as_str().expect("a code").to_owned();
        (code, u16::from_be_bytes([close.payload[0], close.payload[1]]))
    }

    /// The code of the `error` event that the server ends a native connection with.
    pub fn native_refusal(&mut self) -> String {
        let bytes = self.read_to_end();
        let last = native_events(&bytes).pop().expect("an event");
        last["code"].as_str().unwrap_or_else(|| panic!("an error: {last}")).to_owned()
    }
}

/// The header of a masked frame, without its payload; the mask is 0.
pub fn masked_header(first: u8, length: u64) -> Vec<u8> {
    let mut header = vec![first];
    match u16::try_from(length) {
        Ok(length) => {
            header.push(0x80 | 126);
            header.extend(length.to_be_bytes());
        }
        Err(_) => {
            header.push(0x80 | 127);
            header.extend(length.to_be_bytes());
        }
    }
    header.extend([0; 4]);
    header
}

/// A masked text frame.
pub fn text_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    websocket::write_masked_frame(&mut frame, FrameKind::Text, MASK, text);
    frame
}

/// A masked frame that closes the WebSocket with 1000.
pub fn close_frame() -> Vec<u8> {
    let mut frame = Vec::new();
    websocket::write_masked_frame(&mut frame, FrameKind::Close, MASK, &1000u16.to_be_bytes());
    frame
}

/// A request as a native frame.
pub fn native_frame(request: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    native::write_request(&json::read_request(request).expect("a request"), &mut frame);
    frame
}

/// Cuts what a server sent into WebSocket frames.
pub fn server_frames(mut bytes: &[u8]) -> Vec<ServerFrame> {
    let mut frames = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match *length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().expect("8 bytes")) as usize, &rest[8..]),
            length => (usize::from(length), rest),
        };
        frames.push(ServerFrame { opcode: first & 0x0f, payload: rest[..length].to_vec() });
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "a frame is whole");
    frames
}

/// Cuts what a server sent into native frames, and gives the events as JSON.
pub fn native_events(mut bytes: &[u8]) -> Vec<Value> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let (frame, used) = Frame::read(bytes, u32::MAX).expect("a frame");
        let mut text = Vec::new();
        json::write_event(&native::read_event(frame).expect("an event"), &mut text);
        events.push(serde_json::from_slice(&text).expect("JSON"));
        bytes = &bytes[used..];
    }
    events
}
