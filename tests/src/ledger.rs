//! What was posted, acknowledged and shown, and the judgement whether the history of a server holds it.
//!
//! The history is taken in as an independent reader fetched it, page by page and only ever its new part; [`judge`]
//! then looks for everything that was promised since it looked last. [`read_again`] forgets what was read, so that the
//! whole is fetched and judged once more. Nothing here talks to a server: `audit.rs` does.
//!
//! [`judge`]: Ledger::judge
//! [`read_again`]: Ledger::read_again

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use serde_json::Value;

use crate::seeded::Seeded;

/// A place in a room's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The history that the sequence belongs to.
    pub epoch: u64,
    /// The message's sequence in it.
    pub sequence: u64,
}

/// What came of a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing, and so it may have landed once or not at all.
    Missing,
    /// It landed there.
    Posted(Place),
    /// It was refused with that code.
    Refused(String),
}

/// One post that was sent. Its body and its key follow from its id.
#[derive(Clone, Debug)]
pub struct Post {
    /// Unique in the ledger; ascending in the order in which a writer sent its posts.
    pub id: u64,
    /// The room, by number.
    pub room: usize,
    /// The writer, by number.
    pub writer: usize,
    /// Whether it had a key.
    pub keyed: bool,
    /// What came of it.
    pub answer: Answer,
    /// Whether it was sent a second time, behind later ones, so that its place says nothing about their order.
    pub repeated: bool,
    /// When it was sent first.
    pub sent_at: Instant,
    /// When its answer was read.
    pub answered_at: Option<Instant>,
}

/// A message that a live member was shown.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// The room, by number.
    pub room: usize,
    /// Where the member was told that it stands.
    pub place: Place,
    /// The post whose body it was.
    pub id: u64,
}

/// How the bodies of a run are made: unique, of many lengths, and no part of one is like a part of another.
#[derive(Clone, Copy, Debug)]
pub struct Bodies {
    /// Bodies of another seed are strangers.
    pub seed: u64,
    /// The largest of them.
    pub bytes_max: usize,
}

impl Bodies {
    /// The text of a post's body.
    pub fn text(self, id: u64) -> String {
        let mut text = format!("{:x}.{id}.", self.seed);
        let mut chance = Seeded::new(self.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Most are small, as chat is; some span several blocks of a log.
        let bytes_max = if chance.once_in(16) { self.bytes_max } else { self.bytes_max.min(300) };
        let bytes = text.len() + chance.below(bytes_max.saturating_sub(text.len()).max(1));
        while text.len() < bytes {
            text.push_str(&format!("{:016x}", chance.number()));
        }
        text.truncate(bytes.max(1));
        text
    }

    /// The post that a body belongs to, if it is one of this run and whole.
    pub fn id(self, text: &str) -> Option<u64> {
        let (seed, rest) = text.split_once('.')?;
        let id = rest.split_once('.')?.0.parse().ok()?;
        (u64::from_str_radix(seed, 16) == Ok(self.seed) && self.text(id) == text).then_some(id)
    }
}

/// A room's name, as all of these tools number their rooms.
pub fn room_name(room: usize) -> String {
    format!("room-{room}")
}

/// A writer's user name.
pub fn writer_name(writer: usize) -> String {
    format!("writer-{writer}")
}

/// A post's key.
pub fn key_of(id: u64) -> String {
    format!("key-{id}")
}

/// What a server may have done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Acknowledged, and not in the history.
    Lost,
    /// In the history, or shown, more than once; or a key that was forgotten.
    Repeated,
    /// At another place than was said, against the order of sending, or with a hole in the sequences.
    Reordered,
    /// A live member was shown it, and the history has not got it there.
    ShownAndLost,
    /// A message that nobody posted so: other bytes, another user or key.
    Altered,
    /// A room began a new epoch.
    EpochChanged,
    /// Acknowledged although it was sent after the log had failed.
    PostedAfterFailure,
    /// The disk failed, and posts were not refused; or nothing was written or synced that could have failed.
    NotRefused,
    /// One place was given to two messages, by two servers that both took themselves for the room's owner.
    TwoOwners,
    /// A cursor was refused that is of the room's history.
    CursorRefused,
    /// A reader was told that messages are gone which are there, or given a page that passes over some.
    FalseGap,
}

#[derive(Default)]
struct Book {
    epoch: Option<u64>,
    /// The posts in the order of the history: the first has sequence 1.
    history: Vec<u64>,
    sequence_of: HashMap<u64, u64>,
    newest_of_writer: BTreeMap<usize, u64>,
    /// The time of the newest message that was read.
    newest_ms: u64,
}

/// Everything that was promised, everything that was read, and every fault that was found.
pub struct Ledger {
    /// How its bodies are made.
    pub bodies: Bodies,
    posts: BTreeMap<u64, Post>,
    shown: Vec<Shown>,
    books: Vec<Book>,
    unjudged: Vec<u64>,
    shown_judged: usize,
    faults: BTreeSet<(Fault, String)>,
}

impl Ledger {
    /// An empty one for that many rooms.
    pub fn new(rooms: usize, bodies: Bodies) -> Self {
        let books = (0..rooms).map(|_| Book::default()).collect();
        let (posts, shown, faults) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Ledger { bodies, posts, shown, books, unjudged: Vec::new(), shown_judged: 0, faults }
    }

    /// How many rooms there are.
    pub fn rooms(&self) -> usize {
        self.books.len()
    }

    /// An id above all that were recorded.
    pub fn next_id(&self) -> u64 {
        self.posts.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    /// All posts.
    pub fn posts(&self) -> impl Iterator<Item = &Post> {
        self.posts.values()
    }

    /// Notes what was sent and what was answered; a post that is known already gets its newer answer.
    pub fn record(&mut self, posts: Vec<Post>) {
        for post in posts {
            self.unjudged.push(post.id);
            self.posts.insert(post.id, post);
        }
    }

    /// Notes what one live member was shown, in the order in which it came.
    pub fn record_shown(&mut self, shown: Vec<Shown>) {
        let mut newest = BTreeMap::new();
        for message in shown {
            let sequence = message.place.sequence;
            match newest.insert(message.room, sequence) {
                Some(before) if sequence <= before => self.add(Fault::Repeated, format!("shown twice: {message:?}")),
                Some(before) if sequence > before + 1 => {
                    self.add(Fault::Reordered, format!("shown next after {before}: {message:?}"));
                }
                _ => {}
            }
            self.shown.push(message);
        }
    }

    /// A writer's keyed posts that were never answered, oldest first.
    pub fn unanswered(&self, writer: usize) -> Vec<Post> {
        let of_writer = |post: &&Post| post.writer == writer && post.keyed && post.answer == Answer::Missing;
        self.posts().filter(of_writer).cloned().collect()
    }

    /// A writer's newest keyed posts that were acknowledged.
    pub fn newest_acknowledged(&self, writer: usize, count: usize) -> Vec<Post> {
        let of_writer = |post: &&Post| {
            post.writer == writer && post.keyed && !post.repeated && matches!(post.answer, Answer::Posted(_))
        };
        self.posts.values().rev().filter(of_writer).take(count).cloned().collect()
    }

    /// The newest sequence of a room that was read.
    pub fn read_up_to(&self, room: usize) -> u64 {
        self.books[room].history.len() as u64
    }

    /// Takes in a page that was fetched behind [`Ledger::read_up_to`]. True if the room's history began anew, and has to
    /// be read from its start.
    pub fn take_page(&mut self, room: usize, page: &Value) -> bool {
        let epoch = number(&page["epoch"]);
        let messages = page["messages"].as_array().expect("a page has messages");
        let book = &mut self.books[room];
        if book.epoch.is_some_and(|known| known != epoch) && (!messages.is_empty() || !book.history.is_empty()) {
            let was = book.epoch.replace(epoch);
            self.forget(room);
            self.add(Fault::EpochChanged, format!("{}: {was:?}, now {epoch}", room_name(room)));
            return true;
        }
        if !messages.is_empty() {
            book.epoch = Some(epoch);
        }
        messages.iter().for_each(|message| self.take_message(room, message));
        false
    }

    fn take_message(&mut self, room: usize, message: &Value) {
        let (expected, sequence) = (self.read_up_to(room) + 1, number(&message["sequence"]));
        if sequence != expected {
            self.add(Fault::Reordered, format!("{}: {sequence} in the place of {expected}", room_name(room)));
        }
        let time_ms = number(&message["time_ms"]);
        let before_ms = std::mem::replace(&mut self.books[room].newest_ms, time_ms);
        if time_ms < before_ms {
            self.add(Fault::Reordered, format!("{} {sequence}: {time_ms} ms behind {before_ms}", room_name(room)));
        }
        let id = message["body"].as_str().and_then(|text| self.bodies.id(text));
        let post = id.and_then(|id| self.posts.get(&id)).filter(|post| is_of(post, room, message)).cloned();
        let book = &mut self.books[room];
        // A stranger takes its place too, or else all behind it would seem moved.
        book.history.push(post.as_ref().map_or(0, |post| post.id));
        let Some(post) = post else {
            self.add(Fault::Altered, format!("{} {sequence}: {message}", room_name(room)));
            return;
        };
        let twice = book.sequence_of.insert(post.id, sequence);
        let newer = if post.repeated { None } else { book.newest_of_writer.insert(post.writer, post.id) };
        if let Some(first) = twice {
            self.add(Fault::Repeated, format!("{} {first} and {sequence}: post {}", room_name(room), post.id));
        } else if newer.is_some_and(|newer| newer > post.id) {
            self.add(Fault::Reordered, format!("{} {sequence}: {} behind {newer:?}", room_name(room), post.id));
        }
    }

    /// Compares a room's head with what was read: a shorter history has lost its end.
    pub fn check_head(&mut self, room: usize, head: u64) {
        let read = self.read_up_to(room);
        if head < read {
            self.add(Fault::Lost, format!("{}: the head is {head} and was {read}", room_name(room)));
            self.forget(room);
        } else if head > read {
            self.add(Fault::Lost, format!("{}: the head is {head}, and {read} could be read", room_name(room)));
        }
    }

    fn forget(&mut self, room: usize) {
        self.books[room] = Book { epoch: self.books[room].epoch, ..Book::default() };
        self.unjudged = self.posts.keys().copied().collect();
        self.shown_judged = 0;
    }

    /// Forgets everything that was read, and judges all of it again.
    pub fn read_again(&mut self) {
        (0..self.rooms()).for_each(|room| self.forget(room));
    }

    /// Looks for everything that was acknowledged or shown since it was called last, once the history is read to its head.
    pub fn judge(&mut self) {
        for id in std::mem::take(&mut self.unjudged) {
            let post = &self.posts[&id];
            if let Answer::Posted(place) = post.answer
                && let Some(fault) = self.missing(post.room, id, place)
            {
                let text = format!("{} {place:?}: post {id} of {}", room_name(post.room), writer_name(post.writer));
                self.add(fault, text);
            }
        }
        for at in std::mem::replace(&mut self.shown_judged, self.shown.len())..self.shown.len() {
            let shown = self.shown[at];
            if self.missing(shown.room, shown.id, shown.place).is_some() {
                self.add(Fault::ShownAndLost, format!("{shown:?}"));
            }
        }
    }

    /// Looks for places that were told of two messages, in acknowledgements or to readers, whatever the history says.
    pub fn judge_owners(&mut self) {
        let posted = self.posts.values().filter_map(|post| match post.answer {
            Answer::Posted(place) => Some((post.room, place, post.id)),
            _ => None,
        });
        let told = posted.chain(self.shown.iter().map(|shown| (shown.room, shown.place, shown.id)));
        let (mut ids, mut twice) = (HashMap::new(), Vec::new());
        for (room, place, id) in told {
            let first = *ids.entry((room, place.epoch, place.sequence)).or_insert(id);
            if first != id {
                twice.push(format!("{} {place:?}: posts {first} and {id}", room_name(room)));
            }
        }
        twice.into_iter().for_each(|what| self.add(Fault::TwoOwners, what));
    }

    /// A log failed at that time, under the load that was recorded last: whatever was sent later is not to be acknowledged.
    pub fn judge_failure(&mut self, failed_at: Instant) {
        let later = |post: &&Post| post.sent_at > failed_at && matches!(post.answer, Answer::Posted(_));
        let wrong: Vec<String> = self.posts().filter(later).map(|post| format!("post {}", post.id)).collect();
        wrong.into_iter().for_each(|what| self.add(Fault::PostedAfterFailure, what));
    }

    /// Under the load that was recorded last something failed from that time on which no server could have noticed:
    /// what was answered and shown then is no promise.
    pub fn excuse(&mut self, since: Instant) {
        for post in self.posts.values_mut().filter(|post| post.answered_at.is_some_and(|at| at >= since)) {
            post.answer = Answer::Missing;
        }
        self.shown.truncate(self.shown_judged);
    }

    fn missing(&self, room: usize, id: u64, place: Place) -> Option<Fault> {
        let book = &self.books[room];
        let found = book.sequence_of.get(&id);
        match found {
            Some(&sequence) if sequence == place.sequence && book.epoch == Some(place.epoch) => None,
            Some(_) => Some(Fault::Reordered),
            None => Some(Fault::Lost),
        }
    }

    /// Notes a fault; the same one counts once.
    pub fn add(&mut self, fault: Fault, what: String) {
        self.faults.insert((fault, what));
    }

    /// Every fault so far, worst first.
    pub fn faults(&self) -> impl Iterator<Item = &(Fault, String)> {
        self.faults.iter()
    }

    /// How often that was found.
    pub fn count(&self, fault: Fault) -> usize {
        self.faults.iter().filter(|(found, _)| *found == fault).count()
    }

    /// How many messages were shown live.
    pub fn shown_count(&self) -> usize {
        self.shown.len()
    }
}

fn is_of(post: &Post, room: usize, message: &Value) -> bool {
    let key = post.keyed.then(|| key_of(post.id));
    post.room == room
        && message["user"] == writer_name(post.writer).as_str()
        && message.get("key").and_then(Value::as_str) == key.as_deref()
}

/// A number of an event.
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
