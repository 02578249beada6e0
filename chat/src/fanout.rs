//! What comes down to the connections of a core: joins, pages, messages, signals, presence; and what each is sent next.

use banter_access::rights::Rights;
use banter_chunk::ChunkSlice;
use banter_protocol::event::Event;
use banter_protocol::features::Features;
use banter_protocol::ids::{Epoch, RequestId, RoomId, RoomName, Sequence, UserName};
use banter_protocol::request::Body;
use banter_protocol::wire::WireForm;

use crate::address::{ConnectionId, Peer, SubscriptionId};
use crate::audience::ByAudience;
use crate::pacing::Came;
use crate::parcel::{Batch, Down, OwnedBody, Page, Record, Refusal};
use crate::policy::Durability;
use crate::program::ClassName;
use crate::run::{CHUNK_BYTES_MAX, Taken};
use crate::session::{ReadState, Skip, Stage, Subscription};
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Readings of a room that are looked at in the time of one step, to find those of one user.
const SUBSCRIPTIONS_A_STEP: u64 = 64;
/// Signals that one turn of a core takes for its connections; more are lost, and counted.
pub(crate) const SIGNALS_A_TURN: usize = 256;
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
        turn.counters.steps += 1;
        match parcel {
            Down::Messages { room, since_us, batch } => self.messages(room, since_us, &batch, turn),
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
                class,
                page,
            } => {
                let joined = Joined { to, room, echo, presence, id, request, epoch, head, members, durability, class };
                self.joined_down(&joined, &page, turn);
            }
            Down::JoinRefused { to, subscription, request, refusal } => {
                self.join_refused(to, subscription, request, &refusal, turn);
            }
            Down::CaughtUp { to, subscription, ticket, page } => {
                self.caught_up(to, (subscription, ticket), &page, turn);
            }
            Down::Lagged { room, head } => {
                // Before the first join was answered it may be the head of a history that is gone.
                if let Some(&room) = self.room_by_id.get(&room)
                    && self.rooms[room as usize].head.is_some()
                {
                    self.advance(room, head);
                }
            }
            Down::Signal { room, user, body, only: Some(only), .. } => {
                self.whisper_down(room, &only, &user, &body, turn)
            }
            Down::Signal { room, author, user, body, only: None } => self.signal_down(room, author, &user, &body, turn),
            Down::Presence { room, changes, members } => self.presence_down(room, changes, members),
            Down::Replaced { to } => self.orders.replace(to),
            Down::Drained => self.core_drained(),
        }
    }

    fn messages(&mut self, id: RoomId, since_us: u64, batch: &Batch, turn: &mut Turn<'_>) {
        let Some(&room) = self.room_by_id.get(&id) else { return };
        let mut bytes = 0;
        for record in batch.records() {
            let Some(head) = self.rooms[room as usize].head else { return };
            if record.sequence <= head {
                continue;
            }
            if record.sequence != head.next() {
                debug_assert!(false, "the lane keeps the order of batches");
                self.advance(room, record.sequence.previous());
            }
            self.append(room, record);
            bytes += record.frame.len() as u32;
        }
        self.rooms[room as usize].new_since_us.get_or_insert(since_us);
        self.has_new_frames(room, bytes, turn);
    }

    /// So many bytes of frames came to a room: they go to its readers, or wait for company.
    fn has_new_frames(&mut self, room: u32, bytes: u32, turn: &mut Turn<'_>) {
        self.sweep_later(room);
        let here = &mut self.rooms[room as usize];
        let is_tight = self.run_bytes > self.limits.run_bytes_per_core_max;
        // A room whose readers are being looked at has company there.
        let (readers, was_waiting) = (here.live_count(), here.pace.is_waiting());
        let came = Came { room, bytes, readers, now_ms: turn.now.monotonic_ms };
        if here.is_dirty || is_tight || self.draining {
            self.pacing.passes(&mut here.pace, came);
            return self.mark_dirty(room);
        }
        if !self.pacing.waits(here.name.as_str(), &mut here.pace, came) {
            return self.mark_dirty(room);
        }
        turn.counters.waits += u64::from(!was_waiting);
    }

    /// Adds a message to the run of every form that somebody live reads, encoded once for each.
    fn append(&mut self, room: u32, record: &Record) {
        self.rooms[room as usize].head = Some(record.sequence);
        let positions = self.append_to_runs(room, record.sequence, |form, class, out| {
            // A run is shared by readers who agreed on different things. What rooms say live all of them know; a feature
            // that tells something else needs runs of its own.
            let written = form.write_kept(&record.frame, class, Features::NONE, out);
            debug_assert!(written.is_ok(), "a record is a message that this server encoded");
        });
        if record.author.core == self.own {
            let (before, through) = (record.sequence.previous(), record.sequence);
            let wants_own = |reading: &Subscription| reading.echo;
            self.spare_author(room, record.author, (before, through), &positions, wants_own);
        }
    }

    /// Appends a frame to every run that somebody live reads; where it lies in each. `last` is the newest message in the
    /// run with it.
    fn append_to_runs(
        &mut self,
        room: u32,
        last: Sequence,
        write: impl Fn(WireForm, Option<&str>, &mut Vec<u8>),
    ) -> Positions {
        let here = &mut self.rooms[room as usize];
        let before = here.run_bytes();
        let tight = self.run_bytes > self.limits.run_bytes_per_core_max;
        let keep_bytes_max = if tight { 0 } else { u64::from(self.limits.run_bytes_max) };
        let mut positions = Positions::default();
        for audience in here.audiences() {
            if !here.is_live(audience) {
                continue;
            }
            self.scratch.clear();
            write(audience.form, here.class_name(audience.class).map(ClassName::as_str), &mut self.scratch);
            positions.set(audience, here.append(audience, &self.scratch, last, keep_bytes_max));
        }
        self.run_bytes = self.run_bytes + here.run_bytes() - before;
        positions
    }

    /// Leaves a frame out of its author's reading, unless the author wants its own.
    fn spare_author(
        &mut self,
        room: u32,
        author: Peer,
        (before, through): (Sequence, Sequence),
        positions: &Positions,
        wants_own: impl Fn(&Subscription) -> bool,
    ) {
        let Some(slot) = self.slot_of(author.connection) else { return };
        let Some(subscription) = self.subscription_in(slot, room) else { return };
        let reading = &mut self.subscriptions[subscription as usize];
        let (start, end) = positions.get(self.connections[slot].audience(reading));
        if wants_own(reading) || reading.state != ReadState::Live {
            return;
        }
        if reading.position == start {
            (reading.position, reading.sequence) = (end, through);
            return;
        }
        let skips = reading.skips.get_or_insert_default();
        match skips.back_mut() {
            Some(last) if last.end == start => (last.end, last.through) = (end, through),
            _ => skips.push_back(Skip { start, end, before, through }),
        }
    }

    /// The room's head is there, and what lies between was not sent to this core: whoever reads live has to catch up, and
    /// does so when it is looked at.
    pub(crate) fn advance(&mut self, room: u32, head: Sequence) {
        let here = &mut self.rooms[room as usize];
        let known = here.head.replace(head.max(here.head.unwrap_or_default()));
        if known.is_none_or(|known| known >= head) {
            return;
        }
        self.run_bytes -= here.run_bytes();
        here.leave_out();
        self.mark_dirty(room);
    }

    /// The newest frames of a room are sent to nobody any more: one of them is to be erased. Who reads live and has taken all
    /// of them goes on; who has not comes back by pages.
    pub fn forget_frames(&mut self, id: RoomId) {
        let Some(&room) = self.room_by_id.get(&id) else { return };
        let here = &mut self.rooms[room as usize];
        let before = here.run_bytes();
        for audience in here.audiences() {
            here.forget_before(audience, here.run_head(audience));
        }
        self.run_bytes -= before - here.run_bytes();
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
                here.remove_live(session.audience(reading));
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
            self.advance(here, page.head);
        }
        let Some(slot) = self.slot_of(joined.to) else { return };
        self.release(slot, self.page_answer_bytes());
        self.resume_if_light(slot);
        if !self.connections[slot].is_open() {
            return;
        }
        let &Joined { echo, presence, id, request, epoch, head, members, .. } = joined;
        let (room, durability) = (joined.room.as_str(), joined.durability.name());
        let reading = self.subscription_of(slot, room);
        // One that was left while it was on its way is none; the room hears of that next.
        let reading = reading.filter(|&reading| !is_earlier(id.join, self.subscriptions[reading as usize].first_join));
        if let Some(subscription) = reading
            && let Some(code) = self.subscriptions[subscription as usize].ended_by
        {
            let is_newest = self.subscriptions[subscription as usize].join == id.join;
            return self.refuse_ended(subscription, (request, code), is_newest, turn);
        }
        self.connections[slot].write(&Event::Joined { id: request, room, epoch, sequence: head, members, durability });
        self.mark_ready(slot);
        let Some(subscription) = reading else { return };
        let reading = &mut self.subscriptions[subscription as usize];
        reading.echo = echo;
        reading.presence = presence && reading.rights.contains(Rights::PRESENCE);
        // `members` is newer than what was left out.
        reading.told = self.rooms[reading.room as usize].told_by_now();
        reading.sequence = page.after;
        reading.is_placed = true;
        reading.class = self.rooms[reading.room as usize].move_reading(reading.class, joined.class.as_ref());
        let is_newest_join = reading.join == id.join;
        let here = &mut self.rooms[reading.room as usize];
        if here.epoch != epoch {
            // The room was forgotten and made anew since somebody here read it: its old head means nothing.
            here.head = None;
        }
        (here.epoch, here.members) = (epoch, members);
        if let Some(telling) = &mut here.telling {
            telling.count_anew(members);
        }
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
        self.resume_if_light(slot);
        let reading = self.reading(to, id);
        if let Some((_, subscription)) = reading
            && let Some(code) = self.subscriptions[subscription as usize].ended_by
        {
            return self.refuse_ended(subscription, (request, code), true, turn);
        }
        if self.connections[slot].is_open() {
            self.refuse(slot, request, refusal, turn);
        }
        let Some((_, subscription)) = reading else { return };
        if self.subscriptions[subscription as usize].is_placed {
            // It read the room before, and goes on from where it was.
            self.fall_behind(subscription, turn);
        } else if self.subscriptions[subscription as usize].first_join != id.join {
            // A join ahead of this one may wait for its room yet, and is done then: the room hears that nobody reads.
            self.leave(slot, subscription, None, turn);
        } else {
            self.remove_subscription(subscription, turn);
        }
    }

    /// A signal goes the way of a message: into the runs, once for each form, and to each live reader with what else is
    /// there for it. Who is behind loses it.
    fn signal_down(&mut self, id: RoomId, author: Peer, user: &UserName, body: &OwnedBody, turn: &mut Turn<'_>) {
        let Some(&room) = self.room_by_id.get(&id) else { return };
        let here = &self.rooms[room as usize];
        let Some(head) = here.head else { return };
        let lost = here.subscriptions.len() - here.live_count();
        if self.signals_left == 0 {
            turn.counters.signals_dropped += 1;
            return;
        }
        self.signals_left -= 1;
        turn.counters.signals_dropped += lost as u64;
        let name = here.name.clone();
        let body = Body { format: body.format, bytes: &body.bytes };
        let event = Event::Signal { room: name.as_str(), user: user.as_str(), body };
        let positions = self.append_to_runs(room, head, |form, _, out| form.write_event(&event, out));
        let bytes = body.bytes.len() as u32;
        if author.core == self.own {
            self.spare_author(room, author, (head, head), &positions, |_| false);
        }
        self.has_new_frames(room, bytes, turn);
    }

    /// A signal for the connections of one user that read the room: each gets it by itself, ahead of what waits in the run.
    fn whisper_down(&mut self, id: RoomId, only: &UserName, user: &UserName, body: &OwnedBody, turn: &mut Turn<'_>) {
        let Some(&room) = self.room_by_id.get(&id) else { return };
        let here = &self.rooms[room as usize];
        if self.signals_left == 0 {
            turn.counters.signals_dropped += 1;
            return;
        }
        // Each looks all readings through.
        let steps = here.subscriptions.len() as u64 / SUBSCRIPTIONS_A_STEP;
        self.signals_left = self.signals_left.saturating_sub(1 + usize::try_from(steps).unwrap_or(usize::MAX));
        turn.counters.steps += steps;
        let connection = |subscription: &u32| self.subscriptions[*subscription as usize].connection as usize;
        let is_theirs = |slot: &usize| self.connections[*slot].user.as_ref() == Some(only);
        let slots: Vec<usize> = here.subscriptions.iter().map(connection).filter(is_theirs).collect();
        let name = here.name.clone();
        let body = Body { format: body.format, bytes: &body.bytes };
        let event = Event::Signal { room: name.as_str(), user: user.as_str(), body };
        for slot in slots {
            let session = &mut self.connections[slot];
            // Who takes nothing has no more written into its outbox than it may, and loses a signal.
            if !session.is_open() || session.waiting_bytes() > u64::from(self.limits.outbox_bytes_max / 2) {
                turn.counters.signals_dropped += 1;
                continue;
            }
            session.write(&event);
            self.mark_ready(slot);
        }
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
            self.count_outbox(slot);
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
        // The next send begins with another room.
        if self.connections[slot].pending.len() > 1 {
            self.connections[slot].pending.rotate_left(1);
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
        let audience = self.connections[slot].audience(reading);
        let skip = reading.skips.as_ref().and_then(|skips| skips.front()).copied();
        let until = skip.map(|skip| (skip.start, skip.before));
        let taken = match here.run(audience) {
            Some(run) => run.take(reading.position, until),
            None => Taken::FellOff,
        };
        match taken {
            Taken::Frames { slice, .. } if slice.len() > bytes_max => None,
            Taken::Frames { slice, through, position } => {
                turn.counters.deliveries += through.0 - reading.sequence.0;
                (reading.position, reading.sequence) = (position, through);
                reading.pass_skips();
                if reading.position >= here.run_head(audience) {
                    self.no_longer_pending(slot, subscription);
                }
                Some(slice)
            }
            Taken::Nothing => {
                self.no_longer_pending(slot, subscription);
                None
            }
            Taken::FellOff => {
                self.fall_off(subscription, turn);
                None
            }
        }
    }

    fn no_longer_pending(&mut self, slot: usize, subscription: u32) {
        self.subscriptions[subscription as usize].is_pending = false;
        self.connections[slot].pending.retain(|&mut other| other != subscription);
    }

    /// A send is done; everything of it went out.
    pub fn sent(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_of(id) else { return };
        let session = &mut self.connections[slot];
        session.in_flight = false;
        session.in_flight_bytes = 0;
        self.count_outbox(slot);
        let session = &self.connections[slot];
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
}

impl crate::session::Subscription {
    /// Steps over own posts that lie right here.
    fn pass_skips(&mut self) {
        while let Some(skips) = &mut self.skips {
            match skips.front() {
                Some(skip) if skip.start == self.position => {
                    (self.position, self.sequence) = (skip.end, skip.through);
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
    class: Option<ClassName>,
}

/// Whether a join was asked before another of the same connection. The numbers wrap.
fn is_earlier(join: u32, other: u32) -> bool {
    join.wrapping_sub(other) > u32::MAX / 2
}

/// Where a frame lies in the run of each audience.
type Positions = ByAudience<(u64, u64)>;

const _: () = assert!(GATHERED_BYTES_MAX < CHUNK_BYTES_MAX as usize);
