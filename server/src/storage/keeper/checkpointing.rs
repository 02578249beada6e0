//! Makes the checkpoint anew when nothing else is to be done, so that a start reads few tables, however old the log is.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use banter_log::checkpoint::{Head, ROOM_BYTES};
use banter_log::segment::SegmentHeader;

use super::super::checkpoint::{Checkpoint, Made, Making};
use super::super::files::disk_of;
use super::super::recovery::KnownSegment;
use super::{Keeper, checking};

/// Rooms that a step takes: some milliseconds.
const ROOMS_A_STEP: usize = 1_000;
/// Parts that a start reads without a checkpoint in about a tenth of a second: below them none is made.
const PARTS_MIN: u64 = 100_000;
/// Of so many rooms in the checkpoint one part more makes it worth to write all of it again.
const ROOMS_A_PART: u64 = 4;
/// How often it is looked whether there are enough.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How long until one is tried again that could not be made.
const RETRY: Duration = Duration::from_secs(600);

/// The checkpoint that is there, and the one in the making.
#[derive(Debug)]
pub(super) struct Checkpointing {
    making: Option<Making>,
    look_at: Instant,
    /// Rooms in the one that is there.
    rooms: u64,
    /// Parts that it lacks.
    parts_since: u64,
    /// Of them, those that the one in the making has.
    parts_taken: u64,
    parts_min: u64,
}

impl Checkpointing {
    /// Behind a start with these segments, and the checkpoint of that head.
    pub fn new(head: Option<Head>, segments: &[KnownSegment], now: Instant) -> Self {
        let head = head.unwrap_or_default();
        let covered: BTreeSet<u64> = head.covered.iter().map(|covered| covered.id).collect();
        let lacking = segments.iter().filter(|known| !covered.contains(&known.header.id));
        Checkpointing {
            making: None,
            look_at: now,
            rooms: head.rooms,
            parts_since: lacking.map(|known| u64::from(known.parts)).sum(),
            parts_taken: 0,
            parts_min: PARTS_MIN,
        }
    }

    /// The table of a segment is on the disk.
    pub fn has_parts(&mut self, parts: u32) {
        self.parts_since += u64::from(parts);
    }

    /// A segment goes.
    pub fn leave(&mut self, segment: u64) {
        self.making.take_if(|making| making.is_of(segment));
    }

    /// How long until there is something to do; `None`: nothing is.
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        if self.making.is_some() {
            return Some(checking::PAUSE);
        }
        self.is_wanted().then(|| self.look_at.saturating_duration_since(now))
    }

    fn is_wanted(&self) -> bool {
        self.parts_since >= self.parts_min.max(self.rooms / ROOMS_A_PART)
    }

    #[cfg(test)]
    pub fn look_now(&mut self) {
        self.look_at = Instant::now();
    }

    #[cfg(test)]
    pub fn set_parts_min(&mut self, parts_min: u64) {
        self.parts_min = parts_min;
    }
}

impl Keeper {
    /// Goes on with the checkpoint, or begins one; `false`: there is nothing to do.
    pub(super) fn checkpoint_step(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.checkpointing.look_at <= now && self.checkpointing.is_wanted();
        let went = match &mut self.checkpointing.making {
            Some(making) => making.step(ROOMS_A_STEP),
            None if is_due => {
                self.checkpointing.look_at = now + LOOK_INTERVAL;
                self.begin_checkpoint().map(|()| Made::More)
            }
            None => return false,
        };
        let checkpointing = &mut self.checkpointing;
        match went {
            Ok(Made::More) => {}
            Ok(Made::Whole(head)) => {
                tracing::info!("the next start finds {} rooms of the log in its checkpoint", head.rooms);
                checkpointing.making = None;
                checkpointing.rooms = head.rooms;
                checkpointing.parts_since = checkpointing.parts_since.saturating_sub(checkpointing.parts_taken);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot make the log's checkpoint: trying again later; a start without it takes longer");
                checkpointing.making = None;
                checkpointing.look_at = now + RETRY;
                if error.kind() == io::ErrorKind::InvalidData {
                    // It may be the one before: the next is made of the tables alone.
                    Checkpoint::remove(&self.folder);
                    checkpointing.rooms = 0;
                    checkpointing.parts_since = checkpointing.parts_since.max(checkpointing.parts_min);
                }
            }
        }
        true
    }

    fn begin_checkpoint(&mut self) -> io::Result<()> {
        let Some(segments) = self.to_be_covered() else { return Ok(()) };
        let bytes = (self.checkpointing.rooms + self.checkpointing.parts_since).saturating_mul(ROOM_BYTES as u64);
        if disk_of(&self.folder)?.free_bytes < self.limits.log_free_bytes_min.saturating_add(bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let making = Making::begin(&self.folder, &segments, self.ledger.ledger().past(segments.iter()))?;
        self.checkpointing.parts_taken = self.checkpointing.parts_since;
        self.checkpointing.making = Some(making);
        Ok(())
    }

    /// The segments whose tables are on the disk, up to the first of each writer's whose is not: a room goes on where it
    /// was. `None`: one of an earlier start is among those, and its rooms may go on anywhere.
    fn to_be_covered(&self) -> Option<Vec<SegmentHeader>> {
        let mut stopped = BTreeSet::new();
        let mut segments = Vec::new();
        for kept in self.segments.all().filter(|kept| !kept.is_cut) {
            let has_table = kept.sealed.is_some() && !self.sealings.contains_key(&kept.header.id);
            if has_table && !stopped.contains(&kept.writer()) {
                segments.push(kept.header);
            } else if kept.header.run == self.run {
                stopped.insert(kept.writer());
            } else {
                return None;
            }
        }
        Some(segments)
    }
}
