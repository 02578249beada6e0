//! What memory holds of a room's messages: the newest ones, dense, and the pages that readers get of them.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use banter_log::erasure::Erasure;
use banter_protocol::ids::Sequence;
use bytes::{Bytes, BytesMut};

use crate::address::Peer;
use crate::parcel::{Page, Record};

/// Bytes that a kept message costs beyond its frame: the record itself and the allocation's header.
pub const RECORD_OVERHEAD_BYTES: u64 = 96;

/// The newest messages of a room.
///
/// Invariant: the records are dense, and the last of them is the head (or there are none).
#[derive(Debug, Default)]
pub struct History {
    records: VecDeque<Record>,
    head: Sequence,
    bytes: u64,
    /// What is to be erased, and may still be in some of the records.
    hidden: Vec<Arc<Erasure>>,
}

/// Messages that one page looks at at most: one that leaves out own posts comes to an end where there is nothing else.
const LOOKS_MAX: usize = 2_048;

/// How much a page may hold. The first message always fits, so that every page gets on.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// Messages.
    pub messages_max: u32,
    /// Bytes of frames.
    pub bytes_max: usize,
}

impl History {
    /// Without messages, behind those up to `head`, which memory does not hold.
    pub fn behind(head: Sequence) -> Self {
        History { head, ..History::default() }
    }

    /// The newest message's place; 0 before the first.
    pub fn head(&self) -> Sequence {
        self.head
    }

    /// The oldest message that is here, or the one behind the head.
    pub fn first_available(&self) -> Sequence {
        Sequence(self.head.0 + 1 - self.records.len() as u64)
    }

    /// Messages kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes that it costs in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the message behind the head.
    pub fn push(&mut self, record: Record) {
        assert_eq!(record.sequence, self.head.next(), "a history is dense");
        self.head = record.sequence;
        self.bytes += cost(&record);
        self.records.push_back(record);
    }

    /// Forgets the oldest message; `false` if there is none.
    pub fn forget_oldest(&mut self) -> bool {
        let Some(oldest) = self.records.pop_front() else { return false };
        self.bytes -= cost(&oldest);
        if self.records.is_empty() {
            self.records = VecDeque::new();
        }
        true
    }

    /// The page behind a place, up to `head` at most. `spare` leaves out the posts of that connection.
    pub fn page_after(&self, after: Sequence, head: Sequence, limit: PageLimit, spare: Option<Peer>) -> Page {
        let skip = (after.0 + 1).saturating_sub(self.first_available().0) as usize;
        let first_available = self.first_available().min(head.next());
        let mut messages = PageBytes::new(limit);
        let mut through = after.max(first_available.previous());
        let is_there = |record: &&Record| record.sequence <= head;
        for record in self.records.iter().skip(skip).take_while(is_there).take(LOOKS_MAX) {
            if spare != Some(record.author) && !messages.take(&self.shown(record)) {
                break;
            }
            through = record.sequence;
        }
        Page {
            after,
            first_available,
            messages_count: messages.count,
            messages: messages.bytes.freeze(),
            through,
            head,
            memory_from: self.first_available(),
            is_unread: false,
        }
    }

    /// The messages of a `fetch` towards the head, and whether there are more behind them.
    pub fn fetch_after(&self, after: Sequence, head: Sequence, limit: PageLimit) -> (Bytes, bool) {
        let page = self.page_after(after, head, limit, None);
        (page.messages, page.through < head)
    }

    /// The messages of a `fetch` towards the beginning, ascending, and whether there are more before them.
    pub fn fetch_before(&self, before: Sequence, limit: PageLimit) -> (Bytes, bool) {
        let end = (before.0.saturating_sub(self.first_available().0) as usize).min(self.records.len());
        let mut left = limit;
        let mut start = end;
        while start > 0 {
            let bytes = self.records[start - 1].frame.len();
            if left.messages_max == 0 || (start < end && bytes > left.bytes_max) {
                break;
            }
            left.messages_max -= 1;
            left.bytes_max = left.bytes_max.saturating_sub(bytes);
            start -= 1;
        }
        let mut messages = BytesMut::new();
        for record in self.records.range(start..end) {
            messages.extend_from_slice(&self.shown(record));
        }
        (messages.freeze(), start > 0)
    }

    /// A record's frame as readers are told it.
    fn shown<'r>(&self, record: &'r Record) -> Cow<'r, [u8]> {
        let gap = self.hidden.iter().find_map(|erasure| gap_instead(record, erasure));
        gap.map_or(Cow::Borrowed(&record.frame[..]), Cow::Owned)
    }

    /// Nobody is told from now on what that erasure is about.
    pub fn hide(&mut self, erasure: Arc<Erasure>) {
        self.hidden.push(erasure);
    }

    /// Erases what was hidden among so many records from that place on. Where to go on; `None`: nothing of it is here any
    /// more.
    pub fn erase(&mut self, erasure: &Erasure, from: Sequence, records_max: usize) -> Option<Sequence> {
        let first = from.max(self.first_available());
        let start = (first.0 - self.first_available().0) as usize;
        for record in self.records.iter_mut().skip(start).take(records_max) {
            if let Some(gap) = gap_instead(record, erasure) {
                self.bytes -= cost(record);
                record.frame = gap.into();
                self.bytes += cost(record);
            }
        }
        let next = Sequence(first.0.saturating_add(records_max as u64));
        if next <= self.head.min(erasure.end()) {
            return Some(next);
        }
        self.hidden.retain(|there| there.number != erasure.number);
        None
    }
}

/// What comes in the place of a record that is to be erased.
pub(crate) fn gap_instead(record: &Record, erasure: &Erasure) -> Option<Vec<u8>> {
    if !erasure.spans(record.sequence) {
        return None;
    }
    match erasure.shown(&record.frame) {
        Cow::Owned(gap) => Some(gap),
        Cow::Borrowed(_) => None,
    }
}

fn cost(record: &Record) -> u64 {
    record.frame.len() as u64 + RECORD_OVERHEAD_BYTES
}

struct PageBytes {
    bytes: BytesMut,
    count: u32,
    limit: PageLimit,
}

impl PageBytes {
    fn new(limit: PageLimit) -> Self {
        PageBytes { bytes: BytesMut::new(), count: 0, limit }
    }

    /// Adds a frame; `false`: the page is full.
    fn take(&mut self, frame: &[u8]) -> bool {
        let fits = self.count == 0 || self.bytes.len() + frame.len() <= self.limit.bytes_max;
        if self.count >= self.limit.messages_max || !fits {
            return false;
        }
        self.bytes.extend_from_slice(frame);
        self.count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use banter_protocol::event::Message;
    use banter_protocol::ids::{Epoch, RoomName, UserName};
    use banter_protocol::native::write_message;
    use banter_protocol::request::{Body, BodyFormat};

    use super::*;
    use crate::address::{ConnectionId, Core};

    const ROOMY: PageLimit = PageLimit { messages_max: 1_000, bytes_max: 1_000_000 };

    fn peer(slot: u32) -> Peer {
        Peer { core: Core(0), connection: ConnectionId { slot, generation: 0 } }
    }

    /// Messages 1 to `count`, each one byte long that says its place, posted in turn by two connections.
    fn history(count: u8) -> History {
        let mut history = History::default();
        for place in 1..=count {
            let frame = [place][..].into();
            history.push(Record { sequence: Sequence(place.into()), frame, author: peer(u32::from(place % 2)) });
        }
        history
    }

    #[test]
    fn an_empty_history_has_nothing_before_its_head() {
        let history = History::default();
        assert_eq!((history.head(), history.first_available()), (Sequence(0), Sequence(1)));
        let page = history.page_after(Sequence(0), history.head(), ROOMY, None);
        assert_eq!((page.through, page.head, page.messages_count), (Sequence(0), Sequence(0), 0));
        assert_eq!(history.fetch_before(Sequence(9), ROOMY), (Bytes::new(), false));
    }

    #[test]
    fn a_page_starts_behind_the_place_and_says_how_far_it_goes() {
        let history = history(5);
        let page = history.page_after(Sequence(2), history.head(), PageLimit { messages_max: 2, ..ROOMY }, None);
        assert_eq!((&page.messages[..], page.through, page.head), (&[3, 4][..], Sequence(4), Sequence(5)));
        let page = history.page_after(Sequence(4), history.head(), ROOMY, None);
        assert_eq!((&page.messages[..], page.through), (&[5][..], Sequence(5)));
        let page = history.page_after(Sequence(5), history.head(), ROOMY, None);
        assert_eq!((&page.messages[..], page.through), (&[][..], Sequence(5)));
    }

    #[test]
    fn a_page_says_what_is_no_longer_kept() {
        let mut history = history(5);
        history.forget_oldest();
        history.forget_oldest();
        let page = history.page_after(Sequence(0), history.head(), ROOMY, None);
        assert_eq!((page.first_available, &page.messages[..]), (Sequence(3), &[3, 4, 5][..]));
        while history.forget_oldest() {}
        let page = history.page_after(Sequence(1), history.head(), ROOMY, None);
        assert_eq!((page.first_available, page.through, page.messages_count), (Sequence(6), Sequence(5), 0));
    }

    #[test]
    fn a_page_always_gets_on_even_with_a_message_above_its_bytes() {
        let history = history(3);
        let tiny = PageLimit { messages_max: 10, bytes_max: 0 };
        assert_eq!(history.page_after(Sequence(0), history.head(), tiny, None).through, Sequence(1));
        assert_eq!(history.fetch_before(Sequence(4), tiny), (Bytes::from_static(&[3]), true));
    }

    #[test]
    fn own_posts_are_spared_but_count_as_read() {
        let page = history(4).page_after(Sequence(0), Sequence(4), ROOMY, Some(peer(0)));
        assert_eq!((&page.messages[..], page.through), (&[1, 3][..], Sequence(4)));
    }

    fn frame_of(sequence: u64, user: &str) -> Arc<[u8]> {
        let (epoch, sequence, body) =
            (Epoch(1), Sequence(sequence), Body { format: BodyFormat::Bytes, bytes: b"said" });
        let mut frame = Vec::new();
        write_message(&Message { epoch, sequence, time_ms: 1, room: "r", user, key: None, body }, &mut frame);
        frame.into()
    }

    #[test]
    fn what_is_erased_is_a_gap_in_every_page_at_once_and_costs_less_when_it_is_gone() {
        let user = |place: u64| if place.is_multiple_of(2) { "bob" } else { "ann" };
        let mut history = History::default();
        for place in 1..=10 {
            let frame = frame_of(place, user(place));
            history.push(Record { sequence: Sequence(place), frame, author: peer(0) });
        }
        history.forget_oldest();
        let (room, bob) = (RoomName::new("r").unwrap(), UserName::new("bob").unwrap());
        let (first, last, bound) = (Sequence(1), Sequence(8), banter_log::erasure::Bound::UNKNOWN);
        let erasure = Erasure { number: 1, room, user: Some(bob), first, last, bound };
        let told = |places: std::ops::RangeInclusive<u64>| -> Vec<u8> {
            places.flat_map(|place| erasure.shown(&frame_of(place, user(place))).into_owned()).collect()
        };
        let before = history.bytes();
        history.hide(Arc::new(erasure.clone()));
        let mut next = Some(Sequence(0));
        while let Some(from) = next {
            assert_eq!(history.page_after(Sequence(1), Sequence(10), ROOMY, None).messages, told(2..=10));
            assert_eq!(history.fetch_before(Sequence(9), PageLimit { messages_max: 3, ..ROOMY }).0, told(6..=8));
            next = history.erase(&erasure, from, 2);
        }
        assert!(history.hidden.is_empty() && history.bytes() < before);
        assert_eq!(history.page_after(Sequence(1), Sequence(10), ROOMY, None).messages, told(2..=10));
        while history.forget_oldest() {}
        assert_eq!(history.bytes(), 0);
        assert_eq!(history.erase(&erasure, Sequence(1), 2), None, "nothing is there");
    }

    #[test]
    fn fetch_goes_both_ways_ascending_and_says_whether_there_is_more() {
        let history = history(6);
        let two = PageLimit { messages_max: 2, ..ROOMY };
        assert_eq!(history.fetch_before(Sequence(5), two), (Bytes::from_static(&[3, 4]), true));
        assert_eq!(history.fetch_before(Sequence(3), two), (Bytes::from_static(&[1, 2]), false));
        assert_eq!(history.fetch_before(Sequence(u64::MAX), two), (Bytes::from_static(&[5, 6]), true));
        assert_eq!(history.fetch_before(Sequence(1), two), (Bytes::new(), false));
        assert_eq!(history.fetch_after(Sequence(3), history.head(), two), (Bytes::from_static(&[4, 5]), true));
        assert_eq!(history.fetch_after(Sequence(4), history.head(), two), (Bytes::from_static(&[5, 6]), false));
        assert_eq!(history.fetch_after(Sequence(u64::MAX - 1), history.head(), two), (Bytes::new(), false));
    }
}
