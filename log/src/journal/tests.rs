//! The journal at the machine: what it asks of the disk, and what it makes of the answers.

use banter_protocol::ids::{RoomId, Sequence};

use crate::PAGE_BYTES;
use crate::bytes::u32_at;
use crate::journal::{Answer, Ask, Done, Reach, State};
use crate::reading::ReadFault;
use crate::record::{Level, RecordKind};
use crate::rig::{Post, Rig, frames, want, want_in};
use crate::segment::Class;

mod erasing;
mod lanes;
mod places;
mod proofs;
mod states;

const PAGE: u64 = PAGE_BYTES as u64;
/// The header, two posts, and a proof.
const TWO_POSTS: u64 = 4 * PAGE;
const WRITTEN: Done = Done::Committed { synced: false, is_last: false };
const SYNCED: Done = Done::Committed { synced: true, is_last: true };

/// What was asked, in short.
fn say(asks: &[Ask]) -> Vec<String> {
    let say = |ask: &Ask| match ask {
        Ask::Prepare { .. } => "prepare".to_owned(),
        Ask::Append { segment, offset, wanted, .. } => format!("append {} {offset} {}", segment.id, wanted.syncs()),
        Ask::Seal { end, newest_ms, .. } => format!("seal {} {} {newest_ms}", end.segment.id, end.offset),
        Ask::Read(range) => format!("read {}", range.segment),
        Ask::MendIndex { segment } => format!("mend {segment}"),
        Ask::Release { segment } => format!("release {segment}"),
        Ask::Prove => "prove".to_owned(),
        Ask::LetGo { index } => format!("let go of {} parts", index.len()),
    };
    asks.iter().map(say).collect()
}

impl Rig {
    fn said(&mut self) -> Vec<String> {
        say(&self.asks())
    }

    fn begin_post(&mut self, sequence: u64) -> bool {
        self.begin(&[Post::at(sequence)], true)
    }

    fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    fn head(&self, room: &str) -> Option<u64> {
        self.journal.catalog().room(RoomId::of(room)).map(|room| room.head.0)
    }

    fn state(&self) -> State {
        self.journal.state(Class::SERVER)
    }

    fn is_idle(&self) -> bool {
        self.journal.is_idle(Class::SERVER)
    }
}

#[test]
fn one_append_is_in_flight_and_the_next_block_starts_where_it_ends() {
    let mut rig = Rig::idle(1 << 20);
    assert!(!rig.is_idle());
    assert_eq!(rig.said(), ["prepare"]);
    rig.make_segment();
    for (sequence, offset) in [(1, PAGE), (2, 2 * PAGE)] {
        assert!(rig.is_idle() && rig.begin_post(sequence));
        assert!(rig.said().contains(&format!("append 1 {offset} true")));
        assert!(rig.journal.is_committing() && !rig.is_idle());
        assert!(rig.head("lobby").is_none_or(|head| head < sequence));
        rig.answer(Answer::Written);
        assert!(!rig.is_idle() && rig.head("lobby").is_none_or(|head| head < sequence), "until it is synced");
        rig.answer(Answer::Synced);
        assert_eq!((rig.take_done(), rig.head("lobby")), (vec![WRITTEN, SYNCED], Some(sequence)));
    }
    assert!(rig.begin(&[Post::at(3)], false));
    rig.answer(Answer::Written);
    assert_eq!(rig.take_done(), [Done::Committed { synced: false, is_last: true }]);
    assert!(rig.is_idle());
}

#[test]
fn a_block_says_how_many_before_it_were_known_to_be_on_the_disk() {
    let mut rig = Rig::new(1 << 20);
    let (mut synced, mut is_behind) = (Vec::new(), Vec::new());
    for (sequence, sync) in [(1, false), (2, true), (3, false), (4, false), (5, true), (6, true)] {
        assert!(rig.begin(&[Post::at(sequence)], sync));
        for ask in rig.asks() {
            if let Ask::Append { block, is_behind_synced, .. } = &ask {
                synced.push(u32_at(block, 44).unwrap());
                is_behind.push(*is_behind_synced);
            }
            rig.perform(ask);
        }
    }
    assert_eq!(synced, [0, 0, 2, 2, 2, 5]);
    assert_eq!(is_behind, [true, false, true, false, false, true]);
}

#[test]
fn a_full_segment_is_sealed_and_the_one_behind_the_next_is_asked_for() {
    let mut rig = Rig::new(TWO_POSTS);
    rig.post(1..=2);
    assert!(rig.begin_post(3));
    let end = 3 * PAGE;
    assert_eq!(rig.said(), [format!("seal 1 {end} 2000"), "prepare".to_owned(), format!("append 2 {PAGE} true")]);
}

/// Two segments that are full, and no third.
fn used_up() -> Rig {
    let mut rig = Rig::new(TWO_POSTS);
    rig.post(1..=2);
    rig.makes_segments = false;
    rig.post(3..=4);
    rig.done.clear();
    rig
}

#[test]
fn a_commit_that_does_not_fit_waits_for_a_segment_and_has_two_ready_from_then_on() {
    let mut rig = used_up();
    assert!(rig.is_idle() && !rig.begin_post(5));
    assert_eq!((rig.said(), rig.state()), (vec!["prepare".to_owned()], State::Open), "one was asked for already");
    rig.make_segment();
    assert!(rig.begin_post(5));
    let asks = rig.asks();
    assert_eq!(
        say(&asks),
        [format!("seal 2 {} 4000", 3 * PAGE), "prepare".to_owned(), format!("append 3 {PAGE} true")]
    );
    asks.into_iter().for_each(|ask| rig.perform(ask));
    rig.make_segment();
    rig.make_segment();
    rig.makes_segments = true;
    rig.post(6..=9);
    assert!(rig.files.len() >= 7, "two ahead of the one that is written: {}", rig.files.len());
    assert_eq!(rig.page(want(1, 9)).unwrap().messages, frames(1..=9));
}

#[test]
fn no_space_for_a_segment_refuses_posts_only_when_the_present_one_is_full() {
    let none = || Answer::NoSpace { class: Class::SERVER };
    let mut rig = Rig::new(TWO_POSTS);
    rig.post(1..=2);
    rig.makes_segments = false;
    rig.post(3..=3);
    rig.answer(none());
    assert_eq!(rig.state(), State::Open);
    rig.post(4..=4);
    assert!(rig.is_idle() && !rig.begin_post(5));
    assert_eq!((rig.state(), rig.is_idle()), (State::Full, true));
    rig.asks();
    rig.answer(none());
    assert_eq!((rig.said(), rig.state()), (vec![], State::Full), "the disk tries again by itself");
    rig.make_segment();
    assert_eq!(rig.state(), State::Open);
    rig.makes_segments = true;
    rig.post(5..=5);
    assert_eq!(rig.page(want(1, 5)).unwrap().messages, frames(1..=5));
}

#[test]
fn without_a_first_segment_no_space_refuses_at_once() {
    let mut rig = Rig::idle(TWO_POSTS);
    rig.answer(Answer::NoSpace { class: Class::SERVER });
    assert_eq!(rig.state(), State::Full);
    rig.make_segment();
    assert!(rig.state() == State::Open && rig.is_idle());
}

#[test]
fn behind_a_write_or_sync_that_failed_nothing_is_written_and_reading_goes_on() {
    for is_written in [false, true] {
        let mut rig = Rig::new(1 << 20);
        rig.post(1..=2);
        assert!(rig.begin_post(3));
        rig.done.clear();
        if is_written {
            rig.answer(Answer::Written);
        }
        rig.answer(Answer::AppendFailed { is_full: false });
        assert_eq!(rig.take_done().pop(), Some(Done::CommitFailed));
        assert!(rig.state() == State::Failed && !rig.is_idle() && !rig.journal.is_committing());
        rig.asks();
        rig.make_segment();
        assert!(rig.state() == State::Failed && !rig.journal.end(), "no space heals it, and no end is in order");
        rig.journal.prove();
        assert_eq!((rig.asks().len(), rig.journal.has_unproved()), (0, false), "nothing is sealed, nor proved");
        assert_eq!(rig.page(want(1, 2)).unwrap().messages, frames(1..=2));
    }
}

#[test]
fn of_a_block_that_was_written_and_failed_to_sync_only_rooms_that_asked_for_no_more_have_their_messages() {
    let mut rig = Rig::new(1 << 20);
    let other = Post { room: "other", ..Post::at(1) };
    rig.post(1..=2);
    assert!(rig.begin_mixed(&[(Post::at(3), Level::Synced), (other, Level::Written)], Reach::WrittenThenSynced));
    for ask in rig.asks() {
        let Ask::Append { segment, offset, block, is_behind_synced, .. } = ask else { continue };
        rig.perform(Ask::Append { segment, offset, block, wanted: Reach::Written, is_behind_synced });
    }
    assert_eq!((rig.head("lobby"), rig.head("other")), (Some(2), Some(1)));
    rig.answer(Answer::AppendFailed { is_full: false });
    assert_eq!((rig.head("lobby"), rig.head("other")), (Some(2), Some(1)));
    assert_eq!(rig.page(want(1, 9)).unwrap().messages, frames(1..=2));
    assert_eq!(rig.page(want_in("other", 1, 9)).unwrap().messages, other.frame_of(other.epoch));
}

#[test]
fn an_append_without_space_goes_on_in_a_fresh_segment_and_gives_its_places_again() {
    let mut rig = Rig::new(1 << 20);
    rig.post(1..=2);
    assert!(rig.begin_post(3));
    rig.asks();
    rig.done.clear();
    rig.answer(Answer::AppendFailed { is_full: true });
    assert_eq!(rig.take_done(), [Done::CommitFailed]);
    assert_eq!(rig.state(), State::Open, "a segment was ready");
    let asks = rig.asks();
    assert_eq!(say(&asks), [format!("seal 1 {} 2000", 3 * PAGE)]);
    assert!(matches!(asks[0], Ask::Seal { is_provable: false, .. }), "half a block may lie there");
    asks.into_iter().for_each(|ask| rig.perform(ask));
    rig.work();
    rig.post(3..=4);
    assert_eq!(rig.page(want(1, 4)).unwrap().messages, frames(1..=4));
}

#[test]
fn an_append_without_space_and_without_a_segment_is_full_until_one_comes() {
    let mut rig = Rig::new(1 << 20);
    rig.makes_segments = false;
    rig.post(1..=1);
    assert!(rig.begin_post(2));
    rig.asks();
    rig.answer(Answer::AppendFailed { is_full: true });
    assert_eq!(rig.state(), State::Full);
    assert_eq!(say(rig.journal.asks_mut()), [format!("seal 1 {} 1000", 2 * PAGE)], "a segment was asked for before");
    rig.work();
    rig.make_segment();
    assert_eq!(rig.state(), State::Open);
    rig.post(2..=2);
    assert_eq!(rig.page(want(1, 2)).unwrap().messages, frames(1..=2));
}

#[test]
fn a_sync_without_space_leaves_its_places_to_be_given_again_and_the_later_ones_count() {
    let mut rig = Rig::new(1 << 20);
    rig.post(1..=2);
    rig.refuse(&[Post { body_bytes: 300, ..Post::at(3) }]);
    rig.post(3..=4);
    assert_eq!(rig.page(want(1, 4)).unwrap().messages, frames(1..=4));
}

#[test]
fn a_segment_that_took_no_block_is_sealed_and_released() {
    let mut rig = Rig::new(1 << 20);
    assert!(rig.begin_post(1));
    rig.asks();
    rig.answer(Answer::AppendFailed { is_full: true });
    assert_eq!(rig.said()[..2], [format!("seal 1 {PAGE} 0"), "release 1".to_owned()]);
    assert!(rig.journal.catalog().segment(1).is_none());
}

#[test]
fn a_cut_releases_a_segment_behind_its_rooms_and_at_once_where_nobody_knows_it() {
    let mut rig = Rig::new(TWO_POSTS);
    rig.post(1..=8);
    for segment in [77, 1] {
        rig.cut(segment);
    }
    rig.cut(2);
    rig.work();
    assert_eq!(rig.released, [77, 1, 2]);
    assert_eq!(rig.page(want(5, 8)).unwrap().messages, frames(5..=8));
    let page = rig.page(want(1, 8)).unwrap();
    assert_eq!((page.first, page.messages), (Sequence(5), frames(5..=8)), "the room begins behind it");
    rig.cut(2);
    assert_eq!(rig.said(), ["release 2"], "the answer is due again");
}

#[test]
fn an_end_seals_once_and_writes_no_more() {
    let mut rig = Rig::new(1 << 20);
    rig.post(1..=1);
    assert!(rig.begin_post(2) && !rig.journal.end(), "a commit is under way");
    rig.work();
    assert!(rig.journal.end() && !rig.is_idle());
    assert_eq!(rig.said(), [format!("seal 1 {} 2000", 3 * PAGE)]);
    assert!(!rig.journal.end());
    assert_eq!(rig.asks().len(), 0);
}

#[test]
fn no_more_reads_are_under_way_than_allowed_and_those_of_the_same_bytes_share_one() {
    let mut rig = Rig::new(1 << 20);
    rig.post(1..=3);
    rig.done.clear();
    let tickets: Vec<u32> = (0..5).map(|_| rig.journal.read_page(want(1, 3))).collect();
    rig.journal.begin_reads(&mut rig.done);
    let mut asks = rig.asks();
    assert_eq!((rig.journal.reads(), asks.len()), ((2, 3), 1));
    let Some(Ask::Read(range)) = asks.pop() else { panic!("no read") };
    rig.answer(Answer::Read { range, bytes: None });
    let failed = |ticket| Done::Page { ticket, page: Err(ReadFault::Unreadable { segment: 1 }) };
    assert_eq!(rig.take_done(), [failed(tickets[0]), failed(tickets[1])]);
    rig.journal.begin_reads(&mut rig.done);
    assert_eq!((rig.journal.reads(), rig.asks().len()), ((2, 1), 1));
}

#[test]
fn a_sync_tells_of_the_write_where_nobody_asked_for_that() {
    let mut rig = Rig::idle(1 << 20);
    rig.make_segment();
    for sequence in 1..=2 {
        assert!(rig.begin_post(sequence));
        rig.answer(Answer::Synced);
        assert_eq!((rig.take_done(), rig.head("lobby")), (vec![SYNCED], Some(sequence)));
    }
    assert!(rig.said().contains(&format!("append 1 {} true", 2 * PAGE)), "and the next block lies behind it");
}

#[test]
fn a_segment_is_left_for_the_next_when_others_cannot_go_before_it() {
    let leave = |segment| Answer::Leave { segment };
    let mut rig = Rig::new(1 << 20);
    rig.post(1..=1);
    assert!(rig.begin_post(2));
    rig.asks();
    rig.answer(leave(1));
    rig.answer(leave(7));
    rig.answer(leave(1));
    rig.answer(Answer::Written);
    assert!(rig.said().is_empty(), "not with a block in flight");
    rig.answer(Answer::Synced);
    let said = rig.said();
    assert!(said[0].starts_with(&format!("seal 1 {} ", 3 * PAGE)) && said[1] == "prepare", "{said:?}");
    rig.answer(leave(7));
    assert!(rig.said().is_empty(), "what is not its own is nothing to it");
    rig.answer(leave(2));
    assert!(rig.said().is_empty(), "there is no next one yet");
}

/// What is asked of a segment that gets too old, or stands in the way of others (`u64::MAX`).
fn retire(segment: u64, first_ms: u64, newest_ms: u64) -> Answer {
    Answer::Retire { segment, first_ms, newest_ms }
}

/// One segment with a post of each of these seconds, and none ready: there is no space.
fn last_one(seconds: std::ops::RangeInclusive<u64>) -> Rig {
    let mut rig = Rig::idle(1 << 20);
    rig.makes_segments = false;
    rig.make_segment();
    rig.post(seconds);
    rig.answer(Answer::NoSpace { class: Class::SERVER });
    rig.asks();
    rig
}

#[test]
fn what_would_go_at_once_is_left_without_a_next_segment_and_posts_wait_for_one() {
    let mut rig = last_one(1..=2);
    rig.answer(retire(1, u64::MAX, 1_999));
    assert!(rig.said().is_empty(), "its newest is younger, and there is room in it");
    rig.answer(retire(1, u64::MAX, 2_000));
    assert_eq!(rig.said()[0], format!("seal 1 {} 2000", 3 * PAGE));
    assert!(!rig.is_idle() && !rig.begin_post(3) && rig.state() == State::Open, "they wait, and are not refused");
    rig.answer(Answer::NoSpace { class: Class::SERVER });
    assert_eq!(rig.state(), State::Full);
    rig.make_segment();
    assert_eq!(rig.state(), State::Open);
    rig.post(3..=3);
    assert_eq!(rig.head("lobby"), Some(3));
}

#[test]
fn an_empty_segment_in_the_way_of_others_is_given_back_without_a_next_one() {
    let mut rig = last_one(1..=1);
    rig.make_segment();
    rig.answer(retire(1, u64::MAX, 0));
    assert_eq!(rig.said()[0], format!("seal 1 {} 1000", 2 * PAGE), "for the next one, which is empty");
    rig.answer(Answer::NoSpace { class: Class::SERVER });
    rig.answer(retire(2, 5_000, 5_000));
    assert!(rig.said().is_empty(), "nothing in it is old");
    rig.answer(retire(2, u64::MAX, 0));
    assert_eq!(rig.said(), [format!("seal 2 {PAGE} 0"), "release 2".to_owned()]);
}

#[test]
fn a_segment_is_old_by_its_first_message_and_not_by_when_it_was_made() {
    let mut rig = Rig::new(1 << 20);
    rig.post(5..=6);
    rig.asks();
    rig.answer(retire(2, 4_999, 0));
    rig.answer(retire(1, 4_999, 0));
    assert!(rig.said().is_empty(), "neither the one that is written nor the one that is ready");
    rig.answer(retire(1, 5_000, 0));
    assert_eq!(rig.said()[0], format!("seal 1 {} 6000", 3 * PAGE));
}

#[test]
fn without_space_what_is_left_of_a_segment_takes_what_fits_it() {
    let mut rig = Rig::idle(TWO_POSTS + 2 * PAGE);
    rig.makes_segments = false;
    assert_eq!(rig.journal.room(Class::SERVER), 0);
    rig.make_segment();
    assert_eq!(rig.journal.room(Class::SERVER), rig.journal.commit_bytes_max());
    rig.post(1..=2);
    let left = rig.journal.room(Class::SERVER);
    assert!(left < 2 * PAGE_BYTES && !rig.journal.lacks_space_for(Class::SERVER, left + 1), "one may come");
    rig.answer(Answer::NoSpace { class: Class::SERVER });
    let lacks = |rig: &Rig| [left, left + 1].map(|bytes| rig.journal.lacks_space_for(Class::SERVER, bytes));
    assert_eq!(lacks(&rig), [false, true]);
    assert!(!rig.journal.make_room(Class::SERVER, left + 1) && rig.state() == State::Open, "smaller ones fit");
    assert!(rig.journal.make_room(Class::SERVER, left));
    rig.post(3..=4);
    assert_eq!((rig.journal.room(Class::SERVER), rig.begin_post(5), rig.state()), (0, false, State::Full));
    rig.make_segment();
    assert_eq!(lacks(&rig), [false, false]);
    assert_eq!(rig.journal.room(Class::SERVER), rig.journal.commit_bytes_max());
}

#[test]
fn a_segment_that_was_not_begun_is_given_back_and_another_asked_for() {
    let mut rig = Rig::new(1 << 20);
    rig.post(1..=1);
    rig.answer(Answer::Leave { segment: 2 });
    assert_eq!(rig.said(), [format!("seal 2 {PAGE} 0"), "release 2".to_owned(), "prepare".to_owned()]);
}

#[test]
fn after_a_failed_write_no_segment_is_left() {
    let mut rig = Rig::new(1 << 20);
    rig.post(1..=1);
    assert!(rig.begin_post(2));
    rig.answer(Answer::AppendFailed { is_full: false });
    rig.asks();
    rig.answer(Answer::Leave { segment: 1 });
    assert!(rig.said().is_empty());
}
