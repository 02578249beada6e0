//! The floor program's command line, its ranges, and the rules that hold between options.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Serialize;

/// A larger payload would only fill socket buffers, and the figure would be one of waits.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// The kernel's limit on submission entries of one ring (IORING_MAX_ENTRIES).
const BATCH_SENDS_MAX: u32 = 32_768;

/// How the bytes are handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// io_uring: one send entry a socket, one submit a batch
    Uring,
    /// send(2): one system call a socket
    Send,
}

/// How a ring names a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Descriptors {
    /// The process's own descriptor
    Plain,
    /// A place in the ring's registered table
    Direct,
}

/// Measures the least CPU that one send to each of many loopback sockets costs.
#[derive(Parser, Clone, Debug)]
#[command(name = "floor", version)]
pub struct Args {
    /// Loopback TCP connections, each sent to once a round
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=30_000))]
    pub connections: u32,

    /// Exact size of one frame on the wire, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub bytes: u32,

    /// Frames that one send carries (payload = frames × bytes, at most 1 MiB)
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub frames: u32,

    /// How the bytes are handed to the kernel
    #[arg(long, value_enum, default_value_t = Mode::Uring)]
    pub mode: Mode,

    /// How the ring names a socket (uring only)
    #[arg(long, value_enum, default_value_t = Descriptors::Plain)]
    pub descriptors: Descriptors,

    /// Sends per submit (uring only); 0 = one submit a round
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(BATCH_SENDS_MAX)))]
    pub batch: u32,

    /// CPU that the sender is pinned to
    #[arg(long, value_name = "CPU", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_023))]
    pub cpu: u32,

    /// CPU that the drain is pinned to
    #[arg(long, value_name = "CPU", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1_023))]
    pub drain_cpu: u32,

    /// Rounds that may be sent and not yet read by the drain
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub rounds_outstanding: u32,

    /// Never wait for the drain; only full socket buffers hold the sender back
    #[arg(long, conflicts_with = "rounds_outstanding")]
    pub free_run: bool,

    /// Seconds to run before measuring
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub warmup_seconds: Duration,

    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub seconds: Duration,

    /// Print one JSON object instead of a line for people
    #[arg(long)]
    pub json: bool,

    /// Be the drain of the sender that listens there (the sender starts it so)
    #[arg(long, value_name = "ADDR", hide = true)]
    pub drain: Option<SocketAddr>,
}

impl Args {
    /// Checks what holds between options; the ranges of each have been checked by the parser.
    pub fn check(&self) -> Result<(), String> {
        if self.cpu == self.drain_cpu {
            return Err(format!("--cpu and --drain-cpu are both {}: the drain would take the sender's time", self.cpu));
        }
        if self.payload_bytes() > PAYLOAD_BYTES_MAX {
            return Err(format!(
                "--frames × --bytes is {} bytes, the limit is {PAYLOAD_BYTES_MAX}",
                self.payload_bytes()
            ));
        }
        if self.mode == Mode::Send && (self.batch != 0 || self.descriptors == Descriptors::Direct) {
            return Err("--batch and --descriptors direct need --mode uring".into());
        }
        if self.seconds.is_zero() {
            return Err("--seconds must be above 0".into());
        }
        Ok(())
    }

    /// What one send carries.
    pub fn payload_bytes(&self) -> usize {
        // At most 2^20 × 2^12, far from the end of usize.
        self.frames as usize * self.bytes as usize
    }

    /// What one round puts on the wire, over all connections.
    pub fn round_bytes(&self) -> u64 {
        self.payload_bytes() as u64 * u64::from(self.connections)
    }

    /// Sends per submit, with "the whole round" spelled out.
    pub fn batch_sends(&self) -> u32 {
        if self.batch == 0 { self.connections } else { self.batch.min(self.connections) }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    if (0.0..=3_600.0).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err("must be from 0 to 3600 seconds".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(flags: &str) -> Result<Args, String> {
        let line = std::iter::once("floor").chain(flags.split_whitespace());
        let args = Args::try_parse_from(line).map_err(|error| error.to_string())?;
        args.check().map(|()| args)
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for flags in [
            "--connections 0",
            "--connections 30001",
            "--bytes 0",
            "--frames 0",
            "--batch 32769",
            "--rounds-outstanding 0",
            "--seconds 0",
            "--seconds -1",
            "--seconds nan",
            "--warmup-seconds 3601",
            "--mode tcp",
        ] {
            assert!(parsed(flags).is_err(), "{flags} was accepted");
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for flags in [
            "--cpu 1 --drain-cpu 1",
            "--bytes 1048576 --frames 2",
            "--mode send --batch 10",
            "--mode send --descriptors direct",
            "--free-run --rounds-outstanding 2",
        ] {
            assert!(parsed(flags).is_err(), "{flags} was accepted");
        }
    }

    #[test]
    fn defaults_are_one_frame_to_a_thousand_sockets_one_round_outstanding() {
        let args = parsed("").expect("the defaults hold together");
        assert_eq!((args.connections, args.bytes, args.frames, args.rounds_outstanding), (1_000, 200, 1, 1));
        assert_eq!((args.mode, args.descriptors, args.free_run), (Mode::Uring, Descriptors::Plain, false));
        assert_eq!((args.payload_bytes(), args.round_bytes(), args.batch_sends()), (200, 200_000, 1_000));
    }

    #[test]
    fn a_batch_never_exceeds_the_round() {
        assert_eq!(parsed("--connections 10 --batch 64").expect("valid").batch_sends(), 10);
        assert_eq!(parsed("--connections 100 --batch 64").expect("valid").batch_sends(), 64);
    }

    #[test]
    fn the_largest_payload_is_allowed_and_one_byte_more_is_not() {
        assert!(parsed("--bytes 1048576").is_ok());
        assert!(parsed("--bytes 1048576 --frames 1").is_ok());
        assert!(parsed("--bytes 1025 --frames 1024").is_err());
    }
}
