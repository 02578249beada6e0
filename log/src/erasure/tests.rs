//! Erasures: what they are about, and segments that are rewritten.

use banter_protocol::ids::{Epoch, RoomName, Sequence, UserName};
use banter_protocol::native::{Kept, erased_ms, read_kept};

use super::*;
use crate::PAGE_BYTES;
use crate::index::{self, IndexHeader, Part};
use crate::record::RecordKind;
use crate::rig::{Post, Rig};
use crate::scan::{Ending, Scan};

fn erasure(room: &str, user: Option<&str>, places: std::ops::RangeInclusive<u64>) -> Erasure {
    Erasure {
        number: 1,
        room: RoomName::new(room).unwrap(),
        user: user.map(|user| UserName::new(user).unwrap()),
        first: Sequence(*places.start()),
        last: Sequence(*places.end()),
        bound: Bound::UNKNOWN,
    }
}

/// A segment with two rooms and two users, several records a block, a change and a state, and zeros behind.
fn segment() -> Vec<u8> {
    let mut rig = Rig::new(1 << 20);
    let hall = |sequence| Post { room: "hall", is_keyed: true, ..Post::at(sequence) };
    for at in 1..=6 {
        let bob = Post { user: "bob", is_keyed: true, body_bytes: 40 * at as usize, ..Post::at(2 * at) };
        rig.commit(&[Post::at(2 * at - 1), hall(at), bob]);
    }
    let change = Post { kind: RecordKind::Change, user: "bob", ..hall(7) };
    rig.commit(&[change, Post { kind: RecordKind::State, sequence: 7, ..hall(7) }]);
    rig.files[&1].clone()
}

/// Its records, and what each keeps, a state as none.
fn records(file: &[u8]) -> Vec<(u64, Vec<u8>, RecordKind)> {
    let mut scan = Scan::new(file).unwrap();
    let mut all = Vec::new();
    for block in scan.by_ref() {
        for (offset, record) in block.placed_records() {
            let record = record.unwrap();
            let end = offset as usize + record.bytes();
            all.push((offset, file[offset as usize..end].to_vec(), record.kind));
        }
    }
    assert!(matches!(scan.ending(), Ending::Clean { .. }));
    all
}

fn kept_of(file: &[u8], at: usize) -> Option<Kept<'_>> {
    Scan::new(file)
        .unwrap()
        .flat_map(|block| block.records().collect::<Vec<_>>())
        .nth(at)
        .and_then(|record| read_kept(record.unwrap().frame).ok())
}

#[test]
fn any_of_the_messages_is_erased_in_its_place_and_all_others_keep_their_bytes() {
    let before = segment();
    let all = records(&before);
    let can_go: Vec<usize> = (0..all.len()).filter(|&at| all[at].2 != RecordKind::State).collect();
    // Each alone, all, none, and some by chance.
    let mut subsets: Vec<Vec<usize>> = can_go.iter().map(|&at| vec![at]).collect();
    subsets.extend([Vec::new(), can_go.clone()]);
    for seed in 1..60_usize {
        subsets.push(can_go.iter().copied().filter(|at| (at + 1) * seed * 2_654_435_761 % 7 < 3).collect());
    }
    for erased in subsets {
        let mut file = before.clone();
        let mut at = 0;
        let done = rewrite(&mut file, None, |kept| {
            let index = can_go[at];
            at += 1;
            assert_eq!(kept_of(&before, index), Some(*kept));
            erased.contains(&index)
        });
        assert_eq!(done, Ok(Rewritten { messages: erased.len() as u64, unread_bytes: 0 }));
        assert_eq!(file.len(), before.len());
        let now = records(&file);
        assert_eq!(now.len(), all.len());
        for (index, (there, was)) in now.iter().zip(&all).enumerate() {
            if !erased.contains(&index) {
                assert_eq!(there, was, "{index} of {erased:?}");
                continue;
            }
            assert_eq!((there.0, there.1.len(), there.2), (was.0, was.1.len(), RecordKind::Tombstone));
            let (gone, was) = (kept_of(&file, index).unwrap(), kept_of(&before, index).unwrap());
            let erased = Kept::Erased { room: was.room(), epoch: was.epoch(), sequence: was.sequence() };
            assert_eq!(gone, erased);
            assert_eq!(erased_ms(&there.1[16..]), Some(was.time_ms()));
        }
        if erased.is_empty() {
            assert_eq!(file, before);
        }
    }
}

#[test]
fn what_is_erased_twice_is_erased_once_and_nothing_of_it_is_left() {
    let mut file = segment();
    let bob = erasure("lobby", Some("bob"), 1..=8);
    let body = format!("lobby {}{:05}", ".".repeat(160), 8);
    let is_there = |file: &[u8]| file.windows(body.len()).any(|there| there == body.as_bytes());
    assert!(is_there(&file));
    assert_eq!(rewrite(&mut file, None, |kept| bob.hides(kept)).unwrap().messages, 4);
    assert!(!is_there(&file));
    let once = file.clone();
    assert_eq!(rewrite(&mut file, None, |kept| bob.hides(kept)).unwrap().messages, 0);
    assert_eq!(file, once);
}

#[test]
fn a_torn_end_goes_and_blocks_behind_damage_are_rewritten_where_they_are() {
    let whole = segment();
    let mut torn = whole.clone();
    let end = whole.iter().rposition(|&byte| byte != 0).unwrap().next_multiple_of(PAGE_BYTES);
    torn[end + 200..end + 220].copy_from_slice(b"a body that was torn");
    let all = erasure("lobby", None, 1..=100);
    let mut expected = whole.clone();
    let end = Some(end as u64);
    assert_eq!(rewrite(&mut torn, end, |kept| all.hides(kept)), rewrite(&mut expected, end, |kept| all.hides(kept)));
    assert_eq!(torn, expected);
    // The second block is damaged: the others are rewritten, and how the segment is judged stays.
    let mut damaged = whole;
    damaged[2 * PAGE_BYTES + 100] ^= 1;
    let verdict = |file: &[u8]| {
        let mut scan = Scan::new(file).unwrap();
        scan.by_ref().for_each(drop);
        scan.ending()
    };
    let (before, middle) = (verdict(&damaged), damaged[2 * PAGE_BYTES..3 * PAGE_BYTES].to_vec());
    assert!(matches!(before, Ending::Corrupt { .. }));
    let done = rewrite(&mut damaged, None, |kept| all.hides(kept)).unwrap();
    assert_eq!((done.messages, done.unread_bytes), (10, PAGE_BYTES as u64));
    assert_eq!((verdict(&damaged), &damaged[2 * PAGE_BYTES..3 * PAGE_BYTES]), (before, &middle[..]));
    assert!(rewrite(&mut [0; PAGE_BYTES], None, |_| true).is_err());
}

#[test]
fn an_erasure_is_about_its_places_of_its_room_and_its_user() {
    let epoch = Epoch(1);
    let frame = |post: Post| post.frame_of(1);
    let hides = |erasure: &Erasure, post: Post| erasure.hides(&read_kept(&frame(post)).unwrap());
    let (all, bob) = (erasure("lobby", None, 2..=3), erasure("lobby", Some("bob"), 2..=3));
    for (sequence, is_in) in [(1, false), (2, true), (3, true), (4, false)] {
        assert_eq!(hides(&all, Post::at(sequence)), is_in);
        assert!(!hides(&bob, Post::at(sequence)), "another user's");
        assert_eq!(hides(&bob, Post { user: "bob", ..Post::at(sequence) }), is_in);
        assert!(!hides(&all, Post { room: "hall", ..Post::at(sequence) }));
        let key = |user| Post { is_keyed: true, user, ..Post::at(sequence) }.key().unwrap();
        assert_eq!((all.hides_key(&key("ann")), bob.hides_key(&key("ann"))), (is_in, false));
        assert_eq!(bob.hides_key(&key("bob")), is_in);
    }
    let gone = Kept::Erased { room: "lobby", epoch, sequence: Sequence(2) };
    assert!(!all.hides(&gone), "it is erased already");
    assert_eq!(read_kept(&all.shown(&frame(Post::at(2)))), Ok(gone));
    assert_eq!(&*all.shown(&frame(Post::at(4))), &frame(Post::at(4))[..]);
}

#[test]
fn erasures_of_a_room_are_known_until_they_are_done_or_it_begins_anew() {
    let mut erasures = Erasures::default();
    let (lobby, hall) = (erasure("lobby", None, 1..=u64::MAX), erasure("hall", None, 1..=2));
    erasures.add(lobby.clone());
    erasures.add(hall.clone());
    let bound = Bound { last: Sequence(5), ..Bound::UNKNOWN };
    erasures.add(Erasure { bound, ..lobby.clone() });
    assert_eq!(erasures.of(lobby.room_id()).len(), 1, "the same one, known better");
    assert_eq!(erasures.get(lobby.room_id(), 1).map(Erasure::end), Some(Sequence(5)));
    let frame = Post::at(5).frame_of(1);
    let kept = read_kept(&frame).unwrap();
    assert!(matches!(erasures.shown(lobby.room_id(), kept), Kept::Erased { .. }));
    erasures.end(lobby.room_id(), 1);
    assert_eq!(erasures.shown(lobby.room_id(), kept), kept);
    erasures.forget_room(hall.room_id());
    assert!(erasures.of(hall.room_id()).is_empty());
}

#[test]
fn what_came_behind_the_bound_is_not_concerned_by_place_history_or_time() {
    let post = Post::at(5);
    let frame = post.frame_of(3);
    let kept = read_kept(&frame).unwrap();
    let key = Post { is_keyed: true, ..post }.key().unwrap();
    let of = |epoch, last, newest_ms| Erasure {
        bound: Bound { epoch: Epoch(epoch), last: Sequence(last), newest_ms },
        ..erasure("lobby", None, 1..=u64::MAX)
    };
    let time_ms = kept.time_ms();
    assert!(of(3, 5, time_ms).hides(&kept) && of(3, 5, time_ms).hides_key(&key));
    for (later, has_key) in [(of(3, 4, time_ms), false), (of(2, 5, time_ms), true), (of(3, 5, time_ms - 1), false)] {
        assert_eq!((later.hides(&kept), later.hides_key(&key)), (false, has_key), "{later:?}");
    }
    let within = of(3, 9, 7).bound.within(of(5, 4, 8).bound);
    assert_eq!(within, of(3, 4, 7).bound);
}

#[test]
fn a_last_block_that_does_not_check_stays_as_it_is_and_is_counted() {
    let whole = segment();
    let written = whole.iter().rposition(|&byte| byte != 0).unwrap() as u64 + 1;
    let end = written.next_multiple_of(PAGE_BYTES as u64);
    let all = erasure("lobby", None, 1..=100);
    // As the index says it, and as far as anything was written.
    for end_offset in [Some(end), None] {
        let mut damaged = whole.clone();
        damaged[end as usize - PAGE_BYTES + 100] ^= 1;
        let (unread, last) = (end_offset.unwrap_or(written) + PAGE_BYTES as u64 - end, damaged.clone());
        let done = rewrite(&mut damaged, end_offset, |kept| all.hides(kept)).unwrap();
        assert_eq!(done.unread_bytes, unread);
        assert_eq!(damaged[end as usize - PAGE_BYTES..], last[end as usize - PAGE_BYTES..]);
    }
}

#[test]
fn a_segment_is_rewritten_in_steps_as_at_once() {
    let (mut at_once, mut in_steps) = (segment(), segment());
    let all = erasure("lobby", None, 3..=8);
    let done = rewrite(&mut at_once, None, |kept| all.hides(kept)).unwrap();
    let mut rewrite = Rewrite::new(&in_steps, None).unwrap();
    let mut steps = 1;
    while rewrite.step(&mut in_steps, 1, |kept| all.hides(kept)) {
        steps += 1;
    }
    assert_eq!((rewrite.done(), in_steps), (done, at_once));
    assert_eq!(steps, 8, "a block each, and the end");
}

#[test]
fn an_index_loses_the_keys_of_what_is_erased_and_nothing_else() {
    let mut rig = Rig::new(1 << 20);
    let bob = |at| Post { user: "bob", is_keyed: true, ..Post::at(at) };
    (1..=300).for_each(|at| rig.commit(&[if at % 2 == 0 { bob(at) } else { Post { is_keyed: true, ..Post::at(at) } }]));
    rig.commit(&[Post { room: "hall", is_keyed: true, ..Post::at(1) }]);
    rig.sealed_catalog();
    let (file, header) = (rig.indexes[&1].clone(), rig.header(1));
    let erasure = erasure("lobby", Some("bob"), 1..=200);
    let hides = |part: &Part, post: &KeyedPost| part.room == erasure.room_id() && erasure.hides_key(post);
    let without = without_keys(&file, &header, hides).unwrap();
    assert!(index::is_whole(&without, &header));
    let parts = |file: &[u8]| -> Vec<Part> {
        let end = IndexHeader::read(file, &header).unwrap().table_end() as usize;
        index::read_table(&file[index::HEADER_BYTES..end], header.nonce).map(Option::unwrap).collect()
    };
    for (now, was) in parts(&without).iter().zip(&parts(&file)) {
        let gone = if was.room == erasure.room_id() { 100 } else { 0 };
        assert_eq!(now.details.keys + gone, was.details.keys);
        assert_eq!(Part { details: was.details, ..*now }, *was);
    }
    assert_eq!(without_keys(&file, &header, |_, _| false), Some(file.clone()));
    // What is damaged stays.
    let mut damaged = file.clone();
    let at = file.len() - 10;
    damaged[at] ^= 1;
    assert_eq!(without_keys(&damaged, &header, hides).unwrap().last_chunk::<20>(), damaged.last_chunk::<20>());
    damaged[50] ^= 1;
    assert_eq!(without_keys(&damaged, &header, hides), None);
}
