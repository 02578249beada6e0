//! End to end: a backend follows all messages with nothing but `curl -N`, across kills, and is told what it cannot be told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use banter_access::api_key::{digest_of, write_digest};
use banter_tests::server_process::{PATIENCE, ServerProcess, Start, holds_within, run_to_end, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Segments as small as the other limits allow.
const SMALL: [&str; 6] =
    ["--frame-bytes-max", "8192", "--log-commit-bytes-max", "16384", "--log-segment-bytes", "65536"];
/// One that may do everything, one for games, one that may not read, and one that reads all.
const KEYS: [(&str, &str, &str, &str); 4] = [
    ("all", ALL, "'post', 'read', 'operate'", "'*'"),
    ("game", GAME, "'post', 'read'", "'game-*'"),
    ("post", POST, "'post'", "'*'"),
    ("read", READ, "'read'", "'*'"),
];
const ALL: &str = "key-for-everything";
const GAME: &str = "key-for-games";
const POST: &str = "key-for-posts";
const READ: &str = "key-for-reads";
/// Feeds of all keys at a time, and of one.
const FEEDS_OF_KEYS_MAX: usize = 7;
const FEEDS_PER_KEY_MAX: usize = 4;

/// A folder with a configuration and a log.
struct Setup {
    folder: TempDir,
    flags: Vec<String>,
    rooms: &'static str,
}

impl Setup {
    fn new(flags: &[&str]) -> Self {
        Self::with_rooms(flags, "")
    }

    fn with_rooms(flags: &[&str], rooms: &'static str) -> Self {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let setup = Setup { folder: tempfile::tempdir().expect("a folder"), flags, rooms };
        setup.write(&KEYS);
        setup
    }

    fn write(&self, keys: &[(&str, &str, &str, &str)]) {
        let keys = keys.iter().map(|(name, key, rights, rooms)| {
            let digest = write_digest(&digest_of(key));
            format!("[[admin.keys]]\nname = '{name}'\nsha256 = '{digest}'\nrights = [{rights}]\nrooms = [{rooms}]\n")
        });
        let keys: String = keys.collect();
        fs::write(self.path("banter.toml"), format!("{}[admin]\nlisten = '127.0.0.1:0'\n{keys}", self.rooms))
            .expect("a file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, cores: usize) -> Api {
        let (config, data) = (self.path("banter.toml"), self.path("data"));
        let mut flags = vec!["--config", config.to_str().expect("text")];
        flags.extend(self.flags.iter().map(String::as_str));
        let server = Start::new(cores, &flags).data(&data).run();
        let log = server.log();
        let address = log.split_once("backends are answered on http://").expect("the address is told").1;
        let address = address.split_whitespace().next().expect("an address").to_owned();
        Api { server, address }
    }

    fn segments(&self) -> usize {
        let files = fs::read_dir(self.path("data").join("log")).expect("the log's folder");
        files
            .filter(|entry| entry.as_ref().expect("an entry").path().extension().is_some_and(|end| end == "log"))
            .count()
    }
}

/// A server, and where its interface is.
struct Api {
    server: ServerProcess,
    address: String,
}

impl Api {
    /// What curl is answered: the status, and the body.
    fn curl(&self, key: &str, path: &str, args: &[&str]) -> (u16, Value) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60", "-w", "\n%{http_code}", "-H"]);
        curl.arg(format!("Authorization: Bearer {key}")).args(args);
        let output = curl.arg(format!("http://{}{path}", self.address)).output().expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn refused(&self, key: &str, query: &str) -> (u16, String) {
        let (status, body) = self.curl(key, &format!("/v1/feed{query}"), &[]);
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    }

    fn post(&self, room: &str, body: &Value) {
        let said = json!({"user": "ann", "body": body}).to_string();
        let (status, answer) = self.curl(ALL, &format!("/v1/rooms/{room}/messages"), &["-d", &said]);
        assert_eq!(status, 200, "{answer}");
    }

    /// The same body in many rooms: one request.
    fn broadcast(&self, rooms: &[&str], body: &Value) {
        let said = json!({"rooms": rooms, "user": "ann", "body": body}).to_string();
        let (status, _) = self.curl(ALL, "/v1/broadcast", &["-d", &said]);
        assert_eq!(status, 200);
    }

    fn feed(&self, key: &str, query: &str) -> Feed {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "-N", "-H"]).arg(format!("Authorization: Bearer {key}"));
        curl.arg(format!("http://{}/v1/feed{query}", self.address));
        let mut curl = curl.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("curl runs");
        let (stdout, lines) = (curl.stdout.take().expect("it is piped"), Arc::<Mutex<Vec<Value>>>::default());
        let into = lines.clone();
        std::thread::spawn(move || {
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

    fn metric(&self, name: &str) -> u64 {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "-H", &format!("Authorization: Bearer {ALL}")]);
        let output = curl.arg(format!("http://{}/v1/metrics", self.address)).output().expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).expect("the metric is told");
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    }
}

/// A feed as a backend reads it.
struct Feed {
    curl: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Feed {
    fn lines(&self) -> Vec<Value> {
        self.lines.lock().expect("nobody panics").clone()
    }

    fn of_type(&self, kind: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["type"] == kind).collect()
    }

    fn messages(&self) -> Vec<Value> {
        self.of_type("message")
    }

    fn wait_for_messages(&self, count: usize) -> Vec<Value> {
        let has_all = holds_within(PATIENCE, || self.messages().len() >= count);
        assert!(
            has_all,
            "{count} messages are told, and not only {}: {:?}",
            self.messages().len(),
            self.lines().last()
        );
        self.messages()
    }

    fn wait_for(&self, kind: &str) -> Value {
        assert!(holds_within(PATIENCE, || !self.of_type(kind).is_empty()), "no {kind}: {:?}", self.lines().last());
        self.of_type(kind).remove(0)
    }

    /// The place behind the last line.
    fn query(&self) -> String {
        let cursor = self.lines().last().expect("a line")["cursor"].as_str().expect("a cursor").to_owned();
        format!("?cursor={cursor}")
    }

    fn wait_ended(&mut self) {
        let curl = &mut self.curl;
        assert!(holds_within(PATIENCE, || curl.try_wait().expect("it is a child").is_some()), "the feed ends");
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

fn place(message: &Value) -> (String, u64, u64) {
    let room = message["room"].as_str().expect("a room").to_owned();
    (room, message["epoch"].as_u64().expect("an epoch"), message["sequence"].as_u64().expect("a place"))
}

/// The bodies of each room, in the order in which they were told.
fn bodies(messages: &[Value]) -> BTreeMap<String, Vec<Value>> {
    let mut rooms: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for message in messages {
        rooms.entry(place(message).0).or_default().push(message["body"].clone());
    }
    rooms
}

const ROOMS: [&str; 5] = ["game-1", "game-2", "hall", "lobby", "orders"];

/// One body after the other in all of five rooms.
fn say(api: &Api, numbers: std::ops::Range<u64>) {
    numbers.for_each(|number| api.broadcast(&ROOMS, &json!({"n": number})));
}

fn said(numbers: std::ops::Range<u64>) -> BTreeMap<String, Vec<Value>> {
    let bodies: Vec<Value> = numbers.map(|number| json!({"n": number})).collect();
    ROOMS.iter().map(|&room| (room.to_owned(), bodies.clone())).collect()
}

#[test]
fn a_backend_goes_on_from_its_cursor_across_kills_and_other_numbers_of_cores() {
    let setup = Setup::new(&SMALL);
    let mut api = setup.start(2);
    say(&api, 0..3);
    let feed = api.feed(ALL, "");
    let begin = feed.query();
    say(&api, 3..8);
    let messages = feed.wait_for_messages(25);
    assert_eq!(bodies(&messages), said(3..8), "from now on, each room in its order");
    assert_eq!((&messages[0]["user"], messages[0]["time_ms"].is_u64()), (&json!("ann"), true));
    // A backend that handled some of it, a kill, and another number of cores.
    let handled = messages[..7].to_vec();
    let query = format!("?cursor={}", handled[6]["cursor"].as_str().expect("a cursor"));
    say(&api, 8..10);
    api.server.kill();
    let mut api = setup.start(1);
    say(&api, 10..12);
    let feed = api.feed(ALL, &query);
    say(&api, 12..14);
    let rest = feed.wait_for_messages(55 - 7);
    assert_eq!(bodies(&[handled.clone(), rest.clone()].concat()), said(3..14));
    let places: BTreeSet<_> = handled.iter().chain(&rest).map(place).collect();
    assert_eq!(places.len(), 55, "nothing is told twice");
    // Once more, with the cursor of the last line; and a stop in order.
    let query = feed.query();
    api.server.kill();
    let api = setup.start(2);
    let mut feed = api.feed(ALL, &query);
    say(&api, 14..15);
    assert_eq!(bodies(&feed.wait_for_messages(5)), said(14..15));
    api.server.signal(Signal::TERM);
    let end = feed.wait_for("end");
    assert_eq!(end["code"], "draining");
    feed.wait_ended();
    let Api { mut server, .. } = api;
    server.wait(PATIENCE);
    let api = setup.start(2);
    say(&api, 15..16);
    let query = format!("?cursor={}", end["cursor"].as_str().expect("a cursor"));
    assert_eq!(bodies(&api.feed(ALL, &query).wait_for_messages(5)), said(15..16));
    // The old cursor, and the oldest of all.
    assert_eq!(bodies(&api.feed(ALL, &begin).wait_for_messages(65)), said(3..16));
    assert_eq!(bodies(&api.feed(ALL, "?cursor=start").wait_for_messages(80)), said(0..16));
}

#[test]
fn rooms_of_all_classes_and_levels_are_told_in_their_order_but_for_those_in_memory() {
    let rooms = "[[rooms]]\nmatch = 'game-1'\nretention_hours = 24\n[[rooms]]\nmatch = 'game-2'\nretention_hours = 24\n\
                 durability = 'written'\n[[rooms]]\nmatch = 'hall'\ndurability = 'written'\n[[rooms]]\nmatch = 'lobby'\n\
                 durability = 'memory'\n";
    let setup = Setup::with_rooms(&SMALL, rooms);
    let mut api = setup.start(2);
    let logged = |numbers| {
        let mut said = said(numbers);
        said.remove("lobby");
        said
    };
    let feed = api.feed(ALL, "");
    say(&api, 0..20);
    let messages = feed.wait_for_messages(80);
    assert_eq!(bodies(&messages), logged(0..20));
    // From the midst of it, over two more runs.
    let query = format!("?cursor={}", messages[41]["cursor"].as_str().expect("a cursor"));
    for numbers in [20..25, 25..30] {
        api.server.kill();
        api = setup.start(2);
        say(&api, numbers);
    }
    let rest = api.feed(ALL, &query).wait_for_messages(120 - 42);
    assert_eq!(bodies(&[messages[..42].to_vec(), rest].concat()), logged(0..30));
}

#[test]
fn what_is_acknowledged_while_the_server_is_killed_is_told_behind_the_cursor() {
    let setup = Setup::new(&SMALL);
    let mut api = setup.start(2);
    let feed = api.feed(ALL, "");
    let (address, acknowledged) = (api.address.clone(), Arc::<Mutex<Vec<u64>>>::default());
    let into = acknowledged.clone();
    let poster = std::thread::spawn(move || {
        for number in 0_u64.. {
            let said = json!({"user": "ann", "body": number, "key": format!("k{number}")}).to_string();
            let room = ROOMS[number as usize % ROOMS.len()];
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--fail", "-H", &format!("Authorization: Bearer {ALL}"), "-d", &said]);
            let output = curl.arg(format!("http://{address}/v1/rooms/{room}/messages")).output().expect("curl runs");
            if !output.status.success() {
                return;
            }
            into.lock().expect("nobody panics").push(number);
        }
    });
    wait_until("some are posted", || acknowledged.lock().expect("nobody panics").len() > 60);
    api.server.kill();
    poster.join().expect("the poster ends");
    let acknowledged = acknowledged.lock().expect("nobody panics").clone();
    let told: BTreeSet<u64> =
        feed.messages().iter().map(|message| message["body"].as_u64().expect("a number")).collect();
    assert!(!told.is_empty());
    let api = setup.start(2);
    let rest = api.feed(ALL, &feed.query());
    wait_until("all that was acknowledged is told", || {
        let more = rest.messages().into_iter().map(|message| message["body"].as_u64().expect("a number"));
        let all: BTreeSet<u64> = more.chain(told.iter().copied()).collect();
        acknowledged.iter().all(|number| all.contains(number))
    });
}

#[test]
fn a_cursor_behind_what_retention_dropped_is_told_a_gap_and_goes_on() {
    let flags = [&SMALL[..], &["--retention-bytes", "200000", "--dedupe-window-ms", "1000"]].concat();
    let setup = Setup::new(&flags);
    let mut api = setup.start(1);
    let first = api.feed(ALL, "").query();
    let body = |number: u64| json!(format!("{number} {}", "x".repeat(7_000)));
    // Live readers miss nothing while segments come and go.
    let live = api.feed(ALL, "");
    let mut last = 0;
    while last < 60 {
        api.post("lobby", &body(last));
        last += 1;
    }
    wait_until("the oldest segments go", || {
        api.post("lobby", &body(last));
        last += 1;
        // Slow enough that what the dedupe window keeps is one segment or two, however fast the disk is.
        std::thread::sleep(Duration::from_millis(100));
        setup.segments() <= 6
    });
    live.wait_for_messages(last as usize);
    assert!(live.of_type("gap").is_empty(), "{:?}", live.of_type("gap"));
    let check = |api: &Api| {
        let feed = api.feed(ALL, &first);
        let gap = feed.wait_for("gap");
        assert_eq!((&gap["reason"], &gap["core"]), (&json!("dropped"), &json!(0)), "{gap}");
        let newest = || feed.messages().last().map(|message| message["sequence"].clone());
        wait_until("the rest is told", || newest() == Some(json!(last)));
        let places: Vec<u64> = feed.messages().iter().map(|message| place(message).2).collect();
        assert!(places[0] > 1 && places.windows(2).all(|pair| pair[1] == pair[0] + 1), "{places:?}");
        assert_eq!(feed.of_type("gap").len(), 1);
    };
    check(&api);
    let query = live.query();
    api.server.kill();
    let api = setup.start(1);
    check(&api);
    let feed = api.feed(ALL, &query);
    api.post("lobby", &json!("last"));
    assert_eq!(feed.wait_for_messages(1)[0]["body"], "last");
    assert!(feed.of_type("gap").is_empty(), "who had read it all misses nothing");
}

#[test]
fn what_was_erased_is_told_as_a_gap_of_one_and_the_cursors_stay() {
    let setup = Setup::new(&SMALL);
    let api = setup.start(2);
    say(&api, 0..6);
    let feed = api.feed(ALL, "?cursor=start");
    let messages = feed.wait_for_messages(30);
    let data = setup.path("data");
    let erase = |places: &str| {
        let path = data.to_str().expect("text");
        let (code, out, error) = run_to_end(&["log", "erase", path, "--room", "lobby", "--sequence", places]);
        assert_eq!(code, 0, "{out}{error}");
    };
    erase("2-3");
    let again = api.feed(ALL, "?cursor=start");
    again.wait_for_messages(28);
    let gaps = again.of_type("gap");
    let told: Vec<_> = gaps.iter().map(|gap| json!([gap["room"], gap["from"], gap["to"]])).collect();
    assert_eq!(told, [json!(["lobby", 2, 2]), json!(["lobby", 3, 3])]);
    assert!(!again.lines().iter().any(|line| line["room"] == "lobby" && line["body"] == json!({"n": 1})));
    // A cursor from before goes on right behind its line; what was erased lies before it.
    let at =
        messages.iter().position(|message| place(message).0 == "lobby" && place(message).2 == 4).expect("it was told");
    let cursor = messages[at]["cursor"].as_str().expect("a cursor");
    let rest = api.feed(ALL, &format!("?cursor={cursor}"));
    let due: BTreeSet<_> = messages[at + 1..].iter().map(place).collect();
    let told = rest.wait_for_messages(due.len());
    assert_eq!(told.iter().map(place).collect::<BTreeSet<_>>(), due);
    assert_eq!((told.len(), rest.of_type("gap")), (due.len(), vec![]));
}

#[test]
fn a_feed_tells_the_rooms_that_its_key_and_its_pattern_cover_and_nothing_of_others() {
    let setup = Setup::new(&SMALL);
    let api = setup.start(2);
    let feeds =
        [(ALL, "", 5), (ALL, "?rooms=game-*", 2), (GAME, "", 2), (GAME, "?rooms=game-2", 1), (ALL, "?rooms=hall", 1)];
    let opened: Vec<Feed> = feeds.iter().map(|(key, query, _)| api.feed(key, query)).collect();
    say(&api, 0..4);
    for (feed, (_, query, rooms)) in opened.iter().zip(&feeds) {
        let messages = feed.wait_for_messages(4 * rooms);
        let told: BTreeSet<String> = messages.iter().map(|message| place(message).0).collect();
        assert_eq!((messages.len(), told.len()), (4 * rooms, *rooms), "{query}: {told:?}");
    }
    assert!(opened[2].messages().iter().all(|message| place(message).0.starts_with("game-")));
    let none = api.feed(GAME, "?rooms=lobby&cursor=start");
    let all = api.feed(ALL, "?cursor=start");
    all.wait_for_messages(20);
    assert!(none.messages().is_empty());
    assert_eq!(api.metric("banter_feeds"), 7);
    assert_eq!(api.metric("banter_feed_messages_total"), 4 * 11 + 20);
    // A heartbeat says how far it has come, where nothing is told.
    assert!(holds_within(Duration::from_secs(30), || none.of_type("heartbeat").len() >= 2), "every 15 s");
    let query = none.query();
    drop((none, all));
    say(&api, 4..5);
    let all = api.feed(ALL, &query);
    assert_eq!(bodies(&all.wait_for_messages(5)), said(4..5), "its cursor is behind what it left out");
}

#[test]
fn a_feed_that_cannot_be_had_is_refused_with_a_code() {
    let setup = Setup::new(&SMALL);
    let api = setup.start(1);
    api.post("lobby", &json!(1));
    assert_eq!(api.refused("wrong", ""), (401, "unauthorized".to_owned()));
    assert_eq!(api.refused(POST, ""), (403, "forbidden".to_owned()));
    for cursor in ["", "x", "now", "AQAAAAAAAAAA"] {
        assert_eq!(api.refused(ALL, &format!("?cursor={cursor}")), (400, "bad_request".to_owned()), "{cursor}");
    }
    assert_eq!(api.refused(ALL, "?curser=start").0, 400);
    for rooms in ["", "*x", "inbox-%7Buser%7D"] {
        assert_eq!(api.refused(ALL, &format!("?rooms={rooms}")).0, 422, "{rooms}");
    }
    // The cursor of another log, and of the same folder made anew.
    let query = api.feed(ALL, "?cursor=start").query();
    let other = Setup::new(&SMALL);
    let foreign = other.start(1);
    assert_eq!(foreign.refused(ALL, &query), (409, "wrong_log".to_owned()));
    // A server without a log.
    let memory = Setup::new(&["--durability", "memory"]);
    let unlogged = memory.start(1);
    assert_eq!(unlogged.refused(ALL, "?cursor=start"), (501, "no_log".to_owned()));
    assert_eq!(unlogged.refused(POST, ""), (403, "forbidden".to_owned()));
    // As many as may be, of one key and of all; who goes leaves its place.
    let mut feeds: Vec<Feed> = (0..FEEDS_PER_KEY_MAX).map(|_| api.feed(READ, "")).collect();
    wait_until("a key has its share", || api.metric("banter_feeds") == FEEDS_PER_KEY_MAX as u64);
    assert_eq!(api.refused(READ, ""), (503, "overloaded".to_owned()));
    feeds.extend((FEEDS_PER_KEY_MAX..FEEDS_OF_KEYS_MAX).map(|_| api.feed(ALL, "")));
    wait_until("all are open", || api.metric("banter_feeds") == FEEDS_OF_KEYS_MAX as u64);
    assert_eq!(api.refused(ALL, ""), (503, "overloaded".to_owned()));
    api.post("lobby", &json!(2));
    feeds.iter().for_each(|feed| drop(feed.wait_for_messages(1)));
    feeds.pop();
    wait_until("there is a place again", || api.metric("banter_feeds") < FEEDS_OF_KEYS_MAX as u64);
    api.feed(ALL, "?cursor=start").wait_for_messages(2);
}

#[test]
fn a_key_that_a_reload_takes_away_or_narrows_holds_no_longer_for_feeds_that_are_open() {
    let setup = Setup::new(&SMALL);
    let api = setup.start(2);
    let reload = |keys: &[(&str, &str, &str, &str)]| {
        setup.write(keys);
        let (status, answer) = api.curl(ALL, "/v1/reload", &["-X", "POST"]);
        assert_eq!(status, 200, "{answer}");
    };
    let (all, mut game) = (api.feed(ALL, ""), api.feed(GAME, ""));
    // For fewer rooms, at once and without an end.
    reload(&[KEYS[0], ("game", GAME, "'post', 'read'", "'game-2'")]);
    say(&api, 0..2);
    all.wait_for_messages(10);
    let messages = game.wait_for_messages(2);
    assert!(messages.iter().all(|message| message["room"] == "game-2"), "{messages:?}");
    // Without the right.
    reload(&[KEYS[0], ("game", GAME, "'post'", "'*'")]);
    assert_eq!(game.wait_for("end")["code"], "forbidden");
    game.wait_ended();
    // Without the key.
    reload(&KEYS);
    let mut game = api.feed(GAME, "");
    reload(&[KEYS[0]]);
    assert_eq!(game.wait_for("end")["code"], "unauthorized");
    game.wait_ended();
    assert_eq!(game.messages().len(), 0);
    say(&api, 2..3);
    all.wait_for_messages(15);
    assert!(all.of_type("end").is_empty());
}

/// Readers who take nothing keep no memory and no core: each is bounded, and those who read are told everything meanwhile.
#[test]
fn who_takes_nothing_of_a_feed_costs_nothing_and_delays_nobody() {
    let setup = Setup::new(&["--history-bytes-per-core-max", "1048576"]);
    let api = setup.start(2);
    let body = json!("x".repeat(50_000));
    (0..40).for_each(|_| api.broadcast(&ROOMS, &body));
    let before = api.server.memory_bytes();
    let stalled: Vec<TcpStream> = (0..FEEDS_OF_KEYS_MAX - 1)
        .map(|at| {
            let key = if at < FEEDS_PER_KEY_MAX { READ } else { ALL };
            let mut stream = TcpStream::connect(&api.address).expect("a connection");
            let head = format!("GET /v1/feed?cursor=start HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("it is sent");
            stream
        })
        .collect();
    wait_until("all are open", || api.metric("banter_feeds") == stalled.len() as u64);
    let feed = api.feed(ALL, "?cursor=start");
    feed.wait_for_messages(200);
    api.post("lobby", &json!("and on"));
    feed.wait_for_messages(201);
    let more = api.server.memory_bytes().saturating_sub(before);
    assert!(more < 32 << 20, "{more} bytes for readers of 10 MB each");
}
