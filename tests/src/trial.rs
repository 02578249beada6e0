//! A server that is started again and again on one data folder, loaded and audited: what all judges of the log share.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::audit;
use crate::ledger::{Bodies, Ledger};
use crate::load::{Load, Plan};
use crate::report::Report;
use crate::seeded::Seeded;
use crate::server_process::{ServerProcess, Start};
use crate::wire_client::Form;

/// More than any run posts to a room: nothing is to leave a history by itself.
const HISTORY_MESSAGES: &str = "10000000";
const HISTORY_BYTES: &str = "8000000000";

/// How the servers of a trial are started, and under which load.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Cores of the server.
    pub cores: usize,
    /// Its `--durability`.
    pub durability: String,
    /// More of its flags.
    pub flags: Vec<String>,
    /// All chance comes from it.
    pub seed: u64,
    /// Rooms.
    pub rooms: usize,
    /// The largest body.
    pub body_bytes_max: usize,
    /// The load.
    pub plan: Plan,
    /// The server, where it is not `banter`.
    pub program: Option<PathBuf>,
    /// How much its wall clock is ahead of this machine's, in milliseconds.
    pub clock_offset_ms: i64,
}

impl Setup {
    /// A load that a run of many rounds can bear, and a log of small segments, so that they are changed often.
    pub fn new(durability: &str, seed: u64) -> Self {
        let plan = Plan { writers: 6, outstanding: 8, posts_max: 3_000 };
        let small_log = ["--log-segment-bytes=4194304", "--log-commit-bytes-max=131072", "--frame-bytes-max=16384"];
        let flags = if durability == "memory" { Vec::new() } else { small_log.map(str::to_owned).to_vec() };
        let durability = durability.to_owned();
        Setup {
            cores: 1,
            durability,
            flags,
            seed,
            rooms: 6,
            body_bytes_max: 9_000,
            plan,
            program: None,
            clock_offset_ms: 0,
        }
    }

    /// Whether a restart loses everything, as it may.
    pub fn is_memory(&self) -> bool {
        self.durability == "memory"
    }
}

/// The trial.
pub struct Trial {
    /// How it is set up.
    pub setup: Setup,
    /// What was promised and found.
    pub ledger: Ledger,
    /// Chance, from the seed.
    pub chance: Seeded,
    restarts: Vec<Duration>,
    rounds: usize,
}

impl Trial {
    /// One that begins.
    pub fn new(setup: Setup) -> Self {
        if setup.program.is_none() {
            // Built now, and not within the first start that is timed.
            crate::server_process::program();
        }
        let bodies = Bodies { seed: setup.seed, bytes_max: setup.body_bytes_max };
        let (ledger, chance) = (Ledger::new(setup.rooms, bodies), Seeded::new(setup.seed));
        Trial { setup, ledger, chance, restarts: Vec::new(), rounds: 0 }
    }

    /// Starts the server, without a look at its history.
    pub fn start_only(&mut self, data: &Path) -> ServerProcess {
        let started = Instant::now();
        let server = self.with_start(data, |start| start.run());
        self.restarts.push(started.elapsed());
        server
    }

    /// The same, but a server that ends instead is an answer: its exit code, and what it logged.
    ///
    /// # Errors
    /// It ended.
    pub fn try_start(&mut self, data: &Path) -> Result<ServerProcess, (i32, String)> {
        self.with_start(data, |start| start.try_run())
    }

    /// Starts the server, and kills it after that time, in its recovery as a rule.
    pub fn kill_while_starting(&mut self, data: &Path, after: Duration) {
        self.with_start(data, |start| start.kill_while_starting(after));
    }

    fn with_start<T>(&self, data: &Path, run: impl FnOnce(Start<'_>) -> T) -> T {
        let limits = ["--history-messages-max", HISTORY_MESSAGES, "--history-bytes-per-core-max", HISTORY_BYTES];
        let mut flags = vec!["--durability", &self.setup.durability, "--log", "warn"];
        flags.extend(limits);
        flags.extend(self.setup.flags.iter().map(String::as_str));
        let start = Start::new(self.setup.cores, &flags).data(data).clock_offset_ms(self.setup.clock_offset_ms);
        run(match &self.setup.program {
            Some(program) => start.program(program),
            None => start,
        })
    }

    /// Starts the server, checks everything that was promised before, and posts again what was not answered.
    pub fn start(&mut self, data: &Path) -> ServerProcess {
        let server = self.start_only(data);
        self.check(&server);
        server
    }

    /// Checks what is new since the last check, and posts again what was not answered.
    pub fn check(&mut self, server: &ServerProcess) {
        let form = *self.chance.pick(&Form::ALL);
        audit::audit(server.address(), form, &mut self.ledger);
        audit::post_again(server.address(), form, self.setup.plan.writers, &mut self.ledger);
    }

    /// Begins a round's load.
    pub fn load(&mut self, server: &ServerProcess) -> Load {
        self.rounds += 1;
        Load::start(server.address(), &self.ledger, self.setup.plan, self.chance.number())
    }

    /// Checks once more, and then the whole from its beginning; gives what the trial was about.
    pub fn finish(&mut self, server: &ServerProcess) -> Report {
        self.check(server);
        audit::audit(server.address(), Form::Json, &mut self.ledger);
        self.ledger.read_again();
        audit::audit(server.address(), Form::Native, &mut self.ledger);
        self.report()
    }

    /// What is known so far.
    pub fn report(&self) -> Report {
        Report::of(&self.ledger, self.rounds, &self.restarts)
    }
}
