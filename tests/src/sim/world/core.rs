//! A simulated core and its sockets: the shard of a server, and what lies between it and its clients.

use std::collections::VecDeque;

use banter_chat::address::ConnectionId;
use banter_chat::proving::Proving;
use banter_chat::shard::{Input, Shard};
use banter_log::journal::Answer;
use banter_protocol::wire::WireForm;

use super::Wish;
use crate::sim::identity::Order;

/// A simulated core: a shard and its sockets.
pub(super) struct SimCore {
    pub(super) shard: Shard,
    pub(super) sockets: Vec<Socket>,
    pub(super) events: VecDeque<Event>,
    pub(super) due_ms: Option<u64>,
    /// Another core or the control thread rang since its last turn.
    pub(super) is_rung: bool,
    /// What the keeper has it do.
    pub(super) of_keeper: Vec<Answer>,
    /// Tokens that are being judged, and the turn of each verdict.
    pub(super) proving: Vec<(u64, Proving)>,
    /// What the operator has ordered and the core does not know yet.
    pub(super) orders: Vec<Order>,
}

#[derive(Default)]
pub(super) struct Socket {
    pub(super) generation: u32,
    pub(super) client: Option<usize>,
    /// Bytes that are being sent, and the turn in which they have arrived.
    pub(super) flight: Option<(Vec<u8>, u64)>,
    pub(super) held: VecDeque<Wish>,
    /// When the client reads again, while it does not.
    pub(super) stalled_until: Option<u64>,
    /// The client never reads again.
    pub(super) is_dead: bool,
    /// When something came from the client last.
    pub(super) heard_ms: u64,
}

pub(super) enum Event {
    Opened(u32, WireForm),
    Wish(u32, Wish),
    Heard(u32),
    Sent(u32),
    Closed(u32),
}

impl SimCore {
    pub(super) fn id(&self, slot: usize) -> ConnectionId {
        ConnectionId { slot: slot as u32, generation: self.sockets[slot].generation }
    }

    /// Whether nothing more is to happen to a connection: what it was sent has come, or never will and it is not ending.
    pub(super) fn is_settled(&self, slot: usize) -> bool {
        let is_ending = || self.shard.sessions().session(self.id(slot)).is_some_and(|session| !session.is_open());
        let socket = &self.sockets[slot];
        socket.flight.is_none() || (socket.is_dead && !is_ending())
    }

    /// Something came from the client.
    pub(super) fn hear(&mut self, slot: usize, now_ms: u64) {
        let id = self.id(slot);
        self.shard.handle(id, Input::Heard);
        if self.shard.sessions().session(id).is_some_and(|session| session.is_open()) {
            self.sockets[slot].heard_ms = now_ms;
        }
    }
}
