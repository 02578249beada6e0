//! Servers at addresses, a session that goes from one to the other, and the time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fake::Server;
use crate::event::Event;
use crate::options::Options;
use crate::session::{Link, Session};

/// What a server does with who comes; its own answers are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    Up,
    /// Nothing listens there.
    Down,
    /// Whoever connects hears nothing.
    Frozen,
}

pub struct Cluster {
    pub session: Session,
    pub servers: BTreeMap<String, (Server, Host)>,
    pub now: Duration,
    /// Where the session went, and when.
    pub attempts: Vec<(String, Duration)>,
    connected: Option<String>,
}

impl Cluster {
    /// Servers at these addresses, all up; the first serves and the others stand by and tell of it.
    pub fn new(options: Options, addresses: &[&str]) -> Self {
        let server = |(index, address): (usize, &&str)| {
            let mut server = Server::default();
            server.stands_by = (index > 0).then(|| format!("{}\n", addresses[0]));
            ((*address).to_owned(), (server, Host::Up))
        };
        Cluster {
            session: Session::new(options),
            servers: addresses.iter().enumerate().map(server).collect(),
            now: Duration::ZERO,
            attempts: Vec::new(),
            connected: None,
        }
    }

    pub fn server(&mut self, address: &str) -> &mut Server {
        &mut self.servers.get_mut(address).unwrap().0
    }

    pub fn set_host(&mut self, address: &str, host: Host) {
        self.servers.get_mut(address).unwrap().1 = host;
        if host == Host::Down && self.connected.as_deref() == Some(address) {
            self.cut("the process died");
        }
    }

    /// One serves from now on, with the rooms of another, which stands by.
    pub fn take_over(&mut self, from: &str, to: &str) {
        let mut rooms = Server::default();
        self.server(from).give_rooms_to(&mut rooms);
        rooms.give_rooms_to(self.server(to));
        self.server(to).stands_by = None;
        self.server(from).stands_by = Some(format!("{to}\n"));
    }

    pub fn where_to(&self) -> Vec<&str> {
        self.attempts.iter().map(|(address, _)| address.as_str()).collect()
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    /// Lets the time pass, with all that happens meanwhile.
    pub fn run_until(&mut self, end: Duration) {
        loop {
            self.settle();
            let next = self.session.poll_timeout().filter(|at| *at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            self.session.handle_timeout(self.now);
        }
        self.now = self.now.max(end);
        self.session.handle_timeout(self.now);
        self.settle();
    }

    pub fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// All that happens without the time going on.
    fn settle(&mut self) {
        loop {
            match self.session.poll_link(self.now) {
                Some(Link::Disconnect) => self.forget(),
                Some(Link::Connect) => self.connect(),
                None if self.exchange() => {}
                None => return,
            }
        }
    }

    fn connect(&mut self) {
        let address = self.session.address().expect("an address was given").to_owned();
        self.attempts.push((address.clone(), self.now));
        match self.servers.get(&address).map(|(_, host)| *host) {
            Some(Host::Up | Host::Frozen) => {
                self.connected = Some(address);
                self.session.handle_connected(self.now);
            }
            _ => self.session.handle_disconnected(self.now, "connection refused"),
        }
    }

    /// Whether anything went either way.
    fn exchange(&mut self) -> bool {
        let Some(address) = self.connected.clone() else { return false };
        let mut up = Vec::new();
        self.session.poll_transmit(&mut up);
        let (server, host) = self.servers.get_mut(&address).unwrap();
        if *host != Host::Up {
            return false;
        }
        if !up.is_empty() {
            server.read(&up);
        }
        let down = std::mem::take(&mut server.out);
        let is_closing = server.is_closing;
        if !down.is_empty() {
            self.session.handle_bytes(self.now, &down);
        }
        if is_closing {
            self.cut("the server closed the connection");
        }
        !up.is_empty() || !down.is_empty() || is_closing
    }

    pub fn cut(&mut self, why: &str) {
        self.forget();
        self.session.handle_disconnected(self.now, why);
    }

    fn forget(&mut self) {
        if let Some(address) = self.connected.take() {
            self.server(&address).disconnect();
        }
    }
}
