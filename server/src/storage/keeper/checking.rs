//! The rounds of checking: when nothing else is to be done, one block of a sealed segment after another.
//!
//! A segment that is dropped meanwhile is left ([`Checking::leave`]): both are done by the keeper's thread, one behind the
//! other, so that none is missed for damage that is gone on purpose.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use banter_chat::address::Core;
use banter_log::journal::Answer;

use super::super::indexes::{Mended, mend_index};
use super::super::scrub::{Scrub, Verdict};
use super::super::{index_path, segment_path};
use super::{Keeper, unix_ms};
use crate::control::ToCore;

/// How long the keeper waits for work before it checks a block of what is sealed: so its reading stays far below what a
/// disk does, and stops when there is work.
pub(super) const PAUSE: Duration = Duration::from_millis(5);
/// Time between two rounds.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// How often a block is read that the disk fails to read, before its segment counts as damaged.
const READS_MAX: u32 = 3;

/// A round.
pub(super) struct Checking {
    at: Option<(u64, Scrub)>,
    last_id: u64,
    next_round: Instant,
    failed_reads: u32,
    /// Segments that were told of already.
    damaged: BTreeSet<u64>,
}

impl Checking {
    /// The first is due at that time.
    pub fn new(next_round: Instant) -> Self {
        Checking { at: None, last_id: 0, next_round, failed_reads: 0, damaged: BTreeSet::new() }
    }

    /// How long until the next step.
    pub fn patience(&self, now: Instant) -> Duration {
        if self.at.is_some() || self.last_id != 0 {
            return PAUSE;
        }
        self.next_round.saturating_duration_since(now)
    }

    /// A segment goes.
    pub fn leave(&mut self, segment: u64) {
        self.at.take_if(|(id, _)| *id == segment);
        self.damaged.remove(&segment);
    }
}

impl Keeper {
    /// Checks one more block of what is sealed.
    pub(super) fn check_step(&mut self) {
        if self.checking.at.is_none() && !self.next_to_check() {
            return;
        }
        let Some((segment, scrub)) = &mut self.checking.at else { return };
        let (segment, step) = (*segment, scrub.step());
        match step {
            Err(error) => return self.check_failed(segment, &error),
            Ok(Ok(_)) => {}
            Ok(Err(Verdict::Whole)) => {
                self.checking.at = None;
                self.check_index(segment);
            }
            Ok(Err(Verdict::Damaged(offset))) => {
                self.check_fault(segment, &format!("the block at offset {offset} does not check"));
            }
        }
        self.checking.failed_reads = 0;
    }

    /// The disk could not read a block: that is no damage, unless it stays so.
    fn check_failed(&mut self, segment: u64, error: &io::Error) {
        self.checking.failed_reads += 1;
        if self.checking.failed_reads >= READS_MAX {
            self.checking.failed_reads = 0;
            self.check_fault(segment, &error.to_string());
        }
    }

    /// A core found the index of a segment wrong.
    pub(super) fn mend_for(&mut self, core: Core, segment: u64) {
        let answer = match self.check_index(segment) {
            // It could be read now, or was made again before this core was heard.
            Some(Mended::WasRight(parts) | Mended::MadeAgain(parts)) => Answer::Indexed { segment, parts },
            not => Answer::NotIndexed { segment, is_damaged: not == Some(Mended::Not) },
        };
        self.send(core, ToCore::Log(answer));
    }

    /// An index that is missing or wrong is made again, and every core that reads it is told. `None`: that is not known, or
    /// could not be done now. What an index lies behind is made again before it.
    pub(super) fn check_index(&mut self, segment: u64) -> Option<Mended> {
        let mut waiting = vec![segment];
        // Segments that are damaged as well: nobody gets at what is in them, or before them by way of them.
        let mut lost = BTreeSet::new();
        let mut tried = BTreeSet::new();
        while let Some(&id) = waiting.last() {
            let mended = self.make_index(id, &lost)?;
            match mended {
                Mended::Behind(older) if tried.insert(older) => waiting.push(older),
                // It was right a moment ago.
                Mended::Behind(_) => return None,
                mended if id == segment => return Some(mended),
                mended => {
                    waiting.pop();
                    if mended == Mended::Not {
                        lost.insert(id);
                    }
                }
            }
        }
        None
    }

    fn make_index(&mut self, segment: u64, lost: &BTreeSet<u64>) -> Option<Mended> {
        let known = self.segments.get(segment).filter(|_| !self.sealings.contains_key(&segment));
        // One that is not written yet is none to be mended.
        let (kept, sealed) = known.and_then(|kept| Some((kept, kept.sealed?)))?;
        let path = index_path(&self.folder, segment);
        let older = self.segments.before(segment).filter(|header| !lost.contains(&header.id));
        let mended = mend_index(&self.folder, &kept.header, sealed.end_offset, older).inspect_err(|error| {
            tracing::warn!(%error, "{} cannot be checked or made again: trying again later", path.display());
        });
        if let Ok(Mended::MadeAgain(parts)) = mended {
            tracing::warn!("{} was damaged, and was made again from its segment; see to the disk", path.display());
            for &core in kept.needed_by() {
                self.send(core, ToCore::Log(Answer::Indexed { segment, parts }));
            }
        }
        mended.ok()
    }

    fn check_fault(&mut self, segment: u64, what: &str) {
        self.checking.at = None;
        if !self.checking.damaged.insert(segment) {
            return;
        }
        self.state.scrub_faults.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            "{} is damaged: {what}. Its readers are told of a gap; see to the disk (`dmesg`), and restore the file from a copy",
            segment_path(&self.folder, segment).display()
        );
    }

    /// The next segment of this round; `false`: the round is over, or not due.
    fn next_to_check(&mut self) -> bool {
        if self.checking.last_id == 0 && self.checking.next_round > Instant::now() {
            return false;
        }
        let Some((header, sealed)) = self.segments.sealed_behind(self.checking.last_id) else {
            self.checking.last_id = 0;
            self.checking.next_round = Instant::now() + INTERVAL;
            self.state.scrub_finished_s.store(unix_ms() / 1_000, Ordering::Relaxed);
            tracing::debug!("every sealed segment of the log was checked");
            return false;
        };
        self.checking.last_id = header.id;
        match Scrub::new(&self.folder, header, sealed.end_offset) {
            Ok(scrub) => self.checking.at = Some((header.id, scrub)),
            // Want of a descriptor is no damage: the next round comes to it again.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = segment_path(&self.folder, header.id);
                tracing::warn!(%error, "{} cannot be checked: trying again later", path.display());
            }
            Err(error) => self.check_fault(header.id, &error.to_string()),
        }
        true
    }
}
