//! The control plane: signals, metrics and stopping, on a thread that is no core. Cores and it exchange messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use banter_chat::address::{ConnectionId, Core};
use banter_log::journal::Answer;
use banter_log::segment::SegmentHeader;
use flume::{Receiver, RecvTimeoutError, Sender};

use crate::http;
use crate::mesh::Bell;
use crate::metrics::{CoreReport, render};
use crate::storage::files::SegmentFile;
use crate::storage::keeper::KeeperState;

/// The exit code when a core cannot go on: "internal software error" of sysexits.h.
const EXIT_CORE_FAILED: i32 = 70;

/// To the control thread.
#[derive(Debug)]
pub enum ToControl {
    /// The core accepts connections.
    Ready,
    /// The core could not start or cannot go on, and why.
    Failed(String),
    /// A connection of that core wants the metrics.
    Scrape {
        /// The core.
        core: Core,
        /// The connection.
        connection: ConnectionId,
        /// Without a body.
        head_only: bool,
    },
    /// What a core counts.
    Report(Core, Box<CoreReport>),
    /// The core has no connections left.
    Drained,
    /// The core ended: whether all that its log was given is on the disk.
    LogSealed(bool),
    /// The operating system asks the server to stop.
    Signal(i32),
}

/// To a core.
#[derive(Debug)]
pub enum ToCore {
    /// Say what you count.
    Report,
    /// Send this to that connection, and end it.
    HttpAnswer(ConnectionId, Vec<u8>),
    /// Take no more connections, deliver what was acknowledged, and end those there are.
    Drain,
    /// Every core is drained, or the time is over.
    Stop,
    /// What the log's keeper did.
    Log(Answer),
    /// A segment is ready.
    LogSegment(SegmentHeader, SegmentFile),
    /// The index of that segment is on the disk.
    LogIndexed(u64),
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

/// The control thread's state.
pub struct Control {
    inbox: Receiver<ToControl>,
    cores: Vec<CoreLink>,
    scrapes: Vec<(Core, ConnectionId, bool)>,
    reports: Vec<Option<Box<CoreReport>>>,
    drained: usize,
    keeper: Arc<KeeperState>,
}

/// Beyond the drain's own bound: for the cores to end.
const STOP_SLACK: Duration = Duration::from_secs(2);

impl Control {
    /// With the ends to all cores.
    pub fn new(inbox: Receiver<ToControl>, cores: Vec<CoreLink>, keeper: Arc<KeeperState>) -> Self {
        let reports = cores.iter().map(|_| None).collect();
        Control { inbox, cores, scrapes: Vec::new(), reports, drained: 0, keeper }
    }

    /// Waits until every core accepts.
    ///
    /// # Errors
    /// Why a core could not start.
    pub fn wait_until_ready(&mut self) -> Result<(), String> {
        for _ in 0..self.cores.len() {
            match self.inbox.recv() {
                Ok(ToControl::Ready) => {}
                Ok(ToControl::Failed(why)) => return Err(why),
                Ok(other) => return Err(format!("a core said {other:?} before it was ready")),
                Err(_) => return Err("a core ended before it was ready".into()),
            }
        }
        Ok(())
    }

    /// Serves until a signal came and the cores are drained, or the time for that is over. The cores are told to stop.
    pub fn run(&mut self, drain_timeout: Duration) {
        let mut deadline: Option<Instant> = None;
        while self.drained < self.cores.len() {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            let message = if deadline.is_some() {
                self.inbox.recv_timeout(left)
            } else {
                self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match message {
                Ok(ToControl::Signal(signal)) if deadline.is_none() => {
                    deadline = Some(Instant::now() + drain_timeout + STOP_SLACK);
                    self.cores.iter().for_each(|core| core.send(ToCore::Drain));
                    tracing::info!(signal, "stopping: no new connections, what was acknowledged is delivered");
                }
                Ok(ToControl::Signal(signal)) => {
                    tracing::warn!(signal, "a second signal: stopping at once");
                    break;
                }
                Ok(message) => self.handle(message),
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("drain_timeout_ms is over: the rest is cut off");
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.cores.iter().for_each(|core| core.send(ToCore::Stop));
    }

    /// Behind the end of every core: whether all that their logs were given is on the disk.
    pub fn is_log_whole(&self) -> bool {
        let sealed = self.inbox.try_iter().filter(|message| matches!(message, ToControl::LogSealed(true)));
        sealed.count() == self.cores.len()
    }

    fn handle(&mut self, message: ToControl) {
        match message {
            ToControl::Scrape { core, connection, head_only } => {
                if self.scrapes.is_empty() {
                    self.cores.iter().for_each(|core| core.send(ToCore::Report));
                }
                self.scrapes.push((core, connection, head_only));
            }
            ToControl::Report(core, report) => {
                self.reports[core.index()] = Some(report);
                if self.reports.iter().all(Option::is_some) {
                    self.answer_scrapes();
                }
            }
            ToControl::Drained => self.drained += 1,
            ToControl::Failed(why) => {
                // A server that lacks a core's rooms would answer for them all the same. Not through the log, whose
                // thread ends with the process.
                eprintln!("banter: a core failed, and the server ends with it: {why}");
                std::process::exit(EXIT_CORE_FAILED);
            }
            ToControl::Ready | ToControl::Signal(_) | ToControl::LogSealed(_) => {}
        }
    }

    fn answer_scrapes(&mut self) {
        let reports: Vec<CoreReport> = self.reports.iter_mut().filter_map(Option::take).map(|report| *report).collect();
        let text = render(&reports, &self.keeper);
        for (core, connection, head_only) in std::mem::take(&mut self.scrapes) {
            self.cores[core.index()].send(ToCore::HttpAnswer(connection, http::metrics(&text, head_only)));
        }
    }
}
