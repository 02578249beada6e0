//! Retention in the simulated world: the keeper's own plan, or the oldest segment of any class, and what has to be told of
//! what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use banter_chat::address::{Core, core_of};
use banter_log::catalog::{Catalog, CutRooms};
use banter_log::index::Part;
use banter_log::journal::Answer;
use banter_log::segment::Class;
use banter_protocol::ids::{Epoch, RoomId};
use banter_server::storage::retention::{Leave, Rules};

use super::World;
use crate::sim::disk::Places;
use crate::sim::profile::Profile;

/// How often what is written of a class is left, and what is sealed of it cut, until it counts as dropped.
const CLASS_ROUNDS: usize = 2;
/// Turns of each core in between.
const CLASS_TURNS: usize = 12;

/// What became of segments and rooms, as the world itself knows it.
#[derive(Default)]
pub(super) struct Retained {
    /// Something was cut in this run.
    pub(super) has_cut: bool,
    /// The classes that each room was of.
    classes: BTreeMap<String, BTreeSet<Class>>,
}

impl Retained {
    /// A room was of that class until now.
    pub(super) fn was(&mut self, room: &str, class: Class) {
        self.classes.entry(room.to_owned()).or_default().insert(class);
    }

    /// Whether it ever was.
    pub(super) fn has_been(&self, room: &str, class: Class) -> bool {
        self.classes.get(room).is_some_and(|classes| classes.contains(&class))
    }
}

impl World {
    /// The keeper looks for what is too old, by chance.
    pub(super) fn retain(&mut self) {
        let Profile { cuts_once_in, retention, .. } = self.profile;
        if cuts_once_in == 0 {
            return;
        }
        if self.chance.once_in(cuts_once_in) {
            match retention {
                Some(server) => self.follow_plan(server),
                None => self.cut_oldest(),
            }
        }
        if self.chance.once_in(4 * cuts_once_in)
            && let Some((core, segment)) = self.disk.written_one(&mut self.chance)
        {
            self.tell_core(core, Answer::Leave { segment });
            self.seen.saw("segment left");
        }
    }

    /// All of a class goes while nobody asks for anything: what its rooms had there no later record tells of.
    pub(super) fn drop_a_class(&mut self) {
        let Some(class) = self.disk.some_class(&mut self.chance) else { return };
        for _ in 0..CLASS_ROUNDS {
            for (core, segment) in self.disk.written_of(class) {
                self.tell_core(core, Answer::Leave { segment });
            }
            self.turn_all(CLASS_TURNS);
            while let Some(segment) = self.disk.oldest_of(class) {
                let blank_epoch = self.raise_blank();
                self.forget(segment, blank_epoch);
            }
            self.turn_all(CLASS_TURNS);
            self.disk.drop_free(&mut self.seen);
        }
        self.seen.saw("all of a class dropped");
    }

    /// Every core has so many turns in which no client asks.
    fn turn_all(&mut self, turns: usize) {
        for _ in 0..turns {
            self.now_ms += 1;
            (0..self.cores.len()).for_each(|core| self.turn(core));
        }
    }

    fn follow_plan(&mut self, server: Class) {
        let window_ms = self.profile.limits.dedupe_window_ms;
        let plan = self.disk.plan(Rules { server, window_ms });
        if !plan.cut.is_empty() {
            let blank_epoch = self.raise_blank();
            plan.cut.iter().for_each(|&segment| self.forget(segment, blank_epoch));
            self.disk.drop_free(&mut self.seen);
            self.seen.saw_times("segment cut by the plan", plan.cut.len() as u64);
        }
        for Leave { segment, first_ms, newest_ms } in plan.leave {
            let core = self.disk.segments.get(&segment).expect("a segment of the plan").core();
            self.tell_core(core, Answer::Retire { segment, first_ms, newest_ms });
            self.seen.saw("segment left by the plan");
        }
    }

    fn cut_oldest(&mut self) {
        let Some(segment) = self.disk.oldest_of_a_class(&mut self.chance) else { return };
        let blank_epoch = self.raise_blank();
        self.forget(segment, blank_epoch);
        self.disk.drop_free(&mut self.seen);
    }

    /// As the keeper does before anything is cut: rooms of which nothing is left begin again under an epoch that none had.
    fn raise_blank(&mut self) -> Epoch {
        let ledger = self.ledger.as_mut().expect("a server has a ledger");
        let said = ledger.ledger().blank();
        let next = said.synced.max(said.written).0.max(self.run).saturating_add(1);
        let step = u64::from(self.core_count) + 1;
        let epoch = Epoch(self.run + (next - self.run).next_multiple_of(step));
        ledger.raise_blank(epoch).expect("a file is written");
        epoch
    }

    /// Has the cores forget a segment.
    fn forget(&mut self, segment: u64, blank_epoch: Epoch) {
        let (cores, parts) = self.disk.cut(segment, &mut self.chance, &mut self.seen);
        if self.is_verbose() {
            println!("    segment {segment} is cut, blank is {}", blank_epoch.0);
        }
        self.truth.first_lags |= parts.is_none();
        self.retained.has_cut = true;
        for core in cores {
            let is_there = |part: &&Part| core_of(part.room, self.core_count) == core;
            let rooms = |parts: &Vec<Part>| -> Vec<_> {
                parts.iter().filter(is_there).map(|part| (part.room, part.last)).collect()
            };
            let rooms = parts.as_ref().map(rooms);
            let rooms = rooms.map_or(CutRooms::Unknown(Bound::Unbounded), |it| CutRooms::Known(it.into_iter()));
            self.tell_core(core, Answer::Cut { segment, rooms, blank_epoch });
        }
        self.seen.saw("segment cut");
    }

    fn tell_core(&mut self, core: Core, answer: Answer) {
        let core = &mut self.cores[core.index()];
        core.of_keeper.push(answer);
        core.is_rung = true;
    }

    /// What lies on the disk of each room; `None` where something of it may be damaged.
    pub fn places_on_disk(&self) -> Option<Places> {
        self.disk.rotten.is_empty().then(|| self.disk.places())
    }

    /// What a start found of the rooms that were always synced is what lies on the disk.
    pub fn check_told(&mut self, places: &Option<Places>, catalogs: &[Catalog]) {
        let Some(places) = places else { return };
        for name in (0..self.profile.rooms).map(|number| format!("room-{number}")) {
            let id = RoomId::of(&name);
            // One that only its program wrote a state of has no message that could be missing.
            let head = places.head(id).filter(|&head| head > 0 && self.profile.is_synced(&name));
            let Some(head) = head else { continue };
            let found = catalogs[core_of(id, catalogs.len() as u16).index()].room(id);
            // It may be more: what was refused, and lies there as a whole.
            let first = places.first(id, head, &self.disk.removed);
            let is_right = found.is_some_and(|found| found.head.0 >= head && found.first.0 <= first);
            assert!(is_right, "{name} has {first} to {head} on the disk, and a start found {found:?}");
            self.seen.saw("what a start found was held against the disk");
        }
    }

    /// What of a room is told begins no later than what lies on the disk and leads there.
    pub(super) fn check_first(&mut self, name: &str, first: u64, head: u64) {
        // What was cut in this run is out of sight, and may take from sight what another class has.
        let is_judged = self.profile.is_synced(name) && !self.retained.has_cut && !self.truth.first_lags;
        let Some(places) = self.places_on_disk().filter(|_| is_judged) else { return };
        let least = places.first(RoomId::of(name), head, &self.disk.removed);
        assert!(first <= least, "{name} is told from {first} to {head}, and what is from {least} on lies on the disk");
        self.seen.saw("what is told was held against the disk");
    }
}
