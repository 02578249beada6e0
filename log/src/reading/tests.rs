//! Reading back: pages and keys over the borders of segments, and what damage makes of them.

use banter_protocol::ids::{Epoch, RoomId, Sequence};

use crate::PAGE_BYTES;
use crate::catalog::{Catalog, Past};
use crate::index::IndexBuilder;
use crate::journal::{Answer, Ask, Done, Journal, Reach};
use crate::reading::{KeysWant, LOOKS_MAX, LogFile, PageRead, PageWant, READ_BYTES};
use crate::record::{Author, Level};
use crate::rig::{Post, RUN, Rig, frames, parts, want};
use crate::scan::Scan;

/// The header, and four posts of a block each.
const FOUR_POSTS: u64 = 5 * PAGE_BYTES as u64;

/// "lobby" over five sealed segments and the one that is written.
fn over_segments() -> Rig {
    let mut rig = Rig::new(FOUR_POSTS);
    rig.post(1..=22);
    assert_eq!(rig.indexes.len(), 5);
    rig
}

fn page(sequences: std::ops::RangeInclusive<u64>, first: u64, through: u64) -> Result<PageRead, u64> {
    let count = sequences.clone().count() as u32;
    Ok(PageRead { messages: frames(sequences), count, first: Sequence(first), through: Sequence(through) })
}

#[test]
fn a_page_crosses_the_borders_of_segments_up_to_the_one_that_is_written() {
    let mut rig = over_segments();
    assert_eq!(rig.page(want(1, 22)), page(1..=22, 1, 22));
    for first in 1..=22 {
        for last in [first, first + 1, first + 4, 22, 99] {
            let through = last.min(22);
            assert_eq!(
                rig.page(want(first, last)),
                page(first..=through.max(first), first, through.max(first)),
                "{first} to {last}"
            );
        }
    }
    assert_eq!(rig.page(want(23, 99)).map(|page| page.count), Ok(0));
}

#[test]
fn pages_of_every_size_join_to_the_whole() {
    let mut rig = over_segments();
    let message_bytes = frames(1..=1).len();
    for messages_max in 1..=9 {
        for by_bytes in [false, true] {
            let (mut next, mut all) = (1, Vec::new());
            while next <= 22 {
                let limits = if by_bytes {
                    PageWant { bytes_max: messages_max as usize * message_bytes + 10, ..want(next, 22) }
                } else {
                    PageWant { messages_max, ..want(next, 22) }
                };
                let page = rig.page(limits).unwrap();
                assert_eq!(u64::from(page.count), u64::from(messages_max).min(23 - next));
                assert_eq!(page.through.0, next + u64::from(page.count) - 1);
                next = page.through.0 + 1;
                all.extend(page.messages);
            }
            assert_eq!(all, frames(1..=22));
        }
    }
}

#[test]
fn a_first_message_above_the_limit_comes_alone() {
    let mut rig = over_segments();
    assert_eq!(rig.page(PageWant { bytes_max: 1, ..want(8, 22) }), page(8..=8, 8, 8));
    assert_eq!(rig.page(PageWant { bytes_max: 1, newest: true, ..want(8, 22) }), page(22..=22, 22, 22));
}

#[test]
fn a_newest_first_page_leaves_out_its_beginning() {
    let mut rig = over_segments();
    let message_bytes = frames(1..=1).len();
    for count in 1..=9 {
        let expected = page(17 - count..=16, 17 - count, 16);
        let newest = PageWant { newest: true, ..want(3, 16) };
        assert_eq!(rig.page(PageWant { messages_max: count as u32, ..newest.clone() }), expected);
        assert_eq!(rig.page(PageWant { bytes_max: count as usize * message_bytes, ..newest }), expected);
    }
}

#[test]
fn own_posts_are_spared_in_this_run_only() {
    let mut rig = Rig::new(FOUR_POSTS);
    for sequence in 1..=12 {
        rig.commit(&[Post { slot: sequence as u32 % 3, ..Post::at(sequence) }]);
    }
    let others = frames((1..=12).filter(|sequence| sequence % 3 != 0));
    let spare = |slot| PageWant { spare: Some(Author { core: 0, slot, generation: 1 }), ..want(1, 12) };
    let read = rig.page(spare(0)).unwrap();
    assert_eq!((read.messages, read.count, read.through), (others, 8, Sequence(12)), "the last of all is an own one");
    let few = rig.page(PageWant { messages_max: 2, ..spare(0) }).unwrap();
    assert_eq!((few.messages, few.through), (frames(1..=2), Sequence(2)));
    // The same files under the next start: slots mean other connections there.
    let mut later = reopened(&mut rig, RUN + 1);
    assert_eq!(later.page(spare(0)), page(1..=12, 1, 12));
}

/// The rig's files, sealed, under another start.
fn reopened(rig: &mut Rig, run: u64) -> Rig {
    let catalog = catalog_of(rig);
    with_catalog(rig, catalog, run)
}

/// What the rig's files hold, sealed.
fn catalog_of(rig: &mut Rig) -> Catalog {
    assert!(rig.journal.end());
    rig.work();
    let mut catalog = Catalog::default();
    for (id, file) in &rig.files {
        let scan = Scan::new(file).unwrap();
        let Some(index) = rig.indexes.get(id) else { continue };
        let table = crate::index::IndexTable::read(index, scan.header()).unwrap();
        for part in &table.parts {
            assert_eq!(catalog.add_part(scan.header(), part, Past::default()), None);
        }
    }
    catalog
}

fn with_catalog(rig: &Rig, catalog: Catalog, run: u64) -> Rig {
    let mut later = Rig::idle(FOUR_POSTS);
    later.journal = Journal::new(parts(run, FOUR_POSTS, catalog));
    (later.files, later.indexes) = (rig.files.clone(), rig.indexes.clone());
    later.makes_segments = false;
    later
}

#[test]
fn messages_from_before_a_break_are_told_under_the_rooms_epoch() {
    let mut rig = Rig::new(FOUR_POSTS);
    for sequence in 1..=9 {
        rig.commit(&[Post { epoch: 1 + sequence / 4, ..Post::at(sequence) }]);
    }
    let read = rig.page(PageWant { epoch: Epoch(3), ..want(1, 9) }).unwrap();
    let expected: Vec<u8> = (1..=9).flat_map(|sequence| Post::at(sequence).frame_of(3)).collect();
    assert_eq!(read.messages, expected);
}

#[test]
fn blocks_that_are_longer_than_one_read_are_read_whole() {
    let mut rig = Rig::new(1 << 20);
    let post = |sequence, body_bytes| Post { body_bytes, ..Post::at(sequence) };
    let posts =
        [post(1, 10), post(2, READ_BYTES), post(3, 3 * READ_BYTES), post(4, READ_BYTES - 9_000), post(5, 8_000)];
    posts.iter().for_each(|post| rig.commit(&[*post]));
    rig.commit(&(6..=500).map(|sequence| post(sequence, 400)).collect::<Vec<_>>());
    for mut rig in [reopened_in_place(&rig), rig] {
        for first in 1..=6 {
            let read = rig.page(want(first, 500)).unwrap();
            assert_eq!(u64::from(read.count), 501 - first);
            let big: Vec<u8> = posts[(first as usize - 1).min(5)..].iter().flat_map(|post| post.frame_of(1)).collect();
            assert!(read.messages.starts_with(&big));
        }
    }
}

/// The same while its last segment is still written.
fn reopened_in_place(rig: &Rig) -> Rig {
    let file = &rig.files[&1];
    let (mut scan, mut index) = (Scan::new(file).unwrap(), IndexBuilder::default());
    loop {
        let offset = scan.place().offset;
        let Some(block) = scan.next() else { break };
        for record in block.records() {
            let record = record.unwrap();
            let message = banter_protocol::native::read_message(record.frame).unwrap();
            index.add(&crate::index::Entry::of(&message, record.level, record.bytes()), offset);
        }
    }
    indexed(rig, index)
}

/// The rig's first segment under that index.
fn indexed(rig: &Rig, index: IndexBuilder) -> Rig {
    let scan = Scan::new(&rig.files[&1]).unwrap();
    let (bytes, parts) = index.encode(scan.header(), rig.files[&1].len() as u64);
    let mut catalog = Catalog::default();
    parts.iter().for_each(|part| assert_eq!(catalog.add_part(scan.header(), part, Past::default()), None));
    let mut rig = with_catalog(rig, catalog, RUN);
    rig.indexes = [(1, bytes)].into();
    rig
}

#[test]
fn an_index_that_leads_elsewhere_is_told_as_lost_and_never_as_a_wrong_message() {
    let mut rig = Rig::new(1 << 20);
    let other = |sequence| Post { room: "other", ..Post::at(sequence) };
    for sequence in 1..=20 {
        rig.commit(&[Post::at(sequence)]);
        rig.commit(&[other(sequence), Post { room: "third", ..other(sequence) }]);
    }
    let entry = |sequence: u64| {
        let frame = Post::at(sequence).frame_of(1);
        let message = banter_protocol::native::read_message(&frame).unwrap();
        crate::index::Entry::of(&message, Level::Synced, frame.len() + crate::record::PREFIX_BYTES)
    };
    let mut lost = 0;
    for page in 0..60 {
        for (first, last) in [(1, 20), (5, 20), (1, 25)] {
            let mut index = IndexBuilder::default();
            (first..=last).for_each(|sequence| index.add(&entry(sequence), page * PAGE_BYTES as u64));
            let mut led = indexed(&rig, index);
            match led.page(want(first, last)) {
                Ok(read) => assert_eq!(read.messages, frames(first..=read.through.0), "page {page}"),
                Err(segment) => lost += usize::from(segment == 1),
            }
        }
    }
    assert!(lost > 100, "{lost}");
}

#[test]
fn every_damaged_place_of_a_segment_is_told_as_lost_or_was_not_read() {
    let mut rig = over_segments();
    let whole = rig.files[&3].clone();
    for at in (PAGE_BYTES..whole.len()).step_by(61) {
        let mut file = whole.clone();
        file[at] ^= 1;
        rig.files.insert(3, file);
        assert!([page(1..=22, 1, 22), Err(3)].contains(&rig.page(want(1, 22))), "byte {at}");
    }
}

#[test]
fn an_index_that_is_missing_or_damaged_is_done_without_as_long_as_the_segment_is_whole() {
    let mut rig = over_segments();
    let whole = rig.files[&3].clone();
    for index in [None, Some(vec![]), Some(rig.indexes[&2].clone())] {
        rig.files.insert(3, whole.clone());
        match index {
            Some(index) => rig.indexes.insert(3, index),
            None => rig.indexes.remove(&3),
        };
        for first in 1..=22 {
            assert!(rig.page(want(first, 22)) == page(first..=22, first, 22), "from {first}");
        }
        rig.files.get_mut(&3).unwrap()[PAGE_BYTES] ^= 1;
        assert!(rig.page(want(1, 22)) == Err(3) && rig.page(want(1, 8)) == page(1..=8, 1, 8));
    }
}

#[test]
fn a_segment_that_ends_too_early_is_told_as_lost_and_not_read_forever() {
    let mut rig = Rig::new(1 << 20);
    rig.commit(&[Post::at(1)]);
    rig.commit(&[Post { body_bytes: 2 * READ_BYTES, ..Post::at(2) }]);
    rig.commit(&[Post::at(3)]);
    let whole = rig.files[&1].clone();
    for length in (0..4 * READ_BYTES).step_by(1_000) {
        rig.files.insert(1, whole[..length].to_vec());
        rig.reads.clear();
        let read = rig.page(want(1, 3));
        assert!(read == Err(1) || read.is_ok_and(|read| read.count == 3), "{length}");
        assert!(rig.reads.len() < 9, "{length}");
    }
}

#[test]
fn a_segment_that_is_cut_while_it_is_read_ends_the_page_before_it() {
    let nothing = Ok(PageRead { first: Sequence(1), ..PageRead::default() });
    for (segment, expected) in [(1, nothing), (3, page(1..=8, 1, 8))] {
        for comes in [false, true] {
            let mut rig = over_segments();
            rig.done.clear();
            rig.journal.read_page(want(1, 22));
            rig.journal.begin_reads(&mut rig.done);
            // Until that segment is being read.
            loop {
                let ask = rig.asks().remove(0);
                let crate::journal::Ask::Read { ticket, segment: at, .. } = ask else { panic!("{ask:?}") };
                if at != segment {
                    rig.perform(ask);
                    continue;
                }
                rig.answer(Answer::Cut { segment });
                assert!((1..=segment).all(|cut| !rig.journal.catalog().needs(cut)));
                if comes {
                    rig.perform(ask);
                } else {
                    rig.answer(Answer::Read { ticket, bytes: None });
                }
                break;
            }
            rig.work();
            let Done::Page { page, .. } = rig.done.remove(0) else { panic!("no page") };
            assert_eq!(page, expected, "segment {segment}, and its bytes come: {comes}");
        }
    }
}

const ALL_KEYS: KeysWant = KeysWant { since_ms: 0, keys_per_author_max: u32::MAX, keys_max: 99 };

#[test]
fn keys_come_from_all_segments_up_to_a_number_and_an_age() {
    let mut rig = Rig::new(FOUR_POSTS);
    let post = |sequence| Post { is_keyed: sequence % 2 == 0 && !(9..=12).contains(&sequence), ..Post::at(sequence) };
    (1..=22).for_each(|sequence| rig.commit(&[post(sequence)]));
    let all: Vec<_> = (1..=22).filter_map(|sequence| post(sequence).key()).collect();
    assert_eq!(all.len(), 9);
    for keys_max in 0..=10 {
        assert_eq!(rig.keys(0, keys_max).unwrap(), all[9 - keys_max.min(9)..], "the newest {keys_max}");
    }
    for since in 1..=23 {
        let young: Vec<_> = all.iter().copied().filter(|key| key.time_ms >= since * 1_000).collect();
        assert_eq!(rig.keys(since * 1_000, 99).unwrap(), young);
    }
    rig.reads.clear();
    rig.keys(18_000, 99).unwrap();
    assert_eq!(rig.reads.len(), 1, "old segments, and one without keys, are not read: {:?}", rig.reads);
    assert!(rig.reads.iter().all(|read| read.1 == LogFile::Index));
    let mut later = reopened(&mut rig, RUN + 1);
    assert_eq!(later.keys(0, 99).unwrap(), all);
    // Without an index, out of the blocks; and not without both.
    later.indexes.get_mut(&2).unwrap().pop();
    assert_eq!(later.keys(0, 99).unwrap(), all);
    later.indexes.remove(&2);
    assert_eq!(later.keys(0, 99).unwrap(), all);
    later.files.get_mut(&2).unwrap()[PAGE_BYTES] ^= 1;
    assert_eq!((later.keys(0, 99), later.keys(9_000, 99).unwrap().len()), (Err(2), 5));
}

#[test]
fn keys_behind_a_segment_that_is_cut_meanwhile_are_all_there_are() {
    let mut rig = Rig::new(FOUR_POSTS);
    (1..=12).for_each(|sequence| rig.commit(&[Post { is_keyed: true, ..Post::at(sequence) }]));
    rig.done.clear();
    rig.journal.read_keys(RoomId::of("lobby"), ALL_KEYS);
    rig.journal.begin_reads(&mut rig.done);
    let ask = rig.asks().remove(0);
    let crate::journal::Ask::Read { ticket, segment: 2, .. } = ask else { panic!("{ask:?}") };
    rig.answer(Answer::Cut { segment: 2 });
    rig.answer(Answer::Read { ticket, bytes: None });
    rig.work();
    let Done::Keys { keys, .. } = rig.done.remove(0) else { panic!("no keys") };
    assert_eq!(keys.unwrap().keys.iter().map(|key| key.post.sequence).collect::<Vec<_>>(), [12, 11, 10, 9]);
}

#[test]
fn the_key_of_a_refused_post_is_forgotten_once_its_place_is_given_again() {
    let mut rig = Rig::new(1 << 20);
    let keyed = |sequence| Post { is_keyed: true, ..Post::at(sequence) };
    rig.commit(&[keyed(1)]);
    assert!(rig.begin(&[keyed(2), keyed(3)], true));
    for ask in rig.asks() {
        if let Ask::Append { segment, offset, block, is_behind_synced, .. } = ask {
            rig.perform(Ask::Append { segment, offset, block, wanted: Reach::Written, is_behind_synced });
        }
    }
    rig.answer(Answer::AppendFailed { is_full: true });
    rig.work();
    rig.commit(&[Post::at(2), keyed(3)]);
    rig.commit(&[keyed(4)]);
    let known = |keys: Vec<crate::key::KeyedPost>| keys.iter().map(|key| key.sequence).collect::<Vec<_>>();
    assert_eq!(known(rig.keys(0, 99).unwrap()), [1, 3, 4]);
    assert_eq!(known(reopened(&mut rig, RUN + 1).keys(0, 99).unwrap()), [1, 3, 4]);
}

#[test]
fn the_newest_keys_of_each_author_are_read_however_many_another_has() {
    let mut rig = Rig::new(FOUR_POSTS);
    let author = |sequence| if sequence % 5 == 0 { "bob" } else { "ann" };
    let post = |sequence| Post { is_keyed: true, user: author(sequence), ..Post::at(sequence) };
    (1..=22).for_each(|sequence| rig.commit(&[post(sequence)]));
    let mut read = |keys_per_author_max, keys_max| {
        let read = rig.keys_wanted(KeysWant { since_ms: 0, keys_per_author_max, keys_max }).unwrap();
        (read.keys.iter().map(|key| key.post.sequence).collect::<Vec<_>>(), read.left_out)
    };
    assert_eq!(read(3, 99), (vec![22, 21, 20, 19, 15, 10], 0));
    assert_eq!(read(3, 6), (vec![22, 21, 20, 19, 15, 10], 0), "no more than these are wanted");
    assert_eq!(read(3, 5), (vec![22, 21, 20, 19, 15], 1), "what is left out is said");
    assert_eq!(read(99, 99).0.len(), 22);
}

#[test]
fn keys_of_earlier_runs_are_as_old_as_they_were_when_those_ended() {
    let mut rig = Rig::new(FOUR_POSTS);
    let keyed = |sequence| Post { is_keyed: true, ..Post::at(sequence) };
    (1..=9).for_each(|sequence| rig.commit(&[keyed(sequence)]));
    let mut catalog = catalog_of(&mut rig);
    catalog.begin(5_000_000);
    let mut later = with_catalog(&rig, catalog, RUN + 1);
    let since = |ms| KeysWant { since_ms: ms, ..ALL_KEYS };
    let read = later.keys_wanted(since(5_000_000 - 2_000)).unwrap();
    let known: Vec<_> = read.keys.iter().map(|key| (key.post.time_ms, key.clock_ms)).collect();
    assert_eq!(known, [(9_000, 5_000_000), (8_000, 4_999_000), (7_000, 4_998_000)]);
    assert_eq!(later.keys_wanted(since(5_000_001)).unwrap().keys, []);
}

#[test]
fn keys_without_those_that_were_given_up_are_lost_while_these_would_be_young_enough() {
    let mut rig = Rig::new(FOUR_POSTS);
    (1..=9).for_each(|sequence| rig.commit(&[Post { is_keyed: true, ..Post::at(sequence) }]));
    rig.journal.catalog_mut().give_up(RoomId::of("lobby"), 1);
    assert_eq!((rig.keys(4_001, 99).unwrap().len(), rig.keys(4_000, 99)), (5, Err(1)));
    rig.journal.catalog_mut().give_up(RoomId::of("lobby"), 3);
    assert_eq!((rig.keys(9_001, 99).unwrap().len(), rig.keys(9_000, 99)), (0, Err(3)));
    rig.answer(Answer::Cut { segment: 3 });
    assert_eq!(rig.keys(9_000, 99), Err(3), "its files go, and its keys are not known any better");
}

#[test]
fn a_body_has_the_hash_of_the_index_also_when_it_is_read_from_the_blocks_under_another_epoch() {
    let mut rig = Rig::new(FOUR_POSTS);
    let keyed = |sequence| Post { is_keyed: true, epoch: 1 + sequence / 4, ..Post::at(sequence) };
    (1..=9).for_each(|sequence| rig.commit(&[keyed(sequence)]));
    let all: Vec<_> = (1..=9).filter_map(|sequence| keyed(sequence).key()).collect();
    let mut later = reopened(&mut rig, RUN + 1);
    assert_eq!(later.keys(0, 99).unwrap(), all);
    later.indexes.clear();
    assert_eq!(later.keys(0, 99).unwrap(), all);
}

#[test]
fn a_page_that_leaves_all_out_comes_to_an_end() {
    const LAST: u64 = LOOKS_MAX + 500;
    let mut rig = Rig::new(1 << 22);
    for first in (1..=LAST).step_by(100) {
        rig.commit(&(first..(first + 100).min(LAST + 1)).map(Post::at).collect::<Vec<_>>());
    }
    let spare = Some(Post::at(1).author());
    let page = rig.page(PageWant { spare, ..want(1, LAST) }).unwrap();
    assert_eq!((page.count, page.through), (0, Sequence(LOOKS_MAX)), "and the reader asks for the next");
    let page = rig.page(PageWant { spare, ..want(LOOKS_MAX + 1, LAST) }).unwrap();
    assert_eq!((page.count, page.through), (0, Sequence(LAST)));
}
