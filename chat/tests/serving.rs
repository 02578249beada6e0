//! A machine of a cluster that does not serve sends everybody to others.

mod node;
mod one_core;

use banter_chat::limits::Limits;
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::serving::Serving;
use banter_chat::shard::Input;
use banter_protocol::features::FeatureNames;
use banter_protocol::request::{Ask, Request};
use banter_protocol::wire::WireForm;

use node::{Node, id, room_in};

fn elsewhere() -> Serving {
    Serving::No { nodes: vec!["b.example:7001".into(), "c.example:7001".into()] }
}

fn node() -> Node {
    Node::new(RoomPolicies::all(Durability::Synced))
}

const SENT_AWAY: [&str; 2] = ["nodes b.example:7001 c.example:7001", "0 unavailable 1000"];

#[test]
fn whoever_comes_to_a_machine_that_does_not_serve_is_sent_to_others_and_closed() {
    let mut node = node();
    node.shard.set_serving(elsewhere());
    node.rest();
    node.connect(0, "ann");
    assert!(!node.shard.is_read(id(0)));
    node.rest();
    assert_eq!(node.hear(0), SENT_AWAY);
    assert_eq!(node.ended, [(0, 1_013, "unavailable".to_owned())]);
    assert_eq!(node.shard.sessions().open_count(), 0);
    // The same for whatever else is asked ahead of it, and for what is no request.
    node.shard.handle(id(1), Input::Opened { form: WireForm::Native, preface: &[] });
    node.ask(1, 0, Ask::Ping);
    let fault = banter_protocol::fault::RequestFault { id: Some(0), message: "no request".into() };
    node.shard.handle(id(2), Input::Opened { form: WireForm::Native, preface: &[] });
    node.shard.handle(id(2), Input::BadRequest(fault));
    node.rest();
    assert_eq!((node.hear(1), node.hear(2)), (SENT_AWAY.map(String::from).into(), SENT_AWAY.map(String::from).into()));
    assert_eq!(node.ended.len(), 3);
}

#[test]
fn in_json_the_nodes_are_a_list_and_the_close_code_follows() {
    let mut node = node();
    node.shard.set_serving(elsewhere());
    node.begin_turn();
    node.shard.handle(id(0), Input::Opened { form: WireForm::Json, preface: &[] });
    let hello = Ask::Hello { user: "ann".into(), token: None, features: FeatureNames::NONE };
    node.shard.handle(id(0), Input::Request(&Request { id: Some(4), ask: hello }));
    node.shard.finish_turn();
    let (_, sending) = node.shard.next_send().expect("what it is told");
    let told = String::from_utf8_lossy(sending.bytes()).into_owned();
    let nodes = told.find(r#"{"type":"nodes","nodes":["b.example:7001","c.example:7001"]}"#).expect("nodes");
    let error = told.find(r#"{"type":"error","id":4,"code":"unavailable""#).expect("an error");
    assert!(nodes < error && told.ends_with("unavailable"), "{told}");
}

#[test]
fn those_who_are_there_are_sent_away_in_slices_when_it_stops_serving() {
    let mut node =
        Node::with(RoomPolicies::all(Durability::Synced), Limits { connections_max: 0, ..one_core::roomy() });
    let room = room_in(3, 0);
    node.open_log(3);
    const CONNECTIONS: u32 = 150;
    for slot in 0..CONNECTIONS {
        node.reader(slot, "ann", &[&room]);
    }
    node.shard.set_serving(elsewhere());
    node.close_log(3);
    node.turn();
    assert!((1..CONNECTIONS as usize).contains(&node.ended.len()), "{}", node.ended.len());
    assert!(node.shard.is_busy());
    node.rest();
    assert_eq!(node.ended.len(), CONNECTIONS as usize);
    assert!(node.ended.iter().all(|(_, code, reason)| (*code, &**reason) == (1_013, "unavailable")));
    let nodes = SENT_AWAY[0].to_owned();
    assert!((0..CONNECTIONS).all(|slot| node.hear(slot) == [nodes.clone(), "- unavailable 1000".into()]));
    assert_eq!((node.shard.sessions().open_count(), node.shard.rooms().iter().count()), (0, 0));
    assert!(!node.shard.is_busy());
}

#[test]
fn it_serves_again_when_it_is_told_to_and_says_which_nodes_there_are() {
    let mut node = node();
    node.open_log(3);
    node.connect(0, "ann");
    node.rest();
    assert_eq!(node.hear(0), ["welcome"], "of none, where none was told of");
    node.shard.set_serving(elsewhere());
    node.shard.set_serving(Serving::Yes);
    node.shard.set_nodes(&["a.example:7001".into()]);
    node.rest();
    node.connect(1, "bob");
    node.rest();
    assert_eq!(node.hear(1), ["welcome", "nodes a.example:7001"]);
    node.join(0, &room_in(3, 0));
    node.rest();
    assert_eq!(node.hear(0), ["joined 0 synced"], "it was still there");
}

#[test]
fn a_machine_that_knows_of_no_other_says_only_that_it_does_not_serve() {
    let mut node = node();
    node.shard.set_serving(Serving::No { nodes: Vec::new() });
    node.connect(0, "ann");
    node.rest();
    assert_eq!(node.hear(0), ["0 unavailable 1000"]);
}
