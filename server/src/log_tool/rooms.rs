//! `banter log rooms`: which rooms a log holds, and how much of each.
//!
//! What is said of a room is what a reader can reach, as a start of the server has it: the messages that follow each other
//! without a hole up to the newest, of which those that were refused are none (see `order`).

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use banter_log::segment::file_name;
use serde::Serialize;

use super::LogFault;
use super::folder::LogFolder;
use super::progress::Progress;
use super::walk::{Found, walk};
use crate::wall_clock::utc;

/// Lists the rooms of that folder's log; whether all of it could be read.
///
/// # Errors
/// The folder cannot be read or is in use, or stdout cannot be written to.
pub(super) fn run(dir: &Path, json: bool) -> Result<bool, LogFault> {
    let folder = LogFolder::open(dir)?;
    say(&folder, json, &mut io::stdout().lock())
}

fn say(folder: &LogFolder, json: bool, out: &mut impl Write) -> Result<bool, LogFault> {
    let (rooms, is_whole) = rooms_of(folder)?;
    if json {
        let rooms: Vec<Line<'_>> = rooms.iter().map(|(name, room)| Line::new(name, room)).collect();
        serde_json::to_writer(&mut *out, &Listing { ok: is_whole, rooms }).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        for (name, room) in &rooms {
            writeln!(out, "{}", Line::new(name, room))?;
        }
        let (count, bytes) = (rooms.len(), rooms.values().map(|room| room.bytes).sum::<u64>());
        writeln!(out, "{count} room{}, {bytes} bytes", if count == 1 { "" } else { "s" })?;
    }
    Ok(is_whole)
}

/// Every room by its name, and whether all could be read.
fn rooms_of(folder: &LogFolder) -> Result<(BTreeMap<Box<str>, Room>, bool), LogFault> {
    let (mut rooms, mut buffer, mut is_whole) = (BTreeMap::<Box<str>, Room>::new(), Vec::new(), true);
    let mut progress = Progress::new(folder.segments.len());
    for (read, &id) in folder.segments.iter().enumerate() {
        progress.tell(read, 0);
        let mut each = |found: &Found<'_>| {
            match rooms.get_mut(found.kept.room()) {
                Some(room) => room.add(found),
                None => drop(rooms.insert(found.kept.room().into(), Room::starting_with(found))),
            }
            Ok(None)
        };
        let walk = walk(folder, id, &mut buffer, &mut each)?;
        progress.clear();
        is_whole &= walk.damages.count == 0;
        for damage in &walk.damages.listed {
            let (path, offset, what) = (folder.path.join(file_name(id)), damage.offset, &damage.what);
            eprintln!("banter: {}, offset {offset}: {what}", path.display());
        }
    }
    Ok((rooms, is_whole))
}

/// What a log holds of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    epoch: u64,
    first: u64,
    last: u64,
    bytes: u64,
    newest_ms: u64,
    /// The block that may have been refused, and what there was of the room before it.
    unproven: Option<Unproven>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unproven {
    segment: u64,
    last_before: u64,
    bytes_before: u64,
}

impl Room {
    fn starting_with(found: &Found<'_>) -> Self {
        let (sequence, bytes) = (found.kept.sequence().0, found.record_bytes as u64);
        let unproven = Unproven { segment: found.segment.id, last_before: sequence.saturating_sub(1), bytes_before: 0 };
        Room {
            epoch: found.kept.epoch().0,
            first: sequence,
            last: sequence,
            bytes,
            newest_ms: found.kept.time_ms(),
            unproven: found.is_unproven.then_some(unproven),
        }
    }

    fn add(&mut self, found: &Found<'_>) {
        let (sequence, epoch) = (found.kept.sequence().0, found.kept.epoch().0);
        self.take_back_refused(sequence, found.segment.id);
        if Some(sequence) != self.last.checked_add(1) && (sequence > self.last || sequence <= self.first) {
            // A hole: what is before it is out of reach. Or the room begins anew.
            *self = Room::starting_with(found);
            return;
        }
        if self.unproven.is_none_or(|before| before.segment != found.segment.id) {
            let (segment, last_before, bytes_before) = (found.segment.id, self.last, self.bytes);
            self.unproven = found.is_unproven.then_some(Unproven { segment, last_before, bytes_before });
        }
        (self.epoch, self.last) = (epoch, sequence);
        self.bytes += found.record_bytes as u64;
        self.newest_ms = self.newest_ms.max(found.kept.time_ms());
    }

    /// A place that comes again takes all of the block away that was refused.
    fn take_back_refused(&mut self, sequence: u64, segment: u64) {
        let was_refused =
            |before: &mut Unproven| before.segment < segment && before.last_before < sequence && sequence <= self.last;
        if let Some(before) = self.unproven.take_if(was_refused) {
            (self.last, self.bytes) = (before.last_before, before.bytes_before);
        }
    }
}

#[derive(Serialize)]
struct Listing<'a> {
    ok: bool,
    rooms: Vec<Line<'a>>,
}

/// What is said of a room.
#[derive(Serialize)]
struct Line<'a> {
    room: &'a str,
    messages: u64,
    first: u64,
    last: u64,
    epoch: u64,
    bytes: u64,
    newest_ms: u64,
}

impl<'a> Line<'a> {
    fn new(room: &'a str, &Room { epoch, first, last, bytes, newest_ms, .. }: &Room) -> Self {
        // None is missing between them.
        let messages = last.checked_sub(first).map_or(0, |behind| behind.saturating_add(1));
        Line { room, messages, first, last, epoch, bytes, newest_ms }
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { room, messages, first, last, epoch, bytes, newest_ms } = self;
        let newest = utc(newest_ms / 1_000);
        // A name may have blanks in it.
        write!(out, "{room:?}  messages {messages}  {first}..{last}  epoch {epoch}  bytes {bytes}  newest {newest}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{Made, Post};
    use super::*;
    use crate::host::TestFolder;

    fn said(name: &str, files: &[Vec<u8>], json: bool) -> (bool, String) {
        let folder = TestFolder::new(name);
        for (file, id) in files.iter().zip(1..) {
            std::fs::write(folder.0.join(file_name(id)), file).unwrap();
        }
        let mut out = Vec::new();
        let is_whole = say(&LogFolder::open(&folder.0).unwrap(), json, &mut out).unwrap();
        (is_whole, String::from_utf8(out).unwrap())
    }

    /// The rooms of a log of these blocks of "lobby", as (messages, first, last, epoch, records).
    fn lobby(name: &str, segments: &[&[&[Post<'_>]]]) -> [u64; 5] {
        let files: Vec<Vec<u8>> = segments.iter().zip(1..).map(|(blocks, id)| made(id, blocks)).collect();
        let (is_whole, text) = said(name, &files, true);
        let said: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(is_whole && said["ok"] == true, "{text}");
        let room = &said["rooms"][0];
        let record_bytes = (16 + Post::at(1).frame().len()) as u64;
        assert_eq!(room["bytes"].as_u64().unwrap() % record_bytes, 0, "{text}");
        let number = |key: &str| room[key].as_u64().unwrap();
        [number("messages"), number("first"), number("last"), number("epoch"), number("bytes") / record_bytes]
    }

    fn made(id: u64, blocks: &[&[Post<'_>]]) -> Vec<u8> {
        let mut made = Made::new(id);
        for block in blocks {
            made.block(block);
        }
        made.file()
    }

    fn at(sequences: std::ops::RangeInclusive<u64>) -> Vec<Post<'static>> {
        sequences.map(Post::at).collect()
    }

    #[test]
    fn rooms_are_lines_by_name_and_a_sum() {
        let hall = Post { room: "a \"hall\"", ..Post::at(7) };
        let (is_whole, text) = said("lines", &[made(1, &[&[Post::at(1), hall], &[Post::at(2)]])], false);
        let bytes = [&hall, &Post::at(1)].map(|post| 16 + post.frame().len());
        let newest = "newest 2023-11-14T22:13:20Z";
        assert!(is_whole);
        assert_eq!(
            text,
            format!(
                "\"a \\\"hall\\\"\"  messages 1  7..7  epoch 1  bytes {}  {newest}\n\
                 \"lobby\"  messages 2  1..2  epoch 1  bytes {}  {newest}\n2 rooms, {} bytes\n",
                bytes[0],
                2 * bytes[1],
                bytes[0] + 2 * bytes[1]
            )
        );
        assert_eq!(said("none", &[made(1, &[])], true).1, "{\"ok\":true,\"rooms\":[]}\n");
    }

    #[test]
    fn what_was_refused_and_given_again_counts_once() {
        let (one, refused, again, behind) = (at(1..=2), at(3..=5), at(3..=3), at(4..=4));
        assert_eq!(lobby("once", &[&[&one, &refused], &[&again, &behind]]), [4, 1, 4, 1, 4]);
        assert_eq!(lobby("twice", &[&[&one, &refused], &[&refused], &[&again, &behind]]), [4, 1, 4, 1, 4]);
        assert_eq!(lobby("whole", &[&[&one, &refused], &[&at(6..=6)]]), [6, 1, 6, 1, 6]);
    }

    #[test]
    fn a_room_that_begins_anew_and_one_with_a_hole_are_what_can_be_reached() {
        let anew: Vec<Post<'_>> = at(1..=2).into_iter().map(|post| Post { epoch: 2, ..post }).collect();
        assert_eq!(lobby("anew", &[&[&at(4..=9), &anew]]), [2, 1, 2, 2, 2]);
        assert_eq!(lobby("hole", &[&[&at(1..=3)], &[&at(7..=8)]]), [2, 7, 8, 1, 2]);
        let goes_on = Post { epoch: 2, ..Post::at(4) };
        assert_eq!(lobby("epoch", &[&[&at(1..=3)], &[&[goes_on]]]), [4, 1, 4, 2, 4]);
    }

    #[test]
    fn a_place_at_the_end_of_all_numbers_is_one_like_others() {
        let end = u64::MAX;
        assert_eq!(lobby("end", &[&[&at(end - 1..=end)]]), [2, end - 1, end, 1, 2]);
        assert_eq!(lobby("behind", &[&[&at(end..=end), &at(1..=1)]]), [1, 1, 1, 1, 1]);
        assert_eq!(
            lobby("refused-end", &[&[&at(1..=1), &at(2..=2)], &[&at(end..=end)], &[&at(end..=end)]])[1..3],
            [end; 2]
        );
    }

    #[test]
    fn damage_is_no_whole_listing() {
        let mut file = made(1, &[&at(1..=1), &at(2..=2), &at(3..=3)]);
        file[8_192 + 70] ^= 1;
        let (is_whole, text) = said("damage", &[file], true);
        assert!(!is_whole && text.starts_with("{\"ok\":false"), "{text}");
    }
}
