//! The pages and lists of members that were asked and not answered: numbered, bounded in count.

use std::collections::BTreeMap;

use banter_protocol::ids::{NameFault, RoomName};

/// The number of an ask within its session, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// Why an ask was not taken. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskRefusal {
    /// `asks_in_flight_max` asks wait for their answers.
    #[error("{asks_max} asks wait for their answers (asks_in_flight_max)")]
    FullOfAsks {
        /// The limit.
        asks_max: usize,
    },
    /// The room's name breaks the rules of names.
    #[error("the name cannot be used: {0}")]
    Name(#[from] NameFault),
    /// There is no connection, and an ask does not wait for one.
    #[error("there is no connection")]
    NotConnected,
    /// The session has ended for good.
    #[error("the session has ended")]
    Ended,
}

/// The asks that the present connection has not answered, each with its room.
#[derive(Debug)]
pub(crate) struct Asks {
    rooms: BTreeMap<AskId, RoomName>,
    asks_max: usize,
}

impl Asks {
    pub(crate) fn new(asks_max: usize) -> Self {
        Asks { rooms: BTreeMap::new(), asks_max }
    }

    pub(crate) fn check_space(&self) -> Result<(), AskRefusal> {
        let asks_max = self.asks_max;
        if self.rooms.len() < asks_max { Ok(()) } else { Err(AskRefusal::FullOfAsks { asks_max }) }
    }

    pub(crate) fn add(&mut self, ask: AskId, room: RoomName) {
        self.rooms.insert(ask, room);
    }

    /// Which room it is about. None where nobody asked that, or it was answered.
    pub(crate) fn room_of(&self, ask: AskId) -> Option<&RoomName> {
        self.rooms.get(&ask)
    }

    /// It was answered. False where nobody asked that.
    pub(crate) fn remove(&mut self, ask: AskId) -> bool {
        self.rooms.remove(&ask).is_some()
    }

    /// The connection is gone: the asks that it did not answer, oldest first.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = AskId> {
        std::mem::take(&mut self.rooms).into_keys()
    }
}
