//! A table that grows by pages and never moves: the places of a core's connections.
//!
//! Why not a `Vec`: one that doubles leaves its old half behind while it grows, and with 19,000 connections that was a
//! sixth of the memory of an idle one.

use std::ops::{Index, IndexMut};

/// Entries of a page.
const PAGE_ENTRIES: usize = 64;

/// The table.
#[derive(Debug)]
pub struct Table<T> {
    pages: Vec<Box<[T]>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { pages: Vec::new() }
    }
}

impl<T> Table<T> {
    /// Makes sure that there is an entry at that index.
    pub fn grow_to_hold(&mut self, index: usize, mut new_entry: impl FnMut() -> T) {
        while self.len() <= index {
            self.pages.push((0..PAGE_ENTRIES).map(|_| new_entry()).collect());
        }
    }

    /// Entries, whole pages of them.
    pub fn len(&self) -> usize {
        self.pages.len() * PAGE_ENTRIES
    }

    /// Whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The entry, if the table has grown so far.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.pages.get(index / PAGE_ENTRIES)?.get(index % PAGE_ENTRIES)
    }

    /// The entry, if the table has grown so far.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.pages.get_mut(index / PAGE_ENTRIES)?.get_mut(index % PAGE_ENTRIES)
    }

    /// Every entry in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten()
    }
}

impl<T> Index<usize> for Table<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.pages[index / PAGE_ENTRIES][index % PAGE_ENTRIES]
    }
}

impl<T> IndexMut<usize> for Table<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.pages[index / PAGE_ENTRIES][index % PAGE_ENTRIES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_while_the_table_grows() {
        let mut table = Table::default();
        assert!(table.is_empty() && table.get(0).is_none());
        table.grow_to_hold(0, || 0);
        table[0] = 7;
        table.grow_to_hold(PAGE_ENTRIES * 3, || 0);
        table.grow_to_hold(1, || 9);
        assert_eq!((table[0], table[1], table.len()), (7, 0, PAGE_ENTRIES * 4));
        *table.get_mut(PAGE_ENTRIES).unwrap() = 8;
        assert_eq!(table.iter().position(|&entry| entry == 8), Some(PAGE_ENTRIES));
        assert!(table.get_mut(PAGE_ENTRIES * 4).is_none());
    }
}
