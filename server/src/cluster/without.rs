//! In the place of a cluster in a build that has none: it cannot be joined.

use std::convert::Infallible;
use std::net::SocketAddr;

use banter_chat::address::Placement;
use flume::Sender;

use super::{ClusterFault, ClusterView, ToCluster};
use crate::config::{Cluster, Config};
use crate::control::CoreLink;

/// A node that may join its cluster: there is none.
#[derive(Debug)]
pub struct Joining(Infallible);

/// The thread of a node: there is none.
#[derive(Debug)]
pub struct ClusterThread(Infallible);

impl Joining {
    /// Says that this build has no cluster.
    ///
    /// # Errors
    /// Always.
    pub fn open(_: &Config, _: &Cluster, _: &dyn Fn() -> bool) -> Result<Self, ClusterFault> {
        Err(ClusterFault::NotBuilt)
    }

    /// Of no node.
    ///
    /// # Errors
    /// None.
    pub fn placement(&self, _: u16) -> Result<Placement, ClusterFault> {
        match self.0 {}
    }

    /// To no thread.
    pub fn sender(&self) -> Sender<ToCluster> {
        match self.0 {}
    }

    /// Starts no thread.
    ///
    /// # Errors
    /// None.
    pub fn spawn(self, _: &Config, _: SocketAddr, _: u64, _: Vec<CoreLink>) -> Result<ClusterThread, ClusterFault> {
        match self.0 {}
    }
}

impl ClusterThread {
    /// Of no node.
    pub fn view(&self) -> ClusterView {
        match self.0 {}
    }

    /// Ends none.
    pub fn stop(self) {
        match self.0 {}
    }
}
