//! The simulated server dies and starts again: what the disk kept goes through the real recovery, from real files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use banter_chat::address::{Core, core_of};
use banter_chat::room::Room;
use banter_log::catalog::Catalog;
use banter_log::journal::JournalParts;
use banter_protocol::ids::{Epoch, RoomId, Sequence};
use banter_server::storage::ledger::{Found, LastRun, Ledger, LedgerFile, this_boot};
use banter_server::storage::recovery::{Opening, Recovered, recover};
use banter_server::storage::{index_path, segment_path};

use super::disk::SimDisk;
use super::world::World;
use crate::seeded::Seeded;

/// Numbers between two runs, so that their epochs never meet: all that a run may give.
pub const RUN_STEP: u64 = 1_000_000;

/// A folder of its own for one world.
pub struct Folder(PathBuf);

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Folder {
    /// In memory, where there is a file system there.
    pub fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Folder(base.join(format!("banter-sim-{}-{number}", std::process::id())))
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How the server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// kill -9.
    Killed,
    /// The machine loses its power.
    PowerCut,
    /// It ends in order, with everything on the disk.
    Stopped,
    /// However it ended: nobody knows, since the ledger is not what it was.
    LedgerLost,
}

/// What the log has of a room.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The room.
    pub name: String,
    /// It was synced at every start.
    pub is_synced: bool,
    /// It may have had another level when its newest message was written, or the next start has another one for it.
    pub has_other_level: bool,
    /// What there is of it.
    pub at: LoggedAt,
}

/// A room's history, and which part of it the log has.
#[derive(Clone, Copy, Debug)]
pub struct LoggedAt {
    epoch: Epoch,
    first: Sequence,
    head: Sequence,
}

impl LoggedAt {
    /// As a core's catalog has it.
    pub fn of(catalog: &Catalog, id: RoomId) -> Option<Self> {
        let room = catalog.room(id)?;
        Some(LoggedAt { epoch: room.epoch, first: room.first, head: room.head })
    }

    /// As memory has it: what became history has reached its level.
    pub fn of_memory(room: &Room) -> Option<Self> {
        let head = room.history.head();
        (head > Sequence(0)).then_some(LoggedAt { epoch: room.epoch, first: head, head })
    }

    /// Both together.
    #[must_use]
    pub fn with(self, other: Option<Self>) -> Self {
        let same = other.filter(|other| other.epoch == self.epoch);
        let Some(other) = same else { return self };
        LoggedAt { first: self.first.min(other.first), head: self.head.max(other.head), ..self }
    }
}

impl World {
    /// The server dies, or has ended, and another starts on what is left, perhaps with another number of cores.
    pub fn crash(&mut self, crash: Crash) {
        self.seen_mut().saw(match crash {
            Crash::Killed => "killed",
            Crash::PowerCut => "power cut",
            Crash::Stopped => "stopped in order",
            Crash::LedgerLost => "ledger lost",
        });
        if self.is_verbose() {
            println!("    {crash:?}");
        }
        self.lose_connections(crash);
        let run = self.run() + RUN_STEP;
        let logged = self.logged_rooms();
        let (disk, chance) = self.disk_and_chance();
        disk.end(chance);
        if crash == Crash::PowerCut {
            disk.cut_power(chance);
        }
        if self.steps_wall_clock() {
            self.step_wall_clock(true);
            self.seen_mut().saw("wall clock stepped at a restart");
        }
        let (cores, unix_ms) = (self.next_core_count(), self.wall_ms());
        self.choose_levels();
        self.write_indexes();
        let (start, levels_hash) = ((run, unix_ms), self.levels_hash());
        let (disk, chance, folder) = self.disk_chance_and_folder();
        let fate = spoil_ledger(folder, crash, chance);
        let recovered = restart(disk, folder, (cores, levels_hash), start);
        self.seen_mut().saw_times(fate.unwrap_or("ledger found as it was"), 1);
        let crash = if fate.is_some() { Crash::LedgerLost } else { crash };
        if crash == Crash::LedgerLost {
            self.breaks_all();
        }
        for before in logged {
            check_kept(&before, crash, &recovered.catalogs);
        }
        self.start(run, recovered.catalogs, recovered.ledger);
    }
}

impl World {
    /// The segments' files of the last start are not those of this one.
    fn write_indexes(&mut self) {
        let indexes = self.found_indexes();
        let folder = self.disk_chance_and_folder().2;
        fs::create_dir_all(folder).expect("a folder");
        for file in fs::read_dir(folder).expect("a folder").flatten() {
            if file.file_name().to_string_lossy().starts_with("segment-") {
                fs::remove_file(file.path()).expect("a file");
            }
        }
        for (id, index) in indexes {
            fs::write(index_path(folder, id), index).expect("a file");
        }
    }
}

/// What the log had of a room it still has, under the name that it had. Another name is right only where a power cut may
/// have taken something, or at another level.
fn check_kept(before: &Logged, crash: Crash, catalogs: &[Catalog]) {
    let id = RoomId::of(&before.name);
    let now = LoggedAt::of(&catalogs[core_of(id, catalogs.len() as u16).index()], id);
    let was_cut = crash == Crash::LedgerLost || (crash == Crash::PowerCut && !before.is_synced);
    let has_new_name = now.is_none_or(|now| now.epoch != before.at.epoch);
    if has_new_name && (was_cut || before.has_other_level) {
        return;
    }
    assert!(!was_cut || before.has_other_level, "{before:?} goes on as {now:?} behind a power cut");
    let is_kept = now
        .is_some_and(|now| now.epoch == before.at.epoch && now.first <= before.at.first && now.head >= before.at.head);
    assert!(is_kept, "{before:?} came back as {now:?}: {crash:?}");
}

/// The ledger as the run before wrote it, on this boot of the machine or on another; or what else may be found of it.
fn spoil_ledger(folder: &Path, crash: Crash, chance: &mut Seeded) -> Option<&'static str> {
    let path = folder.join("ledger");
    let Ok(found @ Found::Whole(_)) = LedgerFile::open(folder) else { panic!("a ledger that was written is there") };
    let ledger = found.ledger();
    let boot = if crash == Crash::Killed { this_boot() } else { None };
    let last = ledger.last.map(|last| LastRun { is_closed: crash == Crash::Stopped, boot, ..last });
    drop(found.write(folder, Ledger { last, ..ledger }).expect("a ledger"));
    let mut bytes = fs::read(&path).expect("a ledger");
    let half = bytes.len() / 2;
    match chance.below(40) {
        0 => {
            // A copy of the folder, which was not marked as one that goes on.
            let copy = folder.join("copy");
            fs::copy(&path, &copy).expect("a file");
            fs::rename(&copy, &path).expect("a file");
            return Some("ledger of a copy");
        }
        1 => {
            fs::remove_file(&path).expect("a file");
            return Some("ledger missing");
        }
        2 => {
            bytes[..CONTENT_BYTES].fill(7);
            bytes[half..half + CONTENT_BYTES].fill(7);
            fs::write(&path, bytes).expect("a ledger");
            return Some("ledger damaged");
        }
        // The power went in the midst of a write over the older slot.
        3..=9 if crash == Crash::PowerCut => {
            let older = if counter_of(&bytes[..half]) < counter_of(&bytes[half..]) { 0 } else { half };
            let torn = 1 + chance.below(CONTENT_BYTES);
            bytes[older..older + torn].fill(9);
            fs::write(&path, bytes).expect("a ledger");
        }
        _ => {}
    }
    None
}

/// Bytes of a slot that mean something.
const CONTENT_BYTES: usize = 128;

/// The counter of a slot.
fn counter_of(slot: &[u8]) -> u64 {
    u64::from_le_bytes(slot[16..24].try_into().expect("eight bytes"))
}

/// Writes the disk's files, reads them as a server does, and puts what it made of them back.
pub fn restart(
    disk: &mut SimDisk,
    folder: &Path,
    (cores, levels_hash): (u16, u64),
    (run, unix_ms): (u64, u64),
) -> Recovered {
    for (&id, segment) in &disk.segments {
        fs::write(segment_path(folder, id), &segment.written).expect("a file");
    }
    let opening = Opening { folder, cores, levels_hash, accept_corruption: false };
    let mut take_run = |seen| {
        assert!(seen < run, "a run gives no more numbers than it has");
        Ok(run)
    };
    let recovered = recover(&opening, &mut take_run);
    let mut recovered = recovered.unwrap_or_else(|fault| panic!("what a crash leaves is no damage: {fault}"));
    disk.segments.clear();
    for known in &recovered.segments {
        let id = known.header.id;
        let bytes = fs::read(segment_path(folder, id)).expect("a segment");
        let index = fs::read(index_path(folder, id)).expect("every segment is sealed by now");
        disk.add_found(known, bytes, index);
    }
    let start_ms = recovered.begin(unix_ms);
    let needed_by = |id| -> BTreeSet<Core> {
        let cores = recovered.catalogs.iter().enumerate().filter(|(_, catalog)| catalog.segment(id).is_some());
        cores.map(|(core, _)| Core(core as u16)).collect()
    };
    disk.begin((run, start_ms), cores, needed_by);
    recovered
}

/// A journal's parts, as small as the limits of a seed. What takes long takes turns, too.
pub fn journal_parts(run: u64, reads_max: usize, cache_bytes_max: u64, catalog: Catalog) -> JournalParts {
    let indexes = BTreeMap::new();
    JournalParts { run, commit_bytes_max: 3_000, reads_max, work_steps_max: 2, cache_bytes_max, indexes, catalog }
}
