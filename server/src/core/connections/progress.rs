//! What of a connection must go on: the bytes that wait for it are taken, and a message that it began becomes whole.
//!
//! Invariant: who takes something of what waits for it lives, and is neither idle nor late; a message has its time from
//! its first byte, whatever else comes meanwhile, less the time for which the server itself does not read it.

use banter_chat::address::ConnectionId;
use banter_chat::shard::{Input, Shard};
use banter_protocol::error_code::ErrorCode;

use super::{Connections, Stage};
use crate::core::net::Net;

impl Connections {
    /// A send waits for the peer to take what was sent before.
    pub fn send_waits(&mut self, slot: u32) {
        let id = self.id(slot);
        self.sends.begin(&mut self.table[slot as usize].send, id, self.now_ms);
    }

    /// The peer took some of what a send waited for.
    pub fn send_goes_on(&mut self, slot: u32, shard: &mut Shard) {
        self.table[slot as usize].send.goes_on(self.now_ms);
        if self.stage(slot) == Stage::Open {
            shard.handle(self.id(slot), Input::Heard);
        }
    }

    /// Looks whether those that have been silent still take what was sent to them: the answer to a ping comes behind
    /// megabytes in the kernel.
    pub fn look_at_doubtful(&mut self, shard: &mut Shard, net: &mut Net) {
        for id in std::mem::take(&mut shard.actions_mut().doubtful) {
            if self.is_open(id) {
                net.look(id.slot);
            }
        }
    }

    /// So many bytes in the connection's socket were not taken by the peer.
    pub fn looked(&mut self, slot: u32, untaken_bytes: u32, shard: &mut Shard) {
        let before = std::mem::replace(&mut self.table[slot as usize].untaken_bytes, untaken_bytes);
        if untaken_bytes < before && self.stage(slot) == Stage::Open {
            shard.handle(self.id(slot), Input::Heard);
        }
    }

    /// All that came of a connection was read: a message may have begun.
    pub(super) fn message_may_have_begun(&mut self, slot: u32) {
        let is_open = self.stage(slot) == Stage::Open;
        let Some(connection) = self.table.get_mut(slot as usize) else { return };
        if is_open && connection.ingress.is_partial() {
            let id = ConnectionId { slot, generation: connection.generation };
            self.messages.begin(&mut connection.message, id, self.now_ms);
        } else {
            connection.message.end();
        }
    }

    /// Ends those that are late.
    pub(super) fn end_late(&mut self, shard: &mut Shard) {
        let now_ms = self.now_ms;
        while let Some(id) = self.sends.take_due(now_ms) {
            if self.is_open(id) && self.sends.is_late(&mut self.table[id.slot as usize].send, id, now_ms) {
                self.counters.late_sends += 1;
                let message = "nothing of what waits for the connection was taken for send_timeout_ms";
                self.end_timed_out(id, message, "does not take the bytes that wait for it", shard);
            }
        }
        while let Some(id) = self.messages.take_due(now_ms) {
            if self.is_open(id) && self.is_message_late(id) {
                self.counters.late_messages += 1;
                let message = "a message was not whole within message_timeout_ms";
                self.end_timed_out(id, message, "does not end its message", shard);
            }
        }
    }

    fn is_message_late(&mut self, id: ConnectionId) -> bool {
        let connection = &mut self.table[id.slot as usize];
        if connection.held.is_some() {
            // The rest of it may be here, or in the socket.
            connection.message.goes_on(self.now_ms);
        }
        self.messages.is_late(&mut connection.message, id, self.now_ms)
    }

    fn end_timed_out(&mut self, id: ConnectionId, message: &str, reason: &str, shard: &mut Shard) {
        let error = Some((ErrorCode::TimedOut, message));
        shard.handle(id, Input::Close { error, close_code: 1008, reason });
        self.let_go(id.slot);
    }
}
