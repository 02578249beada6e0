//! The connections of a core: takes their requests, sends them up, and writes what comes down.
//!
//! The way of a message: [`Sessions::take_down`] appends it to the room's runs → [`Sessions::walk`] finds the
//! subscriptions that have something new → [`Sessions::next_send`] hands the shell the bytes of one connection.
//! What requests and answers do is in `asks.rs`, what messages do in `fanout.rs`, who is told what in which turn in
//! `walk.rs`; here is the state, and who comes and goes.
//!
//! Invariants:
//! - A connection has at most one send in flight, and at most one page of catch-up asked.
//! - `waiting_bytes` of a connection that is read stays within `outbox_bytes_max` and one answer: above half of it the
//!   connection is not read, and nothing that nobody asked for is written to it.

use std::collections::VecDeque;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event;
use banter_protocol::features::Known;
use banter_protocol::ids::RoomId;
use banter_protocol::wire::WireForm;
use rustc_hash::FxHashMap;
use slab::Slab;

use crate::access::{Access, Ends};
use crate::address::{ConnectionId, Core, Now, Peer, Placement};
use crate::catching::Tickets;
use crate::fanout::SIGNALS_A_TURN;
use crate::latencies::PageSource;
use crate::limits::Limits;
use crate::local_room::LocalRoom;
use crate::orders::Orders;
use crate::pacing::{DeliveryDelays, Pacing};
use crate::pages::READ_RETRY_AFTER_MS;
use crate::parcel::{Refusal, Up};
use crate::proving::Proving;
use crate::rates::Rates;
use crate::room_tokens::RoomTokens;
use crate::rooms::page_bytes_max;
use crate::serving::Service;
use crate::session::{ReadState, Session, Stage, Subscription};
use crate::table::Table;
use crate::timers::Timers;
use crate::turn::Turn;
use crate::walk::{Dirty, Sweep};

/// Milliseconds that an ending connection has to take what waits for it.
pub const CLOSING_MS_MAX: u64 = 5_000;
/// Milliseconds between two looks at the runs that had frames.
const SWEEP_INTERVAL_MS: u64 = 500;

/// The connections of one core, and the rooms that they read.
pub struct Sessions {
    pub(crate) own: Core,
    pub(crate) placement: Placement,
    pub(crate) limits: Limits,
    pub(crate) welcome: Welcome,
    pub(crate) access: Access,
    /// When the tokens of connections end.
    pub(crate) ends: Ends,
    /// Tokens for single rooms.
    pub(crate) room_tokens: RoomTokens,
    /// What was ordered about them from outside.
    pub(crate) orders: Orders,
    /// The time of the last tick.
    pub(crate) now: Now,
    pub(crate) connections: Table<Session>,
    pub(crate) subscriptions: Slab<Subscription>,
    pub(crate) rooms: Slab<LocalRoom>,
    pub(crate) room_by_id: FxHashMap<RoomId, u32>,
    /// Rooms with something new.
    pub(crate) dirty: Dirty,
    /// Rooms with something new that waits for company.
    pub(crate) pacing: Pacing,
    /// Rooms whose runs hold frames.
    pub(crate) swept: VecDeque<RoomId>,
    /// How many of them are still to be looked through this time.
    pub(crate) sweeps_left: usize,
    pub(crate) sweep: Option<Sweep>,
    /// Signals that this turn may still take.
    pub(crate) signals_left: usize,
    pub(crate) run_bytes: u64,
    outbox_bytes: u64,
    paused: u64,
    pub(crate) actions: Actions,
    /// Connections that may have something to send: those with answers, and those that the walk through the rooms found.
    /// They take turns, so that neither waits for all of the others.
    pub(crate) ready: VecDeque<ConnectionId>,
    pub(crate) walked: VecDeque<ConnectionId>,
    pub(crate) is_walking: bool,
    is_turn_of_walked: bool,
    /// Sends that this turn still gives to readers ahead of answers.
    pub(crate) readers_first: usize,
    pub(crate) scratch: Vec<u8>,
    pub(crate) paused_by_lane: Vec<VecDeque<ConnectionId>>,
    pub(crate) tickets: [Tickets; PageSource::ALL.len()],
    pub(crate) joins: u32,
    sweep_due_ms: u64,
    idle: Option<Timers<ConnectionId>>,
    closing: Timers<ConnectionId>,
    /// Connections whose page could not be read, until it is asked for again.
    pub(crate) unread: Timers<(ConnectionId, PageSource)>,
    pub(crate) open_count: usize,
    /// Those of them that came in as guests.
    pub(crate) guests: u32,
    pub(crate) service: Service,
    pub(crate) draining: bool,
    pub(crate) drained_cores: u16,
    /// Connections from here on are still to be told that the server stops.
    pub(crate) untold_from: Option<usize>,
    /// Connections from here on are still to be looked at for their end.
    pub(crate) unended_from: Option<usize>,
}

/// What `welcome` and `joined` tell of the server.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// A line `name value` for every limit.
    pub limits: String,
    /// The durability of rooms.
    pub durability: &'static str,
    /// What the server knows beyond the protocol's base.
    pub features: Known,
    /// Tells this run of the server from others in session names.
    pub run: u64,
}

/// What the shell is to do with connections.
#[derive(Debug, Default)]
pub struct Actions {
    /// Read these again.
    pub resume: Vec<ConnectionId>,
    /// Everything was sent to these: shut them down in order.
    pub finish: Vec<ConnectionId>,
    /// These did not take what was sent to them in time: cut them off.
    pub abort: Vec<ConnectionId>,
    /// These have been silent for half of `idle_timeout_ms`: look whether they still take what was sent to them, which
    /// counts as a sign of life.
    pub doubtful: Vec<ConnectionId>,
    /// Judge these tokens: [`Sessions::proved`] takes the verdicts.
    pub prove: Vec<Proving>,
    /// These are being ended, for the log. There is nothing else to do for it.
    pub closing: Vec<Closing>,
}

/// A connection that is being ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The connection.
    pub connection: ConnectionId,
    /// Its WebSocket close code.
    pub code: u16,
    /// Its close reason; empty where the peer itself ends it.
    pub reason: Box<str>,
}

impl Actions {
    /// Whether there is nothing to do, but to look at the doubtful, and to tell who is being ended.
    pub fn is_empty(&self) -> bool {
        self.resume.is_empty() && self.finish.is_empty() && self.abort.is_empty() && self.prove.is_empty()
    }
}

impl Sessions {
    /// No connections yet.
    pub fn new(own: Core, placement: Placement, limits: Limits, welcome: Welcome, access: Access) -> Self {
        let pacing = Pacing::new(DeliveryDelays::new(Vec::new(), limits.delivery_delay_ms_max));
        let idle_ms = u64::from(limits.idle_timeout_ms);
        Sessions {
            own,
            placement,
            limits,
            welcome,
            access,
            ends: Ends::default(),
            room_tokens: RoomTokens::default(),
            orders: Orders::default(),
            now: Now::default(),
            connections: Table::default(),
            subscriptions: Slab::new(),
            rooms: Slab::new(),
            room_by_id: FxHashMap::default(),
            dirty: Dirty::default(),
            pacing,
            swept: VecDeque::new(),
            sweeps_left: 0,
            sweep: None,
            signals_left: SIGNALS_A_TURN,
            run_bytes: 0,
            outbox_bytes: 0,
            paused: 0,
            actions: Actions::default(),
            ready: VecDeque::new(),
            walked: VecDeque::new(),
            is_walking: false,
            is_turn_of_walked: false,
            readers_first: 0,
            scratch: Vec::new(),
            paused_by_lane: (0..placement.cores()).map(|_| VecDeque::new()).collect(),
            tickets: Default::default(),
            joins: 0,
            sweep_due_ms: 0,
            // Looked at four times in its length: pinged at half, ended at the whole, never a quarter late.
            idle: (idle_ms > 0).then(|| Timers::new(idle_ms / 4)),
            closing: Timers::new(CLOSING_MS_MAX),
            unread: Timers::new(READ_RETRY_AFTER_MS),
            open_count: 0,
            guests: 0,
            service: Service::default(),
            draining: false,
            drained_cores: 0,
            untold_from: None,
            unended_from: None,
        }
    }

    /// A connection's handshake is done. `preface` goes ahead of everything.
    pub fn open(&mut self, id: ConnectionId, form: WireForm, preface: &[u8], turn: &mut Turn<'_>) {
        let slot = id.slot as usize;
        self.connections.grow_to_hold(slot, Session::free);
        debug_assert_eq!(self.connections[slot].stage, Stage::Free, "a slot is opened once");
        self.connections[slot] = Session {
            generation: id.generation,
            form,
            stage: Stage::Opened,
            rates: Rates::full(turn.now.monotonic_ms),
            heard_ms: turn.now.monotonic_ms as u32,
            ..Session::free()
        };
        self.connections[slot].outbox.extend_from_slice(preface);
        self.open_count += 1;
        turn.counters.connections += 1;
        if let Some(idle) = &mut self.idle {
            idle.set(id, turn.now.monotonic_ms);
        }
        if self.draining && self.untold_from.is_none_or(|untold| slot < untold) {
            self.tell_closing(slot);
        }
        self.mark_ready(slot);
    }

    /// The connection's slot, if it is still that connection's.
    pub(crate) fn slot_of(&self, id: ConnectionId) -> Option<usize> {
        let slot = id.slot as usize;
        let session = self.connections.get(slot)?;
        (session.generation == id.generation && session.stage != Stage::Free).then_some(slot)
    }

    pub(crate) fn id_of(&self, slot: usize) -> ConnectionId {
        ConnectionId { slot: slot as u32, generation: self.connections[slot].generation }
    }

    pub(crate) fn peer_of(&self, slot: usize) -> Peer {
        Peer { core: self.own, connection: self.id_of(slot) }
    }

    /// A connection showed that it is there: bytes came of it, or it took some that waited for it.
    pub fn heard(&mut self, id: ConnectionId, turn: &mut Turn<'_>) {
        if let Some(slot) = self.slot_of(id) {
            let session = &mut self.connections[slot];
            session.heard_ms = turn.now.monotonic_ms as u32;
            session.was_pinged = false;
        }
    }

    /// Whether the next request of a connection may be handed in.
    pub fn is_read(&self, id: ConnectionId) -> bool {
        self.slot_of(id).is_some_and(|slot| !self.connections[slot].is_paused && self.connections[slot].is_open())
    }

    /// Writes bytes that the shell made: a pong.
    pub fn write_raw(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(slot) = self.slot_of(id) else { return };
        let half = u64::from(self.limits.outbox_bytes_max / 2);
        let session = &mut self.connections[slot];
        if session.is_open() && session.outbox.len() as u64 + bytes.len() as u64 <= half {
            session.outbox.extend_from_slice(bytes);
            self.mark_ready(slot);
        }
    }

    /// The connection is no more.
    pub fn closed(&mut self, id: ConnectionId, turn: &mut Turn<'_>) {
        let Some(slot) = self.slot_of(id) else { return };
        self.leave_all(slot, turn);
        self.forget_end(slot);
        self.forget_guest(slot);
        self.unpause(slot);
        self.outbox_bytes -= u64::from(self.connections[slot].counted_bytes);
        self.connections[slot] = Session { generation: id.generation, ..Session::free() };
        self.open_count -= 1;
        turn.counters.connections -= 1;
    }

    /// Ends a connection: tells it why, sends what waits and this, and leaves its rooms now.
    pub fn close(
        &mut self,
        id: ConnectionId,
        error: Option<(ErrorCode, &str)>,
        close_code: u16,
        reason: &str,
        turn: &mut Turn<'_>,
    ) {
        let Some(slot) = self.slot_of(id) else { return };
        if !self.connections[slot].is_open() {
            return;
        }
        self.leave_all(slot, turn);
        let session = &mut self.connections[slot];
        session.stage = Stage::Closing;
        if let Some((code, message)) = error {
            turn.counters.refused(code);
            session.write(&Event::Error { id: None, code, message, retry_after_ms: None, scope: None, reason: None });
        }
        session.form.write_close(close_code, reason, &mut session.outbox);
        self.actions.closing.push(Closing { connection: id, code: close_code, reason: reason.into() });
        self.closing.set(id, turn.now.monotonic_ms);
        self.mark_ready(slot);
    }

    fn leave_all(&mut self, slot: usize, turn: &mut Turn<'_>) {
        while let Some(&subscription) = self.connections[slot].subscriptions.last() {
            self.leave(slot, subscription, None, turn);
        }
        self.leave_home(slot, turn);
    }

    /// Takes a subscription away, and tells the room.
    pub(crate) fn leave(
        &mut self,
        slot: usize,
        subscription: u32,
        asked: Option<banter_protocol::ids::RequestId>,
        turn: &mut Turn<'_>,
    ) {
        let leaver = self.peer_of(slot);
        let room = self.rooms[self.subscriptions[subscription as usize].room as usize].name.clone();
        self.remove_subscription(subscription, turn);
        if let Some(user) = self.connections[slot].user.clone() {
            self.send_up(slot, &room, turn, |room| Up::Leave { room, leaver, user, asked });
        }
    }

    /// Sends a parcel to the core of a room; while it waits for a full lane the connection is not read.
    pub(crate) fn send_up(
        &mut self,
        slot: usize,
        room: &banter_protocol::ids::RoomName,
        turn: &mut Turn<'_>,
        parcel: impl FnOnce(banter_protocol::ids::RoomName) -> Up,
    ) {
        let owner = self.placement.core_of(RoomId::of(room.as_str()));
        self.send_up_to(slot, owner, parcel(room.clone()), turn);
    }

    pub(crate) fn send_up_to(&mut self, slot: usize, owner: Core, parcel: Up, turn: &mut Turn<'_>) {
        if !turn.lanes.send_up(owner, parcel, turn.now.monotonic_us) {
            self.pause(slot, turn);
            self.connections[slot].lane_waits += 1;
            let id = self.id_of(slot);
            self.paused_by_lane[owner.index()].push_back(id);
        }
    }

    /// A subscription's end on this core.
    pub(crate) fn remove_subscription(&mut self, subscription: u32, turn: &mut Turn<'_>) {
        let removed = self.subscriptions.remove(subscription as usize);
        self.room_tokens.remove(subscription);
        turn.counters.subscriptions -= 1;
        let session = &mut self.connections[removed.connection as usize];
        session.subscriptions.retain(|&mut other| other != subscription);
        session.pending.retain(|&mut other| other != subscription);
        if let Some(by_room) = &mut session.by_room {
            by_room.remove(&removed.room);
        }
        let audience = session.audience(&removed);
        let room = &mut self.rooms[removed.room as usize];
        let before = room.run_bytes();
        match removed.state {
            ReadState::Live => room.remove_live(audience),
            ReadState::Behind => {
                session.behind -= 1;
                turn.counters.subscriptions_behind -= 1;
            }
            ReadState::Joining => {}
        }
        room.move_reading(removed.class, None);
        room.subscriptions.swap_remove(removed.place as usize);
        room.round.shrink(room.subscriptions.len());
        let moved = room.subscriptions.get(removed.place as usize).copied();
        if let Some(moved) = moved {
            self.subscriptions[moved as usize].place = removed.place;
        }
        let is_dirty = room.is_dirty;
        self.run_bytes -= before - room.run_bytes();
        if room.subscriptions.is_empty() {
            self.pacing.goes(&mut room.pace, removed.room);
            let room = self.rooms.remove(removed.room as usize);
            self.run_bytes -= room.run_bytes();
            self.room_by_id.remove(&room.id);
        } else if let Some(moved) = moved.filter(|_| is_dirty) {
            // It may have come from a place that the round was still to come to, to one where it was.
            self.look_at(moved, turn);
        }
        self.restart_sweep(removed.room);
    }

    /// Stops reading a connection for now.
    pub(crate) fn pause(&mut self, slot: usize, turn: &mut Turn<'_>) {
        if !std::mem::replace(&mut self.connections[slot].is_paused, true) {
            self.paused += 1;
            turn.counters.pauses += 1;
        }
    }

    fn unpause(&mut self, slot: usize) {
        if std::mem::take(&mut self.connections[slot].is_paused) {
            self.paused -= 1;
        }
    }

    /// What waits for a connection is more or less than when it was counted last.
    pub(crate) fn count_outbox(&mut self, slot: usize) {
        let session = &mut self.connections[slot];
        let bytes = session.outbox.len() as u32 + session.in_flight_bytes;
        self.outbox_bytes = self.outbox_bytes + u64::from(bytes) - u64::from(session.counted_bytes);
        session.counted_bytes = bytes;
    }

    /// The next connection that may have something to send.
    pub(crate) fn next_ready(&mut self) -> Option<ConnectionId> {
        if self.readers_first > 0 {
            self.readers_first -= 1;
            return self.walked.pop_front().or_else(|| self.ready.pop_front());
        }
        self.is_turn_of_walked = !self.is_turn_of_walked;
        if self.is_turn_of_walked {
            self.walked.pop_front().or_else(|| self.ready.pop_front())
        } else {
            self.ready.pop_front().or_else(|| self.walked.pop_front())
        }
    }

    /// The connection may have something to send. Called behind whatever is written to it.
    pub(crate) fn mark_ready(&mut self, slot: usize) {
        self.count_outbox(slot);
        let session = &mut self.connections[slot];
        if !session.is_ready && !session.in_flight && session.stage != Stage::Free {
            session.is_ready = true;
            let id = ConnectionId { slot: slot as u32, generation: session.generation };
            let ready = if self.is_walking { &mut self.walked } else { &mut self.ready };
            ready.push_back(id);
        }
    }

    /// What the shell is to do; it takes the lists out.
    pub fn actions_mut(&mut self) -> &mut Actions {
        &mut self.actions
    }

    /// Bytes that one answer may need, at most.
    pub(crate) fn page_answer_bytes(&self) -> u32 {
        // Twice: JSON's names, and base64 for bodies that are not JSON.
        2 * (page_bytes_max(&self.limits) as u32).max(self.limits.frame_bytes_max)
    }

    /// Reads a connection again if what waits for it has gone down.
    pub(crate) fn resume_if_light(&mut self, slot: usize) {
        let quarter = u64::from(self.limits.outbox_bytes_max / 4);
        let id = self.id_of(slot);
        let session = &mut self.connections[slot];
        let is_held = session.lane_waits > 0 || matches!(session.stage, Stage::Proving | Stage::Reproving);
        if session.is_paused && !is_held && session.is_open() && session.waiting_bytes() <= quarter {
            self.unpause(slot);
            self.actions.resume.push(id);
        }
    }

    /// The lane to a core has room again: those that waited for it are read again.
    pub fn lane_opened(&mut self, core: Core) {
        for id in std::mem::take(&mut self.paused_by_lane[core.index()]) {
            if let Some(slot) = self.slot_of(id) {
                self.connections[slot].lane_waits -= 1;
                self.resume_if_light(slot);
            }
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, turn: &mut Turn<'_>) {
        self.signals_left = SIGNALS_A_TURN;
        let now_ms = turn.now.monotonic_ms;
        while let Some(id) = self.idle.as_mut().and_then(|idle| idle.take_due(now_ms)) {
            self.check_idle(id, turn);
        }
        while let Some(id) = self.closing.take_due(now_ms) {
            if let Some(slot) = self.slot_of(id)
                && self.connections[slot].stage == Stage::Closing
            {
                self.connections[slot].stage = Stage::Ended;
                self.actions.abort.push(id);
            }
        }
        if !self.swept.is_empty() && now_ms >= self.sweep_due_ms {
            self.sweeps_left = self.swept.len();
            self.sweep_due_ms = now_ms + SWEEP_INTERVAL_MS;
        }
        self.now = turn.now;
        self.end_waits(now_ms);
        self.follow_orders(turn);
        self.end_expired(turn);
        self.end_room_tokens(turn);
        self.ask_unread(turn);
        self.sweep_runs(turn);
        self.go_on_draining(turn);
        self.send_away_some(turn);
        turn.counters.guests = self.guests.into();
        turn.counters.busy_permille = self.pacing.busy_permille().into();
        turn.counters.run_bytes = self.run_bytes;
        turn.counters.outbox_bytes = self.outbox_bytes;
        turn.counters.paused_connections = self.paused;
    }

    /// Whether there is more to do in the next turn, without any input.
    pub fn is_busy(&self) -> bool {
        self.has_dirty()
            || self.pacing.due(self.now.monotonic_ms).is_some()
            || !self.ready.is_empty()
            || !self.walked.is_empty()
            || self.sweep.is_some()
            || self.sweeps_left > 0
            || self.orders.is_busy()
            || self.service.is_busy()
            || self.untold_from.is_some()
            || self.unended_from.is_some()
    }

    /// When the next thing is due.
    pub fn next_due(&self) -> Option<u64> {
        let sweep = (!self.swept.is_empty()).then_some(self.sweep_due_ms);
        let idle = self.idle.as_ref().and_then(Timers::next_due);
        [sweep, idle, self.closing.next_due(), self.unread.next_due(), self.next_end(), self.pacing.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    fn check_idle(&mut self, id: ConnectionId, turn: &mut Turn<'_>) {
        let Some(slot) = self.slot_of(id) else { return };
        let idle_timeout_ms = u64::from(self.limits.idle_timeout_ms);
        let session = &mut self.connections[slot];
        if !session.is_open() {
            return;
        }
        let silent_ms = u64::from((turn.now.monotonic_ms as u32).wrapping_sub(session.heard_ms));
        // A connection that the server itself does not read cannot be heard.
        if silent_ms >= idle_timeout_ms && !session.is_paused {
            let message = format!("nothing came for {silent_ms} ms, above idle_timeout_ms");
            self.close(id, Some((ErrorCode::TimedOut, &message)), 1008, "idle", turn);
            return;
        }
        if silent_ms >= idle_timeout_ms / 2 {
            self.actions.doubtful.push(id);
            if !std::mem::replace(&mut session.was_pinged, true) {
                session.form.write_keep_alive(&mut session.outbox);
                self.mark_ready(slot);
            }
        }
        if let Some(idle) = &mut self.idle {
            idle.set(id, turn.now.monotonic_ms);
        }
    }

    /// Connections that are not gone.
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// A session of a connection, for checks from outside.
    pub fn session(&self, id: ConnectionId) -> Option<&Session> {
        self.slot_of(id).map(|slot| &self.connections[slot])
    }

    pub(crate) fn refuse(
        &mut self,
        slot: usize,
        id: banter_protocol::ids::RequestId,
        why: &Refusal,
        turn: &mut Turn<'_>,
    ) {
        turn.counters.refused(why.code);
        let Refusal { code, retry_after_ms, scope, .. } = *why;
        let reason = why.reason.as_deref();
        let event = Event::Error { id, code, message: &why.message, retry_after_ms, scope, reason };
        self.connections[slot].write(&event);
        self.mark_ready(slot);
    }
}
