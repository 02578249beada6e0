//! What it costs a server to read rooms back from its log: bytes of the disk for each byte of a page.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use banter_loadgen::args::Wire;
use banter_loadgen::fleet::{Fleet, Sink};
use banter_loadgen::scan::Seen;
use banter_loadgen::scan_json::Openings;
use banter_loadgen::wire::Entry;
use banter_protocol::request::JoinFrom;
use clap::Parser;
use serde::Serialize;

/// Nothing came for so long: the room has fewer messages than that.
const PATIENCE: Duration = Duration::from_secs(10);
const TURN_MAX: Duration = Duration::from_millis(20);

/// Joins one room after another behind its newest messages, reads until it has them all, and says what the server read of
/// its disk for that. Nothing else should go on at that server, and its rooms should not be in memory.
#[derive(Debug, Parser)]
#[command(name = "read-history", version)]
pub struct Args {
    /// The server's address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7878")]
    pub server: SocketAddr,
    /// The server's process, of this user
    #[arg(long)]
    pub pid: u32,
    /// Rooms to read: room-0, and so many more
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// From the number of one room to that of the next: neighbours share pages of the disk
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub step: u32,
    /// Messages of each, the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub messages: u64,
    /// Print one JSON object instead of a line for people
    #[arg(long)]
    pub json: bool,
}

/// What it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Messages that came.
    pub messages: u64,
    /// Bytes of them as they came, in native frames.
    pub page_bytes: u64,
    /// Bytes that the server read of its log for that, by direct I/O: all of them came from the disk.
    pub log_bytes: u64,
    /// Bytes that its process read of the disk meanwhile, as the kernel counts them: also what its scrubber reads.
    pub disk_bytes: u64,
    /// Pages that it says it read of its log.
    pub pages: u64,
    /// Bytes of the log that were read for a byte of a page.
    pub log_bytes_per_page_byte: f64,
    /// Bytes of the log that were read for a message.
    pub log_bytes_per_message: f64,
    /// Time on the wall.
    pub seconds: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { messages, page_bytes, log_bytes, pages, log_bytes_per_page_byte, seconds, .. } = self;
        write!(out, "{messages} messages, {page_bytes} bytes in {pages} pages of the log, in {seconds:.2} s; ")?;
        write!(out, "{log_bytes} bytes read of it, {log_bytes_per_page_byte:.2} for a byte of a page")
    }
}

/// Reads them.
///
/// # Errors
/// When the server cannot be measured or refuses, or a room has too few messages.
pub fn run(args: &Args) -> io::Result<Cost> {
    let (before, started) = (Counted::now(args)?, Instant::now());
    let mut cost = Cost::default();
    for room in 0..args.rooms {
        let (messages, bytes) = read_room(args, &format!("room-{}", u64::from(room) * u64::from(args.step)))?;
        (cost.messages, cost.page_bytes) = (cost.messages + messages, cost.page_bytes + bytes);
    }
    cost.seconds = started.elapsed().as_secs_f64();
    let after = Counted::now(args)?;
    cost.disk_bytes = after.disk_bytes.saturating_sub(before.disk_bytes);
    cost.log_bytes = after.log_bytes.saturating_sub(before.log_bytes);
    cost.pages = after.pages.saturating_sub(before.pages);
    cost.log_bytes_per_page_byte = cost.log_bytes as f64 / cost.page_bytes.max(1) as f64;
    cost.log_bytes_per_message = cost.log_bytes as f64 / cost.messages.max(1) as f64;
    Ok(cost)
}

/// A reader of one room.
#[derive(Default)]
struct Reader {
    any: Openings,
    is_open: bool,
    messages: u64,
    fault: Option<String>,
}

impl Sink for Reader {
    fn openings(&self, _connection: usize) -> &Openings {
        &self.any
    }

    fn seen(&mut self, _connection: usize, seen: Seen<'_>, _now: Instant) {
        match seen {
            Seen::Message { .. } => self.messages += 1,
            Seen::Joined { .. } => self.is_open = true,
            Seen::Gap { from, to } => self.fault = Some(format!("messages {from} to {to} are out of reach")),
            Seen::Refused { code, message } => self.fault = Some(format!("the server refused: {code}: {message}")),
            _ => {}
        }
    }
}

/// The messages that came, and their bytes.
fn read_room(args: &Args, room: &str) -> io::Result<(u64, u64)> {
    let mut fleet = Fleet::new(Wire::Native, args.server).map_err(io::Error::other)?;
    fleet.connect().map_err(io::Error::other)?;
    let entry = Entry { from: JoinFrom::Last(args.messages), ..Entry::now(room) };
    fleet.hello_and_join(0, entry).map_err(io::Error::other)?;
    let (mut reader, mut came_at, mut opening_bytes) = (Reader::default(), Instant::now(), None);
    while reader.messages < args.messages {
        let before = reader.messages;
        fleet.turn(TURN_MAX, &mut reader).map_err(io::Error::other)?;
        if reader.is_open && reader.messages == 0 {
            opening_bytes = Some(fleet.traffic.bytes_in);
        }
        if reader.messages > before {
            came_at = Instant::now();
        } else if came_at.elapsed() > PATIENCE {
            reader.fault.get_or_insert(format!("{} of {} messages came", reader.messages, args.messages));
        }
        if let Some(fault) = reader.fault.take() {
            return Err(io::Error::other(format!("{room}: {fault}")));
        }
    }
    Ok((reader.messages, fleet.traffic.bytes_in - opening_bytes.unwrap_or(0)))
}

/// What is counted of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counted {
    disk_bytes: u64,
    log_bytes: u64,
    pages: u64,
}

impl Counted {
    fn now(args: &Args) -> io::Result<Self> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", args.pid))?;
        let disk_bytes = field_of(&io, "read_bytes:").ok_or_else(|| io::Error::other("/proc has no read_bytes"))?;
        let mut stream = TcpStream::connect(args.server)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics)?;
        let sum = |name| sum_of(&metrics, name);
        Ok(Counted { disk_bytes, log_bytes: sum("banter_log_read_bytes_total"), pages: sum("banter_log_pages_total") })
    }
}

fn field_of(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)).and_then(|number| number.trim().parse().ok())
}

/// A metric, summed over cores.
fn sum_of(metrics: &str, name: &str) -> u64 {
    let samples = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    samples.filter_map(|rest| rest.split_once("} ")?.1.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_metric_is_summed_over_cores_and_others_of_a_like_name_are_not() {
        let text = "# TYPE a_total counter\na_total{core=\"0\"} 3\na_total{core=\"1\"} 4\na_total_more{core=\"0\"} 9\n";
        assert_eq!((sum_of(text, "a_total"), sum_of(text, "b_total")), (7, 0));
        assert_eq!(field_of("rchar: 1\nread_bytes: 42\n", "read_bytes:"), Some(42));
    }
}
