//! What was read of the engine lately, the least recently used going first above so many bytes.
//!
//! Invariant: what is in here does not change in the engine: a message is what it is for good, and a piece of an object is forgotten
//! here when another is put in its place.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::engine::{ObjectKind, ObjectName, Partition};

/// What something is kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A message of a partition's stream.
    Message(Partition, u64),
    /// A piece of an object.
    Piece(ObjectName),
}

/// Bytes that an entry takes beside its own.
const ENTRY_BYTES: u64 = 128;

/// The cache of a node.
#[derive(Debug)]
pub struct EngineCache {
    kept: BTreeMap<Key, (Bytes, u64)>,
    order: BTreeMap<u64, Key>,
    uses: u64,
    bytes: u64,
    bytes_max: u64,
}

impl EngineCache {
    /// One that holds so many bytes at most.
    pub fn new(bytes_max: u64) -> Self {
        EngineCache { kept: BTreeMap::new(), order: BTreeMap::new(), uses: 0, bytes: 0, bytes_max }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is kept by that key.
    pub fn get(&mut self, key: Key) -> Option<Bytes> {
        let (bytes, used) = self.kept.get_mut(&key)?;
        self.order.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.order.insert(self.uses, key);
        Some(bytes.clone())
    }

    /// Keeps it.
    pub fn keep(&mut self, key: Key, bytes: Bytes) {
        self.forget(key);
        self.uses += 1;
        self.bytes += bytes.len() as u64 + ENTRY_BYTES;
        self.kept.insert(key, (bytes, self.uses));
        self.order.insert(self.uses, key);
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.forget(oldest);
        }
    }

    /// Forgets the pieces of an object.
    pub fn forget_object(&mut self, partition: Partition, kind: ObjectKind) {
        let piece = |piece| Key::Piece(ObjectName { partition, kind, piece });
        let keys: Vec<Key> = self.kept.range(piece(0)..=piece(u32::MAX)).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.forget(key));
    }

    /// Forgets what is kept by that key.
    pub fn forget(&mut self, key: Key) {
        if let Some((bytes, used)) = self.kept.remove(&key) {
            self.bytes -= bytes.len() as u64 + ENTRY_BYTES;
            self.order.remove(&used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_the_longest_goes_first_and_the_bytes_are_bounded() {
        let mut cache = EngineCache::new(3 * (100 + ENTRY_BYTES));
        let key = |sequence| Key::Message(Partition(1), sequence);
        for sequence in 1..=3 {
            cache.keep(key(sequence), Bytes::from(vec![0; 100]));
        }
        assert!(cache.get(key(1)).is_some());
        cache.keep(key(4), Bytes::from(vec![0; 100]));
        assert_eq!([1, 2, 3, 4].map(|sequence| cache.get(key(sequence)).is_some()), [true, false, true, true]);
        assert_eq!(cache.bytes(), 3 * (100 + ENTRY_BYTES));
        cache.keep(key(5), Bytes::from(vec![0; 5_000]));
        assert_eq!((cache.bytes(), cache.get(key(5))), (0, None), "what is larger than all is not kept");
    }

    #[test]
    fn an_objects_pieces_go_together_and_leave_others_alone() {
        let mut cache = EngineCache::new(10_000);
        let name = |segment, piece| ObjectName { partition: Partition(1), kind: ObjectKind::Index { segment }, piece };
        for name in [name(7, 0), name(7, 1), name(8, 0)] {
            cache.keep(Key::Piece(name), Bytes::from_static(b"x"));
        }
        cache.forget_object(Partition(1), ObjectKind::Index { segment: 7 });
        assert!(cache.get(Key::Piece(name(7, 1))).is_none() && cache.get(Key::Piece(name(8, 0))).is_some());
    }
}
