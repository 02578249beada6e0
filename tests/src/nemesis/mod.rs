//! A whole cluster under load whose servers are killed, halted, cut off and filled, and a ledger of what it promised.
//!
//! ```text
//!  writers, readers ─▶ nodes n0 n1 ─▶ engine s0 s1 s2      each on a host and a data folder of its own
//!        │                  ▲               ▲
//!        ▼                  └──── faults ───┘
//!   ledger, acks ─▶ the verdict, and how long posts had to wait
//! ```
//!
//! The load goes on through all faults. Behind each the cluster has to come back by itself; what all rooms hold in the end,
//! read from one node and then from another, is judged by the same ledger as a single server's.

pub mod acks;
pub mod cluster;
pub mod engine_servers;
pub mod faults;
pub mod network;
pub mod nodes;
pub mod outcome;
mod reader;
mod visitor;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use acks::Acks;
use cluster::{BACK_MAX, Cluster, Size};
use faults::{Begun, Kind};
use outcome::{Outcome, Round, p50_and_max_ms};
use reader::{ReadOf, Reader};
use visitor::Visitor;
use writer::{Shared, Writer, Written};

use crate::audit;
use crate::ledger::{Bodies, Ledger, room_name, writer_name};
use crate::loop_disk::LoopDisk;
use crate::report::Report;
use crate::seeded::Seeded;
use crate::server_process::{holds_within, program};
use crate::wire_client::Form;

/// Servers of the engine: what three copies take.
const SERVERS: usize = 3;
const WRITERS: usize = 8;
const READERS: usize = 8;
/// Rooms: enough that most partitions have one.
const ROOMS: usize = 12;
const ROOMS_PER_WRITER: usize = 3;
const ROOMS_PER_READER: usize = 6;
/// The largest body: some span several of the engine's blocks on a disk.
const BODY_BYTES_MAX: usize = 2_000;
/// What a post takes of a stream, with its frame and a share of its block, above the mean.
const POST_BYTES: u64 = 600;
/// The largest share of all posts that one partition gets: three rooms of twelve.
const PARTITION_SHARE: u64 = 4;
/// The least that a partition may hold.
const STREAM_BYTES_MIN: u64 = 32 << 20;
/// A disk that is made to see whether there can be any.
const PROBE_MIB: u64 = 16;
/// The rest between two rounds, in milliseconds.
const CALM_MS: (usize, usize) = (300, 1_500);
/// The second fault of a pair begins so much later, at most.
const APART_MS_MAX: usize = 3_000;
/// Readers are done when nothing was shown for so long, behind the last post.
const SETTLED: Duration = Duration::from_secs(2);

/// How long a run goes on.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// Until that much time has passed.
    Time(Duration),
    /// Until each fault has happened once, in its order, alone.
    EachOnce,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Options {
    /// All chance comes from it.
    pub seed: u64,
    /// How long it goes on.
    pub length: Length,
    /// What may happen.
    pub faults: Vec<Kind>,
    /// Posts of all writers together.
    pub posts_per_second: u32,
    /// Banter nodes.
    pub nodes: usize,
    /// The NATS server.
    pub binary: PathBuf,
    /// Whether the logs, configurations and data of all servers stay, also where nothing is found.
    pub keeps: bool,
    /// Whether to say on the terminal how it goes.
    pub tells: bool,
}

/// Runs it.
///
/// # Errors
/// This machine or this user cannot, or the cluster did not even start.
pub fn run(options: Options) -> Result<Outcome, String> {
    program();
    let folder = std::env::temp_dir().join(format!("banter-nemesis-{}-{}", options.seed, std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let mut outcome = run_in(&options, &folder)?;
    if outcome.report.is_clean() && !options.keeps {
        let _ = std::fs::remove_dir_all(&folder);
    } else {
        outcome.kept = Some(folder);
    }
    Ok(outcome)
}

fn run_in(options: &Options, folder: &Path) -> Result<Outcome, String> {
    let acks = Acks::new(ROOMS, READERS);
    let (stop, abandon, next_id) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(1));
    let shared = Arc::new(Shared { stop, abandon, next_id, acks });
    let (mut faults, mut left_out) = (options.faults.clone(), Vec::new());
    if faults.iter().any(|kind| kind.is_of_disks())
        && let Err(lack) = LoopDisk::make(PROBE_MIB)
    {
        left_out.push(format!("power cuts and full disks, since there is no ext4 on a loop device here: {lack}"));
        faults.retain(|kind| !kind.is_of_disks());
    }
    let has_disks = faults.iter().any(|kind| kind.is_of_disks());
    let seconds = match options.length {
        Length::Time(time) => time.as_secs(),
        Length::EachOnce => faults.len() as u64 * 60,
    };
    let bytes = u64::from(options.posts_per_second) * seconds * POST_BYTES / PARTITION_SHARE;
    let stream_bytes_max = bytes.max(STREAM_BYTES_MIN);
    let size = Size { nodes: options.nodes, servers: SERVERS, stream_bytes_max, has_disks };
    let mut cluster = Cluster::start(size, options.binary.clone(), folder, Arc::clone(&shared))?;
    if let Some(lack) = cluster.network.lack() {
        left_out.push(format!("cuts of links, since all servers are on loopback: {lack}"));
        faults.retain(|kind| !kind.cuts_links());
    }
    if options.tells {
        left_out.iter().for_each(|what| eprintln!("NOT TRIED: {what}"));
        cluster.tell_how_it_goes();
    }
    let mut clients = Clients::start(options, &cluster);
    let is_served = cluster.wait_until_served() && cluster.wait_until_well();
    let rounds = if is_served { all_rounds(options, &faults, &mut cluster) } else { Vec::new() };
    let ledger = clients.end(options, &mut cluster);
    let mut report = Report::of(&ledger, rounds.len(), &[]);
    report.more = more(&clients, &cluster, &rounds);
    report.troubles.clone_from(&cluster.troubles);
    Ok(Outcome { report, rounds, kept: None, left_out })
}

/// Fault for fault, until it is time or the cluster does not come back.
fn all_rounds(options: &Options, faults: &[Kind], cluster: &mut Cluster) -> Vec<Round> {
    let (began, mut rounds, mut bag) = (Instant::now(), Vec::new(), Vec::new());
    let mut chance = Seeded::new(options.seed);
    loop {
        let kinds = match options.length {
            Length::EachOnce => faults.get(rounds.len()).map(|&kind| vec![kind]),
            Length::Time(time) => (began.elapsed() < time).then(|| drawn(&mut chance, faults, &mut bag)),
        };
        let Some(kinds) = kinds.filter(|kinds| !kinds.is_empty()) else { return rounds };
        // Each has its own, so that it is chosen alike whatever the one before it met.
        cluster.chance = Seeded::new(options.seed ^ (rounds.len() as u64 + 1) << 32);
        rounds.push(round(kinds, cluster));
        if !cluster.troubles.is_empty() {
            return rounds;
        }
    }
}

/// One fault, or once in three times two that go along. None comes again before all others came.
fn drawn(chance: &mut Seeded, faults: &[Kind], bag: &mut Vec<Kind>) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let count = if chance.once_in(3) { 2 } else { 1 };
    while kinds.len() < count {
        if bag.is_empty() {
            bag.extend(faults);
        }
        if bag.is_empty() {
            break;
        }
        let kind = bag.swap_remove(chance.below(bag.len()));
        if !kind.goes_in_pairs() {
            return if kinds.is_empty() { vec![kind] } else { kinds };
        }
        kinds.push(kind);
    }
    kinds
}

fn round(kinds: Vec<Kind>, cluster: &mut Cluster) -> Round {
    let (from, to) = CALM_MS;
    let calm = Duration::from_millis((from + cluster.chance.below(to - from)) as u64);
    cluster.rest(calm);
    cluster.shared.acks.begin();
    let mut begun: Vec<(Instant, Begun)> = Vec::new();
    for (number, &kind) in kinds.iter().enumerate() {
        if number > 0 {
            let apart = Duration::from_millis(cluster.chance.below(APART_MS_MAX) as u64);
            cluster.rest(apart);
        }
        let fault = Begun::begin(kind, cluster);
        cluster.say(&format!("{kind}: {} for {:.1} s", fault.whom, fault.lasts.as_secs_f64()));
        begun.push((Instant::now() + fault.lasts, fault));
    }
    begun.sort_by_key(|(until, _)| *until);
    for (until, fault) in begun {
        cluster.rest(until.saturating_duration_since(Instant::now()));
        fault.end(cluster);
    }
    let is_served = cluster.wait_until_served();
    let pauses = cluster.shared.acks.pauses();
    cluster.say(&format!(
        "  no acks for {:.1} s, in a room for {:.1} s",
        pauses.all.as_secs_f64(),
        pauses.room.as_secs_f64()
    ));
    if is_served {
        cluster.wait_until_well();
    }
    Round { kinds, pauses }
}

/// Everybody who writes and reads.
struct Clients {
    writers: Vec<JoinHandle<Written>>,
    readers: Vec<JoinHandle<ReadOf>>,
    counts: BTreeMap<String, u64>,
}

impl Clients {
    fn start(options: &Options, cluster: &Cluster) -> Self {
        let bodies = Bodies { seed: options.seed, bytes_max: BODY_BYTES_MAX };
        let every = Duration::from_secs(WRITERS as u64) / options.posts_per_second.max(1);
        let addresses = cluster.nodes.addresses();
        let visitor = |user: &str, salt: usize| {
            Visitor::new(user, addresses, Seeded::new(options.seed ^ (salt as u64 + 1) << 16))
        };
        let shared = || Arc::clone(&cluster.shared);
        let readers = (0..READERS).map(|number| {
            let rooms: Vec<usize> = (0..ROOMS_PER_READER).map(|room| (number + room * 2) % ROOMS).collect();
            let visitor = visitor(&format!("reader-{number}"), WRITERS + number);
            let reader = Reader::new(number, &rooms, visitor, bodies, shared());
            std::thread::spawn(move || reader.read())
        });
        let readers = readers.collect();
        let writers = (0..WRITERS).map(|number| {
            let rooms = (0..ROOMS_PER_WRITER).map(|room| (number + room * 4) % ROOMS).collect();
            let visitor = visitor(&writer_name(number), number);
            let writer = Writer::new(number, rooms, visitor, bodies, every, shared());
            std::thread::spawn(move || writer.write())
        });
        Clients { readers, writers: writers.collect(), counts: BTreeMap::new() }
    }

    /// Has all posts acknowledged and shown, reads what all rooms hold from one node and from another, and judges.
    fn end(&mut self, options: &Options, cluster: &mut Cluster) -> Ledger {
        cluster.shared.stop.store(true, Relaxed);
        if !holds_within(BACK_MAX, || self.writers.iter().all(JoinHandle::is_finished)) {
            cluster.troubles.push(format!("posts are not acknowledged {BACK_MAX:?} behind the end"));
        }
        let mut shown = (Instant::now(), 0);
        holds_within(BACK_MAX, || {
            let [_, count] = cluster.shared.acks.counts();
            if count != shown.1 {
                shown = (Instant::now(), count);
            }
            shown.0.elapsed() > SETTLED
        });
        cluster.shared.abandon.store(true, Relaxed);
        let mut ledger = Ledger::new(ROOMS, Bodies { seed: options.seed, bytes_max: BODY_BYTES_MAX });
        let mut ends = Vec::new();
        for writer in self.writers.drain(..) {
            match writer.join() {
                Ok(written) => take_written(written, &mut ledger, &mut self.counts, &mut cluster.troubles),
                Err(_) => cluster.troubles.push("a writer panicked, since a node broke the protocol".to_owned()),
            }
        }
        for (number, reader) in self.readers.drain(..).enumerate() {
            match reader.join() {
                Ok(read) => ends.extend(take_read(number, read, &mut ledger, &mut self.counts)),
                Err(_) => cluster.troubles.push("a reader panicked, since a node broke the protocol".to_owned()),
            }
        }
        if cluster.troubles.is_empty() {
            judge(&mut ledger, cluster);
            for (number, room, sequence) in ends {
                let head = ledger.read_up_to(room);
                if sequence != head {
                    let room = room_name(room);
                    cluster
                        .troubles
                        .push(format!("reader {number} was shown {room} up to {sequence}, not up to {head}"));
                }
            }
        }
        ledger
    }
}

fn take_written(written: Written, ledger: &mut Ledger, counts: &mut BTreeMap<String, u64>, troubles: &mut Vec<String>) {
    ledger.record(written.posts);
    troubles.extend(written.wrong);
    *counts.entry("turned_away".to_owned()).or_default() += written.turned_away;
    for (code, count) in written.refused {
        *counts.entry(format!("posts_{code}")).or_default() += count;
    }
}

/// Where the reader stands in each of its rooms.
fn take_read(
    number: usize,
    read: ReadOf,
    ledger: &mut Ledger,
    counts: &mut BTreeMap<String, u64>,
) -> Vec<(usize, usize, u64)> {
    let ends = read.ends.iter().map(|(&room, &sequence)| (number, room, sequence)).collect();
    ledger.record_shown(read.shown);
    read.faults.into_iter().for_each(|(fault, what)| ledger.add(fault, what));
    *counts.entry("resumed".to_owned()).or_default() += read.resumed;
    *counts.entry("turned_away".to_owned()).or_default() += read.turned_away;
    for (code, count) in read.refused {
        *counts.entry(format!("joins_{code}")).or_default() += count;
    }
    ends
}

/// The history of all rooms, from the node that serves, and from the one that takes over when that one has ended.
fn judge(ledger: &mut Ledger, cluster: &mut Cluster) {
    ledger.judge_owners();
    audit::audit(cluster.serving(), Form::Json, ledger);
    let Some(first) = cluster.shared.acks.node() else { return };
    cluster.nodes.kill(first);
    let addresses = cluster.nodes.addresses().to_vec();
    let mut visitor = Visitor::new("auditor", &addresses, Seeded::new(0));
    if !holds_within(BACK_MAX, || visitor.connect()) {
        cluster.troubles.push(format!("no node took over from n{first} within {BACK_MAX:?}"));
        return;
    }
    ledger.read_again();
    audit::audit(addresses[visitor.node()], Form::Native, ledger);
}

/// What is counted besides.
fn more(clients: &Clients, cluster: &Cluster, rounds: &[Round]) -> Vec<(String, u64)> {
    let mut more: Vec<(String, u64)> = clients.counts.iter().map(|(name, &count)| (name.clone(), count)).collect();
    for (name, kind) in [("takeover", Kind::NodeKill), ("handover", Kind::NodeStop)] {
        let of_kind = rounds.iter().filter(|round| *round.kinds == [kind]);
        let (p50, max) = p50_and_max_ms(of_kind.filter_map(|round| round.pauses.elsewhere));
        more.extend([(format!("{name}_ms_p50"), p50), (format!("{name}_ms_max"), max)]);
    }
    let (p50, max) = p50_and_max_ms(cluster.well.iter().copied());
    more.extend([("status_well_ms_p50".to_owned(), p50), ("status_well_ms_max".to_owned(), max)]);
    more.push(("servers_not_caught_up".to_owned(), cluster.not_caught_up));
    more.push(("starts_unproved".to_owned(), cluster.unproved));
    more
}
