//! Rooms that nobody reads, the longest idle first: a list through the rooms themselves, so that one that is joined again
//! leaves it at once, and no step looks at more than its neighbours.

use slab::Slab;

/// A room's place in the list; kept by the room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    before: Option<u32>,
    behind: Option<u32>,
    is_linked: bool,
}

/// The ends of the list.
#[derive(Debug, Default)]
pub struct IdleList {
    first: Option<u32>,
    last: Option<u32>,
}

impl IdleList {
    /// The room that has been in the list the longest.
    pub fn first(&self) -> Option<usize> {
        self.first.map(|slot| slot as usize)
    }

    /// Adds a room at the end; one that is there stays where it is.
    pub fn push<R: AsMut<Link>>(&mut self, rooms: &mut Slab<R>, slot: usize) {
        let Some(link) = rooms.get_mut(slot).map(R::as_mut).filter(|link| !link.is_linked) else { return };
        let slot = slot as u32;
        *link = Link { before: self.last, behind: None, is_linked: true };
        let before = self.last.replace(slot);
        self.set_behind(rooms, before, Some(slot));
    }

    /// Takes a room out, if it is there.
    pub fn remove<R: AsMut<Link>>(&mut self, rooms: &mut Slab<R>, slot: usize) {
        let Some(link) = rooms.get_mut(slot).map(R::as_mut).filter(|link| link.is_linked) else { return };
        let Link { before, behind, .. } = std::mem::take(link);
        self.set_behind(rooms, before, behind);
        match behind.and_then(|behind| rooms.get_mut(behind as usize)) {
            Some(room) => room.as_mut().before = before,
            None => self.last = before,
        }
    }

    fn set_behind<R: AsMut<Link>>(&mut self, rooms: &mut Slab<R>, before: Option<u32>, behind: Option<u32>) {
        match before.and_then(|before| rooms.get_mut(before as usize)) {
            Some(room) => room.as_mut().behind = behind,
            None => self.first = behind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl AsMut<Link> for Link {
        fn as_mut(&mut self) -> &mut Link {
            self
        }
    }

    fn drained(list: &mut IdleList, rooms: &mut Slab<Link>) -> Vec<usize> {
        std::iter::from_fn(|| {
            let first = list.first()?;
            list.remove(rooms, first);
            Some(first)
        })
        .collect()
    }

    #[test]
    fn the_longest_idle_comes_first_and_one_that_is_joined_leaves() {
        let (mut list, mut rooms) = (IdleList::default(), Slab::new());
        for _ in 0..6 {
            let slot = rooms.insert(Link::default());
            list.push(&mut rooms, slot);
            list.push(&mut rooms, slot);
        }
        for joined in [0, 3, 5, 5] {
            list.remove(&mut rooms, joined);
        }
        list.push(&mut rooms, 3);
        assert_eq!(drained(&mut list, &mut rooms), [1, 2, 4, 3]);
        assert_eq!((list.first(), list.last), (None, None));
        list.push(&mut rooms, 2);
        assert_eq!(drained(&mut list, &mut rooms), [2]);
    }
}
