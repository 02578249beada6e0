//! The limits that a seed runs under: mostly tight, so that every one of them is reached.

use std::collections::BTreeSet;

use banter_chat::limits::Limits;
use banter_chat::policy::{Durability, RoomPattern, RoomPolicies, RoomPolicy};

use super::disk::Faults;
use crate::seeded::Seeded;

/// More bytes of history than any seed comes to.
pub const HISTORY_BYTES_PLENTY: u64 = 1 << 30;
/// More bytes of keys than any seed comes to.
const DEDUPE_BYTES_PLENTY: u64 = 1 << 27;

/// Whether starts may differ in the levels of rooms.
///
/// Off: a room that is changed from `synced` to `written` keeps its epoch, so a power cut that takes all that was written
/// since has its places given again under it (seed 223 on 2 cores).
const LEVELS_VARY: bool = true;

/// Whether reads fail at times.
const READS_FAIL: bool = true;
/// Whether reads bring a wrong bit at times, and the right one when they are made again.
const READS_FLIP: bool = true;
/// Whether a room without messages is told under the same epoch at the next start, if nothing was dropped or broken.
pub const BLANK_EPOCHS_LAST: bool = true;
/// Bytes of pages that a core keeps at least. With 0 a reading that needs two pages asks for them in turns, for ever.
const CACHE_BYTES_LEAST: u64 = 0;
/// Whether sealed segments rot.
const SEGMENTS_ROT: bool = true;

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
    /// Every room broke at some start: the ledger was lost.
    pub is_broken: bool,
    /// Bytes of pages of the log's files that a core keeps in memory.
    pub cache_bytes_max: u64,
    /// Rooms that were not synced at some start.
    pub unsynced: BTreeSet<String>,
    /// The oldest segment is forgotten once in so many steps; 0 = never.
    pub cuts_once_in: usize,
    /// The wall clock steps once in so many steps, and at every other start; 0 = never.
    pub wall_steps_once_in: usize,
}

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
        let policies = policies(is_logged, &limits, chance);
        let cuts_once_in = if is_logged { *chance.pick(&[0, 0, 60]) } else { 0 };
        let is_kept = policies.rules.is_empty() && !varies_levels && is_logged && cuts_once_in == 0;
        let faults = faults(chance);
        let drops = cuts_once_in != 0 || faults.rot_once_in != 0;
        let whole = (history_is_whole || is_kept) && limits.rooms_max > 100 && !drops;
        let steps = *chance.pick(&[200, 500, 1_200]);
        let profile = Profile {
            clients: 2 + chance.below(12),
            rooms: 1 + chance.below(5),
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
            is_broken: false,
            cache_bytes_max: *chance.pick(&[CACHE_BYTES_LEAST, 8_192, 1 << 20]),
            unsynced: BTreeSet::new(),
            cuts_once_in,
            wall_steps_once_in: *chance.pick(&[0, 50, 400]),
        };
        profile.noting_unsynced()
    }

    /// Another start, with other levels.
    #[must_use]
    pub fn with_other_levels(mut self, chance: &mut Seeded) -> Self {
        self.policies = policies(true, &self.limits, chance);
        self.noting_unsynced()
    }

    fn noting_unsynced(mut self) -> Self {
        let rooms = (0..self.rooms).map(|number| format!("room-{number}"));
        self.unsynced.extend(rooms.filter(|room| self.policies.of(room).durability != Durability::Synced));
        self
    }

    /// What a key is remembered by, where that can be judged: no message is missing, and no key goes for want of bytes.
    pub fn window_limits(&self) -> Option<&Limits> {
        let has_bytes = self.limits.dedupe_bytes_per_core_max == DEDUPE_BYTES_PLENTY;
        (self.history_is_whole && has_bytes).then_some(&self.limits)
    }

    /// Whether a reading of the log may come to nothing.
    pub fn reads_fail(&self) -> bool {
        let Faults { read_once_in, flip_once_in, rot_once_in, index_once_in, .. } = self.faults;
        [read_once_in, flip_once_in, rot_once_in, index_once_in].iter().any(|&once_in| once_in != 0)
    }

    /// Whether the log has all that was ever acknowledged in the room of that name, under one epoch.
    pub fn keeps(&self, room: &str) -> bool {
        self.is_synced(room) && self.history_is_whole && !self.is_broken
    }

    /// Whether the room of that name was synced at every start.
    pub fn is_synced(&self, room: &str) -> bool {
        !self.unsynced.contains(room)
    }
}

/// Every room in memory, or synced, or one of each level and more.
fn policies(is_logged: bool, limits: &Limits, chance: &mut Seeded) -> RoomPolicies {
    let history_messages_max = limits.history_messages_max;
    let policy = |durability| RoomPolicy { history_messages_max, ..RoomPolicies::all(durability).otherwise };
    let rule = |room: &str, durability| (RoomPattern::new(room), policy(durability));
    let mixed = vec![rule("room-0", Durability::Written), rule("room-1", Durability::Memory)];
    let level = if is_logged { Durability::Synced } else { Durability::Memory };
    let rules = if is_logged && chance.once_in(2) { mixed } else { Vec::new() };
    RoomPolicies { rules, otherwise: policy(level) }
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
        index_once_in: *chance.pick(&[0, 0, 2, 10]),
    }
}
