//! Where rooms call their programs: on the way of a post, a join, a leave, a signal, a fetch, and when a timer comes due.
//!
//! ```text
//!  parcel ─▶ has the room a program, and its state? ─▶ within its units? ─▶ Engine::call ─▶ state and effects, with the place
//!                                  └─ held until it is read      └─ held until the next turn
//! ```
//!
//! Invariants:
//! - A program is called only with its room's whole state: what comes while that is being read waits, in its order.
//! - What a call changed of the state is committed with the place that it was called for, or alone where there is none, and an answer
//!   that tells of it waits for that.
//! - A room without a program costs one comparison.
//! - What the rooms of a program come to is known without looking them through (`tallying.rs`).

mod calling;
pub mod dearest;
mod deciding;
mod tallying;

use std::collections::{BTreeSet, VecDeque};

use banter_log::reading::{ReadFault, StateRead};
use banter_protocol::ids::{RoomName, Sequence};
use banter_protocol::native::read_state;
use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::address::Now;
use crate::logs::{LogId, Reading};
use crate::parcel::Up;
use crate::program::{Effect, Engine, Event, Fault, FaultKind, Hook, ProgramId, Verdict};
use crate::programs::{ProgramLimits, ProgramRule, ProgramSet, Programs};
use crate::room_program::{RoomProgram, Unread};
use crate::room_state::RoomState;
use crate::rooms::Rooms;
use crate::turn::Turn;

pub use tallying::{SUSPENDED_LISTED_MAX, SuspendedRoom};

/// What programs say for the log that one turn of a core passes on; what is more is counted.
const NOTES_MAX: usize = 64;
/// Timers that one turn of a core has called.
const TICKS_A_TURN: usize = 64;
/// When a state is read again that could not be, and timers are looked at again that have to wait, in milliseconds.
const RETRY_AFTER_MS: u64 = 1_000;
/// When one is read again that is damaged: somebody may have restored its file.
const DAMAGED_AGAIN_MS: u64 = 60_000;

/// What is counted of a program on a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramCounts {
    /// Calls.
    pub calls: u64,
    /// Calls that came to no verdict, by kind at `kind as usize`; those that were not made, under `suspended`.
    pub faults: [u64; FaultKind::ALL.len()],
    /// Verdicts that refused.
    pub refusals: u64,
    /// Posts that it edited.
    pub edits: u64,
    /// Posts that it took.
    pub takes: u64,
    /// Posts of its own.
    pub posts: u64,
    /// Log lines, and posts to other rooms, that were lost.
    pub dropped: u64,
    /// Units.
    pub units: u64,
    /// Times that a room's program was suspended.
    pub suspensions: u64,
    /// Rooms in which it is suspended now.
    pub suspended_rooms: u64,
    /// Bytes of committed state that its rooms in memory have now.
    pub state_bytes: u64,
}

/// Something of a program for the server's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramNote {
    /// The program's name.
    pub program: Box<str>,
    /// The room.
    pub room: RoomName,
    /// The place of its newest message.
    pub head: Sequence,
    /// What.
    pub what: Noted,
}

/// What a note says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    /// The program said so.
    Said(Box<str>),
    /// It came to no verdict.
    Failed(Fault),
    /// It is not called in this room for so many milliseconds.
    Suspended(u64),
}

/// The programs of a core.
#[derive(Default)]
pub struct Programming {
    programs: Programs,
    engine: Option<Box<dyn Engine>>,
    limits: ProgramLimits,
    /// Goes up with each set of programs; 0: there was none yet. It comes again after 65,535 of them.
    version: u16,
    /// What the next call's random numbers come from.
    seed: u64,
    /// The turn's milliseconds.
    now_ms: u64,
    /// Units that this turn may still take.
    units_left: u32,
    /// Rooms with parcels that wait for units.
    waiting: VecDeque<usize>,
    /// Rooms whose state is being read.
    reading: FxHashMap<Reading, usize>,
    /// When which room's first timer comes due, by the log's clock.
    timers: BTreeSet<(u64, usize)>,
    /// Rooms that have or had a program, each at the place that it keeps.
    programmed: Vec<usize>,
    /// How many of them, from the first on, are still to follow other programs.
    to_follow: usize,
    /// Until when which room is suspended, by the turns' milliseconds.
    suspended: BTreeSet<(u64, usize)>,
    counts: Vec<ProgramCounts>,
    notes: Vec<ProgramNote>,
}

/// What came of looking for a program's decision.
enum Called {
    /// There is no program, or it has no hook for this.
    NotAsked,
    /// It decided, and did this beside.
    Decided(Verdict, Vec<Effect>),
    /// It came to no decision.
    Failed(FaultKind),
    /// Its room is over its units: when again, in milliseconds.
    Later(u64),
    /// Its room's state could not be read: when again.
    Unread(u64),
    /// More waits for the log than may.
    Full,
    /// The body is larger than one that it is asked about, of so many bytes.
    TooLarge(u32),
}

/// When a timer that is due is told.
enum Ticks {
    Now,
    Later,
    /// Not by this set of programs.
    Never,
}

impl Programming {
    /// What is counted of each program, in their order.
    pub fn counts(&self) -> impl Iterator<Item = (&ProgramRule, &ProgramCounts)> {
        self.programs.rules().iter().zip(&self.counts)
    }

    /// A turn begins.
    pub(crate) fn begin_turn(&mut self, now: Now) {
        self.now_ms = now.monotonic_ms;
        self.units_left = self.limits.units_per_turn_max;
    }

    /// Whether there is more to do without any input.
    pub(crate) fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.notes.is_empty() || self.to_follow > 0
    }

    /// What is to be said in the server's log.
    pub(crate) fn take_notes(&mut self) -> Vec<ProgramNote> {
        std::mem::take(&mut self.notes)
    }

    /// A step of a well-known generator (SplitMix64, Steele et al. 2014): what it gives is mixed from a number that nobody sees.
    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn note(&mut self, program: &str, (room, head): (&RoomName, Sequence), what: Noted) {
        if self.notes.len() >= NOTES_MAX {
            let at = self.programs.rules().iter().position(|rule| &*rule.name == program);
            if let Some(counts) = at.and_then(|at| self.counts.get_mut(at)) {
                counts.dropped += 1;
            }
            return;
        }
        self.notes.push(ProgramNote { program: program.into(), room: room.clone(), head, what });
    }

    fn name_of(&self, program: ProgramId) -> Box<str> {
        self.programs.rule(program).map(|rule| rule.name.clone()).unwrap_or_default()
    }
}

impl Rooms {
    /// Other programs from here on; the engine before. A room finds out with the next that it is asked, the others in this turn and
    /// the next ones. Who failed under another text starts anew.
    pub(crate) fn set_programs(&mut self, set: ProgramSet) -> Option<Box<dyn Engine>> {
        let ProgramSet { programs, engine, limits, seed } = set;
        let programming = &mut self.programming;
        // What is counted of a program goes on under its name; what its rooms come to they say when they follow.
        let before = |rule: &ProgramRule| {
            let at = programming.programs.rules().iter().position(|before| before.name == rule.name);
            let counts = at.and_then(|at| programming.counts.get(at)).copied().unwrap_or_default();
            ProgramCounts { suspended_rooms: 0, state_bytes: 0, ..counts }
        };
        programming.counts = programs.rules().iter().map(before).collect();
        (programming.programs, programming.limits) = (programs, limits);
        programming.seed ^= seed;
        programming.version = programming.version.checked_add(1).unwrap_or(1);
        programming.units_left = limits.units_per_turn_max;
        programming.to_follow = programming.programmed.len();
        let engine = programming.engine.replace(engine);
        self.follow_some();
        engine
    }

    /// The room goes by the programs that hold now, and has its state read if it lacks it.
    pub(crate) fn follow_programs(&mut self, slot: usize) {
        let (room, now_ms) = (&mut self.slots[slot], self.programming.now_ms);
        let is_to_be_read = |kept: &RoomProgram| kept.unread.is_some_and(|unread| unread.again_ms <= now_ms);
        if room.program_version == self.programming.version {
            if room.held.is_none() && room.program.as_deref().is_some_and(is_to_be_read) {
                self.read_state(slot);
            }
            return;
        }
        room.program_version = self.programming.version;
        let program = self.programming.programs.of(room.name.as_str());
        let digest = program.and_then(|program| self.programming.programs.rule(program)).map_or(0, |rule| rule.digest);
        let is_new = room.program.is_none();
        if program.is_none() && is_new {
            return;
        }
        let kept = room.program.get_or_insert_default();
        if is_new {
            kept.place = self.programming.programmed.len() as u32;
            self.programming.programmed.push(slot);
        }
        kept.program = program;
        if kept.digest != digest {
            (kept.digest, kept.faults) = (digest, Default::default());
        }
        if is_new || kept.unread.is_some() {
            self.read_state(slot);
        }
        self.tally(slot);
        self.set_timer(slot);
    }

    fn read_state(&mut self, slot: usize) {
        let room = &mut self.slots[slot];
        let (id, log) = (room.id, self.logs.id_of(room.id));
        let journal = self.logs.get_mut(log).filter(|_| room.policy.durability.is_logged());
        let journal = journal.filter(|journal| journal.catalog().room(id).is_some());
        if let Some(kept) = room.program.as_deref_mut() {
            kept.is_known = journal.is_none();
        }
        let Some(journal) = journal else { return };
        let ticket = journal.read_state(id);
        room.held.get_or_insert_default().readings += 1;
        self.programming.reading.insert(Reading { log, ticket }, slot);
        self.is_used(slot);
    }

    /// The state of a room was read, or could not be: then its program decides nothing until it is read again.
    pub(crate) fn state_read(
        &mut self,
        reading: Reading,
        read: Result<Option<StateRead>, ReadFault>,
        turn: &mut Turn<'_>,
    ) {
        let Some(slot) = self.programming.reading.remove(&reading) else { return };
        if let Some(kept) = self.slots[slot].program.as_deref_mut() {
            let again = |is_damaged, in_ms| Some(Unread { again_ms: turn.now.monotonic_ms + in_ms, is_damaged });
            kept.unread = match read.map(|read| read.map(|read| body_of(&read))) {
                Ok(None) => None,
                Ok(Some(Some((body, state)))) => {
                    (kept.committed, kept.state) = (body, state);
                    None
                }
                // Another build wrote it, or nobody did.
                Ok(Some(None)) => again(true, DAMAGED_AGAIN_MS),
                Err(ReadFault::Unreadable { .. }) => again(false, RETRY_AFTER_MS),
                Err(ReadFault::Damaged { .. } | ReadFault::StateDamaged { .. }) => again(true, DAMAGED_AGAIN_MS),
            };
            kept.is_known = kept.unread.is_none();
        }
        self.tally(slot);
        self.set_timer(slot);
        self.reading_is_done(slot, turn);
    }

    /// Whether the room's parcel has to wait, since this turn has given programs what it may.
    pub(crate) fn waits_for_units(&mut self, slot: usize, parcel: &Up) -> bool {
        let has_program = self.slots[slot].program.as_ref().is_some_and(|kept| kept.program.is_some());
        let is_spent = has_program && self.programming.units_left == 0;
        if !is_spent || !calls(parcel) {
            return false;
        }
        self.programming.waiting.push_back(slot);
        self.slots[slot].held.get_or_insert_default();
        self.is_used(slot);
        true
    }

    /// Whether this turn has given programs what it may, and the room has one.
    pub(crate) fn is_spent_for(&self, slot: usize) -> bool {
        self.programming.units_left == 0 && self.slots[slot].program.as_ref().is_some_and(|kept| kept.program.is_some())
    }

    /// What waited for units goes on; then timers that are due.
    pub(crate) fn tend_programs(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..self.programming.waiting.len() {
            if self.programming.units_left == 0 {
                break;
            }
            let Some(slot) = self.programming.waiting.pop_front() else { break };
            // What it waited for may have been taken meanwhile, and the room be gone.
            if self.slots.contains(slot) {
                self.take_held(slot, turn);
            }
        }
        self.follow_some();
        self.tick_programs(turn);
        if let Some(engine) = &mut self.programming.engine {
            engine.rest();
        }
    }

    /// A room goes on waiting for units.
    pub(crate) fn waits_on(&mut self, slot: usize) {
        self.programming.waiting.push_back(slot);
    }

    fn tick_programs(&mut self, turn: &mut Turn<'_>) {
        let time_ms = self.clock.time_ms();
        if self.draining {
            return;
        }
        for _ in 0..TICKS_A_TURN {
            let due = self.programming.timers.first().copied().filter(|&(due_ms, _)| due_ms <= time_ms);
            let Some((due_ms, slot)) = due.filter(|_| self.programming.units_left > 0) else { return };
            turn.counters.steps += 1;
            self.programming.timers.remove(&(due_ms, slot));
            if self.is_closed(slot) {
                // It leaves memory.
                if let Some(kept) = self.slots[slot].program.as_deref_mut() {
                    kept.timer_ms = None;
                }
                continue;
            }
            self.follow_programs(slot);
            let room = &mut self.slots[slot];
            let is_held = room.held.is_some();
            let Some(kept) = room.program.as_deref_mut() else { continue };
            kept.timer_ms = None;
            // Who reads the room is told; in one that nobody reads time stands still, and one that is being read goes on behind that.
            if is_held || room.readers_count() == 0 {
                continue;
            }
            match self.ticks(slot, turn.now.monotonic_ms) {
                Ticks::Now => {}
                Ticks::Never => continue,
                Ticks::Later => {
                    let again_ms = time_ms + RETRY_AFTER_MS;
                    if let Some(kept) = self.slots[slot].program.as_deref_mut() {
                        kept.timer_ms = Some(again_ms);
                        self.programming.timers.insert((again_ms, slot));
                    }
                    continue;
                }
            }
            let Some(kept) = self.slots[slot].program.as_deref_mut() else { continue };
            let Some(name) = kept.state.take_due(time_ms) else { continue };
            kept.is_unsaid = true;
            let called = self.call(slot, &Event::Tick { name: &name }, turn);
            match called {
                Called::Decided(_, effects) => self.open_beside(slot, effects, turn),
                // The timer is gone with that too.
                Called::NotAsked
                | Called::Failed(_)
                | Called::Later(_)
                | Called::Unread(_)
                | Called::Full
                | Called::TooLarge(_) => self.open_beside(slot, Vec::new(), turn),
            }
            // Its others go on, whatever the call changed.
            self.set_timer(slot);
        }
    }

    /// Whether the room's program can be called for a timer: the timer waits for it, as all of the state does.
    fn ticks(&mut self, slot: usize, now_ms: u64) -> Ticks {
        let per_second_max = self.programming.limits.units_per_second_max;
        let Some(kept) = self.slots[slot].program.as_deref_mut() else { return Ticks::Never };
        // With another set of programs it is looked at again.
        let facts = kept.program.zip(self.programming.engine.as_ref()).map(|(program, engine)| engine.facts(program));
        if !facts.is_some_and(|facts| facts.hooks.has(Hook::Tick)) {
            return Ticks::Never;
        }
        let waits = kept.unread.is_some()
            || kept.faults.is_suspended(now_ms)
            || kept.units.look(per_second_max, now_ms).is_err();
        if waits { Ticks::Later } else { Ticks::Now }
    }

    /// When the next timer comes due, by the turns' milliseconds.
    pub(crate) fn programs_due(&self) -> Option<u64> {
        let &(due_ms, _) = self.programming.timers.first()?;
        Some(self.programming.now_ms + due_ms.saturating_sub(self.clock.time_ms()).max(1))
    }

    /// The list of timers follows the room's state.
    pub(crate) fn set_timer(&mut self, slot: usize) {
        let room = &mut self.slots[slot];
        let has_readers = room.readers_count() > 0;
        let Some(kept) = room.program.as_deref_mut() else { return };
        let due_ms = kept.state.next_due().filter(|_| has_readers && kept.program.is_some());
        if kept.timer_ms == due_ms {
            return;
        }
        if let Some(before_ms) = std::mem::replace(&mut kept.timer_ms, due_ms) {
            self.programming.timers.remove(&(before_ms, slot));
        }
        if let Some(due_ms) = due_ms {
            self.programming.timers.insert((due_ms, slot));
        }
    }

    /// What is read of that log for states comes no more, and what waits for units goes. The rooms that waited for either.
    pub(crate) fn forget_states_of(&mut self, log: LogId) -> Vec<usize> {
        let reading = self.programming.reading.extract_if(|reading, _| reading.log == log).map(|(_, slot)| slot);
        let mut slots: Vec<usize> = reading.collect();
        let (rooms, logs) = (&self.slots, &self.logs);
        self.programming.waiting.retain(|&slot| {
            // What it waited for may have been taken meanwhile, and the room be gone.
            let goes = rooms.get(slot).is_some_and(|room| logs.id_of(room.id) == log);
            slots.extend(goes.then_some(slot));
            !goes
        });
        slots
    }

    /// The room is forgotten.
    pub(crate) fn forget_program(&mut self, slot: usize) {
        if let Some(due_ms) = self.slots[slot].program.as_deref().and_then(|kept| kept.timer_ms) {
            self.programming.timers.remove(&(due_ms, slot));
        }
        self.forget_tally(slot);
    }
}

/// Whether a parcel may call a program.
fn calls(parcel: &Up) -> bool {
    matches!(parcel, Up::Post { .. } | Up::Say(_) | Up::Join(_) | Up::Leave { .. } | Up::Fetch(_) | Up::Signal { .. })
}

fn body_of(read: &StateRead) -> Option<(Bytes, RoomState)> {
    let state = read_state(&read.frame).ok()?;
    Some((Bytes::copy_from_slice(state.body), RoomState::decode(state.body)?))
}
