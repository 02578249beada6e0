//! Power cuts on a real ext4: the file system is stopped under load without a flush, and mounted again.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::loop_disk::LoopDisk;
use crate::report::Report;
use crate::server_process::wait_until;
use crate::trial::{Setup, Trial};

/// When the power is cut, at the earliest and at the latest.
const CUT_MS: (usize, usize) = (20, 400);
/// Refusals that a server gets to answer where it outlives its disk for a while.
const REFUSALS: u64 = 10;

/// Runs that many cuts.
pub fn run(setup: Setup, rounds: usize, disk: &mut LoopDisk, mut tell: impl FnMut(usize)) -> Report {
    let data = disk.folder().join("data");
    let mut trial = Trial::new(setup);
    for round in 0..rounds {
        tell(round);
        let mut server = trial.start(&data);
        let load = trial.load(&server);
        std::thread::sleep(Duration::from_millis((CUT_MS.0 + trial.chance.below(CUT_MS.1 - CUT_MS.0)) as u64));
        disk.shut_down();
        let failed_at = Instant::now();
        if !trial.setup.is_memory() && trial.chance.once_in(2) {
            wait_until("posts are refused", || load.progress.log_failed.load(Relaxed) >= REFUSALS);
        }
        server.kill();
        load.end(&mut trial.ledger);
        trial.ledger.judge_failure(failed_at);
        disk.mount_again();
    }
    let server = trial.start(&data);
    trial.finish(&server)
}
