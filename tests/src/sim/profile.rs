//! The limits that a seed runs under: mostly tight, so that every one of them is reached.

use std::collections::BTreeSet;

use banter_chat::limits::Limits;
use banter_chat::policy::{Durability, RoomPattern, RoomPolicies, RoomPolicy};
use banter_chat::post_rates::PostRates;
use banter_log::segment::Class;

use super::disk::{Faults, SEGMENT_BYTES};
use crate::seeded::Seeded;

/// More bytes of history than any seed comes to.
pub const HISTORY_BYTES_PLENTY: u64 = 1 << 30;
/// More bytes of keys than any seed comes to.
const DEDUPE_BYTES_PLENTY: u64 = 1 << 27;
/// Turns of a core between two cuts where much is dropped.
const CUTS_OFTEN_ONCE_IN: usize = 15;

/// Whether starts may differ in the levels of rooms.
const LEVELS_VARY: bool = true;
/// Whether rooms are of several retention classes, and starts may differ in them.
const CLASSES_VARY: bool = true;
/// Whether reads fail at times.
const READS_FAIL: bool = true;
/// Whether reads bring a wrong bit at times, and the right one when they are made again.
const READS_FLIP: bool = true;
/// Whether a room without messages is told under the same epoch at the next start, if nothing was dropped or broken.
pub const BLANK_EPOCHS_LAST: bool = true;
/// Bytes of pages that a core keeps at least. With 0 what was read is there for those who asked for it, and nobody else.
const CACHE_BYTES_LEAST: u64 = 0;
/// Whether sealed segments rot.
const SEGMENTS_ROT: bool = true;
/// Whether segments that are not sealed do, where a later block says that they were on the disk.
const UNSEALED_ROT: bool = true;

/// Retention classes: one that goes by the server's limits, one that goes by time, and one by bytes.
const CLASSES: [Class; 3] =
    [Class::SERVER, Class { hours: 1, bytes: 0 }, Class { hours: 0, bytes: 3 * SEGMENT_BYTES as u64 }];
/// What the server's own class keeps.
const SERVER_CLASSES: [Class; 3] =
    [Class::SERVER, Class { hours: 2, bytes: 0 }, Class { hours: 0, bytes: 4 * SEGMENT_BYTES as u64 }];

/// A seed's circumstances.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The server's limits.
    pub limits: Limits,
    /// Clients.
    pub clients: usize,
    /// Names of rooms that they use.
    pub rooms: usize,
    /// Steps of chance before everything comes to rest.
    pub steps: usize,
    /// Turns that a parcel stays in a lane at most.
    pub lane_delay_max: usize,
    /// A client stalls once in so many sends.
    pub stalls_once_in: usize,
    /// Bytes of padding in a body, at most.
    pub body_bytes_max: usize,
    /// The server begins to stop at that step.
    pub drains_at: Option<usize>,
    /// Whether any message may have been forgotten.
    pub history_is_whole: bool,
    /// What holds for a room.
    pub policies: RoomPolicies,
    /// What may go wrong with the disk.
    pub faults: Faults,
    /// The server dies once in so many steps; 0 = never.
    pub crashes_once_in: usize,
    /// The power goes once in so many steps behind an acknowledgement, or with a block that is not safe yet; 0 = never.
    pub cuts_at_risk_once_in: usize,
    /// The server dies at most so often.
    pub crashes_max: usize,
    /// It ends in order once in so many steps, and starts again; 0 = never.
    pub stops_once_in: usize,
    /// Each start has another number of cores.
    pub varies_cores: bool,
    /// Each start has other levels for its rooms.
    pub varies_levels: bool,
    /// Rooms are of several retention classes.
    pub has_classes: bool,
    /// Each start has its rooms in other retention classes.
    pub varies_classes: bool,
    /// All of a class may go before a crash.
    pub drops_classes: bool,
    /// Every room broke at some start: the ledger was lost.
    pub is_broken: bool,
    /// Bytes of pages of the log's files that a core keeps in memory.
    pub cache_bytes_max: u64,
    /// Rooms that were not synced at some start.
    pub unsynced: BTreeSet<String>,
    /// Segments are forgotten once in so many steps; 0 = never.
    pub cuts_once_in: usize,
    /// Which: those that the keeper's plan says, with the server's own class as this; `None`: the oldest of any class.
    pub retention: Option<Class>,
    /// Hours pass at once, once in so many steps, and at every other start; 0 = never.
    pub hours_once_in: usize,
    /// The wall clock steps once in so many steps, and at every other start; 0 = never.
    pub wall_steps_once_in: usize,
    /// Clients make their last keyed post again on another connection.
    pub repeats_keys: bool,
    /// Rooms that take only so many posts a second.
    pub post_rates: PostRates,
    /// Deliveries wait for company: the core's pressure goes up and down.
    pub has_pacing: bool,
    /// The first room has a program.
    pub has_program: bool,
}

/// Of eight seeds, those whose clients repeat keys; none with a name is among them but as the first of its kind.
const SEEDS_THAT_REPEAT_KEYS: [u64; 3] = [1, 3, 5];

/// Of sixteen seeds, those whose rooms take so many posts a second; they repeat keys, and none of them has a name.
const SEEDS_WITH_POST_RATES: u64 = 3;
/// Of 32: none of them is one that is named for what it shows.
const SEEDS_WITH_PACING: u64 = 3;

impl Profile {
    /// Chosen by chance.
    pub fn of(chance: &mut Seeded) -> Self {
        let history_is_whole = chance.once_in(2);
        let (messages_max, bytes_max) = if history_is_whole {
            (1 << 20, HISTORY_BYTES_PLENTY)
        } else {
            (*chance.pick(&[1, 5, 40]), *chance.pick(&[4_096, 40_000, HISTORY_BYTES_PLENTY]))
        };
        let frame_bytes_max = 1_024;
        let limits = Limits {
            frame_bytes_max,
            rooms_max: *chance.pick(&[3, 1_000]),
            rooms_per_connection_max: *chance.pick(&[2, 256]),
            posts_per_second_max: *chance.pick(&[0, 0, 20]),
            idle_timeout_ms: *chance.pick(&[0, 1_000, 60_000]),
            outbox_bytes_max: *chance.pick(&[2 * frame_bytes_max, 16 * frame_bytes_max, 256 * 1_024]),
            presence_members_max: *chance.pick(&[2, 1_000]),
            presence_interval_ms: *chance.pick(&[10, 500]),
            fetch_messages_max: *chance.pick(&[3, 1_000]),
            history_messages_max: messages_max,
            history_bytes_per_core_max: bytes_max,
            dedupe_keys_per_author_max: *chance.pick(&[2, 5, 1_000]),
            dedupe_bytes_per_core_max: *chance.pick(&[1_024, DEDUPE_BYTES_PLENTY, DEDUPE_BYTES_PLENTY]),
            dedupe_window_ms: *chance.pick(&[1_000, 4_000, 300_000]),
            run_bytes_max: *chance.pick(&[4_096, 256 * 1_024]),
            run_bytes_per_core_max: 1 << 20,
            lane_parcels_max: *chance.pick(&[16, 16, 64, 4_096]),
            ..Limits::default()
        };
        let is_logged = chance.once_in(2);
        let limits = Limits { log_reads_max: *chance.pick(&[1, 4, 32]), ..limits };
        let varies_levels = chance.once_in(4) && is_logged && LEVELS_VARY;
        let has_classes = chance.once_in(2) && is_logged && CLASSES_VARY;
        let varies_classes = has_classes && chance.once_in(2);
        let rooms = 1 + chance.below(5);
        let levels = levels(is_logged, rooms, chance);
        let policies = policies(is_logged, &levels, &classes(has_classes, rooms, chance), &limits);
        let cuts_once_in = if is_logged { *chance.pick(&[0, 0, 60, CUTS_OFTEN_ONCE_IN]) } else { 0 };
        let retention = chance.once_in(2).then(|| *chance.pick(&SERVER_CLASSES));
        let is_kept = levels.iter().all(|&level| level == Durability::Synced) && !varies_levels && cuts_once_in == 0;
        let faults = faults(chance);
        let whole = (history_is_whole || is_kept) && limits.rooms_max > 100;
        let steps = *chance.pick(&[200, 500, 1_200]);
        let profile = Profile {
            clients: 2 + chance.below(12),
            rooms,
            lane_delay_max: *chance.pick(&[0, 3, 40]),
            stalls_once_in: *chance.pick(&[5, 50, 100_000]),
            body_bytes_max: *chance.pick(&[8, 300]),
            drains_at: chance.once_in(4).then(|| chance.below(steps)),
            steps,
            limits,
            history_is_whole: whole,
            policies,
            faults,
            crashes_once_in: if is_logged { *chance.pick(&[0, 100, 400]) } else { 0 },
            cuts_at_risk_once_in: if is_logged { *chance.pick(&[0, 3, 12, 40]) } else { 0 },
            crashes_max: *chance.pick(&[1, 4, 10]),
            stops_once_in: if is_logged { *chance.pick(&[0, 0, 300]) } else { 0 },
            varies_cores: chance.once_in(2),
            varies_levels,
            has_classes,
            varies_classes,
            drops_classes: false,
            is_broken: false,
            cache_bytes_max: *chance.pick(&[CACHE_BYTES_LEAST, 8_192, 1 << 20]),
            unsynced: BTreeSet::new(),
            cuts_once_in,
            retention,
            hours_once_in: if cuts_once_in == 0 { 0 } else { *chance.pick(&[0, 100, 400]) },
            wall_steps_once_in: *chance.pick(&[0, 50, 400]),
            repeats_keys: false,
            post_rates: PostRates::default(),
            has_pacing: false,
            has_program: false,
        };
        let profile = Profile { history_is_whole: profile.history_is_whole && profile.keeps_log(), ..profile };
        let is_dropping = profile.cuts_once_in == CUTS_OFTEN_ONCE_IN;
        if is_dropping { profile.dropping_much().noting_unsynced() } else { profile.noting_unsynced() }
    }

    /// With what a seed's number says rather than its chance: what comes to the world later leaves the seeds as they are that
    /// once showed a mistake.
    #[must_use]
    pub fn numbered(self, seed: u64) -> Self {
        let has_rates = seed % 16 == SEEDS_WITH_POST_RATES;
        let rates = has_rates.then(|| vec![(RoomPattern::new("room-0"), 3), (RoomPattern::new("room-*"), 30)]);
        let post_rates = PostRates::new(rates.unwrap_or_default());
        let (repeats_keys, has_pacing) = (SEEDS_THAT_REPEAT_KEYS.contains(&(seed % 8)), seed % 32 == SEEDS_WITH_PACING);
        Profile { repeats_keys, has_pacing, post_rates, ..self }
    }

    /// A life of many starts in which nearly all is dropped soon: what a room was told before meets what it goes on under.
    fn dropping_much(self) -> Self {
        let crashes_once_in = if self.crashes_once_in == 0 { 0 } else { 60 };
        Profile {
            cuts_once_in: 8,
            crashes_once_in,
            crashes_max: 12,
            stops_once_in: 60,
            varies_classes: self.has_classes,
            drops_classes: true,
            retention: None,
            ..self
        }
    }

    /// Another start, with other levels or classes, if they vary.
    #[must_use]
    pub fn at_next_start(mut self, chance: &mut Seeded) -> Self {
        let of_rooms: Vec<RoomPolicy> = self.room_names().map(|room| *self.policies.of(&room)).collect();
        let mut levels: Vec<_> = of_rooms.iter().map(|policy| policy.durability).collect();
        let mut classes: Vec<_> = of_rooms.iter().map(|policy| policy.class).collect();
        if self.varies_levels {
            levels = self::levels(true, self.rooms, chance);
        }
        if self.varies_classes {
            classes = self::classes(true, self.rooms, chance);
        }
        self.policies = policies(true, &levels, &classes, &self.limits);
        self.noting_unsynced()
    }

    fn room_names(&self) -> impl Iterator<Item = String> + use<> {
        room_names(self.rooms)
    }

    fn noting_unsynced(mut self) -> Self {
        let rooms = self.room_names();
        self.unsynced.extend(rooms.filter(|room| self.policies.of(room).durability != Durability::Synced));
        self
    }

    /// What a key is remembered by, where that can be judged: nothing goes from the log, and no key for want of bytes.
    pub fn window_limits(&self) -> Option<&Limits> {
        let has_bytes = self.limits.dedupe_bytes_per_core_max == DEDUPE_BYTES_PLENTY;
        (self.keeps_log() && has_bytes).then_some(&self.limits)
    }

    fn keeps_log(&self) -> bool {
        self.cuts_once_in == 0 && self.faults.rot_once_in == 0 && self.faults.rot_unsealed_once_in == 0
    }

    /// Whether a reading of the log may come to nothing.
    pub fn reads_fail(&self) -> bool {
        let Faults { read_once_in, flip_once_in, rot_once_in, rot_unsealed_once_in, index_once_in, .. } = self.faults;
        [read_once_in, flip_once_in, rot_once_in, rot_unsealed_once_in, index_once_in]
            .iter()
            .any(|&once_in| once_in != 0)
    }

    /// Whether the log has all that was ever acknowledged in the room of that name, under one epoch.
    pub fn keeps(&self, room: &str) -> bool {
        self.is_synced(room) && self.history_is_whole && !self.is_broken && !self.varies_classes
    }

    /// Whether retention may take all that a room has.
    pub fn may_drop_rooms(&self) -> bool {
        self.cuts_once_in != 0 || self.drops_classes || self.hours_once_in != 0
    }

    /// Whether the room of that name was synced at every start.
    pub fn is_synced(&self, room: &str) -> bool {
        !self.unsynced.contains(room)
    }
}

fn room_names(rooms: usize) -> impl Iterator<Item = String> + use<> {
    (0..rooms).map(|number| format!("room-{number}"))
}

/// Every room in memory, or synced, or one of each level and more, or each of any.
fn levels(is_logged: bool, rooms: usize, chance: &mut Seeded) -> Vec<Durability> {
    if !is_logged {
        return vec![Durability::Memory; rooms];
    }
    match chance.below(4) {
        0 | 1 => vec![Durability::Synced; rooms],
        2 => [Durability::Written, Durability::Memory]
            .into_iter()
            .chain(std::iter::repeat(Durability::Synced))
            .take(rooms)
            .collect(),
        _ => (0..rooms).map(|_| *chance.pick(&Durability::ALL)).collect(),
    }
}

fn classes(has_classes: bool, rooms: usize, chance: &mut Seeded) -> Vec<Class> {
    (0..rooms).map(|_| if has_classes { *chance.pick(&CLASSES) } else { Class::SERVER }).collect()
}

/// What holds for the rooms, one after another.
fn policies(is_logged: bool, levels: &[Durability], classes: &[Class], limits: &Limits) -> RoomPolicies {
    let history_messages_max = limits.history_messages_max;
    let policy = |durability, class| RoomPolicy { durability, history_messages_max, class };
    let rules = room_names(levels.len()).zip(levels.iter().zip(classes));
    let rules = rules.map(|(room, (&level, &class))| (RoomPattern::new(&room), policy(level, class)));
    let otherwise = if is_logged { Durability::Synced } else { Durability::Memory };
    RoomPolicies { rules: rules.collect(), otherwise: policy(otherwise, Class::SERVER) }
}

fn faults(chance: &mut Seeded) -> Faults {
    Faults {
        append_once_in: *chance.pick(&[0, 0, 60, 15]),
        full_once_in: *chance.pick(&[0, 0, 40, 10]),
        no_space_once_in: *chance.pick(&[0, 0, 3]),
        delay_max: *chance.pick(&[0, 3, 20]),
        sync_delay_max: *chance.pick(&[0, 20, 80]),
        writes_through: chance.once_in(2),
        read_once_in: if READS_FAIL { *chance.pick(&[0, 0, 8, 40]) } else { 0 },
        flip_once_in: if READS_FLIP { *chance.pick(&[0, 0, 8, 40]) } else { 0 },
        rot_once_in: if SEGMENTS_ROT { *chance.pick(&[0, 0, 0, 60]) } else { 0 },
        rot_unsealed_once_in: if UNSEALED_ROT { *chance.pick(&[0, 0, 0, 2]) } else { 0 },
        index_once_in: *chance.pick(&[0, 0, 2, 10]),
    }
}
