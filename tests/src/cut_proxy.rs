//! A TCP proxy that cuts its connections off, when it is told to or after so many bytes from a seed.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::seeded::Seeded;

/// A proxy. Dropping it cuts everything off.
pub struct CutProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: Mutex<SocketAddr>,
    connections: Mutex<Vec<[TcpStream; 2]>>,
    /// How many bytes each connection carries in each direction; none when it is cut only on demand.
    budgets: Option<Mutex<(Seeded, usize)>>,
    cuts: AtomicU64,
    is_over: AtomicBool,
}

impl CutProxy {
    /// A proxy that cuts when it is told to.
    pub fn start(upstream: SocketAddr) -> Self {
        Self::with_budgets(upstream, None)
    }

    /// A proxy that cuts every connection after fewer than so many bytes in one direction, wherever that is in a frame.
    pub fn cutting(upstream: SocketAddr, seed: u64, bytes_max: usize) -> Self {
        Self::with_budgets(upstream, Some(Mutex::new((Seeded::new(seed), bytes_max))))
    }

    fn with_budgets(upstream: SocketAddr, budgets: Option<Mutex<(Seeded, usize)>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let connections = Mutex::default();
        let (cuts, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { upstream: Mutex::new(upstream), connections, budgets, cuts, is_over });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.is_over.load(Ordering::Relaxed) {
                    return;
                }
                accepting.take(stream);
            }
        });
        CutProxy { address, shared }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carries new connections to another server from now on.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().expect("no panic") = upstream;
    }

    /// Cuts off every connection there is.
    pub fn cut(&self) {
        for pair in self.shared.connections.lock().expect("no panic").drain(..) {
            self.shared.cut(&pair);
        }
    }

    /// Connections that were cut off so far.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for CutProxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn take(self: &Arc<Self>, client: TcpStream) {
        let upstream = *self.upstream.lock().expect("no panic");
        let Ok(server) = TcpStream::connect(upstream) else { return };
        let pair = || [client.try_clone().expect("a descriptor"), server.try_clone().expect("a descriptor")];
        self.connections.lock().expect("no panic").push(pair());
        for [from, to] in [pair(), {
            let [client, server] = pair();
            [server, client]
        }] {
            let shared = self.clone();
            let budget = self.budget();
            std::thread::spawn(move || shared.carry([from, to], budget));
        }
    }

    fn budget(&self) -> usize {
        let Some(budgets) = &self.budgets else { return usize::MAX };
        let (seeded, bytes_max) = &mut *budgets.lock().expect("no panic");
        seeded.below(*bytes_max)
    }

    fn carry(&self, mut pair: [TcpStream; 2], mut budget: usize) {
        let mut buffer = [0; 4_096];
        while let Ok(bytes @ 1..) = pair[0].read(&mut buffer) {
            let carried = bytes.min(budget);
            budget -= carried;
            if pair[1].write_all(&buffer[..carried]).is_err() {
                break;
            }
            if budget == 0 {
                self.cut(&pair);
                return;
            }
        }
        let _ = pair[1].shutdown(Shutdown::Write);
    }

    fn cut(&self, pair: &[TcpStream; 2]) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
        for stream in pair {
            // The last descriptor that is closed then resets what is left.
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
