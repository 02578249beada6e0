//! The keeper erases: whom it tells what, in which order, and what it makes of what fails.

use banter_chat::erasing::Begun;
use banter_log::erasure::{Bound, Erasure};
use banter_protocol::ids::{Epoch, RoomName, Sequence, UserName};
use banter_protocol::native::{Kept, read_kept};

use super::super::super::erasures::{Binding, Ended, Wanted};
use super::super::super::files::draft_of;
use super::*;

fn wanted(first: u64, last: u64) -> Wanted {
    let (room, user, bound) = (RoomName::new("lobby").unwrap(), None, Bound::UNKNOWN);
    Wanted { room, user, first: Sequence(first), last: Sequence(last), bound }
}

fn owner() -> usize {
    core_of(RoomId::of("lobby"), 2).index()
}

fn begun(number: u64, last: u64, segment: Option<u64>) -> ToKeeper {
    let bound = Bound { last: Sequence(last), ..Bound::UNKNOWN };
    ToKeeper::Begun(Begun { number, bound, segment })
}

impl Rig {
    fn list(&self) -> ErasureFile {
        ErasureFile::of(self.folder.path(), self.keeper.ledger.ledger().identity)
    }

    /// A tool adds to the list, and the keeper looks.
    fn ask(&mut self, wanted: &Wanted) -> u64 {
        let number = self.list().ask(wanted, 1).unwrap();
        self.look();
        number
    }

    fn look(&mut self) {
        self.keeper.look_at_erasures();
        self.erase_all();
    }

    /// Turns of the keeper until nothing of it is under way.
    fn erase_all(&mut self) {
        for _ in 0..10_000 {
            if !self.keeper.erasing.is_busy(Instant::now()) {
                return;
            }
            self.keeper.erase_step();
        }
        panic!("it goes on for ever");
    }

    /// A core hides it.
    fn begun(&mut self, number: u64, last: u64, segment: Option<u64>) {
        self.keeper.take(begun(number, last, segment));
        self.erase_all();
    }

    /// What failed is due again.
    fn look_later(&mut self) {
        self.keeper.erasing.make_due();
        self.look();
    }

    /// What a core was told, in short.
    fn told(&self, core: usize) -> Vec<String> {
        let say = |message| match message {
            ToCore::Log(Answer::Erase(erasure)) => format!("erase {}-{}", erasure.first.0, erasure.end().0),
            ToCore::Log(Answer::ForgetFrames { .. }) => "forget".to_owned(),
            ToCore::Log(Answer::Rewritten { segment }) => format!("rewritten {segment}"),
            ToCore::Log(Answer::Erased(erasure)) => format!("erased {}", erasure.number),
            ToCore::Log(Answer::Leave { segment }) => format!("leave {segment}"),
            ToCore::Log(Answer::Indexed { segment, .. }) => format!("indexed {segment}"),
            other => panic!("{other:?}"),
        };
        self.cores[core].drain().map(say).collect()
    }

    fn pending(&self) -> u64 {
        self.keeper.state.erasures_pending.load(Ordering::Relaxed)
    }

    /// The places of a segment whose messages are erased.
    fn erased_in(&self, segment: u64) -> Vec<u64> {
        let bytes = fs::read(segment_path(self.folder.path(), segment)).unwrap();
        let mut erased = Vec::new();
        for block in Scan::new(&bytes).unwrap() {
            for record in block.records() {
                if let Ok(Kept::Erased { sequence, .. }) = read_kept(record.unwrap().frame) {
                    erased.push(sequence.0);
                }
            }
        }
        erased
    }
}

#[test]
fn the_cores_hide_it_first_and_are_told_last_that_it_is_gone_from_every_file() {
    let mut rig = Rig::new(&[0, 0, 0], limits());
    let number = rig.ask(&wanted(3, u64::MAX));
    assert_eq!(
        (rig.told(owner()), rig.told(1 - owner())),
        (vec![format!("erase 3-{}", u64::MAX), "forget".into()], vec!["forget".into()])
    );
    assert_eq!((rig.pending(), rig.erased_in(1)), (1, vec![]), "nothing is written before the core hides it");
    rig.look();
    assert!(rig.told(owner()).is_empty(), "it is told once");
    rig.begun(number, 6, None);
    assert_eq!([1, 2, 3].map(|segment| rig.erased_in(segment)), [vec![3], vec![4, 5], vec![6]]);
    let all = ["rewritten 1", "rewritten 2", "rewritten 3", "forget"];
    assert_eq!(rig.told(owner()), [&all[..], &["erased 1"]].concat());
    assert_eq!((rig.told(1 - owner()), rig.pending()), (all.map(str::to_owned).to_vec(), 0));
    let list = rig.list().read().unwrap();
    let listed = list.get(number).unwrap();
    assert_eq!(listed.done, Some(Ended { messages: 4, unread_bytes: 0 }));
    assert_eq!((listed.erasure.end(), listed.through_segment), (Sequence(6), Some(3)));
    rig.look();
    assert!(rig.told(owner()).is_empty(), "what is done is done");
}

#[test]
fn an_ask_is_answered_with_its_number_once_the_list_says_up_to_where_it_reaches() {
    let mut rig = Rig::new(&[0], limits());
    let (answer, answers) = flume::bounded(1);
    rig.keeper.take(ToKeeper::Erase { wanted: wanted(1, 2), answer });
    rig.erase_all();
    assert!(answers.try_recv().is_err() && rig.told(owner()).contains(&"erase 1-2".to_owned()));
    rig.begun(1, 3, None);
    assert_eq!(answers.recv().unwrap().unwrap(), 1);
    let list = rig.list().read().unwrap();
    assert_eq!(list.get(1).unwrap().erasure.bound.last, Sequence(3));
}

#[test]
fn an_ask_that_nobody_was_answered_reaches_no_later_than_it_was_asked_behind_a_crash() {
    let mut rig = Rig::new(&[0], limits());
    let (answer, _answers) = flume::bounded(1);
    let before_ms = rig.keeper.clock_ms();
    rig.keeper.take(ToKeeper::Erase { wanted: wanted(1, 2), answer });
    let bound = rig.list().read().unwrap().get(1).unwrap().erasure.bound;
    assert!(bound.newest_ms <= before_ms + 100 && bound.last == Sequence(u64::MAX));
}

#[test]
fn what_the_list_cannot_be_told_is_tried_again_and_nothing_is_rewritten_before() {
    let mut rig = Rig::new(&[0, 0], limits());
    let number = rig.ask(&wanted(1, u64::MAX));
    let held = fs::File::open(rig.list().path()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    rig.begun(number, 5, None);
    assert_eq!((rig.erased_in(1), rig.list().read().unwrap().get(number).unwrap().through_segment), (vec![], None));
    drop(held);
    // Segments that are made meanwhile are not concerned.
    rig.said(0);
    rig.prepared(0);
    rig.look_later();
    assert_eq!((rig.erased_in(1), rig.erased_in(2), rig.pending()), (vec![2, 3], vec![4, 5], 0));
    assert_eq!(rig.list().read().unwrap().get(number).unwrap().through_segment, Some(2));
}

#[test]
fn what_came_behind_the_bound_that_the_tool_found_stays_whatever_the_core_says() {
    for (bound, erased) in [
        (Bound { last: Sequence(3), ..Bound::UNKNOWN }, [vec![2, 3], vec![]]),
        (Bound { epoch: Epoch(0), ..Bound::UNKNOWN }, [vec![], vec![]]),
        (Bound { newest_ms: 1_600_000_000_000, ..Bound::UNKNOWN }, [vec![], vec![]]),
    ] {
        let mut rig = Rig::new(&[0, 0], limits());
        let number = rig.ask(&Wanted { bound, ..wanted(1, u64::MAX) });
        rig.begun(number, 5, None);
        assert_eq!(([1, 2].map(|segment| rig.erased_in(segment)), rig.pending()), (erased, 0), "{bound:?}");
    }
}

#[test]
fn a_room_that_began_anew_while_it_was_erased_keeps_its_new_history() {
    let mut rig = Rig::new(&[0, 0], limits());
    let number = rig.ask(&wanted(1, u64::MAX));
    // The core had it under an earlier epoch; these are the first places of the next one.
    let bound = Bound { epoch: Epoch(0), last: Sequence(900), ..Bound::UNKNOWN };
    rig.keeper.take(ToKeeper::Begun(Begun { number, bound, segment: None }));
    rig.erase_all();
    assert_eq!((rig.erased_in(1), rig.erased_in(2), rig.pending()), (vec![], vec![], 0));
}

#[test]
fn a_round_does_one_piece_a_turn_and_leaves_time_for_what_is_due() {
    let mut rig = Rig::new(&[0; 6], limits());
    let number = rig.ask(&wanted(1, u64::MAX));
    rig.keeper.take(begun(number, 100, None));
    let mut turns = 0;
    while rig.pending() > 0 {
        rig.keeper.do_due();
        let before: usize = (1..=6).map(|segment| rig.erased_in(segment).len()).sum();
        rig.keeper.erase_step();
        let now: usize = (1..=6).map(|segment| rig.erased_in(segment).len()).sum();
        assert!(now - before <= 2, "a segment a turn at most");
        turns += 1;
    }
    assert!(turns >= 24, "{turns}");
    assert!(rig.keeper.queue.next(|_| 0).is_none(), "nothing of it waits where other work does");
}

#[test]
fn a_round_reads_no_segment_again_that_an_earlier_one_has_done() {
    let mut rig = Rig::new(&[0; 4], limits());
    let draft = draft_of(&segment_path(rig.folder.path(), 2));
    fs::create_dir(&draft).unwrap();
    let number = rig.ask(&wanted(1, u64::MAX));
    rig.begun(number, 100, None);
    assert_eq!([1, 2, 3, 4].map(|segment| rig.erased_in(segment).len()), [2, 0, 2, 2]);
    // Would they be read again, they would be found to be none.
    for segment in [1, 3, 4] {
        fs::write(segment_path(rig.folder.path(), segment), "no segment").unwrap();
    }
    fs::remove_dir(&draft).unwrap();
    rig.look_later();
    assert_eq!((rig.erased_in(2).len(), rig.pending()), (2, 0));
}

#[test]
fn what_fails_is_tried_again_less_and_less_often() {
    let mut rig = Rig::new(&[0], limits());
    fs::create_dir(draft_of(&segment_path(rig.folder.path(), 1))).unwrap();
    let number = rig.ask(&wanted(1, u64::MAX));
    rig.begun(number, 100, None);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        pauses.push(rig.keeper.erasing.pause_of(number).as_secs());
        rig.look();
        assert_eq!(Some(&rig.keeper.erasing.pause_of(number).as_secs()), pauses.last(), "not before that");
        rig.look_later();
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
}

#[test]
fn without_space_for_a_draft_none_is_begun_and_what_is_to_stay_free_stays_free() {
    let mut rig = Rig::new(&[0, 0], Limits { log_free_bytes_min: 1 << 60, ..limits() });
    let number = rig.ask(&wanted(1, u64::MAX));
    rig.begun(number, 100, None);
    assert_eq!((rig.erased_in(1), rig.pending(), rig.keeper.erasing.is_space_told()), (vec![], 1, true));
    assert_eq!(rig.list().read().unwrap().get(number).unwrap().through_segment, Some(2), "that takes none");
    rig.keeper.sizing = Sizing::new(&limits(), 2, 1);
    rig.look_later();
    assert_eq!((rig.erased_in(1), rig.pending(), rig.keeper.erasing.is_space_told()), (vec![2, 3], 0, false));
}

#[test]
fn thousands_of_a_restored_list_are_written_down_together() {
    let mut rig = Rig::new(&[0, 0], limits());
    let records = {
        let other = ErasureFile::of(rig.folder.path(), Default::default());
        for at in 0..1_000_u64 {
            let user = Some(UserName::new(format!("user {at}").as_str()).unwrap());
            other.ask(&Wanted { user, ..wanted(1, u64::MAX) }, 1).unwrap();
        }
        let list = other.read().unwrap();
        list.all().count() as u64
    };
    assert_eq!(records, 1_000);
    rig.keeper.look_at_erasures();
    assert_eq!(rig.pending(), records);
    (1..=records).for_each(|number| rig.keeper.accept(begun(number, 5, None)));
    assert!(rig.list().read().unwrap().all().all(|listed| listed.through_segment.is_none()));
    rig.keeper.erase_step();
    assert!(rig.list().read().unwrap().all().all(|listed| listed.through_segment == Some(2)), "in one step");
    rig.erase_all();
    assert_eq!((rig.pending(), rig.list().read().unwrap().pending().count()), (0, 0));
}

#[test]
fn a_segment_that_is_written_is_left_first_and_rewritten_behind_its_index() {
    let mut rig = Rig::new(&[], limits());
    let segment = rig.prepared(0);
    let number = rig.ask(&wanted(1, u64::MAX));
    rig.cores.iter().for_each(|core| drop(core.drain()));
    for _ in 0..2 {
        rig.begun(number, 1, Some(segment.id));
        rig.look();
        let told = rig.told(0);
        assert!(!told.is_empty() && told.iter().all(|told| *told == "leave 1"), "{told:?}");
        assert_eq!(rig.pending(), 1);
    }
    // Its index cannot be written yet.
    fs::create_dir(draft_of(&index_path(rig.folder.path(), segment.id))).unwrap();
    rig.seal(segment);
    rig.look();
    assert_eq!((rig.pending(), rig.erased_in(1)), (1, vec![]));
    fs::remove_dir(draft_of(&index_path(rig.folder.path(), segment.id))).unwrap();
    rig.do_all();
    rig.erase_all();
    assert_eq!((rig.pending(), rig.erased_in(1)), (0, vec![1]));
    let told = rig.told(0);
    let at = |what: &str| told.iter().position(|told| told == what).unwrap();
    assert!(at("indexed 1") < at("rewritten 1"), "{told:?}");
}

#[test]
fn what_cannot_be_rewritten_stays_hidden_and_is_tried_again() {
    let mut rig = Rig::new(&[0, 0], limits());
    let draft = draft_of(&segment_path(rig.folder.path(), 1));
    fs::create_dir(&draft).unwrap();
    let number = rig.ask(&wanted(1, u64::MAX));
    rig.begun(number, 5, None);
    assert_eq!((rig.pending(), rig.erased_in(1), rig.erased_in(2)), (1, vec![], vec![4, 5]));
    assert!(!rig.told(owner()).contains(&"erased 1".to_owned()));
    fs::remove_dir(&draft).unwrap();
    rig.look_later();
    assert_eq!((rig.pending(), rig.erased_in(1)), (0, vec![2, 3]));
    let done = rig.list().read().unwrap().get(number).unwrap().done;
    assert_eq!(done.map(|ended| ended.messages), Some(4), "those of both rounds");
}

#[test]
fn what_was_bound_before_a_crash_reaches_no_younger_segment() {
    let mut rig = Rig::new(&[0, 0, 0], limits());
    let number = rig.list().ask(&wanted(1, u64::MAX), 1).unwrap();
    let bound = Bound { last: Sequence(5), ..Bound::UNKNOWN };
    rig.list().bind(&[Binding { number, bound, through_segment: 2 }]).unwrap();
    rig.look();
    assert!(rig.told(owner()).contains(&"erase 1-5".to_owned()));
    rig.begun(number, 5, None);
    assert_eq!([1, 2, 3].map(|segment| rig.erased_in(segment)), [vec![2, 3], vec![4, 5], vec![]]);
}

#[test]
fn a_stop_gives_up_what_is_begun_and_leaves_it_to_the_next_start() {
    let mut rig = Rig::new(&[0, 0], limits());
    let number = rig.ask(&wanted(1, u64::MAX));
    rig.keeper.accept(begun(number, 5, None));
    rig.keeper.erase_step();
    rig.keeper.erase_step();
    while !draft_of(&segment_path(rig.folder.path(), 1)).exists() {
        rig.keeper.erase_step();
    }
    rig.keeper.take(ToKeeper::Stop { is_whole: true });
    rig.keeper.erase_step();
    assert_eq!(rig.list().read().unwrap().pending().count(), 1);
    let names = fs::read_dir(rig.folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!names.into_iter().any(|name| name.ends_with(".new")));
    assert!(rig.erased_in(2).is_empty());
}

#[test]
fn a_segment_that_is_cut_meanwhile_is_not_brought_back() {
    let mut rig = Rig::new(&[0, 0], limits());
    let number = rig.ask(&wanted(1, u64::MAX));
    rig.keeper.accept(begun(number, 5, None));
    // The first is read, and goes before its draft is put in its place.
    while !draft_of(&segment_path(rig.folder.path(), 1)).exists() {
        rig.keeper.erase_step();
    }
    rig.keeper.segments.cut(1);
    for core in 0..2 {
        rig.keeper.segments.release(1, Core(core));
    }
    rig.keeper.drop_free();
    rig.erase_all();
    assert_eq!((rig.segments(), rig.erased_in(2), rig.pending()), (vec![2], vec![4, 5], 0));
}

#[test]
fn a_segment_that_was_cut_and_is_there_still_is_rewritten_too() {
    let mut rig = Rig::new(&[0, 0], limits());
    rig.keeper.segments.cut(1);
    let number = rig.ask(&wanted(1, 4));
    // The core knows the room no more.
    rig.begun(number, 0, None);
    assert_eq!((rig.erased_in(1), rig.erased_in(2), rig.pending()), (vec![2, 3], vec![], 0));
}

#[test]
fn erasures_of_other_rooms_rewrite_nothing() {
    let mut rig = Rig::new(&[0], limits());
    let before = fs::read(segment_path(rig.folder.path(), 1)).unwrap();
    let other = Wanted { room: RoomName::new("hall").unwrap(), ..wanted(1, u64::MAX) };
    let number = rig.ask(&other);
    rig.begun(number, 0, None);
    assert_eq!((rig.pending(), fs::read(segment_path(rig.folder.path(), 1)).unwrap()), (0, before));
    let bound = Bound { last: Sequence(0), ..Bound::UNKNOWN };
    let erasure = Erasure { number, room: other.room, user: None, first: Sequence(1), last: Sequence(9), bound };
    assert!(!erasure.spans(Sequence(0)) && !erasure.spans(Sequence(1)));
}
