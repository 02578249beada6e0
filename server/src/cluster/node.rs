//! The thread of a node: one event after another, from the engine, from the cores, and from the clock, to the pure [`Node`].

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use banter_chat::address::Placement;
use banter_chat::logs::LogId;
use banter_chat::serving::Serving;
use banter_cluster::engine::{Answer, Partition};
use banter_cluster::entry::{NodeId, StreamEpochs};
use banter_cluster::members::name_hash;
use banter_cluster::node::{Input, Node, NodeConfig, Now, Out};
use banter_cluster::partition::{JournalLimits, PartitionConfig, State};
use banter_cluster::store::StoreConfig;
use banter_engine::Engine;
use banter_engine::Founding;
use banter_log::journal::WORK_STEPS_MAX;
use banter_protocol::ids::Epoch;
use flume::{Receiver, Sender};
use tokio::runtime::{Builder, Runtime};

use super::notes::Notes;
use super::retention::Retention;
use super::starting::{append_bytes_max, founding, prove, reach, segment_bytes};
use super::watching::watch;
use super::{ClusterFault, ClusterView, OfCluster, ToCluster};
use crate::config::{Cluster, Config};
use crate::control::{CoreLink, ToControl, ToCore};
use crate::wall_clock;

/// Appends of a partition in flight at most. A journal has one commit in flight; what else is said of a partition is little.
const APPENDS_IN_FLIGHT_MAX: usize = 4;
/// Bytes of indexes that wait for the engine at most, of all partitions.
const UNKEPT_BYTES_MAX: u64 = 128 << 20;
/// How long a stop waits for the partitions to be given up.
const DRAIN_MAX: Duration = Duration::from_secs(4);
/// Epochs of rooms in memory begin above those that any log has, at a place by chance.
const MEMORY_EPOCHS_FROM: u64 = 1 << 52;
/// Epochs that rooms in memory may have while this node serves.
const MEMORY_EPOCHS: u64 = 1 << 40;

/// A node that has reached its engine, and may join its cluster.
pub struct Joining {
    runtime: Runtime,
    engine: Engine,
    answers: Receiver<Answer>,
    founding: Founding,
    stream_bytes_max: u64,
    to_thread: Sender<ToCluster>,
    inbox: Receiver<ToCluster>,
}

impl Joining {
    /// Reaches the engine, has it prove itself, and reads what the cluster is; `is_stopped`: somebody says that it is to end.
    ///
    /// # Errors
    /// The engine is not what it must be.
    pub fn open(config: &Config, cluster: &Cluster, is_stopped: &dyn Fn() -> bool) -> Result<Self, ClusterFault> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(ClusterFault::Thread)?;
        let (to_me, answers) = flume::unbounded();
        let (engine, (founding, stream_bytes_max)) = runtime.block_on(async {
            let engine = reach(cluster, to_me, is_stopped).await?;
            prove(&engine, config, cluster, is_stopped).await?;
            let founding = founding(&engine).await?;
            Ok::<_, ClusterFault>((engine, founding))
        })?;
        let (to_thread, inbox) = flume::unbounded();
        Ok(Joining { runtime, engine, answers, founding, stream_bytes_max, to_thread, inbox })
    }

    /// Which of this node's cores has which room.
    ///
    /// # Errors
    /// The cluster has a number of partitions that no cluster has.
    pub fn placement(&self, cores: u16) -> Result<Placement, ClusterFault> {
        let partitions = self.founding.partitions;
        Placement::in_cluster(cores, partitions).ok_or_else(|| {
            ClusterFault::Streams(format!("the cluster has {partitions} partitions: no cluster has so many"))
        })
    }

    /// The way to the thread that is to be.
    pub fn sender(&self) -> Sender<ToCluster> {
        self.to_thread.clone()
    }

    /// Starts the thread, which tells these cores.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn spawn(
        self,
        config: &Config,
        listen: SocketAddr,
        levels: u64,
        cores: Vec<CoreLink>,
    ) -> Result<ClusterThread, ClusterFault> {
        let cluster = config.cluster.clone().unwrap_or_default();
        let append_bytes_max = append_bytes_max(config.limits.frame_bytes_max, &cluster);
        let node = self.node_config(config, &cluster, listen, levels).map_err(ClusterFault::Thread)?;
        let placement = self.placement(cores.len() as u16)?;
        let Joining { runtime, engine, answers, inbox, to_thread, founding, .. } = self;
        let began = Instant::now();
        let now = now_since(began);
        tracing::info!(
            "node {} of cluster {}: {} partitions on an engine of {} servers, by way of {}",
            node.name,
            cluster.name,
            node.partitions,
            cluster.engine.len(),
            // Not by its address, which may hold a password.
            engine.connection().server_name()
        );
        let view = ClusterView::new(&cluster.name, &node.name, node.partitions);
        let watching =
            watch(engine.connection().clone(), cluster.engine_monitoring, append_bytes_max, founding, view.clone());
        let shell = Shell {
            node: Node::new(node, now),
            engine,
            cores,
            placement,
            view: view.clone(),
            openings: BTreeMap::new(),
            opening: 0,
            nodes: Vec::new(),
            drain: None,
            retention: Retention::new(config, placement.partitions()),
            notes: Notes::default(),
            began,
        };
        let thread = std::thread::Builder::new()
            .name("cluster".into())
            .spawn(move || {
                runtime.spawn(watching);
                runtime.block_on(shell.run(answers, inbox));
            })
            .map_err(ClusterFault::Thread)?;
        Ok(ClusterThread { thread, to_thread, view })
    }

    fn node_config(
        &self,
        config: &Config,
        cluster: &Cluster,
        listen: SocketAddr,
        levels: u64,
    ) -> io::Result<NodeConfig> {
        let name = match &cluster.node {
            Some(node) => node.clone(),
            None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        let addresses = if cluster.addresses.is_empty() { vec![listen.to_string()] } else { cluster.addresses.clone() };
        let Founding { cluster_id, partitions, blank_epoch } = self.founding;
        let limits = &config.limits;
        let append_bytes_max = append_bytes_max(limits.frame_bytes_max, cluster);
        // Each partition has its share of what a core keeps.
        let share = u64::from(partitions.div_ceil(config.cores.len() as u16));
        let partition = PartitionConfig {
            by: NodeId { name: name_hash(&name), run: random()? },
            appends_in_flight_max: APPENDS_IN_FLIGHT_MAX,
            store: StoreConfig {
                segment_bytes: segment_bytes(cluster.segment_bytes.into(), append_bytes_max),
                stream_bytes_max: self.stream_bytes_max,
                seed: random()?,
            },
            epochs: StreamEpochs { blank: blank_epoch, ..StreamEpochs::default() },
            levels: levels.max(1),
            journal: JournalLimits {
                commit_bytes_max: cluster.append_bytes_max as usize,
                reads_max: limits.log_reads_max as usize,
                work_steps_max: WORK_STEPS_MAX,
                cache_bytes_max: limits.log_cache_bytes_per_core_max / share,
            },
        };
        Ok(NodeConfig {
            cluster: cluster_id,
            name,
            addresses,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            partitions,
            partition,
            dead_after_ms: cluster.dead_after_ms.into(),
            engine_cache_bytes: cluster.engine_cache_bytes,
            unkept_bytes_max: UNKEPT_BYTES_MAX,
        })
    }
}

/// The running thread.
pub struct ClusterThread {
    thread: JoinHandle<()>,
    to_thread: Sender<ToCluster>,
    view: ClusterView,
}

impl ClusterThread {
    /// What it says of itself.
    pub fn view(&self) -> ClusterView {
        self.view.clone()
    }

    /// Ends it, behind the end of all cores.
    pub fn stop(self) {
        let _ = self.to_thread.send(ToCluster::Stop);
        let _ = self.thread.join();
    }
}

/// What the thread has.
struct Shell {
    node: Node,
    engine: Engine,
    cores: Vec<CoreLink>,
    placement: Placement,
    view: ClusterView,
    /// The number of each open partition's opening.
    openings: BTreeMap<u16, u64>,
    opening: u64,
    nodes: Vec<String>,
    /// Who waits until all is given up, and until when.
    drain: Option<(Sender<ToControl>, Instant)>,
    retention: Retention,
    notes: Notes,
    began: Instant,
}

impl Shell {
    async fn run(mut self, answers: Receiver<Answer>, inbox: Receiver<ToCluster>) {
        loop {
            let due = self.began + Duration::from_millis(self.node.next_due());
            let due = due.min(self.retention.look_at());
            let due = self.drain.as_ref().map_or(due, |(_, until)| due.min(*until));
            tokio::select! {
                biased;
                answer = answers.recv_async() => match answer {
                    Ok(answer) => self.tell(Input::Engine(answer)),
                    // The engine's task never ends ahead of this one.
                    Err(_) => return,
                },
                message = inbox.recv_async() => match message {
                    Ok(ToCluster::Disk { log, opening, ask }) => {
                        if self.openings.get(&log.0) == Some(&opening) {
                            self.tell(Input::Disk(Partition(log.0), ask));
                        }
                    }
                    Ok(ToCluster::Closed(journal)) => drop(journal),
                    Ok(ToCluster::Drain(reply)) => {
                        self.drain = Some((reply, Instant::now() + DRAIN_MAX));
                        self.tell(Input::Drain);
                    }
                    Ok(ToCluster::Stop) | Err(_) => return,
                },
                () = tokio::time::sleep_until(due.into()) => self.on_time(),
            }
        }
    }

    fn on_time(&mut self) {
        if let Some((reply, _)) = self.drain.take_if(|(_, until)| *until <= Instant::now()) {
            tracing::warn!(
                "the engine does not take that this node gives up its partitions: the others find out by themselves"
            );
            let _ = reply.send(ToControl::GivenUp);
        }
        if self.retention.look_at() <= Instant::now() {
            for input in self.retention.look(&self.node, wall_clock::unix_ms()) {
                self.tell(input);
            }
        }
        self.tell(Input::Tick);
        self.say_partitions();
    }

    fn say_partitions(&mut self) {
        let full: Vec<u16> = self.node.full().map(|partition| partition.0).collect();
        self.notes.full(&full);
        let states = || (0..).zip(self.node.partitions());
        let those =
            |is: fn(State) -> bool| states().filter(|(_, state)| is(*state)).map(|(number, _)| number).collect();
        self.view.say(|seen| {
            seen.open = states().filter(|(_, state)| matches!(state, State::Open { .. })).count() as u16;
            seen.doubtful = those(|state| matches!(state, State::Open { is_doubtful: true, .. }));
            seen.broken = those(|state| state == State::Broken);
            seen.full = full;
        });
    }

    fn tell(&mut self, input: Input) {
        let mut out = Vec::new();
        self.node.handle(input, now_since(self.began), &mut out);
        for out in out {
            self.follow(out);
        }
    }

    fn follow(&mut self, out: Out) {
        match out {
            Out::Ask(ask) => self.engine.ask(ask),
            Out::Opened(partition, parts) => {
                self.opening += 1;
                self.openings.insert(partition.0, self.opening);
                self.retention.opened(partition.0, &parts, &self.node, wall_clock::unix_ms());
                let (log, opening) = (LogId(partition.0), self.opening);
                self.tell_core_of(partition, OfCluster::Opened { log, opening, parts });
            }
            Out::Disk(partition, answer) => self.tell_core_of(partition, OfCluster::Answer(LogId(partition.0), answer)),
            Out::Closed(partition) => {
                self.retention.closed(partition.0);
                if self.openings.remove(&partition.0).is_some() {
                    self.tell_core_of(partition, OfCluster::Closed(LogId(partition.0)));
                }
            }
            Out::Serve => {
                self.begin_epochs();
                self.say_partitions();
                self.view.say(|seen| seen.is_serving = true);
                self.tell_all(|| OfCluster::Serving(Serving::Yes));
            }
            Out::StandBy => {
                self.view.say(|seen| seen.is_serving = false);
                self.stand_by();
            }
            Out::Nodes(nodes) => {
                self.nodes.clone_from(&nodes);
                self.view.say(|seen| seen.nodes.clone_from(&nodes));
                self.tell_all(|| OfCluster::Nodes(nodes.clone()));
                if !self.view.is_serving() {
                    self.stand_by();
                }
            }
            Out::Drained => {
                if let Some((reply, _)) = self.drain.take() {
                    let _ = reply.send(ToControl::GivenUp);
                }
            }
            Out::LetGo(index) => drop(index),
            Out::Note(note) => self.notes.tell(&note),
        }
    }

    fn stand_by(&self) {
        self.tell_all(|| OfCluster::Serving(Serving::No { nodes: self.nodes.clone() }));
    }

    /// No other node, and no earlier time of this one, has given these.
    fn begin_epochs(&self) {
        let Ok(chance) = random() else { return };
        let base = MEMORY_EPOCHS_FROM + chance % (MEMORY_EPOCHS_FROM - 2 * MEMORY_EPOCHS);
        for (number, core) in self.cores.iter().enumerate() {
            let (first, end) = (Epoch(base + 1 + number as u64), Epoch(base + MEMORY_EPOCHS));
            core.send(ToCore::Cluster(OfCluster::Epochs(first, end)));
        }
    }

    fn tell_core_of(&self, partition: Partition, message: OfCluster) {
        let core = self.placement.core_with(partition.0);
        if let Some(core) = self.cores.get(core.index()) {
            core.send(ToCore::Cluster(message));
        }
    }

    fn tell_all(&self, message: impl Fn() -> OfCluster) {
        self.cores.iter().for_each(|core| core.send(ToCore::Cluster(message())));
    }
}

fn now_since(began: Instant) -> Now {
    Now { monotonic_ms: began.elapsed().as_millis() as u64, unix_ms: wall_clock::unix_ms() }
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("the generator of random numbers failed"))?;
    Ok(u64::from_le_bytes(bytes))
}
