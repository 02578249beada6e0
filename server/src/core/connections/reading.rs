//! What comes from a connection: read at once, or held while the connection is not read.
//!
//! Invariants:
//! - From the first byte that is held nothing more is received, before the last of them was read. So what is held of a
//!   connection is one buffer (`net::buffers::BUFFER_BYTES`), and never more than `held_bytes_max`.
//! - Of a connection that is ending nothing is kept.
//! - A turn takes at most `requests_per_turn_max` requests of a connection. The rest is held, and read in the next turns
//!   without waiting for more: [`BACKLOG_A_TURN`] connections in each, in turn.

use banter_chat::address::ConnectionId;
use banter_chat::shard::{Input, Shard};
use banter_protocol::error_code::ErrorCode;
use banter_protocol::fault::PeerFault;
use banter_protocol::ingress::Incoming;
use banter_protocol::request::{Ask, Request};
use banter_protocol::websocket::{FrameKind, write_frame_header};

use super::{Connections, Stage, held};
use crate::core::http;
use crate::core::net::Net;

/// Connections with more than their share that one turn reads. With all of them a thousand that flood a core would make
/// its turns a thousand shares long; with these, a turn takes 1,024 requests of them, some milliseconds.
pub(super) const BACKLOG_A_TURN: usize = 16;

impl Connections {
    /// Bytes came.
    pub fn received(&mut self, slot: u32, bytes: &mut [u8], shard: &mut Shard, net: &mut Net) {
        self.counters.bytes_received += bytes.len() as u64;
        if self.stage(slot) == Stage::Open {
            self.table[slot as usize].untaken_bytes = 0;
            shard.handle(self.id(slot), Input::Heard);
        }
        // What came earlier is read first.
        let is_holding = self.table.get(slot as usize).is_some_and(|connection| connection.held.is_some());
        let used = if is_holding { 0 } else { self.read(slot, bytes, shard, net) };
        if used < bytes.len() {
            self.hold(slot, &bytes[used..], shard, net);
        }
    }

    /// Reads on where the last turn had taken a whole share.
    pub fn read_backlog(&mut self, shard: &mut Shard, net: &mut Net) {
        for _ in 0..self.backlog.len().min(BACKLOG_A_TURN) {
            let Some(id) = self.backlog.pop_front() else { return };
            if self.is_current(id) {
                self.table[id.slot as usize].is_backlogged = false;
                self.resume(id, shard, net);
            }
        }
    }

    /// Whether there is more to read, or to be looked at, without more coming.
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || self.arrivals.is_walking()
    }

    /// What is held of a connection that the shard reads waits for its next share alone.
    fn queue_held(&mut self, id: ConnectionId, shard: &Shard) {
        let connection = &mut self.table[id.slot as usize];
        if connection.held.is_some() && !connection.is_backlogged && shard.is_read(id) {
            connection.is_backlogged = true;
            self.backlog.push_back(id);
        }
    }

    /// The shard may read a connection again: first what was held.
    pub fn resume(&mut self, id: ConnectionId, shard: &mut Shard, net: &mut Net) {
        if !self.is_open(id) {
            return;
        }
        // While it was not read it could not be heard.
        shard.handle(id, Input::Heard);
        if let Some(mut held) = self.table[id.slot as usize].held.take() {
            let used = self.read(id.slot, held.unread_mut(), shard, net);
            held.advance(used);
            let is_over = held.is_read() || !is_alive(id, shard);
            self.table[id.slot as usize].held = Some(held);
            if is_over {
                self.let_go(id.slot);
            }
            self.queue_held(id, shard);
        }
        if self.table[id.slot as usize].held.is_none() && self.is_open(id) && shard.is_read(id) {
            net.resume(id.slot);
        }
    }

    /// Reads what the bytes hold, for as long as the connection is read; says how many it took.
    fn read(&mut self, slot: u32, bytes: &mut [u8], shard: &mut Shard, net: &mut Net) -> usize {
        let mut used = 0;
        while used < bytes.len() && self.takes_more(slot, shard) {
            match self.read_one(slot, &mut bytes[used..], shard, net) {
                Ok(taken) => used += taken,
                Err(fault) => {
                    self.fault(slot, &fault, shard, net);
                    return bytes.len();
                }
            }
        }
        if let Some(connection) = self.table.get_mut(slot as usize) {
            connection.ingress.release();
        }
        self.message_may_have_begun(slot);
        used
    }

    fn takes_more(&self, slot: u32, shard: &Shard) -> bool {
        match self.stage(slot) {
            Stage::Open => self.has_share(slot) && shard.is_read(self.id(slot)),
            Stage::Handshake => true,
            _ => false,
        }
    }

    fn has_share(&self, slot: u32) -> bool {
        let connection = &self.table[slot as usize];
        connection.taken_turn != self.turn || u32::from(connection.taken) < self.limits.requests_per_turn_max
    }

    /// Keeps what cannot be read now, and has nothing more received.
    fn hold(&mut self, slot: u32, rest: &[u8], shard: &mut Shard, net: &mut Net) {
        if !matches!(self.stage(slot), Stage::Open | Stage::Asking | Stage::LastWords) {
            // One that lingers is received from until it ends its side, or its time is over.
            return;
        }
        net.pause(slot);
        let id = self.id(slot);
        if !is_alive(id, shard) {
            return;
        }
        let held = self.table[slot as usize].held.get_or_insert_default();
        match held.append(rest, self.limits.held_bytes_max) {
            Ok(()) => {
                self.counters.held_bytes += rest.len() as u64;
                self.queue_held(id, shard);
            }
            Err(held::Full) => self.end_overflowing(id, shard),
        }
    }

    /// The kernel brought more of a connection than is kept.
    fn end_overflowing(&mut self, id: ConnectionId, shard: &mut Shard) {
        self.counters.held_overflows += 1;
        let message = "more came than held_bytes_max while the connection was not read";
        let error = Some((ErrorCode::Overloaded, message));
        shard.handle(id, Input::Close { error, close_code: 1013, reason: "too much at a time" });
        self.let_go(id.slot);
    }

    /// Forgets what is held.
    pub(super) fn let_go(&mut self, slot: u32) {
        if let Some(held) = self.table[slot as usize].held.take() {
            self.counters.held_bytes -= held.len() as u64;
        }
    }

    fn read_one(&mut self, slot: u32, bytes: &mut [u8], shard: &mut Shard, net: &mut Net) -> Result<usize, PeerFault> {
        let (id, address) = (self.id(slot), self.address_of(slot));
        let refused_before = self.tokens_refused(id, shard);
        let connection = &mut self.table[slot as usize];
        let stage = connection.stage;
        let (used, incoming) = connection.ingress.read(bytes)?;
        if incoming.is_some() {
            connection.taken = if connection.taken_turn == self.turn { connection.taken.saturating_add(1) } else { 1 };
            connection.taken_turn = self.turn;
        }
        // A control frame between the fragments of a message ends nothing.
        if matches!(incoming, Some(Incoming::Request(_) | Incoming::BadRequest(_))) {
            connection.message.end();
        }
        match incoming {
            None => {}
            Some(Incoming::Request(request)) => {
                let request = with_token(request, self.carried.get(&slot).map(|carried| &*carried.0));
                shard.handle(id, Input::Request(&request));
                self.asked(id, refused_before, shard);
            }
            Some(Incoming::BadRequest(fault)) => shard.handle(id, Input::BadRequest(fault)),
            Some(Incoming::Ping(payload)) => {
                let mut pong = Vec::with_capacity(payload.len() + 2);
                write_frame_header(&mut pong, FrameKind::Pong, payload.len());
                pong.extend_from_slice(payload);
                shard.handle(id, Input::Raw(&pong));
            }
            Some(Incoming::Pong) => {}
            Some(Incoming::Close(code)) => {
                let close_code = code.unwrap_or(1000);
                shard.handle(id, Input::Close { error: None, close_code, reason: "" });
            }
            Some(Incoming::Proxied(visitor)) => self.proxied(slot, visitor, net),
            Some(Incoming::NativeOpened) => self.native_opened(slot, shard, net),
            Some(Incoming::Http(request)) if stage == Stage::Handshake => {
                let arrived = self.arrivals.meet(slot, address, &request, &mut self.counters.limits);
                let answer = http::answer(&request, arrived.visitor, arrived.unwelcome, &mut self.doorway);
                if matches!(answer, http::HttpAnswer::Upgrade(..)) {
                    self.events.comes_from(slot, request.origin);
                }
                self.met(slot, &arrived);
                self.answer_http(slot, answer, shard, net);
            }
            Some(Incoming::Http(_)) => {}
        }
        Ok(used)
    }
}

/// A `hello` without a token has the one that came with its upgrade.
fn with_token<'a>(request: Request<'a>, carried: Option<&'a str>) -> Request<'a> {
    match (request, carried) {
        (Request { id, ask: Ask::Hello { user, token: None, features } }, Some(token)) => {
            Request { id, ask: Ask::Hello { user, token: Some(token.into()), features } }
        }
        (request, _) => request,
    }
}

/// Whether the shard still takes something from the connection.
fn is_alive(id: ConnectionId, shard: &Shard) -> bool {
    shard.sessions().session(id).is_some_and(|session| session.is_open())
}
