//! What every machine of a core gets along with its input: the time, the lanes, what is counted and measured.

use crate::address::Now;
use crate::counters::Counters;
use crate::lanes::Lanes;
use crate::latencies::Latencies;

/// Connections, or readings by a token of their own, that one turn ends at most of those whose time or right is over together:
/// one takes some 15 µs, with all that it leaves and the frames that say so, and who is not ended waits no longer than that.
pub const ENDS_A_TURN: usize = 16;

/// The surroundings of one input.
pub struct Turn<'t> {
    /// The time, the same for the whole turn.
    pub now: Now,
    /// Where parcels go.
    pub lanes: &'t mut Lanes,
    /// What is counted.
    pub counters: &'t mut Counters,
    /// What is measured.
    pub latencies: &'t mut Latencies,
}

impl<'t> Turn<'t> {
    /// Of these.
    pub fn new(now: Now, lanes: &'t mut Lanes, counters: &'t mut Counters, latencies: &'t mut Latencies) -> Self {
        Turn { now, lanes, counters, latencies }
    }
}
