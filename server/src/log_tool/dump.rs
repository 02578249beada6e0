//! `banter log dump`: the messages of a log as JSON, one object a line, in the order of the log.
//!
//! The log is read twice: whether a message at the end of a segment was refused is told by what comes behind it. Where a
//! place was refused and given again, the message that came last is written, which is the one that a server shows.
//!
//! What is no message and has a place all the same is written too, and says what it is (`kind`). States have none.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use banter_log::segment::file_name;
use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};
use banter_protocol::native::Kept;
use banter_protocol::request::{Body, BodyFormat};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use super::LogFault;
use super::folder::LogFolder;
use super::order::{Order, Step};
use super::progress::Progress;
use super::walk::{Found, Walk, walk};

/// Bytes that are written to stdout at a time.
const OUT_BYTES: usize = 64 * 1_024;

/// A message; of what is none, less.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    room: &'a str,
    epoch: u64,
    sequence: u64,
    time_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    /// What a change is about, and which kind of change it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(flatten)]
    body: Option<LineBody<'a>>,
    /// The bodies for classes of readers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    views: BTreeMap<&'a str, Option<&'a RawValue>>,
    /// The segment's id.
    segment: u64,
    /// Where the record starts in the segment's file.
    offset: u64,
}

#[derive(Serialize)]
enum LineBody<'a> {
    #[serde(rename = "body")]
    Json(&'a RawValue),
    #[serde(rename = "body_base64")]
    Bytes(String),
}

/// Writes the messages of the folder's log, or those of one room; whether all could be read.
///
/// # Errors
/// The folder cannot be read or is in use, or stdout cannot be written to.
pub(super) fn run(dir: &Path, room: Option<&RoomName>) -> Result<bool, LogFault> {
    let folder = LogFolder::open(dir)?;
    let mut out = BufWriter::with_capacity(OUT_BYTES, io::stdout().lock());
    let is_whole = dump(&folder, room, &mut out)?;
    out.flush()?;
    Ok(is_whole)
}

fn dump(folder: &LogFolder, room: Option<&RoomName>, out: &mut impl Write) -> Result<bool, LogFault> {
    let (refused, is_whole) = judge(folder)?;
    let mut buffer = Vec::new();
    for &id in &folder.segments {
        let mut each = |found: &Found<'_>| {
            if room.is_none_or(|room| room.as_str() == found.kept.room()) && !refused.holds(found) {
                write_line(id, found, out)?;
            }
            Ok(None)
        };
        walk(folder, id, &mut buffer, &mut each)?;
    }
    if !is_whole {
        eprintln!("banter: what could be read was written; `banter log check` says how to mend the rest");
    }
    Ok(is_whole)
}

/// Finds what was refused, and whether all is right; says on stderr what is not.
fn judge(folder: &LogFolder) -> Result<(RefusedPlaces, bool), LogFault> {
    let (mut buffer, mut order, mut is_whole) = (Vec::new(), Order::default(), true);
    let (mut refused, mut progress) = (RefusedPlaces::default(), Progress::new(folder.segments.len()));
    for (read, &id) in folder.segments.iter().enumerate() {
        progress.tell(read, 0);
        let mut each = |found: &Found<'_>| match order.see(found) {
            Step::Next => Ok(None),
            Step::Broken(broken) => Ok(Some(broken)),
            Step::Again(places) => {
                refused.add(places.segment, found, places.from);
                Ok(None)
            }
        };
        let walk = walk(folder, id, &mut buffer, &mut each)?;
        progress.clear();
        is_whole &= walk.damages.count == 0;
        say_damages(folder, id, &walk);
    }
    Ok((refused, is_whole))
}

fn say_damages(folder: &LogFolder, id: u64, walk: &Walk) {
    for damage in &walk.damages.listed {
        let (path, offset, what) = (folder.path.join(file_name(id)), damage.offset, &damage.what);
        eprintln!("banter: {}, offset {offset}: {what}", path.display());
    }
}

/// The places that were given again, by the segment in which they were refused: the first of them for each room.
#[derive(Default)]
struct RefusedPlaces(HashMap<(u64, RoomId, Epoch), Sequence>);

impl RefusedPlaces {
    fn add(&mut self, segment: u64, again: &Found<'_>, from: Sequence) {
        let (room, epoch) = (RoomId::of(again.kept.room()), again.kept.epoch());
        let first = self.0.entry((segment, room, epoch)).or_insert(from);
        *first = from.min(*first);
    }

    fn holds(&self, found: &Found<'_>) -> bool {
        let kept = &found.kept;
        let first = || self.0.get(&(found.segment.id, RoomId::of(kept.room()), kept.epoch()));
        found.is_unproven && first().is_some_and(|&first| kept.sequence() >= first)
    }
}

fn write_line(segment: u64, found: &Found<'_>, out: &mut impl Write) -> io::Result<()> {
    let kept = &found.kept;
    let mut line = Line {
        kind: None,
        room: kept.room(),
        epoch: kept.epoch().0,
        sequence: kept.sequence().0,
        time_ms: kept.time_ms(),
        user: None,
        target: None,
        what: None,
        key: None,
        body: None,
        views: BTreeMap::new(),
        segment,
        offset: found.offset,
    };
    match kept {
        Kept::Message(message, views) => {
            (line.user, line.key, line.body) = (Some(message.user), message.key, Some(LineBody::of(&message.body)));
            line.views = views.iter().map(|(class, bytes)| (class, raw_json(bytes))).collect();
        }
        Kept::Change(change) => {
            (line.kind, line.user) = (Some("change"), Some(change.user));
            (line.target, line.what) = (Some(change.target.0), Some(change.what));
            line.body = Some(LineBody::Bytes(STANDARD.encode(change.body)));
        }
        Kept::Erased { .. } => line.kind = Some("erased"),
    }
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

impl<'a> LineBody<'a> {
    /// The body byte for byte: what is no JSON, or cannot stand on a line as it is, goes in base64.
    fn of(body: &Body<'a>) -> Self {
        match body.format {
            BodyFormat::Json => raw_json(body.bytes),
            BodyFormat::Bytes => None,
        }
        .map_or_else(|| LineBody::Bytes(STANDARD.encode(body.bytes)), LineBody::Json)
    }
}

/// The bytes as JSON that fits on a line, if they are that and nothing else.
fn raw_json(bytes: &[u8]) -> Option<&RawValue> {
    let text = std::str::from_utf8(bytes).ok()?;
    let value: &RawValue = serde_json::from_str(text).ok()?;
    (value.get().len() == text.len() && !text.contains(['\n', '\r'])).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::super::made::{Made, Post};
    use super::*;
    use crate::host::TestFolder;

    fn dumped(name: &str, file: &[u8], room: Option<&str>) -> (bool, String) {
        let folder = TestFolder::new(name);
        std::fs::write(folder.0.join(file_name(10)), file).unwrap();
        let mut out = Vec::new();
        let room = room.map(|room| RoomName::new(room).unwrap());
        let is_whole = dump(&LogFolder::open(&folder.0).unwrap(), room.as_ref(), &mut out).unwrap();
        (is_whole, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_message_is_a_line_and_its_body_the_bytes_that_were_posted() {
        let mut made = Made::new(10);
        let body = "{ \"a\" : 1.0e2,\t\"a\": \"\u{fc}\\u00fc\" }";
        made.block(&[Post { key: Some("k\"1"), body: body.as_bytes(), ..Post::at(1) }]);
        let line = format!(
            "{{\"room\":\"lobby\",\"epoch\":1,\"sequence\":1,\"time_ms\":1700000000000,\"user\":\"ann\",\"key\":\"k\\\"1\",\
             \"body\":{body},\"segment\":10,\"offset\":4160}}\n"
        );
        assert_eq!(dumped("line", &made.file(), None), (true, line));
    }

    #[test]
    fn what_cannot_stand_on_a_line_goes_in_base64() {
        let json = |body| Post { body, ..Post::at(1) };
        for post in [
            Post { format: BodyFormat::Bytes, ..json(b"{}") },
            json(b"{\n}"),
            json(b" 1"),
            json(b"1 2"),
            json(b"\xff"),
            json(b""),
        ] {
            let mut made = Made::new(10);
            made.block(&[post]);
            let (_, text) = dumped("base64", &made.file(), None);
            let line: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(text.lines().count(), 1);
            assert_eq!(line["body_base64"], STANDARD.encode(post.body), "{text}");
            assert!(line.get("body").is_none() && line.get("key").is_none(), "{text}");
        }
    }

    #[test]
    fn one_room_is_written_alone() {
        let mut made = Made::new(10);
        let hall = |sequence| Post { room: "hall", ..Post::at(sequence) };
        made.block(&[Post::at(1), hall(1), Post::at(2)]).block(&[hall(2)]);
        let (_, text) = dumped("room", &made.file(), Some("hall"));
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| line.starts_with("{\"room\":\"hall\",")), "{text}");
        assert_eq!(dumped("room", &made.file(), Some("hal")), (true, String::new()));
    }

    #[test]
    fn what_lies_ahead_of_damage_is_written() {
        let mut made = Made::new(10);
        made.block(&[Post::at(1)]).block(&[Post::at(2)]).block(&[Post::at(3)]);
        let mut file = made.file();
        file[8_192 + 70] ^= 1;
        let (is_whole, text) = dumped("ahead", &file, None);
        assert!(!is_whole && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn of_places_that_were_refused_and_given_again_the_last_is_written() {
        let body = |sequence, body| Post { body, ..Post::at(sequence) };
        let other_room = Post { room: "hall", ..body(2, b"6") };
        let mut made = [1, 2, 3].map(Made::new);
        made[0].block(&[body(1, b"1")]).block(&[body(2, b"2"), other_room, body(3, b"3")]);
        made[1].block(&[body(2, b"4"), body(3, b"5")]);
        made[2].block(&[body(2, b"7")]).block(&[body(3, b"8")]);
        let folder = TestFolder::new("again");
        for (made, id) in made.iter().zip(1..) {
            std::fs::write(folder.0.join(file_name(id)), made.file()).unwrap();
        }
        let mut out = Vec::new();
        assert!(dump(&LogFolder::open(&folder.0).unwrap(), None, &mut out).unwrap());
        let lines = String::from_utf8(out).unwrap();
        let bodies = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["body"].clone());
        assert_eq!(bodies.collect::<Vec<_>>(), [1, 6, 7, 8]);
    }

    #[test]
    fn a_place_that_was_acknowledged_twice_is_written_twice_and_is_damage() {
        let mut made = Made::new(10);
        made.block(&[Post::at(1)]).block(&[Post::at(1)]).block(&[Post::at(2)]);
        let (is_whole, text) = dumped("twice", &made.file(), None);
        assert!(!is_whole && text.lines().count() == 3, "{text}");
    }

    #[test]
    fn what_is_no_message_says_what_it_is() {
        use banter_log::record::RecordKind;
        use banter_protocol::native::{Change, write_kept};
        let (epoch, room) = (Epoch(1), "lobby");
        let mut frames = [Vec::new(), Vec::new()];
        write_kept(
            &Kept::Change(Change {
                epoch,
                sequence: Sequence(2),
                time_ms: 5,
                room,
                user: "ann",
                target: Sequence(1),
                what: 3,
                body: b"x",
            }),
            &mut frames[0],
        );
        write_kept(&Kept::Erased { room, epoch, sequence: Sequence(3) }, &mut frames[1]);
        let mut made = Made::new(10);
        made.records(frames.iter().zip([RecordKind::Change, RecordKind::Tombstone]));
        let (is_whole, text) = dumped("kinds", &made.file(), None);
        let lines: Vec<&str> = text.lines().collect();
        assert!(is_whole && lines.len() == 2, "{text}");
        let change = "\"user\":\"ann\",\"target\":1,\"what\":3,\"body_base64\":\"eA==\"";
        assert!(lines[0].starts_with("{\"kind\":\"change\",\"room\":\"lobby\"") && lines[0].contains(change), "{text}");
        assert!(lines[1].starts_with("{\"kind\":\"erased\",") && !lines[1].contains("body"), "{text}");
    }
}
