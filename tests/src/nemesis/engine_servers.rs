//! The NATS servers of a run: each on a host and a disk of its own, ended, halted and started again in any order.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::network::Network;
use crate::loop_disk::LoopDisk;
use crate::server_process::holds_within;

/// Where clients, routes and monitoring are served, on each host.
const PORTS: [u16; 3] = [4222, 6222, 8222];
/// What monitoring may take to answer.
const MONITORING_PATIENCE: Duration = Duration::from_secs(1);
/// What one may take to be gone that was told to go.
const END_MAX: Duration = Duration::from_secs(60);

/// One of them.
struct Server {
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
    is_halted: bool,
    disk: Option<LoopDisk>,
}

/// All of them: server n is on host n.
pub struct EngineServers {
    binary: PathBuf,
    all: Vec<Server>,
    addresses: Vec<SocketAddr>,
}

/// The binary: the one of `NATS_SERVER`, or what `scripts/nats.sh` fetches.
///
/// # Errors
/// Why there is none.
pub fn binary() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("NATS_SERVER") {
        return Ok(named.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/nats.sh");
    let output = Command::new(script).output().map_err(|error| error.to_string())?;
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout).into()) } else { Err(text(&output.stderr)) }
}

impl EngineServers {
    /// That many on the first hosts, none of which runs yet; with disks whose power can be cut where that is asked, and
    /// which then have as much again for what Raft keeps.
    ///
    /// # Errors
    /// There is no such disk on this machine, or for this user.
    pub fn new(
        network: &Network,
        binary: PathBuf,
        count: usize,
        folder: &Path,
        disk_bytes: u64,
        has_disks: bool,
    ) -> Result<Self, String> {
        let routes: Vec<_> = (0..count).map(|host| format!("nats://{}:{}", network.address(host), PORTS[1])).collect();
        let mut all = Vec::new();
        for host in 0..count {
            let disk = if has_disks { Some(LoopDisk::make((2 * disk_bytes) >> 20)?) } else { None };
            let store = match &disk {
                Some(disk) => disk.folder().join("store"),
                None => folder.join(format!("store-{host}")),
            };
            let config = folder.join(format!("engine-{host}.conf"));
            let text = config_text(network, host, &store, disk_bytes, &routes);
            std::fs::write(&config, text).map_err(|error| error.to_string())?;
            let log = folder.join(format!("engine-{host}.log"));
            all.push(Server { config, log, process: None, is_halted: false, disk });
        }
        let addresses = (0..count).map(|host| (network.address(host), PORTS[2]).into()).collect();
        Ok(EngineServers { binary, all, addresses })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether their disks can be filled, and their power cut.
    pub fn have_disks(&self) -> bool {
        self.all.iter().all(|server| server.disk.is_some())
    }

    /// Their addresses for clients.
    pub fn urls(&self) -> Vec<String> {
        self.addresses.iter().map(|address| format!("nats://{}:{}", address.ip(), PORTS[0])).collect()
    }

    /// Their monitoring addresses.
    pub fn monitoring(&self) -> Vec<String> {
        self.addresses.iter().map(|address| format!("http://{address}")).collect()
    }

    /// Starts one that does not run.
    ///
    /// # Panics
    /// When it cannot be started at all.
    pub fn start(&mut self, network: &Network, index: usize) {
        let server = &mut self.all[index];
        if server.process.is_some() {
            return;
        }
        let log = File::options().create(true).append(true).open(&server.log).expect("a file for its log");
        let within = network.within(index);
        let mut command = Command::new(&within[0]);
        command.args(&within[1..]).arg(&self.binary).arg("-c").arg(&server.config).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        server.process = Some(command.spawn().expect("nats-server can be started"));
        server.is_halted = false;
    }

    /// Those that run and are not halted.
    pub fn running(&self) -> Vec<usize> {
        let runs = |index: &usize| self.all[*index].process.is_some() && !self.all[*index].is_halted;
        (0..self.all.len()).filter(runs).collect()
    }

    /// Sends one a signal.
    pub fn signal(&mut self, index: usize, signal: Signal) {
        let server = &mut self.all[index];
        let Some(process) = &server.process else { return };
        let id = Pid::from_raw(process.id() as i32).expect("a pid is not 0");
        let _ = kill_process(id, signal);
        match signal {
            Signal::STOP => server.is_halted = true,
            Signal::CONT => server.is_halted = false,
            _ => {}
        }
    }

    /// Kills one with SIGKILL, and waits until it is gone.
    pub fn kill(&mut self, index: usize) {
        self.signal(index, Signal::KILL);
        self.wait_for_end(index);
    }

    /// Waits until one is gone that was told to go, and kills it where it does not: whether it went by itself.
    pub fn wait_for_end(&mut self, index: usize) -> bool {
        let Some(mut process) = self.all[index].process.take() else { return true };
        let has_ended = holds_within(END_MAX, || process.try_wait().expect("a child").is_some());
        let _ = process.kill();
        let _ = process.wait();
        has_ended
    }

    /// Cuts the power of these, disk and all. They stand still before the first disk goes: a server that lives on while its
    /// disk fails is another fault, in which the engine was seen to acknowledge what it could not sync.
    pub fn cut_power(&mut self, indexes: &[usize]) {
        for &index in indexes {
            self.signal(index, Signal::STOP);
        }
        for &index in indexes {
            if let Some(disk) = &self.all[index].disk {
                disk.shut_down();
            }
        }
        for &index in indexes {
            self.kill(index);
            if let Some(disk) = &mut self.all[index].disk {
                disk.mount_again();
            }
        }
    }

    /// Fills one's disk, but for some pages.
    pub fn fill_disk(&self, index: usize) {
        let Some(ballast) = self.ballast(index) else { return };
        let file = File::create(ballast).expect("a file on its disk");
        let mut end = 0;
        // Set aside and not written, so that it takes no space below and no time.
        for size in (12..40).rev().map(|power| 1 << power) {
            while fallocate(&file, FallocateFlags::empty(), end, size).is_ok() {
                end += size;
            }
        }
    }

    /// Makes space there again.
    pub fn empty_disk(&self, index: usize) {
        if let Some(ballast) = self.ballast(index) {
            let _ = std::fs::remove_file(ballast);
        }
    }

    fn ballast(&self, index: usize) -> Option<PathBuf> {
        self.all[index].disk.as_ref().map(|disk| disk.folder().join("ballast"))
    }

    /// Whether all of them say that they are well.
    pub fn are_healthy(&self) -> bool {
        self.addresses.iter().all(|&address| get(address, "/healthz?js-server-only=true").contains("\"ok\""))
    }

    /// Whether each knows all others, and one leads them.
    pub fn are_one(&self) -> bool {
        let peers = format!("\"cluster_size\": {}", self.count());
        self.are_healthy()
            && self.addresses.iter().all(|&address| {
                let told = get(address, "/jsz");
                told.contains("\"leader\"") && told.contains(&peers)
            })
    }

    /// The server that leads the stream of that name.
    pub fn leader_of(&self, stream: &str) -> Option<usize> {
        let leader = self.running().into_iter().find_map(|index| {
            let told = get(self.addresses[index], "/jsz?accounts=true&streams=true");
            let told: Value = serde_json::from_str(told.split_once("\r\n\r\n")?.1).ok()?;
            let mut streams = told["account_details"][0]["stream_detail"].as_array()?.iter();
            let stream = streams.find(|found| found["name"] == stream)?;
            Some(stream["cluster"]["leader"].as_str()?.to_owned())
        })?;
        leader.strip_prefix('s')?.parse().ok()
    }
}

impl Drop for EngineServers {
    fn drop(&mut self) {
        for index in 0..self.all.len() {
            self.kill(index);
        }
    }
}

fn config_text(network: &Network, host: usize, store: &Path, disk_bytes: u64, routes: &[String]) -> String {
    let (address, [port, routes_port, monitoring]) = (network.address(host), PORTS);
    let routes = routes.join(", ");
    format!(
        "server_name: s{host}\nlisten: {address}:{port}\nhttp: {address}:{monitoring}\n\
         lame_duck_duration: 30s\nlame_duck_grace_period: 1s\n\
         jetstream {{ store_dir: {store:?}, sync_interval: always, max_file_store: {disk_bytes} }}\n\
         cluster {{ name: nemesis, listen: {address}:{routes_port}, routes: [{routes}] }}\n"
    )
}

/// What a server's monitoring says, head and body; nothing, while it does not answer.
fn get(address: SocketAddr, path: &str) -> String {
    let mut told = Vec::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, MONITORING_PATIENCE) {
        let _ = stream.set_read_timeout(Some(MONITORING_PATIENCE));
        let _ = write!(stream, "GET {path} HTTP/1.0\r\nHost: a\r\n\r\n");
        let _ = stream.read_to_end(&mut told);
    }
    String::from_utf8_lossy(&told).into_owned()
}
