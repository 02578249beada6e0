//! A writer: posts with keys at an even pace, and posts again, with the same key, until each is acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::acks::Acks;
use super::visitor::{SILENCE_MAX, Visitor};
use crate::ledger::{Answer, Bodies, Post, number, room_name};
use crate::load::{answer_of, request_of};
use crate::seeded::Seeded;

/// Posts under way at most, as the documentation has it for exactly-once.
const OUTSTANDING_MAX: usize = 16;
/// The rest behind a refusal that does not say how long.
const RETRY: Duration = Duration::from_millis(200);
/// A node that cannot say for so many tries what came of a post may be cut off from the engine, and another one in its place.
const UNAVAILABLE_MAX: u32 = 2;

/// What a writer is told, and what it counts.
pub struct Shared {
    /// No new posts.
    pub stop: AtomicBool,
    /// Give up what is not acknowledged.
    pub abandon: AtomicBool,
    /// The id of the next post.
    pub next_id: AtomicU64,
    /// What is noted of acknowledgements.
    pub acks: Acks,
}

/// Everything that a writer sent, and what it met.
pub struct Written {
    /// The posts.
    pub posts: Vec<Post>,
    /// Refusals by code.
    pub refused: BTreeMap<String, u64>,
    /// Connections that were lost or not made.
    pub turned_away: u64,
    /// What no server may answer.
    pub wrong: Vec<String>,
}

/// One that writes.
pub struct Writer {
    number: usize,
    rooms: Vec<usize>,
    visitor: Visitor,
    bodies: Bodies,
    chance: Seeded,
    every: Duration,
    shared: Arc<Shared>,
    /// Posts without an answer: their ids, and each one's way.
    open: BTreeMap<u64, Open>,
    written: Written,
}

struct Open {
    /// Where it is among all posts.
    at: usize,
    send: Send,
    has_been_sent: bool,
    /// How often it was answered `unavailable`.
    unavailable: u32,
}

/// When a post was sent, or is to be.
#[derive(Clone, Copy)]
enum Send {
    Was(Instant),
    Due(Instant),
}

impl Writer {
    /// One that is about to.
    pub fn new(
        number: usize,
        rooms: Vec<usize>,
        visitor: Visitor,
        bodies: Bodies,
        every: Duration,
        shared: Arc<Shared>,
    ) -> Self {
        let chance = Seeded::new(bodies.seed ^ (number as u64 + 1));
        let (posts, refused, wrong) = (Vec::new(), BTreeMap::new(), Vec::new());
        let written = Written { posts, refused, turned_away: 0, wrong };
        Writer { number, rooms, visitor, bodies, chance, every, shared, open: BTreeMap::new(), written }
    }

    /// Writes until it is told to stop and all is acknowledged, or to give up.
    pub fn write(mut self) -> Written {
        let mut due = Instant::now();
        while !self.shared.abandon.load(Relaxed) {
            let stopped = self.shared.stop.load(Relaxed);
            if stopped && self.open.is_empty() {
                break;
            }
            if !self.visitor.is_connected() && !self.connect() {
                continue;
            }
            if !stopped && due <= Instant::now() && self.open.len() < OUTSTANDING_MAX {
                self.add();
                // What a pause kept from being sent is not made up for.
                due = (due + self.every).max(Instant::now() - self.every);
            }
            self.send_due();
            if let Some(event) = self.visitor.next() {
                self.take(&event);
            } else if !self.open.is_empty() && self.visitor.is_connected() && self.visitor.silence() > SILENCE_MAX {
                self.visitor.leave();
            }
        }
        self.written.turned_away = self.visitor.turned_away;
        self.written
    }

    fn connect(&mut self) -> bool {
        if !self.visitor.connect() {
            return false;
        }
        for &room in &self.rooms {
            let join = json!({"type": "join", "room": room_name(room), "echo": false});
            if !self.visitor.send(&join.to_string()) {
                return false;
            }
        }
        // What was under way on the old connection is sent again, in the old order.
        let now = Instant::now();
        self.open.values_mut().for_each(|open| open.send = Send::Due(now));
        true
    }

    fn add(&mut self) {
        let id = self.shared.next_id.fetch_add(1, Relaxed);
        let room = *self.chance.pick(&self.rooms);
        let (answer, sent_at) = (Answer::Missing, Instant::now());
        self.open.insert(
            id,
            Open { at: self.written.posts.len(), send: Send::Due(sent_at), has_been_sent: false, unavailable: 0 },
        );
        let post =
            Post { id, room, writer: self.number, keyed: true, answer, repeated: false, sent_at, answered_at: None };
        self.written.posts.push(post);
    }

    fn send_due(&mut self) {
        let now = Instant::now();
        for open in self.open.values_mut() {
            let Send::Due(due) = open.send else { continue };
            if due > now {
                continue;
            }
            let post = &mut self.written.posts[open.at];
            post.repeated |= open.has_been_sent;
            open.has_been_sent = true;
            open.send = Send::Was(now);
            if !self.visitor.send(&request_of(post, self.bodies)) {
                return;
            }
        }
    }

    fn take(&mut self, event: &Value) {
        let kind = event["type"].as_str().unwrap_or_default();
        if kind == "error" && event["id"].is_null() {
            *self.written.refused.entry(format!("{} of a room", event["code"])).or_default() += 1;
            // A join that was refused, most likely: what follows it would be refused too.
            self.visitor.leave();
            return;
        }
        if kind != "posted" && kind != "error" {
            return;
        }
        let id = number(&event["id"]);
        let Some(open) = self.open.get_mut(&id) else {
            self.written.wrong.push(format!("an answer to post {id}, which waits for none: {event}"));
            return;
        };
        match answer_of(event) {
            Answer::Refused(code) => {
                let rest = event["retry_after_ms"].as_u64().map_or(RETRY, Duration::from_millis);
                open.send = Send::Due(Instant::now() + rest);
                open.unavailable += u32::from(code == "unavailable");
                *self.written.refused.entry(code).or_default() += 1;
                if open.unavailable >= UNAVAILABLE_MAX {
                    open.unavailable = 0;
                    self.visitor.leave();
                }
            }
            answer => {
                let (Send::Was(sent) | Send::Due(sent)) = open.send;
                let post = &mut self.written.posts[open.at];
                (post.answer, post.answered_at) = (answer, Some(Instant::now()));
                self.shared.acks.acknowledged(post.room, self.visitor.node(), sent);
                self.open.remove(&id);
            }
        }
    }
}
