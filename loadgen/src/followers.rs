//! Connections that read rooms of a load beside its members, and come, go, stall and come back as a scenario wants.
//!
//! Each reads one room. What it reads is checked against the load's ledger: every message once, in order, the post that
//! stands there; a gap only where the scenario allows that one is told.

use std::time::{Duration, Instant};

use banter_protocol::ids::{Cursor, Epoch, Sequence};
use banter_protocol::request::JoinFrom;

use crate::body::Template;
use crate::fault::LoadFault;
use crate::fleet::{Fleet, Sink};
use crate::ledger::{Judgement, Ledger};
use crate::load::Load;
use crate::progress::Progress;
use crate::scan::Seen;
use crate::scan_json::Openings;
use crate::verify::Verifier;
use crate::wire::Entry;

/// Messages that came ahead of anybody's word on what they are: a second of a full core.
const PENDING_MAX: usize = 8 << 20;

/// Connections that are being opened at a time, below the backlog of any listener.
const OPENING_MAX: usize = 100;
/// Nothing happened for so long: something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest wait for sockets while nothing else is to be done.
const TURN_MAX: Duration = Duration::from_millis(20);
/// Quiet for so long after everything has come: nothing comes twice.
const AFTERMATH: Duration = Duration::from_millis(100);

/// What a scenario is told of a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It can say hello.
    Connected,
    /// It reads; the room's head is told, and how many messages it had missed up to there.
    Joined {
        /// The head.
        head: u64,
        /// Those behind its cursor; 0 of one that came without.
        missed: u64,
    },
    /// It has read up to where it was to.
    Reached,
    /// It reads no longer.
    Left,
    /// The server has ended its connection.
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Follower {
    room: usize,
    /// Its reading is to be told when it has come so far.
    goal: u64,
    is_reading: bool,
    /// It comes back behind what it has read.
    has_cursor: bool,
}

/// What is known of them, beside their sockets.
struct Book {
    followers: Vec<Follower>,
    template: Template,
    pending: Vec<(usize, u64, u64)>,
    told: Vec<(usize, Told)>,
    allows_gaps: bool,
    gaps_told: u64,
    messages_in_gaps: u64,
    deliveries: u64,
    verifier: Verifier,
    refused: Option<LoadFault>,
}

/// See the module.
pub struct Followers {
    fleet: Fleet,
    epochs: Vec<u64>,
    book: Book,
}

impl Followers {
    /// None yet; follower `f` will read `room_of(f)`. `epochs` are the rooms'.
    pub fn new(
        fleet: Fleet,
        epochs: Vec<u64>,
        payload_bytes: usize,
        count: usize,
        room_of: impl Fn(usize) -> usize,
    ) -> Self {
        let follower =
            |number| Follower { room: room_of(number), goal: u64::MAX, is_reading: false, has_cursor: false };
        let book = Book {
            followers: (0..count).map(follower).collect(),
            template: Template::new(payload_bytes),
            pending: Vec::new(),
            told: Vec::new(),
            allows_gaps: false,
            gaps_told: 0,
            messages_in_gaps: 0,
            deliveries: 0,
            verifier: Verifier::new(1, count),
            refused: None,
        };
        Followers { fleet, epochs, book }
    }

    /// They may be told of gaps.
    pub fn allowing_gaps(mut self) -> Self {
        self.book.allows_gaps = true;
        self
    }

    /// How many there are, here or not.
    pub fn count(&self) -> usize {
        self.book.followers.len()
    }

    /// How many have been connected at some time.
    pub fn begun(&self) -> usize {
        self.fleet.len()
    }

    /// The room of a follower.
    pub fn room_of(&self, follower: usize) -> usize {
        self.book.followers[follower].room
    }

    /// Messages that came.
    pub fn deliveries(&self) -> u64 {
        self.book.deliveries
    }

    /// Gaps that were told, and the messages in them.
    pub fn gaps(&self) -> (u64, u64) {
        (self.book.gaps_told, self.book.messages_in_gaps)
    }

    /// The checks.
    pub fn verifier(&self) -> &Verifier {
        &self.book.verifier
    }

    /// How many messages a follower is behind a head.
    pub fn behind(&self, follower: usize, head: u64) -> u64 {
        (head + 1).saturating_sub(self.book.verifier.next(follower))
    }

    /// Begins the connection of the next one that never had one.
    ///
    /// # Errors
    /// When it fails at once.
    pub fn connect(&mut self) -> Result<(), LoadFault> {
        self.fleet.connect()?;
        self.note_native(self.fleet.len() - 1);
        Ok(())
    }

    /// Begins the connection of one that had one.
    ///
    /// # Errors
    /// When it fails at once.
    pub fn connect_again(&mut self, follower: usize) -> Result<(), LoadFault> {
        self.fleet.reopen(follower)?;
        self.note_native(follower);
        Ok(())
    }

    /// A native connection need not be upgraded.
    fn note_native(&mut self, follower: usize) {
        if !self.fleet.has_upgrade() {
            self.book.told.push((follower, Told::Connected));
        }
    }

    /// Says hello and joins: behind what it has read where it has read anything and wants that, from now on otherwise.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn enter(&mut self, follower: usize, rooms: &[String]) -> Result<(), LoadFault> {
        let room = self.room_of(follower);
        let from = match self.book.followers[follower].has_cursor {
            true => {
                let sequence = Sequence(self.book.verifier.next(follower).saturating_sub(1));
                JoinFrom::After(Cursor { epoch: Epoch(self.epochs[room]), sequence })
            }
            false => JoinFrom::Now,
        };
        self.fleet.hello_and_join(follower, Entry { room: &rooms[room], from, echo: true })
    }

    /// Joins again from now on; the connection has said hello.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn join(&mut self, follower: usize, rooms: &[String]) -> Result<(), LoadFault> {
        self.fleet.join(follower, Entry::now(&rooms[self.room_of(follower)]));
        self.fleet.flush(follower)
    }

    /// Leaves the room.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn leave(&mut self, follower: usize, rooms: &[String]) -> Result<(), LoadFault> {
        self.fleet.leave(follower, &rooms[self.room_of(follower)]);
        self.fleet.flush(follower)
    }

    /// Its connection is gone at once, whatever stood in it; `keeps_cursor`: it will come back behind what it has read.
    ///
    /// # Errors
    /// When the host does not forget its socket.
    pub fn drop_connection(&mut self, follower: usize, keeps_cursor: bool) -> Result<(), LoadFault> {
        let known = &mut self.book.followers[follower];
        (known.is_reading, known.has_cursor) = (false, keeps_cursor && known.is_reading);
        self.fleet.close(follower)
    }

    /// Tells when it has read up to there: at once where it has.
    pub fn aim(&mut self, follower: usize, goal: u64) {
        if self.book.verifier.next(follower) > goal {
            self.book.told.push((follower, Told::Reached));
        } else {
            self.book.followers[follower].goal = goal;
        }
    }

    /// All connect and join, with nothing else going on. The answer is what head each was told.
    ///
    /// # Errors
    /// When one is refused or lost, or nothing happens for too long.
    pub fn assemble(&mut self, rooms: &[String], setup_rate: u32, load: &Load) -> Result<Vec<u64>, LoadFault> {
        let (wanted, progress) = (self.count(), Progress::of_opening(self.count()));
        let (mut heads, mut ready) = (vec![0; wanted], 0);
        let started = Instant::now();
        let mut progressed_at = started;
        while ready < wanted {
            let allowed = 1 + (started.elapsed().as_secs_f64() * f64::from(setup_rate)) as usize;
            while self.begun() < wanted.min(allowed) && self.begun() - ready < OPENING_MAX {
                self.connect()?;
            }
            for (follower, told) in self.take_told() {
                match told {
                    Told::Connected => self.enter(follower, rooms)?,
                    Told::Joined { head, .. } => {
                        (heads[follower], ready, progressed_at) = (head, ready + 1, Instant::now());
                    }
                    Told::Reached | Told::Left | Told::Ended => {}
                }
            }
            self.turn(TURN_MAX, load)?;
            progress.opened(ready);
            if progressed_at.elapsed() > PATIENCE {
                let (seconds, stuck) = (PATIENCE.as_secs(), "readers beside the load".into());
                return Err(LoadFault::Stuck { ready, wanted, seconds, stuck });
            }
        }
        progress.finish();
        Ok(heads)
    }

    /// Reads on until all who read have what the ledger knows, for at most so long.
    ///
    /// # Errors
    /// When a connection is gone or refused something.
    pub fn catch_up(&mut self, load: &Load, time_max: Duration) -> Result<(), LoadFault> {
        let (started, mut quiet_since) = (Instant::now(), Instant::now());
        while started.elapsed() < time_max
            && quiet_since.elapsed() < AFTERMATH
            && self.book.verifier.broken.is_nothing()
        {
            let found = self.turn(TURN_MAX, load)?;
            let is_behind = |(number, follower): (usize, &Follower)| {
                let head = load.ledger.as_ref().map_or(0, |ledger| ledger.head(follower.room));
                follower.is_reading && self.behind(number, head) > 0
            };
            if found > 0 || self.book.followers.iter().enumerate().any(is_behind) {
                quiet_since = Instant::now();
            }
        }
        Ok(())
    }

    /// What was told since the last time.
    pub fn take_told(&mut self) -> Vec<(usize, Told)> {
        std::mem::take(&mut self.book.told)
    }

    /// Reads what has come. Says how many sockets were ready.
    ///
    /// # Errors
    /// When a connection is gone or refused something.
    pub fn turn(&mut self, patience: Duration, load: &Load) -> Result<usize, LoadFault> {
        let turned = self.fleet.turn(patience, &mut Hearing { book: &mut self.book, load });
        // What the server said explains more than that it closed the connection.
        self.book.refused.take().map_or(Ok(()), Err)?;
        if let Some(ledger) = &load.ledger {
            self.book.settle(ledger);
        }
        turned
    }

    /// The end: who reads must have read all that the ledger knows, and what nobody posted is foreign.
    pub fn finish(&mut self, ledger: &Ledger) {
        self.book.settle(ledger);
        for (follower, sequence, _) in std::mem::take(&mut self.book.pending) {
            self.book.verifier.foreign(follower, sequence);
        }
        for (number, follower) in self.book.followers.iter().enumerate() {
            if follower.is_reading {
                self.book.verifier.must_have_read(number, ledger.head(follower.room));
            }
        }
    }
}

impl Book {
    #[inline]
    fn message(&mut self, number: usize, sequence: u64, body: &[u8], ledger: Option<&Ledger>) {
        self.deliveries += 1;
        let follower = &mut self.followers[number];
        if !follower.is_reading {
            return self.verifier.foreign(number, sequence);
        }
        self.verifier.message(number, sequence);
        let Some(token) = self.template.read(body) else { return self.verifier.altered(number, sequence) };
        match ledger.map_or(Judgement::Unknown, |ledger| ledger.judge(follower.room, sequence, token)) {
            Judgement::Right => {}
            Judgement::Wrong => self.verifier.altered(number, sequence),
            Judgement::Unknown if self.pending.len() < PENDING_MAX => self.pending.push((number, sequence, token)),
            Judgement::Unknown => self.refused = Some(LoadFault::LedgerFull),
        }
        self.note_goal(number);
    }

    #[inline]
    fn note_goal(&mut self, number: usize) {
        let follower = &mut self.followers[number];
        if self.verifier.next(number) > follower.goal {
            follower.goal = u64::MAX;
            self.told.push((number, Told::Reached));
        }
    }

    fn joined(&mut self, number: usize, head: u64) {
        let follower = &mut self.followers[number];
        if follower.is_reading || follower.has_cursor && head + 1 < self.verifier.next(number) {
            return self.verifier.foreign(number, head);
        }
        follower.is_reading = true;
        if !follower.has_cursor {
            self.verifier.joined(number, head);
        }
        let missed = (head + 1).saturating_sub(self.verifier.next(number));
        self.told.push((number, Told::Joined { head, missed }));
    }

    fn gap(&mut self, number: usize, from: u64, to: u64) {
        if !self.allows_gaps {
            return self.verifier.gap(number, from, to);
        }
        if self.verifier.allowed_gap(number, from, to) {
            self.gaps_told += 1;
            self.messages_in_gaps += to - from + 1;
            self.note_goal(number);
        }
    }

    fn settle(&mut self, ledger: &Ledger) {
        let (followers, verifier) = (&self.followers, &mut self.verifier);
        self.pending.retain(|&(number, sequence, token)| match ledger.judge(followers[number].room, sequence, token) {
            Judgement::Right => false,
            Judgement::Wrong => {
                verifier.altered(number, sequence);
                false
            }
            Judgement::Unknown => true,
        });
    }
}

/// The followers while they are read to.
struct Hearing<'a> {
    book: &'a mut Book,
    load: &'a Load,
}

impl Sink for Hearing<'_> {
    #[inline]
    fn openings(&self, connection: usize) -> &Openings {
        self.load.openings_of(self.book.followers[connection].room)
    }

    #[inline]
    fn seen(&mut self, connection: usize, seen: Seen<'_>, _now: Instant) {
        match seen {
            Seen::Message { sequence, body } => {
                self.book.message(connection, sequence, body, self.load.ledger.as_ref());
            }
            Seen::Upgraded => self.book.told.push((connection, Told::Connected)),
            Seen::Joined { sequence, .. } => self.book.joined(connection, sequence),
            Seen::Left { .. } => {
                self.book.followers[connection].is_reading = false;
                self.book.told.push((connection, Told::Left));
            }
            Seen::Gap { from, to } => self.book.gap(connection, from, to),
            Seen::Ended => self.book.told.push((connection, Told::Ended)),
            Seen::Refused { code, message } => self.book.refused = Some(LoadFault::Refused { code, message }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Wire;
    use crate::verify::Broken;

    /// One follower of a room at head 10, in which posts 1, 2 and 3 stand behind it.
    fn book(allows_gaps: bool) -> (Book, Ledger) {
        let fleet = Fleet::new(Wire::Json, "127.0.0.1:9".parse().unwrap()).unwrap();
        let mut followers = Followers::new(fleet, vec![7], 32, 1, |_| 0);
        followers.book.allows_gaps = allows_gaps;
        let mut ledger = Ledger::new(&[10]);
        (11..=13).for_each(|sequence| assert!(ledger.note(0, sequence, sequence - 10)));
        followers.book.joined(0, 10);
        (followers.book, ledger)
    }

    fn read(allows_gaps: bool, told: &[(u64, u64)], gap: Option<(u64, u64)>) -> (Broken, Vec<(usize, Told)>) {
        let (mut book, ledger) = book(allows_gaps);
        let mut template = Template::new(32);
        book.followers[0].goal = 13;
        for &(sequence, token) in told {
            book.message(0, sequence, template.write(token), Some(&ledger));
            if let Some((from, to)) = gap.filter(|&(from, _)| from == sequence + 1) {
                book.gap(0, from, to);
            }
        }
        book.settle(&ledger);
        book.verifier.must_have_read(0, ledger.head(0));
        (book.verifier.broken, book.told)
    }

    #[test]
    fn who_reads_all_that_stands_there_has_reached_its_goal() {
        let (broken, told) = read(false, &[(11, 1), (12, 2), (13, 3)], None);
        assert_eq!((broken, told.last()), (Broken::default(), Some(&(0, Told::Reached))));
    }

    #[test]
    fn another_post_a_hole_a_repeat_and_a_missing_end_are_seen() {
        assert_eq!(read(false, &[(11, 1), (12, 3), (13, 3)], None).0.altered, 1);
        assert_eq!(read(false, &[(11, 1), (13, 3)], None).0.holes, 1);
        assert_eq!(read(false, &[(11, 1), (11, 1), (12, 2), (13, 3)], None).0.repeats_or_reorders, 1);
        let (broken, told) = read(false, &[(11, 1), (12, 2)], None);
        assert_eq!((broken.missing, told.len()), (1, 1), "joined, and nothing reached");
    }

    #[test]
    fn a_told_gap_is_a_fault_unless_it_is_allowed_and_begins_where_the_reading_is() {
        assert_eq!(read(false, &[(11, 1)], Some((12, 13))).0.told_gaps, 2);
        let (broken, told) = read(true, &[(11, 1)], Some((12, 13)));
        assert_eq!((broken, told.last()), (Broken::default(), Some(&(0, Told::Reached))));
        let (mut book, _) = book(true);
        book.gap(0, 12, 13);
        assert_eq!(book.verifier.broken.told_gaps, 2, "11 was due");
    }

    #[test]
    fn what_comes_to_one_that_does_not_read_or_was_never_posted_is_foreign() {
        let (mut book, ledger) = book(false);
        let mut template = Template::new(32);
        book.followers[0].is_reading = false;
        book.message(0, 11, template.write(1), Some(&ledger));
        assert_eq!(book.verifier.broken.foreign, 1);
        book.followers[0].is_reading = true;
        book.message(0, 14, template.write(9), Some(&ledger));
        assert_eq!(book.pending.len(), 1, "nobody has said what stands at 14");
    }
}
