//! What is told of the engine: where it is, who we are there, and the names that follow from the cluster's.

use std::path::PathBuf;
use std::time::Duration;

use crate::fault::EngineFault;

/// Characters of a cluster's name at most: it is part of every subject and of every stream's name.
const CLUSTER_NAME_LENGTH_MAX: usize = 32;

/// What an [`crate::Engine`] is told.
///
/// Its user has to be allowed to publish to `banter.<cluster>.>` and `$JS.API.>`, and to subscribe to `banter.<cluster>.beat` and
/// `_INBOX.>`; what is not allowed has no answer, and the server's word on it is logged.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The cluster's name: several clusters may live in one engine.
    pub cluster: String,
    /// `nats://host:port` or `tls://host:port`, any of the servers; all of them, so that each may be down. A user and a password, or
    /// a token, may stand in front of the host.
    pub servers: Vec<String>,
    /// A credentials file (`.creds`), in the place of a user and a password.
    pub credentials: Option<PathBuf>,
    /// A PEM file of who signed the servers' certificates, in the place of the system's.
    pub certificate_authority: Option<PathBuf>,
    /// How long an append is waited for.
    pub append_timeout_ms: u64,
    /// How long the first connection is waited for, over all servers.
    pub connect_timeout_ms: u64,
}

impl EngineConfig {
    /// With what is usual.
    pub fn new(cluster: impl Into<String>, servers: Vec<String>) -> Self {
        EngineConfig {
            cluster: cluster.into(),
            servers,
            credentials: None,
            certificate_authority: None,
            append_timeout_ms: 500,
            connect_timeout_ms: 10_000,
        }
    }

    /// How long an append is waited for.
    pub(crate) fn append_timeout(&self) -> Duration {
        Duration::from_millis(self.append_timeout_ms)
    }
}

/// A cluster's name that is fit for subjects and streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName(String);

impl ClusterName {
    /// That name.
    ///
    /// # Errors
    /// It has other characters than subjects may have, or is too long.
    pub fn new(name: &str) -> Result<Self, EngineFault> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > CLUSTER_NAME_LENGTH_MAX || !name.bytes().all(is_fit) {
            let name = name.chars().take(2 * CLUSTER_NAME_LENGTH_MAX).collect();
            return Err(EngineFault::ClusterName { name, length_max: CLUSTER_NAME_LENGTH_MAX });
        }
        Ok(ClusterName(name.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_name_is_fit_for_a_subject() {
        for name in ["a", "chat-1", "CHAT_2", &"x".repeat(32)] {
            assert_eq!(ClusterName::new(name).unwrap().as_str(), name);
        }
        for name in ["", "a.b", "a b", "*", ">", "ä", "a\r\nPUB", &"x".repeat(33)] {
            assert!(ClusterName::new(name).unwrap_err().to_string().contains("letters, digits"), "{name}");
        }
    }
}
