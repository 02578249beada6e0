//! Bytes of one connection that came while it was not read: copied once, and read where they lie.

/// The bytes, and how far they were read. What was read goes with the last of them: nothing is received meanwhile, so the
/// buffer only shrinks from where it stands.
#[derive(Debug, Default)]
pub struct Held {
    bytes: Vec<u8>,
    read_bytes: usize,
}

/// The bytes that came do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Held {
    /// Keeps what came, at most `bytes_max` in all.
    ///
    /// # Errors
    /// When there would be more; nothing of `more` is kept then.
    pub fn append(&mut self, more: &[u8], bytes_max: usize) -> Result<(), Full> {
        if self.bytes.len() + more.len() > bytes_max {
            return Err(Full);
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// What is still to be read.
    pub fn unread_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.read_bytes..]
    }

    /// So many of the unread bytes were read.
    pub fn advance(&mut self, bytes: usize) {
        self.read_bytes = (self.read_bytes + bytes).min(self.bytes.len());
    }

    /// Whether all was read.
    pub fn is_read(&self) -> bool {
        self.read_bytes == self.bytes.len()
    }

    /// Bytes that are kept, those that were read among them.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_in_order_where_they_lie() {
        let mut held = Held::default();
        assert!(held.is_read());
        held.append(b"abcd", 8).unwrap();
        let place = held.unread_mut().as_ptr();
        held.unread_mut()[0] = b'A';
        held.advance(2);
        assert_eq!((held.unread_mut().as_ptr(), &*held.unread_mut()), (place.wrapping_add(2), &b"cd"[..]));
        held.append(b"ef", 8).unwrap();
        assert_eq!(held.unread_mut(), b"cdef");
        held.advance(4);
        assert!(held.is_read() && held.unread_mut().is_empty());
    }

    #[test]
    fn what_was_read_counts_until_the_buffer_goes() {
        let mut held = Held::default();
        held.append(b"abcd", 6).unwrap();
        held.advance(3);
        assert_eq!(held.append(b"efg", 6), Err(Full));
        assert_eq!((held.len(), &*held.unread_mut()), (4, &b"d"[..]));
        held.append(b"ef", 6).unwrap();
        assert_eq!(held.len(), 6);
    }
}
