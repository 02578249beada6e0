//! One core's hands on the log: does what its journal asks, by direct I/O, and brings the answers back.
//!
//! An append goes to the sockets' ring, which wakes the core anyway: nobody waits for it through another one. A read is
//! a task of the core's executor, on glommio's ring; its answer rings the core's bell, since the core may sleep. What no
//! core needs to wait for goes to the keeper.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use banter_chat::address::Core;
use banter_log::journal::{Answer, Ask, Reach};
use banter_log::reading::LogFile;
use flume::Sender;
use glommio::io::{DmaFile, OpenOptions};

use super::files::SegmentFile;
use super::keeper::ToKeeper;
use super::{index_path, segment_path};
use crate::mesh::Bell;
use crate::net::Net;
use crate::net::append::{Append, Appended};

/// Files of sealed segments that one core has open.
const FILES_OPEN_MAX: usize = 64;

type FileKey = (u64, LogFile);

/// The hands of one core.
pub struct Disk {
    core: Core,
    keeper: Sender<ToKeeper>,
    /// Segments that are written, or will be next.
    open: BTreeMap<u64, Rc<SegmentFile>>,
    /// The segment of the append in flight, and the block's place in it.
    appending: (u64, u64),
    shared: Rc<Shared>,
}

/// What the reads share.
struct Shared {
    folder: PathBuf,
    bell: Arc<Bell>,
    answers: RefCell<Vec<Answer>>,
    /// Reads under way.
    under_way: Cell<usize>,
    /// Files that glommio has yet to close.
    has_closed: Cell<bool>,
    read: RefCell<VecDeque<(FileKey, Rc<DmaFile>)>>,
}

impl Disk {
    /// For a core.
    pub fn new(core: Core, folder: PathBuf, bell: Arc<Bell>, keeper: Sender<ToKeeper>) -> Self {
        let shared = Rc::new(Shared {
            folder,
            bell,
            answers: RefCell::default(),
            under_way: Cell::new(0),
            has_closed: Cell::new(false),
            read: RefCell::default(),
        });
        Disk { core, keeper, open: BTreeMap::new(), appending: (0, 0), shared }
    }

    /// Whether a read is under way, or files are to be closed: then the executor is to be let in between two turns.
    pub fn needs_executor(&self) -> bool {
        self.shared.under_way.get() > 0 || self.shared.has_closed.take()
    }

    /// Whether there are answers.
    pub fn has_answers(&self) -> bool {
        !self.shared.answers.borrow().is_empty()
    }

    /// Takes the answers that came.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut *self.shared.answers.borrow_mut())
    }

    /// A segment is ready for appends.
    pub fn ready(&mut self, segment: u64, file: SegmentFile) {
        self.open.insert(segment, Rc::new(file));
    }

    /// Does what is asked.
    pub fn take(&mut self, ask: Ask, net: &mut Net) {
        match ask {
            Ask::Prepare => self.tell(ToKeeper::Prepare(self.core)),
            Ask::Seal { segment, index, newest_ms, end_offset } => {
                self.open.remove(&segment.id);
                self.tell(ToKeeper::Seal { core: self.core, segment, index, newest_ms, end_offset });
            }
            Ask::Release { segment } => {
                self.shared.forget(segment);
                self.tell(ToKeeper::Release { core: self.core, segment });
            }
            Ask::LetGo { index, parts } => self.tell(ToKeeper::LetGo { index, parts }),
            Ask::Append { segment, offset, block, wanted, is_behind_synced } => {
                self.append((segment.id, offset), &block, (wanted, is_behind_synced), net);
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

    fn append(
        &mut self,
        (segment, offset): (u64, u64),
        block: &[u8],
        (wanted, is_behind_synced): (Reach, bool),
        net: &mut Net,
    ) {
        self.appending = (segment, offset);
        match self.open.get(&segment) {
            Some(file) => net.append(Append::new(file.clone(), block, offset, wanted, is_behind_synced)),
            None => {
                let failed = self.appended(Appended::Failed(io::Error::other("the segment is not open")));
                self.shared.answer(failed);
            }
        }
    }

    /// What the journal is told of the append in flight.
    pub fn appended(&self, appended: Appended) -> Answer {
        let error = match appended {
            Appended::Written => return Answer::Written,
            Appended::Synced => return Answer::Synced,
            Appended::Failed(error) => error,
        };
        let (segment, offset) = self.appending;
        let path = segment_path(&self.shared.folder, segment);
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
        Answer::AppendFailed { is_full }
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
        // What it read may have been forgotten meanwhile.
        self.has_closed.set(true);
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

    async fn read(&self, segment: u64, file: LogFile, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
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
        let opened = OpenOptions::new().read(true).dma_open(self.path(key)).await;
        let file = Rc::new(opened.map_err(io::Error::from)?);
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
        self.has_closed.set(true);
    }
}
