//! A room's state on its way into the log: the newest counts, and the newest part of a room names it.
//!
//! ```text
//!  segment n    …[ post 7 ][ state, at 7 ][ post 8 ]…
//!  segment n+1  [ state, at 8 ][ post 9 ]…              carried: ahead of the room's first record, in the same block
//! ```
//!
//! Whoever writes a room has its state in memory, and gives it again to the first commit of the room in each segment
//! ([`crate::journal::Journal::make_room_with_states`]): so it is found without going back, and outlives what retention drops.
//!
//! Who was told that a commit with a state failed writes the state that it goes on with again, an empty one if there was none:
//! the one that was refused may be on the disk, as posts may that were refused.

use banter_protocol::frame::HEADER_BYTES;
use banter_protocol::ids::RoomId;
use banter_protocol::native::{State, write_state};

use crate::index::Entry;
use crate::record::{Author, Level, PREFIX_BYTES, Record, RecordKind, room_tag};

/// Bytes of a state's record at most: a sixteenth of a commit as it is by default, so that the states of many rooms fit beside
/// their posts, and a quarter of the shortest segment that is made for larger commits. Where commits are smaller, less fits
/// ([`crate::journal::Journal::state_bytes_max`]). A longer one is not written, and not read either.
pub const STATE_BYTES_MAX: usize = 64 * 1_024;

/// Bytes of a state's record, of a room with a name of so many and a body of so many: prefix, frame and what the archive of a
/// state has beside.
pub fn state_record_bytes(room_bytes: usize, body_bytes: usize) -> usize {
    PREFIX_BYTES + HEADER_BYTES + room_bytes + body_bytes + ARCHIVE_BYTES
}

/// Bytes of a state's archive beside its texts: three numbers, and where the texts lie.
const ARCHIVE_BYTES: usize = 3 * 8 + 2 * 8;

/// A state has more bytes than a commit can take along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state's record has {bytes} bytes, and may have {bytes_max}")]
pub struct StateTooLarge {
    /// Bytes of its record.
    pub bytes: usize,
    /// Bytes that one may have.
    pub bytes_max: usize,
}

/// A state as a commit takes it. How long it is depends on room and body alone, and not on when and where it is said.
#[derive(Clone, Debug)]
pub struct StateRecord {
    frame: Vec<u8>,
    entry: Entry,
}

impl StateRecord {
    /// Of a state of a room of that level, also of one that was said before and is carried.
    ///
    /// It is said now: its epoch is the room's, its `sequence` the place before the room's next record in the commit (or the
    /// room's newest, if there is none), and its time the log's clock. An earlier place would hide what the room has behind
    /// it, and an earlier time its dedupe window.
    ///
    /// # Errors
    /// It is larger than `bytes_max` or [`STATE_BYTES_MAX`].
    pub fn new(state: &State<'_>, level: Level, bytes_max: usize) -> Result<Self, StateTooLarge> {
        let mut frame = Vec::new();
        write_state(state, &mut frame);
        let &State { epoch, sequence, time_ms, room, .. } = state;
        let (kind, room) = (RecordKind::State, RoomId::of(room));
        let mut made = StateRecord {
            frame,
            entry: Entry { kind, room, epoch, sequence, time_ms, level, record_bytes: 0, key: None },
        };
        let (bytes, bytes_max) = (made.record().bytes(), bytes_max.min(STATE_BYTES_MAX));
        if bytes > bytes_max {
            return Err(StateTooLarge { bytes, bytes_max });
        }
        made.entry.record_bytes = bytes as u32;
        Ok(made)
    }

    /// The record.
    pub fn record(&self) -> Record<'_> {
        let Entry { kind, room, level, .. } = self.entry;
        Record {
            kind,
            level,
            room_tag: room_tag(room),
            author: Author::NOBODY,
            sent_body_hash: None,
            frame: &self.frame,
        }
    }

    /// The same as the index takes it.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// Bytes that it takes in a block.
    pub fn bytes(&self) -> usize {
        self.entry.record_bytes as usize
    }
}

#[cfg(test)]
mod tests {
    use banter_protocol::ids::{Epoch, Sequence};

    use super::*;

    fn state(body: &[u8]) -> State<'_> {
        State { epoch: Epoch(3), sequence: Sequence(4), time_ms: 8, room: "lobby", body }
    }

    #[test]
    fn a_state_comes_back_as_a_start_reads_it_and_is_as_long_whenever_it_is_said() {
        let made = StateRecord::new(&state(b"roles"), Level::Synced, usize::MAX).unwrap();
        let mut written = Vec::new();
        made.record().write(7, &mut written);
        assert_eq!((written.len(), Record::read(&written, 7)), (made.bytes(), Ok(made.record())));
        let (read, name) = Entry::read(&made.record(), RoomId::of).unwrap();
        assert_eq!((format!("{read:?}"), name), (format!("{:?}", made.entry()), "lobby"));
        let (epoch, sequence) = (Epoch(u64::MAX), Sequence(u64::MAX));
        let later = State { epoch, sequence, time_ms: u64::MAX, ..state(b"roles") };
        assert_eq!(StateRecord::new(&later, Level::Written, usize::MAX).unwrap().bytes(), made.bytes());
        for (room, body) in [("a", &b""[..]), ("lobby", b"roles"), ("lobby-2", &[7; 4_001])] {
            let state = State { room, ..state(body) };
            let made = StateRecord::new(&state, Level::Synced, usize::MAX).unwrap();
            assert_eq!(made.bytes(), state_record_bytes(room.len(), body.len()), "{room}");
        }
    }

    #[test]
    fn a_state_that_no_commit_takes_is_refused_with_what_it_may_have() {
        let made = |bytes: usize, bytes_max| StateRecord::new(&state(&vec![7; bytes]), Level::Synced, bytes_max);
        let beside = made(0, usize::MAX).unwrap().bytes();
        let bytes_max = STATE_BYTES_MAX;
        assert_eq!(made(STATE_BYTES_MAX - beside - 8, usize::MAX).unwrap().bytes(), STATE_BYTES_MAX - 8);
        assert!(matches!(made(bytes_max, usize::MAX), Err(StateTooLarge { bytes, bytes_max: told })
            if bytes > told && told == bytes_max));
        assert!(made(100, beside + 104).is_ok());
        assert!(matches!(made(100, beside + 50), Err(StateTooLarge { bytes_max, .. }) if bytes_max == beside + 50));
    }
}
