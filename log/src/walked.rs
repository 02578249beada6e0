//! The rooms of a segment whose blocks are walked, one after another: the index that they make.

use std::collections::HashMap;

use banter_protocol::ids::RoomId;

use crate::block::Block;
use crate::index::{Chain, Entry, IndexBuilder, Opening};

/// The rooms of a segment that is being walked.
#[derive(Debug, Default)]
pub struct WalkedRooms {
    /// What its blocks make until now. What a room has in earlier segments is not known of it.
    pub index: IndexBuilder,
    /// A room's id is a hash that costs more than the rest of its message.
    ids: HashMap<Box<str>, RoomId>,
}

impl WalkedRooms {
    /// Takes a block's messages; `false`: one of them is none of this format.
    pub fn take(&mut self, block: &Block<'_>) -> bool {
        for (offset, record) in block.placed_records() {
            let ids = &mut self.ids;
            let id_of = |room: &str| match ids.get(room) {
                Some(&id) => id,
                None => *ids.entry(room.into()).or_insert_with(|| RoomId::of(room)),
            };
            let Some((entry, room)) = record.ok().and_then(|record| Entry::read(&record, id_of)) else { return false };
            self.index.add(&entry, offset, || Opening { name: room.into(), chain: Chain::default() });
        }
        true
    }
}
