//! The end of a server, as its connections see it: all are told when to come back, and each ends when it has everything.

use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event;

use crate::reconnect::reconnect_after_ms;
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Connections that one turn tells that the server stops.
const CONNECTIONS_A_TURN: usize = 256;

impl Sessions {
    /// The server stops: everybody is told when to come back; posts are refused by the rooms.
    pub fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        // Whoever has nothing on its way is sent away: what waits for company would be lost to it.
        self.end_all_waits();
        self.untold_from = Some(0);
    }

    /// Tells a part of the connections that the server stops, or looks whether they can end; the others in later turns.
    pub(crate) fn go_on_draining(&mut self, turn: &mut Turn<'_>) {
        if let Some(from) = self.untold_from.take() {
            self.untold_from = self.each_open(from, turn, |this, slot| this.tell_closing(slot));
        } else if let Some(from) = self.unended_from.take() {
            self.unended_from = self.each_open(from, turn, |_, _| {});
        }
    }

    /// Does something with the open connections from that one on, and says from where to go on in the next turn.
    fn each_open(&mut self, from: usize, turn: &mut Turn<'_>, mut act: impl FnMut(&mut Self, usize)) -> Option<usize> {
        let end = self.connections.len().min(from + CONNECTIONS_A_TURN);
        for slot in from..end {
            turn.counters.steps += 1;
            if self.connections[slot].is_open() {
                act(self, slot);
                self.mark_ready(slot);
            }
        }
        (end < self.connections.len()).then_some(end)
    }

    pub(crate) fn tell_closing(&mut self, slot: usize) {
        let reconnect_after_ms = reconnect_after_ms(slot, self.open_count);
        self.connections[slot].write(&Event::Closing { code: ErrorCode::Draining, reconnect_after_ms });
    }

    /// A core has sent its last batch; with the last core's word connections end as they are flushed.
    pub(crate) fn core_drained(&mut self) {
        self.drained_cores += 1;
        if self.drained_cores >= self.placement.cores() {
            self.unended_from = Some(0);
        }
    }

    /// Whether a connection with nothing left to send is to end.
    pub(crate) fn ends_when_flushed(&self, slot: usize) -> bool {
        let session = &self.connections[slot];
        self.drained_cores >= self.placement.cores()
            && self.untold_from.is_none()
            && session.is_open()
            && session.behind == 0
            && session.reserved_bytes == 0
            && session.is_flushed()
    }

    /// Whether the server is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining
    }
}
