//! Pages of history for those who catch up or fetch: from memory where it holds them, from the log where not, so many
//! bytes a turn that live messages do not wait behind a crowd that comes back.

use std::collections::VecDeque;

use banter_access::rights::Rights;
use banter_log::reading::{PageRead, PageWant, ReadFault};
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::ids::{Epoch, RoomId, Sequence};
use banter_protocol::request::FetchFrom;
use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::access::lacks;
use crate::closing::unavailable;
use crate::commits::log_author;
use crate::history::PageLimit;
use crate::latencies::PageSource;
use crate::loading::too_many_rooms;
use crate::logs::{LogId, Reading};
use crate::parcel::{Answer, CatchUp, Down, FetchAsk, Page, Refusal, Up};
use crate::rooms::Rooms;
use crate::turn::Turn;

/// Pages that one turn serves at most, however small they are.
const PAGES_A_TURN: usize = 256;

/// Pages that may wait when another `fetch` comes; it is refused above them. Whoever fetches over ever new connections
/// while a disk hangs is not bounded by what one connection may ask.
const FETCHES_WAITING_MAX: usize = 16_384;

/// When to try again what could not be read, in milliseconds.
pub const READ_RETRY_AFTER_MS: u64 = 1_000;

/// What a page is for.
#[derive(Debug)]
pub enum PageAsk {
    /// The next page of a subscription that is behind.
    CatchUp(CatchUp),
    /// The answer to a `fetch`.
    Fetch(FetchAsk),
}

/// A page that somebody waits for.
#[derive(Debug)]
struct PageJob {
    ask: PageAsk,
    /// When it was asked, in the turns' microseconds.
    since_us: u64,
    /// Where what was asked of the log begins.
    first: Sequence,
}

/// The pages that are waited for; bounded by what connections may have asked.
#[derive(Debug)]
pub struct Pages {
    waiting: VecDeque<PageJob>,
    reading: FxHashMap<Reading, PageJob>,
    bytes_per_turn_max: usize,
    bytes_left: usize,
    /// What this turn may still serve.
    left: usize,
    /// What could not be read, for the shell to tell.
    pub(crate) faults: Vec<(LogId, ReadFault)>,
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
            left: PAGES_A_TURN,
            faults: Vec::new(),
        }
    }

    /// Adds one.
    pub fn push(&mut self, ask: PageAsk, turn: &mut Turn<'_>) {
        match ask {
            PageAsk::Fetch(ask) if self.waiting_count() >= FETCHES_WAITING_MAX => {
                refuse_fetch(&ask, too_many_pages(), turn);
            }
            PageAsk::Fetch(ask) if !ask.rights.contains(Rights::HISTORY) => {
                refuse_fetch(&ask, lacks(Rights::HISTORY), turn);
            }
            ask => self.waiting.push_back(PageJob { ask, since_us: turn.now.monotonic_us, first: Sequence(0) }),
        }
    }

    /// A turn begins.
    pub fn begin_turn(&mut self) {
        self.bytes_left = self.bytes_per_turn_max;
        self.left = PAGES_A_TURN;
    }

    /// Whether this turn may hand out more.
    pub fn has_budget(&self) -> bool {
        self.bytes_left > 0 && self.left > 0
    }

    /// Whether a page that is asked for now may be handed out at once: nobody waits for one.
    pub fn is_next(&self) -> bool {
        self.has_budget() && self.waiting.is_empty()
    }

    /// A page of so many bytes was handed out.
    pub fn spend(&mut self, bytes: usize) {
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.left = self.left.saturating_sub(1);
    }

    /// Pages that wait, here and for the log.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len() + self.reading.len()
    }

    /// Whether pages wait for the next turn.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What could not be read since the last time.
    pub fn take_faults(&mut self) -> Vec<(LogId, ReadFault)> {
        std::mem::take(&mut self.faults)
    }
}

impl Rooms {
    /// Serves the pages that wait, as far as this turn can afford them.
    pub fn serve_pages(&mut self, turn: &mut Turn<'_>) {
        while self.pages.has_budget()
            && let Some(job) = self.pages.waiting.pop_front()
        {
            turn.counters.steps += 1;
            let since_us = job.since_us;
            match job.ask {
                PageAsk::CatchUp(ask) => self.catch_up(ask, since_us, turn),
                PageAsk::Fetch(ask) => self.fetch(ask, since_us, turn),
            }
        }
    }

    fn catch_up(&mut self, ask: CatchUp, since_us: u64, turn: &mut Turn<'_>) {
        let CatchUp { room, reader, after, echo, .. } = ask;
        if self.logs.is_closed_to(room) {
            return self.send_unread(ask, turn);
        }
        let Some(&slot) = self.by_id.get(&room) else {
            if self.logs.are_partitions() {
                // Or its log was closed and opened meanwhile, and the connection is about to end.
                return self.send_unread(ask, turn);
            }
            // Its reader left, and the room was forgotten. The connection still waits for the page.
            let nothing = empty_page(after, after.next(), after);
            return self.send_page(ask, nothing, turn);
        };
        let first = after.next().max(self.first_available(slot));
        let history = &self.slots[slot].history;
        if first >= history.first_available() {
            let shown = self.slots[slot].shown();
            let page = history.page_after(after, shown, self.page_limit(), (!echo).then_some(reader));
            measure(PageSource::Memory, since_us, turn);
            return self.send_page(ask, page, turn);
        }
        let spare = (!echo).then(|| log_author(reader));
        let want = self.want(
            slot,
            first,
            PageWanted { limit: self.page_limit(), last: Sequence(u64::MAX), newest: false, spare },
        );
        self.read_page(slot, want, PageAsk::CatchUp(ask), since_us);
    }

    fn send_page(&mut self, ask: CatchUp, page: Page, turn: &mut Turn<'_>) {
        self.pages.spend(page.messages.len());
        let CatchUp { reader, subscription, ticket, .. } = ask;
        let parcel = Down::CaughtUp { to: reader.connection, subscription, ticket, page };
        turn.lanes.send_answer(reader.core, parcel);
    }

    fn fetch(&mut self, mut ask: FetchAsk, since_us: u64, turn: &mut Turn<'_>) {
        if let Err(refusal) = self.must_be_open(RoomId::of(ask.room.as_str())) {
            return refuse_fetch(&ask, refusal, turn);
        }
        // It waited, and the room came meanwhile.
        if let Some(&slot) = self.by_id.get(&RoomId::of(ask.room.as_str()))
            && !ask.is_judged
        {
            if self.slots[slot].held.is_some() {
                return self.hold(Some(slot), Up::Fetch(ask), turn);
            }
            if let Err(refusal) = self.judge_fetch(slot, &mut ask, turn) {
                return refuse_fetch(&ask, refusal, turn);
            }
        }
        let FetchAsk { room, asker, request, from, messages_max, least, .. } = &ask;
        let (asker, request, messages_max, least) = (*asker, *request, *messages_max, *least);
        let id = RoomId::of(room.as_str());
        let Some(&slot) = self.by_id.get(&id) else {
            if self.logs.of(id).is_some_and(|journal| journal.catalog().room(id).is_some()) {
                let answer = Answer::FetchRefused(too_many_rooms());
                let parcel = Down::Answer { to: asker.connection, request, answer };
                return turn.lanes.send_answer(asker.core, parcel);
            }
            measure(PageSource::Memory, since_us, turn);
            return self.answer_fetch(ask, Epoch(0), (Bytes::new(), false), turn);
        };
        let limit = PageLimit { messages_max, ..self.page_limit() };
        let first_available = self.first_available(slot).max(least);
        let (history, shown) = (&self.slots[slot].history, self.slots[slot].shown());
        let in_memory = history.first_available();
        let from = match *from {
            FetchFrom::Before(before) => FetchFrom::Before(before.min(shown.next())),
            FetchFrom::After(after) => FetchFrom::After(after.max(least.previous())),
        };
        let page = match from {
            FetchFrom::Before(before) if before <= first_available => (Bytes::new(), false),
            FetchFrom::After(after) if after.next().max(first_available) >= in_memory => {
                history.fetch_after(after, shown, limit)
            }
            FetchFrom::Before(before)
                if first_available >= in_memory || (before > in_memory && !history.is_empty()) =>
            {
                // Where memory begins, the log goes on.
                let left = u32::try_from(before.0 - first_available.0).unwrap_or(u32::MAX);
                let is_bound = first_available == least && limit.messages_max >= left;
                let limit = PageLimit { messages_max: limit.messages_max.min(left), ..limit };
                let (messages, more) = history.fetch_before(before, limit);
                (messages, !is_bound && (more || (first_available < in_memory && before > first_available)))
            }
            FetchFrom::After(after) => {
                let first = after.next().max(first_available);
                let wanted = PageWanted { limit, last: Sequence(u64::MAX), newest: false, spare: None };
                let want = self.want(slot, first, wanted);
                return self.read_page(slot, want, PageAsk::Fetch(ask), since_us);
            }
            FetchFrom::Before(before) => {
                let wanted = PageWanted { limit, last: before.previous(), newest: true, spare: None };
                let want = self.want(slot, first_available, wanted);
                return self.read_page(slot, want, PageAsk::Fetch(ask), since_us);
            }
        };
        let epoch = self.slots[slot].epoch;
        measure(PageSource::Memory, since_us, turn);
        self.answer_fetch(ask, epoch, page, turn);
    }

    fn answer_fetch(&mut self, ask: FetchAsk, epoch: Epoch, (messages, more): (Bytes, bool), turn: &mut Turn<'_>) {
        let FetchAsk { room, asker, request, .. } = ask;
        self.pages.spend(messages.len());
        let answer = Answer::Page { room, epoch, messages, more };
        let parcel = Down::Answer { to: asker.connection, request, answer };
        turn.lanes.send_answer(asker.core, parcel);
    }

    fn want(&self, slot: usize, first: Sequence, wanted: PageWanted) -> PageWant {
        let room = &self.slots[slot];
        PageWant {
            room: room.name.clone(),
            epoch: room.epoch,
            first,
            last: wanted.last.min(room.shown()),
            messages_max: wanted.limit.messages_max,
            bytes_max: wanted.limit.bytes_max,
            newest: wanted.newest,
            spare: wanted.spare,
        }
    }

    fn read_page(&mut self, slot: usize, want: PageWant, ask: PageAsk, since_us: u64) {
        // Only a room that the log knows has a message that memory has not.
        let log = self.logs.id_of(self.slots[slot].id);
        let Some(journal) = self.logs.get_mut(log) else { return };
        let first = want.first;
        let ticket = journal.read_page(want);
        self.pages.reading.insert(Reading { log, ticket }, PageJob { ask, since_us, first });
        self.slots[slot].pages_read += 1;
        self.is_used(slot);
    }

    /// A page was read from the log.
    pub(crate) fn page_read(&mut self, reading: Reading, page: Result<PageRead, ReadFault>, turn: &mut Turn<'_>) {
        let Some(job) = self.pages.reading.remove(&reading) else { return };
        // Nobody forgets a room of which something is being read.
        let Some(&slot) = self.by_id.get(&job.room()) else { return };
        self.slots[slot].pages_read -= 1;
        self.queue_if_idle(slot);
        let read = match page {
            Ok(read) => read,
            Err(fault) => return self.page_unread(reading.log, job, fault, turn),
        };
        // Of what is before a place there was something when it was asked.
        if read.through < read.first && (read.first <= self.slots[slot].shown() || job.first_wanted().is_none()) {
            let journal = self.logs.get(reading.log);
            let is_cutting = journal.is_some_and(|journal| journal.catalog().has_cut());
            if is_cutting || self.first_available(slot) > job.first {
                // It was cut before anything of it was read: there is another beginning now, or soon.
                return self.pages.waiting.push_front(job);
            }
            // Nothing says why nothing of it is there. Whoever asked is told to come again, and nobody waits for ever.
            let room = self.logs.get(reading.log).and_then(|journal| journal.catalog().room(job.room()));
            let segment = room.map_or(0, |room| room.newest_segment);
            return self.page_unread(reading.log, job, ReadFault::Unreadable { segment }, turn);
        }
        turn.counters.log_pages += 1;
        measure(PageSource::Log, job.since_us, turn);
        if let (Some(first), Some(journal)) = (job.first_wanted(), self.logs.get_mut(reading.log))
            && read.first > first.max(journal.catalog().room(job.room()).map_or(Sequence(0), |room| room.first))
        {
            // The log has less of the room than was known: the segments before are gone.
            journal.catalog_mut().lose_before(job.room(), read.first);
        }
        if job.first_wanted().is_some_and(|first| read.first > first.max(self.first_available(slot))) {
            // Memory has what was cut from the log meanwhile.
            return self.pages.waiting.push_front(job);
        }
        match job.ask {
            PageAsk::CatchUp(ask) => {
                let after = ask.after;
                let room = &self.slots[slot];
                let page = Page {
                    after,
                    first_available: if read.first > after.next() { read.first } else { after.next() },
                    messages: read.messages.into(),
                    messages_count: read.count,
                    through: read.through.max(after),
                    head: room.shown().max(read.through),
                    memory_from: room.history.first_available(),
                    is_unread: false,
                };
                self.send_page(ask, page, turn);
            }
            PageAsk::Fetch(ask) => {
                let first_available = self.first_available(slot);
                let (epoch, head) = (self.slots[slot].epoch, self.slots[slot].shown());
                let more = match ask.from {
                    FetchFrom::After(_) => read.through < head,
                    FetchFrom::Before(_) => read.first > first_available,
                };
                self.answer_fetch(ask, epoch, (read.messages.into(), more), turn);
            }
        }
    }
}

impl Rooms {
    /// A page could not be read. Where damage was proved, what is there no longer counts as kept: the reader is told of a gap,
    /// and given what is behind it. Where a read failed, everything is as it was, and is asked for again later.
    fn page_unread(&mut self, log: LogId, job: PageJob, fault: ReadFault, turn: &mut Turn<'_>) {
        turn.counters.damaged_reads += 1;
        self.pages.faults.push((log, fault));
        match (fault, job.ask) {
            (ReadFault::Damaged { first, .. }, ask) => {
                let job = PageJob { ask, ..job };
                if let Some(journal) = self.logs.get_mut(log) {
                    journal.catalog_mut().lose_before(job.room(), first);
                }
                self.pages.waiting.push_front(job);
            }
            // A page says nothing of states.
            (ReadFault::Unreadable { .. } | ReadFault::StateDamaged { .. }, PageAsk::Fetch(ask)) => {
                refuse_fetch(&ask, unreadable(), turn)
            }
            (ReadFault::Unreadable { .. } | ReadFault::StateDamaged { .. }, PageAsk::CatchUp(ask)) => {
                self.send_unread(ask, turn)
            }
        }
    }

    /// A page is to be asked for again, later.
    pub(crate) fn send_unread(&mut self, ask: CatchUp, turn: &mut Turn<'_>) {
        let after = ask.after;
        let page = Page { is_unread: true, ..empty_page(after, after.next(), after) };
        self.send_page(ask, page, turn);
    }

    /// Pages that are read of that log come no more, and its rooms leave memory.
    pub(crate) fn refuse_pages_of(&mut self, log: LogId, turn: &mut Turn<'_>) {
        let jobs: Vec<PageJob> =
            self.pages.reading.extract_if(|reading, _| reading.log == log).map(|(_, job)| job).collect();
        for job in jobs {
            match job.ask {
                PageAsk::CatchUp(ask) => self.send_unread(ask, turn),
                PageAsk::Fetch(ask) => refuse_fetch(&ask, unavailable(), turn),
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
    /// The first message that a page towards the head is to hold.
    fn first_wanted(&self) -> Option<Sequence> {
        match &self.ask {
            PageAsk::CatchUp(ask) => Some(ask.after.next()),
            PageAsk::Fetch(FetchAsk { from: FetchFrom::After(after), .. }) => Some(after.next()),
            PageAsk::Fetch(_) => None,
        }
    }

    fn room(&self) -> RoomId {
        match &self.ask {
            PageAsk::CatchUp(ask) => ask.room,
            PageAsk::Fetch(ask) => RoomId::of(ask.room.as_str()),
        }
    }
}

pub(crate) fn refuse_fetch(ask: &FetchAsk, refusal: Refusal, turn: &mut Turn<'_>) {
    let (to, request, answer) = (ask.asker.connection, ask.request, Answer::FetchRefused(refusal));
    turn.lanes.send_answer(ask.asker.core, Down::Answer { to, request, answer });
}

/// What is answered while the log cannot be read.
pub(crate) fn unreadable() -> Refusal {
    Refusal {
        code: ErrorCode::Overloaded,
        message: "the log could not be read: nothing is lost, ask again".into(),
        retry_after_ms: Some(READ_RETRY_AFTER_MS),
        scope: Some(Scope::Server),
        reason: None,
    }
}

fn too_many_pages() -> Refusal {
    Refusal {
        code: ErrorCode::Overloaded,
        message: "too many pages wait to be read".into(),
        retry_after_ms: Some(1_000),
        scope: Some(Scope::Server),
        reason: None,
    }
}

fn measure(source: PageSource, since_us: u64, turn: &mut Turn<'_>) {
    turn.latencies.page[source as usize].record_us(turn.now.monotonic_us.saturating_sub(since_us));
}

fn empty_page(after: Sequence, first_available: Sequence, head: Sequence) -> Page {
    let through = after.max(first_available.previous());
    let memory_from = first_available;
    let messages = Bytes::new();
    Page { after, first_available, messages, messages_count: 0, through, head, memory_from, is_unread: false }
}
