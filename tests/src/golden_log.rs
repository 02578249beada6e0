//! The golden logs: folders as they were written by the first build of each format, see `tests/golden/README.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use banter_log::catalog::{Break, Catalog};
use banter_log::index::{self, Entry};
use banter_log::journal::{Answer, Ask, Journal, JournalParts, Reach};
use banter_log::record::{Author, Level, Record};
use banter_log::segment::{self, SegmentHeader};
use banter_log::{FORMAT_VERSION, PAGE_BYTES};
use banter_protocol::event::Message;
use banter_protocol::ids::{Epoch, RoomId, Sequence};
use banter_protocol::native::{read_message, write_message};
use banter_protocol::request::{Body, BodyFormat};
use banter_server::storage::ledger::{BootId, LastRun, Ledger};

/// What the name of a golden file ends with: its bytes stand in it as text.
const HEX: &str = ".hex";
const ROW_BYTES: usize = 32;
/// Bytes of a segment file.
const SEGMENT_BYTES: usize = 12 * PAGE_BYTES;
const TIME_MS: u64 = 1_700_000_000_000;

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The folder of that format.
pub fn folder(version: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/log-{version}"))
}

/// Every format there has been.
pub fn versions() -> impl Iterator<Item = u16> {
    2..=FORMAT_VERSION
}

/// Bytes as text: rows of 32, each behind its offset; rows of zeros are left out.
pub fn text(bytes: &[u8]) -> String {
    let mut text = format!("# {} bytes; rows of zeros are left out\n", bytes.len());
    for (row, bytes) in bytes.chunks(ROW_BYTES).enumerate().filter(|(_, row)| row.iter().any(|&byte| byte != 0)) {
        let _ = write!(text, "{:06x} ", row * ROW_BYTES);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}

fn parse(text: &str) -> Option<Vec<u8>> {
    let (head, rows) = text.strip_prefix("# ")?.split_once('\n')?;
    let mut bytes = vec![0; head.split(' ').next()?.parse().ok()?];
    for row in rows.lines() {
        let (offset, digits) = row.split_once(' ')?;
        let offset = usize::from_str_radix(offset, 16).ok()?;
        for at in 0..digits.len() / 2 {
            *bytes.get_mut(offset + at)? = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
    }
    Some(bytes)
}

/// The log of that format as it was written.
///
/// # Panics
/// When a file cannot be read.
pub fn read(version: u16) -> Files {
    let folder = folder(version);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a golden file").path());
    paths
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(HEX)?.to_owned();
            let text = fs::read_to_string(&path).expect("a golden file is text");
            Some((name, parse(&text).unwrap_or_else(|| panic!("{}: no golden file", path.display()))))
        })
        .collect()
}

/// Keeps a log that is of a new format. What is there already is never written again.
///
/// # Panics
/// When a file cannot be written.
pub fn keep_new(files: &Files, expected: &str) {
    let folder = folder(FORMAT_VERSION);
    if folder.exists() {
        return;
    }
    fs::create_dir_all(&folder).expect("a folder can be made");
    for (name, bytes) in files {
        fs::write(folder.join(format!("{name}{HEX}")), text(bytes)).expect("a golden file can be written");
    }
    fs::write(folder.join("expected.json"), expected).expect("a golden file can be written");
}

/// Puts the files into a folder.
///
/// # Panics
/// When one cannot be written.
pub fn unpack(files: &Files, folder: &Path) {
    fs::create_dir_all(folder).expect("a folder can be made");
    files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).expect("a file can be written"));
}

/// A message of the log.
#[derive(Clone, Copy)]
struct Post(&'static str, u64, Option<&'static str>, BodyFormat, &'static [u8]);

/// A commit: its level, and its messages.
type Commit = (Level, &'static [Post]);

struct Script {
    header: SegmentHeader,
    commits: &'static [Commit],
    ends: Ends,
}

#[derive(PartialEq, Eq)]
enum Ends {
    /// Sealed, with an index.
    Sealed,
    /// In the midst of its last commit, whose second half was not written.
    Torn,
}

use BodyFormat::{Bytes, Json};
use Level::{Synced, Written};

/// A message of more than a page, and one of the longest names.
const LONG: &[u8] = &[b'7'; 5_000];

const FIRST_OF_CORE_0: &[Commit] = &[
    (Synced, &[Post("lobby", 1, Some("k-1"), Json, br#"{"text": "hi"}"#), Post("lobby", 2, None, Json, b"2")]),
    (Synced, &[Post("hole", 1, None, Json, b"1"), Post("lobby", 3, Some("k-2"), Bytes, b"\x00\xff")]),
    (Synced, &[Post("hole", 2, Some("k"), Json, br#""two""#), Post("hole", 3, None, Json, LONG)]),
];
const FIRST_OF_CORE_1: &[Commit] = &[
    (Written, &[Post("news", 1, None, Json, b"1"), Post("news", 2, Some("n-2"), Json, b"[2]")]),
    (Synced, &[Post("old", 1, None, Bytes, b""), Post("old", 2, Some("o-2"), Json, "\"zo\u{eb}\"".as_bytes())]),
    // Refused, and its place given again in the next segment.
    (Written, &[Post("news", 3, Some("n-3"), Json, br#""refused""#)]),
];
const SECOND_OF_CORE_0: &[Commit] = &[
    (Synced, &[Post("lobby", 4, Some("k-4"), Json, b"4")]),
    // 4 and 5 lay in the segment that was dropped.
    (
        Synced,
        &[
            Post("hole", 6, Some("k-6"), Json, b"6"),
            Post("hole", 7, None, Bytes, b"7"),
            Post("lobby", 5, None, Json, b"5"),
        ],
    ),
];
const SECOND_OF_CORE_1: &[Commit] = &[
    (Written, &[Post("news", 3, Some("n-3"), Json, br#""given again""#)]),
    (Synced, &[Post("files", 1, Some("f-1"), Bytes, &[0xf5; 300])]),
    (Written, &[Post("news", 4, None, Json, b"4"), Post("news", 5, Some("n-5"), Json, b"5")]),
    (Written, &[Post("news", 6, None, Json, LONG)]),
];

fn scripts() -> [Script; 4] {
    let header = |id, core, run| SegmentHeader {
        id,
        nonce: id << 56 | 0x5eed,
        core,
        class: banter_log::segment::Class::SERVER,
        run,
        made_unix_ms: TIME_MS + id,
        file_bytes: SEGMENT_BYTES as u64,
    };
    let script = |header, commits, ends| Script { header, commits, ends };
    [
        script(header(1, 0, 10), FIRST_OF_CORE_0, Ends::Sealed),
        script(header(2, 1, 10), FIRST_OF_CORE_1, Ends::Sealed),
        script(header(4, 0, 20), SECOND_OF_CORE_0, Ends::Sealed),
        script(header(5, 1, 20), SECOND_OF_CORE_1, Ends::Torn),
    ]
}

/// The segments and indexes as today's writers write them.
pub fn write() -> Files {
    let mut files = Files::new();
    scripts().iter().for_each(|script| write_segment(script, &mut files));
    files
}

/// The ledger beside it. It names its own file, so it is made for each copy.
pub fn ledger() -> Ledger {
    Ledger {
        last: Some(LastRun { run: 20, is_closed: false, boot: Some(BootId(1)) }),
        all_break: Some(Break { run: 10, epoch: Epoch(15_000), every_level: true }),
        ..Ledger::default()
    }
}

fn write_segment(script: &Script, files: &mut Files) {
    let header = script.header;
    let parts = JournalParts {
        run: header.run,
        commit_bytes_max: SEGMENT_BYTES,
        reads_max: 1,
        work_steps_max: 1,
        cache_bytes_max: 0,
        catalog: Catalog::default(),
        indexes: BTreeMap::new(),
    };
    let (mut journal, mut done) = (Journal::new(parts), Vec::new());
    let mut file = header.write();
    file.resize(SEGMENT_BYTES, 0);
    journal.handle(Answer::Segment(header), &mut done);
    for (number, commit) in script.commits.iter().enumerate() {
        let is_torn = script.ends == Ends::Torn && number + 1 == script.commits.len();
        assert!(begin(&mut journal, header, commit), "the segment is long enough");
        for ask in std::mem::take(journal.asks_mut()) {
            let Ask::Append { offset, block, wanted, .. } = ask else { continue };
            let bytes = if is_torn { block.len() / 2 } else { block.len() };
            file[offset as usize..offset as usize + bytes].copy_from_slice(&block[..bytes]);
            journal.handle(Answer::Written, &mut done);
            if wanted.syncs() {
                journal.handle(Answer::Synced, &mut done);
            }
        }
    }
    files.insert(segment::file_name(header.id), file);
    if script.ends == Ends::Sealed {
        assert!(journal.end());
        for ask in std::mem::take(journal.asks_mut()) {
            let Ask::Seal { index, end, .. } = ask else { continue };
            files.insert(index::file_name(header.id), index.encode(&header, end.offset, true));
        }
    }
}

fn begin(journal: &mut Journal, header: SegmentHeader, (level, posts): &Commit) -> bool {
    let frames: Vec<Vec<u8>> = posts.iter().map(|post| frame(post, header)).collect();
    let records = frames.iter().map(|frame| {
        let author = Author { core: header.core, slot: 5, generation: 6 };
        let message = read_message(frame).expect("a frame that was just written");
        let record = Record::message(RoomId::of(message.room), *level, author, frame);
        let (entry, room) = Entry::read(&record, RoomId::of).expect("a record that was just written");
        (record, entry, room)
    });
    journal.commit(header.class, records, if *level == Synced { Reach::WrittenThenSynced } else { Reach::Written })
}

fn frame(&Post(room, sequence, key, format, bytes): &Post, header: SegmentHeader) -> Vec<u8> {
    let mut frame = Vec::new();
    let message = Message {
        epoch: Epoch(header.run * 1_000),
        sequence: Sequence(sequence),
        time_ms: TIME_MS + 1_000 * header.id + sequence,
        room,
        user: "ann",
        key,
        body: Body { format, bytes },
    };
    write_message(&message, &mut frame);
    frame
}
