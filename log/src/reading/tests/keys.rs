//! The keys of a room's newest posts.

use super::*;
use crate::journal::{Answer, Ask, Done};
use crate::reading::KeysWant;

const ALL_KEYS: KeysWant = KeysWant { since_ms: 0, keys_per_author_max: u32::MAX, keys_max: 99 };

fn keyed(sequence: u64) -> Post {
    Post { is_keyed: true, ..Post::at(sequence) }
}

#[test]
fn keys_come_from_all_segments_up_to_a_number_and_an_age() {
    let mut rig = Rig::new(FOUR_POSTS);
    let post = |sequence| Post { is_keyed: sequence % 2 == 0 && !(9..=12).contains(&sequence), ..Post::at(sequence) };
    (1..=22).for_each(|sequence| rig.commit(&[post(sequence)]));
    let all: Vec<_> = (1..=22).filter_map(|sequence| post(sequence).key()).collect();
    assert_eq!(all.len(), 9);
    for mut rig in [rig.reopened(RUN + 1), rig] {
        for keys_max in 0..=10 {
            assert_eq!(rig.keys(0, keys_max).unwrap(), all[9 - keys_max.min(9)..], "the newest {keys_max}");
        }
        for since in 1..=23 {
            let young: Vec<_> = all.iter().copied().filter(|key| key.time_ms >= since * 1_000).collect();
            assert_eq!(rig.keys(since * 1_000, 99).unwrap(), young);
        }
        assert!(rig.reads.iter().all(|read| read.file == LogFile::Index), "no message is read for them");
    }
}

#[test]
fn no_more_is_read_than_the_window_takes() {
    let mut rig = Rig::new(1 << 20);
    for first in (1..=8_000).step_by(100) {
        rig.commit(&(first..first + 100).map(keyed).collect::<Vec<_>>());
    }
    let mut rig = rig.reopened(RUN + 1);
    assert!(rig.indexes.len() >= 2);
    let mut bytes_of = |keys_max| {
        rig.reads.clear();
        assert_eq!(rig.keys(0, keys_max).unwrap().len(), keys_max);
        rig.read_bytes(LogFile::Index)
    };
    let page = PAGE_BYTES as u64;
    assert!(bytes_of(1) <= 3 * page && bytes_of(100) <= 3 * page);
    // 195 keys a piece, which lies across two pages at most.
    assert!(bytes_of(1_000) <= (2 + 2 * 6) * page, "{}", bytes_of(1_000));
    assert!(bytes_of(8_000) <= (4 + 2 * 43) * page);
}

#[test]
fn keys_behind_a_segment_that_is_cut_meanwhile_are_all_there_are() {
    let mut rig = Rig::new(FOUR_POSTS);
    (1..=12).for_each(|sequence| rig.commit(&[keyed(sequence)]));
    rig.done.clear();
    rig.journal.read_keys(banter_protocol::ids::RoomId::of("lobby"), ALL_KEYS);
    rig.journal.begin_reads(&mut rig.done);
    let ask = rig.asks().remove(0);
    let Ask::Read(range) = ask else { panic!("{ask:?}") };
    assert_eq!(range.segment, 2);
    rig.cut(2);
    rig.answer(Answer::Read { range, bytes: None });
    rig.work();
    let Done::Keys { keys, .. } = rig.done.remove(0) else { panic!("no keys") };
    assert_eq!(keys.unwrap().keys.iter().map(|key| key.post.sequence).collect::<Vec<_>>(), [12, 11, 10, 9]);
}

#[test]
fn the_key_of_a_refused_post_is_forgotten_once_its_place_is_given_again() {
    let mut rig = Rig::new(1 << 20);
    rig.commit(&[keyed(1)]);
    rig.refuse(&[keyed(2), keyed(3)]);
    rig.commit(&[Post::at(2), keyed(3)]);
    rig.commit(&[keyed(4)]);
    let known = |keys: Vec<crate::key::KeyedPost>| keys.iter().map(|key| key.sequence).collect::<Vec<_>>();
    assert_eq!(known(rig.keys(0, 99).unwrap()), [1, 3, 4]);
    assert!(rig.journal.end());
    rig.work();
    crate::rig::scan_indexes(&mut rig);
    let catalog = rig.catalog_of_files();
    assert_eq!(known(rig.with(crate::rig::parts(RUN + 1, catalog)).keys(0, 99).unwrap()), [1, 3, 4]);
}

#[test]
fn the_newest_keys_of_each_author_are_read_however_many_another_has() {
    let mut rig = Rig::new(FOUR_POSTS);
    let author = |sequence| if sequence % 5 == 0 { "bob" } else { "ann" };
    (1..=22).for_each(|sequence| rig.commit(&[Post { user: author(sequence), ..keyed(sequence) }]));
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
    (1..=9).for_each(|sequence| rig.commit(&[keyed(sequence)]));
    let mut catalog = rig.sealed_catalog();
    catalog.begin(5_000_000);
    let mut later = rig.with(crate::rig::parts(RUN + 1, catalog));
    let since = |ms| KeysWant { since_ms: ms, ..ALL_KEYS };
    let read = later.keys_wanted(since(5_000_000 - 2_000)).unwrap();
    let known: Vec<_> = read.keys.iter().map(|key| (key.post.time_ms, key.clock_ms)).collect();
    assert_eq!(known, [(9_000, 5_000_000), (8_000, 4_999_000), (7_000, 4_998_000)]);
    assert_eq!(later.keys_wanted(since(5_000_001)).unwrap().keys, []);
}
