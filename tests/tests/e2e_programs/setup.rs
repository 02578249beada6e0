//! A server whose rooms have programs, and the folder with what it reads and keeps.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use banter_tests::admin_socket::{self, Told};
use banter_tests::server_process::{PATIENCE, ServerProcess, Start, run_to_end, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// An entry of `[[programs]]`, and the text of its file.
pub struct Entry {
    pub name: &'static str,
    pub rooms: &'static str,
    pub on_fault: &'static str,
    pub text: String,
}

/// A program that refuses what it fails to decide of.
pub fn entry(name: &'static str, rooms: &'static str, text: &str) -> Entry {
    Entry { name, rooms, on_fault: "refuse", text: text.to_owned() }
}

/// A program that lets through what it fails to decide of.
pub fn lenient(name: &'static str, rooms: &'static str, text: &str) -> Entry {
    Entry { on_fault: "pass", ..entry(name, rooms, text) }
}

/// The end of a configuration that does not look at the time of calls: a build for tests is slow, and a machine may count what others
/// take of its CPU as that of the call. What programs may take is counted in units all the same.
fn patient(more: &str) -> String {
    const TABLE: &str = "[program_limits]\n";
    if more.contains("watch_us") {
        return more.to_owned();
    }
    if more.contains(TABLE) {
        more.replace(TABLE, "[program_limits]\nwatch_us = 0\nbody_bytes_max = 0\n")
    } else {
        format!("{more}\n{TABLE}watch_us = 0\nbody_bytes_max = 0\n")
    }
}

/// The server.
pub struct Setup {
    folder: TempDir,
    flags: Vec<String>,
    server: Option<ServerProcess>,
}

impl Setup {
    /// The folder, and no server yet: with those programs, and that at the end of the configuration.
    pub fn new(durability: &str, flags: &[&str], entries: &[Entry], more: &str) -> Self {
        let mut setup = Setup { folder: TempDir::new().expect("a folder"), flags: Vec::new(), server: None };
        let mut config = format!("[admin]\nsocket = '{}'\n", setup.text_of("admin.sock"));
        for Entry { name, rooms, on_fault, text } in entries {
            setup.write_program(name, text);
            let file = setup.text_of(&format!("{name}.luau"));
            config += &format!(
                "[[programs]]\nmatch = '{rooms}'\nfile = '{file}'\nname = '{name}'\non_fault = '{on_fault}'\n"
            );
        }
        fs::write(setup.path("banter.toml"), config + &patient(more)).expect("a file");
        let config = setup.text_of("banter.toml");
        setup.flags = ["--durability", durability, "--config", &config].map(str::to_owned).to_vec();
        setup.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        setup
    }

    /// The same with a server on so many cores.
    pub fn start(cores: usize, durability: &str, entries: &[Entry]) -> Self {
        let mut setup = Setup::new(durability, &[], entries, "");
        setup.run(cores);
        setup
    }

    /// Starts the server, also once more.
    pub fn run(&mut self, cores: usize) {
        self.server = Some(self.try_run(cores).unwrap_or_else(|(code, log)| panic!("it ended with {code}: {log}")));
    }

    /// Starts a server; where it ends at once, its exit code and what it said.
    pub fn try_run(&self, cores: usize) -> Result<ServerProcess, (i32, String)> {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        Start::new(cores, &flags).data(&self.path("data")).try_run()
    }

    /// Ends the server with that signal.
    pub fn stop(&mut self, signal: Signal) {
        let mut server = self.server.take().expect("it runs");
        server.signal(signal);
        server.wait(PATIENCE);
    }

    pub fn server(&self) -> &ServerProcess {
        self.server.as_ref().expect("it runs")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as a text.
    pub fn text_of(&self, name: &str) -> String {
        self.path(name).to_str().expect("text").to_owned()
    }

    /// Puts another text into a program's file, in one step.
    pub fn write_program(&self, name: &str, text: &str) {
        let draft = self.path(&format!("{name}.draft"));
        fs::write(&draft, text).expect("a file");
        fs::rename(draft, self.path(&format!("{name}.luau"))).expect("a file");
    }

    pub fn hello(&self, form: Form, user: &str) -> WireClient {
        WireClient::hello(self.server().address(), form, user)
    }

    /// The same, and in that room.
    pub fn member(&self, form: Form, user: &str, room: &str) -> WireClient {
        let mut client = self.hello(form, user);
        client.join(room);
        client
    }

    /// Asks the interface for backends.
    pub fn operate(&self, method: &str, path: &str, body: &Value) -> Told {
        admin_socket::ask(&self.path("admin.sock"), method, path, body)
    }

    /// Has the server read everything again by SIGHUP, and gives the line that says what came of it.
    pub fn hang_up(&self) -> String {
        let lines = || -> Vec<String> {
            let log = self.server().log();
            // A line may be half there.
            log.split_inclusive('\n')
                .filter(|line| line.ends_with('\n') && line.contains("reloaded"))
                .map(str::to_owned)
                .collect()
        };
        let before = lines().len();
        self.server().signal(Signal::HUP);
        wait_until("it says what came of it", || lines().len() > before);
        lines().pop().expect("a line")
    }

    /// What `GET /v1/programs` tells of a program.
    pub fn told_of(&self, name: &str) -> Value {
        let told = self.operate("GET", "/v1/programs", &Value::Null);
        assert_eq!(told.status, 200, "{}", told.body);
        let programs = told.json()["programs"].as_array().expect("a list").clone();
        programs.into_iter().find(|program| program["name"] == name).unwrap_or_else(|| panic!("{name}: {}", told.body))
    }

    /// What comes of `banter program` with this server's configuration: its exit code, stdout and stderr.
    pub fn program(&self, line: &str) -> (i32, String, String) {
        let config = self.text_of("banter.toml");
        let words = ["program"].into_iter().chain(line.split(' ')).chain(["--config", &config]);
        run_to_end(&words.collect::<Vec<_>>())
    }

    /// A metric, over all cores and causes.
    pub fn metric(&self, name: &str) -> u64 {
        let told = self.operate("GET", "/v1/metrics", &Value::Null);
        assert_eq!(told.status, 200, "{}", told.body);
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let value = |line: &str| line.rsplit_once(' ').and_then(|(_, value)| value.parse::<u64>().ok());
        told.body.lines().filter(of_name).map(|line| value(line).expect("a number")).sum()
    }

    /// What metrics count of a program under `banter_program_…`, over all cores, and of faults by kind.
    pub fn counted(&self, name: &str) -> BTreeMap<String, u64> {
        let told = self.operate("GET", "/v1/metrics", &Value::Null);
        assert_eq!(told.status, 200, "{}", told.body);
        let mut counted = BTreeMap::new();
        for metric in told.body.lines().filter_map(|line| line.strip_prefix("banter_program_")) {
            if !metric.contains(&format!("program=\"{name}\"")) {
                continue;
            }
            let name = metric.split('{').next().expect("a name");
            let family = name.strip_suffix("_total").unwrap_or(name);
            let kind = metric.split_once("kind=\"").and_then(|(_, rest)| rest.split('"').next());
            let key = kind.map_or_else(|| family.to_owned(), |kind| format!("{family} {kind}"));
            let value: u64 = metric.rsplit_once(' ').and_then(|(_, value)| value.parse().ok()).expect("a number");
            *counted.entry(key).or_default() += value;
        }
        counted
    }
}

/// A post, for [`WireClient::ask`].
pub fn post(room: &str, body: &Value) -> Value {
    json!({"type": "post", "room": room, "body": body})
}

/// The same with a key.
pub fn keyed(room: &str, key: &str, body: &Value) -> Value {
    json!({"type": "post", "room": room, "key": key, "body": body})
}

/// All of a room's history, page by page.
pub fn history(client: &mut WireClient, room: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        // Behind a message, or behind what is a gap by now.
        let place = |last: &Value| if last["to"].is_null() { last["sequence"].clone() } else { last["to"].clone() };
        let after = all.last().map_or(json!(0), place);
        let page = client.ask(json!({"type": "fetch", "room": room, "after": after}));
        assert_eq!(page["type"], "page", "{page}");
        all.extend(page["messages"].as_array().expect("messages").iter().cloned());
        if page["more"] == false {
            return all;
        }
    }
}

/// Of the next events that many, which have to be messages: the sequence, the user and the body of each.
#[track_caller]
pub fn messages(client: &mut WireClient, count: usize) -> Vec<Value> {
    (0..count)
        .map(|_| {
            let event = client.take_type("message");
            json!([event["sequence"], event["user"], event["body"]])
        })
        .collect()
}
