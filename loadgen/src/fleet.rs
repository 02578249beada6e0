//! The connections of a run: opens them, reads and writes their bytes, and hands what they say to a [`Sink`].
//!
//! All connections read into one large buffer, one after another. What is left of a frame that is cut off is kept with
//! its connection and put in front of the next read, so that every frame is whole and in one piece when it is read.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::args::Wire;
use crate::fault::{LoadFault, host};
use crate::identities::Identities;
use crate::scan::{self, FRAME_BYTES_MAX, Seen};
use crate::scan_json::Openings;
use crate::sys::Epoll;
use crate::wire::{Entry, Identity, Writer};

/// Bytes that one read takes at most: about a thousand frames.
const READ_BYTES_MAX: usize = 256 << 10;
/// Ready connections that one turn serves at most. Few, so that posts are not kept waiting behind reads.
const READY_MAX: usize = 256;
/// The same where another fleet is served in turns with this one and must not wait: about 30 us of reading.
const SMALL_READ_BYTES_MAX: usize = 32 << 10;
const SMALL_READY_MAX: usize = 2;
/// Connections from one source address: below the 28,232 ports that Linux gives out by default.
pub const CONNECTIONS_PER_SOURCE: usize = 25_000;

/// Who is told what the connections say.
pub trait Sink {
    /// What the frames of a connection begin with.
    fn openings(&self, connection: usize) -> &Openings;
    /// A connection said something; `now` is when its bytes were read. Pings are answered already.
    fn seen(&mut self, connection: usize, seen: Seen<'_>, now: Instant);
}

/// What went through the sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Bytes read.
    pub bytes_in: u64,
    /// Reads that brought something.
    pub reads: u64,
    /// Frames read.
    pub frames: u64,
    /// Bytes written.
    pub bytes_out: u64,
}

/// The longest time that a program which is always busy keeps its CPU from others.
const CPU_KEPT_MAX: Duration = Duration::from_micros(100);

struct Connection {
    stream: TcpStream,
    /// The beginning of a frame whose rest has not come.
    partial: Vec<u8>,
    /// What the socket has not taken.
    unwritten: Vec<u8>,
    /// The answer to the upgrade request has not come.
    is_http: bool,
    /// Nothing has come.
    is_silent: bool,
    /// Registered for writing: not connected yet, or its buffers are full.
    wants_write: bool,
    /// Why the server ends it, should it do so.
    last_words: Option<String>,
    /// It is gone, and that was told.
    is_ended: bool,
}

/// Addresses of loopback that connections come from in turn.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// The first.
    pub first: Ipv4Addr,
    /// How many.
    pub count: u32,
}

impl Sources {
    fn of(self, number: usize) -> SocketAddr {
        let place = (number as u64 % u64::from(self.count.max(1))) as u32;
        SocketAddr::from((Ipv4Addr::from(u32::from(self.first).wrapping_add(place)), 0))
    }
}

/// See the module.
pub struct Fleet {
    wire: Wire,
    server: SocketAddr,
    epoll: Epoll,
    connections: Vec<Connection>,
    buffer: Box<[u8]>,
    read_bytes_max: usize,
    writer: Writer,
    identities: Identities,
    sources: Option<Sources>,
    receive_bytes: Option<usize>,
    tells_ends: bool,
    yielded_at: Instant,
    /// What went through the sockets so far.
    pub traffic: Traffic,
}

impl Fleet {
    /// No connection yet.
    ///
    /// # Errors
    /// When the host gives no epoll.
    pub fn new(wire: Wire, server: SocketAddr) -> Result<Self, LoadFault> {
        Self::with_turns_of(wire, server, READY_MAX, READ_BYTES_MAX)
    }

    /// A fleet whose turns are short, for one that is served beside another.
    ///
    /// # Errors
    /// When the host gives no epoll.
    pub fn with_small_turns(wire: Wire, server: SocketAddr) -> Result<Self, LoadFault> {
        Self::with_turns_of(wire, server, SMALL_READY_MAX, SMALL_READ_BYTES_MAX)
    }

    fn with_turns_of(
        wire: Wire,
        server: SocketAddr,
        ready_max: usize,
        read_bytes_max: usize,
    ) -> Result<Self, LoadFault> {
        Ok(Fleet {
            wire,
            server,
            epoll: Epoll::new(ready_max).map_err(host("making an epoll"))?,
            connections: Vec::new(),
            buffer: vec![0; read_bytes_max + FRAME_BYTES_MAX + 64].into(),
            read_bytes_max,
            writer: Writer::new(wire),
            identities: Identities::default(),
            sources: None,
            receive_bytes: None,
            tells_ends: false,
            yielded_at: Instant::now(),
            traffic: Traffic::default(),
        })
    }

    /// Gives each post a key, if that is wanted.
    pub fn keyed(self, is_keyed: bool) -> Self {
        if is_keyed { Fleet { writer: self.writer.keyed(), ..self } } else { self }
    }

    /// Its connections say that they are those.
    pub fn known_as(self, identities: Identities) -> Self {
        Fleet { identities, ..self }
    }

    /// Its connections come from those addresses.
    pub fn coming_from(self, sources: Sources) -> Self {
        Fleet { sources: Some(sources), ..self }
    }

    /// The kernel buffers about so many bytes for each of its connections that are not read.
    pub fn buffering(self, receive_bytes: usize) -> Self {
        Fleet { receive_bytes: Some(receive_bytes), ..self }
    }

    /// A connection that the server ends is no error, but told.
    pub fn telling_ends(self) -> Self {
        Fleet { tells_ends: true, ..self }
    }

    /// Connections.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Whether a connection begins with an HTTP request, and says behind its answer who it is.
    pub fn has_upgrade(&self) -> bool {
        matches!(self.wire, Wire::Json | Wire::WsRkyv)
    }

    /// Begins one more connection.
    ///
    /// # Errors
    /// When it fails at once.
    pub fn connect(&mut self) -> Result<(), LoadFault> {
        let number = self.connections.len();
        let connection = self.begin(number)?;
        self.connections.push(connection);
        Ok(())
    }

    /// Ends a connection, whatever stands in it, and begins another in its place.
    ///
    /// # Errors
    /// When it fails at once.
    pub fn reopen(&mut self, number: usize) -> Result<(), LoadFault> {
        self.connections[number] = self.begin(number)?;
        Ok(())
    }

    /// Ends a connection at once, whatever stands in it. Nobody is told.
    ///
    /// # Errors
    /// When the host does not forget its socket.
    pub fn close(&mut self, number: usize) -> Result<(), LoadFault> {
        let connection = &mut self.connections[number];
        if !connection.is_ended {
            connection.is_ended = true;
            self.epoll.remove(connection.stream.as_fd()).map_err(host("forgetting a socket"))?;
            connection.unwritten.clear();
            // A socket that is gone already is as closed as can be.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        Ok(())
    }

    fn begin(&self, number: usize) -> Result<Connection, LoadFault> {
        let server = self.server;
        let source = self.sources.map_or_else(|| source_of(server, number), |sources| Some(sources.of(number)));
        let stream = begin_to_connect_from(server, source, self.receive_bytes)
            .map_err(|error| LoadFault::Connect { server, error })?;
        self.epoll.add(stream.as_fd(), number, true).map_err(host("registering a socket"))?;
        let mut unwritten = Vec::new();
        // A neighbour is told all at once, when the room is known.
        if self.wire.neighbour().is_none() {
            self.writer.open(server, &mut unwritten);
        }
        Ok(Connection {
            stream,
            partial: Vec::new(),
            unwritten,
            is_http: self.has_upgrade() || self.wire == Wire::Plain,
            is_silent: true,
            wants_write: true,
            last_words: None,
            is_ended: false,
        })
    }

    /// Says who a connection is and which room it reads.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn hello_and_join(&mut self, number: usize, entry: Entry<'_>) -> Result<(), LoadFault> {
        let (user, token) = (self.identities.user(number), self.identities.token(number));
        let out = &mut self.connections[number].unwritten;
        match self.wire.neighbour() {
            None => self.writer.hello_and_join(Identity { user: &user, token }, entry, out),
            Some(neighbour) => neighbour.join(self.server, &user, entry.room, out),
        }
        self.flush(number)
    }

    /// Joins one more room; [`Fleet::flush`] sends it.
    pub fn join(&mut self, number: usize, entry: Entry<'_>) {
        self.writer.join(entry, &mut self.connections[number].unwritten);
    }

    /// Leaves a room; [`Fleet::flush`] sends it.
    pub fn leave(&mut self, number: usize, room: &str) {
        self.writer.leave(room, &mut self.connections[number].unwritten);
    }

    /// Asks for the page before a sequence; [`Fleet::flush`] sends it.
    pub fn fetch_before(&mut self, number: usize, id: u64, room: &str, before: u64, limit: u64) {
        self.writer.fetch_before(id, room, before, limit, &mut self.connections[number].unwritten);
    }

    /// Takes a post for a connection; [`Fleet::flush`] sends it.
    pub fn post(&mut self, number: usize, room: &str, slot: u32, body: &[u8]) {
        let out = &mut self.connections[number].unwritten;
        match self.wire.neighbour() {
            None => self.writer.post(room, slot, body, out),
            Some(neighbour) => neighbour.post(room, body, out),
        }
    }

    /// Takes a ping for a connection; [`Fleet::flush`] sends it.
    pub fn ping(&mut self, number: usize, id: u64) {
        self.writer.ping(id, &mut self.connections[number].unwritten);
    }

    /// Writes what a connection has, as far as its socket takes it; the rest goes when the socket can.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn flush(&mut self, number: usize) -> Result<(), LoadFault> {
        let connection = &mut self.connections[number];
        if connection.is_ended {
            return Ok(());
        }
        let mut written = 0;
        while written < connection.unwritten.len() {
            match connection.stream.write(&connection.unwritten[written..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Not connected is what a connection says that is still being made.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                // Reading finds the end behind what the server said last; one that never was has none.
                Err(error) if self.tells_ends && error.kind() != ErrorKind::ConnectionRefused => break,
                Err(error) => return Err(self.lost(number, &error)),
            }
        }
        self.traffic.bytes_out += written as u64;
        connection.unwritten.drain(..written);
        let wants_write = !connection.unwritten.is_empty();
        if wants_write != connection.wants_write {
            connection.wants_write = wants_write;
            let descriptor = connection.stream.as_fd();
            self.epoll.change(descriptor, number, wants_write).map_err(host("changing a socket's registration"))?;
        }
        Ok(())
    }

    /// Waits at most so long for sockets to be ready, and reads and writes those that are. Says how many there were.
    ///
    /// # Errors
    /// When a connection is gone, or says what cannot be understood.
    pub fn turn(&mut self, patience: Duration, sink: &mut impl Sink) -> Result<usize, LoadFault> {
        self.yield_if_due();
        let found = self.epoll.wait(patience).map_err(host("waiting for sockets"))?;
        for index in 0..found {
            let ready = self.epoll.ready(index);
            if ready.is_writable {
                self.flush(ready.number)?;
            }
            if ready.is_readable {
                self.read(ready.number, sink)?;
            }
        }
        Ok(found)
    }

    /// A program that never sleeps keeps the kernel's own threads off its CPU until a tick, for milliseconds: also those
    /// that end the server's synced writes, where the disk's interrupts come to this CPU.
    fn yield_if_due(&mut self) {
        if self.yielded_at.elapsed() >= CPU_KEPT_MAX {
            std::thread::yield_now();
            self.yielded_at = Instant::now();
        }
    }

    fn read(&mut self, number: usize, sink: &mut impl Sink) -> Result<(), LoadFault> {
        let connection = &mut self.connections[number];
        let kept = connection.partial.len();
        let read = match connection.stream.read(&mut self.buffer[kept..kept + self.read_bytes_max]) {
            Ok(0) => return self.end(number, &io::Error::new(ErrorKind::UnexpectedEof, "the server closed it"), sink),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return self.end(number, &error, sink),
        };
        let now = Instant::now();
        connection.is_silent = false;
        self.buffer[..kept].copy_from_slice(&connection.partial);
        connection.partial.clear();
        self.traffic.bytes_in += read as u64;
        self.traffic.reads += 1;
        let bytes = &self.buffer[..kept + read];
        let mut used = 0;
        if connection.is_http {
            match self.writer.read_upgrade(bytes).map_err(LoadFault::Upgrade)? {
                Some(head_bytes) => {
                    used = head_bytes;
                    connection.is_http = false;
                    sink.seen(number, upgraded(self.wire), now);
                }
                None => {
                    connection.partial.extend_from_slice(bytes);
                    return Ok(());
                }
            }
        }
        let must_flush = !connection.unwritten.is_empty();
        while let Some((raw, frame_bytes)) = scan::cut(self.wire, &bytes[used..]).map_err(bad_bytes(number))? {
            used += frame_bytes;
            self.traffic.frames += 1;
            match scan::read(raw, sink.openings(number)).map_err(bad_bytes(number))? {
                Seen::Ping(payload) => match self.wire.neighbour() {
                    None => self.writer.pong(payload, &mut connection.unwritten),
                    Some(neighbour) => neighbour.pong(payload, &mut connection.unwritten),
                },
                seen => {
                    note_last_words(&mut connection.last_words, &seen);
                    sink.seen(number, seen, now);
                }
            }
        }
        connection.partial.extend_from_slice(&bytes[used..]);
        if !connection.unwritten.is_empty() && !must_flush { self.flush(number) } else { Ok(()) }
    }

    /// A connection is gone: an error, or told once.
    fn end(&mut self, number: usize, error: &io::Error, sink: &mut impl Sink) -> Result<(), LoadFault> {
        if !self.tells_ends {
            return Err(self.lost(number, error));
        }
        let connection = &mut self.connections[number];
        connection.is_ended = true;
        self.epoll.remove(connection.stream.as_fd()).map_err(host("forgetting a socket"))?;
        sink.seen(number, Seen::Ended, Instant::now());
        Ok(())
    }

    /// Why a connection is gone, in the server's words where it had some.
    fn lost(&self, number: usize, error: &io::Error) -> LoadFault {
        let connection = &self.connections[number];
        // Nothing was ever read: it was never there.
        if connection.wants_write && connection.is_silent {
            return LoadFault::Connect { server: self.server, error: io::Error::new(error.kind(), error.to_string()) };
        }
        let why = connection.last_words.clone().map_or(error.to_string(), |words| format!("{words} ({error})"));
        LoadFault::Closed { connection: number, why }
    }
}

/// What the answer to an upgrade says: in the plain convention its path named the room.
fn upgraded(wire: Wire) -> Seen<'static> {
    if wire == Wire::Plain { Seen::Joined { epoch: 0, sequence: 0 } } else { Seen::Upgraded }
}

/// What a server says before it closes is why it closes.
#[inline]
fn note_last_words(last_words: &mut Option<String>, seen: &Seen<'_>) {
    match seen {
        Seen::Refused { code, message } => *last_words = Some(format!("{code}: {message}")),
        Seen::Close { why } if last_words.is_none() => *last_words = Some(why.clone()),
        _ => {}
    }
}

fn bad_bytes(connection: usize) -> impl Fn(scan::ScanFault) -> LoadFault {
    move |fault| LoadFault::BadBytes { connection, what: fault.0 }
}

/// The source address of a connection, where the usual one would run out of ports.
///
/// # Errors
/// When that many connections to this server are not possible.
pub fn check_sources(server: SocketAddr, connections: usize) -> Result<(), LoadFault> {
    if connections > CONNECTIONS_PER_SOURCE && !is_loopback_v4(server) {
        let connections_max = CONNECTIONS_PER_SOURCE;
        return Err(LoadFault::SourceAddresses { connections, connections_max, server });
    }
    Ok(())
}

fn is_loopback_v4(server: SocketAddr) -> bool {
    matches!(server.ip(), IpAddr::V4(ip) if ip.is_loopback())
}

fn source_of(server: SocketAddr, number: usize) -> Option<SocketAddr> {
    let source = number / CONNECTIONS_PER_SOURCE;
    let last = u8::try_from(source + 1).ok()?;
    (source > 0 && is_loopback_v4(server)).then(|| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))
}

/// A socket that is being connected; the number says from which source address.
pub(crate) fn begin_to_connect(server: SocketAddr, number: usize) -> io::Result<TcpStream> {
    begin_to_connect_from(server, source_of(server, number), None)
}

fn begin_to_connect_from(
    server: SocketAddr,
    source: Option<SocketAddr>,
    receive_bytes: Option<usize>,
) -> io::Result<TcpStream> {
    const IN_PROGRESS: i32 = libc::EINPROGRESS;
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // Before the handshake, which tells the peer how much may come.
    receive_bytes.map_or(Ok(()), |bytes| socket.set_recv_buffer_size(bytes))?;
    if let Some(source) = source {
        socket.bind(&source.into())?;
    }
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Ends(Openings, Vec<usize>);

    impl Sink for Ends {
        fn openings(&self, _connection: usize) -> &Openings {
            &self.0
        }

        fn seen(&mut self, connection: usize, seen: Seen<'_>, _now: Instant) {
            if seen == Seen::Ended {
                self.1.push(connection);
            }
        }
    }

    #[test]
    fn an_end_is_told_once_where_that_was_wanted_and_is_an_error_otherwise() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let closed = |fleet: Fleet| {
            let mut fleet = fleet.coming_from(Sources { first: Ipv4Addr::new(127, 1, 0, 7), count: 2 });
            fleet.connect().unwrap();
            let (accepted, from) = listener.accept().unwrap();
            assert_eq!(from.ip().to_string(), "127.1.0.7");
            drop(accepted);
            fleet
        };
        let (mut ends, patience) = (Ends::default(), Duration::from_secs(10));
        let mut telling = closed(Fleet::new(Wire::Native, server).unwrap().telling_ends());
        while ends.1.is_empty() {
            telling.turn(patience, &mut ends).unwrap();
        }
        telling.hello_and_join(0, Entry::now("load-0")).unwrap();
        assert_eq!(telling.turn(Duration::ZERO, &mut ends).unwrap(), 0);
        assert_eq!(ends.1, [0]);

        let mut strict = closed(Fleet::new(Wire::Native, server).unwrap());
        let mut turned = Ok(1);
        while turned.is_ok() {
            turned = strict.turn(patience, &mut ends);
        }
        assert!(turned.unwrap_err().to_string().contains("ended in the middle"), "and nobody is told");
        assert_eq!(ends.1, [0]);

        drop(listener);
        let mut alone = Fleet::new(Wire::Json, server).unwrap().telling_ends();
        let refused = alone.connect().and_then(|()| alone.turn(patience, &mut ends).map(drop));
        assert!(matches!(refused, Err(LoadFault::Connect { .. })), "who never was there has no end: {refused:?}");
    }

    #[test]
    fn many_connections_come_from_several_loopback_addresses() {
        let server = "127.0.0.1:7878".parse().unwrap();
        assert_eq!(source_of(server, 24_999), None);
        assert_eq!(source_of(server, 25_000), Some("127.0.0.2:0".parse().unwrap()));
        assert_eq!(source_of(server, 75_000), Some("127.0.0.4:0".parse().unwrap()));
        let sources = Sources { first: Ipv4Addr::new(127, 1, 0, 255), count: 3 };
        assert_eq!(
            [0, 1, 5].map(|number| sources.of(number).ip().to_string()),
            ["127.1.0.255", "127.1.1.0", "127.1.1.1"]
        );
        assert!(check_sources(server, 1_000_000).is_ok());
        assert!(check_sources("10.0.0.1:7878".parse().unwrap(), 25_001).is_err());
        assert!(check_sources("10.0.0.1:7878".parse().unwrap(), 25_000).is_ok());
    }
}
