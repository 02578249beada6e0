//! What happens to the simulated server by chance: it dies or ends, its clock steps, its segments are dropped or rot, and
//! the next start may differ from it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use banter_chat::address::core_of;
use banter_chat::policy::RoomPolicy;
use banter_log::catalog::Catalog;
use banter_protocol::ids::RoomId;

use super::{WALL_START_MS, World};
use crate::seeded::Seeded;
use crate::sim::client::Client;
use crate::sim::coverage::Coverage;
use crate::sim::crash::{Crash, Folder, Logged, LoggedAt};
use crate::sim::disk::SimDisk;
use crate::sim::profile::Profile;

/// Milliseconds that the wall clock steps at most: more than the longest window of a profile.
const WALL_STEP_MS_MAX: usize = 400_000;
/// The same between two starts, at times: a clock that was never set, or set to another century.
const WALL_YEARS_MS_MAX: usize = 20 * 365 * 86_400_000;
/// Milliseconds that pass at once at most: more than any class keeps.
const HOURS_MS_MAX: usize = 3 * 3_600_000;
/// A server whose log failed is started again once in so many steps.
const STARTED_AGAIN_ONCE_IN: usize = 60;

impl World {
    /// Every connection is gone with the server.
    pub fn lose_connections(&mut self, crash: Crash) {
        self.clients.iter_mut().for_each(Client::vanish);
        self.truth.server_is_gone();
        if crash == Crash::PowerCut {
            self.truth.power_is_gone();
        }
    }

    /// Whether the wall clock steps now, by chance.
    pub fn steps_wall_clock(&mut self) -> bool {
        self.profile.wall_steps_once_in != 0 && self.chance.once_in(2)
    }

    /// Numbers that were given as epochs are below.
    pub fn given_end(&self) -> u64 {
        let blank = self.ledger.as_ref().map_or(0, |ledger| ledger.ledger().largest());
        self.epochs_end.max(blank + 1)
    }

    /// Time that passes while no server runs: for the wall clock, and perhaps it steps too.
    pub fn pass_time_between_starts(&mut self) {
        if self.profile.hours_once_in != 0 && self.chance.once_in(2) {
            self.now_ms += self.chance.below(HOURS_MS_MAX) as u64;
            self.seen.saw("hours without a server");
        }
        if self.steps_wall_clock() {
            self.step_wall_clock(true);
            self.seen.saw("wall clock stepped at a restart");
        }
    }

    /// How many cores the next start has.
    pub fn next_core_count(&mut self) -> u16 {
        let other = 1 + self.chance.below(3) as u16;
        if self.profile.varies_cores { other } else { self.core_count }
    }

    /// The levels and the retention classes of the rooms, as the next start has them.
    pub fn choose_policies(&mut self) {
        if !self.profile.varies_levels && !self.profile.varies_classes {
            return;
        }
        let before = self.profile.clone();
        self.profile = before.clone().at_next_start(&mut self.chance);
        for room in (0..self.profile.rooms).map(|number| format!("room-{number}")) {
            let (was, is) = (before.policies.of(&room), self.profile.policies.of(&room));
            self.seen.saw_times("room changed its level", u64::from(was.durability != is.durability));
            self.seen.saw_times("room changed its class", u64::from(was.class != is.class));
            self.retained.was(&room, was.class);
            let is_back = was.class != is.class && self.retained.has_been(&room, is.class);
            self.seen.saw_times("room came back to a class", u64::from(is_back));
        }
    }

    /// What holds for a room at this start.
    pub fn policy_of(&self, room: &str) -> &RoomPolicy {
        self.profile.policies.of(room)
    }

    /// Under which level, class and epoch each room is to be told.
    pub fn tell_epochs(&self, catalogs: &[Catalog]) {
        for number in 0..self.profile.rooms {
            let room = format!("room-{number}");
            let (id, policy) = (RoomId::of(&room), self.policy_of(&room));
            let catalog = &catalogs[core_of(id, catalogs.len() as u16).index()];
            let epoch = policy.durability.level().map(|level| catalog.epoch_of(id, level, policy.class).0);
            println!("      {room}: {}, {:?}, {epoch:?}", policy.durability.name(), policy.class);
        }
    }

    /// What the server has of each logged room, in its log and in memory.
    pub fn logged_rooms(&self) -> Vec<Logged> {
        (0..self.profile.rooms).filter_map(|number| self.logged_room(format!("room-{number}"))).collect()
    }

    fn logged_room(&self, name: String) -> Option<Logged> {
        let id = RoomId::of(&name);
        let rooms = self.cores[core_of(id, self.core_count).index()].shard.rooms();
        let in_log = rooms.journal().and_then(|journal| LoggedAt::of(journal.catalog(), id));
        let is_logged = self.profile.policies.of(&name).durability.is_logged();
        let in_memory = rooms.iter().find(|room| room.id == id && is_logged).and_then(LoggedAt::of_memory);
        let is_above = in_memory.zip(in_log).is_some_and(|(memory, log)| memory.is_above(log));
        // A room that came to another class has its new name in the log with its first message there.
        let in_memory = in_memory.filter(|memory| in_log.is_none_or(|log| !memory.is_renamed(log)));
        // Of what was dropped memory may have some for as long as it lasts.
        let in_memory = in_memory.filter(|_| self.profile.cuts_once_in == 0 || !is_above);
        // What a failed sync refused may be there after all.
        let is_above = is_above || self.disk.has_failed();
        // Where segments are dropped the log may have nothing left of what memory has.
        let at = if self.profile.cuts_once_in == 0 { in_memory.or(in_log) } else { in_log };
        let at = at?.with(in_log).with(in_memory);
        let (is_synced, has_other_level) = (self.profile.is_synced(&name), self.profile.varies_levels);
        // Where the index of what was cut could not be read, the server thinks that it has more.
        let at = if self.truth.first_lags { at.at_head() } else { at };
        // Where the ledger was lost, nobody knows whether the classes changed.
        let has_other_class = self.profile.varies_classes || self.profile.is_broken;
        let may_come_back = self.disk.has_cut_of(id);
        Some(Logged { name, is_synced, has_other_level, has_other_class, may_come_back, is_above, at })
    }

    /// Whether everything is printed.
    pub fn is_verbose(&self) -> bool {
        self.plan.verbose
    }

    /// What happened so far.
    pub fn seen_mut(&mut self) -> &mut Coverage {
        &mut self.seen
    }

    /// The disk, where chance comes from, and the folder of the log.
    pub fn disk_chance_and_folder(&mut self) -> (&mut SimDisk, &mut Seeded, &Folder) {
        (self.ledger, self.epochs) = (None, None);
        (&mut self.disk, &mut self.chance, &self.folder)
    }

    /// What was not sealed may rot while no server runs.
    pub fn rot_unsealed(&mut self, is_known_same_boot: bool) {
        self.disk.rot_unsealed(is_known_same_boot, &mut self.chance, &mut self.seen);
    }

    /// The disk, and where chance comes from.
    pub fn disk_and_chance(&mut self) -> (&mut SimDisk, &mut Seeded) {
        (&mut self.disk, &mut self.chance)
    }

    /// The indexes that the next start finds.
    pub fn found_indexes(&mut self) -> Vec<(u64, Vec<u8>)> {
        let ids: Vec<u64> = self.disk.segments.keys().copied().collect();
        let found = |id| Some((id, self.disk.index_found(id, &mut self.chance, &mut self.seen)?));
        ids.into_iter().filter_map(found).collect()
    }

    /// What the server's wall clock says.
    pub fn wall_ms(&self) -> u64 {
        (WALL_START_MS + self.now_ms).saturating_add_signed(self.wall_off_ms)
    }

    /// The wall clock steps, forward or back: by minutes, or, where no server runs, by years.
    pub fn step_wall_clock(&mut self, by_years: bool) {
        let most_ms = if by_years && self.chance.once_in(3) { WALL_YEARS_MS_MAX } else { WALL_STEP_MS_MAX };
        self.wall_off_ms += self.chance.below(2 * most_ms + 1) as i64 - most_ms as i64;
        if self.plan.verbose {
            println!("    the wall clock is off by {} ms", self.wall_off_ms);
        }
    }

    /// The server dies, or a segment is forgotten, by chance.
    pub(super) fn disturb(&mut self) {
        let Profile { hours_once_in, wall_steps_once_in, .. } = self.profile;
        if wall_steps_once_in != 0 && self.chance.once_in(wall_steps_once_in) {
            self.step_wall_clock(false);
            self.seen.saw("wall clock stepped");
        }
        if let Some(crash) = self.next_crash() {
            self.crashes += 1;
            if self.profile.drops_classes && self.chance.once_in(2) {
                self.drop_a_class();
            }
            self.crash(crash);
            // Another one before anything was asked, and in a run of them.
            while self.crashes < self.profile.crashes_max && self.chance.once_in(5) {
                self.crashes += 1;
                let crash = *self.chance.pick(&[Crash::Killed, Crash::PowerCut]);
                self.crash(crash);
            }
        }
        self.disk.rot(&mut self.chance, &mut self.seen);
        let stops_once_in = self.profile.stops_once_in;
        if stops_once_in != 0 && !self.is_draining && self.chance.once_in(stops_once_in) {
            self.stop();
        }
        if hours_once_in != 0 && self.chance.once_in(hours_once_in) {
            self.now_ms += self.chance.below(HOURS_MS_MAX) as u64;
            self.seen.saw("hours passed");
        }
        self.retain();
    }

    /// What the next start takes the levels of rooms for.
    pub fn levels_hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        format!("{:?}", self.profile.policies).hash(&mut hasher);
        hasher.finish()
    }

    /// Rooms have other levels or classes: one without messages may have been `written` when the power went.
    pub fn levels_have_changed(&mut self) {
        if self.truth.power_went {
            self.truth.blank_rooms_begin_anew();
        }
    }

    /// The ledger is not what it was: every room may go on under another name.
    pub fn breaks_all(&mut self) {
        self.profile.is_broken = true;
        self.truth.power_is_gone();
    }

    /// Whether the server dies now: by chance, and rather where a promise is at risk.
    fn next_crash(&mut self) -> Option<Crash> {
        let Profile { crashes_once_in, cuts_at_risk_once_in, crashes_max, .. } = self.profile;
        let acknowledged = self.truth.acknowledged.len();
        let is_acknowledged = std::mem::replace(&mut self.acknowledged_before, acknowledged) != acknowledged;
        if self.is_draining || self.crashes >= crashes_max {
            return None;
        }
        if crashes_once_in != 0 && self.chance.once_in(crashes_once_in) {
            return Some(*self.chance.pick(&[Crash::Killed, Crash::PowerCut]));
        }
        if self.disk.has_failed && self.chance.once_in(STARTED_AGAIN_ONCE_IN) {
            // Whoever runs it has seen to the disk.
            self.seen.saw("started again behind a failure");
            return Some(*self.chance.pick(&[Crash::Killed, Crash::PowerCut]));
        }
        let is_at_risk = cuts_at_risk_once_in != 0 && self.disk.is_at_risk();
        // Right behind an acknowledgement most of all.
        let once_in = if is_acknowledged { cuts_at_risk_once_in } else { 8 * cuts_at_risk_once_in };
        (is_at_risk && self.chance.once_in(once_in)).then(|| {
            self.seen.saw(if is_acknowledged { "power cut behind an acknowledgement" } else { "power cut at risk" });
            Crash::PowerCut
        })
    }

    /// The server ends in order: everybody has everything, the log is sealed, and another start goes on with it.
    fn stop(&mut self) {
        self.drain();
        self.rest();
        self.cut_dead();
        self.check_read();
        assert!(self.cores.iter().all(|core| core.shard.is_drained()), "a stopping server has an end");
        let is_sealed = self.cores.iter_mut().map(|core| core.shard.seal_log()).fold(true, |all, sealed| all & sealed);
        for core in 0..self.cores.len() {
            let asks: Vec<_> = self.cores[core].shard.disk_asks().into_iter().map(|(_, ask)| ask).collect();
            self.disk.ask(core, asks, self.turn, &mut self.chance);
        }
        while !self.disk.is_idle() {
            self.turn += 1;
            // Nobody takes the answers any more.
            for core in 0..self.cores.len() {
                self.disk.work(core, self.turn, &mut self.chance, &mut self.seen);
            }
        }
        let ledger = self.ledger.as_mut().expect("a server has a ledger");
        ledger.end(is_sealed, 0).expect("a file is written");
        (self.is_draining, self.is_resting) = (false, false);
        (self.disk.is_kind, self.disk.is_quick) = (false, false);
        self.crash(if is_sealed { Crash::Stopped } else { Crash::Killed });
    }
}
