//! One core at work: turns of completions, requests, parcels and sends, and sleep in between.
//!
//! A turn: reap completions → read frames → shard → drain lanes → commit and fan out → one send a connection that has
//! something → one submit. Sends that went out whole are no reason for another turn. A core with nothing to do looks for
//! something for a moment ([`Idling`]), and then sleeps in the kernel; the other cores wake it through its [`Bell`]. While
//! the log is read, on glommio's ring, it sleeps there.

mod mail;
mod resting;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banter_chat::address::{Core, Now};
use banter_chat::histogram::Histogram;
use banter_chat::limits::Limits;
use banter_chat::logs::LogId;
use banter_chat::proving::{NotProved, Proved, Proving};
use banter_chat::shard::Shard;
use banter_log::reading::ReadFault;
use glommio::io::PollableFd;

use crate::cluster::Hands;
use crate::control::auth::AuthDesk;
use crate::control::{ToControl, ToCore};
use crate::core::connections::Connections;
use crate::core::desk::Desk;
use crate::core::idling::Idling;
use crate::core::mesh::{Bell, Neighbour};
use crate::core::net::pace::{ACCEPTS_AT_REST, AcceptPace};
use crate::core::net::{Net, NetEvent};
use crate::core::suspended::Suspended;
use crate::core::turn_clock::TurnClock;
use crate::programs::ProgramLines;
use crate::storage::disk::Disk;
use crate::wall_clock;
use mail::LogFollower;
use resting::{Executor, Wake};

/// Parcels that one turn takes from one lane, so that no neighbour keeps a core from its sockets.
const PARCELS_A_TURN: usize = 1_024;
/// Milliseconds until the next try, when no connection could be accepted: for want of descriptors, say.
const ACCEPT_RETRY_MS: u64 = 100;
/// Milliseconds until a look at lanes that were full. Their consumer does not say when it has made room.
const LANE_RETRY_MS: u64 = 1;

/// Times that a turn behind a stall of the server looks into the sockets, before it judges who was silent. Each time the
/// kernel hands over 640 events; a peer that never stops sending must not hold the turn.
const STALL_READS_MAX: usize = 64;

/// Time that a commit in flight has to end when the core is told to stop; a disk that hangs must not hold the process.
const LOG_END_MAX: Duration = Duration::from_secs(2);

/// Everything that one core owns.
pub struct Pump {
    core: Core,
    shard: Shard,
    connections: Connections,
    net: Net,
    disk: Option<Disk>,
    hands: Option<Hands>,
    auth: Option<AuthDesk>,
    desk: Desk,
    log_follower: Option<LogFollower>,
    program_lines: ProgramLines,
    neighbours: Vec<Neighbour>,
    bell: Arc<Bell>,
    inbox: flume::Receiver<ToCore>,
    control: flume::Sender<ToControl>,
    started: Instant,
    clock: TurnClock,
    suspended: Suspended,
    now: Now,
    turns: Histogram,
    idling: Idling,
    /// The host's clock at the turn's beginning.
    elapsed: Duration,
    accept_pace: AcceptPace,
    /// No accept is begun before that.
    accept_at_ms: Option<u64>,
    /// No connection could be accepted since the last that was: said once.
    is_accept_failing: bool,
    lane_parcels_max: usize,
    sends_per_turn_max: u32,
    events: Vec<NetEvent>,
    is_draining: bool,
    is_drained: bool,
    is_stopped: bool,
}

/// What a pump is made of.
pub struct PumpParts {
    /// Which core.
    pub core: Core,
    /// Its machines.
    pub shard: Shard,
    /// Its connections.
    pub connections: Connections,
    /// Its sockets.
    pub net: Net,
    /// Its hands on the log, where there is one.
    pub disk: Option<Disk>,
    /// Its hands on the logs of its partitions, in a cluster.
    pub hands: Option<Hands>,
    /// Who judges its connections' tokens, where they are asked for.
    pub auth: Option<AuthDesk>,
    /// Its lanes.
    pub neighbours: Vec<Neighbour>,
    /// What wakes it.
    pub bell: Arc<Bell>,
    /// From the control thread.
    pub inbox: flume::Receiver<ToCore>,
    /// To the control thread.
    pub control: flume::Sender<ToControl>,
    /// The server's limits.
    pub limits: Limits,
    /// The moment that the turns' clock starts from, the same for every core.
    pub started: Instant,
}

impl Pump {
    /// At rest.
    pub fn new(parts: PumpParts) -> Self {
        let PumpParts {
            core,
            shard,
            connections,
            net,
            disk,
            hands,
            auth,
            neighbours,
            bell,
            inbox,
            control,
            limits,
            started,
        } = parts;
        Pump {
            core,
            shard,
            connections,
            net,
            disk,
            hands,
            auth,
            desk: Desk::default(),
            log_follower: None,
            program_lines: ProgramLines::default(),
            neighbours,
            bell,
            inbox,
            control,
            started,
            clock: TurnClock::default(),
            suspended: Suspended::new(),
            now: Now::default(),
            elapsed: Duration::ZERO,
            turns: Histogram::default(),
            idling: Idling::new(limits.idle_spin_us_max),
            accept_pace: AcceptPace::default(),
            accept_at_ms: None,
            is_accept_failing: false,
            lane_parcels_max: limits.lane_parcels_max as usize,
            sends_per_turn_max: limits.sends_per_turn_max,
            events: Vec::new(),
            is_draining: false,
            is_drained: false,
            is_stopped: false,
        }
    }

    /// Turns until the control thread says stop.
    ///
    /// # Errors
    /// When the ring fails: nothing can be done on this core any more.
    pub async fn run(&mut self) -> io::Result<()> {
        let wake = PollableFd::new(Wake(self.bell.for_executor().as_raw_fd())).map_err(io::Error::other)?;
        let executor = Executor::new()?;
        while !self.is_stopped {
            self.turn();
            self.net.submit()?;
            self.measure_turn();
            self.take_sent();
            let needs_executor = self.disk.as_ref().is_some_and(Disk::needs_executor);
            // A core that was told to stop has nothing that would wake it.
            if self.is_stopped || self.has_input() {
                self.yield_to_append();
                if needs_executor {
                    executor.let_in().await?;
                }
            } else {
                self.rest(needs_executor.then_some(&wake)).await?;
            }
        }
        self.connections.close_all(&mut self.shard, &mut self.net);
        self.net.submit()?;
        self.end_log(&executor).await
    }

    /// Waits for the commit in flight, and seals the log, so that the next start has nothing to read through.
    async fn end_log(&mut self, executor: &Executor) -> io::Result<()> {
        let deadline = Instant::now() + LOG_END_MAX;
        while self
            .disk
            .as_ref()
            .is_some_and(|disk| disk.needs_executor() || disk.has_answers() || self.net.is_appending())
            && Instant::now() < deadline
        {
            executor.let_in().await?;
            self.take_events();
            self.take_disk();
            self.net.submit()?;
            self.yield_to_append();
        }
        let is_log_sealed = self.shard.seal_log();
        self.ask_disk();
        let _ = self.control.send(ToControl::Ended { core: self.core, is_log_sealed });
        Ok(())
    }

    fn elapsed_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn measure_turn(&mut self) {
        self.turns.record_us(self.elapsed_us() - self.now.monotonic_us);
    }

    /// Takes what the submit has brought, where it is nothing but sends that went out whole.
    fn take_sent(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.net.reap_sent(&mut events);
        for event in events.drain(..) {
            self.take_event(event);
        }
        self.events = events;
    }

    fn turn(&mut self) {
        self.connections.counters.turns += 1;
        let (elapsed, now_ms) = (self.elapsed, self.now.monotonic_ms);
        self.elapsed = self.started.elapsed();
        let tick = self.clock.tick(self.elapsed.as_millis() as u64);
        // The log's clock does see that the server stood still.
        let passed_ms = self.elapsed.as_millis().saturating_sub(elapsed.as_millis()) as u64;
        let stalled_ms = passed_ms.saturating_sub(tick.now_ms.saturating_sub(now_ms));
        if stalled_ms > 0 {
            self.shard.was_suspended(stalled_ms);
        }
        self.now = Now {
            monotonic_ms: tick.now_ms,
            monotonic_us: self.elapsed.as_micros() as u64,
            unix_ms: wall_clock::unix_ms(),
        };
        let lane_parcels_max = self.lane_parcels_max;
        let room = |taken: usize| lane_parcels_max.saturating_sub(taken);
        let lane_room = self
            .neighbours
            .iter()
            .map(|neighbour| (neighbour.core, room(neighbour.up_out.len()), room(neighbour.down_out.len())));
        if let Some(suspended_ms) = self.suspended.take() {
            self.shard.was_suspended(suspended_ms);
        }
        self.shard.set_busy(self.idling.busy_permille(self.now.monotonic_us));
        self.shard.begin_turn(self.now, lane_room);
        self.connections.begin_turn(self.now);
        self.take_events();
        if tick.was_stalled {
            self.take_what_came_in_a_stall();
        }
        self.connections.read_backlog(&mut self.shard, &mut self.net);
        self.take_mail();
        self.take_disk();
        self.take_parcels();
        self.desk.ask(&mut self.shard);
        // Ahead of the shard's turn, since it may have the shard end a connection.
        self.connections.tick(self.now.monotonic_ms, &mut self.shard, &mut self.net);
        self.shard.finish_turn();
        for note in self.shard.take_program_notes() {
            self.program_lines.say(&note, Instant::now());
        }
        self.desk.answer(&mut self.shard, &self.connections);
        self.tell_log_follower();
        if self.shard.asks_for_epochs() {
            let _ = self.control.send(ToControl::WantsEpochs(self.core));
        }
        // Ahead of the sends: a ping that is on its way is not what the peer has failed to take.
        self.connections.look_at_doubtful(&mut self.shard, &mut self.net);
        self.ask_disk();
        // Ahead of this core's own sends, so that the other cores send to their readers at the same time.
        self.send_parcels();
        self.act();
        self.send_parcels();
        self.check_drained();
    }

    /// The server stood still: who was silent is judged behind what came meanwhile, and the kernel hands it over by parts.
    fn take_what_came_in_a_stall(&mut self) {
        for _ in 0..STALL_READS_MAX {
            // An error shows again at the turn's own submit.
            if self.net.submit().is_err() || !self.net.is_busy() {
                return;
            }
            self.take_events();
        }
    }

    fn take_events(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.net.reap(&mut events);
        for event in events.drain(..) {
            self.take_event(event);
        }
        self.events = events;
        self.accept();
        self.net.receive_again();
    }

    /// Takes connections, at their pace.
    fn accept(&mut self) {
        let now_ms = self.now.monotonic_ms;
        if self.accept_at_ms.is_some_and(|at_ms| at_ms > now_ms) {
            return;
        }
        self.accept_at_ms = None;
        let more = self.accept_pace.more(self.net.accepts(), self.elapsed.as_micros() as u64);
        self.net.accept(if self.is_accept_failing { more.min(ACCEPTS_AT_REST) } else { more });
        if self.net.accepts() == 0 {
            self.accept_at_ms = Some(now_ms + 1);
        }
    }

    fn take_event(&mut self, event: NetEvent) {
        let (connections, shard, net) = (&mut self.connections, &mut self.shard, &mut self.net);
        match event {
            NetEvent::Received(slot, received) => {
                net.with_bytes(received, |bytes, net| connections.received(slot, bytes, shard, net));
            }
            NetEvent::Waits(slot) => connections.send_waits(slot),
            NetEvent::GoesOn(slot) => connections.send_goes_on(slot, shard),
            NetEvent::Looked(slot, untaken_bytes) => connections.looked(slot, untaken_bytes, shard),
            NetEvent::Sent(slot) => connections.sent(slot, self.now.monotonic_ms, shard, net),
            NetEvent::Accepted(slot, address) => {
                self.is_accept_failing = false;
                connections.accepted(slot, address, self.now.monotonic_ms, net);
            }
            NetEvent::Ended(slot) => connections.ended(slot, shard, net),
            NetEvent::Broken(slot) => connections.broken(slot, shard, net),
            NetEvent::Closed(slot) => connections.closed(slot),
            NetEvent::Appended(appended) => {
                if let Some(disk) = &self.disk {
                    shard.disk(LogId::LOCAL, disk.appended(appended));
                }
            }
            NetEvent::AcceptFailed(error) => {
                connections.counters.accept_failures += 1;
                if self.accept_at_ms.is_none() {
                    if !std::mem::replace(&mut self.is_accept_failing, true) {
                        tracing::warn!(%error, "no connection can be accepted: trying again every {ACCEPT_RETRY_MS} ms");
                    }
                    self.accept_at_ms = Some(self.now.monotonic_ms + ACCEPT_RETRY_MS);
                }
            }
        }
    }

    fn take_disk(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        for answer in disk.take_answers() {
            self.shard.disk(LogId::LOCAL, answer);
        }
    }

    fn ask_disk(&mut self) {
        if let Some(hands) = &self.hands {
            for (log, ask) in self.shard.disk_asks() {
                hands.take(log, ask);
            }
            return self.tell_read_faults();
        }
        let Some(disk) = &mut self.disk else { return };
        for (_, ask) in self.shard.disk_asks() {
            disk.take(ask, &mut self.net);
        }
        self.shard.take_begun().into_iter().for_each(|begun| disk.begun(begun));
        self.tell_read_faults();
    }

    fn tell_read_faults(&mut self) {
        for (_, fault) in self.shard.take_read_faults() {
            match fault {
                ReadFault::Damaged { segment, .. } => tracing::error!(
                    segment,
                    "a segment of the log is damaged: readers of one of its rooms are told of a gap; see to the disk \
                     (`dmesg`), and restore the file from a copy"
                ),
                ReadFault::Unreadable { segment } => tracing::warn!(
                    segment,
                    "a segment of the log, or its index, could not be read: who asked is told to come again, and nothing \
                     is lost"
                ),
                ReadFault::StateDamaged { segment } => tracing::error!(
                    segment,
                    "a segment of the log is damaged where the state of a room lies, and nobody knows that state; see to \
                     the disk (`dmesg`), and restore the file from a copy"
                ),
            }
        }
    }

    fn take_parcels(&mut self) {
        for neighbour in &mut self.neighbours {
            for _ in 0..PARCELS_A_TURN {
                let Some(parcel) = neighbour.down_in.pop() else { break };
                self.shard.take_down(parcel);
            }
            for _ in 0..PARCELS_A_TURN {
                if !self.shard.may_take_up(neighbour.core) {
                    break;
                }
                let Some(parcel) = neighbour.up_in.pop() else { break };
                self.shard.take_up(parcel);
            }
        }
    }

    /// Does what the shard decided for connections, and what follows from that; as many sends as a turn may begin.
    fn act(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let mut sends_left = self.sends_per_turn_max;
        loop {
            while sends_left > 0
                && let Some((id, sending)) = self.shard.next_send()
            {
                sends_left -= 1;
                self.connections.send(id.slot, sending, &mut self.net);
            }
            let actions = std::mem::take(self.shard.actions_mut());
            for closing in &actions.closing {
                self.connections.closing(closing, &self.shard);
            }
            if actions.is_empty() {
                return;
            }
            for proving in actions.prove {
                self.prove(proving);
            }
            for id in actions.resume {
                self.connections.resume(id, &mut self.shard, &mut self.net);
            }
            for id in actions.finish {
                self.connections.finish_open(id, now_ms, &mut self.shard, &mut self.net);
            }
            for id in actions.abort {
                self.connections.abort(id, &mut self.shard, &mut self.net);
            }
        }
    }

    /// Hands a token to who judges it.
    fn prove(&mut self, proving: Proving) {
        let judged = match &self.auth {
            Some(auth) => auth.judge(proving),
            None => Err(proving),
        };
        if let Err(proving) = judged {
            self.shard.proved(Proved { proving, verdict: Err(NotProved::Unavailable) });
        }
    }

    fn send_parcels(&mut self) {
        let outgoing = self.shard.outgoing_mut();
        let mut rung = 0u64;
        let (up, down) = (std::mem::take(&mut outgoing.up), std::mem::take(&mut outgoing.down));
        for (core, parcel) in up {
            let index = neighbour_index(self.core, core);
            self.neighbours[index].up_out.push(parcel);
            rung |= 1 << (index % 64);
        }
        for (core, parcel) in down {
            let index = neighbour_index(self.core, core);
            self.neighbours[index].down_out.push(parcel);
            rung |= 1 << (index % 64);
        }
        if rung != 0 {
            for (index, neighbour) in self.neighbours.iter().enumerate() {
                if rung & (1 << (index % 64)) != 0 {
                    neighbour.bell.ring();
                }
            }
        }
    }

    fn check_drained(&mut self) {
        if self.is_draining && !self.is_drained && self.shard.is_drained() && self.connections.is_quiet() {
            self.is_drained = true;
            let _ = self.control.send(ToControl::Drained(self.core));
        }
    }
}

/// A core's place among the neighbours of another, which lack that other itself.
fn neighbour_index(own: Core, other: Core) -> usize {
    other.index() - usize::from(other > own)
}
