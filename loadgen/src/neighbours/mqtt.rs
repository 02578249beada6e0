//! MQTT 3.1.1 with QoS 0: a room is a topic, and a packet has no number.
//!
//! ```text
//!  type and flags │ length of the rest, 7 bits a byte, 1 to 4 bytes │ the rest
//!  0x20 CONNACK   │ 2  │ session, code                  0 is welcome
//!  0x90 SUBACK    │ 3  │ packet id, granted             below 0x80 is joined
//!  0x30 PUBLISH   │ …  │ length of the topic, topic, body
//! ```

use crate::neighbours::{Said, fault};
use crate::scan::{FRAME_BYTES_MAX, ScanFault};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGRESP: u8 = 0xD0;
/// In the flags of a PUBLISH: it was kept from before, which a run does not ask for.
const RETAINED: u8 = 0x01;
/// A subscription that was granted says its QoS; a greater number says that it was refused.
const QOS_MAX: u8 = 2;
/// MQTT, level 4 (3.1.1), a clean session, no keep-alive: a member that only reads need not say anything.
const CONNECT_HEAD: [u8; 10] = [0, 4, b'M', b'Q', b'T', b'T', 4, 0x02, 0, 0];
/// A client's packet id may be any but 0.
const PACKET_ID: [u8; 2] = [0, 1];

/// Appends who a connection is, and its subscription.
pub fn join(user: &str, room: &str, out: &mut Vec<u8>) {
    header(CONNECT, CONNECT_HEAD.len() + 2 + user.len(), out);
    out.extend_from_slice(&CONNECT_HEAD);
    text(user, out);
    header(SUBSCRIBE, PACKET_ID.len() + 2 + room.len() + 1, out);
    out.extend_from_slice(&PACKET_ID);
    text(room, out);
    out.push(0);
}

/// Appends a post.
pub fn post(room: &str, body: &[u8], out: &mut Vec<u8>) {
    header(PUBLISH, 2 + room.len() + body.len(), out);
    text(room, out);
    out.extend_from_slice(body);
}

fn header(kind: u8, mut length: usize, out: &mut Vec<u8>) {
    out.push(kind);
    while length > 0x7F {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// Names of rooms and users are far below 64 KiB, as the command line takes them.
fn text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// See [`Neighbour::cut`](super::Neighbour).
///
/// # Errors
/// When no more bytes could make it a frame.
#[inline]
pub fn cut(bytes: &[u8]) -> Result<Option<(Said<'_>, usize)>, ScanFault> {
    let Some((length, at)) = length(bytes)? else { return Ok(None) };
    let Some(rest) = bytes.get(at..at + length) else { return Ok(None) };
    Ok(Some((read(bytes[0], rest)?, at + length)))
}

/// Bytes behind the header, and where they begin.
#[inline]
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, ScanFault> {
    let mut length = 0;
    for index in 0..4 {
        let Some(byte) = bytes.get(1 + index) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * index);
        if length > FRAME_BYTES_MAX {
            return fault("the server sent a packet that is too large", &bytes[..=1 + index]);
        }
        if byte & 0x80 == 0 {
            return Ok(Some((length, 2 + index)));
        }
    }
    fault("a length of more than four bytes", &bytes[..5])
}

#[inline]
fn read(kind: u8, rest: &[u8]) -> Result<Said<'_>, ScanFault> {
    Ok(match (kind, rest) {
        (PUBLISH, [high, low, rest @ ..]) => match rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(body) => Said::Message(body),
            None => return fault("a PUBLISH that is shorter than its topic", rest),
        },
        (CONNACK, [_, 0]) => Said::Welcome,
        (CONNACK, &[_, code]) => Said::RefusedWith { what: "CONNECT", code },
        (SUBACK, [_, _, ..=QOS_MAX]) => Said::Joined,
        (SUBACK, &[_, _, code]) => Said::RefusedWith { what: "SUBSCRIBE", code },
        (PINGRESP, []) => Said::Other,
        _ if kind == PUBLISH | RETAINED => return fault("the server sent a message that was retained", rest),
        _ => return fault(&format!("the server sent a packet that is not expected, {kind:#04x}"), rest),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Neighbour;
    use super::super::tests::{says_the_same_in_any_two_parts, takes_any_bytes};
    use super::*;

    fn stream() -> Vec<u8> {
        let mut stream = vec![CONNACK, 2, 0, 0, SUBACK, 3, 0, 1, 0];
        post("load-0", b"\"12\"", &mut stream);
        post("load-0", &[b'x'; 200], &mut stream);
        post("load-0", b"", &mut stream);
        stream.extend_from_slice(&[PINGRESP, 0, CONNACK, 2, 0, 5, SUBACK, 3, 0, 1, 0x80]);
        stream
    }

    #[test]
    fn a_stream_says_the_same_in_any_two_parts() {
        let expected = [
            Said::Welcome,
            Said::Joined,
            Said::Message(b"\"12\""),
            Said::Message(&[b'x'; 200]),
            Said::Message(b""),
            Said::Other,
            Said::RefusedWith { what: "CONNECT", code: 5 },
            Said::RefusedWith { what: "SUBSCRIBE", code: 0x80 },
        ];
        says_the_same_in_any_two_parts(Neighbour::Mqtt, &stream(), &expected);
    }

    #[test]
    fn every_length_of_a_header_is_read() {
        for length in [0, 1, 127, 128, 16_383, 16_384, FRAME_BYTES_MAX - 3] {
            let mut bytes = Vec::new();
            post("r", &vec![b'x'; length], &mut bytes);
            assert_eq!(cut(&bytes[..bytes.len() - 1]), Ok(None), "{length}");
            let Ok(Some((Said::Message(body), used))) = cut(&bytes) else { panic!("{length}") };
            assert_eq!((body.len(), used), (length, bytes.len()));
        }
    }

    #[test]
    fn bytes_that_can_be_no_packet_are_faults() {
        for bad in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n and a page that says more of why, so that the packet were whole"[..],
            &[PUBLISH, 0x80, 0x80, 0x80, 0x80, 0],
            &[PUBLISH, 0xFF, 0xFF, 0xFF, 0x7F],
            &[PUBLISH, 0x81, 0x80, 0x40],
            &[PUBLISH, 1, 0],
            &[PUBLISH, 3, 0, 9, b'x'],
            &[PUBLISH | RETAINED, 3, 0, 1, b'x'],
            &[PUBLISH | 0x02, 3, 0, 1, b'x'],
            &[CONNACK, 0],
            &[SUBACK, 4, 0, 1, 0, 0],
            &[PINGRESP, 1, 0],
            &[0x00, 0],
        ] {
            assert!(cut(bad).is_err(), "{}", bad.escape_ascii());
        }
        takes_any_bytes(Neighbour::Mqtt, &stream());
    }

    #[test]
    fn what_a_member_says_is_as_the_standard_has_it() {
        let mut said = Vec::new();
        join("u1", "load-0", &mut said);
        post("load-0", b"\"12\"", &mut said);
        let expected: [&[u8]; 3] = [
            b"\x10\x0E\x00\x04MQTT\x04\x02\x00\x00\x00\x02u1",
            b"\x82\x0B\x00\x01\x00\x06load-0\x00",
            b"\x30\x0C\x00\x06load-0\"12\"",
        ];
        assert_eq!(said, expected.concat());
    }
}
