//! End to end: keys that come from an address on this host, which answers, goes away, or hangs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_tests::server_process::{ServerProcess, Start, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};
use tempfile::TempDir;

const ISSUER: &str = "https://id.example.com";

/// An identity provider that answers with this set; with none it takes requests and says nothing.
struct Provider {
    address: SocketAddr,
    set: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    fn start(set: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (set, asked) = (Arc::new(Mutex::new(set)), Arc::new(AtomicUsize::new(0)));
        let (own, counted) = (set.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                counted.fetch_add(1, Ordering::SeqCst);
                let Some(body) = own.lock().expect("nobody panics").clone() else {
                    silent.push(stream);
                    continue;
                };
                let _ = stream.read(&mut [0; 4_096]);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes());
            }
        });
        Provider { address, set, asked }
    }

    fn says(&self, set: String) {
        *self.set.lock().expect("nobody panics") = Some(set);
    }
}

/// A key as the provider has it, made by the program itself.
fn key(folder: &TempDir, kid: &str) -> SigningKey {
    let name = folder.path().join(kid);
    let (code, _, stderr) = banter_tests::server_process::run_to_end(&["key", "new", name.to_str().expect("text")]);
    assert_eq!(code, 0, "{stderr}");
    SigningKey::from_pem(&fs::read_to_string(name.with_extension("key")).expect("a file")).expect("a key").with_kid(kid)
}

fn set(keys: &[&SigningKey]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| key.public_jwk().expect("a key").expect("a public one")).collect();
    format!("{{\"keys\":[{}]}}", keys.join(","))
}

fn token(key: &SigningKey) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("behind 1970").as_secs();
    let claims = ClaimsToMint {
        issuer: Some(ISSUER.to_owned()),
        audience: Some("banter".to_owned()),
        rooms: vec![(Pattern::new("*").expect("a pattern"), Rights::MEMBER)],
        ..ClaimsToMint::new("ann", now, now + 600)
    };
    mint(key, &claims).expect("a token")
}

fn start(folder: &TempDir, address: SocketAddr, more: &str) -> ServerProcess {
    let config = folder.path().join("banter.toml");
    let text = format!(
        "durability = 'memory'\n[auth]\nmode = 'token'\njwks_url = 'http://{address}/jwks'\nissuer = '{ISSUER}'\naudience = \
         'banter'\n{more}"
    );
    fs::write(&config, text).expect("a file");
    let flags = ["--config", config.to_str().expect("text")];
    Start::new(1, &flags).data(&folder.path().join("data")).run()
}

fn hello(server: &ServerProcess, token: &str) -> Value {
    WireClient::connect(server.address(), Form::Json).ask(json!({"type": "hello", "token": token}))
}

fn ready(server: &ServerProcess) -> String {
    server.http("GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n")
}

#[test]
fn keys_come_from_the_address_and_outlive_it_over_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let (good, other) = (key(&folder, "good"), key(&folder, "other"));
    let provider = Provider::start(Some(set(&[&good])));
    {
        let server = start(&folder, provider.address, "");
        wait_until("keys are there", || ready(&server).starts_with("HTTP/1.1 200 "));
        assert_eq!(hello(&server, &token(&good))["user"], "ann");
        // It was fetched a moment ago, so that a name which is not there is nobody's, however often it is shown.
        for _ in 0..10 {
            assert_eq!(hello(&server, &token(&other))["code"], "unauthorized");
        }
        assert_eq!(provider.asked.load(Ordering::SeqCst), 1);
        wait_until("they are kept", || folder.path().join("data/jwks.json").exists());
    }
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    {
        // Another address is another provider, whose keys were never there.
        let server = start(&folder, gone, "");
        assert!(ready(&server).ends_with("\r\n\r\nno key was fetched from jwks_url yet\n"), "{}", ready(&server));
        let refused = hello(&server, &token(&good));
        assert_eq!((&refused["code"], refused["retry_after_ms"].is_u64()), (&json!("unavailable"), true), "{refused}");
        wait_until("it says so", || server.log().contains("keys could not be fetched from http://"));
    }
    // The same one that says nothing any more.
    *provider.set.lock().expect("nobody panics") = None;
    let server = start(&folder, provider.address, "");
    assert!(ready(&server).starts_with("HTTP/1.1 200 "), "{}", ready(&server));
    assert_eq!(hello(&server, &token(&good))["user"], "ann");
}

#[test]
fn an_address_that_hangs_holds_nobody_up_and_keys_come_once_it_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let (good, own) = (key(&folder, "good"), key(&folder, "own"));
    let provider = Provider::start(None);
    let keys = format!("keys = ['{}']", folder.path().join("own.pem").display());
    let server = start(&folder, provider.address, &keys);
    wait_until("it is asked", || provider.asked.load(Ordering::SeqCst) == 1);
    assert!(ready(&server).starts_with("HTTP/1.1 200 "), "it has a key of its own");
    let mut ann = WireClient::connect(server.address(), Form::Json);
    assert_eq!(ann.ask(json!({"type": "hello", "token": token(&own)}))["type"], "welcome");
    ann.join("lobby");
    for _ in 0..20 {
        assert_eq!(ann.post("lobby", json!("hi"))["type"], "posted");
        assert_eq!(hello(&server, &token(&good))["code"], "unavailable");
    }
    assert_eq!(provider.asked.load(Ordering::SeqCst), 1, "one at a time");
    provider.says(set(&[&good]));
    wait_until("keys come with the next try", || hello(&server, &token(&good))["type"] == "welcome");
    assert_eq!(ann.post("lobby", json!("still here"))["type"], "posted");
}
