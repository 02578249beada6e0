//! Joins a room, says hello, and prints what is said there: `cargo run -p banter-client --example hello -- [ADDR…]`.

use std::time::Duration;

use banter_client::{Client, ClientError, Event, Join, JoinFrom};

fn main() -> Result<(), ClientError> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let addresses = if given.is_empty() { vec!["127.0.0.1:7878"] } else { given.iter().map(String::as_str).collect() };
    let mut client = Client::of_cluster(&addresses, "hello")?;
    client.join("lobby", Join { from: JoinFrom::Last(10), ..Join::default() })?;

    let posted = client.post_json("lobby", r#""hello from Rust""#, Duration::from_secs(5))?;
    println!("acknowledged: number {} of {}", posted.cursor.sequence.0, posted.room);

    loop {
        match client.next_event(Duration::from_secs(60))? {
            Some(Event::Message(message)) => {
                let body = String::from_utf8_lossy(&message.body.bytes);
                println!("{} {}: {body}", message.cursor.sequence.0, message.user);
            }
            Some(Event::Gap { from, to, .. }) => println!("messages {} to {} are gone", from.0, to.0),
            Some(Event::Disconnected { why, retry_in }) => println!("disconnected: {why}; again in {retry_in:?}"),
            _ => {}
        }
    }
}
