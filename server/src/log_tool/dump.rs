//! `banter log dump`: the messages of a log as JSON, one object a line, in the order of the log.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use banter_log::segment::file_name;
use banter_protocol::event::Message;
use banter_protocol::ids::RoomName;
use banter_protocol::request::{Body, BodyFormat};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use super::LogFault;
use super::folder::LogFolder;
use super::walk::{Found, walk};

/// Bytes that are written to stdout at a time.
const OUT_BYTES: usize = 64 * 1_024;

/// A message.
#[derive(Serialize)]
struct Line<'a> {
    room: &'a str,
    epoch: u64,
    sequence: u64,
    time_ms: u64,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(flatten)]
    body: LineBody<'a>,
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
    let (mut buffer, mut is_whole) = (Vec::new(), true);
    for &id in &folder.segments {
        let mut each = |found: &Found<'_>| {
            if room.is_none_or(|room| room.as_str() == found.message.room) {
                write_line(id, found, out)?;
            }
            Ok(None)
        };
        let walk = walk(folder, id, &mut buffer, &mut each)?;
        for damage in &walk.damages.listed {
            is_whole = false;
            let (path, offset, what) = (folder.path.join(file_name(id)), damage.offset, &damage.what);
            eprintln!("banter: {}, offset {offset}: {what}", path.display());
        }
    }
    if !is_whole {
        eprintln!("banter: what could be read was written; `banter log check` says how to mend the rest");
    }
    Ok(is_whole)
}

fn write_line(segment: u64, found: &Found<'_>, out: &mut impl Write) -> io::Result<()> {
    let Message { epoch, sequence, time_ms, room, user, key, body } = found.message;
    let (epoch, sequence) = (epoch.0, sequence.0);
    let body = LineBody::of(&body);
    let line = Line { room, epoch, sequence, time_ms, user, key, body, segment, offset: found.offset };
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
}
