//! A session over a blocking TCP stream: no threads, no runtime; it works while you call it.
//!
//! Nothing happens between two calls: call [`Client::next_event`] often enough to answer the server's keep-alive (half
//! of its `idle_timeout_ms`), or be cut off and resume.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use banter_protocol::error_code::ErrorCode;
use banter_protocol::ids::{NameFault, UserName};
use banter_protocol::request::{Body, BodyFormat, FetchFrom};

use crate::asks::{AskId, AskRefusal};
use crate::event::{Event, Members, Page, Posted, Refused};
use crate::options::{Join, Options};
use crate::posts::{PostRefusal, Ticket};
use crate::session::{Link, Session};

/// Bytes that one read takes at most; with it the events of one read are bounded.
const READ_BYTES_MAX: usize = 64 << 10;
/// How long opening one connection may take at least, whatever is left of its time.
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_millis(50);
/// How long a write may keep the other direction waiting.
const WRITE_PATIENCE: Duration = Duration::from_millis(50);

/// Why a call of the client failed. A lost connection is none of it: that is an event, and the client comes back.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A user's or room's name breaks the rules of names.
    #[error("the name cannot be used: {0}")]
    Name(#[from] NameFault),
    /// The post was not taken.
    #[error("the post was not taken: {0}")]
    Post(#[from] PostRefusal),
    /// The page or the list of members was not asked for.
    #[error("it was not asked for: {0}")]
    Ask(#[from] AskRefusal),
    /// The server refused it. A post is refused for good.
    #[error("the server refused: {}: {message}", code.map_or("a code of a later server", ErrorCode::as_str))]
    Refused {
        /// Why; none: a code that only a later server knows.
        code: Option<ErrorCode>,
        /// Why, for people.
        message: String,
        /// When asking again makes sense, if the server said so.
        retry_after: Option<Duration>,
        /// A word for code, where a program of the room gave one.
        reason: Option<String>,
    },
    /// The room's program kept the post for itself: it has no place, and nobody saw it.
    #[error("the room's program kept it for itself")]
    Taken {
        /// What the program says to it: a JSON value.
        reply: Option<Vec<u8>>,
    },
    /// Not in time. A post that was not acknowledged goes on waiting for it.
    #[error("it took too long{}", link_fault.as_ref().map(|fault| format!(": {fault}")).unwrap_or_default())]
    TimedOut {
        /// Why there is no connection now, where there is none.
        link_fault: Option<String>,
    },
    /// The session has ended for good.
    #[error("the session has ended")]
    Ended,
}

/// A client over TCP.
#[derive(Debug)]
pub struct Client {
    session: Session,
    started: Instant,
    stream: Option<TcpStream>,
    /// Why there is none.
    link_fault: Option<String>,
    /// Bytes that the stream has not taken yet.
    unwritten: VecDeque<u8>,
    buffer: Box<[u8]>,
    /// Events that came while something else was waited for.
    kept: VecDeque<Event>,
}

impl Client {
    /// A client of the server at `address` (`host:port`), with the usual settings. It connects with the next call, and
    /// goes on trying.
    ///
    /// # Errors
    /// When the user's name breaks the rules.
    pub fn new(address: &str, user: &str) -> Result<Self, ClientError> {
        Self::of_cluster(&[address], user)
    }

    /// The same for the nodes of a cluster, of which one serves: some of their addresses, in the order in which they are tried. The
    /// others are told by the cluster.
    ///
    /// # Errors
    /// When the user's name breaks the rules.
    pub fn of_cluster(addresses: &[&str], user: &str) -> Result<Self, ClientError> {
        // The standard library's hash keys come from the system's randomness.
        let seed = RandomState::new().build_hasher().finish();
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        Ok(Self::of(Options { addresses, ..Options::new(UserName::new(user)?, seed) }))
    }

    /// The same with settings of your own. `address` is tried ahead of the [`Options::addresses`] that stand there: the other
    /// nodes of a cluster, say.
    pub fn with_options(address: &str, mut options: Options) -> Self {
        options.addresses.insert(0, address.to_owned());
        Self::of(options)
    }

    fn of(options: Options) -> Self {
        Client {
            session: Session::new(options),
            started: Instant::now(),
            stream: None,
            link_fault: None,
            unwritten: VecDeque::new(),
            buffer: vec![0; READ_BYTES_MAX].into(),
            kept: VecDeque::new(),
        }
    }

    /// Where the connection is, or the next one goes.
    pub fn address(&self) -> &str {
        self.session.address().unwrap_or_default()
    }

    /// The addresses that servers told of: see [`Session::nodes`].
    pub fn nodes(&self) -> &[String] {
        self.session.nodes()
    }

    /// Reads a room from now on.
    ///
    /// # Errors
    /// When the name breaks the rules.
    pub fn join(&mut self, room: &str, join: Join) -> Result<(), ClientError> {
        Ok(self.session.join(room, join)?)
    }

    /// The same with a token for this room: see [`Session::join_with_token`].
    ///
    /// # Errors
    /// When the name breaks the rules.
    pub fn join_with_token(&mut self, room: &str, join: Join, token: String) -> Result<(), ClientError> {
        Ok(self.session.join_with_token(room, join, token)?)
    }

    /// Stops reading a room.
    pub fn leave(&mut self, room: &str) {
        self.session.leave(room);
    }

    /// Goes on with another token of the same user: see [`Session::renew`]. It goes out with the next
    /// [`Client::next_event`]; what the server says to it is an event.
    pub fn renew(&mut self, token: String) {
        self.session.renew(token);
    }

    /// Takes a post, which goes out with the next [`Client::next_event`]; its acknowledgement is an event.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn post(&mut self, room: &str, body: Body<'_>) -> Result<Ticket, ClientError> {
        Ok(self.session.post(room, body)?)
    }

    /// Posts a JSON value and waits for the acknowledgement. Events that come meanwhile are kept for
    /// [`Client::next_event`].
    ///
    /// # Errors
    /// When it was not taken, was refused, or was not acknowledged in time (it is still being tried then).
    pub fn post_json(&mut self, room: &str, json: &str, timeout: Duration) -> Result<Posted, ClientError> {
        let ticket = self.post(room, Body { format: BodyFormat::Json, bytes: json.as_bytes() })?;
        let is_about = |what: &Refused| *what == Refused::Post(ticket);
        self.wait_for(Instant::now() + timeout, is_about, |event| match event {
            Event::Posted(posted) if posted.ticket == ticket => ControlFlow::Break(Ok(posted)),
            Event::Taken { ticket: taken, reply, .. } if taken == ticket => {
                ControlFlow::Break(Err(ClientError::Taken { reply }))
            }
            other => ControlFlow::Continue(other),
        })?
    }

    /// A page of a room's history, joined or not: at most `limit` messages, or as many as the server gives. Events that
    /// come meanwhile are kept for [`Client::next_event`].
    ///
    /// # Errors
    /// When the name is bad, the server refused it (see `retry_after`), or it did not come in time. An answer that is
    /// late is an event.
    pub fn fetch(
        &mut self,
        room: &str,
        from: FetchFrom,
        limit: Option<u64>,
        timeout: Duration,
    ) -> Result<Page, ClientError> {
        let ask = |session: &mut Session| session.fetch(room, from, limit);
        self.ask(timeout, ask, |event, asked| match event {
            Event::Page(page) if page.ask == asked => ControlFlow::Break(page),
            other => ControlFlow::Continue(other),
        })
    }

    /// Who is in a room, joined or not. Events that come meanwhile are kept for [`Client::next_event`].
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub fn members(&mut self, room: &str, timeout: Duration) -> Result<Members, ClientError> {
        let ask = |session: &mut Session| session.members(room);
        self.ask(timeout, ask, |event, asked| match event {
            Event::Members(members) if members.ask == asked => ControlFlow::Break(members),
            other => ControlFlow::Continue(other),
        })
    }

    /// Tells the members of a room something that is not kept, if there is a connection.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn signal(&mut self, room: &str, body: Body<'_>) -> Result<(), ClientError> {
        Ok(self.session.signal(room, body)?)
    }

    /// The next event, or nothing within the time.
    ///
    /// # Errors
    /// When the session has ended and its last event was taken.
    pub fn next_event(&mut self, timeout: Duration) -> Result<Option<Event>, ClientError> {
        match self.kept.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.pump_until(Instant::now() + timeout),
        }
    }

    /// The session, to ask it things.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Asks once there is a connection, and again when that is lost before the answer came.
    fn ask<T>(
        &mut self,
        timeout: Duration,
        ask: impl Fn(&mut Session) -> Result<AskId, AskRefusal>,
        answer: fn(Event, AskId) -> ControlFlow<T, Event>,
    ) -> Result<T, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            let asked = self.begin_ask(deadline, &ask)?;
            let is_about = |what: &Refused| *what == Refused::Ask(asked);
            let answered = self.wait_for(deadline, is_about, |event| match event {
                Event::Unanswered(lost) if lost == asked => ControlFlow::Break(None),
                event => answer(event, asked).map_break(Some),
            })?;
            if let Some(answer) = answered {
                return Ok(answer);
            }
        }
    }

    fn begin_ask(
        &mut self,
        deadline: Instant,
        ask: impl Fn(&mut Session) -> Result<AskId, AskRefusal>,
    ) -> Result<AskId, ClientError> {
        loop {
            match ask(&mut self.session) {
                // Whatever happens next may be the connection, or an answer that makes room.
                Err(AskRefusal::NotConnected | AskRefusal::FullOfAsks { .. }) => {
                    let event = self.event_until(deadline)?;
                    self.kept.push_back(event);
                }
                asked => return Ok(asked?),
            }
        }
    }

    /// Waits for an answer, or for the refusal of what was asked; other events are kept.
    fn wait_for<T>(
        &mut self,
        deadline: Instant,
        is_about: impl Fn(&Refused) -> bool,
        answer: impl Fn(Event) -> ControlFlow<T, Event>,
    ) -> Result<T, ClientError> {
        loop {
            match self.event_until(deadline)? {
                Event::Refused { what, code, message, retry_after, reason } if is_about(&what) => {
                    return Err(ClientError::Refused { code, message, retry_after, reason });
                }
                event => match answer(event) {
                    ControlFlow::Break(answer) => return Ok(answer),
                    ControlFlow::Continue(other) => self.kept.push_back(other),
                },
            }
        }
    }

    /// The next event that comes in time.
    fn event_until(&mut self, deadline: Instant) -> Result<Event, ClientError> {
        self.pump_until(deadline)?.ok_or_else(|| ClientError::TimedOut { link_fault: self.link_fault.clone() })
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn pump_until(&mut self, deadline: Instant) -> Result<Option<Event>, ClientError> {
        let mut is_late = false;
        loop {
            if let Some(event) = self.session.poll_event() {
                return Ok(Some(event));
            }
            if self.session.is_ended() {
                self.stream = None;
                return Err(ClientError::Ended);
            }
            // One pass is made also with no time left, so that asking with a timeout of nothing is a poll.
            if is_late {
                return Ok(None);
            }
            let now = self.now();
            self.session.handle_timeout(now);
            self.follow_link(now);
            is_late = self.wait(deadline) == Waited::Late;
        }
    }

    fn follow_link(&mut self, now: Duration) {
        match self.session.poll_link(now) {
            None => {}
            Some(Link::Disconnect) => self.forget_stream(),
            Some(Link::Connect) => match connect(self.address(), self.session.connect_timeout()) {
                Ok(stream) => {
                    self.forget_stream();
                    self.stream = Some(stream);
                    self.link_fault = None;
                    self.session.handle_connected(self.started.elapsed());
                }
                Err(error) => self.lose_stream(&format!("{}: {error}", self.address())),
            },
        }
    }

    /// Writes, then reads or sleeps until something came or the time is over.
    fn wait(&mut self, deadline: Instant) -> Waited {
        let left = deadline.saturating_duration_since(Instant::now());
        let timer = self.session.poll_timeout().map(|at| at.saturating_sub(self.now()));
        // A read timeout of nothing would mean for ever.
        let patience = timer.map_or(left, |timer| left.min(timer)).max(Duration::from_millis(1));
        if self.stream.is_none() {
            std::thread::sleep(patience);
        } else if let Err(error) = self.write().and_then(|()| self.read(patience)) {
            self.lose_stream(&error.to_string());
        }
        if Instant::now() >= deadline { Waited::Late } else { Waited::InTime }
    }

    fn write(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.session.poll_transmit(&mut bytes);
        self.unwritten.extend(bytes);
        let Some(stream) = self.stream.as_mut() else { return Ok(()) };
        while !self.unwritten.is_empty() {
            match stream.write(self.unwritten.as_slices().0) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.unwritten.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => break, // The server is busy: read first.
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self, patience: Duration) -> io::Result<()> {
        let patience = if self.unwritten.is_empty() { patience } else { patience.min(WRITE_PATIENCE) };
        let Some(stream) = self.stream.as_mut() else { return Ok(()) };
        stream.set_read_timeout(Some(patience))?;
        match stream.read(&mut self.buffer) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
            Ok(bytes) => {
                self.session.handle_bytes(self.started.elapsed(), &self.buffer[..bytes]);
                Ok(())
            }
            Err(error) if is_timeout(&error) || error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn lose_stream(&mut self, why: &str) {
        self.forget_stream();
        self.link_fault = Some(why.to_owned());
        self.session.handle_disconnected(self.started.elapsed(), why);
    }

    fn forget_stream(&mut self) {
        self.stream = None;
        self.unwritten.clear();
    }
}

#[derive(PartialEq, Eq)]
enum Waited {
    InTime,
    Late,
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// What a name stands for is tried one after another, within the time that is for all of them. Looking the name up is not
/// bounded by it: that is the system's.
fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let found: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let deadline = Instant::now() + timeout;
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for (index, address) in found.iter().enumerate() {
        // One that does not answer leaves the others their part.
        let left = deadline.saturating_duration_since(Instant::now());
        let part = (left / (found.len() - index) as u32).max(CONNECT_TIMEOUT_MIN);
        match TcpStream::connect_timeout(address, part) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(WRITE_PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_without_a_server_says_why_it_took_too_long() {
        // A port that was free a moment ago, and refuses.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut client = Client::new(&address, "ann").unwrap();
        client.join("room", crate::Join::default()).unwrap();
        let error = client.post_json("room", "1", Duration::from_millis(50)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&address) && text.contains("refused"), "{text}");
    }
}
