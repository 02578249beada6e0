//! Pages of history for those who catch up or fetch: from memory where it holds them, from the log where not, so many
//! bytes a turn that live messages do not wait behind a crowd that comes back.

use std::collections::VecDeque;

use banter_log::reading::{PageRead, PageWant};
use banter_protocol::ids::{Epoch, RequestId, RoomId, RoomName, Sequence};
use banter_protocol::request::FetchFrom;
use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::address::{Peer, SubscriptionId};
use crate::commits::log_author;
use crate::history::PageLimit;
use crate::loading::too_many_rooms;
use crate::parcel::{Answer, Down, Page};
use crate::rooms::Rooms;
use crate::turn::Turn;

/// A page that somebody waits for. Its answer is owed.
#[derive(Debug)]
pub enum PageJob {
    /// The next page of a subscription that is behind.
    CatchUp {
        /// The room.
        room: RoomId,
        /// The connection.
        reader: Peer,
        /// Its reading of the room.
        subscription: SubscriptionId,
        /// How far it has read.
        after: Sequence,
        /// Whether it wants its own posts.
        echo: bool,
    },
    /// The answer to a `fetch`.
    Fetch {
        /// The room.
        room: RoomName,
        /// The connection.
        asker: Peer,
        /// The client's number.
        request: RequestId,
        /// Which way, and from where.
        from: FetchFrom,
        /// Messages at most.
        messages_max: u32,
    },
}

/// The pages that are waited for; bounded, since each keeps its answer's place in a lane.
#[derive(Debug)]
pub struct Pages {
    waiting: VecDeque<PageJob>,
    /// By the ticket of their reading.
    reading: FxHashMap<u32, PageJob>,
    bytes_per_turn_max: usize,
    bytes_left: usize,
    /// Segments that did not hold what they should, for the shell to tell.
    pub(crate) damaged: Vec<u64>,
}

impl Pages {
    /// None yet.
    pub fn new(bytes_per_turn_max: u32) -> Self {
        let bytes_per_turn_max = bytes_per_turn_max as usize;
        Pages {
            waiting: VecDeque::new(),
            reading: FxHashMap::default(),
            bytes_per_turn_max,
            bytes_left: bytes_per_turn_max,
            damaged: Vec::new(),
        }
    }

    /// Adds one.
    pub fn push(&mut self, job: PageJob) {
        self.waiting.push_back(job);
    }

    /// A turn begins.
    pub fn begin_turn(&mut self) {
        self.bytes_left = self.bytes_per_turn_max;
    }

    /// Whether this turn may hand out more.
    pub fn has_budget(&self) -> bool {
        self.bytes_left > 0
    }

    /// So much was handed out.
    pub fn spend(&mut self, bytes: usize) {
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
    }

    /// Whether pages wait for the next turn.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Segments that did not hold what they should, since the last time.
    pub fn take_damaged(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.damaged)
    }
}

impl Rooms {
    /// Serves the pages that wait, as far as this turn can afford them.
    pub fn serve_pages(&mut self, turn: &mut Turn<'_>) {
        while self.pages.has_budget()
            && let Some(job) = self.pages.waiting.pop_front()
        {
            match job {
                PageJob::CatchUp { room, reader, subscription, after, echo } => {
                    self.catch_up((room, reader, subscription, after, echo), turn);
                }
                PageJob::Fetch { room, asker, request, from, messages_max } => {
                    self.fetch((room, asker, request, from, messages_max), turn);
                }
            }
        }
    }

    fn catch_up(
        &mut self,
        (room, reader, subscription, after, echo): (RoomId, Peer, SubscriptionId, Sequence, bool),
        turn: &mut Turn<'_>,
    ) {
        let Some(&slot) = self.by_id.get(&room) else {
            // Its reader left, and the room was forgotten. The connection still waits for the page.
            let nothing = empty_page(after, after.next(), after);
            return self.send_page(reader, subscription, nothing, turn);
        };
        let first = after.next().max(self.first_available(slot));
        let history = &self.slots[slot].history;
        if first >= history.first_available() {
            let page = history.page_after(after, self.page_limit(), (!echo).then_some(reader));
            return self.send_page(reader, subscription, page, turn);
        }
        let spare = (!echo).then(|| log_author(reader));
        let want = self.want(
            slot,
            first,
            PageWanted { limit: self.page_limit(), last: Sequence(u64::MAX), newest: false, spare },
        );
        let job = PageJob::CatchUp { room, reader, subscription, after, echo };
        self.read_page(slot, want, job);
    }

    fn send_page(&mut self, reader: Peer, subscription: SubscriptionId, page: Page, turn: &mut Turn<'_>) {
        self.pages.spend(page.messages.len());
        let parcel = Down::CaughtUp { to: reader.connection, subscription, page };
        turn.lanes.send_answer(reader.core, parcel, true);
    }

    fn fetch(
        &mut self,
        (room, asker, request, from, messages_max): (RoomName, Peer, RequestId, FetchFrom, u32),
        turn: &mut Turn<'_>,
    ) {
        let id = RoomId::of(room.as_str());
        let Some(&slot) = self.by_id.get(&id) else {
            if self.journal.as_ref().is_some_and(|journal| journal.catalog().room(id).is_some()) {
                let answer = Answer::FetchRefused(too_many_rooms());
                let parcel = Down::Answer { to: asker.connection, request, answer };
                return turn.lanes.send_answer(asker.core, parcel, true);
            }
            return self.answer_fetch((room, asker, request), Epoch(0), (Bytes::new(), false), turn);
        };
        let limit = PageLimit { messages_max, ..self.page_limit() };
        let first_available = self.first_available(slot);
        let history = &self.slots[slot].history;
        let in_memory = history.first_available();
        let page = match from {
            FetchFrom::Before(before) if before <= first_available => (Bytes::new(), false),
            FetchFrom::After(after) if after.next().max(first_available) >= in_memory => {
                history.fetch_after(after, limit)
            }
            FetchFrom::Before(before)
                if first_available >= in_memory || (before > in_memory && !history.is_empty()) =>
            {
                // Where memory begins, the log goes on.
                let (messages, more) = history.fetch_before(before, limit);
                (messages, more || (first_available < in_memory && before > first_available))
            }
            FetchFrom::After(after) => {
                let first = after.next().max(first_available);
                let wanted = PageWanted { limit, last: Sequence(u64::MAX), newest: false, spare: None };
                let want = self.want(slot, first, wanted);
                return self.read_page(slot, want, PageJob::Fetch { room, asker, request, from, messages_max });
            }
            FetchFrom::Before(before) => {
                let last = before.previous().min(history.head());
                let first = self.first_before(slot, last, limit).max(first_available);
                let want = self.want(slot, first, PageWanted { limit, last, newest: true, spare: None });
                return self.read_page(slot, want, PageJob::Fetch { room, asker, request, from, messages_max });
            }
        };
        let epoch = self.slots[slot].epoch;
        self.answer_fetch((room, asker, request), epoch, page, turn);
    }

    /// Where to begin reading so that a page full ends at `last`: by the usual size of the room's messages there, with
    /// twice that as room for error. A page may then hold fewer than it could; `more` is right all the same.
    fn first_before(&self, slot: usize, last: Sequence, limit: PageLimit) -> Sequence {
        let log = self.journal.as_ref().and_then(|journal| journal.catalog().room(self.slots[slot].id));
        let usual = log.and_then(|log| log.span_of(last)).map_or(1, |span| {
            let messages = span.last.0 + 1 - span.first.0;
            (span.bytes / messages.max(1)).max(1)
        });
        let fitting = 2 * limit.bytes_max as u64 / usual;
        let messages = u64::from(limit.messages_max).min(fitting).max(1);
        Sequence(last.0.saturating_sub(messages - 1).max(1))
    }

    fn answer_fetch(
        &mut self,
        (room, asker, request): (RoomName, Peer, RequestId),
        epoch: Epoch,
        (messages, more): (Bytes, bool),
        turn: &mut Turn<'_>,
    ) {
        self.pages.spend(messages.len());
        let answer = Answer::Page { room, epoch, messages, more };
        let parcel = Down::Answer { to: asker.connection, request, answer };
        turn.lanes.send_answer(asker.core, parcel, true);
    }

    fn want(&self, slot: usize, first: Sequence, wanted: PageWanted) -> PageWant {
        let room = &self.slots[slot];
        PageWant {
            room: room.name.clone(),
            epoch: room.epoch,
            first,
            last: wanted.last.min(room.history.head()),
            messages_max: wanted.limit.messages_max,
            bytes_max: wanted.limit.bytes_max,
            newest: wanted.newest,
            spare: wanted.spare,
        }
    }

    fn read_page(&mut self, slot: usize, want: PageWant, job: PageJob) {
        // Only a room that the log knows has a message that memory has not.
        let Some(journal) = &mut self.journal else { return };
        let ticket = journal.read_page(want);
        self.pages.reading.insert(ticket, job);
        self.slots[slot].pages_read += 1;
    }

    /// A page was read from the log.
    pub(crate) fn page_read(&mut self, ticket: u32, page: Result<PageRead, u64>, turn: &mut Turn<'_>) {
        let Some(job) = self.pages.reading.remove(&ticket) else { return };
        // Nobody forgets a room of which something is being read.
        let Some(&slot) = self.by_id.get(&job.room()) else { return };
        self.slots[slot].pages_read -= 1;
        let read = match page {
            Ok(read) => read,
            Err(segment) => {
                // What is there no longer counts as kept; the reader is told of a gap, or given what is behind it.
                turn.counters.damaged_reads += 1;
                self.pages.damaged.push(segment);
                if let Some(journal) = &mut self.journal {
                    journal.catalog_mut().give_up(job.room(), segment);
                }
                return self.pages.waiting.push_front(job);
            }
        };
        if read.through < read.first {
            // It was cut before anything of it was read: there is another beginning now.
            return self.pages.waiting.push_front(job);
        }
        turn.counters.log_pages += 1;
        match job {
            PageJob::CatchUp { reader, subscription, after, .. } => {
                let head = self.slots[slot].history.head();
                let page = Page {
                    after,
                    first_available: if read.first > after.next() { read.first } else { after.next() },
                    messages: read.messages.into(),
                    messages_count: read.count,
                    through: read.through.max(after),
                    head: head.max(read.through),
                };
                self.send_page(reader, subscription, page, turn);
            }
            PageJob::Fetch { room, asker, request, from, .. } => {
                let first_available = self.first_available(slot);
                let (epoch, head) = (self.slots[slot].epoch, self.slots[slot].history.head());
                let more = match from {
                    FetchFrom::After(_) => read.through < head,
                    FetchFrom::Before(_) => read.first > first_available,
                };
                self.answer_fetch((room, asker, request), epoch, (read.messages.into(), more), turn);
            }
        }
    }
}

struct PageWanted {
    limit: PageLimit,
    last: Sequence,
    newest: bool,
    spare: Option<banter_log::record::Author>,
}

impl PageJob {
    fn room(&self) -> RoomId {
        match self {
            PageJob::CatchUp { room, .. } => *room,
            PageJob::Fetch { room, .. } => RoomId::of(room.as_str()),
        }
    }
}

fn empty_page(after: Sequence, first_available: Sequence, head: Sequence) -> Page {
    let through = after.max(first_available.previous());
    Page { after, first_available, messages: Bytes::new(), messages_count: 0, through, head }
}
