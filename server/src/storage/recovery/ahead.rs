//! Reads and walks the segments that have no index, on all CPUs at once: what a start takes most of its time for.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use banter_log::index::{Entry, IndexBuilder};
use banter_log::scan::{Ending, Scan};
use banter_log::segment::SegmentFault;
use banter_protocol::ids::RoomId;
use banter_protocol::native::read_message;

/// A segment that was walked.
pub(super) struct Walked {
    /// Bytes of its file.
    pub file_bytes: u64,
    /// The index that its blocks make, and how they end.
    pub found: Result<(IndexBuilder, Ending), SegmentFault>,
}

/// Segments by id, each walked or not to be read.
pub(super) type WalkedById = BTreeMap<u64, io::Result<Walked>>;

/// Walks segments, one a thread at a time, in memory that each thread uses again.
pub(super) fn walk_all(segments: &[(u64, PathBuf)]) -> WalkedById {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(segments.len());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(WalkedById::new()));
    let work = || {
        let mut buffer = Vec::new();
        while let Some((id, path)) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
            let walked = walk(path, &mut buffer);
            if let Ok(mut done) = done.lock() {
                done.insert(*id, walked);
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    done.into_inner().unwrap_or_default()
}

/// Reads a segment and walks it.
pub(super) fn walk(path: &Path, buffer: &mut Vec<u8>) -> io::Result<Walked> {
    let mut file = File::open(path)?;
    buffer.clear();
    buffer.reserve_exact(file.metadata()?.len() as usize);
    file.read_to_end(buffer)?;
    Ok(Walked { file_bytes: buffer.len() as u64, found: index_of(buffer) })
}

/// The index that a segment's blocks make, and how they end. A block that checks and holds what is no message of this
/// format ends them, as damage.
///
/// # Errors
/// It is no segment.
pub fn index_of(bytes: &[u8]) -> Result<(IndexBuilder, Ending), SegmentFault> {
    let mut scan = Scan::new(bytes)?;
    let mut index = IndexBuilder::default();
    // A room's id is a hash that costs more than the rest of its message.
    let mut ids: HashMap<Box<str>, RoomId> = HashMap::new();
    loop {
        let offset = scan.place().offset;
        let Some(block) = scan.next() else { break };
        for record in block.records() {
            let entry = record.ok().and_then(|record| {
                let message = read_message(record.frame).ok()?;
                let id = match ids.get(message.room) {
                    Some(&id) => id,
                    None => *ids.entry(message.room.into()).or_insert_with(|| RoomId::of(message.room)),
                };
                Some(Entry::in_room(id, &message, record.level, record.bytes()))
            });
            match entry {
                Some(entry) => index.add(&entry, offset),
                None => return Ok((index, Ending::Corrupt { offset, later: block.behind.offset })),
            }
        }
    }
    Ok((index, scan.ending()))
}
