//! JSON requests and events: what is written and read, and what is refused.

use super::*;
use crate::error_code::{ErrorCode, Scope};
use crate::event::PresenceState;
use crate::native;

fn ask(text: &str) -> Ask<'_> {
    read_request(text).unwrap_or_else(|fault| panic!("{text}: {fault}")).ask
}

fn hello<'a>(token: Option<&'a str>, names: &[&'a str]) -> Ask<'a> {
    let mut features = FeatureNames::default();
    names.iter().for_each(|name| features.push((*name).into()).unwrap());
    Ask::Hello { user: "ann".into(), token: token.map(Into::into), features }
}

fn fault(text: &str) -> RequestFault {
    match read_request(text) {
        Ok(request) => panic!("{text} was read as {request:?}"),
        Err(fault) => fault,
    }
}

fn json(bytes: &str) -> Body<'_> {
    Body { format: BodyFormat::Json, bytes: bytes.as_bytes() }
}

fn written(event: &Event<'_>) -> String {
    let mut out = b"ahead".to_vec();
    write_event(event, &mut out);
    let text = String::from_utf8(out).unwrap().split_off("ahead".len());
    serde_json::from_str::<serde::de::IgnoredAny>(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    text
}

#[test]
fn every_request_is_read_with_all_and_with_none_of_its_optional_fields() {
    let room = Text::Borrowed("lobby");
    let cursor = Cursor { epoch: Epoch(7), sequence: Sequence(9) };
    let join = |from, echo, presence| Ask::Join { room: "lobby".into(), from, echo, presence, token: None };
    for (text, expected) in [
        (r#"{"type":"hello","user":"ann"}"#, hello(None, &[])),
        (r#"{"type":"hello","user":"ann","token":"t"}"#, hello(Some("t"), &[])),
        (
            r#"{"type":"hello","token":"t"}"#,
            Ask::Hello { user: "".into(), token: Some("t".into()), features: FeatureNames::NONE },
        ),
        (r#"{"type":"hello","user":"ann","features":[]}"#, hello(None, &[])),
        (
            r#"{"type":"hello","features":["ro\u006ces", "edits","edits"],"user":"ann"}"#,
            hello(None, &["roles", "edits", "edits"]),
        ),
        (r#"{"type":"join","room":"lobby"}"#, join(JoinFrom::Now, true, false)),
        (r#"{"type":"join","room":"lobby","last":50,"echo":true}"#, join(JoinFrom::Last(50), true, false)),
        (
            r#"{"type":"join","room":"lobby","after":{"epoch":7,"sequence":9},"echo":false,"presence":true}"#,
            join(JoinFrom::After(cursor), false, true),
        ),
        (
            r#"{"type":"join","room":"lobby","last":3,"after":{"sequence":9,"epoch":7}}"#, // `after` wins.
            join(JoinFrom::After(cursor), true, false),
        ),
        (
            r#"{"type":"post","room":"lobby","body":[1]}"#,
            Ask::Post { room: room.clone(), body: json("[1]"), key: None },
        ),
        (
            r#"{"key":"k","body":"hi","room":"lobby","type":"post"}"#,
            Ask::Post { room: room.clone(), body: json("\"hi\""), key: Some("k".into()) },
        ),
        (
            r#"{"type":"fetch","room":"lobby","before":5}"#,
            Ask::Fetch { room: room.clone(), from: FetchFrom::Before(Sequence(5)), limit: None },
        ),
        (
            r#"{"type":"fetch","room":"lobby","after":0,"limit":10}"#,
            Ask::Fetch { room: room.clone(), from: FetchFrom::After(Sequence(0)), limit: Some(10) },
        ),
        (r#"{"type":"signal","room":"lobby","body":{}}"#, Ask::Signal { room: room.clone(), body: json("{}") }),
        (r#"{"type":"members","room":"lobby"}"#, Ask::Members { room: room.clone() }),
        (r#"{"type":"leave","room":"lobby"}"#, Ask::Leave { room: room.clone() }),
        (
            r#"{"type":"join","room":"lobby","token":"t"}"#,
            Ask::Join { room, from: JoinFrom::Now, echo: true, presence: false, token: Some("t".into()) },
        ),
        (r#"{"type":"renew","token":"t"}"#, Ask::Renew { token: "t".into() }),
        (r#"{"type":"ping"}"#, Ask::Ping),
    ] {
        assert_eq!(read_request(text), Ok(Request { id: None, ask: expected.clone() }), "{text}");
        let with_id = format!(" {{\"id\":4,{}\n", &text[1..]);
        assert_eq!(read_request(&with_id), Ok(Request { id: Some(4), ask: expected.clone() }), "{with_id}");
        let with_null = text.replacen('{', "{\"id\":null,", 1);
        assert_eq!(read_request(&with_null), Ok(Request { id: None, ask: expected }), "{with_null}");
    }
}

#[test]
fn an_optional_field_may_be_null() {
    let text = r#"{"type":"join","room":"r","after":null,"last":null,"echo":null,"presence":null}"#;
    assert_eq!(
        ask(text),
        Ask::Join { room: "r".into(), from: JoinFrom::Now, echo: true, presence: false, token: None }
    );
    assert_eq!(
        ask(r#"{"type":"post","room":"r","body":0,"key":null}"#),
        Ask::Post { room: "r".into(), body: json("0"), key: None }
    );
}

#[test]
fn a_body_is_kept_byte_for_byte() {
    for body in [
        "null",
        "true",
        "-0",
        "1.0e+05",
        "123456789012345678901234567890",
        r#""""#,
        r#""\u0041\/\ud83d\ude00é\n""#,
        r#""\ud800""#,
        "[ ]",
        "{ \"b\" :\t1,\r\n\"a\":  [1 ,2] , \"b\":2 }",
    ] {
        for kind in ["post", "signal"] {
            let text = format!("{{\"type\":\"{kind}\",\"room\":\"r\",\"body\": \t{body}\n }}");
            let (Ask::Post { body: kept, .. } | Ask::Signal { body: kept, .. }) = ask(&text) else { panic!() };
            assert_eq!(std::str::from_utf8(kept.bytes), Ok(body));
        }
        let event = Event::Signal { room: "r", user: "u", body: json(body) };
        assert_eq!(written(&event), format!(r#"{{"type":"signal","room":"r","user":"u","body":{body}}}"#));
    }
}

#[test]
fn a_text_is_borrowed_as_it_lies_and_unescaped_where_it_must_be() {
    let plain = r#"{"type":"post","room":"lobby ü","body":0,"key":"k"}"#;
    let Ask::Post { room: Text::Borrowed("lobby ü"), key: Some(Text::Borrowed("k")), .. } = ask(plain) else {
        panic!("a plain text was copied");
    };
    let escaped = r#"{"ty\u0070e":"\u0070ing"}"#;
    assert_eq!(ask(escaped), Ask::Ping);
    assert_eq!(
        ask(r#"{"type":"hello","user":"a\"b\\c\ud83d\ude00\n","token":"\u0000"}"#),
        // The session refuses such a name.
        Ask::Hello { user: "a\"b\\c😀\n".into(), token: Some("\0".into()), features: FeatureNames::NONE }
    );
    fault(r#"{"type":"hello","user":"\ud83d"}"#);
}

#[test]
fn a_whole_text_that_is_no_request_is_told_with_its_id() {
    for (rest, named) in [
        (r#""type":"shout""#, "shout"),
        (r#""type":"""#, "type"),
        (r#""room":"r""#, "type"),
        (r#""type":7"#, "string"),
        (r#""type":"ping","extra":1"#, "extra"),
        (r#""type":"ping","room":"r""#, "`room` does not belong in `ping`"),
        (r#""type":"leave","room":"r","body":null"#, "`body` does not belong in `leave`"),
        (r#""type":"post","room":"r","body":1,"user":"ann""#, "`user`"),
        (r#""type":"post","room":"r","body":1,"after":1"#, "`after`"),
        (r#""type":"fetch","room":"r","before":1,"last":1"#, "`last`"),
        (r#""type":"hello","user":"ann","features":"edits""#, "a list of names"),
        (r#""type":"hello","user":"ann","features":{"edits":true}"#, "a list of names"),
        (r#""type":"hello","user":"ann","features":["edits",1]"#, "string"),
        (r#""type":"hello","user":"ann","features":[["edits"]]"#, "string"),
        (r#""type":"hello","user":"ann","features":["edits",null]"#, "string"),
        (r#""type":"hello","user":"ann","features":[""]"#, "empty"),
        (r#""type":"hello","user":"ann","features":["a\nb"]"#, "control character"),
        (r#""type":"hello","user":"ann","features":[],"features":[]"#, "duplicate"),
        (r#""type":"hello","user":"ann","feature":["edits"]"#, "unknown field"),
        (r#""type":"join","room":"r","features":["edits"]"#, "`features` does not belong in `join`"),
        (r#""type":"join""#, "room"),
        (r#""type":"leave","room":null"#, "room"),
        (r#""type":"post","room":"r""#, "body"),
        (r#""type":"signal","body":1"#, "room"),
        (r#""type":"fetch","room":"r""#, "before"),
        (r#""type":"fetch","room":"r","before":1,"after":1"#, "one of"),
        (r#""type":"fetch","room":"r","after":{"epoch":1,"sequence":1}"#, "sequence"),
        (r#""type":"fetch","room":"r","before":-1"#, "-1"),
        (r#""type":"fetch","room":"r","before":1.5"#, "1.5"),
        (r#""type":"fetch","room":"r","before":18446744073709551616"#, "float"),
        (r#""type":"join","room":"r","after":9"#, "after"),
        (r#""type":"join","room":"r","after":[1,2]"#, "after"),
        (r#""type":"join","room":"r","after":{"epoch":1}"#, "sequence"),
        (r#""type":"join","room":"r","after":{"epoch":1,"sequence":1,"x":1}"#, "x"),
        (r#""type":"join","room":"r","echo":1"#, "boolean"),
        (r#""type":"join","room":9"#, "string"),
        (r#""type":"ping","type":"ping""#, "duplicate"),
        (r#""type":"leave","room":"a","room":"b""#, "duplicate"),
    ] {
        let fault = fault(&format!("{{\"id\":31,{rest}}}"));
        assert_eq!(fault.id, Some(31), "{rest}");
        assert!(fault.message.contains(named), "{rest}: {}", fault.message);
    }
}

#[test]
fn features_above_their_limits_are_refused_with_the_id_and_the_limit() {
    let text = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        format!(r#"{{"type":"hello","id":31,"user":"ann","features":[{}]}}"#, names.join(","))
    };
    let (long, longer) = ("ü".repeat(32), "ü".repeat(33));
    for names in [&["edits"; 64][..], &[&long]] {
        assert_eq!(ask(&text(names)), hello(None, names));
    }
    for (names, named) in [
        (&["edits"; 65][..], "features_max, 64"),
        (&["edits"; 3_000], "features_max, 64"),
        (&["edits", &longer], "a name of 66 bytes is above feature_bytes_max, 64"),
    ] {
        let fault = fault(&text(names));
        assert_eq!(fault.id, Some(31));
        assert!(fault.message.contains("`features`") && fault.message.contains(named), "{}", fault.message);
    }
}

#[test]
fn what_is_no_whole_object_has_no_id() {
    for text in [
        "",
        " ",
        "null",
        "7",
        r#""ping""#,
        "[7]",
        r#"["ping",1,null,null,null,null,null,null,null,null,null,null,null,null]"#,
        r#"{"id":1,"type":"ping""#,
        r#"{"id":1,"type":"ping"}}"#,
        r#"{"id":1,"type":"ping",}"#,
        r#"{"id":1,'type':"ping"}"#,
        r#"{"id":1,"id":1,"type":"ping"}"#,
        r#"{"id":"1","type":"ping"}"#,
        r#"{"id":-1,"type":"ping"}"#,
        r#"{"id":1.0,"type":"ping"}"#,
        "{\"id\":1,\"type\":\"pi\nng\"}",
        "\u{feff}{\"id\":1,\"type\":\"ping\"}",
    ] {
        assert_eq!(fault(text).id, None, "{text}");
    }
}

#[test]
fn ids_stay_below_two_to_the_53() {
    let text = |id: u64| format!("{{\"type\":\"ping\",\"id\":{id}}}");
    for id in [0, JSON_INTEGER_MAX] {
        assert_eq!(read_request(&text(id)), Ok(Request { id: Some(id), ask: Ask::Ping }));
    }
    for id in [JSON_INTEGER_MAX + 1, u64::MAX] {
        // It is not told back, also where something else is wrong.
        for text in [text(id), format!("{{\"id\":{id},\"type\":7}}"), format!("{{\"id\":{id},\"type\":\"shout\"}}")] {
            assert_eq!(fault(&text).id, None, "{text}");
        }
    }
}

#[test]
fn a_body_nests_64_deep_and_not_65() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let post = |body: &str| format!("{{\"type\":\"post\",\"id\":1,\"room\":\"r\",\"body\":{body}}}");
    let objects = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
    for (body, is_fine) in [
        (nested(DEPTH_MAX), true),
        (nested(DEPTH_MAX + 1), false),
        (objects(DEPTH_MAX), true),
        (objects(DEPTH_MAX + 1), false),
        (format!("[{}]", vec!["[]"; 1000].join(",")), true),
        (format!("\"{}\"", "[{".repeat(1000)), true),
        (format!("[\"\\\"{}\", \"\\\\\", {}]", "[".repeat(100), nested(DEPTH_MAX - 1)), true),
        (format!("[\"\\\"{}\", \"\\\\\", {}]", "[".repeat(100), nested(DEPTH_MAX)), false),
        (nested(30_000), false), // Deeper than a stack holds, were it read by recursion.
    ] {
        assert_eq!(check_value(body.as_bytes()).is_ok(), is_fine, "{body:.100}");
        let text = post(&body);
        match read_request(&text) {
            Ok(_) => assert!(is_fine, "{body:.100}"),
            Err(fault) => assert!(!is_fine && fault.id == Some(1), "{body:.100}"),
        }
    }
    // Nor does depth where no body is expected do harm.
    assert_eq!(fault(&format!("{{\"id\":1,\"x\":{}}}", nested(30_000))).id, Some(1));
    fault(&format!("{{\"id\":{}", "[".repeat(30_000)));
    fault(&format!("{{\"type\":\"join\",\"room\":\"r\",\"after\":{}}}", nested(30_000)));
}

#[test]
fn a_value_is_one_whole_json_value() {
    for good in ["0", " null ", "{\"a\":[1,\"é\"]}\n", "\"\\u00e9\""] {
        assert_eq!(check_value(good.as_bytes()), Ok(()), "{good}");
    }
    for bad in [&b""[..], b" ", b"01", b"1 2", b"{", b"[1,]", b"nul", b"\"\xff\"", b"\"\x01\"", b"NaN", b"'a'"] {
        assert!(check_value(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_refusal_quotes_little_of_what_it_refuses() {
    let long = "é".repeat(30_000);
    for text in [
        format!("{{\"type\":\"{long}\"}}"),
        format!("{{\"type\":\"ping\",\"{long}\":1}}"),
        format!("{{\"type\":\"ping\",\"id\":\"{long}\"}}"),
    ] {
        assert!(fault(&text).message.len() < 300);
    }
}

#[test]
fn every_event_is_written_as_documented() {
    let (epoch, sequence) = (Epoch(7), Sequence(9));
    let message =
        Message { epoch, sequence, time_ms: 11, room: "r", user: "ann", key: Some("k"), body: json("{\"a\": 1}") };
    let mut messages = Vec::new();
    native::write_message(&message, &mut messages);
    let second = Message { sequence: Sequence(10), key: None, body: json("2"), ..message };
    native::write_message(&second, &mut messages);
    let first_text =
        r#"{"type":"message","room":"r","epoch":7,"sequence":9,"time_ms":11,"user":"ann","body":{"a": 1},"key":"k"}"#;
    let second_text = r#"{"type":"message","room":"r","epoch":7,"sequence":10,"time_ms":11,"user":"ann","body":2}"#;
    let posted = |id, duplicate| Event::Posted { id, room: "r", epoch, sequence, time_ms: 11, duplicate };
    let presence = |change| Event::Presence { room: "r", change, count: 3 };
    for (event, text) in [
        (
            Event::Welcome {
                id: Some(1),
                session: "s",
                user: "ann",
                durability: "memory",
                features: "edits\na \"b\"\n",
                limits: "a_max 1\nb_ms 0\n",
                expires_in_ms: Some(900_000),
            },
            r#"{"type":"welcome","id":1,"session":"s","user":"ann","durability":"memory","features":["edits","a \"b\""],"limits":{"a_max":1,"b_ms":0},"expires_in_ms":900000}"#,
        ),
        (
            Event::Welcome {
                id: None,
                session: "s",
                user: "ann",
                durability: "memory",
                features: "",
                limits: "",
                expires_in_ms: None,
            },
            r#"{"type":"welcome","session":"s","user":"ann","durability":"memory","features":[],"limits":{}}"#,
        ),
        (
            Event::Joined { id: Some(2), room: "r", epoch, sequence, members: 3, durability: "synced" },
            r#"{"type":"joined","id":2,"room":"r","epoch":7,"sequence":9,"members":3,"durability":"synced"}"#,
        ),
        (
            posted(Some(3), false),
            r#"{"type":"posted","id":3,"room":"r","epoch":7,"sequence":9,"time_ms":11,"duplicate":false}"#,
        ),
        (posted(None, true), r#"{"type":"posted","room":"r","epoch":7,"sequence":9,"time_ms":11,"duplicate":true}"#),
        (
            Event::Page { id: Some(4), room: "r", epoch, messages: &messages, more: true },
            &format!(
                r#"{{"type":"page","id":4,"room":"r","epoch":7,"messages":[{first_text},{second_text}],"more":true}}"#
            ),
        ),
        (
            Event::Page { id: None, room: "r", epoch, messages: b"", more: false },
            r#"{"type":"page","room":"r","epoch":7,"messages":[],"more":false}"#,
        ),
        (
            Event::Members { id: Some(5), room: "r", count: 200, users: "ann\nb \"o\" b\n" },
            r#"{"type":"members","id":5,"room":"r","count":200,"users":["ann","b \"o\" b"]}"#,
        ),
        (
            Event::Members { id: None, room: "r", count: 0, users: "" },
            r#"{"type":"members","room":"r","count":0,"users":[]}"#,
        ),
        (
            Event::Nodes { nodes: "chat-2.example.org\n[::1]:7001\n" },
            r#"{"type":"nodes","nodes":["chat-2.example.org","[::1]:7001"]}"#,
        ),
        (
            Event::Taken { id: Some(6), room: "r", reply: Some(b"[1]") },
            r#"{"type":"taken","id":6,"room":"r","reply":[1]}"#,
        ),
        (Event::Taken { id: None, room: "r", reply: None }, r#"{"type":"taken","room":"r"}"#),
        (Event::Left { id: Some(6), room: "r" }, r#"{"type":"left","id":6,"room":"r"}"#),
        (Event::Renewed { id: Some(9), expires_in_ms: 900_000 }, r#"{"type":"renewed","id":9,"expires_in_ms":900000}"#),
        (Event::Renewed { id: None, expires_in_ms: 0 }, r#"{"type":"renewed","expires_in_ms":0}"#),
        (Event::Expiring { in_ms: 60_000 }, r#"{"type":"expiring","in_ms":60000}"#),
        (Event::Removed { room: "r", code: ErrorCode::Kicked }, r#"{"type":"removed","room":"r","code":"kicked"}"#),
        (Event::Pong { id: Some(JSON_INTEGER_MAX) }, r#"{"type":"pong","id":9007199254740991}"#),
        (Event::Pong { id: None }, r#"{"type":"pong"}"#),
        (Event::Message(message), first_text),
        (Event::Message(second), second_text),
        (
            presence(Some(("bob", PresenceState::Joined))),
            r#"{"type":"presence","room":"r","user":"bob","state":"joined","count":3}"#,
        ),
        (
            presence(Some(("bob", PresenceState::Left))),
            r#"{"type":"presence","room":"r","user":"bob","state":"left","count":3}"#,
        ),
        (presence(None), r#"{"type":"presence","room":"r","state":"counts_only","count":3}"#),
        (
            Event::Gap { room: "r", epoch, from: Sequence(1), to: Sequence(4) },
            r#"{"type":"gap","room":"r","epoch":7,"from":1,"to":4,"first_available":5}"#,
        ),
        (
            Event::Closing { code: ErrorCode::Draining, reconnect_after_ms: 250 },
            r#"{"type":"closing","code":"draining","reconnect_after_ms":250}"#,
        ),
        (
            Event::Error {
                id: Some(8),
                code: ErrorCode::NotJoined,
                message: "a \"b\"",
                retry_after_ms: None,
                scope: None,
                reason: None,
            },
            r#"{"type":"error","id":8,"code":"not_joined","message":"a \"b\""}"#,
        ),
        (
            Event::Error {
                id: None,
                code: ErrorCode::Overloaded,
                message: "",
                retry_after_ms: Some(0),
                scope: Some(Scope::Room),
                reason: None,
            },
            r#"{"type":"error","code":"overloaded","message":"","scope":"room","retry_after_ms":0}"#,
        ),
        (
            Event::Error {
                id: Some(8),
                code: ErrorCode::ProgramRefused,
                message: "",
                retry_after_ms: Some(3_200),
                scope: None,
                reason: Some("slow_mode"),
            },
            r#"{"type":"error","id":8,"code":"program_refused","reason":"slow_mode","message":"","retry_after_ms":3200}"#,
        ),
        (Event::KeepAlive, r#"{"type":"keep_alive"}"#),
    ] {
        assert_eq!(written(&event), text);
    }
}

#[test]
fn any_text_and_any_bytes_survive_as_json() {
    let all: String = (0..=0x2100).filter_map(char::from_u32).collect();
    for text in ["", "\"", "\\", "\u{0}\u{1f}\u{7f}", "\u{2028}😀", "</script>", &all] {
        let json = written(&Event::Left { id: None, room: text });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["room"], text);
    }
    for (bytes, text) in [(&b""[..], ""), (b"\xff", "/w=="), (b"\xfb\xff\x00", "+/8A"), (b"{}", "e30=")] {
        let body = Body { format: BodyFormat::Bytes, bytes };
        let expected = format!(r#"{{"type":"signal","room":"r","user":"u","body_base64":"{text}"}}"#);
        assert_eq!(written(&Event::Signal { room: "r", user: "u", body }), expected);
    }
}
