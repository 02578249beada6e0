//! End to end: rooms of a class with an end are off the disk when their time is over, also where nobody touches them any
//! more, and those of one without are whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use banter_tests::server_process::{PATIENCE, ServerProcess, Start, core_counts, run_to_end, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const DAY_MS: i64 = 86_400_000;
/// Rooms of finished games, with two posts each.
const GAMES: usize = 400;
/// Rooms that stay, with a post for every game.
const LOBBIES: usize = 3;
const A_DAY_OF_GAMES: &str = "[[rooms]]\nmatch = 'game-*'\nretention_hours = 24\n";
/// What is kept for a day is any room's here.
const A_DAY_OF_ALL: &str = "[[rooms]]\nmatch = '*'\nretention_hours = 24\n";
const NO_END: &str = "[[rooms]]\nmatch = '*'\nretention_hours = 0\n";
/// Segments as small as the other limits allow.
const SMALL: [&str; 12] = [
    "--frame-bytes-max",
    "8192",
    "--log-commit-bytes-max",
    "16384",
    "--log-segment-bytes",
    "65536",
    "--history-bytes-per-core-max",
    "16384",
    "--dedupe-window-ms",
    "1000",
    "--durability",
    "written",
];

/// A data folder, and the starts on it.
struct House(TempDir);

impl House {
    fn new() -> Self {
        House(TempDir::new().expect("a temporary folder"))
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// A start so many days later, with those rooms in its configuration.
    fn start(&self, rooms: &str, days: i64) -> ServerProcess {
        let config = self.0.path().join("banter.toml");
        fs::write(&config, rooms).expect("a file");
        let flags = [&SMALL[..], &["--config", config.to_str().expect("text")]].concat();
        let cores = *core_counts().last().expect("a count");
        Start::new(cores, &flags).data(&self.data()).clock_offset_ms(days * DAY_MS).believes_clock().run()
    }

    /// The segments that hold something of a room with such a name.
    fn segments_with(&self, name: &str) -> BTreeSet<PathBuf> {
        let holds = |path: &Path| {
            let bytes = fs::read(path).unwrap_or_default();
            bytes.windows(name.len()).any(|there| there == name.as_bytes())
        };
        segments(&self.data()).into_iter().filter(|path| holds(path)).collect()
    }

    /// How many rooms with such a name the log tells of.
    fn logged_rooms(&self, name: &str) -> usize {
        let (code, out, error) = run_to_end(&["log", "rooms", self.data().to_str().expect("text"), "--json"]);
        assert_eq!(code, 0, "{error}");
        let said: Value = serde_json::from_str(&out).expect("JSON");
        let rooms = said["rooms"].as_array().expect("a list");
        rooms.iter().filter(|room| room["room"].as_str().is_some_and(|room| room.starts_with(name))).count()
    }
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("log")).expect("the log's folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|ending| ending == "log")).collect()
}

fn hello(server: &ServerProcess) -> WireClient {
    WireClient::hello(server.address(), Form::Json, "ann")
}

fn stop(mut server: ServerProcess) {
    server.signal(Signal::TERM);
    server.wait(PATIENCE);
}

fn game(number: usize) -> String {
    format!("game-{number:04}")
}

fn lobby(number: usize) -> String {
    format!("lobby-{number}")
}

fn text(room: &str, number: usize) -> Value {
    json!(format!("{room} {number} {}", "x".repeat(100)))
}

/// Posts to each game while others post to the lobbies; nobody is left in a game.
fn play(client: &mut WireClient) -> Vec<Value> {
    let lobbies = (0..LOBBIES).map(|number| client.join(&lobby(number))["epoch"].clone()).collect();
    for number in 0..GAMES {
        let room = game(number);
        client.join(&room);
        client.post(&room, text(&room, 1));
        client.post(&room, text(&room, 2));
        client.ask(json!({"type": "leave", "room": room}));
        let room = lobby(number % LOBBIES);
        client.post(&room, text(&room, 1 + number / LOBBIES));
    }
    lobbies
}

/// The places of a room and what they say, by its pages.
fn read(client: &mut WireClient, room: &str) -> Vec<(u64, Value)> {
    let mut all: Vec<(u64, Value)> = Vec::new();
    loop {
        let after = all.last().map_or(0, |last| last.0);
        let page = client.ask(json!({"type": "fetch", "room": room, "after": after, "limit": 100}));
        assert_eq!(page["type"], "page", "{page}");
        let messages = page["messages"].as_array().expect("messages");
        all.extend(messages.iter().map(|one| (one["sequence"].as_u64().expect("a number"), one["body"].clone())));
        if page["more"] == false {
            return all;
        }
    }
}

#[test]
fn games_that_nobody_touches_are_off_the_disk_two_days_later_and_lobbies_are_whole() {
    let house = House::new();
    let server = house.start(A_DAY_OF_GAMES, 0);
    let mut client = hello(&server);
    let lobbies = play(&mut client);
    let games = client.join(&game(7))["epoch"].clone();
    stop(server);
    let (of_games, of_lobbies) = (house.segments_with("game-"), house.segments_with("lobby-"));
    assert!(of_games.len() > 2 && of_lobbies.len() > 1 && of_games.is_disjoint(&of_lobbies), "each class has its own");
    assert_eq!((house.logged_rooms("game-"), house.logged_rooms("lobby-")), (GAMES, LOBBIES));
    let server = house.start(A_DAY_OF_GAMES, 2);
    wait_until("the games go", || house.segments_with("game-").is_empty());
    assert!(of_games.iter().all(|path| !path.exists() && !path.with_extension("index").exists()));
    assert!(of_lobbies.iter().all(|path| path.exists()));
    let mut client = hello(&server);
    for (number, epoch) in lobbies.iter().enumerate() {
        let (room, posts) = (lobby(number), (GAMES - number).div_ceil(LOBBIES));
        assert_eq!(&client.join(&room)["epoch"], epoch);
        let expected: Vec<_> = (1..=posts).map(|place| (place as u64, text(&room, place))).collect();
        assert_eq!(read(&mut client, &room), expected);
    }
    let anew = client.join(&game(7));
    assert_eq!(anew["sequence"], 0);
    assert!(anew["epoch"].as_u64() > games.as_u64(), "{anew}");
    let refused = json!({"type": "join", "room": game(8), "after": {"epoch": games, "sequence": 1}});
    assert_eq!(client.ask(refused)["code"], "wrong_epoch");
    stop(server);
    assert_eq!((house.logged_rooms("game-"), house.logged_rooms("lobby-")), (0, LOBBIES));
    let server = house.start(A_DAY_OF_GAMES, 2);
    let mut client = hello(&server);
    for number in [7, 8] {
        let joined = client.join(&game(number));
        assert_eq!((&joined["epoch"], &joined["sequence"]), (&anew["epoch"], &json!(0)), "it is kept without a write");
    }
}

#[test]
fn a_room_that_goes_from_class_to_class_keeps_its_messages_and_no_place_is_given_twice_under_an_epoch() {
    let house = House::new();
    let room = "game-0001";
    let mut given: BTreeSet<(u64, u64)> = BTreeSet::new();
    let mut run = |rooms: &str, days: i64, kept: &[u64]| {
        let server = house.start(rooms, days);
        let mut client = hello(&server);
        client.join(room);
        let there: Vec<u64> = read(&mut client, room).iter().map(|(place, _)| *place).collect();
        assert_eq!(there, kept, "what is there at a start with {rooms:?}");
        for _ in 0..3 {
            let says = if rooms == NO_END { "of no end" } else { "of a day" };
            let posted = client.post(room, json!(says));
            let place = (posted["epoch"].as_u64().expect("a number"), posted["sequence"].as_u64().expect("a number"));
            assert!(given.insert(place), "{place:?} was given before");
        }
        stop(server);
    };
    run(A_DAY_OF_ALL, 0, &[]);
    run(NO_END, 0, &[1, 2, 3]);
    run(A_DAY_OF_ALL, 0, &[1, 2, 3, 4, 5, 6]);
    // The newest of the room goes with the day, and what is older stays.
    let server = house.start(A_DAY_OF_ALL, 2);
    wait_until("the day's class goes", || house.segments_with("of a day").is_empty());
    stop(server);
    run(NO_END, 2, &[4, 5, 6]);
    run(A_DAY_OF_ALL, 2, &[4, 5, 6, 7, 8, 9]);
}
