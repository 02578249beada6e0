//! End to end: `banter log`, on logs that are whole, torn, damaged, foreign, missing, in use.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banter_log::PAGE_BYTES;
use banter_log::block::{BlockPlace, BlockWriter};
use banter_log::record::{Author, Level, Record};
use banter_log::segment::{SegmentHeader, file_name};
use banter_protocol::event::Message;
use banter_protocol::ids::{Epoch, RoomId, Sequence};
use banter_protocol::native::write_message;
use banter_protocol::request::{Body, BodyFormat};
use banter_tests::server_process::{PATIENCE, Start, program, run_to_end};
use banter_tests::wire_client::{Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const WHOLE: i32 = 0;
const DAMAGED: i32 = 1;
const EXIT_USAGE: i32 = 2;
/// `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: i32 = 78;
/// Blocks of every segment made here; each holds two messages and fills a page.
const BLOCKS: u64 = 4;

/// A data folder with a log.
struct Data(TempDir);

impl Data {
    /// With segments of these ids; the sequences of "lobby" and "hall" go on from one to the next.
    fn with_segments(ids: &[u64]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        fs::create_dir(folder.path().join("log")).expect("a folder");
        let data = Data(folder);
        for (index, &id) in ids.iter().enumerate() {
            let bytes = segment(id, 1 + index as u64 * BLOCKS, BLOCKS);
            fs::write(data.path_of(id), bytes).expect("a file");
        }
        data
    }

    fn path(&self) -> &str {
        self.0.path().to_str().expect("text")
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }

    fn path_of(&self, id: u64) -> PathBuf {
        self.log().join(file_name(id))
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path_of(id)).expect("a segment");
        change(&mut bytes);
        fs::write(self.path_of(id), bytes).expect("a segment");
    }

    fn check(&self) -> (i32, String, String) {
        run_to_end(&["log", "check", self.path()])
    }

    /// What it says as JSON, and its exit code.
    fn check_json(&self) -> (i32, Value) {
        let (code, out, err) = run_to_end(&["log", "check", self.path(), "--json"]);
        assert_eq!((out.lines().count(), &*err), (1, ""));
        (code, serde_json::from_str(&out).expect("JSON"))
    }

    /// The lines it writes, its exit code, and what it says on stderr.
    fn dump(&self, flags: &[&str]) -> (i32, Vec<Value>, String) {
        let (code, out, err) = run_to_end(&[&["log", "dump", self.path()], flags].concat());
        (code, out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect(), err)
    }
}

/// A segment's file, with zeros behind its blocks. Each block has a message of "lobby" in JSON and one of "hall" in bytes.
fn segment(id: u64, first: u64, blocks: u64) -> Vec<u8> {
    let header = SegmentHeader {
        id,
        nonce: id ^ 0x5eed,
        core: (id % 2) as u16,
        class: banter_log::segment::Class::SERVER,
        run: 1,
        made_unix_ms: 1,
        file_bytes: 1,
    };
    let (mut file, mut place) = (header.write(), BlockPlace::first_of(header));
    for sequence in first..first + blocks {
        let mut block = BlockWriter::of(&header);
        let author = Author { core: 0, slot: 0, generation: 0 };
        for (room, format, body) in
            [("lobby", BodyFormat::Json, &b"{\"n\" : 1}"[..]), ("hall", BodyFormat::Bytes, b"\0\xff")]
        {
            let frame = frame(room, sequence, Body { format, bytes: body });
            block.push(&Record::message(RoomId::of(room), Level::Synced, author, &frame));
        }
        place.synced = place.number;
        let (bytes, behind) = block.finish(&place);
        file.extend_from_slice(&bytes);
        place = behind;
    }
    file.resize(file.len().max(64 * 1_024), 0);
    file
}

fn frame(room: &str, sequence: u64, body: Body<'_>) -> Vec<u8> {
    let (epoch, sequence) = (Epoch(7), Sequence(sequence));
    let mut frame = Vec::new();
    write_message(&Message { epoch, sequence, time_ms: 5, room, user: "ann", key: Some("k"), body }, &mut frame);
    frame
}

/// Where a block of a segment made here starts.
fn block_at(number: usize) -> usize {
    (1 + number) * PAGE_BYTES
}

/// The sequences of a room, in the order of the dump.
fn sequences(lines: &[Value], room: &str) -> Vec<u64> {
    lines.iter().filter(|line| line["room"] == room).filter_map(|line| line["sequence"].as_u64()).collect()
}

#[test]
fn a_whole_log_is_all_right_from_the_data_folder_and_from_its_log() {
    let data = Data::with_segments(&[3, 9, 10]);
    let log = data.log();
    for dir in [data.path(), log.to_str().expect("text")] {
        let (code, out, err) = run_to_end(&["log", "check", dir]);
        assert_eq!((code, &*err), (WHOLE, ""));
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[1].starts_with("segment-0000000000000009.log  id 9  core 1  blocks 4  records 8  "), "{out}");
        assert!(lines[..3].iter().all(|line| line.ends_with("  clean")), "{out}");
        assert_eq!(*lines.last().expect("lines"), "3 segments, 12 blocks, 24 records, 61440 bytes: all right");
    }
    let (code, said) = data.check_json();
    assert_eq!((code, &said["ok"], &said["records"]), (WHOLE, &json!(true), &json!(24)));
    assert_eq!(said["segments"][2]["id"], 10);
}

#[test]
fn the_dump_has_every_message_in_order_with_its_body_as_it_was() {
    let data = Data::with_segments(&[1, 2]);
    let (code, out, err) = run_to_end(&["log", "dump", data.path()]);
    assert_eq!((code, &*err), (WHOLE, ""));
    let first = format!(
        "{{\"room\":\"lobby\",\"epoch\":7,\"sequence\":1,\"time_ms\":5,\"user\":\"ann\",\"key\":\"k\",\"body\":{{\"n\" : \
         1}},\"segment\":1,\"offset\":{}}}",
        block_at(0) + 64
    );
    assert_eq!(out.lines().next(), Some(&*first));
    let (_, lines, _) = data.dump(&[]);
    assert_eq!(sequences(&lines, "lobby"), (1..=8).collect::<Vec<_>>());
    assert_eq!(sequences(&lines, "hall"), (1..=8).collect::<Vec<_>>());
    assert_eq!(lines[1]["body_base64"], "AP8=");
    let (code, lines, _) = data.dump(&["--room", "hall"]);
    assert_eq!((code, lines.len()), (WHOLE, 8));
    assert!(lines.iter().all(|line| line["room"] == "hall"));
}

#[test]
fn the_rooms_are_listed_by_name() {
    let data = Data::with_segments(&[1, 2]);
    let (code, out, err) = run_to_end(&["log", "rooms", data.path()]);
    assert_eq!((code, &*err), (WHOLE, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("\"hall\"  messages 8  1..8  epoch 7  bytes "), "{out}");
    assert!(lines[1].starts_with("\"lobby\"  messages 8  1..8  epoch 7  bytes "), "{out}");
    assert!(lines[0].ends_with("  newest 1970-01-01T00:00:00Z") && lines[2].starts_with("2 rooms, "), "{out}");
    let (code, out, _) = run_to_end(&["log", "rooms", data.path(), "--json"]);
    let said: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &said["rooms"][1]["room"], &said["rooms"][1]["last"]), (WHOLE, &json!("lobby"), &json!(8)));
    data.change(1, |bytes| bytes[block_at(1) + 100] ^= 4);
    let (code, out, err) = run_to_end(&["log", "rooms", data.path()]);
    assert!(code == DAMAGED && out.contains("5..8") && err.contains("segment-0000000000000001.log"), "{out}{err}");
}

#[test]
fn a_flipped_bit_in_the_middle_is_damage_with_its_file_its_offset_and_its_cure() {
    let data = Data::with_segments(&[1, 2]);
    data.change(1, |bytes| bytes[block_at(1) + 100] ^= 4);
    let (code, out, _) = data.check();
    assert_eq!(code, DAMAGED, "{out}");
    let place = format!("{}, offset {}: ", data.path_of(1).display(), block_at(1));
    assert!(out.contains(&place) && out.contains("--accept-corruption"), "{out}");
    assert!(out.contains("  corrupt\n") && out.contains("  clean\n"), "the other segment is read too: {out}");
    let (code, said) = data.check_json();
    let segment = &said["segments"][0];
    assert_eq!((code, &segment["ending"], &segment["blocks"]), (DAMAGED, &json!("corrupt"), &json!(1)));
    assert_eq!((&segment["damage"][0]["offset"], &said["ok"]), (&json!(block_at(1)), &json!(false)));
    let (code, lines, err) = data.dump(&[]);
    assert_eq!(code, DAMAGED);
    assert_eq!(sequences(&lines, "lobby"), [1, 5, 6, 7, 8]);
    assert!(err.contains(&place) && err.contains("banter log check"), "{err}");
}

#[test]
fn a_torn_tail_is_all_right_and_said() {
    let data = Data::with_segments(&[1]);
    data.change(1, |bytes| bytes[block_at(3) + 150..].fill(0));
    let (code, out, _) = data.check();
    assert_eq!(code, WHOLE, "{out}");
    assert!(out.contains("torn (150 bytes") && out.contains("all right, 1 with a torn tail"), "{out}");
    let (code, said) = data.check_json();
    assert_eq!((code, &said["torn"], &said["segments"][0]["ending"]), (WHOLE, &json!(1), &json!("torn")));
    let (code, lines, _) = data.dump(&[]);
    assert_eq!((code, sequences(&lines, "lobby")), (WHOLE, vec![1, 2, 3]));
}

#[test]
fn a_segment_that_was_cut_short_or_lost_its_header_is_told() {
    let data = Data::with_segments(&[1, 2]);
    data.change(1, |bytes| bytes.truncate(100));
    data.change(2, |bytes| bytes[20] ^= 1);
    let (code, out, _) = data.check();
    assert_eq!(code, DAMAGED);
    assert!(out.contains("the file ends before its header does") && out.contains("its header does not check"), "{out}");
}

#[test]
fn a_foreign_file_named_like_a_segment_is_damage_and_others_are_left_alone() {
    let data = Data::with_segments(&[1]);
    fs::write(data.path_of(2), "notes\n".repeat(4_000)).expect("a file");
    fs::write(data.log().join("segment-7.log"), "notes").expect("a file");
    fs::write(data.log().join("notes.txt"), "notes").expect("a file");
    fs::create_dir(data.path_of(3)).expect("a folder");
    let (code, out, _) = data.check();
    assert_eq!(code, DAMAGED);
    assert!(out.contains("it is not a Banter log segment") && out.contains("move it out of the folder"), "{out}");
    assert!(out.contains("is no file") && out.contains("segment-7.log is named much like"), "{out}");
    assert!(!out.contains("notes.txt"), "{out}");
    let (code, lines, _) = data.dump(&[]);
    assert_eq!((code, lines.len()), (DAMAGED, 8));
}

#[test]
fn a_segment_under_another_name_is_damage() {
    let data = Data::with_segments(&[1]);
    fs::copy(data.path_of(1), data.path_of(2)).expect("a copy");
    let (code, out, _) = data.check();
    assert_eq!(code, DAMAGED);
    assert!(out.contains("says that it is segment 1, and its name that it is 2"), "{out}");
}

/// Runs a task that must refuse, and gives what it says.
fn refusal(args: &[&str], code: i32) -> String {
    let (found, out, err) = run_to_end(args);
    assert_eq!((found, &*out), (code, ""), "{args:?}: {err}");
    assert!(err.starts_with("banter: "), "{err}");
    err
}

#[test]
fn a_folder_that_is_missing_or_has_no_log_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let empty = folder.path().to_str().expect("text");
    let missing = folder.path().join("missing");
    for task in ["check", "rooms", "dump"] {
        let text = refusal(&["log", task, missing.to_str().expect("text")], EXIT_CONFIG);
        assert!(text.contains("missing") && text.contains("to mend it: "), "{text}");
        let text = refusal(&["log", task, empty], EXIT_CONFIG);
        assert!(text.contains("there is no log in") && text.contains("--data"), "{text}");
    }
    assert!(!missing.exists() && fs::read_dir(empty).expect("a folder").next().is_none(), "nothing is made");
}

#[test]
fn wrong_arguments_are_told() {
    for args in [&["log"][..], &["log", "check"], &["log", "mend", "d"], &["log", "dump", "d", "--room", ""]] {
        refusal(args, EXIT_USAGE);
    }
    for task in [&[][..], &["check"], &["rooms"], &["dump"], &["backup"]] {
        let (code, help, _) = run_to_end(&[&["log"], task, &["--help"]].concat());
        let fits = help.lines().count() <= 24 && help.lines().all(|line| line.chars().count() <= 100);
        assert!(code == 0 && fits, "one screen: {help}");
    }
}

#[test]
fn a_folder_that_a_server_runs_on_is_refused_and_the_server_goes_on() {
    let data = TempDir::new().expect("a temporary folder");
    let server = Start::new(1, &["--durability", "memory"]).data(data.path()).run();
    let log = data.path().join("log");
    // A server whose rooms are in memory leaves no log: the one that is there now is of an earlier start.
    fs::create_dir_all(&log).expect("a folder");
    for dir in [data.path(), Path::new(&log)] {
        for task in ["check", "rooms", "dump"] {
            let text = refusal(&["log", task, dir.to_str().expect("text")], EXIT_CONFIG);
            assert!(text.contains(&format!("process {} has it locked", server.pid())), "{text}");
            assert!(text.contains("to mend it: ") && text.contains("a copy of the folder"), "{text}");
        }
    }
    assert!(server.http("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").starts_with("HTTP/1.1 200 "));
    drop(server);
    assert_eq!(run_to_end(&["log", "check", data.path().to_str().expect("text")]).0, WHOLE);
}

#[test]
fn a_copy_of_a_stopped_server_begins_new_epochs_unless_it_alone_goes_on() {
    let folder = TempDir::new().expect("a temporary folder");
    let [data, copy, moved] = ["data", "copy", "moved"].map(|name| folder.path().join(name));
    let epoch_of = |data: &Path, head: u64| {
        let server = Start::new(1, &[]).data(data).run();
        let mut ann = WireClient::hello(server.address(), Form::Json, "ann");
        let joined = ann.join("room");
        assert_eq!(joined["sequence"], head);
        (server, ann, joined["epoch"].clone())
    };
    let backup = |to: &Path, flags: &[&str]| {
        let [data, to] = [&data, to].map(|path| path.to_str().expect("text"));
        run_to_end(&[&["log", "backup", data, to], flags].concat())
    };
    let (mut server, mut ann, epoch) = epoch_of(&data, 0);
    ann.post("room", json!("hi"));
    let (code, out, err) = backup(&moved, &["--move"]);
    assert_eq!((code, &*out), (EXIT_CONFIG, ""), "a server runs");
    assert!(err.contains("has it locked") && !moved.exists(), "{err}");
    server.signal(Signal::TERM);
    server.wait(PATIENCE);
    for (to, flags) in [(&copy, &[][..]), (&moved, &["--move"])] {
        assert_eq!(backup(to, flags).0, WHOLE);
    }
    assert_ne!(epoch_of(&copy, 1).2, epoch);
    assert_eq!(epoch_of(&moved, 1).2, epoch);
    assert_eq!(epoch_of(&data, 1).2, epoch);
}

#[test]
fn a_closed_pipe_ends_a_dump_quietly() {
    let data = Data::with_segments(&[]);
    // More than a pipe holds, so that the dump is still writing when its reader goes.
    for id in 1..=8 {
        let bytes = segment(id, 1 + (id - 1) * 400, 400);
        fs::write(data.path_of(id), bytes).expect("a file");
    }
    let mut command = Command::new(program());
    command.args(["log", "dump", data.path()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("a line");
    assert!(line.starts_with("{\"room\":\"lobby\","), "{line}");
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}
