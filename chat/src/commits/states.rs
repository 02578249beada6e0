//! The states of programmed rooms in a commit: which are said in it, which are only carried into another segment, and what they take.
//!
//! Invariant: what a commit holds of a room's state is the one behind the last that it holds of the room, so that state and places
//! share their fate.

use std::collections::{BTreeMap, VecDeque};

use banter_access::limit::Limit;
use banter_log::catalog::{Catalog, RoomLog};
use banter_log::index::Entry;
use banter_log::record::{Level, Record as LogRecord};
use banter_log::state::{StateRecord, state_record_bytes};
use banter_protocol::ids::{RoomId, RoomName, Sequence, UserName};
use banter_protocol::native::State;
use bytes::Bytes;
use slab::Slab;

use super::open::behind;
use super::{Decided, Open};
use crate::logs::LogId;
use crate::parcel::{Down, OwnedBody};
use crate::policy::Durability;
use crate::program::Effect;
use crate::programs::By;
use crate::room::Room;
use crate::room_program::RoomProgram;
use crate::room_state::RoomState;
use crate::rooms::Rooms;
use crate::turn::Turn;

/// Of a commit that is being gathered.
#[derive(Debug, Default)]
pub(super) struct States {
    rooms: BTreeMap<usize, Said>,
    bytes: usize,
}

#[derive(Debug)]
struct Said {
    /// What the commit says; none: the last one is carried, where the segment lacks it.
    state: Option<Bytes>,
    /// The log may have one that was refused, so that the one that holds is said again.
    is_again: bool,
    /// Bytes of its record.
    bytes: usize,
}

/// The records of rooms, by slot.
type Records = Vec<(usize, StateRecord)>;

impl States {
    /// Whether no room of the commit has a state.
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Bytes of all that may have to be written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of those that are written in any case.
    pub(super) fn said_bytes(&self) -> usize {
        self.rooms.values().filter(|said| said.state.is_some()).map(|said| said.bytes).sum()
    }

    /// Bytes that the first of a room's queue, and what goes with it, adds at most.
    pub(super) fn added_bytes(
        &self,
        slot: usize,
        name: &RoomName,
        program: Option<&RoomProgram>,
        open: &VecDeque<Open>,
    ) -> usize {
        let there = self.rooms.get(&slot).map(|said| said.bytes);
        let carried = || program.and_then(RoomProgram::carried).map_or(0, |state| record_bytes(name, state));
        let said = open.iter().take(1).chain(behind(open)).filter_map(Open::state).last();
        let after = said.map_or_else(|| there.unwrap_or_else(carried), |state| record_bytes(name, state));
        after.saturating_sub(there.unwrap_or(0))
    }

    /// A room gives something to the commit.
    pub(super) fn enter(&mut self, slot: usize, name: &RoomName, program: Option<&RoomProgram>) {
        let Some(program) = program.filter(|_| !self.rooms.contains_key(&slot)) else { return };
        let state = match program.carried() {
            Some(carried) => carried.clone(),
            None if program.is_unsaid => RoomState::default().encode().into(),
            None => return,
        };
        let bytes = record_bytes(name, &state);
        let is_again = program.is_unsaid;
        self.bytes += bytes;
        self.rooms.insert(slot, Said { state: is_again.then_some(state), is_again, bytes });
    }

    /// What the room gave comes with that state.
    pub(super) fn say(&mut self, slot: usize, name: &RoomName, state: Option<&Bytes>) {
        let Some(state) = state else { return };
        let bytes = record_bytes(name, state);
        let before = self.rooms.insert(slot, Said { state: Some(state.clone()), is_again: false, bytes });
        self.bytes = self.bytes + bytes - before.map_or(0, |said| said.bytes);
    }

    /// Rooms whose states are only carried, and the bytes of their records.
    pub(super) fn carried<'s>(&'s self, slots: &'s Slab<Room>) -> impl Iterator<Item = (RoomId, usize)> + Clone + 's {
        let carried = self.rooms.iter().filter(|(_, said)| said.state.is_none());
        carried.map(|(&slot, said)| (slots[slot].id, said.bytes))
    }

    /// The records that go ahead of the others, of those rooms, and behind them.
    pub(super) fn records(
        &self,
        slots: &Slab<Room>,
        open: &VecDeque<(usize, Open)>,
        carried: &[RoomId],
        (time_ms, catalog): (u64, &Catalog),
    ) -> (Records, Records) {
        let mut places: BTreeMap<usize, (Sequence, Sequence)> = BTreeMap::new();
        for (slot, open) in open {
            if let Open::Post { record, .. } = open
                && self.rooms.contains_key(slot)
            {
                places.entry(*slot).or_insert((record.sequence, record.sequence)).1 = record.sequence;
            }
        }
        let (mut ahead, mut behind) = (Records::new(), Records::new());
        for (&slot, said) in &self.rooms {
            let room = &slots[slot];
            let head = room.history.head();
            // Where all that it has in one class was dropped, it may have something of another life in another, which a state alone
            // would hide: its state goes with its next message.
            let is_ahead = |known: RoomLog| known.head > head || known.epoch > room.epoch;
            if !places.contains_key(&slot) && catalog.room(room.id).is_some_and(is_ahead) {
                continue;
            }
            let (before, last) = places.get(&slot).map_or((head, head), |(first, last)| (first.previous(), *last));
            let made = |body: &[u8], sequence| {
                let state = State { epoch: room.epoch, sequence, time_ms, room: room.name.as_str(), body };
                let level = if room.policy.durability == Durability::Synced { Level::Synced } else { Level::Written };
                StateRecord::new(&state, level, usize::MAX)
            };
            let committed = room.program.as_deref().and_then(RoomProgram::carried);
            match (&said.state, committed) {
                (Some(state), _) => behind.extend(made(state, last).ok().map(|record| (slot, record))),
                (None, Some(state)) if carried.contains(&room.id) => {
                    ahead.extend(made(state, before).ok().map(|record| (slot, record)));
                }
                (None, _) => {}
            }
        }
        (ahead, behind)
    }

    /// Rooms whose state was said again in vain, or in a commit that is done.
    pub(super) fn said_again(&self) -> Vec<usize> {
        self.rooms.iter().filter(|(_, said)| said.is_again).map(|(&slot, _)| slot).collect()
    }
}

/// The records as a commit takes them.
pub(super) fn stated<'s>(
    states: &'s Records,
    slots: &'s Slab<Room>,
) -> impl Iterator<Item = (LogRecord<'s>, Entry, &'s str)> + Clone {
    states.iter().map(|(slot, state)| (state.record(), state.entry(), slots[*slot].name.as_str()))
}

fn record_bytes(name: &RoomName, state: &Bytes) -> usize {
    state_record_bytes(name.as_str().len(), state.len())
}

impl Rooms {
    /// States that were said again are on the disk.
    pub(super) fn states_are_said(&mut self, log: LogId) {
        for slot in self.commits.logs[log.index()].flight.states.said_again() {
            if let Some(kept) = self.slots[slot].program.as_deref_mut() {
                kept.is_unsaid = false;
            }
        }
    }

    /// What a program changed for something that was refused is as it was.
    pub(super) fn take_back_state(&mut self, slot: usize) {
        if let Some(kept) = self.slots[slot].program.as_deref_mut() {
            kept.take_back();
            self.set_timer(slot);
        }
    }

    /// What a program decided counts from here on.
    pub(super) fn complete_decided(&mut self, slot: usize, decided: Decided, turn: &mut Turn<'_>) {
        let Decided { state, effects, hop, by, .. } = decided;
        if let Some(kept) = self.slots[slot].program.as_deref_mut()
            && let Some(state) = state
        {
            kept.committed = state;
            self.tally(slot);
        }
        let Some(rule) = by.as_ref().and_then(By::rule) else { return };
        for effect in effects {
            match effect {
                Effect::Log(text) => self.note_of_program(slot, rule, text),
                Effect::Signal(body) => self.signal_of_program(slot, (&rule.user, None), body, turn),
                Effect::Whisper(user, body) => self.signal_of_program(slot, (&rule.user, Some(user)), body, turn),
                Effect::PostTo(room, body) => {
                    if !self.post_to(room, rule.user.clone(), OwnedBody::json(body.into()), hop, turn) {
                        self.count_dropped(slot);
                    }
                }
                // Posts of its own have their place by now.
                Effect::Post(_) | Effect::View(..) => {}
            }
        }
    }

    fn signal_of_program(
        &mut self,
        slot: usize,
        (user, only): (&UserName, Option<UserName>),
        body: Vec<u8>,
        turn: &mut Turn<'_>,
    ) {
        let (room, body) = (&mut self.slots[slot], OwnedBody::json(body.into()));
        // As if a member told it.
        let rate = self.limits.signals_per_room_per_second_max;
        let is_above = only.is_none() && room.signals.take(rate, turn.now.monotonic_ms).is_err();
        if is_above && turn.counters.limits.refuses(Limit::RoomSignals, self.limits.dry_run) {
            turn.counters.signals_dropped += 1;
            return self.count_dropped(slot);
        }
        let room = &self.slots[slot];
        let author = Rooms::nobody();
        let mut dropped = 0;
        for share in &room.cores {
            let (user, body, only) = (user.clone(), body.clone(), only.clone());
            let parcel = || Down::Signal { room: room.id, author, user, body, only };
            if !turn.lanes.try_send_signal(share.core, parcel) {
                dropped += 1;
            }
        }
        turn.counters.signals_dropped += dropped;
    }
}
