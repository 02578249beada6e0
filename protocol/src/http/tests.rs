//! Heads of HTTP requests: what is an upgrade, what is a plain request, and what is refused and how.

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const UPGRADE: &str = "GET /ws?room=lobby HTTP/1.1\r\n\
    Host: chat.example:7878\r\n\
    User-Agent: x\r\n\
    Connection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\n\
    Origin: https://app.example\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: banter.json.v1, banter.rkyv.v1\r\n\
    \r\n";

fn request(head: &str) -> HttpRequest<'_> {
    match parse_head(head.as_bytes()) {
        Ok(Head::Complete { consumed, request }) if consumed == head.len() => request,
        other => panic!("{other:?} of {head:?}"),
    }
}

fn fault(head: &str) -> HttpFault {
    parse_head(head.as_bytes()).expect_err(head)
}

/// The good upgrade with one line replaced (or taken out, or doubled).
fn upgrade_with(line: &str, by: &str) -> String {
    assert!(UPGRADE.contains(line), "{line}");
    UPGRADE.replacen(line, by, 1)
}

fn with_headers(headers: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
}

fn subprotocols<'a>(request: &HttpRequest<'a>) -> Vec<&'a str> {
    request.upgrade.map(|upgrade| upgrade.subprotocols.iter().collect()).unwrap_or_default()
}

// What is refused.

#[test]
fn a_head_too_large_is_refused_wherever_it_is_cut() {
    let fill = |bytes: usize| {
        let frame = with_headers("X: \r\n").len();
        with_headers(&format!("X: {}\r\n", "y".repeat(bytes - frame)))
    };
    request(&fill(HEAD_BYTES_MAX));
    let large = fill(HEAD_BYTES_MAX + 1);
    assert_eq!(fault(&large), HttpFault::HeadTooLarge);
    assert_eq!(fault(&large[..HEAD_BYTES_MAX]), HttpFault::HeadTooLarge);
    assert_eq!(parse_head(&large.as_bytes()[..HEAD_BYTES_MAX - 1]), Ok(Head::Partial));
    assert_eq!(fault(&"\r\n".repeat(HEAD_BYTES_MAX)), HttpFault::HeadTooLarge);
}

#[test]
fn a_head_may_have_as_many_headers_as_its_bytes_hold() {
    request(&with_headers(&"X: y\r\n".repeat(64)));
    let shortest = "a:\n";
    let frame = "G / HTTP/1.1\nHost:a\n\n".len();
    let count = (HEAD_BYTES_MAX - frame) / shortest.len();
    let head = |count: usize| format!("G / HTTP/1.1\nHost:a\n{}\n", shortest.repeat(count));
    request(&head(count));
    assert_eq!(fault(&head(count + 1)), HttpFault::HeadTooLarge);
}

#[test]
fn what_is_no_request_is_refused() {
    assert_eq!(fault("GET / HTTP/2.0\r\n\r\n"), HttpFault::BadVersion);
    assert_eq!(fault("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), HttpFault::BadVersion);
    for head in [
        "\x16\x03\x01\x02\x00\x01\x00",
        "G\0T / HTTP/1.1\r\n",
        "GET  HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nNo Colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
    ] {
        assert!(matches!(fault(head), HttpFault::Malformed(_) | HttpFault::BadVersion), "{head:?}");
    }
    let latin_1 = b"GET / HTTP/1.1\r\nHost: caf\xe9\r\n\r\n";
    assert_eq!(parse_head(latin_1), Err(HttpFault::Malformed("a header's value is not UTF-8")));
    // A header that means nothing here may hold anything that HTTP allows.
    assert!(parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nX: caf\xe9\r\n\r\n").is_ok());
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    assert_eq!(fault("GET / HTTP/1.1\r\n\r\n"), HttpFault::Malformed("HTTP/1.1 needs a Host"));
    assert_eq!(fault(&with_headers("host: b\r\n")), HttpFault::Malformed("more than one Host"));
    let two_origins = with_headers("Origin: https://a\r\nORIGIN: https://b\r\n");
    assert_eq!(fault(&two_origins), HttpFault::Malformed("more than one Origin"));
    let two_lengths = with_headers("Content-Length: 3\r\nContent-Length: 4\r\n");
    assert_eq!(fault(&two_lengths), HttpFault::Malformed("two lengths"));
    for length in ["", "+3", "-3", "3, 3", "0x3", "3 3", "99999999999999999999"] {
        let head = with_headers(&format!("Content-Length: {length}\r\n"));
        assert_eq!(fault(&head), HttpFault::Malformed("Content-Length is no number"), "{length:?}");
    }
    for coding in ["chunked", "gzip, chunked", "identity", ""] {
        let head = with_headers(&format!("Content-Length: 3\r\ntransfer-encoding: {coding}\r\n"));
        assert_eq!(fault(&head), HttpFault::TransferEncoding);
    }
}

#[test]
fn a_target_of_another_form_is_refused() {
    for target in ["*", "a:443", "ws", "ftp://a/", "http://", "http:///ws", "http://me@a/ws", "://a/"] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(fault(&head), HttpFault::Malformed("the target"), "{target}");
    }
}

#[test]
fn a_bad_upgrade_says_what_is_wrong() {
    let bad = |line: &str, by: &str| match fault(&upgrade_with(line, by)) {
        HttpFault::BadUpgrade(why) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(bad("GET", "POST"), "the method must be GET");
    assert_eq!(bad("HTTP/1.1", "HTTP/1.0"), "it needs HTTP/1.1");
    assert_eq!(bad("User-Agent: x", "Content-Length: 1"), "it must have no body");
    let no_connection = "Connection must name Upgrade; is a proxy on the way?";
    assert_eq!(bad("keep-alive, Upgrade", "keep-alive"), no_connection);
    assert_eq!(bad("Connection: keep-alive, Upgrade\r\n", ""), no_connection);
    assert_eq!(bad("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), "Sec-WebSocket-Key is missing");
    for key in [
        "",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZSE=",
        "dGhlIHNhbXBsZSBub25jZSEh",
        "dGhlIHNhbXBsZSBub25j!Q==",
        "dGhlIHNhbXBsZSBub25jZSBhbmQgbW9yZQ==",
    ] {
        assert_eq!(bad(KEY, key), "Sec-WebSocket-Key must be 16 bytes in base64", "{key:?}");
    }
    let twice = upgrade_with("User-Agent: x", &format!("sec-websocket-key: {KEY}"));
    assert_eq!(fault(&twice), HttpFault::Malformed("more than one Sec-WebSocket-Key"));
    let twice = upgrade_with("User-Agent: x", "sec-websocket-version: 13");
    assert_eq!(fault(&twice), HttpFault::Malformed("more than one Sec-WebSocket-Version"));
    let odd = upgrade_with("banter.json.v1", "banter json");
    assert_eq!(fault(&odd), HttpFault::Malformed("a subprotocol's name"));
    for (line, by) in [("Version: 13", "Version: 8"), ("Version: 13", "Version: 013"), ("Sec-WebSocket-V", "X-V")] {
        assert_eq!(fault(&upgrade_with(line, by)), HttpFault::BadWebSocketVersion);
    }
}

#[test]
fn every_fault_has_a_status_and_says_something() {
    let faults = [
        (HttpFault::HeadTooLarge, 431),
        (HttpFault::Malformed("x"), 400),
        (HttpFault::BadUpgrade("x"), 400),
        (HttpFault::BadWebSocketVersion, 426),
        (HttpFault::TransferEncoding, 501),
        (HttpFault::BadVersion, 505),
    ];
    for (fault, status) in faults {
        assert_eq!(fault.status(), status);
        assert!(!fault.to_string().is_empty() && !reason(status).is_empty());
    }
    assert!(HttpFault::BadWebSocketVersion.headers().contains(&("Sec-WebSocket-Version", "13")));
    assert!(HttpFault::HeadTooLarge.headers().is_empty());
}

// What is taken.

#[test]
fn an_upgrade_is_read_and_what_is_behind_it_is_left() {
    let request = request(UPGRADE);
    assert_eq!((request.method, request.path, request.query), ("GET", "/ws", Some("room=lobby")));
    assert_eq!((request.host, request.origin), (Some("chat.example:7878"), Some("https://app.example")));
    assert_eq!((request.keep_alive, request.body_bytes), (true, 0));
    assert_eq!(request.upgrade.unwrap().key, KEY);
    assert_eq!(subprotocols(&request), ["banter.json.v1", "banter.rkyv.v1"]);

    let more = [UPGRADE.as_bytes(), b"\x81\x80\0\0\0\0", &[b'x'; 2 * HEAD_BYTES_MAX]].concat();
    assert_eq!(parse_head(&more), Ok(Head::Complete { consumed: UPGRADE.len(), request }));
}

#[test]
fn every_prefix_of_a_good_head_is_partial() {
    for bytes in 0..UPGRADE.len() {
        assert_eq!(parse_head(&UPGRADE.as_bytes()[..bytes]), Ok(Head::Partial), "{bytes} bytes");
    }
}

#[test]
fn names_and_tokens_are_read_in_any_case() {
    let head = UPGRADE.replace("Sec-WebSocket", "SEC-websocket").replace("Connection: ", "cONNECTION:");
    let head = head.replace("Upgrade: websocket", "upgrade: h2c, WebSocket").replace(", Upgrade", " ,, uPGRADE ,");
    assert_eq!(request(&head).upgrade.unwrap().key, KEY);
    assert_eq!(subprotocols(&request(&head)).len(), 2);
    // Two Connection headers are one list.
    let head = upgrade_with("Connection: keep-alive, Upgrade", "Connection: keep-alive\r\nConnection: Upgrade");
    assert!(request(&head).upgrade.is_some());
}

#[test]
fn an_upgrade_to_something_else_is_an_ordinary_request() {
    let head = with_headers("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n");
    assert_eq!(request(&head).upgrade, None);
    assert_eq!(request(&with_headers(&format!("Sec-WebSocket-Key: {KEY}\r\n"))).upgrade, None);
}

#[test]
fn a_key_with_bits_behind_its_last_byte_is_taken() {
    let key = "dGhlIHNhbXBsZSBub25jZX==";
    assert_eq!(request(&upgrade_with(KEY, key)).upgrade.unwrap().key, key);
}

#[test]
fn subprotocols_come_in_order_from_every_line() {
    let line = "Sec-WebSocket-Protocol: banter.json.v1, banter.rkyv.v1\r\n";
    let none = upgrade_with(line, "");
    assert_eq!(subprotocols(&request(&none)), [""; 0]);
    let lines = "sec-websocket-protocol:c,b ,\r\nX: sec-websocket-protocol: z\r\nSec-WebSocket-Protocol: , a\r\n";
    let some = upgrade_with(line, lines);
    assert_eq!(subprotocols(&request(&some)), ["c", "b", "a"]);
}

#[test]
fn keep_alive_follows_the_version_and_the_connection_header() {
    let keeps = |version: &str, connection: &str| {
        request(&format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n")).keep_alive
    };
    assert!(keeps("1.1", ""));
    assert!(!keeps("1.1", "Connection: close\r\n"));
    assert!(!keeps("1.1", "Connection: keep-alive, Close\r\n"));
    assert!(!keeps("1.0", ""));
    assert!(keeps("1.0", "Connection: Keep-Alive\r\n"));
}

#[test]
fn bodies_are_measured() {
    assert_eq!(request(&with_headers("")).body_bytes, 0);
    assert_eq!(request(&with_headers("content-length: 12\r\nContent-Length: 012\r\n")).body_bytes, 12);
}

#[test]
fn a_target_is_taken_apart() {
    for (line, host, path, query) in [
        ("GET / HTTP/1.1", "a", "/", None),
        ("GET /x? HTTP/1.1", "a", "/x", Some("")),
        ("GET /x?y?z HTTP/1.1", "a", "/x", Some("y?z")),
        ("GET //x://y HTTP/1.1", "a", "//x://y", None),
        ("GET http://b:80/x?y HTTP/1.1", "b:80", "/x", Some("y")),
        ("GET WS://b HTTP/1.1", "b", "/", None),
        ("GET https://b?y HTTP/1.1", "b", "/", Some("y")),
        ("OPTIONS * HTTP/1.1", "a", "*", None),
    ] {
        let head = format!("{line}\r\nHost: a\r\n\r\n");
        let request = request(&head);
        assert_eq!((request.host, request.path, request.query), (Some(host), path, query), "{line}");
    }
    assert_eq!(request("GET / HTTP/1.0\r\n\r\n").host, None);
    assert_eq!(request("\r\nGET / HTTP/1.0\n\n").path, "/");
}

// What is written.

#[test]
fn the_upgrade_response_is_that_of_the_rfc() {
    let mut out = Vec::new();
    write_upgrade_response(&mut out, KEY, Some("banter.json.v1"));
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: banter.json.v1\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let mut out = Vec::new();
    write_upgrade_response(&mut out, KEY, None);
    assert!(!String::from_utf8(out).unwrap().contains("Protocol:"));
}

#[test]
fn a_response_tells_its_length_even_without_its_body() {
    let mut out = Vec::new();
    write_response(&mut out, 200, "text/plain", &[("X-A", "b")], b"hello", false, true);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\
        Connection: keep-alive\r\nX-A: b\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), format!("{head}hello"));

    let mut out = Vec::new();
    write_response(&mut out, 200, "text/plain", &[("X-A", "b")], b"hello", true, true);
    assert_eq!(String::from_utf8(out).unwrap(), head);

    let mut out = Vec::new();
    write_response(&mut out, 299, "", &[], b"", false, false);
    let expected = "HTTP/1.1 299 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

// Any bytes.

#[test]
fn mutated_heads_never_panic() {
    let seed = 0x5EED_BA17_0000_0002_u64;
    let mut state = seed;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut complete = 0;
    for _ in 0..20_000 {
        let mut head = UPGRADE.as_bytes().to_vec();
        for _ in 0..1 + random() % 4 {
            let at = random() % head.len();
            match random() % 4 {
                0 => head[at] = random() as u8,
                1 => head[at] = b"\r\n:, ?=\0\xff/"[random() % 10],
                2 => drop(head.remove(at)),
                _ => {
                    let tail = head.split_off(at);
                    head.extend_from_slice(&UPGRADE.as_bytes()[random() % UPGRADE.len()..]);
                    head.extend_from_slice(&tail);
                }
            }
        }
        match parse_head(&head) {
            Ok(Head::Complete { consumed, request }) => {
                assert!(consumed <= head.len(), "seed {seed:#x}");
                assert!(subprotocols(&request).iter().all(|name| is_token(name)), "seed {seed:#x}");
                complete += 1;
            }
            Ok(Head::Partial) => {}
            Err(fault) => assert!(fault.status() >= 400),
        }
    }
    assert!(complete > 1000, "only {complete} heads were read: the mutations are too rough");
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
        let _ = parse_head(&bytes);
    }
}

#[test]
fn what_few_look_for_is_found_by_its_name_in_the_order_of_its_lines() {
    let head = with_headers("X-Forwarded-For: a, b \r\nx-other: x-forwarded-for: no\r\nx-FORWARDED-for:c\r\n");
    let request = request(&head);
    assert_eq!(request.values("x-forwarded-for").collect::<Vec<_>>(), ["a, b", "c"]);
    assert_eq!(request.values("x-forwarded-for").next_back(), Some("c"));
    assert_eq!(request.values("x-forwarded").count(), 0);
    let latin_1 = b"GET http://x-a:1/ HTTP/1.1\r\nHost: a\r\nX-A: caf\xe9\r\n\r\n";
    let Ok(Head::Complete { request, .. }) = parse_head(latin_1) else { panic!("a request") };
    assert_eq!(request.values("x-a").collect::<Vec<_>>(), [""], "it is there, and says nothing");
}
