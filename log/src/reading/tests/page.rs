//! Pages: every one of them against a model.

use super::*;
use crate::block::HEADER_BYTES;
use crate::reading::{LOOKS_MAX, READ_BYTES};
use crate::record::{Author, PREFIX_BYTES};

#[test]
fn a_page_crosses_the_borders_of_segments_up_to_the_one_that_is_written() {
    let mut rig = over_segments();
    assert_eq!(rig.pages(want(1, 22)), page(1..=22));
    for first in 1..=22 {
        for last in [first, first + 1, first + 4, 22, 99] {
            assert_eq!(rig.pages(want(first, last)), page(first..=last.min(22)), "{first} to {last}");
        }
    }
    let behind = rig.page(want(23, 99)).unwrap();
    assert_eq!((behind.count, behind.first, behind.through), (0, Sequence(23), Sequence(22)));
    let unknown = rig.page(want_in("nobody's", 1, 9)).unwrap();
    assert_eq!((unknown.count, unknown.through), (0, Sequence(0)));
}

/// What a page is to be of these posts, which are dense from 1 on.
fn model(posts: &[Post], want: &PageWant) -> Vec<Post> {
    let of = |from: u64, to: u64| posts.iter().copied().filter(move |post| (from..=to).contains(&post.sequence));
    let mut wanted: Vec<Post> = of(want.first.0, want.last.0).collect();
    if want.newest {
        wanted.reverse();
    }
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for post in wanted {
        bytes += post.frame_of(1).len();
        if !taken.is_empty() && (taken.len() >= want.messages_max as usize || bytes > want.bytes_max) {
            break;
        }
        taken.push(post);
    }
    if want.newest {
        taken.reverse();
    }
    taken
}

/// Reads that page; what it has is the model's beginning, or end where the newest are wanted, and something.
fn check(rig: &mut Rig, posts: &[Post], want: &PageWant) {
    let expected = model(posts, want);
    let read = rig.page(want.clone()).unwrap();
    let count = read.count as usize;
    assert!((1..=expected.len()).contains(&count), "{count} of {}: {want:?}", expected.len());
    let part = if want.newest { &expected[expected.len() - count..] } else { &expected[..count] };
    assert!(read.messages == frames_of(part), "{want:?}");
    let bounds = (part[0].sequence, part[count - 1].sequence);
    assert_eq!((read.first.0, read.through.0), bounds, "{want:?}");
}

#[test]
fn pages_of_every_range_and_limit_are_the_models() {
    for (seed, gap) in [(1, 0), (2, 3), (3, 40)] {
        let mut rig = Rig::new(128 * 1_024);
        let posts = mixed(&mut rig, 150, gap, seed);
        assert!(gap < 40 || rig.indexes.len() >= 3, "{}", rig.indexes.len());
        let mut reopened = rig.with(crate::rig::parts(RUN, sealed(&rig)));
        let mut chance = Chance(seed);
        for number in 0..600_u64 {
            let first = 1 + chance.below(posts.len() as u64);
            let last = first + chance.below(posts.len() as u64);
            let limits = PageWant {
                messages_max: [1, 2, 7, 40, u32::MAX][chance.below(5) as usize],
                bytes_max: [1, 300, 2_000, 20_000, usize::MAX][chance.below(5) as usize],
                newest: number.is_multiple_of(2),
                ..want(first, last)
            };
            check(&mut rig, &posts, &limits);
            if posts[posts.len() - 1].sequence <= reopened_head(&reopened) {
                check(&mut reopened, &posts, &limits);
            }
        }
        assert_eq!(rig.pages(want(1, 999)).unwrap().messages, frames_of(&posts));
    }
}

/// What the sealed segments of a rig hold.
fn sealed(rig: &Rig) -> crate::catalog::Catalog {
    rig.catalog_of_files()
}

fn reopened_head(rig: &Rig) -> u64 {
    rig.journal.catalog().room(banter_protocol::ids::RoomId::of("lobby")).map_or(0, |room| room.head.0)
}

#[test]
fn pages_of_every_size_join_to_the_whole_whether_the_log_is_open_or_sealed() {
    let mut rig = Rig::new(128 * 1_024);
    let posts = mixed(&mut rig, 200, 10, 9);
    let sealed = rig.reopened(RUN + 1);
    for mut rig in [sealed, rig] {
        for messages_max in [1, 2, 5, 17, 100] {
            let pages = rig.pages(PageWant { messages_max, ..want(1, 200) }).unwrap();
            assert!(pages.messages == frames_of(&posts));
        }
        for bytes_max in [1, 500, 3_000, 100_000] {
            let pages = rig.pages(PageWant { bytes_max, ..want(1, 200) }).unwrap();
            assert!(pages.messages == frames_of(&posts));
        }
    }
}

#[test]
fn a_first_message_above_the_limit_comes_alone() {
    let mut rig = over_segments();
    assert_eq!(rig.page(PageWant { bytes_max: 1, ..want(8, 22) }), page(8..=8));
    assert_eq!(rig.page(PageWant { bytes_max: 1, newest: true, ..want(8, 22) }), page(22..=22));
}

#[test]
fn a_newest_first_page_leaves_out_its_beginning_and_ends_at_the_head() {
    let mut rig = over_segments();
    let message_bytes = frames(1..=1).len();
    for count in 1..=9 {
        let newest = PageWant { newest: true, ..want(3, 16) };
        assert_eq!(rig.page(PageWant { messages_max: count as u32, ..newest.clone() }), page(17 - count..=16));
        assert_eq!(rig.page(PageWant { bytes_max: count as usize * message_bytes, ..newest }), page(17 - count..=16));
        let beyond = PageWant { newest: true, messages_max: count as u32, ..want(3, 99) };
        assert_eq!(rig.page(beyond), page(23 - count..=22), "more than there is");
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
    let mut later = rig.reopened(RUN + 1);
    assert_eq!(later.pages(spare(0)), page(1..=12));
}

#[test]
fn a_page_that_leaves_all_out_comes_to_an_end() {
    const LAST: u64 = LOOKS_MAX + 500;
    let mut rig = Rig::new(1 << 22);
    for first in (1..=LAST).step_by(100) {
        rig.commit(&(first..(first + 100).min(LAST + 1)).map(Post::at).collect::<Vec<_>>());
    }
    let spare = Some(Post::at(1).author());
    let (mut next, mut pages) = (1, 0);
    while next <= LAST {
        rig.reads.clear();
        let page = rig.page(PageWant { spare, ..want(next, LAST) }).unwrap();
        assert!(page.count == 0 && page.through.0 >= next && page.through.0 < next + LOOKS_MAX);
        assert!(rig.read_bytes(LogFile::Segment) <= 2 * READ_BYTES, "it ends, and the reader asks for the next");
        (next, pages) = (page.through.0 + 1, pages + 1);
    }
    assert!((2..20).contains(&pages), "{pages}");
}

#[test]
fn messages_from_before_a_break_are_told_under_the_rooms_epoch() {
    let mut rig = Rig::new(FOUR_POSTS);
    for (sequence, kind) in (1..=9).zip([RecordKind::Message, RecordKind::Change, RecordKind::Tombstone].iter().cycle())
    {
        rig.commit(&[Post { epoch: 1 + sequence / 4, kind: *kind, ..Post::at(sequence) }]);
    }
    let read = rig.page(PageWant { epoch: Epoch(3), ..want(1, 9) }).unwrap();
    let posts = (1..=9).zip([RecordKind::Message, RecordKind::Change, RecordKind::Tombstone].iter().cycle());
    let expected: Vec<u8> =
        posts.flat_map(|(sequence, kind)| Post { kind: *kind, ..Post::at(sequence) }.frame_of(3)).collect();
    assert_eq!(read.messages, expected);
}

#[test]
fn records_that_are_longer_than_one_read_are_read_whole() {
    let mut rig = Rig::new(2 << 20);
    let post = |sequence, body_bytes| Post { body_bytes, ..Post::at(sequence) };
    let read_bytes = READ_BYTES as usize;
    let mut posts =
        vec![post(1, 10), post(2, read_bytes), post(3, 3 * read_bytes), post(4, read_bytes - 9_000), post(5, 8_000)];
    posts.iter().for_each(|post| rig.commit(&[*post]));
    let many: Vec<Post> = (6..=500).map(|sequence| post(sequence, 400)).collect();
    rig.commit(&many);
    posts.extend(many);
    let sealed = rig.reopened(RUN + 1);
    for mut rig in [sealed, rig] {
        for first in 1..=6 {
            let read = rig.pages(want(first, 500)).unwrap();
            assert!(read.messages == frames_of(&posts[first as usize - 1..]), "from {first}");
            let one = rig.page(PageWant { messages_max: 1, ..want(first, 500) }).unwrap();
            assert!(one.messages == posts[first as usize - 1].frame_of(1));
        }
    }
}

#[test]
fn a_block_that_fills_its_pages_to_the_last_byte_is_followed_by_the_next() {
    let empty = Post { body_bytes: 0, ..Post::at(1) }.frame_of(1).len();
    for pages in 1..=3 {
        let body = pages * PAGE_BYTES - HEADER_BYTES - 2 * PREFIX_BYTES - 2 * empty;
        for missing in 0..=70 {
            let mut rig = Rig::new(1 << 20);
            // The length of a frame follows that of its body, rounded up: find the one that fills the page.
            let second = Post { body_bytes: body - missing, ..Post::at(2) };
            let posts = [Post { body_bytes: 0, ..Post::at(1) }, second, Post::at(3), Post::at(4)];
            rig.commit(&posts[..2]);
            rig.commit(&posts[2..3]);
            rig.commit(&posts[3..]);
            assert_eq!(rig.pages(want(1, 4)).unwrap().messages, frames_of(&posts), "{pages} {missing}");
        }
    }
}

#[test]
fn what_was_refused_and_given_again_is_read_as_it_was_given_last() {
    let mut rig = Rig::new(1 << 20);
    let refused = |sequence| Post { body_bytes: 333, ..Post::at(sequence) };
    rig.post(1..=5);
    rig.refuse(&[refused(6), refused(7), refused(8)]);
    rig.post(6..=6);
    rig.refuse(&[refused(7), refused(8), refused(9)]);
    rig.post(7..=10);
    let ended = rig.journal.end();
    rig.work();
    assert!(ended && rig.files.len() >= 3);
    // As a start finds it: the index of each segment is made again from all of its blocks.
    crate::rig::scan_indexes(&mut rig);
    assert_eq!(rig.part(1, "lobby").last, Sequence(8), "what was refused lies there");
    let catalog = rig.catalog_of_files();
    let mut later = rig.with(crate::rig::parts(RUN + 1, catalog));
    for first in 1..=10 {
        assert_eq!(later.pages(want(first, 10)), page(first..=10), "from {first}");
        let newest = PageWant { newest: true, messages_max: 3, ..want(1, first) };
        assert_eq!(later.page(newest), page(first.saturating_sub(2).max(1)..=first), "up to {first}");
    }
}
