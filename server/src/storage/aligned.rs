//! Memory at a multiple of a page's size, as direct I/O wants it.

use banter_log::PAGE_BYTES;

/// Bytes that start at a multiple of [`PAGE_BYTES`], and stay where they are for as long as this lives.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// Zeros.
    pub fn zeroed(bytes: usize) -> Self {
        let mut aligned = Aligned::with_room_for(bytes);
        aligned.memory.resize(aligned.start + bytes, 0);
        aligned
    }

    /// A copy.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut aligned = Aligned::with_room_for(bytes.len());
        aligned.memory.extend_from_slice(bytes);
        aligned
    }

    fn with_room_for(bytes: usize) -> Self {
        let mut memory: Vec<u8> = Vec::with_capacity(bytes + PAGE_BYTES);
        let start = memory.as_ptr().align_offset(PAGE_BYTES);
        memory.resize(start, 0);
        Aligned { memory, start }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_start_at_a_page_and_hold_what_they_should() {
        for bytes in [1, 4_096, 5_000, 1 << 20] {
            let content: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
            let (zeros, copy) = (Aligned::zeroed(bytes), Aligned::copy_of(&content));
            assert!(zeros.bytes() == vec![0; bytes] && copy.bytes() == content);
            assert!([zeros, copy].iter().all(|one| one.bytes().as_ptr().addr().is_multiple_of(PAGE_BYTES)));
        }
    }
}
