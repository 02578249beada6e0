//! From a configuration to running cores, and back: listeners, lanes, threads, signals.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use banter_chat::address::Core;
use banter_chat::sessions::Welcome;
use banter_chat::shard::{Shard, ShardConfig};
use banter_protocol::ids::Epoch;
use glommio::{LocalExecutorBuilder, Placement};
use rustix::net::sockopt;

use crate::config::{Config, LIMITS};
use crate::connections::{ConnectionLimits, Connections};
use crate::control::{Control, CoreLink, ToControl, ToCore};
use crate::host;
use crate::mesh::{Bell, Neighbour, lanes};
use crate::net::Net;
use crate::pump::{Pump, PumpParts};

/// Connections that may wait in the kernel for a core to take them.
const BACKLOG: i32 = 4_096;
/// Sockets of one core at most, whatever the descriptor limit: the kernel's own bound on a ring's table.
const SOCKETS_MAX: u64 = 1 << 20;
/// Bytes of buffers for direct I/O that glommio keeps for a core.
const IO_MEMORY_BYTES: usize = 64 * 1_024;
/// Entries of glommio's own rings.
const GLOMMIO_RING_DEPTH: usize = 64;

/// Why a server could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunFault {
    /// The host does not allow it.
    #[error("{0}")]
    Host(#[from] host::HostFault),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}{hint}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        error: io::Error,
        /// How to mend it.
        hint: &'static str,
    },
    /// A core could not start.
    #[error("a core could not start: {0}")]
    Core(String),
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
            RunFault::Listen { .. } | RunFault::Core(_) | RunFault::System { .. } => 1,
        }
    }
}

/// Runs a server until it is told to stop. `listening` is called with the address once every core accepts.
///
/// # Errors
/// When the host, the address or a core refuses.
pub fn run(config: &Config, listening: impl FnOnce(SocketAddr)) -> Result<(), RunFault> {
    let report = host::check(config)?;
    tracing::info!("{report}");
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let first_epoch = host::next_epoch_base(&config.data, unix_ms)?;
    let (address, listeners) = listen(config.listen, config.cores.len())?;
    let system = |doing| move |error| RunFault::System { doing, error };
    let bells = (0..listeners.len())
        .map(|_| Bell::new())
        .collect::<io::Result<Vec<_>>>()
        .map_err(system("making an eventfd"))?;
    let (to_control, control_inbox) = flume::unbounded();
    let connections_now = Arc::new(AtomicU32::new(0));
    let neighbours = lanes(&bells, config.limits.lane_parcels_max);
    let mut links = Vec::new();
    let mut threads = Vec::new();
    let parts = config.cores.iter().zip(listeners).zip(neighbours).zip(&bells).enumerate();
    for (index, (((&cpu, listener), neighbours), bell)) in parts {
        let (messages, inbox) = flume::unbounded();
        links.push(CoreLink { messages, bell: bell.clone() });
        let core = CoreParts {
            shard: shard_config(config, index as u16, first_epoch),
            sockets_max: report.connections_max().min(SOCKETS_MAX) as u32,
            limits: connection_limits(config, &connections_now),
            listener,
            neighbours,
            bell: bell.clone(),
            inbox,
            control: to_control.clone(),
        };
        let thread = LocalExecutorBuilder::new(Placement::Fixed(cpu))
            .name(&format!("core-{index}"))
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(GLOMMIO_RING_DEPTH)
            .spawn(move || core.run())
            .map_err(|error| RunFault::Core(format!("CPU {cpu}: {error}")))?;
        threads.push(thread);
    }
    hear_signals(to_control).map_err(system("listening for signals"))?;
    let mut control = Control::new(control_inbox, links);
    control.wait_until_ready().map_err(RunFault::Core)?;
    listening(address);
    control.run(Duration::from_millis(config.limits.drain_timeout_ms.into()));
    for thread in threads {
        if let Err(error) = thread.join() {
            tracing::error!("a core ended with: {error}");
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// What one core's thread is given.
struct CoreParts {
    shard: ShardConfig,
    sockets_max: u32,
    limits: ConnectionLimits,
    listener: TcpListener,
    neighbours: Vec<Neighbour>,
    bell: Arc<Bell>,
    inbox: flume::Receiver<ToCore>,
    control: flume::Sender<ToControl>,
}

impl CoreParts {
    /// The life of a core.
    async fn run(self) {
        let control = self.control.clone();
        let result = match self.start() {
            Ok(mut pump) => {
                let _ = control.send(ToControl::Ready);
                pump.run().await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            let fault = host::ring_fault("running a core's io_uring", &error);
            let _ = control.send(ToControl::Failed(fault.to_string()));
        }
    }

    fn start(self) -> io::Result<Pump> {
        let core = self.shard.core;
        let lane_parcels_max = self.shard.limits.lane_parcels_max;
        Ok(Pump::new(PumpParts {
            core,
            net: Net::new(self.listener, self.sockets_max, Some(self.bell.descriptor()))?,
            shard: Shard::new(self.shard),
            connections: Connections::new(core, self.limits, self.control.clone()),
            neighbours: self.neighbours,
            bell: self.bell,
            inbox: self.inbox,
            control: self.control,
            lane_parcels_max,
        }))
    }
}

fn shard_config(config: &Config, core: u16, first_epoch: u64) -> ShardConfig {
    let limits: String =
        LIMITS.iter().map(|limit| format!("{} {}\n", limit.name, (limit.read)(&config.limits))).collect();
    let welcome = Welcome { limits, durability: config.durability.name(), run: first_epoch };
    let cores = config.cores.len() as u16;
    let first_epoch = Epoch(first_epoch + u64::from(core));
    let policies = banter_chat::policy::RoomPolicies::all(banter_chat::policy::Durability::Memory);
    ShardConfig { core: Core(core), cores, limits: config.limits, welcome, first_epoch, policies, journal: None }
}

fn connection_limits(config: &Config, connections_now: &Arc<AtomicU32>) -> ConnectionLimits {
    ConnectionLimits {
        frame_bytes_max: config.limits.frame_bytes_max,
        handshake_timeout_ms: config.limits.handshake_timeout_ms.into(),
        connections_max: config.limits.connections_max,
        connections_now: connections_now.clone(),
    }
}

/// One listener for each core on one address: the kernel spreads connections over them.
fn listen(address: SocketAddr, cores: usize) -> Result<(SocketAddr, Vec<TcpListener>), RunFault> {
    let fault = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => ": another program has it; stop that one, or choose another with --listen",
            io::ErrorKind::PermissionDenied => ": ports below 1024 need a right; choose another with --listen",
            io::ErrorKind::AddrNotAvailable => ": no interface of this host has that address",
            _ => "",
        };
        RunFault::Listen { address, error, hint }
    };
    // Sharing the port is for the cores of this server: a first listener that does not share finds another server's.
    let first = bind(address, false).map_err(fault)?;
    let address = first.local_addr().map_err(fault)?;
    drop(first);
    let listeners = (0..cores).map(|_| bind(address, true)).collect::<io::Result<Vec<_>>>().map_err(fault)?;
    Ok((address, listeners))
}

/// A listener whose connections send small frames at once.
fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let family = rustix::net::AddressFamily::from_raw(match address {
        SocketAddr::V4(_) => libc::AF_INET as u16,
        SocketAddr::V6(_) => libc::AF_INET6 as u16,
    });
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, rustix::net::SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, shared)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    if shared {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(TcpListener::from(socket))
}

fn hear_signals(control: flume::Sender<ToControl>) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if control.send(ToControl::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
