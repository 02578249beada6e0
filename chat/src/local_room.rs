//! A room as a core sees it that has readers of it: their list, and a run for each wire form that somebody reads.

use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};
use banter_protocol::wire::WireForm;

use crate::address::Core;
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
    /// What its newest telling says, until all of them were looked at.
    pub telling: Option<Box<Telling>>,
    /// How often it was told who came and went; wraps.
    pub tellings: u32,
    /// It stands in the list of rooms whose runs are to be looked at.
    pub is_swept: bool,
    runs: [FormRun; WireForm::ALL.len()],
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
            telling: None,
            tellings: 0,
            is_swept: false,
            runs: Default::default(),
        }
    }

    /// A subscription is sent from the run from now on; where it starts.
    pub fn add_live(&mut self, form: WireForm) -> u64 {
        let slot = &mut self.runs[form.index()];
        slot.live += 1;
        slot.head
    }

    /// A subscription is no longer sent from the run.
    pub fn remove_live(&mut self, form: WireForm) {
        let slot = &mut self.runs[form.index()];
        slot.live -= 1;
        if slot.live == 0 {
            slot.run = None;
        }
    }

    /// Subscriptions that are sent from the run.
    pub fn live_count(&self) -> usize {
        self.runs.iter().map(|slot| slot.live as usize).sum()
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

    /// Forms that somebody live reads.
    pub fn live_forms(&self) -> impl Iterator<Item = WireForm> + use<> {
        let live = [0, 1, 2].map(|index: usize| self.runs[index].live > 0);
        WireForm::ALL.into_iter().filter(move |form| live[form.index()])
    }

    /// Appends a frame to a form's run; gives the positions around it.
    pub fn append(&mut self, form: WireForm, frame: &[u8], sequence: Sequence, keep_bytes_max: u64) -> (u64, u64) {
        let slot = &mut self.runs[form.index()];
        let run = slot.run.get_or_insert_with(|| Box::new(Run::starting_at(slot.head)));
        run.append(frame, sequence, keep_bytes_max);
        let start = slot.head;
        slot.head = run.head();
        (start, slot.head)
    }

    /// A form's run, if it has frames.
    pub fn run(&self, form: WireForm) -> Option<&Run> {
        self.runs[form.index()].run.as_deref()
    }

    /// The position behind everything that was appended for a form.
    pub fn run_head(&self, form: WireForm) -> u64 {
        self.runs[form.index()].head
    }

    /// Lets go of a form's frames that nobody at or behind the position needs.
    pub fn forget_before(&mut self, form: WireForm, position: u64) {
        let slot = &mut self.runs[form.index()];
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
        for slot in &mut self.runs {
            slot.run = None;
            slot.head += 1;
            slot.left_out_before = slot.head;
        }
    }

    /// Whether something was left out of the run behind that position.
    pub fn is_left_out(&self, form: WireForm, position: u64) -> bool {
        position < self.runs[form.index()].left_out_before
    }

    /// Bytes that the runs hold.
    pub fn run_bytes(&self) -> u64 {
        self.runs.iter().filter_map(|slot| slot.run.as_ref()).map(|run| run.bytes()).sum()
    }
}
