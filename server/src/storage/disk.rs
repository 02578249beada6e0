//! One core's hands on the log: does what its journal asks, by direct I/O on glommio's ring, and brings the answers back.
//!
//! Every ask is a task of the core's executor; an answer rings the core's bell, since the core may sleep. What no core
//! needs to wait for goes to the keeper.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use banter_chat::address::Core;
use banter_log::journal::{Answer, Ask, Reach};
use banter_log::reading::LogFile;
use flume::Sender;
use glommio::io::{DmaFile, OpenOptions};

use super::keeper::ToKeeper;
use super::{index_path, segment_path};
use crate::mesh::Bell;

/// Files of sealed segments that one core has open.
const FILES_OPEN_MAX: usize = 64;

type FileKey = (u64, LogFile);

/// The hands of one core.
pub struct Disk {
    core: Core,
    keeper: Sender<ToKeeper>,
    shared: Rc<Shared>,
}

/// What the tasks share.
struct Shared {
    folder: PathBuf,
    bell: Arc<Bell>,
    answers: RefCell<Vec<Answer>>,
    /// Asks under way.
    under_way: Cell<usize>,
    /// The segment that is being written.
    written: RefCell<Option<(u64, Rc<DmaFile>)>>,
    read: RefCell<VecDeque<(FileKey, Rc<DmaFile>)>>,
    /// Indexes that are not on the disk yet: read from here.
    unwritten: RefCell<BTreeMap<u64, Arc<[u8]>>>,
}

impl Disk {
    /// For a core.
    pub fn new(core: Core, folder: PathBuf, bell: Arc<Bell>, keeper: Sender<ToKeeper>) -> Self {
        let shared = Rc::new(Shared {
            folder,
            bell,
            answers: RefCell::default(),
            under_way: Cell::new(0),
            written: RefCell::default(),
            read: RefCell::default(),
            unwritten: RefCell::default(),
        });
        Disk { core, keeper, shared }
    }

    /// Whether something is under way: then the executor is to be let in between two turns.
    pub fn is_active(&self) -> bool {
        self.shared.under_way.get() > 0
    }

    /// Whether there are answers.
    pub fn has_answers(&self) -> bool {
        !self.shared.answers.borrow().is_empty()
    }

    /// Takes the answers that came.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut *self.shared.answers.borrow_mut())
    }

    /// An index is on the disk.
    pub fn indexed(&mut self, segment: u64) {
        self.shared.unwritten.borrow_mut().remove(&segment);
    }

    /// Does what is asked.
    pub fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Prepare => self.tell(ToKeeper::Prepare(self.core)),
            Ask::Seal { segment, index, newest_ms, end_offset } => {
                let index: Arc<[u8]> = index.into();
                self.shared.unwritten.borrow_mut().insert(segment.id, index.clone());
                self.tell(ToKeeper::Seal { core: self.core, segment, index, newest_ms, end_offset });
            }
            Ask::Release { segment } => {
                self.shared.forget(segment);
                self.tell(ToKeeper::Release { core: self.core, segment });
            }
            Ask::Append { segment, offset, block, wanted } => {
                let shared = self.begin();
                glommio::spawn_local(async move {
                    let appended = shared.append(segment.id, offset, &block, wanted).await;
                    if let Err(error) = appended {
                        shared.append_failed(segment.id, offset, &error);
                    }
                    shared.end();
                })
                .detach();
            }
            Ask::Read { ticket, segment, file, offset, bytes } => {
                let shared = self.begin();
                glommio::spawn_local(async move {
                    let read = shared.read(segment, file, offset, bytes).await;
                    if let Err(error) = &read {
                        let path = shared.path((segment, file));
                        tracing::error!(%error, "cannot read {} at offset {offset}: its readers are told of a gap", path.display());
                    }
                    shared.answer(Answer::Read { ticket, bytes: read.ok() });
                    shared.end();
                })
                .detach();
            }
        }
    }

    fn begin(&self) -> Rc<Shared> {
        self.shared.under_way.set(self.shared.under_way.get() + 1);
        self.shared.clone()
    }

    fn tell(&self, message: ToKeeper) {
        // The keeper outlives the cores.
        let _ = self.keeper.send(message);
    }
}

impl Shared {
    fn end(&self) {
        self.under_way.set(self.under_way.get() - 1);
    }

    fn answer(&self, answer: Answer) {
        self.answers.borrow_mut().push(answer);
        self.bell.ring();
    }

    fn path(&self, (segment, file): FileKey) -> PathBuf {
        match file {
            LogFile::Segment => segment_path(&self.folder, segment),
            LogFile::Index => index_path(&self.folder, segment),
        }
    }

    async fn append(&self, segment: u64, offset: u64, block: &[u8], wanted: Reach) -> io::Result<()> {
        let file = self.file_to_write(segment).await?;
        write_all(&file, block, offset).await?;
        if wanted.tells_written() {
            self.answer(Answer::Written);
        }
        if wanted.syncs() {
            // Whatever the kernel says: what is in the file is not known any more, and never synced again.
            file.fdatasync().await.map_err(|error| io::Error::other(format!("fdatasync: {error}")))?;
            self.answer(Answer::Synced);
        }
        Ok(())
    }

    async fn file_to_write(&self, segment: u64) -> io::Result<Rc<DmaFile>> {
        if let Some((id, file)) = &*self.written.borrow()
            && *id == segment
        {
            return Ok(file.clone());
        }
        let path = self.path((segment, LogFile::Segment));
        let file = Rc::new(open(&path, true).await?);
        *self.written.borrow_mut() = Some((segment, file.clone()));
        Ok(file)
    }

    fn append_failed(&self, segment: u64, offset: u64, error: &io::Error) {
        let path = self.path((segment, LogFile::Segment));
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if is_full {
            tracing::error!(%error, "{} could not be written at offset {offset}: posts are refused with log_full until there is space", path.display());
        } else {
            tracing::error!(
                %error,
                "{} could not be written or synced at offset {offset}: this core takes no more posts for logged rooms \
                 (log_failed), and reading goes on; see to the disk (`dmesg`), then start the server again",
                path.display()
            );
        }
        self.answer(Answer::AppendFailed { is_full });
    }

    async fn read(&self, segment: u64, file: LogFile, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        if file == LogFile::Index
            && let Some(index) = self.unwritten.borrow().get(&segment)
        {
            let start = (offset as usize).min(index.len());
            return Ok(index[start..(start + bytes).min(index.len())].to_vec());
        }
        let opened = self.file_to_read((segment, file)).await?;
        let read = opened.read_at(offset, bytes).await.map_err(io::Error::from)?;
        Ok(read.to_vec())
    }

    /// An open file, the most recently read last. Above the limit the one that was read the longest ago is closed.
    async fn file_to_read(&self, key: FileKey) -> io::Result<Rc<DmaFile>> {
        let found = self.read.borrow().iter().position(|(there, _)| *there == key);
        if let Some(entry) = found.and_then(|at| self.read.borrow_mut().remove(at)) {
            let file = entry.1.clone();
            self.read.borrow_mut().push_back(entry);
            return Ok(file);
        }
        let file = Rc::new(open(&self.path(key), false).await?);
        let mut read = self.read.borrow_mut();
        read.push_back((key, file.clone()));
        if read.len() > FILES_OPEN_MAX {
            read.pop_front();
        }
        Ok(file)
    }

    /// A file that stays open keeps its space on the disk.
    fn forget(&self, segment: u64) {
        self.read.borrow_mut().retain(|((there, _), _)| *there != segment);
        self.unwritten.borrow_mut().remove(&segment);
    }
}

async fn open(path: &Path, write: bool) -> io::Result<DmaFile> {
    OpenOptions::new().read(true).write(write).dma_open(path).await.map_err(io::Error::from)
}

/// Writes all of a block. A short write is no failure by itself: the rest is written, which then says what is wrong.
async fn write_all(file: &DmaFile, block: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < block.len() {
        let rest = &block[written..];
        let mut buffer = file.alloc_dma_buffer(rest.len());
        buffer.as_bytes_mut().copy_from_slice(rest);
        let bytes = file.write_at(buffer, offset + written as u64).await.map_err(io::Error::from)?;
        // Direct I/O goes on at a multiple of its alignment only: what lies beyond is written again, the same bytes.
        let whole = bytes - bytes % file.alignment() as usize;
        if whole == 0 {
            return Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!("a write of {} bytes took {bytes}", rest.len()),
            ));
        }
        written += whole;
    }
    Ok(())
}
