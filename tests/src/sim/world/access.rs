//! Who the clients are, in the world: tokens that are judged after a while, orders of the operator to every core, and what must
//! hold of both at rest.

use banter_access::revocation::Subject;
use banter_chat::access::Access;
use banter_chat::address::ConnectionId;
use banter_chat::orders::Parting;
use banter_chat::proving::{NotProved, Proved, Proving};
use banter_chat::shard::Input;
use banter_protocol::ids::{RoomName, UserName};
use banter_protocol::request::Ask;

use super::core::Event;
use super::{Wish, World};
use crate::sim::client::{Client, Connection};
use crate::sim::identity::{Identities, Must, Order, revocation};

/// Turns that a verdict takes at most.
const VERDICT_TURNS_MAX: usize = 40;
/// Times that a token is shown again that nothing could judge.
const TRIES_MAX: usize = 20;

impl World {
    /// What the server's configuration says of access.
    pub(super) fn access(&mut self) -> Access {
        self.identities.as_mut().map_or(Access::Open, Identities::access)
    }

    /// A new server is told every revocation, as from the file that it keeps of them.
    pub(super) fn tell_revocations(&mut self) {
        let Some(identities) = &mut self.identities else { return };
        for (subject, issued_before_s) in identities.start(self.cores.len()) {
            for core in &mut self.cores {
                core.shard.revoke(&revocation(&subject, issued_before_s)).expect("there is room for it");
            }
        }
    }

    fn wall_s(&self) -> u64 {
        self.wall_ms() / 1_000
    }

    /// What a client asks next.
    pub(super) fn next_wish(&mut self, number: usize) -> Option<Wish> {
        if let Some(identities) = &self.identities {
            self.truth.moment = identities.moment + 1;
            if let Some(wish) = self.wish_of_identity(number) {
                return Some(wish);
            }
            if self.clients[number].awaits_its_name() {
                return None;
            }
        }
        let wish = self.clients[number].wish(&mut self.chance, &self.profile, &mut self.truth, &mut self.seen)?;
        Some(self.perhaps_with_room_token(number, wish))
    }

    fn wish_of_identity(&mut self, number: usize) -> Option<Wish> {
        let now_s = self.wall_s();
        let (identities, client) = (self.identities.as_mut()?, &mut self.clients[number]);
        let connection = client.connection.as_ref()?;
        if !connection.greeted {
            if identities.is_guest_next() {
                return client.hello_as_guest();
            }
            let is_old = identities.chance.once_in(12);
            let token = if is_old { identities.token_of(&client.user) } else { None };
            let token = token.unwrap_or_else(|| identities.issue(&client.user, now_s, false));
            return client.hello_with(token);
        }
        let once_in = if connection.is_expiring { 4 } else { 40 };
        if !connection.welcomed || !identities.chance.once_in(once_in) {
            return None;
        }
        let is_any = identities.chance.once_in(6);
        let token = if is_any { identities.any_token() } else { None };
        client.renew_with(token.unwrap_or_else(|| identities.issue(&client.user, now_s, false)))
    }

    fn perhaps_with_room_token(&mut self, number: usize, wish: Wish) -> Wish {
        let now_s = self.wall_s();
        let Some(identities) = &mut self.identities else { return wish };
        let user = &self.clients[number].user;
        wish.with_room_token(|room| match identities.chance.below(16) {
            0..=3 => Some(identities.issue_for_room(user, room, now_s)),
            4 => identities.any_token(),
            _ => None,
        })
    }

    /// A request comes to the shard of its connection.
    pub(super) fn hand_in(&mut self, own: usize, id: ConnectionId, wish: &Wish) {
        self.expect(own, id, wish);
        let shard = &mut self.cores[own].shard;
        wish.with_request(|request| shard.handle(id, Input::Request(request)));
        if wish.with_request(|request| matches!(request.ask, Ask::Hello { token: None, .. })) {
            self.note_guest(own, id);
        }
    }

    /// What a guest is called says the server alone.
    fn note_guest(&mut self, own: usize, id: ConnectionId) {
        let session = self.cores[own].shard.sessions().session(id);
        let (Some(identities), Some(user)) = (&mut self.identities, session.and_then(|session| session.user.as_ref()))
        else {
            return;
        };
        identities.came_as_guest(own, (id.slot, id.generation), user.as_str());
    }

    /// Notes what a request has to be answered.
    fn expect(&mut self, own: usize, id: ConnectionId, wish: &Wish) {
        let now_ms = self.wall_ms();
        let Some(identities) = &mut self.identities else { return };
        let place = (id.slot, id.generation);
        let must = wish.with_request(|request| {
            if let Ask::Leave { room } = &request.ask {
                identities.leaves(own, place, room);
            }
            identities.expect(own, place, &request.ask, now_ms)
        });
        let moment = identities.moment;
        let Some(connection) = connection_of(&mut self.clients, own, id) else { return };
        let Some(number) = wish.id() else { return };
        connection.handed.insert(number, (must, moment));
        wish.with_request(|request| {
            if let Ask::Post { room, body, key: None } = &request.ask
                && must == Must::BeRefused
            {
                self.truth.refused(room, body.bytes);
            }
        });
    }

    /// Tokens are handed to who judges them.
    pub(super) fn prove(&mut self, own: usize, provings: Vec<Proving>) {
        let Some(identities) = &mut self.identities else { return };
        for proving in provings {
            let due = self.turn + identities.chance.below(VERDICT_TURNS_MAX) as u64;
            self.cores[own].proving.push((due, proving));
        }
    }

    /// Verdicts and orders that have come.
    pub(super) fn take_mail(&mut self, own: usize) {
        let (turn, is_resting) = (self.turn, self.is_resting);
        let is_due = |(due, _): &mut (u64, Proving)| *due <= turn || is_resting;
        let due: Vec<_> = self.cores[own].proving.extract_if(.., is_due).collect();
        for (_, proving) in due {
            self.take_verdict(own, proving);
            self.settle_rights(own);
        }
        for order in std::mem::take(&mut self.cores[own].orders) {
            self.take_order(own, &order);
            self.settle_rights(own);
        }
    }

    fn take_verdict(&mut self, own: usize, proving: Proving) {
        let (now_ms, now_s) = (self.wall_ms(), self.wall_s());
        let Some(identities) = &mut self.identities else { return };
        let verdict = identities.judge(&proving.token, now_s);
        self.seen
            .saw_times("token that nothing could judge", u64::from(matches!(verdict, Err(NotProved::Unavailable))));
        let must = identities.verdict(own, &proving, (verdict.is_ok(), self.is_draining), now_ms);
        if let Some(connection) = connection_of(&mut self.clients, own, proving.connection) {
            connection.handed.extend(proving.request.map(|number| (number, (must, identities.moment))));
        }
        self.cores[own].shard.proved(Proved { proving, verdict });
    }

    fn take_order(&mut self, own: usize, order: &Order) {
        let Some(identities) = &mut self.identities else { return };
        identities.take_order(own, order);
        let shard = &mut self.cores[own].shard;
        match order {
            Order::Defaults(_) => assert!(shard.set_access(identities.access_on(own)), "the mode is the same"),
            Order::Revoke(subject, issued_before_s) => {
                shard.revoke(&revocation(subject, *issued_before_s)).expect("there is room for it");
            }
            Order::Kick(room, user) => {
                let room = RoomName::new(&format!("room-{room}")).expect("a name");
                shard.kick(&room, &UserName::new(user).expect("a name")).expect("there is room for it");
            }
            Order::Disconnect(user) => {
                let user = UserName::new(user).expect("a name");
                shard.disconnect(&user, Parting::KICKED).expect("there is room for it");
            }
        }
    }

    /// What came to a core until now holds from here on.
    pub(super) fn settle_rights(&mut self, own: usize) {
        let now_ms = self.wall_ms();
        if let Some(identities) = &mut self.identities {
            identities.settle_rights(own, now_ms);
        }
    }

    /// The operator orders something, by chance.
    pub(super) fn operate(&mut self) {
        let (now_s, users) = (self.wall_s(), 1 + self.profile.clients * 2 / 3);
        let Some(order) = self.identities.as_mut().and_then(|identities| identities.order(users, now_s)) else {
            return;
        };
        if self.plan.verbose {
            println!("    the operator orders {order:?}");
        }
        self.seen.saw(match &order {
            Order::Defaults(_) => "rights of everybody changed",
            Order::Revoke(Subject::User(_), _) => "user revoked",
            Order::Revoke(..) => "token or session revoked",
            Order::Kick(..) => "user kicked",
            Order::Disconnect(_) => "user disconnected",
        });
        for core in &mut self.cores {
            core.orders.push(order.clone());
            core.is_rung = true;
        }
    }

    /// At rest nobody is there whose token was revoked or who was disconnected, and nobody reads without the right, or on behind
    /// a kick.
    pub(super) fn check_standings(&self) {
        let Some(identities) = &self.identities else { return };
        for client in &self.clients {
            let Some(connection) = &client.connection else { continue };
            let (core, place) = (connection.core.index(), (connection.id.slot, connection.id.generation));
            let Some(standing) = identities.standing(core, place) else { continue };
            let number = client.number;
            assert_eq!(standing.ended, None, "client {number} is still there, and was revoked or disconnected");
            for room in connection.readings.keys() {
                let there = standing.in_room(room);
                assert!(there.may_read(), "client {number} reads {room} at rest without the right");
                let joined = connection.joined_at.get(room).copied().unwrap_or_default();
                assert!(joined > there.kicked, "client {number} reads {room} at rest, and was kicked");
            }
        }
    }

    /// Whether a reader that asked for it is told who comes and goes: not any more, once it lost a right since it joined.
    pub(super) fn is_told_presence(&self, client: &Client, room: &str) -> bool {
        let (Some(identities), Some(there)) = (&self.identities, &client.connection) else { return true };
        let standing = identities.standing(there.core.index(), (there.id.slot, there.id.generation));
        let joined = there.joined_at.get(room).copied().unwrap_or_default();
        standing.is_none_or(|standing| standing.in_room(room).shrunk < joined)
    }

    /// Somebody who may read every history, at rest; nobody, where no connection is left.
    pub(super) fn asker(&mut self) -> Option<usize> {
        let is_asker = |client: &Client| client.connection.as_ref().is_some_and(|there| there.greeted);
        if self.identities.is_none() {
            return self.clients.iter().position(is_asker);
        }
        (0..self.clients.len()).find(|&number| self.may_read_all(number))
    }

    /// Gives a client a token for everything.
    fn may_read_all(&mut self, number: usize) -> bool {
        for _ in 0..TRIES_MAX {
            let now_s = self.wall_s();
            let client = &mut self.clients[number];
            let is_user = |there: &&Connection| there.welcomed && !there.is_guest;
            let Some(there) = client.connection.as_ref().filter(is_user) else { return false };
            let (core, slot) = (there.core.index(), there.id.slot);
            let Some(identities) = &mut self.identities else { return false };
            let token = identities.issue(&client.user, now_s, true);
            let wish = client.renew_with(token);
            self.cores[core].events.extend(wish.map(|wish| Event::Wish(slot, wish)));
            self.rest();
            let place = |there: &Connection| (there.core.index(), (there.id.slot, there.id.generation));
            let Some((core, place)) = self.clients[number].connection.as_ref().map(place) else { return false };
            if self.identities.as_ref().and_then(|all| all.standing(core, place)).is_some_and(|one| one.may_all()) {
                return true;
            }
        }
        false
    }
}

/// The client's connection, if it still has that one.
fn connection_of(clients: &mut [Client], own: usize, id: ConnectionId) -> Option<&mut Connection> {
    let connections = clients.iter_mut().filter_map(|client| client.connection.as_mut());
    connections.into_iter().find(|there| there.core.index() == own && there.id == id)
}
