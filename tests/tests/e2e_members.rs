//! End to end: who is in a room, who hears of it, and what is only said in passing.

use banter_tests::server_process::{ServerProcess, core_counts, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};

fn join_with_presence(client: &mut WireClient, room: &str) -> Value {
    let joined = client.ask(json!({"type": "join", "room": room, "presence": true}));
    assert_eq!(joined["type"], "joined", "{joined}");
    joined
}

fn presence(event: &Value) -> (&str, &str, u64) {
    assert_eq!(event["type"], "presence", "{event}");
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    (text("user"), text("state"), event["count"].as_u64().expect("a count"))
}

#[test]
fn two_connections_of_one_user_are_one_member_also_on_different_cores() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let mut watcher = WireClient::hello_on(&server, 0, Form::Json, "watcher");
        assert_eq!(join_with_presence(&mut watcher, "hall")["members"], 1);
        let mut tabs: Vec<WireClient> =
            (0..4).map(|tab| WireClient::hello_on(&server, tab % cores, Form::ALL[tab % 3], "ann")).collect();
        for tab in &mut tabs {
            assert_eq!(tab.join("hall")["members"], 2);
        }
        assert_eq!(presence(&watcher.next_event()), ("ann", "joined", 2));
        let members = watcher.ask(json!({"type": "members", "room": "hall"}));
        assert_eq!((&members["count"], &members["users"]), (&json!(2), &json!(["ann", "watcher"])));
        // One says that it leaves, others just go; the last one's going is the member's.
        tabs[0].ask(json!({"type": "leave", "room": "hall"}));
        let last = tabs.pop().expect("a tab");
        tabs.clear();
        wait_until("the others are gone", || server.metric("banter_connections") == 2);
        assert!(watcher.has_nothing());
        drop(last);
        assert_eq!(presence(&watcher.next_event()), ("ann", "left", 1));
        assert!(watcher.has_nothing());
    }
}

/// Hears what is awaited; before it, it may be told again of one who came just before it, but never of itself.
fn hears_of(client: &mut WireClient, index: usize, awaited: (&str, &str, u64)) {
    loop {
        let event = client.next_event();
        let (user, state, count) = presence(&event);
        if (user, state, count) == awaited {
            return;
        }
        let is_of_another = user.starts_with("asked ") && user != format!("asked {index}");
        assert!(is_of_another && state == "joined" && count <= awaited.2, "{user} {state} {count}: {awaited:?}");
    }
}

#[test]
fn presence_comes_only_to_those_who_asked_and_never_of_oneself() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &["--presence-delay-ms-max", "0"]);
        let mut asked: Vec<WireClient> = (0..3)
            .map(|index| WireClient::hello_on(&server, index % cores, Form::ALL[index], &format!("asked {index}")))
            .collect();
        let mut silent = WireClient::hello(server.address(), Form::Json, "silent");
        for later in 0..3 {
            join_with_presence(&mut asked[later], "hall");
            for (index, client) in asked[..later].iter_mut().enumerate() {
                hears_of(client, index, (&format!("asked {later}"), "joined", later as u64 + 1));
            }
        }
        silent.join("hall");
        for (index, client) in asked.iter_mut().enumerate() {
            hears_of(client, index, ("silent", "joined", 4));
            assert!(client.has_nothing());
        }
        assert!(silent.has_nothing());
        // Joining again sets the wish anew.
        join_with_presence(&mut silent, "hall");
        asked[0].join("hall");
        asked[1].ask(json!({"type": "leave", "room": "hall"}));
        assert_eq!(presence(&silent.next_event()), ("asked 1", "left", 3));
        assert!(asked[0].has_nothing());
    }
}

#[test]
fn who_comes_and_goes_in_a_rush_is_told_together_and_the_last_word_is_right() {
    const TIMES: u64 = 100;
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &["--presence-delay-ms-max", "200"]);
        let mut watcher = WireClient::hello(server.address(), Form::Json, "a watcher");
        join_with_presence(&mut watcher, "hall");
        let mut restless = WireClient::hello_on(&server, cores - 1, Form::Native, "restless");
        for _ in 0..TIMES {
            restless.join("hall");
            restless.ask(json!({"type": "leave", "room": "hall"}));
        }
        restless.join("hall");
        let mut last = ("".to_owned(), 0);
        let mut told = 0;
        while last != ("joined".to_owned(), 2) || !watcher.has_nothing() {
            let event = watcher.next_event();
            last = (presence(&event).1.to_owned(), presence(&event).2);
            told += 1;
        }
        assert!(told < TIMES, "{cores} cores: {told} events for {TIMES} comings and goings");
    }
}

#[test]
fn a_room_with_too_many_members_tells_counts_only() {
    for &cores in core_counts() {
        let flags = ["--presence-members-max", "5", "--presence-interval-ms", "20", "--presence-delay-ms-max", "0"];
        let server = ServerProcess::start(cores, &flags);
        let mut watcher = WireClient::hello(server.address(), Form::Json, "a watcher");
        join_with_presence(&mut watcher, "stadium");
        let mut crowd: Vec<WireClient> = Vec::new();
        for index in 2..=12 {
            let mut one = WireClient::hello_on(&server, index % cores, Form::Native, &format!("user {index:02}"));
            assert_eq!(one.join("stadium")["members"], index);
            crowd.push(one);
        }
        for index in 2..=5 {
            assert_eq!(presence(&watcher.next_event()), (&*format!("user {index:02}"), "joined", index));
        }
        let mut count = 5;
        while count < 12 {
            let event = watcher.next_event();
            assert_eq!((presence(&event).1, event.get("user")), ("counts_only", None));
            assert!(presence(&event).2 > count);
            count = presence(&event).2;
        }
        crowd.truncate(6);
        while count > 7 {
            let event = watcher.next_event();
            assert_eq!(presence(&event).1, "counts_only");
            count = presence(&event).2;
        }
        let members = watcher.ask(json!({"type": "members", "room": "stadium"}));
        assert_eq!((&members["count"], members["users"].as_array().map(Vec::len)), (&json!(7), Some(7)));
    }
}

#[test]
fn members_lists_the_first_hundred_by_name() {
    let server = ServerProcess::start(core_counts().len(), &[]);
    let mut crowd: Vec<WireClient> = (0..105)
        .map(|index| WireClient::hello(server.address(), Form::Native, &format!("user {:03}", (index * 37) % 105)))
        .collect();
    crowd.iter_mut().for_each(|one| drop(one.join("hall")));
    let members = crowd[0].ask(json!({"type": "members", "room": "hall"}));
    let names: Vec<Value> = (0..100).map(|index| format!("user {index:03}").into()).collect();
    assert_eq!((&members["count"], &members["users"]), (&json!(105), &Value::Array(names)));
    let nobody = crowd[0].ask(json!({"type": "members", "room": "nowhere"}));
    assert_eq!((&nobody["count"], &nobody["users"]), (&json!(0), &json!([])));
}

#[test]
fn a_signal_reaches_everybody_else_and_is_not_kept() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let mut clients: Vec<WireClient> = (0..4)
            .map(|index| WireClient::hello_on(&server, index % cores, Form::ALL[index % 3], &format!("user {index}")))
            .collect();
        clients.iter_mut().for_each(|client| drop(client.join("hall")));
        for sender in 0..4 {
            clients[sender].send(&json!({"type": "signal", "room": "hall", "body": {"typing": sender}}).to_string());
            for reader in (0..4).filter(|reader| *reader != sender) {
                let signal = clients[reader].next_event();
                let user = format!("user {sender}");
                assert_eq!((&signal["type"], &signal["user"]), (&json!("signal"), &json!(user)));
                assert_eq!(signal["body"]["typing"], sender);
            }
            assert!(clients[sender].has_nothing());
        }
        let page = clients[0].ask(json!({"type": "fetch", "room": "hall", "after": 0}));
        assert_eq!(page["messages"], json!([]));
        assert_eq!(clients[0].post("hall", json!(1))["sequence"], 1);
    }
}

#[test]
fn echo_false_spares_a_connection_its_own_posts_and_only_those() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        for (index, form) in Form::ALL.into_iter().enumerate() {
            let room = format!("room {index}");
            let mut quiet = WireClient::hello_on(&server, index % cores, form, "ann");
            quiet.ask(json!({"type": "join", "room": room, "echo": false}));
            let mut second = WireClient::hello_on(&server, 0, Form::Json, "ann");
            second.join(&room);
            for round in 0..30 {
                quiet.post(&room, json!({"quiet": round}));
                second.post(&room, json!({"second": round}));
            }
            for round in 0..30u64 {
                assert_eq!(quiet.take_type("message")["sequence"], round * 2 + 2);
            }
            assert!(quiet.has_nothing());
            (1..=60).for_each(|sequence| assert_eq!(second.take_type("message")["sequence"], sequence));
            // Another connection of the same user is another's.
            let replay = quiet.ask(json!({"type": "fetch", "room": room, "after": 58}));
            assert_eq!(replay["messages"].as_array().map(Vec::len), Some(2));
            quiet.ask(json!({"type": "join", "room": room, "echo": true}));
            quiet.post(&room, json!("loud"));
            assert_eq!(quiet.take_type("message")["sequence"], 61);
        }
    }
}

#[test]
fn nothing_of_a_room_comes_behind_left_and_other_rooms_go_on() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let mut reader = WireClient::hello_on(&server, 0, Form::Json, "reader");
        let mut writer = WireClient::hello_on(&server, cores - 1, Form::Native, "writer");
        let rooms: Vec<String> = (0..10).map(|room| format!("room {room}")).collect();
        for room in &rooms {
            reader.join(room);
            writer.join(room);
        }
        for id in 100..120 {
            reader.send(&json!({"type": "post", "id": id, "room": rooms[3], "body": id}).to_string());
        }
        reader.send(&json!({"type": "leave", "id": 120, "room": rooms[3]}).to_string());
        let (mut posted, mut has_left) = (Vec::new(), false);
        while posted.len() < 20 || !has_left {
            let event = reader.next_event();
            match event["type"].as_str() {
                Some("posted") => posted.push(event["id"].as_u64().expect("an id")),
                Some("left") => has_left = true,
                _ => assert!(event["type"] == "message" && !has_left, "{event}"),
            }
        }
        assert_eq!(posted, (100..120).collect::<Vec<u64>>(), "the answers to posts keep their order");
        for room in &rooms {
            writer.post(room, json!("all"));
        }
        let mut heard: Vec<String> =
            (0..9).map(|_| reader.next_event()["room"].as_str().expect("a room").to_owned()).collect();
        heard.sort();
        let others: Vec<String> = rooms.iter().filter(|room| **room != rooms[3]).cloned().collect();
        assert_eq!(heard, others);
        assert!(reader.has_nothing());
        assert_eq!(reader.ask(json!({"type": "leave", "room": rooms[3]}))["code"], "not_joined");
    }
}
