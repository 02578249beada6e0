//! Sealed segments whose index is on its way to the disk: the builder stays in memory, and readings are served from it,
//! until it is there.
//!
//! Invariants:
//! - A segment that is known and whose index is not on the disk has a builder: the one that is written to, or one in here.
//! - A builder is as large as the segment has rooms, so the core neither encodes nor frees it: both is done on a thread that
//!   nobody waits for.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::index::IndexBuilder;

/// The indexes on their way.
#[derive(Debug, Default)]
pub struct Indexing {
    builders: BTreeMap<u64, Arc<IndexBuilder>>,
}

impl Indexing {
    /// A segment is sealed.
    pub(crate) fn begin(&mut self, segment: u64, index: Arc<IndexBuilder>) {
        self.builders.insert(segment, index);
    }

    /// A segment's index, while it is here.
    pub fn index_of(&self, segment: u64) -> Option<&IndexBuilder> {
        self.builders.get(&segment).map(Arc::as_ref)
    }

    /// An index is on the disk, or its segment is gone: it is to be dropped where nobody waits.
    pub(crate) fn end(&mut self, segment: u64) -> Option<Arc<IndexBuilder>> {
        self.builders.remove(&segment)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.builders.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.builders.is_empty()
    }
}

#[cfg(test)]
mod tests;
