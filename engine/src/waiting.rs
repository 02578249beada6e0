//! The asks that were sent and have no answer yet: a table, and what a reply, the time or a lost connection makes of it. Pure.
//!
//! Invariants:
//! - Each ask that comes in here has one answer: it leaves the table with it.
//! - A read's messages are the ones that the server sent one after another, from its first: a reply that was lost cuts the rest off,
//!   so that no hole is shown which the stream does not have.

use std::collections::{BTreeSet, HashMap};

use async_nats::Message;
use banter_cluster::engine::{Answer, Partition, Tail, Ticket, Unasked};
use bytes::Bytes;
use tokio::time::Instant;

use crate::replies::{self, Part};

/// What an ask waits for.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// Whether a message was put behind the last one.
    Append {
        /// To that stream.
        stream: String,
    },
    /// A stream's ends.
    Tail,
    /// Messages, in as many replies.
    Read(Reading),
    /// Whether an object was kept.
    Put {
        /// In that stream.
        stream: String,
    },
    /// A stream's ends, to forget what lies before that sequence.
    Ends {
        /// Whose stream.
        partition: Partition,
        /// The first that stays.
        first: u64,
    },
    /// Whether something was forgotten.
    Forget,
    /// An object.
    Object,
}

/// What came of a read so far.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The first sequence that was asked for.
    pub(crate) from: u64,
    /// What came, ascending.
    pub(crate) messages: Vec<(u64, Bytes)>,
}

/// What a reply makes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// An answer.
    Answer(Answer),
    /// What lies before that sequence is there, and may be forgotten.
    Purge(Purge),
}

/// A purge that is safe: see [`safe_purge`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Purge {
    /// For the answer.
    pub(crate) ticket: Ticket,
    /// When it is given up.
    pub(crate) deadline: Instant,
    /// Whose stream.
    pub(crate) partition: Partition,
    /// The first that stays.
    pub(crate) first: u64,
}

#[derive(Debug)]
struct Sent {
    ticket: Ticket,
    deadline: Instant,
    wanted: Wanted,
}

/// The asks without an answer, each by a number that its replies name.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    sent: HashMap<u64, Sent>,
    /// By when each is given up.
    deadlines: BTreeSet<(Instant, u64)>,
    /// Numbers are never used twice, so that a late reply is nobody's.
    newest: u64,
    reads: usize,
}

impl Waiting {
    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.sent.len()
    }

    /// How many of them are reads.
    pub(crate) fn reads(&self) -> usize {
        self.reads
    }

    /// One more, and its number.
    pub(crate) fn insert(&mut self, ticket: Ticket, deadline: Instant, wanted: Wanted) -> u64 {
        self.newest += 1;
        self.reads += usize::from(matches!(wanted, Wanted::Read(_)));
        self.deadlines.insert((deadline, self.newest));
        self.sent.insert(self.newest, Sent { ticket, deadline, wanted });
        self.newest
    }

    /// Whether it still waits.
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.sent.contains_key(&number)
    }

    /// When the next one is given up.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A reply came; what it makes.
    pub(crate) fn on_reply(&mut self, number: u64, message: Message) -> Option<Made> {
        let sent = self.sent.get_mut(&number)?;
        if let Wanted::Read(reading) = &mut sent.wanted
            && !reading.on_part(replies::part(message.clone()))
        {
            return None;
        }
        let sent = self.remove(number)?;
        Some(made(sent, message))
    }

    /// The answer of an ask that could not be sent.
    pub(crate) fn on_unsent(&mut self, number: u64) -> Option<Answer> {
        self.remove(number).map(unanswered)
    }

    /// The answer of an ask that could not be sent, and never will be, since it is too long.
    pub(crate) fn on_too_long(&mut self, number: u64) -> Option<Answer> {
        let sent = self.remove(number)?;
        Some(match sent.wanted {
            Wanted::Append { .. } => Answer::Full { ticket: sent.ticket },
            _ => unanswered(sent),
        })
    }

    /// What is given up at that time.
    pub(crate) fn on_time(&mut self, now: Instant) -> Option<Answer> {
        let (deadline, number) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.remove(number).map(unanswered)
    }

    /// All are given up: no reply comes over a connection that is lost.
    pub(crate) fn on_loss(&mut self) -> Vec<Answer> {
        self.deadlines.clear();
        self.reads = 0;
        // In the order of the asks, which is kinder to whoever looks at it.
        let mut sent: Vec<_> = self.sent.drain().collect();
        sent.sort_unstable_by_key(|(number, _)| *number);
        sent.into_iter().map(|(_, sent)| unanswered(sent)).collect()
    }

    fn remove(&mut self, number: u64) -> Option<Sent> {
        let sent = self.sent.remove(&number)?;
        self.deadlines.remove(&(sent.deadline, number));
        self.reads -= usize::from(matches!(sent.wanted, Wanted::Read(_)));
        Some(sent)
    }
}

impl Reading {
    /// Takes one of the replies; whether it was the last one.
    fn on_part(&mut self, part: Part) -> bool {
        match part {
            Part::Message { sequence, before, bytes } if self.fits(sequence, before) => {
                self.messages.push((sequence, bytes));
                false
            }
            // What follows a lost reply is of no use, but the end is waited for: it frees the place.
            Part::Message { .. } => false,
            Part::End { .. } | Part::Nothing | Part::Unread => true,
        }
    }

    /// The first reply names 0 as the one before it.
    fn fits(&self, sequence: u64, before: u64) -> bool {
        let last = self.messages.last().map_or(0, |(sequence, _)| *sequence);
        before == last && sequence > last && sequence >= self.from
    }
}

fn made(sent: Sent, message: Message) -> Made {
    let ticket = sent.ticket;
    Made::Answer(match sent.wanted {
        Wanted::Ends { partition, first } => {
            let purge = Purge { ticket, deadline: sent.deadline, partition, first };
            return safe_purge(purge, replies::tail(&message));
        }
        Wanted::Append { stream } => replies::append(ticket, &stream, &message),
        Wanted::Tail => Answer::Tail { ticket, tail: replies::tail(&message) },
        Wanted::Read(reading) => read(ticket, reading, replies::part(message) != Part::Unread),
        Wanted::Put { stream } => replies::put(ticket, &stream, &message),
        Wanted::Forget => Answer::Done { ticket, is_done: replies::is_done(&message) },
        Wanted::Object => Answer::Object { ticket, object: replies::object(message).ok_or(Unasked) },
    })
}

/// A stream that is purged up to a sequence which it has not reached yet jumps there: its next message lies at that sequence, and
/// the ones between are missing for ever. So the ends are looked at first; they only grow.
fn safe_purge(purge: Purge, tail: Option<Tail>) -> Made {
    let done = |is_done| Made::Answer(Answer::Done { ticket: purge.ticket, is_done });
    match tail {
        Some(tail) if purge.first <= tail.first => done(true),
        Some(tail) if purge.first <= tail.last.saturating_add(1) => Made::Purge(purge),
        Some(_) | None => done(false),
    }
}

/// Nothing came, or not all.
fn unanswered(sent: Sent) -> Answer {
    match sent.wanted {
        Wanted::Append { .. } => Answer::Silent { ticket: sent.ticket },
        Wanted::Tail => Answer::Tail { ticket: sent.ticket, tail: None },
        Wanted::Read(reading) => read(sent.ticket, reading, false),
        Wanted::Put { .. } | Wanted::Ends { .. } | Wanted::Forget => {
            Answer::Done { ticket: sent.ticket, is_done: false }
        }
        Wanted::Object => Answer::Object { ticket: sent.ticket, object: Err(Unasked) },
    }
}

/// What a read gives: an empty one only if the engine said so.
fn read(ticket: Ticket, reading: Reading, is_ended: bool) -> Answer {
    let messages = (is_ended || !reading.messages.is_empty()).then_some(reading.messages);
    Answer::Read { ticket, messages }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_nats::{HeaderMap, StatusCode, Subject};

    use super::*;

    const TICKET: Ticket = Ticket(7);

    fn said(payload: &str, status: Option<u16>, headers: &[(&'static str, u64)]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.to_string());
        }
        Message {
            subject: Subject::from_static("_INBOX.a.1"),
            reply: None,
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            headers: Some(map),
            status: status.map(|status| StatusCode::from_u16(status).unwrap()),
            description: None,
            length: 0,
        }
    }

    fn held(sequence: u64, before: u64) -> Message {
        said("x", None, &[("Nats-Sequence", sequence), ("Nats-Last-Sequence", before)])
    }

    fn reading(waiting: &mut Waiting, from: u64) -> u64 {
        waiting.insert(TICKET, Instant::now(), Wanted::Read(Reading { from, messages: Vec::new() }))
    }

    /// What a read gives of these replies and its end.
    fn read_of(from: u64, replies: &[(u64, u64)], end: Message) -> Option<Vec<u64>> {
        let mut waiting = Waiting::default();
        let number = reading(&mut waiting, from);
        for (sequence, before) in replies {
            assert_eq!(waiting.on_reply(number, held(*sequence, *before)), None);
        }
        let Some(Made::Answer(Answer::Read { ticket: TICKET, messages })) = waiting.on_reply(number, end) else {
            panic!("no answer")
        };
        assert_eq!((waiting.count(), waiting.reads(), waiting.next_deadline()), (0, 0, None));
        messages.map(|messages| messages.into_iter().map(|(sequence, _)| sequence).collect())
    }

    #[test]
    fn a_lost_reply_cuts_a_read_off_and_a_hole_of_the_stream_does_not() {
        let end = || said("", Some(204), &[("Nats-Last-Sequence", 9)]);
        assert_eq!(read_of(5, &[(5, 0), (6, 5), (7, 6)], end()), Some(vec![5, 6, 7]));
        assert_eq!(read_of(5, &[(5, 0), (7, 6), (8, 7)], end()), Some(vec![5]), "6 was lost on its way");
        assert_eq!(read_of(5, &[(6, 5), (7, 6)], end()), Some(vec![]), "the first was lost on its way");
        assert_eq!(read_of(5, &[(5, 0), (8, 5)], end()), Some(vec![5, 8]), "the stream has no 6 and no 7");
        assert_eq!(read_of(5, &[(4, 0), (5, 4)], end()), Some(vec![]), "what was not asked for");
        assert_eq!(read_of(5, &[(5, 0), (5, 5)], end()), Some(vec![5]));
        assert_eq!(read_of(5, &[], said("", Some(404), &[])), Some(vec![]));
        assert_eq!(read_of(5, &[], said("", Some(503), &[])), None);
        assert_eq!(read_of(5, &[(5, 0)], said("", Some(503), &[])), Some(vec![5]));
    }

    #[test]
    fn every_ask_has_one_answer_whichever_comes_first() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        let append = |waiting: &mut Waiting, ticket, deadline| {
            waiting.insert(Ticket(ticket), deadline, Wanted::Append { stream: "S".to_owned() })
        };
        let ack = || said(r#"{"stream":"S","seq":5}"#, None, &[]);
        let first = append(&mut waiting, 1, now + Duration::from_secs(2));
        let second = append(&mut waiting, 2, now + Duration::from_secs(1));
        let third = append(&mut waiting, 3, now + Duration::from_secs(3));
        assert_eq!(waiting.next_deadline(), Some(now + Duration::from_secs(1)));
        assert_eq!(waiting.on_time(now), None);
        assert_eq!(waiting.on_time(now + Duration::from_secs(1)), Some(Answer::Silent { ticket: Ticket(2) }));
        assert_eq!(waiting.on_reply(second, ack()), None, "too late");
        let appended = Made::Answer(Answer::Appended { ticket: Ticket(1), sequence: 5 });
        assert_eq!(waiting.on_reply(first, ack()), Some(appended));
        assert_eq!(waiting.on_reply(first, ack()), None, "twice");
        let fourth = append(&mut waiting, 4, now);
        let lost = [Answer::Silent { ticket: Ticket(3) }, Answer::Silent { ticket: Ticket(4) }];
        assert_eq!(waiting.on_loss(), lost);
        assert_eq!((waiting.on_reply(third, ack()), waiting.on_unsent(fourth), waiting.count()), (None, None, 0));
        assert_eq!(waiting.on_time(now + Duration::from_secs(9)), None);
    }

    #[test]
    fn a_purge_never_reaches_beyond_the_tail() {
        let purged = |first, tail| {
            let purge = Purge { ticket: TICKET, deadline: Instant::now(), partition: Partition(1), first };
            match safe_purge(purge, tail) {
                Made::Purge(purge) => Some(purge.first),
                Made::Answer(Answer::Done { ticket: TICKET, is_done: true }) => None,
                other => panic!("{other:?}"),
            }
        };
        let tail = Some(Tail { first: 5, last: 9, bytes: 1 });
        assert_eq!(purged(5, tail), None, "nothing lies before it");
        assert_eq!(purged(6, tail), Some(6));
        assert_eq!(purged(10, tail), Some(10), "all of it");
        for (first, tail) in [(11, tail), (u64::MAX, tail), (1, None)] {
            let purge = Purge { ticket: TICKET, deadline: Instant::now(), partition: Partition(1), first };
            let refused = Made::Answer(Answer::Done { ticket: TICKET, is_done: false });
            assert_eq!(safe_purge(purge, tail), refused);
        }
    }
}
