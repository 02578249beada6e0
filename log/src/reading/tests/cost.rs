//! What readings cost: bytes that are asked of the disk.

use super::*;
use crate::reading::READ_BYTES_FREE;

const PAGE: u64 = PAGE_BYTES as u64;

/// Bytes that were read from the first records on: what finding them takes comes before that.
fn bytes_once_found(rig: &Rig) -> u64 {
    let is_of_records = |range: &crate::reading::FileRange| range.file == LogFile::Segment;
    let first = rig.reads.iter().position(is_of_records).unwrap_or(rig.reads.len());
    rig.reads[first..].iter().map(|range| range.bytes).sum()
}

/// Catches up page by page, and holds each of them against what it may cost.
fn catch_up(rig: &mut Rig, last: u64, bytes_max: usize) -> (Vec<u8>, u64) {
    let (mut next, mut all, mut pages) = (1, Vec::new(), 0);
    while next <= last {
        rig.reads.clear();
        let page = rig.page(PageWant { bytes_max, ..want(next, last) }).unwrap();
        let read_bytes = bytes_once_found(rig);
        let allowed = 4 * page.messages.len() as u64 + READ_BYTES_FREE;
        assert!(read_bytes <= allowed, "{read_bytes} bytes for {} from {next}", page.messages.len());
        assert!(page.count > 0 && page.first == Sequence(next));
        next = page.through.0 + 1;
        all.extend(page.messages);
        pages += 1;
    }
    (all, pages)
}

#[test]
fn a_page_of_a_busy_room_costs_little_more_than_it_holds() {
    for seed in 1..4 {
        let mut rig = Rig::new(512 * 1_024);
        let posts = mixed(&mut rig, 4_000, 1, seed);
        let mut rig = rig.reopened(RUN + 1);
        for bytes_max in [8 * 1_024, 64 * 1_024, 256 * 1_024] {
            let (all, pages) = catch_up(&mut rig, 4_000, bytes_max);
            assert!(all == frames_of(&posts));
            // Nearly four fifths of what is there is of others, or nothing: what may be read ends a page, too.
            assert!(
                pages <= 2 + 4 * (all.len() / bytes_max) as u64,
                "{pages} pages of {bytes_max} for {} bytes",
                all.len()
            );
        }
    }
}

#[test]
fn a_page_of_a_sparse_room_costs_no_more_than_its_own_pages_of_the_disk() {
    let mut rig = Rig::new(1 << 20);
    let mut heads = [0; STRANGERS.len()];
    for sequence in 1..=10 {
        for _ in 0..30 {
            let batch: Vec<Post> = (0..100)
                .map(|number| {
                    let room = number % STRANGERS.len();
                    heads[room] += 1;
                    Post { room: STRANGERS[room], ..Post::at(heads[room]) }
                })
                .collect();
            rig.commit(&batch);
        }
        rig.commit(&[Post::at(sequence)]);
    }
    let mut rig = rig.reopened(RUN + 1);
    assert!(rig.indexes.len() >= 4);
    rig.reads.clear();
    assert_eq!(rig.pages(want(1, 10)), page(1..=10));
    assert!(rig.read_bytes(LogFile::Segment) <= 10 * 2 * PAGE, "{}", rig.read_bytes(LogFile::Segment));
    catch_up(&mut rig, 10, usize::MAX);
    rig.reads.clear();
    let newest = PageWant { newest: true, messages_max: 3, ..want(1, 10) };
    assert_eq!(rig.page(newest), page(8..=10));
    assert!(rig.read_bytes(LogFile::Segment) <= 3 * 2 * PAGE);
}

#[test]
fn a_place_far_back_is_found_by_jumps() {
    const PARTS: u64 = 130;
    let mut rig = Rig::new(3 * PAGE);
    rig.post(1..=PARTS);
    let mut rig = rig.reopened(RUN + 1);
    assert_eq!(rig.indexes.len() as u64, PARTS);
    for first in 1..=PARTS {
        rig.reads.clear();
        assert_eq!(rig.page(PageWant { messages_max: 1, ..want(first, PARTS) }), page(first..=first));
        let index_pages = rig.read_bytes(LogFile::Index) / PAGE;
        assert!(index_pages <= 32 + 2 + PARTS / 32 + 3, "{index_pages} pages to {first}");
    }
    assert_eq!(rig.pages(want(1, PARTS)), page(1..=PARTS));
    // The oldest part that is left is one that is jumped to.
    for cut in 1..=64 {
        rig.cut(cut);
        rig.work();
        let read = rig.page(PageWant { messages_max: 1, ..want(1, PARTS) }).unwrap();
        assert_eq!((read.first, read.messages), (Sequence(cut + 1), frames(cut + 1..=cut + 1)));
    }
}

#[test]
fn the_newest_page_costs_no_more_where_the_last_messages_are_much_larger_than_the_others() {
    let mut rig = Rig::new(8 << 20);
    let small: Vec<Post> = (1..=2_000).map(|sequence| Post { body_bytes: 60, ..Post::at(sequence) }).collect();
    small.chunks(500).for_each(|posts| rig.commit(posts));
    let large: Vec<Post> = (2_001..=2_400).map(|sequence| Post { body_bytes: 10_000, ..Post::at(sequence) }).collect();
    large.chunks(50).for_each(|posts| rig.commit(posts));
    let mut rig = rig.reopened(RUN + 1);
    for (last, messages_max) in [(2_400, 330), (2_250, 100), (2_003, 20), (2_000, 100), (1_000, 1_000)] {
        rig.reads.clear();
        let wanted = PageWant { newest: true, messages_max, bytes_max: 32 * 1_024, ..want(1, last) };
        let read = rig.page(wanted).unwrap();
        let read_bytes = bytes_once_found(&rig);
        let allowed = 4 * read.messages.len() as u64 + READ_BYTES_FREE;
        assert!(read_bytes <= allowed, "{read_bytes} bytes for {} before {last}", read.messages.len());
        assert_eq!((read.through, read.first.0), (Sequence(last), last + 1 - u64::from(read.count)));
        let is_full = read.count == messages_max || read.messages.len() > 16 * 1_024;
        assert!(is_full, "{} messages, {} bytes", read.count, read.messages.len());
    }
}

#[test]
fn the_newest_page_of_a_room_with_one_message_a_segment_begins_where_it_costs_no_more() {
    const PARTS: u64 = 130;
    let mut rig = Rig::new(3 * PAGE);
    rig.post(1..=PARTS);
    let mut rig = rig.reopened(RUN + 1);
    let (mut last, mut all) = (PARTS, Vec::new());
    while last > 0 {
        rig.reads.clear();
        rig.page(want(last, last)).unwrap();
        let finding_bytes = rig.read_bytes(LogFile::Index);
        rig.reads.clear();
        let read = rig.page(PageWant { newest: true, messages_max: 100, ..want(1, last) }).unwrap();
        let read_bytes = rig.read_bytes(LogFile::Segment) + rig.read_bytes(LogFile::Index) - finding_bytes;
        let allowed = 4 * read.messages.len() as u64 + READ_BYTES_FREE;
        assert!(read_bytes <= allowed, "{read_bytes} bytes for {} before {last}", read.messages.len());
        let is_first = read.first == Sequence(1);
        assert!(read.through == Sequence(last) && (read.count >= 5 || is_first), "{} before {last}", read.count);
        assert_eq!(read.messages, frames(read.first.0..=last));
        last = read.first.0 - 1;
        all.splice(0..0, read.messages);
    }
    assert!(all == frames(1..=PARTS));
}
