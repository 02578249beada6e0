//! A wall clock that jumps by years at each start of the server, with retention on.
//!
//! What a run wrote is no older for its jumps than the time that servers have run since, which is far below the dedupe
//! window: so retention takes nothing, keys are remembered, and times in a room never go back. And no number of an epoch is
//! given twice: a room in memory begins a new one at each start.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::ledger::{Fault, number};
use crate::server_process::ServerProcess;
use crate::trial::{Setup, Trial};
use crate::wire_client::{Form, WireClient};

const YEAR_MS: i64 = 365 * 24 * 3_600_000;
/// The shortest that there is.
const RETENTION: &str = "--retention-hours=1";
/// The room whose epochs are looked at.
const ROOM: &str = "in-memory";
/// How far what the server calls its start may be from what it should be.
const START_S_MAX: u64 = 3_600;

/// The clock.
pub struct WrongClock {
    years_max: u32,
    epochs: BTreeSet<u64>,
}

impl WrongClock {
    /// One that is up to so many years ahead or behind; for servers of that setup.
    pub fn new(years_max: u32, data: &Path, setup: &mut Setup) -> Self {
        let config = data.with_extension("toml");
        let rooms = format!("[[rooms]]\nmatch = \"{ROOM}\"\ndurability = \"memory\"\n");
        std::fs::write(&config, rooms).expect("a file beside the data folder");
        setup.flags.extend([RETENTION.to_owned(), format!("--config={}", config.display())]);
        WrongClock { years_max, epochs: BTreeSet::new() }
    }

    /// Sets it anew, for the next start.
    pub fn jump(&self, trial: &mut Trial) {
        let years = trial.chance.below(2 * self.years_max as usize + 1) as i64 - i64::from(self.years_max);
        trial.setup.clock_offset_ms = years * YEAR_MS + trial.chance.below(YEAR_MS as usize) as i64;
    }

    /// Sees that the server has that clock, and that its epochs are new.
    ///
    /// # Panics
    /// When it has another clock: it is no build for tests.
    pub fn check(&mut self, server: &ServerProcess, trial: &mut Trial) {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let wanted_s = now_s.saturating_add_signed(trial.setup.clock_offset_ms / 1_000);
        let started_s = server.metric("banter_start_time_seconds");
        assert!(
            started_s.abs_diff(wanted_s) < START_S_MAX,
            "no build for tests: it takes no notice of its clock's offset"
        );
        let epoch = number(&WireClient::hello(server.address(), Form::Json, "clockmaker").join(ROOM)["epoch"]);
        if !self.epochs.insert(epoch) {
            trial.ledger.add(Fault::Repeated, format!("epoch {epoch} was given at two starts"));
        }
    }
}
