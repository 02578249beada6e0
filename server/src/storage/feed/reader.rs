//! One feed's way through the log, a piece at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banter_log::PAGE_BYTES;
use banter_log::block::{Block, BlockFault};
use banter_log::journal::SegmentEnd;
use banter_log::record::RecordKind;
use banter_log::segment::SegmentHeader;
use banter_protocol::ids::RoomId;
use banter_protocol::json::write_kept;
use banter_protocol::native::{Kept, read_kept};

use super::cursor::Cursor;
use super::position::{Chart, Dropped, Drops, Lane, Place, Position};
use super::{FeedLog, Frontier, Hidden, locked};
use crate::storage::erasing::{IndexFile, Look};
use crate::storage::segment_path;

/// Bytes of a segment that are read at a time; a larger block alone.
pub const PIECE_BYTES: u64 = 256 * 1_024;
/// Bytes of lines behind which a step ends: with the block that it is at.
const LINES_BYTES: usize = 64 * 1_024;
/// Between two looks at what lies in the folder, however much is told meanwhile.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// How long until something is read again that could not be read.
pub const READ_RETRY: Duration = Duration::from_secs(1);
/// Lanes of a cursor at most beyond the cores times the classes of what is there: those of files that went since.
const LANES_SPARE: usize = 1_024;
/// Pages behind a block that may all be proofs of it: behind more of them one proves it.
const PROOF_PAGES: u64 = 4;

/// Where a feed begins.
#[derive(Clone, Debug)]
pub enum Origin {
    /// With what is committed from now on.
    Now,
    /// With the oldest message that is kept.
    Oldest,
    /// Behind what was read.
    Cursor(Cursor),
}

/// Why a feed cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    /// The kernel.
    #[error("the log's folder cannot be read: {0}")]
    Disk(#[from] io::Error),
    /// The cursor is of another log, or of what was written to this one behind a copy that was put back.
    #[error(
        "the cursor is of another log: begin anew with cursor=start, or without one, and take each message once by room, epoch and sequence"
    )]
    OtherLog,
    /// The cursor was made up.
    #[error("the cursor names {lanes} lanes, and this log may have had {max} at most: no server told it")]
    Lanes {
        /// Lanes that it names.
        lanes: usize,
        /// Lanes that it may name.
        max: usize,
    },
}

/// What a step came to.
#[derive(Debug, Default)]
pub struct Stepped {
    /// Lines.
    pub lines: Vec<u8>,
    /// Messages in them.
    pub messages: u64,
    /// There is nothing more by now.
    pub is_idle: bool,
    /// What could not be read: nothing of it was skipped, and the others went on.
    pub failure: Option<io::Error>,
    /// When the next step is due though nothing was committed; none: this one was not idle.
    pub again_at: Option<Instant>,
}

/// A feed.
#[derive(Debug)]
pub struct FeedReader {
    log: Arc<FeedLog>,
    chart: Arc<Chart>,
    position: Position,
    drops: u64,
    /// Drops that were told, or were before it began.
    told: Dropped,
    /// The folder is to be looked at now.
    looks: bool,
    /// When it is to be looked at next.
    look_at: Instant,
    /// The lane that was read last: its neighbours are next.
    last: Option<Lane>,
    /// Lanes that could not be read, and when they are tried again.
    failed: BTreeMap<Lane, Instant>,
    /// Places that the cursor named: nobody knows whether a block starts there.
    given: BTreeMap<Lane, Place>,
}

/// Up to where a segment may be read.
#[derive(Clone, Copy, Debug)]
struct End {
    offset: u64,
    /// Nothing is written to it any more.
    is_final: bool,
    /// All of it was acknowledged; otherwise the last block may have been refused.
    is_sure: bool,
}

/// What a piece is read for.
struct Reading<'a> {
    lane: Lane,
    header: SegmentHeader,
    end: End,
    covers: &'a dyn Fn(&str) -> bool,
}

impl FeedReader {
    /// Begins.
    ///
    /// # Errors
    /// The folder cannot be read, or the cursor is of another log, or was made up.
    pub fn open(log: Arc<FeedLog>, origin: Origin, frontier: &Frontier, now: Instant) -> Result<Self, OpenFault> {
        let drops = log.drops();
        let chart = log.look()?;
        let told = locked(&log.keeper.dropped).clone();
        let mut reader = FeedReader {
            log,
            chart,
            position: Position::default(),
            drops,
            told,
            looks: false,
            look_at: now,
            last: None,
            failed: BTreeMap::new(),
            given: BTreeMap::new(),
        };
        reader.look_at = now + reader.look_pause();
        match origin {
            Origin::Oldest => {
                let run = reader.chart.next_run(0).unwrap_or(reader.log.run);
                reader.position = Position { run, lanes: reader.chart.begins_of(run) };
            }
            Origin::Now => reader.position = reader.newest(frontier),
            Origin::Cursor(Cursor { log, drops, position }) => {
                if log != reader.log.id || position.run > reader.log.run {
                    return Err(OpenFault::OtherLog);
                }
                let (lanes, max) = (position.lanes.len(), LANES_SPARE.saturating_add(reader.chart.lanes_max()));
                if lanes > max {
                    return Err(OpenFault::Lanes { lanes, max });
                }
                reader.given = position.lanes.clone();
                (reader.position, reader.drops, reader.told) = (position, drops, Dropped::new());
                reader.looks = true;
            }
        }
        Ok(reader)
    }

    /// The place behind all that is committed.
    fn newest(&self, frontier: &Frontier) -> Position {
        let run = self.log.run;
        let place_in = |lane: Lane| {
            let named = frontier.get(usize::from(lane.core)).map_or(&[][..], |places| &places.ends);
            let is_there = |end: &&SegmentEnd| self.chart.find(run, lane, end.segment).is_some();
            if let Some(end) = named.iter().rev().find(is_there) {
                return Some(Place { offset: end.end_offset, ..Place::first_of(end.segment) });
            }
            let mut unsealed = self.chart.of_lane(run, lane);
            let is_sealed = |&id: &u64| self.indexed_end(&self.chart.find(run, lane, id)?.header);
            let open = unsealed.find(|id| is_sealed(id).is_none());
            let last = || self.chart.of_lane(run, lane).next_back();
            open.map(Place::first_of).or_else(|| {
                let last = last()?;
                Some(Place { offset: is_sealed(&last)?, ..Place::first_of(last) }.done())
            })
        };
        let lanes = self.chart.lanes_of(run);
        let lanes = lanes.keys().filter_map(|&lane| Some((lane, place_in(lane)?)));
        Position { run, lanes: lanes.collect::<BTreeMap<_, _>>() }
    }

    /// How far it has read.
    pub fn cursor(&self) -> String {
        Cursor { log: self.log.id, drops: self.drops, position: self.position.clone() }.encode()
    }

    /// Goes on: reads a piece of some lane, as far as `frontier` says, and tells of it what `covers` says by the room's name.
    ///
    /// # Errors
    /// The folder cannot be read: then nothing was skipped, and it may be tried again.
    pub fn step(&mut self, frontier: &Frontier, covers: &dyn Fn(&str) -> bool, now: Instant) -> io::Result<Stepped> {
        let mut stepped = Stepped::default();
        if self.looks || now >= self.look_at || self.lacks(frontier) {
            self.look(now, &mut stepped)?;
        }
        self.failed.retain(|_, again_at| *again_at > now);
        let lanes: Vec<Lane> = self.position.lanes.keys().copied().collect();
        let next = lanes.iter().position(|lane| self.last.is_none_or(|last| *lane > last)).unwrap_or(0);
        for &lane in lanes.iter().cycle().skip(next).take(lanes.len()) {
            if self.failed.contains_key(&lane) {
                continue;
            }
            self.last = Some(lane);
            match self.advance(lane, frontier, covers, &mut stepped) {
                Ok(true) => return Ok(stepped),
                Ok(false) => {}
                Err(error) => {
                    self.failed.insert(lane, now + READ_RETRY);
                    stepped.failure = Some(error);
                }
            }
        }
        if !stepped.lines.is_empty() {
            return Ok(stepped);
        }
        if self.position.run < self.log.run && self.failed.is_empty() {
            // What was dropped of this run is told with its places.
            self.look(now, &mut stepped)?;
            let run = self.chart.next_run(self.position.run).unwrap_or(self.log.run);
            self.position = Position { run, lanes: self.chart.begins_of(run) };
            return Ok(stepped);
        }
        stepped.is_idle = true;
        stepped.again_at = self.failed.values().copied().chain([self.look_at]).min();
        Ok(stepped)
    }

    /// Until the next look.
    fn look_pause(&self) -> Duration {
        if self.chart.unread.is_empty() { LOOK_INTERVAL } else { READ_RETRY }
    }

    /// Whether a core names a segment that came behind the last look.
    fn lacks(&self, frontier: &Frontier) -> bool {
        let newest = |id: Option<&u64>| id.copied().unwrap_or(0);
        let newest = newest(self.chart.segments.keys().next_back()).max(newest(self.chart.unread.last()));
        frontier.iter().filter_map(|places| places.ends.last()).any(|end| end.segment > newest)
    }

    /// Looks what lies in the folder, and tells what went unread.
    fn look(&mut self, now: Instant, stepped: &mut Stepped) -> io::Result<()> {
        // Whatever is dropped from here on is another one than this.
        let drops = self.log.drops();
        self.chart = self.log.look()?;
        let here = locked(&self.log.keeper.dropped).clone();
        let any_before = self.drops < self.log.drops_at_start;
        let lost = self.position.settle(&self.chart, Drops { here: &here, any_before }, &mut self.told);
        self.position.leave_out_strangers(&self.chart, &here);
        (self.drops, self.looks, self.look_at) = (drops, false, now + self.look_pause());
        for core in lost {
            let line = format!("\"reason\":\"dropped\",\"core\":{core}");
            self.tell(&mut stepped.lines, "gap", &line);
        }
        Ok(())
    }

    fn tell(&self, lines: &mut Vec<u8>, kind: &str, more: &str) {
        let line = format!("{{\"type\":\"{kind}\",\"cursor\":\"{}\",{more}}}\n", self.cursor());
        lines.extend_from_slice(line.as_bytes());
    }

    /// Goes on in a lane; `false`: there is nothing more by now.
    fn advance(
        &mut self,
        lane: Lane,
        frontier: &Frontier,
        covers: &dyn Fn(&str) -> bool,
        stepped: &mut Stepped,
    ) -> io::Result<bool> {
        let Some(&place) = self.position.lanes.get(&lane) else { return Ok(false) };
        if !place.is_over()
            && let Some(charted) = self.chart.find(self.position.run, lane, place.segment)
        {
            let (header, known) = (charted.header, charted.end_offset);
            let end = self.end_of(&header, known, frontier);
            if place.offset < end.offset {
                self.read(&Reading { lane, header, end, covers }, stepped)?;
                return Ok(true);
            }
            if !end.is_final {
                return Ok(false);
            }
            self.position.lanes.insert(lane, place.done());
        }
        let Some(next) = self.chart.next_in(self.position.run, lane, place.segment) else { return Ok(false) };
        self.position.lanes.insert(lane, Place::first_of(next));
        Ok(true)
    }

    fn end_of(&self, header: &SegmentHeader, known: Option<u64>, frontier: &Frontier) -> End {
        if header.run != self.log.run {
            return End { offset: known.unwrap_or(0), is_final: true, is_sure: false };
        }
        let ends = frontier.get(usize::from(header.core)).map_or(&[][..], |places| &places.ends);
        if let Ok(at) = ends.binary_search_by_key(&header.id, |end| end.segment)
            && let Some(end) = ends.get(at)
        {
            return End { offset: end.end_offset, is_final: end.is_sealed, is_sure: true };
        }
        match self.indexed_end(header) {
            Some(offset) => End { offset, is_final: true, is_sure: false },
            // It was made ahead, or its index is being made again.
            None => End { offset: 0, is_final: false, is_sure: true },
        }
    }

    fn indexed_end(&self, header: &SegmentHeader) -> Option<u64> {
        IndexFile::open(&self.log.folder, header.id).map(|index| index.header.end_offset)
    }

    /// Reads a piece of a segment.
    fn read(&mut self, reading: &Reading<'_>, stepped: &mut Stepped) -> io::Result<()> {
        let Reading { lane, ref header, end, .. } = *reading;
        let Some(&first) = self.position.lanes.get(&lane) else { return Ok(()) };
        let file = match File::open(segment_path(&self.log.folder, header.id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.looks = true;
                return Ok(());
            }
            file => file?,
        };
        // What lies behind the end may be written right now, and is not to get into the page cache.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
        let bytes = read_piece(&file, header, first.offset, end.offset)?;
        let hidden = self.log.hidden()?;
        let (mut at, mut offset) = (0_usize, first.offset);
        while offset < end.offset && stepped.lines.len() < LINES_BYTES {
            let rest = bytes.get(at..).unwrap_or_default();
            let block = match Block::read_alone(rest, header, offset) {
                Ok(block) if block.behind.offset <= end.offset => block,
                // The next step begins with it.
                Err(BlockFault::Longer(longer)) if at > 0 && offset.saturating_add(longer as u64) <= end.offset => {
                    break;
                }
                Err(_) if at > 0 && rest.is_empty() => break,
                _ => return self.damaged(&file, reading, offset, stepped),
            };
            let behind = block.behind.offset;
            let may_be_refused = block.records > 0 && !end.is_sure && !is_proved(&file, header, &block, end.offset)?;
            if !self.tell_block(&block, offset, reading, &hidden, may_be_refused, stepped) {
                break;
            }
            at += (behind - offset) as usize;
            offset = behind;
            self.position.lanes.insert(lane, Place { segment: header.id, offset, record: 0 });
        }
        Ok(())
    }

    /// `false`: the next step goes on in it. A step tells as many bytes of a block as it has, so that reading it again for the rest
    /// costs no more than telling it, however long the cursor is that stands in each line.
    fn tell_block(
        &mut self,
        block: &Block<'_>,
        offset: u64,
        reading: &Reading<'_>,
        hidden: &Hidden,
        may_be_refused: bool,
        stepped: &mut Stepped,
    ) -> bool {
        let lines_bytes_max = LINES_BYTES.max((block.behind.offset - offset) as usize);
        let (segment, core) = (reading.header.id, reading.header.core);
        let read = self.position.lanes.get(&reading.lane).filter(|place| place.offset == offset);
        let read = read.map_or(0, |place| place.record as usize);
        let index = may_be_refused.then(|| IndexFile::open(&self.log.folder, segment)).flatten();
        for (at, record) in block.records().enumerate().skip(read) {
            let kept = match &record {
                Ok(record) if record.kind == RecordKind::State => continue,
                Ok(record) => read_kept(record.frame).ok(),
                Err(_) => None,
            };
            if stepped.lines.len() >= lines_bytes_max {
                return false;
            }
            let place = Place { segment, offset, record: at as u32 + 1 };
            self.position.lanes.insert(reading.lane, place);
            match kept {
                None => self.tell_damaged(core, segment, offset, &mut stepped.lines),
                Some(kept) if !(reading.covers)(kept.room()) => {}
                Some(kept) if index.as_ref().is_some_and(|index| was_refused(index, &kept)) => {}
                Some(kept) => {
                    let kept = hidden.shown(kept);
                    stepped.messages += u64::from(matches!(kept, Kept::Message(..)));
                    self.tell_kept(&kept, &mut stepped.lines);
                }
            }
        }
        true
    }

    /// The JSON of pages, with the cursor behind it.
    fn tell_kept(&self, kept: &Kept<'_>, lines: &mut Vec<u8>) {
        let mut json = Vec::new();
        write_kept(kept, &mut json);
        // Line feeds in a body stand between its values: in texts JSON has none.
        json.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        // Behind the type, which comes first.
        let at = json.iter().position(|&byte| byte == b',').unwrap_or(json.len());
        let (kind, rest) = json.split_at(at);
        lines.extend_from_slice(kind);
        lines.extend_from_slice(b",\"cursor\":\"");
        lines.extend_from_slice(self.cursor().as_bytes());
        lines.push(b'"');
        lines.extend_from_slice(rest);
        lines.push(b'\n');
    }

    fn tell_damaged(&self, core: u16, segment: u64, offset: u64, lines: &mut Vec<u8>) {
        let more = format!("\"reason\":\"damaged\",\"core\":{core},\"segment\":{segment},\"offset\":{offset}");
        self.tell(lines, "gap", &more);
    }

    /// What lies there does not check: it is read once more, past the page cache, and then it is passed.
    fn damaged(&mut self, file: &File, reading: &Reading<'_>, offset: u64, stepped: &mut Stepped) -> io::Result<()> {
        let (lane, header, end) = (reading.lane, &reading.header, reading.end.offset);
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
        let again = read_piece(file, header, offset, end)?;
        if Block::read_alone(&again, header, offset).is_ok_and(|block| block.behind.offset <= end) {
            return Ok(());
        }
        let behind = next_block(file, header, offset + PAGE_BYTES as u64, end)?;
        self.position.lanes.insert(lane, Place { segment: header.id, offset: behind, record: 0 });
        // Whoever makes up a cursor may have it name the midst of a block.
        let is_given = self.given.get(&lane).is_some_and(|given| (given.segment, given.offset) == (header.id, offset));
        if (!is_given || offset == PAGE_BYTES as u64) && self.log.is_new_damage(header.id, offset) {
            tracing::error!(
                segment = header.id,
                offset,
                "a segment of the log is damaged: feeds are told of a gap; see to the disk (`dmesg`), and restore the file from a copy"
            );
        }
        self.tell_damaged(header.core, header.id, offset, &mut stepped.lines);
        Ok(())
    }
}

/// A piece, or the whole block with which it begins.
fn read_piece(file: &File, header: &SegmentHeader, offset: u64, end: u64) -> io::Result<Vec<u8>> {
    let bytes = read_at(file, offset, PIECE_BYTES.min(end.saturating_sub(offset)))?;
    match Block::read_alone(&bytes, header, offset) {
        Err(BlockFault::Longer(longer)) if offset.saturating_add(longer as u64) <= end => {
            read_at(file, offset, longer as u64)
        }
        _ => Ok(bytes),
    }
}

/// As many bytes as are there.
fn read_at(file: &File, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(0)];
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(read);
    Ok(buffer)
}

/// Where the next block starts that checks, behind one that does not; the end if there is none.
fn next_block(file: &File, header: &SegmentHeader, from: u64, end: u64) -> io::Result<u64> {
    let mut offset = from;
    while offset < end {
        let bytes = read_at(file, offset, PIECE_BYTES.min(end - offset))?;
        for (page, rest) in (0..bytes.len()).step_by(PAGE_BYTES).map(|at| (offset + at as u64, &bytes[at..])) {
            if matches!(Block::read_alone(rest, header, page), Ok(_) | Err(BlockFault::Longer(_))) {
                return Ok(page);
            }
        }
        offset += PIECE_BYTES;
    }
    Ok(end)
}

/// Whether what follows a block says that it came to a good end: another with records, or one that says that it was on the disk.
fn is_proved(file: &File, header: &SegmentHeader, block: &Block<'_>, end: u64) -> io::Result<bool> {
    let (mut offset, behind) = (block.behind.offset, block.behind.number);
    if end.saturating_sub(offset) > PROOF_PAGES * PAGE_BYTES as u64 {
        return Ok(true);
    }
    let bytes = read_at(file, offset, end.saturating_sub(offset))?;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        match Block::read_alone(rest, header, offset) {
            Ok(later) if later.records > 0 || later.synced >= behind => return Ok(true),
            Ok(later) => {
                rest = rest.get((later.behind.offset - offset) as usize..).unwrap_or_default();
                offset = later.behind.offset;
            }
            Err(BlockFault::Longer(_)) => return Ok(true),
            Err(BlockFault::Damaged) => return Ok(false),
        }
    }
    Ok(false)
}

/// Whether the index knows nothing of it: its commit was refused, or its place was given again.
fn was_refused(index: &IndexFile, kept: &Kept<'_>) -> bool {
    match index.look_for(RoomId::of(kept.room())) {
        Look::Holds(part) => (kept.epoch(), kept.sequence()) > (part.epoch, part.last),
        Look::HoldsNone => true,
        Look::Unknown => false,
    }
}
