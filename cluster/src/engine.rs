//! What is asked of the engine (streams that a majority of servers keeps), and what it answers: the seam between the machines here and
//! whoever speaks to it.
//!
//! Each partition of the rooms has a stream of its own. Beside them one stream keeps objects by name, the newest of each: what is
//! derived from the partitions' streams, and is never evidence.
//!
//! What is told of the engine, and no more:
//! - An append that was [`Answer::Appended`] lies at that sequence for good, on a majority's disks, and nothing else lies there.
//! - One that is [`Answer::Refused`] or [`Answer::Full`] was not stored by that ask.
//! - One that is [`Answer::Silent`] may have been stored, may be stored later, or never.
//! - A tail or a read may be of a while ago: what it shows is there, and what it does not show may be there too.

use bytes::Bytes;

/// A fixed share of all rooms, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(pub u16);

impl Partition {
    /// As an index.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// What whoever asks knows an ask by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The name of an object of a partition. An object that is longer than one message of the engine is several, by `piece`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// The partition.
    pub partition: Partition,
    /// What it is.
    pub kind: ObjectKind,
    /// Which of its pieces, from 0.
    pub piece: u32,
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The index of a sealed segment, and where its blocks lie.
    Index {
        /// The segment.
        segment: u64,
    },
    /// What is known of every room as of a place in the stream.
    Checkpoint {
        /// Another for each that is ever made of the partition.
        number: u64,
    },
    /// Which checkpoint is the newest.
    Newest,
}

/// What the engine is to do. Each but [`Ask::Beat`] has one answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Put a message at the end of a partition's stream, if its last one is the expected one.
    Append {
        /// The partition.
        partition: Partition,
        /// For the answer.
        ticket: Ticket,
        /// The sequence of the stream's last message; 0: it never had one.
        expected: u64,
        /// The message.
        bytes: Bytes,
    },
    /// Where a partition's stream begins and ends.
    Tail {
        /// The partition.
        partition: Partition,
        /// For the answer.
        ticket: Ticket,
    },
    /// Messages of a partition's stream, from a sequence on, in order.
    Read {
        /// The partition.
        partition: Partition,
        /// For the answer.
        ticket: Ticket,
        /// The first sequence.
        from: u64,
        /// Messages at most.
        messages_max: u32,
        /// Bytes to stop at: the message that reaches them is the last one.
        bytes_max: u32,
    },
    /// Forget a partition's messages before that sequence.
    Purge {
        /// The partition.
        partition: Partition,
        /// For the answer.
        ticket: Ticket,
        /// The first that stays.
        first: u64,
    },
    /// Keep an object in the place of the one of that name.
    Put {
        /// For the answer.
        ticket: Ticket,
        /// Its name.
        name: ObjectName,
        /// Only if the one of that name is of that version; 0: only if there is none. None: in any case.
        expected: Option<u64>,
        /// The object.
        bytes: Bytes,
    },
    /// The object of that name.
    Get {
        /// For the answer.
        ticket: Ticket,
        /// Its name.
        name: ObjectName,
    },
    /// Forget all pieces of an object.
    Remove {
        /// For the answer.
        ticket: Ticket,
        /// The partition.
        partition: Partition,
        /// What it is.
        kind: ObjectKind,
    },
    /// Tell all nodes, without keeping it.
    Beat {
        /// What.
        bytes: Bytes,
    },
}

/// What the engine did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is stored there.
    Appended {
        /// As it was asked.
        ticket: Ticket,
        /// Where.
        sequence: u64,
    },
    /// It is not stored by this ask: the stream's last message is another one.
    Refused {
        /// As it was asked.
        ticket: Ticket,
        /// The stream's last sequence, with the appends that are still under way: what lies there may not be readable yet, or never be.
        last: u64,
    },
    /// It is not stored by this ask: the stream holds as much as it may.
    Full {
        /// As it was asked.
        ticket: Ticket,
    },
    /// Nobody knows whether it is stored, or will be.
    Silent {
        /// As it was asked.
        ticket: Ticket,
    },
    /// What is known of a stream's ends; none: nothing came.
    Tail {
        /// As it was asked.
        ticket: Ticket,
        /// The ends.
        tail: Option<Tail>,
    },
    /// What was read; none: nothing came. Fewer than asked, or no message, says nothing about what is there.
    Read {
        /// As it was asked.
        ticket: Ticket,
        /// The messages that are there from the first sequence on, ascending, each with its sequence.
        messages: Option<Vec<(u64, Bytes)>>,
    },
    /// Whether that is done: forgotten, kept or removed. `false`: it was not expected there, or nobody knows.
    Done {
        /// As it was asked.
        ticket: Ticket,
        /// Whether.
        is_done: bool,
    },
    /// The object.
    Object {
        /// As it was asked.
        ticket: Ticket,
        /// None of that name is there, or it could not be asked for.
        object: Result<Option<Object>, Unasked>,
    },
    /// What a node told, this one too.
    Beat {
        /// What.
        bytes: Bytes,
    },
}

/// An object as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Grows with each that is put in its place.
    pub version: u64,
    /// The object.
    pub bytes: Bytes,
}

/// Where a stream begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Its first sequence; one behind `last`, where it holds nothing.
    pub first: u64,
    /// Its last sequence; 0: it never had one.
    pub last: u64,
    /// Bytes that it holds, on each server.
    pub bytes: u64,
}

/// The engine did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unasked;

impl Ask {
    /// The same ask with another ticket.
    pub fn with_ticket(mut self, other: impl FnOnce(Ticket) -> Ticket) -> Self {
        match &mut self {
            Ask::Append { ticket, .. }
            | Ask::Tail { ticket, .. }
            | Ask::Read { ticket, .. }
            | Ask::Purge { ticket, .. }
            | Ask::Put { ticket, .. }
            | Ask::Get { ticket, .. }
            | Ask::Remove { ticket, .. } => *ticket = other(*ticket),
            Ask::Beat { .. } => {}
        }
        self
    }
}

impl Answer {
    /// Whose answer it is; none: a node told it.
    pub fn ticket_mut(&mut self) -> Option<&mut Ticket> {
        match self {
            Answer::Appended { ticket, .. }
            | Answer::Refused { ticket, .. }
            | Answer::Full { ticket }
            | Answer::Silent { ticket }
            | Answer::Tail { ticket, .. }
            | Answer::Read { ticket, .. }
            | Answer::Done { ticket, .. }
            | Answer::Object { ticket, .. } => Some(ticket),
            Answer::Beat { .. } => None,
        }
    }
}
