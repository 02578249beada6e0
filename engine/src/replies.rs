//! What the engine's servers say, read: pure, and nothing in it is believed before it was looked at.

use async_nats::Message;
use banter_cluster::engine::{Answer, Object, Tail, Ticket};
use bytes::Bytes;

use crate::connection::ApiError;

/// `wrong last sequence: N`: the check against the stream's last message failed.
const WRONG_LAST_SEQUENCE: u64 = 10_071;
/// What says for certain that an append is not stored, since there is no room for it: each of them is judged by a stream's leader
/// before it proposes the message to the others, or by all servers alike (10077 with `maximum bytes exceeded` and its like).
const NO_ROOM: [u64; 6] = [
    10_002, // resource limits exceeded for account
    10_023, // insufficient resources
    10_028, // insufficient memory resources available
    10_047, // insufficient storage resources available
    10_054, // message size exceeds maximum allowed
    10_077, // the store failed: see `STORE_IS_FULL`
];
/// 10077 carries what the store said; any other than these may leave the message stored elsewhere.
const STORE_FAILED: u64 = 10_077;
const STORE_IS_FULL: [&str; 3] = ["maximum bytes exceeded", "maximum messages exceeded", "message too large"];

/// What became of an append to that stream.
pub(crate) fn append(ticket: Ticket, stream: &str, message: &Message) -> Answer {
    match outcome(&message.payload, stream) {
        Outcome::Stored(sequence) => Answer::Appended { ticket, sequence },
        Outcome::WrongLast(last) => Answer::Refused { ticket, last },
        Outcome::Full => Answer::Full { ticket },
        Outcome::Unclear => Answer::Silent { ticket },
    }
}

/// Whether an object was kept in that stream.
pub(crate) fn put(ticket: Ticket, stream: &str, message: &Message) -> Answer {
    let is_done = matches!(outcome(&message.payload, stream), Outcome::Stored(_));
    Answer::Done { ticket, is_done }
}

enum Outcome {
    Stored(u64),
    WrongLast(u64),
    Full,
    Unclear,
}

/// An acknowledgement: of which message, or why of none. Nothing at all is no acknowledgement either (503: nobody leads the stream).
#[derive(serde::Deserialize)]
struct PublishAcknowledgement<'json> {
    error: Option<ApiError>,
    #[serde(default, borrow)]
    stream: &'json str,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

fn outcome(json: &[u8], stream: &str) -> Outcome {
    let Ok(read) = serde_json::from_slice::<PublishAcknowledgement<'_>>(json) else { return Outcome::Unclear };
    let Some(error) = read.error else {
        // Of another stream, or of a message that was stored by another ask: not the ack that was hoped for.
        let is_ours = read.stream == stream && read.seq > 0 && !read.duplicate;
        return if is_ours { Outcome::Stored(read.seq) } else { Outcome::Unclear };
    };
    match error.err_code {
        WRONG_LAST_SEQUENCE => last_of(&error.description).map_or(Outcome::Unclear, Outcome::WrongLast),
        STORE_FAILED if !STORE_IS_FULL.contains(&error.description.as_str()) => Outcome::Unclear,
        code if NO_ROOM.contains(&code) => Outcome::Full,
        _ => Outcome::Unclear,
    }
}

/// The number at the end of `wrong last sequence: N`.
fn last_of(description: &str) -> Option<u64> {
    description.rsplit(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[derive(serde::Deserialize)]
struct StreamState {
    messages: u64,
    bytes: u64,
    last_seq: u64,
    first_seq: u64,
}

#[derive(serde::Deserialize)]
struct StreamInfo {
    state: StreamState,
}

/// A stream's ends.
pub(crate) fn tail(message: &Message) -> Option<Tail> {
    let StreamInfo { state } = serde_json::from_slice(&message.payload).ok()?;
    let (bytes, last) = (state.bytes, state.last_seq);
    let first = if state.messages == 0 { last.checked_add(1)? } else { state.first_seq };
    Some(Tail { first, last, bytes })
}

#[derive(serde::Deserialize)]
struct Success {
    #[serde(default)]
    success: bool,
}

/// Whether that was done which has no more to say.
pub(crate) fn is_done(message: &Message) -> bool {
    serde_json::from_slice::<Success>(&message.payload).is_ok_and(|read| read.success)
}

/// The number that a header holds. A message keeps the headers that it was put with, and the server's stand behind them.
fn number(message: &Message, header: &str) -> Option<u64> {
    message.headers.as_ref()?.get_last(header)?.as_str().parse().ok()
}

fn status(message: &Message) -> Option<u16> {
    message.status.map(|status| status.as_u16())
}

/// The object that a server holds; none: it cannot be read.
pub(crate) fn object(message: Message) -> Option<Option<Object>> {
    match (status(&message), number(&message, "Nats-Sequence")) {
        (Some(404), _) => Some(None),
        (None, Some(version)) => Some(Some(Object { version, bytes: message.payload })),
        _ => None,
    }
}

/// One of the replies to a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A message, and the sequence of the one that was sent before it (0: none was).
    Message { sequence: u64, before: u64, bytes: Bytes },
    /// That was all; the sequence of the last message that was sent.
    End { last: u64 },
    /// There is no such message, nor a later one.
    Nothing,
    /// It cannot be read, or nobody is there to ask.
    Unread,
}

/// Reads one of the replies to a read.
pub(crate) fn part(message: Message) -> Part {
    let before = number(&message, "Nats-Last-Sequence");
    match (status(&message), number(&message, "Nats-Sequence"), before) {
        (None, Some(sequence), Some(before)) => Part::Message { sequence, before, bytes: message.payload },
        (Some(204), _, Some(last)) => Part::End { last },
        (Some(404), _, _) => Part::Nothing,
        _ => Part::Unread,
    }
}

#[cfg(test)]
mod tests {
    use async_nats::{HeaderMap, StatusCode, Subject};

    use super::*;

    const TICKET: Ticket = Ticket(7);

    fn said(payload: &str, status: Option<u16>, headers: &[(&'static str, &str)]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Message {
            subject: Subject::from_static("_INBOX.a.1"),
            reply: None,
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            headers: Some(map),
            status: status.map(|status| StatusCode::from_u16(status).unwrap()),
            description: None,
            length: 0,
        }
    }

    fn appended(payload: &str) -> Answer {
        append(TICKET, "BANTER_c_007", &said(payload, None, &[]))
    }

    fn refused(code: u64, description: &str) -> Answer {
        let error = format!(r#"{{"code":400,"err_code":{code},"description":"{description}"}}"#);
        appended(&format!(r#"{{"error":{error},"stream":"BANTER_c_007","seq":0}}"#))
    }

    #[test]
    fn only_a_plain_acknowledgement_of_this_stream_is_one() {
        let stored = Answer::Appended { ticket: TICKET, sequence: 5 };
        assert_eq!(appended(r#"{"stream":"BANTER_c_007","seq":5}"#), stored);
        assert_eq!(appended(r#"{"stream":"BANTER_c_007","domain":"hub","seq":5}"#), stored);
        for unclear in [
            r#"{"stream":"BANTER_c_008","seq":5}"#,
            r#"{"stream":"BANTER_c_007","seq":5,"duplicate":true}"#,
            r#"{"stream":"BANTER_c_007","seq":0}"#,
            r#"{"stream":"BANTER_c_007","seq":-1}"#,
            r#"{"seq":5}"#,
            "{}",
            "",
            "[1]",
            "\u{0}",
        ] {
            assert_eq!(appended(unclear), Answer::Silent { ticket: TICKET }, "{unclear}");
        }
    }

    #[test]
    fn a_refusal_tells_the_last_sequence_or_nothing() {
        assert_eq!(refused(10_071, "wrong last sequence: 41"), Answer::Refused { ticket: TICKET, last: 41 });
        assert_eq!(refused(10_071, "wrong last sequence: 0"), Answer::Refused { ticket: TICKET, last: 0 });
        for description in
            ["wrong last sequence", "wrong last sequence: ", "", "wrong last sequence: 99999999999999999999999"]
        {
            assert_eq!(refused(10_071, description), Answer::Silent { ticket: TICKET }, "{description}");
        }
    }

    #[test]
    fn full_is_what_says_for_certain_that_nothing_was_stored() {
        for code in [10_002, 10_023, 10_028, 10_047, 10_054] {
            assert_eq!(refused(code, "whatever"), Answer::Full { ticket: TICKET }, "{code}");
        }
        assert_eq!(refused(10_077, "maximum bytes exceeded"), Answer::Full { ticket: TICKET });
        assert_eq!(refused(10_077, "input/output error"), Answer::Silent { ticket: TICKET });
        for code in [0, 10_008, 10_009, 10_076, 10_118, 10_164] {
            assert_eq!(refused(code, "whatever"), Answer::Silent { ticket: TICKET }, "{code}");
        }
    }

    #[test]
    fn the_ends_of_an_empty_stream_lie_behind_each_other() {
        let tail_of = |json: &str| tail(&said(json, None, &[]));
        let fresh = tail_of(r#"{"state":{"messages":0,"bytes":0,"first_seq":0,"last_seq":0}}"#).unwrap();
        assert_eq!((fresh.first, fresh.last), (1, 0));
        let purged = tail_of(r#"{"state":{"messages":0,"bytes":0,"first_seq":10,"last_seq":9}}"#).unwrap();
        assert_eq!((purged.first, purged.last), (10, 9));
        let held = tail_of(r#"{"state":{"messages":3,"bytes":300,"first_seq":7,"last_seq":9}}"#).unwrap();
        assert_eq!(held, Tail { first: 7, last: 9, bytes: 300 });
        assert_eq!(tail_of(r#"{"error":{"code":404,"err_code":10059}}"#), None);
    }

    #[test]
    fn a_reply_to_a_read_is_a_message_or_the_end_or_nothing() {
        let message = said("x", None, &[("Nats-Sequence", "5"), ("Nats-Last-Sequence", "4")]);
        assert_eq!(part(message), Part::Message { sequence: 5, before: 4, bytes: Bytes::from_static(b"x") });
        assert_eq!(part(said("", Some(204), &[("Nats-Last-Sequence", "5")])), Part::End { last: 5 });
        assert_eq!(part(said("", Some(404), &[])), Part::Nothing);
        let mut forged = said("x", None, &[("Nats-Sequence", "9"), ("Nats-Last-Sequence", "4")]);
        forged.headers.as_mut().unwrap().append("Nats-Sequence", "5");
        assert!(matches!(part(forged), Part::Message { sequence: 5, .. }), "what whoever put it wrote is not believed");
        for (status, headers) in
            [(Some(503), vec![]), (Some(408), vec![]), (None, vec![("Nats-Sequence", "x")]), (Some(204), vec![])]
        {
            assert_eq!(part(said("x", status, &headers)), Part::Unread);
        }
    }
}
