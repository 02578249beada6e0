//! What a session can be told: who it is, its limits, its waits, and how a room is read.

use std::time::Duration;

use banter_protocol::ids::{FeatureName, UserName};
use banter_protocol::request::JoinFrom;

/// A session's settings. Every limit and wait has a name and a unit.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who this is.
    pub user: UserName,
    /// Where the servers are (`host:port`), in the order in which they are tried: the nodes of a cluster, say. Whatever stands
    /// here gets the token. Servers that are told of by one that has the token are tried ahead of these. None: the adapter knows
    /// its only server by itself.
    pub addresses: Vec<String>,
    /// Proof, where the server wants it.
    pub token: Option<String>,
    /// What the session's user knows beyond version 1 of the protocol; 64 at most, those behind them are not said. What the
    /// server knows too is told in [`crate::Event::Connected`].
    pub features: Vec<FeatureName>,
    /// What waits and the keys of posts are made from. Two sessions of one user must not share it: their posts would
    /// share keys.
    pub seed: u64,
    /// Posts that may wait for their acknowledgement. One more is refused as full.
    pub posts_unacknowledged_max: usize,
    /// Bytes of bodies that may wait with them.
    pub posts_unacknowledged_bytes_max: usize,
    /// Posts of one room that the server may have without having answered; the others wait here, and are not sent again
    /// after a cut. Together a user's sessions should stay below the server's `dedupe_keys_per_author_max`. 1 keeps the
    /// order of posts also where the server refuses one for a moment; 0 is taken as 1.
    pub posts_in_flight_max: usize,
    /// Pages and lists of members that may be asked at a time. One more is refused as full.
    pub asks_in_flight_max: usize,
    /// Bytes that may wait to be sent before a signal is refused as full. Posts and asks have their own limits.
    pub outbox_bytes_max: usize,
    /// The largest frame to take from the server.
    pub frame_bytes_max: u32,
    /// The ceiling of the first wait before reconnecting; it doubles with every failure.
    pub reconnect_first: Duration,
    /// The last ceiling. A connection that held that long wipes the failures out; 10 seconds where there are several addresses.
    pub reconnect_max: Duration,
    /// After `log_failed` the posts of a room wait so long, or until the next connection.
    pub log_failed_retry: Duration,
    /// From connecting to `welcome`.
    pub welcome_timeout: Duration,
    /// The same, and before it the time to connect, where there are several addresses: how long one that does not answer keeps
    /// the session from the next. It grows with each failure of that address, up to `welcome_timeout`.
    pub attempt_timeout: Duration,
    /// Nothing heard for so long: the connection is given up. At half of it the server is asked. In a cluster this is how long
    /// a machine that vanished without a word is believed in; one whose process died is known to be gone at once.
    pub silence_timeout: Duration,
}

impl Options {
    /// The usual settings for a user. The seed must differ from that of the user's other sessions.
    pub fn new(user: UserName, seed: u64) -> Self {
        Options {
            user,
            addresses: Vec::new(),
            token: None,
            features: Vec::new(),
            seed,
            posts_unacknowledged_max: 1024,
            posts_unacknowledged_bytes_max: 4 << 20,
            posts_in_flight_max: 16,
            asks_in_flight_max: 16,
            outbox_bytes_max: 1 << 20,
            frame_bytes_max: 16 << 20,
            reconnect_first: Duration::from_millis(200),
            reconnect_max: Duration::from_secs(30),
            log_failed_retry: Duration::from_secs(60),
            welcome_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(1),
            silence_timeout: Duration::from_secs(60),
        }
    }
}

/// How a room is read.
#[derive(Clone, Copy, Debug)]
pub struct Join {
    /// Where to start; after a cut the session goes on from its own cursor.
    pub from: JoinFrom,
    /// Where to go on when the server says that the cursor's history is lost.
    pub when_lost: WhenLost,
    /// Whether this session's own posts are handed out as messages too.
    pub echo: bool,
    /// Whether comings and goings are told.
    pub presence: bool,
}

impl Default for Join {
    /// From now on, one's own posts too, nobody's coming and going.
    fn default() -> Self {
        Join { from: JoinFrom::Now, when_lost: WhenLost::Now, echo: true, presence: false }
    }
}

/// Where to go on after a room's history was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenLost {
    /// With the next message.
    Now,
    /// With the newest messages of the new history, that many at most.
    Last(u64),
}

impl From<WhenLost> for JoinFrom {
    fn from(when: WhenLost) -> Self {
        match when {
            WhenLost::Now => JoinFrom::Now,
            WhenLost::Last(count) => JoinFrom::Last(count),
        }
    }
}
