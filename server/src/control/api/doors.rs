//! The listeners of the interface: so many connections at a time, and so long for a request's head.

use std::fmt;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;

use super::CONNECTIONS_MAX;
use super::caller::Door;
use crate::config::Admin;
use crate::core::rare_line::RareLine;

/// Which part of the process's descriptors a door may have.
const DESCRIPTORS_SHARE: u64 = 8;
/// How long a peer has for the head of a request, from the connection's begin or the last answer on.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// How long a peer may take nothing of an answer.
const WRITE_MAX: Duration = Duration::from_secs(30);
/// How long to wait when no connection can be taken: for want of descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the interface listens.
pub struct Doors {
    http: Option<std::net::TcpListener>,
    socket: Option<std::os::unix::net::UnixListener>,
    /// Connections of each at a time.
    connections_max: usize,
}

/// Why it cannot listen there.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place}, which [admin] names: {error}")]
pub struct DoorFault {
    place: String,
    error: std::io::Error,
}

impl Doors {
    /// Opens what the configuration names, for a process that may have so many descriptors. A socket that an earlier run left behind is taken away; one that still answers is
    /// another server's.
    ///
    /// # Errors
    /// A place cannot be had.
    pub fn open(admin: &Admin, descriptors: u64) -> Result<Self, DoorFault> {
        let http = admin.listen.map(|listen| {
            let listener = std::net::TcpListener::bind(listen).and_then(unblocked);
            listener.map_err(|error| DoorFault { place: listen.to_string(), error })
        });
        let socket = admin
            .socket
            .as_ref()
            .map(|path| open_socket(path).map_err(|error| DoorFault { place: path.display().to_string(), error }));
        // The rest is for the log's files, which a full table would keep from being made.
        let connections_max = CONNECTIONS_MAX.min((descriptors / DESCRIPTORS_SHARE) as usize).max(1);
        Ok(Doors { http: http.transpose()?, socket: socket.transpose()?, connections_max })
    }
}

/// Where it listens: the port that was free, where any was asked for.
impl fmt::Display for Doors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let http =
            self.http.as_ref().and_then(|http| http.local_addr().ok()).map(|address| format!("http://{address}"));
        let socket = self.socket.as_ref().and_then(|socket| socket.local_addr().ok());
        let socket = socket.and_then(|address| Some(format!("unix:{}", address.as_pathname()?.display())));
        out.write_str(&http.into_iter().chain(socket).collect::<Vec<_>>().join(" and "))
    }
}

fn unblocked(listener: std::net::TcpListener) -> std::io::Result<std::net::TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn open_socket(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another server listens there"));
        }
        std::fs::remove_file(path)?;
    }
    // Nobody else may open it from the first moment on: made under that mask, not given the mode behind it.
    let before = rustix::process::umask(rustix::fs::Mode::XUSR | rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let listener = std::os::unix::net::UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves both doors for as long as the process lives.
pub async fn serve(router: Router, doors: Doors) {
    // Whoever fills the one door does not close the other.
    let places = || Arc::new(Semaphore::new(doors.connections_max));
    let (over_http, over_socket) = (places(), places());
    let http = doors.http.map(TcpListener::from_std).transpose();
    let socket = doors.socket.map(UnixListener::from_std).transpose();
    match (http, socket) {
        (Ok(http), Ok(socket)) => {
            tokio::join!(serve_http(http, &router, &over_http), serve_socket(socket, &router, &over_socket));
        }
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "the interface for backends cannot listen"),
    }
}

async fn serve_http(listener: Option<TcpListener>, router: &Router, connections: &Arc<Semaphore>) {
    let Some(listener) = listener else { return };
    let mut line = RareLine::default();
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => serve_one(stream, Door::Http, router, permit),
            Err(error) => pause(&error, &mut line).await,
        }
    }
}

async fn serve_socket(listener: Option<UnixListener>, router: &Router, connections: &Arc<Semaphore>) {
    let Some(listener) = listener else { return };
    let mut line = RareLine::default();
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => serve_one(stream, Door::Socket, router, permit),
            Err(error) => pause(&error, &mut line).await,
        }
    }
}

async fn pause(error: &std::io::Error, line: &mut RareLine) {
    if let Some(untold) = line.due(Instant::now()) {
        tracing::warn!(%error, untold, "the interface for backends cannot take a connection: it tries again");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn serve_one<Stream>(stream: Stream, door: Door, router: &Router, permit: OwnedSemaphorePermit)
where
    Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router.clone().layer(axum::Extension(door)));
    tokio::spawn(async move {
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream.as_mut().set_write_timeout_pinned(Some(WRITE_MAX));
        // A peer that breaks off, takes nothing, or sends no HTTP, is told by its own socket.
        let _ = http.serve_connection(TokioIo::new(stream), service).await;
        drop(permit);
    });
}
