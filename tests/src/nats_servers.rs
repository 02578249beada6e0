//! Three NATS servers on loopback, as one cluster that syncs each message: for a test that neither kills them nor cuts them off.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::server_process::{PATIENCE, holds_within};

const SERVERS: usize = 3;

/// They run as long as this is there.
pub struct NatsServers {
    processes: Vec<Child>,
    ports: Vec<u16>,
    monitoring: Vec<u16>,
    _folder: TempDir,
}

impl NatsServers {
    /// Starts them, and waits until they are one.
    ///
    /// # Panics
    /// When they cannot be started.
    pub fn start(binary: &PathBuf) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let ports = free_ports(3 * SERVERS);
        let (clients, rest) = ports.split_at(SERVERS);
        let (monitoring, routes) = rest.split_at(SERVERS);
        let urls: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let start = |index: usize| {
            let (port, http, route) = (clients[index], monitoring[index], routes[index]);
            let text = format!(
                "server_name: s{index}\nlisten: 127.0.0.1:{port}\nhttp: 127.0.0.1:{http}\n\
                 jetstream {{ store_dir: {:?}, sync_interval: always, max_file_store: 4GB }}\n\
                 cluster {{ name: moves, listen: 127.0.0.1:{route}, routes: [{}] }}\n",
                folder.path().join(format!("store-{index}")),
                urls.join(", ")
            );
            let config = folder.path().join(format!("{index}.conf"));
            std::fs::write(&config, text).expect("a file");
            let log = File::create(folder.path().join(format!("{index}.log"))).expect("a file");
            let mut command = Command::new(binary);
            command
                .arg("-c")
                .arg(config)
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a descriptor"))
                .stderr(log);
            command.spawn().expect("nats-server can be started")
        };
        let processes = (0..SERVERS).map(start).collect();
        let servers =
            NatsServers { processes, ports: clients.to_vec(), monitoring: monitoring.to_vec(), _folder: folder };
        assert!(holds_within(PATIENCE, || servers.are_one()), "the NATS servers do not become one");
        servers
    }

    /// Their addresses for clients.
    pub fn urls(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect()
    }

    /// Their monitoring addresses.
    pub fn monitoring(&self) -> Vec<String> {
        self.monitoring.iter().map(|port| format!("http://127.0.0.1:{port}")).collect()
    }

    /// Bytes of messages that the first of them keeps.
    pub fn stored_bytes(&self) -> u64 {
        let told = get(self.monitoring[0], "/jsz");
        let told: Value =
            told.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()).unwrap_or_default();
        told["bytes"].as_u64().unwrap_or(0)
    }

    /// Whether each is well and knows the others, and one leads them.
    fn are_one(&self) -> bool {
        self.monitoring.iter().all(|&port| {
            let told = get(port, "/jsz");
            get(port, "/healthz?js-server-only=true").contains("\"ok\"")
                && told.contains("\"leader\"")
                && told.contains(&format!("\"cluster_size\": {SERVERS}"))
        })
    }
}

impl Drop for NatsServers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Ports that were free a moment ago: servers that are to find each other have to be told theirs beforehand.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a free port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("an address").port()).collect()
}

/// What a server's monitoring says; nothing, while it does not answer.
fn get(port: u16, path: &str) -> String {
    let mut told = Vec::new();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let _ = write!(stream, "GET {path} HTTP/1.0\r\nHost: a\r\n\r\n");
        let _ = stream.read_to_end(&mut told);
    }
    String::from_utf8_lossy(&told).into_owned()
}
