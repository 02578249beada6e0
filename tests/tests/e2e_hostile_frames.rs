//! End to end: frames that break the rules. Each peer gets its typed answer, and its neighbour on the same core notices nothing.

use banter_protocol::frame::HEADER_BYTES;
use banter_protocol::websocket::{FrameKind, write_masked_frame};
use banter_tests::neighbours::Neighbours;
use banter_tests::raw_peer::{close_frame, masked_header, native_events, native_frame, text_frame};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::Value;

const HELLO: &str = r#"{"type":"hello","user":"mallory"}"#;

#[test]
fn an_oversized_websocket_frame_is_refused_from_its_header() {
    let mut neighbours = Neighbours::start(&[]);
    for length in [65_537, 1 << 40] {
        let mut peer = neighbours.websocket();
        peer.send(&masked_header(0x81, length));
        assert_eq!(peer.refusal(), ("frame_too_large".to_owned(), 1009), "{length}");
    }
    // Fragments count together: the second one's header is one byte too much.
    let mut peer = neighbours.websocket();
    let mut first = masked_header(0x01, 40_000);
    first.extend(vec![b' '; 40_000]);
    peer.send(&first);
    peer.send(&masked_header(0x00, 25_537));
    assert_eq!(peer.refusal(), ("frame_too_large".to_owned(), 1009));
    drop(peer);
    neighbours.notice_nothing();
}

#[test]
fn an_oversized_native_frame_is_refused_from_its_header() {
    let mut neighbours = Neighbours::start(&[]);
    for length in [65_537u32, u32::MAX] {
        let mut peer = neighbours.native();
        peer.send(&[&length.to_le_bytes()[..], &[3, 1, 0, 0]].concat());
        assert_eq!(peer.native_refusal(), "frame_too_large", "{length}");
    }
    neighbours.notice_nothing();
}

#[test]
fn the_largest_frame_that_is_allowed_is_served() {
    let mut neighbours = Neighbours::start(&["--frame-bytes-max", "1024"]);
    for form in Form::ALL {
        let mut client = WireClient::hello(neighbours.server.address(), form, "ann");
        client.join("large");
        let frame =
            |padding: usize| format!(r#"{{"type":"post","id":7,"room":"large","body":"{}"}}"#, "x".repeat(padding));
        let bytes = |padding: usize| match form {
            Form::Json => frame(padding).len(),
            Form::Native | Form::Rkyv => native_frame(&frame(padding)).len() - HEADER_BYTES,
        };
        // The native form over WebSocket counts its own header as payload of the message.
        let padding = 1_024 - bytes(0) - if form == Form::Rkyv { 8 } else { 0 };
        client.send(&frame(padding));
        assert_eq!(client.answer_to(7)["type"], "posted", "{form:?}");
        client.send(&frame(padding + 1));
        let (events, ended) = client.read_to_end();
        let last = events.last().expect("an error");
        assert_eq!(last["code"], "frame_too_large", "{form:?}: {ended:?}");
    }
    neighbours.notice_nothing();
}

#[test]
fn a_native_header_that_means_nothing_ends_the_connection() {
    let mut neighbours = Neighbours::start(&[]);
    let good = native_frame(r#"{"type":"ping"}"#);
    for (at, value) in [(4, 0), (4, 63), (4, 255), (5, 0), (5, 2), (6, 1), (7, 128)] {
        let mut frame = good.clone();
        frame[at] = value;
        // The header alone is enough.
        let mut peer = neighbours.native();
        peer.send(&frame[..8]);
        assert_eq!(peer.native_refusal(), "bad_frame", "byte {at} is {value}");
        let mut peer = neighbours.websocket_rkyv();
        let mut message = Vec::new();
        write_masked_frame(&mut message, FrameKind::Binary, [1, 2, 3, 4], &frame);
        peer.send(&message);
        let frames = peer.frames_to_end();
        assert_eq!(frames.last().map(|close| &close.payload[..2]), Some(&1002u16.to_be_bytes()[..]));
    }
    neighbours.notice_nothing();
}

#[test]
fn a_native_payload_that_is_no_request_costs_only_an_answer() {
    let mut neighbours = Neighbours::start(&[]);
    let mut peer = neighbours.native();
    peer.send_native(HELLO);
    // Roots cut short, texts that point outside or are no UTF-8, a truth of 2: each whole as a frame.
    let mut shifted = native_frame(r#"{"type":"leave","room":"lobby"}"#);
    let length = shifted.len();
    shifted[length - 8..length - 4].copy_from_slice(&(-4_000i32).to_le_bytes());
    let mut not_utf8 = native_frame(r#"{"type":"leave","room":"lobby"}"#);
    not_utf8[8] = 0xff;
    let mut two = native_frame(r#"{"type":"join","room":"lobby"}"#);
    let length = two.len();
    two[length - 1] = 2;
    let empty = [0, 0, 0, 0, 7, 1, 0, 0].to_vec();
    // An event of the server is a known kind, and no request.
    let event = [1, 0, 0, 0, 78, 1, 0, 0, 0].to_vec();
    // Odd lengths: the frames behind them lie at any address.
    let bad = [shifted, not_utf8, two, empty, event];
    let ping = native_frame(r#"{"type":"ping","id":5}"#);
    for frame in &bad {
        peer.send(&[&frame[..], &ping].concat());
    }
    peer.send(&[&8u32.to_le_bytes()[..], &[0, 1, 0, 0]].concat());
    let events = native_events(&peer.read_to_end());
    let codes: Vec<&Value> =
        events.iter().map(|event| if event["code"].is_null() { &event["type"] } else { &event["code"] }).collect();
    let mut expected = vec!["welcome"];
    expected.extend(bad.iter().flat_map(|_| ["bad_request", "pong"]));
    expected.push("bad_frame");
    assert_eq!(codes, expected);
    neighbours.notice_nothing();
}

#[test]
fn broken_websocket_frames_end_the_connection_with_their_code() {
    let mut neighbours = Neighbours::start(&[]);
    let hello = text_frame(HELLO.as_bytes());
    let mut unmasked = vec![0x81, HELLO.len() as u8];
    unmasked.extend(HELLO.as_bytes());
    let with_first = |first: u8| [&[first][..], &hello[1..]].concat();
    let cases = [
        ("unmasked", unmasked, 1002),
        ("a reserved bit", with_first(0xc1), 1002),
        ("a reserved opcode", with_first(0x83), 1002),
        ("a continuation of nothing", with_first(0x80), 1002),
        ("a ping in parts", with_first(0x09), 1002),
        ("a ping too long", masked_header(0x89, 200), 1002),
        ("a length longer than it need be", [&[0x81, 0xfe, 0, 5][..], &[0; 9]].concat(), 1002),
        ("bad UTF-8", text_frame(b"{\"type\":\"\xff\"}"), 1007),
        ("UTF-8 cut in a character", text_frame(b"\xf0\x9f\x98"), 1007),
    ];
    for (name, bytes, close_code) in cases {
        let mut peer = neighbours.websocket();
        peer.send(&bytes);
        assert_eq!(peer.refusal(), ("bad_frame".to_owned(), close_code), "{name}");
    }
    neighbours.notice_nothing();
}

#[test]
fn a_text_that_is_no_request_costs_only_an_answer() {
    let mut neighbours = Neighbours::start(&[]);
    let mut peer = neighbours.websocket();
    let deep = |levels: usize| {
        format!(r#"{{"type":"post","id":1,"room":"r","body":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))
    };
    let cases = [
        (r#"{"type":"join","id":1,"room":"r"}"#.to_owned(), "bad_request"), // Before hello.
        (HELLO.to_owned(), ""),
        (HELLO.to_owned(), "bad_request"), // Once more.
        ("".to_owned(), "bad_request"),
        ("{".to_owned(), "bad_request"),
        ("[]".to_owned(), "bad_request"),
        (r#"{"type":"shout","id":1}"#.to_owned(), "bad_request"),
        (r#"{"type":"ping","id":-1}"#.to_owned(), "bad_request"),
        (r#"{"type":"ping","id":1.0}"#.to_owned(), "bad_request"),
        (r#"{"type":"ping","extra":1}"#.to_owned(), "bad_request"),
        (r#"{"type":"join","room":"r","room":"s"}"#.to_owned(), "bad_request"),
        (r#"{"type":"fetch","room":"r"}"#.to_owned(), "bad_request"),
        (r#"{"type":"fetch","room":"r","before":1,"after":1}"#.to_owned(), "bad_request"),
        (r#"{"type":"join","id":1,"room":"r"}"#.to_owned(), ""),
        (deep(65), "bad_request"),
        (deep(20_000), "bad_request"),
        ("[".repeat(60_000), "bad_request"),
        (r#"{"type":"post","room":"r","key":"","body":1}"#.to_owned(), "bad_request"),
        (r#"{"type":"post","room":"s","body":1}"#.to_owned(), "not_joined"),
        (r#"{"type":"join","room":"a\nb"}"#.to_owned(), "room_name_invalid"),
        // Last: refusals of posts wait for the answers to the posts before them, and this peer is gone by then.
        (deep(64), ""),
        (r#"{"type":"ping","id":9}"#.to_owned(), ""),
    ];
    for (text, _) in &cases {
        peer.send(&text_frame(text.as_bytes()));
    }
    peer.send(&[&[0x82, 0x80, 0, 0, 0, 0][..], &close_frame()].concat());
    let frames = peer.frames_to_end();
    let events: Vec<Value> = frames
        .iter()
        .filter(|frame| frame.opcode == 1)
        .filter_map(|frame| serde_json::from_slice(&frame.payload).ok())
        .collect();
    let mut codes: Vec<&str> = events.iter().filter_map(|event| event["code"].as_str()).collect();
    let mut expected: Vec<&str> = cases.iter().map(|(_, code)| *code).filter(|code| !code.is_empty()).collect();
    expected.push("bad_request"); // The binary message.
    // Answers of a room may be overtaken by others.
    codes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(codes, expected);
    assert!(events.iter().any(|event| event["type"] == "pong"));
    assert_eq!(frames.last().map(|frame| frame.opcode), Some(8));
    neighbours.notice_nothing();
}
