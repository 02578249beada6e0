//! The shell of the simulated world: follows the server's pump turn by turn, with chance where the pump has a kernel.

mod access;
mod checks;
mod core;
mod fate;
mod lane;
mod retention;

use std::collections::VecDeque;

use banter_chat::address::{ConnectionId, Core, Now, Placement};
use banter_chat::logs::{LogConfig, LogId};
use banter_chat::pacing::{DELIVERY_DELAY_MS_LARGEST, DeliveryDelays};
use banter_chat::parcel::{Down, Up};
use banter_chat::sessions::Welcome;
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_log::journal::{Ask, Journal};
use banter_protocol::features::KNOWN;
use banter_protocol::ids::Epoch;
use banter_protocol::wire::WireForm;
use banter_server::host::EpochFile;
use banter_server::storage::ledger::LedgerFile;

use self::core::{Event, SimCore, Socket};
use self::lane::{Lane, lanes};
use self::retention::Retained;
use super::Plan;
use super::client::{Client, Reading, Wish};
use super::coverage::Coverage;
use super::crash::{Folder, Started, Starting, journal_parts, restart};
use super::disk::SimDisk;
use super::identity::Identities;
use super::profile::Profile;
use super::scripted;
use super::truth::{Truth, Voice};
use crate::seeded::Seeded;

/// Rounds of turns in which everything has to come to rest, or some client is told something.
const REST_ROUNDS_MAX: usize = 100_000;
/// Rounds of turns until everything has to be at rest.
const REST_ROUNDS_IN_ALL: usize = 1_000_000;
/// Rounds without anything to do that count as rest; with the time of a round, longer than any interval of the server.
const QUIET_ROUNDS: usize = 40;
/// Rounds in which lanes still delay.
const DELAYED_ROUNDS: usize = 60;
/// Milliseconds that a round takes.
const ROUND_MS: u64 = 50;
/// The wall clock at first, milliseconds since 1970.
const WALL_START_MS: u64 = 1_700_000_000_000;

/// Epochs that the cores may give before they ask for more.
const EPOCHS_AT_ONCE: u64 = 12;

/// Everything.
pub struct World {
    plan: Plan,
    profile: Profile,
    chance: Seeded,
    turn: u64,
    now_ms: u64,
    /// By how much the server's wall clock is off.
    wall_off_ms: i64,
    cores: Vec<SimCore>,
    up: Vec<Vec<Lane<Up>>>,
    down: Vec<Vec<Lane<Down>>>,
    disk: SimDisk,
    /// What is a real file at every start; the ledger and the epoch file are all the time.
    folder: Folder,
    ledger: Option<LedgerFile>,
    epochs: Option<EpochFile>,
    run: u64,
    /// Epochs that the cores may give lie below it; the epoch file says more.
    epochs_end: u64,
    /// When this server was started, by the world's clock.
    started_ms: u64,
    retained: Retained,
    /// Cores of the server now.
    core_count: u16,
    crashes: usize,
    /// Posts that had been acknowledged a step before.
    acknowledged_before: usize,
    clients: Vec<Client>,
    truth: Truth,
    /// Where the server asks for tokens.
    identities: Option<Identities>,
    seen: Coverage,
    is_draining: bool,
    is_resting: bool,
    /// Readings of connections that a stopping server ended: they have to have everything.
    ended: Vec<(Voice, String, Reading)>,
}

impl World {
    /// A server without connections.
    pub fn new(plan: Plan) -> Self {
        let mut chance = Seeded::new(plan.seed);
        let mut profile = Profile::of(&mut chance).numbered(plan.seed);
        profile.has_program = scripted::is_of(plan.seed);
        profile.limits.connections_per_user_max = Identities::connections_per_user_max(plan.seed);
        profile.limits.check().expect("the limits of a profile fit each other");
        if plan.verbose {
            println!("{profile:#?}");
        }
        let users = 1 + profile.clients * 2 / 3;
        let clients = (0..profile.clients).map(|number| Client::new(number, format!("user-{}", number % users)));
        let mut world = World {
            plan,
            chance,
            turn: 0,
            now_ms: 1_000,
            wall_off_ms: 0,
            up: Vec::new(),
            down: Vec::new(),
            cores: Vec::new(),
            disk: SimDisk::new(profile.faults),
            folder: Folder::new(),
            ledger: None,
            epochs: None,
            run: 0,
            epochs_end: 0,
            started_ms: 0,
            retained: Retained::default(),
            core_count: plan.cores,
            crashes: 0,
            acknowledged_before: 0,
            clients: clients.collect(),
            truth: Truth::default(),
            identities: Identities::of(plan.seed, profile.rooms),
            seen: Coverage::default(),
            is_draining: false,
            is_resting: false,
            ended: Vec::new(),
            profile,
        };
        let (levels_hash, unix_ms) = (world.levels_hash(), world.wall_ms());
        let started = restart(&mut world.disk, &world.folder, Starting { cores: plan.cores, levels_hash, unix_ms });
        world.start(started);
        world
    }

    /// A server begins to run.
    pub fn start(&mut self, started: Started) {
        let Started { recovered, reserved, epochs, .. } = started;
        let (run, catalogs) = (reserved.run, recovered.catalogs);
        let (limits, cores) = (self.profile.limits, catalogs.len() as u16);
        (self.run, self.core_count) = (run, cores);
        (self.ledger, self.epochs) = (Some(recovered.ledger), Some(epochs));
        self.epochs_end = (run + 1 + EPOCHS_AT_ONCE).min(reserved.end);
        (self.started_ms, self.retained.has_cut) = (self.now_ms, false);
        (self.up, self.down) = (lanes(cores), lanes(cores));
        let has_log = self.profile.policies.has_logged();
        let (reads_max, cache_bytes_max) = (limits.log_reads_max as usize, self.profile.cache_bytes_max);
        let parts = |catalog| journal_parts(run, reads_max, cache_bytes_max, catalog);
        let (epochs_end, access) = (Epoch(self.epochs_end), self.access());
        let shard = |(core, catalog)| {
            Shard::new(ShardConfig {
                core: Core(core),
                placement: Placement::of_one_server(cores),
                limits,
                welcome: Welcome { limits: "a 1\n".to_owned(), durability: "memory", features: KNOWN, run },
                access: access.clone(),
                first_epoch: Epoch(run + 1 + u64::from(core)),
                epochs_end,
                policies: self.profile.policies.clone(),
                post_rates: self.profile.post_rates.clone(),
                logs: if has_log { LogConfig::local(parts(catalog)) } else { LogConfig::None },
            })
        };
        let shards = (0..cores).zip(catalogs).map(shard);
        let (has_program, has_pacing, seed) = (self.profile.has_program, self.profile.has_pacing, self.plan.seed);
        let programmed = |mut shard: Shard| {
            if has_pacing {
                shard.set_delivery_delays(DeliveryDelays::new(Vec::new(), DELIVERY_DELAY_MS_LARGEST).from_readers(1));
            }
            if has_program {
                shard.set_programs(scripted::programs(seed));
            }
            shard
        };
        self.cores = shards
            .map(|shard| SimCore {
                shard: programmed(shard),
                sockets: Vec::new(),
                events: VecDeque::new(),
                due_ms: None,
                is_rung: true,
                of_keeper: Vec::new(),
                proving: Vec::new(),
                orders: Vec::new(),
            })
            .collect();
        self.tell_revocations();
    }

    /// Steps of chance.
    pub fn live(&mut self) {
        for step in 0..self.profile.steps {
            if self.profile.drains_at == Some(step) {
                self.drain();
            }
            self.disturb();
            self.operate();
            self.truth.now_ms = self.now_ms;
            for _ in 0..1 + self.chance.below(3) {
                let client = self.chance.below(self.clients.len());
                self.step_client(client);
            }
            if self.chance.once_in(4) {
                self.now_ms += self.chance.below(60) as u64;
            }
            let core = self.chance.below(self.cores.len());
            self.turn(core);
        }
        if self.chance.once_in(2) {
            self.everybody_asks();
        }
    }

    /// Everybody asks a lot at once, so that lanes are full when nothing else happens any more.
    fn everybody_asks(&mut self) {
        for number in 0..self.clients.len() {
            let Some(there) = &self.clients[number].connection else { continue };
            let (core, slot) = (there.core.index(), there.id.slot);
            for _ in 0..20 {
                let wish = self.next_wish(number);
                self.cores[core].events.extend(wish.map(|wish| Event::Wish(slot, wish)));
            }
        }
    }

    fn drain(&mut self) {
        self.is_draining = true;
        for core in &mut self.cores {
            core.shard.drain();
            core.is_rung = true;
        }
    }

    fn step_client(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some(connection) = &client.connection else {
            if !self.is_draining {
                self.connect(number);
            }
            return;
        };
        let (core, slot) = (connection.core.index(), connection.id.slot);
        if self.chance.once_in(60) {
            let has_flight = self.cores[core].sockets[slot as usize].flight.is_some();
            self.seen.saw(if has_flight { "vanished with a send in flight" } else { "vanished" });
            self.cut(number);
        } else if number % 2 == 1 && self.cores[core].sockets[slot as usize].stalled_until.is_some() {
            // Half of those that do not read say nothing either, until the server takes them for gone.
        } else {
            for _ in 0..*self.chance.pick(&[1, 1, 1, 10]) {
                let wish = self.next_wish(number);
                if let Some(wish) = wish.as_ref().filter(|_| self.plan.verbose) {
                    println!("    client {number} asks {wish:?}");
                }
                self.cores[core].events.extend(wish.map(|wish| Event::Wish(slot, wish)));
            }
        }
    }

    fn connect(&mut self, number: usize) {
        let index = self.chance.below(self.cores.len());
        let core = &mut self.cores[index];
        let slot = core.sockets.iter().position(|socket| socket.client.is_none()).unwrap_or(core.sockets.len());
        if slot == core.sockets.len() {
            core.sockets.push(Socket::default());
        }
        let socket = &mut core.sockets[slot];
        *socket = Socket { generation: socket.generation + 1, client: Some(number), ..Socket::default() };
        let id = ConnectionId { slot: slot as u32, generation: socket.generation };
        let form = *self.chance.pick(&WireForm::ALL);
        core.events.push_back(Event::Opened(id.slot, form));
        self.clients[number].connect(Core(index as u16), id, form);
        if let Some(identities) = &mut self.identities {
            identities.connected(index, (id.slot, id.generation), &self.clients[number].user);
        }
    }

    /// The client's end of a connection goes, whatever is in flight.
    fn cut(&mut self, number: usize) {
        let Some(connection) = &self.clients[number].connection else { return };
        let (core, slot) = (connection.core.index(), connection.id.slot);
        self.clients[number].vanish();
        self.cores[core].events.push_back(Event::Closed(slot));
    }

    /// Whether the server's pump would take a turn now, and not sleep on.
    fn is_awake(&self, own: usize) -> bool {
        let core = &self.cores[own];
        let is_due = |due: u64| due <= self.now_ms;
        let has_parcels = |other: usize| {
            let (up, down) = (&self.up[other][own], &self.down[other][own]);
            down.has_some(self.turn) || (up.has_some(self.turn) && core.shard.may_take_up(Core(other as u16)))
        };
        core.is_rung
            || self.disk.is_due(own, self.turn)
            || !core.events.is_empty()
            || core.sockets.iter().any(|socket| socket.flight.is_some() && !socket.is_dead)
            || core.shard.is_busy()
            || core.shard.is_waiting_for_lanes()
            || core.due_ms.is_some_and(is_due)
            || core.proving.iter().any(|(due, _)| *due <= self.turn || self.is_resting)
            || !core.orders.is_empty()
            || (0..self.cores.len()).filter(|&other| other != own).any(has_parcels)
    }

    fn has_log_work(&self, own: usize) -> bool {
        self.cores[own].shard.rooms().journal().is_some_and(Journal::has_work)
    }

    /// One turn of one core, as in the server's pump.
    fn turn(&mut self, own: usize) {
        self.turn += 1;
        self.cores[own].is_rung = false;
        self.truth.now_ms = self.now_ms;
        let (monotonic_ms, monotonic_us) = (self.now_ms, self.now_ms * 1_000);
        let now = Now { monotonic_ms, monotonic_us, unix_ms: self.wall_ms() };
        let size = self.profile.limits.lane_parcels_max as usize;
        let others: Vec<usize> = (0..self.cores.len()).filter(|&other| other != own).collect();
        let room: Vec<_> = others
            .iter()
            .map(|&other| {
                let (up, down) = (&self.up[own][other], &self.down[own][other]);
                (Core(other as u16), size - up.len(), size - down.len())
            })
            .collect();
        // Up and down, and no chance in it: other seeds stay as they are.
        self.cores[own].shard.set_busy(if self.profile.has_pacing { (self.turn * 37 % 1_000) as u32 } else { 0 });
        self.cores[own].shard.begin_turn(now, room);
        self.disk.keep_time(self.now_ms - self.started_ms, now.unix_ms);
        self.take_events(own);
        for answer in std::mem::take(&mut self.cores[own].of_keeper) {
            self.cores[own].shard.disk(LogId::LOCAL, answer);
        }
        for answer in self.disk.work(own, self.turn, &mut self.chance, &mut self.seen) {
            self.cores[own].shard.disk(LogId::LOCAL, answer);
        }
        for &other in &others {
            while let Some(parcel) = self.down[other][own].take(self.turn) {
                self.cores[own].shard.take_down(parcel);
            }
            while self.cores[own].shard.may_take_up(Core(other as u16)) {
                let Some(parcel) = self.up[other][own].take(self.turn) else { break };
                self.cores[own].shard.take_up(parcel);
            }
        }
        self.take_mail(own);
        self.cores[own].shard.finish_turn();
        self.cores[own].shard.take_program_notes();
        self.settle_rights(own);
        if self.has_log_work(own) {
            self.seen.saw("log work over several turns");
        }
        let asks: Vec<_> = self.cores[own].shard.disk_asks().into_iter().map(|(_, ask)| ask).collect();
        if self.plan.verbose {
            asks.iter().for_each(|ask| tell_ask(own, ask));
        }
        self.disk.ask(own, asks, self.turn, &mut self.chance);
        self.check_read_faults(own);
        if self.cores[own].shard.asks_for_epochs() {
            let end = self.epochs.as_mut().expect("a server has an epoch file").extend().expect("a file is written");
            self.epochs_end = (self.epochs_end + EPOCHS_AT_ONCE).min(end);
            self.cores.iter_mut().for_each(|core| core.shard.extend_epochs(Epoch(self.epochs_end)));
            self.seen.saw("more epochs");
        }
        self.act(own);
        self.cores[own].due_ms = self.cores[own].shard.next_due();
        self.send_parcels(own);
        self.check_limits(own);
    }

    fn take_events(&mut self, own: usize) {
        self.arrivals(own);
        let mut events = std::mem::take(&mut self.cores[own].events);
        while let Some(event) = events.pop_front() {
            let slot = match &event {
                Event::Opened(slot, _) | Event::Wish(slot, _) | Event::Heard(slot) => *slot,
                Event::Sent(slot) | Event::Closed(slot) => *slot,
            };
            let core = &mut self.cores[own];
            let socket = &mut core.sockets[slot as usize];
            if socket.client.is_none() {
                continue;
            }
            let id = ConnectionId { slot, generation: socket.generation };
            match event {
                Event::Opened(_, form) => {
                    socket.heard_ms = self.now_ms;
                    core.shard.handle(id, Input::Opened { form, preface: &[] });
                }
                Event::Heard(_) => core.hear(slot as usize, self.now_ms),
                Event::Sent(_) => core.shard.handle(id, Input::Sent),
                Event::Closed(_) => {
                    core.shard.handle(id, Input::Closed);
                    socket.client = None;
                    socket.flight = None;
                }
                Event::Wish(_, wish) => {
                    core.hear(slot as usize, self.now_ms);
                    let socket = &mut core.sockets[slot as usize];
                    if socket.held.is_empty() && core.shard.is_read(id) {
                        self.hand_in(own, id, &wish);
                    } else {
                        socket.held.push_back(wish);
                    }
                }
            }
        }
    }

    /// Sends that are done: their bytes are with the clients.
    fn arrivals(&mut self, own: usize) {
        for slot in 0..self.cores[own].sockets.len() {
            let (turn, is_resting) = (self.turn, self.is_resting);
            let socket = &mut self.cores[own].sockets[slot];
            if socket.stalled_until.is_some_and(|until| turn < until && !is_resting) {
                continue;
            }
            if socket.is_dead {
                continue;
            }
            socket.stalled_until = None;
            let Some((bytes, _)) = socket.flight.take_if(|(_, due)| *due <= turn || is_resting) else { continue };
            let Some(client) = socket.client else { continue };
            self.cores[own].events.push_back(Event::Sent(slot as u32));
            let client = &mut self.clients[client];
            // A client that vanished hears nothing more.
            if client.connection.as_ref().is_none_or(|there| (there.core.index(), there.id.slot) != (own, slot as u32))
            {
                continue;
            }
            // In parts, as TCP may bring it.
            let mut rest = &bytes[..];
            for part in self.chance.parts(bytes.len()) {
                let (now, behind) = rest.split_at(part);
                rest = behind;
                let place = (slot as u32, self.cores[own].sockets[slot].generation);
                let standing = self.identities.as_ref().and_then(|identities| identities.standing(own, place));
                let told = (&mut self.truth, &mut self.seen);
                if client.hear(now, &self.profile, told, standing, self.plan.verbose) {
                    self.cores[own].events.push_back(Event::Heard(slot as u32));
                }
            }
            if client.connection.as_ref().is_some_and(|there| there.is_timed_out) {
                let silent_ms = self.now_ms - self.cores[own].sockets[slot].heard_ms;
                let least_ms = u64::from(self.profile.limits.idle_timeout_ms);
                assert!(silent_ms >= least_ms, "ended as idle after {silent_ms} ms");
            }
            if self.chance.once_in(self.profile.stalls_once_in) && !self.is_resting {
                self.cores[own].sockets[slot].stalled_until = Some(self.turn + *self.chance.pick(&[20, 200, 600]));
                self.cores[own].sockets[slot].is_dead = self.chance.once_in(8);
                self.seen.saw("stalled");
            }
        }
    }

    fn act(&mut self, own: usize) {
        let mut sends_left = self.profile.limits.sends_per_turn_max;
        loop {
            while sends_left > 0
                && let Some((id, sending)) = self.cores[own].shard.next_send()
            {
                sends_left -= 1;
                let delay = self.chance.below(4) as u64;
                let socket = &mut self.cores[own].sockets[id.slot as usize];
                assert!(socket.flight.is_none(), "one send at a time");
                assert!(!sending.bytes().is_empty(), "a send carries something");
                socket.flight = Some((sending.bytes().to_vec(), self.turn + delay));
            }
            let actions = std::mem::take(self.cores[own].shard.actions_mut());
            if actions.is_empty() {
                return;
            }
            self.prove(own, actions.prove);
            for id in actions.resume {
                self.resume(own, id);
            }
            for id in actions.finish {
                self.end(own, id, true);
            }
            for id in actions.abort {
                self.seen.saw("cut off while closing");
                self.end(own, id, false);
            }
        }
    }

    fn resume(&mut self, own: usize, id: ConnectionId) {
        loop {
            let core = &mut self.cores[own];
            let socket = &mut core.sockets[id.slot as usize];
            if socket.client.is_none() || !core.shard.is_read(id) {
                return;
            }
            let Some(wish) = socket.held.pop_front() else { return };
            self.hand_in(own, id, &wish);
        }
    }

    /// The server ends a connection: in order, with everything sent, or because it takes nothing.
    fn end(&mut self, own: usize, id: ConnectionId, is_in_order: bool) {
        let core = &mut self.cores[own];
        core.shard.handle(id, Input::Closed);
        let socket = &mut core.sockets[id.slot as usize];
        socket.flight = None;
        let Some(number) = socket.client.take() else { return };
        let client = &mut self.clients[number];
        let Some(connection) = client.connection.take_if(|there| there.core.index() == own && there.id == id) else {
            return;
        };
        // One whose token is at its end has no more than it was told until then.
        if is_in_order && connection.is_closing && !connection.is_timed_out && self.identities.is_none() {
            let voice = (number, client.connections);
            self.ended.extend(connection.readings.into_iter().map(|(room, reading)| (voice, room, reading)));
        }
    }

    fn send_parcels(&mut self, own: usize) {
        let (size, delay) = (self.profile.limits.lane_parcels_max as usize, self.profile.lane_delay_max);
        let outgoing = self.cores[own].shard.outgoing_mut();
        let (up, down) = (std::mem::take(&mut outgoing.up), std::mem::take(&mut outgoing.down));
        for (to, parcel) in up {
            let due = self.turn + self.chance.below(delay + 1) as u64;
            self.up[own][to.index()].put(parcel, due, size);
            self.cores[to.index()].is_rung = true;
        }
        for (to, parcel) in down {
            let due = self.turn + self.chance.below(delay + 1) as u64;
            self.down[own][to.index()].put(parcel, due, size);
            self.cores[to.index()].is_rung = true;
        }
    }

    /// Whether nothing is under way; the question whether a client is there may be, since it comes forever.
    fn is_quiet(&self) -> bool {
        let lanes_empty =
            self.up.iter().flatten().all(Lane::is_empty) && self.down.iter().flatten().all(Lane::is_empty);
        lanes_empty
            && self.disk.is_idle()
            && self.cores.iter().all(|core| {
                let has_mail = !core.proving.is_empty() || !core.orders.is_empty();
                !has_mail && !core.shard.is_busy() && !core.shard.is_waiting_for_lanes()
            })
    }

    fn is_still(&self) -> bool {
        self.is_quiet()
            && self
                .cores
                .iter()
                .all(|core| core.events.is_empty() && (0..core.sockets.len()).all(|slot| core.is_settled(slot)))
    }

    fn heard(&self) -> u64 {
        self.clients.iter().map(|client| client.heard).sum()
    }

    fn rest(&mut self) {
        self.is_resting = true;
        self.disk.is_kind = true;
        let mut quiet = 0;
        // Who is still told something is on the way: a log that is read a message at a time takes its time.
        let (mut round, mut told_in) = (0, 0);
        while round < told_in + REST_ROUNDS_MAX && round < REST_ROUNDS_IN_ALL {
            self.now_ms += ROUND_MS;
            // Lanes and the disk without delay after a while: the turn's number is what lanes are due by.
            self.disk.is_quick = round >= DELAYED_ROUNDS;
            self.turn += if round < DELAYED_ROUNDS { 1 } else { self.profile.lane_delay_max.max(1) as u64 };
            let heard_before = self.heard();
            for core in 0..self.cores.len() {
                if self.is_awake(core) {
                    self.turn(core);
                } else {
                    assert!(!self.has_log_work(core), "a core sleeps, and its log has something to do");
                }
            }
            if self.heard() != heard_before {
                told_in = round;
            }
            round += 1;
            quiet = if self.is_quiet() && self.heard() == heard_before { quiet + 1 } else { 0 };
            if quiet >= QUIET_ROUNDS && self.is_still() {
                return;
            }
        }
        let cores = self.cores.iter().map(|core| {
            let shard = &core.shard;
            let flights = core.sockets.iter().filter(|socket| socket.flight.is_some()).count();
            let (is_busy, is_waiting) = (shard.is_busy(), shard.is_waiting_for_lanes());
            let log = shard.rooms().journal().map(|log| (log.worst_state(), log.is_committing(), log.reads()));
            format!("busy {is_busy}, waiting {is_waiting}, {} events, {flights} sends, log {log:?}", core.events.len())
        });
        let disk = self.disk.describe();
        panic!("it does not come to rest: {}; {disk}", cores.collect::<Vec<_>>().join("; "));
    }

    /// What happened.
    pub fn into_coverage(self) -> Coverage {
        self.seen
    }
}

/// What a core asks of the disk, where everything is told.
fn tell_ask(core: usize, ask: &Ask) {
    match ask {
        Ask::Read(range) => println!("    core {core} reads {range:?}"),
        Ask::Append { segment, offset, block, wanted, .. } => {
            println!("    core {core} appends {} bytes to {} at {offset}: {wanted:?}", block.len(), segment.id);
        }
        Ask::Seal { end, .. } => println!("    core {core} seals {} at {}", end.segment.id, end.offset),
        Ask::MendIndex { segment } => println!("    core {core} wants the index of {segment} made again"),
        Ask::Release { segment } => println!("    core {core} needs {segment} no more"),
        Ask::Prepare { .. } | Ask::LetGo { .. } | Ask::Prove => {}
    }
}
