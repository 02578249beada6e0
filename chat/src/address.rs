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

/// Partitions of the room space on a server of its own, and the most there may be in a cluster.
pub const PARTITIONS_MAX: u16 = 256;
/// The fewest there may be in a cluster.
pub const PARTITIONS_MIN: u16 = 16;

/// Which core has which room: room → partition → core. A partition is the top bits of the room's id, and can move between
/// machines as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    cores: u16,
    partitions: u16,
}

impl Placement {
    /// That of a server of its own.
    pub fn of_one_server(cores: u16) -> Self {
        Placement { cores: cores.max(1), partitions: PARTITIONS_MAX }
    }

    /// That of a machine of a cluster. `None`: there cannot be so many partitions.
    pub fn in_cluster(cores: u16, partitions: u16) -> Option<Self> {
        let is_possible = partitions.is_power_of_two() && (PARTITIONS_MIN..=PARTITIONS_MAX).contains(&partitions);
        is_possible.then_some(Placement { cores: cores.max(1), partitions })
    }

    /// How many cores there are.
    pub fn cores(self) -> u16 {
        self.cores
    }

    /// How many partitions there are.
    pub fn partitions(self) -> u16 {
        self.partitions
    }

    /// The partition of a room.
    pub fn partition_of(self, room: RoomId) -> u16 {
        (room.0 >> (u128::BITS - self.partitions.trailing_zeros())) as u16
    }

    /// The core that has a partition, on the machine that owns it.
    pub fn core_with(self, partition: u16) -> Core {
        Core(partition % self.cores)
    }

    /// The core that owns a room, on the machine that owns its partition.
    pub fn core_of(self, room: RoomId) -> Core {
        self.core_with(self.partition_of(room))
    }

    /// The core that counts a user's connections: placed as a room of that name would be.
    pub fn home_of(self, user: UserId) -> Core {
        self.core_of(RoomId(user.0))
    }
}

/// The core that owns a room on a server of its own.
pub fn core_of(room: RoomId, cores: u16) -> Core {
    Placement::of_one_server(cores).core_of(room)
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

    #[test]
    fn a_partition_is_the_top_bits_of_a_room_and_256_of_them_are_where_they_always_were() {
        let room = RoomId(0xabcd << 112);
        assert_eq!(Placement::of_one_server(7).core_of(room), Core(0xab % 7));
        for (partitions, partition) in [(16, 0xa), (32, 0xab >> 3), (64, 0xab >> 2), (128, 0xab >> 1), (256, 0xab)] {
            let placement = Placement::in_cluster(7, partitions).unwrap();
            assert_eq!((placement.partition_of(room), placement.core_of(room)), (partition, Core(partition % 7)));
            assert!(
                placement.partition_of(RoomId(u128::MAX)) == partitions - 1 && placement.partition_of(RoomId(0)) == 0
            );
            assert_eq!(placement.home_of(UserId(room.0)), placement.core_of(room));
        }
    }

    #[test]
    fn there_are_from_16_to_256_partitions_and_a_power_of_two_of_them() {
        assert!([0, 1, 8, 17, 100, 255, 257, 512].iter().all(|&it| Placement::in_cluster(1, it).is_none()));
        assert_eq!(Placement::in_cluster(0, 16).unwrap().cores(), 1, "a machine has a core");
    }
}
