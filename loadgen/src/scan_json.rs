//! Reads JSON events: the two that come by the million at their known places, every other with a JSON reader.
//!
//! A server may write fields in any order; the fast way only takes what begins exactly as expected and leaves the rest
//! to the slow one. So it is a question of speed, never of what is accepted.

use std::rc::Rc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::page::PageBytes;
use crate::scan::{ScanFault, Seen};
use crate::wire::KEY_CHARACTERS;

/// What every message and acknowledgement of one room begins with.
#[derive(Clone, Debug, Default)]
pub struct Openings {
    message: Vec<u8>,
    /// Behind the request's number in an acknowledgement.
    posted: Vec<u8>,
    epoch: u64,
    body_bytes: usize,
    /// Where a connection reads several rooms.
    many: Option<Many>,
}

/// Rooms that one connection reads: a prefix and a number each.
#[derive(Clone, Debug)]
struct Many {
    prefix: String,
    message: Vec<u8>,
    posted: Vec<u8>,
    epochs: Rc<[u64]>,
}

impl Many {
    /// The room behind an opening, the sequence, and what follows it; `None` where it is no room of these in that history.
    #[inline]
    fn place<'a>(&self, text: &'a [u8], opening: &[u8]) -> Option<(u32, u64, &'a [u8])> {
        let (room, rest) = read_number(text.strip_prefix(opening)?)?;
        let (epoch, rest) = read_number(rest.strip_prefix(EPOCH)?)?;
        let (sequence, rest) = read_number(rest.strip_prefix(SEQUENCE)?)?;
        let room = u32::try_from(room).ok()?;
        (self.epochs.get(room as usize) == Some(&epoch)).then_some((room, sequence, rest))
    }
}

const EPOCH: &[u8] = br#"","epoch":"#;
const SEQUENCE: &[u8] = br#","sequence":"#;
const POSTED: &[u8] = br#"{"type":"posted","id":"#;
const BODY: &[u8] = br#""body":"#;
const KEY: &[u8] = br#","key":""#;

impl Openings {
    /// For a room in that history, with bodies of one size.
    pub fn new(room: &str, epoch: u64, body_bytes: usize) -> Self {
        Openings {
            message: format!(r#"{{"type":"message","room":"{room}","epoch":{epoch},"sequence":"#).into_bytes(),
            posted: format!(r#","room":"{room}","epoch":{epoch},"sequence":"#).into_bytes(),
            epoch,
            body_bytes,
            many: None,
        }
    }

    /// For a connection that reads several of the rooms PREFIX0, PREFIX1 …, which are in those histories.
    pub fn of_many(prefix: &str, epochs: Rc<[u64]>, body_bytes: usize) -> Self {
        let many = Many {
            prefix: prefix.to_owned(),
            message: format!(r#"{{"type":"message","room":"{prefix}"#).into_bytes(),
            posted: format!(r#","room":"{prefix}"#).into_bytes(),
            epochs,
        };
        Openings { many: Some(many), body_bytes, ..Openings::default() }
    }

    /// The number of a room of several, if it is in that history; `None` where the connection reads one room only.
    pub fn room_of_many(&self, room: &str, epoch: u64) -> Option<Result<u32, ScanFault>> {
        let many = self.many.as_ref()?;
        let number = room.strip_prefix(&many.prefix).and_then(|number| number.parse::<u32>().ok());
        let known = number.filter(|&number| many.epochs.get(number as usize) == Some(&epoch));
        Some(known.ok_or_else(|| ScanFault(format!("a message of {room} in epoch {epoch}, which was not joined"))))
    }

    /// Whether that may be the room's history: before the room is joined, any.
    #[inline]
    pub fn is_history(&self, epoch: u64) -> bool {
        self.message.is_empty() || epoch == self.epoch
    }
}

/// What a text says.
///
/// # Errors
/// When it is no event, or one of another history of the room.
#[inline]
pub fn read<'a>(text: &'a [u8], openings: &Openings) -> Result<Seen<'a>, ScanFault> {
    match read_message(text, openings).or_else(|| read_posted(text, openings)) {
        Some(seen) => Ok(seen),
        None => read_any(text, openings),
    }
}

#[inline]
fn read_message<'a>(text: &'a [u8], openings: &Openings) -> Option<Seen<'a>> {
    if let Some(many) = &openings.many {
        let (room, sequence, _) = many.place(text, &many.message)?;
        return read_body(text, openings).map(|body| Seen::MessageOf { room, sequence, body });
    }
    if openings.message.is_empty() {
        return None;
    }
    let (sequence, _) = read_number(text.strip_prefix(&*openings.message)?)?;
    read_body(text, openings).map(|body| Seen::Message { sequence, body })
}

/// The body, which is the last but for a key.
#[inline]
fn read_body<'a>(text: &'a [u8], openings: &Openings) -> Option<&'a [u8]> {
    let text = without_key(text);
    let body_and_end = text.len().checked_sub(openings.body_bytes + 1)?;
    let name = text.get(body_and_end.checked_sub(BODY.len())?..body_and_end)?;
    let (body, end) = text[body_and_end..].split_at(openings.body_bytes);
    (name == BODY && matches!(end, b"}" | b",")).then_some(body)
}

/// The text up to the comma behind its body, if a key of this program follows. Within a body of this program no quote stands.
#[inline]
fn without_key(text: &[u8]) -> &[u8] {
    let key_at = text.len().wrapping_sub(KEY.len() + KEY_CHARACTERS + 2);
    let has_key = text.get(key_at..).is_some_and(|end| end.starts_with(KEY) && end.ends_with(b"\"}"));
    if has_key { &text[..=key_at] } else { text }
}

#[inline]
fn read_posted<'a>(text: &'a [u8], openings: &Openings) -> Option<Seen<'a>> {
    if openings.posted.is_empty() && openings.many.is_none() {
        return None;
    }
    let (id, rest) = read_number(text.strip_prefix(POSTED)?)?;
    if let Some(many) = &openings.many {
        return many.place(rest, &many.posted).map(|(_, sequence, _)| Seen::Posted { id, sequence });
    }
    let (sequence, _) = read_number(rest.strip_prefix(&*openings.posted)?)?;
    Some(Seen::Posted { id, sequence })
}

/// A number and what follows it; 18 digits at most, which cannot overflow.
#[inline]
fn read_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (index, byte) in text.iter().enumerate().take(19) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return (index > 0).then_some((number, &text[index..]));
        }
        number = number * 10 + u64::from(digit);
    }
    None
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: std::borrow::Cow<'a, str>,
    id: Option<u64>,
    epoch: Option<u64>,
    sequence: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    code: Option<String>,
    message: Option<String>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    room: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    more: Option<bool>,
}

#[cold]
fn read_any<'a>(text: &'a [u8], openings: &Openings) -> Result<Seen<'a>, ScanFault> {
    let fault = |what: &str| ScanFault(format!("{what}: {}", String::from_utf8_lossy(&text[..text.len().min(200)])));
    let fields: Fields<'a> = serde_json::from_slice(text).map_err(|error| fault(&error.to_string()))?;
    let missing = || fault("a field is missing");
    if fields.epoch.is_some_and(|epoch| !openings.is_history(epoch)) {
        return Err(fault("the room has another history than when it was joined"));
    }
    Ok(match &*fields.kind {
        "message" => {
            let sequence = fields.sequence.ok_or_else(missing)?;
            let body = fields.body.map_or(&[][..], |body| body.get().as_bytes());
            let room = fields.room.as_deref().unwrap_or_default();
            match openings.room_of_many(room, fields.epoch.ok_or_else(missing)?) {
                Some(room) => Seen::MessageOf { room: room?, sequence, body },
                None => Seen::Message { sequence, body },
            }
        }
        "page" => {
            let messages = PageBytes::Json(fields.messages.ok_or_else(missing)?.get().as_bytes());
            Seen::Page { id: fields.id.ok_or_else(missing)?, messages, more: fields.more.ok_or_else(missing)? }
        }
        "left" => Seen::Left { id: fields.id.ok_or_else(missing)? },
        "posted" => Seen::Posted { id: fields.id.ok_or_else(missing)?, sequence: fields.sequence.ok_or_else(missing)? },
        "pong" => Seen::Pong { id: fields.id.ok_or_else(missing)? },
        "welcome" => Seen::Welcome,
        "joined" => {
            Seen::Joined { epoch: fields.epoch.ok_or_else(missing)?, sequence: fields.sequence.ok_or_else(missing)? }
        }
        "gap" => Seen::Gap { from: fields.from.ok_or_else(missing)?, to: fields.to.ok_or_else(missing)? },
        "error" | "closing" => Seen::Refused {
            code: fields.code.ok_or_else(missing)?,
            message: fields.message.unwrap_or_else(|| "the server is closing".into()),
        },
        "taken" => Seen::Refused { code: "taken".into(), message: "a program of the room kept the post".into() },
        "keep_alive" => Seen::Ping(&[]),
        _ => Seen::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY_TEXT: &str = r#""0123456789""#;

    fn openings() -> Openings {
        Openings::new("load-3", 77, BODY_TEXT.len())
    }

    #[test]
    fn of_several_rooms_the_number_and_its_own_history_are_read_either_way() {
        let openings = Openings::of_many("load-", [77, 78].into(), BODY_TEXT.len());
        let message = |room: &str, epoch: u64| {
            format!(r#"{{"type":"message","room":"{room}","epoch":{epoch},"sequence":42,"body":{BODY_TEXT}}}"#)
        };
        let text = message("load-1", 78);
        let fast = read_message(text.as_bytes(), &openings).unwrap();
        assert_eq!(fast, Seen::MessageOf { room: 1, sequence: 42, body: BODY_TEXT.as_bytes() });
        assert_eq!(fast, read_any(text.as_bytes(), &openings).unwrap());
        for text in [message("load-1", 77), message("load-2", 77), message("else-1", 78)] {
            assert!(read(text.as_bytes(), &openings).is_err(), "{text}");
        }
        let posted = r#"{"type":"posted","id":9,"room":"load-0","epoch":77,"sequence":42,"time_ms":1}"#;
        let fast = read_posted(posted.as_bytes(), &openings);
        assert_eq!(fast, Some(Seen::Posted { id: 9, sequence: 42 }));
        assert_eq!(fast, read_any(posted.as_bytes(), &openings).ok());
    }

    #[test]
    fn the_fast_way_and_the_slow_way_agree() {
        let texts = [
            format!(
                r#"{{"type":"message","room":"load-3","epoch":77,"sequence":42,"time_ms":1,"user":"u","body":{BODY_TEXT}}}"#
            ),
            format!(
                r#"{{"type":"message","room":"load-3","epoch":77,"sequence":42,"time_ms":1,"user":"u","body":{BODY_TEXT},"key":"0123456789abcdef"}}"#
            ),
            r#"{"type":"posted","id":9,"room":"load-3","epoch":77,"sequence":42,"time_ms":1,"duplicate":false}"#.into(),
        ];
        for text in &texts {
            let openings = openings();
            let fast = read_message(text.as_bytes(), &openings).or_else(|| read_posted(text.as_bytes(), &openings));
            assert_eq!(fast.unwrap(), read_any(text.as_bytes(), &openings).unwrap());
        }
    }

    #[test]
    fn another_order_of_fields_or_a_key_of_others_is_left_to_the_slow_way() {
        for text in [
            format!(r#"{{"type":"message","sequence":42,"epoch":77,"room":"load-3","user":"u","body":{BODY_TEXT}}}"#),
            format!(
                r#"{{"type":"message","room":"load-3","epoch":77,"sequence":42,"time_ms":1,"user":"u","body":{BODY_TEXT},"key":"k"}}"#
            ),
        ] {
            assert_eq!(read_message(text.as_bytes(), &openings()), None);
            let expected = Seen::Message { sequence: 42, body: BODY_TEXT.as_bytes() };
            assert_eq!(read(text.as_bytes(), &openings()), Ok(expected));
        }
    }

    #[test]
    fn another_history_is_a_fault() {
        let text = format!(r#"{{"type":"message","room":"load-3","epoch":78,"sequence":42,"body":{BODY_TEXT}}}"#);
        assert!(read(text.as_bytes(), &openings()).is_err());
    }

    #[test]
    fn a_cut_text_is_a_fault_and_no_panic() {
        let text =
            format!(r#"{{"type":"message","room":"load-3","epoch":77,"sequence":42,"time_ms":1,"body":{BODY_TEXT}}}"#);
        for end in 0..text.len() {
            assert!(read(&text.as_bytes()[..end], &openings()).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn numbers_end_where_their_digits_end() {
        assert_eq!(read_number(b"42,"), Some((42, &b","[..])));
        assert_eq!(read_number(b",42"), None);
        assert_eq!(read_number(b"42"), None, "a number at the end may go on");
        assert_eq!(read_number(b"99999999999999999999,"), None);
    }
}
