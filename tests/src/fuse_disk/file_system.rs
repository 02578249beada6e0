//! The kernel's side of the disk: each request of FUSE is one step of the store.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::store::{Node, Store};

/// The kernel may remember nothing: a power cut changes files behind its back.
const REMEMBER: Duration = Duration::ZERO;
const BLOCK_BYTES: u32 = 4_096;
/// `O_DSYNC`, which `O_SYNC` includes.
const O_DSYNC: i32 = 0o10_000;
/// `FALLOC_FL_KEEP_SIZE` and all that is rarer.
const FALLOCATE_PLAIN: i32 = 0;

/// The store as a file system.
pub struct FileSystem(pub Arc<Mutex<Store>>);

type Done<T = ()> = Result<T, Errno>;

impl FileSystem {
    /// The store, if it has power.
    fn store(&self) -> Done<MutexGuard<'_, Store>> {
        let store = self.0.lock().expect("no holder of the store panics");
        if store.is_on() { Ok(store) } else { Err(Errno::EIO) }
    }

    /// The store, for a file that was opened since the power came.
    fn store_of(&self, handle: FileHandle) -> Done<MutexGuard<'_, Store>> {
        let store = self.store()?;
        if handle.0 == store.generation() { Ok(store) } else { Err(Errno::EIO) }
    }

    fn entry(&self, step: impl FnOnce(&mut Store) -> Done<u64>) -> Done<(FileAttr, u64)> {
        let mut store = self.store()?;
        let number = step(&mut store)?;
        Ok((attributes(&store, number)?, store.generation()))
    }
}

fn text(name: &OsStr) -> Done<&str> {
    name.to_str().ok_or(Errno::EINVAL)
}

fn attributes(store: &Store, number: u64) -> Done<FileAttr> {
    let (kind, perm, size) = match store.node(number)? {
        Node::File { now, .. } => (FileType::RegularFile, 0o644, now.len() as u64),
        Node::Folder { .. } => (FileType::Directory, 0o755, 0),
    };
    let (time, blocks): (SystemTime, u64) = (UNIX_EPOCH, size.div_ceil(512));
    let (atime, mtime, ctime, crtime) = (time, time, time, time);
    let (ino, nlink, uid, gid, rdev, blksize, flags) = (INodeNo(number), 1, 0, 0, 0, BLOCK_BYTES, 0);
    Ok(FileAttr { ino, size, blocks, atime, mtime, ctime, crtime, kind, perm, nlink, uid, gid, rdev, blksize, flags })
}

fn tell_entry(done: Done<(FileAttr, u64)>, reply: ReplyEntry) {
    match done {
        Ok((attributes, _)) => reply.entry(&REMEMBER, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn tell_empty(done: Done, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for FileSystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        tell_entry(self.entry(|store| store.find(parent.0, text(name)?)), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.store().and_then(|store| attributes(&store, ino.0)) {
            Ok(attributes) => reply.attr(&REMEMBER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set =
            |store: &mut Store| size.map_or(Ok(()), |size| store.set_length(ino.0, size as usize)).map(|()| ino.0);
        match self.entry(set) {
            Ok((attributes, _)) => reply.attr(&REMEMBER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        tell_entry(self.entry(|store| store.make(parent.0, text(name)?, true)), reply);
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        match self.entry(|store| store.make(parent.0, text(name)?, false)) {
            Ok((attributes, handle)) => {
                let (handle, direct) = (FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
                reply.created(&REMEMBER, &attributes, Generation(0), handle, direct);
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        tell_empty(self.store().and_then(|mut store| store.remove(parent.0, text(name)?)), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = |mut store: MutexGuard<'_, Store>| {
            let (from, to) = ((parent.0, text(name)?), (newparent.0, text(newname)?));
            let is_taken = store.find(to.0, to.1).is_ok();
            if flags.contains(RenameFlags::RENAME_EXCHANGE) {
                return Err(Errno::EINVAL);
            }
            if flags.contains(RenameFlags::RENAME_NOREPLACE) && is_taken {
                return Err(Errno::EEXIST);
            }
            store.rename(from, to)
        };
        tell_empty(self.store().and_then(rename), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.store().and_then(|store| store.node(ino.0).map(|_| store.generation())) {
            // Past the kernel's page cache, which a power cut could not empty.
            Ok(generation) => reply.opened(FileHandle(generation), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.store() {
            Ok(store) => reply.opened(FileHandle(store.generation()), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.store_of(fh) {
            Ok(mut store) => match store.read_or_fail(ino.0, offset as usize, size as usize) {
                Ok(bytes) => reply.data(bytes),
                Err(error) => reply.error(error),
            },
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = |mut store: MutexGuard<'_, Store>| {
            let written = store.write(ino.0, offset as usize, data)?;
            if flags.0 & O_DSYNC != 0 {
                store.sync(ino.0)?;
            }
            Ok(written)
        };
        match self.store_of(fh).and_then(write) {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        tell_empty(self.store_of(fh).and_then(|mut store| store.sync(ino.0)), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        tell_empty(self.store_of(fh).and_then(|mut store| store.sync_folder(ino.0)), reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // A close makes nothing durable.
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocate = |mut store: MutexGuard<'_, Store>| match mode {
            FALLOCATE_PLAIN => store.grow(ino.0, (offset + length) as usize),
            _ => Err(Errno::EOPNOTSUPP),
        };
        tell_empty(self.store_of(fh).and_then(allocate), reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = self.store().and_then(|store| {
            let entry = |(name, &number): (&String, &u64)| {
                attributes(&store, number).map(|attributes| (number, attributes.kind, name.clone()))
            };
            store.entries(ino.0)?.iter().map(entry).collect::<Done<Vec<_>>>()
        });
        match entries {
            Ok(entries) => {
                let own = [".", ".."].map(|name| (ino.0, FileType::Directory, name.to_owned()));
                for ((number, kind, name), next) in own.into_iter().chain(entries).zip(1..).skip(offset as usize) {
                    if reply.add(INodeNo(number), next, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.store() {
            Ok(store) => {
                let blocks = store.capacity_bytes() / u64::from(BLOCK_BYTES);
                let free = store.capacity_bytes().saturating_sub(store.used_bytes()) / u64::from(BLOCK_BYTES);
                reply.statfs(blocks, free, free, 1 << 20, 1 << 20, BLOCK_BYTES, 255, BLOCK_BYTES);
            }
            Err(error) => reply.error(error),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }
}
