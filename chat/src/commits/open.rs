//! What waits for its room's level: posts with their places, what a program did without one, and answers among them; and what each
//! takes of a commit and of memory meanwhile.

use std::collections::VecDeque;

use banter_log::key::KeyedPost;
use banter_log::record::{SENT_HASH_BYTES, message_bytes};
use banter_protocol::ids::RequestId;
use bytes::Bytes;

use super::log_is_full;
use crate::address::Peer;
use crate::parcel::{Answer, Record};
use crate::program::Effect;
use crate::programs::By;

/// Bytes that an answer counts for in a commit: it takes none there, and has to have some end.
const ANSWER_BYTES: usize = 64;
/// Bytes of an effect beside what it says.
const EFFECT_BYTES: usize = 64;

/// What of a logged room waits for a commit, in order.
#[derive(Debug, Default)]
pub struct RoomQueue {
    pub(super) open: VecDeque<Open>,
    /// What was taken out of it, and is not done yet.
    pub(super) in_flight: u32,
    /// How many of the first ones nobody waits for any more (`holding.rs`).
    pub(super) told: u32,
}

impl RoomQueue {
    /// The first, for a commit.
    pub(super) fn pop(&mut self) -> Option<Open> {
        self.told = self.told.saturating_sub(1);
        self.open.pop_front()
    }

    /// It is the first again.
    pub(super) fn put_back(&mut self, open: Open) {
        // What is ahead of one that was told was told too.
        self.told += u32::from(self.told > 0 || open.waits_since_ms().is_none());
        self.open.push_front(open);
    }

    /// All of it.
    pub(super) fn take(&mut self) -> VecDeque<Open> {
        self.told = 0;
        std::mem::take(&mut self.open)
    }

    /// Whether nothing of the room waits.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.in_flight == 0
    }
}

/// What waits for its room's level.
#[derive(Debug)]
pub enum Open {
    /// A post. Its room stays while it is open.
    Post {
        /// The message.
        record: Record,
        /// The client's number.
        request: RequestId,
        /// The message's time, milliseconds since 1970.
        time_ms: u64,
        /// Its key.
        key: Option<KeyedPost>,
        /// When its place was given, in the turns' microseconds.
        since_us: u64,
        /// What a program did with it.
        decided: Option<Box<Decided>>,
        /// It was answered that nobody knows what becomes of it.
        is_answered: bool,
    },
    /// What a program did where nothing has a place. Its room stays while it is open.
    State {
        /// That.
        decided: Box<Decided>,
    },
    /// An answer.
    Answer {
        /// Who gets it.
        to: Peer,
        /// The client's number.
        request: RequestId,
        /// What is answered.
        answer: Answer,
        /// Since when it waits, in the turns' microseconds.
        since_us: u64,
    },
    /// An answer that was given.
    Told,
}

/// What a program did, that counts once its room's level is reached.
#[derive(Debug, Default)]
pub struct Decided {
    /// The room's state behind it, where it changed.
    pub state: Option<Bytes>,
    /// What is done then.
    pub effects: Vec<Effect>,
    /// What stands for the body as it was posted, where it has a key and was edited.
    pub sent_body_hash: Option<u64>,
    /// Nobody posted it but the program, and nobody is answered.
    pub is_own: bool,
    /// It goes in the same commit as what is ahead of it.
    pub is_behind: bool,
    /// How many programs what it is about came through.
    pub hop: u8,
    /// The program; none: it did nothing beside.
    pub by: Option<By>,
}

impl Open {
    /// Bytes that it takes of a commit, beside its room's state.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Open::Post { record, decided, .. } => {
                let hash = decided.as_ref().and_then(|decided| decided.sent_body_hash).map_or(0, |_| SENT_HASH_BYTES);
                message_bytes(record.frame.len()) + hash
            }
            Open::State { .. } | Open::Answer { .. } | Open::Told => ANSWER_BYTES,
        }
    }

    /// Bytes that it takes of memory while it waits: a program's state and effects, too.
    pub(super) fn waiting_bytes(&self) -> u64 {
        let decided = match self {
            Open::Post { decided, .. } => decided.as_ref(),
            Open::State { decided } => Some(decided),
            Open::Answer { .. } | Open::Told => None,
        };
        let state = |decided: &Decided| decided.state.as_ref().map_or(0, Bytes::len);
        let beside = decided.map_or(0, |decided| {
            state(decided) + decided.effects.iter().map(|effect| EFFECT_BYTES + effect.body_bytes()).sum::<usize>()
        });
        (self.bytes() + beside) as u64
    }

    /// Whether the log has to have something of it: then its room stays, too.
    pub(super) fn is_record(&self) -> bool {
        matches!(self, Open::Post { .. } | Open::State { .. })
    }

    pub(super) fn without_acknowledgement(self) -> Self {
        match self {
            Open::Answer { to, request, answer: Answer::Posted { .. } | Answer::Taken { .. }, since_us } => {
                Open::Answer { to, request, answer: Answer::PostRefused(log_is_full()), since_us }
            }
            open => open,
        }
    }

    pub(super) fn is_behind(&self) -> bool {
        matches!(self, Open::Post { decided: Some(decided), .. } if decided.is_behind)
    }

    /// The room's state behind it, where it changed.
    pub(super) fn state(&self) -> Option<&Bytes> {
        match self {
            Open::Post { decided, .. } => decided.as_ref()?.state.as_ref(),
            Open::State { decided } => decided.state.as_ref(),
            Open::Answer { .. } | Open::Told => None,
        }
    }
}

/// What is behind the first, and goes with it.
pub(super) fn behind(open: &VecDeque<Open>) -> impl Iterator<Item = &Open> {
    open.iter().skip(1).take_while(|open| open.is_behind())
}
