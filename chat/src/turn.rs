//! What every machine of a core gets along with its input: the time, the lanes, what is counted and measured.

use crate::address::Now;
use crate::counters::Counters;
use crate::lanes::Lanes;
use crate::latencies::Latencies;

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
