//! The logs of every format there has been: recovered, read and served as they were, and written today as ever.

use std::fs;
use std::path::{Path, PathBuf};

use banter_log::FORMAT_VERSION;
use banter_log::index;
use banter_log::journal::{Answer, Ask, Done, Journal, JournalParts};
use banter_log::reading::{KeysWant, LogFile, PageWant};
use banter_log::segment;
use banter_protocol::event::Message;
use banter_protocol::frame::Frame;
use banter_protocol::ids::{Epoch, RoomId, RoomName};
use banter_protocol::json;
use banter_protocol::native::read_message;
use banter_server::storage::ledger::LedgerFile;
use banter_server::storage::recovery::{Opening, recover};
use banter_tests::golden_log::{self, Files};
use banter_tests::server_process::{Start, core_counts};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The start that finds the logs.
const RUN: u64 = 30;
const BREAK_EPOCH: Epoch = Epoch(30_000);
/// Every room of the logs.
const ROOMS: [&str; 5] = ["files", "hole", "lobby", "news", "old"];

fn expected(version: u16) -> Value {
    let path = golden_log::folder(version).join("expected.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("expected.json is JSON")
}

/// A copy of a log in a data folder.
fn copied(files: &Files) -> (TempDir, PathBuf) {
    let data = TempDir::new().expect("a temporary folder");
    let log = data.path().join("log");
    golden_log::unpack(files, &log);
    LedgerFile::make(&log, golden_log::ledger()).expect("a ledger");
    (data, log)
}

/// What a start on so many cores makes of the folder, in words.
fn recovered(folder: &Path, cores: u16) -> Value {
    let opening = Opening { folder, cores, levels_hash: 0, accept_corruption: false };
    let recovered = recover(&opening, &mut |seen| Ok(BREAK_EPOCH.0.max(seen + 1)));
    let recovered = recovered.unwrap_or_else(|fault| panic!("{fault}"));
    let segments = recovered.segments.iter().map(|known| {
        json!({"id": known.header.id, "core": known.header.core, "run": known.header.run,
               "made_unix_ms": known.header.made_unix_ms, "bytes": known.file_bytes, "end": known.end_offset,
               "newest_ms": known.newest_ms})
    });
    let segments: Vec<Value> = segments.collect();
    let mut rooms = serde_json::Map::new();
    for catalog in recovered.catalogs {
        let parts = JournalParts {
            run: RUN,
            commit_bytes_max: 1 << 16,
            reads_max: 1,
            work_steps_max: 1,
            cache_bytes_max: 0,
            catalog,
            indexes: recovered.unwritten.clone(),
        };
        let mut reader = Reader { folder, journal: Journal::new(parts) };
        for name in ROOMS {
            rooms.extend(reader.room(name).map(|room| (name.to_owned(), room)));
        }
    }
    json!({"segments": segments, "walked": recovered.walked.0, "rooms": rooms})
}

/// Reads the folder as a core does.
struct Reader<'a> {
    folder: &'a Path,
    journal: Journal,
}

impl Reader<'_> {
    /// All that is known of a room, messages as a JSON client gets them.
    fn room(&mut self, name: &str) -> Option<Value> {
        let room = self.journal.catalog().room(RoomId::of(name))?;
        let (epoch, first, head) = (room.epoch, room.first, room.head);
        self.journal.read_page(PageWant {
            room: RoomName::new(name).expect("a name"),
            epoch,
            first,
            last: head,
            messages_max: 1_000,
            bytes_max: 1 << 20,
            newest: false,
            spare: None,
        });
        let Done::Page { page: Ok(page), .. } = self.read() else { panic!("{name}: a page that is lost") };
        let want = KeysWant { since_ms: 0, keys_per_author_max: 1_000, keys_max: 1_000 };
        self.journal.read_keys(RoomId::of(name), want);
        let Done::Keys { keys: Ok(keys), .. } = self.read() else { panic!("{name}: keys that are lost") };
        let keys = keys.keys.iter().rev().map(|key| &key.post).map(|key| {
            json!([key.sequence, key.time_ms, format!("{:032x}", key.fingerprint.0), format!("{:08x}", key.body)])
        });
        Some(json!({"epoch": epoch.0, "first": first.0, "head": head.0, "newest_segment": room.newest_segment,
                    "keys": keys.collect::<Vec<_>>(), "messages": messages(&page.messages)}))
    }

    fn read(&mut self) -> Done {
        let mut done = Vec::new();
        self.journal.begin_reads(&mut done);
        while done.is_empty() {
            for ask in std::mem::take(self.journal.asks_mut()) {
                let Ask::Read(range) = ask else { continue };
                let name = match range.file {
                    LogFile::Segment => segment::file_name(range.segment),
                    LogFile::Index => index::file_name(range.segment),
                };
                let all = fs::read(self.folder.join(name)).expect("a file of the log");
                let end = all.len().min((range.offset + range.bytes) as usize);
                let bytes = Some(all[(range.offset as usize).min(end)..end].to_vec());
                self.journal.handle(Answer::Read { range, bytes }, &mut done);
            }
        }
        done.remove(0)
    }
}

fn messages(mut frames: &[u8]) -> Vec<Value> {
    let mut messages = Vec::new();
    while !frames.is_empty() {
        let (_, used) = Frame::read(frames, u32::MAX).expect("a whole frame");
        messages.push(as_json(&read_message(&frames[..used]).expect("a message")));
        frames = &frames[used..];
    }
    messages
}

fn as_json(message: &Message<'_>) -> Value {
    let mut text = Vec::new();
    json::write_message(message, &mut text);
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn today_writes_the_log_byte_for_byte_as_ever() {
    let written = golden_log::write();
    if std::env::var("BANTER_GOLDEN").is_ok_and(|mode| mode == "write") {
        let (_data, log) = copied(&written);
        golden_log::keep_new(&written, &format!("{:#}\n", recovered(&log, 2)));
    }
    let kept = golden_log::read(FORMAT_VERSION);
    assert_eq!(written.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>());
    for (name, bytes) in written {
        let (kept, written) = (golden_log::text(&kept[&name]), golden_log::text(&bytes));
        let differ = kept.lines().zip(written.lines()).find(|(kept, written)| kept != written);
        assert!(kept == written, "{name}: {differ:?}; a change of format? see tests/golden/README.md");
    }
}

#[test]
fn every_log_there_has_been_is_recovered_on_any_number_of_cores() {
    for version in golden_log::versions() {
        for cores in [2, 1, 7] {
            let (_data, log) = copied(&golden_log::read(version));
            let found = recovered(&log, cores);
            let expected = expected(version);
            for room in ROOMS {
                assert_eq!(found["rooms"][room], expected["rooms"][room], "format {version}, {cores} cores: {room}");
            }
            assert_eq!(found, expected, "format {version}, {cores} cores");
            // And again, now that all of it is sealed.
            let again = recovered(&log, cores);
            assert_eq!((&again["rooms"], &again["walked"]), (&expected["rooms"], &json!(0)));
        }
    }
}

#[test]
fn the_server_starts_on_every_log_there_has_been_and_serves_its_messages() {
    for version in golden_log::versions() {
        for &cores in core_counts() {
            let (data, _) = copied(&golden_log::read(version));
            let server = Start::new(cores, &[]).data(data.path()).run();
            let mut ann = WireClient::hello(server.address(), Form::Json, "ann");
            for (room, expected) in expected(version)["rooms"].as_object().expect("rooms") {
                serves(&mut ann, room, expected);
            }
        }
    }
}

fn serves(client: &mut WireClient, room: &str, expected: &Value) {
    let joined = client.join(room);
    // The power went under the run that wrote it: what was not synced goes on under the epoch of this very start.
    let is_cut = expected["epoch"] == BREAK_EPOCH.0;
    assert_eq!((&joined["sequence"], joined["epoch"] == expected["epoch"]), (&expected["head"], !is_cut), "{room}");
    let page = client.ask(json!({"type": "fetch", "room": room, "after": 0, "limit": 100}));
    let mut messages = expected["messages"].clone();
    for message in messages.as_array_mut().expect("messages") {
        message["epoch"] = joined["epoch"].clone();
    }
    assert_eq!(page["messages"], messages, "{room}");
}
