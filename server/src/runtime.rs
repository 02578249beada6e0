//! From a configuration to running cores, and back: lanes, threads, signals.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::JoinHandle;
use std::time::Instant;

use banter_access::guest::{GUEST_SEED_BYTES, GuestSeed};
use banter_chat::address::{self, Core};
use banter_chat::limits::Limits;
use banter_chat::logs::LogConfig;
use banter_chat::pacing::DeliveryDelays;
use banter_chat::policy::{RoomPolicies, RoomPolicy};
use banter_chat::serving::Serving;
use banter_chat::sessions::Welcome;
use banter_chat::shard::{Shard, ShardConfig};
use banter_log::catalog::Catalog;
use banter_log::index::IndexBuilder;
use banter_log::journal::{JournalParts, WORK_STEPS_MAX};
use banter_log::key::body_hash;
use banter_log::segment::Class;
use banter_protocol::features::KNOWN;
use banter_protocol::ids::Epoch;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::args::Sources;
use crate::cluster::{ClusterFault, ClusterThread, Hands, Joining, OfCluster, ToCluster};
use crate::config::{Auth, Config, LogFormat, told_limits};
use crate::control::api::{self, DoorFault, Doors, Keys, Order, PlaneParts, StatusParts};
use crate::control::auth::{self, AuthDesk, AuthFault, AuthInbox, KeySource};
use crate::control::feeds::FeedState;
use crate::control::jwks::JwksDesk;
use crate::control::reload::Reload;
use crate::control::revocations::{RevocationsFault, RevocationsFile};
use crate::control::{Control, ControlFault, CoreLink, ToControl, ToCore};
use crate::core::connections::{ConnectionLimits, Connections};
use crate::core::mesh::{Bell, Neighbour, lanes};
use crate::core::net::Net;
use crate::core::pump::{Pump, PumpParts};
use crate::host::{self, EpochFile, Reserved};
use crate::listening::{ListenFault, listen};
use crate::log_lines::LogLines;
use crate::metrics::ServerState;
use crate::programs::{NewPrograms, ProgramBook, ProgramsFault};
use crate::storage;
use crate::storage::disk::Disk;
use crate::storage::feed::{FeedLog, FeedLogParts};
use crate::storage::files;
use crate::storage::keeper::{Keeper, KeeperParts, KeeperState, ToKeeper};
use crate::storage::ledger::LedgerFile;
use crate::storage::recovery::{self, KnownSegment, Opening, Recovered, RecoveryFault};
use crate::wall_clock;

/// Sockets of one core at most, whatever the descriptor limit: the kernel's own bound on a ring's table.
const SOCKETS_MAX: u64 = 1 << 20;
/// Bytes of buffers for direct I/O that glommio keeps for a core.
const IO_MEMORY_BYTES: usize = 64 * 1_024;
/// The exit code when a core cannot go on: "internal software error" of sysexits.h.
const EXIT_CORE_FAILED: u8 = 70;
/// Entries of glommio's own rings.
const GLOMMIO_RING_DEPTH: usize = 64;

/// Why a server could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunFault {
    /// The host does not allow it.
    #[error("{0}")]
    Host(#[from] host::HostFault),
    /// The address cannot be listened on.
    #[error("{0}")]
    Listen(#[from] ListenFault),
    /// Tokens cannot be judged.
    #[error("{0}")]
    Auth(#[from] AuthFault),
    /// The interface for backends cannot listen.
    #[error("{0}")]
    Door(#[from] DoorFault),
    /// What is revoked cannot be known.
    #[error("{0}")]
    Revocations(#[from] RevocationsFault),
    /// The log cannot be used.
    #[error("{0}")]
    Log(#[from] RecoveryFault),
    /// The node cannot be one of its cluster.
    #[error("{0}")]
    Cluster(#[from] ClusterFault),
    /// A program of the configuration cannot run.
    #[error("{0}")]
    Programs(#[from] ProgramsFault),
    /// A core's thread could not be made.
    #[error("a core could not start: {0}")]
    Core(String),
    /// A core failed, or does not end.
    #[error("{0}")]
    Control(#[from] ControlFault),
    /// A descriptor or thread is missing.
    #[error("{doing}: {error}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the kernel says.
        error: io::Error,
    },
}

impl RunFault {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunFault::Host(fault) => fault.exit_code(),
            RunFault::Log(_)
            | RunFault::Programs(_)
            | RunFault::Auth(_)
            | RunFault::Revocations(_)
            | RunFault::Cluster(_) => host::EXIT_CONFIG,
            RunFault::Control(ControlFault::Core(_) | ControlFault::Hung(_)) => EXIT_CORE_FAILED,
            RunFault::Listen(_)
            | RunFault::Door(_)
            | RunFault::Core(_)
            | RunFault::System { .. }
            | RunFault::Control(_) => 1,
        }
    }
}

/// Runs a server until it is told to stop. `listening` is called with the address once every core accepts; a reload reads
/// the sources again.
///
/// # Errors
/// When the host, the address or a core refuses.
pub fn run(
    config: &Config,
    sources: Sources,
    log_lines: &LogLines,
    listening: impl FnOnce(SocketAddr),
) -> Result<(), RunFault> {
    let system = |doing| move |error| RunFault::System { doing, error };
    let (to_control, control_inbox) = flume::unbounded();
    // Ahead of everything else: a start may take a while, and a signal is to end it in order.
    hear_signals(to_control.clone()).map_err(system("listening for signals"))?;
    let report = host::check(config)?;
    tracing::info!("{report}");
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    if config.has_idle_address_limits() {
        tracing::warn!(
            "limits by address hold for nobody who comes by way of this machine's loopback: where a proxy stands in front, name \
             it in trusted_proxies"
        );
    }
    let programs = ProgramBook::load(config)?;
    let jwks = jwks(config);
    let (mut auth_desks, auth_inbox) = match &config.auth {
        Auth::Open => (Vec::new(), None),
        Auth::Token(auth) => {
            auth::open(auth, jwks.clone(), config.cores.len()).map(|(desks, inbox)| (desks, Some(inbox)))?
        }
    };
    let unix_ms = wall_clock::unix_ms();
    let mut epochs = EpochFile::open(&config.data)?;
    let revocations = RevocationsFile::open(&config.data, unix_ms / 1_000)?;
    // Ahead of listening: whoever connected to a node that waits for the engine would hear nothing.
    let joining = join_cluster(config, &control_inbox)?;
    let doors = config.admin.as_ref().map(|admin| Doors::open(admin, report.descriptors)).transpose()?;
    let (address, listeners) = listen(config.listen, config.cores.len())?;
    let bells = (0..listeners.len())
        .map(|_| Bell::new())
        .collect::<io::Result<Vec<_>>>()
        .map_err(system("making an eventfd"))?;
    let (to_keeper, keeper_inbox) = flume::unbounded();
    let (reserved, mut log) = open_log(config, &mut epochs, unix_ms)?;
    let place = joining.as_ref().map(|joining| joining.placement(config.cores.len() as u16)).transpose()?;
    let placement = place.unwrap_or(address::Placement::of_one_server(config.cores.len() as u16));
    let run = Run { reserved, guest_seed: guest_seed().map_err(system("reading random bytes"))? };
    let connections_now = Arc::new(AtomicU32::new(0));
    let neighbours = lanes(&bells, config.limits.lane_parcels_max);
    let started = Instant::now();
    let mut links = Vec::new();
    let mut threads = Vec::new();
    let parts = config.cores.iter().zip(listeners).zip(neighbours).zip(&bells).enumerate();
    for (index, (((&cpu, listener), neighbours), bell)) in parts {
        let (messages, inbox) = flume::unbounded();
        let link = CoreLink { messages, bell: bell.clone() };
        // Ahead of the core itself, and so of its first token.
        tell_revocations(&revocations, &link);
        tell_programs(&programs, &link)?;
        if joining.is_some() {
            // Nobody is served before the partitions are this node's.
            link.send(ToCore::Cluster(OfCluster::Serving(Serving::No { nodes: Vec::new() })));
        }
        links.push(link);
        let core = CoreParts {
            shard: shard_config(config, index as u16, placement, run, log.as_mut()),
            delivery_delays: config.delivery_delays.clone(),
            hands: joining.as_ref().map(|joining| Hands::new(joining.sender())),
            log: log.as_ref().map(|log| (log.folder.clone(), to_keeper.clone())),
            sockets_max: report.connections_max().min(SOCKETS_MAX) as u32,
            auth: (!auth_desks.is_empty()).then(|| auth_desks.remove(0)),
            limits: ConnectionLimits::of(&config.limits, config.entrance(), &connections_now),
            tells_events: config.log_format == LogFormat::Json,
            listener,
            neighbours,
            bell: bell.clone(),
            inbox,
            control: to_control.clone(),
            started,
        };
        threads.push(core.spawn(cpu)?);
    }
    let judge = auth_inbox.as_ref().map(AuthInbox::slot);
    let auth = auth_inbox.map(|inbox| inbox.spawn(links.clone())).transpose();
    auth.map_err(system("starting the thread that judges tokens"))?;
    if let (Some(jwks), Some(slot)) = (&jwks, judge.clone()) {
        jwks.spawn(move || slot.renew()).map_err(system("starting the thread that fetches keys"))?;
    }
    let to_cluster = joining.as_ref().map(Joining::sender);
    let cluster = joining.map(|joining| joining.spawn(config, address, levels_hash(&config.rooms), links.clone()));
    let cluster = cluster.transpose()?;
    let keeper_state = Arc::new(KeeperState::default());
    let feeds = Arc::new(FeedState::default());
    let feed_log = log.as_ref().filter(|_| doors.is_some()).map(|log| log.feed(&keeper_state));
    let keeper = log.map(|log| log.keep(config, &links, keeper_state.clone(), keeper_inbox)).transpose();
    let keeper = keeper.map_err(system("starting the log's keeper"))?;
    let server = ServerState {
        keeper: keeper_state,
        feeds: feeds.clone(),
        log_lines: log_lines.dropped.clone(),
        started_unix_s: unix_ms / 1_000,
        jwks_awaited: jwks.clone().filter(|_| has_no_own_keys(config)),
        cluster: cluster.as_ref().map(ClusterThread::view),
    };
    let status = StatusParts {
        config_file: sources.file().map(Path::to_owned),
        log_folder: keeper.is_some().then(|| storage::folder_of(&config.data)),
        durability: config.durability.name(),
        judge: judge.clone(),
        jwks,
        log: log_lines.filter.clone(),
    };
    let api_keys = Keys::of(config).map(Arc::new);
    let reload = Reload {
        sources,
        config: config.clone(),
        guest_seed: run.guest_seed,
        connections_fit: report.connections_max(),
        cores: links.clone(),
        programs,
        judge,
        log: log_lines.filter.clone(),
        api_keys: api_keys.clone(),
        control: to_control.clone(),
    };
    let (reload_desk, _) = reload.spawn().map_err(system("starting the thread that reloads"))?;
    if let Some((keys, doors)) = api_keys.zip(doors) {
        let frame_bytes_max = config.limits.frame_bytes_max;
        let (cores, reload) = (links.clone(), reload_desk.clone());
        tracing::info!("backends are answered on {}", doors);
        let (control, log, feeds) = (to_control.clone(), feed_log, feeds.clone());
        let parts =
            PlaneParts { cores, placement, keys, control, reload, revocations, frame_bytes_max, log, feeds, status };
        api::spawn(parts, doors).map_err(system("starting the thread that answers backends"))?;
    }
    let mut control = Control::new(links, server, config.limits.drain_timeout_ms.into());
    control.extend_epochs_by(Box::new(move || epochs.extend()));
    control.reload_by(reload_desk);
    if let Some(to_cluster) = to_cluster {
        control.give_up_by(Box::new(move || _ = to_cluster.send(ToCluster::Drain(to_control))));
    }
    // Each of its faults ends the process with the threads of all cores: they are not waited for.
    control.run(&control_inbox, || listening(address))?;
    join(threads);
    if let Some(cluster) = cluster {
        cluster.stop();
    }
    let _ = to_keeper.send(ToKeeper::Stop { is_whole: control.is_log_whole() });
    if let Some(keeper) = keeper {
        let _ = keeper.join();
    }
    feeds.wait_closed();
    tracing::info!("stopped");
    Ok(())
}

/// Reaches the engine of the cluster, where the configuration names one.
fn join_cluster(config: &Config, control: &flume::Receiver<ToControl>) -> Result<Option<Joining>, RunFault> {
    let Some(cluster) = &config.cluster else { return Ok(None) };
    if storage::folder_of(&config.data).exists() {
        tracing::warn!(
            "{} is not used: what is acknowledged in a cluster is kept by its engine, and nothing takes a log there yet",
            storage::folder_of(&config.data).display()
        );
    }
    let is_stop = |message| matches!(message, ToControl::Signal(signal) if signal != signal_hook::consts::SIGHUP);
    let is_stopped = || control.try_iter().any(is_stop);
    Ok(Some(Joining::open(config, cluster, &is_stopped)?))
}

/// The names of this run's guests are made from it.
fn guest_seed() -> io::Result<GuestSeed> {
    let mut random = [0; GUEST_SEED_BYTES];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("the generator of random numbers failed"))?;
    Ok(GuestSeed::new(random))
}

/// Has a core know what is revoked.
fn tell_revocations(revocations: &RevocationsFile, core: &CoreLink) {
    for revocation in revocations.all().iter() {
        let (reply, _) = tokio::sync::oneshot::channel();
        core.send(ToCore::Order(Order::Revoke(revocation.into()), reply));
    }
}

/// Has a core run the programs, ahead of its first room.
fn tell_programs(programs: &ProgramBook, core: &CoreLink) -> Result<(), RunFault> {
    if !programs.is_empty() {
        let (retired, _) = flume::bounded(1);
        core.send(ToCore::Programs(Box::new(NewPrograms { set: programs.set()?, retired })));
    }
    Ok(())
}

/// The keys of an address, where the configuration names one.
fn jwks(config: &Config) -> Option<JwksDesk> {
    let Auth::Token(auth) = &config.auth else { return None };
    auth.jwks_url.as_deref().map(|url| JwksDesk::open(url, &config.data))
}

/// Whether nobody can come in before keys were fetched.
fn has_no_own_keys(config: &Config) -> bool {
    matches!(&config.auth, Auth::Token(auth) if KeySource::all(auth).is_empty())
}

/// Waits for the threads of cores that have said that they end.
fn join(threads: Vec<ExecutorJoinHandle<()>>) {
    for error in threads.into_iter().filter_map(|thread| thread.join().err()) {
        tracing::error!("a core ended with: {error}");
    }
}

/// The log as it was found at start.
struct OpenLog {
    folder: PathBuf,
    run: u64,
    /// Where the clocks of its cores start, milliseconds since 1970.
    start_ms: u64,
    catalogs: Vec<Option<Catalog>>,
    segments: Vec<KnownSegment>,
    /// Indexes that are in memory alone.
    unwritten: BTreeMap<u64, Arc<IndexBuilder>>,
    ledger: LedgerFile,
}

/// Reads the log, if any room goes to it, and takes the numbers of this run.
fn open_log(config: &Config, epochs: &mut EpochFile, unix_ms: u64) -> Result<(Reserved, Option<OpenLog>), RunFault> {
    let folder = storage::folder_of(&config.data);
    if !config.rooms.has_logged() || config.cluster.is_some() {
        let seen = if epochs.is_lost() { recovery::largest_number(&folder) } else { 0 };
        return Ok((epochs.begin(seen, unix_ms)?, None));
    }
    let mut reserved = Reserved::default();
    let opening = Opening {
        folder: &folder,
        cores: config.cores.len() as u16,
        levels_hash: levels_hash(&config.rooms),
        accept_corruption: config.accept_corruption,
    };
    let mut recovered = recovery::recover(&opening, &mut |seen| {
        reserved = epochs.begin(seen, unix_ms)?;
        Ok(reserved.run)
    })?;
    try_direct(&folder)?;
    let (run, unix_ms) = (recovered.run, wall_clock::unix_ms());
    let start_ms = recovered.begin(unix_ms);
    let Recovered { segments, ledger, unwritten, .. } = recovered;
    let catalogs = recovered.catalogs.into_iter().map(Some).collect();
    Ok((reserved, Some(OpenLog { folder, run, start_ms, catalogs, segments, unwritten, ledger })))
}

/// Told now, and not at the first post. Where nothing is free, a segment will say so as soon as something is.
fn try_direct(folder: &Path) -> Result<(), RunFault> {
    match files::try_direct(folder) {
        Err(error) if files::is_full(&error) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Err(RecoveryFault::NoDirect { path: folder.to_owned(), error }.into())
        }
        Err(error) => Err(RecoveryFault::Disk { doing: "making a file in", path: folder.to_owned(), error }.into()),
        Ok(()) => Ok(()),
    }
}

/// Which rooms have which durability and are of which class, as a number that another configuration does not have. The
/// class, since a room may come back to one that it left: what it got meanwhile may have gone with the other.
fn levels_hash(rooms: &RoomPolicies) -> u64 {
    let line = |name: &str, policy: &RoomPolicy| {
        let (level, Class { hours, bytes }) = (policy.durability.name(), policy.class);
        format!("{name}\n{level} {hours} {bytes}\n")
    };
    let rules = rooms.rules.iter().map(|(pattern, policy)| line(pattern.as_str(), policy));
    let levels: String = rules.chain([line("", &rooms.otherwise)]).collect();
    body_hash(levels.as_bytes()).into()
}

impl OpenLog {
    fn journal(&mut self, limits: &Limits, core: usize) -> JournalParts {
        JournalParts {
            run: self.run,
            commit_bytes_max: limits.log_commit_bytes_max as usize,
            reads_max: limits.log_reads_max as usize,
            work_steps_max: WORK_STEPS_MAX,
            cache_bytes_max: limits.log_cache_bytes_per_core_max,
            indexes: self.unwritten.clone(),
            catalog: self.catalogs.get_mut(core).and_then(Option::take).unwrap_or_default(),
        }
    }

    /// What reads it as a stream.
    fn feed(&self, keeper: &Arc<KeeperState>) -> FeedLog {
        let OpenLog { folder, run, segments, ledger, .. } = self;
        let (identity, blank) = (ledger.ledger().identity, ledger.ledger().blank());
        let (run, blank, keeper) = (*run, blank.synced.max(blank.written).0, keeper.clone());
        FeedLog::new(FeedLogParts { folder, identity, run, blank, segments, keeper })
    }

    /// Starts the keeper's thread.
    fn keep(
        self,
        config: &Config,
        links: &[CoreLink],
        state: Arc<KeeperState>,
        inbox: flume::Receiver<ToKeeper>,
    ) -> io::Result<JoinHandle<()>> {
        let OpenLog { folder, run, start_ms, segments, unwritten, ledger, .. } = self;
        let (limits, cores, classes) = (config.limits, links.to_vec(), config.rooms.classes().len());
        let keeper = Keeper::new(KeeperParts {
            folder,
            limits,
            classes,
            run,
            start_ms,
            cores,
            segments,
            unwritten,
            ledger,
            inbox,
            state,
        });
        std::thread::Builder::new().name("log-keeper".into()).spawn(move || keeper.run())
    }
}

/// What one core's thread is given.
struct CoreParts {
    shard: ShardConfig,
    delivery_delays: DeliveryDelays,
    sockets_max: u32,
    auth: Option<AuthDesk>,
    limits: ConnectionLimits,
    /// The log tells who shows tokens.
    tells_events: bool,
    /// The log's folder, and the end to its keeper.
    log: Option<(PathBuf, flume::Sender<ToKeeper>)>,
    /// In a cluster its hands on the logs of its partitions.
    hands: Option<Hands>,
    listener: TcpListener,
    neighbours: Vec<Neighbour>,
    bell: Arc<Bell>,
    inbox: flume::Receiver<ToCore>,
    control: flume::Sender<ToControl>,
    started: Instant,
}

impl CoreParts {
    /// Starts the core's thread on that CPU.
    fn spawn(self, cpu: usize) -> Result<ExecutorJoinHandle<()>, RunFault> {
        LocalExecutorBuilder::new(Placement::Fixed(cpu))
            .name(&format!("core-{}", self.shard.core.index()))
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(GLOMMIO_RING_DEPTH)
            .spawn(move || self.run())
            .map_err(|error| RunFault::Core(format!("CPU {cpu}: {error}")))
    }

    /// The life of a core.
    async fn run(self) {
        let (core, control) = (self.shard.core, self.control.clone());
        let result = match self.start() {
            Ok(mut pump) => {
                let _ = control.send(ToControl::Ready(core));
                pump.run().await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            let fault = host::ring_fault("running a core's io_uring", &error);
            let _ = control.send(ToControl::Failed(core, fault.to_string()));
        }
    }

    fn start(self) -> io::Result<Pump> {
        let core = self.shard.core;
        let limits = self.shard.limits;
        let connections = Connections::new(core, self.limits, self.control.clone());
        let mut shard = Shard::new(self.shard);
        shard.set_delivery_delays(self.delivery_delays);
        let disk = self.log.map(|(folder, keeper)| Disk::new(core, folder, self.bell.clone(), keeper));
        Ok(Pump::new(PumpParts {
            core,
            net: Net::new(self.listener, self.sockets_max, Some(self.bell.clone()))?,
            shard,
            connections: if self.tells_events { connections.with_events() } else { connections },
            disk,
            hands: self.hands,
            auth: self.auth,
            neighbours: self.neighbours,
            bell: self.bell,
            inbox: self.inbox,
            control: self.control,
            limits,
            started: self.started,
        }))
    }
}

/// What is the server's own, beside its configuration.
#[derive(Clone, Copy)]
struct Run {
    reserved: Reserved,
    guest_seed: GuestSeed,
}

fn shard_config(
    config: &Config,
    core: u16,
    placement: address::Placement,
    run: Run,
    log: Option<&mut OpenLog>,
) -> ShardConfig {
    let Run { reserved: Reserved { run, end }, guest_seed } = run;
    let limits = told_limits(&config.limits);
    let (policies, logs) = match (&config.cluster, log) {
        (Some(cluster), _) => (config.rooms.clone().in_cluster(), LogConfig::Partitions { hold_ms: cluster.hold_ms }),
        (None, Some(log)) => (config.rooms.clone(), LogConfig::local(log.journal(&config.limits, core.into()))),
        (None, None) => (config.rooms.clone(), LogConfig::None),
    };
    ShardConfig {
        core: Core(core),
        placement,
        limits: config.limits,
        welcome: Welcome { limits, durability: policies.otherwise.durability.name(), features: KNOWN, run },
        access: config.access(guest_seed),
        // The first of the run's epochs is for histories that turned out to be broken at its start.
        first_epoch: Epoch(run + 1 + u64::from(core)),
        epochs_end: Epoch(end),
        policies,
        post_rates: config.post_rates.clone(),
        logs,
    }
}

fn hear_signals(control: flume::Sender<ToControl>) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if control.send(ToControl::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
