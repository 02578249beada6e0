//! How long things take on one core, for `/metrics`.

use crate::histogram::Histogram;

/// Where the messages of a page came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSource {
    /// Memory.
    Memory,
    /// The log.
    Log,
}

impl PageSource {
    /// Every source, in the order of [`Latencies::page`].
    pub const ALL: [PageSource; 2] = [PageSource::Memory, PageSource::Log];

    /// Its name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            PageSource::Memory => "memory",
            PageSource::Log => "log",
        }
    }
}

/// Durations since the start of one core.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// From a post's place at its room's core to its answer, by the room's level, at `durability as usize`.
    pub post: [Histogram; 3],
    /// From the ask for a commit's write to the word that it has reached its level.
    pub commit: Histogram,
    /// From the moment when messages became history to the send to their last live reader on this core.
    pub fan_out: Histogram,
    /// From the ask for a page to its answer, by where it came from, at `source as usize`.
    pub page: [Histogram; 2],
    /// That an upward parcel waited for room in a lane.
    pub lane_wait: Histogram,
}
