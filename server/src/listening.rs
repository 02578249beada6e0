//! The server's listeners: one for each core, on one address.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use rustix::net::sockopt;

use crate::host::{KILLED_PAUSE, KILLED_WAIT_MAX};

/// Connections that may wait in the kernel for a core to take them.
const BACKLOG: i32 = 4_096;

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}{hint}")]
pub struct ListenFault {
    /// The address.
    pub address: SocketAddr,
    /// What the kernel says.
    pub error: io::Error,
    /// How to mend it.
    pub hint: &'static str,
}

/// One listener for each core on one address: the kernel spreads connections over them. Port 0 takes a free one, which is told.
///
/// # Errors
/// What the kernel says, and how to mend it.
pub fn listen(address: SocketAddr, cores: usize) -> Result<(SocketAddr, Vec<TcpListener>), ListenFault> {
    let fault = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => ": another program has it; stop that one, or choose another with --listen",
            io::ErrorKind::PermissionDenied => ": ports below 1024 need a right; choose another with --listen",
            io::ErrorKind::AddrNotAvailable => ": no interface of this host has that address",
            _ => "",
        };
        ListenFault { address, error, hint }
    };
    // Sharing the port is for the cores of this server: a first listener that does not share finds another server's.
    let first = bind_when_free(address).map_err(fault)?;
    let address = first.local_addr().map_err(fault)?;
    drop(first);
    let listeners = (0..cores).map(|_| bind(address, true)).collect::<io::Result<Vec<_>>>().map_err(fault)?;
    Ok((address, listeners))
}

/// A server that was killed a moment ago has its port until the kernel has ended what was under way in its rings.
fn bind_when_free(address: SocketAddr) -> io::Result<TcpListener> {
    let until = Instant::now() + KILLED_WAIT_MAX;
    loop {
        match bind(address, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(KILLED_PAUSE);
            }
            bound => return bound,
        }
    }
}

/// A listener whose connections send small frames at once.
fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let family = rustix::net::AddressFamily::from_raw(match address {
        SocketAddr::V4(_) => libc::AF_INET as u16,
        SocketAddr::V6(_) => libc::AF_INET6 as u16,
    });
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, rustix::net::SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, shared)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    if shared {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(TcpListener::from(socket))
}
