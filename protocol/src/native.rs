//! The native form: requests and events as rkyv archives in frames, written and read with checks.
//!
//! Archived types are flat: fixed fields and byte slices. Where there are several of something, they lie one after
//! another in one slice (the frames of a page, the lines of names). Every access is validated by rkyv; the bytes may
//! have come from a peer or from a disk.

use rkyv::api::low::{self, LowSerializer};
use rkyv::rancor::Failure;
use rkyv::ser::allocator::SubAllocator;
use rkyv::{Archive, Serialize};

use crate::error_code::{ErrorCode, Scope};
use crate::event::{Event, Message, PresenceState};
use crate::fault::{PeerFault, RequestFault};
use crate::features::{FeatureNames, Features};
use crate::frame::{Frame, FrameHeader, FrameKind, HEADER_BYTES};
use crate::ids::{Cursor, Epoch, RequestId, Sequence};
use crate::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};

mod archive;

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
        Ask::Hello { user, token, features } => {
            let (token, features) = (token.as_deref().unwrap_or(""), &*features.lines());
            write(FrameKind::Hello, &archive::Hello { id, user, token, features }, out);
        }
        Ask::Join { room, from, echo, presence, token } => {
            let (from, count, cursor) = match *from {
                JoinFrom::Now => (0, 0, Cursor { epoch: Epoch(0), sequence: Sequence(0) }),
                JoinFrom::Last(count) => (1, count, Cursor { epoch: Epoch(0), sequence: Sequence(0) }),
                JoinFrom::After(cursor) => (2, 0, cursor),
            };
            let (epoch, sequence) = (cursor.epoch.0, cursor.sequence.0);
            let (echo, presence, token) = (*echo, *presence, token.as_deref().unwrap_or(""));
            let join = archive::Join { id, room, from, count, epoch, sequence, echo, presence, token };
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
        Ask::Renew { token } => write(FrameKind::Renew, &archive::Renew { id, token }, out),
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

// Behind the macro, which it uses.
mod heard;
mod kept;
mod viewed;
pub use heard::{Heard, read_heard};
pub use kept::{
    Change, Kept, State, Tombstone, as_told, erased_ms, read_kept, read_state, write_change, write_erased, write_kept,
    write_state,
};
pub use viewed::{CLASS_BYTES_MAX, VIEW_OVERHEAD_BYTES, VIEWS_MAX, Views, as_viewed, is_viewed, write_viewed};

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
            let (id, token) = (number(&hello.id), optional(&hello.token).map(Into::into));
            let features = FeatureNames::read_lines(&hello.features).map_err(|why| fault(id, &why.to_string()))?;
            (id, Ask::Hello { user: (&*hello.user).into(), token, features })
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
            let (room, token) = ((&*join.room).into(), optional(&join.token).map(Into::into));
            (id, Ask::Join { room, from, echo: join.echo, presence: join.presence, token })
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
        FrameKind::Renew => {
            let renew = access!(Renew, frame.payload).map_err(broken)?;
            (number(&renew.id), Ask::Renew { token: (&*renew.token).into() })
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

/// Appends an event's frame to `out`, for a reader who knows the base alone.
pub fn write_event(event: &Event<'_>, out: &mut Vec<u8>) {
    write_event_to(event, Features::NONE, out);
}

/// Appends an event's frame to `out`, for a reader who agreed on these features.
pub fn write_event_to(event: &Event<'_>, agreed: Features, out: &mut Vec<u8>) {
    match *event {
        Event::Welcome { id, session, user, durability, features, limits, expires_in_ms } => {
            let welcome = archive::Welcome { id, session, user, durability, features, limits, expires_in_ms };
            write(FrameKind::Welcome, &welcome, out);
        }
        Event::Nodes { nodes } => write(FrameKind::Nodes, &archive::Nodes { nodes }, out),
        Event::Joined { id, room, epoch, sequence, members, durability } => {
            let (epoch, sequence) = (epoch.0, sequence.0);
            write(FrameKind::Joined, &archive::Joined { id, room, durability, epoch, sequence, members }, out);
        }
        Event::Posted { id, room, epoch, sequence, time_ms, duplicate } => {
            let (epoch, sequence) = (epoch.0, sequence.0);
            write(FrameKind::Posted, &archive::Posted { id, room, epoch, sequence, time_ms, duplicate }, out);
        }
        Event::Page { id, room, epoch, messages, more } => {
            let told = as_told(messages, agreed);
            let messages = told.as_deref().unwrap_or_default();
            write(FrameKind::Page, &archive::Page { id, room, epoch: epoch.0, more, messages }, out);
        }
        Event::Members { id, room, count, users } => {
            write(FrameKind::Members, &archive::Members { id, room, count, users }, out);
        }
        Event::Taken { id, room, reply } => {
            write(FrameKind::Taken, &archive::Taken { id, room, reply: reply.unwrap_or_default() }, out);
        }
        Event::Left { id, room } => write(FrameKind::Left, &archive::RoomRequest { id, room }, out),
        Event::Renewed { id, expires_in_ms } => {
            write(FrameKind::Renewed, &archive::Renewed { id, expires_in_ms }, out);
        }
        Event::Expiring { in_ms } => write(FrameKind::Expiring, &archive::Expiring { in_ms }, out),
        Event::Removed { room, code } => {
            write(FrameKind::Removed, &archive::Removed { room, code: code as u8 }, out);
        }
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
        Event::Error { id, code, message, retry_after_ms, scope, reason } => {
            let (scope, reason) = (scope.map_or(0, |scope| scope as u8), reason.unwrap_or_default());
            let error = archive::Error { reason, id, message, retry_after_ms, scope, code: code as u8 };
            write(FrameKind::Error, &error, out);
        }
        Event::KeepAlive => write(FrameKind::KeepAlive, &archive::KeepAlive { reserved: 0 }, out),
    }
}

/// Appends a message's frame to `out`: the bytes that are kept, and that every native reader gets.
pub fn write_message(message: &Message<'_>, out: &mut Vec<u8>) {
    write(FrameKind::Message, &message_archive(message), out);
}

fn message_archive<'a>(message: &Message<'a>) -> archive::MessageArchive<'a> {
    archive::MessageArchive {
        epoch: message.epoch.0,
        sequence: message.sequence.0,
        time_ms: message.time_ms,
        room: message.room,
        user: message.user,
        key: message.key.unwrap_or(""),
        body: message.body.bytes,
        format: message.body.format as u8,
    }
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
    read_message_as(payload, BodyFormat::from_number)
}

fn read_message_as(payload: &[u8], format: fn(u8) -> Option<BodyFormat>) -> Result<Message<'_>, PeerFault> {
    message_of(access!(MessageArchive, payload).map_err(|_| PeerFault::Archive)?, format)
}

fn message_of<'m>(
    message: &'m archive::ArchivedMessageArchive<'_>,
    format: fn(u8) -> Option<BodyFormat>,
) -> Result<Message<'m>, PeerFault> {
    Ok(Message {
        epoch: Epoch(message.epoch.into()),
        sequence: Sequence(message.sequence.into()),
        time_ms: message.time_ms.into(),
        room: &message.room,
        user: &message.user,
        key: optional(&message.key),
        body: Body { format: format(message.format).ok_or(PeerFault::Archive)?, bytes: &message.body },
    })
}

/// Reads an event of this version, and takes nothing that this version does not name; [`read_heard`] takes more.
///
/// # Errors
/// When the payload is no valid archive of its kind, a number in it is unknown, or the kind is a request's.
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
                durability: &welcome.durability,
                features: &welcome.features,
                limits: &welcome.limits,
                expires_in_ms: number(&welcome.expires_in_ms),
            }
        }
        FrameKind::Nodes => Event::Nodes { nodes: &access!(Nodes, payload).map_err(broken)?.nodes },
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
        FrameKind::Taken => {
            let taken = access!(Taken, payload).map_err(broken)?;
            let reply = (!taken.reply.is_empty()).then_some(&*taken.reply);
            Event::Taken { id: number(&taken.id), room: &taken.room, reply }
        }
        FrameKind::Left => {
            let left = access!(RoomRequest, payload).map_err(broken)?;
            Event::Left { id: number(&left.id), room: &left.room }
        }
        FrameKind::Renewed => {
            let renewed = access!(plain Renewed, payload).map_err(broken)?;
            Event::Renewed { id: number(&renewed.id), expires_in_ms: renewed.expires_in_ms.into() }
        }
        FrameKind::Expiring => {
            Event::Expiring { in_ms: access!(plain Expiring, payload).map_err(broken)?.in_ms.into() }
        }
        FrameKind::Removed => {
            let removed = access!(Removed, payload).map_err(broken)?;
            let code = ErrorCode::from_number(removed.code).ok_or(PeerFault::Archive)?;
            Event::Removed { room: &removed.room, code }
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
                // One that a later server knows is none here: the code says enough.
                scope: Scope::from_number(error.scope),
                reason: optional(&error.reason),
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
mod tests;
