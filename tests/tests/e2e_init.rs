//! End to end: from an empty folder to a server with tokens, by the commands that `banter init` itself says.

use std::fs;
use std::path::Path;

use banter_tests::server_process::{ServerProcess, Start, run_to_end, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().expect("text").to_owned()
}

/// Makes a folder for a start, whose interface for backends takes any port that is free.
fn init(folder: &TempDir, more: &str) -> String {
    let (code, said, stderr) = run(&format!("init {} {more}", folder.path().display()));
    assert_eq!(code, 0, "{stderr}");
    let config = path(folder, "banter.toml");
    let text = fs::read_to_string(&config).expect("a file");
    assert!(text.contains("listen = \"127.0.0.1:7879\""), "{text}");
    fs::write(&config, text.replace("127.0.0.1:7879", "127.0.0.1:0")).expect("a file");
    said
}

/// Runs a command line of the program, which has no word with blanks in it.
fn run(line: &str) -> (i32, String, String) {
    let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('\'')).collect();
    run_to_end(&words)
}

fn hello(server: &ServerProcess, token: &str) -> Value {
    WireClient::connect(server.address(), Form::Json).ask(json!({"type": "hello", "token": token}))
}

#[test]
fn the_commands_that_init_says_lead_to_a_joined_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = init(&folder, "");
    let next: Vec<&str> = said.lines().filter_map(|line| line.trim_start().strip_prefix("banter ")).collect();
    let [serve, token, inspect, ctl] = next[..] else { panic!("four commands: {said}") };
    let data = folder.path().join("data");
    let flags: Vec<&str> = serve.split_whitespace().collect();
    let server = Start::new(1, &flags).data(&data).run();
    let (code, made, stderr) = run(token);
    assert_eq!(code, 0, "{stderr}");
    let token = made.lines().next().expect("a token");
    let mut client = WireClient::connect(server.address(), Form::Json);
    assert_eq!(client.ask(json!({"type": "hello", "token": token}))["user"], "ann");
    assert_eq!(client.join("lobby")["type"], "joined");
    let (code, said, _) = run(&inspect.replace("TOKEN", token));
    assert!(code == 0 && said.contains("app.pem") && said.contains("verdict  taken"), "{code}: {said}");
    let (code, said, stderr) = run(ctl);
    assert!(code == 0 && said.contains("\nnow          1 connection, 1 room, 1 reading\n"), "{code}: {said} {stderr}");
    // Of the backend's key the configuration has the hash alone.
    let key = fs::read_to_string(path(&folder, "api.key")).expect("a key");
    assert!(
        key.trim().len() >= 43
            && !fs::read_to_string(path(&folder, "banter.toml")).expect("a file").contains(key.trim())
    );
    let line = server.log().lines().find_map(|line| Some(line.split_once("backends are answered on ")?.1.to_owned()));
    let address: std::net::SocketAddr = line
        .expect("a line")
        .trim_start_matches("http://")
        .split(' ')
        .next()
        .expect("one")
        .parse()
        .expect("an address");
    for (key, status) in [(key.trim(), "200"), ("another", "401")] {
        let ask =
            format!("GET /v1/rooms HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\r\n");
        let answer = banter_tests::server_process::http(address, &ask);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    // A second one has nothing to overwrite.
    let before = fs::read_to_string(path(&folder, "app.key")).expect("a key");
    let (code, _, stderr) = run(&format!("init {}", folder.path().display()));
    assert!(code == 78 && stderr.contains("nothing is ever overwritten"), "{code}: {stderr}");
    assert_eq!(fs::read_to_string(path(&folder, "app.key")).expect("a key"), before);
}

#[test]
fn a_key_is_changed_while_the_server_runs_and_both_are_taken_meanwhile() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, old, new) = (path(&folder, "banter.toml"), path(&folder, "app"), path(&folder, "next"));
    init(&folder, "");
    let server = Start::new(1, &["--config", &config]).data(&folder.path().join("data")).run();
    let (code, said, _) = run(&format!("key new {new} --kind p256"));
    assert!(code == 0 && said.contains("next.key") && said.contains("next.pem"), "{said}");
    let token = |name: &str| {
        let (code, token, stderr) = run(&format!("token --key {name}.key --audience banter --user ann"));
        assert_eq!(code, 0, "{stderr}");
        token.trim().to_owned()
    };
    let comes_in = |name: &str| hello(&server, &token(name))["type"] == "welcome";
    assert!(comes_in(&old) && !comes_in(&new));
    for (keys, taken) in [(format!("'{old}.pem', '{new}.pem'"), [true, true]), (format!("'{new}.pem'"), [false, true])]
    {
        change_keys(Path::new(&config), &keys);
        let reloads = || server.log().matches("reloaded; new: auth.keys").count();
        let before = reloads();
        server.signal(Signal::HUP);
        wait_until("it says so", || reloads() > before);
        assert_eq!([comes_in(&old), comes_in(&new)], taken);
    }
}

fn change_keys(config: &Path, keys: &str) {
    let text = fs::read_to_string(config).expect("a file");
    let changed = |line: &str| if line.starts_with("keys = ") { format!("keys = [{keys}]") } else { line.to_owned() };
    fs::write(config, text.lines().map(|line| changed(line) + "\n").collect::<String>()).expect("a file");
}

#[test]
fn a_token_is_looked_at_from_stdin_or_the_line_and_the_exit_code_says_the_verdict() {
    let folder = tempfile::tempdir().expect("a folder");
    init(&folder, "--kind p256");
    let config = path(&folder, "banter.toml");
    let made = run(&format!("token --key {} --user ann --ttl 5m", path(&folder, "app.key"))).1;
    let (code, said, _) = run(&format!("token inspect --config {config} {made}"));
    assert!(code == 1 && said.contains("aud is not the audience"), "{code}: {said}");
    assert_eq!(run(&format!("token inspect {made}")).0, 0, "without a configuration nothing judges it");
    // Nothing comes from stdin here, which is no token.
    let (code, said, _) = run(&format!("token inspect --config {config}"));
    assert!(code == 1 && said.contains("this is no token"), "{code}: {said}");
    assert_eq!(run("token inspect --config /nonexistent abc").0, 78);
    let (code, _, stderr) = run("token");
    assert!(code == 2 && stderr.contains("--user <NAME>"), "{code}: {stderr}");
}
