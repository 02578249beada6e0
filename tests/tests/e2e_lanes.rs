//! End to end: lanes between cores that are far too short delay what crosses them, and lose and reorder nothing.

use banter_tests::server_process::{ServerProcess, core_counts, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::json;

const FLAGS: [&str; 2] = ["--lane-parcels-max", "16"];
const ROOMS: usize = 8;

fn room(index: usize) -> String {
    format!("room {index}")
}

/// Posts many at a time to all rooms, and reads everything that comes; gives how many messages it saw in each.
fn chatter(server: &ServerProcess, core: usize, form: Form, rounds: u64) -> WireClient {
    const POSTS_A_ROUND: u64 = 200;
    let mut client = WireClient::hello_on(server, core, form, &format!("{form:?} {core}"));
    (0..ROOMS).for_each(|index| drop(client.join(&room(index))));
    for round in 0..rounds {
        let ids = 1_000_000 + round * POSTS_A_ROUND..1_000_000 + (round + 1) * POSTS_A_ROUND;
        for id in ids.clone() {
            let room = room(id as usize % ROOMS);
            client.send(&json!({"type": "post", "id": id, "room": room, "body": id}).to_string());
        }
        let mut answered = 0;
        let mut newest = [0; ROOMS];
        while answered < POSTS_A_ROUND {
            let event = client.next_event();
            match event["type"].as_str() {
                Some("posted") => {
                    // In the order sent, room by room.
                    let id = event["id"].as_u64().expect("an id");
                    assert!(ids.contains(&id) && newest[id as usize % ROOMS] < id, "{event}");
                    newest[id as usize % ROOMS] = id;
                    answered += 1;
                }
                _ => assert_eq!(event["type"], "message", "{event}"),
            }
        }
    }
    client
}

#[test]
fn short_lanes_lose_no_post_and_no_answer() {
    const ROUNDS: u64 = 5;
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &FLAGS);
        let mut readers: Vec<WireClient> = (0..cores)
            .map(|core| {
                let mut reader = WireClient::hello_on(&server, core, Form::Json, "reader");
                (0..ROOMS).for_each(|index| drop(reader.join(&room(index))));
                reader
            })
            .collect();
        let posts = std::thread::scope(|scope| {
            let chatters: Vec<_> = (0..cores * 2)
                .map(|index| (index % cores, Form::ALL[index % 3]))
                .map(|(core, form)| {
                    scope.spawn({
                        let server = &server;
                        move || chatter(server, core, form, ROUNDS)
                    })
                })
                .collect();
            let posts = chatters.len() as u64 * ROUNDS * 200;
            let mut read = vec![[0; ROOMS]; readers.len()];
            for (reader, read) in readers.iter_mut().zip(&mut read) {
                for _ in 0..posts {
                    let event = reader.next_event();
                    let index = (0..ROOMS).find(|index| event["room"] == room(*index)).expect("one of the rooms");
                    read[index] += 1;
                    assert_eq!((&event["type"], &event["sequence"]), (&json!("message"), &json!(read[index])));
                }
            }
            chatters.into_iter().for_each(|chatter| drop(chatter.join().expect("no panic")));
            posts
        });
        assert_eq!(server.metric("banter_posts_total"), posts);
        wait_until("the lanes are empty", || server.metric("banter_lane_parcels") == 0);
        readers.iter_mut().for_each(|reader| assert!(reader.has_nothing()));
    }
}

#[test]
fn a_crowd_that_comes_and_goes_over_short_lanes_leaves_nobody_behind() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &FLAGS);
        let mut witness = WireClient::hello(server.address(), Form::Json, "witness");
        witness.join("room 0");
        for round in 0..4 {
            let mut crowd: Vec<WireClient> = (0..30)
                .map(|index| WireClient::hello(server.address(), Form::ALL[index % 3], &format!("user {index}")))
                .collect();
            for client in &mut crowd {
                // All at once, without waiting for an answer.
                for index in 0..40 {
                    let room = format!("room {index}");
                    client.send(&json!({"type": "join", "id": index, "room": room, "presence": true}).to_string());
                }
            }
            for client in &mut crowd {
                (0..40).for_each(|id| assert_eq!(client.answer_to(id)["type"], "joined"));
            }
            assert_eq!(witness.ask(json!({"type": "members", "room": "room 0"}))["count"], 31);
            if round % 2 == 0 {
                for client in &mut crowd {
                    (0..40).for_each(|index| {
                        client.send(
                            &json!({"type": "leave", "id": 100 + index, "room": format!("room {index}")}).to_string(),
                        );
                    });
                }
                for client in &mut crowd {
                    (0..40).for_each(|id| assert_eq!(client.answer_to(100 + id)["type"], "left"));
                }
            }
            drop(crowd);
            wait_until("only the witness is left", || server.metric("banter_subscriptions") == 1);
            wait_until("and a member", || witness.ask(json!({"type": "members", "room": "room 0"}))["count"] == 1);
        }
    }
}
