//! What keeps a connection to the engine from being made, and how to mend it.

use std::path::PathBuf;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum EngineFault {
    /// The name is not fit for a subject.
    #[error("cluster name {name:?}: use letters, digits, - and _, and from 1 to {length_max} of them")]
    ClusterName {
        /// The name, or its beginning.
        name: String,
        /// Characters at most.
        length_max: usize,
    },
    /// Nowhere to go.
    #[error("no engine address: name every NATS server, as [\"nats://host:4222\", …]")]
    NoServers,
    /// An address is none. It is named by its number, since it may hold a password.
    #[error("engine address {number} is none: {why}; write nats://host:4222 or tls://host:4222")]
    Address {
        /// Which one, from 1.
        number: usize,
        /// Why.
        why: String,
    },
    /// Some would be spoken to in the clear.
    #[error("some engine addresses are tls:// and some are nats://: write tls:// for all of them, or for none")]
    MixedTls,
    /// They name several users, and a connection has one.
    #[error(
        "the engine addresses name different users: write the same user for all of them, or use a credentials file"
    )]
    MixedUsers,
    /// The credentials cannot be used.
    #[error(
        "cannot use the engine's credentials in {path}: {error}; it is the .creds file that `nsc generate creds` writes, readable by \
         this user", path = .path.display()
    )]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error(
        "cannot use the engine's certificate authority in {path}: {why}; it is a PEM file, readable by this user",
        path = .path.display()
    )]
    CertificateAuthority {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No server takes us.
    #[error("no engine server answers at {servers}: {why}; start the NATS servers, or mend the addresses")]
    Unreachable {
        /// Where.
        servers: String,
        /// What the last one of them did.
        why: String,
    },
    /// A server does not know us.
    #[error(
        "the engine at {servers} does not let us in: {why}; give its user and password in the address, or a credentials file"
    )]
    Refused {
        /// Where.
        servers: String,
        /// What it said.
        why: String,
    },
    /// TLS does not come about.
    #[error(
        "no TLS with the engine at {servers}: {why}; the certificate must name that host, and be signed by who is trusted"
    )]
    Tls {
        /// Where.
        servers: String,
        /// Why.
        why: String,
    },
    /// The connection ended while it began.
    #[error("the connection to the engine ended at once; see what the NATS server logs")]
    Closed,
}
