//! Kill -9 under load, over and over on one data folder.

mod wrong_clock;

use std::path::Path;
use std::time::Duration;

use crate::report::Report;
use crate::server_process::ServerProcess;
use crate::trial::{Setup, Trial};
use wrong_clock::WrongClock;

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
    /// Years by which the server's wall clock jumps at each start at most; 0 = it is right.
    pub clock_years_max: u32,
    /// The server and the load. With durability `memory` the load's connections are cut and the server lives on, which
    /// tries the judge and nothing else.
    pub setup: Setup,
}

impl Run {
    /// Runs it on a data folder, and says before each cycle which it is.
    pub fn run(mut self, data: &Path, mut tell: impl FnMut(usize, &Trial)) -> Report {
        let (cores_max, spares) = (self.setup.cores, self.setup.is_memory());
        let years_max = self.clock_years_max;
        let mut clock = (years_max > 0).then(|| WrongClock::new(years_max, data, &mut self.setup));
        let mut trial = Trial::new(self.setup);
        let mut spared = None;
        for cycle in 0..self.cycles {
            tell(cycle, &trial);
            if self.vary_cores {
                trial.setup.cores = 1 + trial.chance.below(cores_max);
            }
            let mut server = started(&mut trial, data, spared.take(), clock.as_mut());
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
        let server = match spared {
            Some(server) => server,
            None => start(&mut trial, data, clock.as_mut()),
        };
        trial.finish(&server)
    }
}

fn started(
    trial: &mut Trial,
    data: &Path,
    spared: Option<ServerProcess>,
    clock: Option<&mut WrongClock>,
) -> ServerProcess {
    if let Some(server) = spared {
        trial.check(&server);
        return server;
    }
    while !trial.setup.is_memory() && trial.chance.once_in(KILLED_STARTS) {
        let after = Duration::from_millis(trial.chance.below(START_KILL_MS_MAX) as u64);
        if let Some(clock) = &clock {
            clock.jump(trial);
        }
        trial.kill_while_starting(data, after);
    }
    start(trial, data, clock)
}

fn start(trial: &mut Trial, data: &Path, clock: Option<&mut WrongClock>) -> ServerProcess {
    let Some(clock) = clock else { return trial.start(data) };
    clock.jump(trial);
    let server = trial.start(data);
    clock.check(&server, trial);
    server
}
