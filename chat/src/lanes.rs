//! How parcels leave a core: which lanes have room, what waits for a full one, and what is owed to whom.
//!
//! Invariants:
//! - A parcel goes out only where its lane has room, so the shell never has to refuse one.
//! - Upward parcels keep their order: while one waits for a core, the later ones for that core wait behind it. What waits
//!   is bounded by the connections and subscriptions of this core, since a connection with a parcel waiting is not read, and by
//!   the asks of the interface for backends, which are bounded where they come in.
//! - An upward parcel is taken from a core only while the lane down to that core has room ([`Lanes::may_take_up`]). Down
//!   never waits for up, so the two cannot block each other.
//! - An answer that comes later (behind a commit, or a read of the log) keeps no place in the lane: whoever waits for a
//!   disk holds up nobody else. Where it finds no room it waits in `late`, and nothing overtakes it, so that a batch never
//!   comes ahead of the `joined` that it follows on. What waits there is bounded by what connections may have asked, and one
//!   word to each that it has to make room for another.

use std::collections::VecDeque;

use crate::address::Core;
use crate::histogram::Histogram;
use crate::parcel::{Down, Up};

/// Room in every lane down that fan-out leaves for answers, so that asks go on while batches fill the lane.
const ANSWERS_RESERVED: usize = 8;

/// The outgoing lanes of one core. The lane of a core to itself is kept here and has the same rules.
pub struct Lanes {
    own: Core,
    to: Vec<Lane>,
    local_up: VecDeque<Up>,
    local_down: VecDeque<Down>,
    parcels_max: usize,
    outgoing: Outgoing,
}

#[derive(Default)]
struct Lane {
    up_room: usize,
    down_room: usize,
    /// Asks that found no room, and since when they wait, in the turns' microseconds.
    waiting: VecDeque<(u64, Up)>,
    /// Answers that found no room.
    late: VecDeque<Down>,
}

/// What the shell moves to other cores.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// To cores of rooms.
    pub up: Vec<(Core, Up)>,
    /// To cores of connections.
    pub down: Vec<(Core, Down)>,
}

impl Lanes {
    /// Lanes of a core to all cores.
    pub fn new(own: Core, cores: u16, parcels_max: u32) -> Self {
        let parcels_max = parcels_max as usize;
        let mut to: Vec<Lane> = (0..cores).map(|_| Lane::default()).collect();
        to[own.index()].up_room = parcels_max;
        to[own.index()].down_room = parcels_max;
        Lanes {
            own,
            to,
            local_up: VecDeque::new(),
            local_down: VecDeque::new(),
            parcels_max,
            outgoing: Outgoing::default(),
        }
    }

    /// What goes to other cores; the shell takes it out.
    pub fn outgoing_mut(&mut self) -> &mut Outgoing {
        &mut self.outgoing
    }

    /// How many cores there are.
    pub fn cores(&self) -> impl Iterator<Item = Core> + use<> {
        (0..self.to.len() as u16).map(Core)
    }

    /// The shell says how much room the lanes to another core have.
    pub fn set_room(&mut self, to: Core, up: usize, down: usize) {
        if to != self.own {
            self.to[to.index()].up_room = up;
            self.to[to.index()].down_room = down;
        }
    }

    /// Sends a parcel up, or keeps it until there is room. `false`: it waits.
    pub fn send_up(&mut self, to: Core, parcel: Up, now_us: u64) -> bool {
        let lane = &mut self.to[to.index()];
        if lane.up_room == 0 || !lane.waiting.is_empty() {
            lane.waiting.push_back((now_us, parcel));
            return false;
        }
        lane.up_room -= 1;
        if to == self.own {
            self.local_up.push_back(parcel)
        } else {
            self.outgoing.up.push((to, parcel))
        }
        true
    }

    /// Sends a parcel up that nobody waits for, if there is room: one from a room's core to that of another room. It waits for
    /// nothing, so that rooms cannot block each other.
    pub fn try_send_up(&mut self, to: Core, parcel: impl FnOnce() -> Up) -> bool {
        let lane = &mut self.to[to.index()];
        if lane.up_room == 0 || !lane.waiting.is_empty() {
            return false;
        }
        lane.up_room -= 1;
        if to == self.own {
            self.local_up.push_back(parcel())
        } else {
            self.outgoing.up.push((to, parcel()))
        }
        true
    }

    /// The core whose lanes these are.
    pub fn own(&self) -> Core {
        self.own
    }

    /// Sends what waited, as far as there is room, and says how long each did. `true`: nothing waits for that core any more.
    pub fn send_waiting(&mut self, to: Core, now_us: u64, waits: &mut Histogram) -> bool {
        let lane = &mut self.to[to.index()];
        while lane.up_room > 0 {
            let Some((since_us, parcel)) = lane.waiting.pop_front() else { return true };
            waits.record_us(now_us.saturating_sub(since_us));
            lane.up_room -= 1;
            if to == self.own { self.local_up.push_back(parcel) } else { self.outgoing.up.push((to, parcel)) }
        }
        lane.waiting.is_empty()
    }

    /// Whether an upward parcel from that core may be taken: an answer that comes at once finds room.
    pub fn may_take_up(&self, from: Core) -> bool {
        let lane = &self.to[from.index()];
        lane.down_room > 0 && lane.late.is_empty()
    }

    /// Sends an answer, or keeps it until there is room.
    pub fn send_answer(&mut self, to: Core, parcel: Down) {
        let lane = &mut self.to[to.index()];
        if lane.down_room == 0 || !lane.late.is_empty() {
            lane.late.push_back(parcel);
            return;
        }
        lane.down_room -= 1;
        self.push_down(to, parcel);
    }

    /// Sends the answers that waited, as far as there is room.
    pub fn send_late(&mut self, to: Core) {
        while self.to[to.index()].down_room > 0
            && let Some(parcel) = self.to[to.index()].late.pop_front()
        {
            self.to[to.index()].down_room -= 1;
            self.push_down(to, parcel);
        }
    }

    /// The same for the core's own lane, whose room is made in the midst of a turn.
    pub fn send_late_local(&mut self) {
        self.send_late(self.own);
    }

    /// Answers that wait for room.
    pub fn late_count(&self) -> usize {
        self.to.iter().map(|lane| lane.late.len()).sum()
    }

    /// Sends a parcel that nobody waits for, if there is room beyond what answers need.
    pub fn try_send_down(&mut self, to: Core, parcel: impl FnOnce() -> Down) -> bool {
        let lane = &mut self.to[to.index()];
        if lane.down_room <= ANSWERS_RESERVED || !lane.late.is_empty() {
            return false;
        }
        lane.down_room -= 1;
        self.push_down(to, parcel());
        true
    }

    /// Sends a signal, if the lane is less than half full: batches find room behind any number of them.
    pub fn try_send_signal(&mut self, to: Core, parcel: impl FnOnce() -> Down) -> bool {
        self.to[to.index()].down_room > self.parcels_max / 2 && self.try_send_down(to, parcel)
    }

    fn push_down(&mut self, to: Core, parcel: Down) {
        if to == self.own { self.local_down.push_back(parcel) } else { self.outgoing.down.push((to, parcel)) }
    }

    /// The next parcel of this core to itself, if its answer finds room.
    pub fn take_local_up(&mut self) -> Option<Up> {
        if !self.may_take_up(self.own) {
            return None;
        }
        let parcel = self.local_up.pop_front()?;
        self.to[self.own.index()].up_room += 1;
        Some(parcel)
    }

    /// The next parcel of this core to itself.
    pub fn take_local_down(&mut self) -> Option<Down> {
        let parcel = self.local_down.pop_front()?;
        self.to[self.own.index()].down_room += 1;
        Some(parcel)
    }

    /// Whether this core has parcels for itself that may be taken.
    pub fn has_local(&self) -> bool {
        !self.local_down.is_empty() || (!self.local_up.is_empty() && self.may_take_up(self.own))
    }

    /// Whether a parcel waits for a full lane: here, or on another core, whose parcels are not taken while there is no
    /// room for their answers. Nobody says when a lane has room again, so the shell has to look.
    pub fn has_waiting(&self) -> bool {
        let is_untaken = |core: Core| core != self.own && !self.may_take_up(core);
        self.to.iter().any(|lane| !lane.waiting.is_empty() || !lane.late.is_empty()) || self.cores().any(is_untaken)
    }

    /// Parcels that wait or lie in the own lane, and the lanes' size, for checks of the limits.
    pub fn depth(&self) -> (usize, usize, usize) {
        let waiting = self.to.iter().map(|lane| lane.waiting.len()).sum();
        (waiting, self.local_up.len().max(self.local_down.len()), self.parcels_max)
    }
}

#[cfg(test)]
mod tests {
    use banter_access::rights::Rights;

    use super::*;
    use crate::address::{ConnectionId, Peer};
    use banter_protocol::ids::RoomName;

    fn up(number: u64) -> Up {
        let asker = Peer { core: Core(0), connection: ConnectionId { slot: 0, generation: 0 } };
        Up::Members { room: RoomName::new("r").unwrap(), asker, rights: Rights::NONE, request: Some(number) }
    }

    fn number(parcel: &Up) -> u64 {
        let Up::Members { request: Some(number), .. } = parcel else { panic!("{parcel:?}") };
        *number
    }

    #[test]
    fn what_waits_for_a_full_lane_keeps_its_order() {
        let mut lanes = Lanes::new(Core(0), 2, 16);
        lanes.set_room(Core(1), 1, 1);
        assert!(lanes.send_up(Core(1), up(1), 0));
        assert!(!lanes.send_up(Core(1), up(2), 0));
        lanes.set_room(Core(1), 1, 1);
        assert!(!lanes.send_up(Core(1), up(3), 0), "3 may not overtake 2");
        let mut waits = Histogram::default();
        assert!(!lanes.send_waiting(Core(1), 5, &mut waits));
        lanes.set_room(Core(1), 5, 1);
        assert!(lanes.send_waiting(Core(1), 9, &mut waits));
        assert_eq!((waits.count(), waits.sum_us()), (2, 5 + 9));
        assert_eq!(lanes.outgoing.up.iter().map(|(_, parcel)| number(parcel)).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn an_ask_is_taken_only_where_its_answer_finds_room() {
        let mut lanes = Lanes::new(Core(0), 2, 16);
        lanes.set_room(Core(1), 0, 2);
        assert!(lanes.may_take_up(Core(1)));
        lanes.send_answer(Core(1), Down::Drained);
        assert!(lanes.may_take_up(Core(1)));
        lanes.send_answer(Core(1), Down::Drained);
        assert!(!lanes.may_take_up(Core(1)));
        assert_eq!(lanes.outgoing.down.len(), 2);
    }

    #[test]
    fn answers_that_come_later_hold_no_place_and_nothing_overtakes_them() {
        let mut lanes = Lanes::new(Core(0), 2, 64);
        lanes.set_room(Core(1), 0, 1);
        lanes.send_answer(Core(1), Down::Drained);
        lanes.send_answer(Core(1), Down::Drained);
        assert_eq!((lanes.late_count(), lanes.has_waiting()), (1, true));
        lanes.set_room(Core(1), 0, 64);
        assert!(!lanes.try_send_down(Core(1), || Down::Drained), "a batch would come ahead of the answer");
        assert!(!lanes.may_take_up(Core(1)));
        lanes.send_late(Core(1));
        assert_eq!((lanes.late_count(), lanes.outgoing.down.len()), (0, 2));
        assert!(lanes.try_send_down(Core(1), || Down::Drained) && lanes.may_take_up(Core(1)));
    }

    #[test]
    fn fan_out_leaves_room_for_answers() {
        let mut lanes = Lanes::new(Core(0), 2, 64);
        lanes.set_room(Core(1), 0, ANSWERS_RESERVED + 1);
        assert!(lanes.try_send_down(Core(1), || Down::Drained));
        assert!(!lanes.try_send_down(Core(1), || Down::Drained));
        assert!(lanes.may_take_up(Core(1)));
    }
}
