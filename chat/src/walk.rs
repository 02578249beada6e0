//! The rounds through the subscriptions of rooms that have something new: so many a turn that a large room takes several
//! turns, and a small one beside it does not wait for it.
//!
//! ```text
//!  rooms with something new: [lobby ▸ 9,000 to go] [game-7 ▸ 3] [game-9 ▸ 5]
//!                              └── a slice of each in turn, until the turn's sends are given out
//! ```
//!
//! Invariants:
//! - A turn gives out `sends_per_turn_max` sends; half of them go to rooms, whatever else is ready.
//! - Every subscription is looked at behind the newest thing that came: what comes in the midst of a round makes the
//!   round longer by one whole one, from where it is.

use std::collections::VecDeque;

use crate::audience::ByAudience;
use crate::session::ReadState;
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Own posts that a subscription leaves out of the run at a time; above it, it catches up through the history, which
/// leaves them out as well.
const SKIPS_MAX: usize = 64;
/// Sends that one room is given before it is the next room's turn.
const SLICE_SENDS: usize = 8;
/// Sends of a turn that readers have ahead of answers, so that of a small room nobody waits for its author's answer.
const READERS_FIRST: usize = 4;
/// Subscriptions that one turn looks at, with something to send or not.
const LOOKS_A_TURN: usize = 4_096;

/// Where the round through a room's subscriptions is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    next: u32,
    left: u32,
}

impl Round {
    /// Something came: all of them are to be looked at from here on.
    pub fn lengthen(&mut self, subscriptions: usize) {
        self.left = subscriptions as u32;
    }

    /// A subscription was added behind the others, in the midst of the round: one more is to be looked at.
    pub fn grow(&mut self) {
        self.left = self.left.saturating_add(1);
    }

    /// A subscription was taken away, and the last one has its place: so many are left.
    pub fn shrink(&mut self, subscriptions: usize) {
        if self.next as usize >= subscriptions {
            self.next = 0;
        }
    }

    fn step(&mut self, subscriptions: usize) -> Option<usize> {
        self.left = self.left.min(subscriptions as u32).checked_sub(1)?;
        let at = self.next as usize % subscriptions;
        self.next = at as u32 + 1;
        Some(at)
    }

    /// Whether all were looked at.
    pub fn is_over(self) -> bool {
        self.left == 0
    }
}

/// Rooms whose subscriptions are to be looked at, in turn.
pub type Dirty = VecDeque<u32>;

impl Sessions {
    /// The room has something new for its subscriptions.
    pub(crate) fn mark_dirty(&mut self, room: u32) {
        let here = &mut self.rooms[room as usize];
        here.round.lengthen(here.subscriptions.len());
        if !here.is_dirty {
            here.is_dirty = true;
            self.dirty.push_back(room);
        }
    }

    /// Rooms whose messages waited for company as long as they may: their readers are looked at.
    pub(crate) fn end_waits(&mut self, now_ms: u64) {
        for _ in 0..LOOKS_A_TURN {
            let Some(room) = self.pacing.due(now_ms) else { return };
            self.end_wait(room);
        }
    }

    /// The same of all rooms that wait.
    pub(crate) fn end_all_waits(&mut self) {
        while let Some(room) = self.pacing.any() {
            self.end_wait(room);
        }
    }

    fn end_wait(&mut self, room: u32) {
        if let Some(here) = self.rooms.get_mut(room as usize) {
            self.pacing.goes(&mut here.pace, room);
            self.mark_dirty(room);
        }
    }

    /// Puts subscriptions with something new into the lists of their connections. Once a turn, so that what came together
    /// is sent together.
    pub fn walk(&mut self, turn: &mut Turn<'_>) {
        let sends_max = self.limits.sends_per_turn_max as usize;
        let share = sends_max.saturating_sub(self.ready.len()).max(sends_max.div_ceil(2));
        let mut sends = share.saturating_sub(self.walked.len());
        (self.is_walking, self.readers_first) = (true, READERS_FIRST);
        let mut looks = LOOKS_A_TURN;
        while sends > 0
            && looks > 0
            && let Some(room) = self.dirty.pop_front()
        {
            // A room that was left by its last reader is gone, and another may have its place.
            let Some(here) = self.rooms.get_mut(room as usize).filter(|here| here.is_dirty) else { continue };
            here.is_dirty = false;
            let ready_before = self.walked.len();
            let slice = SLICE_SENDS.min(sends);
            while self.walked.len() < ready_before + slice
                && looks > 0
                && let Some(at) = self.next_of_round(room)
            {
                looks -= 1;
                turn.counters.steps += 1;
                self.look_at(self.rooms[room as usize].subscriptions[at], turn);
            }
            sends -= self.walked.len() - ready_before;
            self.end_slice(room, turn);
        }
        self.is_walking = false;
    }

    fn next_of_round(&mut self, room: u32) -> Option<usize> {
        let here = &mut self.rooms[room as usize];
        here.round.step(here.subscriptions.len())
    }

    fn end_slice(&mut self, room: u32, turn: &mut Turn<'_>) {
        let here = &mut self.rooms[room as usize];
        if !here.round.is_over() {
            here.is_dirty = true;
            self.dirty.push_back(room);
            return;
        }
        here.end_telling();
        if let Some(since_us) = here.new_since_us.take() {
            turn.latencies.fan_out.record_us(turn.now.monotonic_us.saturating_sub(since_us));
        }
    }

    pub(crate) fn look_at(&mut self, subscription: u32, turn: &mut Turn<'_>) {
        self.tell_presence_to(subscription, turn);
        let reading = &mut self.subscriptions[subscription as usize];
        let (slot, here) = (reading.connection as usize, &self.rooms[reading.room as usize]);
        let session = &mut self.connections[slot];
        let audience = session.audience(reading);
        if reading.state != ReadState::Live || reading.position == here.run_head(audience) {
            return;
        }
        // One that takes nothing is known for behind as soon as the run went on without it, and not when it takes again.
        let fell_off = here.run(audience).is_none_or(|run| reading.position < run.tail());
        if fell_off || reading.skips.as_ref().is_some_and(|skips| skips.len() > SKIPS_MAX) {
            self.fall_off(subscription, turn);
            return;
        }
        if std::mem::replace(&mut reading.is_pending, true) {
            return;
        }
        session.pending.push(subscription);
        self.mark_ready(slot);
    }

    /// Whether rooms still have something new for subscriptions that were not looked at.
    pub(crate) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}

/// Where the look through the runs is.
#[derive(Debug)]
pub(crate) struct Sweep {
    room: u32,
    at: usize,
    /// The oldest position of a live subscription so far.
    oldest: ByAudience<u64>,
}

/// Subscriptions that a turn looks at for frames that nobody needs any more.
const SWEEP_LOOKS_A_TURN: usize = 512;

impl Sessions {
    /// Lets go of frames that every live reader was sent. Rooms with frames left are looked at again later.
    pub(crate) fn sweep_runs(&mut self, turn: &mut Turn<'_>) {
        let mut looks = SWEEP_LOOKS_A_TURN;
        while looks > 0 {
            let Some(mut sweep) = self.sweep.take().or_else(|| self.begin_sweep()) else { return };
            looks -= 1;
            let here = &self.rooms[sweep.room as usize];
            while looks > 0
                && let Some(&subscription) = here.subscriptions.get(sweep.at)
            {
                looks -= 1;
                turn.counters.steps += 1;
                sweep.at += 1;
                let reading = &self.subscriptions[subscription as usize];
                if reading.state == ReadState::Live {
                    let audience = self.connections[reading.connection as usize].audience(reading);
                    let oldest = sweep.oldest.get(audience).min(reading.position);
                    sweep.oldest.set(audience, oldest);
                }
            }
            if sweep.at < here.subscriptions.len() {
                self.sweep = Some(sweep);
                return;
            }
            self.end_sweep(&sweep);
        }
    }

    fn begin_sweep(&mut self) -> Option<Sweep> {
        while self.sweeps_left > 0 {
            self.sweeps_left -= 1;
            let Some(&room) = self.swept.pop_front().and_then(|id| self.room_by_id.get(&id)) else { continue };
            let here = &mut self.rooms[room as usize];
            // It may stand in the list for one that was there before it, and once more for itself.
            if !std::mem::take(&mut here.is_swept) {
                continue;
            }
            let mut oldest = ByAudience::default();
            for audience in here.audiences() {
                oldest.set(audience, here.run_head(audience));
            }
            return Some(Sweep { room, at: 0, oldest });
        }
        None
    }

    fn end_sweep(&mut self, sweep: &Sweep) {
        let here = &mut self.rooms[sweep.room as usize];
        let before = here.run_bytes();
        // Of an audience that came meanwhile nothing is known, and nothing is forgotten.
        for audience in here.audiences() {
            here.forget_before(audience, sweep.oldest.get(audience));
        }
        self.run_bytes -= before - here.run_bytes();
        if here.run_bytes() > 0 {
            self.sweep_later(sweep.room);
        }
    }

    /// A subscription took another's place in the room's list, or the room is gone: one that was not looked at may now be
    /// among those that were.
    pub(crate) fn restart_sweep(&mut self, room: u32) {
        if self.sweep.as_ref().is_none_or(|sweep| sweep.room != room) {
            return;
        }
        self.sweep = None;
        if self.rooms.contains(room as usize) {
            self.sweep_later(room);
        }
    }

    /// The room's runs are to be looked through.
    pub(crate) fn sweep_later(&mut self, room: u32) {
        let here = &mut self.rooms[room as usize];
        if !std::mem::replace(&mut here.is_swept, true) {
            self.swept.push_back(here.id);
        }
    }
}
