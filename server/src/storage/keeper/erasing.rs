//! Erases what the list asks: the cores hide it first, then the segments that hold some of it are rewritten, one after another.
//!
//! ```text
//!  list ─▶ Erase (the room's core hides) ─▶ Begun: up to where, and the segment that is left first ─▶ bound in the list
//!       ─▶ a round over the segments: rewrite, Rewritten ─▶ done in the list ─▶ Erased
//! ```
//!
//! Invariants:
//! - Nothing is rewritten for an erasure before the list says up to where it reaches: what is acknowledged from then on is in no
//!   danger of a start that finds it half done.
//! - What a core stops to hide is on the disk nowhere any more: no segment up to the bound holds it, none of them is being
//!   written or sealed, and the list says so.
//! - One piece of it is done between two looks at what comes and what is due. A round looks at no segment that an earlier one has
//!   done; what fails is tried again after a pause that doubles.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use banter_chat::address::{Core, core_of};
use banter_chat::erasing::Begun;
use banter_log::erasure::{Bound, Erasure};
use banter_log::journal::Answer;
use banter_protocol::ids::{RoomId, Sequence};
use flume::Sender;

use super::super::erasing::{Rewriting, concerning};
use super::super::erasures::{AskFault, Binding, Ended, ErasureFile, Listed, Wanted};
use super::super::files::{disk_of, is_full};
use super::super::segment_path;
use super::{Keeper, unix_ms};
use crate::control::ToCore;

/// How often the list is looked at: a tool may have added to it. What it could not be told is tried again as often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long until a segment that could not be rewritten is tried again at first, and at last.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Erasures of a round: a step looks each of them up in a segment's index.
const ROUND_MAX: usize = 1_024;
/// Segments that a step looks at and that hold nothing of it.
const LOOKS_A_STEP: usize = 16;
/// An ask whose answer nobody had when the server ended reaches so much less far, since the clocks of two threads differ.
const CLOCK_SLACK_MS: u64 = 1_000;

/// What is being erased.
#[derive(Debug)]
pub(super) struct Erasing {
    list: ErasureFile,
    look_at: Instant,
    pending: BTreeMap<u64, Pending>,
    /// What the list is to be told, and when.
    unbound: Vec<Binding>,
    bind_at: Instant,
    round: Option<Round>,
    /// Damaged records of the list that were said; the start says what it finds.
    damaged: Option<u64>,
    /// It was said that there is no space.
    is_space_told: bool,
}

/// An erasure that is not done.
#[derive(Debug)]
struct Pending {
    listed: Listed,
    /// Up to where it reached when it was listed: of a segment that was cut no core says so, and nothing new comes into it.
    asked: Bound,
    /// The room's core hides it, and the list says up to where it reaches.
    is_bound: bool,
    /// The segment that was being written then, and held some of it.
    active: Option<u64>,
    /// The segments that are not done, once all were looked at.
    left: Option<BTreeSet<u64>>,
    /// What was done in this run.
    ended: Ended,
    retry_at: Instant,
    pause: Duration,
    /// Who asked.
    answer: Option<Sender<Result<u64, AskFault>>>,
}

impl Pending {
    fn new(listed: Listed) -> Self {
        let asked = Bound { last: Sequence(u64::MAX), ..listed.erasure.bound };
        Pending {
            listed,
            asked,
            is_bound: false,
            active: None,
            left: None,
            ended: Ended::default(),
            retry_at: Instant::now(),
            pause: RETRY,
            answer: None,
        }
    }

    /// Whether this round is to look at that segment for it.
    fn looks_at(&self, segment: u64) -> bool {
        let reaches = self.listed.through_segment.is_none_or(|through| segment <= through);
        reaches && self.left.as_ref().is_none_or(|left| left.contains(&segment))
    }

    /// The same for a segment that was cut.
    fn as_asked(&self) -> Listed {
        let erasure = Erasure { bound: self.asked, ..self.listed.erasure.clone() };
        Listed { erasure, ..self.listed.clone() }
    }
}

/// A round over the segments.
#[derive(Debug, Default)]
struct Round {
    numbers: Vec<u64>,
    /// The segment that was looked at last.
    behind: u64,
    rewriting: Option<Rewriting>,
    /// What is not done by this round: the segments of each.
    undone: BTreeMap<u64, BTreeSet<u64>>,
    /// Those for which something failed.
    failed: BTreeSet<u64>,
}

impl Round {
    fn leave(&mut self, segment: u64, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.undone.entry(number).or_default().insert(segment);
        }
    }
}

impl Erasing {
    /// By that list.
    pub fn new(list: ErasureFile, now: Instant) -> Self {
        Erasing {
            list,
            look_at: now,
            pending: BTreeMap::new(),
            unbound: Vec::new(),
            bind_at: now,
            round: None,
            damaged: None,
            is_space_told: false,
        }
    }

    /// When there is something to do.
    pub fn due_at(&self, now: Instant) -> Instant {
        if self.is_busy(now) { now } else { self.look_at }
    }

    /// Whether a step has something to do.
    pub fn is_busy(&self, now: Instant) -> bool {
        self.round.is_some() || (!self.unbound.is_empty() && self.bind_at <= now)
    }

    /// When the list is looked at.
    pub fn look_at(&self) -> Instant {
        self.look_at
    }

    /// For tests: no time passes in them.
    #[cfg(test)]
    pub fn make_due(&mut self) {
        let now = Instant::now();
        (self.look_at, self.bind_at) = (now, now);
        self.pending.values_mut().for_each(|pending| pending.retry_at = now);
    }

    /// How long the next try of an erasure waits.
    #[cfg(test)]
    pub fn pause_of(&self, number: u64) -> Duration {
        // Whole seconds, but for what has passed by now.
        self.pending[&number].retry_at.saturating_duration_since(Instant::now()) + Duration::from_millis(500)
    }

    /// Whether it was said that there is no space.
    #[cfg(test)]
    pub fn is_space_told(&self) -> bool {
        self.is_space_told
    }

    fn of(&self, round: &Round) -> impl Iterator<Item = &Pending> {
        round.numbers.iter().filter_map(|number| self.pending.get(number))
    }
}

impl Keeper {
    /// Somebody wants something erased: its number in the list, once that says up to where it reaches.
    pub(super) fn ask_to_erase(&mut self, wanted: &Wanted, answer: Sender<Result<u64, AskFault>>) {
        let clock_ms = self.clock_ms();
        // As far as a start can tell that finds nothing else of it.
        let newest_ms = clock_ms.saturating_sub(CLOCK_SLACK_MS).min(wanted.bound.newest_ms);
        let listed = Wanted { bound: Bound { newest_ms, ..wanted.bound }, ..wanted.clone() };
        match self.erasing.list.ask(&listed, unix_ms()) {
            Ok(number) => {
                let Wanted { room, user, first, last, bound } = wanted.clone();
                let erasure = Erasure { number, room, user, first, last, bound };
                let listed = Listed { erasure, at_ms: clock_ms, through_segment: None, done: None };
                self.begin_erasing(Pending { answer: Some(answer), ..Pending::new(listed) });
            }
            // Who asked may have gone.
            Err(fault) => drop(answer.send(Err(fault))),
        }
        self.look_at_erasures();
    }

    /// Looks whether something was added to the list, and goes on with what is not done.
    pub(super) fn look_at_erasures(&mut self) {
        self.erasing.look_at = Instant::now() + LOOK_INTERVAL;
        match self.erasing.list.read() {
            Ok(list) => {
                self.tell_damaged(list.damaged);
                let is_new = |listed: &&Listed| !self.erasing.pending.contains_key(&listed.erasure.number);
                let new: Vec<Pending> = list.pending().filter(is_new).cloned().map(Pending::new).collect();
                new.into_iter().for_each(|pending| self.begin_erasing(pending));
            }
            Err(error) => {
                tracing::error!(%error, "cannot read {}: trying again", self.erasing.list.path().display());
            }
        }
        self.begin_round();
    }

    fn tell_damaged(&mut self, damaged: u64) {
        if self.erasing.damaged.replace(damaged).is_some_and(|before| damaged > before) {
            tracing::error!(
                "{damaged} records of {} are damaged: what they asked to be erased is not known; ask for it again (`banter log erase`)",
                self.erasing.list.path().display()
            );
        }
    }

    fn begin_erasing(&mut self, pending: Pending) {
        let erasure = pending.listed.erasure.clone();
        self.erasing.pending.insert(erasure.number, pending);
        let (owner, room) = (self.owner_of(&erasure), erasure.room_id());
        self.send(owner, ToCore::Log(Answer::Erase(Arc::new(erasure))));
        self.forget_frames(room);
        self.tell_erasures();
    }

    fn owner_of(&self, erasure: &Erasure) -> Core {
        core_of(erasure.room_id(), self.cores.len() as u16)
    }

    fn forget_frames(&self, room: RoomId) {
        for core in 0..self.cores.len() {
            self.send(Core(core as u16), ToCore::Log(Answer::ForgetFrames { room }));
        }
    }

    fn tell_erasures(&self) {
        self.state.erasures_pending.store(self.erasing.pending.len() as u64, Ordering::Relaxed);
    }

    /// The room's core hides it, and says up to where it reaches: the list is told by the next step, of all that came by then.
    pub(super) fn has_begun_erasing(&mut self, begun: Begun) {
        let through_segment = self.next_id.saturating_sub(1);
        let Some(pending) = self.erasing.pending.get_mut(&begun.number) else { return };
        pending.active = begun.segment;
        pending.listed.erasure.bound = pending.listed.erasure.bound.within(begun.bound);
        if pending.listed.through_segment.is_some() {
            // This folder had begun with it.
            pending.is_bound = true;
            return self.begin_round();
        }
        let bound = pending.listed.erasure.bound;
        self.erasing.unbound.retain(|there| there.number != begun.number);
        self.erasing.unbound.push(Binding { number: begun.number, bound, through_segment });
    }

    /// Tells the list up to where erasures reach that the cores have begun with.
    fn bind(&mut self) {
        if let Err(error) = self.erasing.list.bind(&self.erasing.unbound) {
            self.erasing.bind_at = Instant::now() + LOOK_INTERVAL;
            tracing::warn!(%error, "cannot write to {}: trying again", self.erasing.list.path().display());
            return;
        }
        for Binding { number, through_segment, .. } in std::mem::take(&mut self.erasing.unbound) {
            let Some(pending) = self.erasing.pending.get_mut(&number) else { continue };
            (pending.is_bound, pending.listed.through_segment) = (true, Some(through_segment));
            // Who asked may have gone.
            pending.answer.take().into_iter().for_each(|answer| drop(answer.send(Ok(number))));
        }
        self.begin_round();
    }

    /// Has the segments left that are still written, and looks at the others, if something is due and no round is under way.
    pub(super) fn begin_round(&mut self) {
        let bound = || self.erasing.pending.values().filter(|pending| pending.is_bound);
        let active: BTreeSet<u64> = bound().filter_map(|pending| pending.active).collect();
        for segment in active {
            if let Some(kept) = self.segments.get(segment).filter(|kept| kept.sealed.is_none()) {
                self.send(Core(kept.header.core), ToCore::Log(Answer::Leave { segment }));
            }
        }
        let now = Instant::now();
        if self.erasing.round.is_none() {
            let due = bound().filter(|pending| pending.retry_at <= now);
            let numbers: Vec<u64> = due.map(|pending| pending.listed.erasure.number).take(ROUND_MAX).collect();
            self.erasing.round = (!numbers.is_empty()).then(|| Round { numbers, ..Round::default() });
        }
    }

    /// Does a piece of what is to be done.
    pub(super) fn erase_step(&mut self) {
        if self.ended.is_some() {
            // What is begun is given up.
            self.erasing.round = None;
            return;
        }
        if !self.erasing.unbound.is_empty() && self.erasing.bind_at <= Instant::now() {
            return self.bind();
        }
        let Some(mut round) = self.erasing.round.take() else { return };
        match round.rewriting.take() {
            Some(rewriting) => self.rewrite_on(rewriting, &mut round),
            None => {
                for _ in 0..LOOKS_A_STEP {
                    if !self.look_at_next(&mut round) {
                        return self.end_round(round);
                    }
                    if round.rewriting.is_some() {
                        break;
                    }
                }
            }
        }
        self.erasing.round = Some(round);
    }

    /// The next segment that a round has to look at.
    fn next_of(&self, round: &Round) -> Option<u64> {
        if self.erasing.of(round).any(|pending| pending.left.is_none()) {
            return self.segments.behind(round.behind).map(|kept| kept.header.id);
        }
        let left = self.erasing.of(round).filter_map(|pending| pending.left.as_ref());
        left.filter_map(|left| left.range(round.behind + 1..).next().copied()).min()
    }

    /// Looks at the next segment; `false`: there is none.
    fn look_at_next(&mut self, round: &mut Round) -> bool {
        let Some(segment) = self.next_of(round) else { return false };
        round.behind = segment;
        // One that was dropped since holds nothing.
        let Some(kept) = self.segments.get(segment) else { return true };
        let looking = || self.erasing.of(round).filter(|pending| pending.looks_at(segment));
        let number = |pending: &Pending| pending.listed.erasure.number;
        if kept.sealed.is_none() {
            // Those whose segment is still written are done by another round.
            let waits: Vec<u64> = looking().filter(|pending| pending.active == Some(segment)).map(number).collect();
            round.leave(segment, waits);
            return true;
        }
        if let Some(sealing) = self.sealings.get(&segment) {
            // Its index is to be written first, which says too much else.
            let holds = |pending: &&Pending| sealing.index().has(pending.listed.erasure.room_id());
            let waits: Vec<u64> = looking().filter(holds).map(number).collect();
            round.leave(segment, waits);
            return true;
        }
        let asked: Vec<Listed> = if kept.is_cut { looking().map(Pending::as_asked).collect() } else { Vec::new() };
        let listed = looking().map(|pending| &pending.listed).filter(|_| !kept.is_cut);
        let concerned = concerning(&self.folder, segment, listed.chain(&asked));
        if concerned.is_empty() {
            return true;
        }
        let concerned: Vec<Erasure> = concerned.into_iter().cloned().collect();
        let numbers: Vec<u64> = concerned.iter().map(|erasure| erasure.number).collect();
        let space = self.has_space_for(kept.file_bytes);
        match space.and_then(|()| Rewriting::begin(&self.folder, segment, concerned)) {
            Ok(rewriting) => round.rewriting = Some(rewriting),
            Err(error) => self.erasing_failed(segment, &error, numbers, round),
        }
        true
    }

    /// Whether a draft of that length leaves free what is to stay free.
    fn has_space_for(&self, file_bytes: u64) -> io::Result<()> {
        let disk = disk_of(&self.folder)?;
        let needed = self.sizing.reserve_bytes(disk).saturating_add(file_bytes);
        if disk.free_bytes < needed {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn rewrite_on(&mut self, mut rewriting: Rewriting, round: &mut Round) {
        let segment = rewriting.segment();
        let numbers: Vec<u64> = rewriting.erasures().collect();
        let went = match rewriting.step() {
            Ok(true) => {
                round.rewriting = Some(rewriting);
                return;
            }
            Ok(false) if self.segments.get(segment).is_none() => return,
            Ok(false) => {
                let is_needed = rewriting.is_needed();
                rewriting.finish().map(|ended| (is_needed, ended))
            }
            Err(error) => Err(error),
        };
        match went {
            Ok((is_needed, ended)) => {
                self.erasing.is_space_told &= !is_needed;
                for (number, more) in &ended {
                    if let Some(pending) = self.erasing.pending.get_mut(number) {
                        pending.ended.messages += more.messages;
                        pending.ended.unread_bytes += more.unread_bytes;
                    }
                }
                let unread_bytes = ended.values().map(|ended| ended.unread_bytes).max().unwrap_or(0);
                self.tell_rewritten(segment, is_needed, unread_bytes);
            }
            Err(error) => self.erasing_failed(segment, &error, numbers, round),
        }
    }

    fn tell_rewritten(&mut self, segment: u64, is_needed: bool, unread_bytes: u64) {
        let path = segment_path(&self.folder, segment);
        if unread_bytes > 0 {
            tracing::error!(
                "{unread_bytes} bytes of {} do not check, and may hold some of what was to be erased; see `banter log check`",
                path.display()
            );
        }
        if !is_needed && unread_bytes == 0 {
            return;
        }
        self.checking.leave(segment);
        tracing::info!("erased in {}", path.display());
        // Every core may have it open.
        for core in 0..self.cores.len() {
            self.send(Core(core as u16), ToCore::Log(Answer::Rewritten { segment }));
        }
    }

    fn erasing_failed(&mut self, segment: u64, error: &io::Error, numbers: Vec<u64>, round: &mut Round) {
        let path = segment_path(&self.folder, segment);
        if !is_full(error) {
            tracing::warn!(%error, "cannot rewrite {} without what is to be erased: it stays hidden, and is tried again", path.display());
        } else if !std::mem::replace(&mut self.erasing.is_space_told, true) {
            tracing::error!(
                "there is no space to rewrite {} without what is to be erased, beside log_free_bytes_min: it stays hidden, and is \
                 erased once there is (`df -h`)",
                path.display()
            );
        }
        round.failed.extend(&numbers);
        round.leave(segment, numbers);
    }

    fn end_round(&mut self, mut round: Round) {
        let now = Instant::now();
        let mut done = Vec::new();
        for number in &round.numbers {
            let Some(pending) = self.erasing.pending.get_mut(number) else { continue };
            let undone = round.undone.remove(number).unwrap_or_default();
            if undone.is_empty() {
                done.push((*number, pending.ended));
            }
            pending.left = Some(undone);
            if round.failed.contains(number) {
                pending.retry_at = now + pending.pause;
                pending.pause = (pending.pause * 2).min(RETRY_MAX);
            }
        }
        if let Err(error) = self.erasing.list.end(&done) {
            tracing::warn!(%error, "cannot write to {}: trying again", self.erasing.list.path().display());
            return;
        }
        let mut rooms = BTreeSet::new();
        for (number, _) in done {
            let Some(Pending { listed, .. }) = self.erasing.pending.remove(&number) else { continue };
            // Once more: a frame may have been on its way to another core when it was asked.
            if rooms.insert(listed.erasure.room_id()) {
                self.forget_frames(listed.erasure.room_id());
            }
            self.send(self.owner_of(&listed.erasure), ToCore::Log(Answer::Erased(Arc::new(listed.erasure))));
        }
        self.tell_erasures();
        // There may be more than one round takes.
        if self.erasing.pending.values().any(|pending| pending.is_bound && pending.left.is_none()) {
            self.begin_round();
        }
    }
}
