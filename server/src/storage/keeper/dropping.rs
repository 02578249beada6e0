//! Drops what is too old: the cores forget it first, then its files go, the oldest of its class first.
//!
//! That needs no free space, so that a full disk is relieved by it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use banter_chat::address::{Core, core_of};
use banter_log::catalog::CutRooms;
use banter_log::index::Part;
use banter_log::journal::Answer;
use banter_log::segment::Class;
use banter_protocol::ids::{Epoch, RoomId, Sequence};

use super::super::files::unlink_segment;
use super::super::indexes::read_parts;
use super::super::retention::{Leave, Rules, plan};
use super::super::segment_path;
use super::kept::Kept;
use super::{Keeper, RETRY};
use crate::control::ToCore;

/// Segments that are cut and not yet forgotten: the table of each is in memory until then.
pub(super) const CUT_SEGMENTS_MAX: usize = 16;
/// How long until more is cut, where there is more.
const CUT_PAUSE: Duration = Duration::from_millis(200);

/// The rooms of each core that a segment holds, with their last places there.
type RoomsOfCores = BTreeMap<Core, Vec<(RoomId, Sequence)>>;

impl Keeper {
    /// Has the oldest segments forgotten, above what is to be kept.
    pub(super) fn cut_old(&mut self) {
        self.clock_ms();
        let server = Class { hours: self.limits.retention_hours, bytes: self.limits.retention_bytes };
        let rules = Rules { server, window_ms: self.limits.dedupe_window_ms };
        let plan = plan(self.segments.held(), rules, &self.ages);
        let cut = self.first_of(&plan.cut);
        if !cut.is_empty() {
            match self.raise_blank() {
                Ok(blank_epoch) => cut.iter().for_each(|&segment| self.cut(segment, blank_epoch)),
                Err(error) => {
                    tracing::warn!(%error, "cannot write the log's ledger: segments that are too old stay a little longer");
                }
            }
            self.drop_free();
        }
        for Leave { segment, first_ms, newest_ms } in plan.leave {
            if let Some(kept) = self.segments.get(segment) {
                self.send(Core(kept.header.core), ToCore::Log(Answer::Retire { segment, first_ms, newest_ms }));
            }
        }
    }

    /// Those of a plan that are cut now. What the cores have not forgotten yet counts; the rest is looked at again soon.
    fn first_of<'p>(&mut self, cut: &'p [u64]) -> &'p [u64] {
        let places = CUT_SEGMENTS_MAX.saturating_sub(self.segments.being_forgotten());
        if places < cut.len() {
            self.retention_at = self.retention_at.min(Instant::now() + CUT_PAUSE);
        }
        &cut[..cut.len().min(places)]
    }

    fn cut(&mut self, segment: u64, blank_epoch: Epoch) {
        tracing::info!("the log forgets {}", segment_path(&self.folder, segment).display());
        let mut known = self.rooms_of(segment);
        for core in self.segments.cut(segment) {
            let rooms = match &mut known {
                Some(rooms) => CutRooms::Known(rooms.remove(&core).unwrap_or_default().into_iter()),
                None => CutRooms::Unknown(Bound::Unbounded),
            };
            self.send(core, ToCore::Log(Answer::Cut { segment, rooms, blank_epoch }));
        }
    }

    /// What its index says; `None` if that cannot be read.
    fn rooms_of(&self, segment: u64) -> Option<RoomsOfCores> {
        let parts: Vec<Part> = match self.sealings.get(&segment) {
            Some(sealing) => sealing.index().parts().copied().collect(),
            None => read_parts(&self.folder, &self.segments.get(segment)?.header)?.1,
        };
        let (mut rooms, cores) = (RoomsOfCores::new(), self.cores.len() as u16);
        parts.iter().for_each(|part| rooms.entry(core_of(part.room, cores)).or_default().push((part.room, part.last)));
        Some(rooms)
    }

    /// Removes what nobody needs any more. What cannot be removed is tried again, and what is behind it waits.
    pub(super) fn drop_free(&mut self) {
        let mut stopped = BTreeSet::new();
        for (segment, class) in self.segments.free() {
            if stopped.contains(&class) {
                continue;
            }
            let dropped = self.drop_segment(segment);
            if dropped.is_ok() && !self.wanting.is_empty() {
                // There may be space now.
                self.retry_in(Duration::ZERO);
            }
            if let Err(error) = dropped {
                let path = segment_path(&self.folder, segment);
                tracing::warn!(%error, "cannot remove {}, which nobody needs any more: trying again", path.display());
                stopped.insert(class);
                self.retry_in(RETRY);
            }
        }
    }

    /// Before anything is cut: a room of which nothing is left in the log must not go on under an epoch that it had. Each
    /// time another one, and below every number of the next start, which lies above all that the ledger says.
    ///
    /// Invariant: no core gives that number. Core c has those that lie c + 1 above the run's, in steps of one more than the
    /// cores; the keeper has the multiples of that step above the run's (`chat/src/rooms.rs`).
    fn raise_blank(&mut self) -> io::Result<Epoch> {
        let (said, step) = (self.ledger.ledger().blank(), self.cores.len() as u64 + 1);
        let above = said.synced.max(said.written).0.saturating_sub(self.run);
        let epoch = Epoch(self.run.saturating_add((above / step + 1).saturating_mul(step)));
        self.ledger.raise_blank(epoch)?;
        self.state.blank.fetch_max(epoch.0, Ordering::Release);
        Ok(epoch)
    }

    /// Before it goes, so that who finds it gone knows why.
    fn tell_dropped(&self, segment: u64) {
        let has_record = |kept: &&Kept| kept.sealed.is_some_and(|sealed| sealed.newest_ms > 0);
        let Some(Kept { header, .. }) = self.segments.get(segment).filter(has_record) else { return };
        let mut dropped = self.state.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = dropped.entry((header.core, header.class)).or_default();
        *newest = (*newest).max((header.run, segment));
    }

    fn drop_segment(&mut self, segment: u64) -> io::Result<()> {
        self.checking.leave(segment);
        self.checkpointing.leave(segment);
        self.tell_dropped(segment);
        unlink_segment(&self.folder, segment)?;
        self.segments.remove(segment);
        self.end_sealing(segment, 0);
        Ok(())
    }
}
