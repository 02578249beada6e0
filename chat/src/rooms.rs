//! The rooms that a core owns: takes what comes up, gives places, commits, and sends what goes down to each core.
//!
//! The way of a post: [`Rooms::handle`] gives it a place in `open` → [`Rooms::commit`] makes it history and answers →
//! [`Rooms::fan_out`] sends one parcel to each core that has readers.

use std::collections::VecDeque;

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::{Message, PresenceState};
use banter_protocol::ids::{Epoch, RequestId, RoomId, RoomName, Sequence, UserName};
use banter_protocol::native;
use banter_protocol::request::{Body, FetchFrom};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use slab::Slab;

use crate::address::{Core, Peer};
use crate::dedupe::Verdict;
use crate::history::PageLimit;
use crate::lanes::Lanes;
use crate::limits::Limits;
use crate::parcel::{Answer, Batch, Down, JoinAsk, OwnedBody, Record, Refusal, Up};
use crate::room::{MemberChange, Room};
use crate::turn::Turn;

/// Bytes of frames in one page; a part of the outbox, so that a page and its expansion to JSON fit (at most 4/3 and
/// a constant for each message).
pub fn page_bytes_max(limits: &Limits) -> usize {
    (limits.outbox_bytes_max / 8) as usize
}

/// The rooms of one core.
pub struct Rooms {
    limits: Limits,
    rooms_max: usize,
    slots: Slab<Room>,
    by_id: FxHashMap<RoomId, usize>,
    /// Posts that have a place, and answers that must keep their order among them.
    open: VecDeque<Open>,
    /// Rooms with fresh messages.
    dirty: Vec<usize>,
    /// Cores that were left out, and what of.
    lagged: Vec<(RoomId, Core)>,
    kept: Kept,
    idle_blank: IdleQueue,
    idle_kept: IdleQueue,
    presence_due: VecDeque<(u64, RoomId)>,
    next_epoch: Epoch,
    /// The cores count in turn, so that no two of them give the same epoch.
    epoch_step: u64,
    draining: bool,
    drained_untold: Vec<Core>,
    scratch: Vec<u8>,
}

/// What waits for the commit.
enum Open {
    Post { slot: usize, record: Record, request: RequestId, time_ms: u64 },
    Answer { to: Peer, request: RequestId, answer: Answer },
}

/// Rooms without readers, the longest idle first. Entries are checked when they are taken: a room that was joined
/// again has another stamp.
#[derive(Default)]
struct IdleQueue(VecDeque<(RoomId, u64)>);

/// The order in which messages of all rooms came, so that the oldest of the core goes first.
#[derive(Default)]
struct Kept {
    order: VecDeque<(usize, Epoch, Sequence)>,
    records: usize,
    bytes: u64,
}

impl Rooms {
    /// No rooms yet. Epochs count up from `first_epoch`, in steps of the number of cores; no earlier run has used or
    /// passed it.
    pub fn new(limits: Limits, cores: u16, first_epoch: Epoch) -> Self {
        Rooms {
            limits,
            rooms_max: limits.rooms_max.div_ceil(u32::from(cores)) as usize,
            slots: Slab::new(),
            by_id: FxHashMap::default(),
            open: VecDeque::new(),
            dirty: Vec::new(),
            lagged: Vec::new(),
            kept: Kept::default(),
            idle_blank: IdleQueue::default(),
            idle_kept: IdleQueue::default(),
            presence_due: VecDeque::new(),
            next_epoch: first_epoch,
            epoch_step: cores.into(),
            draining: false,
            drained_untold: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Takes one parcel. The caller has seen that its answer finds room ([`Lanes::may_take_up`]).
    pub fn handle(&mut self, parcel: Up, turn: &mut Turn<'_>) {
        match parcel {
            Up::Post { room, author, user, request, key, body } => {
                turn.lanes.owe(author.core);
                let post = Post { room, author, user, request, key, body };
                if let Err(answer) = self.post(post, turn) {
                    self.open.push_back(Open::Answer { to: author, request, answer });
                }
            }
            Up::Join(ask) => self.join(*ask, turn),
            Up::Leave { room, leaver, user, asked } => {
                let was_there = self.leave(&room, leaver, &user, turn);
                if let Some(request) = asked {
                    // Not behind the answers of posts that wait for the commit: the answer of a join that follows
                    // does not wait either, and `left` must not come behind that.
                    let answer = if was_there {
                        Answer::Left { room }
                    } else {
                        // Its join was refused while the leave was on its way.
                        Answer::Refused(Refusal::new(ErrorCode::NotJoined, "join the room first"))
                    };
                    let parcel = Down::Answer { to: leaver.connection, request, answer };
                    turn.lanes.send_answer(leaver.core, parcel, false);
                }
            }
            Up::CatchUp { room, reader, subscription, after, echo } => {
                let Some(&slot) = self.by_id.get(&room) else { return };
                let page = self.slots[slot].history.page_after(after, self.page_limit(), (!echo).then_some(reader));
                let parcel = Down::CaughtUp { to: reader.connection, subscription, page };
                turn.lanes.send_answer(reader.core, parcel, false);
            }
            Up::Fetch { room, asker, request, from, messages_max } => {
                let answer = self.fetch(room, from, messages_max);
                let parcel = Down::Answer { to: asker.connection, request, answer };
                turn.lanes.send_answer(asker.core, parcel, false);
            }
            Up::Members { room, asker, request } => {
                let there = self.by_id.get(&RoomId::of(room.as_str())).map(|&slot| &self.slots[slot]);
                let (count, users) =
                    there.map_or_else(Default::default, |room| (room.members_count(), room.members_listed()));
                let answer = Answer::Members { room, count, users };
                let parcel = Down::Answer { to: asker.connection, request, answer };
                turn.lanes.send_answer(asker.core, parcel, false);
            }
            Up::Signal { room, author, user, body } => self.signal(room, author, &user, &body, turn),
        }
    }

    fn page_limit(&self) -> PageLimit {
        PageLimit { messages_max: self.limits.fetch_messages_max, bytes_max: page_bytes_max(&self.limits) }
    }

    /// Gives a post its place, or says what it is answered instead.
    fn post(&mut self, post: Post, turn: &mut Turn<'_>) -> Result<(), Answer> {
        let refuse = |code, message: &'static str| Err(Answer::Refused(Refusal::new(code, message)));
        if self.draining {
            return refuse(ErrorCode::Draining, "the server is stopping: post again when you are reconnected");
        }
        let slot = self.by_id.get(&post.room).copied();
        let Some(slot) = slot.filter(|&slot| self.slots[slot].has_reader(post.author)) else {
            return refuse(ErrorCode::NotJoined, "join the room before you post to it");
        };
        let room = &mut self.slots[slot];
        if let Some(key) = &post.key {
            match room.judge(&post.user, key, &post.body.bytes) {
                Verdict::New => {}
                Verdict::Conflict => {
                    return refuse(ErrorCode::KeyConflict, "this key was used for another body: take a new key");
                }
                Verdict::Duplicate(known) => {
                    turn.counters.duplicate_posts += 1;
                    return Err(Answer::Posted {
                        room: room.name.clone(),
                        epoch: room.epoch,
                        sequence: known.sequence,
                        time_ms: known.time_ms,
                        duplicate: true,
                    });
                }
            }
        }
        let sequence = room.next_place();
        let time_ms = turn.now.unix_ms;
        if let Some(key) = &post.key {
            let keys_max = self.limits.dedupe_keys_max;
            room.dedupe_mut().remember(&post.user, key, &post.body.bytes, sequence, time_ms, keys_max);
        }
        self.scratch.clear();
        let message = Message {
            epoch: room.epoch,
            sequence,
            time_ms,
            room: room.name.as_str(),
            user: post.user.as_str(),
            key: post.key.as_ref().map(|key| key.as_str()),
            body: Body { format: post.body.format, bytes: &post.body.bytes },
        };
        native::write_message(&message, &mut self.scratch);
        let record = Record { sequence, frame: Bytes::copy_from_slice(&self.scratch), author: post.author };
        self.open.push_back(Open::Post { slot, record, request: post.request, time_ms });
        Ok(())
    }

    /// Makes every open post history, and sends the answers in the order of the asks.
    pub fn commit(&mut self, turn: &mut Turn<'_>) {
        while let Some(open) = self.open.pop_front() {
            let (to, request, answer) = match open {
                Open::Answer { to, request, answer } => (to, request, answer),
                Open::Post { slot, record, request, time_ms } => {
                    let room = &mut self.slots[slot];
                    let answer = Answer::Posted {
                        room: room.name.clone(),
                        epoch: room.epoch,
                        sequence: record.sequence,
                        time_ms,
                        duplicate: false,
                    };
                    turn.counters.posts += 1;
                    let author = record.author;
                    if room.fresh.is_empty() {
                        self.dirty.push(slot);
                    }
                    room.fresh.push(record.clone());
                    self.keep(slot, record);
                    (author, request, answer)
                }
            };
            turn.lanes.send_answer(to.core, Down::Answer { to: to.connection, request, answer }, true);
        }
        turn.counters.history_bytes = self.kept.bytes;
        turn.counters.rooms = self.slots.len() as u64;
    }

    /// Adds a message to its history, and forgets the oldest above the limits.
    fn keep(&mut self, slot: usize, record: Record) {
        let room = &mut self.slots[slot];
        self.kept.order.push_back((slot, room.epoch, record.sequence));
        self.kept.records += 1;
        self.kept.bytes += room.history.push(record);
        let messages_max = self.limits.history_messages_max as usize;
        if messages_max != 0 && room.history.len() > messages_max {
            self.kept.bytes -= room.history.forget_oldest();
            self.kept.records -= 1;
        }
        while self.kept.bytes > self.limits.history_bytes_per_core_max {
            let Some((slot, epoch, sequence)) = self.kept.order.pop_front() else { break };
            if let Some(room) = self.slots.get_mut(slot).filter(|room| is_kept(room, epoch, sequence)) {
                self.kept.bytes -= room.history.forget_oldest();
                self.kept.records -= 1;
            }
        }
        // Entries of messages that went by another way stay in the order until they outnumber the others.
        if self.kept.order.len() > 2 * self.kept.records + 1_024 {
            let slots = &self.slots;
            self.kept.order.retain(|&(slot, epoch, sequence)| {
                slots.get(slot).is_some_and(|room| room.epoch == epoch && sequence >= room.history.first_available())
            });
        }
    }

    /// Sends what is fresh: one parcel a core that has readers.
    pub fn fan_out(&mut self, turn: &mut Turn<'_>) {
        self.tell_lagged(turn);
        for slot in std::mem::take(&mut self.dirty) {
            let room = &mut self.slots[slot];
            let id = room.id;
            let batch = if room.fresh.len() == 1 {
                room.fresh.pop().map(Batch::One)
            } else {
                Some(Batch::Many(std::mem::take(&mut room.fresh).into()))
            };
            let Some(batch) = batch else { continue };
            for share in room.cores.iter_mut().filter(|share| !share.lagged) {
                let sent = turn.lanes.try_send_down(share.core, || Down::Messages { room: id, batch: batch.clone() });
                if !sent {
                    turn.counters.batches_lagged += 1;
                    share.lagged = true;
                    self.lagged.push((id, share.core));
                }
            }
        }
        if self.draining && self.open.is_empty() && self.lagged.is_empty() {
            self.drained_untold.retain(|&core| !turn.lanes.try_send_down(core, || Down::Drained));
        }
    }

    /// Tells cores that were left out where the head is, so that their subscriptions catch up.
    fn tell_lagged(&mut self, turn: &mut Turn<'_>) {
        let (slots, by_id) = (&mut self.slots, &self.by_id);
        self.lagged.retain(|&(id, core)| {
            let Some(room) = by_id.get(&id).and_then(|&slot| slots.get_mut(slot)) else { return false };
            let head = room.history.head();
            let Some(share) = room.cores.iter_mut().find(|share| share.core == core) else { return false };
            share.lagged = !turn.lanes.try_send_down(core, || Down::Lagged { room: id, head });
            share.lagged
        });
    }

    fn join(&mut self, ask: JoinAsk, turn: &mut Turn<'_>) {
        let (to, subscription, request) = (ask.reader.connection, ask.subscription, ask.request);
        let core = ask.reader.core;
        let parcel = match self.try_join(&ask, turn) {
            Err(refusal) => Down::JoinRefused { to, subscription, request, refusal },
            Ok((slot, start)) => {
                let room = &self.slots[slot];
                let page = room.history.page_after(start, self.page_limit(), (!ask.echo).then_some(ask.reader));
                let (epoch, members) = (room.epoch, room.members_count());
                let (room, echo, presence, head) = (ask.room, ask.echo, ask.presence, page.head);
                Down::Joined { to, room, echo, presence, subscription, request, epoch, head, members, page }
            }
        };
        turn.lanes.send_answer(core, parcel, false);
    }

    fn try_join(&mut self, ask: &JoinAsk, turn: &mut Turn<'_>) -> Result<(usize, Sequence), Refusal> {
        let slot = self.room_or_new(&ask.room)?;
        let room = &mut self.slots[slot];
        let start = match room.start_of(ask.from, ask.read_already) {
            Ok(start) => start,
            Err(refusal) => {
                self.queue_if_idle(slot);
                return Err(refusal);
            }
        };
        if room.add_reader(ask.reader, &ask.user, ask.presence) == MemberChange::Changed {
            let change = Some((ask.user.clone(), PresenceState::Joined));
            // Sent ahead of `joined`: the one who joins is left out by `cause`.
            self.tell_presence(slot, change, Some(ask.reader), turn);
        }
        Ok((slot, start))
    }

    /// Finds the room, or makes it, if need be in the place of one that nobody reads.
    fn room_or_new(&mut self, name: &RoomName) -> Result<usize, Refusal> {
        let id = RoomId::of(name.as_str());
        if let Some(&slot) = self.by_id.get(&id) {
            return Ok(slot);
        }
        if self.slots.len() >= self.rooms_max && !self.forget_idle_room() {
            return Err(Refusal {
                code: ErrorCode::Overloaded,
                message: "rooms_max is reached, and every room is being read".into(),
                retry_after_ms: Some(1_000),
            });
        }
        let epoch = self.next_epoch;
        self.next_epoch = Epoch(epoch.0 + self.epoch_step);
        let slot = self.slots.insert(Room::new(id, name.clone(), epoch));
        self.by_id.insert(id, slot);
        Ok(slot)
    }

    /// Forgets the room that has been without readers the longest; those that never had a message first.
    fn forget_idle_room(&mut self) -> bool {
        for blank in [true, false] {
            loop {
                let queue = if blank { &mut self.idle_blank } else { &mut self.idle_kept };
                let Some((id, stamp)) = queue.0.pop_front() else { break };
                let Some(&slot) = self.by_id.get(&id) else { continue };
                let room = &self.slots[slot];
                if !room.is_idle() || room.idle_stamp != stamp {
                    continue;
                }
                if room.is_committing() {
                    queue.0.push_back((id, stamp));
                    break;
                }
                let mut room = self.slots.remove(slot);
                self.by_id.remove(&id);
                while !room.history.is_empty() {
                    self.kept.bytes -= room.history.forget_oldest();
                    self.kept.records -= 1;
                }
                return true;
            }
        }
        false
    }

    fn queue_if_idle(&mut self, slot: usize) {
        let stamp_next = self.slots[slot].idle_stamp + 1;
        let room = &mut self.slots[slot];
        if !room.is_idle() {
            return;
        }
        room.idle_stamp = stamp_next;
        let entry = (room.id, stamp_next);
        let queue = if room.is_blank() { &mut self.idle_blank } else { &mut self.idle_kept };
        queue.0.push_back(entry);
        // A room that comes and goes leaves old entries: at most as many as there are rooms.
        if queue.0.len() > 2 * self.slots.len() + 64 {
            let (slots, by_id) = (&self.slots, &self.by_id);
            queue.0.retain(|(id, stamp)| {
                by_id.get(id).is_some_and(|&slot| slots[slot].is_idle() && slots[slot].idle_stamp == *stamp)
            });
        }
    }

    /// Takes a reader away; `false` if it was none.
    fn leave(&mut self, room: &RoomName, leaver: Peer, user: &UserName, turn: &mut Turn<'_>) -> bool {
        let Some(&slot) = self.by_id.get(&RoomId::of(room.as_str())) else { return false };
        let Some(change) = self.slots[slot].remove_reader(leaver, user) else { return false };
        if change == MemberChange::Changed {
            self.tell_presence(slot, Some((user.clone(), PresenceState::Left)), None, turn);
        }
        self.queue_if_idle(slot);
        true
    }

    fn tell_presence(
        &mut self,
        slot: usize,
        change: Option<(UserName, PresenceState)>,
        cause: Option<Peer>,
        turn: &mut Turn<'_>,
    ) {
        let room = &mut self.slots[slot];
        let id = room.id;
        let members = room.members_count();
        let counts_only = change.is_some() && members > u64::from(self.limits.presence_members_max);
        let mut all_told = !counts_only;
        for share in room.cores.iter().filter(|share| share.watchers > 0 && !counts_only) {
            let parcel = || Down::Presence { room: id, change: change.clone(), cause, members };
            if !turn.lanes.try_send_down(share.core, parcel) {
                turn.counters.presence_dropped += 1;
                all_told = false;
            }
        }
        let watched = room.cores.iter().any(|share| share.watchers > 0);
        if !all_told && watched && !room.presence_due {
            room.presence_due = true;
            let due = turn.now.monotonic_ms + u64::from(self.limits.presence_interval_ms);
            self.presence_due.push_back((due, id));
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, turn: &mut Turn<'_>) {
        while self.next_due().is_some_and(|due| due <= turn.now.monotonic_ms)
            && let Some((_, id)) = self.presence_due.pop_front()
        {
            if let Some(&slot) = self.by_id.get(&id) {
                self.slots[slot].presence_due = false;
                self.tell_presence(slot, None, None, turn);
            }
        }
    }

    /// When the next thing is due. Asked at the end of a turn: the core's own parcels, taken late in it, set it too.
    pub fn next_due(&self) -> Option<u64> {
        self.presence_due.front().map(|&(due, _)| due)
    }

    fn signal(&mut self, id: RoomId, author: Peer, user: &UserName, body: &OwnedBody, turn: &mut Turn<'_>) {
        let Some(room) = self.by_id.get(&id).map(|&slot| &self.slots[slot]) else { return };
        if !room.has_reader(author) {
            return;
        }
        turn.counters.signals += 1;
        for share in &room.cores {
            let parcel = || Down::Signal { room: id, author, user: user.clone(), body: body.clone() };
            if !turn.lanes.try_send_down(share.core, parcel) {
                turn.counters.signals_dropped += 1;
            }
        }
    }

    fn fetch(&self, name: RoomName, from: FetchFrom, messages_max: u32) -> Answer {
        let Some(&slot) = self.by_id.get(&RoomId::of(name.as_str())) else {
            return Answer::Page { room: name, epoch: Epoch(0), messages: Bytes::new(), more: false };
        };
        let room = &self.slots[slot];
        let limit = PageLimit { messages_max, ..self.page_limit() };
        let (messages, more) = match from {
            FetchFrom::Before(before) => room.history.fetch_before(before, limit),
            FetchFrom::After(after) => room.history.fetch_after(after, limit),
        };
        Answer::Page { room: name, epoch: room.epoch, messages, more }
    }

    /// From now on posts are refused; each core is told once the last batch is on its way.
    pub fn drain(&mut self, lanes: &Lanes) {
        if !self.draining {
            self.draining = true;
            self.drained_untold = lanes.cores().collect();
        }
    }

    /// Whether something waits for room in a lane.
    pub fn is_waiting(&self) -> bool {
        !self.lagged.is_empty() || !self.drained_untold.is_empty()
    }

    /// Every room, for checks from outside.
    pub fn iter(&self) -> impl Iterator<Item = &Room> {
        self.slots.iter().map(|(_, room)| room)
    }

    /// Bytes and messages of all histories.
    pub fn kept(&self) -> (u64, usize) {
        (self.kept.bytes, self.kept.records)
    }
}

struct Post {
    room: RoomId,
    author: Peer,
    user: UserName,
    request: RequestId,
    key: Option<banter_protocol::ids::PostKey>,
    body: OwnedBody,
}

/// Whether the oldest message of the room is that one.
fn is_kept(room: &Room, epoch: Epoch, sequence: Sequence) -> bool {
    room.epoch == epoch && !room.history.is_empty() && room.history.first_available() == sequence
}
