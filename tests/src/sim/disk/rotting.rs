//! What time makes of the simulated disk: bits that turn.

use banter_log::PAGE_BYTES;
use banter_log::block::HEADER_BYTES;

use super::SimDisk;
use crate::seeded::Seeded;
use crate::sim::coverage::Coverage;

impl SimDisk {
    /// A sealed segment rots, by chance.
    pub fn rot(&mut self, chance: &mut Seeded, seen: &mut Coverage) {
        if !self.happens(self.faults.rot_once_in, chance) {
            return;
        }
        // One whose index is on the disk: no start reads it through.
        let mut sealed: Vec<_> = self.segments.values_mut().filter(|segment| segment.index.is_some()).collect();
        let at = chance.below(sealed.len());
        if let Some(segment) = sealed.get_mut(at) {
            segment.rot(chance);
            self.rotten.extend(segment.is_rotten.then_some(segment.header.id));
            seen.saw_times("segment rotten", u64::from(segment.is_rotten));
        }
    }

    /// What was not sealed rots, by chance, while no server runs: a block that is proved by a later one, or, on the same boot,
    /// is followed by one.
    pub fn rot_unsealed(&mut self, is_same_boot: bool, chance: &mut Seeded, seen: &mut Coverage) {
        if !self.happens(self.faults.rot_unsealed_once_in, chance) {
            return;
        }
        let mut found = Vec::new();
        for segment in self.segments.values().filter(|segment| segment.index.is_none()) {
            let blocks = segment.blocks();
            for (number, block) in blocks.iter().enumerate() {
                let mut later = blocks[number + 1..].iter();
                let is_proved = later.clone().any(|later| later.synced as usize > number);
                if is_proved || (is_same_boot && later.next().is_some()) {
                    found.push((segment.header.id, block.start, block.body_bytes, is_proved));
                }
            }
        }
        let Some(&(id, start, body_bytes, is_proved)) = found.get(chance.below(found.len())) else { return };
        let Some(segment) = self.segments.get_mut(&id) else { return };
        super::flip(&mut segment.written[start..start + HEADER_BYTES + body_bytes], chance);
        segment.synced.clone_from(&segment.written);
        self.rotten.insert(id);
        self.damaged_unsealed.insert(id);
        seen.saw(if is_proved { "proved block of an unsealed segment rotten" } else { "followed block rotten" });
        debug_assert!(start >= PAGE_BYTES, "behind the header");
    }

    /// Whether a start has to find damage: in what is not sealed.
    pub fn has_damage_to_find(&self) -> bool {
        !self.damaged_unsealed.is_empty()
    }
}
