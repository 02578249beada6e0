//! The simulated server dies and starts again: what the disk kept goes through the real recovery, from real files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use banter_chat::address::{Core, core_of};
use banter_chat::room::Room;
use banter_log::catalog::Catalog;
use banter_log::journal::JournalParts;
use banter_protocol::ids::{Epoch, RoomId, Sequence};
use banter_server::host::{EpochFile, Reserved, epoch_by_clock};
use banter_server::storage::recovery::{Opening, Recovered, RecoveryFault, recover};
use banter_server::storage::{folder_of, index_path, segment_path};

use super::disk::SimDisk;
use super::slots::{Fate, SlotFile};
use super::world::World;

/// A data folder of its own for one world.
pub struct Folder(PathBuf);

impl Folder {
    /// Where it is.
    pub fn data(&self) -> &Path {
        &self.0
    }

    /// Where its log is.
    pub fn log(&self) -> PathBuf {
        folder_of(&self.0)
    }

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
    /// It may have had another class when its newest message was written: the first one in its class has a new name.
    pub has_other_class: bool,
    /// A segment with something of it is cut and lies on the disk still: the next start has it again.
    pub may_come_back: bool,
    /// Memory goes on above what the log has left of it: the next start may find the first of that, and nothing before.
    pub is_above: bool,
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
        // One with a state alone has no message that could be missing.
        let room = catalog.room(id).filter(|room| room.first <= room.head)?;
        Some(LoggedAt { epoch: room.epoch, first: room.first, head: room.head })
    }

    /// As memory has it: what became history has reached its level.
    pub fn of_memory(room: &Room) -> Option<Self> {
        let head = room.history.head();
        (head > Sequence(0)).then_some(LoggedAt { epoch: room.epoch, first: head, head })
    }

    /// The newest place of it alone.
    #[must_use]
    pub fn at_head(self) -> Self {
        LoggedAt { first: self.head, ..self }
    }

    /// Whether it is what the log has, under another name.
    pub fn is_renamed(self, log: Self) -> bool {
        self.epoch != log.epoch && self.head == log.head
    }

    /// Whether it ends above that.
    pub fn is_above(self, other: Self) -> bool {
        self.head > other.head
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
        let logged = self.logged_rooms();
        let (disk, chance) = self.disk_and_chance();
        disk.end(chance);
        if crash == Crash::PowerCut {
            disk.cut_power(chance);
        }
        self.pass_time_between_starts();
        let cores = self.next_core_count();
        let levels_before = self.levels_hash();
        self.choose_policies();
        self.write_indexes();
        let given_end = self.given_end();
        let (unix_ms, levels_hash) = (self.wall_ms(), self.levels_hash());
        if levels_hash != levels_before {
            self.levels_have_changed();
        }
        let start = Starting { cores, levels_hash, unix_ms };
        let fate = self.spoil_ledger(crash);
        let has_numbers = fate != Fate::Lost || epoch_by_clock(unix_ms) >= given_end;
        let is_shown = fate != Fate::Lost || !self.disk_and_chance().0.segments.is_empty();
        self.spoil_epochs(crash, (has_numbers, has_numbers && is_shown));
        self.rot_unsealed(crash == Crash::Killed && fate != Fate::Lost);
        let places = self.places_on_disk();
        if self.is_verbose() {
            self.disk_and_chance().0.tell();
        }
        let (disk, _, folder) = self.disk_chance_and_folder();
        let started = restart(disk, folder, start);
        if self.is_verbose() {
            println!("    run {} is to begin", started.reserved.run);
            self.tell_epochs(&started.recovered.catalogs);
        }
        self.check_epochs(given_end, &started);
        self.seen_mut().saw_times("start refused", u64::from(started.was_refused));
        let crash = if fate == Fate::Lost || started.was_refused { Crash::LedgerLost } else { crash };
        if crash == Crash::LedgerLost {
            self.breaks_all();
        }
        for before in logged {
            self.check_kept(&before, crash, &started.recovered.catalogs);
        }
        self.check_told(&places, &started.recovered.catalogs);
        self.start(started);
    }
}

impl World {
    /// The segments' files of the last start are not those of this one.
    fn write_indexes(&mut self) {
        let indexes = self.found_indexes();
        let folder = self.disk_chance_and_folder().2.log();
        fs::create_dir_all(&folder).expect("a folder");
        for file in fs::read_dir(&folder).expect("a folder").flatten() {
            if file.file_name().to_string_lossy().starts_with("segment-") {
                fs::remove_file(file.path()).expect("a file");
            }
        }
        for (id, index) in indexes {
            fs::write(index_path(&folder, id), index).expect("a file");
        }
    }

    /// What the next start finds of the ledger: as the run before wrote it, on this boot of the machine or on another; or
    /// what else may be found of it.
    fn spoil_ledger(&mut self, crash: Crash) -> Fate {
        let (_, chance, folder) = self.disk_chance_and_folder();
        let (mut file, was_cut) = (SlotFile::open(&folder.log(), "ledger"), crash == Crash::PowerCut);
        if crash != Crash::Killed {
            file.start_machine();
        }
        let (fate, what) = match chance.below(40) {
            0 => {
                file.write();
                file.copy();
                (Fate::Lost, "ledger of a copy")
            }
            1 => {
                file.remove();
                (Fate::Lost, "ledger missing")
            }
            2 => {
                file.lose(chance);
                file.write();
                (Fate::Lost, "ledger damaged")
            }
            // The power went in the midst of a write over the older slot.
            3..=9 if was_cut => {
                file.harm(false, chance);
                file.write();
                (Fate::Torn, "older slot of the ledger torn")
            }
            10 => {
                file.harm(false, chance);
                file.write();
                (Fate::Torn, "older slot of the ledger rotten")
            }
            11..=14 if was_cut => {
                file.harm(true, chance);
                file.write();
                (Fate::Torn, "newest slot of the ledger torn")
            }
            15 => {
                file.harm(true, chance);
                file.write();
                (Fate::Torn, "newest slot of the ledger rotten")
            }
            _ => {
                file.write();
                (Fate::AsItWas, "ledger found as it was")
            }
        };
        self.saw_slots(what);
        fate
    }

    /// The same of the epoch file. It is missing only where something else shows which numbers were given, if need be the clock;
    /// and damaged only where the folder shows some, since otherwise somebody is asked about the clock.
    fn spoil_epochs(&mut self, crash: Crash, (may_be_missing, may_be_damaged): (bool, bool)) {
        let (_, chance, folder) = self.disk_chance_and_folder();
        let (mut file, was_cut) = (SlotFile::open(folder.data(), "epoch"), crash == Crash::PowerCut);
        let what = match chance.below(40) {
            0 | 1 if may_be_missing => {
                file.remove();
                "epoch file missing"
            }
            2 | 3 if may_be_damaged => {
                file.lose(chance);
                file.write();
                "epoch file damaged"
            }
            4..=7 if was_cut => {
                file.harm(false, chance);
                file.write();
                "older slot of the epoch file torn"
            }
            8 => {
                file.harm(false, chance);
                file.write();
                "older slot of the epoch file rotten"
            }
            9..=11 => {
                file.harm(true, chance);
                file.write();
                "newest slot of the epoch file torn or rotten"
            }
            _ => "epoch file found as it was",
        };
        self.saw_slots(what);
    }

    fn saw_slots(&mut self, what: &'static str) {
        if self.is_verbose() {
            println!("    {what}");
        }
        self.seen_mut().saw(what);
    }

    /// What the log had of a room it still has, under the name that it had. Another name is right only where a power cut may
    /// have taken something, or at another level.
    fn check_kept(&self, before: &Logged, crash: Crash, catalogs: &[Catalog]) {
        let id = RoomId::of(&before.name);
        let catalog = &catalogs[core_of(id, catalogs.len() as u16).index()];
        // As whoever joins it is told.
        let policy = self.policy_of(&before.name);
        let told = policy.durability.level().map(|level| catalog.epoch_of(id, level, policy.class));
        let now = LoggedAt::of(catalog, id).map(|now| LoggedAt { epoch: told.unwrap_or(now.epoch), ..now });
        let was_cut = crash == Crash::LedgerLost || (crash == Crash::PowerCut && !before.is_synced);
        let has_new_name = now.is_none_or(|now| now.epoch != before.at.epoch);
        // What was cut, and lies on the disk still, hides what another class has before it, until it is cut again.
        if before.has_other_class && before.may_come_back && now.is_some_and(|now| now.first > before.at.head) {
            return;
        }
        if has_new_name && (was_cut || before.has_other_level) {
            return;
        }
        if has_new_name
            && before.has_other_class
            && let Some(now) = now
        {
            let goes_on = now.first <= before.at.first && now.head >= before.at.head;
            let is_right = goes_on && (now.epoch > before.at.epoch || before.may_come_back);
            let is_right = is_right || (before.is_above && now.first > before.at.head);
            assert!(is_right, "{before:?} came back in another class as {now:?}: {crash:?}");
            return;
        }
        assert!(!was_cut || before.has_other_level, "{before:?} goes on as {now:?} behind a power cut");
        let is_kept = now.is_some_and(|now| {
            now.epoch == before.at.epoch && now.first <= before.at.first && now.head >= before.at.head
        });
        assert!(is_kept, "{before:?} came back as {now:?}: {crash:?}");
    }

    /// A start's numbers are above all that were given.
    fn check_epochs(&self, given_end: u64, started: &Started) {
        let run = started.reserved.run;
        assert!(run >= given_end, "a start takes {run}, and all up to {given_end} may have been given");
    }
}

/// How a start goes.
#[derive(Clone, Copy, Debug)]
pub struct Starting {
    /// Cores.
    pub cores: u16,
    /// The levels and classes of rooms, as a hash.
    pub levels_hash: u64,
    /// What the wall clock says.
    pub unix_ms: u64,
}

/// A server that is about to run.
pub struct Started {
    /// What it found.
    pub recovered: Recovered,
    /// The numbers that it may give.
    pub reserved: Reserved,
    /// Where it keeps which it gave.
    pub epochs: EpochFile,
    /// It was refused first, for damage, and is started again with that accepted.
    pub was_refused: bool,
}

/// Writes the disk's files, reads them as a server does, and puts what it made of them back.
pub fn restart(disk: &mut SimDisk, folder: &Folder, starting: Starting) -> Started {
    let Starting { cores, levels_hash, unix_ms } = starting;
    let log = folder.log();
    fs::create_dir_all(&log).expect("a folder");
    for (&id, segment) in &disk.segments {
        fs::write(segment_path(&log, id), &segment.written).expect("a file");
    }
    let mut epochs = EpochFile::open(folder.data()).expect("an epoch file, or none");
    let mut reserved = Reserved::default();
    let mut take_run = |seen| {
        reserved = epochs.begin(seen, unix_ms)?;
        Ok(reserved.run)
    };
    let opening = Opening { folder: &log, cores, levels_hash, accept_corruption: false };
    let mut recovered = recover(&opening, &mut take_run);
    // Damage of what was not sealed is to be found, and nothing else is one.
    let was_refused = disk.has_damage_to_find();
    if was_refused {
        let fault = recovered.expect_err("damage that a later block proves refuses a start");
        assert!(matches!(fault, RecoveryFault::Corrupt { .. }), "{fault}");
        recovered = recover(&Opening { accept_corruption: true, ..opening }, &mut take_run);
    }
    let mut recovered = recovered.unwrap_or_else(|fault| panic!("what a crash leaves is no damage: {fault}"));
    disk.segments.clear();
    for known in &recovered.segments {
        let id = known.header.id;
        let bytes = fs::read(segment_path(&log, id)).expect("a segment");
        let index = fs::read(index_path(&log, id)).expect("every segment is sealed by now");
        disk.add_found(known, bytes, index);
    }
    let start_ms = recovered.begin(unix_ms);
    let needed_by = |id| -> BTreeSet<Core> {
        let cores = recovered.catalogs.iter().enumerate().filter(|(_, catalog)| catalog.segment(id).is_some());
        cores.map(|(core, _)| Core(core as u16)).collect()
    };
    disk.begin((reserved.run, start_ms, unix_ms), cores, needed_by);
    Started { recovered, reserved, epochs, was_refused }
}

/// A journal's parts, as small as the limits of a seed. What takes long takes turns, too.
pub fn journal_parts(run: u64, reads_max: usize, cache_bytes_max: u64, catalog: Catalog) -> JournalParts {
    let indexes = BTreeMap::new();
    JournalParts { run, commit_bytes_max: 3_000, reads_max, work_steps_max: 2, cache_bytes_max, indexes, catalog }
}
