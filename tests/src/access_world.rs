//! A server that asks for tokens, and what the tests of access do with it: make tokens, revoke, open and close rooms, look.
//!
//! Tests share one server and do not meet: names, rooms and addresses come from [`World::fresh`] and [`World::fresh_address`],
//! and nobody else has them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_access::token::LEEWAY_SECONDS;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin_socket;
use crate::server_process::{ServerProcess, Start};
use crate::wire_client::{Ended, Form, WireClient};

/// Whose tokens the server takes.
pub const ISSUER: &str = "https://id.example.com";
/// For whom they must be.
pub const AUDIENCE: &str = "banter";
/// What tokens are signed with.
pub const SECRET: &str = "a secret of more than thirty-two bytes, for tests";
/// A public key of the server's that has no name.
pub const ED25519_PUBLIC: &str = include_str!("../../access/tests/keys/ed25519-a.pub.pem");
/// The private one of it.
pub const ED25519: &str = include_str!("../../access/tests/keys/ed25519-a.pem");
/// The private key of a public one of the server's that has the name [`KID`].
pub const P256: &str = include_str!("../../access/tests/keys/p256-a.pem");
/// The name of a key.
pub const KID: &str = "one";
/// Milliseconds from a token's end to that of its connection.
pub const GRACE_MS: u64 = 5_000;
/// Seconds that a token of [`ending`] still holds, at most; a second less at least.
const ENDING_SECONDS: u64 = 2;
/// Jobs that are done at a time: most of them wait for the server or the clock.
const WORKERS: usize = 8;

/// The server.
pub struct World {
    server: ServerProcess,
    cores: usize,
    folder: TempDir,
    config: String,
    /// Rooms that `[[rooms]]` lets every user read.
    open: Mutex<BTreeSet<String>>,
    names: AtomicUsize,
}

impl World {
    /// On so many cores, with keys ahead of the tables of the configuration, and further tables.
    pub fn start(cores: usize, keys: &str, tables: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        Self::start_in(folder, cores, keys, tables)
    }

    /// The same in a folder, in which `data` is the data folder.
    pub fn start_in(folder: TempDir, cores: usize, keys: &str, tables: &str) -> Self {
        let own = folder.path().display();
        let config = format!(
            "{keys}\n[auth]\nmode = 'token'\nkeys = ['{own}/own.pem', '{own}/own.json']\nsecret_file = '{own}/secret'\n\
             issuer = '{ISSUER}'\naudience = '{AUDIENCE}'\ngrace_ms = {GRACE_MS}\n[admin]\nsocket = '{own}/admin.sock'\n{tables}\n"
        );
        let named = SigningKey::from_pem(P256).expect("a key").with_kid(KID);
        let named = named.public_jwk().expect("a key").expect("a public one");
        for (name, text) in
            [("own.pem", ED25519_PUBLIC), ("own.json", &*named), ("secret", SECRET), ("banter.toml", &*config)]
        {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        let server = run(folder.path(), cores);
        World { server, cores, folder, config, open: Mutex::default(), names: AtomicUsize::new(1) }
    }

    /// Kills the server, and starts it again on what it left.
    pub fn start_again(&mut self) {
        self.server.kill();
        self.server = run(self.folder.path(), self.cores);
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// A name that nobody else has.
    pub fn fresh(&self, stem: &str) -> String {
        format!("{stem}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// An address of loopback that nobody else connects from.
    pub fn fresh_address(&self) -> Ipv4Addr {
        let number = self.names.fetch_add(1, Ordering::Relaxed) as u16;
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(127, 1, high, low)
    }

    /// Asks the interface for backends; the status, and the body if it is JSON.
    pub fn backend(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let told = admin_socket::ask(&self.folder.path().join("admin.sock"), method, path, body);
        (told.status, told.json())
    }

    fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.backend(method, path, body);
        assert!((200..300).contains(&status), "{method} {path} {body}: {status} {answer}");
        answer
    }

    /// Revokes what that names.
    pub fn revoke(&self, named: &Value) {
        self.must("POST", "/v1/revocations", named);
    }

    /// Takes a revocation back, which that query names.
    pub fn lift(&self, query: &str) {
        let lifted = self.must("DELETE", &format!("/v1/revocations?{query}"), &Value::Null);
        assert_eq!(lifted["lifted"], 1, "{query}");
    }

    /// Takes a user out of a room.
    pub fn kick(&self, room: &str, user: &str) {
        self.must("DELETE", &format!("/v1/rooms/{room}/members/{user}"), &Value::Null);
    }

    /// Ends a user's connections.
    pub fn disconnect(&self, user: &str) {
        self.must("POST", &format!("/v1/users/{user}/disconnect"), &Value::Null);
    }

    /// Has `[[rooms]]` let every user read a room and those below it (`ROOM/…`), and look back there, by a reload.
    pub fn open(&self, room: &str) {
        self.reload(|open| open.insert(room.to_owned()));
    }

    /// Takes that back, by another.
    pub fn close(&self, room: &str) {
        self.reload(|open| open.remove(room));
    }

    fn reload(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) {
        let mut open = self.open.lock().expect("nobody panics with it");
        if !change(&mut open) {
            return;
        }
        let entry = |room: String| format!("[[rooms]]\nmatch = '{room}'\nusers = ['read', 'history']\n");
        let entries: String = open.iter().flat_map(|room| [room.clone(), format!("{room}/*")]).map(entry).collect();
        fs::write(self.folder.path().join("banter.toml"), format!("{}{entries}", self.config)).expect("a file");
        let reloaded = self.must("POST", "/v1/reload", &Value::Null);
        assert_eq!(reloaded["takes_effect"][0]["key"], "rooms.users", "{reloaded}");
    }

    /// The core that a room is on.
    pub fn core_of(&self, room: &str) -> usize {
        let room = self.must("GET", &format!("/v1/rooms/{room}"), &Value::Null);
        room["core"].as_u64().expect("a number") as usize
    }

    /// The users in a room.
    pub fn members(&self, room: &str) -> Vec<String> {
        let answer = self.must("GET", &format!("/v1/rooms/{room}/members?limit=1000"), &Value::Null);
        let users = answer["users"].as_array().expect("users");
        users.iter().map(|user| user.as_str().expect("a name").to_owned()).collect()
    }

    /// A client that came in with that token.
    pub fn comes_in(&self, form: Form, claims: &ClaimsToMint) -> WireClient {
        greeted(WireClient::connect(self.address(), form), claims)
    }
}

fn run(folder: &Path, cores: usize) -> ServerProcess {
    let (config, data): (PathBuf, PathBuf) = (folder.join("banter.toml"), folder.join("data"));
    Start::new(cores, &["--config", config.to_str().expect("text")]).data(&data).run()
}

/// Says hello with that token.
pub fn greeted(mut client: WireClient, claims: &ClaimsToMint) -> WireClient {
    client.must_be_welcome(json!({"type": "hello", "token": token(claims)}));
    client
}

/// Seconds since 1970.
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("behind 1970").as_secs()
}

/// What a token says that the server takes, with rights by patterns.
pub fn claims(user: &str, rooms: &[(&str, Rights)]) -> ClaimsToMint {
    let grant = |&(pattern, rights): &(&str, Rights)| (Pattern::new(pattern).expect("a pattern"), rights);
    let now = now_seconds();
    ClaimsToMint {
        issuer: Some(ISSUER.to_owned()),
        audience: Some(AUDIENCE.to_owned()),
        rooms: rooms.iter().map(grant).collect(),
        ..ClaimsToMint::new(user, now, now + 600)
    }
}

/// The same, but it ends in two seconds at most, and holds for one at least.
pub fn ending(claims: ClaimsToMint) -> ClaimsToMint {
    let now = now_seconds();
    ClaimsToMint { issued_seconds: now - 60, expires_seconds: now + ENDING_SECONDS - LEEWAY_SECONDS, ..claims }
}

/// A token that says so.
pub fn token(claims: &ClaimsToMint) -> String {
    signed(SECRET, claims)
}

/// The same, signed with that secret.
pub fn signed(secret: &str, claims: &ClaimsToMint) -> String {
    mint(&SigningKey::from_secret(secret.as_bytes()).expect("a key"), claims).expect("a token")
}

/// What an ask was answered: the event's type, or the code of the refusal.
pub fn code(answer: &Value) -> String {
    let text = if answer["type"] == "error" { &answer["code"] } else { &answer["type"] };
    text.as_str().expect("a text").to_owned()
}

/// How a connection ends that the server closes with that code.
pub fn closed_with(form: Form, code: u16) -> Ended {
    if form == Form::Native { Ended::Eof } else { Ended::Closed(code) }
}

/// Does all of them, some at a time, the first ones first.
pub fn each_at_once<Job: Sync>(jobs: &[Job], work: impl Fn(&Job) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(job);
                }
            });
        }
    });
}
