//! What a node of a cluster is doing, for who asks the server: readiness, status, metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the cluster's thread says, and the control plane tells.
#[derive(Clone, Debug, Default)]
pub struct ClusterView(Arc<Mutex<ClusterSeen>>);

/// A node of a cluster at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSeen {
    /// The cluster's name.
    pub cluster: String,
    /// The node's.
    pub node: String,
    /// Whether clients are served here.
    pub is_serving: bool,
    /// Partitions that the cluster has.
    pub partitions: u16,
    /// How many of them are open here.
    pub open: u16,
    /// Those of the open ones for which the engine does not answer: their posts wait.
    pub doubtful: Vec<u16>,
    /// Those of the open ones that find no space: their posts are refused.
    pub full: Vec<u16>,
    /// Those that are not served, since their streams are not what they should be.
    pub broken: Vec<u16>,
    /// Addresses of the nodes that live, the one that serves first.
    pub nodes: Vec<String>,
    /// What keeps the engine from being proved, each with its cure.
    pub unproved: Vec<String>,
}

impl ClusterView {
    /// A node that stands by.
    pub fn new(cluster: &str, node: &str, partitions: u16) -> Self {
        let seen = ClusterSeen { cluster: cluster.into(), node: node.into(), partitions, ..ClusterSeen::default() };
        ClusterView(Arc::new(Mutex::new(seen)))
    }

    /// What was said last.
    pub fn seen(&self) -> ClusterSeen {
        self.lock().clone()
    }

    /// Whether clients are served here.
    pub fn is_serving(&self) -> bool {
        self.lock().is_serving
    }

    /// Says something new.
    pub fn say(&self, change: impl FnOnce(&mut ClusterSeen)) {
        change(&mut self.lock());
    }

    /// Each value is whole by itself, so one whose teller died is still true.
    fn lock(&self) -> MutexGuard<'_, ClusterSeen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
