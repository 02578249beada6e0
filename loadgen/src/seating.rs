//! Who sits where: which connection reads which rooms, where a connection may read several.
//!
//! A seat is one connection's reading of one room; seat `m` of room `r` has the number `r * members + m`. The rooms fall
//! into as many blocks as a connection has seats, and each connection has one seat in each block. In every block they sit
//! in another order, so that those who meet in one room meet others in the next, as people do.

use crate::fault::LoadFault;

/// Seats of rooms of one size.
#[derive(Clone, Debug)]
pub struct Seating {
    members: usize,
    rooms_per_block: usize,
    /// In block `b` connection `c` has place `c * strides[b].0` modulo the connections; the other factor leads back.
    strides: Vec<(usize, usize)>,
}

impl Seating {
    /// Rooms of so many members, where each connection reads one.
    pub fn of_one_room(rooms: usize, members: usize) -> Self {
        Seating { members, rooms_per_block: rooms, strides: vec![(1, 1)] }
    }

    /// Rooms of so many members, where each connection reads `rooms_each`.
    ///
    /// # Errors
    /// When the rooms cannot be spread so.
    pub fn new(rooms: usize, members: usize, rooms_each: usize) -> Result<Self, LoadFault> {
        if rooms_each == 0 || !rooms.is_multiple_of(rooms_each) {
            return Err(LoadFault::UnevenSeats { rooms, rooms_each });
        }
        let rooms_per_block = rooms / rooms_each;
        let connections = rooms_per_block * members;
        let strides = (0..rooms_each).map(|block| stride(block, rooms_each, connections)).collect();
        Ok(Seating { members, rooms_per_block, strides })
    }

    /// Connections.
    pub fn connections(&self) -> usize {
        self.rooms_per_block * self.members
    }

    /// Seats of each room.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Rooms of each block.
    pub fn rooms_per_block(&self) -> usize {
        self.rooms_per_block
    }

    /// Rooms that each connection reads.
    pub fn rooms_each(&self) -> usize {
        self.strides.len()
    }

    /// The room of a seat.
    #[inline]
    pub fn room_of(&self, seat: usize) -> usize {
        seat / self.members
    }

    /// Who sits there.
    #[inline]
    pub fn connection_of(&self, seat: usize) -> usize {
        if self.strides.len() == 1 {
            return seat;
        }
        let connections = self.connections();
        (seat % connections) * self.strides[seat / connections].1 % connections
    }

    /// The seat of a connection in a block.
    #[inline]
    pub fn seat_in_block(&self, connection: usize, block: usize) -> usize {
        let connections = self.connections();
        block * connections + connection * self.strides[block].0 % connections
    }

    /// The seat of a connection in a room; `None` where it has none there.
    #[inline]
    pub fn seat_in(&self, connection: usize, room: usize) -> Option<usize> {
        let block = room / self.rooms_per_block;
        if block >= self.strides.len() {
            return None;
        }
        let seat = self.seat_in_block(connection, block);
        (seat / self.members == room).then_some(seat)
    }
}

/// A factor that reaches every place, another one for each block, and the one that leads back.
fn stride(block: usize, blocks: usize, connections: usize) -> (usize, usize) {
    if block == 0 || connections < 3 {
        return (1, 1);
    }
    let near = (1 + block * connections / (blocks + 1)) as u64;
    let found = (near..).find_map(|factor| Some((factor, inverse(factor, connections as u64)?)));
    found.map_or((1, 1), |(factor, back)| (factor as usize % connections, back as usize))
}

/// The number that, times `factor`, is 1 modulo `modulus`; none where they share a divisor.
fn inverse(factor: u64, modulus: u64) -> Option<u64> {
    let (mut left, mut right) = ((i128::from(factor % modulus), 1), (i128::from(modulus), 0));
    while right.0 != 0 {
        let quotient = left.0 / right.0;
        (left, right) = (right, (left.0 - quotient * right.0, left.1 - quotient * right.1));
    }
    (left.0 == 1).then(|| left.1.rem_euclid(i128::from(modulus)) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_seat_is_taken_once_and_leads_back() {
        for (rooms, members, rooms_each) in [(12, 5, 4), (1000, 5, 5), (6, 2, 3), (2, 1, 2), (8, 7, 1), (10, 3, 10)] {
            let seating = Seating::new(rooms, members, rooms_each).unwrap();
            assert_eq!(seating.connections() * rooms_each, rooms * members);
            let mut taken = BTreeSet::new();
            for connection in 0..seating.connections() {
                let seats: Vec<usize> = (0..rooms).filter_map(|room| seating.seat_in(connection, room)).collect();
                assert_eq!(seats.len(), rooms_each);
                for seat in seats {
                    assert!(taken.insert(seat));
                    assert_eq!(seating.connection_of(seat), connection);
                }
            }
            assert_eq!(taken.len(), rooms * members);
        }
    }

    #[test]
    fn those_who_meet_in_one_room_meet_others_in_the_next() {
        let seating = Seating::new(400, 5, 4).unwrap();
        let met: BTreeSet<usize> = (0..400)
            .filter(|&room| seating.seat_in(0, room).is_some())
            .flat_map(|room| (0..5).map(move |place| room * 5 + place))
            .map(|seat| seating.connection_of(seat))
            .collect();
        assert!(met.len() > 12, "{met:?} of 17 at most");
    }

    #[test]
    fn rooms_that_cannot_be_spread_are_refused() {
        assert!(Seating::new(10, 5, 3).is_err());
        assert!(Seating::new(10, 5, 0).is_err());
    }
}
