//! Makes segments, gently: what it writes must not stand in the way of those who commit meanwhile.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use banter_log::journal::Answer;
use banter_log::segment::SegmentHeader;

use super::super::files::{SegmentFile, disk_of, is_full, make_segment};
use super::super::segment_path;
use super::Keeper;
use super::kept::{Kept, Writer};
use super::queue::Wish;
use crate::control::ToCore;

/// How long until a segment is tried again that found no space.
pub(super) const SPACE_RETRY: Duration = Duration::from_millis(500);
/// Numbers that are tried for a segment at a time.
const IDS_TRIED_MAX: usize = 1_000;
/// The longest pause between two writes.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// Pauses end when a segment has been in the making for this part of the time that the core's last one lasted: a core that
/// fills segments fast gets them fast.
const MADE_PARTS: u32 = 4;

/// Between two writes of a segment in the making.
pub(super) struct Pace {
    /// Who gets the segment.
    pub writer: Writer,
    /// When pauses end; `None`: the core has filled none yet, and has time.
    pub gentle_until: Option<Instant>,
    pub is_hurried: bool,
}

impl Keeper {
    /// A core wants a segment of a class.
    pub(super) fn wish(&mut self, writer: Writer, is_urgent: bool) {
        if self.ended.is_some() {
            return;
        }
        let lasted = self.sealed_at.get(&writer).map(|&(_, lasted)| lasted);
        self.queue.wish(Wish { writer, is_urgent, lasted });
    }

    /// Makes a segment, or says that there is no space.
    pub(super) fn make(&mut self, wish: Wish) {
        let Writer { core, class } = wish.writer;
        match self.try_make(&wish) {
            Ok((header, file)) => {
                self.next_id = self.next_id.saturating_add(1);
                self.segments.add(Kept::made(header));
                if self.state.is_full.swap(0, Ordering::Relaxed) != 0 {
                    tracing::info!("there is space for the log again");
                }
                self.send(core, ToCore::LogSegment(header, file));
            }
            Err(error) => {
                self.tell_full(&error);
                self.wanting.push(wish);
                self.send(core, ToCore::Log(Answer::NoSpace { class }));
                self.retry_in(SPACE_RETRY);
            }
        }
    }

    fn try_make(&mut self, wish: &Wish) -> io::Result<(SegmentHeader, SegmentFile)> {
        let Writer { core, class } = wish.writer;
        let file_bytes = match disk_of(&self.folder) {
            Ok(disk) => self.sizing.segment_bytes(disk).ok_or(io::ErrorKind::StorageFull)?,
            // A disk that does not say is tried.
            Err(_) => self.sizing.bytes_max(),
        };
        let folder = self.folder.clone();
        let id = self.free_id()?;
        let (nonce, run, made_unix_ms) = (nonce(), self.run, self.clock_ms());
        let header = SegmentHeader { id, nonce, core: core.0, class, run, made_unix_ms, file_bytes };
        let gentle_until = wish.lasted.map(|lasted| Instant::now() + lasted / MADE_PARTS);
        let stock = |writer| self.segments.stock(writer);
        let is_hurried = wish.is_urgent || stock(wish.writer) == 0 || self.queue.is_pressing(stock, Some(wish.writer));
        let mut pace = Pace { writer: wish.writer, gentle_until, is_hurried };
        let file = make_segment(&folder, &header, &mut |took| self.pause(took, &mut pace))?;
        Ok((header, file))
    }

    /// The next number that no file has: one that somebody put there is not written over, and keeps nobody from a segment.
    fn free_id(&mut self) -> io::Result<u64> {
        for _ in 0..IDS_TRIED_MAX {
            let path = segment_path(&self.folder, self.next_id);
            // Where that is not known, making it says why.
            if !matches!(path.try_exists(), Ok(true)) {
                return Ok(self.next_id);
            }
            tracing::warn!("{} is there, and this server did not make it: the next number is taken", path.display());
            self.next_id = self.next_id.saturating_add(1);
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Leaves the disk alone for as long as a write took, and hears meanwhile whether somebody has no segment at all.
    pub(super) fn pause(&mut self, took: Duration, pace: &mut Pace) {
        let now = Instant::now();
        let end = now + took.min(PAUSE_MAX);
        pace.is_hurried |= pace.gentle_until.is_some_and(|until| until <= now);
        while !pace.is_hurried
            && let Ok(message) = self.inbox.recv_deadline(end)
        {
            self.accept(message);
            let stock = |writer| self.segments.stock(writer);
            pace.is_hurried = self.ended.is_some() || self.queue.is_pressing(stock, Some(pace.writer));
        }
    }

    fn tell_full(&self, error: &io::Error) {
        if self.state.is_full.swap(1, Ordering::Relaxed) != 0 {
            return;
        }
        let mend =
            if is_full(error) { "free some, or set retention_bytes" } else { "see to the disk (`dmesg`, `df -h`)" };
        tracing::error!(
            "no segment of {} bytes can be made in {} beside what stays free (log_free_bytes_min): {error}; when the \
             present one is full, posts are refused with log_full until there is space: {mend}",
            self.sizing.bytes_min(),
            self.folder.display()
        );
    }

    /// Says at a start how long segments are, where that is less than they may be.
    pub(super) fn tell_size(&self) {
        let Ok(disk) = disk_of(&self.folder) else { return };
        let most = self.sizing.bytes_max();
        match self.sizing.segment_bytes(disk) {
            Some(bytes) if bytes < most => tracing::info!(
                "a segment of the log takes {bytes} bytes instead of {most}: {} of the disk's {} bytes are free",
                disk.free_bytes,
                disk.all_bytes
            ),
            _ => {}
        }
    }
}

/// Chance, so that nobody can post bytes that look like a block of a segment.
fn nonce() -> u64 {
    let mut bytes = [0; 8];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match read {
        Ok(8) => u64::from_le_bytes(bytes),
        // Never seen since Linux 3.17; the clock's nanoseconds are no secret, and still differ from segment to segment.
        _ => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64),
    }
}
