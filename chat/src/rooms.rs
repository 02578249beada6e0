//! The rooms that a core owns: takes what comes up, gives places, commits, and sends what goes down to each core.
//!
//! The way of a post: [`Rooms::handle`] gives it a place → its room's level is reached (`commits.rs`), it becomes history
//! and is answered → [`Rooms::fan_out`] sends one parcel to each core that has readers. Readers that are not live get
//! pages (`pages.rs`).

use std::collections::VecDeque;

use banter_access::limit::Limit;
use banter_access::rights::Rights;
use banter_log::journal::{Ask, Journal};
use banter_log::key::{Fingerprint, KeyedPost, KnownKey, body_hash};
use banter_log::reading::ReadFault;
use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Message;
use banter_protocol::ids::{Epoch, PostKey, RequestId, RoomId, Sequence, UserName};
use banter_protocol::native::{self, Views};
use banter_protocol::request::Body;
use rustc_hash::FxHashMap;
use slab::Slab;

use crate::access::must_have;
use crate::address::{Core, Now, Peer, Placement};
use crate::backend::{BACKEND, without_room};
use crate::clock::LogClock;
use crate::closing::Closing;
use crate::commits::{Commits, Open};
use crate::dedupe::{Dedupe, Verdict};
use crate::epochs::Epochs;
use crate::erasing::Erasing;
use crate::history::PageLimit;
use crate::idle::IdleList;
use crate::lanes::Lanes;
use crate::limits::Limits;
use crate::loading::KeysLoading;
use crate::logs::{LogConfig, LogId, Logs};
use crate::pages::{PageAsk, Pages};
use crate::parcel::{Answer, Batch, Down, OwnedBody, Record, Refusal, SayAsk, Up};
use crate::policy::RoomPolicies;
use crate::post_rates::{PostRates, RoomPostRates};
use crate::presence::Tellings;
use crate::program::Event;
use crate::programming::Programming;
use crate::proofs::Proofs;
use crate::room::Room;
use crate::shares::Shares;
use crate::turn::Turn;

/// Bytes of frames in one page; a part of the outbox, so that a page and its expansion to JSON fit (at most 4/3 and
/// a constant for each message).
pub fn page_bytes_max(limits: &Limits) -> usize {
    (limits.outbox_bytes_max / 8) as usize
}

/// The rooms of one core.
pub struct Rooms {
    pub(crate) limits: Limits,
    pub(crate) policies: RoomPolicies,
    pub(crate) post_rates: RoomPostRates,
    pub(crate) rooms_max: usize,
    pub(crate) slots: Slab<Room>,
    pub(crate) by_id: FxHashMap<RoomId, usize>,
    /// Where cores and rooms lie.
    pub(crate) placement: Placement,
    pub(crate) logs: Logs,
    pub(crate) commits: Commits,
    pub(crate) pages: Pages,
    pub(crate) dedupe: Dedupe,
    pub(crate) loading: KeysLoading,
    pub(crate) erasing: Erasing,
    pub(crate) closing: Closing,
    pub(crate) proofs: Proofs,
    /// What is judged now was proved to be this machine's to judge.
    pub(crate) is_proved: bool,
    pub(crate) programming: Programming,
    pub(crate) clock: LogClock,
    /// Rooms with fresh messages.
    pub(crate) dirty: Vec<usize>,
    /// What each core was left out of.
    pub(crate) lagged: Vec<VecDeque<RoomId>>,
    /// How much history each room holds.
    pub(crate) shares: Shares,
    /// Rooms that nobody reads: those that never had a message, and the others.
    pub(crate) idle_blank: IdleList,
    pub(crate) idle_kept: IdleList,
    pub(crate) tellings: Tellings,
    pub(crate) epochs: Epochs,
    pub(crate) draining: bool,
    drained_untold: Vec<Core>,
    pub(crate) scratch: Vec<u8>,
}

impl Rooms {
    /// No rooms in memory yet. Epochs count up from `first_epoch`, which no earlier run has used or passed, in steps of one
    /// more than the cores: the log's keeper counts with them, from the run's own number on, and gives what the cores leap over.
    pub fn new(parts: RoomsParts) -> Self {
        let RoomsParts { limits, policies, post_rates, placement, first_epoch, epochs_end, logs } = parts;
        let (cores, start_ms, hold_ms) = (placement.cores(), logs.start_ms(), logs.hold_ms());
        let logs = Logs::new(logs, placement);
        Rooms {
            limits,
            policies,
            post_rates: RoomPostRates::new(post_rates),
            rooms_max: limits.rooms_max.div_ceil(u32::from(cores)) as usize,
            slots: Slab::new(),
            by_id: FxHashMap::default(),
            placement,
            commits: Commits::new(logs.count(), hold_ms),
            logs,
            pages: Pages::new(limits.catch_up_bytes_per_turn_max),
            dedupe: Dedupe::new(limits.dedupe_keys_per_author_max, limits.dedupe_bytes_per_core_max),
            loading: KeysLoading::default(),
            erasing: Erasing::default(),
            closing: Closing::default(),
            proofs: Proofs::default(),
            is_proved: false,
            programming: Programming::default(),
            clock: LogClock::new(start_ms),
            dirty: Vec::new(),
            lagged: (0..cores).map(|_| VecDeque::new()).collect(),
            shares: Shares::default(),
            idle_blank: IdleList::default(),
            idle_kept: IdleList::default(),
            tellings: Tellings::new(&limits),
            epochs: Epochs::new(first_epoch, u64::from(cores) + 1, epochs_end),
            draining: false,
            drained_untold: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Goes by other limits.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.rooms_max = limits.rooms_max.div_ceil(self.placement.cores().into()) as usize;
        self.limits = limits;
    }

    /// Takes one parcel.
    pub fn handle(&mut self, parcel: Up, turn: &mut Turn<'_>) {
        turn.counters.steps += 1;
        let (id, _) = parcel.room_and_peer();
        if self.logs.is_closed_to(id) {
            return self.take_closed(parcel, turn);
        }
        let slot = self.by_id.get(&id).copied().or_else(|| self.load_for(&parcel, id));
        if let Some(slot) = slot.filter(|_| parcel.has_key()) {
            self.load_keys_again(slot, turn);
        }
        if let Some(slot) = slot {
            self.follow_programs(slot);
        }
        match slot.and_then(|slot| self.slots[slot].held.as_ref()) {
            // The room is being loaded, and a signal is worth nothing later.
            Some(_) if matches!(parcel, Up::Signal { .. }) => turn.counters.signals_dropped += 1,
            // Who is there is known.
            Some(_) if matches!(parcel, Up::Members { .. }) => self.take(parcel, slot, turn),
            Some(_) => self.hold(slot, parcel, turn),
            None => match slot.filter(|&slot| self.waits_for_units(slot, &parcel)) {
                Some(slot) => self.hold(Some(slot), parcel, turn),
                None => self.take(parcel, slot, turn),
            },
        }
    }

    pub(crate) fn take(&mut self, parcel: Up, slot: Option<usize>, turn: &mut Turn<'_>) {
        match parcel {
            Up::Post { author, user, rights, request, key, body, .. } => {
                let reads = slot.is_some_and(|slot| self.slots[slot].has_reader(author));
                let refusal = || Refusal::new(ErrorCode::NotJoined, "join the room before you post to it");
                let place = slot.filter(|_| reads).ok_or_else(refusal);
                let place = place.and_then(|slot| must_have(rights, Rights::WRITE).map(|()| slot));
                self.take_post(Post { author, user, request, key, body, hop: 0 }, slot, place, turn);
            }
            Up::Say(ask) => {
                let SayAsk { room, author, user, request, key, body, hop } = *ask;
                let place = slot.ok_or_else(|| without_room(self, &room));
                self.take_post(Post { author, user, request, key, body, hop }, slot, place, turn);
            }
            Up::Refuse { author, request, refusal, .. } => {
                let (answer, since_us) = (Answer::PostRefused(*refusal), turn.now.monotonic_us);
                self.open(slot, Open::Answer { to: author, request, answer, since_us });
            }
            Up::Join(ask) => self.join(*ask, turn),
            Up::Leave { room, leaver, user, asked } => {
                self.leaves_unproved(RoomId::of(room.as_str()), leaver, turn);
                let was_there = self.leave(slot, leaver, &user, turn);
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
                    turn.lanes.send_answer(leaver.core, parcel);
                }
            }
            Up::CatchUp(ask) => self.pages.push(PageAsk::CatchUp(ask), turn),
            Up::Fetch(ask) => self.take_fetch(ask, slot, turn),
            Up::Members { room, asker, rights, request } => {
                let there = slot.map(|slot| &self.slots[slot]);
                let (count, users) =
                    there.map_or_else(Default::default, |room| (room.members_count(), room.members_listed()));
                let answer = match must_have(rights, Rights::PRESENCE) {
                    Ok(()) => Answer::Members { room, count, users },
                    Err(refusal) => Answer::MembersRefused(refusal),
                };
                let parcel = Down::Answer { to: asker.connection, request, answer };
                turn.lanes.send_answer(asker.core, parcel);
            }
            Up::Signal { rights, .. } if !rights.contains(Rights::SIGNAL) => turn.counters.signals_dropped += 1,
            Up::Signal { author, user, body, .. } => self.signal(slot, author, &user, &body, turn),
            // The homes took it: it is about no room.
            Up::Home(_) => {}
        }
    }

    pub(crate) fn page_limit(&self) -> PageLimit {
        PageLimit { messages_max: self.limits.fetch_messages_max, bytes_max: page_bytes_max(&self.limits) }
    }

    /// Takes a post to the room in which it may be said, or refuses it there or without one.
    fn take_post(&mut self, post: Post, room: Option<usize>, place: Result<usize, Refusal>, turn: &mut Turn<'_>) {
        let (to, request) = (post.author, post.request);
        if let Err(answer) = self.post(post, place, turn) {
            self.open(room, Open::Answer { to, request, answer, since_us: turn.now.monotonic_us });
        }
    }

    /// Gives a post its place, or says what it is answered instead.
    fn post(&mut self, post: Post, slot: Result<usize, Refusal>, turn: &mut Turn<'_>) -> Result<(), Answer> {
        let refuse = |code, message: &'static str| Err(Answer::PostRefused(Refusal::new(code, message)));
        if self.draining {
            return refuse(ErrorCode::Draining, "the server is stopping: post again when you are reconnected");
        }
        let slot = slot.map_err(Answer::PostRefused)?;
        let room = &self.slots[slot];
        let time_ms = self.clock.time_ms();
        let keyed = post
            .key
            .as_ref()
            .map(|key| (Fingerprint::of(post.user.as_str(), key.as_str()), body_hash(&post.body.bytes)));
        if let Some((fingerprint, body)) = keyed {
            if let Some(refusal) = self.loading.refusal_of(slot, turn.now.monotonic_ms) {
                return Err(Answer::PostRefused(refusal));
            }
            let since_ms = self.clock.since_ms(self.limits.dedupe_window_ms);
            match self.dedupe.judge(slot, fingerprint, body, since_ms) {
                Verdict::New => {}
                Verdict::Conflict => {
                    return refuse(ErrorCode::KeyConflict, "this key was used for another body: take a new key");
                }
                Verdict::Duplicate(known) => {
                    turn.counters.duplicate_posts += 1;
                    return Err(Answer::Posted {
                        room: room.name.clone(),
                        epoch: room.epoch,
                        sequence: Sequence(known.sequence),
                        time_ms: known.time_ms,
                        duplicate: true,
                    });
                }
            }
        }
        let is_logged = room.policy.durability.is_logged();
        if is_logged
            && let Some(refusal) =
                self.refusal_of_log(self.logs.id_of(room.id), room.policy.class, post.body.bytes.len())
        {
            return Err(Answer::PostRefused(refusal));
        }
        let room = &mut self.slots[slot];
        let counting = (&mut turn.counters.limits, self.limits.dry_run);
        self.post_rates.take(room, turn.now.monotonic_ms, counting).map_err(Answer::PostRefused)?;
        let said = (&post.user, post.key.as_ref().map(|key| key.as_str()), &post.body, post.hop);
        let (mut post_body, mut views, mut decided, mut own, mut program_user) =
            (None, Vec::new(), None, Vec::new(), None);
        if self.slots[slot].program.is_some()
            && let Some(made) = self.decide_post(slot, said, turn)?
        {
            if let Some(to) = made.route {
                return self.route_post(post, to, turn);
            }
            (post_body, views) = (made.body, made.views);
            (decided, own, program_user) = (Some(made.decided), made.own, made.user);
        }
        let body = post_body.as_ref().unwrap_or(&post.body);
        let sequence = self.next_place(slot);
        let room = &mut self.slots[slot];
        let key = keyed.map(|(fingerprint, body)| KeyedPost { sequence: sequence.0, time_ms, fingerprint, body });
        if let Some(post) = key {
            self.dedupe.remember(slot, KnownKey { post, clock_ms: time_ms });
        }
        self.scratch.clear();
        let message = Message {
            epoch: room.epoch,
            sequence,
            time_ms,
            room: room.name.as_str(),
            user: post.user.as_str(),
            key: post.key.as_ref().map(|key| key.as_str()),
            body: Body { format: body.format, bytes: &body.bytes },
        };
        match Views::read(&views) {
            Ok(views) => native::write_viewed(&message, views, &mut self.scratch),
            Err(_) => native::write_message(&message, &mut self.scratch),
        }
        let record = Record { sequence, frame: self.scratch[..].into(), author: post.author };
        let since_us = turn.now.monotonic_us;
        self.open(
            Some(slot),
            Open::Post { record, request: post.request, time_ms, key, since_us, decided, is_answered: false },
        );
        if let Some(user) = program_user {
            self.open_own(slot, &user, own, None, turn);
        }
        Ok(())
    }

    /// Adds a message to its history, and forgets the oldest above the limits.
    pub(crate) fn keep(&mut self, slot: usize, record: Record, turn: &mut Turn<'_>) {
        let room = &mut self.slots[slot];
        room.history.push(record);
        let is_memory = !room.policy.durability.is_logged();
        let messages_max = room.policy.history_messages_max as usize;
        if is_memory && messages_max != 0 && room.history.len() > messages_max {
            room.history.forget_oldest();
        }
        self.share_history(slot);
        while self.shares.bytes() > self.limits.history_bytes_per_core_max
            && let Some(slot) = self.shares.largest()
        {
            turn.counters.steps += 1;
            self.slots[slot].history.forget_oldest();
            self.share_history(slot);
        }
    }

    /// The room holds more or less history than before.
    pub(crate) fn share_history(&mut self, slot: usize) {
        let bytes = self.slots[slot].history.bytes();
        self.shares.set(&mut self.slots, slot, bytes);
    }

    /// Sends what is fresh: one parcel a core that has readers.
    pub fn fan_out(&mut self, turn: &mut Turn<'_>) {
        self.tell_lagged(turn);
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            self.fan_out_room(slot, turn);
            self.queue_if_idle(slot);
        }
        // Its memory is kept for the next turn.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        self.count(turn);
        if self.draining && self.commits.is_empty() && self.lagged.iter().all(VecDeque::is_empty) {
            self.drained_untold.retain(|&core| !turn.lanes.try_send_down(core, || Down::Drained));
        }
    }

    fn fan_out_room(&mut self, slot: usize, turn: &mut Turn<'_>) {
        let room = &mut self.slots[slot];
        let id = room.id;
        let batch = if room.fresh.len() == 1 {
            room.fresh.pop().map(Batch::One)
        } else {
            Some(Batch::Many(std::mem::take(&mut room.fresh).into()))
        };
        let Some(batch) = batch else { return };
        // What became history in this turn goes out in this turn.
        let since_us = turn.now.monotonic_us;
        for share in room.cores.iter_mut().filter(|share| !share.lagged) {
            turn.counters.steps += 1;
            let sent =
                turn.lanes.try_send_down(share.core, || Down::Messages { room: id, since_us, batch: batch.clone() });
            if !sent {
                turn.counters.batches_lagged += 1;
                share.lagged = true;
                self.lagged[share.core.index()].push_back(id);
            }
        }
    }

    fn count(&self, turn: &mut Turn<'_>) {
        let counters = &mut *turn.counters;
        counters.history_bytes = self.shares.bytes();
        counters.rooms = self.slots.len() as u64;
        (counters.log_waiting_posts, counters.log_waiting_bytes) = self.commits.waiting();
        counters.pages_waiting = self.pages.waiting_count() as u64;
        counters.answers_waiting = turn.lanes.late_count() as u64;
    }

    /// Tells cores that were left out how far the room was shown, so that their subscriptions catch up.
    fn tell_lagged(&mut self, turn: &mut Turn<'_>) {
        for core in turn.lanes.cores() {
            while let Some(&id) = self.lagged[core.index()].front() {
                turn.counters.steps += 1;
                let room = self.by_id.get(&id).and_then(|&slot| self.slots.get_mut(slot));
                if let Some(room) = room
                    && !tell_lagged_of(room, core, turn)
                {
                    break;
                }
                self.lagged[core.index()].pop_front();
            }
        }
    }

    /// When the next thing is due. Asked at the end of a turn: the core's own parcels, taken late in it, set it too.
    pub fn next_due(&self) -> Option<u64> {
        let dues = [self.tellings.next_due(), self.loading.next_due(), self.commits_due(), self.programs_due()];
        dues.into_iter().flatten().min()
    }

    fn signal(&mut self, slot: Option<usize>, author: Peer, user: &UserName, body: &OwnedBody, turn: &mut Turn<'_>) {
        let Some(room) = slot.map(|slot| &mut self.slots[slot]) else { return };
        let id = room.id;
        if !room.has_reader(author) && author.connection != BACKEND {
            return;
        }
        let rate = self.limits.signals_per_room_per_second_max;
        let is_above = room.signals.take(rate, turn.now.monotonic_ms).is_err();
        if is_above && turn.counters.limits.refuses(Limit::RoomSignals, self.limits.dry_run) {
            turn.counters.signals_dropped += 1;
            return;
        }
        if room.program.is_some()
            && let Some(slot) = slot
            && self.decide(slot, &Event::Signal { user, body }, turn).is_err()
        {
            turn.counters.signals_dropped += 1;
            return;
        }
        let Some(room) = slot.map(|slot| &self.slots[slot]) else { return };
        turn.counters.signals += 1;
        for share in &room.cores {
            let parcel = || Down::Signal { room: id, author, user: user.clone(), body: body.clone(), only: None };
            if !turn.lanes.try_send_signal(share.core, parcel) {
                turn.counters.signals_dropped += 1;
            }
        }
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
        !self.drained_untold.is_empty() || self.lagged.iter().any(|rooms| !rooms.is_empty())
    }

    /// A turn begins.
    pub fn begin_turn(&mut self, now: Now) {
        self.clock.advance(now);
        self.pages.begin_turn();
        self.programming.begin_turn(now);
        self.let_suspensions_end();
    }

    /// The machine was suspended: messages and keys are older by that.
    pub fn was_suspended(&mut self, suspended_ms: u64) {
        self.clock.pass(suspended_ms);
    }

    /// Whether something is to be answered or told that waits for nothing.
    pub fn has_untold(&self) -> bool {
        self.commits.has_unlogged()
            || self.tellings.has_some()
            || self.erasing.has_some()
            || self.closing.has_some()
            || self.programming.is_busy()
    }

    /// Whether the server is to be asked for more epochs.
    pub fn asks_for_epochs(&mut self) -> bool {
        self.epochs.asks_for_more()
    }

    /// All epochs below that end may be given.
    pub fn extend_epochs(&mut self, end: Epoch) {
        self.epochs.extend(end);
    }

    /// Whether pages wait for the next turn.
    pub fn has_pages_waiting(&self) -> bool {
        self.pages.has_waiting()
    }

    /// Whether keys that were read from the log wait for the next turn.
    pub fn has_keys_waiting(&self) -> bool {
        self.loading.has_waiting()
    }

    /// What could not be read of the logs since the last time.
    pub fn take_read_faults(&mut self) -> Vec<(LogId, ReadFault)> {
        self.pages.take_faults()
    }

    /// The programs, for checks from outside.
    pub fn programming(&self) -> &Programming {
        &self.programming
    }

    /// What the logs' disks are to do, in the order of each log; the shell takes it out.
    pub fn disk_asks(&mut self) -> Vec<(LogId, Ask)> {
        self.logs.take_asks()
    }

    /// Ends the logs of this run. `false`: one failed, or a commit is still in flight.
    pub fn seal_log(&mut self) -> bool {
        self.logs.end()
    }

    /// The logs, for checks from outside.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// The log of a server of its own, for checks from outside.
    pub fn journal(&self) -> Option<&Journal> {
        self.logs.local()
    }

    /// The dedupe windows, for checks from outside.
    pub fn dedupe(&self) -> &Dedupe {
        &self.dedupe
    }

    /// Every room in memory, for checks from outside.
    pub fn iter(&self) -> impl Iterator<Item = &Room> {
        self.slots.iter().map(|(_, room)| room)
    }

    /// Bytes and messages of all histories.
    pub fn kept(&self) -> (u64, usize) {
        (self.shares.bytes(), self.slots.iter().map(|(_, room)| room.history.len()).sum())
    }
}

/// What the rooms of a core are made of.
#[derive(Debug)]
pub struct RoomsParts {
    /// The server's limits.
    pub limits: Limits,
    /// What holds for a room by its name.
    pub policies: RoomPolicies,
    /// How many posts a second a room takes by its name.
    pub post_rates: PostRates,
    /// Where cores and rooms lie.
    pub placement: Placement,
    /// The first epoch to give.
    pub first_epoch: Epoch,
    /// All that are given lie below it, until it is moved.
    pub epochs_end: Epoch,
    /// The core's logs.
    pub logs: LogConfig,
}

/// A post on its way to its place.
pub(crate) struct Post {
    pub(crate) author: Peer,
    pub(crate) user: UserName,
    pub(crate) request: RequestId,
    pub(crate) key: Option<PostKey>,
    pub(crate) body: OwnedBody,
    /// How many programs it came through.
    pub(crate) hop: u8,
}

/// Tells a core that was left out how far the room was shown; `false`: there is no room in its lane.
fn tell_lagged_of(room: &mut Room, core: Core, turn: &mut Turn<'_>) -> bool {
    let (id, head) = (room.id, room.shown());
    let Some(share) = room.cores.iter_mut().find(|share| share.core == core) else { return true };
    share.lagged = share.lagged && !turn.lanes.try_send_down(core, || Down::Lagged { room: id, head });
    !share.lagged
}
