//! The limits that refuse somebody something, by name: whose each is, which of them only count, and how often each did.
//!
//! Invariant: a limit in [`DryRun`] refuses nobody, and is counted where it would have.

use std::fmt;

use banter_protocol::error_code::Scope;

/// Makes [`Limit`] of its lines: variant, name in the configuration, scope.
macro_rules! limits {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $scope:ident;)*) => {
        /// A limit that refuses. Sizes and times are none: what is too large or too late cannot be let pass for a try.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Limit {
            $($(#[$doc])* $variant),*
        }

        impl Limit {
            /// Every one, in the order of its number.
            pub const ALL: &[Limit] = &[$(Limit::$variant),*];

            /// Its key in `[limits]`; one of another table with that table's name ahead.
            pub fn name(self) -> &'static str {
                match self { $(Limit::$variant => $name),* }
            }

            /// Whose share it is.
            pub fn scope(self) -> Scope {
                match self { $(Limit::$variant => Scope::$scope),* }
            }
        }
    };
}

limits! {
    /// Connections of the server.
    Connections = "connections_max", Server;
    /// Connections of the server that have not said who they are.
    ConnectionsUnproved = "connections_unproved_max", Server;
    /// Connections of the server that are guests.
    Guests = "guests_max", Server;
    /// Connections of an address.
    ConnectionsPerIp = "connections_per_ip_max", Ip;
    /// Connections of a user: the one that is refused is its oldest.
    ConnectionsPerUser = "connections_per_user_max", User;
    /// New connections of an address.
    ConnectsPerIp = "connects_per_second_per_ip_max", Ip;
    /// Tokens of an address that prove nothing.
    AuthFailuresPerIp = "auth_failures_per_minute_per_ip_max", Ip;
    /// Rooms that a connection reads.
    Rooms = "rooms_per_connection_max", Connection;
    /// Posts of a connection.
    Posts = "posts_per_second_max", Connection;
    /// Posts of a guest's connection.
    GuestPosts = "guest_posts_per_second_max", Connection;
    /// Signals of a connection.
    Signals = "signals_per_second_max", Connection;
    /// Joins of a connection.
    Joins = "joins_per_second_max", Connection;
    /// Fetches of a connection.
    Fetches = "fetches_per_second_max", Connection;
    /// Asks of a connection for members.
    Members = "members_per_second_max", Connection;
    /// Signals that a room passes on.
    RoomSignals = "signals_per_room_per_second_max", Room;
    /// Posts that a room takes, by its entry in `[[rooms]]`.
    RoomPosts = "rooms.posts_per_second_max", Room;
}

const LIMITS: usize = Limit::ALL.len();

impl Limit {
    /// The limit of that key.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|limit| limit.name() == name)
    }
}

/// The limits that only count.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct DryRun(u32);

const _: () = assert!(LIMITS <= u32::BITS as usize, "a bit each");

impl DryRun {
    /// That limit, too.
    #[must_use]
    pub fn with(self, limit: Limit) -> Self {
        DryRun(self.0 | 1 << limit as u8)
    }

    /// Whether the limit only counts.
    pub fn holds(self, limit: Limit) -> bool {
        self.0 & (1 << limit as u8) != 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Limit> {
        Limit::ALL.iter().copied().filter(move |limit| self.holds(*limit))
    }
}

impl fmt::Debug for DryRun {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}

/// How often each limit refused, or would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitCounts {
    refused: [u64; LIMITS],
    only_counted: [u64; LIMITS],
}

impl LimitCounts {
    /// A limit is reached: counts it, and says whether that is a refusal.
    #[must_use]
    pub fn refuses(&mut self, limit: Limit, dry_run: DryRun) -> bool {
        let is_enforced = !dry_run.holds(limit);
        let counts = if is_enforced { &mut self.refused } else { &mut self.only_counted };
        counts[limit as usize] += 1;
        is_enforced
    }

    /// Times that it refused.
    pub fn refused(&self, limit: Limit) -> u64 {
        self.refused[limit as usize]
    }

    /// Times that it would have, and let pass.
    pub fn only_counted(&self, limit: Limit) -> u64 {
        self.only_counted[limit as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_found_by_its_name_and_no_two_have_one() {
        for &limit in Limit::ALL {
            assert_eq!(Limit::from_name(limit.name()), Some(limit));
        }
        assert_eq!(Limit::from_name("frame_bytes_max"), None, "a size is nothing to be let pass");
    }

    #[test]
    fn a_limit_that_only_counts_refuses_nobody_and_the_others_do() {
        let dry_run = DryRun::default().with(Limit::Posts).with(Limit::RoomSignals);
        let mut counts = LimitCounts::default();
        for &limit in Limit::ALL {
            let is_dry = matches!(limit, Limit::Posts | Limit::RoomSignals);
            assert_eq!((counts.refuses(limit, dry_run), dry_run.holds(limit)), (!is_dry, is_dry));
            assert_eq!(counts.refused(limit), u64::from(!is_dry));
            assert_eq!(counts.only_counted(limit), u64::from(is_dry));
        }
        assert_eq!(dry_run.iter().collect::<Vec<_>>(), [Limit::Posts, Limit::RoomSignals]);
    }
}
