//! Whose history goes first when a core holds too much in memory: that of a room that holds the most, so that a flood in
//! one room costs the others nothing.
//!
//! Rooms stand in classes by the power of two of their bytes, and a room of the highest class gives its oldest message.
//! So no room gives anything while another holds more than twice as much. Everything here takes the same time for any
//! number of rooms.

use slab::Slab;

/// Classes: a room's bytes fit 64 bits.
const CLASSES: usize = u64::BITS as usize;

/// The rooms that hold history, by how much.
#[derive(Debug, Default)]
pub struct Shares {
    /// Rooms' slots, by class; made as far as they are needed.
    classes: Vec<Vec<u32>>,
    /// A bit for each class that holds a room.
    occupied: u64,
    /// Rooms of a class give in turn.
    turn: usize,
    /// Bytes of all of them.
    bytes: u64,
}

/// A room's place among them; kept by the room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Bytes that it holds. Without any it stands nowhere.
    bytes: u64,
    place: u32,
}

impl Share {
    /// Bytes that the room holds.
    pub fn bytes(self) -> u64 {
        self.bytes
    }
}

impl AsMut<Share> for Share {
    fn as_mut(&mut self) -> &mut Share {
        self
    }
}

impl Shares {
    /// Bytes of all rooms.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The room of that slot holds so many bytes now.
    pub fn set<R: AsMut<Share>>(&mut self, rooms: &mut Slab<R>, slot: usize, bytes: u64) {
        let Some(share) = rooms.get_mut(slot).map(R::as_mut) else { return };
        let before = *share;
        share.bytes = bytes;
        self.bytes = self.bytes - before.bytes + bytes;
        let (old, new) = (class_of(before.bytes), class_of(bytes));
        if old == new {
            return;
        }
        if let Some(new) = new {
            share.place = self.enter(new, slot);
        }
        if let Some(moved) = old.and_then(|old| self.leave(old, before.place))
            && let Some(room) = rooms.get_mut(moved)
        {
            room.as_mut().place = before.place;
        }
    }

    fn enter(&mut self, class: usize, slot: usize) -> u32 {
        if self.classes.len() <= class {
            self.classes.resize_with(class + 1, Vec::new);
        }
        self.occupied |= 1 << class;
        self.classes[class].push(slot as u32);
        (self.classes[class].len() - 1) as u32
    }

    /// Takes a room out; another may have its place now.
    fn leave(&mut self, class: usize, place: u32) -> Option<usize> {
        let rooms = &mut self.classes[class];
        rooms.swap_remove(place as usize);
        if rooms.is_empty() {
            self.occupied &= !(1 << class);
        }
        rooms.get(place as usize).map(|&slot| slot as usize)
    }

    /// The room that gives next: one of those that hold the most.
    pub fn largest(&mut self) -> Option<usize> {
        let class = (CLASSES - 1).checked_sub(self.occupied.leading_zeros() as usize)?;
        let rooms = &self.classes[class];
        self.turn = if self.turn + 1 < rooms.len() { self.turn + 1 } else { 0 };
        rooms.get(self.turn).map(|&slot| slot as usize)
    }
}

fn class_of(bytes: u64) -> Option<usize> {
    bytes.checked_ilog2().map(|class| class as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(bytes: &[u64]) -> (Shares, Slab<Share>) {
        let (mut shares, mut rooms) = (Shares::default(), Slab::new());
        for &bytes in bytes {
            let slot = rooms.insert(Share::default());
            shares.set(&mut rooms, slot, bytes);
        }
        (shares, rooms)
    }

    #[test]
    fn a_room_that_holds_the_most_gives_first() {
        let (mut shares, mut rooms) = rooms(&[10, 1_000, 100]);
        assert_eq!((shares.bytes(), shares.largest()), (1_110, Some(1)));
        shares.set(&mut rooms, 1, 50);
        assert_eq!((shares.bytes(), shares.largest()), (160, Some(2)));
        (0..3).for_each(|slot| shares.set(&mut rooms, slot, 0));
        assert_eq!((shares.bytes(), shares.largest()), (0, None));
    }

    #[test]
    fn a_flood_takes_from_itself_until_it_is_no_larger_than_the_others() {
        let (mut shares, mut rooms) = rooms(&[900, 1_000_000, 700]);
        while shares.bytes() > 2_650 {
            let slot = shares.largest().unwrap();
            let bytes = rooms[slot].bytes() - 100;
            shares.set(&mut rooms, slot, bytes);
        }
        assert_eq!((rooms[0].bytes(), rooms[2].bytes()), (900, 700));
        assert!(rooms[1].bytes() <= 1_050);
    }

    #[test]
    fn every_room_keeps_its_place_while_others_come_and_go() {
        let (mut shares, mut rooms) = rooms(&[0; 50]);
        let mut number = 7u64;
        for _ in 0..20_000 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (slot, bytes) = ((number >> 33) as usize % 50, (number >> 40) % 5_000);
            shares.set(&mut rooms, slot, bytes);
            let largest = rooms.iter().map(|(_, share)| share.bytes()).max().unwrap_or(0);
            assert_eq!(shares.bytes(), rooms.iter().map(|(_, share)| share.bytes()).sum::<u64>());
            if let Some(gives) = shares.largest() {
                assert!(rooms[gives].bytes() > largest / 2, "{gives} gives, and another holds {largest}");
            }
        }
        for (slot, share) in &rooms {
            if let Some(class) = class_of(share.bytes) {
                assert_eq!(shares.classes[class][share.place as usize], slot as u32);
            }
        }
    }
}
