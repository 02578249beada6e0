//! Sealed segments whose index is on its way to the disk: the builder stays in memory, and readings are served from it,
//! until the catalog knows of every room where its marks and keys lie.
//!
//! Invariants:
//! - As long as a span says no place in an index file, there is a builder of its segment: the one that is written to, or
//!   one in here.
//! - A builder and its parts are as large as the segment has rooms, so the core neither encodes nor frees them: both is
//!   done on a thread that nobody waits for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::index::{IndexBuilder, Part};
use crate::journal::Ask;

/// The indexes on their way.
#[derive(Debug, Default)]
pub struct Indexing {
    builders: BTreeMap<u64, Arc<IndexBuilder>>,
    /// Those that are on the disk, and what the catalog has yet to be told of them.
    written: VecDeque<Written>,
}

#[derive(Debug)]
struct Written {
    segment: u64,
    parts: Vec<Part>,
    told_count: usize,
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

    /// An index is on the disk, with these parts; or its segment went before it, and there are none.
    pub(crate) fn is_written(&mut self, segment: u64, parts: Vec<Part>) {
        self.written.push_back(Written { segment, parts, told_count: 0 });
    }

    /// Whether the catalog is to be told of something.
    pub fn has_written(&self) -> bool {
        !self.written.is_empty()
    }

    /// Tells the catalog where parts lie, one at each step, and has a builder let go behind the last of them. Returns the
    /// steps that were taken.
    pub(crate) fn tell(&mut self, catalog: &mut Catalog, steps_max: usize, asks: &mut Vec<Ask>) -> usize {
        let mut steps = 0;
        while steps < steps_max
            && let Some(written) = self.written.front_mut()
        {
            steps += 1;
            if let Some(part) = written.parts.get(written.told_count) {
                written.told_count += 1;
                catalog.part_is_indexed(written.segment, part);
            } else {
                asks.extend(self.let_go());
            }
        }
        steps
    }

    fn let_go(&mut self) -> Option<Ask> {
        let Written { segment, parts, .. } = self.written.pop_front()?;
        let index = self.builders.remove(&segment)?;
        Some(Ask::LetGo { index, parts })
    }
}

#[cfg(test)]
mod tests;
