//! End to end: what a client says that it knows beyond version 1's base, and what the server makes of it.

use std::net::SocketAddr;
use std::time::Duration;

use banter_client::{Client, Event, FeatureName, Options, UserName};
use banter_tests::raw_peer::{RawPeer, close_frame, native_events, server_frames, text_frame};
use banter_tests::server_process::{PATIENCE, ServerProcess};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};

/// A native `hello`, laid out by hand as docs/protocol.md has it: this repository's own writer keeps the limits.
fn hello_frame(id: u64, user: &str, features: &str) -> Vec<u8> {
    const ROOT_BYTES: usize = 33;
    let texts = [user, "", features];
    let mut payload = texts.concat().into_bytes();
    let root = payload.len();
    payload.push(1);
    payload.extend(id.to_le_bytes());
    let mut text = 0;
    for (index, length) in texts.map(str::len).into_iter().enumerate() {
        let field = root + 9 + 8 * index;
        payload.extend((text as i32 - field as i32).to_le_bytes());
        payload.extend((length as u32).to_le_bytes());
        text += length;
    }
    assert_eq!(payload.len(), root + ROOT_BYTES);
    let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
    frame.extend([1, 1, 0, 0]);
    frame.extend(payload);
    frame
}

/// What a native connection is told behind a `hello` with the id 1 and these features, and behind another with the id 2.
fn native_answers(address: SocketAddr, features: &[&str]) -> Vec<Value> {
    let mut peer = RawPeer::native(address);
    let lines: String = features.iter().flat_map(|name| [*name, "\n"]).collect();
    peer.send(&hello_frame(1, "ann", &lines));
    peer.send(&hello_frame(2, "ann", "later\n"));
    peer.send(&[0; 8]); // Ends the connection, behind an error.
    let mut events = native_events(&peer.read_to_end());
    assert_eq!(events.pop().expect("an error")["code"], "bad_frame");
    events
}

/// The same over JSON.
fn json_answers(address: SocketAddr, features: &[&str]) -> Vec<Value> {
    let mut peer = RawPeer::websocket(address);
    let hello = |id: u64, features: &[&str]| json!({"type": "hello", "id": id, "user": "ann", "features": features});
    peer.send(&text_frame(hello(1, features).to_string().as_bytes()));
    peer.send(&text_frame(hello(2, &["later"]).to_string().as_bytes()));
    peer.send(&close_frame());
    let frames = server_frames(&peer.read_to_end());
    let texts = frames.iter().filter(|frame| frame.opcode == 1);
    texts.map(|frame| serde_json::from_slice(&frame.payload).expect("JSON")).collect()
}

#[test]
fn names_that_the_server_does_not_know_are_passed_over_in_every_form() {
    let server = ServerProcess::start(1, &["--durability", "memory"]);
    let many: Vec<String> = (0..64).map(|number| format!("f{number:063}")).collect();
    for form in Form::ALL {
        for features in
            [json!(["changes", "edits", "edits", "ü, later"]), json!([]), json!(null), json!(many.as_slice())]
        {
            let mut client = WireClient::connect(server.address(), form);
            let welcome = client.ask(json!({"type": "hello", "user": "ann", "features": features}));
            assert_eq!(
                (&welcome["type"], &welcome["features"]),
                (&json!("welcome"), &json!([])),
                "{form:?}: {features}"
            );
            client.join("room");
            assert_eq!(client.post("room", json!("hi"))["type"], "posted");
        }
        let mut client = WireClient::connect(server.address(), form);
        assert_eq!(client.say_hello("ann")["features"], json!([]), "{form:?}: without the field too");
    }
}

#[test]
fn a_hello_above_the_limits_of_features_is_refused_by_their_names_and_the_next_one_is_taken() {
    let server = ServerProcess::start(1, &["--durability", "memory"]);
    let (long, longer) = ("l".repeat(64), "l".repeat(65));
    for answers in [json_answers, native_answers] {
        for (features, named) in [
            (&["f"; 65][..], "features_max, 64"),
            (&["f"; 5_000], "features_max, 64"),
            (&["f", &longer], "a name of 65 bytes is above feature_bytes_max, 64"),
            (&[""], "it is empty"),
            (&["a\rb"], "it holds a control character"),
        ] {
            let told = answers(server.address(), features);
            let [error, welcome] = &told[..] else { panic!("{told:?}") };
            let message = error["message"].as_str().expect("a message");
            assert!(error["code"] == "bad_request" && error["id"] == 1, "{error}");
            assert!(message.contains("`features`") && message.contains(named), "{error}");
            assert!(welcome["type"] == "welcome" && welcome["id"] == 2, "{welcome}");
        }
        let told = answers(server.address(), &["f", &long]);
        assert!(told[0]["type"] == "welcome" && told[1]["code"] == "bad_request", "hello comes once: {told:?}");
    }
}

#[test]
fn features_belong_in_hello_and_are_a_list_of_names() {
    let server = ServerProcess::start(1, &["--durability", "memory"]);
    let mut client = WireClient::connect(server.address(), Form::Json);
    for features in [json!("edits"), json!({"edits": true}), json!([1]), json!([null]), json!([["edits"]]), json!(7)] {
        let refusal = client.ask(json!({"type": "hello", "user": "ann", "features": features}));
        assert_eq!(refusal["code"], "bad_request", "{features}: {refusal}");
    }
    client.say_hello("ann");
    for request in
        [json!({"type": "ping", "features": []}), json!({"type": "join", "room": "r", "features": ["edits"]})]
    {
        let refusal = client.ask(request);
        assert_eq!(refusal["code"], "bad_request", "{refusal}");
        assert!(refusal["message"].as_str().expect("a message").contains("`features` does not belong"), "{refusal}");
    }
    assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
}

#[test]
fn the_rust_client_says_what_it_knows_and_is_told_what_both_know() {
    let server = ServerProcess::start(1, &["--durability", "memory"]);
    let mut options = Options::new(UserName::new("ann").expect("a name"), 1);
    options.features = ["edits", "roles"].map(|name| FeatureName::new(name).expect("a name")).to_vec();
    let mut client = Client::with_options(&server.address().to_string(), options);
    let told = client.next_event(PATIENCE).expect("an event");
    assert!(matches!(&told, Some(Event::Connected { features, .. }) if features.is_empty()), "{told:?}");
    assert!(matches!(client.next_event(Duration::from_millis(1)), Ok(None)));
}
