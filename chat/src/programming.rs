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

use std::collections::{BTreeSet, VecDeque};

use banter_log::journal::Journal;
use banter_log::key::body_hash;
use banter_log::reading::{ReadFault, StateRead};
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::ids::{RoomName, Sequence, UserName};
use banter_protocol::native::read_state;
use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::address::Now;
use crate::commits::{Decided, Open};
use crate::parcel::{Answer, OwnedBody, Refusal, Up};
use crate::program::{
    Budget, Call, Effect, Effects, Engine, Event, Fault, FaultKind, Hook, MESSAGE_BYTES_MAX, ProgramId,
    REASON_BYTES_MAX, REPLY_BYTES_MAX, RoomFacts, Spent, Verdict,
};
use crate::programs::{By, OnFault, ProgramLimits, ProgramRule, ProgramSet, Programs};
use crate::room_program::{RoomProgram, Unread};
use crate::room_state::{RoomState, StateDraft};
use crate::rooms::Rooms;
use crate::turn::Turn;

/// Bytes of a message's frame beside its body and the names.
const FRAME_OVERHEAD_BYTES: usize = 256;
/// Bytes of a state's record beside what it counts itself: prefix, frame, archive, the room's name, version and counts.
const STATE_OVERHEAD_BYTES: usize = 256;
/// What programs say for the log that one turn of a core passes on; what is more is counted.
const NOTES_MAX: usize = 64;
/// Programs that a post may come through on its way from room to room; what comes through more is dropped, and counted.
const HOPS_MAX: u8 = 3;
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
    /// Rooms whose state is being read, by the ticket of the reading.
    reading: FxHashMap<u32, usize>,
    /// When which room's first timer comes due, by the log's clock.
    timers: BTreeSet<(u64, usize)>,
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
}

/// When a timer that is due is told.
enum Ticks {
    Now,
    Later,
    /// Not by this set of programs.
    Never,
}

/// What a program made of a post.
pub(crate) struct PostDecided {
    /// What stands instead of its body.
    pub(crate) body: Option<OwnedBody>,
    /// What goes with its place.
    pub(crate) decided: Box<Decided>,
    /// What the program says behind it, and as whom.
    pub(crate) own: Vec<Bytes>,
    pub(crate) user: Option<UserName>,
    /// It is said in that room instead.
    pub(crate) route: Option<RoomName>,
}

impl PostDecided {
    fn routed(room: RoomName) -> Self {
        let (body, decided, own, user) = (None, Box::default(), Vec::new(), None);
        PostDecided { body, decided, own, user, route: Some(room) }
    }
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
        !self.waiting.is_empty() || !self.notes.is_empty()
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
    /// Other programs from here on; the engine before. Each room finds out with the next that it is asked. Who failed under another
    /// text starts anew.
    pub(crate) fn set_programs(&mut self, set: ProgramSet) -> Option<Box<dyn Engine>> {
        let ProgramSet { programs, engine, limits, seed } = set;
        let programming = &mut self.programming;
        // What is counted of a program goes on under its name.
        let before = |rule: &ProgramRule| {
            let at = programming.programs.rules().iter().position(|before| before.name == rule.name);
            at.and_then(|at| programming.counts.get(at)).copied().unwrap_or_default()
        };
        programming.counts = programs.rules().iter().map(before).collect();
        (programming.programs, programming.limits) = (programs, limits);
        programming.seed ^= seed;
        programming.version = programming.version.checked_add(1).unwrap_or(1);
        programming.units_left = limits.units_per_turn_max;
        programming.engine.replace(engine)
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
        kept.program = program;
        if kept.digest != digest {
            (kept.digest, kept.faults) = (digest, Default::default());
        }
        if is_new || kept.unread.is_some() {
            self.read_state(slot);
        }
        self.set_timer(slot);
    }

    fn read_state(&mut self, slot: usize) {
        let room = &mut self.slots[slot];
        let Some(journal) = self.journal.as_mut().filter(|_| room.policy.durability.is_logged()) else { return };
        if journal.catalog().room(room.id).is_none() {
            return;
        }
        let ticket = journal.read_state(room.id);
        room.held.get_or_insert_default().readings += 1;
        self.programming.reading.insert(ticket, slot);
        self.is_used(slot);
    }

    /// The state of a room was read, or could not be: then its program decides nothing until it is read again.
    pub(crate) fn state_read(&mut self, ticket: u32, read: Result<Option<StateRead>, ReadFault>, turn: &mut Turn<'_>) {
        let Some(slot) = self.programming.reading.remove(&ticket) else { return };
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
        }
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
            self.take_held(slot, turn);
        }
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
                Called::NotAsked | Called::Failed(_) | Called::Later(_) | Called::Unread(_) => {
                    self.open_beside(slot, Vec::new(), turn)
                }
            }
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

    /// The room is forgotten.
    pub(crate) fn forget_program(&mut self, slot: usize) {
        if let Some(due_ms) = self.slots[slot].program.as_deref().and_then(|kept| kept.timer_ms) {
            self.programming.timers.remove(&(due_ms, slot));
        }
    }

    /// Asks the room's program.
    fn call(&mut self, slot: usize, event: &Event<'_>, turn: &mut Turn<'_>) -> Called {
        let Some(program) = self.slots[slot].program.as_ref().and_then(|kept| kept.program) else {
            return Called::NotAsked;
        };
        let Some(engine) = &self.programming.engine else { return Called::NotAsked };
        let facts = engine.facts(program);
        if !facts.hooks.has(event.hook()) {
            return Called::NotAsked;
        }
        let (now_ms, per_second_max) = (turn.now.monotonic_ms, self.programming.limits.units_per_second_max);
        let Some(kept) = self.slots[slot].program.as_deref_mut() else { return Called::NotAsked };
        if kept.faults.is_suspended(now_ms) {
            return self.failed(program, FaultKind::Suspended);
        }
        match kept.unread {
            None => {}
            Some(unread) if unread.is_damaged => return self.failed(program, FaultKind::State),
            Some(unread) => return Called::Unread(unread.again_ms.saturating_sub(now_ms).max(1)),
        }
        if let Err(retry_after_ms) = kept.units.look(per_second_max, now_ms) {
            return Called::Later(retry_after_ms);
        }
        if kept.state.version != facts.version {
            if let Some(failed) = self.upgrade(slot, program, facts.hooks.has(Hook::Upgrade), turn) {
                return failed;
            }
            if let Some(kept) = self.slots[slot].program.as_deref_mut() {
                kept.state.version = facts.version;
            }
        }
        self.call_hook(slot, program, event, turn)
    }

    /// Brings a state of another version along; `Some`: it could not be.
    fn upgrade(&mut self, slot: usize, program: ProgramId, has_hook: bool, turn: &mut Turn<'_>) -> Option<Called> {
        let from = self.slots[slot].program.as_deref().map_or(0, |kept| kept.state.version);
        if from == 0 || !has_hook {
            return None;
        }
        match self.call_hook(slot, program, &Event::Upgrade { from }, turn) {
            Called::Decided(_, effects) => {
                self.open_beside(slot, effects, turn);
                None
            }
            failed => {
                // The state stays as it is, and nothing is decided by it.
                let now_ms = turn.now.monotonic_ms;
                let for_ms = self.slots[slot].program.as_deref_mut().map(|kept| kept.faults.suspend(now_ms));
                self.suspended(slot, program, for_ms.unwrap_or_default());
                Some(failed)
            }
        }
    }

    fn call_hook(&mut self, slot: usize, program: ProgramId, event: &Event<'_>, turn: &mut Turn<'_>) -> Called {
        let state_bytes_max = self.state_bytes_max();
        let frame_bytes_max = self.limits.frame_bytes_max as usize;
        let time_ms = self.clock.time_ms();
        let commit_bytes_max = self.journal.as_ref().map_or(usize::MAX, Journal::commit_bytes_max);
        let seed = self.programming.next_seed();
        let (room, programming) = (&self.slots[slot], &mut self.programming);
        let Some(kept) = room.program.as_deref() else { return Called::NotAsked };
        let Some(rule) = programming.programs.rule(program) else { return Called::NotAsked };
        let Some(engine) = &mut programming.engine else { return Called::NotAsked };
        let body_bytes_max =
            frame_bytes_max.saturating_sub(room.name.as_str().len() + rule.user.as_str().len() + FRAME_OVERHEAD_BYTES);
        let mut state = StateDraft::new(&kept.state, state_bytes_max, time_ms);
        let (mut effects, mut spent) = (Effects::new(body_bytes_max, &rule.post_to), Spent::default());
        let has = |user: &str| UserName::new(user).is_ok_and(|user| room.has_member(&user));
        let facts = RoomFacts {
            name: room.name.as_str(),
            epoch: room.epoch,
            head: room.head(),
            members: room.members_count(),
            now_ms: time_ms,
            seed,
            has: &has,
        };
        let limits = programming.limits;
        let watch_us = (limits.watch_us != 0).then_some(limits.watch_us);
        let budget = Budget { units: limits.units_per_call_max, bytes: limits.call_bytes_max, watch_us };
        let (state_in, effects_in, spent_in) = (&mut state, &mut effects, &mut spent);
        let call = Call { event, room: facts, state: state_in, effects: effects_in, budget, spent: spent_in };
        let verdict = engine.call(program, call);
        let verdict = verdict.and_then(|verdict| checked(event, verdict, &effects));
        let said = said_bytes(event, verdict.as_ref().ok());
        let beside = said + state.bytes() + STATE_OVERHEAD_BYTES;
        let verdict = verdict.and_then(|verdict| fits_commit(&effects, beside, commit_bytes_max).map(|()| verdict));
        // What a stopping server would begin nobody sees any more: its programs decide, and do nothing.
        let (changes, effects) = match self.draining {
            true => Default::default(),
            false => (state.into_changes(), effects.take()),
        };
        turn.counters.steps += 1;
        programming.units_left = programming.units_left.saturating_sub(spent.units.max(1));
        if let Some(counts) = programming.counts.get_mut(usize::from(program.0)) {
            counts.calls += 1;
            counts.units += u64::from(spent.units);
            match &verdict {
                Ok(Verdict::Refuse { .. }) => counts.refusals += 1,
                Ok(Verdict::Edit(_)) => counts.edits += 1,
                Ok(Verdict::Take { .. }) => counts.takes += 1,
                _ => {}
            }
        }
        let Some(kept) = self.slots[slot].program.as_deref_mut() else { return Called::NotAsked };
        kept.units.take(spent.units);
        match verdict {
            Ok(verdict) => {
                if !changes.is_empty() {
                    kept.state.apply(changes);
                    kept.is_unsaid = true;
                    self.set_timer(slot);
                }
                Called::Decided(verdict, effects)
            }
            Err(fault) => self.faulted(slot, program, fault, turn),
        }
    }

    /// Bytes of a room's state at most: what is configured, as far as one state fits a commit beside a message.
    fn state_bytes_max(&self) -> usize {
        let configured = self.programming.limits.state_bytes_max as usize;
        let message_bytes_max = self.limits.frame_bytes_max as usize + FRAME_OVERHEAD_BYTES;
        let fits = self.journal.as_ref().map(|journal| journal.state_bytes_max(message_bytes_max));
        fits.map_or(configured, |fits| configured.min(fits.saturating_sub(STATE_OVERHEAD_BYTES)))
    }

    fn faulted(&mut self, slot: usize, program: ProgramId, fault: Fault, turn: &mut Turn<'_>) -> Called {
        let kind = fault.kind;
        let room = &mut self.slots[slot];
        let name = self.programming.name_of(program);
        self.programming.note(&name, (&room.name, room.head()), Noted::Failed(fault));
        let suspended_ms = room.program.as_deref_mut().and_then(|kept| kept.faults.add(turn.now.monotonic_ms));
        if let Some(for_ms) = suspended_ms {
            self.suspended(slot, program, for_ms);
        }
        self.failed(program, kind)
    }

    fn suspended(&mut self, slot: usize, program: ProgramId, for_ms: u64) {
        let room = &self.slots[slot];
        let name = self.programming.name_of(program);
        self.programming.note(&name, (&room.name, room.head()), Noted::Suspended(for_ms));
        if let Some(counts) = self.programming.counts.get_mut(usize::from(program.0)) {
            counts.suspensions += 1;
        }
    }

    fn failed(&mut self, program: ProgramId, kind: FaultKind) -> Called {
        if let Some(counts) = self.programming.counts.get_mut(usize::from(program.0)) {
            counts.faults[kind as usize] += 1;
        }
        Called::Failed(kind)
    }

    fn on_fault(&self, slot: usize) -> OnFault {
        let program = self.slots[slot].program.as_ref().and_then(|kept| kept.program);
        program
            .and_then(|program| self.programming.programs.rule(program))
            .map_or(OnFault::Refuse, |rule| rule.on_fault)
    }

    /// What is answered where the program decided against it, or did not decide; none: it goes on.
    fn refusal_of_call(&self, slot: usize, called: &Called) -> Option<Refusal> {
        match called {
            Called::NotAsked => None,
            Called::Decided(Verdict::Refuse { reason, message, retry_after_ms }, _) => Some(Refusal {
                code: ErrorCode::ProgramRefused,
                message: message.as_deref().unwrap_or("the room's program refused it").to_owned().into(),
                retry_after_ms: *retry_after_ms,
                scope: None,
                reason: Some(reason.clone()),
            }),
            Called::Decided(..) => None,
            Called::Failed(_) if self.on_fault(slot) == OnFault::Pass => None,
            Called::Failed(kind) => Some(Refusal {
                code: ErrorCode::ProgramFailed,
                message: "the room's program failed, and nothing passes without it".into(),
                retry_after_ms: None,
                scope: None,
                reason: Some(kind.name().into()),
            }),
            Called::Unread(retry_after_ms) => Some(Refusal {
                code: ErrorCode::Overloaded,
                message: "the log could not be read for what the room's program remembers: try again".into(),
                retry_after_ms: Some(*retry_after_ms),
                scope: Some(Scope::Server),
                reason: None,
            }),
            Called::Later(retry_after_ms) => Some(Refusal {
                code: ErrorCode::RateLimited,
                message: "the room's program has taken what it may of a second: units_per_second_max".into(),
                retry_after_ms: Some(*retry_after_ms),
                scope: Some(Scope::Room),
                reason: None,
            }),
        }
    }

    /// Has the program decide of a post, ahead of its place.
    pub(crate) fn decide_post(
        &mut self,
        slot: usize,
        (user, key, body, hop): (&UserName, Option<&str>, &OwnedBody, u8),
        turn: &mut Turn<'_>,
    ) -> Result<Option<PostDecided>, Answer> {
        if hop > HOPS_MAX {
            self.count_dropped(slot);
            let message = "this post came through more rooms with programs than it may";
            return Err(Answer::PostRefused(Refusal::new(ErrorCode::ProgramRefused, message)));
        }
        let called = self.call(slot, &Event::Post { user, key, hop, body }, turn);
        if let Some(refusal) = self.refusal_of_call(slot, &called) {
            if let Called::Decided(_, effects) = called {
                self.open_beside(slot, effects, turn);
            }
            return Err(Answer::PostRefused(refusal));
        }
        let Called::Decided(verdict, effects) = called else { return Ok(None) };
        let edited = match verdict {
            Verdict::Edit(body) => Some(OwnedBody::json(body.into())),
            Verdict::Take { reply } => {
                self.open_beside(slot, effects, turn);
                let room = self.slots[slot].name.clone();
                return Err(Answer::Taken { room, reply: reply.map(Bytes::from) });
            }
            Verdict::Route(room) => {
                self.open_beside(slot, effects, turn);
                return Ok(Some(PostDecided::routed(room)));
            }
            _ => None,
        };
        let sent_body_hash = edited.as_ref().filter(|_| key.is_some()).map(|_| body_hash(&body.bytes).into());
        let user = self.user_of_program(slot);
        let (own, effects) = split(effects);
        let (state, is_own, is_behind) = (self.unsaid_state(slot), false, false);
        let decided = Box::new(Decided { state, effects, sent_body_hash, is_own, is_behind, hop, by: self.by(slot) });
        Ok(Some(PostDecided { body: edited, decided, own, user, route: None }))
    }

    /// Has the program decide of something that gets no place.
    ///
    /// # Errors
    /// It is refused.
    pub(crate) fn decide(
        &mut self,
        slot: usize,
        event: &Event<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Option<Sequence>, Refusal> {
        let called = self.call(slot, event, turn);
        let refusal = self.refusal_of_call(slot, &called);
        let mut from = None;
        if let Called::Decided(verdict, effects) = called {
            if let Verdict::From(first) = verdict {
                from = Some(first);
            }
            self.open_beside(slot, effects, turn);
        }
        refusal.map_or(Ok(from), Err)
    }

    fn by(&self, slot: usize) -> Option<By> {
        let program = self.slots[slot].program.as_ref()?.program?;
        Some(self.programming.programs.by(program))
    }

    fn user_of_program(&self, slot: usize) -> Option<UserName> {
        let program = self.slots[slot].program.as_ref()?.program?;
        self.programming.programs.rule(program).map(|rule| rule.user.clone())
    }

    /// The state as bytes, where the last commit does not have it.
    fn unsaid_state(&mut self, slot: usize) -> Option<Bytes> {
        let kept = self.slots[slot].program.as_deref_mut().filter(|kept| kept.is_unsaid)?;
        // What waits from here on has it; if that comes to nothing, it is unsaid again.
        kept.is_unsaid = false;
        Some(kept.state.encode().into())
    }

    /// Commits what a call did that has no place of its own: its posts in the room, its state, and then the rest.
    fn open_beside(&mut self, slot: usize, effects: Vec<Effect>, turn: &mut Turn<'_>) {
        let (own, effects) = split(effects);
        let state = self.unsaid_state(slot);
        let by = self.by(slot);
        let decided = Decided { state, effects, is_own: true, by, ..Decided::default() };
        if !own.is_empty()
            && let Some(user) = self.user_of_program(slot)
        {
            return self.open_own(slot, &user, own, Some(Box::new(decided)), turn);
        }
        if decided.state.is_some() || !decided.effects.is_empty() {
            self.open(Some(slot), Open::State { decided: Box::new(decided) });
        }
        self.is_used_by_program(slot);
    }

    /// Something that a program said came nowhere.
    pub(crate) fn count_dropped(&mut self, slot: usize) {
        if let Some(program) = self.slots[slot].program.as_deref().and_then(|kept| kept.program)
            && let Some(counts) = self.programming.counts.get_mut(usize::from(program.0))
        {
            counts.dropped += 1;
        }
    }

    /// The program says a line for the server's log.
    pub(crate) fn note_of_program(&mut self, slot: usize, rule: &ProgramRule, text: Box<str>) {
        let room = &self.slots[slot];
        self.programming.note(&rule.name, (&room.name, room.head()), Noted::Said(text));
    }

    fn is_used_by_program(&mut self, slot: usize) {
        if self.slots[slot].is_busy() {
            self.is_used(slot);
        }
    }

    /// Gives a program's own posts their places; what is beside goes with the first.
    pub(crate) fn open_own(
        &mut self,
        slot: usize,
        user: &UserName,
        own: Vec<Bytes>,
        mut beside: Option<Box<Decided>>,
        turn: &Turn<'_>,
    ) {
        let count = own.len() as u64;
        for bytes in own {
            let body = OwnedBody::json(bytes);
            let behind = || Box::new(Decided { is_own: true, is_behind: true, ..Decided::default() });
            let decided = beside.take().unwrap_or_else(behind);
            self.open_own_post(slot, user, &body, decided, turn);
        }
        self.is_used_by_program(slot);
        if let Some(program) = self.slots[slot].program.as_deref().and_then(|kept| kept.program)
            && let Some(counts) = self.programming.counts.get_mut(usize::from(program.0))
        {
            counts.posts += count;
        }
    }
}

/// Whether a parcel may call a program.
fn calls(parcel: &Up) -> bool {
    matches!(parcel, Up::Post { .. } | Up::Say(_) | Up::Join(_) | Up::Leave { .. } | Up::Fetch(_) | Up::Signal { .. })
}

/// A call's own posts, and the rest.
fn split(effects: Vec<Effect>) -> (Vec<Bytes>, Vec<Effect>) {
    let (mut own, mut rest) = (Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::Post(body) => own.push(body.into()),
            effect => rest.push(effect),
        }
    }
    (own, rest)
}

fn body_of(read: &StateRead) -> Option<(Bytes, RoomState)> {
    let state = read_state(&read.frame).ok()?;
    Some((Bytes::copy_from_slice(state.body), RoomState::decode(state.body)?))
}

/// A verdict that belongs to what was asked, and is not too long.
fn checked(event: &Event<'_>, verdict: Verdict, effects: &Effects<'_>) -> Result<Verdict, Fault> {
    let body_bytes_max = effects.body_bytes_max();
    let hook = event.hook();
    let fault = |message: String| Err(Fault::new(FaultKind::Error, message));
    match &verdict {
        Verdict::Pass => {}
        Verdict::Edit(_) | Verdict::Take { .. } | Verdict::Route(_) if hook != Hook::Post => {
            return fault(format!("`{}` has a verdict that only `post` can have", hook.name()));
        }
        Verdict::Route(room) => {
            let granted = effects.may_reach(room);
            granted.map_err(|why| Fault::new(FaultKind::Effects, format!("route: {why}")))?;
        }
        Verdict::Edit(body) if body.len() > body_bytes_max => {
            return Err(Fault::new(
                FaultKind::Effects,
                format!("the edited body is larger than {body_bytes_max} bytes"),
            ));
        }
        Verdict::Take { reply: Some(reply) } if reply.len() > REPLY_BYTES_MAX => {
            return Err(Fault::new(FaultKind::Effects, format!("the reply is larger than {REPLY_BYTES_MAX} bytes")));
        }
        Verdict::Edit(_) | Verdict::Take { .. } => {}
        Verdict::Refuse { .. } if matches!(hook, Hook::Leave | Hook::Tick | Hook::Upgrade) => {
            return fault(format!("`{}` has nothing to refuse", hook.name()));
        }
        Verdict::Refuse { reason, message, .. } => {
            let message_bytes = message.as_deref().map_or(0, str::len);
            if reason.len() > REASON_BYTES_MAX || message_bytes > MESSAGE_BYTES_MAX {
                return fault(format!(
                    "a refusal has a reason of {REASON_BYTES_MAX} bytes at most, and a message of {MESSAGE_BYTES_MAX}"
                ));
            }
        }
        Verdict::From(_) if !matches!(hook, Hook::Join | Hook::Fetch) => {
            return fault(format!("`{}` has no beginning to move", hook.name()));
        }
        Verdict::From(_) => {}
    }
    Ok(verdict)
}

/// Bytes of what a call is about, where that gets a place.
fn said_bytes(event: &Event<'_>, verdict: Option<&Verdict>) -> usize {
    match (event, verdict) {
        (Event::Post { .. }, Some(Verdict::Edit(body))) => body.len(),
        (Event::Post { body, .. }, _) => body.bytes.len(),
        _ => 0,
    }
}

/// That what a call says fits one commit, with what it is about and the room's state.
fn fits_commit(effects: &Effects<'_>, beside_bytes: usize, commit_bytes_max: usize) -> Result<(), Fault> {
    let (posts, bytes) = effects.own_posts();
    if posts == 0 || bytes + beside_bytes + (posts + 1) * FRAME_OVERHEAD_BYTES <= commit_bytes_max {
        return Ok(());
    }
    Err(Fault::new(
        FaultKind::Effects,
        "its posts do not fit one commit of the log with this one: log_commit_bytes_max",
    ))
}

impl RoomProgram {
    /// What commits say of the room that say nothing new of its state: nothing, where there is none.
    pub(crate) fn carried(&self) -> Option<&Bytes> {
        Some(&self.committed).filter(|committed| !committed.is_empty())
    }
}
