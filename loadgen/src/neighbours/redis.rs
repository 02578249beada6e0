//! Redis: a room is a channel. A connection says `HELLO 3` first, for only in RESP3 may one that subscribes also publish.
//!
//! ```text
//!  >3␍␊ $7␍␊message␍␊ $6␍␊load-0␍␊ $128␍␊ body ␍␊     a delivery: a push of three
//!  >3␍␊ $9␍␊subscribe␍␊ $6␍␊load-0␍␊ :1␍␊             joined
//!  %7␍␊ …                                             the answer to HELLO: welcome
//!  :100␍␊                                             the answer to PUBLISH: who it went to on this server
//!  -ERR why␍␊
//! ```

use std::io::Write;

use crate::neighbours::{Said, digits, fault, line};
use crate::scan::{FRAME_BYTES_MAX, ScanFault};

const END: &[u8] = b"\r\n";
/// What every delivery begins with.
const MESSAGE: &[u8] = b">3\r\n$7\r\nmessage\r\n";
const SUBSCRIBED: &[u8] = b">3\r\n$9\r\nsubscribe\r\n";

/// Appends the greeting and the subscription.
pub fn join(room: &str, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{room}\r\n", room.len());
}

/// Appends a post.
pub fn post(room: &str, body: &[u8], out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{room}\r\n${}\r\n", room.len(), body.len());
    out.extend_from_slice(body);
    out.extend_from_slice(END);
}

/// See [`Neighbour::cut`](super::Neighbour).
///
/// # Errors
/// When no more bytes could make it a frame.
#[inline]
pub fn cut(bytes: &[u8]) -> Result<Option<(Said<'_>, usize)>, ScanFault> {
    match bytes.strip_prefix(MESSAGE) {
        Some(rest) => cut_message(rest),
        None => cut_other(bytes),
    }
}

/// The channel and the body.
#[inline]
fn cut_message(rest: &[u8]) -> Result<Option<(Said<'_>, usize)>, ScanFault> {
    let Some((_, room_bytes)) = blob(rest)? else { return Ok(None) };
    let Some((body, body_bytes)) = blob(&rest[room_bytes..])? else { return Ok(None) };
    Ok(Some((Said::Message(body), MESSAGE.len() + room_bytes + body_bytes)))
}

/// `$6␍␊load-0␍␊`, and how many bytes that are.
#[inline]
fn blob(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, ScanFault> {
    let Some((head, at)) = line(bytes)? else { return Ok(None) };
    let Some(length) = head.strip_prefix(b"$").and_then(digits) else {
        return fault("the server sent no text where one is due", head);
    };
    Ok(tail(bytes, at, length)?.map(|end| (&bytes[at..at + length], end)))
}

/// Where a text of that length ends, its line end included; `None` when it is not whole.
#[inline]
fn tail(bytes: &[u8], at: usize, length: usize) -> Result<Option<usize>, ScanFault> {
    if length > FRAME_BYTES_MAX {
        return fault("the server sent a text that is too large", &bytes[..at]);
    }
    let end = at + length;
    match bytes.get(end..end + END.len()) {
        Some(END) => Ok(Some(end + END.len())),
        Some(other) => fault("a text does not end where it should", other),
        None => Ok(None),
    }
}

#[cold]
fn cut_other(bytes: &[u8]) -> Result<Option<(Said<'_>, usize)>, ScanFault> {
    let Some(end) = value_end(bytes)? else { return Ok(None) };
    let said = match bytes[0] {
        b'-' => Said::Refused(bytes[1..end].trim_ascii_end()),
        b'%' => Said::Welcome,
        _ if bytes.starts_with(SUBSCRIBED) => Said::Joined,
        _ => Said::Other,
    };
    Ok(Some((said, end)))
}

/// Where the value at the front ends, whatever it is; `None` when it is not whole. What is in it is counted, not entered,
/// so that no nesting is too deep.
fn value_end(bytes: &[u8]) -> Result<Option<usize>, ScanFault> {
    let (mut end, mut due) = (0, 1usize);
    while due > 0 {
        let Some((head, next)) = line(&bytes[end..])? else { return Ok(None) };
        let [kind, count @ ..] = head else { return fault("the server sent an empty line", head) };
        due -= 1;
        end += next;
        match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            b'$' | b'=' | b'!' => match tail(bytes, end, length_of(head, count)?)? {
                Some(after) => end = after,
                None => return Ok(None),
            },
            b'*' | b'~' | b'>' => due += length_of(head, count)?,
            b'%' => due += 2 * length_of(head, count)?,
            // Attributes stand in front of the value that they belong to.
            b'|' => due += 2 * length_of(head, count)? + 1,
            _ => return fault("the server sent what is no value of Redis", head),
        }
        if end > FRAME_BYTES_MAX || due > FRAME_BYTES_MAX {
            return fault("the server sent a value that is too large", head);
        }
    }
    Ok(Some(end))
}

fn length_of(head: &[u8], count: &[u8]) -> Result<usize, ScanFault> {
    match digits(count) {
        Some(count) => Ok(count),
        None => fault("a value without a length", head),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Neighbour;
    use super::super::tests::{says_the_same_in_any_two_parts, takes_any_bytes};
    use super::*;

    const STREAM: &[u8] = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nmodules\r\n*1\r\n%1\r\n+a\r\n:1\r\n\
        >3\r\n$9\r\nsubscribe\r\n$6\r\nload-0\r\n:1\r\n\
        >3\r\n$7\r\nmessage\r\n$6\r\nload-0\r\n$5\r\n\"a\r\nb\r\n:100\r\n\
        >3\r\n$7\r\nmessage\r\n$6\r\nload-0\r\n$0\r\n\r\n_\r\n|1\r\n+key\r\n+value\r\n:1\r\n-ERR no such thing\r\n";

    #[test]
    fn a_stream_says_the_same_in_any_two_parts() {
        let expected = [
            Said::Welcome,
            Said::Joined,
            Said::Message(b"\"a\r\nb"),
            Said::Other,
            Said::Message(b""),
            Said::Other,
            Said::Other,
            Said::Refused(b"ERR no such thing"),
        ];
        says_the_same_in_any_two_parts(Neighbour::Redis, STREAM, &expected);
    }

    #[test]
    fn bytes_that_can_be_no_frame_are_faults() {
        for bad in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"$x\r\n",
            b"$1048577\r\n",
            b"*999999999\r\n",
            b"%\r\n",
            b">3\r\n$7\r\nmessage\r\n:1\r\n",
            b">3\r\n$7\r\nmessage\r\n$6\r\nload-0\r\n$1048577\r\n",
            b">3\r\n$7\r\nmessage\r\n$6\r\nload-0\r\n$2\r\nabcd",
        ] {
            assert!(cut(bad).is_err(), "{}", bad.escape_ascii());
        }
        let nested = b"*1\r\n".repeat(FRAME_BYTES_MAX / 4 + 1);
        assert!(cut(&nested).is_err(), "no end of nesting");
        takes_any_bytes(Neighbour::Redis, STREAM);
    }

    #[test]
    fn what_a_member_says_is_as_the_protocol_has_it() {
        let mut said = Vec::new();
        join("load-0", &mut said);
        post("load-0", b"\"12\"", &mut said);
        let said = String::from_utf8(said).unwrap();
        assert_eq!(
            said,
            "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*2\r\n$9\r\nSUBSCRIBE\r\n$6\r\nload-0\r\n\
             *3\r\n$7\r\nPUBLISH\r\n$6\r\nload-0\r\n$4\r\n\"12\"\r\n"
        );
    }
}
