//! When posts were acknowledged: how long a room, or all of them, went without while a fault was there.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What is noted of acknowledgements and deliveries, by all clients of a run.
pub struct Acks {
    began: Instant,
    inner: Mutex<Inner>,
    /// When each reader was shown something last, in milliseconds behind the beginning.
    shown_ms: Vec<AtomicU64>,
    shown: AtomicU64,
}

struct Inner {
    count: u64,
    rooms: Vec<OfRoom>,
    last: Instant,
    /// Who gave the last one.
    node: Option<usize>,
    pause: Duration,
    /// Who is looked past, from when on, and when another one acknowledged.
    elsewhere: Option<(usize, Instant, Option<Instant>)>,
}

#[derive(Clone, Copy)]
struct OfRoom {
    last: Instant,
    /// When the newest post was sent that was acknowledged.
    sent: Instant,
    pause: Duration,
}

/// The longest times without.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pauses {
    /// In all rooms at once.
    pub all: Duration,
    /// In the room that had to wait longest.
    pub room: Duration,
    /// From the moment that was named to the first acknowledgement of another node.
    pub elsewhere: Option<Duration>,
}

impl Acks {
    /// Nothing was acknowledged.
    pub fn new(rooms: usize, readers: usize) -> Self {
        let now = Instant::now();
        let room = OfRoom { last: now, sent: now, pause: Duration::ZERO };
        let rooms = vec![room; rooms];
        let inner = Inner { count: 0, rooms, last: now, node: None, pause: Duration::ZERO, elsewhere: None };
        let shown_ms = (0..readers).map(|_| AtomicU64::new(0)).collect();
        Acks { began: now, inner: Mutex::new(inner), shown_ms, shown: AtomicU64::new(0) }
    }

    /// A post was acknowledged by that node.
    pub fn acknowledged(&self, room: usize, node: usize, sent: Instant) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.count += 1;
        inner.pause = inner.pause.max(now - inner.last);
        (inner.last, inner.node) = (now, Some(node));
        if let Some((dead, since, first @ None)) = &mut inner.elsewhere
            && node != *dead
            && sent >= *since
        {
            *first = Some(now);
        }
        let of_room = &mut inner.rooms[room];
        of_room.pause = of_room.pause.max(now - of_room.last);
        (of_room.last, of_room.sent) = (now, of_room.sent.max(sent));
    }

    /// A reader was shown a message.
    pub fn shown(&self, reader: usize) {
        self.shown_ms[reader].store(self.began.elapsed().as_millis() as u64, Relaxed);
        self.shown.fetch_add(1, Relaxed);
    }

    /// How many were acknowledged, and how many shown.
    pub fn counts(&self) -> [u64; 2] {
        [self.lock().count, self.shown.load(Relaxed)]
    }

    /// The node that acknowledged last.
    pub fn node(&self) -> Option<usize> {
        self.lock().node
    }

    /// How long nobody was acknowledged by now.
    pub fn quiet(&self) -> Duration {
        self.lock().last.elapsed()
    }

    /// Looks from now on.
    pub fn begin(&self) {
        let mut inner = self.lock();
        (inner.pause, inner.elsewhere) = (Duration::ZERO, None);
        inner.rooms.iter_mut().for_each(|room| room.pause = Duration::ZERO);
    }

    /// From now on that node can acknowledge nothing.
    pub fn look_past(&self, node: usize) {
        self.lock().elsewhere.get_or_insert((node, Instant::now(), None));
    }

    /// What was seen since.
    pub fn pauses(&self) -> Pauses {
        let inner = self.lock();
        let room = inner.rooms.iter().map(|room| room.pause.max(room.last.elapsed())).max().unwrap_or_default();
        let elsewhere = inner.elsewhere.and_then(|(_, since, first)| Some(first? - since));
        Pauses { all: inner.pause.max(inner.last.elapsed()), room, elsewhere }
    }

    /// Which rooms took no post that was sent behind that moment, and which readers were shown nothing behind it.
    pub fn waiting(&self, since: Instant) -> (Vec<usize>, Vec<usize>) {
        let inner = self.lock();
        let rooms = (0..inner.rooms.len()).filter(|&room| inner.rooms[room].sent < since).collect();
        let since_ms = since.saturating_duration_since(self.began).as_millis() as u64;
        let readers =
            (0..self.shown_ms.len()).filter(|&reader| self.shown_ms[reader].load(Relaxed) <= since_ms).collect();
        (rooms, readers)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Whoever panics with it panics for all.
        self.inner.lock().expect("no panic")
    }
}
