//! A reader: reads rooms live, comes back by its cursors, and takes nothing but the next message of each room.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::visitor::{SILENCE_MAX, Visitor};
use super::writer::Shared;
use crate::ledger::{Bodies, Fault, Place, Shown, number, room_name};

/// Behind that much silence a node is asked whether it is there.
const PING_BEHIND: Duration = Duration::from_secs(1);
/// The rest behind a join that was refused.
const RETRY: Duration = Duration::from_millis(200);

/// Everything that a reader was shown, and what it met.
pub struct ReadOf {
    /// The messages, in the order in which they came.
    pub shown: Vec<Shown>,
    /// How far each room was read.
    pub ends: BTreeMap<usize, u64>,
    /// What no server may say.
    pub faults: Vec<(Fault, String)>,
    /// Joins that went on behind a cursor.
    pub resumed: u64,
    /// Refusals of a join by code.
    pub refused: BTreeMap<String, u64>,
    /// Connections that were lost or not made.
    pub turned_away: u64,
}

/// One that reads.
pub struct Reader {
    number: usize,
    visitor: Visitor,
    bodies: Bodies,
    shared: Arc<Shared>,
    /// Its rooms: how far each is read, once it was joined.
    rooms: BTreeMap<usize, Option<Place>>,
    /// Joins that are to be sent.
    due: BTreeMap<usize, Instant>,
    /// Rooms that are read on this connection.
    joined: Vec<usize>,
    has_asked: bool,
    read: ReadOf,
}

impl Reader {
    /// One that is about to.
    pub fn new(number: usize, rooms: &[usize], visitor: Visitor, bodies: Bodies, shared: Arc<Shared>) -> Self {
        let rooms = rooms.iter().map(|&room| (room, None)).collect();
        let (shown, faults, refused) = (Vec::new(), Vec::new(), BTreeMap::new());
        let read = ReadOf { shown, ends: BTreeMap::new(), faults, resumed: 0, refused, turned_away: 0 };
        let (due, joined) = (BTreeMap::new(), Vec::new());
        Reader { number, visitor, bodies, shared, rooms, due, joined, has_asked: false, read }
    }

    /// Reads until it is told to give up.
    pub fn read(mut self) -> ReadOf {
        while !self.shared.abandon.load(Relaxed) {
            if !self.visitor.is_connected() && !self.connect() {
                continue;
            }
            self.join_due();
            match self.visitor.next() {
                Some(event) => {
                    self.has_asked = false;
                    self.take(&event);
                }
                None => self.look_at_silence(),
            }
        }
        let ends = self.rooms.iter().map(|(&room, place)| (room, place.map_or(0, |place| place.sequence)));
        self.read.ends = ends.collect();
        self.read.turned_away = self.visitor.turned_away;
        self.read
    }

    fn connect(&mut self) -> bool {
        self.has_asked = false;
        self.joined.clear();
        let now = Instant::now();
        self.due = self.rooms.keys().map(|&room| (room, now)).collect();
        self.visitor.connect()
    }

    fn join_due(&mut self) {
        let now = Instant::now();
        let due: Vec<usize> = self.due.iter().filter(|(_, due)| **due <= now).map(|(room, _)| *room).collect();
        for room in due {
            self.due.remove(&room);
            // A room's number and one more, since an id of 0 is none.
            let mut join = json!({"type": "join", "id": room + 1, "room": room_name(room)});
            if let Some(Place { epoch, sequence }) = self.rooms[&room] {
                join["after"] = json!({"epoch": epoch, "sequence": sequence});
            }
            if !self.visitor.send(&join.to_string()) {
                return;
            }
        }
    }

    fn look_at_silence(&mut self) {
        let silence = self.visitor.silence();
        if silence > SILENCE_MAX {
            self.visitor.leave();
        } else if silence > PING_BEHIND && !std::mem::replace(&mut self.has_asked, true) {
            let _ = self.visitor.send(r#"{"type":"ping","id":1000000}"#);
        }
    }

    fn take(&mut self, event: &Value) {
        let room = event["room"].as_str().and_then(|name| name.strip_prefix("room-")?.parse().ok());
        match (event["type"].as_str(), room) {
            (Some("joined"), Some(room)) => self.take_joined(room, event),
            (Some("message"), Some(room)) => self.take_message(room, event),
            (Some("gap"), _) => self.fault(Fault::FalseGap, event),
            (Some("error"), _) => self.take_refusal(event),
            _ => {}
        }
    }

    fn take_joined(&mut self, room: usize, event: &Value) {
        self.joined.push(room);
        let cursor = self.rooms.get_mut(&room).expect("a room of this reader");
        if cursor.is_some() {
            self.read.resumed += 1;
        } else {
            *cursor = Some(Place { epoch: number(&event["epoch"]), sequence: number(&event["sequence"]) });
        }
    }

    fn take_message(&mut self, room: usize, event: &Value) {
        let place = Place { epoch: number(&event["epoch"]), sequence: number(&event["sequence"]) };
        let cursor = self.rooms.get_mut(&room).expect("a room of this reader");
        let before = cursor.replace(place);
        if !self.joined.contains(&room) {
            self.fault(Fault::Reordered, &format!("{} was not joined: {event}", room_name(room)));
        }
        // Whether each is the next one, once, is the ledger's to judge.
        if let Some(before) = before.filter(|before| before.epoch != place.epoch) {
            self.fault(Fault::EpochChanged, &format!("behind {before:?}: {event}"));
        }
        // Bytes that nobody sent have no id, and are then found nowhere.
        let id = event["body"].as_str().and_then(|text| self.bodies.id(text)).unwrap_or(0);
        self.read.shown.push(Shown { room, place, id });
        self.shared.acks.shown(self.number);
    }

    fn take_refusal(&mut self, event: &Value) {
        let code = event["code"].as_str().unwrap_or_default();
        *self.read.refused.entry(code.to_owned()).or_default() += 1;
        let Some(room) = event["id"].as_u64().and_then(|id| id.checked_sub(1)).map(|room| room as usize) else {
            return self.visitor.leave();
        };
        if code == "wrong_epoch" || code == "cursor_ahead" {
            let what = format!("{} of {:?}: {event}", room_name(room), self.rooms.get(&room));
            self.fault(Fault::CursorRefused, &what);
            self.rooms.insert(room, None);
        }
        let rest = event["retry_after_ms"].as_u64().map_or(RETRY, Duration::from_millis);
        self.due.insert(room, Instant::now() + rest);
    }

    fn fault(&mut self, fault: Fault, what: &impl ToString) {
        let what = format!("reader {} at node {}: {}", self.number, self.visitor.node(), what.to_string());
        self.read.faults.push((fault, what));
    }
}
