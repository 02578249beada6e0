//! End to end: what the Rust client asks of a real server, also over a link that keeps breaking.

use std::time::Duration;

use banter_client::{Client, ClientError, FetchFrom, Join, Options, Sequence, UserName};
use banter_tests::cut_proxy::CutProxy;
use banter_tests::server_process::{PATIENCE, ServerProcess, core_counts};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::json;

const MEMORY: [&str; 2] = ["--durability", "memory"];

#[test]
fn a_page_tells_the_keys_and_members_the_names() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &MEMORY);
        let mut client = Client::new(&server.address().to_string(), "ann").expect("a name");
        client.join("room", Join::default()).expect("a name");
        let keys: Vec<String> = (0..5)
            .map(|post| client.post_json("room", &post.to_string(), PATIENCE).expect("it is acknowledged").key)
            .collect();

        let page = client.fetch("room", FetchFrom::After(Sequence(0)), Some(2), PATIENCE).expect("a page");
        assert!(page.more);
        assert_eq!(page.messages.iter().map(|message| message.cursor.sequence.0).collect::<Vec<_>>(), [1, 2]);
        let page = client.fetch("room", FetchFrom::Before(Sequence(6)), Some(3), PATIENCE).expect("a page");
        let told: Vec<_> =
            page.messages.into_iter().map(|message| message.key.expect("it was posted with one")).collect();
        assert_eq!(told, keys[2..]);

        let members = client.members("room", PATIENCE).expect("an answer");
        assert_eq!((members.count, members.users), (1, vec!["ann".to_owned()]));
        assert!(matches!(client.members("", PATIENCE), Err(ClientError::Ask(_))));
    }
}

#[test]
fn a_history_is_paged_through_over_a_link_that_keeps_breaking() {
    const MESSAGES: u64 = 200;
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &MEMORY);
        let mut writer = WireClient::hello(server.address(), Form::Json, "writer");
        writer.join("room");
        (1..=MESSAGES).for_each(|post| assert_eq!(writer.post("room", json!(post))["sequence"], post));

        let proxy = CutProxy::cutting(server.address(), 3 + cores as u64, 6_000);
        let mut options = Options::new(UserName::new("reader").expect("a name"), 1);
        options.reconnect_first = Duration::from_millis(1);
        options.reconnect_max = Duration::from_millis(5);
        let mut reader = Client::with_options(&proxy.address().to_string(), options);
        let mut read = Vec::new();
        loop {
            let from = FetchFrom::After(Sequence(read.len() as u64));
            let page = reader.fetch("room", from, Some(10), PATIENCE).expect("a page in time");
            read.extend(page.messages.iter().map(|message| message.cursor.sequence.0));
            if !page.more {
                break;
            }
        }
        assert_eq!(read, (1..=MESSAGES).collect::<Vec<_>>());
        assert!(proxy.cuts() > 3, "the link broke only {} times", proxy.cuts());
    }
}
