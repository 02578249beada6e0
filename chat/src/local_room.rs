//! A room as a core sees it that has readers of it: their list, and a run for each audience that somebody is of.

use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};
use banter_protocol::wire::WireForm;

use crate::address::Core;
use crate::audience::{Audience, Class};
use crate::pacing::RoomPace;
use crate::program::ClassName;
use crate::run::Run;
use crate::telling::Telling;
use crate::walk::Round;

/// A room that is read on this core; its owner may be this core or another.
pub struct LocalRoom {
    /// What lanes know it by.
    pub id: RoomId,
    /// Its name.
    pub name: RoomName,
    /// The core that owns it.
    pub owner: Core,
    /// Its history's name, as the last answer said.
    pub epoch: Epoch,
    /// The newest message that came here; `None` before the first join was answered.
    pub head: Option<Sequence>,
    /// The oldest message that its owner holds in memory, as it said last.
    pub memory_from: Sequence,
    /// Members, as the owner said last.
    pub members: u64,
    /// Every reading of it on this core.
    pub subscriptions: Vec<u32>,
    /// It stands in the list of rooms with something new.
    pub is_dirty: bool,
    /// Where the round through its subscriptions is.
    pub round: Round,
    /// When the oldest message that not all of them were looked at for became history, in the turns' microseconds.
    pub new_since_us: Option<u64>,
    /// How what comes waits for company.
    pub pace: RoomPace,
    /// What its newest telling says, until all of them were looked at.
    pub telling: Option<Box<Telling>>,
    /// How often it was told who came and went; wraps.
    pub tellings: u32,
    /// It stands in the list of rooms whose runs are to be looked at.
    pub is_swept: bool,
    runs: FormRuns,
    /// Those that somebody here is of, in a room whose program has classes.
    classes: Option<Box<Classes>>,
}

type FormRuns = [FormRun; WireForm::ALL.len()];

#[derive(Default)]
struct Classes(Vec<ClassRuns>);

struct ClassRuns {
    name: ClassName,
    /// Subscriptions that are of it; with none the place is another class's.
    readings: u32,
    runs: FormRuns,
}

#[derive(Default)]
struct FormRun {
    /// Made with the first frame, so that a quiet room has none.
    run: Option<Box<Run>>,
    /// Subscriptions that are sent from it.
    live: u32,
    /// The position behind everything that was appended; kept while there is no run.
    head: u64,
    /// Positions before this one are those of readers that something was left out for.
    left_out_before: u64,
}

impl LocalRoom {
    /// A room that somebody here just asked to read.
    pub fn new(id: RoomId, name: RoomName, owner: Core) -> Self {
        LocalRoom {
            id,
            name,
            owner,
            epoch: Epoch(0),
            head: None,
            memory_from: Sequence(0),
            members: 0,
            subscriptions: Vec::new(),
            is_dirty: false,
            round: Round::default(),
            new_since_us: None,
            pace: RoomPace::default(),
            telling: None,
            tellings: 0,
            is_swept: false,
            runs: Default::default(),
            classes: None,
        }
    }

    /// A subscription is of that class from now on, and no longer of the one that it was of.
    pub fn move_reading(&mut self, from: Class, to: Option<&ClassName>) -> Class {
        if let Some(before) = from.place().and_then(|place| self.classes.as_mut()?.0.get_mut(place)) {
            before.readings -= 1;
        }
        let Some(name) = to else { return Class::NONE };
        let Classes(classes) = &mut **self.classes.get_or_insert_default();
        let of_name = classes.iter().position(|class| class.readings > 0 && class.name == *name);
        let place = of_name.or_else(|| classes.iter().position(|class| class.readings == 0)).unwrap_or_else(|| {
            classes.push(ClassRuns { name: name.clone(), readings: 0, runs: Default::default() });
            classes.len() - 1
        });
        let class = &mut classes[place];
        if class.readings == 0 {
            class.name = name.clone();
        }
        class.readings += 1;
        Class::at(place)
    }

    /// The name of a class.
    pub fn class_name(&self, class: Class) -> Option<&ClassName> {
        let Classes(classes) = &**self.classes.as_ref()?;
        classes.get(class.place()?).map(|class| &class.name)
    }

    fn slot(&self, audience: Audience) -> &FormRun {
        let of_class = audience.class.place().and_then(|place| self.classes.as_ref()?.0.get(place));
        &of_class.map_or(&self.runs, |class| &class.runs)[audience.form.index()]
    }

    fn slot_mut(&mut self, audience: Audience) -> &mut FormRun {
        let of_class = audience.class.place().and_then(|place| self.classes.as_mut()?.0.get_mut(place));
        &mut of_class.map_or(&mut self.runs, |class| &mut class.runs)[audience.form.index()]
    }

    fn slots(&self) -> impl Iterator<Item = &FormRun> {
        self.runs.iter().chain(self.classes.iter().flat_map(|classes| &classes.0).flat_map(|class| &class.runs))
    }

    fn slots_mut(&mut self) -> impl Iterator<Item = &mut FormRun> {
        let of_classes = self.classes.iter_mut().flat_map(|classes| &mut classes.0).flat_map(|class| &mut class.runs);
        self.runs.iter_mut().chain(of_classes)
    }

    /// Every audience that it may have a run for.
    pub fn audiences(&self) -> impl Iterator<Item = Audience> + use<> {
        let classes = self.classes.as_ref().map_or(0, |classes| classes.0.len());
        let classes = std::iter::once(Class::NONE).chain((0..classes).map(Class::at));
        classes.flat_map(|class| WireForm::ALL.map(|form| Audience { form, class }))
    }

    /// Whether somebody live is of the audience.
    pub fn is_live(&self, audience: Audience) -> bool {
        self.slot(audience).live > 0
    }

    /// A subscription is sent from the run from now on; where it starts.
    pub fn add_live(&mut self, audience: Audience) -> u64 {
        let slot = self.slot_mut(audience);
        slot.live += 1;
        slot.head
    }

    /// A subscription is no longer sent from the run.
    pub fn remove_live(&mut self, audience: Audience) {
        let slot = self.slot_mut(audience);
        slot.live -= 1;
        if slot.live == 0 {
            slot.run = None;
        }
    }

    /// Subscriptions that are sent from the run.
    pub fn live_count(&self) -> usize {
        self.slots().map(|slot| slot.live as usize).sum()
    }

    /// The newest telling that knows no more than the room's core has said by now. What comes next is added to one that
    /// was told to nobody yet, so who comes meanwhile still has to hear that one.
    pub fn told_by_now(&self) -> u32 {
        let is_open = self.telling.as_ref().is_some_and(|telling| !telling.is_begun());
        self.tellings.wrapping_sub(u32::from(is_open))
    }

    /// Every subscription was looked at.
    pub fn end_telling(&mut self) {
        self.telling = None;
    }

    /// Appends a frame to an audience's run; gives the positions around it.
    pub fn append(&mut self, audience: Audience, frame: &[u8], sequence: Sequence, keep_bytes_max: u64) -> (u64, u64) {
        let slot = self.slot_mut(audience);
        let run = slot.run.get_or_insert_with(|| Box::new(Run::starting_at(slot.head)));
        run.append(frame, sequence, keep_bytes_max);
        let start = slot.head;
        slot.head = run.head();
        (start, slot.head)
    }

    /// An audience's run, if it has frames.
    pub fn run(&self, audience: Audience) -> Option<&Run> {
        self.slot(audience).run.as_deref()
    }

    /// The position behind everything that was appended for an audience.
    pub fn run_head(&self, audience: Audience) -> u64 {
        self.slot(audience).head
    }

    /// Lets go of an audience's frames that nobody at or behind the position needs.
    pub fn forget_before(&mut self, audience: Audience, position: u64) {
        let slot = self.slot_mut(audience);
        if let Some(run) = &mut slot.run {
            run.forget_before(position);
            if run.bytes() == 0 {
                slot.run = None;
            }
        }
    }

    /// Something was left out of the runs, and what comes next does not follow on what was there. Every position so far
    /// is behind the runs' tails from here on.
    pub fn leave_out(&mut self) {
        for slot in self.slots_mut() {
            slot.run = None;
            slot.head += 1;
            slot.left_out_before = slot.head;
        }
    }

    /// Whether something was left out of the run behind that position.
    pub fn is_left_out(&self, audience: Audience, position: u64) -> bool {
        position < self.slot(audience).left_out_before
    }

    /// Bytes that the runs hold.
    pub fn run_bytes(&self) -> u64 {
        self.slots().filter_map(|slot| slot.run.as_ref()).map(|run| run.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> LocalRoom {
        LocalRoom::new(RoomId::of("r"), RoomName::new("r").unwrap(), Core(0))
    }

    fn name(name: &str) -> ClassName {
        ClassName::new(name).unwrap()
    }

    #[test]
    fn a_class_keeps_its_place_while_somebody_is_of_it_and_another_takes_it_behind_that() {
        let mut room = room();
        let red = room.move_reading(Class::NONE, Some(&name("red")));
        assert_eq!(room.move_reading(Class::NONE, Some(&name("red"))), red);
        let blue = room.move_reading(red, Some(&name("blue")));
        assert_ne!(blue, red, "one is still red");
        assert_eq!([red, blue].map(|class| room.class_name(class)), [Some(&name("red")), Some(&name("blue"))]);
        assert_eq!(room.move_reading(red, None), Class::NONE);
        assert_eq!(room.move_reading(Class::NONE, Some(&name("green"))), red, "nobody is red any more");
        assert_eq!([red, Class::NONE].map(|class| room.class_name(class)), [Some(&name("green")), None]);
        assert_eq!(room.move_reading(blue, Some(&name("blue"))), blue);
    }

    #[test]
    fn each_class_has_runs_of_its_own_that_count() {
        let mut room = room();
        let red = room.move_reading(Class::NONE, Some(&name("red")));
        let of = |class| Audience { form: WireForm::Json, class };
        room.add_live(of(red));
        assert!(room.is_live(of(red)) && !room.is_live(of(Class::NONE)));
        assert_eq!((room.audiences().count(), room.live_count()), (2 * WireForm::ALL.len(), 1));
        room.append(of(red), b"hand", Sequence(1), 1 << 20);
        assert!(room.run_bytes() > 0 && room.run(of(Class::NONE)).is_none());
        room.leave_out();
        assert!(room.run(of(red)).is_none() && room.is_left_out(of(red), 4));
        room.append(of(red), b"hand", Sequence(2), 1 << 20);
        room.remove_live(of(red));
        assert_eq!(room.run_bytes(), 0);
    }
}
