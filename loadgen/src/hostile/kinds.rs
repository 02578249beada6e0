//! The kinds of attack: what a hostile connection says, when it says more, and whether it reads.

use std::net::SocketAddr;
use std::time::Duration;

use banter_protocol::websocket::{FrameKind, write_frame_header, write_masked_frame};
use clap::ValueEnum;
use serde::Serialize;

use crate::args::Wire;
use crate::identities::Identities;
use crate::wire::{Identity, Writer, hello_text};

/// As in `wire`: any mask will do.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
/// Under this one each byte of a text is itself, wherever it stands.
const NO_MASK: [u8; 4] = [0; 4];
/// Pages that are asked for and never read: more than any outbox holds.
const UNREAD_FETCHES: u32 = 400;
/// Above every sequence: the newest page.
const SEQUENCE_MAX: u64 = (1 << 53) - 1;
/// What is said at once of a flood of pings: little, for the kernel takes its time over it, and the honest wait.
const PINGS_BYTES: usize = 4 << 10;
/// Bytes of the message that is said byte by byte; nobody waits for its end.
const DRIPPED_BYTES: usize = 60_000;
/// Between two of its bytes.
pub const DRIP_INTERVAL: Duration = Duration::from_secs(1);

/// A kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Asks for 400 pages, then sends WebSocket pings as fast as the socket takes them, and never reads
    UnreadPings,
    /// One connection floods signals into a room of --crowd members
    Signals,
    /// The same by all
    SignalsAll,
    /// Joins and leaves a busy room as fast as answers come
    JoinLeave,
    /// Fetches the largest pages as fast as answers come
    Fetches,
    /// Asks for the members of the crowd as fast as answers come
    Members,
    /// Says a message a byte a second
    Drip,
    /// Joins a busy room and never reads
    Deaf,
    /// One post a second into a room of --large-room members
    LargeRoom,
    /// Connects and closes without a word
    Connects,
}

/// When a hostile connection says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tempo {
    /// Never.
    Never,
    /// When it was answered.
    AsAnswered,
    /// When it is its turn.
    Flood,
    /// A byte each [`DRIP_INTERVAL`].
    Drip,
    /// It closes as soon as it is connected.
    Closes,
}

/// The rooms of a run.
#[derive(Clone, Debug)]
pub struct Rooms {
    /// That of many members.
    pub crowd: String,
    /// That which is posted to.
    pub busy: String,
    /// That with messages to fetch.
    pub history: String,
}

impl Rooms {
    /// By their prefix.
    pub fn of(prefix: &str) -> Self {
        let room = |name: &str| format!("{prefix}-{name}");
        Rooms { crowd: room("crowd"), busy: room("busy"), history: room("history") }
    }
}

impl Kind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::UnreadPings => "unread-pings",
            Kind::Signals => "signals",
            Kind::SignalsAll => "signals-all",
            Kind::JoinLeave => "join-leave",
            Kind::Fetches => "fetches",
            Kind::Members => "members",
            Kind::Drip => "drip",
            Kind::Deaf => "deaf",
            Kind::LargeRoom => "large-room",
            Kind::Connects => "connects",
        }
    }

    /// Hostile connections, where so many are asked for.
    pub fn attackers(self, asked: usize) -> usize {
        match self {
            Kind::Signals | Kind::LargeRoom => asked.min(1),
            _ => asked,
        }
    }

    fn tempo(self) -> Tempo {
        match self {
            Kind::UnreadPings | Kind::Signals | Kind::SignalsAll => Tempo::Flood,
            Kind::JoinLeave | Kind::Fetches | Kind::Members => Tempo::AsAnswered,
            Kind::Drip => Tempo::Drip,
            Kind::Deaf | Kind::LargeRoom => Tempo::Never,
            Kind::Connects => Tempo::Closes,
        }
    }

    fn opening(self, rooms: &Rooms) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Kind::UnreadPings => (0..UNREAD_FETCHES).for_each(|_| fetch(&rooms.history, &mut out)),
            Kind::Signals | Kind::SignalsAll => join(&rooms.crowd, &mut out),
            Kind::Deaf => join(&rooms.busy, &mut out),
            Kind::Drip => begin_a_long_message(&mut out),
            _ => {}
        }
        out
    }

    /// What it says in turn.
    fn says(self, rooms: &Rooms) -> Vec<Vec<u8>> {
        match self {
            Kind::UnreadPings => vec![pings()],
            Kind::Signals | Kind::SignalsAll => {
                let room = &rooms.crowd;
                vec![text(&format!(r#"{{"type":"signal","room":"{room}","body":{{"typing":true}}}}"#))]
            }
            Kind::JoinLeave => {
                let mut entry = Vec::new();
                join(&rooms.busy, &mut entry);
                vec![entry, text(&format!(r#"{{"type":"leave","id":4,"room":"{}"}}"#, rooms.busy))]
            }
            Kind::Fetches => {
                let mut out = Vec::new();
                fetch(&rooms.history, &mut out);
                vec![out]
            }
            Kind::Members => vec![text(&format!(r#"{{"type":"members","id":5,"room":"{}"}}"#, rooms.crowd))],
            Kind::Drip => vec![b"x".to_vec()],
            Kind::Deaf | Kind::LargeRoom | Kind::Connects => Vec::new(),
        }
    }
}

/// What the connections of one kind do. They speak JSON over WebSocket, whatever the honest ones do.
#[derive(Clone, Debug)]
pub struct Script {
    server: SocketAddr,
    opening: Vec<u8>,
    identities: Identities,
    /// When it says more.
    pub tempo: Tempo,
    /// What it says then, in turn.
    pub says: Vec<Vec<u8>>,
    /// Whether it reads what comes.
    pub reads: bool,
}

impl Script {
    /// Of a kind in these rooms, by connections that say that they are those.
    pub fn of(kind: Kind, server: SocketAddr, rooms: &Rooms, identities: Identities) -> Self {
        Script {
            server,
            opening: kind.opening(rooms),
            identities,
            tempo: kind.tempo(),
            says: kind.says(rooms),
            reads: !matches!(kind, Kind::UnreadPings | Kind::Deaf),
        }
    }

    /// What a connection begins with: all at once, for the server reads requests right behind the upgrade.
    pub fn opening(&self, number: usize) -> Vec<u8> {
        if self.tempo == Tempo::Closes {
            return Vec::new();
        }
        let mut out = hello(self.server, &self.identities, number);
        out.extend_from_slice(&self.opening);
        out
    }
}

/// The upgrade to JSON over WebSocket, and the `hello` of a connection.
pub fn hello(server: SocketAddr, identities: &Identities, number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    Writer::new(Wire::Json).open(server, &mut out);
    let (user, token) = (identities.user(number), identities.token(number));
    out.extend(text(&hello_text(Identity { user: &user, token })));
    out
}

fn text(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write_masked_frame(&mut out, FrameKind::Text, MASK, text.as_bytes());
    out
}

fn join(room: &str, out: &mut Vec<u8>) {
    out.extend(text(&format!(r#"{{"type":"join","id":2,"room":"{room}"}}"#)));
}

/// Without a limit a page is as large as the server allows.
fn fetch(room: &str, out: &mut Vec<u8>) {
    out.extend(text(&format!(r#"{{"type":"fetch","id":3,"room":"{room}","before":{SEQUENCE_MAX}}}"#)));
}

fn pings() -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < PINGS_BYTES {
        write_masked_frame(&mut out, FrameKind::Ping, MASK, b"?");
    }
    out
}

fn begin_a_long_message(out: &mut Vec<u8>) {
    const MASKED: u8 = 0x80;
    let start = out.len();
    write_frame_header(out, FrameKind::Text, DRIPPED_BYTES);
    out[start + 1] |= MASKED;
    out.extend_from_slice(&NO_MASK);
}

#[cfg(test)]
mod tests {
    use super::*;
    use banter_protocol::ingress::{Incoming, Ingress};
    use banter_protocol::wire::WireForm;

    /// What a server reads behind the upgrade.
    fn read(mut bytes: Vec<u8>) -> Vec<String> {
        let mut ingress = Ingress::new(65_536);
        let (used, upgrade) = ingress.read(&mut bytes).unwrap();
        assert!(matches!(upgrade, Some(Incoming::Http(_))));
        ingress.accept_websocket(WireForm::Json);
        let mut rest = &mut bytes[used..];
        let mut read = Vec::new();
        while !rest.is_empty() {
            let (used, incoming) = ingress.read(rest).unwrap();
            read.extend(incoming.map(|incoming| format!("{incoming:?}")));
            rest = &mut rest[used..];
        }
        read
    }

    fn script(kind: Kind) -> Script {
        Script::of(kind, "127.0.0.1:1".parse().unwrap(), &Rooms::of("load"), Identities::default())
    }

    fn said(kind: Kind) -> Vec<String> {
        let script = script(kind);
        let mut bytes = script.opening(7);
        // Again and again: what is said byte by byte is to stay a text.
        (0..5).for_each(|_| bytes.extend(script.says.concat()));
        read(bytes)
    }

    #[test]
    fn a_server_understands_every_kind_that_speaks() {
        for (kind, count, last) in [
            (Kind::UnreadPings, 2 * UNREAD_FETCHES as usize, "Ping"),
            (Kind::Signals, 3, "Signal"),
            (Kind::SignalsAll, 3, "Signal"),
            (Kind::JoinLeave, 3, "Leave"),
            (Kind::Fetches, 2, "Fetch"),
            (Kind::Members, 2, "Members"),
            (Kind::Deaf, 2, "Join"),
            (Kind::Drip, 1, "Hello"),
        ] {
            let said = said(kind);
            assert!(said[0].contains("\"u7\""), "{kind:?}: {}", said[0]);
            assert!(said.len() >= count && said.last().unwrap().contains(last), "{kind:?}: {said:?}");
        }
    }

    #[test]
    fn who_closes_without_a_word_says_none() {
        let script = script(Kind::Connects);
        assert!(script.opening(0).is_empty() && script.says.is_empty());
    }
}
