//! What may happen to a cluster, and how it happens: each fault begins, lasts, and is mended by its end.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rustix::process::Signal;

use super::cluster::Cluster;

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "NAMES says what each is")]
pub enum Kind {
    NodeKill,
    NodeHalt,
    NodeStop,
    EngineKill,
    EngineHalt,
    EngineStop,
    EngineLameDuck,
    EngineTwoDown,
    EngineAllDown,
    CutNode,
    CutNodeOut,
    CutNodeIn,
    CutEngine,
    CutEngineOneWay,
    CutEngineLink,
    PowerCut,
    PowerCutAll,
    DiskFull,
    Rolling,
}

/// All of them, by the names of the command line.
pub const NAMES: [(Kind, &str, &str); 19] = [
    (Kind::NodeKill, "node-kill", "a node, the one that serves as a rule, ends by SIGKILL, and is started again"),
    (Kind::NodeHalt, "node-halt", "a node is halted (SIGSTOP) for 1 to 6 s, and goes on"),
    (Kind::NodeStop, "node-stop", "a node ends in order (SIGTERM), and is started again"),
    (Kind::EngineKill, "engine-kill", "a server of the engine, the leader of a partition, ends by SIGKILL"),
    (Kind::EngineHalt, "engine-halt", "such a server is halted for 1 to 6 s"),
    (Kind::EngineStop, "engine-stop", "such a server ends in order"),
    (Kind::EngineLameDuck, "engine-lame-duck", "such a server gives its tasks away, and then ends (SIGUSR2)"),
    (Kind::EngineTwoDown, "engine-two-down", "two servers of the engine are killed at once"),
    (Kind::EngineAllDown, "engine-all-down", "all servers of the engine are killed at once"),
    (Kind::CutNode, "cut-node", "the node that serves and the engine do not reach each other"),
    (Kind::CutNodeOut, "cut-node-out", "nothing of that node reaches the engine, and what the engine says arrives"),
    (Kind::CutNodeIn, "cut-node-in", "nothing of the engine reaches that node, and what it says arrives"),
    (Kind::CutEngine, "cut-engine", "a server of the engine and the others do not reach each other; nodes reach all"),
    (Kind::CutEngineOneWay, "cut-engine-one-way", "nothing of such a server reaches the others"),
    (
        Kind::CutEngineLink,
        "cut-engine-link",
        "two servers of the engine do not reach each other; the third reaches both",
    ),
    (Kind::PowerCut, "power-cut", "a server of the engine loses its power, and what its disk never synced"),
    (Kind::PowerCutAll, "power-cut-all", "all of them do at once"),
    (
        Kind::DiskFull,
        "disk-full",
        "a server's disk is full for some seconds, and the server is started again behind that",
    ),
    (Kind::Rolling, "rolling", "every node and every server is started again in order, one at a time"),
];

impl Kind {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Kind> {
        NAMES.iter().map(|(kind, ..)| *kind)
    }

    /// Whether it cuts links.
    pub fn cuts_links(self) -> bool {
        (Kind::CutNode..=Kind::CutEngineLink).contains(&self)
    }

    /// Whether it is of a disk.
    pub fn is_of_disks(self) -> bool {
        matches!(self, Kind::PowerCut | Kind::PowerCutAll | Kind::DiskFull)
    }

    /// Whether another one can go along with it. What waits for the cluster between its own steps goes alone.
    pub fn goes_in_pairs(self) -> bool {
        self != Kind::Rolling
    }

    /// How long it lasts, at the least and at the most, in milliseconds.
    fn lasts_ms(self) -> (usize, usize) {
        match self {
            Kind::NodeHalt | Kind::EngineHalt => (1_000, 6_000),
            Kind::NodeStop | Kind::EngineStop | Kind::EngineLameDuck | Kind::Rolling => (0, 2_000),
            Kind::CutNode | Kind::CutNodeOut | Kind::CutNodeIn => (1_000, 12_000),
            Kind::CutEngine | Kind::CutEngineOneWay | Kind::CutEngineLink => (1_000, 12_000),
            _ => (500, 5_000),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = NAMES.iter().find(|(kind, ..)| kind == self);
        out.write_str(named.map_or("", |(_, name, _)| name))
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = NAMES.iter().find(|(_, name, _)| *name == text);
        let names = || NAMES.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(", ");
        named.map(|(kind, ..)| *kind).ok_or_else(|| format!("there is no fault {text:?}: one of {}", names()))
    }
}

/// What mends it.
#[derive(Clone, Debug)]
enum Mend {
    StartNode(usize),
    GoOnNode(usize),
    StartServer(usize),
    GoOnServer(usize),
    /// Packets pass again from one host to another.
    Link(usize, usize),
    /// The disk has space again; a server that met a full one takes no more before it is started anew.
    Disk(usize),
}

/// One that has begun.
#[derive(Debug)]
pub struct Begun {
    /// Which.
    pub kind: Kind,
    /// To whom, in words.
    pub whom: String,
    /// How long it is to last.
    pub lasts: Duration,
    mends: Vec<Mend>,
}

impl Begun {
    /// Has it happen.
    pub fn begin(kind: Kind, cluster: &mut Cluster) -> Self {
        let (from, to) = kind.lasts_ms();
        let lasts = Duration::from_millis((from + cluster.chance.below(to - from)) as u64);
        let mut begun = Begun { kind, whom: "nobody, for none of them runs,".to_owned(), lasts, mends: Vec::new() };
        match kind {
            Kind::NodeKill | Kind::NodeHalt | Kind::NodeStop => begun.strike_node(cluster),
            Kind::EngineKill | Kind::EngineHalt | Kind::EngineStop | Kind::EngineLameDuck => {
                begun.strike_server(cluster)
            }
            Kind::EngineTwoDown => begun.strike_servers(cluster, cluster.engine.count() - 1),
            Kind::EngineAllDown => begun.strike_servers(cluster, cluster.engine.count()),
            Kind::CutNode | Kind::CutNodeOut | Kind::CutNodeIn => begun.strike_links_of_node(cluster),
            Kind::CutEngine | Kind::CutEngineOneWay | Kind::CutEngineLink => begun.strike_links_of_engine(cluster),
            Kind::PowerCut | Kind::PowerCutAll | Kind::DiskFull => begun.strike_disks(cluster),
            Kind::Rolling => begun.strike_all_in_turn(cluster),
        }
        begun
    }

    /// Mends what it did.
    pub fn end(self, cluster: &mut Cluster) {
        for mend in self.mends {
            match mend {
                Mend::StartNode(node) => cluster.nodes.start(&cluster.network, node),
                Mend::GoOnNode(node) => cluster.nodes.signal(node, Signal::CONT),
                Mend::StartServer(server) => cluster.engine.start(&cluster.network, server),
                Mend::GoOnServer(server) => cluster.engine.signal(server, Signal::CONT),
                Mend::Link(from, to) => cluster.network.mend(from, to),
                Mend::Disk(server) => {
                    cluster.engine.empty_disk(server);
                    cluster.engine.kill(server);
                    cluster.engine.start(&cluster.network, server);
                }
            }
        }
    }

    fn strike_node(&mut self, cluster: &mut Cluster) {
        let Some(node) = cluster.any_node() else { return };
        let serves = cluster.shared.acks.node() == Some(node);
        self.whom = format!("n{node}{}", if serves { ", which serves" } else { "" });
        if serves {
            cluster.shared.acks.look_past(node);
        }
        match self.kind {
            Kind::NodeHalt => {
                cluster.nodes.signal(node, Signal::STOP);
                self.mends.push(Mend::GoOnNode(node));
                return;
            }
            Kind::NodeStop => {
                cluster.nodes.signal(node, Signal::TERM);
                if !cluster.nodes.wait_for_end(node) {
                    cluster.troubles.push(format!("n{node} did not end by SIGTERM"));
                }
            }
            _ => cluster.nodes.kill(node),
        }
        self.mends.push(Mend::StartNode(node));
    }

    fn strike_server(&mut self, cluster: &mut Cluster) {
        let Some((server, leads)) = cluster.any_leader() else { return };
        self.whom = format!("s{server}{leads}");
        let signal = match self.kind {
            Kind::EngineHalt => {
                cluster.engine.signal(server, Signal::STOP);
                self.mends.push(Mend::GoOnServer(server));
                return;
            }
            Kind::EngineStop => Signal::TERM,
            Kind::EngineLameDuck => Signal::USR2,
            _ => Signal::KILL,
        };
        cluster.engine.signal(server, signal);
        if !cluster.engine.wait_for_end(server) {
            cluster.troubles.push(format!("s{server} did not end by {signal:?}"));
        }
        self.mends.push(Mend::StartServer(server));
    }

    fn strike_servers(&mut self, cluster: &mut Cluster, count: usize) {
        let first = cluster.chance.below(cluster.engine.count());
        let servers: Vec<usize> = (first..first + count).map(|server| server % cluster.engine.count()).collect();
        self.whom = names("s", &servers);
        servers.iter().for_each(|&server| cluster.engine.signal(server, Signal::KILL));
        for server in servers {
            cluster.engine.wait_for_end(server);
            self.mends.push(Mend::StartServer(server));
        }
    }

    fn strike_links_of_node(&mut self, cluster: &mut Cluster) {
        let Some(node) = cluster.any_node() else { return };
        let host = cluster.nodes.host(node);
        let mut servers: Vec<usize> = (0..cluster.engine.count()).collect();
        // Seldom from one alone: its client then finds another one.
        if cluster.chance.once_in(4) {
            servers = vec![*cluster.chance.pick(&servers)];
        }
        let serves = cluster.shared.acks.node() == Some(node);
        self.whom = format!("n{node}{} and {}", if serves { ", which serves," } else { "" }, names("s", &servers));
        if serves && servers.len() > 1 {
            cluster.shared.acks.look_past(node);
        }
        for server in servers {
            if self.kind != Kind::CutNodeIn {
                self.cut(cluster, host, server);
            }
            if self.kind != Kind::CutNodeOut {
                self.cut(cluster, server, host);
            }
        }
    }

    fn strike_links_of_engine(&mut self, cluster: &mut Cluster) {
        let Some((server, leads)) = cluster.any_leader() else { return };
        let mut others: Vec<usize> = (0..cluster.engine.count()).filter(|other| *other != server).collect();
        if self.kind == Kind::CutEngineLink {
            others = vec![*cluster.chance.pick(&others)];
        }
        self.whom = format!("s{server}{leads}, and {}", names("s", &others));
        for other in others {
            self.cut(cluster, server, other);
            if self.kind != Kind::CutEngineOneWay {
                self.cut(cluster, other, server);
            }
        }
    }

    fn cut(&mut self, cluster: &Cluster, from: usize, to: usize) {
        cluster.network.cut(from, to);
        self.mends.push(Mend::Link(from, to));
    }

    fn strike_disks(&mut self, cluster: &mut Cluster) {
        let all: Vec<usize> = (0..cluster.engine.count()).collect();
        let one = cluster.any_leader().map_or(0, |(server, _)| server);
        let servers = if self.kind == Kind::PowerCutAll { all } else { vec![one] };
        self.whom = names("s", &servers);
        if self.kind == Kind::DiskFull {
            cluster.engine.fill_disk(one);
            self.mends.push(Mend::Disk(one));
            return;
        }
        cluster.engine.cut_power(&servers);
        self.mends.extend(servers.into_iter().map(Mend::StartServer));
    }

    /// As an operator would: in order, and the next when the one before is back.
    fn strike_all_in_turn(&mut self, cluster: &mut Cluster) {
        self.whom = "all".to_owned();
        for node in cluster.nodes.running() {
            cluster.nodes.signal(node, Signal::TERM);
            if !cluster.nodes.wait_for_end(node) {
                cluster.troubles.push(format!("n{node} did not end by SIGTERM"));
            }
            cluster.nodes.start(&cluster.network, node);
            cluster.wait_until_well();
        }
        for server in cluster.engine.running() {
            cluster.engine.signal(server, Signal::USR2);
            if !cluster.engine.wait_for_end(server) {
                cluster.troubles.push(format!("s{server} did not end by SIGUSR2"));
            }
            cluster.engine.start(&cluster.network, server);
            cluster.wait_until_well();
        }
    }
}

fn names(letter: &str, numbers: &[usize]) -> String {
    numbers.iter().map(|number| format!("{letter}{number}")).collect::<Vec<_>>().join(" ")
}
