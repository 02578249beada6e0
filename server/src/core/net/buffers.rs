//! The buffers that a core receives into: one ring of them, shared by all its sockets, so that an idle one holds none.
//!
//! Invariant: a buffer is the kernel's from [`BufferRing::give_back`] until a completion names it, and ours from then
//! until it is given back.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// Bytes of one buffer: what a turn brings of one socket. A share of a turn's requests fits, where they are of the usual
/// size, and a large frame comes in a few turns.
pub const BUFFER_BYTES: usize = 16 * 1_024;
/// Buffers of a core; a power of two, as the kernel asks. Sockets that find none wait for the next turn.
pub const BUFFERS: u16 = 512;
/// The group's number; there is one.
pub const BUFFER_GROUP: u16 = 0;

const PAGE_BYTES: usize = 4 * 1_024;

/// The ring and its memory.
pub struct BufferRing {
    entries: NonNull<BufRingEntry>,
    memory: Box<[u8]>,
    tail: u16,
}

/// A buffer that a completion named, with bytes in it.
#[derive(Debug)]
pub struct Received {
    buffer: u16,
    bytes: u32,
}

impl Received {
    /// Of a completion's buffer number and result.
    pub fn new(buffer: u16, bytes: u32) -> Self {
        Received { buffer, bytes }
    }
}

fn layout() -> Layout {
    let bytes = size_of::<BufRingEntry>() * usize::from(BUFFERS);
    // BUFFERS is a constant, so the layout is always valid; the error path only keeps this free of panics.
    Layout::from_size_align(bytes, PAGE_BYTES).unwrap_or(Layout::new::<BufRingEntry>())
}

impl BufferRing {
    /// Makes the buffers and registers them with a ring.
    ///
    /// # Errors
    /// When the kernel refuses: too old, or too little memory that may be locked.
    pub fn register(ring: &IoUring) -> io::Result<Self> {
        // SAFETY: the layout has a size above zero.
        let raw = unsafe { alloc_zeroed(layout()) };
        let Some(entries) = NonNull::new(raw.cast::<BufRingEntry>()) else { handle_alloc_error(layout()) };
        // Not zeros, which the kernel would hand out a page at a time, in the midst of the first turns.
        let memory = vec![0xff; BUFFER_BYTES * usize::from(BUFFERS)].into_boxed_slice();
        let mut buffers = BufferRing { entries, memory, tail: 0 };
        // SAFETY: the entries are page-aligned, zeroed, and live until `Net` drops its ring and only then this struct.
        unsafe { ring.submitter().register_buf_ring_with_flags(raw as u64, BUFFERS, BUFFER_GROUP, 0)? };
        for buffer in 0..BUFFERS {
            buffers.provide(buffer);
        }
        Ok(buffers)
    }

    /// The received bytes.
    pub fn bytes_mut(&mut self, received: &Received) -> &mut [u8] {
        let start = usize::from(received.buffer) * BUFFER_BYTES;
        let end = start + (received.bytes as usize).min(BUFFER_BYTES);
        &mut self.memory[start..end]
    }

    /// The kernel may fill the buffer again.
    pub fn give_back(&mut self, received: Received) {
        self.provide(received.buffer);
    }

    fn provide(&mut self, buffer: u16) {
        let index = usize::from(self.tail % BUFFERS);
        let start = self.memory.as_mut_ptr().wrapping_add(usize::from(buffer) * BUFFER_BYTES);
        // SAFETY: `index` is below the ring's length; the kernel reads an entry only once the tail is beyond it.
        let entry = unsafe { self.entries.add(index).as_mut() };
        entry.set_addr(start as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, is aligned, and is shared with the kernel, hence the atomic store;
        // release makes the entry visible ahead of it.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout; `Net` drops its ring first, so the kernel is done with it.
        unsafe { dealloc(self.entries.as_ptr().cast(), layout()) }
    }
}
