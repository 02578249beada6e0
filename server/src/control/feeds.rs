//! What the whole server knows of its feeds: how many there are, what they told, and that they end when it stops.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How long a stop waits until every feed has told its end.
const END_MAX: Duration = Duration::from_secs(1);
/// How often it looks.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// The feeds of a server.
#[derive(Debug)]
pub struct FeedState {
    /// Feeds that are open.
    pub open: AtomicU64,
    /// Messages that they told.
    pub messages: AtomicU64,
    ending: watch::Sender<bool>,
}

impl Default for FeedState {
    fn default() -> Self {
        FeedState { open: AtomicU64::new(0), messages: AtomicU64::new(0), ending: watch::Sender::new(false) }
    }
}

impl FeedState {
    /// The server stops: each feed tells that, and ends.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Tells when feeds are to end.
    pub fn endings(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// Waits until every feed is closed, but not long: who takes nothing has to go on from its cursor.
    pub fn wait_closed(&self) {
        let until = Instant::now() + END_MAX;
        while self.open.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            std::thread::sleep(LOOK_PAUSE);
        }
    }
}
