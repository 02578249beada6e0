//! How long a room's new messages wait for company before they are sent to its readers, so that one send carries several.
//!
//! A send costs the kernel the same whether it carries one message or sixteen. So a core under pressure waits a little, and
//! one with time to spare never does.
//!
//! ```text
//!  busy share of the core ─▶ delay, 0 to the room's delivery_delay_ms_max ─▶ room ─▶ waits, where waiting brought company
//! ```
//!
//! Invariants:
//! - No message waits here longer than its room's `delivery_delay_ms_max`, counted from the turn in which it came to this core.
//! - A room of fewer than [`READERS_MIN`] readers waits never; nor does anything that is no message or signal of a room's run.
//! - What waits of a room is less than [`WAITING_BYTES_MAX`] when more comes.
//!
//! Why it does not oscillate: the delay follows the busy share in proportion, waiting makes the share smaller, and the share is a
//! mean over a time that is long beside the delay ([`BUSY_MEAN_US`] against tens of milliseconds).

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::policy::RoomPattern;

/// The largest `delivery_delay_ms_max`: a person takes a tenth of a second for at once.
pub const DELIVERY_DELAY_MS_LARGEST: u32 = 100;
/// Readers on a core that a room has at least, for a wait to spare sends that are worth it.
pub const READERS_MIN: usize = 8;
/// Bytes of frames of one room that wait together; then they go, since a send of more is no cheaper a byte.
pub const WAITING_BYTES_MAX: u32 = 16 * 1_024;
/// Busy share of a core, in thousandths, up to which nothing waits.
const FREE_PERMILLE: u32 = 250;
/// From there on what waits does so for as long as it may.
const FULL_PERMILLE: u32 = 750;
/// How much company is enough for a wait to end, up to which busy share: with one more message half of the sends are spared, with two more two
/// thirds. Above the last the wait is all that bounds it.
const ENOUGH: [(u32, u32); 3] = [(500, 1), (625, 2), (FULL_PERMILLE, 4)];
/// What the busy share is a mean over, in microseconds.
pub const BUSY_MEAN_US: u64 = 100_000;
/// Where waiting brought nothing, the next 2, 4, 8 … times nothing waits, up to 2 to the power of that.
const ALONE_MAX: u8 = 10;

/// How long deliveries of rooms may wait, by the rooms' names: the first pattern that matches wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryDelays {
    rules: Arc<[(RoomPattern, u32)]>,
    otherwise_ms: u32,
    readers_min: usize,
}

impl DeliveryDelays {
    /// Of patterns in the order of the configuration, each with its milliseconds; and of rooms that none matches.
    pub fn new(mut rules: Vec<(RoomPattern, u32)>, otherwise_ms: u32) -> Self {
        // Behind the last one that says something else all is as it is otherwise.
        let last = rules.iter().rposition(|(_, delay_ms)| *delay_ms != otherwise_ms).map_or(0, |last| last + 1);
        rules.truncate(last);
        DeliveryDelays { rules: rules.into(), otherwise_ms, readers_min: READERS_MIN }
    }

    /// Where so few readers are enough for a wait: in a world that has no more.
    #[must_use]
    pub fn from_readers(self, readers_min: usize) -> Self {
        DeliveryDelays { readers_min, ..self }
    }

    /// How long deliveries of the room of that name may wait, in milliseconds; 0 = never.
    pub fn of(&self, room: &str) -> u32 {
        self.rules
            .iter()
            .find(|(pattern, _)| pattern.matches(room))
            .map_or(self.otherwise_ms, |(_, delay_ms)| *delay_ms)
    }

    /// What holds for a pattern.
    pub fn of_pattern(&self, pattern: &RoomPattern) -> u32 {
        self.rules.iter().find(|(of, _)| of == pattern).map_or(self.otherwise_ms, |(_, delay_ms)| *delay_ms)
    }

    /// Every pattern up to the last one that says something else than holds otherwise.
    pub fn rules(&self) -> &[(RoomPattern, u32)] {
        &self.rules
    }
}

/// What share of its time a core is busy: a mean in which what was a tenth of a second ago counts for a third.
#[derive(Clone, Copy, Debug, Default)]
pub struct BusyShare {
    permille: f64,
}

impl BusyShare {
    /// The core was awake for so long, and then had nothing to do for so long, in microseconds.
    pub fn passed(&mut self, busy_us: u64, idle_us: u64) {
        let both_us = (busy_us + idle_us) as f64;
        if both_us > 0.0 {
            let now = 1_000.0 * busy_us as f64 / both_us;
            self.permille += (now - self.permille) * both_us / (both_us + BUSY_MEAN_US as f64);
        }
    }

    /// In thousandths.
    pub fn permille(self) -> u32 {
        self.permille.round() as u32
    }
}

/// How long what may wait so long does, on a core that is busy for such a share of its time.
fn delay_ms(busy_permille: u32, delay_ms_max: u32) -> u32 {
    let above = busy_permille.clamp(FREE_PERMILLE, FULL_PERMILLE) - FREE_PERMILLE;
    delay_ms_max * above / (FULL_PERMILLE - FREE_PERMILLE)
}

/// How much company is enough on a core that is busy for such a share of its time.
fn enough(busy_permille: u32) -> u32 {
    ENOUGH.iter().find(|(below, _)| busy_permille < *below).map_or(u32::MAX, |(_, company)| *company)
}

/// One room's waiting.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoomPace {
    /// By which version of the delays it goes; 0: by none yet.
    version: u16,
    delay_ms_max: u16,
    /// Until when what came waits, in the turns' milliseconds.
    until_ms: Option<u64>,
    waiting_bytes: u32,
    /// Times that something came while it waited.
    company: u32,
    /// Waits behind one another that brought nothing.
    alone: u8,
    /// Times that nothing waits, for that.
    passes: u16,
}

impl RoomPace {
    /// Whether something waits.
    pub fn is_waiting(&self) -> bool {
        self.until_ms.is_some()
    }

    /// Something came to the room, whatever becomes of it.
    fn meets(&mut self, bytes: u32) {
        if self.is_waiting() {
            self.company += 1;
            self.waiting_bytes = self.waiting_bytes.saturating_add(bytes);
        }
    }

    fn ends(&mut self) {
        self.alone = if self.company > 0 { 0 } else { (self.alone + 1).min(ALONE_MAX) };
        self.passes = if self.alone == 0 { 0 } else { 1 << self.alone };
        (self.until_ms, self.waiting_bytes, self.company) = (None, 0, 0);
    }
}

/// What came to a room.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// The room's place among those of the core.
    pub room: u32,
    /// Bytes of its frames.
    pub bytes: u32,
    /// Readers on this core who are live.
    pub readers: usize,
    /// The turn's time.
    pub now_ms: u64,
}

/// The waiting of a core's rooms.
#[derive(Debug)]
pub struct Pacing {
    delays: DeliveryDelays,
    /// Goes up with each change of the delays. It comes again after 65,535 of them: then a room where nothing came in all that time goes by old ones.
    version: u16,
    busy_permille: u32,
    /// Rooms that wait, by when they are due.
    waiting: BTreeSet<(u64, u32)>,
}

impl Pacing {
    /// Nothing waits.
    pub fn new(delays: DeliveryDelays) -> Self {
        Pacing { delays, version: 1, busy_permille: 0, waiting: BTreeSet::new() }
    }

    /// Other delays from here on. What waits goes when it was to go.
    pub fn set_delays(&mut self, delays: DeliveryDelays) {
        if self.delays != delays {
            self.delays = delays;
            self.version = self.version.checked_add(1).unwrap_or(1);
        }
    }

    /// The share of its time that the core is busy, in thousandths.
    pub fn set_busy(&mut self, permille: u32) {
        self.busy_permille = permille;
    }

    /// Something came to a room. Whether it waits; if not, the room goes now with all that waited.
    pub fn waits(&mut self, name: &str, pace: &mut RoomPace, came: Came) -> bool {
        if let Some(until_ms) = pace.until_ms {
            pace.meets(came.bytes);
            let is_enough = pace.company >= enough(self.busy_permille);
            let waits = pace.waiting_bytes < WAITING_BYTES_MAX && came.now_ms < until_ms && !is_enough;
            if !waits {
                self.goes(pace, came.room);
            }
            return waits;
        }
        if self.busy_permille <= FREE_PERMILLE
            || came.readers < self.delays.readers_min
            || came.bytes >= WAITING_BYTES_MAX
        {
            return false;
        }
        if pace.version != self.version {
            pace.version = self.version;
            pace.delay_ms_max = self.delays.of(name).min(DELIVERY_DELAY_MS_LARGEST) as u16;
        }
        let delay_ms = delay_ms(self.busy_permille, pace.delay_ms_max.into());
        if delay_ms == 0 {
            return false;
        }
        if pace.passes > 0 {
            pace.passes -= 1;
            return false;
        }
        let until_ms = came.now_ms + u64::from(delay_ms);
        (pace.until_ms, pace.waiting_bytes) = (Some(until_ms), came.bytes);
        self.waiting.insert((until_ms, came.room));
        true
    }

    /// Something came to a room that is not to wait: it goes now with all that waited.
    pub fn passes(&mut self, pace: &mut RoomPace, came: Came) {
        pace.meets(came.bytes);
        self.goes(pace, came.room);
    }

    /// What waits of a room goes now.
    pub fn goes(&mut self, pace: &mut RoomPace, room: u32) {
        if let Some(until_ms) = pace.until_ms {
            self.waiting.remove(&(until_ms, room));
            pace.ends();
        }
    }

    /// The next room that waited until now. The caller says [`Pacing::goes`] of it.
    pub fn due(&self, now_ms: u64) -> Option<u32> {
        self.waiting.first().filter(|(until_ms, _)| *until_ms <= now_ms).map(|(_, room)| *room)
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<u64> {
        self.waiting.first().map(|(until_ms, _)| *until_ms)
    }

    /// Any room that waits.
    pub fn any(&self) -> Option<u32> {
        self.waiting.first().map(|(_, room)| *room)
    }

    /// The share of its time that the core is busy, in thousandths.
    pub fn busy_permille(&self) -> u32 {
        self.busy_permille
    }
}

#[cfg(test)]
mod tests;
