//! One connection as its core knows it: who it is, what it may still send, and what waits to be sent to it.

use std::sync::Arc;

use banter_access::proof::Proof;
use banter_access::rights::Rights;
use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event;
use banter_protocol::features::Features;
use banter_protocol::ids::{Sequence, UserName};
use banter_protocol::wire::WireForm;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::audience::{Audience, Class};
use crate::latencies::PageSource;
use crate::rates::Rates;

/// Room for an answer and a message that goes out with it, so that both allocate once.
const OUTBOX_BYTES_USUAL: usize = 512;

/// A connection's state. An idle one that has joined a room keeps nothing on the heap but its user's name.
#[derive(Debug)]
pub struct Session {
    /// Which of the connections that had the slot.
    pub generation: u32,
    /// Its wire form.
    pub form: WireForm,
    /// Where it stands.
    pub stage: Stage,
    /// Who it is, once it said hello.
    pub user: Option<UserName>,
    /// What both sides know beyond the protocol's base, and thus what may come.
    pub agreed: Features,
    /// Bytes that only this connection gets: answers, signals, pages.
    pub outbox: Vec<u8>,
    /// Bytes of the send in flight that came from the outbox.
    pub in_flight_bytes: u32,
    /// A send is in flight.
    pub in_flight: bool,
    /// It stands in the list of those that may have something to send.
    pub is_ready: bool,
    /// It is not being read for now.
    pub is_paused: bool,
    /// It was asked whether it is there.
    pub was_pinged: bool,
    /// A page for one of its subscriptions is on its way, by where it comes from.
    pub page_asked: [bool; PageSource::ALL.len()],
    /// Tokens of it that were refused.
    pub tokens_refused: u8,
    /// It waits for its turn to ask for a page.
    pub page_queued: [bool; PageSource::ALL.len()],
    /// A presence event was replaced by a count that is still to be told.
    pub has_stale_presence: bool,
    /// One of its subscriptions does not want its own posts.
    pub spares_own: bool,
    /// Bytes that waited for it when they were counted last.
    pub counted_bytes: u32,
    /// Bytes kept free in the outbox for answers that are still to come.
    pub reserved_bytes: u32,
    /// Parcels of it that wait for a full lane.
    pub lane_waits: u32,
    /// Posts of it without an answer.
    pub posts_open: u32,
    /// Its readings of rooms.
    pub subscriptions: SmallVec<[u32; 2]>,
    /// The same by the room's slot on this core, where they are many.
    pub by_room: Option<Box<FxHashMap<u32, u32>>>,
    /// Those of them with frames to send.
    pub pending: SmallVec<[u32; 2]>,
    /// How many of them are behind.
    pub behind: u32,
    /// What it may still ask.
    pub rates: Rates,
    /// When the last byte came: the low half of the turn's clock, which lasts for 49 days, and silence for one at most.
    pub heard_ms: u32,
    /// When it said who it is.
    pub since: Moment,
    /// Its user's home was told of it.
    pub is_at_home: bool,
    /// What its token proved, where tokens are asked for.
    pub proof: Option<Arc<Proof>>,
}

/// A time of the turns' clock, in microseconds and 6 bytes: it lasts for 8 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment([u8; 6]);

impl Moment {
    /// That many microseconds behind the server's start.
    pub fn at_us(us: u64) -> Self {
        let [a, b, c, d, e, f, ..] = us.to_le_bytes();
        Moment([a, b, c, d, e, f])
    }

    /// Microseconds behind the server's start.
    pub fn us(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The slot is nobody's.
    Free,
    /// `hello` is still to come.
    Opened,
    /// Its token is being judged: it is not read.
    Proving,
    /// It may ask.
    Greeted,
    /// A token that it showed later is being judged: it is not read, and all else goes on.
    Reproving,
    /// What is in the outbox is still sent, and then it ends.
    Closing,
    /// The shell was told to end it.
    Ended,
}

impl Session {
    /// Whom a reading of it is sent the same as.
    pub fn audience(&self, reading: &Subscription) -> Audience {
        Audience { form: self.form, class: reading.class }
    }

    /// For a slot that nobody has.
    pub fn free() -> Self {
        Session {
            generation: 0,
            form: WireForm::Json,
            stage: Stage::Free,
            user: None,
            agreed: Features::NONE,
            outbox: Vec::new(),
            in_flight_bytes: 0,
            in_flight: false,
            is_ready: false,
            is_paused: false,
            was_pinged: false,
            page_asked: Default::default(),
            tokens_refused: 0,
            page_queued: Default::default(),
            has_stale_presence: false,
            spares_own: false,
            counted_bytes: 0,
            reserved_bytes: 0,
            lane_waits: 0,
            posts_open: 0,
            subscriptions: SmallVec::new(),
            by_room: None,
            pending: SmallVec::new(),
            behind: 0,
            rates: Rates::default(),
            heard_ms: 0,
            since: Moment::default(),
            is_at_home: false,
            proof: None,
        }
    }

    /// Whether events may still be written to it.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Opened | Stage::Proving | Stage::Greeted | Stage::Reproving)
    }

    /// Appends an event to the outbox.
    pub fn write(&mut self, event: &Event<'_>) {
        if self.outbox.capacity() == 0 {
            self.outbox.reserve(OUTBOX_BYTES_USUAL);
        }
        self.form.write_event_to(event, self.agreed, &mut self.outbox);
    }

    /// Bytes that wait for it, with those that answers will add.
    pub fn waiting_bytes(&self) -> u64 {
        self.outbox.len() as u64 + u64::from(self.in_flight_bytes) + u64::from(self.reserved_bytes)
    }

    /// Whether anything keeps it from being called quiet.
    pub fn is_flushed(&self) -> bool {
        !self.in_flight && self.outbox.is_empty() && self.pending.is_empty()
    }
}

/// One connection's reading of one room.
#[derive(Debug)]
pub struct Subscription {
    /// The connection's slot.
    pub connection: u32,
    /// The room's slot among the rooms that are read on this core.
    pub room: u32,
    /// Its place in the room's list.
    pub place: u32,
    /// Which join it stands for.
    pub join: u32,
    /// The first join that it stood for: answers to older ones are those of a reading that was left.
    pub first_join: u32,
    /// How it reads.
    pub state: ReadState,
    /// Whether a join was ever done: then `sequence` means something.
    pub is_placed: bool,
    /// Whether it wants its own posts.
    pub echo: bool,
    /// Whether it wants to hear who comes and goes.
    pub presence: bool,
    /// The room's newest telling of who came and went that it was told.
    pub told: u32,
    /// It stands in its connection's `pending`.
    pub is_pending: bool,
    /// Why it ends as soon as the join that is on its way is answered.
    pub ended_by: Option<ErrorCode>,
    /// What its connection may do in the room.
    pub rights: Rights,
    /// Which views it is shown, among the room's classes on this core.
    pub class: Class,
    /// Where it is in the run, while it is live.
    pub position: u64,
    /// The newest message that was handed to the socket.
    pub sequence: Sequence,
    /// Own posts in the run that it does not want.
    pub skips: Option<Box<Skips>>,
}

/// How a subscription reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadState {
    /// The room has not answered its join.
    Joining,
    /// From the run.
    Live,
    /// From the history, page by page.
    Behind,
}

/// Parts of a run that a subscription leaves out, ascending.
pub type Skips = std::collections::VecDeque<Skip>;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Skip {
    /// Where the part starts.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// The newest message before it.
    pub before: Sequence,
    /// The newest message in it, or before it: a signal has no place.
    pub through: Sequence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_what_it_was_made_of() {
        for us in [0, 1, 255, 256, 1 << 40, (1 << 48) - 1] {
            assert_eq!(Moment::at_us(us).us(), us);
        }
    }

    #[test]
    fn an_idle_connection_is_small() {
        // The README's figure of bytes an idle connection stands on these two.
        assert!(size_of::<Session>() <= 192, "{}", size_of::<Session>());
        assert!(size_of::<Subscription>() <= 64, "{}", size_of::<Subscription>());
    }
}
