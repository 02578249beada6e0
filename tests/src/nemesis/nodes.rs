//! The Banter nodes of a run: each on a host of its own, with a data folder and a log that stay.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::engine_servers::EngineServers;
use super::network::Network;
use crate::server_process::{PATIENCE, ServerProcess, Start, holds_within};

/// Where a node listens, on its host.
const PORT: u16 = 7878;
/// The cluster's name.
pub const CLUSTER: &str = "nemesis";
/// More than any run posts to a room: nothing is to leave a history by itself.
const LIMITS: &str = "[limits]\nhistory_messages_max = 10000000\nhistory_bytes_per_core_max = 8000000000\n";

/// One of them.
struct Node {
    config: PathBuf,
    data: PathBuf,
    log: PathBuf,
    process: Option<ServerProcess>,
    is_halted: bool,
}

/// All of them: their hosts are those behind the engine's.
pub struct Nodes {
    first_host: usize,
    all: Vec<Node>,
    addresses: Vec<SocketAddr>,
}

impl Nodes {
    /// That many, none of which runs yet.
    ///
    /// # Errors
    /// Their configuration cannot be written.
    pub fn new(network: &Network, engine: &EngineServers, count: usize, folder: &Path) -> Result<Self, String> {
        let first_host = engine.count();
        let addresses: Vec<SocketAddr> =
            (0..count).map(|node| (network.address(first_host + node), PORT).into()).collect();
        let mut all = Vec::new();
        for (number, address) in addresses.iter().enumerate() {
            let config = folder.join(format!("node-{number}.toml"));
            let text = format!(
                "{LIMITS}\n[cluster]\nname = \"{CLUSTER}\"\nnode = \"n{number}\"\naddresses = [\"{address}\"]\nengine = {:?}\n\
                 engine_monitoring = {:?}\n",
                engine.urls(),
                engine.monitoring()
            );
            std::fs::write(&config, text).map_err(|error| error.to_string())?;
            let (data, log) = (folder.join(format!("data-{number}")), folder.join(format!("node-{number}.log")));
            all.push(Node { config, data, log, process: None, is_halted: false });
        }
        Ok(Nodes { first_host, all, addresses })
    }

    /// Where they serve clients.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A node's host.
    pub fn host(&self, node: usize) -> usize {
        self.first_host + node
    }

    /// Starts one that does not run, and does not wait for it.
    pub fn start(&mut self, network: &Network, number: usize) {
        let within = network.within(self.host(number));
        let node = &mut self.all[number];
        if node.process.as_mut().is_some_and(ServerProcess::is_running) {
            return;
        }
        let config = node.config.to_str().expect("a path of letters");
        let flags = ["--config", config, "--log", "info", "--open"];
        let start = Start::new(1, &flags).listen(self.addresses[number]).data(&node.data).log(&node.log);
        node.process = Some(start.within(&within).launch());
        node.is_halted = false;
    }

    /// Those that run and are not halted.
    pub fn running(&self) -> Vec<usize> {
        (0..self.all.len()).filter(|&node| self.all[node].process.is_some() && !self.all[node].is_halted).collect()
    }

    /// One that ended although nobody told it to, and its exit code.
    pub fn take_ended(&mut self) -> Option<(usize, i32)> {
        for (number, node) in self.all.iter_mut().enumerate() {
            if let Some(process) = &mut node.process
                && !process.is_running()
            {
                let code = process.wait(PATIENCE).code().unwrap_or(-1);
                node.process = None;
                return Some((number, code));
            }
        }
        None
    }

    /// Sends one a signal.
    pub fn signal(&mut self, number: usize, signal: Signal) {
        let node = &mut self.all[number];
        if let Some(process) = &mut node.process
            && process.is_running()
        {
            process.signal(signal);
        }
        match signal {
            Signal::STOP => node.is_halted = true,
            Signal::CONT => node.is_halted = false,
            _ => {}
        }
    }

    /// Kills one with SIGKILL, and waits until it is gone.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.all[number].process.take() {
            process.kill();
        }
    }

    /// Waits until one is gone that was told to go, and kills it where it does not: whether it went by itself.
    pub fn wait_for_end(&mut self, number: usize) -> bool {
        let Some(mut process) = self.all[number].process.take() else { return true };
        holds_within(PATIENCE, || !process.is_running())
    }
}
