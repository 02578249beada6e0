//! Writes the files of a history: blocks and indexes by the log's own code, one segment after another.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use banter_log::PAGE_BYTES;
use banter_log::block::{BlockPlace, BlockWriter, block_bytes};
use banter_log::index::{Chain, Entry, IndexBuilder, Opening};
use banter_log::key::KeyedPost;
use banter_log::record::{Author, Level, Record, RecordKind};
use banter_log::segment::{Class, SegmentHeader};
use banter_protocol::event::Message;
use banter_protocol::ids::{Epoch, RoomId, Sequence};
use banter_protocol::native::write_message;
use banter_protocol::request::{Body, BodyFormat};
use banter_server::host::EpochFile;
use banter_server::storage::ledger::{LastRun, Ledger, LedgerFile, this_boot};
use banter_server::storage::{folder_of, index_path, segment_path};
use serde::Serialize;

use super::post::check_free;
use super::shape::Shape;
use crate::disk::doing;

/// A segment that is as long as what is in it ends at a multiple of this.
const SEGMENT_STEP_BYTES: u64 = 64 * 1_024;
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Written {
    /// Rooms.
    pub rooms: u32,
    /// Segments.
    pub segments: u32,
    /// Messages.
    pub messages: u64,
    /// Bytes of their records.
    pub record_bytes: u64,
    /// Bytes of the segments up to where their blocks end.
    pub block_bytes: u64,
    /// Bytes of the segments' files.
    pub segment_bytes: u64,
    /// Bytes of the indexes.
    pub index_bytes: u64,
    /// Time on the wall.
    pub seconds: f64,
}

impl fmt::Display for Written {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Written { rooms, segments, messages, block_bytes, index_bytes, seconds, .. } = self;
        let (blocks, indexes) = (block_bytes >> 20, index_bytes >> 20);
        write!(out, "{messages} messages of {rooms} rooms in {segments} segments, ")?;
        write!(out, "{blocks} MiB and {indexes} MiB of indexes, in {seconds:.1} s")
    }
}

/// Writes it, and syncs the disk.
///
/// # Errors
/// When the folder is there, or the disk has no room for it or fails.
pub fn make(shape: &Shape) -> io::Result<Written> {
    let folder = &shape.folder;
    fs::create_dir(folder).map_err(doing("making", folder))?;
    check_free(folder, shape.bytes())?;
    let log = folder_of(folder);
    fs::create_dir(&log).map_err(doing("making", &log))?;
    let started = Instant::now();
    let mut history = History::begin(shape, log)?;
    for number in 0..shape.segments {
        history.write_segment(number)?;
    }
    history.write_ledger()?;
    rustix::fs::syncfs(File::open(folder)?)?;
    Ok(Written { seconds: started.elapsed().as_secs_f64(), ..history.written })
}

/// A history in the making.
struct History<'a> {
    shape: &'a Shape,
    log: PathBuf,
    run: u64,
    unix_ms: u64,
    /// What rooms with parts in more than one segment have so far.
    rooms: HashMap<u32, Sofar>,
    body: Vec<u8>,
    frame: Vec<u8>,
    written: Written,
}

/// What a room has in the segments before.
#[derive(Clone, Copy, Default)]
struct Sofar {
    chain: Chain,
    head: u64,
}

/// A room, while a segment is written that holds it.
struct Room {
    number: u32,
    name: String,
    id: RoomId,
    sofar: Sofar,
}

impl<'a> History<'a> {
    fn begin(shape: &'a Shape, log: PathBuf) -> io::Result<Self> {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let run = take_run(&shape.folder, unix_ms)?;
        let mut body = vec![b'.'; shape.payload as usize];
        (body[0], body[shape.payload as usize - 1]) = (b'"', b'"');
        let written = Written { rooms: shape.rooms, segments: shape.segments, ..Written::default() };
        Ok(History { shape, log, run, unix_ms, rooms: HashMap::new(), body, frame: Vec::new(), written })
    }

    fn write_segment(&mut self, number: u32) -> io::Result<()> {
        let mut rooms: Vec<Room> = self.shape.rooms_of(number).map(|room| self.room(room)).collect();
        let id = u64::from(number) + 1;
        let header = SegmentHeader {
            id,
            // Any number that others do not have does where nobody posts.
            nonce: id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.unix_ms,
            core: 0,
            class: Class::SERVER,
            run: self.run,
            made_unix_ms: self.unix_ms,
            file_bytes: self.shape.segment_bytes().unwrap_or(u64::from(u32::MAX)),
        };
        let mut segment = Segment::begin(&self.log, header)?;
        self.write_rounds(&mut segment, &mut rooms)?;
        let is_sized = self.shape.segment_bytes().is_some();
        let (index, index_bytes) = segment.end(&self.log, !self.shape.unsealed, is_sized, &mut self.written)?;
        self.written.index_bytes += index_bytes;
        if self.shape.every {
            for Room { number, id, sofar: Sofar { head, .. }, .. } in rooms {
                let chain = index.room(id).map(|room| room.part.chain_behind(&header));
                chain.map(|chain| self.rooms.insert(number, Sofar { chain, head }));
            }
        }
        Ok(())
    }

    fn room(&self, number: u32) -> Room {
        let name = format!("room-{number}");
        let (id, sofar) = (RoomId::of(&name), self.rooms.get(&number).copied().unwrap_or_default());
        Room { number, name, id, sofar }
    }

    /// One message of each room after another, until each has what it is to have, or the segment is full.
    fn write_rounds(&mut self, segment: &mut Segment, rooms: &mut [Room]) -> io::Result<()> {
        for _ in 0..self.shape.messages_max() {
            for room in &mut *rooms {
                if !self.write_one(segment, room)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A room's next message; `false`: the segment has no room for it.
    fn write_one(&mut self, segment: &mut Segment, room: &mut Room) -> io::Result<bool> {
        let count = self.written.messages;
        let (user, key) = (format!("user-{}", count % u64::from(self.shape.users)), format!("{count:016x}"));
        let message = Message {
            epoch: Epoch(self.run),
            sequence: Sequence(room.sofar.head + 1),
            time_ms: self.unix_ms,
            room: &room.name,
            user: &user,
            key: self.shape.keyed.then_some(&key),
            body: Body { format: BodyFormat::Json, bytes: &self.body },
        };
        self.frame.clear();
        write_message(&message, &mut self.frame);
        let record = Record::message(room.id, Level::Synced, Author::NOBODY, &self.frame);
        if !segment.has_room_for(record.bytes()) {
            return Ok(false);
        }
        let entry = Entry {
            kind: RecordKind::Message,
            room: room.id,
            epoch: message.epoch,
            sequence: message.sequence,
            time_ms: message.time_ms,
            level: Level::Synced,
            record_bytes: record.bytes() as u32,
            // Nobody reads the index of one that is not sealed.
            key: if self.shape.unsealed { None } else { KeyedPost::of(&message, None) },
        };
        let opening = || Opening { name: room.name.as_str().into(), chain: room.sofar.chain };
        segment.add(&record, &entry, opening);
        if segment.block.records() >= self.shape.commit {
            segment.commit()?;
        }
        room.sofar.head += 1;
        self.written.messages += 1;
        self.written.record_bytes += record.bytes() as u64;
        Ok(true)
    }

    /// A run that ended in order.
    fn write_ledger(&self) -> io::Result<()> {
        let last = LastRun { run: self.run, is_closed: true, boot: this_boot() };
        let ledger = Ledger { last: Some(last), blank: Epoch(self.run), ..Ledger::default() };
        LedgerFile::make(&self.log, ledger).map(drop)
    }
}

fn take_run(data: &Path, unix_ms: u64) -> io::Result<u64> {
    let fault = |fault: banter_server::host::HostFault| io::Error::other(fault.to_string());
    Ok(EpochFile::open(data).map_err(fault)?.begin(0, unix_ms).map_err(fault)?.run)
}

/// A segment that is being written.
struct Segment {
    file: BufWriter<File>,
    place: BlockPlace,
    block: BlockWriter,
    index: IndexBuilder,
}

impl Segment {
    fn begin(log: &Path, header: SegmentHeader) -> io::Result<Self> {
        let path = segment_path(log, header.id);
        let file = File::create_new(&path).map_err(doing("making", &path))?;
        let mut file = BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
        file.write_all(&header.write())?;
        let (place, block) = (BlockPlace::first_of(header), BlockWriter::of(&header));
        Ok(Segment { file, place, block, index: IndexBuilder::default() })
    }

    /// Whether the open block takes so many bytes more, and the proof behind it.
    fn has_room_for(&self, record_bytes: usize) -> bool {
        let block = block_bytes(self.block.body_bytes() + record_bytes) + PAGE_BYTES;
        self.place.offset + block as u64 <= self.place.segment.file_bytes
    }

    fn add(&mut self, record: &Record<'_>, entry: &Entry, opening: impl FnOnce() -> Opening) {
        let at = self.block.push(record);
        self.index.add(entry, self.place.offset + at as u64, opening);
    }

    /// Writes the block, as one that every earlier one was on the disk ahead of.
    fn commit(&mut self) -> io::Result<()> {
        self.place.synced = self.place.number;
        let header = self.place.segment;
        let (bytes, behind) = std::mem::replace(&mut self.block, BlockWriter::of(&header)).finish(&self.place);
        self.place = behind;
        self.file.write_all(&bytes)
    }

    /// Writes what is left, and the index. Says what was in it, and how long the index is.
    fn end(
        mut self,
        log: &Path,
        is_sealed: bool,
        is_sized: bool,
        written: &mut Written,
    ) -> io::Result<(IndexBuilder, u64)> {
        if self.block.records() > 0 {
            self.commit()?;
        }
        if is_sealed {
            self.commit()?;
        }
        let end_offset = self.place.offset;
        if !is_sized {
            self.place.segment.file_bytes = end_offset.next_multiple_of(SEGMENT_STEP_BYTES);
        }
        let header = self.place.segment;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header.write())?;
        let file = self.file.into_inner()?;
        file.set_len(header.file_bytes)?;
        written.block_bytes += end_offset;
        written.segment_bytes += header.file_bytes;
        let index_bytes = if is_sealed { write_index(log, &self.index, &header, end_offset)? } else { 0 };
        Ok((self.index, index_bytes))
    }
}

fn write_index(log: &Path, index: &IndexBuilder, header: &SegmentHeader, end_offset: u64) -> io::Result<u64> {
    let bytes = index.encode(header, end_offset, true);
    let path = index_path(log, header.id);
    fs::write(&path, &bytes).map_err(doing("writing", &path))?;
    Ok(bytes.len() as u64)
}
