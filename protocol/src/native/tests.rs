//! Native frames: what is written is read back, and what is damaged is refused.

use super::*;
use crate::ids::JSON_INTEGER_MAX;

const IDS: [RequestId; 4] = [None, Some(0), Some(JSON_INTEGER_MAX), Some(u64::MAX)];

fn body(format: BodyFormat, bytes: &[u8]) -> Body<'_> {
    Body { format, bytes }
}

fn features(lines: &str) -> FeatureNames<'_> {
    FeatureNames::read_lines(lines).unwrap()
}

/// Every kind of request, with all of its optional fields and with none.
fn asks() -> Vec<Ask<'static>> {
    let room = || "a room, ü";
    let join = |from, echo, presence| Ask::Join { room: room().into(), from, echo, presence, token: None };
    let json = body(BodyFormat::Json, b" {\"a\": [1.0e5, \"\\u0041\"]}");
    vec![
        Ask::Hello { user: "ann".into(), token: None, features: FeatureNames::NONE },
        Ask::Hello { user: "ann".into(), token: Some("t\0".into()), features: features("edits\nü\nedits\n") },
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
        Ask::Join { room: room().into(), from: JoinFrom::Now, echo: true, presence: true, token: Some("t".into()) },
        Ask::Renew { token: "t".into() },
        Ask::Renew { token: "".into() },
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
        Event::Welcome {
            id,
            session: "s",
            user,
            durability: "memory",
            features: "",
            limits: "a_max 1\n",
            expires_in_ms: None,
        },
        Event::Welcome {
            id,
            session: "s",
            user,
            durability: "memory",
            features: "edits\nroles\n",
            limits: "",
            expires_in_ms: Some(5),
        },
        Event::Nodes { nodes: "10.0.0.1:7001\n[::1]:7001\n" },
        Event::Nodes { nodes: "" },
        Event::Joined { id, room, epoch, sequence, members: 3, durability: "synced" },
        Event::Posted { id, room, epoch, sequence, time_ms: 11, duplicate: false },
        Event::Posted { id, room, epoch, sequence, time_ms: 0, duplicate: true },
        Event::Page { id, room, epoch, messages: page, more: true },
        Event::Page { id, room, epoch, messages: b"", more: false },
        Event::Members { id, room, count: 200, users: "ann\nbob\n" },
        Event::Taken { id, room, reply: Some(b"{}") },
        Event::Taken { id, room, reply: None },
        Event::Left { id, room },
        Event::Renewed { id, expires_in_ms: 5 },
        Event::Expiring { in_ms: u64::MAX },
        Event::Removed { room, code: ErrorCode::Forbidden },
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
        scope: Scope::from_number(index as u8 % 6),
        reason: (index % 3 == 0).then_some("slow_mode"),
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
        assert_eq!(written.contains(kind), kind.is_sent(), "{kind:?}");
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
    let join = Ask::Join { room: "r".into(), from: JoinFrom::Now, echo: true, presence: true, token: None };
    let fetch = Ask::Fetch { room: "r".into(), from: FetchFrom::Before(Sequence(1)), limit: None };
    let post = Ask::Post { room: "r".into(), body: body(BodyFormat::Bytes, b"{"), key: None };
    let signal = Ask::Signal { room: "r".into(), body: body(BodyFormat::Bytes, b"{") };
    for (ask, from_end, value, named) in [
        (join, 35, 3, "`from`"),
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
fn features_above_their_limits_are_refused_with_the_id_and_the_limit() {
    let hello = |features: &str| {
        let hello = archive::Hello { id: Some(5), user: "ann", token: "", features };
        framed(|out| write(FrameKind::Hello, &hello, out))
    };
    let (many, long) = ("edits\n".repeat(64), "l".repeat(64));
    for good in ["", "edits\nroles\n", &many, &long] {
        let ask = Ask::Hello { user: "ann".into(), token: None, features: features(good) };
        assert_eq!(read_request(frame(&hello(good))), Ok(Request { id: Some(5), ask }));
    }
    for (bad, named) in [
        (many + "roles\n", "features_max, 64"),
        (long + "l\n", "feature_bytes_max, 64"),
        ("l".repeat(65), "feature_bytes_max, 64"),
        ("edits\n\n".into(), "empty"),
        ("edits\r\n".into(), "control character"),
        // Read no further than the limit goes.
        ("a\n".repeat(100_000), "features_max, 64"),
    ] {
        let bytes = hello(&bad);
        let fault = read_request(frame(&bytes)).unwrap_err();
        assert_eq!(fault.id, Some(5));
        assert!(fault.message.contains("`features`") && fault.message.contains(named), "{fault}");
    }
}

#[test]
fn an_event_with_an_unknown_number_is_refused() {
    let code = Event::Error {
        id: None,
        code: ErrorCode::BadFrame,
        message: "",
        retry_after_ms: None,
        scope: None,
        reason: None,
    };
    let closing = Event::Closing { code: ErrorCode::Draining, reconnect_after_ms: 1 };
    let removed = Event::Removed { room: "r", code: ErrorCode::Forbidden };
    let presence = Event::Presence { room: "r", change: None, count: 1 };
    let signal = Event::Signal { room: "r", user: "u", body: body(BodyFormat::Bytes, b"") };
    for (event, values) in
        [(code, [0, 200]), (removed, [0, 200]), (closing, [0, 255]), (presence, [3, 255]), (signal, [2, 255])]
    {
        let mut bytes = framed(|out| write_event(&event, out));
        for value in values {
            *bytes.last_mut().unwrap() = value;
            assert_eq!(read_event(frame(&bytes)), Err(PeerFault::Archive), "{event:?}");
        }
    }
}

#[test]
fn a_client_hears_an_event_whose_number_only_a_later_server_knows() {
    let heard_with = |event: Event<'_>, number: u8| {
        let mut bytes = framed(|out| write_event(&event, out));
        *bytes.last_mut().unwrap() = number;
        let heard = read_heard(frame(&bytes)).unwrap();
        format!("{heard:?}")
    };
    let event = |event: Event<'_>| format!("{:?}", Heard::Event(event));

    let code = Event::Error {
        id: Some(4),
        code: ErrorCode::BadFrame,
        message: "m",
        retry_after_ms: None,
        scope: None,
        reason: None,
    };
    assert_eq!(heard_with(code.clone(), 1), event(code.clone()));
    let refusal = Heard::Refusal { id: Some(4), message: "m", retry_after_ms: None };
    assert_eq!(heard_with(code, 200), format!("{refusal:?}"));

    let closing = Event::Closing { code: ErrorCode::Draining, reconnect_after_ms: 9 };
    assert_eq!(heard_with(closing, 255), format!("{:?}", Heard::Closing { reconnect_after_ms: 9 }));

    let removed = Event::Removed { room: "r", code: ErrorCode::Forbidden };
    assert_eq!(heard_with(removed, 200), format!("{:?}", Heard::Removed { room: "r" }));

    let change = Some(("ann", PresenceState::Joined));
    let presence = |change| Event::Presence { room: "r", change, count: 7 };
    assert_eq!(heard_with(presence(change), 3), event(presence(None)));

    let signal = |format| Event::Signal { room: "r", user: "u", body: body(format, b"1") };
    assert_eq!(heard_with(signal(BodyFormat::Json), 2), event(signal(BodyFormat::Bytes)));
    let [message, _] = messages();
    let as_bytes = Message { body: body(BodyFormat::Bytes, message.body.bytes), ..message };
    assert_eq!(heard_with(Event::Message(message), 9), event(Event::Message(as_bytes)));
}

#[test]
fn a_client_hears_nothing_in_a_broken_archive() {
    for kind in FrameKind::ALL {
        assert_eq!(read_heard(Frame { kind: *kind, payload: &[] }), Err(PeerFault::Archive), "{kind:?}");
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

#[test]
fn an_empty_text_points_to_where_it_would_begin_and_nowhere_else() {
    let post = Ask::Post { room: "room".into(), body: body(BodyFormat::Bytes, b"body"), key: None };
    let mut frame = Vec::new();
    write_request(&Request { id: Some(1), ask: post.clone() }, &mut frame);
    // As docs/protocol.md has it: `key` 17 bytes before the end, and the texts one behind another.
    let (field, behind_room) = (frame.len() - 17, HEADER_BYTES + "room".len());
    let written = i32::from_le_bytes(frame[field..field + 4].try_into().expect("four bytes"));
    assert_eq!(written, behind_room as i32 - field as i32);
    for offset in [0, 8, written - 1, written + 5, 1_000, i32::MIN, i32::MAX] {
        frame[field..field + 4].copy_from_slice(&offset.to_le_bytes());
        let (frame, _) = Frame::read(&frame, u32::MAX).expect("a frame");
        // Where `id` lies is not known of what is no archive.
        assert_eq!(read_request(frame).expect_err("no archive").id, None, "{offset}");
    }
}
