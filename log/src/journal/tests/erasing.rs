//! What is to be erased is hidden at once, and stays away when the files were rewritten.

use std::sync::Arc;

use banter_protocol::frame::Frame;
use banter_protocol::ids::{Epoch, RoomName, UserName};
use banter_protocol::native::{Kept, read_kept, write_kept};

use super::*;
use crate::erasure::{Bound, Erasure, rewrite};
use crate::index::{Entry, IndexBuilder, IndexHeader, Opening};
use crate::journal::JournalParts;
use crate::reading::{FileRange, KeysWant, PageWant};
use crate::rig::{RUN, parts};
use crate::scan::Scan;

const ALL_KEYS: KeysWant = KeysWant { since_ms: 0, keys_per_author_max: u32::MAX, keys_max: 99 };

fn erasure(number: u64, user: Option<&str>, first: u64, last: u64) -> Erasure {
    let (room, user) = (RoomName::new("lobby").unwrap(), user.map(|user| UserName::new(user).unwrap()));
    let (first, last, bound) = (Sequence(first), Sequence(last), Bound::UNKNOWN);
    Erasure { number, room, user, first, last, bound }
}

/// Every second post of "lobby" is Bob's, and all have keys.
fn post(sequence: u64) -> Post {
    let user = if sequence.is_multiple_of(2) { "bob" } else { "ann" };
    Post { is_keyed: true, user, ..Post::at(sequence) }
}

fn gap(sequence: u64) -> Vec<u8> {
    let mut gap = Vec::new();
    let (room, epoch) = ("lobby", Epoch(1));
    write_kept(&Kept::Erased { room, epoch, sequence: Sequence(sequence) }, &mut gap);
    gap
}

/// The frames of those places, with a gap where `is_gone`.
fn told(places: impl Iterator<Item = u64>, is_gone: impl Fn(u64) -> bool) -> Vec<u8> {
    places.flat_map(|at| if is_gone(at) { gap(at) } else { post(at).frame_of(1) }).collect()
}

fn rig(posts: u64) -> Rig {
    let mut rig = Rig::new(TWO_POSTS + 2 * PAGE);
    (1..=posts).for_each(|sequence| rig.commit(&[post(sequence)]));
    rig
}

impl Rig {
    /// Rewrites a segment and its index, as the disk's side does, and tells the journal.
    pub(super) fn rewrite(&mut self, segment: u64, erasure: &Erasure) {
        rewrite(self.files.get_mut(&segment).unwrap(), None, |kept| erasure.hides(kept)).unwrap();
        let header = self.header(segment);
        let end_offset = IndexHeader::read(&self.indexes[&segment], &header).unwrap().end_offset;
        let chains: Vec<_> = self.parts_of(segment).into_iter().map(|part| (part.room, part.chain)).collect();
        let mut index = IndexBuilder::default();
        for block in Scan::new(&self.files[&segment]).unwrap() {
            for (offset, record) in block.placed_records() {
                let record = record.unwrap();
                let (entry, name) = Entry::read(&record, RoomId::of).unwrap();
                index.add(&entry, offset, || Opening { name: name.into(), ..Opening::default() });
            }
        }
        chains.into_iter().for_each(|(room, chain)| index.set_chain(room, chain));
        self.indexes.insert(segment, index.encode(&header, end_offset, true));
        self.answer(Answer::Rewritten { segment });
    }
}

#[test]
fn what_is_erased_is_a_gap_of_one_in_pages_both_ways_at_once_and_when_the_files_were_rewritten() {
    let mut rig = rig(14);
    let (erasure, active) = rig.journal.erase(&erasure(1, Some("bob"), 3, u64::MAX));
    assert_eq!((erasure.end(), active), (Sequence(14), Some(4)), "up to the head, and the segment that is written");
    let is_gone = |at: u64| at.is_multiple_of(2) && (3..=14).contains(&at);
    rig.commit(&[post(15)]);
    rig.commit(&[post(16)]);
    for is_rewritten in [false, true] {
        if is_rewritten {
            let sealed: Vec<u64> = rig.indexes.keys().copied().collect();
            sealed.into_iter().for_each(|segment| rig.rewrite(segment, &erasure));
            rig.answer(Answer::Leave { segment: 4 });
            rig.work();
            rig.rewrite(4, &erasure);
            rig.answer(Answer::Erased(Arc::new(erasure.clone())));
            assert!(rig.journal.catalog().erasures().of(RoomId::of("lobby")).is_empty());
        }
        let page = rig.pages(want(1, 16)).unwrap();
        assert_eq!((page.count, page.messages), (16, told(1..=16, is_gone)));
        let newest = rig.page(PageWant { newest: true, messages_max: 4, ..want(1, 12) }).unwrap();
        assert_eq!(newest.messages, told(newest.first.0..=12, is_gone));
        let keys: Vec<u64> = rig.keys(0, 99).unwrap().iter().map(|key| key.sequence).collect();
        assert_eq!(keys, (1..=16).filter(|&at| !is_gone(at)).collect::<Vec<_>>());
    }
    let mut later = rig.reopened(RUN + 1);
    assert_eq!(later.pages(want(1, 16)).unwrap().messages, told(1..=16, is_gone));
    assert_eq!(later.pages(PageWant { epoch: Epoch(1), ..want(3, 8) }).unwrap().messages, told(3..=8, is_gone));
}

/// Reads a page and the keys of a room whose places up to 5 are erased behind so many disk reads, and gone from the files behind
/// so many; how many reads there were.
fn read_while_erasing(erase_at: usize, rewrite_at: usize) -> usize {
    let mut before = rig(12);
    let catalog = before.sealed_catalog();
    let mut rig = before.with(JournalParts { cache_bytes_max: 1 << 20, ..parts(RUN + 1, catalog) });
    let erasure = erasure(1, None, 1, 5);
    let ticket = rig.journal.read_page(want(1, 12));
    rig.journal.read_keys(RoomId::of("lobby"), ALL_KEYS);
    rig.journal.begin_reads(&mut rig.done);
    let mut reads = 0;
    while let Some(ask) = rig.journal.asks_mut().pop() {
        let Ask::Read(range) = ask else { continue };
        reads += 1;
        // They may be those of a file that is replaced before they come.
        let bytes = rig.files_bytes(range);
        if reads == erase_at {
            // What was handed over before is erased by who has it.
            rig.done.clear();
            rig.answer(Answer::Erase(Arc::new(erasure.clone())));
        }
        if reads == rewrite_at {
            let all: Vec<u64> = rig.indexes.keys().copied().collect();
            all.into_iter().for_each(|segment| rig.rewrite(segment, &erasure));
            rig.answer(Answer::Erased(Arc::new(erasure.clone())));
        }
        rig.answer(Answer::Read { range, bytes });
    }
    let when = format!("erased at {erase_at}, gone at {rewrite_at}");
    for done in rig.take_done() {
        match done {
            Done::Page { ticket: there, page } => {
                let page = page.expect(&when);
                let places = 1..=page.through.0;
                let is_read = there == ticket && page.through >= Sequence(3);
                assert!(is_read && page.messages == told(places, |at| at <= 5), "{when}: {}", page.through.0);
            }
            Done::Keys { keys, .. } => {
                let keys: Vec<u64> = keys.expect(&when).keys.iter().map(|key| key.post.sequence).collect();
                assert_eq!(keys, (6..=12).rev().collect::<Vec<_>>(), "{when}");
            }
            other => panic!("{other:?}"),
        }
    }
    if rewrite_at <= reads {
        assert_eq!(rig.pages(want(1, 12)).unwrap().messages, told(1..=12, |at| at <= 5), "{when}: and later");
    }
    reads
}

#[test]
fn a_reading_of_another_room_goes_on_where_its_index_is_replaced() {
    let lobby = RoomId::of("lobby");
    let ahead =
        ["hall", "cellar", "attic", "garden", "porch", "stairs"].into_iter().find(|name| RoomId::of(name) < lobby);
    let ahead = ahead.expect("a room whose keys lie ahead of those of the lobby");
    let erasure = Erasure { room: RoomName::new(ahead).unwrap(), ..erasure(1, None, 1, 500) };
    for rewrite_at in 1..=4 {
        let mut before = Rig::new(4 << 20);
        // More keys than a page of the index holds.
        (1..=500).for_each(|at| before.commit(&[Post { room: ahead, ..post(at) }, post(at)]));
        let mut rig = before.reopened(RUN + 1);
        rig.journal.read_keys(lobby, KeysWant { keys_max: 400, ..ALL_KEYS });
        rig.journal.begin_reads(&mut rig.done);
        let mut reads = 0;
        while let Some(ask) = rig.journal.asks_mut().pop() {
            let range = match ask {
                Ask::Read(range) => range,
                Ask::Prepare { .. } => continue,
                other => panic!("{other:?} behind {reads} reads"),
            };
            reads += 1;
            let bytes = rig.files_bytes(range);
            if reads == rewrite_at {
                rig.rewrite(1, &erasure);
            }
            rig.answer(Answer::Read { range, bytes });
        }
        let Some(Done::Keys { keys: Ok(read), .. }) = rig.done.pop() else { panic!("{:?}", rig.done) };
        assert_eq!(read.keys.len(), 400, "gone behind {rewrite_at} reads");
        assert!(reads >= 3, "{reads}");
    }
}

#[test]
fn what_is_being_read_tells_nothing_that_is_erased_meanwhile() {
    let reads = read_while_erasing(1, 1);
    assert!(reads >= 8, "{reads}");
    for erase_at in 1..=4 {
        for rewrite_at in erase_at..=reads {
            read_while_erasing(erase_at, rewrite_at);
        }
    }
}

#[test]
fn what_was_read_and_is_told_under_a_later_epoch_is_erased_too() {
    let mut rig = rig(12).reopened(RUN + 1);
    let bound = Bound { epoch: Epoch(1), last: Sequence(5), ..Bound::UNKNOWN };
    let erasure = Erasure { bound, ..erasure(1, None, 1, u64::MAX) };
    rig.journal.read_page(PageWant { epoch: Epoch(9), ..want(1, 12) });
    rig.journal.begin_reads(&mut rig.done);
    let mut reads = 0;
    while let Some(ask) = rig.journal.asks_mut().pop() {
        let Ask::Read(range) = ask else { continue };
        reads += 1;
        let bytes = rig.files_bytes(range);
        rig.answer(Answer::Read { range, bytes });
        if reads == 3 {
            rig.answer(Answer::Erase(Arc::new(erasure.clone())));
        }
    }
    let Some(Done::Page { page: Ok(page), .. }) = rig.done.pop() else { panic!("{:?}", rig.done) };
    let erased = |frame: &[u8]| matches!(read_kept(frame), Ok(Kept::Erased { .. }));
    let told: Vec<bool> = frames_of(&page.messages).map(erased).collect();
    assert_eq!(told, (1..=page.through.0).map(|at| at <= 5).collect::<Vec<_>>());
    assert!(reads > 3 && page.through > Sequence(2), "{reads}");
}

fn frames_of(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (_, used) = (!bytes.is_empty()).then(|| Frame::read(bytes, u32::MAX).unwrap())?;
        let (frame, rest) = bytes.split_at(used);
        bytes = rest;
        Some(frame)
    })
}

#[test]
fn what_was_kept_in_memory_of_files_that_were_rewritten_is_not_told_any_more() {
    let mut before = rig(12);
    let catalog = before.sealed_catalog();
    let mut rig = before.with(JournalParts { cache_bytes_max: 1 << 20, ..parts(RUN + 1, catalog) });
    assert_eq!(rig.pages(want(1, 12)).unwrap().messages, told(1..=12, |_| false));
    assert!(rig.journal.cache_bytes() > 0);
    let erasure = erasure(1, None, 1, 5);
    rig.answer(Answer::Erase(Arc::new(erasure.clone())));
    let all: Vec<u64> = rig.indexes.keys().copied().collect();
    all.into_iter().for_each(|segment| rig.rewrite(segment, &erasure));
    rig.answer(Answer::Erased(Arc::new(erasure)));
    assert_eq!(rig.pages(want(1, 12)).unwrap().messages, told(1..=12, |at| at <= 5));
}

impl Rig {
    fn files_bytes(&mut self, range: FileRange) -> Option<Vec<u8>> {
        let files = if range.file == crate::reading::LogFile::Segment { &self.files } else { &self.indexes };
        let all = &files[&range.segment];
        let start = (range.offset as usize).min(all.len());
        Some(all[start..all.len().min(start + range.bytes as usize)].to_vec())
    }
}

#[test]
fn a_room_that_begins_anew_shows_what_is_at_those_places_now() {
    let mut rig = rig(4);
    rig.answer(Answer::Erase(Arc::new(erasure(1, None, 1, u64::MAX))));
    rig.commit(&[Post { room: "hall", body_bytes: 5_000, ..Post::at(1) }]);
    rig.cut(1);
    rig.work();
    assert_eq!(rig.head("lobby"), None);
    rig.commit(&[post(1)]);
    assert_eq!(rig.pages(want(1, 1)).unwrap().messages, post(1).frame_of(1));
}

#[test]
fn an_erasure_that_is_known_already_reaches_no_further_when_it_is_told_again() {
    let mut rig = rig(4);
    let (first, _) = rig.journal.erase(&erasure(1, None, 1, u64::MAX));
    rig.commit(&[post(5)]);
    assert_eq!((first.end(), rig.journal.erase(&erasure(1, None, 1, u64::MAX)).0.end()), (Sequence(4), Sequence(4)));
    assert_eq!(rig.journal.erase(&erasure(2, None, 1, u64::MAX)).0.end(), Sequence(5));
    let (nothing, active) =
        rig.journal.erase(&Erasure { room: RoomName::new("hall").unwrap(), ..erasure(3, None, 1, 9) });
    assert_eq!((nothing.bound.epoch, active), (Epoch(0), None));
}
