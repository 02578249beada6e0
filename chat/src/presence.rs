//! What a room has yet to tell of who came and went: told at once when nothing was told lately, and otherwise together
//! with what else happens until the room has rested.
//!
//! Invariants:
//! - A room tells at most once in `presence_delay_ms_max`, and with more than `presence_members_max` members, or after a
//!   telling found no room in a lane, counts only and once in `presence_interval_ms`.
//! - Of a user the last change counts: who has a list of names is never left with one who is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use banter_protocol::event::PresenceState;
use banter_protocol::ids::{RoomId, UserName};

use crate::address::Peer;
use crate::limits::Limits;
use crate::parcel::{Down, PresenceChange};
use crate::rooms::Rooms;
use crate::timers::Timers;
use crate::turn::Turn;

/// Changes that one telling names at most; more are told as counts.
pub(crate) const CHANGES_MAX: usize = 100;

/// The untold changes of a room.
#[derive(Debug, Default)]
pub struct Presence {
    /// By user, with the connection that caused it, and knows.
    changes: BTreeMap<UserName, (PresenceState, Option<Peer>)>,
    /// Names were left out: the number of members is told alone.
    counts_only: bool,
    /// It told something lately.
    is_resting: bool,
}

impl Presence {
    fn is_untold(&self) -> bool {
        self.counts_only || !self.changes.is_empty()
    }

    fn add(&mut self, user: &UserName, state: PresenceState, cause: Option<Peer>) {
        if !self.counts_only {
            self.changes.insert(user.clone(), (state, cause));
        }
        if self.changes.len() > CHANGES_MAX {
            self.leave_out_names();
        }
    }

    fn leave_out_names(&mut self) {
        self.counts_only = true;
        self.changes = BTreeMap::new();
    }

    fn take(&mut self) -> Arc<[PresenceChange]> {
        self.counts_only = false;
        let changes = std::mem::take(&mut self.changes);
        changes.into_iter().map(|(user, (state, cause))| PresenceChange { user, state, cause }).collect()
    }
}

/// Rooms with something to tell.
#[derive(Debug)]
pub struct Tellings {
    /// At the end of this turn.
    now: Vec<RoomId>,
    /// Rooms that rest behind a telling with names.
    resting: Timers<RoomId>,
    /// Rooms that rest behind a telling of counts.
    resting_long: Timers<RoomId>,
}

impl Tellings {
    /// None.
    pub fn new(limits: &Limits) -> Self {
        Tellings {
            now: Vec::new(),
            resting: Timers::new(limits.presence_delay_ms_max.into()),
            resting_long: Timers::new(limits.presence_interval_ms.into()),
        }
    }

    /// Whether a room has something to tell now.
    pub fn has_some(&self) -> bool {
        !self.now.is_empty()
    }

    /// When the next room has rested.
    pub fn next_due(&self) -> Option<u64> {
        self.resting.next_due().into_iter().chain(self.resting_long.next_due()).min()
    }

    fn take_rested(&mut self, now_ms: u64) -> Option<RoomId> {
        self.resting.take_due(now_ms).or_else(|| self.resting_long.take_due(now_ms))
    }
}

impl Rooms {
    /// Somebody came or went. It is told to those who want to hear it.
    pub(crate) fn add_presence(&mut self, slot: usize, user: &UserName, state: PresenceState, cause: Option<Peer>) {
        let room = &mut self.slots[slot];
        if room.cores.iter().all(|share| share.watchers == 0) {
            return;
        }
        let id = room.id;
        let presence = room.presence.get_or_insert_default();
        let is_first = !presence.is_untold();
        presence.add(user, state, cause);
        if is_first && !presence.is_resting {
            self.tellings.now.push(id);
        }
    }

    /// Tells what is to be told at the end of a turn.
    pub fn tell_presence(&mut self, turn: &mut Turn<'_>) {
        while let Some(id) = self.tellings.take_rested(turn.now.monotonic_ms) {
            let Some(&slot) = self.by_id.get(&id) else { continue };
            let room = &mut self.slots[slot];
            match &mut room.presence {
                Some(presence) if presence.is_untold() => self.tellings.now.push(id),
                _ => room.presence = None,
            }
        }
        for id in std::mem::take(&mut self.tellings.now) {
            if let Some(&slot) = self.by_id.get(&id) {
                self.tell_presence_of(slot, turn);
            }
        }
    }

    fn tell_presence_of(&mut self, slot: usize, turn: &mut Turn<'_>) {
        let room = &mut self.slots[slot];
        let (id, members) = (room.id, room.members_count());
        let Some(presence) = &mut room.presence else { return };
        if members > u64::from(self.limits.presence_members_max) {
            presence.leave_out_names();
        }
        presence.is_resting = true;
        let changes = presence.take();
        let mut is_counts_only = changes.is_empty();
        for share in room.cores.iter().filter(|share| share.watchers > 0) {
            turn.counters.steps += 1;
            let parcel = || Down::Presence { room: id, changes: changes.clone(), members };
            if !turn.lanes.try_send_down(share.core, parcel) {
                turn.counters.presence_dropped += 1;
                is_counts_only = true;
                presence.leave_out_names();
            }
        }
        let rest = if is_counts_only { &mut self.tellings.resting_long } else { &mut self.tellings.resting };
        rest.set(id, turn.now.monotonic_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: usize) -> UserName {
        UserName::new(&format!("user-{number:03}")).unwrap()
    }

    #[test]
    fn of_a_user_the_last_change_is_told() {
        let mut presence = Presence::default();
        presence.add(&user(1), PresenceState::Joined, None);
        presence.add(&user(2), PresenceState::Left, None);
        presence.add(&user(1), PresenceState::Left, None);
        let told: Vec<_> = presence.take().iter().map(|change| (change.user.clone(), change.state)).collect();
        assert_eq!(told, [(user(1), PresenceState::Left), (user(2), PresenceState::Left)]);
        assert!(!presence.is_untold());
    }

    #[test]
    fn too_many_changes_are_told_as_a_number() {
        let mut presence = Presence::default();
        (0..=CHANGES_MAX).for_each(|number| presence.add(&user(number), PresenceState::Joined, None));
        assert!(presence.is_untold() && presence.counts_only);
        presence.add(&user(7), PresenceState::Left, None);
        assert!(presence.take().is_empty());
    }
}
