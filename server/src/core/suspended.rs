//! How long the machine was suspended: timers leave that time out, and the clock of the log does not.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Less than this between two looks is no suspension: the two clocks are read one after the other, and a thread may lose its
/// CPU in between.
const SUSPENDED_MS_MIN: u64 = 1_000;

/// The time in which the machine was suspended, as far as it was told.
#[derive(Debug)]
pub struct Suspended {
    told_ms: u64,
}

impl Suspended {
    /// From now on.
    pub fn new() -> Self {
        Suspended { told_ms: suspended_ms() }
    }

    /// Milliseconds since the last time that there were some.
    pub fn take(&mut self) -> Option<u64> {
        self.grown_to(suspended_ms())
    }

    fn grown_to(&mut self, suspended_ms: u64) -> Option<u64> {
        let grown_ms = suspended_ms.saturating_sub(self.told_ms);
        (grown_ms >= SUSPENDED_MS_MIN).then(|| {
            self.told_ms = suspended_ms;
            grown_ms
        })
    }
}

impl Default for Suspended {
    fn default() -> Self {
        Self::new()
    }
}

/// Since the machine was switched on.
fn suspended_ms() -> u64 {
    let awake_ms = milliseconds(clock_gettime(ClockId::Monotonic));
    milliseconds(clock_gettime(ClockId::Boottime)).saturating_sub(awake_ms)
}

fn milliseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspension_is_told_once_and_jitter_never() {
        let mut suspended = Suspended { told_ms: 50 };
        assert_eq!([49, 50, 1_049].map(|ms| suspended.grown_to(ms)), [None; 3]);
        assert_eq!(suspended.grown_to(90_050), Some(90_000));
        assert_eq!((suspended.grown_to(90_051), suspended.grown_to(91_050)), (None, Some(1_000)));
        assert_eq!(Suspended::new().take(), None);
    }
}
