//! The whole cluster of a run: hosts, engine, nodes, and what is asked of all of them together.

use std::fs::File;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::engine_servers::EngineServers;
use super::network::{Network, run};
use super::nodes::{CLUSTER, Nodes};
use super::writer::Shared;
use crate::seeded::Seeded;
use crate::server_process::{holds_within, program};

/// Into how many partitions the rooms are shared out: the fewest that a cluster can have.
const PARTITIONS: usize = 16;
/// How long anything may take behind the end of a fault, elections and all. Longer is found to be a fault of the cluster.
pub const BACK_MAX: Duration = Duration::from_secs(90);
/// A server of the engine that is behind for so long does not catch up by itself.
const CATCH_UP_MAX: Duration = Duration::from_secs(40);
/// With that a node ends that found the engine unproved.
const UNPROVED: i32 = 78;
/// The line that says how it goes is written that often.
const LINE_EVERY: Duration = Duration::from_millis(250);

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Banter nodes.
    pub nodes: usize,
    /// Servers of the engine.
    pub servers: usize,
    /// What a partition's stream may hold.
    pub stream_bytes_max: u64,
    /// Whether each server has a disk whose power can be cut.
    pub has_disks: bool,
}

/// All of it.
pub struct Cluster {
    /// The nodes, which go first.
    pub nodes: Nodes,
    /// The servers.
    pub engine: EngineServers,
    /// The hosts, which go last.
    pub network: Network,
    /// What the clients tell.
    pub shared: Arc<Shared>,
    /// Chance of the round.
    pub chance: Seeded,
    /// What is wrong beside what the ledger finds.
    pub troubles: Vec<String>,
    /// How long `banter cluster status` took to find nothing wrong, behind each fault.
    pub well: Vec<Duration>,
    /// Servers of the engine that were started again, since they did not catch up by themselves.
    pub not_caught_up: u64,
    /// Starts of nodes that ended, since the engine did not prove itself in time.
    pub unproved: u64,
    folder: PathBuf,
    line: Option<Line>,
}

struct Line {
    next: Instant,
    began: Instant,
}

impl Cluster {
    /// Has everything made and started, and the streams with it.
    ///
    /// # Errors
    /// This machine or this user cannot.
    pub fn start(size: Size, binary: PathBuf, folder: &Path, shared: Arc<Shared>) -> Result<Self, String> {
        let network = Network::make(size.servers + size.nodes);
        let disk_bytes = size.stream_bytes_max * PARTITIONS as u64 * 5 / 4 + (64 << 20);
        let engine = EngineServers::new(&network, binary, size.servers, folder, disk_bytes, size.has_disks)?;
        let nodes = Nodes::new(&network, &engine, size.nodes, folder)?;
        let (chance, troubles, well, folder) = (Seeded::new(0), Vec::new(), Vec::new(), folder.to_owned());
        let (not_caught_up, unproved, line) = (0, 0, None);
        let mut cluster =
            Cluster { nodes, engine, network, shared, chance, troubles, well, not_caught_up, unproved, folder, line };
        (0..size.servers).for_each(|server| cluster.engine.start(&cluster.network, server));
        if !holds_within(BACK_MAX, || cluster.engine.are_one()) {
            return Err(format!("the servers of the engine did not find each other within {BACK_MAX:?}"));
        }
        let (partitions, bytes) = (PARTITIONS.to_string(), size.stream_bytes_max.to_string());
        // Servers that have just found each other may still take one of them for gone; what is made stays made.
        let mut init = Ok(());
        holds_within(BACK_MAX, || {
            init = run(cluster.tool("init").args(["--partitions", &partitions, "--stream-bytes-max", &bytes]));
            init.is_ok()
        });
        init?;
        (0..size.nodes).for_each(|node| cluster.nodes.start(&cluster.network, node));
        Ok(cluster)
    }

    /// A node that runs: the one that serves, three times of four.
    pub fn any_node(&mut self) -> Option<usize> {
        let running = self.nodes.running();
        let serving = self.shared.acks.node().filter(|node| running.contains(node));
        let (is_serving, other) = (!self.chance.once_in(4), self.chance.number() as usize);
        serving.filter(|_| is_serving).or_else(|| running.get(other % running.len().max(1)).copied())
    }

    /// A server that runs: the one that leads some partition, three times of four; and in words what it leads.
    pub fn any_leader(&mut self) -> Option<(usize, String)> {
        let running = self.engine.running();
        let stream = format!("BANTER_{CLUSTER}_{:03}", self.chance.below(PARTITIONS));
        let (is_leader, other) = (!self.chance.once_in(4), self.chance.number() as usize);
        let leader = self.engine.leader_of(&stream).filter(|server| is_leader && running.contains(server));
        match leader {
            Some(leader) => Some((leader, format!(", which leads {stream}"))),
            None => running.get(other % running.len().max(1)).map(|&server| (server, String::new())),
        }
    }

    /// Waits until posts are acknowledged in all rooms, and shown to all readers, that were sent from now on.
    pub fn wait_until_served(&mut self) -> bool {
        let since = Instant::now();
        while since.elapsed() < BACK_MAX {
            let (rooms, readers) = self.shared.acks.waiting(since);
            if rooms.is_empty() && readers.is_empty() {
                return true;
            }
            self.supervise();
            self.rest(Duration::from_millis(20));
        }
        let (rooms, readers) = self.shared.acks.waiting(since);
        let what = format!(
            "not served again within {BACK_MAX:?}: no posts in rooms {rooms:?}, nothing for readers {readers:?}"
        );
        let said = self.status("1s").1;
        self.troubles.push(format!("{what}\n{said}"));
        false
    }

    /// Waits until `banter cluster status` finds nothing wrong, and does meanwhile what an operator would: a server of the
    /// engine that does not catch up by itself, which is a known fault of it, is started again.
    pub fn wait_until_well(&mut self) -> bool {
        let began = Instant::now();
        let timeout = format!("{}s", CATCH_UP_MAX.as_secs());
        loop {
            let (is_well, said) = self.status(&timeout);
            if is_well {
                self.well.push(began.elapsed());
                return true;
            }
            if began.elapsed() > BACK_MAX {
                let what = format!("`banter cluster status` still finds something behind {BACK_MAX:?}:\n{said}");
                self.troubles.push(what);
                return false;
            }
            for server in
                (0..self.engine.count()).filter(|server| said.contains(&format!("- server s{server} is behind")))
            {
                self.say(&format!("  s{server} does not catch up: it is started again"));
                self.not_caught_up += 1;
                self.engine.signal(server, Signal::TERM);
                self.engine.wait_for_end(server);
                self.engine.start(&self.network, server);
            }
        }
    }

    /// Starts nodes again as their supervisor would, that found the engine unproved and ended.
    fn supervise(&mut self) {
        while let Some((node, code)) = self.nodes.take_ended() {
            if code == UNPROVED {
                self.say(&format!("  n{node} found the engine unproved, and is started again"));
                self.unproved += 1;
            } else {
                self.troubles.push(format!("n{node} ended by itself with {code}"));
            }
            self.nodes.start(&self.network, node);
        }
    }

    /// What `banter cluster status` says, and whether all is well.
    fn status(&mut self, timeout: &str) -> (bool, String) {
        let said = self.folder.join("status.txt");
        let file = File::create(&said).expect("a file in the run's folder");
        let mut command = self.tool("status");
        command.args(["--wait", "--timeout", timeout]).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a descriptor")).stderr(file);
        let mut child = command.spawn().expect("banter can be started");
        let status = loop {
            match child.try_wait().expect("a child") {
                Some(status) => break status,
                None => {
                    self.supervise();
                    self.rest(Duration::from_millis(20));
                }
            }
        };
        (status.success(), std::fs::read_to_string(said).unwrap_or_default())
    }

    fn tool(&self, what: &str) -> Command {
        let mut command = Command::new(program());
        command.args(["cluster", what, "--name", CLUSTER, "--engine", &self.engine.urls().join(",")]);
        command.args(["--monitoring", &self.engine.monitoring().join(",")]);
        command
    }

    /// Where the node listens that acknowledged last.
    pub fn serving(&self) -> SocketAddr {
        self.nodes.addresses()[self.shared.acks.node().unwrap_or(0)]
    }

    /// Has a line on the terminal that says how it goes.
    pub fn tell_how_it_goes(&mut self) {
        let now = Instant::now();
        self.line = Some(Line { next: now, began: now });
    }

    /// Waits that long; the line goes on.
    pub fn rest(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            self.write_line();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(LINE_EVERY));
        }
    }

    fn write_line(&mut self) {
        let Some(line) = self.line.as_mut().filter(|line| line.next <= Instant::now()) else { return };
        if !std::io::stderr().is_terminal() {
            return;
        }
        line.next = Instant::now() + LINE_EVERY;
        let [acknowledged, shown] = self.shared.acks.counts();
        let node = self.shared.acks.node().map_or("none yet".to_owned(), |node| format!("n{node}"));
        let quiet = self.shared.acks.quiet().as_secs_f64();
        eprint!(
            "\r{:>6.1} s  {acknowledged} acknowledged, {shown} shown, by {node}, the last {quiet:.1} s ago   ",
            line.began.elapsed().as_secs_f64()
        );
    }

    /// Writes a line that stays.
    pub fn say(&self, what: &str) {
        if let Some(line) = &self.line {
            eprintln!("\r{:>6.1} s  {what:<100}", line.began.elapsed().as_secs_f64());
        }
    }
}
