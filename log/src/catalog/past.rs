//! What happened to a log before a start, as far as its parts do not say it: what was dropped, given up, or taken by a power cut.

use std::borrow::Cow;
use std::collections::BTreeMap;

use banter_protocol::ids::{Epoch, Sequence};

use crate::index::Chain;
use crate::record::Level;

/// Messages of a room that should lie between two segments, and do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The first that is missing.
    pub from: Sequence,
    /// The last that is missing.
    pub to: Sequence,
    /// The segment before them.
    pub behind: u64,
}

/// When a history that was written under the server's earlier starts was cut below what may have been shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// It concerns what was written by this start and those before it.
    pub run: u64,
    /// Rooms it concerns go on under this epoch.
    pub epoch: Epoch,
    /// Whether it concerns every room, or only those whose newest message was not made safe against a power cut.
    pub every_level: bool,
}

/// What happened to a log before this start, as far as its parts do not say it.
#[derive(Clone, Debug, Default)]
pub struct Past<'a> {
    /// Where histories broke.
    pub breaks: Cow<'a, [Break]>,
    /// The oldest segment of each class that is there, by the class's tag: retention takes the oldest of a class first.
    pub oldest: BTreeMap<u16, u64>,
    /// Above the run in which something was dropped last, if anything ever was.
    pub dropped: Epoch,
    /// The run at whose start levels and classes of the configuration changed last.
    pub changed: Epoch,
}

impl Past<'_> {
    /// The epoch under which a room goes on whose newest record was written by that start at that level.
    pub(super) fn epoch_behind(&self, run: u64, level: Level) -> Option<Epoch> {
        let concerns = |there: &&Break| run <= there.run && (there.every_level || level == Level::Written);
        self.breaks.iter().filter(concerns).map(|there| there.epoch).max()
    }

    /// Whether what is missing between two parts was dropped or given up. The first was written by `run` in segment
    /// `behind`; `chain` is what the second says of the part before it.
    pub(super) fn explains(&self, (run, behind): (u64, u64), second_run: u64, chain: &Chain) -> bool {
        let was_given_up = self.breaks.iter().any(|there| there.every_level && run <= there.run);
        let was_dropped = match chain.before {
            // Nothing is named. In one configuration a room is of one class, whose oldest segments go first: while the first
            // part is there, only what was of another class can be gone, and that class may be gone with it.
            0 => run < second_run && self.changed.0 > run && self.dropped.0 > run,
            before => before > behind && self.oldest.get(&chain.before_tag).is_none_or(|&oldest| oldest > before),
        };
        was_given_up || was_dropped
    }

    /// Whether a power cut may have taken messages of that level from what that run wrote, and left later ones.
    pub(super) fn may_have_taken(&self, run: u64, level: Level) -> bool {
        level == Level::Written && self.breaks.iter().any(|there| run <= there.run)
    }
}
