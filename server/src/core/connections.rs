//! One core's connections as the shell knows them: reads their bytes, answers HTTP, and hands requests to the shard.

mod arriving;
mod blocking;
mod deadline;
mod held;
mod progress;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use banter_access::gate::Proxies;
use banter_chat::address::{ConnectionId, Core, Now};
use banter_chat::fanout::Sending;
use banter_chat::limits::Limits;
use banter_chat::session;
use banter_chat::shard::{Input, Shard};
use banter_chat::table::Table;
use banter_chat::timers::Timers;
use banter_protocol::error_code::ErrorCode;
use banter_protocol::event::Event;
use banter_protocol::fault::PeerFault;
use banter_protocol::frame::PREAMBLE;
use banter_protocol::ingress::Ingress;
use banter_protocol::native;
use banter_protocol::proxy::ProxyFault;
use banter_protocol::wire::WireForm;

use crate::control::{AnswerTo, Asker, ToControl};
use crate::core::arrivals::Arrivals;
use crate::core::doorway::{Doorway, UpgradeRule};
use crate::core::events::Events;
use crate::core::http::{self, Carried, HttpAnswer};
use crate::core::net::Net;
use crate::metrics::ShellCounters;

use deadline::{Deadline, UnderWay};
use held::Held;

/// Milliseconds that a peer has to end its side once the server ended its own.
const LINGER_MS: u64 = 2_000;
/// How a core's connections are limited.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Bytes of one frame.
    pub frame_bytes_max: u32,
    /// Requests of one connection that one turn takes.
    pub requests_per_turn_max: u32,
    /// Bytes that are kept of a connection while it is not read.
    pub held_bytes_max: usize,
    /// Milliseconds for the handshake.
    pub handshake_timeout_ms: u64,
    /// Who is let in.
    pub entrance: Entrance,
    /// Milliseconds that bytes may wait for a peer that takes none of them; 0 = for ever.
    pub send_timeout_ms: u32,
    /// Milliseconds from the first byte of a message to its last; 0 = for ever.
    pub message_timeout_ms: u32,
    /// All of the server's limits, for those of arrivals.
    pub limits: Limits,
    /// Connections of the whole server now. Touched when one comes or goes, and at no other time.
    pub connections_now: Arc<AtomicU32>,
}

/// What the configuration says of who is let in, beside the limits.
#[derive(Clone, Debug, Default)]
pub struct Entrance {
    /// What an upgrade is judged by.
    pub upgrades: UpgradeRule,
    /// Which proxies speak for others.
    pub proxies: Proxies,
    /// Cores of the server, of which each has its share of what an address may have.
    pub cores: u16,
}

impl ConnectionLimits {
    /// What a server's limits say of them.
    pub fn of(limits: &Limits, entrance: Entrance, connections_now: &Arc<AtomicU32>) -> Self {
        ConnectionLimits {
            entrance,
            frame_bytes_max: limits.frame_bytes_max,
            requests_per_turn_max: limits.requests_per_turn_max,
            held_bytes_max: limits.held_bytes_max as usize,
            handshake_timeout_ms: limits.handshake_timeout_ms.into(),
            send_timeout_ms: limits.send_timeout_ms,
            message_timeout_ms: limits.message_timeout_ms,
            limits: *limits,
            connections_now: connections_now.clone(),
        }
    }
}

/// The connections of one core.
pub struct Connections {
    core: Core,
    limits: ConnectionLimits,
    table: Table<Connection>,
    handshakes: Timers<ConnectionId>,
    lingering: Timers<ConnectionId>,
    doorway: Doorway,
    arrivals: Arrivals,
    /// Tokens that came with the upgrade, by slot, until it is known who that is.
    carried: BTreeMap<u32, Carried>,
    /// Who comes and goes, for the log.
    events: Events,
    sends: Deadline,
    messages: Deadline,
    /// Those of which more is held than their share of a turn.
    backlog: VecDeque<ConnectionId>,
    /// The turn's number, and its time.
    turn: u16,
    now_ms: u64,
    control: flume::Sender<ToControl>,
    draining: bool,
    /// What the shell counts.
    pub counters: ShellCounters,
}

struct Connection {
    ingress: Ingress,
    generation: u32,
    stage: Stage,
    /// Bytes that came while it was not read. Boxed, since nearly every connection has none.
    held: Option<Box<Held>>,
    /// The send that waits for the peer.
    send: UnderWay,
    /// The message that is not whole.
    message: UnderWay,
    /// Bytes in its socket that the peer had not taken at the last look; 0 once something came of it.
    untaken_bytes: u32,
    /// What it had of its share, and of which turn. The number comes again after 65,536 turns: then a share may be smaller.
    taken: u16,
    taken_turn: u16,
    /// It stands in the backlog.
    is_backlogged: bool,
    /// Where it comes from, or whom a trusted proxy speaks for; an IPv4 address is mapped, which spares a byte.
    address: Ipv6Addr,
    /// It is one of those that its address has, and of those that have not said who they are.
    is_counted: bool,
    is_unproved: bool,
}

impl Connection {
    fn new(ingress: Ingress, generation: u32, stage: Stage, address: Ipv6Addr) -> Self {
        let (send, message) = (UnderWay::default(), UnderWay::default());
        Connection {
            ingress,
            generation,
            stage,
            held: None,
            send,
            message,
            untaken_bytes: 0,
            taken: 0,
            taken_turn: 0,
            is_backlogged: false,
            address,
            is_counted: false,
            is_unproved: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The slot is nobody's.
    Free,
    /// The form is not known yet; the connection may be turned away.
    Handshake,
    /// What the other cores say is being collected.
    Asking,
    /// The last bytes are being sent; then the server ends its side.
    LastWords,
    /// The shard knows it.
    Open,
    /// The server ended its side, and waits for the peer to end its own.
    Lingering,
    /// The socket is being closed.
    Closing,
}

impl Connections {
    /// None yet.
    pub fn new(core: Core, limits: ConnectionLimits, control: flume::Sender<ToControl>) -> Self {
        Connections {
            core,
            table: Table::default(),
            handshakes: Timers::new(limits.handshake_timeout_ms),
            lingering: Timers::new(LINGER_MS),
            doorway: Doorway::new(limits.entrance.upgrades.clone()),
            arrivals: Arrivals::new(&limits.limits, &limits.entrance.proxies, limits.entrance.cores),
            events: Events::new(false),
            sends: Deadline::new(limits.send_timeout_ms),
            messages: Deadline::new(limits.message_timeout_ms),
            carried: BTreeMap::new(),
            backlog: VecDeque::new(),
            turn: 0,
            now_ms: 0,
            limits,
            control,
            draining: false,
            counters: ShellCounters::default(),
        }
    }

    /// The log is for machines.
    #[must_use]
    pub fn with_events(self) -> Self {
        Connections { events: Events::new(true), ..self }
    }

    /// Goes by other limits and lets others in; deadlines that were set stay.
    pub fn reload(&mut self, limits: &Limits, entrance: Entrance) {
        self.doorway.follow(entrance.upgrades.clone());
        self.arrivals.follow(limits, &entrance.proxies, entrance.cores);
        self.limits = ConnectionLimits::of(limits, entrance, &self.limits.connections_now);
    }

    /// A turn begins.
    pub fn begin_turn(&mut self, now: Now) {
        self.turn = self.turn.wrapping_add(1);
        self.now_ms = now.monotonic_ms;
        self.arrivals.begin_turn(now);
    }

    fn id(&self, slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: self.table[slot as usize].generation }
    }

    fn is_current(&self, id: ConnectionId) -> bool {
        self.table.get(id.slot as usize).is_some_and(|connection| connection.generation == id.generation)
    }

    fn stage(&self, slot: u32) -> Stage {
        self.table.get(slot as usize).map_or(Stage::Free, |connection| connection.stage)
    }

    fn set_stage(&mut self, slot: u32, stage: Stage) {
        self.table[slot as usize].stage = stage;
    }

    fn answer_http(&mut self, slot: u32, answer: HttpAnswer, shard: &mut Shard, net: &mut Net) {
        match answer {
            HttpAnswer::Response(bytes) => self.last_words(slot, bytes, net),
            HttpAnswer::Foreign(bytes) => {
                self.counters.refused_origins += 1;
                self.events.turned_away("origin", self.address_of(slot), self.now_ms);
                self.last_words(slot, bytes, net);
            }
            HttpAnswer::Upgrade(form, response, token) => {
                self.carried.extend(token.map(|token| (slot, token)));
                self.table[slot as usize].ingress.accept_websocket(form);
                self.open(slot, form, &response, shard);
            }
            HttpAnswer::Asked { question, head_only } => {
                self.set_stage(slot, Stage::Asking);
                let to = AnswerTo::Connection { core: self.core, connection: self.id(slot), head_only };
                // The control thread lives longer than the cores.
                let _ = self.control.send(ToControl::Asked(Asker { question, to }));
            }
        }
    }

    fn open(&mut self, slot: u32, form: WireForm, preface: &[u8], shard: &mut Shard) {
        self.set_stage(slot, Stage::Open);
        self.events.opened(form, self.address_of(slot), self.now_ms);
        shard.handle(self.id(slot), Input::Opened { form, preface });
    }

    /// The peer broke the stream: it is told why, and the connection ends. Others notice nothing.
    fn fault(&mut self, slot: u32, fault: &PeerFault, shard: &mut Shard, net: &mut Net) {
        tracing::debug!(address = %self.address_of(slot), %fault, "a peer broke the stream");
        if self.stage(slot) == Stage::Open {
            let message = fault.to_string();
            let (code, close_code) = (fault.error_code(), fault.close_code());
            shard.handle(self.id(slot), Input::Close { error: Some((code, &message)), close_code, reason: &message });
            return;
        }
        self.counters.failed_handshakes += 1;
        if let PeerFault::Proxy(fault) = fault {
            self.arrivals.not_as_said(self.address_of(slot), *fault);
        }
        match fault {
            PeerFault::Proxy(fault @ ProxyFault::Unexpected) => {
                self.last_words(slot, http::text(400, &format!("{fault}\n"), false), net);
            }
            PeerFault::Http(fault) => self.last_words(slot, http::refuse_head(fault), net),
            PeerFault::PreambleVersion(_) => {
                let (code, message) = (fault.error_code(), fault.to_string());
                let event =
                    Event::Error { id: None, code, message: &message, retry_after_ms: None, scope: None, reason: None };
                let mut bytes = Vec::with_capacity(PREAMBLE.len());
                native::write_event(&event, &mut bytes);
                self.last_words(slot, bytes, net);
            }
            _ => self.close(slot, net),
        }
    }

    fn last_words(&mut self, slot: u32, bytes: Vec<u8>, net: &mut Net) {
        self.give_place_back(slot);
        self.set_stage(slot, Stage::LastWords);
        self.send(slot, Sending::Copied(bytes), net);
    }

    /// Sends for the shard.
    pub fn send(&mut self, slot: u32, sending: Sending, net: &mut Net) {
        self.counters.sends += 1;
        self.counters.bytes_sent += sending.bytes().len() as u64;
        net.send(slot, sending);
    }

    /// Whether the shard may send on that connection.
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.is_current(id) && self.stage(id.slot) == Stage::Open
    }

    /// All of a send is with the kernel.
    pub fn sent(&mut self, slot: u32, now_ms: u64, shard: &mut Shard, net: &mut Net) {
        self.table[slot as usize].send.end();
        match self.stage(slot) {
            Stage::Open => shard.handle(self.id(slot), Input::Sent),
            Stage::LastWords => self.finish(slot, now_ms, net),
            _ => {}
        }
    }

    /// Everything was sent to a connection that ends: the server ends its side, and waits a little for the peer's end,
    /// since closing on unread bytes would take back what is on its way.
    pub fn finish_open(&mut self, id: ConnectionId, now_ms: u64, shard: &mut Shard, net: &mut Net) {
        if self.is_open(id) {
            shard.handle(id, Input::Closed);
            self.finish(id.slot, now_ms, net);
        }
    }

    fn finish(&mut self, slot: u32, now_ms: u64, net: &mut Net) {
        self.set_stage(slot, Stage::Lingering);
        self.let_go(slot);
        net.finish(slot);
        net.resume(slot);
        self.lingering.set(self.id(slot), now_ms);
    }

    /// The connection is cut off.
    pub fn abort(&mut self, id: ConnectionId, shard: &mut Shard, net: &mut Net) {
        if self.is_open(id) {
            self.broken(id.slot, shard, net);
        }
    }

    /// No more bytes will come. The last words still go out, if they are on their way or being collected.
    pub fn ended(&mut self, slot: u32, shard: &mut Shard, net: &mut Net) {
        match self.stage(slot) {
            Stage::Asking => {}
            Stage::LastWords if net.is_sending(slot) => {}
            _ => self.broken(slot, shard, net),
        }
    }

    /// The connection is of no use any more.
    pub fn broken(&mut self, slot: u32, shard: &mut Shard, net: &mut Net) {
        if self.stage(slot) == Stage::Open {
            self.tell_gone(slot, shard);
            shard.handle(self.id(slot), Input::Closed);
        }
        self.close(slot, net);
    }

    fn close(&mut self, slot: u32, net: &mut Net) {
        if !matches!(self.stage(slot), Stage::Free | Stage::Closing) {
            self.set_stage(slot, Stage::Closing);
            self.let_go(slot);
            net.close(slot);
        }
    }

    /// The slot is nobody's.
    pub fn closed(&mut self, slot: u32) {
        self.limits.connections_now.fetch_sub(1, Ordering::Relaxed);
        self.departed(slot);
        let connection = &mut self.table[slot as usize];
        connection.stage = Stage::Free;
        connection.ingress = Ingress::new(self.limits.frame_bytes_max);
    }

    /// The answer to what was asked of all cores came.
    pub fn answered(&mut self, id: ConnectionId, bytes: Vec<u8>, net: &mut Net) {
        if self.is_current(id) && self.stage(id.slot) == Stage::Asking {
            self.last_words(id.slot, bytes, net);
        }
    }

    /// From now on newcomers are told that the server stops.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Cuts off what is left.
    pub fn close_all(&mut self, shard: &mut Shard, net: &mut Net) {
        for slot in 0..self.table.len() as u32 {
            self.broken(slot, shard, net);
        }
        self.events.end();
    }

    /// Whether no connection is left, but for those that the peer is to end.
    pub fn is_quiet(&self) -> bool {
        self.table.iter().all(|connection| {
            matches!(connection.stage, Stage::Free | Stage::Lingering | Stage::Closing | Stage::Handshake)
        })
    }

    /// Ends what took too long: sends, messages, handshakes, goodbyes. `hello` belongs to the handshake.
    pub fn tick(&mut self, now_ms: u64, shard: &mut Shard, net: &mut Net) {
        self.end_late(shard);
        self.end_blocked(shard, net);
        self.events.tick(now_ms);
        while let Some(id) = self.handshakes.take_due(now_ms) {
            if !self.is_current(id) {
                continue;
            }
            match self.stage(id.slot) {
                Stage::Handshake => {
                    self.counters.failed_handshakes += 1;
                    self.last_words(id.slot, http::refuse_slow(), net);
                    self.lingering.set(id, now_ms);
                }
                Stage::Open => match shard.sessions().session(id).map(|session| session.stage) {
                    Some(session::Stage::Opened) => {
                        self.counters.failed_handshakes += 1;
                        let error = Some((ErrorCode::TimedOut, "`hello` did not come within handshake_timeout_ms"));
                        shard.handle(id, Input::Close { error, close_code: 1008, reason: "no hello in time" });
                    }
                    Some(session::Stage::Proving) => {
                        self.counters.failed_handshakes += 1;
                        let message = "the token was not judged within handshake_timeout_ms";
                        let error = Some((ErrorCode::Unavailable, message));
                        shard.handle(id, Input::Close { error, close_code: 1013, reason: "not judged in time" });
                    }
                    _ => {}
                },
                // Who does not take the answer to a plain request gives the slot back all the same.
                Stage::Asking | Stage::LastWords => self.lingering.set(id, now_ms),
                _ => {}
            }
        }
        while let Some(id) = self.lingering.take_due(now_ms) {
            if self.is_current(id) && matches!(self.stage(id.slot), Stage::Lingering | Stage::LastWords) {
                self.close(id.slot, net);
            }
        }
    }

    /// When to tick again, at the latest.
    pub fn next_due(&self) -> Option<u64> {
        let timers = [self.handshakes.next_due(), self.lingering.next_due()];
        let deadlines = [self.sends.next_due(), self.messages.next_due()];
        timers.into_iter().chain(deadlines).chain([self.events.next_due()]).flatten().min()
    }
}
