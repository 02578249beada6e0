//! The asks that were sent and have no answer yet: a table, and what a reply, the time or a lost connection makes of it. Pure.
//!
//! Invariants:
//! - Each ask that comes in here has one answer: it leaves the table with it.
//! - A read's messages are the ones that the server sent one after another, from its first: a reply that was lost cuts the rest off,
//!   so that no hole is shown which the stream does not have.

use std::collections::{BTreeSet, HashMap};

use async_nats::Message;
use banter_cluster::engine::{Answer, Ticket, Unasked};
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

    /// A reply came; the answer that it makes.
    pub(crate) fn on_reply(&mut self, number: u64, message: Message) -> Option<Answer> {
        let sent = self.sent.get_mut(&number)?;
        if let Wanted::Read(reading) = &mut sent.wanted
            && !reading.on_part(replies::part(message.clone()))
        {
            return None;
        }
        let sent = self.remove(number)?;
        Some(answer(sent, message))
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

fn answer(sent: Sent, message: Message) -> Answer {
    let ticket = sent.ticket;
    match sent.wanted {
        Wanted::Append { stream } => replies::append(ticket, &stream, &message),
        Wanted::Tail => Answer::Tail { ticket, tail: replies::tail(&message) },
        Wanted::Read(reading) => read(ticket, reading, replies::part(message) != Part::Unread),
        Wanted::Put { stream } => replies::put(ticket, &stream, &message),
        Wanted::Forget => Answer::Done { ticket, is_done: replies::is_done(&message) },
        Wanted::Object => Answer::Object { ticket, object: replies::object(message).ok_or(Unasked) },
    }
}

/// Nothing came, or not all.
fn unanswered(sent: Sent) -> Answer {
    match sent.wanted {
        Wanted::Append { .. } => Answer::Silent { ticket: sent.ticket },
        Wanted::Tail => Answer::Tail { ticket: sent.ticket, tail: None },
        Wanted::Read(reading) => read(sent.ticket, reading, false),
        Wanted::Put { .. } | Wanted::Forget => Answer::Done { ticket: sent.ticket, is_done: false },
        Wanted::Object => Answer::Object { ticket: sent.ticket, object: Err(Unasked) },
    }
}

/// What a read gives: an empty one only if the engine said so.
fn read(ticket: Ticket, reading: Reading, is_ended: bool) -> Answer {
    let messages = (is_ended || !reading.messages.is_empty()).then_some(reading.messages);
    Answer::Read { ticket, messages }
}
