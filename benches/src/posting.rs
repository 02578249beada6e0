//! Posts through the interface for backends, one under way on each kept connection: how many a second, and at what CPU.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use banter_loadgen::args::Target;
use banter_loadgen::body::{PAYLOAD_BYTES_MIN, Template};
use banter_loadgen::measure::Latencies;
use banter_loadgen::process::cpu_of;
use banter_loadgen::report::Quantiles;
use clap::Parser;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use serde::Serialize;

use crate::api::{Caller, read_key};

/// Connections that one look finds at most.
const READY_MAX: usize = 256;
/// Nothing was answered for so long: something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// Posts through the interface for backends as a backend does: each connection posts to a room of its own, and again as soon as
/// it is answered. Exit code: 0 measured, 1 not: a post was refused, or nobody answers.
#[derive(Debug, Parser)]
#[command(name = "api-posts", version)]
pub struct Args {
    /// Where the interface for backends listens
    #[arg(long, value_name = "ADDR")]
    pub api: SocketAddr,
    /// The file with a key of it that has the right to post
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,
    /// The server's process, of this user
    #[arg(long)]
    pub pid: u32,
    /// Pin this program to a CPU
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Connections, each with one post under way
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub connections: u16,
    /// A body's bytes on the wire: a JSON text with its quotes
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub payload: usize,
    /// Seconds before those that are measured
    #[arg(long, value_name = "S", default_value_t = 2)]
    pub warmup: u64,
    /// Seconds that are measured
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub duration: u64,
    /// Print one JSON object instead of lines for people
    #[arg(long)]
    pub json: bool,
}

/// What it took. Names end in their unit.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Report {
    pub job: &'static str,
    pub connections: u16,
    pub payload_bytes: usize,
    pub window_s: f64,
    pub posts: u64,
    pub posts_per_s: f64,
    /// Of all threads of the server, that of the interface among them.
    pub server_cpu_us_per_post: f64,
    pub server_cpu_share: f64,
    pub own_cpu_share: f64,
    /// From the request to the answer.
    pub answered_us: Quantiles,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { connections, posts_per_s, server_cpu_us_per_post, server_cpu_share, answered_us, .. } = self;
        let Quantiles { p50, p99, .. } = answered_us;
        write!(
            out,
            "{connections} connections: {posts_per_s:.0} posts a second, {server_cpu_us_per_post:.2} us of server CPU each "
        )?;
        write!(out, "({:.0} % of a core); answered: p50 {p50:.0} us, p99 {p99:.0} us", server_cpu_share * 100.0)
    }
}

/// What was seen at a moment.
struct Moment {
    at: Instant,
    posts: u64,
    server_cpu: Duration,
    own_cpu: Duration,
}

/// A connection, and since when its post is under way.
struct Poster {
    caller: Caller,
    path: String,
    asked_at: Instant,
}

struct Posters {
    posters: Vec<Poster>,
    template: Template,
    posts: u64,
    answered: Latencies,
}

/// Measures.
///
/// # Errors
/// When nobody answers there, the server cannot be measured, or a post is refused.
pub fn run(args: &Args) -> Result<Report, Box<dyn Error>> {
    if args.payload < PAYLOAD_BYTES_MIN {
        return Err(format!("--payload must be at least {PAYLOAD_BYTES_MIN}").into());
    }
    banter_loadgen::opening::prepare(&target(args), args.connections.into())?;
    let mut posters = Posters::open(args)?;
    posters.run_for(Duration::from_secs(args.warmup))?;
    posters.answered = Latencies::default();
    let before = posters.moment(args.pid)?;
    posters.run_for(Duration::from_secs(args.duration))?;
    let after = posters.moment(args.pid)?;
    Ok(posters.report(args, &before, &after))
}

impl Posters {
    fn open(args: &Args) -> Result<Self, Box<dyn Error>> {
        let key = read_key(&args.key_file)?;
        let poster = |number| {
            let caller = Caller::connect(args.api, &key)?;
            Ok(Poster { caller, path: format!("/v1/rooms/api-{number}/messages"), asked_at: Instant::now() })
        };
        let posters: Result<Vec<_>, std::io::Error> = (0..args.connections).map(poster).collect();
        Ok(Posters {
            posters: posters?,
            template: Template::new(args.payload),
            posts: 0,
            answered: Latencies::default(),
        })
    }

    /// Posts on every connection, again as each is answered, and ends with none under way.
    fn run_for(&mut self, time: Duration) -> Result<(), Box<dyn Error>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, poster) in self.posters.iter().enumerate() {
            epoll::add(&epoll, &poster.caller, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        }
        (0..self.posters.len()).try_for_each(|number| self.post(number))?;
        let (started, mut under_way, mut found) = (Instant::now(), self.posters.len(), Vec::with_capacity(READY_MAX));
        while under_way > 0 {
            let patience = Timespec { tv_sec: PATIENCE.as_secs().try_into()?, tv_nsec: 0 };
            if epoll::wait(&epoll, spare_capacity(&mut found), Some(&patience))? == 0 {
                return Err(format!("nothing was answered for {} s", PATIENCE.as_secs()).into());
            }
            for event in found.drain(..) {
                let number = event.data.u64() as usize;
                if self.take_answer(number)? {
                    if started.elapsed() < time { self.post(number)? } else { under_way -= 1 }
                }
            }
        }
        Ok(())
    }

    fn post(&mut self, number: usize) -> std::io::Result<()> {
        let body = String::from_utf8_lossy(self.template.write(self.posts));
        let poster = &mut self.posters[number];
        poster.asked_at = Instant::now();
        poster.caller.ask(&poster.path, &format!(r#"{{"user":"backend","body":{body}}}"#))
    }

    /// Whether the answer was whole.
    fn take_answer(&mut self, number: usize) -> Result<bool, Box<dyn Error>> {
        let poster = &mut self.posters[number];
        let Some(answer) = poster.caller.answer()? else { return Ok(false) };
        if answer.status != 200 {
            return Err(format!("a post was answered {}: {}", answer.status, answer.body).into());
        }
        self.answered.record(poster.asked_at.elapsed());
        self.posts += 1;
        Ok(true)
    }

    fn moment(&self, pid: u32) -> Result<Moment, Box<dyn Error>> {
        let (server_cpu, own_cpu) = (cpu_of(pid)?, cpu_of(std::process::id())?);
        Ok(Moment { at: Instant::now(), posts: self.posts, server_cpu, own_cpu })
    }

    fn report(&self, args: &Args, before: &Moment, after: &Moment) -> Report {
        let (window_s, posts) = ((after.at - before.at).as_secs_f64(), after.posts - before.posts);
        let server_cpu_s = after.server_cpu.saturating_sub(before.server_cpu).as_secs_f64();
        Report {
            job: "api-posts",
            connections: args.connections,
            payload_bytes: args.payload,
            window_s,
            posts,
            posts_per_s: posts as f64 / window_s,
            server_cpu_us_per_post: server_cpu_s * 1e6 / (posts.max(1)) as f64,
            server_cpu_share: server_cpu_s / window_s,
            own_cpu_share: after.own_cpu.saturating_sub(before.own_cpu).as_secs_f64() / window_s,
            answered_us: Quantiles::of(&self.answered),
        }
    }
}

/// What readies this process is told so.
fn target(args: &Args) -> Target {
    Target { cpu: args.cpu, pid: Some(args.pid), ..Target::of(args.api) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }
}
