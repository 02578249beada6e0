//! Claims a partition's stream and writes to it: what was pushed is done when it lies there for good, in the order in which it came;
//! and from every doubt leads one path.
//!
//! ```text
//!            ┌─ tail ─▶ Asking ─▶ Claiming ──stored──▶ Serving ──refused, silent──┐
//!  Foreign ──┘             ▲          │ refused          │ a foreign claim        │
//!     ▲                    │          ▼                  ▼                        │
//!     └── a foreign claim ─┴────── Reading ◀─────────────┴────────────────────────┘
//! ```
//!
//! From doubt it reads what lies behind the last that it knows: what of its own counts there is done; behind a foreign claim it has lost
//! the partition; otherwise it claims anew where the reading ended, and what is not done is said again in the new term.
//!
//! Invariants:
//! - Done is done in order: an entry is done when the engine says that it lies where it was meant to, and so does every one before it in
//!   the term. So nothing foreign lies between a claim and what is done behind it.
//! - Nothing is sent twice in one term, and nothing behind a doubt. What may still land late is of a term that is over, and void
//!   ([`crate::terms`]).
//! - What is in flight is bounded by `in_flight_max`; what waits, by whoever pushes.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::engine::{Answer, Ask, Tail, Ticket};
use crate::entry::{Entry, NodeId, Said, StreamId};
use crate::terms::{Read, StreamFault, TermClaim, Terms};

/// The first pause behind an ask that brought nothing, in milliseconds; each further one is twice as long.
const PAUSE_MS: u64 = 50;
/// The longest pause, in milliseconds.
const PAUSE_MS_MAX: u64 = 1_000;
/// How often the stream's end may be told as one before what is known: a leader that was just elected may not have read all of its own
/// log yet.
const SHORT_MAX: u32 = 10;
/// Messages of one read. Behind a doubt few lie there.
const READ_MESSAGES_MAX: u32 = 256;
/// Bytes of one read.
const READ_BYTES_MAX: u32 = 4 << 20;

/// What whoever pushes something knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What happens.
#[derive(Clone, Debug)]
pub enum Input {
    /// The partition is to be this node's.
    Claim {
        /// By chance.
        nonce: u64,
    },
    /// That is to be said behind all that was pushed before.
    Push(Token, Said),
    /// The engine answered.
    Engine(Answer),
    /// Whether the partition is still this node's is to be looked at.
    Doubt,
    /// The same, if nothing is in flight: what is shows it anyhow. Nothing waits meanwhile.
    Look,
    /// A pause is over.
    Wake,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// The engine is to do that.
    Ask(Ask),
    /// The partition is this node's, by a claim at that sequence. What lies before it is as it is for good.
    Claimed {
        /// The term.
        term: u64,
    },
    /// That lies there for good.
    Done {
        /// What was pushed.
        token: Token,
        /// Where.
        sequence: u64,
    },
    /// The stream has no space for that, and it was not said.
    Full(Token, Said),
    /// Whether the partition is still this node's is not known. [`Out::Claimed`] or [`Out::Lost`] comes.
    Doubtful,
    /// The partition is another node's, or was never this one's. What was pushed and is not done may or may not be said.
    Lost {
        /// Whose.
        by: NodeId,
    },
    /// The stream is not what it should be: nothing is written to it by this node any more.
    Broken(StreamFault),
    /// [`Input::Wake`] is due in so many milliseconds.
    WakeIn(u64),
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Appends {
    stream: StreamId,
    by: NodeId,
    nonce: u64,
    in_flight_max: usize,
    stage: Stage,
    /// What is known of the stream: all of it up to `through`.
    terms: Terms,
    /// Sent, and not done. In a term that is over, with no ticket.
    flight: VecDeque<Flying>,
    waiting: VecDeque<(Token, Said)>,
    /// The tail was asked for in quiet.
    looking: Option<Ticket>,
    tickets: u64,
    pause_ms: u64,
    /// How often in a row the stream's end was one before what is known.
    short_count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Another node's, as far as this one knows.
    Foreign,
    /// For the stream's tail.
    Asking(Ticket),
    /// What lies up to `last`.
    Reading {
        ticket: Ticket,
        last: u64,
    },
    /// A claim is in flight.
    Claiming(Ticket),
    /// Nothing came; the tail is asked again.
    Pausing,
    Serving,
    /// Nothing more is done.
    Broken,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flying {
    token: Token,
    said: Said,
    ticket: Option<Ticket>,
    is_stored: bool,
}

impl Appends {
    /// Of a stream that is nobody's as far as this node knows.
    pub fn new(stream: StreamId, by: NodeId, in_flight_max: usize) -> Self {
        Appends {
            stream,
            by,
            nonce: 0,
            in_flight_max: in_flight_max.max(1),
            stage: Stage::Foreign,
            terms: Terms::default(),
            flight: VecDeque::new(),
            waiting: VecDeque::new(),
            looking: None,
            tickets: 0,
            pause_ms: PAUSE_MS,
            short_count: 0,
        }
    }

    /// Whether the partition is this node's, as far as it knows.
    pub fn is_serving(&self) -> bool {
        self.stage == Stage::Serving
    }

    /// Whether it is to be this node's, or is.
    pub fn is_ours(&self) -> bool {
        !matches!(self.stage, Stage::Foreign | Stage::Broken)
    }

    /// Pushed and not done.
    pub fn open_count(&self) -> usize {
        self.flight.len() + self.waiting.len()
    }

    /// The sequence up to which the stream is known.
    pub fn through(&self) -> u64 {
        self.terms.through
    }

    /// Takes what happened. Answers to asks that were given up are nothing to it.
    pub fn handle(&mut self, input: Input, out: &mut Vec<Out>) {
        match input {
            Input::Claim { nonce } if self.stage == Stage::Foreign => {
                (self.nonce, self.pause_ms) = (nonce, PAUSE_MS);
                self.terms = Terms::default();
                self.ask_tail(out);
            }
            Input::Claim { .. } => {}
            Input::Push(token, said) => {
                if self.is_ours() {
                    self.waiting.push_back((token, said));
                    self.send(out);
                }
            }
            Input::Engine(answer) => self.answered(answer, out),
            Input::Doubt if self.stage == Stage::Serving => {
                self.doubt(out);
                self.ask_tail(out);
            }
            Input::Doubt => {}
            Input::Look if self.stage == Stage::Serving && self.flight.is_empty() && self.looking.is_none() => {
                let ticket = self.ticket();
                self.looking = Some(ticket);
                out.push(Out::Ask(Ask::Tail { partition: self.stream.partition, ticket }));
            }
            Input::Look => {}
            Input::Wake if self.stage == Stage::Pausing => self.ask_tail(out),
            Input::Wake => {}
        }
    }

    fn answered(&mut self, answer: Answer, out: &mut Vec<Out>) {
        match (self.stage, answer) {
            (Stage::Serving, Answer::Appended { ticket, sequence }) => self.stored(ticket, sequence, out),
            (Stage::Serving, Answer::Refused { ticket, last }) if self.flies(ticket) => {
                self.doubt(out);
                self.refused(last, out);
            }
            (Stage::Serving, Answer::Silent { ticket }) if self.flies(ticket) => {
                self.doubt(out);
                self.ask_tail(out);
            }
            (Stage::Serving, Answer::Full { ticket }) if self.flies(ticket) => self.full(ticket, out),
            (_, Answer::Tail { ticket, tail }) if self.looking == Some(ticket) => self.looked(tail, out),
            (Stage::Asking(asked), Answer::Tail { ticket, tail }) if ticket == asked => self.take_tail(tail, out),
            (Stage::Reading { ticket: asked, last }, Answer::Read { ticket, messages }) if ticket == asked => {
                self.take_read(last, messages.unwrap_or_default(), out);
            }
            (Stage::Claiming(asked), Answer::Appended { ticket, sequence }) if ticket == asked => {
                self.claimed(sequence, out);
            }
            (Stage::Claiming(asked), Answer::Refused { ticket, last }) if ticket == asked => self.refused(last, out),
            (Stage::Claiming(asked), Answer::Silent { ticket } | Answer::Full { ticket }) if ticket == asked => {
                self.pause(out);
            }
            _ => {}
        }
    }

    /// Something lies behind what is known, and nothing of this node is on its way: it is another's.
    fn looked(&mut self, tail: Option<Tail>, out: &mut Vec<Out>) {
        self.looking = None;
        let is_behind = tail.is_some_and(|tail| tail.last > self.terms.through);
        if self.stage == Stage::Serving && self.flight.is_empty() && is_behind {
            self.doubt(out);
            self.ask_tail(out);
        }
    }

    fn flies(&self, ticket: Ticket) -> bool {
        self.flight.iter().any(|flying| flying.ticket == Some(ticket))
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Sends what waits, as far as it may be in flight.
    fn send(&mut self, out: &mut Vec<Out>) {
        let Some(claim) = self.terms.claim.filter(|_| self.stage == Stage::Serving) else { return };
        while self.flight.len() < self.in_flight_max
            && let Some((token, said)) = self.waiting.pop_front()
        {
            self.flight.push_back(Flying { token, said, ticket: None, is_stored: false });
        }
        for at in 0..self.flight.len() {
            if self.flight[at].ticket.is_some() {
                continue;
            }
            let (ticket, expected) = (self.ticket(), self.terms.through + at as u64);
            let flying = &mut self.flight[at];
            flying.ticket = Some(ticket);
            let entry = Entry { term: claim.term, number: expected - claim.term, said: flying.said.clone() };
            out.push(Out::Ask(self.append(ticket, expected, &entry)));
        }
    }

    fn append(&self, ticket: Ticket, expected: u64, entry: &Entry) -> Ask {
        Ask::Append { partition: self.stream.partition, ticket, expected, bytes: entry.write(self.stream) }
    }

    /// An append is stored: it is done when all before it are.
    fn stored(&mut self, ticket: Ticket, sequence: u64, out: &mut Vec<Out>) {
        let Some(at) = self.flight.iter().position(|flying| flying.ticket == Some(ticket)) else { return };
        if sequence != self.terms.through + 1 + at as u64 {
            // It does not lie where it was meant to, so it is void.
            self.doubt(out);
            return self.read_to(sequence, out);
        }
        self.flight[at].is_stored = true;
        while self.flight.front().is_some_and(|flying| flying.is_stored) {
            self.terms.through += 1;
            self.front_is_done(out);
        }
        self.pause_ms = PAUSE_MS;
        self.send(out);
    }

    fn front_is_done(&mut self, out: &mut Vec<Out>) {
        let Some(Flying { token, said, .. }) = self.flight.pop_front() else { return };
        out.push(Out::Done { token, sequence: self.terms.through });
        if matches!(said, Said::Release { .. }) {
            self.give_up();
        }
    }

    /// There is no space for it. What was sent behind it expects it there, and is refused.
    fn full(&mut self, ticket: Ticket, out: &mut Vec<Out>) {
        let Some(at) = self.flight.iter().position(|flying| flying.ticket == Some(ticket)) else { return };
        let flying = self.flight.remove(at);
        out.extend(flying.map(|flying| Out::Full(flying.token, flying.said)));
        if at < self.flight.len() {
            self.doubt(out);
            self.ask_tail(out);
        } else {
            self.send(out);
        }
    }

    /// The term is over: nothing more is sent in it.
    fn doubt(&mut self, out: &mut Vec<Out>) {
        for flying in &mut self.flight {
            (flying.ticket, flying.is_stored) = (None, false);
        }
        out.push(Out::Doubtful);
    }

    fn ask_tail(&mut self, out: &mut Vec<Out>) {
        let ticket = self.ticket();
        self.stage = Stage::Asking(ticket);
        out.push(Out::Ask(Ask::Tail { partition: self.stream.partition, ticket }));
    }

    fn take_tail(&mut self, tail: Option<Tail>, out: &mut Vec<Out>) {
        let Some(Tail { first, last, .. }) = tail else { return self.pause(out) };
        if self.terms == Terms::default() {
            self.terms = Terms::behind(last);
        }
        if first > self.terms.through + 1 {
            // An owner that came later purged what this one does not know.
            return self.lost(NodeId::default(), out);
        }
        if last > self.terms.through { self.read_to(last, out) } else { self.claim(out) }
    }

    /// The stream's leader has another end than was expected. One before what is known would be an engine that has lost something: to
    /// claim there would give places twice.
    fn refused(&mut self, last: u64, out: &mut Vec<Out>) {
        if last >= self.terms.through {
            self.short_count = 0;
            return self.read_to(last, out);
        }
        self.short_count += 1;
        if self.short_count <= SHORT_MAX {
            return self.pause(out);
        }
        self.stage = Stage::Broken;
        out.push(Out::Broken(StreamFault::Vanished { known: self.terms.through }));
    }

    fn read_to(&mut self, last: u64, out: &mut Vec<Out>) {
        let ticket = self.ticket();
        self.stage = Stage::Reading { ticket, last };
        let (partition, from) = (self.stream.partition, self.terms.through + 1);
        let (messages_max, bytes_max) = (READ_MESSAGES_MAX, READ_BYTES_MAX);
        out.push(Out::Ask(Ask::Read { partition, ticket, from, messages_max, bytes_max }));
    }

    fn take_read(&mut self, last: u64, messages: Vec<(u64, Bytes)>, out: &mut Vec<Out>) {
        let through = self.terms.through;
        for (sequence, message) in messages {
            match self.terms.take(sequence, &message, self.stream) {
                Ok(Read::Counts { .. }) if self.has_claim() => {
                    self.front_is_done(out);
                }
                Ok(_) => {}
                // Fewer may be there than it seemed, or a later owner has purged.
                Err(StreamFault::Missing { .. }) => break,
                Err(fault) => {
                    self.stage = Stage::Broken;
                    return out.push(Out::Broken(fault));
                }
            }
        }
        match self.terms.claim {
            // What was read says that it gave the partition up.
            _ if !self.is_ours() => {}
            Some(TermClaim { by, .. }) if by != self.by => self.lost(by, out),
            _ if self.terms.through == through => self.read_nothing(last, out),
            _ if self.terms.through < last => self.read_to(last, out),
            _ => self.go_on(out),
        }
    }

    /// What a leader that is gone had taken may never come: then a claim gets through where the reading ended.
    fn read_nothing(&mut self, last: u64, out: &mut Vec<Out>) {
        if self.terms.through >= last { self.go_on(out) } else { self.pause(out) }
    }

    /// All is known up to the tail, and no foreign claim is there.
    fn go_on(&mut self, out: &mut Vec<Out>) {
        match self.terms.claim {
            // An own claim whose answer was lost, or a term that holds all that was sent in it.
            Some(TermClaim { term, .. }) if self.has_claim() && self.terms.is_alive && self.flight.is_empty() => {
                self.serve(term, out);
            }
            _ => self.claim(out),
        }
    }

    /// Whether the newest claim is one of those that this wish to own the partition has made: an earlier one may have been given up.
    fn has_claim(&self) -> bool {
        self.terms.claim.is_some_and(|claim| (claim.by, claim.nonce) == (self.by, self.nonce))
    }

    fn claim(&mut self, out: &mut Vec<Out>) {
        let ticket = self.ticket();
        self.stage = Stage::Claiming(ticket);
        let claim = Entry { term: 0, number: 0, said: Said::Claim { by: self.by, nonce: self.nonce } };
        out.push(Out::Ask(self.append(ticket, self.terms.through, &claim)));
    }

    fn claimed(&mut self, sequence: u64, out: &mut Vec<Out>) {
        if sequence != self.terms.through + 1 {
            return self.read_to(sequence, out);
        }
        self.terms = Terms {
            through: sequence,
            claim: Some(TermClaim { term: sequence, by: self.by, nonce: self.nonce }),
            is_alive: true,
        };
        self.serve(sequence, out);
    }

    fn serve(&mut self, term: u64, out: &mut Vec<Out>) {
        (self.stage, self.pause_ms, self.short_count) = (Stage::Serving, PAUSE_MS, 0);
        out.push(Out::Claimed { term });
        self.send(out);
    }

    fn pause(&mut self, out: &mut Vec<Out>) {
        self.stage = Stage::Pausing;
        out.push(Out::WakeIn(self.pause_ms));
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MS_MAX);
    }

    fn lost(&mut self, by: NodeId, out: &mut Vec<Out>) {
        self.give_up();
        out.push(Out::Lost { by });
    }

    /// The partition is given up without a word.
    pub fn abandon(&mut self) {
        if self.is_ours() {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        (self.stage, self.looking) = (Stage::Foreign, None);
        self.flight.clear();
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests;
