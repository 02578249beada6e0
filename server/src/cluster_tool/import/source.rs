//! The folder that is imported, judged as a start judges it and changed by nothing: which records count, and under which epochs its
//! rooms go on.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use banter_chat::address::Placement;
use banter_log::PAGE_BYTES;
use banter_log::catalog::{Catalog, Epochs, Past};
use banter_log::index::{Entry, Part};
use banter_log::scan::Scan;
use banter_log::segment::SegmentHeader;
use banter_protocol::ids::{Epoch, RoomId, Sequence};

use crate::cluster_tool::ToolFault;
use crate::host::{EPOCH_MAX, EpochFile};
use crate::log_tool::{LogFolder, Progress, check_quietly};
use crate::storage::erasures::ErasureFile;
use crate::storage::indexes::read_parts;
use crate::storage::ledger::{Blank, Doubt, Ledger, LedgerFile, Start, this_boot};
use crate::storage::recovery::index_of;
use crate::storage::segment_path;
use crate::storage::slots::{FileIdentity, Seen};

/// Numbers that a run may have given beyond what the folder shows, where its epoch file is lost.
const UNSEEN: u64 = 1 << 20;

/// The folder.
pub(super) struct Source {
    folder: LogFolder,
    /// As behind a start.
    pub ledger: Ledger,
    /// Why rooms go on under new epochs.
    pub doubt: Option<Doubt>,
    /// Above every number that was given.
    pub number: u64,
    catalog: Catalog,
    /// Places of a segment that were refused, and given again later: what counts in it ends there.
    ends: BTreeMap<u64, HashMap<RoomId, Sequence>>,
    /// Segments in which rooms begin, of which there is something older that does not count.
    begins: HashMap<RoomId, Vec<u64>>,
    /// Bytes of the records of each partition.
    pub partition_bytes: Vec<u64>,
    /// Bytes of the longest record.
    pub record_bytes_max: usize,
}

/// A segment of it, and what of each room counts there.
pub(super) struct SourceSegment {
    /// All of it.
    pub bytes: Vec<u8>,
    places: HashMap<RoomId, (Sequence, Sequence)>,
}

impl Source {
    /// Opens a folder that is whole, and judges it. `numbers` lie above all that the cluster has given.
    pub(super) fn open(dir: &Path, placement: Placement, numbers: u64) -> Result<Self, ToolFault> {
        let folder = LogFolder::open(dir)?;
        if !check_quietly(&folder)?.is_whole() {
            return Err(ToolFault::NotMade(format!(
                "{} is not whole: see what `banter log check` says of it, and how to mend that",
                dir.display()
            )));
        }
        let found = LedgerFile::open(&folder.path).map_err(|fault| unreadable(dir, &fault))?;
        let (ledger, identity) = (found.ledger(), found.identity().map_err(|fault| unreadable(dir, &fault))?);
        let erasures = ErasureFile::of(&folder.path, identity).read().map_err(|fault| unreadable(dir, &fault))?;
        if erasures.pending().next().is_some() {
            return Err(ToolFault::NotMade(format!(
                "{} has messages that are to be erased and are there still: start the server on it until banter_erasures_pending is 0, \
                 and stop it",
                dir.display()
            )));
        }
        let headers = headers(&folder)?;
        let number = number_above(dir, &folder, &ledger, &headers, numbers)?;
        let mut source = Source {
            folder,
            ledger,
            doubt: None,
            number,
            catalog: Catalog::default(),
            ends: BTreeMap::new(),
            begins: HashMap::new(),
            partition_bytes: vec![0; placement.partitions().into()],
            record_bytes_max: 0,
        };
        source.begin(&headers, identity);
        source.judge(&headers, placement)?;
        Ok(source)
    }

    /// Its segments, by their ids.
    pub(super) fn segments(&self) -> Vec<u64> {
        self.folder.segments.clone()
    }

    /// Rooms in it.
    pub(super) fn rooms(&self) -> usize {
        self.catalog.len()
    }

    /// What the epochs of rooms without a message follow from.
    pub(super) fn blank(&self) -> Epoch {
        let Blank { synced, written } = self.ledger.blank();
        synced.max(written)
    }

    /// The ledger, as a start on the folder would have it now.
    fn begin(&mut self, headers: &[SegmentHeader], identity: FileIdentity) {
        let newest_run = headers.iter().map(|header| header.run).max();
        let levels_hash = self.ledger.levels.hash;
        let start = Start { run: self.number, boot: this_boot(), levels_hash, newest_run, identity };
        self.doubt = self.ledger.begin(&start);
    }

    fn judge(&mut self, headers: &[SegmentHeader], placement: Placement) -> Result<(), ToolFault> {
        let past = self.ledger.past(headers.iter());
        let Blank { synced: blank_synced, written: blank_written } = self.ledger.blank();
        let (lowered, dropped) = (self.ledger.levels.epoch, self.ledger.dropped);
        self.catalog.set_epochs(Epochs { blank_synced, blank_written, lowered, dropped });
        let mut progress = Progress::new(headers.len());
        for (read, header) in headers.iter().enumerate() {
            progress.tell(read, 0);
            let bytes = self.folder.bytes_of(header.id)?;
            self.measure(&bytes, placement);
            let (mut parts, newest_ms, is_chained) = parts_of(&self.folder.path, header, &bytes);
            self.catalog.add_segment(*header, parts.len() as u32, newest_ms);
            for part in &mut parts {
                self.add(header, part, is_chained, &past)?;
            }
        }
        progress.clear();
        Ok(())
    }

    fn add(
        &mut self,
        header: &SegmentHeader,
        part: &mut Part,
        is_chained: bool,
        past: &Past<'_>,
    ) -> Result<(), ToolFault> {
        let was_known = self.catalog.room(part.room).is_some();
        let added = self.catalog.add_any_part(header, part, is_chained, past);
        if added.hole.is_some() {
            let what = "messages of a room are missing between two segments: see what `banter log check` says";
            return Err(ToolFault::NotMade(what.to_owned()));
        }
        if let Some((before, last)) = added.given_again {
            let first = added.left_behind.unwrap_or(before);
            let ids = self.folder.segments.iter().copied().filter(|id| (first..=before).contains(id));
            for id in ids {
                self.ends.entry(id).or_default().insert(part.room, last);
            }
        }
        if let Some(left) = added.left_behind {
            self.begins.entry(part.room).or_default().retain(|id| *id <= left);
        }
        let begins_here = self
            .catalog
            .room(part.room)
            .is_some_and(|room| room.newest_segment == header.id && room.first >= part.first);
        if was_known && begins_here {
            self.begins.entry(part.room).or_default().push(header.id);
        }
        Ok(())
    }

    fn measure(&mut self, bytes: &[u8], placement: Placement) {
        let mut ids = HashMap::new();
        for record in
            Scan::new(bytes).into_iter().flatten().flat_map(|block| block.records().collect::<Vec<_>>()).flatten()
        {
            let Some((entry, _)) = Entry::read(&record, |room| id_of(&mut ids, room)) else { continue };
            self.record_bytes_max = self.record_bytes_max.max(record.bytes());
            if let Some(sum) = self.partition_bytes.get_mut(usize::from(placement.partition_of(entry.room))) {
                *sum += record.bytes() as u64;
            }
        }
    }

    /// Reads a segment anew.
    pub(super) fn segment(&self, id: u64) -> Result<SourceSegment, ToolFault> {
        let bytes = self.folder.bytes_of(id)?;
        let header =
            Scan::new(&bytes).map(|scan| *scan.header()).map_err(|fault| unreadable(&self.folder.path, &fault))?;
        let (parts, ..) = parts_of(&self.folder.path, &header, &bytes);
        let ends = self.ends.get(&id);
        let counts = |part: Part| {
            let room = self.catalog.room(part.room)?;
            let is_of_another_life =
                self.begins.get(&part.room).and_then(|begins| begins.last()).is_some_and(|at| id < *at);
            let end = ends.and_then(|ends| ends.get(&part.room)).map_or(part.last, |last| part.last.min(*last));
            let is_left_out = end < part.first && part.last >= part.first;
            (!is_of_another_life && !is_left_out).then_some((part.room, (part.first.max(room.first), end)))
        };
        Ok(SourceSegment { places: parts.into_iter().filter_map(counts).collect(), bytes })
    }

    /// The epoch under which a room goes on.
    pub(super) fn epoch_of(&self, room: RoomId) -> Option<Epoch> {
        let known = self.catalog.room(room)?;
        let class = self.catalog.segment(known.newest_segment)?.class;
        Some(self.catalog.epoch_of(room, known.level, class))
    }
}

impl SourceSegment {
    /// Whether a record counts.
    pub(super) fn counts(&self, entry: &Entry) -> bool {
        let is_there = |(first, last): &(Sequence, Sequence)| {
            !entry.kind.is_numbered() || (*first..=*last).contains(&entry.sequence)
        };
        self.places.get(&entry.room).is_some_and(is_there)
    }
}

/// A room's id is a hash that costs more than the rest of its message.
pub(super) fn id_of(ids: &mut HashMap<Box<str>, RoomId>, room: &str) -> RoomId {
    match ids.get(room) {
        Some(&id) => id,
        None => *ids.entry(room.into()).or_insert_with(|| RoomId::of(room)),
    }
}

fn headers(folder: &LogFolder) -> Result<Vec<SegmentHeader>, ToolFault> {
    let header = |&id: &u64| {
        let (path, mut page) = (segment_path(&folder.path, id), [0; PAGE_BYTES]);
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut page, 0));
        read.map_err(|error| unreadable(&path, &error))?;
        SegmentHeader::read(&page).map_err(|fault| unreadable(&path, &fault))
    };
    folder.segments.iter().map(header).collect()
}

/// The parts of a segment, the time of its newest record, and whether they name those before them.
fn parts_of(log: &Path, header: &SegmentHeader, bytes: &[u8]) -> (Vec<Part>, u64, bool) {
    if let Some((index, parts)) = read_parts(log, header) {
        return (parts, index.newest_ms, index.is_chained);
    }
    let index = index_of(bytes).map(|(index, _)| index).unwrap_or_default();
    (index.parts().copied().collect(), index.newest_ms(), false)
}

/// A number that was never given, neither by the folder's server nor in the cluster.
fn number_above(
    dir: &Path,
    folder: &LogFolder,
    ledger: &Ledger,
    headers: &[SegmentHeader],
    numbers: u64,
) -> Result<u64, ToolFault> {
    let data = folder.path.parent().unwrap_or(dir);
    let seen = EpochFile::look(data).map_err(|fault| unreadable(dir, &fault))?;
    let end = match seen {
        Seen::Whole { content, .. } => content.try_into().map_or(0, u64::from_le_bytes),
        Seen::Nothing | Seen::Lost => 0,
    };
    let largest_part = |header: &SegmentHeader| {
        let parts = read_parts(&folder.path, header).map(|(_, parts)| parts).unwrap_or_default();
        parts.iter().map(|part| part.epoch.0).max().unwrap_or(0).max(header.run)
    };
    let shown = headers.iter().map(largest_part).max().unwrap_or(0).max(ledger.largest()).max(numbers).max(end);
    let number = shown + 1 + if end == 0 { UNSEEN } else { 0 };
    if number >= EPOCH_MAX - UNSEEN {
        let what = format!("{} has used its epochs up to {shown}, and 2^53 is the end", dir.display());
        return Err(ToolFault::NotMade(what));
    }
    Ok(number)
}

fn unreadable(path: &Path, fault: &dyn std::fmt::Display) -> ToolFault {
    ToolFault::Folder(format!(
        "cannot read {}: {fault}; run this as the server's user, and see that the disk is well",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use banter_log::segment::file_name;

    use super::*;
    use crate::host::TestFolder;
    use crate::log_tool::made::{Made, Post};
    use crate::storage::ledger::LastRun;

    const LOBBY: &str = "lobby";

    /// A folder whose last run ended in order, with segments of these blocks.
    fn folder(name: &str, segments: &[&[&[Post<'_>]]]) -> TestFolder {
        let folder = TestFolder::new(name);
        let log = folder.0.join("log");
        std::fs::create_dir(&log).unwrap();
        for (id, blocks) in (1..).zip(segments) {
            let mut made = Made::new(id);
            for block in *blocks {
                made.block(block);
            }
            std::fs::write(log.join(file_name(id)), made.file()).unwrap();
        }
        let last = Some(LastRun { run: 3, is_closed: true, boot: this_boot() });
        LedgerFile::make(&log, Ledger { last, blank: Epoch(2), ..Ledger::default() }).unwrap();
        folder
    }

    fn open(folder: &TestFolder) -> Source {
        Source::open(&folder.0, Placement::in_cluster(1, 16).unwrap(), 70).unwrap()
    }

    /// Places of the lobby that count in a segment.
    fn counting(source: &Source, id: u64) -> Vec<u64> {
        let segment = source.segment(id).unwrap();
        let records = Scan::new(&segment.bytes).unwrap().flat_map(|block| block.records().collect::<Vec<_>>());
        let entries = records.map(|record| Entry::read(&record.unwrap(), RoomId::of).unwrap().0);
        entries.filter(|entry| segment.counts(entry)).map(|entry| entry.sequence.0).collect()
    }

    #[test]
    fn rooms_keep_their_epochs_and_numbers_go_on_above_all_that_was_given() {
        let folder = folder("source-kept", &[&[&[Post::at(1), Post::at(2)]]]);
        EpochFile::open(&folder.0).unwrap().begin(0, 1_700_000_000_000).unwrap();
        let end = EpochFile::open(&folder.0).unwrap().begin(0, 0).unwrap().end;
        let source = open(&folder);
        assert_eq!(
            (source.epoch_of(RoomId::of(LOBBY)), source.blank(), source.doubt),
            (Some(Epoch(1)), Epoch(2), None)
        );
        assert!(source.number > end && source.number < end + 10, "{} {end}", source.number);
        assert_eq!((source.rooms(), counting(&source, 1)), (1, vec![1, 2]));
        let partition = usize::from(Placement::in_cluster(1, 16).unwrap().partition_of(RoomId::of(LOBBY)));
        assert!(source.partition_bytes[partition] > 2 * source.record_bytes_max as u64 - 8);
    }

    #[test]
    fn what_was_refused_and_given_again_counts_where_it_was_given_last() {
        let folder = folder(
            "source-again",
            &[&[&[Post::at(1)], &[Post::at(2), Post::at(3)]], &[&[Post::at(2)], &[Post::at(3)]]],
        );
        let source = open(&folder);
        assert_eq!((counting(&source, 1), counting(&source, 2)), (vec![1], vec![2, 3]));
    }

    #[test]
    fn of_a_room_that_began_anew_nothing_older_counts() {
        let anew = Post { epoch: 2, ..Post::at(1) };
        let folder = folder("source-anew", &[&[&[Post::at(1), Post::at(2)]], &[&[anew]]]);
        let source = open(&folder);
        assert_eq!((counting(&source, 1), counting(&source, 2)), (vec![], vec![1]));
    }

    #[test]
    fn a_copy_goes_on_under_new_epochs_and_what_is_not_whole_is_refused() {
        let folder = folder("source-copy", &[&[&[Post::at(1)]]]);
        let log = folder.0.join("log");
        std::fs::copy(log.join("ledger"), log.join("other")).unwrap();
        std::fs::rename(log.join("other"), log.join("ledger")).unwrap();
        let source = open(&folder);
        assert_eq!(source.doubt, Some(Doubt::Copied));
        assert_eq!(
            (source.epoch_of(RoomId::of(LOBBY)), source.blank()),
            (Some(Epoch(source.number)), Epoch(source.number))
        );
        drop(source);
        std::fs::write(log.join("ledger"), [7; 8_192]).unwrap();
        let fault = Source::open(&folder.0, Placement::in_cluster(1, 16).unwrap(), 70).err().unwrap();
        assert!(fault.to_string().contains("banter log check"), "{fault}");
    }
}
