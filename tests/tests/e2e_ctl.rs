//! End to end: an operator at a terminal, who looks at a running server and does something with it by `banter ctl`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_tests::server_process::{ServerProcess, Start, core_counts, program, run_to_end, wait_until};
use banter_tests::wire_client::{Ended, Form, WireClient};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "a secret of more than thirty-two bytes, for tests";

/// A server, and the file that it reads.
struct Setup {
    folder: TempDir,
    server: Option<ServerProcess>,
}

impl Setup {
    fn new(more: &str) -> Self {
        let setup = Setup { folder: tempfile::tempdir().expect("a folder"), server: None };
        fs::write(setup.path("secret"), SECRET).expect("a file");
        setup.write(more);
        setup
    }

    fn start(cores: usize, more: &str) -> Self {
        let mut setup = Setup::new(more);
        let (config, data) = (setup.path("banter.toml"), setup.path("data"));
        setup.server = Some(Start::new(cores, &["--config", config.to_str().expect("text")]).data(&data).run());
        setup
    }

    fn write(&self, more: &str) {
        let (secret, socket) = (self.path("secret"), self.path("admin.sock"));
        let config = format!(
            "{more}\n[auth]\nmode = 'token'\nsecret_file = '{}'\n[admin]\nsocket = '{}'\n",
            secret.display(),
            socket.display()
        );
        fs::write(self.path("banter.toml"), config).expect("a file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn server(&self) -> &ServerProcess {
        self.server.as_ref().expect("it was started")
    }

    /// What comes of `banter ctl`: its exit code, stdout and stderr.
    fn ctl(&self, line: &str) -> (i32, String, String) {
        let config = self.path("banter.toml");
        let args: Vec<&str> =
            ["ctl", "--config", config.to_str().expect("text")].into_iter().chain(line.split(' ')).collect();
        run_to_end(&args)
    }

    /// What it says where it is done.
    fn done(&self, line: &str) -> String {
        let (code, out, err) = self.ctl(line);
        assert_eq!((code, err.as_str()), (0, ""), "{line}: {out}");
        out
    }

    /// The same as machines read it.
    fn json(&self, line: &str) -> Value {
        let out = self.done(&format!("{line} --json"));
        serde_json::from_str(&out).unwrap_or_else(|fault| panic!("{line}: {fault}: {out}"))
    }

    /// Why it is not done, and the exit code.
    fn refused(&self, line: &str) -> (i32, String) {
        let (code, out, err) = self.ctl(line);
        assert_eq!(out, "", "{line}");
        (code, err)
    }

    fn come_in(&self, user: &str) -> WireClient {
        let mut client = WireClient::connect(self.server().address(), Form::Json);
        let welcome = client.ask(json!({"type": "hello", "token": token(user)}));
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        client
    }
}

fn token(user: &str) -> String {
    let key = SigningKey::from_secret(SECRET.as_bytes()).expect("a key");
    let now = std::time::UNIX_EPOCH.elapsed().expect("behind 1970").as_secs();
    let rooms = vec![(Pattern::new("*").expect("a pattern"), Rights::MEMBER)];
    mint(&key, &ClaimsToMint { rooms, ..ClaimsToMint::new(user, now, now + 600) }).expect("a token")
}

#[test]
fn an_operator_sees_who_is_there_and_takes_somebody_out() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "");
        let mut ann = setup.come_in("ann");
        for room in ["lobby", "game/1"] {
            ann.join(room);
        }
        let mut bob = setup.come_in("bob");
        bob.join("lobby");
        assert_eq!(ann.post("lobby", json!("hello"))["type"], "posted");
        let status = setup.json("status");
        assert_eq!(
            (&status["state"], &status["connections"], &status["posts"]),
            (&json!("serving"), &json!(2), &json!(1)),
            "{status}"
        );
        assert_eq!((&status["rooms"], &status["subscriptions"]), (&json!(2), &json!(3)), "{status}");
        assert_eq!(status["cores"].as_array().map(Vec::len), Some(cores));
        assert_eq!(
            (&status["log"]["state"], &status["log"]["durability"]),
            (&json!("open"), &json!("synced")),
            "{status}"
        );
        assert!(status["log"]["free_bytes"].as_u64() > Some(0), "{status}");
        // The log's keeper says it when it comes to it.
        wait_until("its files are told", || setup.json("status")["log"]["segments"].as_u64() > Some(0));
        assert_eq!((&status["tokens"]["keys"], &status["revocations"]), (&json!(1), &json!(0)), "{status}");
        assert_eq!(status["troubles"], json!([]), "{status}");
        let text = setup.done("status");
        assert!(
            text.starts_with("state        serving since ")
                && text.contains("\nnow          2 connections, 2 rooms, 3 readings\n"),
            "{text}"
        );
        assert!(text.contains("; logged: info\n"), "{text}");
        // Rooms and who reads them.
        let rooms = setup.done("rooms --json");
        let rooms: Vec<Value> = rooms.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(rooms.len(), 2);
        assert_eq!(setup.done("rooms game").lines().count(), 2, "a head, and one room");
        assert_eq!(setup.done("members lobby"), "ann\nbob\n");
        assert_eq!(setup.json("room game/1")["members"], 1);
        assert!(setup.done("room lobby").contains("members       2\n"), "{}", setup.done("room lobby"));
        // Out of a room, and out of the server.
        assert_eq!(setup.done("kick lobby bob"), "bob does not read lobby any more, if it did, and may join again\n");
        assert_eq!(bob.take_type("removed")["room"], "lobby");
        setup.done("disconnect bob");
        assert_eq!(bob.read_to_end().1, Ended::Closed(4405));
        assert_eq!(setup.done("members lobby"), "ann\n");
        for (list, says) in [
            ("members nowhere", "nobody reads nowhere"),
            ("rooms nothing", "no room in memory has a name that begins with nothing"),
            ("revocations", "nothing is revoked"),
        ] {
            assert_eq!(setup.ctl(list), (0, String::new(), format!("banter: {says}\n")));
            assert_eq!(setup.done(&format!("{list} --json")), "");
        }
    }
}

#[test]
fn a_revocation_closes_keeps_out_is_listed_and_is_taken_back() {
    let setup = Setup::start(1, "");
    let mut ann = setup.come_in("ann");
    let said = setup.done("revoke --user ann --until 1h");
    assert!(said.starts_with("revoked: user ann; until 20"), "{said}");
    assert_eq!(ann.read_to_end().1, Ended::Closed(4403));
    setup.done("revoke --address 203.0.113.0/24");
    let listed = setup.done("revocations");
    assert!(
        listed.lines().count() == 2 && listed.contains("user ann; until ") && listed.contains("address 203.0.113.0/24"),
        "{listed}"
    );
    assert_eq!(setup.json("status")["revocations"], 2);
    assert_eq!(setup.done("lift --user ann"), "1 revocation taken back\n");
    assert_eq!(setup.json("lift --user ann")["lifted"], 0);
    setup.come_in("ann");
}

#[test]
fn what_is_logged_changes_at_once_and_a_reload_takes_it_back() {
    let setup = Setup::start(1, "log = 'warn'");
    assert_eq!(setup.done("log-level"), "warn\n");
    assert!(!setup.server().log().contains("was changed"));
    let said = setup.done("log-level info,banter=debug");
    assert_eq!(said, "info,banter=debug\nuntil a reload, which has it be what the configuration says: warn\n");
    wait_until("the change is told", || setup.server().log().contains("what is logged was changed"));
    // People are told of connections where they look for it.
    let ann = setup.come_in("ann");
    drop(ann);
    wait_until("it is told", || setup.server().log().contains("a connection ended"));
    for (filter, says) in
        [("banter=loud", "banter=loud"), ("inof", "inof is no level"), (&"a".repeat(1_025), "more than 1024 bytes")]
    {
        let (code, fault) = setup.refused(&format!("log-level {filter}"));
        assert!(code == 1 && fault.starts_with("banter: bad_request: ") && fault.contains(says), "{fault}");
    }
    assert_eq!(setup.json("log-level"), json!({"filter": "info,banter=debug", "configured": "warn"}));
    let said = setup.done("reload");
    assert_eq!(said, "holds now      log: \"info,banter=debug\" -> \"warn\"\n");
    assert_eq!(setup.done("log-level"), "warn\n");
    drop(setup.come_in("bob"));
    wait_until("he has gone", || setup.json("status")["connections"] == 0);
    assert!(!setup.server().log().contains("bob"), "nothing more is told");
}

#[test]
fn a_status_says_what_the_file_would_change_and_a_reload_does_it() {
    let setup = Setup::start(1, "");
    setup.write("durability = 'written'\n[limits]\nrooms_max = 7");
    let config = &setup.json("status")["config"];
    let keys =
        |list: &Value| list.as_array().expect("a list").iter().map(|change| change["key"].clone()).collect::<Vec<_>>();
    assert_eq!(
        (keys(&config["would_take_effect"]), keys(&config["needs_restart"])),
        (vec![json!("limits.rooms_max")], vec![json!("durability")])
    );
    assert_eq!(config["file"], setup.path("banter.toml").to_str().expect("text"));
    let text = setup.done("status");
    assert!(text.contains("\n  by restart durability: \"synced\" -> \"written\"\n"), "{text}");
    let said = setup.done("reload");
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("holds now      limits.rooms_max: ") && lines[0].ends_with(" -> 7"),
        "{said}"
    );
    assert_eq!(lines[1], "needs restart  durability: \"synced\" -> \"written\"");
    setup.write("lisen = 1");
    let (code, fault) = setup.refused("reload");
    assert!(
        code == 78 && fault.contains("did you mean \"listen\"?"),
        "the tool itself reads the file for the socket: {fault}"
    );
    let socket = setup.path("admin.sock");
    let status = run_to_end(&["ctl", "--socket", socket.to_str().expect("text"), "status"]).1;
    assert!(
        status.contains("\ntrouble      the configuration cannot be reloaded: ") && status.contains("unknown key"),
        "{status}"
    );
}

#[test]
fn what_cannot_be_reached_says_how_to_mend_it() {
    let setup = Setup::new("");
    let (code, fault) = setup.refused("status");
    assert!(code == 69 && fault.contains("is the server running"), "{fault}");
    let nowhere = run_to_end(&["ctl", "status"]);
    assert!(nowhere.0 == 78 && nowhere.2.contains("--config FILE"), "{nowhere:?}");
    let mut setup = Setup::start(1, "");
    // What the socket lets in is whoever may open it: another user is told so.
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(setup.folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let socket = setup.path("admin.sock");
        let copy = setup.path("banter");
        fs::copy(program(), &copy).expect("a copy that anybody may run");
        let args =
            ["--reuid=65534", "--regid=65534", "--clear-groups", copy.to_str().expect("text"), "ctl", "--socket"];
        let denied = Command::new("setpriv").args(args).arg(&socket).arg("status").output().expect("setpriv runs");
        let fault = String::from_utf8_lossy(&denied.stderr);
        assert!(denied.status.code() == Some(77) && fault.contains("as that user"), "{fault}");
    }
    let (code, fault) = setup.refused("room nowhere");
    assert_eq!((code, fault.as_str()), (1, "banter: not_found: there is no such room\n"));
    assert_eq!(setup.done("drain"), "the server turns newcomers away, delivers what was acknowledged, and ends\n");
    assert!(setup.server.as_mut().expect("it was started").wait(Duration::from_secs(30)).success());
    let (code, fault) = setup.refused("status");
    assert!(code == 69 && fault.contains("has ended"), "{fault}");
}

#[test]
fn a_list_of_more_than_one_answer_is_whole() {
    let setup = Setup::start(2, "[limits]\nrooms_per_connection_max = 2000\njoins_per_second_max = 0");
    let mut ann = setup.come_in("ann");
    for number in 0..1_200 {
        assert_eq!(ann.join(&format!("room-{number}"))["type"], "joined");
    }
    assert_eq!(setup.done("rooms --json").lines().count(), 1_200);
    assert_eq!(setup.done("rooms room-1").lines().count(), 1 + 311, "room-1, 1x, 1xx and 1,000 to 1,199");
}
