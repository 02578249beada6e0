//! Erases what the list asks: the cores hide it first, then the segments that hold some of it are rewritten, one after another.
//!
//! ```text
//!  list ─▶ Erase (the room's core hides) ─▶ Begun: up to where, and the segment that is left first ─▶ bound in the list
//!       ─▶ a round over the segments: rewrite, Rewritten ─▶ done in the list ─▶ Erased
//! ```
//!
//! Invariants:
//! - What a core stops to hide is on the disk nowhere any more: no segment up to the bound holds it, none of them is being
//!   written or sealed, and the list says so.
//! - A round that could not do all does nothing for the list, and the next one looks at every segment again: a segment that
//!   holds nothing of it any more costs a few reads of its index.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use banter_chat::address::{Core, core_of};
use banter_chat::erasing::Begun;
use banter_log::erasure::Erasure;
use banter_log::journal::Answer;
use flume::Sender;

use super::super::erasing::{Rewriting, concerning};
use super::super::erasures::{AskFault, ErasureFile, Listed, Stamp, Wanted};
use super::super::segment_path;
use super::{Chore, Keeper, unix_ms};
use crate::control::ToCore;

/// How often the list is looked at: a tool may have added to it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What is being erased.
#[derive(Debug)]
pub(super) struct Erasing {
    list: ErasureFile,
    /// The list when it was read last.
    stamp: Stamp,
    look_at: Instant,
    pending: BTreeMap<u64, Pending>,
    round: Option<Round>,
}

/// An erasure that is not done.
#[derive(Debug)]
struct Pending {
    listed: Listed,
    /// The same as it was asked: of a segment that was cut no core says up to where it reaches, and nothing new comes into it.
    asked: Listed,
    /// The room's core hides it, and has said up to where it reaches.
    is_begun: bool,
    /// The segment that was being written then, and held some of it.
    active: Option<u64>,
    /// Messages that were erased in this run.
    messages: u64,
}

/// A round over the segments.
#[derive(Debug)]
struct Round {
    erasures: Vec<Listed>,
    /// The same, for segments that were cut.
    asked: Vec<Listed>,
    /// The segment that was looked at last.
    behind: u64,
    rewriting: Option<Rewriting>,
    /// Those that are not done by this round.
    undone: BTreeSet<u64>,
}

impl Erasing {
    /// By that list.
    pub fn new(list: ErasureFile, now: Instant) -> Self {
        Erasing { list, stamp: None, look_at: now, pending: BTreeMap::new(), round: None }
    }

    /// When there is something to look at.
    pub fn look_at(&self) -> Instant {
        self.look_at
    }
}

impl Keeper {
    /// Somebody wants something erased: its number in the list, once that is on the disk.
    pub(super) fn ask_to_erase(&mut self, wanted: &Wanted, answer: &Sender<Result<u64, AskFault>>) {
        // Who asked may have gone.
        let _ = answer.send(self.erasing.list.ask(wanted, unix_ms()));
        self.look_at_erasures();
    }

    /// Looks whether something was added to the list, and goes on with what is not done.
    pub(super) fn look_at_erasures(&mut self) {
        self.erasing.look_at = Instant::now() + LOOK_INTERVAL;
        let stamp = self.erasing.list.stamp();
        if stamp != self.erasing.stamp {
            match self.erasing.list.read() {
                Ok(list) => {
                    self.erasing.stamp = stamp;
                    list.pending().for_each(|listed| self.begin_erasing(listed));
                }
                Err(error) => {
                    tracing::error!(%error, "cannot read {}: trying again", self.erasing.list.path().display());
                }
            }
        }
        self.begin_round();
    }

    fn begin_erasing(&mut self, listed: &Listed) {
        let number = listed.erasure.number;
        if self.erasing.pending.contains_key(&number) {
            return;
        }
        let (asked, listed) = (listed.clone(), listed.clone());
        let pending = Pending { listed: listed.clone(), asked, is_begun: false, active: None, messages: 0 };
        self.erasing.pending.insert(number, pending);
        let owner = self.owner_of(&listed.erasure);
        self.send(owner, ToCore::Log(Answer::Erase(Arc::new(listed.erasure.clone()))));
        self.forget_frames(&listed.erasure);
        self.tell_erasures();
    }

    fn owner_of(&self, erasure: &Erasure) -> Core {
        core_of(erasure.room_id(), self.cores.len() as u16)
    }

    fn forget_frames(&self, erasure: &Erasure) {
        let room = erasure.room_id();
        for core in 0..self.cores.len() {
            self.send(Core(core as u16), ToCore::Log(Answer::ForgetFrames { room }));
        }
    }

    fn tell_erasures(&self) {
        self.state.erasures_pending.store(self.erasing.pending.len() as u64, Ordering::Relaxed);
    }

    /// The room's core hides it, and says up to where it reaches.
    pub(super) fn has_begun_erasing(&mut self, begun: Begun) {
        let through_segment = self.next_id.saturating_sub(1);
        let Some(pending) = self.erasing.pending.get_mut(&begun.number) else { return };
        pending.listed.erasure.last = pending.listed.erasure.last.min(begun.last);
        if pending.listed.through_segment.is_none() {
            pending.listed.through_segment = Some(through_segment);
            if let Err(error) = self.erasing.list.bind(begun.number, begun.last, through_segment) {
                // After a crash it reaches up to what there is then.
                tracing::warn!(%error, "cannot write to {}", self.erasing.list.path().display());
            }
        }
        (pending.is_begun, pending.active) = (true, begun.segment);
        self.begin_round();
    }

    /// Has the segments left that are still written, and looks at the others, if something is begun and no round is under way.
    pub(super) fn begin_round(&mut self) {
        let begun = || self.erasing.pending.values().filter(|pending| pending.is_begun);
        for segment in begun().filter_map(|pending| pending.active) {
            if let Some(kept) = self.segments.get(segment).filter(|kept| kept.sealed.is_none()) {
                self.send(Core(kept.header.core), ToCore::Log(Answer::Leave { segment }));
            }
        }
        let erasures: Vec<Listed> = begun().map(|pending| pending.listed.clone()).collect();
        let asked = begun().map(|pending| pending.asked.clone()).collect();
        if self.erasing.round.is_none() && !erasures.is_empty() {
            self.erasing.round = Some(Round { erasures, asked, behind: 0, rewriting: None, undone: BTreeSet::new() });
            self.queue.chore(Chore::Erase);
        }
    }

    /// A step of the round; what presses more comes between two of them.
    pub(super) fn erase_step(&mut self) {
        let Some(mut round) = self.erasing.round.take().filter(|_| self.ended.is_none()) else { return };
        match round.rewriting.take() {
            Some(rewriting) => self.rewrite_on(rewriting, &mut round),
            None => {
                if !self.look_at_next(&mut round) {
                    return self.end_round(&round);
                }
            }
        }
        self.erasing.round = Some(round);
        self.queue.chore(Chore::Erase);
    }

    /// Looks at the next segment; `false`: there is none.
    fn look_at_next(&mut self, round: &mut Round) -> bool {
        let Some(kept) = self.segments.behind(round.behind) else { return false };
        let segment = kept.header.id;
        round.behind = segment;
        if kept.sealed.is_none() {
            self.wait_for(segment, round);
            return true;
        }
        if let Some(sealing) = self.sealings.get(&segment) {
            // Its index is to be written first, which says too much else.
            let holds = |listed: &&Listed| sealing.index().has(listed.erasure.room_id()) && reaches(listed, segment);
            round.undone.extend(round.erasures.iter().filter(holds).map(|listed| listed.erasure.number));
            return true;
        }
        let erasures = if kept.is_cut { &round.asked } else { &round.erasures };
        let concerned: Vec<&Erasure> =
            concerning(&self.folder, segment, erasures).into_iter().map(|listed| &listed.erasure).collect();
        if concerned.is_empty() {
            return true;
        }
        match Rewriting::begin(&self.folder, segment, &concerned) {
            Ok(rewriting) => round.rewriting = rewriting,
            Err(error) => {
                round.undone.extend(concerned.iter().map(|erasure| erasure.number));
                self.erasing_failed(segment, &error);
            }
        }
        true
    }

    /// Those erasures whose segment is still written are done by another round.
    fn wait_for(&self, segment: u64, round: &mut Round) {
        let waits = self.erasing.pending.values().filter(|pending| pending.active == Some(segment));
        round.undone.extend(waits.map(|pending| pending.listed.erasure.number));
    }

    fn rewrite_on(&mut self, mut rewriting: Rewriting, round: &mut Round) {
        let segment = rewriting.segment();
        let (counts, unread_bytes) = (rewriting.counts.clone(), rewriting.unread_bytes);
        let went = match rewriting.step() {
            Ok(true) => {
                round.rewriting = Some(rewriting);
                return;
            }
            Ok(false) if self.segments.get(segment).is_none() => return,
            Ok(false) => rewriting.finish(),
            Err(error) => Err(error),
        };
        match went {
            Ok(()) => {
                for (number, more) in counts {
                    if let Some(pending) = self.erasing.pending.get_mut(&number) {
                        pending.messages += more;
                    }
                }
                self.tell_rewritten(segment, unread_bytes);
            }
            Err(error) => {
                round.undone.extend(counts.keys());
                self.erasing_failed(segment, &error);
            }
        }
    }

    fn tell_rewritten(&mut self, segment: u64, unread_bytes: u64) {
        self.checking.leave(segment);
        let path = segment_path(&self.folder, segment);
        tracing::info!("erased in {}", path.display());
        if unread_bytes > 0 {
            tracing::error!(
                "{unread_bytes} bytes of {} do not check, and may hold some of what was to be erased; see `banter log check`",
                path.display()
            );
        }
        // Every core may have it open.
        for core in 0..self.cores.len() {
            self.send(Core(core as u16), ToCore::Log(Answer::Rewritten { segment }));
        }
    }

    fn erasing_failed(&self, segment: u64, error: &io::Error) {
        let path = segment_path(&self.folder, segment);
        tracing::warn!(%error, "cannot rewrite {} without what is to be erased: it stays hidden, and is tried again", path.display());
    }

    fn end_round(&mut self, round: &Round) {
        let numbers = round.erasures.iter().map(|listed| listed.erasure.number);
        for number in numbers.filter(|number| !round.undone.contains(number)) {
            let Some(pending) = self.erasing.pending.get(&number) else { continue };
            if let Err(error) = self.erasing.list.end(number, pending.messages) {
                tracing::warn!(%error, "cannot write to {}: trying again", self.erasing.list.path().display());
                continue;
            }
            let Some(Pending { listed, .. }) = self.erasing.pending.remove(&number) else { continue };
            // Once more: a frame may have been on its way to another core when it was asked.
            self.forget_frames(&listed.erasure);
            self.send(self.owner_of(&listed.erasure), ToCore::Log(Answer::Erased(Arc::new(listed.erasure))));
        }
        self.tell_erasures();
    }
}

fn reaches(listed: &Listed, segment: u64) -> bool {
    listed.through_segment.is_none_or(|through| segment <= through)
}
