//! The native frames as they must stay: byte for byte, and as docs/protocol.md lays them out.

use std::collections::BTreeMap;
use std::path::Path;

use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::event::{Event, Message, PresenceState};
use banter_protocol::features::FeatureNames;
use banter_protocol::frame::{Frame, FrameKind, HEADER_BYTES, PREAMBLE};
use banter_protocol::ids::{Cursor, Epoch, Sequence};
use banter_protocol::request::{Ask, Body, BodyFormat, FetchFrom, JoinFrom, Request};
use banter_protocol::{json, native};
use banter_tests::golden;

const EPOCH: Epoch = Epoch(0x0011_2233_4455_6677);
const SEQUENCE: Sequence = Sequence(0x0102_0304);
const TIME_MS: u64 = 1_790_000_000_000;
const ROOM: &str = "lobby";
const USER: &str = "ann";

/// One request or event with fixed values.
struct Sample {
    name: &'static str,
    says: Says,
    /// What stands in the archive, field by field: written down here by hand, so that it is a second opinion.
    fields: &'static str,
}

enum Says {
    /// With the same as JSON, which a client writes.
    Request(Request<'static>, &'static str),
    Event(Event<'static>),
}

impl Sample {
    fn frame(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match &self.says {
            Says::Request(request, _) => native::write_request(request, &mut bytes),
            Says::Event(event) => native::write_event(event, &mut bytes),
        }
        bytes
    }

    fn json(&self) -> String {
        let mut text = Vec::new();
        match &self.says {
            Says::Request(_, json) => text.extend_from_slice(json.as_bytes()),
            Says::Event(event) => json::write_event(event, &mut text),
        }
        String::from_utf8(text).expect("JSON is UTF-8")
    }
}

fn request(id: u64, ask: Ask<'static>, json: &'static str) -> Says {
    Says::Request(Request { id: Some(id), ask }, json)
}

const JSON_BODY: Body<'static> = Body { format: BodyFormat::Json, bytes: b"{\"text\": \"hi\"}" };
const BYTES_BODY: Body<'static> = Body { format: BodyFormat::Bytes, bytes: b"\x00\xff" };

fn message(key: Option<&'static str>, body: Body<'static>) -> Message<'static> {
    Message { epoch: EPOCH, sequence: SEQUENCE, time_ms: TIME_MS, room: ROOM, user: USER, key, body }
}

fn page() -> &'static [u8] {
    let mut page = Vec::new();
    native::write_message(&message(Some("k-1"), JSON_BODY), &mut page);
    native::write_message(&Message { sequence: SEQUENCE.next(), ..message(None, BYTES_BODY) }, &mut page);
    page.leak()
}

fn features() -> FeatureNames<'static> {
    FeatureNames::read_lines("feature-a\nfeature-b\n").expect("names")
}

fn request_samples() -> Vec<Sample> {
    let room = || ROOM.into();
    let after = Cursor { epoch: EPOCH, sequence: SEQUENCE };
    let join = |from, echo, presence| Ask::Join { room: room(), from, echo, presence, token: None };
    let sample = |name, says, fields| Sample { name, says, fields };
    vec![
        sample(
            "hello",
            request(
                1,
                Ask::Hello { user: USER.into(), token: Some("t0ken".into()), features: features() },
                r#"{"type":"hello","id":1,"user":"ann","token":"t0ken","features":["feature-a","feature-b"]}"#,
            ),
            "id=1 user=ann token=t0ken features=feature-a\nfeature-b\n",
        ),
        sample(
            "hello-base",
            request(
                1,
                Ask::Hello { user: USER.into(), token: None, features: FeatureNames::NONE },
                r#"{"type":"hello","id":1,"user":"ann"}"#,
            ),
            "id=1 user=ann token= features=",
        ),
        sample(
            "join-now",
            request(2, join(JoinFrom::Now, true, false), r#"{"type":"join","id":2,"room":"lobby"}"#),
            "id=2 room=lobby from=0 count=0 epoch=0 sequence=0 echo=1 presence=0 token=",
        ),
        sample(
            "join-last",
            request(
                2,
                join(JoinFrom::Last(50), false, false),
                r#"{"type":"join","id":2,"room":"lobby","last":50,"echo":false}"#,
            ),
            "id=2 room=lobby from=1 count=50 epoch=0 sequence=0 echo=0 presence=0 token=",
        ),
        sample(
            "join-after",
            request(
                2,
                join(JoinFrom::After(after), false, true),
                r#"{"type":"join","id":2,"room":"lobby","after":{"epoch":4822678189205111,"sequence":16909060},"echo":false,"presence":true}"#,
            ),
            "id=2 room=lobby from=2 count=0 epoch=4822678189205111 sequence=16909060 echo=0 presence=1 token=",
        ),
        sample(
            "join-token",
            request(
                2,
                Ask::Join {
                    room: room(),
                    from: JoinFrom::Now,
                    echo: true,
                    presence: false,
                    token: Some("t0ken".into()),
                },
                r#"{"type":"join","id":2,"room":"lobby","token":"t0ken"}"#,
            ),
            "id=2 room=lobby from=0 count=0 epoch=0 sequence=0 echo=1 presence=0 token=t0ken",
        ),
        sample(
            "post",
            request(
                3,
                Ask::Post { room: room(), body: JSON_BODY, key: Some("k-1".into()) },
                r#"{"type":"post","id":3,"room":"lobby","body":{"text": "hi"},"key":"k-1"}"#,
            ),
            r#"id=3 room=lobby key=k-1 format=1 body={"text": "hi"}"#,
        ),
        sample(
            "fetch-before",
            request(
                4,
                Ask::Fetch { room: room(), from: FetchFrom::Before(SEQUENCE), limit: Some(100) },
                r#"{"type":"fetch","id":4,"room":"lobby","before":16909060,"limit":100}"#,
            ),
            "id=4 room=lobby from=0 sequence=16909060 limit=100",
        ),
        sample(
            "fetch-after",
            request(
                4,
                Ask::Fetch { room: room(), from: FetchFrom::After(Sequence(0)), limit: None },
                r#"{"type":"fetch","id":4,"room":"lobby","after":0}"#,
            ),
            "id=4 room=lobby from=1 sequence=0 limit=none",
        ),
        sample(
            "tell-signal",
            Says::Request(
                Request { id: None, ask: Ask::Signal { room: room(), body: JSON_BODY } },
                r#"{"type":"signal","room":"lobby","body":{"text": "hi"}}"#,
            ),
            r#"id=none room=lobby format=1 body={"text": "hi"}"#,
        ),
        sample(
            "ask-members",
            request(5, Ask::Members { room: room() }, r#"{"type":"members","id":5,"room":"lobby"}"#),
            "id=5 room=lobby",
        ),
        sample(
            "leave",
            request(6, Ask::Leave { room: room() }, r#"{"type":"leave","id":6,"room":"lobby"}"#),
            "id=6 room=lobby",
        ),
        sample(
            "renew",
            request(9, Ask::Renew { token: "t0ken".into() }, r#"{"type":"renew","id":9,"token":"t0ken"}"#),
            "id=9 token=t0ken",
        ),
        sample("ping", request(7, Ask::Ping, r#"{"type":"ping","id":7}"#), "id=7"),
    ]
}

fn event_samples() -> Vec<Sample> {
    let (room, epoch, sequence) = (ROOM, EPOCH, SEQUENCE);
    let sample = |name, event, fields| Sample { name, says: Says::Event(event), fields };
    let limits = "frame_bytes_max 65536\nconnections_max 0\n";
    let welcome = |features, expires_in_ms| {
        let (id, session, user, durability) = (Some(1), "5e55", USER, "memory");
        Event::Welcome { id, session, user, durability, features, limits, expires_in_ms }
    };
    let presence = |change, count| Event::Presence { room, change, count };
    vec![
        sample(
            "welcome",
            welcome("feature-b\n", Some(900_000)),
            "id=1 session=5e55 user=ann durability=memory features=feature-b\n limits=frame_bytes_max 65536\nconnections_max 0\n expires_in_ms=900000",
        ),
        sample(
            "welcome-base",
            welcome("", None),
            "id=1 session=5e55 user=ann durability=memory features= limits=frame_bytes_max 65536\nconnections_max 0\n expires_in_ms=none",
        ),
        sample(
            "nodes",
            Event::Nodes { nodes: "10.0.0.2:7001\n10.0.0.3:7001\n" },
            "nodes=10.0.0.2:7001\n10.0.0.3:7001\n",
        ),
        sample(
            "joined",
            Event::Joined { id: Some(2), room, epoch, sequence, members: 3, durability: "memory" },
            "id=2 room=lobby durability=memory epoch=4822678189205111 sequence=16909060 members=3",
        ),
        sample(
            "posted",
            Event::Posted { id: Some(3), room, epoch, sequence, time_ms: TIME_MS, duplicate: true },
            "id=3 room=lobby epoch=4822678189205111 sequence=16909060 time_ms=1790000000000 duplicate=1",
        ),
        sample(
            "page",
            Event::Page { id: Some(4), room, epoch, messages: page(), more: true },
            "id=4 room=lobby epoch=4822678189205111 more=1 messages=…",
        ),
        sample(
            "members",
            Event::Members { id: Some(5), room, count: 3, users: "ann\nbob\nzoë\n" },
            "id=5 room=lobby count=3 users=ann\nbob\nzoë\n",
        ),
        sample(
            "taken",
            Event::Taken { id: Some(6), room, reply: Some(br#"{"dice":4}"#) },
            r#"id=6 room=lobby reply={"dice":4}"#,
        ),
        sample("left", Event::Left { id: Some(6), room }, "id=6 room=lobby"),
        sample("renewed", Event::Renewed { id: Some(9), expires_in_ms: 900_000 }, "id=9 expires_in_ms=900000"),
        sample("expiring", Event::Expiring { in_ms: 60_000 }, "in_ms=60000"),
        sample("removed", Event::Removed { room, code: ErrorCode::Forbidden }, "room=lobby code=7"),
        sample("pong", Event::Pong { id: Some(7) }, "id=7"),
        sample(
            "message",
            Event::Message(message(Some("k-1"), JSON_BODY)),
            r#"epoch=4822678189205111 sequence=16909060 time_ms=1790000000000 room=lobby user=ann key=k-1 body={"text": "hi"} format=1"#,
        ),
        sample(
            "message-bytes",
            Event::Message(message(None, BYTES_BODY)),
            "epoch=4822678189205111 sequence=16909060 time_ms=1790000000000 room=lobby user=ann key= body=\0\u{fffd} format=0",
        ),
        sample(
            "signal",
            Event::Signal { room, user: USER, body: JSON_BODY },
            r#"room=lobby user=ann body={"text": "hi"} format=1"#,
        ),
        sample(
            "presence-joined",
            presence(Some((USER, PresenceState::Joined)), 2),
            "room=lobby user=ann count=2 state=1",
        ),
        sample("presence-left", presence(Some((USER, PresenceState::Left)), 1), "room=lobby user=ann count=1 state=2"),
        sample("presence-counts-only", presence(None, 5_000), "room=lobby user= count=5000 state=0"),
        sample(
            "gap",
            Event::Gap { room, epoch, from: Sequence(5), to: Sequence(8) },
            "room=lobby epoch=4822678189205111 from=5 to=8",
        ),
        sample(
            "closing",
            Event::Closing { code: ErrorCode::Draining, reconnect_after_ms: 1_500 },
            "reconnect_after_ms=1500 code=15",
        ),
        sample(
            "error",
            Event::Error {
                id: Some(8),
                code: ErrorCode::RateLimited,
                message: "above posts_per_second_max",
                retry_after_ms: Some(250),
                scope: Some(Scope::Connection),
                reason: None,
            },
            "reason= id=8 message=above posts_per_second_max retry_after_ms=250 scope=2 code=8",
        ),
        sample(
            "error-of-the-stream",
            Event::Error {
                id: None,
                code: ErrorCode::BadFrame,
                message: "frame kind 0 is unknown",
                retry_after_ms: None,
                scope: None,
                reason: None,
            },
            "reason= id=none message=frame kind 0 is unknown retry_after_ms=none scope=0 code=1",
        ),
        sample(
            "error-of-a-program",
            Event::Error {
                id: Some(8),
                code: ErrorCode::ProgramRefused,
                message: "",
                retry_after_ms: Some(3_200),
                scope: None,
                reason: Some("slow_mode"),
            },
            "reason=slow_mode id=8 message= retry_after_ms=3200 scope=0 code=22",
        ),
        sample("keep-alive", Event::KeepAlive, "reserved=0"),
    ]
}

fn samples() -> Vec<Sample> {
    let mut samples = request_samples();
    samples.extend(event_samples());
    samples
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    let (frame, used) = Frame::read(bytes, u32::MAX).expect("a whole frame");
    assert_eq!(used, bytes.len());
    frame
}

#[test]
fn every_native_frame_is_byte_for_byte_what_it_was() {
    let writes = std::env::var("BANTER_GOLDEN").is_ok_and(|mode| mode == "write");
    for sample in samples() {
        let text = golden::text(&sample.json(), &sample.frame());
        let path = golden::path(sample.name);
        if writes {
            std::fs::write(&path, text).expect("a golden file can be written");
        } else {
            let kept = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(kept, text, "{}: see tests/golden/README.md", path.display());
        }
    }
}

#[test]
fn every_golden_frame_reads_back() {
    let samples = samples();
    let files = golden::all();
    let mut names: Vec<&str> = samples.iter().map(|sample| sample.name).collect();
    names.sort_unstable();
    assert_eq!(files.iter().map(|file| &*file.name).collect::<Vec<_>>(), names);
    for file in &files {
        let sample = samples.iter().find(|sample| sample.name == file.name).expect("its sample");
        match &sample.says {
            Says::Request(request, _) => {
                assert_eq!(native::read_request(frame(&file.bytes)).as_ref(), Ok(request));
                assert_eq!(json::read_request(&file.json).as_ref(), Ok(request));
            }
            Says::Event(event) => assert_eq!(native::read_event(frame(&file.bytes)).as_ref(), Ok(event)),
        }
    }
}

/// The kinds of frames that are on the wire; the others are in the log only.
fn sent_kinds() -> impl Iterator<Item = &'static FrameKind> {
    FrameKind::ALL.iter().filter(|kind| kind.is_sent())
}

#[test]
fn every_kind_of_frame_has_a_golden_file() {
    let kinds: Vec<FrameKind> = golden::all().iter().map(|file| frame(&file.bytes).kind).collect();
    for kind in sent_kinds() {
        assert!(kinds.contains(kind), "{kind:?}");
    }
}

// From here on: docs/protocol.md against the bytes.

fn documentation() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of the table rows between a heading and the next one, without the head of the table.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = documentation();
    let section = text.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}")).1;
    section
        .lines()
        .take_while(|line| !line.starts_with('#'))
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect()
}

/// One field of an archive as the table states it.
struct Field {
    name: String,
    kind: String,
    from_end: usize,
}

/// A line of the table of archives: kind's number, its name, bytes of the root, fields.
struct Layout {
    number: u8,
    name: String,
    root_bytes: usize,
    fields: Vec<Field>,
}

fn layouts() -> Vec<Layout> {
    rows("### Archives")
        .into_iter()
        .map(|row| {
            let fields = row[3].split(" · ").map(|field| {
                let words: Vec<&str> = field.split(' ').collect();
                let from_end = words[2].trim_start_matches('@').parse().expect("an offset");
                Field { name: words[0].into(), kind: words[1].into(), from_end }
            });
            Layout {
                number: row[0].parse().expect("a number"),
                name: row[1].clone(),
                root_bytes: row[2].parse().expect("a size"),
                fields: fields.collect(),
            }
        })
        .collect()
}

fn bytes_of(kind: &str) -> usize {
    match kind {
        "byte" => 1,
        "number" | "text" | "bytes" => 8,
        "optional" => 9,
        other => panic!("the table has an unknown type {other:?}"),
    }
}

/// Reads a field as docs/protocol.md says, with nothing of the protocol crate.
fn read_field(payload: &[u8], field: &Field) -> String {
    let at = payload.len() - field.from_end;
    let number = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
    match &*field.kind {
        "byte" => payload[at].to_string(),
        "number" => number(at).to_string(),
        "optional" if payload[at] == 0 => "none".into(),
        "optional" => number(at + 1).to_string(),
        _ => {
            let offset = i32::from_le_bytes(payload[at..at + 4].try_into().expect("four bytes"));
            let length = u32::from_le_bytes(payload[at + 4..at + 8].try_into().expect("four bytes")) as usize;
            let start = at.checked_add_signed(offset as isize).expect("inside of the payload");
            String::from_utf8_lossy(&payload[start..start + length]).into_owned()
        }
    }
}

#[test]
fn the_documented_layouts_cover_every_kind_and_leave_no_byte_out() {
    let layouts = layouts();
    for kind in sent_kinds() {
        let layout = layouts.iter().find(|layout| layout.number == *kind as u8);
        let layout = layout.unwrap_or_else(|| panic!("{kind:?} is not documented"));
        assert_eq!(layout.name.replace('_', ""), format!("{kind:?}").to_lowercase());
        let mut left = layout.root_bytes;
        for field in &layout.fields {
            assert_eq!(field.from_end, left, "{kind:?}: {}", field.name);
            left -= bytes_of(&field.kind);
        }
        assert_eq!(left, 0, "{kind:?}");
    }
    assert_eq!(layouts.len(), sent_kinds().count());
}

#[test]
fn every_field_lies_where_the_documentation_says() {
    let layouts = layouts();
    for sample in samples() {
        let bytes = sample.frame();
        let layout = layouts.iter().find(|layout| layout.number == bytes[4]).expect("its layout");
        let payload = &bytes[HEADER_BYTES..];
        let fields = layout.fields.iter().map(|field| match &*field.name {
            "messages" => "messages=…".to_owned(),
            name => format!("{name}={}", read_field(payload, field)),
        });
        assert_eq!(fields.collect::<Vec<_>>().join(" "), sample.fields, "{}", sample.name);
    }
}

#[test]
fn the_documented_header_and_preamble_are_what_is_written() {
    let bytes = Sample { name: "", says: request(1, Ask::Ping, ""), fields: "" }.frame();
    let expected = [("payload length", 0, 4, 9u64), ("kind", 4, 1, 8), ("version", 5, 1, 1), ("reserved", 6, 2, 0)];
    let documented = rows("### Header");
    for ((name, offset, size, value), row) in expected.into_iter().zip(&documented) {
        assert_eq!(row[..3], [offset.to_string(), size.to_string(), name.to_owned()]);
        let mut number = [0; 8];
        number[..size].copy_from_slice(&bytes[offset..offset + size]);
        assert_eq!(u64::from_le_bytes(number), value, "{name}");
    }
    assert_eq!(documented[4][0], HEADER_BYTES.to_string());
    let preamble: Vec<String> = PREAMBLE.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(documentation().contains(&format!("`{}`", preamble.join(" "))));
}

#[test]
fn every_error_code_is_documented_under_its_number() {
    let documented: Vec<(String, String)> =
        rows("## Error codes").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let codes: Vec<(String, String)> =
        ErrorCode::ALL.iter().map(|code| (code.as_str().to_owned(), (*code as u8).to_string())).collect();
    assert_eq!(documented, codes);
}

/// The lines of the fenced blocks with that info string.
fn examples(fence: &str) -> Vec<String> {
    let text = documentation();
    let mut lines = Vec::new();
    for block in text.split(&format!("```{fence}\n")).skip(1) {
        lines.extend(block.lines().take_while(|line| !line.starts_with("```")).map(str::to_owned));
    }
    lines
}

/// The type of an object and the names of its fields.
fn shape(json: &str) -> (String, Vec<String>) {
    let object: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
    let kind = object["type"].as_str().unwrap_or_default().to_owned();
    (kind, object.into_keys().collect())
}

#[test]
fn every_documented_request_is_one_and_none_is_missing() {
    let mut kinds = Vec::new();
    for example in examples("json request") {
        json::read_request(&example).unwrap_or_else(|fault| panic!("{example}: {fault}"));
        kinds.push(shape(&example).0);
    }
    for sample in request_samples() {
        let (kind, _) = shape(&sample.json());
        assert!(kinds.contains(&kind), "no example of {kind}");
    }
}

#[test]
fn every_documented_event_looks_like_one_and_none_is_missing() {
    let written: Vec<_> = event_samples().iter().map(|sample| shape(&sample.json())).collect();
    let documented: Vec<_> = examples("json event").iter().map(|example| shape(example)).collect();
    for (kind, fields) in &documented {
        assert!(written.contains(&(kind.clone(), fields.clone())), "no event {kind} has the fields {fields:?}");
    }
    for event in written {
        assert!(event.0 == "keep_alive" || documented.contains(&event), "no example of {event:?}");
    }
}

#[test]
fn the_documented_example_is_the_golden_frame() {
    let file = golden::all().into_iter().find(|file| file.name == "leave").expect("its golden file");
    let dump = golden::text(&file.json, &file.bytes).replacen("# ", "", 1);
    let (json, dump) = dump.split_once('\n').expect("a dump");
    let text = documentation();
    assert!(text.contains(&format!("`{json}`")) && text.contains(dump), "{json}\n{dump}");
}
