//! NATS core: a room is a subject, and lines say what comes.
//!
//! ```text
//!  INFO {…}␍␊                     the first line of a server: welcome
//!  MSG room 1 128␍␊ body ␍␊       a delivery
//!  PING␍␊  PONG␍␊  -ERR 'why'␍␊
//! ```
//!
//! The server says nothing to a `SUB`; so a `PING` goes behind it, and its `PONG` says that the room is joined.

use crate::neighbours::{Said, digits, fault, line};
use crate::scan::{FRAME_BYTES_MAX, ScanFault};
use std::io::Write;

/// The answer to a `PING`.
pub const PONG: &[u8] = b"PONG\r\n";
const END: &[u8] = b"\r\n";

/// Appends who a connection is, and its subscription. It gets its own posts back, which is what a server does by itself.
pub fn join(user: &str, room: &str, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(
        out,
        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"echo\":true,\"name\":\"{user}\",\"lang\":\"rust\",\
         \"version\":\"1\"}}\r\nSUB {room} 1\r\nPING\r\n"
    );
}

/// Appends a post.
pub fn post(room: &str, body: &[u8], out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "PUB {room} {}\r\n", body.len());
    out.extend_from_slice(body);
    out.extend_from_slice(END);
}

/// See [`Neighbour::cut`](super::Neighbour).
///
/// # Errors
/// When no more bytes could make it a frame.
#[inline]
pub fn cut(bytes: &[u8]) -> Result<Option<(Said<'_>, usize)>, ScanFault> {
    let Some((head, body_at)) = line(bytes)? else { return Ok(None) };
    let said = match head {
        [b'M', b'S', b'G', b' ', rest @ ..] => return cut_message(bytes, rest, body_at),
        b"PING" => Said::Ping,
        b"PONG" => Said::Joined,
        b"+OK" => Said::Other,
        _ if head.starts_with(b"INFO ") => Said::Welcome,
        _ if head.starts_with(b"-ERR ") => Said::Refused(&head[5..]),
        _ => return fault("the server sent what is no line of NATS", head),
    };
    Ok(Some((said, body_at)))
}

/// `room sid bytes`, or with a subject for answers in between.
#[inline]
fn cut_message<'a>(bytes: &'a [u8], fields: &[u8], body_at: usize) -> Result<Option<(Said<'a>, usize)>, ScanFault> {
    let Some(body_bytes) = fields.rsplit(|byte| *byte == b' ').next().and_then(digits) else {
        return fault("a MSG without a number of bytes", fields);
    };
    if body_bytes > FRAME_BYTES_MAX {
        return fault("the server sent a message that is too large", fields);
    }
    let end = body_at + body_bytes;
    match bytes.get(end..end + END.len()) {
        Some(END) => Ok(Some((Said::Message(&bytes[body_at..end]), end + END.len()))),
        Some(other) => fault("a MSG does not end where it should", other),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Neighbour;
    use super::super::tests::{says_the_same_in_any_two_parts, takes_any_bytes};
    use super::*;

    const STREAM: &[u8] =
        b"INFO {\"server_id\":\"x\",\"max_payload\":1048576}\r\nPING\r\nPONG\r\nMSG load-0 1 5\r\n\"a\r\n\
        b\r\nMSG load-0 1 back 0\r\n\r\n+OK\r\n-ERR 'Authorization Violation'\r\n";

    #[test]
    fn a_stream_says_the_same_in_any_two_parts() {
        let expected = [
            Said::Welcome,
            Said::Ping,
            Said::Joined,
            Said::Message(b"\"a\r\nb"),
            Said::Message(b""),
            Said::Other,
            Said::Refused(b"'Authorization Violation'"),
        ];
        says_the_same_in_any_two_parts(Neighbour::Nats, STREAM, &expected);
    }

    #[test]
    fn bytes_that_can_be_no_frame_are_faults() {
        for bad in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"MSG \r\n",
            b"MSG load-0 1 x\r\n",
            b"MSG load-0 1 -5\r\n",
            b"MSG load-0 1 1048577\r\n",
            b"MSG load-0 1 99999999999\r\n",
            b"MSG load-0 1 2\r\nabcd",
            b"\r\n",
        ] {
            assert!(cut(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert!(cut(&[b'M'; 1 << 16]).is_err(), "a line without an end");
        takes_any_bytes(Neighbour::Nats, STREAM);
    }

    #[test]
    fn what_a_member_says_is_as_the_protocol_has_it() {
        let mut said = Vec::new();
        join("u1", "load-0", &mut said);
        post("load-0", b"\"12\"", &mut said);
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with("CONNECT {\"verbose\":false,"), "{said}");
        assert!(said.ends_with("}\r\nSUB load-0 1\r\nPING\r\nPUB load-0 4\r\n\"12\"\r\n"), "{said}");
    }
}
