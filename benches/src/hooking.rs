//! What a hook over HTTP takes at least: what a server has to do for each post that it asks another program about.
//!
//! Both sides are ours and do nothing but that: one kept connection over loopback, a request of fixed bytes, an answer of fixed
//! bytes, each looked through for the end of its head and its body. A real hook parses, routes and thinks on top of it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use banter_loadgen::measure::Latencies;
use banter_loadgen::report::Quantiles;
use clap::Parser;
use serde::Serialize;

use crate::floor::sys::{pin_to_cpu, thread_cpu};

/// Bytes of the body that is asked about, as those of the bench of programs.
const BODY_BYTES: usize = 129;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"result\":{}}";

/// Asks a program that answers at once, one request after another, and says what that takes of the one who asks.
#[derive(Debug, Parser)]
#[command(name = "http-hook", version)]
pub struct Args {
    /// Seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// The CPU of the one who asks
    #[arg(long, value_name = "CPU", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..1024))]
    pub cpu: u32,
    /// The CPU of the one who is asked
    #[arg(long, value_name = "CPU", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..1024))]
    pub hook_cpu: u32,
    /// Print one JSON object instead of a line
    #[arg(long)]
    pub json: bool,
}

/// What it took.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Report {
    pub seconds: f64,
    pub body_bytes: usize,
    /// From the request to its answer.
    pub answered_us: Quantiles,
    /// Of the thread that asks.
    pub cpu_us_per_ask: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seconds, body_bytes, answered_us, cpu_us_per_ask } = self;
        write!(
            out,
            "{} asks about {body_bytes} bytes in {seconds:.1} s: answered in p50 {:.1} µs, p99 {:.1} µs; {cpu_us_per_ask:.2} µs of CPU each",
            answered_us.count, answered_us.p50, answered_us.p99
        )
    }
}

/// Measures it.
///
/// # Errors
/// A socket or a CPU is not to be had.
pub fn run(args: &Args) -> io::Result<Report> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut hook, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    hook.set_nodelay(true)?;
    let body = format!("\"{}\"", "x".repeat(BODY_BYTES - 2));
    let request = format!(
        "POST /hook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (request_bytes, hook_cpu) = (request.len(), args.hook_cpu);
    let answering = std::thread::spawn(move || -> io::Result<()> {
        pin_to_cpu(hook_cpu)?;
        let mut asked = vec![0; request_bytes];
        // It ends where the one who asks does.
        while hook.read_exact(&mut asked).is_ok() {
            hook.write_all(ANSWER)?;
        }
        Ok(())
    });
    pin_to_cpu(args.cpu)?;
    let (mut answered, mut latencies) = (vec![0; ANSWER.len()], Latencies::default());
    let (begun, before) = (Instant::now(), thread_cpu()?);
    while begun.elapsed() < Duration::from_secs(args.seconds) {
        let asked = Instant::now();
        stream.write_all(request.as_bytes())?;
        stream.read_exact(&mut answered)?;
        latencies.record(asked.elapsed());
    }
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), thread_cpu()?.saturating_sub(before));
    drop(stream);
    answering.join().map_err(|_| io::Error::other("the one who is asked failed"))??;
    let answered_us = Quantiles::of(&latencies);
    let cpu_us_per_ask = cpu.as_secs_f64() * 1e6 / answered_us.count.max(1) as f64;
    Ok(Report { seconds, body_bytes: BODY_BYTES, answered_us, cpu_us_per_ask })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ask_is_answered_and_takes_something() {
        let report = run(&Args { seconds: 1, cpu: 0, hook_cpu: 0, json: false }).expect("CPU 0 and a socket");
        assert!(report.answered_us.count > 0 && report.cpu_us_per_ask > 0.0, "{report}");
        assert!(report.to_string().contains("129 bytes"), "{report}");
    }
}
