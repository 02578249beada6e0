//! A disk that fails under load: no post is acknowledged that the disk would not find again, and reading goes on.
//!
//! Each round ends with a power cut, so that only what the disk holds durably counts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::audit;
use crate::fuse_disk::DiskFault;
use crate::ledger::Fault;
use crate::load::Load;
use crate::report::Report;
use crate::server_process::{ServerProcess, holds_within, wait_until};
use crate::trial::{Setup, Trial};
use crate::trouble_disk::{FileSystem, TroubleDisk};

/// Posts that are acknowledged before anything happens.
const WARM_POSTS: u64 = 50;
/// Posts that may be acknowledged besides before a power cut, so that it meets a log in any state.
const CUT_POSTS_MAX: usize = 2_000;
/// Refusals that show that it is no accident.
const REFUSALS: u64 = 20;
/// How soon a log that failed has to refuse posts.
const REFUSED_MAX: Duration = Duration::from_secs(5);
/// Posts that show that posting goes on.
const GOES_ON_POSTS: u64 = 100;
/// How soon posting has to go on by itself once there is space.
pub const RESUME_MAX: Duration = Duration::from_secs(10);
/// Space that is left at most when the disk becomes full: some segments, or not one.
const LEFT_BYTES_MAX: usize = 12 << 20;
/// Where a server calls its disk full.
pub const FREE_BYTES_MIN: &str = "--log-free-bytes-min=1048576";

/// What happens to the disk in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Fault(DiskFault),
    Full,
    /// Nothing but the power cut.
    Cut,
}

const TROUBLES: [Trouble; 5] = [
    Trouble::Fault(DiskFault::FsyncEio),
    Trouble::Fault(DiskFault::WriteEio),
    Trouble::Fault(DiskFault::ShortWrite),
    Trouble::Full,
    Trouble::Cut,
];

/// Below an ext4. Its space is not the disk's, and a block device writes all or fails: the loop driver takes a short
/// write of its file for a whole one.
const TROUBLES_BELOW: [Trouble; 3] =
    [Trouble::Cut, Trouble::Fault(DiskFault::FsyncEio), Trouble::Fault(DiskFault::WriteEio)];

/// Rounds that meet every trouble, with a clean power cut and with a torn one.
pub const ROUNDS_OF_ALL: usize = TROUBLES.len() * 2;
/// The same below an ext4.
pub const ROUNDS_OF_ALL_BELOW: usize = TROUBLES_BELOW.len() * 2;

/// Runs that many rounds on one disk.
pub fn run(mut setup: Setup, rounds: usize, disk: &mut TroubleDisk, mut tell: impl FnMut(usize, String)) -> Report {
    setup.flags.push(FREE_BYTES_MIN.to_owned());
    setup.plan.posts_max = usize::MAX;
    let data = disk.data();
    let troubles = match disk.file_system() {
        FileSystem::Fuse => &TROUBLES[..],
        FileSystem::Ext4 => &TROUBLES_BELOW[..],
    };
    let mut run = Run { trial: Trial::new(setup), disk, counts: BTreeMap::new() };
    for round in 0..rounds {
        let (times, number) = (round / troubles.len(), round % troubles.len());
        tell(round, format!("{:?}", troubles[number]));
        // A trouble meets the other kind of cut the next time.
        run.round(&data, troubles[number], (times + number) % 2 == 1);
    }
    let server = run.trial.start(&data);
    let mut report = run.trial.finish(&server);
    report.more.extend(run.counts);
    report
}

struct Run<'a> {
    trial: Trial,
    disk: &'a mut TroubleDisk,
    counts: BTreeMap<String, u64>,
}

impl Run<'_> {
    fn round(&mut self, data: &Path, trouble: Trouble, is_torn: bool) {
        let mut server = self.trial.start(data);
        let load = self.trial.load(&server);
        let progress = std::sync::Arc::clone(&load.progress);
        wait_until("posts are acknowledged", || progress.posted.load(Relaxed) >= WARM_POSTS);
        match trouble {
            Trouble::Fault(fault) => {
                let failed_at = self.fail(&server, &load, fault);
                // Every post that is under way gets an answer, a refused one too.
                load.stop(&mut self.trial.ledger);
                if self.disk.is_whole() {
                    failed_at.into_iter().for_each(|at| self.trial.ledger.judge_failure(at));
                } else {
                    self.count("rounds not judged", 1);
                    failed_at.into_iter().for_each(|at| self.trial.ledger.excuse(at));
                }
                self.cut(&mut server, is_torn);
            }
            Trouble::Full | Trouble::Cut => {
                if trouble == Trouble::Full {
                    self.fill_up(&server, &load);
                } else {
                    let posts = WARM_POSTS + self.trial.chance.below(CUT_POSTS_MAX) as u64;
                    wait_until("more posts are acknowledged", || progress.posted.load(Relaxed) >= posts);
                }
                self.cut(&mut server, is_torn);
                load.end(&mut self.trial.ledger);
            }
        }
        self.disk.power_on();
        self.count(&format!("{trouble:?}"), 1);
        self.count("log_failed answers", progress.log_failed.load(Relaxed));
        self.count("log_full answers", progress.log_full.load(Relaxed));
    }

    /// Lets the fault happen; when it did, if it did.
    fn fail(&mut self, server: &ServerProcess, load: &Load, fault: DiskFault) -> Option<Instant> {
        let (disk, progress) = (self.disk.fuse(), &load.progress);
        disk.arm(fault);
        if !holds_within(REFUSED_MAX, || disk.fired().is_some()) {
            self.trial.ledger.add(Fault::NotRefused, format!("{fault:?} found no write or sync in {REFUSED_MAX:?}"));
            return None;
        }
        let before = progress.posted.load(Relaxed);
        let is_refused = || progress.log_failed.load(Relaxed) >= REFUSALS;
        let goes_on = || progress.posted.load(Relaxed) >= before + GOES_ON_POSTS;
        // A short write may be made whole by another one; any other fault ends the log.
        let is_mended = || fault == DiskFault::ShortWrite && goes_on() && progress.log_failed.load(Relaxed) == 0;
        if !holds_within(REFUSED_MAX, || is_refused() || is_mended()) && self.disk.is_whole() {
            self.trial.ledger.add(Fault::NotRefused, format!("{REFUSED_MAX:?} after {fault:?}"));
        }
        audit::reading_goes_on(server.address(), self.trial.setup.rooms);
        if is_refused() { disk.fired() } else { None }
    }

    fn fill_up(&mut self, server: &ServerProcess, load: &Load) {
        self.disk.fuse().full_after(self.trial.chance.below(LEFT_BYTES_MAX) as u64);
        wait_full(server, load, self.trial.setup.rooms);
        let disk = self.disk.fuse();
        let resumed = wait_resumed(load, || disk.never_full());
        let longest = self.counts.entry("longest resume, ms".to_owned()).or_default();
        *longest = (*longest).max(resumed.as_millis() as u64);
    }

    fn cut(&mut self, server: &mut ServerProcess, is_torn: bool) {
        if is_torn {
            self.disk.fuse().power_cut_torn(&mut self.trial.chance);
        } else {
            self.disk.fuse().power_cut();
        }
        server.kill();
    }

    fn count(&mut self, what: &str, times: u64) {
        *self.counts.entry(what.to_owned()).or_default() += times;
    }
}

/// Waits until a load meets a full disk, and sees that it is told when to come back and that reading goes on.
///
/// # Panics
/// When that is not so.
pub fn wait_full(server: &ServerProcess, load: &Load, rooms: usize) {
    wait_until("posts are refused", || load.progress.log_full.load(Relaxed) >= REFUSALS);
    assert_eq!(load.progress.no_retry_after.load(Relaxed), 0, "log_full without retry_after_ms");
    assert_eq!(load.progress.log_failed.load(Relaxed), 0, "a full disk is no failed one");
    audit::reading_goes_on(server.address(), rooms);
}

/// Makes space, and gives the time until posting went on.
///
/// # Panics
/// When it does not within [`RESUME_MAX`].
pub fn wait_resumed(load: &Load, make_space: impl FnOnce()) -> Duration {
    make_space();
    let (since, before) = (Instant::now(), load.progress.posted.load(Relaxed));
    let goes_on = || load.progress.posted.load(Relaxed) >= before + GOES_ON_POSTS;
    assert!(holds_within(RESUME_MAX, goes_on), "not within {RESUME_MAX:?}: posts are accepted again");
    since.elapsed()
}
