//! How a core idles: for how long it looks for something to do before it sleeps.
//!
//! A sleep ends some 10 to 20 µs after what ends it, on a virtual machine above all, where a halted CPU has to be woken by its
//! host. A core whose waits are shorter than that finds its work sooner, and at no more CPU time, if it looks for it.
//!
//! Invariant: a core looks for at most `idle_spin_us_max`, and for no time where its last waits were longer.

use banter_chat::pacing::BusyShare;

/// What the usual wait is a mean over: so many waits.
const MEAN_OVER: u64 = 8;
/// A wait counts for so many times `idle_spin_us_max` at most, so that a long one is forgotten behind a few short ones.
const WAIT_TIMES_MAX: u64 = 4;

/// The machine.
#[derive(Debug)]
pub struct Idling {
    spin_us_max: u64,
    /// The usual wait, in eighths of a microsecond.
    usual_eighths_us: u64,
    busy: BusyShare,
    /// When the last wait ended, on the caller's clock.
    woke_us: u64,
}

impl Idling {
    /// Which looks for so many microseconds at most; 0 = never.
    pub fn new(spin_us_max: u32) -> Self {
        let mut idling = Idling { spin_us_max: 0, usual_eighths_us: 0, busy: BusyShare::default(), woke_us: 0 };
        idling.set_spin_us_max(spin_us_max);
        idling
    }

    /// Another limit from here on. What is usual is learned anew, since waits were counted up to a multiple of the old one.
    pub fn set_spin_us_max(&mut self, spin_us_max: u32) {
        self.spin_us_max = spin_us_max.into();
        self.usual_eighths_us = MEAN_OVER * WAIT_TIMES_MAX * self.spin_us_max;
    }

    /// How long to look before a sleep, in microseconds: not at all where the usual wait is longer than that may be.
    pub fn spin_us(&self) -> u64 {
        if self.usual_eighths_us <= MEAN_OVER * self.spin_us_max { self.spin_us_max } else { 0 }
    }

    /// A wait began and ended then, with a look or a sleep or both.
    pub fn waited(&mut self, from_us: u64, until_us: u64) {
        let wait_us = until_us.saturating_sub(from_us);
        let counted_us = wait_us.min(WAIT_TIMES_MAX * self.spin_us_max);
        self.usual_eighths_us = self.usual_eighths_us - self.usual_eighths_us / MEAN_OVER + counted_us;
        self.busy.passed(from_us.saturating_sub(self.woke_us), wait_us);
        self.woke_us = until_us;
    }

    /// The share of its time that the core is busy, in thousandths, where it is that time now. Looking is not being busy.
    pub fn busy_permille(&self, now_us: u64) -> u32 {
        let mut busy = self.busy;
        busy.passed(now_us.saturating_sub(self.woke_us), 0);
        busy.permille()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits of that length, one behind the other, each behind so much work.
    fn after(idling: &mut Idling, waits_us: impl IntoIterator<Item = u64>, work_us: u64) -> u64 {
        for wait_us in waits_us {
            let from_us = idling.woke_us + work_us;
            idling.waited(from_us, from_us + wait_us);
        }
        idling.spin_us()
    }

    #[test]
    fn a_core_looks_for_work_only_while_its_waits_are_short() {
        let mut idling = Idling::new(50);
        assert_eq!(idling.spin_us(), 0, "of a core that just started nothing is known");
        assert_eq!(after(&mut idling, [20; 40], 10), 50);
        assert_eq!(after(&mut idling, [1_000_000], 10), 50, "one long wait is no habit");
        assert_eq!(after(&mut idling, [1_000_000; 3], 10), 0);
        assert_eq!(
            after(&mut idling, [60; 100], 10),
            0,
            "waits that are a little longer cost a look each and bring nothing"
        );
        assert_eq!(after(&mut idling, [5; 16], 10), 50);
    }

    #[test]
    fn without_a_limit_it_never_looks() {
        assert_eq!(after(&mut Idling::new(0), [0; 20], 10), 0);
        let mut idling = Idling::new(50);
        after(&mut idling, [1; 20], 10);
        idling.set_spin_us_max(0);
        assert_eq!(after(&mut idling, [1; 20], 10), 0);
        idling.set_spin_us_max(50);
        assert_eq!(idling.spin_us(), 0, "what is usual is not known under another limit");
    }

    #[test]
    fn the_busy_share_counts_work_and_neither_looks_nor_sleeps() {
        let mut idling = Idling::new(50);
        after(&mut idling, [70; 10_000], 30);
        assert!(
            (295..=305).contains(&idling.busy_permille(idling.woke_us)),
            "{}",
            idling.busy_permille(idling.woke_us)
        );
        assert!(idling.busy_permille(idling.woke_us + 1_000_000) > 900, "a core that never waits is busy");
    }
}
