//! Makes sealed segments safe, and writes their indexes beside them.
//!
//! Invariants:
//! - A segment is made safe once. Where that fails, nobody knows what the disk has of it: it gets no index, so that the next
//!   start walks it, and its readers are served from the core's memory until then. The ledger says so at once, by a boot that
//!   is not known: the next start takes this run's end for a power cut, also on the same boot.
//! - An index is written only behind the sync of its segment, and tried again until it is there.
//! - A block that was refused may lie whole behind a segment's end. Its places are given again, perhaps under another epoch, so it
//!   is blanked before the index is there: who walks the segment later, without the index, finds no more than that had.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use banter_chat::address::Core;
use banter_log::PAGE_BYTES;
use banter_log::block::{BlockPlace, BlockWriter};
use banter_log::index::IndexBuilder;
use banter_log::journal::Answer;

use super::super::files::{SyncFault, is_full, put_index, sync_segment, write_page};
use super::super::segment_path;
use super::kept::{Sealed, Writer};
use super::{Chore, Keeper, RETRY};
use crate::control::ToCore;

/// A segment whose index is not on the disk yet.
#[derive(Debug)]
pub(super) struct Sealing {
    /// Where its blocks end.
    end: BlockPlace,
    /// What is to be written there.
    behind: Behind,
    /// Those who read from the index in memory.
    cores: Vec<Core>,
    index: Arc<IndexBuilder>,
    safety: Safety,
    /// It was said that its index cannot be written.
    is_told: bool,
}

/// What is to be written where a segment's blocks end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// Nothing, or it is there.
    Nothing,
    /// A proof of the blocks before it.
    Proof,
    /// Zeros, over a block that was refused.
    Blank,
}

/// What is known of how far a segment is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Safety {
    /// It was not tried yet.
    Unknown,
    /// It is there.
    Synced,
    /// Its sync failed, and is not tried again.
    Failed,
}

impl Sealing {
    /// Of a segment that a start found without an index, and had no space for one.
    pub fn found(end: BlockPlace, cores: Vec<Core>, index: Arc<IndexBuilder>) -> Self {
        Sealing { end, behind: Behind::Nothing, cores, index, safety: Safety::Unknown, is_told: false }
    }

    /// Whether the segment is on the disk.
    pub fn is_safe(&self) -> bool {
        self.safety == Safety::Synced
    }

    /// Its index.
    pub fn index(&self) -> &IndexBuilder {
        &self.index
    }
}

impl Keeper {
    /// A core writes no more to a segment.
    pub(super) fn begin_sealing(
        &mut self,
        end: BlockPlace,
        is_provable: bool,
        index: Arc<IndexBuilder>,
        newest_ms: u64,
    ) {
        let segment = end.segment.id;
        // What is stamped in the future is no newer than its segment.
        let newest_ms = newest_ms.min(self.clock_ms());
        self.segments.seal(segment, Sealed { end_offset: end.offset, newest_ms });
        let (now, writer) = (Instant::now(), Writer { core: Core(end.segment.core), class: end.segment.class });
        let last = self.sealed_at.get(&writer).map_or(self.started, |&(at, _)| at);
        self.sealed_at.insert(writer, (now, now.saturating_duration_since(last)));
        let behind = match is_provable {
            _ if index.is_empty() || end.offset + PAGE_BYTES as u64 > end.segment.file_bytes => Behind::Nothing,
            true => Behind::Proof,
            false => Behind::Blank,
        };
        let (cores, safety) = (vec![writer.core], Safety::Unknown);
        self.sealings.insert(segment, Sealing { end, behind, cores, index, safety, is_told: false });
        self.queue.chore(Chore::Seal(segment));
        self.retention_at = now;
    }

    /// Makes a segment safe, encodes its index and writes it: as long as that takes, its readers are served from the core's
    /// memory.
    pub(super) fn seal(&mut self, segment: u64) {
        if self.segments.get(segment).is_none() {
            return self.end_sealing(segment, 0);
        }
        let Some(mut sealing) = self.sealings.remove(&segment) else { return };
        if sealing.safety == Safety::Unknown {
            sealing.safety = self.make_safe(&mut sealing);
        }
        let safety = sealing.safety;
        let (header, parts) = (sealing.end.segment, sealing.index.len() as u32);
        let file = (safety == Safety::Synced).then(|| sealing.index.encode(&header, sealing.end.offset, true));
        self.segments.end_at(segment, sealing.end.offset);
        self.sealings.insert(segment, sealing);
        match file.map(|file| put_index(&self.folder, segment, &file)) {
            Some(Ok(())) => {
                self.checkpointing.has_parts(parts);
                self.end_sealing(segment, parts);
            }
            Some(Err(error)) => {
                let path = segment_path(&self.folder, segment);
                let sealing = self.sealings.get_mut(&segment);
                if sealing.is_some_and(|sealing| !std::mem::replace(&mut sealing.is_told, true)) {
                    tracing::warn!(%error, "cannot write the index of {}: trying again; a start without it takes longer", path.display());
                }
                self.retry_in(RETRY);
            }
            None if safety == Safety::Unknown => self.retry_in(RETRY),
            None => {}
        }
    }

    /// Writes what belongs behind the last block, and syncs.
    fn make_safe(&mut self, sealing: &mut Sealing) -> Safety {
        let segment = sealing.end.segment.id;
        let path = segment_path(&self.folder, segment);
        let (safety, written) = match sealing.behind {
            Behind::Nothing => (Safety::Synced, Ok(())),
            Behind::Proof => self.prove(sealing),
            Behind::Blank => (Safety::Synced, write_page(&self.folder, segment, &[0; PAGE_BYTES], sealing.end.offset)),
        };
        match (safety, written) {
            // A file system that finds no space for what is there already may find some later, as the index does.
            (Safety::Synced, Err(error)) if sealing.behind == Behind::Blank && is_full(&error) => {
                return Safety::Unknown;
            }
            (Safety::Synced, Err(error)) => tracing::warn!(
                %error,
                "cannot write behind the last block of {}: a start that has to read it through may take its last block for torn, \
                 or find one there that was refused",
                path.display()
            ),
            (Safety::Synced, Ok(())) => {}
            (other, _) => return other,
        }
        sealing.behind = Behind::Nothing;
        self.sync(segment)
    }

    /// A proof says that what lies before it is on the disk: what is not known to be is synced first.
    fn prove(&mut self, sealing: &mut Sealing) -> (Safety, io::Result<()>) {
        let end = &mut sealing.end;
        let segment = end.segment.id;
        if end.synced != end.number {
            match self.sync(segment) {
                Safety::Synced => end.synced = end.number,
                other => return (other, Ok(())),
            }
        }
        let (proof, behind) = BlockWriter::of(&end.segment).finish(end);
        let written = write_page(&self.folder, segment, &proof, end.offset);
        if written.is_ok() {
            *end = behind;
        }
        (Safety::Synced, written)
    }

    fn sync(&mut self, segment: u64) -> Safety {
        let path = segment_path(&self.folder, segment);
        match sync_segment(&self.folder, segment) {
            Ok(()) => Safety::Synced,
            Err(SyncFault::Unopened(error)) => {
                tracing::warn!(%error, "cannot open {} to make it safe: trying again", path.display());
                Safety::Unknown
            }
            Err(SyncFault::Failed(error)) => {
                self.has_failed();
                tracing::error!(
                    %error,
                    "{} could not be synced: the next start reads it through, and takes this run's end for a power cut; see \
                     to the disk (`dmesg`)",
                    path.display()
                );
                Safety::Failed
            }
        }
    }

    /// A write or a sync failed, of which nobody knows what the disk has.
    pub(super) fn has_failed(&mut self) {
        self.is_unsafe = true;
        self.tell_unsafe();
    }

    /// Has the ledger say that a sync failed, unless it does. Where that cannot be written it is tried again with the next
    /// one, and at the end.
    pub(super) fn tell_unsafe(&mut self) {
        if self.is_unsafe
            && self.ledger.ledger().last.is_some_and(|last| last.boot.is_some())
            && let Err(error) = self.ledger.forget_boot()
        {
            tracing::error!(%error, "cannot write the log's ledger: a sync that failed is not told to the next start yet");
        }
    }

    /// Told once of each sealed segment, so that its core lets go of the index; without parts where the segment is gone.
    pub(super) fn end_sealing(&mut self, segment: u64, parts: u32) {
        let Some(Sealing { cores, index, .. }) = self.sealings.remove(&segment) else { return };
        // The cores' are the last: they say where it is to be freed.
        drop(index);
        for core in cores {
            self.send(core, ToCore::Log(Answer::Indexed { segment, parts }));
        }
        // It may be what an erasure waited for.
        self.begin_round();
    }
}
