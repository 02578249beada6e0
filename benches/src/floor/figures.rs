//! The arithmetic from clock readings to the figures that are published, and the line for people.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::args::{Args, Descriptors, Mode};

/// Above this share of its CPU the drain, not the sender, is taken to have set the pace.
const BOTTLENECK_SHARE: f64 = 0.95;

/// One reading of every clock, each since a start of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Clocks {
    /// Time on the wall.
    pub wall: Duration,
    /// CPU of the sending process, user and system, all threads.
    pub process: Duration,
    /// CPU of the sending thread alone.
    pub thread: Duration,
    /// CPU of the drain process.
    pub drain: Duration,
    /// CPU of the kernel's softirq thread on the sender's CPU, where it can be seen.
    pub softirq: Option<Duration>,
}

/// What was measured between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Sends completed.
    pub sends: u64,
    /// Time on the wall.
    pub wall_seconds: f64,
    /// The sending process's CPU, divided by sends.
    pub send_cpu_us: f64,
    /// The sending thread's CPU, divided by sends: lower than `send_cpu_us` only if the kernel used other threads.
    pub send_thread_cpu_us: f64,
    /// CPU of the kernel's softirq thread on the sender's CPU, divided by sends: the kernel finishes some receives there
    /// after a long submit, and charges nobody for it. Not part of the others; null where it cannot be seen.
    pub send_softirq_cpu_us: Option<f64>,
    /// The sending process's CPU, divided by frames: the floor of a delivery.
    pub frame_cpu_us: f64,
    /// Sends completed, by the wall.
    pub sends_per_second: f64,
    /// Frames sent, by the wall.
    pub frames_per_second: f64,
    /// Frames that the sender would reach if it never waited.
    pub frames_per_core_second: f64,
    /// The sender's share of its CPU, 0 to 1.
    pub sender_busy: f64,
    /// The drain's share of its CPU, 0 to 1.
    pub drain_busy: f64,
    /// The drain had no time to spare while the sender had.
    pub drain_was_bottleneck: bool,
}

impl Figures {
    /// The figures of `sends` sends of `frames` frames each, completed between two readings.
    ///
    /// # Panics
    /// If nothing was sent or no time went by: there is no figure then.
    pub fn between(start: Clocks, end: Clocks, sends: u64, frames: u32) -> Self {
        let wall = (end.wall - start.wall).as_secs_f64();
        let process = (end.process - start.process).as_secs_f64();
        let thread = (end.thread - start.thread).as_secs_f64();
        let drain = (end.drain - start.drain).as_secs_f64();
        let softirq = start.softirq.zip(end.softirq).map(|(start, end)| (end - start).as_secs_f64());
        assert!(sends > 0 && frames > 0 && wall > 0.0 && process > 0.0, "nothing was measured");
        let frames_sent = sends as f64 * f64::from(frames);
        let (sender_busy, drain_busy) = (process / wall, drain / wall);
        Self {
            sends,
            wall_seconds: wall,
            send_cpu_us: process * 1e6 / sends as f64,
            send_thread_cpu_us: thread * 1e6 / sends as f64,
            send_softirq_cpu_us: softirq.map(|softirq| softirq * 1e6 / sends as f64),
            frame_cpu_us: process * 1e6 / frames_sent,
            sends_per_second: sends as f64 / wall,
            frames_per_second: frames_sent / wall,
            frames_per_core_second: frames_sent / process,
            sender_busy,
            drain_busy,
            drain_was_bottleneck: drain_busy >= BOTTLENECK_SHARE && drain_busy > sender_busy,
        }
    }
}

/// Figures together with what they are figures of.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Always "floor".
    pub program: &'static str,
    /// Release of the running kernel.
    pub kernel: String,
    /// How the bytes were handed to the kernel.
    pub mode: Mode,
    /// How the ring named a socket.
    pub descriptors: Descriptors,
    /// Sockets sent to, once a round.
    pub connections: u32,
    /// Size of one frame.
    pub frame_bytes: u32,
    /// Frames that one send carried.
    pub frames_per_send: u32,
    /// Sends that one submit carried (1 with send(2)).
    pub batch_sends: u32,
    /// Rounds that could be sent and unread; null: the sender never waited for the drain.
    pub rounds_outstanding: Option<u32>,
    /// The sender's CPU.
    pub cpu: u32,
    /// The drain's CPU.
    pub drain_cpu: u32,
    /// What was measured.
    #[serde(flatten)]
    pub figures: Figures,
}

impl Report {
    /// Puts figures beside the options that led to them.
    pub fn new(args: &Args, kernel: String, figures: Figures) -> Self {
        Self {
            program: "floor",
            kernel,
            mode: args.mode,
            descriptors: args.descriptors,
            connections: args.connections,
            frame_bytes: args.bytes,
            frames_per_send: args.frames,
            batch_sends: if args.mode == Mode::Send { 1 } else { args.batch_sends() },
            rounds_outstanding: (!args.free_run).then_some(args.rounds_outstanding),
            cpu: args.cpu,
            drain_cpu: args.drain_cpu,
            figures,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match (self.mode, self.descriptors) {
            (Mode::Send, _) => "send(2)",
            (Mode::Uring, Descriptors::Plain) => "io_uring, plain descriptors",
            (Mode::Uring, Descriptors::Direct) => "io_uring, direct descriptors",
        };
        let Self { connections, frame_bytes, frames_per_send, figures, .. } = self;
        write!(out, "{how}, {connections} sockets, {frames_per_send} × {frame_bytes} B a send, ")?;
        match self.rounds_outstanding {
            Some(rounds) => write!(out, "rounds outstanding {rounds}: ")?,
            None => write!(out, "free run: ")?,
        }
        write!(
            out,
            "{:.3} µs CPU a send, {:.3} µs a frame; {:.0} sends/s; sender {:.0} % busy, drain {:.0} %",
            figures.send_cpu_us,
            figures.frame_cpu_us,
            figures.sends_per_second,
            figures.sender_busy * 100.0,
            figures.drain_busy * 100.0
        )?;
        if let Some(softirq) = figures.send_softirq_cpu_us {
            write!(out, "; {softirq:.3} µs a send more in ksoftirqd")?;
        }
        if figures.drain_was_bottleneck {
            write!(out, " (the drain was the bottleneck)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn clocks(wall_ms: u64, process_ms: u64, thread_ms: u64, drain_ms: u64) -> Clocks {
        Clocks {
            wall: Duration::from_millis(wall_ms),
            process: Duration::from_millis(process_ms),
            thread: Duration::from_millis(thread_ms),
            drain: Duration::from_millis(drain_ms),
            softirq: None,
        }
    }

    fn assert_near(actual: f64, expected: f64) {
        assert!((actual - expected).abs() <= expected.abs() * 1e-9, "{actual} is not {expected}");
    }

    #[test]
    fn figures_are_differences_not_totals() {
        let figures = Figures::between(clocks(1_000, 500, 400, 300), clocks(3_000, 1_500, 1_300, 900), 250_000, 16);
        assert_near(figures.wall_seconds, 2.0);
        assert_near(figures.send_cpu_us, 4.0);
        assert_near(figures.send_thread_cpu_us, 3.6);
        assert_near(figures.frame_cpu_us, 0.25);
        assert_near(figures.sends_per_second, 125_000.0);
        assert_near(figures.frames_per_second, 2_000_000.0);
        assert_near(figures.frames_per_core_second, 4_000_000.0);
        assert_near(figures.sender_busy, 0.5);
        assert_near(figures.drain_busy, 0.3);
        assert!(!figures.drain_was_bottleneck);
    }

    #[test]
    fn softirq_time_is_told_apart_and_only_if_seen_twice() {
        let (start, end) = (clocks(0, 0, 0, 0), clocks(1_000, 1_000, 1_000, 500));
        let seen = |ms| Some(Duration::from_millis(ms));
        let both =
            Figures::between(Clocks { softirq: seen(70), ..start }, Clocks { softirq: seen(170), ..end }, 1_000, 1);
        assert_near(both.send_softirq_cpu_us.expect("seen twice"), 100.0);
        assert_near(both.send_cpu_us, 1_000.0);
        assert_eq!(Figures::between(start, Clocks { softirq: seen(170), ..end }, 1_000, 1).send_softirq_cpu_us, None);
    }

    #[test]
    fn a_full_drain_is_the_bottleneck_only_while_the_sender_has_time() {
        let start = Clocks::default();
        assert!(Figures::between(start, clocks(1_000, 800, 800, 990), 1, 1).drain_was_bottleneck);
        assert!(!Figures::between(start, clocks(1_000, 1_000, 1_000, 990), 1, 1).drain_was_bottleneck);
        assert!(!Figures::between(start, clocks(1_000, 800, 800, 900), 1, 1).drain_was_bottleneck);
    }

    #[test]
    #[should_panic(expected = "nothing was measured")]
    fn no_sends_is_no_figure() {
        Figures::between(Clocks::default(), clocks(1, 1, 1, 1), 0, 1);
    }

    #[test]
    fn json_is_one_flat_object_and_free_run_is_null() {
        let args = Args::parse_from(["floor", "--free-run", "--frames", "16"]);
        let figures = Figures::between(Clocks::default(), clocks(1_000, 1_000, 1_000, 500), 1_000, 16);
        let json = serde_json::to_value(Report::new(&args, "6.18".into(), figures)).expect("plain values");
        assert_eq!(json["rounds_outstanding"], serde_json::Value::Null);
        assert_eq!(json["frames_per_send"], 16);
        assert_eq!(json["send_cpu_us"], 1_000.0);
        assert_eq!(json["mode"], "uring");
    }
}
