//! Reading the configuration again while the server runs, on a thread of its own, since files may take long to read.
//!
//! ```text
//!  SIGHUP, API ─▶ ReloadDesk (bounded) ─▶ thread: read, check, compare ─▶ log filter, keys ─▶ each core's inbox and bell
//! ```
//!
//! Invariants:
//! - Whole or not at all: everything that can fail is done before anything is changed.
//! - Nobody is closed by it. A core's turn does nothing for it that grows with connections or rooms: who loses a right is found in
//!   slices, over the next turns.
//! - Reloads are done one at a time, in the order in which they were asked for.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use banter_access::guest::GuestSeed;
use banter_chat::access::Access;
use banter_chat::address::Core;
use banter_chat::limits::Limits;
use banter_chat::pacing::DeliveryDelays;
use banter_chat::post_rates::PostRates;
use banter_chat::programs::ProgramSet;
use flume::{Receiver, Sender};
use tracing::subscriber::NoSubscriber;

use crate::args::{ArgsError, Sources};
use crate::config::{Auth, Change, Changes, Config, merge, told_limits};
use crate::control::api::Keys;
use crate::control::auth::{AuthFault, JudgeSlot, OwnKeys};
use crate::control::{CoreLink, ToControl, ToCore};
use crate::core::connections::Entrance;
use crate::log_lines::LogFilter;
use crate::programs::{NewPrograms, ProgramBook, ProgramsFault};

/// Asks that wait while one is done; above it there is no use in one more.
const ASKS_WAITING_MAX: usize = 8;
/// How long a core may take until it goes by the new values; one that hangs is named.
const TAKEN_MAX: Duration = Duration::from_secs(2);

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What differs, and when it holds.
    pub changes: Changes,
    /// Keys that tokens are checked with from now on; none where no tokens are asked for.
    pub keys: Option<usize>,
    /// Cores that did not say within two seconds that they go by the new values; they will once they come to it.
    pub silent_cores: Vec<Core>,
    /// Programs that are other ones from now on.
    pub programs: Vec<String>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadFault {
    /// The configuration does not hold.
    #[error(transparent)]
    Config(#[from] ArgsError),
    /// Its keys do not.
    #[error(transparent)]
    Auth(#[from] AuthFault),
    /// Its programs do not.
    #[error(transparent)]
    Programs(#[from] ProgramsFault),
    /// More connections than this process has descriptors for.
    #[error(
        "connections_max = {asked} is more than the {fit} that fit this process's descriptors: `ulimit -n` before a start, \
         or LimitNOFILE= in the systemd unit"
    )]
    Connections {
        /// What was read.
        asked: u32,
        /// What fits.
        fit: u64,
    },
    /// Enough asks wait already, and the last of them will read what is there now.
    #[error("{ASKS_WAITING_MAX} reloads wait already: ask again when they are done")]
    Busy,
    /// The server ends.
    #[error("the server is stopping")]
    Stopping,
}

/// What comes of a reload.
pub type ReloadAnswer = Result<Reloaded, ReloadFault>;
/// What a reload would change now.
pub type Pending = Result<Changes, ReloadFault>;

/// What the thread is asked.
enum Ask {
    /// Reload.
    Reload(Sender<ReloadAnswer>),
    /// Say what a reload would change.
    Look(Sender<Pending>),
}

/// New values for a core.
#[derive(Clone, Debug)]
pub struct CoreReload {
    /// The limits.
    pub limits: Limits,
    /// As `welcome` tells them.
    pub told_limits: String,
    /// Who is let in.
    pub entrance: Entrance,
    /// What `[[rooms]]` lets users and guests do, and how long connections outlive their tokens.
    pub access: Access,
    /// How many posts a second rooms take.
    pub post_rates: PostRates,
    /// How long deliveries of rooms may wait.
    pub delivery_delays: DeliveryDelays,
    /// To be told once the core goes by them.
    pub taken: Sender<Core>,
}

/// Where a reload is asked for. Clones ask the same thread.
#[derive(Clone)]
pub struct ReloadDesk(Sender<Ask>);

impl ReloadDesk {
    /// Asks for a reload, which reads what the files say from now on. What comes of it is told there; it need not be waited for.
    ///
    /// # Errors
    /// Enough asks wait already, or the server ends.
    pub fn ask(&self) -> Result<Receiver<ReloadAnswer>, ReloadFault> {
        self.send(Ask::Reload)
    }

    /// Asks what a reload would change now, as far as the configuration's own file says it, or why it would be refused; nothing is
    /// changed.
    ///
    /// # Errors
    /// Enough asks wait already, or the server ends.
    pub fn look(&self) -> Result<Receiver<Pending>, ReloadFault> {
        self.send(Ask::Look)
    }

    fn send<Answer>(&self, ask: impl FnOnce(Sender<Answer>) -> Ask) -> Result<Receiver<Answer>, ReloadFault> {
        let (answer, answered) = flume::bounded(1);
        match self.0.try_send(ask(answer)) {
            Ok(()) => Ok(answered),
            Err(flume::TrySendError::Full(_)) => Err(ReloadFault::Busy),
            Err(flume::TrySendError::Disconnected(_)) => Err(ReloadFault::Stopping),
        }
    }
}

/// What a reload reads, compares with and hands new values to.
pub struct Reload {
    /// Where the configuration comes from.
    pub sources: Sources,
    /// The one in effect.
    pub config: Config,
    /// What the names of guests are made from.
    pub guest_seed: GuestSeed,
    /// Connections that fit the process's descriptors.
    pub connections_fit: u64,
    /// The cores.
    pub cores: Vec<CoreLink>,
    /// The programs in effect.
    pub programs: ProgramBook,
    /// Who judges tokens, where they are asked for.
    pub judge: Option<JudgeSlot>,
    /// What is logged.
    pub log: LogFilter,
    /// Keys of the interface for backends, where there is one.
    pub api_keys: Option<Arc<Keys>>,
    /// The control thread.
    pub control: Sender<ToControl>,
}

impl Reload {
    /// Starts the thread, which ends with the last desk.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn spawn(mut self) -> std::io::Result<(ReloadDesk, JoinHandle<()>)> {
        let (asks, inbox) = flume::bounded::<Ask>(ASKS_WAITING_MAX);
        let thread = std::thread::Builder::new().name("reload".into()).spawn(move || {
            for ask in inbox {
                // Who asked may have gone.
                match ask {
                    Ask::Reload(asker) => drop(asker.send(self.reload_and_say())),
                    Ask::Look(asker) => drop(asker.send(self.look())),
                }
            }
        })?;
        Ok((ReloadDesk(asks), thread))
    }

    /// What a reload would come to, without a word in the log: it may be asked every second.
    fn look(&self) -> Pending {
        tracing::subscriber::with_default(NoSubscriber::new(), || {
            let (merged, changes) = self.read()?;
            keys_of(&merged)?;
            ProgramBook::load(&merged)?;
            Ok(changes)
        })
    }

    fn reload_and_say(&mut self) -> ReloadAnswer {
        let answer = self.reload();
        match &answer {
            Ok(reloaded) => tracing::info!(event = "reload", "{reloaded}"),
            Err(fault) => tracing::error!(event = "reload", "not reloaded, and nothing is changed: {fault}"),
        }
        answer
    }

    /// The configuration that would hold behind a reload, and what that changes.
    fn read(&self) -> Result<(Config, Changes), ReloadFault> {
        let (merged, changes) = merge(&self.config, self.sources.read()?);
        let asked = merged.limits.connections_max;
        if u64::from(asked) > self.connections_fit {
            return Err(ReloadFault::Connections { asked, fit: self.connections_fit });
        }
        Ok((merged, changes))
    }

    fn reload(&mut self) -> ReloadAnswer {
        let (merged, mut changes) = self.read()?;
        let own = keys_of(&merged)?;
        let programs = ProgramBook::load(&merged)?;
        let sets = self.sets_of(&programs)?;
        if self.config.auth != Auth::Open && changes.needs_restart.iter().any(|change| change.key == "auth.mode") {
            tracing::warn!(
                "the configuration asks for no tokens any more: they are asked for until the next start, and not behind it"
            );
        }
        // From here on nothing can fail.
        if let Some(temporary) = self.log.configure(&merged.log) {
            changes.takes_effect.retain(|change| change.key != "log");
            changes.takes_effect.push(Change::of_texts("log", &temporary, &merged.log));
        }
        merged.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        let keys = self.judge.as_ref().zip(own).map(|(slot, own)| slot.put(own));
        if let Some(keys) = &self.api_keys {
            keys.follow(&merged);
        }
        let drain_timeout_ms = merged.limits.drain_timeout_ms.into();
        let _ = self.control.send(ToControl::DrainTimeout { drain_timeout_ms });
        let silent_cores = self.tell_cores(&merged);
        self.swap_programs(sets);
        let new = programs.new_since(&self.programs);
        (self.config, self.programs) = (merged, programs);
        Ok(Reloaded { changes, keys, silent_cores, programs: new })
    }

    /// What each core is to run from now on; nothing where that is what it runs.
    fn sets_of(&self, programs: &ProgramBook) -> Result<Vec<ProgramSet>, ReloadFault> {
        if programs.is_like(&self.programs) {
            return Ok(Vec::new());
        }
        self.cores.iter().map(|_| programs.set().map_err(ReloadFault::from)).collect()
    }

    /// Has each core run them, and ends the engines of before on this thread.
    fn swap_programs(&self, sets: Vec<ProgramSet>) {
        let (retired, engines) = flume::bounded(self.cores.len());
        for (core, set) in self.cores.iter().zip(sets) {
            core.send(ToCore::Programs(Box::new(NewPrograms { set, retired: retired.clone() })));
        }
        drop(retired);
        let deadline = Instant::now() + TAKEN_MAX;
        while let Ok(engine) = engines.recv_deadline(deadline) {
            drop(engine);
        }
    }

    /// Says which cores have not taken it in time.
    fn tell_cores(&self, config: &Config) -> Vec<Core> {
        let (taken, takes) = flume::bounded(self.cores.len());
        let (limits, told_limits) = (config.limits, told_limits(&config.limits));
        let (entrance, access) = (config.entrance(), config.access(self.guest_seed));
        let (post_rates, delivery_delays) = (config.post_rates.clone(), config.delivery_delays.clone());
        let reload = CoreReload { limits, told_limits, entrance, access, post_rates, delivery_delays, taken };
        self.cores.iter().for_each(|core| core.send(ToCore::Reload(Box::new(reload.clone()))));
        drop(reload);
        let deadline = Instant::now() + TAKEN_MAX;
        let mut silent: Vec<Core> = (0..self.cores.len()).map(|core| Core(core as u16)).collect();
        while let Ok(core) = takes.recv_deadline(deadline) {
            silent.retain(|&silent| silent != core);
        }
        silent
    }
}

/// The keys that a configuration names, where it asks for tokens.
fn keys_of(config: &Config) -> Result<Option<OwnKeys>, AuthFault> {
    match &config.auth {
        Auth::Token(auth) => OwnKeys::read(auth).map(Some),
        Auth::Open => Ok(None),
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |changes: &[Change]| {
            let each = changes.iter().map(Change::to_string);
            if changes.is_empty() { "nothing".to_owned() } else { each.collect::<Vec<_>>().join(", ") }
        };
        let Changes { takes_effect, needs_restart } = &self.changes;
        write!(out, "reloaded; new: {}; waits for a restart: {}", list(takes_effect), list(needs_restart))?;
        if let Some(keys) = self.keys {
            write!(out, "; tokens are checked with {keys} keys")?;
        }
        if !self.programs.is_empty() {
            write!(out, "; new programs: {}", self.programs.join(", "))?;
        }
        if !self.silent_cores.is_empty() {
            let cores = super::survey::list_cores(self.silent_cores.iter().map(|core| core.index()));
            write!(out, "; {cores} did not take it within {} s", TAKEN_MAX.as_secs())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
