//! Why a run could not be made, in words that say what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use banter_access::mint::MintFault;

use crate::sheet::merging::MergeFault;

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says in its message what it means")]
pub enum LoadFault {
    #[error("--publishers {publishers} is more than --members {members}: a publisher is one of the members")]
    TooManyPublishers { publishers: u32, members: u32 },
    #[error("a search for the saturation point posts by the clock: give the first rate with --rate")]
    NoRate,
    #[error("--rooms {rooms} cannot be spread so that each member reads {rooms_each}: make it a multiple")]
    UnevenSeats { rooms: usize, rooms_each: usize },
    #[error("--wire {wire} knows no {what}")]
    Lacks { wire: &'static str, what: &'static str },
    #[error(
        "{readings} pairs of a publisher and a member of its room are more than {readings_max}, which --wire {wire} can \
         keep in mind: use fewer --publishers or --members"
    )]
    Readings { readings: u64, readings_max: u64, wire: &'static str },
    #[error("--clients {clients} cannot be spread evenly over --rooms {rooms}: make it a multiple")]
    UnevenClients { clients: u32, rooms: u32 },
    #[error("{filled} of {wanted} messages were acknowledged, then nothing happened for {seconds} s")]
    FillStuck { filled: u64, wanted: u64, seconds: u64 },
    #[error(
        "room {room} answered sequence {found} where {due} was due: somebody else posts there; use another --room-prefix"
    )]
    FillForeign { room: String, found: u64, due: u64 },
    #[error("cannot connect to {server}: {error}{}", connect_hint(error))]
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
    #[error("the server did not open the WebSocket: {0}; is that the address of a server that speaks this --wire?")]
    Upgrade(String),
    #[error("the server refused: {code}: {message}{}", refusal_hint(code))]
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
    #[error(
        "more posts than this program can keep for its checks ({}): lower the rate or the duration",
        crate::ledger::LEDGER_POSTS_MAX
    )]
    LedgerFull,
    #[error("process {pid} cannot be measured: {error}; --pid takes the id of a running server of this user")]
    Process { pid: u32, error: io::Error },
    #[error("cannot pin to CPU {cpu}: {error}; --cpu takes one that this process may run on (taskset -cp $$)")]
    Pin { cpu: usize, error: io::Error },
    #[error("cannot read {}: {error}; --secret-file takes the file that the server's secret_file names", path.display())]
    Secret { path: PathBuf, error: io::Error },
    #[error("cannot write {}: {error}; --report takes a file in a folder that there is", path.display())]
    Page { path: PathBuf, error: io::Error },
    #[error("{}: {why}", path.display())]
    MixFile { path: PathBuf, why: String },
    #[error("{name} could not be run: {why}")]
    Child { name: String, why: String },
    #[error("cannot read figures of {}: {why}; merge takes what --json printed", path.display())]
    Figures { path: PathBuf, why: String },
    #[error("{0}")]
    Merge(#[from] MergeFault),
    #[error("no token can be made: {0}")]
    Token(#[from] MintFault),
    #[error("{doing}: {error}")]
    Host { doing: &'static str, error: io::Error },
}

/// What to do about a connection that could not be made.
fn connect_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "; start the server, or name its address with --server",
        io::ErrorKind::AddrNotAvailable => {
            "; no local port is free: wait a minute, or widen the range (sysctl net.ipv4.ip_local_port_range)"
        }
        _ => "",
    }
}

/// What to do about a refusal.
fn refusal_hint(code: &str) -> &'static str {
    match code {
        "overloaded" => "; raise that limit of the server (banter --help-limits)",
        "rate_limited" => "; start the server with --posts-per-second-max 0",
        "unauthorized" => "; --secret-file takes the secret that the server checks tokens with",
        "replaced" => "; start the server with --connections-per-user-max 0",
        "draining" => "; the server is stopping",
        _ => "",
    }
}

/// An error of this host, with what was being done.
pub fn host(doing: &'static str) -> impl FnOnce(io::Error) -> LoadFault {
    move |error| LoadFault::Host { doing, error }
}
