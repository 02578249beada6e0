//! What happens with every message that comes: it is checked, timed and counted, and says when the next post is due.

use std::time::{Duration, Instant};

use crate::args::Complete;
use crate::fault::LoadFault;
use crate::fleet::Sink;
use crate::ledger::Ledger;
use crate::measure::{AllLatencies, Totals};
use crate::neighbours::streams::Streams;
use crate::opening::Joined;
use crate::posts::{BadBody, NewPost, Post, Posts, Slot};
use crate::scan::Seen;
use crate::scan_json::Openings;
use crate::seating::Seating;
use crate::verify::Verifier;

/// The members of all rooms, as one machine: told what comes, and when.
#[derive(Debug)]
pub struct Load {
    started: Instant,
    seating: Seating,
    /// What frees a publisher for its next post; `None`: the clock does.
    complete: Option<Complete>,
    /// Of each room; one of all where a connection reads several.
    openings: Vec<Openings>,
    epochs: Vec<u64>,
    first_heads: Vec<u64>,
    posted_to_room: Vec<u64>,
    measured: std::ops::Range<Duration>,
    posts: Posts,
    /// Which post stands where, if somebody comes later to be checked.
    pub ledger: Option<Ledger>,
    /// Where the server numbers nothing: what each publisher has posted.
    streams: Option<Streams>,
    /// Publishers whose post was completed, and when.
    pub ready: Vec<(u32, Duration)>,
    /// The checks.
    pub verifier: Verifier,
    /// The latencies of measured posts.
    pub latencies: AllLatencies,
    /// What was counted; the traffic is the fleet's.
    pub totals: Totals,
    /// The server refused something.
    pub refused: Option<LoadFault>,
}

/// What a load is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// The rooms' names.
    pub rooms: &'a [String],
    /// Who sits where.
    pub seating: &'a Seating,
    /// A body's bytes.
    pub payload_bytes: usize,
    /// What frees a publisher.
    pub complete: Option<Complete>,
}

impl Load {
    /// A load of members that have joined.
    pub fn new(shape: Shape<'_>, joined: &[Joined], started: Instant, measured: std::ops::Range<Duration>) -> Self {
        let Shape { rooms, seating, payload_bytes, complete } = shape;
        let members = seating.members();
        let mut verifier = Verifier::new(rooms.len(), members);
        joined.iter().enumerate().for_each(|(member, joined)| verifier.joined(member, joined.head));
        let first_of = |room: usize| &joined[room * members..][..members];
        let epochs: Vec<u64> = (0..rooms.len()).map(|room| first_of(room)[0].epoch).collect();
        let openings = match seating.rooms_each() {
            1 => rooms.iter().zip(&epochs).map(|(room, &epoch)| Openings::new(room, epoch, payload_bytes)).collect(),
            _ => vec![Openings::of_many(rooms[0].trim_end_matches('0'), epochs.as_slice().into(), payload_bytes)],
        };
        let head = |room| first_of(room).iter().map(|joined| joined.head).max().unwrap_or(0);
        Load {
            started,
            seating: seating.clone(),
            complete,
            openings,
            epochs,
            first_heads: (0..rooms.len()).map(head).collect(),
            posted_to_room: vec![0; rooms.len()],
            measured,
            posts: Posts::new(payload_bytes),
            ledger: None,
            streams: None,
            ready: Vec::new(),
            verifier,
            latencies: AllLatencies::default(),
            totals: Totals::default(),
            refused: None,
        }
    }

    /// The same of a server that neither numbers nor acknowledges what is posted.
    pub fn in_streams(self, streams: Streams) -> Self {
        Load { verifier: streams.verifier(), streams: Some(streams), ..self }
    }

    /// Opens a post of a publisher. The bytes to send are its slot and body.
    ///
    /// # Errors
    /// When too many are under way.
    pub fn post(&mut self, publisher: usize, intended: Duration) -> Result<(usize, Slot, &[u8]), LoadFault> {
        let room = self.seating.room_of(publisher);
        let new = NewPost {
            room: room as u32,
            publisher: publisher as u32,
            waiting: self.seating.members() as u32,
            intended,
            is_measured: self.measured.contains(&intended),
        };
        let Some(slot) = self.posts.open(new) else {
            return Err(LoadFault::TooFarBehind { posts: self.posts.len() });
        };
        if let (Some(streams), Some(post)) = (&mut self.streams, self.posts.post_mut(slot.into())) {
            post.sequence = streams.next(publisher);
            post.is_acknowledged = true;
        }
        self.totals.posts += 1;
        self.posted_to_room[room] += 1;
        Ok((room, slot, self.posts.body(slot)))
    }

    /// Times the posts that are meant to be sent within that time, and no other that is posted from now on. What is under
    /// way keeps what it was.
    pub fn measure(&mut self, window: std::ops::Range<Duration>) {
        self.measured = window;
    }

    /// Keeps which post stands where, from now on: nothing was posted yet.
    pub fn keep_ledger(&mut self) {
        self.ledger = Some(Ledger::new(&self.first_heads));
    }

    /// Whether the latencies of a post that is meant to be sent then count.
    pub fn is_measured(&self, intended: Duration) -> bool {
        self.measured.contains(&intended)
    }

    /// What the frames of a room begin with, for others who read it. Only where each connection reads one room.
    pub fn openings_of(&self, room: usize) -> &Openings {
        &self.openings[room]
    }

    /// Each room's history.
    pub fn epochs(&self) -> &[u64] {
        &self.epochs
    }

    /// What each room's head was when the members had joined.
    pub fn first_heads(&self) -> &[u64] {
        &self.first_heads
    }

    /// Posts that somebody still waits for.
    pub fn under_way(&self) -> usize {
        self.posts.len()
    }

    /// The end: what has not come now is missing. True when no promise was broken.
    pub fn finish(&mut self) -> bool {
        let unacknowledged = self.posts.iter().filter(|post| !post.is_acknowledged).count();
        match &self.streams {
            None => self.verifier.finish(&self.posted_to_room, &self.first_heads, unacknowledged as u64),
            Some(streams) => streams.finish(&mut self.verifier),
        }
        self.verifier.broken.is_nothing() && self.totals.deliveries == self.deliveries_expected()
    }

    /// Messages that should have reached members.
    pub fn deliveries_expected(&self) -> u64 {
        self.totals.posts * self.seating.members() as u64
    }

    #[inline]
    fn message(&mut self, member: usize, sequence: u64, body: &[u8], now: Instant) {
        self.totals.deliveries += 1;
        if self.streams.is_none() {
            self.verifier.message(member, sequence);
        }
        let room = self.seating.room_of(member);
        let (slot, post) = match self.posts.find(body) {
            Ok((slot, post)) if post.room as usize == room && post.waiting > 0 => (slot, post),
            Ok(_) | Err(BadBody::Unknown) => return self.verifier.foreign(member, sequence),
            Err(BadBody::Altered) => return self.verifier.altered(member, sequence),
        };
        match &self.streams {
            None => {
                if post.sequence == 0 {
                    note_place(&mut self.ledger, &mut self.refused, post, slot, sequence);
                }
                self.verifier.place(room, &mut post.sequence, sequence);
            }
            Some(streams) => {
                self.verifier.message(streams.reading(member, post.publisher as usize), post.sequence);
            }
        }
        let at = now - self.started;
        let is_first = post.waiting as usize == self.seating.members();
        if is_first {
            post.first_at = at;
        }
        post.waiting -= 1;
        let latency = at.saturating_sub(post.intended);
        let (is_echo, is_last) = (post.publisher as usize == member, post.waiting == 0);
        if post.is_measured {
            self.latencies.delivered.record(latency);
            if is_first {
                self.latencies.first.record(latency);
            }
            if is_echo {
                self.latencies.echoed.record(latency);
            }
            if is_last {
                self.latencies.complete.record(latency);
                self.latencies.spread.record(at.saturating_sub(post.first_at));
            }
        }
        if is_echo && self.complete == Some(Complete::Echo) || is_last && self.complete == Some(Complete::All) {
            self.ready.push((post.publisher, at));
        }
        if is_last {
            self.posts.close_if_done(slot);
        }
    }

    fn acknowledged(&mut self, member: usize, id: u64, sequence: u64, now: Instant) {
        let Some(post) = self.posts.post_mut(id) else { return self.verifier.foreign(member, sequence) };
        if self.seating.connection_of(post.publisher as usize) != member || post.is_acknowledged {
            return self.verifier.foreign(member, sequence);
        }
        if post.sequence == 0 {
            note_place(&mut self.ledger, &mut self.refused, post, id as Slot, sequence);
        }
        self.totals.acknowledged += 1;
        post.is_acknowledged = true;
        self.verifier.place(post.room as usize, &mut post.sequence, sequence);
        let at = now - self.started;
        if post.is_measured {
            self.latencies.acknowledged.record(at.saturating_sub(post.intended));
        }
        if self.complete == Some(Complete::Ack) {
            self.ready.push((post.publisher, at));
        }
        self.posts.close_if_done(id as Slot);
    }
}

/// The first that is heard of a post's place.
#[inline]
fn note_place(ledger: &mut Option<Ledger>, refused: &mut Option<LoadFault>, post: &Post, slot: Slot, sequence: u64) {
    let Some(ledger) = ledger else { return };
    // A place from before the run is the verifier's to tell; only memory ends the run.
    if !ledger.note(post.room as usize, sequence, post.token(slot)) && sequence > ledger.head(post.room as usize) {
        refused.get_or_insert(LoadFault::LedgerFull);
    }
}

impl Sink for Load {
    #[inline]
    fn openings(&self, connection: usize) -> &Openings {
        if self.seating.rooms_each() == 1 {
            &self.openings[self.seating.room_of(connection)]
        } else {
            &self.openings[0]
        }
    }

    #[inline]
    fn seen(&mut self, connection: usize, seen: Seen<'_>, now: Instant) {
        match seen {
            Seen::Message { sequence, body } => self.message(connection, sequence, body, now),
            Seen::MessageOf { room, sequence, body } => match self.seating.seat_in(connection, room as usize) {
                Some(seat) => self.message(seat, sequence, body, now),
                None => self.verifier.foreign(connection, sequence),
            },
            Seen::Posted { id, sequence } => self.acknowledged(connection, id, sequence, now),
            Seen::Gap { from, to } => self.verifier.gap(connection, from, to),
            Seen::Refused { code, message } => self.refused = Some(LoadFault::Refused { code, message }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rooms of two members; each test says what they are told.
    struct Told(Load, Instant);

    impl Told {
        fn new(complete: Complete) -> Self {
            let rooms = ["a-0".to_owned(), "a-1".to_owned()];
            let seating = Seating::of_one_room(2, 2);
            let shape = Shape { rooms: &rooms, seating: &seating, payload_bytes: 32, complete: Some(complete) };
            let started = Instant::now();
            let measured = Duration::from_secs(1)..Duration::from_secs(2);
            Told(Load::new(shape, &[Joined { epoch: 5, head: 10 }; 4], started, measured), started)
        }

        fn post(&mut self, publisher: usize, at_ms: u64) -> (Slot, Vec<u8>) {
            let (_, slot, body) = self.0.post(publisher, Duration::from_millis(at_ms)).unwrap();
            (slot, body.to_vec())
        }

        fn deliver(&mut self, member: usize, sequence: u64, body: &[u8], at_ms: u64) {
            let now = self.1 + Duration::from_millis(at_ms);
            self.0.seen(member, Seen::Message { sequence, body }, now);
        }

        fn acknowledge(&mut self, member: usize, slot: Slot, sequence: u64) {
            let now = self.1 + Duration::from_millis(1500);
            self.0.seen(member, Seen::Posted { id: slot.into(), sequence }, now);
        }

        fn ready(&mut self) -> Vec<u32> {
            self.0.ready.drain(..).map(|(publisher, _)| publisher).collect()
        }
    }

    #[test]
    fn a_post_is_complete_when_its_definition_says_so() {
        for (complete, expected) in [
            (Complete::Ack, [vec![2], vec![], vec![]]),
            (Complete::Echo, [vec![], vec![2], vec![]]),
            (Complete::All, [vec![], vec![], vec![2]]),
        ] {
            let mut told = Told::new(complete);
            let (slot, body) = told.post(2, 1000);
            told.acknowledge(2, slot, 11);
            assert_eq!(told.ready(), expected[0], "{complete:?}");
            told.deliver(2, 11, &body, 1001);
            assert_eq!(told.ready(), expected[1], "{complete:?}");
            told.deliver(3, 11, &body, 1002);
            assert_eq!(told.ready(), expected[2], "{complete:?}");
            assert_eq!(told.0.under_way(), 0);
            assert!(told.0.finish());
        }
    }

    #[test]
    fn only_posts_of_the_window_are_timed_and_from_when_they_were_meant() {
        let mut told = Told::new(Complete::All);
        for (sequence, at_ms) in [(11, 999), (12, 1000), (13, 2000)] {
            let (slot, body) = told.post(0, at_ms);
            told.acknowledge(0, slot, sequence);
            told.deliver(0, sequence, &body, at_ms + 40);
            told.deliver(1, sequence, &body, at_ms + 50);
        }
        let latencies = &told.0.latencies;
        assert_eq!((latencies.delivered.len(), latencies.echoed.len(), latencies.complete.len()), (2, 1, 1));
        assert!((latencies.echoed.max_us() - 40_000.0).abs() < 50.0);
        assert!((latencies.complete.max_us() - 50_000.0).abs() < 50.0);
        assert!(told.0.finish());
    }

    #[test]
    fn a_message_that_never_reached_one_member_fails_the_run() {
        let mut told = Told::new(Complete::Echo);
        let (slot, body) = told.post(0, 0);
        told.acknowledge(0, slot, 11);
        told.deliver(0, 11, &body, 1);
        assert_eq!(told.0.under_way(), 1);
        assert!(!told.0.finish());
        assert_eq!(told.0.verifier.broken.missing, 1);
    }

    #[test]
    fn a_message_that_nobody_got_fails_the_run_even_if_it_was_acknowledged() {
        let mut told = Told::new(Complete::Ack);
        let (slot, _) = told.post(0, 0);
        told.acknowledge(0, slot, 11);
        assert!(!told.0.finish());
        assert_eq!(told.0.verifier.broken.missing, 2);
    }

    #[test]
    fn another_rooms_message_a_second_acknowledgement_and_another_place_are_seen() {
        let mut told = Told::new(Complete::All);
        let (slot, body) = told.post(0, 0);
        told.deliver(2, 11, &body, 1);
        assert_eq!(told.0.verifier.broken.foreign, 1);
        told.acknowledge(0, slot, 12);
        told.acknowledge(0, slot, 12);
        assert_eq!(told.0.verifier.broken.foreign, 2);
        told.deliver(0, 11, &body, 1);
        assert_eq!(told.0.verifier.broken.disagreements, 1);
        assert!(!told.0.finish());
    }

    #[test]
    fn where_nothing_is_numbered_each_publishers_posts_come_once_and_in_their_order() {
        let told = || {
            let mut told = Told::new(Complete::All);
            told.0 = told.0.in_streams(Streams::new(2, 2, 2));
            let bodies = [2, 3, 3].map(|publisher| told.post(publisher, 0).1);
            (told, bodies)
        };
        let (mut well, [other, first, second]) = told();
        for (member, body) in [(2, &other), (3, &first), (2, &first), (3, &second), (3, &other), (2, &second)] {
            well.deliver(member, 0, body, 1);
        }
        assert_eq!((well.ready(), well.0.under_way()), (vec![3, 2, 3], 0));
        assert!(well.0.finish());

        let (mut swapped, [_, first, second]) = told();
        swapped.deliver(2, 0, &second, 1);
        swapped.deliver(2, 0, &first, 1);
        assert!(!swapped.0.finish());
        assert_eq!((swapped.0.verifier.broken.holes, swapped.0.verifier.broken.repeats_or_reorders), (1, 1));

        let (mut again, [other, ..]) = told();
        [2, 2, 3, 3, 0].iter().for_each(|&member| again.deliver(member, 0, &other, 1));
        assert_eq!((again.0.verifier.broken.repeats_or_reorders, again.0.verifier.broken.foreign), (1, 3));
    }

    #[test]
    fn a_post_that_was_not_acknowledged_fails_the_run() {
        let mut told = Told::new(Complete::All);
        let (_, body) = told.post(0, 0);
        told.deliver(0, 11, &body, 1);
        told.deliver(1, 11, &body, 1);
        assert!(!told.0.finish());
        assert_eq!(told.0.verifier.broken.unacknowledged, 1);
    }
}
