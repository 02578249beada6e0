//! The simulated server dies and starts again: what the disk kept goes through the real recovery, from real files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use banter_chat::address::Core;
use banter_log::catalog::Catalog;
use banter_log::journal::JournalParts;
use banter_protocol::ids::Epoch;
use banter_server::storage::recovery::{Opening, Recovered, recover};
use banter_server::storage::{index_path, segment_path};

use super::disk::SimDisk;
use super::world::World;

/// Numbers between two runs, so that their epochs never meet.
const RUN_STEP: u64 = 1_000_000;

/// A folder of its own for one world.
pub struct Folder(PathBuf);

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
}

impl World {
    /// The server dies, and another starts on what is left, perhaps with another number of cores.
    pub fn crash(&mut self, crash: Crash) {
        self.seen_mut().saw(match crash {
            Crash::Killed => "killed",
            Crash::PowerCut => "power cut",
        });
        if self.is_verbose() {
            println!("    {crash:?}");
        }
        self.lose_connections();
        let run = self.run() + RUN_STEP;
        let (disk, chance) = self.disk_and_chance();
        if crash == Crash::PowerCut {
            disk.cut_power(chance);
        }
        if self.steps_wall_clock() {
            self.step_wall_clock();
            self.seen_mut().saw("wall clock stepped at a restart");
        }
        let (cores, unix_ms) = (self.core_count(), self.wall_ms());
        let folder = Folder::new();
        let recovered = restart(self.disk_and_chance().0, &folder.0, crash, (run, unix_ms), cores);
        let catalogs = recovered.catalogs.into_iter();
        self.start(run, catalogs.collect());
    }
}

/// Writes the disk's files, reads them as a server does, and puts what it made of them back.
fn restart(disk: &mut SimDisk, folder: &Path, crash: Crash, (run, unix_ms): (u64, u64), cores: u16) -> Recovered {
    fs::create_dir_all(folder).expect("a folder");
    for (&id, segment) in &disk.segments {
        fs::write(segment_path(folder, id), &segment.written).expect("a file");
        if let Some(index) = &segment.index {
            fs::write(index_path(folder, id), index).expect("a file");
        }
    }
    // As the run before wrote it, on this boot of the machine or on another.
    let boot = match crash {
        Crash::Killed => banter_server::storage::ledger::this_boot(),
        Crash::PowerCut => "another".to_owned(),
    };
    let ledger = format!("banter-log 1\nrun {} open {boot}\n{}", run - RUN_STEP, disk.ledger_past);
    fs::write(folder.join("ledger"), ledger).expect("a file");
    let opening = Opening { folder, cores, run, break_epoch: Epoch(run), accept_corruption: false };
    let mut recovered = recover(&opening).unwrap_or_else(|fault| panic!("what a crash leaves is no damage: {fault}"));
    let text = fs::read_to_string(folder.join("ledger")).expect("a ledger");
    disk.ledger_past = text.lines().skip(2).map(|line| format!("{line}\n")).collect();
    disk.segments.clear();
    for known in &recovered.segments {
        let id = known.header.id;
        let bytes = fs::read(segment_path(folder, id)).expect("a segment");
        let index = fs::read(index_path(folder, id)).expect("every segment is sealed by now");
        disk.add_found(known.header, bytes, index);
    }
    let start_ms = recovered.begin(unix_ms);
    let needed_by = |id| -> BTreeSet<Core> {
        let cores = recovered.catalogs.iter().enumerate().filter(|(_, catalog)| catalog.needs(id));
        cores.map(|(core, _)| Core(core as u16)).collect()
    };
    disk.begin(run, start_ms, needed_by);
    recovered
}

/// A journal's parts, as small as the limits of a seed. What takes long takes turns, too.
pub fn journal_parts(run: u64, segment_bytes: u64, reads_max: usize, catalog: Catalog) -> JournalParts {
    JournalParts { run, segment_bytes, commit_bytes_max: 3_000, reads_max, work_steps_max: 2, catalog }
}
