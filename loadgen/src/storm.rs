//! Clients that come back all at once: each joins where it left, and must get what it missed once and in order.

use std::time::{Duration, Instant};

use banter_protocol::ids::{Cursor, Epoch, Sequence};
use banter_protocol::request::JoinFrom;

use crate::args::By;
use crate::body::Template;
use crate::fault::LoadFault;
use crate::fill::token;
use crate::fleet::{Fleet, Sink};
use crate::measure::Latencies;
use crate::opening::Joined;
use crate::scan::Seen;
use crate::scan_json::Openings;
use crate::verify::Verifier;
use crate::wire::Entry;

/// Connections begun between two looks at the live load: about 100 us of work.
const CONNECTS_A_TURN_MAX: usize = 4;

/// What was missed where.
#[derive(Clone, Copy, Debug)]
pub struct Missed<'a> {
    /// The rooms' names.
    pub rooms: &'a [String],
    /// What each was like before the messages.
    pub before: &'a [Joined],
    /// Messages that each got since.
    pub messages: u64,
    /// A body's bytes.
    pub payload_bytes: usize,
    /// How a client says where it was.
    pub by: By,
}

/// The clients, as one machine: told what comes, and when.
pub struct Storm<'a> {
    missed: Missed<'a>,
    clients: usize,
    openings: Vec<Openings>,
    template: Template,
    started: Instant,
    upgraded: Vec<usize>,
    is_joined: Vec<bool>,
    joined: usize,
    done: usize,
    /// Messages that came.
    pub deliveries: u64,
    /// Until a client had all that it missed, from the storm's start.
    pub resumed: Latencies,
    /// The checks.
    pub verifier: Verifier,
    refused: Option<LoadFault>,
}

impl<'a> Storm<'a> {
    /// So many clients, spread evenly, that start now.
    pub fn new(missed: Missed<'a>, clients: usize, started: Instant) -> Self {
        let openings = |(room, before): (&String, &Joined)| Openings::new(room, before.epoch, missed.payload_bytes);
        Storm {
            missed,
            clients,
            openings: missed.rooms.iter().zip(missed.before).map(openings).collect(),
            template: Template::new(missed.payload_bytes),
            started,
            upgraded: Vec::new(),
            is_joined: vec![false; clients],
            joined: 0,
            done: 0,
            deliveries: 0,
            resumed: Latencies::default(),
            verifier: Verifier::new(missed.rooms.len(), clients / missed.rooms.len()),
            refused: None,
        }
    }

    /// Whether every client has what it missed.
    pub fn is_over(&self) -> bool {
        self.done == self.clients
    }

    /// Clients that have what they missed.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Messages that should have come.
    pub fn deliveries_expected(&self) -> u64 {
        self.missed.messages * self.clients as u64
    }

    /// Begins some more connections while `opening_max` allows, and reads what has come. Says how many were ready.
    ///
    /// # Errors
    /// When a client is refused or lost.
    pub fn turn(&mut self, fleet: &mut Fleet, opening_max: usize) -> Result<usize, LoadFault> {
        for _ in 0..CONNECTS_A_TURN_MAX {
            if fleet.len() == self.clients || fleet.len() - self.joined >= opening_max {
                break;
            }
            fleet.connect()?;
            if !fleet.has_upgrade() {
                self.upgraded.push(fleet.len() - 1);
            }
        }
        for client in std::mem::take(&mut self.upgraded) {
            let entry = self.entry(client);
            fleet.hello_and_join(client, entry)?;
        }
        let turned = fleet.turn(Duration::ZERO, self);
        match self.refused.take() {
            // What the server said explains more than that it closed the connection.
            Some(refused) => Err(refused),
            None => turned,
        }
    }

    /// The end: what has not come now is missing. True when no promise was broken.
    pub fn finish(&mut self) -> bool {
        let heads: Vec<u64> = self.missed.before.iter().map(|before| before.head).collect();
        self.verifier.finish(&vec![self.missed.messages; heads.len()], &heads, 0);
        self.verifier.broken.is_nothing() && self.deliveries == self.deliveries_expected()
    }

    /// Neighbouring clients are in different rooms, so that no room's clients come first.
    fn room_of(&self, client: usize) -> usize {
        client % self.missed.rooms.len()
    }

    fn member_of(&self, client: usize) -> usize {
        let rooms = self.missed.rooms.len();
        client % rooms * (self.clients / rooms) + client / rooms
    }

    fn entry(&self, client: usize) -> Entry<'a> {
        let room = self.room_of(client);
        let Joined { epoch, head } = self.missed.before[room];
        let from = match self.missed.by {
            By::After => JoinFrom::After(Cursor { epoch: Epoch(epoch), sequence: Sequence(head) }),
            By::Last => JoinFrom::Last(self.missed.messages),
        };
        Entry { room: &self.missed.rooms[room], from, echo: true }
    }

    /// The client may read from its cursor on.
    fn joined(&mut self, client: usize, head: u64) {
        let member = self.member_of(client);
        let before = self.missed.before[self.room_of(client)].head;
        if head.wrapping_sub(before) != self.missed.messages || self.is_joined[client] {
            return self.verifier.foreign(member, head);
        }
        self.is_joined[client] = true;
        self.joined += 1;
        self.verifier.joined(member, before);
    }

    #[inline]
    fn message(&mut self, client: usize, sequence: u64, body: &[u8], now: Instant) {
        let (room, member) = (self.room_of(client), self.member_of(client));
        let index = sequence.wrapping_sub(self.missed.before[room].head).wrapping_sub(1);
        let was_due = self.verifier.next(member) == sequence;
        self.deliveries += 1;
        self.verifier.message(member, sequence);
        if self.template.read(body) != Some(token(room, index)) {
            self.verifier.altered(member, sequence);
        }
        if was_due && index == self.missed.messages - 1 {
            self.done += 1;
            self.resumed.record(now - self.started);
        }
    }
}

impl Sink for Storm<'_> {
    #[inline]
    fn openings(&self, client: usize) -> &Openings {
        &self.openings[self.room_of(client)]
    }

    #[inline]
    fn seen(&mut self, client: usize, seen: Seen<'_>, now: Instant) {
        match seen {
            Seen::Message { sequence, body } => self.message(client, sequence, body, now),
            Seen::Upgraded => self.upgraded.push(client),
            Seen::Joined { sequence, .. } => self.joined(client, sequence),
            Seen::Gap { from, to } => self.verifier.gap(self.member_of(client), from, to),
            Seen::Refused { code, message } => self.refused = Some(LoadFault::Refused { code, message }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Broken;

    const BEFORE: [Joined; 2] = [Joined { epoch: 5, head: 10 }, Joined { epoch: 6, head: 0 }];

    /// Four clients of two rooms that missed three messages; client 3 is told `told`, the others everything.
    fn told(told: &[(u64, u64)]) -> (bool, usize, Broken) {
        let rooms = ["a-0".to_owned(), "a-1".to_owned()];
        let missed = Missed { rooms: &rooms, before: &BEFORE, messages: 3, payload_bytes: 40, by: By::After };
        let now = Instant::now();
        let mut storm = Storm::new(missed, 4, now);
        let mut template = Template::new(40);
        for client in 0..4 {
            let (room, head) = (client % 2, BEFORE[client % 2].head);
            storm.seen(client, Seen::Joined { epoch: 5, sequence: head + 3 }, now);
            let all = [(head + 1, 0), (head + 2, 1), (head + 3, 2)];
            for &(sequence, index) in if client == 3 { told } else { &all } {
                let body = template.write(token(room, index)).to_vec();
                storm.seen(client, Seen::Message { sequence, body: &body }, now);
            }
        }
        (storm.finish(), storm.done(), storm.verifier.broken)
    }

    #[test]
    fn a_storm_is_over_when_each_has_all_it_missed() {
        assert_eq!(told(&[(1, 0), (2, 1), (3, 2)]), (true, 4, Broken::default()));
    }

    #[test]
    fn a_hole_a_repeat_a_missing_end_and_another_body_fail_it() {
        assert_eq!(told(&[(1, 0), (3, 2)]).2, Broken { holes: 1, ..Broken::default() });
        assert_eq!(told(&[(1, 0), (1, 0), (2, 1), (3, 2)]).2, Broken { repeats_or_reorders: 1, ..Broken::default() });
        let (verified, done, broken) = told(&[(1, 0), (2, 1)]);
        assert_eq!((verified, done, broken), (false, 3, Broken { missing: 1, ..Broken::default() }));
        assert_eq!(told(&[(1, 0), (2, 0), (3, 2)]).2, Broken { altered: 1, ..Broken::default() });
    }

    #[test]
    fn a_message_too_many_fails_it() {
        assert!(!told(&[(1, 0), (2, 1), (3, 2), (4, 3)]).0);
    }
}
