//! What stands beside the rooms gets along with programs: feeds, the log's tools, the Rust client.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use banter_client::{Body, BodyFormat, Client, Event, Join, Options, Refused, UserName};
use banter_tests::server_process::{PATIENCE, core_counts, run_to_end, wait_until};
use banter_tests::wire_client::Form;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::setup::{Entry, Setup, entry, history, keyed, post};

/// Numbers what is said, answers each third post, and takes or refuses what asks for it.
const TEXT: &str = r#"
function post(room, m)
  if m:get("take") then return take({ taken = state.get("n") or 0 }) end
  if m:get("refuse") then return refuse("no", "not this one", 1500) end
  local n = (state.get("n") or 0) + 1
  state.set("n", n)
  m:set("n", n)
  if n % 3 == 0 then room.post({ told = n }) end
end
"#;
/// Segments as small as the other limits allow.
const SMALL: [&str; 6] =
    ["--frame-bytes-max", "8192", "--log-commit-bytes-max", "16384", "--log-segment-bytes", "65536"];
const ROOM: &str = "room-1";

fn counter() -> [Entry; 1] {
    [entry("counter", "room-*", TEXT)]
}

/// Says these, each with something that has no place behind it.
fn say(setup: &Setup, numbers: std::ops::RangeInclusive<u64>) {
    let mut ann = setup.hello(Form::Rkyv, "ann");
    ann.ask(json!({"type": "join", "room": ROOM, "echo": false}));
    for number in numbers {
        let body = json!({"filling": "x".repeat(600)});
        assert_eq!(ann.ask(keyed(ROOM, &format!("k{number}"), &body))["type"], "posted");
        assert_eq!(ann.ask(post(ROOM, &json!({"take": 1})))["reply"], json!({"taken": number}));
        assert_eq!(ann.ask(post(ROOM, &json!({"refuse": 1})))["code"], "program_refused");
    }
}

/// What there is to see of that: the user, and the number that it is about.
fn seen(numbers: std::ops::RangeInclusive<u64>) -> Vec<Value> {
    let told = |number: u64| number.is_multiple_of(3).then(|| json!(["@counter", number]));
    numbers.flat_map(|number| [Some(json!(["ann", number])), told(number)]).flatten().collect()
}

fn shown(message: &Value) -> Value {
    let body = &message["body"];
    json!([message["user"], if body["n"].is_null() { &body["told"] } else { &body["n"] }])
}

/// A feed as a backend reads it.
struct Feed {
    curl: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Feed {
    fn open(setup: &Setup, query: &str) -> Self {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "-N", "--unix-socket", &setup.text_of("admin.sock")]);
        curl.arg(format!("http://banter/v1/feed{query}"));
        let mut curl = curl.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("curl runs");
        let (stdout, lines) = (curl.stdout.take().expect("it is piped"), Arc::<Mutex<Vec<Value>>>::default());
        let into = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // A kill may cut the last one.
                let Ok(line) = serde_json::from_str(&line) else { return };
                into.lock().expect("nobody panics").push(line);
            }
        });
        let feed = Feed { curl, lines };
        wait_until("a feed says where it begins", || !feed.lines().is_empty());
        feed
    }

    fn lines(&self) -> Vec<Value> {
        self.lines.lock().expect("nobody panics").clone()
    }

    /// That many messages, once they are there.
    fn messages(&self, count: usize) -> Vec<Value> {
        let messages = || self.lines().into_iter().filter(|line| line["type"] == "message").collect::<Vec<_>>();
        wait_until("they are told", || messages().len() >= count);
        messages()
    }

    /// Where the next one goes on.
    fn query(&self) -> String {
        format!("?cursor={}", self.lines().last().expect("a line")["cursor"].as_str().expect("a cursor"))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

#[test]
fn a_feed_tells_edited_posts_and_the_programs_own_in_order_and_nothing_of_its_state() {
    for &cores in core_counts() {
        let mut setup = Setup::new("synced", &SMALL, &counter(), "");
        setup.run(cores);
        let feed = Feed::open(&setup, "");
        let begin = feed.query();
        say(&setup, 1..=150);
        let live = seen(1..=150);
        assert_eq!(feed.messages(live.len()).iter().map(shown).collect::<Vec<_>>(), live);
        setup.stop(Signal::KILL);
        setup.run(core_counts().len() + 1 - cores);
        // From the segments of before, and on from there.
        let again = Feed::open(&setup, &begin);
        say(&setup, 151..=160);
        let all = seen(1..=160);
        let told = again.messages(all.len());
        assert_eq!(told.iter().map(shown).collect::<Vec<_>>(), all);
        let places: Vec<Value> = told.iter().map(|message| message["sequence"].clone()).collect();
        assert_eq!(json!(places), json!((1..=all.len()).collect::<Vec<_>>()));
    }
}

#[test]
fn the_logs_tools_find_a_log_with_states_and_edited_messages_whole_and_dump_its_messages() {
    for signal in [Signal::KILL, Signal::TERM] {
        let mut setup = Setup::new("written", &SMALL, &counter(), "");
        setup.run(1);
        say(&setup, 1..=150);
        setup.stop(signal);
        let data = setup.text_of("data");
        let (code, out, err) = run_to_end(&["log", "check", &data]);
        assert_eq!(code, 0, "{out}{err}");
        let (code, out, err) = run_to_end(&["log", "rooms", &data]);
        assert!(code == 0 && out.contains(ROOM), "{out}{err}");
        let (code, out, err) = run_to_end(&["log", "dump", &data]);
        assert_eq!(code, 0, "{err}");
        let dumped: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(dumped.iter().map(shown).collect::<Vec<_>>(), seen(1..=150));
    }
}

#[test]
fn what_a_user_said_is_erased_and_the_rooms_program_counts_on() {
    let mut setup = Setup::new("synced", &SMALL, &counter(), "");
    setup.run(1);
    say(&setup, 1..=150);
    setup.stop(Signal::KILL);
    let (code, out, err) = run_to_end(&["log", "erase", &setup.text_of("data"), "--room", ROOM, "--user", "ann"]);
    assert_eq!(code, 0, "{out}{err}");
    setup.run(core_counts().len());
    say(&setup, 151..=153);
    let kept = history(&mut setup.hello(Form::Json, "bob"), ROOM);
    let left: Vec<Value> = kept.iter().map(shown).filter(|shown| !shown[1].is_null()).collect();
    let own = seen(1..=150).into_iter().filter(|seen| seen[0] == "@counter");
    assert_eq!(left, own.chain(seen(151..=153)).collect::<Vec<_>>());
}

#[test]
fn the_rust_client_is_told_what_was_taken_and_why_something_was_refused() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "written", &counter());
        let options = Options::new(UserName::new("ann").expect("a name"), 7);
        let mut client = Client::with_options(&setup.server().address().to_string(), options);
        client.join(ROOM, Join::default()).expect("a name");
        let mut say = |body: &str| {
            let body = Body { format: BodyFormat::Json, bytes: body.as_bytes() };
            let ticket = client.post(ROOM, body).expect("there is room");
            loop {
                let event = client.next_event(PATIENCE).expect("a session that goes on").expect("an answer");
                match &event {
                    Event::Posted(posted) if posted.ticket == ticket => return event,
                    Event::Taken { ticket: taken, .. } if *taken == ticket => return event,
                    Event::Refused { what, .. } if *what == Refused::Post(ticket) => return event,
                    _ => {}
                }
            }
        };
        assert!(matches!(say("{}"), Event::Posted(posted) if posted.cursor.sequence.0 == 1));
        let Event::Taken { room, reply, .. } = say(r#"{"take":1}"#) else { panic!("it is taken") };
        assert_eq!((room.as_str(), reply.as_deref()), (ROOM, Some(&br#"{"taken":1}"#[..])));
        let refused = say(r#"{"refuse":1}"#);
        let Event::Refused { message, retry_after, reason, .. } = refused else { panic!("it is refused") };
        assert_eq!((&*message, reason.as_deref()), ("not this one", Some("no")));
        assert_eq!(retry_after.map(|after| after.as_millis()), Some(1_500));
        assert!(matches!(say("{}"), Event::Posted(posted) if posted.cursor.sequence.0 == 2));
    }
}
