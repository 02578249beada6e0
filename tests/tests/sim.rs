//! The simulated world over many seeds: whatever the order of things is, what the protocol promises holds.

use std::sync::atomic::{AtomicU64, Ordering};

use banter_tests::sim::coverage::Coverage;
use banter_tests::sim::{Plan, run_caught};

/// Seeds that every run of the tests goes through; any number of others by the program `sim`.
const SEEDS: u64 = 2_400;

#[test]
fn every_order_keeps_what_the_protocol_promises() {
    let next = AtomicU64::new(0);
    let work = || {
        let mut coverage = Coverage::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return coverage;
            }
            match run_caught(Plan::of(seed, (seed % 3) as u16 + 1)) {
                Ok(seen) => coverage.add(&seen),
                Err(fault) => panic!("{fault}"),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut coverage = Coverage::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(seen) => coverage.add(&seen),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    println!("{coverage:#?}");
    assert_eq!(coverage.missing(), [""; 0], "a simulation that no longer gets there proves nothing of it");
}
