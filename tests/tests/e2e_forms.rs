//! End to end: the three wire forms in one room, bodies byte for byte, and which subprotocol is agreed on.

use std::net::TcpStream;

use banter_tests::raw_peer::{RawPeer, UPGRADE, close_frame, text_frame};
use banter_tests::server_process::{ServerProcess, core_counts};
use banter_tests::wire_client::{Form, WireClient, upgrade};
use serde_json::json;
use tungstenite::Message;

#[test]
fn clients_of_all_forms_share_a_room_and_see_one_order() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let mut clients: Vec<WireClient> = Form::ALL
            .iter()
            .flat_map(|&form| (0..cores).map(move |core| (form, core)))
            .map(|(form, core)| WireClient::hello_on(&server, core, form, &format!("{form:?}-{core}")))
            .collect();
        for client in &mut clients {
            client.join("lobby");
        }
        let count = clients.len() as u64;
        for (index, client) in clients.iter_mut().enumerate() {
            let posted = client.post("lobby", json!({"from": index}));
            assert_eq!(posted["sequence"], index as u64 + 1);
        }
        for client in &mut clients {
            for sequence in 1..=count {
                let message = client.take_type("message");
                assert_eq!((&message["sequence"], &message["body"]["from"]), (&json!(sequence), &json!(sequence - 1)));
            }
        }
    }
}

#[test]
fn a_body_that_is_no_json_reaches_json_clients_as_base64() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let mut json = WireClient::hello_on(&server, 0, Form::Json, "ann");
        json.join("bytes");
        for form in [Form::Native, Form::Rkyv] {
            let mut sender = WireClient::hello_on(&server, cores - 1, form, "bob");
            sender.join("bytes");
            sender.post_bytes("bytes", &[0, 0xff, b'"', 0x80]);
            let message = json.take_type("message");
            assert_eq!((&message["body_base64"], message.get("body")), (&json!("AP8igA=="), None));
            // The other native forms have the bytes themselves; the client here shows them in the JSON way.
            assert_eq!(sender.take_type("message")["body_base64"], "AP8igA==");
        }
    }
}

#[test]
fn a_fetch_of_nothing_is_refused_in_every_form() {
    let server = ServerProcess::start(1, &[]);
    for form in Form::ALL {
        let mut client = WireClient::hello(server.address(), form, "ann");
        let fetch = |limit: u64| json!({"type": "fetch", "room": "r", "after": 0, "limit": limit});
        assert_eq!(client.ask(fetch(0))["code"], "bad_request", "{form:?}");
        assert_eq!(client.ask(fetch(1))["type"], "page", "{form:?}");
    }
}

#[test]
fn a_body_arrives_byte_for_byte() {
    let bodies = [
        r#"{ "b" :1,  "a": 1.50e+01 , "a":-0 }"#,
        "[1E400,\t0.10,123456789012345678901234567890]",
        r#""\ud800 \u00e9 é \/ 😀""#,
        "null",
        "\"\u{2028}\u{7f}\"",
    ];
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let mut reader = WireClient::hello_on(&server, 0, Form::Json, "ann");
        reader.join("exact");
        for (form, core) in Form::ALL.iter().zip([0, cores - 1, 0]) {
            let mut sender = WireClient::hello_on(&server, core, *form, "bob");
            sender.join("exact");
            for body in bodies {
                sender.send(&format!(r#"{{"type":"post","id":9,"room":"exact","body":{body}}}"#));
                let text = reader.next_text();
                assert!(text.contains(&format!(r#""body":{body}"#)), "{form:?}: {body} in {text}");
            }
            // And once more out of the history.
            sender.send(r#"{"type":"fetch","id":10,"room":"exact","before":1000}"#);
            let page = loop {
                let text = sender.next_text();
                if text.contains(r#""type":"page""#) {
                    break text;
                }
            };
            assert!(bodies.iter().all(|body| page.contains(&format!(r#""body":{body}"#))), "{form:?}: {page}");
        }
    }
}

#[test]
fn a_subprotocol_is_confirmed_only_if_it_was_asked_for() {
    let server = ServerProcess::start(1, &[]);
    let ask = |asked: Option<&str>| {
        let stream = TcpStream::connect(server.address()).expect("the server accepts");
        upgrade(stream, asked).expect("an upgrade")
    };
    for (asked, confirmed) in [
        (None, None),
        (Some("banter.json.v1"), Some("banter.json.v1")),
        (Some("chat, banter.json.v1"), Some("banter.json.v1")),
        (Some("banter.json.v1, banter.rkyv.v1"), Some("banter.json.v1")),
    ] {
        let (mut socket, found) = ask(asked);
        assert_eq!(found.as_deref(), confirmed, "{asked:?}");
        socket.send(Message::text(r#"{"type":"hello","user":"ann"}"#)).expect("the server takes bytes");
        let welcome = socket.read().expect("a welcome");
        assert!(welcome.is_text(), "{asked:?}: {welcome:?}");
    }
    let (_, found) = ask(Some("banter.rkyv.v1, banter.json.v1"));
    assert_eq!(found.as_deref(), Some("banter.rkyv.v1"), "the client's first choice that there is");
}

#[test]
fn a_client_that_knows_only_other_subprotocols_gets_none_confirmed() {
    let server = ServerProcess::start(1, &[]);
    // tungstenite refuses such an answer by itself, as RFC 6455 lets a client do: so by hand.
    let head = UPGRADE.replace("Host:", "Sec-WebSocket-Protocol: chat, mqtt\r\nHost:");
    let mut peer = RawPeer::connect(server.address());
    peer.send(&[head.as_bytes(), &text_frame(br#"{"type":"hello","user":"ann"}"#), &close_frame()].concat());
    let answer = String::from_utf8_lossy(&peer.read_to_end()).into_owned();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("sec-websocket-protocol"), "{answer}");
    assert!(answer.contains(r#"{"type":"welcome""#), "it is served JSON: {answer}");
}
