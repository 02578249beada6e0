//! Events as a client hears them: a number that only a later server knows costs neither the event nor the connection.

use rkyv::Archive;
use rkyv::api::low;
use rkyv::rancor::Failure;

use super::{archive, number, read_event, read_message_as};
use crate::event::Event;
use crate::fault::PeerFault;
use crate::frame::{Frame, FrameKind};
use crate::ids::RequestId;
use crate::request::{Body, BodyFormat};

/// What a client heard. An unknown state of presence is told as counts only, an unknown format of a body as bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard<'a> {
    /// An event that this version names.
    Event(Event<'a>),
    /// An `error` whose code it does not name: the request failed, and nothing else did.
    Refusal {
        /// The request, where it is one's.
        id: RequestId,
        /// For people.
        message: &'a str,
        /// When to try again, where that helps.
        retry_after_ms: Option<u64>,
    },
    /// A `removed` whose code it does not name: the room is read no longer, for whatever reason.
    Removed {
        /// The room.
        room: &'a str,
    },
    /// A `closing` whose code it does not name: the server closes, for whatever reason.
    Closing {
        /// When to come back.
        reconnect_after_ms: u64,
    },
}

/// Reads an event, as a client does.
///
/// # Errors
/// When the payload is no valid archive of its kind, or the kind is a request's.
pub fn read_heard(frame: Frame<'_>) -> Result<Heard<'_>, PeerFault> {
    match read_event(frame) {
        // Broken, or with a number that is unknown: what cannot do without the number is broken.
        Err(PeerFault::Archive) => read_beside_numbers(frame),
        read => read.map(Heard::Event),
    }
}

fn read_beside_numbers(frame: Frame<'_>) -> Result<Heard<'_>, PeerFault> {
    match frame.kind {
        FrameKind::Message => Ok(Heard::Event(Event::Message(read_message_as(frame.payload, format_or_bytes)?))),
        FrameKind::Signal => read_signal(frame.payload),
        FrameKind::Presence => read_presence(frame.payload),
        FrameKind::Removed => read_removed(frame.payload),
        FrameKind::Closing => read_closing(frame.payload),
        FrameKind::Error => read_refusal(frame.payload),
        _ => Err(PeerFault::Archive),
    }
}

fn format_or_bytes(number: u8) -> Option<BodyFormat> {
    Some(BodyFormat::from_number(number).unwrap_or(BodyFormat::Bytes))
}

fn read_signal(payload: &[u8]) -> Result<Heard<'_>, PeerFault> {
    let signal = access!(Signal, payload).map_err(|_| PeerFault::Archive)?;
    let format = format_or_bytes(signal.format).ok_or(PeerFault::Archive)?;
    let body = Body { format, bytes: &signal.body };
    Ok(Heard::Event(Event::Signal { room: &signal.room, user: &signal.user, body }))
}

fn read_presence(payload: &[u8]) -> Result<Heard<'_>, PeerFault> {
    let presence = access!(Presence, payload).map_err(|_| PeerFault::Archive)?;
    Ok(Heard::Event(Event::Presence { room: &presence.room, change: None, count: presence.count.into() }))
}

fn read_removed(payload: &[u8]) -> Result<Heard<'_>, PeerFault> {
    let removed = access!(Removed, payload).map_err(|_| PeerFault::Archive)?;
    Ok(Heard::Removed { room: &removed.room })
}

fn read_closing(payload: &[u8]) -> Result<Heard<'_>, PeerFault> {
    let closing = access!(plain Closing, payload).map_err(|_| PeerFault::Archive)?;
    Ok(Heard::Closing { reconnect_after_ms: closing.reconnect_after_ms.into() })
}

fn read_refusal(payload: &[u8]) -> Result<Heard<'_>, PeerFault> {
    let error = access!(Error, payload).map_err(|_| PeerFault::Archive)?;
    let (id, retry_after_ms) = (number(&error.id), number(&error.retry_after_ms));
    Ok(Heard::Refusal { id, message: &error.message, retry_after_ms })
}
