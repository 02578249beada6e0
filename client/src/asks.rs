//! The pages and lists of members that were asked and not answered: numbered, bounded in count.

use std::collections::BTreeMap;
use std::time::Duration;

use banter_protocol::ids::{NameFault, RoomName};
use banter_protocol::request::{Ask, FetchFrom};

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

/// What is asked of a room.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    Page { from: FetchFrom, limit: Option<u64> },
    Members,
}

impl Wanted {
    pub(crate) fn of(self, room: &RoomName) -> Ask<'_> {
        let room = room.as_str().into();
        match self {
            Wanted::Page { from, limit } => Ask::Fetch { room, from, limit },
            Wanted::Members => Ask::Members { room },
        }
    }
}

#[derive(Debug)]
struct Waiting {
    room: RoomName,
    wanted: Wanted,
    /// The server could not answer it for now: it is asked again then.
    again_at: Option<Duration>,
}

/// The asks that the present connection has not answered.
#[derive(Debug)]
pub(crate) struct Asks {
    waiting: BTreeMap<AskId, Waiting>,
    asks_max: usize,
}

impl Asks {
    pub(crate) fn new(asks_max: usize) -> Self {
        Asks { waiting: BTreeMap::new(), asks_max }
    }

    pub(crate) fn check_space(&self) -> Result<(), AskRefusal> {
        let asks_max = self.asks_max;
        if self.waiting.len() < asks_max { Ok(()) } else { Err(AskRefusal::FullOfAsks { asks_max }) }
    }

    pub(crate) fn add(&mut self, ask: AskId, room: RoomName, wanted: Wanted) {
        self.waiting.insert(ask, Waiting { room, wanted, again_at: None });
    }

    /// Which room it is about. None where nobody asked that, or it was answered.
    pub(crate) fn room_of(&self, ask: AskId) -> Option<&RoomName> {
        self.waiting.get(&ask).map(|waiting| &waiting.room)
    }

    /// It was answered. False where nobody asked that.
    pub(crate) fn remove(&mut self, ask: AskId) -> bool {
        self.waiting.remove(&ask).is_some()
    }

    /// It is to be asked again then. False where nobody asked that.
    pub(crate) fn put_off(&mut self, ask: AskId, until: Duration) -> bool {
        let found = self.waiting.get_mut(&ask);
        found.map(|waiting| waiting.again_at = Some(until)).is_some()
    }

    /// When the next one is to be asked again.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.waiting.values().filter_map(|waiting| waiting.again_at).min()
    }

    /// One that is to be asked again by now, which is under way from here on.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<(AskId, RoomName, Wanted)> {
        let is_due = |waiting: &Waiting| waiting.again_at.is_some_and(|at| at <= now);
        let (ask, waiting) = self.waiting.iter_mut().find(|(_, waiting)| is_due(waiting))?;
        waiting.again_at = None;
        Some((*ask, waiting.room.clone(), waiting.wanted))
    }

    /// The connection is gone: the asks that it did not answer, oldest first.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = AskId> {
        std::mem::take(&mut self.waiting).into_keys()
    }
}
