//! How far the cores' logs are committed, for all feeds at once.
//!
//! Each core has one ask of it at a time, which it answers when its log is further than was seen: so a quiet core is not woken by who
//! waits, and a busy one is asked at the pace of [`PAUSE`]. Nobody asks while there is no feed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use banter_log::journal::LogPlaces;
use banter_protocol::error_code::ErrorCode;
use tokio::sync::{oneshot, watch};

use super::fault::ApiFault;
use crate::control::{CoreLink, ToCore};
use crate::storage::feed::Frontier;

/// Between two asks of a core.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a core has to say where its log is when a feed begins.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Follows the logs of all cores.
pub struct Following {
    links: Vec<CoreLink>,
    frontier: watch::Sender<Frontier>,
    /// Told of each feed that begins.
    began: watch::Sender<()>,
    is_spawned: AtomicBool,
}

impl Following {
    /// Of these cores.
    pub fn new(links: Vec<CoreLink>) -> Self {
        let frontier: Frontier = Arc::new(links.iter().map(|_| Arc::default()).collect());
        let (frontier, began) = (watch::Sender::new(frontier), watch::Sender::new(()));
        Following { links, frontier, began, is_spawned: AtomicBool::new(false) }
    }

    /// Where the logs are, no earlier than now, and what comes.
    ///
    /// # Errors
    /// A core did not say in time.
    pub async fn begin(self: &Arc<Self>) -> Result<watch::Receiver<Frontier>, ApiFault> {
        let asked: Vec<_> = (0..self.links.len()).map(|core| self.ask(core, None)).collect();
        for (core, answer) in asked.into_iter().enumerate() {
            match tokio::time::timeout(ANSWER_MAX, answer).await {
                Ok(Ok(places)) => self.put(core, places),
                Ok(Err(_)) => return Err(ApiFault::new(ErrorCode::Draining, "the server is stopping").again_in(1_000)),
                Err(_) => return Err(ApiFault::new(ErrorCode::Unavailable, "a core does not answer").again_in(1_000)),
            }
        }
        if !self.is_spawned.swap(true, Ordering::Relaxed) {
            (0..self.links.len()).for_each(|core| drop(tokio::spawn(self.clone().follow(core))));
        }
        let frontier = self.frontier.subscribe();
        self.began.send_replace(());
        Ok(frontier)
    }

    fn ask(&self, core: usize, seen: Option<u64>) -> oneshot::Receiver<LogPlaces> {
        let (reply, answer) = oneshot::channel();
        if let Some(link) = self.links.get(core) {
            link.send(ToCore::LogPlaces { seen, reply });
        }
        answer
    }

    fn put(&self, core: usize, places: LogPlaces) {
        self.frontier.send_if_modified(|frontier| match Arc::make_mut(frontier).get_mut(core) {
            Some(known) if known.version < places.version => {
                *known = places.into();
                true
            }
            _ => false,
        });
    }

    async fn follow(self: Arc<Self>, core: usize) {
        let mut began = self.began.subscribe();
        loop {
            while self.frontier.receiver_count() == 0 {
                if began.changed().await.is_err() {
                    return;
                }
            }
            let seen = self.frontier.borrow().get(core).map(|places| places.version);
            if let Ok(places) = self.ask(core, seen).await {
                self.put(core, places);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
