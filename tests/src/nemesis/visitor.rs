//! A client that knows the addresses of all nodes, and goes on to the next where it is not served.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::seeded::Seeded;
use crate::wire_client::{Came, Form, WireClient};

/// What a connection, an upgrade and a welcome may take: each is bounded alone.
const HELLO_PATIENCE: Duration = Duration::from_millis(1_500);
/// What a send may take whose bytes nobody takes.
const SEND_PATIENCE: Duration = Duration::from_secs(3);
/// How long a read waits for an event. Whoever reads has other things to do beside.
const READ_PATIENCE: Duration = Duration::from_millis(20);
/// How long a client bears that nothing comes, with an answer due or a ping under way.
pub const SILENCE_MAX: Duration = Duration::from_secs(4);
/// The rest behind all addresses that were tried in vain, at most.
const REST_MS_MAX: usize = 200;

/// A client.
pub struct Visitor {
    user: String,
    addresses: Vec<SocketAddr>,
    at: usize,
    client: Option<WireClient>,
    chance: Seeded,
    /// When something came last.
    heard: Instant,
    /// Connections that were lost, and addresses that did not serve.
    pub turned_away: u64,
}

impl Visitor {
    /// One that begins with any of the addresses.
    pub fn new(user: &str, addresses: &[SocketAddr], mut chance: Seeded) -> Self {
        let at = chance.below(addresses.len());
        let (user, addresses) = (user.to_owned(), addresses.to_vec());
        Visitor { user, addresses, at, client: None, chance, heard: Instant::now(), turned_away: 0 }
    }

    /// The node that it is connected with, or tries next.
    pub fn node(&self) -> usize {
        self.at
    }

    /// Whether there is a connection that a node has welcomed.
    pub fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    /// Tries one address; whether it is connected. What is asked behind a new connection is the caller's business.
    pub fn connect(&mut self) -> bool {
        let form = *self.chance.pick(&Form::ALL);
        self.client = self.hello(form);
        if self.client.is_none() {
            self.leave();
            if self.chance.once_in(self.addresses.len()) {
                std::thread::sleep(Duration::from_millis(self.chance.below(REST_MS_MAX) as u64));
            }
        }
        self.heard = Instant::now();
        self.is_connected()
    }

    fn hello(&mut self, form: Form) -> Option<WireClient> {
        let stream = TcpStream::connect_timeout(&self.addresses[self.at], HELLO_PATIENCE).ok()?;
        stream.set_read_timeout(Some(HELLO_PATIENCE)).ok()?;
        stream.set_write_timeout(Some(SEND_PATIENCE)).ok()?;
        let mut client = WireClient::try_over(stream, form, &[]).ok()?;
        client.try_send(&json!({"type": "hello", "id": 1, "user": self.user}).to_string()).ok()?;
        loop {
            match client.next_or_silence() {
                Came::Event(event) if event["type"] == "welcome" => break,
                // `nodes` and `unavailable` come ahead of the end.
                Came::Event(_) => {}
                Came::Nothing | Came::End(_) => return None,
            }
        }
        client.stream().set_read_timeout(Some(READ_PATIENCE)).ok()?;
        Some(client)
    }

    /// Gives the connection up; the next address comes next.
    pub fn leave(&mut self) {
        self.client = None;
        self.at = (self.at + 1) % self.addresses.len();
        self.turned_away += 1;
    }

    /// Sends a request; a connection that does not take it is left.
    pub fn send(&mut self, text: &str) -> bool {
        let sent = self.client.as_mut().is_some_and(|client| client.try_send(text).is_ok());
        if !sent && self.is_connected() {
            self.leave();
        }
        sent
    }

    /// The next event, if one comes soon. A connection that has ended is left, and one by which a node says that it goes.
    pub fn next(&mut self) -> Option<Value> {
        match self.client.as_mut()?.next_or_silence() {
            Came::Event(event) => {
                self.heard = Instant::now();
                let code = event["code"].as_str();
                if event["type"] == "closing" || (code == Some("unavailable") && event["id"].is_null()) {
                    self.leave();
                    return None;
                }
                Some(event)
            }
            Came::Nothing => None,
            Came::End(_) => {
                self.leave();
                None
            }
        }
    }

    /// For how long nothing came.
    pub fn silence(&self) -> Duration {
        self.heard.elapsed()
    }
}
