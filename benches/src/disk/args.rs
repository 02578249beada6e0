//! The command line of disk-floor, with its ranges.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};

/// Measures what the disk under a folder does by itself, for a log to be judged beside.
#[derive(Debug, Parser)]
#[command(name = "disk-floor", version)]
pub struct Args {
    /// What to measure.
    #[command(subcommand)]
    pub question: Question,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Question {
    /// One block at a time: pwrite with O_DIRECT, then fdatasync; how long each takes
    Latency(Latency),
    /// Files read from end to end: bytes a second, through the page cache (cold) and around it
    Read(Read),
    /// Nothing is measured: the files of a folder leave the page cache, so that the next to read them finds them cold
    Forget(Forget),
}

/// The loop of `latency`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Latency {
    /// Folder on the disk to measure; a file is made there, and removed
    #[arg(long, value_name = "DIR")]
    pub folder: PathBuf,
    /// Size of the file, zero-filled and synced beforehand; the loop begins again at its end
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    pub file_mib: u64,
    /// Bytes of one write, in whole pages of 4096
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = block_bytes)]
    pub block_bytes: usize,
    /// Blocks a second; timed from when each was meant to be written [default: back to back]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub rate: Option<u64>,
    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub seconds: Duration,
    /// Seconds before that
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    pub warmup_seconds: Duration,
    /// CPU to run on
    #[arg(long, value_name = "CPU", value_parser = clap::value_parser!(u32).range(0..=1_023))]
    pub cpu: Option<u32>,
    /// Print one JSON object instead of a line for people
    #[arg(long)]
    pub json: bool,
}

/// What `read` reads.
#[derive(Clone, Debug, ClapArgs)]
pub struct Read {
    /// Folder whose files are read; where it has none a file is made there, and removed
    #[arg(long, value_name = "DIR")]
    pub folder: PathBuf,
    /// Size of the file that is made
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    pub file_mib: u64,
    /// Bytes of one read, in whole pages of 4096
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = block_bytes)]
    pub block_bytes: usize,
    /// Seconds that each way of reading may take; what was read until then counts
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub seconds: Duration,
    /// CPU to run on
    #[arg(long, value_name = "CPU", value_parser = clap::value_parser!(u32).range(0..=1_023))]
    pub cpu: Option<u32>,
    /// Print one JSON object instead of a line for people
    #[arg(long)]
    pub json: bool,
}

/// What `forget` forgets.
#[derive(Clone, Debug, ClapArgs)]
pub struct Forget {
    /// Folder whose files leave the page cache
    #[arg(long, value_name = "DIR")]
    pub folder: PathBuf,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    if (0.0..=3_600.0).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err("must be from 0 to 3600 seconds".into())
    }
}

fn block_bytes(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        // A file has whole MiB, so that it must be one's divisor.
        Ok(bytes) if bytes.is_power_of_two() && (4096..=1 << 20).contains(&bytes) => Ok(bytes),
        _ => Err("must be a power of two from 4096 to 1048576".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_its_ranges_hold() {
        Args::command().debug_assert();
        let parsed = |line: &str| Args::try_parse_from(line.split(' '));
        assert!(parsed("x latency --folder d --rate 2000 --seconds 0.5 --json").is_ok());
        assert!(parsed("x read --folder d --block-bytes 4096").is_ok());
        for line in [
            "x latency",
            "x latency --folder d --block-bytes 4095",
            "x latency --folder d --block-bytes 12288",
            "x latency --folder d --block-bytes 2097152",
            "x latency --folder d --seconds 3601",
            "x latency --folder d --rate 0",
            "x read --folder d --file-mib 0",
        ] {
            assert!(parsed(line).is_err(), "{line} was accepted");
        }
    }
}
