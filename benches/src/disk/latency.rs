//! The bare loop of a log that commits one block at a time.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::args::Latency;
use super::block::{self, Block, Content, Scratch};
use super::doing;
use super::figures::{Latencies, LatencyReport};

struct Loop<'a> {
    file: File,
    path: &'a Path,
    block: Block,
    file_bytes: u64,
    /// Blocks written so far.
    written: u64,
    durable: Latencies,
    write: Latencies,
    sync: Latencies,
}

/// Runs it.
///
/// # Errors
/// When the disk refuses anything.
pub fn run(args: &Latency) -> io::Result<LatencyReport> {
    let scratch = Scratch::new(&args.folder, args.file_mib << 20, Content::Zeros)?;
    let mut loop_ = Loop {
        file: block::open(scratch.path(), OFlags::WRONLY, true)?,
        path: scratch.path(),
        block: Block::new(args.block_bytes),
        file_bytes: args.file_mib << 20,
        written: 0,
        durable: Latencies::default(),
        write: Latencies::default(),
        sync: Latencies::default(),
    };
    loop_.run(args.warmup_seconds, args.rate)?;
    (loop_.durable, loop_.write, loop_.sync) = Default::default();
    let before = loop_.written;
    let took = loop_.run(args.seconds, args.rate)?;
    Ok(loop_.report(args, loop_.written - before, took))
}

impl Loop<'_> {
    /// Writes for that long, each block when the rate says or as soon as the one before is durable.
    fn run(&mut self, time: Duration, rate: Option<u64>) -> io::Result<Duration> {
        let started = Instant::now();
        for number in 0u64.. {
            let intended = match rate {
                None => started.elapsed(),
                Some(rate) => Duration::from_nanos((u128::from(number) * 1_000_000_000 / u128::from(rate)) as u64),
            };
            if intended.max(started.elapsed()) >= time {
                break;
            }
            sleep_until(started + intended);
            self.write_one(started + intended)?;
        }
        Ok(started.elapsed())
    }

    fn write_one(&mut self, intended: Instant) -> io::Result<()> {
        let size = self.block.bytes().len();
        let offset = self.written * size as u64 % self.file_bytes;
        // No two blocks are alike: a disk that knows zeros or repeats gains nothing.
        self.block.bytes_mut()[..8].copy_from_slice(&(self.written + 1).to_le_bytes());
        let begun = Instant::now();
        let wrote = rustix::io::pwrite(&self.file, self.block.bytes(), offset).map_err(doing("writing", self.path))?;
        if wrote != size {
            return Err(io::Error::other(format!("a write ended at {wrote} of {size} bytes")));
        }
        let written = Instant::now();
        rustix::fs::fdatasync(&self.file).map_err(doing("syncing", self.path))?;
        let synced = Instant::now();
        self.write.record(written - begun);
        self.sync.record(synced - written);
        self.durable.record(synced - intended);
        self.written += 1;
        Ok(())
    }

    fn report(&self, args: &Latency, blocks: u64, took: Duration) -> LatencyReport {
        LatencyReport {
            program: "disk-floor",
            question: "latency",
            folder: args.folder.display().to_string(),
            file_mib: args.file_mib,
            block_bytes: args.block_bytes,
            rate_blocks_per_s: args.rate,
            blocks,
            seconds: took.as_secs_f64(),
            blocks_per_s: blocks as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE),
            durable_us: self.durable.quantiles(),
            write_us: self.write.quantiles(),
            sync_us: self.sync.quantiles(),
        }
    }
}

/// Sleeps, and spins for the last of it: a sleep ends up to 60 us late.
fn sleep_until(time: Instant) {
    const SPIN: Duration = Duration::from_micros(100);
    let left = time.saturating_duration_since(Instant::now());
    if left > SPIN {
        std::thread::sleep(left - SPIN);
    }
    while Instant::now() < time {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::{Args, Question};
    use super::*;
    use clap::Parser;

    fn run_in(folder: &Path, more: &str) -> LatencyReport {
        let line = format!("x latency --file-mib 1 --seconds 0.2 --warmup-seconds 0 {more} --folder");
        let words = line.split_whitespace().map(Into::into).chain([folder.as_os_str().to_owned()]);
        let Question::Latency(args) = Args::parse_from(words).question else { panic!() };
        run(&args).unwrap()
    }

    #[test]
    fn a_rate_is_never_passed_and_the_file_is_gone_afterwards() {
        // Not every file system that holds temporary folders knows O_DIRECT; the one of the sources does.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let report = run_in(folder.path(), "--rate 50");
        // As many as 0.2 s have, or fewer on a busy machine.
        let blocks = report.blocks;
        assert_eq!((report.durable_us.count, report.sync_us.count), (blocks, blocks));
        assert!((1..=10).contains(&blocks), "{blocks}");
        let report = run_in(folder.path(), "");
        assert!(report.blocks > 0 && report.durable_us.p50 >= report.sync_us.p50);
        assert!(block::files_of(folder.path()).unwrap().is_empty());
    }
}
