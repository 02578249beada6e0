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
use std::time::Duration;

use banter_chat::address::Core;
use banter_chat::erasing::Begun;
use banter_log::journal::{Answer, Ask, Reach};
use banter_log::reading::{FileRange, LogFile};
use flume::Sender;
use glommio::io::{DmaFile, OpenOptions};

use super::files::SegmentFile;
use super::keeper::ToKeeper;
use super::{index_path, segment_path};
use crate::core::mesh::Bell;
use crate::core::net::Net;
use crate::core::net::append::{Append, Appended};

/// How long to wait before a read that failed is tried again, each time.
const READ_PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(50)];
/// Files of sealed segments that one core has open beside those that are being read: they are among the descriptors that
/// are kept for a core (`host::DESCRIPTORS_PER_CORE`).
const FILES_OPEN_MAX: usize = 12;

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
    /// How often files were forgotten.
    forgotten: Cell<u64>,
    read: RefCell<VecDeque<(FileKey, Rc<DmaFile>)>>,
    /// Bytes that were read.
    read_bytes: Cell<u64>,
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
            forgotten: Cell::new(0),
            read: RefCell::default(),
            read_bytes: Cell::new(0),
        });
        Disk { core, keeper, open: BTreeMap::new(), appending: (0, 0), shared }
    }

    /// Whether a read is under way, or files are to be closed: then the executor is to be let in between two turns.
    pub fn needs_executor(&self) -> bool {
        self.shared.under_way.get() > 0 || self.shared.has_closed.take()
    }

    /// Bytes of segments and indexes that were read since the start.
    pub fn read_bytes(&self) -> u64 {
        self.shared.read_bytes.get()
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

    /// What lies in the place of a segment's files are others now.
    pub fn rewritten(&mut self, segment: u64) {
        self.shared.forget_files(|&(there, _)| there == segment);
    }

    /// The keeper is told what the core made of an erasure.
    pub fn begun(&self, begun: Begun) {
        self.tell(ToKeeper::Begun(begun));
    }

    /// Does what is asked.
    pub fn take(&mut self, ask: Ask, net: &mut Net) {
        match ask {
            Ask::Prepare { class, is_urgent } => {
                self.tell(ToKeeper::Prepare { core: self.core, class, is_urgent });
            }
            Ask::Seal { end, is_provable, index, newest_ms } => {
                self.open.remove(&end.segment.id);
                self.tell(ToKeeper::Seal { end, is_provable, index, newest_ms });
            }
            Ask::MendIndex { segment } => {
                self.shared.forget_files(|&key| key == (segment, LogFile::Index));
                self.tell(ToKeeper::MendIndex { core: self.core, segment });
            }
            Ask::Release { segment } => {
                // A file that stays open keeps its space on the disk.
                self.shared.forget_files(|&(there, _)| there == segment);
                self.tell(ToKeeper::Release { core: self.core, segment });
            }
            // The folder has one server.
            Ask::Prove => self.shared.answer(Answer::Proved),
            Ask::LetGo { index } => self.tell(ToKeeper::LetGo { index }),
            Ask::Append { segment, offset, block, wanted, is_behind_synced } => {
                self.append((segment.id, offset), &block, (wanted, is_behind_synced), net);
            }
            Ask::Read(range) => {
                let shared = self.begin();
                glommio::spawn_local(async move {
                    let bytes = shared.read_patiently(range).await;
                    shared.answer(Answer::Read { range, bytes });
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
            self.tell(ToKeeper::AppendFailed);
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

    /// Reads, and tries again a few times where that fails; `None`: it failed each time.
    async fn read_patiently(&self, range: FileRange) -> Option<Vec<u8>> {
        for pause in READ_PAUSES.into_iter().map(Some).chain([None]) {
            let error = match self.read(range).await {
                Ok(bytes) => return Some(bytes),
                Err(error) => error,
            };
            let path = self.path((range.segment, range.file));
            // A descriptor that went wrong is not tried twice; and where there is none left, all that can be is given back.
            let wants_descriptors = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
            self.forget_files(|&key| wants_descriptors || key == (range.segment, range.file));
            match pause {
                // It is gone: no pause brings it back.
                _ if error.kind() == io::ErrorKind::NotFound => return None,
                Some(pause) => glommio::timer::sleep(pause).await,
                None => {
                    tracing::error!(%error, "cannot read {} at offset {}: who asked is told to come again", path.display(), range.offset);
                }
            }
        }
        None
    }

    async fn read(&self, range: FileRange) -> io::Result<Vec<u8>> {
        let opened = self.file_to_read((range.segment, range.file)).await?;
        let read = opened.read_at(range.offset, range.bytes as usize).await.map_err(io::Error::from)?;
        self.read_bytes.set(self.read_bytes.get() + read.len() as u64);
        let end = range.offset + read.len() as u64;
        // What ends before the file does is no end of it: taken for one, it would look like damage.
        if (read.len() as u64) < range.bytes && end < opened.file_size().await.map_err(io::Error::from)? {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "fewer bytes came than the file has"));
        }
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
        let forgotten = self.forgotten.get();
        let opened = OpenOptions::new().read(true).dma_open(self.path(key)).await;
        let file = Rc::new(opened.map_err(io::Error::from)?);
        if forgotten != self.forgotten.get() {
            // It may be what lay there before: nobody else is to read it.
            return Ok(file);
        }
        let mut read = self.read.borrow_mut();
        read.push_back((key, file.clone()));
        if read.len() > FILES_OPEN_MAX {
            read.pop_front();
        }
        Ok(file)
    }

    /// What is read next are the files that have those names then.
    fn forget_files(&self, which: impl Fn(&FileKey) -> bool) {
        self.read.borrow_mut().retain(|(there, _)| !which(there));
        self.has_closed.set(true);
        self.forgotten.set(self.forgotten.get() + 1);
    }
}
