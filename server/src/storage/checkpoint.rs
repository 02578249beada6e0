//! The checkpoint's file: read at a start in place of the tables that it covers, and made anew from the one before and the
//! tables that came since, room by room, so that neither is ever in memory whole.
//!
//! ```text
//!  checkpoint ────┐
//!  table of 101 ──┤  by room, and of a room by segment
//!  table of 102 ──┼──────────────────────────────────▶  checkpoint.new ─▶ checkpoint
//!  …              ┘
//! ```
//!
//! Invariants:
//! - It is used only where every segment that it covers is as it was, or went as retention takes them: the oldest of a class
//!   first. Otherwise a start reads every table, and sees what is missing.
//! - A part that it lacks is of a segment that no covered one is behind, for the rooms in it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use banter_log::catalog::{Catalog, Past};
use banter_log::checkpoint::{Covered, FILE_NAME, HEAD_BYTES, Head, KeptRoom, PIECE_HEAD_BYTES, PIECE_ROOMS, Pieces};
use banter_log::index::{HEADER_BYTES, IndexHeader, PART_BYTES, Part, read_table};
use banter_log::segment::SegmentHeader;
use banter_protocol::ids::RoomId;

use super::files::{draft_of, put_in_place};
use super::index_path;

/// Lines of a table that are read at a time: a page.
const LINES_AHEAD: u32 = 32;
/// Bytes of a checkpoint that are read or written at a time.
const BUFFER_BYTES: usize = 256 * 1_024;

/// A checkpoint that was found whole.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    head: Head,
}

impl Checkpoint {
    /// The one of that folder; `None` if there is none, or it is damaged or cannot be read.
    pub fn open(folder: &Path) -> Option<Self> {
        let path = folder.join(FILE_NAME);
        let file = File::open(&path).ok()?;
        let found = RoomsOf::read(file).and_then(|(head, rooms)| {
            let mut count = 0;
            rooms.read_all(|_| count += 1).map(|()| (head, count))
        });
        match found {
            Ok((head, count)) if count == head.rooms => Some(Checkpoint { path, head }),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "{} cannot be used: every table of the log is read", path.display());
                None
            }
        }
    }

    /// The one of that folder, with its rooms, which are still to be read.
    fn begun(folder: &Path) -> Option<(Self, RoomsOf)> {
        let path = folder.join(FILE_NAME);
        let (head, rooms) = RoomsOf::read(File::open(&path).ok()?).ok()?;
        Some((Checkpoint { path, head }, rooms))
    }

    /// What it is of.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Whether a segment's parts are in it.
    pub fn covers(&self, segment: u64) -> bool {
        self.head.covered.binary_search_by_key(&segment, |covered| covered.id).is_ok()
    }

    /// Whether what is not there any more of what it covers went as retention takes it, by those that are.
    pub fn is_of(&self, is_there: impl Fn(u64) -> bool) -> bool {
        let mut oldest = BTreeMap::new();
        self.head.covered.iter().all(|covered| {
            let is_there = is_there(covered.id);
            let has_older = oldest.contains_key(&covered.class_tag);
            if is_there {
                oldest.entry(covered.class_tag).or_insert(covered.id);
            }
            is_there || !has_older
        })
    }

    /// Takes its rooms, by id.
    ///
    /// # Errors
    /// What the kernel says, or that it is another one by now.
    pub fn rooms(&self, each: impl FnMut(&KeptRoom)) -> io::Result<()> {
        let (head, rooms) = RoomsOf::read(File::open(&self.path)?)?;
        if head != self.head { Err(is_damaged()) } else { rooms.read_all(each) }
    }

    /// Removes the one of a folder: it says what is not so.
    pub fn remove(folder: &Path) {
        let _ = fs::remove_file(folder.join(FILE_NAME));
    }
}

/// The head of the one of that folder, whatever the rest of it is like.
pub fn head_of(folder: &Path) -> Option<Head> {
    Checkpoint::begun(folder).map(|(found, _)| found.head)
}

fn is_damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it does not check")
}

/// Rooms of a file, piece by piece.
#[derive(Debug)]
struct RoomsOf {
    file: BufReader<File>,
    pieces: Pieces,
    ahead: VecDeque<KeptRoom>,
}

impl RoomsOf {
    fn read(file: File) -> io::Result<(Head, Self)> {
        let file_bytes = file.metadata()?.len();
        let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
        let mut start = vec![0; HEAD_BYTES];
        file.read_exact(&mut start)?;
        let bytes = Head::bytes_behind(&start).filter(|&bytes| bytes <= file_bytes).ok_or_else(is_damaged)?;
        start.resize(bytes as usize, 0);
        file.read_exact(&mut start[HEAD_BYTES..])?;
        let head = Head::read(&start).ok_or_else(is_damaged)?;
        let pieces = Pieces::of(&head);
        Ok((head, RoomsOf { file, pieces, ahead: VecDeque::new() }))
    }

    /// The next room, which stays.
    fn peek(&mut self) -> io::Result<Option<&KeptRoom>> {
        if self.ahead.is_empty() {
            let mut piece = vec![0; PIECE_HEAD_BYTES];
            if self.file.by_ref().take(1).read(&mut piece[..1])? == 0 {
                return Ok(None);
            }
            self.file.read_exact(&mut piece[1..])?;
            piece.resize(Pieces::bytes_behind(&piece).ok_or_else(is_damaged)?, 0);
            self.file.read_exact(&mut piece[PIECE_HEAD_BYTES..])?;
            self.ahead = self.pieces.read(&piece).ok_or_else(is_damaged)?.into();
        }
        Ok(self.ahead.front())
    }

    fn read_all(mut self, mut each: impl FnMut(&KeptRoom)) -> io::Result<()> {
        while let Some(room) = self.peek()? {
            each(room);
            self.ahead.pop_front();
        }
        Ok(())
    }
}

/// A segment's table, some lines at a time.
#[derive(Debug)]
struct Table {
    header: SegmentHeader,
    parts: u32,
    next: u32,
    ahead: VecDeque<Part>,
}

impl Table {
    fn open(folder: &Path, header: SegmentHeader) -> io::Result<(IndexHeader, Self)> {
        let file = File::open(index_path(folder, header.id))?;
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, 0)?;
        let index = IndexHeader::read(&bytes, &header).filter(|index| index.is_chained).ok_or_else(is_damaged)?;
        Ok((index, Table { header, parts: index.parts, next: 0, ahead: VecDeque::new() }))
    }

    fn peek(&mut self, folder: &Path) -> io::Result<Option<&Part>> {
        let lines = (self.parts - self.next).min(LINES_AHEAD);
        if self.ahead.is_empty() && lines > 0 {
            let file = File::open(index_path(folder, self.header.id))?;
            let mut table = vec![0; lines as usize * PART_BYTES];
            file.read_exact_at(&mut table, HEADER_BYTES as u64 + u64::from(self.next) * PART_BYTES as u64)?;
            let parts = read_table(&table, self.header.nonce).collect::<Option<VecDeque<_>>>();
            self.ahead = parts.ok_or_else(is_damaged)?;
            self.next += lines;
        }
        Ok(self.ahead.front())
    }
}

/// A checkpoint in the making.
#[derive(Debug)]
pub struct Making {
    folder: PathBuf,
    past: Past<'static>,
    before: Option<RoomsOf>,
    /// By the ids of their segments.
    tables: Vec<Table>,
    /// The next room of each table.
    next: BinaryHeap<Reverse<(RoomId, usize)>>,
    /// One room at a time, by the same rules by which a start takes it.
    catalog: Catalog,
    head: Head,
    pieces: Pieces,
    piece: Vec<KeptRoom>,
    out: BufWriter<File>,
}

/// What became of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Made {
    /// There is more to do.
    More,
    /// It is in its place.
    Whole(Head),
}

impl Making {
    /// Begins one of these segments, by their ids: sealed, and with their indexes on the disk.
    ///
    /// # Errors
    /// What the kernel says, or that a table is not what it should be.
    pub fn begin(folder: &Path, segments: &[SegmentHeader], past: Past<'static>) -> io::Result<Self> {
        let is_there = |id| segments.binary_search_by_key(&id, |segment| segment.id).is_ok();
        let before = Checkpoint::begun(folder).filter(|(before, _)| before.is_of(is_there));
        let (before, rooms_before) = before.unzip();
        let (mut catalog, mut head, mut tables) = (Catalog::default(), Head::default(), Vec::new());
        for &segment in segments {
            let (index, table) = Table::open(folder, segment)?;
            catalog.add_segment(segment, index.parts, index.newest_ms);
            if index.parts == 0 {
                // It goes when nobody has it, whatever is older than it.
                continue;
            }
            let SegmentHeader { id, nonce, class, .. } = segment;
            head.covered.push(Covered { id, nonce, end_offset: index.end_offset, class_tag: class.tag() });
            if !before.as_ref().is_some_and(|before| before.covers(id)) {
                tables.push(table);
            }
        }
        let mut next = BinaryHeap::new();
        for (number, table) in tables.iter_mut().enumerate() {
            next.extend(table.peek(folder)?.map(|part| Reverse((part.room, number))));
        }
        let draft = draft_of(&folder.join(FILE_NAME));
        let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
        let mut making = Making {
            folder: folder.to_owned(),
            past,
            before: rooms_before,
            tables,
            next,
            catalog,
            pieces: Pieces::of(&head),
            head,
            piece: Vec::new(),
            out: BufWriter::with_capacity(BUFFER_BYTES, out),
        };
        // In its place last of all, with what is known only then.
        making.out.write_all(&vec![0; making.head.write().len()])?;
        Ok(making)
    }

    /// Whether a segment is among those that it is made of.
    pub fn is_of(&self, segment: u64) -> bool {
        self.head.covered.binary_search_by_key(&segment, |covered| covered.id).is_ok()
    }

    /// Takes so many rooms.
    ///
    /// # Errors
    /// What the kernel says, or that a table is not what it should be.
    pub fn step(&mut self, rooms_max: usize) -> io::Result<Made> {
        let past = std::mem::take(&mut self.past);
        let mut has_more = Ok(true);
        for _ in 0..rooms_max {
            has_more = self.take_room(&past);
            if !matches!(has_more, Ok(true)) {
                break;
            }
        }
        self.past = past;
        if has_more? { Ok(Made::More) } else { self.finish().map(Made::Whole) }
    }

    fn take_room(&mut self, past: &Past<'_>) -> io::Result<bool> {
        let known = self.before.as_mut().map(RoomsOf::peek).transpose()?.flatten().copied();
        let next = self.next.peek().map(|Reverse((room, _))| *room);
        let Some(room) = known.map(|kept| kept.room).into_iter().chain(next).min() else { return Ok(false) };
        if let Some(before) = &mut self.before {
            while let Some(&kept) = before.peek()?.filter(|kept| kept.room == room) {
                self.catalog.add_kept(&kept, past);
                before.ahead.pop_front();
            }
        }
        while let Some(&Reverse((_, number))) = self.next.peek().filter(|Reverse((next, _))| *next == room) {
            self.next.pop();
            let Some(table) = self.tables.get_mut(number) else { return Err(is_damaged()) };
            let Some(part) = table.ahead.pop_front() else { return Err(is_damaged()) };
            // A start would have said it.
            if self.catalog.add_part(&table.header, &part, past).is_some() {
                return Err(io::Error::other("messages are missing between two segments"));
            }
            let behind = table.peek(&self.folder)?.map(|part| part.room);
            match behind {
                Some(behind) if behind <= room => return Err(is_damaged()),
                behind => self.next.extend(behind.map(|behind| Reverse((behind, number)))),
            }
        }
        for kept in self.catalog.take_kept() {
            self.head.rooms += 1;
            self.head.largest_epoch = self.head.largest_epoch.max(kept.epoch.0);
            self.piece.push(kept);
            if self.piece.len() == PIECE_ROOMS {
                self.write_piece()?;
            }
        }
        Ok(true)
    }

    fn write_piece(&mut self) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(BUFFER_BYTES);
        self.pieces.write(&self.piece, &mut bytes);
        self.piece.clear();
        self.out.write_all(&bytes)
    }

    fn finish(&mut self) -> io::Result<Head> {
        if !self.piece.is_empty() {
            self.write_piece()?;
        }
        self.out.flush()?;
        let file = self.out.get_ref();
        file.write_all_at(&self.head.write(), 0)?;
        file.sync_all()?;
        let path = self.folder.join(FILE_NAME);
        put_in_place(&self.folder, &draft_of(&path), &path)?;
        Ok(self.head.clone())
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // It is there only where it was not finished.
        let _ = fs::remove_file(draft_of(&self.folder.join(FILE_NAME)));
    }
}
