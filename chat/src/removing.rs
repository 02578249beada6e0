//! Readings that end without being asked to: what a connection reads is judged anew when its rights change, and what it may
//! read no longer is taken away, on both sides.
//!
//! Invariants:
//! - Behind `removed` nothing of the room is written to the connection, until it joins anew: what waits for it goes with the
//!   reading, and a page that is on its way finds none.
//! - A join that is on its way is refused when its answer comes: it is never told as done first.

use banter_access::rights::Rights;
use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event;
use banter_protocol::ids::RequestId;

use crate::parcel::Refusal;
use crate::session::ReadState;
use crate::sessions::Sessions;
use crate::turn::Turn;

impl Sessions {
    /// Judges everything that a connection reads by the rights that it has now. As much work as `rooms_per_connection_max`
    /// lets there be.
    pub(crate) fn judge_readings(&mut self, slot: usize, turn: &mut Turn<'_>) {
        for subscription in self.connections[slot].subscriptions.clone() {
            self.judge_reading(subscription, ErrorCode::Forbidden, turn);
        }
    }

    /// Judges one reading; `code` is what its connection is told if it ends. Says whether it did.
    pub(crate) fn judge_reading(&mut self, subscription: u32, code: ErrorCode, turn: &mut Turn<'_>) -> bool {
        let reading = &self.subscriptions[subscription as usize];
        let room = &self.rooms[reading.room as usize].name;
        let rights = self.rights_in(reading.connection as usize, room.as_str());
        let reading = &mut self.subscriptions[subscription as usize];
        // A join on its way may have asked for what was before, and its answer brings that.
        let lost_history = reading.rights.minus(rights).contains(Rights::HISTORY);
        let may_bring_history = reading.state == ReadState::Joining && lost_history;
        reading.rights = rights;
        reading.presence &= rights.contains(Rights::PRESENCE);
        let is_ended = !rights.contains(Rights::READ) || may_bring_history;
        if is_ended {
            self.end_reading(subscription, code, turn);
        }
        is_ended
    }

    /// Ends a reading that its connection did not leave, and says so.
    pub(crate) fn end_reading(&mut self, subscription: u32, code: ErrorCode, turn: &mut Turn<'_>) {
        let reading = &mut self.subscriptions[subscription as usize];
        if reading.state == ReadState::Joining {
            // Its room's core is to say first whether there is anything to end.
            reading.ended_by = Some(code);
            return;
        }
        self.tell_removed(subscription, code);
        let slot = self.subscriptions[subscription as usize].connection as usize;
        self.leave(slot, subscription, None, turn);
    }

    fn tell_removed(&mut self, subscription: u32, code: ErrorCode) {
        let reading = &self.subscriptions[subscription as usize];
        let (slot, room) = (reading.connection as usize, &self.rooms[reading.room as usize].name);
        self.connections[slot].write(&Event::Removed { room: room.as_str(), code });
        self.mark_ready(slot);
    }

    /// The answer to a join came whose reading was ended meanwhile: it is a refusal. With the newest one the reading goes, and
    /// its room hears of that whatever it answered: an earlier join may have been done.
    pub(crate) fn refuse_ended(
        &mut self,
        subscription: u32,
        (request, code): (RequestId, ErrorCode),
        is_newest: bool,
        turn: &mut Turn<'_>,
    ) {
        let reading = &self.subscriptions[subscription as usize];
        let (slot, is_placed) = (reading.connection as usize, reading.is_placed);
        self.refuse(
            slot,
            request,
            &Refusal::new(code, "the right to read this room ended before the join was done"),
            turn,
        );
        if !is_newest {
            return;
        }
        if is_placed {
            self.tell_removed(subscription, code);
        }
        self.leave(slot, subscription, None, turn);
    }
}
