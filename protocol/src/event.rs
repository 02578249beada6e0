//! What the server says, in one form for every wire: borrowed from wherever it lies.

use crate::error_code::{ErrorCode, Scope};
use crate::ids::{Epoch, RequestId, Sequence};
use crate::request::Body;

/// Users that a `members` answer lists.
pub const MEMBERS_LISTED_MAX: usize = 100;

/// Nodes that a `nodes` event names at most.
pub const NODES_MAX: usize = 16;
/// Bytes of a node's address at most.
pub const NODE_BYTES_MAX: usize = 256;

/// One thing that the server says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// The answer to `hello`.
    Welcome {
        /// The request.
        id: RequestId,
        /// The session's name.
        session: &'a str,
        /// The user.
        user: &'a str,
        /// The durability of rooms that no entry of the configuration matches.
        durability: &'a str,
        /// What both sides know beyond version 1's base: names, each ended by a line feed.
        features: &'a str,
        /// A line `name value` for every limit, each ended by a line feed.
        limits: &'a str,
        /// Milliseconds until the token ends, where one was asked for.
        expires_in_ms: Option<u64>,
    },
    /// Which other nodes of a cluster a client may come to: behind `welcome`, or ahead of an `error` that turns it away.
    Nodes {
        /// Their addresses, each ended by a line feed.
        nodes: &'a str,
    },
    /// The answer to `join`.
    Joined {
        /// The request.
        id: RequestId,
        /// The room.
        room: &'a str,
        /// Its history.
        epoch: Epoch,
        /// Its head.
        sequence: Sequence,
        /// Members, with the one who joined.
        members: u64,
        /// The room's durability.
        durability: &'a str,
    },
    /// The answer to `post`.
    Posted {
        /// The request.
        id: RequestId,
        /// The room.
        room: &'a str,
        /// Its history.
        epoch: Epoch,
        /// The message's place.
        sequence: Sequence,
        /// Wall clock of the room's core, milliseconds since 1970.
        time_ms: u64,
        /// Whether the key was known, and this is the first post's place.
        duplicate: bool,
    },
    /// The answer to a `post` that the room's program kept for itself: it has no place, and nobody saw it.
    Taken {
        /// The request.
        id: RequestId,
        /// The room.
        room: &'a str,
        /// What the program says to it: a JSON value.
        reply: Option<&'a [u8]>,
    },
    /// The answer to `fetch`: ascending messages, each a native message frame.
    Page {
        /// The request.
        id: RequestId,
        /// The room.
        room: &'a str,
        /// Its history.
        epoch: Epoch,
        /// The messages: whole native frames, one after another.
        messages: &'a [u8],
        /// Whether the history holds more in that direction.
        more: bool,
    },
    /// The answer to `members`.
    Members {
        /// The request.
        id: RequestId,
        /// The room.
        room: &'a str,
        /// All of them.
        count: u64,
        /// The first [`MEMBERS_LISTED_MAX`] by name, each ended by a line feed (which no name holds).
        users: &'a str,
    },
    /// The answer to `leave`.
    Left {
        /// The request.
        id: RequestId,
        /// The room.
        room: &'a str,
    },
    /// The answer to `renew`.
    Renewed {
        /// The request.
        id: RequestId,
        /// Milliseconds until the new token ends.
        expires_in_ms: u64,
    },
    /// The connection's token ends soon: `renew`.
    Expiring {
        /// Milliseconds until then.
        in_ms: u64,
    },
    /// The connection reads the room no longer, and did not ask for that.
    Removed {
        /// The room.
        room: &'a str,
        /// Why.
        code: ErrorCode,
    },
    /// The answer to `ping`.
    Pong {
        /// The request.
        id: RequestId,
    },
    /// A message of a room. The core that owns the room encodes it once, and everybody gets those bytes.
    Message(Message<'a>),
    /// A signal of a member.
    Signal {
        /// The room.
        room: &'a str,
        /// Who told it.
        user: &'a str,
        /// What.
        body: Body<'a>,
    },
    /// Somebody came or went.
    Presence {
        /// The room.
        room: &'a str,
        /// Who, and which; `None`: counts only.
        change: Option<(&'a str, PresenceState)>,
        /// Members now.
        count: u64,
    },
    /// The history no longer holds these.
    Gap {
        /// The room.
        room: &'a str,
        /// Its history.
        epoch: Epoch,
        /// The first that is missing.
        from: Sequence,
        /// The last that is missing; the first available is the one behind it.
        to: Sequence,
    },
    /// The server is stopping.
    Closing {
        /// Why.
        code: ErrorCode,
        /// When to come back.
        reconnect_after_ms: u64,
    },
    /// A request, or the stream, was refused.
    Error {
        /// The request, where it is one's.
        id: RequestId,
        /// Which kind.
        code: ErrorCode,
        /// For people.
        message: &'a str,
        /// When to try again, where that helps.
        retry_after_ms: Option<u64>,
        /// Whose share of a limit is used up, where that is the reason.
        scope: Option<Scope>,
        /// A word for the client's code, where a program of the room gave one.
        reason: Option<&'a str>,
    },
    /// A native connection was silent for half of `idle_timeout_ms`: answer with anything (WebSocket has its own ping).
    KeepAlive,
}

/// Whether a user came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PresenceState {
    /// With the first connection.
    Joined = 1,
    /// With the last connection.
    Left = 2,
}

impl PresenceState {
    /// As JSON clients read it.
    pub fn as_str(self) -> &'static str {
        match self {
            PresenceState::Joined => "joined",
            PresenceState::Left => "left",
        }
    }
}

/// What a person said, and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The history.
    pub epoch: Epoch,
    /// The place in it.
    pub sequence: Sequence,
    /// Wall clock of the room's core, milliseconds since 1970.
    pub time_ms: u64,
    /// The room.
    pub room: &'a str,
    /// Who said it.
    pub user: &'a str,
    /// The client's key, where it gave one.
    pub key: Option<&'a str>,
    /// What was said.
    pub body: Body<'a>,
}
