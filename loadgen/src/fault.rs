//! Why a run could not be made, in words that say what to do.

use std::io;
use std::net::SocketAddr;

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says in its message what it means")]
pub enum LoadFault {
    #[error("--publishers {publishers} is more than --members {members}: a publisher is one of the members")]
    TooManyPublishers { publishers: u32, members: u32 },
    #[error("cannot connect to {server}: {error}")]
    Connect { server: SocketAddr, error: io::Error },
    #[error(
        "{needed} descriptors are needed and the hard limit is {limit}: use fewer connections, or raise the limit \
         (ulimit -Hn, LimitNOFILE=, or /etc/security/limits.conf)"
    )]
    Descriptors { needed: u64, limit: u64 },
    #[error(
        "{connections} connections need several source addresses, which is possible on loopback (127.0.0.0/8) only; \
         at most {connections_max} to {server}"
    )]
    SourceAddresses { connections: usize, connections_max: usize, server: SocketAddr },
    #[error("the server did not open the WebSocket: {0}")]
    Upgrade(String),
    #[error("the server refused: {code}: {message}")]
    Refused { code: String, message: String },
    #[error("{ready} of {wanted} connections were joined, then nothing happened for {seconds} s ({stuck})")]
    Stuck { ready: usize, wanted: usize, seconds: u64, stuck: String },
    #[error("connection {connection} ended in the middle of the run: {why}")]
    Closed { connection: usize, why: String },
    #[error("connection {connection}: {what}")]
    BadBytes { connection: usize, what: String },
    #[error(
        "{posts} posts are under way: the server does not keep up with --rate, and there is no memory for more; \
         lower --rate"
    )]
    TooFarBehind { posts: usize },
    #[error("process {pid} cannot be measured: {error}")]
    Process { pid: u32, error: io::Error },
    #[error("cannot pin to CPU {cpu}: {error}")]
    Pin { cpu: usize, error: io::Error },
    #[error("{doing}: {error}")]
    Host { doing: &'static str, error: io::Error },
}

/// An error of this host, with what was being done.
pub fn host(doing: &'static str) -> impl FnOnce(io::Error) -> LoadFault {
    move |error| LoadFault::Host { doing, error }
}
