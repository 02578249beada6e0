//! A node of a cluster: the partitions' journals ask a thread of the control plane, and it does by way of the engine what a disk would do.
//!
//! ```text
//!  core: shard ─Ask─▶ Hands ──mail──▶ thread: Node (pure) ─▶ Engine ─▶ NATS JetStream
//!           ◀─Answer── mail and bell ◀──┘         ▲ ◀─Answer──┘
//! ```
//!
//! `node` is the thread, `starting` what is proved and read ahead of it, `watching` whether that stays true, `retention` what gets too old, `notes` what the
//! log is told of it, `view` what is told to who asks. What is decided is the business of `banter-cluster`.
//!
//! Invariant: what a journal asked is done for that journal alone. Each opening of a partition has a number, which goes along with
//! every ask; an ask of an opening that is over is dropped.

#[cfg(feature = "cluster")]
mod node;
#[cfg(feature = "cluster")]
mod notes;
#[cfg(feature = "cluster")]
mod retention;
#[cfg(feature = "cluster")]
pub(crate) mod starting;
mod view;
#[cfg(feature = "cluster")]
mod watching;

use std::collections::BTreeMap;

use banter_chat::logs::LogId;
use banter_chat::serving::Serving;
use banter_log::journal::{Answer, Ask, Journal, JournalParts};
use banter_protocol::ids::Epoch;
use flume::Sender;

use crate::control::ToControl;

#[cfg(feature = "cluster")]
pub use node::{ClusterThread, Joining};
pub use view::{ClusterSeen, ClusterView};

/// Why a node cannot be one of its cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterFault {
    /// This build has no engine.
    #[error("[cluster] is configured, and this banter was built without it: build it with --features cluster")]
    NotBuilt,
    /// The engine cannot be used.
    #[error("{0}")]
    Engine(String),
    /// The engine does not prove itself.
    #[error(
        "the engine of the cluster does not prove that it keeps what it acknowledges:\n{faults}\n`banter cluster check` looks \
         again; unproved_engine = true starts all the same, and may lose what was acknowledged"
    )]
    Unproved {
        /// What is wrong, and how to mend it, a line each.
        faults: String,
    },
    /// The cluster's streams are not there, or not as they should be.
    #[error("{0}")]
    Streams(String),
    /// The thread could not be made.
    #[error("starting the thread of the cluster: {0}")]
    Thread(std::io::Error),
    /// A signal came first.
    #[error("stopped while the engine of the cluster was waited for")]
    Stopped,
}

/// To the cluster's thread.
#[derive(Debug)]
pub enum ToCluster {
    /// A journal asks.
    Disk {
        /// Whose log it is.
        log: LogId,
        /// In which of its openings.
        opening: u64,
        /// What.
        ask: Ask,
    },
    /// A partition's journal was closed; it is dropped here, where nobody waits for it.
    Closed(Box<Journal>),
    /// The node is to own nothing any more. [`ToControl::GivenUp`] comes when that is so, or cannot be waited for.
    Drain(Sender<ToControl>),
    /// The server has ended.
    Stop,
}

/// To a core, of its partitions.
#[derive(Debug)]
pub enum OfCluster {
    /// A partition is this node's; its journal is made of that.
    Opened {
        /// Its log.
        log: LogId,
        /// The number of this opening.
        opening: u64,
        /// What the journal is made of.
        parts: Box<JournalParts>,
    },
    /// What was asked is done.
    Answer(LogId, Answer),
    /// A partition is this node's no more.
    Closed(LogId),
    /// Whether clients are served here.
    Serving(Serving),
    /// Where else clients may go.
    Nodes(Vec<String>),
    /// Rooms in memory begin under other epochs.
    Epochs(Epoch, Epoch),
}

/// A core's hands on the logs of its partitions.
#[derive(Debug)]
pub struct Hands {
    cluster: Sender<ToCluster>,
    /// The number of each log's opening.
    openings: BTreeMap<LogId, u64>,
}

impl Hands {
    /// None is open.
    pub fn new(cluster: Sender<ToCluster>) -> Self {
        Hands { cluster, openings: BTreeMap::new() }
    }

    /// A log was opened.
    pub fn opened(&mut self, log: LogId, opening: u64) {
        self.openings.insert(log, opening);
    }

    /// A log was closed.
    pub fn closed(&mut self, log: LogId, journal: Option<Box<Journal>>) {
        self.openings.remove(&log);
        if let Some(journal) = journal {
            let _ = self.cluster.send(ToCluster::Closed(journal));
        }
    }

    /// Has that done.
    pub fn take(&self, log: LogId, ask: Ask) {
        let Some(&opening) = self.openings.get(&log) else { return };
        // The cluster's thread outlives the cores.
        let _ = self.cluster.send(ToCluster::Disk { log, opening, ask });
    }
}

/// What stands for a cluster in a build without one: there is none.
#[cfg(not(feature = "cluster"))]
pub use without::{ClusterThread, Joining};

#[cfg(not(feature = "cluster"))]
mod without;
