//! The logs of a core: none, the one of a server of its own, or one for each partition of the rooms that this machine has.
//!
//! Which rooms go to which log follows from their ids alone. A log of a partition is open or closed: who owns the partition
//! writes it, and nobody else.
//!
//! Invariants:
//! - A log that is looked at to be changed is in `Logs::awake` until its asks are taken, and longer where there is more to do
//!   by itself. So no turn walks logs in which nothing happens.
//! - Tickets of readings are a journal's own: beside a ticket stands the log that gave it (`Reading`).

use banter_log::journal::{Ask, Journal, JournalParts};
use banter_protocol::ids::RoomId;

use crate::address::Placement;

/// A log of a core, by its number: in a cluster that of its partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u16);

impl LogId {
    /// The only log of a core of a server of its own.
    pub const LOCAL: LogId = LogId(0);

    /// As an index.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// Something that is being read from a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reading {
    pub(crate) log: LogId,
    pub(crate) ticket: u32,
}

/// Which logs a core has.
#[derive(Debug)]
pub enum LogConfig {
    /// None: no room goes to one.
    None,
    /// One, on the server's own disk.
    Local(Box<JournalParts>),
    /// One for each partition of this core. All of them are closed until they are opened.
    Partitions {
        /// Milliseconds that a post waits for its commit before it is answered that its outcome is unknown.
        hold_ms: u32,
    },
}

impl LogConfig {
    /// One on the server's own disk.
    pub fn local(parts: JournalParts) -> Self {
        LogConfig::Local(Box::new(parts))
    }

    /// When the core's clock starts at the earliest, where a log says so.
    pub(crate) fn start_ms(&self) -> Option<u64> {
        match self {
            LogConfig::Local(parts) => parts.catalog.runs().start_ms(),
            LogConfig::None | LogConfig::Partitions { .. } => None,
        }
    }

    /// How long a post waits for its commit; none: as long as that takes.
    pub(crate) fn hold_ms(&self) -> Option<u64> {
        match self {
            LogConfig::Partitions { hold_ms } => Some((*hold_ms).into()),
            LogConfig::None | LogConfig::Local(_) => None,
        }
    }
}

/// The logs of a core.
#[derive(Debug)]
pub struct Logs {
    /// Where rooms lie, if there is a log for each partition.
    partitions: Option<Placement>,
    /// By their numbers; none: closed.
    journals: Vec<Option<Box<Journal>>>,
    /// Those that are open, in no order.
    open: Vec<LogId>,
    /// Those in which something happened, each once.
    awake: Vec<LogId>,
    is_awake: Vec<bool>,
}

impl Logs {
    /// As they are at the start.
    pub fn new(config: LogConfig, placement: Placement) -> Self {
        let (partitions, journal, count) = match config {
            LogConfig::None => (None, None, 0),
            LogConfig::Local(parts) => (None, Some(*parts), 1),
            LogConfig::Partitions { .. } => (Some(placement), None, placement.partitions().into()),
        };
        let (journals, is_awake) = ((0..count).map(|_| None).collect(), vec![false; count]);
        let mut logs = Logs { partitions, journals, open: Vec::new(), awake: Vec::new(), is_awake };
        if let Some(parts) = journal {
            logs.put(LogId::LOCAL, parts);
        }
        logs
    }

    /// The log that a room would go to.
    pub fn id_of(&self, room: RoomId) -> LogId {
        self.partitions.map_or(LogId::LOCAL, |placement| LogId(placement.partition_of(room)))
    }

    /// Whether a room has no owner here: its log is closed.
    pub fn is_closed_to(&self, room: RoomId) -> bool {
        self.partitions.is_some_and(|placement| self.get(LogId(placement.partition_of(room))).is_none())
    }

    /// The log of a room, if it is open.
    pub fn of(&self, room: RoomId) -> Option<&Journal> {
        self.get(self.id_of(room))
    }

    /// The log of a room, to be changed or asked something.
    pub fn of_mut(&mut self, room: RoomId) -> Option<&mut Journal> {
        self.get_mut(self.id_of(room))
    }

    /// The log of that number, if it is open.
    pub fn get(&self, log: LogId) -> Option<&Journal> {
        self.journals.get(log.index())?.as_deref()
    }

    /// The log of that number, to be changed or asked something.
    pub fn get_mut(&mut self, log: LogId) -> Option<&mut Journal> {
        self.wake(log);
        self.journals.get_mut(log.index())?.as_deref_mut()
    }

    /// Whether there is one for each partition.
    pub(crate) fn are_partitions(&self) -> bool {
        self.partitions.is_some()
    }

    /// The log of a server of its own.
    pub fn local(&self) -> Option<&Journal> {
        self.get(LogId::LOCAL).filter(|_| self.partitions.is_none())
    }

    /// Those that are open.
    pub fn iter(&self) -> impl Iterator<Item = (LogId, &Journal)> {
        self.open.iter().filter_map(|&log| Some((log, self.get(log)?)))
    }

    /// How many numbers there are.
    pub(crate) fn count(&self) -> usize {
        self.journals.len()
    }

    /// Whether there is a log for each partition, and that is one.
    pub(crate) fn is_partition(&self, log: LogId) -> bool {
        self.partitions.is_some() && log.index() < self.journals.len()
    }

    /// Opens a closed one.
    pub(crate) fn put(&mut self, log: LogId, parts: JournalParts) {
        if let Some(place) = self.journals.get_mut(log.index()) {
            *place = Some(Box::new(Journal::new(parts)));
            self.open.push(log);
            self.wake(log);
        }
    }

    /// Closes one. What it has asked is asked no more.
    pub(crate) fn take(&mut self, log: LogId) -> Option<Box<Journal>> {
        let journal = self.journals.get_mut(log.index())?.take()?;
        self.open.retain(|&open| open != log);
        Some(journal)
    }

    /// Something happens in it: it is looked at in this turn.
    pub(crate) fn wake(&mut self, log: LogId) {
        if let Some(is_awake) = self.is_awake.get_mut(log.index())
            && !std::mem::replace(is_awake, true)
        {
            self.awake.push(log);
        }
    }

    /// Those in which something happened since their asks were taken. More may come while these are looked at.
    pub(crate) fn awake(&self) -> &[LogId] {
        &self.awake
    }

    /// Whether one of them has something that takes several turns.
    pub fn has_work(&self) -> bool {
        self.awake.iter().any(|&log| self.get(log).is_some_and(Journal::has_work))
    }

    /// What they ask, each in its order. What happened in them is looked at by now.
    pub(crate) fn take_asks(&mut self) -> Vec<(LogId, Ask)> {
        let mut asks = Vec::new();
        self.awake.retain(|&log| {
            let journal = self.journals[log.index()].as_deref_mut();
            let has_work = journal.is_some_and(|journal| {
                asks.extend(journal.asks_mut().drain(..).map(|ask| (log, ask)));
                journal.has_work()
            });
            self.is_awake[log.index()] = has_work;
            has_work
        });
        asks
    }

    /// Ends all that are open. `false`: one failed, or a commit is still in flight.
    pub(crate) fn end(&mut self) -> bool {
        let mut is_ended = true;
        for at in 0..self.open.len() {
            let log = self.open[at];
            is_ended &= self.get_mut(log).is_none_or(Journal::end);
        }
        is_ended
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use banter_log::catalog::Catalog;

    use super::*;

    fn parts() -> JournalParts {
        JournalParts {
            run: 1,
            commit_bytes_max: 1 << 16,
            reads_max: 1,
            work_steps_max: 1,
            cache_bytes_max: 0,
            catalog: Catalog::default(),
            indexes: BTreeMap::new(),
        }
    }

    /// A room of that partition, of 16.
    fn room(partition: u128) -> RoomId {
        RoomId(partition << 124 | 77)
    }

    #[test]
    fn a_server_of_its_own_has_one_log_for_all_rooms_and_none_is_closed_to_them() {
        let placement = Placement::of_one_server(4);
        let none = Logs::new(LogConfig::None, placement);
        assert!(none.of(room(3)).is_none() && !none.is_closed_to(room(3)) && none.local().is_none());
        let local = Logs::new(LogConfig::local(parts()), placement);
        assert_eq!((local.id_of(room(0)), local.id_of(room(15))), (LogId::LOCAL, LogId::LOCAL));
        assert!(local.of(room(9)).is_some() && local.local().is_some() && !local.is_closed_to(room(9)));
    }

    #[test]
    fn a_partition_has_a_log_of_its_own_that_is_open_or_closed() {
        let placement = Placement::in_cluster(1, 16).unwrap();
        let mut logs = Logs::new(LogConfig::Partitions { hold_ms: 1 }, placement);
        assert!((0..16).all(|partition| logs.is_closed_to(room(partition))) && logs.local().is_none());
        logs.put(LogId(3), parts());
        assert!(!logs.is_closed_to(room(3)) && logs.is_closed_to(room(4)) && logs.local().is_none());
        assert_eq!(logs.iter().map(|(log, _)| log).collect::<Vec<_>>(), [LogId(3)]);
        assert!(logs.take(LogId(3)).is_some() && logs.is_closed_to(room(3)) && logs.iter().next().is_none());
        assert!(logs.take(LogId(3)).is_none() && logs.take(LogId(16)).is_none());
        logs.put(LogId(3), parts());
        assert_eq!(logs.iter().count(), 1, "once, however often it was open");
        logs.put(LogId(16), parts());
        assert!(logs.get_mut(LogId(16)).is_none() && logs.awake().iter().all(|&log| log != LogId(16)));
    }

    #[test]
    fn only_a_log_in_which_something_happened_is_looked_at_for_what_it_asks() {
        let placement = Placement::in_cluster(1, 16).unwrap();
        let mut logs = Logs::new(LogConfig::Partitions { hold_ms: 1 }, placement);
        logs.put(LogId(3), parts());
        logs.put(LogId(5), parts());
        assert_eq!(logs.take_asks().iter().map(|(log, _)| *log).collect::<Vec<_>>(), [LogId(3), LogId(5)]);
        assert!(logs.awake().is_empty());
        logs.get_mut(LogId(5));
        logs.wake(LogId(5));
        assert_eq!(logs.awake(), [LogId(5)]);
        assert!(logs.take_asks().is_empty() && logs.awake().is_empty(), "it asked nothing");
    }
}
