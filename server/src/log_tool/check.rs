//! `banter log check`: reads every byte of a log, and says what it found, segment by segment.
//!
//! The segments are read in the order of their ids, in which they were made, and nothing in a room goes back: within an
//! epoch its sequences ascend, over all segments. Sequences that are missing between two others are counted and said,
//! and are no damage by themselves: retention drops whole segments, and may have dropped one between two of a room.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use banter_protocol::event::Message;
use banter_protocol::ids::{Epoch, RoomId, Sequence};

use super::LogFault;
use super::damage::Broken;
use super::folder::LogFolder;
use super::progress::Progress;
use super::report::{LogReport, SegmentReport, Totals};
use super::walk::{Found, walk};

/// Checks the log of that folder; whether all of it is right.
///
/// # Errors
/// The folder cannot be read or is in use, or what was found cannot be told.
pub(super) fn run(dir: &Path, json: bool) -> Result<bool, LogFault> {
    let folder = LogFolder::open(dir)?;
    // The verdict is the exit code too: it is found also for somebody who stopped reading what was said.
    let mut out = UntilClosed(io::stdout().lock());
    if json { say_json(&folder, &mut out) } else { say_text(&folder, &mut out) }
}

fn say_text(folder: &LogFolder, out: &mut impl Write) -> Result<bool, LogFault> {
    let totals = check(folder, |report| write!(out, "{report}"))?;
    for name in &folder.ignored {
        writeln!(out, "{name} is named much like a segment and is none: ignored")?;
    }
    write!(out, "{totals}")?;
    Ok(totals.is_whole())
}

fn say_json(folder: &LogFolder, out: &mut impl Write) -> Result<bool, LogFault> {
    let mut segments = Vec::new();
    let totals = check(folder, |report| {
        segments.push(report);
        Ok(())
    })?;
    let is_whole = totals.is_whole();
    let report = LogReport { ok: is_whole, folder: folder.path.clone(), totals, segments, ignored: &folder.ignored };
    serde_json::to_writer(&mut *out, &report).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(is_whole)
}

/// Checks segment after segment, and says each.
fn check(folder: &LogFolder, mut say: impl FnMut(SegmentReport) -> io::Result<()>) -> Result<Totals, LogFault> {
    let (mut buffer, mut order, mut totals) = (Vec::new(), Order::default(), Totals::default());
    let mut progress = Progress::new(folder.segments.len());
    for (read, &id) in folder.segments.iter().enumerate() {
        progress.tell(read, totals.records);
        let walk = walk(folder, id, &mut buffer, &mut |found: &Found<'_>| Ok(order.see(&found.message, id)))?;
        totals.add(&walk);
        progress.clear();
        say(SegmentReport::new(folder, id, &walk))?;
    }
    totals.missing = order.missing;
    Ok(totals)
}

/// Where every room is in each of its epochs.
#[derive(Debug, Default)]
struct Order {
    /// The newest place, and the segment that holds it.
    last: HashMap<(RoomId, Epoch), (Sequence, u64)>,
    missing: u64,
}

impl Order {
    fn see(&mut self, message: &Message<'_>, segment: u64) -> Option<Broken> {
        let sequence = message.sequence;
        let mut last = match self.last.entry((RoomId::of(message.room), message.epoch)) {
            // What lies ahead of a room's first message went with the segments that are no longer kept.
            Entry::Vacant(vacant) => {
                vacant.insert((sequence, segment));
                return None;
            }
            Entry::Occupied(last) => last,
        };
        let (before, behind) = *last.get();
        if sequence <= before && segment > behind {
            // A full disk refused posts that were in the segment before already, and their places were given again.
            last.insert((sequence, segment));
            return None;
        }
        if sequence <= before {
            return Some(Broken::Order {
                room: message.room.into(),
                epoch: message.epoch.0,
                before: before.0,
                sequence: sequence.0,
            });
        }
        self.missing += sequence.0 - before.0 - 1;
        last.insert((sequence, segment));
        None
    }
}

/// Writes until the other end closes, and from then on nowhere.
struct UntilClosed<W>(W);

impl<W: Write> Write for UntilClosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            flushed => flushed,
        }
    }
}

#[cfg(test)]
mod tests {
    use banter_log::segment::file_name;

    use super::super::made::{Made, Post};
    use super::*;
    use crate::host::TestFolder;

    fn folder_of(name: &str, segments: &[(u64, Vec<u8>)]) -> TestFolder {
        let folder = TestFolder::new(name);
        std::fs::create_dir(folder.0.join("log")).unwrap();
        segments.iter().for_each(|(id, file)| std::fs::write(folder.0.join("log").join(file_name(*id)), file).unwrap());
        folder
    }

    fn said(folder: &TestFolder) -> (bool, String) {
        let mut out = Vec::new();
        let is_whole = say_text(&LogFolder::open(&folder.0).unwrap(), &mut out).unwrap();
        (is_whole, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_whole_log_is_one_line_a_segment_and_a_sum() {
        let (mut one, mut two) = (Made::new(1), Made::new(16));
        one.block(&[Post::at(1), Post::at(2)]);
        two.block(&[Post::at(3)]).block(&[Post::at(4)]);
        let (is_whole, text) = said(&folder_of("whole", &[(1, one.file()), (16, two.file())]));
        assert!(is_whole);
        assert_eq!(
            text,
            "segment-0000000000000001.log  id 1  core 1  blocks 1  records 2  bytes 8192  clean\n\
             segment-0000000000000010.log  id 16  core 1  blocks 2  records 2  bytes 12288  clean\n\
             2 segments, 3 blocks, 4 records, 20480 bytes: all right\n"
        );
    }

    #[test]
    fn an_empty_log_is_all_right() {
        assert_eq!(
            said(&folder_of("empty", &[])),
            (true, "0 segments, 0 blocks, 0 records, 0 bytes: all right\n".to_owned())
        );
    }

    #[test]
    fn a_sequence_that_goes_back_is_damage_in_one_segment_and_given_again_in_the_next() {
        let (mut one, mut two) = (Made::new(1), Made::new(2));
        one.block(&[Post::at(1), Post::at(2)]);
        let other_epoch = Post { epoch: 2, ..Post::at(1) };
        let other_room = Post { room: "hall", ..Post::at(1) };
        two.block(&[other_epoch, other_room, Post::at(2), Post::at(3)]);
        let (is_whole, text) = said(&folder_of("again", &[(1, one.file()), (2, two.file())]));
        assert!(is_whole, "{text}");
        let mut back = Made::new(1);
        back.block(&[Post::at(1), Post::at(2)]).block(&[Post::at(2)]);
        let (is_whole, text) = said(&folder_of("back", &[(1, back.file())]));
        assert!(!is_whole);
        assert!(text.contains("room \"lobby\", epoch 1: sequence 2 comes behind 2"), "{text}");
        assert!(text.ends_with("1 damage in 1 segment, see above\n"), "{text}");
    }

    #[test]
    fn sequences_that_are_missing_are_counted_and_no_damage() {
        let mut made = Made::new(1);
        made.block(&[Post::at(7), Post::at(8)]).block(&[Post::at(12)]);
        let (is_whole, text) = said(&folder_of("missing", &[(1, made.file())]));
        assert!(is_whole && text.contains("3 sequences are missing between others of their rooms"), "{text}");
    }

    #[test]
    fn the_same_is_said_as_one_json_object() {
        let mut made = Made::new(1);
        made.block(&[Post::at(1)]).block(&[Post::at(2)]).block(&[Post::at(3)]);
        let mut file = made.file();
        file[8_192 + 70] ^= 1;
        let folder = folder_of("json", &[(1, file)]);
        let mut out = Vec::new();
        assert!(!say_json(&LogFolder::open(&folder.0).unwrap(), &mut out).unwrap());
        let said: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&said["ok"], &said["records"], &said["damages"]), (&false.into(), &1.into(), &1.into()));
        let segment = &said["segments"][0];
        assert_eq!((&segment["ending"], &segment["file"]), (&"corrupt".into(), &"segment-0000000000000001.log".into()));
        assert_eq!(segment["damage"][0]["offset"], 8_192);
        assert!(segment["damage"][0]["fix"].as_str().unwrap().contains("--accept-corruption"));
    }
}
