//! Who is where: cores, connections, subscriptions, and the time of a turn.

use banter_protocol::ids::{RoomId, UserName};

/// A core, by its place among the server's cores (not the CPU's number).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Core(pub u16);

impl Core {
    /// As an index.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// A connection on its core. A slot is used again, a generation never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Its place in the core's tables.
    pub slot: u32,
    /// Which of the connections that had the slot.
    pub generation: u32,
}

/// A connection anywhere in the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// The core that owns the connection.
    pub core: Core,
    /// The connection there.
    pub connection: ConnectionId,
}

/// One connection's reading of one room, on the connection's core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId {
    /// Its place in the core's table.
    pub slot: u32,
    /// Which join it stands for: an answer to an older one is nobody's.
    pub join: u32,
}

/// The time of a turn: read once, from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since some moment, never going back: for deadlines.
    pub monotonic_ms: u64,
    /// The same moment in microseconds: for durations that are measured, since a turn is shorter than a millisecond.
    pub monotonic_us: u64,
    /// Milliseconds since 1970: for people.
    pub unix_ms: u64,
}

/// Partitions of the room space; fixed, so that a partition can later move between machines.
pub const PARTITIONS: u16 = 256;

/// The core that owns a room: room → partition → core.
pub fn core_of(room: RoomId, cores: u16) -> Core {
    let partition = (room.0 >> 120) as u16;
    debug_assert!(partition < PARTITIONS);
    Core(partition % cores)
}

/// The first 128 bits of BLAKE3 of a user's name: what a user is known by on the core that counts its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserId(pub u128);

impl UserId {
    /// The id of that user.
    pub fn of(user: &UserName) -> Self {
        UserId(RoomId::of(user.as_str()).0)
    }
}

/// The core that counts a user's connections: placed as a room of that name would be.
pub fn home_of(user: UserId, cores: u16) -> Core {
    core_of(RoomId(user.0), cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_spread_over_all_cores() {
        for cores in [1, 2, 3, 8] {
            let mut rooms = vec![0; usize::from(cores)];
            for number in 0..8_000 {
                rooms[core_of(RoomId::of(&format!("room-{number}")), cores).index()] += 1;
            }
            let fair = 8_000 / rooms.len();
            assert!(rooms.iter().all(|&rooms| rooms > fair * 8 / 10 && rooms < fair * 12 / 10), "{cores}: {rooms:?}");
        }
    }
}
