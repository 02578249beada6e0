//! Real NATS servers on loopback, for a test: started, waited for, stopped in whichever way a test likes, and never left behind.
//!
//! The binary is the one of `NATS_SERVER`, or what `scripts/nats.sh` fetches. Where there is none, tests say so and try nothing.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use banter_cluster::engine::{Answer, Ask, Partition, Ticket};
use banter_engine::streams::{self, Progress};
use banter_engine::{Engine, EngineConfig, Founding, Shape};
use bytes::Bytes;
use tempfile::TempDir;

/// How long anything that must come is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const POLL: Duration = Duration::from_millis(20);

pub const FOUNDING: Founding = Founding { cluster_id: 0xBA27_E800_0000_0001, partitions: 16, blank_epoch: 77 };
pub const SHAPE: Shape = Shape { replicas: 3, stream_bytes_max: 8 << 20, index_bytes_max: 8 << 20 };

/// What of a server's configuration a test changes.
#[derive(Clone)]
pub struct Odd {
    pub sync: &'static str,
    pub max_payload_bytes: usize,
    /// Further lines.
    pub more: String,
}

pub const USUAL: Odd = Odd { sync: "always", max_payload_bytes: 1 << 20, more: String::new() };

pub struct Server {
    pub port: u16,
    pub monitoring_port: u16,
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

pub struct Servers {
    pub all: Vec<Server>,
    binary: PathBuf,
    // Ends the servers if this process ends without saying so: it sees the end of its standard input.
    watchdog: Option<Child>,
    folder: TempDir,
}

impl Servers {
    /// Three that all tests of a program share, each with a cluster of its own name; no test may stop them.
    pub fn shared() -> Option<&'static Servers> {
        static SHARED: OnceLock<Option<Servers>> = OnceLock::new();
        SHARED.get_or_init(Servers::start).as_ref()
    }

    /// Three of them as one cluster; none, and a word why, if there is no binary.
    pub fn start() -> Option<Servers> {
        Servers::start_with(&[USUAL; 3])
    }

    pub fn start_with(odds: &[Odd]) -> Option<Servers> {
        let binary = binary()?;
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports(3 * odds.len());
        let routes: Vec<_> = ports[2 * odds.len()..].iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let all = odds.iter().enumerate();
        let all = all.map(|(index, odd)| {
            let [port, monitoring_port, route] = [0, 1, 2].map(|kind| ports[kind * odds.len() + index]);
            let text = config(index, odd, [port, monitoring_port, route], &routes, folder.path());
            let config = folder.path().join(format!("{index}.conf"));
            std::fs::write(&config, text).unwrap();
            Server { port, monitoring_port, config, log: folder.path().join(format!("{index}.log")), process: None }
        });
        let mut servers = Servers { all: all.collect(), binary, watchdog: None, folder };
        for index in 0..servers.all.len() {
            servers.run(index);
        }
        servers.wait_until_ready();
        Some(servers)
    }

    pub fn config(&self, cluster: &str) -> EngineConfig {
        let addresses = self.all.iter().map(|server| format!("nats://127.0.0.1:{}", server.port));
        // Longer than usual, for a machine whose disk does other things too.
        EngineConfig { append_timeout_ms: 5_000, ..EngineConfig::new(cluster, addresses.collect()) }
    }

    pub fn monitoring(&self) -> Vec<String> {
        self.all.iter().map(|server| format!("http://127.0.0.1:{}", server.monitoring_port)).collect()
    }

    /// Starts one that does not run.
    pub fn run(&mut self, index: usize) {
        let server = &mut self.all[index];
        let log = std::fs::File::options().create(true).append(true).open(&server.log).unwrap();
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(&server.config).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        server.process = Some(command.spawn().unwrap());
        self.watch();
    }

    pub fn signal(&self, index: usize, signal: &str) {
        let process = self.all[index].process.as_ref().expect("a server that runs").id();
        assert!(Command::new("kill").arg(signal).arg(process.to_string()).status().unwrap().success());
    }

    pub fn kill(&mut self, index: usize) {
        let mut process = self.all[index].process.take().expect("a server that runs");
        process.kill().unwrap();
        process.wait().unwrap();
        self.watch();
    }

    /// The number of the server of that name.
    pub fn index_of(&self, name: &str) -> usize {
        name.strip_prefix('s').unwrap().parse().unwrap()
    }

    /// Each is up, knows the others, and one leads them all.
    pub fn wait_until_ready(&self) {
        for server in &self.all {
            self.wait_for(|| get(server.monitoring_port, "/healthz?js-server-only=true").contains("\"ok\""));
        }
        if self.all.len() > 1 {
            let peers = format!("\"cluster_size\": {}", self.all.len());
            self.wait_for(|| {
                let told = self.all.iter().map(|server| get(server.monitoring_port, "/jsz"));
                told.filter(|told| told.contains("\"leader\"") && told.contains(&peers)).count() == self.all.len()
            });
        }
    }

    fn wait_for(&self, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            if begun.elapsed() > PATIENCE {
                let mut logs = String::new();
                for server in &self.all {
                    let _ = writeln!(logs, "{}", std::fs::read_to_string(&server.log).unwrap_or_default());
                }
                panic!("the servers are not ready after {PATIENCE:?}:\n{logs}");
            }
            std::thread::sleep(POLL);
        }
    }

    fn watch(&mut self) {
        self.unwatch();
        let processes = self.all.iter().filter_map(|server| server.process.as_ref());
        let processes: Vec<_> = processes.map(|process| process.id().to_string()).collect();
        let watchdog = Command::new("sh")
            .arg("-c")
            .arg(format!("cat >/dev/null; kill -9 {}; rm -rf '{}'", processes.join(" "), self.folder.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.watchdog = Some(watchdog.unwrap());
    }

    fn unwatch(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            // Before its standard input is closed, which would be its word.
            let _ = watchdog.kill();
            let _ = watchdog.wait();
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.unwatch();
        for server in &mut self.all {
            if let Some(mut process) = server.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

fn config(
    index: usize,
    odd: &Odd,
    [port, monitoring_port, route]: [u16; 3],
    routes: &[String],
    folder: &Path,
) -> String {
    let store = folder.join(format!("store-{index}"));
    let mut text = format!(
        "server_name: s{index}\nlisten: 127.0.0.1:{port}\nhttp: 127.0.0.1:{monitoring_port}\nmax_payload: {}\n\
         jetstream {{ store_dir: {store:?}, sync_interval: {}, max_file_store: 4GB }}\n{}\n",
        odd.max_payload_bytes, odd.sync, odd.more
    );
    if routes.len() > 1 {
        let _ = writeln!(text, "cluster {{ name: tests, listen: 127.0.0.1:{route}, routes: [{}] }}", routes.join(", "));
    }
    text
}

fn binary() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("NATS_SERVER") {
        return Some(named.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/nats.sh");
    let output = Command::new(script).output().unwrap();
    if output.status.success() {
        return Some(String::from_utf8(output.stdout).unwrap().trim().into());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    eprintln!("SKIPPED, nothing was tried: there is no nats-server, and scripts/nats.sh could not fetch it: {why}");
    None
}

/// Ports that were free a moment ago: servers that are to find each other have to be told theirs beforehand.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// What a server's monitoring says; nothing, while it is not up.
pub fn get(port: u16, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut told = String::new();
    if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let _ = write!(stream, "GET {path} HTTP/1.0\r\nHost: a\r\n\r\n");
        let _ = stream.read_to_string(&mut told);
    }
    told
}

/// Waits until that is so.
pub async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "it is not so after {PATIENCE:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until each server has the stream up to that sequence, as its leader sees it.
pub async fn until_current(asker: &Asker, partition: Partition, last: u64) {
    let stream = asker.engine.connection().names().stream(partition);
    until(async || {
        let described = streams::describe(asker.engine.connection()).await.unwrap();
        let state = described.partitions.into_iter().flatten().find(|state| state.config.name == stream).unwrap();
        state.last == last && state.peers.iter().all(|peer| peer.current && peer.lag == 0)
    })
    .await;
}

/// Asks JetStream what the engine never asks.
/// Puts a message where a stream keeps it.
pub async fn publish(servers: &Servers, subject: &'static str, body: &'static str) {
    let client = async_nats::connect(&servers.config("any").servers).await.unwrap();
    client.request(subject, body.into()).await.unwrap();
}

pub async fn request(servers: &Servers, subject: &str, body: Bytes) -> serde_json::Value {
    let client = async_nats::connect(&servers.config("any").servers).await.unwrap();
    let answer = client.request(format!("$JS.API.{subject}"), body).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
    answer
}

/// An engine, and what it answers.
pub struct Asker {
    pub engine: Engine,
    answers: flume::Receiver<Answer>,
    newest: u64,
}

impl Asker {
    /// Connected, with all streams made.
    pub async fn with_streams(servers: &Servers, cluster: &str) -> Asker {
        Asker::with_streams_of(servers, cluster, SHAPE).await
    }

    pub async fn with_streams_of(servers: &Servers, cluster: &str, shape: Shape) -> Asker {
        Asker::with(servers.config(cluster), shape).await
    }

    pub async fn with(config: EngineConfig, shape: Shape) -> Asker {
        let asker = Asker::connect(config).await;
        // A server that has just started may be offline to the one that places the streams.
        until(async || streams::init(asker.engine.connection(), FOUNDING, shape, |_: Progress| ()).await.is_ok()).await;
        asker
    }

    pub async fn connect(config: EngineConfig) -> Asker {
        let (sender, answers) = flume::unbounded();
        let engine = Engine::connect(config, sender).await.unwrap();
        Asker { engine, answers, newest: 0 }
    }

    pub fn ticket(&mut self) -> Ticket {
        self.newest += 1;
        Ticket(self.newest)
    }

    /// The ticket of the newest ask.
    pub fn newest(&self) -> Ticket {
        Ticket(self.newest)
    }

    pub async fn next(&self) -> Answer {
        tokio::time::timeout(PATIENCE, self.answers.recv_async()).await.expect("an answer in time").unwrap()
    }

    /// Whether no answer waits.
    pub fn is_quiet(&self) -> bool {
        self.answers.is_empty()
    }

    /// Asks for one thing, and gives its answer.
    pub async fn ask(&mut self, ask: impl FnOnce(Ticket) -> Ask) -> Answer {
        let ask = ask(self.ticket());
        self.engine.ask(ask);
        self.next().await
    }

    pub fn send_append(&mut self, partition: Partition, expected: u64, bytes: impl Into<Bytes>) -> Ticket {
        let ticket = self.ticket();
        self.engine.ask(Ask::Append { partition, ticket, expected, bytes: bytes.into() });
        ticket
    }

    pub async fn append(&mut self, partition: Partition, expected: u64, bytes: impl Into<Bytes>) -> Answer {
        self.send_append(partition, expected, bytes);
        self.next().await
    }

    /// Appends until it lands behind the expected sequence, as whoever waits for an election has to.
    pub async fn append_at_last(&mut self, partition: Partition, expected: u64, bytes: &'static str) -> u64 {
        let begun = Instant::now();
        loop {
            match self.append(partition, expected, bytes).await {
                Answer::Appended { sequence, .. } => return sequence,
                // An earlier one has landed after all.
                Answer::Refused { last, .. } => return last,
                Answer::Silent { .. } if begun.elapsed() < PATIENCE => tokio::time::sleep(POLL).await,
                other => panic!("{other:?}"),
            }
        }
    }

    /// The last sequence that a stream's leader tells, as soon as it has one.
    pub async fn last_soon(&mut self, partition: Partition) -> u64 {
        let mut last = None;
        until(async || {
            let Answer::Tail { tail, .. } = self.ask(|ticket| Ask::Tail { partition, ticket }).await else {
                return false;
            };
            last = tail.map(|tail| tail.last);
            last.is_some()
        })
        .await;
        last.unwrap()
    }

    pub async fn read(
        &mut self,
        partition: Partition,
        from: u64,
        messages_max: u32,
        bytes_max: u32,
    ) -> Option<Vec<(u64, Bytes)>> {
        match self.ask(|ticket| Ask::Read { partition, ticket, from, messages_max, bytes_max }).await {
            Answer::Read { messages, .. } => messages,
            other => panic!("{other:?}"),
        }
    }
}
