//! What crosses cores: asks go up to the core of the room, answers and batches come down to the core of the connection.
//!
//! An ask brings along what its connection may do in the room, and the room's core judges by that: the connection's own
//! refusals only spare the way.

use std::sync::Arc;

use banter_access::rights::Rights;
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::event::PresenceState;
use banter_protocol::ids::{Cursor, Epoch, PostKey, RequestId, RoomId, RoomName, Sequence, UserName};
use banter_protocol::request::{BodyFormat, FetchFrom, JoinFrom};
use bytes::Bytes;

use crate::address::{ConnectionId, Peer, SubscriptionId, UserId};
use crate::latencies::PageSource;
use crate::policy::Durability;
use crate::program::ClassName;

/// A body on its way.
#[derive(Clone, Debug)]
pub struct OwnedBody {
    /// What the bytes are.
    pub format: BodyFormat,
    /// The bytes.
    pub bytes: Bytes,
}

impl OwnedBody {
    /// A JSON value.
    pub fn json(bytes: Bytes) -> Self {
        OwnedBody { format: BodyFormat::Json, bytes }
    }
}

/// From a connection's core to a room's core. Each brings at most one parcel back to the core it came from.
#[derive(Debug)]
pub enum Up {
    /// Read a room from a place on, as a member.
    Join(Box<JoinAsk>),
    /// Say something.
    Post {
        /// The room.
        room: RoomId,
        /// The connection that says it.
        author: Peer,
        /// Its user.
        user: UserName,
        /// What it may do in the room.
        rights: Rights,
        /// The client's number.
        request: RequestId,
        /// Makes it safe to repeat.
        key: Option<PostKey>,
        /// What is said.
        body: OwnedBody,
    },
    /// Say something in a room that the author need not read, and that is made if it is not there.
    Say(Box<SayAsk>),
    /// Read a part of the history for an answer.
    Fetch(FetchAsk),
    /// Tell the members something.
    Signal {
        /// The room.
        room: RoomId,
        /// The connection that tells it.
        author: Peer,
        /// Its user.
        user: UserName,
        /// What it may do in the room.
        rights: Rights,
        /// What is told.
        body: OwnedBody,
    },
    /// Who is in the room.
    Members {
        /// The room.
        room: RoomName,
        /// The connection.
        asker: Peer,
        /// What it may do in the room.
        rights: Rights,
        /// The client's number.
        request: RequestId,
    },
    /// A post was refused before it left its connection's core: the refusal takes its turn among the answers to the posts
    /// before it.
    Refuse {
        /// The room.
        room: RoomId,
        /// The connection.
        author: Peer,
        /// The client's number.
        request: RequestId,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// A connection reads the room no longer.
    Leave {
        /// The room.
        room: RoomName,
        /// The connection.
        leaver: Peer,
        /// Its user.
        user: UserName,
        /// The client's number, where the client asked and waits for an answer.
        asked: Option<RequestId>,
    },
    /// A subscription that is behind wants its next page.
    CatchUp(CatchUp),
    /// A connection of a user came or went, for the core that counts them. It brings back nothing, but may end a connection
    /// anywhere.
    Home(HomeNews),
}

/// What a user's home is told of a connection.
#[derive(Clone, Copy, Debug)]
pub struct HomeNews {
    /// The user.
    pub user: UserId,
    /// The connection.
    pub connection: Peer,
    /// When it said who it is, in the turns' microseconds, which are the same on every core.
    pub since_us: u64,
    /// What it did.
    pub moved: Moved,
}

/// What a connection of a user did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It said who it is.
    Came,
    /// It was there when the limit came.
    WasThere,
    /// It is there no more, or is counted no more.
    Went,
}

/// The parts of a post by a backend, or by a program of another room.
#[derive(Clone, Debug)]
pub struct SayAsk {
    /// The room.
    pub room: RoomName,
    /// Who is answered.
    pub author: Peer,
    /// Who says it.
    pub user: UserName,
    /// The number that the answer brings back.
    pub request: RequestId,
    /// Makes it safe to repeat.
    pub key: Option<PostKey>,
    /// What is said.
    pub body: OwnedBody,
    /// How many programs it came through.
    pub hop: u8,
}

/// The parts of a fetch.
#[derive(Clone, Debug)]
pub struct FetchAsk {
    /// The room.
    pub room: RoomName,
    /// The connection.
    pub asker: Peer,
    /// What it may do in the room.
    pub rights: Rights,
    /// The client's number.
    pub request: RequestId,
    /// Which way, and from where.
    pub from: FetchFrom,
    /// Messages at most.
    pub messages_max: u32,
    /// The connection's user; none: a backend.
    pub user: Option<UserName>,
    /// Nothing before that place, by the word of the room's program.
    pub least: Sequence,
    /// The room was there, and its program was asked if it has one.
    pub is_judged: bool,
}

/// A subscription that is behind, and how far it has read.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    /// The room.
    pub room: RoomId,
    /// The connection.
    pub reader: Peer,
    /// Its reading of the room.
    pub subscription: SubscriptionId,
    /// How far it has read.
    pub after: Sequence,
    /// Whether it wants its own posts.
    pub echo: bool,
    /// The ticket that it asks with, which comes back with the page.
    pub ticket: PageSource,
}

impl Up {
    /// Whether it is a post that is safe to repeat.
    pub fn has_key(&self) -> bool {
        match self {
            Up::Post { key, .. } => key.is_some(),
            Up::Say(ask) => ask.key.is_some(),
            _ => false,
        }
    }

    /// The room, and the connection's core.
    pub fn room_and_peer(&self) -> (RoomId, Peer) {
        let of = |name: &RoomName| RoomId::of(name.as_str());
        match self {
            Up::Join(ask) => (of(&ask.room), ask.reader),
            Up::Post { room, author, .. } | Up::Signal { room, author, .. } | Up::Refuse { room, author, .. } => {
                (*room, *author)
            }
            Up::Say(ask) => (of(&ask.room), ask.author),
            Up::Fetch(ask) => (of(&ask.room), ask.asker),
            Up::Members { room, asker, .. } => (of(room), *asker),
            Up::Leave { room, leaver, .. } => (of(room), *leaver),
            Up::CatchUp(ask) => (ask.room, ask.reader),
            // Placed as a room of the user's name would be.
            Up::Home(news) => (RoomId(news.user.0), news.connection),
        }
    }
}

/// The parts of a join.
#[derive(Debug)]
pub struct JoinAsk {
    /// The room.
    pub room: RoomName,
    /// The connection.
    pub reader: Peer,
    /// Its reading of the room.
    pub subscription: SubscriptionId,
    /// The client's number.
    pub request: RequestId,
    /// The connection's user.
    pub user: UserName,
    /// What it may do in the room.
    pub rights: Rights,
    /// Where to start.
    pub from: JoinFrom,
    /// How far this connection has read already, when it joins again: it gets nothing twice.
    pub read_already: Option<Cursor>,
    /// Whether it wants its own posts.
    pub echo: bool,
    /// Whether it wants to hear who comes and goes.
    pub presence: bool,
}

/// From a room's core to a connection's core.
#[derive(Debug)]
pub enum Down {
    /// The answer to a request.
    Answer {
        /// The connection.
        to: ConnectionId,
        /// The client's number.
        request: RequestId,
        /// What is answered.
        answer: Answer,
    },
    /// A join was done.
    Joined {
        /// The connection.
        to: ConnectionId,
        /// The room.
        room: RoomName,
        /// Whether the connection wants its own posts.
        echo: bool,
        /// Whether it wants to hear who comes and goes.
        presence: bool,
        /// Its reading of the room.
        subscription: SubscriptionId,
        /// The client's number.
        request: RequestId,
        /// The room's history.
        epoch: Epoch,
        /// The room's head.
        head: Sequence,
        /// Members, with the one who joined.
        members: u64,
        /// When its messages are acknowledged and shown.
        durability: Durability,
        /// Which views it is shown, by the word of the room's program.
        class: Option<ClassName>,
        /// The start of the replay.
        page: Page,
    },
    /// A join was refused.
    JoinRefused {
        /// The connection.
        to: ConnectionId,
        /// Its reading of the room.
        subscription: SubscriptionId,
        /// The client's number.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// The next page of a subscription that is behind.
    CaughtUp {
        /// The connection.
        to: ConnectionId,
        /// Its reading of the room.
        subscription: SubscriptionId,
        /// The ticket that it was asked with.
        ticket: PageSource,
        /// The page.
        page: Page,
    },
    /// New messages of a room, for every subscription on this core.
    Messages {
        /// The room.
        room: RoomId,
        /// When they became history, in the turns' microseconds, which are the same on every core.
        since_us: u64,
        /// The messages, dense and ascending.
        batch: Batch,
    },
    /// Messages of a room were not sent to this core, since its lane was full.
    Lagged {
        /// The room.
        room: RoomId,
        /// Its head now.
        head: Sequence,
    },
    /// A member told something.
    Signal {
        /// The room.
        room: RoomId,
        /// The connection that told it, and does not get it back.
        author: Peer,
        /// Its user.
        user: UserName,
        /// What was told.
        body: OwnedBody,
        /// The one user that is told; none: everybody who reads the room.
        only: Option<UserName>,
    },
    /// Some came or went.
    Presence {
        /// The room.
        room: RoomId,
        /// Who; none: counts only.
        changes: Arc<[PresenceChange]>,
        /// Members now.
        members: u64,
    },
    /// A connection of a user has to make room for a newer one of the same user.
    Replaced {
        /// The connection.
        to: ConnectionId,
    },
    /// The sender stops and has sent every batch that it will ever send.
    Drained,
}

/// Who came or went.
#[derive(Clone, Debug)]
pub struct PresenceChange {
    /// The user.
    pub user: UserName,
    /// Which.
    pub state: PresenceState,
    /// The connection that caused it, and knows.
    pub cause: Option<Peer>,
}

/// What a request is answered.
#[derive(Debug)]
pub enum Answer {
    /// A post has its place.
    Posted {
        /// The room.
        room: RoomName,
        /// Its history.
        epoch: Epoch,
        /// The place.
        sequence: Sequence,
        /// The wall clock then.
        time_ms: u64,
        /// Whether the key was known.
        duplicate: bool,
    },
    /// The room's program has the post, and nobody else sees it.
    Taken {
        /// The room.
        room: RoomName,
        /// What the program says to it: a JSON value.
        reply: Option<Bytes>,
    },
    /// A part of the history.
    Page {
        /// The room.
        room: RoomName,
        /// Its history.
        epoch: Epoch,
        /// Whole frames, one after another.
        messages: Bytes,
        /// Whether there is more in that direction.
        more: bool,
    },
    /// Who is there.
    Members {
        /// The room.
        room: RoomName,
        /// All of them.
        count: u64,
        /// The first by name, a line each.
        users: String,
    },
    /// The connection reads the room no longer.
    Left {
        /// The room.
        room: RoomName,
    },
    /// No.
    Refused(Refusal),
    /// No, to a `post`.
    PostRefused(Refusal),
    /// No, to `members`, for whose list the outbox kept room.
    MembersRefused(Refusal),
    /// No, to a `fetch`, for whose page the outbox kept room.
    FetchRefused(Refusal),
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which kind.
    pub code: ErrorCode,
    /// For people.
    pub message: std::borrow::Cow<'static, str>,
    /// When to try again, in milliseconds, where that helps.
    pub retry_after_ms: Option<u64>,
    /// Whose share of a limit is used up, where that is the reason.
    pub scope: Option<Scope>,
    /// A word for the client's code, where a program gave one.
    pub reason: Option<Box<str>>,
}

impl Refusal {
    /// Without a time to try again.
    pub fn new(code: ErrorCode, message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Refusal { code, message: message.into(), retry_after_ms: None, scope: None, reason: None }
    }
}

/// A part of a room's history for a subscription that is not live.
#[derive(Debug)]
pub struct Page {
    /// The subscription has read up to here before the page.
    pub after: Sequence,
    /// The oldest message that the history holds, or the one behind the head if it holds none: what lies between it
    /// and `after` is a gap.
    pub first_available: Sequence,
    /// Whole frames, one after another, ascending.
    pub messages: Bytes,
    /// Messages in it.
    pub messages_count: u32,
    /// The subscription has read up to here behind the page.
    pub through: Sequence,
    /// How far the room was shown when the page was made. A page with `through == head` ends the catch-up.
    pub head: Sequence,
    /// The oldest message that memory holds: what is before it is read from the log.
    pub memory_from: Sequence,
    /// The log could not be read: the page holds nothing, and is to be asked for again later.
    pub is_unread: bool,
}

/// A message as the room's core keeps it and hands it out.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its place.
    pub sequence: Sequence,
    /// The native frame.
    pub frame: Arc<[u8]>,
    /// The connection that posted it, for `echo: false`.
    pub author: Peer,
}

/// New messages of one room, shared by the parcels to all cores.
#[derive(Clone, Debug)]
pub enum Batch {
    /// The usual one.
    One(Record),
    /// What came in one turn.
    Many(Arc<[Record]>),
}

impl Batch {
    /// The messages.
    pub fn records(&self) -> &[Record] {
        match self {
            Batch::One(record) => std::slice::from_ref(record),
            Batch::Many(records) => records,
        }
    }
}
