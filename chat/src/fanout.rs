//! What comes down to the connections of a core: joins, pages, messages, signals, presence; and what each is sent next.

use banter_chunk::ChunkSlice;
use banter_protocol::event::{Event, PresenceState};
use banter_protocol::ids::{Epoch, RequestId, RoomId, RoomName, Sequence, UserName};
use banter_protocol::request::Body;
use banter_protocol::wire::WireForm;

use crate::address::{ConnectionId, Peer, SubscriptionId};
use crate::parcel::{Batch, Down, OwnedBody, Page, Record, Refusal};
use crate::policy::Durability;
use crate::run::{CHUNK_BYTES_MAX, Taken};
use crate::session::{ReadState, Skip, Stage};
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Own posts that a subscription leaves out of the run at a time; above it, it catches up through the history, which
/// leaves them out as well.
const SKIPS_MAX: usize = 64;
/// Bytes that are copied together into one send when a connection has frames from several places.
const GATHERED_BYTES_MAX: usize = 16 * 1_024;

/// Bytes for one connection's next send.
#[derive(Debug)]
pub enum Sending {
    /// From the outbox, with small frames of runs behind it.
    Copied(Vec<u8>),
    /// From a run, shared with everybody else who reads it.
    Shared(ChunkSlice),
}

impl Sending {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Sending::Copied(bytes) => bytes,
            Sending::Shared(slice) => slice,
        }
    }
}

impl Sessions {
    /// Takes one parcel of a room's core.
    pub fn take_down(&mut self, parcel: Down, turn: &mut Turn<'_>) {
        match parcel {
            Down::Messages { room, batch } => self.messages(room, &batch, turn),
            Down::Answer { to, request, answer } => self.answer(to, request, answer, turn),
            Down::Joined {
                to,
                room,
                echo,
                presence,
                subscription: id,
                request,
                epoch,
                head,
                members,
                durability,
                page,
            } => {
                let joined = Joined { to, room, echo, presence, id, request, epoch, head, members, durability };
                self.joined_down(&joined, &page, turn);
            }
            Down::JoinRefused { to, subscription, request, refusal } => {
                self.join_refused(to, subscription, request, &refusal, turn);
            }
            Down::CaughtUp { to, subscription, page } => self.caught_up(to, subscription, &page, turn),
            Down::Lagged { room, head } => {
                // Before the first join was answered it may be the head of a history that is gone.
                if let Some(&room) = self.room_by_id.get(&room)
                    && self.rooms[room as usize].head.is_some()
                {
                    self.advance(room, head, turn);
                }
            }
            Down::Signal { room, author, user, body } => self.signal_down(room, author, &user, &body, turn),
            Down::Presence { room, change, cause, members } => self.presence_down(room, change, cause, members, turn),
            Down::Drained => self.core_drained(),
        }
    }

    fn messages(&mut self, id: RoomId, batch: &Batch, turn: &mut Turn<'_>) {
        let Some(&room) = self.room_by_id.get(&id) else { return };
        for record in batch.records() {
            let Some(head) = self.rooms[room as usize].head else { return };
            if record.sequence <= head {
                continue;
            }
            if record.sequence != head.next() {
                debug_assert!(false, "the lane keeps the order of batches");
                self.advance(room, record.sequence.previous(), turn);
            }
            self.append(room, record);
        }
        let room_here = &mut self.rooms[room as usize];
        if !room_here.is_dirty {
            room_here.is_dirty = true;
            self.dirty.push(room);
        }
        if !room_here.is_swept {
            room_here.is_swept = true;
            self.swept.push(id);
        }
    }

    /// Adds a message to the run of every form that somebody live reads, encoded once for each.
    fn append(&mut self, room: u32, record: &Record) {
        let here = &mut self.rooms[room as usize];
        here.head = Some(record.sequence);
        let before = here.run_bytes();
        let tight = self.run_bytes > self.limits.run_bytes_per_core_max;
        let keep_bytes_max = if tight { 0 } else { u64::from(self.limits.run_bytes_max) };
        let mut positions = [(0, 0); WireForm::ALL.len()];
        for form in here.live_forms() {
            self.scratch.clear();
            let written = form.write_message(&record.frame, &mut self.scratch);
            debug_assert!(written.is_ok(), "a record is a message that this server encoded");
            positions[form.index()] = here.append(form, &self.scratch, record.sequence, keep_bytes_max);
        }
        self.run_bytes = self.run_bytes + here.run_bytes() - before;
        if record.author.core == self.own {
            self.spare_author(room, record, positions);
        }
    }

    /// Leaves a post out of its author's run, where the author said `echo: false`.
    fn spare_author(&mut self, room: u32, record: &Record, positions: [(u64, u64); WireForm::ALL.len()]) {
        let Some(slot) = self.slot_of(record.author.connection) else { return };
        let session = &self.connections[slot];
        if !session.spares_own {
            return;
        }
        let (start, end) = positions[session.form.index()];
        let sequence = record.sequence;
        let Some(&subscription) =
            session.subscriptions.iter().find(|&&reading| self.subscriptions[reading as usize].room == room)
        else {
            return;
        };
        let reading = &mut self.subscriptions[subscription as usize];
        if reading.echo || reading.state != ReadState::Live {
            return;
        }
        if reading.position == start {
            (reading.position, reading.sequence) = (end, sequence);
        } else {
            reading.skips.get_or_insert_default().push_back(Skip { start, end, sequence });
        }
    }

    /// Puts every subscription with new frames into the list of its connection. Done once a turn, so that frames that
    /// came together are sent together.
    pub fn mark_dirty(&mut self, turn: &mut Turn<'_>) {
        for room in std::mem::take(&mut self.dirty) {
            let here = &mut self.rooms[room as usize];
            here.is_dirty = false;
            let heads = WireForm::ALL.map(|form| here.run_head(form));
            for index in 0..here.subscriptions.len() {
                let subscription = self.rooms[room as usize].subscriptions[index];
                self.mark_pending(subscription, &heads, turn);
            }
        }
    }

    fn mark_pending(&mut self, subscription: u32, heads: &[u64; WireForm::ALL.len()], turn: &mut Turn<'_>) {
        let reading = &mut self.subscriptions[subscription as usize];
        if reading.state != ReadState::Live || reading.is_pending {
            return;
        }
        let slot = reading.connection as usize;
        let session = &mut self.connections[slot];
        if reading.position == heads[session.form.index()] {
            return;
        }
        if reading.skips.as_ref().is_some_and(|skips| skips.len() > SKIPS_MAX) {
            self.fall_behind(subscription, turn);
            return;
        }
        reading.is_pending = true;
        session.pending.push(subscription);
        self.mark_ready(slot);
    }

    /// The room's head is there, and what lies between was not sent to this core: live readers have to catch up.
    pub(crate) fn advance(&mut self, room: u32, head: Sequence, turn: &mut Turn<'_>) {
        let here = &mut self.rooms[room as usize];
        let known = here.head.replace(head.max(here.head.unwrap_or_default()));
        if known.is_none_or(|known| known >= head) {
            return;
        }
        for index in 0..self.rooms[room as usize].subscriptions.len() {
            let subscription = self.rooms[room as usize].subscriptions[index];
            if self.subscriptions[subscription as usize].state == ReadState::Live {
                self.fall_behind(subscription, turn);
            }
        }
        let here = &mut self.rooms[room as usize];
        self.run_bytes -= here.run_bytes();
        here.clear_runs();
    }

    /// The subscription is neither live nor behind: the caller says what it is.
    pub(crate) fn stop_reading(&mut self, subscription: u32, turn: &mut Turn<'_>) {
        let reading = &mut self.subscriptions[subscription as usize];
        let session = &mut self.connections[reading.connection as usize];
        reading.skips = None;
        match reading.state {
            ReadState::Joining => {}
            ReadState::Behind => {
                session.behind -= 1;
                turn.counters.subscriptions_behind -= 1;
            }
            ReadState::Live => {
                let here = &mut self.rooms[reading.room as usize];
                let before = here.run_bytes();
                here.remove_live(session.form);
                self.run_bytes -= before - here.run_bytes();
                if reading.is_pending {
                    reading.is_pending = false;
                    session.pending.retain(|&mut other| other != subscription);
                }
            }
        }
        reading.state = ReadState::Joining;
    }

    /// The connection's reading, if it still stands for that join.
    pub(crate) fn reading(&self, to: ConnectionId, id: SubscriptionId) -> Option<(usize, u32)> {
        let slot = self.slot_of(to)?;
        let reading = self.subscriptions.get(id.slot as usize)?;
        (reading.connection as usize == slot && reading.join == id.join).then_some((slot, id.slot))
    }

    fn joined_down(&mut self, joined: &Joined, page: &Page, turn: &mut Turn<'_>) {
        // Also where its connection is gone: batches that come behind it follow on its head.
        if let Some(&here) = self.room_by_id.get(&RoomId::of(joined.room.as_str()))
            && self.rooms[here as usize].epoch == joined.epoch
            && self.rooms[here as usize].head.is_some()
        {
            self.advance(here, page.head, turn);
        }
        let Some(slot) = self.slot_of(joined.to) else { return };
        self.release(slot, self.page_answer_bytes());
        self.resume_if_light(slot);
        if !self.connections[slot].is_open() {
            return;
        }
        let &Joined { echo, presence, id, request, epoch, head, members, .. } = joined;
        let (room, durability) = (joined.room.as_str(), joined.durability.name());
        self.connections[slot].write(&Event::Joined { id: request, room, epoch, sequence: head, members, durability });
        self.mark_ready(slot);
        let Some(subscription) = self.subscription_of(slot, room) else { return };
        let reading = &mut self.subscriptions[subscription as usize];
        if is_earlier(id.join, reading.first_join) {
            return; // Left while it was on its way; the room hears of that next.
        }
        reading.echo = echo;
        reading.presence = presence;
        // `members` is newer than what was left out.
        reading.presence_stale = false;
        reading.sequence = page.after;
        reading.is_placed = true;
        let is_newest_join = reading.join == id.join;
        let here = &mut self.rooms[reading.room as usize];
        if here.epoch != epoch {
            // The room was forgotten and made anew since somebody here read it: its old head means nothing.
            here.head = None;
        }
        (here.epoch, here.members) = (epoch, members);
        if is_newest_join {
            self.deliver_page(slot, subscription, page, turn);
        }
    }

    fn join_refused(
        &mut self,
        to: ConnectionId,
        id: SubscriptionId,
        request: RequestId,
        refusal: &Refusal,
        turn: &mut Turn<'_>,
    ) {
        let Some(slot) = self.slot_of(to) else { return };
        self.release(slot, self.page_answer_bytes());
        if self.connections[slot].is_open() {
            self.refuse(slot, request, refusal, turn);
        }
        self.resume_if_light(slot);
        let Some((_, subscription)) = self.reading(to, id) else { return };
        if self.subscriptions[subscription as usize].is_placed {
            // It read the room before, and goes on from where it was.
            self.fall_behind(subscription, turn);
        } else {
            self.remove_subscription(subscription, turn);
        }
    }

    fn signal_down(&mut self, id: RoomId, author: Peer, user: &UserName, body: &OwnedBody, turn: &mut Turn<'_>) {
        let Some(&room) = self.room_by_id.get(&id) else { return };
        let name = self.rooms[room as usize].name.clone();
        let body = Body { format: body.format, bytes: &body.bytes };
        let event = Event::Signal { room: name.as_str(), user: user.as_str(), body };
        let mut encoded = EncodedEvent::new(&event);
        for index in 0..self.rooms[room as usize].subscriptions.len() {
            let reading = &self.subscriptions[self.rooms[room as usize].subscriptions[index] as usize];
            let slot = reading.connection as usize;
            if reading.state == ReadState::Joining || self.peer_of(slot) == author {
                continue;
            }
            if !self.write_unasked(slot, &mut encoded) {
                turn.counters.signals_dropped += 1;
            }
        }
    }

    fn presence_down(
        &mut self,
        id: RoomId,
        change: Option<(UserName, PresenceState)>,
        cause: Option<Peer>,
        members: u64,
        turn: &mut Turn<'_>,
    ) {
        let Some(&room) = self.room_by_id.get(&id) else { return };
        self.rooms[room as usize].members = members;
        let name = self.rooms[room as usize].name.clone();
        let change = change.as_ref().map(|(user, state)| (user.as_str(), *state));
        let event = Event::Presence { room: name.as_str(), change, count: members };
        let mut encoded = EncodedEvent::new(&event);
        for index in 0..self.rooms[room as usize].subscriptions.len() {
            let subscription = self.rooms[room as usize].subscriptions[index] as usize;
            let reading = &self.subscriptions[subscription];
            let (slot, is_joining) = (reading.connection as usize, reading.state == ReadState::Joining);
            if !reading.presence || cause == Some(self.peer_of(slot)) {
                continue;
            }
            if is_joining || !self.write_unasked(slot, &mut encoded) {
                turn.counters.presence_dropped += 1;
                self.subscriptions[subscription].presence_stale = true;
                self.connections[slot].has_stale_presence = true;
            }
        }
    }

    /// Writes what nobody asked for, if the outbox is light.
    fn write_unasked(&mut self, slot: usize, event: &mut EncodedEvent<'_>) -> bool {
        let half = u64::from(self.limits.outbox_bytes_max / 2);
        let session = &mut self.connections[slot];
        let bytes = event.in_form(session.form);
        let fits = session.is_open()
            && session.outbox.len() as u64 + u64::from(session.in_flight_bytes) + bytes.len() as u64 <= half;
        if fits {
            session.outbox.extend_from_slice(bytes);
            self.mark_ready(slot);
        }
        fits
    }

    /// The bytes that a connection is sent next, if it has any. The shell gives back [`Sessions::sent`].
    pub fn next_send(&mut self, id: ConnectionId, turn: &mut Turn<'_>) -> Option<Sending> {
        let slot = self.slot_of(id)?;
        self.connections[slot].is_ready = false;
        if self.connections[slot].in_flight {
            return None;
        }
        let sending = self.gather(slot, turn);
        let session = &mut self.connections[slot];
        if let Some(sending) = &sending {
            session.in_flight = true;
            if let Sending::Copied(bytes) = sending {
                session.in_flight_bytes = bytes.len() as u32;
            }
        } else if session.stage == Stage::Closing {
            session.stage = Stage::Ended;
            self.actions.finish.push(id);
        } else if self.ends_when_flushed(slot) {
            self.close(id, None, 1001, "draining", turn);
        }
        sending
    }

    fn gather(&mut self, slot: usize, turn: &mut Turn<'_>) -> Option<Sending> {
        if self.connections[slot].outbox.is_empty() {
            self.tell_stale_presence(slot);
            self.ask_catch_up(slot, turn);
        }
        if self.connections[slot].outbox.is_empty() && self.connections[slot].pending.len() == 1 {
            let subscription = self.connections[slot].pending[0];
            if let Some(slice) = self.take_frames(slot, subscription, usize::MAX, turn) {
                return Some(Sending::Shared(slice));
            }
            // It fell behind.
            self.ask_catch_up(slot, turn);
        }
        let mut bytes = std::mem::take(&mut self.connections[slot].outbox);
        let mut index = 0;
        while bytes.len() < GATHERED_BYTES_MAX
            && let Some(&subscription) = self.connections[slot].pending.get(index)
        {
            let room = if bytes.is_empty() { usize::MAX } else { GATHERED_BYTES_MAX - bytes.len() };
            match self.take_frames(slot, subscription, room, turn) {
                Some(slice) => bytes.extend_from_slice(&slice),
                None => index += usize::from(self.connections[slot].pending.get(index) == Some(&subscription)),
            }
        }
        (!bytes.is_empty()).then_some(Sending::Copied(bytes))
    }

    /// Takes the next frames of a pending subscription, if they are no more than `bytes_max`. One that has no more
    /// leaves the list.
    fn take_frames(
        &mut self,
        slot: usize,
        subscription: u32,
        bytes_max: usize,
        turn: &mut Turn<'_>,
    ) -> Option<ChunkSlice> {
        let reading = &mut self.subscriptions[subscription as usize];
        let here = &self.rooms[reading.room as usize];
        let form = self.connections[slot].form;
        let skip = reading.skips.as_ref().and_then(|skips| skips.front()).copied();
        let until = skip.map(|skip| (skip.start, skip.sequence.previous()));
        let taken = match here.run(form) {
            Some(run) => run.take(reading.position, until),
            None => Taken::FellOff,
        };
        match taken {
            Taken::Frames { slice, .. } if slice.len() > bytes_max => None,
            Taken::Frames { slice, through, position } => {
                turn.counters.deliveries += through.0 - reading.sequence.0;
                (reading.position, reading.sequence) = (position, through);
                reading.pass_skips();
                if reading.position >= here.run_head(form) {
                    self.no_longer_pending(slot, subscription);
                }
                Some(slice)
            }
            Taken::Nothing => {
                self.no_longer_pending(slot, subscription);
                None
            }
            Taken::FellOff => {
                self.fall_behind(subscription, turn);
                None
            }
        }
    }

    fn no_longer_pending(&mut self, slot: usize, subscription: u32) {
        self.subscriptions[subscription as usize].is_pending = false;
        self.connections[slot].pending.retain(|&mut other| other != subscription);
    }

    fn tell_stale_presence(&mut self, slot: usize) {
        if !self.connections[slot].has_stale_presence || !self.connections[slot].is_open() {
            return;
        }
        self.connections[slot].has_stale_presence = false;
        for index in 0..self.connections[slot].subscriptions.len() {
            let reading = &mut self.subscriptions[self.connections[slot].subscriptions[index] as usize];
            if !reading.presence_stale {
                continue;
            }
            if reading.state == ReadState::Joining {
                self.connections[slot].has_stale_presence = true;
                continue;
            }
            reading.presence_stale = false;
            let here = &self.rooms[reading.room as usize];
            let event = Event::Presence { room: here.name.as_str(), change: None, count: here.members };
            self.connections[slot].write(&event);
        }
    }

    /// A send is done; everything of it went out.
    pub fn sent(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_of(id) else { return };
        let session = &mut self.connections[slot];
        session.in_flight = false;
        session.in_flight_bytes = 0;
        let has_more = !session.outbox.is_empty()
            || !session.pending.is_empty()
            || session.behind > 0
            || session.has_stale_presence
            || session.stage == Stage::Closing;
        if has_more || self.is_draining() {
            self.mark_ready(slot);
        }
        self.resume_if_light(slot);
    }

    /// Lets go of frames that every live reader was sent. Rooms with frames left are looked at again.
    pub(crate) fn sweep_runs(&mut self) {
        for id in std::mem::take(&mut self.swept) {
            let Some(&room) = self.room_by_id.get(&id) else { continue };
            let here = &mut self.rooms[room as usize];
            let before = here.run_bytes();
            let mut oldest = WireForm::ALL.map(|form| here.run_head(form));
            for &subscription in &here.subscriptions {
                let reading = &self.subscriptions[subscription as usize];
                if reading.state == ReadState::Live {
                    let form = self.connections[reading.connection as usize].form;
                    oldest[form.index()] = oldest[form.index()].min(reading.position);
                }
            }
            for form in WireForm::ALL {
                here.forget_before(form, oldest[form.index()]);
            }
            self.run_bytes -= before - here.run_bytes();
            here.is_swept = here.run_bytes() > 0;
            if here.is_swept {
                self.swept.push(id);
            }
        }
    }
}

impl crate::session::Subscription {
    /// Steps over own posts that lie right here.
    fn pass_skips(&mut self) {
        while let Some(skips) = &mut self.skips {
            match skips.front() {
                Some(skip) if skip.start == self.position => {
                    (self.position, self.sequence) = (skip.end, skip.sequence);
                    skips.pop_front();
                }
                Some(_) => return,
                None => self.skips = None,
            }
        }
    }
}

/// What an accepted join says beside its page.
struct Joined {
    to: ConnectionId,
    room: RoomName,
    echo: bool,
    presence: bool,
    id: SubscriptionId,
    request: RequestId,
    epoch: Epoch,
    head: Sequence,
    members: u64,
    durability: Durability,
}

/// Whether a join was asked before another of the same connection. The numbers wrap.
fn is_earlier(join: u32, other: u32) -> bool {
    join.wrapping_sub(other) > u32::MAX / 2
}

/// An event in the forms that were asked for, each encoded once.
struct EncodedEvent<'e> {
    event: &'e Event<'e>,
    forms: [Option<Vec<u8>>; WireForm::ALL.len()],
}

impl<'e> EncodedEvent<'e> {
    fn new(event: &'e Event<'e>) -> Self {
        EncodedEvent { event, forms: Default::default() }
    }

    fn in_form(&mut self, form: WireForm) -> &[u8] {
        self.forms[form.index()].get_or_insert_with(|| {
            let mut bytes = Vec::new();
            form.write_event(self.event, &mut bytes);
            bytes
        })
    }
}

const _: () = assert!(GATHERED_BYTES_MAX < CHUNK_BYTES_MAX as usize);
