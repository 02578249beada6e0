//! End to end: every limit that refuses is reached over a socket: it refuses and says so, lets in what is below it, and refuses
//! nobody where it is only tried (`limits_dry_run`). A limit that does nothing fails here, and so does one that refuses all.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};

use banter_access::limit::Limit;
use banter_access::rights::Rights;
use banter_protocol::error_code::Scope;
use banter_tests::access_world::{AUDIENCE, ISSUER, SECRET, claims, token};
use banter_tests::raw_peer::RawPeer;
use banter_tests::server_process::{ServerProcess, wait_until};
use banter_tests::wire_client::{Form, WireClient, stream_from, upgrade};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where visitors' connections come from. Loopback itself is a proxy here, since it has no limit by address.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// An address for documentation (RFC 5737).
const VISITOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// What each limit is in its server.
const MAX: u32 = 2;
/// How often is asked where it counts a second: more than that many seconds' worth.
const ASKS: u64 = 60;
/// The first of their ids.
const FIRST_ID: u64 = 1_000;

/// A server with that one limit.
struct Limited {
    server: ServerProcess,
    limit: Limit,
    _folder: TempDir,
}

/// What became of those who came or asked.
#[derive(Debug, Default)]
struct Outcome {
    taken: u64,
    refusals: Vec<Value>,
}

impl Outcome {
    fn add(&mut self, answer: Value) {
        match &answer["type"] {
            kind if kind == "error" => self.refusals.push(answer),
            _ => self.taken += 1,
        }
    }
}

impl Limited {
    fn start(limit: Limit, is_dry: bool) -> Self {
        let folder = TempDir::new().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("secret"), SECRET).expect("a file");
        let dry = if is_dry { format!("'{}'", limit.name()) } else { String::new() };
        // A room's own is said where rooms are.
        let said = match limit {
            Limit::RoomPosts => format!("[[rooms]]\nmatch = '*'\nposts_per_second_max = {MAX}"),
            Limit::GuestPosts => {
                format!("[limits]\n{} = {MAX}\n[[rooms]]\nmatch = '*'\nguests = ['read', 'write']", limit.name())
            }
            _ => format!("[limits]\n{} = {MAX}", limit.name()),
        };
        let config = format!(
            "durability = 'memory'\nproxy_protocol = true\ntrusted_proxies = ['{PROXY}']\nlimits_dry_run = [{dry}]\n\
             [auth]\nmode = 'token'\nsecret_file = '{}'\nissuer = '{ISSUER}'\naudience = '{AUDIENCE}'\nguests = true\n\
             {said}\n",
            path("secret").display(),
        );
        std::fs::write(path("banter.toml"), config).expect("a file");
        let server = ServerProcess::start(1, &["--config", path("banter.toml").to_str().expect("text")]);
        Limited { server, limit, _folder: folder }
    }

    /// Brings the limit about, in one of the wire forms.
    fn reach(&self, form: Form) -> Outcome {
        let mut outcome = Outcome::default();
        match self.limit {
            Limit::Connections | Limit::ConnectionsPerIp | Limit::ConnectsPerIp => {
                let count = if self.limit == Limit::ConnectsPerIp { ASKS } else { 5 };
                let connections: Vec<_> = (0..count).map(|_| self.visits(form)).collect();
                connections.into_iter().for_each(|(_, first)| outcome.add(first));
            }
            Limit::ConnectionsUnproved => {
                outcome.add(self.visits(form).1);
                let _silent: Vec<_> = (0..MAX).map(|_| RawPeer::connect(self.server.address())).collect();
                // The kernel hands them over in its own time.
                wait_until("they are there", || {
                    outcome.add(self.visits(form).1);
                    !outcome.refusals.is_empty() || self.counted("banter_limited_dry_run_total") > 0
                });
            }
            Limit::AuthFailuresPerIp => {
                let mut client = WireClient::over(self.visitor(), form);
                for _ in 0..MAX {
                    let refused = client.ask(json!({"type": "hello", "token": "a.b.c"}));
                    outcome.taken += u64::from(refused["code"] == "unauthorized");
                }
                outcome.add(self.visits(form).1);
            }
            Limit::Rooms => {
                let mut client = self.client(form);
                (0..MAX + 1)
                    .for_each(|room| outcome.add(client.ask(json!({"type": "join", "room": room.to_string()}))));
            }
            Limit::Guests => {
                let guests: Vec<_> = (0..MAX + 1)
                    .map(|_| {
                        let mut guest = WireClient::connect(self.server.address(), form);
                        outcome.add(guest.ask(json!({"type": "hello"})));
                        guest
                    })
                    .collect();
                drop(guests);
            }
            Limit::ConnectionsPerUser => {
                let mut clients: Vec<_> = (0..MAX + 1).map(|_| self.client(form)).collect();
                outcome.taken += u64::from(MAX) + 1;
                wait_until("it is counted", || {
                    self.counted("banter_limited_total") + self.counted("banter_limited_dry_run_total") > 0
                });
                // It is the newest that is let in, and the oldest that hears of it.
                if self.counted("banter_limited_total") > 0 {
                    outcome.add(clients[0].next_event());
                }
                assert_eq!(clients[1].ask(json!({"type": "ping"}))["type"], "pong");
            }
            Limit::Posts | Limit::GuestPosts | Limit::RoomPosts => {
                self.ask_often(form, &json!({"type": "post", "room": "busy", "body": 1}), &mut outcome);
            }
            Limit::Signals => self.signal_often(form, &mut outcome),
            Limit::Joins => self.ask_often(form, &json!({"type": "join", "room": "busy"}), &mut outcome),
            Limit::Fetches => self.ask_often(form, &json!({"type": "fetch", "room": "busy", "after": 0}), &mut outcome),
            Limit::Members => self.ask_often(form, &json!({"type": "members", "room": "busy"}), &mut outcome),
            Limit::RoomSignals => self.signal_in_a_room(form, &mut outcome),
        }
        outcome
    }

    /// Asks so often at once.
    fn ask_often(&self, form: Form, ask: &Value, outcome: &mut Outcome) {
        let mut client = self.asking(form, ask);
        (0..ASKS).for_each(|id| outcome.add(client.answer_to(FIRST_ID + id)));
    }

    /// One who has sent so many of them.
    fn asking(&self, form: Form, ask: &Value) -> WireClient {
        let mut client = self.client(form);
        client.join("busy");
        for id in FIRST_ID..FIRST_ID + ASKS {
            let mut ask = ask.clone();
            ask["id"] = json!(id);
            client.send(&ask.to_string());
        }
        client
    }

    /// The same with signals: one that was taken has no answer.
    fn signal_often(&self, form: Form, outcome: &mut Outcome) {
        let mut client = self.asking(form, &json!({"type": "signal", "room": "busy", "body": 1}));
        client.send(&json!({"type": "ping", "id": FIRST_ID + ASKS}).to_string());
        let is_answer = |event: &Value| event["id"].as_u64().is_some_and(|id| id >= FIRST_ID);
        loop {
            let answer = client.take("an answer", is_answer);
            if answer["type"] == "pong" {
                outcome.taken += ASKS - outcome.refusals.len() as u64;
                return;
            }
            outcome.add(answer);
        }
    }

    /// Signals of a room above its limit are lost: nobody is told, and those that came are counted.
    fn signal_in_a_room(&self, form: Form, outcome: &mut Outcome) {
        let (mut client, mut listener) = (self.client(form), self.client(form));
        client.join("busy");
        listener.join("busy");
        for _ in 0..ASKS {
            client.send(&json!({"type": "signal", "room": "busy", "body": 1}).to_string());
        }
        client.post("busy", json!("end"));
        loop {
            match listener.next_event()["type"].as_str() {
                Some("signal") => outcome.taken += 1,
                Some("message") => break,
                other => panic!("{other:?}"),
            }
        }
        if outcome.taken < ASKS {
            outcome.refusals.push(Value::Null);
        }
    }

    fn visitor(&self) -> TcpStream {
        let mut stream = stream_from(PROXY, self.server.address());
        write!(stream, "PROXY TCP4 {VISITOR} 198.51.100.1 50000 443\r\n").expect("the server takes bytes");
        stream
    }

    /// A visitor who says hello, and the first that it is told; a refusal of the upgrade is one, too.
    fn visits(&self, form: Form) -> (Option<WireClient>, Value) {
        if form != Form::Native && self.limit == Limit::AuthFailuresPerIp {
            return match upgrade(self.visitor(), None) {
                Ok(_) => (None, json!({"type": "welcome"})),
                Err((429, body)) => {
                    let mut error = serde_json::from_str::<Value>(&body).expect("JSON")["error"].clone();
                    error["type"] = json!("error");
                    (None, error)
                }
                Err(other) => panic!("{other:?}"),
            };
        }
        let mut client = WireClient::over(self.visitor(), form);
        let _ = client.try_send(&json!({"type": "hello", "id": 1, "token": self.token()}).to_string());
        let first = client.next_event();
        (Some(client), first)
    }

    fn token(&self) -> String {
        token(&claims("ann", &[("*", Rights::MEMBER)]))
    }

    /// One that came in, from an address without limits; a guest where the limit is one of theirs.
    fn client(&self, form: Form) -> WireClient {
        let mut client = WireClient::connect(self.server.address(), form);
        let hello = match self.limit {
            Limit::GuestPosts => json!({"type": "hello"}),
            _ => json!({"type": "hello", "token": self.token()}),
        };
        assert_eq!(client.ask(hello)["type"], "welcome");
        client
    }

    fn counted(&self, family: &str) -> u64 {
        let limit = format!("limit=\"{}\"", self.limit.name());
        let metrics = self.server.metrics();
        let of_limit = metrics.iter().filter(|(name, _)| name.starts_with(family) && name.contains(&limit));
        of_limit.map(|(_, value)| value).sum()
    }
}

fn must_say_so(limit: Limit, refusal: &Value) {
    // What is above a room's own limit is lost without a word.
    if limit == Limit::RoomSignals {
        return;
    }
    if limit == Limit::ConnectionsPerUser {
        assert_eq!(refusal["code"], "replaced", "{refusal}");
        return;
    }
    let is_of_server = limit.scope() == Scope::Server || limit == Limit::Rooms;
    let code = if is_of_server { "overloaded" } else { "rate_limited" };
    assert_eq!((&refusal["code"], &refusal["scope"]), (&json!(code), &json!(limit.scope().as_str())), "{refusal}");
    let name = limit.name().rsplit('.').next().expect("a name");
    assert!(refusal["message"].as_str().is_some_and(|message| message.contains(name)), "{refusal}");
    assert!(refusal["retry_after_ms"].as_u64().is_some_and(|ms| (1..=60_000).contains(&ms)), "{refusal}");
}

#[test]
fn every_limit_refuses_what_is_above_it_alone_and_nobody_where_it_is_tried() {
    for (&limit, form) in Limit::ALL.iter().zip(Form::ALL.into_iter().cycle()) {
        let enforced = Limited::start(limit, false);
        let outcome = enforced.reach(form);
        assert!(outcome.taken >= 1 && !outcome.refusals.is_empty(), "{limit:?}, {form:?}: {outcome:?}");
        outcome.refusals.iter().for_each(|refusal| must_say_so(limit, refusal));
        let counts = (enforced.counted("banter_limited_total"), enforced.counted("banter_limited_dry_run_total"));
        assert!(counts.0 >= outcome.refusals.len() as u64 && counts.1 == 0, "{limit:?}, {form:?}: {counts:?}");
        drop(enforced);

        let dry = Limited::start(limit, true);
        let outcome = dry.reach(form);
        assert!(outcome.refusals.is_empty(), "{limit:?}, {form:?}: {outcome:?}");
        let counts = (dry.counted("banter_limited_total"), dry.counted("banter_limited_dry_run_total"));
        assert!(counts.0 == 0 && counts.1 >= 1, "{limit:?}, {form:?}: {counts:?}");
    }
}
