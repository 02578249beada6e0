//! The drain process: reads everything that arrives, discards it, and says when a round has been read.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::args::Args;
use super::{doing, sys};

/// Large enough to empty a socket at its default receive buffer in one read or two.
const READ_BYTES: usize = 256 * 1024;

/// How many ready sockets one epoll_wait reports: few system calls, and a round is still seen as it arrives.
const EVENTS_MAX: usize = 1_024;

/// Connects back to the sender and drains until the sender closes the control socket.
pub fn run(args: &Args, sender: SocketAddr) -> io::Result<()> {
    sys::raise_descriptor_limit().map_err(doing("raising the descriptor limit"))?;
    sys::pin_to_cpu(args.drain_cpu).map_err(doing(&format!("pinning the drain to CPU {}", args.drain_cpu)))?;
    let mut drain = Drain::connect(args, sender).map_err(doing("connecting the drain"))?;
    let mut epoll = sys::Epoll::new(EVENTS_MAX)?;
    for (token, socket) in drain.sockets.iter().enumerate() {
        epoll.add(socket, token as u64)?;
    }
    let control_token = drain.sockets.len() as u64;
    epoll.add(&drain.control, control_token)?;
    loop {
        for token in epoll.wait()? {
            if token == control_token {
                return Ok(());
            }
            drain.read(token as usize)?;
        }
    }
}

struct Drain {
    control: TcpStream,
    sockets: Vec<TcpStream>,
    buffer: Box<[u8]>,
    progress: Progress,
}

impl Drain {
    /// The control socket first, then the others: the sender takes them in that order.
    fn connect(args: &Args, sender: SocketAddr) -> io::Result<Self> {
        let connect = || {
            let socket = TcpStream::connect(sender)?;
            socket.set_nodelay(true)?;
            Ok::<_, io::Error>(socket)
        };
        let control = connect()?;
        let sockets = (0..args.connections).map(|_| connect()).collect::<io::Result<_>>()?;
        let progress = Progress::new(if args.free_run { None } else { Some(args.round_bytes()) });
        Ok(Self { control, sockets, buffer: vec![0; READ_BYTES].into(), progress })
    }

    fn read(&mut self, index: usize) -> io::Result<()> {
        let bytes = (&self.sockets[index]).read(&mut self.buffer)?;
        if let Some(rounds) = self.progress.add(bytes as u64) {
            self.control.write_all(&rounds.to_le_bytes())?;
        }
        Ok(())
    }
}

/// Counts what was read, in rounds.
struct Progress {
    /// None: nobody wants to know.
    round_bytes: Option<u64>,
    bytes: u64,
    rounds: u64,
}

impl Progress {
    fn new(round_bytes: Option<u64>) -> Self {
        Self { round_bytes, bytes: 0, rounds: 0 }
    }

    /// The rounds read so far, if `bytes` more ended one.
    fn add(&mut self, bytes: u64) -> Option<u64> {
        self.bytes += bytes;
        let rounds = self.bytes / self.round_bytes?;
        let ended = rounds > self.rounds;
        self.rounds = rounds;
        ended.then_some(rounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_told_once_and_only_when_whole() {
        let mut progress = Progress::new(Some(100));
        assert_eq!(progress.add(99), None);
        assert_eq!(progress.add(1), Some(1));
        assert_eq!(progress.add(0), None);
        assert_eq!(progress.add(250), Some(3));
        assert_eq!(progress.add(50), Some(4));
    }

    #[test]
    fn a_free_run_is_told_nothing() {
        assert_eq!(Progress::new(None).add(1_000_000), None);
    }
}
