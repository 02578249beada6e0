//! What a client may ask, in one form for every wire: borrowed from the bytes that came.

use crate::features::FeatureNames;
use crate::ids::{Cursor, RequestId, Sequence};

/// A request with its number. Names are not checked yet: the session answers a bad one with its typed error.
#[derive(Clone, Debug, PartialEq)]
pub struct Request<'a> {
    /// The client's number for it, echoed in the answer.
    pub id: RequestId,
    /// What is asked.
    pub ask: Ask<'a>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask<'a> {
    /// Who this connection is; first and once.
    Hello {
        /// The user's name; empty: the token names it.
        user: Text<'a>,
        /// Proof, where the server asks for one.
        token: Option<Text<'a>>,
        /// What the client knows beyond version 1's base.
        features: FeatureNames<'a>,
    },
    /// Read a room from a place on.
    Join {
        /// The room.
        room: Text<'a>,
        /// Where to start.
        from: JoinFrom,
        /// Whether the connection wants its own posts back.
        echo: bool,
        /// Whether it wants to hear who comes and goes.
        presence: bool,
        /// Proof of what may be done in this room, beside that of the connection.
        token: Option<Text<'a>>,
    },
    /// Say something in a joined room.
    Post {
        /// The room.
        room: Text<'a>,
        /// The message.
        body: Body<'a>,
        /// Makes the post safe to repeat.
        key: Option<Text<'a>>,
    },
    /// Read a part of the history.
    Fetch {
        /// The room.
        room: Text<'a>,
        /// Which way, and from where.
        from: FetchFrom,
        /// Messages at most; `None`: as many as a page holds.
        limit: Option<u64>,
    },
    /// Tell the members something that is never numbered and never kept.
    Signal {
        /// The room.
        room: Text<'a>,
        /// What is told.
        body: Body<'a>,
    },
    /// Who is in a room.
    Members {
        /// The room.
        room: Text<'a>,
    },
    /// Stop reading a room.
    Leave {
        /// The room.
        room: Text<'a>,
    },
    /// Go on with another token of the same user.
    Renew {
        /// The proof.
        token: Text<'a>,
    },
    /// Is anybody there.
    Ping,
}

/// Text that is borrowed where the wire holds it as it is, and owned where it was escaped.
pub type Text<'a> = std::borrow::Cow<'a, str>;

/// Where a join starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinFrom {
    /// With the next message.
    Now,
    /// With the newest messages, that many at most.
    Last(u64),
    /// Behind a cursor. It wins where a client gives both `after` and `last`.
    After(Cursor),
}

/// Where a fetch starts; the named sequence is not part of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchFrom {
    /// The newest messages before it.
    Before(Sequence),
    /// The oldest messages after it.
    After(Sequence),
}

/// What a message or signal holds, kept byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body<'a> {
    /// What the bytes are.
    pub format: BodyFormat,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// What the bytes of a body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BodyFormat {
    /// Any bytes; a JSON client gets them as `body_base64`.
    Bytes = 0,
    /// One JSON value, checked when it came.
    Json = 1,
}

impl BodyFormat {
    /// The format of that number on the native wire.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(BodyFormat::Bytes),
            1 => Some(BodyFormat::Json),
            _ => None,
        }
    }
}
