//! The proof: every member of a room got every message once, in one order, without a hole.
//!
//! Each member's reading starts behind the head that its `joined` named, and from there on each sequence must be the
//! next. The room's numbers must agree with the posts: the same place for the same post, for every member and in the
//! acknowledgement; and at the end every member must have read up to the last place that was given away.

use serde::{Deserialize, Serialize};

/// Descriptions of faults that are kept; the rest is only counted.
const DESCRIBED_MAX: usize = 10;

/// How often each promise was broken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// A message came again, or came late.
    pub repeats_or_reorders: u64,
    /// Messages that were jumped over.
    pub holes: u64,
    /// Messages that never came until the end.
    pub missing: u64,
    /// A gap was told: the server says that it cannot deliver them.
    pub told_gaps: u64,
    /// Two were told different places for one post.
    pub disagreements: u64,
    /// A body was not as posted.
    pub altered: u64,
    /// A message that nobody here has under way.
    pub foreign: u64,
    /// Posts without an acknowledgement at the end.
    pub unacknowledged: u64,
}

impl Broken {
    /// Whether no promise was broken.
    pub fn is_nothing(&self) -> bool {
        *self == Broken::default()
    }

    /// All of another's too.
    pub fn add(&mut self, other: &Broken) {
        let sum = |one: &mut u64, other: u64| *one = one.saturating_add(other);
        sum(&mut self.repeats_or_reorders, other.repeats_or_reorders);
        sum(&mut self.holes, other.holes);
        sum(&mut self.missing, other.missing);
        sum(&mut self.told_gaps, other.told_gaps);
        sum(&mut self.disagreements, other.disagreements);
        sum(&mut self.altered, other.altered);
        sum(&mut self.foreign, other.foreign);
        sum(&mut self.unacknowledged, other.unacknowledged);
    }
}

/// What is checked of every member of every room.
#[derive(Debug)]
pub struct Verifier {
    /// For each member the sequence that must come next; 0: not joined yet.
    next: Vec<u64>,
    /// For each room the last place that is known to be given away.
    heads: Vec<u64>,
    members_per_room: usize,
    /// Where each publisher of a room is numbered for itself: how many they are.
    publishers: Option<usize>,
    /// What was broken.
    pub broken: Broken,
    /// The first faults, for people.
    pub described: Vec<String>,
}

/// Which kind of fault to count.
type Counter = fn(&mut Broken) -> &mut u64;

impl Verifier {
    /// For rooms with that many members each; member `m` of room `r` has the number `r * members + m`.
    pub fn new(rooms: usize, members_per_room: usize) -> Self {
        Verifier {
            next: vec![0; rooms * members_per_room],
            heads: vec![0; rooms],
            members_per_room,
            publishers: None,
            broken: Broken::default(),
            described: Vec::new(),
        }
    }

    /// For rooms that number nothing, of which each publisher is checked as a room of its own: `p` of room `r` is the room
    /// `r * publishers + p`, and the members of `r` are its members.
    pub fn of_publishers(rooms: usize, members_per_room: usize, publishers: usize) -> Self {
        Verifier { publishers: Some(publishers), ..Verifier::new(rooms * publishers, members_per_room) }
    }

    /// A member as the run numbers it.
    fn named(&self, member: usize) -> String {
        let Some(publishers) = self.publishers else { return format!("member {member}") };
        let (stream, member) = (self.room_of(member), member % self.members_per_room);
        let first = stream / publishers * self.members_per_room;
        format!("member {}, of publisher {},", first + member, first + stream % publishers)
    }

    /// The room of a member.
    pub fn room_of(&self, member: usize) -> usize {
        member / self.members_per_room
    }

    /// A member joined, and was told the room's head.
    pub fn joined(&mut self, member: usize, head: u64) {
        self.next[member] = head.saturating_add(1);
        let room = self.room_of(member);
        self.heads[room] = self.heads[room].max(head);
    }

    /// The sequence that must come next to a member; 0: it has not joined.
    #[inline]
    pub fn next(&self, member: usize) -> u64 {
        self.next[member]
    }

    /// A member got the message of that place.
    #[inline]
    pub fn message(&mut self, member: usize, sequence: u64) {
        let next = self.next[member];
        if sequence == next {
            self.next[member] = next + 1;
        } else {
            self.out_of_order(member, sequence);
        }
    }

    #[cold]
    fn out_of_order(&mut self, member: usize, sequence: u64) {
        let next = self.next[member];
        if next != 0 && sequence > next {
            let text = format!("{} got sequence {sequence} where {next} was due", self.named(member));
            self.break_(|broken| &mut broken.holes, sequence - next, text);
            self.next[member] = sequence.saturating_add(1);
        } else {
            let text = format!("{} got sequence {sequence} again or late, {next} was due", self.named(member));
            self.break_(|broken| &mut broken.repeats_or_reorders, 1, text);
        }
    }

    /// A member was told that these will not come.
    pub fn gap(&mut self, member: usize, from: u64, to: u64) {
        let text = format!("member {member} was told a gap from {from} to {to}");
        self.break_(|broken| &mut broken.told_gaps, to.saturating_sub(from).saturating_add(1), text);
        self.next[member] = self.next[member].max(to.saturating_add(1));
    }

    /// A member must have read up to that place by now.
    pub fn must_have_read(&mut self, member: usize, head: u64) {
        let next = self.next[member];
        if next <= head {
            let (missing, read) = (head + 1 - next, next.saturating_sub(1));
            let text = format!("member {member} read up to {read} of {head}: {missing} missing");
            self.break_(|broken| &mut broken.missing, missing, text);
        }
    }

    /// A member that may be told of gaps was told one: it begins where its reading is. False, and a fault, where not.
    pub fn allowed_gap(&mut self, member: usize, from: u64, to: u64) -> bool {
        let is_next = from == self.next[member] && to >= from;
        if is_next {
            self.next[member] = to.saturating_add(1);
        } else {
            self.gap(member, from, to);
        }
        is_next
    }

    /// A post has that place, by an acknowledgement or by a delivery. `known` is what was heard before; 0: nothing.
    #[inline]
    pub fn place(&mut self, room: usize, known: &mut u64, sequence: u64) {
        if *known == 0 {
            *known = sequence;
            self.heads[room] = self.heads[room].max(sequence);
        } else if *known != sequence {
            let text = format!("room {room}: one post has the sequence {known} for some and {sequence} for others");
            self.break_(|broken| &mut broken.disagreements, 1, text);
        }
    }

    /// A member got bytes that were not posted so.
    pub fn altered(&mut self, member: usize, sequence: u64) {
        let text = format!("member {member}: the body of sequence {sequence} is not as it was posted");
        self.break_(|broken| &mut broken.altered, 1, text);
    }

    /// A member got a message that is not under way.
    pub fn foreign(&mut self, member: usize, sequence: u64) {
        let text =
            format!("member {member}: sequence {sequence} is no post that is under way (does somebody else post?)");
        self.break_(|broken| &mut broken.foreign, 1, text);
    }

    /// The end: `posted` messages were sent to each room in all, and `unacknowledged` posts have no acknowledgement.
    pub fn finish(&mut self, posted_to_room: &[u64], first_heads: &[u64], unacknowledged: u64) {
        for (room, (&posted, &first)) in posted_to_room.iter().zip(first_heads).enumerate() {
            self.heads[room] = self.heads[room].max(first + posted);
        }
        for member in 0..self.next.len() {
            let (next, head) = (self.next[member], self.heads[self.room_of(member)]);
            if next <= head {
                let missing = head + 1 - next;
                let (who, last) = (self.named(member), next.saturating_sub(1));
                let text = format!("{who} read up to {last} of {head}: {missing} missing");
                self.break_(|broken| &mut broken.missing, missing, text);
            }
        }
        if unacknowledged > 0 {
            let text = format!("{unacknowledged} posts were not acknowledged");
            self.break_(|broken| &mut broken.unacknowledged, unacknowledged, text);
        }
    }

    fn break_(&mut self, counter: Counter, times: u64, text: String) {
        let count = counter(&mut self.broken);
        *count = count.saturating_add(times);
        if self.described.len() < DESCRIBED_MAX {
            self.described.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two members of one room that join at head 5 and read `first` and `second` of three posts.
    fn read(first: &[u64], second: &[u64]) -> Broken {
        let mut verifier = Verifier::new(1, 2);
        for (member, sequences) in [first, second].into_iter().enumerate() {
            verifier.joined(member, 5);
            sequences.iter().for_each(|&sequence| verifier.message(member, sequence));
        }
        verifier.finish(&[3], &[5], 0);
        assert_eq!(verifier.broken.is_nothing(), verifier.described.is_empty());
        verifier.broken
    }

    #[test]
    fn everything_once_and_in_order_is_no_fault() {
        assert_eq!(read(&[6, 7, 8], &[6, 7, 8]), Broken::default());
    }

    #[test]
    fn a_repeat_is_seen() {
        assert_eq!(read(&[6, 7, 7, 8], &[6, 7, 8]).repeats_or_reorders, 1);
        assert_eq!(read(&[6, 7, 8], &[5, 6, 7, 8]).repeats_or_reorders, 1, "from before the join");
    }

    #[test]
    fn a_hole_is_seen() {
        let broken = read(&[6, 8], &[6, 7, 8]);
        assert_eq!((broken.holes, broken.missing), (1, 0));
    }

    #[test]
    fn a_reorder_is_seen() {
        let broken = read(&[6, 8, 7], &[6, 7, 8]);
        assert_eq!((broken.holes, broken.repeats_or_reorders), (1, 1));
    }

    #[test]
    fn a_missing_one_is_seen_even_if_all_miss_it() {
        assert_eq!(read(&[6, 7], &[6, 7, 8]).missing, 1);
        assert_eq!(read(&[6, 7], &[6, 7]).missing, 2);
        assert_eq!(read(&[], &[]).missing, 6);
    }

    #[test]
    fn a_member_that_never_joined_misses_everything_it_should_have_had() {
        let mut verifier = Verifier::new(1, 2);
        verifier.joined(0, 0);
        verifier.message(0, 1);
        verifier.finish(&[1], &[0], 0);
        assert!(verifier.broken.missing > 0);
    }

    #[test]
    fn two_places_for_one_post_are_seen() {
        let mut verifier = Verifier::new(1, 1);
        let mut known = 0;
        verifier.place(0, &mut known, 6);
        verifier.place(0, &mut known, 6);
        assert!(verifier.broken.is_nothing());
        verifier.place(0, &mut known, 7);
        assert_eq!(verifier.broken.disagreements, 1);
    }

    #[test]
    fn a_told_gap_altered_bytes_foreign_messages_and_lost_acknowledgements_fail_the_run() {
        let mut verifier = Verifier::new(1, 1);
        verifier.joined(0, 0);
        verifier.gap(0, 1, 4);
        verifier.altered(0, 5);
        verifier.foreign(0, 6);
        verifier.finish(&[4], &[0], 2);
        let expected = Broken { told_gaps: 4, altered: 1, foreign: 1, unacknowledged: 2, ..Broken::default() };
        assert_eq!(verifier.broken, expected);
    }

    #[test]
    fn faults_are_counted_all_and_described_up_to_a_limit() {
        let mut verifier = Verifier::new(1, 1);
        verifier.joined(0, 0);
        (0..100).for_each(|_| verifier.message(0, 0));
        assert_eq!(verifier.broken.repeats_or_reorders, 100);
        assert_eq!(verifier.described.len(), DESCRIBED_MAX);
    }
}
