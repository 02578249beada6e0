//! The client over real sockets: a server that is gone, a node that stands by, and the one that it names.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::Duration;

use banter_client::{Client, Event, Options, UserName};
use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event as Said;
use banter_protocol::native;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers whatever the first connection says with these, and closes: where, and what it was told.
fn server(said: &[Said<'_>]) -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut answer = Vec::new();
    said.iter().for_each(|event| native::write_event(event, &mut answer));
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = vec![0; 4096];
        let bytes = stream.read(&mut heard).unwrap();
        heard.truncate(bytes);
        stream.write_all(&answer).unwrap();
        heard
    });
    (address, served)
}

#[test]
fn the_client_goes_over_a_server_that_is_gone_and_a_node_that_stands_by_to_the_one_that_serves() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (id, durability) = (Some(1), "synced");
    let welcome =
        Said::Welcome { id, session: "s", user: "ann", durability, features: "", limits: "", expires_in_ms: None };
    let (owner, owner_heard) = server(&[welcome]);
    let nodes = format!("{owner}\n");
    let away = Said::Error {
        id,
        code: ErrorCode::Unavailable,
        message: "come to another one",
        retry_after_ms: Some(1_000),
        scope: None,
        reason: None,
    };
    let (standby, standby_heard) = server(&[Said::Nodes { nodes: &nodes }, away]);

    let mut options = Options::new(UserName::new("ann").unwrap(), 7);
    (options.addresses, options.token) = (vec![standby], Some("t0ken".to_owned()));
    let mut client = Client::with_options(&gone, options);
    while !matches!(client.next_event(PATIENCE).unwrap(), Some(Event::Connected { .. })) {}
    assert_eq!((client.address(), client.nodes()), (owner.as_str(), &[owner.clone()][..]));
    for heard in [standby_heard, owner_heard] {
        assert!(String::from_utf8_lossy(&heard.join().unwrap()).contains("t0ken"));
    }
}
