//! The WebSocket codec at the machine: frames that are whole, split, wrong or hostile.

use super::*;
use proptest::prelude::*;

const BYTES_MAX: u64 = 1 << 20;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// An incoming, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Incoming<'_>> for Owned {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text(text) => Owned::Text(text.into()),
            Incoming::Binary(bytes) => Owned::Binary(bytes.into()),
            Incoming::Ping(bytes) => Owned::Ping(bytes.into()),
            Incoming::Pong(bytes) => Owned::Pong(bytes.into()),
            Incoming::Close { code, reason } => Owned::Close(code, reason.into()),
        }
    }
}

/// A frame as a peer may write it, right or wrong.
fn raw(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        bytes @ 0..=125 => out.push(masked | bytes as u8),
        bytes @ 126..=0xffff => {
            out.push(masked | 126);
            out.extend_from_slice(&(bytes as u16).to_be_bytes());
        }
        bytes => {
            out.push(masked | 127);
            out.extend_from_slice(&(bytes as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(mask.as_ref().map_or(&[], |mask| &mask[..]));
    let mask = mask.unwrap_or_default();
    out.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
    out
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    raw(first, Some(MASK), payload)
}

/// Feeds one input after another, as a connection does.
fn read_into(reader: &mut WebSocketReader, parts: &[&[u8]], seen: &mut Vec<Owned>) -> Result<(), WebSocketFault> {
    for part in parts {
        let mut bytes = part.to_vec();
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let bytes = rest.len();
            let (used, incoming) = reader.read(rest)?;
            assert!(incoming.is_some() || used == bytes, "nothing, and yet {used} of {bytes}");
            assert!(used > 0 && used <= bytes);
            seen.extend(incoming.map(Owned::from));
            rest = &mut rest[used..];
        }
    }
    Ok(())
}

/// What comes of a stream that comes in these parts, up to the fault if there is one.
fn read_parts(parts: &[&[u8]]) -> (Vec<Owned>, Option<WebSocketFault>) {
    let mut reader = WebSocketReader::new(Role::Server, BYTES_MAX);
    let mut seen = Vec::new();
    let fault = read_into(&mut reader, parts, &mut seen).err();
    reader.release();
    let needed = |kept: &Kept| kept.header_bytes > 0 || kept.frame.is_some() || kept.message_kind.is_some();
    assert!(fault.is_some() || reader.kept.as_deref().is_none_or(needed), "a buffer is kept for nothing");
    (seen, fault)
}

fn read_bytewise(stream: &[u8]) -> (Vec<Owned>, Option<WebSocketFault>) {
    read_parts(&stream.chunks(1).collect::<Vec<_>>())
}

/// A stream with everything in it that is allowed.
fn rich_stream() -> (Vec<u8>, Vec<Owned>) {
    let long = vec![0x5a; 300];
    let stream = [
        masked(0x81, b"hello"),
        masked(0x82, &long),
        masked(0x81, b""),
        masked(0x01, "caf\u{e9} \u{20ac}".as_bytes().split_at(4).0),
        masked(0x89, b"are you there"),
        masked(0x00, b""),
        masked(0x8a, b""),
        masked(0x80, "caf\u{e9} \u{20ac}".as_bytes().split_at(4).1),
        masked(0x02, b""),
        masked(0x80, b""),
        masked(0x8a, &[7; CONTROL_BYTES_MAX]),
        masked(0x88, b"\x03\xe8bye"),
    ];
    let seen = [
        Owned::Text("hello".into()),
        Owned::Binary(long),
        Owned::Text(String::new()),
        Owned::Ping(b"are you there".into()),
        Owned::Pong(Vec::new()),
        Owned::Text("caf\u{e9} \u{20ac}".into()),
        Owned::Binary(Vec::new()),
        Owned::Pong(vec![7; CONTROL_BYTES_MAX]),
        Owned::Close(Some(1000), "bye".into()),
    ];
    (stream.concat(), seen.into())
}

/// xorshift64: the same numbers for the same seed, for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

// What a peer can do wrong.

#[test]
fn every_fault_is_found_in_the_header_however_it_is_cut() {
    use WebSocketFault::*;
    let too_large = MessageTooLarge { bytes: BYTES_MAX + 1, bytes_max: BYTES_MAX };
    let cases: &[(&str, Vec<u8>, WebSocketFault)] = &[
        ("unmasked", raw(0x81, None, b"x"), Unmasked),
        ("first reserved bit", masked(0xc1, b"x"), ReservedBits),
        ("second reserved bit", masked(0xa1, b"x"), ReservedBits),
        ("third reserved bit", masked(0x91, b"x"), ReservedBits),
        ("data opcode 3", masked(0x83, b"x"), ReservedOpcode),
        ("data opcode 7", masked(0x87, b""), ReservedOpcode),
        ("control opcode 11", masked(0x8b, b"x"), ReservedOpcode),
        ("control opcode 15", masked(0x8f, b""), ReservedOpcode),
        ("long ping", masked(0x89, &[0; 126]), ControlTooLong),
        ("long close", masked(0x88, &[0; 126]), ControlTooLong),
        ("long pong", masked(0x8a, &[0; 70_000]), ControlTooLong),
        ("fragmented ping", masked(0x09, b""), ControlFragmented),
        ("fragmented close", masked(0x08, b"\x03\xe8"), ControlFragmented),
        ("final continuation of nothing", masked(0x80, b"x"), UnexpectedContinuation),
        ("continuation of nothing", masked(0x00, b""), UnexpectedContinuation),
        (
            "continuation of what has ended",
            [masked(0x01, b"a"), masked(0x80, b"b"), masked(0x80, b"c")].concat(),
            UnexpectedContinuation,
        ),
        ("text in a text", [masked(0x01, b"a"), masked(0x81, b"b")].concat(), ExpectedContinuation),
        ("text in an empty binary", [masked(0x02, b""), masked(0x01, b"")].concat(), ExpectedContinuation),
        ("length with its top bit set", vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], BadLength),
        ("every length bit set", [vec![0x82, 0xff], vec![0xff; 8], vec![0; 4]].concat(), BadLength),
        ("125 in two bytes", vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0], BadLength),
        ("65535 in eight bytes", vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], BadLength),
        ("too large", vec![0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1, 0, 0, 0, 0], too_large),
        ("not UTF-8", masked(0x81, b"\xff"), NotUtf8),
        ("surrogate", masked(0x81, b"\xed\xa0\x80"), NotUtf8),
        ("cut code point", masked(0x81, b"\xe2\x82"), NotUtf8),
        ("cut code point at the last fragment", [masked(1, b"\xe2"), masked(0x80, b"\x82")].concat(), NotUtf8),
        ("cut code point and an empty end", [masked(1, b"\xe2\x82"), masked(0x80, b"")].concat(), NotUtf8),
        ("not UTF-8 in a reason", masked(0x88, b"\x03\xe8\xff"), NotUtf8),
        ("close of one byte", masked(0x88, b"\x03"), BadCloseLength),
        ("close code 1005", masked(0x88, b"\x03\xed"), BadCloseCode(1005)),
    ];
    for (name, stream, fault) in cases {
        let whole = read_parts(&[stream]);
        assert_eq!(whole.1, Some(*fault), "{name}");
        assert_eq!(read_bytewise(stream), whole, "{name}, byte by byte");
        for cut in 0..stream.len().min(200) {
            assert_eq!(read_parts(&[&stream[..cut], &stream[cut..]]), whole, "{name}, cut at {cut}");
        }
        let framed = [rich_stream().0, stream.clone()].concat();
        let expected = ([rich_stream().1, whole.0].concat(), Some(*fault));
        assert_eq!(read_parts(&[&framed]), expected, "{name}, behind good frames");
    }
}

#[test]
fn a_server_that_masks_is_refused() {
    let mut reader = WebSocketReader::new(Role::Client, BYTES_MAX);
    assert_eq!(reader.read(&mut masked(0x81, b"x")), Err(WebSocketFault::Masked));
    let mut reader = WebSocketReader::new(Role::Client, BYTES_MAX);
    assert_eq!(reader.read(&mut raw(0x81, None, b"x")), Ok((3, Some(Incoming::Text("x")))));
}

#[test]
fn every_fault_has_the_close_code_of_its_class_and_says_something() {
    use WebSocketFault::*;
    let protocol = [
        Unmasked,
        Masked,
        ReservedBits,
        ReservedOpcode,
        ControlTooLong,
        ControlFragmented,
        UnexpectedContinuation,
        ExpectedContinuation,
        BadLength,
        BadCloseCode(1),
        BadCloseLength,
    ];
    assert!(protocol.iter().all(|fault| fault.close_code() == 1002 && !fault.to_string().is_empty()));
    assert_eq!(NotUtf8.close_code(), 1007);
    let fault = MessageTooLarge { bytes: 12, bytes_max: 10 };
    assert_eq!(fault.close_code(), 1009);
    assert!(fault.to_string().contains("12") && fault.to_string().contains("10"));
}

#[test]
fn close_codes_are_those_of_the_wire() {
    for code in 0..=u16::MAX {
        let reserved = [1004, 1005, 1006, 1015].contains(&code);
        let allowed = !reserved && ((1000..=1014).contains(&code) || (3000..5000).contains(&code));
        let (seen, fault) = read_parts(&[&masked(0x88, &code.to_be_bytes())]);
        if allowed {
            assert_eq!((seen, fault), (vec![Owned::Close(Some(code), String::new())], None));
        } else {
            assert_eq!((seen, fault), (vec![], Some(WebSocketFault::BadCloseCode(code))));
        }
    }
    assert_eq!(read_bytewise(&masked(0x88, b"")), (vec![Owned::Close(None, String::new())], None));
}

#[test]
fn a_large_message_is_refused_from_its_header_and_nothing_is_allocated() {
    let too_large = |bytes| Err(WebSocketFault::MessageTooLarge { bytes, bytes_max: 10 });
    let mut reader = WebSocketReader::new(Role::Server, 10);
    let mut fits = masked(0x82, &[1; 10]);
    assert_eq!(reader.read(&mut fits), Ok((16, Some(Incoming::Binary(&[1; 10])))));
    assert_eq!(reader.read(&mut masked(0x82, &[1; 11])[..6]), too_large(11));
    assert!(reader.kept.is_none());

    // Fragments count together, and a control frame between them does not.
    let mut reader = WebSocketReader::new(Role::Server, 10);
    assert_eq!(reader.read(&mut masked(0x02, &[1; 6])), Ok((12, None)));
    assert!(matches!(reader.read(&mut masked(0x89, &[0; 20])), Ok((26, Some(Incoming::Ping(_))))));
    assert_eq!(reader.read(&mut masked(0x80, &[1; 5])[..6]), too_large(11));
    let mut header = [vec![0x80, 0xff, 0x7f], vec![0xff; 7], vec![0; 4]].concat();
    assert_eq!(reader.read(&mut header), too_large((1 << 63) + 5));
}

#[test]
fn an_announced_length_allocates_nothing_by_itself() {
    let mut reader = WebSocketReader::new(Role::Server, u64::MAX);
    let mut header = vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(reader.read(&mut header), Ok((14, None)));
    assert_eq!(reader.kept.as_ref().unwrap().message.capacity(), 0);
    assert_eq!(reader.read(&mut [1; 100]), Ok((100, None)));
    assert!(reader.kept.as_ref().unwrap().message.capacity() <= 200);
}

#[test]
fn text_is_refused_at_the_byte_that_breaks_it() {
    // As in Autobahn 6.4: the fault shows before the frame, or the message, ends.
    let good = "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}".as_bytes();
    let mut reader = WebSocketReader::new(Role::Server, BYTES_MAX);
    let stream = masked(0x81, &[good, b"\xf4\x90\x80\x80", b"edited"].concat());
    let mut seen = Vec::new();
    let broken_at = 6 + good.len() + 1;
    assert_eq!(read_into(&mut reader, &[&stream[..broken_at]], &mut seen), Ok(()));
    let byte = &stream[broken_at..broken_at + 1];
    assert_eq!(read_into(&mut reader, &[byte], &mut seen), Err(WebSocketFault::NotUtf8));
    assert!(seen.is_empty());

    let mut reader = WebSocketReader::new(Role::Server, BYTES_MAX);
    assert_eq!(reader.read(&mut masked(0x01, good)), Ok((6 + good.len(), None)));
    assert_eq!(reader.read(&mut masked(0x00, b"\xf4")), Ok((7, None)));
    assert_eq!(reader.read(&mut masked(0x00, b"\x90")), Err(WebSocketFault::NotUtf8));
}

// How a stream may come.

#[test]
fn every_cut_of_a_stream_reads_the_same() {
    let (stream, seen) = rich_stream();
    let whole = (seen, None);
    assert_eq!(read_parts(&[&stream]), whole);
    assert_eq!(read_bytewise(&stream), whole);
    for first in 0..stream.len() {
        let second = (first + 7).min(stream.len());
        assert_eq!(read_parts(&[&stream[..first], &stream[first..]]), whole, "cut at {first}");
        let parts = [&stream[..first], &stream[first..second], &stream[second..]];
        assert_eq!(read_parts(&parts), whole, "cut at {first} and {second}");
    }
    for bytes in 2..40 {
        assert_eq!(read_parts(&stream.chunks(bytes).collect::<Vec<_>>()), whole, "{bytes} bytes at a time");
    }
}

#[test]
fn a_code_point_may_be_split_between_fragments_and_inputs() {
    let text = "a\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}z";
    let bytes = text.as_bytes();
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let stream = [
                masked(0x01, &bytes[..first]),
                masked(0x89, b"?"),
                masked(0x00, &bytes[first..second]),
                masked(0x80, &bytes[second..]),
            ]
            .concat();
            let whole = (vec![Owned::Ping(b"?".into()), Owned::Text(text.into())], None);
            assert_eq!(read_parts(&[&stream]), whole);
            assert_eq!(read_bytewise(&stream), whole);
        }
    }
}

#[test]
fn a_cut_ping_between_fragments_leaves_the_message_alone() {
    let mut reader = WebSocketReader::new(Role::Server, BYTES_MAX);
    let mut seen = Vec::new();
    let ping = masked(0x89, b"ping");
    let parts = [&masked(0x01, b"one ")[..], &ping[..8], &ping[8..], &masked(0x80, b"two")];
    read_into(&mut reader, &parts, &mut seen).unwrap();
    assert_eq!(seen, [Owned::Ping(b"ping".into()), Owned::Text("one two".into())]);
}

#[test]
fn masks_are_undone_at_every_alignment_and_length() {
    let mut room = [0_u8; 64];
    for start in 0..8 {
        for bytes in 0..40 {
            let plain: Vec<u8> = (0..bytes).map(|index| index as u8 * 3).collect();
            let part = &mut room[start..start + bytes];
            for (index, byte) in part.iter_mut().enumerate() {
                *byte = plain[index] ^ MASK[index % 4];
            }
            unmask(part, MASK);
            assert_eq!(part, plain, "{bytes} bytes from {start}");
        }
    }
}

// What is held.

#[test]
fn a_whole_frame_is_borrowed_from_the_input_and_leaves_nothing() {
    let mut reader = WebSocketReader::new(Role::Server, BYTES_MAX);
    let mut stream = [masked(0x81, b"one"), masked(0x89, b"two"), masked(0x82, b"three")].concat();
    let range = stream.as_ptr_range();
    let mut rest = &mut stream[..];
    for payload in [&b"one"[..], b"two", b"three"] {
        let (used, incoming) = reader.read(rest).unwrap();
        let bytes = match incoming {
            Some(Incoming::Text(text)) => text.as_bytes(),
            Some(Incoming::Ping(bytes) | Incoming::Binary(bytes)) => bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(bytes, payload);
        assert!(range.contains(&bytes.as_ptr()));
        assert!(reader.kept.is_none());
        rest = &mut rest[used..];
    }
    assert!(rest.is_empty());

    // A payload that comes whole behind a header that was cut is borrowed as well.
    let mut stream = masked(0x82, b"payload");
    let (header, payload) = stream.split_at_mut(6);
    assert_eq!(reader.read(&mut header[..1]), Ok((1, None)));
    assert_eq!(reader.read(&mut header[1..]), Ok((5, None)));
    assert_eq!(reader.read(payload), Ok((7, Some(Incoming::Binary(b"payload")))));
    assert!(reader.kept.is_none());
}

#[test]
fn a_buffer_goes_at_the_next_call_or_when_released() {
    let mut stream = masked(0x82, &[9; 5000]);
    let (head, tail) = stream.split_at_mut(1000);
    for released in [false, true] {
        let mut reader = WebSocketReader::new(Role::Server, BYTES_MAX);
        assert!(!reader.is_partial());
        assert_eq!(reader.read(&mut head.to_vec()), Ok((1000, None)));
        assert!(reader.is_partial());
        assert_eq!(reader.read(&mut tail.to_vec()), Ok((tail.len(), Some(Incoming::Binary(&[9; 5000])))));
        assert!(!reader.is_partial() && reader.kept.is_some());
        if released {
            reader.release();
        } else {
            assert_eq!(reader.read(&mut []), Ok((0, None)));
        }
        assert!(reader.kept.is_none());
    }
}

#[test]
fn an_idle_reader_is_small() {
    assert!(size_of::<WebSocketReader>() <= 24);
}

// What goes out.

#[test]
fn what_is_written_is_read_back_by_the_other_side() {
    for bytes in [0, 1, 125, 126, 127, 0xffff, 0x1_0000] {
        let payload = vec![b'x'; bytes];
        let mut out = Vec::new();
        write_frame_header(&mut out, FrameKind::Text, bytes);
        assert_eq!(out.len(), frame_header_len(bytes));
        assert!(out.len() <= 10);
        out.extend_from_slice(&payload);
        assert_eq!(out, raw(0x81, None, &payload));

        let mut out = Vec::new();
        write_masked_frame(&mut out, FrameKind::Binary, MASK, &payload);
        assert_eq!(out, masked(0x82, &payload));
    }
    let kinds = [FrameKind::Text, FrameKind::Binary, FrameKind::Ping, FrameKind::Pong, FrameKind::Close];
    for (kind, first) in kinds.into_iter().zip([0x81, 0x82, 0x89, 0x8a, 0x88]) {
        let mut out = Vec::new();
        write_frame_header(&mut out, kind, 0);
        assert_eq!(out, [first, 0]);
    }
}

#[test]
fn a_long_close_reason_is_cut_between_code_points() {
    for (reason, kept) in [("", ""), ("bye", "bye"), (&"\u{20ac}".repeat(60), &"\u{20ac}".repeat(41))] {
        let mut out = Vec::new();
        write_close(&mut out, 1001, reason);
        let mut reader = WebSocketReader::new(Role::Client, BYTES_MAX);
        let close = Incoming::Close { code: Some(1001), reason: kept };
        let bytes = out.len();
        assert_eq!(reader.read(&mut out), Ok((bytes, Some(close))));
    }
    let mut out = Vec::new();
    write_close(&mut out, 1001, &"a\u{20ac}".repeat(60));
    assert_eq!(out.len(), 2 + CLOSE_CODE_BYTES + 121);
}

// Any bytes.

#[test]
fn random_bytes_never_panic() {
    let seed = 0x5EED_BA17_0000_0001;
    let mut random = Random(seed);
    for round in 0..20_000 {
        let mut stream: Vec<u8> = (0..random.next() % 96).map(|_| random.next() as u8).collect();
        if round % 2 == 0 {
            // Start like a frame, so that more than the first two bytes are looked at.
            let opcode = [0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89][random.next() as usize % 7];
            let payload_bytes = 0x80 | (random.next() % 24) as u8;
            stream.splice(..stream.len().min(2), [opcode, payload_bytes]);
        }
        let whole = read_parts(&[&stream]);
        assert_eq!(read_bytewise(&stream), whole, "seed {seed:#x}, round {round}: {stream:02x?}");
    }
}

/// A frame of a stream that is nearly right.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x01, 0x02, 0x00, 0x80, 0x81, 0x82, 0x89, 0x8a]),
        1 => prop::sample::select(vec![0x88, 0x08, 0x83, 0xc1]),
    ];
    let payload = prop_oneof![
        "\\PC{0,50}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..6),
        Just(vec![b'x'; 200]),
    ];
    (first, any::<[u8; 4]>(), payload).prop_map(|(first, mask, payload)| raw(first, Some(mask), &payload))
}

proptest! {
    #[test]
    fn any_chopping_reads_the_same(
        frames in prop::collection::vec(any_frame(), 0..8),
        sizes in prop::collection::vec(1_usize..60, 1..40),
    ) {
        let stream = frames.concat();
        let mut rest = &stream[..];
        let mut parts = Vec::new();
        for bytes in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, tail) = rest.split_at(rest.len().min(*bytes));
            parts.push(part);
            rest = tail;
        }
        prop_assert_eq!(read_parts(&parts), read_parts(&[&stream]));
    }

    #[test]
    fn text_lives_exactly_as_long_as_it_may_become_utf8(
        prefix in "\\PC{0,3}",
        bytes in prop::collection::vec(prop_oneof![0x80_u8..0xC0, 0xC0_u8..=0xFF, any::<u8>()], 1..5),
    ) {
        let payload = [prefix.as_bytes(), &bytes, b"...."].concat();
        let stream = masked(0x81, &payload);
        let mut reader = WebSocketReader::new(Role::Server, BYTES_MAX);
        let mut seen = Vec::new();
        read_into(&mut reader, &[&stream[..6]], &mut seen).unwrap();
        for end in 1..payload.len() {
            let read = read_into(&mut reader, &[&stream[5 + end..6 + end]], &mut seen);
            let hopeless = std::str::from_utf8(&payload[..end]).is_err_and(|error| error.error_len().is_some());
            prop_assert_eq!(read.is_err(), hopeless, "at byte {} of {:02x?}", end, &payload);
            if hopeless {
                break;
            }
        }
    }
}
