//! End to end: what a server was given to keep is there when it starts again, and is read back from the disk.

use std::fs;
use std::path::{Path, PathBuf};

use banter_tests::server_process::{PATIENCE, ServerProcess, Start, core_counts, run_to_end, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Segments as small as the other limits allow, so that a test comes to several of them.
const SMALL: [&str; 8] = [
    "--frame-bytes-max",
    "8192",
    "--log-commit-bytes-max",
    "16384",
    "--log-segment-bytes",
    "65536",
    "--history-bytes-per-core-max",
    "16384",
];

fn start(cores: usize, data: &Path, flags: &[&str]) -> ServerProcess {
    Start::new(cores, flags).data(data).run()
}

fn hello(server: &ServerProcess, user: &str) -> WireClient {
    WireClient::hello(server.address(), Form::Json, user)
}

fn stop(mut server: ServerProcess, signal: Signal) {
    server.signal(signal);
    server.wait(PATIENCE);
}

/// Posts texts of some hundred bytes that say their number.
fn post_many(client: &mut WireClient, room: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(client.post(room, json!(text(number)))["sequence"], number);
    }
}

fn text(number: u64) -> String {
    format!("{number} {}", "x".repeat(400))
}

/// Everything of a room, page by page in one direction.
fn fetch_all(client: &mut WireClient, room: &str, forwards: bool) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let page = if forwards {
            let after = all.last().map_or(json!(0), |last| last["sequence"].clone());
            client.ask(json!({"type": "fetch", "room": room, "after": after, "limit": 37}))
        } else {
            let before = all.first().map_or(json!(1u64 << 40), |first| first["sequence"].clone());
            client.ask(json!({"type": "fetch", "room": room, "before": before, "limit": 37}))
        };
        assert_eq!(page["type"], "page", "{page}");
        let messages = page["messages"].as_array().expect("messages").clone();
        assert!(!messages.is_empty() || page["more"] == false, "{page}");
        let at = if forwards { all.len() } else { 0 };
        all.splice(at..at, messages);
        if page["more"] == false {
            return all;
        }
    }
}

fn check_all(messages: &[Value], first: u64, last: u64, epoch: &Value) {
    let sequences: Vec<u64> = messages.iter().map(|message| message["sequence"].as_u64().expect("a number")).collect();
    assert_eq!(sequences, (first..=last).collect::<Vec<_>>());
    for message in messages {
        let number = message["sequence"].as_u64().expect("a number");
        assert_eq!((&message["body"], &message["epoch"]), (&json!(text(number)), epoch));
    }
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("log")).expect("the log's folder");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
    paths.sort();
    paths
}

#[test]
fn what_was_acknowledged_is_there_after_kill_and_after_stop_on_any_number_of_cores() {
    let most = *core_counts().last().expect("a count");
    let folder = TempDir::new().expect("a temporary folder");
    let mut epoch = Value::Null;
    let mut head = 0;
    for (cores, signal) in
        [(most, Signal::KILL), (1, Signal::TERM), (most, Signal::KILL), (1, Signal::KILL), (most, Signal::TERM)]
    {
        let server = start(cores, folder.path(), &[]);
        let mut ann = hello(&server, "ann");
        for room in 0..8 {
            let joined = ann.join(&format!("room {room}"));
            assert_eq!((&joined["sequence"], &joined["durability"]), (&json!(head), &json!("synced")));
        }
        let joined = ann.join("room 0");
        if head > 0 {
            assert_eq!(joined["epoch"], epoch);
            // A cursor from before the restart is as good as ever.
            let mut bob = hello(&server, "bob");
            bob.ask(json!({"type": "join", "room": "room 0", "after": {"epoch": epoch, "sequence": head - 5}}));
            for sequence in head - 4..=head {
                assert_eq!(bob.next_event()["sequence"], sequence);
            }
        }
        epoch = joined["epoch"].clone();
        for room in 0..8 {
            post_many(&mut ann, &format!("room {room}"), head + 1..=head + 10);
        }
        head += 10;
        for forwards in [true, false] {
            check_all(&fetch_all(&mut ann, "room 0", forwards), 1, head, &epoch);
        }
        stop(server, signal);
    }
}

#[test]
fn keys_are_known_across_a_restart_and_a_conflict_is_still_one() {
    for signal in [Signal::KILL, Signal::TERM] {
        let folder = TempDir::new().expect("a temporary folder");
        let post = |client: &mut WireClient, key: &str, body: &str| {
            client.ask(json!({"type": "post", "room": "room", "key": key, "body": body}))
        };
        for round in 0..3 {
            let server = start(1, folder.path(), &SMALL);
            let mut ann = hello(&server, "ann");
            ann.ask(json!({"type": "join", "room": "room", "echo": false}));
            for number in 0..200u64 {
                let posted = post(&mut ann, &format!("key {number}"), &text(number));
                let expected = json!([number + 1, round > 0]);
                assert_eq!(json!([posted["sequence"], posted["duplicate"]]), expected, "round {round}: {posted}");
            }
            assert_eq!(post(&mut ann, "key 7", "another")["code"], "key_conflict");
            let mut bob = hello(&server, "bob");
            bob.ask(json!({"type": "join", "room": "room", "echo": false}));
            let fresh = post(&mut bob, "key 7", &text(7));
            assert_eq!(fresh["duplicate"], round > 0, "another user's key is another key");
            stop(server, signal);
        }
    }
}

#[test]
fn a_history_beyond_memory_is_read_from_the_disk_in_every_way() {
    for &cores in core_counts() {
        let folder = TempDir::new().expect("a temporary folder");
        let server = start(cores, folder.path(), &SMALL);
        let mut ann = hello(&server, "ann");
        let epoch = ann.join("room")["epoch"].clone();
        let mut other = hello(&server, "other");
        other.ask(json!({"type": "join", "room": "room", "echo": false}));
        post_many(&mut ann, "room", 1..=600);
        assert!(server.metric("banter_history_bytes") <= 2 * 16_384);
        assert!(segments(folder.path()).len() > 4);
        for (index, form) in Form::ALL.into_iter().enumerate() {
            let mut reader = WireClient::hello_on(&server, index % cores, form, "reader");
            check_all(&fetch_all(&mut reader, "room", true), 1, 600, &epoch);
            check_all(&fetch_all(&mut reader, "room", false), 1, 600, &epoch);
            reader.ask(json!({"type": "join", "room": "room", "after": {"epoch": epoch, "sequence": 3}}));
            let read: Vec<Value> = (4..=600).map(|_| reader.next_event()).collect();
            check_all(&read, 4, 600, &epoch);
            reader.ask(json!({"type": "leave", "room": "room"}));
            reader.ask(json!({"type": "join", "room": "room", "last": 450}));
            let read: Vec<Value> = (151..=600).map(|_| reader.next_event()).collect();
            check_all(&read, 151, 600, &epoch);
            reader.ask(json!({"type": "leave", "room": "room"}));
        }
        assert!(server.metric("banter_log_pages_total") > 0);
        // Own posts are left out of what is read back, too.
        let read: Vec<Value> = (1..=600).map(|_| other.next_event()).collect();
        check_all(&read, 1, 600, &epoch);
        other.post("room", json!("own"));
        let own = json!({"type": "join", "room": "room", "echo": false, "after": {"epoch": epoch, "sequence": 0}});
        other.ask(json!({"type": "leave", "room": "room"}));
        other.ask(own);
        let read: Vec<Value> = (1..=600).map(|_| other.next_event()).collect();
        check_all(&read, 1, 600, &epoch);
        ann.post("room", json!("another's"));
        assert_eq!(other.next_event()["sequence"], 602, "and what comes behind them follows");
    }
}

#[test]
fn a_room_by_its_pattern_is_kept_or_not() {
    let folder = TempDir::new().expect("a temporary folder");
    let config = folder.path().join("banter.toml");
    let rooms = "[[rooms]]\nmatch = \"game-*\"\ndurability = \"memory\"\n[[rooms]]\nmatch = \"w-*\"\ndurability = \"written\"\n";
    fs::write(&config, rooms).expect("a file");
    let flags = ["--config", config.to_str().expect("text")];
    let data = folder.path().join("data");
    let mut epochs: Vec<Value> = Vec::new();
    for round in 1..=2u64 {
        let server = start(1, &data, &flags);
        let mut ann = hello(&server, "ann");
        for (index, (room, level)) in
            [("game-1", "memory"), ("w-1", "written"), ("lobby", "synced")].into_iter().enumerate()
        {
            let joined = ann.join(room);
            assert_eq!(joined["durability"], level);
            let is_kept = level != "memory";
            assert_eq!(joined["sequence"], if is_kept { round - 1 } else { 0 });
            if round == 2 {
                assert_eq!(joined["epoch"] == epochs[index], is_kept, "{room}");
            }
            epochs.push(joined["epoch"].clone());
            ann.post(room, json!("x"));
        }
        stop(server, Signal::KILL);
    }
}

#[test]
fn retention_drops_whole_segments_and_a_cursor_before_them_is_told_a_gap() {
    let folder = TempDir::new().expect("a temporary folder");
    let flags = [&SMALL[..], &["--retention-bytes", "200000", "--dedupe-window-ms", "1000"]].concat();
    let server = start(1, folder.path(), &flags);
    let mut ann = hello(&server, "ann");
    let epoch = ann.join("room")["epoch"].clone();
    ann.ask(json!({"type": "leave", "room": "room"}));
    ann.ask(json!({"type": "join", "room": "room", "echo": false}));
    post_many(&mut ann, "room", 1..=600);
    let mut last = 600;
    wait_until("old segments go", || {
        last += 1;
        post_many(&mut ann, "room", last..=last);
        // A pace: segments with a key younger than the dedupe window stay.
        std::thread::sleep(std::time::Duration::from_millis(20));
        // Three that are kept, the one that is written, and two ready ones where the machine is slow.
        segments(folder.path()).len() <= 6
    });
    let first = fetch_all(&mut ann, "room", true)[0]["sequence"].as_u64().expect("a number");
    assert!(first > 1);
    let mut bob = hello(&server, "bob");
    bob.ask(json!({"type": "join", "room": "room", "after": {"epoch": epoch, "sequence": 0}}));
    let gap = bob.next_event();
    assert_eq!(json!([gap["type"], gap["from"]]), json!(["gap", 1]), "{gap}");
    assert_eq!(gap["first_available"], gap["to"].as_u64().expect("a number") + 1);
    assert_eq!(bob.next_event()["sequence"], gap["first_available"]);
    stop(server, Signal::KILL);
    let server = start(1, folder.path(), &flags);
    let mut ann = hello(&server, "ann");
    let joined = ann.join("room");
    assert_eq!(json!([joined["sequence"], joined["epoch"]]), json!([last, epoch]), "the places go on");
}

#[test]
fn a_missing_or_stale_index_is_made_again() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = start(1, folder.path(), &SMALL);
    let mut ann = hello(&server, "ann");
    let epoch = ann.join("room")["epoch"].clone();
    post_many(&mut ann, "room", 1..=400);
    stop(server, Signal::TERM);
    let paths = segments(folder.path());
    let index = |path: &PathBuf| path.with_extension("index");
    assert!(paths.len() > 3 && paths.iter().all(|path| index(path).exists()), "all is sealed: {paths:?}");
    fs::remove_file(index(&paths[0])).expect("an index");
    fs::copy(index(&paths[2]), index(&paths[1])).expect("an index of another segment");
    let cut = fs::read(index(&paths[2])).expect("an index");
    fs::write(index(&paths[2]), &cut[..cut.len() / 2]).expect("half an index");
    let server = start(1, folder.path(), &SMALL);
    let mut ann = hello(&server, "ann");
    check_all(&fetch_all(&mut ann, "room", true), 1, 400, &epoch);
}

#[test]
fn damage_in_the_middle_of_what_is_not_sealed_refuses_to_start_until_it_is_accepted() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = start(1, folder.path(), &[]);
    let mut ann = hello(&server, "ann");
    let epoch = ann.join("room")["epoch"].clone();
    post_many(&mut ann, "room", 1..=20);
    stop(server, Signal::KILL);
    let path = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&path).expect("a segment");
    // Each post was a commit of one page: this is in the tenth.
    bytes[4_096 * 10 + 100] ^= 1;
    fs::write(&path, bytes).expect("a segment");
    let data = folder.path().to_str().expect("text");
    let (code, _, error) = run_to_end(&["--data", data, "--listen", "127.0.0.1:0", "--cores", "1"]);
    assert_eq!(code, 78, "{error}");
    assert!(error.contains("damaged at offset 40960") && error.contains("--accept-corruption"), "{error}");
    let server = start(1, folder.path(), &["--accept-corruption"]);
    assert!(server.log().contains("going on over damage"));
    let mut ann = hello(&server, "ann");
    let refused = ann.ask(json!({"type": "join", "room": "room", "after": {"epoch": epoch, "sequence": 3}}));
    assert_eq!(refused["code"], "wrong_epoch");
    let joined = ann.join("room");
    assert_eq!(joined["sequence"], 9);
    let broken = joined["epoch"].clone();
    assert_ne!(broken, epoch);
    check_all(&fetch_all(&mut ann, "room", true), 1, 9, &broken);
    assert_eq!(ann.post("room", json!(text(10)))["sequence"], 10);
    stop(server, Signal::KILL);
    // Once is enough, and the new epoch stays.
    let server = start(1, folder.path(), &[]);
    let mut ann = hello(&server, "ann");
    assert_eq!(ann.join("room")["epoch"], broken);
    check_all(&fetch_all(&mut ann, "room", false), 1, 10, &broken);
}

#[test]
fn damage_in_a_sealed_segment_is_told_as_a_gap_and_never_as_a_wrong_message() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = start(1, folder.path(), &SMALL);
    let mut ann = hello(&server, "ann");
    let epoch = ann.join("room")["epoch"].clone();
    post_many(&mut ann, "room", 1..=400);
    stop(server, Signal::TERM);
    let path = segments(folder.path()).remove(1);
    let mut bytes = fs::read(&path).expect("a segment");
    // In the message of the fifth block, not in the padding behind it.
    bytes[4_096 * 5 + 100] ^= 1;
    fs::write(&path, bytes).expect("a segment");
    let server = start(1, folder.path(), &SMALL);
    let mut reader = hello(&server, "reader");
    reader.ask(json!({"type": "join", "room": "room", "after": {"epoch": epoch, "sequence": 0}}));
    let mut next = 1;
    let mut gaps = 0;
    while next <= 400 {
        let event = reader.next_event();
        if event["type"] == "gap" {
            assert_eq!(event["from"], next);
            next = event["first_available"].as_u64().expect("a number");
            gaps += 1;
        } else {
            assert_eq!(json!([event["sequence"], event["body"]]), json!([next, text(next)]));
            next += 1;
        }
    }
    assert!(gaps >= 1);
    // The reader's word comes first, and says the same.
    wait_until("the check finds it, too", || server.metric("banter_log_damaged_segments_total") == 1);
}

#[test]
fn a_copy_of_a_running_servers_folder_restores_what_was_acknowledged_before_it() {
    let folder = TempDir::new().expect("a temporary folder");
    let copy = TempDir::new().expect("a temporary folder");
    let copy = copy.path().join("copy");
    let server = start(1, folder.path(), &SMALL);
    let mut ann = hello(&server, "ann");
    let epoch = ann.join("room")["epoch"].clone();
    post_many(&mut ann, "room", 1..=300);
    let busy = std::thread::spawn(move || {
        post_many(&mut ann, "room", 301..=500);
        ann
    });
    let backup = || run_to_end(&["log", "backup", folder.path().to_str().expect("text"), copy.to_str().expect("text")]);
    let (code, out, error) = backup();
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("copied "), "{out}");
    drop(busy.join().expect("a writer ends"));
    assert_eq!(backup().0, 78, "not over what is there");
    let (code, out, _) = run_to_end(&["log", "check", copy.to_str().expect("text")]);
    assert_eq!(code, 0, "{out}");
    let restored = start(1, &copy, &SMALL);
    let mut reader = hello(&restored, "reader");
    let messages = fetch_all(&mut reader, "room", true);
    assert!(messages.len() >= 300);
    let joined = reader.join("room");
    assert_ne!(joined["epoch"], epoch, "the first server went on");
    check_all(&messages, 1, messages.len() as u64, &joined["epoch"]);
}

#[test]
fn a_segment_that_is_gone_from_the_midst_is_damage() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = start(1, folder.path(), &SMALL);
    let mut ann = hello(&server, "ann");
    ann.join("room");
    post_many(&mut ann, "room", 1..=300);
    stop(server, Signal::TERM);
    fs::remove_file(&segments(folder.path())[2]).expect("a segment");
    let data = folder.path().to_str().expect("text");
    let (code, _, error) = run_to_end(&["--data", data, "--listen", "127.0.0.1:0", "--cores", "1"]);
    assert_eq!(code, 78, "{error}");
    assert!(error.contains("messages of 1 rooms are missing"), "{error}");
    for flags in [&["--accept-corruption"][..], &[]] {
        let server = start(1, folder.path(), flags);
        let mut ann = hello(&server, "ann");
        let epoch = ann.join("room")["epoch"].clone();
        let messages = fetch_all(&mut ann, "room", false);
        check_all(&messages, messages[0]["sequence"].as_u64().expect("a number"), 300, &epoch);
        stop(server, Signal::KILL);
    }
}

/// Descriptors of a server that has few: what its host check wants for two cores, and some connections.
const FEW_DESCRIPTORS: u32 = 132;
/// Descriptors that the host check keeps back: for the server, and for each core of it.
const DESCRIPTORS_KEPT: [u32; 2] = [64, 32];

/// As `fetch_all`, but asks again where the server puts it off.
fn fetch_all_patiently(client: &mut WireClient, room: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let after = all.last().map_or(json!(0), |last| last["sequence"].clone());
        let page = client.ask(json!({"type": "fetch", "room": room, "after": after, "limit": 37}));
        if let Some(rest_ms) = page["retry_after_ms"].as_u64() {
            std::thread::sleep(std::time::Duration::from_millis(rest_ms));
            continue;
        }
        assert_eq!(page["type"], "page", "{page}");
        all.extend(page["messages"].as_array().expect("messages").iter().cloned());
        if page["more"] == false {
            return all;
        }
    }
}

#[test]
fn a_server_with_few_descriptors_reads_back_more_segments_than_it_can_have_open() {
    const ROOMS: usize = 8;
    // A segment takes 15 of them: each is a page.
    const MESSAGES: u64 = 300;
    let cores = *core_counts().last().expect("a count");
    let connections = FEW_DESCRIPTORS - DESCRIPTORS_KEPT[0] - DESCRIPTORS_KEPT[1] * cores as u32;
    let connections = format!("--connections-max={connections}");
    let folder = TempDir::new().expect("a temporary folder");
    let flags = [&SMALL[..], &["--durability", "written", &connections]].concat();
    let server = start(cores, folder.path(), &flags);
    let mut ann = hello(&server, "ann");
    let rooms: Vec<String> = (0..ROOMS).map(|room| format!("room {room}")).collect();
    let epochs: Vec<Value> = rooms.iter().map(|room| ann.join(room)["epoch"].clone()).collect();
    for number in 1..=MESSAGES {
        rooms.iter().for_each(|room| post_many(&mut ann, room, number..=number));
    }
    stop(server, Signal::TERM);
    assert!(segments(folder.path()).len() > FEW_DESCRIPTORS as usize);
    let server = Start::new(cores, &flags).data(folder.path()).descriptors_max(FEW_DESCRIPTORS).run();
    // Each reader is somewhere else in the log.
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (server, rooms, epochs) = (&server, &rooms, &epochs);
            scope.spawn(move || {
                let mut client = hello(server, &format!("reader {reader}"));
                for (room, epoch) in rooms.iter().zip(epochs).cycle().skip(reader * 3).take(ROOMS) {
                    check_all(&fetch_all_patiently(&mut client, room), 1, MESSAGES, epoch);
                }
            });
        }
    });
    assert_eq!(server.metric("banter_damaged_reads_total"), 0);
}
