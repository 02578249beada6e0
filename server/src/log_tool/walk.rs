//! Walks one segment: its header, its blocks, their records, the messages in them, and how it ends.

use std::io;

use banter_log::block::{Block, BlockPlace, HEADER_BYTES, is_proof_of};
use banter_log::record::{Record, RecordKind};
use banter_log::scan::{Ending, Scan};
use banter_log::segment::SegmentHeader;
use banter_protocol::fault::PeerFault;
use banter_protocol::native::{Kept, read_kept, read_state};

use super::LogFault;
use super::damage::{Broken, Damages};
use super::folder::LogFolder;

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Its header, if there is one.
    pub header: Option<SegmentHeader>,
    /// Blocks that check.
    pub blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// How it ends, if it begins.
    pub ending: Option<Ending>,
    /// What is broken in it.
    pub damages: Damages,
}

/// A message, or something else that has a place, and where it was found.
pub(super) struct Found<'a> {
    /// The segment.
    pub segment: &'a SegmentHeader,
    /// Where its record starts in the file.
    pub offset: u64,
    /// Bytes of that.
    pub record_bytes: usize,
    pub kept: Kept<'a>,
    /// It may have been refused: see `order`.
    pub is_unproven: bool,
}

/// What is done with each message. What it finds broken is damage of the segment; its error ends the walk.
pub(super) trait Each: FnMut(&Found<'_>) -> io::Result<Option<Broken>> {}

impl<F: FnMut(&Found<'_>) -> io::Result<Option<Broken>>> Each for F {}

/// Walks a segment of the folder, which is read into the buffer.
///
/// # Errors
/// The file cannot be opened, or `each` cannot go on.
pub(super) fn walk(folder: &LogFolder, id: u64, buffer: &mut Vec<u8>, each: &mut impl Each) -> Result<Walk, LogFault> {
    let broken = folder.read(id, buffer)?.err();
    let mut walk = Walk { file_bytes: buffer.len() as u64, ..Walk::default() };
    match broken {
        // What lies behind the bytes that can be read is unknown: no ending is told from them.
        Some(broken) => walk.damages.push(walk.file_bytes, broken),
        None => walk.read(id, buffer, each)?,
    }
    Ok(walk)
}

impl Walk {
    fn read(&mut self, id: u64, bytes: &[u8], each: &mut impl Each) -> io::Result<()> {
        let mut scan = match Scan::new(bytes) {
            Ok(scan) => scan,
            Err(fault) => {
                self.damages.push(0, Broken::Header(fault));
                return Ok(());
            }
        };
        let header = *scan.header();
        self.header = Some(header);
        if header.id != id {
            self.damages.push(0, Broken::Name { header: header.id, name: id });
        }
        let file_bytes = bytes.len() as u64;
        if file_bytes < header.file_bytes {
            self.damages.push(file_bytes, Broken::CutShort { file_bytes, made_bytes: header.file_bytes });
        }
        let mut blocks = Vec::new();
        loop {
            let place = *scan.place();
            let Some(block) = scan.next() else { break };
            blocks.push((place, block));
        }
        let ending = scan.ending();
        let unproven = unproven_block(bytes, &blocks, &ending);
        for (place, block) in &blocks {
            self.read_block(place, block, unproven == Some(place.offset), each)?;
        }
        if let Ending::Corrupt { offset, later } = ending {
            self.damages.push(offset, Broken::Block { later });
        }
        self.ending = Some(ending);
        Ok(())
    }

    fn read_block(
        &mut self,
        place: &BlockPlace,
        block: &Block<'_>,
        is_unproven: bool,
        each: &mut impl Each,
    ) -> io::Result<()> {
        let (segment, start) = (&place.segment, place.offset);
        let mut records = block.records();
        let (body_bytes, mut count) = (records.rest().len(), 0);
        loop {
            let offset = start + (HEADER_BYTES + body_bytes - records.rest().len()) as u64;
            let Some(record) = records.next() else { break };
            let record = match record {
                Ok(record) => record,
                Err(fault) => {
                    self.damages.push(offset, fault.into());
                    continue;
                }
            };
            count += 1;
            let record_bytes = record.bytes();
            let broken = match placed(&record) {
                Ok(Some(kept)) => each(&Found { segment, offset, record_bytes, kept, is_unproven })?,
                Ok(None) => None,
                Err(fault) => Some(Broken::Message(fault)),
            };
            broken.into_iter().for_each(|broken| self.damages.push(offset, broken));
        }
        if block.records != count {
            self.damages.push(start, Broken::Count { said: block.records, found: count });
        }
        self.blocks += 1;
        self.records += u64::from(count);
        Ok(())
    }

    /// Bytes of the segment that hold its header and its blocks.
    pub(super) fn bytes(&self) -> u64 {
        match self.ending {
            Some(Ending::Clean { offset } | Ending::Torn { offset, .. } | Ending::Corrupt { offset, .. }) => offset,
            None => 0,
        }
    }
}

/// What a record keeps in its place; a state has none.
fn placed<'a>(record: &Record<'a>) -> Result<Option<Kept<'a>>, PeerFault> {
    match record.kind {
        RecordKind::State => read_state(record.frame).map(|_| None),
        RecordKind::Message | RecordKind::Viewed | RecordKind::Change | RecordKind::Tombstone => {
            read_kept(record.frame).map(Some)
        }
    }
}

/// Where the block starts that may have been refused, if there is one: the last that holds messages, unless a later one
/// proves it. So does one behind damage, which was once ahead of it.
fn unproven_block(bytes: &[u8], blocks: &[(BlockPlace, Block<'_>)], ending: &Ending) -> Option<u64> {
    if matches!(ending, Ending::Corrupt { .. }) {
        return None;
    }
    let last = blocks.iter().rposition(|(_, block)| block.records > 0)?;
    let ((place, _), behind) = blocks.get(last..)?.split_first()?;
    let proves = |(later, _): &(BlockPlace, Block<'_>)| {
        bytes.get(later.offset as usize..).is_some_and(|header| is_proof_of(header, place))
    };
    (!behind.iter().any(proves)).then_some(place.offset)
}

#[cfg(test)]
mod tests {
    use banter_protocol::ids::{Epoch, Sequence};
    use banter_protocol::native::{Change, State, write_kept, write_state};

    use super::super::made::{Made, Post};
    use super::*;

    fn walk_bytes(bytes: &[u8]) -> (Walk, Vec<(u64, u64)>) {
        let (mut walk, mut found) = (Walk::default(), Vec::new());
        let mut each = |message: &Found<'_>| {
            found.push((message.kept.sequence().0, message.offset));
            Ok(None)
        };
        walk.read(1, bytes, &mut each).unwrap();
        (walk, found)
    }

    fn damage(walk: &Walk) -> (u64, String) {
        assert_eq!(walk.damages.count, 1, "{:?}", walk.damages);
        (walk.damages.listed[0].offset, walk.damages.listed[0].what.to_string())
    }

    #[test]
    fn every_message_is_found_where_its_record_starts() {
        let mut made = Made::new(1);
        made.block(&[Post::at(1), Post::at(2)]).block(&[Post::at(3)]);
        let (walk, found) = walk_bytes(&made.file());
        assert_eq!((walk.blocks, walk.records, walk.bytes(), walk.damages.count), (2, 3, 12_288, 0));
        let second = 4_096 + 64 + 16 + Post::at(1).frame().len() as u64;
        assert_eq!(found, [(1, 4_096 + 64), (2, second), (3, 8_192 + 64)]);
    }

    #[test]
    fn a_block_that_does_not_check_is_damage_only_with_a_later_one_behind_it() {
        let mut made = Made::new(1);
        made.block(&[Post::at(1)]).block(&[Post::at(2)]).block(&[Post::at(3)]);
        let mut file = made.file();
        file[8_192 + 100] ^= 1;
        let (walk, found) = walk_bytes(&file);
        assert_eq!(found.len(), 1);
        assert_eq!(damage(&walk), (8_192, Broken::Block { later: 12_288 }.to_string()));
        let mut torn = made.file();
        torn[12_288 + 100..].fill(0);
        let (walk, found) = walk_bytes(&torn);
        assert_eq!((found.len(), walk.damages.count), (2, 0));
        assert!(matches!(walk.ending, Some(Ending::Torn { offset: 12_288, .. })));
    }

    #[test]
    fn a_file_under_another_name_and_one_that_is_no_segment_are_damage() {
        let (offset, what) = damage(&walk_bytes(&Made::new(2).file()).0);
        assert!(offset == 0 && what.contains("says that it is segment 2, and its name that it is 1"), "{what}");
        let (walk, _) = walk_bytes(&[7; 8_192]);
        assert!(walk.header.is_none() && walk.ending.is_none() && damage(&walk).1.contains("not a Banter log segment"));
    }

    #[test]
    fn a_file_that_lost_its_end_is_damage_and_what_is_left_is_read() {
        let mut made = Made::new(1);
        made.block(&[Post::at(1)]).block(&[Post::at(2)]);
        let header = SegmentHeader { file_bytes: 1 << 20, ..SegmentHeader::read(&made.file()).unwrap() };
        let file = [header.write(), made.file()[4_096..].to_vec()].concat();
        let (walk, found) = walk_bytes(&file);
        let (offset, what) = damage(&walk);
        assert_eq!((found.len(), offset), (2, file.len() as u64));
        assert!(what.contains("was made with 1048576"), "{what}");
    }

    #[test]
    fn what_is_no_message_has_its_place_too_and_a_state_has_none() {
        let (epoch, room) = (Epoch(1), "lobby");
        let mut frames = [Post::at(1).frame(), Vec::new(), Vec::new(), Vec::new()];
        let change = Change {
            epoch,
            sequence: Sequence(2),
            time_ms: 5,
            room,
            user: "ann",
            target: Sequence(1),
            what: 1,
            body: b"x",
        };
        write_kept(&Kept::Change(change), &mut frames[1]);
        write_kept(&Kept::Erased { room, epoch, sequence: Sequence(3) }, &mut frames[2]);
        write_state(&State { epoch, sequence: Sequence(3), time_ms: 6, room, body: b"x" }, &mut frames[3]);
        let kinds = [RecordKind::Message, RecordKind::Change, RecordKind::Tombstone, RecordKind::State];
        let mut made = Made::new(1);
        made.records(frames.iter().zip(kinds));
        let (walk, found) = walk_bytes(&made.file());
        assert_eq!((walk.records, walk.damages.count), (4, 0), "{:?}", walk.damages);
        assert_eq!(found.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_message_that_does_not_check_is_damage_and_the_others_are_read() {
        let mut made = Made::new(1);
        let mut frames = [1, 2, 3].map(|sequence| Post::at(sequence).frame());
        // The archive's root lies at the frame's end: where its texts are said to lie is nowhere now.
        let length = frames[1].len();
        frames[1][length - 40..].fill(0xff);
        made.frames(&frames);
        let (walk, found) = walk_bytes(&made.file());
        assert_eq!(found.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [1, 3]);
        let (offset, what) = damage(&walk);
        assert!(offset > 4_096 + 64 && what.contains("the message here does not check"), "{what}");
    }
}
