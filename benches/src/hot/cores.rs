//! A core without its sockets: the bytes of clients come in, and what they are sent goes nowhere, turn by turn as in the server's pump.

use std::collections::BTreeMap;
use std::hint::black_box;

use banter_chat::access::Access;
use banter_chat::address::{ConnectionId, Core as CoreNumber, Now, Placement};
use banter_chat::limits::Limits;
use banter_chat::logs::{LogConfig, LogId};
use banter_chat::policy::{Durability, RoomPolicies};
use banter_chat::post_rates::PostRates;
use banter_chat::sessions::{Actions, Welcome};
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_log::catalog::Catalog;
use banter_log::journal::{Answer, JournalParts, WORK_STEPS_MAX};
use banter_protocol::features::{FeatureNames, KNOWN};
use banter_protocol::ids::Epoch;
use banter_protocol::ingress::{Incoming, Ingress};
use banter_protocol::request::{Ask, JoinFrom, Request};
use banter_protocol::wire::WireForm;

use super::disk::{Disk, RUN, UNIX_MS};
use super::frames;

/// About what a turn of [`Limits::sends_per_turn_max`] sends takes: what is done by time comes as often as in a server.
const TURN_US: u64 = 100;

/// The core, its disk and its clients.
pub struct Core {
    shard: Shard,
    disk: Disk,
    answers: Vec<(LogId, Answer)>,
    clients: Vec<Ingress>,
    now: Now,
    sends_per_turn_max: u32,
    sent: Vec<ConnectionId>,
    received: Vec<u8>,
    told_bytes: u64,
}

/// Without the limits that count what one client asks in a second, and without the end of those that are silent. The history
/// in memory is soon as long as it gets.
pub fn limits() -> Limits {
    let history_bytes_per_core_max = 64 << 10;
    let (idle_timeout_ms, fetches_per_second_max, joins_per_second_max) = (0, 0, 0);
    let limits = Limits::default();
    Limits { history_bytes_per_core_max, idle_timeout_ms, fetches_per_second_max, joins_per_second_max, ..limits }
}

impl Core {
    /// Nobody there yet.
    pub fn new(durability: Durability, limits: Limits) -> Self {
        let mut catalog = Catalog::default();
        catalog.begin(UNIX_MS);
        let journal = JournalParts {
            run: RUN,
            commit_bytes_max: limits.log_commit_bytes_max as usize,
            reads_max: limits.log_reads_max as usize,
            work_steps_max: WORK_STEPS_MAX,
            cache_bytes_max: limits.log_cache_bytes_per_core_max,
            catalog,
            indexes: BTreeMap::new(),
        };
        let shard = Shard::new(ShardConfig {
            core: CoreNumber(0),
            placement: Placement::of_one_server(1),
            limits,
            welcome: Welcome { limits: String::new(), durability: durability.name(), features: KNOWN, run: RUN },
            access: Access::Open,
            first_epoch: Epoch(1),
            epochs_end: Epoch(1 << 40),
            policies: RoomPolicies::all(durability),
            post_rates: PostRates::default(),
            logs: LogConfig::local(journal),
        });
        let now = Now { monotonic_ms: 1_000, monotonic_us: 1_000_000, unix_ms: UNIX_MS };
        Core {
            shard,
            disk: Disk::default(),
            answers: Vec::new(),
            clients: Vec::new(),
            now,
            sends_per_turn_max: limits.sends_per_turn_max,
            sent: Vec::new(),
            received: Vec::new(),
            told_bytes: 0,
        }
    }

    /// A client comes in and reads a room.
    pub fn open(&mut self, form: WireForm, room: &str) -> u32 {
        let client = self.clients.len() as u32;
        self.clients.push(frames::open(form));
        self.shard.handle(id(client), Input::Opened { form, preface: &[] });
        let user = format!("user-{client}");
        self.ask(client, Ask::Hello { user: user.into(), token: None, features: FeatureNames::NONE });
        let (from, echo, presence) = (JoinFrom::Now, true, false);
        self.ask(client, Ask::Join { room: room.into(), from, echo, presence, token: None });
        client
    }

    fn ask(&mut self, client: u32, ask: Ask<'_>) {
        self.begin_turn();
        self.shard.handle(id(client), Input::Request(&Request { id: Some(1), ask }));
        self.finish();
    }

    /// Bytes of a client come, and all is done that follows from them.
    pub fn takes(&mut self, client: u32, bytes: &[u8]) {
        self.begin_turn();
        self.receive(client, bytes);
        self.finish();
    }

    /// A turn in which nothing came.
    pub fn turn(&mut self) {
        self.begin_turn();
        self.finish_turn();
    }

    /// Clients that are there.
    pub fn clients(&self) -> u64 {
        self.clients.len() as u64
    }

    /// Messages that were handed to sockets.
    pub fn deliveries(&self) -> u64 {
        self.shard.counters().deliveries
    }

    /// Posts that were acknowledged.
    pub fn posts(&self) -> u64 {
        self.shard.counters().posts
    }

    /// Bytes that were handed to sockets.
    pub fn told_bytes(&self) -> u64 {
        self.told_bytes
    }

    fn begin_turn(&mut self) {
        let monotonic_us = self.now.monotonic_us + TURN_US;
        let monotonic_ms = monotonic_us / 1_000;
        self.now = Now { monotonic_ms, monotonic_us, unix_ms: UNIX_MS + monotonic_ms };
        self.shard.set_busy(0);
        self.shard.begin_turn(self.now, []);
    }

    fn receive(&mut self, client: u32, bytes: &[u8]) {
        // What comes is unmasked where it lies.
        self.received.clear();
        self.received.extend_from_slice(bytes);
        self.shard.handle(id(client), Input::Heard);
        let ingress = &mut self.clients[client as usize];
        let mut used = 0;
        while used < self.received.len() {
            assert!(self.shard.is_read(id(client)), "a client that is not read");
            match ingress.read(&mut self.received[used..]).expect("good bytes") {
                (taken, Some(Incoming::Request(request))) => {
                    used += taken;
                    self.shard.handle(id(client), Input::Request(&request));
                }
                (taken, None) => used += taken,
                (_, Some(other)) => panic!("no request: {other:?}"),
            }
        }
        ingress.release();
    }

    /// Ends the turn, and goes on until nothing is left.
    fn finish(&mut self) {
        self.finish_turn();
        while self.shard.is_busy() || !self.answers.is_empty() {
            self.turn();
        }
    }

    fn finish_turn(&mut self) {
        for (log, answer) in self.answers.drain(..) {
            self.shard.disk(log, answer);
        }
        self.shard.finish_turn();
        for (log, ask) in self.shard.disk_asks() {
            self.disk.take(ask, |answer| self.answers.push((log, answer)));
        }
        for _ in 0..self.sends_per_turn_max {
            let Some((id, sending)) = self.shard.next_send() else { break };
            self.told_bytes += black_box(sending.bytes()).len() as u64;
            self.sent.push(id);
        }
        let actions = std::mem::take(self.shard.actions_mut());
        assert!(is_at_ease(&actions), "{actions:?}");
        // Behind the submit, where a send that went out whole is taken.
        for id in self.sent.drain(..) {
            self.shard.handle(id, Input::Sent);
        }
    }
}

fn is_at_ease(actions: &Actions) -> bool {
    actions.is_empty() && actions.closing.is_empty()
}

fn id(client: u32) -> ConnectionId {
    ConnectionId { slot: client, generation: 1 }
}
