//! The native form: requests and events as rkyv archives in frames, written and read with checks.
//!
//! Archived types are flat: fixed fields and byte slices. Where there are several of something, they lie one after
//! another in one slice (the frames of a page, the lines of names). Every access is validated by rkyv; the bytes may
//! have come from a peer or from a disk.

use rkyv::api::low::{self, LowSerializer};
use rkyv::rancor::Failure;
use rkyv::ser::allocator::SubAllocator;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use crate::error_code::ErrorCode;
use crate::event::{Event, Message, PresenceState};
use crate::fault::{PeerFault, RequestFault};
use crate::frame::{Frame, FrameHeader, FrameKind, HEADER_BYTES};
use crate::ids::{Cursor, Epoch, RequestId, Sequence};
use crate::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};

/// The archived types, as docs/protocol.md lays them out.
mod archive {
    #![allow(missing_docs, reason = "rkyv's derive writes undocumented items")]
    use super::*;

    /// What most requests hold.
    #[derive(Archive, Serialize)]
    pub struct RoomRequest<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
    }

    #[derive(Archive, Serialize)]
    pub struct Hello<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub user: &'a str,
        /// Empty: none.
        #[rkyv(with = InlineAsBox)]
        pub token: &'a str,
    }

    #[derive(Archive, Serialize)]
    pub struct Join<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        /// 0 now, 1 last `count`, 2 after the cursor.
        pub from: u8,
        pub count: u64,
        pub epoch: u64,
        pub sequence: u64,
        pub echo: bool,
        pub presence: bool,
    }

    #[derive(Archive, Serialize)]
    pub struct Post<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        /// Empty: none.
        #[rkyv(with = InlineAsBox)]
        pub key: &'a str,
        /// 0 bytes, 1 JSON.
        pub format: u8,
        #[rkyv(with = InlineAsBox)]
        pub body: &'a [u8],
    }

    #[derive(Archive, Serialize)]
    pub struct Fetch<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        /// 0 before, 1 after.
        pub from: u8,
        pub sequence: u64,
        pub limit: Option<u64>,
    }

    #[derive(Archive, Serialize)]
    pub struct TellSignal<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        pub format: u8,
        #[rkyv(with = InlineAsBox)]
        pub body: &'a [u8],
    }

    #[derive(Archive, Serialize)]
    pub struct Plain {
        pub id: Option<u64>,
    }

    #[derive(Archive, Serialize)]
    pub struct Welcome<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub session: &'a str,
        #[rkyv(with = InlineAsBox)]
        pub user: &'a str,
        #[rkyv(with = InlineAsBox)]
        pub durability: &'a str,
        #[rkyv(with = InlineAsBox)]
        pub limits: &'a str,
    }

    #[derive(Archive, Serialize)]
    pub struct Joined<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        #[rkyv(with = InlineAsBox)]
        pub durability: &'a str,
        pub epoch: u64,
        pub sequence: u64,
        pub members: u64,
    }

    #[derive(Archive, Serialize)]
    pub struct Posted<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        pub epoch: u64,
        pub sequence: u64,
        pub time_ms: u64,
        pub duplicate: bool,
    }

    #[derive(Archive, Serialize)]
    pub struct Page<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        pub epoch: u64,
        pub more: bool,
        #[rkyv(with = InlineAsBox)]
        pub messages: &'a [u8],
    }

    #[derive(Archive, Serialize)]
    pub struct Members<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        pub count: u64,
        #[rkyv(with = InlineAsBox)]
        pub users: &'a str,
    }

    #[derive(Archive, Serialize)]
    pub struct MessageArchive<'a> {
        pub epoch: u64,
        pub sequence: u64,
        pub time_ms: u64,
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        #[rkyv(with = InlineAsBox)]
        pub user: &'a str,
        /// Empty: none.
        #[rkyv(with = InlineAsBox)]
        pub key: &'a str,
        #[rkyv(with = InlineAsBox)]
        pub body: &'a [u8],
        pub format: u8,
    }

    #[derive(Archive, Serialize)]
    pub struct Signal<'a> {
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        #[rkyv(with = InlineAsBox)]
        pub user: &'a str,
        #[rkyv(with = InlineAsBox)]
        pub body: &'a [u8],
        pub format: u8,
    }

    #[derive(Archive, Serialize)]
    pub struct Presence<'a> {
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        /// Empty: counts only.
        #[rkyv(with = InlineAsBox)]
        pub user: &'a str,
        pub count: u64,
        /// 0 counts only, 1 joined, 2 left.
        pub state: u8,
    }

    #[derive(Archive, Serialize)]
    pub struct Gap<'a> {
        #[rkyv(with = InlineAsBox)]
        pub room: &'a str,
        pub epoch: u64,
        pub from: u64,
        pub to: u64,
    }

    #[derive(Archive, Serialize)]
    pub struct Closing {
        pub reconnect_after_ms: u64,
        pub code: u8,
    }

    #[derive(Archive, Serialize)]
    pub struct Error<'a> {
        pub id: Option<u64>,
        #[rkyv(with = InlineAsBox)]
        pub message: &'a str,
        pub retry_after_ms: Option<u64>,
        pub code: u8,
    }

    #[derive(Archive, Serialize)]
    pub struct KeepAlive {
        pub reserved: u8,
    }
}

/// Appends one frame to `out`.
fn write<T>(kind: FrameKind, value: &T, out: &mut Vec<u8>)
where
    T: for<'w> Serialize<LowSerializer<&'w mut Vec<u8>, SubAllocator<'w>, Failure>>,
{
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    // Writing to a vector has no way to fail, a flat value needs no allocator, and none of ours has a pointer beyond
    // 2 GiB: its parts are limited.
    if low::to_bytes_in_with_alloc::<_, _, Failure>(value, &mut *out, SubAllocator::empty()).is_err() {
        out.truncate(start);
        debug_assert!(false, "an archive of {kind:?} could not be written");
        return;
    }
    let payload_bytes = (out.len() - start - HEADER_BYTES) as u32;
    out[start..start + HEADER_BYTES].copy_from_slice(&FrameHeader { payload_bytes, kind }.to_bytes());
}

/// Appends a request's frame to `out`.
pub fn write_request(request: &Request<'_>, out: &mut Vec<u8>) {
    let id = request.id;
    match &request.ask {
        Ask::Hello { user, token } => {
            write(FrameKind::Hello, &archive::Hello { id, user, token: token.as_deref().unwrap_or("") }, out);
        }
        Ask::Join { room, from, echo, presence } => {
            let (from, count, cursor) = match *from {
                JoinFrom::Now => (0, 0, Cursor { epoch: Epoch(0), sequence: Sequence(0) }),
                JoinFrom::Last(count) => (1, count, Cursor { epoch: Epoch(0), sequence: Sequence(0) }),
                JoinFrom::After(cursor) => (2, 0, cursor),
            };
            let (epoch, sequence) = (cursor.epoch.0, cursor.sequence.0);
            let join = archive::Join { id, room, from, count, epoch, sequence, echo: *echo, presence: *presence };
            write(FrameKind::Join, &join, out);
        }
        Ask::Post { room, body, key } => {
            let key = key.as_deref().unwrap_or("");
            let post = archive::Post { id, room, key, format: body.format as u8, body: body.bytes };
            write(FrameKind::Post, &post, out);
        }
        Ask::Fetch { room, from, limit } => {
            let (from, sequence) = match *from {
                FetchFrom::Before(sequence) => (0, sequence.0),
                FetchFrom::After(sequence) => (1, sequence.0),
            };
            write(FrameKind::Fetch, &archive::Fetch { id, room, from, sequence, limit: *limit }, out);
        }
        Ask::Signal { room, body } => {
            let signal = archive::TellSignal { id, room, format: body.format as u8, body: body.bytes };
            write(FrameKind::TellSignal, &signal, out);
        }
        Ask::Members { room } => write(FrameKind::AskMembers, &archive::RoomRequest { id, room }, out),
        Ask::Leave { room } => write(FrameKind::Leave, &archive::RoomRequest { id, room }, out),
        Ask::Ping => write(FrameKind::Ping, &archive::Plain { id }, out),
    }
}

/// Validated access to the archive of a frame. The `low` form allocates nothing, and flat types need no more.
macro_rules! access {
    ($name:ident, $bytes:expr) => {
        low::access::<<archive::$name<'static> as Archive>::Archived, Failure>($bytes)
    };
    (plain $name:ident, $bytes:expr) => {
        low::access::<<archive::$name as Archive>::Archived, Failure>($bytes)
    };
}

fn optional(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Reads a request.
///
/// # Errors
/// When the payload is no valid archive of its kind, the kind is an event's, or a field is out of range.
pub fn read_request(frame: Frame<'_>) -> Result<Request<'_>, RequestFault> {
    let broken = |_| RequestFault::new(None, "the payload is no valid archive of its kind");
    let fault = |id, message: &str| RequestFault::new(id, message);
    let (id, ask) = match frame.kind {
        FrameKind::Hello => {
            let hello = access!(Hello, frame.payload).map_err(broken)?;
            let token = optional(&hello.token).map(Into::into);
            (number(&hello.id), Ask::Hello { user: (&*hello.user).into(), token })
        }
        FrameKind::Join => {
            let join = access!(Join, frame.payload).map_err(broken)?;
            let id = number(&join.id);
            let from = match join.from {
                0 => JoinFrom::Now,
                1 => JoinFrom::Last(join.count.into()),
                2 => JoinFrom::After(Cursor {
                    epoch: Epoch(join.epoch.into()),
                    sequence: Sequence(join.sequence.into()),
                }),
                _ => return Err(fault(id, "join: `from` must be 0, 1 or 2")),
            };
            (id, Ask::Join { room: (&*join.room).into(), from, echo: join.echo, presence: join.presence })
        }
        FrameKind::Post => {
            let post = access!(Post, frame.payload).map_err(broken)?;
            let id = number(&post.id);
            let body = read_body(id, post.format, &post.body)?;
            (id, Ask::Post { room: (&*post.room).into(), body, key: optional(&post.key).map(Into::into) })
        }
        FrameKind::Fetch => {
            let fetch = access!(Fetch, frame.payload).map_err(broken)?;
            let id = number(&fetch.id);
            let sequence = Sequence(fetch.sequence.into());
            let from = match fetch.from {
                0 => FetchFrom::Before(sequence),
                1 => FetchFrom::After(sequence),
                _ => return Err(fault(id, "fetch: `from` must be 0 or 1")),
            };
            (id, Ask::Fetch { room: (&*fetch.room).into(), from, limit: number(&fetch.limit) })
        }
        FrameKind::TellSignal => {
            let signal = access!(TellSignal, frame.payload).map_err(broken)?;
            let id = number(&signal.id);
            (id, Ask::Signal { room: (&*signal.room).into(), body: read_body(id, signal.format, &signal.body)? })
        }
        FrameKind::AskMembers => {
            let request = access!(RoomRequest, frame.payload).map_err(broken)?;
            (number(&request.id), Ask::Members { room: (&*request.room).into() })
        }
        FrameKind::Leave => {
            let request = access!(RoomRequest, frame.payload).map_err(broken)?;
            (number(&request.id), Ask::Leave { room: (&*request.room).into() })
        }
        FrameKind::Ping => (number(&access!(plain Plain, frame.payload).map_err(broken)?.id), Ask::Ping),
        _ => return Err(fault(None, "this kind of frame is an event, which only the server sends")),
    };
    Ok(Request { id, ask })
}

fn number(archived: &rkyv::option::ArchivedOption<rkyv::rend::unaligned::u64_ule>) -> RequestId {
    archived.as_ref().map(|number| number.to_native())
}

/// A body whose bytes are what its format says.
fn read_body(id: RequestId, format: u8, bytes: &[u8]) -> Result<Body<'_>, RequestFault> {
    let fault = |message: String| RequestFault::new(id, message);
    let format = BodyFormat::from_number(format).ok_or_else(|| fault("`format` must be 0 or 1".into()))?;
    if format == BodyFormat::Json {
        crate::json::check_value(bytes).map_err(|why| fault(format!("the body is said to be JSON, and {why}")))?;
    }
    Ok(Body { format, bytes })
}

/// Appends an event's frame to `out`.
pub fn write_event(event: &Event<'_>, out: &mut Vec<u8>) {
    match *event {
        Event::Welcome { id, session, user, limits, durability } => {
            write(FrameKind::Welcome, &archive::Welcome { id, session, user, durability, limits }, out);
        }
        Event::Joined { id, room, epoch, sequence, members, durability } => {
            let (epoch, sequence) = (epoch.0, sequence.0);
            write(FrameKind::Joined, &archive::Joined { id, room, durability, epoch, sequence, members }, out);
        }
        Event::Posted { id, room, epoch, sequence, time_ms, duplicate } => {
            let (epoch, sequence) = (epoch.0, sequence.0);
            write(FrameKind::Posted, &archive::Posted { id, room, epoch, sequence, time_ms, duplicate }, out);
        }
        Event::Page { id, room, epoch, messages, more } => {
            write(FrameKind::Page, &archive::Page { id, room, epoch: epoch.0, more, messages }, out);
        }
        Event::Members { id, room, count, users } => {
            write(FrameKind::Members, &archive::Members { id, room, count, users }, out);
        }
        Event::Left { id, room } => write(FrameKind::Left, &archive::RoomRequest { id, room }, out),
        Event::Pong { id } => write(FrameKind::Pong, &archive::Plain { id }, out),
        Event::Message(ref message) => write_message(message, out),
        Event::Signal { room, user, body } => {
            let signal = archive::Signal { room, user, body: body.bytes, format: body.format as u8 };
            write(FrameKind::Signal, &signal, out);
        }
        Event::Presence { room, change, count } => {
            let (user, state) = change.map_or(("", 0), |(user, state)| (user, state as u8));
            write(FrameKind::Presence, &archive::Presence { room, user, count, state }, out);
        }
        Event::Gap { room, epoch, from, to } => {
            write(FrameKind::Gap, &archive::Gap { room, epoch: epoch.0, from: from.0, to: to.0 }, out);
        }
        Event::Closing { code, reconnect_after_ms } => {
            write(FrameKind::Closing, &archive::Closing { reconnect_after_ms, code: code as u8 }, out);
        }
        Event::Error { id, code, message, retry_after_ms } => {
            write(FrameKind::Error, &archive::Error { id, message, retry_after_ms, code: code as u8 }, out);
        }
        Event::KeepAlive => write(FrameKind::KeepAlive, &archive::KeepAlive { reserved: 0 }, out),
    }
}

/// Appends a message's frame to `out`: the bytes that are kept, and that every native reader gets.
pub fn write_message(message: &Message<'_>, out: &mut Vec<u8>) {
    let archive = archive::MessageArchive {
        epoch: message.epoch.0,
        sequence: message.sequence.0,
        time_ms: message.time_ms,
        room: message.room,
        user: message.user,
        key: message.key.unwrap_or(""),
        body: message.body.bytes,
        format: message.body.format as u8,
    };
    write(FrameKind::Message, &archive, out);
}

/// Reads the message of a whole frame, header and all.
///
/// # Errors
/// When it is no whole frame, or not a valid message's.
pub fn read_message(bytes: &[u8]) -> Result<Message<'_>, PeerFault> {
    match Frame::read(bytes, u32::MAX)? {
        (Frame { kind: FrameKind::Message, payload }, used) if used == bytes.len() => read_message_payload(payload),
        _ => Err(PeerFault::Archive),
    }
}

fn read_message_payload(payload: &[u8]) -> Result<Message<'_>, PeerFault> {
    let message = access!(MessageArchive, payload).map_err(|_| PeerFault::Archive)?;
    Ok(Message {
        epoch: Epoch(message.epoch.into()),
        sequence: Sequence(message.sequence.into()),
        time_ms: message.time_ms.into(),
        room: &message.room,
        user: &message.user,
        key: optional(&message.key),
        body: Body { format: BodyFormat::from_number(message.format).ok_or(PeerFault::Archive)?, bytes: &message.body },
    })
}

/// Reads an event, as a client does.
///
/// # Errors
/// When the payload is no valid archive of its kind, or the kind is a request's.
pub fn read_event(frame: Frame<'_>) -> Result<Event<'_>, PeerFault> {
    let broken = |_| PeerFault::Archive;
    let payload = frame.payload;
    Ok(match frame.kind {
        FrameKind::Welcome => {
            let welcome = access!(Welcome, payload).map_err(broken)?;
            Event::Welcome {
                id: number(&welcome.id),
                session: &welcome.session,
                user: &welcome.user,
                limits: &welcome.limits,
                durability: &welcome.durability,
            }
        }
        FrameKind::Joined => {
            let joined = access!(Joined, payload).map_err(broken)?;
            Event::Joined {
                id: number(&joined.id),
                room: &joined.room,
                epoch: Epoch(joined.epoch.into()),
                sequence: Sequence(joined.sequence.into()),
                members: joined.members.into(),
                durability: &joined.durability,
            }
        }
        FrameKind::Posted => {
            let posted = access!(Posted, payload).map_err(broken)?;
            Event::Posted {
                id: number(&posted.id),
                room: &posted.room,
                epoch: Epoch(posted.epoch.into()),
                sequence: Sequence(posted.sequence.into()),
                time_ms: posted.time_ms.into(),
                duplicate: posted.duplicate,
            }
        }
        FrameKind::Page => {
            let page = access!(Page, payload).map_err(broken)?;
            Event::Page {
                id: number(&page.id),
                room: &page.room,
                epoch: Epoch(page.epoch.into()),
                messages: &page.messages,
                more: page.more,
            }
        }
        FrameKind::Members => {
            let members = access!(Members, payload).map_err(broken)?;
            Event::Members {
                id: number(&members.id),
                room: &members.room,
                count: members.count.into(),
                users: &members.users,
            }
        }
        FrameKind::Left => {
            let left = access!(RoomRequest, payload).map_err(broken)?;
            Event::Left { id: number(&left.id), room: &left.room }
        }
        FrameKind::Pong => Event::Pong { id: number(&access!(plain Plain, payload).map_err(broken)?.id) },
        FrameKind::Message => Event::Message(read_message_payload(payload)?),
        FrameKind::Signal => {
            let signal = access!(Signal, payload).map_err(broken)?;
            let format = BodyFormat::from_number(signal.format).ok_or(PeerFault::Archive)?;
            Event::Signal { room: &signal.room, user: &signal.user, body: Body { format, bytes: &signal.body } }
        }
        FrameKind::Presence => {
            let presence = access!(Presence, payload).map_err(broken)?;
            let change = match presence.state {
                0 => None,
                1 => Some((&*presence.user, PresenceState::Joined)),
                2 => Some((&*presence.user, PresenceState::Left)),
                _ => return Err(PeerFault::Archive),
            };
            Event::Presence { room: &presence.room, change, count: presence.count.into() }
        }
        FrameKind::Gap => {
            let gap = access!(Gap, payload).map_err(broken)?;
            Event::Gap {
                room: &gap.room,
                epoch: Epoch(gap.epoch.into()),
                from: Sequence(gap.from.into()),
                to: Sequence(gap.to.into()),
            }
        }
        FrameKind::Closing => {
            let closing = access!(plain Closing, payload).map_err(broken)?;
            let code = ErrorCode::from_number(closing.code).ok_or(PeerFault::Archive)?;
            Event::Closing { code, reconnect_after_ms: closing.reconnect_after_ms.into() }
        }
        FrameKind::Error => {
            let error = access!(Error, payload).map_err(broken)?;
            Event::Error {
                id: number(&error.id),
                code: ErrorCode::from_number(error.code).ok_or(PeerFault::Archive)?,
                message: &error.message,
                retry_after_ms: number(&error.retry_after_ms),
            }
        }
        FrameKind::KeepAlive => {
            access!(plain KeepAlive, payload).map_err(broken)?;
            Event::KeepAlive
        }
        _ => return Err(PeerFault::Archive),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::JSON_INTEGER_MAX;

    const IDS: [RequestId; 4] = [None, Some(0), Some(JSON_INTEGER_MAX), Some(u64::MAX)];

    fn body(format: BodyFormat, bytes: &[u8]) -> Body<'_> {
        Body { format, bytes }
    }

    /// Every kind of request, with all of its optional fields and with none.
    fn asks() -> Vec<Ask<'static>> {
        let room = || "a room, ü";
        let join = |from, echo, presence| Ask::Join { room: room().into(), from, echo, presence };
        let json = body(BodyFormat::Json, b" {\"a\": [1.0e5, \"\\u0041\"]}");
        vec![
            Ask::Hello { user: "ann".into(), token: None },
            Ask::Hello { user: "ann".into(), token: Some("t\0".into()) },
            join(JoinFrom::Now, true, false),
            join(JoinFrom::Last(50), false, true),
            join(JoinFrom::After(Cursor { epoch: Epoch(7), sequence: Sequence(u64::MAX) }), true, true),
            Ask::Post { room: room().into(), body: json, key: None },
            Ask::Post { room: room().into(), body: body(BodyFormat::Bytes, b"\xff\0{"), key: Some("k".into()) },
            Ask::Post { room: "".into(), body: body(BodyFormat::Bytes, b""), key: None },
            Ask::Fetch { room: room().into(), from: FetchFrom::Before(Sequence(1)), limit: None },
            Ask::Fetch { room: room().into(), from: FetchFrom::After(Sequence(2)), limit: Some(0) },
            Ask::Signal { room: room().into(), body: json },
            Ask::Signal { room: room().into(), body: body(BodyFormat::Bytes, b"") },
            Ask::Members { room: room().into() },
            Ask::Leave { room: room().into() },
            Ask::Ping,
        ]
    }

    fn messages() -> [Message<'static>; 2] {
        let (epoch, sequence) = (Epoch(JSON_INTEGER_MAX), Sequence(9));
        let json = body(BodyFormat::Json, b"{}");
        let first = Message { epoch, sequence, time_ms: 11, room: "r", user: "ann", key: Some("k"), body: json };
        [first, Message { key: None, body: body(BodyFormat::Bytes, &[0xff; 300]), ..first }]
    }

    /// Every kind of event. `page` holds the messages above.
    fn events(id: RequestId, page: &[u8]) -> Vec<Event<'_>> {
        let (room, epoch, sequence, user) = ("r", Epoch(7), Sequence(9), "ann");
        let [first, second] = messages();
        let mut events = vec![
            Event::Welcome { id, session: "s", user, limits: "a_max 1\n", durability: "memory" },
            Event::Joined { id, room, epoch, sequence, members: 3, durability: "synced" },
            Event::Posted { id, room, epoch, sequence, time_ms: 11, duplicate: false },
            Event::Posted { id, room, epoch, sequence, time_ms: 0, duplicate: true },
            Event::Page { id, room, epoch, messages: page, more: true },
            Event::Page { id, room, epoch, messages: b"", more: false },
            Event::Members { id, room, count: 200, users: "ann\nbob\n" },
            Event::Left { id, room },
            Event::Pong { id },
            Event::Message(first),
            Event::Message(second),
            Event::Signal { room, user, body: body(BodyFormat::Json, b"1") },
            Event::Signal { room, user, body: body(BodyFormat::Bytes, b"") },
            Event::Presence { room, change: Some((user, PresenceState::Joined)), count: 2 },
            Event::Presence { room, change: Some((user, PresenceState::Left)), count: 1 },
            Event::Presence { room, change: None, count: 5_000 },
            Event::Gap { room, epoch, from: Sequence(1), to: Sequence(4) },
            Event::Closing { code: ErrorCode::Draining, reconnect_after_ms: 250 },
            Event::KeepAlive,
        ];
        events.extend(ErrorCode::ALL.into_iter().enumerate().map(|(index, code)| Event::Error {
            id,
            code,
            message: "why",
            retry_after_ms: (index % 2 == 0).then_some(index as u64),
        }));
        events
    }

    fn page() -> Vec<u8> {
        let mut page = Vec::new();
        messages().iter().for_each(|message| write_message(message, &mut page));
        page
    }

    fn framed(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    fn frame(bytes: &[u8]) -> Frame<'_> {
        let (frame, used) = Frame::read(bytes, u32::MAX).unwrap();
        assert_eq!(used, bytes.len());
        frame
    }

    /// A frame of each request and each event.
    fn frames() -> Vec<Vec<u8>> {
        let page = page();
        let mut frames = Vec::new();
        for id in [None, Some(0x1122_3344_5566_7788)] {
            frames.extend(asks().into_iter().map(|ask| framed(|out| write_request(&Request { id, ask }, out))));
            frames.extend(events(id, &page).iter().map(|event| framed(|out| write_event(event, out))));
        }
        frames
    }

    /// Reads a frame in each way there is. What can be read can be written, and then reads the same.
    fn read_in_every_way(frame: Frame<'_>) {
        if let Ok(request) = read_request(frame) {
            let again = framed(|out| write_request(&request, out));
            assert_eq!(read_request(self::frame(&again)), Ok(request));
        }
        if let Ok(event) = read_event(frame) {
            let again = framed(|out| write_event(&event, out));
            assert_eq!(read_event(self::frame(&again)), Ok(event.clone()));
            crate::json::write_event(&event, &mut Vec::new());
        }
    }

    #[test]
    fn every_request_comes_back_as_it_was_written() {
        for id in IDS {
            for ask in asks() {
                let request = Request { id, ask };
                // Where a frame starts must not matter: neither to the writer nor to what it wrote.
                let first = framed(|out| write_request(&request, out));
                let mut second = vec![0xaa; 13];
                write_request(&request, &mut second);
                assert_eq!(second[..13], [0xaa; 13]);
                assert_eq!(second[13..], first);
                assert_eq!(read_request(frame(&first)), Ok(request));
                assert_eq!(read_event(frame(&first)), Err(PeerFault::Archive));
            }
        }
    }

    #[test]
    fn every_event_comes_back_as_it_was_written() {
        let page = page();
        for id in IDS {
            for event in events(id, &page) {
                let bytes = framed(|out| write_event(&event, out));
                assert_eq!(read_event(frame(&bytes)), Ok(event));
                let fault = read_request(frame(&bytes)).unwrap_err();
                assert!(fault.message.contains("is an event"), "{fault}");
            }
        }
    }

    #[test]
    fn every_kind_is_written_by_some_request_or_event() {
        let written: Vec<FrameKind> = frames().iter().map(|bytes| frame(bytes).kind).collect();
        for kind in FrameKind::ALL {
            assert!(written.contains(kind), "{kind:?}");
        }
    }

    #[test]
    fn a_frame_reads_the_same_at_every_address() {
        for bytes in frames() {
            let mut arena = vec![0u8; bytes.len() + 16];
            let (request, event) = (read_request(frame(&bytes)), read_event(frame(&bytes)));
            for offset in 0..8 {
                let place = &mut arena[offset..offset + bytes.len()];
                place.copy_from_slice(&bytes);
                assert_eq!(read_request(frame(place)), request);
                assert_eq!(read_event(frame(place)), event);
            }
        }
    }

    #[test]
    fn a_payload_of_another_kind_or_length_never_panics() {
        for bytes in frames() {
            let whole = frame(&bytes);
            for &kind in FrameKind::ALL {
                read_in_every_way(Frame { kind, payload: whole.payload });
                for length in 0..whole.payload.len().min(200) {
                    read_in_every_way(Frame { kind, payload: &whole.payload[..length] });
                }
            }
            // Cut from the front the root stays whole, and what it points to does not.
            for start in 0..whole.payload.len() {
                read_in_every_way(Frame { kind: whole.kind, payload: &whole.payload[start..] });
            }
        }
    }

    #[test]
    fn an_archive_shorter_than_its_root_is_refused() {
        for &kind in FrameKind::ALL {
            let empty = Frame { kind, payload: &[] };
            assert!(read_request(empty).is_err() && read_event(empty).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn no_changed_byte_panics() {
        for bytes in frames() {
            let kind = frame(&bytes).kind;
            let mut payload = frame(&bytes).payload.to_vec();
            for at in 0..payload.len() {
                let was = payload[at];
                for with in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff, was, was ^ 0x7f] {
                    payload[at] = was ^ with;
                    read_in_every_way(Frame { kind, payload: &payload });
                }
                payload[at] = was;
            }
        }
    }

    #[test]
    fn a_number_out_of_range_is_refused_with_the_id() {
        // The bytes stand at fixed offsets from the end: docs/protocol.md lists them.
        let join = Ask::Join { room: "r".into(), from: JoinFrom::Now, echo: true, presence: true };
        let fetch = Ask::Fetch { room: "r".into(), from: FetchFrom::Before(Sequence(1)), limit: None };
        let post = Ask::Post { room: "r".into(), body: body(BodyFormat::Bytes, b"{"), key: None };
        let signal = Ask::Signal { room: "r".into(), body: body(BodyFormat::Bytes, b"{") };
        for (ask, from_end, value, named) in [
            (join, 27, 3, "`from`"),
            (fetch, 18, 2, "`from`"),
            (post.clone(), 9, 2, "`format`"),
            (post, 9, 1, "JSON"),
            (signal.clone(), 9, 2, "`format`"),
            (signal, 9, 1, "JSON"),
        ] {
            let mut bytes = framed(|out| write_request(&Request { id: Some(5), ask }, out));
            let at = bytes.len() - from_end;
            bytes[at] = value;
            let fault = read_request(frame(&bytes)).unwrap_err();
            assert_eq!(fault.id, Some(5));
            assert!(fault.message.contains(named), "{fault}");
        }
    }

    #[test]
    fn an_event_with_an_unknown_number_is_refused() {
        let code = Event::Error { id: None, code: ErrorCode::BadFrame, message: "", retry_after_ms: None };
        let closing = Event::Closing { code: ErrorCode::Draining, reconnect_after_ms: 1 };
        let presence = Event::Presence { room: "r", change: None, count: 1 };
        let signal = Event::Signal { room: "r", user: "u", body: body(BodyFormat::Bytes, b"") };
        for (event, values) in [(code, [0, 17]), (closing, [0, 255]), (presence, [3, 255]), (signal, [2, 255])] {
            let mut bytes = framed(|out| write_event(&event, out));
            for value in values {
                *bytes.last_mut().unwrap() = value;
                assert_eq!(read_event(frame(&bytes)), Err(PeerFault::Archive), "{event:?}");
            }
        }
    }

    #[test]
    fn a_message_is_read_from_exactly_one_whole_frame() {
        let [message, _] = messages();
        let bytes = framed(|out| write_message(&message, out));
        assert_eq!(read_message(&bytes), Ok(message));
        for length in 0..bytes.len() {
            assert_eq!(read_message(&bytes[..length]), Err(PeerFault::FrameTruncated));
        }
        assert_eq!(read_message(&[&bytes[..], &[0]].concat()), Err(PeerFault::Archive));
        assert_eq!(read_message(&page()), Err(PeerFault::Archive));
        let pong = framed(|out| write_event(&Event::Pong { id: None }, out));
        assert_eq!(read_message(&pong), Err(PeerFault::Archive));
    }

    #[test]
    fn an_empty_optional_text_is_none() {
        let ask = |key| Ask::Post { room: "r".into(), body: body(BodyFormat::Bytes, b""), key };
        let bytes = framed(|out| write_request(&Request { id: None, ask: ask(Some("".into())) }, out));
        assert_eq!(read_request(frame(&bytes)), Ok(Request { id: None, ask: ask(None) }));
    }
}
