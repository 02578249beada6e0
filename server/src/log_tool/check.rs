//! `banter log check`: reads every byte of a log, and says what it found, segment by segment.
//!
//! The segments are read in the order of their ids, in which they were made, and nothing in a room goes back but what was
//! refused (see `order`). Sequences that are missing between two others are counted and said, and are no damage by
//! themselves: retention drops whole segments, and may have dropped one between two of a room. One that retention cannot have
//! dropped is damage (see `chains`), and so is what does not check of the files beside the segments (see `beside`).

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::LogFault;
use super::beside::{Beside, FileReport};
use super::chains::Chains;
use super::folder::LogFolder;
use super::order::{Order, Step};
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
    let Checked { totals, files, .. } = check(folder, |report| write!(out, "{report}"))?;
    for name in &folder.ignored {
        writeln!(out, "{name} is named much like a segment and is none: ignored")?;
    }
    files.iter().try_for_each(|file| write!(out, "{file}"))?;
    write!(out, "{totals}")?;
    Ok(totals.is_whole())
}

fn say_json(folder: &LogFolder, out: &mut impl Write) -> Result<bool, LogFault> {
    let mut segments = Vec::new();
    let Checked { totals, files, .. } = check(folder, |report| {
        segments.push(report);
        Ok(())
    })?;
    let is_whole = totals.is_whole();
    let report =
        LogReport { ok: is_whole, folder: folder.path.clone(), totals, segments, files, ignored: &folder.ignored };
    serde_json::to_writer(&mut *out, &report).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(is_whole)
}

/// What a check found.
pub(crate) struct Checked {
    totals: Totals,
    files: Vec<FileReport>,
    /// Rooms that have something in the log.
    #[cfg(feature = "cluster")]
    pub(crate) rooms: usize,
}

#[cfg(feature = "cluster")]
impl Checked {
    /// Whether all of it is right.
    pub(crate) fn is_whole(&self) -> bool {
        self.totals.is_whole()
    }
}

/// Checks a folder that is open, and says nothing.
///
/// # Errors
/// It cannot be read.
#[cfg(feature = "cluster")]
pub(crate) fn quietly(folder: &LogFolder) -> Result<Checked, LogFault> {
    check(folder, |_| Ok(()))
}

/// Checks segment after segment, and says each; and what there is to say of the files beside them.
fn check(folder: &LogFolder, mut say: impl FnMut(SegmentReport) -> io::Result<()>) -> Result<Checked, LogFault> {
    let (mut buffer, mut order, mut totals) = (Vec::new(), Order::default(), Totals::default());
    let Beside { files, ledger } = Beside::read(&folder.path, !folder.segments.is_empty());
    let mut chains = Chains::new(folder, &ledger);
    let mut progress = Progress::new(folder.segments.len());
    for (read, &id) in folder.segments.iter().enumerate() {
        progress.tell(read, totals.records);
        let mut each = |found: &Found<'_>| match order.see(found) {
            Step::Next | Step::Again(_) => Ok(None),
            Step::Broken(broken) => Ok(Some(broken)),
        };
        let mut walk = walk(folder, id, &mut buffer, &mut each)?;
        let index = chains.see(folder, &mut walk, &buffer);
        totals.add(&walk);
        progress.clear();
        say(SegmentReport::new(folder, id, &walk, index))?;
    }
    (totals.missing, totals.refused) = (order.missing, order.refused);
    totals.given_up = chains.given_up.len() as u64;
    totals.files_damaged = files.iter().filter(|file| file.is_damaged).count() as u64;
    Ok(Checked {
        totals,
        files,
        #[cfg(feature = "cluster")]
        rooms: chains.rooms(),
    })
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
    use banter_log::segment::{Class, SegmentHeader, file_name};

    use super::super::made::{Made, Post};
    use super::*;
    use crate::host::TestFolder;
    use crate::storage::ledger::{Ledger, LedgerFile};

    fn folder_of(name: &str, segments: &[(u64, Vec<u8>)]) -> TestFolder {
        let folder = TestFolder::new(name);
        std::fs::create_dir(folder.0.join("log")).unwrap();
        LedgerFile::make(&folder.0.join("log"), Ledger::default()).unwrap();
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

    /// What a check says of segments that hold these blocks of places of "lobby".
    fn said_of(name: &str, segments: &[&[&[u64]]]) -> (bool, String) {
        let made = segments.iter().zip(1..).map(|(blocks, id)| {
            let mut made = Made::new(id);
            for block in *blocks {
                made.block(&block.iter().map(|&sequence| Post::at(sequence)).collect::<Vec<_>>());
            }
            (id, made.file())
        });
        said(&folder_of(name, &made.collect::<Vec<_>>()))
    }

    #[test]
    fn a_place_that_was_refused_at_the_end_of_a_segment_is_given_again_and_that_is_all_right() {
        let (is_whole, text) = said_of("again", &[&[&[1], &[2, 3]], &[&[2], &[3]]]);
        let note = "2 records were refused by a full disk, and their places given again, which is all right\n";
        assert!(is_whole && text.contains(note), "{text}");
        let (is_whole, text) = said_of("again-and-again", &[&[&[1], &[2, 3]], &[&[2]], &[&[2], &[3]]]);
        assert!(is_whole && text.contains("3 records were refused"), "{text}");
    }

    #[test]
    fn a_place_that_was_acknowledged_is_not_given_again_in_a_later_segment() {
        // Another block was begun behind it, or one without messages says that it was on the disk.
        for (name, first) in [("behind", &[&[1, 2][..], &[3]][..]), ("proven", &[&[1, 2], &[]])] {
            let (is_whole, text) = said_of(name, &[first, &[&[2]]]);
            assert!(!is_whole && text.contains("sequence 2 comes behind"), "{text}");
            assert!(text.ends_with("1 damage in 1 segment, see above\n"), "{text}");
        }
        let (is_whole, text) = said_of("part", &[&[&[1], &[2, 3]], &[&[1]]]);
        assert!(!is_whole && text.contains("sequence 1 comes behind 3"), "not all of it was refused: {text}");
    }

    #[test]
    fn a_segment_gives_no_place_twice() {
        for (name, blocks) in [("back", &[&[1, 2][..], &[2]][..]), ("twice", &[&[1, 1]]), ("below", &[&[5], &[1, 2]])] {
            let (is_whole, text) = said_of(name, &[blocks]);
            assert!(!is_whole && text.contains("room \"lobby\", epoch 1: sequence"), "{text}");
        }
    }

    #[test]
    fn what_lies_ahead_of_damage_was_acknowledged() {
        let (mut one, mut two) = (Made::new(1), Made::new(2));
        one.block(&[Post::at(1)]).block(&[Post::at(2)]).block(&[Post::at(3)]);
        two.block(&[Post::at(1)]);
        let mut file = one.file();
        file[8_192 + 70] ^= 1;
        let (_, text) = said(&folder_of("ahead", &[(1, file), (2, two.file())]));
        assert!(text.contains("sequence 1 comes behind 1"), "{text}");
    }

    #[test]
    fn another_core_of_the_same_run_gives_no_place_again_and_another_run_may() {
        let mut first = Made::new(1);
        first.block(&[Post::at(1)]);
        for (name, core, run, is_right) in [("same", 1, 3, true), ("core", 2, 3, false), ("run", 2, 4, true)] {
            let mut second = Made::of(SegmentHeader {
                id: 2,
                nonce: 7,
                core,
                class: Class::SERVER,
                run,
                made_unix_ms: 5,
                file_bytes: 1,
            });
            second.block(&[Post::at(1)]);
            let (is_whole, text) = said(&folder_of(name, &[(1, first.file()), (2, second.file())]));
            assert_eq!(is_whole, is_right, "{name}: {text}");
        }
    }

    #[test]
    fn another_epoch_and_another_room_have_places_of_their_own() {
        let mut made = Made::new(1);
        let (other_epoch, other_room) = (Post { epoch: 2, ..Post::at(1) }, Post { room: "hall", ..Post::at(1) });
        made.block(&[Post::at(1), Post::at(2)]).block(&[other_epoch, other_room, Post::at(3)]);
        let (is_whole, text) = said(&folder_of("others", &[(1, made.file())]));
        assert!(is_whole && !text.contains("missing"), "{text}");
    }

    #[test]
    fn sequences_that_are_missing_are_counted_and_no_damage() {
        let mut made = Made::new(1);
        made.block(&[Post::at(7), Post::at(8)]).block(&[Post::at(12)]);
        let (is_whole, text) = said(&folder_of("missing", &[(1, made.file())]));
        assert!(is_whole && text.contains("3 sequences are missing between others of their rooms"), "{text}");
    }

    #[test]
    fn places_at_both_ends_of_all_numbers_are_counted() {
        let end = u64::MAX;
        let other = |sequence| Post { room: "hall", ..Post::at(sequence) };
        let mut made = Made::new(1);
        made.block(&[Post::at(0), Post::at(end), other(0), other(end)]);
        let (_, text) = said(&folder_of("ends", &[(1, made.file())]));
        assert!(text.contains(&format!("{end} sequences are missing")), "{text}");
        let (mut one, mut two) = (Made::new(1), Made::new(2));
        one.block(&[Post::at(0), Post::at(end)]);
        two.block(&[Post::at(0)]);
        let (_, text) = said(&folder_of("all", &[(1, one.file()), (2, two.file())]));
        assert!(text.contains(&format!("{end} records were refused")), "{text}");
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

    #[test]
    fn what_is_damaged_beside_the_segments_is_damage_of_the_log() {
        let folder = folder_of("beside", &[(1, Made::new(1).block(&[Post::at(1)]).file())]);
        let path = folder.0.join("log/ledger");
        std::fs::write(&path, [7; 8_192]).unwrap();
        let (is_whole, text) = said(&folder);
        assert!(!is_whole && text.ends_with("bytes: damage in 1 other file, see above\n"), "{text}");
        assert!(text.contains(&format!("damage: {}: neither of its slots checks", path.display())), "{text}");
        let mut out = Vec::new();
        assert!(!say_json(&LogFolder::open(&folder.0).unwrap(), &mut out).unwrap());
        let said: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&said["ok"], &said["files"][0]["is_damaged"]), (&false.into(), &true.into()));
    }
}
