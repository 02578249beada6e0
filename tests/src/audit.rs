//! The independent reader: fetches the history for the ledger, and posts again what was never answered.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ledger::{Answer, Fault, Ledger, Post, number, room_name, writer_name};
use crate::load::{answer_of, request_of};
use crate::wire_client::{Form, WireClient};

/// Messages that one page is asked for; few, so that a history has many pages.
const PAGE_MESSAGES: u64 = 500;
/// Acknowledged posts that each writer sends again, to see that their keys are remembered.
const REMEMBERED: usize = 3;
/// Posts that are sent ahead of their answers.
const AHEAD: usize = 32;
/// Times that a post may be put off.
const PUT_OFF_MAX: usize = 50;

/// Fetches the new part of every room's history, and judges.
pub fn audit(address: SocketAddr, form: Form, ledger: &mut Ledger) {
    let mut client = WireClient::hello(address, form, "auditor");
    for room in 0..ledger.rooms() {
        let joined = client.ask(json!({"type": "join", "room": room_name(room)}));
        assert_eq!(joined["type"], "joined", "{joined}");
        read_room(&mut client, room, ledger);
        ledger.check_head(room, number(&joined["sequence"]));
    }
    ledger.judge();
}

fn read_room(client: &mut WireClient, room: usize, ledger: &mut Ledger) {
    loop {
        let page = fetch(client, room, ledger.read_up_to(room));
        let began_anew = ledger.take_page(room, &page);
        if !began_anew && page["more"] != true {
            return;
        }
        let messages = page["messages"].as_array().expect("a page has messages");
        assert!(began_anew || !messages.is_empty(), "an empty page promises more: {page}");
    }
}

fn fetch(client: &mut WireClient, room: usize, after: u64) -> Value {
    let ask = json!({"type": "fetch", "room": room_name(room), "after": after, "limit": PAGE_MESSAGES});
    loop {
        let page = client.ask(ask.clone());
        if page["code"] != "rate_limited" {
            assert_eq!(page["type"], "page", "{page}");
            return page;
        }
        let retry_after_ms = page["retry_after_ms"].as_u64().expect("when to ask again");
        std::thread::sleep(Duration::from_millis(retry_after_ms));
    }
}

/// Every writer posts again, with the same keys, what was never answered, and a few that were.
pub fn post_again(address: SocketAddr, form: Form, writers: usize, ledger: &mut Ledger) {
    for writer in 0..writers {
        // The acknowledged ones first: those behind them would push their keys out of the window.
        let mut posts = ledger.newest_acknowledged(writer, REMEMBERED);
        posts.append(&mut ledger.unanswered(writer));
        if posts.is_empty() {
            continue;
        }
        let mut client = WireClient::hello(address, form, &writer_name(writer));
        for room in posts.iter().map(|post| post.room).collect::<std::collections::BTreeSet<_>>() {
            let joined = client.ask(json!({"type": "join", "room": room_name(room), "echo": false}));
            assert_eq!(joined["type"], "joined", "{joined}");
        }
        for posts in posts.chunks(AHEAD) {
            let again: Vec<Value> = answers_again(&mut client, posts, ledger);
            let again = posts.iter().zip(again).map(|(post, event)| answered_again(&event, post, ledger)).collect();
            ledger.record(again);
        }
    }
}

/// The answers to posts that are sent again; those that a server puts off for a while are sent until it does not.
fn answers_again(client: &mut WireClient, posts: &[Post], ledger: &Ledger) -> Vec<Value> {
    posts.iter().for_each(|post| client.send(&request_of(post, ledger.bodies)));
    let mut events: Vec<Value> = posts.iter().map(|post| client.answer_to(post.id)).collect();
    for (post, event) in posts.iter().zip(&mut events) {
        for _ in 0..PUT_OFF_MAX {
            let put_off_ms = event["retry_after_ms"].as_u64().filter(|_| event["code"] == "overloaded");
            let Some(put_off_ms) = put_off_ms else { break };
            std::thread::sleep(Duration::from_millis(put_off_ms));
            client.send(&request_of(post, ledger.bodies));
            *event = client.answer_to(post.id);
        }
    }
    events
}

fn answered_again(event: &Value, post: &Post, ledger: &mut Ledger) -> Post {
    let answer = answer_of(event);
    let was_answered = post.answer != Answer::Missing;
    if was_answered && event["duplicate"] != true {
        ledger.add(Fault::Repeated, format!("the key of post {} was forgotten: {event}", post.id));
    } else if was_answered && answer != post.answer {
        ledger.add(Fault::Reordered, format!("{:?} became {event}", post.answer));
    }
    Post { answer, repeated: true, ..post.clone() }
}

/// Whether everything but posting goes on: a page of each room, a join, members, and a signal to another member.
pub fn reading_goes_on(address: SocketAddr, rooms: usize) {
    let [mut reader, mut other] = ["reader", "other"].map(|user| WireClient::hello(address, Form::Json, user));
    for room in 0..rooms {
        let name = room_name(room);
        let (joined, head) = (reader.join(&name), other.join(&name)["sequence"].clone());
        let page = fetch(&mut reader, room, 0);
        let messages = page["messages"].as_array().expect("a page has messages");
        assert!(!messages.is_empty() || head == 0, "{joined}: an empty page of a room that has messages");
        assert_eq!(reader.ask(json!({"type": "members", "room": name}))["type"], "members");
        let signal = json!({"type": "signal", "room": name, "body": room});
        other.send(&signal.to_string());
        reader.take("the signal", |event| event["type"] == "signal" && event["body"] == room);
    }
}
