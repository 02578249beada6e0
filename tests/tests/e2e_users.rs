//! End to end: how many connections one user may have, over all forms and cores, and what becomes of the oldest.

use std::fs;
use std::path::PathBuf;

use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_tests::server_process::{ServerProcess, core_counts, wait_until};
use banter_tests::wire_client::{Ended, Form, WireClient};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

const LIMIT: &str = "connections_per_user_max";
const CLOSE_REPLACED: u16 = 4_409;

/// A server, and the file that it reads.
struct Setup {
    folder: TempDir,
    server: ServerProcess,
}

impl Setup {
    fn start(cores: usize, config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("banter.toml");
        fs::write(&path, config).expect("a file");
        let server = ServerProcess::start(cores, &["--durability", "memory", "--config", path.to_str().expect("text")]);
        Setup { folder, server }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("banter.toml")
    }

    fn reload(&self, config: &str) {
        let lines = || self.server.log().lines().filter(|line| line.contains("reloaded; ")).count();
        let before = lines();
        fs::write(self.path(), config).expect("a file");
        self.server.signal(Signal::HUP);
        wait_until("it has followed the file", || lines() > before);
    }

    fn hello(&self, form: Form, user: &str) -> WireClient {
        WireClient::hello(self.server.address(), form, user)
    }

    /// Times that the limit ended somebody, or would have.
    fn counted(&self, name: &str) -> u64 {
        let text = self.server.http("GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
        let is_of_limit = |line: &&str| line.starts_with(name) && line.contains(&format!("\"{LIMIT}\""));
        text.lines().filter(is_of_limit).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

fn must_be_there(client: &mut WireClient) {
    assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
}

/// That the connection was told to make room, and closed behind that.
fn must_be_replaced(mut client: WireClient, form: Form) {
    let (events, ended) = client.read_to_end();
    let last = events.last().expect("it is told why");
    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("replaced")), "{events:?}");
    assert!(last["id"].is_null() || last["id"] == 0, "it is about no request: {last}");
    assert_eq!(ended, if form == Form::Native { Ended::Eof } else { Ended::Closed(CLOSE_REPLACED) });
}

#[test]
fn one_connection_more_than_a_user_may_have_ends_its_oldest_on_whatever_core() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "[limits]\nconnections_per_user_max = 2\n");
        let mut bob = setup.hello(Form::Json, "bob");
        let mut there = Vec::new();
        // The kernel spreads them over the cores.
        for number in 0..12 {
            let form = Form::ALL[number % 3];
            there.push((setup.hello(form, "ann"), form));
            if there.len() > 2 {
                let (oldest, form) = there.remove(0);
                must_be_replaced(oldest, form);
            }
        }
        there.iter_mut().for_each(|(client, _)| must_be_there(client));
        must_be_there(&mut bob);
        assert_eq!((setup.counted("banter_limited_total"), setup.server.refusals("replaced")), (10, 10));
        // One that has gone by itself has made room.
        drop(there.pop());
        wait_until("it is gone", || setup.server.metric("banter_connections") == 2);
        let mut newest = setup.hello(Form::Json, "ann");
        must_be_there(&mut newest);
        must_be_there(&mut there[0].0);
        assert_eq!(setup.counted("banter_limited_total"), 10);
    }
}

#[test]
fn it_leaves_its_rooms_and_who_is_left_goes_on() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "[limits]\nconnections_per_user_max = 1\n");
        let mut bob = setup.hello(Form::Json, "bob");
        bob.join("lobby");
        let mut first = setup.hello(Form::Json, "ann");
        first.join("lobby");
        let mut second = setup.hello(Form::Json, "ann");
        must_be_replaced(first, Form::Json);
        wait_until("its room knows", || {
            bob.ask(json!({"type": "members", "room": "lobby"}))["users"] == json!(["bob"])
        });
        second.join("lobby");
        second.post("lobby", json!(1));
        assert_eq!(bob.take_type("message")["user"], "ann");
    }
}

#[test]
fn a_user_is_who_its_token_says_whatever_tokens_it_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = "a secret of more than thirty-two bytes, for tests";
    fs::write(folder.path().join("secret"), secret).expect("a file");
    let file = folder.path().join("secret");
    let setup = Setup::start(
        1,
        &format!("[limits]\n{LIMIT} = 1\n[auth]\nmode = 'token'\nsecret_file = '{}'\n", file.display()),
    );
    let key = SigningKey::from_secret(secret.as_bytes()).expect("a key");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("behind 1970").as_secs();
    let comes = |user: &str, seconds: u64| {
        let token = mint(&key, &ClaimsToMint::new(user, now, now + seconds)).expect("a token");
        let mut client = WireClient::connect(setup.server.address(), Form::Json);
        assert_eq!(client.ask(json!({"type": "hello", "token": token}))["type"], "welcome");
        client
    };
    let first = comes("ann", 600);
    let mut bob = comes("bob", 600);
    // Who has not proved anything ends nobody.
    let mut nobody = WireClient::connect(setup.server.address(), Form::Json);
    assert_eq!(nobody.ask(json!({"type": "hello", "token": "x", "user": "bob"}))["code"], "unauthorized");
    let mut second = comes("ann", 300);
    must_be_replaced(first, Form::Json);
    must_be_there(&mut second);
    must_be_there(&mut bob);
}

#[test]
fn a_limit_that_is_tried_dry_ends_nobody_and_counts_whom_it_would_have() {
    for &cores in core_counts() {
        let setup = Setup::start(
            cores,
            "limits_dry_run = ['connections_per_user_max']\n[limits]\nconnections_per_user_max = 2\n",
        );
        let mut anns: Vec<WireClient> = (0..5).map(|number| setup.hello(Form::ALL[number % 3], "ann")).collect();
        wait_until("they are counted", || setup.counted("banter_limited_dry_run_total") == 3);
        anns.iter_mut().for_each(must_be_there);
        assert_eq!(setup.counted("banter_limited_total"), 0);
    }
}

#[test]
fn a_reload_that_sets_it_closes_nobody_and_the_next_connection_brings_the_user_down_to_it() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "");
        let mut anns: Vec<(WireClient, Form)> =
            (0..6).map(|number| Form::ALL[number % 3]).map(|form| (setup.hello(form, "ann"), form)).collect();
        setup.reload("[limits]\nconnections_per_user_max = 2\n");
        anns.iter_mut().for_each(|(client, _)| must_be_there(client));
        let mut newest = setup.hello(Form::Json, "ann");
        let mut kept = anns.split_off(5);
        anns.into_iter().for_each(|(client, form)| must_be_replaced(client, form));
        must_be_there(&mut newest);
        must_be_there(&mut kept[0].0);
        // And one that takes it away lets in as many as come.
        setup.reload("");
        let mut more: Vec<WireClient> = (0..4).map(|_| setup.hello(Form::Json, "ann")).collect();
        more.iter_mut().for_each(must_be_there);
        must_be_there(&mut newest);
        must_be_there(&mut kept[0].0);
        assert_eq!(setup.counted("banter_limited_total"), 5);
    }
}
