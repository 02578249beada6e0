//! A shared chunk of memory that grows at its end while its earlier bytes are being sent.
//!
//! ```text
//!  chunk  [ frame ][ frame ][ frame ]············   append only writes behind `filled`
//!           └──── slice ────┘                       slices only show what is before it
//! ```
//!
//! Invariants, on which the `unsafe` below stands: bytes before `filled` are never written again; bytes from `filled`
//! on are never shown; a chunk never moves and never grows past its capacity. One thread only (`Rc`, `Cell`).
//!
//! Why not `bytes`: a `BytesMut` that was split and frozen shows each frame as a value of its own, and a send that
//! carries many frames needs them as one slice.

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::rc::Rc;

struct Memory {
    bytes: Box<[UnsafeCell<MaybeUninit<u8>>]>,
    filled: Cell<usize>,
}

/// The writing end of a chunk.
pub struct Chunk(Rc<Memory>);

/// Bytes of a chunk; keeps its memory for as long as it lives.
#[derive(Clone)]
pub struct ChunkSlice {
    memory: Rc<Memory>,
    start: u32,
    end: u32,
}

impl Chunk {
    /// A chunk of that many bytes, at most `u32::MAX`.
    pub fn with_capacity(capacity_bytes: u32) -> Self {
        let bytes = (0..capacity_bytes).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
        Chunk(Rc::new(Memory { bytes, filled: Cell::new(0) }))
    }

    /// Bytes written.
    pub fn len(&self) -> u32 {
        self.0.filled.get() as u32
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes it may hold.
    pub fn capacity(&self) -> u32 {
        self.0.bytes.len() as u32
    }

    /// Appends all of `bytes`, or says no and changes nothing when they do not fit.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        let filled = self.0.filled.get();
        let Some(target) = self.0.bytes.get(filled..).and_then(|free| free.get(..bytes.len())) else { return false };
        // SAFETY: `target` is within the chunk, behind `filled`, so no slice shows it; `UnsafeCell` allows the write
        // through a shared reference; `bytes` is a plain slice that cannot overlap memory nobody was shown.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), UnsafeCell::raw_get(target.as_ptr()).cast(), bytes.len());
        }
        self.0.filled.set(filled + bytes.len());
        true
    }

    /// The bytes from `start` to what is written now; `None` if `start` is behind that.
    pub fn slice_from(&self, start: u32) -> Option<ChunkSlice> {
        self.slice(start, self.len())
    }

    /// The bytes from `start` to `end`; `None` if they are not all written, or the wrong way round.
    pub fn slice(&self, start: u32, end: u32) -> Option<ChunkSlice> {
        (start <= end && end <= self.len()).then(|| ChunkSlice { memory: self.0.clone(), start, end })
    }
}

impl Deref for ChunkSlice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let shown = &self.memory.bytes[self.start as usize..self.end as usize];
        // SAFETY: `end` was at most `filled` when the slice was made (`Chunk::slice`, `ChunkSlice::without_first`),
        // so every byte was written, and none of them is written again while the `Rc` keeps the memory.
        unsafe { std::slice::from_raw_parts(shown.as_ptr().cast(), shown.len()) }
    }
}

impl ChunkSlice {
    /// The same without its first bytes.
    pub fn without_first(&self, bytes: u32) -> ChunkSlice {
        ChunkSlice { memory: self.memory.clone(), start: (self.start + bytes).min(self.end), end: self.end }
    }
}

impl std::fmt::Debug for ChunkSlice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ChunkSlice({}..{})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_keeps_its_bytes_while_the_chunk_grows() {
        let mut chunk = Chunk::with_capacity(10);
        assert!(chunk.append(b"abcd"));
        let slice = chunk.slice_from(1).unwrap();
        assert!(chunk.append(b"efgh"));
        assert_eq!(&*slice, b"bcd");
        assert_eq!(&*chunk.slice_from(0).unwrap(), b"abcdefgh");
        assert_eq!(&*slice.without_first(2), b"d");
        assert_eq!(&*slice.without_first(20), b"");
        drop(chunk);
        assert_eq!(&*slice, b"bcd");
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let mut chunk = Chunk::with_capacity(4);
        assert!(chunk.append(b"abc"));
        assert!(!chunk.append(b"de"));
        assert_eq!(chunk.len(), 3);
        assert!(chunk.append(b"d"));
        assert!(!chunk.append(b"e"));
        assert!(chunk.append(b""));
        assert!(chunk.slice_from(4).unwrap().is_empty());
        assert!(chunk.slice_from(5).is_none());
        assert_eq!(&*chunk.slice(1, 3).unwrap(), b"bc");
        assert!(chunk.slice(1, 5).is_none() && chunk.slice(3, 1).is_none());
    }
}
