//! How connections are told who came and went: a room's telling is encoded once, and each subscription that wants it gets
//! it on the room's round.
//!
//! Invariant: a subscription that missed a telling, for a full outbox or a telling behind it, is told the number of members
//! alone, and that number is right.

use std::sync::Arc;

use banter_protocol::event::{Event, PresenceState};
use banter_protocol::ids::RoomId;
use banter_protocol::wire::WireForm;

use crate::address::Peer;
use crate::parcel::PresenceChange;
use crate::presence::CHANGES_MAX;
use crate::session::ReadState;
use crate::sessions::Sessions;
use crate::turn::Turn;

/// A room's newest telling, until every subscription was looked at.
#[derive(Debug)]
pub struct Telling {
    /// None: counts only.
    changes: Arc<[PresenceChange]>,
    /// Members then.
    members: u64,
    /// It was told to somebody.
    is_begun: bool,
    /// All of it, in the forms that were needed.
    encoded: [Option<Vec<u8>>; WireForm::ALL.len()],
}

impl Telling {
    fn new(changes: Arc<[PresenceChange]>, members: u64) -> Self {
        Telling { changes, members, is_begun: false, encoded: Default::default() }
    }

    /// This one and the one behind it, where nobody was told this one yet.
    fn with_next(self, next: Telling) -> Telling {
        let is_long = self.changes.len() + next.changes.len() > CHANGES_MAX;
        if is_long || self.changes.is_empty() || next.changes.is_empty() {
            return Telling::new(Arc::from([]), next.members);
        }
        let is_newer = |change: &&PresenceChange| next.changes.iter().all(|newer| newer.user != change.user);
        let changes = self.changes.iter().filter(is_newer).chain(next.changes.iter()).cloned().collect();
        Telling::new(changes, next.members)
    }

    /// The room's core has said a newer number meanwhile: who heard that one may not be told an older one behind it.
    pub fn count_anew(&mut self, members: u64) {
        if !self.is_begun {
            self.members = members;
        }
    }

    /// Whether it was told to somebody: another may no longer be added to it.
    pub fn is_begun(&self) -> bool {
        self.is_begun
    }

    fn is_caused_by(&self, peer: Peer) -> bool {
        self.changes.iter().any(|change| change.cause == Some(peer))
    }
}

fn write(form: WireForm, room: &str, change: Option<(&str, PresenceState)>, count: u64, out: &mut Vec<u8>) {
    form.write_event(&Event::Presence { room, change, count }, out);
}

impl Sessions {
    pub(crate) fn presence_down(&mut self, id: RoomId, changes: Arc<[PresenceChange]>, members: u64) {
        let Some(&room) = self.room_by_id.get(&id) else { return };
        let here = &mut self.rooms[room as usize];
        here.members = members;
        let telling = Telling::new(changes, members);
        let telling = match here.telling.take_if(|before| !before.is_begun) {
            Some(before) => before.with_next(telling),
            None => {
                here.tellings = here.tellings.wrapping_add(1);
                telling
            }
        };
        here.telling = Some(Box::new(telling));
        self.mark_dirty(room);
    }

    /// Tells a subscription what it was not told yet.
    pub(crate) fn tell_presence_to(&mut self, subscription: u32, turn: &mut Turn<'_>) {
        let reading = &self.subscriptions[subscription as usize];
        let here = &self.rooms[reading.room as usize];
        if !reading.presence || reading.told == here.tellings {
            return;
        }
        let (slot, number) = (reading.connection as usize, here.tellings);
        let is_next = reading.told.wrapping_add(1) == number && here.telling.is_some();
        if reading.state != ReadState::Joining && is_next && self.write_telling(slot, reading.room) {
            self.subscriptions[subscription as usize].told = number;
        } else {
            turn.counters.presence_dropped += 1;
            self.connections[slot].has_stale_presence = true;
            self.mark_ready(slot);
        }
    }

    /// Writes the room's telling; `false`: it finds no room.
    fn write_telling(&mut self, slot: usize, room: u32) -> bool {
        let peer = self.peer_of(slot);
        let form = self.connections[slot].form;
        let here = &mut self.rooms[room as usize];
        let Some(telling) = &mut here.telling else { return false };
        telling.is_begun = true;
        let (name, count) = (here.name.as_str(), telling.members);
        if telling.is_caused_by(peer) {
            self.scratch.clear();
            let others = telling.changes.iter().filter(|change| change.cause != Some(peer));
            for change in others {
                write(form, name, Some((change.user.as_str(), change.state)), count, &mut self.scratch);
            }
            let bytes = std::mem::take(&mut self.scratch);
            let is_written = self.write_unasked(slot, &bytes);
            self.scratch = bytes;
            return is_written;
        }
        let encoded = telling.encoded[form.index()].take().unwrap_or_else(|| {
            let mut encoded = Vec::new();
            for change in telling.changes.iter() {
                write(form, name, Some((change.user.as_str(), change.state)), count, &mut encoded);
            }
            if telling.changes.is_empty() {
                write(form, name, None, count, &mut encoded);
            }
            encoded
        });
        let is_written = self.write_unasked(slot, &encoded);
        if let Some(telling) = &mut self.rooms[room as usize].telling {
            telling.encoded[form.index()] = Some(encoded);
        }
        is_written
    }

    /// Writes what nobody asked for, if the outbox is light.
    fn write_unasked(&mut self, slot: usize, bytes: &[u8]) -> bool {
        let half = u64::from(self.limits.outbox_bytes_max / 2);
        let session = &mut self.connections[slot];
        let fits = session.is_open()
            && session.outbox.len() as u64 + u64::from(session.in_flight_bytes) + bytes.len() as u64 <= half;
        if fits && !bytes.is_empty() {
            session.outbox.extend_from_slice(bytes);
            self.mark_ready(slot);
        }
        fits
    }

    /// Tells the numbers of members that were missed, in the rooms where a telling was.
    pub(crate) fn tell_stale_presence(&mut self, slot: usize) {
        if !self.connections[slot].has_stale_presence || !self.connections[slot].is_open() {
            return;
        }
        self.connections[slot].has_stale_presence = false;
        for index in 0..self.connections[slot].subscriptions.len() {
            let reading = &mut self.subscriptions[self.connections[slot].subscriptions[index] as usize];
            let here = &self.rooms[reading.room as usize];
            if !reading.presence || reading.told == here.tellings || reading.told == here.told_by_now() {
                continue;
            }
            if reading.state == ReadState::Joining {
                self.connections[slot].has_stale_presence = true;
                continue;
            }
            reading.told = here.told_by_now();
            let event = Event::Presence { room: here.name.as_str(), change: None, count: here.members };
            self.connections[slot].write(&event);
        }
    }
}
