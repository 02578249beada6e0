//! Counts of durations by their length: log-linear cells of fixed number, filled by one core without a lock.
//!
//! Invariant: every duration lies in exactly one cell, the cells follow each other without a hole, and one that starts
//! at 4 µs or later is a quarter as wide as its start at most. So a duration is known to a quarter of itself.

/// Cells for each doubling.
const CELLS_PER_OCTAVE: usize = 4;
/// Durations below it have a cell for each microsecond.
const LINEAR_US: u64 = CELLS_PER_OCTAVE as u64;
/// The power of two, in microseconds, from which on all durations share the last cell: 134 s, above every timeout that a
/// request may wait for.
const TOP_BIT: u32 = 27;
/// The linear cells, those of each doubling up to the top, and the last.
const CELLS: usize = CELLS_PER_OCTAVE * (TOP_BIT as usize - 1) + 1;

/// Durations of one kind since the start of a core.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u64; CELLS],
    sum_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0; CELLS], sum_us: 0 }
    }
}

impl Histogram {
    /// Counts a duration of so many whole microseconds.
    pub fn record_us(&mut self, duration_us: u64) {
        self.counts[cell_of(duration_us)] += 1;
        self.sum_us = self.sum_us.saturating_add(duration_us);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// For each power of two from 4 µs to 134 s: the bound in microseconds, and how many were shorter. A duration is cut
    /// to whole microseconds before it is counted, so these were shorter before that too.
    pub fn below_powers_of_two(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut below = 0;
        self.counts.chunks_exact(CELLS_PER_OCTAVE).enumerate().map(move |(octave, counts)| {
            below += counts.iter().sum::<u64>();
            (LINEAR_US << octave, below)
        })
    }

    /// The least bound in microseconds that so many thousandths of the durations are below; none where there are no
    /// durations, or where they are that long that the last cell holds them.
    pub fn quantile_us(&self, thousandths: u64) -> Option<u64> {
        let wanted = (self.count() * thousandths.min(1_000)).div_ceil(1_000).max(1);
        let mut below = 0;
        let cell = self.counts[..CELLS - 1].iter().position(|count| {
            below += count;
            below >= wanted
        })?;
        Some(start_us(cell + 1))
    }
}

/// The cell that holds a duration.
fn cell_of(duration_us: u64) -> usize {
    if duration_us < LINEAR_US {
        return duration_us as usize;
    }
    let top_bit = duration_us.ilog2();
    // The two bits behind the highest say which quarter of the doubling.
    let quarter = (duration_us >> (top_bit - 2)) as usize % CELLS_PER_OCTAVE;
    (CELLS_PER_OCTAVE * (top_bit as usize - 1) + quarter).min(CELLS - 1)
}

/// The least duration of a cell, in microseconds.
fn start_us(cell: usize) -> u64 {
    let (octave, quarter) = (cell / CELLS_PER_OCTAVE, (cell % CELLS_PER_OCTAVE) as u64);
    if octave == 0 { quarter } else { (LINEAR_US + quarter) << (octave - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_follow_each_other_without_a_hole() {
        for cell in 1..CELLS {
            let start_us = start_us(cell);
            assert_eq!((cell_of(start_us - 1), cell_of(start_us)), (cell - 1, cell), "{start_us}");
        }
        assert_eq!((start_us(0), start_us(CELLS - 1)), (0, 1 << TOP_BIT));
    }

    #[test]
    fn a_cell_is_a_quarter_as_wide_as_its_start_at_most() {
        for cell in CELLS_PER_OCTAVE..CELLS - 1 {
            let (start_us, end_us) = (start_us(cell), start_us(cell + 1));
            assert!((end_us - start_us) * 4 <= start_us, "{start_us} {end_us}");
        }
    }

    #[test]
    fn what_is_too_long_for_the_cells_is_counted_all_the_same() {
        let mut histogram = Histogram::default();
        for duration_us in [(1 << TOP_BIT) - 1, 1 << TOP_BIT, u64::MAX] {
            histogram.record_us(duration_us);
        }
        assert_eq!((histogram.count(), histogram.sum_us()), (3, u64::MAX));
        assert_eq!(histogram.below_powers_of_two().last(), Some((1 << TOP_BIT, 1)));
        assert_eq!((histogram.quantile_us(333), histogram.quantile_us(1_000)), (Some(1 << TOP_BIT), None));
    }

    #[test]
    fn bounds_are_powers_of_two_and_count_what_is_below_them() {
        let mut histogram = Histogram::default();
        (0..10_000).for_each(|duration_us| histogram.record_us(duration_us));
        let mut bound_due_us = 4;
        for (bound_us, below) in histogram.below_powers_of_two() {
            assert_eq!((bound_us, below), (bound_due_us, bound_us.min(10_000)));
            bound_due_us *= 2;
        }
        assert_eq!(bound_due_us, 2 << TOP_BIT);
        assert_eq!(histogram.sum_us(), 49_995_000);
    }

    #[test]
    fn a_quantile_is_off_by_a_quarter_at_most() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_us(500), None);
        (1..=100_000).for_each(|duration_us| histogram.record_us(duration_us));
        for thousandths in [1, 500, 900, 990, 999, 1_000] {
            let (exact_us, told_us) = (thousandths * 100, histogram.quantile_us(thousandths).unwrap());
            assert!(told_us > exact_us && told_us <= exact_us + exact_us / 4 + 1, "{exact_us} {told_us}");
        }
    }
}
