//! A disk whose reads fail under load: no reader is told of a gap that is none, and no read that failed takes anything away.
//!
//! Each round begins with a start whose own reading fails once. Then clients catch up from the first message and fetch
//! deep history while reads fail, in one of the ways of `WAYS`. Once reads do well again, the same server has to give
//! everything from the first message on; so has the next one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::deep_readers::DeepReaders;
use crate::fuse_disk::{LogFiles, ReadFault};
use crate::ledger::Fault;
use crate::report::Report;
use crate::server_process::{holds_within, wait_until};
use crate::trial::{Setup, Trial};
use crate::trouble_disk::TroubleDisk;

/// How reads fail, round for round.
const WAYS: [(&str, ReadFault); 5] = [
    ("some reads", ReadFault { files: LogFiles::Sealed, offset: None, one_in: 3, times: None }),
    ("every read of an index", ReadFault { files: LogFiles::Indexes, offset: None, one_in: 1, times: None }),
    ("one page of each segment", ReadFault { files: LogFiles::Segments, offset: Some(8_192), one_in: 1, times: None }),
    ("a few reads of a segment", ReadFault { files: LogFiles::Segments, offset: None, one_in: 1, times: Some(5) }),
    ("every read of a segment", ReadFault { files: LogFiles::Segments, offset: None, one_in: 1, times: None }),
];

/// What a start reads, and where; two of them in each round. The ledger and the epoch file have two slots, of which either
/// may be the newer one.
const READ_AT_START: [(LogFiles, Option<usize>); 6] = [
    (LogFiles::Ledger, Some(0)),
    (LogFiles::Ledger, Some(4_096)),
    (LogFiles::Segments, None),
    (LogFiles::Indexes, None),
    (LogFiles::Epoch, Some(0)),
    (LogFiles::Epoch, Some(4_096)),
];

/// Rounds that meet every way and every file.
pub const ROUNDS_OF_ALL: usize = WAYS.len();

/// The exit code of a server that cannot start on this host (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: i32 = 78;
/// A log of many small segments, so that history lies in most of them.
const SMALL_LOG: [&str; 3] = ["--frame-bytes-max=8192", "--log-commit-bytes-max=65536", "--log-segment-bytes=262144"];
const BODY_BYTES_MAX: usize = 4_000;
/// Posts that are acknowledged in a round before reads fail.
const POSTS: u64 = 300;
/// Posts of a writer in a round at most, so that the whole can be read again in each.
const POSTS_MAX: usize = 400;
/// What readers are given while reads fail, unless it takes longer than that.
const READINGS: u64 = 60;
/// Reads that fail until they do well again, unless there are fewer.
const FAILURES: u64 = 50;
const FAILING_MAX: Duration = Duration::from_secs(5);

/// Runs that many rounds on one disk.
pub fn run(mut setup: Setup, rounds: usize, disk: &mut TroubleDisk, mut tell: impl FnMut(usize, &str)) -> Report {
    setup.flags.retain(|flag| !SMALL_LOG.iter().any(|small| flag.split('=').next() == small.split('=').next()));
    setup.flags.extend(SMALL_LOG.map(str::to_owned));
    (setup.body_bytes_max, setup.plan.posts_max) = (BODY_BYTES_MAX, POSTS_MAX);
    let data = disk.data();
    let mut run = Run { trial: Trial::new(setup), disk, counts: BTreeMap::new() };
    for round in 0..rounds {
        let (way, fault) = WAYS[round % WAYS.len()];
        tell(round, way);
        if round == 0 {
            run.make_history(&data);
        } else {
            for at in [2 * round - 2, 2 * round - 1] {
                run.start_over_a_failing_read(&data, READ_AT_START[at % READ_AT_START.len()]);
            }
        }
        run.round(&data, fault);
    }
    let server = run.trial.start(&data);
    let mut report = run.trial.finish(&server);
    report.more.extend(run.counts);
    report.more.push(("reads failed".to_owned(), run.disk.fuse().reads_failed()));
    report
}

struct Run<'a> {
    trial: Trial,
    disk: &'a mut TroubleDisk,
    counts: BTreeMap<String, u64>,
}

impl Run<'_> {
    /// What a server posted itself it has in memory; so another one posts, before the first round.
    fn make_history(&mut self, data: &Path) {
        let mut server = self.trial.start(data);
        let load = self.trial.load(&server);
        wait_until("posts are acknowledged", || load.progress.posted.load(Relaxed) >= POSTS);
        load.stop(&mut self.trial.ledger);
        server.kill();
    }

    /// A server that cannot read what it needs may refuse to start. If it starts, everything is there.
    fn start_over_a_failing_read(&mut self, data: &Path, (files, offset): (LogFiles, Option<usize>)) {
        let disk = self.disk.fuse();
        disk.fail_reads(ReadFault { times: Some(1), offset, ..ReadFault::of(files) });
        match self.trial.try_start(data) {
            Ok(mut server) => {
                self.trial.check(&server);
                server.kill();
                self.count("starts over a failing read", 1);
            }
            Err((code, log)) => {
                assert_eq!(code, EXIT_CONFIG, "a read of {files:?} failed:\n{log}");
                self.count("starts refused", 1);
            }
        }
        self.disk.fuse().mend_reads();
    }

    fn round(&mut self, data: &Path, fault: ReadFault) {
        let mut server = self.trial.start(data);
        let load = self.trial.load(&server);
        let progress = std::sync::Arc::clone(&load.progress);
        wait_until("posts are acknowledged", || progress.posted.load(Relaxed) >= POSTS);
        let disk = self.disk.fuse();
        let failed_before = disk.reads_failed();
        // They join and learn where the rooms are while reads do well.
        let readers = DeepReaders::start(server.address(), &self.trial.ledger, self.trial.chance.number());
        disk.fail_reads(fault);
        let (read_before, failures) = (readers.progress.readings(), fault.times.unwrap_or(FAILURES));
        let was_read = || readers.progress.readings() >= read_before + READINGS;
        let has_failed = || disk.reads_failed() > failed_before;
        // The scrubber's reads fail too: it takes some more until those of clients surely have.
        holds_within(FAILING_MAX, || was_read() && disk.reads_failed() >= failed_before + failures);
        disk.mend_reads();
        if !has_failed() {
            self.trial.ledger.add(Fault::NotRefused, format!("no read that could fail in {FAILING_MAX:?}: {fault:?}"));
        }
        for (name, count) in readers.stop(&mut self.trial.ledger) {
            self.count(name, count);
        }
        load.stop(&mut self.trial.ledger);
        // What failed took nothing away: it is all there without a restart.
        self.trial.ledger.read_again();
        self.trial.check(&server);
        server.kill();
    }

    fn count(&mut self, what: &str, times: u64) {
        *self.counts.entry(what.to_owned()).or_default() += times;
    }
}
