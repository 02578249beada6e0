//! Clients that read history from its first message on, by catching up and page by page, and see that nothing is passed
//! over while the server's disk gives them trouble. A reading may be refused, with the time when to ask again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ledger::{Bodies, Fault, Ledger, Place, Shown, number, room_name};
use crate::seeded::Seeded;
use crate::wire_client::{Form, WireClient};

/// Messages that one page is asked for.
const PAGE_MESSAGES: u64 = 40;
/// Pages between two times that a reader catches up.
const PAGES: usize = 10;
/// A reader's rest behind a refusal at most, so that it asks often.
const REFUSED_REST_MAX_MS: u64 = 50;

/// What the readers have met so far.
#[derive(Debug, Default)]
pub struct ReadProgress {
    pages: AtomicU64,
    caught_up: AtomicU64,
    refused: AtomicU64,
}

impl ReadProgress {
    /// Readings that were answered, also with a refusal.
    pub fn readings(&self) -> u64 {
        [&self.pages, &self.caught_up, &self.refused].iter().map(|count| count.load(Relaxed)).sum()
    }
}

/// Readers at work.
pub struct DeepReaders {
    threads: Vec<JoinHandle<Found>>,
    stop: Arc<AtomicBool>,
    /// What they have met so far.
    pub progress: Arc<ReadProgress>,
}

/// What a reader saw.
#[derive(Default)]
struct Found {
    faults: Vec<(Fault, String)>,
    /// What it was shown each time that it caught up.
    shown: Vec<Vec<Shown>>,
}

/// A room as it was when the readers began.
#[derive(Clone, Copy, Debug)]
struct Known {
    epoch: u64,
    head: u64,
}

impl DeepReaders {
    /// Starts one in each wire form.
    pub fn start(address: SocketAddr, ledger: &Ledger, seed: u64) -> Self {
        let (stop, progress) = (Arc::<AtomicBool>::default(), Arc::<ReadProgress>::default());
        let mut client = WireClient::hello(address, Form::Json, "surveyor");
        let known = (0..ledger.rooms()).map(|room| {
            let joined = client.join(&room_name(room));
            Known { epoch: number(&joined["epoch"]), head: number(&joined["sequence"]) }
        });
        let rooms: Vec<Known> = known.collect();
        let threads = Form::ALL.iter().zip(1..).map(|(&form, at)| {
            let (stop, progress) = (Arc::clone(&stop), Arc::clone(&progress));
            let chance = Seeded::new(seed ^ at);
            let (rooms, bodies, found) = (rooms.clone(), ledger.bodies, Found::default());
            let reader = Reader { address, form, rooms, bodies, chance, stop, progress, found };
            std::thread::spawn(move || reader.read())
        });
        let threads = threads.collect();
        DeepReaders { threads, stop, progress }
    }

    /// Lets each end what it reads, notes what they saw, and gives counts by their names.
    pub fn stop(self, ledger: &mut Ledger) -> [(&'static str, u64); 3] {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            let found = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            found.faults.into_iter().for_each(|(fault, what)| ledger.add(fault, what));
            found.shown.into_iter().for_each(|shown| ledger.record_shown(shown));
        }
        let counts = [
            ("deep pages", &self.progress.pages),
            ("times caught up", &self.progress.caught_up),
            ("readings refused", &self.progress.refused),
        ];
        counts.map(|(name, count)| (name, count.load(Relaxed)))
    }
}

struct Reader {
    address: SocketAddr,
    form: Form,
    rooms: Vec<Known>,
    bodies: Bodies,
    chance: Seeded,
    stop: Arc<AtomicBool>,
    progress: Arc<ReadProgress>,
    found: Found,
}

impl Reader {
    fn read(mut self) -> Found {
        while !self.stop.load(Relaxed) {
            let room = self.chance.below(self.rooms.len());
            self.catch_up(room);
            let mut client = WireClient::hello(self.address, self.form, "reader");
            for _ in 0..PAGES {
                let room = self.chance.below(self.rooms.len());
                self.fetch(&mut client, room);
            }
        }
        self.found
    }

    fn note(&mut self, fault: Fault, room: usize, what: String) {
        self.found.faults.push((fault, format!("{}: {what}", room_name(room))));
    }

    /// Whether an answer is a refusal; waits as it says.
    fn is_refused(&mut self, room: usize, answer: &Value) -> bool {
        if answer["type"] != "error" {
            return false;
        }
        self.progress.refused.fetch_add(1, Relaxed);
        match answer["retry_after_ms"].as_u64() {
            Some(rest_ms) => std::thread::sleep(Duration::from_millis(rest_ms.min(REFUSED_REST_MAX_MS))),
            None => self.note(Fault::NotRefused, room, format!("without retry_after_ms: {answer}")),
        }
        true
    }

    /// Reads live from the first message on, to where the room was when the readers began.
    fn catch_up(&mut self, room: usize) {
        let Known { epoch, head } = self.rooms[room];
        let mut client = WireClient::hello(self.address, self.form, "catcher");
        let after = json!({"epoch": epoch, "sequence": 0});
        let joined = client.ask(json!({"type": "join", "room": room_name(room), "after": after}));
        if self.is_refused(room, &joined) {
            return;
        }
        if number(&joined["epoch"]) != epoch {
            return self.note(Fault::EpochChanged, room, format!("was {epoch}: {joined}"));
        }
        let (mut shown, mut last) = (Vec::new(), 0);
        while last < head {
            let event = client.next_event();
            match event["type"].as_str() {
                Some("message") => {
                    last = number(&event["sequence"]);
                    let id = event["body"].as_str().and_then(|text| self.bodies.id(text)).unwrap_or(0);
                    shown.push(Shown { room, place: Place { epoch: number(&event["epoch"]), sequence: last }, id });
                }
                Some("gap") => {
                    self.note(Fault::FalseGap, room, event.to_string());
                    last = number(&event["to"]);
                }
                _ => {}
            }
        }
        self.found.shown.push(shown);
        self.progress.caught_up.fetch_add(1, Relaxed);
    }

    /// Fetches one page from any place.
    fn fetch(&mut self, client: &mut WireClient, room: usize) {
        let Known { epoch, head } = self.rooms[room];
        let after = self.chance.below(head as usize) as u64;
        let ask = json!({"type": "fetch", "room": room_name(room), "after": after, "limit": PAGE_MESSAGES});
        let page = client.ask(ask);
        if self.is_refused(room, &page) {
            return;
        }
        let places = page["messages"].as_array().map(|messages| messages.iter().map(|message| &message["sequence"]));
        let places: Vec<u64> = places.into_iter().flatten().map(number).collect();
        if number(&page["epoch"]) != epoch {
            self.note(Fault::EpochChanged, room, format!("was {epoch}, and a page says {}", page["epoch"]));
        } else if !places.iter().copied().eq(after + 1..=after + places.len() as u64) {
            self.note(Fault::FalseGap, room, format!("the page behind {after} holds {places:?}"));
        } else if places.is_empty() && after < head {
            self.note(Fault::FalseGap, room, format!("the page behind {after} is empty, and the head is {head}"));
        }
        self.progress.pages.fetch_add(1, Relaxed);
    }
}
