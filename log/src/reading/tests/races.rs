//! What happens to the log while it is read.

use std::collections::BTreeMap;

use super::*;
use crate::catalog::Catalog;
use crate::index::{Details, HEADER_BYTES, Part};
use crate::journal::{Answer, Ask, Done, JournalParts};
use crate::reading::FileRange;
use crate::rig::parts;

#[test]
fn a_room_whose_part_is_cut_while_it_is_read_has_what_is_left() {
    for cut in 1..=5_u64 {
        for at in 0..12 {
            for comes in [false, true] {
                let mut rig = over_segments();
                rig.done.clear();
                rig.journal.read_page(want(1, 22));
                rig.journal.begin_reads(&mut rig.done);
                rig.cut_in_the_midst(at, cut, comes);
                rig.work();
                let Done::Page { page: read, .. } = rig.done.remove(0) else { panic!("no page") };
                let read = read.unwrap();
                assert!(read.count == 0 || read.first == Sequence(1) || read.first.0 == cut * 4 + 1, "{read:?}");
                assert!(read.messages == frames(read.first.0..=read.through.0), "{cut} {at} {comes}");
            }
        }
    }
}

#[test]
fn what_is_written_behind_a_read_that_was_kept_is_read_none_the_less() {
    let journal = JournalParts { cache_bytes_max: 1 << 20, ..parts(RUN, Catalog::default()) };
    let mut rig = Rig::of(journal, 1 << 20);
    rig.work();
    for sequence in 1..=200 {
        rig.commit(&[Post::at(sequence)]);
        rig.reads.clear();
        let first = sequence.saturating_sub(3).max(1);
        assert_eq!(rig.page(want(first, sequence)), page(first..=sequence));
        assert!(rig.reads.len() <= 1, "no page was kept before it was written: {:?}", rig.reads);
        assert!(rig.reads.iter().all(|range| range.offset + range.bytes <= (sequence + 1) * PAGE_BYTES as u64));
    }
}

/// A crowd of 100 that reads the same, with that much cache and so many readings at once: how often each page was read.
fn storm(rig: &mut Rig, cache_bytes_max: u64, reads_max: usize) -> BTreeMap<(u64, LogFile, u64), u32> {
    let catalog = rig.catalog_of_files();
    let mut crowd = rig.with(JournalParts { cache_bytes_max, reads_max, ..parts(RUN, catalog) });
    let wants: Vec<PageWant> = (0..100).map(|_| PageWant { messages_max: 12, ..want(3, 20) }).collect();
    for want in wants {
        crowd.journal.read_page(want);
    }
    let mut done = 0;
    while done < 100 {
        crowd.journal.begin_reads(&mut crowd.done);
        let asks = crowd.asks();
        let mut under_way: Vec<FileRange> = Vec::new();
        for ask in &asks {
            let Ask::Read(range) = ask else { continue };
            assert!(!under_way.contains(range), "asked twice at the same time");
            under_way.push(*range);
        }
        asks.into_iter().for_each(|ask| crowd.perform(ask));
        for end in std::mem::take(&mut crowd.done) {
            let Done::Page { page: Ok(read), .. } = end else { panic!("{end:?}") };
            assert!(
                read.count >= 4 && read.messages == frames(3..=read.through.0),
                "{} {:?} {:?}",
                read.count,
                read.first,
                read.through
            );
            done += 1;
        }
    }
    let mut pages = BTreeMap::new();
    for range in &crowd.reads {
        for offset in (range.offset..range.offset + range.bytes).step_by(PAGE_BYTES) {
            *pages.entry((range.segment, range.file, offset)).or_default() += 1;
        }
    }
    pages
}

#[test]
fn a_crowd_reads_each_page_of_the_disk_once_and_without_a_cache_once_at_a_time() {
    let mut rig = over_segments();
    assert!(rig.journal.end());
    rig.work();
    let kept = storm(&mut rig, 1 << 20, 10);
    assert!(kept.values().all(|&reads| reads <= 2), "an overlap of two ranges at most: {kept:?}");
    let together = storm(&mut rig, 0, 100);
    assert!(together.values().all(|&reads| reads <= 3), "all of the crowd wait for the same read: {together:?}");
    let by_ten = storm(&mut rig, 0, 10);
    assert!(by_ten.values().all(|&reads| reads <= 30), "{by_ten:?}");
}

#[test]
fn a_reading_of_an_index_that_is_made_again_meanwhile_ends_right() {
    for damaged_at in [0, 1, 2, 3] {
        let mut rig = over_segments();
        assert!(rig.journal.end());
        rig.work();
        let catalog = rig.catalog_of_files();
        let mut rig = rig.with(parts(RUN, catalog));
        rig.done.clear();
        rig.journal.read_page(want(1, 22));
        rig.journal.begin_reads(&mut rig.done);
        for _ in 0..damaged_at {
            rig.asks().into_iter().for_each(|ask| rig.perform(ask));
        }
        let under_way = rig.asks();
        for segment in 1..=6 {
            let parts = rig.parts_of(segment).len() as u32;
            rig.answer(Answer::Indexed { segment, parts });
        }
        under_way.into_iter().for_each(|ask| rig.perform(ask));
        rig.work();
        let Some(Done::Page { page: Ok(read), .. }) = rig.done.pop() else { panic!("no page") };
        assert!(read.count > 0 && read.messages == frames(1..=read.through.0));
    }
}

#[test]
fn what_was_read_of_an_index_that_was_replaced_meanwhile_is_neither_believed_nor_kept() {
    let mut rig = over_segments();
    assert!(rig.journal.end());
    rig.work();
    let catalog = rig.catalog_of_files();
    let mut rig = rig.with(JournalParts { cache_bytes_max: 1 << 20, ..parts(RUN, catalog) });
    rig.mends = false;
    let whole = rig.indexes.remove(&3).unwrap();
    rig.done.clear();
    // One finds the index missing; another has it being read as it was.
    rig.journal.read_page(want(1, 22));
    rig.journal.begin_reads(&mut rig.done);
    let mut mend = None;
    while mend.is_none() {
        for ask in rig.asks() {
            match ask {
                Ask::MendIndex { segment } => mend = Some(segment),
                ask => rig.perform(ask),
            }
        }
    }
    assert!(matches!(rig.done.pop(), Some(Done::Page { page: Err(ReadFault::Unreadable { segment: 3 }), .. })));
    rig.journal.read_page(want(1, 22));
    rig.journal.begin_reads(&mut rig.done);
    let old = loop {
        let ask = rig.asks().remove(0);
        match ask {
            Ask::Read(range) if (range.segment, range.file) == (3, LogFile::Index) => break range,
            ask => rig.perform(ask),
        }
    };
    rig.indexes.insert(3, whole);
    let parts = rig.parts_of(3).len() as u32;
    rig.answer(Answer::Indexed { segment: 3, parts });
    // A line that checks, of a file in which things lay elsewhere.
    let part = rig.part(3, "lobby");
    let details = Details { offset: part.details.offset + 8, ..part.details };
    let mut before = rig.indexes[&3][..HEADER_BYTES].to_vec();
    Part { details, ..part }.write(rig.header(3).nonce, &mut before);
    rig.answer(Answer::Read { range: old, bytes: Some(before) });
    rig.work();
    let Some(Done::Page { page: Ok(read), .. }) = rig.done.pop() else { panic!("no page") };
    assert!(read.count > 5 && read.messages == frames(1..=read.through.0));
    assert_eq!(rig.pages(want(1, 22)), page(1..=22));
    assert_eq!(rig.reads.iter().filter(|range| **range == old).count(), 2, "it was not there, and then read once");
}
