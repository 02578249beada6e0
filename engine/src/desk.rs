//! The task that sends asks and takes replies: the one place where an [`Ask`] becomes a message and a message an [`Answer`].
//!
//! ```text
//!  Engine::ask ─▶ asks ─▶ Waiting (by number) ─▶ outbox ─▶ library ─▶ socket
//!  answers ◀── Waiting ◀── one inbox for all replies, <inbox>.<number> ◀──┘
//! ```
//!
//! One task sends all, out of one queue: so the appends of a partition go out in the order of their asks, without waiting for
//! each other. (The library's own `request` is a future each, and nothing orders futures.) One subscription takes all replies; a
//! subscription a read would be two more messages to the server, each, and a queue.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::message::OutboundMessage;
use async_nats::{Client, HeaderMap, Message, PublishErrorKind, Subject, Subscriber};
use banter_cluster::engine::{Answer, Ask, Ticket};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::fault::EngineFault;
use crate::limits::{
    ASKS_MAX, BEATS_BEHIND_MAX, OBJECT_MAX, READ_BYTES_MAX, READ_MAX, READ_MESSAGES_MAX, READS_MAX, TAIL_MAX,
};
use crate::names::Names;
use crate::unasked::unasked;
use crate::waiting::{Made, Purge, Reading, Waiting, Wanted};

/// An ask, and when it was asked.
pub(crate) type Asked = (Ask, Instant);

/// A message on its way to the library, and the number of the ask that waits for it; none: a beat.
type Outgoing = (Option<u64>, OutboundMessage);

/// What the task holds.
pub(crate) struct Desk {
    client: Client,
    names: Names,
    inbox: String,
    append_timeout: Duration,
    waiting: Waiting,
    outbox: VecDeque<Outgoing>,
    /// Reads that are not sent yet, since enough are under way.
    reads: VecDeque<Asked>,
    answers: flume::Sender<Answer>,
}

/// What comes to the task.
pub(crate) struct Incoming {
    asks: mpsc::Receiver<Asked>,
    replies: Subscriber,
    beats: Subscriber,
    losses: watch::Receiver<u64>,
}

impl Desk {
    /// Listens for replies and beats, and gives what the task needs.
    pub(crate) async fn open(
        connection: &Connection,
        append_timeout: Duration,
        asks: mpsc::Receiver<Asked>,
        answers: flume::Sender<Answer>,
    ) -> Result<(Desk, Incoming), EngineFault> {
        let client = connection.client.clone();
        let names = connection.names.clone();
        let inbox = client.new_inbox();
        let (replies, beats) = tokio::try_join!(client.subscribe(format!("{inbox}.*")), client.subscribe(names.beat()))
            .map_err(|_| EngineFault::Closed)?;
        let losses = connection.losses.clone();
        let (waiting, outbox, reads) = (Waiting::default(), VecDeque::new(), VecDeque::new());
        let desk = Desk { client, names, inbox, append_timeout, waiting, outbox, reads, answers };
        Ok((desk, Incoming { asks, replies, beats, losses }))
    }

    /// Until nobody asks any more.
    pub(crate) async fn run(mut self, mut incoming: Incoming) {
        incoming.losses.mark_unchanged();
        let mut sender = self.client.clone();
        loop {
            let deadline = self.next_deadline();
            let has_outgoing = !self.outbox.is_empty();
            tokio::select! {
                asked = incoming.asks.recv() => match asked {
                    Some(asked) => self.on_ask(asked),
                    None => return,
                },
                Some(message) = incoming.replies.next() => self.on_reply(message),
                Some(message) = incoming.beats.next() => self.on_beat(message),
                Ok(()) = incoming.losses.changed() => self.on_loss(),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => self.on_time(),
                ready = poll_fn(|context| sender.poll_ready_unpin(context)), if has_outgoing => match ready {
                    Ok(()) => self.send(&mut sender),
                    // The library's own task has ended: as with a lost connection, but for good.
                    Err(_) => self.on_loss(),
                },
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let of_reads = self.reads.front().map(|(_, at)| *at + READ_MAX);
        self.waiting.next_deadline().into_iter().chain(of_reads).min()
    }

    fn on_ask(&mut self, asked: Asked) {
        // Nothing is put into a queue for a connection that is not there: it would be sent late, and be of no use.
        let is_full = self.waiting.count() + self.reads.len() >= ASKS_MAX || self.outbox.len() >= ASKS_MAX;
        if is_full || self.client.connection_state() != State::Connected {
            self.answer(unasked(&asked.0));
        } else if matches!(asked.0, Ask::Read { .. }) && self.waiting.reads() >= READS_MAX {
            self.reads.push_back(asked);
        } else {
            self.begin(asked);
        }
    }

    /// Puts an ask's message into the outbox.
    fn begin(&mut self, (ask, at): Asked) {
        match ask {
            Ask::Append { partition, ticket, expected, bytes } => {
                let mut message = outbound(self.names.log(partition), bytes);
                let mut headers = HeaderMap::new();
                headers.insert(async_nats::header::NATS_EXPECTED_LAST_SEQUENCE, expected.to_string());
                message.headers = Some(headers);
                let stream = self.names.stream(partition);
                self.enqueue(ticket, at + self.append_timeout, Wanted::Append { stream }, message);
            }
            Ask::Tail { partition, ticket } => {
                let subject = format!("$JS.API.STREAM.INFO.{}", self.names.stream(partition));
                self.enqueue(ticket, at + TAIL_MAX, Wanted::Tail, outbound(subject, Bytes::new()));
            }
            Ask::Read { partition, ticket, from, messages_max, bytes_max } => {
                let from = from.max(1);
                let subject = format!("$JS.API.DIRECT.GET.{}", self.names.stream(partition));
                let (batch, max_bytes) = (messages_max.clamp(1, READ_MESSAGES_MAX), bytes_max.clamp(1, READ_BYTES_MAX));
                let body = format!(r#"{{"seq":{from},"batch":{batch},"max_bytes":{max_bytes}}}"#);
                let wanted = Wanted::Read(Reading { from, messages: Vec::new() });
                self.enqueue(ticket, at + READ_MAX, wanted, outbound(subject, body.into()));
            }
            Ask::Purge { partition, ticket, first } => {
                let subject = format!("$JS.API.STREAM.INFO.{}", self.names.stream(partition));
                let wanted = Wanted::Ends { partition, first };
                self.enqueue(ticket, at + OBJECT_MAX, wanted, outbound(subject, Bytes::new()));
            }
            Ask::Put { ticket, name, expected, bytes } => {
                let mut message = outbound(self.names.object(name), bytes);
                if let Some(expected) = expected {
                    let mut headers = HeaderMap::new();
                    headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
                    message.headers = Some(headers);
                }
                let stream = self.names.index_stream();
                self.enqueue(ticket, at + OBJECT_MAX, Wanted::Put { stream }, message);
            }
            Ask::Get { ticket, name } => {
                let (stream, object) = (self.names.index_stream(), self.names.object(name));
                let subject = format!("$JS.API.DIRECT.GET.{stream}.{object}");
                self.enqueue(ticket, at + OBJECT_MAX, Wanted::Object, outbound(subject, Bytes::new()));
            }
            Ask::Remove { ticket, partition, kind } => {
                let body = format!(r#"{{"filter":"{}"}}"#, self.names.all_pieces(partition, kind));
                self.forget(ticket, at + OBJECT_MAX, &self.names.index_stream(), body);
            }
            Ask::Beat { bytes } => self.outbox.push_back((None, outbound(self.names.beat(), bytes))),
        }
    }

    fn forget(&mut self, ticket: Ticket, deadline: Instant, stream: &str, body: String) {
        let message = outbound(format!("$JS.API.STREAM.PURGE.{stream}"), body.into());
        self.enqueue(ticket, deadline, Wanted::Forget, message);
    }

    fn enqueue(&mut self, ticket: Ticket, deadline: Instant, wanted: Wanted, mut message: OutboundMessage) {
        let number = self.waiting.insert(ticket, deadline, wanted);
        message.reply = Some(Subject::from(format!("{}.{number}", self.inbox)));
        self.outbox.push_back((Some(number), message));
    }

    /// Hands one message to the library, which has said that it has a place for it.
    fn send(&mut self, sender: &mut Client) {
        let Some((number, message)) = self.outbox.pop_front() else { return };
        let Err(error) = sender.start_send_unpin(message) else { return };
        let answer = number.and_then(|number| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => self.waiting.on_too_long(number),
            PublishErrorKind::InvalidSubject | PublishErrorKind::Send => self.waiting.on_unsent(number),
        });
        self.answer(answer);
    }

    fn on_reply(&mut self, message: Message) {
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        match number.and_then(|number| self.waiting.on_reply(number, message)) {
            Some(Made::Answer(answer)) => self.answer(Some(answer)),
            Some(Made::Purge(Purge { ticket, deadline, partition, first })) => {
                self.forget(ticket, deadline, &self.names.stream(partition), format!(r#"{{"seq":{first}}}"#));
            }
            None => {}
        }
        self.begin_reads();
    }

    fn on_beat(&mut self, message: Message) {
        if self.answers.len() < BEATS_BEHIND_MAX {
            self.answer(Some(Answer::Beat { bytes: message.payload }));
        }
    }

    /// All that waits is answered at once; what follows is sent when the library has a connection again.
    fn on_loss(&mut self) {
        self.outbox.clear();
        for answer in self.waiting.on_loss() {
            self.answer(Some(answer));
        }
        for (ask, _) in std::mem::take(&mut self.reads) {
            self.answer(unasked(&ask));
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        while let Some(answer) = self.waiting.on_time(now) {
            self.answer(Some(answer));
        }
        // What was given up must not be sent any more, nor kept in here for as long as a server takes nothing.
        let waiting = &self.waiting;
        self.outbox.retain(|(number, _)| number.is_none_or(|number| waiting.contains(number)));
        while self.reads.front().is_some_and(|(_, at)| *at + READ_MAX <= now) {
            let late = self.reads.pop_front();
            self.answer(late.and_then(|(ask, _)| unasked(&ask)));
        }
        self.begin_reads();
    }

    fn begin_reads(&mut self) {
        while self.waiting.reads() < READS_MAX
            && let Some(asked) = self.reads.pop_front()
        {
            self.begin(asked);
        }
    }

    fn answer(&self, answer: Option<Answer>) {
        if let Some(answer) = answer {
            // Whoever took the answers may be gone, and then nobody asks any more either.
            let _ = self.answers.send(answer);
        }
    }
}

fn outbound(subject: String, payload: Bytes) -> OutboundMessage {
    OutboundMessage { subject: subject.into(), reply: None, payload, headers: None }
}
