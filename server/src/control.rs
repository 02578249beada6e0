//! The control plane: signals, reloads, questions about the whole server, and stopping, on a thread that is no core.
//!
//! Invariants:
//! - Whatever comes is taken in any order, also before every core is ready, and only a core's fault ends the server
//!   without a stop in order.
//! - No core is waited for without bound: a question is answered with what came within [`ANSWER_MAX_MS`], a core owes one
//!   report at most, and a stop ends at its deadlines.

pub mod api;
pub mod auth;
mod epochs;
pub mod feeds;
pub mod jwks;
pub mod reload;
pub mod revocations;
mod survey;

use std::sync::Arc;
use std::time::{Duration, Instant};

use banter_chat::address::{ConnectionId, Core};
use banter_chat::proving::Proved;
use banter_log::journal::{Answer, LogPlaces};
use banter_log::segment::SegmentHeader;
use banter_protocol::ids::Epoch;
use flume::{Receiver, RecvTimeoutError, Sender};
use signal_hook::consts::{SIGHUP, SIGTERM};

use crate::cluster::OfCluster;
use crate::core::desk::Asked;
use crate::core::mesh::Bell;
use crate::metrics::{CoreReport, ServerState};
use crate::programs::NewPrograms;
use crate::storage::files::SegmentFile;
use api::{Order, Reply};
use epochs::EpochDesk;
use feeds::FeedState;
use reload::{CoreReload, ReloadDesk};
use survey::Survey;

pub use epochs::ExtendEpochs;
pub use survey::{ANSWER_MAX_MS, AnswerTo, Asker, Question, STANDBY, Standing, Surveyed};

/// Milliseconds beyond the drain's own bound, for the cores to end it.
const DRAIN_SLACK_MS: u64 = 2_000;
/// Milliseconds that the node of a cluster has to give up what it owns, more than it takes for itself.
const GIVE_UP_MAX_MS: u64 = 5_000;
/// Milliseconds from the word to stop to the end of every core: twice what a core waits for a commit in flight.
const STOP_MAX_MS: u64 = 4_000;

/// To the control thread.
#[derive(Debug)]
pub enum ToControl {
    /// The core accepts connections.
    Ready(Core),
    /// The core could not start or cannot go on, and why.
    Failed(Core, String),
    /// Somebody wants to know something of the whole server.
    Asked(Asker),
    /// Somebody wants to know all of it.
    Surveyed(Reply<Surveyed>),
    /// A backend tells the server to stop in order.
    Drain,
    /// What a core counts.
    Report(Core, Box<CoreReport>),
    /// The core has given half of its epochs.
    WantsEpochs(Core),
    /// The core has no connections left.
    Drained(Core),
    /// The core ended: whether all that its log was given is on the disk.
    Ended {
        /// The core.
        core: Core,
        /// Whether the next start finds its log sealed.
        is_log_sealed: bool,
    },
    /// The node of the cluster owns nothing any more, or could not wait until it did.
    GivenUp,
    /// The operating system tells the server something.
    Signal(i32),
    /// A stop takes at most so long from now on.
    DrainTimeout {
        /// In milliseconds.
        drain_timeout_ms: u64,
    },
}

/// To a core.
#[derive(Debug)]
pub enum ToCore {
    /// Say what you count.
    Report,
    /// Send this to that connection, and end it.
    HttpAnswer(ConnectionId, Vec<u8>),
    /// Turn newcomers away, deliver what was acknowledged, and end the connections there are.
    Drain,
    /// Every core is drained, or the time is over.
    Stop,
    /// All epochs below that may be given.
    EpochsEnd(Epoch),
    /// A token was judged.
    Proved(Box<Proved>),
    /// A backend asks something of this core's rooms.
    Backend(Asked),
    /// Do this to connections, and say whether it was taken.
    Order(Order, Reply<bool>),
    /// Go by these values, and say so.
    Reload(Box<CoreReload>),
    /// Go by these programs, and give back who ran those before.
    Programs(Box<NewPrograms>),
    /// Say how far the log is committed, once that is another version than was seen; at once if none was.
    LogPlaces {
        /// What is known.
        seen: Option<u64>,
        /// Who wants to know.
        reply: Reply<LogPlaces>,
    },
    /// What becomes of the partitions of a cluster that this core has.
    Cluster(OfCluster),
    /// What the log's keeper did.
    Log(Answer),
    /// A segment is ready.
    LogSegment(SegmentHeader, SegmentFile),
}

/// Another thread's end to a core.
#[derive(Clone)]
pub struct CoreLink {
    /// Its messages.
    pub messages: Sender<ToCore>,
    /// Wakes it.
    pub bell: Arc<Bell>,
}

impl CoreLink {
    /// Sends, and wakes the core.
    pub fn send(&self, message: ToCore) {
        // A core that is gone needs no message.
        if self.messages.send(message).is_ok() {
            self.bell.ring_for_mail();
        }
    }
}

/// Why the server ends otherwise than in order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlFault {
    /// A core could not start.
    #[error("a core could not start: {0}")]
    Start(String),
    /// A core cannot go on. A server that lacks a core's rooms would answer for them all the same.
    #[error("a core failed, and the server ends with it: {0}")]
    Core(String),
    /// Cores did not end when they were told to.
    #[error("{0} did not end within {STOP_MAX_MS} ms")]
    Hung(String),
}

/// How far a core has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CoreStage {
    Starting,
    Ready,
    Drained,
    Ended { is_log_sealed: bool },
}

/// How far the server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Serving,
    /// The node of a cluster gives up what it owns, ahead of all else: another one takes over meanwhile.
    GivingUp {
        signal: i32,
        until_ms: u64,
    },
    Draining {
        until_ms: u64,
    },
    Stopping {
        until_ms: u64,
    },
    Over,
}

struct CoreState {
    link: CoreLink,
    stage: CoreStage,
}

/// The control thread's state. Times are milliseconds since some moment, never going back.
pub struct Control {
    cores: Vec<CoreState>,
    stage: Stage,
    survey: Survey,
    epochs: EpochDesk,
    reload: Option<ReloadDesk>,
    feeds: Arc<FeedState>,
    drain_timeout_ms: u64,
    /// Has the node of a cluster give up what it owns.
    give_up: Option<Box<dyn FnOnce() + Send>>,
}

impl Control {
    /// With the ends to all cores, none of which is ready.
    pub fn new(links: Vec<CoreLink>, server: ServerState, drain_timeout_ms: u64) -> Self {
        let feeds = server.feeds.clone();
        let survey = Survey::new(links.clone(), server);
        let cores = links.into_iter().map(|link| CoreState { link, stage: CoreStage::Starting }).collect();
        let (stage, epochs) = (Stage::Starting, EpochDesk::default());
        Control { cores, stage, survey, epochs, reload: None, feeds, drain_timeout_ms, give_up: None }
    }

    /// Cores that have given half of their epochs get more by this.
    pub fn extend_epochs_by(&mut self, extend: ExtendEpochs) {
        self.epochs = EpochDesk::new(extend);
    }

    /// SIGHUP asks there.
    pub fn reload_by(&mut self, desk: ReloadDesk) {
        self.reload = Some(desk);
    }

    /// A stop begins with this, and goes on when [`ToControl::GivenUp`] came.
    pub fn give_up_by(&mut self, give_up: Box<dyn FnOnce() + Send>) {
        self.give_up = Some(give_up);
    }

    /// Serves until a signal came and every core has ended. `listening` is called once every core accepts, unless the
    /// server is to stop by then.
    ///
    /// # Errors
    /// When a core fails, or does not end.
    pub fn run(&mut self, inbox: &Receiver<ToControl>, listening: impl FnOnce()) -> Result<(), ControlFault> {
        let (started, mut listening) = (Instant::now(), Some(listening));
        let now_ms = || started.elapsed().as_millis() as u64;
        while self.stage != Stage::Over {
            let timeout_ms = self.next_due().map(|due_ms| due_ms.saturating_sub(now_ms()));
            if let Some(message) = receive(inbox, timeout_ms)? {
                self.handle(message, now_ms())?;
            }
            self.tick(now_ms())?;
            if self.stage == Stage::Serving
                && let Some(listening) = listening.take()
            {
                listening();
            }
        }
        Ok(())
    }

    /// Behind the end of every core: whether all that their logs were given is on the disk.
    pub fn is_log_whole(&self) -> bool {
        self.has_all(|stage| stage == CoreStage::Ended { is_log_sealed: true })
    }

    fn handle(&mut self, message: ToControl, now_ms: u64) -> Result<(), ControlFault> {
        match message {
            ToControl::Ready(core) => self.reached(core, CoreStage::Ready, now_ms),
            ToControl::Drained(core) => self.reached(core, CoreStage::Drained, now_ms),
            ToControl::Ended { core, is_log_sealed } => {
                self.reached(core, CoreStage::Ended { is_log_sealed }, now_ms);
            }
            ToControl::Failed(core, why) => return self.failed(core, why, now_ms),
            ToControl::Signal(SIGHUP) => self.reload(),
            ToControl::Signal(signal) => self.stop_by(signal, now_ms),
            // A second one is no second signal: it changes nothing.
            ToControl::Drain if matches!(self.stage, Stage::Starting | Stage::Serving) => self.stop_by(SIGTERM, now_ms),
            ToControl::Drain => {}
            ToControl::GivenUp => {
                if let Stage::GivingUp { signal, .. } = self.stage {
                    self.drain(signal, now_ms);
                }
            }
            ToControl::DrainTimeout { drain_timeout_ms } => self.drain_timeout_ms = drain_timeout_ms,
            ToControl::Asked(asker) => self.survey.ask(asker, self.standing(), now_ms),
            ToControl::Surveyed(reply) => self.survey.ask_whole(reply, now_ms),
            ToControl::WantsEpochs(_) => {
                let end = self.epochs.asked(now_ms);
                self.tell_epochs(end);
            }
            ToControl::Report(core, report) => self.survey.report(core, report, self.standing()),
        }
        Ok(())
    }

    /// Has the configuration read again; what comes of it is logged there.
    fn reload(&self) {
        if let Some(Err(fault)) = self.reload.as_ref().map(ReloadDesk::ask) {
            tracing::warn!("SIGHUP: {fault}");
        }
    }

    /// Does what is due.
    fn tick(&mut self, now_ms: u64) -> Result<(), ControlFault> {
        self.survey.tick(self.standing(), now_ms);
        let end = self.epochs.tick(now_ms);
        self.tell_epochs(end);
        match self.stage {
            Stage::GivingUp { signal, until_ms } if until_ms <= now_ms => {
                self.drain(signal, now_ms);
                Ok(())
            }
            Stage::Draining { until_ms } if until_ms <= now_ms => {
                tracing::warn!("drain_timeout_ms is over: the rest is cut off");
                self.stop(now_ms);
                Ok(())
            }
            Stage::Stopping { until_ms } if until_ms <= now_ms => Err(ControlFault::Hung(self.not_ended())),
            _ => Ok(()),
        }
    }

    /// When to tick at the latest.
    fn next_due(&self) -> Option<u64> {
        let stage_due = match self.stage {
            Stage::GivingUp { until_ms, .. } | Stage::Draining { until_ms } | Stage::Stopping { until_ms } => {
                Some(until_ms)
            }
            Stage::Starting | Stage::Serving | Stage::Over => None,
        };
        stage_due.into_iter().chain(self.survey.next_due()).chain(self.epochs.next_due()).min()
    }

    /// The cores share all numbers, so what one has asked for is for each.
    fn tell_epochs(&self, end: Option<Epoch>) {
        let Some(end) = end else { return };
        self.cores.iter().for_each(|core| core.link.send(ToCore::EpochsEnd(end)));
    }

    fn reached(&mut self, core: Core, stage: CoreStage, now_ms: u64) {
        self.cores[core.index()].stage = stage;
        match self.stage {
            Stage::Starting if self.has_all(|stage| stage >= CoreStage::Ready) => self.stage = Stage::Serving,
            Stage::Draining { .. } if self.has_all(|stage| stage >= CoreStage::Drained) => self.stop(now_ms),
            Stage::Stopping { .. } if self.has_all(is_ended) => self.stage = Stage::Over,
            _ => {}
        }
    }

    fn failed(&mut self, core: Core, why: String, now_ms: u64) -> Result<(), ControlFault> {
        match (self.stage, self.cores[core.index()].stage) {
            (Stage::Stopping { .. }, _) => {
                tracing::error!(core = core.0, "a core failed while it ended: {why}");
                self.reached(core, CoreStage::Ended { is_log_sealed: false }, now_ms);
                Ok(())
            }
            (_, CoreStage::Starting) => Err(ControlFault::Start(why)),
            _ => Err(ControlFault::Core(why)),
        }
    }

    /// A signal stops the server in order, a second one at once.
    fn stop_by(&mut self, signal: i32, now_ms: u64) {
        match self.stage {
            Stage::Starting | Stage::Serving => match self.give_up.take() {
                Some(give_up) => {
                    self.stage = Stage::GivingUp { signal, until_ms: now_ms + GIVE_UP_MAX_MS };
                    give_up();
                }
                None => self.drain(signal, now_ms),
            },
            Stage::GivingUp { .. } | Stage::Draining { .. } => {
                tracing::warn!(signal, "a second signal: stopping at once");
                self.stop(now_ms);
            }
            Stage::Stopping { .. } | Stage::Over => {}
        }
    }

    fn drain(&mut self, signal: i32, now_ms: u64) {
        self.stage = Stage::Draining { until_ms: now_ms + self.drain_timeout_ms + DRAIN_SLACK_MS };
        self.cores.iter().for_each(|core| core.link.send(ToCore::Drain));
        self.feeds.end();
        tracing::info!(
            event = "drain",
            signal,
            "stopping: newcomers are turned away, what was acknowledged is delivered"
        );
    }

    fn stop(&mut self, now_ms: u64) {
        self.stage = Stage::Stopping { until_ms: now_ms + STOP_MAX_MS };
        self.cores.iter().for_each(|core| core.link.send(ToCore::Stop));
    }

    fn has_all(&self, holds: impl Fn(CoreStage) -> bool) -> bool {
        self.cores.iter().all(|core| holds(core.stage))
    }

    fn not_ended(&self) -> String {
        let cores = self.cores.iter().enumerate().filter(|(_, core)| !is_ended(core.stage));
        survey::list_cores(cores.map(|(index, _)| index))
    }

    fn standing(&self) -> Standing {
        match self.stage {
            Stage::Starting => Standing::Starting,
            Stage::Serving => Standing::Serving,
            Stage::GivingUp { .. } | Stage::Draining { .. } | Stage::Stopping { .. } | Stage::Over => {
                Standing::Draining
            }
        }
    }
}

fn is_ended(stage: CoreStage) -> bool {
    matches!(stage, CoreStage::Ended { .. })
}

/// The next message, or none within the time.
fn receive(inbox: &Receiver<ToControl>, timeout_ms: Option<u64>) -> Result<Option<ToControl>, ControlFault> {
    let received = match timeout_ms {
        Some(timeout_ms) => inbox.recv_timeout(Duration::from_millis(timeout_ms)),
        None => inbox.recv().map_err(RecvTimeoutError::from),
    };
    match received {
        Ok(message) => Ok(Some(message)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(ControlFault::Core("every core is gone".into())),
    }
}

#[cfg(test)]
mod tests;
