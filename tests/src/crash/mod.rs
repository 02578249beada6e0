//! Kill -9 under load, over and over on one data folder.

use std::path::Path;
use std::time::Duration;

use crate::report::Report;
use crate::server_process::ServerProcess;
use crate::trial::{Setup, Trial};

/// One start in so many is killed before the server listens.
const KILLED_STARTS: usize = 8;
/// When such a start is killed, at the latest.
const START_KILL_MS_MAX: usize = 40;
/// When a load is killed, at the earliest and at the latest.
const KILL_MS: (usize, usize) = (20, 400);

/// The run.
pub struct Run {
    /// Loads that are killed.
    pub cycles: usize,
    /// Whether each start has another number of cores, up to the setup's.
    pub vary_cores: bool,
    /// The server and the load. With durability `memory` the load's connections are cut and the server lives on, which
    /// tries the judge and nothing else.
    pub setup: Setup,
}

impl Run {
    /// Runs it on a data folder, and says before each cycle which it is.
    pub fn run(self, data: &Path, mut tell: impl FnMut(usize, &Trial)) -> Report {
        let (cores_max, spares) = (self.setup.cores, self.setup.is_memory());
        let mut trial = Trial::new(self.setup);
        let mut spared = None;
        for cycle in 0..self.cycles {
            tell(cycle, &trial);
            if self.vary_cores {
                trial.setup.cores = 1 + trial.chance.below(cores_max);
            }
            let mut server = started(&mut trial, data, spared.take());
            let load = trial.load(&server);
            let (from, to) = KILL_MS;
            std::thread::sleep(Duration::from_millis((from + trial.chance.below(to - from)) as u64));
            if spares {
                load.cut();
            } else {
                server.kill();
            }
            load.end(&mut trial.ledger);
            spared = spares.then_some(server);
        }
        let server = spared.unwrap_or_else(|| trial.start(data));
        trial.finish(&server)
    }
}

fn started(trial: &mut Trial, data: &Path, spared: Option<ServerProcess>) -> ServerProcess {
    if let Some(server) = spared {
        trial.check(&server);
        return server;
    }
    while !trial.setup.is_memory() && trial.chance.once_in(KILLED_STARTS) {
        let after = Duration::from_millis(trial.chance.below(START_KILL_MS_MAX) as u64);
        trial.kill_while_starting(data, after);
    }
    trial.start(data)
}
