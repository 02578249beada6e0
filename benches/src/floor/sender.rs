//! The sender process: starts the drain, sends round after round, and reads the clocks around the measured ones.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use super::args::{Args, Mode};
use super::doing;
use super::figures::{Clocks, Figures};
use super::sys::{self, SendRing};

/// Runs warm-up and measurement.
pub fn run(args: &Args) -> io::Result<Figures> {
    sys::raise_descriptor_limit().map_err(doing("raising the descriptor limit"))?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(doing("listening on loopback"))?;
    let mut drain = DrainProcess::start(listener.local_addr()?).map_err(doing("starting the drain"))?;
    sys::pin_to_cpu(args.cpu).map_err(doing(&format!("pinning the sender to CPU {}", args.cpu)))?;
    let control = drain.accept(&listener)?;
    let sockets = (0..args.connections).map(|_| drain.accept(&listener)).collect::<io::Result<Vec<_>>>()?;
    let outlet = Outlet::new(args, sockets).map_err(doing("setting up the sends"))?;
    let mut pace = Rounds { outlet, control, sent: 0, read: 0, unread_max: unread_max(args) };
    pace.run_for(args.warmup_seconds)?;
    let watch = Watch { epoch: Instant::now(), drain: drain.child.id(), softirq: softirq_thread(args.cpu) };
    let start = watch.clocks()?;
    let rounds = pace.run_for(args.seconds)?;
    let end = watch.clocks()?;
    // Before the sockets close, or it would complain of them.
    drop(drain);
    Ok(Figures::between(start, end, rounds * u64::from(args.connections), args.frames))
}

fn unread_max(args: &Args) -> Option<u64> {
    (!args.free_run).then_some(u64::from(args.rounds_outstanding))
}

/// Whose clocks are read, beside the process's own.
struct Watch {
    epoch: Instant,
    drain: u32,
    softirq: Option<u32>,
}

impl Watch {
    fn clocks(&self) -> io::Result<Clocks> {
        Ok(Clocks {
            wall: self.epoch.elapsed(),
            process: sys::process_cpu()?,
            thread: sys::thread_cpu()?,
            drain: sys::cpu_of(self.drain).map_err(doing("reading the drain's CPU clock"))?,
            softirq: self.softirq.and_then(|pid| sys::cpu_of(pid).ok()),
        })
    }
}

/// The kernel's softirq thread of that CPU, unless a container hides it.
fn softirq_thread(cpu: u32) -> Option<u32> {
    let name = format!("ksoftirqd/{cpu}");
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name))
}

/// The drain, which ends with the sender.
struct DrainProcess {
    child: Child,
}

impl DrainProcess {
    /// The same program with the same options, and where to connect to.
    fn start(listening: SocketAddr) -> io::Result<Self> {
        let child = Command::new(env::current_exe()?)
            .args(env::args_os().skip(1))
            .arg("--drain")
            .arg(listening.to_string())
            .spawn()?;
        Ok(Self { child })
    }

    /// The next connection of the drain; an error if the drain ended instead of connecting.
    fn accept(&mut self, listener: &TcpListener) -> io::Result<TcpStream> {
        listener.set_nonblocking(true)?;
        loop {
            match listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nodelay(true)?;
                    return Ok(socket);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(doing("accepting the drain's connections")(error)),
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("the drain ended early ({status})")));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for DrainProcess {
    fn drop(&mut self) {
        // It may have ended by itself, since its control socket may be closed by now; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Rounds of sends, held back by the drain's notes.
struct Rounds {
    outlet: Outlet,
    control: TcpStream,
    sent: u64,
    read: u64,
    /// None: never wait.
    unread_max: Option<u64>,
}

impl Rounds {
    /// Sends rounds until the time is over, and returns how many were sent.
    fn run_for(&mut self, time: Duration) -> io::Result<u64> {
        let (start, sent_before) = (Instant::now(), self.sent);
        while start.elapsed() < time {
            self.outlet.send_round().map_err(doing("sending"))?;
            self.sent += 1;
            self.wait_for_drain().map_err(doing("waiting for the drain"))?;
        }
        Ok(self.sent - sent_before)
    }

    /// Returns once one more round may be sent.
    fn wait_for_drain(&mut self) -> io::Result<()> {
        let Some(unread_max) = self.unread_max else { return Ok(()) };
        while self.sent - self.read >= unread_max {
            let mut note = [0; 8];
            self.control.read_exact(&mut note)?;
            self.read = u64::from_le_bytes(note);
        }
        Ok(())
    }
}

/// Where a round goes out.
enum Outlet {
    /// The sockets are held only to stay open.
    Ring { ring: Box<SendRing>, sockets: Vec<TcpStream>, batch_sends: usize },
    /// `write` on a std socket is send(2).
    Calls { sockets: Vec<TcpStream>, payload: &'static [u8] },
}

impl Outlet {
    fn new(args: &Args, sockets: Vec<TcpStream>) -> io::Result<Self> {
        // Leaked: one payload a process, which the kernel may read until the process ends.
        let payload: &'static [u8] = vec![b'x'; args.payload_bytes()].leak();
        if args.mode == Mode::Send {
            return Ok(Self::Calls { sockets, payload });
        }
        let raw = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        let ring = SendRing::new(raw, payload, args.descriptors, args.batch_sends())?;
        Ok(Self::Ring { ring: Box::new(ring), sockets, batch_sends: args.batch_sends() as usize })
    }

    fn send_round(&mut self) -> io::Result<()> {
        match self {
            Self::Calls { sockets, payload } => sockets.iter_mut().try_for_each(|socket| socket.write_all(payload)),
            Self::Ring { ring, sockets, batch_sends } => (0..sockets.len())
                .step_by(*batch_sends)
                .try_for_each(|first| ring.send_batch(first, (first + *batch_sends).min(sockets.len()))),
        }
    }
}
