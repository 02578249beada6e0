//! The keeper erases: whom it tells what, in which order, and what it makes of what fails.

use banter_chat::erasing::Begun;
use banter_log::erasure::Erasure;
use banter_protocol::ids::{RoomName, Sequence};
use banter_protocol::native::{Kept, read_kept};

use super::super::super::erasures::Wanted;
use super::super::super::files::draft_of;
use super::*;

fn wanted(first: u64, last: u64) -> Wanted {
    Wanted { room: RoomName::new("lobby").unwrap(), user: None, first: Sequence(first), last: Sequence(last) }
}

fn owner() -> usize {
    core_of(RoomId::of("lobby"), 2).index()
}

fn begun(number: u64, last: u64, segment: Option<u64>) -> ToKeeper {
    ToKeeper::Begun(Begun { number, last: Sequence(last), segment })
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
        self.keeper.work();
    }

    /// What a core was told, in short.
    fn told(&self, core: usize) -> Vec<String> {
        let say = |message| match message {
            ToCore::Log(Answer::Erase(erasure)) => format!("erase {}-{}", erasure.first.0, erasure.last.0),
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
    rig.keeper.take(begun(number, 6, None));
    assert_eq!([1, 2, 3].map(|segment| rig.erased_in(segment)), [vec![3], vec![4, 5], vec![6]]);
    let all = ["rewritten 1", "rewritten 2", "rewritten 3", "forget"];
    assert_eq!(rig.told(owner()), [&all[..], &["erased 1"]].concat());
    assert_eq!((rig.told(1 - owner()), rig.pending()), (all.map(str::to_owned).to_vec(), 0));
    let list = rig.list().read().unwrap();
    let listed = list.get(number).unwrap();
    assert_eq!((listed.done, listed.erasure.last, listed.through_segment), (Some(4), Sequence(6), Some(3)));
    rig.look();
    assert!(rig.told(owner()).is_empty(), "what is done is done");
}

#[test]
fn an_ask_is_answered_with_its_number_once_it_is_written_down() {
    let mut rig = Rig::new(&[0], limits());
    let (answer, answers) = flume::bounded(1);
    rig.keeper.take(ToKeeper::Erase { wanted: wanted(1, 2), answer });
    assert_eq!(answers.recv().unwrap().unwrap(), 1);
    assert_eq!((rig.list().read().unwrap().pending().count(), rig.pending()), (1, 1));
}

#[test]
fn a_segment_that_is_written_is_left_first_and_rewritten_behind_its_index() {
    let mut rig = Rig::new(&[], limits());
    let segment = rig.prepared(0);
    let number = rig.ask(&wanted(1, u64::MAX));
    rig.cores.iter().for_each(|core| drop(core.drain()));
    for _ in 0..2 {
        rig.keeper.take(begun(number, 1, Some(segment.id)));
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
    rig.keeper.take(begun(number, 5, None));
    assert_eq!((rig.pending(), rig.erased_in(1), rig.erased_in(2)), (1, vec![], vec![4, 5]));
    assert!(!rig.told(owner()).contains(&"erased 1".to_owned()));
    fs::remove_dir(&draft).unwrap();
    rig.look();
    assert_eq!((rig.pending(), rig.erased_in(1)), (0, vec![2, 3]));
    assert_eq!(rig.list().read().unwrap().get(number).unwrap().done, Some(4), "those of both rounds");
}

#[test]
fn what_was_bound_before_a_crash_reaches_no_younger_segment() {
    let mut rig = Rig::new(&[0, 0, 0], limits());
    let number = rig.list().ask(&wanted(1, u64::MAX), 1).unwrap();
    rig.list().bind(number, Sequence(5), 2).unwrap();
    rig.look();
    assert!(rig.told(owner()).contains(&"erase 1-5".to_owned()));
    rig.keeper.take(begun(number, 5, None));
    assert_eq!([1, 2, 3].map(|segment| rig.erased_in(segment)), [vec![2, 3], vec![4, 5], vec![]]);
}

#[test]
fn a_stop_gives_up_what_is_begun_and_leaves_it_to_the_next_start() {
    let mut rig = Rig::new(&[0, 0], limits());
    let number = rig.ask(&wanted(1, u64::MAX));
    rig.keeper.accept(begun(number, 5, None));
    rig.keeper.erase_step();
    rig.keeper.take(ToKeeper::Stop { is_whole: true });
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
    rig.keeper.erase_step();
    rig.keeper.segments.cut(1);
    for core in 0..2 {
        rig.keeper.segments.release(1, Core(core));
    }
    rig.keeper.drop_free();
    rig.keeper.work();
    assert_eq!((rig.segments(), rig.erased_in(2), rig.pending()), (vec![2], vec![4, 5], 0));
}

#[test]
fn a_segment_that_was_cut_and_is_there_still_is_rewritten_too() {
    let mut rig = Rig::new(&[0, 0], limits());
    rig.keeper.segments.cut(1);
    let number = rig.ask(&wanted(1, 4));
    // The core knows the room no more.
    rig.keeper.take(begun(number, 0, None));
    assert_eq!((rig.erased_in(1), rig.erased_in(2), rig.pending()), (vec![2, 3], vec![], 0));
}

#[test]
fn erasures_of_other_rooms_rewrite_nothing() {
    let mut rig = Rig::new(&[0], limits());
    let before = fs::read(segment_path(rig.folder.path(), 1)).unwrap();
    let other = Wanted { room: RoomName::new("hall").unwrap(), ..wanted(1, u64::MAX) };
    let number = rig.ask(&other);
    rig.keeper.take(begun(number, 0, None));
    assert_eq!((rig.pending(), fs::read(segment_path(rig.folder.path(), 1)).unwrap()), (0, before));
    let erasure = Erasure { number, room: other.room, user: None, first: Sequence(1), last: Sequence(0) };
    assert!(!erasure.spans(Sequence(0)) && !erasure.spans(Sequence(1)));
}
