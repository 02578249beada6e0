//! One core's state, wired together: the connections it owns, the rooms it owns, and the lanes between cores.
//!
//! ```text
//!  request ─▶ Sessions ─Up──▶ Lanes ──▶ Rooms      (sessions.rs, asks.rs; lanes.rs; rooms.rs)
//!  bytes  ◀── Sessions ◀─Down─ Lanes ◀── Rooms      (fanout.rs)
//! ```
//!
//! Where the room is this core's own, the lane is a queue in here, and the way is the same.

use banter_access::revocation::{Revocation, RevocationsFull, Subject};
use banter_log::journal::{Answer as DiskAnswer, Ask as DiskAsk, Journal, JournalParts};
use banter_log::reading::ReadFault;
use banter_protocol::error_code::ErrorCode;
use banter_protocol::fault::RequestFault;
use banter_protocol::ids::{Epoch, RoomId, RoomName, UserName};
use banter_protocol::request::Request;
use banter_protocol::wire::WireForm;

use crate::access::Access;
use crate::address::{ConnectionId, Core, Now, Placement};
use crate::backend::{Backend, BackendAnswer, BackendAsk, Ticket};
use crate::counters::Counters;
use crate::erasing::Begun;
use crate::fanout::Sending;
use crate::homes::Homes;
use crate::lanes::{Lanes, Outgoing};
use crate::latencies::Latencies;
use crate::limits::Limits;
use crate::logs::{LogConfig, LogId};
use crate::orders::{OrdersFull, Parting};
use crate::pacing::DeliveryDelays;
use crate::parcel::{Down, Up};
use crate::policy::RoomPolicies;
use crate::post_rates::PostRates;
use crate::program::Engine;
use crate::programming::ProgramNote;
use crate::programs::ProgramSet;
use crate::proving::Proved;
use crate::rooms::{Rooms, RoomsParts};
use crate::serving::Serving;
use crate::sessions::{Actions, Sessions, Welcome};
use crate::turn::Turn;

/// How a shard is made.
#[derive(Debug)]
pub struct ShardConfig {
    /// Which core it is.
    pub core: Core,
    /// How many there are, and which of them has which room.
    pub placement: Placement,
    /// The server's limits.
    pub limits: Limits,
    /// What clients are told of the server.
    pub welcome: Welcome,
    /// Whether connections prove who they are.
    pub access: Access,
    /// The first epoch that the shard may give; the epochs of different cores and runs never meet.
    pub first_epoch: Epoch,
    /// All that it gives lie below it, until it is moved.
    pub epochs_end: Epoch,
    /// What holds for a room by its name.
    pub policies: RoomPolicies,
    /// How many posts a second a room takes by its name.
    pub post_rates: PostRates,
    /// Which logs it has.
    pub logs: LogConfig,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection's handshake is done; `preface` is sent ahead of everything.
    Opened {
        /// Its form.
        form: WireForm,
        /// Bytes to send first.
        preface: &'a [u8],
    },
    /// It showed that it is there: bytes came, or it took some that waited for it.
    Heard,
    /// A request came.
    Request(&'a Request<'a>),
    /// A whole text or frame came that is no request.
    BadRequest(RequestFault),
    /// Bytes that the shell answers itself: a pong.
    Raw(&'a [u8]),
    /// The connection is to end.
    Close {
        /// What it is told ahead.
        error: Option<(ErrorCode, &'a str)>,
        /// The WebSocket close code.
        close_code: u16,
        /// The close reason.
        reason: &'a str,
    },
    /// A send is done.
    Sent,
    /// The connection is gone.
    Closed,
}

/// The state of one core.
pub struct Shard {
    sessions: Sessions,
    rooms: Rooms,
    homes: Homes,
    lanes: Lanes,
    backend: Backend,
    counters: Counters,
    latencies: Box<Latencies>,
    now: Now,
}

/// Rounds of parcels of a core to itself in one turn. An ask, its answer and the next page of a catch-up take one each.
const LOCAL_ROUNDS_MAX: usize = 4;
/// Parcels of a core to itself that one round takes.
const LOCAL_PARCELS_MAX: usize = 4_096;

impl Shard {
    /// Nobody there yet.
    pub fn new(config: ShardConfig) -> Self {
        let ShardConfig {
            core,
            placement,
            limits,
            welcome,
            access,
            first_epoch,
            epochs_end,
            policies,
            post_rates,
            logs,
        } = config;
        Shard {
            sessions: Sessions::new(core, placement, limits, welcome, access),
            rooms: Rooms::new(RoomsParts { limits, policies, post_rates, placement, first_epoch, epochs_end, logs }),
            homes: Homes::new(&limits),
            lanes: Lanes::new(core, placement.cores(), limits.lane_parcels_max),
            backend: Backend::new(core),
            counters: Counters::default(),
            latencies: Box::default(),
            now: Now::default(),
        }
    }

    /// A turn begins: the time, and how much room the lanes to another core have (up, down).
    pub fn begin_turn(&mut self, now: Now, lane_room: impl IntoIterator<Item = (Core, usize, usize)>) {
        self.now = now;
        self.rooms.begin_turn(now);
        for (core, up, down) in lane_room {
            self.lanes.set_room(core, up, down);
        }
        for core in self.lanes.cores() {
            self.lanes.send_late(core);
            if self.lanes.send_waiting(core, now.monotonic_us, &mut self.latencies.lane_wait) {
                self.sessions.lane_opened(core);
            }
        }
    }

    /// The machine was suspended for so many milliseconds, which the monotonic time of turns leaves out.
    pub fn was_suspended(&mut self, suspended_ms: u64) {
        self.rooms.was_suspended(suspended_ms);
    }

    /// Goes by other limits from now on, and tells newcomers these. Those that were built into something when the shard was
    /// made, such as deadlines and the log, must be as they were.
    pub fn set_limits(&mut self, limits: Limits, told: String) {
        self.rooms.set_limits(limits);
        self.homes.set_limits(&limits);
        self.sessions.set_limits(limits, told);
    }

    /// A token was judged.
    pub fn proved(&mut self, proved: Proved) {
        let turn = &mut Turn::new(self.now, &mut self.lanes, &mut self.counters, &mut self.latencies);
        self.sessions.proved(proved, turn);
    }

    /// A revocation was told: tokens that it names are refused from here on, also those that are being judged, and
    /// connections that go by them are ended in this turn and the next ones. Says whether it is new. Ranges of addresses are
    /// kept and not looked for here, since a shard knows none.
    ///
    /// # Errors
    /// When there are as many as there may be.
    pub fn revoke(&mut self, revocation: &Revocation) -> Result<bool, RevocationsFull> {
        self.sessions.revoke(revocation, self.now.unix_ms / 1_000)
    }

    /// Takes back every revocation of exactly that subject, and says how many there were. Who was ended by it may come back.
    pub fn lift(&mut self, subject: &Subject) -> usize {
        self.sessions.lift(subject)
    }

    /// Ends every connection of a user on this core, in this turn and the next ones.
    ///
    /// # Errors
    /// When as many orders wait as may: try again.
    pub fn disconnect(&mut self, user: &UserName, parting: Parting) -> Result<(), OrdersFull> {
        self.sessions.disconnect(user, parting)
    }

    /// Ends a user's readings of a room on this core, in this turn and the next ones: each connection is told `removed` with
    /// `kicked`, and may join again if it has the right.
    ///
    /// # Errors
    /// When as many orders wait as may: try again.
    pub fn kick(&mut self, room: &RoomName, user: &UserName) -> Result<(), OrdersFull> {
        self.sessions.kick(RoomId::of(room.as_str()), user)
    }

    /// The configuration gives others rights from here on. What connections read by a right that is gone ends in this turn
    /// and the next ones. `false`: nothing has changed, since whether tokens are asked for is said at the start alone.
    pub fn set_access(&mut self, access: Access) -> bool {
        self.sessions.set_access(access)
    }

    /// Rooms take so many posts a second from here on, also those that are there.
    pub fn set_post_rates(&mut self, post_rates: PostRates) {
        self.rooms.post_rates.set(post_rates);
    }

    /// Deliveries of rooms may wait so long from here on.
    pub fn set_delivery_delays(&mut self, delays: DeliveryDelays) {
        self.sessions.pacing.set_delays(delays);
    }

    /// The share of its time that the core is busy, in thousandths: what lets deliveries wait for company.
    pub fn set_busy(&mut self, permille: u32) {
        self.sessions.pacing.set_busy(permille);
    }

    /// Other programs from here on. The engine before is given back, which takes its time to end: let another thread do that.
    pub fn set_programs(&mut self, set: ProgramSet) -> Option<Box<dyn Engine>> {
        self.rooms.set_programs(set)
    }

    /// What programs say for the server's log, since the last time.
    pub fn take_program_notes(&mut self) -> Vec<ProgramNote> {
        self.rooms.programming.take_notes()
    }

    /// Something happened to a connection.
    pub fn handle(&mut self, connection: ConnectionId, input: Input<'_>) {
        let turn = &mut Turn::new(self.now, &mut self.lanes, &mut self.counters, &mut self.latencies);
        match input {
            Input::Request(request) => self.sessions.request(connection, request, turn),
            Input::Heard => self.sessions.heard(connection, turn),
            Input::Sent => self.sessions.sent(connection),
            Input::BadRequest(fault) => self.sessions.bad_request(connection, fault, turn),
            Input::Raw(bytes) => self.sessions.write_raw(connection, bytes),
            Input::Opened { form, preface } => self.sessions.open(connection, form, preface, turn),
            Input::Close { error, close_code, reason } => {
                self.sessions.close(connection, error, close_code, reason, turn);
            }
            Input::Closed => self.sessions.closed(connection, turn),
        }
    }

    /// Whether the next request of a connection may be handed in. If not, it comes in `resume` when it may.
    pub fn is_read(&self, connection: ConnectionId) -> bool {
        self.sessions.is_read(connection)
    }

    /// Whether the next upward parcel of that core may be taken.
    pub fn may_take_up(&self, from: Core) -> bool {
        self.lanes.may_take_up(from)
    }

    /// Takes an upward parcel of another core.
    pub fn take_up(&mut self, parcel: Up) {
        let turn = &mut Turn::new(self.now, &mut self.lanes, &mut self.counters, &mut self.latencies);
        if let Some(parcel) = self.homes.take_up(parcel, turn) {
            self.rooms.handle(parcel, turn);
        }
    }

    /// Takes a downward parcel of another core.
    pub fn take_down(&mut self, parcel: Down) {
        let turn = &mut Turn::new(self.now, &mut self.lanes, &mut self.counters, &mut self.latencies);
        self.sessions.take_down(parcel, turn);
    }

    /// A program beside the server asks something of a room of this core.
    pub fn backend(&mut self, ticket: Ticket, ask: BackendAsk) {
        self.backend.ask(ticket, ask, &self.rooms, &mut self.lanes, self.now.monotonic_us);
    }

    /// What such programs are answered, since the last time.
    pub fn take_backend_answers(&mut self) -> Vec<(Ticket, BackendAnswer)> {
        self.backend.take_answers()
    }

    /// Takes what the disk of a log did.
    pub fn disk(&mut self, log: LogId, answer: DiskAnswer) {
        if let DiskAnswer::ForgetFrames { room } = answer {
            return self.sessions.forget_frames(room);
        }
        let turn = &mut Turn::new(self.now, &mut self.lanes, &mut self.counters, &mut self.latencies);
        self.rooms.disk(log, answer, turn);
    }

    /// What was made of the erasures that were told since the last time.
    pub fn take_begun(&mut self) -> Vec<Begun> {
        self.rooms.take_begun()
    }

    /// A log of a partition is this core's from here on; its rooms lie where `parts` says. The core's clock is at least where
    /// these start. What the log that was open there before asked is answered no more: an answer to it would be taken for one to
    /// this. `false`: it is open, or none of this core's.
    pub fn open_log(&mut self, log: LogId, parts: JournalParts) -> bool {
        self.rooms.open_log(log, parts)
    }

    /// A log of a partition is this core's no longer: whoever waits for something of its rooms is answered `unavailable`, and its
    /// rooms leave memory, in this turn and the next ones. It is given back, since it takes long to end: let another thread do that.
    pub fn close_log(&mut self, log: LogId) -> Option<Box<Journal>> {
        let turn = &mut Turn::new(self.now, &mut self.lanes, &mut self.counters, &mut self.latencies);
        self.rooms.close_log(log, turn)
    }

    /// What the disks of the logs are to do, of each log in the order in which it asks.
    pub fn disk_asks(&mut self) -> Vec<(LogId, DiskAsk)> {
        self.rooms.disk_asks()
    }

    /// Whether the server is to be asked for more epochs: once each time that half of them are given.
    pub fn asks_for_epochs(&mut self) -> bool {
        self.rooms.asks_for_epochs()
    }

    /// This machine of a cluster serves from here on, as it does from the start, or does not: then everybody is sent to others, in
    /// this turn and the next ones, and whoever comes at once.
    pub fn set_serving(&mut self, serving: Serving) {
        self.sessions.set_serving(serving);
    }

    /// Who comes in is told of these nodes of the cluster, behind `welcome`; of none from the start.
    pub fn set_nodes(&mut self, nodes: &[String]) {
        self.sessions.set_nodes(nodes);
    }

    /// Other epochs from here on, which nobody has given or passed: from `first` on, and below `end`.
    pub fn begin_epochs(&mut self, first: Epoch, end: Epoch) {
        self.rooms.epochs.begin(first, end);
    }

    /// All epochs below that end may be given: the server has kept that.
    pub fn extend_epochs(&mut self, end: Epoch) {
        self.rooms.extend_epochs(end);
    }

    /// Ends the logs of this run. `false`: one failed, or a commit is still in flight.
    pub fn seal_log(&mut self) -> bool {
        self.rooms.seal_log()
    }

    /// Segments that were found not to hold what they should, since the last time.
    pub fn take_read_faults(&mut self) -> Vec<(LogId, ReadFault)> {
        self.rooms.take_read_faults()
    }

    /// Ends the input of a turn: commits, fans out, and lists what is to be sent.
    pub fn finish_turn(&mut self) {
        let turn = &mut Turn::new(self.now, &mut self.lanes, &mut self.counters, &mut self.latencies);
        self.rooms.tend_keys(turn);
        self.rooms.tend_erasing(turn);
        self.rooms.tend_programs(turn);
        // What the disk did came ahead of this: those who read live are served first.
        self.rooms.fan_out(turn);
        self.rooms.tend_closing(turn);
        for _ in 0..LOCAL_ROUNDS_MAX {
            for _ in 0..LOCAL_PARCELS_MAX {
                let Some(parcel) = turn.lanes.take_local_up() else { break };
                if let Some(parcel) = self.homes.take_up(parcel, turn) {
                    self.rooms.handle(parcel, turn);
                }
            }
            self.rooms.commit(turn);
            self.rooms.fan_out(turn);
            self.rooms.serve_pages(turn);
            for _ in 0..LOCAL_PARCELS_MAX {
                let Some(parcel) = turn.lanes.take_local_down() else { break };
                if let Some(parcel) = self.backend.take_down(parcel) {
                    self.sessions.take_down(parcel, turn);
                }
            }
            turn.lanes.send_late_local();
            if !turn.lanes.has_local() {
                break;
            }
        }
        self.homes.tend(turn);
        self.backend.look_for_users(&self.sessions, turn);
        self.backend.look_for_dearest(&self.rooms, turn);
        // A reading that needs no disk lets go of what waited for it: ahead of the commit, which may take it along.
        self.rooms.begin_reads(turn);
        self.rooms.commit(turn);
        self.rooms.tell_presence(turn);
        self.rooms.begin_commit(turn);
        self.sessions.tick(turn);
        self.sessions.walk(turn);
    }

    /// When to come back at the latest. Asked when the turn's actions are done, since they set deadlines too.
    pub fn next_due(&self) -> Option<u64> {
        self.rooms.next_due().into_iter().chain(self.sessions.next_due()).min()
    }

    /// Whether there is more to do right now, without any input.
    pub fn is_busy(&self) -> bool {
        self.lanes.has_local()
            || self.rooms.has_pages_waiting()
            || self.rooms.has_keys_waiting()
            || self.rooms.has_untold()
            || self.rooms.logs().has_work()
            || self.homes.is_busy()
            || self.backend.is_busy()
            || self.sessions.is_busy()
    }

    /// Whether something waits for room in a lane.
    pub fn is_waiting_for_lanes(&self) -> bool {
        self.lanes.has_waiting() || self.rooms.is_waiting()
    }

    /// The next connection that has something to send, and the bytes. The shell asks `sends_per_turn_max` times a turn.
    pub fn next_send(&mut self) -> Option<(ConnectionId, Sending)> {
        let turn = &mut Turn::new(self.now, &mut self.lanes, &mut self.counters, &mut self.latencies);
        loop {
            let connection = self.sessions.next_ready()?;
            if let Some(sending) = self.sessions.next_send(connection, turn) {
                return Some((connection, sending));
            }
        }
    }

    /// What the shell is to do with connections.
    pub fn actions_mut(&mut self) -> &mut Actions {
        self.sessions.actions_mut()
    }

    /// What the shell is to move to other cores.
    pub fn outgoing_mut(&mut self) -> &mut Outgoing {
        self.lanes.outgoing_mut()
    }

    /// The server stops.
    pub fn drain(&mut self) {
        self.rooms.drain(&self.lanes);
        self.sessions.drain();
    }

    /// Whether the server stops, and nobody is left.
    pub fn is_drained(&self) -> bool {
        self.sessions.is_draining() && self.sessions.open_count() == 0
    }

    /// What the core counts.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How long things take on the core.
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// The connections, for checks from outside.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The rooms, for checks from outside.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// What the core knows of its users' connections, for checks from outside.
    pub fn homes(&self) -> &Homes {
        &self.homes
    }

    /// The lanes, for checks from outside.
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }
}
