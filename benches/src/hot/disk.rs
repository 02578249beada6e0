//! A disk in memory that answers at once: the files of a core's log.

use std::collections::BTreeMap;

use banter_log::journal::{Answer, Ask, Reach};
use banter_log::reading::{FileRange, LogFile};
use banter_log::segment::{Class, SegmentHeader};

/// The start of the server that everything belongs to.
pub const RUN: u64 = 1;
/// When that was.
pub const UNIX_MS: u64 = 1_700_000_000_000;
/// Small enough for a scenario to seal some.
const SEGMENT_BYTES: u64 = 4 << 20;

/// The files.
#[derive(Debug, Default)]
pub struct Disk {
    segments: BTreeMap<u64, Vec<u8>>,
    indexes: BTreeMap<u64, Vec<u8>>,
}

/// The header of a segment of that number.
pub fn segment_header(id: u64, class: Class) -> SegmentHeader {
    SegmentHeader { id, nonce: id, core: 0, class, run: RUN, made_unix_ms: UNIX_MS, file_bytes: SEGMENT_BYTES }
}

impl Disk {
    /// Does what a log asks.
    pub fn take(&mut self, ask: Ask, mut answer: impl FnMut(Answer)) {
        match ask {
            Ask::Prepare { class, .. } => {
                let header = segment_header(self.segments.len() as u64 + 1, class);
                let mut file = header.write();
                file.resize(SEGMENT_BYTES as usize, 0);
                self.segments.insert(header.id, file);
                answer(Answer::Segment(header));
            }
            Ask::Append { segment, offset, block, wanted, .. } => {
                let file = self.segments.get_mut(&segment.id).expect("a segment that was prepared");
                file[offset as usize..][..block.len()].copy_from_slice(&block);
                if wanted.tells_written() {
                    answer(Answer::Written);
                }
                if wanted != Reach::Written {
                    answer(Answer::Synced);
                }
            }
            Ask::Seal { end, index, .. } => {
                self.indexes.insert(end.segment.id, index.encode(&end.segment, end.offset, true));
                answer(Answer::Indexed { segment: end.segment.id, parts: index.len() as u32 });
            }
            Ask::Read(range) => answer(Answer::Read { range, bytes: self.read(range) }),
            Ask::Prove => answer(Answer::Proved),
            Ask::Release { .. } | Ask::LetGo { .. } => {}
            Ask::MendIndex { segment } => panic!("the index of segment {segment} is whole"),
        }
    }

    fn read(&self, range: FileRange) -> Option<Vec<u8>> {
        let files = if range.file == LogFile::Segment { &self.segments } else { &self.indexes };
        let file = files.get(&range.segment)?;
        let at = |offset: u64| file.len().min(offset as usize);
        Some(file[at(range.offset)..at(range.offset + range.bytes)].to_vec())
    }
}
