//! The program `banter` as a child process: built once, started with a data folder of its own on a free port.
//!
//! Everything here panics when the server does not do as it should, since that is a test that fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take that is to happen at once. Only a failing test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The state of a socket that listens, in `/proc/net/tcp`.
const TCP_LISTEN: &str = "0A";

/// Waits until a condition holds.
#[track_caller]
pub fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    assert!(holds_within(PATIENCE, holds), "not within {PATIENCE:?}: {what}");
}

/// Waits until a condition holds, or that long; whether it holds.
pub fn holds_within(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    true
}

/// The numbers of cores to test with: one and two, or one where this process may not run on more.
pub fn core_counts() -> &'static [usize] {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores > 1 { &[1, 2] } else { &[1] }
}

/// The path of the program, which is built by the first call; or what `BANTER_BIN` names, as it is.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(built) = std::env::var_os("BANTER_BIN") {
            return built.into();
        }
        let own = std::env::current_exe().expect("a test has a path");
        // target/PROFILE/deps/own is a test, target/PROFILE/own a program.
        let mut folder = own.parent().expect("cargo's folders").to_owned();
        if folder.ends_with("deps") {
            folder.pop();
        }
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "banter-server"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if folder.ends_with("release") {
            build.arg("--release");
        }
        build.env("CARGO_TARGET_DIR", folder.parent().expect("cargo's folders"));
        assert!(build.status().expect("cargo runs").success(), "banter-server does not compile");
        folder.join("banter")
    })
}

/// How a server is started.
#[derive(Default)]
pub struct Start<'a> {
    flags: &'a [&'a str],
    cores: usize,
    descriptors_max: Option<u32>,
    data: Option<&'a Path>,
    program: Option<&'a Path>,
    clock_offset_ms: i64,
    believes_clock: bool,
    listen: Option<SocketAddr>,
    within: &'a [String],
    log: Option<&'a Path>,
}

impl<'a> Start<'a> {
    /// On so many cores, with flags of the command line.
    pub fn new(cores: usize, flags: &'a [&'a str]) -> Self {
        Start { flags, cores, ..Start::default() }
    }

    /// With that hard limit of descriptors.
    #[must_use]
    pub fn descriptors_max(self, descriptors_max: u32) -> Self {
        Start { descriptors_max: Some(descriptors_max), ..self }
    }

    /// With a data folder that the caller owns.
    #[must_use]
    pub fn data(self, data: &'a Path) -> Self {
        Start { data: Some(data), ..self }
    }

    /// With a wall clock that is so much ahead of this machine's, or behind it.
    #[must_use]
    pub fn clock_offset_ms(self, clock_offset_ms: i64) -> Self {
        Start { clock_offset_ms, ..self }
    }

    /// It believes its wall clock at once, and not ten minutes behind its start.
    #[must_use]
    pub fn believes_clock(self) -> Self {
        Start { believes_clock: true, ..self }
    }

    /// Another program, which takes the same flags.
    #[must_use]
    pub fn program(self, program: &'a Path) -> Self {
        Start { program: Some(program), ..self }
    }

    /// Listening there.
    #[must_use]
    pub fn listen(self, listen: SocketAddr) -> Self {
        Start { listen: Some(listen), ..self }
    }

    /// By these words, which run the program that follows them in their own place, as `nsenter` does.
    #[must_use]
    pub fn within(self, within: &'a [String]) -> Self {
        Start { within, ..self }
    }

    /// Logging behind what that file has already.
    #[must_use]
    pub fn log(self, log: &'a Path) -> Self {
        Start { log: Some(log), ..self }
    }

    /// Starts it, and kills it after that time, whatever it is doing.
    pub fn kill_while_starting(self, after: Duration) {
        let (mut server, _stdout) = self.spawn();
        std::thread::sleep(after);
        server.kill();
    }

    /// Starts it, and does not wait until it listens: where it will stays unknown.
    pub fn launch(self) -> ServerProcess {
        self.spawn().0
    }

    /// Starts it, and waits until it listens.
    pub fn run(self) -> ServerProcess {
        let (mut server, line) = self.first_line();
        let address = line.trim_end().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        server.address = address.unwrap_or_else(|| panic!("the server said {line:?} and\n{}", server.log()));
        server
    }

    /// Starts it, and waits until it listens; where it ends before that, its exit code, and what it logged.
    ///
    /// # Errors
    /// It ended.
    pub fn try_run(self) -> Result<ServerProcess, (i32, String)> {
        let (mut server, line) = self.first_line();
        match line.trim_end().strip_prefix("listening on ").and_then(|address| address.parse().ok()) {
            Some(address) => server.address = address,
            None => return Err((server.wait(PATIENCE).code().unwrap_or(-1), server.log())),
        }
        Ok(server)
    }

    /// Starts it, and waits for the line that it says; none where it ends without one.
    fn first_line(self) -> (ServerProcess, String) {
        let (server, stdout) = self.spawn();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = tell.send(line);
        });
        let line = told.recv_timeout(PATIENCE).expect("the server says where it listens");
        (server, line)
    }

    fn spawn(self) -> (ServerProcess, ChildStdout) {
        let folder = TempDir::new().expect("a temporary folder");
        let data = self.data.map_or_else(|| folder.path().join("data"), Path::to_owned);
        let log = self.log.map_or_else(|| folder.path().join("log"), Path::to_owned);
        let mut command = match (self.descriptors_max, self.within.split_first()) {
            (None, None) => Command::new(self.program.unwrap_or_else(|| program())),
            (None, Some((first, others))) => {
                let mut within = Command::new(first);
                within.args(others).arg(self.program.unwrap_or_else(|| program()));
                within
            }
            // The shell lowers the hard limit, and becomes the program.
            (Some(limit), _) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]);
                shell.arg(self.program.unwrap_or_else(|| program()));
                shell
            }
        };
        let listen = self.listen.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
        command.args(["--listen", &listen.to_string(), "--cores", &self.cores.to_string(), "--data"]).arg(&data);
        if self.clock_offset_ms != 0 {
            // Only a build for tests takes notice of it.
            command.env("BANTER_TEST_CLOCK_OFFSET_MS", self.clock_offset_ms.to_string());
        }
        if self.believes_clock {
            // The same holds for this.
            command.env("BANTER_TEST_CLOCK_BELIEVED_MS", "0");
        }
        command.args(self.flags).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(File::options().create(true).append(true).open(&log).expect("a file for what it logs"));
        let mut child = command.spawn().expect("the server starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        (ServerProcess { child, address: listen, log, _folder: folder }, stdout)
    }
}

/// A running server. Dropping it kills it.
pub struct ServerProcess {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    _folder: TempDir,
}

impl ServerProcess {
    /// A server on so many cores.
    pub fn start(cores: usize, flags: &[&str]) -> Self {
        Start::new(cores, flags).run()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a pid is not 0");
        kill_process(pid, signal).expect("the server is there");
    }

    /// Whether it has said by now what is to happen at that signal.
    pub fn catches(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server is there");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a process has signals");
        let caught = u64::from_str_radix(caught.trim(), 16).expect("a mask");
        caught & (1 << (signal.as_raw() - 1)) != 0
    }

    /// Where it listens, as the kernel knows it ahead of its own word; none where it does not yet.
    pub fn early_address(&self) -> Option<SocketAddr> {
        let sockets = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).ok()?;
        let sockets: Vec<String> = sockets
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
            .collect();
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", self.pid())).ok()?;
        table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_own = sockets.contains(&format!("socket:[{}]", fields.get(9)?));
            let port = u16::from_str_radix(fields[1].split_once(':')?.1, 16).ok()?;
            (is_own && fields[3] == TCP_LISTEN).then(|| ([127, 0, 0, 1], port).into())
        })
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server is a child of this process");
        self.wait(PATIENCE);
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the server is a child of this process").is_none()
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().expect("the server is a child of this process") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server did not end within {timeout:?}");
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// What a plain HTTP request is answered, head and body.
    pub fn http(&self, request: &str) -> String {
        http(self.address, request)
    }

    /// All metrics that are whole numbers, each with its labels as it stands in the text.
    pub fn metrics(&self) -> BTreeMap<String, u64> {
        let text = self.http("GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        let body = text.split_once("\r\n\r\n").expect("a head").1;
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ').expect("a name and a value");
                assert!(value.parse::<f64>().is_ok(), "a number: {line}");
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect()
    }

    /// A metric, summed over cores and labels.
    pub fn metric(&self, name: &str) -> u64 {
        let of_name = |full: &str| full.split('{').next() == Some(name);
        self.metrics().iter().filter(|(full, _)| of_name(full)).map(|(_, value)| value).sum()
    }

    /// Refusals with that code so far.
    pub fn refusals(&self, code: &str) -> u64 {
        let code = format!("code=\"{code}\"");
        self.metrics().iter().filter(|(full, _)| full.contains(&code)).map(|(_, value)| value).sum()
    }

    /// Bytes of memory that it has in use (`VmRSS`).
    pub fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server is there");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB") * 1_024
    }

    /// CPU time that it has used, in all threads.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the server is there");
        let behind_name = stat.rsplit_once(')').expect("the name is in brackets").1;
        let fields: Vec<&str> = behind_name.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number of ticks")).sum();
        // A tick is 10 ms on every Linux that user space sees.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server logged:\n{}", self.log());
        }
    }
}

/// Sends a plain HTTP request, and reads all that comes.
pub fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    stream.write_all(request.as_bytes()).expect("the server takes bytes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the server answers and closes");
    String::from_utf8(answer).expect("text")
}

/// Runs the program to its end, and gives its exit code, stdout and stderr.
pub fn run_to_end(args: &[&str]) -> (i32, String, String) {
    let folder = TempDir::new().expect("a temporary folder");
    let files = ["out", "err"].map(|name| folder.path().join(name));
    let mut command = Command::new(program());
    command.args(args).current_dir(folder.path()).stdin(Stdio::null());
    command.stdout(File::create(&files[0]).expect("a file")).stderr(File::create(&files[1]).expect("a file"));
    let child = Mutex::new(command.spawn().expect("the program starts"));
    let mut status = None;
    wait_until("the program ends", || {
        status = child.lock().ok().and_then(|mut child| child.try_wait().ok().flatten());
        status.is_some()
    });
    let [out, err] = files.map(|file| std::fs::read_to_string(file).expect("text"));
    (status.and_then(|status| status.code()).unwrap_or(-1), out, err)
}
