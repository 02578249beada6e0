//! How a connection comes and goes: whose it is, and whether it may come in, before it may do anything.
//!
//! Invariants:
//! - A connection is judged by its visitor's address before its form is open: at the accept, or where a trusted proxy speaks
//!   for somebody, when that proxy has said for whom.
//! - What a connection was counted for is given back once: in [`Connections::departed`], or for its place among those that have
//!   not said who they are when it has.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::Ordering;

use banter_access::limit::Limit;
use banter_access::proof::Proof;
use banter_chat::address::ConnectionId;
use banter_chat::proving::Proved;
use banter_chat::session;
use banter_chat::sessions::Closing;
use banter_chat::shard::Shard;
use banter_protocol::ingress::Ingress;
use banter_protocol::wire::WireForm;

use super::{Connection, Connections, Stage};
use crate::core::arrivals::Arrived;
use crate::core::events::{Ended, Hello};
use crate::core::http::{self, Unwelcome};
use crate::core::net::Net;

impl Connections {
    /// Where a connection comes from, or whom a trusted proxy said that it is for, in canonical form; none if it is gone.
    pub fn address(&self, id: ConnectionId) -> Option<IpAddr> {
        let is_there = self.is_current(id) && self.stage(id.slot) != Stage::Free;
        is_there.then(|| self.address_of(id.slot))
    }

    pub(super) fn address_of(&self, slot: u32) -> IpAddr {
        let address = self.table.get(slot as usize).map_or(Ipv6Addr::UNSPECIFIED, |connection| connection.address);
        IpAddr::V6(address).to_canonical()
    }

    /// A connection from that address has that slot now.
    pub fn accepted(&mut self, slot: u32, address: IpAddr, now_ms: u64, net: &mut Net) {
        let frame_bytes_max = self.limits.frame_bytes_max;
        let free = || Connection::new(Ingress::new(frame_bytes_max), 0, Stage::Free, Ipv6Addr::UNSPECIFIED);
        self.table.grow_to_hold(slot as usize, free);
        let says_header = self.arrivals.says_header(address);
        let ingress = if says_header { Ingress::behind_proxy } else { Ingress::new }(frame_bytes_max);
        let generation = self.table[slot as usize].generation.wrapping_add(1);
        self.table[slot as usize] = Connection::new(ingress, generation, Stage::Handshake, mapped(address));
        self.counters.accepted += 1;
        self.handshakes.set(self.id(slot), now_ms);
        let before = self.limits.connections_now.fetch_add(1, Ordering::Relaxed);
        if let Err(why) = self.take_place(slot, before).and_then(|()| self.judge_peer(slot)) {
            self.turn_away(slot, why, net);
        }
    }

    /// Whether the server has room for one more, where so many were there before.
    fn take_place(&mut self, slot: u32, before: u32) -> Result<(), Unwelcome> {
        if self.draining {
            return Err(Unwelcome::Draining);
        }
        let connections_max = self.limits.limits.connections_max;
        if connections_max != 0 && before >= connections_max {
            self.arrivals.is_full(&mut self.counters.limits)?;
        }
        self.arrivals.take_place(&mut self.counters.limits)?;
        self.table[slot as usize].is_unproved = true;
        Ok(())
    }

    /// Judges who connected, unless that is a proxy, who is still to say for whom.
    fn judge_peer(&mut self, slot: u32) -> Result<(), Unwelcome> {
        let address = self.address_of(slot);
        if !self.arrivals.is_proxy(address) {
            self.table[slot as usize].is_counted = self.arrivals.judge(address, &mut self.counters.limits)?;
        }
        Ok(())
    }

    /// The connection gets no further, and is told so if it says how.
    fn turn_away(&mut self, slot: u32, why: Unwelcome, net: &mut Net) {
        if matches!(why, Unwelcome::Limited(refused) if refused.limit == Limit::Connections) {
            self.counters.refused_connections += 1;
        }
        if why == Unwelcome::Revoked {
            self.counters.revoked_connections += 1;
        }
        self.tell_turned_away(slot, why);
        self.give_place_back(slot);
        if !self.arrivals.turn_away(slot, why) {
            self.close(slot, net);
        }
    }

    /// A proxy said for whom the connection is; none: for itself, or it does not know.
    pub(super) fn proxied(&mut self, slot: u32, visitor: Option<IpAddr>, net: &mut Net) {
        let Some(visitor) = visitor else { return };
        self.table[slot as usize].address = mapped(visitor);
        if self.arrivals.unwelcome(slot).is_none()
            && let Err(why) = self.judge_peer(slot)
        {
            self.turn_away(slot, why, net);
        }
    }

    /// Keeps what was found of who sent a request.
    pub(super) fn met(&mut self, slot: u32, arrived: &Arrived) {
        let connection = &mut self.table[slot as usize];
        connection.address = mapped(arrived.visitor);
        connection.is_counted |= arrived.is_counted;
        if arrived.unwelcome == Some(Unwelcome::Revoked) {
            self.counters.revoked_connections += 1;
        }
        // Who gets no further takes nobody's place until it has gone.
        if let Some(why) = arrived.unwelcome {
            // Who was turned away before is told already.
            if self.arrivals.unwelcome(slot).is_none() {
                self.tell_turned_away(slot, why);
            }
            self.give_place_back(slot);
        }
    }

    /// The native form is open, if the connection may come in.
    pub(super) fn native_opened(&mut self, slot: u32, shard: &mut Shard, net: &mut Net) {
        let address = self.address_of(slot);
        let (told, counts) = (self.arrivals.unwelcome(slot), &mut self.counters.limits);
        let unwelcome = told.or_else(|| self.arrivals.may_prove(address, counts).err());
        let Some(why) = unwelcome else { return self.open(slot, WireForm::Native, &[], shard) };
        if told.is_none() {
            self.tell_turned_away(slot, why);
        }
        let mut bytes = Vec::new();
        http::refuse(why, WireForm::Native, &mut bytes);
        self.last_words(slot, bytes, net);
    }

    /// Tokens of a connection that were refused, while nobody knows who it is.
    pub(super) fn tokens_refused(&self, id: ConnectionId, shard: &Shard) -> u8 {
        let is_unproved = self.table[id.slot as usize].is_unproved;
        let session = if is_unproved { shard.sessions().session(id) } else { None };
        session.map_or(0, |session| session.tokens_refused)
    }

    /// A request of a connection was handled, of which so many tokens had been refused before.
    pub(super) fn asked(&mut self, id: ConnectionId, refused_before: u8, shard: &Shard) {
        if self.tokens_refused(id, shard) > refused_before {
            let address = self.address_of(id.slot);
            self.arrivals.failed(address);
            self.events.refused(id.slot, &Hello::without_proof(), address, self.now_ms);
        }
        self.see_if_proved(id, shard);
    }

    /// A token of a connection was judged, and the shard knows.
    pub fn judged(&mut self, id: ConnectionId, is_refused: bool, hello: Option<&Hello>, shard: &Shard) {
        self.tell_refused(id, hello, shard);
        if is_refused && let Some(address) = self.address(id) {
            self.arrivals.failed(address);
        }
        self.see_if_proved(id, shard);
    }

    /// What the log tells of a token, before the shard takes the verdict.
    pub fn hello_of(&self, proved: &Proved) -> Option<Hello> {
        if self.events.is_told() { Hello::of(proved) } else { None }
    }

    /// A connection is being ended, with a word.
    pub fn closing(&mut self, closing: &Closing, shard: &Shard) {
        if !self.events.is_told() {
            return;
        }
        let Some(address) = self.address(closing.connection) else { return };
        let user = shard.sessions().session(closing.connection).and_then(|session| session.user.as_ref());
        let ended = Ended { code: Some(closing.code), reason: &closing.reason };
        self.events.closed(ended, user, address, self.now_ms);
    }

    /// The peer went without a word, or is cut off. Of those that are being ended it is told already.
    pub(super) fn tell_gone(&mut self, slot: u32, shard: &Shard) {
        if !self.events.is_told() {
            return;
        }
        let (address, session) = (self.address_of(slot), shard.sessions().session(self.id(slot)));
        if let Some(session) = session.filter(|session| session.is_open()) {
            self.events.closed(Ended { code: None, reason: "" }, session.user.as_ref(), address, self.now_ms);
        }
    }

    fn tell_turned_away(&mut self, slot: u32, why: Unwelcome) {
        let why = match why {
            Unwelcome::Limited(refused) => refused.limit.name(),
            Unwelcome::Revoked => "revoked",
            Unwelcome::Draining => "draining",
        };
        self.events.turned_away(why, self.address_of(slot), self.now_ms);
    }

    fn tell_refused(&mut self, id: ConnectionId, hello: Option<&Hello>, shard: &Shard) {
        if let (Some(hello), Some(address)) = (hello, self.address(id)) {
            let stage = shard.sessions().session(id).map(|session| session.stage);
            if stage != Some(session::Stage::Greeted) {
                self.events.refused(id.slot, hello, address, self.now_ms);
            }
        }
    }

    fn see_if_proved(&mut self, id: ConnectionId, shard: &Shard) {
        if self.is_current(id) && self.table[id.slot as usize].is_unproved {
            let session = shard.sessions().session(id).filter(|session| session.stage == session::Stage::Greeted);
            if let Some(session) = session {
                let sid = session.proof.as_deref().and_then(Proof::session);
                if let Some(user) = &session.user {
                    self.events.welcome(id.slot, user, sid, self.address_of(id.slot), self.now_ms);
                }
                self.give_place_back(id.slot);
            }
        }
    }

    /// It is not one of those any more that have not said who they are.
    pub(super) fn give_place_back(&mut self, slot: u32) {
        if std::mem::take(&mut self.table[slot as usize].is_unproved) {
            self.arrivals.proved();
            self.carried.remove(&slot);
            self.events.forget(slot);
        }
    }

    /// The slot is nobody's: what it was counted for is given back.
    pub(super) fn departed(&mut self, slot: u32) {
        self.give_place_back(slot);
        self.arrivals.forget(slot);
        if std::mem::take(&mut self.table[slot as usize].is_counted) {
            self.arrivals.leave(self.address_of(slot));
        }
    }
}

/// An address in the form that takes least place.
fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
