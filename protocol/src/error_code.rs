//! The stable error codes: what each is called, and how a connection is closed that broke the byte stream.

/// What an `error` event says in `code`. The names are stable; docs/protocol.md says what a client should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ErrorCode {
    /// Bytes that are no frame: the stream is closed.
    BadFrame = 1,
    /// A frame or message above `frame_bytes_max`: the stream is closed.
    FrameTooLarge = 2,
    /// A whole frame or text that is no request: unknown type, wrong field, bad JSON, out of order.
    BadRequest = 3,
    /// `post`, `signal` or `leave` of a room that the connection has not joined.
    NotJoined = 4,
    /// The room's name is empty, too long, or holds a control character.
    RoomNameInvalid = 5,
    /// The token does not prove the user.
    Unauthorized = 6,
    /// Proved, and still not allowed.
    Forbidden = 7,
    /// Above one of the limits a second; `scope` says whose.
    RateLimited = 8,
    /// A limit of the server is reached.
    Overloaded = 9,
    /// The key was used for another body.
    KeyConflict = 10,
    /// The cursor belongs to another history of the room.
    WrongEpoch = 11,
    /// The cursor is ahead of the room's head.
    CursorAhead = 12,
    /// The log of the room failed.
    LogFailed = 13,
    /// The disk of the log is full.
    LogFull = 14,
    /// The server is stopping.
    Draining = 15,
    /// Nothing came for `idle_timeout_ms`, or no handshake within `handshake_timeout_ms`: the stream is closed.
    TimedOut = 16,
    /// The token has ended.
    Expired = 17,
    /// What would check the token cannot just now; the room has no owner just now, or nobody knows what becomes of the post; or the
    /// node does not serve.
    Unavailable = 18,
    /// The token, its session or its user was revoked.
    Revoked = 19,
    /// Somebody who may do that has ended it.
    Kicked = 20,
    /// A newer connection of the user took its place: the stream is closed.
    Replaced = 21,
    /// The room's program refused it; `reason` is the program's word for why.
    ProgramRefused = 22,
    /// The room's program came to no decision, and nothing passes without one; `reason` is the kind of fault.
    ProgramFailed = 23,
}

impl ErrorCode {
    /// Every code, in the order of its number.
    pub const ALL: [ErrorCode; 23] = [
        ErrorCode::BadFrame,
        ErrorCode::FrameTooLarge,
        ErrorCode::BadRequest,
        ErrorCode::NotJoined,
        ErrorCode::RoomNameInvalid,
        ErrorCode::Unauthorized,
        ErrorCode::Forbidden,
        ErrorCode::RateLimited,
        ErrorCode::Overloaded,
        ErrorCode::KeyConflict,
        ErrorCode::WrongEpoch,
        ErrorCode::CursorAhead,
        ErrorCode::LogFailed,
        ErrorCode::LogFull,
        ErrorCode::Draining,
        ErrorCode::TimedOut,
        ErrorCode::Expired,
        ErrorCode::Unavailable,
        ErrorCode::Revoked,
        ErrorCode::Kicked,
        ErrorCode::Replaced,
        ErrorCode::ProgramRefused,
        ErrorCode::ProgramFailed,
    ];

    /// The code as clients read it.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadFrame => "bad_frame",
            ErrorCode::FrameTooLarge => "frame_too_large",
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::NotJoined => "not_joined",
            ErrorCode::RoomNameInvalid => "room_name_invalid",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::KeyConflict => "key_conflict",
            ErrorCode::WrongEpoch => "wrong_epoch",
            ErrorCode::CursorAhead => "cursor_ahead",
            ErrorCode::LogFailed => "log_failed",
            ErrorCode::LogFull => "log_full",
            ErrorCode::Draining => "draining",
            ErrorCode::TimedOut => "timed_out",
            ErrorCode::Expired => "expired",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Revoked => "revoked",
            ErrorCode::Kicked => "kicked",
            ErrorCode::Replaced => "replaced",
            ErrorCode::ProgramRefused => "program_refused",
            ErrorCode::ProgramFailed => "program_failed",
        }
    }

    /// The code of that number on the native wire.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The code of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }
}

/// Whose share of a limit was used up: the `scope` of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Scope {
    /// All connections of one address.
    Ip = 1,
    /// This connection.
    Connection = 2,
    /// All connections of the user.
    User = 3,
    /// Everybody in the room.
    Room = 4,
    /// The whole server.
    Server = 5,
}

impl Scope {
    /// Every scope, in the order of its number.
    pub const ALL: [Scope; 5] = [Scope::Ip, Scope::Connection, Scope::User, Scope::Room, Scope::Server];

    /// The scope as clients read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Ip => "ip",
            Scope::Connection => "connection",
            Scope::User => "user",
            Scope::Room => "room",
            Scope::Server => "server",
        }
    }

    /// The scope of that number on the native wire; 0 is none.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_stable_numbers_and_names() {
        for (index, code) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index + 1);
            assert_eq!(ErrorCode::from_number(code as u8), Some(code));
            assert_eq!(ErrorCode::from_name(code.as_str()), Some(code));
        }
        assert_eq!(ErrorCode::from_number(0), None);
        assert_eq!(ErrorCode::from_number(24), None);
    }

    #[test]
    fn scopes_have_stable_numbers() {
        for (index, scope) in Scope::ALL.into_iter().enumerate() {
            assert_eq!((scope as usize, Scope::from_number(scope as u8)), (index + 1, Some(scope)));
        }
        assert_eq!((Scope::from_number(0), Scope::from_number(6)), (None, None));
    }
}
