//! What a session tells its user, owned, so that it outlives the bytes that brought it.

use std::ops::RangeInclusive;
use std::time::Duration;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::PresenceState;
use banter_protocol::fault::PeerFault;
use banter_protocol::ids::{Cursor, Epoch, FeatureName, RoomName, Sequence};
use banter_protocol::request::{Body, BodyFormat};

use crate::asks::AskId;
use crate::posts::Ticket;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The server said welcome; the rooms are being joined.
    Connected {
        /// The server's name for the session.
        session: String,
        /// The server's limits, by name.
        limits: Vec<(String, u64)>,
        /// The durability of rooms that no entry of its configuration matches.
        durability: String,
        /// Those of [`crate::Options::features`] that the server knows too, and thus what may come on this connection.
        features: Vec<FeatureName>,
        /// When the token ends, where the server asks for one.
        expires_in: Option<Duration>,
    },
    /// The token ends soon: [`crate::Session::renew`] with a new one. Told once of each.
    Expiring {
        /// When.
        expires_in: Duration,
    },
    /// The server goes by the token that [`crate::Session::renew`] gave it.
    Renewed {
        /// When that one ends.
        expires_in: Duration,
    },
    /// The server ended the reading of a room: it is not joined any more, over no later connection either. Its posts that
    /// were not acknowledged are refused; the server may have them all the same.
    Removed {
        /// The room.
        room: RoomName,
        /// Why; none: a code that only a later server knows.
        code: Option<ErrorCode>,
        /// How far it was read.
        cursor: Option<Cursor>,
    },
    /// A room is joined, or joined again after a cut.
    Joined {
        /// The room.
        room: RoomName,
        /// Its history and its newest message.
        head: Cursor,
        /// Members, this one counted.
        members: u64,
        /// What an acknowledgement of this room means.
        durability: String,
    },
    /// A message.
    Message(Message),
    /// The server acknowledged a post.
    Posted(Posted),
    /// The server's log failed: a post is kept with its key, and sent again when the server may have been mended. Told
    /// once of a post that was refused so; younger posts of its room wait behind it.
    Postponed {
        /// Which post.
        ticket: Ticket,
        /// Its room.
        room: RoomName,
        /// Why, for people.
        message: String,
    },
    /// The answer to [`crate::Session::fetch`].
    Page(Page),
    /// The answer to [`crate::Session::members`].
    Members(Members),
    /// The connection was lost before the answer came: ask again, once there is another.
    Unanswered(AskId),
    /// These messages are gone from the history.
    Gap {
        /// The room.
        room: RoomName,
        /// The history.
        epoch: Epoch,
        /// The first that is missing.
        from: Sequence,
        /// The last that is missing.
        to: Sequence,
    },
    /// A member's signal.
    Signal {
        /// The room.
        room: RoomName,
        /// Who told it.
        user: String,
        /// What.
        body: OwnedBody,
    },
    /// Somebody came or went.
    Presence {
        /// The room.
        room: RoomName,
        /// Who, and which; none in a room so large that it tells counts only.
        change: Option<(String, PresenceState)>,
        /// Members now.
        count: u64,
    },
    /// The history that the cursor belonged to is no more (`wrong_epoch`, `cursor_ahead`): what came between the
    /// cursor and the next message of this room is not known.
    HistoryLost {
        /// The room.
        room: RoomName,
        /// How far it had been read.
        cursor: Cursor,
        /// What the server said.
        code: ErrorCode,
    },
    /// The room's program kept a post for itself: it has no place, and nobody saw it.
    Taken {
        /// Which post.
        ticket: Ticket,
        /// Its room.
        room: RoomName,
        /// What the program says to it: a JSON value.
        reply: Option<Vec<u8>>,
    },
    /// The server refused something for good. Where the refusal of a join or a post passes (`overloaded`, say), it is
    /// not told, but tried again.
    Refused {
        /// What.
        what: Refused,
        /// Why; none: a code that only a later server knows.
        code: Option<ErrorCode>,
        /// Why, for people.
        message: String,
        /// When asking again makes sense, if the server said so.
        retry_after: Option<Duration>,
        /// A word for code, where a program of the room gave one.
        reason: Option<String>,
    },
    /// The connection is gone.
    Disconnected {
        /// Why.
        why: Why,
        /// When the session will want the next one; none when it has ended for good.
        retry_in: Option<Duration>,
    },
}

/// A message of a room.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The room.
    pub room: RoomName,
    /// Its place.
    pub cursor: Cursor,
    /// Wall clock of the server, milliseconds since 1970.
    pub time_ms: u64,
    /// Who said it.
    pub user: String,
    /// The key that it was posted under, if any: [`crate::Session::key_of`] recognises one's own.
    pub key: Option<String>,
    /// What was said.
    pub body: OwnedBody,
}

/// A part of a room's history.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Which ask this answers.
    pub ask: AskId,
    /// The room.
    pub room: RoomName,
    /// The history that the sequences belong to.
    pub epoch: Epoch,
    /// The messages, ascending.
    pub messages: Vec<Message>,
    /// Places among them that hold no message, ascending: it was erased, or it is something else that this version does
    /// not know. Whoever goes on behind a page goes on behind these too.
    pub gaps: Vec<RangeInclusive<Sequence>>,
    /// Whether the history holds more in the direction that was asked for.
    pub more: bool,
}

/// Who is in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Which ask this answers.
    pub ask: AskId,
    /// The room.
    pub room: RoomName,
    /// All of them.
    pub count: u64,
    /// The first by name, as many as the server lists.
    pub users: Vec<String>,
}

/// A body and what its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedBody {
    /// What the bytes are.
    pub format: BodyFormat,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl From<Body<'_>> for OwnedBody {
    fn from(body: Body<'_>) -> Self {
        OwnedBody { format: body.format, bytes: body.bytes.to_vec() }
    }
}

impl OwnedBody {
    /// The body, borrowed.
    pub fn as_body(&self) -> Body<'_> {
        Body { format: self.format, bytes: &self.bytes }
    }
}

/// An acknowledgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Posted {
    /// Which post.
    pub ticket: Ticket,
    /// Its room.
    pub room: RoomName,
    /// Its key, which its message has too.
    pub key: String,
    /// The place that the message has.
    pub cursor: Cursor,
    /// Wall clock of the server, milliseconds since 1970.
    pub time_ms: u64,
    /// Whether an earlier sending of this post had already been stored.
    pub duplicate: bool,
}

/// What was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The session itself, or its byte stream.
    Session,
    /// Reading a room: it is not joined any more.
    Join(RoomName),
    /// A post: it is not sent again.
    Post(Ticket),
    /// A page or a list of members.
    Ask(AskId),
    /// A token that was to follow on another.
    Renew,
    /// Something else that was asked, a signal for instance.
    Other,
}

/// Why a connection is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The adapter said so.
    #[error("{0}")]
    Closed(String),
    /// No welcome in time.
    #[error("the server did not say welcome in time")]
    NoWelcome,
    /// Nothing heard for too long.
    #[error("the server was silent for too long")]
    Silent,
    /// Bytes that are no frame.
    #[error("the server sent bytes that cannot be read: {0}")]
    Bytes(PeerFault),
    /// A message that is not the one behind the cursor. The session drops the connection and asks again.
    #[error("room {room}: the server sent sequence {sequence} of epoch {epoch}, and {cursor:?} was read")]
    OutOfOrder {
        /// The room.
        room: RoomName,
        /// What came.
        epoch: u64,
        /// What came.
        sequence: u64,
        /// How far the room was read.
        cursor: Option<Cursor>,
    },
    /// The server refused the session: [`Event::Refused`] said why. Where that is [`ErrorCode::Replaced`], a newer connection of
    /// the same user took its place: only the user may want this one back.
    #[error("the server refused the session")]
    Refused,
    /// [`crate::Session::end`] was called.
    #[error("the session was ended")]
    Ended,
}
