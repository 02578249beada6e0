//! What a program beside the server asks of rooms, without a connection: the desk where its asks go in and answers come out.
//!
//! ```text
//!  ask ─▶ Backend ─Up (own lane)─▶ Rooms ─Down (own lane)─▶ Backend ─▶ answer
//! ```
//!
//! Posts and pages take the way of a client's, from the own lane on, so that they wait for the log as a client's do. What only
//! looks at the rooms in memory is answered at once, and the connections of a user and the rooms with the dearest programs are looked for
//! over several turns (`people.rs`, `programming/dearest.rs`).
//!
//! Invariants:
//! - Every ask is answered once, but when the server ends; who asks bounds how many there are.
//! - An ask comes to the core that owns its room.
//! - No ask costs more of a turn than [`LISTED_MAX`] names, or a look at `LOOKED_AT_MAX` places of a table.

use banter_access::rights::Rights;
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::ids::{Epoch, PostKey, RoomId, RoomName, Sequence, UserName};
use banter_protocol::request::FetchFrom;

use crate::address::{ConnectionId, Core, Peer};
use crate::lanes::Lanes;
use crate::parcel::{Answer, Down, FetchAsk, OwnedBody, Refusal, SayAsk, Up};
use crate::people::{Lookups, UserState};
use crate::policy::Durability;
use crate::programming::dearest::{DearRoom, Dearest};
use crate::room::Room;
use crate::rooms::Rooms;
use crate::sessions::Sessions;
use crate::turn::Turn;

/// Names that one answer lists at most.
pub const LISTED_MAX: usize = 1_000;
/// Places of the table of rooms that one ask looks at.
const LOOKED_AT_MAX: usize = 4_096;
/// When to ask again for what is looked for over several turns, where as many asks wait as may, in milliseconds.
const LOOKUP_RETRY_AFTER_MS: u64 = 1_000;

/// Where a connection would stand: no connection has that place, since sockets are far fewer.
pub const BACKEND: ConnectionId = ConnectionId { slot: u32::MAX, generation: 0 };

/// An ask, by the number that its answer brings back.
pub type Ticket = u64;

/// What is asked.
#[derive(Debug)]
pub enum BackendAsk {
    /// Say something in a room, which is made if it is not there.
    Post {
        /// The room.
        room: RoomName,
        /// Who says it.
        user: UserName,
        /// Makes it safe to repeat.
        key: Option<PostKey>,
        /// What is said.
        body: OwnedBody,
    },
    /// Tell the members something that nobody keeps.
    Signal {
        /// The room.
        room: RoomName,
        /// Who tells it.
        user: UserName,
        /// What is told.
        body: OwnedBody,
    },
    /// A part of the history.
    Fetch {
        /// The room.
        room: RoomName,
        /// Which way, and from where.
        from: FetchFrom,
        /// Messages at most; never more than `fetch_messages_max`.
        messages_max: u32,
    },
    /// Who is there, by name.
    Members {
        /// The room.
        room: RoomName,
        /// Those behind that one.
        after: Option<UserName>,
        /// How many; at most [`LISTED_MAX`].
        users_max: usize,
    },
    /// One room.
    Room(RoomName),
    /// Rooms of this core that are in memory, in no order that means anything.
    Rooms {
        /// Whose names begin so.
        prefix: String,
        /// Behind that place of the core's table; 0: from the start.
        from: u64,
        /// How many; at most [`LISTED_MAX`].
        rooms_max: usize,
    },
    /// Connections of a user on this core.
    User(UserName),
    /// Rooms of this core whose programs took the most lately.
    DearestRooms,
}

impl BackendAsk {
    /// What it costs a turn, in asks that look at one thing: a list looks at thousands of places or names.
    pub fn cost(&self) -> usize {
        match self {
            BackendAsk::Rooms { .. } => 64,
            BackendAsk::Members { .. } => 16,
            _ => 1,
        }
    }

    /// The room that it is about, whose core it goes to.
    pub fn room(&self) -> Option<&RoomName> {
        match self {
            BackendAsk::Post { room, .. }
            | BackendAsk::Signal { room, .. }
            | BackendAsk::Fetch { room, .. }
            | BackendAsk::Members { room, .. }
            | BackendAsk::Room(room) => Some(room),
            BackendAsk::Rooms { .. } | BackendAsk::User(_) | BackendAsk::DearestRooms => None,
        }
    }
}

/// What is answered.
#[derive(Debug)]
pub enum BackendAnswer {
    /// What a client would be answered.
    Answer(Answer),
    /// A signal was handed on.
    Told,
    /// Members by name, and how many there are in all.
    Members {
        /// All of them.
        count: u64,
        /// Those that were asked for.
        users: Vec<UserName>,
        /// There are more behind them.
        more: bool,
    },
    /// A room; none: the server has never heard of it, or it is neither in memory nor in the log.
    Room(Option<RoomState>),
    /// Rooms, and the place to go on from; none: these were the last.
    Rooms {
        /// The rooms.
        rooms: Vec<RoomState>,
        /// Where the next ask starts.
        next: Option<u64>,
    },
    /// The connections of a user on this core.
    User(UserState),
    /// Rooms whose programs took the most, the dearest first.
    DearestRooms(Vec<DearRoom>),
}

/// A room as its core has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomState {
    /// Its name.
    pub room: RoomName,
    /// Its history.
    pub epoch: Epoch,
    /// Its newest message that may be shown; 0: none.
    pub head: Sequence,
    /// Its oldest message that memory or log holds; one behind the head: none.
    pub first: Sequence,
    /// Bytes of its messages that memory holds.
    pub memory_bytes: u64,
    /// Connections that read it.
    pub readers: u64,
    /// Users that read it.
    pub members: u64,
    /// When its messages are acknowledged and shown.
    pub durability: Durability,
    /// The core that owns it.
    pub core: Core,
}

/// The desk of one core.
#[derive(Debug)]
pub struct Backend {
    own: Core,
    answers: Vec<(Ticket, BackendAnswer)>,
    lookups: Lookups,
    dearest: Dearest,
}

impl Backend {
    /// Of that core, with nothing asked.
    pub fn new(own: Core) -> Self {
        Backend { own, answers: Vec::new(), lookups: Lookups::default(), dearest: Dearest::default() }
    }

    /// Takes an ask: hands it to the rooms, or answers it from what they have.
    pub fn ask(&mut self, ticket: Ticket, ask: BackendAsk, rooms: &Rooms, lanes: &mut Lanes, now_us: u64) {
        let author = Peer { core: self.own, connection: BACKEND };
        let request = Some(ticket);
        if let Some(Err(refusal)) = ask.room().map(|room| rooms.must_be_open(RoomId::of(room.as_str()))) {
            return self.answers.push((ticket, BackendAnswer::Answer(Answer::Refused(refusal))));
        }
        let answer = match ask {
            BackendAsk::Post { room, user, key, body } => {
                let ask = SayAsk { room, author, user, request, key, body, hop: 0 };
                lanes.send_up(self.own, Up::Say(Box::new(ask)), now_us);
                return;
            }
            BackendAsk::Fetch { room, from, messages_max } => {
                let messages_max = messages_max.min(rooms.limits.fetch_messages_max);
                let ask = FetchAsk {
                    room,
                    asker: author,
                    rights: Rights::ALL,
                    request,
                    from,
                    messages_max,
                    user: None,
                    least: Sequence(0),
                    is_judged: false,
                };
                lanes.send_up(self.own, Up::Fetch(ask), now_us);
                return;
            }
            BackendAsk::Signal { room, user, body } => {
                let room = RoomId::of(room.as_str());
                lanes.send_up(self.own, Up::Signal { room, author, user, rights: Rights::ALL, body }, now_us);
                BackendAnswer::Told
            }
            BackendAsk::Members { room, after, users_max } => rooms.members_after(&room, after.as_ref(), users_max),
            BackendAsk::Room(room) => BackendAnswer::Room(rooms.state_of(&room, self.own)),
            BackendAsk::Rooms { prefix, from, rooms_max } => rooms.list(&prefix, from, rooms_max, self.own),
            BackendAsk::User(user) if self.lookups.ask(ticket, &user) => return,
            BackendAsk::User(_) => too_many("as many asks about users as may be wait on a core: try again"),
            BackendAsk::DearestRooms if self.dearest.ask(ticket) => return,
            BackendAsk::DearestRooms => too_many("as many asks about dear rooms as may be wait on a core: try again"),
        };
        self.answers.push((ticket, answer));
    }

    /// Goes on looking for the connections of users who were asked about.
    pub(crate) fn look_for_users(&mut self, sessions: &Sessions, turn: &mut Turn<'_>) {
        let found = self.lookups.walk(sessions, turn);
        self.answers.extend(found.into_iter().map(|(ticket, state)| (ticket, BackendAnswer::User(state))));
    }

    /// Goes on looking for the rooms with the dearest programs, where somebody asked for them.
    pub(crate) fn look_for_dearest(&mut self, rooms: &Rooms, turn: &mut Turn<'_>) {
        let found = self.dearest.walk(rooms, turn);
        self.answers.extend(found.into_iter().map(|(ticket, rooms)| (ticket, BackendAnswer::DearestRooms(rooms))));
    }

    /// Whether there is more to do in the next turn.
    pub(crate) fn is_busy(&self) -> bool {
        self.lookups.is_busy() || self.dearest.is_busy()
    }

    /// Takes what came down for the desk; gives back what is a connection's.
    pub fn take_down(&mut self, parcel: Down) -> Option<Down> {
        match parcel {
            Down::Answer { to: BACKEND, request, answer } => {
                self.answers.extend(request.map(|ticket| (ticket, BackendAnswer::Answer(answer))));
                None
            }
            parcel => Some(parcel),
        }
    }

    /// The answers since the last time.
    pub fn take_answers(&mut self) -> Vec<(Ticket, BackendAnswer)> {
        std::mem::take(&mut self.answers)
    }

    /// Whether there are answers to take.
    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }
}

impl Rooms {
    fn members_after(&self, room: &RoomName, after: Option<&UserName>, users_max: usize) -> BackendAnswer {
        let Some(room) = self.in_memory(room) else {
            return BackendAnswer::Members { count: 0, users: Vec::new(), more: false };
        };
        let users_max = users_max.min(LISTED_MAX);
        let mut users: Vec<UserName> = room.members_after(after).take(users_max + 1).cloned().collect();
        let more = users.len() > users_max;
        users.truncate(users_max);
        BackendAnswer::Members { count: room.members_count(), users, more }
    }

    fn state_of(&self, name: &RoomName, core: Core) -> Option<RoomState> {
        if let Some(room) = self.in_memory(name) {
            return Some(self.state(room, core));
        }
        let id = RoomId::of(name.as_str());
        let policy = self.policies.of(name.as_str());
        let level = policy.durability.level()?;
        let catalog = self.logs.of(id)?.catalog();
        let kept = catalog.room(id)?;
        Some(RoomState {
            room: name.clone(),
            epoch: catalog.epoch_of(id, level, policy.class),
            head: kept.head,
            first: kept.first,
            memory_bytes: 0,
            readers: 0,
            members: 0,
            durability: policy.durability,
            core,
        })
    }

    fn list(&self, prefix: &str, from: u64, rooms_max: usize, core: Core) -> BackendAnswer {
        let rooms_max = rooms_max.clamp(1, LISTED_MAX);
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let end = from.saturating_add(LOOKED_AT_MAX).min(self.slots.capacity());
        let (mut rooms, mut next) = (Vec::new(), None);
        for slot in from..end {
            if rooms.len() == rooms_max {
                next = Some(slot);
                break;
            }
            let room = self.slots.get(slot).filter(|room| room.name.as_str().starts_with(prefix));
            let room = room.filter(|room| !self.logs.is_closed_to(room.id));
            rooms.extend(room.map(|room| self.state(room, core)));
        }
        let next = next.or((end < self.slots.capacity()).then_some(end));
        BackendAnswer::Rooms { rooms, next: next.map(|slot| slot as u64) }
    }

    fn in_memory(&self, name: &RoomName) -> Option<&Room> {
        self.by_id.get(&RoomId::of(name.as_str())).map(|&slot| &self.slots[slot])
    }

    fn state(&self, room: &Room, core: Core) -> RoomState {
        RoomState {
            room: room.name.clone(),
            epoch: room.epoch,
            head: room.shown(),
            first: self.history_start(room),
            memory_bytes: room.history.bytes(),
            readers: room.readers_count(),
            members: room.members_count(),
            durability: room.policy.durability,
            core,
        }
    }
}

/// What is answered where as many asks of a kind wait as may.
fn too_many(message: &'static str) -> BackendAnswer {
    BackendAnswer::Answer(Answer::Refused(Refusal {
        code: ErrorCode::Overloaded,
        message: message.into(),
        retry_after_ms: Some(LOOKUP_RETRY_AFTER_MS),
        scope: Some(Scope::Server),
        reason: None,
    }))
}

/// What a post is answered whose room can be neither found nor made.
pub(crate) fn without_room(rooms: &mut Rooms, name: &RoomName) -> Refusal {
    let otherwise = || Refusal::new(ErrorCode::Overloaded, "the room could not be made: try again");
    rooms.room_or_new(name).err().unwrap_or_else(otherwise)
}
