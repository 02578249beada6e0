//! The shell of the simulated world: follows the server's pump turn by turn, with chance where the pump has a kernel.

use std::collections::{BTreeSet, VecDeque};

use banter_chat::address::{ConnectionId, Core, Now};
use banter_chat::parcel::{Down, Up};
use banter_chat::sessions::Welcome;
use banter_chat::shard::{Input, Shard, ShardConfig};
use banter_protocol::ids::{Epoch, Sequence};
use banter_protocol::request::FetchFrom;
use banter_protocol::wire::WireForm;

use super::Plan;
use super::client::{Client, Reading, Wish};
use super::coverage::Coverage;
use super::profile::Profile;
use super::truth::{Truth, Voice};
use crate::seeded::Seeded;

/// Rounds of turns until everything has to be at rest.
const REST_ROUNDS_MAX: usize = 20_000;
/// Rounds without anything to do that count as rest; with the time of a round, longer than any interval of the server.
const QUIET_ROUNDS: usize = 40;
/// Milliseconds that a round takes.
const ROUND_MS: u64 = 50;
/// Bytes beyond `outbox_bytes_max` that the answer to one request may take.
const ONE_ANSWER_BYTES: u64 = 32 * 1_024;

/// A simulated core: a shard and its sockets.
struct SimCore {
    shard: Shard,
    sockets: Vec<Socket>,
    events: VecDeque<Event>,
    due_ms: Option<u64>,
}

#[derive(Default)]
struct Socket {
    generation: u32,
    client: Option<usize>,
    /// Bytes that are being sent, and the turn in which they have arrived.
    flight: Option<(Vec<u8>, u64)>,
    held: VecDeque<Wish>,
    /// When the client reads again, while it does not.
    stalled_until: Option<u64>,
}

enum Event {
    Opened(u32, WireForm),
    Wish(u32, Wish),
    Heard(u32),
    Sent(u32),
    Closed(u32),
}

struct Lane<T> {
    parcels: VecDeque<(u64, T)>,
}

/// Everything.
pub struct World {
    plan: Plan,
    profile: Profile,
    chance: Seeded,
    turn: u64,
    now_ms: u64,
    cores: Vec<SimCore>,
    up: Vec<Vec<Lane<Up>>>,
    down: Vec<Vec<Lane<Down>>>,
    clients: Vec<Client>,
    truth: Truth,
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
        let profile = Profile::of(&mut chance);
        profile.limits.check().expect("the limits of a profile fit each other");
        if plan.verbose {
            println!("{profile:#?}");
        }
        let shard = |core| {
            Shard::new(ShardConfig {
                core: Core(core),
                cores: plan.cores,
                limits: profile.limits,
                welcome: Welcome { limits: "a 1\n".to_owned(), durability: "memory", run: 1 },
                first_epoch: Epoch(100 + u64::from(core)),
            })
        };
        let cores: Vec<_> = (0..plan.cores)
            .map(|core| SimCore { shard: shard(core), sockets: Vec::new(), events: VecDeque::new(), due_ms: None })
            .collect();
        let users = 1 + profile.clients * 2 / 3;
        let clients = (0..profile.clients).map(|number| Client::new(number, format!("user-{}", number % users)));
        World {
            plan,
            chance,
            turn: 0,
            now_ms: 1_000,
            up: lanes(plan.cores),
            down: lanes(plan.cores),
            cores,
            clients: clients.collect(),
            truth: Truth::default(),
            seen: Coverage::default(),
            is_draining: false,
            is_resting: false,
            ended: Vec::new(),
            profile,
        }
    }

    /// Steps of chance.
    pub fn live(&mut self) {
        for step in 0..self.profile.steps {
            if self.profile.drains_at == Some(step) {
                self.drain();
            }
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
    }

    fn drain(&mut self) {
        self.is_draining = true;
        self.cores.iter_mut().for_each(|core| core.shard.drain());
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
                let wish = self.clients[number].wish(&mut self.chance, &self.profile, &mut self.seen);
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
    }

    /// The client's end of a connection goes, whatever is in flight.
    fn cut(&mut self, number: usize) {
        let Some(connection) = &self.clients[number].connection else { return };
        let (core, slot) = (connection.core.index(), connection.id.slot);
        self.clients[number].vanish();
        self.cores[core].events.push_back(Event::Closed(slot));
    }

    /// One turn of one core, as in the server's pump.
    fn turn(&mut self, own: usize) {
        self.turn += 1;
        let now = Now { monotonic_ms: self.now_ms, unix_ms: 1_700_000_000_000 + self.now_ms };
        let size = self.profile.limits.lane_parcels_max as usize;
        let others: Vec<usize> = (0..self.cores.len()).filter(|&other| other != own).collect();
        let room: Vec<_> = others
            .iter()
            .map(|&other| {
                let (up, down) = (&self.up[own][other].parcels, &self.down[own][other].parcels);
                (Core(other as u16), size - up.len(), size - down.len())
            })
            .collect();
        self.cores[own].shard.begin_turn(now, room);
        self.take_events(own);
        for &other in &others {
            while let Some(parcel) = self.down[other][own].take(self.turn) {
                self.cores[own].shard.take_down(parcel);
            }
            while self.cores[own].shard.may_take_up(Core(other as u16)) {
                let Some(parcel) = self.up[other][own].take(self.turn) else { break };
                self.cores[own].shard.take_up(parcel);
            }
        }
        self.cores[own].due_ms = self.cores[own].shard.finish_turn();
        self.act(own);
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
                Event::Opened(_, form) => core.shard.handle(id, Input::Opened { form, preface: &[] }),
                Event::Heard(_) => core.shard.handle(id, Input::Heard),
                Event::Sent(_) => core.shard.handle(id, Input::Sent),
                Event::Closed(_) => {
                    core.shard.handle(id, Input::Closed);
                    socket.client = None;
                    socket.flight = None;
                }
                Event::Wish(_, wish) => {
                    core.shard.handle(id, Input::Heard);
                    if socket.held.is_empty() && core.shard.is_read(id) {
                        wish.with_request(|request| core.shard.handle(id, Input::Request(request)));
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
                if client.hear(now, &self.profile, &mut self.truth, &mut self.seen, self.plan.verbose) {
                    self.cores[own].events.push_back(Event::Heard(slot as u32));
                }
            }
            if self.chance.once_in(self.profile.stalls_once_in) && !self.is_resting {
                self.cores[own].sockets[slot].stalled_until = Some(self.turn + *self.chance.pick(&[20, 200, 600]));
                self.seen.saw("stalled");
            }
        }
    }

    fn act(&mut self, own: usize) {
        loop {
            let actions = std::mem::take(self.cores[own].shard.actions_mut());
            if actions.is_empty() {
                return;
            }
            for id in actions.ready {
                let core = &mut self.cores[own];
                if let Some(sending) = core.shard.next_send(id) {
                    let delay = self.chance.below(4) as u64;
                    let socket = &mut core.sockets[id.slot as usize];
                    assert!(socket.flight.is_none(), "one send at a time");
                    assert!(!sending.bytes().is_empty(), "a send carries something");
                    socket.flight = Some((sending.bytes().to_vec(), self.turn + delay));
                }
            }
            for id in actions.resume {
                self.resume(own, id);
            }
            for id in actions.finish {
                self.end(own, id, true);
            }
            for id in actions.abort {
                self.end(own, id, false);
            }
        }
    }

    fn resume(&mut self, own: usize, id: ConnectionId) {
        let core = &mut self.cores[own];
        let socket = &mut core.sockets[id.slot as usize];
        while socket.client.is_some() && core.shard.is_read(id) {
            let Some(wish) = socket.held.pop_front() else { break };
            wish.with_request(|request| core.shard.handle(id, Input::Request(request)));
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
        if is_in_order && connection.is_closing && !connection.is_timed_out {
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
        }
        for (to, parcel) in down {
            let due = self.turn + self.chance.below(delay + 1) as u64;
            self.down[own][to.index()].put(parcel, due, size);
        }
    }

    fn check_limits(&mut self, own: usize) {
        let limits = &self.profile.limits;
        let core = &self.cores[own];
        for (slot, socket) in core.sockets.iter().enumerate() {
            let id = ConnectionId { slot: slot as u32, generation: socket.generation };
            let Some(session) = core.shard.sessions().session(id) else { continue };
            let most = u64::from(limits.outbox_bytes_max) + ONE_ANSWER_BYTES;
            assert!(session.waiting_bytes() <= most, "{} bytes wait for a connection", session.waiting_bytes());
            assert!(session.subscriptions.len() <= limits.rooms_per_connection_max as usize);
        }
        let (waiting, local, size) = core.shard.lanes().depth();
        assert!(local <= size, "the lane of a core to itself holds {local}");
        self.seen.saw_times("waited for a lane", u64::from(waiting > 0));
        let (bytes, _) = core.shard.rooms().kept();
        assert!(bytes <= limits.history_bytes_per_core_max, "{bytes} bytes of history");
        for room in core.shard.rooms().iter() {
            assert!(room.history.len() <= limits.history_messages_max as usize);
        }
    }

    /// Whether nothing is under way; the question whether a client is there may be, since it comes forever.
    fn is_quiet(&self) -> bool {
        let lanes_empty = self.up.iter().flatten().all(|lane| lane.parcels.is_empty())
            && self.down.iter().flatten().all(|lane| lane.parcels.is_empty());
        lanes_empty && self.cores.iter().all(|core| !core.shard.is_busy() && !core.shard.is_waiting_for_lanes())
    }

    fn is_still(&self) -> bool {
        let is_still =
            |core: &SimCore| core.events.is_empty() && core.sockets.iter().all(|there| there.flight.is_none());
        self.is_quiet() && self.cores.iter().all(is_still)
    }

    fn heard(&self) -> u64 {
        self.clients.iter().map(|client| client.heard).sum()
    }

    fn rest(&mut self) {
        self.is_resting = true;
        let mut quiet = 0;
        for _ in 0..REST_ROUNDS_MAX {
            self.now_ms += ROUND_MS;
            // Lanes without delay from here on: the turn's number is what they are due by.
            self.turn += self.profile.lane_delay_max as u64;
            let heard_before = self.heard();
            for core in 0..self.cores.len() {
                self.turn(core);
            }
            quiet = if self.is_quiet() && self.heard() == heard_before { quiet + 1 } else { 0 };
            if quiet >= QUIET_ROUNDS && self.is_still() {
                return;
            }
        }
        let cores = self.cores.iter().map(|core| {
            let shard = &core.shard;
            let flights = core.sockets.iter().filter(|socket| socket.flight.is_some()).count();
            let (is_busy, is_waiting) = (shard.is_busy(), shard.is_waiting_for_lanes());
            format!("busy {is_busy}, waiting {is_waiting}, {} events, {flights} sends", core.events.len())
        });
        panic!("it does not come to rest: {}", cores.collect::<Vec<_>>().join("; "));
    }

    /// No more wishes: everything under way arrives, and then everything must be right.
    pub fn come_to_rest(&mut self) {
        self.rest();
        if self.is_draining {
            assert!(
                self.clients.iter().all(|client| client.connection.is_none()),
                "a stopping server ends connections"
            );
            assert!(self.cores.iter().all(|core| core.shard.is_drained()), "a stopping server has an end");
            self.seen.saw("drained");
        }
        self.check_answered();
        self.check_members();
        self.read_everything();
        self.check_answered();
        self.check_read();
        let keys_max = self.profile.limits.dedupe_keys_max as usize;
        self.truth.check(self.profile.history_is_whole.then_some(keys_max));
    }

    fn check_answered(&self) {
        for client in &self.clients {
            if let Some(connection) = &client.connection {
                assert!(
                    connection.asked.is_empty(),
                    "client {} waits for answers: {:?}",
                    client.number,
                    connection.asked
                );
            }
        }
    }

    fn room_on_server(&self, name: &str) -> Option<&banter_chat::room::Room> {
        let mut found = self.cores.iter().flat_map(|core| core.shard.rooms().iter());
        found.find(|room| room.name.as_str() == name)
    }

    /// Who is where: what the server says is what the clients know.
    fn check_members(&self) {
        for number in 0..self.profile.rooms {
            let name = format!("room-{number}");
            let readers = || {
                self.clients.iter().filter_map(|client| {
                    let reading = client.connection.as_ref()?.readings.get(&name)?;
                    Some((client, reading))
                })
            };
            let users: BTreeSet<&str> = readers().map(|(client, _)| client.user.as_str()).collect();
            let listed = self.room_on_server(&name).map(|room| room.members_listed()).unwrap_or_default();
            assert_eq!(listed.lines().collect::<BTreeSet<_>>(), users, "members of {name}");
            for (client, reading) in readers().filter(|(_, reading)| reading.presence) {
                let number = client.number;
                assert_eq!(reading.members, users.len() as u64, "{name}: members as client {number} was told last");
            }
        }
    }

    /// Fetches every history that somebody is connected to ask for.
    fn read_everything(&mut self) {
        for number in 0..self.profile.rooms {
            let room = format!("room-{number}");
            let Some(asker) = self
                .clients
                .iter()
                .position(|client| client.connection.as_ref().is_some_and(|connection| connection.greeted))
            else {
                return;
            };
            let Some((epoch, first, head)) = self
                .room_on_server(&room)
                .map(|room| (room.epoch.0, room.history.first_available().0, room.history.head().0))
            else {
                continue;
            };
            let mut after = first - 1;
            while after < head {
                let wish = self.clients[asker].fetch(room.clone(), FetchFrom::After(Sequence(after)), None);
                let Some(connection) = &self.clients[asker].connection else { return };
                let (core, slot) = (connection.core.index(), connection.id.slot);
                self.cores[core].events.push_back(Event::Wish(slot, wish));
                self.rest();
                let seen = self.truth.messages.get(&(room.clone(), epoch));
                after += 1;
                assert!(seen.is_some_and(|seen| seen.contains_key(&after)), "{room} {after} is in the history");
                while seen.is_some_and(|seen| seen.contains_key(&(after + 1))) {
                    after += 1;
                }
            }
            let acknowledged =
                self.truth.acknowledged.range((room.clone(), epoch, 0)..=(room.clone(), epoch, u64::MAX));
            for ((_, _, place), _) in acknowledged {
                assert!(*place <= head, "{room} {place} was acknowledged and is not in the history");
            }
        }
    }

    /// Every reader has everything up to the head.
    fn check_read(&mut self) {
        let mut readings = std::mem::take(&mut self.ended);
        for client in &self.clients {
            let Some(connection) = &client.connection else { continue };
            let voice = (client.number, client.connections);
            readings.extend(connection.readings.iter().map(|(room, reading)| (voice, room.clone(), reading.clone())));
        }
        for (voice, name, reading) in readings {
            let Some(room) = self.room_on_server(&name).filter(|room| room.epoch.0 == reading.epoch) else { continue };
            let head = room.history.head().0;
            let position = reading.position.unwrap_or_else(|(_, high)| high);
            if reading.echo {
                assert_eq!(position, head, "{name}: how far client {} has read", voice.0);
            } else {
                assert!(position <= head);
                self.truth.spared(&name, reading.epoch, position + 1..head + 1, voice);
            }
        }
    }

    /// All connections go, and nothing may stay of them.
    pub fn everybody_leaves(&mut self) {
        for number in 0..self.clients.len() {
            self.cut(number);
        }
        self.rest();
        for core in &self.cores {
            let counters = core.shard.counters();
            assert_eq!((counters.connections, counters.subscriptions, counters.subscriptions_behind), (0, 0, 0));
            assert_eq!((counters.run_bytes, core.shard.sessions().open_count()), (0, 0));
            assert!(core.shard.rooms().iter().all(|room| room.is_idle() && room.members_count() == 0));
            self.seen.saw_times("fell behind", counters.fell_behind);
            self.seen.saw_times("batch lagged", counters.batches_lagged);
            self.seen.saw_times("connection paused", counters.pauses);
            self.seen.saw_times("signal dropped", counters.signals_dropped);
        }
        let rooms: BTreeSet<&String> = self.truth.messages.keys().map(|(room, _)| room).collect();
        self.seen.saw_times("room forgotten", (self.truth.messages.len() - rooms.len()) as u64);
    }

    /// What happened.
    pub fn into_coverage(self) -> Coverage {
        self.seen
    }
}

fn lanes<T>(cores: u16) -> Vec<Vec<Lane<T>>> {
    (0..cores).map(|_| (0..cores).map(|_| Lane { parcels: VecDeque::new() }).collect()).collect()
}

impl<T> Lane<T> {
    /// A lane keeps its order: nothing arrives before what was put in earlier.
    fn put(&mut self, parcel: T, due: u64, size: usize) {
        assert!(self.parcels.len() < size, "a parcel was sent into a full lane");
        let due = due.max(self.parcels.back().map_or(0, |(due, _)| *due));
        self.parcels.push_back((due, parcel));
    }

    fn take(&mut self, turn: u64) -> Option<T> {
        match self.parcels.front() {
            Some((due, _)) if *due <= turn => self.parcels.pop_front().map(|(_, parcel)| parcel),
            _ => None,
        }
    }
}
