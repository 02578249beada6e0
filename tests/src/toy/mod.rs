//! A small server whose log can be made wrong on purpose: a judge that finds none of its mistakes is worth nothing.
//!
//! It speaks the protocol as far as the judges do, with a thread for each connection and a lock over everything. Every post
//! is a commit of its own.

mod connection;
mod log;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::{Event, Message};
use banter_protocol::ids::{Epoch, Sequence};
use banter_protocol::request::{Body, BodyFormat, FetchFrom};

use self::connection::Out;
use self::log::{Log, Record};

/// What it may do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mistake {
    /// Nothing.
    None,
    /// Acknowledges without a sync.
    NoSync,
    /// Takes a failed sync for a good one.
    IgnoresSyncError,
    /// Syncs again after a failed sync, and believes it.
    RetriesSync,
    /// Takes a short write for a whole one.
    IgnoresShortWrite,
    /// Never syncs the folder of its segments.
    NoFolderSync,
    /// Forgets keys when it ends.
    ForgetsKeys,
    /// Loses the newest records at a start.
    LosesNewest,
    /// Shows a message before it is durable.
    ShowsEarly,
    /// Goes on refusing once the disk was full.
    StaysFull,
    /// Takes what it cannot read for gone, until it is started again.
    GivesUpOnRead,
}

struct Member {
    out: Arc<Out>,
    user: String,
    echo: bool,
}

#[derive(Default)]
struct Room {
    messages: Vec<Record>,
    keys: BTreeMap<(String, String), u64>,
    members: Vec<Member>,
    /// Messages that it has given up.
    given_up: u64,
}

/// All rooms, and their log.
struct World {
    rooms: BTreeMap<String, Room>,
    log: Log,
    mistake: Mistake,
}

/// The history never begins anew, or else the judge is to find it.
const EPOCH: Epoch = Epoch(77);
const RETRY_AFTER_MS: u64 = 100;

/// Serves until the process ends.
///
/// # Panics
/// When the data folder cannot be used.
pub fn serve(data: &Path, mistake: Mistake) {
    let (log, records) = Log::open(data, mistake);
    let mut world = World { rooms: BTreeMap::new(), log, mistake };
    for record in records {
        world.keep(record, mistake != Mistake::ForgetsKeys);
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    println!("listening on {}", listener.local_addr().expect("an address"));
    let world = Arc::new(Mutex::new(world));
    for stream in listener.incoming().map_while(Result::ok) {
        let world = Arc::clone(&world);
        std::thread::spawn(move || connection::serve(stream, &world));
    }
}

impl World {
    fn keep(&mut self, record: Record, with_key: bool) -> u64 {
        let room = self.rooms.entry(record.room.clone()).or_default();
        let sequence = room.messages.len() as u64 + 1;
        if let (Some(key), true) = (record.key.clone(), with_key) {
            room.keys.insert((record.user.clone(), key), sequence);
        }
        room.messages.push(record);
        sequence
    }

    /// Whether history can be read now.
    fn can_read(&mut self, room: &str) -> bool {
        let is_read = self.log.read_through().is_ok();
        let gives_up = !is_read && self.mistake == Mistake::GivesUpOnRead;
        if let Some(room) = self.rooms.get_mut(room).filter(|_| gives_up) {
            room.given_up = room.messages.len() as u64 / 2;
        }
        is_read || gives_up
    }

    /// Joins, and shows what is behind `after`, if that was said.
    fn join(&mut self, id: Option<u64>, room: &str, member: Member, after: Option<u64>) {
        let out = Arc::clone(&member.out);
        if after.is_some() && !self.can_read(room) {
            return out.send(&put_off(id));
        }
        let of_name = self.rooms.entry(room.to_owned()).or_default();
        of_name.members.retain(|member| !Arc::ptr_eq(&member.out, &out));
        of_name.members.push(member);
        let (sequence, members) = (Sequence(of_name.messages.len() as u64), of_name.members.len() as u64);
        out.send(&Event::Joined { id, room, epoch: EPOCH, sequence, members, durability: "synced" });
        if let Some(after) = after {
            of_name.catch_up(room, after, &out);
        }
    }

    fn post(&mut self, id: Option<u64>, record: Record, out: &Arc<Out>) {
        let room = self.rooms.entry(record.room.clone()).or_default();
        let known = record.key.clone().and_then(|key| room.keys.get(&(record.user.clone(), key)).copied());
        if let Some(sequence) = known {
            out.send(&posted(id, &record, sequence, true));
            return;
        }
        let next = room.messages.len() as u64 + 1;
        if self.mistake == Mistake::ShowsEarly {
            room.show(&record, next, out);
        }
        if let Err(code) = self.log.append(&record) {
            let retry_after_ms = (code == ErrorCode::LogFull).then_some(RETRY_AFTER_MS);
            out.send(&Event::Error { id, code, message: "the log says no", retry_after_ms, scope: None, reason: None });
            return;
        }
        let sequence = self.keep(record.clone(), true);
        out.send(&posted(id, &record, sequence, false));
        if self.mistake != Mistake::ShowsEarly {
            self.rooms[&record.room].show(&record, sequence, out);
        }
    }

    fn fetch(&mut self, id: Option<u64>, room: &str, from: FetchFrom, limit: Option<u64>, out: &Out) {
        let FetchFrom::After(Sequence(after)) = from else { panic!("the judges fetch what is behind a sequence") };
        if !self.can_read(room) {
            return out.send(&put_off(id));
        }
        let after = self.rooms.get(room).map_or(after, |room| after.max(room.given_up));
        let messages = self.rooms.get(room).map_or(&[][..], |room| &room.messages);
        let wanted = messages.iter().zip(1..).skip(after as usize).take(limit.unwrap_or(100) as usize);
        let mut frames = Vec::new();
        let count = wanted
            .map(|(record, sequence)| banter_protocol::native::write_message(&record.message(sequence), &mut frames))
            .count() as u64;
        let more = after + count < messages.len() as u64;
        out.send(&Event::Page { id, room, epoch: EPOCH, messages: &frames, more });
    }

    fn signal(&self, room: &str, user: &str, body: &[u8], out: &Arc<Out>) {
        let event = Event::Signal { room, user, body: Body { format: BodyFormat::Json, bytes: body } };
        let others = self.rooms[room].members.iter().filter(|member| !Arc::ptr_eq(&member.out, out));
        others.for_each(|member| member.out.send(&event));
    }

    fn tell_members(&self, id: Option<u64>, room: &str, out: &Out) {
        let members = self.rooms.get(room).map_or(&[][..], |room| &room.members);
        let users: String = members.iter().map(|member| format!("{}\n", member.user)).collect();
        out.send(&Event::Members { id, room, count: members.len() as u64, users: &users });
    }

    fn forget(&mut self, out: &Arc<Out>) {
        self.rooms.values_mut().for_each(|room| room.members.retain(|member| !Arc::ptr_eq(&member.out, out)));
    }
}

impl Room {
    fn catch_up(&self, room: &str, after: u64, out: &Out) {
        if after < self.given_up {
            let (from, to) = (Sequence(after + 1), Sequence(self.given_up));
            out.send(&Event::Gap { room, epoch: EPOCH, from, to });
        }
        let behind = self.messages.iter().zip(1..).skip(after.max(self.given_up) as usize);
        behind.for_each(|(record, sequence)| out.send(&Event::Message(record.message(sequence))));
    }

    fn show(&self, record: &Record, sequence: u64, from: &Arc<Out>) {
        let event = Event::Message(record.message(sequence));
        let readers = self.members.iter().filter(|member| member.echo || !Arc::ptr_eq(&member.out, from));
        readers.for_each(|member| member.out.send(&event));
    }
}

impl Record {
    fn message(&self, sequence: u64) -> Message<'_> {
        let body = Body { format: BodyFormat::Json, bytes: self.body.as_bytes() };
        let (sequence, key) = (Sequence(sequence), self.key.as_deref());
        Message { epoch: EPOCH, sequence, time_ms: 1, room: &self.room, user: &self.user, key, body }
    }
}

fn put_off(id: Option<u64>) -> Event<'static> {
    let (code, retry_after_ms) = (ErrorCode::Overloaded, Some(RETRY_AFTER_MS));
    Event::Error { id, code, message: "the log cannot be read now", retry_after_ms, scope: None, reason: None }
}

fn posted(id: Option<u64>, record: &Record, sequence: u64, duplicate: bool) -> Event<'_> {
    Event::Posted { id, room: &record.room, epoch: EPOCH, sequence: Sequence(sequence), time_ms: 1, duplicate }
}
