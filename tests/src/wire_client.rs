//! A blocking client in any of the three wire forms, with JSON on the test's side of each.
//!
//! The WebSocket comes from tungstenite, as any stock client would have it. The forms that are no JSON go through the
//! project's own codec, which the golden files hold to what the documentation says. Everything here panics when the
//! server does not do as it should, since that is a test that fails; a client waits [`PATIENCE`] at most.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use banter_protocol::event::Event;
use banter_protocol::frame::{Frame, FrameReader, PREAMBLE};
use banter_protocol::request::{Ask, Body, BodyFormat, Request};
use banter_protocol::{json, native};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::server_process::{PATIENCE, ServerProcess};

/// The largest frame that a client takes.
const FRAME_BYTES_MAX: u32 = 64 << 20;

/// The wire form that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON texts over WebSocket.
    Json,
    /// Native frames over WebSocket.
    Rkyv,
    /// Native frames over TCP.
    Native,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 3] = [Form::Json, Form::Rkyv, Form::Native];
}

enum Transport {
    WebSocket(Box<WebSocket<TcpStream>>, Form),
    Tcp(TcpStream, FrameReader),
}

/// A client that has connected.
pub struct WireClient {
    transport: Transport,
    /// Events that came in one read with others.
    unread: VecDeque<String>,
    /// Events that came while another was waited for.
    kept: VecDeque<String>,
    next_id: u64,
    ended: Option<Ended>,
    /// The core that the connection is on, which only a test would read out of the session's name.
    core: Option<usize>,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The server closed the WebSocket with that code.
    Closed(u16),
    /// The stream ended.
    Eof,
    /// The connection broke.
    Broken,
    /// Nothing came for as long as the client waits. No end of the connection yet.
    Silence,
}

/// What came of a read by one who bears silence.
#[derive(Clone, Debug, PartialEq)]
pub enum Came {
    /// An event.
    Event(Value),
    /// Nothing, within the socket's read timeout.
    Nothing,
    /// The connection's end.
    End(Ended),
}

impl WireClient {
    /// Connects without a word.
    pub fn connect(address: SocketAddr, form: Form) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        Self::over(stream, form)
    }

    /// The same over a stream that is there already.
    pub fn over(stream: TcpStream, form: Form) -> Self {
        Self::with_headers(stream, form, &[])
    }

    /// The same, with these headers on the upgrade; native clients have none.
    pub fn with_headers(stream: TcpStream, form: Form, headers: &[(&'static str, &str)]) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        Self::try_over(stream, form, headers).expect("the server upgrades")
    }

    /// The same, but a server that does not go along is an answer. The stream's timeouts stay as they are.
    ///
    /// # Errors
    /// What the connection or the server says.
    pub fn try_over(
        mut stream: TcpStream,
        form: Form,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, (u16, String)> {
        stream.set_nodelay(true).expect("a socket takes no delay");
        let transport = match form {
            Form::Native => {
                stream.write_all(&PREAMBLE).map_err(|error| (0, error.to_string()))?;
                Transport::Tcp(stream, FrameReader::new(FRAME_BYTES_MAX))
            }
            Form::Json | Form::Rkyv => {
                let asked = (form == Form::Rkyv).then_some("banter.rkyv.v1");
                let (socket, confirmed) = upgrade_with(stream, asked, headers)?;
                assert_eq!(confirmed.as_deref(), asked);
                Transport::WebSocket(Box::new(socket), form)
            }
        };
        let (unread, kept) = (VecDeque::new(), VecDeque::new());
        Ok(WireClient { transport, unread, kept, next_id: 1, ended: None, core: None })
    }

    /// Connects and says hello.
    pub fn hello(address: SocketAddr, form: Form, user: &str) -> Self {
        let mut client = Self::connect(address, form);
        client.say_hello(user);
        client
    }

    /// The same on a core of the caller's choice: the kernel spreads connections, so it is tried until one is there.
    pub fn hello_on(server: &ServerProcess, core: usize, form: Form, user: &str) -> Self {
        for _ in 0..200 {
            let client = Self::hello(server.address(), form, user);
            if client.core() == core {
                return client;
            }
        }
        panic!("no connection came to core {core}");
    }

    /// Says hello, and gives the welcome.
    pub fn say_hello(&mut self, user: &str) -> Value {
        self.must_be_welcome(json!({"type": "hello", "user": user}))
    }

    /// Says that hello, and gives the welcome.
    pub fn must_be_welcome(&mut self, hello: Value) -> Value {
        let welcome = self.ask(hello);
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        let session = welcome["session"].as_str().expect("a session's name");
        self.core = session.split('-').nth(1).and_then(|core| usize::from_str_radix(core, 16).ok());
        welcome
    }

    /// The core that the connection is on.
    pub fn core(&self) -> usize {
        self.core.expect("hello was said")
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        match &self.transport {
            Transport::WebSocket(socket, _) => socket.get_ref(),
            Transport::Tcp(stream, _) => stream,
        }
    }

    /// Sends a request, as JSON text in every form.
    pub fn send(&mut self, text: &str) {
        self.try_send(text).expect("the server takes bytes");
    }

    /// The same, but a connection that is gone is an answer.
    ///
    /// # Errors
    /// What the connection says.
    pub fn try_send(&mut self, text: &str) -> Result<(), String> {
        if let Transport::WebSocket(socket, Form::Json) = &mut self.transport {
            return socket.send(Message::text(text)).map_err(|error| error.to_string());
        }
        let request = json::read_request(text).expect("a request");
        self.send_frame(&request)
    }

    fn send_frame(&mut self, request: &Request<'_>) -> Result<(), String> {
        let mut frame = Vec::new();
        native::write_request(request, &mut frame);
        match &mut self.transport {
            Transport::WebSocket(socket, _) => socket.send(Message::binary(frame)).map_err(|error| error.to_string()),
            Transport::Tcp(stream, _) => stream.write_all(&frame).map_err(|error| error.to_string()),
        }
    }

    /// Posts bytes that are no JSON, without an id.
    pub fn post_bytes(&mut self, room: &str, bytes: &[u8]) {
        assert!(!matches!(self.transport, Transport::WebSocket(_, Form::Json)), "JSON has no bytes");
        let body = Body { format: BodyFormat::Bytes, bytes };
        let request = Request { id: None, ask: Ask::Post { room: room.into(), body, key: None } };
        self.send_frame(&request).expect("the server takes bytes");
    }

    /// Sends a request with an id of its own, and gives the answer; events that come meanwhile are kept.
    pub fn ask(&mut self, mut request: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        request["id"] = id.into();
        self.send(&request.to_string());
        self.answer_to(id)
    }

    /// The answer to a request; events that come meanwhile are kept.
    pub fn answer_to(&mut self, id: u64) -> Value {
        self.take("an answer", |event| event["id"] == id)
    }

    /// Joins a room from now on.
    pub fn join(&mut self, room: &str) -> Value {
        let joined = self.ask(json!({"type": "join", "room": room}));
        assert_eq!(joined["type"], "joined", "{joined}");
        joined
    }

    /// Posts, and gives the acknowledgement.
    pub fn post(&mut self, room: &str, body: Value) -> Value {
        let posted = self.ask(json!({"type": "post", "room": room, "body": body}));
        assert_eq!(posted["type"], "posted", "{posted}");
        posted
    }

    /// Takes the first event, kept or to come, that is wanted; the others are kept.
    #[track_caller]
    pub fn take(&mut self, what: &str, mut is_wanted: impl FnMut(&Value) -> bool) -> Value {
        let mut seen = 0;
        loop {
            while seen == self.kept.len() {
                let Some(text) = self.read() else { panic!("{what} did not come: {:?}", self.ended) };
                self.kept.push_back(text);
            }
            let event = parse(&self.kept[seen]);
            if is_wanted(&event) {
                self.kept.remove(seen);
                return event;
            }
            seen += 1;
        }
    }

    /// Takes the next event of that type.
    #[track_caller]
    pub fn take_type(&mut self, kind: &str) -> Value {
        self.take(kind, |event| event["type"] == kind)
    }

    /// The next event.
    #[track_caller]
    pub fn next_event(&mut self) -> Value {
        parse(&self.next_text())
    }

    /// The next event, as the bytes came.
    #[track_caller]
    pub fn next_text(&mut self) -> String {
        match self.kept.pop_front().or_else(|| self.read()) {
            Some(text) => text,
            None => panic!("no event came: {:?}", self.ended),
        }
    }

    /// The next event; none when the connection has ended.
    pub fn try_next_event(&mut self) -> Option<Value> {
        self.kept.pop_front().or_else(|| self.read()).map(|text| parse(&text))
    }

    /// The next event, or that none came within the socket's read timeout, or that none will.
    pub fn next_or_silence(&mut self) -> Came {
        match self.kept.pop_front().or_else(|| self.read_or_silence()) {
            Some(text) => Came::Event(parse(&text)),
            None => self.ended.clone().map_or(Came::Nothing, Came::End),
        }
    }

    /// Whether nothing comes: asks the server for a pong, and sees that nothing was ahead of it.
    pub fn has_nothing(&mut self) -> bool {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({"type": "ping", "id": id}).to_string());
        self.next_event()["id"] == id
    }

    /// Reads for as long as the socket's read timeout, so that pings are answered; events are kept.
    pub fn answer_pings(&mut self) {
        if let Transport::WebSocket(socket, form) = &mut self.transport
            && let Ok(message) = socket.read()
            && *form == Form::Json
            && let Message::Text(text) = message
        {
            self.unread.push_back(text.as_str().to_owned());
        }
    }

    /// Everything that still comes, and how the connection ends.
    pub fn read_to_end(&mut self) -> (Vec<Value>, Ended) {
        let mut events = Vec::new();
        while let Some(text) = self.kept.pop_front().or_else(|| self.read()) {
            events.push(parse(&text));
        }
        (events, self.ended.clone().expect("the connection has ended"))
    }

    /// The next event from the socket; `None` when it has ended. Keep-alives are passed over.
    fn read(&mut self) -> Option<String> {
        let text = self.read_or_silence();
        assert!(text.is_some() || self.ended.is_some(), "nothing came within {PATIENCE:?}");
        text
    }

    /// The same; `None` without an end when nothing came within the socket's read timeout.
    fn read_or_silence(&mut self) -> Option<String> {
        while self.unread.is_empty() && self.ended.is_none() {
            let read = match &mut self.transport {
                Transport::WebSocket(socket, form) => read_websocket(socket, *form, &mut self.unread),
                Transport::Tcp(stream, reader) => read_tcp(stream, reader, &mut self.unread),
            };
            match read {
                Err(Ended::Silence) => return None,
                read => self.ended = read.err(),
            }
        }
        self.unread.pop_front()
    }
}

/// A stream whose kernel takes few bytes ahead of its reader, so that the server sees early that it does not read.
pub fn narrow_stream(address: SocketAddr) -> TcpStream {
    connected(narrowed(inet_socket()), address)
}

/// A stream from an address of loopback.
pub fn stream_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    connected(bound(inet_socket(), source), address)
}

fn inet_socket() -> OwnedFd {
    socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket")
}

fn bound(socket: OwnedFd, source: Ipv4Addr) -> OwnedFd {
    bind(&socket, &SocketAddr::from((source, 0))).expect("an address of loopback");
    socket
}

fn narrowed(socket: OwnedFd) -> OwnedFd {
    // The window is agreed on when the connection is made.
    sockopt::set_socket_recv_buffer_size(&socket, 4 * 1_024).expect("a socket takes a buffer's size");
    socket
}

fn connected(socket: OwnedFd, address: SocketAddr) -> TcpStream {
    connect(&socket, &address).expect("the server accepts");
    TcpStream::from(socket)
}

/// A member of `room` whose send is stuck with more waiting behind it, so that a drain does not end.
pub fn stuck_member(server: &ServerProcess) -> WireClient {
    let mut stuck = WireClient::over(narrow_stream(server.address()), Form::Json);
    stuck.say_hello("stuck");
    stuck.join("room");
    let mut writer = WireClient::hello(server.address(), Form::Json, "writer");
    writer.ask(json!({"type": "join", "room": "room", "echo": false}));
    (0..400).for_each(|_| drop(writer.post("room", json!("x".repeat(10_000)))));
    stuck
}

/// Opens a WebSocket; says which subprotocol was confirmed.
///
/// # Errors
/// The status that refused it, and the answer's body; 0 and a word where there was no answer.
pub fn upgrade(
    stream: TcpStream,
    subprotocol: Option<&str>,
) -> Result<(WebSocket<TcpStream>, Option<String>), (u16, String)> {
    upgrade_with(stream, subprotocol, &[])
}

fn upgrade_with(
    stream: TcpStream,
    subprotocol: Option<&str>,
    headers: &[(&'static str, &str)],
) -> Result<(WebSocket<TcpStream>, Option<String>), (u16, String)> {
    let mut request = "ws://banter.test/ws".into_client_request().expect("a request");
    let subprotocol = subprotocol.map(|name| ("sec-websocket-protocol", name));
    for (name, value) in headers.iter().copied().chain(subprotocol) {
        request.headers_mut().insert(name, value.parse().expect("a header's value"));
    }
    match tungstenite::client(request, stream) {
        Ok((socket, response)) => {
            let confirmed = response.headers().get("sec-websocket-protocol");
            Ok((socket, confirmed.map(|name| name.to_str().expect("text").to_owned())))
        }
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
            let body = response.body().clone().unwrap_or_default();
            Err((response.status().as_u16(), String::from_utf8(body).expect("text")))
        }
        Err(error) => Err((0, error.to_string())),
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn read_websocket(socket: &mut WebSocket<TcpStream>, form: Form, unread: &mut VecDeque<String>) -> Result<(), Ended> {
    match socket.read() {
        Ok(Message::Text(text)) if form == Form::Json => unread.push_back(text.as_str().to_owned()),
        Ok(Message::Binary(bytes)) if form == Form::Rkyv => {
            let (frame, used) = Frame::read(&bytes, FRAME_BYTES_MAX).expect("a frame");
            assert_eq!(used, bytes.len(), "a binary message is one frame");
            unread.extend(event_text(frame));
        }
        Ok(Message::Ping(_) | Message::Pong(_)) => {}
        Ok(Message::Close(frame)) => {
            // Answers the close, which tungstenite does when it is asked again.
            let _ = socket.flush();
            return Err(Ended::Closed(frame.map_or(CloseCode::Status.into(), |frame| frame.code.into())));
        }
        Ok(other) => panic!("{other:?} does not belong to {form:?}"),
        Err(tungstenite::Error::Io(error)) => return Err(end_of(&error)),
        Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::Protocol(ResetWithoutClosingHandshake)) => {
            return Err(Ended::Eof);
        }
        Err(error) => {
            eprintln!("the WebSocket broke: {error:?}");
            return Err(Ended::Broken);
        }
    }
    Ok(())
}

fn read_tcp(stream: &mut TcpStream, reader: &mut FrameReader, unread: &mut VecDeque<String>) -> Result<(), Ended> {
    let mut buffer = vec![0; 64 << 10];
    let bytes = match stream.read(&mut buffer) {
        Ok(0) => return Err(Ended::Eof),
        Ok(bytes) => bytes,
        Err(error) => return Err(end_of(&error)),
    };
    let mut at = 0;
    while at < bytes {
        let (used, frame) = reader.read(&buffer[at..bytes]).expect("a frame");
        at += used;
        unread.extend(frame.and_then(event_text));
    }
    Ok(())
}

/// The event as JSON text; a keep-alive is none for a test that did not ask for it.
fn event_text(frame: Frame<'_>) -> Option<String> {
    let event = native::read_event(frame).expect("an event");
    let mut text = Vec::new();
    json::write_event(&event, &mut text);
    (event != Event::KeepAlive).then(|| String::from_utf8(text).expect("JSON is UTF-8"))
}

fn end_of(error: &std::io::Error) -> Ended {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Ended::Silence,
        ErrorKind::UnexpectedEof => Ended::Eof,
        _ => Ended::Broken,
    }
}
