//! What every machine of a core gets along with its input: the time, the lanes, the counters.

use crate::address::Now;
use crate::counters::Counters;
use crate::lanes::Lanes;

/// The surroundings of one input.
pub struct Turn<'t> {
    /// The time, the same for the whole turn.
    pub now: Now,
    /// Where parcels go.
    pub lanes: &'t mut Lanes,
    /// What is counted.
    pub counters: &'t mut Counters,
}
