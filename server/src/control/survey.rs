//! Questions about the whole server: every core is asked once for all of them, and what came in time is the answer.
//!
//! Invariants:
//! - A question is answered [`ANSWER_MAX_MS`] after it came at the latest, whatever the cores do.
//! - A core owes one report at most: one that hangs is not asked again, so its mail does not grow.

use std::fmt;

use banter_chat::address::{ConnectionId, Core};
use banter_log::journal::State;

use super::api::Reply;
use super::{CoreLink, ToCore};
use crate::control::jwks::JwksDesk;
use crate::core::http;
use crate::metrics::{CoreReport, ServerState, render};

/// Milliseconds that a core has to say what it counts. One that takes longer keeps its clients waiting too.
pub const ANSWER_MAX_MS: u64 = 2_000;

/// What a node says that is well, and serves nobody.
pub const STANDBY: &str = "standby: another node of the cluster serves, or none yet";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Everything that is counted: `/metrics`.
    Metrics,
    /// Whether every core answers: `/healthz`.
    Health,
    /// Whether clients should be sent here: `/readyz`.
    Readiness,
}

/// Who asks, and what.
#[derive(Debug)]
pub struct Asker {
    /// What is asked.
    pub question: Question,
    /// Who waits for the answer.
    pub to: AnswerTo,
}

/// Where an answer goes.
#[derive(Debug)]
pub enum AnswerTo {
    /// To a connection, which ends with it.
    Connection {
        /// Its core.
        core: Core,
        /// The connection.
        connection: ConnectionId,
        /// It wants no body.
        head_only: bool,
    },
    /// To the interface for backends: an HTTP status and a text.
    Backend(Reply<(u16, String)>),
}

/// What the server is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not every core takes connections yet.
    Starting,
    /// They do.
    Serving,
    /// It stops.
    Draining,
}

impl Standing {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Standing::Starting => "starting",
            Standing::Serving => "serving",
            Standing::Draining => "draining",
        }
    }
}

/// Everything that the server says of itself, for who makes an answer of it.
pub struct Surveyed {
    /// What it is at.
    pub standing: Standing,
    /// Why no clients should be sent here; none: they should.
    pub unreadiness: Option<String>,
    /// What the cores count, as far as they said so in time.
    pub cores: Vec<Option<Box<CoreReport>>>,
    /// The rest.
    pub server: ServerState,
}

impl fmt::Debug for Surveyed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Surveyed").field("standing", &self.standing).finish_non_exhaustive()
    }
}

/// Who waits for the cores' reports, and which have come.
pub(super) struct Survey {
    links: Vec<CoreLink>,
    server: ServerState,
    due_ms: u64,
    askers: Vec<Asker>,
    /// Those that want all of it.
    whole: Vec<Reply<Surveyed>>,
    reports: Vec<Option<Box<CoreReport>>>,
    owed: Vec<bool>,
}

impl Survey {
    pub(super) fn new(links: Vec<CoreLink>, server: ServerState) -> Self {
        let (reports, owed) = links.iter().map(|_| (None, false)).unzip();
        Survey { links, server, due_ms: 0, askers: Vec::new(), whole: Vec::new(), reports, owed }
    }

    pub(super) fn ask(&mut self, asker: Asker, standing: Standing, now_ms: u64) {
        // No core has to be asked for that, and a core that starts could not say it.
        if asker.question == Question::Readiness && standing != Standing::Serving {
            return self.answer(asker, standing);
        }
        self.begin(now_ms);
        self.askers.push(asker);
    }

    /// Somebody wants all of it.
    pub(super) fn ask_whole(&mut self, reply: Reply<Surveyed>, now_ms: u64) {
        self.begin(now_ms);
        self.whole.push(reply);
    }

    fn begin(&mut self, now_ms: u64) {
        if !self.is_awaited() {
            self.due_ms = now_ms + ANSWER_MAX_MS;
            self.ask_cores();
        }
    }

    fn is_awaited(&self) -> bool {
        !self.askers.is_empty() || !self.whole.is_empty()
    }

    fn ask_cores(&mut self) {
        for (link, owed) in self.links.iter().zip(&mut self.owed) {
            if !std::mem::replace(owed, true) {
                link.send(ToCore::Report);
            }
        }
    }

    pub(super) fn report(&mut self, core: Core, report: Box<CoreReport>, standing: Standing) {
        self.owed[core.index()] = false;
        if !self.is_awaited() {
            return; // It came too late for those who asked.
        }
        self.reports[core.index()] = Some(report);
        if self.reports.iter().all(Option::is_some) {
            self.answer_all(standing);
        }
    }

    pub(super) fn tick(&mut self, standing: Standing, now_ms: u64) {
        if self.next_due().is_some_and(|due_ms| due_ms <= now_ms) {
            tracing::warn!("{} did not say within {ANSWER_MAX_MS} ms what is counted", self.silent());
            self.answer_all(standing);
        }
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.is_awaited().then_some(self.due_ms)
    }

    fn answer_all(&mut self, standing: Standing) {
        for asker in std::mem::take(&mut self.askers) {
            self.answer(asker, standing);
        }
        for reply in std::mem::take(&mut self.whole) {
            let (unreadiness, cores) = (self.unreadiness(standing), self.reports.clone());
            // Who asked may have gone.
            let _ = reply.send(Surveyed { standing, unreadiness, cores, server: self.server.clone() });
        }
        self.reports.fill_with(|| None);
    }

    fn answer(&self, asker: Asker, standing: Standing) {
        let (status, text) = match asker.question {
            Question::Metrics => (200, render(&self.reports, &self.server)),
            Question::Health => verdict("ok", self.sickness()),
            Question::Readiness => verdict("ready", self.unreadiness(standing)),
        };
        match asker.to {
            AnswerTo::Connection { core, connection, head_only } => {
                let bytes = match asker.question {
                    Question::Metrics => http::metrics(&text, head_only),
                    Question::Health | Question::Readiness => http::text(status, &text, head_only),
                };
                self.links[core.index()].send(ToCore::HttpAnswer(connection, bytes));
            }
            // Who asked may have gone.
            AnswerTo::Backend(reply) => drop(reply.send((status, text))),
        }
    }

    fn sickness(&self) -> Option<String> {
        self.reports.iter().any(Option::is_none).then(|| format!("{} does not answer", self.silent()))
    }

    /// A node of a cluster that stands by is well, and serves nobody.
    fn standby(&self) -> Option<String> {
        let cluster = self.server.cluster.as_ref()?;
        (!cluster.is_serving()).then(|| STANDBY.to_owned())
    }

    fn unreadiness(&self, standing: Standing) -> Option<String> {
        match standing {
            Standing::Starting | Standing::Draining => Some(standing.name().to_owned()),
            Standing::Serving => self
                .sickness()
                .or_else(|| self.log_failure())
                .or_else(|| self.lack_of_keys())
                .or_else(|| self.standby()),
        }
    }

    /// Nobody could come in.
    fn lack_of_keys(&self) -> Option<String> {
        let lacks = |jwks: &JwksDesk| !jwks.had_keys();
        self.server.jwks_awaited.as_ref().is_some_and(lacks).then(|| "no key was fetched from jwks_url yet".to_owned())
    }

    fn log_failure(&self) -> Option<String> {
        let has_failed = |report: &CoreReport| report.log_state == Some(State::Failed);
        let cores = list_cores(self.cores_where(|report| report.is_some_and(has_failed)));
        (!cores.is_empty()).then(|| format!("the log of {cores} failed"))
    }

    fn silent(&self) -> String {
        list_cores(self.cores_where(|report| report.is_none()))
    }

    fn cores_where(&self, holds: impl Fn(Option<&CoreReport>) -> bool) -> impl Iterator<Item = usize> {
        let reports = self.reports.iter().enumerate();
        reports.filter(move |(_, report)| holds(report.as_deref())).map(|(index, _)| index)
    }
}

fn verdict(praise: &str, complaint: Option<String>) -> (u16, String) {
    match complaint {
        None => (200, format!("{praise}\n")),
        Some(complaint) => (503, format!("{complaint}\n")),
    }
}

/// `core 0, core 2`; empty where there is none.
pub(super) fn list_cores(cores: impl Iterator<Item = usize>) -> String {
    cores.map(|core| format!("core {core}")).collect::<Vec<_>>().join(", ")
}
