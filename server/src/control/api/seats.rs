//! Who may have a feed: so many at a time, so many a key, and one is left to whoever may open the socket.

use std::sync::{Arc, Mutex, PoisonError};

use banter_protocol::error_code::ErrorCode;

use super::fault::ApiFault;

/// Feeds at a time, over all doors: each may read the log as fast as its disk gives it.
pub const FEEDS_MAX: usize = 8;
/// Feeds of a key at a time, so that one does not take them from all others.
pub const FEEDS_PER_KEY_MAX: usize = 4;
/// Feeds of all keys at a time: the operator's socket always has one.
pub const FEEDS_OF_KEYS_MAX: usize = FEEDS_MAX - 1;

const _: () = assert!(FEEDS_PER_KEY_MAX <= FEEDS_OF_KEYS_MAX);

/// A key's digest; none: the socket.
pub type Holder = Option<[u8; 32]>;

/// The seats that are taken.
#[derive(Debug, Default)]
pub struct Seats(Mutex<Vec<Holder>>);

impl Seats {
    /// Takes one.
    ///
    /// # Errors
    /// The key has as many as it may, or all are taken.
    pub fn take(self: &Arc<Self>, holder: Holder) -> Result<Seat, ApiFault> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_keys = taken.iter().filter(|there| there.is_some()).count();
        let of_holder = taken.iter().filter(|&&there| there == holder).count();
        let why = if holder.is_some() && of_holder >= FEEDS_PER_KEY_MAX {
            "this key has as many feeds open as it may: end one, or let several programs share one"
        } else if taken.len() >= FEEDS_MAX || (holder.is_some() && of_keys >= FEEDS_OF_KEYS_MAX) {
            "as many feeds as may be are open: end one, or let several programs share one"
        } else {
            taken.push(holder);
            return Ok(Seat { seats: self.clone(), holder });
        };
        Err(ApiFault::new(ErrorCode::Overloaded, why).again_in(1_000))
    }
}

/// One that is taken until this goes.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    holder: Holder,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = taken.iter().position(|&there| there == self.holder) {
            taken.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Holder = Some([1; 32]);
    const B: Holder = Some([2; 32]);

    fn take(seats: &Arc<Seats>, holder: Holder, count: usize) -> Vec<Seat> {
        (0..count).map(|_| seats.take(holder).expect("a seat")).collect()
    }

    #[test]
    fn a_key_has_its_share_and_leaves_the_others_theirs() {
        let seats = Arc::<Seats>::default();
        let mut of_a = take(&seats, A, FEEDS_PER_KEY_MAX);
        assert!(seats.take(A).is_err());
        let of_b = take(&seats, B, FEEDS_OF_KEYS_MAX - FEEDS_PER_KEY_MAX);
        assert!(seats.take(B).is_err(), "all of the keys' are taken");
        of_a.pop();
        assert!(seats.take(A).is_ok() && seats.take(B).is_ok(), "who goes leaves its place");
        drop((of_a, of_b));
        assert_eq!(take(&seats, A, FEEDS_PER_KEY_MAX).len(), FEEDS_PER_KEY_MAX);
    }

    #[test]
    fn the_socket_has_a_place_whatever_keys_take_and_no_more_than_there_are() {
        let seats = Arc::<Seats>::default();
        let keys = (take(&seats, A, FEEDS_PER_KEY_MAX), take(&seats, B, FEEDS_OF_KEYS_MAX - FEEDS_PER_KEY_MAX));
        let socket = seats.take(None).expect("it has its own");
        assert!(seats.take(None).is_err());
        drop((keys, socket));
        let all = take(&seats, None, FEEDS_MAX);
        assert!(seats.take(None).is_err() && seats.take(A).is_err());
        drop(all);
    }
}
