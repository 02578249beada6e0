//! A room's newest frames on one core in one wire form: what its live subscriptions there are sent from.
//!
//! ```text
//!   chunks   [##########][##########][####······]
//!            ▲ tail            ▲ a subscription's position
//!                                            ▲ head
//! ```
//!
//! A position counts the bytes that were ever appended, so it stays true while chunks come and go. A frame lies in one
//! chunk whole. A position before the tail has fallen off: that reader has to ask the history.

use std::collections::VecDeque;

use banter_chunk::{Chunk, ChunkSlice};
use banter_protocol::ids::Sequence;

/// The first chunk of a run: a few chat messages.
const CHUNK_BYTES_MIN: u32 = 1_024;
/// Later chunks double up to here; what one send carries at most, and what a stopped reader can pin.
pub const CHUNK_BYTES_MAX: u32 = 64 * 1_024;

/// The run.
#[derive(Default)]
pub struct Run {
    chunks: VecDeque<RunChunk>,
    head: u64,
    bytes: u64,
}

struct RunChunk {
    chunk: Chunk,
    start: u64,
    last: Sequence,
}

/// What lies behind a position.
pub enum Taken {
    /// Nothing yet.
    Nothing,
    /// It fell off the tail.
    FellOff,
    /// Bytes to send, the last message among them, and the position behind them.
    Frames {
        /// The bytes.
        slice: ChunkSlice,
        /// The newest message in them.
        through: Sequence,
        /// The position behind them.
        position: u64,
    },
}

impl Run {
    /// An empty run whose first frame has that position.
    pub fn starting_at(position: u64) -> Self {
        Run { head: position, ..Run::default() }
    }

    /// The position behind the newest frame.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The position of the oldest frame.
    pub fn tail(&self) -> u64 {
        self.chunks.front().map_or(self.head, |first| first.start)
    }

    /// Bytes of memory that the chunks hold.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a frame; the oldest chunks go while the others hold `keep_bytes_max`, the newest never.
    pub fn append(&mut self, frame: &[u8], sequence: Sequence, keep_bytes_max: u64) {
        let appended = self.chunks.back_mut().is_some_and(|last| {
            let fits = last.chunk.append(frame);
            if fits {
                last.last = sequence;
            }
            fits
        });
        if !appended {
            self.append_in_new_chunk(frame, sequence);
        }
        self.head += frame.len() as u64;
        while self.chunks.len() > 1 && self.bytes > keep_bytes_max {
            self.forget_oldest();
        }
    }

    fn append_in_new_chunk(&mut self, frame: &[u8], sequence: Sequence) {
        let doubled = self.chunks.back().map_or(CHUNK_BYTES_MIN, |last| last.chunk.capacity().saturating_mul(2));
        let frame_bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let mut chunk = Chunk::with_capacity(doubled.min(CHUNK_BYTES_MAX).max(frame_bytes));
        let fits = chunk.append(frame);
        debug_assert!(fits, "a chunk is made for its first frame");
        self.bytes += u64::from(chunk.capacity());
        self.chunks.push_back(RunChunk { chunk, start: self.head, last: sequence });
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.chunks.pop_front() {
            self.bytes -= u64::from(oldest.chunk.capacity());
        }
    }

    /// Forgets the chunks that nobody at or behind the position needs.
    pub fn forget_before(&mut self, position: u64) {
        while self.chunks.front().is_some_and(|first| first.start + u64::from(first.chunk.len()) <= position) {
            self.forget_oldest();
        }
    }

    /// What lies behind a position, as far as one send carries it; `until` ends it earlier, at that position, which
    /// lies behind the named message.
    pub fn take(&self, position: u64, until: Option<(u64, Sequence)>) -> Taken {
        if position >= self.head {
            return Taken::Nothing;
        }
        // From the newest: that is where a live reader is.
        let Some(found) = self.chunks.iter().rev().find(|chunk| chunk.start <= position) else { return Taken::FellOff };
        let offset = (position - found.start) as u32;
        let chunk_end = found.start + u64::from(found.chunk.len());
        let (end, through) = match until {
            Some((end, through)) if end < chunk_end => (end, through),
            _ => (chunk_end, found.last),
        };
        match found.chunk.slice(offset, (end - found.start) as u32) {
            Some(slice) if !slice.is_empty() => Taken::Frames { slice, through, position: end },
            _ => Taken::FellOff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(run: &Run, position: u64) -> Option<(Vec<u8>, u64, u64)> {
        match run.take(position, None) {
            Taken::Frames { slice, through, position } => Some((slice.to_vec(), through.0, position)),
            Taken::Nothing => None,
            Taken::FellOff => panic!("fell off"),
        }
    }

    #[test]
    fn a_reader_gets_everything_since_its_position_in_one_slice() {
        let mut run = Run::default();
        run.append(b"one", Sequence(1), 1 << 20);
        run.append(b"two", Sequence(2), 1 << 20);
        assert_eq!(take(&run, 0), Some((b"onetwo".to_vec(), 2, 6)));
        assert_eq!(take(&run, 3), Some((b"two".to_vec(), 2, 6)));
        assert_eq!(take(&run, 6), None);
        run.append(b"three", Sequence(3), 1 << 20);
        assert_eq!(take(&run, 6), Some((b"three".to_vec(), 3, 11)));
    }

    #[test]
    fn walking_the_chunks_gives_every_byte_once() {
        let mut run = Run::default();
        let mut all = Vec::new();
        for number in 0..200u64 {
            let frame = vec![number as u8; 100 + (number as usize % 50)];
            run.append(&frame, Sequence(number + 1), 1 << 20);
            all.extend(frame);
        }
        let (mut seen, mut position, mut last) = (Vec::new(), 0, 0);
        while let Some((bytes, through, next)) = take(&run, position) {
            assert!(through > last);
            (position, last) = (next, through);
            seen.extend(bytes);
        }
        assert_eq!(seen, all);
        assert_eq!((position, last), (run.head(), 200));
    }

    #[test]
    fn old_chunks_go_above_the_limit_and_their_readers_fall_off() {
        let mut run = Run::default();
        for number in 0..1_000u64 {
            run.append(&[0; 500], Sequence(number + 1), 8_192);
            assert!(run.bytes() <= 8_192 + u64::from(CHUNK_BYTES_MAX));
        }
        assert!(matches!(run.take(0, None), Taken::FellOff));
        assert!(matches!(run.take(run.head() - 500, None), Taken::Frames { .. }));
    }

    #[test]
    fn a_frame_above_the_chunk_size_lies_whole() {
        let mut run = Run::default();
        run.append(&vec![1; 200_000], Sequence(1), 1_000);
        assert_eq!(take(&run, 0).unwrap().0.len(), 200_000);
        run.append(b"x", Sequence(2), 1_000);
        assert!(matches!(run.take(0, None), Taken::FellOff));
    }

    #[test]
    fn what_everybody_has_read_is_let_go() {
        let mut run = Run::default();
        run.append(b"abc", Sequence(1), 1 << 20);
        run.forget_before(2);
        assert!(run.bytes() > 0, "somebody still needs the last byte");
        run.forget_before(3);
        assert_eq!(run.bytes(), 0);
        run.append(b"d", Sequence(2), 1 << 20);
        assert_eq!(take(&run, 3), Some((b"d".to_vec(), 2, 4)));
    }

    #[test]
    fn a_take_can_end_early() {
        let mut run = Run::default();
        run.append(b"abc", Sequence(1), 1 << 20);
        run.append(b"own", Sequence(2), 1 << 20);
        let Taken::Frames { slice, through, position } = run.take(0, Some((3, Sequence(1)))) else { panic!() };
        assert_eq!((&*slice, through, position), (&b"abc"[..], Sequence(1), 3));
    }
}
