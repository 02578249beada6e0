//! Writers with posts under way in several rooms, and a member that reads live: the load under which things fail.
//!
//! A load ends when its connections do, or when it is told to [`stop`](Load::stop); what was sent, answered and shown then
//! goes into the ledger. Every wait on a socket is bounded by the wire client's patience.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ledger::{Answer, Bodies, Ledger, Place, Post, Shown, key_of, number, room_name, writer_name};
use crate::seeded::Seeded;
use crate::wire_client::{Form, WireClient};

/// Rooms that one writer posts to.
const ROOMS_PER_WRITER: usize = 2;
/// A writer's rest between two bursts, so that a run's history stays one that can be read in seconds.
const REST_MAX: Duration = Duration::from_millis(20);
/// A writer's rest behind a refusal, below any `retry_after_ms`: it is meant to be a nuisance.
const REFUSED_REST: Duration = Duration::from_millis(5);

/// What a load is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Writers. The first never rests, so that always something is under way.
    pub writers: usize,
    /// Posts that one of them has under way at most.
    pub outstanding: usize,
    /// Posts that one of them sends at most; then it leaves.
    pub posts_max: usize,
}

/// What the load has met so far.
#[derive(Debug, Default)]
pub struct Progress {
    /// Acknowledged.
    pub posted: AtomicU64,
    /// Shown to the member.
    pub shown: AtomicU64,
    /// Refused with `log_failed`.
    pub log_failed: AtomicU64,
    /// Refused with `log_full`.
    pub log_full: AtomicU64,
    /// Refused with `log_full` and without `retry_after_ms`.
    pub no_retry_after: AtomicU64,
    /// Refused otherwise.
    pub refused_otherwise: AtomicU64,
}

impl Progress {
    fn note(&self, event: &Value) {
        let counter = match (event["type"].as_str(), event["code"].as_str()) {
            (Some("posted"), _) => &self.posted,
            (_, Some("log_failed")) => &self.log_failed,
            (_, Some("log_full")) => {
                self.no_retry_after.fetch_add(event["retry_after_ms"].is_null().into(), Relaxed);
                &self.log_full
            }
            _ => &self.refused_otherwise,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// All refusals.
    pub fn refused(&self) -> u64 {
        [&self.log_failed, &self.log_full, &self.refused_otherwise].iter().map(|count| count.load(Relaxed)).sum()
    }
}

/// A load that is under way.
pub struct Load {
    writers: Vec<JoinHandle<Vec<Post>>>,
    member: JoinHandle<Vec<Shown>>,
    streams: Vec<TcpStream>,
    member_stream: TcpStream,
    stop: Arc<AtomicBool>,
    /// What it has met so far.
    pub progress: Arc<Progress>,
}

impl Load {
    /// Connects everybody, the member first, and begins.
    pub fn start(address: SocketAddr, ledger: &Ledger, plan: Plan, seed: u64) -> Self {
        let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(Progress::default()));
        let next_id = Arc::new(AtomicU64::new(ledger.next_id()));
        let form = |number: usize| Form::ALL[(seed as usize).wrapping_add(number) % Form::ALL.len()];
        let mut member = WireClient::hello(address, form(0), "member");
        (0..ledger.rooms()).for_each(|room| drop(member.join(&room_name(room))));
        let member_stream = member.stream().try_clone().expect("a descriptor");
        let bodies = ledger.bodies;
        let watched = Arc::clone(&progress);
        let member = std::thread::spawn(move || watch(member, bodies, &watched));
        let mut streams = Vec::new();
        let writers = (0..plan.writers).map(|number| {
            let mut client = WireClient::hello(address, form(number), &writer_name(number));
            let rooms: Vec<usize> = (0..ROOMS_PER_WRITER).map(|room| (number + room * 3) % ledger.rooms()).collect();
            for &room in &rooms {
                let joined = client.ask(json!({"type": "join", "room": room_name(room), "echo": false}));
                assert_eq!(joined["type"], "joined", "{joined}");
            }
            streams.push(client.stream().try_clone().expect("a descriptor"));
            let chance = Seeded::new(seed ^ (number as u64 + 1));
            let (stop, progress, next_id) = (Arc::clone(&stop), Arc::clone(&progress), Arc::clone(&next_id));
            let (posts, open) = (Vec::new(), BTreeMap::new());
            Writer { client, number, rooms, plan, bodies, chance, next_id, stop, progress, posts, open }
        });
        let writers: Vec<Writer> = writers.collect();
        let writers = writers.into_iter().map(|writer| std::thread::spawn(move || writer.write())).collect();
        Load { writers, member, streams, member_stream, stop, progress }
    }

    /// Breaks all connections of the load, as a network would.
    pub fn cut(&self) {
        for stream in self.streams.iter().chain([&self.member_stream]) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits for the end of all connections, and notes what was sent, answered and shown.
    pub fn end(self, ledger: &mut Ledger) {
        for writer in self.writers {
            ledger.record(joined(writer));
        }
        let _ = self.member_stream.shutdown(Shutdown::Both);
        ledger.record_shown(joined(self.member));
    }

    /// Lets every post under way be answered, and then ends.
    pub fn stop(self, ledger: &mut Ledger) {
        self.stop.store(true, Relaxed);
        self.end(ledger);
    }
}

/// What a thread gave; its panic goes on.
fn joined<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reads live until the connection ends.
fn watch(mut member: WireClient, bodies: Bodies, progress: &Progress) -> Vec<Shown> {
    let mut shown = Vec::new();
    while let Some(event) = member.try_next_event() {
        if event["type"] != "message" {
            continue;
        }
        let room = event["room"].as_str().and_then(|name| name.strip_prefix("room-")?.parse().ok());
        let place = Place { epoch: number(&event["epoch"]), sequence: number(&event["sequence"]) };
        // Bytes that nobody sent have no id, and are then found nowhere.
        let id = event["body"].as_str().and_then(|text| bodies.id(text)).unwrap_or(0);
        shown.push(Shown { room: room.expect("a room of the load"), place, id });
        progress.shown.fetch_add(1, Relaxed);
    }
    shown
}

struct Writer {
    client: WireClient,
    number: usize,
    rooms: Vec<usize>,
    plan: Plan,
    bodies: Bodies,
    chance: Seeded,
    next_id: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
    posts: Vec<Post>,
    /// Posts without an answer: their ids, and where they are in `posts`.
    open: BTreeMap<u64, usize>,
}

impl Writer {
    fn write(mut self) -> Vec<Post> {
        loop {
            let stopped = self.stop.load(Relaxed) || self.posts.len() >= self.plan.posts_max;
            if stopped && self.open.is_empty() {
                return self.posts;
            }
            if !stopped && !self.fill() {
                return self.posts;
            }
            let Some(event) = self.client.try_next_event() else { return self.posts };
            if event["type"] == "posted" || event["type"] == "error" {
                self.take(&event);
            }
        }
    }

    /// Sends what may be under way; false when the connection is gone.
    fn fill(&mut self) -> bool {
        let is_hasty = self.number == 0;
        if !is_hasty && !self.open.is_empty() {
            return true;
        }
        if !is_hasty && !self.posts.is_empty() {
            std::thread::sleep(Duration::from_micros(self.chance.below(REST_MAX.as_micros() as usize) as u64));
        }
        let outstanding = if is_hasty { 2 } else { self.plan.outstanding };
        while self.open.len() < outstanding && self.posts.len() < self.plan.posts_max {
            if !self.post() {
                return false;
            }
        }
        true
    }

    fn post(&mut self) -> bool {
        let id = self.next_id.fetch_add(1, Relaxed);
        let (room, keyed) = (*self.chance.pick(&self.rooms), self.chance.once_in(2));
        // Noted ahead of the sending: of a write that failed nobody knows what arrived.
        self.open.insert(id, self.posts.len());
        let (answer, sent_at) = (Answer::Missing, Instant::now());
        let post = Post { id, room, writer: self.number, keyed, answer, repeated: false, sent_at, answered_at: None };
        let request = request_of(&post, self.bodies);
        self.posts.push(post);
        self.client.try_send(&request).is_ok()
    }

    fn take(&mut self, event: &Value) {
        self.progress.note(event);
        let at = self.open.remove(&number(&event["id"])).expect("an answer belongs to a post under way");
        self.posts[at].answer = answer_of(event);
        self.posts[at].answered_at = Some(Instant::now());
        if event["type"] == "error" {
            std::thread::sleep(REFUSED_REST);
        }
    }
}

/// A post as JSON text.
pub fn request_of(post: &Post, bodies: Bodies) -> String {
    let mut request =
        json!({"type": "post", "id": post.id, "room": room_name(post.room), "body": bodies.text(post.id)});
    if post.keyed {
        request["key"] = key_of(post.id).into();
    }
    request.to_string()
}

/// What an event says about a post.
///
/// # Panics
/// When it is no answer to a post.
pub fn answer_of(event: &Value) -> Answer {
    match event["type"].as_str() {
        Some("posted") => {
            Answer::Posted(Place { epoch: number(&event["epoch"]), sequence: number(&event["sequence"]) })
        }
        Some("error") => Answer::Refused(event["code"].as_str().unwrap_or_default().to_owned()),
        _ => panic!("{event} answers no post"),
    }
}
